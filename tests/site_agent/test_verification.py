import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gcos.artifacts import CHUNK_BYTES, Artifact, ArtifactKind, FileEntry
from gcos.errors import DigestMismatchError, WrongStateError
from gcos.ids import RunId, SiteId
from site_agent.artifact_store import ArtifactStore
from site_agent.digest_notes import NOTES, BadRange

LARGE = b"".join(bytes([number]) * CHUNK_BYTES for number in range(5)) + b"end"
FILES = {"config.json": b"{}", "empty": b"", "weights/large.bin": LARGE}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for path, content in FILES.items():
        (tmp_path / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / path).write_bytes(content)
    return tmp_path / "source"


@pytest.fixture
def store(tmp_path: Path, source: Path) -> ArtifactStore:
    return ArtifactStore.open(
        tmp_path / "site",
        site_id=SiteId("iad"),
        model_capacity_bytes=20 * CHUNK_BYTES,
        data_capacity_bytes=0,
        allowed_roots=[source],
    )


@pytest.fixture
def artifact(store: ArtifactStore, source: Path) -> Artifact:
    added, _ = store.import_directory(source, "org/m", ArtifactKind.MODEL, None, now_s=0.0)
    return added


class Upstream:
    """Another holder; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []

    def read(self, entry: FileEntry, offset: int, length: int) -> bytes:
        self.asked.append((entry.path, offset, length))
        return FILES[entry.path][offset : offset + length]


def flip(path: Path, offset: int) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff")


def large(store: ArtifactStore, artifact: Artifact) -> Path:
    return store.path_of(artifact.artifact_id) / "weights/large.bin"


def test_an_import_knows_the_digest_of_each_chunk(store: ArtifactStore, artifact: Artifact) -> None:
    notes = store.chunk_digests(artifact.artifact_id)
    assert notes is not None
    entries = store.record_of(artifact.artifact_id).manifest.files
    assert [len(notes.of(entry)) for entry in entries] == [1, 0, 6]


def test_a_good_copy_has_nothing_wrong(store: ArtifactStore, artifact: Artifact) -> None:
    report = store.examine(artifact.artifact_id)
    assert (report.artifact_id, report.bad, report.bad_bytes) == (artifact.artifact_id, (), 0)


def test_only_bad_chunks_are_named_and_fetched(store: ArtifactStore, artifact: Artifact) -> None:
    path = large(store, artifact)
    for offset in (CHUNK_BYTES + 7, 2 * CHUNK_BYTES, 5 * CHUNK_BYTES + 1):
        flip(path, offset)
    report = store.examine(artifact.artifact_id)
    assert report.bad == (
        BadRange("weights/large.bin", CHUNK_BYTES, 2 * CHUNK_BYTES),
        BadRange("weights/large.bin", 5 * CHUNK_BYTES, 3),
    )
    upstream = Upstream()
    store.repair(report, upstream.read)
    assert upstream.asked == [
        ("weights/large.bin", CHUNK_BYTES, CHUNK_BYTES),
        ("weights/large.bin", 2 * CHUNK_BYTES, CHUNK_BYTES),
        ("weights/large.bin", 5 * CHUNK_BYTES, 3),
    ]
    assert path.read_bytes() == LARGE
    assert path.stat().st_mode & 0o777 == 0o444
    store.verify(artifact.artifact_id)
    store.check_invariants()


def truncate(path: Path) -> None:
    path.chmod(0o600)
    os.truncate(path, 2 * CHUNK_BYTES + 1)


def lengthen(path: Path) -> None:
    path.chmod(0o600)
    with path.open("ab") as file:
        file.write(b"more")


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "bad"),
    [
        (truncate, [(2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 3)]),
        (lengthen, [(5 * CHUNK_BYTES, 3)]),
        (remove, [(0, len(LARGE))]),
    ],
)
def test_a_file_of_another_length_is_mended(
    store: ArtifactStore,
    artifact: Artifact,
    damage: Callable[[Path], None],
    bad: list[tuple[int, int]],
) -> None:
    damage(large(store, artifact))
    report = store.examine(artifact.artifact_id)
    assert [(part.offset_bytes, part.length_bytes) for part in report.bad] == bad
    store.repair(report, Upstream().read)
    assert large(store, artifact).read_bytes() == LARGE
    hub = store.hub_root / "models--org--m/snapshots" / artifact.artifact_id[7:47]
    assert (hub / "weights/large.bin").samefile(large(store, artifact))


def test_bytes_beyond_the_end_are_cut_off_without_fetching(
    store: ArtifactStore, source: Path
) -> None:
    even = source.with_name("even")
    (source / "weights").rename(even)
    (even / "large.bin").write_bytes(LARGE[:-3])
    added, _ = store.import_directory(source, "m", ArtifactKind.MODEL, None, now_s=0.0)
    lengthen(store.path_of(added.artifact_id) / "config.json")
    report = store.examine(added.artifact_id)
    upstream = Upstream()
    store.repair(report, upstream.read)
    assert upstream.asked == [("config.json", 0, 2)]


@pytest.mark.parametrize("how", ["symbolic link", "hard link", "directory"])
def test_a_link_in_a_files_place_is_not_written_through(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path, how: str
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "large.bin").write_bytes(b"not ours")
    path = large(store, artifact)
    path.unlink()
    if how == "symbolic link":
        path.symlink_to(theirs / "large.bin")
    elif how == "hard link":
        path.hardlink_to(theirs / "large.bin")
    else:
        path.parent.rmdir()
        path.parent.symlink_to(theirs)
    report = store.examine(artifact.artifact_id)
    assert report.bad_bytes == len(LARGE)
    if how == "directory":
        with pytest.raises(NotADirectoryError):
            store.repair(report, Upstream().read)
    else:
        store.repair(report, Upstream().read)
        assert path.read_bytes() == LARGE
        assert not path.is_symlink()
    assert (theirs / "large.bin").read_bytes() == b"not ours"
    assert (theirs / "large.bin").stat().st_mode & 0o200, "not even its mode changed"


def test_without_notes_the_whole_file_is_bad_and_is_mended(
    store: ArtifactStore, artifact: Artifact
) -> None:
    notes = store.path_of(artifact.artifact_id).with_name(NOTES)
    flip(notes, 3)
    assert store.chunk_digests(artifact.artifact_id) is None
    flip(large(store, artifact), 0)
    report = store.examine(artifact.artifact_id)
    assert report.bad == (BadRange("weights/large.bin", 0, len(LARGE)),)
    store.repair(report, Upstream().read)
    assert store.chunk_digests(artifact.artifact_id) is not None, "noted once it is right again"


def test_what_comes_wrong_is_not_written(store: ArtifactStore, artifact: Artifact) -> None:
    flip(large(store, artifact), 0)
    before = large(store, artifact).read_bytes()
    report = store.examine(artifact.artifact_id)
    for answer in (b"", b"x" * CHUNK_BYTES, b"x" * (CHUNK_BYTES + 1)):
        with pytest.raises(DigestMismatchError, match="what came"):
            store.repair(report, lambda *_, answer=answer: answer)
    assert large(store, artifact).read_bytes() == before
    with pytest.raises(DigestMismatchError, match="damaged on disk"):
        store.entry_of(artifact.artifact_id, "weights/large.bin")


def test_a_file_known_to_be_damaged_is_not_served_or_shared(
    store: ArtifactStore, artifact: Artifact, source: Path
) -> None:
    flip(large(store, artifact), 0)
    with pytest.raises(DigestMismatchError, match=r"'weights/large\.bin' of"):
        store.verify(artifact.artifact_id)
    for path in FILES:
        with pytest.raises(DigestMismatchError):
            store.entry_of(artifact.artifact_id, path)
    (source / "extra").write_bytes(b"x")
    other, _ = store.import_directory(source, "other", ArtifactKind.MODEL, None, now_s=1.0)
    store.verify(other.artifact_id)


def reopened(store: ArtifactStore, source: Path) -> ArtifactStore:
    return ArtifactStore.open(
        store.hub_root.parent,
        site_id=SiteId("iad"),
        model_capacity_bytes=20 * CHUNK_BYTES,
        data_capacity_bytes=0,
        allowed_roots=[source],
    )


def test_a_damaged_copy_counts_as_missing_over_restarts_until_it_is_mended(
    store: ArtifactStore, artifact: Artifact, source: Path
) -> None:
    known = artifact.artifact_id
    flip(large(store, artifact), 0)
    report = store.examine(known)
    for each in (store, reopened(store, source)):
        assert each.cache.is_damaged(known)
        assert each.cache.is_known(known)
        assert not each.cache.has(known)
        assert each.cache.holdings() == ()
        assert [kept.artifact_id for kept in each.cache.kept()] == [known]
        assert [entry.is_damaged for entry in each.cache.entries()] == [True]
        assert not list((each.hub_root / "models--org--m").rglob("*.bin"))
        each.check_invariants()
    again = reopened(store, source)
    again.repair(report, Upstream().read)
    for each in (again, reopened(store, source)):
        assert each.cache.has(known)
        assert [entry.is_damaged for entry in each.cache.entries()] == [False]
        assert list((each.hub_root / "models--org--m").rglob("*.bin"))
        each.check_invariants()


def test_what_protects_a_copy_protects_it_while_it_is_damaged(
    store: ArtifactStore, artifact: Artifact
) -> None:
    flip(large(store, artifact), 0)
    store.examine(artifact.artifact_id)
    store.cache.pin(artifact.artifact_id, RunId("iad-1.1.1"))
    assert store.cache.evictions_for(ArtifactKind.MODEL, 20 * CHUNK_BYTES) is None
    with pytest.raises(WrongStateError):
        store.drop(artifact.artifact_id)
    store.cache.unpin(artifact.artifact_id, RunId("iad-1.1.1"))
    store.discard(artifact.artifact_id, store.drop(artifact.artifact_id))
    assert not store.cache.is_damaged(artifact.artifact_id)
    store.check_invariants()


def test_adding_a_damaged_copy_again_mends_it(
    store: ArtifactStore, artifact: Artifact, source: Path
) -> None:
    flip(large(store, artifact), CHUNK_BYTES)
    store.examine(artifact.artifact_id)
    added, is_new = store.import_directory(source, "org/m", ArtifactKind.MODEL, None, now_s=1.0)
    assert (added.artifact_id, is_new) == (artifact.artifact_id, False)
    assert store.cache.has(artifact.artifact_id)
    assert large(store, artifact).read_bytes() == LARGE


def test_notes_that_cannot_be_read_are_no_notes(store: ArtifactStore, artifact: Artifact) -> None:
    notes = store.path_of(artifact.artifact_id).with_name(NOTES)
    notes.unlink()
    notes.mkdir()
    assert store.examine(artifact.artifact_id).bad == ()
    flip(large(store, artifact), 0)
    report = store.examine(artifact.artifact_id)
    assert [(part.offset_bytes, part.length_bytes) for part in report.bad] == [(0, len(LARGE))]
    store.repair(report, Upstream().read)
    assert large(store, artifact).read_bytes() == LARGE


def test_an_examination_can_be_stopped(store: ArtifactStore, artifact: Artifact) -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        store.examine(artifact.artifact_id, stop)
