"""One holder as a download asks it: the calls, and what it may send."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from gcos.artifacts import CHUNK_BYTES
from gcos.clock import Clock
from gcos.contract_net import ArtifactNeed, Holder
from gcos.errors import (
    DigestMismatchError,
    ExhaustedError,
    GcosError,
    InvalidRequestError,
    PeerUnreachableError,
    UnavailableError,
)
from gcos.ids import ArtifactId, SiteId
from gcos.rpc.channels import Channels
from gcos.rpc.chunk_wire import chunk_of
from gcos.rpc.status import translated
from gcos.v1.artifacts_pb2 import GetChunkDigestsRequest, GetManifestRequest, ReadFileRequest
from gcos.v1.artifacts_pb2_grpc import ArtifactServiceStub
from site_agent.manifest_answer import ManifestAnswer, checked_answer
from site_agent.threads import in_thread

if TYPE_CHECKING:
    from gcos.v1.artifacts_pb2_grpc import ArtifactServiceAsyncStub

RATE_MIN_BYTES_PER_S: Final = 100_000
"""A source that is slower than this over a whole request is given up for another one."""

LONG_RTT_S: Final = 0.01
"""Beyond this round trip one connection is limited by its window (LIMITS 2d), so there are more.

Below it one connection is the fastest: it moves a window of 4 MiB in less time than two processes
need to handle it, and several would only take turns (LIMITS 2a: 0.89 against 0.59 GB/s).
"""

LONG_CONNECTION_COUNT: Final = 4
CALLS_PER_CONNECTION: Final = 2
"""So that the next request is at the holder when the one before it ends."""

_READ_FILE: Final = "/gcos.v1.ArtifactService/ReadFile"


class SourceError(Exception):
    """A source failed; another may do better."""

    def __init__(self, holder: Holder, error: GcosError) -> None:
        super().__init__(f"{holder.site_id}: {error.message}")
        self.error = error

    @property
    def is_transient(self) -> bool:
        """The same source may deliver the rest when asked again."""
        return isinstance(self.error, UnavailableError | ExhaustedError)

    @property
    def is_silence(self) -> bool:
        """Nothing came from it: it ended, or is out of reach."""
        return isinstance(self.error, PeerUnreachableError)


class PeerSource:
    """A holder that is asked for one artifact.

    Attributes:
        holder: Who.
        rtt_s: The shortest time in which it answered anything; infinite before.
    """

    def __init__(
        self, holder: Holder, need: ArtifactNeed, *, channels: Channels, clock: Clock, idle_s: float
    ) -> None:
        self.holder = holder
        self.rtt_s = float("inf")
        self._need = need
        self._channels = channels
        self._clock = clock
        self._idle_s = idle_s

    @property
    def site_id(self) -> SiteId:
        """The holder's site."""
        return self.holder.site_id

    @property
    def connection_count(self) -> int:
        """How many connections its distance is worth; one before it is known."""
        is_far = LONG_RTT_S < self.rtt_s < float("inf")
        return LONG_CONNECTION_COUNT if is_far else 1

    async def manifest(self) -> ManifestAnswer:
        """Ask what the artifact consists of.

        Raises:
            SourceError: It does not answer, does not have it, or answers nonsense.
        """
        request = GetManifestRequest(artifact_id=self._need.artifact_id)
        with self._failing():
            stub = self._stub()
            with translated(self.site_id):
                response = await self._timed(stub.GetManifest(request, timeout=self._idle_s))
            return await in_thread(functools.partial(checked_answer, self._need, response))

    async def chunk_digests(self, path: str, offset_bytes: int, chunk_count: int) -> bytes:
        """Ask for the digests of chunks, which are all in the file.

        Raises:
            SourceError: It does not answer, or answers nonsense.
        """
        request = GetChunkDigestsRequest(
            artifact_id=self._need.artifact_id,
            path=path,
            offset_bytes=offset_bytes,
            chunk_count=chunk_count,
        )
        with self._failing():
            stub = self._stub()
            with translated(self.site_id):
                response = await stub.GetChunkDigests(request, timeout=self._idle_s)
            if len(response.digests) != 32 * chunk_count:
                raise InvalidRequestError(f"{self.site_id} sends no digests of chunks")
        return bytes(response.digests)

    @asynccontextmanager
    async def reading(
        self, path: str, offset_bytes: int, size_bytes: int, *, connection: int
    ) -> "AsyncIterator[Reading]":
        """Ask for a part of a file, over one of the connections; the call ends with the block.

        Raises:
            SourceError: The address may not be called.
        """
        request = ReadFileRequest(
            artifact_id=ArtifactId(self._need.artifact_id),
            path=path,
            offset_bytes=offset_bytes,
            length_bytes=size_bytes,
        )
        with self._failing():
            channel = self._channels.bulk(self.holder.address, connection)
        ask: Any = channel.unary_stream(_READ_FILE, ReadFileRequest.SerializeToString)
        timeout_s = self._idle_s + size_bytes / RATE_MIN_BYTES_PER_S
        call = ask(request, timeout=timeout_s)
        try:
            yield Reading(self, call, path, size_bytes)
        finally:
            call.cancel()

    def _stub(self) -> "ArtifactServiceAsyncStub":
        stub: ArtifactServiceAsyncStub = ArtifactServiceStub(
            self._channels.get(self.holder.address)
        )
        return stub

    async def _timed(self, answer: Awaitable[Any]) -> Any:
        began_s = self._clock.protocol_s()
        response = await answer
        self.rtt_s = min(self.rtt_s, self._clock.protocol_s() - began_s)
        return response

    def _failing(self) -> "_Failing":
        return _Failing(self.holder)


class Reading:
    """A part of a file on its way."""

    def __init__(self, source: PeerSource, call: Any, path: str, size_bytes: int) -> None:
        self._source = source
        self._call = call
        self._path = path
        self._rest_bytes = size_bytes
        self._is_first = True
        self._is_stopped = False

    def stop(self) -> None:
        """Let who waits for the next chunk get `None`: somebody else has brought the rest."""
        self._is_stopped = True
        self._call.cancel()

    async def chunk(self) -> memoryview | None:
        """Return the next chunk; None after `stop`.

        Raises:
            SourceError: It does not come, or has another length than it should.
        """
        expected_bytes = min(CHUNK_BYTES, self._rest_bytes)
        message = await self._message()
        if self._is_stopped:
            return None
        with self._source._failing():
            if message is None:
                raise UnavailableError(f"{self._source.site_id} ended {self._path!r} early")
            data = chunk_of(message)
            if len(data) != expected_bytes:
                raise InvalidRequestError(f"{self._source.site_id} sends chunks of an invalid size")
        self._rest_bytes -= expected_bytes
        return data

    async def end(self) -> None:
        """Wait until the source says that there is no more.

        Raises:
            SourceError: There is more than was asked for, or it fails now.
        """
        if await self._message() is not None:
            raise SourceError(
                self._source.holder,
                DigestMismatchError(f"{self._path!r} is longer than it should be"),
            )

    async def _message(self) -> bytes | None:
        """Return the next message; None at the end of the stream."""
        source = self._source
        try:
            with source._failing(), translated(source.site_id):
                async with asyncio.timeout(source._idle_s):
                    read = self._call.read()
                    message = await (source._timed(read) if self._is_first else read)
        except TimeoutError as exc:
            error = PeerUnreachableError(f"{source.site_id} sends nothing any more")
            raise SourceError(source.holder, error) from exc
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._is_stopped and (task is None or not task.cancelling()):
                return None
            raise
        self._is_first = False
        return message if isinstance(message, bytes) else None


class _Failing:
    """Turns an error of the peer into a `SourceError`."""

    __slots__ = ("_holder",)

    def __init__(self, holder: Holder) -> None:
        self._holder = holder

    def __enter__(self) -> None:
        pass

    def __exit__(self, _exc_type: object, exc: BaseException | None, _traceback: object) -> None:
        if isinstance(exc, GcosError):
            raise SourceError(self._holder, exc) from exc
