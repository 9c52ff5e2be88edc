"""The copy plan on problems small enough to do by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.maccs.artifact_features import surroundings_of
from policies.maccs.copy_plan import (
    HORIZON_H,
    UNLEARNED,
    Caches,
    Floats,
    Ints,
    Sample,
    Settings,
    assign,
    characteristic_share,
    eviction_loss_usd,
    has_room,
    run_costs_usd,
    virtual_starts,
    weight_of,
)
from policies.maccs.copy_plan import plan_copies as plan_copies_learned

#: As in DESIGN section 7 F, but for its margin for chance.
CAREFREE = Settings(caution=0.0, fill=0.9, payback_h=HORIZON_H)


def plan_copies(
    expected: Sample, held: Caches, load: Floats, gpu_count: Ints, settings: Settings
) -> tuple[Ints, Floats]:
    """Return the copies and their scores, where nothing is learned."""
    ages = np.zeros(len(expected.start_h))
    around = surroundings_of(ages, np.ones((len(gpu_count), 48)), 168.0)
    copies, scores = plan_copies_learned(
        expected, held, load, gpu_count, settings, around, UNLEARNED
    )
    np.testing.assert_array_equal(scores[:, 0], scores[:, 1])
    return copies, scores[:, 0]


def sample(serve_usd: list[list[float]], *, gpus: float = 1.0, weight: float = 1.0) -> Sample:
    """Return tasks that all need model 0 and data set 1, an hour each, from hour 0 on."""
    serve = np.array(serve_usd)
    count, _ = serve.shape
    return Sample(
        start_h=np.zeros(count),
        gpu_count=np.full(count, gpus),
        artifacts=np.tile(np.array([0, 1]), (count, 1)),
        run_h=np.ones_like(serve),
        serve_usd=serve,
        crowded_usd=np.full_like(serve, 100.0),
        weight=weight,
    )


def caches(
    *,
    price: float = 4.0,
    free_gb: float = 100.0,
    victim_uses: float = 0.0,
) -> Caches:
    """Return two sites: site 0 holds model 0 and data set 1, site 1 the data set and model 2."""
    held = np.array([[True, False], [True, True], [False, True]])
    x = np.where(held, 0.0, price)
    return Caches(
        is_held=held,
        price_usd=x,
        between_usd=np.array([[0.0, 0.1], [0.1, 0.0]]),
        size_gb=np.array([40.0, 40.0, 40.0]),
        kind=np.array([0, 1, 0]),
        free_gb=np.full((2, 2), free_gb),
        capacity_gb=np.full((2, 2), 100.0),
        is_evictable=np.array([[False, False], [False, False], [False, True]]),
        refetch_usd=np.full((3, 2), price),
        uses=np.array([[0.0, 0.0], [0.0, 0.0], [0.0, victim_uses]]),
        stay=np.ones((2, 2)),
    )


def load(hours: int = 72) -> np.ndarray:
    return np.zeros((2, hours))


def test_a_copy_is_brought_where_it_saves_more_than_it_costs() -> None:
    # Ten tasks at 3 $ where the model is, 1 $ where it is not, beside a copy at 4 $.
    copies, scores = plan_copies(
        sample([[3.0, 1.0]] * 10), caches(), load(), np.array([50, 50]), CAREFREE
    )
    assert copies.tolist() == [[0, 1]]
    # All ten stay at site 0 for 3 $, as a copy for one alone costs 5: 10 x (3 - 1) - 4.
    assert scores.tolist() == [pytest.approx(16.0)]


def test_one_task_does_not_pay_for_a_copy() -> None:
    copies, _ = plan_copies(sample([[3.0, 1.0]]), caches(), load(), np.array([9, 9]), CAREFREE)
    assert len(copies) == 0


def test_a_task_remembered_may_stand_for_two() -> None:
    _, scores = plan_copies(
        sample([[3.0, 1.0]] * 3, weight=2.0), caches(), load(), np.array([9, 9]), CAREFREE
    )
    assert scores.tolist() == [pytest.approx(6 * 2.0 - 4.0)]


def test_caution_asks_for_more_where_few_large_savings_carry_the_sum() -> None:
    expected = sample([[3.0, 1.0]] * 3)
    _, calm = plan_copies(expected, caches(free_gb=0.0), load(), np.array([9, 9]), CAREFREE)
    _, wary = plan_copies(
        expected, caches(free_gb=0.0), load(), np.array([9, 9]), CAREFREE._replace(caution=0.3)
    )
    assert calm[0] - wary[0] == pytest.approx(0.3 * math.sqrt(3 * 2.0**2))


def test_a_full_site_draws_no_tasks() -> None:
    busy = load()
    busy[1] = 9.0
    copies, _ = plan_copies(sample([[3.0, 1.0]] * 10), caches(), busy, np.array([50, 10]), CAREFREE)
    assert len(copies) == 0


def test_a_site_with_room_for_some_draws_only_those() -> None:
    copies, scores = plan_copies(
        sample([[3.0, 1.0]] * 10, gpus=2.0), caches(), load(), np.array([50, 10]), CAREFREE
    )
    # Savings are judged one by one before the copy; tasks then move until 9 GPUs are planned.
    assert copies.tolist() == [[0, 1]]
    assert scores[0] == pytest.approx(16.0)


def test_what_would_be_evicted_is_part_of_the_price() -> None:
    free = caches(free_gb=0.0)
    used = caches(free_gb=0.0, victim_uses=50.0)
    assert eviction_loss_usd(free, 0, 1) == 0.0
    assert eviction_loss_usd(used, 0, 1) == pytest.approx(4.0)
    _, scores = plan_copies(sample([[3.0, 1.0]] * 10), used, load(), np.array([50, 50]), CAREFREE)
    assert scores.tolist() == [pytest.approx(12.0)]


def test_nothing_is_brought_where_nothing_can_go() -> None:
    full = caches(free_gb=0.0)
    full.is_evictable[:] = False
    copies, _ = plan_copies(sample([[3.0, 1.0]] * 10), full, load(), np.array([50, 50]), CAREFREE)
    assert len(copies) == 0


def test_tasks_go_where_they_are_cheapest_and_spill_over_when_it_is_full() -> None:
    site_of, cost_usd = assign(
        sample([[1.0, 2.0]] * 3, gpus=4.0), caches(price=0.5), load(), np.array([8.0, 8.0])
    )
    assert site_of.tolist() == [0, 0, 1]
    assert cost_usd.tolist() == [1.0, 1.0, 2.5]


@given(arrivals=st.lists(st.floats(-168.0, -1e-6), min_size=1), spread=st.integers(0, 10**6))
def test_remembered_tasks_come_again_at_their_hour_within_the_horizon(
    arrivals: list[float], spread: int
) -> None:
    arrival_h = np.array(arrivals)
    starts = virtual_starts(arrival_h, np.full(len(arrivals), spread))
    assert (starts >= 0.0).all()
    assert (starts < HORIZON_H).all()
    days = (starts - arrival_h) / 24.0
    assert days == pytest.approx(np.round(days), abs=1e-9)


def test_a_memory_of_one_week_counts_each_task_for_two_days_of_seven() -> None:
    assert weight_of(1000.0) == pytest.approx(48.0 / 168.0)
    assert weight_of(96.0) == pytest.approx(0.5)
    assert weight_of(0.0) == 2.0


@given(
    rates=st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=30),
    start=st.floats(0.0, 40.0),
    length=st.floats(0.0, 40.0),
)
def test_a_run_costs_the_integral_of_its_hours(
    rates: list[float], start: float, length: float
) -> None:
    hours = np.linspace(start, start + length, 20_001)
    middles = (hours[1:] + hours[:-1]) / 2
    steps = np.array(rates)[np.minimum(middles.astype(int), len(rates) - 1)]
    expected = float((steps * np.diff(hours)).sum())
    got = run_costs_usd(np.array(rates), np.array([start]), np.array([length]))[0]
    assert got == pytest.approx(expected, abs=5e-3 * max(1.0, length))


def test_a_saving_that_goes_on_for_longer_counts_that_much_more() -> None:
    expected = sample([[3.0, 1.0]] * 10)
    _, once = plan_copies(expected, caches(), load(), np.array([50, 50]), CAREFREE)
    longer = CAREFREE._replace(payback_h=2 * HORIZON_H)
    _, twice = plan_copies(expected, caches(), load(), np.array([50, 50]), longer)
    assert twice[0] + 4.0 == pytest.approx(2 * (once[0] + 4.0))


def test_a_copy_in_a_cache_that_turns_over_soon_is_worth_less() -> None:
    assert characteristic_share(100.0, 0.0) == 1.0
    assert characteristic_share(960.0, 10.0) == pytest.approx(1 - math.exp(-1.0))


def test_a_task_that_stands_for_more_than_a_site_fits_one_that_is_idle() -> None:
    load = np.zeros(4)
    assert has_room(load, 0.0, 2.0, 4.0, 1.8)
    load[1] = 0.1
    assert not has_room(load, 0.0, 2.0, 4.0, 1.8)
    assert has_room(load, 2.0, 2.0, 4.0, 1.8)
