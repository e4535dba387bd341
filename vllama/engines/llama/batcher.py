"""The engine inside the worker: requests in, one `Step` of news out for each decode."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from vllama.engines.llama import frames
from vllama.engines.llama.bindings import Context, Model, Outcome
from vllama.engines.llama.histogram import SECONDS, WIDTHS, Histogram
from vllama.engines.llama.jobs import Job, detokenize, lane_of, tokenize
from vllama.engines.llama.plan import Plan
from vllama.engines.llama.preparation import BULK, INLINE, Preparation
from vllama.engines.llama.prompt import RequestFault
from vllama.engines.llama.recovery import halves
from vllama.engines.llama.scheduler import Limits, Scheduler
from vllama.engines.llama.sequence import Sequence, Slot, State
from vllama.engines.llama.shelf import Shelf

SAVED = 256
"""Tokens from which a sequence is worth a file."""

NO_MEMORY = "the request needs more memory for its context than there is; lower num_ctx"
FAULT = "the model could not be evaluated for this request"


class Batcher:
    """Owns model, context, scheduler and jobs. Single-threaded; nothing in it waits."""

    def __init__(
        self,
        model: Model,
        context: Context,
        *,
        live: int,
        batch: int,
        chunk: int,
        kv_type: str,
        shelf: Shelf | None = None,
    ) -> None:
        self.model = model
        self.context = context
        # What has left a sliding window is gone: a sequence can be continued, but not cut back and continued.
        whole = model.recurrent or model.window > 0
        limits = Limits(
            cells=context.cells,
            slots=context.slots,
            live=live,
            batch=batch,
            chunk=chunk,
            parked=context.capacity,
            split=context.split,
            trim=not whole,
            copy=not whole,
            shift=context.can_shift,
        )
        self.scheduler = Scheduler(limits, context)
        self._shelf = shelf
        self._slots = context.slots
        self.unsaved = False
        """Whether `save()` may have something to do."""
        for saved in shelf.entries() if shelf is not None else ():
            if self.scheduler.parking.wants(saved.tokens):
                # Read when a prompt wants it.
                self.scheduler.parking.put(saved.tokens, saved)
        self.jobs: dict[int, Job] = {}
        self._unstarted: list[Job] = []
        self._failed: list[tuple[int, str, str, int, int]] = []
        self._kv_type = kv_type
        self.preparation = Preparation()
        self._widths = Histogram(WIDTHS)
        self._seconds = Histogram(SECONDS)
        self._stalled = False
        self.steps = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.output_tokens = 0
        self.faults = 0
        self._answers: dict[type, Callable[[Any], Any]] = {
            frames.Tokenize: partial(tokenize, model),
            frames.Detokenize: partial(detokenize, model),
            frames.Stats: lambda f: self._stats(),
            frames.Embed: _no_vectors,
        }

    @property
    def runnable(self) -> bool:
        """Whether `step()` can do anything. Stalled: everything is paused until a frame comes."""
        return bool(self._failed) or not (self._stalled or self.scheduler.idle)

    @property
    def untidy(self) -> bool:
        """Whether `tidy()` may have something to do."""
        return self.scheduler.untidy

    def tidy(self) -> bool:
        """Housekeeping between two steps; True while there may be more to do."""
        return self.scheduler.tidy()

    def save(self) -> None:
        """Write one sequence of the prefix cache to disk. Only when nothing runs."""
        assert self._shelf is not None
        if self.context.slots != self._slots:
            # The shelf holds what fits as many memories as there were at first.
            self.unsaved = False
            return
        for tokens, where in self.scheduler.cached():
            if len(tokens) < SAVED or self._shelf.holds(tokens):
                continue
            state = self.context.save(where.id) if isinstance(where, Slot) else where.state
            raw = self.context.raw(state) if state is not None else None
            if raw is None or self._shelf.put(tokens, raw) is None:
                continue
            if isinstance(where, Slot):
                self.context.discard(state)
            return
        self.unsaved = False

    @property
    def stretched(self) -> bool:
        """Whether `shrink()` would give memory back."""
        return self.scheduler.stretched

    def shrink(self) -> None:
        """Give back what the KV memory grew by. Only when nothing runs."""
        self.scheduler.shrink()

    def ready(self) -> frames.Ready:
        """What loading brought to light."""
        model = self.model
        size = model.size + self.context.capacity * model.cell_bytes(self._kv_type)
        return frames.Ready(
            train_ctx=model.train_ctx,
            vocab_size=model.vocab_size,
            size=size,
            size_vram=int(size * model.on_gpu),
            bos=model.spell(model.bos),
            eos=model.spell(model.eos),
            can_shift=self.context.can_shift,
            can_embed=False,
            description=model.description(),
        )

    def handle(self, frame: Any) -> frames.Answer | None:
        """Take a frame; some have an answer."""
        self._stalled = False
        if isinstance(frame, frames.Submit):
            self._submit(frame)
            return None
        if isinstance(frame, frames.Cancel):
            self._cancel(frame.id)
            return None
        if isinstance(frame, frames.Pause | frames.Resume):
            job = self.jobs.get(frame.id)
            if job is not None:
                job.sequence.paused = isinstance(frame, frames.Pause)
            else:
                self.preparation.pause(frame.id, isinstance(frame, frames.Pause))
            return None
        if isinstance(frame, frames.Threads):
            self.context.set_threads(max(1, frame.count))
            return None
        if isinstance(frame, frames.Tokenize) and len(frame.text) > INLINE:
            lane = "bulk" if len(frame.text) > BULK else "text"
            self.preparation.put(lane, frame, partial(tokenize, self.model, frame))
            return None
        try:
            return frames.Answer(frame.id, self._answers[type(frame)](frame))
        except RequestFault as fault:
            return frames.Answer(frame.id, None, fault.text)

    def step(self) -> frames.Step | None:
        """Plan, decode and sample once. None when there is no news."""
        scheduler = self.scheduler
        plan = scheduler.plan()
        news = frames.Step([], [], [], [])
        if self._unstarted:
            self._start(news)
        if plan is None:
            self._stalled = not self._failed and not scheduler.idle
        else:
            began = time.monotonic_ns()
            outcome = self.context.decode(plan)
            if outcome is Outcome.OK:
                self._sample(plan, news)
                self._widths.add(len(plan.tokens))
                self._seconds.add((time.monotonic_ns() - began) / 1e9)
            elif outcome is Outcome.NO_ROOM:
                scheduler.no_room(plan)
            else:
                self._isolate(plan, news)
        if scheduler.failed:
            self._drop(scheduler.failed, "server", NO_MEMORY)
            scheduler.failed.clear()
        if self._failed:
            news.failed = self._failed
            self._failed = []
        if news.started or news.texts or news.finished or news.failed:
            return news
        return None

    def _isolate(self, plan: Plan, news: frames.Step) -> None:
        """The plan failed: decode ever smaller parts of it, and drop the sequences that fail alone."""
        scheduler = self.scheduler
        sys.stderr.write(f"llama.cpp could not decode a step of {len(plan.tokens)} tokens: trying its parts\n")
        failed = [plan]
        while failed:
            part = failed.pop()
            self.faults += 1
            self._drop(scheduler.rewind(part), "server", FAULT)
            smaller = halves(part)
            if smaller is None:
                self._drop([s for s in scheduler.fault(part) if s.id in self.jobs], "server", FAULT)
                continue
            for half in smaller:
                outcome = self.context.decode(half)
                if outcome is Outcome.OK:
                    self._sample(half, news)
                elif outcome is not Outcome.NO_ROOM:
                    failed.append(half)

    def _sample(self, plan: Plan, news: frames.Step) -> None:
        scheduler, context, jobs = self.scheduler, self.context, self.jobs
        scheduler.commit(plan)
        self.unsaved = self._shelf is not None
        self.steps += 1
        texts = news.texts
        for index, sequence in plan.outputs:
            job = jobs[sequence.id]
            try:
                token, text, reason = job.step(context, index)
            except RequestFault as fault:
                scheduler.finish(sequence)
                self._drop([sequence], fault.kind, fault.text)
                continue
            if reason is None and not scheduler.extend(sequence, token):
                reason = "length"
            if reason is None:
                if text:
                    texts.append(job.piece(text))
                continue
            text += job.flush()
            if text:
                texts.append(job.piece(text))
            news.finished.append(job.finished(reason))
            self.output_tokens += job.output
            scheduler.finish(sequence)
            del jobs[sequence.id]
            job.close()

    def collect(self) -> list[frames.Answer]:
        """Take in what has been prepared meanwhile; gives the answers that are due."""
        answers = []
        for task in self.preparation.take():
            frame, fault = task.frame, task.fault
            if isinstance(frame, frames.Submit):
                self._enter(frame, task.value, fault)
                if task.paused and fault is None:
                    task.value.sequence.paused = True
            elif fault is None:
                answers.append(frames.Answer(frame.id, task.value))
            else:
                answers.append(frames.Answer(frame.id, None, fault.text))
        return answers

    def _submit(self, frame: frames.Submit) -> None:
        work = partial(Job, self.model, frame)
        lane, seconds = lane_of(frame)
        if lane:
            self.preparation.put(lane, frame, work, seconds)
            return
        try:
            self._enter(frame, work(), None)
        except RequestFault as fault:
            self._enter(frame, None, fault)

    def _enter(self, frame: frames.Submit, job: Job | None, fault: RequestFault | None) -> None:
        self._stalled = False
        if fault is not None:
            self._failed.append((frame.id, fault.kind, fault.text, fault.prompt_tokens, frame.num_ctx))
            return
        assert job is not None
        self.jobs[frame.id] = job
        self._unstarted.append(job)
        self.scheduler.submit(job.sequence)

    def _cancel(self, id: int) -> None:
        job = self.jobs.pop(id, None)
        if job is None:
            self.preparation.cancel(id)
            return
        if job in self._unstarted:
            self._unstarted.remove(job)
        self.output_tokens += job.output
        self.scheduler.cancel(job.sequence)
        job.close()

    def _start(self, news: frames.Step) -> None:
        """Tell of those that the plan just admitted."""
        for job in list(self._unstarted):
            if job.sequence.state is State.WAITING:
                continue
            self._unstarted.remove(job)
            if job.sequence.state is not State.DONE:
                news.started.append(job.admit())
                self.prompt_tokens += job.prompt_tokens
                self.cached_tokens += job.cached

    def _drop(self, sequences: list[Sequence], kind: str, text: str) -> None:
        """These cannot go on: tell their clients."""
        for sequence in sequences:
            job = self.jobs.pop(sequence.id)
            if job in self._unstarted:
                self._unstarted.remove(job)
            self._failed.append((job.id, kind, text, job.prompt_tokens, sequence.num_ctx))
            job.close()

    def _stats(self) -> dict[str, Any]:
        scheduler = self.scheduler
        running = sum(job.output for job in self.jobs.values())
        return {
            "active": len(scheduler.live) + len(scheduler.following),
            "waiting": len(scheduler.waiting),
            "steps": self.steps,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens + running,
            "kv_cells": self.context.capacity,
            "kv_used": scheduler.cells.used,
            "kv_parked": scheduler.parking.size,
            "pid": os.getpid(),
            "faults": self.faults,
            "threads": self.context.threads,
            "clock_ns": time.monotonic_ns(),
            "step_tokens": self._widths.told(),
            "step_seconds": self._seconds.told(),
        }


def _no_vectors(frame: frames.Embed) -> None:
    raise RequestFault("request", "the model makes text, not embeddings")
