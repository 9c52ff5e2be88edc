"""What an episode is played in: draws of an instance by a random generator."""

import functools
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np

from testbed.evaluate import TRAIN_SEED, available_weeks_s, monday_s
from testbed.instances import draw
from testbed.scenarios import Scenario, load_scenario
from testbed.sim.instance import Instance
from testbed.world import World, load_world

Draw = Callable[[np.random.Generator], Instance]
"""Draws the world of an episode; every draw has the same sites."""

#: Weeks for training (DESIGN section 7, Protocol).
FIRST_DAY: Final = date(2021, 1, 1)
LAST_DAY: Final = date(2022, 12, 31)
#: Workload seeds of episodes are `TRAIN_SEED` and this many after it.
SEED_COUNT: Final = 1_000_000


def scenario_draw(
    scenario: str | Scenario = "default",
    *,
    data: Path | None = None,
    weeks: Sequence[str] | None = None,
) -> Draw:
    """Return draws of a scenario: a week of `weeks` and a workload seed, both uniform.

    Args:
        scenario: A shipped name, a file, or a scenario.
        data: Directory of the world; None: the shipped typical days.
        weeks: Mondays such as 2021-01-04; None: all of 2021 and 2022 that can be run, which are
            those for training.

    Raises:
        InvalidRequestError: A week is no Monday, or the scenario is impossible.
        NotFoundError: There is no such scenario or no such week.
    """
    plan = load_scenario(scenario) if isinstance(scenario, str) else scenario
    world = _world(data)
    if weeks is None:
        starts_s, _ = available_weeks_s(plan, world, FIRST_DAY, LAST_DAY)
    else:
        starts_s = tuple(monday_s(week) for week in weeks)

    def drawn(random: np.random.Generator) -> Instance:
        week_start_s = starts_s[int(random.integers(len(starts_s)))]
        seed = TRAIN_SEED + int(random.integers(SEED_COUNT))
        return draw(plan, world, week_start_s=week_start_s, seed=seed)

    return drawn


@functools.cache
def _world(directory: Path | None) -> World:
    """Return the world of a directory, which a process reads once."""
    return load_world(directory)
