"""What a predictor knew, for agents whose predictor is away. Pure.

A snapshot holds one distribution for each kind, model and pool type that has run, as factors on the
roofline (`gcos.run_time_prior`), so that it scales to other sizes. What it does not hold is told by
the prior.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gcos.durations import (
    SECONDS_MAX,
    SECONDS_MIN,
    PoolSpeed,
    Prediction,
    PredictionSource,
    RunTime,
    WorkFeatures,
)
from gcos.run_time_prior import has_known_size, pool_reference_s, prior_predictions
from gcos.tasks import WorkKind


@dataclass(frozen=True, slots=True)
class ContextRunTime:
    """How long one kind of work takes with one model on one pool type.

    Attributes:
        kind: Sort of work.
        model: Name of the model; empty where there is none.
        pool_type: GPU type.
        has_known_size: Whether the reference scales with the work.
        quantiles_ratio: (19,) quantiles of run time over reference time at speed ratio 1.
        typical_ratio: Typical run time over the same; None where too few runs are known.
        effective_count: Finished runs behind it.
        context: The deepest context that was used.
    """

    kind: WorkKind
    model: str
    pool_type: str
    has_known_size: bool
    quantiles_ratio: tuple[float, ...]
    typical_ratio: float | None
    effective_count: float
    context: str


@dataclass(frozen=True, slots=True)
class RunTimeSnapshot:
    """What a predictor knew.

    Attributes:
        version: Of the predictor's state.
        contexts: One for each kind, model and pool type.
    """

    version: str
    contexts: tuple[ContextRunTime, ...]


def snapshot_predictions(
    snapshot: RunTimeSnapshot, features: WorkFeatures, pools: Sequence[PoolSpeed]
) -> tuple[Prediction, ...]:
    """Return one prediction for each pool type, in order, marked SNAPSHOT or PRIOR."""
    is_sized = has_known_size(features)
    known = {
        told.pool_type: told
        for told in snapshot.contexts
        if (told.kind, told.model, told.has_known_size) == (features.kind, features.model, is_sized)
    }
    reference_s = pool_reference_s(features, 1.0)
    return tuple(
        prior
        if (told := known.get(pool.type)) is None
        else _prediction(told, reference_s, snapshot.version)
        for pool, prior in zip(pools, prior_predictions(features, pools), strict=True)
    )


def _prediction(told: ContextRunTime, reference_s: float, version: str) -> Prediction:
    typical = told.typical_ratio
    return Prediction(
        pool_type=told.pool_type,
        run_time=RunTime(tuple(_seconds(ratio * reference_s) for ratio in told.quantiles_ratio)),
        source=PredictionSource.SNAPSHOT,
        typical_s=None if typical is None else _seconds(typical * reference_s),
        effective_count=told.effective_count,
        context=told.context,
        is_cold=False,
        version=version,
    )


def _seconds(seconds: float) -> float:
    return min(max(seconds, SECONDS_MIN), SECONDS_MAX)
