"""The predictor: core, RPC, refit and size, each beside its limit.

The limit of the RPC is an echo of the same messages that runs the same ONNX session once on as many
rows: what any service of this graph must pay. Both are served by one process, which does nothing
else, and called from another, as agents call a predictor. New rows are tasks of known models whose
size was never asked for; rows asked again are answered from memory, which lasts until the next run
ends. Core times stand beside the micro-seconds that DESIGN section 11 allows, so that their ratio
is a share of the budget. Run as `python -m testbed.bench predictor`; refit needs scikit-learn and
LightGBM.
"""

import asyncio
import contextlib
import math
import multiprocessing
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from statistics import median, quantiles

import grpc
import numpy as np

from gcos.durations import Observation, Outcome, PoolSpeed, WorkFeatures
from gcos.ids import RunId
from gcos.rpc.memory import pin_malloc_thresholds, settle_collector
from gcos.rpc.wire import to_proto
from gcos.run_time_prior import pool_reference_s
from gcos.seeds import stream
from gcos.store import MemoryStore
from gcos.system import SystemClock
from gcos.tasks import WorkKind
from gcos.v1 import predictor_pb2, predictor_pb2_grpc
from predictor.diptree import DiPTree
from predictor.features import row_of
from predictor.fit import Fit
from predictor.fitting import fit_history, memorize
from predictor.leaf_graph import function_of
from predictor.records import Finished, Hyperparameters, Singles
from predictor.servicer import PredictorServicer, add_to_server
from predictor.task_predictor import Structure, TaskPredictor, finished
from testbed.bench import BenchRow

RUN_COUNT = 16_000
#: Runs that the server of the RPC remembers.
KNOWN_COUNT = 2000
MODEL_COUNT = 40
CORE_ROUND_COUNT = 400
RPC_ROUND_COUNT = 300
BATCH_ROUND_COUNT = 40
BATCH_COUNT = 256
POOL = PoolSpeed("H100", 1.0)
_now_s = SystemClock().protocol_s


def measure() -> list[BenchRow]:
    """Return the rows of the predictor."""
    observations = [_run(index) for index in range(RUN_COUNT)]
    runs = [finished(observation) for observation in observations]
    started_s, cpu_s = _now_s(), _cpu_s()
    fit, _ = fit_history(runs, Hyperparameters(), seed=0)
    refit_s = _now_s() - started_s
    note = f"{_cpu_s() - cpu_s:.1f} s of CPU"
    tree = fit.tree()
    memorize(tree, runs, teaches_head=False)
    rows = [
        _share("refit of 16,000 rows", refit_s * 1e3, 15_000, "ms", note),
        _share("state without the log", (tree.state_bytes + len(fit.graph)) / 1e3, 10_000, "kB"),
        *_core(tree, runs),
    ]
    return [*rows, *asyncio.run(_rpc(fit, observations))]


def _share(name: str, ours: float, limit: float, unit: str, note: str = "") -> BenchRow:
    return BenchRow(
        name=name,
        ours=ours,
        limit=limit,
        ratio=ours / limit,
        target=1.0,
        unit=unit,
        beside="the budget",
        note=note,
        is_cost=True,
    )


def _core(tree: DiPTree, runs: Sequence[Finished]) -> list[BenchRow]:
    update, after = [], []
    predict = [
        _timed_s(lambda run=run: tree.predict(run.row))  # type: ignore[misc]
        for run in runs[:CORE_ROUND_COUNT]
    ]
    for run in runs[:CORE_ROUND_COUNT]:
        ticket = tree.predict(run.row).ticket
        update.append(
            _timed_s(lambda run=run, t=ticket: tree.observe(run.row, run.seconds, t))  # type: ignore[misc]
        )
        after.append(_timed_s(lambda run=run: tree.predict(run.row)))  # type: ignore[misc]
    return [
        _core_row("predict", predict, 150),
        _core_row("predict after an update", after, 150),
        _core_row("update", update, 200),
    ]


def _core_row(name: str, taken_s: Sequence[float], limit_us: float) -> BenchRow:
    quickest_us = quantiles(taken_s, n=10)[0] * 1e6
    note = f"median of {CORE_ROUND_COUNT}, a tenth within {quickest_us:.0f} us"
    return _share(f"predictor core, {name}", median(taken_s) * 1e6, limit_us, "us", note)


def _timed_s(operation: Callable[[], object]) -> float:
    started_s = _now_s()
    operation()
    return _now_s() - started_s


class _Echo(predictor_pb2_grpc.PredictorServiceServicer):
    """Answers what it was given, after one run of the session on as many rows."""

    def __init__(self, graph: bytes, features: Singles) -> None:
        self._session = function_of(graph)
        self._features = features
        self.answer = b""

    async def Predict(  # noqa: N802  the name comes from the .proto file
        self, request: predictor_pb2.PredictRequest, _context: object
    ) -> predictor_pb2.PredictResponse:
        self._session(self._features[: len(request.works)])
        return predictor_pb2.PredictResponse.FromString(self.answer)

    Observe = Describe = Snapshot = None  # type: ignore[assignment]


class _Calls:
    """Calls two servers of one process in turn: the limit, then ours."""

    def __init__(
        self, pipe: Connection, stubs: Sequence["predictor_pb2_grpc.PredictorServiceAsyncStub"]
    ) -> None:
        self._pipe = pipe
        self._stubs = stubs

    async def row(self, name: str, rounds: int, ask: "_Question") -> BenchRow:
        """Return the row of `rounds` questions, each asked of both."""
        taken_s: list[list[float]] = [[], []]
        for _ in range(rounds):
            request = await ask()
            for stub, times_s in zip(self._stubs, taken_s, strict=True):
                started_s = _now_s()
                answer = await stub.Predict(request, timeout=10)
                times_s.append(_now_s() - started_s)
            self._pipe.send_bytes(answer.SerializeToString())
        limit, ours = (median(times_s[1:]) * 1e6 for times_s in taken_s)
        return BenchRow(
            name=f"prediction RPC, {name}, p50",
            ours=ours,
            limit=limit,
            ratio=ours / limit,
            target=1.2,
            unit="us",
            beside="echo of the same + ONNX session",
            note=f"{rounds} interleaved rounds",
            is_cost=True,
        )


async def _rpc(fit: Fit, observations: Sequence[Observation]) -> list[BenchRow]:
    pin_malloc_thresholds()  # as every process of ours does at its start
    works = [observation.features for observation in observations[-BATCH_COUNT:]]
    later = iter(range(RUN_COUNT, 2 * RUN_COUNT))
    context = multiprocessing.get_context("spawn")
    pipe, served = context.Pipe()
    server = context.Process(
        target=_serve, args=(served, fit, observations[-KNOWN_COUNT:], works), daemon=True
    )
    server.start()
    served.close()
    async with contextlib.AsyncExitStack() as held:
        held.callback(server.join)
        held.callback(pipe.close)  # ends the server
        stubs = []
        for port in await asyncio.to_thread(pipe.recv):
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            await held.enter_async_context(channel)
            stubs.append(predictor_pb2_grpc.PredictorServiceStub(channel))
        calls = _Calls(pipe, stubs)

        def asking(count: int, *, is_new: bool, is_taught: bool = False) -> _Question:
            later_or_none = later if is_new else None
            return _Question(works[:count], later_or_none, stubs[-1] if is_taught else None)

        return [
            await calls.row("1 new row", RPC_ROUND_COUNT, asking(1, is_new=True)),
            await calls.row("1 row asked again", RPC_ROUND_COUNT, asking(1, is_new=False)),
            await calls.row(
                "1 new row after an update",
                RPC_ROUND_COUNT,
                asking(1, is_new=True, is_taught=True),
            ),
            await calls.row("256 new rows", BATCH_ROUND_COUNT, asking(BATCH_COUNT, is_new=True)),
            await calls.row(
                "256 rows asked again", BATCH_ROUND_COUNT, asking(BATCH_COUNT, is_new=False)
            ),
        ]


def _serve(
    pipe: Connection, fit: Fit, known: Sequence[Observation], works: Sequence[WorkFeatures]
) -> None:
    """Serve echo and predictor, tell their ports, and take the echo's answers until the end."""
    pin_malloc_thresholds()
    predictor = TaskPredictor()
    for observation in known:
        predictor.observe(observation)
    structure = Structure(blank=fit.tree, until_s=math.inf, version="bench")
    for _ in predictor.replay(structure, step_count=RUN_COUNT):
        pass
    tree = fit.tree()
    memorize(tree, [finished(o) for o in known], teaches_head=False)
    echo = _Echo(fit.graph, np.stack([tree.features(row_of(work, POOL.type)) for work in works]))
    ours = PredictorServicer(predictor, MemoryStore())
    add_echo = predictor_pb2_grpc.add_PredictorServiceServicer_to_server
    asyncio.run(_served(pipe, echo, [partial(add_echo, echo), partial(add_to_server, ours)]))


async def _served(
    pipe: Connection, echo: _Echo, services: Sequence[Callable[[grpc.aio.Server], None]]
) -> None:
    is_over = asyncio.Event()

    def hear() -> None:
        try:
            echo.answer = pipe.recv_bytes()
        except EOFError:
            loop.remove_reader(pipe.fileno())
            is_over.set()

    loop = asyncio.get_running_loop()
    loop.add_reader(pipe.fileno(), hear)
    async with contextlib.AsyncExitStack() as held:
        ports = []
        for add in services:
            server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
            add(server)
            ports.append(server.add_insecure_port("127.0.0.1:0"))
            await server.start()
            held.push_async_callback(server.stop, None)
        settle_collector()  # as a predictor does once it serves; the limit gains by it too
        pipe.send(ports)
        await is_over.wait()


@dataclass(frozen=True, slots=True)
class _Question:
    """Makes requests.

    Attributes:
        works: Are asked for.
        fresh: Numbers that change the size of each work in each request; None: always the same.
        taught: Is told of a run that has ended before each request; None: nothing ends.
    """

    works: Sequence[WorkFeatures]
    fresh: Iterator[int] | None
    taught: "predictor_pb2_grpc.PredictorServiceAsyncStub | None"

    async def __call__(self) -> predictor_pb2.PredictRequest:
        """Return the next request."""
        more = 0 if self.fresh is None else next(self.fresh)
        if self.taught is not None:
            ended = to_proto(_run(more), predictor_pb2.Observation)
            await self.taught.Observe(
                predictor_pb2.ObserveRequest(observations=[ended]), timeout=10
            )
        return predictor_pb2.PredictRequest(
            works=[
                to_proto(
                    replace(work, token_count=work.token_count + 7 * more),
                    predictor_pb2.WorkFeatures,
                )
                for work in self.works
            ],
            pools=[to_proto(POOL, predictor_pb2.PoolSpeed)],
        )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _run(index: int) -> Observation:
    rng = stream(0, "bench", index)
    features = WorkFeatures(
        WorkKind.BATCH_INFERENCE,
        model=f"m{rng.integers(MODEL_COUNT)}",
        model_bytes=16_000_000_000,
        data=(f"d{rng.integers(5)}",),
        token_count=int(10 ** rng.uniform(5, 8)),
        batch_size_count=int(2 ** rng.uniform(0, 6)),
    )
    factor = features.batch_size_count**0.7 * math.exp(0.2 * rng.normal())
    elapsed_s = factor * pool_reference_s(features, 1.0)
    return Observation(
        RunId(f"eu-{index}"), features, POOL.type, Outcome.SUCCEEDED, elapsed_s, 100.0 * index
    )
