import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.statistics import Estimate, Interval, compare, estimate, is_worse

VALUES = st.floats(-1e6, 1e6, allow_nan=False)
RUNS = st.lists(st.tuples(VALUES, VALUES, st.integers(0, 5)), min_size=1, max_size=20)
LAWS = settings(max_examples=30, deadline=None)


def near(value: float, scale: float) -> object:
    return pytest.approx(value, rel=1e-9, abs=1e-9 * max(scale, 1.0))


def test_mean_and_deviation_are_those_of_a_hand_calculation() -> None:
    found = estimate([1.0, 2.0, 6.0], ["a", "b", "c"])
    assert found.mean == 3.0
    assert found.std == pytest.approx(math.sqrt(7.0))  # (4 + 1 + 9) / 2
    assert (found.count, found.block_count) == (3, 3)


def test_two_weeks_give_the_interval_of_their_three_possible_means() -> None:
    # Resamples of two weeks have the mean 0, 1 or 2 with probabilities 1/4, 1/2, 1/4.
    found = estimate([0.0, 2.0], ["a", "b"])
    assert found.interval == Interval(0.0, 2.0)
    assert found.standard_error == pytest.approx(math.sqrt(0.5), rel=0.03)


def test_the_standard_error_of_many_weeks_is_that_of_the_textbook() -> None:
    values = np.random.default_rng(1).normal(size=200).tolist()
    found = estimate(values, range(200))
    assert found.standard_error == pytest.approx(found.std / math.sqrt(200), rel=0.03)
    assert found.interval is not None
    half = 1.96 * found.std / math.sqrt(200)
    assert found.interval.low == pytest.approx(found.mean - half, abs=0.1 * half)
    assert found.interval.high == pytest.approx(found.mean + half, abs=0.1 * half)


def test_runs_of_one_week_are_no_independent_evidence() -> None:
    values = [float(week) for week in range(6) for _ in range(20)]
    weeks = [week for week in range(6) for _ in range(20)]
    blocks = estimate(values, weeks)
    as_if_independent = estimate(values, range(120))
    assert blocks.standard_error is not None
    assert as_if_independent.standard_error is not None
    assert blocks.standard_error > 3 * as_if_independent.standard_error


def test_one_week_has_no_interval() -> None:
    found = estimate([1.0, 2.0], ["a", "a"])
    assert found.interval is None
    assert found.standard_error is None


def test_a_comparison_is_made_pair_by_pair() -> None:
    found = compare([90.0, 220.0, 300.0], [100.0, 200.0, 300.0], ["a", "b", "c"])
    assert found.difference.mean == pytest.approx(10 / 3)
    assert found.relative_percent is not None
    assert found.relative_percent.mean == pytest.approx(0.0)  # -10 %, +10 %, 0 %
    assert found.win_count == 1


def test_there_is_no_percentage_of_nothing() -> None:
    found = compare([1.0, 2.0], [0.0, 2.0], ["a", "b"])
    assert found.relative_percent is None
    assert not found.is_worse


@pytest.mark.parametrize(
    ("mean", "interval", "worse"),
    [
        (1.5, Interval(0.1, 2.9), True),
        (1.5, Interval(-0.1, 3.1), False),
        (0.9, Interval(0.5, 1.3), False),
        (-3.0, Interval(-4.0, -2.0), False),
        (1.5, None, False),
    ],
)
def test_worse_is_above_one_per_cent_and_certainly_not_zero(
    mean: float, interval: Interval | None, worse: bool
) -> None:
    found = Estimate(mean, 1.0, standard_error=None, interval=interval, count=9, block_count=9)
    assert is_worse(found) is worse


@given(RUNS, VALUES)
@LAWS
def test_a_shift_of_all_values_shifts_mean_and_interval(
    runs: list[tuple[float, float, int]], shift: float
) -> None:
    values, blocks = [run[0] for run in runs], [run[2] for run in runs]
    before = estimate(values, blocks)
    after = estimate([value + shift for value in values], blocks)
    scale = max(map(abs, [*values, shift]))
    assert after.mean == near(before.mean + shift, scale)
    if len(set(blocks)) == len(blocks) > 1:  # blocks of equal weight keep their order
        assert before.interval is not None
        assert after.interval is not None
        assert after.interval.low == near(before.interval.low + shift, scale)
        assert after.interval.high == near(before.interval.high + shift, scale)


@given(RUNS, st.randoms(use_true_random=False))
@LAWS
def test_the_order_of_runs_and_the_names_of_weeks_do_not_matter(
    runs: list[tuple[float, float, int]], random: object
) -> None:
    shuffled = list(runs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first = compare([a for a, _, _ in runs], [b for _, b, _ in runs], [w for _, _, w in runs])
    again = compare(
        [a for a, _, _ in shuffled],
        [b for _, b, _ in shuffled],
        [f"week {w}" for _, _, w in shuffled],
    )
    assert again.win_count == first.win_count
    assert again.difference.mean == first.difference.mean
    assert again.difference.interval == first.difference.interval


@given(RUNS)
@LAWS
def test_swapping_the_policies_changes_the_sign(runs: list[tuple[float, float, int]]) -> None:
    a, b, weeks = zip(*runs, strict=True)
    forward, backward = compare(a, b, weeks), compare(b, a, weeks)
    scale = max(map(abs, [*a, *b]))
    assert backward.difference.mean == near(-forward.difference.mean, scale)
    ties = sum(x == y for x, y in zip(a, b, strict=True))
    assert forward.win_count + backward.win_count + ties == len(runs)
