"""What an evaluation found: means of each policy and paired comparisons. Pure.

`Evaluation` is what `gcos evaluate -o json` prints; testbed/scenarios/README.md documents it. Its
`schema` changes when a field changes its meaning or goes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from gcos.accounting import BYTES_PER_GB, G_PER_KG, CostScope
from policies.catalogue import POLICIES
from testbed.run_store import RunRecord
from testbed.sim.cache_modes import Caches, caches_named
from testbed.sim.result import Lookups, Totals
from testbed.statistics import Comparison, Estimate, compare, estimate

SCHEMA: Final = "gcos/evaluation/v1"
SWEEP_SCHEMA: Final = "gcos/evaluations/v1"
DEFAULT_CACHES: Final = str(Caches())


#: What a reader must know of runs that no simulator made, by what made them.
_AGENTS: Final = {
    "live": "run by real agents, not simulated: forecasts are right, run times are learnt",
    "testbed": (
        "run by real agents over emulated links, not simulated: forecasts are right, run times are"
        " learnt"
    ),
}


@dataclass(frozen=True, slots=True)
class PolicySummary:
    """A policy over all runs; sums are those of the measured window.

    Attributes:
        policy: Its name; `POLICY/CACHES` where several cache modes are compared.
        joint_usd: J.
        joint_without_penalty_usd: J without late penalties.
        cost_usd: Cost in the scope of the evaluation.
        cost_without_penalty_usd: Cost without late penalties.
        carbon_kg: Carbon of compute and network.
        energy_usd: Mean price of electricity.
        gpu_usd: Mean price of GPU hours, whether the scope counts it or not.
        transfer_usd: Mean egress.
        storage_usd: Mean price of storage.
        penalty_usd: Mean late penalties.
        compute_kg: Mean carbon of compute.
        network_kg: Mean carbon of transfers.
        energy_kwh: Mean electricity of compute.
        task_count: Tasks of all runs together.
        late_percent: Share of these that missed their deadline.
        moved_gb: Mean of what was moved.
        model_hit_percent: Share of lookups that found the model; None: nothing was looked up.
        data_hit_percent: The same of data sets.
        wait_mean_s: Mean over runs of the mean wait.
        wait_p95_s: Mean over runs of the 95 % quantile of the wait.
        idle_kwh: Mean electricity of idle GPUs, which is in no cost.
        idle_usd: Its mean price.
        idle_kg: Its mean carbon.
        joint_vs_baseline: J against the baseline; None for the baseline itself.
        cost_vs_baseline: Cost against it.
        carbon_vs_baseline: Carbon, kg, against it.
    """

    policy: str
    joint_usd: Estimate
    joint_without_penalty_usd: Estimate
    cost_usd: Estimate
    cost_without_penalty_usd: Estimate
    carbon_kg: Estimate
    energy_usd: float
    gpu_usd: float
    transfer_usd: float
    storage_usd: float
    penalty_usd: float
    compute_kg: float
    network_kg: float
    energy_kwh: float
    task_count: int
    late_percent: float
    moved_gb: float
    model_hit_percent: float | None
    data_hit_percent: float | None
    wait_mean_s: float
    wait_p95_s: float
    idle_kwh: float
    idle_usd: float
    idle_kg: float
    joint_vs_baseline: Comparison | None
    cost_vs_baseline: Comparison | None
    carbon_vs_baseline: Comparison | None


@dataclass(frozen=True, slots=True)
class RunBound:
    """What is known of the least J of one whole run, for any policy.

    J of the whole run, from the warm-up to the last task: that of the measured window alone has no
    bound worth the name, as whoever fetches in the warm-up pays nothing in it.

    Attributes:
        week_start_s: Its week.
        seed: Its seed.
        bound_usd: No policy comes below it; None: not computed.
        local_search_usd: J that a search with knowledge of the future attains; None: not computed.
    """

    week_start_s: float
    seed: int
    bound_usd: float | None = None
    local_search_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an evaluation comes from, so that it can be repeated.

    Attributes:
        command: Repeats it.
        version: Version of GCOS, and its commit where it is known.
        base: Scenario that was changed, or taken as it is.
        parameters: Values of the parameters that reports look at, by key of the scenario file.
    """

    command: str = ""
    version: str = ""
    base: str = ""
    parameters: dict[str, float] = field(default_factory=dict)


NOWHERE: Final = Origin()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Policies on the same weeks and seeds.

    Attributes:
        schema: Name and version of this form.
        scenario: Name of the scenario.
        cache_mode: Which caches there were; several are separated by commas.
        cost_scope: What counts as cost.
        carbon_price_usd_per_kg: Lambda.
        network_kwh_per_gb: Kappa.
        baseline: Policy with which the others are compared.
        data: Directory of the signals; empty: the shipped typical days.
        weeks_start_s: Weeks that were used, seconds since the epoch.
        seeds: Seeds, one for each run of a policy.
        notes: What a reader must know.
        policies: In the order in which they were named.
        runs: Every single run.
        origin: Where it comes from.
        bounds: What is known of the least J of each run; empty: not computed.
    """

    schema: str
    scenario: str
    cache_mode: str
    cost_scope: CostScope
    carbon_price_usd_per_kg: float
    network_kwh_per_gb: float
    baseline: str
    data: str
    weeks_start_s: tuple[float, ...]
    seeds: tuple[int, ...]
    notes: tuple[str, ...]
    policies: tuple[PolicySummary, ...]
    runs: tuple[RunRecord, ...]
    origin: Origin = NOWHERE
    bounds: tuple[RunBound, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluations:
    """What a sweep found: an evaluation for each value of one parameter."""

    schema: str
    evaluations: tuple[Evaluation, ...]


def evaluation(
    records: Sequence[RunRecord],
    *,
    baseline: str,
    data: str,
    notes: Sequence[str] = (),
    origin: Origin = NOWHERE,
) -> Evaluation:
    """Return what the runs say; each policy has a run for each pair of week and seed.

    With several cache modes each policy is summed up once for each mode, as `POLICY/CACHES`.

    Args:
        records: Runs of one scenario, of at least one policy and cache mode.
        baseline: Name of the summary with which the others are compared.
        data: Directory of the signals; empty: the shipped typical days.
        notes: What a reader must know beside the notes of the runs.
        origin: Where it comes from.
    """
    modes = tuple(dict.fromkeys(record.cache_mode for record in records))

    def name_of(record: RunRecord) -> str:
        return summary_name(record.policy, record.cache_mode, modes)

    by_policy: dict[str, list[RunRecord]] = {}
    for record in sorted(records, key=lambda each: each.seed):
        by_policy.setdefault(name_of(record), []).append(record)
    order = list(dict.fromkeys(name_of(record) for record in records))
    first = records[0]
    against = by_policy[baseline]
    return Evaluation(
        SCHEMA,
        scenario=first.scenario,
        cache_mode=",".join(modes),
        cost_scope=first.cost_scope,
        carbon_price_usd_per_kg=first.carbon_price_usd_per_kg,
        network_kwh_per_gb=first.network_kwh_per_gb,
        baseline=baseline,
        data=data,
        weeks_start_s=tuple(sorted({record.week_start_s for record in records})),
        seeds=tuple(record.seed for record in against),
        notes=(*notes, *_no_sites(records), *_cores(records), *_gathered(records)),
        policies=tuple(_summary(name, by_policy[name], against) for name in order),
        runs=tuple(records),
        origin=origin,
    )


def summary_name(policy: str, cache_mode: str, modes: Sequence[str]) -> str:
    """Return the name under which a policy is summed up, where `modes` are compared."""
    return policy if len(modes) == 1 else f"{policy}/{cache_mode}"


def _no_sites(records: Sequence[RunRecord]) -> list[str]:
    """Return a note for what no site can run: what knows the future, or sees all sites at once."""
    told = "knows the future: a yardstick, which no site can run"
    policies = dict.fromkeys(record.policy for record in records)
    caches = dict.fromkeys(record.cache_mode for record in records)
    return [
        *(f"{name} {told}" for name in policies if is_clairvoyant(name, DEFAULT_CACHES)),
        *(
            f"{name} ranks the offers of all sites together: an ablation, which no site can run"
            for name in policies
            if (known := POLICIES.get(name)) is not None and known.is_central
        ),
        *(f"caches {each}: the eviction {told}" for each in caches if is_clairvoyant("", each)),
    ]


def is_clairvoyant(policy: str, cache_mode: str) -> bool:
    """Tell whether runs of a policy, or of caches, were decided by what was to come."""
    known = POLICIES.get(policy)
    by_policy = known is not None and known.is_clairvoyant
    return by_policy or caches_named(cache_mode).is_clairvoyant


def _cores(records: Sequence[RunRecord]) -> list[str]:
    """Return a note of which simulator ran what."""
    by_core: dict[str, dict[str, None]] = {}
    for record in records:
        by_core.setdefault(record.result.core, {})[record.policy] = None
    if len(by_core) == 1 and (told := _AGENTS.get(next(iter(by_core)))):
        return [told]
    if len(by_core) == 1:
        return [f"simulated by the {core} core" for core in by_core]
    parts = [f"{', '.join(policies)} by the {core} core" for core, policies in by_core.items()]
    return [f"simulated: {'; '.join(parts)}"]


def _gathered(records: Sequence[RunRecord]) -> list[str]:
    """Return the notes of all runs; one that is not of all says of how many it is."""
    runs = {(record.week_start_s, record.seed): record.notes for record in records}
    counts: dict[str, int] = {}
    for notes in runs.values():
        for note in dict.fromkeys(notes):
            counts[note] = counts.get(note, 0) + 1
    return [
        note if count == len(runs) else f"{note} (in {count} of {len(runs)} runs)"
        for note, count in counts.items()
    ]


def joint_usd(record: RunRecord) -> float:
    """Return J of the measured window."""
    charge = record.result.measured.charge
    return charge.joint_usd(record.cost_scope, record.carbon_price_usd_per_kg)


def whole_joint_usd(record: RunRecord) -> float:
    """Return J of the whole run, warm-up and drain included."""
    charge = record.result.whole.charge
    return charge.joint_usd(record.cost_scope, record.carbon_price_usd_per_kg)


def cost_usd(record: RunRecord) -> float:
    """Return the cost of the measured window, in the scope of the run."""
    return record.result.measured.charge.cost_usd(record.cost_scope)


def cost_without_penalty_usd(record: RunRecord) -> float:
    """Return the cost of the measured window without what late tasks pay."""
    return cost_usd(record) - _penalty_usd(record)


def carbon_kg(record: RunRecord) -> float:
    """Return the carbon of the measured window."""
    return record.result.measured.charge.carbon_gco2 / G_PER_KG


def _penalty_usd(record: RunRecord) -> float:
    return record.result.measured.charge.penalty_usd


def _summary(name: str, runs: Sequence[RunRecord], against: Sequence[RunRecord]) -> PolicySummary:
    weeks = [run.week_start_s for run in runs]
    measured = [run.result.measured for run in runs]
    task_count = sum(each.task_count for each in measured)

    def known(value: Callable[[RunRecord], float]) -> Estimate:
        return estimate([value(run) for run in runs], weeks)

    def compared(value: Callable[[RunRecord], float]) -> Comparison | None:
        if runs is against:
            return None
        return compare([value(run) for run in runs], [value(run) for run in against], weeks)

    def mean(value: Callable[[Totals], float]) -> float:
        return sum(value(each) for each in measured) / len(measured)

    return PolicySummary(
        policy=name,
        joint_usd=known(joint_usd),
        joint_without_penalty_usd=known(lambda run: joint_usd(run) - _penalty_usd(run)),
        cost_usd=known(cost_usd),
        cost_without_penalty_usd=known(cost_without_penalty_usd),
        carbon_kg=known(carbon_kg),
        energy_usd=mean(lambda each: each.charge.energy_usd),
        gpu_usd=mean(lambda each: each.charge.gpu_usd),
        transfer_usd=mean(lambda each: each.charge.transfer_usd),
        storage_usd=mean(lambda each: each.charge.storage_usd),
        penalty_usd=mean(lambda each: each.charge.penalty_usd),
        compute_kg=mean(lambda each: each.charge.compute_gco2 / G_PER_KG),
        network_kg=mean(lambda each: each.charge.network_gco2 / G_PER_KG),
        energy_kwh=mean(lambda each: each.charge.energy_kwh),
        task_count=task_count,
        late_percent=100 * sum(each.miss_count for each in measured) / max(task_count, 1),
        moved_gb=mean(lambda each: each.charge.transfer_bytes / BYTES_PER_GB),
        model_hit_percent=_hit_percent([each.models for each in measured]),
        data_hit_percent=_hit_percent([each.data_sets for each in measured]),
        wait_mean_s=mean(lambda each: each.wait_mean_s),
        wait_p95_s=mean(lambda each: each.wait_p95_s),
        idle_kwh=mean(lambda each: each.idle.energy_kwh),
        idle_usd=mean(lambda each: each.idle.energy_usd),
        idle_kg=mean(lambda each: each.idle.compute_gco2 / G_PER_KG),
        joint_vs_baseline=compared(joint_usd),
        cost_vs_baseline=compared(cost_usd),
        carbon_vs_baseline=compared(carbon_kg),
    )


def _hit_percent(lookups: Sequence[Lookups]) -> float | None:
    hits = sum(each.hit_count for each in lookups)
    total = hits + sum(each.miss_count for each in lookups)
    return 100 * hits / total if total else None
