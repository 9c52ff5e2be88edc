"""Brings files from several sources at once, until they are all here or one of them is wrong.

    TaskGroup of the pull:    writes what is next; tasks that ask for digests of chunks
      TaskGroup of a source:  workers, two for each connection; one that fails ends the source

A worker claims a range, asks for it, verifies chunk by chunk and hands them to the board.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from gcos.artifacts import CHUNK_BYTES, FileEntry
from gcos.clock import Clock
from gcos.ids import SiteId
from site_agent.assembly import Assembly
from site_agent.chunk_board import Arrived, ChunkBoard, ChunkId, Claim
from site_agent.chunk_digests import ChunkDigests
from site_agent.digest_notes import chunk_digest
from site_agent.link_gate import Bell, Passage
from site_agent.peer_source import CALLS_PER_CONNECTION, PeerSource, Reading, SourceError
from site_agent.source_pool import WRONG_COUNT_MAX, SourcePool
from site_agent.source_shares import ASKED_RATIO

WINDOW_BYTES: Final = 24 * CHUNK_BYTES
"""Asked for and not yet handed to the writing thread: twice what 1 Gbit/s holds over 80 ms, and
some. Over loopback less would do, but requests would be shorter and more."""

BATCH_BYTES: Final = 2 * CHUNK_BYTES
"""Handed to the writing thread at once."""

_LOOK_S_MIN: Final = 0.01


class ListWrongError(Exception):
    """A chunk cannot be had from anybody as the digests say it should be."""

    def __init__(self, chunk: ChunkId) -> None:
        super().__init__(f"every source's chunk at {chunk.offset_bytes} came wrong")
        self.chunk = chunk


class Pull:
    """One go at the files that are missing."""

    def __init__(
        self,
        files: tuple[FileEntry, ...],
        assembly: Assembly,
        pool: SourcePool,
        *,
        digests: ChunkDigests,
        passage: Passage,
        clock: Clock,
        bell: Bell,
        has_patience: Callable[[], Awaitable[bool]],
        on_progress: Callable[[], None],
    ) -> None:
        """Bring `files` to `assembly` from the sources of `pool`.

        `has_patience` is awaited when no source is left: it tells whether one can be asked again.
        """
        self._files = files
        self._assembly = assembly
        self._pool = pool
        self._digests = digests
        self._passage = passage
        self._clock = clock
        #: Rings when board or pool change.
        self._bell = bell
        self._has_patience = has_patience
        self._on_progress = on_progress
        assembly.look()
        self._board = ChunkBoard(
            files,
            file_index=assembly.file_index,
            offset_bytes=assembly.offset_bytes,
            window_bytes=WINDOW_BYTES,
            is_here=assembly.is_here,
        )
        self._readings: dict[Claim, Reading] = {}
        #: Its worker and each of its chunks that is being verified hold a claim.
        self._hold_counts: dict[Claim, int] = {}
        self._worker_counts: dict[SiteId, int] = {}
        #: By file: chunks that were as its list says, and those that were not.
        self._right_counts: Counter[int] = Counter()
        self._wrong_counts: Counter[int] = Counter()
        #: A chunk whose list has been wrong `WRONG_COUNT_MAX` times, and right for nothing.
        self._suspect: ChunkId | None = None
        self._group = asyncio.TaskGroup()

    async def run(self) -> None:
        """Bring what is missing.

        Raises:
            ListWrongError: A chunk came wrong from all sources, or a list was right for nothing.
            FileWrongError: The file that the assembly is at hashes wrong, though each of its
                chunks was as it should be.
            CacheFullError: The disk is full.
            GcosError: No source is left.
        """
        try:
            async with self._group:
                sources = self._group.create_task(self._staff())
                await self._write()
                sources.cancel()
                self._digests.cancel()
        except BaseExceptionGroup as exc:
            raise _first(exc) from None

    async def _write(self) -> None:
        """Write chunks as they come in order; the next batch is at the thread when one is done."""
        before: asyncio.Task[None] | None = None
        while True:
            await self._assembly.settle()
            if self._assembly.is_complete:
                return
            gone = self._board.leave(BATCH_BYTES)
            if not gone:
                await self._bell.wait()
                continue
            # The window has room again at once: beside it, two batches at most are in memory.
            self._bell.ring()
            last = self._group.create_task(self._put(gone))
            if gone[-1].chunk.ends(self._files[gone[-1].chunk.file_index]):
                await last
            elif before is not None:
                await before
            before = last

    async def _put(self, gone: list[Arrived]) -> None:
        await self._assembly.write(gone)
        self._on_progress()

    async def _staff(self) -> None:
        """Keep as many sources at work as are wanted."""
        pool = self._pool
        async with asyncio.TaskGroup() as group:
            while True:
                if not pool.live and not self._hold_counts and not self._board.is_all_here:
                    # Meanwhile what has come stays on the board, also where it waits for its turn.
                    if not await self._has_patience():
                        raise pool.undelivered()
                    self._digests.forget_unknown()
                if not pool.live:
                    # What has come is still being looked at; it may be all.
                    await self._bell.wait()
                    continue
                stuck = self._suspect or self._board.stuck_chunk(
                    source.site_id for source in pool.live
                )
                if stuck is not None:
                    raise ListWrongError(stuck)
                if pool.has_standby and self._board.stuck_chunk(pool.active) is not None:
                    pool.wanted_count = len(pool.active) + 1
                while len(pool.active) < pool.wanted_count and (
                    pool.has_standby or not pool.active
                ):
                    group.create_task(self._pull(pool.activate()))
                await self._bell.wait()

    async def _pull(self, source: PeerSource) -> None:
        """Have one source deliver until it fails."""
        self._worker_counts[source.site_id] = 0
        failure: SourceError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                self._hire(source, group)
        except* SourceError as exc:
            first = _first(exc)
            assert isinstance(first, SourceError), "only these were caught"
            failure = first
        assert failure is not None, "workers end by failing"
        del self._worker_counts[source.site_id]
        self._board.part_with(source.site_id)
        self._pool.fail(source, failure)
        self._bell.ring()

    def _hire(self, source: PeerSource, group: asyncio.TaskGroup) -> None:
        """Put as many workers on a source as its distance is worth."""
        count = self._worker_counts[source.site_id]
        wanted_count = source.connection_count * CALLS_PER_CONNECTION
        for number in range(count, wanted_count):
            group.create_task(self._work(source, number // CALLS_PER_CONNECTION, group))
        if wanted_count > count:
            self._worker_counts[source.site_id] = wanted_count

    async def _work(self, source: PeerSource, connection: int, group: asyncio.TaskGroup) -> None:
        """Fetch one range after the other over one connection."""
        board = self._board
        while True:
            await self._passage.turn()
            now_s = self._clock.protocol_s()
            claim = board.claim(source.site_id, self._range_bytes(), now_s=now_s)
            if claim is None:
                slow_s = board.next_slow_s(source.site_id)
                wait_s = None if slow_s is None else max(_LOOK_S_MIN, slow_s - now_s)
                await self._bell.wait(wait_s)
                continue
            self._hold_counts[claim] = 1
            try:
                await self._bring(claim, source, connection, group)
            finally:
                self._let_go(claim)
            self._pool.check(source)

    def _range_bytes(self) -> int:
        """Return how much a worker should claim."""
        worker_count = sum(self._worker_counts.values())
        share_bytes = self._board.window_bytes * ASKED_RATIO / worker_count
        return int(min(share_bytes, self._passage.range_bytes_max))

    async def _bring(
        self, claim: Claim, source: PeerSource, connection: int, group: asyncio.TaskGroup
    ) -> None:
        for chunk in (claim.chunks[0], claim.chunks[-1]):
            self._digests.prepare(chunk, self._group)
        await self._passage.room(source.site_id, claim.size_bytes)
        if claim.is_over:
            return
        path = self._files[claim.chunks[0].file_index].path
        asked = source.reading(path, claim.offset_bytes, claim.size_bytes, connection=connection)
        async with asked as reading:
            self._readings[claim] = reading
            try:
                for place in range(len(claim.chunks)):
                    data = await reading.chunk()
                    if data is None:
                        return
                    self._pool.received(source, len(data))
                    # How far away the source is, its first chunk has told.
                    self._hire(source, group)
                    self._hold_counts[claim] += 1
                    taking = self._take(claim, place, data, source)
                    if self._digests.is_known(claim.chunks[place]):
                        await taking  # waits for nothing
                    else:
                        # In a task of the pull: what came is kept even if the source fails now.
                        self._group.create_task(taking)
                await reading.end()
            finally:
                del self._readings[claim]

    async def _take(self, claim: Claim, place: int, data: memoryview, source: PeerSource) -> None:
        """Verify a chunk and hand it on."""
        try:
            # Here, in 0.14 ms: on its way to a thread and back a chunk would take longer.
            digest = chunk_digest(self._files[claim.chunks[place].file_index], data)
            expected = await self._digests.of(claim.chunks[place], self._group)
            if expected is not None and digest != expected:
                self._board.reject(claim, place)
                self._blame(claim.chunks[place], source)
                return
            if expected is not None:
                self._right_counts[claim.chunks[place].file_index] += 1
                self._assembly.note(claim.chunks[place], digest)
            self._pool.last = source.holder
            for other in self._board.deliver(claim, place, data):
                if other in self._readings:
                    self._readings[other].stop()
        finally:
            self._let_go(claim)

    def _blame(self, chunk: ChunkId, source: PeerSource) -> None:
        """Count a wrong chunk against its source, or against a list that was never right."""
        index = chunk.file_index
        if self._right_counts[index] or not self._digests.is_told(chunk):
            self._pool.count_wrong(source)
            return
        self._wrong_counts[index] += 1
        if self._wrong_counts[index] >= WRONG_COUNT_MAX:
            self._suspect = chunk

    def _let_go(self, claim: Claim) -> None:
        """Release a claim when it has been read and each of its chunks was looked at."""
        self._hold_counts[claim] -= 1
        if self._hold_counts[claim] == 0:
            del self._hold_counts[claim]
            self._board.release(claim, now_s=self._clock.protocol_s())
        self._bell.ring()


def _first(error: BaseException) -> BaseException:
    """Return the first error of a group of groups: the others came of it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
