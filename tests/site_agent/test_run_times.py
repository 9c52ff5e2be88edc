"""Run times when predictors are away: the answer says where it comes from."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from gcos.durations import (
    Observation,
    Outcome,
    PoolSpeed,
    Prediction,
    PredictionSource,
    RunTime,
    WorkFeatures,
)
from gcos.errors import GcosError, UnavailableError
from gcos.ids import RunId
from gcos.logs import get_logger
from gcos.rpc.channels import Channels
from gcos.rpc.server import serving
from gcos.run_time_snapshot import ContextRunTime, RunTimeSnapshot
from gcos.store import MemoryStore
from gcos.tasks import WorkKind
from predictor.servicer import SERVICE_NAME, PredictorServicer, add_to_server
from predictor.task_predictor import TaskPredictor
from site_agent.peers import Fallback, Peers
from site_agent.run_times import RunTimes

TOKEN = "a token of sixteen characters or more"
H100, A100 = PoolSpeed("H100", 1.0), PoolSpeed("A100", 0.5)
WORK = WorkFeatures(WorkKind.FINE_TUNE, "m", 16_000_000_000, token_count=10_000_000)
TOLD = Prediction("H100", RunTime.lognormal(100.0, 0.2), PredictionSource.PREDICTOR)
KNOWN = ContextRunTime(
    kind=WORK.kind,
    model=WORK.model,
    pool_type="H100",
    has_known_size=True,
    quantiles_ratio=tuple(2.0 + index / 10 for index in range(19)),
    typical_ratio=3.0,
    effective_count=7.0,
    context="kind/model/pool",
)


@dataclass
class PaperPredictors:
    """Predictors that can go away."""

    is_away: bool = False
    document: RunTimeSnapshot | None = field(
        default_factory=lambda: RunTimeSnapshot("v1", (KNOWN,))
    )
    problem: GcosError | None = None
    #: Versions that callers had.
    asked: list[str] = field(default_factory=list)

    async def predict(
        self, _features: WorkFeatures, pools: Sequence[PoolSpeed]
    ) -> tuple[Prediction, ...]:
        if self.is_away:
            raise UnavailableError("away")
        return (TOLD,) * len(pools)

    async def snapshot(self, known_version: str) -> RunTimeSnapshot | None:
        self.asked.append(known_version)
        if self.is_away:
            raise UnavailableError("away")
        if self.problem is not None:
            raise self.problem
        document = self.document
        return None if document is None or document.version == known_version else document


async def sources(run_times: RunTimes) -> list[str]:
    return [p.source.value for p in await run_times.predict(WORK, [H100, A100])]


async def test_a_predictor_that_is_away_is_stood_in_for_by_its_snapshot_then_by_the_prior() -> None:
    predictors = PaperPredictors()
    run_times = RunTimes(predictors, get_logger())
    assert await sources(run_times) == ["PREDICTOR", "PREDICTOR"]
    predictors.is_away = True
    assert await sources(run_times) == ["PRIOR", "PRIOR"]
    assert not await run_times.pull()
    predictors.is_away = False
    assert await run_times.pull()
    predictors.is_away = True
    assert await sources(run_times) == ["SNAPSHOT", "PRIOR"]
    told, _ = await run_times.predict(WORK, [H100, A100])
    assert (told.version, told.context, told.is_cold) == ("v1", "kind/model/pool", False)
    assert told.typical_s == pytest.approx(3.0 / 2.9 * told.run_time.p50_s)


async def test_a_snapshot_that_is_known_is_not_sent_again() -> None:
    predictors = PaperPredictors()
    run_times = RunTimes(predictors, get_logger())
    assert await run_times.pull()
    first = run_times.snapshot
    assert await run_times.pull()
    assert run_times.snapshot is first
    assert predictors.asked == ["", "v1"]


async def test_a_snapshot_that_cannot_be_read_leaves_the_last_one() -> None:
    predictors = PaperPredictors()
    run_times = RunTimes(predictors, get_logger())
    await run_times.pull()
    predictors.problem = GcosError("not JSON")
    assert not await run_times.pull()
    assert run_times.snapshot.version == "v1"


async def test_the_next_predictor_answers_where_the_first_is_away() -> None:
    asked: list[str] = []

    async def ask(address: str) -> str:
        asked.append(address)
        if address == "first":
            raise UnavailableError("away")
        return address

    fallback = Fallback(["first", "second", "third"], "predictor")
    assert await fallback.call(ask) == "second"
    assert await fallback.call(ask) == "second"
    assert asked == ["first", "second", "second"]


@contextlib.asynccontextmanager
async def predictor_process(predictor: TaskPredictor) -> AsyncIterator[str]:
    """Serve a predictor and yield its address."""
    servicer = PredictorServicer(predictor, MemoryStore())
    async with serving(
        "127.0.0.1:0",
        register=[lambda server: add_to_server(servicer, server)],
        service_names=[SERVICE_NAME],
        token=TOKEN,
        log=get_logger(),
    ) as running:
        yield running.address


async def test_several_predictors_hear_of_each_run_and_stand_in_for_each_other() -> None:
    first, second = TaskPredictor(), TaskPredictor()
    async with contextlib.AsyncExitStack() as held, Channels(TOKEN) as channels:
        first_process = await held.enter_async_context(contextlib.AsyncExitStack())
        addresses = [
            await first_process.enter_async_context(predictor_process(first)),
            await held.enter_async_context(predictor_process(second)),
        ]
        peers = Peers(channels, brokers=(), predictors=addresses)
        run_times = RunTimes(peers, get_logger())
        for index in range(3):
            await peers.observe(
                Observation(
                    RunId(f"on-{index}"), WORK, H100.type, Outcome.SUCCEEDED, 500.0, 10.0 * index
                )
            )
        assert first.describe() == second.describe()
        (by_first,) = await run_times.predict(WORK, [H100])
        assert await run_times.pull()
        await first_process.aclose()
        (by_second,) = await run_times.predict(WORK, [H100])
        assert by_second == by_first
        await held.aclose()
        (by_snapshot,) = await run_times.predict(WORK, [H100])
    assert by_first.source is PredictionSource.PREDICTOR
    assert by_snapshot.source is PredictionSource.SNAPSHOT
    assert by_snapshot.run_time.p50_s == pytest.approx(by_first.run_time.p50_s, rel=1e-6)
    assert by_snapshot.version == by_first.version
