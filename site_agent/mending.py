"""Mends a damaged copy with the bytes of other holders: the bad ranges come, and nothing else."""

import asyncio
import functools
import threading
from collections.abc import Callable

from gcos.artifacts import FileEntry
from gcos.clock import Clock
from gcos.contract_net import ArtifactNeed, Holder
from gcos.errors import (
    ArtifactNotFoundError,
    DigestMismatchError,
    PeerUnreachableError,
    SiteDrainingError,
)
from gcos.rpc.channels import Channels
from site_agent.artifact_store import ArtifactStore
from site_agent.fetch_part import FetchPart
from site_agent.peer_source import PeerSource, SourceError
from site_agent.serving import IDLE_S
from site_agent.threads import in_thread
from site_agent.verification import Examination


async def mended(
    examination: Examination,
    need: ArtifactNeed,
    *,
    store: ArtifactStore,
    channels: Channels,
    clock: Clock,
    on_part: Callable[[FetchPart], None],
) -> Holder:
    """Bring what is wrong with an artifact, holder by holder until it is right.

    Somebody reads or pins it meanwhile.

    Args:
        examination: What is wrong.
        need: The artifact, and who has it.
        store: This site's.
        channels: To the holders.
        clock: Protocol time.
        on_part: Told what each holder sent, in vain or not.

    Returns:
        The holder that made it right.

    Raises:
        ArtifactNotFoundError: Nobody else has it, or it went.
        WrongStateError: Its files are another program's.
        DigestMismatchError: What every holder sent is wrong, too.
        PeerUnreachableError: No holder sent all of it.
        CacheFullError: The disk is full.
    """
    holders = [each for each in need.holders if each.site_id != store.site_id and each.address]
    if not holders:
        raise ArtifactNotFoundError(
            f"no other site is known to hold {need.name}", hint="add or pull it anew"
        )
    failures: list[str] = []
    is_wrong = True
    for holder in holders:
        source = PeerSource(holder, need, channels=channels, clock=clock, idle_s=IDLE_S)
        received_bytes: list[int] = []
        try:
            await _mended_from(source, examination, store, received_bytes.append)
        except SourceError as exc:
            is_wrong = is_wrong and isinstance(exc.error, DigestMismatchError)
            failures.append(str(exc))
        except DigestMismatchError as exc:
            failures.append(f"{holder.site_id}: {exc.message}")
        else:
            return holder
        finally:
            if received_bytes:
                on_part(FetchPart(holder, sum(received_bytes)))
    message = f"no holder could mend {need.name}: " + "; ".join(failures)
    raise DigestMismatchError(message) if is_wrong else PeerUnreachableError(message)


async def _mended_from(
    source: PeerSource,
    examination: Examination,
    store: ArtifactStore,
    on_bytes: Callable[[int], None],
) -> None:
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def read(entry: FileEntry, offset_bytes: int, length_bytes: int) -> bytes:
        if stop.is_set():
            raise SiteDrainingError("the repair was stopped")
        asked = _part(source, entry.path, offset_bytes, length_bytes)
        data = asyncio.run_coroutine_threadsafe(asked, loop).result()
        on_bytes(len(data))
        return data

    await in_thread(functools.partial(store.repair, examination, read), stop=stop)


async def _part(source: PeerSource, path: str, offset_bytes: int, length_bytes: int) -> bytes:
    """Return a part of a file, as a holder sends it."""
    data = bytearray()
    async with source.reading(path, offset_bytes, length_bytes, connection=0) as reading:
        while len(data) < length_bytes:
            chunk = await reading.chunk()
            assert chunk is not None, "nobody stops this reading"
            data += chunk
        await reading.end()
    return bytes(data)
