"""Caches and demand, as in `site_agent.cache`, `site_agent.demand` and `policies.evictors`.

Every site has two caches, or one that stands in the place of the first.
"""

import math
from typing import Any

import numpy as np

from policies.evictors import DEMAND_H
from site_agent.demand import DEMAND_S, RATE_H
from site_agent.participant import DEMAND_COUNT_MAX
from testbed.fast.books import charge_storage, line
from testbed.fast.compiled import compiled
from testbed.fast.layout import (
    ABSENT,
    COMPLETE,
    EVICT,
    GDSF,
    LFU,
    LRU,
    RATE_COUNT,
    RESERVED,
    State,
)


@compiled
def bit(site: int) -> np.uint64:
    """Return the bit that stands for a site."""
    return np.uint64(1) << np.uint64(site)


@compiled
def cache_of(s: State, artifact: int) -> int:
    """Return which of a site's caches an artifact belongs to."""
    return 0 if s.g[0].is_shared_cache else s.artifacts[artifact].kind


@compiled
def has(s: State, site: int, artifact: int) -> bool:
    """Tell whether the artifact is complete at a site, cached or at home."""
    return s.artifacts[artifact].home == site or s.entries[site, artifact].state == COMPLETE


@compiled
def decayed(count: float, at_s: float, now_s: float) -> float:
    """Return uses that were counted at `at_s`, as they count now."""
    return count * math.exp((at_s - now_s) / DEMAND_S) if count else 0.0


@compiled
def note_demand(s: State, site: int, artifact: int, now_s: float) -> None:
    """Count a use."""
    here = s.sites[site]
    here.demand_now_s = max(here.demand_now_s, now_s)
    entry = s.entries[site, artifact]
    age_h = (here.demand_now_s - entry.demand_at_s) / 3600.0
    for k in range(RATE_COUNT):
        count = entry.paces[k]
        entry.paces[k] = count * math.exp(-age_h / RATE_H[k]) + 1.0 if count else 1.0
    entry.demand = decayed(entry.demand, entry.demand_at_s, here.demand_now_s) + 1.0
    entry.demand_at_s = here.demand_now_s


@compiled
def expected_saving_usd(s: State, site: int, artifact: int) -> float:
    """Return the J that a copy has been saving, decayed as its demand is."""
    entry = s.entries[site, artifact]
    demand = decayed(entry.demand, entry.demand_at_s, s.sites[site].demand_now_s)
    return (demand + s.g[0].elsewhere_weight * entry.elsewhere) * entry.refetch_usd


@compiled
def rate_per_h(s: State, site: int, artifact: int) -> float:
    """Return the uses an hour at a site, the mean of estimates over `RATE_H`."""
    entry = s.entries[site, artifact]
    if entry.demand == 0.0:
        return 0.0
    age_h = (s.sites[site].demand_now_s - entry.demand_at_s) / 3600.0
    total = 0.0
    for k in range(RATE_COUNT):
        total += entry.paces[k] * math.exp(-age_h / RATE_H[k]) / RATE_H[k]
    return total / RATE_COUNT


@compiled
def worth(s: State, site: int, artifact: int) -> float:
    """Return what keeping a copy is worth to the evictor; the least goes first."""
    entry = s.entries[site, artifact]
    evictor = s.g[0].evictor
    if evictor == LRU:
        return entry.last_used_s
    if evictor == LFU:
        return float(entry.use_count)
    if evictor == GDSF:
        uses = max(1, entry.use_count)
        return entry.mark + uses * entry.refetch_usd / s.artifacts[artifact].size_bytes
    rate = rate_per_h(s, site, artifact) + s.g[0].elsewhere_weight * entry.elsewhere / DEMAND_H
    return rate * entry.refetch_usd / s.artifacts[artifact].size_bytes


@compiled
def mark(s: State, site: int, artifact: int) -> float:
    """Return what the evictor wants remembered with an item that is used now."""
    if s.g[0].evictor == GDSF:
        return s.caches[site, cache_of(s, artifact)].inflation
    return 0.0


@compiled
def is_evictable(entry: Any) -> bool:
    """Tell whether nothing protects a copy."""
    return bool(entry.state == COMPLETE and entry.pin_count == 0 and entry.reader_count == 0)


@compiled
def victims_of(s: State, site: int, cache: int, size_bytes: int) -> int:
    """Lay out in `order` what goes for this many bytes; return how many, or -1: they cannot fit."""
    known = s.caches[site, cache]
    lacking = size_bytes - (known.capacity - known.used)
    if lacking <= 0:
        return 0
    found = 0
    for artifact in range(s.g[0].artifact_count):
        if cache_of(s, artifact) != cache or not is_evictable(s.entries[site, artifact]):
            continue
        value = worth(s, site, artifact)
        used_s = s.entries[site, artifact].last_used_s
        # Of equals the one used longer ago goes first, then the lower id.
        at = found
        while at > 0 and (
            s.ends[at - 1] > value
            or (s.ends[at - 1] == value and s.entries[site, s.order[at - 1]].last_used_s > used_s)
        ):
            s.ends[at] = s.ends[at - 1]
            s.order[at] = s.order[at - 1]
            at -= 1
        s.ends[at] = value
        s.order[at] = artifact
        found += 1
    for k in range(found):
        lacking -= s.artifacts[s.order[k]].size_bytes
        if lacking <= 0:
            return k + 1
    return -1


@compiled
def evict(s: State, site: int, artifact: int, cache: int) -> None:
    """Take a copy out of the books."""
    known = s.caches[site, cache]
    if s.g[0].evictor == GDSF:
        known.inflation = max(known.inflation, worth(s, site, artifact))
    known.used -= s.artifacts[artifact].size_bytes
    known.evicted += s.artifacts[artifact].size_bytes
    s.entries[site, artifact].state = ABSENT


@compiled
def forget_copy(s: State, site: int, artifact: int) -> None:
    """Tell the books that a copy went."""
    now_s = s.g[0].now_s
    known = s.artifacts[artifact]
    known.holders = known.holders & ~bit(site)
    since_s, until_s = s.entries[site, artifact].copy_since_s, now_s
    if s.g[0].left_count == 0:  # storage ends with the last run
        until_s = max(s.g[0].last_end_s, since_s)
    charge_storage(s, artifact, since_s, until_s)
    line(s, EVICT, now_s, now_s, site, -1, artifact, -1, 0)


@compiled
def reserve(s: State, site: int, artifact: int) -> bool:
    """Promise an artifact its bytes and evict what must go; False: it cannot fit."""
    cache = cache_of(s, artifact)
    size_bytes = s.artifacts[artifact].size_bytes
    count = victims_of(s, site, cache, size_bytes)
    if count < 0:
        return False
    for k in range(count):
        evict(s, site, s.order[k], cache)
    entry = s.entries[site, artifact]
    entry.state = RESERVED
    entry.last_used_s = s.g[0].now_s
    entry.pin_count = 0
    entry.reader_count = 0
    entry.use_count = 0
    entry.refetch_usd = 0.0
    entry.mark = mark(s, site, artifact)
    s.caches[site, cache].used += size_bytes
    for k in range(count):
        forget_copy(s, site, s.order[k])
    return True


@compiled
def insert(s: State, site: int, artifact: int, since_s: float) -> None:
    """Turn a reservation into a complete copy."""
    entry = s.entries[site, artifact]
    entry.state = COMPLETE
    entry.copy_since_s = since_s
    known = s.artifacts[artifact]
    known.holders = known.holders | bit(site)


@compiled
def hit(s: State, site: int, artifact: int) -> None:
    """Note that a run uses an artifact that is complete here."""
    now_s = s.g[0].now_s
    note_demand(s, site, artifact, now_s)
    if s.artifacts[artifact].home != site:
        entry = s.entries[site, artifact]
        entry.last_used_s = max(entry.last_used_s, now_s)
        entry.use_count += 1
        entry.mark = mark(s, site, artifact)


@compiled
def share_demand(s: State) -> None:
    """Tell every site what is used elsewhere, as digests do."""
    site_count, artifact_count = s.g[0].site_count, s.g[0].artifact_count
    total = s.times
    total[:artifact_count] = 0.0
    for site in range(site_count):
        now_s = s.sites[site].demand_now_s
        found = 0
        for artifact in range(artifact_count):
            entry = s.entries[site, artifact]
            entry.elsewhere = 0.0
            if entry.demand == 0.0:
                continue
            value = decayed(entry.demand, entry.demand_at_s, now_s)
            at = found
            while at > 0 and s.ends[at - 1] < value:
                s.ends[at] = s.ends[at - 1]
                s.order[at] = s.order[at - 1]
                at -= 1
            s.ends[at] = value
            s.order[at] = artifact
            found += 1
        for k in range(min(found, DEMAND_COUNT_MAX)):
            # What is its own, until all have told theirs.
            s.entries[site, s.order[k]].elsewhere = s.ends[k]
            total[s.order[k]] += s.ends[k]
    for site in range(site_count):
        for artifact in range(artifact_count):
            entry = s.entries[site, artifact]
            entry.elsewhere = total[artifact] - entry.elsewhere
