"""Sites, caches and signals as tables. Pure."""

from collections.abc import Sequence

from gcos.cli.output import Table
from gcos.cli.quantities import HOUR_S, NOTHING, duration, instant, percentage, significant, size
from gcos.client_records import HourlySignal, SiteCache, SiteListing, SiteSignalsReading
from gcos.known_sites import KnownSite


def sites(listing: SiteListing) -> Table:
    """Return one row for each site."""
    return Table(
        (
            "SITE",
            "ZONE",
            "GPUS free/all",
            ">CO2 g/kWh",
            ">PRICE $/kWh",
            ">RUNS",
            ">ARTIFACTS",
            "STATE",
            "HEARD",
            "ADDRESS",
        ),
        tuple(_site(known) for known in listing.sites),
        optional=("ADDRESS", "HEARD", ">ARTIFACTS", "ZONE"),
    )


def cache_entries(caches: Sequence[SiteCache], *, now_s: float) -> Table:
    """Return one row for each artifact at each site."""
    return Table(
        ("SITE", "KIND", "NAME", ">SIZE", ">PINS", ">HITS", "LAST USED", "CUSTODIAN", "ID"),
        tuple(
            (
                cache.site_id,
                entry.artifact.kind.value.lower(),
                entry.artifact.name,
                size(entry.artifact.size_bytes),
                str(entry.pin_count),
                str(entry.hit_count),
                instant(entry.last_used_s or None, now_s),
                entry.artifact.custodian or NOTHING,
                _short_id(entry.artifact.artifact_id),
            )
            for cache in caches
            for entry in cache.entries
        ),
        optional=("ID", "LAST USED", ">HITS", ">PINS", "CUSTODIAN"),
    )


def cache_usages(caches: Sequence[SiteCache]) -> Table:
    """Return how full each cache is."""
    return Table(
        ("SITE", "CACHE", ">USED", ">RESERVED", ">CAPACITY", ">FULL %"),
        tuple(
            (
                cache.site_id,
                usage.kind.value.lower(),
                size(usage.occupied_bytes),
                size(usage.reserved_bytes),
                size(usage.capacity_bytes),
                percentage(usage.occupied_bytes / usage.capacity_bytes)
                if usage.capacity_bytes
                else NOTHING,
            )
            for cache in caches
            for usage in cache.usages
        ),
    )


def signals(readings: Sequence[SiteSignalsReading]) -> Table:
    """Return carbon intensity and price of each site, now and at their lowest to come."""
    return Table(
        (
            "SITE",
            "ZONE",
            ">CO2 g/kWh",
            "LOWEST CO2 TO COME",
            ">PRICE $/kWh",
            "LOWEST PRICE TO COME",
            "CARBON SIGNAL",
        ),
        tuple(
            (
                reading.site_id,
                reading.zone,
                _now(reading.carbon, reading.now_s),
                _lowest(reading.carbon, reading.now_s),
                _now(reading.price, reading.now_s),
                _lowest(reading.price, reading.now_s),
                _source(reading.carbon),
            )
            for reading in readings
        ),
        optional=("CARBON SIGNAL", "ZONE", "LOWEST PRICE TO COME"),
    )


def _site(known: KnownSite) -> tuple[str, ...]:
    digest = known.digest
    carbon = digest.carbon_gco2_per_kwh
    return (
        known.site.site_id,
        known.site.zone,
        ", ".join(f"{pool.free_count}/{pool.gpu_count} {pool.type}" for pool in digest.pools),
        NOTHING if carbon is None else significant(carbon),
        significant(digest.price_usd_per_kwh),
        str(digest.run_count),
        str(len(digest.holdings)),
        "draining" if digest.is_draining else "open",
        f"{duration(known.age_s)} ago",
        known.site.address,
    )


def _now(signal: HourlySignal | None, now_s: float) -> str:
    value = None if signal is None else _value_at(signal, now_s)
    return NOTHING if value is None else significant(value)


def _lowest(signal: HourlySignal | None, now_s: float) -> str:
    if signal is None or not signal.values:
        return NOTHING
    index = min(range(len(signal.values)), key=signal.values.__getitem__)
    start_s = max(signal.start_s + index * HOUR_S, now_s)
    return f"{significant(signal.values[index])} at {instant(start_s, now_s)}"


def _source(signal: HourlySignal | None) -> str:
    if signal is None:
        return "missing or stale: placed by cost alone"
    said = signal.provenance
    words = [said.kind.value if said.kind else "", said.factor.value if said.factor else ""]
    words += ["estimated" if said.is_estimated else "", f"from {said.source}"]
    return " ".join(word for word in words if word)


def _value_at(signal: HourlySignal, now_s: float) -> float | None:
    index = int((now_s - signal.start_s) // HOUR_S)
    return signal.values[index] if 0 <= index < len(signal.values) else None


def _short_id(artifact_id: str) -> str:
    return artifact_id[: len("sha256:") + 12]
