"""Reading an artifact on disk again, and mending just what is wrong with it. Blocking."""

import contextlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gcos.artifacts import CHUNK_BYTES, FileEntry, Manifest
from gcos.errors import DigestMismatchError
from gcos.ids import ArtifactId
from site_agent.digest_notes import (
    BadRange,
    DigestNotes,
    bad_ranges,
    chunk_digest,
    read_file,
    read_notes,
    write_notes,
)
from site_agent.durable_files import disk_errors

ReadRange = Callable[[FileEntry, int, int], bytes]
"""Returns the bytes of a file from an offset on, so many: `read(entry, offset, length)`."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What reading every byte of an artifact found.

    Attributes:
        artifact_id: What was read.
        bad: What is wrong, in the order of the manifest.
    """

    artifact_id: ArtifactId
    bad: tuple[BadRange, ...]

    @property
    def bad_bytes(self) -> int:
        """Bytes that a repair has to bring."""
        return sum(each.length_bytes for each in self.bad)


def examine(
    manifest: Manifest,
    notes: Path,
    file_of: Callable[[FileEntry], Path],
    checkpoint: Callable[[], None],
) -> Examination:
    """Read every file and say what is wrong; where nothing is, note the digests of its chunks.

    Args:
        manifest: What should be there.
        notes: Where the digests of chunks lie, or are to lie.
        file_of: Returns the plain file of an entry.
        checkpoint: Called before each chunk; may raise to stop.
    """
    known = read_notes(notes, manifest)
    bad: list[BadRange] = []
    chunks: list[bytes] = []
    for entry in manifest.files:
        found = read_file(file_of(entry), entry, checkpoint)
        bad += bad_ranges(entry, found, known)
        chunks += found.chunks
    if not bad and known is None:
        # A disk that takes no notes is no reason to call a good copy bad.
        with contextlib.suppress(OSError):
            write_notes(notes, chunks)
    return Examination(manifest.artifact_id, tuple(bad))


def mend(
    files: Path,
    entry: FileEntry,
    bad: list[BadRange],
    known: DigestNotes | None,
    read: ReadRange,
    *,
    is_ours: Callable[[os.stat_result], bool],
) -> None:
    """Write the right bytes into a file's bad ranges, a chunk at a time, and make them durable.

    The file is mended where it lies, so that all its names have the right content. Nothing outside
    of `files` is ever opened: no link is followed on the way, and a file that somebody else has a
    name of is left to them and comes anew. A chunk that comes wrong is not written.

    Args:
        files: Directory with the artifact's files.
        entry: Which file.
        bad: What is wrong with it.
        known: Digests of the artifact's chunks.
        read: Brings bytes.
        is_ours: Tells whether every name of a file is the store's.

    Raises:
        DigestMismatchError: `read` returned something else.
        CacheFullError: The disk is full.
        OSError: Something that is no directory is in the place of one.
    """
    with disk_errors(files):
        directory = _open_directory(files, entry.path.split("/")[:-1])
    name = entry.path.rpartition("/")[2]
    try:
        with disk_errors(files):
            is_kept = _make_writable(name, directory, is_ours)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            whole = [BadRange(entry.path, offset_bytes=0, length_bytes=entry.size_bytes)]
            _fill(descriptor, entry, bad if is_kept else whole, known, read)
            with disk_errors(files):
                os.fsync(descriptor)
        finally:
            os.fchmod(descriptor, 0o444)
            os.close(descriptor)
        with disk_errors(files):
            os.fsync(directory)
    finally:
        os.close(directory)


def _open_directory(files: Path, names: list[str]) -> int:
    """Return a descriptor of a directory below `files`, made where it is missing."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    current = os.open(files, flags)
    for name in names:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=current)
            below = os.open(name, flags, dir_fd=current)
        finally:
            os.close(current)
        current = below
    return current


def _make_writable(name: str, directory: int, is_ours: Callable[[os.stat_result], bool]) -> bool:
    """Let a file be opened for writing; False where there is none that may be written to."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(status.st_mode) or not is_ours(status):
        os.unlink(name, dir_fd=directory)
        return False
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    return True


def _fill(
    descriptor: int,
    entry: FileEntry,
    bad: list[BadRange],
    known: DigestNotes | None,
    read: ReadRange,
) -> None:
    with disk_errors(Path(entry.path)):
        os.ftruncate(descriptor, entry.size_bytes)
    for part in bad:
        end = part.offset_bytes + part.length_bytes
        for offset in range(part.offset_bytes, end, CHUNK_BYTES):
            length = min(CHUNK_BYTES, end - offset)
            data = read(entry, offset, length)
            _check_chunk(entry, offset, data, length, known)
            with disk_errors(Path(entry.path)):
                _write_all(descriptor, data, offset)


def _check_chunk(
    entry: FileEntry, offset: int, data: bytes, length: int, known: DigestNotes | None
) -> None:
    is_right = len(data) == length
    if is_right and known is not None:
        is_right = chunk_digest(entry, data) == known.of(entry)[offset // CHUNK_BYTES]
    if not is_right:
        raise DigestMismatchError(
            f"what came for {entry.path!r} at {offset} is not what belongs there",
            hint="ask another holder",
        )


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
