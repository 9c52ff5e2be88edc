"""A site of the in-memory cluster: the machine that outlives its agent, and the cores upon it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from gcos.accounting import Charge, CostScope
from gcos.artifacts import Artifact, ArtifactKind
from gcos.contract_net import RATE_DRIFT
from gcos.ids import ArtifactId, RunId, SiteId, TaskId
from gcos.ledger import LedgerEntry
from gcos.signals import HOUR_S, Provenance, Signal, SiteSignals, StepSeries
from gcos.sites import Link, Pool, Site
from gcos.task_record import Task
from gcos.tasks import Reason
from policies.baselines.joint import LookaheadBidder
from site_agent.dual_cache import DualCache
from site_agent.effects import Now
from site_agent.held_run import HeldRun
from site_agent.lease import LeaseTerms
from site_agent.origin import Origin, OriginSettings
from site_agent.participant import Exit, Participant

HOUR_START_S = 1_704_067_200.0
"""2024-01-01 UTC."""

WORLD_START_S = HOUR_START_S + 3000.0
"""World instant of a cluster's birth: ten minutes before signals change."""

POOL = "H100"
GPU_COUNT = 4
LEASE = LeaseTerms()

MODELS = tuple(
    Artifact(
        artifact_id=ArtifactId(f"sha256:{letter * 64}"),
        kind=ArtifactKind.MODEL,
        name=f"model-{letter}",
        size_bytes=size_bytes,
    )
    for letter, size_bytes in (("a", 4_000), ("b", 5_000), ("c", 6_000))
)
"""Models of the cluster: the first node is the custodian of all, and no cache holds all three."""

_CACHE_BYTES = 10_000
_CUSTODIAN_CACHE_BYTES = 30_000


@dataclass(slots=True)
class Execution:
    """A run on a machine. Instants are true seconds, but for the lease."""

    run_id: RunId
    task_id: TaskId
    gpu_count: int
    #: None: its lease had passed before it could start.
    started_s: float | None
    ends_s: float
    exit_code: int
    #: By the machine's own clock.
    until_protocol_s: float
    stopped_s: float | None = None


@dataclass(slots=True)
class Machine:
    """What outlives an agent: disk, clock and executor."""

    site: Site
    #: Seconds that its clock gains per true second, and what it showed at true second 0.
    rate: float
    offset_s: float
    skew_s: float
    tasks: dict[TaskId, Task] = field(default_factory=dict)
    runs: dict[RunId, HeldRun] = field(default_factory=dict)
    ledger: dict[RunId, LedgerEntry] = field(default_factory=dict)
    artifacts: dict[ArtifactId, Artifact] = field(default_factory=dict)
    executions: dict[RunId, Execution] = field(default_factory=dict)

    def now(self, t_s: float) -> Now:
        """Return what its clocks show at the true instant `t_s`."""
        return Now(self.offset_s + self.rate * t_s, WORLD_START_S + self.skew_s + t_s)

    def end_s(self, execution: Execution) -> tuple[float, Reason]:
        """Return when and why an execution ends, as things stand."""
        lease_s = (execution.until_protocol_s - self.offset_s) / self.rate
        reason = Reason.EXITED_ZERO if execution.exit_code == 0 else Reason.EXIT_CODE
        ends = [(execution.ends_s, 0, reason), (lease_s, 1, Reason.SITE_LOST)]
        if execution.stopped_s is not None:
            ends.append((execution.stopped_s, 2, Reason.CANCELLED_BY_USER))
        first = min(ends, key=lambda end: end[:2])
        return first[0], first[2]

    def executing(self, t_s: float) -> Iterator[Execution]:
        """Yield what executes at the true instant `t_s`."""
        for execution in self.executions.values():
            if execution.started_s is not None and t_s < self.end_s(execution)[0]:
                yield execution

    def exit_of(self, execution: Execution) -> Exit:
        """Return how an execution that is over ended."""
        end_s, reason = self.end_s(execution)
        started_s = execution.started_s
        has_ended = reason in (Reason.EXITED_ZERO, Reason.EXIT_CODE)
        return Exit(
            started_s=None if started_s is None else self.now(started_s).world_s,
            ended_s=self.now(max(end_s, started_s or end_s)).world_s,
            exit_code=execution.exit_code if has_ended and started_s is not None else None,
            reason=reason if started_s is not None else Reason.SITE_LOST,
            message="",
            log_tail="",
        )


def new_machine(index: int, random: Generator) -> Machine:
    """Return the machine of site `s<index>` with a clock of its own."""
    site_id = SiteId(f"s{index}")
    is_custodian = index == 0
    cache_bytes = _CUSTODIAN_CACHE_BYTES if is_custodian else _CACHE_BYTES
    half_drift = RATE_DRIFT / 2
    return Machine(
        site=Site(
            site_id=site_id,
            incarnation=f"i{index}",
            address=site_id,
            zone=f"Z{index}",
            pue=1.2,
            pools=(
                Pool(
                    type=POOL,
                    gpu_count=GPU_COUNT,
                    speed_ratio=1.0,
                    active_kw=0.7,
                    idle_kw=0.1,
                    usd_per_gpu_h=2.0,
                ),
            ),
            model_cache_bytes=cache_bytes,
            data_cache_bytes=cache_bytes,
        ),
        rate=1 + float(random.uniform(-half_drift, half_drift)) * 0.999,
        offset_s=float(random.uniform(0, 1e5)),
        skew_s=float(random.uniform(-1, 1)),
        artifacts={m.artifact_id: m for m in MODELS} if is_custodian else {},
    )


def new_origin(machine: Machine) -> Origin:
    """Return the origin of a machine's site, before it has read its disk."""
    return Origin(
        settings=OriginSettings(
            site_id=machine.site.site_id,
            address=machine.site.address,
            lease=LEASE,
            carbon_price_usd_per_kg=0.2,
            network_kwh_per_gb=0.0065,
            scope=CostScope.OPERATOR,
        ),
        at_origin=lambda _task, _report: Charge(energy_kwh=1.0),
    )


def new_participant(machine: Machine) -> Participant:
    """Return the participant of a machine's site with the artifacts that lie on its disk."""
    site = machine.site
    cache = DualCache(site.model_cache_bytes, site.data_cache_bytes)
    for artifact in machine.artifacts.values():
        cache.reserve(artifact, now_s=0.0, is_custodian=site.site_id == "s0")
        cache.insert(artifact.artifact_id)
    return Participant(
        site=site,
        cache=cache,
        bidder=LookaheadBidder(),
        links=lambda _source, _target: Link(
            rtt_s=0.05, bytes_per_s=2_000.0, egress_usd_per_gb=0.02
        ),
        signals=_signals(site.site_id),
    )


def _signals(site_id: SiteId) -> SiteSignals:
    """Return signals that fall after the first hour in `s1`, so that deferring pays there."""
    level = 400.0 - 100.0 * int(site_id[1:])
    later = 0.3 if site_id == "s1" else 1.0
    carbon = StepSeries(HOUR_START_S, HOUR_S, np.array([level, level * later]))
    price = StepSeries(HOUR_START_S, HOUR_S, np.array([0.1, 0.1 * later]))
    provenance = Provenance("fake", f"Z{site_id[1:]}", None, None, 0.0, is_estimated=True)
    return SiteSignals(
        carbon=Signal(carbon, provenance, "gCO2/kWh"), price=Signal(price, provenance, "USD/kWh")
    )
