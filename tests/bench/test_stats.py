"""The statistics against published critical values and against brute force."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.bench import stats


@pytest.mark.parametrize(
    ("n", "alpha", "index"),
    [(10, 0.01, 6), (12, 0.01, 10), (16, 0.01, 24), (20, 0.01, 44), (10, 0.005, 4), (20, 0.005, 38)],
)
def test_order_index_is_the_published_critical_value_plus_one(n: int, alpha: float, index: int) -> None:
    assert stats.order_index(n, alpha) == index


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_counts_equal_enumeration_of_all_sign_patterns(n: int) -> None:
    patterns = itertools.product((0, 1), repeat=n)
    sums = Counter(sum(rank for rank, sign in enumerate(signs, 1) if sign) for signs in patterns)
    counts = stats.signed_rank_counts(n)
    assert list(counts) == [sums[value] for value in range(n * (n + 1) // 2 + 1)]


def test_too_few_pairs_give_no_interval_instead_of_a_wrong_one() -> None:
    assert stats.order_index(7, 0.005) is None
    assert stats.order_index(8, 0.005) == 1
    seven = stats.paired_ratio([1.1] * 7, [1.0] * 7)
    assert seven.low is None
    assert seven.high is None
    assert not seven.excludes_one


def test_hodges_lehmann_by_hand() -> None:
    # Walsh averages of 1, 2, 10: 1, 1.5, 2, 5.5, 6, 10.
    assert stats.walsh_averages([10, 1, 2]) == [1, 1.5, 2, 5.5, 6, 10]
    assert stats.hodges_lehmann([10, 1, 2]) == pytest.approx(3.75)


def test_bounds_are_order_statistics_of_the_walsh_averages() -> None:
    values = [0.1 * i * (-1) ** i for i in range(1, 21)]
    averages = stats.walsh_averages(values)
    assert len(averages) == 210
    assert stats.one_sided(values, 0.01) == (averages[43], averages[209 - 43])


def test_interval_covers_at_least_as_often_as_promised() -> None:
    rng = random.Random(3)
    runs = 3000
    missed = 0
    for _ in range(runs):
        found = stats.paired_location([rng.gauss(0.0, 1.0) for _ in range(10)], 0.95)
        assert found.low is not None
        assert found.high is not None
        missed += not found.low <= 0.0 <= found.high
    # 5 % of 3000 is 150; six standard deviations of the binomial are 72.
    assert missed < 150 + 72


def test_ratio_ignores_a_common_factor_per_pair() -> None:
    day = [1.0, 3.0, 0.2, 7.0, 1.5, 2.0, 0.9, 1.1]
    found = stats.paired_ratio([0.9 * d for d in day], day)
    assert found.value == pytest.approx(0.9)
    assert found.low == pytest.approx(0.9)
    assert found.high == pytest.approx(0.9)
    assert found.excludes_one


def test_one_stall_does_not_move_the_estimate_much() -> None:
    ratio = stats.paired_ratio([1.0] * 11 + [3.0], [1.0] * 12)
    assert ratio.value == pytest.approx(1.0)
    assert not ratio.excludes_one


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="not paired"):
        stats.paired_ratio([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="no paired samples"):
        stats.hodges_lehmann([])


def test_a_percentile_beyond_the_data_is_refused() -> None:
    assert stats.quantile(range(50), 0.99) is None
    assert stats.quantile(range(1000), 0.99) == 989
    assert stats.quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0


def test_relative_spread() -> None:
    assert stats.relative_spread([5.0]) == 0.0
    assert stats.relative_spread([90.0, 100.0, 110.0]) == pytest.approx(0.14826)


def test_two_systems_alternate_abba() -> None:
    first, second, third, fourth = stats.williams_order(["a", "b"], 4, seed=1)
    assert first == second[::-1]
    assert first == third
    assert second == fourth


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_williams_rows_balance_places_and_neighbours(n: int) -> None:
    names = [f"s{i}" for i in range(n)]
    rows = stats.williams_order(names, n if n % 2 == 0 else 2 * n, seed=5)
    for place in range(n):
        assert len(set(Counter(row[place] for row in rows).values())) == 1
    follows = Counter(pair for row in rows for pair in itertools.pairwise(row))
    assert len(follows) == n * (n - 1)
    assert len(set(follows.values())) == 1
    assert rows[0] == rows[1][::-1]


def test_order_depends_on_the_seed_only() -> None:
    names = ["a", "b", "c", "d"]
    assert stats.williams_order(names, 8, 2) == stats.williams_order(names, 8, 2)
    assert len({tuple(stats.williams_order(names, 4, seed)) for seed in range(20)}) > 1


def test_ratio_estimate_is_the_exponential_of_the_log_estimate() -> None:
    ours = [1.2, 1.3, 0.9, 1.1, 1.05, 1.0, 1.4, 1.2]
    found = stats.paired_ratio(ours, [1.0] * 8)
    assert math.log(found.value) == pytest.approx(stats.hodges_lehmann([math.log(x) for x in ours]))
    assert found.values == pytest.approx(tuple(ours))


samples = st.lists(st.floats(-1, 1, allow_nan=False), min_size=1, max_size=24)


@given(samples, st.sampled_from([0.005, 0.01, 0.05]))
def test_p_value_and_lower_bound_agree(values: list[float], alpha: float) -> None:
    found = stats.bounds(values, alpha)
    assert (found.p_above <= alpha) == (found.low is not None and found.low > 0)
    assert (found.low, found.high) == stats.one_sided(values, alpha)
    assert found.value == stats.hodges_lehmann(values)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=12))
def test_nothing_but_losses_has_the_smallest_p(values: list[float]) -> None:
    assert stats.bounds(values, 0.01).p_above == stats.smallest_p(len(values)) == 2.0 ** -len(values)
    assert stats.bounds([-x for x in values], 0.01).p_above == 1.0


@pytest.mark.parametrize("n", [8, 10, 14])
def test_p_value_equals_enumeration_of_all_sign_patterns(n: int) -> None:
    values = [0.3 + i * (-1) ** (i % 3) for i in range(1, n + 1)]
    ranks = [sorted(map(abs, values)).index(abs(v)) + 1 for v in values]
    observed = sum(rank for rank, value in zip(ranks, values, strict=True) if value > 0)
    reached = sum(
        sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign) >= observed
        for signs in itertools.product((0, 1), repeat=n)
    )
    assert stats.bounds(values, 0.01).p_above == pytest.approx(reached / 2**n)


def test_ties_at_zero_never_help_a_rejection() -> None:
    assert stats.bounds([0.0] * 20, 0.01).p_above == 1.0
    assert stats.bounds([0.0] * 4 + [1.0] * 4, 0.01).p_above > stats.bounds([0.1] * 4 + [1.0] * 4, 0.01).p_above


def test_holm_by_hand() -> None:
    assert stats.holm([0.004, 0.02, 0.001], 0.01) == [True, False, True]
    # 0.004 is above 0.01 / 3: it and everything after it stay.
    assert stats.holm([0.004, 0.004, 0.9], 0.01) == [False, False, False]
    assert stats.holm([], 0.01) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.sampled_from([0.005, 0.01, 0.05]))
def test_holm_lies_between_bonferroni_and_no_correction(ps: list[float], alpha: float) -> None:
    rejected = stats.holm(ps, alpha)
    for p, found in zip(ps, rejected, strict=True):
        assert found or p > alpha / len(ps)
        assert not found or p <= alpha


def test_error_of_the_location_is_that_of_repeated_samples() -> None:
    rng = random.Random(5)
    draws = [[rng.gauss(0.0, 1.0) for _ in range(24)] for _ in range(300)]
    true = statistics.stdev(stats.hodges_lehmann(values) for values in draws)
    stated = [error for values in draws if (error := stats.location_error(values)) is not None]
    assert len(stated) == 300
    assert statistics.median(stated) == pytest.approx(true, rel=0.15)
    assert stats.location_error([1.0] * 3) is None


def test_power_is_what_simulation_finds() -> None:
    """At the stated detectable slow-down about 90 % of samples are certain and above delta; far fewer at delta."""
    rng = random.Random(6)
    n, delta, alpha = 20, 0.05, 0.01
    error = 0.04 * math.sqrt(math.pi / 3 / n)
    stated = stats.power(error, delta, alpha, 0.9)

    def share(shift: float) -> float:
        found = [stats.bounds([rng.gauss(shift, 0.04) for _ in range(n)], alpha) for _ in range(400)]
        return sum(b.low is not None and b.low > 0 and b.value > delta for b in found) / 400

    assert 0.84 <= share(stated.detectable) <= 0.96
    assert 0.40 <= share(delta) <= 0.60
    passed = [stats.bounds([rng.gauss(0, 0.04) for _ in range(n)], alpha).high for _ in range(400)]
    assert 0.83 <= sum(high is not None and high < stated.equivalence for high in passed) / 400 <= 0.97


def test_the_floor_counts_noise_and_offset() -> None:
    assert stats.farthest([0.0] * 8) == 0.0
    assert stats.farthest([0.1] * 8) == pytest.approx(0.1)
    assert stats.farthest([-0.1] * 8) == pytest.approx(0.1)
    assert stats.farthest([0.1] * 3) is None


def test_a_goal_needs_the_estimate_and_the_bound() -> None:
    assert stats.reaches(1.0, 0.98, 0.97, 0.02) is True
    assert stats.reaches(0.96, 0.95, 0.97, 0.02) is False
    assert stats.reaches(0.97, 0.94, 0.97, 0.02) is None
    assert stats.reaches(1.0, None, 0.97, 0.02) is None
