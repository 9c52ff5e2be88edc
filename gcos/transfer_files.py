"""Files to and from a cluster, piece by piece: a working directory up, results down. Blocking."""

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gcos.artifacts import CHUNK_BYTES, ArtifactKind, FileEntry, Manifest, checked_path
from gcos.errors import InvalidRequestError, WrongStateError
from gcos.ids import ArtifactId

Piece = tuple[str, int, bytes]
"""Path and size on the first piece of a file (empty and 0 on the others), and at most 1 MiB."""


@contextlib.contextmanager
def _told_of(path: Path, *, field: str) -> Iterator[None]:
    """Tell which file of this machine cannot be read or written, and why.

    Raises:
        InvalidRequestError: The block came to an `OSError`.
    """
    try:
        yield
    except OSError as exc:
        raise InvalidRequestError(
            f"{path} cannot be read or written: {exc.strerror or exc}",
            field=field,
            hint="look at its path, its permissions and the room on its disk",
        ) from exc


def files_of(directory: Path) -> list[str]:
    """Return the regular files below `directory`, relative and sorted.

    Raises:
        InvalidRequestError: It is no directory, holds a link or special file, or holds no bytes.
    """
    if not directory.is_dir():
        raise InvalidRequestError(
            f"{directory} is no directory",
            field="workdir",
            hint="make it, or correct the path; it is relative to where the document lies",
        )
    found = []
    size_bytes = 0
    for place, directories, names in os.walk(directory):
        for name in (*directories, *names):
            path = Path(place) / name
            relative = checked_path(path.relative_to(directory).as_posix(), field="workdir")
            status = path.lstat()
            mode = status.st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise InvalidRequestError(
                    f"{relative} is a link or special file",
                    field="workdir",
                    hint="copy what it points to, or leave it out",
                )
            if stat.S_ISREG(mode):
                found.append(relative)
                size_bytes += status.st_size
    if not size_bytes:
        raise InvalidRequestError(
            f"{directory} holds no bytes",
            field="workdir",
            hint="put at least one file there that is not empty",
        )
    return sorted(found)


def content_id(directory: Path, files: list[str]) -> ArtifactId:
    """Return the id of the data set that `files` below `directory` would make."""
    entries = []
    for relative in files:
        path = directory / relative
        with _told_of(path, field="workdir"), path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            entries.append(FileEntry(relative, file.tell(), digest))
    return Manifest(ArtifactKind.DATA, tuple(entries)).artifact_id


def pieces_of(directory: Path, files: list[str]) -> Iterator[Piece]:
    """Yield the bytes of `files` below `directory`, 1 MiB at a time."""
    for relative in files:
        path = directory / relative
        name, size = relative, path.stat().st_size
        with path.open("rb") as file:
            while (data := file.read(CHUNK_BYTES)) or name:
                yield name, size, data
                name, size = "", 0


class Arriving:
    """Files that arrive beside `to` and appear there together, or not at all.

    Attributes:
        sizes: Size by path of what has arrived.
    """

    def __init__(self, to: Path) -> None:
        """Make room for what arrives.

        Raises:
            WrongStateError: `to` exists already.
            InvalidRequestError: Nothing can be written there.
        """
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise WrongStateError(f"{to} exists already", hint="name a directory that does not")
        self._to = to
        self._partial = to.with_name(f".{to.name}.partial")
        shutil.rmtree(self._partial, ignore_errors=True)
        with _told_of(to, field="to"):
            self._partial.mkdir(parents=True)
        self._file: BinaryIO | None = None
        self.sizes: dict[str, int] = {}

    def add(self, piece: Piece) -> None:
        """Write one piece.

        Raises:
            InvalidRequestError: Its path leaves the directory, it belongs to no file, or it cannot
                be written.
        """
        path, _, data = piece
        if path:
            self._close()
            target = self._partial / checked_path(path)
            with _told_of(target, field="to"):
                target.parent.mkdir(parents=True, exist_ok=True)
                self._file = target.open("xb")
            self.sizes[path] = 0
        if self._file is None:
            raise InvalidRequestError("a piece that belongs to no file", field="path")
        with _told_of(self._to, field="to"):
            self._file.write(data)
        self.sizes[next(reversed(self.sizes))] += len(data)

    def finish(self) -> None:
        """Let everything appear."""
        with _told_of(self._to, field="to"):
            self._close()
            if self._to.exists():
                self._to.rmdir()
            self._partial.rename(self._to)

    def give_up(self) -> None:
        """Remove what has arrived."""
        self._close()
        shutil.rmtree(self._partial, ignore_errors=True)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
