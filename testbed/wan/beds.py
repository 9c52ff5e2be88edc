"""Testbeds as an experiment uses them: processes at this machine, or containers.

Containers have no way out, so each site gets a door: a listener at this machine's loopback whose
connections go on, through `docker exec` and a shell in the sidecar, to the agent.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from gcos.ids import SiteId
from site_agent.decisions import Decision
from testbed import local_cluster
from testbed.live.run import recorded_decisions
from testbed.local_cluster import Wishes
from testbed.local_state import ClusterOptions
from testbed.wan import cluster, docker_cluster
from testbed.wan.cluster import open_testbed
from testbed.wan.containers import ContainerPlan
from testbed.wan.control import ask, change
from testbed.wan.docker_cluster import ContainerOptions
from testbed.wan.records import (
    BROKER,
    PREDICTOR,
    Answer,
    Carrier,
    LinkChange,
    Order,
    WanLink,
)

_PIECE_BYTES: Final = 64 << 10
_CLOSE_S: Final = 10.0


def quiet(_line: str) -> None:
    """Tell nobody."""


class Bed(Protocol):
    """A testbed that comes up, is harmed and mended, and goes."""

    def up(self) -> None:
        """Start all of it; what was started is gone if that fails."""

    def down(self) -> None:
        """Remove all of it, there or not."""

    def agents(self) -> "contextlib.AbstractAsyncContextManager[Mapping[SiteId, str]]":
        """Give the address of each agent, for clients at this machine."""

    @property
    def token_file(self) -> Path:
        """The secret of the cluster."""

    async def change(self, changes: Sequence[LinkChange]) -> None:
        """Change directions."""

    async def heal(self) -> None:
        """Undo what was done to directions."""

    async def kill(self, site: str) -> None:
        """End a site's agent at once."""

    async def revive(self) -> None:
        """Start again what has ended."""

    async def answers(self) -> Sequence[Answer]:
        """Return what emulators say."""

    def decisions(self) -> Sequence[Decision]:
        """Return the bids and awards that agents have recorded, once all is down or quiet."""


class ProcessBed:
    """Processes at this machine, on loopback or in network namespaces."""

    def __init__(self, options: ClusterOptions, links: Sequence[WanLink], carrier: Carrier) -> None:
        self._options = options
        self._links = links
        self._carrier = carrier
        self._agents: Mapping[SiteId, str] = {}
        self.token_file = options.directory / "token"

    def up(self) -> None:
        """Start all of it."""
        running = cluster.up(self._options, self._links, tell=quiet, carrier=self._carrier)
        self._agents = running.agents

    def down(self) -> None:
        """Remove all of it."""
        cluster.down(self._options.directory, keep=False, tell=quiet)

    @contextlib.asynccontextmanager
    async def agents(self) -> AsyncIterator[Mapping[SiteId, str]]:
        """Give the address of each agent."""
        yield self._agents

    async def change(self, changes: Sequence[LinkChange]) -> None:
        """Change directions."""
        bed = open_testbed(self._options.directory)
        await change(bed.config, bed.token, changes)

    async def heal(self) -> None:
        """Undo what was done to directions."""
        await self.change(cluster.healed(open_testbed(self._options.directory).config.changes))

    async def kill(self, site: str) -> None:
        """End a site's agent at once."""
        await asyncio.to_thread(cluster.kill, open_testbed(self._options.directory), site)

    async def revive(self) -> None:
        """Start again what has ended."""
        # It has an event loop of its own.
        await asyncio.to_thread(local_cluster.revive, self._options.directory, Wishes(), tell=quiet)

    async def answers(self) -> Sequence[Answer]:
        """Return what the emulator says."""
        bed = open_testbed(self._options.directory)
        return (await ask(bed.config.address, Order(bed.token)),)

    def decisions(self) -> Sequence[Decision]:
        """Return the bids and awards that agents have recorded."""
        return recorded_decisions(self._options.directory, self._options.site_ids)


class ContainerBed:
    """Containers of this machine's Docker."""

    def __init__(
        self, options: ContainerOptions, zones: Mapping[str, str], links: Sequence[WanLink]
    ) -> None:
        self._options = options
        self._zones = zones
        self._links = links
        self.token_file = options.directory / BROKER / "token"

    def up(self) -> None:
        """Start all of it."""
        docker_cluster.up(self._options, self._zones, self._links, tell=quiet)

    def down(self) -> None:
        """Remove all of it."""
        docker_cluster.down(self._options.directory, tell=quiet)

    @contextlib.asynccontextmanager
    async def agents(self) -> AsyncIterator[Mapping[SiteId, str]]:
        """Give the address of each site's door."""
        plan = docker_cluster.read_plan(self._options.directory)
        async with contextlib.AsyncExitStack() as stack:
            found = {}
            for place in plan.places:
                if place not in {BROKER, PREDICTOR}:
                    door = await stack.enter_async_context(_door(plan, place))
                    found[SiteId(place)] = door
            yield found

    async def change(self, changes: Sequence[LinkChange]) -> None:
        """Change directions."""
        await asyncio.to_thread(docker_cluster.change, self._options.directory, changes)

    async def heal(self) -> None:
        """Undo what was done to directions."""
        await self.change(cluster.healed(docker_cluster.changes_of(self._options.directory)))

    async def kill(self, site: str) -> None:
        """End a site's agent at once."""
        await asyncio.to_thread(docker_cluster.kill, self._options.directory, site)

    async def revive(self) -> None:
        """Start again what has ended."""
        await asyncio.to_thread(docker_cluster.revive, self._options.directory)

    async def answers(self) -> Sequence[Answer]:
        """Return what all sidecars say."""
        return await asyncio.to_thread(docker_cluster.answers, self._options.directory)

    def decisions(self) -> Sequence[Decision]:
        """Return none: what agents in containers write stays there."""
        return ()


@contextlib.asynccontextmanager
async def _door(plan: ContainerPlan, site: str) -> AsyncIterator[str]:
    """Give an address at this machine whose connections go on to a site's agent."""
    script = door_script(plan.serving(site))
    command = ("docker", "exec", "--interactive", plan.sidecar(site), "bash", "-c", script)

    opened: set[asyncio.StreamWriter] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert child.stdin is not None, "it was asked for"
        assert child.stdout is not None, "it was asked for"
        async with asyncio.TaskGroup() as group:
            ways = (
                group.create_task(_copy(reader, child.stdin)),
                group.create_task(_copy(child.stdout, writer)),
            )
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                # It ends with its input; only one that does not is killed.
                child.stdin.close()
                try:
                    async with asyncio.timeout(_CLOSE_S):
                        await child.wait()
                except TimeoutError:
                    child.kill()
                    await child.wait()
                for way in ways:
                    way.cancel()
                writer.close()
                opened.discard(writer)

    async with asyncio.TaskGroup() as connections:

        def admit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            opened.add(writer)
            connections.create_task(pass_on(reader, writer))

        server = await asyncio.start_server(admit, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            yield f"{host}:{port}"
            # What is still open ends in order, and the group waits for it.
            server.close()
            for writer in opened:
                writer.close()


def door_script(address: str) -> str:
    """Return the shell script that leads its stdin and stdout to an address, `host:port`.

    It ends as soon as one end does. An agent that was killed must be seen to be gone: a call would
    otherwise wait on a connection that nobody serves, until it times out.
    """
    host, _, port = address.rpartition(":")
    # What a shell starts in the background would read /dev/null for its own stdin.
    opened = f"exec 3<>/dev/tcp/{host}/{port} 4<&0"
    return f"{opened} && {{ cat <&3 & cat <&4 >&3 & wait -n; kill $(jobs -p); }}"


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hand on what comes, to its end."""
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()
