"""`gcos predictor backtest` from the command line: what a stranger's log gets."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from gcos.cli.main import main
from gcos.durations import LEVELS
from predictor.backtest.calibration_plot import drawing
from predictor.backtest.calibration_plot import main as draw
from predictor.backtest.llm_durations import main as make_durations
from predictor.backtest.reading import read


def _jobs(count: int) -> list[list[str]]:
    random = np.random.default_rng(4)
    names = random.choice(["ann", "bob"], count)
    return [
        [f"{60 * i}", f"{(20 if name == 'ann' else 300) * random.lognormal(0, 0.3):.3f}", name, "2"]
        for i, name in enumerate(names)
    ]


def _log(tmp_path: Path, rows: list[list[str]]) -> Path:
    path = tmp_path / "jobs.csv"
    lines = [["submit", "took", "user", "gpus"], *rows]
    path.write_text("".join(",".join(row) + "\n" for row in lines))
    return path


def _run(path: Path, *more: str) -> int:
    keys = ["--numeric", "gpus", "--categorical", "user", "--context", "user; user,gpus"]
    words = ["predictor", "backtest", str(path), "--submit", "submit", "--duration", "took"]
    return main([*words, *keys, *more])


def test_a_report_has_all_scores_and_the_quantiles_of_each_scored_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = _jobs(150)
    jobs[140][1] = "-3"
    jobs[3], jobs[4] = jobs[4], jobs[3]
    out = tmp_path / "q.npy"
    assert _run(_log(tmp_path, jobs), "--out", str(out), "-o", "json") == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    split = report["split"]
    assert (split["train_count"], split["validation_count"], split["test_count"]) == (89, 30, 30)
    assert split["dropped_count"] == 1
    assert "took negative" in said.err
    assert "sorted" in said.err
    (ours,) = report["contestants"]
    assert ours["name"] == "DiPTree"
    assert 0 < ours["scores"]["crps"] < 0.5
    assert len(ours["trials"]) <= report["budget"]
    quantiles_s = np.load(out)
    rows = np.load(tmp_path / "q.rows.npy")
    assert quantiles_s.shape == (30, len(LEVELS))
    assert (np.diff(quantiles_s, axis=1) >= 0).all()
    assert rows.tolist() == [i for i in range(119, 150) if i != 140]
    assert "<polyline" in drawing({"jobs": report})
    (tmp_path / "r.json").write_text(said.out)
    assert draw([str(tmp_path / "c.svg"), f"jobs={tmp_path / 'r.json'}"]) == 0
    assert (tmp_path / "c.svg").read_text() == drawing({"jobs": report})


def test_the_table_says_what_scores_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(_log(tmp_path, _jobs(40))) == 0
    said = capsys.readouterr().out
    for words in ("40 rows, 0 dropped", "19 levels", "DiPTree", "slices of time", "Chosen on"):
        assert words in said


def test_constant_times_get_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["5", "7", "ann", "1"] for _ in range(30)]
    assert _run(_log(tmp_path, rows), "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["contestants"][0]["scores"]["crps"] >= 0


def test_a_name_of_its_own_for_each_job_gets_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [[str(i), str(1 + i % 5), f"user-{i}", "1"] for i in range(300)]
    assert _run(_log(tmp_path, rows), "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["split"]["test_count"] == 60


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        ([["1", "2", "ann", "1"]], [], "1 usable rows of 1, 10 are the least"),
        ([], [], "no rows below the header"),
        (_jobs(20), ["--wait", "waited"], "column 'waited': there is no such column"),
        ([["", "2", "ann", "1"]] * 20, [], "column 'submit': every cell is empty"),
        ([["1", "-2", "ann", "1"]] * 20, [], "20 took negative"),
        (_jobs(20), ["--out", "nowhere/q.npy"], "no directory"),
        (_jobs(20), ["--out", "q.txt"], "does not end with .npy"),
        (_jobs(20), ["--time-unit", "weeks"], "'weeks' is not"),
        (_jobs(20), ["--context", "user;;gpus"], "names no column"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[list[str]],
    more: list[str],
    said: str,
) -> None:
    assert _run(_log(tmp_path, rows), *more) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_durations_of_llm_requests_follow_the_measured_rates(tmp_path: Path) -> None:
    settings = [
        ["m", "h100", "8", str(prompt), str(batch), str(100 * prompt / 512), str(10 * batch)]
        for prompt, batch in [(512, 1), (512, 2), (1024, 1)]
    ]
    header = ["model", "hardware", "tensor_parallel", "prompt_size", "batch_size"]
    rates = [[*header, "prompt_time", "token_time"], *[s for s in settings for _ in range(3)]]
    requests = [["trace", "t_s", "input_tokens", "output_tokens"]]
    requests += [
        ["conv", "60", "2048", "11"],
        ["code", "0", "512", "1"],
        ["code", "61", "512", "11"],
    ]
    paths = [tmp_path / "requests.csv", tmp_path / "rates.csv", tmp_path / "out.csv"]
    for path, rows in zip(paths, (requests, rates), strict=False):
        path.write_text("".join(",".join(row) + "\n" for row in rows))
    assert make_durations([str(path) for path in paths]) == 0
    table = read(paths[2], ["submit_s", "trace", "duration_s"])
    assert table.columns["submit_s"] == ["0.0", "60.0", "61.0"]
    assert table.columns["trace"] == ["code", "conv", "code"]
    # First tokens after 0.1 s, 0.4 s and 0.1 s; ten more at 10 ms alone, at 20 ms beside another.
    assert [float(str(cell)) for cell in table.columns["duration_s"]] == pytest.approx(
        [0.1, 0.5, 0.3]
    )


def test_a_missing_library_is_named_with_the_extra_that_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    assert _run(_log(tmp_path, _jobs(150))) == 2
    assert "gcos[research]" in capsys.readouterr().err
