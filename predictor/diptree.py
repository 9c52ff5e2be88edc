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
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcos.durations import SECONDS_MAX, SECONDS_MIN
from predictor.codes import Codes
from predictor.head_residuals import RESIDUAL_KIND_COUNT, HeadResiduals
from predictor.histories import Histories
from predictor.levels import LevelCalibration
from predictor.nodes import SPEED_COUNT, Nodes
from predictor.stack import Stack

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ids = NDArray[np.intp]
#: What a tree learned about its experts and levels: arrays by name.
Lessons = dict[str, Floats]
#: Feature vectors, (n_rows, n_features) float32, to (n_rows, n_trees + 2) float32: the leaf of each
#: tree, counted through all trees, then the boosted head's forecast of ln t and ln of its usual
#: error (both 0 without a head).
TreeFunction = Callable[[Singles], Singles]

#: What trees see in place of an unknown number; far from what anyone measures.
UNKNOWN_NUMBER = -1e9
NUMBER_MAX = 1e30
#: Times are taken within these; a time may also be relative to a reference.
TIME_MIN, TIME_MAX = 1e-12, 1e12
#: Trees, contexts at three speeds, boosted head with two kinds of residuals.
EXPERT_COUNT = 1 + SPEED_COUNT + RESIDUAL_KIND_COUNT
_OF_CONTEXTS = slice(1, 1 + SPEED_COUNT)
_OF_HEAD = slice(1 + SPEED_COUNT, None)
_NOT_OF_CONTEXTS = [0, *range(1 + SPEED_COUNT, EXPERT_COUNT)]
#: Rows asked of `predict_many` since the last change that are worth a table of all leaves.
TABLE_WORTH_COUNT = 96
#: Places remembered between two changes.
PLACE_COUNT_MAX = 4096
#: Groups of rows, by how well their deepest context is known, that have stack weights of their own.
STACK_COUNTS = (0.5, 4.0, 16.0)


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of a run before it starts.

    Attributes:
        numbers: Numeric keys; NaN where unknown. As many in every row.
        categories: Categorical keys; "" where unknown. As many in every row.
        contexts: Names of the groups it belongs to, from general to specific; a name need not
            repeat its parents' (the path is what counts). "All" is implied. As many in every row.
    """

    numbers: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that succeeded, as history to fit on.

    Attributes:
        row: What was known before.
        seconds: How long it took, above 0.
        started_s: When its prediction was asked for (submit or start).
        ended_s: When `seconds` became known.
    """

    row: Row
    seconds: float
    started_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """What validation may choose. All have defaults that need no tuning.

    Attributes:
        tree_count: Trees of the partition; 0 leaves contexts alone.
        leaf_count_max: Leaves of a tree.
        leaf_rows_min: Rows behind a leaf.
        bin_count: Bins of ln t, even: half of equal mass, half of equal width.
        kappa: Pseudo-counts of the parent in a node's distribution.
        leaf_decay: Weight of the next older run in a leaf and in the deepest context.
        inner_decay: The same in nodes above.
        middle_decay: The same in all contexts of the second trie, which forgets faster.
        fast_decay: The same in all contexts of the third.
        stack_decay: Weight of the next older run in the stack's Gram matrix.
        head_round_count: Trees of the boosted head; 0: no head.
        head_leaf_count: Leaves of each of them.
        context_count_max: Contexts remembered; those longest unheard of leave.
        fit_count_max: Newest rows of history that the partition is fitted on.
        head_fit_count_max: The same for the head, whose forecast no later run corrects.
    """

    tree_count: int = 30
    leaf_count_max: int = 256
    leaf_rows_min: int = 10
    bin_count: int = 64
    kappa: float = 3.0
    leaf_decay: float = 0.98
    inner_decay: float = 0.995
    middle_decay: float = 0.97
    fast_decay: float = 0.85
    stack_decay: float = 0.9997
    head_round_count: int = 150
    head_leaf_count: int = 31
    context_count_max: int = 5000
    fit_count_max: int = 16_000
    head_fit_count_max: int = 40_000


@dataclass(frozen=True, slots=True)
class Partition:
    """A frozen structure: the bins, and the nodes on the way to each leaf.

    Attributes:
        edges: (bin_count + 1,) ascending, of ln t; what lies outside counts in the border bins.
        base: (bin_count,), sum 1: what is believed before any run.
        paths: (n_leaves, depth_max), nodes from root to leaf by leaf, counted from 1; 0 pads.
        node_count: Nodes of all trees.
        tree_count: Trees.
        names: Names of each categorical key that have a rank, the most frequent first.
        residual_edges: (2, n) ascending edges of bins of the head's residuals, as they are and in
            usual errors; (2, 0) without a head.
        head_edges: Borders between groups of forecasts that have residuals of their own.
    """

    edges: Floats
    base: Floats
    paths: Ids
    node_count: int
    tree_count: int
    names: tuple[tuple[str, ...], ...]
    residual_edges: Floats
    head_edges: Floats


@dataclass(frozen=True, slots=True)
class Ticket:
    """A prediction as it was made, for `observe` to learn from.

    Attributes:
        cumulative: (EXPERT_COUNT, bin_count + 1), probability below each edge, by expert.
        leaves: (tree_count,) leaf in each tree.
        head: The boosted head's ln t, and ln of its usual error.
        group: Which stack weights were used.
        levels: What was to be read in place of `LEVELS` by each correction of levels.
        typicals: Candidates for the typical ln t; none where too few runs were known.
    """

    cumulative: Floats
    leaves: Ids
    head: tuple[float, float]
    group: int
    levels: Floats
    typicals: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Forecast:
    """One prediction. All that it tells comes from one monotone distribution.

    Attributes:
        quantiles_s: (19,) at `gcos.durations.LEVELS`.
        typical_s: Median of the newest runs of the deepest context with at least five; or None.
        effective_count: Runs behind it, after forgetting.
        depth: Number of contexts of the row that have runs.
        ticket: Hand it to `observe` when the run ends, if you still have it.
    """

    quantiles_s: Floats
    typical_s: float | None
    effective_count: float
    depth: int
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Forecasts:
    """Predictions of many rows, in order; see `Forecast`.

    Attributes:
        quantiles_s: (n, 19).
        typicals_s: (n,), None where too few runs are known.
        effective_counts: (n,).
        depths: (n,).
    """

    quantiles_s: Floats
    typicals_s: list[float | None]
    effective_counts: list[float]
    depths: list[int]


@dataclass(frozen=True, slots=True)
class _Place:
    """What is known of a row's contexts and categories alone, until the next change.

    Attributes:
        names: Their ranks and what they lately said, (n,) float32.
        cumulative: Probability below each edge by speed, (SPEED_COUNT, n_edges).
        effective_count: Runs behind it.
        depth: Contexts that have runs.
        group: Which stack weights are used.
        mixed: The contexts' part of the mixture, (n_edges,).
        weights: Weights of trees and of head in it, (3,).
        typicals: Candidates for the typical ln t.
        typical_s: The one that is told.
    """

    names: Singles
    cumulative: Floats
    effective_count: float
    depth: int
    group: int
    mixed: Floats
    weights: Floats
    typicals: tuple[float, ...]
    typical_s: float | None


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
        self._forget_answers()

    def features(self, row: Row) -> Singles:
        """Return what the trees see, (n_features,)."""
        return np.concatenate((_numbers([row])[0], self._names(row)))

    def predict(self, row: Row) -> Forecast:
        """Return the forecast of one row."""
        place = self._place(row)
        ticket = self._ask(row, place)
        cumulative = self.stack.mixed(ticket.cumulative, ticket.group)
        ln_quantiles = np.interp(self.levels.levels(), cumulative, self.partition.edges)
        return Forecast(
            quantiles_s=np.exp(ln_quantiles),
            typical_s=place.typical_s,
            effective_count=place.effective_count,
            depth=place.depth,
            ticket=ticket,
        )

    def predict_many(self, rows: Sequence[Row]) -> Forecasts:
        """Return the forecasts of at least one row, equal to those of `predict` up to rounding.

        It is for those who only ask: there are no tickets. What no row changes is remembered until
        the next run is learned, and all rows go through trees and arrays together.
        """
        places = [self._place(row) for row in rows]
        mixed = np.array([place.mixed for place in places])
        if self._trees is not None:
            names = np.array([place.names for place in places])
            told = self._trees(np.concatenate((_numbers(rows), names), axis=1))
            weights = np.array([place.weights for place in places])
            mixed += weights[:, :1] * self._by_trees(told[:, :-2].astype(np.intp))
            if self._head is not None:
                of_head = self._head.cumulatives(told[:, -2:].astype(np.float64))
                mixed += np.einsum("nk,kne->ne", weights[:, 1:], of_head)
        return Forecasts(
            quantiles_s=np.exp(_read(mixed, self.levels.levels(), self.partition.edges)),
            typicals_s=[place.typical_s for place in places],
            effective_counts=[place.effective_count for place in places],
            depths=[place.depth for place in places],
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
        self._nodes.add_to_leaves(ticket.leaves, bin_)
        self._nodes.add_to_contexts(self._slots_for(row), bin_)
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
        return self._ask(row, self._place(row))

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
        self._places: dict[tuple[tuple[str, ...], tuple[str, ...]], _Place] = {}
        self._leaf_table: Singles | None = None
        #: Rows asked of `predict_many` since.
        self._asked_count = 0

    def _place(self, row: Row) -> _Place:
        key = (row.contexts, row.categories)
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= PLACE_COUNT_MAX:
                self._places = {}
            place = self._places[key] = self._new_place(row)
        return place

    def _names(self, row: Row) -> Singles:
        return np.array(self._codes.of(row) + self._histories.features(row), dtype=np.float32)

    def _new_place(self, row: Row) -> _Place:
        context_count = len(row.contexts) + 1
        slots = self._known_slots(row)
        masses, effective_count, deepest = self._nodes.by_contexts(slots, context_count)
        cumulative = np.zeros((SPEED_COUNT, len(self.partition.edges)))
        np.cumsum(masses, axis=1, out=cumulative[:, 1:])
        cumulative /= cumulative[:, -1:]
        group = 0
        if len(slots) == context_count:
            group = sum(deepest >= count for count in STACK_COUNTS)
        weights = self.stack.weights[group].copy()
        # Without trees the slow contexts stand for them, and without a head the trees for it.
        if self._head is None:
            weights[0] += weights[_OF_HEAD].sum()
            weights[_OF_HEAD] = 0.0
        if self._trees is None:
            weights[1] += weights[0]
            weights[0] = 0.0
        typicals = self._histories.typicals(row)
        typical = self._histories.typical(typicals)
        return _Place(
            names=self._names(row),
            cumulative=cumulative,
            effective_count=effective_count,
            depth=len(slots),
            group=group,
            mixed=weights[_OF_CONTEXTS] @ cumulative,
            weights=weights[_NOT_OF_CONTEXTS],
            typicals=typicals,
            typical_s=None if typical is None else math.exp(typical),
        )

    def _ask(self, row: Row, place: _Place) -> Ticket:
        cumulative = np.empty((EXPERT_COUNT, len(self.partition.edges)))
        cumulative[_OF_CONTEXTS] = place.cumulative
        head = (0.0, 0.0)
        leaves = _NO_LEAVES
        if self._trees is None:
            cumulative[0] = place.cumulative[0]
        else:
            features = np.concatenate((_numbers([row])[0], place.names))
            told = self._trees(features[None])[0]
            leaves = told[:-2].astype(np.intp)
            head = (float(told[-2]), float(told[-1]))
            cumulative[0, 0] = 0.0
            np.cumsum(self._nodes.by_leaves(leaves), out=cumulative[0, 1:])
            cumulative[0] /= cumulative[0, -1]
        # A head that is not there agrees with the trees.
        cumulative[_OF_HEAD] = cumulative[0] if self._head is None else self._head.cumulative(*head)
        return Ticket(
            cumulative=cumulative,
            leaves=leaves,
            head=head,
            group=place.group,
            levels=self.levels.corrected,
            typicals=place.typicals,
        )

    def _by_trees(self, leaves: Ids) -> Floats:
        """Return the probability below each edge, (n, n_edges), of `leaves`, (n, n_trees)."""
        self._asked_count += len(leaves)
        if self._leaf_table is None and self._asked_count >= TABLE_WORTH_COUNT:
            self._leaf_table = self._nodes.leaf_table()
        if self._leaf_table is not None:
            below = self._leaf_table.take(leaves, axis=0).sum(axis=1, dtype=np.float32)
            told: Floats = below.astype(np.float64)
            told /= told[:, -1:]
            return told
        cumulative: Floats = np.zeros((len(leaves), len(self.partition.edges)))
        for below, of_row in zip(cumulative, leaves, strict=True):
            self._nodes.by_leaves(of_row).cumsum(out=below[1:])
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


def bare_partition(bin_count: int) -> Partition:
    """Return what a tree without history has: equal bins from a millisecond to a century."""
    low, high = math.log(SECONDS_MIN), math.log(SECONDS_MAX)
    return Partition(
        edges=np.linspace(low, high, bin_count + 1),
        base=np.full(bin_count, 1 / bin_count),
        paths=np.zeros((0, 0), dtype=np.intp),
        node_count=0,
        tree_count=0,
        names=(),
        residual_edges=np.zeros((RESIDUAL_KIND_COUNT, 0)),
        head_edges=np.zeros(0),
    )


def _numbers(rows: Sequence[Row]) -> Singles:
    """Return the numeric keys as trees see them, (n, n_numbers)."""
    numbers = np.array([row.numbers for row in rows], dtype=np.float64)
    if numbers.size and not abs(numbers).max() <= NUMBER_MAX:
        numbers = np.clip(numbers, -NUMBER_MAX, NUMBER_MAX)
        numbers[np.isnan(numbers)] = UNKNOWN_NUMBER
    return numbers.astype(np.float32)


def _read(cumulative: Floats, levels: Floats, edges: Floats) -> Floats:
    """Return where each row of `cumulative`, (n, n_edges), reaches `levels`: (n, n_levels).

    The rows' curves lie side by side on one axis, so that one call reads them all.
    """
    if len(cumulative) == 1:
        return np.interp(levels, cumulative[0], edges)[None]
    places = 2.0 * np.arange(len(cumulative))[:, None]
    return np.interp(
        (levels + places).ravel(),
        (cumulative + places).ravel(),
        np.broadcast_to(edges, cumulative.shape).ravel(),
    ).reshape(len(cumulative), -1)


_NO_CURVES: Floats = np.zeros((0, 0))
_NO_LEAVES: Ids = np.zeros(0, dtype=np.intp)
