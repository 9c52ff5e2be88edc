"""Resident memory of processes, and whether a run's grows with its tasks.

The peak is `VmHWM` of proc(5). `getrusage` does not do: a process that was just made has the peak
of the one that made it, however little it needs itself.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from testbed.bench import BenchRow
from testbed.sim.samples import Sample

#: The whole of a long run is set beside its first quarter.
PARTS: Final = 4
#: Peak of the whole run over that of the first quarter.
GROWTH_TARGET: Final = 1.1


def growth_row(name: str, module: str, sample: Sample) -> BenchRow:
    """Return peak memory of all tasks of `sample` beside that of the first quarter.

    Args:
        name: Of the row.
        module: Run as `python -m MODULE PARTS`, it runs so many quarters and prints its own peak.
        sample: The long world.
    """
    part, whole = (_peak_of_run_bytes(module, parts) for parts in (1, PARTS))
    count = sample.task_count * (PARTS - 1) // PARTS
    return BenchRow(
        name=name,
        ours=whole / 1e6,
        limit=part / 1e6,
        ratio=whole / part,
        target=GROWTH_TARGET,
        unit="MB",
        beside=f"its first {sample.task_count // PARTS} tasks",
        note=(
            f"{sample.task_count} tasks beside the first {sample.task_count // PARTS} of them,"
            f" in processes of their own: {(whole - part) / count:.0f} bytes a task"
        ),
        is_cost=True,
    )


def own_peak_bytes() -> int:
    """Return the peak of this process's resident memory."""
    return peak_bytes(os.getpid())


def peak_bytes(pid: int) -> int:
    """Return the peak of a process's resident memory, or that since `reset_peak_bytes`."""
    return _status_bytes(pid, "VmHWM")


def reset_peak_bytes(pid: int) -> int:
    """Begin to watch the peak of a process's resident memory; return what it is now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")  # proc(5)
    return _status_bytes(pid, "VmRSS")


def _peak_of_run_bytes(module: str, parts: int) -> int:
    done = subprocess.run(
        [sys.executable, "-m", module, str(parts)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def _status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)
