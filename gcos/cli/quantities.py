"""How numbers are written for people. Pure."""

from datetime import UTC, datetime
from typing import Final

MINUTE_S: Final = 60.0
HOUR_S: Final = 3600.0
DAY_S: Final = 86_400.0
NOTHING: Final = "-"

_BYTE_UNITS: Final = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
#: Name and length of a unit, and the least duration that is told in it.
_DURATION_UNITS: Final = (
    ("d", DAY_S, 2 * DAY_S),
    ("h", HOUR_S, 1.5 * HOUR_S),
    ("min", MINUTE_S, 1.5 * MINUTE_S),
)


def instant(time_s: float | None, now_s: float) -> str:
    """Return a world instant as `11-23 14:05Z, in 2 h`; `-` where there is none."""
    if time_s is None:
        return NOTHING
    return f"{clock(time_s)}, {relative(time_s, now_s)}"


def clock(time_s: float) -> str:
    """Return a world instant as `11-23 14:05Z`."""
    return f"{datetime.fromtimestamp(time_s, UTC):%m-%d %H:%MZ}"


def relative(time_s: float, now_s: float) -> str:
    """Return how far an instant is from now, as `in 2 h` or `5 min ago`."""
    away_s = time_s - now_s
    if abs(away_s) < 1:
        return "now"
    return f"in {duration(away_s)}" if away_s > 0 else f"{duration(-away_s)} ago"


def duration(length_s: float | None) -> str:
    """Return a length of time with two digits or so, such as `42 s` or `2.5 h`; `-` for none."""
    if length_s is None:
        return NOTHING
    for unit, unit_s, least_s in _DURATION_UNITS:
        if length_s >= least_s:
            return f"{_short(length_s / unit_s)} {unit}"
    return f"{_short(length_s)} s"


def counted(count: int, noun: str) -> str:
    """Return a number of things, such as `1 task` or `2 tasks`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def interval(low_s: float, high_s: float) -> str:
    """Return two lengths of time, rounded in the unit of the higher one, such as `0.5-2.5 h`."""
    (low, high), unit = in_one_unit(low_s, high_s, like_s=high_s)
    return f"{span(low, high)} {unit}"


def in_one_unit(*lengths_s: float, like_s: float) -> tuple[tuple[str, ...], str]:
    """Return lengths of time as numbers in the unit that `like_s` is told in, and that unit."""
    _, _, unit = duration(like_s).partition(" ")
    unit_s = next((length_s for name, length_s, _ in _DURATION_UNITS if name == unit), 1.0)
    return tuple(_short(length_s / unit_s) for length_s in lengths_s), unit


def span(low: str, high: str) -> str:
    """Return two numbers as `2-3`, or as one where they read alike."""
    return high if low == high else f"{low}-{high}"


def bar(ratio: float, width: int = 10) -> str:
    """Return a bar of `width` characters that is full at 1."""
    full_count = int(min(max(ratio, 0.0), 1.0) * width)
    return "█" * full_count + "░" * (width - full_count)


def size(size_bytes: float) -> str:
    """Return a number of bytes in units of 1000, such as `1.5 GB`."""
    for unit, unit_bytes in _BYTE_UNITS:
        if size_bytes >= unit_bytes:
            return f"{_short(size_bytes / unit_bytes)} {unit}"
    return f"{size_bytes:.0f} B"


def gigabytes(size_bytes: int) -> str:
    """Return a number of bytes in GB of 1e9 bytes, without the unit."""
    return significant(size_bytes / 1e9)


def significant(value: float) -> str:
    """Return `value` with three significant digits, never as a power of ten.

    What is below 0.000001 is shown as 0.
    """
    if abs(value) >= 100:
        return f"{value:.0f}"
    for decimals, least in ((1, 10), (2, 1), (3, 0.1), (4, 0.01), (5, 0.001)):
        if abs(value) >= least:
            return f"{value:.{decimals}f}"
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return "0" if text in {"0", "-0"} else text


def percentage(ratio: float) -> str:
    """Return a ratio as per cent; only certainty is shown as 0 or 100."""
    if 0 < ratio < 0.001:
        return "<0.1"
    if 0.999 < ratio < 1:
        return ">99.9"
    return f"{100 * ratio:.1f}".removesuffix(".0")


def printable(text: str) -> str:
    """Return `text` on one line and without control characters, which could drive a terminal."""
    return "".join(ch if ch.isprintable() else " " for ch in text)


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0") if value < 10 else f"{value:.0f}"
