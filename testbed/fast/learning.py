"""A learned bidder in the arrays of a run, and what a run that explores tells."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.maccs.task_network import TaskNetwork
from testbed.fast.layout import Floats, Records, State


@dataclass(frozen=True, slots=True)
class LearnedBids:
    """How offers are corrected (`policies.maccs.task_bidder`), and how a run explores for training.

    Attributes:
        network: f.
        scale: Its weight; 0: offers alone decide.
        temperature: Of the softmax over scores that choices are drawn from; 0: the best is chosen.
        seed: Of the draws.
    """

    network: TaskNetwork
    scale: float = 1.0
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What a run tells of its t auctions of k tasks at n sites.

    Attributes:
        auctions: (t,), by `testbed.fast.layout.TOLD`.
        offers: (t, n): J over TAU x reference; infinite where a site does not bid.
        features: (t, n, 24).
        tasks: (k,), by `testbed.fast.layout.TASK`: what became of each task.
    """

    auctions: Records
    offers: Floats
    features: NDArray[np.float32]
    tasks: Records


def with_network(state: State, learned: LearnedBids, *, is_told: bool) -> State:
    """Return the arrays with the network in its place."""
    top = state.g[0]
    top["has_actor"] = True
    top["residual_scale"] = learned.scale
    top["temperature"] = learned.temperature
    top["exploration_seed"] = learned.seed
    top["is_told"] = is_told
    network = learned.network
    weights = {name: np.ascontiguousarray(getattr(network, name)) for name in network.__slots__}
    return state._replace(
        **weights,
        hidden_1=np.zeros((len(state.sites), len(network.bias_1))),
        pooled=np.zeros(network.weight_all.shape[1]),
        hidden_2=np.zeros(len(network.bias_2)),
    )


def with_more_told(state: State) -> State:
    """Return the arrays with room for as many auctions again as there are tasks."""
    more = len(state.tasks)
    return state._replace(
        told=_longer(state.told, more),
        told_offers=_longer(state.told_offers, more),
        told_features=_longer(state.told_features, more),
    )


def told_of(state: State) -> Told:
    """Return what a run has told."""
    count = int(state.g[0]["told_count"])
    return Told(
        state.told[:count],
        offers=state.told_offers[:count],
        features=state.told_features[:count],
        tasks=state.tasks,
    )


def _longer(array: Records, more: int) -> Records:
    return np.concatenate((array, np.zeros((more, *array.shape[1:]), array.dtype)))
