"""Holds transfers back at the links into this site, as `site_agent.links` decides."""

import asyncio

from gcos.clock import Clock
from gcos.ids import SiteId
from site_agent.links import Links, Priority


class Bell:
    """Wakes everybody who waits for a change; what to wait for, each looks up by itself."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake who waits now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_s: float | None = None) -> None:
        """Return when it rings, or after `timeout_s` protocol seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return


class Passage:
    """The right of one transfer to use the links, while it is under way."""

    def __init__(self, gate: "LinkGate", priority: Priority) -> None:
        self._gate = gate
        self._priority = priority
        gate.links.begin(priority)

    @property
    def priority(self) -> Priority:
        """Who waits for the transfer."""
        return self._priority

    def change(self, priority: Priority) -> None:
        """Go on with another priority."""
        self._gate.links.end(self._priority)
        self._gate.links.begin(priority)
        self._priority = priority
        self._gate.bell.ring()

    def end(self) -> None:
        """Let those go on that waited for this transfer."""
        self._gate.links.end(self._priority)
        self._gate.bell.ring()

    @property
    def range_bytes_max(self) -> float:
        """What one request should not exceed."""
        return self._gate.links.burst_bytes

    async def turn(self) -> None:
        """Return when no transfer is in front of this one."""
        while self._gate.links.must_yield(self._priority):
            await self._gate.bell.wait()

    async def room(self, source: SiteId, size_bytes: int) -> None:
        """Return when `size_bytes` may be asked of `source`."""
        now_s = self._gate.clock.protocol_s()
        wait_s = self._gate.links.wait_s(source, size_bytes, now_s=now_s)
        if wait_s > 0:
            await asyncio.sleep(wait_s)


class LinkGate:
    """Every link into this site; one gate for all transfers.

    Attributes:
        links: What decides.
        clock: Protocol time.
        bell: Rings when transfers that waited may go on.
    """

    def __init__(self, links: Links, clock: Clock) -> None:
        self.links = links
        self.clock = clock
        self.bell = Bell()

    def enter(self, priority: Priority) -> Passage:
        """Count a transfer in; it says itself when it ends."""
        return Passage(self, priority)
