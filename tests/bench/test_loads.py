"""Each kind of load against a small fake of Ollama's API: what it sends, in which order, and what it makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vllama.bench import probe
from vllama.bench.loads import KNOWN_NEEDS, LOADS, Job, NotApplicable, Outcome, lacks
from vllama.bench.loads.open_loop import schedule
from vllama.bench.loads.two_models import SECOND, renamed
from vllama.bench.measure import METRICS
from vllama.bench.plan import KINDS, ModelFile, Plan, Scenario
from vllama.bench.results import Sample, Slot
from vllama.bench.systems import CAPABILITIES, HttpSystem, Setup

Answer = tuple[int, list[dict[str, Any]]]


class FakeOllama:
    """One model that loads when asked and leaves by itself; every request is kept. `answer` may replace an answer."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], Answer | None] | None = None) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.loads = 0
        self.loaded = False
        self.together = 0
        self.most = 0
        self._answer = answer
        self._tasks: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._leave: asyncio.TimerHandle | None = None

    @property
    def prompts(self) -> list[str]:
        return [body["prompt"] for path, body in self.requests if path == "/api/generate" and "prompt" in body]

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]
            if self._leave is not None:
                self._leave.cancel()
            for writer in self._writers:
                writer.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.append(task)
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                path = head.split(" ")[1]
                length = next((int(x.split(":")[1]) for x in head.splitlines() if x.startswith("Content-Length")), 0)
                body = json.loads(await reader.readexactly(length)) if length else {}
                self.requests.append((path, body))
                self.together += 1
                self.most = max(self.most, self.together)
                await asyncio.sleep(0.002)  # so that requests which come together are seen together
                status, events = (self._answer and self._answer(path, body)) or self._own(path, body)
                writer.write(f"HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
                for event in events:
                    raw = json.dumps(event).encode() + b"\n"
                    writer.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
                    await writer.drain()
                    await asyncio.sleep(0)
                self.together -= 1
                writer.write(b"0\r\n\r\n")
                await writer.drain()
        writer.close()

    def _own(self, path: str, body: dict[str, Any]) -> Answer:
        if path == "/api/ps":
            return 200, [{"models": [{"name": "m"}] if self.loaded else []}]
        if path == "/api/embed":
            return 200, [{"embeddings": [[0.1, 0.2]] * len(body["input"]), "prompt_eval_count": 7}]
        if body.get("keep_alive") == 0:
            self.loaded = False
            return 200, [{"done": True, "done_reason": "unload"}]
        self.loads += not self.loaded
        self.loaded = True
        if str(body.get("keep_alive", "")).endswith("s"):
            self._leave = asyncio.get_running_loop().call_later(0.02, self._forget)
        return 200, answer(body)

    def _forget(self) -> None:
        self.loaded = False


def answer(body: dict[str, Any], words: int | None = None) -> list[dict[str, Any]]:
    n = body["options"]["num_predict"] if words is None else words
    said = json.dumps(body.get("prompt", body.get("messages", "")))
    key = "message" if "messages" in body else "response"
    texts = [{key: {"content": f" w{i}"} if key == "message" else f" w{i}", "done": False} for i in range(n)]
    counts = {"prompt_eval_count": len(said.split()), "eval_count": n}
    return [*texts, {"done": True, "done_reason": "length", **counts}]


class FakeSystem(HttpSystem):
    key = "fake"
    title = "fake"
    api = "ollama"
    model = "m"
    capabilities = CAPABILITIES

    def find(self) -> None:
        """It is always there."""

    def command(self) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, str(Path(__file__).parent / "fake_server.py"), "--port", str(self.port)], {}


def setup(folder: Path) -> Setup:
    return Setup(folder, folder, folder, folder / "m.gguf", "", 256, 4, 1, 10.0)


def scenario(kind: str, concurrency: int, requests: int, n_out: int = 6, **keys: Any) -> Scenario:
    return Scenario("s", "t", True, (concurrency,), (requests,), n_out, "passages", kind=kind, **keys)


def job_of(one: Scenario) -> Job:
    corpus = {"passages": ("one two three four five six", "seven eight nine ten"), "warmup": ("w",)}
    plan = Plan("p", "t", (one,), ("fake",), "fake", 1, 7, 256, 4, 1, 10.0, 2, ModelFile(), corpus)
    (cell,) = plan.cells
    return Job(plan, one, cell, plan.prompts(cell, 0), "seed")


def drive(folder: Path, fake: FakeOllama, one: Scenario) -> tuple[list[Sample], Outcome, Slot]:
    """The samples of one slot, and the slot as it would be recorded."""
    job = job_of(one)

    async def run() -> Outcome:
        async with fake.serve() as port:
            system = FakeSystem(setup(folder))
            system.port = port
            return await LOADS[one.kind].drive(system, job)

    outcome = asyncio.run(run())
    samples = outcome.later(0, 0)
    slot = Slot(
        index=0, block=0, place=0, system="fake", scenario="s", concurrency=job.cell.concurrency,
        requests=job.cell.requests, n_out=one.n_out, stream=True, t_start=0, wall_ns=10**9, cpu_s=0.5, others_cpu_s=0,
        client_cpu_s=0, pss=1, lag_ns=[], control_work_ns=1, steal=0, foreign=0, load1=0, no_delay=outcome.no_delay,
        kind=one.kind, slo=one.slo.limits, extra=outcome.extra,
    )  # fmt: skip
    assert len(samples) == job.cell.requests
    assert slot.counts(samples)
    return samples, outcome, slot


def value(slot: Slot, samples: list[Sample], key: str) -> float | None:
    return METRICS[key].of(slot, samples)


def test_every_kind_has_a_schema_and_a_drive() -> None:
    assert set(LOADS) == set(KINDS)
    assert KNOWN_NEEDS <= CAPABILITIES


def test_prefill_takes_long_and_short_prompts_in_turn(tmp_path: Path) -> None:
    fake = FakeOllama()
    samples, _, _ = drive(tmp_path, fake, scenario("prefill", 1, 4, prompt_tokens=60))
    assert [s.role for s in samples] == ["long", "short"] * 2
    assert [len(prompt) > 200 for prompt in fake.prompts] == [True, False] * 2
    assert fake.most == 1


def test_a_shared_prefix_is_new_in_the_first_round_and_known_in_the_second(tmp_path: Path) -> None:
    fake = FakeOllama()
    samples, _, slot = drive(tmp_path, fake, scenario("shared-prefix", 3, 6, prompt_tokens=80))
    assert [s.role for s in samples] == ["cold"] * 3 + ["warm"] * 3
    assert all(s.reuses for s in samples)
    assert len({prompt[:300] for prompt in fake.prompts}) == 1
    assert len(set(fake.prompts)) == 6
    assert fake.most == 3
    assert value(slot, samples, "ttft_warm") is not None
    assert value(slot, samples, "ttft") is None


def test_a_conversation_resends_what_was_said(tmp_path: Path) -> None:
    fake = FakeOllama()
    samples, _, slot = drive(tmp_path, fake, scenario("conversation", 2, 6, turns=3))
    lengths = sorted(len(body["messages"]) for path, body in fake.requests if path == "/api/chat")
    assert lengths == [1, 1, 3, 3, 5, 5]
    last = next(body["messages"] for _, body in fake.requests if len(body.get("messages", ())) == 5)
    assert [m["role"] for m in last] == ["user", "assistant", "user", "assistant", "user"]
    assert last[1]["content"] == "".join(f" w{i}" for i in range(6))
    assert sorted({s.role for s in samples}) == ["turn1", "turn2", "turn3"]
    assert value(slot, samples, "ttft_turns") is not None


def test_a_conversation_stops_when_a_turn_fails(tmp_path: Path) -> None:
    fake = FakeOllama(lambda path, body: (500, [{"error": "no"}]) if len(body.get("messages", ())) == 3 else None)
    job = job_of(scenario("conversation", 1, 3, turns=3))

    async def run() -> list[Sample]:
        async with fake.serve() as port:
            system = FakeSystem(setup(tmp_path))
            system.port = port
            return (await LOADS["conversation"].drive(system, job)).later(0, 0)

    samples = asyncio.run(run())
    assert [s.failed for s in samples] == [False, True]


def test_the_joiner_is_long_and_comes_last(tmp_path: Path) -> None:
    fake = FakeOllama()
    samples, _, _ = drive(tmp_path, fake, scenario("mixed", 3, 4, prompt_tokens=100, join_after_s=0.05))
    assert [s.role for s in samples] == ["victim"] * 3 + ["joiner"]
    assert [len(prompt) > 300 for prompt in fake.prompts] == [False] * 3 + [True]
    assert samples[-1].n_asked == samples[-1].n_out == 8


def test_a_schedule_is_poisson_with_the_exact_mean_rate() -> None:
    times = schedule(4.0, 200, "seed")
    assert times == sorted(times)
    assert times == schedule(4.0, 200, "seed") != schedule(4.0, 200, "other")
    assert times[-1] == pytest.approx(50.0)
    gaps = [b - a for a, b in zip([0.0, *times], times, strict=False)]
    # An exponential distribution: about 1 - 1/e of the gaps lie below the mean.
    assert 0.5 < sum(gap < 0.25 for gap in gaps) / len(gaps) < 0.75


def test_an_open_loop_waits_for_nobody(tmp_path: Path) -> None:
    fake = FakeOllama()
    samples, _, slot = drive(tmp_path, fake, scenario("open", 1, 8, rate=400.0))
    assert [s.t_sched for s in samples] == sorted(s.t_sched for s in samples)
    assert all(s.t_sent >= s.t_sched for s in samples)
    assert fake.most > 1
    from_schedule, service = value(slot, samples, "sched_e2e"), value(slot, samples, "e2e")
    assert from_schedule is not None
    assert service is not None
    assert from_schedule >= service
    assert value(slot, samples, "late") is not None


def test_a_burst_tells_refusals_from_losses(tmp_path: Path) -> None:
    seen: list[int] = []

    def busy(path: str, body: dict[str, Any]) -> Answer | None:
        seen.append(1)
        if len(seen) == 1:
            return 200, answer(body, 0)
        return (503, [{"error": "server busy"}]) if len(seen) > 4 and len(seen) <= 7 else None

    samples, outcome, slot = drive(tmp_path, FakeOllama(busy), scenario("burst", 6, 6, n_out=1))
    assert sorted(s.outcome for s in samples) == ["", "", "", "refused", "refused", "silent"]
    assert value(slot, samples, "refused") == 2
    assert value(slot, samples, "lost") == 0
    assert value(slot, samples, "errors") == 0
    # One more 503 met the first request after the burst, so recovery took a second one.
    assert outcome.extra["recover_ms"] > 0
    broken = [replace(s, error="reset", texts=[]) if s.ok else s for s in samples]
    assert value(slot, broken, "lost") == 3


def test_tokens_after_a_hang_up_are_counted_in_cpu_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU clock is the test's: 10 s a request and 1 s a token, and cancelled requests go on for 3 tokens."""
    clock = {"now": 0.0}
    monkeypatch.setattr(probe, "cpu_seconds", lambda pids: clock["now"])
    monkeypatch.setattr(FakeSystem, "pids", lambda self: [1])

    def work(path: str, body: dict[str, Any]) -> Answer | None:
        asked = body["options"]["num_predict"]
        cancelled = asked == 50
        clock["now"] += 10 + (4 + 3 if cancelled else asked)
        return (200, answer(body, 12 if cancelled else None))

    samples, outcome, slot = drive(tmp_path, FakeOllama(work), scenario("cancel", 1, 4, n_out=50, cancel_after=4))
    assert [s.role for s in samples] == ["reference", "reference", "", ""]
    assert [s.outcome for s in samples] == ["", "", "cancelled", "cancelled"]
    assert outcome.extra["cpu_s_per_token"] == pytest.approx(1.0)
    assert value(slot, samples, "cancel_tokens") == pytest.approx(3.0)
    assert not any(s.failed for s in samples)


def test_without_processes_a_hang_up_cannot_be_judged(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="not on this machine"):
        drive(tmp_path, FakeOllama(), scenario("cancel", 1, 3, cancel_after=2))


def test_a_load_is_behind_an_unload(tmp_path: Path) -> None:
    fake = FakeOllama()
    fake.loaded = True
    samples, _, slot = drive(tmp_path, fake, scenario("load", 1, 2))
    assert fake.loads == 2
    assert all(s.loads for s in samples)
    assert fake.requests[-1][1]["keep_alive"] == -1
    assert value(slot, samples, "load") is not None


def test_keep_alive_waits_until_the_model_left(tmp_path: Path) -> None:
    fake = FakeOllama()
    samples, _, slot = drive(tmp_path, fake, scenario("keep-alive", 1, 2, keep_alive_s=0.02))
    assert [s.role for s in samples] == ["prime", "reload"]
    assert fake.loads == 2
    sent = [body for path, body in fake.requests if path == "/api/generate"]
    assert [body["keep_alive"] for body in sent] == ["0.02s", -1]
    assert value(slot, samples, "expiry") is not None


def test_context_lengths_take_turns(tmp_path: Path) -> None:
    fake = FakeOllama()
    samples, _, slot = drive(tmp_path, fake, scenario("num-ctx", 1, 3, num_ctx=(128, 256)))
    assert [body["options"]["num_ctx"] for _, body in fake.requests] == [128, 256, 128]
    assert value(slot, samples, "ctx_change") is not None


def test_embeddings_come_in_batches_and_all_vectors_count(tmp_path: Path) -> None:
    fake = FakeOllama()
    one = scenario("embeddings", 1, 2, n_out=0, inputs=3, prompt_tokens=5)
    samples, _, slot = drive(tmp_path, fake, one)
    assert [len(body["input"]) for _, body in fake.requests] == [3, 3]
    assert len({text for _, body in fake.requests for text in body["input"]}) == 6
    assert [s.outcome for s in samples] == ["embedded"] * 2
    rate = value(slot, samples, "embed")
    assert rate is not None
    assert rate > 0


def test_missing_vectors_are_a_failure_and_a_refusal_is_not_applicable(tmp_path: Path) -> None:
    one = scenario("embeddings", 1, 1, n_out=0, inputs=3, prompt_tokens=5)
    few = FakeOllama(lambda path, body: (200, [{"embeddings": [[1.0]]}]))
    samples, _, _ = drive(tmp_path, few, one)
    assert samples[0].failed
    assert samples[0].error == "1 vectors for 3 texts"
    no = FakeOllama(lambda path, body: (501, [{"error": "this model does not support embeddings"}]))

    async def run() -> None:
        async with no.serve() as port:
            system = FakeSystem(setup(tmp_path))
            system.port = port
            assert LOADS["embeddings"].try_it is not None
            await LOADS["embeddings"].try_it(system)

    with pytest.raises(NotApplicable, match="does not support embeddings"):
        asyncio.run(run())


def test_constrained_answers_are_judged(tmp_path: Path) -> None:
    texts = iter(['{"a": 1}', '{"b": 1}', '{"a": '])

    def say(path: str, body: dict[str, Any]) -> Answer:
        assert body["format"]["required"] == ["a"]
        counts = {"eval_count": 3, "prompt_eval_count": 4}
        return 200, [
            {"message": {"content": next(texts)}, "done": False},
            {"done": True, "done_reason": "stop", **counts},
        ]

    one = scenario("constrained", 1, 3, json_schema='{"type": "object", "required": ["a"]}')
    samples, _, slot = drive(tmp_path, FakeOllama(say), one)
    assert [s.extra["valid"] for s in samples] == [1.0, 0.0, 0.0]
    assert value(slot, samples, "valid") == pytest.approx(100 / 3)


def test_idle_sends_nothing(tmp_path: Path) -> None:
    fake = FakeOllama()
    samples, _, slot = drive(tmp_path, fake, scenario("idle", 1, 0, n_out=0, idle_s=0.01))
    assert (samples, fake.requests) == ([], [])
    assert value(slot, samples, "idle_cpu") == pytest.approx(500.0)


def test_a_cold_start_is_a_second_process_that_is_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = scenario("cold-start", 1, 1, n_out=2)
    job = job_of(one)
    system = FakeSystem(setup(tmp_path))
    system.port = 1
    monkeypatch.setattr(FakeSystem, "pids", lambda self: [1])
    before = probe.descendants(os.getpid())
    outcome = asyncio.run(LOADS["cold-start"].drive(system, job))
    (sample,) = outcome.later(0, 0)
    assert (sample.ok, sample.loads) == (True, True)
    assert 0 < sample.t_sched < sample.t_sent < sample.texts[0]
    assert sample.extra["listen_ms"] > 0
    assert system.port == 1
    assert probe.descendants(os.getpid()) == before


def test_each_request_has_a_connection_of_its_own(tmp_path: Path) -> None:
    fake = FakeOllama()
    samples, outcome, slot = drive(tmp_path, fake, scenario("fresh-connections", 2, 5))
    assert len(fake._writers) == 5
    assert fake.most == 2
    assert not any(s.reused or s.reconnected for s in samples)
    assert outcome.no_delay
    with_connecting, without = value(slot, samples, "connect_ttft"), value(slot, samples, "ttft")
    assert with_connecting is not None
    assert without is not None
    assert with_connecting > without


def test_memory_is_read_fresh_after_work_and_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory meter is the test's: it goes up by one MiB with each reading."""
    sizes = iter(range(1, 100))
    monkeypatch.setattr(FakeSystem, "pids", lambda self: [1])
    monkeypatch.setattr(probe.TreeMeter, "pss", lambda self: next(sizes) * 2**20)
    job = job_of(scenario("memory", 2, 7, n_out=2, prompt_tokens=20, fill_tokens=60))
    system = FakeSystem(setup(tmp_path))
    system.port = 1
    before = probe.descendants(os.getpid())
    outcome = asyncio.run(LOADS["memory"].drive(system, job))
    samples = outcome.later(0, 0)
    assert [s.role for s in samples] == ["first", *["busy"] * 4, *["full"] * 2]
    assert all(s.ok for s in samples)
    # A passage's length in characters at 4.6 a token.
    assert [len(p) > 200 for p in job.prompts] == [False] * 5 + [True] * 2
    found = [outcome.extra[f"pss_{when}_mib"] for when in ("start", "busy", "full")]
    assert found == sorted(found)
    assert len(set(found)) == 3
    assert probe.descendants(os.getpid()) == before


def test_the_cache_is_filled_between_two_rounds_of_a_single_reader(tmp_path: Path) -> None:
    fake = FakeOllama()
    fake.loaded = True
    samples, _, slot = drive(tmp_path, fake, scenario("idle-cache", 3, 7, prompt_tokens=80))
    assert [s.role for s in samples] == ["empty"] * 2 + ["fill"] * 3 + ["full"] * 2
    assert [s.n_asked for s in samples] == [6, 6, 1, 1, 1, 6, 6]
    assert fake.requests[0][1]["keep_alive"] == 0
    # Loading comes first, with an empty prompt; then the lengths.
    assert [len(prompt) > 200 for prompt in fake.prompts[1:]] == [False] * 2 + [True] * 3 + [False] * 2
    assert fake.loads == 1
    assert fake.most == 3
    assert value(slot, samples, "idle_cache") == pytest.approx(1.0, abs=0.9)


def test_two_models_answer_alone_and_then_together(tmp_path: Path) -> None:
    fake = FakeOllama()
    samples, _, slot = drive(tmp_path, fake, scenario("two-models", 2, 4))
    asked = [body["model"] for path, body in fake.requests if body.get("prompt")]
    assert asked[:2] == ["m", SECOND]
    assert sorted(asked[2:]) == sorted(["m", SECOND])
    assert [s.role for s in samples] == ["alone"] * 2 + ["together"] * 2
    assert [s.extra["model"] for s in samples] == [0.0, 1.0] * 2
    assert fake.most == 2
    assert [b.get("keep_alive") for _, b in fake.requests if not b.get("prompt")] == [-1, 0]
    total, slower = value(slot, samples, "beside_sum"), value(slot, samples, "beside_each")
    assert total is not None
    assert slower is not None
    assert total >= 2 * slower


def test_a_second_model_is_the_file_with_another_name(tmp_path: Path) -> None:
    name = b"SmolName"
    head = b"GGUF...." + (12).to_bytes(8, "little") + b"general.name" + (8).to_bytes(4, "little")
    data = head + len(name).to_bytes(8, "little") + name + b"tail"
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    assert renamed(path) == data.replace(b"SmolName", b"SmolNamx")
    path.write_bytes(data.replace(b"general.name", b"general.nome"))
    with pytest.raises(NotApplicable, match="no name"):
        renamed(path)


def test_what_a_system_cannot_do_is_said(tmp_path: Path) -> None:
    system = FakeSystem(setup(tmp_path))
    one = scenario("load", 1, 1)
    (cell,) = one.cells
    assert lacks(system, one, cell) == ""
    system.capabilities = frozenset({"stream"})
    assert lacks(system, one, cell) == "it cannot: unload"
    assert "belongs to the lane defaults" in lacks(system, replace(one, lanes=("defaults",)), cell)
