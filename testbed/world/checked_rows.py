"""Turns raw cells of a file into checked rows of a table. Needs pyarrow.

What is refused is refused with file, column and row. Hours that nobody asked for are passed over
before their values are looked at.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gcos.signals import HOUR_S
from testbed.world.refusals import BadTableError
from testbed.world.schema import PRICE, Column, Default, Kind, TableSchema
from testbed.world.table_files import Cells, TableFile, as_text

#: Rows in which dollars equal another currency to the last digit: no rate stays at 1 so long.
UNCONVERTED_ROWS: Final = 24

_NATIVE_PRICE: Final = "price"
_GAP_HINT: Final = "a gap is an absent row: leave it out"
_PLAIN_HINT: Final = "store numbers, text or timestamps, one in each row"
_HOUR_US: Final = 3_600_000_000
_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False, "": False}


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Checked rows of one table.

    Attributes:
        table: Which table.
        columns: An array of (n,) for each column of the table; `Kind` tells its type.
        row: (n,) rows of the files, for messages.
        file: (n,) object: names of the files, for messages.
        notes: What a reader must know.
    """

    table: TableSchema
    columns: Mapping[str, NDArray[Any]]
    row: NDArray[np.int64]
    file: NDArray[np.object_]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.row)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> "Rows":
        """Return the rows of an index or a mask."""
        columns = {name: values[index] for name, values in self.columns.items()}
        return Rows(self.table, columns, self.row[index], self.file[index], self.notes)


@dataclass(frozen=True, slots=True)
class Span:
    """UTC hours [first, last) since the epoch."""

    first: int
    last: int


def needed_columns(table: TableSchema, file: TableFile) -> dict[str, tuple[str, float, Kind]]:
    """Return for each column of the table where the file has it: name, factor and kind.

    Raises:
        BadTableError: a column that must be there is not.
    """
    found: dict[str, tuple[str, float, Kind]] = {}
    for column in table.columns:
        place = column.found_in(file.names)
        if place is not None:
            found[column.name] = place
        elif column.is_required:
            raise _lacks(table, file, [column.name])
    if table.one_of and not any(name in found for name in table.one_of):
        raise _lacks(table, file, list(table.one_of))
    return found


def check_rows(
    table: TableSchema, file: TableFile, *, zone: str | None = None, span: Span | None = None
) -> Rows:
    """Return rows of a file as a table.

    Args:
        table: Which table.
        file: The file.
        zone: Only its rows; None: all.
        span: Of an hourly table, only these hours; None: all.

    Raises:
        BadTableError: a column is missing or a cell is not what the schema asks for.
    """
    found = needed_columns(table, file)
    names = raw_names(table, file)
    cells = file.cells(names, zone)
    for name in names:
        kind = cells.columns.schema.field(name).type
        if pa.types.is_nested(kind) or pa.types.is_binary(kind):
            raise BadTableError(
                file.name, f"holds {kind} and no plain values", column=name, hint=_PLAIN_HINT
            )
    columns: dict[str, NDArray[Any]] = {}
    if "time_utc" in found:
        name = found["time_utc"][0]
        hours = _hours(_Place(file.name, name, cells.row), cells.columns[name])
        if span is not None:
            is_wanted = (hours >= span.first) & (hours < span.last)
            cells, hours = cells.take(is_wanted), hours[is_wanted]
        columns["time_utc"] = hours
    notes: list[str] = []
    for column in table.columns:
        if column.name in columns:
            continue
        if column.name in found:
            columns[column.name] = _column(column, found[column.name], file.name, cells, notes)
        else:
            columns[column.name] = _absent(column, file, cells.row)
    _refuse_empty(table, file.name, columns, cells.row)
    if table is PRICE and _NATIVE_PRICE in file.names and "currency" in found:
        _refuse_unconverted(file.name, found["price_usd_per_mwh"][0], columns, cells)
    if table.name == "jobs" and "gpus" not in found:
        notes.append(f"{file.name}: names no GPUs; each job counts as 1")
    ordered = {column.name: columns[column.name] for column in table.columns}
    files = np.full(len(cells.row), file.name, dtype=np.object_)
    return Rows(table, ordered, cells.row, files, tuple(notes))


def raw_names(table: TableSchema, file: TableFile) -> tuple[str, ...]:
    """Return the columns of the file that are read for a table.

    Raises:
        BadTableError: a column that must be there is not.
    """
    names = [name for name, _, _ in needed_columns(table, file).values()]
    if table is PRICE and _NATIVE_PRICE in file.names and _NATIVE_PRICE not in names:
        names.append(_NATIVE_PRICE)
    return tuple(names)


def _lacks(table: TableSchema, file: TableFile, names: list[str]) -> BadTableError:
    wanted = " or ".join(names)
    values = {value.name for value in table.columns} & set(table.values_in(file.names))
    near = [name for name in table.values_in(file.names) if name not in values]
    if near and set(names) & set(table.values_in(names)):
        return BadTableError(
            file.name,
            f"{', '.join(near)} is not {wanted}",
            column=near[0],
            row=1 if file.path.suffix != ".parquet" else 0,
            hint=table.wrong_unit_hint,
        )
    return BadTableError(
        file.name,
        f"the table {table.name} needs a column {wanted}",
        column=names[0],
        hint=f"it has {', '.join(file.names)}",
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where cells are, for messages."""

    file: str
    column: str
    row: NDArray[np.int64]

    def refused(self, index: int, what: str, hint: str = "") -> BadTableError:
        """Return the error that the cell `index` is wrong."""
        return BadTableError(
            self.file, what, column=self.column, row=int(self.row[index]), hint=hint
        )

    def refuse(self, is_bad: NDArray[np.bool_], what: str, hint: str = "") -> None:
        """Raise for the first cell of a mask, if there is one."""
        if is_bad.any():
            raise self.refused(int(np.argmax(is_bad)), what, hint)


def _column(
    column: Column,
    found: tuple[str, float, Kind],
    file: str,
    cells: Cells,
    notes: list[str],
) -> NDArray[Any]:
    name, factor, kind = found
    place, raw = _Place(file, name, cells.row), cells.columns[name]
    match kind:
        case Kind.TEXT:
            return _texts(place, raw, may_be_empty=column.may_be_empty)
        case Kind.FLAG:
            return _flags(place, raw)
        case Kind.ELAPSED:
            values = _elapsed(place, raw, notes)
        case _:
            values = _numbers(place, raw, may_be_empty=column.may_be_empty) * factor
    if kind is Kind.COUNT:
        whole = np.rint(values)
        # Gigabytes with decimals are whole bytes only up to rounding.
        is_part = (whole != values) & np.isfinite(values) & (factor == 1)
        place.refuse(is_part, "not a whole number", "write it like 4")
        values = whole
    if column.least is not None:
        is_below = values < column.least
        if is_below.any():
            index = int(np.argmax(is_below))
            raise place.refused(
                index,
                f"{values[index] / factor:g} is below {column.least / factor:g}",
                hint="it cannot be less: see where it comes from, or leave the row out",
            )
    if column.most is not None:
        is_above = values > column.most
        if is_above.any():
            index = int(np.argmax(is_above))
            raise place.refused(
                index,
                f"{values[index] / factor:g} is above {column.most / factor:g}",
                hint="see where it comes from, or leave the cell empty",
            )
    return values


def _absent(column: Column, file: TableFile, row: NDArray[np.int64]) -> NDArray[Any]:
    """Return what stands for a column that the file does not have."""
    if column.default is Default.FILE_STEM:
        return np.full(len(row), file.stem.removeprefix("jobs_"), dtype=np.object_)
    if column.default is Default.ROW:
        return np.array([str(number) for number in row], dtype=np.object_)
    if column.kind is Kind.TEXT:
        return np.full(len(row), None, dtype=np.object_)
    if column.kind is Kind.FLAG:
        return np.zeros(len(row), dtype=np.bool_)
    return np.full(len(row), math.nan if column.default is None else column.default)


def _refuse_empty(
    table: TableSchema, file: str, columns: Mapping[str, NDArray[Any]], row: NDArray[np.int64]
) -> None:
    """Refuse a row that has none of the values of which it needs one."""
    if table.one_of:
        is_empty = np.logical_and.reduce([np.isnan(columns[name]) for name in table.one_of])
        place = _Place(file, " and ".join(table.one_of), row)
        place.refuse(is_empty, "empty", _GAP_HINT)


def _refuse_unconverted(
    file: str, name: str, columns: Mapping[str, NDArray[Any]], cells: Cells
) -> None:
    """Refuse dollars that are another currency under a wrong name."""
    native = _numbers(
        _Place(file, _NATIVE_PRICE, cells.row), cells.columns[_NATIVE_PRICE], may_be_empty=True
    )
    usd = columns["price_usd_per_mwh"]
    currencies = columns["currency"]
    for currency in dict.fromkeys(currencies):
        if currency is None or currency == "USD":
            continue
        its = (currencies == currency) & (native != 0) & np.isfinite(native)
        if its.sum() >= UNCONVERTED_ROWS and (native[its] == usd[its]).all():
            raise _Place(file, name, cells.row).refused(
                int(np.argmax(its)),
                f"these are {currency}, not US dollars: both columns are equal in all rows",
                hint="convert them",
            )


def _texts(place: _Place, raw: pa.ChunkedArray, *, may_be_empty: bool) -> NDArray[np.object_]:
    codes, texts = _coded(raw)
    # Thousands of rows share a few texts, which are made once.
    distinct = np.array([text or None for text in texts], dtype=np.object_)
    if not may_be_empty:
        place.refuse(np.array([not text for text in texts], dtype=np.bool_)[codes], "an empty cell")
    return np.asarray(distinct[codes], dtype=np.object_)


def _flags(place: _Place, raw: pa.ChunkedArray) -> NDArray[np.bool_]:
    if pa.types.is_boolean(raw.type):
        return _mask(pc.fill_null(raw, False))
    texts = pc.utf8_lower(pc.fill_null(as_text(raw), "")).to_pylist()
    flags = [_FLAGS.get(text) for text in texts]
    is_none = np.array([flag is None for flag in flags], dtype=np.bool_)
    place.refuse(is_none, "not true or false", "write true or false, or leave the cell empty")
    return np.array(flags, dtype=np.bool_)


def _numbers(place: _Place, raw: pa.ChunkedArray, *, may_be_empty: bool) -> NDArray[np.float64]:
    """Return finite numbers, NaN in cells that are empty and may be."""
    kind = raw.type
    is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    column = raw if is_number else _parsed(place, as_text(raw))
    is_empty = _mask(pc.is_null(column))
    if not may_be_empty:
        place.refuse(is_empty, "an empty cell", _GAP_HINT)
    values = np.asarray(
        pc.fill_null(pc.cast(column, pa.float64()), math.nan).to_numpy(), dtype=np.float64
    )
    is_bad = ~np.isfinite(values) & ~is_empty
    if is_bad.any():
        index = int(np.argmax(is_bad))
        hint = "leave the cell empty" if may_be_empty else _GAP_HINT
        raise place.refused(index, f"{values[index]} is not finite", hint)
    return values


def _parsed(place: _Place, text: pa.ChunkedArray) -> pa.ChunkedArray:
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    try:
        return pc.cast(text, pa.float64())
    except pa.ArrowInvalid:
        # Arrow does not say which cell; some spellings that it refuses are numbers all the same.
        values: list[float | None] = []
        for index, cell in enumerate(text.to_pylist()):
            try:
                # Python takes 1_0 for a number, and whoever wrote it may have meant 1.0.
                values.append(None if cell is None else float(cell.replace("_", "?")))
            except ValueError:
                raise place.refused(
                    index, f"{cell!r} is no number", "write it like 1234.5"
                ) from None
        return pa.chunked_array([pa.array(values, pa.float64())])


def _hours(place: _Place, raw: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return whole UTC hours since the epoch."""
    if len(raw) == 0:
        return np.empty(0, dtype=np.int64)
    if not pa.types.is_timestamp(raw.type):
        return _hours_of_text(place, raw)
    if raw.type.tz is None:
        raise place.refused(
            0, f"{raw[0]} has no offset from UTC", "store the times as UTC timestamps"
        )
    place.refuse(_mask(pc.is_null(raw)), "an empty cell")
    micros = pc.cast(pc.cast(raw, pa.timestamp("us", tz="UTC"), safe=False), pa.int64()).to_numpy()
    hours, rest = np.divmod(np.asarray(micros, dtype=np.int64), _HOUR_US)
    if rest.any():
        index = int(np.argmax(rest != 0))
        raise _off_the_hour(place, index, str(raw[index]))
    return hours


def _hours_of_text(place: _Place, raw: pa.ChunkedArray) -> NDArray[np.int64]:
    codes, texts = _coded(raw)
    # Zones share hours: each spelling is parsed once, and blamed on the first row that has it.
    _, first = np.unique(codes, return_index=True)
    hours = np.empty(len(texts), dtype=np.int64)
    for index in sorted(first):
        code = codes[index]
        instant = _instant(place, int(index), texts[code])
        if instant.tzinfo is None:
            # Taken for UTC it would shift a signal by hours, and nothing else would look wrong.
            raise place.refused(
                int(index),
                f"{texts[code]!r} has no offset from UTC",
                "append Z, or the offset of the local time such as +02:00",
            )
        hour, rest = divmod(instant.astimezone(UTC).timestamp(), HOUR_S)
        if rest:
            raise _off_the_hour(place, int(index), texts[code])
        hours[code] = hour
    return hours[codes]


def _coded(raw: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """Return the distinct texts of a column, empty cells as "", and which of them each cell is."""
    text = raw.cast(raw.type.value_type) if pa.types.is_dictionary(raw.type) else raw
    coded = pc.fill_null(as_text(text), "").dictionary_encode().unify_dictionaries()
    chunks = [chunk.indices.to_numpy() for chunk in coded.chunks]
    if not chunks:
        return np.empty(0, dtype=np.int64), []
    return np.concatenate(chunks).astype(np.int64), coded.chunk(0).dictionary.to_pylist()


def _elapsed(place: _Place, raw: pa.ChunkedArray, notes: list[str]) -> NDArray[np.float64]:
    """Return seconds since the earliest of some clock times."""
    if len(raw) == 0:
        return np.empty(0)
    texts = [str(cell) for cell in raw.to_pylist()]
    instants = [_instant(place, index, text) for index, text in enumerate(texts)]
    is_local = np.array([instant.tzinfo is None for instant in instants])
    if is_local.any():
        place.refuse(~is_local, "has an offset from UTC where other rows have none")
        # Only what lies between two rows counts in a job log, not which hour of the day it was.
        notes.append(
            f"{place.file}: {place.column} has no offset from UTC, so only the time since the "
            "first row is taken; a change of the clocks in between would show as an hour"
        )
        instants = [instant.replace(tzinfo=UTC) for instant in instants]
    seconds = np.array([instant.timestamp() for instant in instants])
    return np.asarray(seconds - seconds.min(), dtype=np.float64)


def _instant(place: _Place, index: int, text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is not None:
            instant.astimezone(UTC)  # the first and the last year have instants that UTC has not
        return instant
    except (ValueError, OverflowError):
        raise place.refused(
            index, f"{text!r} is no time", "write it like 2023-07-02T12:00Z"
        ) from None


def _off_the_hour(place: _Place, index: int, text: str) -> BadTableError:
    return place.refused(
        index,
        f"{text!r} is not a whole UTC hour",
        "average to whole UTC hours first; zones such as India's are half an hour off",
    )


def _mask(column: Any) -> NDArray[np.bool_]:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.bool_)
