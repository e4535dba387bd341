"""Work in processes apart: results and errors come back, what takes too long or too much ends, nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from vllama.api.large import LARGE, MOST_VALUES, bounded, parsed, weight
from vllama.api.read import read_chat
from vllama.core import apart as module
from vllama.core.apart import TOO_MUCH, TOO_SLOW, Apart
from vllama.core.apart_child import NICENESS
from vllama.core.requests import ChatRequest
from vllama.errors import BodyError, BusyError, RequestError, ServerError, TemplateLimit
from vllama.prompts.messages import Message


def fail_with(text: str) -> None:
    """An error of ours, in the process apart."""
    raise TemplateLimit(text)


def size_and_pid(data: bytes) -> tuple[int, int]:
    """Where it ran."""
    return len(data), os.getpid()


def session_niceness() -> tuple[int, str]:
    """What the scheduler weighs us by: our niceness, and our session's, "" where the kernel does not group so."""
    try:
        group = Path("/proc/self/autogroup").read_text()
    except OSError:
        group = ""
    return os.nice(0), group.rpartition("nice ")[2].strip()


def take_memory(data: bytes) -> int:
    """More than there is for it."""
    return len(bytearray(1 << 40)) + len(data)


def end() -> None:
    """As a fault in C code would."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def apart() -> Any:
    made = Apart()
    yield made
    made.close()
    assert not [child for child in psutil.Process().children() if "apart_child" in " ".join(child.cmdline())]


async def test_the_model_comes_first_across_sessions_too(apart: Apart) -> None:
    nice, group = await apart.call(session_niceness)
    assert nice >= min(NICENESS, 19)
    assert group in ("", str(NICENESS))
    assert group == "" or session_niceness()[1] != group  # the others' stays as it was


async def test_results_and_errors_come_back_from_another_process(apart: Apart) -> None:
    size, pid = await apart.read(size_and_pid, [b"ab", b"c" * 100_000])
    assert (size, pid != os.getpid()) == (100_002, True)
    assert (await apart.read(size_and_pid, [b""])) == (0, pid)  # the same one again
    with pytest.raises(TemplateLimit, match="too far"):
        await apart.call(fail_with, "too far")
    with pytest.raises(ServerError, match="ZeroDivisionError"):
        await apart.call(divmod, 1, 0)
    assert psutil.Process(pid).nice() > psutil.Process().nice() or psutil.Process().nice() > 9


async def test_what_takes_too_long_is_ended_and_others_are_served(apart: Apart) -> None:
    with pytest.raises(RequestError) as raised:
        await apart._submit(time.sleep, ((3600,), {}), None, 0.5)
    assert (raised.value.status, raised.value.text) == (400, TOO_SLOW)
    assert (await apart.read(size_and_pid, [b"x"]))[0] == 1


async def test_what_takes_too_much_memory_or_dies_is_the_request_s_fault(apart: Apart) -> None:
    with pytest.raises(RequestError, match=TOO_MUCH):
        await apart.read(take_memory, [b"x"])
    with pytest.raises(RequestError, match=TOO_MUCH):
        await Apart.call(apart, end)


async def test_a_process_that_ended_for_want_of_work_is_replaced(apart: Apart) -> None:
    _, pid = await apart.read(size_and_pid, [b"x"])
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    _, other = await apart.read(size_and_pid, [b"x"])
    assert other != pid


async def test_closing_ends_what_runs(apart: Apart) -> None:
    call = asyncio.create_task(apart.call(time.sleep, 3600))
    for _ in range(500):
        await asyncio.sleep(0.01)
        if apart._running:
            break
    await asyncio.to_thread(apart.close)
    with pytest.raises(BusyError, match="shutting down"):
        await call


async def test_the_queue_is_bounded(apart: Apart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 0)
    calls = [asyncio.create_task(apart.call(time.sleep, 0.5)) for _ in range(module.PROCESSES)]
    await asyncio.sleep(0)
    with pytest.raises(BusyError):
        await apart.call(time.sleep, 0)
    await asyncio.gather(*calls)


class Service:
    """What `parsed` needs of one."""

    def __init__(self, apart: Apart) -> None:
        self.apart = apart


async def test_bodies_are_read_apart_when_they_are_large(apart: Apart) -> None:
    service: Any = Service(apart)
    text = b'{"model": "m", "messages": [{"role": "user", "content": "%b"}]}'
    small = await parsed(service, read_chat, [text[:20], text[20:] % b"x"])
    assert small == ChatRequest("m", messages=(Message("user", "x"),))
    assert apart._pool is None
    whole = text % (b"y" * LARGE)
    large = await parsed(service, read_chat, [whole[:100], whole[100:]])
    assert large == ChatRequest("m", messages=(Message("user", "y" * LARGE),))
    with pytest.raises(BodyError, match="unexpected EOF"):
        await parsed(service, read_chat, [whole[:-1]])


def test_a_request_of_too_many_values_is_refused() -> None:
    body = b'{"model": "m", "messages": [%b{}]}' % (b'{"role": "user", "content": "x"},' * (MOST_VALUES // 2))
    with pytest.raises(BodyError, match="too complex: more than 100000 values"):
        bounded(read_chat, body)
    # A context of a hundred thousand tokens is nothing special.
    assert weight(tuple(range(131_072)), MOST_VALUES) < MOST_VALUES
    assert weight([0] * (20 * MOST_VALUES), MOST_VALUES) > MOST_VALUES
    assert weight({"a": [ChatRequest("m"), "b", 1]}, MOST_VALUES) == pytest.approx(3 + 1 + 0.1 + 5.5, abs=2)
