"""Rechecks an exported run: its rules and its totals, from the three exported files alone.

Usage: `python tests/recheck/recheck.py DIR`, where DIR holds `scenario.json`, `log.jsonl` and
`reported.json`. Prints recomputed totals beside reported ones and every broken rule; exits with 1
when anything is wrong. Written from the description of the export format (DESIGN.md, section 10)
and sharing no code with what it checks: it imports the standard library only.

Units are those of the export: hours since `hour0`, GB, kW, kg, $.

Where the description leaves room, this reading is taken:

- Before the first hour of a series its first value holds, as the last one holds past the end.
- An aborted attempt obeys the rules of a run (arrival, GPUs, artifacts, evictions) except its
  length. Attempts of one task never overlap, and none follows the run that ended.
- An instant counts as reached 1e-6 h early; lengths may differ by 1e-6 of themselves, or of an
  hour if they are shorter. A copy evicted at the very instant of its use is gone. GPUs and bytes
  freed at an instant can be taken at that instant.
- A run that finds an artifact at home, or brought for it alone, does not need the stored copy.
- An eviction ends the oldest copy of the artifact at the site; one that finds none is a fault.
- "No second transfer" forbids stored and unstored ones alike; of two that begin together the
  later line is the second. An unstored transfer does not forbid a stored one.
- Only stored copies fill a cache: homes lie outside it, unstored transfers go to scratch.
- A site has no link to itself; a rate of null or 0 is no link.
- Storage ends with the last run, if no eviction came before.
- `measure_h` contains its beginning and not its end. Under "measured", energy, GPU hours, run
  carbon, penalties and misses are those of tasks that arrive inside; transfer money, carbon and
  bytes are those of transfers that start inside; storage is that of the copies which these
  transfers brought, to its end even if that lies outside.
- A deadline of null is none.
- A site with `"pools": [{...}]` has GPUs by pool: each pool gives its own `gpus`, `speed`,
  `kw_active`, `kw_idle`, `usd_per_gpu_h` or takes the site's, and a run or abort there names its
  `"pool"` by index (0 if the site has one only). A task with `"artifacts": [ids]` needs those
  beside its model and data set, either of which may then be absent.
- A site may give `cap_shared_gb` in place of two capacities: models and data sets share it.
- Unknown keys are ignored.

One file, so that it can be taken elsewhere and run with nothing beside it.
"""

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NoReturn

SCENARIO_FILE, LOG_FILE, REPORTED_FILE = "scenario.json", "log.jsonl", "reported.json"

TOLERANCE_H = 1e-6
DEADLINE_TOLERANCE_H = 1e-9
TOTALS_RELATIVE_TOLERANCE = 1e-6
#: Below this two totals are equal whatever their ratio: the float noise of sums around zero.
TOTALS_ABSOLUTE_TOLERANCE = 1e-9
#: A kilobyte, above the float noise of adding and subtracting sizes.
CAPACITY_TOLERANCE_GB = 1e-6

Id = str | int
#: By source and destination, None where there is no link.
Matrix = tuple[tuple[float | None, ...], ...]


class Rule(Enum):
    """What an export must satisfy."""

    ONCE = "runs-exactly-once"
    OVERLAP = "one-attempt-at-a-time"
    ARRIVAL = "not-before-arrival"
    LENGTH = "work-over-speed"
    GPUS = "gpu-capacity"
    PRESENT = "artifacts-present"
    IN_USE = "evicted-in-use"
    EVICTION = "evicts-nothing"
    SOURCE = "source-holds"
    LINK = "beats-the-link"
    SECOND = "second-transfer"
    CAPACITY = "cache-capacity"
    TOTAL = "total"


class MalformedExportError(Exception):
    """A file of the export cannot be read; says which, where, and why."""

    def __init__(self, file: str, line: int | None, path: str, problem: str) -> None:
        place = file if line is None else f"{file}:{line}"
        super().__init__(": ".join(part for part in (place, path, problem) if part))
        self.file = file
        self.line = line
        self.path = path
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Breach:
    """A broken rule and the place that shows it."""

    rule: Rule
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule.value}: {self.where}: {self.text}"


class StepSeries:
    """A step function of time: one value an hour, the outer values hold outside."""

    def __init__(self, values: Sequence[float]) -> None:
        assert values, "a series has at least one hour"
        self._values = tuple(values)
        self._sums = (0.0, *accumulate(values))

    def at(self, time_h: float) -> float:
        """Return the value of the hour that contains the instant."""
        return self._of_hour(math.floor(time_h))

    def integral(self, start_h: float, end_h: float) -> float:
        """Return the integral over [start, end], in units of the series times hours."""
        first, last = math.floor(start_h), math.floor(end_h)
        if first == last:
            return self._of_hour(first) * (end_h - start_h)
        head = self._of_hour(first) * (first + 1 - start_h)
        tail = self._of_hour(last) * (end_h - last)
        return head + (self._until(last) - self._until(first + 1)) + tail

    def mean(self, start_h: float, end_h: float) -> float:
        """Return the mean over [start, end], the value at the start if they coincide."""
        if end_h <= start_h:
            return self.at(start_h)
        return self.integral(start_h, end_h) / (end_h - start_h)

    def _of_hour(self, hour: int) -> float:
        return self._values[min(max(hour, 0), len(self._values) - 1)]

    def _until(self, hour: int) -> float:
        """Return the integral from hour 0 to a whole hour."""
        inside = min(max(hour, 0), len(self._values))
        return self._sums[inside] + (hour - inside) * self._of_hour(hour)


@dataclass(frozen=True, slots=True)
class Pool:
    """GPUs of one type at a site."""

    gpus: int
    speed: float
    active_kw: float
    usd_per_gpu_h: float


@dataclass(frozen=True, slots=True)
class Site:
    """A data center; `capacity_gb` is by kind of artifact, or has the one key "shared"."""

    pools: tuple[Pool, ...]
    pue: float
    capacity_gb: Mapping[str, float]
    storage_usd_per_gb_h: float
    price_usd_per_kwh: StepSeries
    intensity_kg_per_kwh: StepSeries


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model or a data set; `home` is the index of a site, or none."""

    kind: str
    size_gb: float
    home: int | None


@dataclass(frozen=True, slots=True)
class Task:
    """What was submitted, with the true work in hours at speed 1."""

    needs: tuple[Id, ...]
    gpus: int
    work_h: float
    arrival_h: float
    deadline_h: float | None
    late_usd: float
    late_usd_per_h: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """The world of a run."""

    network_kwh_per_gb: float
    late_cap_h: float
    measured_h: tuple[float, float]
    sites: tuple[Site, ...]
    egress_usd_per_gb: Matrix
    rate_gb_per_h: Matrix
    artifacts: Mapping[Id, Artifact]
    tasks: Mapping[Id, Task]


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes of one artifact moved between two sites."""

    line: int
    start_h: float
    end_h: float
    source: int
    destination: int
    artifact: Id
    task: Id | None
    is_stored: bool


@dataclass(frozen=True, slots=True)
class Eviction:
    """A stored copy dropped."""

    line: int
    time_h: float
    site: int
    artifact: Id


@dataclass(frozen=True, slots=True)
class Attempt:
    """A run to the end, or an aborted one."""

    line: int
    task: Id
    site: int
    pool: int
    start_h: float
    end_h: float
    is_whole: bool


@dataclass(slots=True)
class Log:
    """The events of a run, in the order of their lines."""

    transfers: list[Transfer] = field(default_factory=list)
    evictions: list[Eviction] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums of a run; the names are those of `reported.json`."""

    energy_usd: float
    gpu_usd: float
    transfer_usd: float
    storage_usd: float
    penalty_usd: float
    kg_run: float
    kg_transfer: float
    misses: int
    gb_moved: float

    def as_json(self) -> dict[str, float]:
        return {column.name: getattr(self, column.name) for column in fields(self)}


@dataclass(frozen=True, slots=True)
class Export:
    """One exported run, as read."""

    scenario: Scenario
    log: Log
    reported: Totals
    reported_measured: Totals


@dataclass(frozen=True, slots=True)
class Copy:
    """A stored copy's life: bytes held from `start_h`, whole from `arrived_h`."""

    line: int
    start_h: float
    arrived_h: float
    evicted_h: float
    eviction_line: int | None

    def is_held_at(self, time_h: float) -> bool:
        """Return whether the whole copy lies there at an instant."""
        return self.arrived_h <= time_h + TOLERANCE_H and self.evicted_h > time_h


Place = tuple[int, Id]
Copies = Mapping[Place, Sequence[Copy]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a recheck found."""

    totals: Totals
    measured: Totals
    breaches: tuple[Breach, ...]


# Reading: each value knows its place, so that a fault names file, line and field.


@dataclass(frozen=True, slots=True)
class Node:
    """One JSON value of a file and where it stands."""

    value: object
    file: str
    line: int | None = None
    path: str = ""

    def fail(self, problem: str) -> NoReturn:
        """Refuse the file because of this value."""
        raise MalformedExportError(self.file, self.line, self.path, problem)

    def __getitem__(self, key: str) -> "Node":
        if not isinstance(self.value, dict):
            self.fail(f"expected an object, found {shown(self.value)}")
        path = f"{self.path}.{key}" if self.path else key
        if key not in self.value:
            raise MalformedExportError(self.file, self.line, path, "is missing")
        return Node(self.value[key], self.file, self.line, path)

    def has(self, key: str) -> bool:
        return isinstance(self.value, dict) and self.value.get(key) is not None

    def items(self, count: int | None = None) -> "list[Node]":
        """Return the items of a list, which are `count` if given."""
        if not isinstance(self.value, list):
            self.fail(f"expected a list, found {shown(self.value)}")
        if count is not None and len(self.value) != count:
            self.fail(f"expected {count} items, found {len(self.value)}")
        return [
            Node(value, self.file, self.line, f"{self.path}[{i}]")
            for i, value in enumerate(self.value)
        ]

    def number(self, *, at_least: float = -math.inf) -> float:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            self.fail(f"expected a number, found {shown(self.value)}")
        if not abs(self.value) <= sys.float_info.max:
            self.fail("expected a finite number")
        if self.value < at_least:
            self.fail(f"expected at least {at_least:g}, found {self.value}")
        return float(self.value)

    def integer(self, *, below: int | None = None) -> int:
        """Return a whole number from 0 on, below a bound if one is given."""
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            self.fail(f"expected a whole number, found {shown(self.value)}")
        if self.value < 0 or (below is not None and self.value >= below):
            expected = "0 or more" if below is None else f"0 to {below - 1}"
            self.fail(f"expected {expected}, found {self.value}")
        return self.value

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            self.fail(f"expected true or false, found {shown(self.value)}")
        return self.value

    def word(self, *allowed: str) -> str:
        """Return a text, one of `allowed` if any are given."""
        if not isinstance(self.value, str):
            self.fail(f"expected a text, found {shown(self.value)}")
        if allowed and self.value not in allowed:
            self.fail(f"expected {' or '.join(allowed)}, found {shown(self.value)}")
        return self.value

    def identity(self) -> Id:
        if isinstance(self.value, bool) or not isinstance(self.value, str | int):
            self.fail(f"expected an id, found {shown(self.value)}")
        return self.value

    def one_of(self, known: Mapping[Id, object]) -> Id:
        identity = self.identity()
        if identity not in known:
            self.fail(f"the scenario has no {shown(identity)}")
        return identity

    def none_of(self, known: Mapping[Id, object]) -> Id:
        identity = self.identity()
        if identity in known:
            self.fail(f"{shown(identity)} occurs twice")
        return identity

    def series(self) -> StepSeries:
        values = [hour.number() for hour in self.items()]
        if not values:
            self.fail("expected at least one hour")
        return StepSeries(values)

    def matrix(self, size: int) -> Matrix:
        """Return a square of numbers of at least 0, or null."""
        return tuple(
            tuple(None if cell.value is None else cell.number(at_least=0) for cell in row)
            for row in (each.items(size) for each in self.items(size))
        )


def shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def read_json(text: str, file: str, line: int | None = None) -> Node:
    """Return the JSON value that a text holds.

    Raises:
        MalformedExportError: it is not JSON, or holds NaN or an infinity.
    """

    def refuse(constant: str) -> NoReturn:
        raise MalformedExportError(file, line, "", f"{constant} is not a JSON number")

    try:
        return Node(json.loads(text, parse_constant=refuse), file, line)
    except json.JSONDecodeError as exc:
        place = exc.lineno if line is None else line
        problem = f"not JSON at column {exc.colno}: {exc.msg}"
        raise MalformedExportError(file, place, "", problem) from exc
    except (ValueError, RecursionError) as exc:  # a number of 5,000 digits, 1,000 nested lists
        raise MalformedExportError(file, line, "", f"not read: {exc}") from exc


def scenario_from(top: Node) -> Scenario:
    """Return the scenario, every listed field checked."""
    if not top.has("hour0"):
        top["hour0"].fail("expected an instant, found null")
    top["lam_usd_per_kg"].number()
    beginning, end = top["measure_h"].items(2)
    sites = tuple(site_from(site) for site in top["sites"].items())
    artifacts = artifacts_from(top["artifacts"], len(sites))
    return Scenario(
        network_kwh_per_gb=top["kappa_kwh_per_gb"].number(at_least=0),
        late_cap_h=top["late_cap_h"].number(at_least=0),
        measured_h=(beginning.number(), end.number()),
        sites=sites,
        egress_usd_per_gb=top["egress_usd_per_gb"].matrix(len(sites)),
        rate_gb_per_h=top["gb_per_h"].matrix(len(sites)),
        artifacts=artifacts,
        tasks=tasks_from(top["tasks"], artifacts),
    )


def site_from(site: Node) -> Site:
    """Return a site; pools inherit what they do not give."""
    site["name"].word()
    pools = site["pools"].items() if site.has("pools") else [site]
    kinds = ("shared",) if site.has("cap_shared_gb") else ("model", "data")
    return Site(
        pools=tuple(pool_from(pool, site) for pool in pools),
        pue=site["pue"].number(at_least=0),
        capacity_gb={kind: site[f"cap_{kind}_gb"].number(at_least=0) for kind in kinds},
        storage_usd_per_gb_h=site["storage_usd_per_gb_h"].number(),
        price_usd_per_kwh=site["price_usd_per_kwh"].series(),
        intensity_kg_per_kwh=site["ci_kg_per_kwh"].series(),
    )


def pool_from(pool: Node, site: Node) -> Pool:
    def given(key: str) -> Node:
        return pool[key] if pool.has(key) else site[key]

    given("kw_idle").number()  # Listed, and charged nowhere: idle power is reported apart.
    return Pool(
        gpus=given("gpus").integer(),
        speed=given("speed").number(at_least=0),
        active_kw=given("kw_active").number(at_least=0),
        usd_per_gpu_h=given("usd_per_gpu_h").number(at_least=0),
    )


def artifacts_from(listed: Node, sites: int) -> dict[Id, Artifact]:
    found: dict[Id, Artifact] = {}
    for each in listed.items():
        home = each["home"]
        found[each["id"].none_of(found)] = Artifact(
            kind=each["kind"].word("model", "data"),
            size_gb=each["gb"].number(at_least=0),
            home=None if home.value is None else home.integer(below=sites),
        )
    return found


def tasks_from(listed: Node, artifacts: Mapping[Id, Artifact]) -> dict[Id, Task]:
    found: dict[Id, Task] = {}
    for each in listed.items():
        deadline = each["deadline"]
        found[each["id"].none_of(found)] = Task(
            needs=needs_from(each, artifacts),
            gpus=each["gpus"].integer(),
            work_h=each["work_h"].number(at_least=0),
            arrival_h=each["arrival"].number(),
            deadline_h=None if deadline.value is None else deadline.number(),
            late_usd=each["p0"].number(),
            late_usd_per_h=each["p1"].number(),
        )
    return found


def needs_from(task: Node, artifacts: Mapping[Id, Artifact]) -> tuple[Id, ...]:
    """Return what a task needs, each artifact once."""
    listed = task["artifacts"].items() if task.has("artifacts") else []
    for kind in ("model", "data"):
        if not task.has("artifacts") or task.has(kind):
            listed.append(task[kind])
    return tuple(dict.fromkeys(each.one_of(artifacts) for each in listed if each.value is not None))


def log_from(text: str, scenario: Scenario) -> Log:
    """Return the events of a log, one JSON object a line."""
    log = Log()
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        event = read_json(line, LOG_FILE, number)
        match event["e"].word("transfer", "evict", "run", "abort"):
            case "transfer":
                log.transfers.append(transfer_from(event, number, scenario))
            case "evict":
                log.evictions.append(eviction_from(event, number, scenario))
            case kind:
                is_whole = kind == "run"
                log.attempts.append(attempt_from(event, number, scenario, is_whole=is_whole))
    return log


def transfer_from(event: Node, line: int, scenario: Scenario) -> Transfer:
    start_h, end_h = span_from(event)
    task = event["task"]
    return Transfer(
        line=line,
        start_h=start_h,
        end_h=end_h,
        source=event["src"].integer(below=len(scenario.sites)),
        destination=event["dst"].integer(below=len(scenario.sites)),
        artifact=event["artifact"].one_of(scenario.artifacts),
        task=None if task.value is None else task.one_of(scenario.tasks),
        is_stored=event["stored"].flag(),
    )


def eviction_from(event: Node, line: int, scenario: Scenario) -> Eviction:
    return Eviction(
        line=line,
        time_h=event["t"].number(),
        site=event["site"].integer(below=len(scenario.sites)),
        artifact=event["artifact"].one_of(scenario.artifacts),
    )


def attempt_from(event: Node, line: int, scenario: Scenario, *, is_whole: bool) -> Attempt:
    start_h, end_h = span_from(event)
    site = event["site"].integer(below=len(scenario.sites))
    pools = len(scenario.sites[site].pools)
    is_named = event.has("pool") or pools != 1
    return Attempt(
        line=line,
        task=event["task"].one_of(scenario.tasks),
        site=site,
        pool=event["pool"].integer(below=pools) if is_named else 0,
        start_h=start_h,
        end_h=end_h,
        is_whole=is_whole,
    )


def span_from(event: Node) -> tuple[float, float]:
    start_h, end_h = event["t0"].number(), event["t1"].number()
    if end_h < start_h:
        event["t1"].fail(f"{end_h:.9g} lies before t0 {start_h:.9g}")
    return start_h, end_h


def totals_from(told: Node) -> Totals:
    return Totals(
        energy_usd=told["energy_usd"].number(),
        gpu_usd=told["gpu_usd"].number(),
        transfer_usd=told["transfer_usd"].number(),
        storage_usd=told["storage_usd"].number(),
        penalty_usd=told["penalty_usd"].number(),
        kg_run=told["kg_run"].number(),
        kg_transfer=told["kg_transfer"].number(),
        misses=told["misses"].integer(),
        gb_moved=told["gb_moved"].number(),
    )


def parse_export(scenario_text: str, log_text: str, reported_text: str) -> Export:
    """Return the export that three texts hold.

    Raises:
        MalformedExportError: a field is missing, of another type, or names what does not exist.
    """
    scenario = scenario_from(read_json(scenario_text, SCENARIO_FILE))
    log = log_from(log_text, scenario)
    told = read_json(reported_text, REPORTED_FILE)
    return Export(scenario, log, totals_from(told), totals_from(told["measured"]))


def read_export(directory: Path) -> Export:
    """Return the export in a directory.

    Raises:
        MalformedExportError: as `parse_export`, or a file cannot be read.
    """

    def text(file: str) -> str:
        try:
            return (directory / file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise MalformedExportError(str(directory / file), None, "", str(exc)) from exc

    return parse_export(text(SCENARIO_FILE), text(LOG_FILE), text(REPORTED_FILE))


# Copies: what lies where, and until when.


def copies_of(log: Log) -> tuple[dict[Place, list[Copy]], list[Breach]]:
    """Return the stored copies by place, oldest first, and evictions that found none."""
    arrivals: dict[Place, list[Transfer]] = defaultdict(list)
    departures: dict[Place, list[Eviction]] = defaultdict(list)
    for transfer in log.transfers:
        if transfer.is_stored:
            arrivals[transfer.destination, transfer.artifact].append(transfer)
    for eviction in log.evictions:
        departures[eviction.site, eviction.artifact].append(eviction)
    copies: dict[Place, list[Copy]] = {}
    breaches: list[Breach] = []
    for place in sorted({*arrivals, *departures}, key=repr):
        began = sorted(arrivals[place], key=lambda each: (each.start_h, each.line))
        ended = sorted(departures[place], key=lambda each: (each.time_h, each.line))
        copies[place] = []
        taken = 0
        for transfer in began:
            # Evictions before this copy began, and after the last one's, found nothing.
            while taken < len(ended) and ended[taken].time_h < transfer.start_h:
                breaches.append(nothing_to_evict(ended[taken]))
                taken += 1
            last = ended[taken] if taken < len(ended) else None
            taken += last is not None
            copies[place].append(
                Copy(
                    line=transfer.line,
                    start_h=transfer.start_h,
                    arrived_h=transfer.end_h,
                    evicted_h=math.inf if last is None else last.time_h,
                    eviction_line=None if last is None else last.line,
                )
            )
        breaches.extend(nothing_to_evict(each) for each in ended[taken:])
    return copies, breaches


def nothing_to_evict(eviction: Eviction) -> Breach:
    text = f"no stored copy of {shown(eviction.artifact)} at site {eviction.site} to evict"
    return Breach(Rule.EVICTION, at_line(eviction.line), text)


def at_line(line: int) -> str:
    return f"{LOG_FILE}:{line}"


def is_held(scenario: Scenario, copies: Copies, place: Place, time_h: float) -> bool:
    """Return whether a site has an artifact at an instant, at home or stored."""
    site, artifact = place
    is_home = scenario.artifacts[artifact].home == site
    return is_home or any(copy.is_held_at(time_h) for copy in copies.get(place, ()))


# Rules, each on its own.


def each_task_runs_once(scenario: Scenario, log: Log) -> Iterator[Breach]:
    """Yield tasks that do not run exactly once to their end, attempt after attempt."""
    attempts: dict[Id, list[Attempt]] = {identity: [] for identity in scenario.tasks}
    for attempt in log.attempts:
        attempts[attempt.task].append(attempt)
    for identity, of_task in attempts.items():
        whole = [attempt for attempt in of_task if attempt.is_whole]
        if len(whole) != 1:
            where = at_line(whole[1].line) if whole else f"{SCENARIO_FILE}: tasks"
            yield Breach(Rule.ONCE, where, f"task {shown(identity)} runs {len(whole)} times")
        of_task.sort(key=lambda each: (each.start_h, each.end_h, each.line))
        for before, after in pairwise(of_task):
            if after.start_h < before.end_h - TOLERANCE_H or (
                before.is_whole and not after.is_whole
            ):
                text = f"task {shown(identity)} begins again, see line {before.line}"
                yield Breach(Rule.OVERLAP, at_line(after.line), text)


def runs_take_their_time(scenario: Scenario, log: Log) -> Iterator[Breach]:
    """Yield attempts before arrival, and runs not as long as work over speed."""
    for attempt in log.attempts:
        task = scenario.tasks[attempt.task]
        where = at_line(attempt.line)
        if attempt.start_h < task.arrival_h - TOLERANCE_H:
            text = f"starts at {attempt.start_h:.9g} h, arrives at {task.arrival_h:.9g} h"
            yield Breach(Rule.ARRIVAL, where, text)
        if not attempt.is_whole:
            continue
        speed = pool_of(scenario, attempt).speed
        expected_h = task.work_h / speed if speed > 0 else math.inf
        found_h = attempt.end_h - attempt.start_h
        if not abs(found_h - expected_h) <= slack_h(expected_h):
            text = f"takes {found_h:.9g} h, not {expected_h:.9g} h"
            yield Breach(Rule.LENGTH, where, text)


def pool_of(scenario: Scenario, attempt: Attempt) -> Pool:
    return scenario.sites[attempt.site].pools[attempt.pool]


def slack_h(length_h: float) -> float:
    return TOLERANCE_H * max(1.0, length_h)


@dataclass(frozen=True, slots=True)
class Holding:
    """An amount held from one instant to another, as one line of the log tells."""

    start_h: float
    end_h: float
    amount: float
    line: int


def overflows(
    holdings: Iterable[Holding], capacity: float, slack: float
) -> Iterator[tuple[Holding, float]]:
    """Yield each holding that first lifts the sum above the capacity, and that sum."""
    steps: list[tuple[float, bool, int, float, Holding]] = []
    for each in holdings:
        freed_h = max(each.start_h, each.end_h - TOLERANCE_H)
        steps.append((each.start_h, True, each.line, each.amount, each))
        steps.append((freed_h, False, each.line, -each.amount, each))
    steps.sort(key=lambda step: step[:3])
    level, was_over = 0.0, False
    for _, _, _, change, holding in steps:
        level += change
        is_over = level > capacity + slack
        if is_over and not was_over:
            yield holding, level
        was_over = is_over


def gpus_suffice(scenario: Scenario, log: Log) -> Iterator[Breach]:
    """Yield attempts that take more GPUs than a pool has."""
    held: dict[tuple[int, int], list[Holding]] = defaultdict(list)
    for each in log.attempts:
        gpus = scenario.tasks[each.task].gpus
        held[each.site, each.pool].append(Holding(each.start_h, each.end_h, gpus, each.line))
    for (site, pool), holdings in held.items():
        capacity = scenario.sites[site].pools[pool].gpus
        for holding, level in overflows(holdings, capacity, 0):
            text = f"{level:.0f} GPUs of {capacity} at site {site} at {holding.start_h:.9g} h"
            yield Breach(Rule.GPUS, at_line(holding.line), text)


def caches_suffice(scenario: Scenario, copies: Copies) -> Iterator[Breach]:
    """Yield copies that fill a cache beyond its capacity, bytes counted from t0."""
    held: dict[tuple[int, str], list[Holding]] = defaultdict(list)
    for (site, identity), of_place in copies.items():
        artifact = scenario.artifacts[identity]
        cache = artifact.kind if artifact.kind in scenario.sites[site].capacity_gb else "shared"
        for copy in of_place:
            held[site, cache].append(
                Holding(copy.start_h, copy.evicted_h, artifact.size_gb, copy.line)
            )
    for (site, cache), holdings in held.items():
        capacity = scenario.sites[site].capacity_gb[cache]
        for holding, level in overflows(holdings, capacity, CAPACITY_TOLERANCE_GB):
            text = f"{level:.9g} GB in the {cache} cache of {capacity:.9g} GB"
            text += f" at site {site} at {holding.start_h:.9g} h"
            yield Breach(Rule.CAPACITY, at_line(holding.line), text)


def artifacts_lie_ready(scenario: Scenario, log: Log, copies: Copies) -> Iterator[Breach]:
    """Yield attempts that start without an artifact, or lose its copy while they run."""
    brought_h: dict[tuple[Id, int, Id], float] = {}
    for transfer in log.transfers:
        if transfer.task is not None and not transfer.is_stored:
            errand = (transfer.task, transfer.destination, transfer.artifact)
            brought_h[errand] = min(transfer.end_h, brought_h.get(errand, math.inf))
    for attempt in log.attempts:
        for artifact in scenario.tasks[attempt.task].needs:
            errand = (attempt.task, attempt.site, artifact)
            if brought_h.get(errand, math.inf) <= attempt.start_h + TOLERANCE_H:
                continue
            place = (attempt.site, artifact)
            if not is_held(scenario, copies, place, attempt.start_h):
                text = f"{shown(artifact)} is not at site {attempt.site}"
                text += f" at {attempt.start_h:.9g} h"
                yield Breach(Rule.PRESENT, at_line(attempt.line), text)
            if scenario.artifacts[artifact].home == attempt.site:
                continue
            for copy in copies.get(place, ()):
                if attempt.start_h < copy.evicted_h < attempt.end_h - TOLERANCE_H:
                    assert copy.eviction_line is not None
                    text = f"task {shown(attempt.task)} needs {shown(artifact)}"
                    text += f", see line {attempt.line}"
                    yield Breach(Rule.IN_USE, at_line(copy.eviction_line), text)


def transfers_are_possible(scenario: Scenario, log: Log, copies: Copies) -> Iterator[Breach]:
    """Yield transfers from a site without the artifact, or faster than the link."""
    for each in log.transfers:
        where = at_line(each.line)
        if not is_held(scenario, copies, (each.source, each.artifact), each.start_h):
            text = f"{shown(each.artifact)} is not at site {each.source} at {each.start_h:.9g} h"
            yield Breach(Rule.SOURCE, where, text)
        rate = scenario.rate_gb_per_h[each.source][each.destination]
        if each.source == each.destination or not rate:
            text = f"no link from site {each.source} to site {each.destination}"
            yield Breach(Rule.LINK, where, text)
            continue
        least_h = scenario.artifacts[each.artifact].size_gb / rate
        found_h = each.end_h - each.start_h
        if found_h < least_h - slack_h(least_h):
            text = f"takes {found_h:.9g} h, the link needs {least_h:.9g} h"
            yield Breach(Rule.LINK, where, text)


def nothing_is_sent_twice(log: Log, copies: Copies) -> Iterator[Breach]:
    """Yield transfers to a site where a stored copy lies or is on its way."""
    for each in log.transfers:
        for copy in copies.get((each.destination, each.artifact), ()):
            began_earlier = (copy.start_h, copy.line) < (each.start_h, each.line)
            if began_earlier and copy.evicted_h > each.start_h + TOLERANCE_H:
                text = f"{shown(each.artifact)} is at site {each.destination} or on its way"
                yield Breach(Rule.SECOND, at_line(each.line), f"{text}, see line {copy.line}")
                break


# Totals.

ALWAYS_H = (-math.inf, math.inf)


def totals_of(
    scenario: Scenario, log: Log, copies: Copies, window_h: tuple[float, float] = ALWAYS_H
) -> Totals:
    """Return the totals of tasks that arrive, and transfers that start, inside a window."""
    energy_usd, gpu_usd, kg_run = charges_of_runs(scenario, log, window_h)
    penalties_usd = [
        task.late_usd + task.late_usd_per_h * min(late_h, scenario.late_cap_h)
        for task, late_h in late_tasks(scenario, log)
        if is_inside(task.arrival_h, window_h)
    ]
    sent = [each for each in log.transfers if is_inside(each.start_h, window_h)]
    return Totals(
        energy_usd=energy_usd,
        gpu_usd=gpu_usd,
        transfer_usd=math.fsum(egress_usd(scenario, each) for each in sent),
        storage_usd=storage_usd(scenario, log, copies, window_h),
        penalty_usd=math.fsum(penalties_usd),
        kg_run=kg_run,
        kg_transfer=math.fsum(transfer_kg(scenario, each) for each in sent),
        misses=len(penalties_usd),
        gb_moved=math.fsum(scenario.artifacts[each.artifact].size_gb for each in sent),
    )


def is_inside(time_h: float, window_h: tuple[float, float]) -> bool:
    return window_h[0] <= time_h < window_h[1]


def charges_of_runs(
    scenario: Scenario, log: Log, window_h: tuple[float, float]
) -> tuple[float, float, float]:
    """Return energy ($), GPU hours ($) and carbon (kg) of all attempts of tasks in a window."""
    energy_usd, gpu_usd, carbon_kg = [], [], []
    for each in log.attempts:
        task, pool = scenario.tasks[each.task], pool_of(scenario, each)
        if not is_inside(task.arrival_h, window_h):
            continue
        site = scenario.sites[each.site]
        load_kw = task.gpus * pool.active_kw * site.pue
        energy_usd.append(load_kw * site.price_usd_per_kwh.integral(each.start_h, each.end_h))
        carbon_kg.append(load_kw * site.intensity_kg_per_kwh.integral(each.start_h, each.end_h))
        gpu_usd.append(task.gpus * (each.end_h - each.start_h) * pool.usd_per_gpu_h)
    return math.fsum(energy_usd), math.fsum(gpu_usd), math.fsum(carbon_kg)


def late_tasks(scenario: Scenario, log: Log) -> Iterator[tuple[Task, float]]:
    """Yield tasks whose run ended past the deadline, and by how many hours."""
    for each in log.attempts:
        task = scenario.tasks[each.task]
        if not each.is_whole or task.deadline_h is None:
            continue
        if each.end_h > task.deadline_h + DEADLINE_TOLERANCE_H:
            yield task, each.end_h - task.deadline_h


def egress_usd(scenario: Scenario, transfer: Transfer) -> float:
    price = scenario.egress_usd_per_gb[transfer.source][transfer.destination] or 0.0
    return scenario.artifacts[transfer.artifact].size_gb * price


def transfer_kg(scenario: Scenario, transfer: Transfer) -> float:
    """Return gb x kappa x half the sum of both ends' mean intensity over the transfer."""
    ends = (scenario.sites[transfer.source], scenario.sites[transfer.destination])
    span_h = (transfer.start_h, transfer.end_h)
    intensity = sum(site.intensity_kg_per_kwh.mean(*span_h) for site in ends) / 2
    size_gb = scenario.artifacts[transfer.artifact].size_gb
    return size_gb * scenario.network_kwh_per_gb * intensity


def storage_usd(
    scenario: Scenario, log: Log, copies: Copies, window_h: tuple[float, float]
) -> float:
    """Return the price of keeping the copies whose transfer starts inside a window."""
    last_h = max((each.end_h for each in log.attempts if each.is_whole), default=-math.inf)
    return math.fsum(
        max(0.0, min(copy.evicted_h, last_h) - copy.start_h)
        * scenario.artifacts[artifact].size_gb
        * scenario.sites[site].storage_usd_per_gb_h
        for (site, artifact), of_place in copies.items()
        for copy in of_place
        if is_inside(copy.start_h, window_h)
    )


def totals_agree(name: str, found: Totals, reported: Totals) -> Iterator[Breach]:
    """Yield reported totals that are not the recomputed ones; misses must be equal."""
    told = reported.as_json()
    for key, ours in found.as_json().items():
        slack = max(abs(ours), abs(told[key])) * TOTALS_RELATIVE_TOLERANCE
        slack = 0.0 if key == "misses" else max(slack, TOTALS_ABSOLUTE_TOLERANCE)
        if abs(ours - told[key]) > slack:
            text = f"reported {told[key]:.12g}, recomputed {ours:.12g}"
            yield Breach(Rule.TOTAL, f"{REPORTED_FILE}: {name}{key}", text)


def recheck(export: Export) -> Verdict:
    """Apply every rule to an export and recompute its totals."""
    scenario, log = export.scenario, export.log
    copies, breaches = copies_of(log)
    found = totals_of(scenario, log, copies)
    measured = totals_of(scenario, log, copies, scenario.measured_h)
    breaches += each_task_runs_once(scenario, log)
    breaches += runs_take_their_time(scenario, log)
    breaches += gpus_suffice(scenario, log)
    breaches += artifacts_lie_ready(scenario, log, copies)
    breaches += transfers_are_possible(scenario, log, copies)
    breaches += nothing_is_sent_twice(log, copies)
    breaches += caches_suffice(scenario, copies)
    breaches += totals_agree("", found, export.reported)
    breaches += totals_agree("measured.", measured, export.reported_measured)
    return Verdict(found, measured, tuple(breaches))


def table_of(verdict: Verdict, export: Export) -> Iterator[str]:
    """Yield a line for each total: name, recomputed, reported."""
    yield f"{'':24}{'recomputed':>20}{'reported':>20}"
    whole = ("", verdict.totals, export.reported)
    measured = ("measured.", verdict.measured, export.reported_measured)
    for prefix, found, reported in (whole, measured):
        told = reported.as_json()
        for key, ours in found.as_json().items():
            yield f"{prefix + key:24}{ours:20.12g}{told[key]:20.12g}"


def main(arguments: Sequence[str]) -> int:
    """Recheck one directory; return 0 when nothing is wrong, 1 otherwise, 2 on misuse."""
    if len(arguments) != 1:
        sys.stderr.write("usage: recheck.py DIR\n")
        return 2
    try:
        export = read_export(Path(arguments[0]))
    except MalformedExportError as exc:
        sys.stderr.write(f"malformed: {exc}\n")
        return 1
    verdict = recheck(export)
    log = export.log
    seen = f"{len(log.attempts)} attempts and {len(log.transfers)} transfers"
    lines = [
        *table_of(verdict, export),
        *(str(breach) for breach in verdict.breaches),
        f"{len(verdict.breaches)} faults in {seen}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if verdict.breaches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
