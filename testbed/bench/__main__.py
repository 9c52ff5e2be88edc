"""All benchmarks of this package, one table: `python -m testbed.bench [NAME...]`.

A benchmark is a module with a function `measure` that needs no argument and returns a row or rows.
"""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Final, cast

from rich.console import Console
from rich.table import Table

import testbed.bench
from testbed.bench import BenchRow
from testbed.interruption import interruptible

_FILE_WIDTH: Final = 160

Measure = Callable[[], BenchRow | Iterable[BenchRow]]


def benchmarks() -> dict[str, Measure]:
    """Return the `measure` of each benchmark by the name of its module."""
    found: dict[str, Measure] = {}
    for info in pkgutil.iter_modules(testbed.bench.__path__):
        if info.name == "__main__":
            continue
        module = importlib.import_module(f"testbed.bench.{info.name}")
        measure = getattr(module, "measure", None)
        if measure is not None:
            found[info.name] = cast(Measure, measure)
    return found


def table_of(rows: Sequence[BenchRow]) -> Table:
    """Return one line for each row, with the limit beside it."""
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column("benchmark")
    table.add_column("ours", justify="right", no_wrap=True)
    table.add_column("limit", justify="right", no_wrap=True)
    table.add_column("which is")
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("target", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            f"{row.ours:,.0f} {row.unit}",
            f"{row.limit:,.0f} {row.unit}",
            row.beside,
            f"{row.ratio:.2f}",
            f"{'<=' if row.is_cost else '>='} {row.target:g}",
            row.verdict,
            style="" if row.is_met else "red",
        )
    return table


def main(names: Sequence[str]) -> int:
    """Run the benchmarks named, or all, and print their table; return the exit code."""
    # A file is read with a wider window than the 80 columns that are assumed for it.
    width = None if sys.stdout.isatty() else _FILE_WIDTH
    console, talk = Console(highlight=False, width=width), Console(stderr=True, highlight=False)
    found = benchmarks()
    unknown = [name for name in names if name not in found]
    if unknown:
        talk.print(f"error: no benchmark {', '.join(unknown)}; there are {', '.join(found)}")
        return 2
    rows: list[BenchRow] = []
    try:
        for name in names or list(found):
            # SIGTERM too, as of timeout(1), so that the processes of a benchmark end with it.
            with talk.status(f"measuring {name}"), interruptible():
                measured = found[name]()
                rows += [measured] if isinstance(measured, BenchRow) else measured
    except KeyboardInterrupt:
        talk.print("interrupted; what was started has ended")
        return 130
    console.print(table_of(rows))
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            notes.setdefault(row.note, []).append(row.name)
    for note, named in notes.items():
        console.print(f"{'; '.join(named)}: {note}", style="dim")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
