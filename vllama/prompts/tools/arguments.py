"""The JSON object that carries a call's arguments: finding it in a growing text, and reading it."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

_STRUCTURE = re.compile(r'[{}"\\]')


class ObjectScanner:
    """Finds the first complete JSON object in a text that only grows, looking at each character once.

    Quotes outside of objects count too: that is how Ollama scans, and which call is found depends on it.
    """

    __slots__ = ("_depth", "_in_string", "_pos", "_start", "end", "start", "value")

    def __init__(self) -> None:
        self._pos = 0
        self._depth = 0
        self._start = -1
        self._in_string = False
        self.value: dict[str, Any] | None = None
        self.start = -1
        self.end = -1
        """Index of the closing brace."""

    def scan(self, text: str) -> bool:
        """Go on where the last scan stopped. True once an object was found; it stays found."""
        if self.value is not None:
            return True
        pos = self._pos
        while match := _STRUCTURE.search(text, pos):
            at = match.start()
            pos = at + 1
            char = text[at]
            if char == "\\":
                pos += 1
            elif char == '"':
                self._in_string = not self._in_string
            elif self._in_string:
                continue
            elif char == "{":
                if self._depth == 0:
                    self._start = at
                self._depth += 1
            elif self._depth:
                self._depth -= 1
                if self._depth == 0 and self._take(text, at):
                    return True
        self._pos = max(pos, len(text))
        return False

    def _take(self, text: str, end: int) -> bool:
        value = decode(text[self._start : end + 1])
        if value is None:
            return False
        self.value, self.start, self.end = value, self._start, end
        return True


def decode(text: str) -> dict[str, Any] | None:
    """The JSON object that `text` is, or None if it is none."""
    value = decode_any(text)
    return value if isinstance(value, dict) else None


def decode_any(text: str) -> Any:
    """The JSON value that `text` is, or None if it is none (and for null)."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _decode_leniently(text)


def find_arguments(name: str, value: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments for the tool `name` in an object that a model wrote; None means that this is no call.

    Models write `{"name": …, "arguments"|"parameters": {…}}`, perhaps wrapped in other objects or lists,
    or `{"the_tool": {…}}`, or the bare arguments. Arguments may be JSON in a string.
    """
    known, arguments = _search(name, value)
    return arguments if known else value


def _search(name: str, value: dict[str, Any]) -> tuple[bool, dict[str, Any] | None]:
    """(whether `value` looks like a call, its arguments)."""
    if "name" in value:
        for key in ("arguments", "parameters"):
            found, arguments = _object(value.get(key))
            if found:
                return True, arguments
        return True, None
    found, arguments = _object(value.get(name))
    if found:
        return True, arguments
    for item in value.values():
        for child in item if isinstance(item, list) else (item,):
            if isinstance(child, dict):
                found, arguments = _search(name, child)
                if found:
                    return True, arguments
    return False, None


def _object(value: Any) -> tuple[bool, dict[str, Any] | None]:
    if isinstance(value, dict):
        return True, value
    if isinstance(value, str):
        arguments = decode(value)
        # The string "null" is a call without arguments to Go, and so no call.
        return arguments is not None or value.strip(" \t\r\n") == "null", arguments
    return False, None


def _decode_leniently(text: str) -> Any:
    """What orjson refuses and Go takes: halves of surrogate pairs, which become U+FFFD."""
    if "\\u" not in text:
        return None
    try:
        return _whole(json.loads(text, parse_constant=_refuse, parse_float=_finite))
    except (ValueError, RecursionError):
        return None


def _refuse(text: str) -> float:
    raise ValueError(text)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(text)
    return number


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value
