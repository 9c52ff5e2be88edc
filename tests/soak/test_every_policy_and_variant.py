"""Every policy in every published variant, rechecked by the independent program. `make soak`.

Windows are one day instead of eight, so that all of them take some forty minutes of one core; the
churn of its variant is moved into them. The signals are typical days, or the tables that
`GCOS_TEST_DATA` names, where they are there.
"""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from policies.catalogue import POLICIES
from testbed.instances import draw
from testbed.scenarios import load_scenario, scenario_names
from testbed.sim.cache_modes import CacheMode
from testbed.sim.run import simulate
from testbed.world import World, load_world
from tests.recheck.recheck import read_export, recheck

pytestmark = pytest.mark.soak

ROOT = Path(__file__).resolve().parents[2]
WEEK_S = datetime(2023, 7, 3, tzinfo=UTC).timestamp()
WARMUP_H, MEASURE_H = 6, 18


@pytest.fixture(scope="module")
def world() -> World:
    place = Path(os.environ.get("GCOS_TEST_DATA", ROOT.parent / "shared" / "data"))
    return load_world(place if place.is_dir() else None)


@pytest.mark.parametrize("policy", [name for name in POLICIES if not POLICIES[name].is_central])
@pytest.mark.parametrize("name", scenario_names())
def test_an_outsider_finds_no_fault(world: World, tmp_path: Path, name: str, policy: str) -> None:
    scenario = load_scenario(name)
    early = tuple(replace(event, at_h=event.at_h * 0.15) for event in scenario.events)
    short = replace(scenario, warmup_h=WARMUP_H, measure_h=MEASURE_H, events=early)
    instance = draw(short, world, week_start_s=WEEK_S, seed=1)

    result = simulate(instance, policy=policy, log=tmp_path)

    verdict = recheck(read_export(tmp_path))
    assert not verdict.breaches, [str(breach) for breach in verdict.breaches[:10]]
    assert result.whole.task_count == len(instance.tasks)


@pytest.mark.parametrize("mode", [mode.value for mode in CacheMode])
@pytest.mark.parametrize("name", ["default", "cache-tenth"])
def test_an_outsider_finds_no_fault_in_any_cache_mode(
    world: World, tmp_path: Path, name: str, mode: str
) -> None:
    short = replace(load_scenario(name), warmup_h=WARMUP_H, measure_h=MEASURE_H)
    instance = draw(short, world, week_start_s=WEEK_S, seed=2)

    simulate(instance, policy="rule", cache_mode=mode, log=tmp_path)

    verdict = recheck(read_export(tmp_path))
    assert not verdict.breaches, [str(breach) for breach in verdict.breaches[:10]]
