"""`gcos train` says what it lacks, and takes no directory that is another training's."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from gcos.cli.main import main
from policies.maccs.actor_card import FamilyResult
from testbed.training import gate_runs
from testbed.training.config import GateRuns, TrainConfig
from testbed.training.gate_runs import GateOrder, GateStep, PairedRuns, result_of
from testbed.training.parts import part_named

FILE = """
part = "artifact"
run_count = 2
[spread]
plain_ratio = 1.0
[artifact]
epoch_count = 2
label_every_h = 24
[gate]
run_count = 2
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "train.toml"
    path.write_text(FILE)
    return path


def test_missing_extra_is_told_with_the_line_that_installs_it(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else real(name)
    )
    assert main(["train", "--config", str(config), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "training needs torch" in told
    assert "pip install 'gcos[train]'" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra `train`")
def test_directory_of_another_training_is_refused(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from testbed.training.run import Training

    monkeypatch.setattr(Training, "part", property(lambda _self: _Stopped()))
    out = tmp_path / "out"
    words = ["train", "--config", str(config), "--out", str(out), "--no-gate"]
    assert main(words) == 130
    assert "--resume goes on" in capsys.readouterr().err
    assert main(words) == 2
    assert "--resume" in capsys.readouterr().err
    config.write_text(FILE.replace("epoch_count = 2", "epoch_count = 3"))
    assert main([*words, "--resume"]) == 2
    assert "another configuration" in capsys.readouterr().err
    judged = ["train", "--config", str(config), "--out", str(out), "--only-gate"]
    assert main(judged) == 2
    assert "no weeks to judge by" in capsys.readouterr().err
    judged += ["--data", str(tmp_path)]
    assert main(judged) == 2
    assert "train it first" in capsys.readouterr().err
    (out / "artifact.onnx").touch()
    assert main(judged) == 2
    assert "or other data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('part = "artefact"', "artefact"),
        ('gate.families = ["nope"]', "nope"),
        ('gate.first_day = "2022-12-28"', "warm-up included"),
    ],
)
def test_what_names_nothing_is_refused_before_anything_is_run(
    line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.toml"
    path.write_text(line if line.startswith("part") else f'part = "artifact"\n{line}\n')
    out = tmp_path / "out"
    assert main(["train", "--config", str(path), "--out", str(out), "--no-gate"]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


class _Stopped:
    """A part whose training is interrupted as it begins."""

    def train(self, _job: object) -> None:
        raise KeyboardInterrupt


def made(
    mean: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    families: dict[str, float],
    whole: float | None = None,
) -> Any:
    """Return what the gate says where J changes so much in each scenario."""

    def paired(order: GateOrder) -> PairedRuns:
        wobble = 0.001 * (order.setting.seed % 3)
        changes = (
            families.get(order.setting.scenario.name, mean),
            mean if whole is None else whole,
        )
        sums = [
            (100.0, *(100.0 * (1 + change * scale + wobble) for scale in order.scales))
            for change in changes
        ]
        return PairedRuns(*sums)

    monkeypatch.setattr(gate_runs, "paired_runs", paired)
    monkeypatch.setattr(gate_runs, "weights_digest", lambda _path: "w")
    monkeypatch.setattr(gate_runs, "code_digest", lambda _entrance: "c")
    gate = GateRuns(families=tuple(families), family_run_count=3)
    told: list[str] = []
    config = TrainConfig("artifact", gate=gate)
    step = GateStep(config, part_named("artifact"), tmp_path, 1, told.append)
    return step.judged(), told


def test_gate_runs_families_only_for_what_may_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, told = made(-0.05, tmp_path, monkeypatch, {"load-high": -0.01, "churn": 0.0})
    assert (found.is_passed, found.residual_scale) == (True, 1.0)
    assert [each.scenario for each in found.families] == [
        "default, whole runs",
        "load-high",
        "churn",
    ]
    assert sum("load-high: " in line for line in told) == 4
    found, told = made(0.02, tmp_path, monkeypatch, {"load-high": -0.01})
    assert (found.is_passed, found.residual_scale) == (False, 0.0)
    assert not any("load-high" in line for line in told)


def test_gate_takes_the_smaller_weight_where_the_larger_harms_a_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = made(-0.05, tmp_path, monkeypatch, {"load-high": 0.015})
    assert (found.is_passed, found.residual_scale) == (True, 0.5)


def test_gate_refuses_what_is_better_only_because_its_warm_up_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, told = made(-0.1, tmp_path, monkeypatch, {"load-high": -0.01}, whole=0.05)
    assert (found.is_passed, found.residual_scale) == (False, 0.0)
    assert "default, whole runs" in found.why
    assert not any("load-high" in line for line in told)


def test_single_week_tells_no_interval() -> None:
    assert result_of("default", [-0.1], [0.0]) == FamilyResult("default", 1, -0.1, None, None)


@pytest.mark.soak
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra `train`")
def test_training_from_a_file_comes_to_the_same_weights_with_any_number_of_jobs(
    config: Path, tmp_path: Path
) -> None:
    from policies.maccs.actor_file import weights_digest

    digests = set()
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        words = ["train", "--config", str(config), "--out", str(out), "--jobs", str(jobs)]
        assert main(words) == 0
        digests.add(weights_digest(out / "artifact.onnx"))
        assert "did not pass" in (out / "artifact.md").read_text()
        assert json.loads((out / "config.json").read_text())["part"] == "artifact"
        assert main([*words, "--resume", "--no-gate"]) == 0
        digests.add(weights_digest(out / "artifact.onnx"))
    assert len(digests) == 1
