"""Histograms of DiPTree's nodes, and what they say along a path from root to leaf. Pure.

0 pads; 1 is the base, what is believed before any run, times kappa; then come the nodes of all
trees, then `SPEED_COUNT` for each context slot. The first two count no runs. A histogram is
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


#: The node of what is believed before any run.
_BASE = 1


class Nodes:
    """Histograms of all nodes of one partition and of all contexts."""

    def __init__(self, partition: Partition, hyper: Hyperparameters) -> None:
        self._first = _BASE + 1 + partition.node_count
        self._hyper = hyper
        size = self._first + 128
        self._counts: Singles = np.zeros((size, hyper.bin_count), dtype=np.float32)
        self._counts[_BASE] = hyper.kappa * partition.base
        self._uncounted: Singles = self._counts[: _BASE + 1].copy()
        self._scales: Floats = np.ones(size)
        self._masses: Floats = np.zeros(size)
        #: kappa / (mass + kappa): what each node leaves to its parent.
        self._passed: Floats = np.ones(size)
        #: Nodes from each leaf up to its root, then the base; 0 pads.
        self._ways = _ways_up(partition.paths)
        #: Nodes and their parents, from the roots down.
        self._generations = _generations(partition.paths)
        #: By shape and number of contexts.
        self._remembered_decays: dict[tuple[tuple[int, ...], int], Floats] = {}
        #: Nodes of slot 0 by speed, (SPEED_COUNT, 1).
        self._firsts: Ids = self._first + np.arange(SPEED_COUNT)[:, None]

    def copy(self) -> "Nodes":
        """Return an independent copy."""
        other = copy.copy(self)
        other._counts = self._counts.copy()
        other._scales = self._scales.copy()
        other._masses = self._masses.copy()
        other._passed = self._passed.copy()
        return other

    @property
    def state_bytes(self) -> int:
        """Size of all histograms."""
        columns = (self._counts, self._scales, self._masses, self._passed)
        return sum(column.nbytes for column in columns)

    def told(self, leaves: Ids, slots: list[int]) -> tuple[Floats, float, float]:
        """Return mass by bin, (1 + SPEED_COUNT, bins), runs behind contexts, and of the deepest.

        First comes the sum over trees, which count alike (without leaves: nothing), then contexts
        by speed. Each has its own scale.

        Args:
            leaves: That of each tree, or none.
            slots: Of contexts with runs, from "all" down.
        """
        ids, first = self._ids(leaves, slots), len(leaves)
        passed, shares = self._shares(ids)
        counts = self._counts.take(ids, axis=0)
        told = np.empty((1 + SPEED_COUNT, counts.shape[2]))
        # One sum over all trees: each tree's shares make a distribution.
        told[0] = shares[:first].ravel() @ counts[:first].reshape(-1, counts.shape[2])
        told[1:] = np.matmul(shares[first:, None], counts[first:])[:, 0]
        slow = self._masses.take(ids[first])
        return told, float(passed[first] @ (slow * slow)) / self._hyper.kappa, float(slow[0])

    def of_trees(self, leaves: Ids) -> Singles:
        """Return the first row of what `told` returns, (bins,), alone."""
        ids = self._ways.take(leaves, axis=0)
        _, shares = self._shares(ids)
        told: Singles = shares.ravel() @ self._counts.take(ids.ravel(), axis=0)
        return told

    def _shares(self, ids: Ids) -> tuple[Floats, Singles]:
        """Return what the nodes up to each of `ids`, (n, depth), leave to what lies above.

        Then the same times its scale: the weight of its stored counts, times kappa.
        """
        passed = self._passed.take(ids)
        np.multiply.accumulate(passed, axis=1, out=passed)
        return passed, (passed * self._scales.take(ids)).astype(np.float32)

    def leaf_table(self) -> Singles:
        """Return the probability below each bin's upper edge, (n_leaves, bins), in every leaf.

        From the roots down each node is mixed with its parent once, however many leaves it has: the
        price of about a hundred calls of `by_leaves`.
        """
        kappa = np.float32(self._hyper.kappa)
        own = slice(0, self._first)
        totals = (self._masses[own, None] + kappa).astype(np.float32)
        beliefs = self._counts[own] * self._scales[own, None].astype(np.float32)
        beliefs[_BASE] /= kappa
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
        ids = self._ids(leaves, slots)
        decays = self._decays(ids.shape, len(slots))
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
        masses += self._hyper.kappa
        np.divide(self._hyper.kappa, masses, out=masses)
        self._passed[ids] = masses
        self._counts[ids, bin_] += (1 / scales).astype(np.float32)
        uncounted = slice(_BASE + 1)
        self._scales[uncounted], self._masses[uncounted], self._passed[uncounted] = 1.0, 0.0, 1.0
        self._counts[uncounted, bin_] = self._uncounted[:, bin_]

    def clear_slot(self, slot: int) -> None:
        """Forget the runs of a context."""
        start = self._first + SPEED_COUNT * slot
        freed = slice(start, start + SPEED_COUNT)
        self._counts[freed], self._scales[freed] = 0, 1
        self._masses[freed], self._passed[freed] = 0, 1

    def _ids(self, leaves: Ids, slots: list[int]) -> Ids:
        """Return the nodes of a run, (n_leaves + SPEED_COUNT, depth): ways up to the base.

        From the leaf of each tree, then of its contexts by speed, from the deepest; 0 pads.
        """
        ways, depth = self._ways.take(leaves, axis=0), len(slots)
        count = len(ways)
        ids = np.zeros((count + SPEED_COUNT, max(ways.shape[1], depth + 1)), dtype=np.intp)
        ids[:count, : ways.shape[1]] = ways
        ids[count:, :depth] = SPEED_COUNT * np.array(slots[::-1], dtype=np.intp) + self._firsts
        ids[count:, depth] = _BASE
        return ids

    def _decays(self, shape: tuple[int, int], context_count: int) -> Floats:
        """Return the decays of what `_ids` tells, in its shape."""
        key = shape, context_count
        decays = self._remembered_decays.get(key)
        if decays is None:
            hyper = self._hyper
            decays = np.full(shape, hyper.inner_decay)
            decays[:, 0] = hyper.leaf_decay
            decays[-2], decays[-1] = hyper.middle_decay, hyper.fast_decay
            if context_count == 1:
                decays[-SPEED_COUNT] = hyper.inner_decay
            self._remembered_decays[key] = decays
        return decays

    def _grow(self) -> None:
        size = len(self._masses) + max(len(self._masses) // 4, 128)
        counts = np.zeros((size, self._counts.shape[1]), dtype=np.float32)
        counts[: len(self._counts)] = self._counts
        self._counts = counts
        more = size - len(self._masses)
        self._scales = np.concatenate((self._scales, np.ones(more)))
        self._masses = np.concatenate((self._masses, np.zeros(more)))
        self._passed = np.concatenate((self._passed, np.ones(more)))


def _ways_up(paths: Ids) -> Ids:
    """Return the nodes from each leaf up to its root and the base; 0 pads, before the base too.

    Args:
        paths: See `Partition.paths`.
    """
    depths = (paths > 0).sum(axis=1)[:, None]
    columns = depths - 1 - np.arange(paths.shape[1])
    up = np.take_along_axis(paths, columns.clip(0), axis=1)
    ways = np.full((len(paths), paths.shape[1] + 1), _BASE, dtype=np.intp)
    ways[:, :-1] = np.where(columns >= 0, up + _BASE, 0)
    return ways


def _generations(paths: Ids) -> list[tuple[Ids, Ids]]:
    """Return the nodes at each depth of `Partition.paths`, and their parents; of roots the base."""
    found = []
    for depth in range(paths.shape[1] if len(paths) else 0):
        nodes, rows = np.unique(paths[:, depth], return_index=True)
        is_node = nodes > 0
        parents = paths[rows, depth - 1] if depth else np.zeros_like(nodes)
        found.append((nodes[is_node] + _BASE, parents[is_node] + _BASE))
    return found
