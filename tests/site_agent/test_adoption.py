import asyncio
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import grpc.aio
import pytest

from gcos.artifacts import Artifact, ArtifactKind
from gcos.client import Client
from gcos.errors import ArtifactNotFoundError, InvalidRequestError, WrongStateError
from gcos.ids import SiteId
from gcos.system import SystemClock
from site_agent import adopted_files
from site_agent.adopted_files import DigestMemory
from site_agent.adoption import Adopted, adopt, store_named
from site_agent.artifact_store import ArtifactStore
from site_agent.config import AgentConfig, SourcesConfig, completed
from site_agent.foreign_stores import SkipReason, counts
from site_agent.verification import Examination
from site_agent.wiring import replace_address, run_agent

MODEL, DATA = ArtifactKind.MODEL, ArtifactKind.DATA
COMMIT, OTHER = "a" * 40, "b" * 40
WEIGHTS, CONFIG = b"w" * 3000, b'{"hidden": 1}'


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "hub"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def ollama(tmp_path: Path) -> Path:
    path = tmp_path / "ollama"
    (path / "blobs").mkdir(parents=True)
    (path / "manifests").mkdir()
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "site"


def open_store(root: Path, allowed: Path | None = None) -> ArtifactStore:
    return ArtifactStore.open(
        root,
        site_id=SiteId("iad"),
        model_capacity_bytes=10_000,
        data_capacity_bytes=10_000,
        allowed_roots=[allowed] if allowed else [],
    )


def git_name(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put_repo(
    hub: Path,
    folder: str = "models--org--tiny",
    *,
    commit: str = COMMIT,
    is_main: bool = True,
    files: dict[str, bytes] | None = None,
) -> Path:
    """Lay down a repository as the hub's client does: large files by SHA-256, small ones by git."""
    repo = hub / folder
    files = {"config.json": CONFIG, "sub/model.safetensors": WEIGHTS} if files is None else files
    (repo / "blobs").mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        blob = lfs_name(content) if len(content) > 1000 else git_name(content)
        (repo / "blobs" / blob).write_bytes(content)
        link = repo / "snapshots" / commit / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(repo / "blobs" / blob, link.parent))
    if is_main:
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / "main").write_text(commit)
    return repo


def put_model(ollama: Path, place: str = "registry.ollama.ai/library/llama3/8b") -> Path:
    layers = []
    for media, content in [("model", WEIGHTS), ("params", b'{"stop": []}')]:
        digest = lfs_name(content)
        (ollama / "blobs" / f"sha256-{digest}").write_bytes(content)
        layers.append({"mediaType": media, "digest": f"sha256:{digest}", "size": len(content)})
    manifest = ollama / "manifests" / place
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(
        json.dumps({"schemaVersion": 2, "config": layers[1], "layers": [layers[0]]})
    )
    return manifest


def state_of(directory: Path) -> dict[str, tuple[int, int, int, int]]:
    """Return everything about a tree that adopting must not change."""
    found = {}
    for where, directories, names in os.walk(directory):
        for name in [*directories, *names]:
            path = Path(where) / name
            status = path.lstat()
            found[str(path)] = (
                status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns
            )  # fmt: skip
    return found


def adopted(store: ArtifactStore, path: Path) -> Adopted:
    before = state_of(path)
    outcome = adopt(store, path, now_s=5.0)
    assert state_of(path) == before
    store.check_invariants()
    return outcome


def served(store: ArtifactStore, artifact: Artifact) -> dict[str, bytes]:
    record = store.record_of(artifact.artifact_id)
    read = {
        entry.path: store.file_of(artifact.artifact_id, entry).read_bytes()
        for entry in record.manifest.files
    }
    assert {path: lfs_name(content) for path, content in read.items()} == {
        entry.path: entry.sha256 for entry in record.manifest.files
    }
    return read


def test_a_hub_cache_is_served_by_hard_links_and_counts_nothing(root: Path, hub: Path) -> None:
    repo = put_repo(hub)
    store = open_store(root)
    outcome = adopted(store, hub.parent)
    (artifact,) = outcome.artifacts
    assert (artifact.name, artifact.kind, artifact.custodian) == ("org/tiny", MODEL, None)
    assert outcome.skipped == ()
    assert store.cache.has(artifact.artifact_id)
    assert artifact in store.cache.holdings()
    assert [usage.occupied_bytes for usage in store.cache.usages()] == [0, 0]
    assert served(store, artifact) == {"config.json": CONFIG, "sub/model.safetensors": WEIGHTS}
    weights = store.path_of(artifact.artifact_id) / "sub/model.safetensors"
    assert weights.samefile(repo / "blobs" / lfs_name(WEIGHTS))
    assert not weights.is_symlink()
    store.verify(artifact.artifact_id)


def test_the_hubs_names_are_kept(root: Path, hub: Path) -> None:
    put_repo(hub)
    store = open_store(root)
    (artifact,) = adopted(store, hub).artifacts
    origin = store.record_of(artifact.artifact_id).hub_origin
    assert origin is not None
    assert origin.revision == COMMIT
    assert origin.etags == (git_name(CONFIG), lfs_name(WEIGHTS))


def test_a_data_set_goes_where_data_sets_do(root: Path, hub: Path) -> None:
    put_repo(hub, "datasets--corpus", files={"train.csv": b"1,2"})
    (artifact,) = adopted(open_store(root), hub).artifacts
    assert (artifact.name, artifact.kind) == ("corpus", DATA)


def test_another_file_system_is_served_in_place(
    root: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_repo(hub)

    def refuse(*args: object, **more: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(adopted_files.os, "link", refuse)
    store = open_store(root)
    (artifact,) = adopted(store, hub).artifacts
    assert served(store, artifact)["sub/model.safetensors"] == WEIGHTS
    entry = store.entry_of(artifact.artifact_id, "config.json")
    assert store.file_of(artifact.artifact_id, entry).is_relative_to(hub)
    assert (store.path_of(artifact.artifact_id) / "config.json").read_bytes() == CONFIG


def test_the_revision_that_main_means_is_adopted_alone(root: Path, hub: Path) -> None:
    put_repo(hub)
    put_repo(hub, commit=OTHER, is_main=False, files={"config.json": b"{}"})
    outcome = adopted(open_store(root), hub)
    assert len(outcome.artifacts) == 1
    assert counts(outcome.skipped) == {SkipReason.OTHER_REVISION: 1}


def shared_payload(repo: Path) -> None:
    """Move a payload to the place that repositories share."""
    blob = repo / "blobs" / lfs_name(WEIGHTS)
    payload = repo.parent / "blobs" / "ab" / ("ab" * 32)
    payload.parent.mkdir(parents=True)
    blob.rename(payload)
    blob.symlink_to(os.path.relpath(payload, blob.parent))


def test_payloads_that_repositories_share_are_found(root: Path, hub: Path) -> None:
    shared_payload(put_repo(hub))
    store = open_store(root)
    (artifact,) = adopted(store, hub).artifacts
    assert served(store, artifact)["sub/model.safetensors"] == WEIGHTS


def unfinished(repo: Path) -> None:
    (repo / "blobs" / f"{'c' * 64}.1234.incomplete").write_bytes(b"half")


def broken(repo: Path) -> None:
    (repo / "blobs" / lfs_name(WEIGHTS)).unlink()


def leaving(repo: Path) -> None:
    secret = repo.parent.parent / "secret"
    secret.write_bytes(b"s3cret")
    (repo / "snapshots" / COMMIT / "key").symlink_to(secret)


def leaving_by_directory(repo: Path) -> None:
    (repo / "snapshots" / COMMIT / "keys").symlink_to(repo.parent.parent)


def missing_shard(repo: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    path = repo / "snapshots" / COMMIT / "sub" / "model.safetensors.index.json"
    path.write_text(json.dumps(index))


def missing_from_tree(repo: Path) -> None:
    (repo / "trees").mkdir()
    files = {
        "config.json": {"size": len(CONFIG), "blob_id": git_name(CONFIG)},
        "LICENSE": {"size": 3, "blob_id": "0" * 40},
    }
    listing = {"format_version": 1, "files": files}
    (repo / "trees" / f"{COMMIT}.json").write_text(json.dumps(listing))


def garbled_tree(repo: Path) -> None:
    (repo / "trees").mkdir()
    (repo / "trees" / f"{COMMIT}.json").write_text('{"format_version": 1, "files": [1]}')


def special(repo: Path) -> None:
    os.mkfifo(repo / "snapshots" / COMMIT / "pipe")


def no_snapshot(repo: Path) -> None:
    (repo / "snapshots" / COMMIT).rename(repo / "snapshots" / "not-a-commit")


def no_directory(repo: Path) -> None:
    (repo / "blobs").rename(repo / "gone")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (unfinished, SkipReason.INCOMPLETE),
        (broken, SkipReason.BROKEN_LINK),
        (leaving, SkipReason.OUTSIDE_LINK),
        (leaving_by_directory, SkipReason.OUTSIDE_LINK),
        (missing_shard, SkipReason.INCOMPLETE),
        (missing_from_tree, SkipReason.INCOMPLETE),
        (garbled_tree, SkipReason.UNREADABLE),
        (special, SkipReason.INCOMPLETE),
        (no_snapshot, SkipReason.INCOMPLETE),
        (no_directory, SkipReason.BROKEN_LINK),
    ],
)
def test_what_is_not_certainly_whole_is_skipped_and_the_rest_is_not(
    root: Path, hub: Path, damage: Callable[[Path], None], reason: SkipReason
) -> None:
    damage(put_repo(hub))
    put_repo(hub, "models--whole")
    outcome = adopted(open_store(root), hub)
    assert [artifact.name for artifact in outcome.artifacts] == ["whole"]
    assert counts(outcome.skipped) == {reason: 1}


def test_a_tree_listing_tells_that_unfinished_files_are_anothers(root: Path, hub: Path) -> None:
    repo = put_repo(hub)
    unfinished(repo)
    (repo / "trees").mkdir()
    sizes = {"config.json": len(CONFIG), "sub/model.safetensors": len(WEIGHTS)}
    files = {path: {"size": size, "blob_id": "0" * 40} for path, size in sizes.items()}
    listing = {"format_version": 1, "files": files}
    (repo / "trees" / f"{COMMIT}.json").write_text(json.dumps(listing))
    assert len(adopted(open_store(root), hub).artifacts) == 1


def test_repositories_that_are_no_models_or_data_sets_are_skipped(root: Path, hub: Path) -> None:
    put_repo(hub, "spaces--org--app")
    put_repo(hub, "models--one--two--three")
    (hub / ".locks").mkdir()
    (hub / "CACHEDIR.TAG").touch()
    outcome = adopted(open_store(root), hub)
    assert outcome.artifacts == ()
    assert counts(outcome.skipped) == {SkipReason.UNSUPPORTED: 1, SkipReason.UNUSABLE_NAME: 1}


def test_a_file_is_hashed_once(root: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_repo(hub)
    adopted(open_store(root), hub)
    hashed: list[Path] = []
    sha256_of = DigestMemory.sha256_of

    def note(memory: DigestMemory, source: Path, checkpoint: Callable[[], None]) -> str:
        def hashing() -> None:
            hashed.append(source)

        return sha256_of(memory, source, hashing)

    monkeypatch.setattr(DigestMemory, "sha256_of", note)
    store = open_store(root)
    assert len(adopted(store, hub).artifacts) == 1
    assert hashed == []
    config = hub / "models--org--tiny" / "blobs" / git_name(CONFIG)
    config.write_bytes(CONFIG.replace(b"1", b"2"))
    again = open_store(root)
    (artifact,) = adopted(again, hub).artifacts
    assert [path.name for path in hashed] == [git_name(CONFIG)]
    served(again, artifact)


def test_a_file_that_changes_while_it_is_hashed_is_skipped(root: Path, hub: Path) -> None:
    repo = put_repo(hub)
    store = open_store(root)

    def change() -> None:
        (repo / "blobs" / git_name(CONFIG)).write_bytes(b"changed")

    outcome = adopt(store, hub, now_s=0.0, checkpoint=change)
    assert counts(outcome.skipped) == {SkipReason.CHANGED: 1}
    assert list((root / "adopted").iterdir()) == []


def test_what_is_here_already_is_not_adopted_twice(root: Path, hub: Path) -> None:
    put_repo(hub)
    store = open_store(root)
    assert len(adopted(store, hub).artifacts) == 1
    assert counts(adopted(store, hub).skipped) == {SkipReason.ALREADY_HERE: 1}


def test_what_the_owner_removes_is_gone_at_the_next_start(root: Path, hub: Path) -> None:
    put_repo(hub)
    (artifact,) = adopted(open_store(root), hub).artifacts
    again = open_store(root)
    with pytest.raises(ArtifactNotFoundError):
        again.path_of(artifact.artifact_id)
    assert list((root / "adopted").iterdir()) == []
    assert (hub / "models--org--tiny" / "blobs" / lfs_name(WEIGHTS)).stat().st_nlink == 1


def test_an_adopted_artifact_is_neither_evicted_nor_repaired(root: Path, hub: Path) -> None:
    put_repo(hub)
    store = open_store(root)
    (artifact,) = adopted(store, hub).artifacts
    assert store.cache.evictions_for(MODEL, 10_000) == ()
    with pytest.raises(WrongStateError):
        store.repair(Examination(artifact.artifact_id, bad=()), lambda *_: b"")
    with pytest.raises(WrongStateError):
        store.settle(store.record_of(artifact.artifact_id))


def test_bytes_that_are_counted_are_never_the_users_inodes(
    root: Path, hub: Path, tmp_path: Path
) -> None:
    put_repo(hub)
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_bytes(WEIGHTS)
    store = open_store(root, source)
    adopted(store, hub)
    mine, _ = store.import_directory(source, "mine", MODEL, None, now_s=0.0)
    assert store.stored_bytes(MODEL) == len(WEIGHTS) == store.cache.usage(MODEL).occupied_bytes
    blob = hub / "models--org--tiny" / "blobs" / lfs_name(WEIGHTS)
    assert not (store.path_of(mine.artifact_id) / "f").samefile(blob)


# ---- Ollama -------------------------------------------------------------------------------------


def test_an_ollama_model_is_served_as_a_store_of_its_own(root: Path, ollama: Path) -> None:
    put_model(ollama)
    store = open_store(root)
    outcome = adopted(store, ollama)
    (artifact,) = outcome.artifacts
    assert (artifact.name, artifact.kind) == ("ollama/llama3-8b", MODEL)
    files = served(store, artifact)
    assert files[f"blobs/sha256-{lfs_name(WEIGHTS)}"] == WEIGHTS
    assert "manifests/registry.ollama.ai/library/llama3/8b" in files
    mirror = store.path_of(artifact.artifact_id)
    second = open_store(root.with_name("other"))
    assert adopted(second, mirror).artifacts == (artifact,), "the directory is OLLAMA_MODELS"


def test_a_model_of_a_user_keeps_its_namespace(root: Path, ollama: Path) -> None:
    put_model(ollama, "registry.ollama.ai/anna/tuned/latest")
    (artifact,) = adopted(open_store(root), ollama).artifacts
    assert artifact.name == "anna/tuned-latest"


def blob_of(ollama: Path) -> Path:
    return ollama / "blobs" / f"sha256-{lfs_name(WEIGHTS)}"


def write_digest(ollama: Path, digest: str) -> None:
    layer = {"digest": digest, "size": 6}
    path = ollama / "manifests/registry.ollama.ai/library/llama3/8b"
    path.write_text(json.dumps({"config": layer, "layers": [layer]}))


def link_blob(ollama: Path) -> None:
    target = ollama.parent / "elsewhere"
    blob_of(ollama).rename(target)
    blob_of(ollama).symlink_to(target)


def break_blob(ollama: Path) -> None:
    blob_of(ollama).unlink()
    blob_of(ollama).symlink_to("nowhere")


def write_text(ollama: Path, text: str) -> None:
    (ollama / "manifests/registry.ollama.ai/library/llama3/8b").write_text(text)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda ollama: blob_of(ollama).unlink(), SkipReason.INCOMPLETE),
        (lambda ollama: blob_of(ollama).write_bytes(b"half"), SkipReason.INCOMPLETE),
        (
            lambda ollama: blob_of(ollama).rename(ollama / f"blobs/{blob_of(ollama).name}-partial"),
            SkipReason.INCOMPLETE,
        ),
        (link_blob, SkipReason.OUTSIDE_LINK),
        (break_blob, SkipReason.BROKEN_LINK),
        (lambda ollama: write_digest(ollama, "sha256:../../secret"), SkipReason.UNREADABLE),
        (lambda ollama: write_digest(ollama, "sha256:" + "0" * 64), SkipReason.INCOMPLETE),
        (lambda ollama: write_text(ollama, "{"), SkipReason.UNREADABLE),
        (lambda ollama: write_text(ollama, "[" * 100_000), SkipReason.UNREADABLE),
        (lambda ollama: write_text(ollama, '{"config": 1, "layers": 2}'), SkipReason.UNREADABLE),
        (lambda ollama: put_model(ollama, "odd/place"), SkipReason.UNSUPPORTED),
        (lambda ollama: put_model(ollama, "h/_n/m/t"), SkipReason.UNUSABLE_NAME),
    ],
)
def test_an_ollama_model_that_is_not_whole_is_skipped(
    root: Path, ollama: Path, damage: Callable[[Path], object], reason: SkipReason
) -> None:
    put_model(ollama)
    whole = put_model(ollama, "registry.ollama.ai/library/whole/1b")
    params = lfs_name(b'{"stop": []}')
    layer = {"digest": f"sha256:{params}", "size": 12}
    whole.write_text(json.dumps({"config": layer, "layers": [layer]}))
    damage(ollama)
    outcome = adopted(open_store(root), ollama)
    assert "ollama/whole-1b" in [artifact.name for artifact in outcome.artifacts]
    assert counts(outcome.skipped) == {reason: 1}


def test_what_is_no_store_is_refused(root: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InvalidRequestError, match="neither"):
            adopt(open_store(root), path, now_s=0.0)


# ---- an agent that is told to adopt ------------------------------------------------------------


def test_stores_have_names_and_the_environment_says_where_they_lie() -> None:
    home = Path("/home/me")
    assert store_named("huggingface", {}, home) == home / ".cache/huggingface/hub"
    assert store_named("huggingface", {"HF_HOME": "/big"}, home) == Path("/big/hub")
    assert store_named("huggingface", {"HF_HOME": "/big", "HF_HUB_CACHE": "/x"}, home) == Path("/x")
    assert store_named("ollama", {}, home) == home / ".ollama/models"
    assert store_named("ollama", {"OLLAMA_MODELS": "/m"}, home) == Path("/m")
    assert store_named("/a/store", {}, home) == Path("/a/store")


async def test_an_agent_serves_the_stores_that_its_operator_names(
    tmp_path: Path, hub: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("a-token-of-a-test-on-loopback-only")
    token_file.chmod(0o600)
    config = replace_address(
        completed(
            AgentConfig(
                "de",
                data_dir=tmp_path / "data",
                token_file=token_file,
                sources=SourcesConfig(adopt=(str(tmp_path / "nothing"), str(hub))),
            )
        )
    )
    put_repo(hub)
    stopping = asyncio.Event()
    before = state_of(hub)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(run_agent(config, SystemClock(), stopping))
        async with grpc.aio.insecure_channel(config.address) as channel:
            await channel.channel_ready()
        async with Client.connect(config.address, token_file=token_file) as client:
            await client.pin_artifact("org/tiny")
            (cache,) = (await client.cache()).items
        stopping.set()
    assert state_of(hub) == before
    (entry,) = cache.entries
    assert (entry.artifact.name, entry.pin_count) == ("org/tiny", 1)
    assert [(mark.reference, mark.is_pinned) for mark in cache.marks] == [("adopted", True)]
    assert [usage.occupied_bytes for usage in cache.usages] == [0, 0]
