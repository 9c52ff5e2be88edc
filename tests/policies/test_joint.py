from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.accounting import Charge
from gcos.ids import SiteId, TaskId
from policies.baselines.joint import DEFER_LATE, DEFER_SAVING, JointBidder, LookaheadBidder
from policies.interface import Bidder, Option, SiteView

NOW = Option(
    pool_type="H100",
    start_s=0.0,
    is_earliest=True,
    offer_usd=10.0,
    charge=Charge(),
    p50_finish_s=1.0,
    p90_finish_s=2.0,
    late_probability=0.0,
    p90_cost_usd=0.0,
    p90_carbon_gco2=0.0,
)
VIEW = SiteView(
    site_id=SiteId("paris"),
    task_id=TaskId("oslo-1"),
    is_origin=False,
    backlog_s=0.0,
    awarded_count=0,
    now_s=0.0,
)


def later(offer_usd: float, *, late_probability: float = 0.0) -> Option:
    return replace(
        NOW,
        start_s=3600.0,
        is_earliest=False,
        offer_usd=offer_usd,
        late_probability=late_probability,
    )


def chosen(*options: Option, bidder: Bidder | None = None) -> Option:
    choice = (bidder or LookaheadBidder()).choose(options, VIEW)
    assert choice.score_ratio == 0.0, "J alone decides between sites"
    return options[choice.index]


@pytest.mark.parametrize("bidder", [JointBidder(), LookaheadBidder()], ids=lambda b: b.actor)
def test_the_lowest_offer_wins_among_pools(bidder: Bidder) -> None:
    cheap = replace(NOW, pool_type="A100", offer_usd=9.99)
    assert chosen(NOW, cheap, bidder=bidder) is cheap


def test_only_looking_ahead_asks_for_later_starts() -> None:
    assert not JointBidder().may_start_later
    assert LookaheadBidder().may_start_later
    assert JointBidder().actor != LookaheadBidder().actor


def test_a_later_start_must_save_its_price() -> None:
    worth = NOW.offer_usd * (1 - DEFER_SAVING)
    assert chosen(NOW, later(worth + 0.01)) is NOW
    assert chosen(NOW, later(worth - 0.01)).start_s == 3600.0


def test_a_later_start_must_be_in_time() -> None:
    risky = later(1.0, late_probability=DEFER_LATE + 1e-6)
    safe = later(5.0, late_probability=DEFER_LATE)
    assert chosen(NOW, risky) is NOW
    assert chosen(NOW, risky, safe) is safe


def test_a_late_task_starts_at_once_however_late() -> None:
    hopeless = replace(NOW, late_probability=1.0)
    assert chosen(hopeless, later(1.0, late_probability=1.0)) is hopeless


def test_where_prices_are_negative_a_later_start_must_earn_more() -> None:
    paid = replace(NOW, offer_usd=-10.0)
    assert chosen(paid, later(-10.4)) is paid
    assert chosen(paid, later(-10.6)).start_s == 3600.0


def test_a_later_start_in_one_pool_competes_with_the_best_start_now_of_all() -> None:
    cheap_now = replace(NOW, pool_type="A100", offer_usd=5.0)
    assert chosen(NOW, later(5.0 * 0.97), cheap_now) is cheap_now


OFFERS = st.floats(-100, 100)


@given(
    now=st.lists(OFFERS, min_size=1, max_size=3),
    deferred=st.lists(st.tuples(OFFERS, st.floats(0, 1)), max_size=6),
)
def test_the_choice_is_never_dearer_than_starting_now(
    now: list[float], deferred: list[tuple[float, float]]
) -> None:
    options = [replace(NOW, offer_usd=offer) for offer in now]
    options += [later(offer, late_probability=late) for offer, late in deferred]
    best = chosen(*options)
    assert best.offer_usd <= min(now)
    assert best.is_earliest or best.late_probability <= DEFER_LATE


@pytest.mark.parametrize("bidder", [JointBidder(), LookaheadBidder()], ids=lambda b: b.actor)
@pytest.mark.parametrize("count", [1, 2])
def test_the_choice_is_an_index_into_what_was_given(count: int, bidder: Bidder) -> None:
    assert bidder.choose([NOW] * count, VIEW).index == 0
