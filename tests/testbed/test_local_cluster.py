import asyncio
import os
import signal
from pathlib import Path

import pytest

from gcos.client import Client
from gcos.errors import InvalidRequestError, UnavailableError, WrongStateError
from gcos.home import HOME_VARIABLE, read_cluster
from gcos.tasks import TaskState
from testbed import local_cluster
from testbed.local_cluster import ClusterOptions, ClusterState, next_state

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
    (tmp_path / local_cluster.STATE_NAME).write_text("{")
    with pytest.raises(WrongStateError, match=r"state.json is damaged"):
        local_cluster.read_state(tmp_path)


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
