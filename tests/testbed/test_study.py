"""Changed scenarios, sweeps, and the table beside a paper's figures."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gcos.accounting import Charge
from gcos.cli.invocation import Format
from gcos.cli.main import main
from gcos.cli.output import Output
from gcos.errors import InvalidRequestError, NotFoundError
from testbed import cores
from testbed.evaluation import Evaluation
from testbed.paper import (
    BASELINES,
    HEURISTICS,
    OURS,
    SCENARIOS,
    paper_table,
    refuse_with_paper,
    show_paper,
)
from testbed.provenance import code_version
from testbed.report.sources import read_sources
from testbed.scenarios import load_scenario
from testbed.sim.instance import Instance
from testbed.sim.result import Lookups, RunResult, Totals
from testbed.study import Study, sweep_changes

#: Cost and carbon of a task; without caches all of it is eight times as dear.
NAMES = ("rule", *HEURISTICS, *BASELINES)
LEVELS = {name: float(place) for place, name in enumerate(NAMES, 1)} | dict.fromkeys(OURS, 1.0)


def simulated(instance: Instance, *, policy: str, cache_mode: str, log: Path | None) -> RunResult:
    """Add up a few sums instead of simulating."""
    each = LEVELS[policy] * (8.0 if cache_mode == "none" else 1.0)
    count = len(instance.tasks)
    charge = Charge(energy_usd=each * count, compute_gco2=100.0 * each * count)
    totals = Totals(charge, Charge(), count, 0, 0.0, 0.0, Lookups(), Lookups())
    return RunResult(policy, cache_mode, totals, totals, count, wall_s=0.0, trace_hash="")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(
        simulate=simulated,
        code="some code",
        data=None,
        weeks="2024-01-01,2024-W02",
        first=None,
        last=None,
        seed_count=2,
        replay=None,
        job_count=1,
        out_directory=tmp_path,
        export=None,
        output=Output(is_quiet=True),
    )


def find(study: Study, changes: Sequence[str] = ()) -> Evaluation:
    return study.find(
        "sites-5",
        changes=["workload.load=0.02", *changes],
        policies=("rule", "locality"),
        cache_modes=("dual",),
        baseline="rule",
    )


def test_a_changed_key_changes_the_scenario_and_its_name() -> None:
    base = load_scenario("cache-tenth")
    changed = load_scenario("cache-tenth", ["workload.load=0.3", "network_kwh_per_gb = 0.06"])
    assert changed.name == "cache-tenth+workload.load=0.3+network_kwh_per_gb=0.06"
    assert (changed.workload.load, changed.network_kwh_per_gb) == (0.3, 0.06)
    assert changed.caches == base.caches


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("workload.laod=0.3", "--set workload.laod=0.3.*load"),
        ("workload.load", "changes nothing"),
        ("workload.load=much", "expected `float`"),
        ("workload.load=-1", "is below 0"),
        ("=1", "changes nothing"),
    ],
)
def test_an_impossible_change_is_refused_by_name(change: str, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said) as caught:
        load_scenario("default", [change])
    assert caught.value.field


def test_an_evaluation_says_how_to_repeat_it_and_is_kept_with_its_runs(
    study: Study, tmp_path: Path
) -> None:
    found = find(study, ["network_kwh_per_gb=0.06"])
    assert found.origin.command == (
        "gcos evaluate --scenario sites-5 --policies rule,locality --baseline rule "
        "--cache-mode dual --seeds 2 --weeks 2024-01-01,2024-01-08 "
        "--set workload.load=0.02 --set network_kwh_per_gb=0.06"
    )
    assert found.origin.version == code_version()
    assert found.origin.base == "sites-5"
    assert found.origin.parameters["network_kwh_per_gb"] == 0.06
    assert found.origin.parameters["signals.forecast_error"] == 0.08
    find(study, ["network_kwh_per_gb=0.06"])
    (kept,) = (tmp_path / "evaluations").iterdir()
    assert json.loads(kept.read_text())["scenario"] == found.scenario
    find(study)
    assert len(list((tmp_path / "evaluations").iterdir())) == 2


def test_what_repeats_an_evaluation_names_its_weeks_in_the_order_of_its_seeds(study: Study) -> None:
    found = find(replace(study, weeks="2024-W02,2024-01-01"))
    assert "--weeks 2024-01-08,2024-01-01" in found.origin.command


def test_a_sweep_names_one_key_and_several_values() -> None:
    assert sweep_changes("a.b=1, 2,1") == ("a.b=1", "a.b=2")
    assert sweep_changes(None) == ("",)
    for text in ("a.b", "a.b=1", "=1,2"):
        with pytest.raises(InvalidRequestError, match="is no sweep"):
            sweep_changes(text)


def test_the_papers_figures_stand_beside_the_worst_without_caches(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    found = paper_table(study, ours=("rule",), changes=["workload.load=0.02", "measure_h=24"])
    assert [(row.scenario.partition("+")[0], row.figure) for row in found.rows] == [
        (scenario, figure)
        for scenario in SCENARIOS
        for figure in ("cost", "cost without penalties", "carbon")
    ]
    row = found.rows[0]
    assert (row.baseline, row.heuristic) == ("least-loaded", "locality")
    assert row.saving_percent is not None
    assert row.saving_percent.mean == pytest.approx(100 * (1 - 1 / (8 * 8)))
    assert row.value == pytest.approx(row.baseline_value / 64)
    show_paper(found, Output())
    text = capsys.readouterr().out
    for words in (
        "92.6",
        "90.3",
        "98.4 % (95 % interval 98.4 to 98.4) below that of least-loaded without any cache",
        "in scope operator (electricity, egress, penalty and storage",
        "cost without penalties of rule",
        "the paper states 92.6 %",
        "locality with the same caches",
    ):
        assert words in text
    show_paper(found, Output(format=Format.JSON))
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "gcos/paper/v1"
    assert document["rows"][0]["saving_percent"]["mean"] == row.saving_percent.mean


def test_what_the_paper_settles_is_not_taken() -> None:
    refuse_with_paper(cache_mode="dual", baseline=None, sweep=None, has_precision=False)
    for options in (
        {"cache_mode": "none", "baseline": None, "sweep": None},
        {"cache_mode": "dual", "baseline": "rule", "sweep": None},
        {"cache_mode": "dual", "baseline": None, "sweep": "a=1,2"},
    ):
        with pytest.raises(InvalidRequestError, match="by itself"):
            refuse_with_paper(**options, has_precision=False)
    with pytest.raises(InvalidRequestError, match="another number of runs"):
        refuse_with_paper(cache_mode="dual", baseline=None, sweep=None, has_precision=True)


def test_the_command_sweeps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cores, "simulator", lambda _: simulated)
    words = "evaluate --policies rule,random --weeks 2024-01-01 --seeds 1 --set workload.load=0.02"
    sweep = "--sweep carbon_price_usd_per_kg=0,1 --core full -o json"
    assert main([*words.split(), *sweep.split()]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "gcos/evaluations/v1"
    prices = [each["carbon_price_usd_per_kg"] for each in document["evaluations"]]
    assert prices == [0.0, 1.0]


def test_the_command_keeps_the_papers_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(cores, "simulator", lambda _: simulated)
    words = "evaluate --scenario paper --weeks 2024-01-01 --seeds 1 --set workload.load=0.02"
    assert main([*words.split(), "--core", "full", "--out", str(tmp_path)]) == 0
    assert "the paper states 90.3 %" in capsys.readouterr().out
    assert len(read_sources([tmp_path]).papers) == 1


def test_a_study_refuses_what_it_cannot_read(study: Study) -> None:
    with pytest.raises(NotFoundError, match="no scenario"):
        study.find("defalt", policies=("rule",), cache_modes=("dual",), baseline="rule")
