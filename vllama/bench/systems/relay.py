"""Carries requests of the harness to a server elsewhere: another host, TLS, a path before /v1, a key.

Run as a process of its own, so that its work is not the client's: `python -m vllama.bench.systems.relay PORT URL`. A
key is taken from the variable VLLAMA_BENCH_API_KEY. Responses are passed on as they come. It adds a hop on loopback,
which a report must say.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import sys
from urllib.parse import SplitResult, urlsplit

KEY = "VLLAMA_BENCH_API_KEY"


async def serve(port: int, url: str) -> None:
    """Until cancelled."""
    target = urlsplit(url)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await _carry(reader, writer, target)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: SplitResult) -> None:
    tls = ssl.create_default_context() if target.scheme == "https" else None
    port = target.port or (443 if tls else 80)
    far_reader, far_writer = await asyncio.open_connection(target.hostname, port, ssl=tls)
    far_writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    back = asyncio.create_task(_answers(far_reader, writer))
    try:
        while not back.done():
            head = await reader.readuntil(b"\r\n\r\n")
            far_writer.write(rewritten(head, target))
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"), 0
            )
            far_writer.write(await reader.readexactly(length))
            await far_writer.drain()
    finally:
        back.cancel()
        await asyncio.gather(back, return_exceptions=True)
        far_writer.close()


async def _answers(far: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
    while data := await far.read(65536):
        near.write(data)
        await near.drain()
    near.close()


def rewritten(head: bytes, target: SplitResult) -> bytes:
    """The request's head for the far server: its path, its host, its key."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    method, path, version = first.split(b" ", 2)
    prefix = target.path.rstrip("/").removesuffix("/v1").encode()
    lines = [line for line in lines if not line.lower().startswith((b"host:", b"authorization:"))]
    lines.append(b"Host: " + target.netloc.rpartition("@")[2].encode())
    if key := os.environ.get(KEY):
        lines.append(b"Authorization: Bearer " + key.encode())
    return b"\r\n".join([b" ".join([method, prefix + path, version]), *lines]) + b"\r\n\r\n"


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
