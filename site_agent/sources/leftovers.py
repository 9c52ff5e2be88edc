"""What a process left of pulls when it ended, so that the next one may go on with it. Blocking.

    <staging>/<key>/listing.json     what was being pulled: a `Leftover`
                    <number>         its files so far, numbered as the listing orders them

Only files whose digest the source states are gone on with: their bytes are hashed again, and the
whole must hash to it. Of others nobody could tell whether a power cut spoilt them.
"""

import hashlib
import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gcos import codec
from gcos.artifacts import Artifact, ArtifactKind, checked_name
from gcos.errors import GcosError
from gcos.ids import ArtifactId
from site_agent.artifact_store import ArtifactStore
from site_agent.durable_files import disk_errors, write_new
from site_agent.sources.source import FILE_BYTES_MAX, Listing

NOTE: Final = "listing.json"


@dataclass(frozen=True, slots=True)
class LeftFile:
    """One file of a listing, as far as it must be the same to go on with.

    Attributes:
        path: Inside the artifact.
        size_bytes: Length.
        sha256: Hex digest where the source states it.
        git_sha1: Git's blob id where it states that.
    """

    path: str
    size_bytes: int
    sha256: str | None
    git_sha1: str | None

    @property
    def is_stated(self) -> bool:
        """Whether the whole file can be told from a spoilt one."""
        return self.sha256 is not None or (self.git_sha1 is not None and len(self.git_sha1) == 40)


@dataclass(frozen=True, slots=True)
class Leftover:
    """A pull that its process did not end.

    Attributes:
        reference: What was pulled, as it is shown.
        name: What it was to be called.
        kind: Model or data set.
        files: As its source listed them.
    """

    reference: str
    name: str
    kind: ArtifactKind
    files: tuple[LeftFile, ...]

    @property
    def size_bytes(self) -> int:
        """All of it."""
        return sum(file.size_bytes for file in self.files)


def files_of(listing: Listing) -> tuple[LeftFile, ...]:
    """Return what must be the same of a listing."""
    return tuple(
        LeftFile(file.path, size_bytes=file.size_bytes, sha256=file.sha256, git_sha1=file.git_sha1)
        for file in listing.files
    )


def write_note(place: Path, leftover: Leftover) -> None:
    """Write down what is being pulled to `place`.

    Raises:
        CacheFullError: The disk is full.
    """
    with disk_errors(place):
        write_new(place / NOTE, codec.encode(leftover), is_durable=False)


def received_bytes(place: Path) -> int:
    """Return how much of a leftover is here."""
    return sum(path.lstat().st_size for path in place.iterdir() if path.name != NOTE)


def key_of(reference: str, kind: ArtifactKind) -> str:
    """Return what names the staging directory of a pull."""
    return hashlib.sha256(f"{kind.value} {reference}".encode()).hexdigest()


def promise_of(key: str, kind: ArtifactKind, name: str, size_bytes: int) -> Artifact:
    """Return what the room of a pull is reserved for while its content has no id."""
    return Artifact(ArtifactId(f"sha256:{key}"), kind=kind, name=name, size_bytes=size_bytes)


def park_all(store: ArtifactStore, staging: Path, *, now_s: float) -> dict[str, Leftover]:
    """Keep what an earlier process left, where there is room for it; remove the rest.

    Args:
        store: Its books get the room.
        staging: Where pulls lie; made where it is missing.
        now_s: World instant.

    Returns:
        What is kept, by the names of the directories.
    """
    staging.mkdir(mode=0o700, parents=True, exist_ok=True)
    found: dict[str, Leftover] = {}
    for place in sorted(staging.iterdir()):
        leftover = _left_in(place) if place.is_dir() and not place.is_symlink() else None
        if leftover is not None:
            size_bytes, kind = leftover.size_bytes, leftover.kind
            if store.cache.evictions_for(kind, size_bytes) == ():
                promise = promise_of(place.name, kind, leftover.name, size_bytes)
                store.park(store.reserve(promise, now_s=now_s), place)
                found[place.name] = leftover
                continue
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)
    return found


def _left_in(place: Path) -> Leftover | None:
    """Return what was being pulled to a directory; None where nothing of it can be gone on with."""
    try:
        leftover = codec.decode(Leftover, (place / NOTE).read_bytes())
        checked_name(leftover.name, field="name")
        if place.name != key_of(leftover.reference, leftover.kind):
            return None
        if any(not 0 <= file.size_bytes <= FILE_BYTES_MAX for file in leftover.files):
            return None
        for path in place.iterdir():
            if path.name != NOTE and not _is_begun(path, leftover.files):
                path.unlink()
        return leftover if received_bytes(place) else None
    except (OSError, GcosError):
        return None


def _is_begun(path: Path, files: tuple[LeftFile, ...]) -> bool:
    """Tell whether a path holds the beginning of a file that can be gone on with."""
    number = int(path.name) if re.fullmatch(r"[0-9]{1,6}", path.name) else len(files)
    if number >= len(files) or not files[number].is_stated:
        return False
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_size <= files[number].size_bytes


def opened_again(path: Path) -> int | None:
    """Return a descriptor to read what came of a file; None where nothing did.

    The file may be written to afterwards, also where it was finished and read-only.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    os.fchmod(descriptor, 0o600)
    return descriptor
