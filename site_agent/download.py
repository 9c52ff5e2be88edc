"""One artifact from its sources into its partial copy, whatever the sources do.

The manifest comes first and must hash to the artifact's id: from then on nobody can name other
files, sizes or digests. Files come one after the other, each verified while it is written. When a
source fails, the next one goes on at the same byte. A file that proves wrong is thrown away: if one
source alone delivered it, that source is not asked again; if several did, it comes anew from one.
"""

import asyncio
import functools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc.aio

from gcos.artifacts import CHUNK_BYTES, Artifact, Manifest
from gcos.contract_net import ArtifactNeed, Holder
from gcos.errors import (
    ArtifactNotFoundError,
    DigestMismatchError,
    ExhaustedError,
    GcosError,
    InvalidRequestError,
    NotFoundError,
    PeerUnreachableError,
    UnavailableError,
)
from gcos.ids import SiteId, is_site_id
from gcos.logs import Log
from gcos.rpc.channels import Channels
from gcos.rpc.status import translated
from gcos.rpc.wire import from_proto
from gcos.v1.artifacts_pb2 import (
    GetManifestRequest,
    GetManifestResponse,
    ReadFileRequest,
    ReadFileResponse,
)
from gcos.v1.artifacts_pb2_grpc import ArtifactServiceStub
from site_agent.artifact_store import ArtifactStore, checked_storable
from site_agent.partial_file import PartialFile
from site_agent.threads import in_thread

if TYPE_CHECKING:
    from gcos.v1.artifacts_pb2_grpc import ArtifactServiceAsyncStub

IDLE_S: Final = 20.0
"""Protocol seconds after which a peer is gone that sends no chunk, or takes none."""

RATE_MIN_BYTES_PER_S: Final = 100_000
"""A source that is slower than this over a whole file is given up for the next one."""

ATTEMPT_COUNT_MAX: Final = 16
"""Attempts of one download over all its sources; one that delivered nothing is not asked twice."""


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    """Answer of `GetManifest`.

    Attributes:
        artifact: As its holder speaks of it.
        manifest: Its files.
    """

    artifact: Artifact
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class FetchPart:
    """What came from one source.

    Attributes:
        source: Who sent it.
        bytes_moved: Bytes received, discarded ones included.
    """

    source: Holder
    bytes_moved: int


class _SourceError(Exception):
    """A source failed; another may do better."""

    def __init__(self, source: Holder, error: GcosError) -> None:
        super().__init__(f"{source.site_id}: {error.message}")
        self.error = error

    @property
    def is_transient(self) -> bool:
        """The same source may deliver the rest when asked again."""
        return isinstance(self.error, UnavailableError | ExhaustedError)


class Download:
    """The state of one download; `run` performs it, under a reservation that was cleared.

    Attributes:
        manifest: What the artifact consists of, once a source has told.
        custodian: The site whose copy is protected, as that source says.
    """

    def __init__(
        self,
        need: ArtifactNeed,
        *,
        store: ArtifactStore,
        channels: Channels,
        log: Log,
        idle_s: float,
        on_progress: Callable[[int], None],
    ) -> None:
        self.manifest: Manifest | None = None
        self.custodian: SiteId | None = None
        self._need = need
        self._store = store
        self._channels = channels
        self._log = log
        self._idle_s = idle_s
        #: Told `kept_bytes` as they come; they fall where a file starts anew.
        self._on_progress = on_progress
        #: Who may still be asked, the next one first.
        self._sources: deque[Holder] = deque()
        #: Who was ever named, so that nobody is added twice.
        self._named: set[SiteId] = set()
        self._parts: dict[SiteId, FetchPart] = {}
        #: Files of the manifest that are finished.
        self._done_count = 0
        self._done_bytes = 0
        #: The file after them, and who delivered bytes of it.
        self._partial: PartialFile | None = None
        self._contributors: set[SiteId] = set()

    @property
    def kept_bytes(self) -> int:
        """Bytes that are here and not thrown away."""
        return self._done_bytes + (self._partial.received_bytes if self._partial else 0)

    @property
    def parts(self) -> tuple[FetchPart, ...]:
        """What came from whom, in the order in which sources first delivered."""
        return tuple(self._parts.values())

    def offer(self, holders: tuple[Holder, ...]) -> None:
        """Add sources that are not named yet, also while the download runs."""
        for holder in holders:
            if holder.site_id not in self._named:
                self._named.add(holder.site_id)
                self._sources.append(holder)

    async def run(self) -> Holder:
        """Ask one source after the other until every file is here; return the last one.

        Raises:
            InvalidRequestError: The need differs from the artifact's manifest.
            CacheFullError: The disk is full.
            ArtifactNotFoundError: No source has it any more.
            DigestMismatchError: Every source's copy is wrong.
            PeerUnreachableError: Otherwise, no source delivered it.
        """
        try:
            return await self._run()
        finally:
            if self._partial is not None:
                self._partial.close()

    async def _run(self) -> Holder:
        failures: list[_SourceError] = []
        for _ in range(ATTEMPT_COUNT_MAX):
            if not self._sources:
                break
            source = self._sources.popleft()
            kept_bytes = self.kept_bytes
            try:
                await self._ask(source)
            except _SourceError as exc:
                failures.append(exc)
                self._log.warning(
                    "source_failed",
                    artifact=self._need.name,
                    source=source.site_id,
                    reason=exc.error.reason,
                    error=str(exc.error),
                )
                if exc.is_transient and self.kept_bytes > kept_bytes:
                    self._sources.append(source)
            else:
                return source
        raise _undelivered(self._need, failures)

    async def _ask(self, source: Holder) -> None:
        try:
            channel = self._channels.get(source.address)
        except InvalidRequestError as exc:
            raise _SourceError(source, exc) from exc
        stub: ArtifactServiceAsyncStub = ArtifactServiceStub(channel)
        if self.manifest is None:
            self.manifest = await self._read_manifest(source, stub)
        for entry in self.manifest.files[self._done_count :]:
            if self._partial is None:
                self._partial = self._store.partial_file(self._need.artifact_id, entry)
                self._contributors.clear()
            await self._bring(self._partial, source, stub)
            self._partial = None
            self._done_count += 1
            self._done_bytes += entry.size_bytes

    async def _read_manifest(self, source: Holder, stub: "ArtifactServiceAsyncStub") -> Manifest:
        need = self._need
        request = GetManifestRequest(artifact_id=need.artifact_id)
        try:
            with translated(source.site_id):
                response = await stub.GetManifest(request, timeout=self._idle_s)
            answer = await in_thread(functools.partial(_checked_answer, need, response))
        except GcosError as exc:
            raise _SourceError(source, exc) from exc
        manifest = answer.manifest
        if manifest.size_bytes != need.size_bytes or manifest.kind is not need.kind:
            # The digest fits, so no other holder can say otherwise: the need is wrong.
            raise InvalidRequestError(
                f"{need.name} is {manifest.size_bytes} bytes of {manifest.kind.value}, "
                f"but the need says {need.size_bytes} of {need.kind.value}",
                field="needs.size_bytes",
            )
        self.custodian = answer.artifact.custodian
        return manifest

    async def _bring(
        self, partial: PartialFile, source: Holder, stub: "ArtifactServiceAsyncStub"
    ) -> None:
        """Bring the rest of one file and verify it."""
        while True:
            if partial.received_bytes < partial.entry.size_bytes:
                await self._read_rest(partial, source, stub)
            try:
                await in_thread(partial.finish)
            except DigestMismatchError as exc:
                await in_thread(partial.restart)
                is_its_own = self._contributors <= {source.site_id}
                self._contributors.clear()
                if is_its_own:
                    raise _SourceError(source, exc) from exc
                # An earlier source may have spoilt it: this one gets a file of its own.
            else:
                return

    async def _read_rest(
        self, partial: PartialFile, source: Holder, stub: "ArtifactServiceAsyncStub"
    ) -> None:
        """Receive a file from where it stopped to its end."""
        entry = partial.entry
        rest_bytes = entry.size_bytes - partial.received_bytes
        request = ReadFileRequest(
            artifact_id=self._need.artifact_id,
            path=entry.path,
            offset_bytes=partial.received_bytes,
            length_bytes=rest_bytes,
        )
        timeout_s = self._idle_s + rest_bytes / RATE_MIN_BYTES_PER_S
        call = stub.ReadFile(request, timeout=timeout_s)
        try:
            while data := await self._next_chunk(call, source):
                if len(data) > entry.size_bytes - partial.received_bytes:
                    raise _SourceError(
                        source, DigestMismatchError(f"{entry.path!r} is longer than it should be")
                    )
                self._count(source, len(data))
                await in_thread(functools.partial(partial.append, data))
                self._on_progress(self.kept_bytes)
        finally:
            call.cancel()
        if partial.received_bytes < entry.size_bytes:
            error = PeerUnreachableError(f"{source.site_id} ended {entry.path!r} early")
            raise _SourceError(source, error)

    async def _next_chunk(
        self, call: "grpc.aio.UnaryStreamCall[ReadFileRequest, ReadFileResponse]", source: Holder
    ) -> bytes:
        """Return the next chunk; none at the end of the stream."""
        try:
            with translated(source.site_id):
                async with asyncio.timeout(self._idle_s):
                    response = await call.read()
        except TimeoutError as exc:
            error = PeerUnreachableError(f"{source.site_id} sends nothing any more")
            raise _SourceError(source, error) from exc
        except GcosError as exc:
            raise _SourceError(source, exc) from exc
        if not isinstance(response, ReadFileResponse):
            return b""  # the end of the stream
        if not 0 < len(response.data) <= CHUNK_BYTES:
            raise _SourceError(
                source, InvalidRequestError(f"{source.site_id} sends chunks of an invalid size")
            )
        return response.data

    def _count(self, source: Holder, count: int) -> None:
        known = self._parts.get(source.site_id)
        bytes_moved = count + (known.bytes_moved if known else 0)
        self._parts[source.site_id] = FetchPart(source, bytes_moved=bytes_moved)
        self._contributors.add(source.site_id)


def _undelivered(need: ArtifactNeed, failures: list[_SourceError]) -> GcosError:
    """Return the error that tells why no source delivered; of one sort where all failed alike."""
    message = f"no holder delivered {need.name}: " + "; ".join(str(failure) for failure in failures)
    errors = [failure.error for failure in failures]
    if all(isinstance(error, NotFoundError) for error in errors):
        return ArtifactNotFoundError(message, hint="its holders have evicted it")
    if all(isinstance(error, DigestMismatchError) for error in errors):
        return DigestMismatchError(message, hint="add it again where the original is")
    return PeerUnreachableError(message, hint="try again when a holder can be reached")


def _checked_answer(need: ArtifactNeed, response: GetManifestResponse) -> ManifestAnswer:
    """Return a source's answer once its manifest is safe and is what was asked for.

    Raises:
        InvalidRequestError: It is malformed.
        DigestMismatchError: It is another artifact's.
    """
    answer = from_proto(response, ManifestAnswer)
    checked_storable(answer.manifest)
    if answer.manifest.artifact_id != need.artifact_id:
        raise DigestMismatchError(f"the manifest of {need.name} does not hash to its id")
    custodian = answer.artifact.custodian
    if custodian is not None and not is_site_id(custodian):
        raise InvalidRequestError(f"{custodian[:80]!r} is no site", field="artifact.custodian")
    return answer
