"""The operating system's clock and randomness: the one live implementation of the seam."""

import secrets
import time

from gcos.clock import WorldScale

_UNIQUE_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: nothing looks alike


class SystemClock:
    """`gcos.clock.Clock` over the operating system."""

    def __init__(self, scale: WorldScale | None = None) -> None:
        self._scale = scale or WorldScale()

    @property
    def scale(self) -> WorldScale:
        """How world time runs against the wall."""
        return self._scale

    def protocol_s(self) -> float:
        """Return seconds of CLOCK_BOOTTIME, which counts suspended time; monotonic elsewhere."""
        boottime = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        return time.clock_gettime(boottime)

    def wall_s(self) -> float:
        """Return wall seconds since the epoch."""
        return time.time()

    def world_s(self) -> float:
        """Return world seconds since the epoch, UTC."""
        return self._scale.world_s(time.time())


def unique_text(length: int = 13) -> str:
    """Return `length` random characters of base 32 (5 bits each) for ids."""
    return "".join(secrets.choice(_UNIQUE_ALPHABET) for _ in range(length))


def token_text() -> str:
    """Return a fresh bearer token with 256 bits of randomness."""
    return secrets.token_urlsafe(32)


def sleep_blocking(seconds: float) -> None:
    """Sleep in a process without an event loop (supervisor, `gcos down`)."""
    time.sleep(seconds)
