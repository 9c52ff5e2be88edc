"""A scenario as frozen records, one for each table of its TOML file. Pure.

Field names are the keys of the file, units at their end; README.md beside this module tells what
each means and where its value comes from. Rules that are written as sentences must read exactly as
the generator implements them, except for numbers that a rule's pattern lets through.
"""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gcos.accounting import CostScope
from gcos.errors import InvalidRequestError
from gcos.ids import is_site_id
from testbed.sim.instance import Faults

#: Largest number of GPUs that the rule in `workload.gpus` asks for.
TASK_GPU_COUNT_MAX: Final = 8
#: Minima that a tuning task draws from.
TUNING_GPU_MINIMA: Final = (1, 2, 4)
#: What policies are told of run times: median and spread, the median alone, or for each task the
#: median of all.
PREDICTIONS: Final = ("distribution", "point", "none")
GPU_MEMORY_GB: Final = 70.0
MEMORY_HEADROOM_RATIO: Final = 1.15

#: More of what is repeated until it succeeds would make a run last for ever.
FAULT_RATIO_MAX: Final = 0.9
CRASH_PER_H_MAX: Final = 1.0

_GPU_RULE: Final = (
    "smallest power of two with 70 GB x g >= 1.15 x model size, at most 8; "
    "tuning also draws 1, 2 or 4 as a minimum"
)
_RULES: Final = {
    "signals.carbon": ("lifecycle", "direct"),
    "signals.price": ("price_usd_per_mwh",),
    "network.egress": ("zone_network.csv",),
    "catalogue.home": ("uniform",),
    "workload.origin": ("half at the data set's home, half by a Dirichlet(4) draw over sites",),
    "workload.arrivals": ("inhomogeneous: 0.55 + 0.45 cos(2 pi (local hour - 14) / 24)",),
    "workload.gpus": (_GPU_RULE,),
    "workload.deadline": ("arrival + 1.3 x predicted work / median speed + slack",),
}
_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"
_PENALTY: Final = re.compile(
    rf"(?:(?P<constant>{_NUMBER}) \+ )?(?P<per_gpu_h>{_NUMBER}) x GPU hours"
)


def _refuse(name: str, problem: str, hint: str = "") -> InvalidRequestError:
    return InvalidRequestError(f"{name}: {problem}", field=name, hint=hint)


def _check_rule(name: str, text: str) -> None:
    allowed = _RULES[name]
    if text not in allowed:
        known = " or ".join(f'"{rule}"' for rule in allowed)
        raise _refuse(name, f"{text!r} is not a rule that is implemented", hint=f"write {known}")


def _check_numbers(
    table: str,
    record: object,
    *,
    above_0: Iterable[str] = (),
    from_0: Iterable[str] = (),
    finite: Iterable[str] = (),
) -> None:
    """Refuse NaN, infinities and numbers out of their range."""
    above, least = set(above_0), set(from_0)
    for name in (*above_0, *from_0, *finite):
        value = getattr(record, name)
        if not math.isfinite(value):
            raise _refuse(f"{table}{name}", f"{value} is not a finite number")
        if name in above and value <= 0:
            raise _refuse(f"{table}{name}", f"{value} is not above 0")
        if name in least and value < 0:
            raise _refuse(f"{table}{name}", f"{value} is below 0")


def _check_range(name: str, low: float, high: float, *, least: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and least <= low <= high):
        raise _refuse(name, f"[{low}, {high}] is no range of numbers from {least:g} up")


@dataclass(frozen=True, slots=True)
class Signals:
    """Table `signals`."""

    carbon: str
    price: str
    price_adder_usd_per_kwh: float
    forecast_error: float
    flat_carbon_gco2_per_kwh: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_rule("signals.carbon", self.carbon)
        _check_rule("signals.price", self.price)
        _check_numbers(
            "signals.", self, from_0=["forecast_error"], finite=["price_adder_usd_per_kwh"]
        )
        for site_id, value in self.flat_carbon_gco2_per_kwh.items():
            if not (math.isfinite(value) and value >= 0):
                name = f"signals.flat_carbon_gco2_per_kwh.{site_id}"
                raise _refuse(name, f"{value} is no intensity")


@dataclass(frozen=True, slots=True)
class Hardware:
    """Table `hardware.NAME`: a type of GPU with its share of the host."""

    speed: float
    active_kw: float
    idle_kw: float
    usd_per_gpu_h: float

    def __post_init__(self) -> None:
        _check_numbers(
            "hardware.", self, above_0=["speed", "active_kw"], from_0=["idle_kw", "usd_per_gpu_h"]
        )


@dataclass(frozen=True, slots=True)
class Caches:
    """Table `caches`: capacities at each site, GB of 1e9 bytes; 0: no such cache."""

    model_gb: float
    data_gb: float

    def __post_init__(self) -> None:
        _check_numbers("caches.", self, from_0=["model_gb", "data_gb"])


@dataclass(frozen=True, slots=True)
class Network:
    """Table `network`: links between sites."""

    same_continent_gbps: float
    other_gbps: float
    egress: str
    shared_bandwidth: bool
    egress_factor: float = 1.0
    bandwidth_factor: float = 1.0

    def __post_init__(self) -> None:
        _check_rule("network.egress", self.egress)
        _check_numbers(
            "network.",
            self,
            above_0=["same_continent_gbps", "other_gbps", "bandwidth_factor"],
            from_0=["egress_factor"],
        )


@dataclass(frozen=True, slots=True)
class SitePlan:
    """An entry of `site` or `add_sites`.

    Attributes:
        id: Short name.
        zone: Electricity zone.
        hardware: Which table of `hardware`.
        gpus: Number of GPUs.
        pue: Facility energy over IT energy.
        timezone: IANA name; empty: that of the zone (`testbed.scenarios.time_zones`).
    """

    id: str
    zone: str
    hardware: str
    gpus: int
    pue: float
    timezone: str = ""

    def __post_init__(self) -> None:
        if not is_site_id(self.id):
            raise _refuse(
                "site.id",
                f"{self.id!r} is no site id",
                hint="a letter, then up to 23 letters or digits, lower case",
            )
        if self.gpus < 1:
            raise _refuse("site.gpus", f"{self.id} has {self.gpus} GPUs")
        if not (math.isfinite(self.pue) and self.pue >= 1):
            raise _refuse("site.pue", f"{self.pue} of {self.id} is below 1, its least value")


@dataclass(frozen=True, slots=True)
class Lognormal:
    """A lognormal distribution, clipped to [min, max]."""

    median: float
    sigma: float
    min: float
    max: float

    def __post_init__(self) -> None:
        name = "catalogue.data_gb_lognormal"
        _check_numbers(f"{name}.", self, above_0=["median"], from_0=["sigma"])
        _check_range(name, self.min, self.max, least=1e-9)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Table `catalogue`: models and data sets."""

    model_gb: tuple[float, ...]
    data_sets: int
    data_gb_lognormal: Lognormal
    home: str

    def __post_init__(self) -> None:
        _check_rule("catalogue.home", self.home)
        if not self.model_gb or not all(math.isfinite(gb) and gb >= 1e-9 for gb in self.model_gb):
            raise _refuse("catalogue.model_gb", "sizes must be finite and at least one byte")
        if self.data_sets < 1:
            raise _refuse("catalogue.data_sets", f"{self.data_sets} leaves nothing to read")


@dataclass(frozen=True, slots=True)
class PenaltyRule:
    """Inline table `workload.penalty_usd`: each `[a +] b x GPU hours`, $.

    Attributes:
        fixed: Charged at once when late.
        per_h_late: Charged per hour of lateness.
    """

    fixed: str
    per_h_late: str

    def __post_init__(self) -> None:
        for name in ("fixed", "per_h_late"):
            if _PENALTY.fullmatch(getattr(self, name)) is None:
                raise _refuse(
                    f"workload.penalty_usd.{name}",
                    f"{getattr(self, name)!r} is no rule that is implemented",
                    hint='write it like "0.5 + 0.5 x GPU hours" or "0.25 x GPU hours"',
                )

    def fixed_usd(self, gpu_h: float) -> float:
        """Return p0 of a task of `gpu_h` predicted GPU hours at speed 1."""
        return _evaluated(self.fixed, gpu_h)

    def per_h_usd(self, gpu_h: float) -> float:
        """Return p1 of a task of `gpu_h` predicted GPU hours at speed 1."""
        return _evaluated(self.per_h_late, gpu_h)


def _evaluated(rule: str, gpu_h: float) -> float:
    found = _PENALTY.fullmatch(rule)
    assert found is not None, "checked when the rule was read"
    return float(found["constant"] or 0) + float(found["per_gpu_h"]) * gpu_h


@dataclass(frozen=True, slots=True)
class JobClass:
    """Inline table of a class of tasks: share, work and slack in hours, largest data set in GB."""

    share: float
    median_h: float
    sigma: float
    slack_h: tuple[float, float]
    data_gb_max: float

    def __post_init__(self) -> None:
        _check_numbers(
            "workload class: ",
            self,
            above_0=["median_h", "data_gb_max"],
            from_0=["share", "sigma"],
        )
        _check_range("workload class: slack_h", *self.slack_h, least=0.0)


@dataclass(frozen=True, slots=True)
class Workload:
    """Table `workload`: what is asked for, how often and how urgently."""

    load: float
    zipf: float
    model_rank_noise: float
    origin: str
    arrivals: str
    runtime_sigma: float
    gpus: str
    work_clip_h: tuple[float, float]
    deadline: str
    penalty_usd: PenaltyRule
    short: JobClass
    batch: JobClass
    tuning: JobClass
    slack_factor: float = 1.0
    prediction: str = PREDICTIONS[0]

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise _refuse(
                "workload.prediction",
                f"{self.prediction!r} is nothing that policies can be told",
                hint=f"one of {', '.join(PREDICTIONS)}",
            )
        for name in ("origin", "arrivals", "gpus", "deadline"):
            _check_rule(f"workload.{name}", getattr(self, name))
        _check_numbers(
            "workload.",
            self,
            from_0=["load", "zipf", "model_rank_noise", "runtime_sigma", "slack_factor"],
        )
        low, high = self.work_clip_h
        _check_range("workload.work_clip_h", low, high, least=1e-6)
        total = sum(each.share for each in self.classes.values())
        if abs(total - 1) > 1e-6:
            raise _refuse("workload", f"the shares of the classes sum to {total:g} and not to 1")

    @property
    def classes(self) -> Mapping[str, JobClass]:
        """The classes by name, in a fixed order."""
        return {"short": self.short, "batch": self.batch, "tuning": self.tuning}


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of `events`: exactly one of leave, join, join_new.

    Attributes:
        at_h: Hours since the begin of the run, warm-up included, as in exports.
        leave: Site that goes.
        join: Site that comes back.
        join_new: Site that comes for the first time.
        caches: On coming back: `kept` or `empty`.
    """

    at_h: float
    leave: str | None = None
    join: str | None = None
    join_new: SitePlan | None = None
    caches: str = "empty"

    def __post_init__(self) -> None:
        _check_numbers("events.", self, from_0=["at_h"])
        if sum(part is not None for part in (self.leave, self.join, self.join_new)) != 1:
            raise _refuse("events", "an event is exactly one of leave, join and join_new")
        if self.caches not in {"kept", "empty"}:
            raise _refuse("events.caches", f"{self.caches!r} is neither 'kept' nor 'empty'")
        if self.join is None and self.caches == "kept":
            raise _refuse("events.caches", "only a site that comes back can have kept its caches")


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that a scenario file says; `site` are the sites that are there at the begin."""

    name: str
    carbon_price_usd_per_kg: float
    network_kwh_per_gb: float
    late_cap_h: float
    warmup_h: int
    measure_h: int
    cost_scope: CostScope
    storage_usd_per_gb_h: float
    signals: Signals
    hardware: dict[str, Hardware]
    caches: Caches
    network: Network
    site: tuple[SitePlan, ...]
    catalogue: Catalogue
    workload: Workload
    events: tuple[Event, ...] = ()
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        _check_numbers(
            "",
            self,
            above_0=["measure_h"],
            from_0=[
                "carbon_price_usd_per_kg",
                "network_kwh_per_gb",
                "late_cap_h",
                "warmup_h",
                "storage_usd_per_gb_h",
            ],
        )
        _check_sites(self)
        _check_gpus(self)
        _check_events(self)
        _check_faults(self.faults)

    @property
    def all_sites(self) -> tuple[SitePlan, ...]:
        """Sites of the begin and those that join later, sorted by id."""
        joining = [event.join_new for event in self.events if event.join_new is not None]
        return tuple(sorted((*self.site, *joining), key=lambda site: site.id))

    @property
    def zones(self) -> tuple[str, ...]:
        """Zones of all sites, each once, sorted."""
        return tuple(sorted({site.zone for site in self.all_sites}))

    @property
    def class_gpu_minima(self) -> Mapping[str, tuple[int, ...]]:
        """What each class of tasks draws its least number of GPUs from, uniformly."""
        return {
            name: TUNING_GPU_MINIMA if name == "tuning" else (1,) for name in self.workload.classes
        }


def gpus_for(model_gb: float) -> int:
    """Return the smallest power of two with 70 GB x g >= 1.15 x model size, at most 8."""
    count = 1
    while count < TASK_GPU_COUNT_MAX and GPU_MEMORY_GB * count < MEMORY_HEADROOM_RATIO * model_gb:
        count *= 2
    return count


def unknown_name(name: str, what: str, value: str, known: Iterable[str]) -> InvalidRequestError:
    """Return the refusal of `value`, which is none of `known`; its hint is the nearest."""
    names = list(known)
    near = difflib.get_close_matches(value, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    return _refuse(name, f"{value!r} is no {what}", hint=hint)


def _check_sites(scenario: Scenario) -> None:
    if not scenario.site:
        raise _refuse("site", "a scenario needs at least one site")
    names = [site.id for site in scenario.all_sites]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _refuse("site.id", f"{', '.join(twice)} is there twice")
    for site in scenario.all_sites:
        if site.hardware not in scenario.hardware:
            raise unknown_name(
                "site.hardware", "table of [hardware]", site.hardware, scenario.hardware
            )
    for site_id in scenario.signals.flat_carbon_gco2_per_kwh:
        if site_id not in names:
            raise unknown_name("signals.flat_carbon_gco2_per_kwh", "site", site_id, names)


def _check_gpus(scenario: Scenario) -> None:
    """Refuse tasks that no site could ever run."""
    minima = scenario.class_gpu_minima
    least = max(
        max(minima[name]) for name, each in scenario.workload.classes.items() if each.share > 0
    )
    largest_gb = max(scenario.catalogue.model_gb)
    needed = max(least, gpus_for(largest_gb))
    most = max(site.gpus for site in scenario.site)
    if needed > most:
        raise _refuse(
            "site.gpus",
            f"tasks need up to {needed} GPUs (model of {largest_gb:g} GB, tuning at least "
            f"{least}), and the largest site has {most}",
            hint="give a site more GPUs or take the largest models out of catalogue.model_gb",
        )


def _check_events(scenario: Scenario) -> None:
    """Follow the events: who leaves is there, who joins is not, and someone is always there."""
    present = {site.id for site in scenario.site}
    gone: set[str] = set()
    before_h = 0.0
    for event in scenario.events:
        if event.at_h < before_h:
            raise _refuse("events.at_h", f"{event.at_h:g} comes after {before_h:g}: sort by time")
        before_h = event.at_h
        if event.leave is not None:
            if event.leave not in present:
                raise unknown_name(
                    "events.leave", "site that is there", event.leave, sorted(present)
                )
            present.remove(event.leave)
            gone.add(event.leave)
        elif event.join is not None:
            if event.join not in gone:
                raise unknown_name("events.join", "site that has left", event.join, sorted(gone))
            gone.remove(event.join)
            present.add(event.join)
        elif event.join_new is not None:
            present.add(event.join_new.id)
        # Tasks are submitted to sites of the begin only, so that newcomers do not move them.
        if present.isdisjoint(site.id for site in scenario.site):
            raise _refuse("events", f"at {event.at_h:g} h no site of the begin is left")


def _check_faults(faults: Faults) -> None:
    """Refuse faults after which some task would never end."""
    ratios = ("message_loss_ratio", "corrupt_ratio", "disk_full_ratio")
    rates = ("message_delay_s", "crash_per_h", "restart_s")
    _check_numbers("faults.", faults, from_0=(*ratios, *rates))
    for name in ratios:
        most = 1.0 if name == "disk_full_ratio" else FAULT_RATIO_MAX
        if getattr(faults, name) > most:
            raise _refuse(
                f"faults.{name}",
                f"{getattr(faults, name)} is above {most:g}",
                "it is a probability",
            )
    if faults.crash_per_h > CRASH_PER_H_MAX:
        raise _refuse(
            "faults.crash_per_h",
            f"{faults.crash_per_h} is above {CRASH_PER_H_MAX:g}",
            hint="it is a rate of each site; more would let hardly any task end",
        )
