"""The plan of each site's pool: the arithmetic of `site_agent.schedule` and `gcos.durations`.

A site's plan is kept for the instant that it was made for, and as it was after every so many of
those that wait, so that whoever asks again at that instant only pays for what has changed.
"""

import math
import sys
from typing import Any

from gcos.durations import MAX_SLOPE, MIN_SLOPE, SECONDS_MAX, SECONDS_MIN
from testbed.fast.compiled import compiled
from testbed.fast.layout import KEPT_COUNT, KEPT_STRIDE, KNOT_COUNT, RUNNING, Floats, State
from testbed.fast.steps import class_of, earliest_fit, fit_from, open_ended, place, reserve

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
        return ys[len(ys) - 1]
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
def stale(s: State, site: int) -> None:
    """Forget a site's plan: what runs there has changed."""
    s.sites[site].plan_s = -math.inf


@compiled
def _keep(s: State, site: int, count: int, row: int) -> None:
    """Copy a plan of `count` steps between the present one and one that is kept."""
    times, free = s.plan_times[site], s.plan_free[site]
    source, target = (KEPT_COUNT, row) if row >= 0 else (-1 - row, KEPT_COUNT)
    for k in range(count):
        times[target, k] = times[source, k]
    for k in range(count):
        free[target, k] = free[source, k]


@compiled
def unplan(s: State, site: int, at: int) -> None:
    """Take those that wait, from the one at `at` on, out of a site's plan."""
    here = s.sites[site]
    if here.plan_s == s.g[0].now_s and here.planned_count > at:
        row = at // KEPT_STRIDE
        here.plan_count = s.kept_count[site, row]
        here.planned_count = row * KEPT_STRIDE
        _keep(s, site, here.plan_count, -1 - row)
        open_ended(s.plan_times[site, KEPT_COUNT], here.plan_count)
        s.after[site] = 0


@compiled
def plan_running(s: State, site: int, now_s: float) -> int:
    """Lay out free GPUs over time with what runs in its place; return the count of steps.

    It is row 0 of the plans that are kept.
    """
    here = s.sites[site]
    if here.plan_s == now_s:
        return s.kept_count[site, 0]
    ends, running = s.ends, s.running[site]
    busy = 0
    for k in range(here.running_count):
        slot = running[k]
        run = s.runs[slot]
        gpu_count = run.gpu_count
        left_s = remaining_p50_s(s.levels, s.knots[slot], run.p50_s, now_s - run.started_s)
        end_s = max(now_s + left_s, now_s)
        busy += gpu_count
        at = k
        while at > 0 and (
            ends[at - 1] > end_s
            or (ends[at - 1] == end_s and s.runs[running[at - 1]].gpu_count > gpu_count)
        ):
            ends[at] = ends[at - 1]
            running[at] = running[at - 1]
            at -= 1
        ends[at] = end_s
        running[at] = slot
    times, free = s.plan_times[site, 0], s.plan_free[site, 0]
    times[0] = now_s
    free[0] = here.gpu_count - busy
    count = 1
    for k in range(here.running_count):
        gpu_count = s.runs[running[k]].gpu_count
        if ends[k] > times[count - 1]:
            times[count] = ends[k]
            free[count] = free[count - 1] + gpu_count
            count += 1
        else:
            free[count - 1] += gpu_count
    here.plan_s = now_s
    here.planned_count = 0
    here.plan_count = count
    s.kept_count[site, 0] = count
    _keep(s, site, count, -1)
    s.after[site] = 0
    return count


@compiled
def plan_queue(s: State, site: int, now_s: float, until: int) -> int:
    """Put the first `until` that wait into the plan, each with `planned_s`; return its steps."""
    plan_running(s, site, now_s)
    here = s.sites[site]
    times, free = s.plan_times[site, KEPT_COUNT], s.plan_free[site, KEPT_COUNT]
    after = s.after[site]
    count = here.plan_count
    if here.planned_count == 0:
        open_ended(times, count)
    for k in range(here.planned_count, until):
        run = s.runs[s.queues[site, k]]
        run.planned_s, count = place(
            times,
            free,
            count,
            after,
            run.known,
            run.gpu_count,
            run.p50_s,
            _not_before_s(run, now_s),
        )
        if (k + 1) % KEPT_STRIDE == 0:
            row = (k + 1) // KEPT_STRIDE
            s.kept_count[site, row] = count
            _keep(s, site, count, row)
    here.plan_count = count
    here.planned_count = max(here.planned_count, until)
    return count


@compiled
def _not_before_s(run: Any, now_s: float) -> float:
    return max(now_s, run.ready_s) if math.isfinite(run.ready_s) else now_s


@compiled
def room_in_plan(
    s: State, site: int, gpu_count: int, duration_s: float, not_before_s: float
) -> float:
    """Return the earliest instant that such a run finds room at, behind those in the plan.

    Some that wait are in it.
    """
    times, free = s.plan_times[site, KEPT_COUNT], s.plan_free[site, KEPT_COUNT]
    first = int(s.after[site, class_of(gpu_count, duration_s)])
    start_s, _, _ = fit_from(times, free, first, gpu_count, duration_s, not_before_s)
    return start_s


@compiled
def full_profile(s: State, site: int, now_s: float, but_for: int) -> int:
    """Lay out everything that runs, waits or is held but for one task; return the count.

    It lies in the work arrays `times` and `free`.
    """
    count = plan_queue(s, site, now_s, s.sites[site].queue_count)
    for k in range(count):
        s.times[k] = s.plan_times[site, KEPT_COUNT, k]
    for k in range(count):
        s.free[k] = s.plan_free[site, KEPT_COUNT, k]
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
    here = s.sites[site]
    left = here.gpu_count - here.busy_count - here.waiting_count
    for k in range(here.held_count):
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
    if free_count == 0:
        return -1
    head, first = -1, -1
    for k in range(here.queue_count):
        slot = s.queues[site, k]
        run = s.runs[slot]
        may_start = _may_start(s, slot)
        if head < 0 and (may_start or now_s < run.ready_s < INFINITE):
            head = slot
        if may_start and run.gpu_count <= free_count and run.ready_s <= now_s:
            first = k
            break
    if first < 0:
        return -1
    slot = s.queues[site, first]
    if slot == head or s.runs[slot].gpu_count + s.runs[head].gpu_count <= free_count:
        return slot  # it is the head, or takes nothing from it
    # What runs only ever gives GPUs back: from the head's start on, none that it needs are taken,
    # unless by a run that lasts longer than until then.
    count = plan_running(s, site, now_s)
    times, free = s.plan_times[site, 0], s.plan_free[site, 0]
    open_ended(times, count)
    waiting = s.runs[head]
    planned_s, step, _ = fit_from(
        times, free, 0, waiting.gpu_count, waiting.p50_s, _not_before_s(waiting, now_s)
    )
    spare_count = free[step] - waiting.gpu_count
    for k in range(first, here.queue_count):
        slot = s.queues[site, k]
        run = s.runs[slot]
        if not (_may_start(s, slot) and run.gpu_count <= free_count and run.ready_s <= now_s):
            continue
        end_s = now_s + s.g[0].backfill_factor * run.p50_s
        if end_s <= planned_s or run.gpu_count <= spare_count:
            return slot
    return -1


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
    s.sites[site].waiting_count += run.gpu_count
    unplan(s, site, at)


@compiled
def dequeue(s: State, site: int, slot: int) -> None:
    """Take a run that starts or ends out of those that wait."""
    count = s.sites[site].queue_count
    at = 0
    while at < count and s.queues[site, at] != slot:
        at += 1
    if at < count:
        unplan(s, site, at)
        for k in range(at, count - 1):
            s.queues[site, k] = s.queues[site, k + 1]
        s.sites[site].queue_count = count - 1
        s.sites[site].waiting_count -= s.runs[slot].gpu_count


@compiled
def run_on(s: State, site: int, slot: int) -> None:
    """Count a run that starts among those that run."""
    here = s.sites[site]
    s.running[site, here.running_count] = slot
    here.running_count += 1
    stale(s, site)


@compiled
def run_out(s: State, site: int, slot: int) -> None:
    """Take a run that ends out of those that run."""
    here, running = s.sites[site], s.running[site]
    at = 0
    while running[at] != slot:
        at += 1
    for k in range(at, here.running_count - 1):
        running[k] = running[k + 1]
    here.running_count -= 1
    stale(s, site)


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
