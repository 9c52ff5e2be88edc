"""Files that arrive, written in order by one thread, and the digests of their chunks."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from blake3 import blake3

from gcos.artifacts import CHUNK_BYTES, ArtifactKind, FileEntry, Manifest
from gcos.errors import CacheFullError
from gcos.ids import SiteId
from site_agent.artifact_store import ArtifactStore
from site_agent.assembly import Assembly
from site_agent.chunk_board import Arrived, ChunkId
from site_agent.digest_notes import chunk_digest
from site_agent.partial_file import PartialFile
from site_agent.stored_artifact import StoredArtifact

CONTENT = b"".join(bytes([n]) * CHUNK_BYTES for n in range(5)) + b"end"
ENTRY = FileEntry("w", size_bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def assembly(tmp_path: Path) -> Assembly:
    store = ArtifactStore.open(
        tmp_path / "cache",
        site_id=SiteId("fra"),
        model_capacity_bytes=1 << 30,
        data_capacity_bytes=1 << 30,
        allowed_roots=[],
    )
    manifest = Manifest(ArtifactKind.MODEL, (ENTRY,))
    record = StoredArtifact(("m",), manifest, placed_s=0.0)
    store.clear(store.reserve(record.artifact(), now_s=0.0))
    return Assembly(store, manifest.artifact_id, manifest.files)


def batch(number: int) -> list[Arrived]:
    offset = number * CHUNK_BYTES
    data = CONTENT[offset : offset + CHUNK_BYTES]
    return [Arrived(ChunkId(0, offset, len(data)), memoryview(data), SiteId("sin"))]


async def test_what_is_handed_over_while_a_batch_is_written_comes_after_it(
    assembly: Assembly,
) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(assembly.write(batch(number)))
    await assembly.settle()
    assembly.close()
    assert assembly.is_complete
    assert assembly.kept_bytes == len(CONTENT)


async def test_nothing_is_written_behind_what_the_disk_refused(
    assembly: Assembly, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = PartialFile.append
    refused: list[int] = []

    def appended(partial: PartialFile, data: bytes) -> None:
        if partial.received_bytes == CHUNK_BYTES and not refused:
            refused.append(len(data))
            raise CacheFullError("the disk is full")
        append(partial, data)

    monkeypatch.setattr(PartialFile, "append", appended)

    async def write_all() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(assembly.write(batch(number)))

    with pytest.raises(ExceptionGroup) as failure:
        await write_all()
    assert failure.group_contains(CacheFullError)
    assert assembly.offset_bytes == CHUNK_BYTES
    assembly.close()


def test_the_only_chunk_of_a_file_has_the_digest_of_the_file() -> None:
    small = FileEntry("s", size_bytes=3, sha256=hashlib.sha256(b"abc").hexdigest())
    assert chunk_digest(small, b"abc") == bytes.fromhex(small.sha256)
    assert chunk_digest(ENTRY, memoryview(b"abc")) == blake3(b"abc").digest()
