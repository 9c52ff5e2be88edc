"""Sites and signals as tables. Pure."""

from collections.abc import Sequence
from typing import Final

from gcos.cli.output import Table
from gcos.cli.quantities import HOUR_S, NOTHING, duration, instant, significant
from gcos.client_records import HourlySignal, SiteListing, SiteSignalsReading
from gcos.known_sites import KnownSite

#: A site that is not heard of for so long, protocol seconds, is told as silent: three beats of two
#: seconds, after which the broker drops it. What it said last is then no news of its present.
SILENT_AFTER_S: Final = 6.0


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
        tuple(_site(known, is_fresh=listing.is_fresh) for known in listing.sites),
        optional=("ADDRESS", "HEARD", ">ARTIFACTS", "ZONE"),
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


def is_silent(known: KnownSite) -> bool:
    """Tell whether a site has missed so many beats that its figures are none any more."""
    return known.age_s > SILENT_AFTER_S


def load(known: KnownSite, *, is_away: bool = False) -> tuple[str, str, str, str]:
    """Return free GPUs, carbon intensity, price and runs; `-` where they are out of date.

    Args:
        known: The site as it was last heard.
        is_away: It was asked just now and did not answer.
    """
    digest = known.digest
    if is_away or is_silent(known):
        gpus = ", ".join(f"{NOTHING}/{pool.gpu_count} {pool.type}" for pool in digest.pools)
        return gpus, NOTHING, NOTHING, NOTHING
    carbon = digest.carbon_gco2_per_kwh
    return (
        ", ".join(f"{pool.free_count}/{pool.gpu_count} {pool.type}" for pool in digest.pools),
        NOTHING if carbon is None else significant(carbon),
        significant(digest.price_usd_per_kwh),
        str(digest.run_count),
    )


def standing(known: KnownSite, *, is_away: bool = False, is_fresh: bool = True) -> str:
    """Return whether a site takes work, or for how long it has been silent.

    Args:
        known: The site as it was last heard.
        is_away: It was asked just now and did not answer.
        is_fresh: A broker answers: else a site is not heard of, whether it is silent or not.
    """
    if is_fresh and is_silent(known):
        return f"silent {duration(known.age_s)}"
    if is_away:
        return "no answer"
    if is_silent(known):
        return "not known"
    return "draining" if known.digest.is_draining else "open"


def heard(known: KnownSite) -> str:
    """Return how long ago a site was heard."""
    return f"{duration(known.age_s)} ago"


def _site(known: KnownSite, *, is_fresh: bool) -> tuple[str, ...]:
    return (
        known.site.site_id,
        known.site.zone,
        *load(known),
        NOTHING if is_silent(known) else str(len(known.digest.holdings)),
        standing(known, is_fresh=is_fresh),
        heard(known),
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
