"""What an agent tells Prometheus: read off its state at each scrape, kept nowhere else.

Counters count from the start of the process, but for those of the ledger, which is in the journal.
Whoever switches metrics on imports the client library; nobody else does.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

from gcos.accounting import Charge
from gcos.artifacts import ArtifactKind
from gcos.ids import RunId
from gcos.ledger import LedgerEntry
from gcos.rpc.metric_families import Labelled, build_info, counter, gauge
from gcos.tasks import RunState, TaskState
from policies.maccs.fallback import FallbackReason
from site_agent.runner import Runner
from site_agent.serving import ArtifactServicer
from site_agent.transfer import ArtifactPlane

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    Families: TypeAlias = Iterator[Metric]

JOULES_PER_KWH: Final = 3.6e6


@dataclass(slots=True)
class LedgerTotals:
    """Sums over a ledger, which only grows: each entry is read once."""

    total: Charge = field(default_factory=Charge)
    entry_count: int = 0

    def over(self, ledger: dict[RunId, LedgerEntry]) -> Charge:
        """Return the sum over all entries."""
        new = [entry.charge for entry in islice(ledger.values(), self.entry_count, None)]
        self.total = Charge.sum((self.total, *new))
        self.entry_count += len(new)
        return self.total


class AgentMetrics:
    """The metrics of one agent.

    Args:
        runner: The agent.
        plane: Brings its artifacts.
        servicer: Sends them to others.
    """

    def __init__(self, runner: Runner, plane: ArtifactPlane, servicer: ArtifactServicer) -> None:
        self._runner = runner
        self._plane = plane
        self._servicer = servicer
        self._totals = LedgerTotals()

    def families(self) -> "Families":
        """Yield all that is told now; to be called on the agent's event loop."""
        yield from self._site()
        yield from self._actors()
        yield from self._work()
        yield from self._caches()
        yield from self._ledger()

    def _site(self) -> "Families":
        runner, site = self._runner, self._runner.participant.site
        yield build_info()
        yield gauge(
            "gcos_site_info",
            "Which site this agent serves, and how it bids; always 1.",
            ("site", "zone", "policy"),
            [((site.site_id, site.zone, runner.config.policy), 1)],
        )
        yield gauge(
            "gcos_site_draining",
            "1 while the site takes no new work.",
            (),
            [((), runner.participant.is_draining)],
        )
        yield gauge(
            "gcos_known_sites", "Sites that this agent knows.", (), [((), len(runner.sites()))]
        )
        yield gauge(
            "gcos_service_up",
            "1: it answered when it was last asked; absent where it has not been asked.",
            ("service",),
            [
                ((service,), is_answering)
                for service, is_answering in runner.peers.answering().items()
                if is_answering is not None
            ],
        )

    def _actors(self) -> "Families":
        statuses = self._runner.actors.statuses()
        fallback_counts = self._runner.actors.fallback_counts
        yield gauge(
            "gcos_actor_in_use",
            "1: the trained actor of the part is asked; 0: the rule decides alone.",
            ("part", "version"),
            [((each.part, each.version), not each.fallback_reason) for each in statuses],
        )
        yield gauge(
            "gcos_actor_residual_ratio",
            "Weight of what was learned beside the rule; 0: it changes no decision.",
            ("part",),
            [((each.part,), each.residual_ratio) for each in statuses],
        )
        yield counter(
            "gcos_actor_calls",
            "Calls of a trained actor.",
            ("part",),
            [((each.part,), each.call_count) for each in statuses],
        )
        yield counter(
            "gcos_actor_fallbacks",
            "Times that the rule came to decide alone, and why.",
            ("part", "reason"),
            [
                ((each.part, reason.value), fallback_counts[each.part, reason])
                for each in statuses
                for reason in FallbackReason
            ],
        )

    def _work(self) -> "Families":
        participant, origin = self._runner.participant, self._runner.origin
        tasks = Counter(task.state for task in origin.tasks.values())
        runs = Counter(run.state for run in participant.runs.values())
        yield gauge(
            "gcos_tasks",
            "Tasks that were submitted to this agent, by state.",
            ("state",),
            [((state.value.lower(),), tasks[state]) for state in TaskState],
        )
        yield gauge(
            "gcos_runs",
            "Runs at this site whose origin has not answered their report, by state.",
            ("state",),
            [((state.value.lower(),), runs[state]) for state in RunState],
        )
        yield gauge(
            "gcos_queued_runs",
            "Accepted runs that wait for GPUs, artifacts or their lease.",
            ("pool",),
            [
                ((pool,), sum(run.started_s is None for run in plan.planned.values()))
                for pool, plan in participant.schedules.items()
            ],
        )
        yield counter(
            "gcos_awards_accepted", "Awards accepted.", (), [((), participant.awarded_count)]
        )
        digest = self._runner.digest()
        yield gauge(
            "gcos_gpus",
            "GPUs of the site.",
            ("pool",),
            [((pool.type,), pool.gpu_count) for pool in digest.pools],
        )
        yield gauge(
            "gcos_committed_gpus",
            "GPUs that run something or are promised to somebody.",
            ("pool",),
            [((pool.type,), pool.gpu_count - pool.free_count) for pool in digest.pools],
        )
        yield gauge(
            "gcos_committed_gpu_seconds",
            "Predicted GPU seconds of world time of all that runs and waits.",
            ("pool",),
            [((pool.type,), pool.committed_gpu_s) for pool in digest.pools],
        )
        yield gauge(
            "gcos_electricity_price_dollars_per_kwh",
            "Price of electricity now, as offers have it.",
            (),
            _known(digest.price_usd_per_kwh),
        )
        yield gauge(
            "gcos_carbon_intensity_grams_per_kwh",
            "Carbon intensity of electricity now, as offers have it; absent where unknown.",
            (),
            _known(digest.carbon_gco2_per_kwh),
        )

    def _caches(self) -> "Families":
        cache = self._plane.cache
        usages = cache.usages()
        for name, documentation, values in (
            ("capacity_bytes", "Capacity of the cache.", [u.capacity_bytes for u in usages]),
            ("occupied_bytes", "Bytes of complete artifacts.", [u.occupied_bytes for u in usages]),
            ("reserved_bytes", "Promised to arrivals.", [u.reserved_bytes for u in usages]),
        ):
            yield gauge(
                f"gcos_cache_{name}",
                documentation,
                ("cache",),
                [((u.kind.value.lower(),), value) for u, value in zip(usages, values, strict=True)],
            )
        copies = Counter(entry.artifact.kind for entry in cache.entries())
        yield gauge(
            "gcos_cache_copies",
            "Complete artifacts in the cache.",
            ("cache",),
            [((kind.value.lower(),), copies[kind]) for kind in ArtifactKind],
        )
        yield counter(
            "gcos_cache_evicted_bytes",
            "Bytes that were evicted.",
            ("cache",),
            [((u.kind.value.lower(),), cache.evicted_bytes(u.kind)) for u in usages],
        )
        yield counter(
            "gcos_artifact_received_bytes",
            "Received from other agents, discarded bytes included; told when a transfer ends.",
            (),
            [((), self._plane.received_bytes)],
        )
        yield counter(
            "gcos_artifact_sent_bytes",
            "Bytes of artifacts sent to other agents.",
            (),
            [((), self._servicer.sent_bytes)],
        )

    def _ledger(self) -> "Families":
        spent = self._totals.over(self._runner.ledger)
        yield counter(
            "gcos_ledger_entries",
            "Attempts of this agent's tasks, and copies, that the ledger has.",
            (),
            [((), self._totals.entry_count)],
        )
        yield counter(
            "gcos_task_energy_joules",
            "Electricity of compute, modelled, PUE included, of all that the ledger has.",
            (),
            [((), spent.energy_kwh * JOULES_PER_KWH)],
        )
        yield counter(
            "gcos_task_carbon_grams",
            "Carbon of all that the ledger has.",
            ("item",),
            [(("compute",), spent.compute_gco2), (("network",), spent.network_gco2)],
        )
        yield gauge(
            "gcos_task_cost_dollars",
            "Cost of all that the ledger has; falls where prices are negative.",
            ("item",),
            [
                (("energy",), spent.energy_usd),
                (("gpu",), spent.gpu_usd),
                (("transfer",), spent.transfer_usd),
                (("storage",), spent.storage_usd),
                (("penalty",), spent.penalty_usd),
            ],
        )


def _known(value: float | None) -> Labelled:
    return [] if value is None else [((), value)]
