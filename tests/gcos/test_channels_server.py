"""Servers and channels of ours against each other on loopback."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc.aio
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gcos.errors import (
    ExhaustedError,
    InvalidRequestError,
    PeerUnreachableError,
    UnauthenticatedError,
    WrongStateError,
)
from gcos.logs import get_logger
from gcos.rpc.channels import Channels
from gcos.rpc.interception import Context
from gcos.rpc.memory import pin_malloc_thresholds, settle_collector
from gcos.rpc.server import Running, serving
from gcos.rpc.status import translated
from gcos.v1 import broker_pb2, broker_pb2_grpc

TOKEN = "0123456789abcdef"
NAME = "gcos.v1.BrokerService"
HANG_S = 60.0
"""A test that waits longer than this has failed; none depends on how long anything takes."""


class Peers(broker_pb2_grpc.BrokerServiceServicer):
    """Answers at once, or when it is let go."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.released = asyncio.Event()
        self.peers: list[str] = []

    async def Resolve(
        self, request: broker_pb2.ResolveRequest, context: Context
    ) -> broker_pb2.ResolveResponse:
        self.peers.append(context.peer())
        return broker_pb2.ResolveResponse()

    async def Sites(
        self, request: broker_pb2.SitesRequest, context: Context
    ) -> broker_pb2.SitesResponse:
        self.entered.set()
        await self.released.wait()
        return broker_pb2.SitesResponse()


def served(
    servicer: Peers, address: str = "127.0.0.1:0", **options: Any
) -> AbstractAsyncContextManager[Running]:
    return serving(
        address,
        register=[lambda s: broker_pb2_grpc.add_BrokerServiceServicer_to_server(servicer, s)],
        service_names=[NAME],
        token=TOKEN,
        log=get_logger(),
        **{"grace_s": 0.0, **options},
    )


def stub_of(channel: grpc.aio.Channel) -> Any:
    return broker_pb2_grpc.BrokerServiceStub(channel)


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    async with served(Peers()) as running:
        yield running


@pytest.mark.parametrize("token", ["", "wrong-token-012345", "Bearer", TOKEN + "x", TOKEN[:-1]])
async def test_a_call_with_another_token_is_refused(running: Running, token: str) -> None:
    async with Channels(token) as channels:
        stub = stub_of(channels.get(running.address))
        with pytest.raises(UnauthenticatedError, match="no valid token") as caught, translated():
            await stub.Resolve(broker_pb2.ResolveRequest())
    assert "--token-file" in caught.value.hint


async def test_a_call_without_a_token_is_refused_but_a_health_check_passes(
    running: Running,
) -> None:
    async with grpc.aio.insecure_channel(running.address) as channel:
        with pytest.raises(UnauthenticatedError), translated():
            await stub_of(channel).Resolve(broker_pb2.ResolveRequest(), timeout=HANG_S)
        stream: Any = channel.unary_stream("/gcos.v1.ArtifactService/ReadFile")
        with pytest.raises(UnauthenticatedError), translated():
            await stream(b"", timeout=HANG_S).read()
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=NAME), timeout=HANG_S
        )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_says_what_it_is_told(running: Running) -> None:
    async with Channels(TOKEN) as channels:
        stub: Any = health_pb2_grpc.HealthStub(channels.get(running.address))
        for service in ("", NAME):
            request = health_pb2.HealthCheckRequest(service=service)
            await running.health.set_not_serving()
            answer = await stub.Check(request)
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
            await running.health.set_serving()
            answer = await stub.Check(request)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_the_services(running: Running) -> None:
    async with Channels(TOKEN) as channels:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channels.get(running.address))
        call = stub.ServerReflectionInfo(timeout=HANG_S)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await call.read()
        await call.done_writing()
        names = [service.name for service in answer.list_services_response.service]
    assert NAME in names


async def test_a_taken_port_is_refused_by_name(running: Running) -> None:
    with pytest.raises(WrongStateError, match="is taken") as caught:
        async with served(Peers(), running.address):
            pass
    assert running.address in caught.value.message


async def test_only_loopback_is_served_and_dialled() -> None:
    with pytest.raises(InvalidRequestError, match="not a loopback"):
        async with served(Peers(), "0.0.0.0:0"):
            pass
    async with Channels(TOKEN) as channels:
        with pytest.raises(InvalidRequestError, match="not a loopback"):
            channels.get("example.org:443")


async def test_a_channel_is_kept_and_bulk_channels_are_connections_of_their_own() -> None:
    servicer = Peers()
    async with served(servicer) as running, Channels(TOKEN) as channels:
        assert channels.get(running.address) is channels.get(running.address)
        assert channels.bulk(running.address, 1) is channels.bulk(running.address, 1)
        for channel in (
            channels.get(running.address),
            channels.get(running.address),
            channels.bulk(running.address, 0),
            channels.bulk(running.address, 1),
        ):
            await stub_of(channel).Resolve(broker_pb2.ResolveRequest())
    first, again, *bulk = servicer.peers
    assert first == again
    assert len({first, *bulk}) == 3


async def test_metadata_of_a_call_travel_with_the_token(running: Running) -> None:
    async with Channels(TOKEN) as channels:
        stub = stub_of(channels.get(running.address))
        await stub.Resolve(broker_pb2.ResolveRequest(), metadata=(("gcos-x", "1"),))


async def test_more_calls_than_the_limit_are_refused_at_once() -> None:
    servicer = Peers()
    async with served(servicer, call_count_max=1) as running, Channels(TOKEN) as channels:
        stub = stub_of(channels.get(running.address))
        first = stub.Sites(broker_pb2.SitesRequest())
        await servicer.entered.wait()
        with pytest.raises(ExhaustedError), translated():
            await stub.Resolve(broker_pb2.ResolveRequest())
        servicer.released.set()
        await first


async def test_a_stopping_server_lets_calls_end_and_takes_no_new_ones() -> None:
    servicer = Peers()
    async with Channels(TOKEN) as channels:
        async with served(servicer, grace_s=5.0) as running:
            stub = stub_of(channels.get(running.address))
            first = stub.Sites(broker_pb2.SitesRequest())
            await servicer.entered.wait()
            servicer.released.set()
        await first
        with pytest.raises(PeerUnreachableError), translated():
            await stub.Resolve(broker_pb2.ResolveRequest())


async def test_a_call_beyond_the_grace_is_cut_and_reads_as_unreachable() -> None:
    servicer = Peers()
    async with Channels(TOKEN) as channels:
        async with served(servicer) as running:
            first = stub_of(channels.get(running.address)).Sites(broker_pb2.SitesRequest())
            await servicer.entered.wait()
        with pytest.raises(PeerUnreachableError), translated():
            await first


async def test_each_call_is_one_event_with_its_code() -> None:
    servicer = Peers()
    with structlog.testing.capture_logs() as events:
        async with served(servicer) as running, Channels(TOKEN) as channels:
            stub = stub_of(channels.get(running.address))
            await stub.Resolve(broker_pb2.ResolveRequest())
            with pytest.raises(InvalidRequestError), translated():
                await channels.get(running.address).unary_unary(f"/{NAME}/Resolve")(b"\xff")
    logged = [event for event in events if event["event"] == "rpc"]
    assert [(event["code"], event["log_level"]) for event in logged] == [
        ("OK", "debug"),
        ("INVALID_ARGUMENT", "info"),
    ]
    assert all(event["method"] == f"/{NAME}/Resolve" for event in logged)
    assert all(event["peer"] == servicer.peers[0] for event in logged)
    assert all(event["duration_s"] >= 0 for event in logged)


def test_pinning_malloc_may_be_repeated() -> None:
    pin_malloc_thresholds()
    pin_malloc_thresholds()


def test_a_settled_collector_still_finds_cycles_made_afterwards() -> None:
    class Node:
        def __init__(self) -> None:
            self.itself = self

    thresholds, alive = gc.get_threshold(), Node()
    try:
        settle_collector()
        assert gc.get_freeze_count() > 0
        made = weakref.ref(Node())
        gc.collect()
        assert made() is None
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
    assert alive.itself is alive
