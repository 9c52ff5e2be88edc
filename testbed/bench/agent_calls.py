"""Calls to an agent: what one that does nothing costs, offers in batches, and durable handoffs.

Servers are processes of their own, and each figure of ours is measured in turns with its limit:

- *no-op*: CPU of the server, all its threads, for a call that names no loser, beside the same call
  to `testbed.bench.bare_echo`. What differs is the token, the log, the status of errors, and what
  the agent does beside;
- *offers*: those that an agent makes for 64 announcements in a call, beside one in each call, with
  as many calls in flight. Each names a model that another site holds, so that an offer counts a
  transfer;
- *handoffs*: awards that an agent accepts from 64 waiters, each answered when the journal has it on
  disk, beside the lower of the same calls to the echo and of the journal alone. A site accepts 256
  runs at most, so every round has an agent of its own. It stages the runs meanwhile, writes that
  down too, and looks for their origin, which is not there.

Run as `python -m testbed.bench agent_calls`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import grpc.aio
from google.protobuf.message import Message

from gcos.accounting import CostScope, LatePenalty
from gcos.artifacts import ArtifactKind
from gcos.contract_net import Announcement, ArtifactNeed, Award, ClusterSignals, Holder, Terms
from gcos.durations import Prediction, PredictionSource, RunTime
from gcos.ids import ArtifactId, Fence, SiteId, TaskId, run_id
from gcos.rpc.security import AUTHORIZATION_KEY
from gcos.rpc.wire import to_proto
from gcos.signals import HOUR_S
from gcos.system import SystemClock
from gcos.tasks import GpuRequest, Work, WorkKind
from gcos.v1 import site_pb2, site_pb2_grpc
from site_agent.site_servicer import ANNOUNCEMENT_COUNT_MAX
from testbed.bench import BenchRow
from testbed.bench.journal import WAITERS_COUNT, journal_rate
from testbed.bench.measured_process import Serving, agent, peer

NO_OP_TARGET: Final = 1.25
OFFERS_TARGET: Final = 8.0
HANDOFFS_TARGET: Final = 0.8
ROUNDS_COUNT: Final = 9
NO_OP_COUNT: Final = 1_000
OFFER_COUNT: Final = 8 * ANNOUNCEMENT_COUNT_MAX
OFFER_CALLS_IN_FLIGHT: Final = 4
WARM_UP_COUNT: Final = 48
AWARD_COUNT: Final = 192
_CALL_S: Final = 30.0
_ORIGIN: Final = SiteId("de")
#: Nobody listens there.
_ORIGIN_ADDRESS: Final = "127.0.0.1:9"
_POOL: Final = "H100"
_TERMS: Final = Terms(
    carbon_price_usd_per_kg=0.2,
    network_kwh_per_gb=0.0065,
    scope=CostScope.OPERATOR,
    late_penalty=LatePenalty(fixed_usd=1.0, per_h_usd=2.0, cap_h=24.0),
)
_PREDICTIONS: Final = (Prediction(_POOL, RunTime.lognormal(HOUR_S, 0.3), PredictionSource.PRIOR),)
_NEED: Final = ArtifactNeed(
    artifact_id=ArtifactId("sha256:" + "ab" * 32),
    kind=ArtifactKind.MODEL,
    name="org/tiny-lm",
    size_bytes=3_000_000_000,
    holders=(Holder(_ORIGIN, zone="DE", address=_ORIGIN_ADDRESS),),
)

_now_s = SystemClock().protocol_s


def measure() -> Iterator[BenchRow]:
    """Yield the rows."""
    with ExitStack() as held:
        served = held.enter_context(agent(_scratch(held)))
        echo = held.enter_context(peer("testbed.bench.bare_echo", scratch=_scratch(held)))
        for in_flight in (1, WAITERS_COUNT):
            yield asyncio.run(_no_op_row(served, echo, in_flight))
        yield asyncio.run(_offers_row(served))
        yield asyncio.run(_handoffs_row(echo))


def _scratch(held: ExitStack) -> Path:
    return Path(held.enter_context(TemporaryDirectory(prefix="gcos-bench-")))


class _Calls:
    """Calls to one server over one channel."""

    def __init__(self, server: Serving, channel: grpc.aio.Channel) -> None:
        self.server = server
        self._stub = site_pb2_grpc.SiteServiceStub(channel)
        self._metadata = ((AUTHORIZATION_KEY, f"Bearer {server.token}"),) if server.token else None

    async def rate(self, method: str, requests: Sequence[Message], in_flight: int) -> float:
        """Make all calls, so many at once, and return how many were answered a second."""
        call, left = getattr(self._stub, method), iter(requests)

        async def in_turn() -> None:
            for request in left:
                answer = await call(request, metadata=self._metadata, timeout=_CALL_S)
                assert _is_granted(answer), f"{method}: {answer}"

        begun_s = _now_s()
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(in_turn())
        return len(requests) / (_now_s() - begun_s)

    async def taken(self, method: str, requests: Sequence[Message], in_flight: int) -> "_Taken":
        """Do the same, and return the server's CPU beside the rate."""
        begun_s = self.server.cpu_s()
        rate = await self.rate(method, requests, in_flight)
        return _Taken(rate, (self.server.cpu_s() - begun_s) / len(requests))


@dataclass(frozen=True, slots=True)
class _Taken:
    """What calls took.

    Attributes:
        rate: Answered calls a second.
        cpu_s: CPU seconds of the server for a call, all threads.
    """

    rate: float
    cpu_s: float


def _is_granted(answer: Message) -> bool:
    """Tell whether an award was accepted, or every announcement answered with an offer."""
    if isinstance(answer, site_pb2.AnnounceResponse):
        return all(each.HasField("bid") for each in answer.answers)
    return not isinstance(answer, site_pb2.AwardResponse) or answer.is_accepted


@asynccontextmanager
async def _calls(server: Serving) -> AsyncIterator[_Calls]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield _Calls(server, channel)


def _cpu_us(found: Sequence[_Taken]) -> str:
    return f"{median(each.cpu_s for each in found) * 1e6:.0f}"


# ---- calls that do nothing --------------------------------------------------------------------


async def _no_op_row(served: Serving, echo: Serving, in_flight: int) -> BenchRow:
    ours: list[float] = []
    limits: list[float] = []
    async with _calls(served) as to_agent, _calls(echo) as to_echo:
        for number in range(ROUNDS_COUNT + 1):
            for costs, calls in ((ours, to_agent), (limits, to_echo)):
                told_nothing = [site_pb2.RejectRequest()] * NO_OP_COUNT
                taken = await calls.taken("Reject", told_nothing, in_flight)
                if number:  # the first round warms connections and heaps
                    costs.append(taken.cpu_s)
    return BenchRow(
        name=f"no-op RPC of an agent, {in_flight} in flight, server CPU",
        ours=median(ours) * 1e6,
        limit=median(limits) * 1e6,
        ratio=median(mine / limit for mine, limit in zip(ours, limits, strict=True)),
        target=NO_OP_TARGET,
        unit="us",
        beside="bare grpc.aio echo",
        note=f"median of {ROUNDS_COUNT} interleaved rounds",
        is_cost=True,
    )


# ---- offers -----------------------------------------------------------------------------------


async def _offers_row(served: Serving) -> BenchRow:
    announced = [_announcement(index) for index in range(OFFER_COUNT)]
    alone = [site_pb2.AnnounceRequest(announcements=[each]) for each in announced]
    count = ANNOUNCEMENT_COUNT_MAX
    together = [
        site_pb2.AnnounceRequest(announcements=announced[first : first + count])
        for first in range(0, OFFER_COUNT, count)
    ]
    ours: list[_Taken] = []
    limits: list[_Taken] = []
    async with _calls(served) as calls:
        for number in range(ROUNDS_COUNT + 1):
            for found, requests in ((ours, together), (limits, alone)):
                taken = await calls.taken("Announce", requests, OFFER_CALLS_IN_FLIGHT)
                each = OFFER_COUNT / len(requests)
                if number:
                    found.append(_Taken(taken.rate * each, taken.cpu_s / each))
    return BenchRow(
        name=f"offers of an agent, {count} in a call",
        ours=median(each.rate for each in ours),
        limit=median(each.rate for each in limits),
        ratio=median(mine.rate / limit.rate for mine, limit in zip(ours, limits, strict=True)),
        target=OFFERS_TARGET,
        unit="offers/s",
        beside="one offer per unary call",
        note=(
            f"an offer takes {_cpu_us(ours)} us of the agent's CPU"
            f" and {_cpu_us(limits)} us in a call of its own; {OFFER_CALLS_IN_FLIGHT} calls in"
            f" flight, median of {ROUNDS_COUNT} interleaved rounds"
        ),
    )


def _announcement(index: int) -> site_pb2.Announcement:
    record = Announcement(
        task_id=_task_id(index),
        fence=Fence(1, 1),
        origin=_ORIGIN,
        gpu=GpuRequest(),
        work=Work(WorkKind.BATCH_INFERENCE),
        needs=(_NEED,),
        predictions=_PREDICTIONS,
        terms=_TERMS,
        deadline_s=SystemClock().world_s() + 6 * HOUR_S,
        cluster=ClusterSignals(price_usd_per_kwh=0.1, carbon_gco2_per_kwh=300.0),
    )
    return to_proto(record, site_pb2.Announcement)


def _task_id(index: int) -> TaskId:
    return TaskId(f"{_ORIGIN}-{index:0>13}")


# ---- handoffs ---------------------------------------------------------------------------------


async def _handoffs_row(echo: Serving) -> BenchRow:
    ours: list[_Taken] = []
    echoes: list[_Taken] = []
    journals: list[float] = []
    async with _calls(echo) as to_echo:
        for _ in range(ROUNDS_COUNT):
            with ExitStack() as held:
                async with _calls(held.enter_context(agent(_scratch(held)))) as to_agent:
                    ours.append(await _awarded(to_agent))
                echoes.append(await _awarded(to_echo))
                journals.append(await journal_rate(_scratch(held) / "journal.db"))
    limits = [min(bare.rate, rate) for bare, rate in zip(echoes, journals, strict=True)]
    return BenchRow(
        name=f"durable handoffs through RPC, {WAITERS_COUNT} waiters",
        ours=median(each.rate for each in ours),
        limit=median(limits),
        ratio=median(mine.rate / limit for mine, limit in zip(ours, limits, strict=True)),
        target=HANDOFFS_TARGET,
        unit="awards/s",
        beside="lower of bare echo and journal",
        note=(
            f"the journal alone does {median(journals):,.0f} rows/s; an award takes"
            f" {_cpu_us(ours)} us of the agent's CPU with its staging, {_cpu_us(echoes)} us of the"
            f" echo's; median of {ROUNDS_COUNT} interleaved rounds"
        ),
    )


async def _awarded(calls: _Calls) -> _Taken:
    requests = [_award(index) for index in range(WARM_UP_COUNT + AWARD_COUNT)]
    await calls.rate("Award", requests[:WARM_UP_COUNT], WAITERS_COUNT)
    return await calls.taken("Award", requests[WARM_UP_COUNT:], WAITERS_COUNT)


def _award(index: int) -> site_pb2.AwardRequest:
    task_id, fence = _task_id(index), Fence(1, 1)
    record = Award(
        run_id=run_id(task_id, fence),
        task_id=task_id,
        fence=fence,
        origin=_ORIGIN,
        origin_address=_ORIGIN_ADDRESS,
        command=("python", "-m", "job"),
        env={"LOG_LEVEL": "info"},
        gpu=GpuRequest(),
        pool_type=_POOL,
        needs=(),
        predictions=_PREDICTIONS,
        terms=_TERMS,
        lease_s=30.0,
        project="default",
    )
    return site_pb2.AwardRequest(award=to_proto(record, site_pb2.Award))
