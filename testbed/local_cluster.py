"""A cluster of real processes on this machine: a broker, a predictor and an agent for each site.

`up` starts one, `revive` brings back what died of it, `down` ends it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from gcos.errors import WrongStateError
from gcos.home import CLUSTER_FILE, HOME_VARIABLE, LocalCluster, write_cluster
from gcos.ids import SiteId
from gcos.locks import lock_directory
from gcos.rpc.security import read_token
from gcos.system import SystemClock
from site_agent.supervisor import SUPERVISOR_FILE, boot_id, find_process, read_record
from testbed.interruption import uninterrupted
from testbed.local_directory import (
    AGENT,
    ARTIFACTS_NAME,
    SITES_NAME,
    STATE_NAME,
    TOKEN_NAME,
    Tell,
    claim,
    data_directories,
    refuse_strangers,
    remove_own,
    strangers_in,
)
from testbed.local_plan import DRAIN_S, Plan, environment, launch_of, plan_of
from testbed.local_processes import LocalProcess, stop
from testbed.local_readiness import await_ready, count_unfinished
from testbed.local_state import ClusterOptions, ClusterState, Wishes, check, read_state, write_state

__all__ = [
    "ARTIFACTS_NAME",
    "ClusterOptions",
    "ClusterState",
    "Wishes",
    "down",
    "read_state",
    "revive",
    "unfinished_count",
    "up",
]

#: Until an agent is killed: what running jobs get, and reports to peers that stopped before it.
STOP_S: Final = 25.0


def up(
    options: ClusterOptions, *, tell: Tell, extend: Callable[[Plan], Plan] | None = None
) -> LocalCluster:
    """Start a cluster and return once all of it serves and the broker knows every site.

    On failure, and on KeyboardInterrupt, everything that was started is stopped again.

    Args:
        options: What it is to be.
        tell: Gets a line for each step.
        extend: Adds to the plan, such as a process between the agents, before it is carried out.

    Raises:
        InvalidRequestError: An option cannot be.
        WrongStateError: A cluster runs in the directory already, or it belongs to something else.
        UnavailableError: A process ended or did not serve in time; `tell` got its last words.
    """
    check(options)
    directory = options.directory
    claim(directory)
    with lock_directory(directory):
        kept = read_state(directory)
        if kept is not None and kept.alive:
            raise _runs_already(kept, directory)
        own = () if kept is None else kept.processes
        refuse_strangers(directory, strangers_in(directory, own))
        (directory / CLUSTER_FILE).unlink(missing_ok=True)
        if kept is not None:
            tell(f"going on with what an earlier cluster left in {directory}")
        plan = plan_of(options, kept)
        started: list[LocalProcess] = []
        state = plan.state

        def record(process: LocalProcess) -> None:
            # At once: whatever becomes of us, `gcos down` finds what runs.
            nonlocal state
            started.append(process)
            state = replace(state, processes=tuple(started))
            write_state(directory, state)

        write_state(directory, state)
        try:
            if extend is not None:
                plan = extend(plan)
            for launch in plan.launches:
                launch.start(plan.environ, directory, record)
            asyncio.run(await_ready(started, started[0], options.site_ids, plan.token, tell))
            cluster = _cluster(directory, state)
            write_cluster(cluster, {HOME_VARIABLE: str(directory)})
        except BaseException:
            with uninterrupted():
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
        strangers = strangers_in(directory, state.processes)
        for name, pid in strangers.items():
            tell(f"{name} was restarted by hand (process {pid}) and is left alone")
        missing = _missing(state, strangers)
        if not missing:
            return None
        tell(f"bringing back {_listed(missing)}; the other processes go on")
        started: list[LocalProcess] = []
        brought = state

        def record(process: LocalProcess) -> None:
            nonlocal brought
            started.append(process)
            by_name = {p.name: p for p in (*brought.processes, process)}
            brought = replace(brought, processes=tuple(by_name.values()))
            write_state(directory, brought)

        try:
            for process in missing:
                launch = launch_of(directory, process.name, process.address)
                launch = replace(launch, namespace=process.namespace)
                launch.start(environment(), directory, record)
            state = brought
            token = read_token(directory / TOKEN_NAME)
            site_ids = [site for site in state.site_ids if f"{AGENT}{site}" not in strangers]
            asyncio.run(await_ready(started, state.processes[0], site_ids, token, tell))
            cluster = _cluster(directory, state)
            write_cluster(cluster, {HOME_VARIABLE: str(directory)})
        except BaseException:
            with uninterrupted():
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
    agents = [p for p in state.processes if p.name.startswith(AGENT)]
    return asyncio.run(count_unfinished(agents, directory / TOKEN_NAME, tell))


def down(directory: Path, *, keep: bool, tell: Tell) -> bool:
    """Stop the cluster in `directory`; return False where there is none.

    A KeyboardInterrupt ends what running jobs get to end, and nothing else.

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
    with uninterrupted(), lock_directory(directory):
        state = read_state(directory)
        if state is None:
            return False
        alive = state.alive
        strangers = strangers_in(directory, state.processes)
        if not keep:
            # Asked before anything is stopped: a cluster is better left whole than halved.
            refuse_strangers(directory, strangers)
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
            write_state(directory, state)
            tell(f"kept journals, caches and outputs in {directory}")
        else:
            with contextlib.ExitStack() as locks:
                refuse_strangers(directory, strangers_in(directory, state.processes))
                # Held while they go, so that nobody starts over them.
                for place in data_directories(directory).values():
                    locks.enter_context(lock_directory(place))
                _end_runs(directory, tell)
                remove_own(directory, tell)
    return True


def _runs_already(state: ClusterState, directory: Path) -> WrongStateError:
    """Return the refusal to start a second cluster, with the ways out that lose nothing."""
    again = f"gcos down --keep --dir {directory} && gcos up --dir {directory}"
    missing = _missing(state, strangers_in(directory, state.processes))
    if not (directory / CLUSTER_FILE).exists():
        return WrongStateError(
            f"a cluster in {directory} was left half started ({len(state.alive)} processes)",
            hint=f"start it anew with: {again}",
        )
    if missing:
        return WrongStateError(
            f"a cluster runs in {directory} already, of which {_listed(missing)} ended",
            hint=f"bring back what ended, as it was, with: gcos up --dir {directory}; "
            f"or, for other options, restart all of it with: {again} ...",
        )
    return WrongStateError(
        f"a cluster runs in {directory} already ({len(state.alive)} processes)",
        hint=f"use it as it is, or restart it with other options by: {again} ...",
    )


def _missing(state: ClusterState, strangers: Mapping[str, str]) -> list[LocalProcess]:
    """Return the processes that ended and that nobody restarted."""
    alive = state.alive
    return [p for p in state.processes if p not in alive and p.name not in strangers]


def _listed(processes: Sequence[LocalProcess]) -> str:
    return ", ".join(process.name for process in processes)


def _stop_all(processes: Sequence[LocalProcess], *, grace_s: float, tell: Tell) -> None:
    """Stop agents first: they tell broker and predictor what has become of their runs."""
    agents = [process for process in processes if process.name.startswith(AGENT)]
    stop(agents, grace_s=grace_s, tell=tell)
    stop([p for p in processes if p not in agents], grace_s=grace_s, tell=tell)


def _end_runs(directory: Path, tell: Tell) -> None:
    """End the runs of agents that were killed, which would go on until their leases end."""
    records = [
        (path.parent.name, read_record(str(path)))
        for path in sorted((directory / SITES_NAME).glob(f"*/data/runs/*/{SUPERVISOR_FILE}"))
    ]
    alive = [(run, find_process(record)) for run, record in records if record is not None]
    supervisors = [
        LocalProcess(f"run {run}", stat.pid, stat.start_ticks, boot_id(), address="", log="")
        for run, stat in alive
        if stat is not None
    ]
    stop(supervisors, grace_s=STOP_S, tell=tell)


def _cluster(directory: Path, state: ClusterState) -> LocalCluster:
    by_name = {process.name: process for process in state.processes}
    return LocalCluster(
        agents={SiteId(site): by_name[f"{AGENT}{site}"].address for site in state.site_ids},
        broker=by_name["broker"].address,
        predictor=by_name["predictor"].address,
        token_file=str(directory / TOKEN_NAME),
        speed=state.speed,
        byte_ratio=state.byte_ratio,
        pids={process.name: process.pid for process in state.processes},
    )
