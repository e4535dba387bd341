"""The systems: found or explained, started as they should be, measured with all their processes, gone afterwards."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from vllama.bench.dialects import read_reply
from vllama.bench.plan import Cell
from vllama.bench.systems import CAPABILITIES, SYSTEMS, HttpSystem, Setup, SystemFailed, Unavailable, make
from vllama.bench.systems import http as http_module
from vllama.bench.systems.base import free_port
from vllama.bench.systems.ollama_child import with_port
from vllama.bench.systems.vllama_served import VllamaVllm

VARIABLES = (
    *("OLLAMA_BIN", "LLAMA_SERVER_BIN", "VLLAMA_BENCH_LLAMA_CPP_PYTHON", "VLLAMA_VLLM_PYTHON", "VLLAMA_BENCH_MAX"),
    *("VLLAMA_BENCH_HF_MODEL", "VLLAMA_BENCH_URL", "VLLAMA_BENCH_MODEL", "VLLAMA_BENCH_API_KEY"),
    "VLLAMA_BENCH_BASE_PYTHON",
)
FOUR, TEN = "one two three four", "a b c d e f g h i j"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the machine's own programs and settings."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    """Two parallel requests of 256 tokens on one thread."""
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF pretended")
    for name in ("scratch", "logs"):
        (tmp_path / name).mkdir()
    return Setup(tmp_path, tmp_path / "scratch", tmp_path / "logs", gguf, "ab" * 32, 256, 2, 1, 20.0)


@pytest.fixture
def fake(tmp_path: Path) -> str:
    """The program that plays all others."""
    program = tmp_path / "fake"
    source = (Path(__file__).parent / "fake_engine.py").read_text().replace("/usr/bin/env python3", sys.executable)
    program.write_text(source)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


@pytest.fixture
def hf_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face directory, as far as the harness looks at it."""
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}')
    (folder / "model.safetensors").write_bytes(b"x" * 1234)
    monkeypatch.setenv("VLLAMA_BENCH_HF_MODEL", str(folder))
    return folder


def http_system(key: str, setup: Setup) -> HttpSystem:
    system = make(key, setup)
    assert isinstance(system, HttpSystem)
    system.find()
    return system


def cell(concurrency: int, *, stream: bool = True) -> Cell:
    return Cell("s", concurrency, concurrency, 16, stream)


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true at all; slow machines get their time."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def alive(pids: list[int]) -> list[int]:
    """Those that run; a process that only waits to be collected does not."""
    found = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def test_every_system_says_what_it_is(setup: Setup) -> None:
    systems = [make(key, setup) for key in SYSTEMS]
    assert len({system.title for system in systems}) == len(systems)
    for system in systems:
        assert system.capabilities <= CAPABILITIES
        assert system.lane in ("matched", "defaults")
        assert system.pid == 0
        assert system.pids() == []
        assert (system.cpu_seconds(), system.pss(), system.peak_pss) == (0.0, 0, 0)
    assert [system.key for system in systems if system.ceiling] == ["in-process"]


@pytest.mark.parametrize(
    ("key", "help_"),
    [
        ("ollama", "install it from"),
        ("ollama-openai", "OLLAMA_BIN"),
        ("ollama-child", "OLLAMA_BIN"),
        ("llama-server", "nox -s build_llama_server"),
        ("vllm", "pip install vllm"),
        ("max", "pip install modular"),
        ("vllama-vllm", "set VLLAMA_VLLM_PYTHON"),
        ("vllama-max", "set VLLAMA_MAX"),
        ("openai-url", "VLLAMA_BENCH_URL"),
    ],
)
def test_what_is_not_there_is_explained(key: str, help_: str, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for name in ("VLLAMA_VLLM_PYTHON", "VLLAMA_MAX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Unavailable, match=help_):
        make(key, setup).find()


@pytest.mark.parametrize(
    ("key", "variable"),
    [
        ("ollama", "OLLAMA_BIN"),
        ("llama-server", "LLAMA_SERVER_BIN"),
        ("llama-cpp-server", "VLLAMA_BENCH_LLAMA_CPP_PYTHON"),
    ],
)
def test_a_variable_that_names_no_program_is_named(
    key: str, variable: str, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "/no/such/program")
    with pytest.raises(Unavailable, match=f"{variable}=/no/such/program"):
        make(key, setup).find()


def test_llama_cpp_server_names_the_packages_that_it_lacks(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sse_starlette" else find(name))
    with pytest.raises(Unavailable, match=r"needs sse_starlette: pip install 'vllama\[bench\]'"):
        make("llama-cpp-server", setup).find()


def test_an_interpreter_without_llama_cpp_says_so_in_its_own_words(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'llama_cpp'\" >&2\nexit 1\n")
    other.chmod(0o755)
    monkeypatch.setenv("VLLAMA_BENCH_LLAMA_CPP_PYTHON", str(other))
    with pytest.raises(Unavailable, match="No module named 'llama_cpp'; there: pip install"):
        make("llama-cpp-server", setup).find()


async def test_llama_cpp_server_cuts_streams_as_shipped_and_the_cell_says_so(
    setup: Setup, fake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLAMA_BENCH_LLAMA_CPP_PYTHON", fake)
    monkeypatch.setenv("MODEL", "a setting that the server would take")
    system = http_system("llama-cpp-server", setup)
    assert system.described.version == "llama-cpp-python 9.9.9"
    assert "MODEL" not in system.environ()
    try:
        await system.start()
        assert system.impossible(cell(2)) is None
        await system.probe_limits()
        samples = (await system.drive([FOUR, TEN], 6, 1, stream=True))(0, 0)
        whole = (await system.drive([FOUR], 6, 1, stream=False))(0, 0)
    finally:
        await system.stop()
    reason = system.impossible(cell(2))
    assert reason is not None
    assert "cuts a running stream" in reason
    assert "interrupt_requests is true as shipped" in reason
    assert reason in system.described.notes
    assert system.impossible(cell(1)) is None
    assert system.impossible(cell(8, stream=False)) is None
    # The streams of this server carry no counts.
    assert [(s.n_prompt, s.n_out, s.source, s.error) for s in samples] == [(4, 6, "limit", ""), (10, 6, "limit", "")]
    assert [(s.n_prompt, s.n_out, s.source) for s in whole] == [(4, 6, "server")]


async def test_llama_cpp_server_with_the_setting_is_a_second_row_that_can(
    setup: Setup, fake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLAMA_BENCH_LLAMA_CPP_PYTHON", fake)
    system = http_system("llama-cpp-server-uninterrupted", setup)
    try:
        await system.start()
        await system.probe_limits()
        samples = (await system.drive([FOUR] * 4, 16, 2, stream=True))(0, 0)
    finally:
        await system.stop()
    assert system.impossible(cell(8)) is None
    assert all(sample.ok and sample.n_out == 16 for sample in samples)
    argv = system.described.argv
    assert argv[argv.index("--interrupt_requests") + 1] == "false"
    assert argv[argv.index("--n_ctx") + 1] == "256"


async def test_the_child_of_ollama_is_started_with_its_own_argv(
    setup: Setup, fake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_BIN", fake)
    parent, child = http_system("ollama-parallel", setup), http_system("ollama-child", setup)
    try:
        await parent.start()
        await child.start()
        samples = (await child.drive([FOUR], 5, 1, stream=True))(0, 0)
        (of_parent,) = parent.described.children
        assert len(parent.pids()) == 2
        assert len(child.pids()) == 1
    finally:
        await child.stop()
        await parent.stop()
    # The interpreter behind the fake stands first on both: what the kernel ran is what is compared.
    argv = child.described.argv
    of_parent = of_parent[of_parent.index(fake) :]
    argv = argv[argv.index(fake) :]
    assert with_port(argv, 1)[3:] == with_port(of_parent, 1)[3:]
    assert argv[-2:] == ["-np", "2"]
    assert child.described.env == {"LD_LIBRARY_PATH": "/opt/fake/lib"}
    assert [(sample.n_prompt, sample.n_out) for sample in samples] == [(4, 5)]


@pytest.mark.parametrize("key", ["llama-server-embeddings", "ollama"])
async def test_a_model_for_embeddings_is_ready_when_it_gives_one(
    key: str, setup: Setup, fake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LLAMA_SERVER_BIN": fake, "OLLAMA_BIN": fake, "FAKE_EMBEDS": "1"}.items():
        monkeypatch.setenv(name, value)
    system = http_system(key, setup)
    try:
        await system.start()
        reply = read_reply(await system.fetch(*system.embedding([FOUR, TEN])))
    finally:
        await system.stop()
    assert (reply.vectors, reply.dimensions, reply.n_prompt, reply.error) == (2, 3, 7, "")


async def test_a_server_that_neither_completes_nor_embeds_is_not_ready(
    setup: Setup, fake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_SERVER_BIN", fake)
    monkeypatch.setenv("FAKE_EMBEDS", "1")
    system = http_system("llama-server", dataclasses.replace(setup, timeout=1.0))
    with pytest.raises(
        SystemFailed, match=r"did not give the golden answer in 1 s: HTTP 400.*does not support generate"
    ):
        await system.start()
    await system.stop()


@pytest.mark.parametrize(
    ("key", "variable", "flags"),
    [
        ("vllm", "VLLAMA_VLLM_PYTHON", ["--max-model-len 256", "--max-num-seqs 2", "--generation-config vllm"]),
        ("max", "VLLAMA_BENCH_MAX", ["--max-length 256", "--max-batch-size 2"]),
    ],
)
async def test_engines_of_hugging_face_directories(
    key: str,
    variable: str,
    flags: list[str],
    setup: Setup,
    fake: str,
    hf_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, fake)
    system = http_system(key, setup)
    assert system.described.version == "9.9.9"
    # Not the GGUF: the report must not take it for the same file.
    assert system.described.model_sha256 == ""
    assert system.described.notes == ["another artefact: hf, LlamaForCausalLM, bfloat16, 1,234 bytes of weights"]
    try:
        await system.start()
        samples = (await system.drive([FOUR, TEN], 6, 2, stream=True))(0, 0)
    finally:
        await system.stop()
    assert system.model == "fake-model"
    assert [(sample.n_prompt, sample.n_out, sample.error) for sample in samples] == [(4, 6, ""), (10, 6, "")]
    for flag in (f"{hf_model}", *flags):
        assert flag in " ".join(system.described.argv)


@pytest.mark.parametrize("key", ["vllm", "max"])
def test_without_a_hugging_face_directory_the_variable_is_named(
    key: str, setup: Setup, fake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLAMA_VLLM_PYTHON", fake)
    monkeypatch.setenv("VLLAMA_BENCH_MAX", fake)
    with pytest.raises(Unavailable, match="set VLLAMA_BENCH_HF_MODEL"):
        make(key, setup).find()
    monkeypatch.setenv("VLLAMA_BENCH_HF_MODEL", "/no/such/folder")
    with pytest.raises(Unavailable, match="is no Hugging Face directory"):
        make(key, setup).find()


@pytest.fixture
def foreign(fake: str) -> Iterator[tuple[int, int]]:
    """(port, process id) of a server that somebody else started; it wants a path and a key."""
    port = free_port()
    env = {**os.environ, "FAKE_PREFIX": "/deep", "FAKE_KEY": "secret"}
    process = subprocess.Popen([fake, "--port", str(port)], env=env, stdout=subprocess.DEVNULL)
    yield port, process.pid
    process.kill()
    process.wait()


async def test_a_foreign_server_is_reached_through_a_relay_and_left_running(
    setup: Setup, foreign: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, pid = foreign
    monkeypatch.setenv("VLLAMA_BENCH_URL", f"http://user:word@127.0.0.1:{port}/deep/v1")
    monkeypatch.setenv("VLLAMA_BENCH_API_KEY", "secret")
    system = http_system("openai-url", setup)
    try:
        for _ in range(500):
            try:
                await system.start()
                break
            except SystemFailed:
                await system.stop()
                await asyncio.sleep(0.02)
        samples = (await system.drive([FOUR, TEN, FOUR], 6, 2, stream=True))(0, 0)
        assert (system.pid, system.pids()) == (pid, [pid])
        assert system.pss() > 2**20
        assert system.cpu_seconds() > 0
    finally:
        await system.stop()
    assert system.port != port
    assert [(sample.n_prompt, sample.n_out, sample.error) for sample in samples] == [
        (4, 6, ""),
        (10, 6, ""),
        (4, 6, ""),
    ]
    assert alive([pid]) == [pid]
    recorded = repr(system.described)
    assert "relay" in recorded
    assert "secret" not in recorded
    assert "word" not in recorded


async def test_a_local_url_needs_no_relay(setup: Setup, fake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAMA_VLLM_PYTHON", fake)
    monkeypatch.setenv("LLAMA_SERVER_BIN", fake)
    other = http_system("llama-server", setup)
    try:
        await other.start()
        monkeypatch.setenv("VLLAMA_BENCH_URL", f"http://localhost:{other.port}/v1")
        monkeypatch.setenv("VLLAMA_BENCH_MODEL", "other")
        system = http_system("openai-url", setup)
        await system.start()
        await system.stop()
        assert system.port == other.port
        assert system.model == "other"
        assert other.pids()
    finally:
        await other.stop()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "127.0.0.1:8000", "http://"])
def test_what_is_no_url_is_refused(url: str, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAMA_BENCH_URL", url)
    with pytest.raises(Unavailable, match="is no http or https URL"):
        make("openai-url", setup).find()


@pytest.mark.parametrize("stubborn", [False, True])
async def test_stop_leaves_no_process(
    stubborn: bool, setup: Setup, fake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids_file = tmp_path / "pids"
    monkeypatch.setattr(http_module, "GRACE_S", 0.3 if stubborn else 10.0)
    monkeypatch.setenv("LLAMA_SERVER_BIN", fake)
    monkeypatch.setenv("FAKE_FAMILY", "1")
    monkeypatch.setenv("FAKE_PIDS", str(pids_file))
    if stubborn:
        monkeypatch.setenv("FAKE_STUBBORN", "1")
    system = http_system("llama-server", setup)
    await system.start()
    assert eventually(lambda: len(pids_file.read_text().split()) == 3)
    pids = [int(line) for line in pids_file.read_text().split()]
    seen = system.pids()
    assert seen[0] == system.pid
    # The grandchild has no parent and another session; where orphans are adopted it is seen all the same.
    assert sys.platform != "linux" or set(pids) <= set(seen)
    keeper = psutil.Process(system.pid).ppid()
    assert keeper not in seen
    await system.stop()
    assert alive([*pids, keeper]) == []
    assert system.pids() == []
    await system.stop()


HARNESS = """
import asyncio, sys
from pathlib import Path
from vllama.bench.systems import Setup, make

async def main() -> None:
    folder = Path(sys.argv[1])
    setup = Setup(folder, folder, folder, folder / "model.gguf", "", 256, 2, 1, 20.0)
    system = make("llama-server", setup)
    system.find()
    await system.start()
    print("ready", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_harness_leaves_no_process(
    number: signal.Signals, fake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids_file = tmp_path / "pids"
    for name, value in {
        "LLAMA_SERVER_BIN": fake,
        "FAKE_FAMILY": "1",
        "FAKE_STUBBORN": "1",
        "FAKE_PIDS": str(pids_file),
    }.items():
        monkeypatch.setenv(name, value)
    with subprocess.Popen([sys.executable, "-c", HARNESS, str(tmp_path)], stdout=subprocess.PIPE) as harness:
        assert harness.stdout is not None
        assert harness.stdout.readline() == b"ready\n"
        assert eventually(lambda: len(pids_file.read_text().split()) == 3)
        pids = [int(line) for line in pids_file.read_text().split()]
        assert sorted(alive(pids)) == sorted(pids)
        harness.send_signal(number)
    assert eventually(lambda: alive(pids) == [])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
async def test_a_killed_watcher_takes_the_server_with_it_and_the_rest_is_ended_by_stop(
    setup: Setup, fake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_SERVER_BIN", fake)
    system = http_system("llama-server", setup)
    await system.start()
    server = system.pid
    os.kill(psutil.Process(server).ppid(), signal.SIGKILL)
    assert eventually(lambda: alive([server]) == [])
    await system.stop()
    assert system.pids() == []


async def test_a_server_that_ends_at_once_is_quoted(setup: Setup, fake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_SERVER_BIN", fake)
    system = http_system("llama-server", setup)
    monkeypatch.setenv("FAKE_DIES", "1")
    with pytest.raises(SystemFailed, match=r"ended with 3\n(.*\n)*no such device"):
        await system.start()
    await system.stop()


async def test_a_program_that_cannot_run_is_named(setup: Setup, fake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_SERVER_BIN", fake)
    system = http_system("llama-server", setup)
    await asyncio.to_thread(Path(fake).unlink)
    with pytest.raises(SystemFailed, match=r"cannot be started: .*fake: No such file"):
        await system.start()
    await system.stop()


async def test_a_taken_port_is_noticed(setup: Setup, fake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else listens on the port that was free a moment ago: the server ends, or another process answers."""
    monkeypatch.setenv("LLAMA_SERVER_BIN", fake)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        monkeypatch.setattr(http_module, "free_port", lambda: server.sockets[0].getsockname()[1])
        system = http_system("llama-server", setup)
        with pytest.raises(SystemFailed, match=r"belongs to another process|ended with"):
            await system.start()
        await system.stop()


async def test_a_crash_in_the_middle_is_seen(setup: Setup, fake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_SERVER_BIN", fake)
    system = http_system("llama-server", setup)
    await system.start()
    os.kill(system.pid, signal.SIGKILL)
    assert await asyncio.to_thread(eventually, lambda: system.pids() == [])
    samples = (await system.drive([FOUR], 6, 1, stream=True))(0, 0)
    assert [bool(sample.error) for sample in samples] == [True]
    await system.stop()


async def test_the_golden_server_is_a_system(setup: Setup) -> None:
    system = http_system("golden", setup)
    await system.start()
    try:
        boot = system.boot
        assert 0 < boot.spawned < boot.accepts <= boot.prepared < boot.answered
        samples = (await system.drive([FOUR, TEN], 6, 2, stream=True))(0, 0)
    finally:
        await system.stop()
    assert [(sample.n_prompt, sample.n_out, sample.error) for sample in samples] == [(4, 6, ""), (10, 6, "")]
    assert system.described.model_sha256 == ""


async def test_the_gateway_on_its_scripted_engine_is_a_system(setup: Setup) -> None:
    system = http_system("scripted", setup)
    await system.start()
    try:
        samples = (await system.drive([FOUR, TEN], 6, 2, stream=True))(0, 0)
    finally:
        await system.stop()
    assert [(sample.n_out, sample.error) for sample in samples] == [(6, ""), (6, "")]


async def test_vllama_on_another_makers_server_is_asked_by_the_name_that_it_gave_the_directory(
    setup: Setup, hf_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scripted engine takes the place of vLLM: it serves a directory too, and needs nothing installed."""
    monkeypatch.setattr(VllamaVllm, "engine", "scripted")
    header = json.dumps({"t": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (hf_model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"abcd")
    system = http_system("vllama-vllm", setup)
    assert "scripted" in system.described.version
    try:
        await system.start()
        samples = (await system.drive([FOUR, TEN], 6, 2, stream=True))(0, 0)
    finally:
        await system.stop()
    assert system.model == f"{hf_model.name}:latest"
    assert [(sample.n_out, sample.error) for sample in samples] == [(6, ""), (6, "")]
    assert system.described.model_sha256 == ""


def test_defaults_are_really_defaults(setup: Setup, fake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_BIN", fake)
    for key in ("vllama-defaults", "ollama"):
        system = http_system(key, setup)
        _, env = system.command()
        assert system.lane == "defaults"
        assert system.options() == {}
        assert sorted(env) == ["HOME", "OLLAMA_HOST", "OLLAMA_KEEP_ALIVE", "OLLAMA_MODELS"]
    for key in ("vllama", "ollama-parallel"):
        system = http_system(key, setup)
        _, env = system.command()
        assert system.lane == "matched"
        assert env["OLLAMA_NUM_PARALLEL"] == "2"
        assert system.options() == {"num_ctx": 256, "num_thread": 1}
