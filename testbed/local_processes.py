"""Processes of a local cluster: started to outlive their parent, known again, and stopped.

A pid alone is used again by the kernel, so a process is named by pid, start and boot together.
Linux only, as agents are.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gcos.system import SystemClock, sleep_blocking
from site_agent.supervisor import boot_id, process_stat
from testbed.interruption import interruptible

_LOOK_S: Final = 0.05
#: Protocol seconds after SIGKILL: only a process in uninterruptible sleep takes longer.
_KILL_WAIT_S: Final = 5.0
_TAIL_BYTES: Final = 16_384
#: The shell becomes the command, with the same id, once it is told to.
_AWAIT_RECORD: Final = 'read -r go && exec "$@" < /dev/null'

_now_s = SystemClock().protocol_s


@dataclass(frozen=True, slots=True)
class LocalProcess:
    """A process that was started here.

    Attributes:
        name: What it is, such as `broker` or `agent de`.
        pid: Its id, which the kernel uses again ...
        start_ticks: ... but not with the same start, clock ticks since boot, ...
        boot: ... in the same boot.
        address: `host:port` that it serves at.
        log: Path of the file with its output.
        namespace: Network namespace that it is in, as `ip netns` knows it; empty: the machine's.
    """

    name: str
    pid: int
    start_ticks: int
    boot: str
    address: str
    log: str
    namespace: str = ""

    @property
    def is_alive(self) -> bool:
        """Tell whether this very process still executes."""
        if self.boot != boot_id():
            return False
        _reap(self.pid)
        stat = process_stat(self.pid)
        return stat is not None and stat.start_ticks == self.start_ticks and stat.is_executing

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if self.is_alive:
            os.kill(self.pid, number)


def start(
    name: str,
    command: Sequence[str],
    *,
    address: str,
    environ: Mapping[str, str],
    directory: Path,
    log: Path,
    namespace: str = "",
    record: Callable[[LocalProcess], None] | None = None,
) -> LocalProcess:
    """Start `command` in a session of its own, so that closing the terminal does not end it.

    Args:
        name: What it is.
        command: Program and arguments.
        address: `host:port` that it was told to serve at.
        environ: Its environment.
        directory: Its working directory.
        log: File for its output, which goes on: it may tell why an earlier one died.
        namespace: Network namespace to start it in, which takes root; empty: ours.
        record: Keeps the process's record. `command` begins only after that, and never if we die
            before: so no process is ever unknown.
    """
    if namespace:
        command = ("ip", "netns", "exec", namespace, *command)
    if record is not None:
        command = ("/bin/sh", "-c", _AWAIT_RECORD, "sh", *command)
    with log.open("ab") as output:
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL if record is None else subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=dict(environ),
            start_new_session=True,
        )
    stat = process_stat(child.pid)
    # From here on the process is known by its record; the object would warn that it still runs.
    child.returncode = 0
    process = LocalProcess(
        name,
        pid=child.pid,
        start_ticks=0 if stat is None else stat.start_ticks,
        boot=boot_id(),
        address=address,
        log=str(log),
        namespace=namespace,
    )
    if child.stdin is not None:
        # Closed on failure too, which ends a process that nobody knows of.
        with contextlib.suppress(BrokenPipeError), child.stdin as waiting:
            if record is not None:
                record(process)
            waiting.write(b"go\n")
            waiting.flush()
    return process


def stop(
    processes: Sequence[LocalProcess], *, grace_s: float, tell: Callable[[str], None]
) -> list[LocalProcess]:
    """End processes by SIGTERM, and after `grace_s` protocol seconds by SIGKILL.

    An interruption while they drain ends the grace, and is raised again once all have ended, so
    that nothing is ever left behind.

    Returns:
        Those that had to be killed.
    """
    for process in processes:
        process.send(signal.SIGTERM)
    struck: tuple[int, ...] = ()
    try:
        with interruptible():
            _await_end(processes, timeout_s=grace_s)
    except KeyboardInterrupt as exc:
        tell("not waiting any longer")
        struck = exc.args or (signal.SIGINT,)
    left = [process for process in processes if process.is_alive]
    for process in left:
        process.send(signal.SIGKILL)
        tell(f"killed {process.name} (pid {process.pid}), which had not ended by itself")
    _await_end(left, timeout_s=_KILL_WAIT_S)
    for number in struck:
        signal.raise_signal(number)
    return left


def kill(process: LocalProcess) -> None:
    """End a process by SIGKILL, at once; it has ended when this returns."""
    process.send(signal.SIGKILL)
    _await_end([process], timeout_s=_KILL_WAIT_S)


def log_tail(process: LocalProcess, *, line_count: int) -> list[str]:
    """Return the last lines of a process's output, without what would drive a terminal."""
    try:
        with Path(process.log).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = text.splitlines()[-line_count:]
    return ["".join(ch if ch.isprintable() else " " for ch in line) for line in lines]


def _await_end(processes: Sequence[LocalProcess], *, timeout_s: float) -> None:
    until_s = _now_s() + timeout_s
    while any(process.is_alive for process in processes) and _now_s() < until_s:
        sleep_blocking(_LOOK_S)


def _reap(pid: int) -> None:
    """Take the exit status where the process is our own child; else there is nothing to do."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
