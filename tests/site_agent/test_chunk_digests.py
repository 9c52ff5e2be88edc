"""Whom a download asks for digests of chunks, and when it asks again."""

import asyncio
from typing import cast

from gcos.artifacts import CHUNK_BYTES, FileEntry
from gcos.contract_net import Holder
from gcos.errors import PeerUnreachableError
from gcos.ids import SiteId
from site_agent.chunk_board import ChunkId
from site_agent.chunk_digests import SEGMENT_BYTES, ChunkDigests
from site_agent.peer_source import PeerSource, SourceError

FRA = SiteId("fra")
FILE = FileEntry(path="weights", size_bytes=3 * SEGMENT_BYTES, sha256="ab" * 32)
CHUNK_COUNT = SEGMENT_BYTES // CHUNK_BYTES


class Giver:
    """Tells of the first segment; fails at the second and hangs at the third until it is back."""

    site_id = FRA

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.is_back = False
        self.was_asked = asyncio.Event()

    async def chunk_digests(self, path: str, offset_bytes: int, chunk_count: int) -> bytes:
        assert (path, chunk_count) == (FILE.path, CHUNK_COUNT)
        number = offset_bytes // SEGMENT_BYTES
        self.asked.append(number)
        if number == 2 and not self.is_back:
            self.was_asked.set()
            await asyncio.Event().wait()
        if number == 1 and not self.is_back:
            holder = Holder(FRA, zone="DE", address="127.0.0.1:1")
            raise SourceError(holder, PeerUnreachableError("nothing passes"))
        return bytes([number]) * 32 * chunk_count


async def test_what_nobody_told_is_asked_again_once_a_giver_is_back() -> None:
    giver = Giver()
    digests = ChunkDigests((FILE,), givers=lambda: [cast("PeerSource", giver)], distrusted=set())
    first, second, third = (ChunkId(0, number * SEGMENT_BYTES, CHUNK_BYTES) for number in range(3))
    async with asyncio.timeout(60.0), asyncio.TaskGroup() as group:
        assert await digests.of(first, group) == bytes(32)
        assert await digests.of(second, group) is None
        digests.prepare(third, group)
        await giver.was_asked.wait()
        giver.is_back = True
        digests.forget_unknown()
        assert [await digests.of(each, group) for each in (first, second, third)] == [
            bytes([number]) * 32 for number in range(3)
        ]
    assert giver.asked == [0, 1, 2, 1, 2]
