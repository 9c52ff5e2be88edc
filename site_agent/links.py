"""When a transfer may ask a link for more: caps for each link, and who yields to whom. Pure.

A link is the path from one holder to this site. The puller counts, since only it knows which bytes
somebody waits for. A run that waits makes its transfer a foreground one; copies that are made ahead
are background and ask for nothing while any foreground transfer of this site is under way: they
share the way in, and a planned copy has time.
"""

import enum
from dataclasses import dataclass, field
from typing import Final

from gcos.ids import SiteId

BURST_S: Final = 0.25
"""A link that was idle may send so many seconds' worth of its cap at once."""


class Priority(enum.Enum):
    """Who waits for a transfer."""

    FOREGROUND = "FOREGROUND"  #: a run
    BACKGROUND = "BACKGROUND"  #: nobody yet


@dataclass(slots=True)
class TokenBucket:
    """A rate that is held over any second but the first `BURST_S` after a rest.

    Attributes:
        rate_bytes_per_s: The cap.
    """

    rate_bytes_per_s: float
    #: Instant at which all that was taken will have passed at the rate.
    _paid_until_s: float = field(default=float("-inf"), init=False)

    def take(self, size_bytes: int, *, now_s: float) -> float:
        """Take `size_bytes` and return how many seconds to wait before asking for them."""
        begin_s = max(self._paid_until_s, now_s - BURST_S)
        self._paid_until_s = begin_s + size_bytes / self.rate_bytes_per_s
        return max(0.0, self._paid_until_s - now_s)


class Links:
    """The links into one site."""

    def __init__(self, cap_bytes_per_s: float) -> None:
        """Cap each link at `cap_bytes_per_s`; 0 caps none."""
        self._cap_bytes_per_s = cap_bytes_per_s
        self._buckets: dict[SiteId, TokenBucket] = {}
        self._foreground_count = 0

    @property
    def burst_bytes(self) -> float:
        """What one request should not exceed; infinite where nothing is capped."""
        return self._cap_bytes_per_s * BURST_S if self._cap_bytes_per_s else float("inf")

    def begin(self, priority: Priority) -> None:
        """Count a transfer that is under way."""
        self._foreground_count += priority is Priority.FOREGROUND

    def end(self, priority: Priority) -> None:
        """Stop counting it."""
        self._foreground_count -= priority is Priority.FOREGROUND
        assert self._foreground_count >= 0, "ended more often than begun"

    def must_yield(self, priority: Priority) -> bool:
        """Tell whether a transfer has to wait until no other is in front of it."""
        return priority is Priority.BACKGROUND and self._foreground_count > 0

    def wait_s(self, source: SiteId, size_bytes: int, *, now_s: float) -> float:
        """Take room on the link from `source`; return the seconds until it may be used."""
        if not self._cap_bytes_per_s:
            return 0.0
        bucket = self._buckets.setdefault(source, TokenBucket(self._cap_bytes_per_s))
        return bucket.take(size_bytes, now_s=now_s)
