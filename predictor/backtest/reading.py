"""Reads the named columns of a job log: CSV, also compressed with gzip, or Parquet.

The sort of file is told by its first bytes, not by its name. Whatever is wrong with a file becomes
an error that names file, column and row.
"""

import csv
import difflib
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gcos.errors import InvalidRequestError, WrongStateError

#: What stands in a cell: text of a CSV file, text or number of a Parquet file, None where empty.
Cell = str | float | None

_GZIP_MAGIC = b"\x1f\x8b"
_PARQUET_MAGIC = b"PAR1"
#: Longest cell of a CSV file; longer ones are a sign of a missing quotation mark.
CELL_CHARS_MAX = 1 << 20
_COLUMNS_SHOWN_COUNT = 20


class TraceError(InvalidRequestError):
    """A job log cannot be used as the options say.

    Attributes:
        path: The file.
        column: The column at fault; empty where it is the whole file.
    """

    reason = "INVALID_TRACE"

    def __init__(self, path: Path, message: str, *, column: str = "", hint: str = "") -> None:
        where = f"{path}, column {column!r}" if column else f"{path}"
        super().__init__(f"{where}: {message}", field=column, hint=hint)
        self.path = path
        self.column = column


@dataclass(slots=True)
class Note:
    """Rows that were dropped or altered, and why.

    Attributes:
        reason: What was wrong with them, as a phrase.
        count: How many.
        first: Where the first one stands, such as `line 7`.
        is_dropped: They were left out; otherwise they were kept as `reason` says.
    """

    reason: str
    count: int
    first: str
    is_dropped: bool = True


@dataclass(slots=True)
class Table:
    """Columns of a file as they stand there.

    Attributes:
        path: The file.
        columns: Cells by name of column; all of one length.
        numbers: Line (CSV, the header being line 1) or row (Parquet, from 1) of each row.
        unit: What `numbers` count: `line` or `row`.
        times: Columns of time stamps, given as seconds since the epoch.
        notes: Rows that could not be read.
        row_count: Rows of the file, those that could not be read included.
    """

    path: Path
    columns: dict[str, list[Cell]]
    numbers: Sequence[int]
    unit: str
    times: frozenset[str] = frozenset()
    notes: list[Note] = field(default_factory=list)
    row_count: int = 0

    def where(self, index: int) -> str:
        """Return where a row stands in the file, for people."""
        return f"{self.unit} {self.numbers[index]}"


def read(path: Path, columns: Sequence[str]) -> Table:
    """Return the named columns of the job log at `path`.

    Raises:
        TraceError: The file cannot be read, or lacks a column.
        WrongStateError: Parquet without pyarrow.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise TraceError(path, f"cannot be read: {reason.lower()}") from exc
    if not magic:
        raise TraceError(path, "the file is empty")
    wanted = list(dict.fromkeys(columns))
    if magic == _PARQUET_MAGIC:
        return _read_parquet(path, wanted)
    return _read_csv(path, wanted, is_gzip=magic.startswith(_GZIP_MAGIC))


def _read_csv(path: Path, wanted: list[str], *, is_gzip: bool) -> Table:
    csv.field_size_limit(CELL_CHARS_MAX)
    with path.open("rb") as file:
        binary = gzip.GzipFile(fileobj=file) if is_gzip else file
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
        rows = csv.reader(text)
        with _csv_errors(path, rows):
            header = [name.strip() for name in next(rows, [])]
            places = _places(path, header, wanted)
            return _csv_rows(path, rows, len(header), places)


def _csv_rows(path: Path, rows: Any, width: int, places: dict[str, int]) -> Table:
    """Return the rows of a `csv.reader`, whose type has no public name."""
    columns: dict[str, list[Cell]] = {name: [] for name in places}
    targets = [(cells, places[name]) for name, cells in columns.items()]
    numbers: list[int] = []
    ragged: Note | None = None
    row_count = 0
    for row in rows:
        if not row:
            continue  # an empty line is no row
        row_count += 1
        if len(row) != width:
            ragged = ragged or Note(
                f"not {width} cells, as the header has", 0, f"line {rows.line_num}"
            )
            ragged.count += 1
            continue
        numbers.append(rows.line_num)
        for cells, place in targets:
            cells.append(row[place].strip() or None)
    notes = [] if ragged is None else [ragged]
    return Table(path, columns, numbers, "line", notes=notes, row_count=row_count)


@contextmanager
def _csv_errors(path: Path, rows: Any) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as exc:
        hint = "CSV must be UTF-8; Parquet is known by its first bytes"
        raise TraceError(
            path, f"not UTF-8, in line {rows.line_num + 1} or below", hint=hint
        ) from exc
    except csv.Error as exc:
        raise TraceError(path, f"line {rows.line_num}: {exc}") from exc
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        raise TraceError(path, f"broken gzip after line {rows.line_num}: {exc}") from exc


def _read_parquet(path: Path, wanted: list[str]) -> Table:
    try:
        import pyarrow as pa  # noqa: PLC0415  an extra; CSV does without
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as exc:
        hint = "pip install 'gcos[parquet]', or give a CSV file"
        raise WrongStateError(f"{path}: Parquet needs pyarrow", hint=hint) from exc
    try:
        with pq.ParquetFile(path) as file:
            _places(path, file.schema_arrow.names, wanted)
            table = file.read(columns=wanted)
    except (pa.ArrowException, OSError) as exc:
        raise TraceError(path, f"broken Parquet: {str(exc).splitlines()[0]}") from exc
    columns: dict[str, list[Cell]] = {}
    times: set[str] = set()
    for name in wanted:
        array = table.column(name)
        if pa.types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
            times.add(name)
            array = array.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
            columns[name] = [None if cell is None else cell / 1e6 for cell in array.to_pylist()]
        else:
            columns[name] = _plain_cells(path, name, array)
    count = table.num_rows
    numbers = range(1, count + 1)
    return Table(path, columns, numbers, "row", times=frozenset(times), row_count=count)


def _plain_cells(path: Path, name: str, array: Any) -> list[Cell]:
    """Return the cells of a pyarrow column of text or numbers."""
    import pyarrow as pa  # noqa: PLC0415

    of = pa.types
    if of.is_null(array.type):
        return [None] * len(array)
    if of.is_boolean(array.type):
        return [None if cell is None else str(cell).lower() for cell in array.to_pylist()]
    if of.is_string(array.type) or of.is_large_string(array.type):
        return [(cell.strip() or None) if cell else None for cell in array.to_pylist()]
    if of.is_floating(array.type) or of.is_decimal(array.type):
        return [None if cell is None else float(cell) for cell in array.to_pylist()]
    if of.is_integer(array.type):
        return [None if cell is None else cell for cell in array.to_pylist()]
    message = f"holds {array.type}, neither text, number nor time stamp"
    raise TraceError(path, message, column=name)


def _places(path: Path, header: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
    """Return the index of each wanted column in `header`."""
    if not any(header):
        raise TraceError(path, "there is no header in the first line")
    places = {}
    for name in wanted:
        count = header.count(name)
        if count == 0:
            near = difflib.get_close_matches(name, header, 1)
            shown = ", ".join(header[:_COLUMNS_SHOWN_COUNT])
            more = ", ..." if len(header) > _COLUMNS_SHOWN_COUNT else ""
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {shown}{more}"
            raise TraceError(path, "there is no such column", column=name, hint=hint)
        if count > 1:
            raise TraceError(path, f"stands {count} times in the header", column=name)
        places[name] = header.index(name)
    return places
