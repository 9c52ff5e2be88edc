"""Predictions of many tasks as columns, and as the bytes of their message. Pure.

A batch is worked out in arrays. To make a record, then a message, then bytes of each of its rows
would take longer than the prediction, so that the bytes are written at once; they are those of
protobuf (its encoding guide: a tag is field number x 8 + wire type).
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gcos.durations import (
    LEVELS,
    SECONDS_MAX,
    SECONDS_MIN,
    Prediction,
    PredictionSource,
    RunTime,
)
from predictor.features import CONTEXTS
from predictor.places import Place
from predictor.records import Forecasts

Floats = NDArray[np.float64]
Ids = NDArray[np.intp]
Flags = NDArray[np.bool_]

#: Depth of what is told without any context.
PRIOR_DEPTH: Final = -1
_CONTEXTS: Final = (*CONTEXTS, "prior")  # the last is that at PRIOR_DEPTH
_DEPTHS: Final = {"prior": PRIOR_DEPTH} | {name: depth for depth, name in enumerate(CONTEXTS)}

_QUANTILE_BYTES: Final = 8 * len(LEVELS)
#: Quantiles, then fields 4 (if told) and 5 of `Prediction`: doubles, wire type 1.
_WITH_TYPICAL: Final = struct.Struct(f"<{len(LEVELS)}dBdBd")
_WITHOUT_TYPICAL: Final = struct.Struct(f"<{len(LEVELS)}dBd")
_TYPICAL_TAG: Final = 4 << 3 | 1
_EFFECTIVE_COUNT_TAG: Final = 5 << 3 | 1
#: `PREDICTION_SOURCE_PREDICTOR`; this module writes what a predictor tells.
_SOURCE_PREDICTOR: Final = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What is told of one task on one pool type.

    Attributes:
        quantiles_s: 19, non-decreasing and within [1e-3, 1e9].
        typical_s: None where too few runs are known.
        effective_count: Runs behind it.
        depth: Index in `CONTEXTS` of the deepest that was used; `PRIOR_DEPTH`: none.
        is_cold: No run of this model on this pool type is known.
    """

    quantiles_s: Sequence[float]
    typical_s: float | None
    effective_count: float
    depth: int
    is_cold: bool

    @classmethod
    def of(cls, told: Prediction) -> "Answer":
        """Return a prediction's."""
        return cls(
            quantiles_s=told.run_time.quantiles_s,
            typical_s=told.typical_s,
            effective_count=told.effective_count,
            depth=_DEPTHS[told.context],
            is_cold=told.is_cold,
        )

    @classmethod
    def relative(cls, ln_quantiles: Floats, place: Place, reference_s: float) -> "Answer":
        """Return what trees tell of a row, relative to its reference time."""
        ln_reference = math.log(reference_s)
        quantiles_s = [math.exp(ln_ratio + ln_reference) for ln_ratio in ln_quantiles.tolist()]
        low, high = quantiles_s[0], quantiles_s[-1]
        if low < SECONDS_MIN or high > SECONDS_MAX or sorted(quantiles_s) != quantiles_s:
            quantiles_s = _within(np.array(quantiles_s)).tolist()
        typical_s = place.typical_s
        if typical_s is not None:
            typical_s = min(max(typical_s * reference_s, SECONDS_MIN), SECONDS_MAX)
        depth = min(place.depth, len(CONTEXTS)) - 1
        return cls(quantiles_s, typical_s, place.effective_count, depth, False)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a predictor tells: of each task in turn, one answer for each pool type."""

    pool_types: tuple[str, ...]
    rows: Sequence[Answer]
    version: str

    def predictions(self) -> tuple[Prediction, ...]:
        """Return all rows as records."""
        return tuple(
            Prediction(
                pool_type=pool_type,
                run_time=RunTime(tuple(row.quantiles_s)),
                source=PredictionSource.PREDICTOR,
                typical_s=row.typical_s,
                effective_count=row.effective_count,
                context=_CONTEXTS[row.depth],
                is_cold=row.is_cold,
                version=self.version,
            )
            for pool_type, row in zip(cycle(self.pool_types), self.rows)
        )

    def encoded(self) -> list[bytes]:
        """Return the bytes of each task's `WorkPredictions`, with its tag in `PredictResponse`."""
        written = [
            _written(pool_type, row, self.version)
            for pool_type, row in zip(cycle(self.pool_types), self.rows)
        ]
        return _by_task(written, len(self.pool_types))


@dataclass(frozen=True, slots=True)
class AnswerColumns:
    """The same of many tasks, in columns.

    Attributes:
        pool_types: One for each row of a task.
        quantiles_s: (n, 19), each row non-decreasing and within [1e-3, 1e9].
        typicals_s: (n,), NaN where too few runs are known.
        effective_counts: (n,).
        depths: (n,), index in `CONTEXTS` of the deepest that was used; `PRIOR_DEPTH`: none.
        are_cold: (n,), whether no run of this model on this pool type is known.
        version: Version of the predictor's state.
    """

    pool_types: tuple[str, ...]
    quantiles_s: Floats
    typicals_s: Floats
    effective_counts: Floats
    depths: Ids
    are_cold: Flags
    version: str

    @classmethod
    def blank(cls, task_count: int, pool_types: tuple[str, ...], version: str) -> "AnswerColumns":
        """Return answers that are still to be put in."""
        count = task_count * len(pool_types)
        return cls(
            pool_types=pool_types,
            quantiles_s=np.empty((count, len(LEVELS))),
            typicals_s=np.full(count, np.nan),
            effective_counts=np.zeros(count),
            depths=np.full(count, PRIOR_DEPTH),
            are_cold=np.zeros(count, dtype=np.bool_),
            version=version,
        )

    def put(self, at: int, answer: Answer) -> None:
        """Put an answer."""
        self.quantiles_s[at] = answer.quantiles_s
        self.typicals_s[at] = math.nan if answer.typical_s is None else answer.typical_s
        self.effective_counts[at] = answer.effective_count
        self.depths[at] = answer.depth
        self.are_cold[at] = answer.is_cold

    def put_forecasts(self, at: Ids | slice, told: Forecasts, references_s: Floats) -> None:
        """Put what trees tell of many rows, relative to their reference times."""
        self.quantiles_s[at] = _within(told.quantiles_s * references_s[:, None])
        self.typicals_s[at] = np.clip(told.typicals_s * references_s, SECONDS_MIN, SECONDS_MAX)
        self.effective_counts[at] = told.effective_counts
        self.depths[at] = np.minimum(told.depths, len(CONTEXTS)) - 1

    def predictions(self) -> tuple[Prediction, ...]:
        """Return all rows as records."""
        rows = zip(
            self.quantiles_s.tolist(),
            [
                None if math.isnan(typical_s) else typical_s
                for typical_s in self.typicals_s.tolist()
            ],
            self.effective_counts.tolist(),
            self.depths.tolist(),
            self.are_cold.tolist(),
            strict=True,
        )
        return Answers(self.pool_types, [Answer(*row) for row in rows], self.version).predictions()

    def encoded(self) -> list[bytes]:
        """Return the same bytes as `Answers.encoded`.

        Rows that differ in numbers alone are written together.
        """
        pool_count = len(self.pool_types)
        lacks_typical = np.isnan(self.typicals_s)
        kinds = (self.depths + 1) * 4 + 2 * self.are_cold + lacks_typical
        kinds = kinds * pool_count + np.arange(len(kinds)) % pool_count
        written = [b""] * len(kinds)
        for kind in set(kinds.tolist()):
            (alike,) = (kinds == kind).nonzero()
            first = int(alike[0])
            before, after = _frame(
                self.pool_types[first % pool_count],
                _CONTEXTS[int(self.depths[first])],
                bool(self.are_cold[first]),
                bool(lacks_typical[first]),
                self.version,
            )
            parts: list[bytes | Floats] = [before, self.quantiles_s]
            if not lacks_typical[first]:
                parts += [bytes((_TYPICAL_TAG,)), self.typicals_s[:, None]]
            parts += [bytes((_EFFECTIVE_COUNT_TAG,)), self.effective_counts[:, None], after]
            if pool_count == 1:
                parts.insert(0, _tag(1, _size(parts)))
            rows = _side_by_side(parts, alike)
            if len(alike) == len(written):
                written = rows
                break
            for index, row in zip(alike.tolist(), rows, strict=True):
                written[index] = row
        return written if pool_count == 1 else _by_task(written, pool_count)


def _side_by_side(parts: Sequence[bytes | Floats], rows: Ids) -> list[bytes]:
    """Return what `parts` are of each of `rows`: the same bytes, or numbers of its row, (n, m)."""
    table = np.empty((len(rows), _size(parts)), dtype=np.uint8)
    end = 0
    for part in parts:
        if isinstance(part, bytes):
            start, end = end, end + len(part)
            table[:, start:end] = np.frombuffer(part, dtype=np.uint8)
        else:
            start, end = end, end + 8 * part.shape[1]
            of_rows = part if len(part) == len(rows) else part.take(rows, axis=0)
            table[:, start:end] = of_rows.astype("<f8", copy=False).view(np.uint8)
    written = table.tobytes()
    return [written[first : first + end] for first in range(0, len(written), end)]


def _size(parts: Sequence[bytes | Floats]) -> int:
    return sum(len(part) if isinstance(part, bytes) else 8 * part.shape[1] for part in parts)


def _written(pool_type: str, row: Answer, version: str) -> bytes:
    """Return the bytes of a `Prediction`, with its tag in `WorkPredictions`."""
    typical_s = row.typical_s
    before, after = _frame(pool_type, _CONTEXTS[row.depth], row.is_cold, typical_s is None, version)
    counted = (_EFFECTIVE_COUNT_TAG, row.effective_count)
    if typical_s is None:
        return before + _WITHOUT_TYPICAL.pack(*row.quantiles_s, *counted) + after
    return before + _WITH_TYPICAL.pack(*row.quantiles_s, _TYPICAL_TAG, typical_s, *counted) + after


def _by_task(written: list[bytes], pool_count: int) -> list[bytes]:
    """Return the `WorkPredictions` of each task, with its tag in `PredictResponse`."""
    if pool_count > 1:
        firsts = range(0, len(written), pool_count)
        written = [b"".join(written[first : first + pool_count]) for first in firsts]
    return [_tag(1, len(content)) + content for content in written]


def _within(quantiles_s: Floats) -> Floats:
    """Return `quantiles_s`, (..., 19), within what may be told; rounding makes none fall."""
    within = np.clip(quantiles_s, SECONDS_MIN, SECONDS_MAX)
    if (within[..., 1:] < within[..., :-1]).any():
        within = np.maximum.accumulate(within, axis=-1)
    return within


@lru_cache(maxsize=256)
def _frame(
    pool_type: str, context: str, is_cold: bool, lacks_typical: bool, version: str
) -> tuple[bytes, bytes]:
    """Return what stands before the quantiles and after the numbers of a `Prediction`."""
    run_time = _tag(1, _QUANTILE_BYTES)
    before = (
        _field(1, pool_type.encode())
        + bytes((3 << 3, _SOURCE_PREDICTOR))
        + _tag(2, len(run_time) + _QUANTILE_BYTES)
        + run_time
    )
    after = _field(6, context.encode()) + _field(8, version.encode())
    if is_cold:
        after += bytes((7 << 3, 1))
    numbers = _WITHOUT_TYPICAL if lacks_typical else _WITH_TYPICAL
    length_bytes = len(before) + numbers.size + len(after)
    return _tag(1, length_bytes) + before, after


def _field(number: int, content: bytes) -> bytes:
    """Return a field of bytes, wire type 2."""
    return _tag(number, len(content)) + content


@lru_cache(maxsize=1024)
def _tag(number: int, length_bytes: int) -> bytes:
    """Return tag and length of a field of bytes."""
    written = bytearray((number << 3 | 2,))
    while length_bytes >= 0x80:
        written.append(length_bytes & 0x7F | 0x80)
        length_bytes >>= 7
    written.append(length_bytes)
    return bytes(written)
