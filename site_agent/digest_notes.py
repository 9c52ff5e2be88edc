"""Digests of the chunks of an artifact's files: where a copy is damaged, and nothing else is read.

A manifest has one digest a file, which tells that a file is wrong, not where. The digests of its
chunks are taken while the whole file is known to be right, and lie beside the manifest as one flat
file: 32 bytes a chunk, file after file as in the manifest, and the SHA-256 of all that at its end.
They are this site's own notes and are trusted no further: what is mended must still hash to the
manifest's digest.

Files are named by SHA-256, as registries name them. Their chunks are our own matter and take
BLAKE3, which is as strong and costs a quarter (0.13 s per GB on one core beside 0.50 s). Blocking.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from gcos.artifacts import CHUNK_BYTES, FileEntry, Manifest
from site_agent.durable_files import write_durably

NOTES = "chunks.blake3"
"""Name of the file beside a manifest."""

_DIGEST_BYTES = 32
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class BadRange:
    """A part of a file that is not what it should be.

    Attributes:
        path: File, as in the manifest.
        offset_bytes: Where it begins.
        length_bytes: How long it is; 0 where only bytes beyond the file's end are to go.
    """

    path: str
    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class FileDigests:
    """What reading a file found.

    Attributes:
        sha256: Hex digest of all of it; empty where there is no plain file.
        chunks: Digest of each chunk of 1 MiB.
        size_bytes: How long it is.
    """

    sha256: str
    chunks: tuple[bytes, ...]
    size_bytes: int


class DigestNotes:
    """The digests of one artifact's chunks."""

    def __init__(self, manifest: Manifest, digests: bytes) -> None:
        self._starts: dict[str, int] = {}
        count = 0
        for entry in manifest.files:
            self._starts[entry.path] = count
            count += chunk_count(entry)
        assert len(digests) == count * _DIGEST_BYTES, "another manifest's digests"
        self._digests = digests

    def of(self, entry: FileEntry) -> tuple[bytes, ...]:
        """Return the digests of one file's chunks, 32 bytes each."""
        start = self._starts[entry.path]
        return tuple(
            self._digests[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES]
            for number in range(start, start + chunk_count(entry))
        )


def chunk_count(entry: FileEntry) -> int:
    """Return how many chunks a file has; the last one may be short."""
    return -(-entry.size_bytes // CHUNK_BYTES)


def chunk_digest(entry: FileEntry, data: bytes | memoryview) -> bytes:
    """Return the digest of a chunk of a file: BLAKE3, or SHA-256 where it is all of the file.

    The manifest tells what a file's only chunk hashes to, so that nobody need be asked for it.
    """
    if entry.size_bytes <= CHUNK_BYTES:
        return hashlib.sha256(data).digest()
    return blake3(data).digest()


def read_notes(path: Path, manifest: Manifest) -> DigestNotes | None:
    """Return the digests that were written to `path`; None where they are absent or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digests, check = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    count = sum(chunk_count(entry) for entry in manifest.files)
    if len(digests) != count * _DIGEST_BYTES or hashlib.sha256(digests).digest() != check:
        return None
    return DigestNotes(manifest, digests)


def write_notes(path: Path, chunks: Iterable[bytes]) -> None:
    """Write the digests of an artifact's chunks, file after file."""
    digests = b"".join(chunks)
    write_durably(path, digests + hashlib.sha256(digests).digest())


def read_file(path: Path, entry: FileEntry, checkpoint: Callable[[], None]) -> FileDigests:
    """Read a file and hash all of it and each chunk, as those of `entry`.

    `checkpoint` may raise to stop.
    """
    whole = hashlib.sha256()
    chunks: list[bytes] = []
    size_bytes = 0
    try:
        descriptor = os.open(path, _OPEN_FILE)
    except OSError:
        return FileDigests("", chunks=(), size_bytes=0)
    # A buffer of a whole chunk: a file is read in chunks whatever a single read returns.
    with os.fdopen(descriptor, "rb", buffering=CHUNK_BYTES) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return FileDigests("", chunks=(), size_bytes=0)
        while chunk := file.read(CHUNK_BYTES):
            checkpoint()
            whole.update(chunk)
            chunks.append(chunk_digest(entry, chunk))
            size_bytes += len(chunk)
    return FileDigests(whole.hexdigest(), chunks=tuple(chunks), size_bytes=size_bytes)


def bad_ranges(entry: FileEntry, found: FileDigests, known: DigestNotes | None) -> list[BadRange]:
    """Return which parts of a file are wrong; the whole file where the chunks cannot tell."""
    if found.sha256 == entry.sha256 and found.size_bytes == entry.size_bytes:
        return []
    whole = [BadRange(entry.path, offset_bytes=0, length_bytes=entry.size_bytes)]
    if known is None:
        return whole
    bad: list[BadRange] = []
    for number, digest in enumerate(known.of(entry)):
        offset = number * CHUNK_BYTES
        length = min(CHUNK_BYTES, entry.size_bytes - offset)
        is_right = number < len(found.chunks) and found.chunks[number] == digest
        if is_right:
            continue
        if bad and bad[-1].offset_bytes + bad[-1].length_bytes == offset:
            length += bad[-1].length_bytes
            offset = bad.pop().offset_bytes
        bad.append(BadRange(entry.path, offset_bytes=offset, length_bytes=length))
    if not bad and found.size_bytes > entry.size_bytes:
        return [BadRange(entry.path, offset_bytes=entry.size_bytes, length_bytes=0)]
    return bad or whole
