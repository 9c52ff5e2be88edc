"""How errors are told: a sentence with its reason and the next step, or JSON for programs."""

import itertools
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Final

from gcos.errors import GcosError

TRACEBACK_VARIABLE: Final = "GCOS_TRACEBACK"

#: Reason of a command line that cannot be understood.
USAGE: Final = "USAGE"


class Level(Enum):
    """How much a line on stderr matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Problem:
    """An error, a warning or a line of talk as it is told.

    Attributes:
        code: Name of the gRPC status; `OK` for mere talk.
        reason: Closed word that programs may branch on.
        message: One sentence.
        hint: The next step.
        field: Option or dotted field at fault; empty where there is none.
    """

    code: str
    reason: str
    message: str
    hint: str
    field: str = ""


@dataclass(frozen=True, slots=True)
class ToldProblem:
    """A line on stderr with `-o json`: an error, a warning or a line of talk.

    Attributes:
        level: How much it matters.
        code: Name of the gRPC status; `OK` for mere talk.
        reason: Closed word that programs may branch on.
        message: One sentence.
        hint: The next step.
        field: Option or dotted field at fault; empty where there is none.
    """

    level: Level
    code: str
    reason: str
    message: str
    hint: str
    field: str


def problem_of(error: Exception) -> Problem:
    """Return how `error` is told; what is no `GcosError` is a fault of ours."""
    if isinstance(error, GcosError):
        hint = error.hint or _HINTS.get(error.reason) or _HINTS.get(error.code, _HINT_OTHERWISE)
        return Problem(
            error.code, error.reason, message=error.message, hint=hint, field=error.field
        )
    return Problem(
        GcosError.code,
        GcosError.reason,
        message=f"{type(error).__name__}: {error}",
        hint=f"this is a fault of gcos; set {TRACEBACK_VARIABLE}=1 to see where it comes from",
    )


def leaves(error: BaseException) -> Iterator[Exception]:
    """Yield the errors of a group, which a `TaskGroup` makes even of a single one."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    elif isinstance(error, Exception):
        yield error


def tell(problem: Problem, *, as_json: bool, level: Level = Level.ERROR) -> None:
    """Write a problem, warning or line of talk to stderr.

    For programs each is a `ToldProblem` on one line. For people a problem is two lines, a warning
    and a line of talk are one.
    """
    if as_json:
        told = ToldProblem(level, **asdict(problem))
        sys.stderr.write(f"{json.dumps({**asdict(told), 'level': level.value})}\n")
        return
    # Text of peers must not drive the terminal.
    message = _printable(problem.message)
    if level is Level.ERROR:
        _write(f"error: {message} [{problem.reason}]")
        _write(f"hint: {_printable(problem.hint)}")
    else:
        _write(f"{'warning: ' if level is Level.WARNING else ''}{message}")


def folded(text: str, width: int) -> list[str]:
    """Return `text` in lines of at most `width` columns; addresses, ids and paths stay whole."""
    return textwrap.wrap(
        text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _write(text: str) -> None:
    """Write a sentence to stderr: folded between words on a terminal, a line elsewhere."""
    is_terminal = sys.stderr.isatty()
    lines = folded(text, shutil.get_terminal_size().columns) if is_terminal else [text]
    sys.stderr.write("".join(f"{line}\n" for line in lines))


def wants_json(words: Sequence[str]) -> bool:
    """Tell whether a command line asks for JSON, even one that cannot be parsed."""
    return any(
        word in {"-ojson", "--output=json"} or (word in {"-o", "--output"} and value == "json")
        for word, value in itertools.pairwise([*words, ""])
    )


def _printable(text: str) -> str:
    return "".join(ch if ch.isprintable() else " " for ch in text)


#: The next step where an error names none, by reason, else by code.
_HINTS: Final = {
    "INVALID_TASK": "correct the document; its format: gcos schema",
    "INVALID_ARGUMENT": "correct it and try again",
    "UNAUTHENTICATED": "give the token file of this cluster: --token-file or GCOS_TOKEN_FILE",
    "NOT_FOUND": "see what there is: gcos queue --all, gcos sites ls, gcos cache ls",
    "NO_CANDIDATE": "see who refuses it and why: gcos plan FILE",
    "FAILED_PRECONDITION": "look at its state first: gcos queue --all",
    "ABORTED": "try again",
    "RESOURCE_EXHAUSTED": "try again later, or call another agent with --agent",
    "DATA_LOSS": "try again: the damaged copy is not used any more",
    "DEADLINE_EXCEEDED": "try again",
    "UNAVAILABLE": "try again; see who answers: gcos sites ls",
}
_HINT_OTHERWISE: Final = "look into the log of the agent that was called"
