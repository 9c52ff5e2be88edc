"""Serves complete artifacts to peers: manifests, digests of chunks, and the bytes."""

import asyncio
import functools
import os
from collections import OrderedDict
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from gcos.artifacts import CHUNK_BYTES, FileEntry
from gcos.errors import DigestMismatchError, InvalidRequestError, PeerUnreachableError
from gcos.ids import ArtifactId, is_artifact_id
from gcos.rpc.chunk_wire import chunk_header
from gcos.rpc.interception import Context, Handler
from gcos.rpc.wire import to_proto
from gcos.v1.artifacts_pb2 import (
    GetChunkDigestsRequest,
    GetChunkDigestsResponse,
    GetManifestRequest,
    GetManifestResponse,
    ReadFileRequest,
)
from site_agent.artifact_store import ArtifactStore
from site_agent.digest_notes import DigestNotes, chunk_digest
from site_agent.manifest_answer import ManifestAnswer
from site_agent.threads import in_thread

IDLE_S: Final = 20.0
"""Protocol seconds after which a peer is gone that sends no chunk, or takes none."""

DIGEST_COUNT_MAX: Final = 4096
"""Digests in one answer: 128 KiB, for 4 GiB of a file."""

_SERVICE: Final = "gcos.v1.ArtifactService"
_SEGMENT_CHUNKS: Final = 64
#: Digests of 64 GiB, about 2 MB.
_SEGMENT_COUNT_MAX: Final = 1024


class ArtifactServicer:
    """Serves complete artifacts of `store`."""

    def __init__(self, store: ArtifactStore, *, idle_s: float = IDLE_S) -> None:
        self._store = store
        self._idle_s = idle_s
        #: Of artifacts, to other agents.
        self.sent_bytes = 0
        #: Digests of aligned runs of chunks, the one used last at the end.
        self._segments: OrderedDict[tuple[ArtifactId, str, int], bytes] = OrderedDict()
        #: The notes that were read last.
        self._notes: tuple[ArtifactId, DigestNotes] | None = None
        #: One run is hashed at a time: whoever asks for much keeps one core busy at most.
        self._hashing = asyncio.Lock()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve at `server`; chunks are encoded here, without a message object for each."""
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        handlers: dict[str, Handler] = {
            "GetManifest": unary(
                self.GetManifest,
                GetManifestRequest.FromString,
                GetManifestResponse.SerializeToString,
            ),
            "GetChunkDigests": unary(
                self.GetChunkDigests,
                GetChunkDigestsRequest.FromString,
                GetChunkDigestsResponse.SerializeToString,
            ),
            "ReadFile": stream(self.ReadFile, ReadFileRequest.FromString),
        }
        generic = grpc.method_handlers_generic_handler(_SERVICE, handlers)
        server.add_generic_rpc_handlers((generic,))

    async def GetManifest(  # noqa: N802  named by the protocol
        self, request: GetManifestRequest, context: object
    ) -> GetManifestResponse:
        """Read what an artifact consists of.

        Raises:
            InvalidRequestError: The id is none.
            ArtifactNotFoundError: It is not complete here.
            DigestMismatchError: The copy is known to be damaged.
        """
        del context
        record = self._store.whole_record_of(checked_id(request.artifact_id))

        def answer() -> GetManifestResponse:
            # Some 100 ms for the longest manifest.
            found = ManifestAnswer(record.artifact(), record.manifest)
            return to_proto(found, GetManifestResponse)

        return await in_thread(answer)

    async def GetChunkDigests(  # noqa: N802
        self, request: GetChunkDigestsRequest, context: object
    ) -> GetChunkDigestsResponse:
        """Read the digests of some chunks of a file.

        Raises:
            InvalidRequestError: The id is none, or the chunks are not those of the file.
            ArtifactNotFoundError: The artifact is not complete here, or has no such file.
            DigestMismatchError: The file on disk is shorter than its manifest says, or gone.
        """
        del context
        artifact_id = checked_id(request.artifact_id)
        entry = self._store.entry_of(artifact_id, request.path)
        first, end = _chunks_of(request, entry)
        segments = range(first // _SEGMENT_CHUNKS, -(-end // _SEGMENT_CHUNKS))
        self._store.cache.open_reader(artifact_id)
        try:
            found = b"".join(
                [await self._segment(artifact_id, entry, number) for number in segments]
            )
        finally:
            self._store.cache.close_reader(artifact_id)
        skipped = first - segments.start * _SEGMENT_CHUNKS
        return GetChunkDigestsResponse(digests=found[skipped * 32 : (skipped + end - first) * 32])

    # A coroutine that writes, not a generator: only so can the wait for a reader that takes nothing
    # be bounded, who would keep the artifact from eviction for ever.
    async def ReadFile(  # noqa: N802
        self, request: ReadFileRequest, context: Context
    ) -> None:
        """Read a part of one file in chunks of 1 MiB; the artifact stays meanwhile.

        Raises:
            InvalidRequestError: The id is none, or the part is not inside the file.
            ArtifactNotFoundError: The artifact is not complete here, or has no such file.
            DigestMismatchError: The file on disk is shorter than its manifest says, or gone.
            PeerUnreachableError: The reader takes nothing any more.
        """
        artifact_id = checked_id(request.artifact_id)
        entry = self._store.entry_of(artifact_id, request.path)
        offset, end = _part_of(request, entry)
        path = self._store.file_of(artifact_id, entry)
        self._store.cache.open_reader(artifact_id)
        try:
            source = await in_thread(functools.partial(_ChunkSource, path))
            try:
                while offset < end:
                    size_bytes = min(CHUNK_BYTES, end - offset)
                    message = source.cached(offset, size_bytes)
                    if message is None:
                        message = await in_thread(
                            functools.partial(source.read, offset, size_bytes)
                        )
                    async with asyncio.timeout(self._idle_s):
                        await context.write(message)
                    offset += size_bytes
                    self.sent_bytes += size_bytes
            finally:
                source.close()
        except TimeoutError as exc:
            raise PeerUnreachableError("the reader takes nothing any more") from exc
        finally:
            self._store.cache.close_reader(artifact_id)

    async def _segment(self, artifact_id: ArtifactId, entry: FileEntry, number: int) -> bytes:
        key = (artifact_id, entry.path, number)
        async with self._hashing:
            found = self._segments.pop(key, None)
            if found is None:
                read = functools.partial(self._read_segment, artifact_id, entry, number)
                found = await in_thread(read)
            self._segments[key] = found
            if len(self._segments) > _SEGMENT_COUNT_MAX:
                self._segments.popitem(last=False)
        return found

    def _read_segment(self, artifact_id: ArtifactId, entry: FileEntry, number: int) -> bytes:
        """Return digests as they were noted when the copy was right; else of what is there now."""
        first = number * _SEGMENT_CHUNKS
        if self._notes is None or self._notes[0] != artifact_id:
            noted = self._store.chunk_digests(artifact_id)
            self._notes = None if noted is None else (artifact_id, noted)
        if self._notes is not None:
            return b"".join(self._notes[1].of(entry)[first : first + _SEGMENT_CHUNKS])
        begin = first * CHUNK_BYTES
        end = min(entry.size_bytes, begin + _SEGMENT_CHUNKS * CHUNK_BYTES)
        return _digests(self._store.file_of(artifact_id, entry), entry, begin, end)


class _ChunkSource:
    """A file that is read into messages."""

    def __init__(self, path: Path) -> None:
        """Open it. Blocking.

        Raises:
            DigestMismatchError: It is gone.
        """
        self._path = path
        self._descriptor = _open_to_read(path)
        self._buffer = bytearray()

    def cached(self, offset_bytes: int, size_bytes: int) -> bytes | None:
        """Return a chunk as it is sent, where it is in memory; never waits for the disk.

        A chunk takes 0.2 ms; to have it brought by a thread costs half as much again.
        """
        try:
            return self._read(offset_bytes, size_bytes, os.RWF_NOWAIT)
        except (OSError, DigestMismatchError):
            # Not in memory, only a part of it is, or the file system cannot tell.
            return None

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        """Return a chunk as it is sent. Blocking.

        Raises:
            DigestMismatchError: The file is too short, or cannot be read.
        """
        try:
            return self._read(offset_bytes, size_bytes, 0)
        except OSError as exc:
            raise _damaged(self._path) from exc

    def _read(self, offset_bytes: int, size_bytes: int, flags: int) -> bytes:
        header = chunk_header(size_bytes)
        length = len(header) + size_bytes
        if len(self._buffer) != length:
            self._buffer = bytearray(length)
            self._buffer[: len(header)] = header
        with memoryview(self._buffer) as view:
            done = len(header)
            while done < length:
                at = offset_bytes + done - len(header)
                count = os.preadv(self._descriptor, [view[done:]], at, flags)
                if count == 0:
                    raise _damaged(self._path)
                done += count
        return bytes(self._buffer)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def checked_id(text: str) -> ArtifactId:
    """Return `text` as the id it spells.

    Raises:
        InvalidRequestError: It spells none.
    """
    if not is_artifact_id(text):
        raise InvalidRequestError(
            f"{text[:80]!r} is no content id",
            field="artifact_id",
            hint="write sha256: and 64 hex digits",
        )
    return ArtifactId(text)


def _chunks_of(request: GetChunkDigestsRequest, entry: FileEntry) -> tuple[int, int]:
    """Return the first chunk that is asked for and the end of them."""
    first, rest = divmod(request.offset_bytes, CHUNK_BYTES)
    is_inside = rest == 0 and 0 <= request.offset_bytes < entry.size_bytes
    if not is_inside or not 0 < request.chunk_count <= DIGEST_COUNT_MAX:
        raise InvalidRequestError(
            f"these are no chunks of the {entry.size_bytes} bytes of {entry.path!r}",
            field="offset_bytes",
            hint=f"begin at a multiple of {CHUNK_BYTES}; at most {DIGEST_COUNT_MAX} at once",
        )
    return first, min(first + request.chunk_count, -(-entry.size_bytes // CHUNK_BYTES))


def _part_of(request: ReadFileRequest, entry: FileEntry) -> tuple[int, int]:
    """Return first byte and end of the part of a file that is asked for."""
    offset = request.offset_bytes
    end = offset + request.length_bytes if request.length_bytes else entry.size_bytes
    if not 0 <= offset <= end <= entry.size_bytes:
        raise InvalidRequestError(
            f"the part is not inside the {entry.size_bytes} bytes of {entry.path!r}",
            field="offset_bytes",
        )
    return offset, end


def _digests(path: Path, entry: FileEntry, offset_bytes: int, end_bytes: int) -> bytes:
    """Return the digests of the chunks between, one after the other. Blocking."""
    found = []
    descriptor = _open_to_read(path)
    try:
        for offset in range(offset_bytes, end_bytes, CHUNK_BYTES):
            size_bytes = min(CHUNK_BYTES, end_bytes - offset)
            data = os.pread(descriptor, size_bytes, offset)
            if len(data) != size_bytes:
                raise _damaged(path)
            found.append(chunk_digest(entry, data))
    except OSError as exc:
        raise _damaged(path) from exc
    finally:
        os.close(descriptor)
    return b"".join(found)


def _open_to_read(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        raise _damaged(path) from exc


def _damaged(path: Path) -> DigestMismatchError:
    return DigestMismatchError(
        f"this site's copy of {path.name!r} is damaged", hint="ask another holder"
    )
