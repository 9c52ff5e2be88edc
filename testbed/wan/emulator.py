"""Carries the links of a testbed: `python -m testbed.wan.emulator FILE`.

Relays or the kernel carry them. Orders come as one line of JSON over TCP and must show the token;
what they change is kept in FILE, so that a restart goes on with it.
"""

import asyncio
import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol, Self

from gcos import codec
from gcos.errors import GcosError, InvalidRequestError
from gcos.process import run_until_signalled
from gcos.rpc.security import is_same_secret, read_token
from testbed.local_directory import write_whole
from testbed.timekeeping import fine_loop, keep_time
from testbed.wan.carried_links import CarriedLinks
from testbed.wan.records import (
    Answer,
    Carrier,
    LinkChange,
    Order,
    WanConfig,
    WanLink,
    as_changed,
    merged,
)
from testbed.wan.relayed_links import RelayedLinks

_ORDER_BYTES_MAX: Final = 1 << 20


class Links(Protocol):
    """What carries the links of a testbed, while its block lasts."""

    async def __aenter__(self) -> Self:
        """Begin to carry."""

    async def __aexit__(self, *_exc: object) -> None:
        """End."""

    async def apply(self, links: tuple[WanLink, ...], changes: tuple[LinkChange, ...]) -> None:
        """Bring directions to what is asked for now: `links` as changed, and what is cut."""

    async def probe(self, src: str, dst: str, target: str, stack: contextlib.AsyncExitStack) -> str:
        """Return what to dial to reach `target` over a link, as long as `stack` lasts."""

    def answer(self) -> Answer:
        """Return how well time was kept."""


class Emulator:
    """The links of a testbed, and who takes orders for them, while its block lasts.

    Args:
        path: The file with its `WanConfig`.

    Attributes:
        config: What the file says; port 0 in its own address is replaced by the one taken.
        links: What carries them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.config = codec.decode(WanConfig, path.read_bytes())
        self._token = read_token(Path(self.config.token_file))
        self.links = _links_of(self.config)
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> "Emulator":
        """Carry and listen."""
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.links)
            await self._apply()
            host, _, port = self.config.address.rpartition(":")
            server = await asyncio.start_server(
                self._serve, host, int(port), limit=_ORDER_BYTES_MAX
            )
            stack.callback(server.close)
            bound_host, bound_port = server.sockets[0].getsockname()
            self.config = replace(self.config, address=f"{bound_host}:{bound_port}")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop."""
        await self._stack.aclose()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one order; keep its probe until its sender is gone."""
        try:
            async with contextlib.AsyncExitStack() as stack:
                answer = await self._answer(await reader.readline(), stack)
                writer.write(codec.encode(answer) + b"\n")
                await writer.drain()
                if answer.address:
                    await reader.read()
        except (OSError, ValueError):
            return  # who asked is gone, or said too much
        finally:
            writer.close()

    async def _answer(self, line: bytes, stack: contextlib.AsyncExitStack) -> Answer:
        try:
            order = codec.decode(Order, line)
        except GcosError:
            return Answer(problem="this is no order")
        if not is_same_secret(order.token, self._token):
            return Answer(problem="the token is wrong")
        address = ""
        try:
            if order.changes:
                kept = merged(self.config.changes, order.changes, self.config.links)
                self.config = replace(self.config, changes=kept)
                write_whole(self._path, codec.encode(self.config))
                await self._apply()
            if order.probe is not None:
                src, dst = order.probe
                if (src, dst) not in {(link.src, link.dst) for link in self.config.links}:
                    return Answer(problem=f"there is no link from {src!r} to {dst!r}")
                address = await self.links.probe(src, dst, order.target, stack)
        except GcosError as exc:
            return Answer(problem=str(exc))
        return replace(self.links.answer(), changes=self.config.changes, address=address)

    async def _apply(self) -> None:
        """Bring the links to what the file says."""
        changes = self.config.changes
        await self.links.apply(as_changed(self.config.links, changes), changes)


def _links_of(config: WanConfig) -> Links:
    if config.carrier is Carrier.RELAY:
        return RelayedLinks(config)
    return CarriedLinks(config)


async def _run(path: Path, stopping: asyncio.Event) -> None:
    # Timers are kept better ahead of the jobs of agents.
    keep_time()
    try:
        async with Emulator(path):
            await stopping.wait()
    except OSError as exc:
        raise InvalidRequestError(f"the emulator cannot listen: {exc}") from exc


def main() -> int:
    """Carry links until SIGTERM or Ctrl-C and return the exit code."""
    path = Path(sys.argv[1])
    return run_until_signalled(
        lambda stopping: _run(path, stopping), process="wan", loop_factory=fine_loop
    )


if __name__ == "__main__":
    sys.exit(main())
