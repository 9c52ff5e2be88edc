"""The artifact plane of one site: brings what is not here, from agents that serve it.

A fetch reserves its bytes, clears what was evicted for them, downloads and verifies
(`site_agent.download`), makes all durable and publishes the copy in one step
(`site_agent.artifact_store`). Concurrent fetches of one artifact share one transfer, which is as
urgent as the most urgent of them. Bytes that came are charged, kept or not.

The books change on the event loop only; the hashing of files and the disk work in threads.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gcos.artifacts import Artifact, ArtifactKind, checked_name
from gcos.clock import Clock
from gcos.contract_net import ArtifactNeed, Holder
from gcos.errors import ArtifactNotFoundError, GcosError, SiteDrainingError
from gcos.ids import ArtifactId, RunId, SiteId, TaskId, task_of
from gcos.logs import Log
from gcos.rpc.channels import Channels
from site_agent.artifact_store import ArtifactStore, Reservation, StoredArtifact
from site_agent.copy_log import CopyNotes, Unnoted
from site_agent.dual_cache import DualCache
from site_agent.fetch_part import FetchPart
from site_agent.link_gate import LinkGate, Passage
from site_agent.links import Links, Priority
from site_agent.serving import IDLE_S, checked_id
from site_agent.threads import in_thread, interruptible
from site_agent.verification import Examination

if TYPE_CHECKING:
    from site_agent.download import Download


@dataclass(frozen=True, slots=True)
class FetchResult:
    """An artifact that is here now, and what bringing it took.

    Attributes:
        artifact_id: What.
        bytes_moved: Bytes received for it, discarded ones included; 0 where `is_shared`.
        duration_s: From reservation to publication, protocol seconds; 0 where `is_shared`.
        source: Who delivered the last of it; the source asked for where `is_shared`.
        evicted: What was evicted for it; empty where `is_shared`.
        is_shared: It was here, or came for another run that is charged for it.
        parts: `bytes_moved` by source, in the order in which they were asked.
    """

    artifact_id: ArtifactId
    bytes_moved: int
    duration_s: float
    source: Holder
    evicted: tuple[ArtifactId, ...]
    is_shared: bool
    parts: tuple[FetchPart, ...]


@dataclass(eq=False, slots=True)
class _Waiter:
    """One `fetch` that waits for a transfer."""

    run_id: RunId
    on_progress: Callable[[int], None]
    #: The run pinned the artifact before it asked, so giving up does not unpin it.
    had_pin: bool
    priority: Priority


@dataclass(eq=False, slots=True)
class _Transfer:
    """One artifact on its way, and who waits for it."""

    need: ArtifactNeed
    #: The task that asked for it first; None: a copy ahead of need.
    cause: TaskId | None
    reservation: Reservation
    download: "Download"
    passage: Passage
    started_s: float
    #: The source that delivered the last of it, or the error for all who wait.
    outcome: asyncio.Future[Holder]
    waiters: list[_Waiter]
    task: asyncio.Task[None] | None = None
    ended_s: float = 0.0
    #: Nobody waits any more: it cleans up, and a new fetch starts after it.
    is_stopping: bool = False
    #: The first waiter to return is charged; the others share.
    is_charged: bool = False


class ArtifactPlane:
    """Brings artifacts to this site while its block lasts, and ends every transfer with it.

    Attributes:
        store: The disk.
        notes: Takes note of what comes and goes, and why.
        mend_from_upstream: Mends a damaged copy from where it was pulled; None: there is no way.
    """

    def __init__(
        self,
        store: ArtifactStore,
        channels: Channels,
        clock: Clock,
        log: Log,
        *,
        idle_s: float = IDLE_S,
        link_cap_bytes_per_s: float = 0.0,
        notes: CopyNotes | None = None,
    ) -> None:
        """Make a plane; `link_cap_bytes_per_s` caps what each holder sends here, 0 nothing."""
        self.store = store
        self.notes = notes or Unnoted()
        self.mend_from_upstream: Callable[[Artifact], Awaitable[None]] | None = None
        self._channels = channels
        self._clock = clock
        self._log = log
        self._idle_s = idle_s
        self._gate = LinkGate(Links(link_cap_bytes_per_s), clock)
        self._group = asyncio.TaskGroup()
        #: Received from other agents by transfers that have ended, discarded bytes included.
        self.received_bytes = 0
        #: Transfers under way, those that clean up included.
        self._transfers: dict[ArtifactId, _Transfer] = {}
        #: Set when what arrives under this id, fetched or added, is here or given up.
        self._arrivals: dict[ArtifactId, asyncio.Event] = {}
        #: Directories are added one at a time: the disk gains nothing from more.
        self._adding = asyncio.Lock()
        self._is_closing = False

    @property
    def cache(self) -> DualCache:
        """The books of the store."""
        return self.store.cache

    async def __aenter__(self) -> Self:
        """Return itself; transfers may begin."""
        await self._group.__aenter__()
        for rejected in self.store.rejected:
            self._log.warning(
                "artifact_rejected",
                directory=rejected.directory,
                why=rejected.why,
                is_kept=rejected.is_kept,
            )
            if rejected.artifact is not None:
                gone = rejected.artifact
                self.notes.note("evicted", gone.artifact_id, gone.name, rejected.why)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop every transfer, remove what came of it, and tell who waits."""
        del exc_type, exc, traceback
        self._is_closing = True
        try:
            # A task that is cancelled before its first step never runs, not even its cleanup: let
            # those that were made a moment ago begin.
            await asyncio.sleep(0)
        finally:
            for transfer in self._transfers.values():
                if transfer.task is not None:
                    transfer.task.cancel()
            # Without the block's error, which the group would wrap: no transfer fails by itself.
            await self._group.__aexit__(None, None, None)

    async def fetch(
        self,
        need: ArtifactNeed,
        source: Holder,
        *,
        run_id: RunId,
        on_progress: Callable[[int], None],
        on_waste: Callable[[tuple[FetchPart, ...]], None] = lambda _parts: None,
        beside: Sequence[Holder] = (),
        priority: Priority = Priority.FOREGROUND,
    ) -> FetchResult:
        """Bring an artifact here and pin it for a run; returns at once where it is here.

        A copy that is here and damaged is mended: what is wrong with it comes, and nothing else.
        Cancelling leaves the transfer to others who wait for it, and stops it where none does.

        Args:
            need: What, and who has it.
            source: Whom to ask first.
            run_id: Pins the artifact from the start, and still where this returns.
            on_progress: Told the bytes that are here so far; falls where a file starts anew.
            on_waste: Told what was moved in vain, before this raises; one waiter of each transfer.
            beside: Whom to ask at the same time as `source`: each brings what it is fast enough
                for. The other holders of `need` stand by for one that fails.
            priority: Background waits while anything comes in the foreground.

        Raises:
            InvalidRequestError: The need is malformed, or differs from the artifact's manifest.
            CacheFullError: It does not fit beside what is pinned, or the disk is full.
            ArtifactNotFoundError: No holder is known, or none has it any more.
            DigestMismatchError: Every holder's copy is wrong.
            PeerUnreachableError: Otherwise, no holder delivered it.
            SiteDrainingError: This site stops.
        """
        artifact_id = checked_id(need.artifact_id)
        checked_name(need.name, field="name")
        await self._settled(artifact_id)
        if self._is_closing:
            raise _draining()
        if self.cache.has(artifact_id):
            self.cache.pin(artifact_id, run_id)
            return _shared(artifact_id, source)
        holders = self._distinct((source, *beside, *need.holders))
        if self.cache.is_damaged(artifact_id):
            return await self._fetch_mended(
                replace(need, holders=holders), source, run_id, on_waste
            )
        at_once = len(self._distinct((source, *beside)))
        transfer = self._transfers.get(artifact_id)
        if transfer is None:
            transfer = self._begin(need, holders, run_id, priority)
        transfer.download.offer(holders, at_once=at_once)
        return await self._wait(transfer, source, run_id, on_progress, on_waste, priority)

    def pin(self, artifact_id: ArtifactId, run_id: RunId) -> None:
        """Keep the artifact for a run.

        Raises:
            ArtifactNotFoundError: It is neither here nor on its way.
        """
        self.cache.pin(artifact_id, run_id)

    def unpin(self, artifact_id: ArtifactId, run_id: RunId) -> None:
        """Let go what a run pinned; does nothing where it pinned nothing."""
        self.cache.unpin(artifact_id, run_id)

    def path_of(self, artifact_id: ArtifactId) -> Path:
        """Return the directory with the artifact's files, for a run that pins it.

        Raises:
            ArtifactNotFoundError: It is not complete here.
            DigestMismatchError: The copy is known to be damaged.
        """
        self.store.whole_record_of(artifact_id)
        return self.store.path_of(artifact_id)

    async def add(self, path: Path, name: str, kind: ArtifactKind) -> tuple[Artifact, bool]:
        """Copy a directory of this machine into the cache; this site becomes its custodian.

        Args:
            path: Absolute, under a root that the configuration allows.
            name: What people will call it.
            kind: Model or data set.

        Returns:
            The artifact, and False if the same content was here under the same name.

        Raises:
            InvalidRequestError: The path or the name may not be used, or the directory holds links,
                special files or no bytes; `field` says which.
            ExhaustedError: It does not fit into the cache, on the disk, or into a manifest.
            WrongStateError: A file changed meanwhile.
            SiteDrainingError: This site stops.
        """
        checked_name(name, field="name")
        store = self.store
        async with self._adding, contextlib.AsyncExitStack() as stack:
            opened = functools.partial(stack.enter_context, store.open_source(path))
            source = await in_thread(opened)
            manifest = await interruptible(functools.partial(store.survey, source, kind))
            artifact_id = manifest.artifact_id
            while artifact_id in self._arrivals:
                await self._arrivals[artifact_id].wait()
            if self._is_closing:
                raise _draining()
            if self.cache.is_damaged(artifact_id):
                async with self._mending(artifact_id):
                    mending = functools.partial(store.repair_from, source, artifact_id)
                    await in_thread(mending)
                self.notes.note("mended", artifact_id, name, "added again at this site")
            if self.cache.has(artifact_id):
                return await self._rename(artifact_id, name)
            now_s = self._clock.world_s()
            record = StoredArtifact((name,), manifest, placed_s=now_s, custodian=store.site_id)
            reservation = store.reserve(record.artifact(), now_s=now_s)
            self._arrivals[artifact_id] = asyncio.Event()
            async with self._arriving(reservation):
                await interruptible(functools.partial(store.copy, source, manifest))
                await in_thread(functools.partial(store.seal, record))
                store.publish(record)
            await in_thread(store.sync)
        self.notes.note("added", artifact_id, name, "added at this site")
        return record.artifact(), True

    async def mend(self, examination: Examination, need: ArtifactNeed) -> None:
        """Bring what is wrong with an artifact that somebody reads or pins meanwhile.

        Raises:
            GcosError: As `mending.mended` says.
        """
        parts: list[FetchPart] = []
        async with self._mending(need.artifact_id):
            last = await self._mended(examination, need, parts)
        self._note_mended(examination, need.name, last)

    async def _mended(
        self, examination: Examination, need: ArtifactNeed, parts: list[FetchPart]
    ) -> Holder | None:
        """Mend an artifact from its holders, or else from where it was pulled.

        Returns:
            The holder that made it right; None where that was its upstream.
        """
        from site_agent.mending import mended  # noqa: PLC0415  as `Download`

        try:
            return await mended(
                examination,
                need,
                store=self.store,
                channels=self._channels,
                clock=self._clock,
                on_part=parts.append,
            )
        except GcosError as exc:
            if self.mend_from_upstream is None:
                raise
            try:
                await self.mend_from_upstream(self.store.record_of(need.artifact_id).artifact())
            except ArtifactNotFoundError:
                raise exc from None  # it has no upstream: what its holders said tells more
            return None
        finally:
            self.received_bytes += sum(part.bytes_moved for part in parts)

    async def _fetch_mended(
        self,
        need: ArtifactNeed,
        source: Holder,
        run_id: RunId,
        on_waste: Callable[[tuple[FetchPart, ...]], None],
    ) -> FetchResult:
        """Mend a damaged copy and pin it for a run."""
        artifact_id = need.artifact_id
        had_pin = self.cache.is_pinned(artifact_id, run_id)
        self.cache.pin(artifact_id, run_id)
        parts: list[FetchPart] = []
        last: Holder | None = None
        started_s = self._clock.protocol_s()
        try:
            async with self._mending(artifact_id):
                # What was found once may be less than what is wrong by now.
                found = await interruptible(functools.partial(self.store.examine, artifact_id))
                if found.bad:
                    last = await self._mended(found, need, parts)
        except BaseException:
            if not had_pin:
                self.cache.unpin(artifact_id, run_id)
            if parts:
                on_waste(tuple(parts))
            raise
        self._note_mended(found, need.name, last, task_of(run_id))
        return FetchResult(
            artifact_id,
            bytes_moved=sum(part.bytes_moved for part in parts),
            duration_s=self._clock.protocol_s() - started_s,
            source=last or source,
            evicted=(),
            is_shared=False,
            parts=tuple(parts),
        )

    def _note_mended(
        self, found: Examination, name: str, last: Holder | None, cause: TaskId | None = None
    ) -> None:
        """Note what came from a holder; what an upstream gave, its puller notes."""
        if last is not None:
            self.notes.note(
                "mended",
                found.artifact_id,
                name,
                f"{found.bad_bytes} bytes came anew",
                task_id=cause,
                site_id=last.site_id,
            )

    @contextlib.asynccontextmanager
    async def _mending(self, artifact_id: ArtifactId) -> AsyncIterator[None]:
        """Let nobody else bring or mend an artifact in the block, and nobody evict it."""
        while artifact_id in self._arrivals:
            await self._arrivals[artifact_id].wait()
        self.cache.open_reader(artifact_id)
        self._arrivals[artifact_id] = asyncio.Event()
        try:
            yield
        finally:
            self._arrivals.pop(artifact_id).set()
            self.cache.close_reader(artifact_id)

    # ---- one transfer -----------------------------------------------------------------------

    async def _settled(self, artifact_id: ArtifactId) -> None:
        """Wait until the artifact is here, absent, or in a transfer that can be joined."""
        while artifact_id in self._arrivals:
            transfer = self._transfers.get(artifact_id)
            if transfer is not None and not transfer.is_stopping:
                return
            await self._arrivals[artifact_id].wait()

    def _distinct(self, holders: Iterable[Holder]) -> tuple[Holder, ...]:
        """Return those that can be asked, each site once."""
        found = {
            holder.site_id: holder
            for holder in reversed(tuple(holders))
            if holder.site_id != self.store.site_id and holder.address
        }
        return tuple(reversed(found.values()))

    def _begin(
        self,
        need: ArtifactNeed,
        holders: tuple[Holder, ...],
        run_id: RunId,
        priority: Priority,
    ) -> _Transfer:
        # What carries a transfer is imported with the first, before there is anything to undo: a
        # start need not wait for it.
        from site_agent.download import Download  # noqa: PLC0415

        if not holders:
            raise ArtifactNotFoundError(
                f"no other site is known to hold {need.name}",
                hint="its holders may be away, or nobody has added it yet",
            )
        artifact = Artifact(
            need.artifact_id, kind=need.kind, name=need.name, size_bytes=need.size_bytes
        )
        # Claimed sizes are believed here: one that is too large is refused before the first byte.
        reservation = self.store.reserve(artifact, now_s=self._clock.world_s())
        waiters: list[_Waiter] = []

        def on_progress(kept_bytes: int) -> None:
            for waiter in waiters:
                waiter.on_progress(kept_bytes)

        passage = self._gate.enter(priority)
        download = Download(
            need,
            store=self.store,
            channels=self._channels,
            passage=passage,
            clock=self._clock,
            log=self._log,
            idle_s=self._idle_s,
            on_progress=on_progress,
        )
        transfer = _Transfer(
            need,
            cause=task_of(run_id),
            reservation=reservation,
            download=download,
            passage=passage,
            started_s=self._clock.protocol_s(),
            outcome=asyncio.get_running_loop().create_future(),
            waiters=waiters,
        )
        self._transfers[need.artifact_id] = transfer
        self._arrivals[need.artifact_id] = asyncio.Event()
        transfer.task = self._group.create_task(self._carry(transfer), name=f"fetch {need.name}")
        return transfer

    async def _wait(
        self,
        transfer: _Transfer,
        source: Holder,
        run_id: RunId,
        on_progress: Callable[[int], None],
        on_waste: Callable[[tuple[FetchPart, ...]], None],
        priority: Priority,
    ) -> FetchResult:
        artifact_id = transfer.need.artifact_id
        had_pin = self.cache.is_pinned(artifact_id, run_id)
        waiter = _Waiter(run_id, on_progress=on_progress, had_pin=had_pin, priority=priority)
        transfer.waiters.append(waiter)
        _reprioritise(transfer)
        self.cache.pin(artifact_id, run_id)
        try:
            last = await asyncio.shield(transfer.outcome)
        except BaseException:
            is_over = transfer.outcome.done() or len(transfer.waiters) == 1
            if is_over and not transfer.is_charged and transfer.download.parts:
                transfer.is_charged = True
                on_waste(transfer.download.parts)
            self._leave(transfer, waiter)
            raise
        if transfer.is_charged:
            return _shared(artifact_id, source)
        transfer.is_charged = True
        parts = transfer.download.parts
        return FetchResult(
            artifact_id,
            bytes_moved=sum(part.bytes_moved for part in parts),
            duration_s=transfer.ended_s - transfer.started_s,
            source=last,
            evicted=transfer.reservation.evicted,
            is_shared=False,
            parts=parts,
        )

    def _leave(self, transfer: _Transfer, waiter: _Waiter) -> None:
        """Give up one wait; the last one to leave stops the transfer."""
        transfer.waiters.remove(waiter)
        is_wanted = any(other.run_id == waiter.run_id for other in transfer.waiters)
        if not waiter.had_pin and not is_wanted:
            self.cache.unpin(transfer.need.artifact_id, waiter.run_id)
        if transfer.waiters or transfer.outcome.done():
            _reprioritise(transfer)
            return
        transfer.is_stopping = True
        # Cannot be set by anyone any more, and nobody waits for it.
        transfer.outcome.cancel()
        assert transfer.task is not None, "a transfer without a task"
        transfer.task.cancel()

    async def _carry(self, transfer: _Transfer) -> None:
        """Run a transfer and tell those who wait how it ended: its failure is not the group's."""
        try:
            try:
                source = await self._bring(transfer)
            finally:
                transfer.passage.end()
                parts = transfer.download.parts
                self.received_bytes += sum(part.bytes_moved for part in parts)
        except asyncio.CancelledError:
            _fail(transfer, _draining())
            raise
        except Exception as exc:
            # Whoever waits raises it.
            _fail(transfer, exc)
            return
        if not transfer.outcome.done():
            transfer.outcome.set_result(source)

    async def _bring(self, transfer: _Transfer) -> Holder:
        need, download = transfer.need, transfer.download
        async with self._arriving(transfer.reservation, transfer.cause):
            source = await download.run()
            assert download.manifest is not None, "downloaded without a manifest"
            record = StoredArtifact(
                (need.name,),
                download.manifest,
                placed_s=self._clock.world_s(),
                custodian=download.custodian,
            )
            digests = download.chunk_digests
            if digests is not None:
                noting = functools.partial(self.store.note_chunks, need.artifact_id, digests)
                await in_thread(noting)
            await in_thread(functools.partial(self.store.seal, record))
            transfer.ended_s = self._clock.protocol_s()
            self.store.publish(record)
        self._log.info(
            "artifact_fetched",
            artifact=need.name,
            artifact_id=need.artifact_id,
            size_bytes=need.size_bytes,
            bytes_moved=sum(part.bytes_moved for part in download.parts),
            duration_s=transfer.ended_s - transfer.started_s,
            sources=[part.source.site_id for part in download.parts],
        )
        if transfer.cause is not None:
            self.notes.note(
                "fetched",
                need.artifact_id,
                need.name,
                f"fetched for task {transfer.cause}",
                task_id=transfer.cause,
                site_id=source.site_id,
            )
        await in_thread(self.store.sync)
        return source

    @contextlib.asynccontextmanager
    async def _arriving(
        self, reservation: Reservation, cause: TaskId | None = None
    ) -> AsyncIterator[None]:
        """Clear the way for what comes in the block; where it fails, leave no trace of it."""
        artifact_id = reservation.artifact.artifact_id
        for victim in reservation.victims:
            self._log.info("artifact_evicted", artifact_id=victim.artifact_id, why=victim.why)
            self.notes.note("evicted", victim.artifact_id, victim.name, victim.why, task_id=cause)
        try:
            await in_thread(functools.partial(self.store.clear, reservation))
            yield
        except BaseException:
            try:
                await in_thread(functools.partial(self.store.drop_partial, reservation))
            finally:
                self.store.release(reservation)
            raise
        finally:
            self._transfers.pop(artifact_id, None)
            self._arrivals.pop(artifact_id).set()

    async def set_custodian(self, artifact_id: ArtifactId, custodian: SiteId) -> None:
        """Make it durable whose copy of an artifact is protected.

        Raises:
            ArtifactNotFoundError: It is not complete here.
            CacheFullError: The disk is full.
        """
        async with self._adding:
            self.cache.open_reader(artifact_id)
            try:
                record = replace(self.store.record_of(artifact_id), custodian=custodian)
                await in_thread(functools.partial(self.store.rewrite, record))
                self.store.adopt(record, record.names[0])
            finally:
                self.cache.close_reader(artifact_id)

    async def _rename(self, artifact_id: ArtifactId, name: str) -> tuple[Artifact, bool]:
        """Give content that is here a name more."""
        self.cache.open_reader(artifact_id)
        try:
            record = self.store.renamed(artifact_id, name, self.store.site_id)
            await in_thread(functools.partial(self.store.rewrite, record))
            return self.store.adopt(record, name)
        finally:
            self.cache.close_reader(artifact_id)


def _shared(artifact_id: ArtifactId, source: Holder) -> FetchResult:
    return FetchResult(
        artifact_id,
        bytes_moved=0,
        duration_s=0.0,
        source=source,
        evicted=(),
        is_shared=True,
        parts=(),
    )


def _reprioritise(transfer: _Transfer) -> None:
    """Let a transfer be as urgent as the most urgent who waits for it."""
    if transfer.outcome.done() or not transfer.waiters:
        return
    is_urgent = any(waiter.priority is Priority.FOREGROUND for waiter in transfer.waiters)
    priority = Priority.FOREGROUND if is_urgent else Priority.BACKGROUND
    if priority is not transfer.passage.priority:
        transfer.passage.change(priority)


def _fail(transfer: _Transfer, error: Exception) -> None:
    if not transfer.outcome.done():
        transfer.outcome.set_exception(error)


def _draining() -> SiteDrainingError:
    return SiteDrainingError("the site stops and brings nothing more")
