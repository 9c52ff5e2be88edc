"""What a site bids: the arithmetic of `policies.offer`, of sourcing and of the bidders."""

import math

import numpy as np

from gcos.accounting import BYTES_PER_GB, G_PER_KG, LATE_TOLERANCE_H, S_PER_H
from gcos.signals import HOUR_S
from policies.baselines.rules import LAST, START_TIE, TIE
from policies.offer import HORIZON_H
from site_agent.participant import RUN_COUNT_MAX
from testbed.fast.caches import bit, has
from testbed.fast.compiled import compiled
from testbed.fast.hashing import uniform
from testbed.fast.layout import (
    CARBON,
    CARBON_GREEDY,
    COST_GREEDY,
    JOINT,
    JOINT_LOOKAHEAD,
    LEAST_LOADED,
    LOCAL,
    LOCALITY,
    PRICE,
    RANDOM,
    RESERVED,
    ROUND_ROBIN,
    SLICE_COUNT,
    WAIT_BEST,
    WAIT_LOCAL,
    State,
)
from testbed.fast.plan import (
    committed_gpu_s,
    full_profile,
    interpolated,
    least_free,
    plan_queue,
    plan_running,
    room_in_plan,
)
from testbed.fast.signals import flat_mean, integral, mean, value_at
from testbed.fast.steps import earliest_fit

#: What the tie-break, below `TIE`, cannot turn round, rounding included.
SURE = 4 * TIE
#: Of a plan that grows, the room is looked at after so many more of those that wait.
GLANCE_STRIDE = 8
#: More than what two sums of the same numbers can differ by, for their size.
ROUNDING = 1e-9
#: More than what an instant is rounded by, seconds; of short runs that is more than `ROUNDING`.
INSTANT_S = 1e-6
TINY = float(np.finfo(np.float64).tiny)


@compiled
def cheapest(s: State, artifact: int, site: int, at_s: float) -> tuple[int, float, float, float]:
    """Return the best source of an artifact, seconds, $ and g of bringing it from there."""
    what, top = s.artifacts[artifact], s.g[0]
    size_bytes = what.size_bytes
    size_gb = size_bytes / BYTES_PER_GB
    source, least_usd, shortest_s, egress_usd, network_g = -1, 0.0, 0.0, 0.0, 0.0
    for holder in range(top.site_count):
        if holder == site:
            continue
        is_stored = (what.holders & bit(holder)) != 0 and s.sites[holder].is_here == 1
        if holder != what.home and not is_stored:
            continue
        link = s.links[holder, site]
        duration_s = link.zone_rtt_s + size_bytes / link.zone_bytes_per_s
        end_s = at_s + duration_s
        there = value_at(s.series, s.truth, CARBON, holder, top.now_s)
        sent = flat_mean(there, at_s, end_s)
        received = mean(s.issues, s.issued, s.issued_sum, CARBON, site, at_s, end_s)
        gco2 = size_gb * top.kappa * ((sent + received) / 2)
        usd = size_gb * link.zone_egress
        joint_usd = usd + top.carbon_price * gco2 / G_PER_KG
        if (
            source < 0
            or joint_usd < least_usd
            or (joint_usd == least_usd and duration_s < shortest_s)
        ):
            source, least_usd, shortest_s = holder, joint_usd, duration_s
            egress_usd, network_g = usd, gco2
    return source, shortest_s, egress_usd, network_g


@compiled
def staged_by_s(s: State, site: int, task: int) -> float:
    """Return the instant by which everything that a task needs should be at a site."""
    ready_s = s.g[0].now_s
    for part in range(2):
        artifact = s.tasks[task].model if part == 0 else s.tasks[task].data
        if not has(s, site, artifact):
            _, duration_s, _, _ = cheapest(s, artifact, site, ready_s)
            ready_s += duration_s
    return ready_s


@compiled
def expected(s: State, site: int, kind: int, sigma: int, median_s: float, start_s: float) -> float:
    """Return the mean over the run time of a signal's integral, unit of the value times seconds."""
    total = 0.0
    for k in range(SLICE_COUNT):
        end_s = start_s + median_s * s.slice_ratio[sigma, k]
        total += integral(s.issues, s.issued, s.issued_sum, kind, site, start_s, end_s)
    return total / SLICE_COUNT


@compiled
def late_probability(s: State, sigma: int, median_s: float, left_s: float) -> float:
    """Return P(run time > `left_s`)."""
    ln = math.log(max(left_s, TINY)) - math.log(median_s)
    return 1.0 - interpolated(ln, s.slice_ln[sigma], s.levels)


@compiled
def penalty_usd(s: State, task: int, sigma: int, median_s: float, start_s: float) -> float:
    """Return the mean penalty over the run time."""
    what = s.tasks[task]
    total = 0.0
    for k in range(SLICE_COUNT):
        late_h = (start_s + median_s * s.slice_ratio[sigma, k] - what.deadline_s) / S_PER_H
        if late_h > LATE_TOLERANCE_H:
            total += what.penalty_usd + what.penalty_usd_per_h * min(late_h, what.penalty_cap_h)
    return total / SLICE_COUNT


@compiled
def offer_usd(
    s: State,
    site: int,
    task: int,
    median_s: float,
    start_s: float,
    egress_usd: float,
    network_g: float,
) -> float:
    """Return the exact marginal J of a start, and leave its items in the site's bid."""
    what, here, top, answer = s.tasks[task], s.sites[site], s.g[0], s.bids[site]
    sigma = what.sigma
    power_kw = what.gpu_count * here.active_kw * here.pue / S_PER_H
    answer.energy_usd = expected(s, site, PRICE, sigma, median_s, start_s) * power_kw
    answer.penalty_usd = penalty_usd(s, task, sigma, median_s, start_s)
    cost_usd = answer.energy_usd + egress_usd + answer.penalty_usd
    if top.counts_gpu_hours:
        mean_s = 0.0
        for k in range(SLICE_COUNT):
            mean_s += median_s * s.slice_ratio[sigma, k]
        answer.gpu_usd = what.gpu_count * (mean_s / SLICE_COUNT / S_PER_H) * here.usd_per_gpu_h
        cost_usd += answer.gpu_usd
    answer.compute_gco2 = expected(s, site, CARBON, sigma, median_s, start_s) * power_kw
    gco2 = answer.compute_gco2 + network_g
    return cost_usd + top.carbon_price * gco2 / G_PER_KG


@compiled
def locality(fetch_bytes: int, start_s: float, now_s: float) -> float:
    """Return the score of `locality`, lateness apart."""
    return fetch_bytes / BYTES_PER_GB + START_TIE * (max(0.0, start_s - now_s) / 3600)


@compiled
def score(
    s: State, site: int, task: int, rule: int, median_s: float, start_s: float, fetch_bytes: int
) -> float:
    """Return by what a rule compares sites: the lowest wins."""
    what, here, now_s = s.tasks[task], s.sites[site], s.g[0].now_s
    if rule == RANDOM:
        return uniform(s.task_text[task], s.site_text[site])
    if rule == ROUND_ROBIN:
        return float(here.awarded_count)
    if rule in (LOCAL, WAIT_LOCAL):
        return 0.0 if what.origin == site else 1.0
    if rule == LEAST_LOADED:
        return committed_gpu_s(s, site, now_s) / here.gpu_count
    power_kw = what.gpu_count * here.active_kw * here.pue / S_PER_H
    if rule == COST_GREEDY:
        value = expected(s, site, PRICE, what.sigma, median_s, start_s) * power_kw
    elif rule == LOCALITY:
        value = locality(fetch_bytes, start_s, now_s)
    else:
        value = expected(s, site, CARBON, what.sigma, median_s, start_s) * power_kw
    late = late_probability(s, what.sigma, median_s, what.deadline_s - start_s)
    return value + (LAST * late if late > s.g[0].late_max else 0.0)


@compiled
def bid(s: State, site: int, task: int) -> None:
    """Write a site's answer to an announcement into `bids`."""
    what, here, top = s.tasks[task], s.sites[site], s.g[0]
    now_s = top.now_s
    answer = s.bids[site]
    answer.is_bid = 0
    if here.is_draining or here.run_count >= RUN_COUNT_MAX:
        return
    waiting_s, fetch_s, egress_usd, network_g = 0.0, 0.0, 0.0, 0.0
    fetch_bytes = 0
    for part in range(2):
        artifact = what.model if part == 0 else what.data
        answer.part_usd[part] = -1.0
        answer.is_fetched[part] = 0
        if has(s, site, artifact):
            continue
        _, duration_s, usd, gco2 = cheapest(s, artifact, site, now_s)
        if s.entries[site, artifact].state == RESERVED:
            waiting_s += duration_s
            continue
        answer.is_fetched[part] = 1
        fetch_s += duration_s
        egress_usd += usd
        network_g += gco2
        fetch_bytes += s.artifacts[artifact].size_bytes
        if top.migrator:
            answer.part_usd[part] = usd + top.carbon_price * gco2 / G_PER_KG
            known = s.entries[site, artifact]
            known.is_known = 1
            known.known_usd = answer.part_usd[part]
            known.known_egress_usd, known.known_gco2 = usd, gco2
    answer.ready_s = now_s + waiting_s + fetch_s
    answer.is_bid = 1
    answer.fetch_s = fetch_s
    answer.transfer_usd = egress_usd
    answer.network_gco2 = network_g
    answer.fetch_bytes = fetch_bytes
    answer.is_open = 0
    if is_lazy(s):
        answer.is_open = 1
        answer.value = least_score(s, site, task)
        answer.score = math.nan
        answer.offer_usd = math.nan
    else:
        choose_start(s, site, task)


@compiled
def is_lazy(s: State) -> bool:
    """Tell whether nothing of a bid but its rank is looked at, so that those that lose need none.

    Offers in J are all worked out, since migration learns from them; policies that wait would have
    to bound what a later start is worth.
    """
    rule = s.g[0].rule
    return s.g[0].migrator == 0 and rule in (COST_GREEDY, CARBON_GREEDY, LOCALITY)


@compiled
def least_score(s: State, site: int, task: int) -> float:
    """Return what the score of a bid by a rule is at least, whenever its plan lets it start."""
    what, here = s.tasks[task], s.sites[site]
    answer, rule = s.bids[site], s.g[0].rule
    if rule == LOCALITY:
        return locality(answer.fetch_bytes, max(answer.ready_s, s.g[0].now_s), s.g[0].now_s)
    median_s = what.predicted_s / s.type_speed[here.type]
    power_kw = what.gpu_count * here.active_kw * here.pue / S_PER_H
    kind = PRICE if rule == COST_GREEDY else CARBON
    rate = s.least_issued[kind, site] * power_kw
    least = median_s * s.mean_ratio[what.sigma] * rate
    return least - ROUNDING * abs(least) - INSTANT_S * abs(rate)


@compiled
def glance(s: State, site: int, task: int) -> bool:
    """Tell whether the start of an open bid is late for sure; if so, raise the least score by that.

    Those that wait are put into the plan in their order, and each only takes GPUs away: before all
    of them are there, the room that the task finds is no later than it will be.
    """
    what, here, answer = s.tasks[task], s.sites[site], s.bids[site]
    if least_free(s, site, task) >= what.gpu_count:
        return False
    now_s = s.g[0].now_s
    median_s = what.predicted_s / s.type_speed[here.type]
    p50_s = median_s * s.quantile_ratio[what.sigma, 9]
    not_before_s = max(answer.ready_s, now_s)
    plan_running(s, site, now_s)
    while here.planned_count < here.queue_count:
        until = min(here.planned_count + GLANCE_STRIDE, here.queue_count)
        plan_queue(s, site, now_s, until)
        start_s = room_in_plan(s, site, what.gpu_count, p50_s, not_before_s)
        late = late_probability(s, what.sigma, median_s, what.deadline_s - start_s)
        if late > s.g[0].late_max + ROUNDING:
            answer.value += LAST * (late - ROUNDING)
            return True
    return False


@compiled
def choose_start(s: State, site: int, task: int) -> None:
    """Complete a bid with the start that the policy chooses."""
    what, top = s.tasks[task], s.g[0]
    answer = s.bids[site]
    answer.is_open = 0
    rule, now_s = top.rule, top.now_s
    waits = rule in (JOINT_LOOKAHEAD, WAIT_LOCAL, WAIT_BEST)
    # `RunTime.lognormal` is asked for predicted work over the speed of the pool's type.
    median_s = what.predicted_s / s.type_speed[s.sites[site].type]
    p50_s = median_s * s.quantile_ratio[what.sigma, 9]
    p90_s = median_s * s.quantile_ratio[what.sigma, 17]
    not_before_s = max(answer.ready_s, now_s)
    count = 0
    if least_free(s, site, task) >= what.gpu_count:
        first_s = not_before_s
    elif s.sites[site].queue_count > 0 and s.sites[site].held_count == 0 and not waits:
        plan_queue(s, site, now_s, s.sites[site].queue_count)
        first_s = room_in_plan(s, site, what.gpu_count, p50_s, not_before_s)
    else:
        count = full_profile(s, site, now_s, task)
        first_s = earliest_fit(s.times, s.free, count, what.gpu_count, p50_s, not_before_s)
    start_s, is_deferred = first_s, 0
    latest_s = what.deadline_s - p90_s
    if waits:
        start_s = later_start(s, site, task, first_s, latest_s, median_s, p50_s, count)
        is_deferred = 1 if start_s != first_s else 0
    answer.start_s = start_s
    answer.is_deferred = is_deferred
    answer.p50_finish_s = start_s + p50_s
    is_joint = rule in (JOINT, JOINT_LOOKAHEAD)
    answer.value, answer.score = 0.0, 0.0
    if not is_joint:
        answer.value = score(s, site, task, rule, median_s, start_s, answer.fetch_bytes)
        answer.score = math.nan
    answer.offer_usd = math.nan
    if is_joint or top.migrator:
        answer.offer_usd = offer_of(s, site, task)
    if top.has_actor:
        left_s = what.deadline_s - start_s
        answer.late_probability = late_probability(s, what.sigma, median_s, left_s)


@compiled
def is_before(s: State, task: int, one: int, other: int) -> bool:
    """Tell whether the bid of site `one` is better: by score, then J, then the lower id.

    What decides between equals is worked out where it may: a hash takes longer than a bid.
    """
    a, b = s.bids[one], s.bids[other]
    if abs(a.value - b.value) > SURE:
        return a.value < b.value
    for k in range(2):
        site = one if k == 0 else other
        answer = s.bids[site]
        if math.isnan(answer.score):
            tie = uniform(s.task_text[task], s.site_text[site])
            answer.score = answer.value + TIE * tie
    if a.score != b.score:
        return a.score < b.score
    if math.isnan(a.offer_usd):
        a.offer_usd = offer_of(s, one, task)
    if math.isnan(b.offer_usd):
        b.offer_usd = offer_of(s, other, task)
    if a.offer_usd != b.offer_usd:
        return a.offer_usd < b.offer_usd
    return one < other


@compiled
def offer_of(s: State, site: int, task: int) -> float:
    """Return the J of the bid that a site has made."""
    answer = s.bids[site]
    median_s = s.tasks[task].predicted_s / s.type_speed[s.sites[site].type]
    return offer_usd(
        s, site, task, median_s, answer.start_s, answer.transfer_usd, answer.network_gco2
    )


@compiled
def rank_of_start(
    s: State, site: int, task: int, rule: int, median_s: float, start_s: float
) -> float:
    """Return by what a policy that waits compares the starts of one site."""
    if rule == JOINT_LOOKAHEAD:
        answer = s.bids[site]
        return offer_usd(s, site, task, median_s, start_s, answer.transfer_usd, answer.network_gco2)
    return score(s, site, task, CARBON_GREEDY, median_s, start_s, 0)


@compiled
def later_start(
    s: State,
    site: int,
    task: int,
    first_s: float,
    latest_s: float,
    median_s: float,
    p50_s: float,
    count: int,
) -> float:
    """Return the start that a policy that waits chooses, of the earliest and those on the hour.

    `count` steps of the plan are laid out; none: whenever the task begins, there is room.
    """
    what, rule = s.tasks[task], s.g[0].rule
    best_s = first_s
    first_rank = rank_of_start(s, site, task, rule, median_s, first_s)
    best_rank = first_rank
    worth = first_rank - s.g[0].defer_saving * abs(first_rank)
    hour_s = (math.floor(first_s / HOUR_S) + 1) * HOUR_S
    last_s = first_s
    for k in range(HORIZON_H):
        at_s = hour_s + HOUR_S * k
        if at_s > latest_s:
            break
        start_s = at_s
        if count > 0:
            start_s = earliest_fit(s.times, s.free, count, what.gpu_count, p50_s, at_s)
        if start_s > latest_s or start_s == last_s:
            continue  # too late, or the same start again
        last_s = start_s
        rank = rank_of_start(s, site, task, rule, median_s, start_s)
        if rank >= best_rank:
            continue  # of equals the earlier one
        if rule == JOINT_LOOKAHEAD:
            late = late_probability(s, what.sigma, median_s, what.deadline_s - start_s)
            if rank > worth or late > s.g[0].defer_late:
                continue
        best_s, best_rank = start_s, rank
    return best_s
