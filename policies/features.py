"""What a learned bidder sees of one candidate: 24 numbers without a scale of their own. Pure.

A candidate is a site's offer for a task. Its site computes the features from that offer, from what
it knows of itself, and from the mean signals of all sites, which digests carry; so agents and
environments share this module. All candidates of a task divide money by the same *reference*: what
its run would cost in J at the mean price and intensity of all sites and 1 kW a GPU, and what being
late would cost at once. Amounts, counts and times enter as sign(x) log(1 + |x|), and every feature
is clamped to +-6, so that no unseen setting can drive a network where it has never been.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from gcos.accounting import G_PER_KG, S_PER_H, Charge, CostScope
from gcos.contract_net import Announcement, ClusterSignals, Fetch
from gcos.durations import prediction_for
from gcos.signals import HOURS_A_DAY, StepSeries

#: Each feature in its place, and what it is.
FEATURES: Final = {
    "offer_ratio": "J of the offer over the reference",
    "energy_ratio": "expected price of electricity over the reference",
    "run_carbon_ratio": "lambda x expected carbon of the run over the reference",
    "egress_ratio": "egress over the reference",
    "network_carbon_ratio": "lambda x carbon of the transfers over the reference",
    "gpu_ratio": "price of the GPU hours over the reference; 0 where the scope leaves it out",
    "penalty_ratio": "expected late penalty over the reference",
    "late_probability": "P(finish > deadline)",
    "delay_ratio": "time to the start over the median run time",
    "slack_ratio": "deadline less median finish over the median run time; 6 without a deadline",
    "spread_ratio": "p90 of the run time over its median, less 1",
    "fetch_ratio": "time of fetching what is missing over the median run time",
    "gpu_share_ratio": "GPUs asked for over GPUs of the pool",
    "planned_ratio": "share of the site's GPU hours of the next 24 h that are committed",
    "backlog_ratio": "predicted GPU hours of all that runs and waits over GPUs of the site, by 24",
    "queue_ratio": "runs that wait over GPUs of the site",
    "hit_ratio": "share of the needed artifacts that are here",
    "missing_ratio": "bytes to be fetched over bytes needed",
    "demand_here": "decayed uses of the missing artifacts at this site",
    "demand_elsewhere": "the same at all other sites together",
    "price_own_ratio": "price now over this site's mean of the next 24 h, less 1",
    "carbon_own_ratio": "intensity now over this site's mean of the next 24 h, less 1",
    "price_all_ratio": "this site's mean price of the next 24 h over that of all sites, less 1",
    "carbon_all_ratio": "the same of intensity",
}
FEATURE_COUNT: Final = len(FEATURES)
#: What each feature is measured in, for the files of actors that take them.
UNITS: Final = {
    name: "1"
    if name
    in ("late_probability", "gpu_share_ratio", "planned_ratio", "hit_ratio", "missing_ratio")
    else "log1p(uses)"
    if name.startswith("demand")
    else "log1p(1)"
    for name in FEATURES
}
CLAMP: Final = 6.0
DAY_S: Final = HOURS_A_DAY * S_PER_H

#: Below this a mean price or intensity is no yardstick ($/kWh, gCO2/kWh).
LEAST_PRICE: Final = 1e-3
LEAST_CARBON: Final = 1.0
LEAST_USD: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Outlook:
    """A signal now, and its mean over the next 24 h."""

    now: float
    mean: float


@dataclass(frozen=True, slots=True)
class SiteState:
    """What a site knows of itself.

    Attributes:
        gpu_count: GPUs of all pools.
        pool_gpu_count: GPUs of the pool that the offer names.
        planned_gpu_s: GPU seconds of the next 24 h that runs and reservations take.
        backlog_gpu_s: Predicted GPU seconds of all that runs and waits.
        queue_count: Runs that wait.
        demand_here: Decayed uses, at this site, of the artifacts that the offer lacks.
        demand_elsewhere: The same at all other sites.
        price: $/kWh, of its forecast.
        carbon: gCO2/kWh, of its forecast.
    """

    gpu_count: int
    pool_gpu_count: int
    planned_gpu_s: float
    backlog_gpu_s: float
    queue_count: int
    demand_here: float
    demand_elsewhere: float
    price: Outlook
    carbon: Outlook


class Offered(Protocol):
    """What features are read off: a bid, or an option before it is one."""

    @property
    def pool_type(self) -> str:
        """Which pool."""

    @property
    def start_s(self) -> float:
        """World instant of the start."""

    @property
    def p50_finish_s(self) -> float:
        """World instant of the median end."""

    @property
    def late_probability(self) -> float:
        """P(end > deadline)."""

    @property
    def offer_usd(self) -> float:
        """J."""

    @property
    def charge(self) -> Charge:
        """Expected cost and carbon by item."""


def outlook(series: StepSeries, now_s: float) -> Outlook:
    """Return a signal now and its mean over the next 24 h."""
    return Outlook(series.at(now_s), series.mean(now_s, now_s + DAY_S))


def cluster_of(
    prices: Sequence[float | None], carbons: Sequence[float | None]
) -> ClusterSignals | None:
    """Return the means over all sites of what they tell; None: no site tells its price.

    Args:
        prices: Of each site, the mean of its next 24 h, $/kWh; None: it does not tell.
        carbons: The same, gCO2/kWh.
    """
    told_usd = [each for each in prices if each is not None]
    told_g = [each for each in carbons if each is not None]
    if not told_usd:
        return None
    return ClusterSignals(
        price_usd_per_kwh=sum(told_usd) / len(told_usd),
        carbon_gco2_per_kwh=sum(told_g) / len(told_g) if told_g else 0.0,
    )


def reference_usd(announcement: Announcement, cluster: ClusterSignals) -> float:
    """Return what all candidates of a task divide money by, $, above 0.

    J of the shortest predicted median at 1 kW a GPU and the mean signals of all sites, plus the
    fixed late penalty.
    """
    terms = announcement.terms
    medians_s = [each.run_time.p50_s for each in announcement.predictions]
    energy_kwh = announcement.gpu.gpu_count * min(medians_s, default=0.0) / S_PER_H
    price = max(cluster.price_usd_per_kwh, LEAST_PRICE)
    carbon_kg = max(cluster.carbon_gco2_per_kwh, LEAST_CARBON) / G_PER_KG
    run_usd = energy_kwh * (price + terms.carbon_price_usd_per_kg * carbon_kg)
    return max(run_usd + terms.late_penalty.fixed_usd, LEAST_USD)


def features_of(
    offered: Sequence[Offered],
    fetches: Sequence[Fetch],
    announcement: Announcement,
    state: SiteState,
    cluster: ClusterSignals,
    *,
    now_s: float,
) -> NDArray[np.float32]:
    """Return the features of one pool's candidates, (k, 24) float32, in the order of `FEATURES`.

    Args:
        offered: What the pool offers: one start, or several.
        fetches: What each of them would move.
        announcement: The task.
        state: What the site knows of itself.
        cluster: Means over all sites.
        now_s: World instant.
    """
    prediction = prediction_for(announcement.predictions, offered[0].pool_type)
    assert prediction is not None, "an offer rests on a prediction for its pool"
    median_s = max(prediction.run_time.p50_s, 1.0)
    shared = {
        "spread_ratio": _log(prediction.run_time.p90_s / median_s - 1.0),
        "fetch_ratio": _log(sum(each.duration_s for each in fetches) / median_s),
        **_site(announcement.gpu.gpu_count, state),
        **_artifacts(fetches, announcement, state),
        "price_own_ratio": _relative(state.price.now, state.price.mean, LEAST_PRICE),
        "carbon_own_ratio": _relative(state.carbon.now, state.carbon.mean, LEAST_CARBON),
        "price_all_ratio": _relative(state.price.mean, cluster.price_usd_per_kwh, LEAST_PRICE),
        "carbon_all_ratio": _relative(state.carbon.mean, cluster.carbon_gco2_per_kwh, LEAST_CARBON),
    }
    rows = np.empty((len(offered), FEATURE_COUNT))
    rows[:, : len(_OWN)] = _own(offered, announcement, cluster, median_s, now_s)
    rows[:, len(_OWN) :] = [shared[name] for name in _SHARED]
    return rows.clip(-CLAMP, CLAMP).astype(np.float32)


#: Features that differ between the starts of a pool, and those that do not.
_OWN: Final = tuple(FEATURES)[:10]
_SHARED: Final = tuple(FEATURES)[10:]
#: What the former are made of, in their order.
_NUMBERS: Final = attrgetter(
    "offer_usd",
    "charge.energy_usd",
    "charge.compute_gco2",
    "charge.transfer_usd",
    "charge.network_gco2",
    "charge.gpu_usd",
    "charge.penalty_usd",
    "late_probability",
    "start_s",
    "p50_finish_s",
)


def _own(
    offered: Sequence[Offered],
    announcement: Announcement,
    cluster: ClusterSignals,
    median_s: float,
    now_s: float,
) -> NDArray[np.float64]:
    """Return the features `_OWN` of each candidate, (k, 10); all at once, as there may be many."""
    terms = announcement.terms
    per_usd = 1.0 / reference_usd(announcement, cluster)
    carbon_weight = terms.carbon_price_usd_per_kg / G_PER_KG * per_usd
    gpu_weight = per_usd if terms.scope is CostScope.WITH_GPU_HOURS else 0.0
    per_s = 1.0 / median_s
    deadline_s = announcement.deadline_s
    rows: NDArray[np.float64] = np.array([_NUMBERS(each) for each in offered])
    rows[:, 8] -= now_s
    rows[:, 9] -= deadline_s or 0.0
    rows *= (
        *(per_usd, per_usd, carbon_weight, per_usd, carbon_weight, gpu_weight, per_usd),
        *(1.0, per_s, -per_s),
    )
    logged: NDArray[np.float64] = np.copysign(np.log1p(np.abs(rows)), rows)
    logged[:, 7] = rows[:, 7]
    if deadline_s is None:
        logged[:, 9] = CLAMP
    return logged


def _site(gpu_count: int, state: SiteState) -> dict[str, float]:
    return {
        "gpu_share_ratio": gpu_count / state.pool_gpu_count,
        "planned_ratio": state.planned_gpu_s / (state.gpu_count * DAY_S),
        "backlog_ratio": _log(state.backlog_gpu_s / (state.gpu_count * DAY_S)),
        "queue_ratio": _log(state.queue_count / state.gpu_count),
    }


def _artifacts(
    fetches: Sequence[Fetch], announcement: Announcement, state: SiteState
) -> dict[str, float]:
    needed_count = len(announcement.needs)
    needed_bytes = sum(need.size_bytes for need in announcement.needs)
    missing_bytes = sum(each.size_bytes for each in fetches)
    return {
        "hit_ratio": 1.0 - len(fetches) / needed_count if needed_count else 1.0,
        "missing_ratio": missing_bytes / needed_bytes if needed_bytes else 0.0,
        "demand_here": _log(state.demand_here),
        "demand_elsewhere": _log(state.demand_elsewhere),
    }


def _relative(value: float, yardstick: float, least: float) -> float:
    return _log(value / max(yardstick, least) - 1.0)


def _log(value: float) -> float:
    return math.copysign(math.log1p(abs(value)), value)
