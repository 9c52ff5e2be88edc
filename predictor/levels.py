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
_JUDGED = np.array([1, 9, 17])  # levels 0.1, 0.5, 0.9
_JUDGED_LEVELS: Floats = LEVELS[_JUDGED]
_KEPT: Floats = np.array(PIT_DECAYS)[:, None]
_NONE = 0
#: None, and width and shape for each of `PIT_DECAYS`.
CORRECTION_COUNT = 1 + 2 * len(PIT_DECAYS)


class LevelCalibration:
    """Learns how told levels differ from what happens."""

    def __init__(self) -> None:
        self._slices: Floats = np.stack([_PRIOR] * len(PIT_DECAYS))
        #: Levels to read in place of `LEVELS`, by correction; replaced, never changed.
        self._levels: Floats = np.stack([LEVELS] * CORRECTION_COUNT)
        #: Share of runs inside the middle 80 %, and pinball loss, by correction.
        self._coverages: Floats = np.full(CORRECTION_COUNT, 0.8)
        self._losses: Floats = np.zeros(CORRECTION_COUNT)
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
            "pit_coverages": self._coverages,
            "pit_losses": self._losses,
            "pit_chosen": np.array([float(self.chosen)]),
        }

    def restore(self, arrays: dict[str, Floats]) -> None:
        """Take over what another learned."""
        self._slices = arrays["pit_slices"].copy()
        self._levels = arrays["pit_levels"].copy()
        self._coverages = arrays["pit_coverages"].copy()
        self._losses = arrays["pit_losses"].copy()
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
        pit = float(np.interp(ln_s, edges, cumulative))
        read = np.interp(told[:, _JUDGED].ravel(), cumulative, edges)
        missed = ln_s - read.reshape(CORRECTION_COUNT, -1)
        losses = np.maximum(_JUDGED_LEVELS * missed, (_JUDGED_LEVELS - 1) * missed).sum(axis=1)
        inside = (missed[:, 0] >= 0) & (missed[:, 2] <= 0)
        self._coverages += (1 - JUDGE_DECAY) * (inside - self._coverages)
        self._losses += (1 - JUDGE_DECAY) * (losses - self._losses)
        place = int(_INNER.searchsorted(pit, side="right"))
        self._slices -= (1 - _KEPT) * (self._slices - _PRIOR)
        self._slices[:, place] += 1
        self._levels = np.concatenate((LEVELS[None], *map(_levels_of, self._slices)))
        self._choose()

    def _choose(self) -> None:
        errors = np.abs(self._coverages - 0.8)
        errors[self._losses > LOSS_RATIO_MAX * self._losses[_NONE]] = 1.0
        best = int(errors.argmin())
        if errors[best] + ADVANTAGE_MIN < errors[self.chosen]:
            self.chosen = best


def _levels_of(slices: Floats) -> Floats:
    """Return the levels to read, (2, 19): width alone corrected, and any shape."""
    below = np.zeros((2, len(_GRID)))
    below[1, 1:] = slices.cumsum()
    # Mirrored slices are cumulated from the other end.
    below[0] = below[1] + (below[1, -1] - below[1, ::-1])
    below /= below[:, -1:]
    return np.stack([np.interp(LEVELS, curve, _GRID) for curve in below])
