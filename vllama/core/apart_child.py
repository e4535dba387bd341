"""One of the processes of `apart`: calls functions until nobody asks for a minute. `python -m … SOCKET DEATH`."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import socket
import sys
import threading
import traceback
from typing import Any

from vllama.core.apart import HEAD
from vllama.errors import RequestError, VllamaError

IDLE_S = 60.0
NICENESS = 10
"""The model's threads come first: beside them, this is about a tenth of a core."""

MEMORY = 2 << 30
"""Bytes of address space: a body of 256 MiB can become a hundred times as much in objects."""


def main(connection: socket.socket, death: int) -> None:
    """Serve until the other end is closed or has nothing to ask."""
    threading.Thread(target=_watch, args=(death,), daemon=True).start()
    _step_back()
    _bound_memory()
    while select.select([connection], [], [], IDLE_S)[0]:
        start = _receive(connection, HEAD.size)
        if start is None:
            return
        head_size, data_size = HEAD.unpack(start)
        answer = _answer(connection, head_size, data_size)
        connection.sendall(HEAD.pack(len(answer), 0))
        connection.sendall(answer)


def _answer(connection: socket.socket, head_size: int, data_size: int) -> bytes:
    try:
        head = _receive(connection, head_size)
        data = _receive(connection, data_size)
        if head is None or data is None:
            os._exit(0)
        function, arguments, named, has_data = pickle.loads(head)
        value = function(bytes(data), *arguments, **named) if has_data else function(*arguments, **named)
        return pickle.dumps(("value", value), 5)
    except VllamaError as error:
        return _error(error)
    except MemoryError:
        return pickle.dumps(("memory", ""), 5)
    except Exception:
        return pickle.dumps(("crash", traceback.format_exc()), 5)


def _error(error: VllamaError) -> bytes:
    try:
        packed = pickle.dumps(("error", error), 5)
        pickle.loads(packed)
    except Exception:  # an error whose constructor wants more than a text
        return pickle.dumps(("error", RequestError(error.text, status=error.status)), 5)
    return packed


def _receive(connection: socket.socket, size: int) -> bytearray | None:
    """So many bytes; None at the end of the stream."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if not count:
            return None
        view = view[count:]
    return data


def _step_back() -> None:
    """Let the model's threads go first. They wait for each other hundreds of times a token, so that one of them that
    has lost its core to us stops them all.

    Linux groups processes by session where `sched_autogroup_enabled` is set, as most distributions do; niceness counts
    within a group only, and the model is in another. So the group of this session, which is ours alone, steps back too.
    """
    os.nice(NICENESS)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "wb", buffering=0) as file:
        file.write(b"%d" % NICENESS)


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:  # no such limits on this system
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _watch(death: int) -> Any:
    """The server is gone: nobody wants the rest."""
    os.read(death, 1)
    os._exit(0)


if __name__ == "__main__":
    socket_fd, death_fd = map(int, sys.argv[1:3])
    main(socket.socket(fileno=socket_fd), death_fd)
