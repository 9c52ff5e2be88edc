"""Runs as processes of this host, each under a supervisor of its own (`site_agent.supervisor`).

The truth about a run lies in its directory `ROOT/<run id>/` and in one lock, never in the agent:

    exit.json   started.json   supervisor.lock   the run is
    there       any            any               EXITED
    -           there          held              RUNNING
    -           -              held              STARTING
    -           there          free              EXITED after what is left of it has been killed
    -           -              free              ABSENT, or EXITED where `cancel` lies there

The executor takes `supervisor.lock` before it decides to start a run and hands the locked
descriptor down to the supervisor. So the lock passes from the decision to the process that carries
it out without being free in between: there is no instant at which a second caller, or the same one
after a crash, could start the run twice. A crash before the hand-over frees the lock with
`started.json` not written, hence nothing executed; a crash after it leaves the supervisor alone.
Whatever looks at the lock or changes a directory does so under `ROOT/executor.lock`, held briefly:
several executors may share a root, as they do while one agent replaces another.

I3 is upheld (`guarantees_single_execution`) as long as jobs do not fight their supervisor and
nobody sends SIGKILL or SIGSTOP to it. If a supervisor is killed, the job's first process dies at
once and the rest when an executor next looks.

Linux only.
"""

import asyncio
import contextlib
import fcntl
import math
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from gcos.clock import Clock
from gcos.errors import (
    InvalidRequestError,
    NotFoundError,
    StaleFenceError,
    UnavailableError,
    WrongStateError,
)
from gcos.ids import Fence, RunId
from site_agent import supervisor
from site_agent.executors.interface import ExitReason, RunCommand, RunPhase, RunStatus

_NUMBER = r"0|[1-9][0-9]{0,8}"
#: As `gcos.ids.run_id` makes them. Nothing else becomes a path.
_RUN_ID = re.compile(
    rf"(?P<task>[a-z0-9][a-z0-9-]{{0,63}})\.(?P<epoch>{_NUMBER})\.(?P<attempt>{_NUMBER})"
)
_EXECUTOR_LOCK_FILE = "executor.lock"
#: Runs being removed get this prefix first, which no run id has.
_REAPED_PREFIX = ".reaped-"
_SUPERVISOR_ERRORS_FILE = "supervisor.err"

#: How often `wait` looks where it has no process to watch: the supervisor has not yet written its
#: pid, or what a lost one left behind is not dead yet.
_LOOK_INTERVAL_S = 0.05
#: Rounds of killing what a lost supervisor left behind before the next `poll` tries again.
_KILL_ROUNDS_MAX = 10

#: Run isolated from the environment and from site-packages: the bare interpreter starts in 9 ms,
#: not 12, and nobody can put modules in the way. Imported and not run by path, so that its byte
#: code is kept, which also saves 1.4 MB.
_BOOTSTRAP = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from site_agent.supervisor import main; sys.exit(main(sys.argv[1:]))"
)
_LOCALE = "C.UTF-8"


class ProcessExecutor:
    """`site_agent.executors.interface.Executor` over processes of this host.

    Args:
        root: Directory for the runs, made if missing; of this user alone, on a local file system
            that keeps `flock` and `fsync` honest.
        clock: Tells when a lost run was found.
    """

    name = "process"
    guarantees_single_execution = True

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root.resolve()
        self._clock = clock
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def ensure(self, command: RunCommand, *, lease_until_s: float) -> None:
        """Start the run unless it has been started before, and extend its lease.

        Raises:
            InvalidRequestError: The command is malformed.
            StaleFenceError: A later attempt of the same task lies here.
            WrongStateError: An earlier attempt of the same task is still executing.
            UnavailableError: The host has no room for files or processes.
        """
        _check_command(command)
        _check_lease(lease_until_s)
        loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(self._ensure, command, lease_until_s, loop)
        except OSError as error:
            raise UnavailableError(f"cannot start run {command.run_id}: {error}") from error

    async def extend(self, run_id: RunId, *, lease_until_s: float) -> None:
        """Let the lease end at `lease_until_s`; an earlier end than the present one is ignored.

        Raises:
            NotFoundError: No such run.
        """
        run_dir = self._run_dir(run_id)
        _check_lease(lease_until_s)
        await asyncio.to_thread(self._extend, run_dir, lease_until_s)

    async def poll(self, run_id: RunId) -> RunStatus:
        """Return where the run stands; kills what is left where its supervisor is gone."""
        return await asyncio.to_thread(self._poll, self._run_dir(run_id))

    async def wait(self, run_id: RunId) -> RunStatus:
        """Return once the run is EXITED; the caller sets the time limit.

        Raises:
            NotFoundError: The run is ABSENT, or becomes so.
        """
        run_dir = self._run_dir(run_id)
        while True:
            status = await self.poll(run_id)
            if status.phase is RunPhase.EXITED:
                return status
            if status.phase is RunPhase.ABSENT:
                raise NotFoundError(f"run {run_id} was never started: {status.message}")
            if not await _supervisor_end(run_dir):
                await asyncio.sleep(_LOOK_INTERVAL_S)

    async def logs(self, run_id: RunId, *, offset: int = 0, limit_bytes: int = 65536) -> bytes:
        """Return output from byte `offset` on, at most `limit_bytes`; empty at the present end.

        Raises:
            InvalidRequestError: `offset` or `limit_bytes` is negative.
            NotFoundError: No such run.
        """
        if offset < 0 or limit_bytes < 0:
            raise InvalidRequestError("offset and limit_bytes are at least 0", field="offset")
        return await asyncio.to_thread(_read_log, self._run_dir(run_id), offset, limit_bytes)

    async def log_end(self, run_id: RunId, *, limit_bytes: int) -> tuple[bytes, int]:
        """Return the last bytes of the output, at most `limit_bytes`, and its length, bytes.

        Raises:
            InvalidRequestError: `limit_bytes` is negative.
            NotFoundError: No such run.
        """
        if limit_bytes < 0:
            raise InvalidRequestError("limit_bytes is at least 0", field="limit_bytes")
        return await asyncio.to_thread(_read_log_end, self._run_dir(run_id), limit_bytes)

    async def cancel(self, run_id: RunId) -> None:
        """Begin to end the run; one that has not been started never will be."""
        await asyncio.to_thread(self._cancel, self._run_dir(run_id))

    async def reap(self, run_id: RunId) -> None:
        """Remove the directory of a run that is not executing.

        Raises:
            WrongStateError: It is still executing.
        """
        await asyncio.to_thread(self._reap, self._run_dir(run_id))

    async def list_runs(self) -> list[RunId]:
        """Return all runs not yet reaped, sorted."""
        return await asyncio.to_thread(self._list_runs)

    def _run_dir(self, run_id: RunId) -> Path:
        if _RUN_ID.fullmatch(run_id) is None:
            raise InvalidRequestError(f"not a run id: {run_id[:100]!r}", field="run_id")
        return self._root / run_id

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Exclude every other executor, and every other thread of this one, from the root."""
        with _lock_file(self._root / _EXECUTOR_LOCK_FILE, fcntl.LOCK_EX):
            yield

    def _ensure(
        self, command: RunCommand, lease_until_s: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        run_dir = self._run_dir(command.run_id)
        with self._exclusive():
            phase = self._settled(run_dir).phase
            if phase is RunPhase.EXITED:
                return
            self._check_other_attempts(command)
            if not run_dir.exists():
                run_dir.mkdir(mode=0o700)
                supervisor.sync_directory(str(self._root))
            _raise_lease(run_dir, lease_until_s)
            if phase is RunPhase.ABSENT:
                pid = _start(command, run_dir)
                loop.call_soon_threadsafe(_reap_at_end, loop, pid)

    def _check_other_attempts(self, command: RunCommand) -> None:
        """Keep attempts of one task in order and apart.

        Raises:
            StaleFenceError: A later attempt lies here.
            WrongStateError: An earlier attempt is still executing.
        """
        task, fence = _parts(command.run_id)
        for other in self._list_runs():
            other_task, other_fence = _parts(other)
            if other_task != task or other_fence == fence:
                continue
            if other_fence > fence:
                raise StaleFenceError(f"run {command.run_id} is superseded by {other}")
            if self._settled(self._root / other).phase in {RunPhase.STARTING, RunPhase.RUNNING}:
                raise WrongStateError(
                    f"run {other} of the same task is still executing",
                    hint="cancel it and wait for its end",
                )

    def _extend(self, run_dir: Path, lease_until_s: float) -> None:
        with self._exclusive():
            if not run_dir.exists():
                raise NotFoundError(f"no run {run_dir.name} here")
            _raise_lease(run_dir, lease_until_s)

    def _poll(self, run_dir: Path) -> RunStatus:
        record = supervisor.read_record(str(run_dir / supervisor.EXIT_FILE))
        if record is not None:
            return _exit_status(record)
        with self._exclusive():
            return self._settled(run_dir)

    def _settled(self, run_dir: Path) -> RunStatus:
        """Return where the run stands, by the table above. The caller excludes others."""
        if not run_dir.exists():
            return RunStatus(RunPhase.ABSENT, message="no such run here")
        record = supervisor.read_record(str(run_dir / supervisor.EXIT_FILE))
        if record is not None:
            return _exit_status(record)
        try:
            descriptor = _try_lock(run_dir)
        except BlockingIOError:
            started = supervisor.read_record(str(run_dir / supervisor.STARTED_FILE))
            return _started_status(started) if started else RunStatus(RunPhase.STARTING)
        try:
            return self._settled_without_supervisor(run_dir)
        finally:
            # A process that is being forked elsewhere in the agent may share the descriptor for a
            # moment; unlocking frees the lock all the same, closing would not.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _settled_without_supervisor(self, run_dir: Path) -> RunStatus:
        exit_path = str(run_dir / supervisor.EXIT_FILE)
        record = supervisor.read_record(exit_path)  # written between the first look and the lock
        if record is not None:
            return _exit_status(record)
        started = supervisor.read_record(str(run_dir / supervisor.STARTED_FILE))
        if started is not None:
            for _ in range(_KILL_ROUNDS_MAX):
                if supervisor.kill_remains(run_dir.name, started) == 0:
                    break
            else:
                return _started_status(started, message="supervisor lost; killing what it left")
            record = self._lost_record(started)
        elif (run_dir / supervisor.CANCEL_FILE).exists():
            record = self._unstarted_record(supervisor.CANCELLED, "cancelled before the start")
        else:
            return RunStatus(RunPhase.ABSENT, message=_supervisor_errors(run_dir))
        supervisor.write_durably(exit_path, record)
        return _exit_status(record)

    def _lost_record(self, started: dict[str, object]) -> dict[str, object]:
        record = self._unstarted_record(
            supervisor.SUPERVISOR_LOST, "the supervisor was killed, or the machine went down"
        )
        return record | {"started_wall_s": started["started_wall_s"]}

    def _unstarted_record(self, reason: str, message: str) -> dict[str, object]:
        return {"reason": reason, "message": message, "ended_wall_s": self._clock.wall_s()}

    def _cancel(self, run_dir: Path) -> None:
        with self._exclusive():
            if not run_dir.exists():
                return
            (run_dir / supervisor.CANCEL_FILE).touch(mode=0o600)
            supervisor.sync_directory(str(run_dir))
            if self._settled(run_dir).phase in {RunPhase.STARTING, RunPhase.RUNNING}:
                # A supervisor that has not yet said who it is will look for the file afterwards.
                with contextlib.suppress(ProcessLookupError), _supervisor_pidfd(run_dir) as found:
                    signal.pidfd_send_signal(found, signal.SIGTERM)

    def _reap(self, run_dir: Path) -> None:
        with self._exclusive():
            if not run_dir.exists():
                return
            if self._settled(run_dir).phase in {RunPhase.STARTING, RunPhase.RUNNING}:
                raise WrongStateError(
                    f"run {run_dir.name} is still executing", hint="cancel it and wait for its end"
                )
            # Gone at once for everybody else; what a crash leaves of the rest is removed next time.
            run_dir.rename(self._root / f"{_REAPED_PREFIX}{run_dir.name}")
            for leftover in sorted(self._root.glob(f"{_REAPED_PREFIX}*")):
                shutil.rmtree(leftover, ignore_errors=True)

    def _list_runs(self) -> list[RunId]:
        names = sorted(entry.name for entry in self._root.iterdir())
        return [RunId(name) for name in names if _RUN_ID.fullmatch(name)]


def _parts(run_id: RunId) -> tuple[str, Fence]:
    """Return the task and the fence that a well-formed run id names."""
    found = _RUN_ID.fullmatch(run_id)
    assert found is not None
    return found["task"], Fence(int(found["epoch"]), int(found["attempt"]))


def _check_command(command: RunCommand) -> None:
    """Refuse what no process can be made of.

    Raises:
        InvalidRequestError: A field is malformed.
    """
    if _RUN_ID.fullmatch(command.run_id) is None:
        raise InvalidRequestError(f"not a run id: {command.run_id[:100]!r}", field="run_id")
    if _parts(command.run_id)[1] != command.fence:
        raise InvalidRequestError(
            f"run {command.run_id} does not carry the fence {command.fence}", field="fence"
        )
    if not command.argv or not command.argv[0]:
        raise InvalidRequestError("the command is empty", field="argv")
    if any("\0" in text for text in (*command.argv, *command.env, *command.env.values())):
        raise InvalidRequestError("the command or its environment holds a NUL", field="argv")
    if any("=" in name or not name for name in command.env):
        raise InvalidRequestError("a variable has an empty name or one with '='", field="env")
    if not Path(command.working_dir).is_absolute():
        raise InvalidRequestError(
            f"not an absolute path: {command.working_dir!r}", field="working_dir"
        )
    if any(device < 0 for device in command.devices):
        raise InvalidRequestError("a device has a negative index", field="devices")
    if command.log_max_bytes < 0:
        raise InvalidRequestError("the log limit is negative", field="log_max_bytes")
    if not (math.isfinite(command.grace_s) and command.grace_s >= 0):
        raise InvalidRequestError("the grace is not a number of seconds", field="grace_s")


def _check_lease(lease_until_s: float) -> None:
    if not math.isfinite(lease_until_s):
        raise InvalidRequestError("a lease has an end", field="lease_until_s")


def _run_record(command: RunCommand, run_dir: Path) -> dict[str, object]:
    """Return the content of run.json, the environment complete."""
    temporary_dir = run_dir / supervisor.TEMPORARY_DIRECTORY
    temporary_dir.mkdir(mode=0o700, exist_ok=True)
    task, fence = _parts(command.run_id)
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": command.working_dir,
        "LANG": _LOCALE,
        "TMPDIR": str(temporary_dir),
        **command.env,
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, command.devices)),
        "GCOS_TASK_ID": task,
        # Also how what a lost supervisor left behind is found again.
        "GCOS_RUN_ID": command.run_id,
        "GCOS_FENCE": f"{fence.origin_epoch}.{fence.attempt}",
    }
    return {
        "run_id": command.run_id,
        "fence": [fence.origin_epoch, fence.attempt],
        "argv": list(command.argv),
        "env": env,
        "working_dir": command.working_dir,
        "log_max_bytes": command.log_max_bytes,
        "grace_s": command.grace_s,
    }


def _raise_lease(run_dir: Path, lease_until_s: float) -> None:
    """Extend the lease; a renewal that arrives late does not take back a later one."""
    present_s = supervisor.read_lease(str(run_dir))
    if present_s is None or lease_until_s > present_s:
        supervisor.write_lease(str(run_dir), lease_until_s)


@contextlib.contextmanager
def _lock_file(path: Path, mode: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, mode)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _try_lock(run_dir: Path) -> int:
    """Take the run's supervisor lock; the caller owns the descriptor returned.

    Raises:
        BlockingIOError: It is held.
    """
    descriptor = os.open(
        run_dir / supervisor.LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def _start(command: RunCommand, run_dir: Path) -> int:
    """Start a supervisor that holds the run's lock from before its first instruction.

    Returns:
        Its pid.

    Raises:
        OSError: It cannot be started, or somebody started one by hand.
    """
    lock = _try_lock(run_dir)
    try:
        supervisor.write_durably(str(run_dir / supervisor.RUN_FILE), _run_record(command, run_dir))
        return _spawn(run_dir, lock)
    finally:
        os.close(lock)  # not unlocked: the supervisor goes on holding it


def _spawn(run_dir: Path, lock: int) -> int:
    """Start the supervisor in a session of its own, with the locked descriptor; return its pid."""
    errors = str(run_dir / _SUPERVISOR_ERRORS_FILE)
    package_root = str(Path(supervisor.__file__).resolve().parents[1])
    # Well above the low numbers, so that the duplicate below is another number, and inheritable.
    high_lock = fcntl.fcntl(lock, fcntl.F_DUPFD_CLOEXEC, 10)
    try:
        # Not `subprocess`: it would warn about, and poll, children that we let outlive us.
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, package_root, str(run_dir), "3"],
            {"LANG": _LOCALE},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                (os.POSIX_SPAWN_DUP2, high_lock, 3),
            ],
            setsid=True,
            setsigmask=[],
        )
    finally:
        os.close(high_lock)


def _reap_at_end(loop: asyncio.AbstractEventLoop, pid: int) -> None:
    """Take the supervisor's exit status as soon as there is one, so that no zombie stays."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:  # the agent ignores SIGCHLD: there are no zombies
        return

    def reap() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

    loop.add_reader(descriptor, reap)


@contextlib.contextmanager
def _supervisor_pidfd(run_dir: Path) -> Iterator[int]:
    """Give a descriptor of the very process that wrote supervisor.json.

    Raises:
        ProcessLookupError: It has ended, or has not yet written who it is.
    """
    record = supervisor.read_record(str(run_dir / supervisor.SUPERVISOR_FILE))
    if record is None or supervisor.find_process(record) is None:
        raise ProcessLookupError
    descriptor = os.pidfd_open(int(str(record["pid"])))
    try:
        if supervisor.find_process(record) is None:  # its pid was another's by then
            raise ProcessLookupError
        yield descriptor
    finally:
        os.close(descriptor)


async def _supervisor_end(run_dir: Path) -> bool:
    """Wait for the end of the supervisor; return False at once where none can be watched."""
    loop = asyncio.get_running_loop()
    try:
        with _supervisor_pidfd(run_dir) as descriptor:
            ended = loop.create_future()
            loop.add_reader(descriptor, _resolve, ended)
            try:
                await ended
            finally:
                loop.remove_reader(descriptor)
    except ProcessLookupError:
        return False
    return True


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _read_log(run_dir: Path, offset: int, limit_bytes: int) -> bytes:
    if not run_dir.exists():
        raise NotFoundError(f"no run {run_dir.name} here")
    try:
        with (run_dir / supervisor.LOG_FILE).open("rb") as file:
            file.seek(offset)
            return file.read(limit_bytes)
    except FileNotFoundError:  # it has not begun to write
        return b""


def _read_log_end(run_dir: Path, limit_bytes: int) -> tuple[bytes, int]:
    if not run_dir.exists():
        raise NotFoundError(f"no run {run_dir.name} here")
    try:
        with (run_dir / supervisor.LOG_FILE).open("rb") as file:
            begin = max(0, file.seek(0, os.SEEK_END) - limit_bytes)
            file.seek(begin)
            data = file.read(limit_bytes)
            return data, begin + len(data)
    except FileNotFoundError:  # it has not begun to write
        return b"", 0


def _supervisor_errors(run_dir: Path) -> str:
    """Return the last line that a supervisor wrote before it gave up; empty if it said nothing."""
    with contextlib.suppress(FileNotFoundError):
        lines = (run_dir / _SUPERVISOR_ERRORS_FILE).read_text(errors="replace").splitlines()
        return lines[-1] if lines else ""
    return ""


def _started_status(started: dict[str, object], *, message: str = "") -> RunStatus:
    return RunStatus(
        RunPhase.RUNNING, started_wall_s=float(str(started["started_wall_s"])), message=message
    )


def _exit_status(record: dict[str, object]) -> RunStatus:
    """Return the content of exit.json as a status."""

    def number(name: str) -> float | None:
        value = record.get(name)
        return None if value is None else float(str(value))

    exit_code, signal_number, peak = (
        number("exit_code"),
        number("signal"),
        number("peak_memory_bytes"),
    )
    if exit_code is None and signal_number is not None:
        exit_code = -signal_number
    return RunStatus(
        RunPhase.EXITED,
        exit_code=None if exit_code is None else int(exit_code),
        reason=ExitReason(record["reason"]),
        started_wall_s=number("started_wall_s"),
        ended_wall_s=number("ended_wall_s"),
        cpu_s=number("cpu_s"),
        peak_memory_bytes=None if peak is None else int(peak),
        message=str(record["message"]),
    )
