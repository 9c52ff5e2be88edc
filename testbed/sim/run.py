"""Runs an instance under a named policy and tells what it came to."""

import contextlib
from pathlib import Path
from typing import TextIO

import msgspec

from gcos.errors import InvalidRequestError
from gcos.system import SystemClock
from policies.catalogue import policy_named
from policies.maccs.copy_plan import plan_copies
from testbed.learned_bids import with_task_actor
from testbed.planner import learned, planner
from testbed.sim.cache_modes import caches_named
from testbed.sim.export import write_scenario
from testbed.sim.instance import Instance
from testbed.sim.result import RunResult
from testbed.sim.simulation import Simulation


def simulate(
    instance: Instance, *, policy: str, cache_mode: str = "dual", log: Path | None = None
) -> RunResult:
    """Return what came of an instance under a policy, run until every task has ended.

    Args:
        instance: The drawn problem.
        policy: Name in `policies.catalogue`.
        cache_mode: Name of caches, as `testbed.sim.cache_modes.caches_named` takes it.
        log: Directory for the three files of DESIGN section 10; None: none.

    Raises:
        InvalidRequestError: There is no such policy or cache mode, or some task fits no site.
    """
    chosen = policy_named(policy)
    caches = caches_named(cache_mode)
    check(instance)
    clock = SystemClock()
    begun_s = clock.protocol_s()
    with contextlib.ExitStack() as stack:
        lines: TextIO | None = None
        if log is not None:
            write_scenario(instance, caches.mode, log / "scenario.json")
            lines = stack.enter_context((log / "log.jsonl").open("w", encoding="utf-8"))
        simulation = Simulation(
            instance,
            with_task_actor(chosen),
            mode=caches.mode,
            eviction=caches.eviction,
            planner=planner() if chosen.foresight is not None else plan_copies,
            learned=learned(chosen.learned),
            log=lines,
        )
        simulation.run()
    books = simulation.books
    if log is not None:
        (log / "reported.json").write_bytes(msgspec.json.encode(books.reported()))
    return RunResult(
        policy=policy,
        cache_mode=cache_mode,
        whole=books.totals(books.whole),
        measured=books.totals(books.measured),
        event_count=simulation.engine.event_count,
        wall_s=clock.protocol_s() - begun_s,
        trace_hash=books.trace_hash,
    )


def check(instance: Instance) -> None:
    """Let an instance pass whose every task fits some site, be it one that comes later.

    Raises:
        InvalidRequestError: One asks for more GPUs than any site has.
    """
    largest = max((pool.gpu_count for site in instance.sites for pool in site.pools), default=0)
    for task in instance.tasks:
        if task.gpu_count > largest:
            raise InvalidRequestError(
                f"task {task.task_id} needs {task.gpu_count} GPUs and no site has more than"
                f" {largest}",
                field="gpus",
                hint="give a site more GPUs, or leave the task out",
            )
