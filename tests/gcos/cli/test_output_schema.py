"""What commands write with `-o json` has a schema that is published and does not change unseen.

After a change of a record: GCOS_WRITE_SCHEMAS=1 pytest tests/gcos/cli/test_output_schema.py. A key
that went, or whose values have another type, belongs into the changelog.
"""

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from gcos.cli.main import main
from gcos.cli.output_schema import ERRORS, RECORDS, output_schema
from gcos.client_records import (
    Cancellation,
    ClusterLedger,
    ExplainedSubmission,
    Explanation,
    Gathered,
    Scales,
    SiteCopyLog,
    SiteListing,
    Submission,
)
from gcos.errors import InvalidRequestError
from gcos.ids import TaskId
from gcos.known_sites import KnownSite
from testbed import samples
from testbed.fakes import FakeAgent

KEPT = Path(__file__).with_name("output_schemas.json")
TASK = samples.ended(samples.task_named("1"))
AGENT = FakeAgent(address="127.0.0.1:7")
EXPLANATION = Explanation(TASK, (), Scales())
SUBMISSION = Submission(TASK, durability="local", is_repeat=False)

WRITTEN: list[tuple[str, object]] = [
    ("plan", samples.plan_of_two()),
    ("submit", SUBMISSION),
    ("submit", ExplainedSubmission(SUBMISSION, EXPLANATION)),
    ("queue", Gathered((samples.running(TASK), samples.task_named("2")))),
    ("status", TASK),
    ("explain", EXPLANATION),
    ("wait", [TASK]),
    ("cancel", [Cancellation(TASK, is_cancelled=False)]),
    ("sites ls", SiteListing((KnownSite(AGENT.site, AGENT.digest, 1.0),), is_fresh=True)),
    ("cache log", Gathered((SiteCopyLog(AGENT.site_id, (samples.copy_event(),)),))),
    ("ledger", ClusterLedger((samples.ledger_entry(TaskId("de-0000000000001")),), Scales())),
]


def bare(schema: Any) -> Any:
    """Return a schema without words for people."""
    if isinstance(schema, dict):
        words = {"title", "description", "$id", "$schema"}
        return {
            # Keys of a record are no words of the schema, whatever they are called.
            key: {name: bare(one) for name, one in each.items()}
            if key in {"properties", "$defs"}
            else bare(each)
            for key, each in schema.items()
            if key not in words
        }
    return [bare(each) for each in schema] if isinstance(schema, list) else schema


def shapes() -> str:
    """Return the schemas of all commands, with their definitions once: one a line."""
    commands, definitions = {}, {}
    for command in RECORDS:
        schema = bare(output_schema(command))
        definitions.update(schema.pop("$defs"))
        commands[command] = schema
    named = [*commands.items(), *sorted(definitions.items())]
    lines = (f"{json.dumps(name)}: {json.dumps(schema)}" for name, schema in named)
    return "{\n" + ",\n".join(lines) + "\n}\n"


def test_records_are_written_as_they_were() -> None:
    found = shapes()
    if os.environ.get("GCOS_WRITE_SCHEMAS"):
        KEPT.write_text(found)
    assert found == KEPT.read_text(), "see the head of this file"


@pytest.mark.parametrize("command", RECORDS)
def test_every_schema_is_one_and_says_what_each_record_means(command: str) -> None:
    schema = output_schema(command)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert all(each.get("description") for each in schema["$defs"].values() if "required" in each)


@pytest.mark.parametrize(("command", "record"), WRITTEN, ids=str)
def test_what_is_written_validates_and_less_does_not(command: str, record: object) -> None:
    written = json.loads(msgspec.json.encode(record))
    validator = jsonschema.Draft202012Validator(output_schema(command))
    validator.validate(written)
    one = written[0] if isinstance(written, list) else written
    one.pop(next(iter(one)))
    assert not validator.is_valid(written)


def test_a_line_of_stderr_validates(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "plna", "-o", "json"], environ={}) == 2
    problem = json.loads(capsys.readouterr().err)
    jsonschema.validate(problem, output_schema(ERRORS))
    assert (problem["field"], problem["hint"]) == ("command", "did you mean plan?")


def test_a_group_names_its_commands() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        output_schema("carbon")
    assert caught.value.hint == "one of: carbon now"


def test_a_schema_is_printed_for_words_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "cache", "ls"], environ={}) == 0
    assert json.loads(capsys.readouterr().out) == output_schema("cache ls")


def test_every_command_with_records_is_here() -> None:
    places = (Path(__file__).parents[3] / "gcos" / "cli").glob("*.py")
    commands = sum(path.read_text().count("@command(") for path in places)
    assert commands == len(RECORDS) - 1
