"""What a policy is asked. Pure; the same protocols live and in simulation.

A *bidder* ranks the options of one site: which pool, which start. It is the only protocol that an
agent needs to answer an announcement; those for batches, evictions and migrations join it here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gcos.accounting import Charge


@dataclass(frozen=True, slots=True)
class Option:
    """One way in which a site could run a task.

    Attributes:
        pool_type: Which pool.
        start_s: World instant of the start.
        is_earliest: No earlier start is feasible in this pool.
        offer_usd: Exact marginal J: expected cost + lambda x carbon.
        charge: Expected cost and carbon by item.
        p50_finish_s: World instant, median.
        p90_finish_s: World instant, 90 % quantile.
        late_probability: P(finish > deadline); 0 without a deadline.
        p90_cost_usd: Cost at the run time's p90, in the terms' scope, without penalty.
        p90_carbon_gco2: Carbon at the run time's p90.
    """

    pool_type: str
    start_s: float
    is_earliest: bool
    offer_usd: float
    charge: Charge
    p50_finish_s: float
    p90_finish_s: float
    late_probability: float
    p90_cost_usd: float
    p90_carbon_gco2: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What a bidder chose.

    Attributes:
        index: Position in the options.
        score_ratio: What the actor adds to the comparison between sites; 0 for rules.
    """

    index: int
    score_ratio: float = 0.0


class Bidder(Protocol):
    """Ranks one site's own options for one task."""

    @property
    def actor(self) -> str:
        """Name and version; offers of different actors are compared without scores."""

    def choose(self, options: Sequence[Option]) -> Choice:
        """Choose among `options`, which are never empty."""
