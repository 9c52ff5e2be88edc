"""What a site does with its runs: `site_agent.participant` between award and report."""

from testbed.fast.books import charge_end, charge_run, count_lookup, line
from testbed.fast.caches import has, hit, note_demand, reserve
from testbed.fast.compiled import compiled
from testbed.fast.heap import push
from testbed.fast.kinds import EXIT, RENEW, REPORT, STAGE
from testbed.fast.layout import (
    COMMITTING,
    FAILED_SLOTS,
    FREE,
    LEASED,
    PREDICTED_LATE,
    REPORTED,
    RESERVED,
    RUN,
    RUNNING,
    STAGING,
    State,
)
from testbed.fast.network import begin_flow
from testbed.fast.offers import cheapest, penalty_usd, staged_by_s
from testbed.fast.plan import (
    dequeue,
    enqueue,
    fill_knots,
    full_profile,
    lapse,
    let_go,
    plan_queue,
    run_on,
    run_out,
    startable,
    unplan,
)
from testbed.fast.steps import class_of, earliest_fit
from testbed.sim.engine import WORLD


@compiled
def need_of(s: State, task: int, part: int) -> int:
    """Return an artifact that a task needs: 0 the model, 1 the data set."""
    return s.tasks[task].model if part == 0 else s.tasks[task].data


@compiled
def renew_soon(s: State, site: int, origin: int) -> None:
    """Let a site tell an origin of its runs, unless it is about to."""
    link = s.links[site, origin]
    if not link.is_renewing:
        link.is_renewing = 1
        push(s, s.g[0].now_s, WORLD, RENEW, site, origin)


@compiled
def take(s: State, site: int, task: int) -> int:
    """Accept an award; return the slot of the run, or -1 where there is none."""
    top, here, what = s.g[0], s.sites[site], s.tasks[task]
    if top.free_run_count == 0:
        top.failure = FAILED_SLOTS
        return -1
    now_s = top.now_s
    top.free_run_count -= 1
    slot = s.free_runs[top.free_run_count]
    run = s.runs[slot]
    here.awarded_count += 1
    let_go(s, site, task)
    run.task = task
    run.site = site
    run.state = LEASED
    run.gpu_count = what.gpu_count
    run.accepted_s = now_s
    median_s = what.predicted_s / s.type_speed[here.type]
    run.p50_s = median_s * s.quantile_ratio[what.sigma, 9]
    run.known = class_of(run.gpu_count, run.p50_s)
    run.latest_start_s = what.deadline_s - median_s * s.quantile_ratio[what.sigma, 17]
    run.is_confirmed = 0
    run.is_staged = 0
    run.is_executing = 0
    run.pinned = 0
    run.in_scratch = 0
    run.waited = 0
    run.waits_for = -1
    staged_s = staged_by_s(s, site, task)
    if top.gives_back_late:
        count = full_profile(s, site, now_s, -1)
        start_s = earliest_fit(s.times, s.free, count, run.gpu_count, run.p50_s, staged_s)
        run.accepted_penalty_usd = penalty_usd(s, task, what.sigma, median_s, start_s)
    pin(s, slot)
    run.ready_s = staged_s
    fill_knots(s, slot, median_s, what.sigma)
    s.site_runs[site, here.run_count] = slot
    here.run_count += 1
    here.unconfirmed_count += 1
    s.links[site, what.origin].run_count += 1
    enqueue(s, site, slot)
    run.is_staging = 1
    push(s, now_s, WORLD, STAGE, slot, run.generation)
    renew_soon(s, site, what.origin)
    return slot


@compiled
def pin(s: State, slot: int) -> None:
    """Hold on to what a run needs and the cache has, complete or on its way."""
    run = s.runs[slot]
    for part in range(2):
        entry = s.entries[run.site, need_of(s, run.task, part)]
        if entry.state >= RESERVED and not run.pinned & (1 << part):
            entry.pin_count += 1
            run.pinned |= 1 << part


@compiled
def stage(s: State, slot: int) -> None:
    """Bring one artifact after the other."""
    run = s.runs[slot]
    site, task = run.site, run.task
    if not run.is_staging or not s.sites[site].is_here:
        return
    pin(s, slot)
    missing = -1
    for part in range(2):
        is_here = run.in_scratch & (1 << part) or has(s, site, need_of(s, task, part))
        if missing < 0 and not is_here:
            missing = part
    if missing < 0:
        staged(s, slot)
        tick_participant(s, site)
        return
    artifact = need_of(s, task, missing)
    run.waited |= 1 << missing
    if run.state == LEASED:
        run.state = STAGING
        renew_soon(s, site, s.tasks[task].origin)
    entry = s.entries[site, artifact]
    if entry.state == RESERVED:
        run.next_waiter = -1
        if entry.last_waiter >= 0:
            s.runs[entry.last_waiter].next_waiter = slot
        else:
            entry.first_waiter = slot
        entry.last_waiter = slot
        run.waits_for = artifact
        return
    transfer(s, site, artifact, slot)


@compiled
def staged(s: State, slot: int) -> None:
    """Everything is here: the run waits for GPUs."""
    run, now_s = s.runs[slot], s.g[0].now_s
    site, task = run.site, run.task
    run.is_staging = 0
    for part in range(2):
        count_lookup(s, task, part, 0 if run.waited & (1 << part) else 1)
    for part in range(2):
        artifact = need_of(s, task, part)
        if has(s, site, artifact):
            hit(s, site, artifact)
        else:
            note_demand(s, site, artifact, now_s)
    run.state = STAGING
    run.is_staged = 1
    if run.ready_s > now_s:
        unplan(s, site, 0)
    run.ready_s = now_s
    start_what_fits(s, site)
    renew_soon(s, site, s.tasks[task].origin)


@compiled
def transfer(s: State, site: int, artifact: int, slot: int) -> bool:
    """Bring an artifact to the cache or, for a run, to scratch; False: a pull found no room.

    `slot` is the run it is brought for; -1: a copy ahead of need.
    """
    now_s = s.g[0].now_s
    source, _, _, _ = cheapest(s, artifact, site, now_s)
    is_stored = reserve(s, site, artifact)
    if not is_stored and slot < 0:
        return False
    if is_stored and slot >= 0:
        pin(s, slot)
    is_read = s.artifacts[artifact].home != source
    if is_read:
        s.entries[source, artifact].reader_count += 1
    known = begin_flow(s, source, site, artifact)
    flow = s.flows[known]
    flow.task = s.runs[slot].task if slot >= 0 else -1
    flow.run = slot
    flow.run_generation = s.runs[slot].generation if slot >= 0 else 0
    flow.is_stored = 1 if is_stored else 0
    flow.is_read_from_cache = 1 if is_read else 0
    return True


@compiled
def start_what_fits(s: State, site: int) -> None:
    """Start every run that is staged, confirmed and has room."""
    now_s = s.g[0].now_s
    while True:
        slot = startable(s, site, now_s)
        if slot < 0:
            break
        run = s.runs[slot]
        run.state = RUNNING
        run.started_s = now_s
        s.tasks[run.task].staged_s = run.ready_s
        run.is_executing = 1
        s.sites[site].busy_count += run.gpu_count
        dequeue(s, site, slot)
        run_on(s, site, slot)
        end_s = now_s + s.tasks[run.task].work_s / s.sites[site].speed
        push(s, end_s, WORLD, EXIT, slot, run.generation)
        run.start_order = s.g[0].sequence
        renew_soon(s, site, s.tasks[run.task].origin)


@compiled
def tick_participant(s: State, site: int) -> None:
    """Start what may start, and give back what would be late."""
    if not s.sites[site].is_here:
        return
    if s.sites[site].held_count:
        lapse(s, site, s.g[0].now_s)
    start_what_fits(s, site)
    if s.g[0].gives_back_late:
        while s.sites[site].queue_count > 0:
            slot = late_run(s, site)
            if slot < 0:
                break
            finish(s, slot, PREDICTED_LATE)


@compiled
def late_run(s: State, site: int) -> int:
    """Return the last waiting run whose expected penalty has grown too much, or -1."""
    now_s = s.g[0].now_s
    plan_queue(s, site, now_s, s.sites[site].queue_count)
    found = -1
    for k in range(s.sites[site].queue_count):
        slot = s.queues[site, k]
        run = s.runs[slot]
        what = s.tasks[run.task]
        if not run.is_staged or what.attempt > s.g[0].reauction_count_max:
            continue
        median_s = what.predicted_s / s.type_speed[s.sites[site].type]
        usd = penalty_usd(s, run.task, what.sigma, median_s, run.planned_s)
        if usd > run.accepted_penalty_usd + s.g[0].reauction_usd:
            found = slot
    return found


@compiled
def finish(s: State, slot: int, outcome: int) -> None:
    """End a run: free what it held, and owe its origin a report."""
    run = s.runs[slot]
    site = run.site
    here = s.sites[site]
    if run.state >= RUNNING:
        here.busy_count -= run.gpu_count
        run_out(s, site, slot)
    else:
        dequeue(s, site, slot)
        run.is_staging = 0
        stop_waiting(s, slot)
    run.state = REPORTED
    run.outcome = outcome
    at = 0
    while s.site_runs[site, at] != slot:
        at += 1
    for k in range(at, here.run_count - 1):
        s.site_runs[site, k] = s.site_runs[site, k + 1]
    here.run_count -= 1
    here.unconfirmed_count -= 1 - run.is_confirmed
    s.links[site, s.tasks[run.task].origin].run_count -= 1
    for part in range(2):
        if run.pinned & (1 << part):
            s.entries[site, need_of(s, run.task, part)].pin_count -= 1
    run.pinned = 0
    if outcome == PREDICTED_LATE:
        s.g[0].reauction_count += 1
    push(s, s.g[0].now_s, WORLD, REPORT, slot, run.generation)


@compiled
def stop_waiting(s: State, slot: int) -> None:
    """Take a run that ends out of those that wait for an artifact."""
    run = s.runs[slot]
    if run.waits_for < 0:
        return
    entry = s.entries[run.site, run.waits_for]
    before, at = -1, entry.first_waiter
    while at != slot:
        before, at = at, s.runs[at].next_waiter
    if before >= 0:
        s.runs[before].next_waiter = run.next_waiter
    else:
        entry.first_waiter = run.next_waiter
    if entry.last_waiter == slot:
        entry.last_waiter = before
    run.waits_for = -1


@compiled
def release(s: State, slot: int) -> None:
    """Forget a run whose report was answered."""
    run, top = s.runs[slot], s.g[0]
    run.state = FREE
    run.generation += 1
    s.free_runs[top.free_run_count] = slot
    top.free_run_count += 1


@compiled
def exited(s: State, slot: int) -> None:
    """Book a run that the executor saw end well."""
    run, now_s = s.runs[slot], s.g[0].now_s
    run.is_executing = 0
    charge_run(s, run.task, run.site, run.started_s, now_s)
    charge_end(s, run.task, now_s)
    line(s, RUN, run.started_s, now_s, run.site, -1, -1, run.task, 0)
    run.state = COMMITTING


@compiled
def confirm(s: State, site: int, origin: int) -> None:
    """Count the leases that an origin has renewed, and start what waited for them."""
    if not s.sites[site].is_here:
        return
    here = s.sites[site]
    left, k = here.unconfirmed_count, here.run_count
    while left > 0:  # they are among the latest
        k -= 1
        run = s.runs[s.site_runs[site, k]]
        if not run.is_confirmed:
            left -= 1
            if s.tasks[run.task].origin == origin:
                run.is_confirmed = 1
                here.unconfirmed_count -= 1
    start_what_fits(s, site)
