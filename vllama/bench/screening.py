"""Choosing prompts whose greedy answers do not end early, with the raw engine, and judging answers with it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from vllama.bench.plan import Cell, Plan, Scenario
from vllama.bench.results import Run, Sample, Score
from vllama.bench.systems import InProcess, Setup, Unavailable

Say = Callable[[str], None]

ATTEMPTS = 6

SAFE_MARGIN = 1.0
"""Logits by which every token of a screened answer beats ending: rounding must not decide the length."""

SCORED = 24
"""How many answers of each system the raw engine judges."""


class Screening:
    """Nonces for the prompts of a plan: "<cell>/<block>" -> one number per prompt. `complete` says whether all prompts
    that should be were screened."""

    def __init__(self, plan: Plan, setup: Setup, say: Say) -> None:
        self.attempts: dict[str, list[int]] = {}
        self.complete = False
        self._plan = plan
        self._setup = setup
        self._say = say

    def _cache(self, scenario: Scenario) -> Path:
        name = f"screened-{self._setup.sha256[:12]}-{self._plan.questions_id(scenario)}.json"
        return self._setup.root / ".cache" / "bench" / name

    def read(self) -> int:
        """Take what earlier runs found; returns how many slots are still to screen."""
        for scenario in self._plan.scenarios:
            with contextlib.suppress(OSError, ValueError):
                self.attempts |= json.loads(self._cache(scenario).read_text())
        return len(self._open())

    @property
    def cells(self) -> list[Cell]:
        """The cell of each slot that is still to screen."""
        return [cell for _, cell, _ in self._open()]

    def _write(self) -> None:
        for scenario in self._plan.scenarios:
            mine = {key: value for key, value in self.attempts.items() if key.startswith(f"{scenario.id}/")}
            with contextlib.suppress(OSError):  # then the next run screens again
                path = self._cache(scenario)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(mine))

    def _open(self) -> list[tuple[str, Cell, int]]:
        wanted = [(f"{cell.id}/{block}", cell, block) for block in range(self._plan.pairs) for cell in self._plan.cells]
        return [entry for entry in wanted if entry[0] not in self.attempts and self._plan.screened(entry[1])]

    async def run(self) -> None:
        """Screen what is still open, and keep it in .cache for the next run.

        Without llama_cpp or without a model file the prompts stay unscreened; check L1 then judges the run alone.
        """
        if not self.read():
            self.complete = True
            return
        todo = self._open()
        ceiling = InProcess(self._setup)
        try:
            ceiling.find()
        except Unavailable:
            self._say("prompts are not screened for early ends: llama-cpp-python is not installed")
            return
        if not self._setup.sha256:
            return
        self._say(f"screening the prompts of {len(todo)} slots with the raw engine (once for this model)")
        try:
            await ceiling.start()
            for key, cell, block in todo:
                self.attempts[key] = await self._slot(ceiling, cell, block)
        finally:
            await ceiling.stop()
            self._write()
        self.complete = True

    async def _slot(self, ceiling: InProcess, cell: Cell, block: int) -> list[int]:
        attempt = [0] * cell.requests
        open_ones = self._plan.screened(cell)
        for _ in range(ATTEMPTS):
            prompts = self._plan.prompts(cell, block, attempt)
            ended: list[int] = []
            for start in range(0, len(open_ones), self._plan.parallel):
                group = open_ones[start : start + self._plan.parallel]
                margins = await ceiling.end_margins([prompts[i] for i in group], cell.n_out)
                ended += [i for i, margin in zip(group, margins, strict=True) if margin < SAFE_MARGIN]
            if not ended:
                return attempt
            for index in ended:
                attempt[index] += 1
            open_ones = ended
        self._say(f"{cell.id}, pair {block + 1}: {len(open_ones)} prompts may end early")
        return attempt

    def prompts(self, cell: Cell, block: int) -> list[str]:
        """The prompts of a slot, with the nonces that were chosen."""
        return self._plan.prompts(cell, block, self.attempts.get(f"{cell.id}/{block}", ()))


async def score(run: Run, plan: Plan, screening: Screening, setup: Setup, say: Say) -> list[Score]:
    """What the raw engine thinks of answers spread evenly over the run, at every concurrency; none without it."""
    ceiling = InProcess(setup)
    try:
        ceiling.find()
    except Unavailable:
        return []
    if not setup.sha256:
        return []
    say("judging a sample of the answers with the raw engine")
    cells = {cell.id: cell for cell in plan.cells}
    scores = []
    try:
        await ceiling.start()
        for key in run.systems:
            answers: list[tuple[Sample, str]] = []
            for slot in run.slots:
                cell = cells.get(slot.cell)
                if slot.system != key or cell is None or not plan.screened(cell):
                    continue
                asked = {_sha(prompt): prompt for prompt in screening.prompts(cell, slot.block)}
                answers += [
                    (sample, asked[sample.prompt_sha])
                    for sample in run.samples.get(slot.index, [])
                    if sample.ok and sample.prompt_sha in asked
                ]
            count = min(SCORED, len(answers))
            chosen = [answers[i * len(answers) // count] for i in range(count)]
            tokens = await ceiling.count([sample.text for sample, _ in chosen])
            for (sample, prompt), counted in zip(chosen, tokens, strict=True):
                gaps = tuple(await ceiling.gaps(prompt, sample.text))
                scores.append(Score(sample.slot, sample.index, gaps, counted))
    finally:
        await ceiling.stop()
    return scores


def _sha(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]
