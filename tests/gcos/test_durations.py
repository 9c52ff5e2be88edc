import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gcos.durations import (
    LEVELS,
    MAX_SLOPE,
    MIN_SLOPE,
    Prediction,
    PredictionSource,
    RunTime,
    prediction_for,
)
from gcos.errors import InvalidRequestError

#: Sorted seconds, some of them equal: jumps are legal.
RUN_TIMES = st.lists(
    st.sampled_from([1e-3, 0.5, 1.0, 60.0, 61.0, 3600.0, 1e5, 1e9]) | st.floats(1e-3, 1e9),
    min_size=19,
    max_size=19,
).map(lambda values: RunTime(tuple(sorted(values))))

CONSTANT = RunTime((100.0,) * 19)


def test_the_19_levels_are_those_of_the_reply() -> None:
    assert pytest.approx([0.05 * (i + 1) for i in range(19)]) == LEVELS


@pytest.mark.parametrize(
    "values",
    [
        (1.0,) * 18,
        (1.0,) * 20,
        (2.0, *(1.0,) * 18),
        (0.0, *(1.0,) * 18),
        (*(1.0,) * 18, math.inf),
        (*(1.0,) * 18, math.nan),
        (-1.0, *(1.0,) * 18),
    ],
    ids=["too few", "too many", "decreasing", "zero", "infinite", "NaN", "negative"],
)
def test_quantiles_that_are_no_distribution_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        RunTime(values)
    assert caught.value.field == "quantiles_s"


@given(run_time=RUN_TIMES)
def test_the_19_quantiles_are_their_own_interpolation(run_time: RunTime) -> None:
    assert run_time.quantiles_at(LEVELS) == pytest.approx(run_time.quantiles_s)
    assert run_time.quantile_s(0.5) == pytest.approx(run_time.p50_s)
    assert run_time.quantile_s(0.9) == pytest.approx(run_time.p90_s)


@given(run_time=RUN_TIMES, levels=st.lists(st.floats(0, 1), min_size=2, max_size=10))
def test_a_higher_level_has_no_smaller_quantile(run_time: RunTime, levels: list[float]) -> None:
    quantiles = run_time.quantiles_at(np.array(sorted(levels)))
    assert (np.diff(quantiles) >= 0).all()


@given(run_time=RUN_TIMES, seconds=st.lists(st.floats(0, 1e10), min_size=2, max_size=10))
def test_more_time_has_no_smaller_probability(run_time: RunTime, seconds: list[float]) -> None:
    probabilities = run_time.probabilities_within(np.array(sorted(seconds)))
    assert (np.diff(probabilities) >= 0).all()
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


@given(run_time=RUN_TIMES, level=st.floats(0.001, 0.999))
def test_quantiles_and_probabilities_never_contradict_each_other(
    run_time: RunTime, level: float
) -> None:
    seconds = run_time.quantile_s(level)
    assert run_time.probability_within(seconds * (1 + 1e-9)) >= level - 1e-9
    assert run_time.probability_within(seconds * (1 - 1e-9)) <= level + 1e-9


def test_at_a_jump_the_probability_is_that_of_having_ended_by_then() -> None:
    """The run time may be known: it is then within itself, and not within any less."""
    assert CONSTANT.probability_within(100.0) == pytest.approx(0.95)
    assert CONSTANT.probability_within(100.0 - 1e-6) == pytest.approx(0.05, abs=1e-6)


def test_nothing_ends_in_no_time() -> None:
    assert CONSTANT.probability_within(0.0) == 0.0
    assert CONSTANT.probability_within(-5.0) == 0.0
    assert CONSTANT.probability_within(math.inf) == 1.0


def test_the_tails_go_on_with_the_outermost_slope() -> None:
    run_time = RunTime(tuple(math.exp(2 * level) for level in LEVELS))
    assert run_time.quantile_s(0.0) == pytest.approx(1.0)
    assert run_time.quantile_s(1.0) == pytest.approx(math.exp(2.0))


def test_a_degenerate_forecast_still_has_a_tail() -> None:
    assert CONSTANT.quantile_s(1.0) == pytest.approx(100 * math.exp(0.05 * MIN_SLOPE))
    assert CONSTANT.quantile_s(0.0) == pytest.approx(100 * math.exp(-0.05 * MIN_SLOPE))


def test_one_outlier_does_not_make_the_mean_infinite() -> None:
    run_time = RunTime((*(1.0,) * 18, 1e9))
    assert run_time.quantile_s(1.0) == pytest.approx(1e9 * math.exp(0.05 * MAX_SLOPE))
    assert run_time.mean_s <= run_time.quantile_s(1.0) / 20


@given(run_time=RUN_TIMES)
def test_the_mean_lies_within_the_distribution(run_time: RunTime) -> None:
    assert run_time.quantile_s(0.0) <= run_time.mean_s <= run_time.quantile_s(1.0)
    assert run_time.mean_s == pytest.approx(run_time.midpoints_s().mean())


def test_a_lognormal_has_its_median_and_nearly_its_mean() -> None:
    run_time = RunTime.lognormal(1000.0, 0.5)
    assert run_time.p50_s == pytest.approx(1000.0)
    assert run_time.p90_s == pytest.approx(1000.0 * math.exp(0.5 * 1.2815515655446004))
    assert run_time.mean_s == pytest.approx(1000.0 * math.exp(0.5**2 / 2), rel=0.02)


@given(run_time=RUN_TIMES, factor=st.floats(0.01, 100))
def test_scaling_scales_every_quantile_within_the_limits(run_time: RunTime, factor: float) -> None:
    scaled = run_time.scaled(factor)
    expected = np.clip(np.array(run_time.quantiles_s) * factor, 1e-3, 1e9)
    assert scaled.quantiles_s == pytest.approx(expected)


def test_before_the_start_all_of_it_remains() -> None:
    assert CONSTANT.remaining_after(0.0) is CONSTANT
    assert CONSTANT.remaining_after(-3.0) is CONSTANT


def test_what_remains_is_the_conditional_quantile_less_what_has_passed() -> None:
    run_time = RunTime.lognormal(1000.0, 0.5)
    elapsed_s = run_time.quantile_s(0.3)
    remaining = run_time.remaining_after(elapsed_s)
    assert remaining.p50_s == pytest.approx(run_time.quantile_s(0.3 + 0.5 * 0.7) - elapsed_s)


@given(run_time=RUN_TIMES, elapsed_s=st.floats(0, 1e9))
def test_what_remains_is_a_distribution_however_late_it_is(
    run_time: RunTime, elapsed_s: float
) -> None:
    remaining = run_time.remaining_after(elapsed_s)
    assert min(remaining.quantiles_s) >= min(0.01 * elapsed_s, 1e9)


def test_a_run_long_overdue_is_not_expected_to_end_at_once() -> None:
    assert CONSTANT.remaining_after(5000.0).p50_s >= 50.0


def test_predictions_are_found_by_pool_type() -> None:
    known = Prediction(pool_type="H100", run_time=CONSTANT, source=PredictionSource.PRIOR)
    assert prediction_for([known], "H100") is known
    assert prediction_for([known], "A100") is None


#: Sixteen of nineteen runs end at once, one after a minute, and the tail is long.
JUMP = RunTime(quantiles_s=(1e-3,) * 16 + (60.0, 61.0, 3558255.0))


@given(run_time=RUN_TIMES, elapsed_s=st.floats(-10, 1e9) | st.sampled_from([1e-3, 60.0, 3600.0]))
@example(run_time=JUMP, elapsed_s=60.0)
def test_the_median_of_what_remains_needs_no_distribution(
    run_time: RunTime, elapsed_s: float
) -> None:
    slow = run_time.remaining_after(elapsed_s).p50_s
    assert run_time.remaining_p50_s(elapsed_s) == pytest.approx(slow, rel=1e-9)


@given(median_s=st.floats(1.0, 1e6), sigma=st.floats(0.05, 1.5), passed=st.floats(0.001, 5.0))
def test_the_quick_median_holds_for_the_usual_shape(
    median_s: float, sigma: float, passed: float
) -> None:
    run_time = RunTime.lognormal(median_s, sigma)
    slow = run_time.remaining_after(passed * median_s).p50_s
    assert run_time.remaining_p50_s(passed * median_s) == pytest.approx(slow, rel=1e-9)
