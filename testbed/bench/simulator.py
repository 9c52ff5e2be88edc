"""The simulator: its bare engine, runs over the live cores, and memory over a long run.

The engine's limit is the least that could be one, a loop over a heap of the same events. A run over
the live cores is put beside the rate that DESIGN section 11 aims at. Memory is that of a process
that runs all the tasks of a world, beside one that runs the first quarter of them: both hold the
whole world, so what differs is what the simulator keeps.

Run as `python -m testbed.bench.simulator`.
"""

import heapq
import sys
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Final

from gcos.system import SystemClock
from policies.catalogue import POLICIES
from testbed.bench import BenchRow
from testbed.bench.peak_memory import PARTS, growth_row, own_peak_bytes
from testbed.sim.engine import Engine
from testbed.sim.samples import Sample, instance_of
from testbed.sim.simulation import Simulation

ENGINE_TARGET: Final = 0.4
TASKS_PER_MIN_AIM: Final = 2_000.0
ROUNDS_COUNT: Final = 5
#: As many events wait at once as in a busy run.
WAITING_COUNT: Final = 1_000
EVENT_COUNT: Final = 200_000

_CORES = Sample(site_count=8, task_count=1_000, tasks_per_h=5.0)
#: A year of hours.
_LONG = Sample(site_count=3, task_count=17_520, tasks_per_h=2.0)

_now_s = SystemClock().protocol_s


def measure() -> tuple[BenchRow, ...]:
    """Return rows for the engine, runs under two policies, and memory."""
    cores = (_cores_row("joint"), _cores_row("joint-lookahead"))
    return (
        _engine_row(),
        *cores,
        growth_row("simulation, peak memory over a year", "testbed.bench.simulator", _LONG),
    )


def _engine_row() -> BenchRow:
    rounds = [(_rate(_engine_round), _rate(_heap_round)) for _ in range(ROUNDS_COUNT)]
    return BenchRow(
        name="simulation engine, actions that do nothing",
        ours=median(ours for ours, _ in rounds),
        limit=median(limit for _, limit in rounds),
        ratio=median(ours / limit for ours, limit in rounds),
        target=ENGINE_TARGET,
        unit="events/s",
        beside="bare heapq loop",
        note=f"median of {ROUNDS_COUNT} interleaved rounds",
    )


def _rate(work: Callable[[], None]) -> float:
    begun_s = _now_s()
    work()
    return EVENT_COUNT / (_now_s() - begun_s)


def _engine_round() -> None:
    """Let each event ask for the next, as a run does."""
    engine = Engine(0.0)

    def step() -> None:
        if engine.event_count <= EVENT_COUNT - WAITING_COUNT:
            engine.at(engine.now_s + 1.0, step)

    for index in range(WAITING_COUNT):
        engine.at(index / WAITING_COUNT, step)
    engine.run()
    assert engine.event_count == EVENT_COUNT, "a round is as long as the other's"


def _heap_round() -> None:
    """Do the same with nothing but a heap."""
    heap = [(index / WAITING_COUNT, 0, index) for index in range(WAITING_COUNT)]
    heapq.heapify(heap)
    sequence = WAITING_COUNT
    for count in range(EVENT_COUNT):
        time_s, priority, _ = heapq.heappop(heap)
        if count < EVENT_COUNT - WAITING_COUNT:
            sequence += 1
            heapq.heappush(heap, (time_s + 1.0, priority, sequence))


def _cores_row(policy: str) -> BenchRow:
    instance = instance_of(_CORES)
    rates, event_rates = [], []
    for _ in range(ROUNDS_COUNT):
        simulation = Simulation(instance, POLICIES[policy])
        begun_s = _now_s()
        simulation.run()
        taken_s = _now_s() - begun_s
        rates.append(60.0 * len(instance.tasks) / taken_s)
        event_rates.append(simulation.engine.event_count / taken_s)
    return BenchRow(
        name=f"simulation over the live cores, {policy}, {_CORES.site_count} sites",
        ours=median(rates),
        limit=TASKS_PER_MIN_AIM,
        ratio=median(rates) / TASKS_PER_MIN_AIM,
        target=1.0,
        unit="tasks/min",
        beside="the aim",
        note=f"{policy}: {median(event_rates):,.0f} events/s",
    )


def _run_parts(parts: int) -> int:
    """Run so many parts of the long world and return this process' peak memory."""
    instance = instance_of(_LONG)
    tasks = instance.tasks[: len(instance.tasks) * parts // PARTS]
    Simulation(replace(instance, tasks=tasks), POLICIES["joint"]).run()
    return own_peak_bytes()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(f"{_run_parts(int(sys.argv[1]))}\n")
    else:
        for row in measure():
            sys.stdout.write(f"{row}\n")
