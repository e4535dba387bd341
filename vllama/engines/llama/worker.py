"""The worker process: `python -m vllama.engines.llama.worker SOCKET_FD DEATH_FD PULSE_FD`, started by `engine.py`.

One thread owns the model and runs the step loop; frames are read between two steps without blocking. A second
thread sleeps on the death pipe: it answers pings with the age of the current step, and ends the process when the
gateway is gone, even in the middle of a decode.
"""

from __future__ import annotations

import _thread
import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from vllama.engines.llama import frames
from vllama.engines.llama.batcher import Batcher
from vllama.engines.llama.bindings import Context, LoadError, Log, Model, die_with_parent, free_device_memory, offloads
from vllama.engines.llama.embedder import Embedder
from vllama.engines.llama.offloading import fewer, fitting, share
from vllama.engines.llama.shelf import Shelf, identity_of
from vllama.engines.pages import affordable, copies
from vllama.engines.pulse import PULSE

REST_MS = 10_000
"""After such a time without work, memory that grew is given back."""

SAVE_MS = 300
"""After such a time without work, prefix cache is written to disk where that is wanted."""

LULL_MS = 20
"""Housekeeping waits so long for the next request of a client that asks one after the other."""

READ = 4 << 20
"""Bytes read between two steps at most: a huge request must not hold up those that run."""


class Worker:
    """Reads frames, steps the batcher, writes frames."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._splitter = frames.Splitter()
        self._decode = msgspec.msgpack.Decoder(frames.ToWorker).decode
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll is not None:
            self._poll.register(connection.fileno(), select.POLLIN)
        self._batcher: Batcher | Embedder | None = None
        self.stepping_since = 0

    def run(self) -> None:
        """Until the gateway closes the socket or sends `Shutdown`."""
        while True:
            batcher = self._batcher
            idle = batcher is None or not batcher.runnable
            if idle and batcher is not None and batcher.untidy and not self._wait(LULL_MS):
                batcher.tidy()
                continue
            if idle and isinstance(batcher, Batcher) and batcher.unsaved and not self._wait(SAVE_MS):
                batcher.save()
                continue
            if idle and batcher is not None and batcher.stretched and not self._wait(REST_MS):
                batcher.shrink()
                continue
            if not self._read(block=idle):
                return
            if batcher is not None:
                for answer in batcher.collect():
                    self.send(answer)
            if batcher is not None and batcher.runnable:
                self.stepping_since = time.monotonic_ns()
                news = batcher.step()
                self.stepping_since = 0
                if news is not None:
                    self.send(news)
                if batcher.runnable:
                    batcher.tidy()

    def send(self, frame: frames.Frame) -> None:
        """Blocks while the socket is full: the gateway always reads."""
        self._socket.sendall(frames.pack(frame))

    def _read(self, *, block: bool) -> bool:
        """Handle what has arrived; wait for something if `block`. False: leave."""
        room = READ
        while True:
            try:
                data = self._socket.recv(1 << 18, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if not block:
                    return True
                self._wait()
                block = False
                continue
            except ConnectionError:
                return False
            if not data:
                return False
            room -= len(data)
            for body in self._splitter.feed(data):
                frame = self._decode(body)
                if isinstance(frame, frames.Shutdown):
                    return False
                self._handle(frame)
            block = False
            if room <= 0:
                return True

    def _wait(self, limit_ms: int | None = None) -> bool:
        """Until a frame comes, something has been prepared, its deadline has passed or the limit is over.

        False: it was the limit.
        """
        preparation = self._batcher.preparation if self._batcher is not None else None
        patience = preparation.patience() if preparation is not None else None
        waits = [limit_ms] if limit_ms is not None else []
        if patience is not None:
            waits.append(int(patience * 1000) + 1)
        milliseconds = min(waits, default=None)
        if self._poll is not None:
            came = bool(self._poll.poll(milliseconds))
        else:
            watched: list[Any] = [self._socket]
            if preparation is not None:
                watched.append(preparation)
            came = bool(select.select(watched, [], [], None if milliseconds is None else milliseconds / 1000)[0])
        return came or milliseconds != limit_ms

    def _handle(self, frame: Any) -> None:
        if isinstance(frame, frames.Load):
            self._load(frame)
            return
        assert self._batcher is not None, "the first frame must be Load"
        answer = self._batcher.handle(frame)
        if answer is not None:
            self.send(answer)

    def _load(self, load: frames.Load) -> None:
        # The first token will want it; importing takes about as long as mapping a small model.
        _thread.start_new_thread(importlib.import_module, ("numpy",))
        log = Log(load.debug)
        shown = -1

        def progress(done: float) -> None:
            nonlocal shown
            if int(done * 100) > shown:
                shown = int(done * 100)
                self.send(frames.Progress(done))

        try:
            if not os.path.isfile(load.path):
                raise LoadError("no such file")
            self._batcher = _fitted(load, progress, log)
        except LoadError as error:
            self.send(frames.LoadFailed(str(error)))
            return
        if self._poll is not None:
            self._poll.register(self._batcher.preparation.fileno(), select.POLLIN)
        # What exists now stays: keep the collector from walking it.
        gc.collect()
        gc.freeze()
        self.send(self._batcher.ready())


def _fitted(load: frames.Load, progress: Callable[[float], None], log: Log) -> Batcher | Embedder:
    """Load with as many layers on the GPU as fit, unless the user said how many."""
    free = free_device_memory() if load.gpu_layers < 0 and load.layers is not None else ()
    if load.layers is None or not free:
        return _loaded(load, load.gpu_layers, progress, log)
    count = fitting(load.layers, cells=load.cells, free=free)
    while True:
        try:
            return _loaded(load, count, progress, log)
        except LoadError as error:
            # The estimate knows neither what the driver takes nor who else takes memory meanwhile.
            if not count:
                raise
            sys.stderr.write(f"with {count} layers on the GPU: {error}; trying fewer\n")
            count = fewer(count)
            log.problems.clear()


def _loaded(load: frames.Load, gpu_layers: int, progress: Callable[[float], None], log: Log) -> Batcher | Embedder:
    mmap = load.mmap
    if mmap is None and copies(load.path, offloads=offloads(gpu_layers)):
        mmap = False
    model = Model(
        load.path,
        gpu_layers=gpu_layers,
        main_gpu=load.main_gpu,
        mmap=mmap,
        mlock=load.mlock,
        adapters=load.adapters,
        progress=progress,
        log=log,
    )
    if model.on_gpu and load.layers is not None:
        model.on_gpu = share(load.layers, gpu_layers)
    try:
        if model.has_encoder and model.has_decoder:
            raise LoadError("encoder-decoder models are not supported")
        return _batcher(load, model)
    except LoadError:
        model.close()
        raise


def _batcher(load: frames.Load, model: Model) -> Batcher | Embedder:
    if model.pools:
        return Embedder(model, threads=load.threads, flash_attention=load.flash_attention)
    # Recurrent state is not made of cells: one memory holds it for all.
    split = not model.recurrent
    slots = min(load.live, 256)
    # Every sequence may want logits in one step; the library aborts on more outputs than batch rows.
    batch = max(load.batch, slots)
    context = Context(
        model,
        cells=max(load.cells // slots, 1) if split else load.cells,
        slots=slots,
        batch=batch,
        threads=load.threads,
        flash_attention=load.flash_attention,
        kv_type=load.kv_cache_type,
        split=split,
        affordable=affordable,
    )
    shelf = None
    if load.prefix_dir and not model.adapters:
        identity = f"{identity_of(load.path)} {context.identity()}"
        shelf = Shelf(Path(load.prefix_dir), identity, load.prefix_bytes)
    kv_type = load.kv_cache_type
    return Batcher(model, context, live=load.live, batch=batch, chunk=load.chunk, kv_type=kv_type, shelf=shelf)


def _watch(worker: Worker, death: int, pulse: int) -> None:
    """Answer pings. The gateway alone holds the other end: end of file means that it is gone, however it went."""
    while True:
        try:
            if not os.read(death, 1):
                break
            since = worker.stepping_since
            os.write(pulse, PULSE.pack(time.monotonic_ns() - since if since else 0))
        except InterruptedError:
            continue
        except OSError:
            break
    os._exit(1)


def main() -> None:
    """Take over the inherited descriptors and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.setblocking(True)
    worker = Worker(connection)
    _thread.start_new_thread(_watch, (worker, int(sys.argv[2]), int(sys.argv[3])))
    die_with_parent()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        worker.run()
    sys.stderr.flush()
    # Without destructors: the operating system frees gigabytes faster than the library does.
    os._exit(0)


if __name__ == "__main__":
    main()
