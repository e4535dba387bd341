"""The bytes of a blob's answer, as fast as the connection gives them."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpcore
import httpx

_READ = 1 << 20


async def body(response: httpx.Response, stall_s: float) -> AsyncGenerator[bytes, None]:
    """The body as it was sent, in pieces; it may end early, which is for the caller to notice.

    A body of known length over HTTP/1.1 is read from the connection itself after its first piece: the parser copies
    every 64 KiB several times and has nothing more to parse, which halves what a fast network could bring. The
    connection is not used again then. Raises `httpx.HTTPError`; `httpx.ReadTimeout` after `stall_s` silent seconds.
    """
    parsed = response.aiter_raw()
    if not _plain(response):
        async for piece in parsed:
            yield piece
        return
    left = int(response.headers["content-length"])
    async for piece in parsed:
        # What came with the head is in this piece; whatever follows is still in the connection.
        yield piece
        left -= len(piece)
        break
    else:
        return
    stream: httpcore.AsyncNetworkStream = response.extensions["network_stream"]
    while left > 0:
        try:
            piece = await stream.read(min(_READ, left), stall_s)
        except httpcore.TimeoutException as error:
            raise httpx.ReadTimeout(str(error)) from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise httpx.ReadError(str(error)) from error
        if not piece:
            return
        yield piece
        left -= len(piece)


def _plain(response: httpx.Response) -> bool:
    """Whether the body is nothing but so many bytes."""
    length = response.headers.get("content-length", "")
    return (
        response.http_version == "HTTP/1.1"
        and "transfer-encoding" not in response.headers
        and length.isdecimal()
        and len(length) < 20
        and "network_stream" in response.extensions
    )
