"""Trajectories as books and as files: booked like any run, read from what a run has logged."""

from dataclasses import replace
from pathlib import Path
from typing import Final, TextIO

import msgspec

from gcos.accounting import S_PER_H
from testbed.bound.problem import Problem
from testbed.bound.trajectory import NEVER_H, Fetched, Trajectory
from testbed.sim.books import Books
from testbed.sim.cache_modes import CacheMode
from testbed.sim.export import write_scenario
from testbed.sim.instance import Instance
from testbed.sim.result import Totals

LOG_NAME: Final = "log.jsonl"


class _Line(msgspec.Struct, frozen=True):
    """One line of `log.jsonl`, DESIGN section 10; what its kind lacks is absent."""

    e: str
    t: float = 0.0
    t0: float = 0.0
    t1: float = 0.0
    src: int = 0
    dst: int = 0
    site: int = 0
    artifact: str = ""
    task: str | None = None
    stored: bool = False


def trajectory_of(instance: Instance, log: Path) -> Trajectory:
    """Return what a run did by its log, a file; sites neither come nor go in it."""
    tasks = {task.task_id: i for i, task in enumerate(instance.tasks)}
    artifacts = {each.artifact.name: i for i, each in enumerate(instance.upstreams)}
    starts: dict[int, tuple[int, float]] = {}
    fetched: list[Fetched] = []
    stored: dict[tuple[int, int], int] = {}
    gone_h: dict[int, float] = {}
    for text in log.read_bytes().splitlines():
        line = msgspec.json.decode(text, type=_Line)
        if line.e == "run":
            assert line.task is not None, "a run is of a task"
            starts[tasks[line.task]] = line.site, line.t0
        elif line.e == "evict":
            gone_h[stored.pop((artifacts[line.artifact], line.site))] = line.t
        elif line.e == "transfer":
            artifact = artifacts[line.artifact]
            if line.stored:
                stored[artifact, line.dst] = len(fetched)
            alone = None if line.stored or line.task is None else tasks[line.task]
            fetched.append(
                Fetched(artifact, line.src, line.dst, line.t0, line.t1, NEVER_H, task=alone)
            )
    return Trajectory(
        starts=tuple(starts[task] for task in range(len(tasks))),
        fetched=tuple(
            replace(each, gone_h=gone_h.get(i, NEVER_H)) for i, each in enumerate(fetched)
        ),
    )


def joint_usd(instance: Instance, problem: Problem, trajectory: Trajectory) -> float:
    """Return J of the whole run."""
    charge = _booked(instance, problem, trajectory, None)[1].charge
    return charge.joint_usd(instance.scope, instance.carbon_price_usd_per_kg)


def totals_of(
    instance: Instance,
    problem: Problem,
    trajectory: Trajectory,
    *,
    mode: CacheMode,
    log: Path | None,
) -> Totals:
    """Return the totals of the whole run; writes its three files if a directory is given."""
    if log is None:
        return _booked(instance, problem, trajectory, None)[1]
    write_scenario(instance, mode, log / "scenario.json")
    with (log / LOG_NAME).open("w", encoding="utf-8") as lines:
        books, totals = _booked(instance, problem, trajectory, lines)
    (log / "reported.json").write_bytes(msgspec.json.encode(books.reported()))
    return totals


def _booked(
    instance: Instance, problem: Problem, trajectory: Trajectory, lines: TextIO | None
) -> tuple[Books, Totals]:
    books = Books(instance, lines)
    sites, start_s = instance.sites, instance.start_s
    # A copy goes before the artifact comes again.
    events = [(each.start_h, 1, i) for i, each in enumerate(trajectory.fetched)]
    events += [
        (each.gone_h, 0, i) for i, each in enumerate(trajectory.fetched) if each.gone_h < NEVER_H
    ]
    for _, is_transfer, i in sorted(events):
        each = trajectory.fetched[i]
        artifact = instance.upstreams[each.artifact].artifact
        if not is_transfer:
            gone_s = start_s + each.gone_h * S_PER_H
            books.evict(sites[each.target].site_id, artifact, now_s=gone_s)
            continue
        books.transfer(
            artifact,
            sites[each.source].site_id,
            sites[each.target].site_id,
            start_s=start_s + each.start_h * S_PER_H,
            end_s=start_s + each.end_h * S_PER_H,
            task_id=None if each.task is None else instance.tasks[each.task].task_id,
            is_stored=each.task is None,
        )
    for task, (place, begin_h) in enumerate(trajectory.starts):
        site, begin_s = sites[place], start_s + begin_h * S_PER_H
        run_h = float(problem.work_h[task] / problem.speed[place])
        books.run(
            instance.tasks[task],
            site,
            site.pools[0],
            start_s=begin_s,
            end_s=begin_s + run_h * S_PER_H,
        )
    books.close()
    return books, books.totals(books.whole)
