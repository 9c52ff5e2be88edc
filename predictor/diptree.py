"""DiPTree over plain rows: run-time distributions that learn online. Pure.

A row leads to nodes: one leaf in each regression tree of a frozen partition, and one context for
each prefix of its context path. Every node holds a histogram of ln t over one grid of bins, updated
when a run ends, with exponential forgetting. Walking from root to leaf, each node is mixed with its
parent (DESIGN section 6):

    p_v = (H_v + kappa p_parent) / (N_v + kappa),   N_v = mass of H_v

Experts: the mean over the trees, the context trie at three speeds of forgetting, and an optional
boosted head (a point forecast and histograms of its residuals, as they are and in usual errors,
which it also tells). `stack` mixes them by least CRPS, `levels` corrects levels from past PIT
values. All that is told comes from that one distribution.

Trees see the numbers of the row, the ranks of its categories at the fit (`codes`) and what contexts
and categories lately said (`histories`), so that a new name costs no refit. Which leaf a feature
vector falls into is told by a function that is handed in (ONNX when serving). The structure is
frozen between refits (`predictor.fitting`); what is learned is a function of the sequence of
observations.
"""

import copy
import math
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from gcos.durations import LEVELS
from predictor.codes import Codes, seen_number, seen_numbers
from predictor.head_residuals import HeadResiduals
from predictor.histories import Histories
from predictor.levels import LevelCalibration
from predictor.nodes import SPEED_COUNT, Nodes
from predictor.places import Place, PlaceColumns
from predictor.records import (
    RESIDUAL_KIND_COUNT,
    Floats,
    Forecast,
    Forecasts,
    Hyperparameters,
    Ids,
    Lessons,
    Partition,
    Row,
    Singles,
    Ticket,
    TreeFunction,
    bare_partition,
)
from predictor.stack import Stack

#: Times are taken within these; a time may also be relative to a reference.
TIME_MIN, TIME_MAX = 1e-12, 1e12
#: Trees, contexts at three speeds, boosted head with two kinds of residuals.
EXPERT_COUNT = 1 + SPEED_COUNT + RESIDUAL_KIND_COUNT
_OF_CONTEXTS = slice(1, 1 + SPEED_COUNT)
_OF_HEAD = slice(1 + SPEED_COUNT, None)
#: Rows asked of `predict_many` since the last change that are worth a table of all leaves.
TABLE_WORTH_COUNT = 96
#: Rows whose leaves are summed together, so that they stay in the processor's cache.
CHUNK_COUNT = 32
#: Places remembered between two changes.
PLACE_COUNT_MAX = 4096
#: Groups of rows, by how well their deepest context is known, that have stack weights of their own.
STACK_COUNTS = (0.5, 4.0, 16.0)


class DiPTree:
    """Learns from ended runs in the order of their ends; not thread-safe."""

    def __init__(
        self,
        hyper: Hyperparameters | None = None,
        partition: Partition | None = None,
        trees: TreeFunction | None = None,
    ) -> None:
        self.hyper = hyper or Hyperparameters()
        self.partition = partition or bare_partition(self.hyper.bin_count)
        assert (trees is None) == (self.partition.tree_count == 0)
        self._trees = trees
        self._nodes = Nodes(self.partition, self.hyper)
        self._slots: OrderedDict[tuple[str, ...], int] = OrderedDict()
        self._free_slots: list[int] = []
        self._codes = Codes(self.partition.names)
        self._histories = Histories(2 * self.hyper.context_count_max)
        has_head = self.partition.residual_edges.size > 0
        self._head = HeadResiduals(self.partition) if has_head else None
        self.stack = Stack(
            self.partition.edges, EXPERT_COUNT, len(STACK_COUNTS) + 1, self.hyper.stack_decay
        )
        self.levels = LevelCalibration()
        self.observed_count = 0
        #: Edges of the bins, again and again.
        self._edges_of_rows: Floats = self.partition.edges
        self._forget_answers()

    def features(self, row: Row) -> Singles:
        """Return what the trees see, (n_features,)."""
        return np.array([*map(seen_number, row.numbers), *self._names(row)], dtype=np.float32)

    def predict(self, row: Row) -> Forecast:
        """Return the forecast of one row."""
        ticket, effective_count, depth = self._ask(row)
        cumulative = self.stack.mixed(ticket.cumulative, ticket.group)
        ln_quantiles = np.interp(self.levels.levels(), cumulative, self.partition.edges)
        return Forecast(
            quantiles_s=np.exp(ln_quantiles),
            typical_s=self._histories.typical_s(ticket.typicals),
            effective_count=effective_count,
            depth=depth,
            ticket=ticket,
        )

    def tell(self, seen: Singles, place: Place) -> Floats:
        """Return ln of the quantiles of `predict`, (19,), up to rounding, without a ticket.

        As few calls as can be: cold, as between two calls of a service, each costs microseconds.

        Args:
            seen: What trees see of a row, (1, n_features).
            place: Of its names, no older than the last change.
        """
        mixed = place.mixed
        if self._trees is not None:
            told = self._trees(seen)
            leaves = told[0, :-2].astype(np.intp)
            table = self._leaf_table(1)
            mixed = mixed.copy()
            if table is None:
                below = self._nodes.of_trees(leaves).cumsum(dtype=np.float64)
                below *= place.tree_weight / below[-1]
                mixed[1:] += below
            else:
                mixed[1:] += np.dot(place.tree_weights, table.take(leaves, axis=0))
            if self._head is not None:
                forecast, ln_error = told[0, -2:].tolist()
                self._head.add(mixed, forecast, ln_error, place.head_weights.tolist())
        return np.interp(self.levels.levels(), mixed, self.partition.edges)

    def predict_many(self, rows: Sequence[Row]) -> Forecasts:
        """Return the forecasts of at least one row, equal to those of `predict` up to rounding.

        It is for those who only ask: there are no tickets. What no row changes is remembered until
        the next run is learned, and all rows go through trees and arrays together.
        """
        places = PlaceColumns.of([self.place(row) for row in rows], self.partition.edges)
        numbers = np.array([row.numbers for row in rows], dtype=np.float64)
        return self.predict_at(places, np.arange(len(rows)), seen_numbers(numbers))

    def predict_at(self, places: PlaceColumns, ids: Ids, numbers: Singles) -> Forecasts:
        """Return the same for rows at places, none older than the last change.

        Args:
            places: Of some rows.
            ids: Which of them each row has, (n,).
            numbers: Numeric keys as trees see them, (n, n_numbers).
        """
        # Of rows that lie side by side much the same branches are taken, and branches that a
        # processor foresees cost half: by ln t as the head last told it, or as contexts believe.
        order = places.centres.take(ids).argsort(kind="stable")  # the quickest, for some 100 rows
        ids_in_order = ids.take(order)
        mixed = places.mixed.take(ids_in_order, axis=0)
        if self._trees is not None:
            names = places.names.take(ids_in_order, axis=0)
            told = self._trees(np.concatenate((numbers.take(order, axis=0), names), axis=1))
            if self._head is not None:
                places.centres[ids_in_order] = told[:, -2]  # better known for the next batch
            self._add_trees(mixed, told[:, :-2].astype(np.intp), places, ids_in_order)
            if self._head is not None:
                of_head = places.head_weights.take(ids_in_order, axis=0).T
                self._head.add_to(mixed, told[:, -2:].astype(np.float64), of_head)
        ln_quantiles = np.empty((len(mixed), len(LEVELS)))
        ln_quantiles[order] = self._read(mixed)
        return Forecasts(
            quantiles_s=np.exp(ln_quantiles, out=ln_quantiles),
            typicals_s=places.typicals_s.take(ids),
            effective_counts=places.effective_counts.take(ids),
            depths=places.depths.take(ids),
        )

    def observe(self, row: Row, seconds: float, ticket: Ticket | None = None) -> None:
        """Learn from a run that has ended.

        Args:
            row: What was known before it started.
            seconds: How long it took.
            ticket: Of its prediction; without one, it is predicted as of now.
        """
        if ticket is None:
            ticket = self.ticket(row)
        ln_s = math.log(min(max(seconds, TIME_MIN), TIME_MAX))
        mixed = self.stack.mixed(ticket.cumulative, ticket.group)
        self.levels.learn(mixed, self.partition.edges, ln_s, ticket.levels)
        self.stack.learn(ticket.cumulative, ln_s, ticket.group)
        self.absorb(row, ln_s, ticket)

    def absorb(self, row: Row, ln_s: float, ticket: Ticket, *, teaches_head: bool = True) -> None:
        """Add a run to the histograms, and leave stack and levels as they are."""
        if self._head is not None and teaches_head:
            self._head.learn(*ticket.head, ln_s)
        bin_ = int(self.partition.edges[1:-1].searchsorted(ln_s, side="right"))
        self._nodes.add(ticket.leaves, self._slots_for(row), bin_)
        self._histories.judge(ticket.typicals, ln_s)
        self._histories.learn(row, ln_s)
        self.observed_count += 1
        self._forget_answers()

    def learn_history(self, row: Row, ln_s: float) -> None:
        """Add a run to what its contexts lately said, and to nothing else."""
        self._histories.learn(row, ln_s)
        self._forget_answers()

    def ticket(self, row: Row) -> Ticket:
        """Return the ticket of a prediction of `row` as of now."""
        return self._ask(row)[0]

    def bare_ticket(self, row: Row, told: Singles) -> Ticket:
        """Return a ticket for `absorb` alone, without what experts believe, which takes longest.

        Args:
            row: What is known before the run.
            told: What the trees tell of its features, (n_trees + 2,); empty without trees.
        """
        has_trees = self._trees is not None
        return Ticket(
            cumulative=_NO_CURVES,
            leaves=told[:-2].astype(np.intp) if has_trees else _NO_LEAVES,
            head=(float(told[-2]), float(told[-1])) if has_trees else (0.0, 0.0),
            group=0,
            levels=self.levels.corrected,
            typicals=self._histories.typicals(row),
        )

    def told_by_trees(self, features: Singles) -> Singles:
        """Return what the trees tell of `features`, (n, n_features): (n, n_trees + 2) or (n, 0)."""
        return (
            np.zeros((len(features), 0), np.float32) if not self._trees else self._trees(features)
        )

    def inherit(self, other: "DiPTree") -> None:
        """Take over what `other` learned about its experts and levels, on rows new to it."""
        self.levels.restore(other.levels.arrays())
        self.stack.restore(other.stack.arrays())
        if self._head is not None and other._head is not None:
            self._head.inherit(other._head)
        self._forget_answers()

    def lessons(self) -> Lessons:
        """Return what is known of experts and levels, for a tree of the same partition."""
        head = {} if self._head is None else self._head.arrays()
        return {**self.stack.arrays(), **self.levels.arrays(), **head}

    def take(self, lessons: Lessons) -> None:
        """Take over `lessons` of a tree of the same partition."""
        self.stack.restore(lessons)
        self.levels.restore(lessons)
        if self._head is not None:
            self._head.restore(lessons)
        self._forget_answers()

    def copy(self) -> "DiPTree":
        """Return an independent tree of the same state."""
        other = copy.copy(self)
        other._nodes = self._nodes.copy()
        other._slots = self._slots.copy()
        other._free_slots = self._free_slots.copy()
        other._histories = self._histories.copy()
        other._head = None if self._head is None else self._head.copy()
        other.stack = self.stack.copy()
        other.levels = self.levels.copy()
        other._forget_answers()
        return other

    @property
    def context_count(self) -> int:
        """Contexts with runs."""
        return len(self._slots)

    @property
    def state_bytes(self) -> int:
        """Size of what is learned, without structure and log."""
        return self._nodes.state_bytes + self._histories.state_bytes

    def _forget_answers(self) -> None:
        """Forget what is remembered between two changes."""
        self._places: dict[tuple[tuple[str, ...], tuple[str, ...]], Place] = {}
        self._table: Singles | None = None
        #: Rows asked of `predict_many` since.
        self._asked_count = 0

    def place(self, row: Row) -> Place:
        """Return what is known of a row's names, until the next change."""
        key = (row.contexts, row.categories)
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= PLACE_COUNT_MAX:
                self._places = {}
            place = self._places[key] = self._new_place(row)
        return place

    def _new_place(self, row: Row) -> Place:
        slots = self._known_slots(row)
        masses, effective_count, deepest = self._nodes.told(_NO_LEAVES, slots)
        masses = masses[1:]
        weights = self.stack.weights[_group(row, slots, deepest)].copy()
        # Without trees the slow contexts stand for them, and without a head the trees for it.
        if self._head is None:
            weights[0] += weights[_OF_HEAD].sum()
            weights[_OF_HEAD] = 0.0
        if self._trees is None:
            weights[1] += weights[0]
            weights[0] = 0.0
        mixed = np.zeros(len(self.partition.edges))
        (weights[_OF_CONTEXTS] / masses.sum(axis=1) @ masses).cumsum(out=mixed[1:])
        tree_count = max(self.partition.tree_count, 1)
        return Place(
            names=np.array(self._names(row), dtype=np.float32),
            mixed=mixed,
            tree_weight=float(weights[0]),
            tree_weights=np.full(tree_count, weights[0] / tree_count, dtype=np.float32),
            head_weights=weights[_OF_HEAD],
            effective_count=effective_count,
            depth=len(slots),
            typical_s=self._histories.typical_s(self._histories.typicals(row)),
        )

    def _names(self, row: Row) -> list[float]:
        """Return the part of `features` that names decide."""
        return self._codes.of(row) + self._histories.features(row)

    def _ask(self, row: Row) -> tuple[Ticket, float, int]:
        """Return a ticket, how many runs are behind it, and how many contexts have runs."""
        slots = self._known_slots(row)
        leaves, head = _NO_LEAVES, (0.0, 0.0)
        if self._trees is not None:
            told = self._trees(self.features(row)[None])[0]
            leaves, head = told[:-2].astype(np.intp), (float(told[-2]), float(told[-1]))
        masses, effective_count, deepest = self._nodes.told(leaves, slots)
        cumulative = np.zeros((EXPERT_COUNT, len(self.partition.edges)))
        of_nodes, of_head = cumulative[: _OF_HEAD.start], cumulative[_OF_HEAD]
        masses.cumsum(axis=1, out=of_nodes[:, 1:])
        if self._trees is None:
            of_nodes[0] = of_nodes[1]
        of_nodes /= of_nodes[:, -1:]
        # A head that is not there agrees with the trees.
        if self._head is None:
            of_head[:] = of_nodes[0]
        else:
            self._head.tell(of_head, *head)
        ticket = Ticket(
            cumulative=cumulative,
            leaves=leaves,
            head=head,
            group=_group(row, slots, deepest),
            levels=self.levels.corrected,
            typicals=self._histories.typicals(row),
        )
        return ticket, effective_count, len(slots)

    def _add_trees(self, mixed: Floats, leaves: Ids, places: PlaceColumns, ids: Ids) -> None:
        """Add what `leaves`, (n, n_trees), say, weighed, to `mixed`, (n, n_edges).

        Weights are those of the `places` that `ids` tells, (n,).
        """
        table = self._leaf_table(len(leaves))
        if table is None:
            mixed += self._by_paths(leaves) * places.tree_weight.take(ids)[:, None]
            return
        weights = places.tree_weights.take(ids, axis=0)
        told = np.zeros((len(leaves), 1, mixed.shape[1]), dtype=np.float32)
        for first in range(0, len(leaves), CHUNK_COUNT):
            chunk = slice(first, first + CHUNK_COUNT)
            # As a product, which weighs and sums at once, three times as fast as a sum.
            of_leaves = table.take(leaves[chunk], axis=0)
            np.matmul(weights[chunk, None], of_leaves, out=told[chunk, :, 1:])
        mixed += told[:, 0]

    def _read(self, cumulative: Floats) -> Floats:
        """Return ln of the quantiles, (n, 19), of `cumulative`, (n, n_edges), which it uses up.

        The rows' curves lie side by side on one axis, so that one call reads them all.
        """
        count, edges = len(cumulative), self.partition.edges
        if count == 1:
            return np.interp(self.levels.levels(), cumulative[0], edges)[None]
        if len(self._edges_of_rows) < count * len(edges):
            self._edges_of_rows = np.tile(edges, count)
        places = 2.0 * np.arange(count)[:, None]
        cumulative += places
        return np.interp(
            (self.levels.levels() + places).ravel(),
            cumulative.ravel(),
            self._edges_of_rows[: cumulative.size],
        ).reshape(count, -1)

    def _leaf_table(self, count: int) -> Singles | None:
        """Return the table of all leaves, once it is worth its price; `count` more are asked."""
        self._asked_count += count
        if self._table is None and self._asked_count >= TABLE_WORTH_COUNT:
            self._table = self._nodes.leaf_table()
        return self._table

    def _by_paths(self, leaves: Ids) -> Floats:
        """Return the probability below each edge, (n, n_edges), from the nodes above each leaf."""
        cumulative: Floats = np.zeros((len(leaves), len(self.partition.edges)))
        for below, of_row in zip(cumulative, leaves, strict=True):
            self._nodes.of_trees(of_row).cumsum(out=below[1:])
        cumulative /= cumulative[:, -1:]
        return cumulative

    def _known_slots(self, row: Row) -> list[int]:
        """Return the slots of the contexts of `row` that have runs, from "all" down."""
        found: list[int] = []
        for depth in range(len(row.contexts) + 1):
            slot = self._slots.get(row.contexts[:depth])
            if slot is None:
                break
            found.append(slot)
        return found

    def _slots_for(self, row: Row) -> list[int]:
        """Return a slot for every context of `row`; the longest unheard of make room."""
        slots = []
        for depth in range(len(row.contexts), -1, -1):
            key = row.contexts[:depth]
            slot = self._slots.get(key)
            if slot is None:
                slot = self._new_slot()
                self._slots[key] = slot
            else:
                self._slots.move_to_end(key)
            slots.append(slot)
        slots.reverse()
        return slots

    def _new_slot(self) -> int:
        if len(self._slots) >= self.hyper.context_count_max:
            # Parents are touched after their children, so that the first is always a leaf.
            _, slot = self._slots.popitem(last=False)
            self._nodes.clear_slot(slot)
            return slot
        return len(self._slots)


def _group(row: Row, slots: list[int], deepest: float) -> int:
    """Return which stack weights are used: by the runs of the deepest context, if all have some."""
    if len(slots) <= len(row.contexts):
        return 0
    return sum(deepest >= count for count in STACK_COUNTS)


_NO_CURVES: Floats = np.zeros((0, 0))
_NO_LEAVES: Ids = np.zeros(0, dtype=np.intp)
