"""Which code made a result, and how to have it made again."""

import contextlib
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import gcos
from testbed.evaluation import Origin
from testbed.scenarios.records import Scenario

_ROOT: Final = Path(gcos.__file__).parent.parent
_GIT_S: Final = 10.0


def code_version() -> str:
    """Return the version of GCOS, with the commit where it runs from a checkout."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return f"gcos {gcos.__version__}"
    changed = ", with changes" if _git("status", "--porcelain", "--untracked-files=no") else ""
    return f"gcos {gcos.__version__}, commit {commit[:12]}{changed}"


def _git(*words: str) -> str:
    """Return what git says of our checkout; empty where there is none."""
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *words],  # noqa: S607 - wherever it is installed
            capture_output=True,
            text=True,
            timeout=_GIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def command(options: Mapping[str, object], changes: Sequence[str]) -> str:
    """Return the `gcos evaluate` that makes the same runs; options without a value are left out."""
    words = ["gcos", "evaluate"]
    for name, value in options.items():
        if value is not None:
            words += [f"--{name}", str(value)]
    for change in changes:
        words += ["--set", change]
    return shlex.join(words)


def origin_of(
    scenario: Scenario, *, base: str, changes: Sequence[str], repeat: str, version: str
) -> Origin:
    """Return where an evaluation of `scenario`, `base` with `changes`, comes from."""
    return Origin(
        command=repeat,
        version=version,
        base=base,
        parameters={
            "carbon_price_usd_per_kg": scenario.carbon_price_usd_per_kg,
            "network_kwh_per_gb": scenario.network_kwh_per_gb,
            "workload.runtime_sigma": scenario.workload.runtime_sigma,
            "workload.load": scenario.workload.load,
            "signals.forecast_error": scenario.signals.forecast_error,
            "caches.model_gb": scenario.caches.model_gb,
            "caches.data_gb": scenario.caches.data_gb,
            **_numbers(changes),
        },
    )


def _numbers(changes: Sequence[str]) -> dict[str, float]:
    """Return the changed keys whose values are numbers."""
    numbers = {}
    for change in changes:
        key, _, text = (part.strip() for part in change.partition("="))
        with contextlib.suppress(ValueError):
            numbers[key] = float(text)
    return numbers
