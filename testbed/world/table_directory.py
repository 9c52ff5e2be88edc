"""Tells which file of a directory is which table, and joins the files of one table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gcos.errors import NotFoundError
from testbed.world.checked_rows import Rows, Span, check_rows, raw_names
from testbed.world.refusals import BadTableError, NotCoveredError, hour_text
from testbed.world.schema import TABLES, TableSchema
from testbed.world.table_files import SUFFIXES, TableFile

_ZONES_NAMED: Final = 30


class TableDirectory:
    """The tables of a directory, told by the columns of its files.

    Several files may hold parts of one table, such as a year each. Files are opened at once and
    read when asked for; what was read is kept.

    Args:
        path: A directory, or a single file.

    Attributes:
        path: The same.
        left_aside: Names of the files that are no table of the schema.

    Raises:
        NotFoundError: there is nothing at `path`.
        BadTableError: a file that is a table by its name cannot be read.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise NotFoundError(
                f"there is no directory {path}",
                hint="give one of tables, as gcos data import writes it",
            )
        self.path = path
        self.left_aside: list[str] = []
        self._files: dict[str, list[TableFile]] = {}
        paths = [path] if path.is_file() else sorted(path.iterdir())
        for each in paths:
            if each.is_file() and each.name.endswith(SUFFIXES):
                self._sort_in(each)

    def has(self, table: TableSchema) -> bool:
        """Tell whether some file is the table."""
        return table.name in self._files

    def tables(self) -> tuple[TableSchema, ...]:
        """Return the tables that are there."""
        return tuple(table for table in TABLES if self.has(table))

    def file_names(self, table: TableSchema) -> str:
        """Return the files of a table, as text."""
        return ", ".join(file.name for file in self._files[table.name])

    def ignored_columns(self) -> dict[str, tuple[str, ...]]:
        """Return for each file of a table the columns that no table takes."""
        taken: dict[str, set[str]] = {}
        files: dict[str, TableFile] = {}
        for table in self.tables():
            for file in self._files[table.name]:
                found = [column.found_in(file.names) for column in table.columns]
                taken.setdefault(file.name, set()).update(place[0] for place in found if place)
                files[file.name] = file
        left = {
            name: tuple(column for column in file.names if column not in taken[name])
            for name, file in files.items()
        }
        return {name: columns for name, columns in left.items() if columns}

    def zones(self, table: TableSchema) -> tuple[str, ...]:
        """Return the zones of an hourly table, sorted.

        Raises:
            BadTableError: a file cannot be read or has a row without a zone.
        """
        assert table.is_hourly, "other tables have no zone of their own"
        found = {
            zone for file in self._files[table.name] for zone in file.zones(raw_names(table, file))
        }
        return tuple(sorted(found))

    def zone_rows(self, table: TableSchema, zone: str, span: Span | None = None) -> Rows:
        """Return the rows of one zone, by hour; none where it has none in the span.

        Raises:
            BadTableError: a bad cell, or two rows of one hour.
            NotCoveredError: no row of that zone in any file.
        """
        assert table.is_hourly, "ask for all rows"
        parts = [check_rows(table, file, zone=zone, span=span) for file in self._files[table.name]]
        is_empty = not any(len(part) for part in parts)
        if is_empty and (span is None or zone not in self.zones(table)):
            raise self._lacks_zone(table, zone)
        return _joined(parts, self._key_columns(table))

    def rows(self, table: TableSchema) -> Rows:
        """Return all rows of a table that is not hourly, in the order of the schema.

        Raises:
            BadTableError: a bad cell, or two rows of one key.
        """
        assert not table.is_hourly, "ask for the rows of a zone"
        parts = [check_rows(table, file) for file in self._files[table.name]]
        return _joined([_nameable(part) for part in parts], self._key_columns(table))

    def _sort_in(self, path: Path) -> None:
        stem = path.name.partition(".")[0]
        try:
            file = TableFile.open(path)
        except BadTableError:
            if any(stem in table.stems for table in TABLES):
                raise
            self.left_aside.append(path.name)
            return
        tables = [table for table in TABLES if table.is_told_by(stem, file.names)]
        for table in tables:
            self._files.setdefault(table.name, []).append(file)
        if not tables:
            self.left_aside.append(path.name)

    def _key_columns(self, table: TableSchema) -> dict[str, str]:
        """Return how each file calls the last column of the key, for messages."""
        column = table.column(table.key[-1])
        found = {file.name: column.found_in(file.names) for file in self._files[table.name]}
        return {file: place[0] if place else column.name for file, place in found.items()}

    def _lacks_zone(self, table: TableSchema, zone: str) -> NotCoveredError:
        zones = self.zones(table)
        more = ", ..." if len(zones) > _ZONES_NAMED else ""
        return NotCoveredError(
            f"{self.file_names(table)} has no row of zone {zone!r}",
            hint=f"it has {', '.join(zones[:_ZONES_NAMED])}{more}",
        )


def _nameable(rows: Rows) -> Rows:
    """Return the rows of a catalogue that say what the thing is called and how large it is."""
    sizes = rows.columns.get("size_bytes")
    if sizes is None:
        return rows
    is_known = ~np.isnan(sizes) & np.array([bool(name) for name in rows.columns["name"]])
    if is_known.all():
        return rows
    note = f"{rows.file[0]}: {int((~is_known).sum())} rows state no size or name: left out"
    return _noted(rows.take(is_known), note)


def _noted(rows: Rows, note: str) -> Rows:
    return Rows(rows.table, rows.columns, rows.row, rows.file, (*rows.notes, note))


def _joined(parts: Sequence[Rows], key_columns: Mapping[str, str]) -> Rows:
    """Return the rows of several files in order, each key once.

    Raises:
        BadTableError: two rows of one key, where the schema does not forgive it.
    """
    table = parts[0].table
    whole = parts[0]
    if len(parts) > 1:
        whole = Rows(
            table,
            {
                name: np.concatenate([part.columns[name] for part in parts])
                for name in whole.columns
            },
            row=np.concatenate([part.row for part in parts]),
            file=np.concatenate([part.file for part in parts]),
            notes=tuple(note for part in parts for note in part.notes),
        )
    again, first = _repeated(whole)
    if again.size and not table.repeats_first:
        raise _duplicate(whole, int(again[0]), int(first[0]), key_columns)
    if again.size:
        what = f"{again.size} rows repeat a name and are left out, first row"
        whole = _noted(whole, f"{whole.file[again[0]]}: {what} {whole.row[again[0]]}")
        whole = whole.take(np.setdiff1d(np.arange(len(whole)), again))
    return whole.take(_order(whole, table.order or table.key))


def _order(rows: Rows, names: Sequence[str]) -> NDArray[np.int64]:
    """Return the stable order of rows by some columns."""
    if rows.table.is_hourly:
        return np.argsort(rows.columns["time_utc"], kind="stable")
    keys = list(zip(*(rows.columns[name].tolist() for name in names), strict=True))
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def _repeated(rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows whose key an earlier row has, and those earlier rows."""
    if rows.table.is_hourly:
        order = _order(rows, ())
        hours = rows.columns["time_utc"][order]
        same = np.flatnonzero(hours[1:] == hours[:-1])
        return order[same + 1], order[same]
    seen: dict[tuple[Any, ...], int] = {}
    again: list[int] = []
    first: list[int] = []
    keys = zip(*(rows.columns[name].tolist() for name in rows.table.key), strict=True)
    for index, key in enumerate(keys):
        if key in seen:
            again.append(index)
            first.append(seen[key])
        seen.setdefault(key, index)
    return np.array(again, dtype=np.int64), np.array(first, dtype=np.int64)


def _duplicate(rows: Rows, index: int, first: int, key_columns: Mapping[str, str]) -> BadTableError:
    key = [rows.columns[name][index] for name in rows.table.key]
    if rows.table.is_hourly:
        key[1] = hour_text(int(key[1]))
    before = f"row {rows.row[first]}"
    if rows.file[first] != rows.file[index]:
        before = f"{rows.file[first]}, {before}"
    return BadTableError(
        str(rows.file[index]),
        f"{' '.join(map(str, key))} once more, after {before}",
        column=key_columns[str(rows.file[index])],
        row=int(rows.row[index]),
        hint="duplicate hour: keep one of them" if rows.table.is_hourly else "keep one of them",
    )
