"""What a backtest asks of whoever predicts: learn from ended jobs, then say how long one takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from predictor.records import Finished, Row

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Told:
    """What is told about one job.

    Attributes:
        quantiles_s: Quantiles at the 19 levels, (19,), non-decreasing.
        typical_s: The single number to tell a person; None: the median.
    """

    quantiles_s: Floats
    typical_s: float | None = None


class Forecaster(Protocol):
    """Predicts job by job and learns from each end."""

    def fit(self, history: Sequence[Finished]) -> None:
        """Forget everything and learn from all jobs known to have ended, in order of end."""

    def predict(self, row: Row, index: int) -> Told:
        """Return the forecast for job `index`, which is handed in now."""

    def observe(self, ended: Finished, index: int) -> None:
        """Learn from job `index`, which has ended and is in no history that was fitted on."""
