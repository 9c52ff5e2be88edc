"""What a report says of one evaluation: savings, spreads, and where the subject loses. Pure."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gcos.accounting import BYTES_PER_GB, S_PER_H
from testbed.evaluation import (
    Evaluation,
    carbon_kg,
    cost_usd,
    joint_usd,
    summary_name,
    whole_joint_usd,
)
from testbed.run_store import RunRecord
from testbed.sim.result import Lookups
from testbed.statistics import Comparison, Estimate, compare, estimate

#: Rows of the list of lost runs; the worst ones are shown.
LOST_RUN_COUNT_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class Metric:
    """Something of a run.

    Attributes:
        name: In words.
        unit: Of its value.
        value: It, in one run; None: nothing was counted.
        in_scope: It depends on the cost scope.
    """

    name: str
    unit: str
    value: Callable[[RunRecord], float | None]
    in_scope: bool = False


def late_percent(run: RunRecord) -> float | None:
    """Return the share of tasks that ended late, %."""
    totals = run.result.measured
    return 100.0 * totals.miss_count / totals.task_count if totals.task_count else None


def model_hit_percent(run: RunRecord) -> float | None:
    """Return the share of lookups that found the model, %."""
    return _hit_percent(run.result.measured.models)


def data_hit_percent(run: RunRecord) -> float | None:
    """Return the share of lookups that found the data set, %."""
    return _hit_percent(run.result.measured.data_sets)


def moved_gb(run: RunRecord) -> float:
    """Return what was moved, GB."""
    return run.result.measured.charge.transfer_bytes / BYTES_PER_GB


def _hit_percent(lookups: Lookups) -> float | None:
    count = lookups.hit_count + lookups.miss_count
    return 100.0 * lookups.hit_count / count if count else None


def _missed(
    hit_percent: Callable[[RunRecord], float | None],
) -> Callable[[RunRecord], float | None]:
    def miss_percent(run: RunRecord) -> float | None:
        found = hit_percent(run)
        return None if found is None else 100.0 - found

    return miss_percent


JOINT: Final = Metric("J", "$", joint_usd, in_scope=True)
COST: Final = Metric("cost", "$", cost_usd, in_scope=True)
CARBON: Final = Metric("carbon", "kg", carbon_kg)
LATE: Final = Metric("late tasks", "% of tasks", late_percent)
MODEL_HITS: Final = Metric("model hits", "% of lookups", model_hit_percent)
DATA_HITS: Final = Metric("data hits", "% of lookups", data_hit_percent)
WAIT_MEAN_H: Final = Metric(
    "wait, mean", "h", lambda run: run.result.measured.wait_mean_s / S_PER_H
)
WAIT_P95_H: Final = Metric("wait, p95", "h", lambda run: run.result.measured.wait_p95_s / S_PER_H)

#: What the subject may lose in; less is better in all of them.
METRICS: Final = (
    JOINT,
    COST,
    CARBON,
    Metric("late penalties", "$", lambda run: run.result.measured.charge.penalty_usd),
    LATE,
    Metric("electricity", "kWh", lambda run: run.result.measured.charge.energy_kwh),
    Metric("price of electricity", "$", lambda run: run.result.measured.charge.energy_usd),
    Metric("egress", "$", lambda run: run.result.measured.charge.transfer_usd),
    Metric("bytes moved", "GB", moved_gb),
    WAIT_MEAN_H,
    WAIT_P95_H,
    Metric("model misses", "% of lookups", _missed(model_hit_percent)),
    Metric("data misses", "% of lookups", _missed(data_hit_percent)),
)


@dataclass(frozen=True, slots=True)
class Saving:
    """What the subject saves against one policy; below zero it loses.

    Attributes:
        baseline: Against whom.
        metric: Of what.
        subject_mean: Its mean.
        baseline_mean: The other's.
        percent: 100 (other - own) / other, mean of pairs, with its interval; None: no percentage.
        win_count: Runs in which the subject is strictly lower.
        run_count: Pairs of runs.
    """

    baseline: str
    metric: Metric
    subject_mean: float
    baseline_mean: float
    percent: Estimate | None
    win_count: int
    run_count: int


@dataclass(frozen=True, slots=True)
class Loss:
    """Somebody is better than the subject.

    Attributes:
        where: In which evaluation or run.
        metric: In what.
        other: Who.
        subject_value: The subject's value.
        other_value: The other's, which is lower.
        percent: 100 (own - other) / |other|; None: the other's is 0.
        std: Standard deviation of the paired differences over runs; None: one run.
    """

    where: str
    metric: Metric
    other: str
    subject_value: float
    other_value: float
    percent: float | None
    std: float | None


def name_in(found: Evaluation, run: RunRecord) -> str:
    """Return under which name of `found.policies` a run is summed up."""
    return summary_name(run.policy, run.cache_mode, found.cache_mode.split(","))


def runs_of(found: Evaluation, policy: str) -> list[RunRecord]:
    """Return the runs of a policy of `found`, by week and seed."""
    runs = [run for run in found.runs if name_in(found, run) == policy]
    return sorted(runs, key=lambda run: (run.week_start_s, run.seed))


def best_policy(found: Evaluation) -> str:
    """Return the policy of the lowest mean J."""
    return min(found.policies, key=lambda each: (each.joint_usd.mean, each.policy)).policy


def spread(found: Evaluation, policy: str, metric: Metric) -> Estimate | None:
    """Return the mean over runs of a metric and how it varies; None: nothing was counted."""
    runs = runs_of(found, policy)
    values = [value for run in runs if (value := metric.value(run)) is not None]
    if len(values) < len(runs):
        return None
    return estimate(values, [run.week_start_s for run in runs])


def savings(found: Evaluation, subject: str) -> tuple[Saving, ...]:
    """Return what the subject saves of J, cost and carbon against each other policy."""
    own = runs_of(found, subject)
    weeks = [run.week_start_s for run in own]
    made = []
    for other in (each.policy for each in found.policies if each.policy != subject):
        theirs = runs_of(found, other)
        for metric in (JOINT, COST, CARBON):
            first, second = _values(own, metric), _values(theirs, metric)
            compared = compare(first, second, weeks)
            made.append(
                Saving(
                    other,
                    metric,
                    math.fsum(first) / len(first),
                    math.fsum(second) / len(second),
                    _saved(compared),
                    compared.win_count,
                    len(first),
                )
            )
    return tuple(made)


def _values(runs: Sequence[RunRecord], metric: Metric) -> list[float]:
    return [0.0 if (value := metric.value(run)) is None else value for run in runs]


def _saved(compared: Comparison) -> Estimate | None:
    relative = compared.relative_percent
    return None if relative is None else relative.negated()


def mean_losses(found: Evaluation, subject: str, where: str = "") -> tuple[Loss, ...]:
    """Return every metric and policy whose mean over runs is better than the subject's.

    Args:
        found: The evaluation.
        subject: Whose losses.
        where: What the evaluation is called in them.
    """
    made = []
    for metric in METRICS:
        own = runs_of(found, subject)
        for other in (each.policy for each in found.policies if each.policy != subject):
            theirs = runs_of(found, other)
            if any(metric.value(run) is None for run in (*own, *theirs)):
                continue
            first, second = _values(own, metric), _values(theirs, metric)
            if math.fsum(second) < math.fsum(first):
                made.append(_loss(where, metric, other, first, second))
    return tuple(made)


def lost_runs(found: Evaluation, subject: str, named: Callable[[float], str]) -> tuple[Loss, ...]:
    """Return the runs in which a policy has a lower J than the subject, the worst first.

    Args:
        found: The evaluation.
        subject: Whose losses.
        named: Names a week by its begin.
    """
    made = []
    own = runs_of(found, subject)
    for other in (each.policy for each in found.policies if each.policy != subject):
        for mine, theirs in zip(own, runs_of(found, other), strict=True):
            first, second = joint_usd(mine), joint_usd(theirs)
            if second < first:
                where = f"{named(mine.week_start_s)}, seed {mine.seed}"
                made.append(_loss(where, JOINT, other, [first], [second]))
    return tuple(sorted(made, key=lambda each: -(each.percent or 0.0)))


def _loss(
    where: str, metric: Metric, other: str, own: Sequence[float], theirs: Sequence[float]
) -> Loss:
    first, second = math.fsum(own) / len(own), math.fsum(theirs) / len(theirs)
    differences = [a - b for a, b in zip(own, theirs, strict=True)]
    return Loss(
        where,
        metric,
        other,
        subject_value=first,
        other_value=second,
        percent=100.0 * (first - second) / abs(second) if second else None,
        std=estimate(differences, range(len(own))).std if len(own) > 1 else None,
    )


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a policy is from the least J that is known, as ratios of J of whole runs.

    Attributes:
        policy: Which policy.
        over_bound: J over the lower bound; None: not computed.
        over_search: J over that of the clairvoyant search; None: not computed.
    """

    policy: str
    over_bound: Estimate | None
    over_search: Estimate | None


def distances(found: Evaluation) -> tuple[Distance, ...]:
    """Return the distances of all policies, over the runs for which they were computed."""
    bounds = {(each.week_start_s, each.seed): each for each in found.bounds}
    made = []
    for policy in (each.policy for each in found.policies):
        runs = runs_of(found, policy)
        known = [(run, bounds.get((run.week_start_s, run.seed))) for run in runs]
        made.append(
            Distance(
                policy,
                _ratio([(run, b.bound_usd) for run, b in known if b is not None]),
                _ratio([(run, b.local_search_usd) for run, b in known if b is not None]),
            )
        )
    return tuple(made)


def _ratio(pairs: Sequence[tuple[RunRecord, float | None]]) -> Estimate | None:
    known = [(run, least) for run, least in pairs if least is not None and least > 0]
    if not known:
        return None
    return estimate(
        [whole_joint_usd(run) / least for run, least in known],
        [run.week_start_s for run, _ in known],
    )
