"""A profile: free GPUs over time, as in `site_agent.schedule`, and the search for room in it.

Its steps are the first `count` entries of two arrays: ascending instants, and the GPUs that are
free from each to the next; the last value holds for ever. All numbers come out as they do there,
bit by bit. Placing a hundred runs one after another is most of what a busy site does, and two
things make that fast. A run that found no room before some step leaves none there for one that
needs as many GPUs for as long: where a search may begin is remembered by classes of size and
length (`after`). And steps are moved and counted in loops over one array each, which the compiler
turns into a few wide instructions.
"""

from testbed.fast.compiled import compiled
from testbed.fast.layout import LENGTH_CLASS_COUNT, SIZE_CLASS_COUNT, Counts, Floats, Ints

#: Classes of run time part here, seconds. Where they part decides nothing but speed.
_LENGTHS_S = (1_800.0, 3_600.0, 7_200.0)


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
def fit_from(
    times: Floats,
    free: Ints | Counts,
    count: int,
    first: int,
    gpu_count: int,
    duration_s: float,
    not_before_s: float,
) -> tuple[float, int, int]:
    """Return the earliest instant >= `not_before_s` from which `gpu_count` GPUs stay free.

    Args:
        times: Instants.
        free: Free GPUs.
        count: Number of steps.
        first: A step before which such a run has no room.
        gpu_count: GPUs.
        duration_s: How long, above 0.
        not_before_s: World instant.

    Returns:
        It, the step in which it lies, and the first step that begins at the end or later; the last
        step, if none does.
    """
    last = count - 1
    start = max(not_before_s, times[0])
    step = first
    while step < last and free[step] < gpu_count:
        step += 1
    if times[step] < start:
        while step < last and times[step + 1] <= start:
            step += 1
    else:
        start = times[step]
    begin = step
    end = start + duration_s
    while step < last and times[step] < end:
        if free[step] < gpu_count:
            step += 1
            while step < last and free[step] < gpu_count:
                step += 1
            begin = step
            start = times[step]
            end = start + duration_s
        else:
            step += 1
    return start, begin, step


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


@compiled
def place(
    times: Floats,
    free: Ints | Counts,
    count: int,
    after: Ints,
    gpu_count: int,
    duration_s: float,
    not_before_s: float,
) -> tuple[float, int]:
    """Take GPUs for a run at the earliest instant; return this and the new count of steps.

    `after` holds, by class, a step before which no such run has room, and is kept true.
    """
    known = class_of(gpu_count, duration_s)
    start, first, last = fit_from(
        times, free, count, after[known], gpu_count, duration_s, not_before_s
    )
    if times[first] != start:
        first += 1
        last += 1
        _insert(times, free, count, first, start)
        count += 1
        _follow(after, first)
    end = start + duration_s
    if times[last] < end:
        last = count
    if last == count or times[last] != end:
        _insert(times, free, count, last, end)
        count += 1
        _follow(after, last)
    if not_before_s <= times[0]:
        _remember(after, known, gpu_count, first)
    for k in range(first, last):
        free[k] -= gpu_count
    return start, count


@compiled
def _follow(after: Ints, step: int) -> None:
    """Count a new step at `step`."""
    for k in range(SIZE_CLASS_COUNT * LENGTH_CLASS_COUNT):
        after[k] += 1 if after[k] >= step else 0


@compiled
def _remember(after: Ints, known: int, gpu_count: int, step: int) -> None:
    """Take note that whatever is no smaller and longer than such a run has no room before."""
    size = known // LENGTH_CLASS_COUNT
    length = known % LENGTH_CLASS_COUNT
    if gpu_count > 1 << size:  # others of its own class may be smaller
        size += 1
    for k in range(size, SIZE_CLASS_COUNT):
        for at in range(k * LENGTH_CLASS_COUNT + length + 1, (k + 1) * LENGTH_CLASS_COUNT):
            after[at] = max(after[at], step)
