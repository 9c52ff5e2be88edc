"""Are two policies different? Paired differences with a block bootstrap. Pure.

Runs are paired: both policies meet the same week and the same draws, so their difference is free of
what weeks and draws do to both. Weeks are blocks, since runs in one week share its signals: the
bootstrap draws whole weeks with replacement (cluster bootstrap: Davison and Hinkley, Bootstrap
Methods and their Application, 1997, section 3.8; intervals are percentiles, section 5.3).
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gcos.seeds import stream

RESAMPLE_COUNT: Final = 10_000
LEVEL: Final = 0.95
#: The bootstrap's own seed: the same runs give the same interval.
BOOTSTRAP_SEED: Final = 0

#: "Worse" is more than so many per cent above the other policy (DESIGN section 7, Protocol).
WORSE_PERCENT: Final = 1.0

#: A difference relative to less than this has no meaning ($ or kg of a week).
LEAST_VALUE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over runs and how well it is known.

    Attributes:
        mean: Arithmetic mean.
        std: Sample standard deviation over runs; 0 for a single run.
        standard_error: Of the mean, from the bootstrap over weeks; None with fewer than two weeks.
        interval: Of the mean; None with fewer than two weeks, which tell nothing of others.
        count: Runs.
        block_count: Weeks.
    """

    mean: float
    std: float
    standard_error: float | None
    interval: Interval | None
    count: int
    block_count: int

    def negated(self) -> "Estimate":
        """Return the estimate of minus the values: a saving for a difference."""
        interval = self.interval
        turned = None if interval is None else Interval(-interval.high, -interval.low)
        return replace(self, mean=-self.mean, interval=turned)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A policy against another one on the same runs; below zero, the first is better.

    Attributes:
        difference: Of the values, first minus other.
        relative_percent: Of each pair, 100 (first - other) / other; None where another value is
            not above `LEAST_VALUE`.
        win_count: Pairs in which the first is strictly lower.
        is_worse: The mean is above +1 % and the interval excludes 0.
    """

    difference: Estimate
    relative_percent: Estimate | None
    win_count: int
    is_worse: bool


def estimate(values: Sequence[float], blocks: Sequence[Hashable]) -> Estimate:
    """Return the mean of `values` with an interval from resampling whole blocks.

    Args:
        values: (n,) one for each run, n >= 1.
        blocks: (n,) the calendar week of each run.
    """
    array = np.asarray(values, dtype=np.float64)
    assert array.size > 0, "a mean of nothing"
    assert array.shape == (len(blocks),), "a block for each value"
    means = _resampled_means(array, blocks)
    return Estimate(
        mean=math.fsum(array) / len(array),
        std=float(array.std(ddof=1)) if len(array) > 1 else 0.0,
        standard_error=None if means is None else float(means.std(ddof=1)),
        interval=None if means is None else _interval(means),
        count=len(array),
        block_count=len(set(blocks)),
    )


def compare(
    values: Sequence[float], others: Sequence[float], blocks: Sequence[Hashable]
) -> Comparison:
    """Return how `values` differ from `others`, run by run; both are costs: lower is better."""
    first = np.asarray(values, dtype=np.float64)
    other = np.asarray(others, dtype=np.float64)
    assert first.shape == other.shape, "runs come in pairs"
    relative = None
    if (other > LEAST_VALUE).all():
        relative = estimate((100.0 * (first - other) / other).tolist(), blocks)
    return Comparison(
        difference=estimate((first - other).tolist(), blocks),
        relative_percent=relative,
        win_count=int((first < other).sum()),
        is_worse=relative is not None and is_worse(relative),
    )


def is_worse(relative_percent: Estimate) -> bool:
    """Tell whether a relative difference is worse than +1 % (DESIGN section 7, Protocol)."""
    interval = relative_percent.interval
    excludes_0 = interval is not None and (interval.low > 0 or interval.high < 0)
    return relative_percent.mean > WORSE_PERCENT and excludes_0


def _resampled_means(
    values: NDArray[np.float64], blocks: Sequence[Hashable]
) -> NDArray[np.float64] | None:
    """Return the mean of each resample of blocks, (RESAMPLE_COUNT,); None for a single block."""
    members: dict[Hashable, list[float]] = {}
    for block, value in zip(blocks, values.tolist(), strict=True):
        members.setdefault(block, []).append(value)
    if len(members) < 2:
        return None
    # In a canonical order, so that the order of the runs cannot show in the interval.
    ordered = sorted(members.values(), key=lambda each: (math.fsum(each), len(each)))
    sums = np.array([math.fsum(each) for each in ordered])
    counts = np.array([len(each) for each in ordered])
    random = stream(BOOTSTRAP_SEED, "bootstrap", len(ordered))
    drawn = random.integers(len(ordered), size=(RESAMPLE_COUNT, len(ordered)))
    return np.asarray(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))


def _interval(means: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def percent(values: Sequence[float]) -> str:
    """Return the mean of ratios with its standard error over runs, in percent."""
    error = stdev(values) / math.sqrt(len(values))
    return f"{100 * fmean(values):+.1f} % ({100 * error:.1f})"
