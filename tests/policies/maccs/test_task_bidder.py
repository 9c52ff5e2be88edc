"""What was learned moves an offer's rank, never its price."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.ids import SiteId, TaskId
from policies.baselines.joint import JointBidder
from policies.features import CLAMP, FEATURE_COUNT
from policies.interface import Option, Seen, SiteView
from policies.maccs.task_bidder import RESIDUAL_MAX, TAU, ResidualBidder
from policies.maccs.task_network import drawn_network
from testbed.samples import CHARGE, NOW_S

OPTION = Option(
    pool_type="H100",
    start_s=NOW_S,
    is_earliest=True,
    offer_usd=2.0,
    charge=CHARGE,
    p50_finish_s=NOW_S + 60,
    p90_finish_s=NOW_S + 90,
    late_probability=0.0,
    p90_cost_usd=3.0,
    p90_carbon_gco2=4.0,
)
NETWORK = drawn_network(np.random.default_rng(1), hidden=(8, 4), is_zero=False)
ROWS = np.random.default_rng(2).uniform(-2, 2, (5, FEATURE_COUNT)).astype(np.float32)
OFFERS = st.lists(st.floats(-1e3, 1e6), min_size=1, max_size=5)


def view_of(seen: Seen | None) -> SiteView:
    return SiteView(SiteId("de"), TaskId("de-1"), False, 0.0, 0, NOW_S, seen)


def options_of(offers_usd: list[float]) -> list[Option]:
    return [replace(OPTION, offer_usd=usd) for usd in offers_usd]


@given(offers_usd=OFFERS, reference_usd=st.floats(1e-6, 1e6))
def test_before_training_it_chooses_as_joint_does(
    offers_usd: list[float], reference_usd: float
) -> None:
    """And so does the origin: scores never turn the order of offers round."""
    still = drawn_network(np.random.default_rng(3), hidden=(8, 4))
    bidder = ResidualBidder(still, scale=1.0, version="task/0")
    seen = Seen(reference_usd, features=ROWS[: len(offers_usd)])
    options = options_of(offers_usd)
    choice = bidder.choose(options, view_of(seen))
    assert choice.index == JointBidder().choose(options, view_of(None)).index
    assert str(choice.residual_usd) == "0.0"
    alone = view_of(Seen(reference_usd, features=ROWS[:1]))
    scores = [bidder.choose([each], alone).score_ratio for each in options]
    assert all(
        scores[i] <= scores[k]
        for i in range(len(scores))
        for k in range(len(scores))
        if offers_usd[i] < offers_usd[k]
    )


def test_a_scale_of_nothing_is_as_good_as_no_training() -> None:
    bidder = ResidualBidder(NETWORK, scale=0.0, version="task/0")
    choice = bidder.choose(options_of([3.0, 2.0, 4.0]), view_of(Seen(1.0, features=ROWS[:3])))
    assert (choice.index, choice.residual_usd) == (1, 0.0)


def test_score_offer_and_residual_agree() -> None:
    bidder = ResidualBidder(NETWORK, scale=0.5, version="task/0")
    choice = bidder.choose([OPTION], view_of(Seen(4.0, features=ROWS[:1])))
    learned = float(NETWORK(ROWS[:1])[0])
    assert choice.residual_usd == pytest.approx(-0.5 * learned * TAU * 4.0)
    assert choice.score_ratio * TAU * 4.0 == pytest.approx(2.0 + choice.residual_usd)


def test_what_was_learned_may_choose_a_dearer_option() -> None:
    def likes_the_second(rows: np.ndarray) -> np.ndarray:
        return np.array([0.0, 1.0, 0.0])

    bidder = ResidualBidder(likes_the_second, scale=1.0, version="task/0")
    seen = Seen(1.0, features=ROWS[:3])
    assert bidder.choose(options_of([1.0, 1.05, 2.0]), view_of(seen)).index == 1
    assert bidder.choose(options_of([1.0, 1.15, 2.0]), view_of(seen)).index == 0


def test_a_site_without_signals_offers_its_price_alone() -> None:
    bidder = ResidualBidder(NETWORK, scale=1.0, version="task/0")
    choice = bidder.choose([OPTION], view_of(Seen(4.0, features=None)))
    assert (choice.score_ratio, choice.residual_usd) == (2.0 / (TAU * 4.0), 0.0)
    unannounced = bidder.choose([OPTION], view_of(None))
    assert (unannounced.score_ratio, unannounced.residual_usd) == (0.0, 0.0)


@given(st.permutations(range(5)))
def test_the_order_of_candidates_does_not_matter(order: list[int]) -> None:
    permuted = NETWORK(ROWS[order])
    assert permuted == pytest.approx(NETWORK(ROWS)[order], abs=1e-12)


def test_a_candidate_is_judged_alike_among_few_and_many() -> None:
    many = np.concatenate([ROWS] * 4)
    assert NETWORK(many)[:5] == pytest.approx(NETWORK(ROWS[:5]), abs=1e-12)


@given(st.floats(-1e30, 1e30))
def test_no_input_drives_it_far(value: float) -> None:
    rows = np.full((1, FEATURE_COUNT), value, dtype=np.float32)
    scaled = replace(NETWORK, gain=np.full(FEATURE_COUNT, CLAMP))
    assert abs(float(scaled(rows)[0])) <= RESIDUAL_MAX
