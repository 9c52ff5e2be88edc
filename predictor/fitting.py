"""Fits DiPTree's structure: bins, partition trees, boosted head. Needs the `predictor` extra.

Runs in a worker process (`predictor.refit`); nothing that serves imports this module's libraries.
Every feature is causal: a row's histories know only what had ended when it started. Weights of
experts, levels and the head's residuals are learned on the newest fifth of history by a tree that
was fitted without it, since trees flatter the rows they were fitted on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from predictor.codes import frequent_names
from predictor.diptree import DiPTree
from predictor.fit import Fit
from predictor.leaf_graph import FlatTree, function_of, graph_of
from predictor.records import (
    Finished,
    Floats,
    Hyperparameters,
    Ids,
    Singles,
    Ticket,
    bare_partition,
)

#: ln of the 19 quantiles by index of the row.
Forecasts = dict[int, Floats]

#: Rows below which a partition says nothing that contexts do not.
FIT_COUNT_MIN = 60
#: Part of history that experts are compared on.
HELD_OUT_SHARE = 0.2
#: How far bins reach beyond what was seen, in ln t.
MARGIN = 0.7
MARGIN_OF_FEW = 4.0
#: Least width of a bin.
WIDTH_MIN = 1e-3
#: Before any run, the belief is that of all rows and `WIDE_COUNT` of a normal around them.
WIDE_COUNT = 10.0
SIGMA_MIN = 1.0
DEPTH_MAX = 12
#: Threads that grow trees.
WORKER_COUNT = 2
HEAD_GROUP_COUNT = 8
#: Least rows behind a leaf of a boosted tree: of many rows, and of few.
HEAD_LEAF_ROWS = 60
HEAD_LEAF_ROWS_MIN = 20
#: Boosted trees of the head's usual error, and its least: a share of the median, and in ln t.
ERROR_ROUND_COUNT = 60
ERROR_FLOOR_SHARE = 0.1
ERROR_MIN = 1e-3
RESIDUAL_BIN_COUNT = 96


def trained(
    history: Sequence[Finished], hyper: Hyperparameters | None = None, *, seed: int = 0
) -> DiPTree:
    """Return a tree that knows `history` (in any order, of any size) and predicts what follows."""
    hyper = hyper or Hyperparameters()
    ordered = sorted(history, key=lambda run: run.ended_s)
    if not ordered:
        return DiPTree(hyper)
    fit, _ = fit_history(ordered, hyper, seed=seed)
    tree = fit.tree()
    memorize(tree, ordered, teaches_head=False)
    return tree


def fit_history(
    ordered: Sequence[Finished], hyper: Hyperparameters, *, seed: int
) -> tuple[Fit, Forecasts]:
    """Return the fit of `ordered` (by end, at least one) and what its judge told of the newest."""
    held = round(len(ordered) * HELD_OUT_SHARE)
    early, late = ordered[: len(ordered) - held], ordered[len(ordered) - held :]
    # Half the trees give nearly the same forecasts, and weights are all that is wanted.
    lighter = replace(hyper, tree_count=(hyper.tree_count + 1) // 2)
    of_judge, seen = _structure(early, lighter, seed)
    judge = of_judge.tree()
    memorize(judge, early, teaches_head=True, seen=seen)
    forecasts = replay(judge, late)
    structure, _ = _structure(ordered, hyper, seed)
    tree = structure.tree()
    tree.inherit(judge)
    return replace(structure, lessons=tree.lessons()), forecasts


def _structure(
    ordered: Sequence[Finished], hyper: Hyperparameters, seed: int
) -> tuple[Fit, tuple[Singles, Floats]]:
    """Return partition and head fitted on the newest rows, and `causal_features` of all.

    Where there are too few rows, bins are all there is.
    """
    newest = -max(hyper.fit_count_max, hyper.head_fit_count_max)
    names = frequent_names(run.row for run in ordered[newest:])
    of_all, ln_s_of_all = causal_features(ordered, hyper, names)
    features, ln_s = of_all[-hyper.fit_count_max :], ln_s_of_all[-hyper.fit_count_max :]
    edges, base = _bins(ln_s, hyper.bin_count)
    until_s = ordered[-1].ended_s
    partition = replace(bare_partition(hyper.bin_count), edges=edges, base=base, names=names)
    if len(ln_s) < FIT_COUNT_MIN or hyper.tree_count == 0:
        bins = Fit(hyper, partition, b"", DiPTree(hyper, partition).lessons(), until_s)
        return bins, (of_all, ln_s_of_all)
    trees = _partition_trees(features, ln_s, hyper, seed)
    newest = -hyper.head_fit_count_max
    has_head = hyper.head_round_count > 0
    head, error = (
        _head_trees(of_all[newest:], ln_s_of_all[newest:], hyper, seed) if has_head else ([], [])
    )
    paths, node_count, trees = _paths(trees)
    graph = graph_of(trees, head, error, features.shape[1])
    tell = function_of(graph)
    partition = replace(partition, paths=paths, node_count=node_count, tree_count=len(trees))
    if head:
        forecasts, ln_errors = tell(features)[:, -2:].astype(np.float64).T
        plain = ln_s - forecasts
        partition = replace(
            partition,
            residual_edges=np.stack(
                [_residual_edges(plain), _residual_edges(plain * np.exp(-ln_errors))]
            ),
            head_edges=np.quantile(forecasts, np.arange(1, HEAD_GROUP_COUNT) / HEAD_GROUP_COUNT),
        )
    fit = Fit(hyper, partition, graph, DiPTree(hyper, partition, tell).lessons(), until_s)
    return fit, (of_all, ln_s_of_all)


def _residual_edges(residuals: Floats) -> Floats:
    """Return edges of bins of residuals, finer near zero, where most of them are."""
    reach = float(np.quantile(np.abs(residuals), 0.995)) * 2 + 0.2
    even = np.linspace(-1, 1, RESIDUAL_BIN_COUNT + 1)
    edges: Floats = reach * np.sign(even) * np.abs(even) ** 1.7
    return edges


def causal_features(
    ordered: Sequence[Finished], hyper: Hyperparameters, names: tuple[tuple[str, ...], ...] = ()
) -> tuple[Singles, Floats]:
    """Return features as of each run's start, (n, n_features), and ln t, (n,), in given order.

    Args:
        ordered: By end.
        hyper: How many contexts are remembered.
        names: Names of each categorical key that have a rank.
    """
    histories = DiPTree(hyper, replace(bare_partition(hyper.bin_count), names=names))
    told: list[Singles] = [np.zeros(0, dtype=np.float32)] * len(ordered)
    ln_s = np.log(np.array([run.seconds for run in ordered]))
    for index, is_start in _events(ordered):
        row = ordered[index].row
        if is_start:
            told[index] = histories.features(row)
        else:
            histories.learn_history(row, float(ln_s[index]))
    return np.stack(told), ln_s


def memorize(
    tree: DiPTree,
    ordered: Sequence[Finished],
    *,
    teaches_head: bool,
    seen: tuple[Singles, Floats] | None = None,
) -> None:
    """Let `tree`, which knows no run yet, learn each end, in the order of time, and judge nothing.

    Args:
        tree: Learns.
        ordered: By end.
        teaches_head: Whether the head's residuals count.
        seen: `causal_features` of `ordered`, if they are at hand.
    """
    assert tree.observed_count == 0
    if not ordered:
        return
    features, ln_s = seen or causal_features(ordered, tree.hyper, tree.partition.names)
    told = tree.told_by_trees(features)
    tickets: dict[int, Ticket] = {}
    for index, is_start in _events(ordered):
        row = ordered[index].row
        if is_start:
            tickets[index] = tree.bare_ticket(row, told[index])
        else:
            ticket = tickets.pop(index)
            tree.absorb(row, float(ln_s[index]), ticket, teaches_head=teaches_head)


def replay(tree: DiPTree, ordered: Sequence[Finished]) -> Forecasts:
    """Let `tree` predict each start and learn each end, in the order of time.

    Args:
        tree: Learns, its experts and levels too.
        ordered: By end.
    """
    tickets: dict[int, Ticket] = {}
    told: Forecasts = {}
    for index, is_start in _events(ordered):
        run = ordered[index]
        if is_start:
            forecast = tree.predict(run.row)
            told[index] = np.log(forecast.quantiles_s)
            tickets[index] = forecast.ticket
        else:
            tree.observe(run.row, run.seconds, tickets.pop(index))
    return told


def _events(ordered: Sequence[Finished]) -> Iterator[tuple[int, bool]]:
    """Yield (index, is start) in the order of time; what ends then is known to what starts then."""
    events = [(run.ended_s, 0, index) for index, run in enumerate(ordered)]
    # What seems to start after its end is a fault of the trace; it starts with its end.
    events += [
        (run.started_s, 1, index)
        for index, run in enumerate(ordered)
        if run.started_s < run.ended_s
    ]
    seen = {index for _, kind, index in events if kind == 1}
    for _, kind, index in sorted(events):
        if kind == 0 and index not in seen:
            yield index, True
        yield index, kind == 1


def _bins(ln_s: Floats, bin_count: int) -> tuple[Floats, Floats]:
    """Return edges, half at equal mass and half at equal width, and the belief between them."""
    is_many = len(ln_s) >= FIT_COUNT_MIN
    margin = MARGIN if is_many else MARGIN_OF_FEW
    low, high = float(ln_s.min()) - margin, float(ln_s.max()) + margin
    half = bin_count // 2
    masses = np.quantile(ln_s, np.arange(1, half) / half) if is_many else np.zeros(0)
    widths = np.linspace(low, high, bin_count + 1 - len(masses))
    # Within a tie an edge of equal mass would be an edge of no width.
    edges = _spread(np.sort(np.concatenate((widths, masses))), WIDTH_MIN)
    middles = (edges[1:] + edges[:-1]) / 2
    sigma = max(float(ln_s.std()), SIGMA_MIN)
    wide = np.diff(edges) * np.exp(-0.5 * ((middles - float(ln_s.mean())) / sigma) ** 2)
    counts = np.histogram(ln_s, edges)[0] + WIDE_COUNT * wide / wide.sum()
    return edges, counts / counts.sum()


def _spread(edges: Floats, least: float) -> Floats:
    """Return `edges` moved up where they are closer than `least`."""
    steps = np.arange(len(edges)) * least
    spread: Floats = np.maximum.accumulate(edges - steps) + steps
    return spread


def _partition_trees(
    features: Singles, ln_s: Floats, hyper: Hyperparameters, seed: int
) -> list[FlatTree]:
    from sklearn.ensemble import (  # type: ignore[import-untyped]  # noqa: PLC0415
        RandomForestRegressor,
    )

    forest = RandomForestRegressor(
        n_estimators=hyper.tree_count,
        max_leaf_nodes=hyper.leaf_count_max,
        min_samples_leaf=hyper.leaf_rows_min,
        max_depth=DEPTH_MAX,
        max_features=0.4,
        max_samples=0.5,
        n_jobs=WORKER_COUNT,
        random_state=seed,
    ).fit(features, ln_s)
    return [
        FlatTree(
            feature=tree.feature,
            threshold=tree.threshold,
            left=tree.children_left,
            right=tree.children_right,
            value=np.zeros(tree.node_count),
        )
        for tree in (estimator.tree_ for estimator in forest.estimators_)
    ]


def _paths(trees: Sequence[FlatTree]) -> tuple[Ids, int, list[FlatTree]]:
    """Return paths of all leaves, the number of nodes, and the trees with leaf ids as values."""
    paths: list[list[int]] = []
    numbered = []
    first = 1
    for tree in trees:
        value = np.zeros(len(tree.left))
        waiting = [(0, [first])]
        while waiting:
            node, path = waiting.pop()
            if tree.left[node] < 0:
                value[node] = len(paths)
                paths.append(path)
                continue
            children = (int(tree.left[node]), int(tree.right[node]))
            waiting += [(child, [*path, first + child]) for child in children]
        first += len(tree.left)
        numbered.append(replace(tree, value=value))
    padded = np.zeros((len(paths), max(map(len, paths))), dtype=np.intp)
    for row, path in zip(padded, paths, strict=True):
        row[: len(path)] = path
    return padded, first - 1, numbered


def _head_trees(
    features: Singles, ln_s: Floats, hyper: Hyperparameters, seed: int
) -> tuple[list[FlatTree], list[FlatTree]]:
    """Return the boosted trees of ln t, and those of ln of their usual error.

    How far they are off is learned from rows that they were not fitted on: each half of the rows is
    forecast from the other.
    """
    half = len(ln_s) // 2
    halves = (slice(None, half), slice(half, None))
    errors = np.empty(len(ln_s))
    for part, other in zip(halves, halves[::-1], strict=True):
        booster = _boosted(features[other], ln_s[other], hyper.head_round_count, hyper, seed)
        errors[part] = abs(ln_s[part] - booster.predict(features[part], num_threads=1))
    # Without a floor, the few errors near 0 would rule the mean of logarithms.
    ln_errors = np.log(errors + ERROR_FLOOR_SHARE * np.median(errors) + ERROR_MIN)
    head = _boosted(features, ln_s, hyper.head_round_count, hyper, seed)
    error = _boosted(features, ln_errors, ERROR_ROUND_COUNT, hyper, seed)
    return _flat_trees(head), _flat_trees(error)


def _boosted(
    features: Singles, target: Floats, round_count: int, hyper: Hyperparameters, seed: int
) -> Any:
    import lightgbm  # noqa: PLC0415

    return lightgbm.train(
        {
            "objective": "regression",
            "learning_rate": 0.06,
            "num_leaves": hyper.head_leaf_count,
            "min_data_in_leaf": min(max(len(target) // 300, HEAD_LEAF_ROWS_MIN), HEAD_LEAF_ROWS),
            "feature_fraction": 0.4,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "num_threads": 1,
            "deterministic": True,
            "seed": seed,
            "verbosity": -1,
        },
        lightgbm.Dataset(features, target),
        round_count,
    )


def _flat_trees(booster: Any) -> list[FlatTree]:
    return [_flat(told["tree_structure"]) for told in booster.dump_model()["tree_info"]]


def _flat(root: dict[str, object]) -> FlatTree:
    feature: list[object] = []
    threshold: list[object] = []
    left: list[int] = []
    right: list[int] = []
    value: list[object] = []

    def add(node: dict[str, object]) -> int:
        index = len(left)
        is_leaf = "leaf_value" in node
        feature.append(0 if is_leaf else node["split_feature"])
        threshold.append(0.0 if is_leaf else node["threshold"])
        value.append(node["leaf_value"] if is_leaf else 0.0)
        left.append(-1)
        right.append(-1)
        if not is_leaf:
            left[index] = add(node["left_child"])  # type: ignore[arg-type]
            right[index] = add(node["right_child"])  # type: ignore[arg-type]
        return index

    add(root)
    return FlatTree(
        np.array(feature, dtype=np.intp),
        np.array(threshold, dtype=np.float64),
        np.array(left, dtype=np.intp),
        np.array(right, dtype=np.intp),
        np.array(value, dtype=np.float64),
    )
