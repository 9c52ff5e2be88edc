"""A learned bidder's features and score: `policies.features` and `policies.maccs.task_bidder`.

Beside what agents do, a run may explore for training: to each score Gumbel noise is added, so that
the highest one is a draw from their softmax, and what was seen and drawn is told.
"""

import math

import numpy as np

from gcos.accounting import G_PER_KG, S_PER_H
from policies.features import CLAMP, DAY_S, LEAST_CARBON, LEAST_PRICE, LEAST_USD
from policies.maccs.task_bidder import RESIDUAL_MAX, TAU
from testbed.fast.caches import decayed
from testbed.fast.compiled import compiled
from testbed.fast.layout import CARBON, PRICE, State
from testbed.fast.plan import INFINITE, committed_gpu_s, full_profile
from testbed.fast.signals import mean, value_at

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SITES = np.uint64(64)
_TOP_BITS = np.uint64(11)
_RANGE = 2.0**53


@compiled
def _log(value: float) -> float:
    return math.copysign(math.log1p(abs(value)), value)


@compiled
def _relative(value: float, yardstick: float, least: float) -> float:
    return _log(value / max(yardstick, least) - 1.0)


@compiled
def hear_cluster(s: State) -> None:
    """Take the means over all sites of their next 24 h, as announcements carry them for an hour."""
    top = s.g[0]
    price, carbon = 0.0, 0.0
    for site in range(top.site_count):
        until_s = top.now_s + DAY_S
        price += mean(s.issues, s.issued, s.issued_sum, PRICE, site, top.now_s, until_s)
        carbon += mean(s.issues, s.issued, s.issued_sum, CARBON, site, top.now_s, until_s)
    top.cluster_price = price / top.site_count
    top.cluster_carbon = carbon / top.site_count


@compiled
def reference_usd(s: State, task: int) -> float:
    """Return what all candidates of a task divide money by."""
    what, top = s.tasks[task], s.g[0]
    shortest_s = INFINITE
    for speed in s.type_speed:
        shortest_s = min(shortest_s, what.predicted_s / speed * s.quantile_ratio[what.sigma, 9])
    energy_kwh = what.gpu_count * shortest_s / S_PER_H
    price = max(top.cluster_price, LEAST_PRICE)
    carbon_kg = max(top.cluster_carbon, LEAST_CARBON) / G_PER_KG
    run_usd = energy_kwh * (price + top.carbon_price * carbon_kg)
    return max(run_usd + what.penalty_usd, LEAST_USD)


@compiled
def planned_gpu_s(s: State, site: int) -> float:
    """Return the GPU seconds of the next 24 h that the plan takes."""
    now_s = s.g[0].now_s
    until_s = now_s + DAY_S
    count = full_profile(s, site, now_s, -1)
    total = 0.0
    for k in range(count):
        end_s = s.times[k + 1] if k + 1 < count else INFINITE
        taken = s.sites[site].gpu_count - s.free[k]
        total += taken * max(0.0, min(end_s, until_s) - s.times[k])
    return total


@compiled
def see(s: State, site: int, task: int, reference: float) -> None:
    """Lay out the features of a bid, in the order of `policies.features.FEATURES`."""
    what, here, answer, top = s.tasks[task], s.sites[site], s.bids[site], s.g[0]
    now_s = top.now_s
    row = s.seen[site]
    median = what.predicted_s / s.type_speed[here.type]
    median_s = max(median * s.quantile_ratio[what.sigma, 9], 1.0)
    p90_s = median * s.quantile_ratio[what.sigma, 17]
    usd_per_g = top.carbon_price / G_PER_KG
    row[0] = _log(answer.offer_usd / reference)
    row[1] = _log(answer.energy_usd / reference)
    row[2] = _log(usd_per_g * answer.compute_gco2 / reference)
    row[3] = _log(answer.transfer_usd / reference)
    row[4] = _log(usd_per_g * answer.network_gco2 / reference)
    row[5] = _log(answer.gpu_usd / reference) if top.counts_gpu_hours else 0.0
    row[6] = _log(answer.penalty_usd / reference)
    row[7] = answer.late_probability
    row[8] = _log((answer.start_s - now_s) / median_s)
    row[9] = _log((what.deadline_s - answer.p50_finish_s) / median_s)
    row[10] = _log(p90_s / median_s - 1.0)
    row[11] = _log(answer.fetch_s / median_s)
    row[12] = what.gpu_count / here.gpu_count
    row[13] = planned_gpu_s(s, site) / (here.gpu_count * DAY_S)
    row[14] = _log(committed_gpu_s(s, site, now_s) / (here.gpu_count * DAY_S))
    row[15] = _log(here.queue_count / here.gpu_count)
    fetch_count, uses_here, uses_elsewhere = 0, 0.0, 0.0
    for part in range(2):
        if not answer.is_fetched[part]:
            continue
        artifact = what.model if part == 0 else what.data
        entry = s.entries[site, artifact]
        fetch_count += 1
        uses_here += decayed(entry.demand, entry.demand_at_s, here.demand_now_s)
        uses_elsewhere += entry.elsewhere
    needed_bytes = s.artifacts[what.model].size_bytes + s.artifacts[what.data].size_bytes
    row[16] = 1.0 - fetch_count / 2
    row[17] = answer.fetch_bytes / needed_bytes
    row[18] = _log(uses_here)
    row[19] = _log(uses_elsewhere)
    for kind in range(2):
        least = LEAST_PRICE if kind == PRICE else LEAST_CARBON
        every = top.cluster_price if kind == PRICE else top.cluster_carbon
        now = value_at(s.issues, s.issued, kind, site, now_s)
        day = mean(s.issues, s.issued, s.issued_sum, kind, site, now_s, now_s + DAY_S)
        row[20 + kind] = _relative(now, day, least)
        row[22 + kind] = _relative(day, every, least)
    for k in range(len(row)):
        row[k] = min(max(row[k], -CLAMP), CLAMP)


@compiled
def look(s: State, site: int) -> None:
    """Work out the first layer of a bid whose features are laid out."""
    row, first = s.seen[site], s.hidden_1[site]
    for i in range(len(first)):
        total = s.bias_1[i]
        for k in range(len(row)):
            scaled = (float(row[k]) - s.shift[k]) * s.gain[k]
            total += s.weight_1[i, k] * min(max(scaled, -CLAMP), CLAMP)
        first[i] = math.tanh(total)


@compiled
def pool(s: State) -> None:
    """Lay out mean and maximum of the first layers of all bids, for a network that sees all."""
    width = len(s.pooled) // 2
    for k in range(width):
        total, most, count = 0.0, -1.0, 0
        for site in range(s.g[0].site_count):
            if s.bids[site].is_bid:
                value = s.hidden_1[site, k]
                total += value
                most = max(most, value)
                count += 1
        s.pooled[k] = total / max(count, 1)
        s.pooled[width + k] = most


@compiled
def residual(s: State, site: int) -> float:
    """Return f of a bid whose first layer is there: `policies.maccs.task_network`."""
    first, second = s.hidden_1[site], s.hidden_2
    for i in range(len(second)):
        total = s.bias_2[i]
        for k in range(len(first)):
            total += s.weight_2[i, k] * first[k]
        for k in range(len(s.pooled)):
            total += s.weight_all[i, k] * s.pooled[k]
        second[i] = math.tanh(total)
    total = s.bias_3[0]
    for k in range(len(second)):
        total += s.weight_3[k] * second[k]
    return RESIDUAL_MAX * math.tanh(total)


@compiled
def gumbel(seed: int, count: int, site: int) -> float:
    """Return Gumbel noise that its arguments determine (splitmix64, Steele et al. 2014)."""
    word = np.uint64(seed) * _GOLDEN + np.uint64(count) * _SITES + np.uint64(site)
    for _ in range(2):
        word = word + _GOLDEN
        word = (word ^ (word >> np.uint64(30))) * _MIX_1
        word = (word ^ (word >> np.uint64(27))) * _MIX_2
        word = word ^ (word >> np.uint64(31))
    uniform = (float(word >> _TOP_BITS) + 0.5) / _RANGE
    return -math.log(-math.log(uniform))


@compiled
def correct(s: State, task: int) -> None:
    """Score all bids for a task; the lowest wins, and noise, where a run explores, is in it."""
    top = s.g[0]
    reference = reference_usd(s, task)
    for site in range(top.site_count):
        if s.bids[site].is_bid:
            see(s, site, task, reference)
            look(s, site)
    pool(s)
    for site in range(top.site_count):
        answer = s.bids[site]
        if not answer.is_bid:
            continue
        answer.base = answer.offer_usd / (TAU * reference)
        answer.value = answer.base
        if top.residual_scale > 0.0:
            answer.value = answer.base - top.residual_scale * residual(s, site)
        answer.plain = answer.value
        if top.temperature > 0.0:
            noise = gumbel(top.exploration_seed, top.auction_count, site)
            answer.value -= top.temperature * noise
        answer.score = answer.value


@compiled
def tell(s: State, task: int, best: int) -> None:
    """Write down an auction: what was seen, what was drawn, and how likely it was."""
    top = s.g[0]
    row = s.told[top.told_count]
    row.at_s, row.task, row.site = top.now_s, task, best
    row.reference_usd = reference_usd(s, task)
    highest = -INFINITE
    for site in range(top.site_count):
        if s.bids[site].is_bid:
            s.told_offers[top.told_count, site] = s.bids[site].base
            s.told_features[top.told_count, site] = s.seen[site]
            highest = max(highest, -s.bids[site].plain)
        else:
            s.told_offers[top.told_count, site] = INFINITE
    total = 0.0
    for site in range(top.site_count):
        if s.told_offers[top.told_count, site] < INFINITE:
            total += math.exp((-s.bids[site].plain - highest) / top.temperature)
    row.logprob = (-s.bids[best].plain - highest) / top.temperature - math.log(total)
    top.told_count += 1
