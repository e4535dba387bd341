"""The statistics of a paired comparison: Hodges-Lehmann estimates with exact Wilcoxon intervals.

Nothing here knows servers or files. Samples are paired log-ratios (or differences), one per block; the
interval comes from the exact null distribution of the signed-rank statistic, never from a table or a
normal approximation, so it is honest for the 8 to 30 pairs that a benchmark can afford.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from statistics import NormalDist, median


@dataclass(frozen=True, slots=True)
class Estimate:
    """A location with its interval. `low` and `high` are None where n is too small for `confidence`.

    `values` are the paired samples the estimate comes from. For `ratio` all numbers are ratios, not logarithms.
    """

    value: float
    low: float | None
    high: float | None
    confidence: float
    n: int
    values: tuple[float, ...]

    @property
    def excludes_one(self) -> bool:
        """True if the interval exists and does not contain 1: a ratio that differs from equality."""
        return self.low is not None and self.high is not None and not self.low <= 1.0 <= self.high


def walsh_averages(values: Sequence[float]) -> list[float]:
    """All n(n+1)/2 pairwise means, each value with itself included, ascending."""
    n = len(values)
    return sorted((values[i] + values[j]) / 2 for i in range(n) for j in range(i, n))


def hodges_lehmann(values: Sequence[float]) -> float:
    """The median of the Walsh averages. Raises ValueError without values."""
    if not values:
        raise ValueError("no paired samples")
    return median(walsh_averages(values))


@cache
def signed_rank_counts(n: int) -> tuple[int, ...]:
    """How many of the 2**n sign patterns give each value 0..n(n+1)/2 of the signed-rank statistic."""
    counts = [1]
    for rank in range(1, n + 1):
        grown = counts + [0] * rank
        for value, count in enumerate(counts):
            grown[value + rank] += count
        counts = grown
    return tuple(counts)


def order_index(n: int, alpha: float) -> int | None:
    """k such that the k-th smallest Walsh average (1-based) is a one-sided lower bound at 1 - `alpha`.

    The bound holds because P(W <= k - 1) <= alpha under the exact null distribution. None if even the
    smallest Walsh average does not reach that confidence (2**-n > alpha).
    """
    if not 0 < alpha < 1:
        raise ValueError("alpha must lie between 0 and 1")
    limit = alpha * 2**n
    total = 0
    for value, count in enumerate(signed_rank_counts(n)):
        total += count
        if total > limit:
            return value or None
    return None


def one_sided(values: Sequence[float], alpha: float = 0.01) -> tuple[float | None, float | None]:
    """(lower bound, upper bound), each on its own at confidence 1 - `alpha`. None where n is too small."""
    k = order_index(len(values), alpha)
    if k is None:
        return None, None
    averages = walsh_averages(values)
    return averages[k - 1], averages[-k]


def paired_location(values: Sequence[float], confidence: float = 0.99) -> Estimate:
    """Hodges-Lehmann location of paired differences with a two-sided exact interval."""
    low, high = one_sided(values, (1 - confidence) / 2)
    return Estimate(hodges_lehmann(values), low, high, confidence, len(values), tuple(values))


def paired_ratio(ours: Sequence[float], control: Sequence[float], confidence: float = 0.99) -> Estimate:
    """The ratio ours / control from positive paired values, estimated on log-ratios."""
    if len(ours) != len(control):
        raise ValueError(f"{len(ours)} values against {len(control)}: not paired")
    logs = [math.log(a / b) for a, b in zip(ours, control, strict=True)]
    found = paired_location(logs, confidence)
    return Estimate(
        math.exp(found.value),
        None if found.low is None else math.exp(found.low),
        None if found.high is None else math.exp(found.high),
        confidence,
        found.n,
        tuple(math.exp(x) for x in logs),
    )


@cache
def _upper_tails(n: int) -> tuple[int, ...]:
    """For each value w of the signed-rank statistic, how many sign patterns reach at least w."""
    return tuple(accumulate(reversed(signed_rank_counts(n))))[::-1]


@dataclass(frozen=True, slots=True)
class Bounds:
    """A location with one-sided bounds, each on its own at confidence 1 - alpha (None where n is too small).

    `p_above` is the exact one-sided p-value against "the location is 0 or less". It is consistent with the bound:
    the lower bound is above 0 exactly when `p_above` <= alpha.
    """

    value: float
    low: float | None
    high: float | None
    p_above: float
    n: int


def bounds(values: Sequence[float], alpha: float) -> Bounds:
    """Estimate, one-sided bounds and p-value of paired differences from one sorted list of Walsh averages."""
    if not values:
        raise ValueError("no paired samples")
    n = len(values)
    averages = walsh_averages(values)
    # The signed-rank statistic is the number of positive Walsh averages. A zero counts as not positive, which
    # makes the p-value larger: ties never help a rejection.
    positive = len(averages) - bisect_right(averages, 0.0)
    k = order_index(n, alpha)
    return Bounds(
        median(averages),
        None if k is None else averages[k - 1],
        None if k is None else averages[-k],
        _upper_tails(n)[positive] / 2**n,
        n,
    )


def smallest_p(n: int) -> float:
    """The smallest one-sided p-value that n pairs can give."""
    return float(2.0**-n)


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses are rejected while at most `alpha` of the families with none false see any rejection."""
    m = len(p_values)
    rejected = [False] * m
    for place, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        if p_values[index] > alpha / (m - place):
            break
        rejected[index] = True
    return rejected


def location_error(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """Standard error of the Hodges-Lehmann estimate, from the width of its exact interval (Sen).

    Follows heavy tails, to which a standard deviation over sqrt(n) does not. None where n is too small for an interval.
    """
    low, high = one_sided(values, (1 - confidence) / 2)
    if low is None or high is None:
        return None
    return (high - low) / (2 * NormalDist().inv_cdf((1 + confidence) / 2))


def farthest(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """The floor of a comparison of a thing with itself: how far from 0 its two-sided interval still reaches.

    Half-width and offset count both: a harness that prefers one of two equal systems is as blind as a noisy one.
    None where n is too small for an interval.
    """
    low, high = one_sided(values, (1 - confidence) / 2)
    return None if low is None or high is None else max(abs(low), abs(high))


@dataclass(frozen=True, slots=True)
class Power:
    """What n pairs can show, as log-ratios. `error` is the standard error of the estimate.

    `detectable` is the smallest true slow-down that FAILs with the wanted probability; `equivalence` the smallest
    delta for which an unchanged system PASSes with it.
    """

    error: float
    detectable: float
    equivalence: float


def power(error: float, delta: float, alpha: float, wanted: float) -> Power:
    """From the standard error of the estimate, the log-margin, the one-sided alpha and the wanted probability."""
    normal = NormalDist()
    reach, certain = normal.inv_cdf(wanted), normal.inv_cdf(1 - alpha)
    return Power(error, max(delta + reach * error, (certain + reach) * error), (certain + reach) * error)


def reaches(value: float, low: float | None, target: float, floor: float) -> bool | None:
    """Whether a goal "at least `target`" is met: the estimate reaches it and the lower bound is within the floor of it.

    All on an additive scale (logarithms for ratios); for "at most", negate value, bound and target. None: the estimate
    reaches the target, but there is no bound, or the bound lies farther below than the floor: not shown.
    """
    if value < target:
        return False
    return True if low is not None and low >= target - floor else None


def relative_spread(values: Sequence[float]) -> float:
    """Median absolute deviation (scaled to a normal's standard deviation) over the median; 0 for one value."""
    if not values:
        raise ValueError("no values")
    middle = median(values)
    if middle == 0:
        return 0.0
    return 1.4826 * median(abs(value - middle) for value in values) / abs(middle)


def quantile(values: Sequence[float], q: float, *, exceedances: int = 5) -> float | None:
    """The q-quantile (nearest rank), or None if fewer than `exceedances` samples lie beyond it.

    A p99 of 50 samples is the maximum under another name; this refuses to print it.
    """
    if not 0 < q < 1:
        raise ValueError("q must lie between 0 and 1")
    n = len(values)
    if n * (1 - q) < exceedances and q > 0.5:
        return None
    if not n:
        return None
    return sorted(values)[max(0, math.ceil(q * n) - 1)]


def williams_order(systems: Sequence[str], blocks: int, seed: int) -> list[tuple[str, ...]]:
    """The order of the systems in each block: ABBA for two, a balanced (Williams) square for more.

    In every full set of rows each system stands once at each place, and follows each other system equally
    often, so that a linear drift and the heat left by the predecessor cancel. `seed` shuffles the labels.
    """
    import random

    labels = list(systems)
    random.Random(seed).shuffle(labels)
    n = len(labels)
    if n < 2:
        return [tuple(labels)] * blocks
    first = [0, *((step + 1) // 2 if step % 2 else n - step // 2 for step in range(1, n))]
    rows = [[(place + shift) % n for place in first] for shift in range(n)]
    if n % 2:
        # An odd number of systems is balanced only together with the mirrored rows.
        rows = [row for pair in zip(rows, [row[::-1] for row in rows], strict=True) for row in pair]
    elif n > 2:
        # A row and its mirror next to each other (ABCD DCBA): early blocks cancel drift already. The mirror
        # of row i of an even square is itself a row of the square.
        rows = _mirrored_pairs(rows)
    return [tuple(labels[i] for i in rows[block % len(rows)]) for block in range(blocks)]


def _mirrored_pairs(rows: list[list[int]]) -> list[list[int]]:
    left = list(rows)
    ordered: list[list[int]] = []
    while left:
        row = left.pop(0)
        ordered.append(row)
        if row[::-1] in left:
            left.remove(row[::-1])
            ordered.append(row[::-1])
    return ordered
