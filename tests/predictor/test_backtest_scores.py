import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.durations import LEVELS
from predictor.backtest.scores import crps_of, difference, scores_of


def test_a_point_forecast_scores_its_absolute_error_in_logarithms() -> None:
    told = np.full((1, 19), 20.0)
    assert crps_of(told, np.array([10.0])) == pytest.approx([np.log(2)])


def test_crps_of_the_right_normal_is_near_its_closed_form() -> None:
    # The CRPS of N(0, 1) against itself is 1/sqrt(pi) (Gneiting and Raftery 2007, eq. 21 averaged);
    # 19 levels leave out the tails, where losses are small.
    random = np.random.default_rng(0)
    normal = np.sort(random.normal(size=200_000))
    told = np.exp(np.tile(np.quantile(normal, LEVELS), (50_000, 1)))
    crps = crps_of(told, np.exp(random.normal(size=50_000))).mean()
    assert crps == pytest.approx(1 / np.sqrt(np.pi), rel=0.06)


@given(st.floats(0.2, 5), st.floats(-3, 3))
def test_the_truth_is_never_beaten_on_average(scale: float, shift: float) -> None:
    random = np.random.default_rng(1)
    times_s = np.exp(random.normal(size=4000))
    right = np.quantile(times_s, LEVELS)
    wrong = np.exp(np.log(right) * scale + shift)
    told = [np.tile(quantiles, (len(times_s), 1)) for quantiles in (right, wrong)]
    scores = [scores_of(t, t[:, 9], times_s) for t in told]
    assert scores[0].crps <= scores[1].crps + 1e-9
    assert scores[0].pinball10 <= scores[1].pinball10 + 1e-9
    assert scores[0].pinball90 <= scores[1].pinball90 + 1e-9


def test_coverage_width_and_frequencies_count_what_they_say() -> None:
    told = np.tile(np.linspace(1, 19, 19), (4, 1))  # q10 = 2, q50 = 10, q90 = 18
    scores = scores_of(told, np.full(4, 5.0), np.array([2.0, 18.0, 1.9, 10.0]))
    assert scores.overall.coverage == 0.75
    assert scores.overall.width_ln == pytest.approx(np.log(9))
    assert scores.q_error_median == pytest.approx(np.median([5, 1.8, 10 / 1.9, 1]))
    assert scores.typical_q_error_median == pytest.approx(np.median([2.5, 3.6, 5 / 1.9, 2]))
    assert scores.frequencies[1] == pytest.approx((1 + 0.5) / 4)
    assert len(scores.slices) == 1


def test_slices_cover_every_row_once_and_are_large_enough() -> None:
    told = np.tile(np.linspace(1, 19, 19), (2600, 1))
    slices = scores_of(told, told[:, 9], np.full(2600, 3.0)).slices
    assert [s.row_count for s in slices] == [520] * 5
    assert [s.from_row for s in slices] == [0, 520, 1040, 1560, 2080]


def test_a_difference_has_a_sign_and_an_interval() -> None:
    random = np.random.default_rng(2)
    theirs = random.gamma(2, size=5000)
    ours = 0.9 * theirs
    found = difference(ours, theirs)
    assert found.relative == pytest.approx(-0.1)
    assert found.low == pytest.approx(-0.1)
    assert found == difference(ours, theirs)
    noise = difference(random.permutation(theirs), theirs)
    assert noise.low < 0 < noise.high


def test_one_row_has_a_difference_too() -> None:
    assert difference(np.array([0.0]), np.array([0.0])).relative == -1.0
