"""Trains the task actor (DESIGN section 7 G): exploring runs, then steps, again and again.

Every round a few of the training worlds are run with choices drawn from the present policy, each
beside the same world under the rule; the learner takes some steps on what came of it. Now and then
the policy is tried without drawing on worlds that it never learns from; the best so far is kept.

The ablation `central` is trained alike, on the same worlds with the same draws; its network looks
at all candidates of a task at once, as no site can.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gcos.seeds import stream
from policies.catalogue import CENTRAL
from policies.features import CLAMP, FEATURES, UNITS
from policies.maccs.actor import INPUT, OUTPUT
from policies.maccs.actor_card import Feature
from policies.maccs.task_bidder import RESIDUAL_MAX, TAU
from policies.maccs.task_network import TaskNetwork, drawn_network, graph_of
from testbed.processes import Workers
from testbed.training import checkpoints
from testbed.training.config import TaskTraining
from testbed.training.parts import Job, Trained
from testbed.training.settings import Setting
from testbed.training.task_learner import Learner, LearnerSettings, scaling_of
from testbed.training.task_rollouts import Rollout, RolloutOrder, explored, ratio_to_rule

#: Seeds of draws count up from here in each round.
_ROUND_SEEDS = 1_000_000


@dataclass(slots=True)
class _Best:
    """The policy that did best on held-out worlds so far.

    Attributes:
        network: Its weights.
        ratio: Mean of J over J under the rule, less 1.
        error: Standard error of that.
        round_count: Rounds that it had learned from.
    """

    network: TaskNetwork
    ratio: float
    error: float
    round_count: int


def train(job: Job) -> Trained:
    """Train the task actor."""
    checkpoints.one_thread()
    told = job.config.task
    held_count = max(1, round(told.held_out_ratio * len(job.settings)))
    taught, held = job.settings[:-held_count], job.settings[-held_count:]
    assert taught, "every world is held out"
    with Workers(job.job_count) as workers:
        run = _Rounds(job, told, taught, held, workers)
        best = run.all()
    return _trained(best, told)


class _Rounds:
    """One training.

    Args:
        job: What to train, and where to keep it.
        told: How.
        taught: Worlds to learn from.
        held: Worlds that judge.
        workers: Processes; a world always goes to the same one, which keeps it.
    """

    def __init__(
        self,
        job: Job,
        told: TaskTraining,
        taught: Sequence[Setting],
        held: Sequence[Setting],
        workers: Workers,
    ) -> None:
        self._job, self._told = job, told
        self._part = job.config.part
        self._taught, self._held = taught, held
        self._workers = workers
        self._settings = LearnerSettings(
            temperature=told.temperature,
            epoch_count=told.epoch_count,
            batch_count=told.batch_count,
            learning_rate=told.learning_rate,
            clip_ratio=told.clip_ratio,
            winsor_ratio=told.winsor_ratio,
            stay_weight=told.stay_weight,
        )

    def all(self) -> _Best:
        """Return the best policy of all rounds."""
        learner, best, first = self._begun()
        for number in range(first, self._told.round_count):
            rollouts = self._explore(learner.network(), number)
            step = learner.learn(rollouts, seed=self._job.config.random_seed + number)
            drawn = float(np.mean([each.joint_usd / each.rule_usd - 1.0 for each in rollouts]))
            self._job.tell(
                f"{self._part}: round {number + 1} of {self._told.round_count}: drawn choices"
                f" {drawn:+.2%} against the rule, root mean square of f {step.residual:.3f}"
            )
            for name, value in (
                ("joint_ratio/drawn", drawn),
                ("credit/mean", step.credit),
                ("credit/explained", step.explained),
                ("residual/rms", step.residual),
                ("policy/kl", step.moved),
            ):
                self._job.record(name, value, number)
            if (number + 1) % self._told.try_every == 0 or number + 1 == self._told.round_count:
                best = self._tried(learner.network(), best, number)
            self._keep(learner, best, number + 1)
        return best

    def _begun(self) -> tuple[Learner, _Best, int]:
        """Return where a training was, or its begin: f is 0, and features are scaled."""
        draws = stream(self._job.config.random_seed, "task", "weights")
        network = drawn_network(draws, hidden=self._told.hidden, sees_all=self._part == CENTRAL)
        state = checkpoints.load(self._job.directory)
        if state is None:
            rollouts = self._explore(network, -1)
            shift, gain = scaling_of(rollouts)
            network = replace(network, shift=shift, gain=gain)
        learner = Learner(
            network,
            self._settings,
            seed=self._job.config.random_seed,
            device=self._job.device,
        )
        if state is None:
            return learner, _Best(network, 0.0, 0.0, 0), 0
        learner.load(state["learner"])
        kept = {name: np.array(value) for name, value in state["best"].items()}
        best = _Best(
            TaskNetwork(**kept), state["best_ratio"], state["best_error"], state["best_round"]
        )
        return learner, best, int(state["round"])

    def _keep(self, learner: Learner, best: _Best, round_count: int) -> None:
        network = {name: array.tolist() for name, array in best.network.arrays().items()}
        state: dict[str, Any] = {
            "round": round_count,
            "learner": learner.state(),
            "best": network,
            "best_ratio": best.ratio,
            "best_error": best.error,
            "best_round": best.round_count,
        }
        checkpoints.save(self._job.directory, state)

    def _explore(self, network: TaskNetwork, number: int) -> list[Rollout]:
        """Return the runs of a round; round -1 only measures features."""
        draws = stream(self._job.config.random_seed, "task", "round", number + 1)
        count = min(self._told.run_count, len(self._taught))
        chosen = sorted(int(k) for k in draws.permutation(len(self._taught))[:count])
        orders = [
            RolloutOrder(
                self._taught[k],
                network,
                temperature=self._told.temperature,
                seed=_ROUND_SEEDS * (number + 1) + k,
            )
            for k in chosen
        ]
        return self._workers.map(explored, orders, places=chosen)

    def _tried(self, network: TaskNetwork, best: _Best, number: int) -> _Best:
        orders = [RolloutOrder(each, network, temperature=0.0, seed=0) for each in self._held]
        places = [len(self._taught) + k for k in range(len(orders))]
        ratios = self._workers.map(ratio_to_rule, orders, places=places)
        mean = float(np.mean(ratios))
        error = float(np.std(ratios) / math.sqrt(len(ratios)))
        self._job.tell(f"{self._part}: {mean:+.2%} ({error:.2%}) against the rule on held-out runs")
        self._job.record("joint_ratio/held_out", mean, number)
        if best.round_count == 0 or mean < best.ratio:
            return _Best(network, mean, error, number + 1)
        return best


def _trained(best: _Best, told: TaskTraining) -> Trained:
    network = best.network
    return Trained(
        graph=graph_of(network, input_name=INPUT, output_name=OUTPUT),
        features=tuple(
            Feature(name, UNITS[name], shift=float(shift), scale=float(gain))
            for name, shift, gain in zip(FEATURES, network.shift, network.gain, strict=True)
        ),
        clamp=CLAMP,
        output=f"f: J below the offer by {TAU:g} x reference each, 1",
        output_max=RESIDUAL_MAX,
        fit={
            "held_out_joint_ratio": best.ratio,
            "held_out_standard_error": best.error,
            "chosen_round": float(best.round_count),
        },
        settings={f"task.{name}": str(getattr(told, name)) for name in told.__slots__},
    )
