"""Corrects levels from past PIT values. Pure.

If runs end below the told quantile at level g(u) in a share u of cases, then the quantile to tell
at level u is the one at g(u) (Kuleshov et al. 2018, section 3). Levels are corrected, never times:
additive offsets diverge when feedback is late. Of five corrections (none; of width alone and of any
shape, each from slowly and from quickly forgotten PIT values) that is used whose middle 80 % has
lately held nearest to 80 % of runs, among those whose pinball loss is no worse than without: where
times drift, past PIT values point the wrong way. A correction is judged by what it told when the
run was predicted: runs alike end together, and one that has learned from the first of them would
look right about the others.
"""

import numpy as np
from numpy.typing import NDArray

from gcos.durations import LEVELS

Floats = NDArray[np.float64]

#: Forgetting of PIT values, of coverage and of loss.
PIT_DECAYS = (0.998, 0.99)
JUDGE_DECAY = 0.999
#: Pseudo-counts of "no correction".
PRIOR_COUNT = 60.0
#: Coverage must come this much nearer to 80 % before another correction is preferred.
ADVANTAGE_MIN = 0.003
#: Pinball loss that a correction may have, relative to none.
LOSS_RATIO_MAX = 1.0
#: Edges of slices of PIT values: 0.025 wide, finer at both ends for forecasts that are too narrow.
_ENDS: Floats = np.array([0.0, 0.0005, 0.002, 0.006, 0.0125])
_GRID: Floats = np.concatenate((_ENDS, np.linspace(0.025, 0.975, 39), 1 - _ENDS[::-1]))
_INNER = _GRID[1:-1]
_PRIOR: Floats = PRIOR_COUNT * np.diff(_GRID)
_JUDGED = slice(1, 18, 8)  # levels 0.1, 0.5, 0.9
_JUDGED_LEVELS: list[float] = LEVELS[_JUDGED].tolist()
_KEPT: Floats = np.array(PIT_DECAYS)[:, None]
_RENEWED: Floats = (1 - _KEPT) * _PRIOR
_NONE = 0
#: None, and width and shape for each of `PIT_DECAYS`.
CORRECTION_COUNT = 1 + 2 * len(PIT_DECAYS)
#: Sums of slices below each edge: with mirrored slices, which leaves width alone, and of any shape.
_SUMS: Floats = np.triu(np.ones((len(_PRIOR), len(_GRID))), 1)
_CURVES: Floats = np.concatenate((_SUMS + _SUMS[::-1], _SUMS), axis=1)
#: The curves of all corrections are read in one call: side by side on one axis, 2 apart.
_CURVE_PLACES: Floats = np.arange(0.0, 2 * (CORRECTION_COUNT - 1), 2)[:, None]
_LEVELS_OF_CURVES: Floats = (_CURVE_PLACES + LEVELS).ravel()
_GRID_OF_CURVES: Floats = np.tile(_GRID, CORRECTION_COUNT - 1)


class LevelCalibration:
    """Learns how told levels differ from what happens."""

    def __init__(self) -> None:
        self._slices: Floats = np.tile(_PRIOR, (len(PIT_DECAYS), 1))
        #: Levels to read in place of `LEVELS`, by correction; replaced, never changed.
        self._levels: Floats = np.tile(LEVELS, (CORRECTION_COUNT, 1))
        #: Share of runs inside the middle 80 %, and pinball loss, by correction.
        self._coverages = [0.8] * CORRECTION_COUNT
        self._losses = [0.0] * CORRECTION_COUNT
        self.chosen = _NONE

    def copy(self) -> "LevelCalibration":
        """Return an independent copy."""
        other = LevelCalibration()
        other.restore(self.arrays())
        return other

    def arrays(self) -> dict[str, Floats]:
        """Return what it learned."""
        return {
            "pit_slices": self._slices,
            "pit_levels": self._levels,
            "pit_coverages": np.array(self._coverages),
            "pit_losses": np.array(self._losses),
            "pit_chosen": np.array([float(self.chosen)]),
        }

    def restore(self, arrays: dict[str, Floats]) -> None:
        """Take over what another learned."""
        self._slices = arrays["pit_slices"].copy()
        self._levels = arrays["pit_levels"].copy()
        self._coverages = arrays["pit_coverages"].tolist()
        self._losses = arrays["pit_losses"].tolist()
        self.chosen = int(arrays["pit_chosen"][0])

    def levels(self) -> Floats:
        """Return the levels to read in place of `LEVELS`, (19,), ascending."""
        told: Floats = self._levels[self.chosen]
        return told

    @property
    def corrected(self) -> Floats:
        """Levels to read in place of `LEVELS` by each correction, (CORRECTION_COUNT, 19)."""
        return self._levels

    def learn(self, cumulative: Floats, edges: Floats, ln_s: float, told: Floats) -> None:
        """Add a run that ended after exp(`ln_s`) seconds.

        Args:
            cumulative: (n_edges,), told probability below each edge, uncorrected.
            edges: (n_edges,), of ln t.
            ln_s: What happened.
            told: `corrected` as of the prediction.
        """
        pit = np.interp(ln_s, edges, cumulative)
        read = np.interp(told[:, _JUDGED].ravel(), cumulative, edges).tolist()
        self._judge(read, ln_s)
        self._slices *= _KEPT
        self._slices += _RENEWED
        self._slices[:, _INNER.searchsorted(pit, side="right")] += 1
        self._levels = _levels_of(self._slices)
        self._choose()

    def _judge(self, read: list[float], ln_s: float) -> None:
        """Compare what happened with what each correction read at the judged levels, in turn."""
        count = len(_JUDGED_LEVELS)
        for index in range(CORRECTION_COUNT):
            told = read[count * index : count * (index + 1)]
            loss = 0.0
            for level, quantile in zip(_JUDGED_LEVELS, told, strict=True):
                missed = ln_s - quantile
                loss += level * missed if missed >= 0 else (level - 1) * missed
            is_inside = told[0] <= ln_s <= told[-1]
            self._coverages[index] += (1 - JUDGE_DECAY) * (is_inside - self._coverages[index])
            self._losses[index] += (1 - JUDGE_DECAY) * (loss - self._losses[index])

    def _choose(self) -> None:
        allowed = LOSS_RATIO_MAX * self._losses[_NONE]
        errors = [
            abs(coverage - 0.8) if loss <= allowed else 1.0
            for coverage, loss in zip(self._coverages, self._losses, strict=True)
        ]
        best = errors.index(min(errors))
        if errors[best] + ADVANTAGE_MIN < errors[self.chosen]:
            self.chosen = best


def _levels_of(slices: Floats) -> Floats:
    """Return the levels to read by each correction, (CORRECTION_COUNT, 19).

    After those without a correction come, for each row of `slices`, those with width alone
    corrected, and any shape.
    """
    curves = (slices @ _CURVES).reshape(CORRECTION_COUNT - 1, -1)
    curves /= curves[:, -1:]
    curves += _CURVE_PLACES
    read = np.interp(_LEVELS_OF_CURVES, curves.ravel(), _GRID_OF_CURVES)
    return np.concatenate((LEVELS, read)).reshape(CORRECTION_COUNT, -1)
