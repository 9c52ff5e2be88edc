"""How late an emulated link delivers, counted in classes. Pure."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

#: Upper bounds of the classes in which lateness is counted; one more class has none.
LATENESS_BOUNDS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(slots=True)
class Lateness:
    """By how much deliveries came after their time, in classes.

    Attributes:
        counts: Deliveries of each class of `LATENESS_BOUNDS_S`, and of those beyond.
        worst_s: The latest.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENESS_BOUNDS_S) + 1))
    worst_s: float = 0.0

    def add(self, late_s: float) -> None:
        """Count a delivery."""
        self.counts[bisect_left(LATENESS_BOUNDS_S, late_s)] += 1
        self.worst_s = max(self.worst_s, late_s)


def total(parts: Iterable[Lateness]) -> Lateness:
    """Return what all of them counted together."""
    found = Lateness()
    for part in parts:
        found.counts = [a + b for a, b in zip(found.counts, part.counts, strict=True)]
        found.worst_s = max(found.worst_s, part.worst_s)
    return found
