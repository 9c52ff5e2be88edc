"""The boosted head as an expert: its forecast of ln t, and histograms of its residuals. Pure.

Residuals are those of all forecasts, and by the size of the forecast.
"""

import copy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from predictor.diptree import Lessons, Partition

Floats = NDArray[np.float64]

#: Pseudo-counts of all residuals in those of a group of forecasts.
HEAD_KAPPA = 30.0
HEAD_DECAY = 0.998


class HeadResiduals:
    """Learns how far forecasts are off."""

    def __init__(self, partition: "Partition") -> None:
        self._partition = partition
        bin_count = len(partition.residual_edges) - 1
        self._all: Floats = np.full(bin_count, 1.0 / bin_count)
        self._groups: Floats = np.zeros((len(partition.head_edges) + 1, bin_count))
        #: Probability below each residual edge, by group, until the next change.
        self._below: dict[int, Floats] = {}

    def copy(self) -> "HeadResiduals":
        """Return an independent copy."""
        other = copy.copy(self)
        other._all, other._groups = self._all.copy(), self._groups.copy()
        other._below = {}
        return other

    def arrays(self) -> "Lessons":
        """Return what it learned."""
        return {"head_all": self._all, "head_groups": self._groups}

    def restore(self, lessons: "Lessons") -> None:
        """Take over what another of the same bins learned."""
        self._all, self._groups = lessons["head_all"].copy(), lessons["head_groups"].copy()
        self._below = {}

    def inherit(self, other: "HeadResiduals") -> None:
        """Move the residuals of another head onto this one's bins."""
        old, new = other._partition.residual_edges, self._partition.residual_edges
        self._all = _rebinned(other._all, old, new)
        for group in self._groups:
            group[:] = 0.0
        if len(other._groups) == len(self._groups):
            self._groups = np.stack([_rebinned(g, old, new) for g in other._groups])
        self._below = {}

    def cumulative(self, forecast: float) -> Floats:
        """Return the probability below each edge of ln t, (n_edges,)."""
        partition = self._partition
        below = self._below_edges(self._group(forecast))
        told: Floats = np.interp(partition.edges - forecast, partition.residual_edges, below)
        told[0], told[-1] = 0.0, 1.0
        return told

    def cumulatives(self, forecasts: Floats) -> Floats:
        """Return the same for many, (n, n_edges)."""
        if len(forecasts) == 1:
            return self.cumulative(float(forecasts[0]))[None]
        edges, ends = self._partition.edges, self._partition.residual_edges
        below = np.array([self._below_edges(group) for group in range(len(self._groups))])
        groups = self._partition.head_edges.searchsorted(forecasts)
        # The groups' curves side by side on one axis, so that one call reads them all.
        places = (ends[-1] - ends[0] + 1.0) * np.arange(len(below))
        residuals = np.clip(edges - forecasts[:, None], ends[0], ends[-1])
        told: Floats = np.interp(
            (residuals + places[groups, None]).ravel(),
            (ends + places[:, None]).ravel(),
            below.ravel(),
        ).reshape(residuals.shape)
        told[:, 0], told[:, -1] = 0.0, 1.0
        return told

    def learn(self, forecast: float, ln_s: float) -> None:
        """Add a run that ended after exp(`ln_s`) seconds."""
        edges = self._partition.residual_edges
        bin_ = int(edges[1:-1].searchsorted(ln_s - forecast, side="right"))
        group = self._groups[self._group(forecast)]
        self._all *= HEAD_DECAY
        self._all[bin_] += 1
        group *= HEAD_DECAY
        group[bin_] += 1
        self._below = {}

    def _below_edges(self, group: int) -> Floats:
        below = self._below.get(group)
        if below is None:
            total = self._groups[group] + (HEAD_KAPPA / self._all.sum()) * self._all
            below = np.zeros(len(total) + 1)
            np.cumsum(total, out=below[1:])
            below /= below[-1]
            self._below[group] = below
        return below

    def _group(self, forecast: float) -> int:
        return int(self._partition.head_edges.searchsorted(forecast))


def _rebinned(masses: Floats, old_edges: Floats, new_edges: Floats) -> Floats:
    below = np.concatenate(([0.0], np.cumsum(masses)))
    at_edges = np.interp(new_edges, old_edges, below)
    at_edges[0], at_edges[-1] = 0.0, below[-1]
    moved: Floats = np.diff(at_edges)
    return moved
