"""Which inputs are embedded together. Knows token lists, not models."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from vllama.engines.fitting import INPUT_NOT_SHORTER, INPUT_TOO_LONG, NO_ROOM_FOR_INPUT
from vllama.engines.llama.prompt import RequestFault


def fit_input(
    body: list[int], head: list[int], tail: list[int], *, num_ctx: int, limit: int, truncate: bool
) -> list[int]:
    """The ids of one input with its special tokens, its end cut off to fit `num_ctx` tokens if need be.

    Raises `RequestFault` with Ollama's texts. More than `limit` tokens cannot be computed at once. Without any body,
    special tokens need no room.
    """
    special = len(head) + len(tail)
    room = num_ctx - special if body else num_ctx
    if room <= 0:
        raise RequestFault("request", NO_ROOM_FOR_INPUT)
    if len(body) > room and not truncate:
        raise RequestFault("request", INPUT_TOO_LONG)
    ids = [*head, *body[:room], *tail]
    if len(ids) > limit:
        raise RequestFault("request", INPUT_NOT_SHORTER if truncate else INPUT_TOO_LONG)
    return ids


class Request:
    """One `Embed` frame under way. `ids(index)` gives an input's tokens and may raise `RequestFault`."""

    __slots__ = ("_ids", "_next", "_waiting", "count", "id", "left", "rows", "tokens")

    def __init__(self, id: int, count: int, ids: Callable[[int], list[int]]) -> None:
        self.id = id
        self.count = count
        self.rows: list[Any] = [None] * count
        self.left = count
        self.tokens = 0
        self._ids = ids
        self._next = 0
        self._waiting: list[int] | None = None

    @property
    def drained(self) -> bool:
        """Every input has been put into a pack."""
        return self._next == self.count

    def peek(self) -> list[int]:
        """The tokens of the next input."""
        if self._waiting is None:
            self._waiting = self._ids(self._next)
        return self._waiting

    def pop(self) -> int:
        """The next input is in a pack: its index."""
        index = self._next
        self._next += 1
        self._waiting = None
        return index

    def done(self, index: int, row: Any, tokens: int) -> None:
        """The vector of an input."""
        self.rows[index] = row
        self.left -= 1
        self.tokens += tokens


Pack = list[tuple[Request, int, list[int]]]
"""(request, index of the input, its tokens)."""


class Packer:
    """Requests in turn, one input each, so that a text never waits for somebody else's book.

    A pack has at most `tokens` tokens in `inputs` inputs; a longer input is a pack of its own.
    """

    def __init__(self, *, tokens: int, inputs: int) -> None:
        self._tokens = tokens
        self._inputs = inputs
        self._turns: deque[Request] = deque()
        self._live: dict[int, Request] = {}

    def __len__(self) -> int:
        return len(self._live)

    def knows(self, id: int) -> bool:
        """Whether the request is under way."""
        return id in self._live

    @property
    def waiting(self) -> bool:
        """Whether there is anything to pack."""
        return bool(self._turns)

    def add(self, request: Request) -> None:
        """Its inputs wait from now on."""
        self._live[request.id] = request
        self._turns.append(request)

    def drop(self, id: int) -> bool:
        """Forget a request that is done, failed or cancelled; False if it is not known."""
        request = self._live.pop(id, None)
        if request is None:
            return False
        if request in self._turns:
            self._turns.remove(request)
        return True

    def next(self, failed: Callable[[Request, RequestFault], None]) -> Pack:
        """The next pack; empty when nothing is left. Requests whose input cannot be used go to `failed`."""
        pack: Pack = []
        room = self._tokens
        while self._turns and len(pack) < self._inputs:
            request = self._turns[0]
            try:
                ids = request.peek()
            except RequestFault as fault:
                self.drop(request.id)
                pack = [entry for entry in pack if entry[0] is not request]
                failed(request, fault)
                continue
            if pack and len(ids) > room:
                break
            pack.append((request, request.pop(), ids))
            room -= len(ids)
            if request.drained:
                self._turns.popleft()
            else:
                self._turns.rotate(-1)
        return pack
