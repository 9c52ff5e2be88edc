"""The task actor: its file, and the bidder that asks it."""

from pathlib import Path
from typing import Final

from policies.features import UNITS
from policies.maccs.actor import Actor, actor_path, load_actor
from policies.maccs.fallback import Fallback
from policies.maccs.task_bidder import ResidualBidder

#: Name of the part: of its file, and in `policies.catalogue.Policy.learned`.
PART: Final = "task"


def load_task_actor(directory: Path | None = None) -> Actor | Fallback:
    """Return the task actor, or why offers must do without one.

    Args:
        directory: Where its file lies; None: the shipped one.
    """
    return load_actor(actor_path(PART, directory), PART, UNITS)


def bidder_of(actor: Actor, *, scale: float | None = None) -> ResidualBidder:
    """Return a bidder that asks the actor.

    Args:
        actor: The task actor.
        scale: Weight of what was learned; None: what the file says that the ship gate gave.
    """
    weight = actor.card.residual_scale if scale is None else scale
    return ResidualBidder(actor, scale=weight, version=actor.version)
