"""Prints one zone of a Parquet trace as CSV: a program of its own, `FILE ZONE` its arguments.

Agents run it as a child and import nothing of it, so that the Parquet library stays out of them.
The first column, `row`, counts the rows of the file from 1; times become epoch seconds.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TextIO

from gcos.errors import GcosError, InvalidRequestError, NotFoundError
from site_agent.signals.trace_table import (
    CARBON_COLUMNS,
    EXIT_NO_ZONE,
    PRICE_COLUMNS,
    lacks_zone,
)

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ImportError:
    sys.exit("reading Parquet needs an extra: pip install 'gcos[parquet]'")

EXIT_REFUSED: Final = 2


def print_zone(path: Path, zone: str, out: TextIO) -> None:
    """Write the rows of `zone` in `path` to `out` as CSV.

    Raises:
        InvalidRequestError: the file cannot be read, lacks a column or holds local times.
        NotFoundError: no row of `zone`.
    """
    wanted = ("zone", "time", "estimated", *CARBON_COLUMNS, *PRICE_COLUMNS)
    try:
        present = [name for name in pq.read_schema(path).names if name in wanted]
        table = pq.read_table(path, columns=present)
    except (OSError, pa.ArrowException) as exc:
        raise InvalidRequestError(f"cannot read the trace {path}: {exc}") from exc
    for name in ("zone", "time"):
        if name not in present:
            raise InvalidRequestError(f"{path.name}: no column {name}", field=name)
    zones = pc.cast(table["zone"], pa.string())
    is_zone = pc.equal(zones, zone)
    rows = pc.indices_nonzero(is_zone).to_pylist()
    if not rows:
        raise lacks_zone(path.name, zone, (z for z in pc.unique(zones).to_pylist() if z))
    kept = table.filter(is_zone)
    names = [name for name in present if name != "zone"]
    cells = [
        _times(path, kept[name]) if name == "time" else kept[name].to_pylist() for name in names
    ]
    writer = csv.writer(out)
    writer.writerow(["row", *names])
    writer.writerows(zip((row + 1 for row in rows), *cells, strict=True))


def _times(path: Path, column: pa.ChunkedArray) -> list[object]:
    """Return epoch seconds of a timestamp column; texts and numbers as they are."""
    if not pa.types.is_timestamp(column.type):
        return list(column.to_pylist())
    if column.type.tz is None:
        raise InvalidRequestError(
            f"{path.name}, column time: times have no zone",
            field="time",
            hint="store them as UTC",
        )
    micros = pc.cast(pc.cast(column, pa.timestamp("us", tz="UTC")), pa.int64()).to_pylist()
    return [None if value is None else value / 1e6 for value in micros]


def main(arguments: Sequence[str]) -> int:
    """Run as a program; what is wrong goes to stderr and into the exit status."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m site_agent.signals.parquet FILE ZONE\n")
        return EXIT_REFUSED
    try:
        print_zone(Path(arguments[0]), arguments[1], sys.stdout)
    except GcosError as exc:
        sys.stderr.write(f"{exc}\n")
        return EXIT_NO_ZONE if isinstance(exc, NotFoundError) else EXIT_REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
