"""What we draw has the distribution that the library's own chain gives to the same real logits.

Expected are exact probabilities: the library's samplers on the whole vocabulary, all but the one that draws. Observed
are draws of ours. In a process of its own: loading the library into the test process would hide who else loads it.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.model

DRAWS = 2000

PROGRAM = """
import ctypes, json, math, sys
from types import SimpleNamespace
import numpy as np
from vllama.engines.llama.bindings import Chain, Context, Grammar, Model, lib
from vllama.engines.llama.plan import Plan
from vllama.engines.llama.sampling import shortlist, stages

model = Model(sys.argv[1])
draws = int(sys.argv[2])
context = Context(model, cells=512, slots=1, batch=512, threads=1, flash_attention=None, kv_type="f16")
size = model.vocab_size
table = (lib.llama_token_data * size)()
view = np.frombuffer(table, dtype=[("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])

def logits(text):
    tokens = model.tokenize(text, add_special=True)
    context.remove(0, 0, -1)
    last = len(tokens) - 1
    context.decode(Plan(tokens, list(range(len(tokens))), [0] * len(tokens), [], [(last, None)]))
    return tokens, context.row(last).copy()

def exact(options, row, recent, grammar=None):
    chain = Chain(model, [stage for stage in stages(options, 512) if stage[0] != "dist"])
    for token in recent:
        chain.accept(token)
    view["id"], view["logit"], view["p"] = np.arange(size), row, 0
    array = lib.llama_token_data_array(table, size, -1, False)
    if grammar is not None:
        lib.llama_sampler_apply(grammar.pointer, ctypes.byref(array))
    lib.llama_sampler_apply(chain.pointer, ctypes.byref(array))
    left = [(array.data[i].id, array.data[i].logit) for i in range(array.size) if array.data[i].logit > -math.inf]
    peak = max(logit for _, logit in left)
    weights = {token: math.exp(logit - peak) for token, logit in left}
    total = sum(weights.values())
    chain.close()
    return {token: weight / total for token, weight in weights.items()}

usual = dict(temperature=0.8, top_k=40, top_p=0.9, min_p=0.0, typical_p=1.0, repeat_last_n=64, repeat_penalty=1.0,
             presence_penalty=0.0, frequency_penalty=0.0, seed=11, logit_bias=[])
variants = {
    "usual": {}, "cool": {"temperature": 0.3}, "hot": {"temperature": 1.7, "top_p": 1.0, "top_k": 100},
    "min_p": {"min_p": 0.1, "top_p": 1.0}, "typical": {"typical_p": 0.6},
    "penalties": {"repeat_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.6},
}
rows = [logits(text) for text in (
    "My favourite colour is", "Once upon a time there was a", "the cat and the dog and the cat and the")]
found = {}
for name, change in variants.items():
    options = SimpleNamespace(**{**usual, **change})
    for number, (tokens, row) in enumerate(rows):
        chain = Chain(model, stages(options, 512), shortlist(options, 512))
        recent = tokens[-64:] if name == "penalties" else []
        for token in recent:
            chain.accept(token)
        counts = {}
        for _ in range(draws):
            token = chain.propose(row)
            counts[token] = counts.get(token, 0) + 1
        chain.close()
        wrong = SimpleNamespace(**{**usual, **change, "temperature": options.temperature * 1.35})
        found[f"{name} {number}"] = [exact(options, row, recent), exact(wrong, row, recent), counts]

# With a grammar: a free choice, and where that is not allowed another one among what is.
gbnf = 'root ::= [a-m ]+ "."'
options = SimpleNamespace(**usual)
for number, (_, row) in enumerate(rows):
    grammar = Grammar(model, gbnf)
    chain = Chain(model, stages(options, 512), shortlist(options, 512))
    counts = {}
    for _ in range(draws):
        token = grammar.choose(chain, row)
        counts[token] = counts.get(token, 0) + 1
    free, bound = exact(options, row, []), exact(options, row, [], grammar)
    refused = sum(p for token, p in free.items() if not grammar._allows(token))
    mixed = {t: bound.get(t, 0) * refused + (free.get(t, 0) if grammar._allows(t) else 0) for t in bound | free}
    found[f"grammar {number}"] = [{t: p for t, p in mixed.items() if p}, free, counts]
    chain.close(); grammar.close()
print(json.dumps(found))
"""

NAMES = [f"{name} {row}" for name in ("usual", "cool", "hot", "min_p", "typical", "penalties") for row in range(3)]
GRAMMARS = [f"grammar {row}" for row in range(3)]

Found = dict[str, tuple[dict[str, float], dict[str, float], dict[str, int]]]


@pytest.fixture(scope="module")
def found(small_model_path: Path) -> Found:
    """Per case: exact probabilities, those of other options, and how often each token was drawn."""
    command = [sys.executable, "-c", PROGRAM, str(small_model_path), str(DRAWS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result: Found = json.loads(done.stdout)
    return result


def surprise(expected: dict[str, float], counts: dict[str, int]) -> float:
    """Pearson's chi-square as a normal deviate (Wilson and Hilferty); infinite for a draw that could not come."""
    if any(token not in expected for token in counts):
        return math.inf
    common = {token: p for token, p in expected.items() if p * DRAWS >= 5}
    cells = [(p * DRAWS, counts.get(token, 0)) for token, p in common.items()]
    rest = (1 - sum(common.values())) * DRAWS
    if rest >= 1:
        cells.append((rest, sum(count for token, count in counts.items() if token not in common)))
    freedom = len(cells) - 1
    if not freedom:
        return 0.0
    chi2 = sum((seen - want) ** 2 / want for want, seen in cells)
    spread = 2 / (9 * freedom)
    return (math.cbrt(chi2 / freedom) - (1 - spread)) / math.sqrt(spread)


@pytest.mark.parametrize("name", NAMES + GRAMMARS)
def test_draws_have_the_librarys_distribution(found: Found, name: str) -> None:
    expected, _, counts = found[name]
    # The seed is fixed: this holds always or never. 4 is what one honest sampler in 30,000 would reach.
    assert surprise(expected, counts) < 4


def test_the_test_sees_another_temperature(found: Found) -> None:
    seen = [surprise(other, counts) > 4 for _, other, counts in (found[name] for name in NAMES)]
    # Not everywhere: some rows leave one token, or a flat choice of many.
    assert sum(seen) >= len(seen) // 3


def test_the_grammar_changes_what_is_drawn(found: Found) -> None:
    assert all(surprise(free, counts) > 4 for _, free, counts in (found[name] for name in GRAMMARS))
