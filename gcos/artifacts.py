"""Artifacts: models and data sets, each a manifest of files addressed by content.

An artifact's id is the SHA-256 of its manifest's canonical text (kind and files, not the name), so
the same bytes have the same id wherever they lie and whatever they are called. A *name* such as
`tiny-lm-1m` is how people refer to it; `name@sha256:...` pins the content.
"""

import hashlib
import re
from dataclasses import dataclass
from enum import Enum

from gcos.errors import InvalidRequestError
from gcos.ids import ArtifactId, SiteId, is_artifact_id

ARTIFACT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
PATH_BYTES_MAX = 1024
FILE_COUNT_MAX = 100_000
CHUNK_BYTES = 1 << 20
#: So begins the name of a working directory that a client sent for one task.
SENT_WORKDIR_PREFIX = "workdir-"
"""Artifacts travel and are verified in chunks of 1 MiB (LIMITS: larger messages gain nothing)."""


class ArtifactKind(Enum):
    """Which of the two caches an artifact belongs to."""

    MODEL = "MODEL"
    DATA = "DATA"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a manifest.

    Attributes:
        path: Relative POSIX path inside the artifact.
        size_bytes: Length of the file.
        sha256: Hex digest of the whole file.
    """

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an artifact consists of. Files are sorted by path."""

    kind: ArtifactKind
    files: tuple[FileEntry, ...]

    @property
    def size_bytes(self) -> int:
        """Sum of the files' sizes."""
        return sum(entry.size_bytes for entry in self.files)

    @property
    def artifact_id(self) -> ArtifactId:
        """`sha256:` and the digest of the canonical text: a line per file, sorted by path."""
        lines = [self.kind.value]
        lines += [f"{entry.sha256} {entry.size_bytes} {entry.path}" for entry in self.files]
        return ArtifactId("sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest())


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact as sites speak of it.

    Attributes:
        artifact_id: Content id of the manifest.
        kind: Model or data set.
        name: What people call it.
        size_bytes: Bytes on disk.
        custodian: The site whose copy is protected; None where an upstream can be refetched.
    """

    artifact_id: ArtifactId
    kind: ArtifactKind
    name: str
    size_bytes: int
    custodian: SiteId | None = None


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A complete artifact in a cache, as people see it; one for each of its names.

    Attributes:
        artifact: The artifact under one of its names.
        pin_count: Runs that use it now.
        last_used_s: World instant of the last use.
        hit_count: Runs that found it here.
        is_damaged: Its bytes are known to be wrong: nobody gets it until it is mended.
    """

    artifact: Artifact
    pin_count: int
    last_used_s: float
    hit_count: int
    is_damaged: bool = False


@dataclass(frozen=True, slots=True)
class CacheUsage:
    """How full a cache is.

    Attributes:
        kind: Which cache.
        capacity_bytes: Capacity.
        occupied_bytes: Held by complete artifacts; one with several names counts once.
        reserved_bytes: Promised to transfers under way.
    """

    kind: ArtifactKind
    capacity_bytes: int
    occupied_bytes: int
    reserved_bytes: int


@dataclass(frozen=True, slots=True)
class CacheMark:
    """What the operator and the sources say of an artifact.

    Attributes:
        artifact_id: Which.
        is_pinned: The operator keeps it.
        reference: Where it was pulled from; empty where it was not.
        revision: State of that upstream, such as a commit; empty where it has none.
        why: How it came here, for a person; empty where that is known no more.
    """

    artifact_id: ArtifactId
    is_pinned: bool = False
    reference: str = ""
    revision: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    """What a task names: a name, or a name with the content it must have."""

    name: str
    artifact_id: ArtifactId | None = None


def parse_reference(text: str, *, field: str) -> Reference:
    """Return the reference that `text` spells: `name` or `name@sha256:<64 hex digits>`.

    Raises:
        InvalidRequestError: `text` is no reference; the message names `field`.
    """
    name, separator, digest = text.partition("@")
    if separator and not is_artifact_id(digest):
        raise InvalidRequestError(
            f"{digest!r} is no content id",
            field=field,
            hint="write name@sha256: and 64 hex digits, or the name alone",
        )
    checked_name(name, field=field)
    return Reference(name, ArtifactId(digest) if separator else None)


def checked_name(name: str, *, field: str) -> str:
    """Return `name` if it may name an artifact.

    Raises:
        InvalidRequestError: It has other characters than letters, digits, `._-` and one `/`.
    """
    if not ARTIFACT_NAME.fullmatch(name):
        raise InvalidRequestError(
            f"{name[:80]!r} is no artifact name",
            field=field,
            hint="use letters, digits, '.', '_', '-' and at most one '/', such as org/name",
        )
    return name


def checked_path(path: str, *, field: str = "path") -> str:
    r"""Return `path` if it stays inside the directory it is relative to.

    Raises:
        InvalidRequestError: It is empty, absolute, too long, not valid Unicode, or has `..`, `.`,
            `\`, NUL or a line feed in it.
    """
    parts = path.split("/")
    is_bad = (
        not path
        or len(path.encode(errors="replace")) > PATH_BYTES_MAX
        or any(part in {"", ".", ".."} for part in parts)
        or any(ch in path for ch in ("\\", "\0", "\n"))
        or any("\ud800" <= ch <= "\udfff" for ch in path)  # no such text on the wire
    )
    if is_bad:
        raise InvalidRequestError(
            f"{path[:80]!r} does not stay inside its directory",
            field=field,
            hint="use a relative path without '..'",
        )
    return path


def checked_manifest(manifest: Manifest) -> Manifest:
    """Return `manifest` if it is well formed: safe, distinct, sorted paths and sane sizes.

    Raises:
        InvalidRequestError: It is empty, too long, unsorted, names a path twice, or has a file
            where another path needs a directory.
    """
    if not manifest.files or manifest.size_bytes <= 0:
        raise InvalidRequestError(
            "the artifact holds no bytes", field="files", hint="add at least one non-empty file"
        )
    if len(manifest.files) > FILE_COUNT_MAX:
        raise InvalidRequestError(f"more than {FILE_COUNT_MAX} files", field="files")
    previous = ""
    files = {entry.path for entry in manifest.files}
    for entry in manifest.files:
        checked_path(entry.path, field="files.path")
        if entry.path <= previous:
            raise InvalidRequestError(
                f"{entry.path!r} is repeated or out of order", field="files.path"
            )
        if entry.size_bytes < 0 or not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
            raise InvalidRequestError(
                f"{entry.path!r} has no valid size or digest", field="files.sha256"
            )
        parent, separator, _ = entry.path.rpartition("/")
        while separator:
            if parent in files:
                raise InvalidRequestError(
                    f"{parent!r} is a file and a directory", field="files.path"
                )
            parent, separator, _ = parent.rpartition("/")
        previous = entry.path
    return manifest
