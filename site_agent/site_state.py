"""What a learned bidder is told of its own site: `policies.features.SiteState`. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence

from gcos.contract_net import Fetch
from gcos.signals import SiteSignals
from policies.features import DAY_S, SiteState, outlook
from site_agent.demand import Demand
from site_agent.schedule import PoolSchedule, Profile


class StateOfSite:
    """A site at one instant; what its pools have in common is worked out once.

    Args:
        schedules: Plan of each pool, by type.
        demand: How often what is used here.
        signals: Forecasts of the site; its carbon is known.
        fetches: What the task lacks here.
        now_s: World instant.
        profiles: Free GPUs over time of pools, by type, where they were worked out already.
    """

    def __init__(
        self,
        schedules: Mapping[str, PoolSchedule],
        demand: Demand,
        signals: SiteSignals,
        fetches: Sequence[Fetch],
        *,
        now_s: float,
        profiles: Mapping[str, Profile] | None = None,
    ) -> None:
        assert signals.carbon is not None, "a site that knows no carbon has no features"
        plans = schedules.values()
        missing = [fetch.artifact_id for fetch in fetches]
        self._pool_gpu_counts = {key: plan.gpu_count for key, plan in schedules.items()}
        self._gpu_count = sum(plan.gpu_count for plan in plans)
        known = profiles or {}
        self._planned_gpu_s = sum(
            _planned_gpu_s(plan, known.get(key) or plan.profile(now_s), now_s)
            for key, plan in schedules.items()
        )
        self._backlog_gpu_s = sum(plan.committed_gpu_s(now_s) for plan in plans)
        self._queue_count = _waiting(plans)
        self._demand_here = sum(demand.here(each) for each in missing)
        self._demand_elsewhere = sum(demand.elsewhere(each) for each in missing)
        self._price = outlook(signals.price.series, now_s)
        self._carbon = outlook(signals.carbon.series, now_s)

    def of(self, pool_type: str) -> SiteState:
        """Return the state as an offer of that pool sees it."""
        return SiteState(
            gpu_count=self._gpu_count,
            pool_gpu_count=self._pool_gpu_counts[pool_type],
            planned_gpu_s=self._planned_gpu_s,
            backlog_gpu_s=self._backlog_gpu_s,
            queue_count=self._queue_count,
            demand_here=self._demand_here,
            demand_elsewhere=self._demand_elsewhere,
            price=self._price,
            carbon=self._carbon,
        )


def _waiting(plans: Iterable[PoolSchedule]) -> int:
    return sum(run.started_s is None for plan in plans for run in plan.planned.values())


def _planned_gpu_s(schedule: PoolSchedule, profile: Profile, now_s: float) -> float:
    """Return the GPU seconds of the next 24 h that the plan takes."""
    times, free = profile
    ends = [*times[1:], math.inf]
    until_s = now_s + DAY_S
    return sum(
        (schedule.gpu_count - count) * max(0.0, min(end_s, until_s) - start_s)
        for start_s, end_s, count in zip(times, ends, free, strict=True)
    )
