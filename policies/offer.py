"""The offer: exact marginal J of a task at a site, for each pool and each feasible start. Pure.

    J(start) = E_T[ g k e * integral over [start, start+T] of (price + lambda carbon) ]
             + egress + lambda * network carbon of what must be fetched
             + E_T[ late penalty(start + T - deadline) ]     (+ GPU hours in scope "with-gpu-hours")

The expectation runs over 20 slices of equal mass of the predicted run time (DESIGN sections 5 and
7 A). The marginal cost of using what is already cached is nothing, which is what draws tasks to
their data.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gcos.accounting import (
    Charge,
    LatePenalty,
    RunTerms,
    cost_usd,
    expected_run_charges,
    joint_usd,
)
from gcos.contract_net import Announcement
from gcos.durations import MIDPOINT_LEVELS, RunTime
from gcos.signals import HOUR_S, SiteSignals
from gcos.sites import Pool
from policies.interface import Option
from policies.options import COLUMNS, OFFER, OptionTable, lowest, numbers_of

#: Later starts are looked for on the hour, where hourly signals step, and no further than this.
HORIZON_H = 48

#: 20 slices of equal mass, then the 90 % quantile.
_LEVELS: NDArray[np.float64] = np.concatenate((MIDPOINT_LEVELS, [0.9]))
_SLICES: NDArray[np.float64] = np.full(len(MIDPOINT_LEVELS), 1 / len(MIDPOINT_LEVELS))
#: (21, 2): the mean over the slices, and the 90 % quantile alone.
_WEIGHTS: NDArray[np.float64] = np.zeros((len(_LEVELS), 2))
_WEIGHTS[:-1, 0] = _SLICES
_WEIGHTS[-1, 1] = 1.0


@dataclass(frozen=True, slots=True)
class PoolOffer:
    """What a pool can promise for the task.

    Attributes:
        pool: The pool.
        run_time: Predicted run time there.
        earliest_starts: Earliest feasible starts, by the pool's plan, not before each of several
            instants, ascending.
    """

    pool: Pool
    run_time: RunTime
    earliest_starts: Callable[[Sequence[float]], Sequence[float]]


def candidate_starts(
    offer: PoolOffer, announcement: Announcement, *, ready_s: float, may_start_later: bool = True
) -> NDArray[np.float64]:
    """Return feasible starts, (k,), ascending and distinct; the first is the earliest.

    A later start is a candidate only if the task has a deadline that its p90 still meets, or an
    earliest start that lies ahead.
    """
    not_before = max(ready_s, announcement.earliest_start_s or ready_s)
    [first] = offer.earliest_starts([not_before])
    may_defer = may_start_later and announcement.may_defer
    if not may_defer or announcement.deadline_s is None:
        return np.array([first])
    latest = announcement.deadline_s - offer.run_time.p90_s
    next_hour = (math.floor(first / HOUR_S) + 1) * HOUR_S
    hours = [at for i in range(HORIZON_H) if (at := next_hour + HOUR_S * i) <= latest]
    later = {start for start in offer.earliest_starts(hours) if first < start <= latest}
    return np.array([first, *sorted(later)])


def options_of(
    offer: PoolOffer,
    announcement: Announcement,
    *,
    signals: SiteSignals,
    pue: float,
    ready_s: float,
    transfers: Charge,
    may_start_later: bool = True,
) -> OptionTable:
    """Return the options of one pool, earliest first.

    Args:
        offer: The pool.
        announcement: The task.
        signals: Price and carbon forecast of the site.
        pue: Facility energy over IT energy.
        ready_s: World instant at which everything would be fetched.
        transfers: Charge of fetching it: egress and network carbon.
        may_start_later: Later starts than the earliest are wanted, too.
    """
    terms = announcement.terms
    run = RunTerms(
        gpu_count=announcement.gpu.gpu_count,
        active_kw=offer.pool.active_kw,
        pue=pue,
        gpu_usd_per_h=offer.pool.usd_per_gpu_h,
    )
    starts = candidate_starts(offer, announcement, ready_s=ready_s, may_start_later=may_start_later)
    durations = _durations_s(offer.run_time)
    carbon = None if signals.carbon is None else signals.carbon.series
    price = signals.price.series
    expected, at_p90 = expected_run_charges(
        run, price, carbon, starts_s=starts, durations_s=durations, weights=_WEIGHTS
    )
    penalties, late = _lateness(announcement, offer.run_time, starts, durations[:-1])
    egress_usd, network_gco2 = transfers.transfer_usd, transfers.network_gco2
    mean_usd = cost_usd(
        terms.scope,
        energy_usd=expected.energy_usd,
        transfer_usd=egress_usd,
        penalty_usd=penalties,
        gpu_usd=expected.gpu_usd,
    )
    mean_gco2 = expected.compute_gco2 + network_gco2
    p90_usd = cost_usd(
        terms.scope,
        energy_usd=at_p90.energy_usd,
        transfer_usd=egress_usd,
        gpu_usd=at_p90.gpu_usd,
    )
    in_order: tuple[NDArray[np.float64] | float, ...] = (  # as `COLUMNS` has them
        joint_usd(mean_usd, mean_gco2, terms.carbon_price_usd_per_kg),
        expected.energy_usd,
        expected.compute_gco2,
        egress_usd,
        network_gco2,
        expected.gpu_usd,
        penalties,
        late,
        starts,
        starts + offer.run_time.p50_s,
        starts + offer.run_time.p90_s,
        p90_usd,
        at_p90.compute_gco2 + network_gco2,
        expected.energy_kwh,
    )
    columns = np.empty((len(COLUMNS), len(starts)))
    for column, values in zip(columns, in_order, strict=True):
        column[:] = values
    return OptionTable(offer.pool.type, columns.T, transfer_bytes=transfers.transfer_bytes)


def expected_penalty_usd(
    run_time: RunTime, penalty: LatePenalty, *, start_s: float, deadline_s: float
) -> float:
    """Return the expected late penalty of a start, $, as offers count it."""
    late_s = start_s + _durations_s(run_time)[:-1] - deadline_s
    if late_s[-1] <= 0:  # ascending: not even the longest slice is late
        return 0.0
    return float(penalty.expected_usd(late_s, _SLICES))


@lru_cache(maxsize=1024)
def _durations_s(run_time: RunTime) -> NDArray[np.float64]:
    """Return the run times at `_LEVELS`, (21,), read-only: sites of one type ask for the same."""
    points = run_time.quantiles_at(_LEVELS)
    points.setflags(write=False)
    return points


def _lateness(
    announcement: Announcement,
    run_time: RunTime,
    starts: NDArray[np.float64],
    durations: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return expected penalties over the slices, (k,) $, and the exact P(late), (k,)."""
    if announcement.deadline_s is None:
        return np.zeros(len(starts)), np.zeros(len(starts))
    late_s = starts[:, np.newaxis] + durations - announcement.deadline_s
    return (
        # Ascending: mostly not even the longest slice of the last start is late.
        np.zeros(len(starts))
        if late_s[-1, -1] <= 0
        else announcement.terms.late_penalty.expected_usd(late_s, _SLICES),
        # Twenty slices would round this to a multiple of 5 %, and deferral asks for 1 %.
        1.0 - run_time.probabilities_within(announcement.deadline_s - starts),
    )


def cheapest(options: Sequence[Option]) -> int:
    """Return the index of the lowest offer; the earlier start wins a tie."""
    numbers = numbers_of(options)
    return lowest(numbers[:, OFFER], numbers)
