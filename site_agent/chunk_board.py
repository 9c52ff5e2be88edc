"""Which chunk comes from whom: ranges are claimed by sources and leave in order. Pure.

Files are cut into chunks, and sources claim *ranges* of chunks, each in turn the next one that
nobody has claimed: a source that is twice as fast claims twice as often, and of the window it holds
as much as it delivers (`source_shares`). What a source gives back, or what came wrong from it, is
claimed by another before anything new. A range that takes much longer than ranges do is claimed by
a second source as well, and whoever is first, wins; so a slow source ends up with nothing but what
it can deliver.

Chunks leave in the order of the files, as they are hashed in that order. Therefore no more than a
window of bytes is claimed beyond the first chunk that is missing: the window bounds memory,
whatever sources do.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from gcos.artifacts import CHUNK_BYTES, FileEntry
from gcos.ids import SiteId
from site_agent.source_shares import SourceShares

SLOW_RATIO: Final = 3.0
"""A range is shared with a second source when it takes so many times as long as others did."""

SLOW_S_MIN: Final = 0.5
"""Protocol seconds that each range gets: shorter waits are noise."""

_SMOOTHING: Final = 0.2


@dataclass(frozen=True, slots=True)
class ChunkId:
    """A chunk of an artifact.

    Attributes:
        file_index: Which file of the manifest.
        offset_bytes: Where it begins.
        size_bytes: Its length.
    """

    file_index: int
    offset_bytes: int
    size_bytes: int

    def ends(self, entry: FileEntry) -> bool:
        """Tell whether it is the last one of its file."""
        return self.offset_bytes + self.size_bytes == entry.size_bytes


@dataclass(frozen=True, slots=True)
class Arrived:
    """A chunk that is here.

    Attributes:
        chunk: Which.
        data: Its bytes.
        source: Who sent it.
    """

    chunk: ChunkId
    data: memoryview
    source: SiteId


@dataclass(eq=False, slots=True)
class _Range:
    """Chunks of one file that were claimed together."""

    chunks: tuple[ChunkId, ...]
    #: What came and has not left; one entry for each chunk.
    data: list[Arrived | None]
    #: Chunks that left; always the first ones.
    left_count: int = 0
    claims: "list[Claim]" = field(default_factory=list)
    #: By place: sources from which the chunk came wrong.
    rejected: dict[int, set[SiteId]] = field(default_factory=dict)

    def run_for(self, source: SiteId) -> tuple[int, int] | None:
        """Return the first run of places that are missing and may come from `source`."""
        first = None
        for place in range(self.left_count, len(self.chunks)):
            is_open = self.data[place] is None and source not in self.rejected.get(place, ())
            if is_open and first is None:
                first = place
            elif not is_open and first is not None:
                return first, place
        return None if first is None else (first, len(self.chunks))


@dataclass(eq=False, slots=True)
class Claim:
    """What one source fetches now.

    Attributes:
        source: Who.
        chunks: The chunks, one after the other in one file.
        began_s: Protocol instant.
    """

    source: SiteId
    chunks: tuple[ChunkId, ...]
    began_s: float
    _range: _Range
    _first: int

    @property
    def offset_bytes(self) -> int:
        """Where the first chunk begins."""
        return self.chunks[0].offset_bytes

    @property
    def size_bytes(self) -> int:
        """Length of all chunks."""
        last = self.chunks[-1]
        return last.offset_bytes + last.size_bytes - self.offset_bytes

    @property
    def is_over(self) -> bool:
        """Everything claimed is here, from whomever."""
        data, first = self._range.data, self._first
        left = self._range.left_count
        return all(data[at] is not None for at in range(max(first, left), first + len(self.chunks)))


class ChunkBoard:
    """Claims, arrivals and departures of the chunks of one download.

    Attributes:
        window_bytes: What may be claimed and not have left; one range may be, whatever its size.
    """

    def __init__(
        self,
        files: tuple[FileEntry, ...],
        *,
        file_index: int,
        offset_bytes: int,
        window_bytes: int,
        is_here: Callable[[int], bool] = lambda _file_index: False,
    ) -> None:
        """Begin at `offset_bytes` of file `file_index`, a chunk's border or the file's end.

        `is_here` is asked once for each file after that one: it may be on this disk already.
        """
        self._files = files
        self._is_here = is_here
        self.window_bytes = window_bytes
        #: The next chunk that nobody has claimed.
        self._file_index = file_index
        self._offset_bytes = offset_bytes
        #: Claimed and not left, in order.
        self._ranges: deque[_Range] = deque()
        self._claimed_bytes = 0
        self._shares = SourceShares()
        #: How long a range takes, smoothed; None before the first.
        self._typical_s: float | None = None
        self._skip_finished_files()

    @property
    def is_all_here(self) -> bool:
        """Every chunk has come."""
        return self._file_index == len(self._files) and all(
            None not in held.data[held.left_count :] for held in self._ranges
        )

    def claim(self, source: SiteId, range_bytes: int, *, now_s: float) -> Claim | None:
        """Return what `source` should fetch now; None where it should wait.

        Args:
            source: Who asks.
            range_bytes: How much to claim at most; at least one chunk is.
            now_s: Protocol instant.
        """
        self._shares.join(source)
        for held in self._ranges:
            if not held.claims and (run := held.run_for(source)) is not None:
                return self._claimed(held, run, source, now_s)
        room_bytes = self._shares.room_bytes(source, self.window_bytes)
        fresh = self._next_range(min(range_bytes, room_bytes)) if room_bytes > 0 else None
        if fresh is not None:
            self._ranges.append(fresh)
            return self._claimed(fresh, (0, len(fresh.chunks)), source, now_s)
        for held in self._ranges:
            is_slow = len(held.claims) == 1 and self._slow_at_s(held.claims[0]) <= now_s
            if is_slow and held.claims[0].source != source:
                run = held.run_for(source)
                if run is not None:
                    return self._claimed(held, run, source, now_s)
        return None

    def next_slow_s(self, source: SiteId) -> float | None:
        """Return when `source` may share a range of another one, if none changes before."""
        instants = [
            self._slow_at_s(held.claims[0])
            for held in self._ranges
            if len(held.claims) == 1
            and held.claims[0].source != source
            and held.run_for(source) is not None
        ]
        return min(instants, default=None)

    def deliver(self, claim: Claim, place: int, data: memoryview) -> list[Claim]:
        """Take chunk number `place` of a claim, which is verified; one that is here is ignored.

        Returns:
            Other claims that have nothing to bring any more.
        """
        held, at = claim._range, claim._first + place
        if at >= held.left_count and held.data[at] is None:
            held.data[at] = Arrived(held.chunks[at], data, claim.source)
            self._shares.delivered(claim.source, len(data))
        return [other for other in held.claims if other is not claim and other.is_over]

    def reject(self, claim: Claim, place: int) -> None:
        """Note that a chunk of a claim came wrong: its source is not asked for it again."""
        claim._range.rejected.setdefault(claim._first + place, set()).add(claim.source)

    def stuck_chunk(self, sources: Iterable[SiteId]) -> ChunkId | None:
        """Return a chunk that is missing and came wrong from each of `sources`."""
        known = frozenset(sources)
        for held in self._ranges:
            for place, rejecting in held.rejected.items():
                if place >= held.left_count and held.data[place] is None and known <= rejecting:
                    return held.chunks[place]
        return None

    def release(self, claim: Claim, *, now_s: float) -> None:
        """End a claim; what it did not bring can be claimed again."""
        claim._range.claims.remove(claim)
        self._shares.asked(claim.source, -claim.size_bytes)
        if claim.is_over:
            took_s = now_s - claim.began_s
            known_s = took_s if self._typical_s is None else self._typical_s
            self._typical_s = known_s + _SMOOTHING * (took_s - known_s)

    def part_with(self, source: SiteId) -> None:
        """Count on a source no more, until it claims again; its claims were released."""
        self._shares.leave(source)

    def leave(self, size_bytes_max: int) -> list[Arrived]:
        """Return the next chunks in order that are here, up to a file's end or the size given."""
        gone: list[Arrived] = []
        size_bytes = 0
        while self._ranges and size_bytes < size_bytes_max:
            held = self._ranges[0]
            if held.left_count < len(held.chunks):
                arrived = held.data[held.left_count]
                if arrived is None:
                    break
                if gone and arrived.chunk.file_index != gone[0].chunk.file_index:
                    break
                gone.append(arrived)
                held.data[held.left_count] = None
                held.left_count += 1
                size_bytes += arrived.chunk.size_bytes
            if held.left_count == len(held.chunks):
                self._ranges.popleft()
        self._claimed_bytes -= size_bytes
        return gone

    # ---- inside -----------------------------------------------------------------------------

    def _slow_at_s(self, claim: Claim) -> float:
        typical_s = self._typical_s or 0.0
        return claim.began_s + max(SLOW_S_MIN, SLOW_RATIO * typical_s)

    def _claimed(self, held: _Range, run: tuple[int, int], source: SiteId, now_s: float) -> Claim:
        first, end = run
        claim = Claim(source, held.chunks[first:end], now_s, held, first)
        held.claims.append(claim)
        self._shares.asked(source, claim.size_bytes)
        return claim

    def _next_range(self, range_bytes: int) -> _Range | None:
        """Take the next range off the files, where the window has room for it."""
        if self._file_index == len(self._files):
            return None
        end_bytes = self._files[self._file_index].size_bytes
        chunk_count = max(1, range_bytes // CHUNK_BYTES)
        size_bytes = min(chunk_count * CHUNK_BYTES, end_bytes - self._offset_bytes)
        if self._claimed_bytes and self._claimed_bytes + size_bytes > self.window_bytes:
            return None
        chunks = tuple(_cut(self._file_index, self._offset_bytes, size_bytes))
        self._claimed_bytes += size_bytes
        self._offset_bytes += size_bytes
        self._skip_finished_files()
        return _Range(chunks, [None] * len(chunks))

    def _skip_finished_files(self) -> None:
        while (
            self._file_index < len(self._files)
            and self._offset_bytes == self._files[self._file_index].size_bytes
        ):
            self._file_index += 1
            self._offset_bytes = 0
            if self._file_index < len(self._files) and self._is_here(self._file_index):
                self._offset_bytes = self._files[self._file_index].size_bytes


def _cut(file_index: int, offset_bytes: int, size_bytes: int) -> Iterable[ChunkId]:
    for at in range(offset_bytes, offset_bytes + size_bytes, CHUNK_BYTES):
        yield ChunkId(file_index, at, min(CHUNK_BYTES, offset_bytes + size_bytes - at))
