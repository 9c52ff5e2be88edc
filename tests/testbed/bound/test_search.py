"""What the clairvoyant search attains: schedules that a checker lets pass, above the bound."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from testbed.bound.ascent import ascend
from testbed.bound.attained import attained
from testbed.bound.booking import joint_usd as booked_usd
from testbed.bound.booking import trajectory_of
from testbed.bound.pricing import Fetches
from testbed.bound.problem import problem_of
from testbed.bound.schedule import Limits, Schedule
from testbed.bound.trajectory import NEVER_H, Fetched, Follower, Trajectory
from testbed.sim.cache_modes import CacheMode
from testbed.sim.instance import Churn, ChurnKind, Instance
from testbed.sim.result import Totals
from testbed.sim.run import simulate
from testbed.sim.samples import START_S, Sample, instance_of, site_id
from tests.recheck.recheck import read_export, recheck

BUSY = Sample(task_count=50, tasks_per_h=6.0)


def searched(
    instance: Instance, log: Path | None, *, mode: CacheMode = CacheMode.DUAL, rounds: int = 2
) -> tuple[float, Totals]:
    problem = problem_of(instance, mode)
    ascent = ascend(problem, Fetches(problem), step_count=200)
    found = attained(instance, problem, ascent, mode=mode, log=log, round_count_max=rounds)
    assert found is not None
    return ascent.bound_usd, found


def joint_usd(instance: Instance, totals: Totals) -> float:
    return totals.charge.joint_usd(instance.scope, instance.carbon_price_usd_per_kg)


@pytest.mark.parametrize("mode", list(CacheMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    "sample",
    [
        replace(BUSY, seed=0),
        replace(BUSY, seed=1, tasks_per_h=12.0),
        replace(BUSY, seed=2, model_cache_gb=20.0, data_cache_gb=60.0),
        replace(BUSY, seed=3, gb_per_s=0.1),
    ],
    ids=["plain", "crowded", "small-caches", "slow-links"],
)
def test_a_checker_finds_nothing_wrong_and_the_bound_is_below(
    tmp_path: Path, sample: Sample, mode: CacheMode
) -> None:
    instance = instance_of(sample)
    bound_usd, totals = searched(instance, tmp_path, mode=mode)
    verdict = recheck(read_export(tmp_path))
    assert not verdict.breaches
    assert totals.task_count == len(instance.tasks)
    assert bound_usd <= joint_usd(instance, totals)


def test_knowing_everything_pays() -> None:
    """Over some worlds: any single one may have a fast start that a plan misses."""
    ratios = []
    for seed in range(6):
        instance = instance_of(replace(BUSY, seed=seed))
        _, totals = searched(instance, None)
        online = simulate(instance, policy="joint").whole
        ratios.append(joint_usd(instance, totals) / joint_usd(instance, online))
    assert np.mean(ratios) < 0.95


def test_a_search_is_the_same_each_time(tmp_path: Path) -> None:
    logs = []
    for name in ("first", "second"):
        directory = tmp_path / name
        directory.mkdir()
        searched(instance_of(BUSY), directory)
        logs.append((directory / "log.jsonl").read_bytes())
    assert logs[0] == logs[1]


SMALL_CACHES = [
    replace(BUSY, task_count=100, seed=2, model_cache_gb=15.0, data_cache_gb=21.0),
    replace(BUSY, task_count=100, seed=4, model_cache_gb=4.0, data_cache_gb=8.0, tasks_per_h=12.0),
]


@pytest.mark.parametrize("sample", SMALL_CACHES, ids=["some-fit", "few-fit"])
def test_what_a_policy_did_is_bettered_by_the_rules(tmp_path: Path, sample: Sample) -> None:
    instance = instance_of(sample)
    online_log, log = tmp_path / "online", tmp_path / "search"
    online_log.mkdir()
    log.mkdir()
    online_usd = joint_usd(instance, simulate(instance, policy="rule", log=online_log).whole)
    online = trajectory_of(instance, online_log / "log.jsonl")
    problem = problem_of(instance)
    assert booked_usd(instance, problem, online) == pytest.approx(online_usd)

    ascent = ascend(problem, Fetches(problem), step_count=50)
    found = attained(instance, problem, ascent, online=[online], round_count_max=2, log=log)

    assert found is not None
    assert ascent.bound_usd <= joint_usd(instance, found) < online_usd
    assert found.task_count == len(instance.tasks)
    assert not recheck(read_export(log)).breaches


def test_a_copy_that_was_fetched_in_vain_is_let_go() -> None:
    instance = instance_of(replace(BUSY, task_count=6, site_count=2))
    problem = problem_of(instance)
    needed = int(problem.needs[0, 0])
    home = int(problem.home[needed])
    # Each artifact is copied to where it is not at home, from the begin on.
    fetched = [
        Fetched(artifact, int(problem.home[artifact]), site, 0.0, 0.5, NEVER_H, task=None)
        for artifact in range(len(problem.home))
        for site in range(2)
        if site != problem.home[artifact]
    ]
    starts = tuple((home, 24.0 * (1 + task)) for task in range(len(problem.work_h)))
    free = Limits(np.full((2, 2), np.inf), is_shared=False, fetch_ratio=0.0)
    schedule = Schedule(problem, free, np.zeros((len(problem.home), 2)))
    follower = Follower(schedule, Trajectory(starts, tuple(fetched)))
    follower.improve(np.random.default_rng(0))
    used = {
        (int(artifact), site)
        for (site, _), needs in zip(follower.trajectory.starts, problem.needs, strict=True)
        for artifact in needs
        if problem.home[artifact] != site
    }
    assert {(each.artifact, each.target) for each in follower.trajectory.fetched} == used
    assert len(used) < len(fetched)


def test_where_sites_come_and_go_nothing_is_searched() -> None:
    churn = (Churn(START_S + 7200, ChurnKind.LEAVE, site_id(0)),)
    instance = instance_of(replace(BUSY, churn=churn))
    problem = problem_of(instance)
    ascent = ascend(problem, Fetches(problem), step_count=10)
    assert attained(instance, problem, ascent) is None
