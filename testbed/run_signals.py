"""Price and carbon of each site over a run, and what a reader must know of them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gcos.ids import SiteId
from gcos.signals import HOUR_S, EmissionFactor, StepSeries
from testbed.scenarios.records import Scenario
from testbed.world import Hourly, World

#: Signals go on for so long after the measured window. Most tasks have ended by then, and the last
#: value holds for the others (DESIGN section 10).
DRAIN_H: Final = 96


@dataclass(frozen=True, slots=True, eq=False)
class RunSignals:
    """The signals of a run.

    Attributes:
        price: $/kWh at each site, adder included.
        carbon: gCO2/kWh at each site.
        notes: Where they come from, and which hours are estimated, interpolated or synthetic.
    """

    price: Mapping[SiteId, StepSeries]
    carbon: Mapping[SiteId, StepSeries]
    notes: tuple[str, ...]


def run_signals(scenario: Scenario, world: World, start_s: float) -> RunSignals:
    """Return the signals from `start_s`, a UTC hour, to `DRAIN_H` after the measured window.

    Raises:
        NotFoundError: The world does not cover a zone or an hour; the message names them.
    """
    hours = scenario.warmup_h + scenario.measure_h + DRAIN_H
    factor = EmissionFactor(scenario.signals.carbon)
    flat = scenario.signals.flat_carbon_gco2_per_kwh
    price_by_zone = {zone: world.price(zone, start_s, hours) for zone in scenario.zones}
    carbon_by_zone = {
        zone: world.carbon(zone, factor, start_s, hours)
        for zone in sorted({site.zone for site in scenario.all_sites if site.id not in flat})
    }
    adder = scenario.signals.price_adder_usd_per_kwh
    price = {
        SiteId(site.id): StepSeries(start_s, HOUR_S, price_by_zone[site.zone].values + adder)
        for site in scenario.all_sites
    }
    carbon = {
        SiteId(site.id): StepSeries.constant(flat[site.id])
        if site.id in flat
        else StepSeries(start_s, HOUR_S, carbon_by_zone[site.zone].values)
        for site in scenario.all_sites
    }
    notes = [f"synthetic carbon at {name}: {flat[name]:g} g/kWh at all times" for name in flat]
    notes += _notes("carbon", carbon_by_zone) + _notes("price", price_by_zone)
    return RunSignals(price, carbon=carbon, notes=tuple(notes))


def _notes(what: str, found: Mapping[str, Hourly]) -> list[str]:
    """Return sources, and which zones are estimated or interpolated."""
    sources: dict[str, list[str]] = {}
    for zone, signal in found.items():
        sources.setdefault(signal.source, []).append(zone)
    notes = [
        f"{what}: {source}" + (f" ({', '.join(zones)})" if len(sources) > 1 else "")
        for source, zones in sources.items()
    ]
    estimated = [zone for zone, signal in found.items() if signal.is_estimated]
    if estimated:
        notes.append(f"{what} is estimated at least in part: {', '.join(estimated)}")
    for zone, signal in found.items():
        if signal.interpolated_count:
            notes.append(f"{what} of {zone}: {signal.interpolated_count} h interpolated")
    return notes
