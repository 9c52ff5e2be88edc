"""Sets up the memory of processes that serve for long: glibc's malloc, Python's collector."""

import ctypes
import gc
from typing import Final

# From glibc's malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

#: New containers, less those freed, between two searches for cycles among the young; Python's own
#: 700 are the questions of three batches.
_YOUNG_COUNT_MAX: Final = 50_000


def pin_malloc_thresholds() -> None:
    """Keep freed blocks of up to 32 MiB in the process; does nothing without glibc.

    Protobuf and gRPC allocate and free blocks of 1 to 4 MiB. glibc gives them back to the kernel
    each time and faults them in again, which costs 3.5 times the CPU (LIMITS 2c). Both thresholds
    must be pinned: setting one freezes the other at 128 KiB.

    What is kept, each arena keeps for itself, and each of gRPC's threads would get one: while 2 GB
    arrive, a process grows by 67 MB without a limit to them and by 38 MB with two, at equal rates.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_ARENA_MAX, 2)


def settle_collector() -> None:
    """Spare what is alive now from all further searches for cycles, and search less often.

    For a process that has recovered its state and now serves. What it holds stays; answers leave
    no cycles behind, so that a search costs time (for a batch of predictions up to a tenth of
    its own) and finds nothing. What does form cycles, such as tracebacks, waits for the search
    longer, as at most tens of MB.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_COUNT_MAX, *gc.get_threshold()[1:])
