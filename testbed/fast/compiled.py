"""Compiles plain functions, and keeps what was compiled for the next process.

Numba's cache tells by a file's time stamp whether its functions changed, and looks neither at what
they call in other files nor at constants that they name. So the cache lies in a directory that is
named by a digest of all files that have a part in what is compiled: a change in one of them
compiles all anew.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
from numba import types

from gcos import accounting, durations, signals
from policies import evictors, features, offer
from policies.baselines import joint, rules
from policies.maccs import artifact_features, copy_plan, network, task_bidder
from site_agent import demand, migration, origin, participant, schedule
from testbed.sim import engine

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: What compiled functions take constants from.
SOURCES: Final = (
    accounting,
    artifact_features,
    copy_plan,
    demand,
    durations,
    engine,
    evictors,
    features,
    joint,
    migration,
    network,
    offer,
    origin,
    participant,
    rules,
    schedule,
    signals,
    task_bidder,
)
#: Files beside this one that hold nothing compiled.
_OTHERS: Final = frozenset(
    {"forecasts.py", "journal.py", "learning.py", "outlooks.py", "run.py", "world.py"}
)


def compiled(function: _Function) -> _Function:
    """Return the function as machine code, compiled at its first call."""
    return _made(function, is_inlined=False)


def inlined(function: _Function) -> _Function:
    """Return the function as machine code that lies within that of its callers."""
    return _made(function, is_inlined=True)


def _made(function: _Function, *, is_inlined: bool) -> _Function:
    made: Any = numba.njit(cache=True, error_model="numpy", forceinline=is_inlined)(function)
    template_of = made.get_call_template

    def template(args: Sequence[Any], kws: Mapping[str, Any]) -> Any:
        # Called with a constant it would be compiled once more, for that constant alone.
        return template_of(tuple(types.unliteral(each) for each in args), kws)

    made.get_call_template = template
    return cast(_Function, made)


def _cache_directory() -> Path:
    """Return where compiled code is kept: below `XDG_CACHE_HOME`, or `~/.cache`."""
    files = {path for path in Path(__file__).parent.glob("*.py") if path.name not in _OTHERS}
    files |= {Path(str(module.__file__)) for module in SOURCES}
    digest = hashlib.sha256(f"{numba.__version__} {np.__version__}".encode())
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = f"compiled-{digest.hexdigest()[:16]}"
    place = Path(root) / "gcos" / name
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:  # no home to write to: once for each process
        return Path(tempfile.mkdtemp(prefix="gcos-")) / name
    return place


CACHE_DIRECTORY: Final = _cache_directory()
setattr(numba.config, "CACHE_DIR", str(CACHE_DIRECTORY))  # noqa: B010  (a name its stub lacks)
