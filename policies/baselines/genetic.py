"""Dispatches a batch by a genetic algorithm. Pure; randomness is handed in.

A plan is a way for every task (`policies.batch`). Tournament selection, uniform crossover and
mutation of single genes, with the best plan kept (Goldberg, "Genetic Algorithms in Search,
Optimization and Machine Learning", 1989); the first generation goes from what `joint` would do to
plans drawn anew.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gcos.ids import SiteId
from policies.batch import Batch, batch_of
from policies.interface import BatchTask, FreeGpus

#: Not tuned: small batches converge within these.
_PLAN_COUNT: Final = 40
_GENERATION_COUNT: Final = 40
_MUTATION_RATIO: Final = 0.1


class GeneticDispatcher:
    """Searches plans of a batch by crossing and mutating them."""

    name = "genetic"

    def __init__(self, draws: np.random.Generator) -> None:
        self._draws = draws

    def assign(
        self, batch: Sequence[BatchTask], free: Mapping[SiteId, FreeGpus], *, now_s: float
    ) -> Sequence[int]:
        """Return the index of the offer that each task of the batch takes."""
        ways = batch_of(batch, free, now_s=now_s)
        return [int(ways.offer[way]) for way in self._best(ways)]

    def _best(self, batch: Batch) -> NDArray[np.int64]:
        draws, count = self._draws, len(batch.first) - 1
        low, high = batch.first[:-1], batch.first[1:]
        plans = np.repeat(batch.alone()[np.newaxis], _PLAN_COUNT, axis=0)
        drawn = draws.integers(low, high, size=plans.shape)
        # From what `joint` does, untouched, to a plan drawn all anew.
        mutated = draws.random(plans.shape) < np.linspace(0.0, 1.0, _PLAN_COUNT)[:, np.newaxis]
        plans = np.where(mutated, drawn, plans)
        usd = batch.joint_usd(plans)
        for _ in range(_GENERATION_COUNT):
            parents = [self._winners(usd) for _ in range(2)]
            is_first = draws.random((_PLAN_COUNT, count)) < 0.5
            children = np.where(is_first, plans[parents[0]], plans[parents[1]])
            mutated = draws.random((_PLAN_COUNT, count)) < _MUTATION_RATIO
            children = np.where(mutated, draws.integers(low, high, size=children.shape), children)
            children[0] = plans[np.argmin(usd)]
            plans, usd = children, batch.joint_usd(children)
        return np.asarray(plans[np.argmin(usd)])

    def _winners(self, usd: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the better of two drawn plans, once for each plan of the next generation."""
        pairs = self._draws.integers(0, len(usd), size=(len(usd), 2))
        return np.where(usd[pairs[:, 0]] <= usd[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
