"""The task actor in simulations: as agents have it, and as the compiled core takes it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from gcos.errors import InvalidRequestError
from policies.catalogue import CENTRAL, Policy, policy_named
from policies.features import UNITS
from policies.interface import Bidder
from policies.maccs.actor import load_actor, own_or_shipped_path, required
from policies.maccs.actor_file import read_model
from policies.maccs.task_actor import PART, bidder_of
from policies.maccs.task_network import TaskNetwork, network_in

#: Weight of an ablation, which no gate judges: it shows what was learned.
CENTRAL_SCALE: Final = 1.0


def with_task_actor(policy: Policy, directory: Path | None = None) -> Policy:
    """Return the policy as agents run it: with a bidder that asks the actor.

    Raises:
        InvalidRequestError: The actor's file cannot be used.
    """
    if PART not in policy.learned:
        return policy
    actor = required(load_actor(own_or_shipped_path(PART, directory), PART, UNITS))
    return replace(policy, bidder=lambda: bidder_of(actor))


def bidders_of(policy: str) -> tuple[Bidder, ...]:
    """Return who may have bid at an agent under a policy, for replays of what it recorded.

    An agent bids without its actor until that is loaded, and once it has failed.

    Raises:
        InvalidRequestError: There is no such policy, or its actor's file cannot be used.
    """
    found = policy_named(policy)
    plain = (found.bidder(),)
    return (*plain, with_task_actor(found).bidder()) if PART in found.learned else plain


def task_network(
    parts: tuple[str, ...], *, directory: Path | None = None, scales: Mapping[str, float]
) -> tuple[TaskNetwork, float] | None:
    """Return f and its weight for a policy with these learned parts; None: it corrects no offer.

    Args:
        parts: The learned parts of the policy.
        directory: Where actors lie; one that is not there, or None: the shipped one.
        scales: Weight by part in place of the one that its file names.

    Raises:
        InvalidRequestError: The file cannot be used, or is that of the ablation and its network
            does not see all candidates.
    """
    part = next((name for name in (PART, CENTRAL) if name in parts), None)
    if part is None:
        return None
    path = own_or_shipped_path(part, directory)
    actor = required(load_actor(path, part, UNITS))
    shipped = CENTRAL_SCALE if part == CENTRAL else actor.card.residual_scale
    scale = scales.get(part, shipped)
    if scale == 0.0:
        return None  # which is the same, and takes less time
    network = network_in(read_model(path)[0].graph)
    if part == CENTRAL and not network.sees_all:
        raise InvalidRequestError(
            f"{path}: its network looks at each candidate alone, which is the task actor",
            field="policy",
            hint=f"train it: gcos train --config {CENTRAL}",
        )
    return network, scale
