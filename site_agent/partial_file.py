"""A file that arrives: written and hashed as its bytes come, verified at its end."""

import contextlib
import hashlib
import os
from pathlib import Path

from gcos.artifacts import FileEntry
from gcos.errors import DigestMismatchError
from site_agent.durable_files import begin_writeback, disk_errors

_READ_ONLY = 0o444
_WRITEBACK_BYTES = 8 << 20


class PartialFile:
    """A file that is being written; remembers how far it came, so another source can go on.

    Every method is blocking, and only one may run at a time.

    Args:
        path: Where it will lie.
        entry: What it must be.
        known: A verified file here with the same content: it gets one more name, no byte is
            copied, and all of it is received from the start.
    """

    def __init__(self, path: Path, entry: FileEntry, known: Path | None = None) -> None:
        self.entry = entry
        self.received_bytes = 0
        #: How much of it the disk was told to write.
        self._told_bytes = 0
        self._path = path
        self._digest = hashlib.sha256()
        self._descriptor: int | None = None
        #: It may be asked for again: who finished it was stopped before it could note that.
        self._is_finished = False
        self._is_linked = known is not None and self._link(known)
        if self._is_linked:
            self.received_bytes = entry.size_bytes

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
        if self.received_bytes - self._told_bytes >= _WRITEBACK_BYTES:
            begin_writeback(descriptor, self._told_bytes, self.received_bytes)
            self._told_bytes = self.received_bytes

    def finish(self) -> None:
        """Verify the whole file, make it read-only and durable.

        Raises:
            DigestMismatchError: It is not what the manifest says; `restart` begins anew.
            CacheFullError: The disk is full.
        """
        assert self.received_bytes == self.entry.size_bytes, "finished before the last byte"
        if self._is_linked or self._is_finished:
            return
        if self._digest.hexdigest() != self.entry.sha256:
            raise DigestMismatchError(f"{self.entry.path!r} does not hash to its digest")
        descriptor = self._open()
        with disk_errors(self._path):
            os.fchmod(descriptor, _READ_ONLY)
            os.fsync(descriptor)
        self.close()
        self._is_finished = True

    def restart(self) -> None:
        """Throw away what came so far."""
        self.close()
        self._path.unlink(missing_ok=True)
        self.received_bytes = self._told_bytes = 0
        self._digest = hashlib.sha256()
        self._is_linked = self._is_finished = False

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

    def _link(self, known: Path) -> bool:
        """Give a verified file the name of this one; False where its bytes must come after all."""
        with contextlib.suppress(OSError):
            if known.lstat().st_size != self.entry.size_bytes:
                return False
            self._path.parent.mkdir(parents=True, exist_ok=True)
            os.link(known, self._path, follow_symlinks=False)
            return True
        # It was evicted a moment ago, or has as many names as its file system gives.
        return False
