"""A task as its origin keeps it: what the journal stores and what clients see."""

from dataclasses import dataclass

from gcos.contract_net import ArtifactNeed, Bid, Fetch, Report
from gcos.durations import Prediction
from gcos.ids import Fence, RunId, SiteId, TaskId
from gcos.log_tails import HeardTail
from gcos.tasks import Reason, TaskSpec, TaskState


@dataclass(frozen=True, slots=True)
class Task:
    """A task and all that is known of it.

    Attributes:
        task_id: The task.
        origin: Site that owns it.
        spec: What the user asked for.
        submitted_s: World instant of the submission.
        state: Where it stands.
        reason: Why it stands there.
        message: One sentence for a person.
        needs: Artifacts it was resolved to when it was submitted.
        fence: Fence of the latest award, one that a crash made void included; attempt 0 before the
            first.
        predictions: Run time by pool type, of the latest announcement.
        bid: The bid that was awarded, or that the task waits for; None before.
        auction_count: Announcements made for it.
        failure_count: Attempts that failed or were lost.
        wake_s: World instant of the next announcement while QUEUED or WAITING; None: at once.
        started_s: World instant at which the latest attempt started; None before.
        ended_s: World instant of the terminal state; None before.
        report: The report that ended it; None before, or where it ended without one.
        fetched_bytes: Bytes moved for the running attempt so far.
        fetch_bytes: Bytes to move for it in all.
        origin_fetches: Transfers that running at the origin at once would have needed; the
            yardstick of savings.
        tail: What the latest attempt last wrote, so far as it was heard; None in lists and while a
            task is watched, and where the report has it.
    """

    task_id: TaskId
    origin: SiteId
    spec: TaskSpec
    submitted_s: float
    state: TaskState
    reason: Reason
    message: str
    needs: tuple[ArtifactNeed, ...]
    fence: Fence
    predictions: tuple[Prediction, ...] = ()
    bid: Bid | None = None
    auction_count: int = 0
    failure_count: int = 0
    wake_s: float | None = None
    started_s: float | None = None
    ended_s: float | None = None
    report: Report | None = None
    fetched_bytes: int = 0
    fetch_bytes: int = 0
    origin_fetches: tuple[Fetch, ...] = ()
    tail: HeardTail | None = None

    @property
    def site_id(self) -> SiteId | None:
        """The site that holds or held the latest award; None while it has none."""
        has_site = self.state.is_leased or self.state is TaskState.AWARDING
        if self.report is not None:
            return self.report.site_id
        return self.bid.site_id if self.bid is not None and has_site else None

    @property
    def may_be_awarded(self) -> bool:
        """Whether its next attempt may be some site's although nothing here says whose.

        It is announced, and an award goes out before the choice is on disk.
        """
        is_announced = self.reason in (Reason.SUBMITTED, Reason.NEGOTIATING)
        return self.state is TaskState.QUEUED and is_announced

    @property
    def active_run_id(self) -> RunId:
        """Id of the attempt that the fence names."""
        return RunId(f"{self.task_id}.{self.fence.origin_epoch}.{self.fence.attempt}")
