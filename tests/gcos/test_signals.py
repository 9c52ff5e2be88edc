"""Step functions of time and typical days."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.errors import InvalidRequestError
from gcos.signals import (
    HOUR_S,
    WINDOW_HOURS_MAX,
    DayProfile,
    StepSeries,
    hour_window,
    run_integrals,
)

T0 = 1_690_000_000.0

series_values = st.lists(st.floats(-500, 1000), min_size=1, max_size=50)
instants = st.floats(-100 * HOUR_S, 200 * HOUR_S)


def series(*values: float) -> StepSeries:
    return StepSeries(T0, HOUR_S, np.array(values))


def profile() -> DayProfile:
    mean = np.arange(12 * 24, dtype=np.float64).reshape(12, 24)
    return DayProfile("DE", mean=mean, std=np.ones((12, 24)))


def epoch(*date: int) -> float:
    return datetime(*date, tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]


def test_a_value_holds_from_its_hour_to_the_next() -> None:
    prices = series(10, 20, 30)

    assert prices.at(T0) == 10
    assert prices.at(T0 + HOUR_S - 0.001) == 10
    assert prices.at(T0 + HOUR_S) == 20
    assert prices.end_s == T0 + 3 * HOUR_S


def test_the_first_value_holds_before_the_start_and_the_last_past_the_end() -> None:
    prices = series(10, 20, 30)

    assert prices.at(T0 - 1e6) == 10
    assert prices.at(T0 + 1e6) == 30
    assert prices.integral(T0 - 60, T0) == pytest.approx(600)
    assert prices.integral(prices.end_s, prices.end_s + 60) == pytest.approx(1800)
    assert prices.at(float("-inf")) == 10
    assert prices.at(float("inf")) == 30


def test_an_integral_over_partial_hours_is_exact() -> None:
    prices = series(10, -20, 30)

    # A quarter of the first hour, all of the second and half of the third.
    total = prices.integral(T0 + 0.75 * HOUR_S, T0 + 2.5 * HOUR_S)

    assert total == pytest.approx((0.25 * 10 - 20 + 0.5 * 30) * HOUR_S)
    assert prices.mean(T0 + 0.75 * HOUR_S, T0 + 2.5 * HOUR_S) == pytest.approx(-2.5 / 1.75)


def test_the_mean_over_nothing_is_the_value_there() -> None:
    assert series(10, 20).mean(T0 + HOUR_S, T0 + HOUR_S) == 20


def test_the_antiderivative_is_zero_at_the_start_and_negative_before() -> None:
    found = series(10, 20).antiderivative([T0 - 1, T0, T0 + HOUR_S, T0 + 3 * HOUR_S])

    assert found.tolist() == [-10, 0, 10 * HOUR_S, 50 * HOUR_S]


def test_a_constant_keeps_its_digits_far_from_the_epoch() -> None:
    # From differences of the antiderivative, 1.7e9 s away, this would be off by 1e-7 and more.
    assert StepSeries.constant(400.1).integral(T0, T0 + 1) == 400.1
    found = run_integrals([StepSeries.constant(400.1)], np.array([T0]), np.array([1.0]))
    assert found.tolist() == [[[400.1]]]


@given(series_values, instants, instants, instants)
def test_integrals_add_up_over_time(values: list[float], a: float, b: float, c: float) -> None:
    s = series(*values)
    a, b, c = (T0 + t for t in (a, b, c))

    whole = s.integral(a, c)

    assert s.integral(a, b) + s.integral(b, c) == pytest.approx(whole, abs=1e-2)
    assert s.integral(c, a) == pytest.approx(-whole, abs=1e-2)


@given(series_values, instants, instants)
def test_every_form_of_the_integral_agrees(values: list[float], a: float, b: float) -> None:
    s = series(*values)
    a, b = T0 + a, T0 + b

    found = s.integral(a, b)

    assert float(np.diff(s.antiderivative([a, b]))[0]) == pytest.approx(found, abs=1e-2)


@given(
    series_values,
    st.lists(instants, min_size=1, max_size=3),
    st.lists(instants, min_size=1, max_size=3),
)
def test_integrals_of_many_runs_are_those_of_each(
    values: list[float], after_s: list[float], durations_s: list[float]
) -> None:
    several = [series(*values), series(*reversed(values))]
    starts_s = [T0 + t for t in after_s]

    found = run_integrals(several, np.array(starts_s), np.array(durations_s))

    assert found.tolist() == [
        [[s.integral(a, a + d) for d in durations_s] for a in starts_s] for s in several
    ]


@given(series_values, instants)
def test_the_mean_lies_between_the_values(values: list[float], length: float) -> None:
    s = series(*values)

    assert min(values) - 1e-6 <= s.mean(T0, T0 + abs(length) + 1) <= max(values) + 1e-6


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")], [[1.0]]])
def test_a_series_without_sound_values_is_refused(values: list[float]) -> None:
    with pytest.raises(InvalidRequestError):
        StepSeries(T0, HOUR_S, np.array(values))


@pytest.mark.parametrize(("start_s", "step_s"), [(T0, 0.0), (T0, -1.0), (float("nan"), 1.0)])
def test_a_series_without_a_sound_grid_is_refused(start_s: float, step_s: float) -> None:
    with pytest.raises(InvalidRequestError):
        StepSeries(start_s, step_s, np.ones(3))


def test_a_series_does_not_change_with_the_array_it_was_made_from() -> None:
    values = np.array([1.0, 2.0])
    s = StepSeries(T0, HOUR_S, values)

    values[0] = 99

    assert s.at(T0) == 1
    with pytest.raises(ValueError, match="read-only"):
        s.values[0] = 99


def test_each_hour_of_a_profile_takes_its_utc_month_and_hour() -> None:
    s = profile().series(epoch(2024, 2, 29, 22, 30), epoch(2024, 3, 1, 1))

    assert s.start_s == epoch(2024, 2, 29, 22)
    assert s.values.tolist() == [24 + 22, 24 + 23, 48 + 0]


def test_a_profile_crosses_the_year() -> None:
    s = profile().series(epoch(2023, 12, 31, 23), epoch(2024, 1, 1, 1))

    assert s.values.tolist() == [11 * 24 + 23, 0]


def test_a_profile_knows_hours_before_the_epoch() -> None:
    assert profile().series(-1.0, 0.0).values.tolist() == [11 * 24 + 23]


def test_an_instant_is_covered_by_one_hour() -> None:
    assert hour_window(T0, T0) == (469444, 469445)
    assert hour_window(7200.0, 7200.0) == (2, 3)


@pytest.mark.parametrize(
    ("start_s", "end_s"),
    [(T0, T0 - 1), (float("nan"), T0), (T0, float("inf")), (0, (WINDOW_HOURS_MAX + 1) * HOUR_S)],
)
def test_a_window_without_sound_ends_is_refused(start_s: float, end_s: float) -> None:
    with pytest.raises(InvalidRequestError):
        hour_window(start_s, end_s)


def test_a_profile_is_twelve_days() -> None:
    with pytest.raises(InvalidRequestError, match="12 x 24"):
        DayProfile("DE", mean=np.zeros((12, 23)), std=np.zeros((12, 24)))
