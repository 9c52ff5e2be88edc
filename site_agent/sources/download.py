"""Brings the files of a listing: several at once, resumed after a cut, verified. Blocking.

A file goes on where it stopped, as often as it makes progress; without progress a few times, with
growing pauses, or as long as the source asks for. A host without an address is given up sooner as
long as nothing came: its name may be wrong, and somebody waits to hear so. What proves wrong is
fetched anew once; wrong twice means that the source itself is wrong.
"""

import functools
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gcos.artifacts import CHUNK_BYTES, FileEntry
from gcos.errors import DigestMismatchError, GcosError, UnavailableError, WrongStateError
from site_agent.durable_files import disk_errors
from site_agent.sources.leftovers import opened_again
from site_agent.sources.source import (
    Listing,
    Source,
    SourceFile,
    TransientError,
    UnknownHostError,
)

FILES_AT_ONCE = 4
FAILURE_COUNT_MAX = 7
"""Failures in a row without a byte in between, after which a file is given up."""

UNKNOWN_HOST_COUNT_MAX = 3
"""The same where no address of the host is known and nothing came yet: 7 s of pauses."""

PAUSE_S_MIN = 1.0
PAUSE_S_MAX = 60.0
RETRY_AFTER_S_MAX = 600.0
"""A source that asks for a longer pause is told as unavailable."""

_READ_ONLY = 0o444


class StagedFile:
    """A file that comes from a source, hashed as it comes, verified by what the source states.

    Every method is blocking, and only one may run at a time.
    """

    def __init__(self, path: Path, file: SourceFile) -> None:
        self.path = path
        self.file = file
        self.received_bytes = 0
        self._digest = hashlib.sha256()
        self._git = _git_digest(file)
        self._descriptor: int | None = None

    def resume(self, stop: "Stop") -> None:
        """Go on with what an earlier process brought of a file whose digest is stated.

        Raises:
            WrongStateError: It was ended meanwhile.
            OSError: What is there cannot be read.
        """
        descriptor = opened_again(self.path)
        if descriptor is None:
            return
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            while data := file.read(CHUNK_BYTES):
                stop.check()
                self._digest.update(data)
                if self._git is not None:
                    self._git.update(data)
                self.received_bytes += len(data)

    def append(self, data: bytes) -> None:
        """Write and hash the next bytes.

        Raises:
            DigestMismatchError: They are more than the file has.
            CacheFullError: The disk is full.
        """
        if self.received_bytes + len(data) > self.file.size_bytes:
            raise DigestMismatchError(f"{self.file.path!r} is longer than its source says")
        descriptor = self._open()
        view = memoryview(data)
        with disk_errors(self.path):
            while view:
                view = view[os.write(descriptor, view) :]
        self._digest.update(data)
        if self._git is not None:
            self._git.update(data)
        self.received_bytes += len(data)

    def finish(self) -> None:
        """Verify the whole file as far as its source states digests; make it durable.

        Raises:
            DigestMismatchError: It is another file; `restart` begins anew.
            CacheFullError: The disk is full.
        """
        assert self.received_bytes == self.file.size_bytes, "finished before the last byte"
        if self.file.sha256 not in {None, self._digest.hexdigest()}:
            raise DigestMismatchError(f"{self.file.path!r} does not hash to its digest")
        if self._git is not None and self._git.hexdigest() != self.file.git_sha1:
            raise DigestMismatchError(f"{self.file.path!r} does not hash to its git id")
        descriptor = self._open()  # one without bytes exists, too
        with disk_errors(self.path):
            os.fchmod(descriptor, _READ_ONLY)
            os.fsync(descriptor)
        self.close()

    def restart(self) -> None:
        """Throw away what came so far."""
        self.close()
        self.path.unlink(missing_ok=True)
        self.received_bytes = 0
        self._digest = hashlib.sha256()
        self._git = _git_digest(self.file)

    def close(self) -> None:
        """Close the file where it is open."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def entry(self) -> FileEntry:
        """Return what a manifest says of the finished file."""
        return FileEntry(
            self.file.path, size_bytes=self.received_bytes, sha256=self._digest.hexdigest()
        )

    def _open(self) -> int:
        if self._descriptor is None:
            with disk_errors(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
                self._descriptor = os.open(self.path, flags, 0o600)
        return self._descriptor


class Stop(threading.Event):
    """Ends a download from outside, also in the middle of a pause."""

    def check(self) -> None:
        """Go on.

        Raises:
            WrongStateError: It was ended.
        """
        if self.is_set():
            raise _stopped()

    def pause(self, length_s: float) -> None:
        """Wait.

        Raises:
            WrongStateError: It was ended meanwhile.
        """
        if self.wait(length_s):
            raise _stopped()


@dataclass(frozen=True, slots=True)
class Tries:
    """How patient a download is: `pause` waits, `tell` hears of each failure."""

    pause: Callable[[float], None]
    tell: Callable[[str, float], None]


def resolved(source: Source, stop: Stop, tries: Tries) -> Listing:
    """Return what a source lists, with patience. Blocking.

    Raises:
        GcosError: It cannot be listed.
    """
    failure_count = 0
    while True:
        stop.check()
        try:
            return source.resolve()
        except TransientError as exc:
            failure_count += 1
            _have_patience(exc, failure_count, tries, is_begun=False)


def bring_all(
    source: Source,
    staged: Sequence[StagedFile],
    *,
    stop: Stop,
    tries: Tries,
    on_bytes: Callable[[str, int], None],
) -> None:
    """Bring files, some at once, and return when all are verified. Blocking.

    Args:
        source: Where they are; its `read` is called from several threads.
        staged: Files and where they go.
        stop: Ends it from outside; it is set where one file fails.
        tries: How patient it is.
        on_bytes: Told the path of a file and the bytes of it that are here; may fall.

    Raises:
        GcosError: A file cannot be had.
    """
    # The largest first: they alone keep the line busy in the end.
    ordered = sorted(staged, key=lambda each: (-each.file.size_bytes, each.file.path))

    def is_begun() -> bool:
        """Tell whether the source has sent anything: what the listing brought does not count."""
        return any(each.received_bytes for each in staged if each.file.content is None)

    bring = functools.partial(_bring, source, stop=stop, tries=tries, on_bytes=on_bytes)
    with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="gcos-pull") as threads:
        futures = [threads.submit(bring, each, is_begun=is_begun) for each in ordered]
        done, pending = wait(futures, return_when=FIRST_EXCEPTION)
        if pending:
            stop.set()
            for future in pending:
                future.cancel()
    errors = [error for each in done if (error := each.exception()) is not None]
    for error in errors:
        raise error


def _bring(
    source: Source,
    staged: StagedFile,
    *,
    stop: Stop,
    tries: Tries,
    on_bytes: Callable[[str, int], None],
    is_begun: Callable[[], bool],
) -> None:
    failure_count, is_suspect = 0, False
    try:
        while True:
            before_bytes = staged.received_bytes
            try:
                _read_rest(source, staged, stop, on_bytes)
                staged.finish()
            except TransientError as exc:
                failure_count = 1 if staged.received_bytes > before_bytes else failure_count + 1
                _have_patience(exc, failure_count, tries, is_begun=is_begun())
            except DigestMismatchError as exc:
                if is_suspect:
                    raise DigestMismatchError(
                        f"{exc.message}, twice in a row",
                        hint="its upstream is damaged or changes: try later, or name a revision",
                    ) from exc
                is_suspect = True
                tries.tell(exc.message, 0.0)
                staged.restart()
                on_bytes(staged.file.path, 0)
            else:
                return
    finally:
        staged.close()


def _read_rest(
    source: Source,
    staged: StagedFile,
    stop: Stop,
    on_bytes: Callable[[str, int], None],
) -> None:
    """Read a file from where it stopped to its end.

    Raises:
        TransientError: It ended early.
        DigestMismatchError: It is longer than listed.
    """
    file = staged.file
    if file.content is not None:
        staged.append(file.content[staged.received_bytes :])
    elif staged.received_bytes < file.size_bytes:
        with closing(source.read(file, staged.received_bytes)) as chunks:
            for chunk in chunks:
                stop.check()
                staged.append(chunk)
                on_bytes(file.path, staged.received_bytes)
    if staged.received_bytes < file.size_bytes:
        raise TransientError(
            f"{file.path!r} ended at {staged.received_bytes} of {file.size_bytes} bytes"
        )
    on_bytes(file.path, staged.received_bytes)


def _have_patience(
    error: TransientError, failure_count: int, tries: Tries, *, is_begun: bool
) -> None:
    """Wait before the next try.

    Raises:
        UnavailableError: There have been enough.
    """
    is_unknown = isinstance(error, UnknownHostError) and not is_begun
    if is_unknown and failure_count > UNKNOWN_HOST_COUNT_MAX:
        raise UnavailableError(
            f"{error}; given up after {failure_count} failures",
            hint="check the name of the host, and that the site's machine has a network with DNS",
        ) from error
    pause_s = pause_after(failure_count, error.retry_after_s)
    if failure_count > FAILURE_COUNT_MAX or pause_s is None:
        raise UnavailableError(
            f"{error}; given up after {failure_count} failures",
            hint="try again later: gcos cache pull"
            if pause_s is not None
            else f"it asks to be left alone for {error.retry_after_s:.0f} s: try again after that",
        ) from error
    tries.tell(str(error), pause_s)
    tries.pause(pause_s)


def pause_after(failure_count: int, retry_after_s: float | None) -> float | None:
    """Return how long to wait after so many failures in a row; None: longer than is sensible.

    The wait doubles, as AIP-194 has it, unless the source says how long.
    """
    if retry_after_s is not None:
        return None if retry_after_s > RETRY_AFTER_S_MAX else max(PAUSE_S_MIN, retry_after_s)
    return min(PAUSE_S_MAX, PAUSE_S_MIN * 2.0 ** (failure_count - 1))


def _git_digest(file: SourceFile) -> "hashlib._Hash | None":
    """Return the beginning of git's id of a blob (git hash-object: header, then content)."""
    if file.git_sha1 is None or len(file.git_sha1) != 40:
        return None
    return hashlib.sha1(f"blob {file.size_bytes}\0".encode(), usedforsecurity=False)


def _stopped() -> GcosError:
    return WrongStateError("stopped")
