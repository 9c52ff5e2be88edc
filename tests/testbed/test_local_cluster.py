import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from gcos import codec
from gcos.cli.main import main
from gcos.client import Client
from gcos.errors import InvalidRequestError, UnavailableError, WrongStateError
from gcos.home import CLUSTER_FILE, HOME_VARIABLE, read_cluster
from gcos.ids import Fence, RunId
from gcos.locks import lock_directory
from gcos.system import SystemClock
from gcos.tasks import TaskState
from site_agent import supervisor
from site_agent.executors.interface import RunCommand, RunPhase
from site_agent.executors.process import ProcessExecutor
from testbed import local_cluster, local_processes
from testbed.local_cluster import ClusterOptions, ClusterState, Wishes
from testbed.local_directory import STATE_NAME
from testbed.local_state import BYTE_RATIO_DEFAULT, SITES_DEFAULT, SPEED_DEFAULT, next_state

JOB = b"""
apiVersion: gcos/v1
kind: Task
run: ["python", "-c", "import testbed.workloads; print('it runs')"]
"""


def quiet(_line):
    """Swallow progress."""


@pytest.fixture
def options(tmp_path):
    yield ClusterOptions(tmp_path / "cluster", ("on", "de"), speed=60.0, byte_ratio=10.0)
    local_cluster.down(tmp_path / "cluster", keep=False, tell=quiet)


def pids_under(directory: Path):
    """Return the processes whose command line speaks of `directory`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if bytes(directory) in command:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"site_ids": ("on", "atlantis")}, r"'atlantis' is not in .* \(sites are cal \(Cali"),
        ({"site_ids": ()}, "no site is named"),
        ({"site_ids": ("on", "on")}, "named twice"),
        ({"speed": 0.0}, "speed must be above 0"),
        ({"speed": float("nan")}, "speed must be above 0"),
        ({"byte_ratio": -1.0}, "the byte ratio must be above 0"),
        ({"gpu_count": 0}, "1 to 1024 GPUs"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_is_made(tmp_path, changes, message):
    options = ClusterOptions(**({"directory": tmp_path / "new", "site_ids": ("on",)} | changes))
    with pytest.raises(InvalidRequestError, match=message):
        local_cluster.up(options, tell=quiet)
    assert not (tmp_path / "new").exists()


def test_a_directory_with_other_things_is_left_alone(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(WrongStateError, match=r"holds other things \(thesis.tex\)"):
        local_cluster.up(ClusterOptions(tmp_path, ("on",)), tell=quiet)
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_down_without_a_cluster_does_nothing(tmp_path):
    assert local_cluster.down(tmp_path / "none", keep=False, tell=quiet) is False
    assert not (tmp_path / "none").exists()


def state(**changes):
    values = {"processes": (), "speed": 60.0, "byte_ratio": 1.0}
    return ClusterState(**(values | {"wall_anchor_s": 1000.0, "world_anchor_s": 5000.0} | changes))


def test_a_new_world_begins_now_or_when_it_is_told_to(tmp_path):
    options = ClusterOptions(tmp_path, ("on",), speed=2.0)
    assert next_state(options, None, wall_s=7.0).scale.world_s(8.0) == 9.0
    options = ClusterOptions(tmp_path, ("on",), speed=2.0, world_start_s=100.0)
    assert next_state(options, None, wall_s=7.0).scale.world_s(8.0) == 102.0


def test_world_time_goes_on_where_it_was_stopped_and_never_back(tmp_path):
    options = ClusterOptions(tmp_path, ("on",), speed=10.0)
    kept = state(stopped_s=9000.0)
    assert next_state(options, kept, wall_s=2000.0).scale.world_s(2000.0) == 9000.0
    # Without a clean stop it has run on: nobody knows when the processes ended.
    assert next_state(options, state(), wall_s=2000.0).scale.world_s(2000.0) == 65_000.0
    early = ClusterOptions(tmp_path, ("on",), world_start_s=8999.0)
    with pytest.raises(InvalidRequestError, match="earlier than what the cluster"):
        next_state(early, kept, wall_s=2000.0)


def test_damaged_state_is_named(tmp_path):
    (tmp_path / STATE_NAME).write_text("{")
    with pytest.raises(WrongStateError, match=r"state.json is damaged"):
        local_cluster.read_state(tmp_path)


def process(name, pid=0):
    """Return the record of a process that has ended."""
    return local_processes.LocalProcess(
        name, pid=pid, start_ticks=0, boot="earlier", address="127.0.0.1:1", log="log"
    )


@pytest.mark.parametrize(
    ("wishes", "are_met"),
    [
        (Wishes(), True),
        (Wishes(site_ids=("de", "on"), speed=60.0, byte_ratio=1.0, gpu_count=2), True),
        (Wishes(site_ids=("on",)), False),
        (Wishes(site_ids=("on", "de", "cal")), False),
        (Wishes(speed=59.0), False),
        (Wishes(byte_ratio=2.0), False),
        (Wishes(gpu_count=3), False),
    ],
)
def test_a_cluster_meets_wishes_that_name_nothing_else_than_what_it_has(wishes, are_met):
    assert wishes.are_met_by(state(site_ids=("on", "de"), gpu_count=2)) is are_met


def test_up_goes_on_with_the_options_of_before_where_no_others_are_named(tmp_path):
    usual = Wishes().options(tmp_path, None)
    assert (usual.site_ids, usual.speed, usual.byte_ratio) == (
        SITES_DEFAULT,
        SPEED_DEFAULT,
        BYTE_RATIO_DEFAULT,
    )
    kept = state(site_ids=("on", "in"), speed=7.0, byte_ratio=3.0, gpu_count=2)
    assert Wishes().options(tmp_path, kept) == ClusterOptions(
        tmp_path, ("on", "in"), speed=7.0, byte_ratio=3.0, gpu_count=2
    )
    assert Wishes(site_ids=("de",), speed=8.0).options(tmp_path, kept) == ClusterOptions(
        tmp_path, ("de",), speed=8.0, byte_ratio=3.0, gpu_count=2
    )


def test_the_help_of_up_tells_the_defaults(capsys):
    assert main(["up", "--help"]) == 0
    said = capsys.readouterr().out
    for default in (",".join(SITES_DEFAULT), f"{SPEED_DEFAULT:g}", f"{BYTE_RATIO_DEFAULT:g}"):
        assert f"({default})" in said


@pytest.mark.parametrize("place", ["sites/de/data", "predictor"])
def test_down_removes_nothing_while_somebody_else_holds_a_data_directory(tmp_path, place):
    (tmp_path / STATE_NAME).write_bytes(codec.encode(state()))
    name = "predictor" if place == "predictor" else "agent de"
    with lock_directory(tmp_path / place):
        (tmp_path / place / "journal").write_text("weeks of work")
        with pytest.raises(WrongStateError, match=f"{name} was started by hand: ") as refused:
            local_cluster.down(tmp_path, keep=False, tell=quiet)
        assert f"process {os.getpid()} uses {tmp_path / place}" in str(refused.value)
        assert refused.value.hint == f"end it first, with: kill {os.getpid()}"
        said = []
        assert local_cluster.down(tmp_path, keep=True, tell=said.append)
        assert f"{name} was restarted by hand (process {os.getpid()}) and goes on" in said[0]
        with pytest.raises(WrongStateError, match=f"{name} was started by hand: "):
            local_cluster.up(ClusterOptions(tmp_path, ("de",)), tell=quiet)
    assert (tmp_path / place / "journal").exists()
    local_cluster.down(tmp_path, keep=False, tell=quiet)
    assert not (tmp_path / place).exists()


def test_down_leaves_what_the_user_put_there_and_says_where(tmp_path):
    (tmp_path / STATE_NAME).write_bytes(codec.encode(state()))
    for name in ("artifacts/m.bin", "published/report", "sites/de/data/secrets/HUB_TOKEN"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("mine")
    for name in ("sites/de/data/journal.db", "sites/de/agent.log", "sites/on/data/secrets/.keep"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "sites/on/data/secrets/.keep").unlink()
    said = []
    assert local_cluster.down(tmp_path, keep=False, tell=said.append)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "artifacts/m.bin",
        "published/report",
        "sites/de/data/secrets/HUB_TOKEN",
    ]
    assert not (tmp_path / "sites" / "on").exists()
    assert said[-3:] == [
        f"left secrets for the next up: HUB_TOKEN in {tmp_path}/sites/de/data/secrets",
        f"left {tmp_path}/artifacts",
        f"left {tmp_path}/published",
    ]


def test_down_ends_the_runs_of_agents_that_were_killed(tmp_path):
    root = tmp_path / "sites" / "on" / "data" / "runs"
    command = RunCommand(
        RunId("de-1.1.1"),
        Fence(1, 1),
        argv=("/bin/sleep", "1000"),
        env={},
        working_dir=str(tmp_path),
        devices=(),
        log_max_bytes=1000,
        grace_s=0.0,
    )

    async def begin():
        executor = ProcessExecutor(root, SystemClock())
        await executor.ensure(command, lease_until_s=SystemClock().protocol_s() + 100.0)
        async with asyncio.timeout(60):
            while (await executor.poll(command.run_id)).phase is not RunPhase.RUNNING:
                await asyncio.sleep(0.01)

    asyncio.run(begin())
    files = [root / command.run_id / name for name in ("supervisor.json", "started.json")]
    began = [supervisor.read_record(str(file)) for file in files]
    (tmp_path / STATE_NAME).write_bytes(codec.encode(state()))
    assert local_cluster.down(tmp_path, keep=False, tell=quiet)
    assert [supervisor.find_process(record) for record in began] == [None, None]


@pytest.mark.live
def test_up_after_down_finds_the_secrets_of_before(options):
    local_cluster.up(options, tell=quiet)
    directory = options.directory
    store = directory / "sites" / "de" / "data" / "secrets"
    store.mkdir()
    (store / "HUB_TOKEN").touch(mode=0o600)
    (store / "HUB_TOKEN").write_text("abc\n")
    assert local_cluster.down(directory, keep=False, tell=quiet)
    assert [path.name for path in directory.iterdir()] == ["sites"]
    local_cluster.up(options, tell=quiet)

    async def use():
        async with Client.connect(environ={HOME_VARIABLE: str(directory)}) as client:
            document = b"apiVersion: gcos/v1\nkind: Task\nsecrets: [HUB_TOKEN]\n"
            document += b"run: test $HUB_TOKEN = abc\n"
            task = (await client.submit(document)).task
            return await client.wait(task.task_id, timeout_s=60)

    ended = asyncio.run(use())
    assert (ended.state, ended.report.site_id) == (TaskState.SUCCEEDED, "de")
    assert local_cluster.down(directory, keep=False, tell=quiet)
    shutil.rmtree(directory)


def test_nothing_is_revived_where_nothing_runs(tmp_path):
    assert local_cluster.revive(tmp_path / "none", Wishes(), tell=quiet) is None
    (tmp_path / STATE_NAME).write_bytes(codec.encode(state()))
    (tmp_path / CLUSTER_FILE).write_text("{}")
    assert local_cluster.revive(tmp_path, Wishes(), tell=quiet) is None


def test_a_stopped_cluster_is_not_asked_for_its_tasks(tmp_path):
    assert local_cluster.unfinished_count(tmp_path, tell=pytest.fail) == 0
    stopped = state(processes=(process("agent de"),), stopped_s=9000.0)
    (tmp_path / STATE_NAME).write_bytes(codec.encode(stopped))
    assert local_cluster.unfinished_count(tmp_path, tell=pytest.fail) == 0


def kill(directory, *names):
    """End processes of the cluster as a crash would."""
    for each in local_cluster.read_state(directory).processes:
        if each.name in names:
            local_processes.stop([each], grace_s=0.0, tell=quiet)


@pytest.mark.live
def test_up_brings_back_exactly_what_died(options, monkeypatch, capsys):
    first = local_cluster.up(options, tell=quiet)
    directory = options.directory
    before = local_cluster.read_state(directory)
    config = (directory / "sites" / "de" / "agent.toml").read_text()
    environ = {HOME_VARIABLE: str(directory)}
    monkeypatch.setenv(HOME_VARIABLE, str(directory))
    kill(directory, "broker", "agent de")

    assert main(["up", "--speed", "10"], environ=environ) == 2
    refusal = capsys.readouterr().err
    assert "of which broker, agent de ended" in refusal
    assert f"gcos up --dir {directory}" in refusal
    assert f"gcos down --keep --dir {directory} && gcos up" in refusal

    assert main(["up", "--sites", "de,on"], environ=environ) == 0
    said = capsys.readouterr()
    assert "bringing back broker, agent de; the other processes go on" in said.err
    assert "2 sites run: de, on." in said.out
    after = local_cluster.read_state(directory)
    assert len(after.alive) == 4
    assert after.scale == before.scale
    assert (directory / "sites" / "de" / "agent.toml").read_text() == config
    by_name = {p.name: p for p in before.processes}
    for each in after.processes:
        has_died = each.name in {"broker", "agent de"}
        assert (each.pid != by_name[each.name].pid) is has_died
        assert each.address == by_name[each.name].address
    again = read_cluster(environ)
    assert again.agents == first.agents
    assert again.pids == {p.name: p.pid for p in after.processes}

    assert main(["up"], environ=environ) == 2
    assert "already (4 processes)" in capsys.readouterr().err


@pytest.mark.live
def test_an_agent_that_was_restarted_by_hand_keeps_its_data(options):
    cluster = local_cluster.up(options, tell=quiet)
    directory = options.directory
    kill(directory, "agent de", "agent on")
    place = directory / "sites" / "de"
    by_hand = local_processes.start(
        "by hand",
        [sys.executable, "-P", "-m", "site_agent", "--config", str(place / "agent.toml")],
        address=cluster.agents["de"],
        environ={k: v for k, v in os.environ.items() if not k.startswith("GCOS_")},
        directory=directory,
        log=place / "hand.log",
    )
    try:

        async def await_it():
            async with asyncio.timeout(30):
                token_file = Path(cluster.token_file)
                while True:
                    try:
                        async with Client.connect(cluster.agents["de"], token_file, environ={}):
                            return
                    except UnavailableError:
                        assert by_hand.is_alive

        asyncio.run(await_it())
        said = []
        assert local_cluster.revive(directory, Wishes(), tell=said.append) is not None
        assert (
            said[0] == f"agent de was restarted by hand (process {by_hand.pid}) and is left alone"
        )
        assert said[1] == "bringing back agent on; the other processes go on"
        with pytest.raises(WrongStateError, match=f"process {by_hand.pid} uses"):
            local_cluster.down(directory, keep=False, tell=quiet)
        # It refused before it stopped anything.
        assert len(local_cluster.read_state(directory).alive) == 3
        assert by_hand.is_alive
        assert (place / "data").is_dir()
    finally:
        local_processes.stop([by_hand], grace_s=30.0, tell=quiet)
    assert local_cluster.down(directory, keep=False, tell=quiet)
    assert not directory.exists()


@pytest.mark.live
def test_down_asks_before_it_loses_tasks(options, monkeypatch, capsys):
    local_cluster.up(options, tell=quiet)
    directory = options.directory
    environ = {HOME_VARIABLE: str(directory)}
    monkeypatch.setenv(HOME_VARIABLE, str(directory))

    async def submit():
        async with Client.connect(environ=environ) as client:
            await client.submit(b"apiVersion: gcos/v1\nkind: Task\nrun: exec sleep 600\n")

    asyncio.run(submit())
    assert main(["down"], environ=environ) == 2
    refusal = capsys.readouterr().err
    assert "1 task has not ended" in refusal
    assert "gcos down --keep" in refusal
    assert "gcos down --force" in refusal
    assert len(local_cluster.read_state(directory).alive) == 4
    kill(directory, "agent on")
    said = []
    assert local_cluster.unfinished_count(directory, tell=said.append) <= 1
    assert said == ["agent on does not answer: its unfinished tasks, if any, are not counted"]
    assert main(["down", "--force"], environ=environ) == 0
    assert not directory.exists()


@pytest.mark.live
def test_a_cluster_starts_runs_a_job_stops_and_leaves_nothing(options):
    cluster = local_cluster.up(options, tell=quiet)
    directory = options.directory
    assert directory.stat().st_mode & 0o777 == 0o700
    assert Path(cluster.token_file).stat().st_mode & 0o777 == 0o600
    environ = {HOME_VARIABLE: str(directory)}
    assert read_cluster(environ) == cluster
    with pytest.raises(WrongStateError, match=r"runs in .* already"):
        local_cluster.up(options, tell=quiet)

    async def use():
        async with Client.connect(environ=environ) as client:
            listing = await client.sites()
            submission = await client.submit(JOB)
            task = await client.wait(submission.task.task_id, timeout_s=60)
            return listing, task, b"".join([piece async for piece in client.log(task.task_id)])

    listing, task, log = asyncio.run(use())
    assert [known.site.site_id for known in listing.sites] == ["de", "on"]
    assert task.state is TaskState.SUCCEEDED, task.message
    assert log == b"it runs\n"
    assert local_cluster.down(directory, keep=False, tell=quiet) is True
    assert not directory.exists()
    assert pids_under(directory) == []


@pytest.mark.live
def test_a_kept_cluster_goes_on_with_its_tasks_and_addresses(options):
    first = local_cluster.up(options, tell=quiet)
    environ = {HOME_VARIABLE: str(options.directory)}

    async def submit():
        async with Client.connect(environ=environ) as client:
            task = (await client.submit(JOB)).task
            await client.wait(task.task_id, timeout_s=60)
            return task.task_id

    task_id = asyncio.run(submit())
    local_cluster.down(options.directory, keep=True, tell=quiet)
    assert read_cluster(environ) is None
    assert pids_under(options.directory) == []
    second = local_cluster.up(options, tell=quiet)

    async def look():
        async with Client.connect(environ=environ) as client:
            return await client.task(task_id), await client.world_now_s()

    task, now_s = asyncio.run(look())
    assert task.state is TaskState.SUCCEEDED
    assert now_s >= task.ended_s
    assert second.agents == first.agents


@pytest.mark.live
def test_a_process_that_does_not_start_is_named_and_the_others_are_stopped(options):
    # A data directory that is a file: the agent refuses, whoever runs the test.
    place = options.directory / "sites" / "de"
    options.directory.mkdir(mode=0o700)
    place.mkdir(parents=True)
    (place / "data").write_text("in the way")
    said = []
    with pytest.raises(UnavailableError, match="agent de ended before it served"):
        local_cluster.up(options, tell=said.append)
    assert any("agent.log:" in line for line in said)
    assert pids_under(options.directory) == []
    assert read_cluster({HOME_VARIABLE: str(options.directory)}) is None


@pytest.mark.live
def test_down_after_a_crash_of_everything_cleans_up(options):
    cluster = local_cluster.up(options, tell=quiet)
    for pid in cluster.pids.values():
        os.kill(pid, signal.SIGKILL)
    said = []
    assert local_cluster.down(options.directory, keep=False, tell=said.append) is True
    assert not options.directory.exists()
