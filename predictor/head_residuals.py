"""The boosted head as two experts: its forecast of ln t, and histograms of its residuals. Pure.

Residuals are counted as they are, and in usual errors, which the head also tells: how far runs like
this one were off. Where times jump, usual errors mislead, so that the stack weighs both kinds. Each
has the residuals of all forecasts, and those by the size of the forecast.
"""

import copy
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from predictor.records import RESIDUAL_KIND_COUNT, Lessons, Partition

Floats = NDArray[np.float64]
Ids = NDArray[np.intp]

#: Pseudo-counts of all residuals in those of a group of forecasts.
HEAD_KAPPA = 30.0
HEAD_DECAY = 0.998
#: Cells of a table of pieces; edges nearer to each other than a cell are told apart less exactly.
CELL_COUNT_MAX = 8192
#: The kind of residuals that are counted in usual errors; the other counts them as they are.
_IN_ERRORS = 1


class HeadResiduals:
    """Learns how far forecasts are off."""

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        kinds, edge_count = partition.residual_edges.shape
        group_count = len(partition.head_edges) + 1
        self._head_edges: list[float] = partition.head_edges.tolist()
        #: Residuals below each edge, (kinds, n_edges), and the same by group.
        self._all: Floats = np.tile(np.linspace(0, 1, edge_count), (kinds, 1))
        self._groups: Floats = np.zeros((group_count, kinds, edge_count))
        self._inner_edges: list[list[float]] = partition.residual_edges[:, 1:-1].tolist()
        self._pieces = [_Pieces(edges) for edges in partition.residual_edges]
        #: Probability below each residual edge, by group, until the next change.
        self._below: dict[int, Floats] = {}
        #: The same of all groups as lines, by kind.
        self._lines: list[tuple[Floats, Floats]] | None = None

    def copy(self) -> "HeadResiduals":
        """Return an independent copy."""
        other = copy.copy(self)
        other._all, other._groups = self._all.copy(), self._groups.copy()
        other._forget()
        return other

    def arrays(self) -> Lessons:
        """Return what it learned."""
        return {"head_all": np.diff(self._all), "head_groups": np.diff(self._groups)}

    def restore(self, lessons: Lessons) -> None:
        """Take over what another of the same bins learned."""
        self._all, self._groups = _summed(lessons["head_all"]), _summed(lessons["head_groups"])
        self._forget()

    def inherit(self, other: "HeadResiduals") -> None:
        """Move the residuals of another head onto this one's bins."""
        self._groups[:] = 0.0
        are_alike = len(other._groups) == len(self._groups)
        edges = zip(other._partition.residual_edges, self._partition.residual_edges, strict=True)
        for kind, (old, new) in enumerate(edges):
            self._all[kind] = _moved(other._all[kind], old, new)
            if are_alike:
                for group, of_group in zip(self._groups, other._groups, strict=True):
                    group[kind] = _moved(of_group[kind], old, new)
        self._forget()

    def tell(self, curves: Floats, forecast: float, ln_error: float) -> None:
        """Put in the probability below each edge of ln t, (RESIDUAL_KIND_COUNT, n_edges).

        Args:
            curves: Is filled.
            forecast: Of ln t.
            ln_error: ln of its usual error.
        """
        for kind in range(RESIDUAL_KIND_COUNT):
            curves[kind] = self._curve(kind, forecast, ln_error)
        curves[:, 0], curves[:, -1] = 0.0, 1.0

    def add(
        self, mixed: Floats, forecast: float, ln_error: float, weights: Sequence[float]
    ) -> None:
        """Add the same, each kind times its weight, to what other experts say, (n_edges,)."""
        for kind, weight in enumerate(weights):
            if weight:  # least CRPS leaves most experts without
                curve = self._curve(kind, forecast, ln_error)
                curve *= weight
                mixed += curve
        # Experts agree about the ends, where residuals alone may not reach.
        mixed[0], mixed[-1] = 0.0, 1.0

    def _curve(self, kind: int, forecast: float, ln_error: float) -> Floats:
        """Return what one kind tells, (n_edges,); its ends are not set."""
        residuals = self._partition.edges - forecast
        if kind == _IN_ERRORS:
            residuals *= math.exp(-ln_error)
        below = self._below_edges(self._group(forecast))
        curve: Floats = np.interp(residuals, self._partition.residual_edges[kind], below[kind])
        return curve

    def add_to(self, mixed: Floats, told: Floats, weights: Floats) -> None:
        """Do the same for many rows.

        Args:
            mixed: What other experts say, weighed, (n, n_edges).
            told: Forecasts and ln of their usual errors, (n, 2).
            weights: By kind, (RESIDUAL_KIND_COUNT, n).
        """
        if self._lines is None:
            below = np.array([self._below_edges(group) for group in range(len(self._groups))])
            self._lines = [piece.lines(below[:, k]) for k, piece in enumerate(self._pieces)]
        groups = self._partition.head_edges.searchsorted(told[:, 0])
        for kind, pieces in enumerate(self._pieces):
            (weighed,) = weights[kind].nonzero()
            if not len(weighed):
                continue
            # To pick out rows and put them back costs as much as to work out as many.
            rows = weighed if 2 * len(weighed) < len(mixed) else slice(None)
            residuals = self._partition.edges - told[rows, :1]
            if kind == _IN_ERRORS:
                residuals *= np.exp(-told[rows, 1:])
            places = pieces.find(residuals)
            places += (groups[rows] * pieces.count)[:, None]
            slopes, starts = self._lines[kind]
            curves = slopes.take(places)
            curves *= residuals
            curves += starts.take(places)
            curves *= weights[kind][rows, None]
            mixed[rows] += curves
        mixed[:, 0], mixed[:, -1] = 0.0, 1.0

    def learn(self, forecast: float, ln_error: float, ln_s: float) -> None:
        """Add a run that ended after exp(`ln_s`) seconds."""
        group = self._groups[self._group(forecast)]
        self._all *= HEAD_DECAY
        group *= HEAD_DECAY
        plain = ln_s - forecast
        residuals = (plain, plain * math.exp(-ln_error))
        for kind, residual in enumerate(residuals):
            above = bisect_right(self._inner_edges[kind], residual) + 1
            self._all[kind, above:] += 1
            group[kind, above:] += 1
        self._forget()

    def _forget(self) -> None:
        self._below, self._lines = {}, None

    def _below_edges(self, group: int) -> Floats:
        below = self._below.get(group)
        if below is None:
            below = self._groups[group] + (HEAD_KAPPA / self._all[0, -1]) * self._all
            below /= below[:, -1:]
            self._below[group] = below
        return below

    def _group(self, forecast: float) -> int:
        return bisect_left(self._head_edges, forecast)


class _Pieces:
    """Finds the pieces between edges in which many numbers lie, without a search for each.

    A table of cells, of which none holds two edges, tells all but the last comparison.
    """

    def __init__(self, edges: Floats) -> None:
        #: Between edges, and two that are level, below and above all.
        self.count = len(edges) + 1
        self._edges = edges
        self._upper: Floats = np.append(edges, np.inf)
        width = float(edges[-1] - edges[0])
        cell_count = min(math.ceil(width / float(np.diff(edges).min())), CELL_COUNT_MAX)
        self._cells_per_unit = cell_count / width
        starts = edges[0] + np.arange(-1, cell_count + 1) / self._cells_per_unit
        self._first: Ids = edges.searchsorted(starts, side="right")

    def find(self, numbers: Floats) -> Ids:
        """Return the piece of each of `numbers`: 0 below the first edge, `count` - 1 above."""
        cells = numbers * self._cells_per_unit
        cells += 1 - self._edges[0] * self._cells_per_unit
        pieces: Ids = self._first.take(cells.astype(np.intp), mode="clip")
        pieces += numbers >= self._upper.take(pieces)
        return pieces

    def lines(self, heights: Floats) -> tuple[Floats, Floats]:
        """Return slopes and values at 0 of the lines between `heights`, (n, n_edges), flat."""
        slopes = np.zeros((len(heights), self.count))
        slopes[:, 1:-1] = np.diff(heights, axis=1) / np.diff(self._edges)
        starts = np.empty_like(slopes)
        starts[:, 0], starts[:, -1] = heights[:, 0], heights[:, -1]
        starts[:, 1:-1] = heights[:, :-1] - slopes[:, 1:-1] * self._edges[:-1]
        return slopes.ravel(), starts.ravel()


def _summed(masses: Floats) -> Floats:
    """Return what lies below each edge of bins of `masses`, (..., n_bins)."""
    below: Floats = np.zeros((*masses.shape[:-1], masses.shape[-1] + 1))
    masses.cumsum(axis=-1, out=below[..., 1:])
    return below


def _moved(below: Floats, old_edges: Floats, new_edges: Floats) -> Floats:
    """Return what lies below each of `new_edges`, all of it between their ends."""
    moved: Floats = np.interp(new_edges, old_edges, below)
    moved[0], moved[-1] = 0.0, below[-1]
    return moved
