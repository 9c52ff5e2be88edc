"""The words of the contract net, for both roles (Smith 1980; FIPA SC00029H).

    initiator (the origin)                     participant (a site)
      Announcement  ─────────────────────────▶
                    ◀─────────────────────────  Bid | Refusal
      Award         ─────────────────────────▶
                    ◀─────────────────────────  AwardAnswer (accept | decline)
      Rejection     ─────────────────────────▶  (to the losers; may be lost)
                    ◀─────────────────────────  Renewal, every `lease_s / 3`, lists all runs
      RenewalAnswer ─────────────────────────▶
                    ◀─────────────────────────  Report
      ReportAnswer  ─────────────────────────▶

Rules that make it safe:

1. A bid changes nothing durable (I8).
2. A run executes only while its holder has a lease that the origin has *confirmed by answering a
   renewal*. Accepting an award is not enough: the origin may have moved on before the answer came.
3. The holder counts the lease from the moment it *sent* the renewal that was answered; the origin
   from the moment it answered, plus a margin. Clock rates may differ by `RATE_DRIFT`.
4. The origin raises the fence before it awards again, and refuses every message with an older one.
5. The run id is the idempotency key of award, renewal and report: a repeat gets the first answer.
"""

from dataclasses import dataclass, field
from enum import Enum

from gcos.accounting import G_PER_KG, Charge, CostScope, LatePenalty
from gcos.artifacts import Artifact, ArtifactKind
from gcos.durations import Prediction
from gcos.ids import ArtifactId, Fence, RunId, SiteId, TaskId
from gcos.log_tails import LogTail
from gcos.tasks import GpuRequest, Output, Reason, RunState, Work

#: Stated bound on the difference of clock rates between two sites, seconds per second.
RATE_DRIFT = 1e-3


@dataclass(frozen=True, slots=True)
class Holder:
    """A site that serves an artifact.

    Attributes:
        site_id: Which site.
        zone: Its electricity zone; links are looked up by zone.
        address: `host:port` of its agent.
        carbon_gco2_per_kwh: Its intensity when last heard; None where unknown.
    """

    site_id: SiteId
    zone: str
    address: str
    carbon_gco2_per_kwh: float | None = None


@dataclass(frozen=True, slots=True)
class ArtifactNeed:
    """An artifact that a task needs, and who has it."""

    artifact_id: ArtifactId
    kind: ArtifactKind
    name: str
    size_bytes: int
    holders: tuple[Holder, ...] = ()


@dataclass(frozen=True, slots=True)
class Terms:
    """By what the origin compares offers.

    Attributes:
        carbon_price_usd_per_kg: Lambda of J = cost + lambda x carbon.
        network_kwh_per_gb: Kappa, network energy, kWh per 1e9 bytes.
        scope: Which items are cost.
        late_penalty: What being late costs; counted only where the task has a deadline.
    """

    carbon_price_usd_per_kg: float
    network_kwh_per_gb: float
    scope: CostScope
    late_penalty: LatePenalty


@dataclass(frozen=True, slots=True)
class ClusterSignals:
    """Means over all sites of what they expect of the next 24 h, as their digests tell it.

    Attributes:
        price_usd_per_kwh: Price of electricity.
        carbon_gco2_per_kwh: Carbon intensity, of the sites that know theirs; 0 where none does.
    """

    price_usd_per_kwh: float
    carbon_gco2_per_kwh: float


@dataclass(frozen=True, slots=True)
class Announcement:
    """A task to bid for.

    Attributes:
        task_id: The task.
        fence: Fence that the award would carry.
        origin: The initiator's site.
        gpu: GPUs asked for.
        work: Size of the work.
        needs: Artifacts and their holders.
        predictions: Run time by pool type.
        terms: How offers are compared.
        earliest_start_s: World instant before which a run must not start; None: now.
        deadline_s: World instant of the deadline; None: none.
        may_defer: A later, greener start may be offered.
        image: Container image; None: a plain command.
        secrets: Names of secrets that the run needs.
        priority: Higher goes first.
        output_uris: Where outputs are to be copied to, `file:///...`.
        cluster: What all bidders measure money by; None: the origin has heard of no site's signals.
    """

    task_id: TaskId
    fence: Fence
    origin: SiteId
    gpu: GpuRequest
    work: Work
    needs: tuple[ArtifactNeed, ...]
    predictions: tuple[Prediction, ...]
    terms: Terms
    earliest_start_s: float | None = None
    deadline_s: float | None = None
    may_defer: bool = True
    image: str | None = None
    secrets: tuple[str, ...] = ()
    priority: int = 0
    output_uris: tuple[str, ...] = ()
    cluster: ClusterSignals | None = None


@dataclass(frozen=True, slots=True)
class Fetch:
    """A transfer that an offer counts on.

    Attributes:
        artifact_id: What.
        name: What people call it.
        size_bytes: Bytes to move.
        source: From which site.
        duration_s: Expected duration, world seconds.
        cost_usd: Egress.
        carbon_gco2: Network carbon.
    """

    artifact_id: ArtifactId
    name: str
    size_bytes: int
    source: Holder
    duration_s: float
    cost_usd: float
    carbon_gco2: float


@dataclass(frozen=True, slots=True)
class Bid:
    """A site's offer.

    Attributes:
        site_id: The bidder.
        task_id: The task.
        offer_usd: J, the exact marginal cost of the task here: expected cost + lambda x carbon.
        score_ratio: By what offers of one actor are compared, before `offer_usd`. Lower is better.
        actor: Name and version of what made the offer; differing actors compare by `offer_usd`.
        pool_type: Which pool.
        start_s: World instant at which the run would start.
        is_deferred: The start is later than need be, because it is greener or cheaper then.
        p50_finish_s: World instant, median.
        p90_finish_s: World instant, 90 % quantile.
        late_probability: P(finish > deadline); 0 without a deadline.
        charge: Expected cost and carbon by item.
        p90_cost_usd: Cost if the run time is its p90, in the terms' scope, without penalty.
        p90_carbon_gco2: Carbon if the run time is its p90.
        is_carbon_known: False: the signal is missing or stale, and carbon counted as nothing.
        fetches: What would be moved.
        evictions: What would be evicted to make room.
        valid_until_s: World instant until which the soft reservation stands.
        guarantees_single_execution: The site's executor stops a run with its lease even where the
            agent is dead (I3); False: a lost run may go on.
        residual_usd: How much dearer than `offer_usd` a learned actor ranks the offer; below 0:
            cheaper. It is in `score_ratio` and in no charge.
    """

    site_id: SiteId
    task_id: TaskId
    offer_usd: float
    score_ratio: float
    actor: str
    pool_type: str
    start_s: float
    is_deferred: bool
    p50_finish_s: float
    p90_finish_s: float
    late_probability: float
    charge: Charge
    p90_cost_usd: float
    p90_carbon_gco2: float
    is_carbon_known: bool
    fetches: tuple[Fetch, ...]
    evictions: tuple[ArtifactId, ...]
    valid_until_s: float
    guarantees_single_execution: bool = True
    residual_usd: float = 0.0


def with_copies_usd(bid: Bid, carbon_price_usd_per_kg: float) -> float:
    """Return the J of a bid had nothing been missing at its site: the bid for having the copies."""
    charge = bid.charge
    carbon_usd = carbon_price_usd_per_kg * charge.network_gco2 / G_PER_KG
    return bid.offer_usd - charge.transfer_usd - carbon_usd


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a site does not bid, or why a bid does not count.

    Attributes:
        site_id: Which site.
        reason: Closed code.
        message: One sentence for a person.
        hint: The next step for a person; the origin adds what a site leaves out.
    """

    site_id: SiteId
    reason: Reason
    message: str
    hint: str = ""


class ChangeKind(Enum):
    """What of a task or cluster would have to change."""

    LIMIT = "LIMIT"
    COPY = "COPY"
    DEADLINE = "DEADLINE"


@dataclass(frozen=True, slots=True)
class Change:
    """Something that would change the answer to a plan.

    Attributes:
        kind: Limit, copy or deadline.
        message: One sentence for a person, with the value it would take.
        site_id: Who would run the task then.
        start_s: World instant at which.
        offer_usd: J of that offer.
        saving_usd: What it saves against the best offer now; 0 where there is none now.
    """

    kind: ChangeKind
    message: str
    site_id: SiteId
    start_s: float
    offer_usd: float
    saving_usd: float


@dataclass(frozen=True, slots=True)
class Award:
    """The task is yours. Sent again with the same `run_id` until answered.

    Attributes:
        run_id: The attempt; the idempotency key.
        task_id: The task.
        fence: The attempt's fence.
        origin: Who awards.
        origin_address: Where renewals and reports go.
        command: Program and arguments.
        env: Environment of the run.
        gpu: GPUs to give it.
        pool_type: Pool that the bid named.
        needs: Artifacts and holders.
        predictions: Run time on that pool type; the winner has no use for others.
        terms: For the charge.
        deadline_s: World instant; None: none.
        earliest_start_s: World instant; None: now.
        lease_s: Duration D of a lease, protocol seconds.
        project: Whom the task is accounted to.
        workdir_id: Artifact whose files the run starts with; among the needs; None: none.
        image: Container image; None: a plain command.
        outputs: What the run must leave behind.
        secrets: Names of secrets that the run needs.
        priority: Higher goes first.
    """

    run_id: RunId
    task_id: TaskId
    fence: Fence
    origin: SiteId
    origin_address: str
    command: tuple[str, ...]
    env: dict[str, str]
    gpu: GpuRequest
    pool_type: str
    needs: tuple[ArtifactNeed, ...]
    predictions: tuple[Prediction, ...]
    terms: Terms
    lease_s: float
    project: str
    deadline_s: float | None = None
    earliest_start_s: float | None = None
    workdir_id: ArtifactId | None = None
    image: str | None = None
    outputs: tuple[Output, ...] = ()
    secrets: tuple[str, ...] = ()
    priority: int = 0


@dataclass(frozen=True, slots=True)
class AwardAnswer:
    """Accept or decline. A site that has accepted repeats its acceptance."""

    is_accepted: bool
    reason: Reason | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """To the site whose later start was chosen: the task waits for it, without a lease.

    A soft reservation under the task's name, so that the site does not promise those GPUs twice; it
    lapses, and binds nobody. May be lost.

    Attributes:
        task_id: The task.
        pool_type: Pool that the bid named.
        gpu_count: GPUs.
        start_s: World instant of the promised start.
        end_s: World instant of its predicted median end.
        until_s: World instant at which the reservation lapses.
    """

    task_id: TaskId
    pool_type: str
    gpu_count: int
    start_s: float
    end_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class Rejection:
    """To a loser: what the task went for. MACCS learns its regret from it; may be lost.

    Attributes:
        task_id: The task.
        winner: Who got it.
        winning_offer_usd: J of the winning bid.
        offer_usd: J of the receiver's own bid.
        best_with_copies_usd: Lowest J that any loser would have offered with what it lacked in
            place (`with_copies_usd`); None where none lacked anything. One task would have gone to
            one site: only the loser whose own this is has lost it for want of copies.
    """

    task_id: TaskId
    winner: SiteId
    winning_offer_usd: float
    offer_usd: float
    best_with_copies_usd: float | None = None


@dataclass(frozen=True, slots=True)
class RunProgress:
    """One run in a renewal.

    Attributes:
        run_id: The attempt.
        state: Where it stands.
        reason: Why it stands there.
        started_s: World instant of the start; None before.
        fetched_bytes: Bytes moved for it so far.
        fetch_bytes: Bytes to move for it in all.
        tail: Last lines of its output; None where the origin has them, or nothing was written.
    """

    run_id: RunId
    state: RunState
    reason: Reason
    started_s: float | None = None
    fetched_bytes: int = 0
    fetch_bytes: int = 0
    tail: LogTail | None = None


@dataclass(frozen=True, slots=True)
class Renewal:
    """All runs of one origin that a site holds: heartbeat, progress and reconciliation in one."""

    site_id: SiteId
    incarnation: str
    runs: tuple[RunProgress, ...]


class Verdict(Enum):
    """What the origin says to a run it is told of."""

    CONTINUE = "CONTINUE"
    REVOKED = "REVOKED"


@dataclass(frozen=True, slots=True)
class RenewalAnswer:
    """A verdict for each run of the renewal, by run id.

    A run that may go on has the lease of its award, counted from the sending of the renewal.

    Attributes:
        verdicts: By run id.
        tail_end_bytes: How far the newest tail that the origin has of a run's output reaches, by
            run id; absent where it has none. What goes beyond comes with the next renewal.
    """

    verdicts: dict[str, Verdict]
    tail_end_bytes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a run, as its site saw it. Sent until answered.

    Attributes:
        run_id: The attempt.
        task_id: The task.
        fence: The attempt's fence; an older one is refused.
        site_id: Who ran it.
        state: A terminal run state.
        reason: Why it ended so.
        message: One sentence for a person.
        exit_code: Of the command; None where it never ended by itself.
        pool_type: Where it ran.
        accepted_s: World instant of the acceptance.
        staged_s: World instant at which every artifact was there; None: never.
        started_s: World instant of the start; None: never started.
        ended_s: World instant of the end.
        charge: What the attempt cost: run and transfers made for it; no penalty.
        fetches: Transfers made for it.
        evictions: What was evicted for it.
        is_energy_measured: False: energy is modelled from the pool's power.
        log_tail: Last lines of its output.
        outputs: Artifacts that it made, in this site's cache and custody.
        output_bytes: Size of all files that it left behind.
    """

    run_id: RunId
    task_id: TaskId
    fence: Fence
    site_id: SiteId
    state: RunState
    reason: Reason
    message: str
    exit_code: int | None
    pool_type: str
    accepted_s: float
    staged_s: float | None
    started_s: float | None
    ended_s: float
    charge: Charge
    fetches: tuple[Fetch, ...]
    evictions: tuple[ArtifactId, ...]
    is_energy_measured: bool
    log_tail: str
    outputs: tuple[Artifact, ...] = ()
    output_bytes: int = 0

    @property
    def run_s(self) -> float:
        """World seconds that it executed."""
        return 0.0 if self.started_s is None else max(0.0, self.ended_s - self.started_s)


@dataclass(frozen=True, slots=True)
class ReportAnswer:
    """Whether the report counted; either way it need not be sent again."""

    is_accepted: bool
    message: str = ""
