"""The supervisor as a process: what it executes, for how long, and what it writes down."""

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.system import SystemClock, unique_text
from site_agent import supervisor
from site_agent.executors.interface import ExitReason

PACKAGE_ROOT = str(Path(supervisor.__file__).parents[1])
FAR_S = 3600.0
HANG_S = 60.0
"""A test that waits longer than this has failed; none depends on how long anything takes."""


class Run:
    """A run directory and the supervisor over it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Of this test alone: by it remains are found among all processes of the machine.
        self.name = f"test-{unique_text()}"
        self.process: subprocess.Popen[bytes] | None = None

    def prepare(
        self, *argv: str, lease_s: float = FAR_S, grace_s: float = 30.0, log_max_bytes: int = 10_000
    ) -> None:
        env = {"PATH": os.environ["PATH"], "GCOS_RUN_ID": self.name, "DIR": str(self.path)}
        record = {
            "run_id": self.name,
            "argv": argv,
            "env": env,
            "working_dir": str(self.path),
            "log_max_bytes": log_max_bytes,
            "grace_s": grace_s,
        }
        (self.path / "run.json").write_text(json.dumps(record))
        os.mkfifo(self.path / "said")
        supervisor.write_lease(str(self.path), SystemClock().protocol_s() + lease_s)

    def launch(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "site_agent.supervisor", str(self.path)],
            env={"PYTHONPATH": PACKAGE_ROOT},
        )

    def end(self) -> int:
        assert self.process is not None
        return self.process.wait(HANG_S)

    def record(self) -> dict[str, object]:
        return json.loads((self.path / "exit.json").read_text())  # type: ignore[no-any-return]

    def execute(self, *argv: str, lease_s: float = FAR_S, log_max_bytes: int = 10_000) -> None:
        self.prepare(*argv, lease_s=lease_s, log_max_bytes=log_max_bytes)
        self.launch()
        assert self.end() == 0

    def log(self) -> bytes:
        return (self.path / "log").read_bytes()

    def hear(self) -> str:
        """Wait for the next line that the job writes into the pipe `said`."""
        return self._hear(HANG_S, lambda: pytest.fail("the job said nothing"))

    def hear_renewing(self, lease_s: float) -> tuple[str, float]:
        """Wait for a line under leases that go on until it comes; return it and the last one's end.

        However long the start takes, the job lives then, and has so long to live.
        """
        clock, until_s = SystemClock(), 0.0
        hangs_s = clock.protocol_s() + HANG_S

        def renew() -> None:
            nonlocal until_s
            assert clock.protocol_s() < hangs_s, "the job said nothing"
            until_s = clock.protocol_s() + lease_s
            supervisor.write_lease(str(self.path), until_s)

        renew()
        return self._hear(lease_s / 20, renew), until_s

    def _hear(self, patience_s: float, act: Callable[[], None]) -> str:
        descriptor = os.open(self.path / "said", os.O_RDWR)
        try:
            text = b""
            while not text.endswith(b"\n"):
                if select.select([descriptor], [], [], patience_s)[0]:
                    text += os.read(descriptor, 1)
                else:
                    act()
            return text.decode().strip()
        finally:
            os.close(descriptor)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.terminate()
        made.end()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group and has nothing to do with any run."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        yield process
        process.kill()


def is_executing(pid: int) -> bool:
    stat = supervisor.process_stat(pid)
    return stat is not None and stat.is_executing


def await_end(pid: int) -> None:
    """Wait until `pid` is dead; at once where it is already."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], HANG_S)[0], f"{pid} goes on"
    finally:
        os.close(descriptor)


def test_the_exit_code_and_the_resources_of_the_job_are_recorded(run: Run) -> None:
    burn = "import time\nwhile time.process_time() < 0.05: pass\nx = bytearray(40_000_000)\nexit(7)"
    run.execute(sys.executable, "-c", burn)
    record = run.record()
    assert (record["reason"], record["exit_code"], record["signal"]) == ("EXITED", 7, None)
    assert float(str(record["cpu_s"])) >= 0.05
    assert int(str(record["peak_memory_bytes"])) >= 40_000_000
    assert float(str(record["started_wall_s"])) <= float(str(record["ended_wall_s"]))


def test_a_job_that_dies_of_a_signal_is_recorded_with_the_signal(run: Run) -> None:
    run.execute("/bin/sh", "-c", "kill -SEGV $$")
    record = run.record()
    assert (record["reason"], record["exit_code"]) == ("EXITED", None)
    assert record["signal"] == signal.SIGSEGV
    assert "Segmentation" in str(record["message"])


def test_output_and_errors_go_to_the_log_and_no_shell_interprets_arguments(run: Run) -> None:
    run.execute("/bin/sh", "-c", 'echo "$1"; echo bad >&2', "sh", "$HOME; *")
    assert run.log() == b"$HOME; *\nbad\n"


def test_the_job_gets_the_environment_of_its_command_and_nothing_else(run: Run) -> None:
    run.execute("env")  # not from a shell, which would add variables
    names = {line.split("=")[0] for line in run.log().decode().splitlines()}
    assert names == {"PATH", "GCOS_RUN_ID", "DIR"}


def test_the_command_with_its_secrets_does_not_stay_on_disk(run: Run) -> None:
    run.execute("true")
    assert not (run.path / "run.json").exists()


def test_a_run_that_has_ended_is_not_started_again(run: Run) -> None:
    run.execute("/bin/sh", "-c", "echo once >> $DIR/count")
    (run.path / "said").unlink()
    run.prepare("/bin/sh", "-c", "echo twice >> $DIR/count")
    run.launch()
    assert run.end() == supervisor.REFUSED
    assert (run.path / "count").read_text() == "once\n"


def test_a_run_that_may_have_been_started_is_not_started_again(run: Run) -> None:
    run.prepare("/bin/sh", "-c", "echo twice >> $DIR/count")
    (run.path / "started.json").write_text("{}")
    run.launch()
    assert run.end() == supervisor.REFUSED
    assert not (run.path / "count").exists()


def test_a_run_whose_lock_is_held_is_refused(run: Run) -> None:
    run.prepare("/bin/sh", "-c", "echo twice >> $DIR/count")
    with (run.path / "supervisor.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run.launch()
        assert run.end() == supervisor.REFUSED
    assert not (run.path / "count").exists()


def test_a_cancelled_run_is_never_executed(run: Run) -> None:
    run.prepare("/bin/sh", "-c", "touch $DIR/executed")
    (run.path / "cancel").touch()
    run.launch()
    assert run.end() == 0
    assert run.record()["reason"] == "CANCELLED"
    assert not (run.path / "executed").exists()


@pytest.mark.parametrize("lease", ["{now_plus_hour} another-boot\n", "0.5 {boot}\n", "", "nan nan"])
def test_without_a_lease_that_holds_nothing_is_executed(run: Run, lease: str) -> None:
    run.prepare("/bin/sh", "-c", "touch $DIR/executed")
    text = lease.format(now_plus_hour=SystemClock().protocol_s() + FAR_S, boot=supervisor.boot_id())
    (run.path / "lease").write_text(text)
    run.launch()
    assert run.end() == 0
    assert run.record()["reason"] == "LEASE_EXPIRED"
    assert not (run.path / "executed").exists()


def test_sigterm_cancels_and_lets_the_job_clean_up(run: Run) -> None:
    run.prepare(
        "/bin/sh",
        "-c",
        "trap 'echo bye; exit 3' TERM; echo up > $DIR/said; sleep 1000 & wait",
    )
    run.launch()
    run.hear()
    assert run.process is not None
    run.process.terminate()
    assert run.end() == 0
    record = run.record()
    assert (record["reason"], record["exit_code"]) == ("CANCELLED", 3)
    assert run.log() == b"bye\n"


def test_a_job_that_ignores_sigterm_is_killed_after_the_grace(run: Run) -> None:
    run.prepare(
        "/bin/sh",
        "-c",
        "trap '' TERM; echo up > $DIR/said; while :; do sleep 1000; done",
        grace_s=0.05,
    )
    run.launch()
    run.hear()
    assert run.process is not None
    run.process.terminate()
    assert run.end() == 0
    assert run.record()["reason"] == "CANCELLED"
    assert run.record()["signal"] == signal.SIGKILL


def test_a_stopped_job_can_be_cancelled(run: Run) -> None:
    run.prepare("/bin/sh", "-c", "echo up > $DIR/said; kill -STOP $$; sleep 1000")
    run.launch()
    run.hear()
    assert run.process is not None
    run.process.terminate()
    assert run.end() == 0
    assert run.record()["signal"] == signal.SIGTERM


def test_at_the_end_of_the_lease_every_process_of_the_job_is_dead(run: Run) -> None:
    """Nobody renews: a dead agent and a frozen one look the same from here."""
    # A child in the group, and one that left it, both deaf to SIGTERM.
    script = "trap '' TERM; sleep 1000 & a=$!; setsid sleep 1000 & echo $$ $a $! > $DIR/said; wait"
    run.prepare("/bin/sh", "-c", script, lease_s=2.5, grace_s=0.1)
    run.launch()
    said, _ = run.hear_renewing(2.5)
    pids = [int(pid) for pid in said.split()]
    assert run.end() == 0
    assert run.record()["reason"] == "LEASE_EXPIRED"
    assert len(pids) == 3
    assert not any(map(is_executing, pids))


def test_a_renewed_lease_keeps_the_job_alive_past_the_first_deadline(run: Run) -> None:
    script = "echo here > $DIR/said; read word < $DIR/go; exit 5"
    run.prepare("/bin/sh", "-c", script, lease_s=2.0)
    os.mkfifo(run.path / "go")
    run.launch()
    _, first_s = run.hear_renewing(2.0)
    supervisor.write_lease(str(run.path), first_s + FAR_S)
    # Another run under the first lease tells when that has passed.
    other_path = run.path / "other"
    other_path.mkdir()
    other = Run(other_path)
    other.prepare("/bin/sh", "-c", "trap '' TERM; while :; do sleep 1000; done")
    supervisor.write_lease(str(other_path), first_s)
    other.launch()
    assert other.end() == 0
    assert other.record()["reason"] == "LEASE_EXPIRED"
    (run.path / "go").write_text("go\n")
    assert run.end() == 0
    record = run.record()
    assert (record["reason"], record["exit_code"]) == ("EXITED", 5)


def test_what_the_job_leaves_running_is_killed_when_it_ends(run: Run) -> None:
    run.execute("/bin/sh", "-c", "setsid sleep 1000 & sleep 1000 & echo $! > $DIR/pid; exit 0")
    assert not is_executing(int((run.path / "pid").read_text()))
    assert run.record()["exit_code"] == 0
    children = [
        stat for stat in supervisor.processes() if b"DIR=%s" % bytes(run.path) in _env(stat)
    ]
    assert children == []


def _env(stat: supervisor.ProcessStat) -> list[bytes]:
    try:
        return Path(f"/proc/{stat.pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def test_the_job_dies_with_its_supervisor(run: Run) -> None:
    run.prepare("/bin/sh", "-c", "env -i sleep 1000 & echo $$ > $DIR/said; wait")
    run.launch()
    pid = int(run.hear())
    assert run.process is not None
    run.process.kill()
    run.end()
    await_end(pid)
    started = supervisor.read_record(str(run.path / "started.json"))
    assert started is not None
    assert started["pid"] == pid
    # The `sleep` was not the supervisor's child and carries no mark: it is found by its group.
    assert supervisor.kill_remains(run.name, started) == 1
    assert supervisor.kill_remains(run.name, started) == 0


def test_remains_that_left_the_group_are_found_by_their_environment(run: Run) -> None:
    run.prepare("/bin/sh", "-c", "setsid sleep 1000 & echo $! > $DIR/said; wait")
    run.launch()
    pid = int(run.hear())
    assert run.process is not None
    run.process.kill()
    run.end()
    started = supervisor.read_record(str(run.path / "started.json"))
    assert started is not None
    await_end(int(str(started["pid"])))
    while supervisor.kill_remains(run.name, started):
        pass
    assert not is_executing(pid)


@pytest.mark.parametrize(
    "change", [{"start_ticks": 1}, {"boot_id": "another"}, {"pid_namespace": "pid:[1]"}]
)
def test_a_process_that_only_shares_the_number_is_left_alone(
    bystander: subprocess.Popen[bytes], change: dict[str, object]
) -> None:
    record = supervisor.identity(bystander.pid) | change
    assert supervisor.find_process(record) is None
    assert supervisor.kill_remains("test-nobody", record) == 0
    assert bystander.poll() is None


def test_a_log_over_its_limit_keeps_beginning_and_end_and_the_job_goes_on(run: Run) -> None:
    script = "import sys\nfor _ in range(3000): sys.stdout.write('x' * 1000)"
    script += "\nprint('the end')\nsys.exit(4)"
    run.execute(sys.executable, "-c", script, log_max_bytes=5000)
    assert run.record()["exit_code"] == 4
    head, tail = b"x" * 3750, b"x" * 1242 + b"the end\n"
    assert run.log() == head + b"\n[2995008 bytes are left out here]\n" + tail


def test_output_of_exactly_the_limit_is_not_called_truncated(run: Run) -> None:
    run.execute("printf", "12345", log_max_bytes=5)
    assert run.log() == b"12345"


def test_output_just_before_the_end_is_kept(run: Run) -> None:
    run.execute(sys.executable, "-c", "import os; os.write(1, b'y' * 60_000)", log_max_bytes=99_999)
    assert run.log() == b"y" * 60_000


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["no-such-command-here"], "command not found: 'no-such-command-here' in PATH"),
        (["/no/such/file"], "command not found: '/no/such/file'"),
        (["/etc/passwd"], "cannot execute '/etc/passwd': Permission denied"),
    ],
)
def test_a_command_that_cannot_be_executed_is_a_failed_start(
    run: Run, argv: list[str], said: str
) -> None:
    run.execute(*argv)
    record = run.record()
    assert (record["reason"], record["exit_code"]) == ("START_FAILED", None)
    assert str(record["message"]).startswith(said)


def test_a_missing_working_directory_is_a_failed_start(run: Run) -> None:
    run.prepare("true")
    record = json.loads((run.path / "run.json").read_text()) | {"working_dir": "/no/such/place"}
    (run.path / "run.json").write_text(json.dumps(record))
    run.launch()
    run.end()
    assert run.record()["reason"] == "START_FAILED"
    assert "'/no/such/place': No such file" in str(run.record()["message"])


def test_a_longest_message_fits_the_room_kept_for_the_record(run: Run) -> None:
    run.execute("/" + "\N{PILE OF POO}" * 400)
    assert run.record()["reason"] == "START_FAILED"


def test_signals_that_python_ignores_act_on_the_job_as_usual(run: Run) -> None:
    run.execute("/bin/sh", "-c", "kill -PIPE $$; exit 0")
    assert run.record()["signal"] == signal.SIGPIPE


def test_the_job_inherits_three_descriptors(run: Run) -> None:
    run.execute("ls", "/proc/self/fd")
    assert run.log() == b"0\n1\n2\n3\n"  # the last is the listing's own


def test_the_supervisor_loads_nothing_heavy() -> None:
    script = "import sys, site_agent.supervisor; print(*sys.modules)"
    process = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={"PYTHONPATH": PACKAGE_ROOT},
        check=True,
        capture_output=True,
        text=True,
    )
    heavy = {
        "asyncio",
        "dataclasses",
        "grpc",
        "inspect",
        "pathlib",
        "secrets",
        "subprocess",
        "typing",
    }
    assert heavy.isdisjoint(process.stdout.split())
    assert [name for name in process.stdout.split() if name.startswith("gcos")] == []


def test_the_reasons_on_disk_are_those_of_the_interface() -> None:
    written = {
        supervisor.EXITED,
        supervisor.LEASE_EXPIRED,
        supervisor.CANCELLED,
        supervisor.START_FAILED,
        supervisor.SUPERVISOR_LOST,
    }
    assert {reason.value for reason in ExitReason} == written


@given(
    now_s=st.floats(0, 1e9),
    left_s=st.floats(-1e6, 1e6),
    grace_s=st.floats(0, 1e6),
)
def test_sigterm_and_sigkill_fall_in_order_and_by_the_deadline(
    now_s: float, left_s: float, grace_s: float
) -> None:
    until_s = now_s + left_s
    term_at_s, kill_at_s = supervisor.ending(until_s, now_s=now_s, grace_s=grace_s)
    assert term_at_s <= kill_at_s <= until_s
    if until_s > now_s:
        # Half of the lease at least passes before the job hears of its end.
        assert term_at_s >= now_s + (until_s - now_s) * 0.499 - 1e-6


def test_a_process_name_with_parentheses_and_blanks_is_read() -> None:
    stat = supervisor.ProcessStat(7, "7 (a) R (b) S 3 7 6 0" + " 0" * 14 + " 4711 0 0\n")
    assert (stat.state, stat.parent, stat.group, stat.session) == ("S", 3, 7, 6)
    assert stat.start_ticks == 4711
