"""Reading bodies: small ones at once, large ones in a process apart, so that none stops the streams of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from vllama.errors import BodyError

if TYPE_CHECKING:
    from vllama.core.service import Service

LARGE = 64 << 10
"""Bodies of more bytes than this are read apart."""

MOST_VALUES = 100_000
"""Texts, objects and lists that a request may consist of; ten numbers count for one. What is read is handed over to
the event loop's process at once, and a conversation of 30,000 messages takes 0.1 s there."""

T = TypeVar("T")


async def parsed(service: Service, read: Callable[[bytes], T], parts: Sequence[bytes]) -> T:
    """`read` of the body that came in these parts. Raises what it raises; BodyError for one with too many values."""
    if sum(map(len, parts)) > LARGE:
        return await service.apart.read(partial(bounded, read), parts)
    return read(parts[0] if len(parts) == 1 else b"".join(parts))


def bounded(read: Callable[[bytes], T], body: bytes) -> T:
    """`read(body)`, whose result is not larger than the event loop can take."""
    value = read(body)
    if weight(value, MOST_VALUES) > MOST_VALUES:
        raise BodyError(f"request body too complex: more than {MOST_VALUES} values")
    return value


def weight(value: Any, enough: float) -> float:
    """How many values this consists of, numbers counted as tenths. Stops counting beyond `enough`."""
    waiting = [value]
    found = 0.0
    while waiting and found <= enough:
        item = waiting.pop()
        if item is None or isinstance(item, int | float):
            found += 0.1
            continue
        found += 1
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list | tuple):
            if len(item) > 10 * enough:
                return len(item)
            waiting += item
        elif is_dataclass(item):
            waiting += [getattr(item, field.name) for field in fields(item)]
    return found
