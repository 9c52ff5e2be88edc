"""Durations and numbers as people write them lead to what documents take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.shapes import DURATION
from gcos.spellings import meant_duration, meant_number, plain


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("6 hours", "6h"),
        ("6hours", "6h"),
        ("in 90 min", "90m"),
        ("1h30m", "90m"),
        ("1 day and 2 hours", "26h"),
        ("1.5 h", "1.5h"),
        ("48 Hours", "48h"),
        ("an hour", "1h"),
        ("2 weeks", "14d"),
        ("PT6H", "6h"),
        ("P1DT2H", "26h"),
        ("06:30", "390m"),
        ("0:00:30", "30s"),
        ("tomorrow", ""),
        ("6", ""),
        ("6 months", ""),
        ("0 h", ""),
        ("hours", ""),
    ],
)
def test_a_duration_in_other_words_is_understood(text: str, meant: str) -> None:
    assert meant_duration(text) == meant
    assert not meant or DURATION.fullmatch(meant)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("10k", 1e4),
        ("2B", 2e9),
        ("2 billion", 2e9),
        ("1,000,000", 1e6),
        ("1 000 000", 1e6),
        ("5M tokens", 5e6),
        ("$5", 5.0),
        ("5 USD", 5.0),
        ("900 g", 900.0),
        ("1e9", 1e9),
        ("two", None),
        ("", None),
        ("12.5.1", None),
        ("5 apples", None),
    ],
)
def test_a_number_in_other_words_is_understood(text: str, meant: float | None) -> None:
    assert meant_number(text) == meant


@given(st.text(max_size=80))
def test_any_text_means_something_that_is_taken_or_nothing(text: str) -> None:
    meant = meant_duration(text)
    assert not meant or DURATION.fullmatch(meant) or float(meant[:-1]) > 1e6
    meant_number(text)


@given(st.integers(-(10**14), 10**14))
def test_whole_numbers_are_written_in_full(value: int) -> None:
    assert plain(value) == plain(float(value)) == str(value)
