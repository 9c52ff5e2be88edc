"""The store where a process dies, or a disk is full, at any call to the kernel."""

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gcos.artifacts import ArtifactKind
from gcos.errors import CacheFullError
from gcos.ids import SiteId
from site_agent.artifact_store import ArtifactStore

WORKLOAD = Path(__file__).with_name("store_workload.py")
# What a killed process leaves does not depend on the medium, and fsync costs nothing in memory.
MEMORY = Path("/dev/shm")


@pytest.fixture
def place() -> Iterator[Path]:
    where = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as directory:
        yield Path(directory)


def points(place: Path, what: str) -> int:
    done = subprocess.run(
        [sys.executable, WORKLOAD, place, what],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    count: int = json.loads(done.stdout)["points"]
    return count


def test_a_process_killed_at_any_call_leaves_nothing_half_done(place: Path) -> None:
    """Every fsync, rename, link, write, mkdir and unlink; writes die half-way."""
    assert points(place, "kills") > 100


def test_a_process_killed_again_while_it_recovers_leaves_nothing_half_done(place: Path) -> None:
    assert points(place, "recovery") > 30


def test_a_disk_full_at_any_call_is_told_and_leaves_nothing_half_done(place: Path) -> None:
    assert points(place, "full") > 60


# ---- a real file system that is full ------------------------------------------------------------

DISK_BYTES = 1 << 20
PAGE_BYTES = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    where = tmp_path / "disk"
    where.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    options = f"size={DISK_BYTES},nr_inodes=1000,mode=0700"
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", options, "tmpfs", where],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True, timeout=30)


def fill(path: Path, free_pages: int) -> None:
    """Leave so many pages free."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(PAGE_BYTES))
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                raise
        size_bytes = os.fstat(file.fileno()).st_size
    os.truncate(path, max(0, size_bytes - free_pages * PAGE_BYTES))


def test_a_full_file_system_is_told_and_leaves_no_trace(disk: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(4):
        (source / f"{number}.bin").write_bytes(bytes([number]) * 5 * PAGE_BYTES)

    def open_store() -> ArtifactStore:
        return ArtifactStore.open(
            disk / "site",
            site_id=SiteId("iad"),
            model_capacity_bytes=10 * DISK_BYTES,
            data_capacity_bytes=0,
            allowed_roots=[source],
        )

    store = open_store()
    refused = 0
    for free_pages in range(0, 40, 3):
        fill(disk / "ballast", free_pages)
        try:
            added, _ = store.import_directory(source, "m", ArtifactKind.MODEL, None, now_s=0.0)
        except CacheFullError:
            refused += 1
            held = store.cache.holdings()
        else:
            held = (added,)
        store.check_invariants()
        assert store.cache.usage(ArtifactKind.MODEL).reserved_bytes == 0
        assert not list((disk / "site" / "partial").iterdir())
        for artifact in held:
            store.verify(artifact.artifact_id)
            store.discard(artifact.artifact_id, store.drop(artifact.artifact_id))
        (disk / "ballast").unlink()
    assert refused > 3
    added, _ = open_store().import_directory(source, "m", ArtifactKind.MODEL, None, now_s=0.0)
    open_store().verify(added.artifact_id)
