"""The one face of everything that can execute a run: processes, containers, batch systems.

Every call is safe to repeat. An executor keeps its truth outside the agent (run directories,
container names, job ids), so that an agent that was restarted adopts what goes on.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from gcos.ids import Fence, RunId


class RunPhase(Enum):
    """Where a run stands with its executor."""

    #: Nothing is executing and nothing ever was: `ensure` may start it.
    ABSENT = "ABSENT"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    #: Nothing of the run is executing any more, and it will not be started again.
    EXITED = "EXITED"


class ExitReason(Enum):
    """Why a run ended."""

    #: By itself; `exit_code` tells how.
    EXITED = "EXITED"
    #: Ended by its supervisor because nobody renewed the lease.
    LEASE_EXPIRED = "LEASE_EXPIRED"
    CANCELLED = "CANCELLED"
    #: The command does not exist or may not be executed; none of it ran.
    START_FAILED = "START_FAILED"
    #: The supervisor died first; what was left of the job has been killed.
    SUPERVISOR_LOST = "SUPERVISOR_LOST"


@dataclass(frozen=True, slots=True)
class RunCommand:
    """What to execute, and as which attempt."""

    run_id: RunId
    fence: Fence
    #: Program and arguments; no shell unless the caller names one.
    argv: tuple[str, ...]
    #: Added to a small environment built from scratch; nothing of the agent's own is inherited.
    env: dict[str, str]
    #: Absolute path of an existing directory.
    working_dir: str
    #: Indices of the GPUs given to the run; none: the run sees no GPU.
    devices: tuple[int, ...]
    #: Output kept; beyond it the job goes on unrecorded.
    log_max_bytes: int
    #: Seconds (protocol time) between SIGTERM and SIGKILL.
    grace_s: float


@dataclass(frozen=True, slots=True)
class RunStatus:
    """What an executor knows of a run. Fields after `phase` are None until they are known."""

    phase: RunPhase
    #: Exit status of the job's first process; negative: the signal that ended it.
    exit_code: int | None = None
    reason: ExitReason | None = None
    #: Wall seconds since the epoch.
    started_wall_s: float | None = None
    ended_wall_s: float | None = None
    #: User and system CPU seconds of all the job's processes; known at the end.
    cpu_s: float | None = None
    #: Largest resident set of any one of the job's processes; known at the end.
    peak_memory_bytes: int | None = None
    #: For a person; empty where the rest says all.
    message: str = ""


class Executor(Protocol):
    """Executes runs under leases.

    Times are protocol seconds of this host's clock. An id that the executor does not know is ABSENT
    to `poll`, an error to `extend`, `wait` and `logs`, and nothing to `cancel` and `reap`.

    Attributes:
        name: Short name for configuration and metrics.
        guarantees_single_execution: Whether the executor alone upholds I3, that is, whether nothing
            of a run executes past its lease even when the agent is dead or frozen. Where it is
            False only I2 holds: two runs of a task may overlap, but one commits.
    """

    name: str
    guarantees_single_execution: bool

    async def ensure(self, command: RunCommand, *, lease_until_s: float) -> None:
        """Start the run unless it has been started before, and extend its lease.

        At most one start per run id, across restarts of the agent and concurrent calls.

        Raises:
            InvalidRequestError: The command is malformed.
            StaleFenceError: The executor has seen a later attempt of the same task.
            WrongStateError: An earlier attempt of the same task is still executing.
        """

    async def extend(self, run_id: RunId, *, lease_until_s: float) -> None:
        """Let the lease end at `lease_until_s`; an earlier end than the present one is ignored.

        Raises:
            NotFoundError: No such run.
        """

    async def poll(self, run_id: RunId) -> RunStatus:
        """Return where the run stands now."""

    async def wait(self, run_id: RunId) -> RunStatus:
        """Return once the run is EXITED; the caller sets the time limit.

        Raises:
            NotFoundError: The run is ABSENT, or becomes so.
        """

    async def logs(self, run_id: RunId, *, offset: int = 0, limit_bytes: int = 65536) -> bytes:
        """Return output from byte `offset` on, at most `limit_bytes`; empty at the present end.

        Raises:
            InvalidRequestError: `offset` or `limit_bytes` is negative.
            NotFoundError: No such run.
        """

    async def log_end(self, run_id: RunId, *, limit_bytes: int) -> tuple[bytes, int]:
        """Return the last bytes of the output, at most `limit_bytes`, and its length, bytes.

        Raises:
            InvalidRequestError: `limit_bytes` is negative.
            NotFoundError: No such run.
        """

    async def cancel(self, run_id: RunId) -> None:
        """Begin to end the run; it is over when `poll` says EXITED. Never starts again."""

    async def reap(self, run_id: RunId) -> None:
        """Forget a run that is not executing, its logs included.

        Raises:
            WrongStateError: It is still executing.
        """

    async def list_runs(self) -> list[RunId]:
        """Return all runs not yet reaped, sorted: what a restarted agent adopts."""
