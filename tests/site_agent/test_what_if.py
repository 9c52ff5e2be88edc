"""The nearest limit, copy or deadline that would change the answer to a plan."""

from dataclasses import replace

from gcos.accounting import Charge, CostScope, LatePenalty
from gcos.contract_net import Bid, ChangeKind, Fetch, Holder, Terms
from gcos.ids import ArtifactId, SiteId, TaskId
from gcos.tasks import TaskSpec
from site_agent.auction import Judgement
from site_agent.what_if import changes

TERMS = Terms(
    carbon_price_usd_per_kg=0.2,
    network_kwh_per_gb=0.0065,
    scope=CostScope.OPERATOR,
    late_penalty=LatePenalty(fixed_usd=1, per_h_usd=1, cap_h=4),
)
SPEC = TaskSpec("t", command=("true",))


def bid_of(site: str, offer_usd: float, *, fetch_usd: float = 0.0, **more: float) -> Bid:
    fetch = Fetch(
        artifact_id=ArtifactId("sha256:" + "a" * 64),
        name="big-lm",
        size_bytes=9,
        source=Holder(SiteId("z"), "DE", "z:1"),
        duration_s=1.0,
        cost_usd=fetch_usd,
        carbon_gco2=0.0,
    )
    bid = Bid(
        site_id=SiteId(site),
        task_id=TaskId("a-1"),
        offer_usd=offer_usd,
        score_ratio=0.0,
        actor="joint/1",
        pool_type="H100",
        start_s=0.0,
        is_deferred=False,
        p50_finish_s=1.0,
        p90_finish_s=2.0,
        late_probability=0.0,
        charge=Charge(),
        p90_cost_usd=offer_usd,
        p90_carbon_gco2=100.0,
        is_carbon_known=True,
        fetches=(fetch,) if fetch_usd else (),
        evictions=(),
        valid_until_s=9.0,
    )
    return replace(bid, **more)


def test_the_smallest_raise_that_admits_a_site_is_told() -> None:
    spec = replace(SPEC, max_cost_usd=1.0)
    over = [bid_of("dear", 5.0), bid_of("near", 1.5)]
    (change,) = changes(spec, Judgement((), ()), over, TERMS)
    assert (change.kind, change.site_id, change.saving_usd) == (ChangeKind.LIMIT, "near", 0.0)
    assert "max_cost_usd: 1.5 would admit near" in change.message


def test_a_limit_that_keeps_out_only_dearer_sites_is_not_worth_telling() -> None:
    spec = replace(SPEC, max_carbon_gco2=50.0)
    best = bid_of("best", 1.0, p90_carbon_gco2=40.0)
    assert not changes(spec, Judgement((best,), ()), [best, bid_of("over", 0.99)], TERMS)
    (change,) = changes(spec, Judgement((best,), ()), [best, bid_of("over", 0.5)], TERMS)
    assert "max_carbon_g: 100 would admit over" in change.message


def test_a_copy_that_would_make_another_site_the_best_is_told_with_what_it_saves() -> None:
    ranked = (bid_of("here", 1.0), bid_of("there", 3.0, fetch_usd=2.5))
    (change,) = changes(SPEC, Judgement(ranked, ()), ranked, TERMS)
    assert (change.kind, change.site_id, change.offer_usd) == (ChangeKind.COPY, "there", 0.5)
    assert change.saving_usd == 0.5
    assert "a copy of big-lm at there" in change.message


def test_more_time_is_told_where_it_pays() -> None:
    now = Judgement((bid_of("here", 1.0),), ())
    cheaper = Judgement((bid_of("here", 0.8),), ())
    same = Judgement((bid_of("here", 0.99),), ())
    (change,) = changes(SPEC, now, now.ranked, TERMS, later=cheaper)
    assert (change.kind, change.message[:13]) == (ChangeKind.DEADLINE, "deadline: 24h")
    assert not changes(SPEC, now, now.ranked, TERMS, later=same)
