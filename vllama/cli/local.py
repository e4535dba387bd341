"""Short requests to a server on this machine, through the standard library: importing httpx takes as long as a list."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager

from vllama.config import Host


class NoConnectionError(OSError):
    """Nobody listens there, or does not answer the connection in time."""


def is_local(target: Host) -> bool:
    """Whether this module can be used: no TLS, no path in front, and no proxy, as the server is on this machine."""
    return target.scheme == "http" and not target.path and target.is_loopback


@contextmanager
def response(
    target: Host, method: str, path: str, body: bytes | None = None, *, connect_s: float, read_s: float | None = None
) -> Iterator[http.client.HTTPResponse]:
    """The answer, its body unread; the connection is closed with the block. Times in seconds, None: any time.

    Raises `NoConnectionError`, or another OSError or HTTPException when the server breaks off.
    """
    connection = http.client.HTTPConnection(target.name, target.port, timeout=connect_s)
    try:
        try:
            connection.connect()
        except OSError as error:
            raise NoConnectionError(str(error)) from error
        connection.sock.settimeout(read_s)
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, body, headers)
        yield connection.getresponse()
    finally:
        connection.close()
