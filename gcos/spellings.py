"""What a value that is nearly right was meant to be: durations and numbers as people write them.

Nothing is taken in these spellings; they only make the next step of a refusal concrete.
"""

import re
from typing import Final

_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_UNITS: Final = {
    spelling: unit
    for unit, spellings in {
        "s": ("s", "sec", "secs", "second", "seconds"),
        "m": ("m", "min", "mins", "minute", "minutes"),
        "h": ("h", "hr", "hrs", "hour", "hours"),
        "d": ("d", "day", "days"),
        "w": ("w", "wk", "wks", "week", "weeks"),
    }.items()
    for spelling in spellings
}
#: From how many seconds on a length is told in a unit, and what the unit is.
_WORDS: Final = (
    (2 * 365.25 * 86_400.0, 365.25 * 86_400.0, "years"),
    (2 * 86_400.0, 86_400.0, "days"),
    (2 * 3600.0, 3600.0, "h"),
    (120.0, 60.0, "min"),
)
_FILLERS: Final = re.compile(r"\b(?:in|and|within|after|about)\b|[,+]")
_PART: Final = re.compile(r"\s*(?P<count>\d{1,9}(?:\.\d{1,6})?|an?|one)\s*(?P<unit>[a-z]+)\s*")
_ISO: Final = re.compile(r"p(?:\d+d)?(?:t(?:\d+[hms])+)?")
_CLOCK: Final = re.compile(r"(\d{1,3}):([0-5]\d)(?::([0-5]\d))?")

_SCALES: Final = {
    "": 1.0,
    **dict.fromkeys(["k", "K", "thousand"], 1e3),
    **dict.fromkeys(["m", "M", "million"], 1e6),
    **dict.fromkeys(["b", "B", "bn", "G", "billion"], 1e9),
    **dict.fromkeys(["T", "trillion"], 1e12),
}
_NUMBER: Final = re.compile(
    r"[$€]?\s*(?P<digits>\d{1,18}(?:[,_ ]\d{3}){0,5}(?:\.\d{1,9})?(?:[eE]\+?\d{1,2})?)"
    r"\s*(?P<scale>[A-Za-z]{0,8}?)\s*(?:USD|usd|tokens?|GPUs?|gpus?|g|grams?|epochs?|[$€])?"
)


def meant_duration(text: str) -> str:
    """Return the duration that `text` may mean, as documents write it; empty where it means none.

    `6 hours`, `1h30m`, `PT6H`, `2 weeks` and `06:30` become `6h`, `90m`, `6h`, `14d` and `390m`.
    """
    words = text.strip().lower()[:60]
    clock = _CLOCK.fullmatch(words)
    if clock is not None:
        hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return _written(hours * 3600.0 + minutes * 60.0 + seconds)
    if _ISO.fullmatch(words):
        words = words.replace("p", "").replace("t", "")
    words = _FILLERS.sub(" ", words)
    total_s, end, units = 0.0, 0, []
    while (part := _PART.match(words, end)) is not None and part["unit"] in _UNITS:
        count = 1.0 if part["count"][0] in "ao" else float(part["count"])
        units.append(_UNITS[part["unit"]])
        total_s += count * _SECONDS[units[-1]]
        end = part.end()
    if not units or end < len(words) or total_s <= 0:
        return ""
    if len(units) == 1 and units[0] != "w":
        return f"{total_s / _SECONDS[units[0]]:g}{units[0]}"
    return _written(total_s)


def meant_number(text: str) -> float | None:
    """Return the number that `text` may mean; None where it means none.

    `10k`, `2B`, `1,000,000` and `$5` are 1e4, 2e9, 1e6 and 5.
    """
    number = _NUMBER.fullmatch(text.strip()[:60])
    if number is None or number["scale"] not in _SCALES:
        return None
    return float(re.sub("[,_ ]", "", number["digits"])) * _SCALES[number["scale"]]


def in_words(length_s: float) -> str:
    """Return a length of time as people say it, such as `90 min` or `6.9 years`."""
    for least_s, unit_s, unit in _WORDS:
        if length_s >= least_s:
            count = f"{length_s / unit_s:.1f}".removesuffix(".0")
            return f"{count} {unit}"
    return f"{length_s:.3g} s"


def plain(value: float) -> str:
    """Return a number as documents write it, without grouping."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:g}"


def _written(total_s: float) -> str:
    unit = next((u for u in "dhm" if total_s % _SECONDS[u] == 0), "s")
    return f"{total_s / _SECONDS[unit]:g}{unit}"
