"""The plan of a local cluster: its addresses, token and configurations, and how processes start.

Everything is started at once: agents look for the broker until they find it. World time has the
same anchors in all processes, so they agree on it without talking.
"""

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import Final

from gcos.rpc.security import read_token, write_token
from gcos.system import SystemClock
from gcos.tables import default_sites, hardware
from testbed.local_directory import (
    AGENT,
    ARTIFACTS_NAME,
    PUBLISHED_NAME,
    SITES_NAME,
    TOKEN_NAME,
    WAN,
    write_whole,
)
from testbed.local_processes import LocalProcess, start
from testbed.local_state import ClusterOptions, ClusterState, next_state

LOOPBACK: Final = "127.0.0.1"
#: Protocol seconds that running jobs have to end when their agent drains, and then to heed SIGTERM.
DRAIN_S: Final = 5.0
RUN_GRACE_S: Final = 2.0
#: Jobs find this environment's `python` first.
_SYSTEM_PATH: Final = ("/usr/local/bin", "/usr/bin", "/bin")
#: Ports to try for each process, in vain where something else has them.
_DRAW_COUNT: Final = 32


@dataclass(frozen=True, slots=True)
class Launch:
    """A process to start."""

    name: str
    address: str
    arguments: tuple[str, ...]
    log: Path
    module: str = "gcos.cli.main"
    namespace: str = ""

    def start(
        self,
        environ: Mapping[str, str],
        directory: Path,
        record: Callable[[LocalProcess], None],
    ) -> LocalProcess:
        """Start it, once `record` has kept it."""
        # -P: a file called grpc.py where the user stands must not be imported.
        command = [sys.executable, "-P", "-m", self.module, *self.arguments]
        return start(
            self.name,
            command,
            address=self.address,
            environ=environ,
            directory=directory,
            log=self.log,
            namespace=self.namespace,
            record=record,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """A cluster whose files are written and whose processes are still to be started."""

    state: ClusterState
    token: str
    launches: tuple[Launch, ...]
    environ: dict[str, str]


def plan_of(options: ClusterOptions, kept: ClusterState | None) -> Plan:
    """Write token and configurations; start nothing yet."""
    directory = options.directory
    (directory / ARTIFACTS_NAME).mkdir(exist_ok=True)
    token_file = directory / TOKEN_NAME
    token = read_token(token_file) if token_file.exists() else write_token(token_file)
    state = next_state(options, kept, wall_s=SystemClock().wall_s())
    names = ["broker", "predictor", *(f"{AGENT}{site}" for site in options.site_ids)]
    addresses = free_addresses(names, kept)
    common = {"token_file": str(token_file)}
    _write_config(directory / "broker.toml", {"address": addresses["broker"], **common})
    _write_config(
        directory / "predictor.toml",
        {
            "address": addresses["predictor"],
            "data_dir": str(directory / "predictor"),
            **common,
        },
    )
    for site in options.site_ids:
        _write_agent_config(site, options, state, addresses)
    launches = tuple(launch_of(directory, name, address) for name, address in addresses.items())
    return Plan(state, token, launches, environment())


def _write_agent_config(
    site: str, options: ClusterOptions, state: ClusterState, addresses: Mapping[str, str]
) -> None:
    directory = options.directory
    place = directory / SITES_NAME / site
    place.mkdir(parents=True, exist_ok=True)
    _write_config(
        place / "agent.toml",
        {
            "site": site,
            "address": addresses[f"{AGENT}{site}"],
            "data_dir": str(place / "data"),
            "token_file": str(directory / TOKEN_NAME),
            "brokers": [addresses["broker"]],
            "predictors": [addresses["predictor"]],
            "artifact_roots": [str(directory / ARTIFACTS_NAME)],
            "output_roots": [str(directory / PUBLISHED_NAME)],
            "drain_s": DRAIN_S,
            "run_grace_s": RUN_GRACE_S,
            "run_path": _run_path(),
            **options.agent_settings,
        },
        pools=() if options.gpu_count is None else (pool_of(site, options.gpu_count),),
        world={
            "speed": state.speed,
            "wall_anchor_s": state.wall_anchor_s,
            "world_anchor_s": state.world_anchor_s,
            "byte_ratio": state.byte_ratio,
        },
    )


def launch_of(directory: Path, name: str, address: str) -> Launch:
    """Return how to start a process whose configuration is written."""
    if name == WAN:
        return Launch(
            name,
            address=address,
            module="testbed.wan.emulator",
            arguments=(str(directory / "wan.json"),),
            log=directory / "wan.log",
        )
    if not name.startswith(AGENT):
        config = directory / f"{name}.toml"
        return Launch(
            name,
            address=address,
            arguments=(name, "run", "--config", str(config)),
            log=config.with_suffix(".log"),
        )
    place = directory / SITES_NAME / name.removeprefix(AGENT)
    return Launch(
        name,
        address=address,
        # Serves in half the time of `gcos agent run`, which imports a command line.
        module="site_agent",
        arguments=("--config", str(place / "agent.toml")),
        log=place / "agent.log",
    )


def _own_ports() -> range:
    """Return ports that this machine gives to no connection, nor to who binds port 0."""
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    try:
        first = int(given.read_text().split()[0])
    except (OSError, ValueError):
        first = 32768  # Linux's own default; other systems begin later
    return range(max(first // 2, 1024), first)


def free_addresses(
    names: Sequence[str], kept: ClusterState | None, host: str = LOOPBACK
) -> dict[str, str]:
    """Return a free address for each process, the earlier one where it still is: journals name it.

    All are bound at once before any is used, so that none is given twice. While a process is down,
    its port must stay free for it, so none is of those that go to whoever asks for any.
    """
    earlier = {} if kept is None else {p.name: p.address for p in kept.processes}
    own, draws = _own_ports(), SystemRandom()
    with contextlib.ExitStack() as probes:
        found = {}
        for name in names:
            probe = probes.enter_context(socket.socket())
            # As servers do: connections of the earlier process may linger in TIME_WAIT.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            wanted = [int(earlier[name].rpartition(":")[2])] if name in earlier else []
            _bind(probe, host, [*wanted, *draws.sample(own, min(_DRAW_COUNT, len(own)))])
            found[name] = f"{host}:{probe.getsockname()[1]}"
        return found


def _bind(probe: socket.socket, host: str, ports: Sequence[int]) -> None:
    """Bind the first of `ports` that is free; where none is, any other."""
    for port in ports:
        with contextlib.suppress(OSError):
            probe.bind((host, port))
            return
    probe.bind((host, 0))


def pool_of(site: str, gpu_count: int) -> dict[str, object]:
    """Return the pool of a site, as its configuration says it."""
    machine = hardware()[default_sites()[site].hardware]
    return {
        "type": machine.gpu_type,
        "gpu_count": gpu_count,
        "speed_ratio": machine.speed_ratio,
        "active_kw": machine.active_kw,
        "idle_kw": machine.idle_kw,
        "usd_per_gpu_h": machine.usd_per_gpu_h,
    }


def _run_path() -> str:
    return os.pathsep.join((str(Path(sys.executable).parent), *_SYSTEM_PATH))


def environment() -> dict[str, str]:
    """Return our environment without `GCOS_*`, which would beat the files written here."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GCOS_")}


def _write_config(
    path: Path,
    values: Mapping[str, object],
    *,
    pools: Sequence[Mapping[str, object]] = (),
    world: Mapping[str, object] | None = None,
) -> None:
    lines = ["# Written by `gcos up`, and written anew by the next one.", *_pairs(values)]
    for pool in pools:
        lines += ["", "[[pools]]", *_pairs(pool)]
    if world is not None:
        lines += ["", "[world]", *_pairs(world)]
    write_whole(path, ("\n".join(lines) + "\n").encode())


def _pairs(values: Mapping[str, object]) -> list[str]:
    # Texts, numbers and lists of texts are spelled alike in JSON and TOML.
    return [f"{key} = {json.dumps(value)}" for key, value in values.items()]
