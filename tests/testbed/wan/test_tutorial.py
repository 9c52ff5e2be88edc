"""The tutorial of the testbed: a model goes from one region to another, and the network is parted.

Each command of the block in README.md is one that is executed here, in the same order.
"""

import json
from pathlib import Path

import pytest

from gcos.cli.main import main
from gcos.system import sleep_blocking
from testbed.wan import namespaces
from testbed.wan.records import Carrier

README = Path(namespaces.__file__).parent / "README.md"
MIGRATE = str(Path(namespaces.__file__).parent / "migrate.yaml")
SIZE_BYTES = 100_000_000
#: What was under way when nothing passed any more: the window of all connections.
WINDOW_BYTES = 24 << 20


def told(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def fetched_bytes(capsys, task: str) -> tuple[str, int]:
    """Return a task's state and how much of its model is where it is to run."""
    status = json.loads(told(capsys, "status", task, "-o", "json"))
    return status["state"], status.get("fetched_bytes", 0)


@pytest.mark.soak
@pytest.mark.live
@pytest.mark.parametrize("backend", ["relay", "netns"])
def test_a_migration_goes_on_after_a_partition(backend, tmp_path, capsys, monkeypatch):
    if backend == "netns" and namespaces.best_carrier()[0] is Carrier.RELAY:
        pytest.skip(f"no links in the kernel here: {namespaces.best_carrier()[1]}")
    monkeypatch.setenv("GCOS_HOME", str(tmp_path / "home"))
    weights = tmp_path / "home" / "artifacts" / "weights"
    try:
        told(capsys, "testbed", "up", "--speed", "10", "--backend", backend)
        told(capsys, "testbed", "links")
        weights.mkdir(parents=True)
        with Path("/dev/urandom").open("rb") as random:
            (weights / "weights.bin").write_bytes(random.read(SIZE_BYTES))
        told(capsys, "cache", "add", "weights", str(weights), "--kind", "model", "--site", "de")
        task = told(capsys, "submit", MIGRATE, "-q").strip()
        before_bytes = 0
        while before_bytes < SIZE_BYTES // 5:
            state, before_bytes = fetched_bytes(capsys, task)
            assert state not in {"SUCCEEDED", "FAILED"}
        told(capsys, "testbed", "partition", "de", "sg")
        sleep_blocking(25.0)  # longer than a holder may be silent
        state, parted_bytes = fetched_bytes(capsys, task)
        assert state == "STAGING"
        assert before_bytes <= parted_bytes < SIZE_BYTES
        told(capsys, "testbed", "heal")
        told(capsys, "wait", task)
        assert fetched_bytes(capsys, task)[0] == "SUCCEEDED"
        ledger = json.loads(told(capsys, "ledger", "-o", "json"))
        moved_bytes = sum(sum(entry["fetched"].values()) for entry in ledger["entries"])
        assert SIZE_BYTES <= moved_bytes <= SIZE_BYTES + WINDOW_BYTES
    finally:
        main(["testbed", "down", "--force"])
