"""The loop over events: what `testbed.sim.simulation` does, in the same order."""

import math

from gcos.signals import HOUR_S
from policies.baselines.rules import LAST
from site_agent.origin import HOLD_S, NO_BID_PAUSE_MAX_S, NO_BID_PAUSE_S
from testbed.fast.books import charge_run, charge_storage, charge_transfer, line
from testbed.fast.caches import cache_of, evict, forget_copy, insert, is_evictable, share_demand
from testbed.fast.compiled import compiled
from testbed.fast.handle import handle_of
from testbed.fast.heap import has_events, pop, push
from testbed.fast.kinds import (
    AWARD,
    AWARD_ANSWERED,
    BEAT_DUE,
    CHURN,
    EXIT,
    FLOW_END,
    HOLD,
    NEGOTIATE,
    NOTICED,
    PUBLISH,
    REJECT,
    RENEW,
    RENEW_ANSWERED,
    RENEW_DELIVERED,
    REPORT,
    REPORT_ANSWERED,
    STAGE,
    SUBMIT,
    TICK_ORIGIN,
    TICK_PARTICIPANT,
)
from testbed.fast.layout import (
    ABORT,
    ABSENT,
    BEAT_BEGINS,
    BEAT_ENDS,
    COMPLETE,
    DONE,
    FAILED_IN_USE,
    FAILED_REJECTED,
    HEAP_FULL,
    HEAP_MARGIN,
    HELD_SLOT_COUNT,
    HOUR,
    LOG_FULL,
    LOG_MARGIN,
    LOST,
    NO_BEAT,
    PLAN,
    REPORTED,
    RETURNED,
    RUNNING,
    SUCCEEDED,
    TOLD_FULL,
    TRANSFER,
    Ints,
    State,
)
from testbed.fast.migration import look_around, pull_ended, rejected, without_fetches_usd
from testbed.fast.network import end_flow
from testbed.fast.offers import SURE, bid, choose_start, glance, is_before
from testbed.fast.participant import (
    confirm,
    exited,
    finish,
    need_of,
    release,
    stage,
    take,
    tick_participant,
)
from testbed.fast.plan import let_go
from testbed.fast.task_actor import correct, hear_cluster, tell
from testbed.sim.engine import BEAT, DECISION, WORLD


@compiled
def park(s: State, task: int) -> None:
    """Put a task among those of its origin that wait for an announcement, in order of arrival."""
    site = s.sites[s.tasks[task].origin]
    before, at = -1, site.parked
    while at >= 0 and at < task:
        before, at = at, s.tasks[at].next_parked
    s.tasks[task].next_parked = at
    if before >= 0:
        s.tasks[before].next_parked = task
    else:
        site.parked = task


@compiled
def tick_origin(s: State, site: int) -> None:
    """Announce what is due."""
    now_s = s.g[0].now_s
    before, at = -1, s.sites[site].parked
    while at >= 0:
        task = s.tasks[at]
        after = task.next_parked
        if now_s >= task.due_s:
            if before >= 0:
                s.tasks[before].next_parked = after
            else:
                s.sites[site].parked = after
            push(s, now_s, DECISION, NEGOTIATE, at, 0)
        else:
            before = at
        at = after


@compiled
def submit(s: State, task: int) -> None:
    """Take a task, and look to the next."""
    top = s.g[0]
    push(s, top.now_s, DECISION, NEGOTIATE, task, 0)
    if task + 1 < top.task_count:
        push(s, s.tasks[task + 1].arrival_s, DECISION, SUBMIT, task + 1, 0)


@compiled
def negotiate(s: State, task: int) -> None:
    """Announce a task, and award it to the best offer, or wait for its later start."""
    top, what = s.g[0], s.tasks[task]
    top.auction_count += 1
    what.auction_count += 1
    registered = 0
    for site in range(top.site_count):
        here = s.sites[site]
        s.bids[site].is_bid = 0
        if not here.is_here:
            continue
        registered += 1
        if here.gpu_count < what.gpu_count:
            continue
        top.event_count += 2
        bid(s, site, task)
    if top.has_actor:
        correct(s, task)
    best = -1
    for site in range(top.site_count):
        answer = s.bids[site]
        if answer.is_bid and not answer.is_open and (best < 0 or is_before(s, task, site, best)):
            best = site
    best = best_of_open(s, task, best)
    if best < 0:
        nobody(s, task, registered)
        return
    what.has_bid = 1
    if top.is_told:
        tell(s, task, best)
    won = s.bids[best]
    what.site = best
    if won.is_deferred:
        what.due_s = max(top.now_s, won.start_s - won.fetch_s)
        what.hold_start_s = won.start_s
        what.hold_end_s = won.p50_finish_s
        park(s, task)
        push(s, what.due_s, DECISION, TICK_ORIGIN, what.origin, 0)
        push(s, top.now_s, WORLD, HOLD, best, task)
        return
    what.attempt += 1
    what.winning_usd = won.offer_usd
    push(s, top.now_s, WORLD, AWARD, task, 0)
    tell_losers(s, task, best)


@compiled
def tell_losers(s: State, task: int, best: int) -> None:
    """Tell the others, in the order of their offers where anybody looks at it."""
    top = s.g[0]
    order = s.order[: top.site_count]
    found = 0
    for site in range(top.site_count):
        if site == best or not s.bids[site].is_bid:
            continue
        at = found
        while top.migrator > 0 and at > 0 and is_before(s, task, site, order[at - 1]):
            order[at] = order[at - 1]
            at -= 1
        order[at] = site
        found += 1
    top.best_with_copies_usd = math.inf
    for k in range(found):
        if top.migrator and s.bids[order[k]].fetch_bytes:
            with_copies_usd = without_fetches_usd(s, order[k])
            top.best_with_copies_usd = min(top.best_with_copies_usd, with_copies_usd)
        push(s, top.now_s, WORLD, REJECT, order[k], task)


@compiled
def best_of_open(s: State, task: int, best: int) -> int:
    """Return the best bid where the starts of some are not chosen yet.

    They are chosen one after another, the most promising first, until none can win any more.
    """
    while True:
        found = -1
        for site in range(s.g[0].site_count):
            answer = s.bids[site]
            is_open = answer.is_bid and answer.is_open
            if is_open and (found < 0 or answer.value < s.bids[found].value):
                found = site
        if found < 0 or (best >= 0 and s.bids[found].value > s.bids[best].value + SURE):
            return best
        is_first = s.bids[found].value < LAST * s.g[0].late_max
        if best >= 0 and is_first and glance(s, found, task):
            continue
        choose_start(s, found, task)
        if best < 0 or is_before(s, task, found, best):
            best = found


@compiled
def nobody(s: State, task: int, registered: int) -> None:
    """Announce a task again after a pause, unless no site can ever run it."""
    top, what = s.g[0], s.tasks[task]
    is_hopeless = top.joining_count == 0 and registered > 0 and not what.has_bid
    for site in range(top.site_count):
        # A full queue may have room again.
        if s.sites[site].is_here and s.sites[site].gpu_count >= what.gpu_count:
            is_hopeless = False
    if is_hopeless:
        top.failure = FAILED_REJECTED
        top.failed_task = task
        return
    pause_s = min(NO_BID_PAUSE_S * 2.0 ** min(what.auction_count - 1, 10), NO_BID_PAUSE_MAX_S)
    what.due_s = top.now_s + pause_s
    park(s, task)
    push(s, what.due_s, DECISION, TICK_ORIGIN, what.origin, 0)


@compiled
def award(s: State, task: int) -> None:
    """Let the winner accept."""
    top = s.g[0]
    site = s.tasks[task].site
    slot = take(s, site, task)
    if slot < 0:
        return
    push(s, top.now_s, WORLD, AWARD_ANSWERED, task, 0)
    ready_s = s.runs[slot].ready_s
    if ready_s > top.now_s:
        push(s, ready_s, WORLD, TICK_PARTICIPANT, site, 0)


@compiled
def hold(s: State, site: int, task: int) -> None:
    """Keep a soft reservation for a task that waits."""
    let_go(s, site, task)
    what, here = s.tasks[task], s.sites[site]
    until_s = what.hold_start_s + HOLD_S
    is_sane = s.g[0].now_s < until_s and what.hold_start_s <= what.hold_end_s
    if is_sane and here.held_count < HELD_SLOT_COUNT:
        held = s.held[site, here.held_count]
        held.task = task
        held.gpu_count = what.gpu_count
        held.start_s = what.hold_start_s
        held.end_s = what.hold_end_s
        held.until_s = until_s
        here.held_count += 1


@compiled
def reject(s: State, site: int, task: int) -> None:
    """Tell a site that a task went elsewhere."""
    let_go(s, site, task)
    if s.g[0].migrator:
        rejected(s, site, task)


@compiled
def arrived(s: State, known: int) -> None:
    """Take in what a transfer has brought."""
    flow = s.flows[known]
    source, site, artifact, slot = flow.source, flow.target, flow.artifact, flow.run
    generation, is_stored, begun_s = flow.run_generation, flow.is_stored, flow.begun_s
    is_read = flow.is_read_from_cache
    end_flow(s, known)
    now_s = s.g[0].now_s
    if is_read:
        s.entries[source, artifact].reader_count -= 1
    usd = charge_transfer(s, artifact, source, site, begun_s, now_s)
    task = flow.task
    if task >= 0:
        s.tasks[task].joint_usd += usd
    line(s, TRANSFER, begun_s, now_s, site, source, artifact, task, is_stored)
    entry = s.entries[site, artifact]
    if is_stored:
        insert(s, site, artifact, begun_s)
    if slot < 0:
        if entry.state != ABSENT:
            entry.refetch_usd = usd
        pull_ended(s, site, artifact)
    else:
        run = s.runs[slot]
        if run.generation == generation:
            if not is_stored and run.state != REPORTED:
                run.in_scratch |= 1 if need_of(s, run.task, 0) == artifact else 2
            if entry.state != ABSENT:
                entry.refetch_usd = usd
            stage(s, slot)
    if is_stored:
        at = entry.first_waiter
        entry.first_waiter = -1
        entry.last_waiter = -1
        while at >= 0:
            waiter = s.runs[at]
            after = waiter.next_waiter
            waiter.waits_for = -1
            stage(s, at)
            at = after


@compiled
def reported(s: State, slot: int) -> None:
    """Let a run's origin take its report."""
    run, top = s.runs[slot], s.g[0]
    what = s.tasks[run.task]
    if run.outcome == SUCCEEDED:
        top.left_count -= 1
    else:
        what.due_s = 0.0
        park(s, run.task)
        push(s, top.now_s, DECISION, TICK_ORIGIN, what.origin, 0)
    push(s, top.now_s, WORLD, REPORT_ANSWERED, slot, run.generation)


@compiled
def leave(s: State, index: int) -> None:
    """Kill what runs at a site, and let origins notice when they would."""
    change, top = s.churn[index], s.g[0]
    here = s.sites[change.site]
    here.is_here = 0
    here.is_draining = 1
    last = -1
    while True:
        found = -1
        for k in range(here.run_count):
            slot = s.site_runs[change.site, k]
            run = s.runs[slot]
            is_next = found < 0 or run.start_order < s.runs[found].start_order
            if run.is_executing and run.start_order > last and is_next:
                found = slot
        if found < 0:
            break
        run = s.runs[found]
        last = run.start_order
        run.is_executing = 0
        charge_run(s, run.task, change.site, run.started_s, top.now_s)
        line(s, ABORT, run.started_s, top.now_s, change.site, -1, -1, run.task, 0)
    here.noticed_s = top.now_s + top.noticed_after_s
    push(s, here.noticed_s, BEAT, NOTICED, change.site, 0)


@compiled
def noticed(s: State, site: int) -> None:
    """Report what was lost, in order of start, and give back what has not started."""
    here = s.sites[site]
    last = -1
    while True:
        found = -1
        for k in range(here.run_count):
            slot = s.site_runs[site, k]
            run = s.runs[slot]
            is_next = found < 0 or run.start_order < s.runs[found].start_order
            if run.state == RUNNING and run.start_order > last and is_next:
                found = slot
        if found < 0:
            break
        last = s.runs[found].start_order
        finish(s, found, LOST)
    k = 0
    while k < here.run_count:
        slot = s.site_runs[site, k]
        if s.runs[slot].state < RUNNING:
            finish(s, slot, RETURNED)
        else:
            k += 1


@compiled
def join(s: State, index: int) -> None:
    """Let a site take part, again or for the first time."""
    change, top = s.churn[index], s.g[0]
    here = s.sites[change.site]
    if top.now_s < here.noticed_s:
        push(s, here.noticed_s, BEAT, CHURN, index, 0)
        return
    top.joining_count -= 1
    here.is_here = 1
    here.is_draining = 0
    if not change.keeps_caches:
        for artifact in range(top.artifact_count):
            entry = s.entries[change.site, artifact]
            if entry.state == COMPLETE:
                if not is_evictable(entry):
                    top.failure = FAILED_IN_USE
                    return
                evict(s, change.site, artifact, cache_of(s, artifact))
                forget_copy(s, change.site, artifact)
    tick_participant(s, change.site)


@compiled
def beat(s: State) -> None:
    """Give whoever waits a look at the hour's signals, which `issued` has by now."""
    top = s.g[0]
    for site in range(top.site_count):
        tick_participant(s, site)
        tick_origin(s, site)
    if top.has_actor:
        hear_cluster(s)
    share_demand(s)
    if top.migrator:
        for site in range(top.site_count):
            if s.sites[site].is_here:
                look_around(s, site)


@compiled
def end_beat(s: State) -> None:
    """Ask for the next beat and, after the first, for the first task."""
    top = s.g[0]
    top.beat = NO_BEAT
    if top.left_count:
        push(s, top.now_s + HOUR_S, BEAT, BEAT_DUE, 0, 0)
    if not top.is_begun:
        top.is_begun = 1
        if top.task_count:
            push(s, s.tasks[0].arrival_s, DECISION, SUBMIT, 0, 0)


@compiled
def close(s: State) -> None:
    """Charge what still lies in the caches, up to the end of the last run."""
    for site in range(s.g[0].site_count):
        for artifact in range(s.g[0].artifact_count):
            entry = s.entries[site, artifact]
            if entry.state == COMPLETE:
                until_s = max(s.g[0].last_end_s, entry.copy_since_s)
                charge_storage(s, artifact, entry.copy_since_s, until_s)


@compiled
def handle(s: State, kind: int, a: int, b: int) -> None:
    """Do what an event asks."""
    top = s.g[0]
    if kind == SUBMIT:
        submit(s, a)
    elif kind == TICK_ORIGIN:
        tick_origin(s, a)
    elif kind == NEGOTIATE:
        negotiate(s, a)
    elif kind == AWARD:
        award(s, a)
    elif kind == REJECT:
        reject(s, a, b)
    elif kind == HOLD:
        hold(s, a, b)
    elif kind == STAGE:
        if s.runs[a].generation == b:
            stage(s, a)
    elif kind == RENEW:
        s.links[a, b].is_renewing = 0
        if s.links[a, b].run_count > 0:
            push(s, top.now_s, WORLD, RENEW_DELIVERED, a, b)
    elif kind == RENEW_DELIVERED:
        push(s, top.now_s, WORLD, RENEW_ANSWERED, a, b)
    elif kind == RENEW_ANSWERED:
        confirm(s, a, b)
    elif kind == TICK_PARTICIPANT:
        tick_participant(s, a)
    elif kind == FLOW_END:
        if s.flows[a].version == b:
            arrived(s, a)
    elif kind == EXIT:
        if s.runs[a].generation == b and s.runs[a].is_executing:
            exited(s, a)
            push(s, top.now_s, WORLD, PUBLISH, a, b)
    elif kind == PUBLISH:
        site = s.runs[a].site
        finish(s, a, SUCCEEDED)
        tick_participant(s, site)
    elif kind == REPORT:
        reported(s, a)
    elif kind == REPORT_ANSWERED:
        release(s, a)
    elif kind == CHURN:
        if s.churn[a].is_leave:
            leave(s, a)
        else:
            join(s, a)
    elif kind == NOTICED:
        noticed(s, a)


@compiled
def begin(table: Ints) -> None:
    """Ask for the first events; the first hour's signals are there."""
    s = handle_of(table)
    for index in range(len(s.churn)):
        push(s, s.churn[index].at_s, BEAT, CHURN, index, 0)
    s.g[0].beat = BEAT_BEGINS


@compiled
def advance(table: Ints) -> int:
    """Handle events until none is left or the caller must do something; return what."""
    s = handle_of(table)
    top = s.g[0]
    if top.beat == BEAT_BEGINS:
        top.beat = BEAT_ENDS
        beat(s)
        if top.plans_copies:
            return PLAN
    if top.beat == BEAT_ENDS:
        end_beat(s)
    while has_events(s):
        if top.heap_count + HEAP_MARGIN > len(s.heap):
            return HEAP_FULL
        if top.log_count + LOG_MARGIN > len(s.lines):
            return LOG_FULL
        if top.is_told and top.told_count == len(s.told):
            return TOLD_FULL
        time_s, kind, a, b = pop(s)
        top.now_s = time_s
        top.event_count += 1
        if kind == BEAT_DUE:
            top.beat = BEAT_BEGINS
            return HOUR
        handle(s, kind, a, b)
        if top.failure:
            return top.failure
    close(s)
    return DONE
