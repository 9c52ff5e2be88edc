"""The plan of one GPU pool: what runs, what waits, what may start now. Pure.

Order: highest priority, then earliest latest-start (deadline minus p90 of the run time), then first
come. Back-fill:
a later run may start now only if, counted at 1.3 times its predicted median, it does not push back
the start of the head of the queue. Naive back-fill starves large tasks (DESIGN section 5). The head
is the first run that could start now or is expected to be ready later: one whose artifacts or lease
are overdue cannot be delayed by anybody, and must not hold idle GPUs.

The *profile* is the number of free GPUs over time as two lists: ascending `times` and `free`, valid
from each time to the next; the last value holds for ever. Lists, as they hold some dozen steps: of
that length they are several times faster than arrays.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from gcos.durations import RunTime
from gcos.ids import RunId, TaskId

#: Soft reservations of one pool; more are not kept.
HELD_COUNT_MAX = 1_000
#: How much longer than predicted a back-filled run is assumed to take.
BACKFILL_FACTOR = 1.3

Profile = tuple[list[float], list[int]]


def earliest_fit(
    profile: Profile, *, gpu_count: int, duration_s: float, not_before_s: float
) -> float:
    """Return the earliest instant >= `not_before_s` from which `gpu_count` GPUs stay free.

    The request must fit the empty pool, so an answer always exists.
    """
    times, free = profile
    assert free[-1] >= gpu_count, "the request is larger than the pool"
    start = max(not_before_s, times[0])
    step = bisect_right(times, start) - 1
    last = len(times) - 1
    end = start + duration_s
    while step < last and times[step] < end:
        if free[step] < gpu_count:
            start = times[step + 1]
            end = start + duration_s
        step += 1
    return start


def earliest_fits(
    profile: Profile, *, gpu_count: int, duration_s: float, not_before_s: Sequence[float]
) -> list[float]:
    """Return the `earliest_fit` of each of several instants, ascending."""
    free_for_ever_s = profile[0][-1]
    starts: list[float] = []
    found_s = -math.inf
    for at_s in not_before_s:
        if at_s >= free_for_ever_s:
            starts.append(at_s)
            continue
        if at_s > found_s:  # else what was the earliest for one before is so for this, too
            found_s = earliest_fit(
                profile, gpu_count=gpu_count, duration_s=duration_s, not_before_s=at_s
            )
        starts.append(found_s)
    return starts


def reserve(profile: Profile, *, gpu_count: int, start_s: float, end_s: float) -> Profile:
    """Return the profile with `gpu_count` GPUs taken from `start_s` to `end_s`."""
    times, free = list(profile[0]), list(profile[1])
    first = _edge(times, free, max(start_s, times[0]))
    last = _edge(times, free, max(end_s, times[0]))
    for i in range(first, last):
        free[i] -= gpu_count
    return times, free


def _edge(times: list[float], free: list[int], at_s: float) -> int:
    """Return the index of the step that begins at `at_s`, made if there is none."""
    i = bisect_left(times, at_s)
    if i == len(times) or times[i] != at_s:
        times.insert(i, at_s)
        free.insert(i, free[i - 1])
    return i


@dataclass(slots=True)
class Planned:
    """A run that the pool has accepted.

    Attributes:
        run_id: The attempt.
        gpu_count: GPUs that it needs.
        run_time: Predicted run time.
        latest_start_s: World instant by which it should start: deadline minus p90.
        accepted_s: World instant of its acceptance; breaks ties.
        ready_s: World instant before which it cannot start; inf while its artifacts are on an
            unknown way.
        started_s: World instant of the start; None while it waits.
        devices: Indices of its GPUs while it runs.
        priority: Higher goes first.
    """

    run_id: RunId
    gpu_count: int
    run_time: RunTime
    latest_start_s: float
    accepted_s: float
    ready_s: float
    started_s: float | None = None
    devices: tuple[int, ...] = ()
    priority: int = 0

    def expected_end_s(self, now_s: float) -> float:
        """Return the predicted end of a running one, world seconds."""
        assert self.started_s is not None
        elapsed = now_s - self.started_s
        return now_s + self.run_time.remaining_p50_s(elapsed)

    @property
    def urgency(self) -> tuple[int, float, float, str]:
        """Sort key of the queue."""
        return -self.priority, self.latest_start_s, self.accepted_s, self.run_id


@dataclass(frozen=True, slots=True)
class Held:
    """GPUs that a task waits for elsewhere may need here: counted in plans, binding nobody.

    Attributes:
        gpu_count: GPUs.
        start_s: World instant of the start.
        end_s: World instant of the predicted end.
        until_s: World instant at which it lapses.
    """

    gpu_count: int
    start_s: float
    end_s: float
    until_s: float


@dataclass(slots=True)
class PoolSchedule:
    """What runs and waits in one pool of `gpu_count` GPUs."""

    gpu_count: int
    #: Soft reservations by task, in order of arrival.
    held: dict[TaskId, Held] = field(default_factory=dict)
    #: All accepted runs. Running ones hold distinct devices; sum of theirs <= gpu_count.
    planned: dict[RunId, Planned] = field(default_factory=dict)

    def add(self, run: Planned) -> None:
        """Take a run into the plan; a second time changes nothing."""
        assert run.gpu_count <= self.gpu_count, "the run is larger than the pool"
        self.planned.setdefault(run.run_id, run)

    def remove(self, run_id: RunId) -> None:
        """Forget a run that has ended; unknown ones are forgotten already."""
        self.planned.pop(run_id, None)

    def start(self, run_id: RunId, *, now_s: float) -> tuple[int, ...]:
        """Give a waiting run its devices and return them."""
        run = self.planned[run_id]
        free = self.free_devices()
        assert run.started_s is None, "started twice"
        assert len(free) >= run.gpu_count, "no room to start"
        run.started_s = now_s
        run.devices = free[: run.gpu_count]
        return run.devices

    def free_devices(self) -> tuple[int, ...]:
        """Return the indices of GPUs that nothing runs on."""
        taken = {device for run in self.planned.values() for device in run.devices}
        return tuple(i for i in range(self.gpu_count) if i not in taken)

    def committed_gpu_s(self, now_s: float) -> float:
        """Return the predicted GPU seconds of everything that runs or waits."""
        total = 0.0
        for run in self.planned.values():
            left = run.run_time.p50_s
            if run.started_s is not None:
                left = run.expected_end_s(now_s) - now_s
            total += run.gpu_count * left
        return total

    def promised_count(self) -> int:
        """Return the GPUs that running and waiting runs need together, at most the pool."""
        return min(self.gpu_count, sum(run.gpu_count for run in self.planned.values()))

    def profile(self, now_s: float, *, but_for: TaskId | None = None) -> Profile:
        """Return free GPUs over time with everything that runs, waits or is held in its place.

        Args:
            now_s: World instant.
            but_for: A task whose own reservation does not count.
        """
        profile = self._with_queue(self._running_profile(now_s), now_s)
        for task_id, held in self.held.items():
            if task_id != but_for:
                # Where the queue has grown into it since, it moves behind.
                length_s = held.end_s - held.start_s
                start_s = earliest_fit(
                    profile,
                    gpu_count=held.gpu_count,
                    duration_s=length_s,
                    not_before_s=max(held.start_s, now_s),
                )
                profile = reserve(
                    profile, gpu_count=held.gpu_count, start_s=start_s, end_s=start_s + length_s
                )
        return profile

    def hold(self, task_id: TaskId, held: Held) -> None:
        """Keep a soft reservation; a task's later one replaces its earlier one."""
        assert held.gpu_count <= self.gpu_count, "the reservation is larger than the pool"
        if task_id in self.held or len(self.held) < HELD_COUNT_MAX:
            self.held[task_id] = held

    def let_go(self, task_id: TaskId) -> None:
        """Drop a task's reservation, if there is one."""
        self.held.pop(task_id, None)

    def lapse(self, now_s: float) -> None:
        """Drop the reservations whose time has passed."""
        for task_id in [key for key, held in self.held.items() if held.until_s <= now_s]:
            del self.held[task_id]

    def expected_starts(self, now_s: float) -> dict[RunId, float]:
        """Return when each waiting run is expected to start, world seconds, in queue order."""
        profile = self._running_profile(now_s)
        starts: dict[RunId, float] = {}
        for run in self._queue():
            starts[run.run_id], profile = self._place(run, profile, now_s)
        return starts

    def startable(self, now_s: float, *, may_start: frozenset[RunId]) -> RunId | None:
        """Return the run to start now, or None; call again after starting it.

        Args:
            now_s: World instant.
            may_start: Runs whose lease is confirmed and whose artifacts are here.
        """
        queue = [
            run
            for run in self._queue()
            if run.run_id in may_start or now_s < run.ready_s < math.inf
        ]
        free_count = len(self.free_devices())
        fitting = [
            run
            for run in queue
            if run.run_id in may_start and run.gpu_count <= free_count and run.ready_s <= now_s
        ]
        if not fitting:
            return None
        head = queue[0]
        if fitting[0] is head:
            return head.run_id
        base = self._running_profile(now_s)
        return next((r.run_id for r in fitting if not self._delays(head, r, base, now_s)), None)

    def victims(
        self, *, may_start: frozenset[RunId], stopping: frozenset[RunId]
    ) -> tuple[RunId, ...]:
        """Return running runs to stop for the most urgent waiting one that could start.

        Only runs of lower priority, the lowest and youngest first, and none while those that are
        being stopped already make enough room.

        Args:
            may_start: Runs whose lease is confirmed and whose artifacts are here.
            stopping: Runs that were told to stop.
        """
        waiting = [run for run in self._queue() if run.run_id in may_start]
        if not waiting:
            return ()
        head = waiting[0]
        running = [run for run in self.planned.values() if run.started_s is not None]
        room = len(self.free_devices())
        room += sum(run.gpu_count for run in running if run.run_id in stopping)
        lower = sorted(
            (r for r in running if r.priority < head.priority and r.run_id not in stopping),
            key=lambda run: (run.priority, -(run.started_s or 0.0), run.run_id),
        )
        chosen: list[RunId] = []
        for run in lower:
            if room >= head.gpu_count:
                break
            chosen.append(run.run_id)
            room += run.gpu_count
        return tuple(chosen) if room >= head.gpu_count else ()

    def check_invariants(self) -> None:
        """Assert that devices are distinct and never more than the pool has."""
        devices = [device for run in self.planned.values() for device in run.devices]
        assert len(devices) == len(set(devices)) <= self.gpu_count
        assert all(0 <= device < self.gpu_count for device in devices)

    def _queue(self) -> list[Planned]:
        waiting = [run for run in self.planned.values() if run.started_s is None]
        return sorted(waiting, key=lambda run: run.urgency)

    def _delays(self, head: Planned, run: Planned, base: Profile, now_s: float) -> bool:
        """Tell whether starting `run` now would push back the start of `head`."""
        planned = self._head_start(head, base, now_s)
        end_s = now_s + BACKFILL_FACTOR * run.run_time.p50_s
        taken = reserve(base, gpu_count=run.gpu_count, start_s=now_s, end_s=end_s)
        return self._head_start(head, taken, now_s) > planned

    def _head_start(self, head: Planned, profile: Profile, now_s: float) -> float:
        not_before = max(now_s, head.ready_s) if math.isfinite(head.ready_s) else now_s
        return earliest_fit(
            profile,
            gpu_count=head.gpu_count,
            duration_s=head.run_time.p50_s,
            not_before_s=not_before,
        )

    def _running_profile(self, now_s: float) -> Profile:
        """Return free GPUs over time with what runs in its place."""
        ends = sorted(
            (max(run.expected_end_s(now_s), now_s), run.gpu_count)
            for run in self.planned.values()
            if run.started_s is not None
        )
        times, free = [now_s], [self.gpu_count - sum(gpu_count for _, gpu_count in ends)]
        for end_s, gpu_count in ends:
            if end_s > times[-1]:
                times.append(end_s)
                free.append(free[-1] + gpu_count)
            else:
                free[-1] += gpu_count
        return times, free

    def _with_queue(self, profile: Profile, now_s: float) -> Profile:
        for run in self._queue():
            _, profile = self._place(run, profile, now_s)
        return profile

    def _place(self, run: Planned, profile: Profile, now_s: float) -> tuple[float, Profile]:
        """Return when a waiting run would start, and the profile with it in its place."""
        start_s = self._head_start(run, profile, now_s)
        end_s = start_s + run.run_time.p50_s
        return start_s, reserve(profile, gpu_count=run.gpu_count, start_s=start_s, end_s=end_s)
