"""The process that stands beside one run: it starts the job, holds its lease and records its end.

    python -m site_agent.supervisor RUN_DIR [LOCK_FD]

One supervisor serves one run and outlives the agent. What it promises (DESIGN section 4, I3):

- The job executes at most once. The supervisor holds an exclusive `flock` on `supervisor.lock` for
  its whole life and refuses to start where `started.json` or `exit.json` lies already.
  `started.json` is on disk before the job's program is executed.
- Nothing of the job executes past the lease's deadline, whether or not anybody is left to renew
  it: SIGTERM goes out early enough that SIGKILL falls before the deadline. Deadlines are seconds
  of CLOCK_BOOTTIME, so a suspended machine wakes up to an expired lease.
- When the job's first process ends, whatever else of it is left is killed, including processes
  that left the process group: as a child subreaper the supervisor inherits every orphan.
- If the supervisor itself is killed, the kernel kills the job's first process (PR_SET_PDEATHSIG);
  `kill_remains` ends the rest when an executor next looks at the run.

It does not isolate: a hostile job has the rights of its user, may kill its own supervisor and may
write the run directory. A job that must be contained belongs in a container executor.

Files in the run directory, all but the log written by rename:

    run.json          what to run (from the executor); removed once read, since its environment may
                      hold secrets
    lease             "<deadline, protocol seconds> <boot id>"; the executor replaces it to extend
    cancel            present: the run is cancelled; the durable half of a SIGTERM to the supervisor
    supervisor.lock   held while the supervisor lives
    supervisor.json   pid and start ticks of the supervisor
    started.json      pid (also the group and the session) and start ticks of the job
    log               standard output and error of the job, bounded
    exit.json         how the run ended

Linux only. A site may have hundreds of these processes, so the module imports nothing of ours and
little of the standard library: `gcos.system` alone (through `secrets`, `dataclasses`, `typing`)
would raise each from 11 to 17 MB and its start from 23 to 43 ms (measured). That is why it reads
the clock itself and why its records are plain classes.
"""
# pathlib would add to the imports of a process that exists once per run:
# ruff: noqa: PTH100, PTH104, PTH108, PTH110, PTH115, PTH118, PTH120, PTH123, PTH208

import contextlib
import ctypes
import fcntl
import json
import math
import os
import resource
import select
import signal
import sys
import time  # Not through gcos.system: see above.

RUN_FILE = "run.json"
LEASE_FILE = "lease"
CANCEL_FILE = "cancel"
LOCK_FILE = "supervisor.lock"
SUPERVISOR_FILE = "supervisor.json"
STARTED_FILE = "started.json"
LOG_FILE = "log"
EXIT_FILE = "exit.json"
TEMPORARY_DIRECTORY = "tmp"

#: Reasons in exit.json; `site_agent.executors.interface.ExitReason` has the same values.
EXITED = "EXITED"
LEASE_EXPIRED = "LEASE_EXPIRED"
CANCELLED = "CANCELLED"
START_FAILED = "START_FAILED"
SUPERVISOR_LOST = "SUPERVISOR_LOST"

#: Exit status of a supervisor that found its run taken, started or ended (EX_TEMPFAIL of sysexits).
REFUSED = 75

#: SIGKILL falls this long before the deadline, so that processes are gone when it comes.
_KILL_LEAD_S = 0.1
#: Of the time that a lease still has, at most this part goes to each of grace and kill lead, so
#: that a long grace cannot eat a short lease. With renewals every third of the lease a job sees
#: SIGTERM only after two renewals were missed.
_LEAD_PART = 0.25
#: SIGKILL is repeated at this interval: a process may have forked while the others were found.
_KILL_AGAIN_S = 0.05
#: How long `kill_remains` waits for each process that it killed.
_END_WAIT_MS = 100
#: Room kept in exit.json from the start, so that a job that fills the disk still gets its record.
_EXIT_ROOM_BYTES = 4096
#: JSON may take twelve bytes for a character, and the message is all in exit.json that varies.
_MESSAGE_CHARS_MAX = 300
_LOG_CHUNK_BYTES = 1 << 16
#: Largest pipe that an unprivileged process may ask for: the default of fs.pipe-max-size.
_PIPE_BYTES_MAX = 1 << 20
#: End of an output that is kept where the whole is too long; in memory while the job runs.
_TAIL_BYTES_MAX = 1 << 20

# From linux/prctl.h, linux/time.h and sys/timerfd.h.
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CLOCK_BOOTTIME = 7
_TFD_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1

_HANDLED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_libc = ctypes.CDLL(None, use_errno=True)


class ProcessStat:
    """One line of /proc/PID/stat: what tells processes and their kinship apart."""

    __slots__ = ("group", "parent", "pid", "session", "start_ticks", "state")

    def __init__(self, pid: int, text: str) -> None:
        # The command name, in parentheses, may itself hold blanks and parentheses.
        fields = text[text.rindex(")") + 2 :].split()
        self.pid = pid
        #: One letter; Z and X are dead.
        self.state = fields[0]
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.session = int(fields[3])
        #: Clock ticks from boot to the start of the process: with the pid a unique name.
        self.start_ticks = int(fields[19])

    @property
    def is_executing(self) -> bool:
        """Tell whether the process is neither dead nor a zombie."""
        return self.state not in "ZX"


def process_stat(pid: int) -> ProcessStat | None:
    """Return what /proc tells of `pid`, or None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return ProcessStat(pid, file.read())
    except (OSError, ValueError):  # gone before or while it was read
        return None


def processes() -> list[ProcessStat]:
    """Return all processes of this PID namespace, by pid."""
    found = (process_stat(int(name)) for name in sorted(os.listdir("/proc")) if name.isdigit())
    return [stat for stat in found if stat is not None]


def boot_id() -> str:
    """Return the id that the kernel drew at boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def identity(pid: int) -> dict[str, object]:
    """Return what names the process `pid` for good: pids alone are used again."""
    stat = process_stat(pid)
    return {
        "pid": pid,
        "start_ticks": stat.start_ticks if stat else 0,
        "boot_id": boot_id(),
        # The same pid in a restarted container, on the same boot, is another process.
        "pid_namespace": os.readlink("/proc/self/ns/pid"),
    }


def is_of_this_boot(record: dict[str, object]) -> bool:
    """Tell whether the pids in `record` can name processes that this process sees."""
    return record.get("boot_id") == boot_id() and record.get("pid_namespace") == os.readlink(
        "/proc/self/ns/pid"
    )


def find_process(record: dict[str, object]) -> ProcessStat | None:
    """Return the process that `identity` recorded, or None once it is gone."""
    if not is_of_this_boot(record):
        return None
    stat = process_stat(int(str(record["pid"])))
    return stat if stat and stat.start_ticks == record["start_ticks"] else None


def read_record(path: str) -> dict[str, object] | None:
    """Return the JSON object in `path`, or None where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def sync_directory(path: str) -> None:
    """Make the names in the directory `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: str, record: dict[str, object]) -> None:
    """Replace `path` by `record` as JSON; after the return it survives a loss of power."""
    temporary = f"{path}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
    sync_directory(os.path.dirname(path))


def write_lease(run_dir: str, until_s: float) -> None:
    """Let the lease of the run end at `until_s` (protocol seconds of this boot).

    Not synced: a lease lost with the power belongs to another boot, which is as good as expired.
    """
    path = os.path.join(run_dir, LEASE_FILE)
    temporary = f"{path}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(f"{until_s!r} {boot_id()}\n")
    os.rename(temporary, path)


def read_lease(run_dir: str) -> float | None:
    """Return the deadline of the lease in protocol seconds; None where nothing readable is there.

    A lease of another boot has ended: its deadline is minus infinity.
    """
    try:
        with open(os.path.join(run_dir, LEASE_FILE), encoding="ascii") as file:
            until_text, boot = file.read().split()
        until_s = float(until_text)
    except (OSError, ValueError):
        return None
    if not math.isfinite(until_s):
        return None
    return until_s if boot == boot_id() else -math.inf


def ending(until_s: float, *, now_s: float, grace_s: float) -> tuple[float, float]:
    """Return when SIGTERM and when SIGKILL go out under a lease read at `now_s`.

    All in protocol seconds; both instants lie before `until_s`, unless that has passed already.
    """
    left_s = max(0.0, until_s - now_s)
    kill_at_s = until_s - min(_KILL_LEAD_S, left_s * _LEAD_PART)
    return kill_at_s - min(grace_s, left_s * _LEAD_PART), kill_at_s


def kill_remains(run_id: str, started: dict[str, object]) -> int:
    """Kill what is left of a job whose supervisor is gone; return how many processes that were.

    Those are the recorded process group and every process that carries the run's id in the
    environment it was started with, which finds the ones that left the group. Only 0 says that
    nothing of the job is executing: the caller repeats.

    Args:
        run_id: Id of the run, as in the job's GCOS_RUN_ID.
        started: The content of started.json.
    """
    if not is_of_this_boot(started):
        return 0
    group = int(str(started["pid"]))
    ticks = int(str(started["start_ticks"]))
    leader = process_stat(group)
    # A pid is not given out again while a group of that number exists. So a leader that started
    # at another time says that the group is gone; no leader at all says nothing, since its end
    # leaves the group behind.
    is_group_ours = leader is None or leader.start_ticks == ticks
    mark = f"GCOS_RUN_ID={run_id}".encode()
    found_count = 0
    for stat in processes():
        in_group = (
            is_group_ours
            and stat.group == group
            and stat.session == group
            and stat.start_ticks >= ticks
        )
        if stat.is_executing and (in_group or mark in _environment(stat.pid)):
            found_count += 1
            with contextlib.suppress(OSError):  # gone, or of another user: the next round tells
                _kill_exactly(stat)
    return found_count


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:  # another user's process, or gone
        return []


def _kill_exactly(stat: ProcessStat) -> None:
    """Send SIGKILL to the process of `stat`, never to a later namesake, and wait for its end.

    Raises:
        OSError: It is gone, or belongs to another user.
    """
    descriptor = os.pidfd_open(stat.pid)
    try:
        found = process_stat(stat.pid)
        if found is not None and found.start_ticks == stat.start_ticks:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            poller = select.poll()  # unlike `select` it takes descriptors of any number
            poller.register(descriptor, select.POLLIN)
            poller.poll(_END_WAIT_MS)
    finally:
        os.close(descriptor)


class StartError(Exception):
    """The job could not be started; the message is for the user."""


class Command:
    """The content of run.json."""

    __slots__ = ("argv", "env", "grace_s", "log_max_bytes", "run_id", "working_dir")

    def __init__(self, record: dict[str, object]) -> None:
        argv, env = record["argv"], record["env"]
        assert isinstance(argv, list)
        assert isinstance(env, dict)
        self.run_id = str(record["run_id"])
        self.argv = [str(argument) for argument in argv]
        self.env = {str(name): str(value) for name, value in env.items()}
        self.working_dir = str(record["working_dir"])
        self.log_max_bytes = int(str(record["log_max_bytes"]))
        self.grace_s = float(str(record["grace_s"]))


class _BoundedLog:
    """Takes the job's output from a pipe to a file of limited size: its beginning and its end.

    The pipe goes on being emptied, so that the job neither blocks nor dies of SIGPIPE. What is
    kept of the end stays in memory until `finish` appends it: the file itself only grows, so that
    whoever follows it reads on where they were.
    """

    def __init__(self, path: str, pipe: int, *, max_bytes: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._tail_max_bytes = min(max_bytes // 4, _TAIL_BYTES_MAX)
        self._left_bytes = max_bytes - self._tail_max_bytes
        self._tail = bytearray()
        self._left_out_bytes = 0
        self._is_broken = False
        self.pipe = pipe

    def take(self) -> bool:
        """Take what one read gives; return False once every writer has closed the pipe.

        Raises:
            BlockingIOError: There is nothing at present.
        """
        chunk = os.read(self.pipe, _LOG_CHUNK_BYTES)
        kept = chunk[: self._left_bytes]
        self._left_bytes -= len(kept)
        self._write(kept)
        self._tail += chunk[len(kept) :]
        excess = max(0, len(self._tail) - self._tail_max_bytes)
        del self._tail[:excess]
        self._left_out_bytes += excess
        return bool(chunk)

    def take_rest(self) -> None:
        """Take what the pipe still holds, and not what a stranger may go on writing into it."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_PIPE_BYTES_MAX // _LOG_CHUNK_BYTES):
                if not self.take():
                    break

    def finish(self) -> None:
        """Append the end of the output, after a line that says how much is left out before it."""
        if self._left_out_bytes:
            self._write(f"\n[{self._left_out_bytes} bytes are left out here]\n".encode())
        self._write(bytes(self._tail))
        self._tail.clear()
        self._left_out_bytes = 0

    def _write(self, rest: bytes) -> None:
        try:
            while rest and not self._is_broken:
                rest = rest[os.write(self._file, rest) :]
        except OSError:  # disk full or in error: the job goes on, its log does not
            self._is_broken = True


class Supervisor:
    """One run, from its command to its record. `run` returns when nothing of the job is left."""

    def __init__(self, run_dir: str, command: Command) -> None:
        self._run_dir = run_dir
        self._command = command
        self._until_s = -math.inf
        self._reason: str | None = None
        self._kill_at_s = math.inf
        self._job_pid = 0
        self._job_status: int | None = None
        self._started_wall_s: float | None = None
        self._timer = _checked(_libc.timerfd_create(_CLOCK_BOOTTIME, _TFD_NONBLOCK_CLOEXEC))
        self._wakeup, wakeup_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._start_errors = -1
        self._log: _BoundedLog | None = None
        for number in _HANDLED:
            signal.signal(number, lambda _number, _frame: None)  # the wake-up pipe is read instead
        signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
        _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))

    def run(self) -> dict[str, object]:
        """Start the job, stay with it to its end and return the content of exit.json."""
        # The identity goes out before `cancel` is looked for: whoever creates `cancel` later finds
        # a pid to send SIGTERM to, and the handlers stand already.
        write_durably(self._path(SUPERVISOR_FILE), identity(os.getpid()))
        if os.path.exists(self._path(CANCEL_FILE)):
            return self.record(CANCELLED, "cancelled before the start")
        if not self._lease_holds():
            return self.record(LEASE_EXPIRED, "the lease had ended before the start")
        try:
            self._start()
            self._attend()
        finally:
            self._end_all()
        return self._final_record()

    def record(self, reason: str, message: str) -> dict[str, object]:
        """Return a content for exit.json; the resources are those of all processes reaped."""
        code = None
        if self._job_status is not None and reason != START_FAILED:
            code = os.waitstatus_to_exitcode(self._job_status)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "reason": reason,
            "exit_code": code if code is not None and code >= 0 else None,
            "signal": -code if code is not None and code < 0 else None,
            "started_wall_s": self._started_wall_s,
            "ended_wall_s": time.time(),
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "peak_memory_bytes": usage.ru_maxrss * 1024,
            "message": message[:_MESSAGE_CHARS_MAX],
        }

    def failure_record(self, error: OSError) -> dict[str, object]:
        """Return a content for exit.json that says why the supervisor itself failed."""
        reason = START_FAILED if self._started_wall_s is None else SUPERVISOR_LOST
        return self.record(reason, f"the supervisor failed: {error}")

    def _path(self, name: str) -> str:
        return os.path.join(self._run_dir, name)

    def _lease_holds(self) -> bool:
        """Read the lease and set the timer by it; return False when SIGTERM is due.

        An unreadable lease extends nothing: the deadline known before stands.
        """
        now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        read_s = read_lease(self._run_dir)
        if read_s is not None and read_s != self._until_s:
            self._until_s = read_s
            term_at_s, self._kill_at_s = ending(read_s, now_s=now_s, grace_s=self._command.grace_s)
            if now_s < term_at_s:
                self._set_timer(term_at_s)
                return True
        # Either the lease is the one whose SIGTERM is due, or there is none at all.
        return False

    def _set_timer(self, at_s: float) -> None:
        """Wake at `at_s`; CLOCK_BOOTTIME fires on resume where it passed during suspension."""
        at_s = max(at_s, 0.001)  # zero would disarm
        whole_s = int(at_s)
        value = (ctypes.c_long * 4)(0, 0, whole_s, int((at_s - whole_s) * 1e9))
        _checked(_libc.timerfd_settime(self._timer, _TFD_TIMER_ABSTIME, value, None))

    def _start(self) -> None:
        """Fork the job; it executes its program only after started.json is durable."""
        output, output_writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(output, False)
        self._log = _BoundedLog(self._path(LOG_FILE), output, max_bytes=self._command.log_max_bytes)
        self._start_errors, error_writer = os.pipe2(os.O_CLOEXEC)
        go, go_writer = os.pipe2(os.O_CLOEXEC)
        supervisor_pid = os.getpid()
        self._job_pid = os.fork()
        if self._job_pid == 0:
            os.close(go_writer)
            _become_job(self._command, supervisor_pid, go, output_writer, error_writer)
        os.close(output_writer)
        os.close(error_writer)
        os.close(go)
        self._started_wall_s = time.time()
        started = identity(self._job_pid)
        started["started_wall_s"] = self._started_wall_s
        write_durably(self._path(STARTED_FILE), started)
        os.write(go_writer, b"g")
        os.close(go_writer)

    def _attend(self) -> None:
        """Serve the timer, signals and output until the job's first process has ended."""
        assert self._log is not None
        poller = select.poll()
        for descriptor in (self._timer, self._wakeup, self._log.pipe):
            poller.register(descriptor, select.POLLIN)
        while self._job_status is None:
            ready = {descriptor for descriptor, _ in poller.poll()}
            if self._wakeup in ready:
                self._on_signals(os.read(self._wakeup, 256))
            if self._timer in ready:
                with contextlib.suppress(BlockingIOError):  # set anew in the meantime
                    os.read(self._timer, 8)
                    self._on_timer()
            if self._log.pipe in ready:
                with contextlib.suppress(BlockingIOError):
                    if not self._log.take():
                        poller.unregister(self._log.pipe)

    def _on_signals(self, numbers: bytes) -> None:
        if signal.SIGCHLD in numbers:
            self._reap(os.WNOHANG)
        wishes_end = signal.SIGTERM in numbers or signal.SIGINT in numbers
        if wishes_end and self._reason is None and self._job_status is None:
            now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
            self._end(CANCELLED, kill_at_s=min(now_s + self._command.grace_s, self._kill_at_s))

    def _on_timer(self) -> None:
        if self._reason is not None:
            self._signal_all(signal.SIGKILL)
            self._set_timer(time.clock_gettime(time.CLOCK_BOOTTIME) + _KILL_AGAIN_S)
        elif not self._lease_holds():
            self._end(LEASE_EXPIRED, kill_at_s=self._kill_at_s)

    def _end(self, reason: str, *, kill_at_s: float) -> None:
        self._reason = reason
        self._set_timer(kill_at_s)
        self._signal_all(signal.SIGTERM)
        self._signal_all(signal.SIGCONT)  # a stopped process takes SIGTERM only once it continues

    def _signal_all(self, number: int) -> None:
        """Signal the job's group in one stroke, then descendants outside of it one by one."""
        # Until the job is reaped its pid, and so the group's number, cannot be another's.
        if self._job_pid and self._job_status is None:
            with contextlib.suppress(ProcessLookupError):  # not yet in a group of its own
                os.killpg(self._job_pid, number)
        for stat in self._descendants():
            if self._job_status is not None or stat.group != self._job_pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(stat.pid, number)

    def _descendants(self) -> list[ProcessStat]:
        """Return all living descendants, nearest first."""
        children: dict[int, list[ProcessStat]] = {}
        for stat in processes():
            children.setdefault(stat.parent, []).append(stat)
        found = list(children.get(os.getpid(), []))
        for stat in found:  # grows while it is walked
            found.extend(children.get(stat.pid, []))
        return [stat for stat in found if stat.is_executing]

    def _reap(self, options: int) -> bool:
        """Reap children, all of them with WNOHANG and else one; return False when none is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, options)
            except ChildProcessError:
                return False
            if pid == self._job_pid:
                self._job_status = status
            if pid == 0 or not options & os.WNOHANG:
                return True

    def _end_all(self) -> None:
        """Kill and reap all that is left of the job, then take the rest of its output.

        A process that the kernel cannot kill yet (in uninterruptible sleep) holds this up: as long
        as it is there, the run has not ended.
        """
        while True:
            self._signal_all(signal.SIGKILL)
            if not self._reap(0):
                break
        if self._log is not None:
            self._log.take_rest()
            self._log.finish()

    def _final_record(self) -> dict[str, object]:
        error = os.read(self._start_errors, 4 * _MESSAGE_CHARS_MAX)
        if error:
            return self.record(START_FAILED, error.decode("utf-8", "replace"))
        if self._reason == LEASE_EXPIRED:
            return self.record(LEASE_EXPIRED, "the lease ended before the job did")
        if self._reason == CANCELLED:
            return self.record(CANCELLED, "cancelled")
        record = self.record(EXITED, "")
        if record["signal"] is not None:
            number = int(str(record["signal"]))
            record["message"] = f"ended by signal {number} ({signal.strsignal(number)})"
        return record


def _become_job(command: Command, supervisor_pid: int, go: int, output: int, errors: int) -> None:
    """Turn the forked child into the job; does not return."""
    try:
        # First, so that no death of the supervisor goes unnoticed; then look whether it died
        # before. The end of the pipe `go` tells the same until the byte has come.
        _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (*_HANDLED, signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores the last two
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        if os.getppid() == supervisor_pid and os.read(go, 1):
            _execute(command)
    except (StartError, OSError, ValueError) as error:
        os.write(errors, str(error).encode("utf-8", "replace")[: 4 * _MESSAGE_CHARS_MAX])
    finally:
        os._exit(127)


def _execute(command: Command) -> None:
    """Replace this process by the command.

    Raises:
        StartError: There is no such directory or command, or it may not be executed.
    """
    name = command.argv[0]
    try:
        os.chdir(command.working_dir)
    except OSError as error:
        raise StartError(
            f"cannot enter the working directory {command.working_dir!r}: {error.strerror}"
        ) from error
    try:
        os.execvpe(name, command.argv, command.env)  # noqa: S606 - a list, and no shell, is meant
    except FileNotFoundError as error:
        where = "" if "/" in name else f" in PATH {command.env.get('PATH', '')!r}"
        raise StartError(f"command not found: {name!r}{where}") from error
    except OSError as error:
        raise StartError(f"cannot execute {name!r}: {error.strerror}") from error


def _checked(result: int) -> int:
    """Return what a C function returned.

    Raises:
        OSError: It failed.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _reserve_exit_room(path: str) -> None:
    descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(descriptor, b" " * _EXIT_ROOM_BYTES)
    os.fsync(descriptor)
    os.close(descriptor)


def _record_exit(path: str, record: dict[str, object]) -> None:
    """Write exit.json durably into the room that was reserved for it."""
    text = json.dumps(record).encode()
    assert len(text) <= _EXIT_ROOM_BYTES
    descriptor = os.open(f"{path}.new", os.O_WRONLY)
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))
    os.fsync(descriptor)
    os.close(descriptor)
    os.rename(f"{path}.new", path)
    sync_directory(os.path.dirname(path))


def _close_foreign(kept: int | None) -> None:
    """Close what the agent's libraries may have left open: neither we nor the job have a use."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != kept:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                os.close(int(name))


def _hold_lock(run_dir: str, inherited: int | None) -> bool:
    """Hold supervisor.lock to the end of this process; return False where another one does.

    The executor hands its locked descriptor down, so that the lock is never free between its
    decision to start and the supervisor.
    """
    if inherited is not None:
        os.set_inheritable(inherited, False)
        return True
    # Never closed: the lock ends with the process.
    descriptor = os.open(os.path.join(run_dir, LOCK_FILE), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main(arguments: list[str]) -> int:
    """Supervise the run in the directory `arguments[0]`; return the exit status."""
    run_dir = os.path.abspath(arguments[0])
    inherited = int(arguments[1]) if len(arguments) > 1 else None
    exit_path = os.path.join(run_dir, EXIT_FILE)
    _close_foreign(inherited)
    if not _hold_lock(run_dir, inherited):
        return REFUSED
    if os.path.exists(exit_path) or os.path.exists(os.path.join(run_dir, STARTED_FILE)):
        return REFUSED
    os.chdir("/")
    _reserve_exit_room(exit_path)
    run_path = os.path.join(run_dir, RUN_FILE)
    record = read_record(run_path)
    if record is None:
        return REFUSED
    os.unlink(run_path)
    supervisor = Supervisor(run_dir, Command(record))
    try:
        result = supervisor.run()
    except OSError as error:  # such as no process slot; `run` has killed what there was
        result = supervisor.failure_record(error)
    _record_exit(exit_path, result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
