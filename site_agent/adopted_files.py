"""Whole artifacts of other programs' stores, shared with this one without copying a byte.

    <root>/adopted/<hex digest>/manifest.json, files/<path>   names of the foreign files here
    <root>/adopted-digests.json                               what was hashed, by inode

A file of an adopted artifact is a hard link where both stores lie on one file system, a reflink
where a hard link is refused and the file system can share extents, and else a symbolic link: the
bytes are served where they lie. They are never counted, evicted or changed. All names are made anew
at each start, so that bytes whose owner has removed them are not held for longer than that.

A store that names its content by SHA-256 is believed, as far as sizes agree: whoever receives the
bytes hashes them. Other files are hashed once and remembered until inode, size or time changes.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gcos import codec
from gcos.artifacts import CHUNK_BYTES, FileEntry, Manifest
from gcos.errors import GcosError
from site_agent.durable_files import disk_errors, write_durably
from site_agent.foreign_stores import (
    Candidate,
    ForeignFile,
    Skipped,
    SkipReason,
)
from site_agent.source_directory import no_checkpoint
from site_agent.store_areas import StoreAreas
from site_agent.stored_artifact import (
    FILES,
    HubOrigin,
    StoredArtifact,
    checked_record,
    write_record,
)

#: `ioctl` of Linux that lets two files share extents (linux/fs.h, FICLONE).
_FICLONE = 0x40049409
_NO_HARD_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EACCES, errno.ENOTSUP})


@dataclass(frozen=True, slots=True)
class _Identity:
    """What a file is to the kernel: another content has another one."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A digest that was computed once."""

    identity: _Identity
    sha256: str


@dataclass(frozen=True, slots=True)
class _Memory:
    """All of them, as they are written down."""

    digests: tuple[_Remembered, ...]


class ChangedError(Exception):
    """A foreign file changed, or went away, while it was read."""


class DigestMemory:
    """Digests of foreign files, kept over restarts. Blocking; one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[_Identity, str] = {}
        self._is_changed = False
        with contextlib.suppress(OSError, GcosError):
            memory = codec.decode(_Memory, path.read_bytes())
            self._known = {each.identity: each.sha256 for each in memory.digests}

    def sha256_of(self, source: Path, checkpoint: Callable[[], None] = no_checkpoint) -> str:
        """Return the hex digest of a file, reading it only where it is not known.

        Raises:
            ChangedError: It changed meanwhile, or cannot be read.
        """
        try:
            descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                identity = _identity(os.fstat(descriptor))
                if identity in self._known:
                    return self._known[identity]
                digest = hashlib.sha256()
                while chunk := file.read(CHUNK_BYTES):
                    checkpoint()
                    digest.update(chunk)
                is_same = _identity(os.fstat(descriptor)) == identity
        except OSError as exc:
            raise ChangedError(str(source)) from exc
        if not is_same:
            raise ChangedError(str(source))
        self._known[identity] = digest.hexdigest()
        self._is_changed = True
        return self._known[identity]

    def save(self) -> None:
        """Write down what was learnt.

        Raises:
            CacheFullError: The disk is full.
        """
        if self._is_changed:
            known = (_Remembered(identity, sha256) for identity, sha256 in self._known.items())
            with disk_errors(self._path):
                write_durably(self._path, codec.encode(_Memory(tuple(known))))
            self._is_changed = False


class AdoptedFiles:
    """The names that adopted files have here. Blocking; one thread at a time.

    Args:
        areas: Of the store; the same file system as far as possible.
    """

    def __init__(self, areas: StoreAreas) -> None:
        self._areas = areas
        self._memory = DigestMemory(areas.root / "adopted-digests.json")

    def record_of(
        self,
        candidate: Candidate,
        *,
        now_s: float,
        checkpoint: Callable[[], None] = no_checkpoint,
    ) -> StoredArtifact | Skipped:
        """Return what a candidate is, hashing what its store does not name by SHA-256.

        Raises:
            CacheFullError: The disk is full.
        """
        try:
            entries = tuple(
                FileEntry(
                    file.path,
                    size_bytes=file.size_bytes,
                    sha256=file.sha256 or self._memory.sha256_of(file.source, checkpoint),
                )
                for file in candidate.files
            )
            record = checked_record(
                StoredArtifact(
                    (candidate.name,),
                    Manifest(candidate.kind, entries),
                    placed_s=now_s,
                    hub_origin=_origin(candidate),
                )
            )
        except ChangedError:
            return Skipped(candidate.where, SkipReason.CHANGED)
        except GcosError:
            return Skipped(candidate.where, SkipReason.UNSUPPORTED)
        finally:
            self._memory.save()
        return record

    def link(self, candidate: Candidate, record: StoredArtifact) -> Skipped | None:
        """Give the candidate's files names here; what fails leaves none.

        Raises:
            CacheFullError: The disk is full.
        """
        directory = self._areas.adopted(record.manifest.artifact_id)
        try:
            with disk_errors(directory):
                for file in candidate.files:
                    path = directory / FILES / file.path
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _share(file, path)
                write_record(directory, record)
        except ChangedError:
            shutil.rmtree(directory, ignore_errors=True)
            return Skipped(candidate.where, SkipReason.CHANGED)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return None


def _share(file: ForeignFile, path: Path) -> None:
    """Let `path` be the foreign file: by hard link, by reflink, or by symbolic link."""
    try:
        os.link(file.source, path, follow_symlinks=False)
    except FileNotFoundError as exc:
        raise ChangedError(str(file.source)) from exc
    except OSError as exc:
        if exc.errno not in _NO_HARD_LINK:
            raise
        if exc.errno == errno.EXDEV or not _clone(file.source, path):
            path.symlink_to(file.source)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != file.size_bytes:
        raise ChangedError(str(file.source))


def _clone(source: Path, path: Path) -> bool:
    """Make a copy that shares its extents with the source; False where that cannot be."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with source.open("rb") as original:
            descriptor = os.open(path, flags, 0o444)
            try:
                fcntl.ioctl(descriptor, _FICLONE, original.fileno())
            finally:
                os.close(descriptor)
    except OSError:
        path.unlink(missing_ok=True)
        return False
    return True


def _identity(status: os.stat_result) -> _Identity:
    return _Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _origin(candidate: Candidate) -> HubOrigin | None:
    """Return what the hub calls the candidate, where it names all of it."""
    etags = tuple(file.etag for file in candidate.files)
    if not candidate.revision or not all(etags):
        return None
    return HubOrigin(candidate.revision, etags=etags)
