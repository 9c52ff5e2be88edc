"""One process per data directory."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gcos.errors import WrongStateError

LOCK_NAME = "lock"


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Hold `directory`, made where it is missing, for this process alone.

    The kernel releases the lock when the process dies, however it dies; the file stays. Children
    started by exec do not inherit it.

    Raises:
        WrongStateError: Another process holds the directory.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / LOCK_NAME).open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "(starting)"
            raise WrongStateError(
                f"data directory {directory} is in use by process {holder}",
                hint="stop that process or choose another data directory",
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
