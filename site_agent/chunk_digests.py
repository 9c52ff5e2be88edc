"""Which digest each chunk of a download should have, as one of the holders says.

No manifest binds these digests: only that of the whole file is part of the artifact's id. So a list
is a claim of its *giver*, good for telling which chunk came wrong and from whom; it is dropped with
its giver when the whole file proves it wrong. A file of one chunk needs no list.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from gcos.artifacts import CHUNK_BYTES, FileEntry
from gcos.ids import SiteId
from site_agent.chunk_board import ChunkId
from site_agent.peer_source import PeerSource, SourceError

SEGMENT_BYTES: Final = 64 * CHUNK_BYTES
"""Digests are asked for as they are needed, for so many bytes at once."""

_SEGMENT_COUNT_MAX: Final = 128


class ChunkDigests:
    """The digests of one download."""

    def __init__(
        self,
        files: tuple[FileEntry, ...],
        *,
        givers: Callable[[], Sequence[PeerSource]],
        distrusted: set[SiteId],
    ) -> None:
        """Ask `givers`, the first first, but none of `distrusted`."""
        self._files = files
        self._givers = givers
        self._distrusted = distrusted
        self._segments: dict[tuple[int, int], asyncio.Task[bytes | None]] = {}
        #: By file: who told digests of it.
        self._told: dict[int, set[SiteId]] = {}

    def prepare(self, chunk: ChunkId, group: asyncio.TaskGroup) -> None:
        """Have the digest of `chunk` and its neighbours come, in a task of `group`."""
        key = chunk.file_index, chunk.offset_bytes // SEGMENT_BYTES
        if self._is_whole_file(chunk) or key in self._segments:
            return
        # Chunks are claimed in order, so the oldest segment is the one that is done with.
        if len(self._segments) == _SEGMENT_COUNT_MAX:
            del self._segments[next(iter(self._segments))]
        self._segments[key] = group.create_task(self._load(*key))

    async def of(self, chunk: ChunkId, group: asyncio.TaskGroup) -> bytes | None:
        """Return the digest that `chunk` should have; None where no holder tells."""
        if self._is_whole_file(chunk):
            return bytes.fromhex(self._files[chunk.file_index].sha256)
        self.prepare(chunk, group)
        number, offset_bytes = divmod(chunk.offset_bytes, SEGMENT_BYTES)
        segment = await asyncio.shield(self._segments[chunk.file_index, number])
        if segment is None:
            return None
        place = offset_bytes // CHUNK_BYTES
        return segment[place * 32 : place * 32 + 32]

    def is_known(self, chunk: ChunkId) -> bool:
        """Tell whether `of` would answer at once."""
        segment = self._segments.get((chunk.file_index, chunk.offset_bytes // SEGMENT_BYTES))
        return self._is_whole_file(chunk) or (segment is not None and segment.done())

    def is_told(self, chunk: ChunkId) -> bool:
        """Tell whether the digest of `chunk` is a holder's word, not part of the artifact's id."""
        return not self._is_whole_file(chunk)

    def forget_unknown(self) -> None:
        """Have what nobody told asked for again, if nobody waits for it: there are other givers.

        What is still being asked of those that were there before would be told by none of them.
        """
        for key, segment in list(self._segments.items()):
            if not segment.done():
                segment.cancel()
            elif not segment.cancelled() and segment.result() is not None:
                continue
            del self._segments[key]

    def cancel(self) -> None:
        """Give up what was asked for and did not come yet."""
        for segment in self._segments.values():
            segment.cancel()

    def told_by(self, file_index: int) -> frozenset[SiteId]:
        """Return who told digests of a file."""
        return frozenset(self._told.get(file_index, ()))

    def _is_whole_file(self, chunk: ChunkId) -> bool:
        return self._files[chunk.file_index].size_bytes <= CHUNK_BYTES

    async def _load(self, file_index: int, number: int) -> bytes | None:
        """Ask for one segment: the giver so far, then whoever answers."""
        entry = self._files[file_index]
        begin = number * SEGMENT_BYTES
        size_bytes = min(SEGMENT_BYTES, entry.size_bytes - begin)
        told = self._told.setdefault(file_index, set())
        sources = [s for s in self._givers() if s.site_id not in self._distrusted]
        # One list for a file, as long as its giver answers.
        for source in sorted(sources, key=lambda source: source.site_id not in told):
            try:
                found = await source.chunk_digests(entry.path, begin, -(-size_bytes // CHUNK_BYTES))
            except SourceError:
                # It may deliver all the same: whether its bytes are right, the file will tell.
                continue
            told.add(source.site_id)
            return found
        return None
