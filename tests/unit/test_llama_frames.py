"""Frames survive the wire however the bytes are cut."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.engines.llama import frames

STEP = frames.Step(
    started=[(1, 36, 24, 0)],
    texts=[(1, "é", 2, [("é", -0.5, b"\xc3", [("e", -1.0, None)])])],
    finished=[(1, "stop", 36, 24, 7, 10**9, 10**10, [1, 2], [3])],
    failed=[(2, "request", "no", 0, 0)],
)


@given(st.lists(st.binary(max_size=30), max_size=6), st.lists(st.integers(1, 12), max_size=60))
def test_bodies_come_back_from_any_cut(bodies: list[bytes], sizes: list[int]) -> None:
    data = b"".join(frames.HEADER.pack(len(body)) + body for body in bodies)
    splitter = frames.Splitter()
    found: list[bytes] = []
    for size in sizes:
        found += splitter.feed(data[:size])
        data = data[size:]
    found += splitter.feed(data)
    assert found == bodies


def test_a_step_is_read_as_it_was_written() -> None:
    [body] = frames.Splitter().feed(frames.pack(STEP))
    read = msgspec.msgpack.Decoder(frames.ToGateway).decode(body)
    assert isinstance(read, frames.Step)
    assert read.started == STEP.started
    assert read.finished == STEP.finished
    assert read.failed == STEP.failed
    assert read.texts[0][:3] == (1, "é", 2)


def test_an_impossible_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="bytes"):
        frames.Splitter().feed(b"\xff\xff\xff\xff\x00")
