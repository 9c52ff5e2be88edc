"""Puts one agent together: the only place that knows every part."""

import asyncio
import contextlib
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gcos import logs
from gcos.clock import Clock
from gcos.contract_net import Holder
from gcos.errors import GcosError
from gcos.ids import SiteId
from gcos.locks import lock_directory
from gcos.logs import Log
from gcos.rpc.channels import Channels
from gcos.rpc.memory import pin_malloc_thresholds
from gcos.rpc.security import read_token, require_loopback
from gcos.rpc.server import Running, serving
from gcos.sites import Link, Site
from gcos.store import SqliteStore, Store
from gcos.system import unique_text
from gcos.tables import link
from gcos.v1 import operator_pb2_grpc, site_pb2_grpc, tasks_pb2_grpc
from policies.catalogue import policy_named
from policies.interface import Bidder
from policies.maccs.task_actor import PART as TASK_PART
from site_agent import journal
from site_agent.actors import Actors
from site_agent.artifact_store import ArtifactStore
from site_agent.cache_marks import MARKS_NAME, CacheMarks
from site_agent.config import AgentConfig
from site_agent.copies import Copies
from site_agent.copy_log import CopyLog
from site_agent.copy_planning import Tariff
from site_agent.custody import CustodyShell
from site_agent.demand_log import DemandLog
from site_agent.effects import Now
from site_agent.executors.process import ProcessExecutor
from site_agent.lease import LeaseTerms
from site_agent.migration import Migration
from site_agent.operator_servicer import OperatorServicer
from site_agent.origin import Origin, OriginSettings
from site_agent.outlook import SiteOutlook
from site_agent.participant import Participant
from site_agent.peers import Peers
from site_agent.plan_files import PlanRecords
from site_agent.planning import Planning
from site_agent.run_shell import OUTPUTS_NAME, RunShell
from site_agent.runner import SIGNALS_AHEAD_H, SIGNALS_BEHIND_H, TICK_TASK_COUNT, Runner
from site_agent.serving import ArtifactServicer
from site_agent.signals.profile import ProfileSource
from site_agent.signals.source import SignalSource
from site_agent.site_servicer import SiteServicer
from site_agent.task_bids import TaskBids
from site_agent.task_servicer import TaskServicer
from site_agent.transfer import ArtifactPlane
from site_agent.yardstick import charge_at_origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.core import Metric

    from site_agent.decision_log import DecisionLog

UPLOADS_NAME = "uploads"
PLANS_NAME = "plans"

SERVICES = (
    "gcos.v1.TaskService",
    "gcos.v1.SiteService",
    "gcos.v1.OperatorService",
    "gcos.v1.ArtifactService",
)


async def run_agent(config: AgentConfig, clock: Clock, stopping: asyncio.Event) -> None:
    """Serve as one site until `stopping` is set, then drain.

    Raises:
        GcosError: The configuration is wrong, or the address or data directory is in use.
    """
    pin_malloc_thresholds()
    log = logs.get_logger(site=config.site)
    config = replace_address(config)
    token = read_token(config.token_file)
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock_directory(config.data_dir):
        site = _site(config)
        async with (
            SqliteStore.open(config.data_dir / "journal.db") as store,
            Channels(token, config.routes) as channels,
        ):
            await _Agent(config, site, clock, log, token, store, channels).run(stopping)


class _Agent:
    """The parts of one agent while it runs."""

    def __init__(
        self,
        config: AgentConfig,
        site: Site,
        clock: Clock,
        log: Log,
        token: str,
        store: Store,
        channels: Channels,
    ) -> None:
        self._config = config
        self._site = site
        self._clock = clock
        self._log = log
        self._token = token
        self._store = store
        self._channels = channels

    async def run(self, stopping: asyncio.Event) -> None:
        """Recover, serve, drain."""
        config = self._config
        marks = await asyncio.to_thread(CacheMarks, config.data_dir / MARKS_NAME)
        artifacts = await asyncio.to_thread(
            ArtifactStore.open,
            config.data_dir / "cache",
            site_id=self._site.site_id,
            model_capacity_bytes=config.model_cache_bytes,
            data_capacity_bytes=config.data_cache_bytes,
            eviction=config.eviction,
            # Outputs become artifacts, and uploads lie in a directory of their own until then.
            allowed_roots=(
                *config.artifact_roots,
                (config.data_dir / OUTPUTS_NAME).resolve(),
                (config.data_dir / UPLOADS_NAME).resolve(),
            ),
            pinned=marks.pinned(),
        )
        if config.sources.adopt:
            await asyncio.to_thread(self._adopt, artifacts)
        copy_log = CopyLog(self._store, self._clock, self._log)
        await copy_log.restore()
        async with (
            ArtifactPlane(
                artifacts,
                self._channels,
                self._clock,
                self._log,
                link_cap_bytes_per_s=config.transfer.link_cap_bytes_per_s,
                notes=copy_log,
            ) as plane,
            asyncio.TaskGroup() as group,
        ):
            with contextlib.ExitStack() as stack:
                runner = await self._runner(plane, group, self._recording(stack))
                await self._work(runner, plane, copy_log, marks, group, stopping)
        await copy_log.save()

    def _recording(self, stack: contextlib.ExitStack) -> "DecisionLog | None":
        """Return where decisions go, if anybody wants them."""
        if not self._config.record_decisions:
            return None
        from site_agent.decision_log import DECISIONS_NAME, DecisionLog  # noqa: PLC0415

        return stack.enter_context(DecisionLog(self._config.data_dir / DECISIONS_NAME, self._log))

    async def _work(
        self,
        runner: Runner,
        plane: ArtifactPlane,
        copy_log: CopyLog,
        marks: CacheMarks,
        group: asyncio.TaskGroup,
        stopping: asyncio.Event,
    ) -> None:
        await self._recover(runner)
        loops = self._loops(runner, group)
        loops.append(group.create_task(copy_log.save_forever(), name="copy log"))
        try:
            await self._serve(runner, plane, copy_log, marks, stopping)
        finally:
            for loop in loops:
                loop.cancel()
            runner.cancel_effects()
            runner.peers.hang_up()

    def _adopt(self, artifacts: ArtifactStore) -> None:
        """Serve what lies in other programs' stores too; before anybody else uses the books."""
        from site_agent.adoption import adopt, store_named  # noqa: PLC0415  few agents adopt
        from site_agent.foreign_stores import counts  # noqa: PLC0415

        for name in self._config.sources.adopt:
            path = store_named(name, os.environ, Path.home())
            try:
                adopted = adopt(artifacts, path, now_s=self._clock.world_s())
            except GcosError as exc:
                self._log.warning("store_not_adopted", path=str(path), error=str(exc))
                continue
            skipped = {reason.value: count for reason, count in counts(adopted.skipped).items()}
            self._log.info(
                "store_adopted", path=str(path), artifacts=len(adopted.artifacts), skipped=skipped
            )

    async def _runner(
        self, plane: ArtifactPlane, group: asyncio.TaskGroup, recording: "DecisionLog | None"
    ) -> Runner:
        config = self._config
        now_s = self._clock.world_s()
        source = _signal_source(config)
        signals = await source.signals(
            self._site.zone, now_s - SIGNALS_BEHIND_H * 3600, now_s + SIGNALS_AHEAD_H * 3600
        )
        executor = ProcessExecutor(config.data_dir / "runs", self._clock)
        policy = policy_named(config.policy)
        actors = Actors(policy.learned, config.actor_dir, self._log)
        bidder: Bidder = policy.bidder()
        if TASK_PART in policy.learned:
            bidder = TaskBids(bidder, actors)
        participant = Participant(
            site=self._site,
            cache=plane.cache,
            bidder=bidder if recording is None else recording.bidder(policy.name, bidder),
            links=_link,
            signals=signals,
            byte_ratio=config.world.byte_ratio,
            wait_usd_per_h=config.transfer.wait_usd_per_h,
            may_preempt=config.may_preempt,
            gives_back_late=policy.gives_back_late,
            guarantees_single_execution=executor.guarantees_single_execution,
        )
        origin = Origin(
            settings=OriginSettings(
                site_id=self._site.site_id,
                address=self._site.address,
                lease=LeaseTerms(config.lease_s),
                carbon_price_usd_per_kg=config.carbon_price_usd_per_kg,
                network_kwh_per_gb=config.network_kwh_per_gb,
                scope=config.cost_scope,
                byte_ratio=config.world.byte_ratio,
            ),
            at_origin=lambda task, report: charge_at_origin(
                task,
                report,
                site=participant.site,
                signals=participant.signals,
                byte_ratio=config.world.byte_ratio,
            ),
        )
        peers = Peers(
            self._channels, brokers=config.brokers, predictors=config.predictors, group=group
        )
        here = Holder(self._site.site_id, self._site.zone, self._site.address)
        copies = Copies(
            config=config,
            clock=self._clock,
            migration=Migration(plane.cache, policy.migrator(), config.copies),
            participant=participant,
            plane=plane,
            custody=CustodyShell(
                here=here, journal=self._store, plane=plane, peers=peers, log=self._log
            ),
            links=_link,
            log=self._log,
        )
        now_s = self._clock.world_s()
        planning = Planning(
            clock=self._clock,
            outlook=SiteOutlook(
                participant,
                DemandLog(now_s),
                carbon_price_usd_per_kg=config.carbon_price_usd_per_kg,
                scope=config.cost_scope,
                began_s=now_s,
            ),
            peers=peers,
            tariff=Tariff(
                carbon_price_usd_per_kg=config.carbon_price_usd_per_kg,
                network_kwh_per_gb=config.network_kwh_per_gb,
                links=_link,
                byte_ratio=config.world.byte_ratio,
            ),
            log=self._log,
            actors=actors,
            keep=None
            if config.plan_record_count == 0
            else PlanRecords(config.data_dir / PLANS_NAME, config.plan_record_count).keep,
        )
        return Runner(
            config=config,
            clock=self._clock,
            store=self._store,
            origin=origin,
            participant=participant,
            peers=peers,
            runs=RunShell(
                config=config,
                clock=self._clock,
                executor=executor,
                plane=plane,
                participant=participant,
                links=_link,
            ),
            copies=copies,
            planning=planning,
            actors=actors,
            signal_source=source,
            links=_link,
            group=group,
            log=self._log,
            record_award=None if recording is None else recording.award,
        )

    async def _recover(self, runner: Runner) -> None:
        """Give the cores what the journal knows, before anyone can call."""
        now = Now(self._clock.protocol_s(), self._clock.world_s())
        for entry in await journal.load_ledger(self._store):
            runner.ledger[entry.run_id] = entry
        await runner.copies.custody.restore()
        await runner.refresh_sites()
        tasks = await journal.load_tasks(self._store)
        runs = await journal.load_runs(self._store)
        self._log.info("recovered", tasks=len(tasks), runs=len(runs))
        # Together: the first effect may be a report of this site to itself.
        await runner.apply(
            runner.participant.restore(runs, now=now)
            + runner.origin.restore(
                tasks, now=now, charged=runner.ledger, limit_count=TICK_TASK_COUNT
            )
        )
        runner.recall(tasks)
        await runner.runs.sweep(frozenset(runs))

    def _loops(self, runner: Runner, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        loops = [
            group.create_task(runner.tick_forever(), name="tick"),
            group.create_task(runner.renew_forever(), name="renew"),
            group.create_task(runner.progress_forever(), name="progress"),
            group.create_task(runner.sites_forever(), name="sites"),
            group.create_task(runner.workdirs_forever(), name="workdirs"),
            group.create_task(runner.look_forever(), name="copies"),
            group.create_task(runner.signals_forever(), name="signals"),
            group.create_task(runner.run_times.pull_forever(), name="run times"),
        ]
        if policy_named(self._config.policy).foresight is not None:
            loops.append(group.create_task(runner.plan_forever(), name="plan"))
        loops += [
            group.create_task(runner.beat_forever(address), name=f"beat {address}")
            for address in self._config.brokers
        ]
        return loops

    async def _serve(
        self,
        runner: Runner,
        plane: ArtifactPlane,
        copy_log: CopyLog,
        marks: CacheMarks,
        stopping: asyncio.Event,
    ) -> None:
        site = SiteServicer(runner)
        uploads = self._config.data_dir / UPLOADS_NAME
        operator = OperatorServicer(runner, plane, copy_log, marks, uploads)
        servicer = ArtifactServicer(plane.store)
        register = (
            lambda server: tasks_pb2_grpc.add_TaskServiceServicer_to_server(
                TaskServicer(runner, self._channels), server
            ),
            lambda server: site_pb2_grpc.add_SiteServiceServicer_to_server(site, server),
            lambda server: operator_pb2_grpc.add_OperatorServiceServicer_to_server(
                operator, server
            ),
            servicer.add_to,
        )
        async with serving(
            self._config.address,
            register=register,
            service_names=SERVICES,
            token=self._token,
            log=self._log,
            metrics_address=self._config.metrics_address,
            families=self._families(runner, plane, servicer),
        ) as running:
            self._log.info("agent_serving", address=running.address, zone=self._site.zone)
            try:
                await self._until_stopped(runner, running, stopping)
            finally:
                site.hang_up()
                operator.keep_unfinished()
            self._log.info("agent_stopped")

    def _families(
        self, runner: Runner, plane: ArtifactPlane, servicer: ArtifactServicer
    ) -> "Callable[[], Iterable[Metric]]":
        """Return what reads the metrics of the agent, if anybody wants them."""
        if not self._config.metrics_address:
            return tuple
        from site_agent.metrics import AgentMetrics  # noqa: PLC0415

        return AgentMetrics(runner, plane, servicer).families

    async def _until_stopped(
        self, runner: Runner, running: Running, stopping: asyncio.Event
    ) -> None:
        async with asyncio.TaskGroup() as waits:
            actors = waits.create_task(runner.actors.watch(running.health.set_part))
            failed = waits.create_task(runner.failed.wait())
            stopped = waits.create_task(stopping.wait())
            await asyncio.wait({failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
            actors.cancel()
            failed.cancel()
            stopped.cancel()
        await running.health.set_not_serving()
        if runner.refusal is not None:
            raise runner.refusal
        if not runner.failed.is_set():
            self._log.info("agent_draining")
            await runner.beat_now()
            await runner.drain()


def _site(config: AgentConfig) -> Site:
    return Site(
        site_id=SiteId(config.site),
        incarnation=_incarnation(config.data_dir),
        address=config.address,
        zone=config.zone,
        pue=config.pue,
        pools=config.pools,
        model_cache_bytes=config.model_cache_bytes,
        data_cache_bytes=config.data_cache_bytes,
    )


def _incarnation(data_dir: Path) -> str:
    """Return the random text beside the journal, made with it: who loses the journal is another."""
    path = data_dir / "incarnation"
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(unique_text())
        partial.replace(path)
    return path.read_text().strip()


def _signal_source(config: AgentConfig) -> SignalSource:
    if not config.signals_trace:
        return ProfileSource()
    from site_agent.signals.trace import TraceSource  # noqa: PLC0415  only where there is a trace

    return TraceSource(*[Path(part) for part in config.signals_trace.split(os.pathsep)])


def _link(src_zone: str, dst_zone: str) -> Link:
    facts = link(src_zone, dst_zone)
    return Link(
        rtt_s=facts.rtt_s,
        bytes_per_s=facts.bytes_per_s,
        egress_usd_per_gb=facts.egress_usd_per_gb,
    )


def replace_address(config: AgentConfig) -> AgentConfig:
    """Return the configuration with a real port where port 0 was asked for."""
    require_loopback(config.address)
    host, _, port = config.address.rpartition(":")
    if port != "0":
        return config
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host.strip("[]"), 0))
        free = probe.getsockname()[1]
    return replace(config, address=f"{host}:{free}")
