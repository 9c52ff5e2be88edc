"""From where to fetch what is missing: by money, grams and seconds in one sum. Pure.

For an artifact of b bytes from source s to here, egress x($/GB), network energy kappa(kWh/GB) and
w, what an hour of waiting for bytes is worth to this site ($/h):

    J(s) = b x(s, here) + lambda b kappa (c_s + c_here) / 2        (DESIGN section 5)
    score(S) = sum of J(s) B_s / B  +  w (max rtt_s + b / B),      B = sum of B_s over S

A set S of sources that deliver together shares the bytes in proportion to the rates B_s of their
links. One source alone is taken as {s}. The offer J of a site has no term in w: there, waiting
counts as a later start. w only chooses sources.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from gcos.accounting import S_PER_H, Charge, transfer_charge
from gcos.artifacts import CHUNK_BYTES
from gcos.contract_net import ArtifactNeed, Fetch, Holder, Terms
from gcos.ids import SiteId
from gcos.signals import StepSeries
from gcos.sites import Link

Links = Callable[[str, str], Link]
"""The link from one electricity zone to another."""

SOURCES_AT_ONCE_MAX: Final = 4
"""Holders asked together: each further one adds less, and connections of its own."""

SHARED_BYTES_MIN: Final = 16 * CHUNK_BYTES
"""What is smaller is here before a second holder has answered."""


@lru_cache(maxsize=4096)
def constant_carbon(intensity_gco2_per_kwh: float | None) -> StepSeries | None:
    """Return a holder's last known intensity as a series; None where unknown."""
    if intensity_gco2_per_kwh is None:
        return None
    return StepSeries.constant(intensity_gco2_per_kwh)


def charge_of_fetch(
    size_bytes: int,
    source: Holder,
    link: Link,
    *,
    terms: Terms,
    carbon_here: StepSeries | None,
    byte_ratio: float,
    start_s: float,
    end_s: float,
) -> Charge:
    """Return what bringing `size_bytes` stored bytes from `source` costs.

    Args:
        size_bytes: Bytes on disk.
        source: From where.
        link: The link from there to here.
        terms: Kappa.
        carbon_here: Intensity at this site, gCO2/kWh; None: unknown.
        byte_ratio: World bytes that a stored byte stands for.
        start_s: World instant of the start.
        end_s: World instant of the end.
    """
    return transfer_charge(
        round(size_bytes * byte_ratio),
        egress_usd_per_gb=link.egress_usd_per_gb,
        network_kwh_per_gb=terms.network_kwh_per_gb,
        carbon_src=constant_carbon(source.carbon_gco2_per_kwh),
        carbon_dst=carbon_here,
        start_s=start_s,
        end_s=end_s,
    )


def cheapest_fetch(
    need: ArtifactNeed,
    *,
    here: SiteId,
    zone: str,
    links: Links,
    terms: Terms,
    carbon_here: StepSeries | None,
    byte_ratio: float,
    now_s: float,
    wait_usd_per_h: float = 0.0,
) -> tuple[Fetch, Charge] | None:
    """Return the best way to bring `need` here from one holder; None where nobody else has it.

    Of holders with equal scores it is the faster one, then that of the lower id.

    Args:
        need: What, and who has it.
        here: This site, which is no source.
        zone: Its electricity zone.
        links: Links between zones.
        terms: Lambda, kappa and what counts as cost.
        carbon_here: Intensity at this site, gCO2/kWh; None: unknown.
        byte_ratio: World bytes that a stored byte stands for.
        now_s: World instant.
        wait_usd_per_h: w above.
    """
    ways = _ways(
        need,
        here=here,
        zone=zone,
        links=links,
        terms=terms,
        carbon_here=carbon_here,
        byte_ratio=byte_ratio,
        now_s=now_s,
    )
    if not ways:
        return None
    best = min(ways, key=lambda way: way.rank(wait_usd_per_h))
    return best.fetch, best.charge


def sources_together(
    need: ArtifactNeed,
    *,
    here: SiteId,
    zone: str,
    links: Links,
    terms: Terms,
    carbon_here: StepSeries | None,
    byte_ratio: float,
    now_s: float,
    wait_usd_per_h: float,
) -> tuple[Holder, ...]:
    """Return whom to ask at the same time, the best alone first; nobody where nobody has it.

    A holder joins while that lowers the score: where a second of waiting is worth more than what
    its share costs beyond that of the others. Arguments are those of `cheapest_fetch`.
    """
    ways = _ways(
        need,
        here=here,
        zone=zone,
        links=links,
        terms=terms,
        carbon_here=carbon_here,
        byte_ratio=byte_ratio,
        now_s=now_s,
    )
    ways.sort(key=lambda way: way.rank(wait_usd_per_h))
    chosen = ways[:1]
    if need.size_bytes < SHARED_BYTES_MIN:
        return tuple(way.fetch.source for way in chosen)
    world_bytes = need.size_bytes * byte_ratio
    for way in ways[1:]:
        if len(chosen) == SOURCES_AT_ONCE_MAX:
            break
        more = [*chosen, way]
        if _score(more, world_bytes, wait_usd_per_h) < _score(chosen, world_bytes, wait_usd_per_h):
            chosen = more
    return tuple(way.fetch.source for way in chosen)


def total_duration_s(fetches: Iterable[Fetch]) -> float:
    """Return the world seconds of fetching one after the other over the site's one downlink."""
    return sum(fetch.duration_s for fetch in fetches)


@dataclass(frozen=True, slots=True)
class _Way:
    """Everything from one holder."""

    fetch: Fetch
    charge: Charge
    link: Link
    joint_usd: float

    def rank(self, wait_usd_per_h: float) -> tuple[float, float, SiteId]:
        wait_usd = wait_usd_per_h * self.fetch.duration_s / S_PER_H
        return self.joint_usd + wait_usd, self.fetch.duration_s, self.fetch.source.site_id


def _ways(
    need: ArtifactNeed,
    *,
    here: SiteId,
    zone: str,
    links: Links,
    terms: Terms,
    carbon_here: StepSeries | None,
    byte_ratio: float,
    now_s: float,
) -> list[_Way]:
    ways = []
    for holder in need.holders:
        if holder.site_id == here:
            continue
        link = links(holder.zone, zone)
        duration_s = link.rtt_s + need.size_bytes * byte_ratio / link.bytes_per_s
        charge = charge_of_fetch(
            need.size_bytes,
            holder,
            link,
            terms=terms,
            carbon_here=carbon_here,
            byte_ratio=byte_ratio,
            start_s=now_s,
            end_s=now_s + duration_s,
        )
        fetch = Fetch(
            artifact_id=need.artifact_id,
            name=need.name,
            size_bytes=need.size_bytes,
            source=holder,
            duration_s=duration_s,
            cost_usd=charge.transfer_usd,
            carbon_gco2=charge.network_gco2,
        )
        joint_usd = charge.joint_usd(terms.scope, terms.carbon_price_usd_per_kg)
        ways.append(_Way(fetch, charge, link, joint_usd))
    return ways


def _score(ways: Sequence[_Way], world_bytes: float, wait_usd_per_h: float) -> float:
    """Return what delivering together costs, $; waiting included."""
    rate = sum(way.link.bytes_per_s for way in ways)
    joint_usd = sum(way.joint_usd * way.link.bytes_per_s / rate for way in ways)
    duration_s = max(way.link.rtt_s for way in ways) + world_bytes / rate
    return joint_usd + wait_usd_per_h * duration_s / S_PER_H
