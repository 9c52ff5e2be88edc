"""What to keep when a cache is full. Pure; each evictor belongs to one cache.

    lru     last use                                                          the default of disks
    lfu     uses since it arrived
    gdsf    L + uses x refetch cost / size,  L = worth of the last victim     Cherkasova, HPL-98-69
    value   (own rate + 0.1 x rate elsewhere) x refetch cost / size           DESIGN section 7 D
    belady  next use anywhere, which only an evaluation knows                 Belady 1966

`value` is what a byte of the copy is expected to save an hour: uses here, and a tenth of those
elsewhere, which may come here, times the price of bringing it again. Its own rate is the mean of
estimates over an hour to three weeks (`site_agent.demand`): one time constant alone either forgets
what is used once a day or keeps what was used much last week (testbed/bench/evictions.py).
"""

from collections.abc import Callable, Mapping
from typing import Final

from gcos.errors import InvalidRequestError
from gcos.ids import ArtifactId
from policies.interface import CachedItem, Evictor

#: Time constant with which uses are forgotten in `CachedItem.demand` and `.elsewhere`, h.
DEMAND_H: Final = 72.0
#: Weight of uses elsewhere beside own ones.
ELSEWHERE_WEIGHT: Final = 0.1


class Lru:
    """Keeps what was used last."""

    name = "lru"

    def mark(self) -> float:
        """Return what to remember with an item that is used now."""
        return 0.0

    def worth(self, item: CachedItem) -> float:
        """Return what keeping `item` is worth; the least goes first."""
        return item.last_used_s

    def evicted(self, worth: float) -> None:
        """Take note that an item of this worth went."""


class Lfu(Lru):
    """Keeps what was used most since it arrived."""

    name = "lfu"

    def worth(self, item: CachedItem) -> float:
        """Return what keeping `item` is worth; the least goes first."""
        return float(item.use_count)


class Value(Lru):
    """Keeps what is expected to save most a byte."""

    name = "value"

    def worth(self, item: CachedItem) -> float:
        """Return what keeping `item` is worth, $ a byte and hour; the least goes first."""
        rate_per_h = item.rate_per_h + ELSEWHERE_WEIGHT * item.elsewhere / DEMAND_H
        return rate_per_h * item.refetch_usd / item.size_bytes


class Gdsf(Lru):
    """Greedy-Dual-Size-Frequency: frequency and price a byte, aged by what was evicted."""

    name = "gdsf"

    def __init__(self) -> None:
        self._inflation = 0.0

    def mark(self) -> float:
        """Return what to remember with an item that is used now."""
        return self._inflation

    def worth(self, item: CachedItem) -> float:
        """Return what keeping `item` is worth; the least goes first."""
        uses = max(1, item.use_count)
        return item.mark + uses * item.refetch_usd / item.size_bytes

    def evicted(self, worth: float) -> None:
        """Take note that an item of this worth went."""
        self._inflation = max(self._inflation, worth)


class Belady(Lru):
    """Knows the future: what is used again last goes first. A yardstick of evaluations.

    Which site a request will come to depends on what is placed where, evictions included, so no
    site has a future of its own to know. Therefore the artifact goes first whose next use anywhere
    in the true trace lies farthest in the future; one that is never used again goes before all
    others. With sizes and prices that differ, and requests that may go elsewhere, this bounds
    nothing: it says what knowing the order of uses is worth. (L. A. Belady, IBM Systems Journal
    5(2), 1966, algorithm MIN.)

    Args:
        next_use_s: Returns the instant of an artifact's next use, infinite where there is none.
    """

    name = "belady"

    def __init__(self, next_use_s: Callable[[ArtifactId], float]) -> None:
        self._next_use_s = next_use_s

    def worth(self, item: CachedItem) -> float:
        """Return what keeping `item` is worth; the least goes first."""
        return -self._next_use_s(item.artifact_id)


def expected_saving_usd(item: CachedItem) -> float:
    """Return the J that a copy has been saving, decayed as its demand is."""
    return (item.demand + ELSEWHERE_WEIGHT * item.elsewhere) * item.refetch_usd


EVICTORS: Final[Mapping[str, Callable[[], Evictor]]] = {
    "value": Value,
    "lru": Lru,
    "lfu": Lfu,
    "gdsf": Gdsf,
}

DEFAULT: Final = "value"

CLAIRVOYANT: Final = frozenset({Belady.name})
"""Evictors that know the future: evaluations alone can make them."""


def evictor_named(name: str, *, field: str = "eviction") -> Callable[[], Evictor]:
    """Return what makes evictors of that name.

    Raises:
        InvalidRequestError: There is none, or it knows the future; the hint names those there are.
    """
    if name in CLAIRVOYANT:
        raise InvalidRequestError(
            f"{name} knows the future: only evaluations run it",
            field=field,
            hint=f"one of {', '.join(EVICTORS)}",
        )
    if name not in EVICTORS:
        raise InvalidRequestError(
            f"no eviction {name!r}", field=field, hint=f"one of {', '.join(EVICTORS)}"
        )
    return EVICTORS[name]
