"""The files of DESIGN section 10, with which anyone can recheck a run by their own code.

Units there: hours since `hour0`, GB (1e9 bytes), kW, kg, $. A site with one cache for both kinds
carries `cap_shared_gb` in place of the two capacities.
"""

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from gcos.accounting import BYTES_PER_GB, G_PER_KG, S_PER_H
from gcos.signals import StepSeries
from gcos.sites import Site
from testbed.sim.cache_modes import CacheMode, capacities_bytes
from testbed.sim.instance import Instance


def write_scenario(instance: Instance, mode: CacheMode, path: Path) -> None:
    """Write `scenario.json`."""
    path.write_bytes(msgspec.json.encode(scenario_of(instance, mode)))


def scenario_of(instance: Instance, mode: CacheMode) -> dict[str, object]:
    """Return `scenario.json` as plain values."""
    index = {site.site_id: i for i, site in enumerate(instance.sites)}
    names = {each.artifact.artifact_id: each.artifact.name for each in instance.upstreams}
    begin_s, end_s = instance.measured_s
    pairs = [[(a.site_id, b.site_id) for b in instance.sites] for a in instance.sites]
    links = instance.links
    cap_h = max((task.late_penalty.cap_h for task in instance.tasks), default=0.0)
    return {
        "name": instance.name,
        "notes": list(instance.notes),
        "hour0": datetime.fromtimestamp(instance.start_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lam_usd_per_kg": instance.carbon_price_usd_per_kg,
        "kappa_kwh_per_gb": instance.network_kwh_per_gb,
        "late_cap_h": cap_h,
        "measure_h": [(t - instance.start_s) / S_PER_H for t in (begin_s, end_s)],
        "sites": [_site(instance, site, mode) for site in instance.sites],
        "egress_usd_per_gb": [
            [0.0 if a == b else links[a, b].egress_usd_per_gb for a, b in row] for row in pairs
        ],
        "gb_per_h": [
            [None if a == b else links[a, b].bytes_per_s * S_PER_H / BYTES_PER_GB for a, b in row]
            for row in pairs
        ],
        "artifacts": [
            {
                "id": each.artifact.name,
                "kind": each.artifact.kind.value.lower(),
                "gb": each.artifact.size_bytes / BYTES_PER_GB,
                "home": index[each.home],
            }
            for each in instance.upstreams
        ],
        "tasks": [
            {
                "id": task.task_id,
                "model": names[task.model],
                "data": names[task.data],
                "gpus": task.gpu_count,
                "work_h": task.work_s / S_PER_H,
                "arrival": (task.arrival_s - instance.start_s) / S_PER_H,
                "deadline": (task.deadline_s - instance.start_s) / S_PER_H,
                "p0": task.late_penalty.fixed_usd,
                "p1": task.late_penalty.per_h_usd,
            }
            for task in instance.tasks
        ],
    }


def _site(instance: Instance, site: Site, mode: CacheMode) -> dict[str, object]:
    assert len(site.pools) == 1, "scenarios have one pool a site"
    pool = site.pools[0]
    models, data = (size / BYTES_PER_GB for size in capacities_bytes(site, mode))
    caches = (
        {"cap_shared_gb": models + data}
        if mode is CacheMode.COUPLED
        else {"cap_model_gb": models, "cap_data_gb": data}
    )
    carbon = _hourly(instance, instance.carbon[site.site_id])
    return {
        "name": site.site_id,
        "gpus": pool.gpu_count,
        "speed": pool.speed_ratio,
        "kw_active": pool.active_kw,
        "kw_idle": pool.idle_kw,
        "pue": site.pue,
        "usd_per_gpu_h": pool.usd_per_gpu_h,
        **caches,
        "storage_usd_per_gb_h": instance.storage_usd_per_gb_h,
        "price_usd_per_kwh": _hourly(instance, instance.price[site.site_id]),
        "ci_kg_per_kwh": [value / G_PER_KG for value in carbon],
    }


def _hourly(instance: Instance, series: StepSeries) -> list[float]:
    """Return the value of each hour from the begin of the run to where the longest series ends.

    A series that ends before then holds its last value, as the last one does past the end.
    """
    assert series.step_s == S_PER_H, "signals are hourly"
    every = (*instance.price.values(), *instance.carbon.values())
    last_s = max(each.end_s for each in every)
    hours = range(round((last_s - instance.start_s) / S_PER_H))
    return [series.at(instance.start_s + hour * S_PER_H) for hour in hours]
