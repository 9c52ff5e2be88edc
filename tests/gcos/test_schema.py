"""The schema of task documents against the parser that it is read off."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from gcos import schema, spec
from gcos.errors import InvalidTaskError
from gcos.schema import schema_of, task_schema
from gcos.shapes import Row, Section, Text, Whole
from gcos.spec import TASK, parse_document
from testbed.samples import NOW_S

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
SCHEMA = task_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
MINIMAL: dict[str, Any] = {"apiVersion": "gcos/v1", "kind": "Task", "run": "echo hello"}


def is_parsed(document: object) -> bool:
    try:
        parse_document(json.dumps(document).encode(), submitted_s=NOW_S)
    except InvalidTaskError:
        return False
    return True


def test_the_schema_is_a_schema_of_its_dialect() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_validates(path: Path) -> None:
    VALIDATOR.validate(YAML(typ="safe", pure=True).load(path.read_text()))


def test_the_examples_are_found() -> None:
    assert len(EXAMPLES) >= 4


WORDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
LINES = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=20)
SPANS = st.from_regex(r"[1-9][0-9]{0,2}(\.[0-9])?[smhd]", fullmatch=True)
STAMPS = st.sampled_from(
    ["2027-01-02T03:04:05Z", "2027-01-02t03:04z", "2027-01-02 03:04:05.5+02:00"]
)
REFERENCES = st.sampled_from(["tiny-lm", "org/tiny-lm", "a@sha256:" + "0" * 64])
WORKS = st.fixed_dictionaries(
    {},
    optional={
        "tokens": st.integers(0, 10**15) | st.sampled_from([2e9, 1e3]),
        "epochs": st.floats(0.001, 1e6),
        "batch": st.integers(0, 10**6),
        "sequence": st.integers(0, 10**8),
    },
)
LISTS = WORDS | st.lists(WORDS, max_size=4, unique=True)
#: Longer than `WORDS` are: what is denied must not be allowed.
DENIED = st.from_regex(r"[A-Za-z][A-Za-z0-9]{21,25}", fullmatch=True)
NUMBERS = st.integers(0, 99) | st.floats(allow_nan=False, allow_infinity=False)
DOCUMENTS = st.fixed_dictionaries(
    {
        "apiVersion": st.just("gcos/v1"),
        "kind": st.just("Task"),
        "run": LINES | st.lists(LINES, min_size=1, max_size=4) | st.just(["python", 1, 2.5]),
    },
    optional={
        "name": LINES,
        "model": REFERENCES,
        "data": REFERENCES | st.lists(REFERENCES, max_size=2, unique=True),
        "work": WORKS,
        "resources": st.fixed_dictionaries(
            {},
            optional={
                "gpu": st.fixed_dictionaries(
                    {}, optional={"type": WORDS, "count": st.integers(1, 1024)}
                )
            },
        ),
        "env": st.dictionaries(
            st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True), LINES | NUMBERS
        ),
        "deadline": SPANS | STAMPS,
        "earliest_start": SPANS | STAMPS,
        "max_cost_usd": st.floats(0, 1e9),
        "max_carbon_g": st.integers(0, 10**12),
        "objective": st.fixed_dictionaries(
            {}, optional={"carbon_price_usd_per_kg": st.floats(0, 1e4)}
        ),
        "placement": st.fixed_dictionaries(
            {}, optional={"allow": LISTS, "deny": DENIED, "prefer": LISTS}
        ),
        "project": WORDS,
        "retry": st.fixed_dictionaries(
            {},
            optional={
                "limit": st.integers(0, 100),
                "on": st.lists(
                    st.sampled_from(["site-lost", "staging", "executor", "exit-code"]), unique=True
                ),
            },
        ),
        "idempotent": st.booleans(),
        "request_id": WORDS,
    },
)


@given(DOCUMENTS)
@settings(max_examples=200)
def test_what_the_parser_takes_validates(document: dict[str, Any]) -> None:
    if is_parsed(document):
        VALIDATOR.validate(document)


@given(DOCUMENTS)
@settings(max_examples=20)
def test_most_of_those_documents_are_taken(document: dict[str, Any]) -> None:
    """Else the law above would hold of nothing."""
    without_instants = {
        k: v for k, v in document.items() if k not in {"deadline", "earliest_start"}
    }
    assert is_parsed(without_instants)


@pytest.mark.parametrize(
    "change",
    [
        {"rum": "x"},
        {"work": {"kinds": "custom"}},
        {"work": {"kind": "tune"}},
        {"work": {"tokens": -1}},
        {"work": {"tokens": 1.5}},
        {"resources": {"gpu": {"count": 0}}},
        {"resources": {"gpu": {"count": "2"}}},
        {"run": ""},
        {"run": []},
        {"run": None},
        {"run": [" "]},
        {"name": "  "},
        {"name": "two\nlines"},
        {"name": "x" * 201},
        {"model": "a/b/c"},
        {"model": "a@sha256:00"},
        {"data": ["a", "a"]},
        {"env": {"1A": "x"}},
        {"env": {"A": True}},
        {"deadline": "6 hours"},
        {"deadline": "2027-01-02T03:04:05"},
        {"max_cost_usd": -1},
        {"placement": {"allow": "a b"}},
        {"retry": {"on": ["sometimes"]}},
        {"idempotent": "yes"},
        {"request_id": "a b"},
        {"apiVersion": "gcos/v2"},
    ],
    ids=str,
)
def test_what_the_parser_refuses_by_its_shape_is_refused_alike(change: dict[str, Any]) -> None:
    document = {**MINIMAL, **change}
    assert not is_parsed(document)
    assert not VALIDATOR.is_valid(document)


def test_a_document_without_its_command_is_refused() -> None:
    assert not VALIDATOR.is_valid({"apiVersion": "gcos/v1", "kind": "Task"})


def rows_of(section: Section[Any], prefix: str = "") -> Iterator[tuple[str, Row]]:
    for row in section.rows:
        yield prefix + row.key, row
        inner = getattr(row.shape, "item", row.shape)
        if isinstance(inner, Section):
            yield from rows_of(inner, f"{prefix}{row.key}.")


@pytest.mark.parametrize(("path", "row"), list(rows_of(TASK)), ids=lambda value: str(value)[:30])
def test_every_shape_of_the_table_says_something_in_the_schema(path: str, row: Row) -> None:
    inner = getattr(row.shape, "item", row.shape)
    assert schema.is_known(row.shape), f"give the shape of {path} a converter in gcos/schema.py"
    assert schema.is_known(inner), f"give the items of {path} a converter in gcos/schema.py"


def test_a_new_row_shows_up_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row("seats", None, Whole(1, 3), is_required=True)
    monkeypatch.setattr(schema, "TASK", Section((*TASK.rows, row), TASK.build))
    changed = task_schema()
    assert changed["properties"]["seats"] == {"type": "integer", "minimum": 1, "maximum": 3}
    assert "seats" in changed["required"]


def test_defaults_are_those_of_the_records_as_they_are_written() -> None:
    properties = SCHEMA["properties"]
    assert properties["project"]["default"] == "default"
    assert properties["idempotent"]["default"] is True
    assert properties["retry"]["properties"]["on"]["default"] == [
        *("site-lost", "staging", "executor"),
    ]
    assert properties["work"]["properties"]["kind"]["default"] == "custom"
    assert properties["resources"]["properties"]["gpu"]["properties"]["count"]["default"] == 1
    assert "default" not in properties["name"]
    assert "default" not in properties["deadline"]


@pytest.mark.parametrize("section", ["", "work", "retry", "placement"])
def test_defaults_validate(section: str) -> None:
    properties = SCHEMA["properties"]
    if section:
        properties = properties[section]["properties"]
    for key, each in properties.items():
        if "default" in each:
            inner = {key: each["default"]}
            VALIDATOR.validate({**MINIMAL, **({section: inner} if section else inner)})


def test_descriptions_come_from_the_records_and_the_table() -> None:
    properties = SCHEMA["properties"]
    assert properties["project"]["description"].startswith("Whom it is accounted to.")
    assert "2026-11-23T14:05:00Z" in properties["deadline"]["description"]


def test_a_shape_that_is_not_known_takes_anything() -> None:
    class Odd:
        def parse(self, node: object, at: object) -> int:
            return 0

    assert schema_of(Odd()) == {}


def test_patterns_are_of_the_dialect_of_json_schema() -> None:
    """ECMA-262 has no `(?P<name>`."""
    assert "(?P" not in json.dumps(SCHEMA)
    assert schema_of(Text(pattern=spec.REQUEST_ID))["pattern"].startswith("^(?:")
