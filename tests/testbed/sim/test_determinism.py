"""The same seed gives the same run, in any process (I9)."""

import os
import subprocess
import sys

import pytest

from policies.catalogue import POLICIES
from testbed.sim.samples import Sample, instance_of
from testbed.sim.simulation import Simulation

#: Busy enough that tasks are given back, with caches that evict and messages that take time.
SCRIPT = """
from policies.catalogue import POLICIES
from testbed.sim.instance import ForecastNoise
from testbed.sim.samples import Sample, instance_of
from testbed.sim.simulation import Simulation
sample = Sample(task_count=60, tasks_per_h=12.0, model_cache_gb=50.0, data_cache_gb=60.0,
                forecast=ForecastNoise(sigma=0.1))
for name in ("random", "joint-lookahead", "joint+reauction"):
    run = Simulation(instance_of(sample), POLICIES[name], is_instant=False)
    run.run()
    print(name, run.books.trace_hash, run.engine.event_count)
"""


def hashes(hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_processes_with_other_hash_seeds_agree() -> None:
    first = hashes("0")
    assert len(first.splitlines()) == 3
    assert hashes("1") == first
    assert hashes("random") == first


@pytest.mark.parametrize("policy", [name for name in POLICIES if not POLICIES[name].is_central])
def test_a_second_run_in_this_process_agrees(policy: str) -> None:
    seen = set()
    for _ in range(2):
        run = Simulation(instance_of(Sample()), POLICIES[policy])
        run.run()
        seen.add((run.books.trace_hash, run.engine.event_count, run.auction_count))
    assert len(seen) == 1


def test_another_seed_is_another_run() -> None:
    runs = [Simulation(instance_of(Sample(seed=seed)), POLICIES["joint"]) for seed in (0, 1)]
    for run in runs:
        run.run()
    assert runs[0].books.trace_hash != runs[1].books.trace_hash
