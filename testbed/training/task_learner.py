"""Learns f of the task actor from what exploring runs came to: clipped policy gradient in torch.

The policy is the softmax of scores over the sites that bid, at a temperature; each site is an agent
that sees its own candidate alone (in the ablation `central` all of them, pooled) and shares its
weights with all others. Its advantage is minus the credit, winsorised, less what a *centralised
critic* expects, which sees all candidates at once (pooled, so that their order does not matter) and
is thrown away after training: MAPPO (Yu et al., NeurIPS 2022) with the clipped objective of PPO
(Schulman et al., 2017, eq. 7). Costs are not discounted and not bootstrapped: a decision answers
for its own task, to its end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from policies.features import CLAMP, FEATURE_COUNT
from policies.maccs.task_bidder import RESIDUAL_MAX
from policies.maccs.task_network import TaskNetwork
from testbed.training.task_rollouts import Rollout

#: Standard deviation below which a feature does not vary.
_STILL: Final = 1e-3
_CRITIC_COUNT: Final = 32


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """How a batch is learned from.

    Attributes:
        temperature: Of the softmax.
        epoch_count: Times that a batch is seen.
        batch_count: Decisions of a step.
        learning_rate: Of Adam.
        clip_ratio: How far the probability of a choice may move from the one that drew it.
        winsor_ratio: Share of credits at each end that is drawn in to the next one.
        stay_weight: Weight of the mean square of f: without evidence it stays 0.
    """

    temperature: float = 0.25
    epoch_count: int = 3
    batch_count: int = 4096
    learning_rate: float = 1e-3
    clip_ratio: float = 0.2
    winsor_ratio: float = 0.01
    stay_weight: float = 0.01


def pooled(each: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return mean and maximum over the candidates of each decision, (b, 2 w).

    Args:
        each: (b, n, w), above -1: what each candidate comes to.
        mask: (b, n): who bids; what others come to changes nothing.
    """
    mean = (each * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
    most = each.masked_fill(~mask.unsqueeze(-1), -1.0).amax(1)
    return torch.cat((mean, most), 1)


class Actor(nn.Module):
    """f, as `policies.maccs.task_network` computes it."""

    shift: torch.Tensor
    gain: torch.Tensor

    def __init__(self, network: TaskNetwork) -> None:
        super().__init__()
        self.register_buffer("shift", torch.from_numpy(network.shift.copy()))
        self.register_buffer("gain", torch.from_numpy(network.gain.copy()))
        first, second = len(network.bias_1), len(network.bias_2)
        self.one = nn.Linear(FEATURE_COUNT, first, dtype=torch.float64)
        self.two = nn.Linear(first, second, dtype=torch.float64)
        self.three = nn.Linear(second, 1, dtype=torch.float64)
        self.all = nn.Parameter(torch.from_numpy(network.weight_all.copy()))
        with torch.no_grad():
            for layer, weight, bias in (
                (self.one, network.weight_1, network.bias_1),
                (self.two, network.weight_2, network.bias_2),
                (self.three, network.weight_3[np.newaxis], network.bias_3),
            ):
                layer.weight.copy_(torch.from_numpy(weight))
                layer.bias.copy_(torch.from_numpy(bias))

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return f of each candidate, (b, n); 0 where none bids.

        Args:
            features: (b, n, 24), float64.
            mask: (b, n): who bids.
        """
        scaled = ((features[mask] - self.shift) * self.gain).clamp(-CLAMP, CLAMP)
        first = torch.tanh(self.one(scaled))
        sums = self.two(first)
        if self.all.numel():
            each = first.new_zeros((*mask.shape, first.shape[1]))
            each[mask] = first
            decision = mask.nonzero()[:, 0]
            sums = sums + (pooled(each, mask) @ self.all.T)[decision]
        residuals = features.new_zeros(mask.shape)
        residuals[mask] = RESIDUAL_MAX * torch.tanh(self.three(torch.tanh(sums))).squeeze(-1)
        return residuals

    def network(self) -> TaskNetwork:
        """Return its weights."""

        def array(tensor: torch.Tensor) -> NDArray[np.float64]:
            return np.array(tensor.detach().cpu().numpy(), dtype=np.float64)

        return TaskNetwork(
            shift=array(self.shift),
            gain=array(self.gain),
            weight_1=array(self.one.weight),
            bias_1=array(self.one.bias),
            weight_2=array(self.two.weight),
            bias_2=array(self.two.bias),
            weight_all=array(self.all),
            weight_3=array(self.three.weight)[0],
            bias_3=array(self.three.bias),
        )


class Critic(nn.Module):
    """Expects the credit of a decision from all its candidates, whatever their order."""

    def __init__(self) -> None:
        super().__init__()
        width = _CRITIC_COUNT
        self.each = nn.Linear(FEATURE_COUNT, width, dtype=torch.float64)
        self.all = nn.Linear(2 * width, width, dtype=torch.float64)
        self.out = nn.Linear(width, 1, dtype=torch.float64)
        with torch.no_grad():
            self.out.weight.zero_()
            self.out.bias.zero_()

    def forward(self, scaled: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the expected credit, (b,).

        Args:
            scaled: (b, n, 24), scaled features.
            mask: (b, n): who bids.
        """
        hidden = torch.tanh(self.all(pooled(torch.tanh(self.each(scaled)), mask)))
        expected: torch.Tensor = self.out(hidden).squeeze(-1)
        return expected


@dataclass(frozen=True, slots=True)
class Step:
    """What a batch came to.

    Attributes:
        credit: Mean credit before winsorising.
        explained: Share of the credits' variance that the critic expected.
        residual: Root mean square of f.
        moved: Mean of the approximate KL divergence from the policy that drew the choices.
    """

    credit: float
    explained: float
    residual: float
    moved: float


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    features: torch.Tensor
    offers: torch.Tensor
    mask: torch.Tensor
    site: torch.Tensor
    logprob: torch.Tensor
    credit: torch.Tensor

    def at(self, chosen: torch.Tensor) -> "_Batch":
        return _Batch(
            *(
                part[chosen]
                for part in (
                    self.features,
                    self.offers,
                    self.mask,
                    self.site,
                    self.logprob,
                    self.credit,
                )
            )
        )


class Learner:
    """The actor, its critic and their optimiser.

    Args:
        network: Weights to begin with.
        settings: How it learns.
        seed: Of the critic's weights.
        device: For torch.
    """

    def __init__(
        self, network: TaskNetwork, settings: LearnerSettings, *, seed: int, device: str = "cpu"
    ) -> None:
        torch.manual_seed(seed)
        self._settings = settings
        self._device = device
        self.actor = Actor(network).to(device)
        self.critic = Critic().to(device)
        parameters = [*self.actor.parameters(), *self.critic.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)

    def network(self) -> TaskNetwork:
        """Return the actor's weights."""
        network: TaskNetwork = self.actor.network()
        return network

    def state(self) -> dict[str, Any]:
        """Return all that `load` needs to go on as if never stopped."""
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was."""
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])

    def learn(self, rollouts: Sequence[Rollout], *, seed: int) -> Step:
        """Learn from a batch of runs.

        Args:
            rollouts: What came of them.
            seed: Of the order in which decisions are seen.
        """
        draws = torch.Generator().manual_seed(seed)
        batch = _joined(rollouts, self._settings.winsor_ratio, self._device)
        count = len(batch.credit)
        moved, residual = [], []
        for _ in range(self._settings.epoch_count):
            order = torch.randperm(count, generator=draws)
            for first in range(0, count, self._settings.batch_count):
                part = batch.at(order[first : first + self._settings.batch_count])
                told = self._step(part)
                moved.append(told[0])
                residual.append(told[1])
        with torch.no_grad():
            expected = self.critic(self._scaled(batch.features), batch.mask)
            left = (batch.credit - expected).var() / batch.credit.var()
        return Step(
            credit=float(np.mean([rollout.credit.mean() for rollout in rollouts])),
            explained=1.0 - float(left),
            residual=float(np.sqrt(np.mean(residual))),
            moved=float(np.mean(moved)),
        )

    def _scaled(self, features: torch.Tensor) -> torch.Tensor:
        actor = self.actor
        return ((features - actor.shift) * actor.gain).clamp(-CLAMP, CLAMP)

    def _step(self, part: _Batch) -> tuple[float, float]:
        """Take one step; return how far the policy moved, and the mean square of f."""
        settings = self._settings
        residuals = self.actor(part.features, part.mask)
        scores = (residuals - part.offers) / settings.temperature
        logprobs = torch.log_softmax(scores, 1)
        logprob = logprobs.gather(1, part.site.unsqueeze(1)).squeeze(1)
        expected = self.critic(self._scaled(part.features), part.mask)
        advantage = (expected - part.credit).detach()
        advantage = advantage / (advantage.std() + 1e-8)
        ratio = torch.exp(logprob - part.logprob)
        low, high = 1.0 - settings.clip_ratio, 1.0 + settings.clip_ratio
        gain = torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
        square = (residuals[part.mask] ** 2).mean()
        loss = (
            -gain.mean()
            + 0.5 * ((expected - part.credit) ** 2).mean() / (part.credit.var() + 1e-8)
            + settings.stay_weight * square
        )
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*self.actor.parameters(), *self.critic.parameters()], 1.0)
        self.optimizer.step()
        with torch.no_grad():
            moved = float((ratio - 1.0 - (logprob - part.logprob)).mean())
        return moved, float(square.detach())


def scaling_of(rollouts: Sequence[Rollout]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return shift and gain of each feature, (24,); a gain of 0 where it does not vary."""
    rows = np.concatenate(
        [rollout.features[np.isfinite(rollout.offers)] for rollout in rollouts]
    ).astype(np.float64)
    spread = rows.std(0)
    gain = np.where(spread > _STILL, 1.0 / np.maximum(spread, _STILL), 0.0)
    return rows.mean(0), gain


def _joined(rollouts: Sequence[Rollout], winsor_ratio: float, device: str) -> _Batch:
    """Return all decisions of several runs; worlds of fewer sites are filled up."""
    width = max(rollout.offers.shape[1] for rollout in rollouts)

    def filled(array: NDArray[np.floating], value: float) -> NDArray[np.floating]:
        more = [(0, 0)] * array.ndim
        more[1] = (0, width - array.shape[1])
        return np.pad(array, more, constant_values=value)

    offers = np.concatenate([filled(each.offers, np.inf) for each in rollouts])
    features = np.concatenate([filled(each.features, 0.0) for each in rollouts])
    credit = np.concatenate([each.credit for each in rollouts])
    low, high = np.quantile(credit, [winsor_ratio, 1.0 - winsor_ratio])

    def tensor(array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return _Batch(
        features=tensor(features.astype(np.float64)),
        offers=tensor(offers),
        mask=tensor(np.isfinite(offers)),
        site=tensor(np.concatenate([each.site for each in rollouts])),
        logprob=tensor(np.concatenate([each.logprob for each in rollouts])),
        credit=tensor(np.clip(credit, low, high)),
    )
