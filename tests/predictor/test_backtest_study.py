from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np

from predictor.backtest.contender import Configuration, Forecasts, Progress, fit_rows
from predictor.backtest.forecaster import Told
from predictor.backtest.reading import Table
from predictor.backtest.replay import Replayed
from predictor.backtest.study import rows_to_predict, study
from predictor.backtest.trace import Columns, Trace, trace_of
from predictor.records import Finished, Row


def _trace(row_count: int) -> Trace:
    random = np.random.default_rng(3)
    submits = np.sort(random.uniform(0, 1000, row_count)).tolist()
    times_s = random.lognormal(3, 1, row_count).tolist()
    table = Table(
        Path("jobs.csv"),
        {"submit": submits, "took": times_s},
        range(row_count),
        "row",
        row_count=row_count,
    )
    return trace_of(table, Columns("submit", "took"))


class Witness:
    """Writes down all that it is told, and knows the row that is predicted by its index."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.known: list[Finished] = []
        self.predicted: list[int] = []

    def fit(self, history: Sequence[Finished]) -> None:
        self.known = list(history)

    def predict(self, row: Row, index: int) -> Told:
        trace = self._trace
        assert row == trace.row(index)
        assert self.known == [trace.finished(int(i)) for i in trace.known_at(index)]
        self.predicted.append(index)
        return Told(np.ones(19))

    def observe(self, ended: Finished, index: int) -> None:
        assert ended == self._trace.finished(index)
        self.known.append(ended)


def _watch() -> float:
    return float(next(_ticks))


_ticks = count()


def test_a_forecaster_knows_exactly_the_ended_jobs_in_order_of_end() -> None:
    trace = _trace(200)
    witnesses: list[Witness] = []

    def make(configuration: Configuration) -> Witness:
        witnesses.append(Witness(trace))
        return witnesses[-1]

    told_rows: list[int] = []
    contender = Replayed("witness", ({},), make, trace=trace, stopwatch=_watch)
    told = contender.forecast({}, range(120, 160), fit_count=3, progress=told_rows.append)
    assert witnesses[0].predicted == list(range(120, 160))
    assert told.quantiles_s.shape == (40, 19)
    assert (told.typical_s == 1).all()
    assert told.fit_count == 3
    assert sum(told_rows) == 40


def test_fits_are_spread_evenly_and_begin_with_the_part() -> None:
    assert fit_rows(range(10, 50), 4) == [10, 20, 30, 40]
    assert fit_rows(range(10, 12), 4) == [10, 11]


class Fixed:
    """Tells one number whatever happens; writes down what it was asked."""

    def __init__(self, name: str, values: Sequence[float]) -> None:
        self.name = name
        self.configurations: tuple[Configuration, ...] = tuple({"value": v} for v in values)
        self.asked: list[tuple[float, range]] = []

    def forecast(
        self, configuration: Configuration, rows: range, *, fit_count: int, progress: Progress
    ) -> Forecasts:
        self.asked.append((configuration["value"], rows))
        progress(len(rows))
        told_s = np.full((len(rows), 19), configuration["value"])
        return Forecasts(told_s, told_s[:, 9], 1.0, update_us=None, fit_s=0.0, fit_count=1)


def test_the_test_part_is_predicted_once_with_what_validation_chose() -> None:
    trace = _trace(500)
    ours, theirs = Fixed("ours", [1.0, 20.0, 5000.0]), Fixed("theirs", [1.0])
    told: list[int] = []
    results = study(trace, [ours, theirs], told.append)
    validation, test = range(300, 400), range(400, 500)
    tried = [(1.0, validation), (20.0, validation), (5000.0, validation)]
    assert ours.asked == [*tried, (20.0, test)]
    assert theirs.asked == [(1.0, test)]  # nothing to choose
    assert sum(told) == rows_to_predict(trace, [ours, theirs]) == 500
    assert results[0].configuration == {"value": 20.0}
    assert len(results[0].trials) == 3
    assert results[0].against is None
    assert results[1].against is not None
    assert results[1].against.high < 0  # ours is better
