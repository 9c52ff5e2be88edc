"""Baselines without training: quantiles of everything, and of the newest jobs of a context."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gcos.durations import LEVELS, RunTime
from predictor.backtest.forecaster import Told
from predictor.records import Finished, Row

Floats = NDArray[np.float64]

#: What is told before any job has ended: a quarter of an hour, give or take a factor of ten.
NOTHING_KNOWN_S: Floats = np.array(RunTime.lognormal(900.0, 2.3).quantiles_s)
#: Ends after which the quantiles of everything are taken anew; one more or less of many thousands
#: does not move them.
_RENEWAL_COUNT = 50


class GlobalQuantiles:
    """Tells every job the quantiles of all times that are known; its point is the global median."""

    def __init__(self) -> None:
        self._times_s: list[float] = []
        self._quantiles_s = NOTHING_KNOWN_S
        self._renewed_at_count = 0

    def fit(self, history: Sequence[Finished]) -> None:
        """Forget everything and learn from `history`."""
        self._times_s = [ended.seconds for ended in history]
        self._renewed_at_count = 0

    def predict(self, row: Row, index: int) -> Told:
        """Return the same for every row."""
        del row, index
        count = len(self._times_s)
        is_renewed = self._renewed_at_count > 0
        if count and not (is_renewed and count < self._renewed_at_count + _RENEWAL_COUNT):
            self._quantiles_s = np.quantile(self._times_s, LEVELS)
            self._renewed_at_count = count
        return Told(self._quantiles_s)

    def observe(self, ended: Finished, index: int) -> None:
        """Add one time."""
        del index
        self._times_s.append(ended.seconds)


class LastOfContext:
    """Tells the quantiles of the newest times of the deepest context that has enough of them."""

    def __init__(self, newest_count: int, least_count: int) -> None:
        assert 1 <= least_count <= newest_count
        self._newest_count = newest_count
        self._least_count = least_count
        #: Newest times of each context, the newest last. The empty path is all jobs.
        self._times_s: dict[tuple[str, ...], list[float]] = {}

    def fit(self, history: Sequence[Finished]) -> None:
        """Forget everything and learn from `history`."""
        self._times_s = {}
        for ended in history:
            self._add(ended)

    def predict(self, row: Row, index: int) -> Told:
        """Return the quantiles of the deepest context with enough ended jobs."""
        del index
        for depth in range(len(row.contexts), -1, -1):
            times_s = self._times_s.get(row.contexts[:depth], [])
            if len(times_s) >= self._least_count or (depth == 0 and times_s):
                return Told(np.quantile(times_s, LEVELS))
        return Told(NOTHING_KNOWN_S)

    def observe(self, ended: Finished, index: int) -> None:
        """Add one time to each of its contexts."""
        del index
        self._add(ended)

    def _add(self, ended: Finished) -> None:
        for depth in range(len(ended.row.contexts) + 1):
            times_s = self._times_s.setdefault(ended.row.contexts[:depth], [])
            times_s.append(ended.seconds)
            if len(times_s) > self._newest_count:
                del times_s[0]
