"""Where words go: data to stdout, talk to stderr; tables for people, JSON for programs."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TextIO

import msgspec
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from gcos.cli.invocation import Format
from gcos.cli.quantities import printable

#: Off a terminal nothing is wrapped or cut: a line of a table is a line of the file.
_WIDTH_OFF_TERMINAL: Final = 10_000


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings.

    Attributes:
        columns: Headings; one that starts with `>` is aligned to the right.
        rows: Cells, as many as columns.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


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

    def json(self, record: object) -> None:
        """Write a record as JSON to stdout; keys are the fields of the record, in their order."""
        text = msgspec.json.format(msgspec.json.encode(record), indent=2).decode()
        sys.stdout.write(f"{text}\n")

    def table(self, table: Table) -> None:
        """Write a table to stdout."""
        console = self._console(sys.stdout)
        shown = RichTable(box=None, pad_edge=False, header_style="bold" if self.has_color else "")
        for column in table.columns:
            is_right = column.startswith(">")
            shown.add_column(
                column.removeprefix(">"),
                justify="right" if is_right else "left",
                no_wrap=not console.is_terminal,
                overflow="fold",
            )
        for row in table.rows:
            assert len(row) == len(table.columns), "a cell for each column"
            shown.add_row(*(Text(printable(cell)) for cell in row))
        with console.capture() as captured:
            console.print(shown)
        for line in captured.get().splitlines():
            sys.stdout.write(f"{line.rstrip()}\n")

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
            sys.stderr.write(f"{printable(text)}\n")

    def warn(self, text: str) -> None:
        """Write a warning to stderr, even if the command is to be quiet."""
        sys.stderr.write(f"warning: {printable(text)}\n")

    @contextlib.contextmanager
    def progress(self, text: str) -> Iterator["Progress"]:
        """Show that the block takes time, where stderr is a terminal."""
        console = self._console(sys.stderr)
        if self.is_quiet or not console.is_terminal:
            yield Progress(self, None)
            return
        with console.status(Text(printable(text))) as status:
            yield Progress(self, lambda words: status.update(Text(printable(words))))

    def _console(self, stream: TextIO) -> Console:
        is_terminal = stream.isatty()
        return Console(
            file=stream,
            force_terminal=is_terminal,
            no_color=not self.has_color,
            highlight=False,
            width=None if is_terminal else _WIDTH_OFF_TERMINAL,
        )


class Progress:
    """Tells what is going on: in place on a terminal, line by line elsewhere."""

    def __init__(self, output: Output, update: Callable[[str], None] | None) -> None:
        self._output = output
        self._update = update

    def tell(self, text: str) -> None:
        """Say what is going on now."""
        if self._update is None:
            self._output.say(text)
        else:
            self._update(text)


def has_color(environ: Mapping[str, str]) -> bool:
    """Tell whether colors are welcome (no-color.org)."""
    return not environ.get("NO_COLOR")
