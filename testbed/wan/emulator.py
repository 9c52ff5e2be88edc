"""Carries all links of a testbed on loopback: `python -m testbed.wan.emulator FILE`.

For each way from one place to another it listens at an address of its own, which the agent at its
beginning dials in place of the other's (`routes` of its configuration). All ways over a direction
share its lane, so that they share its rate. Orders come as one line of JSON over TCP and must show
the token; what they change is kept in FILE, so that a restart goes on with it.
"""

import asyncio
import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Final

from gcos import codec
from gcos.errors import GcosError, InvalidRequestError
from gcos.process import run_until_signalled
from gcos.rpc.security import is_same_secret, read_token
from testbed.local_directory import write_whole
from testbed.relay import Lane, Relay
from testbed.wan.records import Answer, LaneReading, Order, WanConfig, merged

_ORDER_BYTES_MAX: Final = 1 << 20
_NICENESS: Final = -10


class Emulator:
    """All lanes and relays of a testbed, while its block lasts.

    Args:
        path: The file with its `WanConfig`.

    Attributes:
        config: What the file says; port 0 in its own address is replaced by the one taken.
        addresses: Where each way begins, by the places that dial and answer.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.config = codec.decode(WanConfig, path.read_bytes())
        self._token = read_token(Path(self.config.token_file))
        self._lanes = {
            (link.src, link.dst): Lane(
                link.bytes_per_s,
                link.delay_s,
                jitter_s=link.jitter_s,
                loss_ratio=link.loss_ratio,
                random=Random(f"{self.config.seed} {link.src} {link.dst}"),
            )
            for link in self.config.links
        }
        self.addresses: dict[tuple[str, str], str] = {}
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> "Emulator":
        """Listen everywhere."""
        self._apply()
        async with contextlib.AsyncExitStack() as stack:
            for plan in self.config.relays:
                there, back = self._lanes[plan.src, plan.dst], self._lanes[plan.dst, plan.src]
                relay = Relay(plan.target, there=there, back=back, address=plan.address)
                await stack.enter_async_context(relay)
                self.addresses[plan.src, plan.dst] = relay.address
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
                self._apply()
            if order.probe is not None:
                src, dst = order.probe
                if (src, dst) not in self._lanes:
                    return Answer(problem=f"there is no link from {src!r} to {dst!r}")
                there, back = self._lanes[src, dst], self._lanes[dst, src]
                relay = await stack.enter_async_context(Relay(order.target, there=there, back=back))
                address = relay.address
        except GcosError as exc:
            return Answer(problem=str(exc))
        lanes = tuple(
            LaneReading(src, dst, tuple(lane.lateness.counts), lane.lateness.worst_s)
            for (src, dst), lane in self._lanes.items()
        )
        return Answer(changes=self.config.changes, lanes=lanes, address=address)

    def _apply(self) -> None:
        """Bring the lanes to what the file says."""
        changes = {(change.src, change.dst): change for change in self.config.changes}
        for link in self.config.links:
            lane = self._lanes[link.src, link.dst]
            change = changes.get((link.src, link.dst))
            factor = 1.0 if change is None else change.factor
            lane.delay_s = link.delay_s * factor
            lane.rate_bytes_per_s = link.bytes_per_s / factor
            if change is not None and change.is_cut:
                lane.cut()
            elif lane.is_cut:
                lane.heal()


async def _run(path: Path, stopping: asyncio.Event) -> None:
    # Timers are kept better ahead of the jobs of agents; who may not ask for that goes on without.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    try:
        async with Emulator(path):
            await stopping.wait()
    except OSError as exc:
        raise InvalidRequestError(f"the emulator cannot listen: {exc}") from exc


def main() -> int:
    """Carry links until SIGTERM or Ctrl-C and return the exit code."""
    path = Path(sys.argv[1])
    return run_until_signalled(lambda stopping: _run(path, stopping), process="wan")


if __name__ == "__main__":
    sys.exit(main())
