"""Sweeps over one parameter, and the front of cost and carbon over carbon prices. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from testbed.evaluation import Evaluation
from testbed.statistics import Estimate

CARBON_PRICE: Final = "carbon_price_usd_per_kg"

#: Parameters that a page shows a sweep of, with their names in words and units.
SWEPT: Final = {
    CARBON_PRICE: ("carbon price", "$/kg"),
    "network_kwh_per_gb": ("network energy (kappa)", "kWh/GB"),
    "workload.runtime_sigma": ("prediction error of run times", "sigma of ln(true / predicted)"),
    "signals.forecast_error": ("forecast error of price and carbon", "sigma, relative"),
    "workload.load": ("load", "of all GPUs"),
}


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """A value of the parameter, and what each policy came to there."""

    value: float
    found: Evaluation


@dataclass(frozen=True, slots=True)
class Sweep:
    """Evaluations that differ in one parameter alone.

    Attributes:
        parameter: Its key in the scenario file.
        points: At least two, by value.
    """

    parameter: str
    points: tuple[SweepPoint, ...]

    @property
    def policies(self) -> tuple[str, ...]:
        """Policies that were evaluated at every point, in the order of the first."""
        shared = [{each.policy for each in point.found.policies} for point in self.points]
        every = set.intersection(*shared)
        return tuple(each.policy for each in self.points[0].found.policies if each.policy in every)

    def joint_usd(self, policy: str) -> list[Estimate]:
        """Return J of a policy at each point."""
        return [
            next(each.joint_usd for each in point.found.policies if each.policy == policy)
            for point in self.points
        ]


def sweeps(main: Evaluation, others: Sequence[Evaluation]) -> tuple[Sweep, ...]:
    """Return the sweeps that `main` is a point of, in the order of `SWEPT`."""
    made = []
    for parameter in SWEPT:
        if parameter not in main.origin.parameters:
            continue
        points: dict[float, Evaluation] = {}
        for each in (main, *others):
            if _frame(each, parameter) == _frame(main, parameter):
                points.setdefault(each.origin.parameters[parameter], each)
        if len(points) > 1:
            made.append(
                Sweep(parameter, tuple(SweepPoint(key, points[key]) for key in sorted(points)))
            )
    return tuple(made)


def _frame(found: Evaluation, parameter: str) -> tuple[object, ...]:
    """Return all that must be the same of evaluations that differ in one parameter."""
    rest = {key: value for key, value in found.origin.parameters.items() if key != parameter}
    return (
        parameter in found.origin.parameters,
        sorted(rest.items()),
        found.origin.base,
        found.cache_mode,
        found.cost_scope,
        found.data,
        found.weeks_start_s,
        found.seeds,
    )


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """What a policy came to at one carbon price.

    Attributes:
        policy: Which policy.
        carbon_price_usd_per_kg: At which price it decided.
        cost_usd: Mean cost.
        carbon_kg: Mean carbon.
        is_on_front: No other point of any policy has less of one and no more of the other.
    """

    policy: str
    carbon_price_usd_per_kg: float
    cost_usd: float
    carbon_kg: float
    is_on_front: bool


@dataclass(frozen=True, slots=True)
class Front:
    """Cost and carbon over carbon prices.

    Attributes:
        points: All policies at all prices.
        reference: Cost and carbon of the corner from which volumes are counted: the highest of
            all points.
        hypervolume_percent: Of each policy: share of the box from nothing to the reference that
            its points leave behind; more is better.
    """

    points: tuple[FrontPoint, ...]
    reference: tuple[float, float]
    hypervolume_percent: dict[str, float]


def front(sweep: Sweep) -> Front:
    """Return the front of a sweep of carbon prices."""
    assert sweep.parameter == CARBON_PRICE, "a front is one of carbon prices"
    raw = [
        (policy, point.value, each.cost_usd.mean, each.carbon_kg.mean)
        for policy in sweep.policies
        for point in sweep.points
        for each in point.found.policies
        if each.policy == policy
    ]
    corners = [(cost, carbon) for _, _, cost, carbon in raw]
    points = tuple(
        FrontPoint(policy, price, cost, carbon, not _is_beaten((cost, carbon), corners))
        for policy, price, cost, carbon in raw
    )
    reference = max(cost for cost, _ in corners), max(carbon for _, carbon in corners)
    volumes = {
        policy: _volume_percent(
            [(each.cost_usd, each.carbon_kg) for each in points if each.policy == policy],
            reference,
        )
        for policy in sweep.policies
    }
    return Front(points, reference, volumes)


def _is_beaten(point: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
    return any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in others)


def _volume_percent(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Return the share of the box [0, reference] that points dominate, % (Zitzler, Thiele 1998)."""
    if min(reference) <= 0:
        return 0.0
    volume, ceiling = 0.0, reference[1]
    for cost, carbon in sorted(points):
        if carbon < ceiling:
            volume += (reference[0] - cost) * (ceiling - carbon)
            ceiling = carbon
    return 100.0 * volume / (reference[0] * reference[1])
