"""A reference becomes an artifact of this site's store.

    list       what the reference stands for just now, checked as if an enemy had written it
    reserve    all of its bytes, before the first one comes (I4)
    download   into a directory of its own, resumed, verified by what the source states
    publish    the files get their names in the store as hard links: no byte is written twice

Only then the content's id is known, as a source may not state every digest. So the room is reserved
under an id of the pull itself, and handed over in one step. A pull that fails or is cancelled
leaves nothing behind. What dies or stops with its process waits for the same pull to be asked for
again, and gives way as soon as anything else wants its room.
"""

import asyncio
import contextlib
import functools
import shutil
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

from gcos.artifacts import CHUNK_BYTES, Artifact, ArtifactKind, FileEntry, Manifest, checked_name
from gcos.clock import Clock
from gcos.errors import (
    ArtifactNotFoundError,
    DigestMismatchError,
    InvalidRequestError,
    QueueFullError,
)
from gcos.ids import ArtifactId
from gcos.logs import Log
from site_agent.artifact_store import (
    ArtifactStore,
    HubOrigin,
    Reservation,
    StoredArtifact,
    checked_storable,
)
from site_agent.cache_marks import OPERATOR, CacheMarks
from site_agent.copy_log import CopyNotes, Unnoted
from site_agent.partial_file import PartialFile
from site_agent.sources.download import StagedFile, Stop, Tries, bring_all, resolved
from site_agent.sources.leftovers import (
    Leftover,
    files_of,
    key_of,
    park_all,
    promise_of,
    received_bytes,
    write_note,
)
from site_agent.sources.opening import SourceSettings, open_reference
from site_agent.sources.reference import (
    HubReference,
    OllamaReference,
    SourceReference,
    parse_source,
    shown,
)
from site_agent.sources.source import (
    Listing,
    Source,
    SourceFile,
    TransientError,
    checked_listing,
)
from site_agent.stored_artifact import FILES, checked_origin
from site_agent.threads import in_thread
from site_agent.verification import ReadRange

PULLS_AT_ONCE = 2
PULL_COUNT_MAX = 32
"""Pulls under way and waiting."""

_POLL_S = 0.5


@dataclass(eq=False, slots=True)
class Pull:
    """One pull under way; whoever shows progress looks at it.

    Attributes:
        reference: What is pulled, as it is shown.
        name: What it will be called.
        size_bytes: All of it; 0 until the source has told.
        received: Bytes that are here, by path.
        note: What it waits for, or what it was interrupted by; empty while bytes come.
    """

    reference: str
    name: str
    size_bytes: int = 0
    received: dict[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def received_bytes(self) -> int:
        """Bytes that are here."""
        return sum(self.received.values())

    def take(self, path: str, received_bytes: int) -> None:
        """Note how much of a file is here; called in threads."""
        if received_bytes > self.received.get(path, 0):
            self.note = ""
        self.received[path] = received_bytes


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull brought.

    Attributes:
        artifact: It.
        is_new: False: it was here under this name.
        revision: State of the upstream; empty where it has none.
    """

    artifact: Artifact
    is_new: bool
    revision: str


class Puller:
    """Brings artifacts from upstreams into the store of one site.

    Args:
        store: The disk.
        marks: Where each artifact's source is noted.
        settings: What may be read.
        staging: A directory of its own on the store's file system; what lies there is removed.
        clock: World time.
        log: Where failures are told.
        pause: Waits between tries, seconds; until the pull is stopped by default. Blocking.
    """

    def __init__(
        self,
        store: ArtifactStore,
        marks: CacheMarks,
        settings: SourceSettings,
        staging: Path,
        clock: Clock,
        log: Log,
        *,
        pause: Callable[[float], None] | None = None,
        notes: CopyNotes | None = None,
    ) -> None:
        self._store = store
        self._notes = notes or Unnoted()
        self._marks = marks
        self._settings = settings
        self._staging = staging
        self._clock = clock
        self._log = log
        self._pause = pause
        self._slots = asyncio.Semaphore(PULLS_AT_ONCE)
        #: One pull of a reference at a time: the next one finds what the first one brought.
        self._locks: dict[tuple[str, ArtifactKind], asyncio.Lock] = {}
        self._pulls: list[Pull] = []
        self._saving = asyncio.Lock()
        #: A pull that ends from now on is gone on with by the next process.
        self._is_stopping = False
        #: What an earlier process left, by its key.
        self._leftovers = park_all(store, staging, now_s=clock.world_s())

    def pulls(self) -> tuple[Pull, ...]:
        """Return what is under way or waits, the oldest first; what was left comes last."""
        left = (
            Pull(
                leftover.reference,
                leftover.name,
                size_bytes=leftover.size_bytes,
                received={"": received_bytes(self._staging / key)},
                note="left by a restart: pull it again to go on",
            )
            for key, leftover in self._leftovers.items()
            if (self._staging / key).is_dir()
        )
        return (*self._pulls, *left)

    def keep_unfinished(self) -> None:
        """Let the next process go on with pulls that end from now on: this one stops."""
        self._is_stopping = True

    def prepared(self, reference: str, name: str, kind: ArtifactKind | None) -> "PullOrder":
        """Return what `pull` performs, once it is known to make sense.

        Args:
            reference: What to pull.
            name: What people will call it; empty: as its source does.
            kind: Model or data set; None: where the reference says it.

        Raises:
            InvalidRequestError: The reference or the name is none, or the kind must be said.
            QueueFullError: Too many pulls wait.
        """
        parsed = parse_source(reference)
        if kind is None:
            if isinstance(parsed, HubReference):
                kind = ArtifactKind.DATA if parsed.is_dataset else ArtifactKind.MODEL
            elif isinstance(parsed, OllamaReference):
                kind = ArtifactKind.MODEL
            else:
                raise InvalidRequestError(
                    f"{reference[:80]!r} does not say what it is",
                    field="kind",
                    hint="say --kind model or --kind data",
                )
        if len(self._pulls) >= PULL_COUNT_MAX:
            raise QueueFullError(
                f"{len(self._pulls)} pulls are under way or wait here", hint="try again later"
            )
        called = checked_name(name or parsed.name, field="name")
        return PullOrder(parsed, kind, Pull(shown(parsed), called))

    async def pull(self, order: "PullOrder") -> Pulled:
        """Bring an artifact from its source; returns at once where it is here.

        A copy that is here and damaged is mended.
        Cancelling stops it and leaves nothing of it.

        Raises:
            InvalidRequestError: This site may not read the reference, or it cannot be an artifact.
            NotFoundError: It is not there.
            WrongStateError: It is not open to this site, or a library is missing.
            ExhaustedError: It does not fit into the cache, on the disk, or into a manifest.
            DigestMismatchError: What came is not what its source states.
            UnavailableError: The source did not answer, for long.
        """
        pull, kind = order.pull, order.kind
        lock = self._locks.setdefault((pull.reference, kind), asyncio.Lock())
        self._pulls.append(pull)
        pull.note = "waits for other pulls"
        try:
            async with lock, self._slots:
                pull.note = ""
                return await self._pull(order)
        finally:
            self._pulls.remove(pull)
            if not any(other.reference == pull.reference for other in self._pulls):
                self._locks.pop((pull.reference, kind), None)

    async def mend(self, artifact: Artifact) -> None:
        """Mend a damaged artifact from where it was pulled; somebody pins it meanwhile.

        Raises:
            ArtifactNotFoundError: It was not pulled, or went.
            DigestMismatchError: Its source has other bytes by now.
            GcosError: As of `pull`.
        """
        text = self._marks.of(artifact.artifact_id).reference
        if not text:
            raise ArtifactNotFoundError(
                f"{artifact.name} was not pulled from anywhere", hint="add it anew"
            )
        pull = Pull(text, artifact.name)
        async with self._slots, self._opened(parse_source(text), pull, artifact.kind) as opened:
            if not await self._mended(artifact.artifact_id, opened):
                raise DigestMismatchError(
                    f"{text} is not what {artifact.name} was pulled from any more",
                    hint="pull what is there now under another name",
                )

    async def save_marks(self) -> None:
        """Make the marks durable as they are now."""
        async with self._saving:
            held = {artifact.artifact_id for artifact in self._store.cache.kept()}
            snapshot = self._marks.snapshot(held)
            await in_thread(functools.partial(self._marks.save, snapshot))

    # ---- one pull ---------------------------------------------------------------------------

    async def _pull(self, order: "PullOrder") -> Pulled:
        pull, kind, reference = order.pull, order.kind, order.reference
        started_s = self._clock.protocol_s()
        async with self._opened(reference, pull, kind) as opened:
            listing = opened.listing
            pull.size_bytes, pull.note = listing.size_bytes, ""
            known = self._known(pull.reference, listing, kind)
            if known is not None and (
                self._store.cache.has(known) or await self._mended(known, opened)
            ):
                return await self._name(pull, known, listing)
            pulled = await self._bring(order, opened)
        self._log.info(
            "artifact_pulled",
            artifact=pull.name,
            artifact_id=pulled.artifact.artifact_id,
            reference=pull.reference,
            revision=listing.revision,
            size_bytes=listing.size_bytes,
            duration_s=self._clock.protocol_s() - started_s,
        )
        known_id = pulled.artifact.artifact_id
        self._notes.note("pulled", known_id, pull.name, f"from {pull.reference}")
        return pulled

    @contextlib.asynccontextmanager
    async def _opened(
        self, reference: SourceReference, pull: Pull, kind: ArtifactKind
    ) -> AsyncIterator["_Opened"]:
        """Open a source and list what is there, for the block."""
        stop = Stop()
        tries = Tries(self._pause or stop.pause, functools.partial(self._tell, pull))
        source = await in_thread(
            functools.partial(open_reference, reference, self._settings), stop=stop
        )
        try:
            listing = await in_thread(
                functools.partial(_listed, source, pull, stop, tries, self._capacity_bytes(kind)),
                stop=stop,
            )
            yield _Opened(source, listing, stop, tries)
        finally:
            await in_thread(source.close)

    async def _mended(self, artifact_id: ArtifactId, opened: "_Opened") -> bool:
        """Bring what is wrong with a damaged copy; False where its source could not give that."""
        parts = _Parts(opened)
        try:
            await self._repair(artifact_id, parts.read, opened.stop)
        except (DigestMismatchError, TransientError) as exc:
            self._log.warning("mending_failed", artifact_id=artifact_id, error=str(exc))
            return False
        finally:
            await in_thread(parts.close)
        return True

    async def _repair(self, artifact_id: ArtifactId, read: ReadRange, stop: Stop) -> None:
        store = self._store

        def work() -> None:
            store.repair(store.examine(artifact_id, stop.check), read)

        store.cache.open_reader(artifact_id)
        try:
            await in_thread(work, stop=stop)
        finally:
            store.cache.close_reader(artifact_id)
        name = store.record_of(artifact_id).names[0]
        self._notes.note("mended", artifact_id, name, "what was wrong came from its source")

    def _capacity_bytes(self, kind: ArtifactKind) -> int:
        return self._store.cache.capacity_bytes(kind)

    def _known(self, reference: str, listing: Listing, kind: ArtifactKind) -> ArtifactId | None:
        """Return what a listing stands for where it is here already, damaged or not."""
        digests = [(file, file.sha256) for file in listing.files]
        ids = list(self._marks.pulled(reference, listing.revision)) if listing.revision else []
        entries = tuple(
            FileEntry(file.path, size_bytes=file.size_bytes, sha256=sha256)
            for file, sha256 in digests
            if sha256 is not None
        )
        if len(entries) == len(digests):
            ids.append(Manifest(kind, entries).artifact_id)
        cache = self._store.cache
        for artifact_id in ids:
            is_here = cache.has(artifact_id) or cache.is_damaged(artifact_id)
            if is_here and self._store.record_of(artifact_id).manifest.kind is kind:
                return artifact_id
        return None

    async def _bring(
        self,
        order: "PullOrder",
        opened: "_Opened",
    ) -> Pulled:
        pull, kind = order.pull, order.kind
        source, listing, stop, tries = opened.source, opened.listing, opened.stop, opened.tries
        key = key_of(pull.reference, kind)
        place = self._staging / key
        promise = promise_of(key, kind, pull.name, listing.size_bytes)
        wanted = Leftover(pull.reference, pull.name, kind, files_of(listing))
        async with self._promised(promise, place, wanted) as promised:
            parts = await in_thread(
                functools.partial(_parts, self._store, promise.artifact_id, listing, place, stop),
                stop=stop,
            )
            for part in parts:
                here = part.staged
                pull.received[part.file.path] = (
                    part.file.size_bytes if here is None else here.received_bytes
                )
            await in_thread(
                functools.partial(
                    bring_all,
                    source,
                    [part.staged for part in parts if part.staged is not None],
                    stop=stop,
                    tries=tries,
                    on_bytes=pull.take,
                ),
                stop=stop,
            )
            manifest = checked_storable(Manifest(kind, tuple(part.entry() for part in parts)))
            await self._not_arriving(pull, manifest.artifact_id)
            if self._store.cache.is_damaged(manifest.artifact_id):
                places = {part.file.path: part.known for part in parts}
                await self._repair(
                    manifest.artifact_id,
                    lambda entry, offset, length: _bytes_at(places[entry.path], offset, length),
                    stop,
                )
            if self._store.cache.has(manifest.artifact_id):
                return await self._name(pull, manifest.artifact_id, listing)
            return await self._publish(order, promised, manifest, parts, listing)

    @contextlib.asynccontextmanager
    async def _promised(
        self, promise: Artifact, place: Path, wanted: Leftover
    ) -> AsyncIterator["_Promise"]:
        """Reserve the room of a pull for the block; leave nothing of it behind.

        Where an earlier process left the same, its room and its bytes are taken over. Where this
        process stops in the middle, the next one may do so.
        """
        reservation = await self._taken_over(promise, place, wanted)
        is_new = reservation is None
        if reservation is None:
            reservation = self._store.reserve(promise, now_s=self._clock.world_s())
        for victim in reservation.victims:
            self._log.info("artifact_evicted", artifact_id=victim.artifact_id, why=victim.why)
            self._notes.note("evicted", victim.artifact_id, victim.name, victim.why)
        held = _Promise(reservation)
        try:
            await in_thread(functools.partial(self._store.clear, reservation))
            if is_new:
                await in_thread(functools.partial(_begin, place, wanted))
            yield held
        except BaseException:
            # What the store has of it by now is known there, so only the staged files are left.
            held.is_kept = self._is_stopping and held.is_held
            raise
        finally:
            try:
                if held.is_kept:
                    await in_thread(functools.partial(self._store.drop_partial, reservation))
                else:
                    await in_thread(functools.partial(_clear, self._store, reservation, place))
            finally:
                if held.is_held:
                    self._store.release(reservation)

    async def _taken_over(
        self, promise: Artifact, place: Path, wanted: Leftover
    ) -> Reservation | None:
        """Return the room of the same pull that an earlier process left, if it is still here."""
        leftover = self._leftovers.pop(place.name, None)
        reservation = self._store.unpark(promise.artifact_id)
        if reservation is None:
            return None
        if leftover is not None and leftover.files == wanted.files:
            return reservation
        try:
            await in_thread(functools.partial(shutil.rmtree, place))
        finally:
            self._store.release(reservation)
        return None

    async def _not_arriving(self, pull: Pull, artifact_id: ArtifactId) -> None:
        """Wait while a peer brings the same content."""
        while self._store.cache.is_reserved(artifact_id):
            pull.note = "waits for a peer that brings the same content"
            await asyncio.sleep(_POLL_S)
        pull.note = ""

    async def _publish(
        self,
        order: "PullOrder",
        promised: "_Promise",
        manifest: Manifest,
        parts: list["_Part"],
        listing: Listing,
    ) -> Pulled:
        store, pull, now_s = self._store, order.pull, self._clock.world_s()
        record = StoredArtifact(
            (pull.name,), manifest, placed_s=now_s, hub_origin=_hub_origin(order, manifest, listing)
        )
        # In one step, so that nobody takes the room in between.
        store.release(promised.reservation)
        promised.is_held = False
        reservation = store.reserve(record.artifact(), now_s=now_s)
        assert not reservation.evicted, "the promised room was as large"
        try:
            await in_thread(functools.partial(store.clear, reservation))
            await in_thread(functools.partial(_hand_over, store, manifest, parts))
            await in_thread(functools.partial(store.seal, record))
            store.publish(record)
        except BaseException:
            try:
                await in_thread(functools.partial(store.drop_partial, reservation))
            finally:
                store.release(reservation)
            raise
        await in_thread(store.sync)
        await self._note(pull, manifest.artifact_id, listing)
        return Pulled(record.artifact(), is_new=True, revision=listing.revision)

    async def _name(self, pull: Pull, artifact_id: ArtifactId, listing: Listing) -> Pulled:
        """Give content that is here the name that was asked for."""
        cache = self._store.cache
        cache.open_reader(artifact_id)
        try:
            record = self._store.renamed(artifact_id, pull.name, None)
            await in_thread(functools.partial(self._store.rewrite, record))
            artifact, is_new = self._store.adopt(record, pull.name)
        finally:
            cache.close_reader(artifact_id)
        pull.received = {"": listing.size_bytes}
        await self._note(pull, artifact_id, listing)
        return Pulled(artifact, is_new=is_new, revision=listing.revision)

    async def _note(self, pull: Pull, artifact_id: ArtifactId, listing: Listing) -> None:
        self._marks.set_source(artifact_id, pull.reference, listing.revision)
        if self._marks.of(artifact_id).is_pinned:
            self._store.cache.pin(artifact_id, OPERATOR)  # it was pinned before it went
        await self.save_marks()

    def _tell(self, pull: Pull, message: str, pause_s: float) -> None:
        """Log a failure that may pass, and let who waits know; called in threads."""
        pull.note = f"interrupted, to be tried again: {message}"
        self._log.warning(
            "pull_interrupted", reference=pull.reference, error=message, pause_s=pause_s
        )


@dataclass(frozen=True, slots=True)
class PullOrder:
    """A pull that makes sense. Made by `Puller.prepared`.

    Attributes:
        reference: What to pull.
        kind: Model or data set.
        pull: How far it is.
    """

    reference: SourceReference
    kind: ArtifactKind
    pull: Pull


@dataclass(frozen=True, slots=True)
class _Opened:
    """A source, what it lists, and what stops and paces reading it."""

    source: Source
    listing: Listing
    stop: Stop
    tries: Tries


@dataclass(eq=False, slots=True)
class _Promise:
    """The room of a pull while its content has no id."""

    reservation: Reservation
    is_held: bool = True
    #: Its staged files stay for the next process.
    is_kept: bool = False


def _begin(place: Path, wanted: Leftover) -> None:
    """Make the staging directory of a pull. Blocking."""
    place.mkdir()
    write_note(place, wanted)


def _listed(source: Source, pull: Pull, stop: Stop, tries: Tries, capacity_bytes: int) -> Listing:
    """Return what a source lists, checked. Blocking."""
    listing = resolved(source, stop, tries)
    return checked_listing(listing, size_bytes_max=capacity_bytes, what=pull.reference)


@dataclass(frozen=True, slots=True)
class _Part:
    """One file of a pull.

    Attributes:
        file: As its source lists it.
        known: Where its bytes lie once they are here.
        staged: How they come; None where another artifact here has the same file.
    """

    file: SourceFile
    known: Path
    staged: StagedFile | None

    def entry(self) -> FileEntry:
        """Return what a manifest says of it, once it is here."""
        if self.staged is not None:
            return self.staged.entry()
        assert self.file.sha256 is not None, "found by its digest"
        return FileEntry(self.file.path, size_bytes=self.file.size_bytes, sha256=self.file.sha256)


def _parts(
    store: ArtifactStore, promise_id: ArtifactId, listing: Listing, place: Path, stop: Stop
) -> list[_Part]:
    """Return the files of a pull; those that the store has already get a name at once. Blocking.

    What an earlier process brought of the others is gone on with.
    """
    parts = []
    for index, file in enumerate(listing.files):
        if file.sha256 is not None and file.size_bytes > 0:
            entry = FileEntry(file.path, size_bytes=file.size_bytes, sha256=file.sha256)
            if store.partial_file(promise_id, entry).received_bytes == file.size_bytes:
                parts.append(_Part(file, _place(store, promise_id, file.path), staged=None))
                continue
        path = place / str(index)
        staged = StagedFile(path, file)
        staged.resume(stop)
        parts.append(_Part(file, path, staged))
    return parts


class _Parts:
    """Parts of a source's files. Where one begins at the end of the last, reading goes on."""

    def __init__(self, opened: _Opened) -> None:
        self._opened = opened
        self._files = {file.path: file for file in opened.listing.files}
        #: Path and offset that the next part is expected to have.
        self._next: tuple[str, int] | None = None
        self._chunks: Generator[bytes, None, None] | None = None
        self._ahead = b""

    def read(self, entry: FileEntry, offset_bytes: int, length_bytes: int) -> bytes:
        """Return a part of a file; fewer bytes where it ends. Blocking.

        Raises:
            DigestMismatchError: The source has no such file.
            TransientError: It did not answer.
            WrongStateError: The reading was stopped.
        """
        self._opened.stop.check()
        file = self._files.get(entry.path)
        if file is None:
            raise DigestMismatchError(f"the source has no file {entry.path[:80]!r} any more")
        if self._chunks is None or self._next != (entry.path, offset_bytes):
            self.close()
            self._chunks = self._opened.source.read(file, offset_bytes)
        data = bytearray(self._ahead)
        while len(data) < length_bytes and (chunk := next(self._chunks, b"")):
            data += chunk
        self._ahead = bytes(data[length_bytes:])
        self._next = (entry.path, offset_bytes + length_bytes)
        return bytes(data[:length_bytes])

    def close(self) -> None:
        """End what is being read."""
        self._ahead = b""
        if self._chunks is not None:
            self._chunks.close()
            self._chunks = None


def _bytes_at(path: Path, offset_bytes: int, length_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset_bytes)
        return file.read(length_bytes)


def _hand_over(store: ArtifactStore, manifest: Manifest, parts: list[_Part]) -> None:
    """Give the files of a pull their names below a reservation, as hard links. Blocking.

    Where a link is refused, a file's bytes are copied.
    """
    for entry, part in zip(manifest.files, parts, strict=True):
        partial = store.partial_file(manifest.artifact_id, entry)
        if partial.received_bytes < entry.size_bytes:
            place = _place(store, manifest.artifact_id, entry.path)
            partial = PartialFile(place, entry, known=part.known)
        try:
            if partial.received_bytes < entry.size_bytes:
                with part.known.open("rb") as file:
                    while chunk := file.read(CHUNK_BYTES):
                        partial.append(chunk)
            partial.finish()
        finally:
            partial.close()
        part.known.unlink()


def _clear(store: ArtifactStore, reservation: Reservation, place: Path) -> None:
    """Remove all that came for a pull. Blocking."""
    shutil.rmtree(place, ignore_errors=True)
    store.drop_partial(reservation)


def _place(store: ArtifactStore, artifact_id: ArtifactId, path: str) -> Path:
    """Return where a file of a partial copy lies."""
    return store.areas.partial(artifact_id) / FILES / path


def _hub_origin(order: PullOrder, manifest: Manifest, listing: Listing) -> HubOrigin | None:
    """Return what the hub calls what was pulled; None where it came from elsewhere."""
    if not isinstance(order.reference, HubReference):
        return None
    etags = tuple(file.sha256 or file.git_sha1 or "" for file in listing.files)
    with contextlib.suppress(InvalidRequestError):  # a mirror may have names of its own
        return checked_origin(HubOrigin(listing.revision, etags), manifest)
    return None
