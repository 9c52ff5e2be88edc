"""How long a run will take, as a distribution: 19 quantiles and a tail rule.

`ln t` is piecewise linear between the quantiles at levels 0.05, 0.10 ... 0.95. Tail rule: below the
first and above the last level the slope of the outermost segment goes on (at least `MIN_SLOPE`, so
that a degenerate forecast still has a tail), to level 0 and level 1. Quantiles, mean and P(late)
all come from this one monotone function, so they never contradict each other.
"""

import math
import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gcos.errors import InvalidRequestError
from gcos.ids import RunId
from gcos.tasks import WorkKind

LEVELS: NDArray[np.float64] = np.arange(1, 20) / 20
"""The 19 levels of the reply: 0.05, 0.10 ... 0.95."""

#: With the levels at which the tails end, read-only.
_KNOT_LEVELS: NDArray[np.float64] = np.concatenate(([0.0], LEVELS, [1.0]))
_KNOT_LEVELS.setflags(write=False)

#: Midpoints of 20 slices of equal mass: the grid on which expectations are taken.
MIDPOINT_LEVELS: NDArray[np.float64] = (np.arange(20) + 0.5) / 20

#: Least rise of ln t per unit of level in a tail: 2 % of time per 0.05 of level.
MIN_SLOPE = 0.4
#: Most rise of ln t per unit of level in a tail, so that one outlier cannot make the mean infinite.
MAX_SLOPE = 40.0

SECONDS_MIN = 1e-3
SECONDS_MAX = 1e9


@dataclass(frozen=True, slots=True)
class RunTime:
    """Distribution of a run time in seconds of world time.

    Attributes:
        quantiles_s: 19 non-decreasing values at `LEVELS`, each within [1e-3, 1e9] s.
    """

    quantiles_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.quantiles_s) != len(LEVELS):
            raise InvalidRequestError(
                f"{len(self.quantiles_s)} quantiles instead of {len(LEVELS)}", field="quantiles_s"
            )
        previous = SECONDS_MIN
        for value in self.quantiles_s:
            if not previous <= value <= SECONDS_MAX:
                raise InvalidRequestError(
                    "quantiles must be finite, non-decreasing and within 0.001 s and 1e9 s",
                    field="quantiles_s",
                )
            previous = value

    @classmethod
    def lognormal(cls, median_s: float, sigma: float) -> "RunTime":
        """Return the distribution `median_s * exp(N(0, sigma))`, sampled at the 19 levels."""
        z = _NORMAL_QUANTILES * sigma
        values = np.clip(median_s * np.exp(z), SECONDS_MIN, SECONDS_MAX)
        return cls(tuple(float(v) for v in values))

    def quantile_s(self, level: float) -> float:
        """Return the quantile at `level` in [0, 1]."""
        return float(self.quantiles_at(np.array([level]))[0])

    def quantiles_at(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return quantiles in seconds, (n,), at `levels`, (n,) in [0, 1]."""
        knots_level, knots_ln = self._knots()
        return np.exp(np.interp(levels, knots_level, knots_ln))

    def probability_within(self, seconds: float) -> float:
        """Return P(run time <= `seconds`). At a jump it is the upper level."""
        levels, ln = _knot_lists(self.quantiles_s)
        return _interpolated(math.log(max(seconds, sys.float_info.min)), ln, levels)

    def probabilities_within(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return P(run time <= s), (n,), for each s of `seconds`, (n,)."""
        ln = np.log(np.maximum(seconds, sys.float_info.min))
        return np.asarray(np.interp(ln, _strict_knots_of(self.quantiles_s), _KNOT_LEVELS))

    def midpoints_s(self) -> NDArray[np.float64]:
        """Return 20 values of equal weight, (20,), on which expectations are taken."""
        return self.quantiles_at(MIDPOINT_LEVELS)

    @property
    def p50_s(self) -> float:
        """The median."""
        return self.quantiles_s[9]

    @property
    def p90_s(self) -> float:
        """The 90 % quantile."""
        return self.quantiles_s[17]

    @property
    def mean_s(self) -> float:
        """The mean over the 20 slices of equal mass."""
        return _mean_of(self.quantiles_s)

    def scaled(self, factor: float) -> "RunTime":
        """Return the distribution of `factor` times the run time."""
        values = np.clip(np.array(self.quantiles_s) * factor, SECONDS_MIN, SECONDS_MAX)
        return RunTime(tuple(float(v) for v in values))

    def remaining_after(self, elapsed_s: float) -> "RunTime":
        """Return the distribution of what remains, given that `elapsed_s` have passed.

        The conditional quantile at level u is Q(F(e) + u (1 - F(e))) - e.
        """
        if elapsed_s <= 0:
            return self
        passed = min(self.probability_within(elapsed_s), 0.999)
        values = self.quantiles_at(passed + LEVELS * (1 - passed)) - elapsed_s
        floor = max(SECONDS_MIN, 0.01 * elapsed_s)  # overdue: about as much again is unknown
        return RunTime(tuple(float(v) for v in np.clip(values, floor, SECONDS_MAX)))

    def remaining_p50_s(self, elapsed_s: float) -> float:
        """Return the median of `remaining_after`, at a fiftieth of its price.

        Plans ask for it once for each running task and each bid.
        """
        if elapsed_s <= 0:
            return self.p50_s
        levels, ln = _knot_lists(self.quantiles_s)
        passed = min(self.probability_within(elapsed_s), 0.999)
        median_s = math.exp(_interpolated(passed + 0.5 * (1 - passed), levels, ln)) - elapsed_s
        return min(max(median_s, SECONDS_MIN, 0.01 * elapsed_s), SECONDS_MAX)

    def _knots(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return _knots_of(self.quantiles_s)


@lru_cache(maxsize=4096)
def _knots_of(
    quantiles_s: tuple[float, ...],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return levels and ln t between which a run time is piecewise linear, read-only.

    Remembered, since a plan asks for the same few hundred run times again and again.
    """
    # math.log, as in `probability_within`: a jump is met only if both sides round alike.
    ln = [math.log(quantile_s) for quantile_s in quantiles_s]
    low = min(max((ln[1] - ln[0]) / 0.05, MIN_SLOPE), MAX_SLOPE)
    high = min(max((ln[-1] - ln[-2]) / 0.05, MIN_SLOPE), MAX_SLOPE)
    knots = np.array([ln[0] - low * 0.05, *ln, ln[-1] + high * 0.05])
    knots.setflags(write=False)
    return _KNOT_LEVELS, knots


@lru_cache(maxsize=4096)
def _strict_knots_of(quantiles_s: tuple[float, ...]) -> NDArray[np.float64]:
    """Return ln t at the knots, read-only, strictly ascending.

    Equal quantiles are a jump: the probability at the jump is its upper level, so the lower knots
    of a jump are moved to just before it.
    """
    _, knots = _knots_of(quantiles_s)
    strictly = knots - np.arange(len(knots))[::-1] * 1e-12
    strictly.setflags(write=False)
    return strictly


@lru_cache(maxsize=4096)
def _mean_of(quantiles_s: tuple[float, ...]) -> float:
    return float(RunTime(quantiles_s).midpoints_s().mean())


@lru_cache(maxsize=4096)
def _knot_lists(quantiles_s: tuple[float, ...]) -> tuple[list[float], list[float]]:
    levels, ln = _knots_of(quantiles_s)
    return levels.tolist(), ln.tolist()


def _interpolated(x: float, xs: list[float], ys: list[float]) -> float:
    """Return y at `x` on the line through the knots; the end values beyond them."""
    i = bisect_right(xs, x)
    if i == 0:
        return ys[0]
    if i == len(xs):
        return ys[-1]
    return ys[i - 1] + (ys[i] - ys[i - 1]) * (x - xs[i - 1]) / (xs[i] - xs[i - 1])


class PredictionSource(Enum):
    """Where a prediction comes from."""

    PREDICTOR = "PREDICTOR"
    SNAPSHOT = "SNAPSHOT"
    PRIOR = "PRIOR"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predictor's answer for one pool type.

    Attributes:
        pool_type: GPU type, as in the pools of sites.
        run_time: Distribution of the run time, world seconds.
        typical_s: Median of the deepest context with at least five finishes, world seconds.
        effective_count: Finished runs behind the answer, after forgetting.
        context: The deepest context used, such as `kind/model`.
        is_cold: No finished run of this model on this pool type is known.
        source: Who answered.
        version: Version of the predictor's state.
    """

    pool_type: str
    run_time: RunTime
    source: PredictionSource
    typical_s: float | None = None
    effective_count: float = 0.0
    context: str = "prior"
    is_cold: bool = True
    version: str = ""


def prediction_for(predictions: Sequence[Prediction], pool_type: str) -> Prediction | None:
    """Return the prediction for `pool_type`, or None."""
    for prediction in predictions:
        if prediction.pool_type == pool_type:
            return prediction
    return None


#: Standard normal quantiles at `LEVELS`, from scipy.stats.norm.ppf.
_NORMAL_QUANTILES: NDArray[np.float64] = np.array(
    [
        -1.6448536269514729,
        -1.2815515655446004,
        -1.0364333894937898,
        -0.8416212335729142,
        -0.6744897501960817,
        -0.5244005127080409,
        -0.38532046640756773,
        -0.2533471031357997,
        -0.12566134685507402,
        0.0,
        0.12566134685507416,
        0.2533471031357997,
        0.38532046640756773,
        0.5244005127080407,
        0.6744897501960817,
        0.8416212335729143,
        1.0364333894937898,
        1.2815515655446004,
        1.6448536269514722,
    ]
)


@dataclass(frozen=True, slots=True)
class PoolSpeed:
    """A pool type that a prediction is asked for.

    Attributes:
        type: GPU type.
        speed_ratio: Declared work per hour relative to the reference GPU; feeds the prior.
    """

    type: str
    speed_ratio: float


@dataclass(frozen=True, slots=True)
class WorkFeatures:
    """What the predictor reads of a task.

    Attributes:
        kind: Sort of work.
        model: Name of the model; empty where there is none.
        model_bytes: Size of the model.
        data: Names of the data sets.
        data_bytes: Size of the data sets together.
        token_count: Tokens to process.
        epoch_count: Passes over the data.
        batch_size_count: Sequences per step; 0 where unknown.
        sequence_token_count: Tokens per sequence; 0 where unknown.
        gpu_count: GPUs of the run.
        project: Who submits.
    """

    kind: WorkKind
    model: str = ""
    model_bytes: int = 0
    data: tuple[str, ...] = ()
    data_bytes: int = 0
    token_count: int = 0
    epoch_count: float = 1.0
    batch_size_count: int = 0
    sequence_token_count: int = 0
    gpu_count: int = 1
    project: str = "default"


class Outcome(Enum):
    """How an observed run ended. Only a success tells a duration; the others are censored."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"


@dataclass(frozen=True, slots=True)
class Observation:
    """The end of a run, told to the predictor. Idempotent by run.

    Attributes:
        run_id: The attempt.
        features: What the task was.
        pool_type: Where it ran.
        outcome: How it ended.
        elapsed_s: World seconds that it executed.
        ended_s: World instant of its end.
    """

    run_id: RunId
    features: WorkFeatures
    pool_type: str
    outcome: Outcome
    elapsed_s: float
    ended_s: float
