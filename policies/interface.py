"""What a policy is asked. Pure; the same protocols live and in simulation.

A *bidder* ranks the options of one site: which pool, which start. It is the only protocol that an
agent needs to answer an announcement; those for batches, evictions and migrations join it here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gcos.accounting import Charge, LatePenalty
from gcos.durations import RunTime
from gcos.ids import ArtifactId, SiteId, TaskId


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


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a learned bidder sees of its options.

    Attributes:
        reference_usd: What all bidders for the task divide money by, $, above 0.
        features: (options, 24) float32, by `policies.features`; None: the site lacks a signal that
            they are made of.
    """

    reference_usd: float
    features: NDArray[np.float32] | None


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
        seen: Features of the options, for a bidder that `needs_features`; None: the announcement
            tells nothing that all bidders could measure by.
    """

    site_id: SiteId
    task_id: TaskId
    is_origin: bool
    backlog_s: float
    awarded_count: int
    now_s: float
    seen: Seen | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What a bidder chose.

    Attributes:
        index: Position in the options.
        score_ratio: By what sites are compared before their offers: the lowest wins, and J decides
            between equals. 0 where J alone decides.
        residual_usd: How much dearer than its J a learned actor ranks the option; below 0: cheaper.
            It is in the score already.
    """

    index: int
    score_ratio: float = 0.0
    residual_usd: float = 0.0


class Bidder(Protocol):
    """Ranks one site's own options for one task."""

    @property
    def actor(self) -> str:
        """Name and version; offers of different actors are compared without scores."""

    @property
    def may_start_later(self) -> bool:
        """Whether it wants to see starts later than the earliest; finding them takes time."""

    @property
    def needs_features(self) -> bool:
        """Whether it wants to see features of its options; making them takes time."""

    def choose(self, options: Sequence[Option], view: SiteView) -> Choice:
        """Choose among `options`, which are never empty."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a site offers for a task of a batch.

    Attributes:
        site_id: The bidder.
        offer_usd: Exact marginal J of the task there alone, fetches included.
        start_s: Earliest start by the site's plan, once what is missing has been fetched.
        run_time: Predicted run time there.
        fetch_usd: J of bringing each artifact that is missing; tasks of a batch that go to the same
            site share it.
    """

    site_id: SiteId
    offer_usd: float
    start_s: float
    run_time: RunTime
    fetch_usd: Mapping[ArtifactId, float]


@dataclass(frozen=True, slots=True)
class BatchTask:
    """A task that waits to be dispatched.

    Attributes:
        task_id: The task.
        gpu_count: GPUs it asks for.
        deadline_s: World instant; None: no deadline.
        late_penalty: What being late costs.
        offers: Offers of all sites that can run it, at least one.
    """

    task_id: TaskId
    gpu_count: int
    deadline_s: float | None
    late_penalty: LatePenalty
    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class FreeGpus:
    """Free GPUs at a site over time: `counts[i]` from `times_s[i]` on, the last one for ever."""

    times_s: Sequence[float]
    counts: Sequence[int]


class Dispatcher(Protocol):
    """Sends a batch of tasks to sites at once. One object for all sites of a simulation."""

    @property
    def name(self) -> str:
        """As people type it."""

    @property
    def batch_s(self) -> float:
        """Seconds from batch to batch."""

    def assign(
        self, batch: Sequence[BatchTask], free: Mapping[SiteId, FreeGpus], *, now_s: float
    ) -> Sequence[int]:
        """Return the index of the offer that each task of the batch takes."""


@dataclass(frozen=True, slots=True)
class CachedItem:
    """An artifact in a cache, as an evictor sees it. Uses are runs that needed it.

    Attributes:
        artifact_id: What.
        size_bytes: Its size.
        last_used_s: World instant of the last use.
        use_count: Uses since it arrived.
        demand: Uses at this site, each decayed with its age (`site_agent.demand`).
        rate_per_h: Uses an hour at this site, of late and over weeks.
        elsewhere: The same at all other sites together, as last heard.
        refetch_usd: J of bringing it again: egress + lambda x carbon.
        mark: What `Evictor.mark` returned when it was last used.
    """

    artifact_id: ArtifactId
    size_bytes: int
    last_used_s: float
    use_count: int
    demand: float
    rate_per_h: float
    elsewhere: float
    refetch_usd: float
    mark: float


class Evictor(Protocol):
    """Says what a cache should rather keep. One object a cache: it may remember."""

    @property
    def name(self) -> str:
        """As people type it."""

    def mark(self) -> float:
        """Return what to remember with an item that is used now."""

    def worth(self, item: CachedItem) -> float:
        """Return what keeping `item` is worth; the least goes first."""

    def evicted(self, worth: float) -> None:
        """Take note that an item of this worth went."""


@dataclass(frozen=True, slots=True)
class Loss:
    """An auction that this site lost for want of a copy.

    Attributes:
        artifact_id: What it lacked.
        saving_usd: J that the task would have saved here with the copy in place, against where it
            went; where several were lacking, this artifact's share by price of transfer.
        transfer_usd: J of bringing the copy here.
    """

    artifact_id: ArtifactId
    saving_usd: float
    transfer_usd: float


@dataclass(frozen=True, slots=True)
class Wish:
    """A copy that a migrator would like to have here.

    Attributes:
        artifact_id: What.
        worth_usd: J that it expects the copy to save while its demand lasts; what would be evicted
            for it must be worth less.
        why: In words.
    """

    artifact_id: ArtifactId
    worth_usd: float
    why: str


class Migrator(Protocol):
    """Decides which copies a site pulls ahead of need. One object a site."""

    @property
    def name(self) -> str:
        """As people type it."""

    def lost(self, losses: Sequence[Loss], *, now_s: float) -> Sequence[Wish]:
        """Learn from a lost auction; return what is worth pulling now, best first."""

    def beat(self, demand: Sequence[CachedItem], *, now_s: float) -> Sequence[Wish]:
        """Look around, once an hour of world time, at what is used elsewhere and not here."""

    def pulled(self, artifact_id: ArtifactId) -> None:
        """Take note that a copy is on its way: its wish is granted."""
