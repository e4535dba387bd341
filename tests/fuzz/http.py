"""Random requests on raw sockets: broken HTTP, broken JSON, wrong types, deep nesting, huge numbers, invalid UTF-8.

A server may refuse them with any 4xx except FastAPI's 422; a 5xx must be one of `EXPECTED`. No answer at all is
fine only where the request is not HTTP.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
from collections.abc import Iterator

EXPECTED = {501}
"""5xx that are promises: routes and features that are known and not there yet."""

ROUTES = (
    "/api/generate /api/chat /api/embed /api/embeddings /api/show /api/copy /api/create "
    "/v1/chat/completions /v1/completions /v1/embeddings /v1/messages /v1/responses"
).split()
READS = "/ /api/version /api/tags /api/ps /v1/models /v1/models/x /health /metrics /api/tags/ //api/ps /nosuch".split()
KEYS = (
    "model name prompt messages role content stream format options tools think keep_alive images input suffix system "
    "template context raw logprobs top_logprobs source destination from files parameters license function arguments "
    "type properties response_format max_tokens temperature stop num_ctx num_predict seed"
).split()
WORDS = ["", "x", "user", "json", "5m", "é", "\x00", "smollm2:135m", "{{ .Prompt }}", "{{", "AAAA", "a" * 3000]
NUMBERS = [0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**40, 1.5, 1e308, -0.0]


def value(dice: random.Random, depth: int = 3) -> object:
    """Any JSON value."""
    kind = dice.randrange(8 if depth else 5)
    if kind < 2:
        return dice.choice(WORDS)
    if kind == 2:
        return dice.choice(NUMBERS)
    if kind < 5:
        return dice.choice([None, True, False])
    if kind == 5:
        return [value(dice, depth - 1) for _ in range(dice.randrange(4))]
    return {dice.choice(KEYS): value(dice, depth - 1) for _ in range(dice.randrange(5))}


def body(dice: random.Random) -> bytes:
    """A body that is right, almost right, or nothing of that kind."""
    fields: dict[str, object] = {"model": dice.choice(["smollm2:135m", "nosuch"]), "options": {"num_predict": 1}}
    fields |= {"prompt": "x", "input": "x", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    for _ in range(dice.randrange(4)):
        fields[dice.choice(KEYS)] = value(dice)
    data = json.dumps(fields).encode()
    kind = dice.randrange(8)
    if kind == 0:
        return data[: dice.randrange(len(data))]
    if kind == 1:
        place = dice.randrange(len(data))
        return data[:place] + dice.randbytes(dice.randrange(1, 4)) + data[place + 1 :]
    if kind == 2:
        opening = dice.choice([b"[", b'{"a":'])
        return opening * dice.choice([10, 400, 20_000])
    return data


def request(dice: random.Random) -> bytes:
    """One request, which now and then is not even HTTP."""
    kind = dice.randrange(10)
    if kind == 0:
        return dice.randbytes(dice.randrange(1, 400)) + b"\r\n\r\n"
    if kind == 1:
        method = dice.choice(["GET", "HEAD", "PUT", "OPTIONS", "DELETE", "BREW", "get"])
        head = f"{method} {dice.choice(READS + ROUTES)} HTTP/{dice.choice(['1.1', '1.0', '9'])}\r\n".encode()
        return (
            head
            + b"Host: localhost\r\n"
            + dice.choice([b"", b"Origin: \xff\r\n", b": x\r\n", b"A" * 999 + b":\r\n"])
            + b"\r\n"
        )
    data = body(dice)
    length = dice.choice([len(data)] * 12 + [0, -1, 10**30])
    return b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (
        dice.choice(ROUTES).encode(),
        length,
        data,
    )


def status(port: int, sent: bytes, timeout: float = 60) -> int:
    """The status of the answer; 0 when the connection was closed without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while (part := sock.recv(65536)) and len(answer) < 1 << 16:
            answer += part
        found = re.match(rb"HTTP/1\.[01] (\d{3})", answer)
        return int(found[1]) if found else 0
    return 0


def fuzz(port: int, count: int, seed: int) -> Iterator[tuple[int, bytes]]:
    """Sends `count` requests, one after the other; yields (status, request) of those that break the rules."""
    dice = random.Random(seed)
    for _ in range(count):
        sent = request(dice)
        found = status(port, sent)
        if found == 422 or (found >= 500 and found not in EXPECTED):
            yield found, sent
