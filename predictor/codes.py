"""Names as numbers that trees can split on: the rank of a name among those of fitted rows. Pure.

What a name lately said (`histories`) moves with every run; its rank stands still between refits, so
that trees can tell names apart. A name that is new since the fit has rank 0, and its history.
"""

from collections import Counter
from collections.abc import Iterable

from predictor.records import Row

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
