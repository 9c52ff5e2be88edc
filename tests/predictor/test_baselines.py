from itertools import count
from pathlib import Path

import numpy as np
import pytest

from gcos.errors import WrongStateError
from predictor.backtest.contender import Contender
from predictor.backtest.reading import Table
from predictor.backtest.scores import crps_of
from predictor.backtest.trace import Columns, Trace, trace_of
from predictor.baselines.contenders import baselines_of
from predictor.baselines.design import design_of
from predictor.baselines.learners import MODULES, research_module
from predictor.baselines.recent import NOTHING_KNOWN_S, GlobalQuantiles, LastOfContext
from predictor.records import Finished, Row


def _finished(seconds: float, *contexts: str) -> Finished:
    return Finished(Row(contexts=contexts), seconds, started_s=0.0, ended_s=seconds)


def _trace(row_count: int, *, late: bool = False) -> Trace:
    """Return jobs whose time is told by their name, with noise of 10 %."""
    random = np.random.default_rng(0)
    names = random.choice(["a", "b", "c"], row_count)
    base = {"a": 10.0, "b": 100.0, "c": 1000.0}
    times_s = [base[name] * float(np.exp(random.normal(0, 0.1))) for name in names]
    submits = [i * (1e-6 if late else 100.0) for i in range(row_count)]
    gpus = [None if i % 7 == 0 else float(i % 4) for i in range(row_count)]
    columns = {"submit": submits, "took": times_s, "name": names.tolist(), "gpus": gpus}
    table = Table(Path("jobs.csv"), columns, range(row_count), "row", row_count=row_count)
    keys = Columns(
        "submit", "took", numeric=("gpus",), categorical=("name",), contexts=(("name",),)
    )
    return trace_of(table, keys)


def _contenders(trace: Trace) -> dict[str, Contender]:
    for module in MODULES:
        pytest.importorskip(module)
    ticks = count()
    found = baselines_of(trace, lambda: float(next(ticks)))
    return {contender.name: contender for contender in found}


def test_without_any_end_a_wide_guess_is_told() -> None:
    for forecaster in (GlobalQuantiles(), LastOfContext(10, 5)):
        forecaster.fit([])
        assert forecaster.predict(Row(), 0).quantiles_s is NOTHING_KNOWN_S


def test_global_quantiles_are_those_of_all_times() -> None:
    forecaster = GlobalQuantiles()
    forecaster.fit([_finished(float(s)) for s in range(1, 102)])
    assert forecaster.predict(Row(), 0).quantiles_s[9] == 51
    for seconds in range(50):
        forecaster.observe(_finished(1000.0 + seconds), seconds)
    assert forecaster.predict(Row(), 0).quantiles_s[18] > 1000


def test_the_deepest_context_with_enough_of_the_newest_jobs_is_used() -> None:
    forecaster = LastOfContext(newest_count=3, least_count=2)
    forecaster.fit([_finished(s, "q", "u") for s in (1.0, 5.0, 5.0, 5.0)])
    forecaster.observe(_finished(7.0, "q", "v"), 4)
    assert forecaster.predict(Row(contexts=("q", "u")), 5).quantiles_s[0] == 5.0  # 1 s is old
    of_new_user = forecaster.predict(Row(contexts=("q", "v")), 5).quantiles_s
    assert of_new_user[-1] > 6  # the queue's newest three: 5, 5, 7
    assert forecaster.predict(Row(contexts=("r", "v")), 5).quantiles_s[-1] > 6  # all jobs


def test_history_columns_see_only_what_had_ended() -> None:
    trace = _trace(60)
    full = design_of(trace)
    changed = trace.duration_s.copy()
    changed[30:] = 7.0
    altered = type(trace)(
        **{name: getattr(trace, name) for name in trace.__slots__} | {"duration_s": changed}
    )
    before = design_of(altered)
    last = int(trace.known_from[30:].min())
    assert last > 30
    np.testing.assert_array_equal(full.matrix[: last + 0], before.matrix[:last])
    assert full.code_columns == (1,)
    assert full.matrix.shape == (60, 2 + 2 * 3)


@pytest.mark.parametrize("name", ["LightGBM", "LightGBM + history", "quantile forest", "NGBoost"])
def test_learned_baselines_learn_what_the_name_tells(name: str) -> None:
    trace = _trace(400)
    contenders = _contenders(trace)
    contender = contenders[name]
    rows = range(320, 400)
    guess = contenders["global quantiles"].forecast({}, rows, fit_count=1, progress=lambda _: None)
    poor = crps_of(guess.quantiles_s, trace.duration_s[320:]).mean()
    told = contender.forecast(
        contender.configurations[0], rows, fit_count=2, progress=lambda _: None
    )
    assert (np.diff(told.quantiles_s, axis=1) >= 0).all()
    assert told.fit_count == 2
    assert crps_of(told.quantiles_s, trace.duration_s[320:]).mean() < poor / 3


def test_baselines_stand_jobs_of_which_none_has_ended() -> None:
    trace = _trace(40, late=True)
    for contender in _contenders(trace).values():
        told = contender.forecast(
            contender.configurations[0], range(32, 40), fit_count=1, progress=lambda _: None
        )
        np.testing.assert_allclose(told.quantiles_s, np.tile(NOTHING_KNOWN_S, (8, 1)))


def test_a_missing_package_is_named_with_the_extra_that_has_it() -> None:
    with pytest.raises(WrongStateError, match=r"no_such_package.*gcos\[research\]"):
        research_module("no_such_package")
