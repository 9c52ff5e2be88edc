"""A simulation that stops at each auction and asks who is to win it.

This is the seam between environments and simulators: `Decisions` is all that the Gymnasium and the
PettingZoo face know, so another engine that can stop at a decision may take the place of
`SimulatedDecisions`, which steps the event-driven simulator.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gcos.accounting import Charge
from gcos.ids import SiteId
from policies.catalogue import Policy
from policies.features import features_of, reference_usd
from site_agent.site_state import StateOfSite
from testbed.sim.cache_modes import CacheMode
from testbed.sim.instance import Instance
from testbed.sim.simulation import OpenAuction, Simulation


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """An offer.

    Attributes:
        site_id: Whose.
        offer_usd: J, the exact marginal cost of the task there.
        features: (24,) float32, `policies.features.FEATURES`.
    """

    site_id: SiteId
    offer_usd: float
    features: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """An auction that waits.

    Attributes:
        task_id: What is auctioned.
        now_s: World instant.
        reference_usd: What all candidates divide money by, $.
        candidates: Offers, at least one, sorted by site.
    """

    task_id: str
    now_s: float
    reference_usd: float
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Booked:
    """J that was charged.

    Attributes:
        site_id: Where the run, the copy or the target of the transfer was.
        task_id: For which task; None: for none alone (storage, copies ahead of need).
        joint_usd: How much, $.
    """

    site_id: SiteId
    task_id: str | None
    joint_usd: float


class Decisions(Protocol):
    """A run that stops at each decision."""

    @property
    def site_ids(self) -> tuple[SiteId, ...]:
        """All sites, sorted."""

    def advance(self) -> Decision | None:
        """Let time pass up to the next decision; None: the run has ended, and all is charged."""

    def decide(self, scores: Mapping[SiteId, float]) -> None:
        """Settle the decision: the highest score wins, and the lowest J of equal ones.

        Sites without a score have 0.
        """

    def take_booked(self) -> list[Booked]:
        """Return what was charged since the last call."""


class SimulatedDecisions:
    """The event-driven simulator, stepped from auction to auction.

    Args:
        instance: The world.
        policy: Makes the offers, and whatever a policy does beside choosing among them.
        mode: Which caches there are.
    """

    def __init__(
        self, instance: Instance, policy: Policy, mode: CacheMode = CacheMode.DUAL
    ) -> None:
        self._instance = instance
        self._booked: list[Booked] = []
        self._open: OpenAuction | None = None
        self._has_ended = False
        self._simulation = Simulation(
            instance, policy, mode=mode, arbiter=self._stop, tell=self._book
        )
        self._simulation.begin()

    @property
    def site_ids(self) -> tuple[SiteId, ...]:
        """All sites, sorted."""
        return tuple(site.site_id for site in self._instance.sites)

    @property
    def trace_hash(self) -> str:
        """Digest of all that has happened so far."""
        return self._simulation.books.trace_hash

    def advance(self) -> Decision | None:
        """Let time pass up to the next decision; None: the run has ended, and all is charged."""
        assert self._open is None, "the last decision is still open"
        while self._simulation.engine.step():
            decision = self._decision()
            if decision is not None:
                return decision
        if not self._has_ended:
            self._has_ended = True
            self._simulation.end()
        return None

    def decide(self, scores: Mapping[SiteId, float]) -> None:
        """Settle the decision: the highest score wins, and the lowest J of equal ones."""
        waiting, self._open = self._open, None
        assert waiting is not None, "there is nothing to decide"
        auction = waiting.auction
        # In an auction the lowest score wins.
        bids = tuple(
            replace(bid, score_ratio=-float(scores.get(bid.site_id, 0.0))) for bid in auction.bids
        )
        waiting.settle(replace(auction, bids=bids))

    def take_booked(self) -> list[Booked]:
        """Return what was charged since the last call."""
        booked, self._booked = self._booked, []
        return booked

    def _stop(self, waiting: OpenAuction) -> None:
        self._open = waiting

    def _book(self, site_id: SiteId, task_id: str | None, charge: Charge) -> None:
        instance = self._instance
        joint_usd = charge.joint_usd(instance.scope, instance.carbon_price_usd_per_kg)
        self._booked.append(Booked(site_id, task_id, joint_usd))

    def _decision(self) -> Decision | None:
        waiting = self._open
        if waiting is None:
            return None
        now_s = self._simulation.engine.now_s
        announcement = waiting.announcement
        places = self._simulation.places
        cluster = announcement.cluster
        assert cluster is not None, "the simulator gives every site its signals"
        reference = reference_usd(announcement, cluster)
        candidates = []
        for bid in sorted(waiting.auction.bids, key=lambda bid: bid.site_id):
            participant = places[bid.site_id].participant
            state = StateOfSite(
                participant.schedules,
                participant.cache.demand,
                participant.signals,
                bid.fetches,
                now_s=now_s,
            ).of(bid.pool_type)
            (features,) = features_of(
                [bid],
                bid.fetches,
                announcement,
                state,
                cluster,
                now_s=now_s,
                reference=reference,
            )
            candidates.append(Candidate(bid.site_id, bid.offer_usd, features))
        return Decision(announcement.task_id, now_s, reference, tuple(candidates))
