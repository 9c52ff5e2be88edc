"""Pulls among themselves, and what is left of those that fail."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gcos.artifacts import ArtifactKind
from gcos.errors import (
    ArtifactNotFoundError,
    DigestMismatchError,
    InvalidRequestError,
    QueueFullError,
    UnavailableError,
    WrongStateError,
)
from site_agent.cache_marks import OPERATOR
from site_agent.sources import pull as pull_module
from site_agent.sources import source as source_module
from site_agent.sources.download import StagedFile, Stop, Tries, bring_all
from site_agent.sources.source import Listing, SourceFile, UnknownHostError
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


@pytest.mark.parametrize(
    ("reference", "host"),
    [
        ("hf://org/nope", "hub.example"),
        ("https://no.example/x", "no.example"),
        ("ollama://x", "registry.ollama.ai"),
    ],
)
async def test_a_host_without_an_address_is_given_up_soon(
    site: Any, monkeypatch: pytest.MonkeyPatch, reference: str, host: str
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    site.environ["HF_ENDPOINT"] = "https://hub.example"
    site.hosts = ("no.example", "registry.ollama.ai")
    with pytest.raises(UnavailableError, match=f"no address is known of {host}") as raised:
        await site.pull(reference, "x", DATA)
    assert site.pauses_s == [1.0, 2.0, 4.0]
    assert "check the name of the host" in raised.value.hint


class Flickering:
    """A source whose host has no address between two halves of a file."""

    def __init__(self, failure_count: int, *, begins: bool) -> None:
        self._failures = [UnknownHostError("no address", host="a.example")] * failure_count
        self._begins = begins

    def resolve(self) -> Listing:
        raise AssertionError("it is listed")

    def read(self, file: SourceFile, offset_bytes: int) -> Iterator[bytes]:
        if self._begins and offset_bytes == 0:
            yield b"half"
        if self._failures:
            raise self._failures.pop()
        yield b"half"[: file.size_bytes - offset_bytes]

    def close(self) -> None:
        pass


@pytest.mark.parametrize("begins", [True, False])
def test_a_network_that_goes_in_the_middle_gets_more_patience(tmp_path: Path, begins: bool) -> None:
    staged = StagedFile(tmp_path / "0", SourceFile("x", size_bytes=8, address="x"))
    pauses_s: list[float] = []

    def bring() -> None:
        bring_all(
            Flickering(6, begins=begins),
            [staged],
            stop=Stop(),
            tries=Tries(pauses_s.append, lambda *_: None),
            on_bytes=lambda *_: None,
        )

    if begins:
        bring()
        assert staged.received_bytes == 8
    else:
        with pytest.raises(UnavailableError):
            bring()
    assert len(pauses_s) == (6 if begins else 3)


async def test_a_pull_says_what_interrupted_it_until_bytes_come(
    site: Any, upstream: FakeUpstream
) -> None:
    url = upstream.put("/text", BODY)
    upstream.fail("/text", Fault(503), Fault(cut_after_bytes=600_000))
    notes: list[str] = []
    puller = site.puller(lambda _: notes.append(order.pull.note))
    order = puller.prepared(url, "text", DATA)
    await puller.pull(order)
    assert "HTTP status 503" in notes[0]
    assert len(notes) == 2
    assert all(note.startswith("interrupted, to be tried again: ") for note in notes)
    assert order.pull.note == ""


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
