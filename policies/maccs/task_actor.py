"""The task actor of one site: its file, and the bidder that asks it, or the rule without it."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from policies.catalogue import Policy
from policies.features import UNITS
from policies.interface import Bidder
from policies.maccs.actor import Actor, ActorError, actor_path, load_actor
from policies.maccs.actor_card import Fallback, FallbackReason
from policies.maccs.task_bidder import ResidualBidder

#: Name of the part: of its file, and in `Policy.learned`.
PART: Final = "task"


def load_task_actor(directory: Path | None = None) -> Actor | Fallback:
    """Return the task actor, or why offers must do without one.

    Args:
        directory: Where its file lies; None: the shipped one.
    """
    return load_actor(actor_path(PART, directory), PART, UNITS)


class GuardedResidual:
    """Asks an actor; from its first error on f is 0, so that the site bids as the rule would.

    Args:
        actor: The actor.
    """

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self.fallback: Fallback | None = None
        """Why it is not asked any more; None: it is."""

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return f of each row, (n,)."""
        if self.fallback is None:
            try:
                return np.asarray(self._actor(features), dtype=np.float64)
            except ActorError as exc:
                self.fallback = Fallback(FallbackReason.RUNTIME, str(exc))
        return np.zeros(len(features))


def bidder_of(
    policy: Policy, actor: Actor | Fallback, *, scale: float | None = None
) -> tuple[Bidder, GuardedResidual | None]:
    """Return a policy's bidder, and what asks the actor where it has one.

    Args:
        policy: The policy.
        actor: The task actor.
        scale: Weight of what was learned; None: what the file says that the ship gate gave.
    """
    if PART not in policy.learned or isinstance(actor, Fallback):
        return policy.bidder(), None
    guarded = GuardedResidual(actor)
    weight = actor.card.residual_scale if scale is None else scale
    return ResidualBidder(guarded, scale=weight, version=actor.version), guarded
