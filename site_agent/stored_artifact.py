"""What is known of an artifact on this site's disk, and how it is written down there.

<directory>/manifest.json   what it is: a `StoredArtifact`
            files/<path>    its files, read-only
            damaged         empty; there while the files are known to be wrong
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gcos import codec
from gcos.artifacts import Artifact, Manifest, checked_manifest, checked_name
from gcos.errors import GcosError, InvalidRequestError, TooLargeError
from gcos.ids import ArtifactId, SiteId
from site_agent.durable_files import write_durably

MANIFEST_MESSAGE_BYTES_MAX = 4_000_000
"""A manifest travels as one message; gRPC receives at most 4 MiB (LIMITS, traps)."""

NAME_BYTES_MAX = 255
"""Longest component of a path: NAME_MAX of Linux file systems."""

RECORD = "manifest.json"
FILES = "files"
DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class HubOrigin:
    """What the Hugging Face hub says of an artifact that came from it.

    Attributes:
        revision: Commit, 40 hex digits.
        etags: The hub's name for the content of each file, in the manifest's order: 40 hex digits
            (SHA-1 of the git blob) or 64 (SHA-256, of a file in large-file storage).
    """

    revision: str
    etags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """What is known of an artifact here.

    Attributes:
        names: What people call it, the first it got first.
        manifest: Its files.
        placed_s: World instant at which it came.
        custodian: The site whose copy is protected; None where an upstream can be refetched.
        hub_origin: Where it came from the hub: what the hub calls it.
    """

    names: tuple[str, ...]
    manifest: Manifest
    placed_s: float
    custodian: SiteId | None = None
    hub_origin: HubOrigin | None = None

    def artifact(self) -> Artifact:
        """Return it as sites speak of it, under its first name."""
        return Artifact(
            artifact_id=self.manifest.artifact_id,
            kind=self.manifest.kind,
            name=self.names[0],
            size_bytes=self.manifest.size_bytes,
            custodian=self.custodian,
        )


def hex_of(artifact_id: ArtifactId) -> str:
    """Return the digest in an artifact id: it names directories."""
    return artifact_id.removeprefix("sha256:")


def checked_storable(manifest: Manifest) -> Manifest:
    """Return a manifest that is well formed and whose files can lie on a disk side by side.

    Raises:
        InvalidRequestError: It is malformed, a file's name is too long, or a file is in the place
            of another's directory.
        TooLargeError: It does not fit into one message.
    """
    checked_manifest(manifest)
    # Digest, tags and varints of one entry take at most 96 bytes on the wire.
    message_bytes = sum(len(entry.path.encode()) + 96 for entry in manifest.files)
    if message_bytes > MANIFEST_MESSAGE_BYTES_MAX:
        raise TooLargeError(
            f"{len(manifest.files)} files make a manifest of more than "
            f"{MANIFEST_MESSAGE_BYTES_MAX} bytes",
            hint="pack small files into archives",
        )
    for entry in manifest.files:
        if any(len(part.encode()) > NAME_BYTES_MAX for part in entry.path.split("/")):
            raise InvalidRequestError(
                f"{entry.path[:80]!r} has a name of more than {NAME_BYTES_MAX} bytes",
                field="files.path",
            )
    return manifest


def checked_origin(origin: HubOrigin, manifest: Manifest) -> HubOrigin:
    """Return what the hub says of a manifest's files if it may name files here.

    Raises:
        InvalidRequestError: A revision or an etag is none, or their count is another.
    """
    is_good = (
        re.fullmatch(r"[0-9a-f]{40}", origin.revision)
        and len(origin.etags) == len(manifest.files)
        and all(re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag) for etag in origin.etags)
    )
    if not is_good:
        raise InvalidRequestError("the hub's revision or etags are none", field="hub_origin")
    return origin


def checked_record(record: StoredArtifact) -> StoredArtifact:
    """Return a record whose names, manifest and origin may all become paths.

    Raises:
        GcosError: One of them may not.
    """
    checked_storable(record.manifest)
    if not record.names:
        raise GcosError("it has no name")
    for name in record.names:
        checked_name(name, field="names")
    if record.hub_origin is not None:
        checked_origin(record.hub_origin, record.manifest)
    return record


def read_record(directory: Path) -> StoredArtifact:
    """Return what lies in a directory that is named by its artifact's digest.

    Raises:
        GcosError: It is not a whole artifact, as far as names and sizes tell.
    """
    try:
        record = checked_record(codec.decode(StoredArtifact, (directory / RECORD).read_bytes()))
        if hex_of(record.manifest.artifact_id) != directory.name:
            raise GcosError("its manifest is another's")
        expected_bytes = {entry.path: entry.size_bytes for entry in record.manifest.files}
        if dict(_sizes_bytes(directory / FILES)) != expected_bytes:
            raise GcosError("its files are not those of its manifest")
    except OSError as exc:
        raise GcosError(f"it cannot be read: {exc}") from exc
    return record


def write_record(directory: Path, record: StoredArtifact) -> None:
    """Replace the record of a directory; durable once the directory is synced."""
    write_durably(directory / RECORD, codec.encode(record))


def _sizes_bytes(directory: Path) -> Iterator[tuple[str, int]]:
    for where, directories, names in os.walk(directory):
        for name in [*directories, *names]:
            path = Path(where) / name
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                continue
            is_plain = stat.S_ISREG(status.st_mode)
            yield path.relative_to(directory).as_posix(), status.st_size if is_plain else -1
