"""What asking a trained actor costs, features included, beside a bare call of the same session.

The task actor is asked as an agent asks it: offers of 20 starts become features, and these scores
and a choice. The artifact actor is asked as a plan asks it: 20 candidates are taken out of the
plan's table and become features. The bare call runs the same file on rows that lie ready. For a
whole bid of 32 starts, which an agent in this process answers over loopback, the limit is an echo
of the same messages that makes one bare call. No policy of the catalogue has both later starts and
the actor, so a bid has as many options as this only here. Run as `python -m testbed.bench.actor`.
"""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest.mock import patch

import grpc
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from gcos import logs
from gcos.accounting import Charge
from gcos.contract_net import Announcement, ClusterSignals
from gcos.durations import Prediction, PredictionSource, RunTime
from gcos.ids import Fence, SiteId, TaskId
from gcos.rpc.channels import Channels
from gcos.rpc.memory import pin_malloc_thresholds
from gcos.rpc.security import read_token, write_token
from gcos.rpc.wire import to_proto
from gcos.signals import (
    CARBON_UNIT,
    HOUR_S,
    PRICE_UNIT,
    Provenance,
    Signal,
    SiteSignals,
    StepSeries,
)
from gcos.sites import Pool
from gcos.system import SystemClock
from gcos.tasks import GpuRequest, Work
from gcos.v1 import site_pb2, site_pb2_grpc
from policies.baselines.joint import LookaheadBidder
from policies.catalogue import POLICIES, Policy
from policies.features import FEATURE_COUNT, Outlook, SiteState, features_of, reference_usd
from policies.interface import Seen, SiteView
from policies.maccs import artifact_features
from policies.maccs.actor import Actor, actor_path, load_actor, required
from policies.maccs.task_actor import PART, bidder_of, load_task_actor
from policies.offer import PoolOffer, options_of
from policies.options import OptionTable
from site_agent import actors
from site_agent.config import AgentConfig
from site_agent.wiring import run_agent
from testbed.bench import BenchRow
from testbed.samples import FETCH, NOW_S, TERMS

OPTION_COUNT: Final = 20
BID_OPTION_COUNT: Final = 32
ROUND_COUNT: Final = 3000
RPC_ROUND_COUNT: Final = 400
WARM_UP_COUNT: Final = 100
_START_S_MAX: Final = 20.0
_LOOK_S: Final = 0.1
#: DESIGN section 11.
BID_TARGET: Final = 1.3
CALL_TARGET: Final = 2.0
CALL_P99_S: Final = 1e-3
_SITE: Final = SiteId("de")
_POOL: Final = Pool(
    "H100", gpu_count=8, speed_ratio=1.0, active_kw=1.0, idle_kw=0.1, usd_per_gpu_h=2.0
)
_RUN_TIME: Final = RunTime.lognormal(HOUR_S, 0.3)
CLUSTER: Final = ClusterSignals(price_usd_per_kwh=0.1, carbon_gco2_per_kwh=300.0)
STATE: Final = SiteState(
    gpu_count=8,
    pool_gpu_count=8,
    planned_gpu_s=8 * 6 * HOUR_S,
    backlog_gpu_s=8 * 3 * HOUR_S,
    queue_count=2,
    demand_here=1.0,
    demand_elsewhere=4.0,
    price=Outlook(0.06, 0.05),
    carbon=Outlook(300.0, 400.0),
)
_now_s = SystemClock().protocol_s

Rows = NDArray[Any]


def measure() -> list[BenchRow]:
    """Return the rows of both actors and of a bid."""
    return [*_task_rows(), _artifact_row(), asyncio.run(_bid_row())]


def _bare(part: str) -> Callable[[Rows], object]:
    """Return the call that nobody can undercut by much: ready rows into the session of a file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        actor_path(part).read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    feed_name, names = session.get_inputs()[0].name, [session.get_outputs()[0].name]
    return lambda rows: session.run(names, {feed_name: rows})


def announcement_for(option_count: int, now_s: float) -> Announcement:
    """Return a task of which so many starts are feasible: now, and on each hour that follows."""
    first_hour_s = (now_s // HOUR_S + 1) * HOUR_S
    latest_s = first_hour_s + (option_count - 2) * HOUR_S + 1.0
    return Announcement(
        task_id=TaskId("de-1"),
        fence=Fence(1, 1),
        origin=_SITE,
        gpu=GpuRequest("any", 2),
        work=Work(),
        needs=(),
        predictions=(Prediction(_POOL.type, _RUN_TIME, PredictionSource.PRIOR),),
        terms=TERMS,
        deadline_s=latest_s + _RUN_TIME.p90_s,
        may_defer=True,
        cluster=CLUSTER,
    )


def options_for(announcement: Announcement) -> OptionTable:
    """Return what an idle pool offers for the task."""
    day = np.arange(72, dtype=np.float64) % 24
    source = Provenance("bench", "DE", None, None, 0.0, is_estimated=False)
    start_s = NOW_S - HOUR_S
    return options_of(
        PoolOffer(_POOL, _RUN_TIME, earliest_starts=lambda not_before_s: not_before_s),
        announcement,
        signals=SiteSignals(
            price=Signal(StepSeries(start_s, HOUR_S, 0.05 + 0.001 * day), source, PRICE_UNIT),
            carbon=Signal(StepSeries(start_s, HOUR_S, 300.0 + 5.0 * day), source, CARBON_UNIT),
        ),
        pue=1.2,
        ready_s=NOW_S + FETCH.duration_s,
        transfers=Charge(transfer_usd=FETCH.cost_usd, network_gco2=FETCH.carbon_gco2),
    )


def _task_rows() -> list[BenchRow]:
    announcement = announcement_for(OPTION_COUNT, NOW_S)
    options = options_for(announcement)
    assert len(options) == OPTION_COUNT
    actor = required(load_task_actor())
    bidder, bare = bidder_of(actor), _bare(PART)
    view = SiteView(
        site_id=_SITE,
        task_id=announcement.task_id,
        is_origin=True,
        backlog_s=0.0,
        awarded_count=0,
        now_s=NOW_S,
    )

    def see() -> tuple[float, NDArray[np.float32]]:
        reference = reference_usd(announcement, CLUSTER)
        return reference, features_of(
            options, (FETCH,), announcement, STATE, CLUSTER, now_s=NOW_S, reference=reference
        )

    def choose() -> None:
        bidder.choose(options, replace(view, seen=Seen(*see())))

    rows = see()[1].astype(np.float64)
    called = _interleaved(lambda: actor(see()[1]), lambda: bare(rows))
    chosen = _interleaved(choose, lambda: bare(rows))
    p99_s = quantiles((ours for ours, _ in chosen), n=100)[-1]
    note = f"{OPTION_COUNT} starts of one pool; median of {ROUND_COUNT} interleaved calls"
    return [
        _call_row(f"task actor, {OPTION_COUNT} options, features included", called, note),
        BenchRow(
            name=f"features, actor and choice of {OPTION_COUNT} options, p99",
            ours=p99_s * 1e6,
            limit=CALL_P99_S * 1e6,
            ratio=p99_s / CALL_P99_S,
            target=1.0,
            unit="us",
            note="the limit is the budget; at the median "
            f"{median(ours for ours, _ in chosen) * 1e6:.0f} us, "
            f"{median(ours / limit for ours, limit in chosen):.2f} times the bare call",
            is_cost=True,
        ),
    ]


def _artifact_row() -> BenchRow:
    part = artifact_features.PART
    actor = required(load_actor(actor_path(part), part, artifact_features.FEATURES))
    bare = _bare(part)
    told = _told()

    def features() -> Rows:
        table = artifact_features.amounts_of(**told)
        return artifact_features.features_of(table.reshape(-1, artifact_features.FEATURE_COUNT))

    ready = features()
    note = f"{OPTION_COUNT} candidates of a plan; median of {ROUND_COUNT} interleaved calls"
    return _call_row(
        f"artifact actor, {OPTION_COUNT} candidates, features included",
        _interleaved(lambda: actor(features()), lambda: bare(ready)),
        note,
    )


def _told() -> dict[str, Any]:
    """Return what a plan of five artifacts at four sites knows of its candidates."""
    shape = artifact_count, site_count = 5, OPTION_COUNT // 5
    return {
        "saved_usd": np.full(shape, 1.0),
        "squares": np.full(shape, 0.5),
        "task_count": np.full(shape, 3.0),
        "gpu_h": np.full(shape, 5.0),
        "assigned": np.full(shape, 2.0),
        "price_usd": np.full(shape, 0.4),
        "size_gb": np.full(artifact_count, 12.0),
        "kind": np.zeros(artifact_count, np.int64),
        "uses": np.full(artifact_count, 2.0),
        "latest_h": np.full(artifact_count, 6.0),
        "rate_ratio": np.full(site_count, 0.2),
        "planned_ratio": np.full(site_count, 0.4),
        "occupied_ratio": np.full((2, site_count), 0.7),
        "holder_count": np.full(artifact_count, 3),
        "memory_h": 168.0,
    }


def _call_row(name: str, taken_s: Sequence[tuple[float, float]], note: str) -> BenchRow:
    return BenchRow(
        name=name,
        ours=median(ours for ours, _ in taken_s) * 1e6,
        limit=median(limit for _, limit in taken_s) * 1e6,
        ratio=median(ours / limit for ours, limit in taken_s),
        target=CALL_TARGET,
        unit="us",
        note=f"beside a bare call of the session; {note}",
        is_cost=True,
    )


def _interleaved(
    ours: Callable[[], object], limit: Callable[[], object]
) -> list[tuple[float, float]]:
    """Return seconds of both, call by call."""
    taken = [(_timed_s(ours), _timed_s(limit)) for _ in range(WARM_UP_COUNT + ROUND_COUNT)]
    return taken[WARM_UP_COUNT:]


def _timed_s(operation: Callable[[], object]) -> float:
    started_s = _now_s()
    operation()
    return _now_s() - started_s


class _Echo:
    """Answers each announcement with what it was given, after one bare call."""

    def __init__(self, rows: Rows) -> None:
        self._bare = _bare(PART)
        self._rows = rows
        self.answer = b""

    async def announce(
        self, request: site_pb2.AnnounceRequest, context: object
    ) -> site_pb2.AnnounceResponse:
        del request, context
        self._bare(self._rows)
        return site_pb2.AnnounceResponse.FromString(self.answer)


async def _bid_row() -> BenchRow:
    logs.configure("bench", level="error")
    pin_malloc_thresholds()  # as an agent does at its start
    now_s = SystemClock().world_s()
    announcement = announcement_for(BID_OPTION_COUNT, now_s)
    request = site_pb2.AnnounceRequest(
        announcements=[to_proto(announcement, site_pb2.Announcement)]
    )
    echo = _Echo(np.zeros((BID_OPTION_COUNT, FEATURE_COUNT)))
    taken: list[tuple[float, float]] = []
    async with _agent() as stub, _echoing(echo) as echo_stub:
        answer = await _learned_answer(stub, request)
        for _ in range(WARM_UP_COUNT + RPC_ROUND_COUNT):
            started_s = _now_s()
            answer = await stub.Announce(request, timeout=10)
            ours_s = _now_s() - started_s
            echo.answer = answer.SerializeToString()
            started_s = _now_s()
            await echo_stub.Announce(request, timeout=10)
            taken.append((ours_s, _now_s() - started_s))
    taken = taken[WARM_UP_COUNT:]
    return BenchRow(
        name=f"bid of an actor with {BID_OPTION_COUNT} options, RPC, p50",
        ours=median(ours for ours, _ in taken) * 1e6,
        limit=median(limit for _, limit in taken) * 1e6,
        ratio=median(ours / limit for ours, limit in taken),
        target=BID_TARGET,
        unit="us",
        note=f"echo of the same messages + bare ONNX call; {RPC_ROUND_COUNT} interleaved rounds",
        is_cost=True,
    )


async def _learned_answer(
    stub: "site_pb2_grpc.SiteServiceAsyncStub", request: site_pb2.AnnounceRequest
) -> site_pb2.AnnounceResponse:
    """Return the answer of the agent once it has loaded its actor, in the background."""
    async with asyncio.timeout(_START_S_MAX):
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):  # it does not serve yet
                answer = await stub.Announce(request, timeout=10)
                if answer.answers[0].bid.actor.startswith(f"joint+{PART}/"):
                    return answer
            await asyncio.sleep(_LOOK_S)


def _of_full_weight(path: Path, part: str, features: Mapping[str, str]) -> Actor:
    actor = required(load_actor(path, part, features))
    return replace(actor, card=replace(actor.card, residual_scale=1.0))


@contextlib.asynccontextmanager
async def _agent() -> "AsyncIterator[site_pb2_grpc.SiteServiceAsyncStub]":
    """Run an agent in this process, its policy the task actor over starts of two days.

    Agents ask no actor of weight 0, as the shipped one is: here it has its full weight.
    """
    policy = Policy("bench", "joint-lookahead and the task actor", LookaheadBidder, learned=(PART,))
    stopping = asyncio.Event()
    with TemporaryDirectory(prefix="gcos-bench-") as scratch:
        token_file = Path(scratch) / "token"
        write_token(token_file)
        config = AgentConfig(
            site=_SITE,
            data_dir=Path(scratch) / "data",
            token_file=token_file,
            address=_free_address(),
            zone="DE",
            pue=1.2,
            pools=(_POOL,),
            policy=policy.name,
        )
        POLICIES[policy.name] = policy
        try:
            with patch.object(actors, "load_actor", _of_full_weight):
                async with (
                    asyncio.TaskGroup() as group,
                    Channels(read_token(token_file)) as channels,
                ):
                    group.create_task(run_agent(config, SystemClock(), stopping))
                    yield site_pb2_grpc.SiteServiceStub(channels.get(config.address))
                    stopping.set()
        finally:
            del POLICIES[policy.name]


@contextlib.asynccontextmanager
async def _echoing(echo: _Echo) -> "AsyncIterator[site_pb2_grpc.SiteServiceAsyncStub]":
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    method = grpc.unary_unary_rpc_method_handler(
        echo.announce,
        request_deserializer=site_pb2.AnnounceRequest.FromString,
        response_serializer=site_pb2.AnnounceResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("gcos.v1.SiteService", {"Announce": method})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield site_pb2_grpc.SiteServiceStub(channel)
    finally:
        await server.stop(None)


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write(f"{row}\n")
