"""Finding the tokens that a grammar allows without asking it about all of them.

Asking about a token costs some 100 ns, and a vocabulary has 50,000 to 250,000. But a token can only be allowed if its
first character is: so the grammar is first asked about one-character tokens, then about the tokens that begin with a
character it allows. Where JSON has structure, that leaves some hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vllama.engines.llama.allowance import asked

ASKED = 2000
"""A vocabulary may begin its tokens with more characters than it is worth asking about: rare ones share a group."""


class Openings:
    """The tokens of a vocabulary by the character that they begin with.

    `pieces` are all tokens' bytes. `endings` are tokens that end a generation: their text does not matter. They, and
    tokens that begin with no whole character, are always asked about.
    """

    def __init__(self, pieces: Sequence[bytes], endings: frozenset[int] = frozenset()) -> None:
        import numpy as np

        groups: dict[str, list[int]] = {}
        alone: dict[str, int] = {}
        odd: list[int] = []
        for token, piece in enumerate(pieces):
            first = "" if token in endings else _first(piece)
            if not first:
                odd.append(token)
                continue
            groups.setdefault(first, []).append(token)
            if len(piece) == len(first.encode()):
                alone.setdefault(first, token)
        # The largest groups are those that it saves most to leave out.
        asked = sorted(alone, key=lambda first: -len(groups[first]))[:ASKED]
        for first in groups.keys() - set(asked):
            odd += groups[first]
        self.askable: Any = np.array([alone[first] for first in asked], np.int32)
        """A one-character token for each group."""
        self._sizes: Any = np.array([len(groups[first]) for first in asked], np.int64)
        self._tokens: Any = np.array([token for first in asked for token in groups[first]], np.int32)
        self._odd: Any = np.array(odd, np.int32)

    def allowed(self, ask: Callable[[Any], Any]) -> Any:
        """Ids of all tokens that the grammar allows, in no order. `ask` gives, for ids, which of them it allows.

        Raises `RequestFault` when the grammar takes too long to answer.
        """
        import numpy as np

        groups = asked(ask, self.askable)
        ids = np.concatenate((self._tokens[np.repeat(groups, self._sizes)], self._odd))
        return ids[asked(ask, ids)]


def _first(piece: bytes) -> str:
    """The character that it begins with; "" where that is none."""
    if not piece:
        return ""
    lead = piece[0]
    size = (
        1
        if lead < 0x80
        else 2
        if 0xC2 <= lead < 0xE0
        else 3
        if 0xE0 <= lead < 0xF0
        else 4
        if 0xF0 <= lead < 0xF5
        else 0
    )
    try:
        return piece[:size].decode()
    except UnicodeDecodeError:
        return ""
