"""The rules that every report compares with."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.accounting import Charge
from gcos.ids import SiteId, TaskId
from policies.baselines import rules
from policies.baselines.rules import LATE_MAX, TIE, RuleBidder, Score, in_time_first, uniform
from policies.interface import Option, SiteView

NOW = Option(
    pool_type="H100",
    start_s=0.0,
    is_earliest=True,
    offer_usd=10.0,
    charge=Charge(energy_usd=2.0, compute_gco2=500.0, transfer_bytes=3_000_000_000),
    p50_finish_s=3600.0,
    p90_finish_s=7200.0,
    late_probability=0.0,
    p90_cost_usd=0.0,
    p90_carbon_gco2=0.0,
)
VIEW = SiteView(
    site_id=SiteId("paris"),
    task_id=TaskId("oslo-1"),
    is_origin=False,
    backlog_s=120.0,
    awarded_count=7,
    now_s=0.0,
)
HOME = replace(VIEW, site_id=SiteId("oslo"), is_origin=True)


def charged(**changes: float) -> Option:
    return replace(NOW, charge=replace(NOW.charge, **changes))


def score(rule: Score, option: Option = NOW, view: SiteView = VIEW) -> float:
    return RuleBidder("rule", rule).choose([option], view).score_ratio


@pytest.mark.parametrize(
    ("rule", "better", "view"),
    [
        (rules.local, NOW, HOME),
        (rules.round_robin, NOW, replace(VIEW, awarded_count=6)),
        (rules.least_loaded, NOW, replace(VIEW, backlog_s=119.0)),
        (rules.energy_cost, charged(energy_usd=1.99), VIEW),
        (rules.run_carbon, charged(compute_gco2=499.0), VIEW),
        (rules.missing_data, charged(transfer_bytes=2_999_000_000), VIEW),
    ],
)
def test_each_rule_prefers_what_it_is_named_for(
    rule: Score, better: Option, view: SiteView
) -> None:
    assert score(rule, better, view) < score(rule)


@pytest.mark.parametrize(
    ("rule", "other"),
    [
        (rules.energy_cost, charged(compute_gco2=1.0, transfer_usd=-5.0)),
        (rules.run_carbon, charged(energy_usd=-1.0, network_gco2=-1.0)),
        (rules.missing_data, charged(energy_usd=-1.0, compute_gco2=1.0)),
        (rules.local, charged(energy_usd=-1.0, compute_gco2=1.0, transfer_bytes=0)),
        (rules.least_loaded, charged(energy_usd=-1.0, compute_gco2=1.0, transfer_bytes=0)),
    ],
)
def test_no_rule_looks_at_anything_else(rule: Score, other: Option) -> None:
    assert score(rule, replace(other, offer_usd=-100.0)) == score(rule)


def test_of_equal_bytes_locality_takes_the_earlier_start() -> None:
    assert score(rules.missing_data, replace(NOW, start_s=3600.0)) > score(rules.missing_data)
    a_day_later = replace(charged(transfer_bytes=2_900_000_000), start_s=86_400.0)
    assert score(rules.missing_data, a_day_later) < score(rules.missing_data)


@given(late=st.floats(0, 1), early=st.floats(0, LATE_MAX))
def test_what_would_be_late_comes_after_all_that_would_not(late: float, early: float) -> None:
    rule = in_time_first(rules.run_carbon)
    dirty = replace(charged(compute_gco2=1e7), late_probability=early)
    clean = replace(charged(compute_gco2=0.0), late_probability=late)
    assert (rule(dirty, VIEW) < rule(clean, VIEW)) is (late > LATE_MAX)


def test_of_what_would_be_late_the_likelier_in_time_comes_first() -> None:
    rule = in_time_first(rules.run_carbon)
    worse, better = (replace(NOW, late_probability=late) for late in (0.9, 0.8))
    assert rule(better, VIEW) < rule(worse, VIEW)


def view_of(task: int, site: int) -> SiteView:
    return replace(VIEW, task_id=TaskId(f"oslo-{task}"), site_id=SiteId(f"s{site}"))


def test_random_gives_each_site_its_share() -> None:
    wins = [0] * 4
    for task in range(4000):
        scores = [score(rules.random, view=view_of(task, site)) for site in range(4)]
        wins[scores.index(min(scores))] += 1
    assert all(900 < count < 1100 for count in wins)


def test_a_draw_is_determined_by_task_and_site() -> None:
    assert uniform(VIEW) == uniform(replace(VIEW, backlog_s=0.0, now_s=99.0, awarded_count=0))
    assert uniform(VIEW) != uniform(HOME)
    # The same in every process: no salted hash is behind it.
    assert uniform(VIEW) == pytest.approx(0.832025095164163)


@given(task=st.integers(0, 10**6), site=st.integers(0, 10**4))
def test_a_tie_break_is_below_any_difference_that_a_rule_means(task: int, site: int) -> None:
    view = replace(view_of(task, site), backlog_s=0.0)
    assert 0.0 <= uniform(view) < 1.0
    assert 0.0 <= score(rules.least_loaded, view=view) < TIE


def test_a_tie_favours_no_site_for_its_name() -> None:
    firsts = 0
    for task in range(1000):
        scores = [score(rules.local, view=view_of(task, site)) for site in range(2)]
        firsts += scores[0] < scores[1]
    assert 400 < firsts < 600


def later(compute_gco2: float, *, late_probability: float = 0.0) -> Option:
    return replace(
        charged(compute_gco2=compute_gco2),
        start_s=3600.0,
        is_earliest=False,
        late_probability=late_probability,
    )


@pytest.mark.parametrize("rule", [rules.local, in_time_first(rules.run_carbon)])
def test_who_waits_takes_the_greenest_start_that_is_in_time(rule: Score) -> None:
    bidder = RuleBidder("wait", rule, waits=True)
    assert bidder.may_start_later
    green, greenest_but_late = later(400.0), later(1.0, late_probability=0.5)
    assert bidder.choose([NOW, green, greenest_but_late], VIEW).index == 1
    assert bidder.choose([NOW, later(500.0)], VIEW).index == 0, "no greener: at once"


def test_who_does_not_wait_takes_the_earlier_of_equal_options() -> None:
    slow = replace(NOW, pool_type="A100", start_s=60.0)
    assert RuleBidder("local", rules.local).choose([slow, NOW], VIEW).index == 1


def test_a_rule_says_who_it_is() -> None:
    names: list[tuple[str, Callable[..., float]]] = [
        ("local", rules.local),
        ("random", rules.random),
    ]
    assert [RuleBidder(name, rule).actor for name, rule in names] == ["local/1", "random/1"]
    assert not RuleBidder("local", rules.local).may_start_later
