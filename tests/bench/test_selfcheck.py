"""The harness's proof of itself, in short: what is exact is asserted, the timing only printed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vllama.bench import selfcheck
from vllama.bench.client import Exchange
from vllama.bench.dialects import Reply
from vllama.bench.golden import Script
from vllama.bench.selfcheck import CASES, GOAL_MS, Case, Found, Spread, Timing, read_bound


async def test_every_case_comes_back_to_the_letter(tmp_path: Path) -> None:
    found = await selfcheck.check(short=True)
    assert found.cases == {case.name: "" for case in CASES}
    assert [(t.load, t.concurrency, t.wrong_counts) for t in found.timings] == [("idle", 1, 0), ("idle", 8, 0)]
    # Every text of every stream was judged or is known to have no certain truth; nothing fell out in silence.
    assert all(timing.arrival.n > 0 and timing.gap.n > 0 and timing.ttft.n > 0 for timing in found.timings)
    path = tmp_path / "selfcheck.json"
    path.write_text(json.dumps(found.document()))
    assert read_bound(path) == found.bound_ms
    assert set(found.bound_ms) == {"idle"}


def timing(**changes: Any) -> Timing:
    good = Spread(1000, 0.01, 0.1, 0.2)
    return replace(Timing("idle", 8, "kernel", good, good, good, good, 0.0, 0.0, 0, 8), **changes)


@pytest.mark.parametrize(
    ("found", "strict", "status"),
    [
        (Found({"a": ""}, [timing()]), True, 0),
        (Found({"a": "texts differ"}, [timing()]), False, 1),
        (Found({"a": ""}, [timing(wrong_counts=1)]), False, 1),
        (Found({"a": ""}, [timing(gap=Spread(1000, 0.1, GOAL_MS + 0.1, 1.0))]), True, 1),
        (Found({"a": ""}, [timing(gap=Spread(1000, 0.1, GOAL_MS + 0.1, 1.0))]), False, 0),
        (Found({"a": ""}, [timing(load="busy")]), True, 1),
    ],
)
def test_status(found: Found, strict: bool, status: int) -> None:
    said: list[str] = []
    assert selfcheck.report(found, said.append, strict=strict) == status
    assert ("WRONG" in "\n".join(said)) == any(found.cases.values())


def test_the_bound_is_the_worst_error_with_the_best_stamps() -> None:
    worse = Spread(1000, 1.0, 9.0, 9.0)
    found = Found(
        {}, [timing(stamps="loop", gap=worse), timing(concurrency=1, ttft=Spread(1000, 0.1, 0.3, 1.0)), timing()]
    )
    assert found.bound_ms == {"idle": 0.3}


def test_a_spread_of_few_errors_has_no_percentile_but_the_greatest() -> None:
    assert Spread.of([i * 1_000_000 for i in range(-100, 1)]) == Spread(101, 50.0, 100.0, 100.0)
    assert Spread.of([1_000_000] * 995 + [5_000_000] * 5).p99 == 1.0
    with pytest.raises(ValueError, match="nothing was measured"):
        Spread.of([])


def test_no_bound_without_a_kept_selfcheck(tmp_path: Path) -> None:
    assert read_bound(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    ("reply", "exchange", "sent", "says"),
    [
        ({"texts": [(10, "a")]}, {}, [1, 2], "texts"),
        ({"n_out": 3}, {}, [1, 2], "counts"),
        ({"finish": "stop"}, {}, [1, 2], "finish"),
        ({"error": "gone"}, {}, [1, 2], "error"),
        ({"texts": [(20, "a"), (10, "b")]}, {}, [1, 2], "backwards"),
        ({}, {}, [1, 30], "before it was sent"),
        ({}, {"cancelled": True}, [1, 2], "cancelled"),
    ],
)
def test_the_comparison_sees_each_kind_of_difference(
    reply: dict[str, Any], exchange: dict[str, Any], sent: list[int], says: str
) -> None:
    case = Case("two words", Script(("a", "b")))
    good = Reply(texts=[(10, "a"), (20, "b")], n_prompt=5, n_out=2, finish="length")
    assert selfcheck._compare(case, Exchange(), good, {"sent": [1, 2]}) == ""
    assert says in selfcheck._compare(case, Exchange(**exchange), replace(good, **reply), {"sent": sent})
