"""The compiled core against the simulator in worlds drawn at random. `make soak`.

Sites from idle to crowded, prices below zero, transfers that are slow, quick or free, runs of
seconds and of days, all at once or one by one. Signals differ everywhere: where two offers are
equal but for rounding, the cores may sum in another order and choose differently.
"""

from dataclasses import replace

import pytest

from gcos.accounting import CostScope, LatePenalty
from gcos.seeds import stream
from gcos.signals import StepSeries
from testbed.sim.cache_modes import CacheMode
from testbed.sim.instance import Churn, ChurnKind, ForecastNoise, Instance
from testbed.sim.samples import START_S, Sample, instance_of, site_id
from tests.testbed.fast.test_same_as_simulator import COMPILED, check_same, in_steps

pytestmark = pytest.mark.soak

LAZY = ("carbon-greedy", "cost-greedy", "locality")
MODES = list(CacheMode)
GPU_COUNTS = (4, 8, 64)


def world(seed: int) -> Instance:
    """Return the world of a seed."""
    rng = stream(seed, "random world")
    site_count = int(rng.choice((1, 2, 3, 5, 8)))
    left_s = START_S + 3600.0 * float(rng.uniform(0, 8))
    back_s = left_s + float(rng.choice((5.0, 7200.0)))
    churn = (
        Churn(left_s, ChurnKind.LEAVE, site_id(0)),
        Churn(back_s, ChurnKind.JOIN, site_id(0), keeps_caches=bool(rng.integers(2))),
    )
    drawn = instance_of(
        Sample(
            seed=seed,
            site_count=site_count,
            task_count=int(rng.choice((40, 80, 150))),
            tasks_per_h=site_count * float(rng.choice((0.5, 0.7, 0.9, 4.0, 40.0))),
            model_cache_gb=float(rng.choice((15.0, 60.0))),
            data_cache_gb=float(rng.choice((21.0, 130.0))),
            rtt_s=float(rng.choice((0.0, 0.1))),
            gb_per_s=float(rng.choice((0.05, 5.0))),
            egress_usd_per_gb=float(rng.choice((0.0, 0.02))),
            carbon_price_usd_per_kg=float(rng.choice((0.0, 0.2))),
            shares_bandwidth=bool(rng.integers(2)),
            forecast=ForecastNoise(float(rng.choice((0.0, 0.3)))),
            churn=churn if site_count > 1 and rng.uniform() < 0.3 else (),
        )
    )

    def signals(low: float, high: float) -> dict[str, StepSeries]:
        return {
            key: replace(each, values=rng.uniform(low, high, len(each.values)))
            for key, each in drawn.price.items()
        }

    length_ratio = float(rng.choice((0.005, 1.0, 1.0, 4.0)))
    deadline_ratio = float(rng.choice((0.3, 1.0, 3.0))) * max(length_ratio, 0.02)
    penalty = rng.choice(("kept", "none", "high"))
    gpu_counts = rng.choice(GPU_COUNTS, site_count)
    tasks = []
    for task in drawn.tasks:
        late = {"none": LatePenalty(0.0, 0.0, 0.0), "high": LatePenalty(1e6, 1e5, 24.0)}
        tasks.append(
            replace(
                task,
                gpu_count=min(task.gpu_count * int(rng.choice((1, 2))), int(max(gpu_counts))),
                predicted_work_s=task.predicted_work_s * length_ratio,
                work_s=task.work_s * length_ratio,
                sigma=float(rng.choice((0.0, 0.1, 0.3, 1.2))),
                deadline_s=task.arrival_s + deadline_ratio * (task.deadline_s - task.arrival_s),
                late_penalty=late.get(str(penalty), task.late_penalty),
            )
        )
    return replace(
        drawn,
        price=signals(float(rng.choice((-0.2, 0.0))), 0.2),
        carbon=signals(0.0, 400.0),
        sites=tuple(
            replace(site, pools=(replace(site.pools[0], gpu_count=int(count)),))
            for site, count in zip(drawn.sites, gpu_counts, strict=True)
        ),
        tasks=tuple(tasks),
        scope=list(CostScope)[int(rng.integers(len(CostScope)))],
    )


@pytest.mark.parametrize("seed", range(300))
def test_a_random_world_is_the_same(seed: int) -> None:
    """Half of them under rules whose bids are worked out only where they may win."""
    policies = LAZY if seed % 2 else COMPILED
    together = in_steps(world(seed), (0.0, 0.0, 15.0)[seed % 3])
    tasks = sorted(together.tasks, key=lambda task: (task.arrival_s, task.task_id))
    policy, mode = policies[seed // 2 % len(policies)], MODES[seed // 7 % len(MODES)]
    eviction = ("value", "lru")[seed // 5 % 2]
    check_same(replace(together, tasks=tuple(tasks)), policy, mode, eviction)
