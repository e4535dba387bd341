"""Keeps a foreign program on the leash of `supervisor.Child`: `python -m vllama.engines.guard SOCKET DEATH PULSE`.

Programs that are not ours (vLLM's server) know nothing of the death pipe. This small process starts one as the
gateway says over the socket (one line of JSON: argv, env, cwd), passes its output on to standard error, answers pings,
and kills the whole process group when the gateway is gone. It ends as its program ends. Only the standard
library: what runs beside a model shall be small.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading

ZERO = b"\0" * 8
"""The pulse of a process without a step: `pulse.PULSE` of 0."""


def _watch(death: int, pulse: int) -> None:
    while os.read(death, 64):
        with contextlib.suppress(OSError):
            os.write(pulse, ZERO)
    os.killpg(0, signal.SIGKILL)


def main(connection: socket.socket, death: int, pulse: int) -> int:
    """Runs the program; returns its exit status as a shell would."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_watch, args=(death, pulse), daemon=True).start()
    with connection, connection.makefile("r", encoding="utf-8") as lines:
        order = json.loads(lines.readline())
        process = subprocess.Popen(
            order["argv"], stdin=subprocess.DEVNULL, stdout=2, stderr=2, env=order["env"], cwd=order["cwd"]
        )
        code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    socket_fd, death_fd, pulse_fd = map(int, sys.argv[1:4])
    sys.exit(main(socket.socket(fileno=socket_fd), death_fd, pulse_fd))
