"""Real agents run a scenario from the command line, and nothing of them is left. Takes minutes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gcos.cli.main import main

SHORT = """
base = "default"
keep_sites = ["de", "on"]
[workload]
short  = { share = 0.9, median_h = 0.05, sigma = 0.2, slack_h = [0.3, 1.2],  data_gb_max = 50 }
batch  = { share = 0.1, median_h = 0.05, sigma = 0.2, slack_h = [2.0, 12.0], data_gb_max = 300 }
tuning = { share = 0.0, median_h = 0.3, sigma = 0.3, slack_h = [6.0, 36.0], data_gb_max = 1000 }
"""
SETTINGS = (
    *("--set", "warmup_h=0", "--set", "measure_h=1", "--set", "workload.load=0.03"),
    *("--set", "signals.forecast_error=0", "--speed", "60"),
)


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "short.toml"
    path.write_text(SHORT)
    return str(path)


def live_processes() -> list[str]:
    """Return the command lines of agents that belong to a live run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"gcos-live-" in command:
                found.append(command.decode(errors="replace"))
    return found


def call(capsys, *arguments: str) -> str:
    """Run a command and return what it wrote to stdout."""
    code = main(list(arguments))
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


@pytest.mark.soak
@pytest.mark.live
def test_an_evaluation_on_agents_says_what_one_in_simulation_does(scenario, capsys) -> None:
    before = live_processes()
    common = (
        "evaluate",
        "--scenario",
        scenario,
        "--policies",
        "joint",
        "--seeds",
        "1",
        "-o",
        "json",
    )
    live = json.loads(call(capsys, *common, *SETTINGS, "--on", "live"))
    simulated = json.loads(call(capsys, *common, *SETTINGS[:-2], "--core", "full"))
    assert live.keys() == simulated.keys()
    ours, theirs = live["policies"][0], simulated["policies"][0]
    assert ours.keys() == theirs.keys()
    assert ours["task_count"] == theirs["task_count"] > 3
    assert live["runs"][0]["result"]["core"] == "live"
    assert any("real agents" in note for note in live["notes"])
    assert "--on live" in live["origin"]["command"]
    assert live_processes() == before


@pytest.mark.soak
@pytest.mark.live
def test_agents_over_links_are_like_the_simulator(scenario, capsys) -> None:
    before = live_processes()
    found = json.loads(
        call(
            capsys,
            *("testbed", "parity", "--scenario", scenario, "--policy", "rule", "-o", "json"),
            *SETTINGS,
        )
    )
    assert found["decisions"]["awards"] >= found["trajectory"]["task_count"] > 3
    assert found["decisions"]["differences"] == []
    assert found["trajectory"]["differences"] == []
    assert live_processes() == before


@pytest.mark.soak
@pytest.mark.live
def test_an_interrupted_live_run_leaves_nothing(scenario) -> None:
    before = live_processes()
    command = [sys.executable, "-P", "-m", "gcos.cli.main", "evaluate", "--on", "live"]
    child = subprocess.Popen(
        [*command, "--scenario", scenario, "--policies", "joint", "--seeds", "1", *SETTINGS],
        stderr=subprocess.PIPE,
        text=True,
    )
    # The first line tells that agents run.
    assert "agents run" in child.stderr.readline()
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130, said
    assert live_processes() == before
