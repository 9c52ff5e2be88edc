"""How good forecasts were. Pure.

All scores are on ln seconds, so that 10 s taken for 20 s count as much as 10 h taken for 20 h. With
the quantile q_a told at level a, and y the logarithm of the time that came:

    pinball(a) = max(a (y - q_a), (a - 1) (y - q_a))
    CRPS       = mean of 2 pinball(a) over a = 0.05, 0.10 ... 0.95

The second is the quantile form of the continuous ranked probability score (Gneiting and Ranjan,
"Comparing Density Forecasts Using Threshold- and Quantile-Weighted Scoring Rules", 2011, eq. 12)
on 19 levels. Lower is better for both.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcos.durations import LEVELS
from gcos.seeds import stream

Floats = NDArray[np.float64]

_P10, _P50, _P90 = 1, 9, 17
SLICE_COUNT_MAX = 10
#: Fewer rows would make the coverage of a slice a matter of chance: its standard error is 1.8
#: points at 500.
SLICE_ROWS_MIN = 500
#: Blocks of the bootstrap: consecutive rows go together, since errors of neighbours are alike.
BLOCK_COUNT = 50
RESAMPLE_COUNT = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """How often the 80 % interval held, and how wide it was.

    Attributes:
        from_row: First row of the test part, from 0.
        row_count: Rows.
        coverage: Share of times within [q10, q90].
        width_ln: Mean of ln(q90 / q10).
        crps: Mean CRPS on ln seconds.
    """

    from_row: int
    row_count: int
    coverage: float
    width_ln: float
    crps: float


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one forecaster on one part.

    Attributes:
        crps: Mean CRPS on ln seconds.
        pinball10: Mean pinball loss at level 0.1, on ln seconds.
        pinball50: The same at level 0.5.
        pinball90: The same at level 0.9.
        q_error_median: Median of max(median / time, time / median).
        typical_q_error_median: The same for the single number that is told.
        overall: The 80 % interval over all rows.
        slices: The same over consecutive slices of equal row counts.
        frequencies: Share of times below each of the 19 quantiles; a time that equals a quantile
            counts half.
    """

    crps: float
    pinball10: float
    pinball50: float
    pinball90: float
    q_error_median: float
    typical_q_error_median: float
    overall: Interval
    slices: tuple[Interval, ...]
    frequencies: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """CRPS of ours against that of another, with a 95 % block-bootstrap interval.

    Attributes:
        relative: Ours / theirs - 1: negative where ours is better.
        low: 2.5 % quantile over resampled blocks.
        high: 97.5 % quantile.
    """

    relative: float
    low: float
    high: float


def crps_of(quantiles_s: Floats, duration_s: Floats) -> Floats:
    """Return the CRPS of each row, (n,), for quantiles (n, 19) and times (n,), both in seconds."""
    return np.asarray(2 * _pinball(quantiles_s, duration_s).mean(axis=1))


def scores_of(quantiles_s: Floats, typical_s: Floats, duration_s: Floats) -> Scores:
    """Return all scores for quantiles (n, 19), single numbers (n,) and times (n,), in seconds."""
    assert quantiles_s.shape == (len(duration_s), len(LEVELS))
    assert (np.diff(quantiles_s, axis=1) >= 0).all(), "quantiles rise with their level"
    losses = _pinball(quantiles_s, duration_s)
    crps = 2 * losses.mean(axis=1)
    levels = losses.mean(axis=0)
    is_below = duration_s[:, None] < quantiles_s
    is_at = duration_s[:, None] == quantiles_s
    count = max(1, min(SLICE_COUNT_MAX, len(duration_s) // SLICE_ROWS_MIN))
    parts = np.array_split(np.arange(len(duration_s)), count)
    return Scores(
        crps=float(crps.mean()),
        pinball10=float(levels[_P10]),
        pinball50=float(levels[_P50]),
        pinball90=float(levels[_P90]),
        q_error_median=_q_error_median(quantiles_s[:, _P50], duration_s),
        typical_q_error_median=_q_error_median(typical_s, duration_s),
        overall=_interval(np.arange(len(duration_s)), quantiles_s, duration_s, crps),
        slices=tuple(_interval(part, quantiles_s, duration_s, crps) for part in parts),
        frequencies=tuple((is_below + 0.5 * is_at).mean(axis=0).tolist()),
    )


def difference(ours: Floats, theirs: Floats, *, seed: int = 0) -> Difference:
    """Return how two rows of CRPS, (n,) each and of the same jobs in order of time, compare.

    Blocks of consecutive rows are drawn with replacement (Künsch, "The Jackknife and the Bootstrap
    for General Stationary Observations", 1989), for both forecasters the same ones.
    """
    assert ours.shape == theirs.shape
    blocks = np.array_split(np.arange(len(ours)), min(BLOCK_COUNT, len(ours)))
    sums = np.array([[ours[block].sum(), theirs[block].sum()] for block in blocks])
    picked = stream(seed, "bootstrap").integers(len(blocks), size=(RESAMPLE_COUNT, len(blocks)))
    totals = sums[picked].sum(axis=1)
    least = np.finfo(float).tiny
    relative = totals[:, 0] / np.maximum(totals[:, 1], least) - 1
    low, high = np.quantile(relative, [0.025, 0.975])
    return Difference(
        relative=float(ours.sum() / max(theirs.sum(), least) - 1), low=float(low), high=float(high)
    )


def _pinball(quantiles_s: Floats, duration_s: Floats) -> Floats:
    over = np.log(duration_s)[:, None] - np.log(quantiles_s)
    losses: Floats = np.maximum(LEVELS * over, (LEVELS - 1) * over)
    return losses


def _interval(
    rows: NDArray[np.int64], quantiles_s: Floats, duration_s: Floats, crps: Floats
) -> Interval:
    low, high, time_s = quantiles_s[rows, _P10], quantiles_s[rows, _P90], duration_s[rows]
    return Interval(
        from_row=int(rows[0]),
        row_count=len(rows),
        coverage=float(((low <= time_s) & (time_s <= high)).mean()),
        width_ln=float(np.log(high / low).mean()),
        crps=float(crps[rows].mean()),
    )


def _q_error_median(told_s: Floats, duration_s: Floats) -> float:
    ratio = told_s / duration_s
    return float(np.median(np.maximum(ratio, 1 / ratio)))
