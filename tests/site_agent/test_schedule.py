import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcos.durations import RunTime
from gcos.ids import RunId
from site_agent.schedule import (
    BACKFILL_FACTOR,
    Planned,
    PoolSchedule,
    Profile,
    earliest_fit,
    earliest_fits,
    reserve,
)

POOL_COUNT = 6

#: Reservations with whole instants, so that a reference can try them all.
RESERVATIONS = st.lists(
    st.tuples(st.integers(1, 3), st.integers(-3, 20), st.integers(0, 10)), max_size=6
)


def constant(seconds: float) -> RunTime:
    return RunTime((float(seconds),) * 19)


def empty(gpu_count: int = POOL_COUNT) -> Profile:
    return [0.0], [gpu_count]


def profile_of(reservations: list[tuple[int, int, int]]) -> Profile:
    profile = empty(3 * 6)
    for count, start, length in reservations:
        profile = reserve(profile, gpu_count=count, start_s=start, end_s=start + length)
    return profile


def free_at(reservations: list[tuple[int, int, int]], t: float) -> int:
    taken = sum(count for count, start, length in reservations if start <= t < start + length)
    return 3 * 6 - taken


@given(reservations=RESERVATIONS, t=st.integers(0, 40))
def test_a_profile_is_the_pool_less_what_is_reserved(
    reservations: list[tuple[int, int, int]], t: int
) -> None:
    times, free = profile_of(reservations)
    assert (np.diff(times) > 0).all()
    assert free[np.searchsorted(times, t, side="right") - 1] == free_at(reservations, t)
    assert free[-1] == 3 * 6


@given(
    reservations=RESERVATIONS,
    gpu_count=st.integers(1, 18),
    duration=st.integers(1, 12),
    not_before=st.integers(-2, 30),
)
def test_the_earliest_fit_is_the_first_instant_that_fits(
    reservations: list[tuple[int, int, int]], gpu_count: int, duration: int, not_before: int
) -> None:
    found = earliest_fit(
        profile_of(reservations),
        gpu_count=gpu_count,
        duration_s=duration,
        not_before_s=not_before,
    )
    tried = next(
        start
        for start in range(max(0, not_before), 100)
        if all(free_at(reservations, t) >= gpu_count for t in range(start, start + duration))
    )
    assert found == tried


@given(
    reservations=RESERVATIONS,
    gpu_count=st.integers(1, 18),
    duration=st.integers(1, 12),
    not_before=st.lists(st.integers(-2, 30), max_size=5).map(sorted),
)
def test_several_earliest_fits_are_those_of_each_instant(
    reservations: list[tuple[int, int, int]],
    gpu_count: int,
    duration: int,
    not_before: list[int],
) -> None:
    profile = profile_of(reservations)
    asked = {"gpu_count": gpu_count, "duration_s": float(duration)}
    assert earliest_fits(profile, not_before_s=not_before, **asked) == [
        earliest_fit(profile, not_before_s=at_s, **asked) for at_s in not_before
    ]


def test_reserving_changes_no_profile_that_others_hold() -> None:
    before = empty()
    reserve(before, gpu_count=2, start_s=1.0, end_s=2.0)
    assert before == empty()


def planned(
    name: str,
    *,
    gpu_count: int = 1,
    run_s: float = 100.0,
    latest_start_s: float = math.inf,
    accepted_s: float = 0.0,
    ready_s: float = 0.0,
) -> Planned:
    return Planned(
        run_id=RunId(name),
        gpu_count=gpu_count,
        run_time=constant(run_s),
        latest_start_s=latest_start_s,
        accepted_s=accepted_s,
        ready_s=ready_s,
    )


def schedule_of(*runs: Planned, gpu_count: int = 4) -> PoolSchedule:
    schedule = PoolSchedule(gpu_count)
    for run in runs:
        schedule.add(run)
    return schedule


def may(*names: str) -> frozenset[RunId]:
    return frozenset(RunId(name) for name in names)


def start_all(
    schedule: PoolSchedule, *, now_s: float, may_start: frozenset[RunId] | None = None
) -> list[RunId]:
    ready = frozenset(schedule.planned) if may_start is None else may_start
    started = []
    while (run_id := schedule.startable(now_s, may_start=ready)) is not None:
        schedule.start(run_id, now_s=now_s)
        schedule.check_invariants()
        started.append(run_id)
    return started


def test_the_earliest_latest_start_goes_first_then_the_first_come() -> None:
    schedule = schedule_of(
        planned("no-deadline", accepted_s=0.0),
        planned("loose", latest_start_s=900.0, accepted_s=1.0),
        planned("tight", latest_start_s=100.0, accepted_s=3.0),
        planned("tight-but-later", latest_start_s=100.0, accepted_s=4.0),
        gpu_count=1,
    )
    order = []
    for now_s in (0.0, 100.0, 200.0, 300.0):
        order += start_all(schedule, now_s=now_s)
        schedule.remove(order[-1])
    assert order == ["tight", "tight-but-later", "loose", "no-deadline"]


def test_what_is_not_confirmed_or_not_ready_does_not_start() -> None:
    schedule = schedule_of(planned("a", ready_s=50.0), planned("b"))
    assert start_all(schedule, now_s=0.0, may_start=may("a")) == []
    assert start_all(schedule, now_s=50.0, may_start=may("a")) == ["a"]


def test_a_run_waits_for_room() -> None:
    schedule = schedule_of(planned("a", gpu_count=3), planned("b", gpu_count=2))
    assert start_all(schedule, now_s=0.0) == ["a"]
    schedule.remove(RunId("a"))
    assert start_all(schedule, now_s=100.0) == ["b"]


def test_a_small_run_fills_a_gap_that_ends_before_the_large_one_can_start() -> None:
    """Two of four GPUs are busy for 100 s; the head needs all four."""
    busy = planned("busy", gpu_count=2, run_s=100.0, latest_start_s=0.0)
    head = planned("head", gpu_count=4, latest_start_s=1.0)
    fits = planned("fits", gpu_count=2, run_s=100.0 / BACKFILL_FACTOR - 1)
    schedule = schedule_of(busy, head, fits)
    assert start_all(schedule, now_s=0.0) == ["busy", "fits"]


def test_a_small_run_that_would_starve_the_large_one_waits_behind_it() -> None:
    busy = planned("busy", gpu_count=2, run_s=100.0, latest_start_s=0.0)
    head = planned("head", gpu_count=4, latest_start_s=1.0)
    too_long = planned("too-long", gpu_count=2, run_s=100.0 / BACKFILL_FACTOR + 1)
    assert start_all(schedule_of(busy, head, too_long), now_s=0.0) == ["busy"]


def test_a_small_run_beside_the_large_one_may_take_as_long_as_it_likes() -> None:
    busy = planned("busy", gpu_count=3, run_s=100.0, latest_start_s=0.0)
    head = planned("head", gpu_count=3, latest_start_s=1.0)
    beside = planned("beside", gpu_count=1, run_s=1e6)
    assert start_all(schedule_of(busy, head, beside), now_s=0.0) == ["busy", "beside"]


def test_a_head_whose_artifacts_are_expected_keeps_its_place() -> None:
    head = planned("head", gpu_count=4, latest_start_s=1.0, ready_s=100.0)
    fits = planned("fits", gpu_count=2, run_s=50.0)
    too_long = planned("too-long", gpu_count=2, run_s=90.0)
    schedule = schedule_of(head, fits, too_long)
    assert start_all(schedule, now_s=0.0, may_start=may("fits", "too-long")) == ["fits"]


@pytest.mark.parametrize("ready_s", [5.0, math.inf])
def test_a_head_whose_artifacts_or_lease_are_overdue_holds_nobody_up(ready_s: float) -> None:
    head = planned("head", gpu_count=4, latest_start_s=1.0, ready_s=ready_s)
    other = planned("other", gpu_count=4, run_s=1000.0)
    assert start_all(schedule_of(head, other), now_s=10.0, may_start=may("other")) == ["other"]


RUNS = st.lists(
    st.builds(
        dict,
        gpu_count=st.integers(1, 4),
        run_s=st.integers(1, 300),
        latest_start_s=st.integers(0, 1000) | st.just(math.inf),
        ready_s=st.sampled_from([0.0, 0.0, 40.0, 200.0]),
    ),
    min_size=2,
    max_size=8,
)


@given(runs=RUNS)
@settings(max_examples=60)
def test_backfill_never_delays_the_head(runs: list[dict]) -> None:
    """Runs take exactly as long as predicted: each head starts no later than it was promised."""
    waiting = {RunId(f"r{i}"): planned(f"r{i}", **run) for i, run in enumerate(runs)}
    schedule = schedule_of(*waiting.values())
    promised: dict[RunId, float] = {}
    now_s = 0.0
    while waiting:
        for run in list(schedule.planned.values()):
            if run.started_s is not None and run.started_s + run.run_time.p50_s <= now_s:
                schedule.remove(run.run_id)
        head = min(waiting.values(), key=lambda run: run.urgency)
        if head.run_id not in promised:
            promised[head.run_id] = start_if_alone(schedule, head, now_s)
        ready = frozenset(run for run in waiting if waiting[run].ready_s <= now_s)
        for run_id in start_all(schedule, now_s=now_s, may_start=ready):
            del waiting[run_id]
            if run_id in promised:
                # An overdue prediction counts as 1 % more, so promises shift by as much.
                assert now_s <= promised[run_id] * 1.01 + 1e-6
        now_s = next_event_s(schedule, now_s)


def start_if_alone(schedule: PoolSchedule, head: Planned, now_s: float) -> float:
    """Return when `head` starts if nobody else is let in: a reference that counts devices."""
    running = [run for run in schedule.planned.values() if run.started_s is not None]
    ends = sorted(run.started_s + run.run_time.p50_s for run in running)
    for t in [now_s, *ends]:
        busy = sum(r.gpu_count for r in running if r.started_s + r.run_time.p50_s > t)
        if schedule.gpu_count - busy >= head.gpu_count:
            return max(t, head.ready_s)
    raise AssertionError("an empty pool has room")


def next_event_s(schedule: PoolSchedule, now_s: float) -> float:
    """Return the next end of a run or arrival of its artifacts, rounded up to a whole second."""
    instants = [run.ready_s for run in schedule.planned.values() if run.started_s is None]
    instants += [
        run.started_s + run.run_time.p50_s
        for run in schedule.planned.values()
        if run.started_s is not None
    ]
    return min((t for t in instants if t > now_s), default=now_s + 1)


@given(steps=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 10), st.booleans()), max_size=25))
def test_running_runs_hold_distinct_devices(steps: list[tuple[int, int, bool]]) -> None:
    schedule = PoolSchedule(4)
    for now_s, (gpu_count, victim, is_end) in enumerate(steps):
        if is_end and schedule.planned:
            names = sorted(schedule.planned)
            schedule.remove(names[victim % len(names)])
        else:
            schedule.add(planned(f"r{now_s}", gpu_count=gpu_count, ready_s=now_s))
        start_all(schedule, now_s=float(now_s))
        free = set(schedule.free_devices())
        taken = {device for run in schedule.planned.values() for device in run.devices}
        assert free | taken == set(range(4))
        assert not free & taken


def test_accepting_or_ending_a_run_twice_changes_nothing() -> None:
    schedule = schedule_of(planned("a"))
    schedule.start(RunId("a"), now_s=0.0)
    schedule.add(planned("a"))
    assert schedule.planned[RunId("a")].started_s == 0.0
    schedule.remove(RunId("a"))
    schedule.remove(RunId("a"))
    assert schedule.free_devices() == (0, 1, 2, 3)


def test_the_plan_holds_what_runs_and_what_waits() -> None:
    schedule = schedule_of(
        planned("a", gpu_count=3, run_s=100.0),
        planned("b", gpu_count=4, run_s=50.0, accepted_s=1.0),
        planned("c", gpu_count=1, run_s=70.0, accepted_s=2.0),
    )
    schedule.start(RunId("a"), now_s=0.0)
    assert free_counts(schedule.profile(20.0), [20, 89, 91, 99, 101, 149, 151]) == [
        0,
        0,
        1,
        1,
        0,
        0,
        4,
    ]
    assert schedule.committed_gpu_s(20.0) == pytest.approx(3 * 80 + 4 * 50 + 70)
    assert schedule.promised_count() == 4


def free_counts(profile: Profile, instants: list[float]) -> list[int]:
    times, free = profile
    return [int(free[np.searchsorted(times, t, side="right") - 1]) for t in instants]


def test_a_bid_counts_on_no_place_that_a_waiting_run_will_take() -> None:
    schedule = schedule_of(planned("a", gpu_count=4, run_s=100.0, ready_s=60.0))
    profile = schedule.profile(0.0)
    fits = {"gpu_count": 2, "not_before_s": 0.0}
    assert earliest_fit(profile, duration_s=60.0, **fits) == 0.0
    assert earliest_fit(profile, duration_s=61.0, **fits) == 160.0


def test_waiting_runs_are_told_when_they_are_expected_to_start() -> None:
    schedule = schedule_of(
        planned("a", gpu_count=3, run_s=100.0),
        planned("b", gpu_count=4, run_s=50.0, accepted_s=1.0),
        planned("c", gpu_count=1, run_s=70.0, accepted_s=2.0),
        planned("d", gpu_count=1, run_s=10.0, accepted_s=3.0, ready_s=500.0),
    )
    schedule.start(RunId("a"), now_s=0.0)
    # c fits before b; d could, but its artifacts come later.
    starts = schedule.expected_starts(20.0)
    assert starts == pytest.approx({"b": 100.0, "c": 20.0, "d": 500.0})
    assert list(starts) == ["b", "c", "d"], "in the order of the queue"
