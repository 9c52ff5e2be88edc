"""The plan of each site's pool: the arithmetic of `site_agent.schedule` and `gcos.durations`.

A profile lies in the work arrays `times` and `free`, whose first `count` entries count.
"""

import math
import sys

from gcos.durations import MAX_SLOPE, MIN_SLOPE, SECONDS_MAX, SECONDS_MIN
from testbed.fast.compiled import compiled
from testbed.fast.layout import KNOT_COUNT, RUNNING, Floats, Ints, State

FLOAT_MIN = sys.float_info.min
INFINITE = math.inf


@compiled
def interpolated(x: float, xs: Floats, ys: Floats) -> float:
    """Return y at `x` on the line through the knots; the end values beyond them."""
    low, high = 0, len(xs)
    while low < high:
        middle = (low + high) >> 1
        if x < xs[middle]:
            high = middle
        else:
            low = middle + 1
    if low == 0:
        return ys[0]
    if low == len(xs):
        return ys[-1]
    return ys[low - 1] + (ys[low] - ys[low - 1]) * (x - xs[low - 1]) / (xs[low] - xs[low - 1])


@compiled
def remaining_p50_s(levels: Floats, ln: Floats, p50_s: float, elapsed_s: float) -> float:
    """Return the median of what remains of a run after `elapsed_s`."""
    if elapsed_s <= 0:
        return p50_s
    passed = min(interpolated(math.log(max(elapsed_s, FLOAT_MIN)), ln, levels), 0.999)
    median_s = math.exp(interpolated(passed + 0.5 * (1 - passed), levels, ln)) - elapsed_s
    return min(max(median_s, SECONDS_MIN, 0.01 * elapsed_s), SECONDS_MAX)


@compiled
def earliest_fit(
    times: Floats, free: Ints, count: int, gpu_count: int, duration_s: float, not_before_s: float
) -> float:
    """Return the earliest instant >= `not_before_s` from which `gpu_count` GPUs stay free."""
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
def _edge(times: Floats, free: Ints, count: int, at_s: float) -> tuple[int, int]:
    """Return the index of the step that begins at `at_s`, made if there is none, and the count."""
    i = count
    while i > 0 and times[i - 1] >= at_s:
        i -= 1
    if i == count or times[i] != at_s:
        for j in range(count, i, -1):
            times[j] = times[j - 1]
            free[j] = free[j - 1]
        times[i] = at_s
        free[i] = free[i - 1]
        count += 1
    return i, count


@compiled
def reserve(
    times: Floats, free: Ints, count: int, gpu_count: int, start_s: float, end_s: float
) -> int:
    """Take `gpu_count` GPUs from `start_s` to `end_s`; return the new count of steps."""
    first, count = _edge(times, free, count, max(start_s, times[0]))
    last, count = _edge(times, free, count, max(end_s, times[0]))
    for i in range(first, last):
        free[i] -= gpu_count
    return count


@compiled
def running_profile(s: State, site: int, now_s: float) -> int:
    """Lay out free GPUs over time with what runs in its place; return the count of steps."""
    times, free, ends, order = s.times, s.free, s.ends, s.order
    busy = 0
    found = 0
    for k in range(s.sites[site].run_count):
        slot = s.site_runs[site, k]
        run = s.runs[slot]
        if run.state < RUNNING:
            continue
        gpu_count = run.gpu_count
        left_s = remaining_p50_s(s.levels, s.knots[slot], run.p50_s, now_s - run.started_s)
        end_s = max(now_s + left_s, now_s)
        busy += gpu_count
        at = found
        while at > 0 and (
            ends[at - 1] > end_s or (ends[at - 1] == end_s and order[at - 1] > gpu_count)
        ):
            ends[at] = ends[at - 1]
            order[at] = order[at - 1]
            at -= 1
        ends[at] = end_s
        order[at] = gpu_count
        found += 1
    times[0] = now_s
    free[0] = s.sites[site].gpu_count - busy
    count = 1
    for k in range(found):
        if ends[k] > times[count - 1]:
            times[count] = ends[k]
            free[count] = free[count - 1] + order[k]
            count += 1
        else:
            free[count - 1] += order[k]
    return count


@compiled
def head_start(s: State, slot: int, count: int, now_s: float) -> float:
    """Return when a waiting run would start, by the profile that is laid out."""
    run = s.runs[slot]
    not_before_s = max(now_s, run.ready_s) if math.isfinite(run.ready_s) else now_s
    return earliest_fit(s.times, s.free, count, run.gpu_count, run.p50_s, not_before_s)


@compiled
def place(s: State, slot: int, count: int, now_s: float) -> tuple[float, int]:
    """Put a waiting run into the profile; return its start and the new count of steps."""
    run = s.runs[slot]
    start_s = head_start(s, slot, count, now_s)
    return start_s, reserve(s.times, s.free, count, run.gpu_count, start_s, start_s + run.p50_s)


@compiled
def full_profile(s: State, site: int, now_s: float, but_for: int) -> int:
    """Lay out everything that runs, waits or is held but for one task; return the count."""
    count = running_profile(s, site, now_s)
    for k in range(s.sites[site].queue_count):
        _, count = place(s, s.queues[site, k], count, now_s)
    for k in range(s.sites[site].held_count):
        held = s.held[site, k]
        if held.task != but_for:
            length_s = held.end_s - held.start_s
            start_s = earliest_fit(
                s.times, s.free, count, held.gpu_count, length_s, max(held.start_s, now_s)
            )
            count = reserve(s.times, s.free, count, held.gpu_count, start_s, start_s + length_s)
    return count


@compiled
def least_free(s: State, site: int, but_for: int) -> int:
    """Return the GPUs that stay free whenever what waits or is held begins."""
    left = s.sites[site].gpu_count - s.sites[site].busy_count
    for k in range(s.sites[site].queue_count):
        left -= s.runs[s.queues[site, k]].gpu_count
    for k in range(s.sites[site].held_count):
        held = s.held[site, k]
        if held.task != but_for:
            left -= held.gpu_count
    return left


@compiled
def committed_gpu_s(s: State, site: int, now_s: float) -> float:
    """Return the predicted GPU seconds of everything that runs or waits."""
    total = 0.0
    for k in range(s.sites[site].run_count):
        slot = s.site_runs[site, k]
        run = s.runs[slot]
        left_s = run.p50_s
        if run.state >= RUNNING:
            end_s = now_s + remaining_p50_s(
                s.levels, s.knots[slot], run.p50_s, now_s - run.started_s
            )
            left_s = end_s - now_s
        total += run.gpu_count * left_s
    return total


@compiled
def _may_start(s: State, slot: int) -> bool:
    run = s.runs[slot]
    return run.is_staged == 1 and run.is_confirmed == 1


@compiled
def startable(s: State, site: int, now_s: float) -> int:
    """Return the run to start now, or -1; call again after starting it."""
    here = s.sites[site]
    free_count = here.gpu_count - here.busy_count
    head, first = -1, -1
    for k in range(here.queue_count):
        slot = s.queues[site, k]
        run = s.runs[slot]
        may_start = _may_start(s, slot)
        if head < 0 and (may_start or now_s < run.ready_s < INFINITE):
            head = slot
        if first < 0 and may_start and run.gpu_count <= free_count and run.ready_s <= now_s:
            first = k
    if first < 0:
        return -1
    if s.queues[site, first] == head:
        return head
    count = running_profile(s, site, now_s)
    planned_s = head_start(s, head, count, now_s)
    times, free = s.times[:count].copy(), s.free[:count].copy()
    for k in range(first, here.queue_count):
        slot = s.queues[site, k]
        run = s.runs[slot]
        if not (_may_start(s, slot) and run.gpu_count <= free_count and run.ready_s <= now_s):
            continue
        s.times[:count] = times
        s.free[:count] = free
        end_s = now_s + s.g[0].backfill_factor * run.p50_s
        taken = reserve(s.times, s.free, count, run.gpu_count, now_s, end_s)
        if not head_start(s, head, taken, now_s) > planned_s:
            return slot
    return -1


@compiled
def has_startable(s: State, site: int) -> bool:
    """Tell whether any waiting run is staged and its lease confirmed."""
    for k in range(s.sites[site].queue_count):  # noqa: SIM110  (compiled as it is)
        if _may_start(s, s.queues[site, k]):
            return True
    return False


@compiled
def enqueue(s: State, site: int, slot: int) -> None:
    """Put a run into its place among those that wait, the most urgent first."""
    run = s.runs[slot]
    rank = s.tasks[run.task].rank
    at = s.sites[site].queue_count
    while at > 0:
        other = s.runs[s.queues[site, at - 1]]
        if other.latest_start_s < run.latest_start_s or (
            other.latest_start_s == run.latest_start_s
            and (
                other.accepted_s < run.accepted_s
                or (other.accepted_s == run.accepted_s and s.tasks[other.task].rank < rank)
            )
        ):
            break
        s.queues[site, at] = s.queues[site, at - 1]
        at -= 1
    s.queues[site, at] = slot
    s.sites[site].queue_count += 1


@compiled
def dequeue(s: State, site: int, slot: int) -> None:
    """Take a run that starts or ends out of those that wait."""
    count = s.sites[site].queue_count
    at = 0
    while at < count and s.queues[site, at] != slot:
        at += 1
    if at < count:
        for k in range(at, count - 1):
            s.queues[site, k] = s.queues[site, k + 1]
        s.sites[site].queue_count = count - 1


@compiled
def let_go(s: State, site: int, task: int) -> None:
    """Drop a task's reservation, if there is one."""
    count = s.sites[site].held_count
    at = 0
    for k in range(count):
        if s.held[site, k].task != task:
            if at != k:
                s.held[site, at] = s.held[site, k]
            at += 1
    s.sites[site].held_count = at


@compiled
def lapse(s: State, site: int, now_s: float) -> None:
    """Drop the reservations whose time has passed."""
    at = 0
    for k in range(s.sites[site].held_count):
        if s.held[site, k].until_s > now_s:
            if at != k:
                s.held[site, at] = s.held[site, k]
            at += 1
    s.sites[site].held_count = at


@compiled
def fill_knots(s: State, slot: int, median_s: float, sigma: int) -> None:
    """Lay out ln of the quantiles of a run's predicted time, with both ends."""
    ln = s.knots[slot]
    for k in range(KNOT_COUNT - 2):
        ratio = s.quantile_ratio[sigma, k]
        ln[k + 1] = math.log(min(max(median_s * ratio, SECONDS_MIN), SECONDS_MAX))
    low = min(max((ln[2] - ln[1]) / 0.05, MIN_SLOPE), MAX_SLOPE)
    high = min(max((ln[KNOT_COUNT - 2] - ln[KNOT_COUNT - 3]) / 0.05, MIN_SLOPE), MAX_SLOPE)
    ln[0] = ln[1] - low * 0.05
    ln[KNOT_COUNT - 1] = ln[KNOT_COUNT - 2] + high * 0.05
