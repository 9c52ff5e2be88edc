"""Nothing of a testbed is left behind, however it ends, on every backend that there is here."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gcos.cli.main import main
from gcos.errors import UnavailableError
from testbed import local_cluster
from testbed.wan import cluster, containers, docker_cluster, namespaces
from testbed.wan.backends import Backend
from testbed.wan.records import Carrier

SCENARIO = 'base = "default"\nkeep_sites = ["de", "on"]\n'
#: Containers take longer to come and to go.
DOCKER = pytest.param(Backend.DOCKER, marks=pytest.mark.soak)
ALL = [Backend.RELAY, Backend.NETNS, DOCKER]


@pytest.fixture
def bed(tmp_path: Path) -> Path:
    return tmp_path / "bed"


@pytest.fixture
def command(bed, tmp_path):
    """Give what starts a testbed of two regions on a backend, if that can be had here."""
    scenario = tmp_path / "two.toml"
    scenario.write_text(SCENARIO)

    def started_on(backend: Backend) -> list[str]:
        if backend is Backend.NETNS and namespaces.best_carrier()[0] is Carrier.RELAY:
            pytest.skip(f"no links in the kernel here: {namespaces.best_carrier()[1]}")
        if backend is Backend.DOCKER and (reason := docker_cluster.why_not(containers.IMAGE)):
            pytest.skip(f"no containers here: {reason}")
        options = ["--backend", backend.value, "--scenario", str(scenario), "--dir", str(bed)]
        return ["testbed", "up", *options]

    yield started_on
    main(["testbed", "down", "--force", "--dir", str(bed)])


def left_of(bed: Path) -> list[str]:
    """Return processes, namespaces, containers and networks of a testbed, and its directory."""
    found = [str(bed)] if bed.exists() else []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if bytes(bed) in line:
                found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    stem = namespaces.stem_of(bed)
    if Path("/run/netns").is_dir():
        found += [each.name for each in Path("/run/netns").iterdir() if each.name.startswith(stem)]
    return found


def docker_names() -> set[str]:
    """Return containers, networks and rules of testbeds; none where there is no Docker."""
    found = set()
    for what in (["ps", "--all"], ["network", "ls"]):
        asked = ["docker", *what, "--quiet", "--filter", f"label={containers.LABEL}"]
        found |= set(told(asked).split())
    rules = told(["iptables-save"]).splitlines()
    return found | {rule for rule in rules if " 10.231." in rule}


def told(command: list[str]) -> str:
    """Return what a command writes; nothing where it is not installed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def started(command: list[str], until: str) -> subprocess.Popen[str]:
    """Return a process of a command in a group of its own that has written a line with `until`."""
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "gcos.cli.main", *command],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in child.stderr:
        if until in line:
            return child
    raise AssertionError(f"it never wrote {until!r}")


def ended(child: subprocess.Popen[str]) -> int:
    """Return the exit code of a command that is sent Ctrl-C whenever it says what it removes.

    It is a negative one where Ctrl-C came when all was gone, while Python ended.
    """
    for line in child.stderr:
        if line.startswith(("removing", "stopping")):
            os.killpg(child.pid, signal.SIGINT)
    child.stderr.close()
    return child.wait(timeout=120)


@pytest.mark.live
@pytest.mark.parametrize(
    "backend", [Backend.RELAY, pytest.param(Backend.NETNS, marks=pytest.mark.soak), DOCKER]
)
@pytest.mark.parametrize(
    ("number", "until"),
    [
        (signal.SIGINT, "serves"),
        pytest.param(signal.SIGTERM, "links:", marks=pytest.mark.soak),
        pytest.param(signal.SIGTERM, "serves", marks=pytest.mark.soak),
    ],
)
def test_an_interruption_while_it_comes_up_leaves_nothing(backend, number, until, bed, command):
    before = docker_names()
    child = started(command(backend), until)
    os.killpg(child.pid, number)  # as a terminal does
    assert ended(child) in {130, -signal.SIGINT}
    assert [each for each in left_of(bed) if each != str(bed)] == []
    assert docker_names() == before


@pytest.mark.live
@pytest.mark.parametrize(
    "backend", [pytest.param(Backend.RELAY, marks=pytest.mark.soak), Backend.NETNS, DOCKER]
)
@pytest.mark.parametrize("until", [pytest.param("links:", marks=pytest.mark.soak), "serves"])
def test_what_a_killed_command_left_is_found_and_removed(backend, until, bed, command):
    before = docker_names()
    child = started(command(backend), until)
    child.kill()
    child.wait(timeout=60)
    child.stderr.close()
    assert main(["testbed", "down", "--force", "--dir", str(bed)]) == 0
    assert left_of(bed) == []
    assert docker_names() == before


@pytest.mark.live
@pytest.mark.parametrize("backend", ALL)
def test_a_failure_while_it_comes_up_leaves_nothing(backend, bed, command, monkeypatch):
    before = docker_names()

    async def refuse(*_arguments: object) -> None:
        raise UnavailableError("it did not serve")

    def refuse_containers(*_arguments: object) -> None:
        raise UnavailableError("it did not serve")

    monkeypatch.setattr(local_cluster, "await_ready", refuse)
    monkeypatch.setattr(docker_cluster, "_await_ready", refuse_containers)
    assert main(command(backend)) == 3
    assert [each for each in left_of(bed) if each != str(bed)] == []
    assert docker_names() == before


@pytest.mark.live
def test_namespaces_that_were_made_half_are_removed(bed, command, monkeypatch):
    command(Backend.NETNS)
    made = namespaces.make_network

    def broken(places, hub):
        made(places[:1], hub)
        assert len(left_of(bed)) > 1
        raise UnavailableError("no more of them")

    monkeypatch.setattr(cluster, "make_network", broken)
    assert main(command(Backend.NETNS)) == 3
    assert [each for each in left_of(bed) if each != str(bed)] == []


@pytest.mark.live
@pytest.mark.parametrize(
    ("backend", "down"),
    [
        (Backend.NETNS, ["down"]),
        pytest.param(Backend.DOCKER, ["testbed", "down"], marks=pytest.mark.soak),
    ],
)
def test_an_interruption_does_not_break_off_what_removes(backend, down, bed, command):
    before = docker_names()
    assert main(command(backend)) == 0
    assert len(left_of(bed)) + len(docker_names() - before) > 5
    child = started([*down, "--force", "--dir", str(bed)], "ing ")
    os.killpg(child.pid, signal.SIGINT)
    assert ended(child) in {0, 130, -signal.SIGINT}
    assert left_of(bed) == []
    assert docker_names() == before
