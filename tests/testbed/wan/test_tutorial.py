"""The tutorial of the testbed: a model goes from one region to another, and the network is parted.

Each command of the block in README.md is one that is executed here, in the same order.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gcos.cli.main import main
from gcos.system import sleep_blocking
from testbed.wan import containers, docker_cluster, namespaces
from testbed.wan.records import Carrier

MIGRATE = Path(namespaces.__file__).parent / "migrate.yaml"
SIZE_BYTES = 100_000_000
MAKE = f"mkdir -p artifacts/weights && head -c {SIZE_BYTES} /dev/urandom > artifacts/weights/w.bin"
#: What was under way when nothing passed any more: the window of all connections.
WINDOW_BYTES = 24 << 20

#: Executes a command of `gcos` where people of Frankfurt sit; its input may be given.
Gcos = Callable[..., str]


def told(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def ran(*command: str, given: str = "") -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fetched_bytes(gcos: Gcos, task: str) -> tuple[str, int]:
    """Return a task's state and how much of its model is where it is to run."""
    status = json.loads(gcos("status", task, "-o", "json"))
    return status["state"], status.get("fetched_bytes", 0)


def in_frankfurt(backend: str, home: Path, capsys) -> Gcos:
    """Return what executes `gcos` there: in its container, where there are any."""
    if backend != "docker":
        return lambda *arguments, given="": told(capsys, *arguments)
    name = docker_cluster.read_plan(home).container("de")
    return lambda *arguments, given="": ran(
        *("docker", "exec", "--interactive", name, "gcos", *arguments), given=given
    )


def make_weights(backend: str, home: Path) -> str:
    """Write the model where the agent of Frankfurt may read it, and return where that is."""
    if backend == "docker":
        name = docker_cluster.read_plan(home).container("de")
        ran("docker", "exec", name, "sh", "-c", f"cd {containers.HOME} && {MAKE}")
        return f"{containers.HOME}/artifacts/weights"
    ran("sh", "-c", f"cd {home} && {MAKE}")
    return str(home / "artifacts" / "weights")


@pytest.mark.soak
@pytest.mark.live
@pytest.mark.parametrize("backend", ["relay", "netns", "docker"])
def test_a_migration_goes_on_after_a_partition(backend, tmp_path, capsys, monkeypatch):
    if backend == "netns" and namespaces.best_carrier()[0] is Carrier.RELAY:
        pytest.skip(f"no links in the kernel here: {namespaces.best_carrier()[1]}")
    if backend == "docker" and (reason := docker_cluster.why_not(containers.IMAGE)):
        pytest.skip(f"no containers here: {reason}")
    home = tmp_path / "home"
    monkeypatch.setenv("GCOS_HOME", str(home))
    try:
        told(capsys, "testbed", "up", "--speed", "10", "--backend", backend)
        told(capsys, "testbed", "links")
        gcos = in_frankfurt(backend, home, capsys)
        weights = make_weights(backend, home)
        gcos("cache", "add", "weights", weights, "--kind", "model", "--site", "de")
        file = "-" if backend == "docker" else str(MIGRATE)
        task = gcos("submit", file, "-q", given=MIGRATE.read_text()).strip()
        before_bytes = 0
        while before_bytes < SIZE_BYTES // 5:
            state, before_bytes = fetched_bytes(gcos, task)
            assert state not in {"SUCCEEDED", "FAILED"}
        told(capsys, "testbed", "partition", "de", "sg")
        sleep_blocking(25.0)  # longer than a holder may be silent
        state, parted_bytes = fetched_bytes(gcos, task)
        assert state == "STAGING"
        assert before_bytes <= parted_bytes < SIZE_BYTES
        told(capsys, "testbed", "heal")
        gcos("wait", task)
        assert fetched_bytes(gcos, task)[0] == "SUCCEEDED"
        ledger = json.loads(gcos("ledger", "-o", "json"))
        moved_bytes = sum(sum(entry["fetched"].values()) for entry in ledger["entries"])
        assert SIZE_BYTES <= moved_bytes <= SIZE_BYTES + WINDOW_BYTES
    finally:
        main(["testbed", "down", "--force"])
