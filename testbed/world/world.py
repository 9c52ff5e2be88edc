"""The world as a simulation reads it; where a directory has no table, the shipped ones answer."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from gcos import tables
from gcos.accounting import BYTES_PER_GB
from gcos.errors import InvalidRequestError, NotFoundError
from gcos.signals import HOUR_S, HOURS_A_DAY, WINDOW_HOURS_MAX, EmissionFactor, Signal
from site_agent.signals.profile import typical_carbon, typical_price
from site_agent.signals.trace_table import GAP_HOURS_MAX, HourlyColumn, over_window
from testbed.distances import FIBRE_KM_PER_MS, great_circle_km
from testbed.world.refusals import GapError, NotCoveredError, hour_text
from testbed.world.schema import (
    CARBON,
    DATA_SETS,
    JOBS,
    MODELS,
    NETWORK,
    PRICE,
    ZONES,
    TableSchema,
)

if TYPE_CHECKING:
    from testbed.world.checked_rows import Rows
    from testbed.world.table_directory import TableDirectory

#: A run begins a day before its calendar week and is drained for up to four days after it.
WARMUP_HOURS: Final = HOURS_A_DAY
WEEK_HOURS: Final = 7 * HOURS_A_DAY
DRAIN_HOURS: Final = 4 * HOURS_A_DAY

#: Cables detour: median of measured round-trip times over light in fibre along the great circle
#: (`gcos/tables/links.csv`).
FIBRE_DETOUR: Final = 1.63

_FACTOR_COLUMNS: Final = {
    EmissionFactor.LIFECYCLE: "lifecycle_gco2_per_kwh",
    EmissionFactor.DIRECT: "direct_gco2_per_kwh",
}
_PRICE_COLUMN: Final = "price_usd_per_mwh"
_KWH_PER_MWH: Final = 1000.0
_BITS_PER_BYTE: Final = 8

#: Continents of countries whose code for it, NA, some readers of CSV take for "not available".
_NORTH_AMERICA: Final = frozenset({"CA", "MX", "US"})


@dataclass(frozen=True, slots=True, eq=False)
class Hourly:
    """A signal over whole UTC hours.

    Attributes:
        values: (hours,) float64, gCO2/kWh or $/kWh; read-only.
        interpolated_count: Hours that the source lacks and that were interpolated.
        is_estimated: Some value is a model's estimate, a typical day or interpolated.
        source: Where they come from, in words.
    """

    values: NDArray[np.float64]
    interpolated_count: int
    is_estimated: bool
    source: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a zone is.

    Attributes:
        zone: Electricity zone.
        continent: AF, AS, EU, NA (North America), OC or SA.
        lat: Latitude of its usual data-center town, degrees.
        lon: Longitude, degrees.
    """

    zone: str
    continent: str
    lat: float
    lon: float


@dataclass(frozen=True, slots=True)
class WorldLink:
    """A directed link between two zones.

    Attributes:
        rtt_s: Round-trip time.
        gbps: Measured rate of a bulk transfer, 1e9 bits per second; None: nobody measured it.
        egress_usd_per_gb: List price of leaving the source, $ per 1e9 bytes.
        is_rtt_measured: The round-trip time was measured; else it is estimated from distance.
        jitter_s: Half the width of the uniform spread of the one-way delay.
        loss_ratio: Share of packets that are lost.
    """

    rtt_s: float
    gbps: float | None
    egress_usd_per_gb: float
    is_rtt_measured: bool
    jitter_s: float = 0.0
    loss_ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class _StatedLink:
    """A row of a table of links; NaN where its cell is empty. Fields are columns."""

    rtt_ms: float = math.nan
    gbps: float = math.nan
    egress_usd_per_gb: float = math.nan
    jitter_ms: float = math.nan
    loss_ratio: float = math.nan


_LINK_FIGURES: Final = tuple(field.name for field in fields(_StatedLink))


@dataclass(frozen=True, slots=True)
class WorldModel:
    """A language model of the catalogue; parameters in billions, None where not stated."""

    name: str
    parameters_b: float | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class WorldDataSet:
    """A data set of the catalogue."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LoggedJob:
    """A row of a job log.

    Attributes:
        log: Which log it is from.
        job_id: Unique in its log.
        submit_s: Seconds since the log's first submission.
        duration_s: Run time in the logged cluster.
        gpus: GPUs that it held.
        model: Name of its model; None where the log does not say.
        data_set: Name of its data set; None where the log does not say.
        origin_zone: Zone in which it was submitted; None where the log does not say.
        deadline_s: Deadline, seconds since the log's first submission; None: not logged.
    """

    log: str
    job_id: str
    submit_s: float
    duration_s: float
    gpus: int
    model: str | None = None
    data_set: str | None = None
    origin_zone: str | None = None
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class RefusedWeek:
    """A week that cannot be simulated: its Monday, 00:00 UTC, and why."""

    monday_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Weeks:
    """Calendar weeks.

    Attributes:
        mondays_s: Mondays, 00:00 UTC, at which a week begins that can be measured: its 168 h, the
            24 h of warm-up before the Monday and 96 h of drain after the week are covered.
        refused: The others.
    """

    mondays_s: tuple[float, ...]
    refused: tuple[RefusedWeek, ...]


class World:
    """Signals, network, catalogues and job logs of a world.

    Files are read when first asked for, a zone at a time, and kept. A table that the directory has
    answers alone: where it lacks a zone or an hour, that is an error and never a typical day.

    Args:
        directory: Its tables; None: the shipped tables answer everything.
    """

    def __init__(self, directory: "TableDirectory | None") -> None:
        self._directory = directory
        self._columns: dict[tuple[str, str, str], HourlyColumn] = {}
        self._zone_rows: dict[tuple[str, str], Rows] = {}
        self._links: Mapping[tuple[str, str], _StatedLink] | None = None
        self._places: Mapping[str, Place] | None = None

    def carbon(self, zone: str, factor: EmissionFactor, start_s: float, hours: int) -> Hourly:
        """Return average carbon intensity over hours, gCO2/kWh.

        Args:
            zone: Electricity zone.
            factor: What the intensity counts; the shipped tables hold life-cycle values only.
            start_s: Begin of the first hour, seconds since the epoch, on a UTC hour.
            hours: How many, at least 1.

        Raises:
            NotCoveredError: the table lacks the zone, the factor or hours at either end.
            GapError: more than `GAP_HOURS_MAX` hours in a row are missing.
            NotFoundError: there is no such table and the shipped ones lack the zone or factor.
            InvalidRequestError: not on a UTC hour, too many hours, or a bad file.
        """
        first, last = _hour_range(start_s, hours)
        if self._has(CARBON):
            return self._window(CARBON, zone, _FACTOR_COLUMNS[factor], first, last, scale=1.0)
        if factor is not EmissionFactor.LIFECYCLE:
            raise NotFoundError(
                f"the shipped typical days hold no {factor.value} carbon intensity",
                hint="give a directory whose table carbon has direct_gco2_per_kwh",
            )
        return _typical(typical_carbon, zone, first, last)

    def price(self, zone: str, start_s: float, hours: int) -> Hourly:
        """Return the wholesale price of electricity over hours, $/kWh; it may be negative.

        Raises:
            NotCoveredError, GapError, NotFoundError, InvalidRequestError: as `carbon`.
        """
        first, last = _hour_range(start_s, hours)
        if self._has(PRICE):
            scale = 1 / _KWH_PER_MWH
            return self._window(PRICE, zone, _PRICE_COLUMN, first, last, scale=scale)
        return _typical(typical_price, zone, first, last)

    def weeks(
        self,
        zones: Sequence[str],
        first: date,
        last: date,
        *,
        factor: EmissionFactor = EmissionFactor.LIFECYCLE,
    ) -> Weeks:
        """Return weeks whose Monday lies in [first, last], tried for all zones.

        A run of the week begins `WARMUP_HOURS` before its Monday.

        Raises:
            NotCoveredError: a table lacks a zone altogether.
            NotFoundError: there is no such table and the shipped ones lack a zone.
        """
        for zone in zones:
            self._known(zone, factor)
        mondays_s: list[float] = []
        refused: list[RefusedWeek] = []
        monday = first + timedelta(days=-first.weekday() % 7)
        while monday <= last:
            monday_s = datetime(monday.year, monday.month, monday.day, tzinfo=UTC).timestamp()
            reasons = self._gaps(zones, factor, monday_s)
            if reasons:
                refused.append(RefusedWeek(monday_s, "; ".join(reasons)))
            else:
                mondays_s.append(monday_s)
            monday += timedelta(days=7)
        return Weeks(tuple(mondays_s), tuple(refused))

    def place(self, zone: str) -> Place:
        """Return where a zone is, by the directory or else the shipped sites.

        Raises:
            NotFoundError: neither knows the zone.
        """
        if self._places is None:
            shipped = {
                facts.zone: Place(facts.zone, facts.continent, lat=facts.lat, lon=facts.lon)
                for facts in tables.default_sites().values()
            }
            self._places = {**shipped, **self._places_of_directory(shipped)}
        if zone not in self._places:
            raise NotFoundError(
                f"nothing says where the zone {zone!r} is",
                hint="give a table zones with zone, continent, lat and lon",
            )
        return self._places[zone]

    def continent(self, zone: str) -> str:
        """Return AF, AS, EU, NA (North America), OC or SA.

        Raises:
            NotFoundError: nothing says where the zone is.
        """
        return self.place(zone).continent

    def egress_usd_per_gb(self, src_zone: str, dst_zone: str) -> float:
        """Return the list price of leaving `src_zone` for `dst_zone`, $ per 1e9 bytes.

        Raises:
            NotFoundError: neither the directory nor the shipped tables name it.
        """
        if src_zone == dst_zone:
            return tables.SAME_ZONE_EGRESS_USD_PER_GB
        stated = self._link_table().get((src_zone, dst_zone))
        if stated is not None and not math.isnan(stated.egress_usd_per_gb):
            return stated.egress_usd_per_gb
        try:
            return tables.link(src_zone, dst_zone).egress_usd_per_gb
        except NotFoundError as exc:
            raise NotFoundError(
                f"nothing states the egress price from {src_zone} to {dst_zone}",
                hint="give a table network with src_zone, dst_zone and egress_usd_per_gb",
            ) from exc

    def link(self, src_zone: str, dst_zone: str) -> WorldLink:
        """Return the link from a site in `src_zone` to another in `dst_zone`, maybe the same zone.

        Each figure comes from the directory, else from the shipped measurements; a round-trip time
        that nobody measured is `FIBRE_DETOUR` times light in fibre over the great circle.

        Raises:
            NotFoundError: no egress price, or no round-trip time and no place.
        """
        if src_zone == dst_zone:
            return WorldLink(
                rtt_s=tables.SAME_ZONE_RTT_S,
                gbps=tables.SAME_ZONE_GBPS,
                egress_usd_per_gb=tables.SAME_ZONE_EGRESS_USD_PER_GB,
                is_rtt_measured=False,
            )
        stated = self._link_table().get((src_zone, dst_zone), _StatedLink())
        rtt_ms, gbps = stated.rtt_ms, stated.gbps
        shipped = _shipped_link(src_zone, dst_zone)
        if shipped is not None and shipped.is_measured:
            rtt_ms = shipped.rtt_s * 1000 if math.isnan(rtt_ms) else rtt_ms
            shipped_gbps = shipped.bytes_per_s * _BITS_PER_BYTE / BYTES_PER_GB
            gbps = shipped_gbps if math.isnan(gbps) else gbps
        is_measured = not math.isnan(rtt_ms)
        return WorldLink(
            rtt_s=rtt_ms / 1000 if is_measured else self._distant_rtt_s(src_zone, dst_zone),
            gbps=None if math.isnan(gbps) else gbps,
            egress_usd_per_gb=self.egress_usd_per_gb(src_zone, dst_zone),
            is_rtt_measured=is_measured,
            jitter_s=0.0 if math.isnan(stated.jitter_ms) else stated.jitter_ms / 1000,
            loss_ratio=0.0 if math.isnan(stated.loss_ratio) else stated.loss_ratio,
        )

    def models(self) -> tuple[WorldModel, ...]:
        """Return the models of the catalogue, small to large."""
        if not self._has(MODELS):
            return tuple(
                WorldModel(facts.name, facts.parameters_b, facts.size_bytes)
                for facts in tables.models()
            )
        columns = self._rows(MODELS).columns
        found = [
            WorldModel(name, _stated(parameters_b), int(size))
            for name, parameters_b, size in zip(
                columns["name"], columns["parameters_b"], columns["size_bytes"], strict=True
            )
        ]
        return tuple(sorted(found, key=lambda model: (model.size_bytes, model.name)))

    def data_sets(self) -> tuple[WorldDataSet, ...]:
        """Return the data sets of the catalogue, small to large."""
        if not self._has(DATA_SETS):
            return tuple(WorldDataSet(facts.name, facts.size_bytes) for facts in tables.data_sets())
        columns = self._rows(DATA_SETS).columns
        sizes = zip(columns["name"], columns["size_bytes"], strict=True)
        found = [WorldDataSet(name, int(size)) for name, size in sizes]
        return tuple(sorted(found, key=lambda data_set: (data_set.size_bytes, data_set.name)))

    def job_logs(self) -> tuple[str, ...]:
        """Return the names of the job logs, sorted; none are shipped."""
        if not self._has(JOBS):
            return ()
        return tuple(sorted(set(self._rows(JOBS).columns["log"])))

    def jobs(self, log: str | None = None) -> tuple[LoggedJob, ...]:
        """Return a job log in order of submission; empty where the directory has none.

        Args:
            log: Which log; None: the only one.

        Raises:
            NotFoundError: no such log, or several and none is named.
        """
        logs = self.job_logs()
        if log is None and not logs:
            return ()
        if log is None and len(logs) > 1:
            raise NotFoundError("there are several job logs", hint=f"name one of {', '.join(logs)}")
        chosen = logs[0] if log is None else log
        if chosen not in logs:
            raise NotFoundError(
                f"there is no job log {chosen!r}", hint=f"known: {', '.join(logs) or 'none'}"
            )
        rows = self._rows(JOBS)
        rows = rows.take(rows.columns["log"] == chosen)
        names = [column.name for column in JOBS.columns]
        return tuple(
            _job(*cells) for cells in zip(*(rows.columns[name] for name in names), strict=True)
        )

    def _has(self, table: TableSchema) -> bool:
        return self._directory is not None and self._directory.has(table)

    def _opened(self) -> "TableDirectory":
        assert self._directory is not None, "asked only where it has the table"
        return self._directory

    def _rows(self, table: TableSchema) -> "Rows":
        if (table.name, "") not in self._zone_rows:
            self._zone_rows[table.name, ""] = self._opened().rows(table)
        return self._zone_rows[table.name, ""]

    def _column(self, table: TableSchema, zone: str, name: str) -> HourlyColumn:
        """Return the hours of a zone that have a value in a column.

        Raises:
            NotCoveredError: the table lacks the zone, or the zone has nothing in that column.
        """
        if (table.name, zone, name) not in self._columns:
            if (table.name, zone) not in self._zone_rows:
                self._zone_rows[table.name, zone] = self._opened().zone_rows(table, zone)
            rows = self._zone_rows[table.name, zone]
            rows = rows.take(np.isfinite(rows.columns[name]))
            files = self._opened().file_names(table)
            if not len(rows):
                raise NotCoveredError(f"{files} has no {name} of {zone}")
            estimated = rows.columns.get("is_estimated")
            self._columns[table.name, zone, name] = HourlyColumn(
                file=files,
                name=name,
                hours=rows.columns["time_utc"],
                values=rows.columns[name],
                rows=rows.row,
                is_estimated=np.zeros(len(rows), dtype=np.bool_)
                if estimated is None
                else estimated,
            )
        return self._columns[table.name, zone, name]

    def _window(
        self, table: TableSchema, zone: str, name: str, first: int, last: int, *, scale: float
    ) -> Hourly:
        column = self._column(table, zone, name)
        _refuse_uncovered(column, zone, first, last)
        _refuse_gaps(column, zone, first, last)
        found = over_window(column, first, last)
        values = found.values * scale
        values.setflags(write=False)
        source = f"{column.file}, column {column.name}"
        if found.interpolated_hours:
            source += f"; {found.interpolated_hours} h interpolated"
        return Hourly(
            values=values,
            interpolated_count=found.interpolated_hours,
            is_estimated=found.is_estimated or found.interpolated_hours > 0,
            source=source,
        )

    def _known(self, zone: str, factor: EmissionFactor) -> None:
        """Raise where a zone is not known at all, so that no week could be covered."""
        if self._has(CARBON):
            self._column(CARBON, zone, _FACTOR_COLUMNS[factor])
        else:
            self.carbon(zone, factor, 0.0, 1)
        if self._has(PRICE):
            self._column(PRICE, zone, _PRICE_COLUMN)
        else:
            self.price(zone, 0.0, 1)

    def _gaps(self, zones: Sequence[str], factor: EmissionFactor, monday_s: float) -> list[str]:
        """Return why a week cannot be simulated; nothing where it can."""
        start_s = monday_s - WARMUP_HOURS * HOUR_S
        hours = WARMUP_HOURS + WEEK_HOURS + DRAIN_HOURS
        reasons: list[str] = []
        for zone in dict.fromkeys(zones):
            try:
                self.carbon(zone, factor, start_s, hours)
            except (GapError, NotCoveredError) as exc:
                reasons.append(exc.message)
            try:
                self.price(zone, start_s, hours)
            except (GapError, NotCoveredError) as exc:
                reasons.append(exc.message)
        return reasons

    def _link_table(self) -> Mapping[tuple[str, str], "_StatedLink"]:
        """Return what the directory states of each link."""
        if self._links is None:
            self._links = {}
            if self._has(NETWORK):
                columns = self._rows(NETWORK).columns
                figures = zip(*(columns[name].tolist() for name in _LINK_FIGURES), strict=True)
                pairs = zip(columns["src_zone"], columns["dst_zone"], strict=True)
                self._links = {
                    pair: _StatedLink(*row) for pair, row in zip(pairs, figures, strict=True)
                }
        return self._links

    def _places_of_directory(self, shipped: Mapping[str, Place]) -> dict[str, Place]:
        if not self._has(ZONES):
            return {}
        columns = self._rows(ZONES).columns
        names = ("zone", "continent", "country", "lat", "lon")
        found: dict[str, Place] = {}
        for zone, stated, country, lat, lon in zip(*(columns[name] for name in names), strict=True):
            continent = stated or ("NA" if country in _NORTH_AMERICA else None)
            if continent is None and zone in shipped:
                continent = shipped[zone].continent
            if continent is not None:
                found[zone] = Place(zone, continent, lat=float(lat), lon=float(lon))
        return found

    def _distant_rtt_s(self, src_zone: str, dst_zone: str) -> float:
        src, dst = self.place(src_zone), self.place(dst_zone)
        km = great_circle_km((src.lat, src.lon), (dst.lat, dst.lon))
        return 2 * km / FIBRE_KM_PER_MS * FIBRE_DETOUR / 1000


def load_world(directory: Path | None) -> World:
    """Return the world of a directory, or of the shipped tables alone.

    The directory may be one that `gcos data import` wrote or any other whose files have the
    columns of the schema or the other names of them; see `README.md`.

    Raises:
        NotFoundError: there is no such directory.
        InvalidRequestError: no file in it is a table of the schema, one of them cannot be read, or
            the extra that reads files is not installed.
    """
    if directory is None:
        return World(None)
    # Imported late: the shipped tables need no library that reads Parquet.
    from testbed.world.table_directory import TableDirectory  # noqa: PLC0415

    opened = TableDirectory(directory)
    if not opened.tables():
        raise InvalidRequestError(
            f"no file in {directory} is a table of the schema", hint="see: gcos data import --help"
        )
    return World(opened)


def _hour_range(start_s: float, hours: int) -> tuple[int, int]:
    """Return the UTC hours [first, last) since the epoch."""
    if not (math.isfinite(start_s) and start_s % HOUR_S == 0):
        raise InvalidRequestError(f"{start_s} s is not on a UTC hour", field="start_s")
    if not 1 <= hours <= WINDOW_HOURS_MAX:
        raise InvalidRequestError(f"{hours} h: 1 to {WINDOW_HOURS_MAX} can be had", field="hours")
    first = int(start_s // HOUR_S)
    return first, first + hours


def _refuse_uncovered(column: HourlyColumn, zone: str, first: int, last: int) -> None:
    begin, end = int(column.hours[0]), int(column.hours[-1])
    if first < begin or last - 1 > end:
        raise NotCoveredError(
            f"{column.file}: {column.name} of {zone} covers {hour_text(begin)} to "
            f"{hour_text(end)}, not {hour_text(first)} to {hour_text(last - 1)}",
            hint="choose hours inside, or import more months",
        )


def _refuse_gaps(column: HourlyColumn, zone: str, first: int, last: int) -> None:
    """Refuse a hole that touches the hours and is too long, even where only its end does."""
    low = int(np.searchsorted(column.hours, first, side="right")) - 1
    high = int(np.searchsorted(column.hours, last - 1, side="left"))
    gaps = np.diff(column.hours[low : high + 1]) - 1
    is_long = gaps > GAP_HOURS_MAX
    if is_long.any():
        index = int(np.argmax(is_long))
        raise GapError(
            f"{column.file}, column {column.name}",
            zone,
            first_missing_hour=int(column.hours[low + index]) + 1,
            gap_hours=int(gaps[index]),
            gap_hours_max=GAP_HOURS_MAX,
        )


def _typical(
    read: Callable[[str, float, float], Signal], zone: str, first: int, last: int
) -> Hourly:
    signal = read(zone, first * HOUR_S, last * HOUR_S)
    return Hourly(
        values=signal.series.values,
        interpolated_count=0,
        is_estimated=True,
        source=signal.provenance.source,
    )


def _shipped_link(src_zone: str, dst_zone: str) -> tables.LinkFacts | None:
    try:
        return tables.link(src_zone, dst_zone)
    except NotFoundError:
        return None


def _stated(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _job(
    log: str,
    job_id: str,
    submit_s: float,
    duration_s: float,
    gpus: float,
    model: str | None,
    data_set: str | None,
    origin_zone: str | None,
    deadline_s: float,
) -> LoggedJob:
    """Return a row of the table jobs, its cells in the order of the schema."""
    return LoggedJob(
        log=log,
        job_id=job_id,
        submit_s=float(submit_s),
        duration_s=float(duration_s),
        gpus=int(gpus),
        model=model,
        data_set=data_set,
        origin_zone=origin_zone,
        deadline_s=_stated(deadline_s),
    )
