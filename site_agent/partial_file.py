"""A file that arrives: written and hashed as its bytes come, verified at its end."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gcos.artifacts import FileEntry
from gcos.errors import CacheFullError, DigestMismatchError

_READ_ONLY = 0o444
# EFBIG: the file system takes no file that large.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class PartialFile:
    """A file that is being written; remembers how far it came, so another source can go on.

    Every method is blocking, and only one may run at a time.
    """

    def __init__(self, path: Path, entry: FileEntry) -> None:
        self.entry = entry
        self.received_bytes = 0
        self._path = path
        self._digest = hashlib.sha256()
        self._descriptor: int | None = None

    def append(self, data: bytes) -> None:
        """Write and hash the next bytes.

        Raises:
            DigestMismatchError: They are more than the file has.
            CacheFullError: The disk is full.
        """
        if self.received_bytes + len(data) > self.entry.size_bytes:
            raise DigestMismatchError(f"{self.entry.path!r} is longer than its manifest says")
        descriptor = self._open()
        view = memoryview(data)
        with disk_errors(self._path):
            while view:
                view = view[os.write(descriptor, view) :]
        self._digest.update(data)
        self.received_bytes += len(data)

    def finish(self) -> None:
        """Verify the whole file, make it read-only and durable.

        Raises:
            DigestMismatchError: It is not what the manifest says; `restart` begins anew.
            CacheFullError: The disk is full.
        """
        assert self.received_bytes == self.entry.size_bytes, "finished before the last byte"
        if self._digest.hexdigest() != self.entry.sha256:
            raise DigestMismatchError(f"{self.entry.path!r} does not hash to its digest")
        descriptor = self._open()
        with disk_errors(self._path):
            os.fchmod(descriptor, _READ_ONLY)
            os.fsync(descriptor)
        self.close()

    def restart(self) -> None:
        """Throw away what came so far."""
        self.close()
        self._path.unlink(missing_ok=True)
        self.received_bytes = 0
        self._digest = hashlib.sha256()

    def close(self) -> None:
        """Close the file where it is open."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is None:
            with disk_errors(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags, 0o600)
        return self._descriptor


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Tell a full disk as what it is to a caller: no room here."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _NO_ROOM:
            raise CacheFullError(
                f"the disk is full: {exc.strerror}, below {where}",
                hint="free space on the volume of the cache, or lower the cache's capacity",
            ) from exc
        raise
