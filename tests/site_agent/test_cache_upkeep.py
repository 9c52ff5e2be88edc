from hypothesis import given
from hypothesis import strategies as st

from gcos.artifacts import Artifact, ArtifactKind, CacheEntry
from gcos.ids import ArtifactId, SiteId
from site_agent.cache_upkeep import Reason, prune_plan, why_kept

HERE = SiteId("de")
STAYS = Reason("it is pinned", "let it go")


def entry(
    number: int,
    size_bytes: int = 10,
    *,
    used_s: float = 0.0,
    pins: int = 0,
    custodian: SiteId | None = None,
) -> CacheEntry:
    artifact_id = ArtifactId(f"sha256:{number:064x}")
    artifact = Artifact(artifact_id, ArtifactKind.DATA, f"a{number}", size_bytes, custodian)
    return CacheEntry(artifact, pin_count=pins, last_used_s=used_s, hit_count=0)


def test_what_was_used_longest_ago_goes_first_until_enough_is_gone() -> None:
    entries = [entry(1, used_s=3.0), entry(2, used_s=1.0), entry(3, used_s=2.0)]
    plan = prune_plan(entries, {}, occupied_bytes=30, to_bytes=15)
    assert [each.name for each in plan.removed] == ["a2", "a3"]
    assert plan.occupied_bytes == 10


def test_an_artifact_with_two_names_is_counted_once() -> None:
    plan = prune_plan([entry(1), entry(1)], {}, occupied_bytes=10, to_bytes=None)
    assert len(plan.removed) == 1
    assert plan.occupied_bytes == 0


def test_reasons_to_stay_come_in_the_order_in_which_they_must_go() -> None:
    def why(each: CacheEntry, *, is_pinned: bool = False, gives_up: bool = False) -> str:
        reason = why_kept(each, HERE, is_pinned=is_pinned, gives_up_custody=gives_up)
        return "" if reason is None else reason.why

    assert why(entry(1, pins=2), is_pinned=True) == "it is pinned"
    assert why(entry(1, pins=2)) == "2 runs need it"
    assert why(entry(1, pins=1), gives_up=True) == "1 run needs it"
    assert "custodian" in why(entry(1, custodian=HERE))
    assert why(entry(1, custodian=HERE), gives_up=True) == ""
    assert why(entry(1, custodian=SiteId("on"))) == ""


@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.integers(0, 5), st.booleans()), min_size=1, max_size=20
    ),
    st.one_of(st.none(), st.integers(0, 500)),
)
def test_a_plan_removes_no_more_than_it_must(
    facts: list[tuple[int, int, bool]], to_bytes: int | None
) -> None:
    entries = [
        entry(number, size_bytes, used_s=float(used_s))
        for number, (size_bytes, used_s, _) in enumerate(facts)
    ]
    kept = {
        each.artifact.artifact_id: STAYS
        for each, (_, _, stays) in zip(entries, facts, strict=True)
        if stays
    }
    total_bytes = sum(each.artifact.size_bytes for each in entries)
    plan = prune_plan(entries, kept, occupied_bytes=total_bytes, to_bytes=to_bytes)
    removed_bytes = sum(each.size_bytes for each in plan.removed)
    assert plan.occupied_bytes == total_bytes - removed_bytes
    assert not {each.artifact_id for each in plan.removed} & set(kept)
    if to_bytes is None:
        assert len(plan.removed) == len(entries) - len(kept)
    elif plan.removed:
        assert plan.occupied_bytes + plan.removed[-1].size_bytes > to_bytes
    if to_bytes is not None and plan.occupied_bytes > to_bytes:
        assert len(plan.removed) == len(entries) - len(kept), "nothing else may go"
