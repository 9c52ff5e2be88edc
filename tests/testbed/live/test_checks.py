"""What agents cannot run is refused before anything starts, with what to do instead."""

from dataclasses import replace
from pathlib import Path

import pytest

from gcos.cli.main import main
from gcos.errors import InvalidRequestError
from testbed.evaluate import Pair, RunOrder, instance_of, monday_s
from testbed.live.checks import LiveOptions, check_live
from testbed.scenarios import load_scenario
from testbed.sim.instance import Faults, Instance

OPTIONS = LiveOptions(has_links=False)


@pytest.fixture(scope="module")
def instance() -> Instance:
    plan = load_scenario("no-clean-zones", ["warmup_h=0", "measure_h=1", "workload.load=0.1"])
    return instance_of(RunOrder(plan, None, Pair(monday_s("2023-01-02"), 1), "joint", "dual", ""))


def refused(instance: Instance, options: LiveOptions = OPTIONS, **given: str) -> str:
    asked = {"policy": "joint", "cache_mode": "dual", **given}
    with pytest.raises(InvalidRequestError) as caught:
        check_live(instance, options, **asked)
    assert caught.value.hint or caught.value.field
    return str(caught.value)


def test_what_agents_can_run_passes(instance) -> None:
    for policy in ("rule", "maccs", "maccs-reauction", "maccs-regret"):
        check_live(instance, OPTIONS, policy=policy, cache_mode="dual")


def test_what_only_a_simulator_can_is_refused(instance) -> None:
    for policy in ("milp", "genetic", "oracle-demand", "central"):
        assert "no agent can run it" in refused(instance, policy=policy)
    assert "cache mode none" in refused(instance, cache_mode="none")
    assert "faults" in refused(replace(instance, faults=Faults(message_loss_ratio=0.1)))
    small = tuple(replace(site, model_cache_bytes=1) for site in instance.sites)
    assert "larger than every cache" in refused(replace(instance, sites=small))


def test_what_is_too_much_is_refused(instance) -> None:
    assert "more than" in refused(replace(instance, tasks=instance.tasks * 2_000))
    assert "would take" in refused(instance, LiveOptions(has_links=False, speed=0.1))
    assert "--speed" in refused(instance, LiveOptions(has_links=False, speed=-1.0))
    assert "--byte-ratio" in refused(instance, LiveOptions(has_links=False, byte_ratio=1e9))
    assert "no task" in refused(replace(instance, tasks=()))
    moved = tuple(replace(site, zone="NOWHERE") for site in instance.sites)
    assert "shipped table" in refused(replace(instance, sites=moved))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--on", "moon"), "one of sim, live, testbed"),
        (("--on", "sim", "--speed", "60"), "--speed is of agents"),
        (("--on", "live", "--jobs", "2"), "jobs"),
        (("--on", "live", "--core", "full"), "core"),
        (("--on", "testbed", "--export", "there"), "export"),
        (("--on", "live", "--cache-mode", "none"), "--cache-mode is dual"),
        (("--on", "live", "--scenario", "paper"), "scenario"),
        (("--on", "live", "--seeds", "1"), "more than 1000"),
        (("--on", "live", "--policies", "joint,milp"), "milp"),
    ],
)
def test_the_command_refuses_nonsense(arguments, said, capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *arguments]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert said in told
    assert not list(Path(tmp_path).glob("there/*"))
