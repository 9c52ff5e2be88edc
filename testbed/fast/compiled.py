"""Compiles plain functions, and keeps what was compiled for the next process.

Numba's cache tells by a file's time stamp whether its functions changed, and does not look at what
they call in other files. So the cache lies in a directory that is named by a digest of every file
whose functions are compiled: a change anywhere compiles all anew.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba

from gcos import accounting, durations
from policies.maccs import copy_plan
from site_agent import schedule

_Function = TypeVar("_Function", bound=Callable[..., Any])

_SHARED: Final = (accounting, durations, schedule, copy_plan)


def compiled(function: _Function) -> _Function:
    """Return the function as machine code, compiled at its first call."""
    return cast(_Function, numba.njit(cache=True, error_model="numpy")(function))


def _cache_directory() -> Path:
    """Return where compiled code is kept: below `XDG_CACHE_HOME`, or `~/.cache`."""
    files = [*Path(__file__).parent.glob("*.py"), *(Path(str(each.__file__)) for each in _SHARED)]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "gcos" / f"compiled-{digest.hexdigest()[:16]}"


setattr(numba.config, "CACHE_DIR", str(_cache_directory()))  # noqa: B010  (a name its stub lacks)
