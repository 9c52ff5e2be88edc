"""One episode, as both faces of the environment play it: from decision to decision."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gcos.ids import SiteId
from policies.features import FEATURE_COUNT
from testbed.environment.decisions import Booked, Candidate, Decision, Decisions

Charges = tuple[tuple[str, float], ...]


@dataclass(slots=True)
class Episode:
    """A run under way.

    Attributes:
        decisions: The run.
        decision: What is to be decided; None: it has ended.
        booked: What was charged between the last two decisions.
        decision_count: Decisions made.
    """

    decisions: Decisions
    decision: Decision | None = field(init=False)
    booked: list[Booked] = field(init=False)
    decision_count: int = 0

    def __post_init__(self) -> None:
        self._advance()

    def decide(self, scores: Mapping[SiteId, float]) -> None:
        """Settle the decision and go on to the next one."""
        assert self.decision is not None, "the episode has ended"
        self.decisions.decide(scores)
        self.decision_count += 1
        self._advance()

    def _advance(self) -> None:
        self.decision = self.decisions.advance()
        self.booked = self.decisions.take_booked()

    @property
    def joint_usd(self) -> float:
        """J that was charged between the last two decisions."""
        return sum(each.joint_usd for each in self.booked)

    def site_joint_usd(self, site_id: SiteId) -> float:
        """J of it that was charged at one site."""
        return sum(each.joint_usd for each in self.booked if each.site_id == site_id)

    @property
    def charges(self) -> Charges:
        """Tasks and J that was charged for them between the last two decisions."""
        return _charges(self.booked)

    def site_charges(self, site_id: SiteId) -> Charges:
        """Those of one site."""
        return _charges(each for each in self.booked if each.site_id == site_id)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Offers for what is to be decided; none at the end."""
        return () if self.decision is None else self.decision.candidates

    @property
    def features(self) -> NDArray[np.float32]:
        """Features of every site, (sites, 24); zeros where a site does not bid."""
        by_site = {each.site_id: each.features for each in self.candidates}
        blank = np.zeros(FEATURE_COUNT, dtype=np.float32)
        return np.stack([by_site.get(key, blank) for key in self.decisions.site_ids])

    @property
    def mask(self) -> NDArray[np.int8]:
        """Which sites bid, (sites,): 1 or 0."""
        bidding = {each.site_id for each in self.candidates}
        return np.array([key in bidding for key in self.decisions.site_ids], dtype=np.int8)

    @property
    def offers_usd(self) -> NDArray[np.float64]:
        """J of every offer, (sites,); infinite where a site does not bid."""
        offers = {each.site_id: each.offer_usd for each in self.candidates}
        return np.array([offers.get(key, np.inf) for key in self.decisions.site_ids])


def _charges(booked: Iterable[Booked]) -> Charges:
    return tuple((each.task_id, each.joint_usd) for each in booked if each.task_id is not None)
