"""Clairvoyant local search: a schedule that knows all run times, prices and carbon. Pure.

It begins from the multipliers of the bound (each task where it is cheapest at their prices, with
room for its GPUs) and then repeats, until a round gains less than `_GAIN_RATIO`:

- **single tasks and delays**: each task, in an order drawn anew, to its best site and start;
- **blocks**: all tasks of an artifact at one site, or at all, to another site, kept if J falls.
"""

from typing import Final

import numpy as np

from testbed.bound.ascent import Ascent
from testbed.bound.pricing import Fetches
from testbed.bound.schedule import Place, Schedule

#: Rounds end when one gains less than this part of J, or after so many.
_GAIN_RATIO: Final = 1e-3
ROUND_COUNT_MAX: Final = 4


def searched(
    schedule: Schedule,
    fetches: Fetches,
    ascent: Ascent,
    draws: np.random.Generator,
    *,
    round_count_max: int = ROUND_COUNT_MAX,
) -> bool:
    """Fill an empty schedule and improve it; returns whether there was room for every task."""
    if not _filled(schedule, fetches, ascent):
        return False
    usd = schedule.joint_usd()
    for _ in range(round_count_max):
        _move_tasks(schedule, draws)
        _move_blocks(schedule, draws)
        before, usd = usd, schedule.joint_usd()
        if before - usd < _GAIN_RATIO * abs(before):
            break
    return True


def _filled(schedule: Schedule, fetches: Fetches, ascent: Ascent) -> bool:
    """Place each task, in order of arrival, where it is cheapest at the bound's prices."""
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
    """Move all tasks of an artifact that are at one site, or at all sites, to one site."""
    problem = schedule.problem
    tasks_of: list[list[int]] = [[] for _ in problem.home]
    for task, needs in enumerate(problem.needs):
        for artifact in needs:
            tasks_of[artifact].append(task)
    for artifact in draws.permutation(len(problem.home)):
        for target in range(len(problem.speed)):
            placed = [(task, schedule.places[task]) for task in tasks_of[artifact]]
            origins = {place.site for _, place in placed if place is not None} - {target}
            for block in [{origin} for origin in sorted(origins)] + [origins] * (len(origins) > 1):
                _move_block(schedule, tasks_of[artifact], block, target)


def _move_block(schedule: Schedule, tasks: list[int], origins: set[int], target: int) -> None:
    moved: list[tuple[int, Place]] = []
    old_usd = new_usd = 0.0
    for task in tasks:
        place = schedule.places[task]
        if place is not None and place.site in origins:
            schedule.remove(task)
            moved.append((task, place))
            # Fetches that are not needed any more show when the last user goes.
            old_usd += schedule.run_usd(task, place.site, place.start_h)
            old_usd += schedule.fetch_usd(task, place.site)
    only = np.array([target])
    nothing = schedule.no_prices()
    placed: list[int] = []
    for task, _ in moved:
        found = schedule.best(task, only, nothing)
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
