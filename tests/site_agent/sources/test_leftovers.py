"""Pulls that end with their process, and the next process that is asked for the same."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gcos.artifacts import Artifact, ArtifactKind
from gcos.ids import ArtifactId
from testbed.fake_registries import FakeUpstream, Fault, add_hub_repository

COMMIT = "c0ffee" * 6 + "c0ff"
WEIGHTS = bytes(range(256)) * 4096
FILES = {"config.json": b'{"model_type": "tiny"}', "model.safetensors": WEIGHTS}
CUT_BYTES = 600_000


class Net:
    """A hub whose large file breaks off, and the path of that file at the CDN."""

    def __init__(self, site: Any, hub: FakeUpstream, cdn: FakeUpstream) -> None:
        site.environ["HF_ENDPOINT"] = hub.url
        self.hub, self.cdn = hub, cdn
        self.offer(FILES)
        self.path = next(path for path, each in cdn.answers.items() if each.body == WEIGHTS)
        cdn.fail(self.path, Fault(cut_after_bytes=CUT_BYTES), *[Fault(503)] * 50)

    def offer(self, files: dict[str, bytes]) -> None:
        add_hub_repository(
            self.hub, self.cdn, "org/tiny", files, lfs=("model.safetensors",), commit=COMMIT
        )

    def ranges(self) -> list[int]:
        """Return from where the large file was asked for, 0 for all of it."""
        asked = [each.headers.get("range") or "bytes=0-" for each in self.cdn.gets(self.path)]
        return [int(each.removeprefix("bytes=").removesuffix("-")) for each in asked]


@pytest.fixture
def net(site: Any, upstream: FakeUpstream, cdn: FakeUpstream) -> Net:
    return Net(site, upstream, cdn)


async def stopped(site: Any, net: Net) -> Path:
    """Pull until the large file has broken off, and let the process stop there."""
    puller = site.puller()
    puller._pause = None  # its own pause, which lasts until it is stopped
    order = puller.prepared("hf://org/tiny", "", None)
    async with asyncio.TaskGroup() as group:
        pulling = group.create_task(puller.pull(order))
        while order.pull.received.get("model.safetensors", 0) < CUT_BYTES:
            await asyncio.sleep(0)
        puller.keep_unfinished()
        pulling.cancel()
    (place,) = (site.path / "pulls").iterdir()
    assert list((site.path / "cache" / "partial").iterdir()) == []
    net.cdn.faults[net.path].clear()
    assert isinstance(place, Path)
    return place


def large_file(place: Path) -> Path:
    return max((path for path in place.iterdir()), key=lambda path: path.stat().st_size)


def restart(site: Any) -> Any:
    site.store = site.opened()
    return site.puller()


def reserved_bytes(site: Any) -> int:
    return sum(usage.reserved_bytes for usage in site.store.cache.usages())


async def test_the_next_process_goes_on_where_the_last_one_stopped(site: Any, net: Net) -> None:
    await stopped(site, net)
    before_count = len(net.ranges())
    puller = restart(site)
    assert reserved_bytes(site) == sum(map(len, FILES.values())), "what lies here is counted"
    (left,) = puller.pulls()
    assert left.reference == "hf://org/tiny"
    assert left.received_bytes >= CUT_BYTES
    assert "go on" in left.note
    pulled = await puller.pull(puller.prepared("hf://org/tiny", "", None))
    assert site.files(pulled) == FILES
    assert all(first >= CUT_BYTES for first in net.ranges()[before_count:])
    site.check_clean()
    assert puller.pulls() == ()


async def test_it_may_stop_again_and_again(site: Any, net: Net) -> None:
    await stopped(site, net)
    puller = restart(site)
    order = puller.prepared("hf://org/tiny", "", None)
    async with asyncio.TaskGroup() as group:
        pulling = group.create_task(puller.pull(order))
        while not order.pull.received:
            await asyncio.sleep(0)
        puller.keep_unfinished()
        pulling.cancel()
    puller = restart(site)
    assert site.files(await puller.pull(puller.prepared("hf://org/tiny", "", None))) == FILES
    site.check_clean()


async def test_what_was_spoilt_meanwhile_comes_anew(site: Any, net: Net) -> None:
    place = await stopped(site, net)
    with large_file(place).open("r+b") as file:
        file.write(b"spoilt")
    puller = restart(site)
    pulled = await puller.pull(puller.prepared("hf://org/tiny", "", None))
    assert site.files(pulled) == FILES
    assert net.ranges()[-1] == 0
    site.check_clean()


async def test_what_the_source_has_changed_comes_anew(site: Any, net: Net) -> None:
    await stopped(site, net)
    newer = {**FILES, "model.safetensors": WEIGHTS[::-1]}
    net.offer(newer)
    puller = restart(site)
    pulled = await puller.pull(puller.prepared("hf://org/tiny", "", None))
    assert site.files(pulled) == newer
    site.check_clean()


async def test_what_is_left_gives_way_to_whatever_wants_its_room(site: Any, net: Net) -> None:
    await stopped(site, net)
    puller = restart(site)
    usage = site.store.cache.usage(ArtifactKind.MODEL)
    wanted = Artifact(
        ArtifactId("sha256:" + "1" * 64),
        kind=ArtifactKind.MODEL,
        name="wanted",
        size_bytes=usage.capacity_bytes,
    )
    reservation = site.store.reserve(wanted, now_s=0.0)
    assert puller.pulls() == ()
    site.store.clear(reservation)
    assert list((site.path / "pulls").iterdir()) == []
    assert list((site.path / "cache" / "trash").iterdir()) == []
    site.store.drop_partial(reservation)
    site.store.release(reservation)
    assert reserved_bytes(site) == 0
    pulled = await puller.pull(puller.prepared("hf://org/tiny", "", None))
    assert site.files(pulled) == FILES
    site.check_clean()


async def test_what_does_not_fit_any_more_is_removed(site: Any, net: Net) -> None:
    await stopped(site, net)
    site.capacity_bytes = 1000
    restart(site)
    site.check_clean()


@pytest.mark.parametrize("claim", ["size", "name", "note", "link"])
async def test_a_note_that_lies_is_not_believed(site: Any, net: Net, claim: str) -> None:
    place = await stopped(site, net)
    note = json.loads((place / "listing.json").read_text())
    if claim == "size":
        for file in note["files"]:
            file["size_bytes"] = 1 << 60
    elif claim == "name":
        note["name"] = "../../etc"
    elif claim == "link":
        victim = site.path / "victim"
        victim.write_bytes(b"v" * 10)
        for path in place.iterdir():
            if path.name != "listing.json":
                path.unlink()
                path.symlink_to(victim)
    text = "{" if claim == "note" else json.dumps(note)
    (place / "listing.json").write_text(text)
    restart(site)
    site.check_clean()


async def test_a_file_whose_digest_nobody_states_comes_anew(
    site: Any, upstream: FakeUpstream
) -> None:
    """After a power cut nobody could tell whether its beginning is right."""
    url = upstream.put("/text", WEIGHTS)
    upstream.fail("/text", Fault(cut_after_bytes=CUT_BYTES), *[Fault(503)] * 50)
    puller = site.puller()
    puller._pause = None
    order = puller.prepared(url, "text", ArtifactKind.DATA)
    async with asyncio.TaskGroup() as group:
        pulling = group.create_task(puller.pull(order))
        while order.pull.received_bytes < CUT_BYTES:
            await asyncio.sleep(0)
        puller.keep_unfinished()
        pulling.cancel()
    assert list((site.path / "pulls").iterdir())
    restart(site)
    site.check_clean()
