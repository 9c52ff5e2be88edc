"""Leases: who may believe what, and until when. Pure; all instants are protocol seconds.

A lease is a *duration* D. The holder counts it from the moment it **sent** the renewal that was
answered; the origin from the moment it **answered**, which is later, and adds a margin. So, while
clock rates differ by less than `RATE_DRIFT`, the holder has stopped before the origin gives the
task away (I3):

    holder stops at    sent + D (1 - drift)
    origin moves on at answered + D (1 + drift) + margin,   answered >= sent

A lease is renewed three times in its duration, so that two renewals may be lost.
"""

from dataclasses import dataclass

from gcos.contract_net import RATE_DRIFT

LEASE_S = 30.0
RENEWALS_PER_LEASE = 3
MARGIN_RATIO = 0.1


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """Durations of a lease.

    Attributes:
        lease_s: D.
    """

    lease_s: float = LEASE_S

    @property
    def renewal_s(self) -> float:
        """Pause between two renewals."""
        return self.lease_s / RENEWALS_PER_LEASE

    @property
    def margin_s(self) -> float:
        """What the origin waits beyond the lease."""
        return self.lease_s * MARGIN_RATIO

    def holder_until_s(self, sent_s: float) -> float:
        """Return the instant at which a holder must have stopped, by its own clock."""
        return sent_s + self.lease_s * (1 - RATE_DRIFT)

    def origin_until_s(self, answered_s: float) -> float:
        """Return the instant from which the origin may give the task away, by its own clock."""
        return answered_s + self.lease_s * (1 + RATE_DRIFT) + self.margin_s
