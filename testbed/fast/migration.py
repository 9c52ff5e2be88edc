"""Copies ahead of need: the arithmetic of `site_agent.migration` and `policies.migrators`.

An offer is not remembered: it is `bids`, until the next auction. Wishes lie in the work arrays
`free` (what) and `times` (its worth), best first.
"""

import math

from gcos.accounting import G_PER_KG
from gcos.signals import HOUR_S
from site_agent.migration import DAY_S, PULL_COUNT_MAX
from testbed.fast.caches import (
    cache_of,
    decayed,
    expected_saving_usd,
    has,
    is_evictable,
    victims_of,
)
from testbed.fast.compiled import compiled
from testbed.fast.handle import handle_of
from testbed.fast.layout import FAILED_SLOTS, POPULARITY, REGRET, RESERVED, Floats, Ints, State
from testbed.fast.offers import cheapest
from testbed.fast.participant import need_of, transfer
from testbed.fast.plan import full_profile


@compiled
def without_fetches_usd(s: State, site: int) -> float:
    """Return the J of a site's bid had nothing been missing there."""
    answer = s.bids[site]
    carbon_usd = s.g[0].carbon_price * answer.network_gco2 / G_PER_KG
    return answer.offer_usd - answer.transfer_usd - carbon_usd


@compiled
def rejected(s: State, site: int, task: int) -> None:
    """Learn what a task went for that a site did not get, and pull what is worth it."""
    answer, top = s.bids[site], s.g[0]
    if not answer.fetch_bytes:
        return
    with_copies_usd = without_fetches_usd(s, site)
    if with_copies_usd > top.best_with_copies_usd:
        return
    fetches_usd = max(answer.part_usd[0], 0.0) + max(answer.part_usd[1], 0.0)
    saving_usd = s.tasks[task].winning_usd - with_copies_usd
    if saving_usd <= 0 or top.migrator != REGRET:
        return
    count = 0
    for part in range(2):
        price_usd = answer.part_usd[part]
        artifact = need_of(s, task, part)
        if price_usd < 0 or has(s, site, artifact):
            continue
        entry = s.entries[site, artifact]
        if entry.credit_usd:
            entry.credit_usd *= math.exp((entry.credit_at_s - top.now_s) / top.credit_s)
        entry.credit_usd += saving_usd * (price_usd / fetches_usd if fetches_usd > 0 else 1.0)
        entry.credit_at_s = top.now_s
        if entry.credit_usd >= top.regret_ratio * price_usd:
            count = _wish(s, count, artifact, entry.credit_usd)
    _grant(s, site, count)


@compiled
def look_around(s: State, site: int) -> None:
    """Pull what is used much elsewhere and not here."""
    top = s.g[0]
    if top.migrator != POPULARITY:
        return
    count = 0
    for artifact in range(top.artifact_count):
        entry = s.entries[site, artifact]
        uses = top.elsewhere_weight * entry.elsewhere
        if entry.is_known and uses >= top.popular_uses and not has(s, site, artifact):
            count = _wish(s, count, artifact, uses * entry.known_usd)
    _grant(s, site, count)


@compiled
def look(table: Ints, planned: Floats, uses: Floats, can_go: Ints) -> None:
    """Lay out planned GPUs, (n, h), expected uses and which copies may go, (n, m)."""
    s = handle_of(table)
    top = s.g[0]
    for site in range(top.site_count):
        here = s.sites[site]
        count = full_profile(s, site, top.now_s, -1)
        step = 0
        for hour in range(planned.shape[1]):
            middle_s = top.now_s + HOUR_S * (hour + 0.5)
            while step + 1 < count and s.times[step + 1] <= middle_s:
                step += 1
            planned[site, hour] = here.gpu_count - s.free[step]
        for artifact in range(top.artifact_count):
            entry = s.entries[site, artifact]
            own = decayed(entry.demand, entry.demand_at_s, here.demand_now_s)
            uses[site, artifact] = own + top.elsewhere_weight * entry.elsewhere
            can_go[site, artifact] = 1 if is_evictable(entry) else 0


@compiled
def begin_copy(table: Ints, site: int, artifact: int) -> None:
    """Pull a copy that the plan gives to a site, which has taken what it evicts off its worth."""
    s = handle_of(table)
    if has(s, site, artifact):
        return
    entry = s.entries[site, artifact]
    _, _, usd, gco2 = cheapest(s, artifact, site, s.g[0].now_s)
    entry.known_egress_usd, entry.known_gco2 = usd, gco2
    _grant(s, site, _wish(s, 0, artifact, math.inf))


@compiled
def pull_ended(s: State, site: int, artifact: int) -> None:
    """Take note that a pull has ended, well or not."""
    entry = s.entries[site, artifact]
    if entry.is_pulled:
        entry.is_pulled = 0
        s.sites[site].pull_count -= 1


@compiled
def _wish(s: State, count: int, artifact: int, worth_usd: float) -> int:
    """Put a wish into its place: by worth, of equals the lower id first."""
    at = count
    while at > 0 and (
        s.times[at - 1] < worth_usd or (s.times[at - 1] == worth_usd and s.free[at - 1] > artifact)
    ):
        s.times[at] = s.times[at - 1]
        s.free[at] = s.free[at - 1]
        at -= 1
    s.times[at] = worth_usd
    s.free[at] = artifact
    return count + 1


@compiled
def _grant(s: State, site: int, count: int) -> None:
    """Let wishes pass through the gate, all of them before the first is pulled."""
    here, now_s = s.sites[site], s.g[0].now_s
    granted = 0
    for k in range(count):
        artifact = s.free[k]
        entry = s.entries[site, artifact]
        if entry.is_pulled or entry.state == RESERVED or not _passes(s, site, artifact, s.times[k]):
            continue
        entry.is_pulled = 1
        here.pull_count += 1
        entry.credit_usd = 0.0
        if here.spent_count == s.spent.shape[1]:
            s.g[0].failure = FAILED_SLOTS
            return
        spent = s.spent[site, (here.spent_first + here.spent_count) % s.spent.shape[1]]
        here.spent_count += 1
        spent.at_s = now_s
        spent.bytes = float(s.artifacts[artifact].size_bytes)
        spent.usd, spent.gco2 = entry.known_egress_usd, entry.known_gco2
        s.free[granted] = artifact
        granted += 1
    for k in range(granted):
        artifact = s.free[k]
        is_reserved = s.entries[site, artifact].state == RESERVED
        if is_reserved or not transfer(s, site, artifact, -1):
            pull_ended(s, site, artifact)


@compiled
def _passes(s: State, site: int, artifact: int, worth_usd: float) -> bool:
    """Tell whether a copy fits, is worth more than what goes for it, and is within the budget."""
    size_bytes = s.artifacts[artifact].size_bytes
    cache = cache_of(s, artifact)
    is_too_large = size_bytes > s.caches[site, cache].capacity
    if s.sites[site].pull_count >= PULL_COUNT_MAX or is_too_large:
        return False
    count = victims_of(s, site, cache, size_bytes)
    if count < 0:
        return False
    lost_usd = 0.0
    for k in range(count):
        lost_usd += expected_saving_usd(s, site, s.order[k])
    return lost_usd < worth_usd and _is_within_budget(s, site, artifact)


@compiled
def _is_within_budget(s: State, site: int, artifact: int) -> bool:
    here, top = s.sites[site], s.g[0]
    slots = s.spent.shape[1]
    while here.spent_count and s.spent[site, here.spent_first].at_s <= top.now_s - DAY_S:
        here.spent_first = (here.spent_first + 1) % slots
        here.spent_count -= 1
    moved, usd, gco2 = 0.0, 0.0, 0.0
    for k in range(here.spent_count):
        spent = s.spent[site, (here.spent_first + k) % slots]
        moved += spent.bytes
        usd += spent.usd
        gco2 += spent.gco2
    entry = s.entries[site, artifact]
    return (
        moved + s.artifacts[artifact].size_bytes <= top.budget_bytes
        and usd + entry.known_egress_usd <= top.budget_usd
        and gco2 + entry.known_gco2 <= top.budget_gco2
    )
