"""A server that the harness starts, finds ready, and stops for certain."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import subprocess
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import IO, Any

import psutil

from vllama.bench import probe
from vllama.bench.client import Exchange, fetch
from vllama.bench.dialects import (
    Api,
    Reply,
    chat_request,
    constrained_request,
    embed_request,
    greedy_request,
    read_reply,
)
from vllama.bench.load import closed_loop, samples_of
from vllama.bench.results import Sample
from vllama.bench.systems.base import (
    Boot,
    Later,
    Setup,
    System,
    SystemFailed,
    clean_environ,
    free_port,
)
from vllama.bench.systems.kept import Kept

GRACE_S = 10.0
"""How long a server may take to end by itself."""

GOLDEN_PROMPT, GOLDEN_TOKENS = "One, two, three,", 4


class HttpSystem(System):
    """A server on a free loopback port, started as a child that cannot outlive us.

    `api` is the language of its requests; `model` what they call the model, `raw_model` what completions call it where
    that differs (a name whose template is the bare prompt).
    """

    api: Api
    model = ""
    raw_model = ""
    poll_s = 0.02
    start_s = 0.0
    """How long a start may take where that is more than the plan's time limit."""
    ends_with_input = False
    """Whether the program ends when its standard input does."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._no_delay = True

    @property
    def no_delay(self) -> bool:
        """As seen on the sockets of the last slot."""
        return self._no_delay

    @abstractmethod
    def command(self) -> tuple[list[str], dict[str, str]]:
        """(argv, environment variables) for `self.port`."""

    def environ(self) -> dict[str, str]:
        """The environment that `command`'s variables are added to."""
        return clean_environ()

    async def prepare(self) -> None:
        """Called when the port accepts connections: make the model known, where the API must do that."""

    def options(self) -> dict[str, Any]:
        """What each request of this system says more: options of Ollama's API, top-level fields of the others."""
        return {}

    # What the load generators send: (path, body).

    def completion(self, prompt: str, n_out: int, *, stream: bool, **more: Any) -> tuple[str, bytes]:
        """Greedy completion of a bare prompt. `more` are further options."""
        name = self.raw_model or self.model
        return greedy_request(self.api, name, prompt, n_out, stream=stream, options={**self.options(), **more})

    def chat(self, messages: Sequence[dict[str, Any]], n_out: int, *, stream: bool, **more: Any) -> tuple[str, bytes]:
        """Greedy chat."""
        return chat_request(self.api, self.model, messages, n_out, stream=stream, options={**self.options(), **more})

    def constrained(
        self, messages: Sequence[dict[str, Any]], schema: dict[str, Any], n_out: int, *, stream: bool
    ) -> tuple[str, bytes]:
        """Greedy chat whose answer follows a JSON schema."""
        return constrained_request(self.api, self.model, messages, schema, n_out, stream=stream, options=self.options())

    def embedding(self, inputs: Sequence[str]) -> tuple[str, bytes]:
        """A batch of embeddings."""
        return embed_request(self.api, self.model, inputs, options=self.options())

    def complete(self, samples: list[Sample], prompts: Sequence[str], n_out: int) -> list[Sample]:
        """Called after a slot, outside of any measurement: fill in what the answers did not say."""
        return samples

    async def start(self) -> None:
        """See `System.start`. The port is checked to belong to the process that was started."""
        self.port = free_port()
        argv, env = self.command()
        await self._launch(argv, {**self.environ(), **env})
        self.described.argv = argv
        self.described.env = env
        self.described.options = self.options()
        await self._until(self._accepts, "accept connections")
        self.boot = dataclasses.replace(self.boot, accepts=time.monotonic_ns())
        if not probe.listens(self.pids(), self.port):
            raise SystemFailed(
                f"{self.title}: port {self.port} belongs to another process: somebody took it first; run it again"
            )
        await self._until(self._prepared, "take the model")
        self.boot = dataclasses.replace(self.boot, prepared=time.monotonic_ns())
        await self._until(self._answers, "give the golden answer")
        self.boot = dataclasses.replace(self.boot, answered=time.monotonic_ns())
        self.cpu_seconds()
        self.cpu_seconds()  # a second look: a child may have been between fork and exec

    async def drive(self, prompts: Sequence[str], n_out: int, concurrency: int, *, stream: bool) -> Later:
        """See `System.drive`."""
        requests = [self.completion(prompt, n_out, stream=stream) for prompt in prompts]
        exchanges, self._no_delay = await closed_loop(self.port, requests, concurrency, self.setup.timeout)
        return lambda slot, t0: self.complete(samples_of(exchanges, prompts, slot, t0), prompts, n_out)

    async def stop(self) -> None:
        """SIGTERM, ten seconds, then SIGKILL for every descendant that is left; then make sure."""
        kept, self._kept = self._kept, None
        process, self._process = self._process, None
        if kept is not None and process is not None:
            family = kept.family()
            if process.stdin is not None:
                process.stdin.close()
            kept.ask_to_end()
            await asyncio.to_thread(_wait, process, GRACE_S)
            kept.kill()
            await asyncio.to_thread(_wait, process, GRACE_S)
            kept.close()
            left = await asyncio.to_thread(_end, family)
            if left or process.poll() is None:
                raise SystemFailed(f"{self.title} cannot be stopped: process {left or process.pid} is still there")
        if self._log is not None:
            self._log.close()
            self._log = None

    async def fetch(self, path: str, body: bytes | None = None) -> Exchange:
        """One request outside any measurement."""
        return await fetch(self.port, path, body, timeout=self.setup.timeout)

    async def _launch(self, argv: list[str], env: dict[str, str]) -> None:
        kept = Kept()
        self._log = (self.setup.logs / f"{self.key}.log").open("ab")
        # A plain Popen: it is polled from anywhere, and its start takes a millisecond outside any measurement.
        self._process = subprocess.Popen(  # noqa: ASYNC220
            kept.wrap(argv),
            env=env,
            stdin=subprocess.PIPE if self.ends_with_input else subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=kept.fds,
            cwd=self.setup.scratch,
        )
        self._kept = kept
        try:
            await asyncio.to_thread(kept.begin, self._process.pid)
        except OSError as error:
            raise SystemFailed(f"{self.title} cannot be started: {error}") from error
        self.boot = Boot(spawned=kept.spawned)

    async def _accepts(self) -> str:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError as error:
            return str(error)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return ""

    async def _prepared(self) -> str:
        await self.prepare()
        return ""

    async def _answers(self) -> str:
        """Empty when a small request is answered with exactly as many tokens as asked for, or, where that is all that
        the system or its model can do, with one embedding; otherwise what was wrong."""
        if self.capabilities >= {"stream"}:
            problem = self.judge(
                read_reply(await self.fetch(*self.completion(GOLDEN_PROMPT, GOLDEN_TOKENS, stream=True)))
            )
            # A model that is made for embeddings completes nothing.
            if "embed" not in self.capabilities or "does not support" not in problem:
                return problem
        reply = read_reply(await self.fetch(*self.embedding([GOLDEN_PROMPT])))
        return reply.error or ("" if reply.vectors == 1 else f"golden request: {reply.vectors} embeddings")

    def judge(self, reply: Reply) -> str:
        """What is wrong with the golden answer; empty if nothing."""
        if reply.error:
            return reply.error
        if reply.n_out != GOLDEN_TOKENS or not reply.text.strip():
            return f"golden request: {reply.n_out} tokens, text {reply.text!r}"
        return ""

    async def _until(self, attempt: Callable[[], Awaitable[str]], what: str) -> None:
        limit = max(self.setup.timeout, self.start_s)
        deadline = time.monotonic() + limit
        problem = "not tried"
        while time.monotonic() < deadline:
            if self._kept is not None and (code := self._kept.poll()) is not None:
                raise SystemFailed(f"{self.title} ended with {code}\n{self.last_words()}")
            problem = await attempt()
            if not problem:
                return
            await asyncio.sleep(self.poll_s)
        raise SystemFailed(f"{self.title} did not {what} in {limit:g} s: {problem}\n{self.last_words()}")

    def last_words(self, lines: int = 15) -> str:
        """The end of the server's log."""
        try:
            text = (self.setup.logs / f"{self.key}.log").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _end(family: list[psutil.Process]) -> list[int]:
    """The processes that were still there and did not go; normally the keeper left nothing to do."""
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()
    _, alive = psutil.wait_procs(family, timeout=GRACE_S)
    return [process.pid for process in alive if not _ended(process)]


def _ended(process: psutil.Process) -> bool:
    # In a container nobody may ever collect an orphan's exit status; it runs no more all the same.
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
