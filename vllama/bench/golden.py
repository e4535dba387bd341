"""A server with known answers: what the client says of it can be checked word for word and stamp for stamp.

`GoldenServer` answers the paths of each API with a scripted stream whose writes are cut at awkward places
(inside a chunk header, inside a UTF-8 character, several events in one write, one event over several segments). It
logs when each event's last byte was handed to the socket and when the kernel had the request, on the same clock as the
client. In tests it runs in the client's loop; `python -m vllama.bench.golden` is a process of its own, as for every
measurement of the client's error, and gives its log at GET /served.

A request may carry its own script as an object under "golden"; otherwise `PlayedModel` answers like a small greedy
model would: the same words for the same prompt, counted, with a prefix cache that it admits to.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import hashlib
import json
import random
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Shape = Literal["ndjson", "sse", "sse-crlf", "json"]
Split = Literal["event", "byte", "pairs", "odd", "utf8", "segments"]

NAGLE_S = 0.04
"""A delayed acknowledgement on Linux: what Nagle's algorithm makes the second half of an answer wait for."""


@dataclass(frozen=True, slots=True)
class Script:
    """What to answer: words, one token each. Delays in seconds; `role_chunk` begins an SSE stream without text.

    `split` says how writes are cut: one per event, one per byte, two events per write, every 7 bytes, in the
    middle of the event's first character of several bytes, or in three segments; `pause` is slept between the parts.
    `gaps` replaces `gap` event by event, the last one repeating (0 is a burst, a long one a stall). `nagle` makes the
    second half of every event wait as a sender without TCP_NODELAY would. `fail_after` sends an error line instead of
    word number `fail_after`; `hang_up_after` closes the socket there. `drop_idle` closes a connection without a
    word when it brings a second request. `usage` False leaves the counts out. `n_out` is what the counts say, by
    default the number of words.
    """

    words: tuple[str, ...]
    shape: Shape = "ndjson"
    split: Split = "event"
    ttft: float = 0.0
    gap: float = 0.0
    gaps: tuple[float, ...] = ()
    pause: float = 0.0
    nagle: bool = False
    role_chunk: bool = False
    n_prompt: int = 5
    n_cached: int = 0
    n_out: int = -1
    finish: str = "length"
    usage: bool = True
    fail_after: int | None = None
    hang_up_after: int | None = None
    chunked: bool = True
    drop_idle: bool = False

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Script:
        """From JSON."""
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in raw.items()}
        return cls(**fields)


@dataclass(slots=True)
class Served:
    """One answered request; all times in ns on the monotonic clock.

    `received` is when the kernel had the request's last bytes, where it says so (0 = it does not). For each event of
    text, `sent` is the time just before its last byte was handed to the socket and `sent_after` just after. `cut` is
    set when the client went away before the end, `words` how many words it was sent.
    """

    path: str
    body: dict[str, Any]
    sent: list[int] = field(default_factory=list)
    connection: int = 0
    received: int = 0
    sent_after: list[int] = field(default_factory=list)
    words: int = 0
    cut: bool = False


class PlayedModel:
    """Answers prompts as a greedy model would, without one. `ttft` and `gap` in seconds; prompt tokens are words.

    The text depends on the whole prompt, as a real model's does, and the prefix cache is real: what it reports is the
    longest common beginning with an earlier prompt.
    """

    VOCABULARY = tuple(f" {a}{b}" for a in ("ba", "ko", "li", "mu", "ne", "ri", "so", "tü") for b in "lmnrst")

    def __init__(self, ttft: float = 0.0, gap: float = 0.0, default_length: int = 16) -> None:
        self._ttft = ttft
        self._gap = gap
        self._length = default_length
        self._seen: list[list[str]] = []

    def __call__(self, body: dict[str, Any]) -> Script:
        """The script for a request of Ollama's or OpenAI's API."""
        messages = body.get("messages")
        prompt = body.get("prompt", "") if not messages else " ".join(str(m.get("content", "")) for m in messages)
        tokens = prompt.split()
        native = "num_predict" in body.get("options", {}) or "max_tokens" not in body
        count = body.get("options", {}).get("num_predict", self._length) if native else body["max_tokens"]
        rng = random.Random(hashlib.sha256(prompt.encode()).digest())
        shape: Shape = "ndjson" if native else "sse"
        script = Script(
            tuple(rng.choice(self.VOCABULARY) for _ in range(count)),
            shape if body.get("stream", native) else "json",
            ttft=self._ttft,
            gap=self._gap,
            n_prompt=len(tokens),
            n_cached=max((_common(tokens, old) for old in self._seen), default=0),
        )
        self._seen.append(tokens)
        return script


def _common(left: list[str], right: list[str]) -> int:
    """The length of the common beginning."""
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count


class GoldenServer:
    """Use as `async with GoldenServer(script) as server`; `server.port`, `server.served`."""

    def __init__(self, script: Script | Callable[[dict[str, Any]], Script]) -> None:
        self._script = script
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0
        self.port = 0
        self.served: list[Served] = []

    async def __aenter__(self) -> GoldenServer:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._start(self._accept(self._listener))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            self._connections += 1
            self._start(self._serve(sock, self._connections))

    async def _serve(self, sock: socket.socket, number: int) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = _Peer(sock)
        try:
            while await self._answer(peer, number):
                pass
        except (OSError, EOFError):
            pass
        finally:
            sock.close()

    async def _answer(self, peer: _Peer, number: int) -> bool:
        head, raw, received = await peer.request()
        method, path = head.split(" ")[:2]
        if method == "GET":
            await peer.write(_plain(self._told(path)))
            return True
        body = json.loads(raw) if raw else {}
        if "golden" in body:
            script = Script.read(body["golden"])
        else:
            script = self._script(body) if callable(self._script) else self._script
        if script.drop_idle and any(served.connection == number for served in self.served):
            return False
        served = Served(path, body, connection=number, received=received)
        self.served.append(served)
        try:
            keep = await _Writer(script, peer, served).run()
        except OSError:
            served.cut = True
            raise
        return keep and "connection: close" not in head.lower()

    def _told(self, path: str) -> bytes:
        if path == "/served":
            return json.dumps([dataclasses.asdict(served) for served in self.served]).encode()
        return b'{"status":"ok","version":"golden"}'


def _plain(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Peer:
    """One accepted connection, read with the kernel's software stamps: another mechanism than the client's own.

    Client and truth share no code for turning stamps into times, so that a mistake there cannot cancel out.
    """

    _TIMESTAMPING = getattr(socket, "SO_TIMESTAMPING", 37)
    _RX_SOFTWARE = (1 << 3) | (1 << 4)

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self._received = 0
        self._stamped = False
        if sys.platform == "linux" and struct.calcsize("l") == 8:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, self._TIMESTAMPING, self._RX_SOFTWARE)
                self._stamped = True

    async def request(self) -> tuple[str, bytes, int]:
        """Head, body, and when the kernel had all of it (0 = unknown). Raises `EOFError` at the end."""
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        raw, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        head = raw.decode("latin-1")
        length = next(
            (int(line.partition(":")[2]) for line in head.splitlines() if line.lower().startswith("content-length")), 0
        )
        while len(self._buffer) < length:
            await self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return head, body, self._received

    async def _more(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._sock, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._sock)
        data, ancillary, _, _ = self._sock.recvmsg(1 << 18, 256 if self._stamped else 0)
        if not data:
            raise EOFError
        self._buffer += data
        self._received = 0
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == self._TIMESTAMPING:
                seconds, nanoseconds = struct.unpack_from("@qq", content)
                ahead = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
                self._received = seconds * 10**9 + nanoseconds - ahead

    async def write(self, data: bytes) -> None:
        """Hand over all bytes; small ones without a turn of the loop."""
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            await asyncio.get_running_loop().sock_sendall(self._sock, data[sent:])

    def gone(self) -> bool:
        """Whether the client has closed its end."""
        try:
            return not self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False


@dataclass(slots=True)
class _Writer:
    script: Script
    peer: _Peer
    served: Served

    async def run(self) -> bool:
        """Answer; True if the connection may be used again."""
        script = self.script
        kinds = {"ndjson": "application/x-ndjson", "json": "application/json"}
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kinds.get(script.shape, 'text/event-stream')}\r\n"
        if script.shape == "json":
            whole = self._json()
            await asyncio.sleep(script.ttft + script.gap * max(0, len(script.words) - 1))
            await self._write(head.encode() + f"Content-Length: {len(whole)}\r\n\r\n".encode() + whole)
            return True
        framing = "Transfer-Encoding: chunked" if script.chunked else "Connection: close"
        await self._write(f"{head}{framing}\r\n\r\n".encode())
        await asyncio.sleep(script.ttft)
        held, held_texts = b"", 0
        for index, (is_text, event) in enumerate(self._events()):
            if index and (gap := self._gap(index)):
                await asyncio.sleep(gap)
            if self.peer.gone():
                self.served.cut = True
                return False
            held += self._frame(event)
            held_texts += is_text
            if script.split == "pairs" and index % 2 == 0:
                continue
            await self._write(held, texts=held_texts)
            held, held_texts = b"", 0
        if held_texts:
            await self._write(held, texts=held_texts)
            held = b""
        if script.hang_up_after is not None:
            return False
        await self._write(held + (b"0\r\n\r\n" if script.chunked else b""))
        return script.chunked

    def _gap(self, index: int) -> float:
        gaps = self.script.gaps
        return gaps[min(index - 1, len(gaps) - 1)] if gaps else self.script.gap

    def _frame(self, event: bytes) -> bytes:
        return f"{len(event):x}\r\n".encode() + event + b"\r\n" if self.script.chunked else event

    def _parts(self, data: bytes) -> list[bytes]:
        split = self.script.split
        if self.script.nagle or split == "utf8":
            # The first byte of 110xxxxx or more begins a character of several bytes; the cut goes behind it.
            wide = next((i for i, byte in enumerate(data) if byte >= 0xC0), len(data) // 2)
            return [data[: wide + 1], data[wide + 1 :]]
        size = {"byte": 1, "odd": 7, "segments": -(-len(data) // 3)}.get(split, len(data)) or 1
        return [data[start : start + size] for start in range(0, len(data), size)]

    async def _write(self, data: bytes, *, texts: int = 0) -> None:
        """Send in parts; `texts` events with text end in these bytes and are logged at the part that completes them."""
        # The event is complete with its own last byte; the end of its HTTP chunk carries nothing.
        last = len(data) - (3 if self.script.chunked else 1)
        parts = self._parts(data) if texts or self.script.split in ("byte", "odd") else [data]
        start = 0
        for index, part in enumerate(parts):
            if index:
                await asyncio.sleep(NAGLE_S if self.script.nagle else self.script.pause)
            before = time.monotonic_ns()
            await self.peer.write(part)
            after = time.monotonic_ns()
            if start <= last < start + len(part):
                self.served.sent += [before] * texts
                self.served.sent_after += [after] * texts
                self.served.words += texts
            start += len(part)

    def _events(self) -> Iterable[tuple[bool, bytes]]:
        script = self.script
        if script.role_chunk and script.shape != "ndjson":
            yield False, self._event({"object": "chat.completion.chunk", "choices": [{"delta": {"role": "assistant"}}]})
        for index, word in enumerate(script.words):
            if index == script.hang_up_after:
                return
            if index == script.fail_after:
                yield False, self._event({"error": "scripted failure"})
                return
            yield True, self._event(self._word(word))
        yield from ((False, self._event(last)) for last in self._last())

    def _word(self, word: str) -> dict[str, Any]:
        if self.script.shape == "ndjson":
            if self.served.path == "/api/chat":
                return {"model": "golden", "message": {"role": "assistant", "content": word}, "done": False}
            return {"model": "golden", "response": word, "done": False}
        return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": word}}]}

    def _last(self) -> Iterable[dict[str, Any] | bytes]:
        if self.script.shape == "ndjson":
            yield {"response": "", "done": True, "done_reason": self.script.finish, **self._counts()}
            return
        yield {"object": "chat.completion.chunk", "choices": [{"delta": {}, "finish_reason": self.script.finish}]}
        if self.script.usage:
            usage = {
                "prompt_tokens": self.script.n_prompt,
                "completion_tokens": self._n_out,
                "prompt_tokens_details": {"cached_tokens": self.script.n_cached},
            }
            yield {"object": "chat.completion.chunk", "choices": [], "usage": usage}
        yield b"[DONE]"

    @property
    def _n_out(self) -> int:
        return len(self.script.words) if self.script.n_out < 0 else self.script.n_out

    def _counts(self) -> dict[str, int]:
        if not self.script.usage:
            return {}
        return {
            "prompt_eval_count": self.script.n_prompt,
            "prompt_eval_cached_count": self.script.n_cached,
            "eval_count": self._n_out,
            "eval_duration": 7,
        }

    def _event(self, event: dict[str, Any] | bytes) -> bytes:
        raw = event if isinstance(event, bytes) else json.dumps(event, ensure_ascii=False).encode()
        if self.script.shape == "ndjson":
            return raw + b"\n"
        end = b"\r\n" if self.script.shape == "sse-crlf" else b"\n"
        return b": a comment" + end + b"data: " + raw + end + end

    def _json(self) -> bytes:
        text = "".join(self.script.words)
        reply = {"response": text, "done": True, "done_reason": self.script.finish, **self._counts()}
        return json.dumps(reply).encode()


@contextlib.asynccontextmanager
async def golden_process(*options: str) -> AsyncIterator[int]:
    """A golden server in a process of its own; yields its port. It ends with its standard input."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "vllama.bench.golden",
        *options,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        if not line:
            raise OSError("the golden server did not start")
        yield int(json.loads(line)["port"])
    finally:
        process.stdin.close()
        await process.wait()


async def _main(args: argparse.Namespace) -> None:
    server = GoldenServer(PlayedModel(args.ttft_ms / 1e3, args.gap_ms / 1e3))
    server.port = args.port
    async with server:
        print(json.dumps({"port": server.port}), flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="vllama.bench.golden")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ttft-ms", type=float, default=0.0, help="of the played model")
    parser.add_argument("--gap-ms", type=float, default=0.0, help="of the played model")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
