"""What a policy did, changed for the better by one who knows everything. Pure.

The search from the bound's multipliers keeps a copy from its first use to its last. Where caches
are small, policies do better: they fetch, evict and fetch again. So there is a second search, which
begins from what a policy did and takes its copies as they came and went. Moves are

- **single tasks and delays**: each task, in an order drawn anew, to its best site and start among
  those at which copies of its artifacts lie meanwhile;
- **copies**: all tasks that use one copy to their best other places, if they lose less by it than
  the copy had cost; the same lets go what a policy fetched in vain.

No copy is added and none stays longer, so that caches stay as full as they were at most.
"""

import math
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from testbed.bound.schedule import Place, Schedule

NEVER_H: Final = math.inf


@dataclass(frozen=True, slots=True)
class Fetched:
    """One transfer of a run; times in hours since its begin.

    Attributes:
        artifact: Index.
        source: Index of the site it came from.
        target: Index of the site it went to.
        start_h: Begin.
        end_h: From here on it can be used.
        gone_h: When the copy was evicted; infinite: never, and of what was not stored.
        task: Whose transfer it was, where it was not stored; None: a stored copy.
    """

    artifact: int
    source: int
    target: int
    start_h: float
    end_h: float
    gone_h: float
    task: int | None


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What was done.

    Attributes:
        starts: Site and start of each task, hours.
        fetched: Every transfer, in the order of their begins.
    """

    starts: tuple[tuple[int, float], ...]
    fetched: tuple[Fetched, ...]


@dataclass(slots=True, eq=False)
class _Copy:
    """A transfer as long as it is kept, and who depends on it."""

    fetched: Fetched
    usd: float
    users: dict[int, None] = field(default_factory=dict)
    #: Transfers that were made from it and are kept.
    made_count: int = 0
    source: "_Copy | None" = None
    is_kept: bool = True


class Follower:
    """Changes a trajectory; `schedule` is empty at first and has no limit of caches."""

    def __init__(self, schedule: Schedule, trajectory: Trajectory) -> None:
        self._schedule = schedule
        problem = schedule.problem
        self._copies = [
            _Copy(
                each,
                float(problem.size_gb[each.artifact] * problem.arc_usd[each.source, each.target]),
            )
            for each in trajectory.fetched
        ]
        #: Stored copies of an artifact at a site, by time.
        self._stored: dict[tuple[int, int], list[_Copy]] = {}
        #: What was brought for a task alone.
        self._streams: dict[int, list[_Copy]] = {}
        for copy in self._copies:
            fetched = copy.fetched
            if fetched.task is not None:
                self._streams.setdefault(fetched.task, []).append(copy)
                continue
            key = fetched.artifact, fetched.target
            insort(self._stored.setdefault(key, []), copy, key=lambda each: each.fetched.start_h)
        for copy in self._copies:
            copy.source = self._holding(
                copy.fetched.artifact, copy.fetched.source, copy.fetched.start_h
            )
            if copy.source is not None:
                copy.source.made_count += 1
        for task, (site, start_h) in enumerate(trajectory.starts):
            self._put(task, Place(site, start_h, 0.0))
            for copy in self._streams.get(task, ()):
                if copy.fetched.target != site:  # a run that was given back had it brought
                    self._let_go(copy)

    @property
    def trajectory(self) -> Trajectory:
        """What is done now."""
        places = self._schedule.places
        assert None not in places, "all tasks are placed"
        return Trajectory(
            tuple((place.site, place.start_h) for place in places if place is not None),
            tuple(copy.fetched for copy in self._copies if copy.is_kept),
        )

    def improve(self, draws: np.random.Generator) -> None:
        """Try every move once; what lowers J is kept."""
        for task in draws.permutation(len(self._schedule.places)):
            self._move_task(int(task))
        dearest = sorted(self._copies, key=lambda copy: -copy.usd)
        for copy in dearest:
            self._drop(copy)

    # ---------------------------------------------------------------- moves

    def _move_task(self, task: int) -> None:
        old = self._take(task)
        streams = [copy for copy in self._streams.get(task, ()) if copy.is_kept]
        old_usd = self._schedule.run_usd(task, old.site, old.start_h)
        found = self._best(task)
        saved_usd = sum(copy.usd for copy in streams)
        if found is None or found.usd >= old_usd + saved_usd - 1e-9:
            self._put(task, old)
            return
        for copy in streams:
            self._let_go(copy)
        self._put(task, found)

    def _drop(self, copy: _Copy) -> None:
        """Let a copy go, if its users lose less than it cost."""
        if not copy.is_kept or copy.made_count or copy.fetched.task is not None:
            return
        users = list(copy.users)
        copy.is_kept = False
        moved: list[tuple[int, Place]] = []
        lost_usd, is_better = 0.0, True
        for task in users:
            old = self._take(task)
            moved.append((task, old))
            # What it has of its own, it has at that site.
            found = None if self._streams.get(task) else self._best(task)
            if found is not None:
                lost_usd += found.usd - self._schedule.run_usd(task, old.site, old.start_h)
            is_better = found is not None and lost_usd < copy.usd - 1e-9
            if found is None or not is_better:
                break
            self._put(task, found)
        copy.is_kept = True
        if is_better:
            self._let_go(copy)
            return
        for task, _ in moved:
            if self._schedule.places[task] is not None:
                self._take(task)
        for task, old in moved:
            self._put(task, old)

    def _let_go(self, copy: _Copy) -> None:
        copy.is_kept = False
        if copy.source is not None:
            copy.source.made_count -= 1

    def _best(self, task: int) -> Place | None:
        """Return the best place of a task among stored copies; None: there is none."""
        schedule = self._schedule
        nothing = schedule.no_prices()
        found: Place | None = None
        for site in range(len(schedule.problem.speed)):
            for begin_h, end_h in self._windows(task, site):
                start = schedule.best_start(task, site, nothing, begin_h=begin_h, end_h=end_h)
                if start is not None and (found is None or start[1] < found.usd):
                    found = Place(site, *start)
        return found

    # ---------------------------------------------------------------- copies in time

    def _windows(self, task: int, site: int) -> Iterator[tuple[float, float]]:
        """Yield the spans in which all that a task needs lies at a site, hours."""
        first, second = (
            self._spans(int(artifact), site) for artifact in self._schedule.problem.needs[task]
        )
        for begin_h, end_h in first:
            for other_begin_h, other_end_h in second:
                span = max(begin_h, other_begin_h), min(end_h, other_end_h)
                if span[0] < span[1]:
                    yield span

    def _spans(self, artifact: int, site: int) -> Sequence[tuple[float, float]]:
        if self._schedule.problem.home[artifact] == site:
            return [(0.0, NEVER_H)]
        copies = self._stored.get((artifact, site), ())
        return [(copy.fetched.end_h, copy.fetched.gone_h) for copy in copies if copy.is_kept]

    def _holding(self, artifact: int, site: int, at_h: float) -> _Copy | None:
        """Return the copy that lies at a site at an instant; None: its home, or none is there."""
        if self._schedule.problem.home[artifact] == site:
            return None
        for copy in self._stored.get((artifact, site), ()):
            fetched = copy.fetched
            if copy.is_kept and fetched.end_h <= at_h + 1e-9 and at_h <= fetched.gone_h + 1e-9:
                return copy
        return None

    def _put(self, task: int, place: Place) -> None:
        self._schedule.put(task, place)
        for copy in self._used(task, place):
            copy.users[task] = None

    def _take(self, task: int) -> Place:
        place = self._schedule.remove(task)
        for copy in self._used(task, place):
            copy.users.pop(task, None)
        return place

    def _used(self, task: int, place: Place) -> Iterator[_Copy]:
        for artifact in self._schedule.problem.needs[task]:
            copy = self._holding(int(artifact), place.site, place.start_h)
            if copy is not None:
                yield copy
