"""The compiled simulator: placements and decisions a CPU second, and memory over a long run.

The limit of the first rows is what the strongest peer reaches, SustainCluster with its rule that
follows the green power: 9,181 placements a CPU second at five sites and 28 tasks a step of a
quarter of an hour, measured by us elsewhere, on a machine like those of this project. Ours
are the default scenario's tasks at that rate, arriving together at each quarter of an hour as the
peer's do, on five of its sites.

In the roomy row any one site could run everything. This is the peer's setting as its public
configuration shows it: 600, 600, 600, 700 and 300 GPUs (HewlettPackard/sustain-cluster @2ff21ce,
`configs/env/datacenters.yaml`). A closed-loop report on it (@3f6ea95, 2026-07-17) has 531 tasks in
20 steps, of which 452 go to one data centre and none is deferred, and no step overflows. The report
does not tell their GPU hours, so that how busy these sites were is not known as a share. The other
row is a harder one of our own: so few GPUs that half of all are busy and over a hundred runs wait
at green sites, for two and a half hours on the average: each placement there puts some seventy runs
into plans. The notes say what is left where tasks arrive one by one, so that hardly any two offers
are made at one instant.

What is measured is a run from the drawn instance to its totals, without the log. Forecasts are
drawn once for all policies that meet a world, and so before the clock starts.

Run as `python -m testbed.bench.compiled_core`.
"""

import resource
import sys
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median
from typing import Final

from gcos.signals import HOUR_S
from testbed.bench import BenchRow
from testbed.bench.peak_memory import PARTS, growth_row, own_peak_bytes
from testbed.fast.run import FastPolicy, FastWorld, run_fast
from testbed.instances import draw
from testbed.scenarios import load_scenario
from testbed.sim.instance import Instance, SimTask
from testbed.sim.samples import Sample, instance_of
from testbed.world import load_world

PEER_PLACEMENTS_PER_S: Final = 9_181.0
PEER_TARGET: Final = 10.0
DECISIONS_AIM: Final = 50_000.0
ROUNDS_COUNT: Final = 5

_WEEK_S: Final = datetime(2023, 7, 3, tzinfo=UTC).timestamp()
_STEP_S: Final = 900.0
#: Tasks an hour of the peer's setting.
_TASKS_PER_H: Final = 28 * HOUR_S / _STEP_S
_ROOMY_LOAD: Final = 0.1
_BUSY_LOAD: Final = 0.5
_LONG: Final = Sample(site_count=3, task_count=160_000, tasks_per_h=3.0)


def measure() -> tuple[BenchRow, ...]:
    """Return rows for the peer's setting, for the default scenario, and for memory."""
    return (
        _peer_row(_ROOMY_LOAD),
        _peer_row(_BUSY_LOAD),
        _decisions_row(),
        growth_row(
            "compiled core, peak memory over the tasks of a run",
            "testbed.bench.compiled_core",
            _LONG,
        ),
    )


def _peer_row(load: float) -> BenchRow:
    spread = _peer_instance(load)
    instance = _in_steps(spread)
    rate, spread_rate = _rate(instance, "carbon-greedy"), _rate(spread, "carbon-greedy")
    per_step = len(instance.tasks) * _STEP_S / (instance.warmup_s + instance.measure_s)
    return BenchRow(
        name=f"compiled core, carbon-greedy, {load:.0%} of GPUs busy, placements a CPU second",
        ours=rate,
        limit=PEER_PLACEMENTS_PER_S,
        ratio=rate / PEER_PLACEMENTS_PER_S,
        target=PEER_TARGET,
        unit="placements/s",
        beside="the strongest peer's rate",
        note=(
            f"5 sites, {per_step:.0f} tasks at each quarter of an hour. Arriving one by one:"
            f" {spread_rate:,.0f} placements/s"
        ),
    )


def _in_steps(instance: Instance) -> Instance:
    """Return an instance whose tasks arrive together, at the begin of their step."""

    def moved(task: SimTask) -> SimTask:
        early_s = (task.arrival_s - instance.start_s) % _STEP_S
        return replace(
            task, arrival_s=task.arrival_s - early_s, deadline_s=task.deadline_s - early_s
        )

    return replace(instance, tasks=tuple(moved(task) for task in instance.tasks))


def _peer_instance(load: float) -> Instance:
    """Return five sites of the default scenario with the peer's rate of tasks, and GPUs for it."""
    scenario = load_scenario("sites-5")
    world = load_world(None)
    drawn = draw(scenario, world, week_start_s=_WEEK_S, seed=1)
    hours = scenario.warmup_h + scenario.measure_h
    factor = _TASKS_PER_H * hours / len(drawn.tasks)
    factor *= scenario.workload.load / load
    sites = tuple(replace(site, gpus=round(site.gpus * factor)) for site in scenario.site)
    work = replace(scenario.workload, load=load)
    return draw(replace(scenario, site=sites, workload=work), world, week_start_s=_WEEK_S, seed=1)


def _decisions_row() -> BenchRow:
    instance = draw(load_scenario("default"), load_world(None), week_start_s=_WEEK_S, seed=1)
    rate = _rate(instance, "joint")
    return BenchRow(
        name="compiled core, joint, auctions a CPU second",
        ours=rate,
        limit=DECISIONS_AIM,
        ratio=rate / DECISIONS_AIM,
        target=1.0,
        unit="decisions/s",
        beside="the aim",
        note=f"a week of the default scenario, {len(instance.sites)} sites",
    )


def _rate(instance: Instance, rule: str) -> float:
    """Return tasks a CPU second; each task is placed by one auction."""
    world, policy = FastWorld(instance), FastPolicy(rule)
    run_fast(world, policy)  # compiles, and draws the forecasts
    rates = []
    for _ in range(ROUNDS_COUNT):
        begun_s = _cpu_s()
        run_fast(world, policy)
        rates.append(len(instance.tasks) / (_cpu_s() - begun_s))
    return median(rates)


def _cpu_s() -> float:
    """Return the CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _run_parts(parts: int) -> int:
    """Run so many parts of the long world and return this process' peak memory."""
    instance = instance_of(_LONG)
    tasks = instance.tasks[: len(instance.tasks) * parts // PARTS]
    run_fast(FastWorld(replace(instance, tasks=tasks)), FastPolicy("joint"))
    return own_peak_bytes()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(f"{_run_parts(int(sys.argv[1]))}\n")
    else:
        for row in measure():
            sys.stdout.write(f"{row}\n")
