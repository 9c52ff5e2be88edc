"""Who takes part in a backtest, and what came of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: One choice of hyperparameters, by name.
Configuration = Mapping[str, float]
#: Called with the number of rows that were predicted since the last call.
Progress = Callable[[int], None]
#: Returns seconds that only go up.
Stopwatch = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Forecasts:
    """What a contender told about a run of rows, and what that cost.

    Attributes:
        quantiles_s: Quantiles at the 19 levels, (n, 19), non-decreasing along the second axis.
        typical_s: The single number told, (n,).
        predict_us: Median time to predict one row.
        update_us: Median time to learn from one ended row; None: it learns by fits alone.
        fit_s: Mean time of a fit.
        fit_count: Fits.
    """

    quantiles_s: Floats
    typical_s: Floats
    predict_us: float
    update_us: float | None
    fit_s: float
    fit_count: int


class Contender(Protocol):
    """A way to predict, with the hyperparameters that validation may choose from."""

    @property
    def name(self) -> str:
        """Name in reports."""

    @property
    def configurations(self) -> tuple[Configuration, ...]:
        """What validation chooses from."""

    def forecast(
        self, configuration: Configuration, rows: range, *, fit_count: int, progress: Progress
    ) -> Forecasts:
        """Predict `rows`, each from what is known when it is handed in, with `fit_count` fits."""


def fit_rows(rows: range, fit_count: int) -> list[int]:
    """Return the rows before which a fit is made: the first and then at equal distances."""
    count = max(1, min(fit_count, len(rows)))
    return [rows.start + len(rows) * part // count for part in range(count)]
