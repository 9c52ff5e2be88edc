"""A job log ready for replay: cleaned, in order of submission, with what is known when. Pure.

A run time is known only once the job has ended. `known_from` tells, for each row, the first row at
whose submission that is so; replay and baselines learn from nothing else.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from gcos.durations import SECONDS_MAX, SECONDS_MIN
from gcos.errors import InvalidRequestError
from predictor.backtest.reading import Cell, Note, Table, TraceError
from predictor.records import Finished, Row

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Between values in the name of a context: ASCII's unit separator, which no log has in names.
_SEPARATOR = "\x1f"
#: Fewer rows leave nothing to learn from once they are split.
ROW_COUNT_MIN = 10
#: Shares of rows, in order of submission, to learn from and to choose hyperparameters on.
TRAIN_SHARE = 0.6
VALIDATION_SHARE = 0.2


class TimeUnit(Enum):
    """A unit of times and durations; the value is its name in options."""

    NANOSECONDS = "ns"
    MICROSECONDS = "us"
    MILLISECONDS = "ms"
    SECONDS = "s"
    MINUTES = "min"
    HOURS = "h"
    DAYS = "d"

    @property
    def seconds(self) -> float:
        """Seconds in one."""
        return _UNIT_SECONDS[self]


_UNIT_SECONDS = {
    TimeUnit.NANOSECONDS: 1e-9,
    TimeUnit.MICROSECONDS: 1e-6,
    TimeUnit.MILLISECONDS: 1e-3,
    TimeUnit.SECONDS: 1.0,
    TimeUnit.MINUTES: 60.0,
    TimeUnit.HOURS: 3600.0,
    TimeUnit.DAYS: 86_400.0,
}


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of a job log mean.

    Attributes:
        submit: When the job was handed in, or its place in the order.
        duration: How long it ran.
        start: When it started; empty: not known.
        wait: How long it waited; empty: not known.
        numeric: Keys that are numbers.
        categorical: Keys that are names.
        contexts: Columns of each context, from general to specific.
        time_unit: Unit of numbers in `submit` and `start`.
        duration_unit: Unit of numbers in `duration` and `wait`.
        known_after_count: Later submissions after which an end counts as known, for logs that tell
            only an order; 0: the times tell.
    """

    submit: str
    duration: str
    start: str = ""
    wait: str = ""
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    contexts: tuple[tuple[str, ...], ...] = ()
    time_unit: TimeUnit = TimeUnit.SECONDS
    duration_unit: TimeUnit = TimeUnit.SECONDS
    known_after_count: int = 0

    def __post_init__(self) -> None:
        if self.start and self.wait:
            raise InvalidRequestError("give --start or --wait, not both", field="--start")
        if self.known_after_count < 0:
            raise InvalidRequestError("must be 1 or more", field="--known-after")
        if self.known_after_count and (self.start or self.wait):
            message = "an order of submissions has no --start and no --wait"
            raise InvalidRequestError(message, field="--known-after")
        if self.duration in {self.submit, *self.numeric, *self.categorical, *self.in_contexts}:
            message = f"{self.duration!r} is what is predicted; it cannot be a key as well"
            raise InvalidRequestError(message, field="--duration")

    @property
    def in_contexts(self) -> tuple[str, ...]:
        """Columns of all contexts, each once."""
        return tuple(dict.fromkeys(name for context in self.contexts for name in context))

    @property
    def all(self) -> tuple[str, ...]:
        """Every column that is read."""
        named = (self.submit, self.duration, self.start, self.wait)
        keys = (*self.numeric, *self.categorical, *self.in_contexts)
        return tuple(name for name in (*named, *keys) if name)


def contexts_of(text: str) -> tuple[tuple[str, ...], ...]:
    """Parse `a; a,b; a,b,c`: contexts from general to specific, each a list of columns.

    Raises:
        InvalidRequestError: A context names no column, or one twice.
    """
    if not text.strip():
        return ()
    contexts = tuple(names_of(part) for part in text.split(";"))
    for context in contexts:
        if not context or len(set(context)) < len(context):
            message = f"{text!r}: a context names no column, or one of them twice"
            hint = "from general to specific, such as 'user; user,queue; user,queue,gpus'"
            raise InvalidRequestError(message, field="--context", hint=hint)
    return contexts


def names_of(text: str) -> tuple[str, ...]:
    """Parse `a,b,c`: names of columns."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


@dataclass(frozen=True, slots=True)
class Trace:
    """A job log in order of submission.

    Attributes:
        submit_s: When each job was handed in, (n,), ascending; places where only an order is known.
        duration_s: How long each ran, (n,), within [0.001, 1e9] s.
        end_s: When each ended, (n,), on the axis of `submit_s`.
        known_from: Index of the first row at whose submission the end is known, (n,); above its
            own index, n where no row is late enough.
        numeric: Numeric keys, (n, k); NaN where missing.
        categorical: Categorical keys: for each of them, n names; empty where missing.
        context_names: Columns of each context, from general to specific.
        context_columns: Names by column for all columns in contexts.
        file_rows: Place of each row in the file, (n,), from 0.
        row_count: Rows of the file.
        notes: Rows that were dropped or altered.
    """

    submit_s: Floats
    duration_s: Floats
    end_s: Floats
    known_from: Ints
    numeric: Floats
    categorical: tuple[tuple[str, ...], ...]
    context_names: tuple[tuple[str, ...], ...]
    context_columns: dict[str, tuple[str, ...]]
    file_rows: Ints
    row_count: int
    notes: tuple[Note, ...]

    def __len__(self) -> int:
        return len(self.submit_s)

    @property
    def validation_from(self) -> int:
        """Index of the first row to choose hyperparameters on."""
        return int(len(self) * TRAIN_SHARE)

    @property
    def test_from(self) -> int:
        """Index of the first row of the last part."""
        return int(len(self) * (TRAIN_SHARE + VALIDATION_SHARE))

    def row(self, index: int) -> Row:
        """Return what is known of a job when it is handed in."""
        return Row(
            numbers=tuple(self.numeric[index].tolist()),
            categories=tuple(column[index] for column in self.categorical),
            contexts=tuple(self.context(depth, index) for depth in self.depths),
        )

    def finished(self, index: int) -> Finished:
        """Return a job as it is known after its end."""
        return Finished(
            row=self.row(index),
            seconds=float(self.duration_s[index]),
            started_s=float(self.submit_s[index]),
            ended_s=float(self.end_s[index]),
        )

    def context(self, depth: int, index: int) -> str:
        """Return the name of a row's context at one depth: the values of its columns."""
        columns = self.context_columns
        return _SEPARATOR.join(columns[name][index] for name in self.context_names[depth])

    @property
    def depths(self) -> range:
        """Depths of contexts, 0 being the most general."""
        return range(len(self.context_names))

    def path(self, depth: int, index: int) -> tuple[str, ...]:
        """Return the contexts of a row from the most general down to `depth`."""
        return tuple(self.context(above, index) for above in range(depth + 1))

    def ended(self) -> Ints:
        """Return row indices in the order in which their ends become known, (n,)."""
        return np.lexsort((np.arange(len(self)), self.end_s, self.known_from))

    def known_at(self, index: int) -> Ints:
        """Return the rows whose ends are known when row `index` is handed in, in order of end."""
        ended = self.ended()
        return ended[self.known_from[ended] <= index]


def trace_of(table: Table, columns: Columns) -> Trace:
    """Clean a table: usable rows in order of submission, and notes on all others.

    Raises:
        TraceError: No use can be made of a column, or too few rows are left.
    """
    count = len(table.numbers)
    if count == 0:
        raise TraceError(table.path, "there are no rows below the header")
    notes = list(table.notes)
    cleaning = _Cleaning(table, notes, np.ones(count, dtype=bool))
    submit_s = cleaning.times(columns.submit, columns.time_unit)
    duration_s = cleaning.durations(columns.duration, columns.duration_unit)
    wait_s = _waits(cleaning, columns, submit_s)
    numeric = [cleaning.numbers(name) for name in columns.numeric]
    kept = np.flatnonzero(cleaning.is_kept)
    if len(kept) < ROW_COUNT_MIN:
        dropped = "; ".join(f"{n.count} {n.reason} (first: {n.first})" for n in notes)
        message = f"{len(kept)} usable rows of {table.row_count}, {ROW_COUNT_MIN} are the least"
        raise TraceError(table.path, f"{message}. Dropped: {dropped or 'none'}")
    is_late = np.diff(submit_s[kept]) < 0
    if is_late.any():
        first = table.where(int(kept[int(np.argmax(is_late)) + 1]))
        reason = f"{columns.submit} below that of the row before; all rows were sorted by it"
        notes.append(Note(reason, int(is_late.sum()), first, is_dropped=False))
    order = kept[np.argsort(submit_s[kept], kind="stable")]
    submit_s, duration_s, wait_s = submit_s[order], duration_s[order], wait_s[order]
    index = np.arange(len(order), dtype=float)
    if columns.known_after_count:
        submit_s, end_s = index, index + columns.known_after_count
    else:
        end_s = submit_s + wait_s + duration_s
    # A run shorter than the resolution of the axis still ends after its own submission.
    known_from = np.maximum(np.searchsorted(submit_s, end_s, side="left"), index.astype(int) + 1)
    text = {
        name: cleaning.names(name, order)
        for name in dict.fromkeys((*columns.categorical, *columns.in_contexts))
    }
    return Trace(
        submit_s=submit_s,
        duration_s=duration_s,
        end_s=end_s,
        known_from=known_from,
        numeric=np.stack([column[order] for column in numeric], axis=1)
        if numeric
        else np.empty((len(order), 0)),
        categorical=tuple(text[name] for name in columns.categorical),
        context_names=columns.contexts,
        context_columns={name: text[name] for name in columns.in_contexts},
        file_rows=order.astype(np.int64),
        row_count=table.row_count,
        notes=tuple(notes),
    )


def _waits(cleaning: "_Cleaning", columns: Columns, submit_s: Floats) -> Floats:
    """Return seconds between submission and start; 0 where nothing is known of it."""
    if columns.wait:
        wait_s = cleaning.parsed(columns.wait, columns.duration_unit.seconds, _as_number)
    elif columns.start:
        wait_s = cleaning.times(columns.start, columns.time_unit) - submit_s
    else:
        return np.zeros(len(submit_s))
    column = columns.wait or columns.start
    cleaning.drop(~np.isfinite(wait_s), f"{column} missing or not readable")
    is_negative = wait_s < 0
    cleaning.note(is_negative, f"start before submission by {column}, taken as no wait")
    return np.where(is_negative, 0.0, wait_s)


@dataclass(slots=True)
class _Cleaning:
    """Parses columns and keeps account of what cannot be used."""

    table: Table
    notes: list[Note]
    is_kept: NDArray[np.bool_]

    def parsed(self, column: str, unit_s: float, parse: Callable[[Cell, float], float]) -> Floats:
        """Return the cells of a column as numbers times its unit, NaN where that fails."""
        cells = self.table.columns[column]
        if all(cell is None for cell in cells):
            raise TraceError(self.table.path, "every cell is empty", column=column)
        values = np.array([parse(cell, unit_s) for cell in cells])
        if not np.isfinite(values).any():
            index = next(i for i, cell in enumerate(cells) if cell is not None)
            message = f"no cell can be read; {self.table.where(index)} has {cells[index]!r}"
            raise TraceError(self.table.path, message, column=column)
        return values

    def times(self, column: str, unit: TimeUnit) -> Floats:
        """Return instants in seconds, (n,); rows without one are dropped."""
        unit_s = 1.0 if column in self.table.times else unit.seconds
        values = self.parsed(column, unit_s, _as_time)
        self.drop(~np.isfinite(values), f"{column} missing or not readable")
        return values

    def durations(self, column: str, unit: TimeUnit) -> Floats:
        """Return run times in seconds, (n,); rows without a possible one are dropped."""
        values = self.parsed(column, unit.seconds, _as_number)
        self.drop(~np.isfinite(values), f"{column} missing or not readable")
        self.drop(values < 0, f"{column} negative")
        self.drop(values == 0, f"{column} zero")
        self.drop(values > SECONDS_MAX, f"{column} above {SECONDS_MAX:g} s")
        is_short = (values > 0) & (values < SECONDS_MIN)
        self.note(is_short, f"{column} below {SECONDS_MIN:g} s, taken as that")
        return np.maximum(values, SECONDS_MIN)

    def numbers(self, column: str) -> Floats:
        """Return a numeric key, (n,); NaN where missing."""
        cells = self.table.columns[column]
        if all(cell is None for cell in cells):
            self.note(np.ones(len(cells), dtype=bool), f"{column} empty; it tells nothing")
            return np.full(len(cells), np.nan)
        values = self.parsed(column, 1.0, _as_number)
        is_missing = np.array([cell is None for cell in cells])
        is_unreadable = ~np.isfinite(values) & ~is_missing
        self.note(is_missing & self.is_kept, f"{column} missing; kept as unknown")
        self.note(is_unreadable & self.is_kept, f"{column} not a number; kept as unknown")
        return np.where(np.isfinite(values), values, np.nan)

    def names(self, column: str, order: Ints) -> tuple[str, ...]:
        """Return a categorical key in the given order; equal names are one object."""
        cells = self.table.columns[column]
        known: dict[str, str] = {}
        names = []
        is_missing = np.zeros(len(cells), dtype=bool)
        for index in order.tolist():
            cell = cells[index]
            is_missing[index] = cell is None
            text = "" if cell is None else f"{cell:g}" if isinstance(cell, float) else str(cell)
            names.append(known.setdefault(text, text))
        self.note(is_missing, f"{column} missing; kept as a name of its own")
        return tuple(names)

    def drop(self, is_bad: NDArray[np.bool_], reason: str) -> None:
        """Drop rows that are not dropped yet."""
        is_bad = is_bad & self.is_kept
        self._add(is_bad, reason, is_dropped=True)
        self.is_kept &= ~is_bad

    def note(self, is_odd: NDArray[np.bool_], reason: str) -> None:
        """Note rows that are kept although something is odd about them."""
        self._add(is_odd & self.is_kept, reason, is_dropped=False)

    def _add(self, is_odd: NDArray[np.bool_], reason: str, *, is_dropped: bool) -> None:
        if is_odd.any():
            first = self.table.where(int(np.argmax(is_odd)))
            self.notes.append(Note(reason, int(is_odd.sum()), first, is_dropped=is_dropped))


def _as_number(cell: Cell, unit_s: float) -> float:
    if cell is None:
        return math.nan
    try:
        return float(cell) * unit_s
    except ValueError:
        return math.nan


def _as_time(cell: Cell, unit_s: float) -> float:
    number = _as_number(cell, unit_s)
    if not math.isnan(number) or not isinstance(cell, str):
        return number
    try:
        instant = datetime.fromisoformat(cell)
    except ValueError:
        return math.nan
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return instant.timestamp()
