"""Plausible records for tests that show or carry them. Pure."""

from dataclasses import replace

from gcos.accounting import Charge, CostScope, LatePenalty
from gcos.artifacts import Artifact, ArtifactKind, CacheEntry
from gcos.client_records import Plan, Scales
from gcos.contract_net import Bid, Fetch, Holder, Refusal, Report, Terms
from gcos.copy_events import CopyEvent
from gcos.durations import Prediction, PredictionSource, RunTime
from gcos.ids import ArtifactId, Fence, SiteId, TaskId, run_id
from gcos.ledger import LedgerEntry
from gcos.task_record import Task
from gcos.tasks import Reason, RunState, TaskSpec, TaskState, WorkKind

NOW_S = 1_795_442_700.0
"""World instant around which samples lie: 2026-11-23T14:05:00Z."""

DE = SiteId("de")
CAL = SiteId("cal")
MODEL_ID = ArtifactId("sha256:" + "ab" * 32)

CHARGE = Charge(
    energy_kwh=12.0,
    energy_usd=0.96,
    gpu_usd=16.0,
    transfer_usd=0.24,
    compute_gco2=2400.0,
    network_gco2=60.0,
    transfer_bytes=3_000_000_000,
)
TERMS = Terms(
    carbon_price_usd_per_kg=0.2,
    network_kwh_per_gb=0.05,
    scope=CostScope.OPERATOR,
    late_penalty=LatePenalty(fixed_usd=1.0, per_h_usd=2.0, cap_h=24.0),
)
PREDICTION = Prediction("H100", RunTime.lognormal(3600.0, 0.3), PredictionSource.PRIOR)
FETCH = Fetch(
    artifact_id=MODEL_ID,
    name="org/tiny-lm",
    size_bytes=3_000_000_000,
    source=Holder(CAL, zone="US-CAL", address="127.0.0.1:7711"),
    duration_s=24.0,
    cost_usd=0.24,
    carbon_gco2=60.0,
)


def task_named(unique: str, *, origin: SiteId = DE) -> Task:
    """Return a task that was submitted five minutes ago and waits in the queue."""
    return Task(
        task_id=TaskId(f"{origin}-{unique:0>13}"),
        origin=origin,
        spec=TaskSpec(name=f"job {unique}", command=("/bin/true",), deadline_s=NOW_S + 7200.0),
        submitted_s=NOW_S - 300.0,
        state=TaskState.QUEUED,
        reason=Reason.SUBMITTED,
        message="taken",
        needs=(),
        fence=Fence(),
    )


def running(task: Task) -> Task:
    """Return the same task while it runs, for a minute now."""
    return replace(
        task,
        state=TaskState.RUNNING,
        reason=Reason.EXECUTING,
        message="the command runs",
        bid=bid_of(DE, task_id=task.task_id),
        fence=Fence(1, 1),
        started_s=NOW_S - 60.0,
        auction_count=1,
    )


def ended(task: Task, *, exit_code: int = 0) -> Task:
    """Return the same task after its command ended with `exit_code`."""
    is_fine = exit_code == 0
    fence = Fence(1, 1)
    reason = Reason.EXITED_ZERO if is_fine else Reason.EXIT_CODE
    report = Report(
        run_id=run_id(task.task_id, fence),
        task_id=task.task_id,
        fence=fence,
        site_id=DE,
        state=RunState.SUCCEEDED if is_fine else RunState.FAILED,
        reason=reason,
        message=f"exit code {exit_code}",
        exit_code=exit_code,
        pool_type="H100",
        accepted_s=NOW_S - 100.0,
        staged_s=NOW_S - 90.0,
        started_s=NOW_S - 60.0,
        ended_s=NOW_S - 10.0,
        charge=CHARGE,
        fetches=(FETCH,),
        evictions=(),
        is_energy_measured=False,
        log_tail="epoch 1\nepoch 2\n",
    )
    return replace(
        task,
        state=TaskState.SUCCEEDED if is_fine else TaskState.FAILED,
        reason=reason,
        message=report.message,
        bid=bid_of(DE, task_id=task.task_id),
        fence=fence,
        started_s=report.started_s,
        ended_s=report.ended_s,
        report=report,
        auction_count=1,
    )


def bid_of(site_id: SiteId, *, task_id: TaskId | None = None, offer_usd: float = 1.7) -> Bid:
    """Return the offer of a site for a run of an hour that starts in ten minutes."""
    return Bid(
        site_id=site_id,
        task_id=task_id or TaskId("de-0000000000001"),
        offer_usd=offer_usd,
        score_ratio=0.0,
        actor="rule-1",
        pool_type="H100",
        start_s=NOW_S + 600.0,
        is_deferred=False,
        p50_finish_s=NOW_S + 4200.0,
        p90_finish_s=NOW_S + 6000.0,
        late_probability=0.04,
        charge=CHARGE,
        p90_cost_usd=1.8,
        p90_carbon_gco2=3600.0,
        is_carbon_known=True,
        fetches=(FETCH,),
        evictions=(),
        valid_until_s=NOW_S + 60.0,
    )


def plan_of_two() -> Plan:
    """Return a plan with two offers, the second for a later start, and one refusal."""
    later = replace(
        bid_of(CAL, offer_usd=1.95),
        is_deferred=True,
        start_s=NOW_S + 7200.0,
        p50_finish_s=NOW_S + 10_800.0,
        p90_finish_s=NOW_S + 12_600.0,
        is_carbon_known=False,
        fetches=(),
        evictions=(MODEL_ID,),
    )
    refusal = Refusal(SiteId("in"), Reason.GPU_TYPE_UNKNOWN, "no H100 here")
    return Plan(
        bids=(bid_of(DE), later),
        refusals=(refusal,),
        chosen_site_id=DE,
        predictions=(PREDICTION,),
        terms=TERMS,
        scales=Scales(),
    )


def copy_event() -> CopyEvent:
    """Return a decision to bring a copy here."""
    held = cache_entry().artifact
    return CopyEvent(
        NOW_S,
        kind="copy_decided",
        artifact_id=held.artifact_id,
        name=held.name,
        why="auctions lost for want of it would have saved 3.1 $, bringing it costs 1.2 $",
        task_id=TaskId("de-0000000000001"),
    )


def cache_entry(name: str = "org/tiny-lm", kind: ArtifactKind = ArtifactKind.MODEL) -> CacheEntry:
    """Return an artifact of 1.5 GB that was used an hour ago."""
    artifact = Artifact(MODEL_ID, kind, name, size_bytes=1_500_000_000, custodian=DE)
    return CacheEntry(artifact, pin_count=1, last_used_s=NOW_S - 3600.0, hit_count=7)


def ledger_entry(task_id: TaskId, *, state: RunState = RunState.SUCCEEDED) -> LedgerEntry:
    """Return what an attempt of an hour cost: half of what it would have cost at its origin."""
    is_fine = state is RunState.SUCCEEDED
    return LedgerEntry(
        run_id=run_id(task_id, Fence(1, 1)),
        task_id=task_id,
        name="tune",
        project="default",
        kind=WorkKind.FINE_TUNE,
        model="org/tiny-lm",
        data=(),
        origin=DE,
        site_id=CAL,
        pool_type="H100",
        gpu_count=2,
        state=state,
        submitted_s=NOW_S - 9000.0,
        started_s=NOW_S - 5400.0,
        ended_s=NOW_S - 1800.0,
        deadline_s=None,
        charge=CHARGE,
        at_origin=CHARGE + CHARGE if is_fine else Charge(),
        scope=CostScope.OPERATOR,
        carbon_price_usd_per_kg=0.2,
        is_energy_measured=False,
        is_carbon_known=True,
        fetched={"MODEL": 3_000_000_000},
    )
