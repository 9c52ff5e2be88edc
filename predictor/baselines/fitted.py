"""Plays a learner that only fits through a backtest: fit, predict until the next fit, fit again.

All are given ln seconds to learn. Their quantiles are sorted, since separate fits of neighbouring
levels cross; sorting never makes the score worse (Chernozhukov, Fernández-Val and Galichon,
"Quantile and Probability Curves Without Crossing", 2010).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gcos.durations import LEVELS, SECONDS_MAX, SECONDS_MIN
from predictor.backtest.contender import (
    Configuration,
    Forecasts,
    Progress,
    Stopwatch,
    fit_rows,
)
from predictor.backtest.trace import Trace
from predictor.baselines.design import Design
from predictor.baselines.recent import NOTHING_KNOWN_S

Floats = NDArray[np.float64]

#: Newest rows that are fitted on.
FIT_ROWS_MAX = 40_000
#: Fewer ended jobs are answered as if nothing were known.
FIT_ROWS_MIN = 5
#: Predictions of single rows that are timed.
_TIMED_COUNT = 21
_P50 = 9

#: Takes rows, (m, k), and returns quantiles of ln t, (m, 19).
Quantiles = Callable[[Floats], Floats]


class Learner(Protocol):
    """Something that fits quantiles of ln t to a matrix."""

    @property
    def name(self) -> str:
        """Name in reports."""

    @property
    def configurations(self) -> tuple[Configuration, ...]:
        """What validation chooses from."""

    def columns(self, design: Design) -> list[int]:
        """Return the columns of the matrix that it uses."""

    def fit(
        self, matrix: Floats, target: Floats, code_columns: list[int], chosen: Configuration
    ) -> Quantiles:
        """Fit to rows (m, k) and ln seconds (m,); some columns hold codes of names."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A learner as a contender.

    Attributes:
        learner: The learner.
        trace: The job log.
        design: Its matrix.
        stopwatch: Tells what fits and predictions take.
    """

    learner: Learner
    trace: Trace
    design: Design
    stopwatch: Stopwatch

    @property
    def name(self) -> str:
        """Name in reports."""
        return self.learner.name

    @property
    def configurations(self) -> tuple[Configuration, ...]:
        """What validation chooses from."""
        return self.learner.configurations

    def forecast(
        self, configuration: Configuration, rows: range, *, fit_count: int, progress: Progress
    ) -> Forecasts:
        """Predict `rows`; see `Contender`."""
        watch = self.stopwatch
        columns = self.learner.columns(self.design)
        matrix = self.design.matrix[:, columns]
        codes = [
            place for place, column in enumerate(columns) if column in self.design.code_columns
        ]
        starts = fit_rows(rows, fit_count)
        told, fit_s, predict_s = [], [], []
        for start, stop in zip(starts, [*starts[1:], rows.stop], strict=True):
            known = np.sort(self.trace.known_at(start))[-FIT_ROWS_MAX:]
            if len(known) < FIT_ROWS_MIN:
                told.append(np.tile(np.log(NOTHING_KNOWN_S), (stop - start, 1)))
                progress(stop - start)
                continue
            began = watch()
            quantiles = self.learner.fit(
                matrix[known], self.design.target[known], codes, configuration
            )
            fit_s.append(watch() - began)
            for index in range(start, min(stop, start + _TIMED_COUNT)):
                began = watch()
                quantiles(matrix[index : index + 1])
                predict_s.append(watch() - began)
            told.append(quantiles(matrix[start:stop]))
            progress(stop - start)
        ln_quantiles = np.sort(np.concatenate(told), axis=1)
        assert ln_quantiles.shape == (len(rows), len(LEVELS))
        ln_quantiles = np.clip(ln_quantiles, np.log(SECONDS_MIN), np.log(SECONDS_MAX))
        quantiles_s = np.exp(ln_quantiles)
        return Forecasts(
            quantiles_s=quantiles_s,
            typical_s=quantiles_s[:, _P50],
            predict_us=float(np.median(predict_s)) * 1e6 if predict_s else 0.0,
            update_us=None,
            fit_s=float(np.mean(fit_s)) if fit_s else 0.0,
            fit_count=len(fit_s),
        )
