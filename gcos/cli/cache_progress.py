"""A bar for bytes that come: how many, how fast, how long still."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from gcos.cli.output import Output
from gcos.cli.quantities import printable

#: Takes what it waits for (empty: nothing), the bytes that are here, and all of them (0 while
#: nobody knows).
Advance = Callable[[str, int, int], None]


@contextlib.contextmanager
def bytes_progress(out: Output, text: str) -> Iterator[Advance]:
    """Show bytes that come while the block lasts.

    On a terminal (stderr) there is a bar, with what it waits for beside it; elsewhere, that is a
    line whenever it is something new.
    """
    console = out.console(sys.stderr)
    if out.is_quiet or not console.is_terminal:
        said = ""

        def say(note: str, _received_bytes: int, _size_bytes: int) -> None:
            nonlocal said
            if note and note != said:
                said = note
                out.say(note)

        yield say
        return
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with progress:
        bar = progress.add_task(_plain(text), total=None)

        def advance(note: str, received_bytes: int, size_bytes: int) -> None:
            progress.update(
                bar,
                description=_plain(note or text),
                completed=received_bytes,
                total=size_bytes or None,
            )

        yield advance


def _plain(text: str) -> str:
    """Return text that neither drives the terminal nor is taken for markup."""
    return printable(text).replace("[", "(").replace("]", ")")
