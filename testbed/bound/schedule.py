"""A schedule that knows everything, as a search changes it: who runs where and when. Pure.

Time is told in bins of `BIN_H`. A run takes its GPUs from the bin in which it starts to the one in
which it ends, so that a schedule in bins is one in hours. Copies of an artifact at a site are one
interval, from before its first use to its last one: a second fetch is never planned, and what no
cache could hold is brought for each task anew.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from testbed.bound.problem import NEED_COUNT, Floats, Problem

BIN_H: Final = 0.05
_BINS_AN_HOUR: Final = round(1 / BIN_H)
#: Later than this past the last start in time, lateness costs no more and waiting buys little.
_LATEST_H: Final = 6.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where and when a task runs, and what J it adds: run, lateness, fetches."""

    site: int
    start_h: float
    usd: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What a schedule must leave room for.

    Attributes:
        cache_gb: (s, 2) capacity of models and of data sets.
        is_shared: One cache holds both, as large as the first.
        fetch_ratio: A first use comes so many times the duration of its fetch after the begin of
            the run: fetches wait for each other.
    """

    cache_gb: Floats
    is_shared: bool
    fetch_ratio: float


class Schedule:
    """Places of tasks, and what GPUs and caches have left."""

    def __init__(self, problem: Problem, limits: Limits, fetch_h: Floats) -> None:
        """Begin with no task placed.

        Args:
            problem: The problem; its trees are known.
            limits: What to leave room for.
            fetch_h: (a, s) duration of bringing an artifact to a site.
        """
        assert problem.tree_usd is not None, "trees are known"
        self.problem = problem
        self.limits = limits
        self.fetch_h = fetch_h
        self.places: list[Place | None] = [None] * len(problem.work_h)
        self.run_h = problem.work_h[:, np.newaxis] / problem.speed
        site_count, hours = problem.rate.shape
        # Long enough for everything one after the other at the end.
        spare_h = int(self.run_h.max(initial=0.0)) + 200
        self._hours = hours + spare_h
        rates = np.concatenate(
            (problem.rate, np.repeat(problem.rate[:, -1:], spare_h, axis=1)), axis=1
        )
        by_bin = np.repeat(rates, _BINS_AN_HOUR, axis=1) * BIN_H
        self._until = np.concatenate((np.zeros((site_count, 1)), np.cumsum(by_bin, axis=1)), axis=1)
        self._rates = rates
        self._nothing = np.zeros_like(self._until)
        self._used = np.zeros((site_count, self._hours * _BINS_AN_HOUR), dtype=np.int32)
        self._gpus = problem.gpu_h[:, 0].round().astype(np.int64)
        self._held_gb = np.zeros((site_count, NEED_COUNT, self._hours))
        #: Tasks that use the copy of an artifact at a site, and when it is used first and last.
        self.users: dict[tuple[int, int], dict[int, None]] = {}
        self.spans_h: dict[tuple[int, int], tuple[float, float]] = {}
        self.ready_h = limits.fetch_ratio * fetch_h
        self._capacity_gb = np.repeat(limits.cache_gb[:, :, np.newaxis], self._hours, axis=2)
        #: Bit i of an artifact's set: a copy is planned at site i.
        self._sets = [0] * len(problem.home)

    # ---------------------------------------------------------------- costs

    def run_usd(self, task: int, site: int, start_h: float) -> float:
        """Return what a run costs, and its lateness."""
        problem = self.problem
        end_h = start_h + self.run_h[task, site]
        usd = problem.gpus[task] * (self._integral(site, end_h) - self._integral(site, start_h))
        late_h = end_h - problem.due_h[task]
        if late_h > 0:
            capped = min(late_h, problem.late_cap_h[task])
            usd += problem.late_usd[task] + problem.late_usd_per_h[task] * capped
        return float(usd)

    def _integral(self, site: int, at_h: float) -> float:
        at_bin = int(at_h / BIN_H)
        rate = self._rates[site, min(at_bin // _BINS_AN_HOUR, self._hours - 1)]
        return float(self._until[site, at_bin] + (at_h - at_bin * BIN_H) * rate)

    def fetch_usd(self, task: int, site: int) -> float:
        """Return what more fetches cost if the task runs at the site."""
        problem = self.problem
        assert problem.tree_usd is not None
        usd = 0.0
        for artifact in problem.needs[task]:
            home = problem.home[artifact]
            if home == site:
                continue
            if not problem.fits[artifact, site]:
                usd += problem.size_gb[artifact] * problem.arc_usd[home, site]
                continue
            before = self._sets[artifact]
            trees = problem.tree_usd[home]
            usd += problem.size_gb[artifact] * (trees[before | 1 << site] - trees[before])
        return float(usd)

    # ---------------------------------------------------------------- moves

    def remove(self, task: int) -> Place:
        """Take a task out of the schedule; returns where it was."""
        place = self.places[task]
        assert place is not None, "the task is placed"
        self._take(task, place, -1)
        for artifact in self.problem.needs[task]:
            if self._is_copied(artifact, place.site):
                self._leave(int(artifact), place.site, task)
        self.places[task] = None
        return place

    def put(self, task: int, place: Place) -> None:
        """Place a task; there is room."""
        self.places[task] = place
        self._take(task, place, 1)
        for artifact in self.problem.needs[task]:
            if self._is_copied(artifact, place.site):
                self._join(int(artifact), place.site, task)

    def best(
        self, task: int, sites: NDArray[np.int64], prices: Floats, shares: Floats | None = None
    ) -> Place | None:
        """Return the best place of a task that is not placed; None: there is no room anywhere.

        Args:
            task: The task.
            sites: Which sites to look at.
            prices: (s, bins + 1) integral of what to pay for a GPU besides; zeros: nothing.
            shares: (s,) $ to count in place of the fetches; None: what they cost.
        """
        found: Place | None = None
        for site in sites:
            extra_usd = self.fetch_usd(task, site) if shares is None else float(shares[site])
            start = self._best_start(task, int(site), prices)
            if start is None:
                continue
            start_h, priced_usd = start
            usd = priced_usd + extra_usd
            if found is not None and usd >= found.usd:
                continue
            if self._has_cache_room(task, int(site), start_h):
                found = Place(int(site), start_h, usd)
        return found

    def _best_start(self, task: int, site: int, prices: Floats) -> tuple[float, float] | None:
        """Return the start that costs least once the artifacts can be there, and what it costs."""
        ready_h = 0.0
        for artifact in self.problem.needs[task]:
            if self.problem.home[artifact] != site:
                ready_h = max(ready_h, float(self.ready_h[artifact, site]))
        return self.best_start(task, site, prices, begin_h=ready_h)

    def best_start(
        self, task: int, site: int, prices: Floats, *, begin_h: float, end_h: float = math.inf
    ) -> tuple[float, float] | None:
        """Return the start with room for the GPUs that costs least, and what it costs.

        Args:
            task: The task.
            site: Where.
            prices: (s, bins + 1) integral of what to pay for a GPU besides; zeros: nothing.
            begin_h: No start is before.
            end_h: No end is after.
        """
        problem = self.problem
        gpus = int(problem.gpus[task])
        if gpus > self._gpus[site]:
            return None
        run_h = float(self.run_h[task, site])
        ready_h = max(float(problem.arrival_h[task]), begin_h)
        if ready_h + run_h > end_h:
            return None
        in_time_h = float(problem.due_h[task]) - run_h
        first = int(ready_h / BIN_H)
        latest_h = max(in_time_h, ready_h) + problem.late_cap_h[task] + _LATEST_H
        final = self._used.shape[1] - int(run_h / BIN_H) - 4
        if first > final:
            return None
        # Every later bin begins at a start that ends in time; the first one begins at `ready_h`.
        final = max(first, int(min(final, (end_h - run_h) / BIN_H - 1e-9)))
        while True:
            last = min(int(latest_h / BIN_H), final)
            starts = np.arange(first, last + 1) * BIN_H
            starts[0] = ready_h
            ends = starts + run_h
            # Ends in the middle of a bin take all of it.
            length = math.ceil(run_h / BIN_H) + 1
            window = self._used[site, first : last + 1 + length] > self._gpus[site] - gpus
            blocked = np.concatenate(([0], np.cumsum(window)))
            stops = np.ceil(ends / BIN_H - 1e-9).astype(np.int64) - first
            free = blocked[stops] == blocked[: len(starts)]
            if free.any():
                break
            if last == final:
                return None
            latest_h += 24.0
        end_bins = np.minimum((ends / BIN_H).astype(np.int64), self._used.shape[1] - 1)
        integral = self._until[site] + prices[site]
        usd = integral[end_bins] - integral[first : last + 1]
        usd += (ends - end_bins * BIN_H) * (integral[end_bins + 1] - integral[end_bins]) / BIN_H
        usd[0] -= (ready_h - first * BIN_H) * (integral[first + 1] - integral[first]) / BIN_H
        usd *= gpus
        late_h = ends - problem.due_h[task]
        by_hour = problem.late_usd_per_h[task] * np.minimum(late_h, problem.late_cap_h[task])
        usd += np.where(late_h > 0, problem.late_usd[task] + by_hour, 0.0)
        usd[~free] = np.inf
        chosen = int(np.argmin(usd))
        return float(starts[chosen]), float(usd[chosen])

    def _take(self, task: int, place: Place, sign: int) -> None:
        end_h = place.start_h + self.run_h[task, place.site]
        first, last = int(place.start_h / BIN_H + 1e-9), math.ceil(end_h / BIN_H - 1e-9)
        self._used[place.site, first:last] += sign * int(self.problem.gpus[task])

    # ---------------------------------------------------------------- copies

    def _is_copied(self, artifact: int, site: int) -> bool:
        problem = self.problem
        return bool(problem.home[artifact] != site and problem.fits[artifact, site])

    def _join(self, artifact: int, site: int, task: int) -> None:
        """Let a task use a copy, which is held for as long."""
        key = artifact, site
        users = self.users.setdefault(key, {})
        span = self._span_of(task)
        if users:
            self._hold(artifact, site, -1)
            old = self.spans_h[key]
            span = min(old[0], span[0]), max(old[1], span[1])
        users[task] = None
        self.spans_h[key] = span
        self._sets[artifact] |= 1 << site
        self._hold(artifact, site, 1)

    def _leave(self, artifact: int, site: int, task: int) -> None:
        """Let a task use a copy no more."""
        key = artifact, site
        self._hold(artifact, site, -1)
        users = self.users[key]
        del users[task]
        if not users:
            del self.spans_h[key]
            self._sets[artifact] &= ~(1 << site)
            return
        first, last = self._span_of(task)
        old = self.spans_h[key]
        if first <= old[0] or last >= old[1]:
            spans = [self._span_of(user) for user in users]
            self.spans_h[key] = min(span[0] for span in spans), max(span[1] for span in spans)
        self._hold(artifact, site, 1)

    def _span_of(self, task: int) -> tuple[float, float]:
        place = self.places[task]
        assert place is not None, "users are placed"
        return place.start_h, place.start_h + float(self.run_h[task, place.site])

    def _kind(self, artifact: int) -> int:
        return 0 if self.limits.is_shared or self.problem.is_model[artifact] else 1

    def _hours_held(self, artifact: int, site: int, span_h: tuple[float, float]) -> slice:
        """Return the hours in which a copy takes room, from an hour before its fetch on."""
        begin_h = max(0.0, span_h[0] - self.fetch_h[artifact, site] - 1.0)
        return slice(int(begin_h), min(int(span_h[1]) + 1, self._hours))

    def _hold(self, artifact: int, site: int, sign: int) -> None:
        hours = self._hours_held(artifact, site, self.spans_h[artifact, site])
        size = sign * self.problem.size_gb[artifact]
        self._held_gb[site, self._kind(artifact), hours] += size

    def _has_cache_room(self, task: int, site: int, start_h: float) -> bool:
        """Tell whether the caches hold what the task needs beside all else that is planned."""
        added = np.zeros((NEED_COUNT, self._hours))
        for artifact in self.problem.needs[task]:
            if not self._is_copied(artifact, site):
                continue
            kind, size = self._kind(artifact), self.problem.size_gb[artifact]
            span = (start_h, start_h + float(self.run_h[task, site]))
            if self.users.get((int(artifact), site)):
                old = self.spans_h[artifact, site]
                if old[0] <= span[0] and span[1] <= old[1]:
                    continue
                added[kind, self._hours_held(artifact, site, old)] -= size
                span = (min(old[0], span[0]), max(old[1], span[1]))
            added[kind, self._hours_held(artifact, site, span)] += size
        if not added.any():
            return True
        held = self._held_gb[site] + added
        is_more = added > 0
        return bool((held[is_more] <= self._capacity_gb[site][is_more]).all())

    # ---------------------------------------------------------------- the whole

    def joint_usd(self) -> float:
        """Return J of the schedule, storage and the carbon of fetches at other hours left out."""
        problem = self.problem
        assert problem.tree_usd is not None
        total = 0.0
        for task, place in enumerate(self.places):
            assert place is not None, "all tasks are placed"
            total += self.run_usd(task, place.site, place.start_h)
            for artifact in problem.needs[task]:
                home = problem.home[artifact]
                if home != place.site and not problem.fits[artifact, place.site]:
                    total += problem.size_gb[artifact] * problem.arc_usd[home, place.site]
        for artifact, chosen in enumerate(self._sets):
            trees = problem.tree_usd[problem.home[artifact]]
            total += problem.size_gb[artifact] * trees[chosen]
        return float(total)

    def delay(self, artifact: int, site: int) -> bool:
        """Let uses of an artifact at a site begin twice as late; returns whether there was room.

        Those that begin too early for a fetch before them move, maybe elsewhere.
        """
        self.ready_h[artifact, site] = 2 * self.ready_h[artifact, site] + BIN_H
        every = np.arange(len(self.problem.speed))
        nothing = self.no_prices()
        for task, place in enumerate(self.places):
            if place is None or place.site != site or artifact not in self.problem.needs[task]:
                continue
            if place.start_h < self.ready_h[artifact, site]:
                self.remove(task)
                found = self.best(task, every, nothing)
                if found is None:
                    return False
                self.put(task, found)
        return True

    def no_prices(self) -> Floats:
        """Return prices of nothing, for `best`."""
        return self._nothing

    def prices(self, gpu_usd: Floats) -> Floats:
        """Return prices of GPU hours, (s, h), as `best` wants them."""
        spare = np.zeros((len(gpu_usd), self._hours - gpu_usd.shape[1]))
        by_bin = np.repeat(np.concatenate((gpu_usd, spare), axis=1), _BINS_AN_HOUR, axis=1) * BIN_H
        return np.concatenate((np.zeros((len(gpu_usd), 1)), np.cumsum(by_bin, axis=1)), axis=1)
