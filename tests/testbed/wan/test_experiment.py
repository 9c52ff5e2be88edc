"""Reports of experiments, pure; a small one with real processes under the soak marker."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gcos.cli.main import main
from testbed.wan import containers, docker_cluster
from testbed.wan.experiment import Experiment, Mishaps, PolicyRun
from testbed.wan.records import Verdict
from testbed.wan.reports import experiment_markdown, experiment_table

RUN = PolicyRun(
    policy="joint",
    submitted=8,
    acknowledged=7,
    unacknowledged=2,
    states={"SUCCEEDED": 6, "FAILED": 1},
    unended=0,
    changed=0,
    sites={"de": 7},
    cost_usd=0.5,
    carbon_gco2=20.0,
    mean_wait_s=3.0,
    wall_s=9.0,
    timing=Verdict(deliveries=10, late_share=0.2, worst_s=0.1, bound_s=0.01, is_void=True),
    decision_count=40,
)


def experiment(*runs: PolicyRun) -> Experiment:
    return Experiment("sites-5", jobs=8, mishaps=Mishaps(("de", "on"), "sg"), runs=runs)


def test_an_experiment_succeeds_when_every_acknowledged_job_ended_once():
    assert experiment(RUN).is_success
    assert not experiment(RUN, replace(RUN, unended=1, states={"SUCCEEDED": 6})).is_success
    assert not experiment(replace(RUN, changed=1)).is_success
    assert not experiment(replace(RUN, acknowledged=8)).is_success
    assert not experiment(
        replace(RUN, changed_decisions=("award of t: on instead of de",))
    ).is_success
    assert not experiment().is_success


def test_a_report_tells_what_happened_and_what_is_void():
    text = experiment_markdown(experiment(RUN))
    assert "nothing passed between de and on" in text
    assert (
        "| joint | 8 | 7 | 1 FAILED, 6 SUCCEEDED | 0 | 0 | 40/40 | 0.5 | 20 | 3.0 | 20.0% VOID |"
        in text
    )
    assert "Every acknowledged job" in text
    assert "NOT every" in experiment_markdown(experiment(replace(RUN, changed=1)))
    wrong = experiment(replace(RUN, changed_decisions=("award of t: on instead of de",)))
    assert "but 1 DECISIONS came out otherwise" in experiment_markdown(wrong)
    assert "| 39/40 |" in experiment_markdown(wrong)
    table = experiment_table(experiment(RUN, RUN))
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_options_that_cannot_be_are_refused(capsys):
    for wrong in (
        ["--policies", "magic"],
        ["--policies", "joint,milp"],
        ["--part", "de"],
        ["--kill", "mars"],
        ["--kill", "broker"],
    ):
        assert main(["testbed", "experiment", "--scenario", "sites-5", *wrong]) == 2
    assert "a link is cut between two places" in capsys.readouterr().err


@pytest.mark.soak
@pytest.mark.live
def test_jobs_end_once_though_a_link_is_cut_and_the_busiest_site_dies(tmp_path: Path, capsys):
    report = tmp_path / "report.md"
    arguments = ["--policies", "joint,random", "--jobs", "48", "--part", "cal,de", "--kill", "tex"]
    assert main(["testbed", "experiment", *arguments, "--report", str(report), "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for run in found["runs"]:
        assert run["acknowledged"] == 48
        assert sum(run["states"].values()) == 48
        assert run["decision_count"] > 48
        assert run["changed_decisions"] == []
    assert "Every acknowledged job ended in one terminal state, and every" in report.read_text()


@pytest.mark.soak
@pytest.mark.live
def test_jobs_in_containers_end_once_too(tmp_path: Path, capsys):
    reason = docker_cluster.why_not(containers.IMAGE)
    if reason:
        pytest.skip(f"no containers here: {reason}")
    report = tmp_path / "report.md"
    arguments = ["--backend", "docker", "--policies", "random", "--jobs", "24", "--kill", "de"]
    assert main(["testbed", "experiment", *arguments, "--report", str(report), "-o", "json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run["acknowledged"] == 24
    assert sum(run["states"].values()) == 24
    assert len(run["sites"]) > 1
    assert "Every acknowledged job ended in one terminal state" in report.read_text()
