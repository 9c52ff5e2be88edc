import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.artifacts import ARTIFACT_NAME, checked_path
from gcos.errors import InvalidRequestError
from site_agent.sources.reference import (
    DirectoryReference,
    HubReference,
    ObjectReference,
    OllamaReference,
    WebReference,
    parse_source,
)

HEX = "ab" * 32


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("hf://org/name", ("org/name", False, "main", "")),
        ("hf://gpt2", ("gpt2", False, "main", "")),
        ("hf://org/name@v1.0", ("org/name", False, "v1.0", "")),
        ("hf://org/name@refs%2Fpr%2F1", ("org/name", False, "refs/pr/1", "")),
        ("hf://org/name/onnx/fp16", ("org/name", False, "main", "onnx/fp16")),
        ("hf://org/name@main/onnx", ("org/name", False, "main", "onnx")),
        ("hf://datasets/org/name@x/data", ("org/name", True, "x", "data")),
    ],
)
def test_repositories_of_the_hub(text: str, facts: tuple[str, bool, str, str]) -> None:
    found = parse_source(text)
    assert isinstance(found, HubReference)
    assert (found.repository, found.is_dataset, found.revision, found.subset) == facts


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("ollama://phi4", ("registry.ollama.ai", "library", "phi4", "latest")),
        ("ollama://phi4:14b", ("registry.ollama.ai", "library", "phi4", "14b")),
        ("ollama://me/phi4:q4", ("registry.ollama.ai", "me", "phi4", "q4")),
        ("ollama://r.example:8080/me/phi4", ("r.example:8080", "me", "phi4", "latest")),
    ],
)
def test_models_of_ollama(text: str, facts: tuple[str, str, str, str]) -> None:
    found = parse_source(text)
    assert isinstance(found, OllamaReference)
    assert (found.host, found.namespace, found.model, found.tag) == facts


def test_files_of_web_servers() -> None:
    found = parse_source(f"https://a.example/dir/text%20one.txt?v=2#sha256={HEX}")
    assert isinstance(found, WebReference)
    assert found.url == "https://a.example/dir/text%20one.txt?v=2"
    assert (found.path, found.sha256, found.name) == ("text one.txt", HEX, "text-one.txt")


def test_directories_and_objects() -> None:
    local = parse_source("file:///data/my%20set")
    assert isinstance(local, DirectoryReference)
    assert (local.path, local.name) == ("/data/my set", "my-set")
    stored = parse_source("s3://bucket/models/tiny/")
    assert isinstance(stored, ObjectReference)
    assert (stored.text, stored.name) == ("s3://bucket/models/tiny", "tiny")


@pytest.mark.parametrize(
    "text",
    [
        *("", "org/name", "hf://", "hf://../x", "hf://org/name@", "hf://org/name@../x"),
        *("hf://org/name/../x", "hf://org/name@a..b", "hf://a/b/c@v1", "HF://org/name"),
        *("https://", "https://a.example", "https://a.example/", "https://u:p@a.example/x"),
        *("https://a.example/x#y", "https://a.example/%2e%2e", "https://a.example/x y"),
        *("https://[::1/x", "https://a.example:99999/x", "https://a.example/%2e%2e%00"),
        *("file://relative", "file:///", "file:///x%00"),
        *("ollama://", "ollama://a/b/c/d", "ollama://a b", "ollama://x:../y"),
        *("s3://", "s3://b/../x", "s3://b//x", "simplecache::s3://b/x", "s3://k@b/x", "s3://b/*"),
        *("hf://org/name\n", f"hf://org/{'n' * 3000}"),
    ],
)
def test_what_spells_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        parse_source(text)
    assert raised.value.hint


@given(
    st.sampled_from(["hf", "https", "file", "ollama", "s3", "x"]),
    st.text(st.characters(codec="utf-8"), max_size=60),
)
def test_whatever_is_read_has_a_name_and_stays_inside(scheme: str, rest: str) -> None:
    try:
        found = parse_source(f"{scheme}://{rest}")
    except InvalidRequestError:
        return
    assert ARTIFACT_NAME.fullmatch(found.name) or "/" in found.name
    if isinstance(found, HubReference) and found.subset:
        checked_path(found.subset)
    if isinstance(found, WebReference):
        checked_path(found.path)
