"""How much of the window each source of one download may hold: as much as it delivers. Pure.

Chunks leave in order, so a source that holds more of the window than its part of the rate keeps all
others waiting for its chunks. With a tenth of the window a source ten times slower than another is
done with its part when that one is done with the rest. How fast a new one is nobody knows, so it
begins with little and may ask for more with each chunk that comes, as TCP does (slow start).
"""

from dataclasses import dataclass
from typing import Final

from gcos.artifacts import CHUNK_BYTES
from gcos.ids import SiteId

MEMORY_BYTES: Final = 48 * CHUNK_BYTES
"""Older deliveries count half each time that so much has come: rates change on the way."""

ASKED_RATIO: Final = 2 / 3
"""Part of the window that may be asked for; the rest waits for chunks before it."""

FIRST_BYTES: Final = 2 * CHUNK_BYTES
"""What one of several sources may be asked for before anything has come from it."""


@dataclass(slots=True)
class _Share:
    """Of one source.

    Attributes:
        delivered_bytes: What came from it, older bytes counting less.
        proven_bytes: What it may hold by what has come from it so far.
        asked_bytes: What it holds of the window.
    """

    delivered_bytes: float
    proven_bytes: int = FIRST_BYTES
    asked_bytes: int = 0


class SourceShares:
    """The shares of all sources that are asked."""

    def __init__(self) -> None:
        self._shares: dict[SiteId, _Share] = {}

    def join(self, source: SiteId) -> None:
        """Count a source; one that is new counts as much as the others on average."""
        if source not in self._shares:
            count = len(self._shares)
            fair_bytes = self._delivered_bytes() / count if count else FIRST_BYTES
            self._shares[source] = _Share(fair_bytes)

    def leave(self, source: SiteId) -> None:
        """Stop counting a source that failed: the others may ask for its part."""
        self._shares.pop(source, None)

    def room_bytes(self, source: SiteId, window_bytes: int) -> int:
        """Return how much more of a window a source may ask for; always a chunk where it has none.

        A source alone may ask for all of it.
        """
        if len(self._shares) == 1:
            return window_bytes
        share = self._shares[source]
        part = share.delivered_bytes / self._delivered_bytes()
        fair_bytes = min(int(part * window_bytes * ASKED_RATIO), share.proven_bytes)
        return max(fair_bytes, CHUNK_BYTES) - share.asked_bytes

    def asked(self, source: SiteId, size_bytes: int) -> None:
        """Note that a source holds `size_bytes` more; less where that is negative."""
        if source in self._shares:
            self._shares[source].asked_bytes += size_bytes

    def delivered(self, source: SiteId, size_bytes: int) -> None:
        """Note what came from a source."""
        if source not in self._shares:
            return
        self._shares[source].delivered_bytes += size_bytes
        self._shares[source].proven_bytes += size_bytes
        if self._delivered_bytes() > 2 * MEMORY_BYTES:
            for share in self._shares.values():
                share.delivered_bytes /= 2

    def _delivered_bytes(self) -> float:
        return sum(share.delivered_bytes for share in self._shares.values())
