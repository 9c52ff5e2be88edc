import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.artifacts import (
    PATH_BYTES_MAX,
    ArtifactKind,
    FileEntry,
    Manifest,
    checked_manifest,
    checked_name,
    checked_path,
    parse_reference,
)
from gcos.errors import InvalidRequestError
from gcos.ids import is_artifact_id

DIGEST = "sha256:" + "0f" * 32


def manifest_of(*paths: str, kind: ArtifactKind = ArtifactKind.MODEL) -> Manifest:
    return Manifest(kind, tuple(FileEntry(path, 10, "ab" * 32) for path in paths))


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "a/../b",
        "./a",
        "a//b",
        "a/",
        "a\\b",
        "a\0b",
        "a\nb",
        "x" * (PATH_BYTES_MAX + 1),
        "ä" * (PATH_BYTES_MAX // 2 + 1),
        "a\udcffb",
    ],
)
def test_a_path_that_could_leave_its_directory_is_refused(path: str) -> None:
    with pytest.raises(InvalidRequestError):
        checked_path(path)


@pytest.mark.parametrize("path", ["a", "a/b.c", "...", ".hidden", "größe/データ", "a b/-c"])
def test_any_other_relative_path_is_taken(path: str) -> None:
    assert checked_path(path) == path


@given(st.text(max_size=30))
def test_a_checked_path_never_climbs(text: str) -> None:
    try:
        path = checked_path(text)
    except InvalidRequestError:
        return
    depth = 0
    for part in path.split("/"):
        assert part not in {"", ".", ".."}
        depth += 1
    assert depth >= 1
    assert path.encode()


@pytest.mark.parametrize("name", ["llama", "org/name", "a.b_c-d/E.1", "7b"])
def test_a_name_may_have_one_slash(name: str) -> None:
    assert checked_name(name, field="model") == name
    assert parse_reference(name, field="model").artifact_id is None


@pytest.mark.parametrize(
    "text", ["", "a/b/c", "../a", ".a", "a b", "a@", "a@sha256:0", "@" + DIGEST, "a@b@" + DIGEST]
)
def test_what_is_no_reference_is_refused_by_field(text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_reference(text, field="data[3]")
    assert caught.value.field == "data[3]"


def test_a_reference_may_pin_its_content() -> None:
    reference = parse_reference(f"org/name@{DIGEST}", field="model")
    assert (reference.name, reference.artifact_id) == ("org/name", DIGEST)


@pytest.mark.parametrize(
    "text", ["sha256:" + "0F" * 32, "sha256:" + "0" * 63, DIGEST + "\n", "md5:" + "0" * 64, "../x"]
)
def test_only_64_lower_case_hex_digits_are_a_content_id(text: str) -> None:
    assert not is_artifact_id(text)


def test_the_id_is_the_content_and_not_the_name() -> None:
    manifest = manifest_of("a", "b")
    assert is_artifact_id(manifest.artifact_id)
    assert manifest.artifact_id == manifest_of("a", "b").artifact_id


FILES = st.lists(
    st.builds(
        FileEntry,
        path=st.text(string.ascii_lowercase + "/ 0123", min_size=1, max_size=8),
        size_bytes=st.integers(0, 100),
        sha256=st.sampled_from(["ab" * 32, "cd" * 32]),
    ),
    min_size=1,
    max_size=4,
).map(tuple)


@given(kind=st.sampled_from(ArtifactKind), files=FILES, other=FILES)
def test_different_contents_have_different_ids(
    kind: ArtifactKind, files: tuple[FileEntry, ...], other: tuple[FileEntry, ...]
) -> None:
    ids_are_equal = Manifest(kind, files).artifact_id == Manifest(kind, other).artifact_id
    assert ids_are_equal is (files == other)


def test_the_kind_is_part_of_the_content() -> None:
    model, data = manifest_of("a"), manifest_of("a", kind=ArtifactKind.DATA)
    assert model.artifact_id != data.artifact_id


def test_a_manifest_is_sorted_and_distinct() -> None:
    assert checked_manifest(manifest_of("a", "a-b", "a.c", "b/c", "b/d")).size_bytes == 50
    for paths in [(), ("b", "a"), ("a", "a"), ("a", "/b")]:
        with pytest.raises(InvalidRequestError):
            checked_manifest(manifest_of(*paths))


@pytest.mark.parametrize("paths", [("a", "a/b"), ("a", "a-", "a/b/c"), ("a/b", "a/b/c/d")])
def test_a_manifest_has_no_file_where_a_directory_must_be(paths: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequestError, match="a file and a directory"):
        checked_manifest(manifest_of(*paths))


@pytest.mark.parametrize(
    "entry",
    [
        FileEntry("b", -1, "ab" * 32),
        FileEntry("b", 1, "AB" * 32),
        FileEntry("b", 1, ""),
        FileEntry("b", 1, "../" + "a" * 61),
    ],
)
def test_a_file_has_a_size_and_a_digest(entry: FileEntry) -> None:
    manifest = manifest_of("a")
    with pytest.raises(InvalidRequestError):
        checked_manifest(replace(manifest, files=(*manifest.files, entry)))


def test_an_artifact_without_bytes_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        checked_manifest(Manifest(ArtifactKind.DATA, (FileEntry("a", 0, "ab" * 32),)))
