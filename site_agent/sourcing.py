"""From where to fetch what is missing: the cheapest source by J, then the faster one. Pure.

For an artifact of b bytes from source s to here, egress x($/GB) and network energy kappa(kWh/GB):

    J(s) = b x(s, here) + lambda b kappa (c_s + c_here) / 2        (DESIGN section 5)
"""

from collections.abc import Callable, Iterable
from functools import lru_cache

from gcos.accounting import Charge, transfer_charge
from gcos.contract_net import ArtifactNeed, Fetch, Holder, Terms
from gcos.ids import SiteId
from gcos.signals import StepSeries
from gcos.sites import Link

Links = Callable[[str, str], Link]
"""The link from one electricity zone to another."""


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
) -> tuple[Fetch, Charge] | None:
    """Return the best way to bring `need` here and what it costs; None where nobody else has it."""
    best: tuple[tuple[float, float, str], Fetch, Charge] | None = None
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
        joint = charge.joint_usd(terms.scope, terms.carbon_price_usd_per_kg)
        fetch = Fetch(
            artifact_id=need.artifact_id,
            name=need.name,
            size_bytes=need.size_bytes,
            source=holder,
            duration_s=duration_s,
            cost_usd=charge.transfer_usd,
            carbon_gco2=charge.network_gco2,
        )
        key = (joint, duration_s, holder.site_id)
        if best is None or key < best[0]:
            best = (key, fetch, charge)
    return None if best is None else best[1:]


def total_duration_s(fetches: Iterable[Fetch]) -> float:
    """Return the world seconds of fetching one after the other over the site's one downlink."""
    return sum(fetch.duration_s for fetch in fetches)
