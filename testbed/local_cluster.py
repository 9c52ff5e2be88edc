"""A cluster of real processes on this machine: a broker, a predictor and an agent for each site.

    DIRECTORY/              mode 0700
      cluster.json          how clients find the cluster; there while it runs
      state.json            its processes and its world time
      token                 the secret of the cluster, mode 0600
      artifacts/            `gcos cache add` takes from here; never removed while it holds anything
      broker.toml  broker.log
      predictor.toml  predictor.log  predictor/
      sites/SITE/           agent.toml, agent.log, data/: journal, caches, outputs

Everything is started at once: agents look for the broker until they find it. World time has the
same anchors in all processes, so they agree on it without talking.
"""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gcos import codec
from gcos.client import Client
from gcos.clock import WorldScale
from gcos.errors import GcosError, InvalidRequestError, UnavailableError, WrongStateError
from gcos.home import CLUSTER_FILE, HOME_VARIABLE, LocalCluster, write_cluster
from gcos.ids import SiteId
from gcos.locks import LOCK_NAME, lock_directory
from gcos.rpc.channels import CALL_TIMEOUT_S, Channels
from gcos.rpc.security import read_token, write_token
from gcos.system import SystemClock, sleep_blocking
from gcos.tables import default_sites, hardware
from gcos.v1 import broker_pb2, broker_pb2_grpc
from testbed.local_processes import LocalProcess, log_tail, start, stop

STATE_NAME: Final = "state.json"
TOKEN_NAME: Final = "token"  # noqa: S105 - the name of a file
ARTIFACTS_NAME: Final = "artifacts"
_OWN_NAMES: Final = (
    *("broker.toml", "broker.log", "predictor.toml", "predictor.log", "predictor"),
    *("sites", TOKEN_NAME, STATE_NAME),
)
_KNOWN_NAMES: Final = frozenset((*_OWN_NAMES, ARTIFACTS_NAME, CLUSTER_FILE, LOCK_NAME))

LOOPBACK: Final = "127.0.0.1"
_AGENT: Final = "agent "
SPEED_MAX: Final = 1e5
BYTE_RATIO_MAX: Final = 1e6
GPU_COUNT_MAX: Final = 1024

#: Protocol seconds for all processes to serve: they need two each alone, and share the cores.
READY_S: Final = 60.0
#: Protocol seconds that running jobs have to end when their agent drains, and then to heed SIGTERM.
DRAIN_S: Final = 5.0
RUN_GRACE_S: Final = 2.0
#: Until an agent is killed: both of the above, and reports to peers that have stopped before it.
STOP_S: Final = 25.0
_ASK_PAUSE_S: Final = 0.1
#: Protocol seconds for the kernel to release the lock of a process that has ended.
_RELEASE_S: Final = 5.0
_LOOK_S: Final = 0.02
_TAIL_LINES: Final = 12
#: Jobs find this environment's `python` first.
_SYSTEM_PATH: Final = ("/usr/local/bin", "/usr/bin", "/bin")

#: Protocol seconds for all agents to say what they have yet to do.
_ASK_S: Final = 2 * CALL_TIMEOUT_S

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What a local cluster is to be.

    Attributes:
        directory: Where everything of it lies.
        site_ids: Sites of the shipped table.
        speed: World seconds per wall second.
        byte_ratio: World bytes that one stored byte stands for.
        world_start_s: World instant of the start; None: go on with what was kept, else the present.
        gpu_count: GPUs of each site; None: as in the shipped table.
        agent_settings: Further settings of every agent, as in `site_agent.config.AgentConfig`.
    """

    directory: Path
    site_ids: tuple[str, ...]
    speed: float = 1.0
    byte_ratio: float = 1.0
    world_start_s: float | None = None
    gpu_count: int | None = None
    agent_settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterState:
    """What is kept beside the cluster, and survives it with `gcos down --keep`.

    Attributes:
        processes: Its processes; none once it was stopped.
        speed: World seconds per wall second.
        byte_ratio: World bytes that one stored byte stands for.
        wall_anchor_s: A wall instant ...
        world_anchor_s: ... and the world instant that it stands for.
        stopped_s: World instant at which it was stopped; None: it was not.
        gpu_count: GPUs of each site; None: as in the shipped table.
    """

    processes: tuple[LocalProcess, ...]
    speed: float
    byte_ratio: float
    wall_anchor_s: float
    world_anchor_s: float
    stopped_s: float | None = None
    gpu_count: int | None = None

    @property
    def scale(self) -> WorldScale:
        """The map from wall time to world time."""
        return WorldScale(self.speed, self.wall_anchor_s, self.world_anchor_s)

    @property
    def alive(self) -> list[LocalProcess]:
        """Processes that still execute."""
        return [process for process in self.processes if process.is_alive]

    @property
    def site_ids(self) -> list[str]:
        """Sites whose agents it has."""
        return [p.name.removeprefix(_AGENT) for p in self.processes if p.name.startswith(_AGENT)]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What somebody asks of a cluster that may stand already; None: whatever it has.

    Attributes:
        site_ids: Its sites, in any order.
        speed: World seconds per wall second.
        byte_ratio: World bytes that one stored byte stands for.
        gpu_count: GPUs of each site.
    """

    site_ids: tuple[str, ...] | None = None
    speed: float | None = None
    byte_ratio: float | None = None
    gpu_count: int | None = None

    def are_met_by(self, state: ClusterState) -> bool:
        """Tell whether a cluster with `state` is what is asked for."""
        return (
            (self.site_ids is None or sorted(self.site_ids) == sorted(state.site_ids))
            and self.speed in {None, state.speed}
            and self.byte_ratio in {None, state.byte_ratio}
            and self.gpu_count in {None, state.gpu_count}
        )


def read_state(directory: Path) -> ClusterState | None:
    """Return what is kept in `directory`; None where no cluster ever was.

    Raises:
        WrongStateError: What is kept there is damaged.
    """
    path = directory / STATE_NAME
    try:
        return codec.decode(ClusterState, path.read_bytes())
    except FileNotFoundError:
        return None
    except GcosError as exc:
        raise WrongStateError(
            f"{path} is damaged: {exc.message}",
            hint="end its processes by hand, if there are any, and remove the directory",
        ) from exc


def up(options: ClusterOptions, *, tell: Tell) -> LocalCluster:
    """Start a cluster and return once all of it serves and the broker knows every site.

    On failure, and on KeyboardInterrupt, everything that was started is stopped again.

    Args:
        options: What it is to be.
        tell: Gets a line for each step.

    Raises:
        InvalidRequestError: An option cannot be.
        WrongStateError: A cluster runs in the directory already, or it belongs to something else.
        UnavailableError: A process ended or did not serve in time; `tell` got its last words.
    """
    check(options)
    directory = options.directory
    _claim(directory)
    with lock_directory(directory):
        kept = read_state(directory)
        if kept is not None and kept.alive:
            raise _runs_already(kept, directory)
        own = () if kept is None else kept.processes
        _refuse_strangers(directory, _strangers(directory, own))
        (directory / CLUSTER_FILE).unlink(missing_ok=True)
        if kept is not None:
            tell(f"going on with what an earlier cluster left in {directory}")
        plan = _plan(options, kept)
        started: list[LocalProcess] = []
        try:
            for launch in plan.launches:
                started.append(launch.start(plan.environ, directory))
                # At once: whatever becomes of us, `gcos down` finds what runs.
                state = replace(plan.state, processes=tuple(started))
                _write(directory / STATE_NAME, codec.encode(state))
            asyncio.run(
                _await_ready(started, started[0], options.site_ids, plan.token, tell),
            )
            cluster = _cluster(directory, state)
            write_cluster(cluster, {HOME_VARIABLE: str(directory)})
        except BaseException:
            tell("stopping what was started")
            _stop_all(started, grace_s=STOP_S, tell=tell)
            raise
        return cluster


def revive(directory: Path, wishes: Wishes, *, tell: Tell) -> LocalCluster | None:
    """Start those processes of a running cluster again that have died, as they were.

    Configurations, addresses, data and world time stay. An agent that somebody restarted by hand
    counts as running. On failure, what was started here is stopped again; the rest goes on.

    Returns:
        The cluster; None where none runs, all of it runs, or it is not what is asked for.

    Raises:
        UnavailableError: A process ended or did not serve in time; `tell` got its last words.
    """
    if not (directory / CLUSTER_FILE).exists():
        # It never served as a whole, so nobody knows all of it.
        return None
    with lock_directory(directory):
        state = read_state(directory)
        if state is None or not state.alive or not wishes.are_met_by(state):
            return None
        strangers = _strangers(directory, state.processes)
        for name, pid in strangers.items():
            tell(f"{name} was restarted by hand (process {pid}) and is left alone")
        missing = _missing(state, strangers)
        if not missing:
            return None
        tell(f"bringing back {_listed(missing)}; the other processes go on")
        started: list[LocalProcess] = []
        try:
            for process in missing:
                launch = _launch(directory, process.name, process.address)
                started.append(launch.start(_environ(), directory))
                by_name = {p.name: p for p in (*state.processes, started[-1])}
                state = replace(state, processes=tuple(by_name.values()))
                _write(directory / STATE_NAME, codec.encode(state))
            token = read_token(directory / TOKEN_NAME)
            site_ids = [site for site in state.site_ids if f"{_AGENT}{site}" not in strangers]
            asyncio.run(_await_ready(started, state.processes[0], site_ids, token, tell))
            cluster = _cluster(directory, state)
            write_cluster(cluster, {HOME_VARIABLE: str(directory)})
        except BaseException:
            tell("stopping what was brought back")
            _stop_all(started, grace_s=STOP_S, tell=tell)
            raise
        return cluster


def unfinished_count(directory: Path, *, tell: Tell) -> int:
    """Return how many tasks have not ended, as far as agents that answer know.

    Args:
        directory: The cluster's.
        tell: Gets a line for each agent that does not answer.
    """
    state = read_state(directory)
    if state is None or state.stopped_s is not None:
        return 0
    agents = [p for p in state.processes if p.name.startswith(_AGENT)]
    return asyncio.run(_count_unfinished(agents, directory / TOKEN_NAME, tell))


async def _count_unfinished(agents: Sequence[LocalProcess], token_file: Path, tell: Tell) -> int:
    counts: list[int] = []

    async def ask(agent: LocalProcess) -> None:
        try:
            async with (
                asyncio.timeout(_ASK_S),
                Client.connect(agent.address, token_file, environ={}) as client,
            ):
                # Each its own: a task is known at its origin, and counts once.
                tasks = await client.tasks(only_active=True, everywhere=False)
                counts.append(len(tasks.items))
        except (GcosError, TimeoutError):
            tell(f"{agent.name} does not answer: its unfinished tasks, if any, are not counted")

    async with asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(ask(agent))
    return sum(counts)


def down(directory: Path, *, keep: bool, tell: Tell) -> bool:
    """Stop the cluster in `directory`; return False where there is none.

    Args:
        directory: Its directory.
        keep: Leave journals, caches and outputs, so that `up` can go on with them.
        tell: Gets a line for each step.

    Raises:
        WrongStateError: A process that this cluster did not start uses a directory that would be
            removed; nothing is removed.
    """
    if not (directory / STATE_NAME).exists():
        return False
    with lock_directory(directory):
        state = read_state(directory)
        if state is None:
            return False
        alive = state.alive
        strangers = _strangers(directory, state.processes)
        if not keep:
            # Asked before anything is stopped: a cluster is better left whole than halved.
            _refuse_strangers(directory, strangers)
        for name, pid in strangers.items():
            tell(f"{name} was restarted by hand (process {pid}) and goes on; end it: kill {pid}")
        (directory / CLUSTER_FILE).unlink(missing_ok=True)
        if alive:
            tell(f"stopping {len(alive)} processes; running jobs get {DRAIN_S:.0f} s to end")
        else:
            tell("its processes had ended already")
        _stop_all(alive, grace_s=STOP_S, tell=tell)
        if keep:
            stopped_s = state.scale.world_s(SystemClock().wall_s())
            if state.stopped_s is None:
                state = replace(state, stopped_s=stopped_s)
            _write(directory / STATE_NAME, codec.encode(state))
            tell(f"kept journals, caches and outputs in {directory}")
        else:
            with contextlib.ExitStack() as locks:
                _refuse_strangers(directory, _strangers(directory, state.processes))
                # Held while they go, so that nobody starts over them.
                for place in _data_directories(directory).values():
                    locks.enter_context(lock_directory(place))
                _remove(directory, tell)
    return True


def _data_directories(directory: Path) -> dict[str, Path]:
    """Return the directories that processes lock, by name of the process."""
    places = {"predictor": directory / "predictor"}
    for site in sorted((directory / "sites").glob("*")):
        places[f"{_AGENT}{site.name}"] = site / "data"
    return {name: place for name, place in places.items() if place.is_dir()}


def _strangers(directory: Path, own: Sequence[LocalProcess]) -> dict[str, str]:
    """Return the pids that hold data directories and are not `own`, by name of the process."""
    clock = SystemClock()
    until_s = clock.protocol_s() + _RELEASE_S
    found = {}
    for name, place in _data_directories(directory).items():
        while (holder := _holder(place)) is not None:
            known = [process for process in own if str(process.pid) == holder]
            if any(process.is_alive for process in known):
                break
            # The kernel releases the lock a moment after its process has ended.
            if not known or clock.protocol_s() > until_s:
                found[name] = holder
                break
            sleep_blocking(_LOOK_S)
    return found


def _holder(place: Path) -> str | None:
    """Return the pid that the holder of the lock of `place` wrote down; None: nobody holds it."""
    try:
        with lock_directory(place):
            return None
    except WrongStateError:
        return (place / LOCK_NAME).read_text(encoding="ascii").strip() or "(starting)"


def _refuse_strangers(directory: Path, strangers: Mapping[str, str]) -> None:
    """Refuse to touch what processes use that are not the cluster's own.

    Raises:
        WrongStateError: There are any.
    """
    if strangers:
        places = _data_directories(directory)
        raise WrongStateError(
            ", ".join(
                f"{name} was started by hand: process {pid} uses {places[name]}"
                for name, pid in strangers.items()
            ),
            hint=f"end it first, with: kill {' '.join(strangers.values())}",
        )


def _runs_already(state: ClusterState, directory: Path) -> WrongStateError:
    """Return the refusal to start a second cluster, with the ways out."""
    alive = state.alive
    missing = _missing(state, _strangers(directory, state.processes))
    if not missing or not (directory / CLUSTER_FILE).exists():
        return WrongStateError(
            f"a cluster runs in {directory} already ({len(alive)} processes)",
            hint=f"stop it with: gcos down --dir {directory}",
        )
    return WrongStateError(
        f"a cluster runs in {directory} already, of which {_listed(missing)} ended",
        hint=f"bring back what ended, as it was, with: gcos up --dir {directory}; "
        f"or, for other options, stop the rest with: gcos down --dir {directory}",
    )


def _missing(state: ClusterState, strangers: Mapping[str, str]) -> list[LocalProcess]:
    """Return the processes that ended and that nobody restarted."""
    alive = state.alive
    return [p for p in state.processes if p not in alive and p.name not in strangers]


def _listed(processes: Sequence[LocalProcess]) -> str:
    return ", ".join(process.name for process in processes)


def check(options: ClusterOptions) -> None:
    """Refuse options that cannot be.

    Raises:
        InvalidRequestError: An unknown or repeated site, or a number out of range.
    """
    known = default_sites()
    unknown = [site for site in options.site_ids if site not in known]
    if unknown or not options.site_ids:
        raise InvalidRequestError(
            f"{', '.join(map(repr, unknown))} is not in the shipped table of sites"
            if unknown
            else "no site is named",
            field="sites",
            hint="sites are " + ", ".join(f"{site} ({known[site].name})" for site in known),
        )
    if len(set(options.site_ids)) < len(options.site_ids):
        raise InvalidRequestError("a site is named twice", field="sites")
    if not 0 < options.speed <= SPEED_MAX:
        raise InvalidRequestError(f"speed must be above 0 and at most {SPEED_MAX:g}", field="speed")
    if not 0 < options.byte_ratio <= BYTE_RATIO_MAX:
        raise InvalidRequestError(
            f"the byte ratio must be above 0 and at most {BYTE_RATIO_MAX:g}", field="byte_ratio"
        )
    if options.gpu_count is not None and not 1 <= options.gpu_count <= GPU_COUNT_MAX:
        raise InvalidRequestError(f"a site has 1 to {GPU_COUNT_MAX} GPUs", field="gpus")


@dataclass(frozen=True, slots=True)
class _Launch:
    """A process to start."""

    name: str
    address: str
    arguments: tuple[str, ...]
    log: Path
    module: str = "gcos.cli.main"

    def start(self, environ: Mapping[str, str], directory: Path) -> LocalProcess:
        # -P: a file called grpc.py where the user stands must not be imported.
        command = [sys.executable, "-P", "-m", self.module, *self.arguments]
        return start(
            self.name,
            command,
            address=self.address,
            environ=environ,
            directory=directory,
            log=self.log,
        )


@dataclass(frozen=True, slots=True)
class _Plan:
    """A cluster whose files are written and whose processes are still to be started."""

    options: ClusterOptions
    state: ClusterState
    token: str
    launches: tuple[_Launch, ...]
    environ: dict[str, str]


def _claim(directory: Path) -> None:
    """Make `directory` ours alone.

    Raises:
        WrongStateError: It holds something else than a cluster, or is another user's.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        if status.st_uid != os.getuid():
            raise WrongStateError(f"{directory} belongs to another user", hint="choose --dir")
        # Only then may its mode be changed: somebody may have given --dir /srv.
        strange = sorted(
            entry.name for entry in directory.iterdir() if entry.name not in _KNOWN_NAMES
        )
        if strange and not (directory / STATE_NAME).exists():
            raise WrongStateError(
                f"{directory} holds other things ({', '.join(strange[:3])})",
                hint="choose an empty or new directory with --dir",
            )
        directory.chmod(0o700)
    except OSError as exc:
        raise WrongStateError(
            f"{directory} cannot be used: {exc.strerror}", hint="choose another with --dir"
        ) from exc


def _plan(options: ClusterOptions, kept: ClusterState | None) -> _Plan:
    """Write token and configurations; start nothing yet."""
    directory = options.directory
    (directory / ARTIFACTS_NAME).mkdir(exist_ok=True)
    token_file = directory / TOKEN_NAME
    token = read_token(token_file) if token_file.exists() else write_token(token_file)
    state = next_state(options, kept, wall_s=SystemClock().wall_s())
    names = ["broker", "predictor", *(f"{_AGENT}{site}" for site in options.site_ids)]
    addresses = _addresses(names, kept)
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
        place = directory / "sites" / site
        place.mkdir(parents=True, exist_ok=True)
        config = {
            "site": site,
            "address": addresses[f"{_AGENT}{site}"],
            "data_dir": str(place / "data"),
            "brokers": [addresses["broker"]],
            "predictors": [addresses["predictor"]],
            "artifact_roots": [str(directory / ARTIFACTS_NAME)],
            "drain_s": DRAIN_S,
            "run_grace_s": RUN_GRACE_S,
            "run_path": _run_path(),
            **common,
            **options.agent_settings,
        }
        _write_config(
            place / "agent.toml",
            config,
            pools=() if options.gpu_count is None else (_pool(site, options.gpu_count),),
            world={
                "speed": state.speed,
                "wall_anchor_s": state.wall_anchor_s,
                "world_anchor_s": state.world_anchor_s,
                "byte_ratio": state.byte_ratio,
            },
        )
    launches = tuple(_launch(directory, name, address) for name, address in addresses.items())
    return _Plan(options, state, token, launches, _environ())


def _launch(directory: Path, name: str, address: str) -> _Launch:
    """Return how to start a process whose configuration is written."""
    if not name.startswith(_AGENT):
        config = directory / f"{name}.toml"
        return _Launch(
            name,
            address=address,
            arguments=(name, "run", "--config", str(config)),
            log=config.with_suffix(".log"),
        )
    place = directory / "sites" / name.removeprefix(_AGENT)
    return _Launch(
        name,
        address=address,
        # Serves in half the time of `gcos agent run`, which imports a command line.
        module="site_agent",
        arguments=("--config", str(place / "agent.toml")),
        log=place / "agent.log",
    )


def next_state(
    options: ClusterOptions, kept: ClusterState | None, *, wall_s: float
) -> ClusterState:
    """Return the state of a cluster whose world goes on from now.

    Journals hold world instants, so the world never goes back behind what was kept. Without a
    clean stop it went on by itself, as the wall clock did.
    """
    reached_s: float | None = None
    if kept is not None:
        reached_s = kept.stopped_s if kept.stopped_s is not None else kept.scale.world_s(wall_s)
    if options.world_start_s is not None:
        if reached_s is not None and options.world_start_s < reached_s:
            raise InvalidRequestError(
                "the start of the world is earlier than what the cluster there has seen already",
                field="world_start",
                hint=f"remove it with: gcos down --dir {options.directory}",
            )
        reached_s = options.world_start_s
    return ClusterState(
        processes=(),
        speed=options.speed,
        byte_ratio=options.byte_ratio,
        wall_anchor_s=wall_s,
        world_anchor_s=wall_s if reached_s is None else reached_s,
        gpu_count=options.gpu_count,
    )


def _addresses(names: Sequence[str], kept: ClusterState | None) -> dict[str, str]:
    """Return a free address for each process, the earlier one where it still is: journals name it.

    All are bound at once before any is used, so that none is given twice.
    """
    earlier = {} if kept is None else {p.name: p.address for p in kept.processes}
    with contextlib.ExitStack() as probes:
        found = {}
        for name in names:
            probe = probes.enter_context(socket.socket())
            # As servers do: connections of the earlier process may linger in TIME_WAIT.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port = int(earlier.get(name, ":0").rpartition(":")[2])
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                probe.bind((LOOPBACK, 0))
            found[name] = f"{LOOPBACK}:{probe.getsockname()[1]}"
        return found


def _pool(site: str, gpu_count: int) -> dict[str, object]:
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


def _environ() -> dict[str, str]:
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
    _write(path, ("\n".join(lines) + "\n").encode())


def _pairs(values: Mapping[str, object]) -> list[str]:
    # Texts, numbers and lists of texts are spelled alike in JSON and TOML.
    return [f"{key} = {json.dumps(value)}" for key, value in values.items()]


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


async def _await_ready(
    processes: Sequence[LocalProcess],
    broker: LocalProcess,
    site_ids: Sequence[str],
    token: str,
    tell: Tell,
) -> None:
    """Return once every process serves and the broker lists every site.

    Raises:
        UnavailableError: One ended, or time ran out.
    """
    clock = SystemClock()
    began_s = clock.protocol_s()
    pending = list(processes)
    missing = set(site_ids)
    try:
        async with asyncio.timeout(READY_S), Channels(token) as channels:
            while pending or missing:
                for process in list(pending):
                    _check_alive(process, tell)
                    if await _is_serving(channels, process.address):
                        pending.remove(process)
                        elapsed_s = clock.protocol_s() - began_s
                        tell(f"{process.name:<12} {process.address:<16} serves ({elapsed_s:.1f} s)")
                if broker not in pending:
                    missing = set(site_ids) - await _registered(channels, broker.address)
                await asyncio.sleep(_ASK_PAUSE_S)
    except TimeoutError as exc:
        if pending:
            raise _failure(pending[0], f"did not serve within {READY_S:.0f} s", tell) from exc
        raise UnavailableError(
            f"the broker has not heard of {', '.join(sorted(missing))} within {READY_S:.0f} s",
            hint=f"see {broker.log} and the logs of the agents",
        ) from exc


def _check_alive(process: LocalProcess, tell: Tell) -> None:
    if not process.is_alive:
        raise _failure(process, "ended before it served", tell)


def _failure(process: LocalProcess, what: str, tell: Tell) -> UnavailableError:
    tell(f"the last lines of {process.log}:")
    for line in log_tail(process, line_count=_TAIL_LINES) or ["(nothing)"]:
        tell(f"    {line}")
    return UnavailableError(f"{process.name} {what}", hint=f"its output is in {process.log}")


async def _is_serving(channels: Channels, address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        # Asked first, since a channel that was refused waits before it dials again.
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    stub = health_pb2_grpc.HealthStub(channels.get(address))
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_TIMEOUT_S)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _registered(channels: Channels, address: str) -> set[str]:
    stub: broker_pb2_grpc.BrokerServiceAsyncStub = broker_pb2_grpc.BrokerServiceStub(
        channels.get(address)
    )
    try:
        answer = await stub.Sites(broker_pb2.SitesRequest(), timeout=CALL_TIMEOUT_S)
    except grpc.aio.AioRpcError:
        return set()
    return {known.site.site_id for known in answer.sites}


def _stop_all(processes: Sequence[LocalProcess], *, grace_s: float, tell: Tell) -> None:
    """Stop agents first: they tell broker and predictor what has become of their runs."""
    agents = [process for process in processes if process.name.startswith(_AGENT)]
    stop(agents, grace_s=grace_s, tell=tell)
    stop([p for p in processes if p not in agents], grace_s=grace_s, tell=tell)


def _cluster(directory: Path, state: ClusterState) -> LocalCluster:
    by_name = {process.name: process for process in state.processes}
    return LocalCluster(
        agents={SiteId(site): by_name[f"{_AGENT}{site}"].address for site in state.site_ids},
        broker=by_name["broker"].address,
        predictor=by_name["predictor"].address,
        token_file=str(directory / TOKEN_NAME),
        speed=state.speed,
        byte_ratio=state.byte_ratio,
        pids={process.name: process.pid for process in state.processes},
    )


def _remove(directory: Path, tell: Tell) -> None:
    """Remove what `up` made; artifacts of the user stay."""
    for name in _OWN_NAMES:
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (directory / LOCK_NAME).unlink(missing_ok=True)
    for empty in (directory / ARTIFACTS_NAME, directory):
        with contextlib.suppress(OSError):
            empty.rmdir()
    tell(f"removed journals, caches and outputs of {directory}")
    if directory.exists():
        tell(f"left what you put into {directory}")
