import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.artifacts import ARTIFACT_NAME, Artifact, ArtifactKind
from gcos.errors import InvalidRequestError
from gcos.ids import SiteId
from site_agent.artifact_store import ArtifactStore, HubOrigin, StoredArtifact
from site_agent.digest_notes import NOTES
from site_agent.hub_layout import repo_id_of

huggingface_hub = pytest.importorskip("huggingface_hub")

HERE = SiteId("iad")
MODEL, DATA = ArtifactKind.MODEL, ArtifactKind.DATA
FILES = {"config.json": b"{}", "weights/part-1.bin": b"abc" * 40, "empty.txt": b""}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "site"


def open_store(root: Path, source: Path, *, model_bytes: int = 1000) -> ArtifactStore:
    return ArtifactStore.open(
        root,
        site_id=HERE,
        model_capacity_bytes=model_bytes,
        data_capacity_bytes=1000,
        allowed_roots=[source],
    )


def add(
    store: ArtifactStore,
    source: Path,
    files: dict[str, bytes],
    name: str,
    *,
    kind: ArtifactKind = MODEL,
    custodian: SiteId | None = None,
    now_s: float = 0.0,
) -> Artifact:
    directory = source / hashlib.sha256(repr((name, files)).encode()).hexdigest()[:12]
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    artifact, _ = store.import_directory(directory, name, kind, custodian, now_s=now_s)
    store.check_invariants()
    return artifact


def scan(store: ArtifactStore) -> dict[str, set[str]]:
    """Return the repositories that the hub's own scan finds, with their revisions."""
    found = huggingface_hub.scan_cache_dir(store.hub_root)
    assert found.warnings == []
    return {
        f"{repo.repo_type}/{repo.repo_id}": {each.commit_hash for each in repo.revisions}
        for repo in found.repos
    }


def occupied_by_inode(root: Path) -> int:
    """Count what `du` counts: each inode once, whatever names it has; notes are no content."""
    notes = {"manifest.json", NOTES, "main"}
    sizes = {}
    for where, _, names in os.walk(root):
        for name in names:
            path = Path(where) / name
            is_note = name in notes or path.parent.name == "placements"
            if not is_note and not path.is_symlink():
                sizes[path.stat().st_ino] = path.stat().st_size
    return sum(sizes.values())


def test_the_hubs_scan_reads_the_cache_without_warnings(root: Path, source: Path) -> None:
    store = open_store(root, source)
    model = add(store, source, FILES, "org/tiny")
    data = add(store, source, {"train.csv": b"1,2,3"}, "corpus", kind=DATA)
    for again in (store, open_store(root, source)):
        assert scan(again) == {
            "model/org/tiny": {model.artifact_id[7:47]},
            "dataset/corpus": {data.artifact_id[7:47]},
        }


def test_a_download_without_network_finds_all_files(root: Path, source: Path) -> None:
    store = open_store(root, source)
    add(store, source, FILES, "org/tiny")
    found = huggingface_hub.snapshot_download(
        "org/tiny", cache_dir=store.hub_root, local_files_only=True
    )
    assert {path: (Path(found) / path).read_bytes() for path in FILES} == FILES
    cached = huggingface_hub.try_to_load_from_cache(
        "org/tiny", "weights/part-1.bin", cache_dir=store.hub_root
    )
    assert Path(cached).read_bytes() == FILES["weights/part-1.bin"]


def test_the_hubs_command_line_lists_the_cache(root: Path, source: Path) -> None:
    store = open_store(root, source)
    add(store, source, FILES, "org/tiny")
    tool = Path(sys.executable).with_name("hf")
    environment = {
        "HF_HUB_CACHE": str(store.hub_root),
        "HF_HOME": str(source),
        "HF_HUB_OFFLINE": "1",
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        [tool, "cache", "ls"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "org/tiny" in done.stdout
    assert "warn" not in (done.stdout + done.stderr).lower()


def test_blobs_and_revision_have_the_hubs_names_where_they_are_known(
    root: Path, source: Path
) -> None:
    store = open_store(root, source)
    model = add(store, source, FILES, "org/tiny")
    record = store.record_of(model.artifact_id)
    etags = tuple(
        entry.sha256
        if entry.path.endswith(".bin")
        else hashlib.sha1(entry.path.encode()).hexdigest()
        for entry in record.manifest.files
    )
    store.rewrite(replace(record, hub_origin=HubOrigin("ab" * 20, etags=etags)))
    again = open_store(root, source)
    assert scan(again) == {"model/org/tiny": {"ab" * 20}}
    blobs = again.hub_root / "models--org--tiny" / "blobs"
    assert {path.name for path in blobs.iterdir()} == set(etags)


@pytest.mark.parametrize(
    "origin",
    [
        HubOrigin("../../escape", etags=("a" * 40,)),
        HubOrigin("a" * 40, etags=("../escape",)),
        HubOrigin("a" * 40, etags=()),
        HubOrigin("a" * 40, etags=("a" * 40, "b" * 40)),
    ],
)
def test_what_a_hub_says_never_becomes_a_path_unchecked(
    root: Path, source: Path, origin: HubOrigin
) -> None:
    store = open_store(root, source)
    model = add(store, source, {"f": b"abc"}, "m")
    record = replace(store.record_of(model.artifact_id), hub_origin=origin)
    with pytest.raises(InvalidRequestError):
        store.seal(record)


def test_each_name_is_a_repository_and_costs_nothing(root: Path, source: Path) -> None:
    store = open_store(root, source)
    first = add(store, source, FILES, "org/tiny")
    again = source / next(path.name for path in source.iterdir())
    store.import_directory(again, "alias", MODEL, None, now_s=0.0)
    assert set(scan(store)) == {"model/org/tiny", "model/alias"}
    assert occupied_by_inode(root) == first.size_bytes == store.stored_bytes(MODEL)


def test_two_revisions_share_what_is_equal(root: Path, source: Path) -> None:
    store = open_store(root, source)
    first = add(store, source, {"tokens": b"t" * 50, "weights": b"1" * 60}, "org/m", now_s=1.0)
    second = add(store, source, {"tokens": b"t" * 50, "weights": b"2" * 60}, "org/m", now_s=2.0)
    for again in (store, open_store(root, source)):
        revisions = {each.artifact_id[7:47] for each in (first, second)}
        assert scan(again) == {"model/org/m": revisions}
        assert (again.hub_root / "models--org--m/refs/main").read_text() == (
            second.artifact_id[7:47]
        )
        assert occupied_by_inode(root) == again.stored_bytes(MODEL) == 170
        assert again.cache.usage(MODEL).occupied_bytes == 220, "the books are never below the disk"
        again.check_invariants()


def test_equal_files_of_one_artifact_are_one_inode(root: Path, source: Path) -> None:
    store = open_store(root, source)
    model = add(store, source, {"a": b"abc", "b/c": b"abc", "d": b"", "e": b""}, "m")
    files = store.path_of(model.artifact_id)
    assert (files / "a").samefile(files / "b/c")
    assert store.stored_bytes(MODEL) == 3
    assert open_store(root, source).rejected == ()


def test_models_and_data_sets_share_nothing(root: Path, source: Path) -> None:
    """Each cache has a capacity of its own, so each counts what it holds."""
    store = open_store(root, source)
    add(store, source, {"f": b"abc"}, "m")
    add(store, source, {"f": b"abc"}, "m", kind=DATA)
    assert store.stored_bytes(MODEL) == store.stored_bytes(DATA) == 3
    assert occupied_by_inode(root) == 6


def test_what_is_evicted_leaves_the_hubs_view_and_the_newest_rest_is_main(
    root: Path, source: Path
) -> None:
    store = open_store(root, source, model_bytes=250)
    old = add(store, source, {"tokens": b"t" * 50, "w": b"1" * 60}, "org/m", now_s=1.0)
    new = add(store, source, {"tokens": b"t" * 50, "w": b"2" * 60}, "org/m", now_s=2.0)
    store.discard(new.artifact_id, store.drop(new.artifact_id))
    assert scan(store) == {"model/org/m": {old.artifact_id[7:47]}}
    assert (store.hub_root / "models--org--m/refs/main").read_text() == old.artifact_id[7:47]
    found = huggingface_hub.snapshot_download(
        "org/m", cache_dir=store.hub_root, local_files_only=True
    )
    assert (Path(found) / "tokens").read_bytes() == b"t" * 50
    other = add(store, source, {"w": b"3" * 200}, "other", now_s=3.0)
    assert scan(store) == {"model/other": {other.artifact_id[7:47]}}
    assert occupied_by_inode(root) == 200
    assert [path.name for path in store.hub_root.iterdir()] == ["models--other"]


def test_what_others_put_into_the_hubs_root_stays(root: Path, source: Path) -> None:
    store = open_store(root, source)
    foreign = store.hub_root / "models--their--own" / "snapshots" / ("c" * 40)
    foreign.mkdir(parents=True)
    (foreign / "f").write_bytes(b"theirs")
    mine = add(store, source, {"f": b"abc"}, "org/m")
    theirs = store.hub_root / "models--org--m" / "snapshots" / ("d" * 40)
    theirs.mkdir()
    (theirs / "f").write_bytes(b"theirs")
    store.discard(mine.artifact_id, store.drop(mine.artifact_id))
    again = open_store(root, source)
    assert (foreign / "f").read_bytes() == (theirs / "f").read_bytes() == b"theirs"
    assert scan(again) == {"model/their/own": {"c" * 40}, "model/org/m": {"d" * 40}}


@pytest.mark.parametrize("gone", ["hub", "placements"])
def test_the_hubs_view_is_made_again_from_the_records(root: Path, source: Path, gone: str) -> None:
    store = open_store(root, source)
    model = add(store, source, FILES, "org/tiny")
    shutil.rmtree(root / gone)
    again = open_store(root, source)
    assert scan(again) == {"model/org/tiny": {model.artifact_id[7:47]}}


def test_an_unreadable_placement_is_made_again(root: Path, source: Path) -> None:
    store = open_store(root, source)
    model = add(store, source, FILES, "org/tiny")
    (root / "placements" / f"{model.artifact_id[7:]}.json").write_bytes(b"{")
    (store.hub_root / "models--org--tiny/refs/main").write_text("elsewhere")
    (store.hub_root / "models--org--tiny/snapshots" / model.artifact_id[7:47] / "extra").touch()
    again = open_store(root, source)
    assert scan(again) == {"model/org/tiny": {model.artifact_id[7:47]}}


def test_a_damaged_copy_is_not_shown(root: Path, source: Path) -> None:
    store = open_store(root, source)
    model = add(store, source, FILES, "org/tiny")
    (store.path_of(model.artifact_id) / "config.json").unlink()
    again = open_store(root, source)
    assert len(again.rejected) == 1
    assert scan(again) == {}


@given(st.from_regex(ARTIFACT_NAME, fullmatch=True))
def test_every_name_has_a_repository_that_the_hub_accepts(name: str) -> None:
    repo_id = repo_id_of(name)
    huggingface_hub.utils.validate_repo_id(repo_id)
    assert len(repo_id) <= 96
    folder = huggingface_hub.file_download.repo_folder_name(repo_id=repo_id, repo_type="model")
    assert folder.split("--", 1)[1].replace("--", "/") == repo_id, "the scan finds it again"


@pytest.mark.parametrize("name", ["org/name", "gpt2", "Org.x/some_model-7B.v1"])
def test_a_name_that_the_hub_would_accept_is_the_repository(name: str) -> None:
    assert repo_id_of(name) == name


def test_rewritten_names_stay_apart() -> None:
    names = ["a--b", "a-b", "a..b", "a.git", "a-git", "a.", "a-", "a", "o/--", "o/..", "o/x.git"]
    usable = [name for name in names if ARTIFACT_NAME.fullmatch(name)]
    assert len({repo_id_of(name) for name in usable}) == len(usable)


def test_a_record_of_an_earlier_version_is_read(root: Path, source: Path) -> None:
    store = open_store(root, source)
    model = add(store, source, FILES, "org/tiny")
    record = store.record_of(model.artifact_id)
    assert isinstance(record, StoredArtifact)
    path = store.path_of(model.artifact_id).with_name("manifest.json")
    text = path.read_text().replace(',"hub_origin":null', "")
    assert "hub_origin" not in text
    path.write_text(text)
    assert open_store(root, source).record_of(model.artifact_id) == record
