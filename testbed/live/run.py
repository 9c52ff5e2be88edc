"""Runs an instance on a cluster of real agents that comes up for it and is gone afterwards.

Tasks are submitted to their origins when the world's clock says so; each sleeps for as long as it
would run. What became of them is read from the origins' journals through the public face, what was
decided from the agents' recordings.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from gcos.client import Client
from gcos.errors import GcosError, UnavailableError
from gcos.home import LocalCluster
from gcos.ids import ArtifactId, SiteId
from gcos.ledger import LedgerEntry
from gcos.system import SystemClock
from gcos.task_record import Task
from gcos.tasks import TaskState
from site_agent.copies import COPIES_PROJECT
from site_agent.decision_log import DECISIONS_NAME
from site_agent.decisions import Decision, decisions_in
from testbed import local_cluster
from testbed.live.checks import LiveOptions, check_live
from testbed.live.records import LiveCopy, LiveFetch, LiveRun, LiveTask
from testbed.live.world import (
    TRACE_NAME,
    cluster_options,
    document,
    used_upstreams,
    with_sites,
    write_artifacts,
    write_trace,
)
from testbed.local_directory import SITES_NAME
from testbed.local_plan import Plan
from testbed.sim.instance import Instance, SimTask
from testbed.wan import cluster, matrix
from testbed.wan.cluster import open_testbed
from testbed.wan.control import ask
from testbed.wan.records import Order, WanLink, verdict
from testbed.world import load_world

#: Wall seconds beyond the longest task for all to end.
_END_S: Final = 300.0
_LOOK_S: Final = 1.0
#: Submissions under way at the same time.
_SUBMIT_COUNT: Final = 8

Tell = Callable[[str], None]
_now_s = SystemClock().protocol_s


def run_live(instance: Instance, options: LiveOptions, *, policy: str, tell: Tell) -> LiveRun:
    """Run an instance under a policy until every task has ended.

    Raises:
        InvalidRequestError: It is for the simulator alone.
        GcosError: The cluster did not come up, a submission was refused, or a task did not succeed.
    """
    check_live(instance, options, policy=policy, cache_mode="dual")
    began_s = _now_s()
    with TemporaryDirectory(prefix="gcos-live-") as scratch:
        directory = Path(scratch) / "bed"
        trace = Path(scratch) / TRACE_NAME
        write_trace(instance, trace)
        wishes = cluster_options(instance, options, directory, trace, policy)

        def extend(plan: Plan) -> Plan:
            return with_sites(plan, instance, directory, options.byte_ratio)

        try:
            if options.has_links:
                links = _links(instance, options)
                running = cluster.up(wishes, links, tell=lambda _: None, extend=extend)
            else:
                running = local_cluster.up(wishes, tell=lambda _: None, extend=extend)
            tell(f"{policy}: {len(running.agents)} agents run {len(instance.tasks)} tasks")
            tasks, copies = asyncio.run(_drive(running, instance, options, directory, tell))
            late_share, is_void = _timing(directory) if options.has_links else (0.0, False)
            decisions = recorded_decisions(directory, wishes.site_ids)
        finally:
            local_cluster.down(directory, keep=False, tell=lambda _: None)
    return LiveRun(tasks, copies, decisions, _now_s() - began_s, late_share, is_void)


def _links(instance: Instance, options: LiveOptions) -> tuple[WanLink, ...]:
    zones = matrix.with_services({site.site_id: site.zone for site in instance.sites})
    return matrix.links(zones, load_world(None), speed=options.speed, byte_ratio=options.byte_ratio)


def _timing(directory: Path) -> tuple[float, bool]:
    bed = open_testbed(directory)
    answer = asyncio.run(ask(bed.config.address, Order(bed.token)))
    found = verdict(answer.lanes)
    return found.late_share, found.is_void


def recorded_decisions(directory: Path, site_ids: Sequence[str]) -> tuple[Decision, ...]:
    """Return what the agents of a cluster have recorded."""
    found: list[Decision] = []
    for site_id in site_ids:
        path = directory / SITES_NAME / site_id / "data" / DECISIONS_NAME
        if path.exists():
            found += decisions_in(path.read_bytes())
    return tuple(found)


async def _drive(
    running: LocalCluster,
    instance: Instance,
    options: LiveOptions,
    directory: Path,
    tell: Tell,
) -> tuple[tuple[LiveTask, ...], tuple[LiveCopy, ...]]:
    token_file = Path(running.token_file)
    async with contextlib.AsyncExitStack() as stack:
        clients = {
            site: await stack.enter_async_context(Client.connect(address, token_file, environ={}))
            for site, address in running.agents.items()
        }
        any_client = next(iter(clients.values()))
        await _bring(instance, clients, directory, options)
        at_s, wall_s = await any_client.world_now_s(), _now_s()

        def world_s() -> float:
            return at_s + (_now_s() - wall_s) * options.speed

        if world_s() > instance.start_s:
            raise UnavailableError(
                f"the cluster came up {(world_s() - instance.start_s) / options.speed:.0f} s too"
                " late for the world of the instance",
                hint="this machine is busy; try a lower --speed, or fewer sites",
            )
        bounds = asyncio.Semaphore(_SUBMIT_COUNT)

        refused: list[GcosError] = []

        async def submit(task: SimTask) -> None:
            text = document(task, instance, options.speed)
            async with bounds:
                try:
                    await clients[task.origin].submit(text, task.task_id)
                except GcosError as exc:
                    refused.append(exc)

        async with asyncio.TaskGroup() as group:
            for task in instance.tasks:
                if refused:
                    break
                await asyncio.sleep(max(0.0, (task.arrival_s - world_s()) / options.speed))
                group.create_task(submit(task))
        if refused:
            raise refused[0]
        tell(f"{len(instance.tasks)} tasks are taken; waiting for their ends")
        ended = await _ended(any_client, instance, options)
        ledger = await any_client.ledger()
    names = {need.artifact_id: need.name for task in ended for need in task.needs}
    copies = tuple(_copy(entry) for entry in ledger.entries if entry.project == COPIES_PROJECT)
    return tuple(_outcome(task, names) for task in ended), copies


async def _bring(
    instance: Instance, clients: dict[SiteId, Client], directory: Path, options: LiveOptions
) -> None:
    """Put every artifact where its permanent copy is."""
    places = await asyncio.to_thread(write_artifacts, instance, directory, options.byte_ratio)
    for each in used_upstreams(instance):
        artifact = each.artifact
        await clients[each.home].add_artifact(
            artifact.name, artifact.kind, places[artifact.name], each.home
        )


async def _ended(client: Client, instance: Instance, options: LiveOptions) -> list[Task]:
    """Return all tasks once they have ended, in the order of the instance.

    Raises:
        GcosError: One did not succeed, or not in time.
    """
    slowest = min(site.pools[0].speed_ratio for site in instance.sites)
    longest_s = max(task.work_s for task in instance.tasks) / slowest
    until_s = _now_s() + _END_S + 3 * longest_s / options.speed
    while True:
        tasks = {task.spec.name: task for task in (await client.tasks()).items}
        missing = [task.task_id for task in instance.tasks if task.task_id not in tasks]
        open_ids = [name for name, task in tasks.items() if not task.state.is_terminal]
        if not open_ids and not missing:
            break
        if _now_s() > until_s:
            raise GcosError(
                f"{len(open_ids) + len(missing)} tasks have not ended, {(open_ids + missing)[0]}"
                " among them",
                hint="is the load below what the sites can run?",
            )
        await asyncio.sleep(_LOOK_S)
    failed = [task for task in tasks.values() if task.state is not TaskState.SUCCEEDED]
    if failed:
        raise GcosError(
            f"{len(failed)} tasks did not succeed; {failed[0].spec.name}: "
            f"{failed[0].state.value}, {failed[0].message}",
            hint="see gcos explain on a testbed that is left running",
        )
    return [tasks[task.task_id] for task in instance.tasks]


def _copy(entry: LedgerEntry) -> LiveCopy:
    return LiveCopy(entry.ended_s, entry.charge)


def _outcome(task: Task, names: dict[ArtifactId, str]) -> LiveTask:
    report = task.report
    assert report is not None, "a task that succeeded has a report"
    started_s = report.ended_s if report.started_s is None else report.started_s
    return LiveTask(
        task_id=task.spec.name,
        live_id=task.task_id,
        submitted_s=task.submitted_s,
        site_id=report.site_id,
        accepted_s=report.accepted_s,
        staged_s=report.accepted_s if report.staged_s is None else report.staged_s,
        started_s=started_s,
        ended_s=report.ended_s,
        attempts=task.fence.attempt,
        fetches=tuple(
            LiveFetch(fetch.name, fetch.source.site_id, fetch.size_bytes)
            for fetch in report.fetches
        ),
        evictions=tuple(names[each] for each in report.evictions if each in names),
        predictions=task.predictions,
    )
