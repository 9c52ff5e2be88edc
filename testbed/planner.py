"""The copy plan for simulations: compiled where the research extra is installed, else as it is."""

import functools
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

from policies.maccs import artifact_features, copy_plan, network
from policies.maccs.actor import load_actor, own_or_shipped_path, required
from policies.maccs.actor_file import read_model
from policies.maccs.artifact_features import PART
from policies.maccs.copy_plan import UNLEARNED, Learned
from site_agent.copy_planning import Planner

#: Functions of the plan that call each other, from the innermost: each in the module that has it.
_COMPILED: Final = (
    (artifact_features, "demand_of"),
    (artifact_features, "amounts_of"),
    (artifact_features, "features_of"),
    (artifact_features, "corrected_usd"),
    (copy_plan, "has_room"),
    (copy_plan, "add_load"),
    (copy_plan, "assign"),
    (copy_plan, "saving_of"),
    (copy_plan, "eviction_loss_usd"),
    (copy_plan, "take_room"),
    (copy_plan, "move_tasks"),
    (copy_plan, "index_tasks"),
    (copy_plan, "empty_appraisal"),
    (copy_plan, "appraise"),
    (copy_plan, "amounts_at"),
    (copy_plan, "correct"),
    (copy_plan, "score_of"),
    (copy_plan, "plan_copies"),
)


def has_compiler() -> bool:
    """Tell whether the plan is compiled here."""
    return importlib.util.find_spec("numba") is not None


@functools.cache
def plan_module() -> ModuleType:
    """Return `policies.maccs.copy_plan`, compiled where there is a compiler."""
    if not has_compiler():
        return copy_plan
    from testbed.fast.compiled import compiled  # noqa: PLC0415  only where there is a compiler

    # Under another name, so that what agents run stays as it stands.
    spec = importlib.util.spec_from_file_location("compiled_copy_plan", str(copy_plan.__file__))
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where the compiler's cache looks for it
    spec.loader.exec_module(module)
    # Weights stand for the actor's file, and this for its runtime.
    module.estimates = compiled(network.forward)
    for source, name in _COMPILED:
        plain = getattr(module if source is copy_plan else source, name)
        setattr(module, name, compiled(plain))
    return cast(ModuleType, module)


def planner() -> Planner:
    """Return the copy plan, which compiled takes a hundredth of the time and gives the same."""
    return cast(Planner, plan_module().plan_copies)


def learned(
    parts: tuple[str, ...],
    *,
    directory: Path | None = None,
    scales: Mapping[str, float] | None = None,
    is_compiled: bool | None = None,
) -> Learned:
    """Return what corrects the plan of a policy; nothing where it has no such part.

    Args:
        parts: The learned parts of the policy.
        directory: Where actors lie; one that is not there, or None: the shipped one.
        scales: Weight by part in place of the one that its file names.
        is_compiled: For the compiled plan; None: for `planner()`.

    Raises:
        InvalidRequestError: Its file cannot be used.
    """
    if PART not in parts:
        return UNLEARNED
    path = own_or_shipped_path(PART, directory)
    actor = required(load_actor(path, PART, artifact_features.FEATURES))
    scale = (scales or {}).get(PART, actor.card.residual_scale)
    if not (has_compiler() if is_compiled is None else is_compiled):
        return Learned(actor, scale, is_asked=True)
    model, _ = read_model(path)
    return Learned(network.weights_in(model.graph), scale, is_asked=True)
