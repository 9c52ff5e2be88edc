"""Replays a job log to a forecaster: each end is told when it is known, never before."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gcos.durations import LEVELS
from predictor.backtest.contender import (
    Configuration,
    Forecasts,
    Progress,
    Stopwatch,
    fit_rows,
)
from predictor.backtest.forecaster import Forecaster
from predictor.backtest.trace import Trace

_P50 = 9


@dataclass(frozen=True, slots=True)
class Replayed:
    """A contender that predicts job by job.

    Attributes:
        name: Name in reports.
        configurations: What validation chooses from.
        make: Returns a forecaster that knows nothing yet.
        trace: The job log.
        stopwatch: Tells what predictions and updates take.
    """

    name: str
    configurations: tuple[Configuration, ...]
    make: Callable[[Configuration], Forecaster]
    trace: Trace
    stopwatch: Stopwatch

    def forecast(
        self, configuration: Configuration, rows: range, *, fit_count: int, progress: Progress
    ) -> Forecasts:
        """Predict `rows`; see `Contender`."""
        trace, watch = self.trace, self.stopwatch
        forecaster = self.make(configuration)
        ended = trace.ended()
        known_from = trace.known_from[ended]
        told_count = 0
        quantiles_s = np.empty((len(rows), len(LEVELS)))
        typical_s = np.empty(len(rows))
        predict_s, update_s, fit_s = np.empty(len(rows)), [], []
        fits = set(fit_rows(rows, fit_count))
        for place, index in enumerate(rows):
            known_count = int(np.searchsorted(known_from, index, side="right"))
            if index in fits:
                history = [trace.finished(int(i)) for i in ended[:known_count]]
                started = watch()
                forecaster.fit(history)
                fit_s.append(watch() - started)
            else:
                for other in ended[told_count:known_count].tolist():
                    finished = trace.finished(other)
                    started = watch()
                    forecaster.observe(finished, other)
                    update_s.append(watch() - started)
            told_count = known_count
            row = trace.row(index)
            started = watch()
            told = forecaster.predict(row, index)
            predict_s[place] = watch() - started
            quantiles_s[place] = told.quantiles_s
            median_s = told.quantiles_s[_P50]
            typical_s[place] = median_s if told.typical_s is None else told.typical_s
            progress(1)
        return Forecasts(
            quantiles_s=quantiles_s,
            typical_s=typical_s,
            predict_us=float(np.median(predict_s)) * 1e6,
            update_us=float(np.median(update_s)) * 1e6 if update_s else None,
            fit_s=float(np.mean(fit_s)),
            fit_count=len(fit_s),
        )
