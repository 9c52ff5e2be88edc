from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gcos.artifacts import Artifact, ArtifactKind
from gcos.errors import ArtifactNotFoundError, CacheFullError, GcosError, WrongStateError
from gcos.ids import ArtifactId, RunId, SiteId
from site_agent.dual_cache import DualCache

MODEL, DATA = ArtifactKind.MODEL, ArtifactKind.DATA
RUN = RunId("iad-1.1.1")


def artifact(number: int, kind: ArtifactKind, size_bytes: int = 10) -> Artifact:
    artifact_id = ArtifactId(f"sha256:{number:064x}")
    return Artifact(artifact_id, kind, name=f"thing-{number}", size_bytes=size_bytes)


def test_a_large_data_set_drives_out_no_model() -> None:
    cache = DualCache(10, 20)
    model = artifact(1, MODEL)
    cache.reserve(model, now_s=0.0)
    cache.insert(model.artifact_id)
    assert cache.reserve(artifact(2, DATA, 20), now_s=1.0) == ()
    with pytest.raises(CacheFullError, match="data cache"):
        cache.reserve(artifact(3, DATA), now_s=2.0)
    assert cache.has(model.artifact_id)


def test_holdings_are_the_complete_ones_models_first_then_by_name() -> None:
    cache = DualCache(100, 100)
    for each in (artifact(3, DATA), artifact(2, MODEL), artifact(1, MODEL), artifact(4, DATA)):
        cache.reserve(each, now_s=0.0)
        if each.name != "thing-4":
            cache.insert(each.artifact_id)
    cache.add_name(artifact(2, MODEL).artifact_id, "alias")
    names = [each.name for each in cache.holdings()]
    assert names == ["alias", "thing-1", "thing-2", "thing-3"]
    assert [usage.kind for usage in cache.usages()] == [MODEL, DATA]
    assert [usage.occupied_bytes for usage in cache.usages()] == [20, 10]
    assert cache.is_reserved(artifact(4, DATA).artifact_id)


def test_who_would_go_is_told_with_the_reason() -> None:
    cache = DualCache(30, 30)
    for number in (1, 2, 3):
        cache.reserve(artifact(number, MODEL), now_s=float(number))
        cache.insert(artifact(number, MODEL).artifact_id)
    cache.pin(artifact(1, MODEL).artifact_id, RUN)
    coming = artifact(9, MODEL, 15)
    victims = cache.victims_for(coming)
    assert [each.name for each in victims] == ["thing-2", "thing-3"]
    assert victims[1].why == ("makes room for thing-9: of 2 that could go, value ranked it 2 (0)")
    assert cache.reserve(coming, now_s=4.0) == tuple(each.artifact_id for each in victims)
    assert cache.victims_for(artifact(8, DATA)) == ()
    assert cache.victims_for(artifact(8, DATA, 31)) == ()


def test_an_id_is_in_one_cache_only() -> None:
    cache = DualCache(100, 100)
    cache.reserve(artifact(1, MODEL), now_s=0.0)
    with pytest.raises(WrongStateError, match="MODEL cache"):
        cache.reserve(artifact(1, DATA), now_s=0.0)
    cache.check_invariants()


def test_the_unknown_is_not_here() -> None:
    cache = DualCache(100, 100)
    unknown = artifact(1, MODEL).artifact_id
    assert cache.find(unknown) is None
    cache.unpin(unknown, RUN)
    for verb in (cache.open_reader, cache.close_reader):
        with pytest.raises(ArtifactNotFoundError):
            verb(unknown)
    for verb in (cache.insert, cache.release):
        with pytest.raises(WrongStateError):
            verb(unknown)


def test_a_shared_cache_holds_both_kinds_and_either_drives_out_the_other() -> None:
    cache = DualCache.shared(30)
    model, data, large = artifact(1, MODEL, 20), artifact(2, DATA), artifact(3, DATA, 15)
    for now_s, each in enumerate((model, data)):
        cache.reserve(each, now_s=float(now_s))
        cache.insert(each.artifact_id)
    assert [usage.occupied_bytes for usage in cache.usages()] == [30], "shown once"
    assert cache.capacity_bytes(MODEL) == cache.capacity_bytes(DATA) == 30
    assert cache.evictions_for(DATA, 15) == (model.artifact_id,)
    assert cache.reserve(large, now_s=2.0) == (model.artifact_id,)
    assert {each.name for each in cache.holdings()} == {"thing-2"}
    cache.check_invariants()


def test_a_shared_cache_is_full_for_both_kinds() -> None:
    cache = DualCache.shared(30)
    cache.reserve(artifact(1, MODEL, 20), now_s=0.0)
    with pytest.raises(CacheFullError, match="shared cache"):
        cache.reserve(artifact(2, DATA, 11), now_s=1.0)
    cache.reserve(artifact(3, DATA, 10), now_s=1.0)
    cache.check_invariants()


def test_a_resident_is_found_and_used_like_any_other() -> None:
    cache = DualCache(10, 10)
    resident = artifact(1, DATA, 500)
    cache.settle(resident)
    assert cache.find(resident.artifact_id) == resident
    assert cache.has(resident.artifact_id)
    assert not cache.is_reserved(resident.artifact_id)
    cache.pin(resident.artifact_id, RUN)
    cache.hit(resident.artifact_id, RUN, now_s=1.0)
    cache.unpin(resident.artifact_id, RUN)
    cache.check_invariants()


def test_a_resident_takes_no_room_and_never_leaves() -> None:
    cache = DualCache(10, 10)
    resident, cached = artifact(1, DATA, 500), artifact(2, DATA, 10)
    cache.settle(resident)
    assert [usage.occupied_bytes for usage in cache.usages()] == [0, 0]
    cache.reserve(cached, now_s=0.0)
    cache.insert(cached.artifact_id)
    assert cache.evictions_for(DATA, 10) == (cached.artifact_id,)
    assert cache.evictions_for(DATA, 11) is None
    assert cache.holdings() == (cached, resident), "residents come last"
    assert [entry.artifact for entry in cache.entries()] == [cached]


def test_a_resident_is_not_brought_again() -> None:
    cache = DualCache(1000, 1000)
    resident = artifact(1, MODEL)
    cache.settle(resident)
    with pytest.raises(WrongStateError, match="for good"):
        cache.reserve(resident, now_s=0.0)
    cached = artifact(2, MODEL)
    cache.reserve(cached, now_s=0.0)
    with pytest.raises(AssertionError):
        cache.settle(cached)


def test_an_artifact_is_dropped_from_the_cache_that_holds_it() -> None:
    cache = DualCache(30, 30)
    kept, dropped = artifact(1, MODEL), artifact(2, DATA)
    for each in (kept, dropped):
        cache.reserve(each, now_s=0.0)
        cache.insert(each.artifact_id)
    cache.drop(dropped.artifact_id)
    assert cache.holdings() == (kept,)
    assert cache.usage(DATA).occupied_bytes == 0
    with pytest.raises(ArtifactNotFoundError):
        cache.drop(dropped.artifact_id)
    cache.check_invariants()


@dataclass
class Row:
    """The reference: one line of a list, everything recomputed each time."""

    artifact: Artifact
    used_s: float
    is_complete: bool = False
    is_custodian: bool = False
    runs: set[str] = field(default_factory=set)
    reader_count: int = 0

    @property
    def is_protected(self) -> bool:
        return bool(self.runs) or self.reader_count > 0 or self.is_custodian


CAPACITY_BYTES = {MODEL: 40, DATA: 25}
ARTIFACTS = [
    artifact(number, MODEL if number % 2 else DATA, size_bytes=3 + 4 * (number % 5))
    for number in range(10)
]
numbers = st.integers(0, len(ARTIFACTS) - 1)
runs = st.sampled_from([RunId("a-1.1.1"), RunId("a-2.1.1")])


class DualCacheMachine(RuleBasedStateMachine):
    """The books against the list: same answers, and I4 to I6 after every event."""

    @initialize()
    def start(self) -> None:
        self.cache = DualCache(CAPACITY_BYTES[MODEL], CAPACITY_BYTES[DATA])
        self.rows: list[Row] = []
        self.now_s = 0.0

    def row(self, number: int) -> Row | None:
        return next((row for row in self.rows if row.artifact is ARTIFACTS[number]), None)

    def expected_evictions(self, kind: ArtifactKind, size_bytes: int) -> list[Row] | None:
        rows = [row for row in self.rows if row.artifact.kind is kind]
        free = CAPACITY_BYTES[kind] - sum(row.artifact.size_bytes for row in rows)
        victims: list[Row] = []
        candidates = [row for row in rows if row.is_complete and not row.is_protected]
        candidates.sort(key=lambda row: (row.used_s, row.artifact.artifact_id))
        while free < size_bytes and candidates:
            victims.append(candidates.pop(0))
            free += victims[-1].artifact.size_bytes
        return victims if free >= size_bytes else None

    @rule(number=numbers, is_custodian=st.booleans(), waits_s=st.integers(0, 1))
    def reserve(self, number: int, is_custodian: bool, waits_s: int) -> None:
        self.now_s += waits_s
        wanted = ARTIFACTS[number]
        victims = self.expected_evictions(wanted.kind, wanted.size_bytes)
        try:
            evicted = self.cache.reserve(wanted, now_s=self.now_s, is_custodian=is_custodian)
        except WrongStateError:
            assert self.row(number) is not None
        except CacheFullError:
            assert victims is None
        else:
            assert victims is not None
            assert evicted == tuple(row.artifact.artifact_id for row in victims)
            self.rows = [row for row in self.rows if row not in victims]
            self.rows.append(Row(wanted, self.now_s, is_custodian=is_custodian))

    @rule(number=numbers, is_kept=st.booleans())
    def settle(self, number: int, is_kept: bool) -> None:
        row = self.row(number)
        verb = self.cache.insert if is_kept else self.cache.release
        if row is None or row.is_complete:
            with pytest.raises(WrongStateError):
                verb(ARTIFACTS[number].artifact_id)
            return
        verb(row.artifact.artifact_id)
        row.is_complete = True
        if not is_kept:
            self.rows.remove(row)

    @rule(number=numbers, run=runs)
    def pin(self, number: int, run: RunId) -> None:
        row = self.row(number)
        if row is None:
            with pytest.raises(ArtifactNotFoundError):
                self.cache.pin(ARTIFACTS[number].artifact_id, run)
        else:
            self.cache.pin(row.artifact.artifact_id, run)
            row.runs.add(run)

    @rule(number=numbers, run=runs)
    def unpin(self, number: int, run: RunId) -> None:
        self.cache.unpin(ARTIFACTS[number].artifact_id, run)
        row = self.row(number)
        if row is not None:
            row.runs.discard(run)

    @rule(number=numbers, run=runs, waits_s=st.integers(0, 2))
    def hit(self, number: int, run: RunId, waits_s: int) -> None:
        self.now_s += waits_s
        row = self.row(number)
        try:
            self.cache.hit(ARTIFACTS[number].artifact_id, run, now_s=self.now_s)
        except GcosError:
            assert row is None or not row.is_complete
        else:
            assert row is not None
            assert row.is_complete
            row.used_s = self.now_s

    @rule(number=numbers, opens=st.booleans())
    def read(self, number: int, opens: bool) -> None:
        row = self.row(number)
        if row is None or not row.is_complete:
            return
        if opens:
            self.cache.open_reader(row.artifact.artifact_id)
            row.reader_count += 1
        elif row.reader_count:
            self.cache.close_reader(row.artifact.artifact_id)
            row.reader_count -= 1

    @rule(number=numbers, is_custodian=st.booleans())
    def move_custody(self, number: int, is_custodian: bool) -> None:
        row = self.row(number)
        if row is not None:
            artifact_id = row.artifact.artifact_id
            self.cache.set_custodian(artifact_id, SiteId("iad"), is_custodian=is_custodian)
            row.is_custodian = is_custodian

    @rule(kind=st.sampled_from([MODEL, DATA]), size_bytes=st.integers(1, 45))
    def dry_run(self, kind: ArtifactKind, size_bytes: int) -> None:
        expected = self.expected_evictions(kind, size_bytes)
        before = self.cache.entries(), self.cache.usages()
        found = self.cache.evictions_for(kind, size_bytes)
        assert (self.cache.entries(), self.cache.usages()) == before
        if expected is None:
            assert found is None
        else:
            assert found == tuple(row.artifact.artifact_id for row in expected)

    @invariant()
    def books_and_list_agree(self) -> None:
        self.cache.check_invariants()
        for usage in self.cache.usages():
            rows = [row for row in self.rows if row.artifact.kind is usage.kind]
            occupied = sum(row.artifact.size_bytes for row in rows if row.is_complete)
            reserved = sum(row.artifact.size_bytes for row in rows if not row.is_complete)
            assert (usage.occupied_bytes, usage.reserved_bytes) == (occupied, reserved)
            assert occupied + reserved <= usage.capacity_bytes == CAPACITY_BYTES[usage.kind]
        found = {each.artifact_id for each in self.cache.holdings()}
        assert found == {row.artifact.artifact_id for row in self.rows if row.is_complete}


DualCacheMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestDualCacheAgainstAList = DualCacheMachine.TestCase


def test_a_resident_is_read_by_peers_like_any_other_copy() -> None:
    cache = DualCache(0, 0)
    resident = artifact(1, MODEL, 5)
    cache.settle(resident)

    cache.open_reader(resident.artifact_id)
    cache.close_reader(resident.artifact_id)

    assert cache.has(resident.artifact_id)
    assert not cache.add_name(resident.artifact_id, "another")
