"""The example trains with somebody else's library."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_the_example_begins_with_joint_and_keeps_what_is_better(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["train_policy.py", "1"])
    runpy.run_path(str(ROOT / "examples/research/train_policy.py"), run_name="__main__")
    generation, seen, unseen = capsys.readouterr().out.splitlines()
    assert generation.startswith("generation 0: best so far ")
    best_usd, joint_usd = (float(word) for word in seen.split() if word[0].isdigit())
    assert 0 < best_usd <= joint_usd
    assert unseen.startswith("days unseen: ")
