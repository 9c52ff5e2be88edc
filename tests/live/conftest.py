"""A cluster of real processes for the tests of this folder, and a hand that kills them."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from gcos.client import Client
from gcos.home import LocalCluster
from testbed.local_cluster import ClusterOptions, down, read_state, up
from testbed.local_processes import LocalProcess, start

LEASE_S = 3.0


@dataclass
class LiveCluster:
    """Real processes on loopback."""

    directory: Path
    cluster: LocalCluster
    killed: bool = False

    def process(self, name: str) -> LocalProcess:
        state = read_state(self.directory)
        return next(process for process in state.processes if process.name == name)

    def kill(self, site: str) -> None:
        """Send SIGKILL to an agent and wait until it is gone."""
        pid = self._pids[site] if site in self._pids else self.process(f"agent {site}").pid
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def restart(self, site: str) -> None:
        """Start the agent of a site again, over the same directory."""
        place = self.directory / "sites" / site
        process = start(
            f"agent {site}",
            [
                *(sys.executable, "-P", "-m", "site_agent"),
                *("--config", str(place / "agent.toml")),
            ],
            address=self.cluster.agents[site],
            environ={k: v for k, v in os.environ.items() if not k.startswith("GCOS_")},
            directory=self.directory,
            log=place / "agent.again.log",
        )
        self._pids[site] = process.pid

    async def until_secret(self, client: Client, site: str, name: str) -> None:
        """Wait until it is known that a site's store has a secret."""
        async with asyncio.timeout(60):
            while not any(
                known.site.site_id == site and name in known.digest.secret_names
                for known in (await client.sites()).sites
            ):
                await asyncio.sleep(0.1)

    def __post_init__(self) -> None:
        self._pids: dict[str, int] = {}

    def stop_restarted(self) -> None:
        for pid in self._pids.values():
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    directory = tmp_path_factory.mktemp("live")
    options = ClusterOptions(
        directory=directory,
        site_ids=("on", "de", "cal"),
        speed=60.0,
        byte_ratio=1000.0,
        gpu_count=2,
        agent_settings={
            "lease_s": LEASE_S,
            "drain_s": 1.0,
            "output_roots": [str(directory / "published")],
        },
    )
    cluster = up(options, tell=lambda _text: None)
    made = LiveCluster(directory, cluster)
    try:
        yield made
    finally:
        made.stop_restarted()
        down(directory, keep=True, tell=lambda _text: None)


@pytest_asyncio.fixture
async def client(live: LiveCluster) -> AsyncIterator[Client]:
    async with Client.connect(
        live.cluster.agents["cal"], token_file=Path(live.cluster.token_file)
    ) as client:
        yield client
