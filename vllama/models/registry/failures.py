"""What goes wrong between us and a registry, in the words that Ollama's users know."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import httpx

from vllama.errors import ServerError
from vllama.goquote import quote

AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses that may go away by themselves."""
_CONNECT = {
    errno.ECONNREFUSED: "connection refused",
    errno.ENETUNREACH: "network is unreachable",
    errno.EHOSTUNREACH: "no route to host",
    errno.ETIMEDOUT: "connection timed out",
}


class RegistryError(ServerError):
    """The registry refused, lied or could not be reached. `again` says whether another try may help."""

    def __init__(self, text: str, *, again: bool = False) -> None:
        super().__init__(text)
        self.again = again


class FileMissingError(RegistryError):
    """404 of the registry."""

    def __init__(self) -> None:
        super().__init__("file does not exist")


class UnauthorizedError(RegistryError):
    """The registry wants somebody else, or something that we do not do."""

    def __init__(self, text: str = "unauthorized: access denied") -> None:
        super().__init__(text)


class StatusError(RegistryError):
    """Any other status from 400 up, with what the registry said."""

    def __init__(self, code: int, body: str) -> None:
        super().__init__(f"{code}: {body}", again=code in AGAIN)
        self.code = code


class StalledError(RegistryError):
    """Nothing came for too long."""

    def __init__(self) -> None:
        super().__init__("part stalled; retrying", again=True)


def unreachable(error: Exception, method: str, url: httpx.URL) -> RegistryError:
    """The error of a request that got no answer, in the words of Go's HTTP client."""
    return RegistryError(f"{method.capitalize()} {quote(str(url))}: {_reason(error, url)}", again=True)


def _reason(error: Exception, url: httpx.URL) -> str:
    port = url.port or (443 if url.scheme == "https" else 80)
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return f"dial tcp: lookup {url.host}: no such host"
        if isinstance(cause, OSError) and cause.errno in _CONNECT:
            return f"dial tcp {url.host}:{port}: connect: {_CONNECT[cause.errno]}"
    if isinstance(error, httpx.ConnectTimeout):
        return f"dial tcp {url.host}:{port}: i/o timeout"
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return str(error) or type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    pending = [error]
    while pending:
        found = pending.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        pending += [found.__context__, found.__cause__]
        if isinstance(found, BaseExceptionGroup):
            pending += found.exceptions


def disk(error: OSError) -> ServerError:
    """A write that the disk refused."""
    return ServerError(f"cannot write the model store: {error.strerror or os.strerror(error.errno or 0)}")
