"""The compiled search for room in a profile against the core's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from site_agent import schedule
from testbed.fast.compiled import compiled
from testbed.fast.layout import HINT_COUNT, LANES, RUN_SLOT_COUNT, STEP_COUNT, Counts, Floats
from testbed.fast.steps import class_of, open_ended, place

GPU_COUNT = 12
#: Whole quarters of an hour meet each other often, the others hardly ever.
SECONDS = st.integers(1, 40).map(lambda quarters: 900.0 * quarters) | st.floats(1.0, 40_000.0)
RUN = st.tuples(
    st.integers(1, GPU_COUNT), SECONDS, st.just(0.0) | st.integers(0, 8).map(lambda h: 3600.0 * h)
)


@compiled
def placed(
    times: Floats,
    free: Counts,
    count: int,
    after: Counts,
    gpu_count: int,
    duration_s: float,
    not_before_s: float,
) -> tuple[float, int]:
    """Place a run of whatever class."""
    known = class_of(gpu_count, duration_s)
    return place(times, free, count, after, known, gpu_count, duration_s, not_before_s)


def placed_alike(
    times: Floats,
    free: Counts,
    count: int,
    after: Counts,
    known: schedule.Profile,
    run: tuple[int, float, float],
) -> tuple[int, schedule.Profile]:
    """Place a run in both; it comes to lie at one instant. Return the count, and the core's."""
    gpu_count, duration_s, not_before_s = run
    start_s, count = placed(times, free, count, after, gpu_count, duration_s, not_before_s)
    expected_s = schedule.earliest_fit(
        known, gpu_count=gpu_count, duration_s=duration_s, not_before_s=not_before_s
    )
    assert start_s == expected_s
    return count, schedule.reserve(
        known, gpu_count=gpu_count, start_s=expected_s, end_s=expected_s + duration_s
    )


@given(ends=st.lists(SECONDS, max_size=GPU_COUNT), runs=st.lists(RUN, max_size=60))
def test_runs_are_placed_where_the_core_places_them(
    ends: list[float], runs: list[tuple[int, float, float]]
) -> None:
    known: schedule.Profile = [0.0, *sorted(set(ends))], [GPU_COUNT - len(ends)]
    known[1].extend(known[1][0] + sum(end <= at for end in ends) for at in known[0][1:])
    times, free = np.zeros(STEP_COUNT), np.zeros(STEP_COUNT, np.int32)
    count = len(known[0])
    times[:count], free[:count] = known
    open_ended(times, count)
    after = np.zeros(HINT_COUNT, np.int32)
    for run in runs:
        count, known = placed_alike(times, free, count, after, known, run)
        assert (times[:count].tolist(), free[:count].tolist()) == known


@pytest.mark.parametrize(
    ("gpu_count", "latest_s"), [(12, 0), (400, 0), (400, 86_400), (9_000, 900_000)]
)
def test_a_plan_of_as_many_runs_as_there_may_be_keeps_to_its_room(
    gpu_count: int, latest_s: int
) -> None:
    rng = np.random.default_rng(gpu_count + latest_s)
    # What lies around the arrays is looked at, too.
    times_around = np.full(STEP_COUNT + 2 * LANES, -1.0)
    free_around = np.full(STEP_COUNT + 2 * LANES, -1, np.int32)
    after_around = np.full(HINT_COUNT + 2 * LANES, -1, np.int32)
    times, free = times_around[LANES:-LANES], free_around[LANES:-LANES]
    after = after_around[LANES:-LANES]
    times[0], free[0], after[:] = 0.0, gpu_count, 0
    known: schedule.Profile = [0.0], [gpu_count]
    count = 1
    open_ended(times, count)
    for _ in range(RUN_SLOT_COUNT):
        needed = int(rng.integers(1, min(gpu_count, 16) + 1))
        duration_s = float(rng.uniform(1.0, 20_000.0))
        not_before_s = float(rng.uniform(0, latest_s)) if latest_s else 0.0
        run = needed, duration_s, not_before_s
        count, known = placed_alike(times, free, count, after, known, run)
    assert (times[:count].tolist(), free[:count].tolist()) == known
    for around in (times_around, free_around, after_around):
        assert set(around[:LANES]) == set(around[-LANES:]) == {-1}
    assert count == 2 * RUN_SLOT_COUNT + 1 or gpu_count < 9_000
