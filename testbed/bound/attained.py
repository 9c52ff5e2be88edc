"""What a clairvoyant search attains: its schedule with every transfer, booked like any run.

There are two: from the multipliers of the bound, and from what the best of some policies did
(`testbed.bound.trajectory`). The better one counts, so that no such policy is better.

Transfers are planned backwards, each to end when it is needed or as soon before that as both ends
of its link are idle: flows never share a link, so that each moves at its full rate. An artifact
that several sites need spreads from site to site by the cheapest arcs, the first copies in time for
the later ones to be made from them.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from gcos.accounting import BYTES_PER_GB, S_PER_H
from gcos.seeds import stream
from testbed.bound.ascent import Ascent
from testbed.bound.booking import joint_usd, totals_of
from testbed.bound.pricing import Fetches
from testbed.bound.problem import NEED_COUNT, Floats, Problem
from testbed.bound.schedule import Limits, Schedule
from testbed.bound.search import fill, improve
from testbed.bound.trajectory import NEVER_H, Fetched, Follower, Trajectory
from testbed.sim.cache_modes import CacheMode, capacities_bytes
from testbed.sim.instance import Instance
from testbed.sim.result import Totals

#: Parts of the caches that the search may fill, one after the other: copies that wait for later
#: ones take more room than it plans with.
_CACHE_RATIOS: Final = (1.0, 0.8, 0.6, 0.4)
_FETCH_RATIO: Final = 1.5
#: Rounds of moves end when one gains less than this part of J, or after so many.
_GAIN_RATIO: Final = 1e-3
ROUND_COUNT_MAX: Final = 4
#: Fetches that come too late for the first uses are given more time so often.
_DELAY_COUNT_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class _Transfer:
    """One planned transfer; times in hours."""

    artifact: int
    source: int
    target: int
    start_h: float
    end_h: float
    task: int | None


@dataclass(slots=True)
class _Need:
    """A copy, or a stream for one task, that must be somewhere in time."""

    artifact: int
    target: int
    source: int
    by_h: float
    until_h: float
    task: int | None = None
    #: Copies that are made from this one and have no place in time yet.
    waiting: int = 0


@dataclass(slots=True)
class _Plan:
    """Transfers with a place in time."""

    transfers: list[_Transfer] = field(default_factory=list)
    #: End of each copy, hours, by artifact and site.
    ends_h: dict[tuple[int, int], float] = field(default_factory=dict)
    #: The first (artifact, site) whose transfer would begin before the run; None: all is well.
    late: tuple[int, int] | None = None


def attained(
    instance: Instance,
    problem: Problem,
    ascent: Ascent,
    *,
    mode: CacheMode = CacheMode.DUAL,
    online: Sequence[Trajectory] = (),
    round_count_max: int = ROUND_COUNT_MAX,
    log: Path | None = None,
) -> Totals | None:
    """Return what the best schedule that was found comes to over the whole run.

    Args:
        instance: The drawn problem.
        problem: The same as arrays.
        ascent: Multipliers of its bound, from which the search begins.
        mode: Which caches there are.
        online: What policies did; the result is never worse than the best of them.
        round_count_max: How often all moves are tried.
        log: Directory for the three files of DESIGN section 10; None: none.

    Returns:
        Its totals; None where sites come and go, or are too many for their trees to be known, or
        nothing was done online and no schedule was found whose copies fit the caches.
    """
    if instance.churn or problem.tree_usd is None:
        return None
    starts = [min(online, key=partial(joint_usd, instance, problem))] if online else []
    searched = _searched(instance, problem, ascent, mode, round_count_max)
    if searched is not None:
        starts.append(searched)
    if not starts:
        return None
    found = [_followed(instance, problem, each, round_count_max) for each in starts]
    best = min(found, key=partial(joint_usd, instance, problem))
    return totals_of(instance, problem, best, mode=mode, log=log)


def _searched(
    instance: Instance, problem: Problem, ascent: Ascent, mode: CacheMode, round_count_max: int
) -> Trajectory | None:
    """Return what the search from the multipliers finds."""
    for ratio in _CACHE_RATIOS:
        schedule = Schedule(problem, _limits(instance, mode, ratio), _fetch_h(instance, problem))
        if fill(schedule, Fetches(problem), ascent):
            best = _best(instance, mode, schedule, round_count_max)
            if best is not None:
                return best
    return None


def _best(
    instance: Instance, mode: CacheMode, schedule: Schedule, round_count_max: int
) -> Trajectory | None:
    """Return the best schedule of some rounds, each with its transfers planned.

    Fetches that come too late make tasks move, and the next round finds better places for them.
    """
    draws = stream(instance.seed, "search")
    best: Trajectory | None = None
    best_usd = math.inf
    for _ in range(round_count_max):
        improve(schedule, draws)
        plan = _planned(instance, schedule)
        if plan is None or not _fits(instance, mode, schedule.problem, plan):
            continue
        found = _trajectory(schedule, plan)
        usd = joint_usd(instance, schedule.problem, found)
        gain_usd = best_usd - usd
        if gain_usd > 0:
            best, best_usd = found, usd
        if gain_usd < _GAIN_RATIO * abs(usd):
            break
    return best


def _trajectory(schedule: Schedule, plan: _Plan) -> Trajectory:
    """Return a schedule with its transfers as what is done."""
    fetched = [
        Fetched(
            each.artifact,
            each.source,
            each.target,
            each.start_h,
            each.end_h,
            NEVER_H if each.task is not None else plan.ends_h[each.artifact, each.target],
            task=each.task,
        )
        for each in sorted(plan.transfers, key=lambda each: (each.start_h, each.artifact))
    ]
    places = [place for place in schedule.places if place is not None]
    assert len(places) == len(schedule.places), "all tasks are placed"
    return Trajectory(tuple((each.site, each.start_h) for each in places), tuple(fetched))


def _followed(
    instance: Instance, problem: Problem, trajectory: Trajectory, round_count_max: int
) -> Trajectory:
    """Return a trajectory as some rounds of moves leave it, or as it is where they only harm."""
    free = Limits(
        np.full((len(problem.speed), NEED_COUNT), math.inf), is_shared=False, fetch_ratio=0.0
    )
    schedule = Schedule(problem, free, np.zeros((len(problem.home), len(problem.speed))))
    follower = Follower(schedule, trajectory)
    draws = stream(instance.seed, "follow")
    best, best_usd = trajectory, joint_usd(instance, problem, trajectory)
    for _ in range(round_count_max):
        follower.improve(draws)
        usd = joint_usd(instance, problem, follower.trajectory)
        gain_usd = best_usd - usd
        if gain_usd > 0:
            best, best_usd = follower.trajectory, usd
        if gain_usd < _GAIN_RATIO * abs(usd):
            break
    return best


def _limits(instance: Instance, mode: CacheMode, ratio: float) -> Limits:
    capacities = np.array([capacities_bytes(site, mode) for site in instance.sites]) / BYTES_PER_GB
    is_shared = mode is CacheMode.COUPLED
    if is_shared:
        capacities[:, 0] += capacities[:, 1]
    return Limits(ratio * capacities, is_shared=is_shared, fetch_ratio=_FETCH_RATIO)


def _hours(instance: Instance, artifact: int, source: int, target: int) -> float:
    """Return how long a transfer takes alone, half a round trip included."""
    sites = instance.sites
    link = instance.links[sites[source].site_id, sites[target].site_id]
    size_bytes = instance.upstreams[artifact].artifact.size_bytes
    return (size_bytes / link.bytes_per_s + link.rtt_s / 2) / S_PER_H


def _fetch_h(instance: Instance, problem: Problem) -> Floats:
    """Return (a, s): the duration of each fetch over the slowest link in."""
    sites = range(len(problem.speed))
    found = np.zeros((len(problem.home), len(problem.speed)))
    for artifact in range(len(problem.home)):
        for target in sites:
            every = [_hours(instance, artifact, src, target) for src in sites if src != target]
            found[artifact, target] = max(every, default=0.0)
    return found


# Transfers.


def _planned(instance: Instance, schedule: Schedule) -> _Plan | None:
    """Return transfers for a schedule, whose first uses move back where these would be late."""
    for _ in range(_DELAY_COUNT_MAX):
        plan = _transfers(instance, schedule)
        if plan.late is None:
            return plan
        if not schedule.delay(*plan.late):
            return None
    return None


def _transfers(instance: Instance, schedule: Schedule) -> _Plan:
    needs = _needs(schedule)
    copies = {(need.artifact, need.target): need for need in needs if need.task is None}
    plan = _Plan()
    outgoing: list[list[tuple[float, float]]] = [[] for _ in instance.sites]
    incoming: list[list[tuple[float, float]]] = [[] for _ in instance.sites]
    ready = [(-need.by_h, i) for i, need in enumerate(needs) if not need.waiting]
    numbers = {id(need): i for i, need in enumerate(needs)}
    heapq.heapify(ready)
    while ready:
        need = needs[heapq.heappop(ready)[1]]
        home = int(schedule.problem.home[need.artifact])
        for source in dict.fromkeys((need.source, home)):
            length_h = _hours(instance, need.artifact, source, need.target)
            busy = outgoing[source] + incoming[need.target]
            start_h = _latest_start(need.by_h, length_h, busy)
            if start_h >= 0:
                break
        else:
            plan.late = (need.artifact, need.target)
            return plan
        end_h = start_h + length_h
        outgoing[source].append((start_h, end_h))
        incoming[need.target].append((start_h, end_h))
        plan.transfers.append(
            _Transfer(need.artifact, source, need.target, start_h, end_h, need.task)
        )
        if need.task is None:
            plan.ends_h[need.artifact, need.target] = need.until_h
        parent = copies.get((need.artifact, need.source))
        if need.task is None and parent is not None:
            parent.waiting -= 1
            if source == need.source:
                parent.by_h = min(parent.by_h, start_h)
                parent.until_h = max(parent.until_h, end_h)
            if not parent.waiting:
                heapq.heappush(ready, (-parent.by_h, numbers[id(parent)]))
    return plan


def _needs(schedule: Schedule) -> list[_Need]:
    """Return all copies and streams of a schedule, and from where each comes."""
    problem = schedule.problem
    found = []
    for artifact in range(len(problem.home)):
        home = int(problem.home[artifact])
        left = [site for site in range(len(problem.speed)) if schedule.users.get((artifact, site))]
        reached: dict[int, _Need | None] = {home: None}
        while left:
            _, source, target = min(
                (problem.arc_usd[source, target], source, target)
                for source in reached
                for target in left
            )
            left.remove(target)
            first_h, last_h = schedule.spans_h[artifact, target]
            need = _Need(artifact, target, source, by_h=first_h, until_h=last_h)
            parent = reached[source]
            if parent is not None:
                parent.waiting += 1
            reached[target] = need
            found.append(need)
    for task, place in enumerate(schedule.places):
        assert place is not None, "all tasks are placed"
        for artifact in problem.needs[task]:
            home = int(problem.home[artifact])
            if home != place.site and not problem.fits[artifact, place.site]:
                start_h = place.start_h
                found.append(_Need(int(artifact), place.site, home, start_h, start_h, task))
    return found


def _latest_start(by_h: float, length_h: float, busy: list[tuple[float, float]]) -> float:
    """Return the latest start of a transfer that ends in time while both its ends are idle."""
    end_h = by_h
    for begin, end in sorted(busy, reverse=True):
        if begin < end_h and end > end_h - length_h:
            end_h = begin
    return end_h - length_h


def _fits(instance: Instance, mode: CacheMode, problem: Problem, plan: _Plan) -> bool:
    """Tell whether the copies of a plan fit the caches at every instant."""
    limits = _limits(instance, mode, 1.0)
    changes: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for each in plan.transfers:
        if each.task is None:
            kind = 0 if limits.is_shared or problem.is_model[each.artifact] else 1
            size = problem.size_gb[each.artifact]
            of_cache = changes.setdefault((each.target, kind), [])
            until_h = plan.ends_h[each.artifact, each.target]
            of_cache += [(each.start_h, size), (until_h, -size)]
    for (site, kind), of_cache in changes.items():
        # What goes at an instant makes room at it.
        held = np.cumsum([size for _, size in sorted(of_cache)])
        if held.max() > limits.cache_gb[site, kind] + 1e-9:
            return False
    return True
