"""Pulls among themselves, and what is left of those that fail."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gcos.artifacts import ArtifactKind
from gcos.errors import (
    ArtifactNotFoundError,
    DigestMismatchError,
    InvalidRequestError,
    QueueFullError,
    WrongStateError,
)
from site_agent.cache_marks import OPERATOR
from site_agent.sources import pull as pull_module
from site_agent.sources import source as source_module
from testbed.fake_registries import FakeUpstream, Fault

DATA = ArtifactKind.DATA
BODY = bytes(range(256)) * 4096


async def test_two_who_pull_one_reference_share_it(site: Any, upstream: FakeUpstream) -> None:
    url = upstream.put("/text", BODY)
    puller = site.puller()
    async with asyncio.TaskGroup() as group:
        pulls = [
            group.create_task(puller.pull(puller.prepared(url, name, DATA))) for name in ("a", "b")
        ]
    assert len(upstream.gets("/text")) == 1
    assert [pull.result().artifact.name for pull in pulls] == ["a", "b"]
    site.check_clean()


async def test_a_cancelled_pull_ends_in_its_pause_and_leaves_nothing(
    site: Any, upstream: FakeUpstream
) -> None:
    url = upstream.put("/text", BODY)
    upstream.fail("/text", Fault(cut_after_bytes=600_000), *[Fault(503)] * 50)
    puller = site.puller()
    puller._pause = None  # its own pause, which lasts until it is stopped
    order = puller.prepared(url, "text", DATA)
    async with asyncio.TaskGroup() as group:
        pulling = group.create_task(puller.pull(order))
        while order.pull.received_bytes == 0:
            await asyncio.sleep(0)
        assert puller.pulls() == (order.pull,)
        pulling.cancel()
    assert pulling.cancelled()
    assert puller.pulls() == ()
    site.check_clean()


async def test_disk_use_never_exceeds_what_is_reserved(site: Any, upstream: FakeUpstream) -> None:
    """I4, sampled at every pause of a pull that is cut again and again."""
    url = upstream.put("/text", BODY)
    upstream.fail("/text", *[Fault(cut_after_bytes=100_000)] * 6)
    seen: list[tuple[int, int]] = []

    def sample(_: float) -> None:
        inodes = {}
        for where in ("cache", "pulls"):
            for path in (site.path / where).rglob("*"):
                status = path.lstat()
                if path.is_file() and path.suffix != ".json":
                    inodes[status.st_ino] = status.st_size
        usages = site.store.cache.usages()
        held = sum(usage.occupied_bytes + usage.reserved_bytes for usage in usages)
        seen.append((sum(inodes.values()), held))

    puller = site.puller(sample)
    await puller.pull(puller.prepared(url, "text", DATA))
    assert len(seen) == 6
    assert all(0 < on_disk <= held for on_disk, held in seen)


async def test_too_many_pulls_are_refused(
    site: Any, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "PULL_COUNT_MAX", 0)
    with pytest.raises(QueueFullError):
        site.puller().prepared(upstream.url + "/x", "x", DATA)


async def test_what_a_peer_brings_at_the_same_time_is_waited_for(
    site: Any, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "_POLL_S", 0.0)
    url = upstream.put("/text", BODY)
    first = await site.pull(url, "text", DATA)
    record = site.store.record_of(first.artifact.artifact_id)
    site.store.discard(record.manifest.artifact_id, site.store.drop(record.manifest.artifact_id))
    reservation = site.store.reserve(record.artifact(), now_s=0.0)
    puller = site.puller()
    order = puller.prepared(url, "text", DATA)
    async with asyncio.TaskGroup() as group:
        pulling = group.create_task(puller.pull(order))
        while not order.pull.note.startswith("waits for a peer"):
            await asyncio.sleep(0)
        site.store.release(reservation)
    assert pulling.result().is_new


def test_a_missing_library_says_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(WrongStateError, match="httpx2 is not installed") as raised:
        source_module.library("httpx2", "sources")
    assert "gcos[sources]" in raised.value.hint


def test_an_agent_starts_without_the_libraries_of_sources() -> None:
    code = (
        "import sys, site_agent.wiring, site_agent.operator_servicer;"
        "print(sorted({n.partition('.')[0] for n in sys.modules}"
        " & {'httpx2', 'httpcore2', 'huggingface_hub', 'fsspec', 's3fs', 'aiohttp'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ},
    )
    assert done.stdout.strip() == "[]"


async def test_no_thread_is_left_of_a_pull(site: Any, upstream: FakeUpstream) -> None:
    await site.pull(upstream.put("/text", BODY), "text", DATA)
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("gcos-pull")]


async def test_a_name_that_is_none_is_refused_before_anything_is_asked(
    site: Any, upstream: FakeUpstream
) -> None:
    with pytest.raises(InvalidRequestError, match="no artifact name"):
        await site.pull(upstream.url + "/x", "../x", DATA)
    assert upstream.asked == []


def damage(site: Any, pulled: Any) -> None:
    """Flip a byte of the only file of what was pulled, and have that found."""
    known = pulled.artifact.artifact_id
    (path,) = (path for path in site.store.path_of(known).rglob("*") if path.is_file())
    path.chmod(0o600)
    path.write_bytes(b"!" + path.read_bytes()[1:])
    assert site.store.examine(known).bad
    assert not site.store.cache.has(known)


@pytest.mark.parametrize("is_web", [False, True])
async def test_pulling_what_is_damaged_here_mends_it(
    site: Any, upstream: FakeUpstream, is_web: bool
) -> None:
    (site.path / "shared" / "text").write_bytes(BODY)
    web = upstream.put("/text", BODY)
    reference = web if is_web else f"file://{site.path}/shared/text"
    pulled = await site.pull(reference, "text", DATA)
    damage(site, pulled)
    if not is_web:  # known by the digest of its listing, it is mended where it lies
        site.store.cache._caches[DATA].capacity_bytes = len(BODY)
    site.store.cache.pin(pulled.artifact.artifact_id, OPERATOR)
    again = await site.pull(reference, "text", DATA)
    assert again.artifact.artifact_id == pulled.artifact.artifact_id
    assert site.store.cache.has(pulled.artifact.artifact_id)
    assert list(site.files(again).values()) == [BODY]


async def test_a_damaged_copy_is_mended_from_where_it_was_pulled(site: Any) -> None:
    path = site.path / "shared" / "text"
    path.write_bytes(BODY)
    puller = site.puller()
    pulled = await puller.pull(puller.prepared(f"file://{path}", "text", DATA))
    damage(site, pulled)
    path.write_bytes(b"?" + BODY[1:])
    with pytest.raises(DigestMismatchError, match="any more"):
        await puller.mend(pulled.artifact)
    assert not site.store.cache.has(pulled.artifact.artifact_id)
    path.write_bytes(BODY)
    await puller.mend(pulled.artifact)
    assert list(site.files(pulled).values()) == [BODY]
    site.marks._marks.clear()
    with pytest.raises(ArtifactNotFoundError, match="not pulled"):
        await puller.mend(pulled.artifact)
    site.check_clean()
