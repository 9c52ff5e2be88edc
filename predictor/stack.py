"""Mixes experts by least CRPS over the simplex. Pure.

CRPS of a mixture of distribution functions F_k with weights w is w' G w (Gneiting and Raftery 2007,
eq. 20, as an integral over thresholds), where G_jk is the integral of (F_j - 1{y <= z}) (F_k -
1{y <= z}) dz. All F_k are piecewise linear between the same edges, so that G is exact.
"""

import copy

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
        self._masses = mass_matrix(edges)
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
        one = gram(cumulative, self._edges, self._masses, ln_s)
        for place in (group, -1):
            self._grams[place] *= self._decay
            self._grams[place] += one
            self._counts[place] = self._counts[place] * self._decay + 1
        shared = self._grams[-1] * (SHARED_COUNT / self._counts[-1])
        _improve(self._grams[group] + shared, self._weights[group])


def _improve(matrix: Floats, weights: Floats) -> None:
    """Move weight between the best and the worst expert, exactly: steps of SMO (Platt 1998)."""
    rows, shares = matrix.tolist(), weights.tolist()
    slopes = (matrix @ weights).tolist()
    for _ in range(STEPS_PER_RUN):
        best = slopes.index(min(slopes))
        worst = max([k for k, share in enumerate(shares) if share > 0], key=slopes.__getitem__)
        of_best, of_worst = rows[best], rows[worst]
        bend = of_best[best] + of_worst[worst] - 2 * of_best[worst]
        if best == worst or bend <= BEND_MIN:
            break
        moved = min((slopes[worst] - slopes[best]) / bend, shares[worst])
        shares[best] += moved
        shares[worst] -= moved
        pairs = zip(slopes, of_best, of_worst, strict=True)
        slopes = [slope + moved * (more - less) for slope, more, less in pairs]
    weights[:] = shares


def mass_matrix(edges: Floats) -> Floats:
    """Return M, (n_edges, n_edges), so that f' M g is the integral of the product of f and g.

    Both are linear between `edges` and told there: the mass matrix of linear finite elements.
    """
    widths = np.diff(edges)
    beside = np.diag(widths / 6, 1)
    matrix: Floats = beside + beside.T
    return matrix + np.diag(2 * matrix.sum(axis=1))


def gram(cumulative: Floats, edges: Floats, masses: Floats, ln_s: float) -> Floats:
    """Return the Gram matrix, (n_experts, n_experts), of one run; `masses` is that of `edges`.

    Outside the edges all experts agree.
    """
    ln_s = min(max(ln_s, edges[0]), edges[-1])
    place = min(int(edges.searchsorted(ln_s, side="right")), len(edges) - 1)
    # As if F - 1{y <= z} were linear over each piece.
    errors = cumulative.copy()
    errors[:, place:] -= 1
    whole: Floats = errors @ masses @ errors.T
    # Over the piece that holds `ln_s`, the same is missing of each: at share u of its width, u
    # before `ln_s` and u - 1 after. Below are the integrals of that, times u, and of its square.
    left, right = float(edges[place - 1]), float(edges[place])
    share = (ln_s - left) / (right - left)
    rising = (share * share - 1 / 3) / 2
    falling = share - 0.5 - rising
    square = share * share - share + 1 / 3
    missing = errors[:, place - 1] * falling + errors[:, place] * rising + square / 2
    missing *= right - left
    whole += missing
    whole += missing[:, None]
    return whole
