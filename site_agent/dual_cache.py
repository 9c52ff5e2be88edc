"""A site's two caches, one for models and one for data sets, behind one object. Pure.

Each has a capacity of its own, so that a large data set never drives out the models that many tasks
share, nor the reverse. An artifact's kind says where it belongs; its id is enough to find it again,
because the kind is part of what the id hashes.

A copy that is known to be *damaged* on disk keeps its room and all that protects it, but is neither
found nor advertised until it is mended: whoever needs it lacks it.

Beside the caches a site may have *residents*: artifacts that lie there for good, such as an
upstream's copies. They are found and served like any other, take no room, and are never evicted.

`DualCache.shared` is what others have, one cache for both kinds, for comparison.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gcos.artifacts import Artifact, ArtifactKind, CacheEntry, CacheUsage
from gcos.errors import ArtifactNotFoundError, WrongStateError
from gcos.ids import ArtifactId, RunId, SiteId
from policies.evictors import DEFAULT, EVICTORS
from policies.interface import CachedItem, Evictor
from site_agent.cache import Cache, EntryState, Standing
from site_agent.demand import Demand


@dataclass(frozen=True, slots=True)
class Victim:
    """What is evicted.

    Attributes:
        artifact_id: Which.
        name: What people call it.
        why: For what, and why this one.
    """

    artifact_id: ArtifactId
    name: str
    why: str


class DualCache:
    """The model cache and the data cache. Invariants I4 to I6 are those of `site_agent.cache`.

    Args:
        model_capacity_bytes: Capacity of the model cache.
        data_capacity_bytes: Capacity of the data cache.
        evictor: Makes what says which artifact goes first; each cache has its own.
    """

    def __init__(
        self,
        model_capacity_bytes: int,
        data_capacity_bytes: int,
        evictor: Callable[[], Evictor] = EVICTORS[DEFAULT],
    ) -> None:
        #: How often artifacts are used here and elsewhere, cached or not.
        self.demand = Demand()
        capacities = {
            ArtifactKind.MODEL: model_capacity_bytes,
            ArtifactKind.DATA: data_capacity_bytes,
        }
        self._caches = {
            kind: Cache(kind, capacity, evictor(), self.demand)
            for kind, capacity in capacities.items()
        }
        self._residents: dict[ArtifactId, Artifact] = {}
        self._damaged: set[ArtifactId] = set()

    @classmethod
    def shared(
        cls, capacity_bytes: int, evictor: Callable[[], Evictor] = EVICTORS[DEFAULT]
    ) -> "DualCache":
        """Return one cache for both kinds, where either may drive out the other."""
        made = cls(0, 0)
        both = Cache(None, capacity_bytes, evictor(), made.demand)
        made._caches = dict.fromkeys(ArtifactKind, both)
        return made

    def settle(self, artifact: Artifact) -> None:
        """Take note of an artifact that lies here for good, outside of the caches."""
        assert self._where(artifact.artifact_id) is None, "a resident that is cached"
        self._residents[artifact.artifact_id] = artifact

    def capacity_bytes(self, kind: ArtifactKind) -> int:
        """Return the capacity of one cache."""
        return self._caches[kind].capacity_bytes

    def pinned_bytes(self, kind: ArtifactKind) -> int:
        """Return the bytes of one cache that a run or a reader holds now."""
        return self._caches[kind].pinned_bytes

    def usage(self, kind: ArtifactKind) -> CacheUsage:
        """Return how full one cache is."""
        return self._caches[kind].usage()

    def evicted_bytes(self, kind: ArtifactKind) -> int:
        """Return the bytes that ever went from one cache."""
        return self._caches[kind].evicted_bytes

    def standings(self) -> tuple[Standing, ...]:
        """Return every entry of the caches, complete or on its way, with what protects it."""
        return tuple(standing for cache in self._distinct() for standing in cache.standings())

    def residents(self) -> tuple[Artifact, ...]:
        """Return what lies here for good, outside of the caches."""
        return tuple(self._residents.values())

    def usages(self) -> tuple[CacheUsage, ...]:
        """Return how full the caches are, the model cache first."""
        return tuple(cache.usage() for cache in self._distinct())

    def set_damaged(self, artifact_id: ArtifactId, is_damaged: bool) -> None:
        """Note what reading a complete artifact found.

        One step on one set: unlike all else here, any thread may take it.
        """
        if is_damaged:
            self._damaged.add(artifact_id)
        else:
            self._damaged.discard(artifact_id)

    @property
    def has_damaged(self) -> bool:
        """Some artifact lies here with wrong bytes."""
        return bool(self._damaged)

    def is_damaged(self, artifact_id: ArtifactId) -> bool:
        """Tell whether the artifact lies here with wrong bytes."""
        return artifact_id in self._damaged

    def is_resident(self, artifact_id: ArtifactId) -> bool:
        """Tell whether the artifact lies here for good, outside of the caches."""
        return artifact_id in self._residents

    def is_known(self, artifact_id: ArtifactId) -> bool:
        """Tell whether the artifact has its room here: whole, damaged or on its way."""
        return artifact_id in self._residents or self._where(artifact_id) is not None

    def find(self, artifact_id: ArtifactId) -> Artifact | None:
        """Return the artifact under its first name if it is whole; changes nothing."""
        if artifact_id in self._damaged:
            return None
        cache = self._where(artifact_id)
        return self._residents.get(artifact_id) if cache is None else cache.find(artifact_id)

    def has(self, artifact_id: ArtifactId) -> bool:
        """Tell whether the artifact is complete here, and not damaged."""
        return self.find(artifact_id) is not None

    def is_reserved(self, artifact_id: ArtifactId) -> bool:
        """Tell whether the artifact is on its way."""
        cache = self._where(artifact_id)
        return cache is not None and cache.state(artifact_id) is EntryState.RESERVED

    def is_pinned(self, artifact_id: ArtifactId, run_id: RunId) -> bool:
        """Tell whether this run pins the artifact, complete or not."""
        cache = self._where(artifact_id)
        return cache is not None and cache.is_pinned(artifact_id, run_id)

    def hit(self, artifact_id: ArtifactId, run_id: RunId, *, now_s: float) -> None:
        """Note that a run uses the artifact; counts unless the run had to wait for its bytes.

        Raises:
            ArtifactNotFoundError: It is not complete here.
        """
        self.demand.note(artifact_id, now_s=now_s)
        if artifact_id not in self._residents:
            self._holding(artifact_id).hit(artifact_id, run_id, now_s=now_s)

    def evictions_for(self, kind: ArtifactKind, size_bytes: int) -> tuple[ArtifactId, ...] | None:
        """Return what a reservation of this size would evict; None: it cannot fit now."""
        return self._caches[kind].evictions_for(size_bytes)

    def victims_for(self, artifact: Artifact) -> tuple[Victim, ...]:
        """Return what a reservation for `artifact` would evict now, with the reason."""
        cache = self._caches[artifact.kind]
        going = cache.evictions_for(artifact.size_bytes) or ()
        if not going:
            return ()
        could_count = sum(each.is_evictable for each in cache.standings())
        return tuple(
            Victim(
                artifact_id,
                name=found.name if (found := cache.find(artifact_id)) else artifact_id,
                why=(
                    f"makes room for {artifact.name}: of {could_count} that could go, "
                    f"{cache.eviction} ranked it {place} ({cache.worth(artifact_id):.4g})"
                ),
            )
            for place, artifact_id in enumerate(going, start=1)
        )

    def items(self, kind: ArtifactKind) -> tuple[CachedItem, ...]:
        """Return the complete artifacts of one cache as an evictor sees them."""
        return tuple(self._caches[kind].items())

    def price(self, artifact_id: ArtifactId, refetch_usd: float) -> None:
        """Note what bringing an artifact has cost, J, and so what bringing it again would."""
        cache = self._where(artifact_id)
        if cache is not None:
            cache.price(artifact_id, refetch_usd)

    def reserve(
        self, artifact: Artifact, *, now_s: float, is_custodian: bool = False
    ) -> tuple[ArtifactId, ...]:
        """Promise the artifact its bytes and return what was evicted for them.

        Raises:
            InvalidRequestError: The artifact has no bytes.
            WrongStateError: It is here, or on its way.
            CacheFullError: Even with everything evictable gone it would not fit.
        """
        known = self._where(artifact.artifact_id)
        if artifact.artifact_id in self._residents:
            raise WrongStateError(f"{artifact.name} lies here for good")
        if known is not None and known.kind not in (None, artifact.kind):
            raise WrongStateError(f"{artifact.artifact_id} is in the {known.kind.value} cache")
        evicted = self._caches[artifact.kind].reserve(
            artifact, now_s=now_s, is_custodian=is_custodian
        )
        self._damaged.difference_update(evicted)
        return evicted

    def insert(self, artifact_id: ArtifactId) -> None:
        """Turn a reservation into a complete entry: its bytes are here and verified.

        Raises:
            WrongStateError: There is no such reservation.
        """
        self._reserving(artifact_id).insert(artifact_id)

    def release(self, artifact_id: ArtifactId) -> None:
        """Give up a reservation: nothing of it is left on disk.

        Raises:
            WrongStateError: There is no such reservation.
        """
        self._reserving(artifact_id).release(artifact_id)

    def drop(self, artifact_id: ArtifactId) -> None:
        """Evict an artifact although nobody needs its room.

        Raises:
            ArtifactNotFoundError: It is not complete here.
            WrongStateError: It is in use, or this site is its custodian.
        """
        self._holding(artifact_id).drop(artifact_id)
        self._damaged.discard(artifact_id)

    def pin(self, artifact_id: ArtifactId, run_id: RunId) -> None:
        """Keep the artifact for a run, complete or on its way; a second time changes nothing.

        Raises:
            ArtifactNotFoundError: The books do not know it.
        """
        if artifact_id not in self._residents:
            self._holding(artifact_id).pin(artifact_id, run_id)

    def unpin(self, artifact_id: ArtifactId, run_id: RunId) -> None:
        """Let go what a run pinned; does nothing where it pinned nothing."""
        cache = self._where(artifact_id)
        if cache is not None:
            cache.unpin(artifact_id, run_id)

    def open_reader(self, artifact_id: ArtifactId) -> None:
        """Keep the artifact while its files are read; each is paired with one `close_reader`.

        Raises:
            ArtifactNotFoundError: It is not complete here.
        """
        if artifact_id not in self._residents:
            self._holding(artifact_id).open_reader(artifact_id)

    def close_reader(self, artifact_id: ArtifactId) -> None:
        """End what `open_reader` began."""
        if artifact_id not in self._residents:
            self._holding(artifact_id).close_reader(artifact_id)

    def add_name(self, artifact_id: ArtifactId, name: str) -> bool:
        """Give the same content a further name; False: it had that name, or lies here for good.

        Raises:
            ArtifactNotFoundError: It is not complete here.
        """
        if artifact_id in self._residents:
            return False
        return self._holding(artifact_id).add_name(artifact_id, name)

    def set_custodian(
        self, artifact_id: ArtifactId, custodian: SiteId | None, *, is_custodian: bool
    ) -> None:
        """Note whose copy is protected; `is_custodian`: this one.

        Raises:
            ArtifactNotFoundError: The books do not know the artifact.
        """
        self._holding(artifact_id).set_custodian(artifact_id, custodian, is_custodian=is_custodian)

    def holdings(self) -> tuple[Artifact, ...]:
        """Return what the site may advertise: each whole artifact once for each of its names.

        Sorted by kind, the models first, then by name and id; residents come last. Bytes are those
        of `usages`: names share them.
        """
        kept = self.kept()
        if not self._damaged:
            return kept
        return tuple(each for each in kept if each.artifact_id not in self._damaged)

    def kept(self) -> tuple[Artifact, ...]:
        """Return what lies here as `holdings` does, what is damaged included."""
        return (*(entry.artifact for entry in self.entries()), *self._residents.values())

    def entries(self) -> tuple[CacheEntry, ...]:
        """Return the complete artifacts of the caches with their use, as `kept` orders them."""
        return tuple(
            replace(entry, is_damaged=True)
            if entry.artifact.artifact_id in self._damaged
            else entry
            for cache in self._distinct()
            for entry in cache.entries()
        )

    def check_invariants(self) -> None:
        """Assert I4 of the caches and that no artifact is in two places."""
        seen: set[ArtifactId] = set(self._residents)
        for cache in self._distinct():
            cache.check_invariants()
            for entry in {each.artifact.artifact_id for each in cache.entries()}:
                assert entry not in seen, "an artifact is in two places"
                seen.add(entry)
        assert self._damaged <= seen, "what is not here is damaged"

    def _distinct(self) -> tuple[Cache, ...]:
        return tuple(dict.fromkeys(self._caches.values()))

    def _where(self, artifact_id: ArtifactId) -> Cache | None:
        for cache in self._caches.values():
            if cache.state(artifact_id) is not None:
                return cache
        return None

    def _holding(self, artifact_id: ArtifactId) -> Cache:
        cache = self._where(artifact_id)
        if cache is None:
            raise ArtifactNotFoundError(f"{artifact_id} is not in the cache")
        return cache

    def _reserving(self, artifact_id: ArtifactId) -> Cache:
        cache = self._where(artifact_id)
        if cache is None:
            raise WrongStateError(f"{artifact_id} is not reserved here")
        return cache
