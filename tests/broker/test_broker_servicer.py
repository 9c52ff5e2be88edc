"""The broker over real gRPC on loopback, and its process."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from broker.matching import Matchmaker
from broker.registry import BEAT_S, LEASE_S
from broker.servicer import BrokerServicer
from broker.wiring import BrokerConfig, serve
from gcos.accounting import CostScope
from gcos.artifacts import Artifact, ArtifactKind
from gcos.clock import WorldScale
from gcos.errors import GcosError, InvalidRequestError, WrongStateError
from gcos.ids import ArtifactId, SiteId
from gcos.known_sites import KnownSite, Nomination, NominationQuery, Resolution
from gcos.logs import get_logger
from gcos.rpc.channels import Channels
from gcos.rpc.security import write_token
from gcos.rpc.server import serving
from gcos.rpc.status import translated
from gcos.rpc.wire import check_pair, from_proto, to_proto
from gcos.sites import Pool, PoolDigest, Site, SiteDigest
from gcos.tasks import GpuRequest
from gcos.v1 import broker_pb2, broker_pb2_grpc, common_pb2, operator_pb2

TOKEN = "0123456789abcdef"
HANG_S = 60.0
"""A test that waits longer than this has failed; none depends on how long anything takes."""
MODEL = Artifact(ArtifactId("sha256:" + "a" * 64), ArtifactKind.MODEL, "org/tiny", 1000)
SITE = Site(
    SiteId("a"),
    incarnation="first",
    address="127.0.0.1:7701",
    zone="CA-ON",
    pue=1.1,
    pools=(Pool("H100", 8, 1.0, 0.9, 0.1, 2.0),),
    model_cache_bytes=10,
    data_cache_bytes=20,
)
DIGEST = SiteDigest(
    pools=(PoolDigest("H100", 8, 6, 7200.0),),
    carbon_gco2_per_kwh=None,
    price_usd_per_kwh=0.1,
    is_draining=False,
    run_count=1,
    awarded_count=2,
    holdings=(MODEL,),
)


@dataclass
class HandClock:
    """Protocol time that a test moves by hand."""

    now_s: float = 1000.0
    scale: WorldScale = field(default_factory=WorldScale)

    def protocol_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s

    def world_s(self) -> float:
        return self.now_s


@dataclass
class Broker:
    """A stub of a served broker, with records for messages."""

    stub: Any
    clock: HandClock

    async def register(self, site: Site = SITE, digest: SiteDigest = DIGEST) -> float:
        request = broker_pb2.RegisterRequest(
            site=to_proto(site, common_pb2.Site), digest=to_proto(digest, common_pb2.SiteDigest)
        )
        with translated():
            return float((await self.stub.Register(request)).beat_s)

    async def sites(self) -> list[KnownSite]:
        with translated():
            answer = await self.stub.Sites(broker_pb2.SitesRequest())
        return [from_proto(each, KnownSite) for each in answer.sites]

    async def nominate(self, query: NominationQuery) -> Nomination:
        with translated():
            answer = await self.stub.Nominate(to_proto(query, broker_pb2.NominateRequest))
        return from_proto(answer, Nomination)

    async def resolve(self, *references: str) -> list[Resolution]:
        with translated():
            answer = await self.stub.Resolve(broker_pb2.ResolveRequest(references=references))
        return [from_proto(each, Resolution) for each in answer.resolutions]


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    clock = HandClock()
    servicer = BrokerServicer(Matchmaker(), clock=clock, log=get_logger())
    async with (
        serving(
            "127.0.0.1:0",
            register=[lambda s: broker_pb2_grpc.add_BrokerServiceServicer_to_server(servicer, s)],
            service_names=["gcos.v1.BrokerService"],
            token=TOKEN,
            log=get_logger(),
            grace_s=0.0,
        ) as running,
        Channels(TOKEN) as channels,
    ):
        stub = broker_pb2_grpc.BrokerServiceStub(channels.get(running.address))
        yield Broker(stub, clock)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (KnownSite, operator_pb2.KnownSite),
        (NominationQuery, broker_pb2.NominateRequest),
        (Nomination, broker_pb2.NominateResponse),
        (Resolution, broker_pb2.Resolution),
        (Site, common_pb2.Site),
        (SiteDigest, common_pb2.SiteDigest),
    ],
)
def test_every_record_fits_its_message(record: type, message: Any) -> None:
    check_pair(record, message)


async def test_a_registered_site_is_known_as_it_said(broker: Broker) -> None:
    assert await broker.register() == BEAT_S
    broker.clock.now_s += 1.5
    assert await broker.sites() == [KnownSite(SITE, DIGEST, age_s=1.5)]


async def test_a_registered_site_is_nominated_with_the_holders_of_the_needs(
    broker: Broker,
) -> None:
    await broker.register()
    nomination = await broker.nominate(
        NominationQuery(
            GpuRequest(),
            (MODEL.artifact_id,),
            60.0,
            carbon_price_usd_per_kg=0.2,
            scope=CostScope.OPERATOR,
        )
    )
    (nominee,) = nomination.nominees
    assert (nominee.site_id, nominee.address, nominee.zone) == ("a", "127.0.0.1:7701", "CA-ON")
    assert nomination.needs[0].holders[0].address == "127.0.0.1:7701"
    assert nomination.needs[0].holders[0].carbon_gco2_per_kwh is None


async def test_references_resolve_over_the_wire(broker: Broker) -> None:
    await broker.register()
    found, unknown = await broker.resolve("org/tiny", "org/tinny")
    assert found.need is not None
    assert found.need.artifact_id == MODEL.artifact_id
    assert unknown == Resolution("org/tinny", need=None, nearest=("org/tiny",))


async def test_a_second_incarnation_is_refused_then_taken_once_the_first_lapsed(
    broker: Broker,
) -> None:
    await broker.register()
    second = replace(SITE, incarnation="second")
    with pytest.raises(WrongStateError, match="another live agent") as caught:
        await broker.register(second)
    assert "another site id" in caught.value.hint
    broker.clock.now_s += LEASE_S + 0.1
    with structlog.testing.capture_logs() as events:
        await broker.register(second)
    assert [event["event"] for event in events if event["event"] != "rpc"] == [
        "site_lapsed",
        "site_joined",
    ]


async def test_a_request_without_its_parts_is_refused_with_the_field(broker: Broker) -> None:
    with pytest.raises(InvalidRequestError), translated():
        await broker.stub.Register(broker_pb2.RegisterRequest())
    with pytest.raises(InvalidRequestError) as caught, translated():
        await broker.stub.Nominate(broker_pb2.NominateRequest())
    assert caught.value.field == "gpu"
    assert await broker.sites() == []


async def test_the_process_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token = write_token(token_file)
    stopping = asyncio.Event()
    served = asyncio.Event()
    seen: list[dict[str, Any]] = []

    def note(_logger: object, _method: str, event: Any) -> Any:
        seen.append(dict(event))
        if event["event"] == "broker_serving":
            served.set()
        raise structlog.DropEvent

    log = structlog.wrap_logger(
        None, processors=[note], wrapper_class=structlog.make_filtering_bound_logger(0)
    )
    config = BrokerConfig("127.0.0.1:0", token_file=token_file)
    async with asyncio.timeout(HANG_S), asyncio.TaskGroup() as group:
        group.create_task(serve(config, stopping, clock=HandClock(), log=log))
        await served.wait()
        address = seen[0]["address"]
        async with Channels(token) as channels:
            stub: Any = broker_pb2_grpc.BrokerServiceStub(channels.get(address))
            await stub.Sites(broker_pb2.SitesRequest())
        stopping.set()
    assert [event["event"] for event in seen] == ["broker_serving", "rpc", "broker_stopping"]


@pytest.mark.parametrize("token_file", [None, Path("/nonexistent/token")])
async def test_the_process_refuses_to_start_without_a_token(token_file: Path | None) -> None:
    config = BrokerConfig("127.0.0.1:0", token_file=token_file)
    with pytest.raises(GcosError, match="token file"):
        await serve(config, asyncio.Event(), clock=HandClock(), log=get_logger())
