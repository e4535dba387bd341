"""The client of `hostile`: `python -m vllama.bench.hostile_client KIND PORT SECONDS SIZE`.

Makes its request, says that it is ready, and from a line on standard input on sends it again and again, each when the
one before it was answered. Prints how they were answered. It steps back before everybody else, since an attacker has
a processor of its own: what a hostile request costs the server is asked, not what it costs to send one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections import Counter

from vllama.bench.client import fetch
from vllama.bench.hostile import ANSWER_S, Request, attacks

PAUSE_S = 0.2
NICENESS = 19


async def send(port: int, request: Request, seconds: float) -> Counter[str]:
    """Answer -> how often it came."""
    answers: Counter[str] = Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        exchange = await fetch(port, *request, timeout=ANSWER_S)
        failed = exchange.error or (exchange.body[:90].decode("utf-8", "replace") if exchange.status != 200 else "")
        answers[f"{exchange.status} {failed}".strip()] += 1
        await asyncio.sleep(PAUSE_S)
    return answers


def main(kind: str, port: int, seconds: float, size: int) -> None:
    """See the module's docstring."""
    os.nice(NICENESS)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "wb", buffering=0) as file:
        file.write(b"%d" % NICENESS)
    request = attacks(size)[kind]()
    print("ready", flush=True)
    sys.stdin.readline()
    answers = asyncio.run(send(port, request, seconds))
    print(", ".join(f"{count} x {answer}" for answer, count in answers.items()))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
