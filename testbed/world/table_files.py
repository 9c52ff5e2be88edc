"""Opens CSV and Parquet files and hands out raw cells with the numbers of their rows.

Needs pyarrow, as do the modules that import this one; `testbed.world.world` imports them only when
a directory is opened.
"""

import contextlib
import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gcos.errors import InvalidRequestError
from testbed.world.refusals import BadTableError

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ImportError as exc:
    raise InvalidRequestError(
        "reading tables needs an extra", hint="pip install 'gcos[research]'"
    ) from exc

SUFFIXES: Final = (".parquet", ".csv", ".csv.gz")

#: Rows of a CSV file that are turned into columns at a time.
_CHUNK_ROWS: Final = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Some columns and rows of a file.

    Attributes:
        columns: As the file has them: text where it is a CSV file.
        row: (n,) rows as a person counts them.
    """

    columns: pa.Table
    row: NDArray[np.int64]

    def take(self, is_wanted: NDArray[np.bool_]) -> "Cells":
        """Return the rows of a mask."""
        if is_wanted.all():
            return self
        return Cells(self.columns.filter(pa.array(is_wanted)), self.row[is_wanted])


@dataclass(slots=True)
class TableFile:
    """A file with named columns.

    Attributes:
        path: Where it is.
        names: Its columns.
    """

    path: Path
    names: tuple[str, ...]
    #: What was read of it: parts of a Parquet file are its row groups, a CSV file is one part.
    _parts: dict[tuple[int, tuple[str, ...]], Cells] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: Path) -> "TableFile":
        """Return the file with the names of its columns.

        Raises:
            BadTableError: it cannot be read, or two columns have one name.
        """
        with _readable(path):
            names = pq.read_schema(path).names if _is_parquet(path) else _csv_names(path)
        for name in names:
            if names.count(name) > 1:
                raise BadTableError(
                    path.name,
                    "two columns have this name",
                    column=name,
                    hint="rename or drop one of them",
                )
        return cls(path, tuple(names))

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    @property
    def stem(self) -> str:
        """Name of the file without its suffixes."""
        return self.path.name.partition(".")[0]

    def zones(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the zones that the file has, sorted; reads `names` on the way."""
        with _readable(self.path):
            parts = list(self._read(tuple(names), None))
        found = {zone for part in parts for zone in pc.unique(part.columns["zone"]).to_pylist()}
        return tuple(sorted(found))

    def cells(self, names: Sequence[str], zone: str | None = None) -> Cells:
        """Return columns of the file, of all its rows or of those of one zone.

        Raises:
            BadTableError: it cannot be read, a row has too many or too few cells, or no zone.
        """
        with _readable(self.path):
            parts = list(self._read(tuple(names), zone))
        if zone is not None:
            parts = [part.take(_is_zone(part, zone)) for part in parts]
        if len(parts) == 1:
            return parts[0]
        schema = pa.schema([]) if not parts else parts[0].columns.schema
        if not parts:
            empty = pa.table({name: pa.array([], pa.string()) for name in names})
            return Cells(empty, np.empty(0, dtype=np.int64))
        tables = pa.concat_tables([part.columns.cast(schema) for part in parts])
        return Cells(tables, np.concatenate([part.row for part in parts]))

    def _read(self, names: tuple[str, ...], zone: str | None) -> Iterator[Cells]:
        if not _is_parquet(self.path):
            if (0, names) not in self._parts:
                self._parts[0, names] = _with_zones(self.name, _csv_cells(self.path, names))
            yield self._parts[0, names]
            return
        with pq.ParquetFile(self.path) as file:
            before = 0
            for group in range(file.num_row_groups):
                about = file.metadata.row_group(group)
                if zone is None or _may_hold(about, zone):
                    if (group, names) not in self._parts:
                        columns = file.read_row_group(group, columns=list(names))
                        row = np.arange(before + 1, before + about.num_rows + 1, dtype=np.int64)
                        cells = Cells(columns.select(names), row)
                        self._parts[group, names] = _with_zones(self.name, cells)
                    yield self._parts[group, names]
                before += about.num_rows


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as text without blanks around it."""
    return pc.utf8_trim_whitespace(pc.cast(column, pa.string()))


def _with_zones(file: str, cells: Cells) -> Cells:
    """Return the cells with zones as dictionary-coded text, none of them empty."""
    if "zone" not in cells.columns.column_names:
        return cells
    zones = pc.fill_null(as_text(cells.columns["zone"]), "")
    is_empty = pc.equal(zones, "").to_numpy(zero_copy_only=False)
    if is_empty.any():
        row = int(cells.row[np.argmax(is_empty)])
        hint = "name the zone, such as DE"
        raise BadTableError(file, "an empty cell", column="zone", row=row, hint=hint)
    index = cells.columns.column_names.index("zone")
    coded = zones.dictionary_encode().unify_dictionaries()
    return Cells(cells.columns.set_column(index, "zone", coded), cells.row)


def _is_zone(cells: Cells, zone: str) -> NDArray[np.bool_]:
    found = pc.equal(cells.columns["zone"], zone).to_numpy(zero_copy_only=False)
    return np.asarray(found, dtype=np.bool_)


def _may_hold(about: Any, zone: str) -> bool:
    """Tell by its statistics whether a row group may have rows of a zone."""
    for index in range(about.num_columns):
        column = about.column(index)
        if column.path_in_schema == "zone":
            told = column.statistics
            # Blanks around a name are forgiven, so that only exact bounds may rule it out.
            if told is None or not told.has_min_max or told.min != told.max:
                return True
            return str(told.min).strip() == zone
    return True


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet"


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the libraries raise into our error."""
    try:
        yield
    except UnicodeDecodeError as exc:
        hint = "store the file as UTF-8"
        raise BadTableError(path.name, f"cannot be read: {exc}", hint=hint) from exc
    except (OSError, EOFError, csv.Error, pa.ArrowException) as exc:
        raise BadTableError(path.name, f"cannot be read: {exc}") from exc


def _open_text(path: Path) -> io.TextIOBase:
    # A byte order mark, as spreadsheets write it, would become part of the first name.
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _csv_names(path: Path) -> list[str]:
    with _open_text(path) as text:
        return [name.strip() for name in next(csv.reader(text), [])]


def _csv_cells(path: Path, names: tuple[str, ...]) -> Cells:
    """Return columns of a CSV file as text; its row 1 is the header."""
    row: list[int] = []
    chunks: list[list[pa.Array]] = []
    with _open_text(path) as text:
        reader = csv.reader(text)
        header = [name.strip() for name in next(reader, [])]
        wanted = [header.index(name) for name in names]
        records: list[list[str]] = []
        # A cell may hold a line break: a record's row is that of the line on which it begins.
        begins = reader.line_num + 1
        for record in reader:
            if record and len(record) != len(header):
                what = f"{len(record)} cells where the header has {len(header)}"
                hint = "quote a cell that has a comma or a quote in it"
                raise BadTableError(path.name, what, row=begins, hint=hint)
            if record:
                records.append(record)
                row.append(begins)
            begins = reader.line_num + 1
            if len(records) == _CHUNK_ROWS:
                chunks.append(_columns(records, wanted))
                records = []
        chunks.append(_columns(records, wanted))
    columns = [pa.chunked_array(list(parts), pa.string()) for parts in zip(*chunks, strict=True)]
    return Cells(pa.table(columns, names=list(names)), np.array(row, dtype=np.int64))


def _columns(records: list[list[str]], wanted: list[int]) -> list[pa.Array]:
    return [pa.array([record[index] for record in records], pa.string()) for index in wanted]
