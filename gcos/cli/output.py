"""Where words go: data to stdout, talk to stderr; tables for people, JSON or YAML for programs."""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TextIO

import msgspec
from rich.cells import cell_len
from rich.console import Console, OverflowMethod
from rich.table import Table as RichTable
from rich.text import Text

from gcos.cli.invocation import Format
from gcos.cli.problems import Level, Problem, folded, tell
from gcos.cli.quantities import printable
from gcos.cli.yaml_text import yaml_text

#: Off a terminal nothing is wrapped or cut: a line of a table is a line of the file.
_WIDTH_OFF_TERMINAL: Final = 10_000
#: Blanks between two columns.
_GAP: Final = 2


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings.

    Attributes:
        columns: Headings; one that starts with `>` is aligned to the right.
        rows: Cells, as many as columns.
        optional: Headings of columns that a narrow terminal does without, the first one first.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    optional: tuple[str, ...] = ()

    def without(self, heading: str) -> "Table":
        """Return the table without the column `heading`."""
        kept = [index for index, column in enumerate(self.columns) if column != heading]
        assert len(kept) < len(self.columns), "no such column"
        return Table(
            tuple(self.columns[index] for index in kept),
            tuple(tuple(row[index] for index in kept) for row in self.rows),
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """How a table is put on a terminal.

    Attributes:
        table: What is shown of it.
        widths: Width of each column; None: leave that to whoever draws.
        left_out: Headings of columns that found no room.
    """

    table: Table
    widths: tuple[int, ...] | None = None
    left_out: tuple[str, ...] = ()


def layout(table: Table, width: int) -> Layout:
    """Return how `table` fits into `width` columns of a terminal.

    First optional columns go, until nothing needs folding. Where that is not enough, cells are
    folded between words; numbers and the first column, which tend to be ids, are not.
    """
    shown, left_out = table, []
    for heading in table.optional:
        if _total(_widest(shown)) <= width:
            break
        shown = shown.without(heading)
        left_out.append(heading.removeprefix(">"))
    return Layout(shown, _widths(shown, width), tuple(left_out))


def _widths(table: Table, width: int) -> tuple[int, ...] | None:
    """Return widths between those of the longest word and of the longest cell of each column."""
    widest = _widest(table)
    if _total(widest) <= width:
        return tuple(widest)
    least = [
        full if _is_whole(index, column) else _longest_word(table, index)
        for index, (column, full) in enumerate(zip(table.columns, widest, strict=True))
    ]
    spare = width - _total(least)
    if spare < 0:
        return None
    wanted = _total(widest) - _total(least)
    return tuple(
        low + spare * (full - low) // wanted for low, full in zip(least, widest, strict=True)
    )


def _widest(table: Table) -> list[int]:
    cells = zip(table.columns, *table.rows, strict=True)
    return [max(cell_len(cell.removeprefix(">")) for cell in column) for column in cells]


def _longest_word(table: Table, index: int) -> int:
    cells = [table.columns[index].removeprefix(">"), *(row[index] for row in table.rows)]
    return max(cell_len(word) for cell in cells for word in (cell.split() or [""]))


def _is_whole(index: int, column: str) -> bool:
    """Half a number or half an id misleads; prose may go on in the next line."""
    return index == 0 or column.startswith(">")


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


@dataclass(frozen=True, slots=True)
class Output:
    """The two streams of a command.

    Attributes:
        format: How data are written.
        is_quiet: No talk, and ids instead of tables.
        has_color: Colors are welcome where there is a terminal.
    """

    format: Format = Format.TABLE
    is_quiet: bool = False
    has_color: bool = True

    @property
    def is_record(self) -> bool:
        """The user asked for the whole record, as JSON or YAML."""
        return self.format in {Format.JSON, Format.YAML}

    @property
    def is_names(self) -> bool:
        """The user asked for ids only."""
        return self.format is Format.NAME or (self.is_quiet and not self.is_record)

    def record(self, record: object) -> None:
        """Write a record to stdout; keys are the fields of the record, in their order."""
        if self.format is Format.YAML:
            text = yaml_text(msgspec.to_builtins(record))
        else:
            text = msgspec.json.format(msgspec.json.encode(record), indent=2).decode() + "\n"
        sys.stdout.write(text)

    def records(self, records: Iterable[object]) -> None:
        """Write records to stdout at once, each as JSON on one line: what comes without an end."""
        for record in records:
            sys.stdout.write(f"{msgspec.json.encode(record).decode()}\n")
        sys.stdout.flush()

    def table(self, table: Table) -> None:
        """Write a table to stdout."""
        console = self.console(sys.stdout)
        # Off a terminal a row is a line.
        placed = layout(table, console.width) if console.is_terminal else Layout(table)
        overflow: OverflowMethod = "fold" if console.is_terminal else "crop"
        shown = as_rich(placed, overflow=overflow, has_color=self.has_color)
        with console.capture() as captured:
            console.print(shown)
        for line in captured.get().splitlines():
            sys.stdout.write(f"{line.rstrip()}\n")
        if placed.left_out:
            self.say(f"(a wider terminal also shows {', '.join(placed.left_out)})")

    def prose(self, texts: Iterable[str]) -> None:
        """Write sentences to stdout: folded between words on a terminal, each a line elsewhere."""
        console = self.console(sys.stdout)
        for text in texts:
            if console.is_terminal:
                self.lines(folded(printable(text), console.width))
            else:
                self.line(text)

    def line(self, text: str) -> None:
        """Write a line of data to stdout."""
        sys.stdout.write(f"{printable(text)}\n")

    def lines(self, texts: Iterable[str]) -> None:
        """Write lines of data to stdout."""
        for text in texts:
            self.line(text)

    def say(self, text: str) -> None:
        """Write a line of talk to stderr, unless the command is to be quiet."""
        if not self.is_quiet:
            note = Problem("OK", "TALK", message=text, hint="")
            tell(note, as_json=self.format is Format.JSON, level=Level.INFO)

    def warn(self, text: str, *, reason: str, hint: str) -> None:
        """Write a warning to stderr, even if the command is to be quiet.

        Args:
            text: One sentence.
            reason: Closed word that programs may branch on.
            hint: The next step.
        """
        problem = Problem("UNAVAILABLE", reason, message=text, hint=hint)
        tell(problem, as_json=self.format is Format.JSON, level=Level.WARNING)

    @contextlib.contextmanager
    def progress(self, text: str) -> Iterator[None]:
        """Show that the block takes time, where stderr is a terminal."""
        console = self.console(sys.stderr)
        if self.is_quiet or not console.is_terminal:
            yield
            return
        with console.status(Text(printable(text))):
            yield

    def console(self, stream: TextIO) -> Console:
        """Return what draws on `stream`."""
        is_terminal = stream.isatty()
        return Console(
            file=stream,
            force_terminal=is_terminal,
            no_color=not self.has_color,
            highlight=False,
            width=None if is_terminal else _WIDTH_OFF_TERMINAL,
        )


def as_rich(placed: Layout, *, overflow: OverflowMethod, has_color: bool) -> RichTable:
    """Return a table to draw; cells that are too wide are treated as `overflow` says."""
    shown = RichTable(
        box=None,
        pad_edge=False,
        padding=(0, _GAP, 0, 0),
        header_style="bold" if has_color else "",
    )
    for index, column in enumerate(placed.table.columns):
        shown.add_column(
            column.removeprefix(">"),
            justify="right" if column.startswith(">") else "left",
            no_wrap=overflow != "fold",
            overflow=overflow,
            width=None if placed.widths is None else placed.widths[index],
        )
    for row in placed.table.rows:
        assert len(row) == len(placed.table.columns), "a cell for each column"
        shown.add_row(*(Text(printable(cell)) for cell in row))
    return shown


def has_color(environ: Mapping[str, str]) -> bool:
    """Tell whether colors are welcome (no-color.org)."""
    return not environ.get("NO_COLOR")
