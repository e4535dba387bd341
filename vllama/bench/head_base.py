"""Head against a base commit in one run: `nox -s bench_gate -- --base REF`.

The base is checked out into a work tree of its own and installed, editable like the head, into an environment of its
own with its own constraints. Both are then systems of one interleaved run beside raw llama.cpp, which runs twice.
What will be judged, and what it can detect, is written down before the first request.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from vllama.bench import claims, estimate, gate
from vllama.bench.exits import EXIT_INVALID, EXIT_OK, EXIT_USAGE
from vllama.bench.plan import read_plan
from vllama.bench.plant import planted_commit
from vllama.bench.policy import Policy, read_policy
from vllama.bench.results import Run, read_run
from vllama.bench.systems.base_commit import PLANTED_PYTHON, PYTHON, VllamaPlanted
from vllama.errors import ConfigError, VllamaError

Say = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument("--base", required=True, metavar="REF", help="the commit to compare with")
    parser.add_argument("--profile", default="gate")
    parser.add_argument("--policy", type=Path, help="default: scenarios/gate.toml")
    parser.add_argument("--seed", type=int, help="default: the profile's")
    parser.add_argument("--out", type=Path, help="default: .cache/bench/gate")
    parser.add_argument("--plant", type=Path, metavar="FILE", help="judge this commit with that text planted in it")
    parser.add_argument("--dry-run", action="store_true", help="say what would be run and what it could detect")
    parser.add_argument("--no-extension", action="store_true", help="stop after the first look")
    parser.add_argument("--strict", action="store_true", help="inconclusive is a failure (5)")
    parser.add_argument("--keep", action="store_true", help="keep the base's work tree and environment")


def main(args: argparse.Namespace, root: Path, say: Say) -> int:
    """Install the base, run, judge, extend once where that is open; the exit status is the verdict (`exits`)."""
    policy = read_policy(args.policy or root / "scenarios" / "gate.toml")
    base = _git(root, "rev-parse", "--verify", "--quiet", f"{args.base}^{{commit}}", why=f"no commit {args.base!r}")
    head = _git(root, "rev-parse", "HEAD", why="not a git clone")
    if args.plant:
        head = planted_commit(root, head, args.plant)
        policy = replace(policy, system=VllamaPlanted.key)
        say(f"judging {head[:12]}: HEAD with {args.plant.name} planted in it")
    elif _git(root, "status", "--porcelain", "-uno", "--", "vllama", why="not a git clone"):
        head += "+changes"
    seed = read_plan(root / "scenarios", args.profile, {"seed": args.seed}).seed
    out = (args.out or root / ".cache" / "bench" / "gate").absolute()
    if args.dry_run:
        _say_plan(root, out, policy, args.profile, seed, say)
        return EXIT_OK
    _register(root, out, policy, (head, base), args.profile, seed, say)
    with contextlib.ExitStack() as stack:
        pythons = {PYTHON: stack.enter_context(installed(root, base, keep=args.keep, say=say))}
        if args.plant:
            pythons[PLANTED_PYTHON] = stack.enter_context(installed(root, head, keep=args.keep, say=say))
        runs = [_measure(root, out, args.profile, policy, policy.pairs, seed, pythons)]
        word = gate.overall(gate.judge_runs(runs, policy))
        if word in ("INCONCLUSIVE", "BLIND") and not gate.invalid(runs[0], policy) and not args.no_extension:
            say(f"first look: {word}; running the registered extension of {policy.extend} pairs")
            runs.append(_measure(root, out, args.profile, policy, policy.extend, seed + 1, pythons))
    lines: list[str] = []

    def both(text: str) -> None:
        lines.append(text)
        say(text)

    status = gate.judge_and_say(runs, policy, both, strict=args.strict)
    _say_goals(root, runs[0], both)
    (out / "verdict.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    # nox turns every failure into 1; whoever needs to know which one it was reads this.
    (out / "status").write_text(f"{status}\n", encoding="utf-8")
    return status


def _say_goals(root: Path, run: Run, say: Say) -> None:
    """Where the head stands beside raw llama.cpp in the same run: goals, which decide nothing here."""
    for claim in claims.read_claims(root / "scenarios" / "claims.toml"):
        if claim.by == "goal" and (verdict := claims.judge(claim, run)).estimate is not None:
            say(f"goal {claim.id}: {verdict.word}; {claims.found_text(verdict)}")


@contextlib.contextmanager
def installed(root: Path, commit: str, *, keep: bool, say: Say) -> Iterator[Path]:
    """The interpreter of an environment in which that commit is installed; removed afterwards unless `keep`.

    pip's cache of built wheels makes this seconds, not minutes, where llama-cpp-python was compiled before.
    """
    home = root / ".cache" / "bench" / "base" / commit[:12]
    tree, environment = home / "tree", home / "venv"
    python = environment / "bin" / "python"
    ready = home / "installed"
    if not ready.exists():
        _remove(root, home)
        say(f"installing {commit[:12]} (llama-cpp-python is compiled in silence if pip has no wheel of it)")
        home.mkdir(parents=True)
        _git(root, "worktree", "add", "--detach", str(tree), commit, why="no work tree for the base")
        _install([sys.executable, "-m", "venv", str(environment)])
        pins = ["-c", str(tree / "constraints.txt")] if (tree / "constraints.txt").is_file() else []
        _install([str(python), "-m", "pip", "install", "--quiet", *pins, "-e", str(tree)])
        ready.touch()
    try:
        yield python
    finally:
        if not keep:
            _remove(root, home)


def _remove(root: Path, home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    # git still lists a work tree whose folder is gone.
    _git(root, "worktree", "prune", why="cannot tidy the list of work trees")


def _install(command: Sequence[str]) -> None:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean)
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).splitlines()[-15:])
        raise ConfigError(f"{' '.join(command[:4])} ... ended with {done.returncode}\n{last}")


def _register(
    root: Path, out: Path, policy: Policy, commits: tuple[str, str], profile: str, seed: int, say: Say
) -> None:
    """Say and write down what will be run and judged, and what that can detect, before anything is measured."""
    lines: list[str] = []

    def both(text: str) -> None:
        lines.append(text)
        say(text)

    gate.say_expected(policy, _earlier(root, out, policy), both)
    out.mkdir(parents=True, exist_ok=True)
    for old in ("verdict.md", "status"):
        (out / old).unlink(missing_ok=True)
    document = {
        "registered": datetime.now(UTC).isoformat(timespec="seconds"),
        "head": commits[0],
        "base": commits[1],
        "profile": profile,
        "seeds": [seed, seed + 1],
        "pairs": [policy.pairs, policy.extend],
        "policy": {"id": policy.id, **asdict(policy)},
        "detectable": lines,
    }
    (out / "registration.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _earlier(root: Path, out: Path, policy: Policy) -> Run | None:
    """The newest run of this machine that says how far the control differs from itself."""
    return gate.newest_with_twin(out / "results", policy) or gate.newest_with_twin(root / "results", policy)


def _say_plan(root: Path, out: Path, policy: Policy, profile: str, seed: int, say: Say) -> None:
    """What would be run, for how long, and what it could detect; installs and starts nothing."""
    gate.say_expected(policy, _earlier(root, out, policy), say)
    plan = read_plan(root / "scenarios", profile, {"pairs": policy.pairs, "seed": seed})
    cells = {cell.id: [policy.system, policy.against, policy.control, policy.twin] for cell in plan.cells}
    folders = [f for where in (root / "results", out / "results") for f in where.glob("*")]
    long = estimate.duration(plan, cells, folders)
    say(
        f"about {long.seconds / 60:.0f} minutes for the first look, as many again if it stays open; besides "
        "installing the base, and once for this model screening the prompts"
    )


def _measure(
    root: Path, out: Path, profile: str, policy: Policy, pairs: int, seed: int, pythons: Mapping[str, Path]
) -> Run:
    """One run in a process of its own, as a user would start it; returns its records."""
    results = out / "results"
    before = set(results.glob("*")) if results.is_dir() else set()
    command = [sys.executable, "-m", "vllama.bench", "--root", str(root), "run", "--profile", profile]
    command += ["--pairs", str(pairs), "--seed", str(seed), "--out", str(out)]
    command += ["--systems", f"{policy.system},{policy.against},{policy.control},{policy.twin}"]
    environ = {**os.environ, **{name: str(python) for name, python in pythons.items()}}
    status = subprocess.run(command, env=environ, check=False).returncode
    new = sorted(folder for folder in results.glob("*") if folder not in before) if results.is_dir() else []
    # An invalid comparison is measured; the gate names the checks that concern it.
    if status not in (EXIT_OK, EXIT_INVALID) or len(new) != 1:
        raise ConfigError(f"the run ended with {status}; what it measured is in {results}")
    return read_run(new[0])


def _git(root: Path, *words: str, why: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigError(f"{why}: {error}") from error
    if done.returncode:
        raise ConfigError(f"{why}: {done.stderr.strip() or 'git ' + words[0]}")
    return done.stdout.strip()


def _main() -> int:
    parser = argparse.ArgumentParser(prog="vllama.bench.head_base", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path.cwd())
    add_arguments(parser)
    args = parser.parse_args()
    try:
        return main(args, args.root.absolute(), lambda text: print(text, flush=True))
    except VllamaError as error:
        print(f"error: {error.text}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept", file=sys.stderr)
        return 130
    return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(_main())
