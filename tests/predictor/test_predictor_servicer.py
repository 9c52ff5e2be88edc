"""The predictor over real gRPC and SQLite: batches, limits, durability."""

import asyncio
import math
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TypeAlias, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos import codec
from gcos.durations import (
    Observation,
    Outcome,
    PoolSpeed,
    Prediction,
    PredictionSource,
    WorkFeatures,
)
from gcos.errors import InvalidRequestError, UnauthenticatedError, UnavailableError
from gcos.ids import RunId
from gcos.logs import get_logger
from gcos.rpc.channels import Channels
from gcos.rpc.interception import Context
from gcos.rpc.security import write_token
from gcos.rpc.server import serving
from gcos.rpc.status import translated
from gcos.rpc.wire import from_proto, to_proto
from gcos.run_time_snapshot import RunTimeSnapshot, snapshot_predictions
from gcos.store import MemoryStore, Put, SqliteStore, Store, Write
from gcos.tasks import WorkKind
from gcos.v1 import common_pb2, predictor_pb2, predictor_pb2_grpc
from predictor import servicer as limits
from predictor.answers import AnswerColumns, Answers
from predictor.features import (
    COUNT_MAX,
    TOKENS_AT,
    WORK_AT,
    Question,
    ln_work,
    numbers_of,
    question_of,
    reference_at,
    template_of,
)
from predictor.question_wire import QuestionReader, Work, asked_in
from predictor.servicer import SERVICE_NAME, PredictorServicer, add_to_server, recovered
from predictor.task_predictor import TaskPredictor

TOKEN = "a token of sufficient length"
WORK = WorkFeatures(
    WorkKind.EVALUATION, model="llama", model_bytes=10**9, data=("mmlu",), token_count=10**7
)
POOLS = (PoolSpeed("H100", 1.0), PoolSpeed("A100", 0.5))
HANG_S = 60.0
"""A call that takes longer than this has failed; none depends on how long anything takes."""
Stub: TypeAlias = "predictor_pb2_grpc.PredictorServiceAsyncStub"


def run_of(index: int, *, elapsed_s: float = 100.0) -> Observation:
    return Observation(
        RunId(f"eu-{index}.1.1"), WORK, "H100", Outcome.SUCCEEDED, elapsed_s, ended_s=1e9 + index
    )


@asynccontextmanager
async def predicting(
    store: Store, *, tree: TaskPredictor | None = None, shown_token: str = TOKEN
) -> AsyncIterator[Stub]:
    servicer = PredictorServicer(tree or await recovered(store), store)
    async with (
        serving(
            "127.0.0.1:0",
            register=[lambda server: add_to_server(servicer, server)],
            service_names=[SERVICE_NAME],
            token=TOKEN,
            log=get_logger(),
        ) as running,
        Channels(shown_token) as channels,
    ):
        yield predictor_pb2_grpc.PredictorServiceStub(channels.get(running.address))


def predict_request(
    works: Sequence[WorkFeatures], pools: Sequence[PoolSpeed]
) -> predictor_pb2.PredictRequest:
    return predictor_pb2.PredictRequest(
        works=[to_proto(work, predictor_pb2.WorkFeatures) for work in works],
        pools=[to_proto(pool, predictor_pb2.PoolSpeed) for pool in pools],
    )


def observe_request(observations: Sequence[Observation]) -> predictor_pb2.ObserveRequest:
    return predictor_pb2.ObserveRequest(
        observations=[to_proto(o, predictor_pb2.Observation) for o in observations]
    )


async def ask(stub: Stub, works: Sequence[WorkFeatures]) -> list[list[Prediction]]:
    response = await stub.Predict(predict_request(works, POOLS), timeout=HANG_S)
    return [[from_proto(p, Prediction) for p in work.predictions] for work in response.works]


async def test_answers_come_in_the_order_of_works_and_pools() -> None:
    works = [replace(WORK, token_count=10**6 * (1 + index)) for index in range(100)]
    async with predicting(MemoryStore()) as stub:
        answers = await ask(stub, works)
    tree = TaskPredictor()
    assert answers == [list(tree.predict(work, POOLS)) for work in works]


async def test_what_is_observed_is_predicted_and_described() -> None:
    async with predicting(MemoryStore()) as stub:
        first = await stub.Observe(observe_request([run_of(i) for i in range(10)]), timeout=HANG_S)
        again = await stub.Observe(observe_request([run_of(i) for i in range(11)]), timeout=HANG_S)
        known = await stub.Describe(predictor_pb2.DescribeRequest(), timeout=HANG_S)
        ((told, _),) = await ask(stub, [WORK])
    assert (first.new_count, again.new_count) == (10, 1)
    assert (known.finished_count, known.censored_count, known.context_count) == (11, 0, 6)
    assert told.version == known.version
    assert told.run_time.p50_s == pytest.approx(100, rel=0.1)
    assert told.typical_s == pytest.approx(100, rel=0.07)


async def test_a_run_told_twice_in_one_request_is_stored_as_it_is_learned() -> None:
    store = MemoryStore()
    async with predicting(store) as stub:
        twice = [run_of(1, elapsed_s=10.0), run_of(1, elapsed_s=9999.0)]
        answer = await stub.Observe(observe_request(twice), timeout=HANG_S)
        live = await ask(stub, [WORK])
    assert answer.new_count == 1
    async with predicting(store) as stub:
        assert await ask(stub, [WORK]) == live


async def test_observations_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "predictor.sqlite"
    async with SqliteStore.open(path) as store, predicting(store) as stub:
        # Not in the order of their ends.
        for index in (5, 1, 3, 2, 4):
            await stub.Observe(
                observe_request([run_of(index, elapsed_s=10.0 * index)]), timeout=HANG_S
            )
        before = await ask(stub, [WORK])
    async with SqliteStore.open(path) as store, predicting(store) as stub:
        assert await ask(stub, [WORK]) == before


async def test_what_the_tree_forgets_leaves_the_store() -> None:
    store = MemoryStore()
    async with predicting(store, tree=TaskPredictor(observation_count_max=2)) as stub:
        for index in (1, 2, 3, 0):
            await stub.Observe(observe_request([run_of(index)]), timeout=HANG_S)
    assert list(await store.load("observations")) == ["eu-2.1.1", "eu-3.1.1"]


class FullDisk(MemoryStore):
    """A store that takes nothing."""

    async def commit(self, writes: Sequence[Write]) -> None:
        if writes:
            raise UnavailableError("the disk does not answer")


async def test_what_cannot_be_stored_is_not_learned() -> None:
    """Else a repeated call would be answered as known, and lost with the process."""
    async with predicting(FullDisk()) as stub:
        with pytest.raises(UnavailableError), translated():
            await stub.Observe(observe_request([run_of(1)]), timeout=HANG_S)
        known = await stub.Describe(predictor_pb2.DescribeRequest(), timeout=HANG_S)
    assert known.finished_count == 0


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (predict_request([], POOLS), "works"),
        (predict_request([WORK], []), "pools"),
        (predict_request([WORK] * (limits.WORK_COUNT_MAX + 1), POOLS), "works"),
        (predict_request([WORK], [POOLS[0]] * (limits.POOL_COUNT_MAX + 1)), "pools"),
        (predict_request([WORK] * 129, [POOLS[0]] * 64), "works"),
        (predict_request([WORK, replace(WORK, token_count=-1)], POOLS), "works[1].token_count"),
        (predict_request([WORK], [PoolSpeed("H100", 0.0)]), "pools[0].speed_ratio"),
        (
            predict_request([WORK], [PoolSpeed("H100", float("nan"))]),
            "pools[0].speed_ratio",
        ),
    ],
)
async def test_a_bad_question_is_refused_by_field(
    request_: predictor_pb2.PredictRequest, field: str
) -> None:
    async with predicting(MemoryStore()) as stub:
        with pytest.raises(InvalidRequestError) as caught, translated():
            await stub.Predict(request_, timeout=HANG_S)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("observations", "field"),
    [
        ([], "observations"),
        ([run_of(1)] * (limits.OBSERVATION_COUNT_MAX + 1), "observations"),
        ([run_of(1), run_of(2, elapsed_s=-1.0)], "observations[1].elapsed_s"),
        ([run_of(1), run_of(2, elapsed_s=float("nan"))], "observations[1].elapsed_s"),
        ([run_of(1), replace(run_of(2), run_id=RunId(""))], "observations[1].run_id"),
    ],
)
async def test_a_bad_observation_is_refused_with_its_whole_batch(
    observations: list[Observation], field: str
) -> None:
    async with predicting(MemoryStore()) as stub:
        with pytest.raises(InvalidRequestError) as caught, translated():
            await stub.Observe(observe_request(observations), timeout=HANG_S)
        known = await stub.Describe(predictor_pb2.DescribeRequest(), timeout=HANG_S)
    assert caught.value.field == field
    assert known.finished_count == 0


async def test_the_largest_question_is_answered() -> None:
    works = [WORK] * (limits.PREDICTION_COUNT_MAX // limits.POOL_COUNT_MAX)
    pools = [PoolSpeed(f"gpu{index}", 1.0) for index in range(limits.POOL_COUNT_MAX)]
    async with predicting(MemoryStore()) as stub:
        response = await stub.Predict(predict_request(works, pools), timeout=HANG_S)
    assert sum(len(work.predictions) for work in response.works) == limits.PREDICTION_COUNT_MAX


async def test_a_snapshot_is_sent_once_a_version() -> None:
    async with predicting(MemoryStore()) as stub:
        await stub.Observe(observe_request([run_of(i) for i in range(10)]), timeout=HANG_S)
        first = await stub.Snapshot(predictor_pb2.SnapshotRequest(), timeout=HANG_S)
        again = await stub.Snapshot(
            predictor_pb2.SnapshotRequest(known_version=first.version), timeout=5
        )
    snapshot = codec.decode(RunTimeSnapshot, first.document)
    assert (again.version, again.document) == (first.version, b"")
    assert snapshot.version == first.version
    (told,) = snapshot_predictions(snapshot, WORK, POOLS[:1])
    assert told.source is PredictionSource.SNAPSHOT
    assert told.run_time.p50_s == pytest.approx(100, rel=0.1)


async def test_a_better_fit_is_adopted_and_outlives_the_process() -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("lightgbm")
    pytest.importorskip("onnx")
    from predictor.fitting import fit_history
    from predictor.records import Hyperparameters
    from predictor.task_predictor import finished

    is_fitted = asyncio.Event()

    async def refit(observations: Sequence[Observation], in_use: bytes | None) -> bytes | None:
        assert in_use is None
        is_fitted.set()
        hyper = Hyperparameters(tree_count=3, leaf_count_max=8, head_round_count=0)
        return fit_history([finished(o) for o in observations], hyper, seed=0)[0].encoded()

    store = MemoryStore()
    servicer = PredictorServicer(await recovered(store), store)
    context = cast("Context", None)
    async with asyncio.TaskGroup() as group:
        fitting = group.create_task(servicer.keep_fitted(refit, get_logger()))
        runs = [run_of(i, elapsed_s=100.0 + i % 7) for i in range(limits.FIT_COUNT_MIN)]
        await servicer.Observe(observe_request(runs[:-1]), context)
        assert not is_fitted.is_set()
        await servicer.Observe(observe_request(runs[-1:]), context)
        async with asyncio.timeout(HANG_S):
            version = ""
            while version.count("-") != 3:  # the fit's name is its last part
                await asyncio.sleep(0)
                known = await servicer.Describe(predictor_pb2.DescribeRequest(), context)
                version = known.version
        fitting.cancel()
    request = predict_request([WORK], POOLS).SerializeToString()
    before = await servicer.Predict(request, context)
    after = await PredictorServicer(await recovered(store), store).Predict(request, context)
    assert before == after
    (work,) = predictor_pb2.PredictResponse.FromString(before).works
    assert work.predictions[0].version == version


@pytest.mark.parametrize("document", [b"", b"from another version", b"PK\x03\x04 torn"])
async def test_a_fit_that_cannot_be_read_is_dropped_and_the_runs_are_known(document: bytes) -> None:
    store = MemoryStore()
    context = cast("Context", None)
    runs = [run_of(i, elapsed_s=100.0) for i in range(5)]
    await PredictorServicer(await recovered(store), store).Observe(observe_request(runs), context)
    await store.commit([Put("fits", "current", document)])
    predictor = await recovered(store, get_logger())
    assert predictor.finished_count == 5
    assert predictor.structure is None
    assert not await store.load("fits")


@contextmanager
def process(directory: Path, token_file: Path) -> Iterator["subprocess.Popen[str]"]:
    command = "from predictor.commands import predictor_commands; predictor_commands()"
    options = ["--address", "127.0.0.1:0", "--data-dir", directory, "--token-file", token_file]
    child = subprocess.Popen(
        [sys.executable, "-c", command, "run", *map(str, options)],
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def address_of(stderr: IO[str] | None) -> str:
    """Wait for the process to serve."""
    assert stderr is not None
    seen = []
    for line in stderr:
        seen.append(line)
        if "predictor_serving" in line:
            return line.partition('"address": "')[2].partition('"')[0]
    raise AssertionError(f"it does not serve: {''.join(seen)}")


@pytest.mark.live
async def test_a_killed_predictor_knows_what_it_answered(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token = write_token(token_file)
    with process(tmp_path / "data", token_file) as child:
        async with Channels(token) as channels:
            stub = predictor_pb2_grpc.PredictorServiceStub(channels.get(address_of(child.stderr)))
            await stub.Observe(observe_request([run_of(i) for i in range(10)]), timeout=HANG_S)
            before = await ask(stub, [WORK])
            child.send_signal(signal.SIGKILL)
    with process(tmp_path / "data", token_file) as child:
        async with Channels(token) as channels:
            stub = predictor_pb2_grpc.PredictorServiceStub(channels.get(address_of(child.stderr)))
            assert await ask(stub, [WORK]) == before
            child.send_signal(signal.SIGTERM)
            assert child.wait(timeout=HANG_S) == 0


@pytest.mark.live
async def test_a_killed_predictor_goes_on_with_its_fit(tmp_path: Path) -> None:
    """Its trees, and what they learned before and after the fit, are as they were."""
    for library in ("sklearn", "lightgbm", "onnx"):
        pytest.importorskip(library)
    token_file = tmp_path / "token"
    token = write_token(token_file)
    works = [replace(WORK, batch_size_count=2**power) for power in range(6)]
    # Longer by what no context tells: batches of many sizes, each of which is one shape.
    runs = [
        replace(
            run_of(index, elapsed_s=100.0 * 1.7 ** (index % 6) + index % 5),
            features=works[index % 6],
        )
        for index in range(limits.FIT_COUNT_MIN + 20)
    ]
    described = predictor_pb2.DescribeRequest()
    with process(tmp_path / "data", token_file) as child:
        async with Channels(token) as channels:
            stub = predictor_pb2_grpc.PredictorServiceStub(channels.get(address_of(child.stderr)))
            await stub.Observe(observe_request(runs[:-20]), timeout=HANG_S)
            async with asyncio.timeout(2 * HANG_S):
                while (await stub.Describe(described, timeout=HANG_S)).version.count("-") != 3:
                    await asyncio.sleep(0.2)
            await stub.Observe(observe_request(runs[-20:]), timeout=HANG_S)
            before = await ask(stub, works)
            child.send_signal(signal.SIGKILL)
    with process(tmp_path / "data", token_file) as child:
        async with Channels(token) as channels:
            stub = predictor_pb2_grpc.PredictorServiceStub(channels.get(address_of(child.stderr)))
            assert await ask(stub, works) == before


def counting(tree: TaskPredictor) -> list[int]:
    """Return the numbers of questions that `tree` is asked from now on, call by call."""
    asked: list[int] = []
    predict_many = tree.predict_many

    def counted(
        questions: Sequence[Question], pools: Sequence[PoolSpeed]
    ) -> Answers | AnswerColumns:
        asked.append(len(questions))
        return predict_many(questions, pools)

    tree.predict_many = counted  # type: ignore[method-assign]
    return asked


async def test_what_was_asked_before_is_answered_from_memory_until_a_run_ends() -> None:
    tree = TaskPredictor()
    asked = counting(tree)
    other = replace(WORK, token_count=7)
    async with predicting(MemoryStore(), tree=tree) as stub:
        first = await ask(stub, [WORK])
        both = await ask(stub, [WORK, other])
        again = await ask(stub, [WORK])
        await stub.Observe(observe_request([run_of(1)]), timeout=HANG_S)
        after = await ask(stub, [WORK])
    assert asked == [1, 2, 1]
    assert again == first == both[:1]
    assert after[0] == list(tree.predict(WORK, POOLS)) != first[0]


async def test_no_more_answers_are_remembered_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tree = TaskPredictor()
    asked = counting(tree)
    others = [replace(WORK, token_count=count) for count in (7, 8)]
    async with predicting(MemoryStore(), tree=tree) as stub:
        (of_work,) = await ask(stub, [WORK])
        for limit_bytes, count in ((0, 2), (1000, 1)):
            monkeypatch.setattr(limits, "REMEMBERED_BYTES_MAX", limit_bytes)
            asked.clear()
            # One answer takes about 500 bytes; the second makes the first go.
            answers = [await ask(stub, [work]) for work in (*others, others[1], WORK)]
            assert answers[1] == answers[2]
            assert answers[3] == [of_work]
            assert sum(asked) == 2 + count
    assert asked == [1, 1, 1]


async def test_an_answer_during_which_a_run_ended_is_not_remembered() -> None:
    tree = TaskPredictor()
    works = [WORK] * (limits.PREDICTIONS_PER_TURN_WITHOUT_TREES_COUNT + 1)
    asked = counting(tree)
    predict_many = tree.predict_many

    def predicting_while_runs_end(
        questions: Sequence[Question], pools: Sequence[PoolSpeed]
    ) -> Answers | AnswerColumns:
        if len(asked) == 1:  # between the first two turns
            tree.observe(run_of(1))
        return predict_many(questions, pools)

    tree.predict_many = predicting_while_runs_end  # type: ignore[method-assign]
    async with predicting(MemoryStore(), tree=tree) as stub:
        during = await ask(stub, works)
        after = await ask(stub, works)
        again = await ask(stub, works)
    assert during[0] != during[-1] == after[0] == again[-1]
    assert sum(asked) == 2 * len(works)


async def test_once_a_run_has_ended_what_was_last_asked_alone_is_made_ready() -> None:
    tree = TaskPredictor()
    made: list[list[WorkFeatures]] = []

    def making(questions: Sequence[Question], pools: Sequence[PoolSpeed]) -> None:
        assert not questions or tuple(pools) == POOLS
        made.append([template.features for template, _ in questions])

    tree.make_ready = making  # type: ignore[method-assign]
    many = [WORK] * limits.FEW_COUNT
    async with predicting(MemoryStore(), tree=tree) as stub:
        for index, works in enumerate([[], [WORK, WORK], many], start=1):
            if works:
                await ask(stub, works)
            await stub.Observe(observe_request([run_of(index)]), timeout=HANG_S)
    one = template_of(WORK).features
    assert made == [[], [one, one], [one, one]]


async def test_another_declared_speed_is_another_question_and_changes_the_answers() -> None:
    slow = [PoolSpeed(pool.type, pool.speed_ratio / 3) for pool in POOLS]
    async with predicting(MemoryStore()) as stub:
        await stub.Observe(observe_request([run_of(i) for i in range(3)]), timeout=HANG_S)
        told = [
            from_proto(
                (await stub.Predict(predict_request([WORK], pools), timeout=HANG_S))
                .works[0]
                .predictions[1],
                Prediction,
            ).run_time.p50_s
            for pools in (POOLS, slow, POOLS)
        ]
    assert told[0] == told[2] != told[1]


def test_answers_are_written_as_protobuf_writes_them() -> None:
    tree = TaskPredictor()
    for index in range(6):
        tree.observe(run_of(index))
    works = [WORK, replace(WORK, model="new"), replace(WORK, token_count=0, data_bytes=0)]
    answers = tree.predict_many([question_of(work) for work in works], POOLS)
    read = predictor_pb2.PredictResponse.FromString(answers.encoded())
    written = predictor_pb2.PredictResponse(
        works=[
            predictor_pb2.WorkPredictions(
                predictions=[to_proto(p, common_pb2.Prediction) for p in tree.predict(work, POOLS)]
            )
            for work in works
        ]
    )
    assert read == written
    assert {p.typical_s is None for p in answers.predictions()} == {True, False}


def works_in(asked: Sequence[predictor_pb2.WorkFeatures]) -> Sequence[Work]:
    return asked_in(predictor_pb2.PredictRequest(works=asked).SerializeToString()).works


def test_bytes_that_are_no_message_are_refused_by_place() -> None:
    with pytest.raises(InvalidRequestError, match="the request is no valid message"):
        asked_in(b"\xff")
    # Names that are not UTF-8.
    asked = asked_in(b"\x0a\x04\x12\x02\xff\xff" + b"\x12\x04\x0a\x02\xff\xff")
    reader = QuestionReader()
    with pytest.raises(InvalidRequestError, match=r"works\[0\] is no valid message"):
        reader.questions(asked.works)
    with pytest.raises(InvalidRequestError, match=r"pools\[0\] is no valid message"):
        reader.pools(asked.pools)


@given(
    st.builds(
        WorkFeatures,
        st.sampled_from(WorkKind),
        model=st.text(max_size=9),
        model_bytes=st.integers(0, COUNT_MAX),
        data=st.lists(st.text(max_size=5), max_size=3).map(tuple),
        token_count=st.integers(0, COUNT_MAX),
        epoch_count=st.floats(0.01, 9),
        project=st.text(max_size=5),
    )
)
def test_questions_are_read_as_the_converter_reads_them(features: WorkFeatures) -> None:
    reader = QuestionReader()
    for count in (features.token_count, 0, 1, 7):
        work = replace(features, token_count=count)
        asked = [to_proto(work, predictor_pb2.WorkFeatures) for _ in range(2)]
        (template, token_count), (again, _) = reader.questions(works_in(asked))
        assert replace(template.features, token_count=token_count) == work
        assert from_proto(asked[0], WorkFeatures) == work
        assert again is template
        assert math.log(reference_at((template, token_count))) == ln_work(work)
        as_told = list(template.numbers)
        as_told[WORK_AT], as_told[TOKENS_AT] = ln_work(work), math.log1p(count)
        assert tuple(as_told) == numbers_of(work)


@pytest.mark.live
def test_a_second_predictor_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    write_token(token_file)
    with process(tmp_path / "data", token_file) as first:
        address_of(first.stderr)
        with process(tmp_path / "data", token_file) as second:
            assert second.wait(timeout=HANG_S) == 2
            assert second.stderr is not None
            assert f"in use by process {first.pid}" in second.stderr.read()


async def test_a_caller_without_the_token_is_refused() -> None:
    async with predicting(MemoryStore(), shown_token="another token of some length") as stub:
        with pytest.raises(UnauthenticatedError), translated():
            await stub.Describe(predictor_pb2.DescribeRequest(), timeout=HANG_S)
