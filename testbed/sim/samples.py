"""Small worlds made by hand, for tests and benchmarks of the simulator. Pure.

Nothing here claims to be real: prices and intensities are daily waves, sizes a handful of round
numbers. What a study needs is drawn by `testbed.instances` from a scenario.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gcos.accounting import BYTES_PER_GB, CostScope, LatePenalty
from gcos.artifacts import Artifact, ArtifactKind
from gcos.ids import ArtifactId, SiteId
from gcos.seeds import stream
from gcos.signals import HOUR_S, HOURS_A_DAY, StepSeries
from gcos.sites import Link, Pool, Site
from testbed.sim.instance import Churn, ForecastNoise, Instance, SimTask, Upstream

START_S = 1_688_169_600.0
"""2023-07-01T00:00:00Z."""

_POOLS = (
    Pool("H100", gpu_count=8, speed_ratio=1.0, active_kw=1.0, idle_kw=0.2, usd_per_gpu_h=3.0),
    Pool("A100", gpu_count=4, speed_ratio=0.5, active_kw=0.6, idle_kw=0.1, usd_per_gpu_h=1.5),
)
_MODEL_GB = (2, 5, 14, 40)
_DATA_GB = (1, 3, 8, 20, 50, 120)
#: Of a task, hours: its predicted median at speed 1 lies between.
_WORK_H = (0.2, 4.0)
_SIGMA = 0.3
#: Days that signals go on after the last arrival.
_TAIL_DAYS = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """What tells one sample world from another.

    Attributes:
        seed: Of everything drawn.
        site_count: Sites; every second one is small, slow and frugal.
        task_count: Tasks.
        tasks_per_h: Mean rate of arrival, all sites together.
        model_cache_gb: Model cache of each site.
        data_cache_gb: Data cache of each site.
        rtt_s: Round trip of every link.
        gb_per_s: Rate of every link alone.
        egress_usd_per_gb: Of every link.
        network_kwh_per_gb: Kappa.
        carbon_price_usd_per_kg: Lambda.
        storage_usd_per_gb_h: Price of a copy in a cache.
        shares_bandwidth: Flows share the ends of their links.
        forecast: How wrong forecasts are.
        churn: Sites that go and come.
    """

    seed: int = 0
    site_count: int = 3
    task_count: int = 30
    tasks_per_h: float = 3.0
    model_cache_gb: float = 60.0
    data_cache_gb: float = 150.0
    rtt_s: float = 0.1
    gb_per_s: float = 0.25
    egress_usd_per_gb: float = 0.02
    network_kwh_per_gb: float = 0.0065
    carbon_price_usd_per_kg: float = 0.2
    storage_usd_per_gb_h: float = 1e-5
    shares_bandwidth: bool = True
    forecast: ForecastNoise = field(default_factory=ForecastNoise)
    churn: tuple[Churn, ...] = ()


def site_id(index: int) -> SiteId:
    """Return the id of a sample's site; ids sort as their indices do."""
    return SiteId(f"s{index:04d}")


def instance_of(sample: Sample) -> Instance:
    """Return the world that `sample` describes; the same at each call, in each process."""
    hour_count = math.ceil(sample.task_count / sample.tasks_per_h)
    day_count = math.ceil(hour_count / HOURS_A_DAY)
    sites = tuple(_site(sample, i) for i in range(sample.site_count))
    ids = [site.site_id for site in sites]
    upstreams = _upstreams(sample, ids)
    signal_h = (day_count + _TAIL_DAYS) * HOURS_A_DAY
    link = Link(sample.rtt_s, sample.gb_per_s * BYTES_PER_GB, sample.egress_usd_per_gb)
    warmup_s = hour_count * HOUR_S / 4
    return Instance(
        name="sample",
        seed=sample.seed,
        start_s=START_S,
        warmup_s=warmup_s,
        measure_s=hour_count * HOUR_S - warmup_s,
        sites=sites,
        price={key: _wave(0.05 + 0.02 * (i % 5), i, signal_h) for i, key in enumerate(ids)},
        carbon={key: _wave(80.0 + 150.0 * (i % 4), i, signal_h) for i, key in enumerate(ids)},
        links={(a, b): link for a in ids for b in ids if a != b},
        shares_bandwidth=sample.shares_bandwidth,
        upstreams=upstreams,
        tasks=_tasks(sample, ids, upstreams),
        carbon_price_usd_per_kg=sample.carbon_price_usd_per_kg,
        network_kwh_per_gb=sample.network_kwh_per_gb,
        scope=CostScope.OPERATOR,
        storage_usd_per_gb_h=sample.storage_usd_per_gb_h,
        forecast=sample.forecast,
        churn=sample.churn,
    )


def artifact_of(kind: ArtifactKind, index: int, size_gb: float) -> Artifact:
    """Return a sample's artifact."""
    name = f"{kind.value.lower()}-{index}"
    digest = hashlib.sha256(name.encode()).hexdigest()
    return Artifact(ArtifactId(f"sha256:{digest}"), kind, name, round(size_gb * BYTES_PER_GB))


def _site(sample: Sample, index: int) -> Site:
    return Site(
        site_id=site_id(index),
        incarnation="sample",
        address=site_id(index),
        zone=f"zone-{index}",
        pue=1.1 + 0.1 * (index % 3),
        pools=(_POOLS[index % len(_POOLS)],),
        model_cache_bytes=round(sample.model_cache_gb * BYTES_PER_GB),
        data_cache_bytes=round(sample.data_cache_gb * BYTES_PER_GB),
    )


def _wave(mean: float, index: int, hour_count: int) -> StepSeries:
    """Return a daily wave of half the mean's height; each site's comes three hours later."""
    hours = np.arange(hour_count) - 3.0 * index
    return StepSeries(
        START_S, HOUR_S, mean * (1.0 + 0.5 * np.sin(2.0 * np.pi * hours / HOURS_A_DAY))
    )


def _upstreams(sample: Sample, ids: Sequence[SiteId]) -> tuple[Upstream, ...]:
    artifacts = [artifact_of(ArtifactKind.MODEL, i, size) for i, size in enumerate(_MODEL_GB)]
    artifacts += [artifact_of(ArtifactKind.DATA, i, size) for i, size in enumerate(_DATA_GB)]
    draws = stream(sample.seed, "sample", "homes")
    homes = draws.integers(len(ids), size=len(artifacts))
    made = [Upstream(artifact, ids[home]) for artifact, home in zip(artifacts, homes, strict=True)]
    return tuple(sorted(made, key=lambda each: each.artifact.artifact_id))


def _tasks(
    sample: Sample, ids: Sequence[SiteId], upstreams: Sequence[Upstream]
) -> tuple[SimTask, ...]:
    draws = stream(sample.seed, "sample", "tasks")
    models = [u.artifact for u in upstreams if u.artifact.kind is ArtifactKind.MODEL]
    data = [u.artifact for u in upstreams if u.artifact.kind is ArtifactKind.DATA]
    arrivals_h = np.cumsum(draws.exponential(1.0 / sample.tasks_per_h, sample.task_count))
    tasks = []
    for i, arrival_h in enumerate(arrivals_h):
        work_s = float(draws.uniform(*_WORK_H)) * HOUR_S
        gpu_count = int(draws.choice((1, 2, 4)))
        arrival_s = START_S + float(arrival_h) * HOUR_S
        origin = ids[int(draws.integers(len(ids)))]
        work_gpu_h = gpu_count * work_s / HOUR_S
        tasks.append(
            SimTask(
                task_id=f"{origin}-{i:08d}",
                arrival_s=arrival_s,
                origin=origin,
                model=models[int(draws.integers(len(models)))].artifact_id,
                data=data[int(draws.integers(len(data)))].artifact_id,
                gpu_count=gpu_count,
                predicted_work_s=work_s,
                work_s=work_s * math.exp(_SIGMA * float(draws.standard_normal())),
                sigma=_SIGMA,
                deadline_s=arrival_s + 3.0 * work_s + float(draws.uniform(0.5, 6.0)) * HOUR_S,
                late_penalty=LatePenalty(0.5 + 0.5 * work_gpu_h, 0.25 * work_gpu_h, 4.0),
            )
        )
    return tuple(tasks)
