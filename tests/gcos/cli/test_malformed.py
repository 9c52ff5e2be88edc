"""Malformed documents on a whole command line: told by line, field and next step, and never taken.

The grammar follows the table of the format itself, so that a new row is broken here by itself: a
document that sets every field, with one of them broken in a way that its shape must refuse.
"""

import asyncio
import contextlib
import io
import json
import re
from collections.abc import Coroutine, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcos.cli.main import main
from gcos.shapes import (
    ArtifactReference,
    Choice,
    Command,
    Flag,
    Instant,
    Many,
    Number,
    RelativePath,
    Row,
    Seconds,
    Section,
    Text,
    Variables,
    Whole,
    WorkingDirectory,
)
from gcos.spec import TASK, parse_document
from testbed.fakes import FAKE_TOKEN, FakeAgent
from testbed.samples import NOW_S

DOCUMENT: dict[str, Any] = {
    "apiVersion": "gcos/v1",
    "kind": "Task",
    "name": "tune",
    "model": "org/tiny-lm",
    "data": ["notes", "letters"],
    "work": {"kind": "fine-tune", "tokens": 1000, "epochs": 2, "batch": 4, "sequence": 256},
    "resources": {"gpu": {"type": "any", "count": 1}},
    "run": "python train.py",
    "env": {"SEED": "7"},
    "deadline": "6h",
    "earliest_start": "1h",
    "max_cost_usd": 5,
    "max_carbon_g": 100,
    "objective": {"carbon_price_usd_per_kg": 0.2},
    "placement": {"allow": ["de"], "deny": ["cal"], "prefer": ["de"]},
    "project": "research",
    "retry": {"limit": 1, "on": ["site-lost"]},
    "workdir": "code@sha256:" + "0" * 64,
    "image": "python:3.12",
    "outputs": [
        {"path": "tuned", "as": "artifact", "kind": "model", "name": "tuned"},
        {"path": "metrics.json", "as": "uri", "uri": "file:///srv/metrics.json"},
    ],
    "secrets": ["HUB_TOKEN"],
    "priority": 1,
    "disconnect": {"lost_after": "5m", "replace": True, "reconcile": "keep-new"},
    "idempotent": True,
    "request_id": "nightly-7",
}

Step = str | int
_ABSENT = object()
_ODD_TEXTS = st.text(st.characters(codec="utf-8", categories=["Cc", "Zs"]), max_size=6)
_NO_NUMBERS = st.sampled_from(["5", "10k", "$5", "lots", True, [1], {"value": 1}])
_NO_TEXTS = st.sampled_from([3, 2.5, True, ["a", ["b"]], {"a": "b"}]) | _ODD_TEXTS


@dataclass(frozen=True)
class Field:
    """A place in `DOCUMENT`, and the shape of what stands there."""

    steps: tuple[Step, ...]
    shape: Any
    is_required: bool = False

    @property
    def path(self) -> str:
        words = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.steps)
        return "".join(words).removeprefix(".")


def fields_of(section: Section[Any], node: Any, steps: tuple[Step, ...] = ()) -> Iterator[Field]:
    for row in section.rows:
        if row.key in node:
            place = (*steps, row.key)
            yield Field(place, row.shape, row.is_required)
            yield from _inner(row, node[row.key], place)


def _inner(row: Row, node: Any, steps: tuple[Step, ...]) -> Iterator[Field]:
    if isinstance(row.shape, Section):
        yield from fields_of(row.shape, node, steps)
    elif isinstance(row.shape, Many):
        for index, item in enumerate(node):
            if isinstance(row.shape.item, Section):
                yield from fields_of(row.shape.item, item, (*steps, index))
            else:
                yield Field((*steps, index), row.shape.item)


FIELDS = tuple(fields_of(TASK, DOCUMENT))


def broken_values(shape: Any) -> st.SearchStrategy[Any]:
    """Values that a shape must refuse."""
    if isinstance(shape, Number | Whole):
        beyond = st.sampled_from([shape.low - 1, shape.high * 10 + 1])
        fraction = st.just(1.5) if isinstance(shape, Whole) else st.nothing()
        return beyond | fraction | _NO_NUMBERS
    if isinstance(shape, Flag):
        return st.sampled_from(["yes", "true", 1, 0, [], {"a": 1}])
    if isinstance(shape, Choice):
        return st.text(max_size=9).filter(lambda text: text not in shape.members) | _NO_TEXTS
    if isinstance(shape, Instant | Seconds):
        stamps = ["2027-02-30T10:00:00Z", "2026-12-01T10:00:00", "2026-12-01", "6 hours", "-6h"]
        return st.sampled_from([*stamps, "9999999d", 6, -1, True, [], {}]) | _ODD_TEXTS
    if isinstance(shape, RelativePath):
        return st.sampled_from(["../x", "/etc/passwd", "a/../../b", "", [], {"path": "a"}])
    if isinstance(shape, ArtifactReference):
        return st.sampled_from(["a/b/c", "a@sha256:12", "../a", "", "a b"]) | _NO_TEXTS
    if isinstance(shape, WorkingDirectory):
        return st.sampled_from(["", " ", 3, [], {"path": "."}])
    if isinstance(shape, Command):
        return st.sampled_from(["", " ", [], [" "], {"a": "b"}, True, 7])
    if isinstance(shape, Variables):
        return st.sampled_from([["A=b"], "A=b", {"1A": "b"}, {"A": [1]}, {"GCOS_X": "1"}, 3])
    if isinstance(shape, Many):
        return st.sampled_from([{"a": {"b": 1}}, [[]], [None], [{"a": [[1]]}], ["a b", "a b"]])
    if isinstance(shape, Section):
        return st.sampled_from([3, "text", ["a"], [{"a": 1}]]) | st.dictionaries(
            st.text("xyz", min_size=1, max_size=4), st.integers(), min_size=1, max_size=2
        )
    assert isinstance(shape, Text), "give the new shape its broken values"
    return _NO_TEXTS | st.just("x" * 2000)


@st.composite
def malformed(draw: st.DrawFn) -> tuple[dict[str, Any], Field]:
    """A document with one broken field, and that field."""
    field = draw(st.sampled_from(FIELDS))
    absent = st.just(_ABSENT) if field.is_required else st.nothing()
    value = draw(broken_values(field.shape) | st.none() | absent)
    root = deepcopy(DOCUMENT)
    node: Any = root
    for step in field.steps[:-1]:
        node = node[step]
    if value is _ABSENT:
        del node[field.steps[-1]]
    else:
        node[field.steps[-1]] = value
    return root, field


def test_every_row_of_the_table_is_among_the_fields() -> None:
    parse_document(json.dumps(DOCUMENT).encode(), submitted_s=NOW_S)
    told = {re.sub(r"\[\d+\]", "", field.path) for field in FIELDS}
    assert told == set(_paths(TASK))


def _paths(section: Section[Any], prefix: str = "") -> Iterator[str]:
    for row in section.rows:
        yield prefix + row.key
        inner = row.shape.item if isinstance(row.shape, Many) else row.shape
        if isinstance(inner, Section):
            yield from _paths(inner, f"{prefix}{row.key}.")


@dataclass(frozen=True)
class Cluster:
    """An agent that serves on a loop of its own between two command lines as during one."""

    agent: FakeAgent
    runner: asyncio.Runner
    directory: Path

    def submit(self, document: str) -> tuple[int, dict[str, str]]:
        """Return the exit code of `gcos submit` and the one line that it tells."""
        job = self.directory / "job.json"
        job.write_text(document)
        told = io.StringIO()
        with contextlib.redirect_stderr(told):
            code = self.runner.run(self._main("submit", str(job), "-o", "json"))
        (line,) = told.getvalue().splitlines()
        return code, json.loads(line)

    async def _main(self, *words: str) -> int:
        loop = asyncio.get_running_loop()

        def on_this_loop(body: Coroutine[Any, Any, int]) -> int:
            return asyncio.run_coroutine_threadsafe(body, loop).result()

        environ = {
            "GCOS_HOME": str(self.directory),
            "GCOS_AGENT": self.agent.address,
            "GCOS_TOKEN_FILE": str(self.directory / "token"),
        }
        return await asyncio.to_thread(main, words, environ=environ, run=on_this_loop)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("cluster")
    (directory / "token").touch(mode=0o600)
    (directory / "token").write_text(FAKE_TOKEN)
    agent = FakeAgent()
    with asyncio.Runner() as runner:
        serving = agent.serving()
        runner.run(serving.__aenter__())
        yield Cluster(agent, runner, directory)
        runner.run(serving.__aexit__(None, None, None))


@settings(max_examples=100, deadline=None)
@given(malformed())
def test_a_malformed_document_is_told_by_line_field_and_next_step_and_never_taken(
    cluster: Cluster, case: tuple[dict[str, Any], Field]
) -> None:
    document, field = case
    code, problem = cluster.submit(json.dumps(document, indent=1))
    assert (code, problem["reason"]) == (2, "INVALID_TASK"), problem
    assert (cluster.agent.tasks, cluster.agent.documents) == ({}, [])
    # What a section lacks or has too much of is told by that key, what is wrong in a list by item.
    assert problem["field"].startswith(field.path), problem
    assert re.match(r"line [1-9]\d*, ", problem["message"]), problem
    assert problem["hint"], problem


@pytest.mark.parametrize("text", ["", "{", "[" * 1000, '{"a": 1, "a": 2}', "\x00"], ids=repr)
def test_what_is_no_document_is_told_by_its_line(cluster: Cluster, text: str) -> None:
    code, problem = cluster.submit(text)
    assert (code, cluster.agent.tasks) == (2, {})
    assert re.match(r"line [1-9]", problem["message"]), problem
    assert problem["hint"]
