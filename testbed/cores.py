"""Which simulator runs what: the compiled one where it can, the full one for the rest.

Both come to the same events and totals (tests/testbed/fast). The compiled one needs the extra
`research`.
"""

import difflib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gcos.errors import InvalidRequestError
from policies.catalogue import policy_named
from testbed.sim import run as full
from testbed.sim.instance import Instance
from testbed.sim.result import RunResult, Simulate

if TYPE_CHECKING:
    from testbed.fast.run import FastWorld

#: As people type them; the first stands for the compiled one where it can, the full one else.
CORES: Final = ("auto", "fast", "full")
#: What a run executes, by name: what decides whether a kept run is still right.
ENTRANCES: Final = {"auto": __name__, "fast": __name__, "full": full.__name__}

_MISSING: Final = "numba is not installed"
_PACKAGE: Final = "pip install 'gcos[research]'"
_INSTALL: Final = f"{_PACKAGE}, or --core full"

#: The instance that was run last: policies meet the same world one after the other, and the
#: compiled core draws its forecasts once.
_latest: "list[FastWorld]" = []


def has_fast() -> bool:
    """Tell whether the compiled core is installed."""
    return importlib.util.find_spec("numba") is not None


def simulator(core: str) -> Simulate:
    """Return the simulator of that name.

    Raises:
        InvalidRequestError: There is none, or it is not installed.
    """
    if core not in CORES:
        near = difflib.get_close_matches(core, CORES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(CORES)}"
        raise InvalidRequestError(f"no core {core!r}", field="core", hint=hint)
    if core == "fast" and not has_fast():
        raise InvalidRequestError(_MISSING, field="core", hint=_INSTALL)
    return {"auto": simulate, "fast": simulate_fast, "full": full.simulate}[core]


def check_policies(core: str, policies: Sequence[str]) -> None:
    """Let pass policies that a core can run, before the first of them has run for minutes.

    Raises:
        InvalidRequestError: There is no such policy, or only the compiled core runs it, and that is
            not asked for or not installed.
    """
    for name in policies:
        is_central = policy_named(name, field="policies").is_central
        if is_central and (core == "full" or not has_fast()):
            raise InvalidRequestError(
                f"{name} ranks the offers of all sites together, which only the fast core does",
                field="policies",
                hint="--core fast" if has_fast() else _PACKAGE,
            )


def simulate(
    instance: Instance, *, policy: str, cache_mode: str = "dual", log: Path | None = None
) -> RunResult:
    """Return what came of an instance, by the compiled core where it can: see `Simulate`.

    Raises:
        InvalidRequestError: As `testbed.sim.run.simulate`, or only the compiled core runs such a
            policy, and it cannot run this.
    """
    is_full = why_full(instance, policy, cache_mode) is not None
    if is_full and not policy_named(policy).is_central:
        return full.simulate(instance, policy=policy, cache_mode=cache_mode, log=log)
    return simulate_fast(instance, policy=policy, cache_mode=cache_mode, log=log)


def simulate_fast(
    instance: Instance, *, policy: str, cache_mode: str = "dual", log: Path | None = None
) -> RunResult:
    """Return what came of an instance, by the compiled core or not at all: see `Simulate`.

    Raises:
        InvalidRequestError: As `testbed.sim.run.simulate`, or the compiled core cannot run this.
    """
    why = why_full(instance, policy, cache_mode)
    if why is not None:
        only = policy_named(policy).is_central
        hint = f"no other core runs {policy}: leave it out" if only else "--core full"
        raise InvalidRequestError(f"the fast core cannot: {why}", field="core", hint=hint)
    from testbed.fast.run import FastWorld, simulate_world  # noqa: PLC0415  (needs numba)

    if not _latest or _latest[0].instance is not instance:
        _latest[:] = [FastWorld(instance)]
    return simulate_world(_latest[0], policy=policy, cache_mode=cache_mode, log=log)


def why_full(instance: Instance, policy: str, cache_mode: str = "dual") -> str | None:
    """Return why only the full core runs an instance under a policy; None: the compiled one can.

    Raises:
        InvalidRequestError: There is no such policy, or there are no such caches.
    """
    if not has_fast():
        return _MISSING
    from testbed.fast.run import why_not  # noqa: PLC0415

    return why_not(instance, policy, cache_mode)
