"""A simulation that stops at each auction and asks who is to win it.

This is the seam between environments and simulators: `Decisions` is all that the Gymnasium and the
PettingZoo face know, so another engine that can stop at a decision may take the place of
`SimulatedDecisions`, which steps the event-driven simulator.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gcos.accounting import Charge
from gcos.contract_net import Bid
from gcos.ids import SiteId
from policies.catalogue import Policy
from policies.features import DAY_S, Outlook, SiteState, cluster_of, features_of, outlook
from site_agent.participant import Participant
from site_agent.schedule import PoolSchedule
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
        candidates: Offers, at least one, sorted by site.
    """

    task_id: str
    now_s: float
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
        signals = {key: _signals(place.participant, now_s) for key, place in places.items()}
        cluster = cluster_of(
            [price for price, _ in signals.values()], [carbon for _, carbon in signals.values()]
        )
        candidates = []
        for bid in sorted(waiting.auction.bids, key=lambda bid: bid.site_id):
            state = _state(places[bid.site_id].participant, bid, signals[bid.site_id], now_s)
            features = features_of(bid, announcement, state, cluster, now_s=now_s)
            candidates.append(Candidate(bid.site_id, bid.offer_usd, features))
        return Decision(announcement.task_id, now_s, tuple(candidates))


def _signals(participant: Participant, now_s: float) -> tuple[Outlook, Outlook]:
    """Return what a site expects of its price and of its carbon."""
    signals = participant.signals
    assert signals.carbon is not None, "the simulator gives every site its carbon"
    return outlook(signals.price.series, now_s), outlook(signals.carbon.series, now_s)


def _state(
    participant: Participant, bid: Bid, signals: tuple[Outlook, Outlook], now_s: float
) -> SiteState:
    schedules = participant.schedules.values()
    demand = participant.cache.demand
    missing = [fetch.artifact_id for fetch in bid.fetches]
    return SiteState(
        gpu_count=sum(each.gpu_count for each in schedules),
        pool_gpu_count=participant.schedules[bid.pool_type].gpu_count,
        planned_gpu_s=sum(_planned_gpu_s(each, now_s) for each in schedules),
        backlog_gpu_s=sum(each.committed_gpu_s(now_s) for each in schedules),
        queue_count=sum(
            run.started_s is None for each in schedules for run in each.planned.values()
        ),
        demand_here=sum(demand.here(each) for each in missing),
        demand_elsewhere=sum(demand.elsewhere(each) for each in missing),
        price=signals[0],
        carbon=signals[1],
    )


def _planned_gpu_s(schedule: PoolSchedule, now_s: float) -> float:
    """Return the GPU seconds of the next 24 h that the plan takes."""
    times, free = schedule.profile(now_s)
    ends = [*times[1:], math.inf]
    until_s = now_s + DAY_S
    return sum(
        (schedule.gpu_count - count) * max(0.0, min(end_s, until_s) - start_s)
        for start_s, end_s, count in zip(times, ends, free, strict=True)
    )
