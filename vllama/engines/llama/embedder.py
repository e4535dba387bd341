"""The engine inside the worker of a model that pools its output: texts in, vectors out.

It takes the place of the batcher, for such a model generates nothing. Inputs of all requests are packed into
few decodes of about `PACK` tokens, for a decode of one short input wastes most of what it costs.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from functools import partial
from typing import Any

from vllama.engines.llama import frames
from vllama.engines.llama.bindings import EmbeddingContext, LoadError, Model
from vllama.engines.llama.jobs import detokenize, tokenize
from vllama.engines.llama.packing import Pack, Packer, Request, fit_input
from vllama.engines.llama.preparation import BULK, INLINE, Preparation
from vllama.engines.llama.prompt import RequestFault

PACK = 256
"""Tokens of a pack: with fewer, each decode's fixed cost shows; with more, attention looks at more foreign tokens."""

ROOM = 512
"""Tokens of the context to begin with: it grows for a longer input and shrinks when there is nothing to do."""

INPUTS = 64
"""Inputs of a pack at most."""

LARGEST = 64 << 20
"""Bytes of vectors that one request may ask for; what is beyond has to come in several."""

SPARE = 16
"""Tokens at the cut end of a text that may be others than in the whole text."""

CHARACTERS = 8
"""Characters of text taken for each token that is wanted, to begin with."""

FAULT = "the model could not be evaluated for this input"
NO_MEMORY = "the input needs more memory than there is"
NO_TEXT = "the model makes embeddings, not text"
UNPOOLED = "the model does not pool its output to one vector"


class Embedder:
    """Owns model and context. Single-threaded; nothing in it waits. It has the batcher's methods."""

    def __init__(self, model: Model, *, threads: int, flash_attention: bool | None) -> None:
        self.model = model
        self._flash = flash_attention
        self.context = EmbeddingContext(
            model, tokens=ROOM, inputs=INPUTS, threads=threads, flash_attention=flash_attention
        )
        self._packer = Packer(tokens=PACK, inputs=INPUTS)
        self._answers: deque[frames.Answer] = deque()
        self._failed: list[tuple[int, str, str, int, int]] = []
        self.preparation = Preparation()
        self._head, self._tail = _special(model)
        self.steps = 0
        self.prompt_tokens = 0
        self.inputs = 0
        self.faults = 0

    @property
    def runnable(self) -> bool:
        """Whether `step()` can do anything."""
        return self._packer.waiting or bool(self._answers) or bool(self._failed)

    @property
    def untidy(self) -> bool:
        """Whether `tidy()` has something to do: the buffers have grown for a long input."""
        return self.context.tokens > ROOM and not self._packer.waiting

    def tidy(self) -> bool:
        """Give back what only a long input needed."""
        if self.untidy:
            self._resize(ROOM)
        return False

    @property
    def stretched(self) -> bool:
        """Whether `shrink()` would give memory back: `tidy()` has done so."""
        return False

    def shrink(self) -> None:
        """Nothing to do."""

    def ready(self) -> frames.Ready:
        """What loading brought to light."""
        model = self.model
        return frames.Ready(
            train_ctx=model.train_ctx,
            vocab_size=model.vocab_size,
            size=model.size,
            size_vram=int(model.size * model.on_gpu),
            bos=model.spell(model.bos),
            eos=model.spell(model.eos),
            can_shift=False,
            can_embed=True,
            description=model.description(),
        )

    def handle(self, frame: Any) -> frames.Answer | None:
        """Take a frame; some have an answer."""
        if isinstance(frame, frames.Embed):
            return self._embed(frame)
        if isinstance(frame, frames.Cancel):
            if not self.preparation.cancel(frame.id):
                self._packer.drop(frame.id)
        elif isinstance(frame, frames.Submit):
            self._failed.append((frame.id, "request", NO_TEXT, 0, frame.num_ctx))
        elif isinstance(frame, frames.Threads):
            self.context.set_threads(max(1, frame.count))
        elif isinstance(frame, frames.Tokenize):
            if len(frame.text) <= INLINE:
                return frames.Answer(frame.id, tokenize(self.model, frame))
            lane = "bulk" if len(frame.text) > BULK else "text"
            self.preparation.put(lane, frame, partial(tokenize, self.model, frame))
        elif isinstance(frame, frames.Detokenize):
            try:
                return frames.Answer(frame.id, detokenize(self.model, frame))
            except RequestFault as fault:
                return frames.Answer(frame.id, None, fault.text)
        elif isinstance(frame, frames.Stats):
            return frames.Answer(frame.id, self._stats())
        return None

    def collect(self) -> list[frames.Answer]:
        """Take in what has been prepared meanwhile; gives the answers that are due."""
        answers = []
        for task in self.preparation.take():
            if task.fault is not None:
                answers.append(frames.Answer(task.frame.id, None, task.fault.text, task.fault.kind))
            elif isinstance(task.frame, frames.Embed):
                self._packer.add(task.value)
            else:
                answers.append(frames.Answer(task.frame.id, task.value))
        return answers

    def step(self) -> frames.Answer | frames.Step | None:
        """Embed one pack; gives what it completed, one request at a time."""
        if self._failed:
            failed, self._failed = self._failed, []
            return frames.Step([], [], [], failed)
        if not self._answers:
            pack = self._packer.next(self._refuse)
            if pack:
                self._compute(pack)
        return self._answers.popleft() if self._answers else None

    def _embed(self, frame: frames.Embed) -> frames.Answer | None:
        width = self.context.width
        most = LARGEST // (4 * width)
        if self.context.pooling not in (1, 2, 3):
            return frames.Answer(frame.id, None, UNPOOLED)
        if len(frame.inputs) > most:
            return frames.Answer(
                frame.id, None, f"{len(frame.inputs)} inputs are too many, {most} can be embedded at once"
            )
        if not frame.inputs:
            return frames.Answer(frame.id, (b"", width, 0))
        if any(len(text) > BULK for text in frame.inputs):
            self.preparation.put("bulk", frame, partial(self._prepared, frame))
        else:
            self._packer.add(self._request(frame))
        return None

    def _request(self, frame: frames.Embed) -> Request:
        return Request(frame.id, len(frame.inputs), lambda index: self._ids(frame, frame.inputs[index]))

    def _prepared(self, frame: frames.Embed) -> Request:
        """The request with its long inputs tokenised already; in a helper thread."""
        known = {index: self._ids(frame, text) for index, text in enumerate(frame.inputs) if len(text) > BULK}
        return Request(
            frame.id, len(frame.inputs), lambda index: known.pop(index, None) or self._ids(frame, frame.inputs[index])
        )

    def _ids(self, frame: frames.Embed, text: str) -> list[int]:
        """The tokens of one input as they go into a pack. A text that must be cut is not tokenised whole."""
        num_ctx = min(frame.num_ctx, self.model.train_ctx)
        size = max(INLINE, CHARACTERS * num_ctx)
        while True:
            body = self.model.tokenize(text[:size], add_special=False)
            if size >= len(text) or len(body) > num_ctx + SPARE:
                break
            size *= 4
        if not body and not self._head and not self._tail:
            # Some models mark neither end; there must be something to look at.
            body = [max(self.model.bos, 0)]
        return fit_input(
            body,
            self._head,
            self._tail,
            num_ctx=num_ctx,
            limit=frame.limit or max(num_ctx, len(self._head) + len(self._tail)),
            truncate=frame.truncate,
        )

    def _refuse(self, request: Request, fault: RequestFault) -> None:
        self._answers.append(frames.Answer(request.id, None, fault.text, fault.kind))

    def _compute(self, pack: Pack) -> None:
        size = sum(len(ids) for _, _, ids in pack)
        if size > self.context.tokens and not self._resize(_power(size)):
            self._blame(pack, NO_MEMORY)
            return
        rows = self.context.pool([ids for _, _, ids in pack])
        self.steps += 1
        if rows is None:
            self.faults += 1
            sys.stderr.write(f"llama.cpp could not embed a pack of {len(pack)} inputs\n")
            if len(pack) == 1:
                self._blame(pack, FAULT)
                return
            # Only the input to blame may cost its request: each alone.
            for entry in pack:
                if entry[0].left and self._packer.knows(entry[0].id):
                    self._compute([entry])
            return
        for (request, index, ids), row in zip(pack, rows, strict=True):
            self._deliver(request, index, len(ids), row)

    def _deliver(self, request: Request, index: int, tokens: int, row: Any) -> None:
        import numpy as np

        if not self._packer.knows(request.id):
            return
        length = float(np.sqrt(np.dot(row, row)))
        if not np.isfinite(length):
            self._packer.drop(request.id)
            self._refuse(request, RequestFault("request", "embedding contains NaN or Inf values"))
            return
        request.done(index, (row / np.float32(max(length, 1e-12))).astype("<f4").tobytes(), tokens)
        self.prompt_tokens += tokens
        self.inputs += 1
        if not request.left:
            self._packer.drop(request.id)
            value = (b"".join(request.rows), self.context.width, request.tokens)
            self._answers.append(frames.Answer(request.id, value))

    def _blame(self, pack: Pack, text: str) -> None:
        for request, _, _ in pack:
            if self._packer.drop(request.id):
                self._refuse(request, RequestFault("server", text))

    def _resize(self, tokens: int) -> bool:
        """Another context; False when there is no memory for it."""
        old = self.context
        try:
            self.context = EmbeddingContext(
                self.model, tokens=tokens, inputs=INPUTS, threads=old.threads, flash_attention=self._flash
            )
        except LoadError:
            return False
        old.close()
        return True

    def _stats(self) -> dict[str, Any]:
        return {
            "active": len(self._packer),
            "steps": self.steps,
            "prompt_tokens": self.prompt_tokens,
            "pid": os.getpid(),
            "inputs": self.inputs,
            "faults": self.faults,
            "threads": self.context.threads,
            "clock_ns": time.monotonic_ns(),
        }


def _power(size: int) -> int:
    """The next power of two: few different contexts for inputs of many lengths."""
    return 1 << (size - 1).bit_length()


def _special(model: Model) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    bare = model.tokenize("a", add_special=False)
    full = model.tokenize("a", add_special=True)
    for before in range(len(full) - len(bare) + 1):
        after = before + len(bare)
        if full[before:after] == bare:
            return full[:before], full[after:]
    return [], []
