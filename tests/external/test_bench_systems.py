"""The systems of the benchmark as they really are: started, asked, measured and gone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import psutil
import pytest

from tests.external import programs
from vllama.bench.plan import Cell
from vllama.bench.systems import HttpSystem, Setup, Unavailable, make
from vllama.bench.systems.ollama_child import with_port

pytestmark = [pytest.mark.external, pytest.mark.model]

PROMPTS = ["The old bridge over the river", "Birds sing in the"]


@pytest.fixture
def setup(gguf: Path, tmp_path: Path) -> Setup:
    """Two parallel requests on one thread."""
    sha256 = hashlib.sha256(gguf.read_bytes()).hexdigest()
    return Setup(programs.ROOT, tmp_path, tmp_path, gguf, sha256, 512, 2, 1, 120.0)


def found(key: str, setup: Setup) -> HttpSystem:
    system = make(key, setup)
    assert isinstance(system, HttpSystem)
    try:
        system.find()
    except Unavailable as reason:
        pytest.skip(str(reason))
    return system


async def texts(system: HttpSystem) -> list[str]:
    """The greedy answers of twelve tokens, checked for being whole."""
    samples = (await system.drive(PROMPTS, 12, 1, stream=True))(0, 0)
    assert [(sample.n_out, sample.error) for sample in samples] == [(12, ""), (12, "")]
    assert all(0 < sample.n_prompt < 12 for sample in samples)
    return [sample.text for sample in samples]


def gone(pids: list[int]) -> bool:
    return bool(pids) and not any(psutil.pid_exists(pid) for pid in pids)


async def test_ollama_and_its_child_without_it(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_BIN", programs.need("ollama"))
    whole, child = found("ollama-parallel", setup), found("ollama-child", setup)
    pids = []
    try:
        await whole.start()
        await child.start()
        (argv,) = whole.described.children
        assert len(whole.pids()) == 2
        assert len(child.pids()) == 1
        pids = [*whole.pids(), *child.pids()]
        # It may be stored rearranged, but these are the weights of the file: otherwise this would be another digest.
        assert whole.described.model_sha256 == child.described.model_sha256 == setup.sha256
        # The store is another folder, so the model's path differs up to the name of its blob.
        ours, theirs = (with_port(words, 0) for words in (child.described.argv, argv))
        place = ours.index("--model") + 1
        assert Path(ours[place]).name == Path(theirs[place]).name
        ours[place] = theirs[place] = ""
        assert ours == theirs
        assert await texts(whole) == await texts(child)
        assert whole.pss() > child.pss() > setup.gguf.stat().st_size / 4
        assert whole.cpu_seconds() > 0
    finally:
        await child.stop()
        await whole.stop()
    assert gone(pids)


async def test_ollama_by_its_other_api_gets_the_same_prompt(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_BIN", programs.need("ollama"))
    native, other = found("ollama-parallel", setup), found("ollama-openai", setup)
    try:
        await native.start()
        await other.start()
        assert await texts(native) == await texts(other)
        assert native.described.children[0][3:] != []
    finally:
        await other.stop()
        await native.stop()


async def test_llama_cpp_server_cuts_streams_unless_told_not_to(setup: Setup) -> None:
    shipped, told = found("llama-cpp-server", setup), found("llama-cpp-server-uninterrupted", setup)
    pids = []
    for system in (shipped, told):
        try:
            await system.start()
            await system.probe_limits()
            await texts(system)
            pids += system.pids()
        finally:
            await system.stop()
    assert "interrupt_requests" in str(shipped.impossible(Cell("s", 2, 2, 16, True)))
    assert shipped.impossible(Cell("s", 1, 2, 16, True)) is None
    assert told.impossible(Cell("s", 8, 8, 16, True)) is None
    assert gone(pids)
