"""The predictor on the wire: observations are durable before they are answered."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio
from google.protobuf import message_factory
from google.protobuf.message import Message

from gcos import codec
from gcos.durations import Observation, PoolSpeed
from gcos.errors import GcosError, InvalidRequestError
from gcos.logs import Log
from gcos.rpc.interception import Context
from gcos.rpc.wire import from_proto, to_proto
from gcos.run_time_snapshot import RunTimeSnapshot
from gcos.store import Delete, Put, Store
from gcos.v1 import predictor_pb2, predictor_pb2_grpc
from predictor.features import Question, check_observation
from predictor.fit import Fit
from predictor.question_wire import QuestionReader, asked_in, placed
from predictor.task_predictor import FEW_COUNT, Structure, TaskPredictor

_SERVICE: Final = predictor_pb2.DESCRIPTOR.services_by_name["PredictorService"]
SERVICE_NAME: Final = _SERVICE.full_name

WORK_COUNT_MAX: Final = 1024
POOL_COUNT_MAX: Final = 64
#: Works x pools of one request: about 1.8 MB of answer, below gRPC's limit of 4 MiB.
PREDICTION_COUNT_MAX: Final = 8192
OBSERVATION_COUNT_MAX: Final = 1024
#: Predictions made between two turns of the event loop: about 3 ms, by trees or by the trie.
PREDICTIONS_PER_TURN_COUNT: Final = 256
PREDICTIONS_PER_TURN_WITHOUT_TREES_COUNT: Final = 32
#: Requests and answers remembered until the next run ends.
REMEMBERED_BYTES_MAX: Final = 4_000_000

#: Runs learned between two turns of the event loop while replaying: about 5 ms.
RUNS_PER_TURN_COUNT: Final = 32
#: Runs from which trees say more than contexts, and the growth after which they are made anew.
FIT_COUNT_MIN: Final = 200
FIT_SHARE: Final = 0.25

_TABLE: Final = "observations"
_FITS: Final = "fits"
_CURRENT: Final = "current"

#: Observations in order and the fit in use, to a better fit; see `predictor.refit`.
Refit = Callable[[Sequence[Observation], bytes | None], Awaitable[bytes | None]]


@dataclass(frozen=True, slots=True)
class _ObserveRequest:
    observations: tuple[Observation, ...]


async def recovered(store: Store, log: Log | None = None) -> TaskPredictor:
    """Return the predictor that the observations and the fit in `store` make.

    A fit of another version is dropped, since the observations are enough to make the next.
    """
    documents = await store.load(_TABLE)
    observations = [codec.decode(Observation, document) for document in documents.values()]
    predictor = TaskPredictor()
    forgotten = []
    for observation in sorted(observations, key=lambda o: (o.ended_s, o.run_id)):
        _, oldest = predictor.observe(observation)
        if oldest is not None:
            forgotten.append(Delete(_TABLE, oldest))
    # A kill between the two commits of an observation leaves more than the predictor remembers.
    await store.commit(forgotten)
    document = (await store.load(_FITS)).get(_CURRENT)
    if document is None:
        return predictor
    try:
        structure = structure_of(document)
    except GcosError as exc:
        if log is not None:
            log.warning("predictor_fit_dropped", reason=str(exc))
        await store.commit([Delete(_FITS, _CURRENT)])
        return predictor
    for _ in predictor.replay(structure, step_count=RUNS_PER_TURN_COUNT):
        await asyncio.sleep(0)
    return predictor


def structure_of(document: bytes) -> Structure:
    """Return the structure of an encoded fit."""
    fit = Fit.decoded(document)
    version = hashlib.blake2b(document, digest_size=4).hexdigest()
    return Structure(blank=fit.tree, until_s=fit.until_s, version=version)


class PredictorServicer(predictor_pb2_grpc.PredictorServiceServicer):
    """Answers `gcos.v1.PredictorService` from one `TaskPredictor`."""

    def __init__(self, predictor: TaskPredictor, store: Store) -> None:
        self._predictor = predictor
        self._store = store
        self._reader = QuestionReader()
        self._remembered = _Remembered()
        #: The last question about few tasks: likely the next, too, once a run has ended.
        self._lately: tuple[Sequence[Question], Sequence[PoolSpeed]] = ((), ())
        self._observing = asyncio.Lock()
        self._snapshot = RunTimeSnapshot("", ())
        self._snapshot_document = b""
        #: Runs known when the last fit was begun.
        self._fitted_count = 0 if predictor.structure is None else predictor.finished_count
        self._fit_due = asyncio.Event()
        self._note_whether_fit_is_due()

    async def Predict(  # type: ignore[override]
        self, request: bytes, _context: Context
    ) -> bytes:
        """Predict a batch of tasks, each for several pool types; from bytes to bytes."""
        answer = self._remembered.recall(self._predictor.generation, request)
        return await self._answer(request) if answer is None else answer

    async def _answer(self, request: bytes) -> bytes:
        """Work out an answer, and remember it."""
        asked = asked_in(request)
        work_count, pool_count = len(asked.works), len(asked.pools)
        _check_count(work_count, WORK_COUNT_MAX, "works")
        _check_count(pool_count, POOL_COUNT_MAX, "pools")
        if work_count * pool_count > PREDICTION_COUNT_MAX:
            raise InvalidRequestError(
                f"{work_count} works x {pool_count} pools are more than"
                f" {PREDICTION_COUNT_MAX} predictions",
                field="works",
                hint="ask in several calls",
            )
        pools = self._reader.pools(asked.pools)
        questions = self._reader.questions(asked.works)
        if work_count * pool_count <= FEW_COUNT:
            self._lately = questions, pools
        has_trees = self._predictor.structure is not None
        per_turn = (
            PREDICTIONS_PER_TURN_COUNT if has_trees else PREDICTIONS_PER_TURN_WITHOUT_TREES_COUNT
        )
        works_per_turn = max(per_turn // pool_count, 1)
        parts, generations = [], set()
        for first in range(0, work_count, works_per_turn):
            if first > 0:
                await asyncio.sleep(0)  # a large batch must not keep small ones waiting
            part = questions[first : first + works_per_turn]
            parts.append(self._predictor.predict_many(part, pools).encoded())
            # Asking may have declared another speed: the generation is that of after.
            generations.add(self._predictor.generation)
        answer = b"".join(parts)
        if len(generations) == 1:  # else something was learned between two turns
            self._remembered.keep(generations.pop(), request, answer)
        return answer

    async def Observe(
        self, request: predictor_pb2.ObserveRequest, _context: Context
    ) -> predictor_pb2.ObserveResponse:
        """Learn from ended runs, all of the request or none."""
        _check_count(len(request.observations), OBSERVATION_COUNT_MAX, "observations")
        asked = from_proto(request, _ObserveRequest)
        for index, observation in enumerate(asked.observations):
            with placed(f"observations[{index}]"):
                check_observation(observation)
        # One at a time: of two that tell the same run, the second must see what the first did.
        async with self._observing:
            new_count = await self._learn(asked.observations)
        return predictor_pb2.ObserveResponse(new_count=new_count)

    async def Describe(
        self, _request: predictor_pb2.DescribeRequest, _context: Context
    ) -> predictor_pb2.DescribeResponse:
        """Tell what is known."""
        return to_proto(self._predictor.describe(), predictor_pb2.DescribeResponse)

    async def Snapshot(
        self, request: predictor_pb2.SnapshotRequest, _context: Context
    ) -> predictor_pb2.SnapshotResponse:
        """Tell what agents need to go on alone."""
        version = self._predictor.describe().version
        if request.known_version == version:
            return predictor_pb2.SnapshotResponse(version=version)
        if self._snapshot.version != version:
            self._snapshot = self._predictor.snapshot()
            self._snapshot_document = codec.encode(self._snapshot)
        return predictor_pb2.SnapshotResponse(version=version, document=self._snapshot_document)

    async def keep_fitted(self, refit: Refit, log: Log) -> None:
        """Refit whenever enough new runs are known, for ever.

        Args:
            refit: Fits observations, given the fit in use, in another process; None: no better.
            log: Told what became of each fit.
        """
        while True:
            await self._fit_due.wait()
            self._fit_due.clear()
            self._fitted_count = self._predictor.finished_count
            in_use = (await self._store.load(_FITS)).get(_CURRENT)
            document = await refit(list(self._predictor.finished()), in_use)
            if document is None:
                log.info("predictor_fit_kept", finished_count=self._fitted_count)
                continue
            # First stored, so that a restart replays under what answers now.
            await self._store.commit([Put(_FITS, _CURRENT, document)])
            structure = structure_of(document)
            for _ in self._predictor.replay(structure, step_count=RUNS_PER_TURN_COUNT):
                await asyncio.sleep(0)
            log.info(
                "predictor_fit_adopted",
                finished_count=self._fitted_count,
                version=structure.version,
            )

    def _note_whether_fit_is_due(self) -> None:
        new_count = self._predictor.finished_count - self._fitted_count
        if new_count >= max(FIT_COUNT_MIN, FIT_SHARE * self._fitted_count):
            self._fit_due.set()

    async def _learn(self, observations: tuple[Observation, ...]) -> int:
        """Store what is new, then learn it; return how many are new."""
        new = [o for o in observations if not self._predictor.knows(o.run_id)]
        # In reverse, so that of a run told twice the first stays, as in the tree.
        stored = {o.run_id: Put(_TABLE, o.run_id, codec.encode(o)) for o in reversed(new)}
        await self._store.commit(list(stored.values()))
        learned = [self._predictor.observe(observation) for observation in new]
        await self._store.commit(
            [Delete(_TABLE, oldest) for _, oldest in learned if oldest is not None]
        )
        self._predictor.make_ready(*self._lately)
        self._note_whether_fit_is_due()
        return sum(is_new for is_new, _ in learned)


def add_to_server(servicer: PredictorServicer, server: grpc.aio.Server) -> None:
    """Let `server` answer with `servicer`.

    As the generated function would, except that `Predict` takes and hands over bytes: messages
    made of them would take as long as a tenth of the prediction.
    """
    handlers = {}
    for method in _SERVICE.methods:
        request = message_factory.GetMessageClass(method.input_type)
        is_bytes = method.name == "Predict"
        handlers[method.name] = grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method.name),
            request_deserializer=None if is_bytes else request.FromString,
            response_serializer=_serialized,
        )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))


def _serialized(answer: bytes | Message) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def _check_count(count: int, limit: int, field: str) -> None:
    if count == 0:
        raise InvalidRequestError(f"the request holds no {field}", field=field)
    if count > limit:
        raise InvalidRequestError(
            f"{count} {field} are more than {limit}", field=field, hint="ask in several calls"
        )


class _Remembered:
    """Answers until the next run ends: whoever plans a task, and then submits it, asks twice."""

    def __init__(self) -> None:
        self._generation = (-1, -1)
        #: By the bytes of their requests.
        self._answers: dict[bytes, bytes] = {}
        self._bytes = 0

    def recall(self, generation: tuple[int, int], request: bytes) -> bytes | None:
        """Return the answer to `request`, or None."""
        return self._answers.get(request) if generation == self._generation else None

    def keep(self, generation: tuple[int, int], request: bytes, answer: bytes) -> None:
        """Remember an answer of `generation`; those of another are forgotten."""
        more_bytes = len(request) + len(answer)
        if generation != self._generation or self._bytes + more_bytes > REMEMBERED_BYTES_MAX:
            self._generation, self._answers, self._bytes = generation, {}, 0
        if more_bytes <= REMEMBERED_BYTES_MAX:
            self._answers[request] = answer
            self._bytes += more_bytes
