"""An actor's file is used only if it is what this version asks for; else the rule is told why."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gcos.errors import InvalidRequestError
from policies.maccs.actor import BOUND_ROWS_MAX, INPUT, OUTPUT, Actor, ActorError, load_actor
from policies.maccs.actor_card import (
    ActorCard,
    Feature,
    GateResult,
)
from policies.maccs.actor_file import model_bytes, read_model, set_gate, weights_digest
from policies.maccs.fallback import Fallback, FallbackReason
from policies.maccs.network import Weights, forward, graph_of, weights_in
from tests.policies.maccs.cards import card_of

FEATURES = {"price": "log1p($)", "count": "log1p(1)", "kind": "0 or 1"}


def weights(seed: int = 0, width: int = 3, output_max: float = 15.0) -> Weights:
    draws = np.random.default_rng(seed)
    return Weights(
        shift=draws.normal(size=width),
        scale=np.array([1.5, 0.0, *draws.uniform(0.5, 2, size=width - 2)]),
        w1=draws.normal(size=(width, 4)),
        b1=draws.normal(size=4),
        w2=draws.normal(size=(4, 4)),
        b2=draws.normal(size=4),
        w3=draws.normal(size=(4, 1)),
        b3=np.array([2.0]),
        clamp=6.0,
        output_max=output_max,
    )


def card(**changes: object) -> ActorCard:
    made = card_of("artifact", FEATURES, output_max=15.0)
    return replace(made, **changes)  # type: ignore[arg-type]


def written(directory: Path, **changes: object) -> Path:
    graph = graph_of(weights(), name="artifact", input_name=INPUT, output_name=OUTPUT)
    path = directory / "artifact.onnx"
    path.write_bytes(model_bytes(graph, card(**changes)))
    return path


def loaded(path: Path) -> Actor:
    actor = load_actor(path, "artifact", FEATURES)
    assert isinstance(actor, Actor), actor
    return actor


def refusal(path: Path) -> FallbackReason:
    found = load_actor(path, "artifact", FEATURES)
    assert isinstance(found, Fallback)
    assert str(path) in found.message
    return found.reason


def test_file_and_arrays_answer_alike_for_any_number_of_rows(tmp_path: Path) -> None:
    actor = loaded(written(tmp_path))
    for count in (0, 1, 20, 500):
        rows = np.random.default_rng(count).normal(scale=10.0, size=(count, 3))
        assert actor(rows).shape == (count,)
        np.testing.assert_allclose(actor(rows), forward(weights(), rows), atol=1e-12)


def test_an_answer_stays_when_the_actor_is_asked_again(tmp_path: Path) -> None:
    """Few rows run in memory that is used again; what comes out must not."""
    actor = loaded(written(tmp_path))
    rows = np.random.default_rng(4).normal(size=(BOUND_ROWS_MAX + 1, 3))
    told = actor(rows[:20])
    kept = told.copy()
    actor(-rows[:20])
    np.testing.assert_array_equal(told, kept)
    np.testing.assert_allclose(actor(rows)[:20], kept, atol=1e-12)
    np.testing.assert_allclose(actor(rows[:BOUND_ROWS_MAX])[:20], kept, atol=1e-12)


def test_rows_are_judged_alone_whatever_stands_beside_them(tmp_path: Path) -> None:
    actor = loaded(written(tmp_path))
    rows = np.random.default_rng(1).normal(size=(50, 3))
    order = np.random.default_rng(2).permutation(50)
    np.testing.assert_array_equal(actor(rows[order]), actor(rows)[order])


def test_feature_that_never_varied_changes_nothing(tmp_path: Path) -> None:
    actor = loaded(written(tmp_path))
    rows = np.random.default_rng(3).normal(size=(5, 3))
    other = rows.copy()
    other[:, 1] = 1e9
    np.testing.assert_array_equal(actor(rows), actor(other))


def test_same_graph_and_card_are_the_same_bytes(tmp_path: Path) -> None:
    assert written(tmp_path).read_bytes() == written(tmp_path).read_bytes()
    model, told = read_model(tmp_path / "artifact.onnx")
    assert told == card()
    for found, given in zip(weights_in(model.graph), weights(), strict=True):
        np.testing.assert_array_equal(found, given)


def test_gate_changes_the_scale_and_no_weight(tmp_path: Path) -> None:
    path = written(tmp_path)
    before = weights_digest(path)
    gate = GateResult(True, 0.5, "it is better", "2023", 1, {}, ())
    set_gate(path, gate)
    assert weights_digest(path) == before
    assert loaded(path).card.residual_scale == 0.5
    assert loaded(path).card.gate == gate


def test_missing_file_is_told(tmp_path: Path) -> None:
    assert refusal(tmp_path / "artifact.onnx") is FallbackReason.MISSING


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_file_that_is_cut_is_corrupt(tmp_path: Path, keep: int) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    assert refusal(path) is FallbackReason.CORRUPT


def test_file_that_holds_something_else_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "artifact.onnx"
    path.write_bytes(b"\0" * 5000)
    assert refusal(path) is FallbackReason.CORRUPT


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": 2},
        {"part": "task"},
        {"features": (Feature("price", "log1p($)"),)},
        {"features": tuple(Feature(name, "$") for name in FEATURES)},
        {"features": tuple(Feature(n, u) for n, u in reversed(FEATURES.items()))},
    ],
)
def test_file_of_another_format_part_or_features_is_another_version(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    assert refusal(written(tmp_path, **changes)) is FallbackReason.VERSION


def test_scale_that_the_gate_never_gives_is_corrupt(tmp_path: Path) -> None:
    assert refusal(written(tmp_path, residual_scale=0.7)) is FallbackReason.CORRUPT


def test_file_without_a_card_is_corrupt_and_no_actor_to_read(tmp_path: Path) -> None:
    path = written(tmp_path)
    model, _ = read_model(path)
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    assert refusal(path) is FallbackReason.CORRUPT
    with pytest.raises(InvalidRequestError, match="no actor"):
        read_model(path)


def test_network_of_another_width_than_its_card_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "artifact.onnx"
    graph = graph_of(weights(width=5), name="x", input_name=INPUT, output_name=OUTPUT)
    path.write_bytes(model_bytes(graph, card()))
    assert refusal(path) is FallbackReason.CORRUPT


def test_network_that_answers_with_text_is_corrupt(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    path = tmp_path / "artifact.onnx"
    graph = graph_of(weights(), name="x", input_name=INPUT, output_name="numbers")
    del graph.output[:]
    graph.node.append(helper.make_node("Cast", ["numbers"], [OUTPUT], to=TensorProto.STRING))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.STRING, ["n", 1]))
    path.write_bytes(model_bytes(graph, card()))
    assert refusal(path) is FallbackReason.CORRUPT


def test_weights_that_are_no_numbers_are_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "artifact.onnx"
    broken = weights()._replace(b3=np.array([np.nan]))
    graph = graph_of(broken, name="x", input_name=INPUT, output_name=OUTPUT)
    path.write_bytes(model_bytes(graph, card()))
    assert refusal(path) is FallbackReason.CORRUPT


def test_answer_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ActorError, match="no number"):
        loaded(written(tmp_path))(np.full((2, 3), np.nan))


def test_loading_needs_neither_torch_nor_onnx_and_the_module_no_runtime(tmp_path: Path) -> None:
    path = written(tmp_path)
    code = (
        "import sys, pathlib, policies.maccs.actor as actor;"
        "assert 'onnxruntime' not in sys.modules;"
        f"found = actor.load_actor(pathlib.Path({str(path)!r}), 'artifact', {FEATURES!r});"
        "assert isinstance(found, actor.Actor), found;"
        "assert not {'torch', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
