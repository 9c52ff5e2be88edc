"""`ollama://`, `s3://`, other schemes of fsspec, and `file://`."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gcos.artifacts import ArtifactKind
from gcos.errors import (
    DigestMismatchError,
    InvalidRequestError,
    NotFoundError,
    WrongStateError,
)
from testbed.fake_registries import Answer, FakeUpstream, Fault, add_ollama_model

MODEL, DATA = ArtifactKind.MODEL, ArtifactKind.DATA
LAYERS = {
    "application/vnd.ollama.image.model": b"GGUF" * 50_000,
    "application/vnd.ollama.image.template": b"{{ .Prompt }}",
}


def reference(upstream: FakeUpstream, model: str = "tiny:1b") -> str:
    return f"ollama://{upstream.url.removeprefix('http://')}/library/{model}"


async def test_an_ollama_model_keeps_the_layout_of_its_store(
    site: Any, upstream: FakeUpstream, cdn: FakeUpstream
) -> None:
    add_ollama_model(upstream, cdn, "tiny", "1b", LAYERS)
    upstream_place = upstream.url.removeprefix("http://").replace(":", "_")
    files = site.files(await site.pull(reference(upstream)))
    manifest = json.loads(files.pop(f"manifests/{upstream_place}/library/tiny/1b"))
    digests = [manifest["config"]["digest"], *(each["digest"] for each in manifest["layers"])]
    assert set(files) == {f"blobs/{digest.replace(':', '-')}" for digest in digests}
    assert all(
        hashlib.sha256(body).hexdigest() == path.rpartition("-")[2] for path, body in files.items()
    )


async def test_an_ollama_blob_is_checked_and_a_wrong_name_refused(
    site: Any, upstream: FakeUpstream, cdn: FakeUpstream
) -> None:
    add_ollama_model(upstream, cdn, "tiny", "1b", LAYERS)
    for path in list(cdn.answers):
        cdn.fail(path, Fault(is_corrupt=True), Fault(is_corrupt=True))
    with pytest.raises(DigestMismatchError):
        await site.pull(reference(upstream))
    wrong = {"config": {"digest": "sha256:../../x", "size": 1}, "layers": []}
    upstream.answers["/v2/library/tiny/manifests/1b"] = Answer(json.dumps(wrong).encode())
    with pytest.raises(WrongStateError, match="names a blob"):
        await site.pull(reference(upstream))
    with pytest.raises(NotFoundError):
        await site.pull(reference(upstream, "none"))


@pytest.fixture
def bucket(site: Any, upstream: FakeUpstream) -> dict[str, bytes]:
    pytest.importorskip("s3fs")
    upstream.buckets["models"] = {
        "tiny/config.json": b"{}",
        "tiny/weights/part.bin": bytes(range(256)) * 5000,
        "other/secret": b"no",
    }
    site.environ |= {
        "AWS_ENDPOINT_URL": upstream.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    site.roots = ("s3://models/tiny",)
    return upstream.buckets["models"]


async def test_a_prefix_of_a_bucket_becomes_an_artifact(
    site: Any, bucket: dict[str, bytes]
) -> None:
    pulled = await site.pull("s3://models/tiny", kind=MODEL)
    assert site.files(pulled) == {
        "config.json": b"{}",
        "weights/part.bin": bucket["tiny/weights/part.bin"],
    }
    assert pulled.artifact.name == "tiny"
    only = await site.pull("s3://models/tiny/config.json", kind=MODEL)
    assert site.files(only) == {"config.json": b"{}"}


async def test_only_listed_roots_of_buckets_are_read(site: Any, bucket: dict[str, bytes]) -> None:
    for text in ("s3://models/other", "s3://models", "s3://models/tiny2", "gs://models/tiny"):
        with pytest.raises(InvalidRequestError, match="below no root"):
            await site.pull(text, kind=MODEL)


async def test_what_is_not_in_the_bucket_is_not_found(site: Any, bucket: dict[str, bytes]) -> None:
    with pytest.raises(NotFoundError):
        await site.pull("s3://models/tiny/none", kind=MODEL)


async def test_an_endpoint_inside_the_house_must_be_listed(
    site: Any, bucket: dict[str, bytes]
) -> None:
    site.networks = ()
    with pytest.raises(InvalidRequestError, match="no public address"):
        await site.pull("s3://models/tiny", kind=MODEL)


async def test_any_scheme_of_fsspec_may_be_listed(site: Any) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/set/a.txt", b"a")
    memory.pipe_file("/set/b/c.txt", b"c")
    site.roots = ("memory://set",)
    pulled = await site.pull("memory://set", kind=DATA)
    assert site.files(pulled) == {"a.txt": b"a", "b/c.txt": b"c"}


async def test_a_directory_below_an_allowed_root_becomes_an_artifact(
    site: Any, tmp_path: Path
) -> None:
    place = tmp_path / "shared" / "tiny"
    place.mkdir()
    (place / "a").write_bytes(b"alpha")
    (place / "b").write_bytes(b"beta")
    pulled = await site.pull(f"file://{place}", kind=DATA)
    assert site.files(pulled) == {"a": b"alpha", "b": b"beta"}
    assert site.files(await site.pull(f"file://{place}/b", kind=DATA)) == {"b": b"beta"}


async def test_files_outside_of_the_roots_are_refused(site: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "shared" / "way").symlink_to(tmp_path / "secret")
    (tmp_path / "secret" / "key").write_bytes(b"k")
    for path in (tmp_path / "secret", tmp_path / "shared" / "way", tmp_path / "shared" / "none"):
        with pytest.raises(InvalidRequestError):
            await site.pull(f"file://{path}", kind=DATA)
