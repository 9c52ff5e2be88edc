"""The shipped task actor is asked by every agent; without one that works, the rule decides."""

from pathlib import Path

import numpy as np
import pytest

from gcos.errors import InvalidRequestError
from policies.catalogue import POLICIES
from policies.features import CLAMP, FEATURE_COUNT, UNITS
from policies.maccs import actor as actor_module
from policies.maccs.actor import INPUT, OUTPUT, Actor, actor_path
from policies.maccs.actor_card import RESIDUAL_SCALES
from policies.maccs.actor_file import model_bytes, read_model
from policies.maccs.task_actor import PART, bidder_of, load_task_actor
from policies.maccs.task_bidder import RESIDUAL_MAX, ResidualBidder
from policies.maccs.task_network import TaskNetwork, drawn_network, graph_of, network_in
from testbed.fast.learning import LearnedBids, Told
from testbed.fast.run import FastPolicy, FastWorld, run_fast
from testbed.learned_bids import task_network, with_task_actor
from testbed.sim.samples import Sample, instance_of
from tests.policies.maccs.cards import card_of

pytest.importorskip("onnx")

NETWORK = drawn_network(np.random.default_rng(4), hidden=(32, 16), is_zero=False)
ROWS = np.random.default_rng(5).uniform(-CLAMP, CLAMP, (40, FEATURE_COUNT)).astype(np.float32)
CARD = card_of(PART, UNITS, output_max=RESIDUAL_MAX, residual_scale=0.5)


def written(directory: Path, network: TaskNetwork = NETWORK) -> Actor:
    graph = graph_of(network, input_name=INPUT, output_name=OUTPUT)
    actor_path(PART, directory).write_bytes(model_bytes(graph, CARD))
    actor = load_task_actor(directory)
    assert isinstance(actor, Actor)
    return actor


def test_the_file_computes_what_the_arrays_compute(tmp_path: Path) -> None:
    actor = written(tmp_path)
    for count in (1, 5, 8, 20, 40):
        assert actor(ROWS[:count]) == pytest.approx(NETWORK(ROWS[:count]), abs=1e-12)
    again = network_in(read_model(actor_path(PART, tmp_path))[0].graph)
    for name in NETWORK.__slots__:
        assert np.array_equal(getattr(again, name), getattr(NETWORK, name)), name


@pytest.mark.soak  # compiles for half a minute
def test_file_and_compiled_core_take_the_same_decisions(tmp_path: Path) -> None:
    """Each site asks the file about its own candidate alone, as agents do."""
    actor = written(tmp_path)
    told: list[Told] = []
    world = FastWorld(instance_of(Sample(site_count=8, task_count=120, tasks_per_h=30.0)))
    run_fast(world, FastPolicy("joint", bids=LearnedBids(NETWORK)), tell=told.append)
    (run,) = told
    for auction, offers, features in zip(run.auctions, run.offers, run.features, strict=True):
        learned = [float(actor(row[np.newaxis])[0]) for row in features]
        assert int(np.argmin(offers - learned)) == auction["site"]


def test_the_shipped_actor_can_be_asked_at_the_scale_of_its_gate() -> None:
    actor = load_task_actor()
    assert isinstance(actor, Actor), actor
    assert actor.card.residual_scale in RESIDUAL_SCALES
    assert np.isfinite(actor(ROWS)).all()
    assert bidder_of(actor).actor == f"joint+{actor.version}"


def test_who_has_not_learned_it_does_not_ask_it(tmp_path: Path) -> None:
    written(tmp_path)
    assert with_task_actor(POLICIES["rule"], tmp_path) is POLICIES["rule"]
    assert isinstance(with_task_actor(POLICIES["rule+task"], tmp_path).bidder(), ResidualBidder)
    assert task_network((), directory=tmp_path, scales={}) is None


def test_a_simulation_without_the_file_it_names_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents fall back to the rule; a result of the rule would bear another policy's name."""
    monkeypatch.setattr(actor_module, "SHIPPED", tmp_path)
    with pytest.raises(InvalidRequestError, match="no such file"):
        with_task_actor(POLICIES["rule+task"])


def test_simulations_take_the_weight_that_they_are_told_or_that_of_the_file(tmp_path: Path) -> None:
    written(tmp_path)
    found = task_network((PART,), directory=tmp_path, scales={})
    assert found is not None
    assert found[1] == 0.5
    assert found[0](ROWS) == pytest.approx(NETWORK(ROWS))
    told = task_network((PART,), directory=tmp_path, scales={PART: 1.0})
    assert told is not None
    assert told[1] == 1.0
    assert task_network((PART,), directory=tmp_path, scales={PART: 0.0}) is None
