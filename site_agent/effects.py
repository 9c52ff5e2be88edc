"""What cores ask their shell to do: first write, then act.

Every method of a core returns a `Ready`. The shell makes `writes` durable in one transaction and
only then performs `effects`, in order (the pattern of etcd/raft's `Ready`). It takes every `Ready`
in its turn: an answer or effect without writes, too, follows all writes that were asked for before
it, so that nobody hears of what a crash could undo. What earlier writes allow for already is
`at_once`: it is begun while those of the same `Ready` are being written.
"""

from dataclasses import dataclass

from gcos.contract_net import Award, Hold, Rejection, Report
from gcos.durations import Observation
from gcos.ids import RunId, SiteId, TaskId
from gcos.ledger import LedgerEntry
from gcos.task_events import TaskEvent
from gcos.task_record import Task
from site_agent.held_run import HeldRun


@dataclass(frozen=True, slots=True)
class Now:
    """An instant on both time axes, as `gcos.clock` defines them."""

    protocol_s: float
    world_s: float


@dataclass(frozen=True, slots=True)
class SaveTask:
    """Keep a task as it now is."""

    task: Task


@dataclass(frozen=True, slots=True)
class SaveRun:
    """Keep a held run as it now is."""

    run: HeldRun


@dataclass(frozen=True, slots=True)
class ForgetRun:
    """Drop a held run whose report was answered."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class AddEntry:
    """Enter an attempt into the ledger; a second time changes nothing."""

    entry: LedgerEntry


@dataclass(frozen=True, slots=True)
class Note:
    """Append to the audit log of a task."""

    task_id: TaskId
    event: TaskEvent


Write = SaveTask | SaveRun | ForgetRun | AddEntry | Note


@dataclass(frozen=True, slots=True)
class Negotiate:
    """Predict, nominate, announce, and hand the answers to `Origin.close_auction`."""

    task_id: TaskId


@dataclass(frozen=True, slots=True)
class SendAward:
    """Send an award to the winner and hand the answer to `Origin.award_answered`."""

    to: SiteId
    award: Award


@dataclass(frozen=True, slots=True)
class SendHold:
    """Tell a site that a task waits for the start it offered; may be lost."""

    to: SiteId
    hold: Hold


@dataclass(frozen=True, slots=True)
class SendRejections:
    """Tell losers what the task went for; may be lost."""

    rejections: tuple[tuple[SiteId, Rejection], ...]


@dataclass(frozen=True, slots=True)
class SendRevoke:
    """Ask a holder to stop a run now; its next renewal would tell it too."""

    to: SiteId
    run_id: RunId


@dataclass(frozen=True, slots=True)
class Observe:
    """Tell the predictor how a run ended."""

    observation: Observation


@dataclass(frozen=True, slots=True)
class Stage:
    """Bring what the run lacks, then call `Participant.staged` or `staging_failed`."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class StartRun:
    """Hand the run to the executor with these devices, under a lease until `lease_until_s`."""

    run_id: RunId
    devices: tuple[int, ...]
    lease_until_s: float


@dataclass(frozen=True, slots=True)
class Adopt:
    """Watch a run that was started before this process began."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class ExtendLease:
    """Tell the executor that the run's lease lasts until this protocol instant."""

    run_id: RunId
    lease_until_s: float


@dataclass(frozen=True, slots=True)
class StopRun:
    """Stop a run that executes; its exit is reported as usual."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class StopStaging:
    """Stop bringing artifacts for a run that is over."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish the outputs of a run under its fence, then call `Participant.published`."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class SendReport:
    """Report the end of a run to its origin until answered."""

    address: str
    report: Report


@dataclass(frozen=True, slots=True)
class Reap:
    """Remove what the executor kept of a run."""

    run_id: RunId


@dataclass(frozen=True, slots=True)
class RenewSoon:
    """Renew the leases of this origin's runs now rather than at the next beat."""

    address: str


Effect = (
    Negotiate
    | SendAward
    | SendHold
    | SendRejections
    | SendRevoke
    | Observe
    | Stage
    | StartRun
    | Adopt
    | ExtendLease
    | StopRun
    | StopStaging
    | Publish
    | SendReport
    | Reap
    | RenewSoon
)


@dataclass(frozen=True, slots=True)
class Ready:
    """First write, then act.

    Attributes:
        writes: Made durable in one transaction.
        effects: Begun once that is done.
        at_once: Begun without waiting for it: what is durable allows for them already.
    """

    writes: tuple[Write, ...] = ()
    effects: tuple[Effect, ...] = ()
    at_once: tuple[Effect, ...] = ()

    def __add__(self, other: "Ready") -> "Ready":
        return Ready(
            self.writes + other.writes,
            self.effects + other.effects,
            self.at_once + other.at_once,
        )


NOTHING = Ready()
