"""A run as the site that makes it keeps it: what its journal stores."""

from dataclasses import dataclass, field

from gcos.accounting import Charge
from gcos.contract_net import Award, Fetch, Report
from gcos.ids import ArtifactId, RunId
from gcos.tasks import Reason, RunState


@dataclass(frozen=True, slots=True)
class HeldRun:
    """An accepted award and what has become of it.

    Attributes:
        award: What was accepted.
        state: Where it stands.
        reason: Why it stands there.
        accepted_s: World instant of the acceptance.
        staged_s: World instant at which every artifact was here; None before.
        started_s: World instant of the start; None before.
        devices: Indices of its GPUs; empty before the start.
        transfers: Charge of what was fetched for it.
        fetches: What was fetched for it.
        evictions: What was evicted for it.
        is_carbon_known: False: a signal was missing or stale when it was charged.
        report: The report to be sent until answered; None while it goes on.
    """

    award: Award
    state: RunState
    reason: Reason
    accepted_s: float
    staged_s: float | None = None
    started_s: float | None = None
    devices: tuple[int, ...] = ()
    transfers: Charge = field(default_factory=Charge)
    fetches: tuple[Fetch, ...] = ()
    evictions: tuple[ArtifactId, ...] = ()
    is_carbon_known: bool = True
    report: Report | None = None

    @property
    def run_id(self) -> RunId:
        """The attempt."""
        return self.award.run_id
