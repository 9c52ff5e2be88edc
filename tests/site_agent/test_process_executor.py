"""Runs as processes: started once, adopted by whoever comes next, ended with all they left."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gcos.errors import InvalidRequestError, NotFoundError, StaleFenceError, WrongStateError
from gcos.ids import Fence, RunId, SiteId, run_id, task_id
from gcos.system import SystemClock, unique_text
from site_agent import supervisor
from site_agent.executors.interface import ExitReason, RunCommand, RunPhase, RunStatus
from site_agent.executors.process import ProcessExecutor

FAR_S = 3600.0
HANG_S = 60.0
"""A test that waits longer than this has failed; none depends on how long anything takes."""
# Of this process alone: by it remains are found among all processes of the machine.
TASK = task_id(SiteId("here"), unique_text())
FIRST = Fence(1, 1)


class Site:
    """A root for runs, executors over it, and a named pipe on which jobs speak."""

    def __init__(self, path: Path) -> None:
        self.root = path / "runs"
        self.clock = SystemClock()
        self.work = path / "work"
        self.work.mkdir()
        os.mkfifo(self.work / "said")
        self.executor = self.another_executor()

    def another_executor(self) -> ProcessExecutor:
        return ProcessExecutor(self.root, self.clock)

    def command(
        self,
        *argv: str,
        fence: Fence = FIRST,
        env: dict[str, str] | None = None,
        devices: tuple[int, ...] = (),
        log_max_bytes: int = 100_000,
    ) -> RunCommand:
        return RunCommand(
            run_id=run_id(TASK, fence),
            fence=fence,
            argv=argv,
            env=env or {},
            working_dir=str(self.work),
            devices=devices,
            log_max_bytes=log_max_bytes,
            grace_s=0.2,
        )

    def until_s(self, lease_s: float = FAR_S) -> float:
        return self.clock.protocol_s() + lease_s

    async def execute(self, command: RunCommand) -> RunStatus:
        await self.executor.ensure(command, lease_until_s=self.until_s())
        return await self.end(command.run_id)

    async def end(self, name: RunId) -> RunStatus:
        async with asyncio.timeout(HANG_S):
            return await self.executor.wait(name)

    def supervisor_pid(self, name: RunId) -> int:
        record = supervisor.read_record(str(self.root / name / "supervisor.json"))
        assert record is not None
        return int(str(record["pid"]))

    async def hear(self) -> str:
        """Wait for the next line that a job writes into the pipe `said`."""
        return await asyncio.to_thread(self._hear)

    def _hear(self) -> str:
        descriptor = os.open(self.work / "said", os.O_RDWR)
        try:
            text = b""
            while not text.endswith(b"\n"):
                assert select.select([descriptor], [], [], HANG_S)[0], "the job said nothing"
                text += os.read(descriptor, 1)
            return text.decode().strip()
        finally:
            os.close(descriptor)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    yield made
    for name in await made.executor.list_runs():  # what a test left, failed or not
        await made.executor.cancel(name)
        await made.end(name)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group and has nothing to do with any run."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        yield process
        process.kill()


def is_executing(pid: int) -> bool:
    stat = supervisor.process_stat(pid)
    return stat is not None and stat.is_executing


WAIT_FOR_GO = ("/bin/sh", "-c", "echo $$ > said; sleep 1000")


async def test_a_run_goes_from_absent_to_exited_with_its_exit_code(site: Site) -> None:
    command = site.command("/bin/sh", "-c", "echo hello; exit 3")
    assert (await site.executor.poll(command.run_id)).phase is RunPhase.ABSENT
    status = await site.execute(command)
    assert status.phase is RunPhase.EXITED
    assert (status.reason, status.exit_code) == (ExitReason.EXITED, 3)
    assert status.cpu_s is not None
    assert status.peak_memory_bytes is not None
    assert status.started_wall_s is not None
    assert status.ended_wall_s is not None
    assert status.started_wall_s <= status.ended_wall_s
    assert await site.executor.poll(command.run_id) == status
    assert await site.executor.logs(command.run_id) == b"hello\n"


async def test_the_end_of_an_output_is_read_without_the_rest(site: Site) -> None:
    command = site.command("/bin/echo", "hello")
    await site.execute(command)
    for limit, expected in ((0, b""), (3, b"lo\n"), (6, b"hello\n"), (99, b"hello\n")):
        assert await site.executor.log_end(command.run_id, limit_bytes=limit) == (expected, 6)
    with pytest.raises(InvalidRequestError):
        await site.executor.log_end(command.run_id, limit_bytes=-1)
    with pytest.raises(NotFoundError):
        await site.executor.log_end(RunId("oslo-9.1.1"), limit_bytes=3)


async def test_a_job_ended_by_a_signal_has_its_number_as_negative_exit_code(site: Site) -> None:
    status = await site.execute(site.command("/bin/sh", "-c", "kill -ABRT $$"))
    assert (status.reason, status.exit_code) == (ExitReason.EXITED, -signal.SIGABRT)


async def test_a_started_run_is_running(site: Site) -> None:
    command = site.command(*WAIT_FOR_GO)
    await site.executor.ensure(command, lease_until_s=site.until_s())
    pid = int(await site.hear())
    status = await site.executor.poll(command.run_id)
    assert (status.phase, status.exit_code, status.reason) == (RunPhase.RUNNING, None, None)
    assert is_executing(pid)
    await site.executor.cancel(command.run_id)
    assert (await site.end(command.run_id)).reason is ExitReason.CANCELLED
    assert not is_executing(pid)


async def test_many_callers_and_executors_start_a_run_once(site: Site) -> None:
    command = site.command("/bin/sh", "-c", "echo started >> count; read word < said")
    executors = [site.executor, site.another_executor(), site.another_executor()]
    async with asyncio.TaskGroup() as group:
        for executor in executors * 4:
            group.create_task(executor.ensure(command, lease_until_s=site.until_s()))
    await asyncio.to_thread((site.work / "said").write_text, "go\n")
    await site.end(command.run_id)
    await site.executor.ensure(command, lease_until_s=site.until_s())
    await site.another_executor().ensure(command, lease_until_s=site.until_s())
    assert (await site.executor.poll(command.run_id)).phase is RunPhase.EXITED
    assert (site.work / "count").read_text() == "started\n"


async def test_another_executor_adopts_a_run_and_sees_its_end(site: Site) -> None:
    command = site.command("/bin/sh", "-c", "read word < said; echo $word; exit 9")
    await site.executor.ensure(command, lease_until_s=site.until_s())
    heir = site.another_executor()
    assert await heir.list_runs() == [command.run_id]
    await heir.ensure(command, lease_until_s=site.until_s())
    await asyncio.to_thread((site.work / "said").write_text, "go\n")
    async with asyncio.timeout(HANG_S):
        status = await heir.wait(command.run_id)
    assert status.exit_code == 9
    assert await heir.logs(command.run_id) == b"go\n"


AGENT = """
import asyncio, os, signal, sys
from pathlib import Path
from gcos.ids import Fence, RunId
from gcos.system import SystemClock
from site_agent.executors.interface import RunCommand
from site_agent.executors.process import ProcessExecutor

async def main(root, work, name):
    clock = SystemClock()
    command = RunCommand(
        run_id=RunId(name), fence=Fence(1, 1), argv=("/bin/sh", "-c", "read word < said; exit 6"),
        env={}, working_dir=work, devices=(), log_max_bytes=1000, grace_s=0.2,
    )
    await ProcessExecutor(Path(root), clock).ensure(
        command, lease_until_s=clock.protocol_s() + 3600
    )
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_run_outlives_its_agent_and_is_adopted(site: Site) -> None:
    name = run_id(TASK, Fence(1, 1))
    root = str(Path(supervisor.__file__).parents[1])
    agent = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", AGENT, str(site.root), str(site.work), name],
        env={"PYTHONPATH": root, "PATH": os.environ["PATH"]},
        check=False,
    )
    assert agent.returncode == -signal.SIGKILL
    assert await site.executor.list_runs() == [name]
    await asyncio.to_thread((site.work / "said").write_text, "go\n")
    assert (await site.end(name)).exit_code == 6


async def test_a_run_that_nobody_renews_ends_with_its_lease(site: Site) -> None:
    command = site.command("/bin/sh", "-c", "trap '' TERM; sleep 1000 & while :; do wait; done")
    await site.executor.ensure(command, lease_until_s=site.until_s(0.5))
    status = await site.end(command.run_id)
    assert status.reason is ExitReason.LEASE_EXPIRED


async def test_an_extended_run_outlives_its_first_lease(site: Site) -> None:
    os.mkfifo(site.work / "go")
    extended = site.command("/bin/sh", "-c", "echo here > said; read word < go; exit 5")
    await site.executor.ensure(extended, lease_until_s=site.until_s(2.0))
    async with asyncio.TaskGroup() as group:
        # However long the start takes, the job lives then.
        saying = group.create_task(site.hear())
        while not saying.done():
            first_s = site.until_s(2.0)
            await site.executor.extend(extended.run_id, lease_until_s=first_s)
            await asyncio.wait([saying], timeout=0.1)
    await site.executor.extend(extended.run_id, lease_until_s=first_s + FAR_S)
    # A run of another task under the first lease tells when that has passed.
    other = RunCommand(
        run_id=run_id(task_id(SiteId("there"), unique_text()), FIRST),
        fence=Fence(1, 1),
        argv=("/bin/sh", "-c", "trap '' TERM; while :; do sleep 1000; done"),
        env={},
        working_dir=str(site.work),
        devices=(),
        log_max_bytes=1000,
        grace_s=0.1,
    )
    await site.executor.ensure(other, lease_until_s=first_s + 0.1)
    assert (await site.end(other.run_id)).reason is ExitReason.LEASE_EXPIRED
    assert (await site.executor.poll(extended.run_id)).phase is RunPhase.RUNNING
    await asyncio.to_thread((site.work / "go").write_text, "go\n")
    status = await site.end(extended.run_id)
    assert (status.reason, status.exit_code) == (ExitReason.EXITED, 5)


async def test_ensure_extends_the_lease_of_a_run_that_goes_on(site: Site) -> None:
    command = site.command(*WAIT_FOR_GO)
    await site.executor.ensure(command, lease_until_s=site.until_s())
    later_s = site.until_s(2 * FAR_S)
    await site.executor.ensure(command, lease_until_s=later_s)
    assert supervisor.read_lease(str(site.root / command.run_id)) == later_s


async def test_with_its_supervisor_killed_the_whole_job_ends(site: Site) -> None:
    # A child in the group and one that left it; neither hears of the supervisor's end.
    script = "sleep 1000 & a=$!; setsid sleep 1000 & echo $$ $a $! > said; wait; wait"
    command = site.command("/bin/sh", "-c", script)
    await site.executor.ensure(command, lease_until_s=site.until_s())
    pids = [int(pid) for pid in (await site.hear()).split()]
    os.kill(site.supervisor_pid(command.run_id), signal.SIGKILL)
    status = await site.end(command.run_id)
    assert status.reason is ExitReason.SUPERVISOR_LOST
    assert status.exit_code is None
    assert status.started_wall_s is not None
    assert len(pids) == 3
    assert not any(map(is_executing, pids))
    # It is final: another executor reads the same, and nothing is started again.
    heir = site.another_executor()
    await heir.ensure(command, lease_until_s=site.until_s())
    assert await heir.poll(command.run_id) == status


async def test_a_run_whose_supervisor_died_before_the_start_may_be_started(site: Site) -> None:
    command = site.command("true")
    run_dir = site.root / command.run_id
    run_dir.mkdir()
    (run_dir / "run.json").write_text("{}")
    (run_dir / "supervisor.lock").touch()
    (run_dir / "supervisor.err").write_text("Traceback\nMemoryError\n")
    status = await site.executor.poll(command.run_id)
    assert (status.phase, status.message) == (RunPhase.ABSENT, "MemoryError")
    with pytest.raises(NotFoundError, match="MemoryError"):
        await site.executor.wait(command.run_id)
    assert (await site.execute(command)).exit_code == 0


async def test_a_run_of_an_earlier_boot_is_lost_and_kills_nobody(
    site: Site, bystander: subprocess.Popen[bytes]
) -> None:
    command = site.command("true")
    run_dir = site.root / command.run_id
    run_dir.mkdir()
    started = supervisor.identity(bystander.pid) | {"boot_id": "earlier", "started_wall_s": 1.0}
    supervisor.write_durably(str(run_dir / "started.json"), started)
    status = await site.executor.poll(command.run_id)
    assert (status.phase, status.reason) == (RunPhase.EXITED, ExitReason.SUPERVISOR_LOST)
    assert bystander.poll() is None


async def test_a_run_cancelled_before_its_start_never_starts(site: Site) -> None:
    command = site.command("/bin/sh", "-c", "touch executed")
    run_dir = site.root / command.run_id
    run_dir.mkdir()  # what a crash between the directory and the supervisor leaves
    await site.executor.cancel(command.run_id)
    await site.executor.ensure(command, lease_until_s=site.until_s())
    status = await site.end(command.run_id)
    assert (status.reason, status.exit_code) == (ExitReason.CANCELLED, None)
    assert not (site.work / "executed").exists()


async def test_a_cancellation_at_any_moment_of_the_start_is_heeded(site: Site) -> None:
    for attempt in range(1, 9):
        command = site.command("sleep", "1000", fence=Fence(1, attempt))
        await site.executor.ensure(command, lease_until_s=site.until_s())
        # Each time the supervisor has come a little further.
        for _ in range(attempt - 1):
            await site.executor.poll(command.run_id)
        await site.executor.cancel(command.run_id)
        await site.executor.cancel(command.run_id)
        assert (await site.end(command.run_id)).reason is ExitReason.CANCELLED


async def test_a_command_that_is_not_found_says_so(site: Site) -> None:
    status = await site.execute(site.command("no-such-command-here"))
    assert (status.reason, status.exit_code) == (ExitReason.START_FAILED, None)
    assert "command not found: 'no-such-command-here'" in status.message


async def test_nothing_of_the_agents_environment_reaches_the_job(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GCOS_TOKEN", "very-secret")
    command = site.command("/bin/sh", "-c", "env; tr '\\0' '\\n' < /proc/$PPID/environ")
    await site.execute(command)
    log = await site.executor.logs(command.run_id)
    assert b"very-secret" not in log
    assert b"GCOS_RUN_ID" in log


async def test_the_job_finds_its_surroundings_in_the_environment(site: Site) -> None:
    command = site.command(
        "env",
        env={"LANG": "de_DE.UTF-8", "X": "a=b", "GCOS_RUN_ID": "forged"},
        devices=(2, 3),
        fence=Fence(2, 5),
    )
    await site.execute(command)
    lines = (await site.executor.logs(command.run_id)).decode().splitlines()
    assert dict(line.split("=", 1) for line in lines) == {
        "PATH": os.environ["PATH"],
        "HOME": str(site.work),
        "LANG": "de_DE.UTF-8",
        "TMPDIR": str(site.root / command.run_id / "tmp"),
        "X": "a=b",
        "CUDA_VISIBLE_DEVICES": "2,3",
        "GCOS_TASK_ID": TASK,
        "GCOS_RUN_ID": f"{TASK}.2.5",
        "GCOS_FENCE": "2.5",
    }


async def test_a_run_without_devices_sees_no_gpu(site: Site) -> None:
    command = site.command("/bin/sh", "-c", "echo ${CUDA_VISIBLE_DEVICES-unset}")
    await site.execute(command)
    assert await site.executor.logs(command.run_id) == b"\n"


async def test_logs_are_read_in_pieces(site: Site) -> None:
    command = site.command("printf", "0123456789", log_max_bytes=8)
    await site.execute(command)
    logs = site.executor.logs
    assert await logs(command.run_id, limit_bytes=4) == b"0123"
    assert await logs(command.run_id, offset=4, limit_bytes=2) == b"45"
    assert await logs(command.run_id, offset=6) == b"\n[2 bytes are left out here]\n89"
    assert await logs(command.run_id, offset=1000) == b""
    with pytest.raises(InvalidRequestError):
        await logs(command.run_id, offset=-1)


async def test_a_later_attempt_waits_for_the_end_of_an_earlier_one(site: Site) -> None:
    first, second = site.command(*WAIT_FOR_GO), site.command("true", fence=Fence(1, 2))
    await site.executor.ensure(first, lease_until_s=site.until_s())
    with pytest.raises(WrongStateError, match="still executing"):
        await site.executor.ensure(second, lease_until_s=site.until_s())
    await site.executor.cancel(first.run_id)
    await site.end(first.run_id)
    assert (await site.execute(second)).exit_code == 0


async def test_an_earlier_attempt_is_refused_after_a_later_one(site: Site) -> None:
    await site.execute(site.command("true", fence=Fence(2, 1)))
    with pytest.raises(StaleFenceError):
        await site.executor.ensure(
            site.command("true", fence=Fence(1, 9)), lease_until_s=site.until_s()
        )


async def test_only_a_run_that_has_ended_is_reaped(site: Site) -> None:
    command = site.command(*WAIT_FOR_GO)
    await site.executor.ensure(command, lease_until_s=site.until_s())
    with pytest.raises(WrongStateError):
        await site.executor.reap(command.run_id)
    await site.executor.cancel(command.run_id)
    await site.end(command.run_id)
    await site.executor.reap(command.run_id)
    await site.executor.reap(command.run_id)
    assert await site.executor.list_runs() == []
    assert (await site.executor.poll(command.run_id)).phase is RunPhase.ABSENT
    assert sorted(entry.name for entry in site.root.iterdir()) == ["executor.lock"]


async def test_unknown_runs_are_errors_only_where_something_is_asked_of_them(site: Site) -> None:
    name = run_id(TASK, Fence(1, 1))
    await site.executor.cancel(name)
    await site.executor.reap(name)
    with pytest.raises(NotFoundError):
        await site.executor.extend(name, lease_until_s=site.until_s())
    with pytest.raises(NotFoundError):
        await site.executor.logs(name)
    with pytest.raises(NotFoundError):
        await site.executor.wait(name)


async def test_an_ended_supervisor_leaves_no_zombie(site: Site) -> None:
    command = site.command(*WAIT_FOR_GO)
    await site.executor.ensure(command, lease_until_s=site.until_s())
    await site.hear()
    pid = site.supervisor_pid(command.run_id)
    descriptor = os.pidfd_open(pid)
    await site.executor.cancel(command.run_id)
    await asyncio.to_thread(select.select, [descriptor], [], [], HANG_S)
    os.close(descriptor)
    async with asyncio.timeout(HANG_S):
        while supervisor.process_stat(pid) is not None:
            await asyncio.to_thread(os.sched_yield)  # the loop's turn to reap


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../../etc.1.1",
        "a/b.1.1",
        "/tmp/x.1.1",
        "here-x.1",
        "here-x.1.1\n",
        "here-x.01.1",
        "here-x.1.1/..",
        ".reaped-here-x.1.1",
        "-x.1.1",
        "here\0x.1.1",
        "Здесь-x.1.1",
        "here-x.١.١",
        "x" * 65 + ".1.1",
        "executor.lock",
    ],
)
async def test_a_malformed_run_id_never_becomes_a_path(site: Site, name: str) -> None:
    malicious = RunId(name)
    before = sorted(site.root.parent.rglob("*"))
    command = RunCommand(
        run_id=malicious,
        fence=Fence(1, 1),
        argv=("true",),
        env={},
        working_dir=str(site.work),
        devices=(),
        log_max_bytes=0,
        grace_s=0.0,
    )
    calls = [
        site.executor.ensure(command, lease_until_s=site.until_s()),
        site.executor.extend(malicious, lease_until_s=site.until_s()),
        site.executor.poll(malicious),
        site.executor.wait(malicious),
        site.executor.logs(malicious),
        site.executor.cancel(malicious),
        site.executor.reap(malicious),
    ]
    for call in calls:
        with pytest.raises(InvalidRequestError):
            await call
    assert sorted(site.root.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"argv": ()}, "argv"),
        ({"argv": ("",)}, "argv"),
        ({"argv": ("a\0b",)}, "argv"),
        ({"env": {"A=B": "c"}}, "env"),
        ({"env": {"": "c"}}, "env"),
        ({"working_dir": "relative"}, "working_dir"),
        ({"devices": (-1,)}, "devices"),
        ({"log_max_bytes": -1}, "log_max_bytes"),
        ({"grace_s": float("nan")}, "grace_s"),
        ({"fence": Fence(1, 2)}, "fence"),
    ],
)
async def test_a_malformed_command_is_refused_by_field(
    site: Site, change: dict[str, object], field: str
) -> None:
    fields = {name: getattr(site.command("true"), name) for name in RunCommand.__dataclass_fields__}
    with pytest.raises(InvalidRequestError) as refused:
        await site.executor.ensure(RunCommand(**(fields | change)), lease_until_s=site.until_s())
    assert refused.value.field == field
    assert await site.executor.list_runs() == []


async def test_a_lease_without_an_end_is_refused(site: Site) -> None:
    command = site.command("true")
    for until_s in (float("inf"), float("nan")):
        with pytest.raises(InvalidRequestError):
            await site.executor.ensure(command, lease_until_s=until_s)
    assert await site.executor.list_runs() == []
