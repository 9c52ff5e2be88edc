"""Numbers as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.cli.quantities import (
    bar,
    duration,
    gigabytes,
    in_one_unit,
    instant,
    interval,
    percentage,
    printable,
    significant,
    size,
)
from testbed.samples import NOW_S


@pytest.mark.parametrize(
    ("away_s", "text"),
    [
        (0, "11-23 14:05Z, now"),
        (7200, "11-23 16:05Z, in 2 h"),
        (-90, "11-23 14:03Z, 1.5 min ago"),
        (86_400 * 3, "11-26 14:05Z, in 3 d"),
    ],
)
def test_instants_are_told_in_utc_and_from_now(away_s: float, text: str) -> None:
    assert instant(NOW_S + away_s, NOW_S) == text


def test_what_has_no_instant_is_a_dash() -> None:
    assert (instant(None, NOW_S), duration(None)) == ("-", "-")


@pytest.mark.parametrize(
    ("length_s", "text"),
    [
        *[(0, "0 s"), (0.25, "0.2 s"), (42, "42 s"), (89, "89 s"), (90, "1.5 min")],
        *[(3600, "60 min"), (5400, "1.5 h"), (86_400, "24 h"), (172_800, "2 d")],
    ],
)
def test_durations_have_two_digits_or_so(length_s: float, text: str) -> None:
    assert duration(length_s) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2 MB"), (1_234_000_000, "1.2 GB")],
)
def test_sizes_are_in_units_of_1000(size_bytes: int, text: str) -> None:
    assert size(size_bytes) == text
    assert gigabytes(1_234_000_000) == "1.23"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0, "0"), (1234.5, "1234"), (12.345, "12.3"), (1.2345, "1.23"), (0.12345, "0.123")],
        *[(0.0012345, "0.00123"), (0.00012345, "0.000123"), (1e-9, "0"), (-0.5, "-0.500")],
    ],
)
def test_three_digits_are_significant(value: float, text: str) -> None:
    assert significant(value) == text


@given(st.floats(-1e9, 1e9))
def test_no_number_is_shown_as_a_power_of_ten(value: float) -> None:
    text = significant(value)
    assert "e" not in text
    assert float(text) == pytest.approx(value, rel=0.006, abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(0, "0"), (1, "100"), (0.5, "50"), (0.9595, "96"), (0.0004, "<0.1"), (0.9996, ">99.9")],
)
def test_only_certainty_is_shown_as_0_or_100_percent(ratio: float, text: str) -> None:
    assert percentage(ratio) == text


@given(st.text())
def test_nothing_that_is_shown_can_drive_a_terminal(text: str) -> None:
    assert printable(text + "\x1b[31m\n").isprintable()


@pytest.mark.parametrize(
    ("low_s", "high_s", "text"),
    [
        (1800, 9000, "0.5-2.5 h"),
        (3600, 5300, "60-88 min"),
        (1, 800, "0-13 min"),
        (5, 5, "5 s"),
        (40, 80, "40-80 s"),
    ],
)
def test_an_interval_is_told_in_the_unit_of_its_end(low_s: float, high_s: float, text: str) -> None:
    assert interval(low_s, high_s) == text


def test_lengths_that_are_compared_have_one_unit() -> None:
    assert in_one_unit(0.4, 90.0, 7200.0, like_s=180.0) == (("0", "1.5", "120"), "min")
    assert in_one_unit(5.0, 7.25, like_s=7.25) == (("5", "7.2"), "s")


@pytest.mark.parametrize(
    ("ratio", "text"), [(0, "░░░░"), (0.5, "██░░"), (0.99, "███░"), (1, "████"), (7, "████")]
)
def test_a_bar_is_full_at_one_and_not_before(ratio: float, text: str) -> None:
    assert bar(ratio, 4) == text
