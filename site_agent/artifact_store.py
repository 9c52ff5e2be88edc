"""Artifacts on disk, in step with the books of a `DualCache`.

    <root>/artifacts/<hex digest>/manifest.json      what it is: a `StoredArtifact`
                                  files/<path>       its files, read-only
    <root>/partial/<hex digest>/...                  the same while it arrives
    <root>/trash/<number>                            what is being removed
    <root>/damaged/<hex digest>                      set aside at the start, never served

An artifact is published by fsync of everything below `partial/<hex>` and one rename. A rename takes
some 10 µs, so it is done in the same non-awaiting step as the change of the books: at every instant
`artifacts/<hex>` exists exactly if the books hold the artifact as complete. What takes longer
(hashing, writing, fsync, removing) changes no books and is marked *blocking*: a shell runs it in a
thread. Everything else belongs to the one thread that owns the books.

Bytes are those of the files' contents (I4); manifests, directories and the rounding of the file
system to blocks are not counted. An artifact with several names is stored and counted once and
advertised once for each name.
"""

import bisect
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gcos import codec
from gcos.artifacts import (
    CHUNK_BYTES,
    Artifact,
    ArtifactKind,
    FileEntry,
    Manifest,
    checked_manifest,
    checked_name,
)
from gcos.errors import (
    ArtifactNotFoundError,
    DigestMismatchError,
    GcosError,
    InvalidRequestError,
    TooLargeError,
)
from gcos.ids import ArtifactId, SiteId
from site_agent.dual_cache import DualCache
from site_agent.partial_file import PartialFile, disk_errors
from site_agent.source_directory import SourceDirectory, changed, no_checkpoint, open_source

MANIFEST_MESSAGE_BYTES_MAX = 4_000_000
"""A manifest travels as one message; gRPC receives at most 4 MiB (LIMITS, traps)."""

NAME_BYTES_MAX = 255
"""Longest component of a path: NAME_MAX of Linux file systems."""

_RECORD = "manifest.json"
_FILES = "files"


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """What is known of an artifact here.

    Attributes:
        names: What people call it, the first it got first.
        manifest: Its files.
        placed_s: World instant at which it came.
        custodian: The site whose copy is protected; None where an upstream can be refetched.
    """

    names: tuple[str, ...]
    manifest: Manifest
    placed_s: float
    custodian: SiteId | None = None

    def artifact(self) -> Artifact:
        """Return it as sites speak of it, under its first name."""
        return Artifact(
            artifact_id=self.manifest.artifact_id,
            kind=self.manifest.kind,
            name=self.names[0],
            size_bytes=self.manifest.size_bytes,
            custodian=self.custodian,
        )


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room for an artifact that will come.

    Attributes:
        artifact: What will come.
        evicted: What left the books for it.
        trash: Directories to `clear` before the first byte is written.
    """

    artifact: Artifact
    evicted: tuple[ArtifactId, ...]
    trash: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A directory that was found at the start and is not served.

    Attributes:
        directory: Its name.
        why: One sentence.
        is_kept: It was set aside in `damaged/`, since it may be a custodian's; else removed.
    """

    directory: str
    why: str
    is_kept: bool


class ArtifactStore:
    """The disk below one root; the only writer there. Made by `ArtifactStore.open`.

    Attributes:
        site_id: This site; copies whose custodian it is are protected.
        cache: The books.
        rejected: What was found at the start and is not served.
    """

    def __init__(
        self, root: Path, *, site_id: SiteId, cache: DualCache, allowed_roots: Sequence[Path]
    ) -> None:
        self.site_id = site_id
        self.cache = cache
        self.rejected: tuple[Rejected, ...] = ()
        self._root = root
        self._allowed_roots = tuple(allowed_roots)
        #: Of complete artifacts, the same keys as the books.
        self._records: dict[ArtifactId, StoredArtifact] = {}
        self._trash_count = 0

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        site_id: SiteId,
        model_capacity_bytes: int,
        data_capacity_bytes: int,
        allowed_roots: Sequence[Path] = (),
    ) -> "ArtifactStore":
        """Open or make the store below `root` and rebuild the books from what lies there.

        Partial copies of an earlier process are removed. Each artifact is checked by names and
        sizes; `verify` reads every byte. A copy that no longer fits, because a capacity was
        lowered, is removed if it can be refetched. Blocking.

        Args:
            root: Used by this process alone: the caller holds a lock on it or on its parent.
            site_id: This site.
            model_capacity_bytes: Capacity of the model cache.
            data_capacity_bytes: Capacity of the data cache.
            allowed_roots: Directories below which `import_directory` may read.

        Raises:
            CacheFullError: Copies in this site's custody do not fit any more.
        """
        cache = DualCache(model_capacity_bytes, data_capacity_bytes)
        store = cls(root, site_id=site_id, cache=cache, allowed_roots=allowed_roots)
        # Models and data may be confidential: nobody but the agent's user reads them.
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("trash", "partial"):
            shutil.rmtree(root / name, ignore_errors=True)
        for name in ("trash", "partial", "artifacts", "damaged"):
            (root / name).mkdir(exist_ok=True)
        store._rebuild()
        return store

    # ---- what is here -----------------------------------------------------------------------

    def record_of(self, artifact_id: ArtifactId) -> StoredArtifact:
        """Return what is known of a complete artifact.

        Raises:
            ArtifactNotFoundError: It is not complete here.
        """
        record = self._records.get(artifact_id)
        if record is None:
            raise ArtifactNotFoundError(
                f"{artifact_id} is not held by site {self.site_id}",
                hint="ask another holder; this one may have evicted it",
            )
        return record

    def path_of(self, artifact_id: ArtifactId) -> Path:
        """Return the directory with the files of a complete artifact; pin it while it is used.

        Raises:
            ArtifactNotFoundError: It is not complete here.
        """
        self.record_of(artifact_id)
        return self._directory("artifacts", artifact_id) / _FILES

    def entry_of(self, artifact_id: ArtifactId, path: str) -> FileEntry:
        """Return one file of a complete artifact.

        Raises:
            ArtifactNotFoundError: The artifact is not complete here, or has no such file.
        """
        files = self.record_of(artifact_id).manifest.files
        index = bisect.bisect_left(files, path, key=lambda entry: entry.path)
        if index == len(files) or files[index].path != path:
            raise ArtifactNotFoundError(f"{artifact_id} has no file {path[:80]!r}")
        return files[index]

    def verify(self, artifact_id: ArtifactId) -> None:
        """Read every byte of a complete artifact again. Blocking; pin it meanwhile.

        Raises:
            ArtifactNotFoundError: It is not complete here.
            DigestMismatchError: A file is missing or differs; the message names it.
        """
        manifest = self.record_of(artifact_id).manifest
        directory = self.path_of(artifact_id)
        for entry in manifest.files:
            if _sha256(directory / entry.path) != entry.sha256:
                raise DigestMismatchError(
                    f"{entry.path!r} of {artifact_id} is damaged on disk",
                    hint="remove the copy and fetch it from another holder",
                )

    # ---- how an artifact comes: reserve, clear, partial_file, seal, publish, sync ------------

    def reserve(self, artifact: Artifact, *, now_s: float) -> Reservation:
        """Make room in the books and take what is evicted out of sight.

        Raises:
            InvalidRequestError: The artifact has no bytes.
            WrongStateError: It is here, or on its way.
            CacheFullError: Even with everything evictable gone it would not fit.
        """
        is_custodian = artifact.custodian == self.site_id
        evicted = self.cache.reserve(artifact, now_s=now_s, is_custodian=is_custodian)
        for victim in evicted:
            del self._records[victim]
        try:
            trash = [self._to_trash(self._directory("artifacts", victim)) for victim in evicted]
        except OSError:
            self.cache.release(artifact.artifact_id)
            raise
        return Reservation(artifact, evicted=evicted, trash=tuple(trash))

    def clear(self, reservation: Reservation) -> None:
        """Remove what was evicted, and make the partial directory. Blocking.

        Raises:
            CacheFullError: The disk is full.
        """
        for directory in reservation.trash:
            shutil.rmtree(directory)
        with disk_errors(self._root):
            self._directory("partial", reservation.artifact.artifact_id).mkdir()

    def partial_file(self, artifact_id: ArtifactId, entry: FileEntry) -> PartialFile:
        """Return a file to write under a reservation. `entry` is of a checked manifest."""
        return PartialFile(self._directory("partial", artifact_id) / _FILES / entry.path, entry)

    def seal(self, record: StoredArtifact) -> None:
        """Make a partial copy durable whose files are all finished. Blocking.

        Raises:
            CacheFullError: The disk is full.
        """
        directory = self._directory("partial", record.manifest.artifact_id)
        with disk_errors(self._root):
            _write_record(directory, record)
            for where, _, _ in os.walk(directory, topdown=False):
                _sync_directory(Path(where))

    def publish(self, record: StoredArtifact) -> None:
        """Let a sealed copy be found, advertised and served: files and books in one step."""
        artifact_id = record.manifest.artifact_id
        assert self.cache.is_reserved(artifact_id), "published without a reservation"
        self._directory("partial", artifact_id).rename(self._directory("artifacts", artifact_id))
        is_custodian = record.custodian == self.site_id
        self.cache.set_custodian(artifact_id, record.custodian, is_custodian=is_custodian)
        self.cache.insert(artifact_id)
        self._records[artifact_id] = record

    def sync(self) -> None:
        """Make the publication itself survive a power cut. Blocking."""
        _sync_directory(self._root / "artifacts")

    def drop_partial(self, reservation: Reservation) -> None:
        """Remove what came so far; `release` the reservation after it. Blocking."""
        for directory in reservation.trash:
            shutil.rmtree(directory, ignore_errors=True)
        directory = self._directory("partial", reservation.artifact.artifact_id)
        if directory.exists():
            shutil.rmtree(directory)

    def release(self, reservation: Reservation) -> None:
        """Give the room back."""
        self.cache.release(reservation.artifact.artifact_id)

    # ---- artifacts of this machine ----------------------------------------------------------

    def import_directory(
        self, path: Path, name: str, kind: ArtifactKind, custodian: SiteId | None, *, now_s: float
    ) -> tuple[Artifact, bool]:
        """Copy a directory into the cache; blocking, for use where no loop runs.

        Args:
            path: Absolute, under an allowed root.
            name: What people will call it.
            kind: Model or data set.
            custodian: The site whose copy is protected; None where an upstream can be refetched.
            now_s: World instant.

        Returns:
            The artifact, and False if the same content was here under the same name. Content that
            is here under another name gets this one too and is not copied.

        Raises:
            InvalidRequestError: The path or the name may not be used, or the directory holds links,
                special files or no bytes.
            ExhaustedError: It does not fit into the cache, on the disk, or into a manifest.
            WrongStateError: A file changed meanwhile.
        """
        checked_name(name, field="name")
        with self.open_source(path) as source:
            manifest = self.survey(source, kind)
            if self.cache.has(manifest.artifact_id):
                return self.add_name(manifest.artifact_id, name, custodian)
            record = StoredArtifact((name,), manifest, placed_s=now_s, custodian=custodian)
            reservation = self.reserve(record.artifact(), now_s=now_s)
            try:
                self.clear(reservation)
                self.copy(source, manifest)
                self.seal(record)
                self.publish(record)
            except BaseException:
                self.drop_partial(reservation)
                self.release(reservation)
                raise
        self.sync()
        return record.artifact(), True

    @contextmanager
    def open_source(self, path: Path) -> Iterator[SourceDirectory]:
        """Open a directory that may be added.

        Raises:
            InvalidRequestError: It is not under an allowed root, overlaps this store, or cannot be
                read; `field` is `path`.
        """
        with open_source(path, self._allowed_roots) as source:
            root = self._root.resolve()
            if source.path.is_relative_to(root) or root.is_relative_to(source.path):
                raise InvalidRequestError(
                    f"path {str(path)!r} overlaps the cache itself", field="path"
                )
            yield source

    def survey(
        self,
        source: SourceDirectory,
        kind: ArtifactKind,
        checkpoint: Callable[[], None] = no_checkpoint,
    ) -> Manifest:
        """Return what a directory consists of. Blocking; `checkpoint` may raise to stop it.

        Raises:
            InvalidRequestError: It holds links, special files or no bytes.
            TooLargeError: It can never fit into the cache or its manifest into a message.
        """
        size_bytes_max = self.cache.capacity_bytes(kind)
        manifest = source.manifest(kind, size_bytes_max=size_bytes_max, checkpoint=checkpoint)
        return checked_storable(manifest)

    def copy(
        self,
        source: SourceDirectory,
        manifest: Manifest,
        checkpoint: Callable[[], None] = no_checkpoint,
    ) -> None:
        """Copy a surveyed directory into its partial copy, verifying it on the way. Blocking.

        Raises:
            WrongStateError: A file changed since the survey.
            CacheFullError: The disk is full.
        """
        for entry in manifest.files:
            partial = self.partial_file(manifest.artifact_id, entry)
            try:
                for chunk in source.chunks(entry.path):
                    checkpoint()
                    partial.append(chunk)
                if partial.received_bytes < entry.size_bytes:
                    raise changed(entry.path)
                partial.finish()
            except DigestMismatchError as exc:
                raise changed(entry.path) from exc
            finally:
                partial.close()

    def add_name(
        self, artifact_id: ArtifactId, name: str, custodian: SiteId | None
    ) -> tuple[Artifact, bool]:
        """Give content that is here a further name; blocking for one small fsync.

        Returns:
            The artifact under that name, and whether the name is new.

        Raises:
            ArtifactNotFoundError: It is not complete here.
        """
        record = self.renamed(artifact_id, name, custodian)
        self.rewrite(record)
        return self.adopt(record, name)

    def renamed(
        self, artifact_id: ArtifactId, name: str, custodian: SiteId | None
    ) -> StoredArtifact:
        """Return the record of a complete artifact with a further name; changes nothing.

        An artifact without a custodian gets `custodian`; one that has a custodian keeps it.

        Raises:
            ArtifactNotFoundError: It is not complete here.
        """
        record = self.record_of(artifact_id)
        names = record.names if name in record.names else (*record.names, name)
        return replace(record, names=names, custodian=record.custodian or custodian)

    def rewrite(self, record: StoredArtifact) -> None:
        """Make a changed record of a complete artifact durable. Blocking.

        Raises:
            CacheFullError: The disk is full.
        """
        directory = self._directory("artifacts", record.manifest.artifact_id)
        with disk_errors(self._root):
            _write_record(directory, record)
            _sync_directory(directory)

    def adopt(self, record: StoredArtifact, name: str) -> tuple[Artifact, bool]:
        """Enter a rewritten record into the books.

        Returns:
            The artifact under `name`, and whether that name is new.

        Raises:
            ArtifactNotFoundError: It is not complete here.
        """
        artifact_id = record.manifest.artifact_id
        is_custodian = record.custodian == self.site_id
        self.cache.set_custodian(artifact_id, record.custodian, is_custodian=is_custodian)
        is_new = self.cache.add_name(artifact_id, name)
        self._records[artifact_id] = record
        return replace(record.artifact(), name=name), is_new

    def check_invariants(self) -> None:
        """Assert that books, records and directories agree."""
        self.cache.check_invariants()
        complete = {artifact.artifact_id for artifact in self.cache.holdings()}
        assert complete == set(self._records), "books and records differ"
        directories = {path.name for path in (self._root / "artifacts").iterdir()}
        assert directories == {_hex(artifact_id) for artifact_id in complete}, "disk differs"

    # ---- inside -----------------------------------------------------------------------------

    def _directory(self, area: str, artifact_id: ArtifactId) -> Path:
        return self._root / area / _hex(artifact_id)

    def _to_trash(self, directory: Path) -> Path:
        """Take a directory out of sight, so that its name is free at once."""
        self._trash_count += 1
        trash = self._root / "trash" / str(self._trash_count)
        directory.rename(trash)
        return trash

    def _rebuild(self) -> None:
        rejected: list[Rejected] = []
        found: list[StoredArtifact] = []
        for directory in sorted((self._root / "artifacts").iterdir()):
            try:
                found.append(_read_record(directory))
            except GcosError as exc:
                shutil.rmtree(self._root / "damaged" / directory.name, ignore_errors=True)
                directory.rename(self._root / "damaged" / directory.name)
                rejected.append(Rejected(directory.name, why=exc.message, is_kept=True))
        # Custody first: it must stay. Then the newest, since those are the likeliest to be used.
        found.sort(key=lambda r: (r.custodian != self.site_id, -r.placed_s, r.manifest.artifact_id))
        for record in found:
            self._readmit(record, rejected)
        self.rejected = tuple(rejected)

    def _readmit(self, record: StoredArtifact, rejected: list[Rejected]) -> None:
        artifact = record.artifact()
        is_custodian = record.custodian == self.site_id
        fits = self.cache.evictions_for(artifact.kind, artifact.size_bytes) == ()
        if not fits and not is_custodian:
            directory = self._directory("artifacts", artifact.artifact_id)
            shutil.rmtree(self._to_trash(directory))
            rejected.append(Rejected(directory.name, why="the cache is smaller now", is_kept=False))
            return
        # For a custodian's copy that does not fit this raises: nothing here may be dropped.
        self.cache.reserve(artifact, now_s=record.placed_s, is_custodian=is_custodian)
        self.cache.insert(artifact.artifact_id)
        for name in record.names[1:]:
            self.cache.add_name(artifact.artifact_id, name)
        self._records[artifact.artifact_id] = record


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
    paths = {entry.path for entry in manifest.files}
    for entry in manifest.files:
        parts = entry.path.split("/")
        if any(len(part.encode()) > NAME_BYTES_MAX for part in parts):
            raise InvalidRequestError(
                f"{entry.path[:80]!r} has a name of more than {NAME_BYTES_MAX} bytes",
                field="files.path",
            )
        if any("/".join(parts[:depth]) in paths for depth in range(1, len(parts))):
            raise InvalidRequestError(
                f"{entry.path[:80]!r} lies below another file", field="files.path"
            )
    return manifest


def _hex(artifact_id: ArtifactId) -> str:
    return artifact_id.removeprefix("sha256:")


def _read_record(directory: Path) -> StoredArtifact:
    """Return what lies in a directory of `artifacts/`.

    Raises:
        GcosError: It is not a whole artifact, as far as names and sizes tell.
    """
    try:
        record = codec.decode(StoredArtifact, (directory / _RECORD).read_bytes())
        checked_storable(record.manifest)
        if not record.names:
            raise GcosError("it has no name")
        for name in record.names:
            checked_name(name, field="names")
        if not re.fullmatch(r"[0-9a-f]{64}", directory.name) or (
            _hex(record.manifest.artifact_id) != directory.name
        ):
            raise GcosError("its manifest is another's")
        expected_bytes = {entry.path: entry.size_bytes for entry in record.manifest.files}
        if dict(_sizes_bytes(directory / _FILES)) != expected_bytes:
            raise GcosError("its files are not those of its manifest")
    except OSError as exc:
        raise GcosError(f"it cannot be read: {exc}") from exc
    return record


def _sizes_bytes(directory: Path) -> Iterator[tuple[str, int]]:
    for where, directories, names in os.walk(directory):
        for name in [*directories, *names]:
            path = Path(where) / name
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                continue
            is_plain = stat.S_ISREG(status.st_mode)
            yield path.relative_to(directory).as_posix(), status.st_size if is_plain else -1


def _sha256(path: Path) -> str | None:
    """Return the hex digest of a file; None where there is no plain file."""
    digest = hashlib.sha256()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _write_record(directory: Path, record: StoredArtifact) -> None:
    """Replace the record of a directory; durable once the directory is synced."""
    temporary = directory / f"{_RECORD}.new"
    with temporary.open("wb") as file:
        file.write(codec.encode(record))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / _RECORD)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
