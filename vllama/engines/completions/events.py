"""Server-sent events as OpenAI-compatible servers send them: bytes in, JSON objects out. No sockets in here."""

from __future__ import annotations

from typing import Any

import orjson

from vllama.errors import ServerError

LONGEST = 16 << 20
"""Bytes of one event at most: a server that sends no line end must not fill the memory."""


class EventSplitter:
    """Cuts a stream of bytes into the `data:` objects in it. `done` is True once `[DONE]` was seen.

    Comments, other fields and empty lines are passed over; a line may come in any number of pieces.
    """

    __slots__ = ("_held", "done")

    def __init__(self) -> None:
        self._held = b""
        self.done = False

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The objects that are complete now. Raises `ServerError` for what is no JSON object."""
        lines = (self._held + data).split(b"\n")
        self._held = lines.pop()
        if len(self._held) > LONGEST:
            raise ServerError("the model server sent a line without an end")
        found = []
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            payload = line[5:].strip()
            if payload == b"[DONE]":
                self.done = True
                continue
            try:
                event = orjson.loads(payload)
            except orjson.JSONDecodeError:
                raise ServerError("the model server sent an event that is no JSON") from None
            if not isinstance(event, dict):
                raise ServerError("the model server sent an event that is no object")
            found.append(event)
        return found
