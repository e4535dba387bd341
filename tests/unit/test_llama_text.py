"""What may leave of a growing text: whole characters, and nothing that may become a stop string."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.engines.llama.text import TextStream

SMILE = "🙂".encode()


@pytest.mark.parametrize(
    ("pieces", "stops", "sent", "stopped"),
    [
        ([b"Hello", b" world"], (), ["Hello", " world", ""], False),
        ([SMILE[:1], SMILE[1:3], SMILE[3:] + b"!"], (), ["", "", "🙂!", ""], False),
        ([b"a", SMILE[:2]], (), ["a", "", "\ufffd"], False),
        ([b"\xff", b"a"], (), ["\ufffd", "a", ""], False),
        ([SMILE[:2], b"a"], (), ["", "\ufffda", ""], False),
        ([b"one two"], ("two",), ["one ", ""], True),
        ([b"one t", b"w", b"o three"], ("two",), ["one ", "", "", ""], True),
        ([b"one t", b"w", b"in"], ("two",), ["one ", "", "twin", ""], False),
        ([b"one t"], ("two",), ["one ", "t"], False),
        ([b"ab", b"c"], ("bc", "abc"), ["", "", ""], True),
        ([b"x, y"], ("y", ","), ["x", ""], True),
        ([b"aaab"], ("aab",), ["a", ""], True),
        ([b"<", SMILE[:1], SMILE[1:]], ("<🙂",), ["", "", "", ""], True),
        ([b"anything"], ("",), ["", ""], True),
    ],
)
def test_hold_back(pieces: list[bytes], stops: tuple[str, ...], sent: list[str], stopped: bool) -> None:
    stream = TextStream(stops)
    assert [*(stream.feed(piece) for piece in pieces), stream.flush()] == sent
    assert stream.stopped is stopped


@given(st.text(), st.data())
def test_any_cut_of_the_bytes_gives_the_same_text(text: str, data: st.DataObject) -> None:
    text = text.encode("utf-8", "replace").decode()
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    stream = TextStream(())
    edges = [0, *cuts, len(raw)]
    out = "".join(stream.feed(raw[a:b]) for a, b in pairwise(edges)) + stream.flush()
    assert out == text


@given(st.lists(st.text(alphabet="ab", max_size=4), max_size=12), st.text(alphabet="ab", min_size=1, max_size=3))
def test_a_stop_string_never_leaves(pieces: list[str], stop: str) -> None:
    stream = TextStream((stop,))
    out = "".join(stream.feed(piece.encode()) for piece in pieces) + stream.flush()
    whole = "".join(pieces)
    assert out == whole.split(stop)[0]
    assert stream.stopped is (stop in whole)
