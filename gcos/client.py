"""The client of a cluster, asynchronous and typed: what the command line itself uses.

    async with Client.connect() as client:
        submission = await client.submit(Path("job.yaml").read_bytes())
        task = await client.wait(submission.task.task_id)

Any agent answers for any task, since an id names the task's origin and agents pass calls on. So
where several agents are known, the first one that answers is used; where it stops answering, the
next one is, and a line says so. What must not be done twice is handed only to an agent that has
just answered.
"""

import asyncio
import contextlib
import difflib
import logging
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from gcos.artifacts import SENT_WORKDIR_PREFIX, ArtifactKind
from gcos.client_records import (
    AddedArtifact,
    Cancellation,
    ClusterLedger,
    Explanation,
    Gathered,
    LogPiece,
    PinnedArtifact,
    Plan,
    Pruned,
    PullProgress,
    RemovedArtifact,
    Results,
    Scales,
    SiteCache,
    SiteCopyLog,
    SiteLedger,
    SiteListing,
    SiteSignalsReading,
    Submission,
    TaskHistory,
    Unreachable,
    VerifiedArtifact,
)
from gcos.clock import Clock
from gcos.copy_events import COPY_EVENT_COUNT, COPY_EVENT_COUNT_MAX, standing
from gcos.errors import (
    GcosError,
    InvalidRequestError,
    PeerUnreachableError,
    UnauthenticatedError,
    UnavailableError,
    UnknownSiteError,
)
from gcos.home import discover
from gcos.ids import RunId, SiteId, TaskId
from gcos.rpc.channels import CALL_TIMEOUT_S, Channels
from gcos.rpc.security import read_token
from gcos.rpc.status import translated
from gcos.rpc.wire import from_proto
from gcos.sites import Site
from gcos.system import SystemClock
from gcos.task_record import Task
from gcos.transfer_files import Arriving, content_id, files_of, pieces_of
from gcos.v1 import common_pb2, operator_pb2, operator_pb2_grpc, tasks_pb2, tasks_pb2_grpc

#: A submission is journalled with fsync at two sites before it is acknowledged.
SUBMIT_TIMEOUT_S: Final = 30.0
#: A plan asks predictor, broker and sites.
PLAN_TIMEOUT_S: Final = 30.0
#: Adding an artifact hashes all of its bytes.
ADD_TIMEOUT_S: Final = 3600.0
#: A large model over a slow line, or a large cache read again.
PULL_TIMEOUT_S: Final = 2 * 86_400.0
#: What rounds an answer off, and is left out where it takes longer.
ASIDE_TIMEOUT_S: Final = 3.0
#: Removing many files takes a while.
PRUNE_TIMEOUT_S: Final = 600.0
#: A watch is opened anew after so long, so that no stream outlives its peer unnoticed.
WATCH_STREAM_S: Final = 600.0
LOG_STREAM_S: Final = 7 * 86_400.0
#: How long a watch puts up with a cluster that does not answer, protocol seconds.
OUTAGE_S_MAX: Final = 300.0
BACKOFF_S_MIN: Final = 0.1
BACKOFF_S_MAX: Final = 3.0
HORIZON_H_DEFAULT: Final = 24
#: Characters of a task's name in the name of the artifact that its `workdir` is sent as.
WORKDIR_WORDS_MAX: Final = 60
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+")

AnswerT = TypeVar("AnswerT")

_LOG: Final = logging.getLogger("gcos.client")

_KINDS: Final = {
    ArtifactKind.MODEL: common_pb2.ARTIFACT_KIND_MODEL,
    ArtifactKind.DATA: common_pb2.ARTIFACT_KIND_DATA,
}


class Client:
    """Calls a cluster through one of its agents. Made by `connect`.

    Every method raises `PeerUnreachableError` where nobody answers in time, and otherwise the
    `GcosError` that the agent answers with.
    """

    def __init__(
        self,
        channels: Channels,
        site: Site,
        agents: tuple[str, ...],
        clock: Clock,
        pause: Callable[[float], Awaitable[None]],
        tell: Callable[[str], None],
        preferred: str,
    ) -> None:
        self._channels = channels
        self._site = site
        #: The agent in use comes first.
        self._agents = agents
        self._clock = clock
        self._pause = pause
        self._tell = tell
        #: The agent that would be used if all of them answered.
        self._preferred = preferred

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls,
        agent: str | None = None,
        token_file: Path | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        tell: Callable[[str], None] = _LOG.warning,
    ) -> AsyncIterator["Client"]:
        """Connect to the first agent that answers, until the block ends.

        Args:
            agent: `host:port`, or several separated by commas; else `GCOS_AGENT`, else the cluster
                that `gcos up` started.
            token_file: File with the token; else `GCOS_TOKEN_FILE`, else that cluster's.
            environ: Environment; `os.environ` by default.
            clock: Measures outages.
            pause: Waits for some seconds between attempts.
            tell: Takes a line where another agent than the first one answers; by default it is
                logged as a warning.

        Raises:
            InvalidRequestError: No agent or token is known, or the token file is unusable.
            PeerUnreachableError: No agent answers.
            UnauthenticatedError: The token is not theirs.
        """
        endpoint = discover(os.environ if environ is None else environ, agent, token_file)
        async with Channels(read_token(endpoint.token_file)) as channels:
            site, agents = await _first_that_answers(channels, endpoint.agents, tell)
            preferred = endpoint.agents[0]
            yield cls(channels, site, agents, clock or SystemClock(), pause, tell, preferred)

    @property
    def site_id(self) -> SiteId:
        """The site whose agent is called."""
        return self._site.site_id

    async def submit(
        self,
        document: bytes | str,
        request_id: str | None = None,
        *,
        directory: Path | None = None,
    ) -> Submission:
        """Hand a task in. When this returns, the task survives the death of the agent.

        A `workdir` that is a directory of this machine is sent first, as an artifact.

        Args:
            document: YAML 1.2 or JSON.
            request_id: Same id and document, same task: makes a repeat safe. Beats the document's
                own.
            directory: What a relative `workdir` is relative to; the current directory by default.

        Raises:
            InvalidTaskError: The document is wrong.
            RequestIdTakenError: The request id belongs to a task of another document.
            QueueFullError: The agent has too many tasks.
        """
        data = _utf8(document)
        await self._settle()
        if request_id and self._agents[0] != self._preferred:
            self._tell(
                f"request id {request_id[:80]!r} goes to another agent than usual; if "
                f"{self._preferred} took it before, this is a second task"
            )
        workdir = await self._sent_workdir(data, directory or Path())
        request = tasks_pb2.SubmitRequest(
            document=data, request_id=request_id or "", workdir=workdir
        )
        try:
            with self._translated():
                answer = await self._tasks().Submit(request, timeout=SUBMIT_TIMEOUT_S)
        except PeerUnreachableError as exc:
            raise PeerUnreachableError(
                f"{exc.message}; the task may have been taken all the same",
                hint="look into the queue before you repeat, or repeat with the same request id",
            ) from exc
        return from_proto(answer, Submission)

    async def plan(self, document: bytes | str, *, directory: Path | None = None) -> Plan:
        """Return who would run a task, when and at what cost. Changes nothing.

        A `workdir` that is a directory of this machine is looked at and not sent.

        Args:
            document: YAML 1.2 or JSON.
            directory: What a relative `workdir` is relative to; the current directory by default.

        Raises:
            InvalidTaskError: The document is wrong.
            InvalidRequestError: Its `workdir` cannot be sent.
        """
        data = _utf8(document)
        await _local_workdir(data, directory or Path())
        request = tasks_pb2.PlanRequest(document=data)
        answer = await self._answered(
            lambda address: self._tasks(address).Plan(request, timeout=PLAN_TIMEOUT_S)
        )
        return from_proto(answer, Plan)

    async def task(self, task_id: TaskId) -> Task:
        """Return a task as it now is.

        Raises:
            UnknownTaskError: There is none of this id.
        """
        request = tasks_pb2.GetTaskRequest(task_id=task_id)
        answer = await self._answered(
            lambda address: self._tasks(address).GetTask(request, timeout=CALL_TIMEOUT_S)
        )
        return from_proto(answer.task, Task)

    async def tasks(self, *, only_active: bool = False, everywhere: bool = True) -> Gathered[Task]:
        """Return tasks, newest first: of all sites, or of the agent's own."""
        request = tasks_pb2.ListTasksRequest(only_active=only_active)

        async def ask(address: str) -> tuple[Task, ...]:
            with translated(f"the agent at {address}"):
                answer = await self._tasks(address).ListTasks(request, timeout=CALL_TIMEOUT_S)
            return tuple(from_proto(task, Task) for task in answer.tasks)

        answers = await self._gathered(ask, everywhere=everywhere)
        found = [task for tasks in answers.items for task in tasks]
        found.sort(key=lambda task: (-task.submitted_s, task.task_id))
        return Gathered(tuple(found), answers.unreachable)

    async def watch(
        self, task_id: TaskId, timeout_s: float | None = None
    ) -> AsyncGenerator[Task, None]:
        """Yield a task now and at each change, until it ends.

        A watch that breaks, as when the agent restarts, is opened again at any agent. Use it under
        `contextlib.aclosing` where it may be left early.

        Args:
            task_id: The task.
            timeout_s: Protocol seconds for the whole watch; None: no limit.

        Raises:
            TimeoutError: The task has not ended in time.
            UnknownTaskError: There is none of this id.
            PeerUnreachableError: Nobody answered for five minutes.
        """
        started_s = self._clock.protocol_s()
        last: Task | None = None
        #: Since when nothing was heard; None while the watch works.
        silent_since_s: float | None = None
        attempt_count = 0
        while True:
            left_s = WATCH_STREAM_S
            if timeout_s is not None:
                left_s = started_s + timeout_s - self._clock.protocol_s()
            if left_s <= 0:
                raise TimeoutError(f"{task_id} has not ended within {timeout_s} s")
            address = self._agents[attempt_count % len(self._agents)]
            opened = self._watch_once(address, task_id, min(left_s, WATCH_STREAM_S))
            try:
                async with contextlib.aclosing(opened) as changes:
                    async for task in changes:
                        silent_since_s, attempt_count = None, 0
                        if task != last:
                            last = task
                            yield task
                        if task.state.is_terminal:
                            return
            except UnavailableError:
                now_s = self._clock.protocol_s()
                silent_since_s = now_s if silent_since_s is None else silent_since_s
                if now_s - silent_since_s > OUTAGE_S_MAX:
                    raise
            # A stream that ended is one whose agent stops, or that was open long enough.
            await self._pause(min(BACKOFF_S_MIN * 2**attempt_count, BACKOFF_S_MAX))
            attempt_count += 1

    async def wait(self, task_id: TaskId, timeout_s: float | None = None) -> Task:
        """Return a task once it has ended.

        Raises:
            TimeoutError: It has not ended within `timeout_s` protocol seconds.
            UnknownTaskError: There is none of this id.
            PeerUnreachableError: Nobody answered for five minutes.
        """
        async with contextlib.aclosing(self.watch(task_id, timeout_s)) as changes:
            async for task in changes:
                if task.state.is_terminal:
                    return task
        raise AssertionError("a watch ends with a terminal state or an error")

    async def cancel(self, task_id: TaskId) -> Cancellation:
        """End a task; one that has ended stays as it is.

        Raises:
            UnknownTaskError: There is none of this id.
        """
        request = tasks_pb2.CancelTaskRequest(task_id=task_id)
        answer = await self._answered(
            lambda address: self._tasks(address).CancelTask(request, timeout=CALL_TIMEOUT_S)
        )
        return from_proto(answer, Cancellation)

    async def log(
        self, task_id: TaskId, *, follow: bool = False, offset_bytes: int = 0
    ) -> AsyncGenerator[bytes, None]:
        """Yield the output of the latest attempt, as `log_pieces` does, without its places.

        Raises:
            UnknownTaskError: There is none of this id.
            PeerUnreachableError: No agent answered; while it is followed, for five minutes.
        """
        pieces = self.log_pieces(task_id, follow=follow, offset_bytes=offset_bytes)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                if piece.data:
                    yield piece.data

    async def log_pieces(
        self, task_id: TaskId, *, follow: bool = False, offset_bytes: int = 0
    ) -> AsyncGenerator[LogPiece, None]:
        """Yield the output of the latest attempt, until its end where `follow` says so.

        A log that breaks off, as when the agent restarts, goes on at any agent where it stopped.
        Where the site of the attempt does not answer, the last lines that the origin was told of
        come instead, with `heard_s`.

        Args:
            task_id: The task.
            follow: Go on until the task has ended.
            offset_bytes: Begin at this byte of the output.

        Raises:
            UnknownTaskError: There is none of this id.
            PeerUnreachableError: No agent answered; while it is followed, for five minutes.
        """
        request = tasks_pb2.ReadLogRequest(
            task_id=task_id, follow=follow, offset_bytes=offset_bytes
        )
        #: Since when nothing was heard; None while the log is read.
        silent_since_s: float | None = None
        attempt_count = 0
        while True:
            address = self._agents[attempt_count % len(self._agents)]
            try:
                async with contextlib.aclosing(self._log_once(address, request)) as pieces:
                    async for piece in pieces:
                        silent_since_s, attempt_count = None, 0
                        is_heard = piece.HasField("heard_s")
                        if not is_heard:  # the output itself may still come from there
                            request.run_id = piece.run_id
                            request.offset_bytes = piece.offset_bytes + len(piece.data)
                        yield LogPiece(
                            RunId(piece.run_id),
                            piece.offset_bytes,
                            piece.data,
                            heard_s=piece.heard_s if is_heard else None,
                            site_id=SiteId(piece.site_id) if is_heard else None,
                            is_silent=piece.is_silent,
                        )
                return
            except UnavailableError:
                now_s = self._clock.protocol_s()
                silent_since_s = now_s if silent_since_s is None else silent_since_s
                is_tried = attempt_count + 1 >= len(self._agents)
                if now_s - silent_since_s > OUTAGE_S_MAX or (is_tried and not follow):
                    raise
            await self._pause(min(BACKOFF_S_MIN * 2**attempt_count, BACKOFF_S_MAX))
            attempt_count += 1

    async def explain(self, task_id: TaskId) -> Explanation:
        """Return how a task came to be where it is: announcements, bids, refusals, awards, ends.

        Sites that offered are asked for what they had decided about copies of its artifacts, as
        far as they answer.

        Raises:
            UnknownTaskError: There is none of this id.
        """
        request = tasks_pb2.ExplainTaskRequest(task_id=task_id)
        answer = await self._answered(
            lambda address: self._tasks(address).ExplainTask(request, timeout=CALL_TIMEOUT_S)
        )
        told = from_proto(answer, TaskHistory)
        copies = await self._copies_before(told)
        return Explanation(told.task, told.events, told.scales, copies.items, copies.unreachable)

    async def results(self, task_id: TaskId, to: Path) -> Results:
        """Fetch what a task left behind into `to`, which appears whole or not at all.

        Raises:
            UnknownTaskError: There is no task of this id.
            WrongStateError: It has not succeeded, or `to` exists already.
            NotFoundError: Its site keeps the outputs no longer.
        """
        await self._settle()
        arriving = await asyncio.to_thread(Arriving, to)
        try:
            with self._translated():
                request = tasks_pb2.ReadResultsRequest(task_id=task_id)
                async for piece in self._tasks().ReadResults(request, timeout=ADD_TIMEOUT_S):
                    await asyncio.to_thread(
                        arriving.add, (piece.path, piece.size_bytes, piece.data)
                    )
            await asyncio.to_thread(arriving.finish)
        except BaseException:
            arriving.give_up()
            raise
        return Results(str(to), arriving.sizes)

    async def ledger(self, since_s: float = 0.0, *, everywhere: bool = True) -> ClusterLedger:
        """Return ledger entries that ended at or after `since_s` (world instant), oldest first.

        Raises:
            PeerUnreachableError: No site answered.
        """
        request = tasks_pb2.ListLedgerRequest(since_s=since_s)

        async def ask(address: str) -> SiteLedger:
            with translated(f"the agent at {address}"):
                answer = await self._tasks(address).ListLedger(request, timeout=CALL_TIMEOUT_S)
            return from_proto(answer, SiteLedger)

        answers = await self._gathered(ask, everywhere=everywhere)
        entries = [entry for ledger in answers.items for entry in ledger.entries]
        entries.sort(key=lambda entry: (entry.ended_s, entry.run_id))
        scales = answers.items[0].scales if answers.items else Scales()
        return ClusterLedger(tuple(entries), scales, answers.unreachable)

    async def sites(self) -> SiteListing:
        """Return the sites of the cluster, sorted by id."""
        request = operator_pb2.ListSitesRequest()
        answer = await self._answered(
            lambda address: self._operator(address).ListSites(request, timeout=CALL_TIMEOUT_S)
        )
        return from_proto(answer, SiteListing)

    async def cache(self, site: SiteId | None = None) -> Gathered[SiteCache]:
        """Return what the caches of `site`, or of every site, hold; sorted by site.

        Raises:
            UnknownSiteError: There is no such site.
        """

        async def ask(address: str) -> SiteCache:
            with translated(f"the agent at {address}"):
                answer = await self._operator(address).ListCache(
                    operator_pb2.ListCacheRequest(), timeout=CALL_TIMEOUT_S
                )
            return from_proto(answer, SiteCache)

        return await self._of_site_or_all(site, ask)

    async def copy_log(
        self,
        site: SiteId | None = None,
        *,
        task_id: TaskId | None = None,
        count_max: int = COPY_EVENT_COUNT,
    ) -> Gathered[SiteCopyLog]:
        """Return what `site`, or every site, decided about copies; sorted by site.

        Args:
            site: The site; None: all of them.
            task_id: Only what was decided because of this task.
            count_max: At most so many of each site, the latest ones.

        Raises:
            UnknownSiteError: There is no such site.
            InvalidRequestError: `count_max` is out of range.
        """
        if not 0 < count_max <= COPY_EVENT_COUNT_MAX:
            raise InvalidRequestError(
                f"{count_max} decisions: from 1 to {COPY_EVENT_COUNT_MAX} can be read",
                field="count",
            )
        request = operator_pb2.ReadCopyLogRequest(event_count=count_max, task_id=task_id or "")

        async def ask(address: str) -> SiteCopyLog:
            with translated(f"the agent at {address}"):
                answer = await self._operator(address).ReadCopyLog(request, timeout=CALL_TIMEOUT_S)
            return from_proto(answer, SiteCopyLog)

        return await self._of_site_or_all(site, ask)

    async def signals(
        self, site: SiteId | None = None, horizon_h: int = HORIZON_H_DEFAULT
    ) -> Gathered[SiteSignalsReading]:
        """Return carbon and price at `site`, or at every site, for `horizon_h` hours from now.

        Raises:
            UnknownSiteError: There is no such site.
        """

        async def ask(address: str) -> SiteSignalsReading:
            return await self._signals_at(address, horizon_h)

        return await self._of_site_or_all(site, ask)

    async def world_now_s(self) -> float:
        """Return the world instant at the agent; it differs from the wall's in a scaled demo."""
        request = operator_pb2.ReadSignalsRequest(horizon_h=1)
        answer = await self._answered(
            lambda address: self._operator(address).ReadSignals(request, timeout=CALL_TIMEOUT_S)
        )
        return from_proto(answer, SiteSignalsReading).now_s

    async def add_artifact(
        self, name: str, kind: ArtifactKind, path: Path, site: SiteId | None = None
    ) -> AddedArtifact:
        """Add a directory or file on the machine of `site`'s agent as an artifact.

        Args:
            name: What people will call it.
            kind: Model or data set.
            path: Absolute, and under a root that the agent's configuration allows.
            site: Becomes its custodian; the site whose agent is called by default.

        Raises:
            InvalidRequestError: The name or the path is refused.
            UnknownSiteError: There is no such site.
            CacheFullError: The site has no room for it.
        """
        request = operator_pb2.AddArtifactRequest(name=name, kind=_KINDS[kind], path=str(path))
        address = await self._address_of(site) if site is not None else self._agents[0]
        with translated(f"the agent at {address}"):
            answer = await self._operator(address).AddArtifact(request, timeout=ADD_TIMEOUT_S)
        return from_proto(answer, AddedArtifact)

    async def put_artifact(
        self, name: str, kind: ArtifactKind, path: Path, site: SiteId | None = None
    ) -> AddedArtifact:
        """Send a directory of this machine to a site as an artifact.

        Args:
            name: What people will call it.
            kind: Model or data set.
            path: A directory here.
            site: Becomes its custodian; the site whose agent is called by default.

        Raises:
            InvalidRequestError: The name or a file is refused.
            CacheFullError: The site has no room for it.
        """
        address = await self._address_of(site) if site is not None else self._agents[0]

        # Before the call: an error inside the stream would reach us as a cancellation.
        files = await asyncio.to_thread(files_of, path)

        async def pieces() -> AsyncIterator[operator_pb2.PutArtifactRequest]:
            yield operator_pb2.PutArtifactRequest(name=name, kind=_KINDS[kind])
            sending = pieces_of(path, files)
            while (piece := await asyncio.to_thread(next, sending, None)) is not None:
                yield operator_pb2.PutArtifactRequest(path=piece[0], data=piece[2])

        with translated(f"the agent at {address}"):
            answer = await self._operator(address).PutArtifact(pieces(), timeout=ADD_TIMEOUT_S)
        return from_proto(answer, AddedArtifact)

    async def pull_artifact(
        self,
        reference: str,
        *,
        name: str = "",
        kind: ArtifactKind | None = None,
        site: SiteId | None = None,
    ) -> AsyncGenerator[PullProgress, None]:
        """Bring an artifact from an upstream to a site; yields how far it is, the artifact last.

        Leaving early stops the pull.

        Args:
            reference: Such as `hf://org/name@revision`, `https://`, `s3://`, `ollama://`.
            name: What people will call it; as its source does by default.
            kind: Model or data set; as the reference says by default.
            site: Where to; the site whose agent is called by default.

        Raises:
            InvalidRequestError: The site may not read it, or it cannot be an artifact.
            NotFoundError: It is not there.
            WrongStateError: It is not open to the site.
            ExhaustedError: It does not fit.
            DigestMismatchError: What came is not what its source states.
        """
        request = operator_pb2.PullArtifactRequest(reference=reference, name=name)
        if kind is not None:
            request.kind = _KINDS[kind]
        address = await self._address_of(site) if site is not None else self._agents[0]
        with translated(f"the agent at {address}"):
            call = self._operator(address).PullArtifact(request, timeout=PULL_TIMEOUT_S)
            try:
                async for answer in call:
                    yield from_proto(answer, PullProgress)
            finally:
                call.cancel()

    async def pin_artifact(
        self, name: str, *, site: SiteId | None = None, is_pinned: bool = True
    ) -> PinnedArtifact:
        """Keep an artifact in the cache of a site, also over restarts, or let it go.

        Args:
            name: Its name, `name@sha256:...`, or `sha256:...`.
            site: Which; the site whose agent is called by default.
            is_pinned: Keep it; else let it go.

        Raises:
            ArtifactNotFoundError: It is not there.
        """
        request = operator_pb2.PinArtifactRequest(name=name, is_pinned=is_pinned)
        address = await self._address_of(site) if site is not None else self._agents[0]
        with translated(f"the agent at {address}"):
            answer = await self._operator(address).PinArtifact(request, timeout=CALL_TIMEOUT_S)
        return from_proto(answer, PinnedArtifact)

    async def verify_artifacts(
        self, name: str = "", *, site: SiteId | None = None, is_repairing: bool = False
    ) -> AsyncGenerator[VerifiedArtifact, None]:
        """Let a site read every byte of an artifact again, or of all; yields what it finds.

        Args:
            name: Its name, `name@sha256:...`, or `sha256:...`; empty: all of the site.
            site: Which site; that of the first agent by default.
            is_repairing: What is wrong comes anew from other holders.

        Raises:
            ArtifactNotFoundError: It is not there.
        """
        request = operator_pb2.VerifyArtifactsRequest(name=name, is_repairing=is_repairing)
        address = await self._address_of(site) if site is not None else self._agents[0]
        with translated(f"the agent at {address}"):
            call = self._operator(address).VerifyArtifacts(request, timeout=PULL_TIMEOUT_S)
            try:
                async for answer in call:
                    yield from_proto(answer, VerifiedArtifact)
            finally:
                call.cancel()

    async def prune_cache(
        self,
        *,
        to_bytes: int | None = None,
        unused_for_s: float = 0.0,
        is_dry_run: bool = False,
        site: SiteId | None = None,
    ) -> Pruned:
        """Remove what nobody uses from the caches of a site, what was used longest ago first.

        Args:
            to_bytes: Until both caches together hold no more; None: all that matches.
            unused_for_s: Only what nobody has used for so long, world seconds.
            is_dry_run: Change nothing.
            site: Which; the site whose agent is called by default.
        """
        request = operator_pb2.PruneCacheRequest(
            to_bytes=to_bytes, unused_for_s=unused_for_s, is_dry_run=is_dry_run
        )
        address = await self._address_of(site) if site is not None else self._agents[0]
        with translated(f"the agent at {address}"):
            answer = await self._operator(address).PruneCache(request, timeout=PRUNE_TIMEOUT_S)
        return from_proto(answer, Pruned)

    async def remove_artifact(
        self,
        name: str,
        *,
        gives_up_custody: bool = False,
        is_dry_run: bool = False,
        site: SiteId | None = None,
    ) -> RemovedArtifact:
        """Remove an artifact with all of its names from the cache of a site.

        Args:
            name: Its name, `name@sha256:...`, or `sha256:...`.
            gives_up_custody: Remove it even where its bytes may be nowhere else.
            is_dry_run: Change nothing.
            site: Which; the site whose agent is called by default.

        Raises:
            ArtifactNotFoundError: It is not there.
            WrongStateError: It is pinned, in use, or in the site's custody.
        """
        request = operator_pb2.RemoveArtifactRequest(
            name=name, is_dry_run=is_dry_run, gives_up_custody=gives_up_custody
        )
        address = await self._address_of(site) if site is not None else self._agents[0]
        with translated(f"the agent at {address}"):
            answer = await self._operator(address).RemoveArtifact(request, timeout=PRUNE_TIMEOUT_S)
        return from_proto(answer, RemovedArtifact)

    async def _sent_workdir(self, document: bytes, directory: Path) -> str:
        """Send the document's local `workdir`; return its reference, empty where it has none.

        Raises:
            InvalidTaskError: The document is wrong: nothing is sent for what will not be taken.
        """
        workdir = await _local_workdir(document, directory)
        if workdir is None:
            return ""
        # Few calls need the reader of documents, which takes long to import.
        from gcos.spec import parse_document  # noqa: PLC0415

        now_s = await self.world_now_s()
        await asyncio.to_thread(parse_document, document, submitted_s=now_s)
        name = await asyncio.to_thread(workdir.artifact_name)
        added = await self.put_artifact(name, ArtifactKind.DATA, workdir.path)
        return f"{name}@{added.artifact.artifact_id}"

    async def _log_once(
        self, address: str, request: tasks_pb2.ReadLogRequest
    ) -> AsyncGenerator[tasks_pb2.ReadLogResponse, None]:
        with translated(f"the agent at {address}"):
            call = self._tasks(address).ReadLog(request, timeout=LOG_STREAM_S)
            try:
                async for piece in call:
                    yield piece
            finally:
                call.cancel()

    async def _watch_once(
        self, address: str, task_id: TaskId, timeout_s: float
    ) -> AsyncGenerator[Task, None]:
        request = tasks_pb2.WatchTaskRequest(task_id=task_id)
        with translated(f"the agent at {address}"):
            call = self._tasks(address).WatchTask(request, timeout=timeout_s)
            try:
                async for answer in call:
                    yield from_proto(answer.task, Task)
            finally:
                call.cancel()

    async def _signals_at(self, address: str, horizon_h: int) -> SiteSignalsReading:
        request = operator_pb2.ReadSignalsRequest(horizon_h=horizon_h)
        with translated(f"the agent at {address}"):
            answer = await self._operator(address).ReadSignals(request, timeout=CALL_TIMEOUT_S)
        return from_proto(answer, SiteSignalsReading)

    async def _copies_before(self, told: TaskHistory) -> Gathered[SiteCopyLog]:
        """Return what sites had decided about a task's artifacts when they offered last."""
        auctions = (each for each in reversed(told.events) if each.kind == "auction_closed")
        auction = next((each for each in auctions if each.bids), None)
        wanted = frozenset(need.artifact_id for need in told.task.needs)
        if auction is None or not wanted:
            return Gathered(())
        request = operator_pb2.ReadCopyLogRequest(
            event_count=COPY_EVENT_COUNT_MAX, artifact_ids=sorted(wanted)
        )

        async def ask(address: str) -> SiteCopyLog:
            with translated(f"the agent at {address}"):
                answer = await self._operator(address).ReadCopyLog(request, timeout=ASIDE_TIMEOUT_S)
            log = from_proto(answer, SiteCopyLog)
            return replace(log, events=standing(log.events, wanted, until_s=auction.at_s))

        site_ids = sorted({bid.site_id for bid in auction.bids})
        try:
            addresses = await self._addresses()
        except GcosError as exc:
            return Gathered((), tuple(Unreachable(each, "", exc.message) for each in site_ids))
        known = {each: addresses[each] for each in site_ids if each in addresses}
        answers, failures = await self._asked(known, ask)
        gone = UnknownSiteError("it is not known any more")
        return Gathered(
            tuple(answers[each] for each in site_ids if each in answers),
            tuple(
                Unreachable(each, known.get(each, ""), failures.get(each, gone).message)
                for each in site_ids
                if each not in answers
            ),
        )

    async def _of_site_or_all(
        self, site: SiteId | None, ask: Callable[[str], Awaitable[AnswerT]]
    ) -> Gathered[AnswerT]:
        if site is None:
            return await self._gathered(ask, everywhere=True)
        return Gathered((await ask(await self._address_of(site)),))

    async def _gathered(
        self, ask: Callable[[str], Awaitable[AnswerT]], *, everywhere: bool
    ) -> Gathered[AnswerT]:
        """Ask all sites at once, or the agent alone; the answers come in the order of site ids."""
        if not everywhere:
            return Gathered((await ask(self._agents[0]),))
        addresses = await self._addresses()
        answers, failures = await self._asked(addresses, ask)
        unreachable: dict[SiteId, Unreachable] = {}
        for site_id in sorted(failures):
            failure = failures[site_id]
            if not isinstance(failure, UnavailableError | UnauthenticatedError):
                raise failure
            unreachable[site_id] = Unreachable(site_id, addresses[site_id], failure.message)
        if not answers:
            raise PeerUnreachableError(
                "no site answers", hint="check that the cluster runs: gcos sites ls"
            )
        return Gathered(
            tuple(answers[site_id] for site_id in sorted(answers)),
            tuple(unreachable[site_id] for site_id in sorted(unreachable)),
        )

    async def _asked(
        self, addresses: Mapping[SiteId, str], ask: Callable[[str], Awaitable[AnswerT]]
    ) -> tuple[dict[SiteId, AnswerT], dict[SiteId, GcosError]]:
        """Ask sites at once; return what they answer, and why others do not."""
        answers: dict[SiteId, AnswerT] = {}
        failures: dict[SiteId, GcosError] = {}

        async def ask_site(site_id: SiteId, address: str) -> None:
            try:
                answers[site_id] = await ask(address)
            except GcosError as exc:  # callers expect no exception group
                failures[site_id] = exc

        async with asyncio.TaskGroup() as group:
            for site_id, address in addresses.items():
                group.create_task(ask_site(site_id, address))
        return answers, failures

    async def _answered(self, ask: Callable[[str], Awaitable[AnswerT]]) -> AnswerT:
        """Ask the agent in use; where it does not answer, the next one that does.

        For calls that may be repeated. The agent that answers is in use from then on.
        """
        for others_count in reversed(range(len(self._agents))):
            address = self._agents[0]
            try:
                with translated(f"the agent at {address}"):
                    return await ask(address)
            except PeerUnreachableError:
                if not others_count:
                    raise
                await self._settle()
                if self._agents[0] == address:
                    raise  # it answers; what it was to pass the call on to does not
        raise AssertionError("the last agent answers or raises")

    async def _settle(self) -> None:
        """See that the agent in use answers, and use another one otherwise.

        Before calls that must not be repeated, while nothing has been sent yet.
        """
        self._site, self._agents = await _first_that_answers(
            self._channels, self._agents, self._tell
        )

    async def _addresses(self) -> dict[SiteId, str]:
        listing = await self.sites()
        known = {each.site.site_id: each.site.address for each in listing.sites}
        # The way that led here works, whatever address the site registers.
        return known | {self._site.site_id: self._agents[0]}

    async def _address_of(self, site: SiteId) -> str:
        addresses = await self._addresses()
        if site not in addresses:
            close = difflib.get_close_matches(site, addresses, n=1)
            known = f"known sites: {', '.join(sorted(addresses))}"
            raise UnknownSiteError(
                f"there is no site {site[:80]!r}",
                hint=f"did you mean {close[0]}?" if close else known,
            )
        return addresses[site]

    def _tasks(self, address: str | None = None) -> "tasks_pb2_grpc.TaskServiceAsyncStub":
        channel = self._channels.get(address or self._agents[0])
        return tasks_pb2_grpc.TaskServiceStub(channel)

    def _operator(self, address: str | None = None) -> "operator_pb2_grpc.OperatorServiceAsyncStub":
        channel = self._channels.get(address or self._agents[0])
        return operator_pb2_grpc.OperatorServiceStub(channel)

    def _translated(self) -> contextlib.AbstractContextManager[None]:
        return translated(f"the agent at {self._agents[0]}")


async def _first_that_answers(
    channels: Channels, agents: tuple[str, ...], tell: Callable[[str], None]
) -> tuple[Site, tuple[str, ...]]:
    """Return the site of the first agent that answers, and all agents, that one first.

    Raises:
        PeerUnreachableError: None of them does.
    """
    failures: list[UnavailableError] = []
    for index, address in enumerate(agents):
        try:
            site = await _describe(channels, address)
        except UnavailableError as exc:
            failures.append(exc)
            continue
        if failures:
            tell(f"{failures[0].message}; the one at {address} (site {site.site_id}) does")
        return site, agents[index:] + agents[:index]
    raise PeerUnreachableError(
        f"no agent answers at {', '.join(agents)}",
        hint="check that the cluster runs, or start one with: gcos up",
    ) from failures[-1]


async def _describe(channels: Channels, address: str) -> Site:
    stub = operator_pb2_grpc.OperatorServiceStub(channels.get(address))
    with translated(f"the agent at {address}"):
        answer = await stub.DescribeSite(operator_pb2.DescribeSiteRequest(), timeout=CALL_TIMEOUT_S)
    return from_proto(answer.site, Site)


@dataclass(frozen=True, slots=True)
class _Workdir:
    """A directory of this machine that a task starts with.

    Attributes:
        path: Where it is.
        files: What is sent of it.
        task_name: What the document calls the task; empty where it says nothing.
    """

    path: Path
    files: list[str]
    task_name: str

    def artifact_name(self) -> str:
        """Return a name that tells people which task and which content it is. Reads all files."""
        digest = content_id(self.path, self.files).removeprefix("sha256:")
        words = self.task_name or self.path.resolve().name
        slug = _NO_NAME.sub("-", words)[:WORKDIR_WORDS_MAX].strip("-._")
        return SENT_WORKDIR_PREFIX + "-".join(part for part in (slug, digest[:8]) if part)


async def _local_workdir(document: bytes, directory: Path) -> _Workdir | None:
    """Return the directory of this machine that a document names; None where it names none.

    Raises:
        InvalidRequestError: It cannot be sent.
    """
    # Few calls need the reader of YAML, which takes long to import.
    from gcos.document import Mapping as Keys  # noqa: PLC0415
    from gcos.document import Scalar, parse_tree  # noqa: PLC0415
    from gcos.shapes import is_local_directory  # noqa: PLC0415

    try:
        root = parse_tree(document)
    except GcosError:
        return None  # the agent says what is wrong with it
    values = root.values if isinstance(root, Keys) else {}
    text, name = (
        node.value if isinstance(node, Scalar) and isinstance(node.value, str) else ""
        for node in (values.get("workdir"), values.get("name"))
    )
    if not is_local_directory(text):
        return None

    def look() -> _Workdir:
        try:
            path = directory / Path(text).expanduser()
        except RuntimeError as exc:
            raise InvalidRequestError(
                f"{text[:80]!r} begins with the home of nobody who is known here",
                field="workdir",
                hint="write the path out",
            ) from exc
        return _Workdir(path, files_of(path), name)

    try:
        return await asyncio.to_thread(look)
    except InvalidRequestError as exc:
        exc.locate(values["workdir"].line)
        raise


def _utf8(document: bytes | str) -> bytes:
    return document.encode() if isinstance(document, str) else document
