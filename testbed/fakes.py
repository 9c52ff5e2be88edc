"""Fakes that talk real gRPC on loopback, for tests of what stands on their other side."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import grpc.aio
import structlog

from gcos.artifacts import Artifact, ArtifactKind, CacheEntry, CacheUsage
from gcos.client_records import (
    AddedArtifact,
    Cancellation,
    HourlySignal,
    Plan,
    Scales,
    SiteCache,
    SiteCopyLog,
    SiteLedger,
    SiteListing,
    SiteSignalsReading,
    Submission,
    TaskHistory,
)
from gcos.copy_events import CopyEvent
from gcos.errors import GcosError, UnknownTaskError
from gcos.ids import ArtifactId, Fence, SiteId, TaskId, task_id
from gcos.known_sites import KnownSite
from gcos.ledger import LedgerEntry
from gcos.rpc.server import Running, serving
from gcos.rpc.wire import to_proto
from gcos.signals import CARBON_UNIT, PRICE_UNIT, EmissionFactor, Provenance, SignalKind
from gcos.sites import Pool, PoolDigest, Site, SiteDigest
from gcos.spec import parse_document
from gcos.task_events import TaskEvent
from gcos.task_record import Task
from gcos.tasks import Reason, TaskState
from gcos.v1 import operator_pb2, operator_pb2_grpc, tasks_pb2, tasks_pb2_grpc
from testbed.samples import DE, NOW_S

Context = grpc.aio.ServicerContext[Any, Any]

FAKE_TOKEN: Final = "a-token-for-tests-0123"  # noqa: S105  opens nothing but the fakes
FAKE_NOW_S: Final = NOW_S
"""World instant at which fakes stand still: 2026-11-23T14:05:00Z."""

_SERVICES: Final = ("gcos.v1.TaskService", "gcos.v1.OperatorService")


@dataclass
class FakeAgent(tasks_pb2_grpc.TaskServiceServicer, operator_pb2_grpc.OperatorServiceServicer):
    """An agent that runs nothing: it keeps what a test puts into it and answers with that.

    World time stands still at `FAKE_NOW_S`. Tasks change by `put` alone.

    Attributes:
        site_id: Its site.
        tasks: What it owns.
        plan: What it answers to every plan.
        log: Pieces of output of every task.
        log_heard_s: World instant at which the site that wrote the output was last heard; None: it
            answers.
        events: What it tells of every task.
        ledger: Its ledger entries.
        entries: What its caches hold.
        copy_events: What it decided about copies.
        peers: Other agents that it knows.
        refusal: Raised by every call that concerns tasks, where it is set.
        is_broker_away: It then calls its list of sites stale.
        scales: How it says that the world is scaled.
        documents: Documents that it was sent, with their request ids.
        added: Paths that it was asked to add.
        watch_count: Watches opened so far.
    """

    site_id: SiteId = DE
    tasks: dict[TaskId, Task] = field(default_factory=dict)
    plan: Plan | None = None
    log: tuple[bytes, ...] = ()
    log_heard_s: float | None = None
    events: tuple[TaskEvent, ...] = ()
    ledger: tuple[LedgerEntry, ...] = ()
    entries: tuple[CacheEntry, ...] = ()
    copy_events: tuple[CopyEvent, ...] = ()
    peers: "tuple[FakeAgent, ...]" = ()
    refusal: GcosError | None = None
    is_broker_away: bool = False
    scales: Scales = field(default_factory=Scales)
    documents: list[tuple[bytes, str]] = field(default_factory=list)
    added: list[Path] = field(default_factory=list)
    watch_count: int = 0
    #: Where it serves; the port of the first time is kept, as that of a restarted agent.
    address: str = "127.0.0.1:0"
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @contextlib.asynccontextmanager
    async def serving(self, token: str = FAKE_TOKEN) -> AsyncIterator[Running]:
        """Serve until the block ends; calls in progress are cut off then, as by a crash."""

        def register(server: grpc.aio.Server) -> None:
            tasks_pb2_grpc.add_TaskServiceServicer_to_server(self, server)
            operator_pb2_grpc.add_OperatorServiceServicer_to_server(self, server)

        async with serving(
            self.address,
            register=[register],
            service_names=_SERVICES,
            token=token,
            log=structlog.wrap_logger(None, processors=[_drop]),
            grace_s=0.0,
        ) as running:
            self.address = running.address
            yield running

    async def put(self, task: Task) -> None:
        """Let `task` be as it now is; who watches it is told."""
        async with self._changed:
            self.tasks[task.task_id] = task
            self._changed.notify_all()

    @property
    def site(self) -> Site:
        """What it says of itself."""
        return Site(
            site_id=self.site_id,
            incarnation="fake",
            address=self.address,
            zone=self.site_id.upper(),
            pue=1.2,
            pools=(
                Pool("H100", 8, speed_ratio=1.0, active_kw=0.9, idle_kw=0.1, usd_per_gpu_h=2.0),
            ),
            model_cache_bytes=2_000_000_000,
            data_cache_bytes=1_000_000_000,
        )

    @property
    def digest(self) -> SiteDigest:
        """How busy it says it is."""
        return SiteDigest(
            pools=(PoolDigest("H100", gpu_count=8, free_count=5, committed_gpu_s=60.0),),
            carbon_gco2_per_kwh=210.0,
            price_usd_per_kwh=0.08,
            is_draining=False,
            run_count=3,
            awarded_count=4,
            holdings=tuple(entry.artifact for entry in self.entries),
        )

    async def Submit(  # noqa: N802
        self, request: tasks_pb2.SubmitRequest, context: Context
    ) -> tasks_pb2.SubmitResponse:
        """Take a task; a known request id gets the earlier one."""
        del context
        self._refuse()
        spec = parse_document(request.document, submitted_s=FAKE_NOW_S)
        self.documents.append((request.document, request.request_id))
        spec = replace(spec, request_id=request.request_id or spec.request_id)
        for earlier in self.tasks.values():
            if spec.request_id is not None and earlier.spec.request_id == spec.request_id:
                answer = Submission(earlier, durability="local", is_repeat=True)
                return to_proto(answer, tasks_pb2.SubmitResponse)
        task = Task(
            task_id=task_id(self.site_id, f"{len(self.documents):013}"),
            origin=self.site_id,
            spec=spec,
            submitted_s=FAKE_NOW_S,
            state=TaskState.QUEUED,
            reason=Reason.SUBMITTED,
            message="taken",
            needs=(),
            fence=Fence(),
        )
        await self.put(task)
        answer = Submission(task, durability="local", is_repeat=False)
        return to_proto(answer, tasks_pb2.SubmitResponse)

    async def Plan(  # noqa: N802
        self, request: tasks_pb2.PlanRequest, context: Context
    ) -> tasks_pb2.PlanResponse:
        """Answer with the plan that the test has put here."""
        del context
        self._refuse()
        parse_document(request.document, submitted_s=FAKE_NOW_S)
        assert self.plan is not None, "the test gives a plan"
        return to_proto(self.plan, tasks_pb2.PlanResponse)

    async def GetTask(  # noqa: N802
        self, request: tasks_pb2.GetTaskRequest, context: Context
    ) -> tasks_pb2.GetTaskResponse:
        """Read one task."""
        del context
        self._refuse()
        return tasks_pb2.GetTaskResponse(task=_message(self._task(request.task_id)))

    async def ListTasks(  # noqa: N802
        self, request: tasks_pb2.ListTasksRequest, context: Context
    ) -> tasks_pb2.ListTasksResponse:
        """Read its tasks."""
        del context
        self._refuse()
        tasks = [
            t for t in self.tasks.values() if not (request.only_active and t.state.is_terminal)
        ]
        return tasks_pb2.ListTasksResponse(tasks=[_message(task) for task in tasks])

    async def WatchTask(  # noqa: N802
        self, request: tasks_pb2.WatchTaskRequest, context: Context
    ) -> AsyncIterator[tasks_pb2.WatchTaskResponse]:
        """Read one task at each change until it ends."""
        del context
        self._refuse()
        self.watch_count += 1
        async with self._changed:
            while True:
                task = self._task(request.task_id)
                yield tasks_pb2.WatchTaskResponse(task=_message(task))
                if task.state.is_terminal:
                    return
                await self._changed.wait()

    async def CancelTask(  # noqa: N802
        self, request: tasks_pb2.CancelTaskRequest, context: Context
    ) -> tasks_pb2.CancelTaskResponse:
        """End one task."""
        del context
        self._refuse()
        task = self._task(request.task_id)
        if task.state.is_terminal:
            return to_proto(Cancellation(task, is_cancelled=False), tasks_pb2.CancelTaskResponse)
        task = replace(task, state=TaskState.CANCELLED, reason=Reason.CANCELLED_BY_USER)
        await self.put(task)
        return to_proto(Cancellation(task, is_cancelled=True), tasks_pb2.CancelTaskResponse)

    async def ExplainTask(  # noqa: N802
        self, request: tasks_pb2.ExplainTaskRequest, context: Context
    ) -> tasks_pb2.ExplainTaskResponse:
        """Tell of one task what the test has put here."""
        del context
        self._refuse()
        told = TaskHistory(self._task(request.task_id), self.events, self.scales)
        return to_proto(told, tasks_pb2.ExplainTaskResponse)

    async def ReadLog(  # noqa: N802
        self, request: tasks_pb2.ReadLogRequest, context: Context
    ) -> AsyncIterator[tasks_pb2.ReadLogResponse]:
        """Read the output that the test has put here."""
        del context
        self._refuse()
        self._task(request.task_id)
        position = 0
        for piece in self.log:
            told = tasks_pb2.ReadLogResponse(
                data=piece, offset_bytes=position, run_id=f"{request.task_id}.1.1"
            )
            if self.log_heard_s is not None:
                told.heard_s, told.site_id, told.is_silent = self.log_heard_s, self.site_id, True
            yield told
            position += len(piece)

    async def ListLedger(  # noqa: N802
        self, request: tasks_pb2.ListLedgerRequest, context: Context
    ) -> tasks_pb2.ListLedgerResponse:
        """Read its ledger."""
        del context
        self._refuse()
        entries = tuple(entry for entry in self.ledger if entry.ended_s >= request.since_s)
        return to_proto(SiteLedger(entries, self.scales), tasks_pb2.ListLedgerResponse)

    async def DescribeSite(  # noqa: N802
        self, request: operator_pb2.DescribeSiteRequest, context: Context
    ) -> operator_pb2.DescribeSiteResponse:
        """Read what it says of itself."""
        del request, context
        known = to_proto(KnownSite(self.site, self.digest, 0.0), operator_pb2.KnownSite)
        return operator_pb2.DescribeSiteResponse(site=known.site, digest=known.digest)

    async def ListSites(  # noqa: N802
        self, request: operator_pb2.ListSitesRequest, context: Context
    ) -> operator_pb2.ListSitesResponse:
        """Read itself and its peers."""
        del request, context
        sites = tuple(
            KnownSite(agent.site, agent.digest, age_s=1.0)
            for agent in sorted((self, *self.peers), key=lambda agent: agent.site_id)
        )
        listing = SiteListing(sites, is_fresh=not self.is_broker_away)
        return to_proto(listing, operator_pb2.ListSitesResponse)

    async def ListCache(  # noqa: N802
        self, request: operator_pb2.ListCacheRequest, context: Context
    ) -> operator_pb2.ListCacheResponse:
        """Read what its caches hold."""
        del request, context
        capacities = (
            (ArtifactKind.MODEL, self.site.model_cache_bytes),
            (ArtifactKind.DATA, self.site.data_cache_bytes),
        )
        usages = tuple(
            CacheUsage(kind, capacity_bytes, occupied_bytes=self._occupied(kind), reserved_bytes=0)
            for kind, capacity_bytes in capacities
        )
        cache = SiteCache(self.site_id, usages, self.entries)
        return to_proto(cache, operator_pb2.ListCacheResponse)

    async def ReadCopyLog(  # noqa: N802
        self, request: operator_pb2.ReadCopyLogRequest, context: Context
    ) -> operator_pb2.ReadCopyLogResponse:
        """Read what it decided about copies."""
        del context
        found = [
            event
            for event in self.copy_events
            if request.task_id in ("", event.task_id or "")
            and (not request.artifact_ids or event.artifact_id in request.artifact_ids)
        ]
        return to_proto(SiteCopyLog(self.site_id, tuple(found)), operator_pb2.ReadCopyLogResponse)

    async def AddArtifact(  # noqa: N802
        self, request: operator_pb2.AddArtifactRequest, context: Context
    ) -> operator_pb2.AddArtifactResponse:
        """Note the wish; the artifact is made up."""
        del context
        self._refuse()
        self.added.append(Path(request.path))
        kind = {1: ArtifactKind.MODEL, 2: ArtifactKind.DATA}[request.kind]
        artifact_id = ArtifactId("sha256:" + "0" * 64)
        artifact = Artifact(artifact_id, kind, request.name, 1_500_000_000, self.site_id)
        return to_proto(AddedArtifact(artifact, is_new=True), operator_pb2.AddArtifactResponse)

    async def ReadSignals(  # noqa: N802
        self, request: operator_pb2.ReadSignalsRequest, context: Context
    ) -> operator_pb2.ReadSignalsResponse:
        """Read signals that are lowest three hours from now."""
        del context
        hours = range(request.horizon_h or 24)
        start_s = FAKE_NOW_S // 3600 * 3600
        said = Provenance(
            source="fake table",
            zone=self.site.zone,
            kind=SignalKind.AVERAGE,
            factor=EmissionFactor.LIFECYCLE,
            issued_s=FAKE_NOW_S,
            is_estimated=True,
        )
        reading = SiteSignalsReading(
            site_id=self.site_id,
            zone=self.site.zone,
            now_s=FAKE_NOW_S,
            carbon=HourlySignal(
                start_s, tuple(200.0 + 10 * abs(hour - 3) for hour in hours), CARBON_UNIT, said
            ),
            price=HourlySignal(
                start_s,
                tuple(0.05 + 0.01 * abs(hour - 3) for hour in hours),
                PRICE_UNIT,
                replace(said, kind=None, factor=None),
            ),
        )
        return to_proto(reading, operator_pb2.ReadSignalsResponse)

    def _occupied(self, kind: ArtifactKind) -> int:
        artifacts = (entry.artifact for entry in self.entries)
        return sum(artifact.size_bytes for artifact in artifacts if artifact.kind is kind)

    def _refuse(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def _task(self, wanted: str) -> Task:
        task = self.tasks.get(TaskId(wanted))
        if task is None:
            raise UnknownTaskError(f"no task {wanted} at {self.site_id}", hint="see: gcos queue")
        return task


def _message(task: Task) -> tasks_pb2.Task:
    return to_proto(task, tasks_pb2.Task)


def _drop(_logger: object, _method: str, _event: Any) -> Any:
    raise structlog.DropEvent
