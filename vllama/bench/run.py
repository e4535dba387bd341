"""A run: find the systems, and hand them to the runner; one run at a time on a machine."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import getpass
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import filelock

from vllama.bench import probe, server_logs
from vllama.bench.observer import Nobody, Observer
from vllama.bench.plan import ModelFile, Plan
from vllama.bench.results import Run, Writer, read_run
from vllama.bench.runner import Runner
from vllama.bench.systems import Setup, System, Unavailable, make
from vllama.errors import ConfigError

Say = Callable[[str], None]


def model_path(model: ModelFile) -> Path | None:
    """The GGUF that a plan names, None if it names none. Raises `ConfigError` that says how to get it."""
    if model.path:
        path = Path(model.path).expanduser().absolute()
    elif model.package:
        spec = importlib.util.find_spec(model.package)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(
                f"the plan's model is in the package {model.package!r}, which is not installed: "
                "install the extra `demo`, or name a file with --model"
            )
        path = Path(spec.submodule_search_locations[0]) / model.file
    else:
        return None
    if not path.is_file():
        raise ConfigError(f"no model file {path}")
    return path


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def run(
    plan: Plan,
    root: Path,
    results: Path,
    say: Say,
    *,
    observer: Observer | None = None,
    resume: Path | None = None,
    budget: float = 0.0,
) -> Path:
    """Measure a plan; returns the folder with the raw records.

    `resume` is the folder of an interrupted run of the same plan, which is finished there. After `budget` seconds (0 =
    none) it stops at the end of a block; that can be resumed too. Raises `ConfigError` when nothing can be compared,
    when another run is under way on this machine, or when the records cannot be written. What was measured is kept.
    """
    with alone():
        return await _measure(plan, root, results, say, observer or Nobody(), resume, budget)


LOCK = Path(tempfile.gettempdir()) / f"vllama-bench-{getpass.getuser()}.lock"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Two runs at a time would measure each other. The file says who runs."""
    lock = filelock.FileLock(LOCK, timeout=0)
    owner = LOCK.with_suffix(".owner")
    try:
        with lock:
            owner.write_text(f"process {os.getpid()}")
            try:
                yield
            finally:
                owner.unlink(missing_ok=True)
    except filelock.Timeout:
        who = owner.read_text() if owner.exists() else "somebody"
        raise ConfigError(
            f"another benchmark runs on this machine ({who}); two at once would measure each other"
        ) from None


async def _measure(
    plan: Plan, root: Path, results: Path, say: Say, observer: Observer, resume: Path | None, budget: float
) -> Path:
    earlier = read_run(resume) if resume is not None else None
    if earlier is not None and earlier.plan["id"] != plan.id:
        raise ConfigError(f"{earlier.name} is a run of plan {earlier.plan['id']}, not of {plan.id}")
    gguf = model_path(plan.model)
    sha256 = await asyncio.to_thread(file_sha256, gguf) if gguf is not None else ""
    if gguf is not None and plan.model.sha256 and plan.model.sha256 != sha256:
        raise ConfigError(f"{gguf.name} has sha256 {sha256}, the plan wants {plan.model.sha256}")
    folder = resume or new_folder(results, plan)
    with _scratch() as scratch:
        setup = make_setup(plan, root, scratch, folder / "server", gguf, sha256)
        systems, missing = find(plan, setup)
        for key, reason in missing.items():
            say(f"{key}: not measured, {reason}")
            observer.said(f"{key}: not measured, {reason}")
        if plan.control not in systems or len([s for s in systems.values() if not s.ceiling]) < 2:
            raise ConfigError(f"nothing to compare: {'; '.join(f'{k}: {v}' for k, v in missing.items())}")
        if earlier is not None:
            _check_same(earlier, systems, sha256)
        writer = Writer(folder, again=earlier is not None)
        try:
            if earlier is None:
                writer.write("plan.json", {"id": plan.id, **dataclasses.asdict(plan)})
            return await Runner(plan, setup, systems, missing, writer, say, observer, earlier, budget).run()
        finally:
            writer.close()
            if left := server_logs.seal(setup.logs, root):
                observer.said(f"not compressed, with this machine's paths in them: {', '.join(map(str, left))}")


def make_setup(plan: Plan, root: Path, scratch: Path, logs: Path, gguf: Path | None, sha256: str) -> Setup:
    """What all systems of a plan share. Without a model file, `gguf` is a path where nothing is."""
    threads = plan.threads or probe.physical_threads()
    return Setup(
        root, scratch, logs, gguf or scratch / "no-model", sha256, plan.ctx, plan.parallel, threads, plan.timeout
    )


def new_folder(results: Path, plan: Plan) -> Path:
    """Named by the minute and the plan; a second run in the same minute gets a number."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
    folder = results / f"{stamp}-{plan.id}"
    number = 2
    while folder.exists():
        folder = results / f"{stamp}-{plan.id}-{number}"
        number += 1
    return folder


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="vllama-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find(plan: Plan, setup: Setup) -> tuple[dict[str, System], dict[str, str]]:
    """The plan's systems that are here, and why the others are not."""
    systems: dict[str, System] = {}
    missing: dict[str, str] = {}
    for key in plan.systems:
        system = make(key, setup)
        try:
            system.find()
        except Unavailable as reason:
            missing[key] = str(reason)
        else:
            systems[key] = system
    return systems, missing


def _check_same(earlier: Run, systems: dict[str, System], sha256: str) -> None:
    """A run goes on only with what it began with."""
    if (was := earlier.environment["model"]["sha256"]) != sha256:
        raise ConfigError(f"{earlier.name} was measured with another model file ({was[:12]})")
    for key in earlier.systems:
        before = earlier.environment["systems"].get(key, {}).get("version", "")
        if key not in systems:
            raise ConfigError(f"{earlier.name} measured {key}, which is not here any more")
        if (now := systems[key].described.version) != before:
            raise ConfigError(f"{earlier.name} measured {key} {before}; here is {now}: start a new run")
