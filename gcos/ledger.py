"""The ledger: one entry for each attempt, with what it cost and what it would have cost at home."""

from collections.abc import Iterable
from dataclasses import dataclass

from gcos.accounting import Charge, CostScope
from gcos.artifacts import ArtifactKind
from gcos.ids import RunId, SiteId, TaskId
from gcos.tasks import RunState, WorkKind


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What one attempt cost.

    Attributes:
        run_id: The attempt.
        task_id: The task.
        name: What the user calls the task.
        project: Whom it is accounted to.
        kind: Sort of work.
        model: Name of the model artifact; empty where there is none.
        data: Names of the data sets.
        origin: Site that owns the task.
        site_id: Site that ran it.
        pool_type: GPU type.
        gpu_count: GPUs used.
        state: How the attempt ended.
        submitted_s: World instant of the submission.
        started_s: World instant of the start; None: never started.
        ended_s: World instant of the end.
        deadline_s: World instant; None: none.
        charge: Cost and carbon by item; the penalty is on the attempt that ended the task.
        at_origin: The same measured run time, started at the origin at the moment of submission
            on the origin's first pool, what the origin then lacked fetched from the cheapest
            holder, no queueing: the yardstick of savings. Zero for attempts that did not succeed.
        scope: Which items are cost.
        carbon_price_usd_per_kg: Lambda.
        is_energy_measured: False: modelled from the pool's power.
        is_carbon_known: False: a signal was missing or stale.
        fetched: What was moved, by kind, bytes.
    """

    run_id: RunId
    task_id: TaskId
    name: str
    project: str
    kind: WorkKind
    model: str
    data: tuple[str, ...]
    origin: SiteId
    site_id: SiteId
    pool_type: str
    gpu_count: int
    state: RunState
    submitted_s: float
    started_s: float | None
    ended_s: float
    deadline_s: float | None
    charge: Charge
    at_origin: Charge
    scope: CostScope
    carbon_price_usd_per_kg: float
    is_energy_measured: bool
    is_carbon_known: bool
    fetched: dict[str, int]

    @property
    def late_s(self) -> float:
        """Seconds after the deadline; 0 where in time or without one."""
        return 0.0 if self.deadline_s is None else max(0.0, self.ended_s - self.deadline_s)


@dataclass(frozen=True, slots=True)
class Savings:
    """Totals against running at the origin at once.

    Attributes:
        spent: What was charged.
        at_origin: What the same measured work would have cost at its origins at once.
        entry_count: Entries summed.
    """

    spent: Charge
    at_origin: Charge
    entry_count: int


def savings(entries: Iterable[LedgerEntry]) -> Savings:
    """Return the totals of `entries`; failed attempts count as spent (DESIGN section 5)."""
    kept = list(entries)
    return Savings(
        spent=Charge.sum(entry.charge for entry in kept),
        at_origin=Charge.sum(entry.at_origin for entry in kept),
        entry_count=len(kept),
    )


def fetched_bytes(entry: LedgerEntry, kind: ArtifactKind) -> int:
    """Return the bytes of `kind` that were moved for the attempt."""
    return entry.fetched.get(kind.value, 0)
