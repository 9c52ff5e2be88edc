"""Lengths of time and instants as they are given on the command line. Pure."""

import re
from datetime import datetime
from typing import Final

from gcos.errors import InvalidRequestError

_SPAN: Final = re.compile(r"(?P<count>[0-9]{1,9}(\.[0-9]{1,6})?)(?P<unit>[smhd])")
_UNIT_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def span_s(text: str, *, option: str) -> float:
    """Return the seconds of a length of time such as `90s`, `10m`, `1.5h` or `2d`.

    Raises:
        InvalidRequestError: It is none, or it is 0.
    """
    length_s = _span_s(text)
    if not length_s:
        raise InvalidRequestError(
            f"{option}: {text[:60]!r} is no length of time",
            field=option,
            hint="write it like 90s, 10m, 1.5h or 2d",
        )
    return length_s


def since_s(text: str, *, now_s: float, option: str) -> float:
    """Return the world instant that lies a length of time ago, or that a time stamp names.

    Raises:
        InvalidRequestError: It is neither.
    """
    length_s = _span_s(text)
    if length_s is not None:
        return now_s - length_s
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        stamp = None
    if stamp is None or stamp.tzinfo is None:
        raise InvalidRequestError(
            f"{option}: {text[:60]!r} is neither a length of time nor a time with its offset",
            field=option,
            hint="write it like 24h, or like 2026-11-23T14:05:00Z",
        )
    return stamp.timestamp()


def _span_s(text: str) -> float | None:
    match = _SPAN.fullmatch(text)
    return None if match is None else float(match["count"]) * _UNIT_S[match["unit"]]
