"""JSON Schemas (draft 2020-12) of what commands write with `-o json`, read off their records. Pure.

Every key is always there; what may be absent is null. Keys may be added; a key that goes, or whose
values get another type, is a change that the changelog names.
"""

import difflib
import inspect
from typing import Any, Final

import msgspec

from gcos.cli.log_lines import LogLine
from gcos.cli.problems import ToldProblem
from gcos.cli.top_view import Snapshot
from gcos.client_records import (
    AddedArtifact,
    Cancellation,
    ClusterLedger,
    ExplainedSubmission,
    Explanation,
    Gathered,
    PinnedArtifact,
    Plan,
    Pruned,
    PullProgress,
    RemovedArtifact,
    Results,
    SiteCache,
    SiteCopyLog,
    SiteListing,
    SiteSignalsReading,
    Submission,
    VerifiedArtifact,
)
from gcos.errors import InvalidRequestError
from gcos.ledger_totals import LedgerSummary
from gcos.schema import DIALECT, Schema
from gcos.task_record import Task

#: The line on stderr of any command, whose schema goes by this name.
ERRORS: Final = "errors"

#: What each command writes; where there are several, its options decide.
RECORDS: Final[dict[str, tuple[Any, ...]]] = {
    "plan": (Plan,),
    "submit": (Submission, ExplainedSubmission),
    "queue": (Gathered[Task],),
    "status": (Task,),
    "explain": (Explanation,),
    "results": (Results,),
    "logs": (LogLine,),
    "wait": (list[Task],),
    "cancel": (list[Cancellation],),
    "top": (Snapshot,),
    "ledger": (ClusterLedger, LedgerSummary),
    "sites ls": (SiteListing,),
    "cache ls": (Gathered[SiteCache],),
    "cache log": (Gathered[SiteCopyLog],),
    "cache add": (AddedArtifact,),
    "cache pull": (PullProgress,),
    "cache pin": (PinnedArtifact,),
    "cache unpin": (PinnedArtifact,),
    "cache verify": (list[VerifiedArtifact],),
    "cache prune": (Pruned,),
    "cache rm": (RemovedArtifact,),
    "carbon now": (Gathered[SiteSignalsReading],),
    ERRORS: (ToldProblem,),
}


def output_schema(command: str) -> Schema:
    """Return the schema of what `command` writes with `-o json`.

    Raises:
        InvalidRequestError: There is no such command, or it writes no records.
    """
    if command not in RECORDS:
        of_group = [name for name in RECORDS if name.startswith(f"{command} ")]
        near = difflib.get_close_matches(command, list(RECORDS), n=1)
        advice = f"did you mean {near[0]}?" if near else f"one of: {', '.join(RECORDS)}"
        advice = f"one of: {', '.join(of_group)}" if of_group else advice
        raise InvalidRequestError(
            f"{command[:60]!r} is no command with records", field="command", hint=advice
        )
    refs, definitions = msgspec.json.schema_components(
        RECORDS[command], ref_template="#/$defs/{name}"
    )
    return {
        "$schema": DIALECT,
        "$id": f"urn:gcos:v1:output:{command.replace(' ', '-')}",
        "title": f"gcos {command} -o json",
        **({"anyOf": list(refs)} if len(refs) > 1 else refs[0]),
        "$defs": {name: _whole(schema) for name, schema in definitions.items()},
    }


def _whole(schema: Schema) -> Schema:
    """Return the schema of a record as it is written: with all of its keys."""
    whole = dict(schema)
    if "description" in whole:
        whole["description"] = inspect.cleandoc(whole["description"])
    if "properties" in whole:
        whole["properties"] = {
            key: {word: said for word, said in each.items() if word != "default"}
            for key, each in whole["properties"].items()
        }
        whole["required"] = list(whole["properties"])
    return whole
