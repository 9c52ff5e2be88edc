"""Two or more stores that talk over real gRPC on loopback."""

import asyncio
import hashlib
import resource
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from gcos.artifacts import CHUNK_BYTES, Artifact, ArtifactKind, FileEntry, Manifest
from gcos.contract_net import ArtifactNeed, Holder
from gcos.errors import (
    ArtifactNotFoundError,
    CacheFullError,
    DigestMismatchError,
    GcosError,
    InvalidRequestError,
    PeerUnreachableError,
    SiteDrainingError,
)
from gcos.ids import ArtifactId, RunId, SiteId
from gcos.logs import get_logger
from gcos.rpc.channels import Channels
from gcos.rpc.server import serving
from gcos.rpc.status import translated
from gcos.rpc.wire import to_proto
from gcos.store import MemoryStore
from gcos.system import SystemClock
from gcos.v1 import artifacts_pb2, artifacts_pb2_grpc
from gcos.v1.artifacts_pb2 import ReadFileResponse
from site_agent import chunk_board, download, peer_source, source_pool
from site_agent.artifact_store import ArtifactStore
from site_agent.copy_log import CopyLog
from site_agent.links import Priority
from site_agent.manifest_answer import ManifestAnswer
from site_agent.peer_source import PeerSource
from site_agent.serving import ArtifactServicer
from site_agent.transfer import ArtifactPlane, FetchResult

TOKEN = "a-token-for-tests-that-is-long-enough"
MODEL, DATA = ArtifactKind.MODEL, ArtifactKind.DATA
RUN, OTHER_RUN = RunId("iad-1.1.1"), RunId("iad-2.1.1")
# Two and a half chunks, no two alike.
LARGE = b"".join(n.to_bytes(4, "big") for n in range(5 * CHUNK_BYTES // 8)) + b"end"
FILES = {"config.json": b"{}", "empty": b"", "weights/part.bin": LARGE}
HERE = SiteId("iad")
HANG_S = 60.0
"""A test that waits longer than this has failed; none depends on how long anything takes."""


def nothing(_: int) -> None:
    """Progress that nobody watches."""


class Network:
    """Sites of one test below one directory; each has a store, holders also a server."""

    def __init__(self, path: Path, stack: AsyncExitStack, channels: Channels) -> None:
        self.path = path
        self.channels = channels
        self._stack = stack

    def store(self, site: str, *, capacity_bytes: int = 100 * CHUNK_BYTES) -> ArtifactStore:
        return ArtifactStore.open(
            self.path / site,
            site_id=SiteId(site),
            model_capacity_bytes=capacity_bytes,
            data_capacity_bytes=capacity_bytes,
            allowed_roots=[self.path],
        )

    def content(
        self, store: ArtifactStore, files: dict[str, bytes], name: str = "tiny"
    ) -> Artifact:
        source = self.path / f"source-{store.site_id}-{name}"
        for path, data in files.items():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes(data)
        return store.import_directory(source, name, MODEL, store.site_id, now_s=0.0)[0]

    async def serve(
        self,
        store: ArtifactStore,
        servicer: ArtifactServicer | None = None,
    ) -> Holder:
        servicer = servicer or ArtifactServicer(store)
        running = await self._stack.enter_async_context(
            serving(
                "127.0.0.1:0",
                register=[servicer.add_to],
                service_names=[],
                token=TOKEN,
                log=get_logger(),
                grace_s=0.1,
            )
        )
        return Holder(store.site_id, zone="US-MIDA", address=running.address)

    async def holder(
        self, site: str, servicer: Callable[[ArtifactStore], ArtifactServicer] = ArtifactServicer
    ) -> tuple[Holder, Artifact]:
        """A serving site with the usual content."""
        store = self.store(site)
        artifact = self.content(store, FILES)
        return await self.serve(store, servicer(store)), artifact

    @asynccontextmanager
    async def plane(self, store: ArtifactStore) -> AsyncIterator[ArtifactPlane]:
        async with ArtifactPlane(store, self.channels, SystemClock(), get_logger()) as plane:
            yield plane
        assert_clean(store)


@pytest.fixture(autouse=True)
def nearby(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every holder is near and quick, however busy this machine is.

    It gets one connection and two calls, and keeps each range that it has claimed.
    """
    monkeypatch.setattr(peer_source, "LONG_RTT_S", float("inf"))
    monkeypatch.setattr(chunk_board, "SLOW_S_MIN", float("inf"))


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    async with AsyncExitStack() as stack:
        channels = Channels(TOKEN)
        network = Network(tmp_path, stack, channels)
        try:
            yield network
        finally:
            # Callers go first, as a server drains its calls.
            await channels.__aexit__(None, None, None)


def assert_clean(store: ArtifactStore) -> None:
    """Books and disk agree and nothing half-done is left."""
    store.check_invariants()
    assert all(usage.reserved_bytes == 0 for usage in store.cache.usages())
    for area in ("partial", "trash"):
        assert list((store._root / area).iterdir()) == []


def need_of(artifact: Artifact, *holders: Holder) -> ArtifactNeed:
    return ArtifactNeed(
        artifact.artifact_id, artifact.kind, artifact.name, artifact.size_bytes, holders
    )


async def fetch(
    plane: ArtifactPlane, artifact: Artifact, *holders: Holder, run_id: RunId = RUN
) -> FetchResult:
    need = need_of(artifact, *holders)
    return await plane.fetch(need, holders[0], run_id=run_id, on_progress=nothing)


def assert_holds(store: ArtifactStore, artifact: Artifact, files: dict[str, bytes]) -> None:
    store.verify(artifact.artifact_id)
    directory = store.path_of(artifact.artifact_id)
    assert {path: (directory / path).read_bytes() for path in files} == files


# ---- servicers that do wrong --------------------------------------------------------------------


class Counting(ArtifactServicer):
    """Notes what is asked for."""

    def __init__(self, store: ArtifactStore) -> None:
        super().__init__(store)
        self.asked: list[tuple[str, int]] = []

    async def ReadFile(self, request: Any, context: Any) -> None:
        self.asked.append((request.path, request.offset_bytes))
        await super().ReadFile(request, context)


class Ending(ArtifactServicer):
    """Tells when a call has ended."""

    def __init__(self, store: ArtifactStore) -> None:
        super().__init__(store)
        self.has_ended = asyncio.Event()

    async def ReadFile(self, request: Any, context: Any) -> None:
        try:
            await super().ReadFile(request, context)
        finally:
            self.has_ended.set()


class Waiting(Counting):
    """Sends no byte until it is let go."""

    def __init__(self, store: ArtifactStore) -> None:
        super().__init__(store)
        self.may_send = asyncio.Event()
        self.is_asked = asyncio.Event()

    async def ReadFile(self, request: Any, context: Any) -> None:
        self.is_asked.set()
        await self.may_send.wait()
        await super().ReadFile(request, context)


class Altering(ArtifactServicer):
    """Sends the large file's chunks as `alter` leaves them."""

    def __init__(
        self, store: ArtifactStore, alter: Callable[[list[bytes]], list[bytes]], error: str = ""
    ) -> None:
        super().__init__(store)
        self._alter = alter
        self._error = error
        self.content = LARGE

    async def ReadFile(self, request: Any, context: Any) -> None:
        if not request.path.startswith("weights"):
            await super().ReadFile(request, context)
            return
        end = request.offset_bytes + request.length_bytes
        rest = self.content[request.offset_bytes : end]
        chunks = [rest[at : at + CHUNK_BYTES] for at in range(0, len(rest), CHUNK_BYTES)]
        for chunk in self._alter(chunks):
            await context.write(ReadFileResponse(data=chunk).SerializeToString())
        if self._error:
            raise PeerUnreachableError(self._error)


def corrupt(chunks: list[bytes]) -> list[bytes]:
    return [chunks[0][:-1] + b"!", *chunks[1:]]


class OtherManifest(ArtifactServicer):
    """Tells another manifest, whatever is asked for."""

    def __init__(self, store: ArtifactStore, manifest: Manifest, custodian: str = "fra") -> None:
        super().__init__(store)
        self._manifest = manifest
        self._custodian = SiteId(custodian)

    async def GetManifest(self, request: Any, context: Any) -> artifacts_pb2.GetManifestResponse:
        artifact = Artifact(
            ArtifactId(request.artifact_id),
            self._manifest.kind,
            name="m",
            size_bytes=self._manifest.size_bytes,
            custodian=self._custodian,
        )
        answer = ManifestAnswer(artifact, self._manifest)
        return to_proto(answer, artifacts_pb2.GetManifestResponse)


# ---- fetching -----------------------------------------------------------------------------------


async def test_what_was_fetched_is_whole_pinned_and_served_on(network: Network) -> None:
    holder, artifact = await network.holder("fra")
    store = network.store("iad")
    seen: list[int] = []
    async with network.plane(store) as plane:
        need = need_of(artifact, holder)
        result = await plane.fetch(need, holder, run_id=RUN, on_progress=seen.append)
        assert result.bytes_moved == artifact.size_bytes == seen[-1]
        assert seen == sorted(seen)
        assert (result.source, result.evicted, result.is_shared) == (holder, (), False)
        assert [(part.source, part.bytes_moved) for part in result.parts] == [
            (holder, artifact.size_bytes)
        ]
        assert result.duration_s > 0
        assert plane.cache.holdings() == (artifact,)
        assert plane.cache.entries()[0].pin_count == 1
        assert_holds(store, artifact, FILES)
        assert plane.path_of(artifact.artifact_id) == store.path_of(artifact.artifact_id)
        third = network.store("sin")
        async with network.plane(third) as next_plane:
            await fetch(next_plane, artifact, await network.serve(store))
            assert_holds(third, artifact, FILES)


async def test_what_is_here_is_pinned_and_not_fetched_again(network: Network) -> None:
    holder, artifact = await network.holder("fra")
    async with network.plane(network.store("iad")) as plane:
        await fetch(plane, artifact, holder)
        again = await fetch(plane, artifact, holder, run_id=OTHER_RUN)
        assert (again.bytes_moved, again.is_shared) == (0, True)
        assert plane.cache.entries()[0].pin_count == 2


async def test_concurrent_fetches_share_one_transfer_and_one_is_charged(network: Network) -> None:
    store = network.store("fra")
    artifact = network.content(store, FILES)
    servicer = Waiting(store)
    holder = await network.serve(store, servicer)
    progress: dict[RunId, int] = {}
    results: list[FetchResult] = []

    async with network.plane(network.store("iad")) as plane, asyncio.TaskGroup() as group:

        async def one(run_id: RunId) -> None:
            result = await plane.fetch(
                need_of(artifact, holder),
                holder,
                run_id=run_id,
                on_progress=lambda count: progress.update({run_id: count}),
            )
            results.append(result)

        for number in range(3):
            group.create_task(one(RunId(f"iad-{number}.1.1")))
        await servicer.is_asked.wait()
        servicer.may_send.set()
    assert sorted(result.is_shared for result in results) == [False, True, True]
    assert sum(result.bytes_moved for result in results) == artifact.size_bytes
    assert set(progress.values()) == {artifact.size_bytes}
    assert sorted(path for path, _ in servicer.asked) == ["config.json", "weights/part.bin"]
    assert plane.cache.entries()[0].pin_count == 3


async def test_eviction_makes_room_and_never_touches_what_is_pinned(network: Network) -> None:
    store = network.store("fra")
    artifacts = [network.content(store, {"f": bytes([n]) * 1000}, f"m{n}") for n in range(3)]
    holder = await network.serve(store)
    here = network.store("iad", capacity_bytes=2000)
    async with network.plane(here) as plane:
        plane.notes = told = CopyLog(MemoryStore(), SystemClock(), get_logger())
        await fetch(plane, artifacts[0], holder, run_id=RUN)
        await fetch(plane, artifacts[1], holder, run_id=OTHER_RUN)
        with pytest.raises(CacheFullError, match="0 are free and 0 evictable"):
            await fetch(plane, artifacts[2], holder)
        plane.unpin(artifacts[1].artifact_id, OTHER_RUN)
        result = await fetch(plane, artifacts[2], holder)
        assert result.evicted == (artifacts[1].artifact_id,)
        assert {each.name for each in plane.cache.holdings()} == {"m0", "m2"}
        here.check_invariants()
    assert [(each.kind, each.name, each.task_id) for each in told.latest(9)] == [
        ("fetched", "m0", "iad-1"),
        ("fetched", "m1", "iad-2"),
        ("evicted", "m1", "iad-1"),
        ("fetched", "m2", "iad-1"),
    ]
    assert told.latest(9)[2].why.startswith("makes room for m2: of 1 that could go")
    assert told.latest(1)[0].site_id == "fra"


async def test_capacity_holds_on_disk_at_every_instant(network: Network) -> None:
    """I4: with every chunk, the bytes of all files below the root fit into the capacity."""
    store = network.store("fra")
    artifacts = [
        network.content(store, {"f": bytes([n]) * CHUNK_BYTES, "g": bytes([n]) * 1000}, f"m{n}")
        for n in range(4)
    ]
    holder = await network.serve(store)
    capacity_bytes = artifacts[0].size_bytes + 10
    here = network.store("iad", capacity_bytes=capacity_bytes)
    most_bytes = 0

    def measure(_: int) -> None:
        nonlocal most_bytes
        here.cache.check_invariants()
        files = [path for path in here._root.rglob("files/**/*") if path.is_file()]
        most_bytes = max(most_bytes, sum(path.stat().st_size for path in files))

    async with network.plane(here) as plane:
        for artifact in artifacts:
            need = need_of(artifact, holder)
            await plane.fetch(need, holder, run_id=RUN, on_progress=measure)
            plane.unpin(artifact.artifact_id, RUN)
    assert artifacts[0].size_bytes <= most_bytes <= capacity_bytes


async def test_of_fetches_that_together_overflow_the_losers_are_refused_with_the_reason(
    network: Network,
) -> None:
    """I4: each of five takes 40 %, all are asked for at once, and the disk is looked at."""
    store = network.store("fra")
    artifacts = [
        network.content(store, {"f": bytes([n]) * (4 * CHUNK_BYTES), "g": bytes([n])}, f"m{n}")
        for n in range(5)
    ]
    holder = await network.serve(store)
    capacity_bytes = 10 * CHUNK_BYTES
    here = network.store("iad", capacity_bytes=capacity_bytes)
    seen_bytes: list[int] = []
    refused: list[str] = []

    def measure(_: int) -> None:
        here.cache.check_invariants()
        sizes = {}
        for path in here._root.rglob("files/**/*"):
            if path.is_file():
                sizes[path.stat().st_ino] = path.stat().st_size
        seen_bytes.append(sum(sizes.values()))

    async def one(plane: ArtifactPlane, artifact: Artifact) -> None:
        run_id = RunId(f"{artifact.name}-1.1.1")
        try:
            await plane.fetch(need_of(artifact, holder), holder, run_id=run_id, on_progress=measure)
        except CacheFullError as exc:
            refused.append(exc.message)

    async with network.plane(here) as plane:
        async with asyncio.TaskGroup() as group:
            for artifact in artifacts:
                group.create_task(one(plane, artifact))
        assert len(refused) == 3
        assert all("are free and" in why for why in refused)
        held = {each.name for each in plane.cache.holdings()}
        assert len(held) == 2
        here.check_invariants()
        assert here.cache.usage(ArtifactKind.MODEL).reserved_bytes == 0
        for name in held:
            here.verify(next(each.artifact_id for each in artifacts if each.name == name))
    assert max(seen_bytes) == sum(each.size_bytes for each in artifacts[:2]) <= capacity_bytes


# ---- sources that fail --------------------------------------------------------------------------


async def test_a_source_that_dies_is_replaced_and_the_rest_comes_from_the_next(
    network: Network,
) -> None:
    dying, artifact = await network.holder(
        "fra", lambda store: Altering(store, lambda chunks: chunks[:1], error="power cut")
    )
    store = network.store("sin")
    network.content(store, FILES)
    servicer = Counting(store)
    healthy = await network.serve(store, servicer)
    here = network.store("iad")
    async with network.plane(here) as plane:
        result = await fetch(plane, artifact, dying, healthy)
        assert_holds(here, artifact, FILES)
    assert ("weights/part.bin", CHUNK_BYTES) in servicer.asked
    assert ("weights/part.bin", 0) not in servicer.asked, "it went on, and did not begin"
    assert result.source == healthy
    moved = {str(part.source.site_id): part.bytes_moved for part in result.parts}
    # Two bytes of a small file come from either, or from both if the one dies meanwhile.
    assert CHUNK_BYTES <= moved["fra"] <= CHUNK_BYTES + 2
    assert len(LARGE) - CHUNK_BYTES <= moved["sin"] <= len(LARGE) - CHUNK_BYTES + 2


async def test_the_only_source_may_break_off_while_it_makes_progress(network: Network) -> None:
    holder, artifact = await network.holder(
        "fra", lambda store: Altering(store, lambda chunks: chunks[:1], error="flaky link")
    )
    here = network.store("iad")
    async with network.plane(here) as plane:
        result = await fetch(plane, artifact, holder)
        assert_holds(here, artifact, FILES)
    assert result.bytes_moved == artifact.size_bytes


class Parted(Counting):
    """Sends a chunk of the large file, is out of reach for some calls, and then sends the rest."""

    silent_calls = 3

    async def ReadFile(self, request: Any, context: Any) -> None:
        if not request.path.startswith("weights") or not self.silent_calls:
            await super().ReadFile(request, context)
            return
        at = request.offset_bytes
        self.asked.append((request.path, at))
        if not at:
            await context.write(ReadFileResponse(data=LARGE[:CHUNK_BYTES]).SerializeToString())
        else:
            self.silent_calls -= 1
        raise PeerUnreachableError("nothing passes")


async def test_a_source_that_fell_silent_is_asked_again_for_what_is_missing(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_PAUSE_S_MIN", 0.001)
    store = network.store("fra")
    artifact = network.content(store, FILES)
    parted = Parted(store)
    holder = await network.serve(store, parted)
    here = network.store("iad")
    async with network.plane(here) as plane:
        result = await fetch(plane, artifact, holder)
        assert_holds(here, artifact, FILES)
    # Also what came before its turn, and waited for a file before it, is asked for once.
    assert result.bytes_moved == artifact.size_bytes
    assert parted.silent_calls == 0
    assert parted.asked[-1][1] > 0


async def test_sources_that_fell_silent_may_be_so_longer_than_attempts_are_counted(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_PAUSE_S_MIN", 0.001)
    monkeypatch.setattr(download, "_PAUSE_S_MAX", 0.001)
    store = network.store("fra")
    artifact = network.content(store, FILES)
    parted = Parted(store)
    # A source has two calls under way, so that is at least as many failures as are allowed.
    parted.silent_calls = 2 * source_pool.ATTEMPT_COUNT_MAX
    holder = await network.serve(store, parted)
    here = network.store("iad")
    async with network.plane(here) as plane:
        await fetch(plane, artifact, holder)
        assert_holds(here, artifact, FILES)
    assert parted.silent_calls == 0


async def test_patience_with_a_silent_source_ends(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PATIENCE_S", 0.0)
    store = network.store("fra")
    artifact = network.content(store, FILES)
    holder = await network.serve(store, Parted(store))
    async with network.plane(network.store("iad")) as plane:
        with pytest.raises(PeerUnreachableError, match="nothing passes"):
            await fetch(plane, artifact, holder)


async def test_attempts_are_limited(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    store = network.store("fra")
    artifact = network.content(store, {"weights": bytes(20 * CHUNK_BYTES)})
    alter = Altering(store, lambda chunks: chunks[:1], error="a chunk a call")
    alter.content = bytes(20 * CHUNK_BYTES)
    holder = await network.serve(store, alter)
    monkeypatch.setattr(source_pool, "ATTEMPT_COUNT_MAX", 3)
    async with network.plane(network.store("iad")) as plane:
        with pytest.raises(PeerUnreachableError) as caught:
            await fetch(plane, artifact, holder)
    assert caught.value.message.count("a chunk a call") == 3


async def test_a_transfer_that_cannot_be_imported_reserves_nothing(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, artifact = await network.holder("fra")
    here = network.store("iad")
    async with network.plane(here) as plane:
        with monkeypatch.context() as broken:
            broken.setitem(sys.modules, "site_agent.download", None)
            with pytest.raises(ImportError):
                await fetch(plane, artifact, holder)
        await fetch(plane, artifact, holder)
        assert_holds(here, artifact, FILES)


async def test_an_unreachable_source_is_passed_over(network: Network) -> None:
    holder, artifact = await network.holder("fra")
    nobody = Holder(SiteId("gru"), zone="BR-CS", address="127.0.0.1:1")
    far = Holder(SiteId("syd"), zone="AU-NSW", address="192.0.2.1:50051")
    async with network.plane(network.store("iad")) as plane:
        result = await fetch(plane, artifact, nobody, far, holder)
    assert result.source == holder


async def test_a_holder_that_has_evicted_it_is_passed_over(network: Network) -> None:
    holder, artifact = await network.holder("fra")
    without = await network.serve(network.store("sin"))
    async with network.plane(network.store("iad")) as plane:
        assert (await fetch(plane, artifact, without, holder)).source == holder
    async with network.plane(network.store("gru")) as plane:
        with pytest.raises(ArtifactNotFoundError, match="no holder delivered tiny: sin:"):
            await fetch(plane, artifact, without)


async def test_without_a_holder_nothing_is_reserved(network: Network) -> None:
    _, artifact = await network.holder("fra")
    myself = Holder(HERE, zone="US-MIDA", address="127.0.0.1:1")
    async with network.plane(network.store("iad")) as plane:
        with pytest.raises(ArtifactNotFoundError, match="no other site is known"):
            await fetch(plane, artifact, myself)


@pytest.mark.parametrize(
    ("alter", "error"),
    [
        (corrupt, DigestMismatchError),
        (lambda chunks: [*chunks[:-1], chunks[-1] + b"more"], PeerUnreachableError),
        (lambda chunks: [*chunks[:-1], chunks[-1][1:]], PeerUnreachableError),
        (lambda chunks: [chunks[1], chunks[0], *chunks[2:]], DigestMismatchError),
        (lambda chunks: [], PeerUnreachableError),
        (lambda chunks: [b"", *chunks], PeerUnreachableError),
        (lambda chunks: [chunks[0] + chunks[1]], PeerUnreachableError),
    ],
    ids=["corrupt", "longer", "shorter", "reordered", "truncated", "empty-chunk", "large-chunk"],
)
async def test_a_wrong_copy_is_discarded_and_the_next_source_asked(
    network: Network, alter: Callable[[list[bytes]], list[bytes]], error: type[GcosError]
) -> None:
    bad, artifact = await network.holder("fra", lambda store: Altering(store, alter))
    good, _ = await network.holder("sin")
    here = network.store("iad")
    async with network.plane(here) as plane:
        with pytest.raises(error):
            await fetch(plane, artifact, bad)
        assert plane.cache.holdings() == ()
        assert_clean(here)
        await fetch(plane, artifact, bad, good)
        assert_holds(here, artifact, FILES)


async def test_what_comes_beyond_the_end_is_not_taken(network: Network) -> None:
    files = {"weights": LARGE}
    store = network.store("fra")
    artifact = network.content(store, files)
    endless = [b"more"] * 1000
    holder = await network.serve(store, Altering(store, lambda chunks: [*chunks, *endless]))
    here = network.store("iad")
    async with network.plane(here) as plane:
        result = await fetch(plane, artifact, holder)
        assert_holds(here, artifact, files)
    assert result.bytes_moved == artifact.size_bytes


async def test_discarded_bytes_are_charged_too(network: Network) -> None:
    bad, artifact = await network.holder("fra", lambda store: Altering(store, corrupt))
    good, _ = await network.holder("sin")
    async with network.plane(network.store("iad")) as plane:
        result = await fetch(plane, artifact, bad, good)
    assert result.bytes_moved == artifact.size_bytes + CHUNK_BYTES, "the wrong chunk came again"


async def test_a_source_is_not_blamed_for_what_another_spoilt(network: Network) -> None:
    spoiler, artifact = await network.holder(
        "fra", lambda store: Altering(store, lambda chunks: corrupt(chunks)[:1], error="gone")
    )
    honest, _ = await network.holder("sin")
    here = network.store("iad")
    async with network.plane(here) as plane:
        result = await fetch(plane, artifact, spoiler, honest)
        assert result.source == honest
        assert_holds(here, artifact, FILES)


async def test_a_silent_source_is_given_up(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = network.store("fra")
    artifact = network.content(store, FILES)
    servicer = Waiting(store)
    silent = await network.serve(store, servicer)
    good, _ = await network.holder("sin")

    def source(holder: Holder, need: ArtifactNeed, **how: Any) -> PeerSource:
        return PeerSource(holder, need, **how | ({"idle_s": 0.2} if holder == silent else {}))

    monkeypatch.setattr(download, "PeerSource", source)
    async with network.plane(network.store("iad")) as plane:
        assert (await fetch(plane, artifact, silent, good)).source == good
    servicer.may_send.set()


# ---- several sources at once ---------------------------------------------------------------------

LONG = {"weights": b"".join(bytes([n]) * CHUNK_BYTES for n in range(40))}


class Misremembering(ArtifactServicer):
    """Tells digests of other chunks than its own."""

    async def GetChunkDigests(
        self, request: Any, context: Any
    ) -> artifacts_pb2.GetChunkDigestsResponse:
        answer = await super().GetChunkDigests(request, context)
        return artifacts_pb2.GetChunkDigestsResponse(digests=bytes(len(answer.digests)))


class Forgetting(ArtifactServicer):
    """Knows no digests of chunks."""

    async def GetChunkDigests(
        self, request: Any, context: Any
    ) -> artifacts_pb2.GetChunkDigestsResponse:
        raise ArtifactNotFoundError("no digests here")


class Rotten(Counting):
    """Sends one chunk of the long file wrong."""

    def __init__(self, store: ArtifactStore, wrong_offset: int) -> None:
        super().__init__(store)
        self._wrong_offset = wrong_offset

    async def ReadFile(self, request: Any, context: Any) -> None:
        wrong_at = self._wrong_offset

        class Spoiling:
            offset = request.offset_bytes

            async def write(self, message: bytes) -> None:
                if self.offset == wrong_at:
                    message = message[:-1] + b"!"
                self.offset += CHUNK_BYTES
                await context.write(message)

        await super().ReadFile(request, Spoiling())


async def long_holder(
    network: Network, site: str, servicer: Callable[[ArtifactStore], ArtifactServicer]
) -> tuple[Holder, Artifact]:
    store = network.store(site)
    artifact = network.content(store, LONG)
    return await network.serve(store, servicer(store)), artifact


async def test_holders_that_are_asked_together_share_the_work(network: Network) -> None:
    first, artifact = await long_holder(network, "fra", ArtifactServicer)
    second, _ = await long_holder(network, "sin", ArtifactServicer)
    here = network.store("iad")
    async with network.plane(here) as plane:
        result = await plane.fetch(
            need_of(artifact), first, run_id=RUN, on_progress=nothing, beside=[second]
        )
        assert_holds(here, artifact, LONG)
    assert {part.source.site_id for part in result.parts} == {"fra", "sin"}
    assert sum(part.bytes_moved for part in result.parts) >= artifact.size_bytes


async def test_a_corrupt_chunk_alone_comes_again_from_another_holder(network: Network) -> None:
    rotten, artifact = await long_holder(
        network, "fra", lambda store: Rotten(store, 5 * CHUNK_BYTES)
    )
    store = network.store("sin")
    network.content(store, LONG)
    counting = Counting(store)
    good = await network.serve(store, counting)
    here = network.store("iad")
    async with network.plane(here) as plane:
        result = await fetch(plane, artifact, rotten, good)
        assert_holds(here, artifact, LONG)
    assert ("weights", 5 * CHUNK_BYTES) in counting.asked
    assert result.bytes_moved == artifact.size_bytes + CHUNK_BYTES


async def test_two_holders_with_a_wrong_chunk_each_make_one_right_copy(network: Network) -> None:
    first, artifact = await long_holder(network, "fra", lambda store: Rotten(store, 0))
    second, _ = await long_holder(network, "sin", lambda store: Rotten(store, 30 * CHUNK_BYTES))
    here = network.store("iad")
    async with network.plane(here) as plane:
        await plane.fetch(
            need_of(artifact), first, run_id=RUN, on_progress=nothing, beside=[second]
        )
        assert_holds(here, artifact, LONG)


@pytest.mark.parametrize("servicer", [Misremembering, Forgetting])
async def test_digests_of_chunks_that_are_wrong_or_missing_do_not_stop_a_fetch(
    network: Network, servicer: type[ArtifactServicer]
) -> None:
    liar, artifact = await long_holder(network, "fra", servicer)
    honest, _ = await long_holder(network, "sin", ArtifactServicer)
    here = network.store("iad")
    async with network.plane(here) as plane:
        await fetch(plane, artifact, liar, honest)
        assert_holds(here, artifact, LONG)


async def test_a_holder_that_hangs_loses_its_range_to_another(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_board, "SLOW_S_MIN", 0.01)
    store = network.store("fra")
    artifact = network.content(store, LONG)
    servicer = Waiting(store)
    hanging = await network.serve(store, servicer)
    good, _ = await long_holder(network, "sin", ArtifactServicer)
    here = network.store("iad")
    async with network.plane(here) as plane:
        result = await plane.fetch(
            need_of(artifact), hanging, run_id=RUN, on_progress=nothing, beside=[good]
        )
        assert_holds(here, artifact, LONG)
    assert [part.source for part in result.parts] == [good]
    servicer.may_send.set()


async def test_a_far_holder_is_asked_over_several_connections(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_source, "LONG_RTT_S", 0.0)
    peers: set[str] = set()

    class Noting(ArtifactServicer):
        async def ReadFile(self, request: Any, context: Any) -> None:
            peers.add(context.peer())
            await super().ReadFile(request, context)

    holder, artifact = await long_holder(network, "fra", Noting)
    async with network.plane(network.store("iad")) as plane:
        await fetch(plane, artifact, holder)
    assert len(peers) == peer_source.LONG_CONNECTION_COUNT


# ---- priorities and caps -------------------------------------------------------------------------


async def test_a_copy_made_ahead_waits_for_what_a_run_waits_for(network: Network) -> None:
    store = network.store("fra")
    wanted = network.content(store, FILES, "wanted")
    ahead = network.content(store, {"f": b"ahead"}, "ahead")
    servicer = Waiting(store)
    holder = await network.serve(store, servicer)
    async with network.plane(network.store("iad")) as plane, asyncio.TaskGroup() as group:
        first = group.create_task(fetch(plane, wanted, holder))
        await servicer.is_asked.wait()
        second = group.create_task(
            plane.fetch(
                need_of(ahead),
                holder,
                run_id=OTHER_RUN,
                on_progress=nothing,
                priority=Priority.BACKGROUND,
            )
        )
        for _ in range(20):
            await asyncio.sleep(0)
        assert all(path != "f" for path, _ in servicer.asked)
        servicer.may_send.set()
        await first
        await second
    assert [path for path, _ in servicer.asked][-1] == "f"


async def test_a_run_that_joins_a_copy_made_ahead_hurries_it(network: Network) -> None:
    store = network.store("fra")
    slow = network.content(store, FILES, "slow")
    ahead = network.content(store, {"f": b"ahead"}, "ahead")
    servicer = Waiting(store)
    blocked = await network.serve(store, servicer)
    other = await network.serve(store)
    async with network.plane(network.store("iad")) as plane, asyncio.TaskGroup() as group:
        first = group.create_task(fetch(plane, slow, blocked))
        await servicer.is_asked.wait()
        copying = group.create_task(
            plane.fetch(
                need_of(ahead),
                other,
                run_id=OTHER_RUN,
                on_progress=nothing,
                priority=Priority.BACKGROUND,
            )
        )
        await asyncio.sleep(0)
        await fetch(plane, ahead, other)
        await copying
        assert not first.done()
        servicer.may_send.set()


async def test_a_capped_link_is_asked_for_no_more_than_its_burst(network: Network) -> None:
    store = network.store("fra")
    artifact = network.content(store, FILES)
    lengths: list[int] = []

    class Noting(ArtifactServicer):
        async def ReadFile(self, request: Any, context: Any) -> None:
            lengths.append(request.length_bytes)
            await super().ReadFile(request, context)

    holder = await network.serve(store, Noting(store))
    here = network.store("iad")
    plane = ArtifactPlane(
        here, network.channels, SystemClock(), get_logger(), link_cap_bytes_per_s=50e6
    )
    async with plane:
        await fetch(plane, artifact, holder)
        assert_holds(here, artifact, FILES)
    assert max(lengths) <= 50e6 * 0.25


# ---- manifests and needs that lie ---------------------------------------------------------------


def manifest(*entries: tuple[str, int]) -> Manifest:
    digest = hashlib.sha256(b"x").hexdigest()
    return Manifest(MODEL, tuple(FileEntry(path, size, sha256=digest) for path, size in entries))


@pytest.mark.parametrize(
    "lie",
    [
        manifest(("../../escape", 1)),
        manifest(("/etc/escape", 1)),
        manifest(("a", 1), ("a/b", 1)),
        manifest(("a", 2**62)),
        manifest(("a", -5), ("b", 6)),
        manifest(("b", 1), ("a", 1)),
        manifest(),
        manifest(("another", 1)),
        replace(manifest(("a", 1)), files=(FileEntry("a", 1, sha256="../../x"),)),
    ],
)
async def test_a_manifest_that_lies_writes_nothing(network: Network, lie: Manifest) -> None:
    _, artifact = await network.holder("sin")
    liar = await network.serve(network.store("fra"), OtherManifest(network.store("fra"), lie))
    here = network.store("iad")
    async with network.plane(here) as plane:
        with pytest.raises((DigestMismatchError, PeerUnreachableError)):
            await fetch(plane, artifact, liar)
    assert not list(network.path.rglob("*escape*"))
    assert here.cache.holdings() == ()


async def test_a_true_digest_of_an_unsafe_manifest_writes_nothing(network: Network) -> None:
    """The id hashes right, since whoever made the artifact made the path."""
    unsafe = manifest(("../../../escape", 1))
    liar = await network.serve(network.store("fra"), OtherManifest(network.store("fra"), unsafe))
    artifact = Artifact(unsafe.artifact_id, MODEL, name="m", size_bytes=1)
    async with network.plane(network.store("iad")) as plane:
        with pytest.raises(PeerUnreachableError, match="does not stay inside"):
            await fetch(plane, artifact, liar)
    assert not list(network.path.rglob("*escape*"))


async def test_a_custodian_that_is_no_site_is_refused(network: Network) -> None:
    true = manifest(("f", 1))
    liar = await network.serve(
        network.store("fra"), OtherManifest(network.store("fra"), true, custodian="../x")
    )
    artifact = Artifact(true.artifact_id, MODEL, name="m", size_bytes=1)
    async with network.plane(network.store("iad")) as plane:
        with pytest.raises(PeerUnreachableError, match="is no site"):
            await fetch(plane, artifact, liar)


async def test_a_claim_of_exabytes_is_refused_before_anybody_is_asked(network: Network) -> None:
    store = network.store("fra")
    artifact = network.content(store, FILES)
    servicer = Counting(store)
    holder = await network.serve(store, servicer)
    async with network.plane(network.store("iad")) as plane:
        with pytest.raises(CacheFullError):
            await fetch(plane, replace(artifact, size_bytes=2**62), holder)
    assert servicer.asked == []


async def test_a_need_that_understates_the_size_is_refused(network: Network) -> None:
    holder, artifact = await network.holder("fra")
    async with network.plane(network.store("iad")) as plane:
        for wrong in (replace(artifact, size_bytes=5), replace(artifact, kind=DATA)):
            with pytest.raises(InvalidRequestError, match="but the need says"):
                await fetch(plane, wrong, holder)


async def test_a_malformed_need_is_refused(network: Network) -> None:
    holder, artifact = await network.holder("fra")
    async with network.plane(network.store("iad")) as plane:
        wrong_id = replace(artifact, artifact_id=ArtifactId("sha256:../../x"))
        for wrong in (wrong_id, replace(artifact, name="../x"), replace(artifact, size_bytes=0)):
            with pytest.raises(InvalidRequestError):
                await fetch(plane, wrong, holder)


# ---- cancellation and the end -------------------------------------------------------------------


@pytest.fixture
async def slow(network: Network) -> AsyncIterator[tuple[Waiting, Holder, Artifact]]:
    store = network.store("fra")
    artifact = network.content(store, FILES)
    servicer = Waiting(store)
    holder = await network.serve(store, servicer)
    yield servicer, holder, artifact
    servicer.may_send.set()


async def test_one_who_gives_up_does_not_stop_the_transfer_for_another(
    network: Network, slow: tuple[Waiting, Holder, Artifact]
) -> None:
    servicer, holder, artifact = slow
    async with network.plane(network.store("iad")) as plane, asyncio.TaskGroup() as group:
        first = group.create_task(fetch(plane, artifact, holder, run_id=RUN))
        await servicer.is_asked.wait()
        second = group.create_task(fetch(plane, artifact, holder, run_id=OTHER_RUN))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        servicer.may_send.set()
        result = await second
        assert (result.is_shared, result.bytes_moved) == (False, artifact.size_bytes)
        assert not plane.cache.is_pinned(artifact.artifact_id, RUN)
        assert plane.cache.is_pinned(artifact.artifact_id, OTHER_RUN)


async def test_the_last_to_give_up_stops_the_transfer_and_it_can_begin_anew(
    network: Network, slow: tuple[Waiting, Holder, Artifact]
) -> None:
    servicer, holder, artifact = slow
    here = network.store("iad")
    async with network.plane(here) as plane, asyncio.TaskGroup() as group:
        first = group.create_task(fetch(plane, artifact, holder))
        await servicer.is_asked.wait()
        first.cancel()
        await asyncio.wait([first])
        servicer.may_send.set()
        # At once, while the stopped transfer still cleans up.
        result = await fetch(plane, artifact, holder, run_id=OTHER_RUN)
        assert not result.is_shared
        assert_holds(here, artifact, FILES)


@pytest.mark.parametrize("turns", range(12))
async def test_a_fetch_may_be_cancelled_at_any_turn_of_the_loop(
    network: Network, turns: int
) -> None:
    holder, artifact = await network.holder("fra")
    here = network.store("iad")
    async with network.plane(here) as plane, asyncio.TaskGroup() as group:
        task = group.create_task(fetch(plane, artifact, holder))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        here.check_invariants()
        result = await fetch(plane, artifact, holder, run_id=OTHER_RUN)
        assert result.bytes_moved >= 0
        assert_holds(here, artifact, FILES)


async def test_giving_up_keeps_the_pin_a_run_had_before(
    network: Network, slow: tuple[Waiting, Holder, Artifact]
) -> None:
    servicer, holder, artifact = slow
    async with network.plane(network.store("iad")) as plane, asyncio.TaskGroup() as group:
        first = group.create_task(fetch(plane, artifact, holder, run_id=RUN))
        await servicer.is_asked.wait()
        plane.pin(artifact.artifact_id, OTHER_RUN)
        second = group.create_task(fetch(plane, artifact, holder, run_id=OTHER_RUN))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        assert plane.cache.is_pinned(artifact.artifact_id, OTHER_RUN)
        servicer.may_send.set()
        await first


async def test_the_planes_end_stops_transfers_and_tells_who_waits(
    network: Network, slow: tuple[Waiting, Holder, Artifact]
) -> None:
    servicer, holder, artifact = slow
    told: list[GcosError] = []

    async def one(plane: ArtifactPlane) -> None:
        try:
            await fetch(plane, artifact, holder)
        except SiteDrainingError as exc:
            told.append(exc)

    async with asyncio.TaskGroup() as group:
        async with network.plane(network.store("iad")) as plane:
            group.create_task(one(plane))
            await servicer.is_asked.wait()
        with pytest.raises(SiteDrainingError):
            await fetch(plane, artifact, holder)
    assert len(told) == 1


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_is_no_fault_of_the_source(network: Network) -> None:
    holder, artifact = await network.holder("fra")
    other, _ = await network.holder("sin")
    here = network.store("iad")
    async with network.plane(here) as plane:
        with file_size_limit(CHUNK_BYTES + 5), pytest.raises(CacheFullError, match="disk is full"):
            await fetch(plane, artifact, holder, other)
        assert_clean(here)
        await fetch(plane, artifact, holder)


# ---- adding -------------------------------------------------------------------------------------


async def test_an_added_directory_is_served_and_this_site_keeps_it(network: Network) -> None:
    source = network.path / "mine"
    source.mkdir()
    (source / "f").write_bytes(LARGE)
    here = network.store("iad")
    async with network.plane(here) as plane:
        artifact, is_new = await plane.add(source, "mine", MODEL)
        assert (artifact.custodian, is_new) == (HERE, True)
        assert await plane.add(source, "mine", MODEL) == (artifact, False)
        alias, is_new = await plane.add(source, "alias", MODEL)
        assert (alias.artifact_id, is_new) == (artifact.artifact_id, True)
        assert plane.cache.holdings() == (alias, artifact)
        assert plane.cache.evictions_for(MODEL, 100 * CHUNK_BYTES) is None
        there = network.store("fra")
        async with network.plane(there) as other:
            await fetch(other, artifact, await network.serve(here))
            assert there.cache.holdings() == (artifact,), "the custodian is still the first site"
            other.unpin(artifact.artifact_id, RUN)
            assert there.cache.evictions_for(MODEL, 100 * CHUNK_BYTES) == (artifact.artifact_id,)


async def test_adding_twice_at_once_stores_one_copy(network: Network) -> None:
    source = network.path / "mine"
    source.mkdir()
    (source / "f").write_bytes(LARGE)
    async with network.plane(network.store("iad")) as plane:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(plane.add(source, "mine", MODEL)) for _ in range(3)]
        assert sorted(task.result()[1] for task in tasks) == [False, False, True]


async def test_adding_what_is_being_fetched_waits_for_it(
    network: Network, slow: tuple[Waiting, Holder, Artifact]
) -> None:
    servicer, holder, artifact = slow
    async with network.plane(network.store("iad")) as plane, asyncio.TaskGroup() as group:
        coming = group.create_task(fetch(plane, artifact, holder))
        await servicer.is_asked.wait()
        adding = group.create_task(plane.add(network.path / "source-fra-tiny", "tiny", MODEL))
        servicer.may_send.set()
        await coming
        assert await adding == (artifact, False)


@pytest.mark.parametrize("turns", range(0, 12, 2))
async def test_adding_may_be_cancelled_at_any_turn_of_the_loop(
    network: Network, turns: int
) -> None:
    source = network.path / "mine"
    source.mkdir()
    for number in range(5):
        (source / f"{number}").write_bytes(LARGE)
    here = network.store("iad")
    async with network.plane(here) as plane, asyncio.TaskGroup() as group:
        task = group.create_task(plane.add(source, "mine", MODEL))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert_clean(here)


# ---- serving ------------------------------------------------------------------------------------


@asynccontextmanager
async def calling(network: Network, holder: Holder) -> AsyncIterator[Any]:
    with translated():
        yield artifacts_pb2_grpc.ArtifactServiceStub(network.channels.get(holder.address))


async def read(stub: Any, artifact: Artifact, path: str, offset: int, length: int) -> list[bytes]:
    request = artifacts_pb2.ReadFileRequest(
        artifact_id=artifact.artifact_id, path=path, offset_bytes=offset, length_bytes=length
    )
    return [response.data async for response in stub.ReadFile(request, timeout=HANG_S)]


async def test_a_part_of_a_file_comes_in_chunks_of_at_most_a_mebibyte(network: Network) -> None:
    holder, artifact = await network.holder("fra")
    async with calling(network, holder) as stub:
        chunks = await read(stub, artifact, "weights/part.bin", 10, 0)
        assert b"".join(chunks) == LARGE[10:]
        assert max(map(len, chunks)) == CHUNK_BYTES
        assert await read(stub, artifact, "weights/part.bin", 7, 5) == [LARGE[7:12]]
        assert await read(stub, artifact, "empty", 0, 0) == []
        assert await read(stub, artifact, "config.json", 2, 0) == []


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, 0), (0, -1), (3, 0), (0, 3), (1, 2), (2**62, 2**62)]
)
async def test_a_part_outside_the_file_is_refused(
    network: Network, offset: int, length: int
) -> None:
    holder, artifact = await network.holder("fra")
    async with calling(network, holder) as stub:
        with pytest.raises(InvalidRequestError, match="not inside the 2 bytes"), translated():
            await read(stub, artifact, "config.json", offset, length)


@pytest.mark.parametrize(
    "path", ["../manifest.json", "/etc/passwd", "weights", "weights/../config.json", "", "no"]
)
async def test_only_files_of_the_manifest_are_served(network: Network, path: str) -> None:
    holder, artifact = await network.holder("fra")
    async with calling(network, holder) as stub:
        with pytest.raises(ArtifactNotFoundError), translated():
            await read(stub, artifact, path, 0, 0)


async def test_what_is_still_coming_is_not_served(
    network: Network, slow: tuple[Waiting, Holder, Artifact]
) -> None:
    servicer, holder, artifact = slow
    here = network.store("iad")
    middle = await network.serve(here)
    async with network.plane(here) as plane, asyncio.TaskGroup() as group:
        task = group.create_task(fetch(plane, artifact, holder))
        await servicer.is_asked.wait()
        async with calling(network, middle) as stub:
            with pytest.raises(ArtifactNotFoundError), translated():
                await read(stub, artifact, "config.json", 0, 0)
        assert plane.cache.holdings() == ()
        servicer.may_send.set()
        await task


async def test_an_artifact_stays_while_it_is_read_and_may_go_when_the_reader_does(
    network: Network,
) -> None:
    store = network.store("fra")
    content = {"f": bytes(40 * CHUNK_BYTES)}
    artifact = network.content(store, content)
    store.cache.set_custodian(artifact.artifact_id, None, is_custodian=False)
    servicer = Ending(store)
    holder = await network.serve(store, servicer)
    all_bytes = 100 * CHUNK_BYTES
    request = artifacts_pb2.ReadFileRequest(artifact_id=artifact.artifact_id, path="f")
    async with calling(network, holder) as stub, asyncio.timeout(HANG_S):
        call = stub.ReadFile(request)
        assert len((await call.read()).data) == CHUNK_BYTES
        assert store.cache.evictions_for(MODEL, all_bytes) is None
        call.cancel()
        await servicer.has_ended.wait()
        assert store.cache.evictions_for(MODEL, all_bytes) == (artifact.artifact_id,)
        # One that stays and takes nothing is waited for, and let go.
        servicer.has_ended.clear()
        servicer._idle_s = 0.1
        call = stub.ReadFile(request)
        await servicer.has_ended.wait()
        assert store.cache.evictions_for(MODEL, all_bytes) == (artifact.artifact_id,)
        call.cancel()


async def test_a_damaged_file_is_told_as_data_loss(network: Network) -> None:
    store = network.store("fra")
    artifact = network.content(store, FILES)
    holder = await network.serve(store)
    path = store.path_of(artifact.artifact_id) / "config.json"
    path.chmod(0o644)
    path.write_bytes(b"{")
    async with calling(network, holder) as stub:
        with pytest.raises(DigestMismatchError, match=r"config\.json"), translated():
            await read(stub, artifact, "config.json", 0, 0)
        path.unlink()
        with pytest.raises(DigestMismatchError, match=r"config\.json"), translated():
            await read(stub, artifact, "config.json", 0, 0)
    assert store.cache.pinned_bytes(MODEL) == 0


async def test_what_a_smaller_cache_drops_at_the_start_is_noted(network: Network) -> None:
    store = network.store("iad")
    source = network.path / "upstream"
    source.mkdir()
    (source / "f").write_bytes(b"abc")
    gone, _ = store.import_directory(source, "gone", MODEL, None, now_s=0.0)
    notes = CopyLog(MemoryStore(), SystemClock(), get_logger())
    smaller = network.store("iad", capacity_bytes=2)
    async with ArtifactPlane(smaller, network.channels, SystemClock(), get_logger(), notes=notes):
        (event,) = notes.latest(10)
    assert (event.kind, event.artifact_id, event.name) == ("evicted", gone.artifact_id, "gone")
    assert event.why == "the model cache is smaller now"


# ---- mending ------------------------------------------------------------------------------------


async def damaged_copy(network: Network) -> tuple[ArtifactStore, Artifact]:
    """Return a store whose copy of the long artifact has a flipped bit in its sixth chunk."""
    here = network.store("iad")
    artifact = network.content(here, LONG)
    here.examine(artifact.artifact_id)  # notes the digests of chunks
    path = here.path_of(artifact.artifact_id) / "weights"
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(5 * CHUNK_BYTES + 7)
        file.write(b"!")
    return here, artifact


def read_long(entry: FileEntry, offset: int, length: int) -> bytes:
    return LONG[entry.path][offset : offset + length]


async def test_a_damaged_copy_is_mended_with_the_bad_chunk_alone(network: Network) -> None:
    store = network.store("fra")
    network.content(store, LONG)
    counting = Counting(store)
    holder = await network.serve(store, counting)
    here, artifact = await damaged_copy(network)
    found = here.examine(artifact.artifact_id)
    assert found.bad_bytes == CHUNK_BYTES
    async with network.plane(here) as plane:
        here.cache.open_reader(artifact.artifact_id)
        await plane.mend(found, need_of(artifact, holder))
        here.cache.close_reader(artifact.artifact_id)
    assert_holds(here, artifact, LONG)
    assert counting.asked == [("weights", 5 * CHUNK_BYTES)]


async def test_a_holder_that_is_away_or_wrong_is_passed_over_when_mending(
    network: Network,
) -> None:
    wrong, artifact = await long_holder(
        network, "fra", lambda store: Rotten(store, 5 * CHUNK_BYTES)
    )
    away = Holder(SiteId("gone"), zone="X", address="127.0.0.1:1")
    good, _ = await long_holder(network, "sin", ArtifactServicer)
    here, _ = await damaged_copy(network)
    found = here.examine(artifact.artifact_id)
    async with network.plane(here) as plane:
        with pytest.raises(DigestMismatchError, match="fra"):
            await plane.mend(found, need_of(artifact, wrong))
        with pytest.raises(PeerUnreachableError, match="gone"):
            await plane.mend(found, need_of(artifact, away))
        with pytest.raises(ArtifactNotFoundError):
            await plane.mend(found, need_of(artifact))
        await plane.mend(found, need_of(artifact, away, wrong, good))
    assert_holds(here, artifact, LONG)


async def test_a_fetch_of_a_damaged_copy_brings_the_bad_chunk_alone(network: Network) -> None:
    store = network.store("fra")
    network.content(store, LONG)
    counting = Counting(store)
    holder = await network.serve(store, counting)
    here, artifact = await damaged_copy(network)
    here.examine(artifact.artifact_id)
    async with network.plane(here) as plane:
        with pytest.raises(DigestMismatchError):
            plane.path_of(artifact.artifact_id)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(fetch(plane, artifact, holder))
            second = group.create_task(fetch(plane, artifact, holder, run_id=OTHER_RUN))
        assert plane.received_bytes == CHUNK_BYTES
    assert first.result().bytes_moved + second.result().bytes_moved == CHUNK_BYTES
    assert counting.asked == [("weights", 5 * CHUNK_BYTES)]
    assert here.cache.is_pinned(artifact.artifact_id, RUN)
    assert here.cache.is_pinned(artifact.artifact_id, OTHER_RUN)
    assert_holds(here, artifact, LONG)


async def test_a_damaged_copy_is_no_holder_and_a_fetch_that_cannot_mend_it_keeps_it(
    network: Network,
) -> None:
    here, artifact = await damaged_copy(network)
    here.examine(artifact.artifact_id)
    holder = await network.serve(here)
    other = network.store("sin")
    async with network.plane(other) as plane:
        with pytest.raises((DigestMismatchError, PeerUnreachableError)):
            await fetch(plane, artifact, holder)
    away = Holder(SiteId("gone"), zone="X", address="127.0.0.1:1")
    async with network.plane(here) as plane:
        with pytest.raises(PeerUnreachableError):
            await fetch(plane, artifact, away)
        asked: list[Artifact] = []

        async def upstream(wanted: Artifact) -> None:
            asked.append(wanted)
            here.repair(here.examine(wanted.artifact_id), read_long)

        plane.mend_from_upstream = upstream
        assert (await fetch(plane, artifact, away)).bytes_moved == 0
    assert [each.artifact_id for each in asked] == [artifact.artifact_id]
    assert_holds(here, artifact, LONG)


async def test_adding_what_is_damaged_here_mends_it(network: Network) -> None:
    here, artifact = await damaged_copy(network)
    here.examine(artifact.artifact_id)
    async with network.plane(here) as plane:
        _, is_new = await plane.add(network.path / "source-iad-tiny", "tiny", MODEL)
    assert not is_new
    assert_holds(here, artifact, LONG)


# ---- digests of chunks --------------------------------------------------------------------------


async def test_what_was_fetched_has_digests_of_its_chunks_from_the_start(network: Network) -> None:
    holder, artifact = await long_holder(network, "fra", ArtifactServicer)
    here = network.store("iad")
    async with network.plane(here) as plane:
        await fetch(plane, artifact, holder)
    (entry,) = here.record_of(artifact.artifact_id).manifest.files
    notes = here.chunk_digests(artifact.artifact_id)
    assert notes is not None
    assert notes.of(entry) == tuple(blake3(bytes([n]) * CHUNK_BYTES).digest() for n in range(40))


async def test_digests_that_no_holder_tells_are_not_made_up(network: Network) -> None:
    holder, artifact = await long_holder(network, "fra", Forgetting)
    here = network.store("iad")
    async with network.plane(here) as plane:
        await fetch(plane, artifact, holder)
    assert here.chunk_digests(artifact.artifact_id) is None
    assert here.examine(artifact.artifact_id).bad == ()
    assert here.chunk_digests(artifact.artifact_id) is not None
