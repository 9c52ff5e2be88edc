"""A profile: free GPUs over time, as in `site_agent.schedule`, and the search for room in it.

Its steps are the first `count` entries of two arrays: ascending instants, and the GPUs that are
free from each to the next; the last value holds for ever. All numbers come out as they do there,
bit by bit. Placing a hundred runs one after another is most of what a busy site does, and two
things make that fast. A run that found no room before some step leaves none there for one that
needs as many GPUs for as long: where a search may begin is remembered by classes of size and
length (`after`). And the room itself is found, and taken, for many steps at once (`lanes`).
"""

import math
from typing import Final

import numpy as np

from testbed.fast.compiled import compiled, inlined
from testbed.fast.lanes import follow, lower, lowest, move_up, take
from testbed.fast.layout import (
    HINT_COUNT,
    LANES,
    LENGTH_CLASS_COUNT,
    SIZE_CLASS_COUNT,
    STEP_COUNT,
    Counts,
    Floats,
    Ints,
)

#: Classes of run time part here, seconds. Where they part decides nothing but speed.
_LENGTHS_S = (1_800.0, 3_600.0, 7_200.0)
_ALL: Final = np.uint64(2**64 - 1)


def _covered(known: int, is_larger: bool) -> int:
    """Return the bits of classes of runs that are all no smaller and longer than one of a class.

    Others of its own class may be smaller, unless it has the fewest GPUs of them.
    """
    size, length = divmod(known, LENGTH_CLASS_COUNT)
    return sum(
        1 << other
        for other in range(HINT_COUNT)
        if other // LENGTH_CLASS_COUNT >= size + is_larger and other % LENGTH_CLASS_COUNT > length
    )


_COVERED: Final = np.array(
    [_covered(known, is_larger) for known in range(HINT_COUNT) for is_larger in (False, True)]
)


@compiled
def class_of(gpu_count: int, duration_s: float) -> int:
    """Return the place in `after` of a run: by the power of two of its GPUs, then by length."""
    size = 0
    while size < SIZE_CLASS_COUNT - 1 and gpu_count >= 2 << size:
        size += 1
    length = 0
    while length < LENGTH_CLASS_COUNT - 1 and duration_s >= _LENGTHS_S[length]:
        length += 1
    return size * LENGTH_CLASS_COUNT + length


@compiled
def open_ended(times: Floats, count: int) -> None:
    """Let nothing begin after the last step, as far as is looked at."""
    for k in range(count, count + LANES):
        times[k] = math.inf


@inlined
def fit_from(
    times: Floats,
    free: Counts,
    first: int,
    gpu_count: int,
    duration_s: float,
    not_before_s: float,
) -> tuple[float, int, int]:
    """Return the earliest instant >= `not_before_s` from which `gpu_count` GPUs stay free.

    Args:
        times: Instants; those of `LANES` steps behind the last are infinite.
        free: Free GPUs.
        first: A step before which such a run has no room.
        gpu_count: GPUs, no more than are free in the last step.
        duration_s: How long, above 0.
        not_before_s: World instant.

    Returns:
        It, the step in which it lies, and the first step that begins at the end or later; the count
        of steps, if none does.
    """
    since = max(not_before_s, times[0])
    base = first
    if times[base] < since:
        while times[base + 1] <= since:
            base += 1
    full = lower(free, base, gpu_count)
    bit = 0
    while True:
        bit = lowest(~full & (_ALL << np.uint64(bit)))
        if bit == LANES:
            base += LANES
            full = lower(free, base, gpu_count)
            bit = 0
            continue
        step = base + bit
        start = max(times[step], since)
        end = start + duration_s
        bit = lowest(full & (_ALL << np.uint64(bit)))
        while bit == LANES and times[base + LANES] < end:
            base += LANES
            full = lower(free, base, gpu_count)
            bit = lowest(full)
        if bit == LANES or times[base + bit] >= end:
            break
    last = step
    while True:
        before = lowest(~lower(times, last, end))
        last += before
        if before < LANES:
            return start, step, last


@compiled
def earliest_fit(
    times: Floats,
    free: Ints | Counts,
    count: int,
    gpu_count: int,
    duration_s: float,
    not_before_s: float,
) -> float:
    """Return the earliest instant >= `not_before_s` from which `gpu_count` GPUs stay free.

    As the core has it, where a run may also last no time at all.
    """
    start = max(not_before_s, times[0])
    step = 0
    while step + 1 < count and times[step + 1] <= start:
        step += 1
    end = start + duration_s
    while step < count - 1 and times[step] < end:
        if free[step] < gpu_count:
            start = times[step + 1]
            end = start + duration_s
        step += 1
    return start


@compiled
def _insert(times: Floats, free: Ints | Counts, count: int, step: int, at_s: float) -> None:
    """Let a step begin at `at_s`, before the one at `step`."""
    for k in range(count, step, -1):
        times[k] = times[k - 1]
    for k in range(count, step, -1):
        free[k] = free[k - 1]
    times[step] = at_s
    free[step] = free[step - 1]


@compiled
def _edge(times: Floats, free: Ints | Counts, count: int, at_s: float) -> tuple[int, int]:
    """Return the index of the step that begins at `at_s`, made if there is none, and the count."""
    step = count
    while step > 0 and times[step - 1] >= at_s:
        step -= 1
    if step == count or times[step] != at_s:
        _insert(times, free, count, step, at_s)
        count += 1
    return step, count


@compiled
def reserve(
    times: Floats, free: Ints | Counts, count: int, gpu_count: int, start_s: float, end_s: float
) -> int:
    """Take `gpu_count` GPUs from `start_s` to `end_s`; return the new count of steps."""
    first, count = _edge(times, free, count, max(start_s, times[0]))
    last, count = _edge(times, free, count, max(end_s, times[0]))
    for k in range(first, last):
        free[k] -= gpu_count
    return count


@inlined
def _split(times: Floats, free: Counts, count: int, step: int, at_s: float) -> None:
    """Let a step begin at `at_s`, before the one at `step`, in a plan that is open-ended."""
    if count - step <= LANES:
        move_up(times, step)
        move_up(free, step)
        times[step] = at_s
        free[step] = free[step - 1]
    else:
        _insert(times, free, count, step, at_s)
    times[count + LANES] = math.inf


@inlined
def place(
    times: Floats,
    free: Counts,
    count: int,
    after: Counts,
    known: int,
    gpu_count: int,
    duration_s: float,
    not_before_s: float,
) -> tuple[float, int]:
    """Take GPUs for a run at the earliest instant; return this and the new count of steps.

    `after` holds, by class, a step before which no such run has room, and is kept true. `known` is
    the class of the run. For the others see `fit_from`.
    """
    start, first, last = fit_from(
        times, free, int(after[known]), gpu_count, duration_s, not_before_s
    )
    if times[first] != start:
        first += 1
        last += 1
        _split(times, free, count, first, start)
        count += 1
        follow(after, first, 0, 0)
    end = start + duration_s
    behind = STEP_COUNT
    if times[last] != end:
        _split(times, free, count, last, end)
        count += 1
        behind = last
    covered = 0
    if not_before_s <= times[0]:
        is_larger = gpu_count > 1 << (known // LENGTH_CLASS_COUNT)
        covered = _COVERED[2 * known + 1 if is_larger else 2 * known]
    follow(after, behind, first, covered)
    for k in range(first, last, LANES):
        take(free, k, last - k, gpu_count)
    return start, count
