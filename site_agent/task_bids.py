"""The bidder of an agent whose policy has the task actor: asks it where it has a say."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from policies.interface import Bidder, Choice, Option, SiteView
from policies.maccs.actor import Actor, ActorError
from policies.maccs.task_actor import PART
from policies.maccs.task_bidder import ResidualBidder
from site_agent.actors import Actors


class TaskBids:
    """Bids as the actor has it while it is used, and as the rule does otherwise.

    Its name changes with that: offers of different actors are compared without scores. An actor
    of weight 0 would rank offers as the rule does, and take longer.

    Args:
        plain: Bids without the actor.
        actors: Those of the agent.
    """

    def __init__(self, plain: Bidder, actors: Actors) -> None:
        self.may_start_later = plain.may_start_later
        self._plain = plain
        self._actors = actors
        self._asked: Actor | None = None
        self._learned: ResidualBidder | None = None

    @property
    def actor(self) -> str:
        """Name and version of what bids now."""
        learned = self._now()
        return self._plain.actor if learned is None else learned.actor

    @property
    def needs_features(self) -> bool:
        """Whether an actor looks at them."""
        return self._now() is not None

    def choose(self, options: Sequence[Option], view: SiteView) -> Choice:
        """Choose among `options`, which are never empty."""
        learned = self._now()
        if learned is not None:
            try:
                return learned.choose(options, view)
            except ActorError as exc:
                self._actors.failed(PART, str(exc))
        return self._plain.choose(options, view)

    def _now(self) -> ResidualBidder | None:
        actor = self._actors.actor(PART)
        if actor is not self._asked:
            self._asked = actor
            self._learned = None if actor is None else self._bidder(actor)
        return self._learned

    def _bidder(self, actor: Actor) -> ResidualBidder | None:
        if actor.card.residual_scale == 0.0:
            return None

        def counted(features: NDArray[np.float32]) -> NDArray[np.float64]:
            self._actors.count(PART)
            return np.asarray(actor(features), dtype=np.float64)

        return ResidualBidder(counted, scale=actor.card.residual_scale, version=actor.version)
