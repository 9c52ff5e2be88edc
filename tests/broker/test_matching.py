"""Whom the broker nominates, in which order, and why not the others."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker import matching
from broker.matching import NOMINEE_COUNT, Matchmaker
from broker.pool_table import DELAY_USD_PER_GPU_H, EGRESS_USD_PER_GB
from broker.registry import BEAT_S, LEASE_S, PROMISE_S, SiteJoined, SiteLapsed
from gcos.accounting import CostScope
from gcos.artifacts import Artifact, ArtifactKind
from gcos.errors import InvalidRequestError, WrongStateError
from gcos.ids import ArtifactId, SiteId
from gcos.known_sites import NominationQuery
from gcos.sites import Pool, PoolDigest, Site, SiteDigest
from gcos.tasks import GpuRequest, Reason

MODEL = ArtifactId("sha256:" + "a" * 64)
DATA = ArtifactId("sha256:" + "b" * 64)
HELD = {
    MODEL: Artifact(MODEL, ArtifactKind.MODEL, "tiny", 2 * 10**9),
    DATA: Artifact(DATA, ArtifactKind.DATA, "squad", 10**9),
}


def pool(gpu_type: str = "H100", **changes: object) -> Pool:
    plain = Pool(
        gpu_type, gpu_count=8, speed_ratio=1.0, active_kw=1.0, idle_kw=0.0, usd_per_gpu_h=0.0
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def site(name: str, *pools: Pool, **changes: object) -> Site:
    plain = Site(
        SiteId(name),
        incarnation="i",
        address=f"{name}:1",
        zone=f"zone-{name}",
        pue=1.0,
        pools=pools or (pool(),),
        model_cache_bytes=0,
        data_cache_bytes=0,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def digest(
    *, price: float = 0.1, carbon: float | None = 0.0, holds: tuple[ArtifactId, ...] = (), **more
) -> SiteDigest:
    plain = SiteDigest(
        pools=(),
        carbon_gco2_per_kwh=carbon,
        price_usd_per_kwh=price,
        is_draining=False,
        run_count=0,
        awarded_count=0,
        holdings=tuple(HELD[artifact_id] for artifact_id in holds),
    )
    return replace(plain, **more)


def load(free: int, committed_gpu_s: float = 0.0) -> tuple[PoolDigest, ...]:
    return (PoolDigest("H100", gpu_count=8, free_count=free, committed_gpu_s=committed_gpu_s),)


def matchmaker(*registered: tuple[Site, SiteDigest]) -> Matchmaker:
    made = Matchmaker()
    for one, its_digest in registered:
        made.register(one, its_digest, now_s=0.0)
    made.check_invariants()
    return made


def query(
    *artifact_ids: ArtifactId, gpu: GpuRequest | None = None, carbon_price: float = 0.2, **changes
) -> NominationQuery:
    plain = NominationQuery(
        gpu or GpuRequest(),
        artifact_ids,
        run_s=3600.0,
        carbon_price_usd_per_kg=carbon_price,
        scope=CostScope.OPERATOR,
    )
    return replace(plain, **changes)


def ranked(made: Matchmaker, asked: NominationQuery, now_s: float = 0.0) -> list[str]:
    nomination = made.nominate(asked, now_s=now_s)
    made.check_invariants()
    return [nominee.site_id for nominee in nomination.nominees]


def test_the_cheaper_site_comes_first() -> None:
    made = matchmaker((site("a"), digest(price=0.2)), (site("b"), digest(price=0.1)))
    assert ranked(made, query()) == ["b", "a"]


def test_carbon_weighs_by_its_price() -> None:
    made = matchmaker(
        (site("dirty"), digest(price=0.10, carbon=500.0)),
        (site("green"), digest(price=0.15, carbon=10.0)),
    )
    assert ranked(made, query(carbon_price=0.0)) == ["dirty", "green"]
    assert ranked(made, query(carbon_price=0.2)) == ["green", "dirty"]


def test_gpu_hours_weigh_only_where_they_are_cost() -> None:
    made = matchmaker(
        (site("rented", pool(usd_per_gpu_h=3.0)), digest(price=0.1)),
        (site("owned", pool(usd_per_gpu_h=0.0)), digest(price=0.2)),
    )
    assert ranked(made, query()) == ["rented", "owned"]
    assert ranked(made, query(scope=CostScope.WITH_GPU_HOURS)) == ["owned", "rented"]


def test_power_pue_and_speed_count() -> None:
    made = matchmaker(
        (site("base"), digest()),
        (site("fast", pool(speed_ratio=2.0)), digest()),
        (site("hungry", pool(active_kw=2.0)), digest()),
        (site("warm", pue=1.5), digest()),
    )
    assert ranked(made, query()) == ["fast", "base", "warm", "hungry"]


def test_an_unknown_carbon_intensity_counts_as_nothing() -> None:
    made = matchmaker((site("a"), digest(carbon=50.0)), (site("b"), digest(carbon=None)))
    assert ranked(made, query()) == ["b", "a"]


def test_missing_bytes_cost_typical_egress() -> None:
    """Three GB at $0.05 outweigh an hour's price difference of $0.1, not of $0.2."""
    assert EGRESS_USD_PER_GB == 0.05
    holder = (site("h"), digest(price=0.2, holds=(MODEL, DATA)))
    made = matchmaker(holder, (site("x"), digest(price=0.1)))
    assert ranked(made, query(MODEL, DATA)) == ["h", "x"]
    made = matchmaker(holder, (site("x"), digest(price=0.0)))
    assert ranked(made, query(MODEL, DATA)) == ["x", "h"]


def test_a_partial_holding_counts_in_part() -> None:
    made = matchmaker(
        (site("none"), digest()),
        (site("data"), digest(holds=(DATA,))),
        (site("model"), digest(holds=(MODEL,))),
    )
    assert ranked(made, query(MODEL, DATA)) == ["model", "data", "none"]


def test_work_ahead_delays_only_where_gpus_are_lacking() -> None:
    assert DELAY_USD_PER_GPU_H == 0.1
    made = matchmaker(
        (site("busy"), digest(price=0.1, pools=load(0, 8 * 2 * 3600.0))),
        (site("free"), digest(price=0.2, pools=load(8))),
        (site("roomy"), digest(price=0.15, pools=load(4, 8 * 9 * 3600.0))),
    )
    assert ranked(made, query()) == ["roomy", "free", "busy"]


def test_ties_go_to_the_lower_site_id() -> None:
    made = matchmaker(*((site(name), digest()) for name in "dacb"))
    assert ranked(made, query()) == ["a", "b", "c", "d"]


def test_eight_are_nominated_unless_a_limit_is_given() -> None:
    names = [f"s{index:02}" for index in range(20)]
    made = matchmaker(*((site(name), digest()) for name in names))
    assert len(ranked(made, query())) == NOMINEE_COUNT == 8
    assert len(ranked(made, query(limit_count=3))) == 3
    assert len(ranked(made, query(limit_count=64))) == 20


def test_every_refusal_has_its_reason() -> None:
    made = matchmaker(
        (site("count", pool(gpu_count=2)), digest()),
        (site("denied"), digest()),
        (site("drains"), digest(is_draining=True)),
        (site("fits"), digest()),
        (site("type", pool("A100")), digest()),
        (site("zoned", zone="bad"), digest()),
    )
    asked = query(gpu=GpuRequest("H100", 4), deny=("denied", "bad"))
    nomination = made.nominate(asked, now_s=0.0)
    assert [nominee.site_id for nominee in nomination.nominees] == ["fits"]
    assert {refusal.site_id: refusal.reason for refusal in nomination.refusals} == {
        "count": Reason.GPU_COUNT_TOO_HIGH,
        "denied": Reason.PLACEMENT_EXCLUDES,
        "drains": Reason.SITE_DRAINING,
        "type": Reason.GPU_TYPE_UNKNOWN,
        "zoned": Reason.PLACEMENT_EXCLUDES,
    }
    assert [refusal.site_id for refusal in nomination.refusals] == sorted(
        refusal.site_id for refusal in nomination.refusals
    )


def test_a_site_without_gpus_is_refused() -> None:
    made = Matchmaker()
    made.register(replace(site("a"), pools=()), digest(), now_s=0.0)
    (refusal,) = made.nominate(query(), now_s=0.0).refusals
    assert (refusal.reason, refusal.message) == (Reason.GPU_TYPE_UNKNOWN, "a has no GPU")


def test_a_site_that_changes_its_pools_is_ranked_by_the_new_ones() -> None:
    made = matchmaker((site("a"), digest()), (site("b"), digest()))
    assert ranked(made, query()) == ["a", "b"]
    made.register(site("a", pool(active_kw=3.0)), digest(), now_s=1.0)
    assert ranked(made, query(), now_s=1.0) == ["b", "a"]


def test_only_allowed_sites_and_zones_are_nominated() -> None:
    made = matchmaker(*((site(name), digest()) for name in "abc"))
    assert ranked(made, query(allow=("a", "zone-c"))) == ["a", "c"]


def test_the_cheapest_pool_that_fits_speaks_for_its_site() -> None:
    two = site("two", pool("A100", active_kw=0.1), pool("H100", active_kw=0.5))
    made = matchmaker((two, digest()), (site("one", pool(active_kw=0.3)), digest()))
    assert ranked(made, query()) == ["two", "one"]
    assert ranked(made, query(gpu=GpuRequest("H100"))) == ["one", "two"]


def test_refusals_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "REFUSAL_COUNT_MAX", 2)
    made = matchmaker(*((site(name), digest(is_draining=True)) for name in "abc"))
    assert len(made.nominate(query(), now_s=0.0).refusals) == 2


def test_needs_name_the_live_holders_and_draining_ones_serve_on() -> None:
    made = matchmaker(
        (site("b"), digest(carbon=7.0, holds=(MODEL,))),
        (site("a"), digest(is_draining=True, holds=(MODEL,))),
    )
    (need,) = made.nominate(query(MODEL, DATA), now_s=0.0).needs
    assert (need.name, need.size_bytes, need.kind) == ("tiny", 2 * 10**9, ArtifactKind.MODEL)
    assert [holder.site_id for holder in need.holders] == ["a", "b"]
    assert need.holders[1].address == "b:1"
    assert need.holders[1].zone == "zone-b"
    assert need.holders[1].carbon_gco2_per_kwh == 7.0


def test_of_too_many_holders_the_greenest_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "HOLDER_COUNT_MAX", 2)
    made = matchmaker(
        *(
            (site(name), digest(carbon=carbon, holds=(MODEL,)))
            for name, carbon in [("a", None), ("b", 5.0), ("c", 9.0), ("d", 1.0)]
        )
    )
    (resolution,) = made.resolve(["tiny"], now_s=0.0)
    assert resolution.need is not None
    assert [holder.site_id for holder in resolution.need.holders] == ["b", "d"]


def test_a_lapsed_site_is_no_nominee_and_no_holder() -> None:
    made = matchmaker((site("a"), digest(holds=(MODEL,))))
    late_s = LEASE_S + 0.1
    assert ranked(made, query(MODEL), now_s=late_s) == []
    (resolution,) = made.resolve(["tiny"], now_s=late_s)
    assert resolution.need is None
    assert made.sites(now_s=late_s) == ()
    assert made.take_events() == [SiteJoined(SiteId("a"), "a:1"), SiteLapsed(SiteId("a"))]
    assert made.take_events() == []


def test_promised_capacity_counts_before_it_is_reported() -> None:
    """A burst of tasks within one beat does not all go to the same idle site first."""
    made = matchmaker(
        (site("a"), digest(price=0.10, pools=load(8))),
        (site("b"), digest(price=0.11, pools=load(8))),
    )
    asked = query(gpu=GpuRequest("any", 8), limit_count=1)
    assert ranked(made, asked) == ["a"]
    assert ranked(made, asked) == ["b"]
    assert ranked(made, asked, now_s=PROMISE_S) == ["a"]


def test_a_reported_award_ends_the_promise() -> None:
    cheap = site("a")
    made = matchmaker(
        (cheap, digest(price=0.10, pools=load(8))),
        (site("b"), digest(price=0.11, pools=load(8))),
    )
    asked = query(gpu=GpuRequest("any", 8), limit_count=1)
    assert ranked(made, asked) == ["a"]
    made.register(cheap, digest(price=0.10, pools=load(8), awarded_count=1), now_s=1.0)
    assert ranked(made, asked, now_s=1.0) == ["a"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"gpu": GpuRequest("any", 0)}, "gpu.gpu_count"),
        ({"gpu": GpuRequest("", 1)}, "gpu.type"),
        ({"run_s": -1.0}, "run_s"),
        ({"carbon_price_usd_per_kg": -1.0}, "carbon_price_usd_per_kg"),
        ({"limit_count": 65}, "limit_count"),
        ({"limit_count": -1}, "limit_count"),
        ({"artifact_ids": ("tiny",)}, "artifact_ids"),
        ({"artifact_ids": (MODEL,) * 65}, "artifact_ids"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused_with_its_field(
    changes: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Matchmaker().nominate(replace(query(), **changes), now_s=0.0)
    assert caught.value.field == field


def test_references_are_resolved_in_order() -> None:
    made = matchmaker((site("a"), digest(holds=(MODEL, DATA))))
    other = replace(HELD[DATA], artifact_id=ArtifactId("sha256:" + "c" * 64))
    made.register(site("b"), digest(holdings=(other,)), now_s=0.0)
    pinned = f"squad@{DATA}"
    by_name, ambiguous, by_id, unknown = made.resolve(["tiny", "squad", pinned, "tinny"], now_s=0.0)
    assert by_name.need is not None
    assert by_name.need.artifact_id == MODEL
    assert (ambiguous.need, ambiguous.ambiguous_ids) == (None, (DATA, other.artifact_id))
    assert by_id.reference == pinned
    assert by_id.need is not None
    assert by_id.need.artifact_id == DATA
    assert (unknown.need, unknown.nearest) == (None, ("tiny",))


def test_what_is_no_reference_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Matchmaker().resolve(["fine", "../etc"], now_s=0.0)
    assert caught.value.field == "references[1]"
    with pytest.raises(InvalidRequestError, match="257 references"):
        Matchmaker().resolve(["x"] * 257, now_s=0.0)


def test_sites_are_sorted_and_tell_their_age() -> None:
    made = matchmaker((site("b"), digest()))
    assert made.register(site("a"), digest(holds=(MODEL,)), now_s=1.0) == BEAT_S
    first, second = made.sites(now_s=3.0)
    assert (first.site.site_id, first.age_s) == ("a", 2.0)
    assert (second.site.site_id, second.age_s) == ("b", 3.0)
    assert first.digest.holdings == (HELD[MODEL],)


def test_holdings_that_fit_no_message_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "SITES_HOLDING_COUNT_MAX", 1)
    made = matchmaker((site("a"), digest(holds=(MODEL, DATA))))
    assert made.sites(now_s=0.0)[0].digest.holdings == ()


def test_a_refused_registration_changes_nothing() -> None:
    made = matchmaker((site("a"), digest(holds=(MODEL,))))
    with pytest.raises(WrongStateError):
        made.register(site("a", incarnation="j"), digest(), now_s=1.0)
    made.check_invariants()
    (resolution,) = made.resolve(["tiny"], now_s=1.0)
    assert resolution.need is not None


DIGESTS = st.builds(
    lambda price, carbon, free, holds: digest(
        price=price, carbon=carbon, pools=load(free), holds=tuple(holds)
    ),
    st.floats(-0.5, 1.0),
    st.none() | st.floats(0.0, 900.0),
    st.integers(0, 8),
    st.sets(st.sampled_from([MODEL, DATA])).map(sorted),
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcdefghij"), DIGESTS),
    st.integers(1, 8),
    st.permutations("abcdefghij"),
)
def test_the_order_of_registration_does_not_show(
    digests: dict[str, SiteDigest], gpu_count: int, order: list[str]
) -> None:
    asked = query(MODEL, DATA, gpu=GpuRequest("any", gpu_count))
    first = matchmaker(*((site(name), digests[name]) for name in sorted(digests)))
    second = matchmaker(*((site(name), digests[name]) for name in order if name in digests))
    assert first.nominate(asked, now_s=1.0) == second.nominate(asked, now_s=1.0)
    first.check_invariants()


def test_a_broker_that_has_just_begun_says_that_a_missing_site_means_nothing() -> None:
    made = matchmaker((site("a"), digest()))
    assert not made.nominate(query(), now_s=5.9).is_settled
    assert made.nominate(query(), now_s=6.0).is_settled


def test_a_site_stays_as_long_as_its_lease_says() -> None:
    made = Matchmaker(lease_s=100.0)
    made.register(site("on"), digest(), now_s=0.0)
    made.tick(99.0)
    assert [known.site.site_id for known in made.sites(now_s=100.0)] == ["on"]
    assert made.sites(now_s=100.1) == ()
    assert not Matchmaker(lease_s=100.0).is_settled(now_s=0.0)


def test_with_an_endless_lease_no_site_lapses() -> None:
    made = Matchmaker(lease_s=math.inf)
    made.register(site("on"), digest(), now_s=0.0)
    made.tick(1e12)
    assert len(made.sites(now_s=1e12)) == 1
    assert [type(event) for event in made.take_events()] == [SiteJoined]


def test_a_site_that_says_goodbye_is_neither_asked_nor_a_holder() -> None:
    made = matchmaker((site("on"), digest(holds=(MODEL,))), (site("de"), digest(holds=(MODEL,))))
    asked = query(MODEL)
    assert {n.site_id for n in made.nominate(asked, now_s=1.0).nominees} == {"on", "de"}
    made.drop(SiteId("on"))
    nomination = made.nominate(asked, now_s=2.0)
    assert [nominee.site_id for nominee in nomination.nominees] == ["de"]
    assert [holder.site_id for holder in nomination.needs[0].holders] == ["de"]
    assert nomination.refusals == ()
    made.check_invariants()


def test_who_was_never_there_may_say_goodbye() -> None:
    made = matchmaker((site("on"), digest()))
    made.drop(SiteId("de"))
    made.drop(SiteId("on"))
    made.drop(SiteId("on"))
    assert made.nominate(query(), now_s=1.0).nominees == ()
    made.check_invariants()


def test_a_site_that_comes_back_begins_anew() -> None:
    made = matchmaker((site("on"), digest(holds=(MODEL,))))
    made.nominate(query(), now_s=1.0)
    made.drop(SiteId("on"))
    made.register(site("on", incarnation="second"), digest(), now_s=2.0)
    nomination = made.nominate(query(MODEL), now_s=2.0)
    assert [nominee.site_id for nominee in nomination.nominees] == ["on"]
    assert nomination.needs == (), "it holds nothing until it says so"
    made.nominate(query(), now_s=1.0 + PROMISE_S)  # the promise to the first one ends quietly
    made.check_invariants()
