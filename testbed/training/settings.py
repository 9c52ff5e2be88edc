"""The settings of training runs: scenario, week and seed of each, drawn once."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from gcos.errors import NotFoundError
from gcos.seeds import stream
from testbed.evaluate import available_weeks_s
from testbed.instances import draw
from testbed.scenarios import Scenario, load_scenario
from testbed.scenarios.records import SitePlan
from testbed.sim.instance import Instance
from testbed.training.config import Spread, TrainConfig, day_of
from testbed.world import World, load_world

#: Draws of sites before it is said that no week has data for them.
_DRAW_COUNT_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Setting:
    """One training run, whole: what another process needs to draw it.

    Attributes:
        scenario: Drawn around that of the configuration.
        data: Directory of the world; None: the shipped tables.
        week_start_s: Begin of the measured week.
        seed: Of the workload.
    """

    scenario: Scenario
    data: Path | None
    week_start_s: float
    seed: int

    def instance(self) -> Instance:
        """Return what is run."""
        world = _world(self.data)
        return draw(self.scenario, world, week_start_s=self.week_start_s, seed=self.seed)


@functools.cache
def _world(directory: Path | None) -> World:
    """Return the world of a directory, whose files each process reads once."""
    return load_world(directory)


def settings_of(config: TrainConfig) -> tuple[Setting, ...]:
    """Return the settings of all training runs; the same configuration draws the same.

    Raises:
        InvalidRequestError: A scenario is unknown.
        NotFoundError: The world has no week for what was drawn.
    """
    base = load_scenario(config.scenario)
    further = load_scenario(config.spread.more_sites).all_sites
    known = {site.id: site for site in (*further, *base.all_sites)}
    sites = [known[key] for key in sorted(known)]
    return tuple(
        _setting(config, base, sites, config.first_seed + index)
        for index in range(config.run_count)
    )


def _setting(config: TrainConfig, base: Scenario, sites: Sequence[SitePlan], seed: int) -> Setting:
    draws = stream(config.random_seed, "setting", seed)
    problem: NotFoundError | None = None
    for _ in range(_DRAW_COUNT_MAX):
        scenario = drawn_scenario(base, sites, config.spread, draws)
        try:
            weeks_s = _weeks_s(scenario, config)
        except NotFoundError as exc:  # these sites have no week in common
            problem = exc
            continue
        return Setting(scenario, config.data, weeks_s[int(draws.integers(len(weeks_s)))], seed)
    assert problem is not None
    raise problem


def _weeks_s(scenario: Scenario, config: TrainConfig) -> tuple[float, ...]:
    first = day_of(config.first_day, name="first_day")
    last = day_of(config.last_day, name="last_day")
    return available_weeks_s(scenario, _world(config.data), first, last)[0]


def drawn_scenario(
    base: Scenario, sites: Sequence[SitePlan], spread: Spread, draws: np.random.Generator
) -> Scenario:
    """Return a scenario around `base`; a share of draws is `base` itself.

    Args:
        base: Where to begin.
        sites: Those that may be there.
        spread: How far to go.
        draws: Source of chance.
    """
    if draws.random() < spread.plain_ratio:
        return base
    low, high = spread.site_count
    count = int(draws.integers(low, high + 1))
    chosen = draws.permutation(len(sites))[: min(count, len(sites))]
    cache = _factor(spread.cache_factor, draws)
    return replace(
        base,
        name=f"{base.name}+drawn",
        site=tuple(sites[k] for k in sorted(chosen.tolist())),
        events=(),
        caches=replace(
            base.caches,
            model_gb=base.caches.model_gb * cache,
            data_gb=base.caches.data_gb * cache,
        ),
        network=replace(
            base.network,
            egress_factor=base.network.egress_factor * _factor(spread.egress_factor, draws),
        ),
        workload=replace(
            base.workload,
            load=draws.uniform(*spread.load),
            zipf=draws.uniform(*spread.zipf),
        ),
        carbon_price_usd_per_kg=base.carbon_price_usd_per_kg
        * _factor(spread.carbon_price_factor, draws),
        network_kwh_per_gb=base.network_kwh_per_gb * _factor(spread.network_energy_factor, draws),
    )


def _factor(limits: tuple[float, float], draws: np.random.Generator) -> float:
    if limits[0] == limits[1]:
        return limits[0]  # what does not vary takes no draw
    low, high = (math.log(limit) for limit in limits)
    return math.exp(draws.uniform(low, high))
