"""The books of one cache: what it holds, what is on its way, and who needs it. Pure.

An entry is RESERVED from the moment its bytes may begin to arrive and COMPLETE once they are all
there and verified. The books promise three things of DESIGN section 4, at every instant:

    I4  occupied_bytes + reserved_bytes <= capacity_bytes
    I5  what is pinned, being read, or in this site's custody is never evicted
    I6  only COMPLETE entries are found, advertised or served

Whoever owns the disk keeps it in step: it removes what `reserve` evicts before the first byte of
the newcomer is written, and calls `release` only when the newcomer's partial files are gone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum

from gcos.artifacts import Artifact, ArtifactKind, CacheEntry, CacheUsage
from gcos.errors import ArtifactNotFoundError, CacheFullError, InvalidRequestError, WrongStateError
from gcos.ids import ArtifactId, RunId, SiteId
from policies.evictors import DEFAULT, EVICTORS
from policies.interface import CachedItem, Evictor
from site_agent.demand import Demand


class EntryState(Enum):
    """Whether an entry's bytes are all here."""

    RESERVED = "RESERVED"
    COMPLETE = "COMPLETE"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an entry stands.

    Attributes:
        artifact: Under the name it arrived with.
        is_complete: Its bytes are all here.
        is_evictable: It is complete and nothing protects it.
    """

    artifact: Artifact
    is_complete: bool
    is_evictable: bool


@dataclass(slots=True)
class _Entry:
    """One artifact in the books."""

    #: Under the name it arrived with.
    artifact: Artifact
    last_used_s: float
    #: This site is the custodian: the copy may be the only one, so it is protected (I5).
    is_custodian: bool
    state: EntryState = EntryState.RESERVED
    #: Further names of the same content.
    other_names: list[str] = field(default_factory=list)
    #: Runs that need it, in order of arrival, and whether their use is already counted: a run that
    #: waited for the bytes missed, and one that starts again after a crash hits once.
    pins: dict[RunId, bool] = field(default_factory=dict)
    #: Peers that read it now; protects it as a pin does, but no run uses it.
    reader_count: int = 0
    hit_count: int = 0
    #: Runs that used it since it arrived, those that waited for it included.
    use_count: int = 0
    #: J of bringing it again.
    refetch_usd: float = 0.0
    #: What the evictor wanted remembered at the last use.
    mark: float = 0.0

    @property
    def is_pinned(self) -> bool:
        return bool(self.pins) or self.reader_count > 0

    @property
    def is_evictable(self) -> bool:
        is_complete = self.state is EntryState.COMPLETE
        return is_complete and not self.is_pinned and not self.is_custodian

    def artifacts(self) -> Iterator[Artifact]:
        yield self.artifact
        for name in self.other_names:
            yield replace(self.artifact, name=name)


class Cache:
    """One cache, of one kind or shared by both. Verbs and counters follow libCacheSim's `cache.h`.

    Args:
        kind: Of what it holds; None: of either.
        capacity_bytes: Capacity.
        evictor: What goes first; its own.
        demand: How often artifacts are used; shared by the caches of a site.
    """

    def __init__(
        self,
        kind: ArtifactKind | None,
        capacity_bytes: int,
        evictor: Evictor | None = None,
        demand: Demand | None = None,
    ) -> None:
        assert capacity_bytes >= 0, "a capacity is not negative"
        self.kind = kind
        self._evictor = EVICTORS[DEFAULT]() if evictor is None else evictor
        self._demand = Demand() if demand is None else demand
        self.capacity_bytes = capacity_bytes
        self._entries: dict[ArtifactId, _Entry] = {}
        self._occupied_bytes = 0  #: Sum over COMPLETE entries; with the next one <= capacity (I4).
        self._reserved_bytes = 0  #: Sum over RESERVED entries.
        self.evicted_bytes = 0  #: Bytes that ever went.

    @property
    def eviction(self) -> str:
        """Name of what says which artifact goes first."""
        return self._evictor.name

    @property
    def occupied_bytes(self) -> int:
        """Bytes of complete entries."""
        return self._occupied_bytes

    @property
    def reserved_bytes(self) -> int:
        """Bytes promised to entries that are not complete yet."""
        return self._reserved_bytes

    @property
    def free_bytes(self) -> int:
        """Bytes that nobody holds and nobody was promised."""
        return self.capacity_bytes - self._occupied_bytes - self._reserved_bytes

    @property
    def pinned_bytes(self) -> int:
        """Bytes of complete entries that a run or a reader holds now."""
        entries = self._entries.values()
        return sum(
            entry.artifact.size_bytes
            for entry in entries
            if entry.is_pinned and entry.state is EntryState.COMPLETE
        )

    @property
    def evictable_bytes(self) -> int:
        """Bytes of complete entries that nothing protects."""
        entries = self._entries.values()
        return sum(entry.artifact.size_bytes for entry in entries if entry.is_evictable)

    def usage(self) -> CacheUsage:
        """Return how full the cache is; a shared one is shown as the model cache."""
        return CacheUsage(
            kind=self.kind or ArtifactKind.MODEL,
            capacity_bytes=self.capacity_bytes,
            occupied_bytes=self._occupied_bytes,
            reserved_bytes=self._reserved_bytes,
        )

    def find(self, artifact_id: ArtifactId) -> Artifact | None:
        """Return the artifact under its first name if it is complete; changes nothing."""
        entry = self._entries.get(artifact_id)
        if entry is None or entry.state is not EntryState.COMPLETE:
            return None
        return entry.artifact

    def state(self, artifact_id: ArtifactId) -> EntryState | None:
        """Return where the artifact stands; None: the books do not know it."""
        entry = self._entries.get(artifact_id)
        return None if entry is None else entry.state

    def is_pinned(self, artifact_id: ArtifactId, run_id: RunId) -> bool:
        """Tell whether this run pins the artifact, complete or not."""
        entry = self._entries.get(artifact_id)
        return entry is not None and run_id in entry.pins

    def hit(self, artifact_id: ArtifactId, run_id: RunId, *, now_s: float) -> None:
        """Note that a run uses the artifact; counts unless the run had to wait for its bytes.

        Raises:
            ArtifactNotFoundError: It is not complete here.
        """
        entry = self._complete(artifact_id)
        entry.last_used_s = max(entry.last_used_s, now_s)
        entry.use_count += 1
        entry.mark = self._evictor.mark()
        if not entry.pins.get(run_id, False):
            entry.hit_count += 1
        if run_id in entry.pins:
            entry.pins[run_id] = True

    def evictions_for(self, size_bytes: int) -> tuple[ArtifactId, ...] | None:
        """Return what `reserve` would evict for this many bytes; None: they cannot fit now.

        Changes nothing: bids ask for it (I8). What the evictor thinks least worth keeping goes
        first; of equals the one used longer ago, then the lower id.
        """
        lacking_bytes = size_bytes - self.free_bytes
        if lacking_bytes <= 0:
            return ()
        evictable = [
            (self._worth(entry), entry.last_used_s, artifact_id)
            for artifact_id, entry in self._entries.items()
            if entry.is_evictable
        ]
        victims: list[ArtifactId] = []
        for _, _, artifact_id in sorted(evictable):
            victims.append(artifact_id)
            lacking_bytes -= self._entries[artifact_id].artifact.size_bytes
            if lacking_bytes <= 0:
                return tuple(victims)
        return None

    def worth(self, artifact_id: ArtifactId) -> float:
        """Return what the evictor thinks that keeping a complete artifact is worth, in its unit.

        Raises:
            ArtifactNotFoundError: It is not complete here.
        """
        return self._worth(self._complete(artifact_id))

    def reserve(
        self, artifact: Artifact, *, now_s: float, is_custodian: bool = False
    ) -> tuple[ArtifactId, ...]:
        """Promise the artifact its bytes and return what was evicted for them.

        What is evicted leaves the books at once; its files must go before the first byte arrives.

        Args:
            artifact: What will arrive.
            now_s: World instant.
            is_custodian: The copy will be protected, since this site is its custodian.

        Raises:
            InvalidRequestError: The artifact has no bytes.
            WrongStateError: It is here, or on its way.
            CacheFullError: Even with everything evictable gone it would not fit.
        """
        assert self.kind in (None, artifact.kind), "an artifact of the other cache"
        size_bytes = artifact.size_bytes
        if size_bytes <= 0:
            raise InvalidRequestError(f"{artifact.name} has no bytes", field="size_bytes")
        known = self.state(artifact.artifact_id)
        if known is not None:
            raise WrongStateError(f"{artifact.name} is {known.value.lower()} here already")
        victims = self.evictions_for(size_bytes)
        if victims is None:
            raise self._full(artifact)
        for victim in victims:
            self._evict(victim)
        self._entries[artifact.artifact_id] = _Entry(
            artifact, now_s, is_custodian, mark=self._evictor.mark()
        )
        self._reserved_bytes += size_bytes
        assert self.free_bytes >= 0, "I4: more promised than there is"
        return victims

    def insert(self, artifact_id: ArtifactId) -> None:
        """Turn a reservation into a complete entry: its bytes are here and verified.

        Raises:
            WrongStateError: There is no such reservation.
        """
        entry = self._reserved(artifact_id)
        entry.state = EntryState.COMPLETE
        entry.pins = dict.fromkeys(entry.pins, True)
        self._reserved_bytes -= entry.artifact.size_bytes
        self._occupied_bytes += entry.artifact.size_bytes

    def price(self, artifact_id: ArtifactId, refetch_usd: float) -> None:
        """Note what bringing an artifact has cost, J, and so what bringing it again would."""
        entry = self._entries.get(artifact_id)
        if entry is not None:
            entry.refetch_usd = refetch_usd

    def release(self, artifact_id: ArtifactId) -> None:
        """Give up a reservation: nothing of it is left on disk.

        Raises:
            WrongStateError: There is no such reservation.
        """
        entry = self._reserved(artifact_id)
        self._reserved_bytes -= entry.artifact.size_bytes
        del self._entries[artifact_id]

    def drop(self, artifact_id: ArtifactId) -> None:
        """Evict an artifact although nobody needs its room.

        Raises:
            ArtifactNotFoundError: It is not complete here.
            WrongStateError: It is in use, or this site is its custodian.
        """
        if not self._complete(artifact_id).is_evictable:
            raise WrongStateError(f"{artifact_id} is in use or in this site's custody")
        self._evict(artifact_id)

    def pin(self, artifact_id: ArtifactId, run_id: RunId) -> None:
        """Keep the artifact for a run, complete or on its way; a second time changes nothing.

        Raises:
            ArtifactNotFoundError: The books do not know it.
        """
        entry = self._entries.get(artifact_id)
        if entry is None:
            raise _not_here(artifact_id)
        entry.pins.setdefault(run_id, False)

    def unpin(self, artifact_id: ArtifactId, run_id: RunId) -> None:
        """Let go what a run pinned; does nothing where it pinned nothing."""
        entry = self._entries.get(artifact_id)
        if entry is not None:
            entry.pins.pop(run_id, None)

    def open_reader(self, artifact_id: ArtifactId) -> None:
        """Keep the artifact while its files are read; each is paired with one `close_reader`.

        Raises:
            ArtifactNotFoundError: It is not complete here.
        """
        self._complete(artifact_id).reader_count += 1

    def close_reader(self, artifact_id: ArtifactId) -> None:
        """End what `open_reader` began."""
        entry = self._entries[artifact_id]
        assert entry.reader_count > 0, "a reader that was never opened"
        entry.reader_count -= 1

    def add_name(self, artifact_id: ArtifactId, name: str) -> bool:
        """Give the same content a further name; False: it had that name.

        Raises:
            ArtifactNotFoundError: It is not complete here.
        """
        entry = self._complete(artifact_id)
        if any(artifact.name == name for artifact in entry.artifacts()):
            return False
        entry.other_names.append(name)
        return True

    def set_custodian(
        self, artifact_id: ArtifactId, custodian: SiteId | None, *, is_custodian: bool
    ) -> None:
        """Note whose copy is protected.

        Args:
            artifact_id: Of an entry, complete or on its way.
            custodian: The custodian; None where an upstream can be refetched.
            is_custodian: It is this site: from now on this copy is protected.

        Raises:
            ArtifactNotFoundError: The books do not know the artifact.
        """
        entry = self._entries.get(artifact_id)
        if entry is None:
            raise _not_here(artifact_id)
        entry.artifact = replace(entry.artifact, custodian=custodian)
        entry.is_custodian = is_custodian

    def entries(self) -> tuple[CacheEntry, ...]:
        """Return the complete artifacts, one for each name, sorted by name."""
        found = [
            CacheEntry(
                artifact=artifact,
                pin_count=len(entry.pins),
                last_used_s=entry.last_used_s,
                hit_count=entry.hit_count,
            )
            for entry in self._entries.values()
            if entry.state is EntryState.COMPLETE
            for artifact in entry.artifacts()
        ]
        return tuple(
            sorted(found, key=lambda item: (item.artifact.name, item.artifact.artifact_id))
        )

    def check_invariants(self) -> None:
        """Assert that sums are right and that I4 holds."""
        sizes_bytes = dict.fromkeys(EntryState, 0)
        for artifact_id, entry in self._entries.items():
            assert entry.artifact.artifact_id == artifact_id, "an entry under another's id"
            assert self.kind in (None, entry.artifact.kind), "an entry of the other cache"
            assert entry.artifact.size_bytes > 0, "an entry without bytes"
            assert entry.reader_count >= 0, "more readers closed than opened"
            is_complete = entry.state is EntryState.COMPLETE
            assert is_complete or entry.reader_count == 0, "I6: a partial copy is read"
            sizes_bytes[entry.state] += entry.artifact.size_bytes
        assert self._occupied_bytes == sizes_bytes[EntryState.COMPLETE], "occupied_bytes drifted"
        assert self._reserved_bytes == sizes_bytes[EntryState.RESERVED], "reserved_bytes drifted"
        assert self._occupied_bytes + self._reserved_bytes <= self.capacity_bytes, "I4"

    def items(self) -> Iterator[CachedItem]:
        """Yield the complete entries as an evictor sees them."""
        for entry in self._entries.values():
            if entry.state is EntryState.COMPLETE:
                yield self._item(entry)

    def standings(self) -> Iterator[Standing]:
        """Yield every entry, complete or on its way, with what protects it."""
        for entry in self._entries.values():
            yield Standing(
                entry.artifact,
                is_complete=entry.state is EntryState.COMPLETE,
                is_evictable=entry.is_evictable,
            )

    def _item(self, entry: _Entry) -> CachedItem:
        known = entry.artifact.artifact_id
        return CachedItem(
            artifact_id=known,
            size_bytes=entry.artifact.size_bytes,
            last_used_s=entry.last_used_s,
            use_count=entry.use_count,
            demand=self._demand.here(known),
            rate_per_h=self._demand.rate_per_h(known),
            elsewhere=self._demand.elsewhere(known),
            refetch_usd=entry.refetch_usd,
            mark=entry.mark,
        )

    def _worth(self, entry: _Entry) -> float:
        return self._evictor.worth(self._item(entry))

    def _evict(self, artifact_id: ArtifactId) -> None:
        entry = self._entries.pop(artifact_id)
        assert entry.is_evictable, "I5: a protected entry was chosen"
        self._evictor.evicted(self._worth(entry))
        self._occupied_bytes -= entry.artifact.size_bytes
        self.evicted_bytes += entry.artifact.size_bytes

    def _complete(self, artifact_id: ArtifactId) -> _Entry:
        entry = self._entries.get(artifact_id)
        if entry is None or entry.state is not EntryState.COMPLETE:
            raise _not_here(artifact_id)
        return entry

    def _reserved(self, artifact_id: ArtifactId) -> _Entry:
        entry = self._entries.get(artifact_id)
        if entry is None or entry.state is not EntryState.RESERVED:
            raise WrongStateError(f"{artifact_id} is not reserved here")
        return entry

    def _full(self, artifact: Artifact) -> CacheFullError:
        kind = "shared" if self.kind is None else self.kind.value.lower()
        return CacheFullError(
            f"{artifact.name} needs {artifact.size_bytes} bytes of the {kind} cache; "
            f"{self.free_bytes} are free and {self.evictable_bytes} evictable "
            f"of {self.capacity_bytes}",
            hint="wait until runs let go of what they pinned, or raise the cache's capacity",
        )


def _not_here(artifact_id: ArtifactId) -> ArtifactNotFoundError:
    return ArtifactNotFoundError(f"{artifact_id} is not in the cache")
