"""Lays an instance out in arrays."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from gcos.accounting import CostScope
from gcos.artifacts import ArtifactKind
from gcos.durations import LEVELS, MIDPOINT_LEVELS, RunTime
from gcos.signals import HOUR_S, StepSeries
from policies.features import FEATURE_COUNT
from policies.maccs.task_network import NO_NETWORK
from site_agent.demand import ARTIFACT_COUNT_MAX
from site_agent.lease import LEASE_S, LeaseTerms
from site_agent.participant import RUN_COUNT_MAX
from testbed.fast import layout
from testbed.fast.books import ITEM_COUNT
from testbed.fast.hashing import TEXT_BYTES_MAX
from testbed.fast.layout import Floats, Records, State
from testbed.sim.cache_modes import CacheMode, capacities_bytes
from testbed.sim.forecast import HORIZON_H
from testbed.sim.instance import ChurnKind, Faults, Instance, SimTask

_HEAP_COUNT: Final = 4 * layout.HEAP_MARGIN
_LINE_COUNT: Final = 2 * layout.LOG_MARGIN
#: Transfers under way beside those of accepted runs: pulls, and what runs that went had asked for.
_MORE_FLOWS: Final = 4_096


def unsupported(instance: Instance) -> str | None:
    """Return why the compiled core cannot run an instance, or None."""
    if len(instance.sites) > layout.SITE_COUNT_MAX:
        return f"{len(instance.sites)} sites are more than {layout.SITE_COUNT_MAX}"
    if any(len(site.pools) != 1 for site in instance.sites):
        return "some site has not exactly one pool"
    if instance.faults != Faults():
        return "things go wrong by chance"
    if len(instance.upstreams) > ARTIFACT_COUNT_MAX:
        return f"{len(instance.upstreams)} artifacts are more than {ARTIFACT_COUNT_MAX}"
    every = (*instance.price.values(), *instance.carbon.values())
    if any(series.step_s != HOUR_S for series in every):
        return "signals are not hourly"
    longest = max((len(task.task_id.encode()) for task in instance.tasks), default=0)
    longest += max(len(site.site_id.encode()) for site in instance.sites) + 1
    if longest > TEXT_BYTES_MAX:
        return f"ids of task and site are longer than {TEXT_BYTES_MAX} bytes together"
    return None


def lay_out(instance: Instance, mode: CacheMode) -> State:
    """Return the arrays of a run that has not begun: its rule and evictor are the caller's."""
    sites, site_count = instance.sites, len(instance.sites)
    artifact_count = len(instance.upstreams)
    types = list(dict.fromkeys(site.pools[0].type for site in sites))
    sigmas = list(dict.fromkeys(task.sigma for task in instance.tasks)) or [0.0]
    slot_count = site_count * layout.RUN_SLOT_COUNT
    run_count = site_count * RUN_COUNT_MAX
    flow_count = run_count + _MORE_FLOWS
    work_count = 2 * slot_count + 2 * layout.HELD_SLOT_COUNT + artifact_count + site_count + 8
    truth, truth_sum, series = _truth(instance)
    slice_ratio = np.array([_at_median_1(s).quantiles_at(MIDPOINT_LEVELS) for s in sigmas])
    free_runs = np.arange(slot_count, dtype=np.int64)
    free_flows = np.arange(flow_count, dtype=np.int64)
    state = State(
        g=np.zeros(1, layout.GLOBALS),
        sites=_sites(instance, types),
        caches=_caches(instance, mode),
        links=_links(instance),
        series=series,
        issues=series.copy(),
        truth=truth,
        truth_sum=truth_sum,
        issued=np.zeros((2, site_count, HORIZON_H + 1)),
        issued_sum=np.zeros((2, site_count, HORIZON_H + 1)),
        least_issued=np.zeros((2, site_count)),
        artifacts=_artifacts(instance),
        tasks=_tasks(instance, sigmas),
        task_text=_text([task.task_id for task in instance.tasks]),
        site_text=_text([site.site_id for site in sites]),
        type_speed=_type_speeds(instance, types),
        levels=np.concatenate(([0.0], LEVELS, [1.0])),
        quantile_ratio=np.array([_quantile_ratios(sigma) for sigma in sigmas]),
        slice_ratio=slice_ratio,
        mean_ratio=slice_ratio.mean(axis=1),
        slice_ln=np.array([_strict_knots(sigma) for sigma in sigmas]),
        entries=_entries(site_count, artifact_count),
        runs=np.zeros(slot_count, layout.RUN_SLOT),
        knots=np.zeros((slot_count, layout.KNOT_COUNT)),
        free_runs=free_runs,
        site_runs=np.zeros((site_count, layout.RUN_SLOT_COUNT), np.int64),
        queues=np.zeros((site_count, layout.RUN_SLOT_COUNT), np.int64),
        running=np.zeros((site_count, layout.RUN_SLOT_COUNT), np.int64),
        plan_times=np.zeros((site_count, layout.KEPT_COUNT + 1, layout.STEP_COUNT)),
        plan_free=np.zeros((site_count, layout.KEPT_COUNT + 1, layout.STEP_COUNT), np.int32),
        kept_count=np.zeros((site_count, layout.KEPT_COUNT), np.int64),
        after=np.zeros((site_count, layout.HINT_COUNT), np.int32),
        held=np.zeros((site_count, layout.HELD_SLOT_COUNT), layout.HELD),
        flows=np.zeros(flow_count, layout.FLOW),
        free_flows=free_flows,
        heap=np.zeros(_HEAP_COUNT, layout.EVENT),
        soon=np.zeros((layout.PRIORITY_COUNT, layout.SOON_COUNT), layout.EVENT),
        lines=np.zeros(_LINE_COUNT, layout.LINE),
        sums=np.zeros((2, ITEM_COUNT, 2)),
        lookups=np.zeros((2, 2, 2), np.int64),
        bids=np.zeros(site_count, layout.BID),
        times=np.zeros(work_count),
        free=np.zeros(work_count, np.int64),
        order=np.zeros(work_count, np.int64),
        ends=np.zeros(work_count),
        spent=np.zeros((site_count, layout.SPENT_SLOT_COUNT), layout.SPENT),
        churn=_churn(instance),
        seen=np.zeros((site_count, FEATURE_COUNT), np.float32),
        shift=NO_NETWORK.shift,
        gain=NO_NETWORK.gain,
        weight_1=NO_NETWORK.weight_1,
        bias_1=NO_NETWORK.bias_1,
        weight_2=NO_NETWORK.weight_2,
        bias_2=NO_NETWORK.bias_2,
        weight_all=NO_NETWORK.weight_all,
        weight_3=NO_NETWORK.weight_3,
        bias_3=NO_NETWORK.bias_3,
        hidden_1=np.zeros((site_count, 0)),
        pooled=np.zeros(0),
        hidden_2=np.zeros(0),
        told=np.zeros(0, layout.TOLD),
        told_offers=np.zeros((0, site_count)),
        told_features=np.zeros((0, site_count, FEATURE_COUNT), np.float32),
    )
    _globals(state, instance, mode)
    return state


def _globals(state: State, instance: Instance, mode: CacheMode) -> None:
    begin_s, end_s = instance.measured_s
    top = state.g[0]
    top["now_s"] = top["start_s"] = top["last_end_s"] = instance.start_s
    top["measured_from_s"], top["measured_until_s"] = begin_s, end_s
    top["joining_count"] = sum(each.kind is ChurnKind.JOIN for each in instance.churn)
    top["noticed_after_s"] = LeaseTerms(LEASE_S).origin_until_s(0.0)
    top["carbon_price"] = instance.carbon_price_usd_per_kg
    top["kappa"] = instance.network_kwh_per_gb
    top["storage_usd_per_gb_h"] = instance.storage_usd_per_gb_h
    top["counts_gpu_hours"] = instance.scope is CostScope.WITH_GPU_HOURS
    top["shares_bandwidth"] = instance.shares_bandwidth
    top["site_count"] = len(instance.sites)
    top["artifact_count"] = len(instance.upstreams)
    top["task_count"] = top["left_count"] = len(instance.tasks)
    top["is_shared_cache"] = mode is CacheMode.COUPLED
    top["free_run_count"] = len(state.free_runs)
    top["free_flow_count"] = len(state.free_flows)


def _sites(instance: Instance, types: Sequence[str]) -> Records:
    made = np.zeros(len(instance.sites), layout.SITE)
    first: dict[str, ChurnKind] = {}
    for churn in instance.churn:
        first.setdefault(churn.site_id, churn.kind)
    for row, site in zip(made, instance.sites, strict=True):
        pool = site.pools[0]
        row["gpu_count"] = pool.gpu_count
        row["type"] = types.index(pool.type)
        row["active_kw"], row["idle_kw"] = pool.active_kw, pool.idle_kw
        row["pue"], row["usd_per_gpu_h"] = site.pue, pool.usd_per_gpu_h
        row["speed"] = pool.speed_ratio
        row["is_here"] = (
            first.get(site.site_id) is not ChurnKind.JOIN
        )  # it comes for the first time
        row["is_draining"] = not row["is_here"]
        row["noticed_s"] = row["demand_now_s"] = row["plan_s"] = -math.inf
    for name in ("parked", "out_first", "out_last", "in_first", "in_last"):
        made[name] = -1
    return made


def _type_speeds(instance: Instance, types: Sequence[str]) -> Floats:
    """Return the speed by which each type's run time is predicted."""
    speeds = {site.pools[0].type: site.pools[0].speed_ratio for site in instance.sites}
    return np.array([speeds[name] for name in types])


def _caches(instance: Instance, mode: CacheMode) -> Records:
    made = np.zeros((len(instance.sites), 2), layout.CACHE)
    for row, site in zip(made, instance.sites, strict=True):
        models, data = capacities_bytes(site, mode)
        if mode is CacheMode.COUPLED:
            models, data = models + data, 0
        row["capacity"] = models, data
    return made


def _links(instance: Instance) -> Records:
    """Return links by site; what bids count on is looked up by zone, as the cores do."""
    count = len(instance.sites)
    made = np.zeros((count, count), layout.LINK)
    zones = {site.site_id: site.zone for site in instance.sites}
    by_zone = {(zones[a], zones[b]): link for (a, b), link in instance.links.items()}
    for i, source in enumerate(instance.sites):
        for j, target in enumerate(instance.sites):
            if i == j:
                continue
            link = instance.links[source.site_id, target.site_id]
            estimate = by_zone[source.zone, target.zone]
            row = made[i, j]
            row["rtt_s"], row["bytes_per_s"] = link.rtt_s, link.bytes_per_s
            row["egress"] = link.egress_usd_per_gb
            row["zone_rtt_s"], row["zone_bytes_per_s"] = estimate.rtt_s, estimate.bytes_per_s
            row["zone_egress"] = estimate.egress_usd_per_gb
    return made


def _truth(instance: Instance) -> tuple[Floats, Floats, Records]:
    """Return signals by kind and site, (2, n, hours), their running integrals, and their begin."""
    rows = [
        [of[site.site_id] for site in instance.sites] for of in (instance.price, instance.carbon)
    ]
    width = max(len(each.values) for row in rows for each in row) + 1
    values = np.zeros((2, len(instance.sites), width))
    running = np.zeros_like(values)
    series = np.zeros(values.shape[:2], layout.SERIES)
    for kind, row in enumerate(rows):
        for site, each in enumerate(row):
            count = len(each.values)
            values[kind, site, :count] = each.values
            running[kind, site, : count + 1] = running_integral(each)
            series[kind, site]["start_s"] = each.start_s
            series[kind, site]["count"] = count
    return values, running, series


def running_integral(series: StepSeries) -> Floats:
    """Return the integral over the first i steps, (n + 1,), as `StepSeries` has it."""
    return np.concatenate(([0.0], np.cumsum(series.values) * series.step_s))


def _artifacts(instance: Instance) -> Records:
    index = {site.site_id: i for i, site in enumerate(instance.sites)}
    made = np.zeros(len(instance.upstreams), layout.ARTIFACT)
    for row, each in zip(made, instance.upstreams, strict=True):
        row["size_bytes"] = each.artifact.size_bytes
        row["kind"] = 0 if each.artifact.kind is ArtifactKind.MODEL else 1
        row["home"] = index[each.home]
    return made


def _entries(site_count: int, artifact_count: int) -> Records:
    made = np.zeros((site_count, artifact_count), layout.ENTRY)
    made["first_waiter"] = made["last_waiter"] = -1
    return made


def _tasks(instance: Instance, sigmas: Sequence[float]) -> Records:
    tasks = instance.tasks
    made = np.zeros(len(tasks), layout.TASK)
    site_index = {site.site_id: i for i, site in enumerate(instance.sites)}
    artifact_index = {each.artifact.artifact_id: i for i, each in enumerate(instance.upstreams)}
    sigma_index = {sigma: i for i, sigma in enumerate(sigmas)}

    def column(name: str, values: Sequence[float]) -> None:
        made[name] = np.fromiter(values, made.dtype[name], len(tasks))

    column("arrival_s", [task.arrival_s for task in tasks])
    column("deadline_s", [task.deadline_s for task in tasks])
    column("predicted_s", [task.predicted_work_s for task in tasks])
    column("work_s", [task.work_s for task in tasks])
    column("penalty_usd", [task.late_penalty.fixed_usd for task in tasks])
    column("penalty_usd_per_h", [task.late_penalty.per_h_usd for task in tasks])
    column("penalty_cap_h", [task.late_penalty.cap_h for task in tasks])
    column("origin", [site_index[task.origin] for task in tasks])
    column("model", [artifact_index[task.model] for task in tasks])
    column("data", [artifact_index[task.data] for task in tasks])
    column("gpu_count", [task.gpu_count for task in tasks])
    column("sigma", [sigma_index[task.sigma] for task in tasks])
    made["rank"][_order(tasks)] = np.arange(len(tasks))
    return made


def _order(tasks: Sequence[SimTask]) -> list[int]:
    """Return the positions of tasks in the order of their ids."""
    return sorted(range(len(tasks)), key=lambda i: tasks[i].task_id)


def _text(names: Sequence[str]) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """Return names as rows of bytes, padded with zeros."""
    encoded = np.array([name.encode() for name in names] or [b"-"])
    return encoded.view(np.uint8).reshape(len(encoded), -1)


def _quantile_ratios(sigma: float) -> Floats:
    return np.array(_at_median_1(sigma).quantiles_s)


def _at_median_1(sigma: float) -> RunTime:
    return RunTime.lognormal(1.0, sigma)


def _strict_knots(sigma: float) -> Floats:
    """Return ln of quantiles over the median; of equal ones all but the last lie just before it.

    As in `RunTime.probabilities_within`.
    """
    ln = np.interp(
        np.concatenate(([0.0], LEVELS, [1.0])),
        LEVELS,
        np.log(_quantile_ratios(sigma)),
    )
    ratios = np.log(_at_median_1(sigma).quantiles_at(np.array([0.0, 1.0])))
    ln[0], ln[-1] = ratios
    return ln - np.arange(len(ln))[::-1] * 1e-12


def _churn(instance: Instance) -> Records:
    index = {site.site_id: i for i, site in enumerate(instance.sites)}
    made = np.zeros(len(instance.churn), layout.CHURN)
    for row, each in zip(made, instance.churn, strict=True):
        row["at_s"] = each.at_s
        row["is_leave"] = each.kind is ChurnKind.LEAVE
        row["site"] = index[each.site_id]
        row["keeps_caches"] = each.keeps_caches
    return made
