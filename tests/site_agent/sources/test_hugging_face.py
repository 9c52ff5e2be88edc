"""`hf://` against a hub with a CDN, as documented."""

from typing import Any

import pytest

from gcos.artifacts import ArtifactKind
from gcos.errors import DigestMismatchError, InvalidRequestError, NotFoundError, WrongStateError
from testbed.fake_registries import (
    Answer,
    FakeUpstream,
    Fault,
    add_gated_repository,
    add_hub_repository,
)

COMMIT = "c0ffee" * 6 + "c0ff"
WEIGHTS = bytes(range(256)) * 2048
FILES = {
    "config.json": b'{"model_type": "tiny"}',
    "empty.txt": b"",
    "onnx/model.onnx": WEIGHTS[::-1],
    "model.safetensors": WEIGHTS,
}
LFS = ("model.safetensors", "onnx/model.onnx")
TOKEN = "hf_secret"


@pytest.fixture
def hub(site: Any, upstream: FakeUpstream, cdn: FakeUpstream) -> FakeUpstream:
    site.environ["HF_ENDPOINT"] = upstream.url
    add_hub_repository(upstream, cdn, "org/tiny", FILES, lfs=LFS, commit=COMMIT, page_count=3)
    return upstream


async def test_a_repository_becomes_a_model_under_its_own_name(
    site: Any, hub: FakeUpstream, cdn: FakeUpstream
) -> None:
    pulled = await site.pull("hf://org/tiny")
    assert site.files(pulled) == FILES
    assert (pulled.artifact.name, pulled.artifact.kind) == ("org/tiny", ArtifactKind.MODEL)
    assert pulled.revision == COMMIT
    record = site.store.record_of(pulled.artifact.artifact_id)
    assert record.hub_origin.revision == COMMIT, "so that the hub's tools find it"


async def test_transformers_finds_a_pulled_model_offline(site: Any, hub: FakeUpstream) -> None:
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    await site.pull("hf://org/tiny")
    root = site.store.hub_root
    found = try_to_load_from_cache("org/tiny", "config.json", cache_dir=root)
    assert isinstance(found, str)
    place = snapshot_download("org/tiny", cache_dir=root, local_files_only=True)
    assert place.endswith(COMMIT)


async def test_the_token_goes_to_the_hub_and_not_to_the_cdn(
    site: Any, hub: FakeUpstream, cdn: FakeUpstream, capsys: pytest.CaptureFixture[str]
) -> None:
    site.environ["HF_TOKEN"] = TOKEN
    hub.fail(f"/org/tiny/resolve/{COMMIT}/config.json", Fault(503))
    await site.pull("hf://org/tiny")
    resolved = [each for each in hub.asked if "/resolve/" in each.path]
    assert {each.headers.get("authorization") for each in resolved} == {f"Bearer {TOKEN}"}
    assert cdn.asked
    assert all("authorization" not in each.headers for each in cdn.asked)
    captured = capsys.readouterr()
    assert "pull_interrupted" in captured.out
    assert TOKEN not in captured.out + captured.err


async def test_a_data_set_and_a_subset(site: Any, hub: FakeUpstream, cdn: FakeUpstream) -> None:
    add_hub_repository(hub, cdn, "org/text", FILES, kind="datasets", lfs=LFS, revision="v1")
    pulled = await site.pull("hf://datasets/org/text@v1/onnx")
    assert site.files(pulled) == {"onnx/model.onnx": FILES["onnx/model.onnx"]}
    assert pulled.artifact.kind is ArtifactKind.DATA
    with pytest.raises(NotFoundError, match="no such file"):
        await site.pull("hf://datasets/org/text@v1/nothing")


async def test_only_what_changed_is_fetched_of_a_newer_revision(
    site: Any, hub: FakeUpstream, cdn: FakeUpstream
) -> None:
    await site.pull("hf://org/tiny")
    before_count = len(cdn.asked)
    newer = {**FILES, "config.json": b'{"model_type": "newer"}'}
    commit = "beef" * 10
    add_hub_repository(hub, cdn, "org/tiny", newer, lfs=LFS, commit=commit, revision="v2")
    pulled = await site.pull("hf://org/tiny@v2", "org/newer")
    assert site.files(pulled) == newer
    assert len(cdn.asked) == before_count, "the weights are here"


async def test_the_same_commit_is_not_fetched_twice(site: Any, hub: FakeUpstream) -> None:
    await site.pull("hf://org/tiny")
    count = len([each for each in hub.asked if "/resolve/" in each.path])
    assert not (await site.pull("hf://org/tiny")).is_new
    assert len([each for each in hub.asked if "/resolve/" in each.path]) == count


@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
async def test_a_file_that_is_wrong_twice_is_refused(
    site: Any, hub: FakeUpstream, cdn: FakeUpstream, path: str
) -> None:
    """Small files are checked by git's id, large ones by SHA-256."""
    for server in (hub, cdn):
        for place, answer in list(server.answers.items()):
            if answer.body == FILES[path]:
                server.answers[place] = Answer(FILES[path][::-1])
    with pytest.raises(DigestMismatchError, match="twice"):
        await site.pull("hf://org/tiny")


async def test_a_gated_model_says_what_to_do(site: Any, hub: FakeUpstream) -> None:
    add_gated_repository(hub, "org/gated")
    with pytest.raises(WrongStateError, match="gated") as raised:
        await site.pull("hf://org/gated")
    assert f"{hub.url}/org/gated" in raised.value.hint
    assert "HF_TOKEN" in raised.value.hint


@pytest.mark.parametrize(
    ("status", "code", "word"),
    [
        (401, "RepoNotFound", "does not exist, or is private"),
        (404, "RepoNotFound", "does not exist, or is private"),
        (404, "RevisionNotFound", "no such revision"),
    ],
)
async def test_what_is_not_there_says_so(
    site: Any, hub: FakeUpstream, status: int, code: str, word: str
) -> None:
    hub.answers["/api/models/org/none/revision/main"] = Answer(
        status=status, headers={"X-Error-Code": code}
    )
    with pytest.raises(NotFoundError, match=word):
        await site.pull("hf://org/none")


async def test_a_busy_hub_is_waited_for(site: Any, hub: FakeUpstream) -> None:
    hub.fail("/api/models/org/tiny/revision/main", Fault(429, {"Retry-After": "5"}), Fault(500))
    await site.pull("hf://org/tiny")
    assert site.pauses_s == [5.0, 2.0]


async def test_a_redirect_to_a_host_that_is_not_listed_is_refused(
    site: Any, hub: FakeUpstream
) -> None:
    hub.redirect(
        f"/org/tiny/resolve/{COMMIT}/model.safetensors", "https://evil.example/model", status=302
    )
    with pytest.raises(InvalidRequestError, match=r"nothing from https://evil\.example"):
        await site.pull("hf://org/tiny")


async def test_a_listing_cannot_leave_its_artifact(
    site: Any, hub: FakeUpstream, cdn: FakeUpstream
) -> None:
    add_hub_repository(hub, cdn, "org/evil", {"../../outside": b"x"})
    with pytest.raises(InvalidRequestError, match="does not stay inside"):
        await site.pull("hf://org/evil")


async def test_an_offline_agent_asks_nobody(site: Any, hub: FakeUpstream) -> None:
    site.environ["HF_HUB_OFFLINE"] = "1"
    with pytest.raises(WrongStateError, match="HF_HUB_OFFLINE"):
        await site.pull("hf://org/tiny")
    assert hub.asked == []
