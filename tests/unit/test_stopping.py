"""Stop strings: cut at the first, hold back what may become one, lose nothing otherwise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.engines.stopping import StopBuffer


@pytest.mark.parametrize(
    ("stops", "pieces", "sent", "stopped"),
    [
        ((), ["a", "b"], "ab", False),
        (("x",), ["abc", "dxe", "f"], "abcd", True),
        (("STOP",), ["aS", "T", "OP", "b"], "a", True),
        (("STOP",), ["aS", "T", "O", "x"], "aSTOx", False),
        (("ab", "b"), ["xab"], "x", True),
        (("",), ["x"], "", True),
        (("\n\n",), ["a\n", "b\n", "\nc"], "a\nb", True),
    ],
)
def test_table(stops: tuple[str, ...], pieces: list[str], sent: str, stopped: bool) -> None:
    buffer = StopBuffer(stops)
    out = "".join(buffer.feed(piece) for piece in pieces) + buffer.flush()
    assert (out, buffer.stopped) == (sent, stopped)


@given(
    st.lists(st.text(alphabet="ab", min_size=1, max_size=3), max_size=3),
    st.lists(st.text(alphabet="abc", max_size=4), max_size=12),
)
def test_like_searching_the_whole_text(stops: list[str], pieces: list[str]) -> None:
    buffer = StopBuffer(stops)
    out = "".join(buffer.feed(piece) for piece in pieces) + buffer.flush()
    text = "".join(pieces)
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    if not found:
        assert out == text
        assert not buffer.stopped
    else:
        # A longer stop string may still be growing when a shorter one inside it is complete: then the shorter wins.
        assert buffer.stopped
        assert text.startswith(out)
        assert not any(stop in out for stop in stops)
