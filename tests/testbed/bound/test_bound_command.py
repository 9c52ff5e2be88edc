"""`gcos bound`: bound, search and policies of the same runs, kept and gone on with."""

import json
from pathlib import Path

import pytest

from gcos.cli.main import main
from testbed import scenarios
from tests.recheck.recheck import read_export, recheck


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default scenario over a day, with few tasks."""
    text = (Path(scenarios.__file__).parent / "default.toml").read_text()
    for old, new in (
        ("warmup_h = 24", "warmup_h = 6"),
        ("measure_h = 168", "measure_h = 18"),
        ("load = 0.5", "load = 0.03"),
        ('name = "default"', 'name = "day"'),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path_factory.mktemp("scenario") / "day.toml"
    path.write_text(text)
    return path


def call(*arguments: str) -> int:
    return main(["bound", "--weeks", "2023-01-30", "--seeds", "1", *arguments])


def test_policies_lie_above_the_bound_and_all_is_kept(
    tmp_path: Path, scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = ["--scenario", str(scenario), "--policies", "joint,random", "--out", str(tmp_path)]
    exports = tmp_path / "exports"
    assert call(*order, "-o", "json", "--export", str(exports)) == 0
    first = json.loads(capsys.readouterr().out)
    (run,) = first["runs"]
    assert first["schema"] == "gcos/bound/v1"
    assert 0 < run["bound"]["bound_usd"] <= run["bound"]["search_usd"]
    for policy in run["policies"]:
        assert policy["over_bound"] >= 1
        assert policy["over_bound"] == pytest.approx(
            policy["joint_usd"] / run["bound"]["bound_usd"]
        )
    found = {path.name.split("-")[0]: path for path in exports.iterdir()}
    assert sorted(found) == ["joint", "random", "search"]
    assert not recheck(read_export(found["search"])).breaches

    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert len(kept) == 3
    assert call(*order, "--jobs", "2", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out) == first
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}

    assert call(*order) == 0
    table = capsys.readouterr().out
    assert "clairvoyant search" in table
    assert "whole run" in table


def test_without_a_search_there_is_the_bound_alone(
    scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--scenario", str(scenario), "--policies", "joint", "--no-search") == 0
    table = capsys.readouterr().out
    assert "clairvoyant search" not in table
    assert "operator" in table


def test_a_damaged_file_is_named(
    tmp_path: Path, scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = ["--scenario", str(scenario), "--policies", "joint", "--out", str(tmp_path)]
    assert call(*order, "--no-search") == 0
    (path,) = tmp_path.glob("bound-*.json")
    path.write_text("{")
    assert call(*order, "--no-search") == 4
    assert path.name in capsys.readouterr().err
