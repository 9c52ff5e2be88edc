import pytest

from gcos.artifacts import Artifact, ArtifactKind, CacheUsage
from gcos.errors import (
    ArtifactNotFoundError,
    CacheFullError,
    InvalidRequestError,
    WrongStateError,
)
from gcos.ids import ArtifactId, RunId, SiteId
from site_agent.cache import Cache, EntryState

RUN = RunId("iad-1.1.1")
OTHER_RUN = RunId("iad-2.1.1")


def artifact(letter: str, size_bytes: int = 10) -> Artifact:
    artifact_id = ArtifactId("sha256:" + letter * 64)
    return Artifact(artifact_id, ArtifactKind.MODEL, name=f"model-{letter}", size_bytes=size_bytes)


A, B, C, D = (artifact(letter) for letter in "abcd")


def cache_with(*artifacts: Artifact, capacity_bytes: int = 30) -> Cache:
    """A cache that holds these, the first one used least recently."""
    cache = Cache(ArtifactKind.MODEL, capacity_bytes)
    for now_s, each in enumerate(artifacts):
        cache.reserve(each, now_s=float(now_s))
        cache.insert(each.artifact_id)
    return cache


def test_a_reservation_counts_before_its_bytes_are_here() -> None:
    cache = cache_with()
    cache.reserve(A, now_s=0.0)
    assert cache.usage() == CacheUsage(
        ArtifactKind.MODEL, capacity_bytes=30, occupied_bytes=0, reserved_bytes=10
    )
    cache.insert(A.artifact_id)
    assert (cache.occupied_bytes, cache.reserved_bytes) == (10, 0)


def test_what_is_only_reserved_is_neither_found_nor_listed_nor_read() -> None:
    cache = cache_with()
    cache.reserve(A, now_s=0.0)
    assert cache.state(A.artifact_id) is EntryState.RESERVED
    assert cache.find(A.artifact_id) is None
    assert cache.entries() == ()
    with pytest.raises(ArtifactNotFoundError):
        cache.open_reader(A.artifact_id)
    with pytest.raises(ArtifactNotFoundError):
        cache.hit(A.artifact_id, RUN, now_s=1.0)


def test_the_least_recently_used_leaves_first() -> None:
    cache = cache_with(A, B, C)
    cache.hit(A.artifact_id, RUN, now_s=9.0)
    assert cache.reserve(D, now_s=10.0) == (B.artifact_id,)
    assert cache.find(B.artifact_id) is None
    assert cache.find(A.artifact_id) == A


def test_of_two_used_at_the_same_instant_the_lower_id_leaves() -> None:
    cache = Cache(ArtifactKind.MODEL, 20)
    for each in (B, A):
        cache.reserve(each, now_s=0.0)
        cache.insert(each.artifact_id)
    assert cache.evictions_for(5) == (A.artifact_id,)


def test_a_pinned_artifact_is_never_evicted() -> None:
    cache = cache_with(A, B, C)
    cache.pin(A.artifact_id, RUN)
    assert cache.reserve(D, now_s=9.0) == (B.artifact_id,)
    assert cache.pinned_bytes == 10


def test_the_last_run_to_unpin_lets_go() -> None:
    cache = cache_with(A, capacity_bytes=10)
    cache.pin(A.artifact_id, RUN)
    cache.pin(A.artifact_id, RUN)
    cache.pin(A.artifact_id, OTHER_RUN)
    cache.unpin(A.artifact_id, RUN)
    assert cache.evictions_for(10) is None
    cache.unpin(A.artifact_id, OTHER_RUN)
    cache.unpin(A.artifact_id, OTHER_RUN)
    assert cache.evictions_for(10) == (A.artifact_id,)


def test_what_a_peer_reads_stays() -> None:
    cache = cache_with(A, capacity_bytes=10)
    cache.open_reader(A.artifact_id)
    assert cache.evictions_for(10) is None
    assert cache.entries()[0].pin_count == 0
    cache.close_reader(A.artifact_id)
    assert cache.evictions_for(10) == (A.artifact_id,)


def test_a_custodians_copy_is_never_evicted_until_custody_has_moved() -> None:
    cache = Cache(ArtifactKind.MODEL, 10)
    cache.reserve(A, now_s=0.0, is_custodian=True)
    cache.insert(A.artifact_id)
    assert cache.evictions_for(10) is None
    cache.set_custodian(A.artifact_id, SiteId("fra"), is_custodian=False)
    assert cache.evictions_for(10) == (A.artifact_id,)
    found = cache.find(A.artifact_id)
    assert found is not None
    assert found.custodian == "fra"


def test_a_full_cache_tells_what_was_needed_free_and_evictable() -> None:
    cache = cache_with(A, B)
    cache.pin(A.artifact_id, RUN)
    with pytest.raises(CacheFullError, match=r"needs 25 bytes.*10 are free and 10 evictable of 30"):
        cache.reserve(artifact("e", 25), now_s=9.0)
    assert len(cache.entries()) == 2, "a refused reservation evicts nothing"


def test_a_claim_of_exabytes_is_refused_before_anything_changes() -> None:
    cache = cache_with(A, B, C)
    with pytest.raises(CacheFullError):
        cache.reserve(artifact("e", 2**63), now_s=9.0)
    assert cache.occupied_bytes == 30


def test_a_dry_run_changes_nothing() -> None:
    cache = cache_with(A, B, C)
    before = cache.entries(), cache.usage()
    assert cache.evictions_for(15) == (A.artifact_id, B.artifact_id)
    assert cache.evictions_for(31) is None
    assert (cache.entries(), cache.usage()) == before


def test_a_released_reservation_gives_its_bytes_back() -> None:
    cache = cache_with(A, B)
    cache.reserve(C, now_s=9.0)
    cache.release(C.artifact_id)
    assert cache.free_bytes == 10
    assert cache.state(C.artifact_id) is None


def test_what_is_here_or_coming_is_not_reserved_again() -> None:
    cache = cache_with(A)
    cache.reserve(B, now_s=1.0)
    with pytest.raises(WrongStateError, match="model-a is complete"):
        cache.reserve(A, now_s=2.0)
    with pytest.raises(WrongStateError, match="model-b is reserved"):
        cache.reserve(B, now_s=2.0)


def test_only_a_reservation_is_inserted_or_released() -> None:
    cache = cache_with(A)
    for verb in (cache.insert, cache.release):
        with pytest.raises(WrongStateError):
            verb(A.artifact_id)
        with pytest.raises(WrongStateError):
            verb(B.artifact_id)


def test_an_artifact_without_bytes_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        cache_with().reserve(artifact("e", 0), now_s=0.0)


def test_a_run_that_waited_for_the_bytes_missed_and_one_that_found_them_hit() -> None:
    cache = cache_with()
    cache.reserve(A, now_s=0.0)
    cache.pin(A.artifact_id, RUN)
    cache.insert(A.artifact_id)
    cache.hit(A.artifact_id, RUN, now_s=1.0)
    assert cache.entries()[0].hit_count == 0
    cache.pin(A.artifact_id, OTHER_RUN)
    cache.hit(A.artifact_id, OTHER_RUN, now_s=2.0)
    cache.hit(A.artifact_id, OTHER_RUN, now_s=3.0)
    entry = cache.entries()[0]
    assert (entry.hit_count, entry.last_used_s, entry.pin_count) == (1, 3.0, 2)


def test_content_with_two_names_is_listed_twice_and_counted_once() -> None:
    cache = cache_with(A)
    assert cache.add_name(A.artifact_id, "alias")
    assert not cache.add_name(A.artifact_id, "alias")
    assert not cache.add_name(A.artifact_id, "model-a")
    assert [entry.artifact.name for entry in cache.entries()] == ["alias", "model-a"]
    assert cache.occupied_bytes == 10
    cache.check_invariants()


def test_pinning_the_unknown_fails_and_unpinning_it_does_not() -> None:
    cache = cache_with()
    with pytest.raises(ArtifactNotFoundError):
        cache.pin(A.artifact_id, RUN)
    cache.unpin(A.artifact_id, RUN)


def test_a_drifted_sum_is_noticed() -> None:
    cache = cache_with(A)
    cache._occupied_bytes += 1
    with pytest.raises(AssertionError, match="occupied_bytes drifted"):
        cache.check_invariants()


def test_what_is_dropped_frees_its_bytes_though_nobody_needs_them() -> None:
    cache = cache_with(A, B)
    cache.drop(A.artifact_id)
    assert (cache.state(A.artifact_id), cache.occupied_bytes) == (None, 10)
    cache.check_invariants()


def test_what_is_in_use_or_on_its_way_is_not_dropped() -> None:
    cache = cache_with(A, B, C, capacity_bytes=40)
    cache.pin(A.artifact_id, RUN)
    cache.open_reader(B.artifact_id)
    cache.set_custodian(C.artifact_id, SiteId("iad"), is_custodian=True)
    cache.reserve(D, now_s=5.0)
    for held in (A, B, C):
        with pytest.raises(WrongStateError, match="in use"):
            cache.drop(held.artifact_id)
    with pytest.raises(ArtifactNotFoundError):
        cache.drop(D.artifact_id)
    cache.check_invariants()


def test_a_cache_of_no_kind_holds_either() -> None:
    cache = Cache(None, 20)
    data = Artifact(B.artifact_id, ArtifactKind.DATA, "data", size_bytes=10)
    for each in (A, data):
        cache.reserve(each, now_s=0.0)
        cache.insert(each.artifact_id)
    assert cache.usage().occupied_bytes == 20
    with pytest.raises(AssertionError, match="other cache"):
        Cache(ArtifactKind.MODEL, 20).reserve(data, now_s=0.0)
