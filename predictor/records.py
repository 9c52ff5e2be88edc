"""What DiPTree is given, and what it tells. Pure."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcos.durations import SECONDS_MAX, SECONDS_MIN

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ids = NDArray[np.intp]
#: Kinds of residuals of the boosted head: as they are, in usual errors.
RESIDUAL_KIND_COUNT = 2
#: What a tree learned about its experts and levels: arrays by name.
Lessons = dict[str, Floats]
#: Feature vectors, (n_rows, n_features) float32, to (n_rows, n_trees + 2) float32: the leaf of each
#: tree, counted through all trees, then the boosted head's forecast of ln t and ln of its usual
#: error (both 0 without a head).
TreeFunction = Callable[[Singles], Singles]


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
        typicals_s: (n,), NaN where too few runs are known.
        effective_counts: (n,).
        depths: (n,).
    """

    quantiles_s: Floats
    typicals_s: Floats
    effective_counts: Floats
    depths: Ids


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
