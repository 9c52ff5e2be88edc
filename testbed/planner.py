"""The copy plan for simulations: compiled where the research extra is installed, else as it is."""

import importlib.util
import sys
from functools import cache
from typing import Any, Final, cast

from policies.maccs import copy_plan
from site_agent.copy_planning import Planner

#: Functions of the plan that call each other, from the innermost.
_COMPILED: Final = (
    "has_room",
    "add_load",
    "assign",
    "saving_of",
    "eviction_loss_usd",
    "take_room",
    "move_tasks",
    "index_tasks",
    "plan_copies",
)


@cache
def planner() -> Planner:
    """Return the copy plan, which compiled takes a hundredth of the time and gives the same."""
    if importlib.util.find_spec("numba") is None:
        return copy_plan.plan_copies
    from testbed.fast.compiled import compiled  # noqa: PLC0415  only where there is a compiler

    # Under another name, so that what agents run stays as it stands.
    spec = importlib.util.spec_from_file_location("compiled_copy_plan", str(copy_plan.__file__))
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where the compiler's cache looks for it
    spec.loader.exec_module(module)
    for name in _COMPILED:
        setattr(module, name, compiled(getattr(module, name)))
    return cast(Planner, module.plan_copies)
