"""A training gives the same weights every time, interrupted or not, and its file says the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from policies.maccs.actor import INPUT, OUTPUT, Actor, actor_path, load_actor  # noqa: E402
from policies.maccs.actor_file import model_bytes  # noqa: E402
from policies.maccs.artifact_features import FEATURE_COUNT, FEATURES, RATIO_MAX  # noqa: E402
from policies.maccs.network import Weights, forward, graph_of  # noqa: E402
from testbed.training import artifact  # noqa: E402
from testbed.training.artifact import Fit, told_by  # noqa: E402
from testbed.training.artifact_labels import Labels  # noqa: E402
from testbed.training.config import ArtifactTraining, TrainConfig  # noqa: E402
from testbed.training.parts import Job, Trained  # noqa: E402
from testbed.training.run import card_of  # noqa: E402
from testbed.training.settings import settings_of  # noqa: E402


def labels(seed: int, count: int = 400) -> Labels:
    draws = np.random.default_rng(seed)
    rows = draws.uniform(0, 3, size=(count, FEATURE_COUNT))
    rows[:, 15] = 5.0  # never varies
    ratio = np.clip(rows[:, 0] * 2 - rows[:, 4] + draws.normal(size=count), 0, RATIO_MAX)
    return Labels(rows, ratio, plain=rows[:, 0], price_usd=draws.uniform(0, 5, size=count))


def job(directory: Path, told: list[tuple[str, float, int]] | None = None) -> Job:
    def record(name: str, value: float, step: int) -> None:
        if told is not None:
            told.append((name, value, step))

    directory.mkdir(exist_ok=True)
    config = TrainConfig("artifact", artifact=ArtifactTraining(epoch_count=4, batch_count=64))
    return Job(
        config,
        settings=(),
        directory=directory,
        job_count=1,
        device="cpu",
        tell=lambda _line: None,
        record=record,
    )


def fitted(directory: Path) -> Weights:
    fit = Fit(job(directory), labels(1), labels(2))
    fit.run()
    return fit.best_weights()


def same(first: Weights, second: Weights) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_same_labels_give_the_same_weights(tmp_path: Path) -> None:
    assert same(fitted(tmp_path / "a"), fitted(tmp_path / "b"))


def test_fit_that_was_interrupted_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = fitted(tmp_path / "whole")
    told: list[tuple[str, float, int]] = []
    part = Fit(job(tmp_path / "part", told), labels(1), labels(2))
    part.step()
    part.step()
    again = Fit(job(tmp_path / "part", told), labels(1), labels(2))
    again.run()
    assert same(again.best_weights(), whole)
    assert [step for name, _, step in told if name == "loss/held"] == [1, 2, 3, 4]


def test_fit_learns_and_looks_at_nothing_that_never_varied(tmp_path: Path) -> None:
    fit = Fit(job(tmp_path / "a"), labels(1), labels(2))
    fit.run()
    weights = fit.best_weights()
    figures = fit.figures(weights)
    assert figures["error_of_network"] < figures["error_of_mean"]
    assert weights.scale[15] == 0.0
    assert (weights.scale[:15] > 0).all()


def test_torch_file_and_compiled_arithmetic_say_the_same(tmp_path: Path) -> None:
    weights = fitted(tmp_path / "a")
    trained = Trained(
        graph_of(weights, name="artifact", input_name=INPUT, output_name=OUTPUT),
        features=tuple(card_features()),
        clamp=weights.clamp,
        output="",
        output_max=RATIO_MAX,
        fit={},
    )
    path = actor_path("artifact", tmp_path)
    path.write_bytes(model_bytes(trained.graph, card_of(TrainConfig("artifact"), trained)))
    actor = load_actor(path, "artifact", FEATURES)
    assert isinstance(actor, Actor)
    for count in (5, 8, 20, 1000):
        rows = np.random.default_rng(count).uniform(-2, 20, size=(count, FEATURE_COUNT))
        np.testing.assert_allclose(actor(rows), told_by(weights, rows), rtol=0, atol=1e-6)
        np.testing.assert_allclose(forward(weights, rows), told_by(weights, rows), atol=1e-6)


def card_features() -> list[Any]:
    from policies.maccs.actor_card import Feature

    return [Feature(name, unit) for name, unit in FEATURES.items()]


def test_settings_are_drawn_alike_and_differ_between_runs() -> None:
    config = TrainConfig("artifact", run_count=6)
    drawn = settings_of(config)
    assert drawn == settings_of(config)
    assert [each.seed for each in drawn] == list(range(1_000_001, 1_000_007))
    counts = {len(each.scenario.site) for each in drawn}
    assert len(counts) > 1
    assert all(0.3 <= each.scenario.workload.load <= 0.85 for each in drawn)
    assert artifact.weights_of(labels(3)).min() >= 0.05
