"""One call of `gcos`: its surroundings, the options that may stand anywhere, its exit codes.

Light: `gcos --help` imports this and nothing that talks to a cluster.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer


class ExitCode(IntEnum):
    """What a script may branch on."""

    OK = 0
    JOB_FAILED = 1
    REFUSED = 2
    UNREACHABLE = 3
    INTERNAL = 4
    #: As `timeout(1)` has it.
    TIMED_OUT = 124
    INTERRUPTED = 130
    PIPE_CLOSED = 141


EXIT_CODES_HELP: Final = """\
Exit codes: 0 done; 1 a job that was waited for failed, was cancelled or rejected; 2 bad input, \
wrong usage or refused; 3 the cluster cannot be reached or refuses the token; 4 internal error; \
124 a wait reached its --timeout; 130 interrupted.

Errors go to stderr: a sentence with its [REASON] and a hint. Where -o json is given, each line of \
stderr is a JSON object: level (info, warning, error), code, reason, message, hint, field."""

_CODES: Final = {
    "INVALID_ARGUMENT": ExitCode.REFUSED,
    "NOT_FOUND": ExitCode.REFUSED,
    "FAILED_PRECONDITION": ExitCode.REFUSED,
    "RESOURCE_EXHAUSTED": ExitCode.REFUSED,
    "UNAVAILABLE": ExitCode.UNREACHABLE,
    "UNAUTHENTICATED": ExitCode.UNREACHABLE,
    "DEADLINE_EXCEEDED": ExitCode.TIMED_OUT,
}


def exit_code(status: str) -> ExitCode:
    """Return the exit code for an error whose `code`, the name of a gRPC status, is `status`."""
    return _CODES.get(status, ExitCode.INTERNAL)


class Format(Enum):
    """How data are written."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Options:
    """Options that may stand before or after the name of a client command.

    Attributes:
        agent: `host:port` of an agent; None: look in the environment and on this machine.
        token_file: File with the token; None: the same.
        format: How data are written; None: as a table.
        is_quiet: No talk, and ids instead of tables.
    """

    agent: str | None = None
    token_file: Path | None = None
    format: Format | None = None
    is_quiet: bool = False

    def over(self, earlier: "Options") -> "Options":
        """Return these options, and the earlier ones where these are silent."""
        return Options(
            agent=self.agent or earlier.agent,
            token_file=self.token_file or earlier.token_file,
            format=self.format or earlier.format,
            is_quiet=self.is_quiet or earlier.is_quiet,
        )


def _in_new_loop(body: Coroutine[Any, Any, int]) -> int:
    return asyncio.run(body)


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of `gcos`.

    Attributes:
        environ: Environment.
        run: Runs a command's coroutine; on an event loop of its own by default.
        options: Options that stood before the command's name.
    """

    environ: Mapping[str, str]
    run: Callable[[Coroutine[Any, Any, int]], int] = _in_new_loop
    options: Options = Options()

    def with_options(self, options: Options) -> "Invocation":
        """Return the same invocation with these options."""
        return replace(self, options=options)


_PANEL: Final = "Options of every client command"

AgentOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Agent to call; any will do (else GCOS_AGENT, else the one of gcos up).",
        rich_help_panel=_PANEL,
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File with the cluster's token (else GCOS_TOKEN_FILE).",
        rich_help_panel=_PANEL,
    ),
]
OutputOption = Annotated[
    Format | None,
    typer.Option(
        "--output",
        "-o",
        help="How data are written (table); name: ids only.",
        rich_help_panel=_PANEL,
    ),
]
QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Ids only, and no talk.", rich_help_panel=_PANEL),
]
