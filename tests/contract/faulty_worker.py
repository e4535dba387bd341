"""The llama worker with faults put into it from outside, as FAULTS in its environment says (JSON):

decode: list of {"code": c, "token": t, "tokens": n, "dirty": bool, "times": k}: a llama_decode whose batch has the
    token t (if given) and at least n tokens (if given) gives c instead; "dirty" computes it first, so that the memory
    holds what it should not. "abort" as code ends the process as a failed assertion does; "hang" never comes back.
cells: no context gets more cells than it was made with.
hold: a text with this in it is tokenised only after so many steps: {"text": marker, "steps": n}
stuck: a grammar with this in it is never compiled.
deny: a grammar with this in it allows no token any more after so many: {"text": marker, "tokens": n}

After every step the scheduler is asked whether its state makes sense; otherwise the worker dies.
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from vllama.engines.llama import batcher, bindings, jobs, worker

FAULTS: dict[str, Any] = json.loads(os.environ["FAULTS"])
lib = bindings.lib
real_decode = lib.llama_decode
real_step = batcher.Batcher.step
real_stats = batcher.Batcher._stats
real_tokenize = bindings.Model.tokenize
steps = threading.Semaphore(0)
longest = 0


def abort() -> None:
    """End as GGML_ASSERT does."""
    found = next(Path(lib.__file__).parent.glob("lib/libggml-base.*"))
    ctypes.CDLL(str(found)).ggml_abort(b"faulty.cpp", 1, b"GGML_ASSERT(%s) failed", b"sound")


def decode(context: Any, batch: Any) -> int:
    """Like llama_decode, or not."""
    tokens = batch.token[: batch.n_tokens]
    for fault in FAULTS.get("decode", ()):
        if fault.get("times", 1) <= 0 or len(tokens) < fault.get("tokens", 0):
            continue
        if "token" in fault and fault["token"] not in tokens:
            continue
        if "times" in fault:
            fault["times"] -= 1
        if fault["code"] == "abort":
            abort()
        if fault["code"] == "hang":
            time.sleep(3600)
        if fault.get("dirty"):
            real_decode(context, batch)
        return int(fault["code"])
    return int(real_decode(context, batch))


def step(self: batcher.Batcher) -> Any:
    """A step, and a look at what it left behind."""
    news = real_step(self)
    self.scheduler.check_integrity()
    steps.release()
    return news


def stats(self: batcher.Batcher) -> dict[str, Any]:
    """With the longest text that was ever tokenised."""
    return real_stats(self) | {"longest_text": longest}


def tokenize(self: bindings.Model, text: str, *, add_special: bool) -> list[int]:
    """Waits for its steps."""
    global longest
    longest = max(longest, len(text))
    hold = FAULTS.get("hold")
    if hold and hold["text"] in text:
        for _ in range(hold["steps"]):
            steps.acquire()
    return real_tokenize(self, text, add_special=add_special)


class Grammar(bindings.Grammar):
    """Some never come to be, some come to nothing."""

    def __init__(self, model: bindings.Model, gbnf: str) -> None:
        if FAULTS.get("stuck", "\0") in gbnf:
            threading.Event().wait()
        super().__init__(model, gbnf)
        deny = FAULTS.get("deny")
        self.left = deny["tokens"] if deny and deny["text"] in gbnf else 1 << 30

    def choose(self, chain: bindings.Chain, row: Any) -> int | None:
        """None when its tokens are used up."""
        self.left -= 1
        return super().choose(chain, row) if self.left >= 0 else None


def main() -> None:
    """Put the faults in and work."""
    lib.llama_decode = decode
    batcher.Batcher.step = step  # type: ignore[method-assign]
    batcher.Batcher._stats = stats  # type: ignore[method-assign]
    bindings.Model.tokenize = tokenize  # type: ignore[method-assign]
    jobs.Grammar = Grammar  # type: ignore[misc]
    if FAULTS.get("cells"):
        bindings.Context.grow = lambda self, cells: self.cells  # type: ignore[method-assign]
    if FAULTS.get("shape"):
        bindings.Context.reshape = lambda self, slots, cells: False  # type: ignore[method-assign]
    if "grammar_s" in FAULTS:
        jobs.GRAMMAR_S = FAULTS["grammar_s"]
    worker.main()


if __name__ == "__main__":
    main()
