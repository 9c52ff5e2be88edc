"""Predictions of many tasks as columns, and as the bytes of their message. Pure.

A batch is worked out in arrays. To make a record, then a message, then bytes of each of its rows
would take longer than the prediction, so that the bytes are written at once; they are those of
protobuf (its encoding guide: a tag is field number x 8 + wire type).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gcos.durations import LEVELS, Prediction, PredictionSource, RunTime

Floats = NDArray[np.float64]

_QUANTILE_BYTES: Final = 8 * len(LEVELS)
#: Quantiles, then fields 4 (if told) and 5 of `Prediction`: doubles, wire type 1.
_WITH_TYPICAL: Final = struct.Struct("<BdBd")
_WITHOUT_TYPICAL: Final = struct.Struct("<Bd")
_TYPICAL_TAG: Final = 4 << 3 | 1
_EFFECTIVE_COUNT_TAG: Final = 5 << 3 | 1
#: `PREDICTION_SOURCE_PREDICTOR`; this module writes what a predictor tells.
_SOURCE_PREDICTOR: Final = 1


@dataclass(frozen=True, slots=True)
class Answers:
    """What a predictor tells, by row: for each task in turn, one for each pool type.

    Attributes:
        pool_types: One for each row of a task.
        quantiles_s: (n, 19), each row non-decreasing and within [1e-3, 1e9].
        typicals_s: (n,), None where too few runs are known.
        effective_counts: (n,).
        contexts: (n,), the deepest that was used.
        are_cold: (n,), whether no run of this model on this pool type is known.
        version: Version of the predictor's state.
    """

    pool_types: tuple[str, ...]
    quantiles_s: Floats
    typicals_s: list[float | None]
    effective_counts: list[float]
    contexts: list[str]
    are_cold: list[bool]
    version: str

    def predictions(self) -> tuple[Prediction, ...]:
        """Return all rows as records."""
        pool_count = len(self.pool_types)
        return tuple(
            Prediction(
                pool_type=self.pool_types[index % pool_count],
                run_time=RunTime(tuple(quantiles_s)),
                source=PredictionSource.PREDICTOR,
                typical_s=self.typicals_s[index],
                effective_count=self.effective_counts[index],
                context=self.contexts[index],
                is_cold=self.are_cold[index],
                version=self.version,
            )
            for index, quantiles_s in enumerate(self.quantiles_s.tolist())
        )

    def encoded(self) -> Iterator[bytes]:
        """Yield the bytes of each task's `WorkPredictions`, with its tag in `PredictResponse`."""
        quantiles = self.quantiles_s.astype("<f8").tobytes()
        pool_count = len(self.pool_types)
        told: list[bytes] = []
        rows = zip(
            range(0, len(quantiles), _QUANTILE_BYTES),
            cycle(self.pool_types),
            self.typicals_s,
            self.effective_counts,
            self.contexts,
            self.are_cold,
        )
        for at, pool_type, typical_s, effective_count, context, is_cold in rows:
            before, after = _frame(pool_type, context, is_cold, typical_s is None, self.version)
            numbers = (
                _WITHOUT_TYPICAL.pack(_EFFECTIVE_COUNT_TAG, effective_count)
                if typical_s is None
                else _WITH_TYPICAL.pack(
                    _TYPICAL_TAG, typical_s, _EFFECTIVE_COUNT_TAG, effective_count
                )
            )
            told += (before, quantiles[at : at + _QUANTILE_BYTES], numbers, after)
            if len(told) == 4 * pool_count:
                content = b"".join(told)
                yield _tag(1, len(content)) + content
                told = []


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
    length_bytes = len(before) + _QUANTILE_BYTES + numbers.size + len(after)
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
