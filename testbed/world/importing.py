"""Reads tables from a directory, checks them and writes them in the schema. Needs pyarrow."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gcos.errors import InvalidRequestError
from testbed.world.checked_rows import Rows, Span
from testbed.world.refusals import BadTableError, NotCoveredError, hour_text
from testbed.world.schema import TABLES, Kind, TableSchema
from testbed.world.table_directory import TableDirectory

#: Where an import says what it read.
SOURCES_FILE: Final = "SOURCES.md"

_ARROW: Final = {
    Kind.TEXT: pa.string(),
    Kind.HOUR: pa.timestamp("us", tz="UTC"),
    Kind.NUMBER: pa.float64(),
    Kind.COUNT: pa.int64(),
    Kind.FLAG: pa.bool_(),
}
_HOUR_US: Final = 3_600_000_000


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of one table, of an hourly one in one zone.

    Attributes:
        table: Name of the table.
        zone: Zone of an hourly table, log of jobs; else empty.
        rows: How many rows.
        first_utc: First hour; empty where the table is not hourly.
        last_utc: Last hour.
        gap_count: Holes between first and last hour.
        missing_hours: Hours in them.
        longest_gap_hours: Hours in the longest.
        estimated_share: Rows that the source marks as estimated, 0 to 1; None where it never says.
        currency: Currency of the market, where the table says.
    """

    table: str
    zone: str
    rows: int
    first_utc: str = ""
    last_utc: str = ""
    gap_count: int = 0
    missing_hours: int = 0
    longest_gap_hours: int = 0
    estimated_share: float | None = None
    currency: str = ""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import read and wrote.

    Attributes:
        source: Directory that was read.
        written_to: Directory that was written.
        found: Tables and zones.
        files: Which files each table was read from.
        notes: What a reader must know.
    """

    source: str
    written_to: str
    found: tuple[Found, ...]
    files: dict[str, str]
    notes: tuple[str, ...]


def import_tables(
    source: Path, to: Path, *, zones: Sequence[str] = (), span: Span | None = None
) -> ImportReport:
    """Read the tables at `source`, check them and write them to `to` in the schema.

    A table that `to` has already is replaced; other tables there stay. Nothing is written where
    something is refused.

    Args:
        source: Directory of CSV or Parquet files, or one file.
        to: Directory to write; made where it is missing.
        zones: Only these zones of hourly tables; none: all.
        span: Only these hours of hourly tables; None: all.

    Raises:
        BadTableError: a file does not say what the schema asks for.
        NotCoveredError: no table has one of the zones, or one has none of the hours.
        InvalidRequestError: no file is a table, or `to` has a file in the way.
    """
    directory = TableDirectory(source)
    tables = directory.tables()
    if not tables:
        names = ", ".join(table.name for table in TABLES)
        raise InvalidRequestError(
            f"no file in {source} is a table of the schema",
            hint=f"tables are told by their columns: {names}; see testbed/world/README.md",
        )
    for table in tables:
        _refuse_without_rows(directory, table)
    notes = _told_of_files(directory)
    wanted = _zones_of_tables(directory, zones, notes)
    _refuse_in_the_way(to, tables)
    to.mkdir(parents=True, exist_ok=True)
    found: list[Found] = []
    staged: list[tuple[Path, Path]] = []
    try:
        for table in tables:
            final = to / f"{table.name}.parquet"
            rough = final.with_name(f"{final.name}.part")
            staged.append((rough, final))
            parts = (
                _hourly_parts(directory, table, wanted[table.name], span, is_strict=bool(zones))
                if table.is_hourly
                else iter([directory.rows(table)])
            )
            found += _write(rough, table, parts, notes)
        for rough, final in staged:
            rough.replace(final)
    finally:
        for rough, _ in staged:
            rough.unlink(missing_ok=True)
    notes += _short_of(found, span)
    files = {table.name: directory.file_names(table) for table in tables}
    report = ImportReport(
        str(source), str(to), found=tuple(found), files=files, notes=tuple(dict.fromkeys(notes))
    )
    (to / SOURCES_FILE).write_text(_sources_text(report), encoding="utf-8")
    return report


def write_rows(path: Path, table: TableSchema, parts: Iterable[Rows]) -> None:
    """Write rows of a table as Parquet, a row group for each part; the same rows, the same bytes.

    Parts of an hourly table are zones, so that a reader of one zone passes over the others.
    """
    with pq.ParquetWriter(path, _arrow_schema(table), compression="zstd") as writer:
        for part in parts:
            writer.write_table(_arrow_table(part))


def _write(path: Path, table: TableSchema, parts: Iterable[Rows], notes: list[str]) -> list[Found]:
    found: list[Found] = []

    def told() -> Iterator[Rows]:
        for part in parts:
            found.extend(_found(part))
            notes.extend(part.notes)
            yield part

    write_rows(path, table, told())
    return found


def _refuse_without_rows(directory: TableDirectory, table: TableSchema) -> None:
    """Refuse a table of a header alone: it would answer in place of the shipped one, with nothing.

    Raises:
        BadTableError: It is one.
    """
    if not (directory.zones(table) if table.is_hourly else len(directory.rows(table))):
        files = directory.file_names(table)
        hint = "leave the file out, and the shipped table answers"
        raise BadTableError(files, f"the table {table.name} has no rows", hint=hint)


def _zones_of_tables(
    directory: TableDirectory, zones: Sequence[str], notes: list[str]
) -> dict[str, tuple[str, ...]]:
    """Return the zones to read of each hourly table."""
    has = {table.name: directory.zones(table) for table in directory.tables() if table.is_hourly}
    if not zones:
        return has
    known = sorted({zone for names in has.values() for zone in names})
    for zone in zones:
        if zone not in known:
            raise NotCoveredError(
                f"no table in {directory.path} has the zone {zone!r}",
                hint=f"they have {', '.join(known) or 'no zones'}",
            )
        notes += [f"{name} has no zone {zone}" for name in has if zone not in has[name]]
    return {name: tuple(zone for zone in names if zone in zones) for name, names in has.items()}


def _hourly_parts(
    directory: TableDirectory,
    table: TableSchema,
    zones: Sequence[str],
    span: Span | None,
    *,
    is_strict: bool,
) -> Iterator[Rows]:
    """Yield the rows of each zone.

    Raises:
        NotCoveredError: a zone that was asked for by name, or the whole table, has none of the
            hours.
    """
    covered: list[str] = []
    yielded = 0
    for zone in zones:
        rows = directory.zone_rows(table, zone, span)
        if len(rows):
            yielded += 1
            yield rows
            continue
        hours = directory.zone_rows(table, zone).columns["time_utc"]
        assert span is not None, "a zone without rows is refused before"
        covered.append(f"{zone} {_around(hours, span)}")
        if is_strict:
            break
    if covered and (is_strict or not yielded):
        raise NotCoveredError(
            f"{directory.file_names(table)} has none of the hours asked for",
            hint=f"it covers {'; '.join(covered)}",
        )


def _around(hours: NDArray[np.int64], span: Span) -> str:
    """Return the stretches of hours before and after a span in which there are none."""
    parts = (hours[hours < span.first], hours[hours >= span.last])
    return " and ".join(
        f"{hour_text(int(part[0]))} to {hour_text(int(part[-1]))}" for part in parts if part.size
    )


def _found(rows: Rows) -> list[Found]:
    name = rows.table.name
    if not rows.table.is_hourly:
        logs = rows.columns.get("log")
        if logs is None:
            return [Found(name, "", len(rows))]
        return [Found(name, str(log), int((logs == log).sum())) for log in dict.fromkeys(logs)]
    hours = rows.columns["time_utc"]
    gaps = np.diff(hours) - 1
    estimated = rows.columns.get("is_estimated")
    currencies = [str(each) for each in dict.fromkeys(rows.columns.get("currency", ())) if each]
    return [
        Found(
            name,
            str(rows.columns["zone"][0]),
            len(rows),
            first_utc=hour_text(int(hours[0])),
            last_utc=hour_text(int(hours[-1])),
            gap_count=int((gaps > 0).sum()),
            missing_hours=int(gaps.sum()),
            longest_gap_hours=int(gaps.max(initial=0)),
            estimated_share=None if estimated is None else float(estimated.mean()),
            currency=", ".join(currencies),
        )
    ]


def _told_of_files(directory: TableDirectory) -> list[str]:
    notes = [
        f"{file}: ignored columns {', '.join(columns)}"
        for file, columns in directory.ignored_columns().items()
    ]
    if directory.left_aside:
        notes.append(f"no table of the schema: {', '.join(directory.left_aside)}")
    return notes


def _short_of(found: Sequence[Found], span: Span | None) -> list[str]:
    """Return what is missing at the ends of the hours that were asked for."""
    if span is None:
        return []
    notes: list[str] = []
    for each in found:
        if each.first_utc > hour_text(span.first):
            notes.append(f"{each.table} of {each.zone} begins only at {each.first_utc}")
        if each.last_utc and each.last_utc < hour_text(span.last - 1):
            notes.append(f"{each.table} of {each.zone} ends already at {each.last_utc}")
    return notes


def _refuse_in_the_way(to: Path, tables: Sequence[TableSchema]) -> None:
    """Refuse a directory in which a table would lie twice."""
    if to.exists() and not to.is_dir():
        raise InvalidRequestError(f"{to} is no directory", field="to")
    ours = {f"{table.name}.parquet" for table in tables}
    present = TableDirectory(to) if to.is_dir() else None
    for table in tables:
        if present is not None and present.has(table):
            others = [n for n in present.file_names(table).split(", ") if n not in ours]
            if others:
                raise InvalidRequestError(
                    f"{to} has the table {table.name} already, in {', '.join(others)}",
                    field="to",
                    hint="write to an empty directory",
                )


def _sources_text(report: ImportReport) -> str:
    lines = [
        "# Where these tables come from",
        "",
        f"Read from `{Path(report.source).name}` by `gcos data import`; the licences are those of",
        "that source. Hours are UTC, an absent row is a gap, nothing was filled or clipped.",
        "",
        *(f"- `{table}.parquet`: {files}" for table, files in report.files.items()),
        "",
        *(f"- {note}" for note in report.notes),
    ]
    return "\n".join(lines) + "\n"


def _arrow_schema(table: TableSchema) -> pa.Schema:
    return pa.schema([pa.field(column.name, _ARROW[column.kind]) for column in table.columns])


def _arrow_table(rows: Rows) -> pa.Table:
    schema = _arrow_schema(rows.table)
    arrays = [_arrow_array(rows.columns[column.name], column.kind) for column in rows.table.columns]
    return pa.table(arrays, schema=schema)


def _arrow_array(values: NDArray[Any], kind: Kind) -> pa.Array:
    if kind is Kind.HOUR:
        return pa.array(values * _HOUR_US, pa.int64()).cast(_ARROW[kind])
    if kind in {Kind.NUMBER, Kind.COUNT}:
        whole = pa.array(values, pa.float64(), from_pandas=True)  # NaN is an empty cell
        return whole.cast(_ARROW[kind])
    return pa.array(values, _ARROW[kind])
