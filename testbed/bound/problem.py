"""An instance as arrays, for bounds and searches that know everything. Pure.

Times are hours since the begin of the run, sizes GB, money $; what a GPU draws at a site is one
series of dollars, since price and carbon are summed with their weights:

    v_i(t) = k_i e_i (price_i(t) + lambda c_i(t)) (+ q_i in the scope with GPU hours)   $/GPU-hour
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gcos.accounting import BYTES_PER_GB, G_PER_KG, LATE_TOLERANCE_H, S_PER_H, CostScope
from gcos.artifacts import ArtifactKind
from testbed.bound.trees import cheapest_trees
from testbed.sim.cache_modes import CacheMode, capacities_bytes
from testbed.sim.instance import ChurnKind, Instance

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: What a task needs: one model and one data set.
NEED_COUNT: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What decides J of a schedule; n tasks, s sites, h hours, a artifacts.

    Attributes:
        rate: (s, h) $ per GPU hour in each hour; the last one holds for ever.
        gpu_h: (s, h) GPU hours there are in each hour: none while a site is away.
        speed: (s,).
        arrival_h: (n,).
        work_h: (n,) true hours at speed 1.
        gpus: (n,) float.
        due_h: (n,) instant up to which a finish costs nothing: the deadline and its tolerance.
        late_usd: (n,) charged at once when late.
        late_usd_per_h: (n,) charged by the hour late, up to `late_cap_h`.
        late_cap_h: (n,).
        needs: (n, 2) indices of model and data set.
        home: (a,) index of the site of the upstream copy.
        size_gb: (a,).
        is_model: (a,) bool.
        fits: (a, s) bool: the cache of the site could hold it.
        arc_usd: (s, s) $ per GB from source to target: egress and the least carbon of any hour.
        tree_usd: (s, 2^s) $ per GB of bringing an artifact from a home to every site of a set, at
            the least; None: too many sites to tell (`testbed.bound.trees`).
    """

    rate: Floats
    gpu_h: Floats
    speed: Floats
    arrival_h: Floats
    work_h: Floats
    gpus: Floats
    due_h: Floats
    late_usd: Floats
    late_usd_per_h: Floats
    late_cap_h: Floats
    needs: Ints
    home: Ints
    size_gb: Floats
    is_model: NDArray[np.bool_]
    fits: NDArray[np.bool_]
    arc_usd: Floats
    tree_usd: Floats | None

    @property
    def fetch_usd(self) -> Floats:
        """(a, s) $: the cheapest way of an artifact into a site, from its home or any cache."""
        site_count = len(self.speed)
        source = self.fits.copy()
        source[np.arange(len(self.home)), self.home] = True
        arcs = np.where(source[:, :, np.newaxis], self.arc_usd, math.inf)
        arcs[:, np.arange(site_count), np.arange(site_count)] = math.inf
        found = self.size_gb[:, np.newaxis] * arcs.min(axis=1)
        found[np.arange(len(self.home)), self.home] = 0.0
        return np.asarray(found)


def problem_of(instance: Instance, mode: CacheMode = CacheMode.DUAL) -> Problem:
    """Return an instance as arrays; `mode` says which artifacts fit a cache at all."""
    index = {site.site_id: i for i, site in enumerate(instance.sites)}
    artifacts = {each.artifact.artifact_id: i for i, each in enumerate(instance.upstreams)}
    tasks = instance.tasks
    sizes = np.array([each.artifact.size_bytes for each in instance.upstreams])
    is_model = np.array([each.artifact.kind is ArtifactKind.MODEL for each in instance.upstreams])
    hours = _hour_count(instance)
    arcs = _arcs_usd(instance, hours)
    return Problem(
        rate=_rates(instance, hours),
        gpu_h=_gpu_hours(instance, hours),
        speed=np.array([site.pools[0].speed_ratio for site in instance.sites]),
        arrival_h=_hours(instance, [task.arrival_s for task in tasks]),
        work_h=np.array([task.work_s for task in tasks]) / S_PER_H,
        gpus=np.array([float(task.gpu_count) for task in tasks]),
        due_h=_hours(instance, [task.deadline_s for task in tasks]) + LATE_TOLERANCE_H,
        late_usd=np.array([task.late_penalty.fixed_usd for task in tasks]),
        late_usd_per_h=np.array([task.late_penalty.per_h_usd for task in tasks]),
        late_cap_h=np.array([task.late_penalty.cap_h for task in tasks]),
        needs=np.array([[artifacts[task.model], artifacts[task.data]] for task in tasks]).reshape(
            -1, NEED_COUNT
        ),
        home=np.array([index[each.home] for each in instance.upstreams]),
        size_gb=sizes / BYTES_PER_GB,
        is_model=is_model,
        fits=_fits(instance, mode, sizes, is_model),
        arc_usd=arcs,
        tree_usd=cheapest_trees(arcs),
    )


def _hours(instance: Instance, instants_s: list[float]) -> Floats:
    return (np.array(instants_s) - instance.start_s) / S_PER_H


def _hour_count(instance: Instance) -> int:
    """Return after how many hours nothing changes any more: signals, sites and penalties."""
    ends_s = [series.end_s for series in (*instance.price.values(), *instance.carbon.values())]
    ends_s += [task.deadline_s + task.late_penalty.cap_h * S_PER_H for task in instance.tasks]
    ends_s += [task.arrival_s for task in instance.tasks]
    ends_s += [churn.at_s for churn in instance.churn]
    # One hour more: the tolerance of deadlines is part of what ends.
    return math.ceil((max(ends_s) - instance.start_s) / S_PER_H) + 1


def _carbon(instance: Instance, hours: int) -> Floats:
    """Return (s, h) kg/kWh."""
    at_s = instance.start_s + S_PER_H * np.arange(hours)
    grams = [[instance.carbon[site.site_id].at(t) for t in at_s] for site in instance.sites]
    return np.array(grams) / G_PER_KG


def _rates(instance: Instance, hours: int) -> Floats:
    at_s = instance.start_s + S_PER_H * np.arange(hours)
    price = np.array([[instance.price[s.site_id].at(t) for t in at_s] for s in instance.sites])
    power_kw = np.array([site.pools[0].active_kw * site.pue for site in instance.sites])
    weighed = price + instance.carbon_price_usd_per_kg * _carbon(instance, hours)
    rates = power_kw[:, np.newaxis] * weighed
    if instance.scope is CostScope.WITH_GPU_HOURS:
        rates += np.array([[site.pools[0].usd_per_gpu_h] for site in instance.sites])
    return np.asarray(rates)


def _gpu_hours(instance: Instance, hours: int) -> Floats:
    """Return (s, h) GPU hours; one that leaves in an hour is there for a part of it."""
    found = np.zeros((len(instance.sites), hours))
    grid = np.arange(hours)
    for i, site in enumerate(instance.sites):
        churn = [each for each in instance.churn if each.site_id == site.site_id]
        is_here = not churn or churn[0].kind is ChurnKind.LEAVE
        since_h, spans = 0.0, []
        for each in churn:
            at_h = (each.at_s - instance.start_s) / S_PER_H
            if is_here:
                spans.append((since_h, at_h))
            since_h, is_here = at_h, each.kind is ChurnKind.JOIN
        if is_here:
            spans.append((since_h, math.inf))
        for begin, end in spans:
            found[i] += np.clip(np.minimum(end, grid + 1) - np.maximum(begin, grid), 0.0, 1.0)
        found[i] *= site.pools[0].gpu_count
    return found


def _arcs_usd(instance: Instance, hours: int) -> Floats:
    """Return (s, s) $ per GB: egress, and the carbon of the hour in which the two ends emit least.

    A mean over a transfer is never below the least of its hours.
    """
    carbon = _carbon(instance, hours)
    weight = instance.carbon_price_usd_per_kg * instance.network_kwh_per_gb / 2
    ids = [site.site_id for site in instance.sites]
    found = np.zeros((len(ids), len(ids)))
    for i, source in enumerate(ids):
        for j, target in enumerate(ids):
            if i != j:
                found[i, j] = instance.links[source, target].egress_usd_per_gb
                found[i, j] += weight * (carbon[i] + carbon[j]).min()
    return found


def _fits(
    instance: Instance, mode: CacheMode, sizes: NDArray[np.int64], is_model: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return (a, s): whether the cache of a site could hold an artifact."""
    columns = []
    for site in instance.sites:
        models, data = capacities_bytes(site, mode)
        if mode is CacheMode.COUPLED:
            models = data = models + data
        columns.append(sizes <= np.where(is_model, models, data))
    return np.stack(columns, axis=1)
