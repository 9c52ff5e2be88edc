"""The ablation `central`: one network looks at all candidates of a task, and no agent runs it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gcos.errors import InvalidRequestError
from policies.catalogue import CENTRAL, POLICIES
from policies.features import CLAMP, FEATURE_COUNT, UNITS
from policies.maccs.actor import INPUT, OUTPUT, Actor, actor_path, load_actor
from policies.maccs.actor_card import ActorCard
from policies.maccs.actor_file import model_bytes, read_model
from policies.maccs.fallback import Fallback, FallbackReason
from policies.maccs.task_actor import PART, load_task_actor
from policies.maccs.task_bidder import RESIDUAL_MAX
from policies.maccs.task_network import TaskNetwork, drawn_network, graph_of, network_in
from site_agent.config import AgentConfig, completed
from testbed import cores
from testbed.learned_bids import task_network
from testbed.sim.run import simulate
from testbed.sim.samples import Sample, instance_of
from tests.policies.maccs.cards import card_of

pytest.importorskip("onnx")

NETWORK = drawn_network(np.random.default_rng(4), hidden=(32, 16), sees_all=True, is_zero=False)
ROWS = np.random.default_rng(5).uniform(-CLAMP, CLAMP, (20, FEATURE_COUNT)).astype(np.float32)
CARD = card_of(CENTRAL, UNITS, output_max=RESIDUAL_MAX)


def written(path: Path, network: TaskNetwork = NETWORK, card: ActorCard = CARD) -> None:
    graph = graph_of(network, input_name=INPUT, output_name=OUTPUT)
    path.write_bytes(model_bytes(graph, card))


def test_candidates_in_another_order_come_to_the_same() -> None:
    order = np.random.default_rng(6).permutation(len(ROWS))
    assert NETWORK(ROWS[order]) == pytest.approx(NETWORK(ROWS)[order], abs=1e-12)


def test_what_a_candidate_comes_to_hangs_on_the_others() -> None:
    others = ROWS.copy()
    others[1:] = ROWS[1:][::-1] / 2
    assert abs(NETWORK(others)[0] - NETWORK(ROWS)[0]) > 1e-3
    alone = drawn_network(np.random.default_rng(4), hidden=(32, 16), is_zero=False)
    assert alone(others)[0] == pytest.approx(alone(ROWS)[0], abs=1e-12)


def test_before_training_it_is_zero_and_shares_its_weights_with_the_task_actor() -> None:
    still = drawn_network(np.random.default_rng(4), hidden=(32, 16), sees_all=True)
    assert not still(ROWS).any()
    alone = drawn_network(np.random.default_rng(4), hidden=(32, 16))
    for name in alone.__slots__:
        if name != "weight_all":
            assert np.array_equal(getattr(still, name), getattr(alone, name)), name


def test_without_weights_for_all_it_is_the_task_actor() -> None:
    alone = replace(NETWORK, weight_all=np.zeros((16, 0)))
    deaf = replace(NETWORK, weight_all=np.zeros((16, 64)))
    assert (deaf.sees_all, alone.sees_all) == (True, False)
    assert np.array_equal(deaf(ROWS), alone(ROWS))


def test_the_file_computes_what_the_arrays_compute(tmp_path: Path) -> None:
    written(actor_path(CENTRAL, tmp_path))
    actor = load_actor(actor_path(CENTRAL, tmp_path), CENTRAL, UNITS)
    assert isinstance(actor, Actor)
    for count in (1, 5, 8, 20):
        assert actor(ROWS[:count]) == pytest.approx(NETWORK(ROWS[:count]), abs=1e-12)
    again = network_in(read_model(actor_path(CENTRAL, tmp_path))[0].graph)
    for name in NETWORK.__slots__:
        assert np.array_equal(getattr(again, name), getattr(NETWORK, name)), name


def test_the_shipped_file_sees_all_and_that_of_the_task_actor_does_not() -> None:
    central = task_network((CENTRAL,), scales={})
    assert central is not None
    network, scale = central
    assert network.sees_all
    assert scale == 1.0, "an ablation shows what was learned, whatever the gate says"
    alone = task_network((PART,), scales={PART: 1.0})
    assert alone is not None
    assert not alone[0].sees_all


def test_agents_do_not_load_its_file_as_theirs(tmp_path: Path) -> None:
    written(actor_path(PART, tmp_path))
    found = load_task_actor(tmp_path)
    assert isinstance(found, Fallback)
    assert found.reason is FallbackReason.VERSION
    assert "the central actor, not the task one" in found.message


def test_a_network_that_sees_all_is_not_loaded_under_the_card_of_the_task_actor(
    tmp_path: Path,
) -> None:
    written(actor_path(PART, tmp_path), card=replace(CARD, part=PART))
    found = load_task_actor(tmp_path)
    assert isinstance(found, Fallback)
    assert found.reason is FallbackReason.VERSION
    with pytest.raises(InvalidRequestError, match="answers a row by the rows beside it"):
        task_network((PART,), directory=tmp_path, scales={PART: 1.0})


def test_a_network_that_sees_one_candidate_is_not_run_as_the_ablation(tmp_path: Path) -> None:
    written(actor_path(CENTRAL, tmp_path), replace(NETWORK, weight_all=np.zeros((16, 0))))
    with pytest.raises(InvalidRequestError, match="each candidate alone") as caught:
        task_network((CENTRAL,), directory=tmp_path, scales={})
    assert caught.value.field == "policy"
    assert str(actor_path(CENTRAL, tmp_path)) in caught.value.message


def test_no_agent_runs_it(tmp_path: Path) -> None:
    assert not POLICIES[CENTRAL].is_live
    config = AgentConfig("de", tmp_path, tmp_path / "token", policy=CENTRAL)
    with pytest.raises(InvalidRequestError, match="central sees all sites at once") as caught:
        completed(config)
    assert caught.value.hint == "use maccs"


def test_the_full_simulator_refuses_it_and_says_what_runs_it() -> None:
    with pytest.raises(InvalidRequestError, match="central ranks the offers of all") as caught:
        simulate(instance_of(Sample(task_count=1)), policy=CENTRAL)
    assert caught.value.field == "policy"
    assert "--core fast" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("core", "has_fast", "hint"),
    [("full", True, "--core fast"), ("auto", False, "gcos[research]"), ("fast", True, None)],
)
def test_a_core_that_cannot_run_it_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, core: str, has_fast: bool, hint: str | None
) -> None:
    monkeypatch.setattr(cores, "has_fast", lambda: has_fast)
    cores.check_policies(core, ["joint", "maccs"])
    if hint is None:
        cores.check_policies(core, ["joint", CENTRAL])
        return
    with pytest.raises(InvalidRequestError, match="only the fast core does") as caught:
        cores.check_policies(core, ["joint", CENTRAL])
    assert caught.value.field == "policies"
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("core", ["auto", "fast"])
def test_what_the_compiled_core_cannot_run_is_not_sent_to_the_full_one(core: str) -> None:
    pytest.importorskip("numba")
    caches = "dual+belady"
    with pytest.raises(InvalidRequestError, match="eviction belady is not compiled") as caught:
        cores.simulator(core)(
            instance_of(Sample(task_count=1)), policy=CENTRAL, cache_mode=caches, log=None
        )
    assert caught.value.hint == "no other core runs central: leave it out"
