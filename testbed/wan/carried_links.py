"""All links of a testbed as the kernel carries them, between network namespaces.

Either one emulator is at the machine, carries the links of all namespaces, and lets clients in; or
each place has an emulator of its own in its namespace, the sidecar of a container. Needs root, or
NET_ADMIN inside a container.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from random import Random
from typing import Final

from gcos.errors import UnavailableError
from testbed.relay import Lane, Relay, new_socket
from testbed.wan.kernel_links import (
    GATE_PORT,
    Command,
    KernelLink,
    Redirection,
    changed_commands,
    netem_commands,
    queue_commands,
    rate_commands,
    redirection_commands,
    removal_commands,
)
from testbed.wan.namespaces import INTERFACE, in_namespace, inside, run
from testbed.wan.nfqueue import Holding, QueueDelay, delaying, queue_socket
from testbed.wan.records import (
    Answer,
    Carrier,
    LaneReading,
    LinkChange,
    WanConfig,
    WanLink,
    WanPlace,
)

#: What lets clients in adds nothing.
_CLIENT_BYTES_PER_S: Final = 1e12


class CarriedLinks:
    """Rules, queues and gates for clients, while the block lasts; rules go with the namespaces."""

    def __init__(self, config: WanConfig) -> None:
        assert config.carrier in {Carrier.NETEM, Carrier.NFQUEUE}, "what the kernel carries with"
        self._config = config
        self._places = [
            _Place(config, place)
            for place in config.places
            if place.name == config.here or place.namespace
        ]
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> "CarriedLinks":
        """Set the rules, bind the queues and let clients in.

        Raises:
            UnavailableError: The kernel refused.
        """
        async with contextlib.AsyncExitStack() as stack:
            for place in self._places:
                await asyncio.to_thread(place.lay)
            for place in self._places:
                await stack.enter_async_context(place.serving())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Hold no packet any more, and let no client in."""
        await self._stack.aclose()

    async def apply(self, links: tuple[WanLink, ...], changes: tuple[LinkChange, ...]) -> None:
        """Bring the kernel to what is asked for now.

        Args:
            links: All directions, as they are with what was done to them.
            changes: Which of them are cut.
        """
        cut = {(change.src, change.dst) for change in changes if change.is_cut}
        by_pair = {(link.src, link.dst): link for link in links}
        for place in self._places:
            await place.apply(by_pair, cut)

    async def probe(self, src: str, dst: str, target: str, stack: contextlib.AsyncExitStack) -> str:
        """Return `target`, to which the kernel carries who dials it at `src`."""
        del src, dst, stack
        return target

    def answer(self) -> Answer:
        """Return how late each direction was; netem does not tell."""
        return Answer(
            lanes=tuple(lane for place in self._places for lane in place.lanes()),
            is_timed_by_kernel=self._config.carrier is Carrier.NETEM,
        )


class _Place:
    """One end of all links of a place: what it sends is shaped, what comes is delayed."""

    def __init__(self, config: WanConfig, place: WanPlace) -> None:
        self._place = place
        self._has_netem = config.carrier is Carrier.NETEM
        linked = {link.dst for link in config.links if link.src == place.name}
        #: Classes and queues have the number of the peer.
        self._peers = {
            number: peer
            for number, peer in enumerate(config.places, start=1)
            if peer.name in linked
        }
        self._ways = [
            Redirection(way.address, way.target) for way in config.relays if way.src == place.name
        ]
        by_pair = {(link.src, link.dst): link for link in config.links}
        self._sent = self._links(by_pair, set())
        self._holding = Holding(self._delays(by_pair, set()), Random(f"{config.seed} {place.name}"))

    def lay(self) -> None:
        """Set the rules, in place of those of an emulator before."""
        for command in removal_commands(INTERFACE):
            self._run(command, may_fail=True)
        gate = f"{self._place.address}:{GATE_PORT}"
        commands = redirection_commands(
            INTERFACE, self._place.address, gate, self._place.serving, self._ways
        )
        links = list(self._sent.values())
        if self._has_netem:
            commands += netem_commands(INTERFACE, links)
        else:
            commands += rate_commands(INTERFACE, links)
        for command in commands:
            self._run(command)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Delay what comes, and let clients in."""
        name = self._place.namespace
        async with contextlib.AsyncExitStack() as stack:
            if not self._has_netem:
                with inside(name):
                    link = stack.enter_context(queue_socket())
                try:
                    stack.enter_context(delaying(link, self._holding))
                except OSError as exc:
                    raise UnavailableError(f"no NFQUEUE at {self._place.name}: {exc}") from exc
                # Only now: a packet that is handed to a queue that nobody bound passes at once.
                for command in queue_commands(INTERFACE, list(self._sent.values())):
                    await asyncio.to_thread(self._run, command)
            if name:
                there, back = (Lane(_CLIENT_BYTES_PER_S, 0.0) for _ in range(2))
                address = self._place.serving
                made = Relay(
                    address, there=there, back=back, address=address, make_socket=made_in(name)
                )
                await stack.enter_async_context(made)
            yield

    async def apply(
        self, by_pair: dict[tuple[str, str], WanLink], cut: set[tuple[str, str]]
    ) -> None:
        """Bring the directions of this place to what is asked for now."""
        for delay in self._delays(by_pair, cut):
            self._holding.change(delay)
        asked = self._links(by_pair, cut)
        for number, link in asked.items():
            if link == self._sent[number]:
                continue
            self._sent[number] = link
            for command in changed_commands(INTERFACE, link, has_netem=self._has_netem):
                # Off the loop, which would hold packets longer than they are to be.
                await asyncio.to_thread(self._run, command)

    def lanes(self) -> Iterator[LaneReading]:
        """Yield how late what came was, by who sent it."""
        if not self._has_netem:
            for number, late in self._holding.lateness.items():
                sender = self._peers[number].name
                yield LaneReading(sender, self._place.name, tuple(late.counts), late.worst_s)

    def _links(
        self, by_pair: dict[tuple[str, str], WanLink], cut: set[tuple[str, str]]
    ) -> dict[int, KernelLink]:
        """Return the directions that begin here, by number."""
        found = {}
        for number, peer in self._peers.items():
            link = by_pair[self._place.name, peer.name]
            found[number] = KernelLink(
                peer.address,
                number=number,
                delay_s=link.delay_s,
                bytes_per_s=link.bytes_per_s,
                jitter_s=link.jitter_s,
                loss_ratio=link.loss_ratio,
                is_cut=self._has_netem and (link.src, link.dst) in cut,
            )
        return found

    def _delays(
        self, by_pair: dict[tuple[str, str], WanLink], cut: set[tuple[str, str]]
    ) -> list[QueueDelay]:
        """Return the directions that end here."""
        found = []
        for number, peer in self._peers.items():
            link = by_pair[peer.name, self._place.name]
            found.append(
                QueueDelay(
                    number,
                    link.delay_s,
                    jitter_s=link.jitter_s,
                    loss_ratio=link.loss_ratio,
                    is_cut=(link.src, link.dst) in cut,
                )
            )
        return found

    def _run(self, command: Command, *, may_fail: bool = False) -> None:
        run(in_namespace(self._place.namespace, command), may_fail=may_fail)


def made_in(namespace: str) -> Callable[[], socket.socket]:
    """Return what makes sockets of a network namespace."""

    def make() -> socket.socket:
        with inside(namespace):
            return new_socket()

    return make
