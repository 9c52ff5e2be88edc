"""The initiator of the contract net: the tasks that this site owns. Pure.

A task passes through `gcos.tasks.TASK_TRANSITIONS`:

    submit ─▶ QUEUED ─▶ AWARDING ─▶ LEASED ─▶ STAGING ─▶ RUNNING ─▶ COMMITTING ─▶ SUCCEEDED
               │  ▲  ◀─────┴──────────┴─────────┴──────────┴─ (lost, returned, retried)   FAILED
               ▼  │
             WAITING     held for a later start, without a lease          CANCELLED, REJECTED

What keeps invariants I1 to I3: every state is written before anybody is told of it or sent anything
because of it, but for the award: that an attempt may be awarded is written before it is announced,
and to whom while the award flies. The fence rises with each award, and with each that may have gone
out before a crash; a leased task is given away only after its lease and a margin have passed by
this site's clock; after a restart every lease is taken to have been renewed just now.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from gcos.accounting import S_PER_H, Charge, CostScope, LatePenalty
from gcos.artifacts import ArtifactKind, parse_reference
from gcos.contract_net import (
    Announcement,
    ArtifactNeed,
    Award,
    AwardAnswer,
    Bid,
    ClusterSignals,
    Fetch,
    Hold,
    Rejection,
    Renewal,
    RenewalAnswer,
    Report,
    ReportAnswer,
    RunProgress,
    Terms,
    Verdict,
    with_copies_usd,
)
from gcos.durations import Observation, Outcome, Prediction, WorkFeatures
from gcos.errors import QueueFullError, UnknownTaskError
from gcos.ids import ArtifactId, Fence, RunId, SiteId, TaskId, run_id
from gcos.ledger import LedgerEntry
from gcos.log_tails import HeardTail
from gcos.task_events import TaskEvent
from gcos.task_record import Task
from gcos.tasks import (
    Reason,
    Reconcile,
    RetryCause,
    RunState,
    TaskSpec,
    TaskState,
    check_task_transition,
)
from site_agent.auction import Auction, Judgement, judge, late_penalty, nearest_offer
from site_agent.effects import (
    NOTHING,
    AddEntry,
    Effect,
    Negotiate,
    Note,
    Now,
    Observe,
    Ready,
    SaveTask,
    SendAward,
    SendHold,
    SendRejections,
    SendRevoke,
    Write,
)
from site_agent.lease import LeaseTerms

#: Unfinished tasks that one origin takes; more are refused with RESOURCE_EXHAUSTED.
ACTIVE_COUNT_MAX = 10_000
#: World seconds that a reservation stands beyond the start it was made for.
HOLD_S = 600.0
#: World seconds after the earliest instant within which a start counts as one at that instant.
PROMPT_S = 60.0
#: Protocol seconds between two sendings of an award that was not answered.
AWARD_RETRY_S = 1.0
#: Protocol seconds before a task that found no bidder is announced again; doubles up to the limit.
NO_BID_PAUSE_S = 1.0
NO_BID_PAUSE_MAX_S = 30.0

_PERMANENT = frozenset(
    {
        Reason.GPU_TYPE_UNKNOWN,
        Reason.GPU_COUNT_TOO_HIGH,
        Reason.ARTIFACT_TOO_LARGE,
        Reason.PLACEMENT_EXCLUDES,
        Reason.IMAGE_UNSUPPORTED,
        Reason.SECRET_MISSING,
        Reason.OUTPUT_REFUSED,
    }
)

_STATE_OF_RUN = {
    RunState.LEASED: TaskState.LEASED,
    RunState.STAGING: TaskState.STAGING,
    RunState.RUNNING: TaskState.RUNNING,
    RunState.COMMITTING: TaskState.COMMITTING,
}
_ORDER = [TaskState.LEASED, TaskState.STAGING, TaskState.RUNNING, TaskState.COMMITTING]

_CAUSE_OF_REASON = {
    Reason.EXIT_CODE: RetryCause.EXIT_CODE,
    Reason.OUTPUT_MISSING: RetryCause.EXIT_CODE,
    Reason.OUTPUT_REFUSED: RetryCause.EXIT_CODE,
    Reason.STAGING_FAILED: RetryCause.STAGING,
    Reason.START_FAILED: RetryCause.EXECUTOR,
    Reason.EXECUTOR_FAILED: RetryCause.EXECUTOR,
}

_OUTCOME = {
    RunState.SUCCEEDED: Outcome.SUCCEEDED,
    RunState.FAILED: Outcome.FAILED,
    RunState.CANCELLED: Outcome.CANCELLED,
}

AtOrigin = Callable[[Task, Report], Charge]
"""What the reported run would have cost at the origin at once (`gcos.ledger.LedgerEntry`)."""

LatenessTerms = Callable[[TaskSpec, Sequence[Prediction]], LatePenalty]
"""What being late costs a task."""


def lateness_by_work(spec: TaskSpec, predictions: Sequence[Prediction]) -> LatePenalty:
    """Return a penalty that grows with the task's GPU hours.

    They are taken at the fastest predicted mean, never from a true run time.
    """
    fastest_s = min((p.run_time.mean_s for p in predictions), default=0.0)
    return late_penalty(spec.gpu.gpu_count * fastest_s / S_PER_H)


@dataclass(frozen=True, slots=True)
class OriginSettings:
    """What an operator sets for the tasks of one origin.

    Attributes:
        site_id: This site.
        address: Where holders renew and report, `host:port`.
        lease: Durations of leases.
        carbon_price_usd_per_kg: Lambda where the task names none.
        network_kwh_per_gb: Kappa.
        scope: Which items are cost.
        byte_ratio: World bytes that one stored byte stands for.
    """

    site_id: SiteId
    address: str
    lease: LeaseTerms
    carbon_price_usd_per_kg: float
    network_kwh_per_gb: float
    scope: CostScope
    byte_ratio: float = 1.0


def _unstarted(task: Task) -> Task:
    """Return the task without what belonged to its last attempt."""
    return replace(task, started_s=None, fetched_bytes=0, fetch_bytes=0)


def _is_fetching(task: Task) -> bool:
    return task.state is TaskState.STAGING and task.fetch_bytes > 0


@dataclass(slots=True)
class Origin:
    """All tasks that this site owns."""

    settings: OriginSettings
    at_origin: AtOrigin
    lateness: LatenessTerms = lateness_by_work
    tasks: dict[TaskId, Task] = field(default_factory=dict)
    #: Ids of unfinished tasks, in order of submission: what `tick` looks at.
    active: dict[TaskId, None] = field(default_factory=dict)
    #: First answer for each request id.
    requests: dict[str, TaskId] = field(default_factory=dict)
    #: Tasks whose announcement is out.
    negotiating: set[TaskId] = field(default_factory=set)
    #: Protocol instant from which a leased task may be given away; one for each leased task.
    lease_until_s: dict[TaskId, float] = field(default_factory=dict)
    #: Protocol instant of the next sending of an unanswered award.
    award_due_s: dict[TaskId, float] = field(default_factory=dict)
    #: Protocol instant at which an unanswered award is given up.
    award_until_s: dict[TaskId, float] = field(default_factory=dict)
    #: Protocol instant before which a task that found no bidder is not announced again.
    pause_until_s: dict[TaskId, float] = field(default_factory=dict)
    #: What to note of tasks whose attempt a crash made void; written, as their fence is, before
    #: they are announced again.
    voided: dict[TaskId, Note] = field(default_factory=dict)
    #: Attempts that are in the ledger: a second report of one is not charged again.
    charged: set[RunId] = field(default_factory=set)

    # ---------------------------------------------------------------- the client's verbs

    def submit(
        self,
        task_id: TaskId,
        spec: TaskSpec,
        needs: tuple[ArtifactNeed, ...],
        origin_fetches: tuple[Fetch, ...],
        *,
        now: Now,
    ) -> tuple[Task, Ready]:
        """Take a task; the same request id gets the first one.

        Raises:
            QueueFullError: `ACTIVE_COUNT_MAX` tasks are unfinished.
        """
        if spec.request_id is not None and spec.request_id in self.requests:
            return self.tasks[self.requests[spec.request_id]], NOTHING
        if len(self.active) >= ACTIVE_COUNT_MAX:
            raise QueueFullError(
                f"{ACTIVE_COUNT_MAX} tasks are unfinished here",
                hint="wait for some to end, or submit to another site",
            )
        task = Task(
            task_id=task_id,
            origin=self.settings.site_id,
            spec=spec,
            submitted_s=now.world_s,
            state=TaskState.QUEUED,
            reason=Reason.SUBMITTED,
            message="",
            needs=needs,
            fence=Fence(),
            origin_fetches=origin_fetches,
        )
        self._keep(task)
        if spec.request_id is not None:
            self.requests[spec.request_id] = task_id
        note = Note(task_id, TaskEvent(now.world_s, "task_submitted", f"taken by {task.origin}"))
        return task, Ready((SaveTask(task), note)) + self._negotiate(task)

    def cancel(self, task_id: TaskId, *, now: Now) -> tuple[Task, bool, Ready]:
        """End a task; one that has ended stays as it is.

        Raises:
            UnknownTaskError: No such task here.
        """
        task = self.task(task_id)
        if task.state.is_terminal:
            return task, False, NOTHING
        effects: tuple[Effect, ...] = ()
        holder = task.site_id
        if holder is not None:
            effects = (SendRevoke(holder, task.active_run_id),)
        ended = self._end(task, TaskState.CANCELLED, Reason.CANCELLED_BY_USER, "cancelled", now=now)
        event = TaskEvent(now.world_s, "task_cancelled", "cancelled", site_id=holder)
        note = Note(task_id, event)
        return ended, True, Ready((SaveTask(ended), note), effects)

    def task(self, task_id: TaskId) -> Task:
        """Return a task.

        Raises:
            UnknownTaskError: No such task here.
        """
        task = self.tasks.get(task_id)
        if task is None:
            raise UnknownTaskError(
                f"no task {task_id} at site {self.settings.site_id}",
                hint="list tasks with: gcos queue --all",
            )
        return task

    def seen(self, task_id: TaskId, *, now: Now) -> Task:
        """Return a task as people should see it: a holder that has fallen silent is told of.

        Raises:
            UnknownTaskError: No such task here.
        """
        task = self.task(task_id)
        until_s = self.lease_until_s.get(task_id)
        if until_s is None:
            return task
        lease = self._lease_of(task.spec)
        left_s = until_s - now.protocol_s
        silent_s = lease.origin_until_s(0.0) - left_s
        # One renewal may be lost on the way; two mean something.
        if silent_s < 2 * lease.renewal_s:
            return task
        message = (
            f"{task.site_id} was not heard for {silent_s:.0f} s; unless it is within"
            f" {max(left_s, 0.0):.0f} s the run counts as lost"
        )
        return replace(task, reason=Reason.AWAITING_HOLDER, message=message)

    def forget(self, task_id: TaskId) -> None:
        """Drop a task that has ended, with all that is known of it."""
        task = self.tasks.pop(task_id)
        assert task.state.is_terminal, "a live task is forgotten"
        if task.spec.request_id is not None:
            self.requests.pop(task.spec.request_id, None)
        for attempt in range(1, task.fence.attempt + 1):
            self.charged.discard(run_id(task_id, Fence(task.fence.origin_epoch, attempt)))

    # ---------------------------------------------------------------- negotiating

    def terms_of(self, spec: TaskSpec, predictions: Sequence[Prediction]) -> Terms:
        """Return by what offers for `spec` are compared."""
        lam = spec.carbon_price_usd_per_kg
        return Terms(
            carbon_price_usd_per_kg=(self.settings.carbon_price_usd_per_kg if lam is None else lam),
            network_kwh_per_gb=self.settings.network_kwh_per_gb,
            scope=self.settings.scope,
            late_penalty=self.lateness(spec, predictions),
        )

    def announcement(
        self,
        task_id: TaskId,
        spec: TaskSpec,
        *,
        fence: Fence,
        needs: tuple[ArtifactNeed, ...],
        predictions: tuple[Prediction, ...],
        cluster: ClusterSignals | None = None,
        terms: Terms | None = None,
    ) -> Announcement:
        """Return what is announced; a plan announces with the fence of no attempt.

        `terms` are what `terms_of` returned, where that was asked before.
        """
        return Announcement(
            task_id=task_id,
            fence=fence,
            origin=self.settings.site_id,
            gpu=spec.gpu,
            work=spec.work,
            needs=needs,
            predictions=predictions,
            terms=terms or self.terms_of(spec, predictions),
            earliest_start_s=spec.earliest_start_s,
            deadline_s=spec.deadline_s,
            image=spec.image,
            secrets=spec.secrets,
            priority=spec.priority,
            output_uris=tuple(output.uri for output in spec.outputs if output.uri),
            cluster=cluster,
        )

    def close_auction(self, task_id: TaskId, auction: Auction, *, now: Now) -> Ready:
        """Award to the best offer, or wait for its later start, or say why not."""
        self.negotiating.discard(task_id)
        task = self.tasks.get(task_id)
        if task is None or task.state is not TaskState.QUEUED:
            return NOTHING  # cancelled meanwhile
        judged = judge(task.spec, auction)
        task = replace(
            task,
            auction_count=task.auction_count + 1,
            predictions=auction.predictions,
            needs=auction.needs or task.needs,
        )
        chosen = judged.ranked[0].site_id if judged.ranked else None
        event = TaskEvent(
            now.world_s,
            "auction_closed",
            f"{len(judged.ranked)} offers; best: {chosen or 'none'}",
            site_id=chosen,
            bids=judged.ranked,
            refusals=judged.refusals,
        )
        note = Note(task_id, event)
        if not judged.ranked:
            return Ready((note,)) + self._nobody(task, auction, judged, now=now)
        best = judged.ranked[0]
        if best.is_deferred:
            return Ready((note,)) + self._hold(task, best, now=now)
        return Ready((note,)) + self._award(task, judged.ranked, now=now)

    def _nobody(self, task: Task, auction: Auction, judged: Judgement, *, now: Now) -> Ready:
        reasons = {refusal.reason for refusal in judged.refusals}
        over = reasons & {Reason.OVER_COST_LIMIT, Reason.OVER_CARBON_LIMIT}
        # A task that some site once offered to run waits for a site to come back.
        is_hopeless = auction.is_complete and bool(reasons) and (bool(over) or task.bid is None)
        if is_hopeless and reasons <= _PERMANENT | over:
            reason = min(over, key=lambda r: r.value) if over else Reason.NO_CANDIDATE
            message = nearest_offer(auction, over) + "; ".join(
                f"{r.site_id}: {r.message}" for r in judged.refusals
            )
            ended = self._end(task, TaskState.REJECTED, reason, message, now=now)
            return Ready((SaveTask(ended),))
        asked = bool(auction.bids or auction.refusals)
        pause_s = min(NO_BID_PAUSE_S * 2 ** min(task.auction_count - 1, 10), NO_BID_PAUSE_MAX_S)
        self.pause_until_s[task.task_id] = now.protocol_s + pause_s
        details = "; ".join(f"{r.site_id}: {r.message}" for r in judged.refusals)
        kept = self._keep(
            replace(
                task,
                reason=Reason.NO_BID if asked else Reason.NO_SITE_REACHABLE,
                message=details or "no site answered",
            )
        )
        return Ready((SaveTask(kept),))

    def _hold(self, task: Task, best: Bid, *, now: Now) -> Ready:
        """Wait for a later start without a lease; the task is announced again at wake."""
        fetch_s = sum(fetch.duration_s for fetch in best.fetches)
        wake_s = max(now.world_s, best.start_s - fetch_s)
        earliest = task.spec.earliest_start_s
        # Later than it may start, it waits for a better hour and not for leave to start.
        is_early = (
            earliest is not None
            and earliest > now.world_s
            and best.start_s <= max(earliest, now.world_s + fetch_s) + PROMPT_S
        )
        kept = self._step(
            replace(task, bid=best, wake_s=wake_s),
            TaskState.WAITING,
            Reason.NOT_BEFORE if is_early else Reason.GREENER_START,
            f"site {best.site_id} would start it then",
        )
        event = TaskEvent(
            now.world_s,
            "task_deferred",
            f"held: {kept.message}",
            reason=kept.reason,
            site_id=best.site_id,
        )
        note = Note(task.task_id, event)
        hold = Hold(
            task_id=task.task_id,
            pool_type=best.pool_type,
            gpu_count=task.spec.gpu.gpu_count,
            start_s=best.start_s,
            end_s=best.p50_finish_s,
            until_s=best.start_s + HOLD_S,
        )
        return Ready((SaveTask(kept), note), (SendHold(best.site_id, hold),))

    def _award(self, task: Task, ranked: tuple[Bid, ...], *, now: Now) -> Ready:
        """Award under a new fence while the choice is written, then tell the losers."""
        best = ranked[0]
        kept = self._step(
            replace(
                task,
                fence=task.fence.next_attempt(),
                bid=best,
                wake_s=None,
                started_s=None,
                fetched_bytes=0,
                fetch_bytes=sum(fetch.size_bytes for fetch in best.fetches),
                tail=None,
            ),
            TaskState.AWARDING,
            Reason.AWARD_SENT,
            "",
        )
        lease = self._lease_of(task.spec)
        self.award_due_s[task.task_id] = now.protocol_s + AWARD_RETRY_S
        self.award_until_s[task.task_id] = lease.origin_until_s(now.protocol_s)
        award = self._award_of(kept, best.pool_type)
        lam = award.terms.carbon_price_usd_per_kg
        claims = [with_copies_usd(bid, lam) for bid in ranked[1:] if bid.fetches]
        best_with_copies_usd = min(claims, default=None)
        rejections = tuple(
            (
                bid.site_id,
                Rejection(
                    task_id=task.task_id,
                    winner=best.site_id,
                    winning_offer_usd=best.offer_usd,
                    offer_usd=bid.offer_usd,
                    best_with_copies_usd=best_with_copies_usd,
                ),
            )
            for bid in ranked[1:]
        )
        event = TaskEvent(
            now.world_s,
            "task_awarded",
            f"awarded to site {best.site_id} for {best.offer_usd:.4g} $",
            site_id=best.site_id,
            attempt=kept.fence.attempt,
        )
        note = Note(task.task_id, event)
        effects: tuple[Effect, ...] = (SendRejections(rejections),) if rejections else ()
        # That this attempt may be awarded is on disk since before it was announced.
        return Ready((SaveTask(kept), note), effects, at_once=(SendAward(best.site_id, award),))

    def possible_awards(
        self,
        task_id: TaskId,
        needs: tuple[ArtifactNeed, ...],
        predictions: tuple[Prediction, ...],
    ) -> list[Award]:
        """Return the awards of a task that is announced, one for each type of pool.

        An auction with these needs and predictions brings one of them, or none.
        """
        task = self.tasks[task_id]
        announced = replace(
            task,
            fence=task.fence.next_attempt(),
            needs=needs or task.needs,
            predictions=predictions,
        )
        return [self._award_of(announced, each.pool_type) for each in predictions]

    def _award_of(self, task: Task, pool_type: str) -> Award:
        spec = task.spec
        return Award(
            run_id=task.active_run_id,
            task_id=task.task_id,
            fence=task.fence,
            origin=self.settings.site_id,
            origin_address=self.settings.address,
            command=spec.command,
            env=spec.env,
            gpu=spec.gpu,
            pool_type=pool_type,
            needs=task.needs,
            predictions=tuple(p for p in task.predictions if p.pool_type == pool_type),
            terms=self.terms_of(spec, task.predictions),
            lease_s=self._lease_of(spec).lease_s,
            project=spec.project,
            deadline_s=spec.deadline_s,
            earliest_start_s=spec.earliest_start_s,
            workdir_id=self._workdir_id(task),
            image=spec.image,
            outputs=spec.outputs,
            secrets=spec.secrets,
            priority=spec.priority,
        )

    @staticmethod
    def _workdir_id(task: Task) -> ArtifactId | None:
        if task.spec.workdir is None:
            return None
        wanted = parse_reference(task.spec.workdir, field="workdir")
        if wanted.artifact_id is not None:
            return wanted.artifact_id
        return next(need.artifact_id for need in task.needs if need.name == wanted.name)

    def _lease_of(self, spec: TaskSpec) -> LeaseTerms:
        """Return the lease of a task's runs: its own patience, or this origin's."""
        lost_after_s = spec.disconnect.lost_after_s
        return self.settings.lease if lost_after_s is None else LeaseTerms(lost_after_s)

    def award_answered(self, run: str, answer: AwardAnswer, *, now: Now) -> Ready:
        """The winner accepted or declined."""
        task = self._task_of_run(run)
        if task is None or task.state is not TaskState.AWARDING:
            return NOTHING
        if answer.is_accepted:
            return Ready((SaveTask(self._lease(task, now=now)),))
        self._forget_award(task.task_id)
        kept = self._step(task, TaskState.QUEUED, Reason.AWARD_DECLINED, answer.message)
        self.pause_until_s[task.task_id] = now.protocol_s + NO_BID_PAUSE_S
        note = self._attempt_note(task, "award_declined", answer.message, answer.reason, now=now)
        return Ready((SaveTask(kept), note))

    @staticmethod
    def _attempt_note(
        task: Task,
        kind: str,
        message: str,
        reason: Reason | None,
        *,
        now: Now,
        tail: HeardTail | None = None,
    ) -> Note:
        """Return the note of something that befell the present attempt."""
        event = TaskEvent(
            now.world_s,
            kind,
            message,
            reason=reason,
            site_id=task.site_id,
            attempt=task.fence.attempt,
            tail=tail,
        )
        return Note(task.task_id, event)

    def _lease(self, task: Task, *, now: Now) -> Task:
        self._forget_award(task.task_id)
        self.lease_until_s[task.task_id] = self._lease_of(task.spec).origin_until_s(now.protocol_s)
        return self._step(task, TaskState.LEASED, Reason.FETCHING, "")

    # ---------------------------------------------------------------- holders

    def renew(self, renewal: Renewal, *, now: Now) -> tuple[RenewalAnswer, Ready]:
        """Renew the leases of a holder's runs and learn how far they are."""
        verdicts: dict[str, Verdict] = {}
        tail_end_bytes: dict[str, int] = {}
        writes: list[Write] = []
        for progress in renewal.runs:
            task = self._task_of_run(progress.run_id)
            is_ours = (
                task is not None
                and (task.state.is_leased or task.state is TaskState.AWARDING)
                and task.site_id == renewal.site_id
            )
            if task is None or not is_ours:
                verdicts[progress.run_id] = Verdict.REVOKED
                continue
            verdicts[progress.run_id] = Verdict.CONTINUE
            before = task
            if task.state is TaskState.AWARDING:
                task = self._lease(task, now=now)  # its answer was lost: a renewal says as much
            self.lease_until_s[task.task_id] = self._lease_of(task.spec).origin_until_s(
                now.protocol_s
            )
            task = self._progressed(task, progress, now=now)
            if task.tail is not None:
                tail_end_bytes[progress.run_id] = task.tail.tail.end_bytes
            if task.state is not before.state:
                writes.append(SaveTask(task))
            writes += self._stage_notes(before, task, now=now)
        answer = RenewalAnswer(verdicts, tail_end_bytes)
        return answer, Ready(tuple(writes))

    def _stage_notes(self, before: Task, task: Task, *, now: Now) -> list[Note]:
        """Return what to tell of a run that began to fetch or to execute."""
        notes = []
        # A run that lacks nothing passes through STAGING, too.
        if _is_fetching(task) and not _is_fetching(before):
            message = f"fetches {task.fetch_bytes / 1e9:.3g} GB"
            notes.append(self._attempt_note(task, "staging_began", message, None, now=now))
        if task.started_s is not None and before.started_s is None:
            notes.append(self._start_note(task, task.started_s))
        return notes

    @staticmethod
    def _start_note(task: Task, started_s: float) -> Note:
        """Return the note of a start, at the instant of it: word of it comes later."""
        event = TaskEvent(
            started_s,
            "run_started",
            f"executes at {task.site_id}",
            site_id=task.site_id,
            attempt=task.fence.attempt,
        )
        return Note(task.task_id, event)

    def _progressed(self, task: Task, progress: RunProgress, *, now: Now) -> Task:
        state = _STATE_OF_RUN.get(progress.state, task.state)
        is_forward = _ORDER.index(state) >= _ORDER.index(task.state)
        moved = replace(
            task,
            reason=progress.reason if is_forward else task.reason,
            started_s=progress.started_s or task.started_s,
            fetched_bytes=progress.fetched_bytes,
            fetch_bytes=max(progress.fetch_bytes, progress.fetched_bytes),
            tail=self._heard_tail(task, progress, now=now),
        )
        if is_forward:
            check_task_transition(task.state, state)
            moved = replace(moved, state=state)
        return self._keep(moved)

    @staticmethod
    def _heard_tail(task: Task, progress: RunProgress, *, now: Now) -> HeardTail | None:
        """Return what the present attempt last wrote. Not worth a write of its own."""
        tail, before = progress.tail, task.tail
        is_newer = before is None or tail is None or tail.end_bytes >= before.tail.end_bytes
        if tail is not None and tail.is_sane and is_newer and task.site_id is not None:
            return HeardTail(task.active_run_id, task.site_id, now.world_s, tail)
        return None if before is None else replace(before, heard_s=now.world_s)

    def report(self, report: Report, *, now: Now) -> tuple[ReportAnswer, Ready]:
        """Take the end of a run: of a report and a cancellation, the first written wins."""
        task = self.tasks.get(report.task_id)
        if task is None:
            return ReportAnswer(False, f"no task {report.task_id} here"), NOTHING
        if report.run_id in self.charged or self._is_its_end(task, report):
            return ReportAnswer(True, "known already"), NOTHING
        self.charged.add(report.run_id)
        if not self._counts(task, report):
            charged = AddEntry(self._entry(task, report, penalty_usd=0.0, counts=False))
            return (
                ReportAnswer(False, "the origin had moved on; the work is charged all the same"),
                Ready((charged,)),
            )
        if task.state is TaskState.AWARDING:
            task = self._lease(task, now=now)
        self.lease_until_s.pop(task.task_id, None)
        return ReportAnswer(True), self._ended_run(task, report, now=now)

    @staticmethod
    def _is_its_end(task: Task, report: Report) -> bool:
        return task.report is not None and task.report.run_id == report.run_id

    @staticmethod
    def _counts(task: Task, report: Report) -> bool:
        """Tell whether a report may change its task.

        A success may come after its lease was given up: it counts while no newer attempt exists,
        unless the task asks for the new one in any case.
        """
        is_present = report.fence == task.fence and report.run_id == task.active_run_id
        if not is_present or task.state.is_terminal:
            return False
        if task.state.is_leased or task.state is TaskState.AWARDING:
            return report.site_id == task.site_id
        keeps_original = task.spec.disconnect.reconcile is Reconcile.KEEP_ORIGINAL
        return report.state is RunState.SUCCEEDED and keeps_original

    def _ended_run(self, task: Task, report: Report, *, now: Now) -> Ready:
        observe = Observe(self._observation(task, report))
        event = TaskEvent(
            now.world_s,
            "run_ended",
            f"{report.state.value} at {report.site_id}: {report.message}",
            reason=report.reason,
            site_id=report.site_id,
            attempt=report.fence.attempt,
            report=report,
        )
        notes: tuple[Note, ...] = (Note(task.task_id, event),)
        if report.started_s is not None and task.started_s is None:
            # It ended before a renewal told of its start.
            notes = (self._start_note(task, report.started_s), *notes)
        penalty_usd = 0.0
        if report.state is RunState.SUCCEEDED:
            late_s = 0.0
            if task.spec.deadline_s is not None:
                late_s = report.ended_s - task.spec.deadline_s
            terms = self.terms_of(task.spec, task.predictions)
            penalty_usd = terms.late_penalty.usd(late_s)
            ended = self._end(
                task, TaskState.SUCCEEDED, report.reason, report.message, now=now, report=report
            )
            entry = AddEntry(self._entry(ended, report, penalty_usd=penalty_usd))
            return Ready((SaveTask(ended), entry, *notes), (observe,))
        entry = AddEntry(self._entry(task, report, penalty_usd=0.0))
        after = self._after_failure(task, report, now=now)
        return Ready((SaveTask(after), entry, *notes), (observe,))

    def _after_failure(self, task: Task, report: Report, *, now: Now) -> Task:
        """Return the task requeued, or failed for good."""
        task = replace(task, tail=None)  # its site speaks, and has the output
        if report.state in (RunState.LEASE_RETURNED, RunState.PREEMPTED) or (
            report.state is RunState.REVOKED and report.reason is Reason.SITE_DRAINING
        ):
            return self._step(_unstarted(task), TaskState.QUEUED, report.reason, report.message)
        cause = _CAUSE_OF_REASON.get(report.reason, RetryCause.SITE_LOST)
        return self._retry(task, cause, report.reason, report.message, now=now, report=report)

    def _retry(
        self,
        task: Task,
        cause: RetryCause,
        reason: Reason,
        message: str,
        *,
        now: Now,
        report: Report | None,
    ) -> Task:
        retry = task.spec.retry
        failed = replace(task, failure_count=task.failure_count + 1)
        is_wanted = cause in retry.on
        if cause is RetryCause.SITE_LOST:
            # What may still be running somewhere is replaced only where that does no harm.
            is_safe = task.bid is None or task.bid.guarantees_single_execution
            is_wanted = is_wanted and (is_safe or task.spec.is_idempotent)
            is_wanted = is_wanted and task.spec.disconnect.is_replaced
        may_retry = is_wanted and failed.failure_count <= retry.limit_count
        if may_retry:
            return self._step(_unstarted(failed), TaskState.QUEUED, reason, message)
        is_spent = is_wanted and reason is not Reason.EXIT_CODE
        return self._end(
            failed,
            TaskState.FAILED,
            Reason.RETRIES_SPENT if is_spent else reason,
            message,
            now=now,
            report=report,
        )

    # ---------------------------------------------------------------- time

    def tick(self, *, now: Now, limit_count: int = ACTIVE_COUNT_MAX) -> Ready:
        """Announce what is due, send unanswered awards again, and give lost tasks away.

        Args:
            now: The instant.
            limit_count: So many tasks are written at most; the others are as due at the next tick.
        """
        ready = NOTHING
        written_count = 0
        for task_id in list(self.active):
            if written_count == limit_count:
                break
            part = self._tick_task(self.tasks[task_id], now=now)
            if part is not NOTHING:
                written_count += bool(part.writes)
                ready += part
        return ready

    def _tick_task(self, task: Task, *, now: Now) -> Ready:
        task_id = task.task_id
        if task.state is TaskState.QUEUED:
            is_due = now.protocol_s >= self.pause_until_s.get(task_id, 0.0)
            return self._negotiate(task) if is_due else NOTHING
        if task.state is TaskState.WAITING:
            if task.wake_s is not None and now.world_s < task.wake_s:
                return NOTHING
            woken = self._step(task, TaskState.QUEUED, Reason.NEGOTIATING, "")
            return Ready((SaveTask(woken),)) + self._negotiate(woken)
        if task.state is TaskState.AWARDING:
            return self._tick_award(task, now=now)
        if now.protocol_s >= self.lease_until_s[task_id]:
            return self._lost(task, now=now)
        return NOTHING

    def _tick_award(self, task: Task, *, now: Now) -> Ready:
        """Repeat an unanswered award; give it up when its holder can no longer have a lease."""
        assert task.bid is not None
        task_id = task.task_id
        if now.protocol_s >= self.award_until_s[task_id]:
            # The holder cannot have started: execution needs a renewal that we answered. The next
            # award carries a higher fence, so a late acceptance is revoked.
            self._forget_award(task_id)
            message = f"{task.bid.site_id} did not answer"
            kept = self._step(task, TaskState.QUEUED, Reason.SITE_LOST, message)
            note = self._attempt_note(task, "award_unanswered", message, Reason.SITE_LOST, now=now)
            return Ready((SaveTask(kept), note))
        if now.protocol_s >= self.award_due_s[task_id]:
            self.award_due_s[task_id] = now.protocol_s + AWARD_RETRY_S
            award = self._award_of(task, task.bid.pool_type)
            return Ready((), (SendAward(task.bid.site_id, award),))
        return NOTHING

    def _lost(self, task: Task, *, now: Now) -> Ready:
        """The holder's lease and the margin have passed: it has stopped, if it lives at all."""
        del self.lease_until_s[task.task_id]
        message = f"{task.site_id} was not heard for a whole lease"
        note = self._attempt_note(
            task, "lease_expired", message, Reason.SITE_LOST, now=now, tail=task.tail
        )
        kept = self._retry(
            task, RetryCause.SITE_LOST, Reason.SITE_LOST, message, now=now, report=None
        )
        return Ready((SaveTask(kept), note))

    def restore(
        self,
        tasks: Iterable[Task],
        *,
        now: Now,
        charged: Iterable[RunId] = (),
        limit_count: int = ACTIVE_COUNT_MAX,
    ) -> Ready:
        """Take over what the journal knows, as if every lease had been renewed just now.

        A task that was being announced may have been awarded, nobody knows to whom. That attempt
        is void: a confirmed lease would be on disk, so its holder has none and cannot have started,
        and its first renewal revokes it.

        Args:
            tasks: Every task of the journal.
            now: The instant.
            charged: Attempts that are in the ledger.
            limit_count: As for `tick`.
        """
        self.charged.update(charged)
        for task in sorted(tasks, key=lambda task: (task.submitted_s, task.task_id)):
            self._keep(task)
            if task.spec.request_id is not None:
                self.requests[task.spec.request_id] = task.task_id
            until_s = self._lease_of(task.spec).origin_until_s(now.protocol_s)
            if task.state.is_leased:
                self._keep(replace(task, reason=Reason.AWAITING_HOLDER))
                self.lease_until_s[task.task_id] = until_s
            elif task.state is TaskState.AWARDING:
                self.award_due_s[task.task_id] = now.protocol_s
                self.award_until_s[task.task_id] = until_s
            elif task.may_be_awarded:
                void = self._keep(replace(task, fence=task.fence.next_attempt()))
                message = "the agent ended while it was announced; an award of this attempt is void"
                self.voided[task.task_id] = self._attempt_note(
                    void, "attempt_voided", message, None, now=now
                )
        return self.tick(now=now, limit_count=limit_count)

    def check_invariants(self) -> None:
        """Assert what must hold after every event."""
        for task_id, task in self.tasks.items():
            assert (task_id in self.active) is not task.state.is_terminal
            assert (task_id in self.lease_until_s) is task.state.is_leased
            assert (task_id in self.award_until_s) is (task.state is TaskState.AWARDING)
            assert task.state.is_terminal is (task.ended_s is not None)

    # ---------------------------------------------------------------- records

    def features(self, spec: TaskSpec, needs: Sequence[ArtifactNeed]) -> WorkFeatures:
        """Return what the predictor reads of a task."""
        models = [need for need in needs if need.kind is ArtifactKind.MODEL]
        data = [need for need in needs if need.kind is ArtifactKind.DATA]
        return WorkFeatures(
            kind=spec.work.kind,
            model=models[0].name if models else "",
            model_bytes=self._world_bytes(models),
            data=tuple(need.name for need in data),
            data_bytes=self._world_bytes(data),
            token_count=spec.work.token_count,
            epoch_count=spec.work.epoch_count,
            batch_size_count=spec.work.batch_size_count,
            sequence_token_count=spec.work.sequence_token_count,
            gpu_count=spec.gpu.gpu_count,
            project=spec.project,
        )

    def _world_bytes(self, needs: Sequence[ArtifactNeed]) -> int:
        return round(sum(need.size_bytes for need in needs) * self.settings.byte_ratio)

    def _observation(self, task: Task, report: Report) -> Observation:
        return Observation(
            run_id=report.run_id,
            features=self.features(task.spec, task.needs),
            pool_type=report.pool_type,
            outcome=_OUTCOME.get(report.state, Outcome.LOST),
            elapsed_s=report.run_s,
            ended_s=report.ended_s,
        )

    def _entry(
        self, task: Task, report: Report, *, penalty_usd: float, counts: bool = True
    ) -> LedgerEntry:
        spec = task.spec
        kind_of = {need.artifact_id: need.kind for need in task.needs}
        fetched: dict[str, int] = {}
        for fetch in report.fetches:
            kind = kind_of.get(fetch.artifact_id)  # a peer may name anything
            if kind is not None:
                fetched[kind.value] = fetched.get(kind.value, 0) + fetch.size_bytes
        # At its origin the task would have run once: a success that came too late saved nothing.
        is_success = report.state is RunState.SUCCEEDED and counts
        lam = spec.carbon_price_usd_per_kg
        return LedgerEntry(
            run_id=report.run_id,
            task_id=task.task_id,
            name=spec.name,
            project=spec.project,
            kind=spec.work.kind,
            model=next((n.name for n in task.needs if n.kind is ArtifactKind.MODEL), ""),
            data=tuple(n.name for n in task.needs if n.kind is ArtifactKind.DATA),
            origin=task.origin,
            site_id=report.site_id,
            pool_type=report.pool_type,
            gpu_count=spec.gpu.gpu_count,
            state=report.state,
            submitted_s=task.submitted_s,
            started_s=report.started_s,
            ended_s=report.ended_s,
            deadline_s=spec.deadline_s,
            charge=replace(report.charge, penalty_usd=report.charge.penalty_usd + penalty_usd),
            at_origin=self.at_origin(task, report) if is_success else Charge(),
            scope=self.settings.scope,
            carbon_price_usd_per_kg=(self.settings.carbon_price_usd_per_kg if lam is None else lam),
            is_energy_measured=report.is_energy_measured,
            is_carbon_known=task.bid is None or task.bid.is_carbon_known,
            fetched=fetched,
        )

    def _negotiate(self, task: Task) -> Ready:
        if task.task_id in self.negotiating:
            return NOTHING
        self.negotiating.add(task.task_id)
        self.pause_until_s.pop(task.task_id, None)
        writes: tuple[Write, ...] = ()
        voided = self.voided.pop(task.task_id, None)
        if voided is not None:
            writes = (SaveTask(task), voided)
        elif not task.may_be_awarded:
            writes = (SaveTask(self._keep(replace(task, reason=Reason.NEGOTIATING))),)
        return Ready(writes, (Negotiate(task.task_id),))

    def _task_of_run(self, run: str) -> Task | None:
        """Return the task whose present attempt is `run`, or None."""
        task = self.tasks.get(TaskId(run.split(".", 1)[0]))
        if task is None or run_id(task.task_id, task.fence) != run:
            return None
        return task

    def _forget_award(self, task_id: TaskId) -> None:
        self.award_due_s.pop(task_id, None)
        self.award_until_s.pop(task_id, None)

    def _step(self, task: Task, state: TaskState, reason: Reason, message: str) -> Task:
        check_task_transition(self.tasks[task.task_id].state, state)
        return self._keep(replace(task, state=state, reason=reason, message=message))

    def _end(
        self,
        task: Task,
        state: TaskState,
        reason: Reason,
        message: str,
        *,
        now: Now,
        report: Report | None = None,
    ) -> Task:
        ended = self._step(
            replace(
                task,
                ended_s=now.world_s,
                report=report,
                wake_s=None,
                tail=task.tail if report is None else None,  # the report has its own
            ),
            state,
            reason,
            message,
        )
        self.lease_until_s.pop(task.task_id, None)
        self.pause_until_s.pop(task.task_id, None)
        self.voided.pop(task.task_id, None)
        self._forget_award(task.task_id)
        return ended

    def _keep(self, task: Task) -> Task:
        self.tasks[task.task_id] = task
        if task.state.is_terminal:
            self.active.pop(task.task_id, None)
        else:
            self.active[task.task_id] = None
        return task
