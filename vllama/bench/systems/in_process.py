"""The ceiling as a system: `vllama.bench.ceiling` at the other end of a pipe."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from importlib.metadata import version
from typing import IO, Any

from vllama.bench.results import Sample
from vllama.bench.systems.base import Boot, Later, Setup, System, SystemFailed, Unavailable, clean_environ
from vllama.bench.systems.kept import Kept


class InProcess(System):
    """llama.cpp through llama_cpp in a plain loop. Shown as the bound; no server, so no first-token ratio."""

    key = "in-process"
    title = "llama_cpp in process (ceiling)"
    ceiling = True
    capabilities = frozenset({"stream"})

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._process: Process | None = None
        self._log: IO[bytes] | None = None

    def find(self) -> None:
        """llama_cpp must be installed in this environment."""
        if importlib.util.find_spec("llama_cpp") is None:
            raise Unavailable("llama-cpp-python is not installed: pip install llama-cpp-python")
        self.described.version = f"llama-cpp-python {version('llama-cpp-python')}"
        self.described.model_sha256 = self.setup.sha256

    async def start(self) -> None:
        """Load the model in the child."""
        argv = [sys.executable, "-m", "vllama.bench.ceiling"]
        self._log = (self.setup.logs / f"{self.key}.log").open("ab")
        kept = Kept()
        self._process = await asyncio.create_subprocess_exec(
            *kept.wrap(argv),
            stdin=PIPE,
            stdout=PIPE,
            stderr=self._log,
            env=clean_environ(),
            start_new_session=True,
            pass_fds=kept.fds,
            limit=2**26,
        )
        self._kept = kept
        try:
            await asyncio.to_thread(kept.begin, self._process.pid)
        except OSError as error:
            raise SystemFailed(f"{self.title} cannot be started: {error}") from error
        self.boot = Boot(spawned=kept.spawned)
        self.described.argv = argv
        self.described.options = {
            "n_ctx": self.setup.ctx,
            "n_seq": self.setup.parallel,
            "n_threads": self.setup.threads,
        }
        async with asyncio.timeout(self.setup.timeout):
            await self._ask({"model": str(self.setup.gguf), **self.described.options})
        self.boot = Boot(spawned=kept.spawned, answered=time.monotonic_ns())

    async def generate(self, prompts: Sequence[str], n_out: int) -> list[dict[str, Any]]:
        """One static batch; see `vllama.bench.ceiling`."""
        found: list[dict[str, Any]] = await self._ask({"prompts": list(prompts), "n_out": n_out})
        return found

    async def end_margins(self, prompts: Sequence[str], n_out: int) -> list[float]:
        """How many logits each answer stays away from ending before `n_out` tokens; <= 0 if it ends."""
        found: list[float] = await self._ask({"prompts": list(prompts), "n_out": n_out, "screen": True})
        return found

    async def gaps(self, prompt: str, text: str) -> list[float]:
        """The raw engine's judgement of an answer; empty where it cannot judge. See `results.Score`."""
        found: list[float] = await self._ask({"prompt": prompt, "text": text})
        return found

    async def count(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has for the model's own tokenizer, without a leading token of the model's."""
        found: list[int] = await self._ask({"count": list(texts)})
        return found

    async def drive(self, prompts: Sequence[str], n_out: int, concurrency: int, *, stream: bool) -> Later:
        """Batches of `concurrency` prompts, one after the other."""
        answers: list[dict[str, Any]] = []
        for start in range(0, len(prompts), concurrency):
            async with asyncio.timeout(self.setup.timeout):
                answers += await self.generate(prompts[start : start + concurrency], n_out)

        def later(slot: int, t0: int) -> list[Sample]:
            return [
                _sample(slot, index, prompt, answer, t0)
                for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
            ]

        return later

    async def stop(self) -> None:
        """The child ends by itself when its input ends; ten seconds, then SIGKILL."""
        process, self._process = self._process, None
        kept, self._kept = self._kept, None
        if process is None or kept is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            kept.kill()
            await process.wait()
        kept.close()
        if self._log is not None:
            self._log.close()

    async def _ask(self, request: dict[str, Any]) -> Any:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise SystemFailed(f"{self.title} does not run")
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
        except ConnectionError:
            line = b""
        if not line:
            raise SystemFailed(f"{self.title} ended; its log is in the run's server folder")
        return json.loads(line)


def _sample(slot: int, index: int, prompt: str, answer: dict[str, Any], t0: int) -> Sample:
    spoken = [(t - t0, len(piece)) for t, piece in zip(answer["times"], answer["pieces"], strict=True) if piece]
    return Sample(
        slot=slot,
        index=index,
        prompt_sha=hashlib.sha256(prompt.encode()).hexdigest()[:16],
        t_sent=answer["began"] - t0,
        t_headers=-1,
        t_first_event=spoken[0][0] if spoken else -1,
        t_end=answer["times"][-1] - t0,
        status=0,
        reused=True,
        n_prompt=answer["n_prompt"],
        n_cached=0,
        n_out=len(answer["pieces"]),
        finish="length" if answer["eog"] < 0 else "stop",
        received=0,
        text="".join(answer["pieces"]),
        texts=[t for t, _ in spoken],
        lengths=[length for _, length in spoken],
    )
