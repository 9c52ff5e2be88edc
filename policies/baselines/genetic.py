"""Dispatches a batch by a genetic algorithm. Pure; randomness is handed in.

A plan is a way for every task (`policies.batch`). Tournament selection, uniform crossover and
mutation of single genes, with the best plan kept (Goldberg, "Genetic Algorithms in Search,
Optimization and Machine Learning", 1989); the first generation goes from what `joint` would do to
plans drawn anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gcos.ids import SiteId
from policies.batch import Batch, Horizon, batch_of
from policies.interface import BatchTask, FreeGpus


@dataclass(frozen=True, slots=True)
class Breeding:
    """How much is searched, and how far.

    Attributes:
        plan_count: Plans of a generation.
        generation_count: Generations.
        mutation_ratio: Share of genes that are drawn anew.
    """

    plan_count: int = 40
    generation_count: int = 40
    mutation_ratio: float = 0.1


#: Held against other values on training weeks (`testbed.tuning`).
DEFAULT_HORIZON: Final = Horizon()
DEFAULT_BREEDING: Final = Breeding()


class GeneticDispatcher:
    """Searches plans of a batch by crossing and mutating them.

    Args:
        draws: Source of chance.
        horizon: What of the future counts.
        breeding: How much is searched.
    """

    name = "genetic"

    def __init__(
        self,
        draws: np.random.Generator,
        horizon: Horizon = DEFAULT_HORIZON,
        breeding: Breeding = DEFAULT_BREEDING,
    ) -> None:
        self.batch_s = horizon.batch_s
        self._draws = draws
        self._horizon = horizon
        self._breeding = breeding

    def assign(
        self, batch: Sequence[BatchTask], free: Mapping[SiteId, FreeGpus], *, now_s: float
    ) -> Sequence[int]:
        """Return the index of the offer that each task of the batch takes."""
        ways = batch_of(batch, free, self._horizon, now_s=now_s)
        return [int(ways.offer[way]) for way in self._best(ways)]

    def _best(self, batch: Batch) -> NDArray[np.int64]:
        draws, count = self._draws, len(batch.first) - 1
        plan_count, mutation_ratio = self._breeding.plan_count, self._breeding.mutation_ratio
        low, high = batch.first[:-1], batch.first[1:]
        plans = np.repeat(batch.alone()[np.newaxis], plan_count, axis=0)
        drawn = draws.integers(low, high, size=plans.shape)
        # From what `joint` does, untouched, to a plan drawn all anew.
        mutated = draws.random(plans.shape) < np.linspace(0.0, 1.0, plan_count)[:, np.newaxis]
        plans = np.where(mutated, drawn, plans)
        usd = batch.joint_usd(plans)
        for _ in range(self._breeding.generation_count):
            parents = [self._winners(usd) for _ in range(2)]
            is_first = draws.random((plan_count, count)) < 0.5
            children = np.where(is_first, plans[parents[0]], plans[parents[1]])
            mutated = draws.random((plan_count, count)) < mutation_ratio
            children = np.where(mutated, draws.integers(low, high, size=children.shape), children)
            children[0] = plans[np.argmin(usd)]
            plans, usd = children, batch.joint_usd(children)
        return np.asarray(plans[np.argmin(usd)])

    def _winners(self, usd: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the better of two drawn plans, once for each plan of the next generation."""
        pairs = self._draws.integers(0, len(usd), size=(len(usd), 2))
        return np.where(usd[pairs[:, 0]] <= usd[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
