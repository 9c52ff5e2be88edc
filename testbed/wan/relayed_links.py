"""All links of a testbed as relays, which need no rights.

For each way from one place to another a relay listens at an address of its own, which the agent at
its beginning dials in place of the other's (`routes` of its configuration). All ways over a
direction share its lane, so that they share its rate.
"""

import contextlib
from random import Random

from testbed.relay import Lane, Relay
from testbed.wan.records import Answer, LaneReading, LinkChange, WanConfig, WanLink


class RelayedLinks:
    """Lanes and relays, while the block lasts.

    Attributes:
        addresses: Where each way begins, by the places that dial and answer.
    """

    def __init__(self, config: WanConfig) -> None:
        self._config = config
        self._lanes = {
            (link.src, link.dst): Lane(
                link.bytes_per_s,
                link.delay_s,
                jitter_s=link.jitter_s,
                loss_ratio=link.loss_ratio,
                random=Random(f"{config.seed} {link.src} {link.dst}"),
            )
            for link in config.links
        }
        self.addresses: dict[tuple[str, str], str] = {}
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> "RelayedLinks":
        """Listen everywhere."""
        async with contextlib.AsyncExitStack() as stack:
            for plan in self._config.relays:
                there, back = self._lanes[plan.src, plan.dst], self._lanes[plan.dst, plan.src]
                relay = Relay(plan.target, there=there, back=back, address=plan.address)
                await stack.enter_async_context(relay)
                self.addresses[plan.src, plan.dst] = relay.address
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop."""
        await self._stack.aclose()

    async def apply(self, links: tuple[WanLink, ...], changes: tuple[LinkChange, ...]) -> None:
        """Bring the lanes to what is asked for now.

        Args:
            links: All directions, as they are with what was done to them.
            changes: Which of them are cut.
        """
        cut = {(change.src, change.dst) for change in changes if change.is_cut}
        for link in links:
            lane = self._lanes[link.src, link.dst]
            lane.delay_s = link.delay_s
            lane.rate_bytes_per_s = link.bytes_per_s
            if (link.src, link.dst) in cut:
                lane.cut()
            elif lane.is_cut:
                lane.heal()

    async def probe(self, src: str, dst: str, target: str, stack: contextlib.AsyncExitStack) -> str:
        """Return where to dial to reach `target` over a link, as long as `stack` lasts."""
        there, back = self._lanes[src, dst], self._lanes[dst, src]
        relay = await stack.enter_async_context(Relay(target, there=there, back=back))
        return relay.address

    def answer(self) -> Answer:
        """Return how late each direction was."""
        return Answer(
            lanes=tuple(
                LaneReading(src, dst, tuple(lane.lateness.counts), lane.lateness.worst_s)
                for (src, dst), lane in self._lanes.items()
            )
        )
