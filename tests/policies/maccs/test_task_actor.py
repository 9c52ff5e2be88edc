"""The shipped task actor is asked by every agent; without one that works, the rule decides."""

from pathlib import Path

import numpy as np
import pytest

from policies.baselines.joint import JointBidder
from policies.catalogue import POLICIES
from policies.features import CLAMP, FEATURE_COUNT, UNITS
from policies.maccs.actor import INPUT, OUTPUT, Actor, ActorError, actor_path
from policies.maccs.actor_card import RESIDUAL_SCALES, ActorCard, Fallback, FallbackReason, Feature
from policies.maccs.actor_file import model_bytes, read_model
from policies.maccs.task_actor import PART, GuardedResidual, bidder_of, load_task_actor
from policies.maccs.task_bidder import RESIDUAL_MAX, ResidualBidder
from policies.maccs.task_network import TaskNetwork, drawn_network, graph_of, network_in
from testbed.learned_bids import task_network, with_task_actor

pytest.importorskip("onnx")

NETWORK = drawn_network(np.random.default_rng(4), hidden=(32, 16), is_zero=False)
ROWS = np.random.default_rng(5).uniform(-CLAMP, CLAMP, (40, FEATURE_COUNT)).astype(np.float32)
CARD = ActorCard(
    part=PART,
    features=tuple(Feature(name, unit) for name, unit in UNITS.items()),
    clamp=CLAMP,
    output="f",
    output_max=RESIDUAL_MAX,
    made_by="test",
    trained_with={},
    data="none",
    weeks="none",
    first_seed=1_000_001,
    run_count=1,
    settings={},
    fit={},
    residual_scale=0.5,
)


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


def test_the_shipped_actor_can_be_asked_at_the_scale_of_its_gate() -> None:
    actor = load_task_actor()
    assert isinstance(actor, Actor), actor
    assert actor.card.residual_scale in RESIDUAL_SCALES
    assert np.isfinite(actor(ROWS)).all()
    bidder, guarded = bidder_of(POLICIES["rule+task"], actor)
    assert isinstance(bidder, ResidualBidder)
    assert bidder.actor == f"joint+{actor.version}"
    assert guarded is not None


def test_without_a_file_the_rule_bids(tmp_path: Path) -> None:
    missing = load_task_actor(tmp_path)
    assert isinstance(missing, Fallback)
    assert missing.reason is FallbackReason.MISSING
    bidder, guarded = bidder_of(POLICIES["rule+task"], missing)
    assert isinstance(bidder, JointBidder), "its offers compare with those of all others"
    assert guarded is None


def test_who_has_not_learned_it_does_not_ask_it(tmp_path: Path) -> None:
    actor = written(tmp_path)
    assert isinstance(bidder_of(POLICIES["rule"], actor)[0], JointBidder)
    assert with_task_actor(POLICIES["rule"], tmp_path) is POLICIES["rule"]
    assert task_network((), directory=tmp_path, scales={}) is None


def test_an_actor_that_fails_is_not_asked_again() -> None:
    calls = 0

    def fail(rows: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        raise ActorError("boom")

    guarded = GuardedResidual(Actor(CARD, "task/0", fail))
    assert guarded(ROWS[:3]).tolist() == [0.0, 0.0, 0.0]
    assert guarded(ROWS[:2]).tolist() == [0.0, 0.0]
    assert calls == 1
    assert guarded.fallback is not None
    assert guarded.fallback.reason is FallbackReason.RUNTIME


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
