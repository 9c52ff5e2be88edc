"""A job log as one matrix, for learners that want a fixed number of columns.

Three groups of columns: numeric keys as they are; categorical keys as codes, the most frequent
name of the training part being 1; and history: for each categorical key and each context, the mean
of ln t over all ended jobs with the same value, over the newest of them, and how many there were.
History is told at each submission from what had ended by then, so that no row sees its own time or
a later one.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.backtest.trace import Trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Names with a code of their own; LightGBM's default for bins of a column is 255.
NAME_COUNT_MAX = 250
#: Pseudo-counts by which a mean leans on the mean of all jobs.
_LEAN_COUNT = 5.0
#: Share of the mean of the newest jobs that an ended one takes.
_NEWEST_SHARE = 0.2
_HISTORY_COLUMNS_COUNT = 3


@dataclass(frozen=True, slots=True)
class Design:
    """The matrix of a job log.

    Attributes:
        matrix: Numeric keys, codes, history, (n, k); NaN where unknown.
        target: ln seconds, (n,).
        code_columns: Indices of the columns with codes.
        history_from: Index of the first column with history.
    """

    matrix: Floats
    target: Floats
    code_columns: tuple[int, ...]
    history_from: int


def design_of(trace: Trace) -> Design:
    """Return the matrix of a job log."""
    codes = [_codes(column, trace.validation_from) for column in trace.categorical]
    numeric_count = trace.numeric.shape[1]
    target = np.log(trace.duration_s)
    keys: list[Callable[[int], Hashable]] = [column.__getitem__ for column in trace.categorical]
    paths = [lambda index, depth=depth: trace.path(depth, index) for depth in trace.depths]
    history = _history(trace, target, [*keys, *paths])
    matrix = np.column_stack([trace.numeric, *codes, history])
    return Design(
        matrix=matrix,
        target=target,
        code_columns=tuple(range(numeric_count, numeric_count + len(codes))),
        history_from=numeric_count + len(codes),
    )


def _codes(column: tuple[str, ...], train_count: int) -> Floats:
    """Return the rank of each name by frequency in the training part, from 1; 0 for the rest."""
    names, counts = np.unique(np.array(column[:train_count], dtype=object), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:NAME_COUNT_MAX]
    ranks = {names[place]: rank for rank, place in enumerate(order, 1)}
    return np.array([ranks.get(name, 0) for name in column], dtype=float)


def _history(trace: Trace, target: Floats, keys: list[Callable[[int], Hashable]]) -> Floats:
    """Return the history columns, (n, 3 x keys)."""
    columns = np.empty((len(trace), _HISTORY_COLUMNS_COUNT * len(keys)))
    #: Of each key: by its value, the sum of ln t, the newest mean, the count.
    states: list[dict[Hashable, tuple[float, float, int]]] = [{} for _ in keys]
    ended = trace.ended()
    known_counts = np.searchsorted(trace.known_from[ended], np.arange(len(trace)), side="right")
    total, told_count = 0.0, 0
    for index, known_count in enumerate(known_counts.tolist()):
        for other in ended[told_count:known_count].tolist():
            value = float(target[other])
            total += value
            for key, state in zip(keys, states, strict=True):
                name = key(other)
                sum_ln, newest, count = state.get(name, (0.0, value, 0))
                newest += _NEWEST_SHARE * (value - newest)
                state[name] = (sum_ln + value, newest, count + 1)
        told_count = known_count
        mean = total / known_count if known_count else 0.0
        for place, (key, state) in enumerate(zip(keys, states, strict=True)):
            sum_ln, newest, count = state.get(key(index), (0.0, np.nan, 0))
            leaning = (sum_ln + _LEAN_COUNT * mean) / (count + _LEAN_COUNT)
            start = _HISTORY_COLUMNS_COUNT * place
            columns[index, start : start + 3] = leaning, newest, np.log1p(count)
    return columns
