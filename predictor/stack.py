"""Mixes experts by least CRPS over the simplex. Pure.

CRPS of a mixture of distribution functions F_k with weights w is w' G w (Gneiting and Raftery 2007,
eq. 20, as an integral over thresholds), where G_jk is the integral of (F_j - 1{y <= z}) (F_k -
1{y <= z}) dz. All F_k are piecewise linear between the same edges, so that G is exact.
"""

import copy
import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Runs of all groups that count in each.
SHARED_COUNT = 100.0
STEPS_PER_RUN = 3
#: Experts that agree to this are one.
BEND_MIN = 1e-12


class Stack:
    """Weights of experts by group of rows, learned from runs that end.

    A group's Gram matrix is its own and `SHARED_COUNT` runs of all groups' mean.
    """

    def __init__(self, edges: Floats, expert_count: int, group_count: int, decay: float) -> None:
        self._edges = edges
        self._widths: Floats = np.diff(edges)
        self._decay = decay
        #: Decayed sums over runs, by group; the last is of all groups.
        self._grams: Floats = np.zeros((group_count + 1, expert_count, expert_count))
        self._counts: Floats = np.zeros(group_count + 1)
        self._weights: Floats = np.full((group_count, expert_count), 1 / expert_count)

    @property
    def weights(self) -> Floats:
        """Weights, (n_groups, n_experts); each row sums to 1."""
        return self._weights

    def copy(self) -> "Stack":
        """Return an independent copy."""
        other = copy.copy(self)
        other.restore(self.arrays())
        return other

    def arrays(self) -> dict[str, Floats]:
        """Return what it learned."""
        return {
            "stack_grams": self._grams,
            "stack_counts": self._counts,
            "stack_weights": self._weights,
        }

    def restore(self, arrays: dict[str, Floats]) -> None:
        """Take over what a stack of the same experts learned."""
        self._grams = arrays["stack_grams"].copy()
        self._counts = arrays["stack_counts"].copy()
        self._weights = arrays["stack_weights"].copy()

    def mixed(self, cumulative: Floats, group: int) -> Floats:
        """Return the mixture, (n_edges,), of `cumulative`, (n_experts, n_edges)."""
        mixture: Floats = self._weights[group] @ cumulative
        return mixture

    def learn(self, cumulative: Floats, ln_s: float, group: int) -> None:
        """Add a run of `group` that ended after exp(`ln_s`) seconds."""
        one = gram(cumulative, self._edges, self._widths, ln_s)
        for place in (group, -1):
            self._grams[place] *= self._decay
            self._grams[place] += one
            self._counts[place] = self._counts[place] * self._decay + 1
        shared = self._grams[-1] * (SHARED_COUNT / self._counts[-1])
        _improve(self._grams[group] + shared, self._weights[group])


def _improve(matrix: Floats, weights: Floats) -> None:
    """Move weight between the best and the worst expert, exactly: steps of SMO (Platt 1998)."""
    for _ in range(STEPS_PER_RUN):
        slopes = (matrix @ weights).tolist()
        shares = weights.tolist()
        best = min(range(len(slopes)), key=slopes.__getitem__)
        worst = max((k for k, w in enumerate(shares) if w > 0), key=slopes.__getitem__)
        bend = float(matrix[best, best] + matrix[worst, worst] - 2 * matrix[best, worst])
        if best == worst or bend <= BEND_MIN:
            return
        moved = min((slopes[worst] - slopes[best]) / bend, shares[worst])
        weights[best] += moved
        weights[worst] = shares[worst] - moved


def gram(cumulative: Floats, edges: Floats, widths: Floats, ln_s: float) -> Floats:
    """Return the Gram matrix, (n_experts, n_experts), of one run.

    The functions are linear over each piece. Outside the edges all experts agree.
    """
    ln_s = min(max(ln_s, edges[0]), edges[-1])
    place = min(int(edges.searchsorted(ln_s, side="right")), len(edges) - 1)
    left, right = float(edges[place - 1]), float(edges[place])
    share = (ln_s - left) / (right - left)
    # Two columns a piece, weighted so that their products are the integral: with means m and half
    # rises d, h (m m' + d d' / 3). The piece that holds `ln_s` is two, in the last columns.
    piece_count = len(widths)
    columns = np.empty((len(cumulative), 2 * piece_count + 4))
    means, rises = columns[:, :piece_count], columns[:, piece_count:-4]
    lower, upper = cumulative[:, :-1], cumulative[:, 1:]
    np.add(lower, upper, out=means)
    np.subtract(upper, lower, out=rises)
    means[:, place:] -= 2
    sizes = np.sqrt(widths) / 2
    sizes[place - 1] = 0.0
    means *= sizes
    rises *= sizes / math.sqrt(3)
    start, end = lower[:, place - 1], upper[:, place - 1]
    at = start * (1 - share) + end * share
    for column, first, last, size in (
        (-4, start, at, ln_s - left),
        (-2, at - 1, end - 1, right - ln_s),
    ):
        half = math.sqrt(size) / 2
        columns[:, column] = (first + last) * half
        columns[:, column + 1] = (last - first) * (half / math.sqrt(3))
    whole: Floats = columns @ columns.T
    return whole
