"""Histograms of DiPTree's nodes, and what they say along a path from root to leaf. Pure.

0 pads; then come the nodes of all trees, then `SPEED_COUNT` for each context slot. A histogram is
`counts` times `scales`: forgetting shrinks the scale, which touches one number.
"""

import copy

import numpy as np
from numpy.typing import NDArray

from predictor.records import Hyperparameters, Partition

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ids = NDArray[np.intp]

#: Histograms of a context, by how fast they forget.
SPEED_COUNT = 3
#: Scale at which a forgetting node is brought back to 1, long before float32 loses digits.
SCALE_MIN = 1e-4


class Nodes:
    """Histograms of all nodes of one partition and of all contexts."""

    def __init__(self, partition: Partition, hyper: Hyperparameters) -> None:
        self._first = 1 + partition.node_count
        self._partition = partition
        self._hyper = hyper
        size = self._first + 128
        self._counts: Singles = np.zeros((size, hyper.bin_count), dtype=np.float32)
        self._scales: Floats = np.ones(size)
        self._masses: Floats = np.zeros(size)
        decays = np.full(self._first, hyper.inner_decay)
        paths = partition.paths
        if len(paths):
            depths = (paths > 0).sum(axis=1)
            decays[paths[np.arange(len(paths)), depths - 1]] = hyper.leaf_decay
        self._tree_decays: Floats = decays
        #: Nodes and their parents, from the roots down.
        self._generations = _generations(paths)
        #: Decays of a whole context path, slow, middle and fast in turn, by its length.
        self._context_decays: dict[int, Floats] = {}

    def copy(self) -> "Nodes":
        """Return an independent copy."""
        other = copy.copy(self)
        other._counts = self._counts.copy()
        other._scales = self._scales.copy()
        other._masses = self._masses.copy()
        return other

    @property
    def state_bytes(self) -> int:
        """Size of all histograms."""
        return self._counts.nbytes + self._scales.nbytes + self._masses.nbytes

    def by_contexts(self, slots: list[int], context_count: int) -> tuple[Floats, float, float]:
        """Return mass by bin, (SPEED_COUNT, bins), runs behind it, and those of the deepest."""
        ids = np.zeros((SPEED_COUNT, context_count), dtype=np.intp)
        known = len(slots)
        for speed in range(SPEED_COUNT):
            first = self._first + speed
            ids[speed, :known] = [first + SPEED_COUNT * slot for slot in slots]
        masses, weights, shares, of_base = self._shares(ids)
        counts = self._counts.take(ids.ravel(), axis=0).reshape(SPEED_COUNT, context_count, -1)
        told = np.matmul(shares[:, None, :], counts)[:, 0] + of_base[:, None] * self._partition.base
        effective_count = float(weights[0] @ (masses[0] * masses[0]))
        return told, effective_count, float(masses[0, known - 1]) if known else 0.0

    def by_leaves(self, leaves: Ids) -> Floats:
        """Return mass by bin, (bins,), of the leaf in each tree, summed over the trees."""
        ids = self._partition.paths.take(leaves, axis=0)
        _, _, shares, of_base = self._shares(ids)
        # One sum over all trees: each tree's shares and its base's make a distribution.
        told: Floats = of_base.sum() * self._partition.base
        told += shares.ravel() @ self._counts.take(ids.ravel(), axis=0)
        return told

    def leaf_table(self) -> Singles:
        """Return the probability below each bin's upper edge, (n_leaves, bins), in every leaf.

        From the roots down each node is mixed with its parent once, however many leaves it has: the
        price of about a hundred calls of `by_leaves`.
        """
        kappa = np.float32(self._hyper.kappa)
        own = slice(0, self._first)
        totals = (self._masses[own, None] + kappa).astype(np.float32)
        beliefs = self._counts[own] * self._scales[own, None].astype(np.float32)
        beliefs[0] = self._partition.base
        for nodes, parents in self._generations:
            beliefs[nodes] = (beliefs[nodes] + kappa * beliefs[parents]) / totals[nodes]
        paths = self._partition.paths
        last = paths[np.arange(len(paths)), (paths > 0).sum(axis=1) - 1]
        table: Singles = beliefs[last].cumsum(axis=1)
        table /= table[:, -1:]
        return table

    def add_to_leaves(self, leaves: Ids, bin_: int) -> None:
        """Count a run in the leaf of each tree and all above."""
        if len(leaves):
            ids = self._partition.paths.take(leaves, axis=0).ravel()
            ids = ids[ids > 0]
            self._add(ids, self._tree_decays.take(ids), bin_)

    def add_to_contexts(self, slots: list[int], bin_: int) -> None:
        """Count a run in its contexts, from "all" to the deepest, at every speed."""
        count = len(slots)
        decays = self._context_decays.get(count)
        if decays is None:
            hyper = self._hyper
            decays = np.repeat([hyper.inner_decay, hyper.middle_decay, hyper.fast_decay], count)
            if count > 1:
                decays[count - 1] = hyper.leaf_decay
            self._context_decays[count] = decays
        slow = self._first + SPEED_COUNT * np.array(slots)
        ids = np.concatenate([slow + speed for speed in range(SPEED_COUNT)])
        while ids.max() >= len(self._masses):
            self._grow()
        self._add(ids, decays, bin_)

    def clear_slot(self, slot: int) -> None:
        """Forget the runs of a context."""
        start = self._first + SPEED_COUNT * slot
        freed = slice(start, start + SPEED_COUNT)
        self._counts[freed], self._scales[freed], self._masses[freed] = 0, 1, 0

    def _shares(self, ids: Ids) -> tuple[Floats, Floats, Singles, Floats]:
        """Return masses, weights, weights of stored counts, and of the base, for paths `ids`."""
        masses = self._masses.take(ids)
        kappa = self._hyper.kappa
        passed = (kappa / (masses + kappa))[:, ::-1].cumprod(axis=1)[:, ::-1]
        weights = passed / kappa
        shares = (weights * self._scales.take(ids)).astype(np.float32)
        return masses, weights, shares, passed[:, 0]

    def _add(self, ids: Ids, decays: Floats, bin_: int) -> None:
        scales = self._scales.take(ids) * decays
        if scales.min() < SCALE_MIN:
            worn = scales < SCALE_MIN
            self._counts[ids[worn]] *= scales[worn, None].astype(np.float32)
            scales[worn] = 1.0
        self._scales[ids] = scales
        self._counts[ids, bin_] += (1 / scales).astype(np.float32)
        self._masses[ids] = self._masses.take(ids) * decays + 1

    def _grow(self) -> None:
        size = len(self._masses) + max(len(self._masses) // 4, 128)
        counts = np.zeros((size, self._counts.shape[1]), dtype=np.float32)
        counts[: len(self._counts)] = self._counts
        self._counts = counts
        more = size - len(self._masses)
        self._scales = np.concatenate((self._scales, np.ones(more)))
        self._masses = np.concatenate((self._masses, np.zeros(more)))


def _generations(paths: Ids) -> list[tuple[Ids, Ids]]:
    """Return the nodes at each depth of `paths`, and their parents; 0 is the roots' parent."""
    found = []
    for depth in range(paths.shape[1] if len(paths) else 0):
        nodes, rows = np.unique(paths[:, depth], return_index=True)
        is_node = nodes > 0
        parents = paths[rows, depth - 1] if depth else np.zeros_like(nodes)
        found.append((nodes[is_node], parents[is_node]))
    return found
