"""The task actor is learned from what its decisions came to, alike every time."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from gcos.accounting import S_PER_H
from gcos.config import load
from gcos.seeds import stream
from policies.catalogue import CENTRAL
from testbed.training.commands import shipped_config

torch = pytest.importorskip("torch")

from policies.features import CLAMP, FEATURE_COUNT, FEATURES  # noqa: E402
from policies.maccs.task_bidder import RESIDUAL_MAX  # noqa: E402
from policies.maccs.task_network import TaskNetwork, drawn_network, network_in  # noqa: E402
from testbed.fast.layout import TASK  # noqa: E402
from testbed.scenarios import load_scenario  # noqa: E402
from testbed.training.checkpoints import one_thread  # noqa: E402
from testbed.training.config import TaskTraining, TrainConfig  # noqa: E402
from testbed.training.parts import Job, Trained  # noqa: E402
from testbed.training.settings import Setting  # noqa: E402
from testbed.training.task import train  # noqa: E402
from testbed.training.task_learner import (  # noqa: E402
    Actor,
    Critic,
    Learner,
    LearnerSettings,
    scaling_of,
)
from testbed.training.task_rollouts import Rollout, displacement_usd  # noqa: E402

WEEK_S = datetime(2026, 3, 2, tzinfo=UTC).timestamp()
CONFIG = TrainConfig(
    part="task",
    run_count=4,
    task=TaskTraining(
        round_count=2, run_count=2, try_every=2, hidden=(8, 4), batch_count=256, learning_rate=1e-2
    ),
)
NETWORK = drawn_network(np.random.default_rng(1), hidden=(8, 4), is_zero=False)
ALL = drawn_network(np.random.default_rng(1), hidden=(8, 4), sees_all=True, is_zero=False)
SETTINGS = LearnerSettings(learning_rate=1e-2, batch_count=256, stay_weight=0.0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    one_thread()


def rollout(seed: int, *, site_count: int = 3) -> Rollout:
    """Return decisions between equal offers, of which those with a high first feature cost more."""
    draws = np.random.default_rng(seed)
    count = 384
    features = draws.normal(size=(count, site_count, FEATURE_COUNT)).astype(np.float32)
    offers = np.zeros((count, site_count))
    offers[::7, -1] = np.inf
    features[::7, -1] = 0.0
    site = draws.integers(0, site_count - 1, count)
    logprob = -np.log(np.isfinite(offers).sum(axis=1))
    credit = features[np.arange(count), site, 0] + draws.normal(size=count)
    return Rollout(features, offers, site, logprob, credit.astype(np.float64), 1.0, 1.0)


def preference(network: object, rows: np.ndarray) -> float:
    """Return how f and the first feature go together."""
    assert callable(network)
    return float(np.corrcoef(network(rows), rows[:, 0])[0, 1])


@pytest.mark.parametrize("network", [NETWORK, ALL], ids=["task", "central"])
def test_torch_and_arrays_compute_the_same(network: TaskNetwork) -> None:
    """Whatever stands where nobody bids, and however many such places there are."""
    draws = np.random.default_rng(2)
    rows = draws.normal(0, 5, (30, 7, FEATURE_COUNT)).astype(np.float32)
    mask = draws.random((30, 7)) < 0.6
    mask[:, 3] = True
    actor = Actor(network)
    with torch.no_grad():
        told = actor(torch.from_numpy(rows.astype(np.float64)), torch.from_numpy(mask)).numpy()
    for each, of_each, bids in zip(rows, told, mask, strict=True):
        assert of_each[bids] == pytest.approx(network(each[bids]), abs=1e-12)
        assert not of_each[~bids].any()
    again = actor.network()
    for name in network.__slots__:
        assert np.array_equal(getattr(again, name), getattr(network, name)), name
    assert np.abs(told).max() <= RESIDUAL_MAX


def test_what_costs_more_is_ranked_lower() -> None:
    learner = Learner(drawn_network(np.random.default_rng(3), hidden=(8, 4)), SETTINGS, seed=1)
    for k in range(8):
        learner.learn([rollout(2 * k), rollout(2 * k + 1, site_count=5)], seed=k)
    rows = np.random.default_rng(9).normal(size=(500, FEATURE_COUNT)).astype(np.float32)
    assert preference(learner.network(), rows) < -0.6


@pytest.mark.parametrize("sees_all", [False, True], ids=["task", "central"])
def test_learning_is_alike_every_time_and_goes_on_where_it_stopped(sees_all: bool) -> None:
    draws = np.random.default_rng(3)
    network = drawn_network(draws, hidden=(8, 4), sees_all=sees_all)

    def begun() -> Learner:
        return Learner(network, SETTINGS, seed=1)

    one, other = begun(), begun()
    one.learn([rollout(0)], seed=0)
    other.learn([rollout(0)], seed=0)
    resumed = Learner(ALL if sees_all else NETWORK, SETTINGS, seed=5)
    resumed.load(other.state())
    one.learn([rollout(1)], seed=1)
    resumed.learn([rollout(1)], seed=1)
    for name in NETWORK.__slots__:
        assert np.array_equal(getattr(one.network(), name), getattr(resumed.network(), name)), name


def test_the_critic_does_not_care_about_the_order_of_candidates() -> None:
    torch.manual_seed(0)
    critic = Critic()
    with torch.no_grad():
        critic.out.weight.normal_()
        rows = torch.randn(4, 6, FEATURE_COUNT, dtype=torch.float64)
        mask = torch.ones(4, 6, dtype=torch.bool)
        mask[:, 4:] = False
        order = torch.tensor([3, 5, 0, 2, 4, 1])
        told = critic(rows, mask)
        assert torch.allclose(told, critic(rows[:, order], mask[:, order]), atol=1e-12)
        assert torch.allclose(told, critic(rows[:, :4], mask[:, :4]), atol=1e-12)


def test_what_does_not_vary_is_not_looked_at() -> None:
    still = rollout(0)
    still.features[:, :, 5] = 0.25
    shift, gain = scaling_of([still])
    assert (gain[5], shift[5]) == (0.0, pytest.approx(0.25))
    other = replace(NETWORK, shift=shift, gain=gain)
    rows = np.zeros((2, FEATURE_COUNT), np.float32)
    rows[1, 5] = CLAMP
    assert other(rows)[0] == other(rows)[1]


def test_those_who_held_gpus_while_another_waited_share_its_penalty() -> None:
    """Task 2 waits an hour for 3 GPUs that task 0 (2 of them) and task 1 (1) hold."""
    tasks = np.zeros(4, TASK)
    tasks["gpu_count"] = [2, 1, 1, 4]
    tasks["site"] = [0, 0, 0, 1]
    tasks["began_s"] = [0.0, 0.0, S_PER_H, 0.0]
    tasks["staged_s"] = [0.0, 0.0, 0.0, 0.0]
    tasks["ended_s"] = [S_PER_H, S_PER_H, 2 * S_PER_H, 9 * S_PER_H]
    tasks["deadline_s"] = [9e9, 9e9, 1.5 * S_PER_H, 9e9]
    tasks["penalty_usd"], tasks["penalty_usd_per_h"], tasks["penalty_cap_h"] = 5.0, 2.0, 4.0
    assert displacement_usd(tasks).tolist() == pytest.approx([4.0, 2.0, 0.0, 0.0])


def test_a_task_that_is_late_by_itself_is_nobodys_fault() -> None:
    tasks = np.zeros(2, TASK)
    tasks["gpu_count"] = 1
    tasks["ended_s"] = [S_PER_H, 5 * S_PER_H]
    tasks["deadline_s"] = [9e9, S_PER_H]
    tasks["penalty_usd"], tasks["penalty_cap_h"] = 5.0, 4.0
    assert displacement_usd(tasks).tolist() == [0.0, 0.0]


def short_settings() -> list[Setting]:
    """Return four worlds of some hours, one of them without three of its sites."""
    scenario = replace(load_scenario("default"), warmup_h=1, measure_h=5)
    few = replace(scenario, site=scenario.site[:5])
    return [
        Setting(few if seed == 2 else scenario, None, WEEK_S, 1_000_001 + seed) for seed in range(4)
    ]


def trained(
    directory: Path, *, part: str = "task", job_count: int = 1, round_count: int = 2
) -> tuple[Trained, list[str]]:
    directory.mkdir(exist_ok=True)
    lines: list[str] = []
    task = replace(CONFIG.task, round_count=round_count)
    job = Job(
        replace(CONFIG, part=part, task=task),
        settings=short_settings(),
        directory=directory,
        job_count=job_count,
        device="cpu",
        tell=lines.append,
        record=lambda name, value, step: None,
    )
    return train(job), lines


def test_training_is_alike_when_it_was_interrupted(tmp_path: Path) -> None:
    whole, told = trained(tmp_path / "whole")
    assert sum("round" in line for line in told) == 2
    trained(tmp_path / "part", round_count=1)
    resumed, told = trained(tmp_path / "part")
    assert sum("round" in line for line in told) == 1, "the first round is not made again"
    assert resumed.graph.SerializeToString() != b""
    assert whole.fit["chosen_round"] >= 1
    network = network_in(whole.graph)
    assert network.weight_3.any(), "it learned something"
    found = dict(zip(FEATURES, whole.features, strict=True))
    assert found["gpu_ratio"].scale == 0.0, "GPU hours cost nothing in this scope"
    assert found["offer_ratio"].scale > 0.0


def test_the_ablation_is_trained_alike_on_the_same(tmp_path: Path) -> None:
    """Its first round explores as the task actor's does: both are 0 then."""
    one, told = trained(tmp_path / "one", part=CENTRAL, round_count=1)
    other, _ = trained(tmp_path / "other", part=CENTRAL, round_count=1)
    assert one.graph.SerializeToString() == other.graph.SerializeToString()
    task, alone = trained(tmp_path / "task", round_count=1)
    drawn = [line.split(": ", 1)[1].split(", root")[0] for line in (told[0], alone[0])]
    assert drawn[0] == drawn[1]
    network = network_in(one.graph)
    begun = drawn_network(
        stream(CONFIG.random_seed, "task", "weights"), hidden=(8, 4), sees_all=True
    )
    assert network.sees_all
    assert not np.array_equal(network.weight_all, begun.weight_all), "it learned to look at all"
    assert not network_in(task.graph).sees_all
    shipped = [load(TrainConfig, shipped_config(part), environ={}) for part in ("task", CENTRAL)]
    assert replace(shipped[1], part="task") == shipped[0]


@pytest.mark.soak
def test_any_number_of_workers_trains_alike(tmp_path: Path) -> None:
    one, _ = trained(tmp_path / "one")
    two, _ = trained(tmp_path / "two", job_count=2)
    assert one.graph.SerializeToString() == two.graph.SerializeToString()
