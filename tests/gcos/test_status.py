"""Errors raised in a servicer reach the caller as the same class, with field and hint."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gcos import errors
from gcos.errors import GcosError, InvalidRequestError, InvalidTaskError, PeerUnreachableError
from gcos.logs import get_logger
from gcos.rpc.channels import Channels
from gcos.rpc.interception import Context
from gcos.rpc.server import serving
from gcos.rpc.status import DETAILS_CHARS_MAX, _error_of, _quoted, translated
from gcos.v1 import artifacts_pb2, artifacts_pb2_grpc

TOKEN = "0123456789abcdef"
HANG_S = 60.0
"""A test that waits longer than this has failed; none depends on how long anything takes."""
CLASSES = [
    cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, GcosError)
]
EXOTIC = "naïve „µ“ 100 % \r\n\x00"


class Raising(artifacts_pb2_grpc.ArtifactServiceServicer):
    """Raises what it is given, in each of the ways a servicer may."""

    def __init__(self) -> None:
        self.error: BaseException = GcosError("unset")
        self.is_closed = asyncio.Event()

    async def GetManifest(
        self, request: artifacts_pb2.GetManifestRequest, context: Context
    ) -> artifacts_pb2.GetManifestResponse:
        if request.artifact_id == "well":
            return artifacts_pb2.GetManifestResponse()
        raise self.error

    async def ReadFile(
        self, request: artifacts_pb2.ReadFileRequest, context: Context
    ) -> AsyncIterator[artifacts_pb2.ReadFileResponse]:
        try:
            for _ in range(request.length_bytes):
                yield artifacts_pb2.ReadFileResponse(data=bytes(1 << 20))
            raise self.error
        finally:
            self.is_closed.set()


class Wired:
    """A server that raises and a stub that calls it."""

    def __init__(self, servicer: Raising, channel: grpc.aio.Channel) -> None:
        self.servicer = servicer
        self.channel = channel
        self.stub: Any = artifacts_pb2_grpc.ArtifactServiceStub(channel)

    async def unary(self, error: BaseException) -> None:
        self.servicer.error = error
        with translated("127.0.0.1:9"):
            await self.stub.GetManifest(artifacts_pb2.GetManifestRequest())

    async def stream(self, error: BaseException, *, after_count: int) -> int:
        self.servicer.error = error
        received = 0
        request = artifacts_pb2.ReadFileRequest(length_bytes=after_count)
        with translated():
            async for _ in self.stub.ReadFile(request, timeout=HANG_S):
                received += 1
        return received


@pytest.fixture
async def wired() -> AsyncIterator[Wired]:
    servicer = Raising()
    async with (
        serving(
            "127.0.0.1:0",
            register=[
                lambda s: artifacts_pb2_grpc.add_ArtifactServiceServicer_to_server(servicer, s)
            ],
            service_names=["gcos.v1.ArtifactService"],
            token=TOKEN,
            log=get_logger(),
            grace_s=0.0,
        ) as running,
        Channels(TOKEN) as channels,
    ):
        yield Wired(servicer, channels.get(running.address))


@pytest.mark.parametrize("cls", CLASSES)
async def test_every_class_survives_the_wire(wired: Wired, cls: type[GcosError]) -> None:
    with pytest.raises(GcosError) as caught:
        await wired.unary(cls(EXOTIC, hint=EXOTIC))
    assert type(caught.value) is cls
    assert caught.value.hint == EXOTIC
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
    assert caught.value.__cause__.code().name == cls.code


async def test_field_and_message_survive_and_the_field_is_not_repeated(wired: Wired) -> None:
    with pytest.raises(InvalidTaskError) as caught:
        await wired.unary(InvalidTaskError("is wrong", field="resources.gpu", line=3))
    assert caught.value.message == "line 3, resources.gpu: is wrong"
    assert caught.value.field == "resources.gpu"


async def test_an_error_inside_a_task_group_is_unwrapped(wired: Wired) -> None:
    group = ExceptionGroup("g", [ExceptionGroup("h", [errors.NoBidError("nobody")])])
    with pytest.raises(errors.NoBidError, match="nobody"):
        await wired.unary(group)


@pytest.mark.parametrize(
    "error", [RuntimeError("secret"), ExceptionGroup("g", [ValueError("secret"), KeyError("b")])]
)
async def test_other_errors_are_internal_and_tell_nothing_but_are_logged(
    wired: Wired, error: Exception
) -> None:
    with structlog.testing.capture_logs() as events, pytest.raises(GcosError) as caught:
        await wired.unary(error)
    assert type(caught.value) is GcosError
    assert "secret" not in str(caught.value.__cause__)
    failed = [event for event in events if event["event"] == "rpc_failed"]
    assert [event["exc_info"] for event in failed] == [error]


async def test_an_error_in_the_midst_of_a_stream_keeps_its_class(wired: Wired) -> None:
    for count in (0, 2):
        with pytest.raises(errors.DigestMismatchError, match="broken"):
            await wired.stream(errors.DigestMismatchError("broken"), after_count=count)


async def test_a_reader_that_leaves_closes_the_stream_and_is_no_failure(wired: Wired) -> None:
    with structlog.testing.capture_logs() as events:
        call = wired.stub.ReadFile(artifacts_pb2.ReadFileRequest(length_bytes=1 << 20))
        await call.read()
        call.cancel()
        async with asyncio.timeout(HANG_S):
            await wired.servicer.is_closed.wait()
    assert not [event for event in events if event["log_level"] == "error"]


@pytest.mark.parametrize("data", [b"\x0a\x02\xff\xff", b"\x0a\x05", b"\xff"])
async def test_bytes_that_are_no_message_are_an_invalid_argument(wired: Wired, data: bytes) -> None:
    unary = wired.channel.unary_unary("/gcos.v1.ArtifactService/GetManifest")
    with pytest.raises(InvalidRequestError, match="no valid message"), translated():
        await unary(data)
    stream: Any = wired.channel.unary_stream("/gcos.v1.ArtifactService/ReadFile")
    with pytest.raises(InvalidRequestError, match="no valid message"), translated():
        await stream(data).read()


async def test_a_message_beyond_the_limit_is_refused_by_either_side(wired: Wired) -> None:
    huge = artifacts_pb2.GetManifestRequest(artifact_id="x" * (5 << 20))
    with pytest.raises(errors.ExhaustedError), translated():
        await wired.stub.GetManifest(huge)


async def test_a_message_too_long_for_a_header_is_cut(wired: Wired) -> None:
    with pytest.raises(errors.NoBidError) as caught:
        await wired.unary(errors.NoBidError("x" * 100_000, hint="y" * 100_000))
    assert len(caught.value.message) == len(caught.value.hint) == DETAILS_CHARS_MAX


async def test_nobody_at_the_address_is_an_unreachable_peer() -> None:
    async with Channels(TOKEN) as channels:
        stub: Any = artifacts_pb2_grpc.ArtifactServiceStub(channels.get("127.0.0.1:1"))
        with (
            pytest.raises(PeerUnreachableError, match=r"127\.0\.0\.1:1 does not answer"),
            translated("127.0.0.1:1"),
        ):
            await stub.GetManifest(artifacts_pb2.GetManifestRequest())


async def test_an_unknown_method_names_the_likely_cause(wired: Wired) -> None:
    with pytest.raises(GcosError, match="does not know this call"), translated():
        await wired.channel.unary_unary("/gcos.v1.ArtifactService/Fly")(b"")


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_a_status_without_our_metadata_becomes_an_error_of_its_code(code: grpc.StatusCode) -> None:
    error = _error_of(grpc.aio.AioRpcError(code, details="why"), "the peer")
    unreachable = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"}
    if code.name in unreachable:
        assert type(error) is PeerUnreachableError
    elif code.name in {cls.code for cls in CLASSES}:
        assert error.code == code.name
    else:
        assert type(error) is GcosError


@given(st.text(max_size=50), st.text(max_size=50))
def test_any_text_may_stand_in_hint_and_field(hint: str, field: str) -> None:
    quoted = _quoted(hint + field)
    assert quoted.isascii()
    assert all(0x20 <= ord(char) < 0x7F for char in quoted)
