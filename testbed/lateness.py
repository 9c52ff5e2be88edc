"""How late an emulated link delivers, counted in classes, and what is done against it. Pure."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

#: Upper bounds of the classes in which lateness is counted; one more class has none.
LATENESS_BOUNDS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

_LEAD_STEP_S: Final = 0.00002
#: The most that a delivery is early on purpose.
LEAD_S_MAX: Final = 0.002


@dataclass(slots=True)
class Lead:
    """How much before their time deliveries are made, so that as many are early as late.

    A process wakes after its timer, by about 0.1 ms and by more where cores are shared. The lead
    follows the median of that: each delivery moves it by a step, up to a limit.

    Attributes:
        lead_s: The lead now.
    """

    lead_s: float = 0.0001

    def learn(self, late_s: float) -> None:
        """Learn that a delivery came so much after its time; below 0: before it."""
        step_s = _LEAD_STEP_S if late_s > 0 else -_LEAD_STEP_S
        self.lead_s = min(max(self.lead_s + step_s, 0.0), LEAD_S_MAX)


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
        """Count a delivery; below 0: it came before its time."""
        late_s = max(late_s, 0.0)
        self.counts[bisect_left(LATENESS_BOUNDS_S, late_s)] += 1
        self.worst_s = max(self.worst_s, late_s)


def total(parts: Iterable[Lateness]) -> Lateness:
    """Return what all of them counted together."""
    found = Lateness()
    for part in parts:
        found.counts = [a + b for a, b in zip(found.counts, part.counts, strict=True)]
        found.worst_s = max(found.worst_s, part.worst_s)
    return found
