"""Which tokens a grammar allows, found by first characters, against asking about every token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.engines.llama import openings
from vllama.engines.llama.openings import Openings

PIECES = st.lists(
    st.one_of(
        st.text('ab{}"é東🎈 ', max_size=4).map(str.encode),
        # Tokens of byte-level vocabularies begin and end anywhere within characters.
        st.binary(max_size=4),
    ),
    min_size=1,
    max_size=60,
)


class Language:
    """Allows what begins with a character of `first` and goes on with any of `rest`, and ends when `may_end`."""

    def __init__(self, pieces: list[bytes], endings: frozenset[int], first: str, rest: str, may_end: bool) -> None:
        self.asked = 0
        self._allowed = np.array(
            [
                may_end if token in endings else self._reads(piece.decode("latin-1"), piece, first, rest)
                for token, piece in enumerate(pieces)
            ]
        )

    @staticmethod
    def _reads(_: str, piece: bytes, first: str, rest: str) -> bool:
        try:
            text = piece.decode()
        except UnicodeDecodeError as error:
            # A character that later tokens may finish, after a beginning that must be right.
            text = piece[: error.start].decode()
            if error.end != len(piece):
                return False
            return not text or (text[0] in first and all(c in rest for c in text[1:]))
        return bool(text) and text[0] in first and all(c in rest for c in text[1:])

    def ask(self, ids: np.ndarray) -> np.ndarray:
        self.asked += len(ids)
        found: np.ndarray = self._allowed[ids]
        return found

    def all(self) -> list[int]:
        return [int(token) for token in np.flatnonzero(self._allowed)]


@given(PIECES, st.sets(st.integers(0, 5)), st.sets(st.sampled_from('ab{}"é東🎈 \0\x7f')), st.booleans())
def test_nothing_allowed_is_missed(pieces: list[bytes], ends: set[int], first: set[str], may_end: bool) -> None:
    endings = frozenset(ends)
    language = Language(pieces, endings, "".join(first), "ab é東", may_end)
    found = Openings(pieces, endings).allowed(language.ask)
    assert sorted(found.tolist()) == language.all()


def test_characters_beyond_the_limit_share_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openings, "ASKED", 1)
    pieces = [b"a", b"ab", b"abc", b"{", b'{"', b"x"]
    language = Language(pieces, frozenset(), "{", '"', False)
    found = Openings(pieces)
    assert found.askable.tolist() == [0]
    assert sorted(found.allowed(language.ask).tolist()) == [3, 4]


def test_only_what_begins_right_is_asked_about() -> None:
    pieces = [bytes([c]) for c in b"abcdefgh{"] + [b"a" + bytes([c]) for c in b"abcdefgh"] * 20 + [b'{"', b"{}"]
    language = Language(pieces, frozenset(), "{", '"}', False)
    assert len(Openings(pieces).allowed(language.ask)) == 3
    # Nine characters, then the three tokens that begin with a brace.
    assert language.asked == 9 + 3


def test_a_character_that_is_no_token_is_always_asked_about() -> None:
    pieces = [b"a", "東京".encode()]
    language = Language(pieces, frozenset(), "東", "京", False)
    assert Openings(pieces).allowed(language.ask).tolist() == [1]
