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
        self._base = partition.base
        self._hyper = hyper
        size = self._first + 128
        self._counts: Singles = np.zeros((size, hyper.bin_count), dtype=np.float32)
        self._scales: Floats = np.ones(size)
        self._masses: Floats = np.zeros(size)
        #: Nodes from each leaf up to its root; 0 pads.
        self._ways = _ways_up(partition.paths)
        self._tree_decays: Floats = np.full(self._first, hyper.inner_decay)
        self._tree_decays[self._ways[:, :1]] = hyper.leaf_decay
        self._tree_decays[0] = 1.0
        #: Nodes and their parents, from the roots down.
        self._generations = _generations(partition.paths)
        #: Decays of context paths by length.
        self._context_decays: dict[int, Floats] = {}
        #: Nodes of slot 0 by speed, (SPEED_COUNT, 1).
        self._firsts: Ids = self._first + np.arange(SPEED_COUNT)[:, None]

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

    def by_contexts(self, slots: list[int]) -> tuple[Floats, float, float]:
        """Return mass by bin, (SPEED_COUNT, bins), runs behind it, and those of the deepest.

        Args:
            slots: Of contexts with runs, from "all" down. Each speed has masses of its own scale.
        """
        if not slots:
            return np.tile(self._base, (SPEED_COUNT, 1)), 0.0, 0.0
        ids = self._context_ids(slots)
        masses, passed, shares = self._shares(ids)
        told = np.matmul(shares[:, None], self._counts.take(ids, axis=0))[:, 0]
        told = told + passed[:, -1:] * (self._hyper.kappa * self._base)
        slow = masses[0]
        return told, float(passed[0] @ (slow * slow)) / self._hyper.kappa, float(slow[0])

    def by_leaves(self, leaves: Ids) -> Floats:
        """Return mass by bin, (bins,), of the leaf in each tree, summed over the trees.

        All trees count alike; the sum has its own scale.
        """
        ids = self._ways.take(leaves, axis=0)
        _, passed, shares = self._shares(ids)
        # One sum over all trees: each tree's shares and its base's make a distribution.
        told: Floats = self._base * (self._hyper.kappa * passed[:, -1].sum())
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
        beliefs[0] = self._base
        for nodes, parents in self._generations:
            beliefs[nodes] = (beliefs[nodes] + kappa * beliefs[parents]) / totals[nodes]
        table: Singles = beliefs[self._ways[:, 0]].cumsum(axis=1)
        table /= table[:, -1:]
        return table

    def add(self, leaves: Ids, slots: list[int], bin_: int) -> None:
        """Count a run.

        Args:
            leaves: That of each tree; the nodes above count it too.
            slots: Of its contexts, from "all" to the deepest; each counts it at every speed.
            bin_: Where it lies.
        """
        while self._first + SPEED_COUNT * (max(slots) + 1) > len(self._masses):
            self._grow()
        ids, decays = self._context_ids(slots).ravel(), self._decays_of_contexts(len(slots))
        if len(leaves):
            of_leaves = self._ways.take(leaves, axis=0).ravel()
            ids = np.concatenate((of_leaves, ids))
            decays = np.concatenate((self._tree_decays.take(of_leaves), decays))
        scales = self._scales.take(ids)
        scales *= decays
        if scales.min() < SCALE_MIN:
            worn = scales < SCALE_MIN
            self._counts[ids[worn]] *= scales[worn, None].astype(np.float32)
            scales[worn] = 1.0
        self._scales[ids] = scales
        masses = self._masses.take(ids)
        masses *= decays
        masses += 1
        self._masses[ids] = masses
        self._counts[ids, bin_] += (1 / scales).astype(np.float32)
        self._masses[0] = self._counts[0, bin_] = 0.0  # what pads counts nothing

    def clear_slot(self, slot: int) -> None:
        """Forget the runs of a context."""
        start = self._first + SPEED_COUNT * slot
        freed = slice(start, start + SPEED_COUNT)
        self._counts[freed], self._scales[freed], self._masses[freed] = 0, 1, 0

    def _context_ids(self, slots: list[int]) -> Ids:
        """Return the nodes of contexts by speed, (SPEED_COUNT, n), from the deepest up."""
        return np.array(slots[::-1]) * SPEED_COUNT + self._firsts

    def _decays_of_contexts(self, count: int) -> Floats:
        """Return the decays of a whole context path, in the order of its nodes."""
        decays = self._context_decays.get(count)
        if decays is None:
            hyper = self._hyper
            decays = np.repeat([hyper.inner_decay, hyper.middle_decay, hyper.fast_decay], count)
            if count > 1:
                decays[0] = hyper.leaf_decay
            self._context_decays[count] = decays
        return decays

    def _shares(self, ids: Ids) -> tuple[Floats, Floats, Singles]:
        """Return what `ids`, (n, depth), ways up, add to the belief at their start.

        That are masses; the share that goes to what is above each node; and, times kappa, the
        weight of each node's stored counts.
        """
        masses = self._masses.take(ids)
        passed = masses + self._hyper.kappa
        np.divide(self._hyper.kappa, passed, out=passed)
        np.multiply.accumulate(passed, axis=1, out=passed)
        return masses, passed, (passed * self._scales.take(ids)).astype(np.float32)

    def _grow(self) -> None:
        size = len(self._masses) + max(len(self._masses) // 4, 128)
        counts = np.zeros((size, self._counts.shape[1]), dtype=np.float32)
        counts[: len(self._counts)] = self._counts
        self._counts = counts
        more = size - len(self._masses)
        self._scales = np.concatenate((self._scales, np.ones(more)))
        self._masses = np.concatenate((self._masses, np.zeros(more)))


def _ways_up(paths: Ids) -> Ids:
    """Return `paths`, from roots down, from leaves up; 0 pads."""
    depths = (paths > 0).sum(axis=1)[:, None]
    columns = depths - 1 - np.arange(paths.shape[1])
    ways: Ids = np.where(columns >= 0, np.take_along_axis(paths, columns.clip(0), axis=1), 0)
    return ways


def _generations(paths: Ids) -> list[tuple[Ids, Ids]]:
    """Return the nodes at each depth of `paths`, and their parents; 0 is the roots' parent."""
    found = []
    for depth in range(paths.shape[1] if len(paths) else 0):
        nodes, rows = np.unique(paths[:, depth], return_index=True)
        is_node = nodes > 0
        parents = paths[rows, depth - 1] if depth else np.zeros_like(nodes)
        found.append((nodes[is_node], parents[is_node]))
    return found
