"""The predictor on the wire: observations are durable before they are answered."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gcos import codec
from gcos.durations import Observation, PoolSpeed, Prediction, WorkFeatures
from gcos.errors import InvalidRequestError
from gcos.rpc.interception import Context
from gcos.rpc.wire import from_proto, to_proto
from gcos.store import Delete, Put, Store
from gcos.v1 import predictor_pb2, predictor_pb2_grpc
from predictor.diptree import DiPTree
from predictor.features import check_features, check_observation, check_pool

SERVICE_NAME: Final = predictor_pb2.DESCRIPTOR.services_by_name["PredictorService"].full_name

WORK_COUNT_MAX: Final = 1024
POOL_COUNT_MAX: Final = 64
#: Works x pools of one request: about 1.8 MB of answer, below gRPC's limit of 4 MiB.
PREDICTION_COUNT_MAX: Final = 8192
OBSERVATION_COUNT_MAX: Final = 1024
#: Predictions made between two turns of the event loop: about 1 ms.
PREDICTIONS_PER_TURN_COUNT: Final = 32

_TABLE: Final = "observations"


@dataclass(frozen=True, slots=True)
class _PredictRequest:
    works: tuple[WorkFeatures, ...]
    pools: tuple[PoolSpeed, ...]


@dataclass(frozen=True, slots=True)
class _WorkPredictions:
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True, slots=True)
class _ObserveRequest:
    observations: tuple[Observation, ...]


async def recovered(store: Store) -> DiPTree:
    """Return the tree that the observations in `store` make."""
    documents = await store.load(_TABLE)
    observations = [codec.decode(Observation, document) for document in documents.values()]
    tree = DiPTree()
    forgotten = []
    for observation in sorted(observations, key=lambda o: (o.ended_s, o.run_id)):
        _, oldest = tree.observe(observation)
        if oldest is not None:
            forgotten.append(Delete(_TABLE, oldest))
    # A kill between the two commits of an observation leaves more than the tree remembers.
    await store.commit(forgotten)
    return tree


class PredictorServicer(predictor_pb2_grpc.PredictorServiceServicer):
    """Answers `gcos.v1.PredictorService` from one tree."""

    def __init__(self, tree: DiPTree, store: Store) -> None:
        self._tree = tree
        self._store = store
        self._observing = asyncio.Lock()

    async def Predict(
        self, request: predictor_pb2.PredictRequest, _context: Context
    ) -> predictor_pb2.PredictResponse:
        """Predict a batch of tasks, each for several pool types."""
        _check_count(len(request.works), WORK_COUNT_MAX, "works")
        _check_count(len(request.pools), POOL_COUNT_MAX, "pools")
        if len(request.works) * len(request.pools) > PREDICTION_COUNT_MAX:
            raise InvalidRequestError(
                f"{len(request.works)} works x {len(request.pools)} pools are more than"
                f" {PREDICTION_COUNT_MAX} predictions",
                field="works",
                hint="ask in several calls",
            )
        asked = from_proto(request, _PredictRequest)
        for index, pool in enumerate(asked.pools):
            with _placed(f"pools[{index}]"):
                check_pool(pool)
        for index, work in enumerate(asked.works):
            with _placed(f"works[{index}]"):
                check_features(work)
        works_per_turn = max(PREDICTIONS_PER_TURN_COUNT // len(asked.pools), 1)
        response = predictor_pb2.PredictResponse()
        for index, work in enumerate(asked.works):
            if index > 0 and index % works_per_turn == 0:
                await asyncio.sleep(0)  # a large batch must not keep small ones waiting
            answer = _WorkPredictions(self._tree.predict(work, asked.pools))
            response.works.append(to_proto(answer, predictor_pb2.WorkPredictions))
        return response

    async def Observe(
        self, request: predictor_pb2.ObserveRequest, _context: Context
    ) -> predictor_pb2.ObserveResponse:
        """Learn from ended runs, all of the request or none."""
        _check_count(len(request.observations), OBSERVATION_COUNT_MAX, "observations")
        asked = from_proto(request, _ObserveRequest)
        for index, observation in enumerate(asked.observations):
            with _placed(f"observations[{index}]"):
                check_observation(observation)
        # One at a time: of two that tell the same run, the second must see what the first did.
        async with self._observing:
            new_count = await self._learn(asked.observations)
        return predictor_pb2.ObserveResponse(new_count=new_count)

    async def Describe(
        self, _request: predictor_pb2.DescribeRequest, _context: Context
    ) -> predictor_pb2.DescribeResponse:
        """Tell what is known."""
        return to_proto(self._tree.describe(), predictor_pb2.DescribeResponse)

    async def _learn(self, observations: tuple[Observation, ...]) -> int:
        """Store what is new, then learn it; return how many are new."""
        new = [o for o in observations if not self._tree.knows(o.run_id)]
        # In reverse, so that of a run told twice the first stays, as in the tree.
        stored = {o.run_id: Put(_TABLE, o.run_id, codec.encode(o)) for o in reversed(new)}
        await self._store.commit(list(stored.values()))
        learned = [self._tree.observe(observation) for observation in new]
        await self._store.commit(
            [Delete(_TABLE, oldest) for _, oldest in learned if oldest is not None]
        )
        return sum(is_new for is_new, _ in learned)


def _check_count(count: int, limit: int, field: str) -> None:
    if count == 0:
        raise InvalidRequestError(f"the request holds no {field}", field=field)
    if count > limit:
        raise InvalidRequestError(
            f"{count} {field} are more than {limit}", field=field, hint="ask in several calls"
        )


@contextlib.contextmanager
def _placed(place: str) -> Iterator[None]:
    """Put `place` before the field and the message of an error raised inside."""
    try:
        yield
    except InvalidRequestError as exc:
        raise InvalidRequestError(
            f"{place}: {exc.message}", field=f"{place}.{exc.field}", hint=exc.hint
        ) from exc
