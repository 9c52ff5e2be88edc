"""The nearest limit, copy or deadline that would change the answer to a plan."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gcos.accounting import Charge, CostScope, LatePenalty
from gcos.contract_net import Bid, Change, ChangeKind, Fetch, Holder, Terms
from gcos.ids import ArtifactId, SiteId, TaskId
from gcos.tasks import TaskSpec
from site_agent.auction import Judgement
from site_agent.what_if import PROBE_COUNT_MAX, DeadlineSearch, changes

TERMS = Terms(
    carbon_price_usd_per_kg=0.2,
    network_kwh_per_gb=0.0065,
    scope=CostScope.OPERATOR,
    late_penalty=LatePenalty(fixed_usd=1, per_h_usd=1, cap_h=4),
)
SPEC = TaskSpec("t", command=("true",))
NOW_S = 1_795_442_700.0


def bid_of(site: str, offer_usd: float, *, fetch_usd: float = 0.0, **more: Any) -> Bid:
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


def test_the_nearest_limit_is_told_not_the_cheapest_offer_behind_one() -> None:
    spec = replace(SPEC, max_carbon_gco2=50.0)
    best = bid_of("best", 10.0, p90_carbon_gco2=40.0)
    over = [bid_of("far", 1.0, p90_carbon_gco2=500.0), bid_of("near", 2.0, p90_carbon_gco2=60.0)]
    (change,) = changes(spec, Judgement((best,), ()), [best, *over], TERMS)
    assert change.message == "max_carbon_g: 60 would admit near"


def searched(
    spec: TaskSpec, now: Judgement, offered: Callable[[float], Bid | None]
) -> tuple[Change | None, list[float]]:
    """The change that is found where `offered` tells the best offer for a deadline."""
    search = DeadlineSearch(spec, now, now_s=NOW_S)
    probes = []
    while (deadline_s := search.probe_s) is not None:
        probes.append(deadline_s - NOW_S)
        bid = offered(deadline_s)
        search.answered(Judgement((bid,) if bid is not None else (), ()))
    assert len(probes) <= PROBE_COUNT_MAX
    return search.found, probes


HERE = bid_of("here", 1.0)


@pytest.mark.parametrize(
    ("needed_s", "told"),
    [
        (1.0, "5m"),
        (3600.0, "1h"),
        (3601.0, "65m"),
        (7300.0, "135m"),
        (12 * 3600.0, "12h"),
        (12 * 3600.0 + 1, "13h"),
        (24 * 3600.0, "24h"),
    ],
)
def test_the_nearest_deadline_that_pays_is_told_in_a_sensible_step(
    needed_s: float, told: str
) -> None:
    def offered(deadline_s: float) -> Bid:
        is_enough = deadline_s - NOW_S >= needed_s
        return bid_of("here", 0.8, is_deferred=True, start_s=7200.0) if is_enough else HERE

    change, _ = searched(SPEC, Judgement((HERE,), ()), offered)
    assert change is not None
    assert (change.kind, change.offer_usd) == (ChangeKind.DEADLINE, 0.8)
    assert change.message == f"deadline: {told} would let here wait for a better hour"
    assert change.saving_usd == pytest.approx(0.2)


def test_more_time_that_does_not_pay_costs_one_announcement() -> None:
    change, probes = searched(SPEC, Judgement((HERE,), ()), lambda _: bid_of("here", 0.99))
    assert (change, probes) == (None, [24 * 3600.0])


def test_only_deadlines_later_than_the_given_one_are_tried() -> None:
    spec = replace(SPEC, deadline_s=NOW_S + 5 * 3600.0 + 1)
    change, probes = searched(spec, Judgement((HERE,), ()), lambda _: bid_of("there", 0.5))
    assert change is not None
    assert change.message == "deadline: 315m would let there run it at less cost"
    assert min(probes) > 5 * 3600.0


def test_the_deadline_that_would_probably_be_met_is_told_however_far_it_lies() -> None:
    spec = replace(SPEC, deadline_s=NOW_S + 600.0)
    late = bid_of("here", 1.0, late_probability=0.9, p90_finish_s=NOW_S + 40 * 3600.0)

    def offered(deadline_s: float) -> Bid:
        is_met = deadline_s - NOW_S >= 40 * 3600.0
        return replace(late, late_probability=0.08 if is_met else 0.5)

    change, _ = searched(spec, Judgement((late,), ()), offered)
    assert change is not None
    assert change.message == "deadline: 40h would be met at here with 92 %"


def test_a_deadline_that_lets_a_task_run_at_all_is_told() -> None:
    spec = replace(SPEC, max_carbon_gco2=50.0)
    change, _ = searched(
        spec, Judgement((), ()), lambda d: HERE if d - NOW_S >= 6 * 3600.0 else None
    )
    assert change is not None
    assert change.message == "deadline: 6h would let here run it within the limits"
    assert change.saving_usd == 0.0


def test_a_lower_penalty_at_the_same_site_and_start_is_no_other_answer() -> None:
    spec = replace(SPEC, deadline_s=NOW_S + 600.0)
    late = bid_of("here", 1.0, late_probability=0.6, p90_finish_s=NOW_S)
    change, _ = searched(
        spec, Judgement((late,), ()), lambda _: replace(late, offer_usd=0.5, late_probability=0.2)
    )
    assert change is None
