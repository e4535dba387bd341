"""What a system under test is, and how one that speaks HTTP is started, found ready, and stopped for certain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from vllama.bench import probe
from vllama.bench.client import Exchange, fetch
from vllama.bench.dialects import Api, greedy_request, read_reply
from vllama.bench.load import closed_loop, samples_of
from vllama.bench.results import Sample

Later = Callable[[int, int], list[Sample]]
"""(slot index, slot start in ns) -> the samples; called after the slot, because parsing costs time."""


class Unavailable(Exception):
    """The system cannot be measured here; the text says why."""


class SystemFailed(Exception):
    """The system was started but died or never answered; the text ends with its last words."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What all systems share. `ctx` tokens per request, `parallel` requests at once, `timeout` seconds.

    `scratch` is a private folder that lives as long as the run; logs go to `logs`. `root` is the clone.
    """

    root: Path
    scratch: Path
    logs: Path
    gguf: Path
    sha256: str
    ctx: int
    parallel: int
    threads: int
    timeout: float


@dataclass(slots=True)
class Described:
    """What was really started, for the record. `env` holds only what differs from the parent's environment."""

    title: str
    lane: str
    version: str = ""
    argv: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    model_sha256: str = ""
    children: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class System(ABC):
    """One system in one lane. `ceiling` systems have no server and never appear in a ratio of first-token times."""

    key: str
    title: str
    lane: str = "matched"
    ceiling: bool = False

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.described = Described(self.title, self.lane)

    @abstractmethod
    def find(self) -> None:
        """Raise `Unavailable` if the system is not there. Starts nothing that stays."""

    @abstractmethod
    async def start(self) -> None:
        """Start, and return when a golden request was answered right. Raises `SystemFailed`."""

    @abstractmethod
    async def drive(self, prompts: Sequence[str], n_out: int, concurrency: int, *, stream: bool) -> Later:
        """Send all prompts, at most `concurrency` at once, and return when the last one ended."""

    @abstractmethod
    async def stop(self) -> None:
        """End every process of the system. Twice is fine."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """The root of the system's process tree; 0 when it does not run."""

    @property
    def no_delay(self) -> bool:
        """Whether the client's sockets to this system have TCP_NODELAY (true where there is no socket)."""
        return True

    def pids(self) -> list[int]:
        """The living processes of the system."""
        return probe.tree(self.pid) if self.pid else []


class HttpSystem(System):
    """A server that we start as a child on a free loopback port."""

    api: Api
    model = ""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._no_delay = True

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid if self._process is not None else 0

    @property
    def no_delay(self) -> bool:
        """As seen on the sockets of the last slot."""
        return self._no_delay

    @abstractmethod
    def command(self) -> tuple[list[str], dict[str, str]]:
        """(argv, environment variables) for `self.port`."""

    async def prepare(self) -> None:
        """Called when the port accepts connections: make the model known, where the API must do that."""

    def options(self) -> dict[str, Any]:
        """Extra native options of each request."""
        return {}

    async def start(self) -> None:
        """See `System.start`. The port is checked to belong to the process that was started."""
        self.port = free_port()
        argv, env = self.command()
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "VLLAMA_", "LLAMA_ARG_"))}
        self._log = (self.setup.logs / f"{self.key}.log").open("ab")
        # A plain Popen: it is polled from anywhere, and its start takes a millisecond outside any measurement.
        self._process = subprocess.Popen(  # noqa: ASYNC220
            argv,
            env={**clean, **env},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=self.setup.scratch,
        )
        self.described.argv = argv
        self.described.env = env
        self.described.options = self.options()
        await self._until(self._accepts, "accept connections")
        if not probe.listens(self.pids(), self.port):
            raise SystemFailed(f"{self.title}: port {self.port} belongs to another process")
        await self.prepare()
        await self._until(self._answers, "give the golden answer")
        # Whatever the server started to serve the model (a worker, a runner) is part of what was measured.
        self.described.children = [_cmdline(pid) for pid in self.pids()[1:]]

    async def drive(self, prompts: Sequence[str], n_out: int, concurrency: int, *, stream: bool) -> Later:
        """See `System.drive`."""
        requests = [
            greedy_request(self.api, self.model, prompt, n_out, stream=stream, options=self.options())
            for prompt in prompts
        ]
        exchanges, self._no_delay = await closed_loop(self.port, requests, concurrency, self.setup.timeout)
        return lambda slot, t0: samples_of(exchanges, prompts, slot, t0)

    async def stop(self) -> None:
        """SIGTERM, ten seconds, then SIGKILL for every descendant that is left."""
        process, self._process = self._process, None
        if process is None:
            return
        family = _family(process.pid)
        if process.poll() is None:
            process.terminate()
            await asyncio.to_thread(_wait, process, 10.0)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        await asyncio.to_thread(_wait, process, 10.0)
        if self._log is not None:
            self._log.close()

    async def fetch(self, path: str, body: bytes | None = None) -> Exchange:
        """One request outside any measurement."""
        return await fetch(self.port, path, body, timeout=self.setup.timeout)

    async def _accepts(self) -> str:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError as error:
            return str(error)
        writer.close()
        await writer.wait_closed()
        return ""

    async def _answers(self) -> str:
        """Empty when a small request is answered with exactly as many tokens as asked for; otherwise what was wrong."""
        path, body = greedy_request(self.api, self.model, "One, two, three,", 4, stream=True, options=self.options())
        reply = read_reply(await self.fetch(path, body))
        if reply.error:
            return reply.error
        if reply.n_out != 4 or not reply.text.strip():
            return f"golden request: {reply.n_out} tokens, text {reply.text!r}"
        return ""

    async def _until(self, attempt: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + self.setup.timeout
        problem = "not tried"
        while time.monotonic() < deadline:
            assert self._process is not None
            if (code := self._process.poll()) is not None:
                raise SystemFailed(f"{self.title} ended with {code}\n{self.last_words()}")
            problem = await attempt()
            if not problem:
                return
            await asyncio.sleep(0.1)
        raise SystemFailed(f"{self.title} did not {what} in {self.setup.timeout:g} s: {problem}\n{self.last_words()}")

    def last_words(self, lines: int = 15) -> str:
        """The end of the server's log."""
        try:
            text = (self.setup.logs / f"{self.key}.log").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _cmdline(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []


def _family(pid: int) -> list[psutil.Process]:
    """The process and its descendants, as objects that notice when a process id was given to somebody else."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
