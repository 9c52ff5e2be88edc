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
from predictor.records import Forecast, Forecasts

Floats = NDArray[np.float64]
Ids = NDArray[np.intp]
Flags = NDArray[np.bool_]

#: Depth of what is told without any context.
PRIOR_DEPTH: Final = -1
_CONTEXTS: Final = (*CONTEXTS, "prior")  # the last is that at PRIOR_DEPTH
_DEPTHS: Final = {"prior": PRIOR_DEPTH} | {name: depth for depth, name in enumerate(CONTEXTS)}

_QUANTILE_BYTES: Final = 8 * len(LEVELS)
_TYPICAL_TAG: Final = 4 << 3 | 1
_EFFECTIVE_COUNT_TAG: Final = 5 << 3 | 1
#: The end of a `Prediction`, by whether it lacks a typical time: quantiles, then fields 5 and 4:
#: doubles, wire type 1.
_NUMBERS: Final = (struct.Struct(f"<{len(LEVELS)}dBdBd"), struct.Struct(f"<{len(LEVELS)}dBd"))
_EFFECTIVE_COUNT_AT: Final = _QUANTILE_BYTES + 1
_TYPICAL_AT: Final = _EFFECTIVE_COUNT_AT + 9
#: The same before numbers are put in.
_NO_NUMBERS: Final = _NUMBERS[False].pack(
    *[0.0] * len(LEVELS), _EFFECTIVE_COUNT_TAG, 0.0, _TYPICAL_TAG, 0.0
)
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
    def relative(
        cls, ln_quantiles: Floats, known: Place | Forecast, reference_s: float
    ) -> "Answer":
        """Return what trees tell of a row, relative to its reference time."""
        ln_reference = math.log(reference_s)
        quantiles_s = [math.exp(ln_ratio + ln_reference) for ln_ratio in ln_quantiles.tolist()]
        low, high = quantiles_s[0], quantiles_s[-1]
        if low < SECONDS_MIN or high > SECONDS_MAX or sorted(quantiles_s) != quantiles_s:
            quantiles_s = _within(np.array(quantiles_s)).tolist()
        typical_s = known.typical_s
        if typical_s is not None:
            typical_s = min(max(typical_s * reference_s, SECONDS_MIN), SECONDS_MAX)
        return cls(quantiles_s, typical_s, known.effective_count, known.depth - 1, False)


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

    def encoded(self) -> bytes:
        """Return the bytes of the `PredictResponse`."""
        is_alone = len(self.pool_types) == 1
        written = [
            _written(pool_type, row, self.version, is_alone)
            for pool_type, row in zip(cycle(self.pool_types), self.rows)
        ]
        return b"".join(written if is_alone else _by_task(written, len(self.pool_types)))


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
    def blank(cls, count: int, pool_types: tuple[str, ...], version: str) -> "AnswerColumns":
        """Return `count` answers that are still to be put in."""
        return cls(
            pool_types=pool_types,
            quantiles_s=np.empty((count, len(LEVELS))),
            typicals_s=np.empty(count),
            effective_counts=np.empty(count),
            depths=np.empty(count, dtype=np.intp),
            are_cold=np.empty(count, dtype=np.bool_),
            version=version,
        )

    @classmethod
    def relative(
        cls, told: Forecasts, references_s: Floats, pool_types: tuple[str, ...], version: str
    ) -> "AnswerColumns":
        """Return what trees tell of many rows, relative to their reference times."""
        return cls(
            pool_types=pool_types,
            quantiles_s=_within(told.quantiles_s * references_s[:, None]),
            typicals_s=(told.typicals_s * references_s).clip(SECONDS_MIN, SECONDS_MAX),
            effective_counts=told.effective_counts,
            depths=told.depths - 1,
            are_cold=np.zeros(len(references_s), dtype=np.bool_),
            version=version,
        )

    def put(self, at: int, answer: Answer) -> None:
        """Put an answer."""
        self.quantiles_s[at] = answer.quantiles_s
        self.typicals_s[at] = math.nan if answer.typical_s is None else answer.typical_s
        self.effective_counts[at] = answer.effective_count
        self.depths[at] = answer.depth
        self.are_cold[at] = answer.is_cold

    def put_many(self, at: Ids, answers: "AnswerColumns") -> None:
        """Put answers."""
        self.quantiles_s[at] = answers.quantiles_s
        self.typicals_s[at] = answers.typicals_s
        self.effective_counts[at] = answers.effective_counts
        self.depths[at] = answers.depths
        self.are_cold[at] = answers.are_cold

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

    def encoded(self) -> bytes:
        """Return the same bytes as `Answers.encoded`.

        All rows are written into one table, their numbers below each other. What stands before
        them, which differs in length, ends where they begin.
        """
        pool_count = len(self.pool_types)
        pools = np.arange(len(self.depths)) % pool_count
        lack_typical = np.isnan(self.typicals_s)
        shape = (len(_CONTEXTS), 2, 2, pool_count)
        kinds = np.ravel_multi_index((self.depths + 1, self.are_cold, lack_typical, pools), shape)
        (present,) = np.bincount(kinds).nonzero()
        heads, number_sizes = [], []
        for place in zip(*[of.tolist() for of in np.unravel_index(present, shape)], strict=True):
            depth, is_cold, lacks_typical, pool = place
            pool_type, context = self.pool_types[pool], _CONTEXTS[depth - 1]
            heads.append(
                _head(pool_type, context, is_cold, lacks_typical, self.version, pool_count == 1)
            )
            number_sizes.append(_NUMBERS[lacks_typical].size)
        first = max(map(len, heads))
        blank = b"".join([head.rjust(first) + _NO_NUMBERS for head in heads])
        kinds = present.searchsorted(kinds)
        table = np.frombuffer(blank, dtype=np.uint8).reshape(len(heads), -1).take(kinds, axis=0)
        for start, numbers in (
            (first, self.quantiles_s),
            (first + _EFFECTIVE_COUNT_AT, self.effective_counts[:, None]),
            (first + _TYPICAL_AT, self.typicals_s[:, None]),
        ):
            written = numbers.astype("<f8", copy=False).view(np.uint8)
            table[:, start : start + written.shape[1]] = written
        if len(heads) == 1 == pool_count:
            return table[:, : first + number_sizes[0]].tobytes()
        at = table.shape[1] * np.arange(len(table))
        starts = at + np.array([first - len(head) for head in heads]).take(kinds)
        ends = at + (first + np.array(number_sizes)).take(kinds)
        rows = table.tobytes()
        parts = [rows[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        return b"".join(parts if pool_count == 1 else _by_task(parts, pool_count))


def _written(pool_type: str, row: Answer, version: str, is_alone: bool) -> bytes:
    """Return the bytes of a `Prediction` from its head on; see `_head`."""
    lacks_typical = row.typical_s is None
    context = _CONTEXTS[row.depth]
    head = _head(pool_type, context, row.is_cold, lacks_typical, version, is_alone)
    typical = () if lacks_typical else (_TYPICAL_TAG, row.typical_s)
    return head + _NUMBERS[lacks_typical].pack(
        *row.quantiles_s, _EFFECTIVE_COUNT_TAG, row.effective_count, *typical
    )


def _by_task(written: list[bytes], pool_count: int) -> list[bytes]:
    """Return the `WorkPredictions` of each task, with its tag in `PredictResponse`."""
    firsts = range(0, len(written), pool_count)
    tasks = [b"".join(written[first : first + pool_count]) for first in firsts]
    return [_tag(1, len(content)) + content for content in tasks]


def _within(quantiles_s: Floats) -> Floats:
    """Return `quantiles_s`, (..., 19), within what may be told; rounding makes none fall.

    They are changed in place.
    """
    if (quantiles_s[..., 1:] < quantiles_s[..., :-1]).any():
        np.maximum.accumulate(quantiles_s, axis=-1, out=quantiles_s)
    if quantiles_s.min() < SECONDS_MIN or quantiles_s.max() > SECONDS_MAX:
        quantiles_s.clip(SECONDS_MIN, SECONDS_MAX, out=quantiles_s)
    return quantiles_s


@lru_cache(maxsize=256)
def _head(
    pool_type: str,
    context: str,
    is_cold: bool,
    lacks_typical: bool,
    version: str,
    is_alone: bool,
) -> bytes:
    """Return what stands before the quantiles of a `Prediction`, from its tag on.

    If it is alone in its task, the tag of the task's `WorkPredictions` comes first.
    """
    quantiles = _tag(1, _QUANTILE_BYTES)
    head = (
        _field(1, pool_type.encode())
        + bytes((3 << 3, _SOURCE_PREDICTOR))
        + _field(6, context.encode())
        + (bytes((7 << 3, 1)) if is_cold else b"")
        + _field(8, version.encode())
        + _tag(2, len(quantiles) + _QUANTILE_BYTES)
        + quantiles
    )
    for _ in range(1 + is_alone):  # the tag of the prediction, then of its task: both are field 1
        head = _tag(1, len(head) + _NUMBERS[lacks_typical].size) + head
    return head


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
