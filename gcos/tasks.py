"""Tasks: what users submit, the states they pass through, and why.

A *task* is what the user submitted; a *run* is one attempt at it. A task has at most one active
run. The tables at the end are the whole truth about which state may follow which.
"""

from dataclasses import dataclass, field
from enum import Enum

from gcos.errors import WrongStateError

PROJECT_DEFAULT = "default"
ANY_GPU = "any"


class TaskState(Enum):
    """Where a task stands. The last four are terminal."""

    QUEUED = "QUEUED"
    WAITING = "WAITING"
    AWARDING = "AWARDING"
    LEASED = "LEASED"
    STAGING = "STAGING"
    RUNNING = "RUNNING"
    COMMITTING = "COMMITTING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    REJECTED = "REJECTED"

    @property
    def is_terminal(self) -> bool:
        """Nothing follows this state."""
        return self in _TERMINAL

    @property
    def is_leased(self) -> bool:
        """A site holds a lease on the task's run."""
        return self in _LEASED


class RunState(Enum):
    """Where an attempt stands at the site that makes it."""

    LEASED = "LEASED"
    STAGING = "STAGING"
    RUNNING = "RUNNING"
    COMMITTING = "COMMITTING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    LEASE_RETURNED = "LEASE_RETURNED"
    LEASE_EXPIRED = "LEASE_EXPIRED"
    REVOKED = "REVOKED"
    PREEMPTED = "PREEMPTED"

    @property
    def is_terminal(self) -> bool:
        """The attempt is over."""
        return self not in _ACTIVE_RUN


class Reason(Enum):
    """Why a task or run is where it is: closed, so that programs may branch on it."""

    SUBMITTED = "SUBMITTED"
    NEGOTIATING = "NEGOTIATING"
    NO_SITE_REACHABLE = "NO_SITE_REACHABLE"
    NO_BID = "NO_BID"
    GREENER_START = "GREENER_START"
    NOT_BEFORE = "NOT_BEFORE"
    AWARD_SENT = "AWARD_SENT"
    AWARD_DECLINED = "AWARD_DECLINED"
    AWAITING_HOLDER = "AWAITING_HOLDER"
    QUEUED_AT_SITE = "QUEUED_AT_SITE"
    FETCHING = "FETCHING"
    EXECUTING = "EXECUTING"
    PUBLISHING = "PUBLISHING"
    EXITED_ZERO = "EXITED_ZERO"
    EXIT_CODE = "EXIT_CODE"
    START_FAILED = "START_FAILED"
    STAGING_FAILED = "STAGING_FAILED"
    EXECUTOR_FAILED = "EXECUTOR_FAILED"
    SITE_LOST = "SITE_LOST"
    SITE_DRAINING = "SITE_DRAINING"
    STALE_FENCE = "STALE_FENCE"
    CANCELLED_BY_USER = "CANCELLED_BY_USER"
    RETRIES_SPENT = "RETRIES_SPENT"
    OVER_COST_LIMIT = "OVER_COST_LIMIT"
    OVER_CARBON_LIMIT = "OVER_CARBON_LIMIT"
    PLACEMENT_EXCLUDES = "PLACEMENT_EXCLUDES"
    GPU_TYPE_UNKNOWN = "GPU_TYPE_UNKNOWN"
    GPU_COUNT_TOO_HIGH = "GPU_COUNT_TOO_HIGH"
    ARTIFACT_TOO_LARGE = "ARTIFACT_TOO_LARGE"
    ARTIFACT_UNREACHABLE = "ARTIFACT_UNREACHABLE"
    NO_CANDIDATE = "NO_CANDIDATE"
    CACHE_FULL = "CACHE_FULL"
    QUEUE_FULL = "QUEUE_FULL"
    STALE_SIGNAL = "STALE_SIGNAL"
    IMAGE_UNSUPPORTED = "IMAGE_UNSUPPORTED"
    SECRET_MISSING = "SECRET_MISSING"
    OUTPUT_MISSING = "OUTPUT_MISSING"
    OUTPUT_REFUSED = "OUTPUT_REFUSED"
    PREEMPTED = "PREEMPTED"
    PREDICTED_LATE = "PREDICTED_LATE"


class WorkKind(Enum):
    """What sort of job it is; the predictor's coarsest context after the whole."""

    FINE_TUNE = "FINE_TUNE"
    BATCH_INFERENCE = "BATCH_INFERENCE"
    EVALUATION = "EVALUATION"
    CUSTOM = "CUSTOM"


class RetryCause(Enum):
    """What may be retried. The user's own non-zero exit only when listed."""

    SITE_LOST = "SITE_LOST"
    STAGING = "STAGING"
    EXECUTOR = "EXECUTOR"
    EXIT_CODE = "EXIT_CODE"


@dataclass(frozen=True, slots=True)
class Work:
    """How much there is to do: what the predictor reads.

    Attributes:
        kind: Sort of job.
        token_count: Tokens to process or generate, over all epochs' data once.
        epoch_count: Passes over the data.
        batch_size_count: Sequences per step; 0 where unknown.
        sequence_token_count: Tokens per sequence; 0 where unknown.
    """

    kind: WorkKind = WorkKind.CUSTOM
    token_count: int = 0
    epoch_count: float = 1.0
    batch_size_count: int = 0
    sequence_token_count: int = 0


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """Which GPUs the run needs.

    Attributes:
        type: GPU type, or `any`.
        gpu_count: GPUs, all in one pool.
    """

    type: str = ANY_GPU
    gpu_count: int = 1


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the task may run: ids of sites, or electricity zones with or without a site in them.

    Attributes:
        allow: If not empty, only here. A zone may be named before any site is in it.
        deny: Never here. A zone may be named before any site is in it.
        prefer: Chosen among equal offers.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    prefer: tuple[str, ...] = ()

    def admits(self, site: str, zone: str) -> bool:
        """Tell whether the task may run at `site` in `zone`."""
        names = {site, zone}
        return names.isdisjoint(self.deny) and (not self.allow or not names.isdisjoint(self.allow))


@dataclass(frozen=True, slots=True)
class Retry:
    """When a failed attempt is followed by another.

    Attributes:
        limit_count: Attempts after the first.
        on: Causes that may be retried.
    """

    limit_count: int = 2
    on: tuple[RetryCause, ...] = (RetryCause.SITE_LOST, RetryCause.STAGING, RetryCause.EXECUTOR)


class OutputKind(Enum):
    """What becomes of an output: kept as files, made an artifact there, or copied to a place."""

    FILES = "FILES"
    MODEL = "MODEL"
    DATA = "DATA"
    URI = "URI"


@dataclass(frozen=True, slots=True)
class Output:
    """Something that the run must leave behind.

    Attributes:
        path: Relative to the output directory of the run; must exist when it ends.
        kind: Kept as files, made a model or data set that later tasks can name, or copied.
        name: Name of the artifact; empty for files.
        uri: Where it is copied to, `file:///...` on the executing site's machine, under a root
            that its operator allows; empty for the other kinds.
    """

    path: str
    kind: OutputKind = OutputKind.FILES
    name: str = ""
    uri: str = ""


class Reconcile(Enum):
    """Which of two attempts counts, where a lost one turns out to have succeeded."""

    KEEP_ORIGINAL = "KEEP_ORIGINAL"
    KEEP_NEW = "KEEP_NEW"


@dataclass(frozen=True, slots=True)
class Disconnect:
    """What a partition means for the task.

    Attributes:
        lost_after_s: Protocol seconds without word after which the holder stops the run and the
            origin counts it as lost; None: the lease of the origin.
        is_replaced: Run it again elsewhere then; False: it fails.
        reconcile: KEEP_ORIGINAL: a success of the lost attempt counts while the task has not ended
            and no newer attempt was awarded; KEEP_NEW: it never does.
    """

    lost_after_s: float | None = None
    is_replaced: bool = True
    reconcile: Reconcile = Reconcile.KEEP_ORIGINAL


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What the user asked for, checked and with durations turned into instants.

    Attributes:
        name: What the user calls the task.
        model: Reference of the model artifact.
        data: References of the data sets.
        work: Size of the work.
        gpu: GPUs needed.
        command: Program and arguments; a text command runs under `/bin/sh -c`.
        env: Environment of the run.
        deadline_s: World instant by which it should have ended.
        earliest_start_s: World instant before which it must not start.
        max_cost_usd: Hard limit on the p90 of a bid's cost, in the origin's cost scope.
        max_carbon_gco2: Hard limit on the p90 of a bid's carbon.
        carbon_price_usd_per_kg: Weight of carbon; the origin's setting where None.
        placement: Where it may run.
        project: Whom it is accounted to.
        retry: When to try again.
        is_idempotent: False: never replaced automatically where I3 is not guaranteed.
        request_id: Same id and document, same answer.
        workdir: Reference of an artifact whose files the run starts with.
        image: Container image; only executors that run images take the task.
        outputs: What the run must leave behind.
        secrets: Names of secrets, which the executing site looks up in its own store and puts into
            the environment; values never travel and are never written down.
        priority: Higher goes first in a site's queue, and may preempt lower where the site allows.
        disconnect: What a partition means for the task.
        document_digest: SHA-256 of what the document says, in hex; kept with a request id, so that
            another document under the same id can be told from a repeat.
        is_workdir_sent: The working directory was sent for this task alone, and goes with its end.
    """

    name: str
    command: tuple[str, ...]
    model: str | None = None
    data: tuple[str, ...] = ()
    work: Work = field(default_factory=Work)
    gpu: GpuRequest = field(default_factory=GpuRequest)
    env: dict[str, str] = field(default_factory=dict)
    deadline_s: float | None = None
    earliest_start_s: float | None = None
    max_cost_usd: float | None = None
    max_carbon_gco2: float | None = None
    carbon_price_usd_per_kg: float | None = None
    placement: Placement = field(default_factory=Placement)
    project: str = PROJECT_DEFAULT
    retry: Retry = field(default_factory=Retry)
    is_idempotent: bool = True
    request_id: str | None = None
    workdir: str | None = None
    image: str | None = None
    outputs: tuple[Output, ...] = ()
    secrets: tuple[str, ...] = ()
    priority: int = 0
    disconnect: Disconnect = field(default_factory=Disconnect)
    document_digest: str | None = None
    is_workdir_sent: bool = False


_TERMINAL = frozenset(
    {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.REJECTED}
)
_LEASED = frozenset({TaskState.LEASED, TaskState.STAGING, TaskState.RUNNING, TaskState.COMMITTING})
_ACTIVE_RUN = frozenset({RunState.LEASED, RunState.STAGING, RunState.RUNNING, RunState.COMMITTING})

#: Which task state may follow which, beside staying where it is. Anything else is a bug or a lie.
TASK_TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    # A success whose lease had been given up still counts while no newer attempt exists.
    TaskState.QUEUED: frozenset(
        {TaskState.WAITING, TaskState.AWARDING, TaskState.SUCCEEDED}
        | {TaskState.CANCELLED, TaskState.REJECTED}
    ),
    TaskState.WAITING: frozenset({TaskState.QUEUED, TaskState.SUCCEEDED, TaskState.CANCELLED}),
    TaskState.AWARDING: frozenset(
        {TaskState.LEASED, TaskState.QUEUED, TaskState.FAILED, TaskState.CANCELLED}
    ),
    # A holder reports states when it renews, so one may be skipped; none is ever revisited.
    TaskState.LEASED: frozenset(
        {TaskState.STAGING, TaskState.RUNNING, TaskState.COMMITTING, TaskState.QUEUED}
        | {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED}
    ),
    TaskState.STAGING: frozenset(
        {TaskState.RUNNING, TaskState.COMMITTING, TaskState.QUEUED}
        | {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED}
    ),
    TaskState.RUNNING: frozenset(
        {TaskState.COMMITTING, TaskState.QUEUED}
        | {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED}
    ),
    TaskState.COMMITTING: frozenset(
        {TaskState.QUEUED, TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED}
    ),
    TaskState.SUCCEEDED: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.CANCELLED: frozenset(),
    TaskState.REJECTED: frozenset(),
}

_ENDS = frozenset(state for state in RunState if state not in _ACTIVE_RUN)
#: The same for runs, at the site that makes the attempt.
RUN_TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    RunState.LEASED: _ENDS - {RunState.SUCCEEDED} | {RunState.STAGING, RunState.RUNNING},
    RunState.STAGING: _ENDS - {RunState.SUCCEEDED} | {RunState.RUNNING},
    RunState.RUNNING: _ENDS - {RunState.SUCCEEDED, RunState.LEASE_RETURNED} | {RunState.COMMITTING},
    RunState.COMMITTING: frozenset(
        {RunState.SUCCEEDED, RunState.FAILED, RunState.REVOKED, RunState.CANCELLED}
        | {RunState.LEASE_EXPIRED}
    ),
} | dict.fromkeys(_ENDS, frozenset())


def check_task_transition(before: TaskState, after: TaskState) -> None:
    """Let a task pass from `before` to `after`.

    Raises:
        WrongStateError: The table does not allow it.
    """
    if after is not before and after not in TASK_TRANSITIONS[before]:
        raise WrongStateError(f"a task cannot pass from {before.value} to {after.value}")


def check_run_transition(before: RunState, after: RunState) -> None:
    """Let a run pass from `before` to `after`.

    Raises:
        WrongStateError: The table does not allow it.
    """
    if after is not before and after not in RUN_TRANSITIONS[before]:
        raise WrongStateError(f"a run cannot pass from {before.value} to {after.value}")
