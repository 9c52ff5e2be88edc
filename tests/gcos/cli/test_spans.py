"""Lengths of time and instants on the command line."""

import pytest

from gcos.cli.spans import since_s, span_s
from gcos.errors import InvalidRequestError
from testbed.samples import NOW_S


@pytest.mark.parametrize(
    ("text", "length_s"),
    [("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0), ("2d", 172_800.0), ("0.5s", 0.5)],
)
def test_a_length_of_time_has_a_unit(text: str, length_s: float) -> None:
    assert span_s(text, option="--timeout") == length_s


@pytest.mark.parametrize("text", ["", "10", "m", "10 m", "-1h", "0s", "1h30m", "1e3s", "٣s"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"--timeout: .*write it like 90s") as caught:
        span_s(text, option="--timeout")
    assert caught.value.field == "--timeout"


def test_since_is_a_length_before_now_or_an_instant() -> None:
    assert since_s("24h", now_s=NOW_S, option="--since") == NOW_S - 86_400
    assert since_s("2026-11-23T14:05:00Z", now_s=0.0, option="--since") == NOW_S
    assert since_s("2026-11-23T15:05+01:00", now_s=0.0, option="--since") == NOW_S


@pytest.mark.parametrize("text", ["yesterday", "2026-11-23", "2026-11-23T14:05:00", "24"])
def test_a_time_without_its_offset_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="neither a length of time nor"):
        since_s(text, now_s=NOW_S, option="--since")
