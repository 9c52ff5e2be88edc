"""Dispatchers in the simulator: batches on the quarter hour, and runs that a checker lets pass."""

from dataclasses import replace
from pathlib import Path

import pytest

from gcos.errors import InvalidRequestError
from policies.batch import BATCH_S
from policies.catalogue import POLICIES
from site_agent.config import AgentConfig, completed
from testbed.sim.instance import Churn, ChurnKind
from testbed.sim.run import simulate
from testbed.sim.samples import START_S, Sample, instance_of, site_id
from testbed.sim.simulation import Simulation
from tests.recheck.recheck import read_export, recheck

BUSY = Sample(seed=5, task_count=60, tasks_per_h=8.0)
DISPATCHERS = [name for name, policy in POLICIES.items() if policy.dispatcher is not None]


def test_both_are_policies() -> None:
    assert DISPATCHERS == ["genetic", "milp"]


@pytest.mark.parametrize("policy", DISPATCHERS)
@pytest.mark.parametrize("mode", ["dual", "none"])
def test_a_checker_finds_nothing_wrong(tmp_path: Path, policy: str, mode: str) -> None:
    simulate(instance_of(BUSY), policy=policy, cache_mode=mode, log=tmp_path)
    export = read_export(tmp_path)
    verdict = recheck(export)
    assert not verdict.breaches
    for attempt in export.log.attempts:
        arrival_h = export.scenario.tasks[attempt.task].arrival_h
        batch_h = -(-arrival_h // (BATCH_S / 3600)) * BATCH_S / 3600
        assert attempt.start_h >= batch_h - 1e-9


@pytest.mark.parametrize("policy", DISPATCHERS)
def test_sites_may_go_and_come(policy: str) -> None:
    churn = (
        Churn(START_S + 7200, ChurnKind.LEAVE, site_id(0)),
        Churn(START_S + 14400, ChurnKind.JOIN, site_id(0)),
        Churn(START_S + 9000, ChurnKind.JOIN, site_id(2)),
    )
    instance = instance_of(replace(BUSY, churn=churn))
    run = Simulation(instance, POLICIES[policy], checks=True)
    run.run()
    assert run.books.whole.task_count == len(instance.tasks)


@pytest.mark.parametrize("policy", DISPATCHERS)
def test_the_same_seed_gives_the_same_run(policy: str) -> None:
    first, second = (simulate(instance_of(BUSY), policy=policy) for _ in range(2))
    assert first.trace_hash == second.trace_hash


@pytest.mark.parametrize("policy", DISPATCHERS)
def test_an_agent_refuses_what_it_could_not_do(tmp_path: Path, policy: str) -> None:
    config = AgentConfig("cal", data_dir=tmp_path, token_file=tmp_path / "token", policy=policy)
    with pytest.raises(InvalidRequestError) as caught:
        completed(config)
    assert caught.value.field == "policy"
