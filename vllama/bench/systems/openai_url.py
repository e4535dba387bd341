"""Any server that speaks OpenAI's API and that somebody else runs."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from urllib.parse import SplitResult, urlsplit

import psutil

from vllama.bench import probe
from vllama.bench.dialects import Reply
from vllama.bench.probe import TreeMeter
from vllama.bench.systems.base import Boot, Setup, Unavailable, free_port
from vllama.bench.systems.http import GOLDEN_TOKENS, HttpSystem
from vllama.bench.systems.openai_engines import first_model
from vllama.bench.systems.relay import KEY

URL, MODEL = "VLLAMA_BENCH_URL", "VLLAMA_BENCH_MODEL"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class OpenAIUrl(HttpSystem):
    """The server at VLLAMA_BENCH_URL (with or without /v1), the model VLLAMA_BENCH_MODEL or the first that it lists.

    We neither start nor stop it. On this machine its memory and CPU time are measured if we may see its process.
    Another host, https or a key need a relay process, which the record says.
    """

    key = "openai-url"
    title = "OpenAI-compatible server"
    lane = "defaults"
    api = "openai"
    capabilities = frozenset({"stream", "chat", "cancel"})

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._target = urlsplit("")
        self._meter: TreeMeter | None = None
        self._root = 0

    def find(self) -> None:
        """The variable must hold an http or https URL."""
        url = os.environ.get(URL, "")
        target = urlsplit(url)
        if not url:
            raise Unavailable(f"no {URL}: set it to the server's address, for instance http://127.0.0.1:8000/v1")
        if target.scheme not in ("http", "https") or not target.hostname:
            raise Unavailable(f"{URL} is no http or https URL")
        self._target = target
        self.described.version = "not known"
        self.described.notes = ["not started by the harness: its settings and its model file are not known"]

    @property
    def relayed(self) -> bool:
        """Whether the client cannot reach it as it reaches the others."""
        target = self._target
        plain = target.path.rstrip("/") in ("", "/v1") and not os.environ.get(KEY)
        return not (target.scheme == "http" and target.hostname in LOOPBACK and plain)

    def command(self) -> tuple[list[str], dict[str, str]]:
        """The relay's, which is no part of the system."""
        argv = [sys.executable, "-m", "vllama.bench.systems.relay", str(self.port), _address(self._target)]
        return argv, {KEY: os.environ[KEY]} if os.environ.get(KEY) else {}

    async def start(self) -> None:
        """See `System.start`; what is started is at most the relay."""
        if self.relayed:
            self.port = free_port()
            argv, env = self.command()
            await self._launch(argv, {**self.environ(), **env})
            self.described.notes.append("a relay process stands between the client and this server: one hop more")
        else:
            self.port = self._target.port or 80
        await self._until(self._accepts, "accept connections")
        self.boot = Boot(accepts=time.monotonic_ns())
        self._root = 0 if self._target.hostname not in LOOPBACK else listener(self._target.port or 80)
        self._meter = TreeMeter(self.pids)
        self.model = os.environ.get(MODEL) or await first_model(self)
        self.described.options = {"model": self.model}
        await self._until(self._answers, "give the golden answer")
        self.boot = dataclasses.replace(self.boot, answered=time.monotonic_ns())

    def judge(self, reply: Reply) -> str:
        """A foreign model may end early, but it must answer."""
        if reply.error:
            return reply.error
        return "" if reply.text.strip() and reply.n_out <= GOLDEN_TOKENS else f"golden request: text {reply.text!r}"

    @property
    def pid(self) -> int:
        """The server's, if it is on this machine and we may see it; else 0."""
        return self._root

    def pids(self) -> list[int]:
        """The server's process tree; the relay is not part of it."""
        return probe.tree(self._root) if self._root else []

    def cpu_seconds(self) -> float:
        """Of the server, 0 where it cannot be seen."""
        return self._meter.cpu_seconds() if self._meter is not None else 0.0

    def pss(self) -> int:
        """Of the server, 0 where it cannot be seen."""
        return self._meter.pss() if self._meter is not None else 0

    @property
    def peak_pss(self) -> int:
        """The highest `pss` that was read since the start."""
        return self._meter.peak_pss if self._meter is not None else 0


def listener(port: int) -> int:
    """The process of this machine that listens on a TCP port; 0 if none is seen. Several workers: their parent."""
    found = [process for process in psutil.process_iter() if probe.listens([process.pid], port)]
    pids = {process.pid for process in found}
    roots = [process.pid for process in found if _parent(process) not in pids]
    return roots[0] if len(roots) == 1 else 0


def _parent(process: psutil.Process) -> int:
    try:
        return int(process.ppid())
    except psutil.Error:
        return 0


def _address(target: SplitResult) -> str:
    """The URL without a user's name or password."""
    return target._replace(netloc=target.netloc.rpartition("@")[2]).geturl()
