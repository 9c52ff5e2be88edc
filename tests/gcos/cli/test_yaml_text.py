"""YAML that every reader understands alike."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.resolver import VersionedResolver

from gcos.cli.yaml_text import yaml_text

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_is_read_back(value: object) -> None:
    assert YAML(typ="safe", pure=True).load(yaml_text(value)) == value


@pytest.mark.parametrize(
    "text", ["on", "No", "y", "12:30", "2026-11-23", "0o17", "017", "1e3", "~", "=", "<<", "null"]
)
def test_text_that_older_readers_take_for_something_else_is_quoted(text: str) -> None:
    assert yaml_text([text]) == f'- "{text}"\n'


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_a_number_to_older_readers_too(number: float) -> None:
    text = yaml_text([number]).removeprefix("- ").strip()
    resolver = VersionedResolver(version=(1, 1))
    tag = resolver.resolve(ScalarNode, text, (True, False))
    assert str(tag) == "tag:yaml.org,2002:float"


def test_words_and_ids_stay_plain_and_keys_keep_their_order() -> None:
    value = {"task_id": "de-0000000000001", "model": "org/tiny-lm", "data": [], "env": {}}
    assert yaml_text(value) == (
        "task_id: de-0000000000001\nmodel: org/tiny-lm\ndata: []\nenv: {}\n"
    )


def test_what_repeats_is_written_out() -> None:
    shared = [1]
    assert yaml_text({"a": shared, "b": shared}) == "a:\n- 1\nb:\n- 1\n"


def test_numbers_without_an_end_have_a_spelling() -> None:
    assert yaml_text([math.inf, -math.inf, math.nan]) == "- .inf\n- -.inf\n- .nan\n"
