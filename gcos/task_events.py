"""What happened to a task, written down when it happened: what `explain` tells. Pure records."""

from dataclasses import dataclass

from gcos.contract_net import Bid, Refusal, Report
from gcos.ids import SiteId
from gcos.log_tails import HeardTail
from gcos.tasks import Reason


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """One thing that happened.

    Attributes:
        at_s: World instant.
        kind: Stable name: `task_submitted`, `auction_closed`, `task_deferred`, `task_awarded`,
            `award_declined`, `award_unanswered`, `staging_began`, `run_started`, `run_ended`,
            `lease_expired`, `attempt_voided`, `task_cancelled`.
        message: One sentence for a person.
        reason: Closed code; None where the kind says all.
        site_id: The site it is about; None: none.
        attempt: The attempt it is about; 0: none.
        bids: Offers within the limits, best first.
        refusals: Sites that did not offer, or whose offers broke a limit.
        report: The end of a run; None where the event is none.
        tail: What a run that was lost last wrote, so far as it was heard; None where the event is
            none.
    """

    at_s: float
    kind: str
    message: str
    reason: Reason | None = None
    site_id: SiteId | None = None
    attempt: int = 0
    bids: tuple[Bid, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    report: Report | None = None
    tail: HeardTail | None = None
