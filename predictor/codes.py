"""Keys as numbers that trees can split on: of a name, its rank among those of fitted rows. Pure.

What a name lately said (`histories`) moves with every run; its rank stands still between refits, so
that trees can tell names apart. A name that is new since the fit has rank 0, and its history.
"""

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np

from predictor.records import Floats, Row, Singles

#: What trees see in place of an unknown number; far from what anyone measures.
UNKNOWN_NUMBER = -1e9
NUMBER_MAX = 1e30

#: Names of a column that have a rank of their own.
NAME_COUNT_MAX = 250


def frequent_names(rows: Iterable[Row]) -> tuple[tuple[str, ...], ...]:
    """Return the names of each categorical key, the most frequent first."""
    counts: list[Counter[str]] = []
    for row in rows:
        counts = counts or [Counter() for _ in row.categories]
        for counter, name in zip(counts, row.categories, strict=True):
            counter[name] += 1
    return tuple(_most_frequent(counter) for counter in counts)


def _most_frequent(counter: Counter[str]) -> tuple[str, ...]:
    # Equally frequent names by name, so that the order of rows does not matter.
    return tuple(sorted(counter, key=lambda name: (-counter[name], name))[:NAME_COUNT_MAX])


class Codes:
    """Ranks of names by categorical key, from 1."""

    def __init__(self, names: tuple[tuple[str, ...], ...]) -> None:
        self._ranks = [
            {name: float(rank) for rank, name in enumerate(column, 1)} for column in names
        ]

    def of(self, row: Row) -> list[float]:
        """Return the rank of each category of `row`; 0 where it has none."""
        named = zip(self._ranks, row.categories, strict=False)
        return [ranks.get(name, 0.0) for ranks, name in named]


def seen_number(number: float) -> float:
    """Return a numeric key as trees see it."""
    if -NUMBER_MAX <= number <= NUMBER_MAX:
        return number
    return UNKNOWN_NUMBER if math.isnan(number) else math.copysign(NUMBER_MAX, number)


def seen_numbers(numbers: Floats) -> Singles:
    """Return numeric keys, of any shape, as trees see them."""
    bounded = numbers.clip(-NUMBER_MAX, NUMBER_MAX)
    bounded[np.isnan(bounded)] = UNKNOWN_NUMBER
    return bounded.astype(np.float32)
