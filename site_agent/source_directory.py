"""A directory of this machine, read as an artifact: nothing outside it, nothing but plain files.

The path comes from a request, so it is untrusted. It must lie under a root that the configuration
allows, and everything below that root is opened component by component without following symbolic
links: whoever swaps a directory for a link after the check gains nothing.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gcos.artifacts import (
    CHUNK_BYTES,
    FILE_COUNT_MAX,
    ArtifactKind,
    FileEntry,
    Manifest,
    checked_manifest,
    checked_path,
)
from gcos.errors import InvalidRequestError, TooLargeError, WrongStateError

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A named pipe put in a file's place would block an open without O_NONBLOCK for ever.
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def no_checkpoint() -> None:
    """Let a long reading go on."""


@dataclass(frozen=True, slots=True)
class SourceDirectory:
    """An open directory; made by `open_source`, which closes it.

    Attributes:
        path: Where it lies, links resolved.
        descriptor: Of the open directory.
    """

    path: Path
    descriptor: int

    def manifest(
        self,
        kind: ArtifactKind,
        *,
        size_bytes_max: int,
        checkpoint: Callable[[], None] = no_checkpoint,
    ) -> Manifest:
        """Return what the directory consists of; reads every byte, so call it in a thread.

        Args:
            kind: Model or data set.
            size_bytes_max: Refuse more than this before hashing anything.
            checkpoint: Called before every chunk; may raise to stop.

        Raises:
            InvalidRequestError: It holds a link, a special file, an unusable path, or no bytes.
            TooLargeError: It holds more bytes than `size_bytes_max`.
            WrongStateError: A file changed while it was read.
        """
        with _read_errors(self.path):
            sizes_bytes = dict(self._scan())
            total_bytes = sum(sizes_bytes.values())
            if total_bytes > size_bytes_max:
                raise TooLargeError(
                    f"{self.path} holds {total_bytes} bytes, "
                    f"the {kind.value.lower()} cache at most {size_bytes_max}",
                    hint="raise the cache's capacity",
                )
            files = []
            for path in sorted(sizes_bytes):
                entry = self._hashed(path, checkpoint)
                if entry.size_bytes != sizes_bytes[path]:
                    raise changed(path)
                files.append(entry)
        return checked_manifest(Manifest(kind, tuple(files)))

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield the bytes of one file, `path` as in the manifest, 1 MiB at a time.

        Raises:
            InvalidRequestError: It is not a plain file any more, or cannot be read.
        """
        with self._opened(path) as file:
            while chunk := os.read(file, CHUNK_BYTES):
                yield chunk

    def part(self, path: str, offset_bytes: int, length_bytes: int) -> bytes:
        """Return a part of one file; fewer bytes where the file ends.

        Raises:
            InvalidRequestError: It is not a plain file any more, or cannot be read.
        """
        with self._opened(path) as file:
            return os.pread(file, length_bytes, offset_bytes)

    @contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        with _read_errors(self.path):
            *directories, name = path.split("/")
            descriptor = _open_below(self.descriptor, directories)
            try:
                file = os.open(name, _OPEN_FILE, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise _refused(path)
                yield file
            finally:
                os.close(file)

    def _scan(self) -> Iterator[tuple[str, int]]:
        """Yield path and size of each file."""
        file_count = 0
        walk = os.fwalk(".", onerror=_raise, follow_symlinks=False, dir_fd=self.descriptor)
        for where, directories, names, descriptor in walk:
            parent = where.removeprefix(".").removeprefix("/")
            for name in [*directories, *names]:
                path = f"{parent}/{name}" if parent else name
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    continue
                if not stat.S_ISREG(status.st_mode):
                    raise _refused(path)
                file_count += 1
                if file_count > FILE_COUNT_MAX:
                    raise InvalidRequestError(f"more than {FILE_COUNT_MAX} files", field="path")
                yield _checked_text(path), status.st_size

    def _hashed(self, path: str, checkpoint: Callable[[], None]) -> FileEntry:
        digest = hashlib.sha256()
        size_bytes = 0
        for chunk in self.chunks(path):
            checkpoint()
            digest.update(chunk)
            size_bytes += len(chunk)
        return FileEntry(path, size_bytes=size_bytes, sha256=digest.hexdigest())


@contextmanager
def open_source(path: Path, allowed_roots: Sequence[Path]) -> Iterator[SourceDirectory]:
    """Open a directory that a request names.

    Args:
        path: Absolute path, without `..`.
        allowed_roots: Directories below which artifacts may be added.

    Raises:
        InvalidRequestError: The path is relative, has `..`, lies outside the roots, or is no
            directory that can be read; `field` is `path`.
    """
    if ".." in path.parts:
        raise InvalidRequestError(
            f"path {str(path)!r} has '..' in it", field="path", hint="write the path without '..'"
        )
    if not path.is_absolute():
        raise InvalidRequestError(
            f"path {str(path)!r} is relative",
            field="path",
            hint="the agent has a working directory of its own: give an absolute path",
        )
    root, resolved = _under_root(path, allowed_roots)
    with _read_errors(path):
        # The root is the operator's word and may itself be reached through links.
        root_descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            descriptor = _open_below(root_descriptor, resolved.relative_to(root).parts)
        finally:
            os.close(root_descriptor)
    try:
        yield SourceDirectory(resolved, descriptor)
    finally:
        os.close(descriptor)


def changed(path: str) -> WrongStateError:
    """Return the error that tells of a file that changed between hashing and copying."""
    return WrongStateError(
        f"{path!r} changed while it was added", hint="add the directory when nothing writes to it"
    )


def _under_root(path: Path, allowed_roots: Sequence[Path]) -> tuple[Path, Path]:
    """Return the first root that `path` lies under, and `path`, both with links resolved."""
    try:
        resolved = path.resolve()
        roots = [root.resolve() for root in allowed_roots]
    except (OSError, RuntimeError, ValueError) as exc:
        raise InvalidRequestError(
            f"path {str(path)!r} has no meaning: {exc}", field="path"
        ) from exc
    for root in roots:
        if resolved.is_relative_to(root):
            return root, resolved
    # Whether anything lies there is not the caller's business.
    allowed = ", ".join(str(root) for root in roots) or "none is configured"
    raise InvalidRequestError(
        f"path {str(path)!r} is not under a directory that artifacts may be added from",
        field="path",
        hint=f"allowed: {allowed}",
    )


def _open_below(descriptor: int, directories: Sequence[str]) -> int:
    """Return a new descriptor of a directory below an open one; refuses links on the way."""
    current = os.dup(descriptor)
    for name in directories:
        try:
            below = os.open(name, _OPEN_DIRECTORY, dir_fd=current)
        finally:
            os.close(current)
        current = below
    return current


def _checked_text(path: str) -> str:
    checked_path(path, field="path")
    try:
        path.encode()
    except UnicodeEncodeError as exc:
        raise InvalidRequestError(
            f"{path!r} is not valid UTF-8", field="path", hint="rename the file"
        ) from exc
    return path


def _refused(path: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{path!r} is a link or a special file",
        field="path",
        hint="an artifact holds plain files: copy what the link points to in its place",
    )


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise InvalidRequestError(
            f"path {str(path)!r} cannot be read as a directory of files: {exc.strerror}",
            field="path",
        ) from exc
