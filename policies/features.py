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
from struct import Struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gcos.accounting import G_PER_KG, S_PER_H, CostScope
from gcos.contract_net import Announcement, ClusterSignals, Fetch
from gcos.durations import prediction_for
from gcos.signals import HOURS_A_DAY, StepSeries
from policies.options import NUMBERS, Offered, numbers_of, pool_of

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
    median_s = math.inf if announcement.predictions else 0.0
    for each in announcement.predictions:
        median_s = min(median_s, each.run_time.p50_s)
    energy_kwh = announcement.gpu.gpu_count * median_s / S_PER_H
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
    reference: float,
) -> NDArray[np.float32]:
    """Return the features of one pool's candidates, (k, 24) float32, in the order of `FEATURES`.

    Args:
        offered: What the pool offers: one start, or several.
        fetches: What each of them would move.
        announcement: The task.
        state: What the site knows of itself.
        cluster: Means over all sites.
        now_s: World instant.
        reference: `reference_usd` of the task, $.
    """
    prediction = prediction_for(announcement.predictions, pool_of(offered))
    assert prediction is not None, "an offer rests on a prediction for its pool"
    run_time = prediction.run_time
    median_s = max(run_time.p50_s, 1.0)
    deadline_s = announcement.deadline_s
    # One array of all constants, packed first: numpy takes longer to read floats than for the logs.
    constants: NDArray[np.float64] = np.frombuffer(
        _CONSTANTS.pack(
            *_AT_ZERO,
            now_s,
            deadline_s or 0.0,
            *_weights(announcement, reference, median_s),
            _log(run_time.p90_s / median_s - 1.0),
            *_artifacts_and_site(fetches, announcement, state, median_s),
            _relative(state.price.now, state.price.mean, LEAST_PRICE),
            _relative(state.carbon.now, state.carbon.mean, LEAST_CARBON),
            _relative(state.price.mean, cluster.price_usd_per_kwh, LEAST_PRICE),
            _relative(state.carbon.mean, cluster.carbon_gco2_per_kwh, LEAST_CARBON),
        )
    )
    ratios = numbers_of(offered) - constants[:_OWN_COUNT]
    ratios *= constants[_OWN_COUNT : 2 * _OWN_COUNT]
    logs = np.log1p(np.abs(ratios))
    np.minimum(logs, _CLAMP, out=logs)
    rows = np.empty((len(ratios), FEATURE_COUNT), np.float32)
    rows[:, :_OWN_COUNT] = np.copysign(logs, ratios, out=logs)
    rows[:, _LATE] = ratios[:, _LATE]
    if deadline_s is None:
        rows[:, _FINISH] = CLAMP
    rows[:, _OWN_COUNT:] = constants[2 * _OWN_COUNT :]
    return rows


#: Features that differ between the starts of a pool come first, each made of one of `NUMBERS`.
_OWN_COUNT: Final = len(NUMBERS)
_LATE: Final = NUMBERS.index("late_probability")
_FINISH: Final = NUMBERS.index("p50_finish_s")
#: Numbers before the last two, both instants, count from 0.
_AT_ZERO: Final = (0.0,) * (_OWN_COUNT - 2)
#: What each number counts from and is multiplied with, and the features that all starts share.
_CONSTANTS: Final = Struct(f"{_OWN_COUNT + FEATURE_COUNT}d")
#: Amounts beyond are clamped.
_REACH: Final = math.expm1(CLAMP)
#: Ready for numpy.
_CLAMP: Final = np.array(CLAMP)


def _weights(announcement: Announcement, reference: float, median_s: float) -> tuple[float, ...]:
    """Return what the numbers of a candidate are multiplied with."""
    per_usd = 1.0 / reference
    per_g = announcement.terms.carbon_price_usd_per_kg / G_PER_KG * per_usd
    gpu = per_usd if announcement.terms.scope is CostScope.WITH_GPU_HOURS else 0.0
    per_s = 1.0 / median_s
    return per_usd, per_usd, per_g, per_usd, per_g, gpu, per_usd, 1.0, per_s, -per_s


def _artifacts_and_site(
    fetches: Sequence[Fetch], announcement: Announcement, state: SiteState, median_s: float
) -> tuple[float, ...]:
    """Return the features from `fetch_ratio` to `demand_elsewhere`; shares are within [0, 1]."""
    needed_count, needed_bytes = len(announcement.needs), 0
    for need in announcement.needs:
        needed_bytes += need.size_bytes
    missing_bytes, fetch_s = 0, 0.0
    for fetch in fetches:
        missing_bytes += fetch.size_bytes
        fetch_s += fetch.duration_s
    gpu_count = state.gpu_count
    return (
        _log(fetch_s / median_s),
        announcement.gpu.gpu_count / state.pool_gpu_count,
        state.planned_gpu_s / (gpu_count * DAY_S),
        _log(state.backlog_gpu_s / (gpu_count * DAY_S)),
        _log(state.queue_count / gpu_count),
        1.0 - len(fetches) / needed_count if needed_count else 1.0,
        missing_bytes / needed_bytes if needed_bytes else 0.0,
        _log(state.demand_here),
        _log(state.demand_elsewhere),
    )


def _relative(value: float, yardstick: float, least: float) -> float:
    return _log(value / max(least, yardstick) - 1.0)


def _log(value: float) -> float:
    if not -_REACH < value < _REACH:
        return math.copysign(CLAMP, value)
    return math.log1p(value) if value >= 0.0 else -math.log1p(-value)
