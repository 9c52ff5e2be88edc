"""Clairvoyant local search: a schedule that knows all run times, prices and carbon. Pure.

It begins from the multipliers of the bound (each task where it is cheapest at their prices, with
room for its GPUs). A round of moves is

- **blocks**: all tasks of an artifact at one site to their best other sites, which saves the copy
  there, or all tasks of an artifact to one site; kept if J falls;
- **single tasks and delays**: each task, in an order drawn anew, to its best site and start.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from testbed.bound.ascent import Ascent
from testbed.bound.pricing import Fetches
from testbed.bound.schedule import Place, Schedule


def fill(schedule: Schedule, fetches: Fetches, ascent: Ascent) -> bool:
    """Place each task, in order of arrival, where it is cheapest at the bound's prices.

    Returns:
        Whether there was room for every task.
    """
    problem = schedule.problem
    prices = schedule.prices(ascent.multipliers.gpu_usd)
    shares = (ascent.multipliers.share_usd + fetches.alone_usd).sum(axis=1)
    every = np.arange(len(problem.speed))
    for task in range(len(problem.work_h)):
        place = schedule.best(task, every, prices, shares[task])
        if place is None:
            return False
        schedule.put(task, place)
    return True


def improve(schedule: Schedule, draws: np.random.Generator) -> None:
    """Try every move once; what lowers J is kept."""
    _move_blocks(schedule, draws)
    _move_tasks(schedule, draws)


def _move_tasks(schedule: Schedule, draws: np.random.Generator) -> None:
    every = np.arange(len(schedule.problem.speed))
    nothing = schedule.no_prices()
    for task in draws.permutation(len(schedule.places)):
        old = schedule.remove(int(task))
        old_usd = schedule.run_usd(int(task), old.site, old.start_h)
        old_usd += schedule.fetch_usd(int(task), old.site)
        found = schedule.best(int(task), every, nothing)
        is_better = found is not None and found.usd < old_usd - 1e-9
        schedule.put(int(task), found if is_better and found is not None else old)


def _move_blocks(schedule: Schedule, draws: np.random.Generator) -> None:
    problem = schedule.problem
    tasks_of: list[list[int]] = [[] for _ in problem.home]
    for task, needs in enumerate(problem.needs):
        for artifact in needs:
            tasks_of[artifact].append(task)
    every = range(len(problem.speed))
    for artifact in draws.permutation(len(problem.home)):
        tasks = tasks_of[artifact]
        for site in every:
            if schedule.users.get((int(artifact), site)):
                others = np.array([other for other in every if other != site])
                _move_block(schedule, tasks, others)
        for site in every:
            _move_block(schedule, tasks, np.array([site]))


def _move_block(schedule: Schedule, tasks: Sequence[int], targets: NDArray[np.int64]) -> None:
    """Move those of the tasks that are elsewhere to some of the targets, if that lowers J."""
    moved: list[tuple[int, Place]] = []
    old_usd = new_usd = 0.0
    for task in tasks:
        place = schedule.places[task]
        if place is not None and place.site not in targets:
            schedule.remove(task)
            moved.append((task, place))
            # Fetches that are not needed any more show when the last user goes.
            old_usd += schedule.run_usd(task, place.site, place.start_h)
            old_usd += schedule.fetch_usd(task, place.site)
    nothing = schedule.no_prices()
    placed: list[int] = []
    for task, _ in moved:
        found = schedule.best(task, targets, nothing)
        if found is None or new_usd + found.usd > old_usd:
            break
        new_usd += found.usd
        schedule.put(task, found)
        placed.append(task)
    if len(placed) == len(moved) and new_usd < old_usd - 1e-9:
        return
    for task in placed:
        schedule.remove(task)
    for task, place in moved:
        schedule.put(task, place)
