"""The boosted head as two experts: its forecast of ln t, and histograms of its residuals. Pure.

Residuals are counted as they are, and in usual errors, which the head also tells: how far runs like
this one were off. Where times jump, usual errors mislead, so that the stack weighs both kinds. Each
has the residuals of all forecasts, and those by the size of the forecast.
"""

import copy
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from predictor.diptree import Lessons, Partition

Floats = NDArray[np.float64]

#: As they are, in usual errors.
RESIDUAL_KIND_COUNT = 2
#: Pseudo-counts of all residuals in those of a group of forecasts.
HEAD_KAPPA = 30.0
HEAD_DECAY = 0.998


class HeadResiduals:
    """Learns how far forecasts are off."""

    def __init__(self, partition: "Partition") -> None:
        self._partition = partition
        kinds, edge_count = partition.residual_edges.shape
        group_count = len(partition.head_edges) + 1
        self._all: Floats = np.full((kinds, edge_count - 1), 1.0 / (edge_count - 1))
        self._groups: Floats = np.zeros((group_count, kinds, edge_count - 1))
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
        self._groups[:] = 0.0
        are_alike = len(other._groups) == len(self._groups)
        edges = zip(other._partition.residual_edges, self._partition.residual_edges, strict=True)
        for kind, (old, new) in enumerate(edges):
            self._all[kind] = _rebinned(other._all[kind], old, new)
            if are_alike:
                for group, of_group in zip(self._groups, other._groups, strict=True):
                    group[kind] = _rebinned(of_group[kind], old, new)
        self._below = {}

    def cumulative(self, forecast: float, ln_error: float) -> Floats:
        """Return the probability below each edge of ln t, (RESIDUAL_KIND_COUNT, n_edges).

        Args:
            forecast: Of ln t.
            ln_error: ln of its usual error.
        """
        edges = self._partition.residual_edges
        below = self._below_edges(self._group(forecast))
        plain = self._partition.edges - forecast
        told: Floats = np.stack(
            (
                np.interp(plain, edges[0], below[0]),
                np.interp(plain * math.exp(-ln_error), edges[1], below[1]),
            )
        )
        told[:, 0], told[:, -1] = 0.0, 1.0
        return told

    def cumulatives(self, told: Floats) -> Floats:
        """Return the same for many forecasts and ln of their usual errors, (n, 2).

        Returns:
            (RESIDUAL_KIND_COUNT, n, n_edges).
        """
        if len(told) == 1:
            return self.cumulative(float(told[0, 0]), float(told[0, 1]))[:, None]
        forecasts = told[:, 0]
        below = np.array([self._below_edges(group) for group in range(len(self._groups))])
        groups = self._partition.head_edges.searchsorted(forecasts)
        plain = self._partition.edges - forecasts[:, None]
        kinds = (plain, plain * np.exp(-told[:, 1:]))
        curves: Floats = np.empty((RESIDUAL_KIND_COUNT, *plain.shape))
        for kind, (residuals, ends) in enumerate(
            zip(kinds, self._partition.residual_edges, strict=True)
        ):
            # The groups' curves side by side on one axis, so that one call reads them all.
            places = (ends[-1] - ends[0] + 1.0) * np.arange(len(below))
            within = np.clip(residuals, ends[0], ends[-1])
            curves[kind] = np.interp(
                (within + places[groups, None]).ravel(),
                (ends + places[:, None]).ravel(),
                below[:, kind].ravel(),
            ).reshape(plain.shape)
        curves[..., 0], curves[..., -1] = 0.0, 1.0
        return curves

    def learn(self, forecast: float, ln_error: float, ln_s: float) -> None:
        """Add a run that ended after exp(`ln_s`) seconds."""
        group = self._groups[self._group(forecast)]
        self._all *= HEAD_DECAY
        group *= HEAD_DECAY
        plain = ln_s - forecast
        residuals = (plain, plain * math.exp(-ln_error))
        for kind, (residual, edges) in enumerate(
            zip(residuals, self._partition.residual_edges, strict=True)
        ):
            bin_ = int(edges[1:-1].searchsorted(residual, side="right"))
            self._all[kind, bin_] += 1
            group[kind, bin_] += 1
        self._below = {}

    def _below_edges(self, group: int) -> Floats:
        below = self._below.get(group)
        if below is None:
            total = self._groups[group] + (HEAD_KAPPA / self._all[0].sum()) * self._all
            below = np.zeros((len(total), total.shape[1] + 1))
            np.cumsum(total, axis=1, out=below[:, 1:])
            below /= below[:, -1:]
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
