"""Artifacts on disk, in step with the books of a `DualCache`.

    <root>/artifacts/<hex digest>/manifest.json      what it is: a `StoredArtifact`
                                  files/<path>       its files, read-only
                                  chunks.blake3      digests of their chunks
                                  damaged            there while the files are known to be wrong
    <root>/hub/models--org--name/...                 the same files as the hub's tools know them
    <root>/placements/<hex digest>.json              what is below `hub` for it
    <root>/adopted/<hex digest>/...                  names of other programs' files
    <root>/partial/<hex digest>/...                  an artifact while it arrives
    <root>/trash/<number>                            what is being removed
    <root>/damaged/<hex digest>                      set aside at the start, never served

An artifact is published by fsync of everything below `partial/<hex>` and one rename. A rename takes
some 10 µs, so it is done in the same non-awaiting step as the change of the books: at every instant
`artifacts/<hex>` exists exactly if the books hold the artifact as complete. What takes longer
(hashing, writing, fsync, removing) changes no books and is marked *blocking*: a shell runs it in a
thread. Everything else belongs to the one thread that owns the books.

`hub` is derived from `artifacts` (`site_agent.hub_layout`): it follows a publication in `sync`, and
an eviction in `clear`. Equal files of one cache are one inode, whatever artifacts they belong to.

Bytes are those of the files' contents (I4); manifests, directories and the rounding of the file
system to blocks are not counted. The books count each artifact in full, so they are never below
`stored_bytes`, which counts each inode once. An artifact with several names is stored and counted
once and advertised once for each name.
"""

import bisect
import contextlib
import functools
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gcos.artifacts import (
    Artifact,
    ArtifactKind,
    FileEntry,
    Manifest,
    checked_name,
)
from gcos.errors import (
    ArtifactNotFoundError,
    CacheFullError,
    DigestMismatchError,
    InvalidRequestError,
    WrongStateError,
)
from gcos.ids import ArtifactId, SiteId
from policies.evictors import DEFAULT as DEFAULT_EVICTION
from policies.evictors import evictor_named
from site_agent.digest_notes import NOTES, DigestNotes, read_notes, write_notes
from site_agent.dual_cache import DualCache, Victim
from site_agent.durable_files import disk_errors, sync_directory, write_durably
from site_agent.hub_shelf import HubShelf
from site_agent.partial_file import PartialFile
from site_agent.source_directory import SourceDirectory, changed, no_checkpoint, open_source
from site_agent.store_areas import Rejected, StoreAreas, paths_by_content
from site_agent.stored_artifact import (
    DAMAGED,
    FILES,
    MANIFEST_MESSAGE_BYTES_MAX,
    NAME_BYTES_MAX,
    HubOrigin,
    StoredArtifact,
    checked_record,
    checked_storable,
    hex_of,
    write_record,
)
from site_agent.verification import Examination, ReadRange, examine, mend

__all__ = [
    "MANIFEST_MESSAGE_BYTES_MAX",
    "NAME_BYTES_MAX",
    "ArtifactStore",
    "HubOrigin",
    "Rejected",
    "Reservation",
    "StoredArtifact",
    "checked_storable",
]


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room for an artifact that will come.

    Attributes:
        artifact: What will come.
        evicted: What left the books for it.
        trash: Directories to `clear` before the first byte is written.
        victims: Of `evicted`, for those who ask why.
    """

    artifact: Artifact
    evicted: tuple[ArtifactId, ...]
    trash: tuple[Path, ...]
    victims: tuple[Victim, ...] = ()


class ArtifactStore:
    """The disk below one root; the only writer there. Made by `ArtifactStore.open`.

    Attributes:
        site_id: This site; copies whose custodian it is are protected.
        cache: The books.
        rejected: What was found at the start and is not served.
        areas: The directories.
    """

    def __init__(
        self, root: Path, *, site_id: SiteId, cache: DualCache, allowed_roots: Sequence[Path]
    ) -> None:
        self.site_id = site_id
        self.cache = cache
        self.rejected: tuple[Rejected, ...] = ()
        self.areas = StoreAreas(root)
        self._root = root
        self._allowed_roots = tuple(allowed_roots)
        #: Of complete artifacts in the caches, the same keys as the books.
        self._records: dict[ArtifactId, StoredArtifact] = {}
        self._hub = HubShelf(self.areas, self._shown)
        #: Of artifacts that lie here for good, the residents of the books.
        self._adopted: dict[ArtifactId, StoredArtifact] = {}
        #: Kinds of what was reserved and is not complete.
        self._arriving: dict[ArtifactId, ArtifactKind] = {}
        #: A path for each content, of artifacts that are complete or were sealed.
        self._contents: dict[ArtifactId, Mapping[str, str]] = {}
        #: Room of what nobody brings just now, by the id it is reserved under, and where it lies.
        self._parked: dict[ArtifactId, tuple[Reservation, Path]] = {}

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        site_id: SiteId,
        model_capacity_bytes: int,
        data_capacity_bytes: int,
        eviction: str = DEFAULT_EVICTION,
        allowed_roots: Sequence[Path] = (),
        pinned: Collection[ArtifactId] = (),
    ) -> "ArtifactStore":
        """Open or make the store below `root` and rebuild the books from what lies there.

        Partial copies of an earlier process are removed. Each artifact is checked by names and
        sizes; `verify` reads every byte. A copy that no longer fits, because a capacity was
        lowered, is removed if it can be refetched and nobody pinned it. Blocking.

        Args:
            root: Used by this process alone: the caller holds a lock on it or on its parent.
            site_id: This site.
            model_capacity_bytes: Capacity of the model cache.
            data_capacity_bytes: Capacity of the data cache.
            eviction: What goes first when a cache is full (`policies.evictors`).
            allowed_roots: Directories below which `import_directory` may read.
            pinned: What the operator keeps, here or not.

        Raises:
            CacheFullError: Copies that are pinned or in this site's custody do not fit any more;
                nothing was removed.
            InvalidRequestError: There is no such eviction.
        """
        evictor = evictor_named(eviction)
        cache = DualCache(model_capacity_bytes, data_capacity_bytes, evictor)
        store = cls(root, site_id=site_id, cache=cache, allowed_roots=allowed_roots)
        store.areas.open()
        store._rebuild(frozenset(pinned))
        store._hub.open(sorted(store._records.values(), key=lambda record: record.placed_s))
        return store

    @property
    def hub_root(self) -> Path:
        """What the hub's tools are given as `HF_HUB_CACHE` or `cache_dir`, to read only."""
        return self._hub.root

    # ---- what is here -----------------------------------------------------------------------

    def record_of(self, artifact_id: ArtifactId) -> StoredArtifact:
        """Return what is known of a complete artifact.

        Raises:
            ArtifactNotFoundError: It is not complete here.
        """
        record = self._records.get(artifact_id) or self._adopted.get(artifact_id)
        if record is None:
            raise ArtifactNotFoundError(
                f"{artifact_id} is not held by site {self.site_id}",
                hint="ask another holder; this one may have evicted it",
            )
        return record

    def whole_record_of(self, artifact_id: ArtifactId) -> StoredArtifact:
        """Return what is known of an artifact that may be used and served.

        Raises:
            ArtifactNotFoundError: It is not complete here.
            DigestMismatchError: The copy is known to be damaged.
        """
        record = self.record_of(artifact_id)
        if self.cache.is_damaged(artifact_id):
            raise DigestMismatchError(
                f"the copy of {record.names[0]} at site {self.site_id} is damaged on disk",
                hint="ask another holder",
            )
        return record

    def path_of(self, artifact_id: ArtifactId) -> Path:
        """Return the directory with the files of a complete artifact; pin it while it is used.

        Raises:
            ArtifactNotFoundError: It is not complete here.
        """
        self.record_of(artifact_id)
        if artifact_id in self._adopted:
            return self.areas.adopted(artifact_id) / FILES
        return self.areas.complete(artifact_id) / FILES

    def file_of(self, artifact_id: ArtifactId, entry: FileEntry) -> Path:
        """Return the plain file with the bytes of `entry`; below `path_of`, it may be a link.

        Raises:
            ArtifactNotFoundError: It is not complete here.
        """
        path = self.path_of(artifact_id) / entry.path
        # Only adopted files are links that we made; one among our own files is somebody's trick.
        is_link = artifact_id in self._adopted and path.is_symlink()
        return path.readlink() if is_link else path

    def entry_of(self, artifact_id: ArtifactId, path: str) -> FileEntry:
        """Return one file of a complete artifact.

        Raises:
            ArtifactNotFoundError: The artifact is not complete here, or has no such file.
            DigestMismatchError: The copy is known to be damaged.
        """
        files = self.whole_record_of(artifact_id).manifest.files
        index = bisect.bisect_left(files, path, key=lambda entry: entry.path)
        if index == len(files) or files[index].path != path:
            raise ArtifactNotFoundError(f"{artifact_id} has no file {path[:80]!r}")
        return files[index]

    def stored_bytes(self, kind: ArtifactKind) -> int:
        """Return what complete artifacts of one kind take on disk, each inode once. Blocking."""
        records = [record for record in self._records.values() if record.manifest.kind is kind]
        return self.areas.stored_bytes(records)

    # ---- verification -----------------------------------------------------------------------

    def chunk_digests(self, artifact_id: ArtifactId) -> DigestNotes | None:
        """Return the digest of each chunk of an artifact where they are known. Blocking.

        Raises:
            ArtifactNotFoundError: It is not complete here.
        """
        manifest = self.record_of(artifact_id).manifest
        return read_notes(self.path_of(artifact_id).with_name(NOTES), manifest)

    def examine(
        self, artifact_id: ArtifactId, checkpoint: Callable[[], None] = no_checkpoint
    ) -> Examination:
        """Read every byte of a complete artifact and say what is wrong. Blocking; pin it meanwhile.

        Where nothing is and its chunks have no digests yet, they are written down. A copy that is
        wrong counts as missing, over restarts too, until another examination finds it right.

        Raises:
            ArtifactNotFoundError: It is not complete here.
        """
        manifest = self.record_of(artifact_id).manifest
        notes = self.path_of(artifact_id).with_name(NOTES)
        report = examine(manifest, notes, functools.partial(self.file_of, artifact_id), checkpoint)
        if bool(report.bad) != self.cache.is_damaged(artifact_id):
            self._note_damage(artifact_id, bool(report.bad))
        return report

    def verify(self, artifact_id: ArtifactId) -> None:
        """Read every byte of a complete artifact again. Blocking; pin it meanwhile.

        Raises:
            ArtifactNotFoundError: It is not complete here.
            DigestMismatchError: A file is missing or differs; the message names it.
        """
        report = self.examine(artifact_id)
        if report.bad:
            raise _damaged(artifact_id, report.bad[0].path)

    def repair(self, examination: Examination, read: ReadRange) -> None:
        """Bring what is wrong with an artifact, and nothing else. Blocking; pin it meanwhile.

        Args:
            examination: What is wrong.
            read: Returns the bytes of a file from an offset on; asks another holder for them.

        Raises:
            ArtifactNotFoundError: It is not complete here.
            WrongStateError: Its files are another program's.
            DigestMismatchError: `read` returned something else; the artifact stays damaged.
            CacheFullError: The disk is full.
        """
        artifact_id = examination.artifact_id
        record = self.record_of(artifact_id)
        if artifact_id in self._adopted:
            raise WrongStateError(
                f"{record.names[0]} is another program's", hint="repair it where it came from"
            )
        notes = self.chunk_digests(artifact_id)
        files = self.path_of(artifact_id)
        for entry in record.manifest.files:
            bad = [part for part in examination.bad if part.path == entry.path]
            if bad:
                mend(files, entry, bad, notes, read, is_ours=self.areas.has_all_names)
        self.verify(artifact_id)
        self._hub.show(artifact_id)

    def repair_from(self, source: SourceDirectory, artifact_id: ArtifactId) -> None:
        """Mend a damaged copy from a directory with the same content. Blocking; pin it meanwhile.

        Raises:
            ArtifactNotFoundError: It is not complete here.
            WrongStateError: Its files are another program's.
            DigestMismatchError: The directory changed; the artifact stays damaged.
            CacheFullError: The disk is full.
        """
        self.repair(
            self.examine(artifact_id),
            lambda entry, offset, length: source.part(entry.path, offset, length),
        )

    # ---- how an artifact comes: reserve, clear, partial_file, seal, publish, sync ------------

    def reserve(self, artifact: Artifact, *, now_s: float) -> Reservation:
        """Make room in the books and take what is evicted out of sight.

        Raises:
            InvalidRequestError: The artifact has no bytes.
            WrongStateError: It is here, or on its way.
            CacheFullError: Even with everything evictable gone it would not fit.
        """
        trash = self._make_way(artifact)
        victims = self.cache.victims_for(artifact)
        try:
            is_custodian = artifact.custodian == self.site_id
            evicted = self.cache.reserve(artifact, now_s=now_s, is_custodian=is_custodian)
        except BaseException:
            self._remove(Reservation(artifact, evicted=(), trash=tuple(trash)))
            raise
        records = [self._forget(victim) for victim in evicted]
        gone_count = len(trash)
        try:
            for victim in evicted:
                trash.append(self.areas.to_trash(victim))
        except BaseException:
            self.cache.release(artifact.artifact_id)
            for record in records[len(trash) - gone_count :]:
                self._readmit(record)
            self._remove(Reservation(artifact, evicted=evicted, trash=tuple(trash)))
            raise
        self._arriving[artifact.artifact_id] = artifact.kind
        return Reservation(artifact, evicted=evicted, trash=tuple(trash), victims=victims)

    def clear(self, reservation: Reservation) -> None:
        """Remove what was evicted, and make the partial directory. Blocking.

        Raises:
            CacheFullError: The disk is full.
        """
        with disk_errors(self._root):
            self._remove(reservation)
            self.areas.partial(reservation.artifact.artifact_id).mkdir()

    def partial_file(self, artifact_id: ArtifactId, entry: FileEntry) -> PartialFile:
        """Return a file to write under a reservation. `entry` is of a checked manifest.

        Where another artifact of its cache has the same file, all of it is there already.
        """
        path = self.areas.partial(artifact_id) / FILES / entry.path
        return PartialFile(path, entry, self._known_file(artifact_id, entry))

    def note_chunks(self, artifact_id: ArtifactId, digests: Sequence[bytes]) -> None:
        """Write down what the chunks of a partial copy hash to, before `seal`. Blocking.

        Args:
            artifact_id: Under a reservation.
            digests: Of each chunk, file after file in the manifest's order.
        """
        path = self.areas.partial(artifact_id) / NOTES
        # A full disk takes no notes; the copy is good without them.
        with contextlib.suppress(CacheFullError), disk_errors(path):
            write_notes(path, digests)

    def seal(self, record: StoredArtifact) -> None:
        """Make a partial copy durable whose files are all finished. Blocking.

        Raises:
            CacheFullError: The disk is full.
        """
        checked_record(record)
        self.areas.seal(record)
        self._contents[record.manifest.artifact_id] = paths_by_content(record)

    def publish(self, record: StoredArtifact) -> None:
        """Let a sealed copy be found, advertised and served: files and books in one step.

        Raises:
            CacheFullError: The disk is full; nothing has changed.
        """
        artifact_id = record.manifest.artifact_id
        assert self.cache.is_reserved(artifact_id), "published without a reservation"
        self.areas.publish(artifact_id)
        is_custodian = record.custodian == self.site_id
        self.cache.set_custodian(artifact_id, record.custodian, is_custodian=is_custodian)
        self.cache.insert(artifact_id)
        self._arriving.pop(artifact_id)
        self._records[artifact_id] = record
        self._hub.wait(artifact_id)

    def sync(self) -> None:
        """Make publications survive a power cut, and show them to the hub's tools. Blocking.

        Raises:
            CacheFullError: The disk is full; what is not shown yet will be at the next call.
        """
        self.areas.sync()
        self._hub.show_waiting()

    def drop_partial(self, reservation: Reservation) -> None:
        """Remove what came so far; `release` the reservation after it. Blocking."""
        self._remove(reservation)
        self.areas.drop_partial(reservation.artifact.artifact_id)

    def release(self, reservation: Reservation) -> None:
        """Give the room back."""
        artifact_id = reservation.artifact.artifact_id
        self.cache.release(artifact_id)
        self._arriving.pop(artifact_id, None)
        self._contents.pop(artifact_id, None)

    def park(self, reservation: Reservation, place: Path) -> None:
        """Keep the room of what may be gone on with; it goes first when room is wanted.

        Args:
            reservation: Its room.
            place: The directory with its bytes, on the file system of the store.
        """
        self._parked[reservation.artifact.artifact_id] = (reservation, place)

    def unpark(self, artifact_id: ArtifactId) -> Reservation | None:
        """Return the room of what is gone on with; None where it had to go meanwhile."""
        parked = self._parked.pop(artifact_id, None)
        return None if parked is None else parked[0]

    # ---- how an artifact goes: drop, discard ------------------------------------------------

    def drop(self, artifact_id: ArtifactId) -> Path:
        """Evict an artifact although nobody needs its room; hand the result to `discard`.

        Raises:
            ArtifactNotFoundError: It is not complete here.
            WrongStateError: It is in use, or this site is its custodian.
        """
        self.cache.drop(artifact_id)
        record = self._forget(artifact_id)
        try:
            return self.areas.to_trash(artifact_id)
        except BaseException:
            self._readmit(record)
            raise

    def give_up(self, artifact_id: ArtifactId) -> Path:
        """Drop an artifact even though this site may be its custodian; the result as of `drop`.

        Raises:
            ArtifactNotFoundError: It is not complete here.
            WrongStateError: It is in use; its custodian stays who it was.
        """
        custodian = self.record_of(artifact_id).custodian
        if custodian != self.site_id:
            return self.drop(artifact_id)
        self.cache.set_custodian(artifact_id, None, is_custodian=False)
        try:
            return self.drop(artifact_id)
        except BaseException:
            self.cache.set_custodian(artifact_id, custodian, is_custodian=True)
            raise

    def discard(self, artifact_id: ArtifactId, trash: Path) -> None:
        """Remove what was dropped. Blocking."""
        self._hub.show(artifact_id)
        shutil.rmtree(trash, ignore_errors=True)

    # ---- other programs' artifacts ----------------------------------------------------------

    def is_known(self, artifact_id: ArtifactId) -> bool:
        """Tell whether an artifact is here, adopted or not, or on its way."""
        return self.cache.is_known(artifact_id)

    def settle(self, record: StoredArtifact) -> Artifact:
        """Let a foreign artifact that `adopted_files` linked be found, advertised and served.

        Raises:
            WrongStateError: It is here, or on its way.
        """
        artifact = record.artifact()
        artifact_id = artifact.artifact_id
        if self.is_known(artifact_id):
            raise WrongStateError(f"{artifact.name} is here already")
        self.cache.settle(artifact)
        self._adopted[artifact_id] = record
        return artifact

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
            if self.cache.is_damaged(manifest.artifact_id):
                self.repair_from(source, manifest.artifact_id)
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
        # Nobody waits for the notes of chunks here as a run waits for a transfer.
        self.examine(manifest.artifact_id)
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
        # The id hashes the whole manifest: asked for once, not once a file.
        artifact_id = manifest.artifact_id
        for entry in manifest.files:
            partial = self.partial_file(artifact_id, entry)
            try:
                if partial.received_bytes < entry.size_bytes or not entry.size_bytes:
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
        directory = self.areas.complete(record.manifest.artifact_id)
        with disk_errors(self._root):
            write_record(directory, record)
            sync_directory(directory)
        if not self.cache.is_damaged(record.manifest.artifact_id):
            self._hub.show_as(record)

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
        held = {artifact.artifact_id for artifact in self.cache.kept()}
        assert held == self._records.keys() | self._adopted.keys(), "books and records differ"
        assert not self._records.keys() & self._adopted.keys(), "an artifact is in two places"
        complete = {hex_of(artifact_id) for artifact_id in self._records}
        assert self.areas.names() == complete, "disk differs"

    # ---- inside -----------------------------------------------------------------------------

    def _known_file(self, artifact_id: ArtifactId, entry: FileEntry) -> Path | None:
        """Return a verified file of the same cache with the same content."""
        kind = self._arriving.get(artifact_id)
        # A list, since another thread may be adding to them.
        for known_id, paths in list(self._contents.items()):
            record = self._records.get(known_id)
            is_shared = record is not None and record.manifest.kind is kind
            if is_shared and not self.cache.is_damaged(known_id) and entry.sha256 in paths:
                return self.areas.complete(known_id) / FILES / paths[entry.sha256]
        return None

    def _make_way(self, artifact: Artifact) -> list[Path]:
        """Give up what is parked, the oldest first, before anything is evicted; return trash."""
        trash: list[Path] = []
        for artifact_id, (reservation, place) in list(self._parked.items()):
            if self.cache.evictions_for(artifact.kind, artifact.size_bytes) == ():
                break
            if reservation.artifact.kind is artifact.kind:
                trash.append(self.areas.place_to_trash(place))
                del self._parked[artifact_id]
                self.release(reservation)
        return trash

    def _forget(self, artifact_id: ArtifactId) -> StoredArtifact:
        self._contents.pop(artifact_id, None)
        return self._records.pop(artifact_id)

    def _shown(self, artifact_id: ArtifactId) -> StoredArtifact | None:
        """Return the record of what the hub's tools may see."""
        return None if self.cache.is_damaged(artifact_id) else self._records.get(artifact_id)

    def _note_damage(self, artifact_id: ArtifactId, is_damaged: bool) -> None:
        """Write down whether a complete artifact is known to be wrong. Blocking."""
        mark = self.path_of(artifact_id).with_name(DAMAGED)
        if is_damaged:
            # At once; on a full disk that is all, and holds as long as this process does.
            self.cache.set_damaged(artifact_id, True)
            with contextlib.suppress(CacheFullError), disk_errors(mark):
                write_durably(mark, b"")
                sync_directory(mark.parent)
        else:
            mark.unlink(missing_ok=True)
            sync_directory(mark.parent)
            self.cache.set_damaged(artifact_id, False)
        if artifact_id in self._records:
            self._hub.show(artifact_id)

    def _remove(self, reservation: Reservation) -> None:
        """Remove what was evicted for a reservation, all its names first."""
        for victim in reservation.evicted:
            self._hub.show(victim)
        for directory in reservation.trash:
            if directory.exists():
                shutil.rmtree(directory)

    def _rebuild(self, pinned: frozenset[ArtifactId]) -> None:
        found, rejected = self.areas.found()
        keyed = [(record.manifest.artifact_id, record) for record in found]
        protected = {
            artifact_id
            for artifact_id, record in keyed
            if record.custodian == self.site_id or artifact_id in pinned
        }
        # What must stay comes first. Then the newest, the likeliest to be used.
        keyed.sort(key=lambda each: (each[0] not in protected, -each[1].placed_s, each[0]))
        for artifact_id, record in keyed:
            artifact = record.artifact()
            if self.cache.evictions_for(artifact.kind, artifact.size_bytes) == ():
                self._readmit(record)
            elif artifact_id in protected:
                raise self._too_small(artifact, is_pinned=artifact_id in pinned)
            else:
                shutil.rmtree(self.areas.to_trash(artifact_id))
                why = f"the {artifact.kind.value.lower()} cache is smaller now"
                rejected.append(
                    Rejected(hex_of(artifact_id), why=why, is_kept=False, artifact=artifact)
                )
        self.rejected = tuple(rejected)

    def _too_small(self, artifact: Artifact, *, is_pinned: bool) -> CacheFullError:
        """Return why the store cannot be opened: something that must stay does not fit."""
        usage = self.cache.usage(artifact.kind)
        kind = artifact.kind.value.lower()
        let_go = (
            f"unpin it: gcos cache unpin {artifact.name} --site {self.site_id}"
            if is_pinned
            else f"give it up: gcos cache rm {artifact.name} --site {self.site_id}"
            " --give-up-custody"
        )
        why = "pinned" if is_pinned else "in this site's custody"
        return CacheFullError(
            f"{artifact.name} is {why} and does not fit: its {artifact.size_bytes} bytes and the "
            f"{usage.occupied_bytes} of what else must stay are more than the "
            f"{usage.capacity_bytes} of the {kind} cache",
            hint=f"raise {kind}_cache_bytes, or start with the limit as it was and {let_go}",
        )

    def _readmit(self, record: StoredArtifact) -> None:
        """Enter what lies on disk into the books."""
        artifact = record.artifact()
        artifact_id = artifact.artifact_id
        is_custodian = record.custodian == self.site_id
        self.cache.reserve(artifact, now_s=record.placed_s, is_custodian=is_custodian)
        self.cache.insert(artifact_id)
        for name in record.names[1:]:
            self.cache.add_name(artifact_id, name)
        self._records[artifact_id] = record
        self._contents[artifact_id] = paths_by_content(record)
        is_damaged = (self.areas.complete(artifact_id) / DAMAGED).exists()
        self.cache.set_damaged(artifact_id, is_damaged)


def _damaged(artifact_id: ArtifactId, path: str) -> DigestMismatchError:
    return DigestMismatchError(
        f"{path!r} of {artifact_id} is damaged on disk",
        hint="mend it: gcos cache verify --repair; or add or pull it again",
    )
