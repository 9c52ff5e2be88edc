"""The client's face of an agent: decode, ask the runner, encode."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc.aio

from gcos.contract_net import Change
from gcos.errors import (
    GcosError,
    InvalidRequestError,
    InvalidTaskError,
    UnavailableError,
    UnknownSiteError,
    WrongStateError,
)
from gcos.ids import RunId, SiteId, TaskId
from gcos.rpc.channels import Channels
from gcos.rpc.status import translated
from gcos.rpc.wire import to_proto
from gcos.task_record import Task
from gcos.tasks import TaskSpec, TaskState
from gcos.v1 import common_pb2, site_pb2, site_pb2_grpc, tasks_pb2, tasks_pb2_grpc
from site_agent.auction import Judgement, judge
from site_agent.forwarding import Forwarder, origin_address
from site_agent.heard_log import last_heard, since
from site_agent.journal import load_events
from site_agent.negotiation import Ground
from site_agent.runner import Runner
from site_agent.sent_workdirs import Outcome, sent
from site_agent.what_if import DeadlineSearch, changes

Context = grpc.aio.ServicerContext[Any, Any]

LIST_COUNT_MAX = 1000
WATCH_PAUSE_S = 10.0
LOG_PAUSE_S = 0.2
#: Protocol seconds for finding the nearest deadline that would change a plan.
SEARCH_S = 3.0


class TaskServicer(tasks_pb2_grpc.TaskServiceServicer):
    """Tasks of this origin; calls about other origins' tasks are passed on."""

    def __init__(self, runner: Runner, channels: Channels) -> None:
        self._runner = runner
        self._channels = channels
        self._forward = Forwarder(channels)

    async def Submit(
        self, request: tasks_pb2.SubmitRequest, context: Context
    ) -> tasks_pb2.SubmitResponse:
        """Take a task durably; a working directory that was sent for one that is not taken goes."""
        del context
        outcome = Outcome.UNKNOWN
        try:
            task, is_repeat = await self._submitted(request)
            outcome = Outcome.REFUSED if is_repeat else Outcome.TAKEN
        except UnavailableError:  # a client may repeat it elsewhere, or here
            raise
        except GcosError:
            outcome = Outcome.REFUSED
            raise
        finally:
            if request.workdir:
                await self._settle_workdir(request.workdir, outcome)
        return tasks_pb2.SubmitResponse(task=_task(task), durability="local", is_repeat=is_repeat)

    async def _submitted(self, request: tasks_pb2.SubmitRequest) -> tuple[Task, bool]:
        spec = await self._parsed(request.document, request.workdir)
        if request.request_id or spec.request_id:
            spec = await self._identified(spec, request)
        async with _located(request.document):
            return await self._runner.submit(spec)

    async def _settle_workdir(self, reference: str, outcome: Outcome) -> None:
        """Let go what was sent along with a submission, unless a task was made of it."""
        with contextlib.suppress(GcosError, OSError):  # no reference, or no disk: the answer stands
            self._runner.workdirs.submitted(reference, outcome)
            await self._runner.drop_workdirs()

    async def Plan(
        self, request: tasks_pb2.PlanRequest, context: Context
    ) -> tasks_pb2.PlanResponse:
        """Show candidates and change nothing."""
        del context
        spec = await self._parsed(request.document, request.workdir, is_plan=True)
        async with _located(request.document):
            auction, ground = await self._runner.plan(spec)
        judged = judge(spec, auction)
        terms = self._runner.origin.terms_of(spec, auction.predictions)
        found = changes(
            spec,
            judged,
            auction.bids,
            terms,
            deadline=await self._nearest_deadline(spec, judged, ground),
        )
        return tasks_pb2.PlanResponse(
            bids=[to_proto(bid, common_pb2.Bid) for bid in judged.ranked],
            refusals=[to_proto(refusal, common_pb2.Refusal) for refusal in judged.refusals],
            chosen_site_id=judged.ranked[0].site_id if judged.ranked else None,
            predictions=[to_proto(p, common_pb2.Prediction) for p in auction.predictions],
            terms=to_proto(terms, common_pb2.Terms),
            scales=self._scales(),
            changes=[to_proto(change, tasks_pb2.Change) for change in found],
        )

    async def _nearest_deadline(
        self, spec: TaskSpec, judged: Judgement, ground: Ground
    ) -> Change | None:
        """Return the nearest deadline that would change the answer.

        A bid changes nothing, so asking costs only the asking: of the sites that made an offer,
        at most `PROBE_COUNT_MAX` times and within `SEARCH_S`.
        """
        search = DeadlineSearch(spec, judged, now_s=self._runner.now().world_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SEARCH_S):
                while (deadline_s := search.probe_s) is not None:
                    relaxed = replace(spec, deadline_s=deadline_s)
                    auction = await self._runner.plan_again(relaxed, ground)
                    search.answered(judge(relaxed, auction))
        return search.found

    async def GetTask(
        self, request: tasks_pb2.GetTaskRequest, context: Context
    ) -> tasks_pb2.GetTaskResponse:
        """Read one task."""
        address = origin_address(self._runner, request.task_id, context)
        if address is not None:
            call = self._forward.stub(address).GetTask
            return await self._forward.unary(call, request, context, tasks_pb2.GetTaskResponse)
        task = self._runner.origin.seen(TaskId(request.task_id), now=self._runner.now())
        await self._runner.written()  # no crash can take back what a client is told
        return tasks_pb2.GetTaskResponse(task=_task(task))

    async def ListTasks(
        self, request: tasks_pb2.ListTasksRequest, context: Context
    ) -> tasks_pb2.ListTasksResponse:
        """Read this origin's tasks, newest first."""
        del context
        origin = self._runner.origin
        if request.limit_count < 0:
            raise InvalidRequestError(
                f"{request.limit_count} tasks; must be 0 or more",
                field="limit_count",
                hint="ask for 0 to get all of them",
            )
        limit = min(request.limit_count or LIST_COUNT_MAX, LIST_COUNT_MAX)
        now = self._runner.now()
        ids = origin.active if request.only_active else origin.tasks
        tasks = sorted(
            (origin.seen(task_id, now=now) for task_id in ids),
            key=lambda task: (-task.submitted_s, task.task_id),
        )
        await self._runner.written()
        return tasks_pb2.ListTasksResponse(tasks=[_task(_untailed(t)) for t in tasks[:limit]])

    async def WatchTask(
        self, request: tasks_pb2.WatchTaskRequest, context: Context
    ) -> AsyncIterator[tasks_pb2.WatchTaskResponse]:
        """Read one task at each change until it ends."""
        address = origin_address(self._runner, request.task_id, context)
        if address is not None:
            call = self._forward.stub(address).WatchTask
            async for response in self._forward.stream(call, request, context):
                yield response
            return
        last: Task | None = None
        while last is None or not last.state.is_terminal:
            task = _untailed(self._runner.origin.task(TaskId(request.task_id)))
            if task != last:
                last = task
                await self._runner.written()
                yield tasks_pb2.WatchTaskResponse(task=_task(task))
                continue
            await self._runner.changed(timeout_s=WATCH_PAUSE_S)

    async def CancelTask(
        self, request: tasks_pb2.CancelTaskRequest, context: Context
    ) -> tasks_pb2.CancelTaskResponse:
        """End a task."""
        address = origin_address(self._runner, request.task_id, context)
        if address is not None:
            call = self._forward.stub(address).CancelTask
            return await self._forward.unary(call, request, context, tasks_pb2.CancelTaskResponse)
        task, is_cancelled = await self._runner.cancel(TaskId(request.task_id))
        return tasks_pb2.CancelTaskResponse(task=_task(task), is_cancelled=is_cancelled)

    async def ExplainTask(
        self, request: tasks_pb2.ExplainTaskRequest, context: Context
    ) -> tasks_pb2.ExplainTaskResponse:
        """Read how the task came to be where it is."""
        address = origin_address(self._runner, request.task_id, context)
        if address is not None:
            call = self._forward.stub(address).ExplainTask
            return await self._forward.unary(call, request, context, tasks_pb2.ExplainTaskResponse)
        task = self._runner.origin.seen(TaskId(request.task_id), now=self._runner.now())
        await self._runner.written()
        events = await load_events(self._runner.store, task.task_id)
        return tasks_pb2.ExplainTaskResponse(
            task=_task(task),
            events=[to_proto(event, tasks_pb2.TaskEvent) for event in events],
            scales=self._scales(),
        )

    async def ReadLog(
        self, request: tasks_pb2.ReadLogRequest, context: Context
    ) -> AsyncIterator[tasks_pb2.ReadLogResponse]:
        """Read the output of the latest attempt, wherever it runs.

        Where its site does not give it, the last lines that this origin was told of are read.
        """
        address = origin_address(self._runner, request.task_id, context)
        if address is not None:
            call = self._forward.stub(address).ReadLog
            async for response in self._forward.stream(call, request, context):
                yield response
            return
        task_id = TaskId(request.task_id)
        #: The attempt that is being read, and from where on it is to be read next.
        reading, offset = RunId(request.run_id), checked_offset(request.offset_bytes)
        #: How far it was told from hearsay since it was last read; None: not at all.
        told_bytes: int | None = None
        while True:
            task = self._runner.origin.task(task_id)
            run_id, site_id = latest_attempt(task)
            if run_id != reading:
                # Without an attempt's name, an offset is one of the first that there is.
                reading, offset = run_id, 0 if reading else offset
                told_bytes = None
            if site_id is not None:
                try:
                    pieces = self._run_log(site_id, run_id, offset=offset, follow=request.follow)
                    async for position, data in pieces:
                        offset, told_bytes = position + len(data), None
                        yield tasks_pb2.ReadLogResponse(
                            data=data, offset_bytes=position, run_id=run_id
                        )
                except GcosError as exc:
                    # The site is away. Who follows waits for it, or for the next attempt.
                    heard = last_heard(task, run_id)
                    if task.report is not None and offset:
                        heard = None  # how much of what came with it has been read, nobody knows
                    if heard is None and (not request.follow or task.state.is_terminal):
                        if isinstance(exc, UnavailableError):
                            exc.hint = (
                                f"{site_id} keeps the output until it is back; where the task "
                                f"stands: gcos status {task_id}"
                            )
                        raise
                    begin = max(offset, told_bytes or 0)
                    is_news = told_bytes is None or (
                        heard is not None and heard.tail.end_bytes > begin
                    )
                    if heard is not None and is_news:
                        position, data = since(heard.tail, begin)
                        yield tasks_pb2.ReadLogResponse(
                            data=data,
                            offset_bytes=position,
                            run_id=run_id,
                            heard_s=heard.heard_s,
                            site_id=heard.site_id,
                            is_silent=isinstance(exc, UnavailableError | UnknownSiteError),
                        )
                        told_bytes = heard.tail.end_bytes
                        if heard.tail.offset_bytes <= offset:  # else the site has what is between
                            offset = max(offset, told_bytes)
            if not request.follow or task.state.is_terminal:
                return
            await self._runner.changed(timeout_s=LOG_PAUSE_S)

    async def _run_log(
        self, site_id: SiteId, run_id: RunId, *, offset: int, follow: bool
    ) -> AsyncIterator[tuple[int, bytes]]:
        if site_id == self._runner.participant.site.site_id:
            async for piece in run_log(self._runner, run_id, offset=offset, follow=follow):
                yield piece
            return
        stub = self._site(site_id)
        request = site_pb2.ReadRunLogRequest(run_id=run_id, follow=follow, offset_bytes=offset)
        with translated(f"site {site_id}"):
            async for response in stub.ReadRunLog(request, timeout=None if follow else 30.0):
                yield response.offset_bytes, response.data

    async def ReadResults(
        self, request: tasks_pb2.ReadResultsRequest, context: Context
    ) -> AsyncIterator[tasks_pb2.ReadResultsResponse]:
        """Read the files that the run which ended the task left behind."""
        address = origin_address(self._runner, request.task_id, context)
        if address is not None:
            call = self._forward.stub(address).ReadResults
            async for response in self._forward.stream(call, request, context):
                yield response
            return
        task = self._runner.origin.task(TaskId(request.task_id))
        report = task.report
        if report is None or task.state is not TaskState.SUCCEEDED:
            raise WrongStateError(
                f"task {task.task_id} is {task.state.value}: only a success leaves results",
                hint="wait for it with: gcos wait, or see why with: gcos explain",
            )
        if report.site_id == self._runner.participant.site.site_id:
            async for path, size_bytes, data in run_files(self._runner, report.run_id):
                yield tasks_pb2.ReadResultsResponse(path=path, size_bytes=size_bytes, data=data)
            return
        stub = self._site(report.site_id)
        with translated(f"site {report.site_id}"):
            async for piece in stub.ReadRunFiles(
                site_pb2.ReadRunFilesRequest(run_id=report.run_id),
                timeout=context.time_remaining(),
            ):
                yield tasks_pb2.ReadResultsResponse(
                    path=piece.path, size_bytes=piece.size_bytes, data=piece.data
                )

    def _site(self, site_id: SiteId) -> "site_pb2_grpc.SiteServiceAsyncStub":
        return site_pb2_grpc.SiteServiceStub(self._channels.get(self._runner.address_of(site_id)))

    async def ListLedger(
        self, request: tasks_pb2.ListLedgerRequest, context: Context
    ) -> tasks_pb2.ListLedgerResponse:
        """Read this origin's ledger, oldest first."""
        del context
        if not math.isfinite(request.since_s):
            raise InvalidRequestError(
                "must be a finite instant", field="since_s", hint="ask for 0 to get all entries"
            )
        entries = sorted(
            (e for e in self._runner.ledger.values() if e.ended_s >= request.since_s),
            key=lambda entry: (entry.ended_s, entry.run_id),
        )
        return tasks_pb2.ListLedgerResponse(
            entries=[to_proto(entry, tasks_pb2.LedgerEntry) for entry in entries],
            scales=self._scales(),
        )

    async def _parsed(self, document: bytes, workdir: str, *, is_plan: bool = False) -> TaskSpec:
        """Return the spec; a hostile document takes most of a second, and leases must not wait.

        Args:
            document: As in the request.
            workdir: Reference that stands in for a local directory; empty: none.
            is_plan: A local directory counts as nothing rather than being refused.
        """
        # Reading YAML takes as long to import as gRPC; an agent serves before it needs it.
        from gcos.shapes import is_local_directory  # noqa: PLC0415
        from gcos.spec import line_of, parse_document  # noqa: PLC0415

        spec = await asyncio.to_thread(
            parse_document, document, submitted_s=self._runner.now().world_s
        )
        if spec.workdir is None or not is_local_directory(spec.workdir):
            return spec
        if not workdir and is_plan:
            return replace(spec, workdir=None)  # a plan need not wait for an upload
        if not workdir:
            raise InvalidTaskError(
                f"{spec.workdir[:80]!r} is a directory of the submitter's machine",
                field="workdir",
                line=await asyncio.to_thread(line_of, document, "workdir"),
                hint="gcos submit sends it; else upload it with PutArtifact and name the artifact",
            )
        is_sent = sent(workdir) is not None and not is_plan
        return replace(spec, workdir=workdir, is_workdir_sent=is_sent)

    @staticmethod
    async def _identified(spec: TaskSpec, request: tasks_pb2.SubmitRequest) -> TaskSpec:
        """Return the spec with its request id, and with what tells a repeat from another task.

        Raises:
            InvalidRequestError: The request id is none.
        """
        from gcos.spec import checked_request_id, document_digest  # noqa: PLC0415

        request_id = request.request_id or spec.request_id or ""
        digest = await asyncio.to_thread(document_digest, request.document, workdir=request.workdir)
        return replace(spec, request_id=checked_request_id(request_id), document_digest=digest)

    def _scales(self) -> tasks_pb2.Scales:
        world = self._runner.config.world
        return tasks_pb2.Scales(speed_ratio=world.speed, byte_ratio=world.byte_ratio)


def latest_attempt(task: Task) -> tuple[RunId, SiteId | None]:
    """Return the attempt that ran last or runs, and where; no site before the first award."""
    if task.report is not None:
        return task.report.run_id, task.report.site_id
    has_run = task.fence.attempt > 0 and task.bid is not None
    return task.active_run_id, task.bid.site_id if has_run and task.bid is not None else None


@contextlib.asynccontextmanager
async def _located(document: bytes) -> AsyncIterator[None]:
    """Add its line to an error about a field that is found after the document was read."""
    from gcos.spec import line_of  # noqa: PLC0415

    try:
        yield
    except GcosError as exc:
        if exc.field and not exc.line:
            line = await asyncio.to_thread(line_of, document, exc.field)
            if line:
                exc.locate(line)
        raise


def checked_offset(offset: int) -> int:
    """Return `offset` if output may begin there.

    Raises:
        InvalidRequestError: It is negative.
    """
    if offset < 0:
        raise InvalidRequestError(
            f"byte {offset} of an output", field="offset_bytes", hint="begin at 0 or later"
        )
    return offset


async def run_log(
    runner: Runner, run_id: RunId, *, offset: int, follow: bool
) -> AsyncIterator[tuple[int, bytes]]:
    """Yield the output of a run at this site from byte `offset` on, each piece with its place.

    Raises:
        NotFoundError: No such run here.
    """
    while True:
        data, has_ended = await runner.runs.read_log(run_id, offset)
        if data:
            yield offset, data
            offset += len(data)
        elif has_ended or not follow:
            return
        else:
            await runner.changed(timeout_s=LOG_PAUSE_S)


async def run_files(runner: Runner, run_id: RunId) -> AsyncIterator[tuple[str, int, bytes]]:
    """Yield path, size and bytes of the files that a run left here.

    The first piece of each file carries its path and size, the others an empty path.

    Raises:
        NotFoundError: Nothing of the run is kept here.
    """
    outputs = runner.runs.outputs
    for path, size_bytes in await asyncio.to_thread(outputs.files, run_id):
        chunks = outputs.chunks(run_id, path)
        name, size = path, size_bytes
        while (data := await asyncio.to_thread(next, chunks, b"")) or name:
            yield name, size, data
            name, size = "", 0


def _untailed(task: Task) -> Task:
    """Return the task without its tail, which would outgrow a list and make news of each line."""
    return task if task.tail is None else replace(task, tail=None)


def _task(task: Task) -> tasks_pb2.Task:
    return to_proto(task, tasks_pb2.Task)
