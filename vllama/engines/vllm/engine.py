"""`VllmEngine`: vLLM's own OpenAI server on a Unix socket that only this user can reach, supervised."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from vllama.engines.base import EngineStats, LoadOptions, ModelFacts, ModelSource, Progress
from vllama.engines.completions.client import Address, Client
from vllama.engines.completions.engine import CompletionsEngine
from vllama.engines.completions.logprobs import Vocabulary
from vllama.engines.completions.requests import Dialect
from vllama.engines.supervisor import Child
from vllama.engines.vllm.arguments import check_memory, command, environment
from vllama.engines.vllm.availability import python
from vllama.engines.vllm.directory import Directory, inspect
from vllama.engines.vllm.phases import Startup
from vllama.errors import EngineCrashed, ModelLoadError, ServerError
from vllama.hardware import facts

log = logging.getLogger("vllama.engines.vllm")

POLL_S = 0.2
HEALTH_S = 10.0
"""Seconds between two looks at a server that has work, and that an answer may take."""

MISSES = 3
"""So many looks without an answer end it."""


class VllmEngine(CompletionsEngine):
    """One directory of safetensors in one vLLM server. See `base.Engine`; it does not shift contexts."""

    name = "vllm"

    def __init__(self, source: ModelSource, options: LoadOptions | None = None) -> None:
        super().__init__()
        self._source = source
        self._options = options or LoadOptions()
        self._child = Child("vllama.engines.guard", "vllm")
        self._home = Path()
        self._watcher: asyncio.Task[None] | None = None
        self._hangs: asyncio.Task[None] | None = None
        self._dead = ""
        self.startup = Startup()

    @property
    def alive(self) -> bool:
        """Loaded, not closed, and the server runs."""
        return super().alive and not self._dead

    @property
    def pid(self) -> int:
        """Of the process that keeps the server: its group is the server's."""
        return self._child.pid

    async def load(self, progress: Progress | None = None) -> None:
        """Starts the server and waits for /health. Raises `ModelLoadError`; a cancelled load leaves no process."""
        try:
            await self._load(progress)
        except BaseException:
            await self.close()
            raise

    async def _load(self, progress: Progress | None) -> None:
        path = self._source.path
        model = await asyncio.to_thread(inspect, path)
        machine = await asyncio.to_thread(facts)
        check_memory(model, machine, self._options)
        # A socket's path has 107 bytes at most, so not below the model or the user's own directories.
        self._home = Path(tempfile.mkdtemp(prefix="vllama-"))
        socket, key = self._home / "vllm.sock", secrets.token_urlsafe(32)
        order = {
            "argv": command(python(), model, socket, self._options),
            "env": environment(model, key, machine, os.environ),
            "cwd": str(self._home),
        }

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
            raise ModelLoadError(f"unable to load model: {path}: vLLM cannot be started: {error}") from None
        connection.setblocking(False)
        with connection:
            await asyncio.get_running_loop().sock_sendall(connection, json.dumps(order).encode() + b"\n")
        self._watcher = asyncio.create_task(self._watch())
        title = "vLLM's server"
        self._client = Client(Address("http://vllm", key, uds=str(socket), retries=0, title=title))
        while not (socket.exists() and await self._client.healthy("/health", HEALTH_S)):
            if self._dead:
                raise ModelLoadError(f"unable to load model: {path}: {self._dead}")
            await asyncio.sleep(POLL_S)
        self._child.on_line = None
        await self._learn(model)
        if progress is not None:
            progress(1.0)

    async def _learn(self, model: Directory) -> None:
        assert self._client is not None
        rows = (await self._client.fetch("/v1/models"))["data"]
        self._dialect = Dialect("model", vllm=True)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            self._vocabulary = await asyncio.to_thread(Vocabulary.read, model.path / "tokenizer.json")
        own = bool((await asyncio.to_thread(facts)).gpus)
        self._facts = ModelFacts(
            train_ctx=rows[0].get("max_model_len") or model.context,
            vocab_size=model.vocab_size,
            size=model.size,
            size_vram=model.size if own else 0,
            bos=model.bos,
            eos=model.eos,
            can_shift=False,
            can_embed=model.pooling,
            description=f"vLLM, {model.path.name}",
        )
        self._hangs = asyncio.create_task(self._look())

    async def _watch(self) -> None:
        """Waits for the server's end and keeps what it died of."""
        code = await self._child.wait()
        said = self._child.verdict or self.startup.failure
        if not said:
            lines = [line for line in self._child.stderr if line.strip()]
            said = lines[-1] if lines else ""
        end = (
            "it was killed; if nobody did, the machine ran out of memory" if code in (-9, 137) else f"exit code {code}"
        )
        self._dead = f"vLLM's server ended: {end}" + (f": {said}" if said else "")
        if not self._closed:
            log.error("%s[%d]: %s; its last words:\n%s", self.name, self.pid, self._dead, self._child.last_words())
        # Its descendants hold memory that the next one needs.
        self._child.kill_group()

    async def _look(self) -> None:
        """Ends a server that has work and does not answer /health: stopped, or hung in a driver."""
        misses = 0
        while self.alive:
            await asyncio.sleep(HEALTH_S)
            client = self._client
            if client is None:
                return
            if not self._active or await client.healthy("/health", HEALTH_S):
                misses = 0
                continue
            misses += 1
            if misses >= MISSES:
                self._child.condemn(f"it did not answer /health {misses} times")
                return

    def broken(self, error: ServerError) -> ServerError:
        """A lost connection is the server's death; whoever asks next gets a new one."""
        if isinstance(error, EngineCrashed) and not self._closed:
            self._dead = self._dead or "the connection to vLLM's server broke"
            return EngineCrashed(
                "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
                f"check ollama server logs for details ({self._dead})"
            )
        return error

    async def stats(self) -> EngineStats:
        """What passed through this engine, with the server's process."""
        import dataclasses

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
