"""Reads what a predictor is asked, by hand: a task of a batch must not take longer than its answer.

What is odd goes through `gcos.rpc.wire`, which knows the words of every error.
"""

from collections.abc import Iterable
from typing import Final

from gcos.durations import PoolSpeed, WorkFeatures
from gcos.errors import InvalidRequestError
from gcos.rpc.wire import from_proto
from gcos.v1 import predictor_pb2
from predictor.features import (
    COUNT_MAX,
    Question,
    Template,
    check_features,
    check_pool,
    template_of,
)

#: Templates remembered: about 2 kB each.
TEMPLATE_COUNT_MAX: Final = 4096
#: Lists of pool types remembered.
POOLS_COUNT_MAX: Final = 64


class QuestionReader:
    """Reads tasks as questions, and remembers their templates by their bytes.

    Pool types too are remembered: who asks mostly names the same.
    """

    def __init__(self) -> None:
        self._templates: dict[bytes, Template] = {}
        self._pools: dict[tuple[tuple[str, float], ...], tuple[PoolSpeed, ...]] = {}

    def questions(self, works: Iterable[predictor_pb2.WorkFeatures]) -> list[Question]:
        """Return one question for each of at least one task, in order.

        Raises:
            InvalidRequestError: A task is outside the stated limits.
        """
        questions: list[Question] = []
        append = questions.append
        known = self._templates.get
        for index, work in enumerate(works):
            token_count = work.token_count
            if not 0 <= token_count <= COUNT_MAX:
                _read(work, index)
            if token_count:  # the key tells all but their number
                work.token_count = 1
                key = work.SerializeToString()
                work.token_count = token_count
            else:
                key = work.SerializeToString()
            append((known(key) or self._new(key, work, index), token_count))
        return questions

    def pools(self, messages: Iterable[predictor_pb2.PoolSpeed]) -> tuple[PoolSpeed, ...]:
        """Return pool types, in order.

        Raises:
            InvalidRequestError: One is outside the stated limits.
        """
        key = tuple([(message.type, message.speed_ratio) for message in messages])
        pools = self._pools.get(key)
        if pools is None:
            pools = tuple(PoolSpeed(*pool) for pool in key)
            for index, pool in enumerate(pools):
                try:
                    check_pool(pool)
                except InvalidRequestError as exc:
                    raise under(f"pools[{index}]", exc) from exc
            if len(self._pools) >= POOLS_COUNT_MAX:
                self._pools = {}
            self._pools[key] = pools
        return pools

    def _new(self, key: bytes, work: predictor_pb2.WorkFeatures, index: int) -> Template:
        template = template_of(_read(work, index))
        if len(self._templates) >= TEMPLATE_COUNT_MAX:
            self._templates.clear()
        self._templates[key] = template
        return template


def under(place: str, error: InvalidRequestError) -> InvalidRequestError:
    """Return `error` with `place` before its field and message."""
    return InvalidRequestError(
        f"{place}: {error.message}", field=f"{place}.{error.field}", hint=error.hint
    )


def _read(work: predictor_pb2.WorkFeatures, index: int) -> WorkFeatures:
    """Return a task that is within its limits."""
    try:
        features = from_proto(work, WorkFeatures)
        check_features(features)
    except InvalidRequestError as exc:
        raise under(f"works[{index}]", exc) from exc
    return features
