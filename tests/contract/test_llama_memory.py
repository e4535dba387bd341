"""The KV memory of the real library behaves as the scheduler believes: sharing and moving change no result.

In a process of its own: loading the library into the test process would hide who else loads it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.model

PROGRAM = """
import json, sys
import numpy as np
from vllama.engines.llama.bindings import Context, Model, Outcome
from vllama.engines.llama.plan import Plan

model = Model(sys.argv[1])
story = "In the sleepy town between the hills there lived a man named Marcus, and he was happy."
text = model.tokenize(story, add_special=True)
other = model.tokenize("A quite different text about cats and dogs", add_special=True)
half = len(text) // 2

def context(cells=256):
    return Context(model, cells=cells, slots=8, batch=512, threads=1, flash_attention=None, kv_type="f16")

def decode(context, slot, start, tokens):
    plan = Plan(tokens, list(range(start, start + len(tokens))), [slot] * len(tokens), [], [(len(tokens) - 1, None)])
    assert context.decode(plan) is Outcome.OK
    row = np.ctypeslib.as_array(context.logits(len(tokens) - 1), (model.vocab_size,)).copy()
    return row

def end(context, slot):
    decode(context, slot, half, other[:-1])
    return decode(context, slot, half + len(other) - 1, other[-1:])

alone = context()
decode(alone, 0, 0, text[:half])
expected = end(alone, 0)

shared = context()
decode(shared, 0, 0, text)
shared.copy(0, 1, half)
by_copy = end(shared, 1)

moved = context()
decode(moved, 0, 0, text)
decode(moved, 2, 0, other)
moved.copy(0, 1, half)
moved.remove(2, 0, -1)
cells = moved.grow(1024)
by_move = end(moved, 1)

lost = context()
decode(lost, 0, 0, other[:-1])
without = decode(lost, 0, len(other) - 1, other[-1:])

trimmed = context()
decode(trimmed, 0, 0, text)
assert trimmed.remove(0, half, -1)
by_trim = end(trimmed, 0)

difference = lambda row: float(np.abs(row - expected).max())
print(json.dumps({
    "cells": cells, "copy": difference(by_copy), "move": difference(by_move),
    "trim": difference(by_trim), "lost": difference(without),
}))
"""


@pytest.fixture(scope="module")
def found(small_model_path: Path) -> dict[str, float]:
    """Largest differences of the next token's logits from those of a sequence that was decoded alone."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(small_model_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def test_the_measure_sees_a_lost_context(found: dict[str, float]) -> None:
    assert found["lost"] > 4


@pytest.mark.parametrize("how", ["copy", "move", "trim"])
def test_logits_stay_what_they_were(found: dict[str, float], how: str) -> None:
    # Another order of the cells rounds differently in half precision: up to 0.5 was seen.
    assert found[how] < 1.5


def test_the_memory_grew(found: dict[str, float]) -> None:
    assert found["cells"] == 1024
