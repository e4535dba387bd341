"""`ServedEngine`: an engine maker's own OpenAI server as a supervised child. vLLM and MAX say how theirs is started."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllama.engines.base import EngineStats, LoadOptions, ModelFacts, ModelSource, Progress
from vllama.engines.completions.client import Address, Client
from vllama.engines.completions.directory import Directory, inspect
from vllama.engines.completions.engine import CompletionsEngine
from vllama.engines.completions.logprobs import Vocabulary
from vllama.engines.completions.requests import Dialect
from vllama.engines.completions.startup import Startup
from vllama.engines.supervisor import Child
from vllama.errors import EngineCrashed, ModelLoadError, ServerError
from vllama.hardware import Hardware, facts

log = logging.getLogger("vllama.engines.served")

POLL_S = 0.2
HEALTH_S = 10.0
"""Seconds between two looks at a server that has work, and that an answer may take."""

MISSES = 3
"""So many looks without an answer end it."""


@dataclass(frozen=True, slots=True)
class Order:
    """A program to start, and where it will answer. `ready`: the path that says 200 once it can."""

    argv: list[str]
    env: dict[str, str]
    address: Address
    ready: str = "/health"


class ServedEngine(CompletionsEngine):
    """One directory of safetensors in one server. See `base.Engine`; it does not shift contexts."""

    name = "served"
    title = "the model's server"
    dialect = Dialect("model")

    def __init__(self, source: ModelSource, options: LoadOptions | None = None) -> None:
        super().__init__()
        self._source = source
        self._options = options or LoadOptions()
        self._child = Child("vllama.engines.guard", self.name)
        self._home = Path()
        self._watcher: asyncio.Task[None] | None = None
        self._hangs: asyncio.Task[None] | None = None
        self._dead = ""
        self.startup = Startup(())

    def order(self, model: Directory, home: Path, machine: Hardware) -> Order:
        """How its server is started. `home` is a directory that only this user can enter. Raises `ModelLoadError`."""
        raise NotImplementedError

    @property
    def phase(self) -> str:
        """How far the start is, in words; "" once it is over."""
        return "" if self._facts is not None else self.startup.phase

    @property
    def alive(self) -> bool:
        """Loaded, not closed, and the server runs."""
        return super().alive and not self._dead

    @property
    def pid(self) -> int:
        """Of the process that keeps the server: its group is the server's."""
        return self._child.pid

    async def load(self, progress: Progress | None = None) -> None:
        """Starts the server and waits for it. Raises `ModelLoadError`; a cancelled load leaves no process."""
        try:
            await self._load(progress)
        except BaseException:
            await self.close()
            raise

    async def _load(self, progress: Progress | None) -> None:
        path = self._source.path
        model = await asyncio.to_thread(inspect, path)
        machine = await asyncio.to_thread(facts)
        # A socket's path has 107 bytes at most, so not below the model or the user's own directories.
        self._home = Path(tempfile.mkdtemp(prefix="vllama-"))
        order = self.order(model, self._home, machine)
        await self._start(order, progress)
        await self._learn(model, machine)
        self._hangs = asyncio.create_task(self._look(order.ready))
        if progress is not None:
            progress(1.0)

    async def _start(self, order: Order, progress: Progress | None) -> None:
        path = self._source.path

        def read(line: str) -> None:
            if self.startup.read(line):
                log.info("%s: %s", path.name, self.startup.phase)
            if progress is not None:
                # Any word is a sign of life; how long it may stay silent is the caller's to say.
                progress(self.startup.done)

        self._child.on_line = read
        try:
            connection = await self._child.start()
        except OSError as error:
            raise ModelLoadError(f"unable to load model: {path}: {self.title} cannot be started: {error}") from None
        connection.setblocking(False)
        told = {"argv": order.argv, "env": order.env, "cwd": str(self._home)}
        with connection:
            await asyncio.get_running_loop().sock_sendall(connection, json.dumps(told).encode() + b"\n")
        self._watcher = asyncio.create_task(self._watch())
        self._client = Client(order.address)
        there = Path(order.address.uds) if order.address.uds else None
        while not ((there is None or there.exists()) and await self._client.healthy(order.ready, HEALTH_S)):
            if self._dead:
                raise ModelLoadError(f"unable to load model: {path}: {self._dead}")
            await asyncio.sleep(POLL_S)
        self._child.on_line = None

    async def _learn(self, model: Directory, machine: Hardware) -> None:
        assert self._client is not None
        rows: list[dict[str, Any]] = (await self._client.fetch("/v1/models")).get("data") or [{}]
        self._dialect = self.dialect
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            self._vocabulary = await asyncio.to_thread(Vocabulary.read, model.path / "tokenizer.json")
        self._facts = ModelFacts(
            train_ctx=rows[0].get("max_model_len") or model.context,
            vocab_size=model.vocab_size,
            size=model.size,
            size_vram=model.size if machine.gpus else 0,
            bos=model.bos,
            eos=model.eos,
            can_shift=False,
            can_embed=model.pooling,
            description=f"{self.title}, {model.path.name}",
        )

    async def _watch(self) -> None:
        """Waits for the server's end and keeps what it died of."""
        code = await self._child.wait()
        said = self._child.verdict or self.startup.failure
        if not said:
            lines = [line for line in self._child.stderr if line.strip()]
            said = lines[-1] if lines else ""
        killed = code in (-9, 137)
        end = "it was killed; if nobody did, the machine ran out of memory" if killed else f"exit code {code}"
        self._dead = f"{self.title} ended: {end}" + (f": {said}" if said else "")
        if not self._closed:
            log.error("%s[%d]: %s; its last words:\n%s", self.name, self.pid, self._dead, self._child.last_words())
        # Its descendants hold memory that the next one needs.
        self._child.kill_group()

    async def _look(self, path: str) -> None:
        """Ends a server that has work and does not say that it is well: stopped, or hung in a driver."""
        misses = 0
        while self.alive:
            await asyncio.sleep(HEALTH_S)
            client = self._client
            if client is None:
                return
            if not self._active or await client.healthy(path, HEALTH_S):
                misses = 0
                continue
            misses += 1
            if misses >= MISSES:
                self._child.condemn(f"it did not answer {path} {misses} times")
                return

    def broken(self, error: ServerError) -> ServerError:
        """A lost connection is the server's death; whoever asks next gets a new one."""
        if isinstance(error, EngineCrashed) and not self._closed:
            verdict = self._child.verdict
            said = f"{self.title} was ended: {verdict}" if verdict else f"the connection to {self.title} broke"
            self._dead = self._dead or said
            return EngineCrashed(
                "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
                f"check ollama server logs for details ({self._dead})"
            )
        return error

    async def stats(self) -> EngineStats:
        """What passed through this engine, with the server's process."""
        return dataclasses.replace(await super().stats(), pid=self.pid)

    async def close(self) -> None:
        """See `base.Engine`. Its whole process group goes at once: nothing in it is worth a farewell."""
        await super().close()
        for task in (self._hangs, self._watcher):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._hangs = self._watcher = None
        self._child.kill()
        self._child.kill_group()
        await self._child.stop()
        if self._home != Path():
            await asyncio.to_thread(shutil.rmtree, self._home, True)
