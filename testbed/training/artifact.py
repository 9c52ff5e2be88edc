"""Trains the artifact actor: a 16-16-16-1 tanh network on labels of past weeks (DESIGN 7 F).

    minimise  sum_n w_n (f(z_n) - y_n)^2 / sum_n w_n        w_n = x_n, within `_WEIGHT_USD`

with y the saving that came over the price x, 0 to 15: an error about a dear copy costs more. Adam
with decoupled weight decay (Loshchilov and Hutter, 2019), its rate falling as half a cosine. Of all
epochs the one is kept that is best on the runs held out. 64-bit, and each epoch's order is drawn
from its number, so that a fit that was interrupted ends with the same weights.
"""

import math
from dataclasses import asdict
from typing import Any, Final, cast

import numpy as np
import torch

from gcos.seeds import stream
from policies.maccs.actor import INPUT, OUTPUT
from policies.maccs.actor_card import Feature
from policies.maccs.artifact_features import CLAMP, FEATURE_COUNT, FEATURES, RATIO_MAX
from policies.maccs.copy_plan import Floats
from policies.maccs.network import HIDDEN, Weights, graph_of
from testbed.training import checkpoints
from testbed.training.artifact_labels import Labels, all_collected
from testbed.training.parts import Job, Trained

#: Prices that weights are cut off at.
_WEIGHT_USD: Final = (0.05, 20.0)
#: A feature that deviates less than this did not vary.
_LEAST_STD: Final = 1e-9
_LAYERS: Final = {
    "w1": (FEATURE_COUNT, HIDDEN),
    "b1": (HIDDEN,),
    "w2": (HIDDEN, HIDDEN),
    "b2": (HIDDEN,),
    "w3": (HIDDEN, 1),
    "b3": (1,),
}

Tensors = dict[str, Any]


def train(job: Job) -> Trained:
    """Collect labels, fit, and return the network."""
    checkpoints.one_thread()
    told = job.config.artifact
    found = all_collected(
        job.settings,
        job.directory / "labels",
        every_h=told.label_every_h,
        job_count=job.job_count,
        tell=job.tell,
    )
    held_count = max(1, round(told.held_out_ratio * len(found)))
    if len(found) > held_count:
        seen, held = Labels.joined(found[:-held_count]), Labels.joined(found[-held_count:])
    else:  # a single run has to do for both
        seen = held = Labels.joined(found)
    job.tell(f"labels: {len(seen)} to fit, {len(held)} held out")
    fit = Fit(job, seen, held)
    fit.run()
    weights = fit.best_weights()
    return Trained(
        graph=graph_of(weights, name="artifact", input_name=INPUT, output_name=OUTPUT),
        features=tuple(
            Feature(name, unit, shift=float(shift), scale=float(scale))
            for (name, unit), shift, scale in zip(
                FEATURES.items(), weights.shift, weights.scale, strict=True
            )
        ),
        clamp=CLAMP,
        output="the saving of a copy over its price, S / x",
        output_max=RATIO_MAX,
        fit=fit.figures(weights),
        settings={f"artifact.{name}": str(value) for name, value in asdict(told).items()},
    )


def forward(tensors: Tensors, inputs: Any) -> Any:
    """Return the network's output for scaled and clamped inputs, (n,), not cut off."""
    first = torch.tanh(inputs @ tensors["w1"] + tensors["b1"])
    second = torch.tanh(first @ tensors["w2"] + tensors["b2"])
    return (second @ tensors["w3"] + tensors["b3"]).reshape(-1)


def told_by(weights: Weights, rows: Floats) -> Floats:
    """Return what torch makes of rows of features: what the actor's file must say, too."""
    tensors = {name: torch.from_numpy(getattr(weights, name)) for name in _LAYERS}
    shifted = (torch.from_numpy(rows) - torch.from_numpy(weights.shift)) * torch.from_numpy(
        weights.scale
    )
    outputs = forward(tensors, shifted.clamp(-weights.clamp, weights.clamp))
    return cast(Floats, outputs.clamp(0.0, weights.output_max).numpy())


class Fit:
    """One fit, which can stop after any epoch and go on.

    Args:
        job: What it was told.
        seen: What it is fitted to.
        held: What judges it.
    """

    def __init__(self, job: Job, seen: Labels, held: Labels) -> None:
        self._job = job
        self._told = job.config.artifact
        self._held = held
        std = seen.rows.std(axis=0)
        self._shift = seen.rows.mean(axis=0)
        self._scale = np.where(std > _LEAST_STD, 1.0 / np.maximum(std, _LEAST_STD), 0.0)
        self._seen_data = self._tensors_of(seen)
        self._held_data = self._tensors_of(held)
        self._tensors = self._begun(float(seen.ratio.mean()))
        self._optimiser = torch.optim.AdamW(
            list(self._tensors.values()),
            lr=self._told.learning_rate,
            weight_decay=self._told.weight_decay,
        )
        self._epoch = 0
        self._best_loss = math.inf
        self._best: Tensors = self._copied()
        self._restore()

    def _tensors_of(self, labels: Labels) -> tuple[Any, Any, Any]:
        inputs = np.clip((labels.rows - self._shift) * self._scale, -CLAMP, CLAMP)
        weight = weights_of(labels)
        return tuple(
            torch.from_numpy(array).to(self._job.device) for array in (inputs, labels.ratio, weight)
        )

    def _begun(self, mean: float) -> Tensors:
        draws = stream(self._job.config.random_seed, "artifact", "weights")
        tensors = {}
        for name, shape in _LAYERS.items():
            # Glorot and Bengio (2010); at first all outputs are near the mean of the labels.
            limit = math.sqrt(6.0 / sum(shape)) if len(shape) == 2 else 0.0
            array = draws.uniform(-limit, limit, size=shape)
            if name == "b3":
                array[:] = mean
            tensor = torch.from_numpy(array).to(self._job.device)
            tensors[name] = tensor.requires_grad_(True)
        return tensors

    def _copied(self) -> Tensors:
        return {name: tensor.detach().cpu().clone() for name, tensor in self._tensors.items()}

    def run(self) -> None:
        """Fit all epochs that are left."""
        while self._epoch < self._told.epoch_count:
            self.step()

    def step(self) -> None:
        """Fit one epoch, and write the checkpoint."""
        inputs, labels, weight = self._seen_data
        count = len(labels)
        draws = stream(self._job.config.random_seed, "artifact", "epoch", self._epoch)
        order = torch.from_numpy(draws.permutation(count)).to(self._job.device)
        batches = max(1, math.ceil(count / self._told.batch_count))
        total = 0.0
        for index in range(batches):
            done = (self._epoch + index / batches) / self._told.epoch_count
            for group in self._optimiser.param_groups:
                group["lr"] = self._told.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
            batch = order[index * self._told.batch_count : (index + 1) * self._told.batch_count]
            loss = loss_of(forward(self._tensors, inputs[batch]), labels[batch], weight[batch])
            self._optimiser.zero_grad()
            loss.backward()
            self._optimiser.step()
            total += float(loss.detach())
        self._epoch += 1
        with torch.no_grad():
            inputs, labels, weight = self._held_data
            held = float(loss_of(forward(self._tensors, inputs), labels, weight))
        if held < self._best_loss:
            self._best_loss, self._best = held, self._copied()
        self._job.record("loss/seen", total / batches, self._epoch)
        self._job.record("loss/held", held, self._epoch)
        self._job.tell(
            f"epoch {self._epoch} of {self._told.epoch_count}:"
            f" error {total / batches:.4f}, held out {held:.4f}"
        )
        checkpoints.save(
            self._job.directory,
            {
                "epoch": self._epoch,
                "tensors": self._copied(),
                "optimiser": self._optimiser.state_dict(),
                "best_loss": self._best_loss,
                "best": self._best,
            },
        )

    def _restore(self) -> None:
        state = checkpoints.load(self._job.directory)
        if state is None:
            return
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(state["tensors"][name])
        self._optimiser.load_state_dict(state["optimiser"])
        self._epoch = state["epoch"]
        self._best_loss, self._best = state["best_loss"], state["best"]
        self._job.tell(f"goes on after epoch {self._epoch}")

    def best_weights(self) -> Weights:
        """Return the weights that were best on the runs held out."""
        arrays = {name: tensor.numpy() for name, tensor in self._best.items()}
        return Weights(self._shift, self._scale, **arrays, clamp=CLAMP, output_max=RATIO_MAX)

    def figures(self, weights: Weights) -> dict[str, float]:
        """Return how far from what came the network is, on the runs held out, and the plan."""
        held = self._held
        share = weights_of(held) / weights_of(held).sum()
        plain = np.clip(held.plain, 0.0, RATIO_MAX)
        told = told_by(weights, held.rows)
        mean = float(share @ held.ratio)

        def error(expected: Floats | float) -> float:
            return float(share @ (expected - held.ratio) ** 2)

        return {
            "labels_seen": float(len(self._seen_data[1])),
            "labels_held_out": float(len(held)),
            "error_of_mean": error(mean),
            "error_of_plan": error(plain),
            "error_of_network": error(told),
            "error_of_half": error(0.5 * (plain + told)),
            "mean_came": mean,
            "mean_of_plan": float(share @ plain),
            "mean_of_network": float(share @ told),
        }


def weights_of(labels: Labels) -> Floats:
    """Return the weight of each candidate's error: the price of its copy, within limits."""
    return np.clip(labels.price_usd, *_WEIGHT_USD)


def loss_of(outputs: Any, labels: Any, weight: Any) -> Any:
    """Return the weighted mean of squared errors."""
    return (weight * (outputs - labels) ** 2).sum() / weight.sum()
