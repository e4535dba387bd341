"""Choosing by a shortlist gives what the library's chain gives on the whole vocabulary.

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
import ctypes, json, sys
from types import SimpleNamespace
import numpy as np
from vllama.engines.llama import bindings
from vllama.engines.llama.bindings import Chain, Model, largest, lib
from vllama.engines.llama.sampling import shortlist, stages

model = Model(sys.argv[1])
draw = np.random.default_rng(5)
size = model.vocab_size
table = (lib.llama_token_data * size)()
view = np.frombuffer(table, dtype=[("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])

def whole(chain, row):
    view["id"], view["logit"], view["p"] = np.arange(size), row, 0
    array = lib.llama_token_data_array(table, size, -1, False)
    lib.llama_sampler_apply(chain.pointer, ctypes.byref(array))
    token = array.data[array.selected].id
    lib.llama_sampler_accept(chain.pointer, token)
    return token

usual = dict(temperature=0.8, top_k=40, top_p=0.9, min_p=0.0, typical_p=1.0, repeat_last_n=64, repeat_penalty=1.0,
             presence_penalty=0.0, frequency_penalty=0.0, seed=7, logit_bias=[])
variants = {
    "usual": {}, "greedy": {"temperature": 0}, "greedy, penalties": {"temperature": 0, "repeat_penalty": 1.3},
    "penalties": {"repeat_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.7},
    "min_p, typical": {"min_p": 0.05, "typical_p": 0.7, "top_k": 200}, "top_k 1": {"top_k": 1},
    "hot": {"temperature": 2.5, "top_p": 1.0, "top_k": 500},
}
found = {}
for name, change in variants.items():
    options = SimpleNamespace(**{**usual, **change})
    short = shortlist(options, 2048)
    one, other = Chain(model, stages(options, 2048), short), Chain(model, stages(options, 2048))
    equal = used = 0
    for _ in range(60):
        row = (draw.standard_normal(size) * draw.choice([0.3, 2.0, 6.0])).astype(np.float32)
        # A few tokens come up again and again, as in a text, so that penalties have something to do.
        row[draw.integers(0, 50, 10)] += 12
        token = one.choose(row)
        used += token >= 0
        equal += token == whole(other, row)
    found[name] = [short, used, equal]
    one.close(); other.close()
found["unlimited"] = shortlist(SimpleNamespace(**{**usual, "top_k": 0}), 2048)
found["lifting"] = shortlist(SimpleNamespace(**{**usual, "presence_penalty": -1.0}), 2048)
found["biased"] = shortlist(SimpleNamespace(**{**usual, "logit_bias": [(1, 2.0)]}), 2048)
flat = np.zeros(size, np.float32)
plain = SimpleNamespace(**usual)
found["ties"] = Chain(model, stages(plain, 2048), 40).choose(flat)
found["not a number"] = Chain(model, stages(plain, 2048), 40).choose(np.full(size, np.nan, np.float32))
row = draw.standard_normal(size).astype(np.float32)
best = set(np.argsort(-row)[:40].tolist())
found["holds the best"] = best <= set(largest(row, 40).tolist())
found["length"] = len(largest(row, 40))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(small_model_path: Path) -> dict[str, object]:
    """Per variant: length of the shortlist, how often it was used, how often the token was the library's."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(small_model_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("usual", 40),
        ("greedy", 1),
        ("greedy, penalties", 65),
        ("penalties", 104),
        ("min_p, typical", 200),
        ("top_k 1", 1),
        ("hot", 500),
    ],
)
def test_a_shortlist_chooses_what_the_whole_vocabulary_would_give(
    found: dict[str, object], name: str, length: int
) -> None:
    assert found[name] == [length, 60, 60]


def test_options_that_need_all_logits_get_no_shortlist(found: dict[str, object]) -> None:
    assert (found["unlimited"], found["lifting"], found["biased"]) == (0, 0, 0)


def test_rows_that_cannot_be_shortened_go_to_the_library(found: dict[str, object]) -> None:
    assert (found["ties"], found["not a number"]) == (-1, -1)


def test_a_shortlist_holds_the_largest_and_few_others(found: dict[str, object]) -> None:
    assert found["holds the best"] is True
    assert 40 <= int(str(found["length"])) <= 200
