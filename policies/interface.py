"""What a policy is asked. Pure; the same protocols live and in simulation.

A *bidder* ranks the options of one site: which pool, which start. It is the only protocol that an
agent needs to answer an announcement; those for batches, evictions and migrations join it here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gcos.accounting import Charge
from gcos.ids import SiteId, TaskId


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
class SiteView:
    """What a bidder may know of its own site beside the options.

    Attributes:
        site_id: The site.
        task_id: The task that is announced.
        is_origin: The task was submitted here.
        backlog_s: Predicted GPU seconds of all that runs and waits, over the GPUs of the site.
        awarded_count: Awards that the site has accepted.
        now_s: World instant.
    """

    site_id: SiteId
    task_id: TaskId
    is_origin: bool
    backlog_s: float
    awarded_count: int
    now_s: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What a bidder chose.

    Attributes:
        index: Position in the options.
        score_ratio: By what sites are compared before their offers: the lowest wins, and J decides
            between equals. 0 where J alone decides.
    """

    index: int
    score_ratio: float = 0.0


class Bidder(Protocol):
    """Ranks one site's own options for one task."""

    @property
    def actor(self) -> str:
        """Name and version; offers of different actors are compared without scores."""

    @property
    def may_start_later(self) -> bool:
        """Whether it wants to see starts later than the earliest; finding them takes time."""

    def choose(self, options: Sequence[Option], view: SiteView) -> Choice:
        """Choose among `options`, which are never empty."""
