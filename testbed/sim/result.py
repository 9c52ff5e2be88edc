"""What a simulated run came to: enough for every table, small enough to keep. Pure records."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gcos.accounting import Charge
from testbed.sim.instance import Instance


@dataclass(frozen=True, slots=True)
class Lookups:
    """How often runs found an artifact at their site.

    Attributes:
        hit_count: Found complete.
        miss_count: Fetched for the run, streamed to scratch or joined to a fetch under way.
    """

    hit_count: int = 0
    miss_count: int = 0


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the whole run, or over its measured window.

    Measured are charges of tasks that arrive, and of transfers that start, in the window, the
    storage of what these transfers brought, and idle power during it (DESIGN section 10).

    Attributes:
        charge: What runs, transfers, storage and lateness cost.
        idle: Electricity of GPUs that run nothing; in no cost.
        task_count: Tasks, all of which have ended.
        miss_count: Tasks that ended after their deadline.
        wait_mean_s: Mean time from arrival to start of the run that ended the task.
        wait_p95_s: 95 % quantile of it.
        models: Lookups of models.
        data_sets: Lookups of data sets.
    """

    charge: Charge
    idle: Charge
    task_count: int
    miss_count: int
    wait_mean_s: float
    wait_p95_s: float
    models: Lookups
    data_sets: Lookups


@dataclass(frozen=True, slots=True)
class RunResult:
    """A simulated run.

    Attributes:
        policy: Name of the policy.
        cache_mode: Name of its caches (`testbed.sim.cache_modes.caches_named`).
        whole: Sums over everything from the begin until the last task has ended.
        measured: Sums over the measured window.
        event_count: Events that the engine took off its heap.
        wall_s: Time that the run took on this machine; the only field that may differ next time.
        trace_hash: Hex digest of all events in their order; the same seed gives the same.
        core: Which simulator ran it: `full`, or `fast`, the compiled one.
    """

    policy: str
    cache_mode: str
    whole: Totals
    measured: Totals
    event_count: int
    wall_s: float
    trace_hash: str
    core: str = "full"


class Simulate(Protocol):
    """Runs an instance under a policy until every task has ended."""

    def __call__(
        self, instance: Instance, *, policy: str, cache_mode: str, log: Path | None
    ) -> RunResult:
        """Return what it came to.

        Args:
            instance: The drawn problem.
            policy: Name in `policies.catalogue`.
            cache_mode: Name of caches (`testbed.sim.cache_modes.caches_named`).
            log: Directory, which exists, for the three files of DESIGN section 10; None: none.

        Raises:
            InvalidRequestError: There is no such policy or cache mode.
        """
