"""Small tables of facts, so that GCOS runs offline on a fresh machine.

Each CSV file opens with `#` lines that say what it holds; `SOURCES.md` states source, licence and
change of each. `python -m testbed.tables` recomputes them. Carbon profiles are under the ODbL.
"""

import csv
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from gcos.accounting import BYTES_PER_GB
from gcos.errors import NotFoundError
from gcos.signals import HOURS_A_DAY, MONTHS, DayProfile

#: Two sites in one zone: as between availability zones of one cloud region (assumed; rate and
#: egress as in testbed/scenarios/default.toml, [network]).
SAME_ZONE_RTT_S: Final = 0.001
SAME_ZONE_GBPS: Final = 4.0
SAME_ZONE_EGRESS_USD_PER_GB: Final = 0.02

_BYTES_PER_GBIT: Final = 1e9 / 8


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """A default site of a zone.

    Attributes:
        site_id: Short name.
        name: What people call the place.
        zone: Electricity zone.
        continent: AF, AS, EU, NA (North America), OC or SA.
        lat: Latitude of the usual data-center town, degrees.
        lon: Its longitude, degrees.
        hardware: Row of `hardware()`.
        gpu_count: GPUs of the site in a local cluster.
        pue: Power usage effectiveness.
    """

    site_id: str
    name: str
    zone: str
    continent: str
    lat: float
    lon: float
    hardware: str
    gpu_count: int
    pue: float


@dataclass(frozen=True, slots=True)
class HardwareFacts:
    """A row of hardware; every figure is assumed.

    Attributes:
        name: `large`, `medium` or `small`.
        gpu_type: Label of the GPU type.
        speed_ratio: Work per hour relative to `large`.
        active_kw: Power of one busy GPU with its share of the host, kW.
        idle_kw: Power of one idle GPU with its share of the host, kW.
        usd_per_gpu_h: Price of one GPU hour, $.
        memory_bytes: Memory of one GPU.
    """

    name: str
    gpu_type: str
    speed_ratio: float
    active_kw: float
    idle_kw: float
    usd_per_gpu_h: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """A directed link between two zones.

    Attributes:
        rtt_s: Round-trip time.
        bytes_per_s: Rate of a bulk transfer.
        egress_usd_per_gb: List price of leaving the source, $ per 1e9 bytes.
        is_measured: Round-trip time and rate were measured between cloud regions; else they are
            estimated from distance and continent.
    """

    rtt_s: float
    bytes_per_s: float
    egress_usd_per_gb: float
    is_measured: bool


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """A GPU type by its data sheet.

    Attributes:
        name: Type.
        tdp_watts: Power limit of the board.
        memory_bytes: Memory.
        source: Address or name of the data sheet.
    """

    name: str
    tdp_watts: float
    memory_bytes: int
    source: str


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A language model.

    Attributes:
        name: Name and tag in the Ollama library.
        parameters_b: Parameters, billions.
        size_bytes: Size of the default tag.
    """

    name: str
    parameters_b: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DataSetFacts:
    """A public data set.

    Attributes:
        name: What it is called.
        size_bytes: Its size.
        is_estimated: The size is estimated from a stated count of tokens or examples.
        url: Where it is.
    """

    name: str
    size_bytes: int
    is_estimated: bool
    url: str


@dataclass(frozen=True, slots=True)
class SpikeFacts:
    """What the price profile of a zone leaves out.

    Attributes:
        threshold_usd_per_kwh: Dearer hours are spikes.
        mean_with_spikes_usd_per_kwh: Mean over all hours.
        mean_without_spikes_usd_per_kwh: Mean over the others.
        max_usd_per_kwh: The dearest hour.
        spike_hours: Hours left out.
        hours: All hours.
    """

    threshold_usd_per_kwh: float
    mean_with_spikes_usd_per_kwh: float
    mean_without_spikes_usd_per_kwh: float
    max_usd_per_kwh: float
    spike_hours: int
    hours: int


def zones() -> tuple[str, ...]:
    """Return the zones of every table, in the order of the default sites."""
    return tuple(site.zone for site in default_sites().values())


def carbon_profile(zone: str) -> DayProfile:
    """Return typical days of lifecycle carbon intensity, gCO2/kWh.

    Raises:
        NotFoundError: the tables do not hold `zone`.
    """
    return _profile("carbon_profiles.csv", zone)


def price_profile(zone: str) -> DayProfile:
    """Return typical days of the wholesale price, $/kWh, without the spikes of `price_spikes`.

    Raises:
        NotFoundError: the tables do not hold `zone`.
    """
    return _profile("price_profiles.csv", zone)


def price_spikes(zone: str) -> SpikeFacts:
    """Return which hours `price_profile` leaves out.

    Raises:
        NotFoundError: the tables do not hold `zone`.
    """
    rows = {row["zone"]: row for row in _rows("price_spikes.csv")}
    if zone not in rows:
        raise _unknown_zone(zone)
    row = rows[zone]
    return SpikeFacts(
        threshold_usd_per_kwh=float(row["threshold_usd_per_kwh"]),
        mean_with_spikes_usd_per_kwh=float(row["mean_with_spikes_usd_per_kwh"]),
        mean_without_spikes_usd_per_kwh=float(row["mean_without_spikes_usd_per_kwh"]),
        max_usd_per_kwh=float(row["max_usd_per_kwh"]),
        spike_hours=int(row["spike_hours"]),
        hours=int(row["hours"]),
    )


@cache
def default_sites() -> Mapping[str, SiteFacts]:
    """Return the default sites by site id."""
    return MappingProxyType(
        {
            row["site_id"]: SiteFacts(
                site_id=row["site_id"],
                name=row["name"],
                zone=row["zone"],
                continent=row["continent"],
                lat=float(row["lat"]),
                lon=float(row["lon"]),
                hardware=row["hardware"],
                gpu_count=int(row["gpu_count"]),
                pue=float(row["pue"]),
            )
            for row in _rows("sites.csv")
        }
    )


@cache
def hardware() -> Mapping[str, HardwareFacts]:
    """Return the rows of hardware by name."""
    return MappingProxyType(
        {
            row["name"]: HardwareFacts(
                name=row["name"],
                gpu_type=row["gpu_type"],
                speed_ratio=float(row["speed_ratio"]),
                active_kw=float(row["active_kw"]),
                idle_kw=float(row["idle_kw"]),
                usd_per_gpu_h=float(row["usd_per_gpu_h"]),
                memory_bytes=_gigabytes(row["memory_gb"]),
            )
            for row in _rows("hardware.csv")
        }
    )


def link(src_zone: str, dst_zone: str) -> LinkFacts:
    """Return the link from a site in `src_zone` to another in `dst_zone`, maybe the same zone.

    Raises:
        NotFoundError: the tables do not hold one of them.
    """
    for zone in (src_zone, dst_zone):
        if zone not in zones():
            raise _unknown_zone(zone)
    if src_zone == dst_zone:
        return LinkFacts(
            rtt_s=SAME_ZONE_RTT_S,
            bytes_per_s=SAME_ZONE_GBPS * _BYTES_PER_GBIT,
            egress_usd_per_gb=SAME_ZONE_EGRESS_USD_PER_GB,
            is_measured=False,
        )
    return _links()[src_zone, dst_zone]


@cache
def gpu_types() -> tuple[GpuFacts, ...]:
    """Return GPU types that servers hold, by their data sheets."""
    return tuple(
        GpuFacts(
            name=row["name"],
            tdp_watts=float(row["tdp_watts"]),
            memory_bytes=_gigabytes(row["memory_gb"]),
            source=row["source"],
        )
        for row in _rows("gpu_types.csv")
    )


@cache
def models() -> tuple[ModelFacts, ...]:
    """Return some sixty language models, small to large."""
    return tuple(
        ModelFacts(
            name=row["name"],
            parameters_b=float(row["parameters_b"]),
            size_bytes=int(row["size_bytes"]),
        )
        for row in _rows("models.csv")
    )


@cache
def data_sets() -> tuple[DataSetFacts, ...]:
    """Return some thirty public data sets, small to large."""
    return tuple(
        DataSetFacts(
            name=row["name"],
            size_bytes=int(row["size_bytes"]),
            is_estimated=row["basis"] == "estimated",
            url=row["url"],
        )
        for row in _rows("data_sets.csv")
    )


@cache
def _links() -> Mapping[tuple[str, str], LinkFacts]:
    return {
        (row["src_zone"], row["dst_zone"]): LinkFacts(
            rtt_s=float(row["rtt_ms"]) / 1000,
            bytes_per_s=float(row["gbps"]) * _BYTES_PER_GBIT,
            egress_usd_per_gb=float(row["egress_usd_per_gb"]),
            is_measured=row["basis"] == "measured",
        )
        for row in _rows("links.csv")
    }


@cache
def _profile(file: str, zone: str) -> DayProfile:
    """Return the profile of one zone; the lines of others are not even split, as agents start."""
    table: dict[str, list[list[float]]] = {"mean": [], "std": []}
    for row in _rows(file, first_column=zone):
        months = table[row["statistic"]]
        months.append([float(row[f"h{hour:02d}"]) for hour in range(HOURS_A_DAY)])
        assert int(row["month"]) == len(months) <= MONTHS, f"{file}: months out of order"
    if not table["mean"]:
        raise _unknown_zone(zone)
    return DayProfile(zone, mean=np.array(table["mean"]), std=np.array(table["std"]))


def _unknown_zone(zone: str) -> NotFoundError:
    known = {name.upper(): name for name in zones()}
    near = difflib.get_close_matches(zone.upper(), known, n=3, cutoff=0.4)
    names = [known[name] for name in near] or list(zones())
    return NotFoundError(
        f"zone {zone!r} is not in the embedded tables", hint=f"nearest: {', '.join(names)}"
    )


def _rows(file: str, *, first_column: str | None = None) -> list[dict[str, str]]:
    """Return the rows of a table, or those that begin with `first_column`."""
    text = (Path(__file__).parent / file).read_text(encoding="utf-8")
    header, *lines = [line for line in text.splitlines() if not line.startswith("#")]
    if first_column is not None:
        lines = [line for line in lines if line.startswith(f"{first_column},")]
    return list(csv.DictReader([header, *lines]))


def _gigabytes(text: str) -> int:
    return round(float(text) * BYTES_PER_GB)
