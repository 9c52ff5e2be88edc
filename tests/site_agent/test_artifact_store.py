import errno
import hashlib
import os
import resource
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gcos.artifacts import Artifact, ArtifactKind, FileEntry, Manifest
from gcos.errors import (
    ArtifactNotFoundError,
    CacheFullError,
    DigestMismatchError,
    InvalidRequestError,
    TooLargeError,
    WrongStateError,
)
from gcos.ids import ArtifactId, RunId, SiteId
from site_agent.artifact_store import ArtifactStore, StoredArtifact, checked_storable
from site_agent.source_directory import open_source

HERE = SiteId("iad")
ELSEWHERE = SiteId("fra")
MODEL, DATA = ArtifactKind.MODEL, ArtifactKind.DATA


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The allowed root."""
    root = tmp_path / "models"
    root.mkdir()
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "site"


def open_store(
    root: Path,
    models: Path,
    *,
    model_bytes: int = 1000,
    data_bytes: int = 1000,
    pinned: Collection[ArtifactId] = (),
) -> ArtifactStore:
    return ArtifactStore.open(
        root,
        site_id=HERE,
        model_capacity_bytes=model_bytes,
        data_capacity_bytes=data_bytes,
        allowed_roots=[models],
        pinned=pinned,
    )


def write_files(directory: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    return directory


def add(
    store: ArtifactStore,
    path: Path,
    name: str,
    *,
    kind: ArtifactKind = MODEL,
    custodian: SiteId | None = HERE,
    now_s: float = 0.0,
) -> tuple[Artifact, bool]:
    added = store.import_directory(path, name, kind, custodian, now_s=now_s)
    store.check_invariants()
    return added


def areas(root: Path) -> dict[str, int]:
    return {area: len(list((root / area).iterdir())) for area in ("partial", "trash", "damaged")}


CLEAN = {"partial": 0, "trash": 0, "damaged": 0}


def test_an_imported_directory_is_found_again_after_a_restart(root: Path, models: Path) -> None:
    files = {"config.json": b"{}", "weights/part-1.bin": b"abc" * 40, "empty.txt": b""}
    store = open_store(root, models)
    artifact, is_new = add(store, write_files(models / "tiny", files), "org/tiny", now_s=5.0)
    assert is_new
    assert artifact.size_bytes == 122
    assert artifact.custodian == HERE
    for again in (store, open_store(root, models)):
        again.check_invariants()
        assert again.cache.holdings() == (artifact,)
        again.verify(artifact.artifact_id)
        directory = again.path_of(artifact.artifact_id)
        assert {path: (directory / path).read_bytes() for path in files} == files
        assert again.rejected == ()
        assert again.cache.entries()[0].last_used_s == 5.0
    assert areas(root) == CLEAN


def test_the_id_is_the_digest_of_kind_and_files_and_not_of_the_name(
    root: Path, models: Path
) -> None:
    artifact, _ = add(open_store(root, models), write_files(models / "m", {"f": b"abc"}), "m")
    entry = FileEntry("f", size_bytes=3, sha256=hashlib.sha256(b"abc").hexdigest())
    assert artifact.artifact_id == Manifest(MODEL, (entry,)).artifact_id


def test_published_files_are_read_only_and_nobody_elses(root: Path, models: Path) -> None:
    store = open_store(root, models)
    artifact, _ = add(store, write_files(models / "m", {"f": b"abc"}), "m")
    assert (store.path_of(artifact.artifact_id) / "f").stat().st_mode & 0o777 == 0o444
    assert root.stat().st_mode & 0o077 == 0


def test_the_same_content_is_stored_once_under_all_its_names(root: Path, models: Path) -> None:
    store = open_store(root, models)
    path = write_files(models / "m", {"f": b"abc"})
    first, _ = add(store, path, "first")
    assert add(store, path, "first") == (first, False)
    assert add(store, path, "second") == (replace(first, name="second"), True)
    assert add(store, path, "second")[1] is False
    for again in (store, open_store(root, models)):
        assert [artifact.name for artifact in again.cache.holdings()] == ["first", "second"]
        assert again.cache.usage(MODEL).occupied_bytes == 3


def test_adding_what_was_fetched_makes_this_site_its_custodian_if_nobody_is(
    root: Path, models: Path
) -> None:
    store = open_store(root, models, model_bytes=3)
    path = write_files(models / "m", {"f": b"abc"})
    add(store, path, "m", custodian=None)
    assert store.cache.evictions_for(MODEL, 3) is not None
    artifact, is_new = add(store, path, "m")
    assert (artifact.custodian, is_new) == (HERE, False)
    for again in (store, open_store(root, models, model_bytes=3)):
        assert again.cache.evictions_for(MODEL, 3) is None


def test_a_copy_that_another_site_keeps_stays_that_sites(root: Path, models: Path) -> None:
    store = open_store(root, models)
    path = write_files(models / "m", {"f": b"abc"})
    add(store, path, "m", custodian=ELSEWHERE)
    assert add(store, path, "n")[0].custodian == ELSEWHERE


def test_what_is_evicted_leaves_the_disk(root: Path, models: Path) -> None:
    store = open_store(root, models, data_bytes=5)
    old, _ = add(store, write_files(models / "o", {"f": b"old"}), "o", kind=DATA, custodian=None)
    add(store, write_files(models / "n", {"f": b"new!"}), "n", kind=DATA)
    assert not store.cache.has(old.artifact_id)
    with pytest.raises(ArtifactNotFoundError):
        store.path_of(old.artifact_id)
    assert len(list((root / "artifacts").iterdir())) == 1
    assert areas(root) == CLEAN


def test_a_pinned_artifact_stays_on_disk_when_another_wants_its_room(
    root: Path, models: Path
) -> None:
    store = open_store(root, models, model_bytes=5)
    old, _ = add(store, write_files(models / "o", {"f": b"old"}), "o", custodian=None)
    store.cache.pin(old.artifact_id, RunId("iad-1.1.1"))
    with pytest.raises(CacheFullError):
        add(store, write_files(models / "n", {"f": b"new!"}), "n")
    store.verify(old.artifact_id)
    assert areas(root) == CLEAN


def test_more_than_the_cache_takes_is_refused_before_it_is_read(root: Path, models: Path) -> None:
    path = models / "sparse"
    path.mkdir()
    with (path / "f").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(TooLargeError, match="holds 1000000000000 bytes"):
        add(open_store(root, models), path, "sparse")


# ---- what may be added ------------------------------------------------------------------------


def refused(store: ArtifactStore, path: Path, *, field: str = "path", name: str = "m") -> str:
    with pytest.raises(InvalidRequestError) as caught:
        store.import_directory(path, name, MODEL, HERE, now_s=0.0)
    assert caught.value.field == field
    store.check_invariants()
    assert store.cache.holdings() == ()
    return str(caught.value)


def test_a_path_outside_the_allowed_roots_is_refused(
    root: Path, models: Path, tmp_path: Path
) -> None:
    store = open_store(root, models)
    secret = write_files(tmp_path / "secret", {"key": b"s3cret"})
    message = refused(store, secret)
    assert "not under" in message
    hidden = refused(store, tmp_path / "missing")
    assert hidden.replace("missing", "secret") == message, "whether it exists is not told"
    assert "'..'" in refused(store, models / ".." / "secret")
    assert "relative" in refused(store, Path("models"))
    assert "not under" in refused(open_store(tmp_path / "bare", tmp_path / "nowhere"), secret)


def test_a_link_that_leaves_the_root_is_refused(root: Path, models: Path, tmp_path: Path) -> None:
    secret = write_files(tmp_path / "secret", {"key": b"s3cret"})
    (models / "link").symlink_to(secret)
    assert "not under" in refused(open_store(root, models), models / "link")


def test_links_inside_the_directory_are_refused(root: Path, models: Path, tmp_path: Path) -> None:
    store = open_store(root, models)
    write_files(models, {"file-link/a": b"abc", "directory-link/a": b"abc"})
    (models / "file-link" / "b").symlink_to(models / "file-link" / "a")
    (models / "directory-link" / "b").symlink_to(tmp_path)
    assert "'b' is a link" in refused(store, models / "file-link")
    assert "'b' is a link" in refused(store, models / "directory-link")


def test_a_directory_swapped_for_a_link_after_the_check_is_not_followed(
    models: Path, tmp_path: Path
) -> None:
    path = write_files(models / "m", {"inner/f": b"abc"}) / "inner"
    secret = write_files(tmp_path / "secret", {"f": b"s3cret"})
    with open_source(models / "m", [models]) as source:
        shutil.rmtree(path)
        path.symlink_to(secret)
        with pytest.raises(InvalidRequestError):
            list(source.chunks("inner/f"))


def test_special_files_are_refused(root: Path, models: Path) -> None:
    write_files(models / "m", {"a": b"abc"})
    os.mkfifo(models / "m" / "pipe")
    assert "'pipe' is a link or a special file" in refused(open_store(root, models), models / "m")


def test_a_directory_without_bytes_is_refused(root: Path, models: Path) -> None:
    store = open_store(root, models)
    (models / "empty").mkdir()
    write_files(models / "hollow", {"a": b""})
    for path in ("empty", "hollow"):
        assert "no bytes" in refused(store, models / path, field="files")


def test_a_file_is_no_directory_and_what_is_missing_is_none(root: Path, models: Path) -> None:
    store = open_store(root, models)
    write_files(models, {"f": b"abc"})
    for path in ("f", "missing"):
        assert "cannot be read as a directory" in refused(store, models / path)


def test_unusable_file_names_are_refused(root: Path, models: Path) -> None:
    store = open_store(root, models)
    for number, name in enumerate((b"back\\slash", b"new\nline", b"latin-\xe9")):
        directory = models / str(number)
        directory.mkdir()
        (Path(os.fsdecode(os.fsencode(directory) + b"/" + name))).write_bytes(b"abc")
        refused(store, directory)


def test_too_many_files_are_refused(
    root: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(models / "m", {"a": b"a", "b": b"b", "c": b"c"})
    monkeypatch.setattr("site_agent.source_directory.FILE_COUNT_MAX", 2)
    assert "more than 2 files" in refused(open_store(root, models), models / "m")


def test_an_unusable_name_is_refused(root: Path, models: Path) -> None:
    path = write_files(models / "m", {"a": b"abc"})
    for name in ("../up", "a/b/c", "", "@"):
        refused(open_store(root, models), path, field="name", name=name)


def test_the_cache_does_not_import_itself(root: Path, models: Path) -> None:
    inside = models / "site"
    store = open_store(inside, models)
    write_files(models, {"f": b"abc"})
    assert "overlaps" in refused(store, models)
    assert "overlaps" in refused(store, inside / "artifacts")


def test_a_file_that_changes_between_survey_and_copy_leaves_no_trace(
    root: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(root, models)
    path = write_files(models / "m", {"f": b"abc"})
    clear = store.clear
    for content in (b"xyz", b"longer than it was", b"s"):
        (path / "f").write_bytes(b"abc")

        def change(reservation: object, content: bytes = content) -> None:
            clear(reservation)  # type: ignore[arg-type]
            (path / "f").write_bytes(content)

        monkeypatch.setattr(store, "clear", change)
        with pytest.raises(WrongStateError, match="'f' changed"):
            store.import_directory(path, "m", MODEL, HERE, now_s=0.0)
        store.check_invariants()
        assert store.cache.usage(MODEL).reserved_bytes == 0
        assert areas(root) == CLEAN


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """Let the kernel refuse longer files with EFBIG, as a full disk refuses with ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_as_such_and_leaves_no_trace(root: Path, models: Path) -> None:
    store = open_store(root, models, model_bytes=10**6)
    path = write_files(models / "m", {"f": bytes(200_000)})
    with file_size_limit(100_000), pytest.raises(CacheFullError, match="the disk is full"):
        store.import_directory(path, "m", MODEL, HERE, now_s=0.0)
    store.check_invariants()
    assert store.cache.usage(MODEL).reserved_bytes == 0
    assert areas(root) == CLEAN
    assert add(store, path, "m")[1], "it works once there is room"


# ---- what a restart finds ---------------------------------------------------------------------


def test_partial_copies_of_an_earlier_process_are_removed(root: Path, models: Path) -> None:
    open_store(root, models)
    write_files(root / "partial" / ("a" * 64), {"files/f": b"half"})
    write_files(root / "trash" / "1", {"files/f": b"old"})
    store = open_store(root, models)
    store.check_invariants()
    assert areas(root) == CLEAN
    assert store.cache.usage(MODEL).reserved_bytes == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "files/f").unlink(),
        lambda path: (path / "files/f").rename(path / "files/g"),
        lambda path: os.truncate(path / "files/f", 1),
        lambda path: (path / "files/extra").write_bytes(b"x"),
        lambda path: (path / "manifest.json").write_bytes(b"{}"),
        lambda path: (path / "manifest.json").unlink(),
        lambda path: path.rename(path.with_name("b" * 64)),
        lambda path: path.rename(path.with_name("not-a-digest")),
    ],
)
def test_a_damaged_copy_is_set_aside_and_not_served(
    root: Path, models: Path, damage: object
) -> None:
    store = open_store(root, models)
    artifact, _ = add(store, write_files(models / "m", {"f": b"abc"}), "m")
    directory = store.path_of(artifact.artifact_id).parent
    (directory / "files" / "f").chmod(0o644)
    assert callable(damage)
    damage(directory)
    again = open_store(root, models)
    again.check_invariants()
    assert again.cache.holdings() == ()
    assert [rejected.is_kept for rejected in again.rejected] == [True]
    assert areas(root) == CLEAN | {"damaged": 1}


def test_full_verification_finds_a_flipped_bit(root: Path, models: Path) -> None:
    store = open_store(root, models)
    artifact, _ = add(store, write_files(models / "m", {"a": b"xyz", "f": b"abc"}), "m")
    path = store.path_of(artifact.artifact_id) / "f"
    path.chmod(0o644)
    path.write_bytes(b"abd")
    with pytest.raises(DigestMismatchError, match="'f' of"):
        open_store(root, models).verify(artifact.artifact_id)


def test_a_smaller_cache_keeps_custody_and_the_newest_and_drops_the_rest(
    root: Path, models: Path
) -> None:
    store = open_store(root, models)
    for number, custodian in enumerate([HERE, ELSEWHERE, None]):
        path = write_files(models / str(number), {"f": b"abc%d" % number})
        add(store, path, f"m{number}", custodian=custodian, now_s=float(number))
    again = open_store(root, models, model_bytes=9)
    again.check_invariants()
    assert [artifact.name for artifact in again.cache.holdings()] == ["m0", "m2"]
    assert [rejected.is_kept for rejected in again.rejected] == [False]
    with pytest.raises(CacheFullError):
        open_store(root, models, model_bytes=3)
    assert len(list((root / "artifacts").iterdir())) == 2, "nothing in custody was dropped"


def test_a_smaller_cache_keeps_what_is_pinned_or_is_not_opened(root: Path, models: Path) -> None:
    store = open_store(root, models)
    ids = [
        add(store, write_files(models / name, {"f": name.encode()}), name, now_s=s, custodian=None)[
            0
        ]
        for s, name in enumerate(("oldest", "middle", "newest"))
    ]
    pinned = {ids[0].artifact_id, ids[1].artifact_id}
    with pytest.raises(CacheFullError, match=r"oldest is pinned and does not fit") as told:
        open_store(root, models, model_bytes=11, pinned=pinned)
    assert "raise model_cache_bytes" in (told.value.hint or "")
    assert "gcos cache unpin oldest --site" in (told.value.hint or "")
    assert len(list((root / "artifacts").iterdir())) == 3
    again = open_store(root, models, model_bytes=12, pinned=pinned)
    assert [artifact.name for artifact in again.cache.holdings()] == ["middle", "oldest"]
    assert [rejected.artifact for rejected in again.rejected] == [ids[2]]
    assert [each.name for each in open_store(root, models, model_bytes=6).cache.holdings()] == [
        "middle"
    ]


# ---- manifests from the wire --------------------------------------------------------------------


def manifest(*paths: str) -> Manifest:
    return Manifest(DATA, tuple(FileEntry(path, size_bytes=1, sha256="0" * 64) for path in paths))


@pytest.mark.parametrize(
    "paths",
    [
        ("../escape",),
        ("/absolute",),
        ("a/../b",),
        ("a//b",),
        ("back\\slash",),
        ("nul\0",),
        ("b", "a"),
        ("a", "a"),
        ("a", "a/b"),
        ("a", "a!", "a/b/c"),
        ("x" * 256,),
        (),
    ],
)
def test_a_manifest_that_cannot_lie_on_a_disk_is_refused(paths: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequestError):
        checked_storable(manifest(*paths))


def test_a_manifest_longer_than_a_message_is_refused() -> None:
    paths = [f"{number:05}/" + "x" * 200 for number in range(20_000)]
    with pytest.raises(TooLargeError, match="20000 files"):
        checked_storable(manifest(*paths))


def test_ten_million_files_are_refused_before_any_is_looked_at() -> None:
    entry = FileEntry("f", size_bytes=1, sha256="0" * 64)
    with pytest.raises(InvalidRequestError, match="more than 100000 files"):
        checked_storable(Manifest(DATA, (entry,) * 10_000_000))


@pytest.mark.parametrize("size_bytes", [10**18, 2**63 - 1, 10**30])
def test_an_exabyte_is_refused_before_the_first_byte(
    root: Path, models: Path, size_bytes: int
) -> None:
    store = open_store(root, models)
    old, _ = add(store, write_files(models / "o", {"f": b"old"}), "o", custodian=None)
    claimed = Artifact(ArtifactId("sha256:" + "a" * 64), MODEL, name="m", size_bytes=size_bytes)
    with pytest.raises(CacheFullError):
        store.reserve(claimed, now_s=0.0)
    store.check_invariants()
    assert store.cache.has(old.artifact_id), "nothing was evicted for it"


def test_a_file_that_another_artifact_has_is_there_at_once(root: Path, models: Path) -> None:
    store = open_store(root, models)
    old, _ = add(store, write_files(models / "o", {"tokens": b"abc", "w": b"old"}), "o")
    digest = hashlib.sha256(b"abc").hexdigest()
    entries = (
        FileEntry("same", size_bytes=3, sha256=digest),
        FileEntry("zother", size_bytes=2, sha256=hashlib.sha256(b"hi").hexdigest()),
    )
    record = StoredArtifact(("n",), Manifest(MODEL, entries), placed_s=1.0)
    reservation = store.reserve(record.artifact(), now_s=1.0)
    store.clear(reservation)
    shared = store.partial_file(record.manifest.artifact_id, entries[0])
    assert shared.received_bytes == 3
    shared.finish()
    fresh = store.partial_file(record.manifest.artifact_id, entries[1])
    assert fresh.received_bytes == 0
    fresh.append(b"hi")
    fresh.finish()
    store.seal(record)
    store.publish(record)
    store.sync()
    store.check_invariants()
    store.verify(record.manifest.artifact_id)
    assert store.stored_bytes(MODEL) == 8
    store.cache.set_custodian(old.artifact_id, None, is_custodian=False)
    store.discard(old.artifact_id, store.drop(old.artifact_id))
    store.verify(record.manifest.artifact_id)
    assert store.stored_bytes(MODEL) == 5


def test_a_shared_file_can_be_thrown_away_and_come_anew(root: Path, models: Path) -> None:
    store = open_store(root, models)
    old, _ = add(store, write_files(models / "o", {"f": b"abc"}), "o")
    digest = hashlib.sha256(b"abc").hexdigest()
    entries = tuple(FileEntry(path, size_bytes=3, sha256=digest) for path in ("a", "b"))
    record = StoredArtifact(("n",), Manifest(MODEL, entries), placed_s=1.0)
    reservation = store.reserve(record.artifact(), now_s=1.0)
    store.clear(reservation)
    partial = store.partial_file(record.manifest.artifact_id, entries[0])
    partial.restart()
    assert partial.received_bytes == 0
    partial.append(b"abc")
    partial.finish()
    store.verify(old.artifact_id)
    store.drop_partial(reservation)
    store.release(reservation)
    store.check_invariants()
    store.verify(old.artifact_id)


def test_a_disk_that_takes_no_new_name_loses_nothing(
    root: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(root, models, model_bytes=5)
    old, _ = add(store, write_files(models / "o", {"f": b"old"}), "o", custodian=None)

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.rename", refuse)
    with pytest.raises(CacheFullError):
        store.import_directory(write_files(models / "n", {"f": b"new!"}), "n", MODEL, None, now_s=1)
    with pytest.raises(CacheFullError):
        store.drop(old.artifact_id)
    monkeypatch.undo()
    store.check_invariants()
    store.verify(old.artifact_id)


def test_only_complete_artifacts_have_records(root: Path, models: Path) -> None:
    store = open_store(root, models)
    coming = Artifact(ArtifactId("sha256:" + "a" * 64), MODEL, name="m", size_bytes=3)
    reservation = store.reserve(coming, now_s=0.0)
    store.clear(reservation)
    for ask in (store.record_of, store.path_of, store.verify):
        with pytest.raises(ArtifactNotFoundError):
            ask(coming.artifact_id)
    store.drop_partial(reservation)
    store.release(reservation)
    store.check_invariants()
    assert areas(root) == CLEAN
