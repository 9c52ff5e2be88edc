"""The seam for time. Cores receive seconds; shells receive a `Clock`; nobody else reads one.

Two axes (DESIGN section 4). *Protocol time* is real and monotonic and counts suspended time:
leases, timeouts, renewals. *World time* is UTC seconds since the epoch and may run faster than the
wall in a demo or testbed: signals, deadlines, run durations, the ledger.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class WorldScale:
    """An affine map from wall seconds to world seconds, the same for every process of a cluster."""

    #: World seconds per wall second; 1 outside demos and testbeds.
    speed: float = 1.0
    #: A wall instant (seconds since the epoch) ...
    wall_anchor_s: float = 0.0
    #: ... and the world instant that it stands for.
    world_anchor_s: float = 0.0

    def world_s(self, wall_s: float) -> float:
        """Return the world instant of a wall instant, both in seconds since the epoch."""
        return self.world_anchor_s + (wall_s - self.wall_anchor_s) * self.speed

    def wall_s(self, world_s: float) -> float:
        """Return the wall instant of a world instant, both in seconds since the epoch."""
        return self.wall_anchor_s + (world_s - self.world_anchor_s) / self.speed


class Clock(Protocol):
    """What a shell may ask about time."""

    @property
    def scale(self) -> WorldScale:
        """How world time runs against the wall."""

    def protocol_s(self) -> float:
        """Return monotonic seconds that go on during suspension; comparable on one host only."""

    def wall_s(self) -> float:
        """Return wall seconds since the epoch."""

    def world_s(self) -> float:
        """Return world seconds since the epoch, UTC."""
