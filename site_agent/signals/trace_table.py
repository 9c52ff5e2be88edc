"""Rows of a trace, checked one by one and laid out as hourly columns. No I/O.

A trace has the columns `zone`, `time` (start of a UTC hour), `carbon_gco2_per_kwh`,
`price_usd_per_kwh`, one of the last two at least, and maybe `estimated`. The names that public
tables use are read too: `ci_lifecycle` is carbon, `price_usd_per_mwh` is a price. A message about
a bad value names file, column and row.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gcos.errors import InvalidRequestError, NotFoundError, TooLargeError
from gcos.signals import HOUR_S, WINDOW_HOURS_MAX

#: Missing hours in a row that are interpolated; more of them refuse the window.
GAP_HOURS_MAX: Final = 3

#: Names of a column, the first one found counts, and what its values are multiplied by.
CARBON_COLUMNS: Final[Mapping[str, float]] = {"carbon_gco2_per_kwh": 1.0, "ci_lifecycle": 1.0}
PRICE_COLUMNS: Final[Mapping[str, float]] = {"price_usd_per_kwh": 1.0, "price_usd_per_mwh": 1e-3}

#: Exit status of the Parquet reader where the file lacks the zone.
EXIT_NO_ZONE: Final = 3

#: Epoch seconds outside 1973 to 2096 are something else: a year, a compact date, milliseconds.
_EPOCH_MIN_S: Final = 1e8
_EPOCH_MAX_S: Final = 4e9

_ZONES_NAMED: Final = 20
_TRUE: Final = frozenset({"true", "1"})


@dataclass(frozen=True, slots=True)
class HourlyColumn:
    """One column of one zone, by hour, with holes where the file has none.

    Attributes:
        file: Name of the file.
        name: Name of the column in the file.
        hours: (n,) whole UTC hours since the epoch, strictly increasing.
        values: (n,) finite values in the unit of the signal.
        rows: (n,) rows of the file, for messages.
        is_estimated: (n,) the file marks the value as an estimate.
    """

    file: str
    name: str
    hours: NDArray[np.int64]
    values: NDArray[np.float64]
    rows: NDArray[np.int64]
    is_estimated: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ZoneTrace:
    """What a file says of one zone; a column that the file does not have is None."""

    carbon: HourlyColumn | None
    price: HourlyColumn | None


@dataclass(frozen=True, slots=True)
class WindowValues:
    """A column over a window of hours.

    Attributes:
        values: (n,) one for each hour; NaN outside the file.
        is_outside: (n,) hours before the first or after the last row.
        interpolated_hours: How many inner hours were missing and interpolated.
        is_estimated: The file marks some value of the window as an estimate.
    """

    values: NDArray[np.float64]
    is_outside: NDArray[np.bool_]
    interpolated_hours: int
    is_estimated: bool


def parse_zone(
    file: str, columns: Iterable[str], rows: Iterable[tuple[int, Mapping[str, str | None]]]
) -> ZoneTrace:
    """Return the columns of one zone from its rows of text, in any order.

    Args:
        file: Name for messages.
        columns: Names of the columns that the file has.
        rows: Row number, as a person counts them in the file, and cells by column.

    Raises:
        InvalidRequestError: no signal column, a local or unreadable time, a time off the hour,
            NaN, negative carbon or two rows of one hour.
        TooLargeError: more rows than `WINDOW_HOURS_MAX`.
    """
    present = set(columns)
    if "time" not in present:
        raise InvalidRequestError(f"{file}: no column time", field="time")
    carbon_name = next((name for name in CARBON_COLUMNS if name in present), None)
    price_name = next((name for name in PRICE_COLUMNS if name in present), None)
    if carbon_name is None and price_name is None:
        raise InvalidRequestError(
            f"{file}: no column of carbon or price",
            hint=f"one of {', '.join([*CARBON_COLUMNS, *PRICE_COLUMNS])}",
        )
    by_hour: dict[int, tuple[int, Mapping[str, str | None]]] = {}
    for row, cells in rows:
        hour = _hour(file, row, cells.get("time") or "")
        if hour in by_hour:
            raise _refused(
                file, "time", row, f"the hour of row {by_hour[hour][0]} once more", "duplicate hour"
            )
        if len(by_hour) == WINDOW_HOURS_MAX:
            raise TooLargeError(f"{file}: more than {WINDOW_HOURS_MAX} hours of one zone")
        by_hour[hour] = (row, cells)
    ordered = dict(sorted(by_hour.items()))
    return ZoneTrace(
        carbon=None
        if carbon_name is None
        else _column(file, carbon_name, CARBON_COLUMNS[carbon_name], ordered, least=0.0),
        price=None
        if price_name is None
        else _column(file, price_name, PRICE_COLUMNS[price_name], ordered, least=-math.inf),
    )


def lacks_zone(file: str, zone: str, known: Iterable[str]) -> NotFoundError:
    """Return the error that a file has no row of `zone`; names some that it has."""
    names = sorted(known)
    more = ", ..." if len(names) > _ZONES_NAMED else ""
    return NotFoundError(
        f"{file} has no row of zone {zone!r}",
        hint=f"it has {', '.join(names[:_ZONES_NAMED])}{more}",
    )


def over_window(column: HourlyColumn, first: int, last: int) -> WindowValues:
    """Return `column` over the hours [first, last), holes of up to `GAP_HOURS_MAX` interpolated.

    Raises:
        InvalidRequestError: a longer hole lies in the window.
    """
    grid = np.arange(first, last, dtype=np.int64)
    is_outside = (grid < column.hours[0]) | (grid > column.hours[-1])
    after = np.clip(np.searchsorted(column.hours, grid), 0, len(column.hours) - 1)
    is_missing = ~is_outside & (column.hours[after] != grid)
    for index in after[is_missing]:
        gap = int(column.hours[index] - column.hours[index - 1]) - 1
        if gap > GAP_HOURS_MAX:
            raise _refused(
                column.file,
                column.name,
                int(column.rows[index]),
                f"{gap} h without a row before it",
                f"gap above {GAP_HOURS_MAX} h",
            )
    values = np.where(is_outside, np.nan, np.interp(grid, column.hours, column.values))
    is_present = ~is_outside & ~is_missing
    return WindowValues(
        values=values,
        is_outside=is_outside,
        interpolated_hours=int(is_missing.sum()),
        is_estimated=bool(column.is_estimated[after[is_present]].any()),
    )


def _column(
    file: str,
    name: str,
    scale: float,
    ordered: Mapping[int, tuple[int, Mapping[str, str | None]]],
    *,
    least: float,
) -> HourlyColumn:
    return HourlyColumn(
        file=file,
        name=name,
        hours=np.array(list(ordered), dtype=np.int64),
        values=np.array([_value(file, name, *cell, least) for cell in ordered.values()]) * scale,
        rows=np.array([row for row, _ in ordered.values()], dtype=np.int64),
        is_estimated=np.array(
            [(cells.get("estimated") or "").lower() in _TRUE for _, cells in ordered.values()]
        ),
    )


def _value(
    file: str, column: str, row: int, cells: Mapping[str, str | None], least: float
) -> float:
    text = cells.get(column) or ""
    try:
        value = float(text)
    except ValueError:
        raise _refused(file, column, row, f"{text!r} is no number", "bad value") from None
    if not math.isfinite(value):
        raise _refused(file, column, row, f"{text!r} is not finite", "leave the row out")
    if value < least:
        raise _refused(file, column, row, f"{text} is negative", "bad value")
    return value


def _hour(file: str, row: int, text: str) -> int:
    """Return the UTC hour since the epoch of a time cell."""
    seconds = _epoch_s(file, row, text)
    hour, rest = divmod(seconds, HOUR_S)
    if rest:
        raise _refused(file, "time", row, f"{text!r} is not a whole UTC hour", "average to hours")
    return int(hour)


def _epoch_s(file: str, row: int, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        if not _EPOCH_MIN_S <= number <= _EPOCH_MAX_S:
            raise _refused(file, "time", row, f"{text!r} is no epoch time", "seconds, not ms")
        return number
    try:
        instant = datetime.fromisoformat(text.strip())
    except ValueError:
        raise _refused(file, "time", row, f"{text!r} is no time", "RFC 3339 or seconds") from None
    if instant.tzinfo is None:
        # Taking local time for UTC shifts a signal by hours and nothing else looks wrong.
        raise _refused(
            file, "time", row, f"{text!r} has no offset from UTC", "append Z or an offset"
        )
    return instant.astimezone(UTC).timestamp()


def _refused(file: str, column: str, row: int, what: str, hint: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{file}, column {column}, row {row}: {what}", field=column, hint=hint
    )
