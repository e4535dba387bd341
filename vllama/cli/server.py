"""`vllama serve`: wires the parts together, runs them under uvicorn, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from vllama import __version__
from vllama.cli import ports
from vllama.cli.logs import FORMAT, keep_log, note
from vllama.config import Settings
from vllama.errors import ConfigError, ServerError, VllamaError
from vllama.goduration import NS_PER_SECOND

if TYPE_CHECKING:
    from vllama.core.service import Service

log = logging.getLogger("vllama.server")

LINGER_S = 1.0
"""How long connections may stay open once no model works any more: enough to send what is left."""

AFTER_GRACE_S = 5.0
"""How long answers that were told to end may take to say so, and engines to go."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)

GC_OBJECTS = 10_000
"""So many new objects alive make the garbage collector look for cycles among them."""


def build_service(settings: Settings) -> Service:
    """The core with its library, as the settings say. Loads no model and starts nothing."""
    from vllama.core.prompting import Prompter, capabilities
    from vllama.core.service import Service
    from vllama.models.library import Library

    library = Library(settings.models_dir, overlay=settings.packaged_models, inspect=capabilities)
    service = Service(settings, library)
    service.prompter = Prompter(go_template=settings.go_template)
    return service


def run_server(settings: Settings, sock: socket.socket | None = None, *, until_eof: bool = False) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit status.

    `sock` is a socket that already listens; without one the settings' host is bound first of all, so that
    a busy port is an error before anything is loaded. `until_eof`: also end when standard input ends, which it does
    when the parent is gone, however it went. Raises VllamaError for what keeps the server from starting.
    """
    set_up_logging(settings)
    if sock is None:
        sock = ports.bind(settings.host)
    settings = replace(settings, host=replace(settings.host, port=sock.getsockname()[1]))
    if not until_eof:  # a private server says what it has to say to the command that started it
        keep_log(settings)
    engine = _engine_title(settings)
    for warning in settings.warnings:
        log.warning("%s", warning)

    from vllama.api.app import create_app
    from vllama.api.protocol import Protocol
    from vllama.core.pulling import elsewhere
    from vllama.models.blobs import remove_leftovers

    service = build_service(settings)
    # Beside the start, not in its way: a store may lie on a slow disk.
    threading.Thread(target=remove_leftovers, args=(service.library.store,), name="leftovers", daemon=True).start()
    for name in settings.preload:
        # Before anything is served, but for what will be pulled once the server is up.
        if not elsewhere(name):
            service.resolve(name, allow_path=True)
    config = uvicorn.Config(
        create_app(service),
        loop="uvloop" if _has("uvloop") else "asyncio",
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        # Ollama never closes an idle connection; a client's pool would meet the close with its next request.
        timeout_keep_alive=3600,
        timeout_graceful_shutdown=int(settings.shutdown_grace / NS_PER_SECOND + AFTER_GRACE_S) + 1,
    )
    server = Server(config, service, settings, engine)
    if until_eof:
        _end_with_parent(settings)
    server.run(sockets=[sock])
    if server.failure is not None:
        raise server.failure
    return 0


def _settle() -> None:
    """What is there once the server is up stays: the garbage collector need not look at it again and again.

    Requests leave few cycles behind. Python's default looks for them each time 700 objects more are alive, which with
    hundreds of streams is always, and finds none.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 10, 10)


class Server(uvicorn.Server):
    """uvicorn's server with vLLama's way down: running answers first finish or are told, then engines close."""

    def __init__(self, config: uvicorn.Config, service: Service, settings: Settings, engine: str) -> None:
        super().__init__(config)
        self.service = service
        self.settings = settings
        self.engine = engine
        self.failure: VllamaError | None = None
        self._ready: asyncio.Task[None] | None = None
        self._drain: asyncio.Task[None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready = asyncio.create_task(self._get_ready())

    async def _get_ready(self) -> None:
        """Loads what shall be there from the start, then says that the server is up; failing ends it."""
        try:
            for name in self.settings.preload:
                await self.service.preload(name)
        except Exception as error:
            if not isinstance(error, VllamaError):
                log.exception("loading at the start failed")
            self.failure = (
                error if isinstance(error, VllamaError) else ServerError(f"the server did not start: {error}")
            )
            self.should_exit = True
            return
        _settle()
        host = replace(self.settings.host, scheme="http", path="")  # what a proxy in front of us makes of it
        url = host.url if host.name else f"port {host.port} of every address"
        print(f"vLLama {__version__} listening on {url} (engine: {self.engine})", file=sys.stderr, flush=True)
        note("vLLama %s listening on %s (engine: %s)", __version__, url, self.engine)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._ready is not None:
            self._ready.cancel()
        drain = self._drain = asyncio.create_task(self.service.drain(self.settings.shutdown_grace / NS_PER_SECOND))
        await super().shutdown(sockets)
        if self.force_exit:
            drain.cancel()
            with contextlib.suppress(TimeoutError):  # uvicorn leaves this out, and the task would die with a traceback
                await asyncio.wait_for(self.lifespan.shutdown(), AFTER_GRACE_S)
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            await asyncio.wait_for(drain, AFTER_GRACE_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.service.stop(), AFTER_GRACE_S)

    async def _wait_tasks_to_complete(self) -> None:
        """As uvicorn's, but a client that never sends the rest of its request holds nobody up."""
        rest = asyncio.create_task(super()._wait_tasks_to_complete())
        try:
            await asyncio.wait({rest, self._drain}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({rest}, timeout=LINGER_S)
            for task in self.server_state.tasks:
                task.cancel()
            await asyncio.wait({rest}, timeout=LINGER_S)
        finally:
            rest.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but an orderly end is exit status 0: the signal is not raised again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends the server in order, a second one at once."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True


def set_up_logging(settings: Settings) -> None:
    """Log lines on standard error: vLLama's from INFO on (DEBUG with the debug setting), others' from WARNING on."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format=FORMAT)
    logging.getLogger("vllama").setLevel(logging.DEBUG if settings.debug > 0 else logging.INFO)


def _engine_title(settings: Settings) -> str:
    """The engine's name for people. Raises ConfigError if the one that the settings name cannot run here."""
    from vllama.engines.registry import choose

    try:
        return choose("gguf", settings.engine).title
    except ConfigError:
        if settings.engine:
            raise
        return "none can run here, see `vllama doctor`"


def _has(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def _end_with_parent(settings: Settings) -> None:
    """Ends this process when standard input does; by force if that takes too long."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(settings.shutdown_grace / NS_PER_SECOND + 3 * AFTER_GRACE_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
