"""`gcos`: parses the command line, finds the command, and turns errors into lines and exit codes.

Commands are loaded when they are called: those of clients from this package, those that run
processes from the entry-point group `gcos.commands`, so that the kernel imports none of them.
"""

import difflib
import importlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, cast

import typer
import typer.core
import typer.main
import typer.rich_utils

from gcos import __version__
from gcos.cli.invocation import (
    EXIT_CODES_HELP,
    AgentOption,
    ExitCode,
    Invocation,
    Options,
    OutputOption,
    QuietOption,
    TokenFileOption,
    exit_code,
)
from gcos.cli.problems import (
    TRACEBACK_VARIABLE,
    USAGE,
    Problem,
    leaves,
    problem_of,
    tell,
    wants_json,
)
from gcos.errors import GcosError

ENTRY_POINT_GROUP: Final = "gcos.commands"

#: What typer says of a value that is none of an option's.
_WRONG_CHOICE: Final = re.compile(
    r"Invalid value for '(?P<option>[^']+)'[^:]*: Value error, "
    r"(?P<quote>['\"])(?P<value>.*)(?P=quote) is not one of (?P<choices>'.*')\."
)

LoadedCommand = typer.core.TyperCommand | typer.core.TyperGroup


@dataclass(frozen=True, slots=True)
class _Own:
    """A command of this package.

    Attributes:
        app: `module:attribute` of the typer application that has it.
        summary: Its line in `gcos --help`.
        is_group: The application itself is the command.
    """

    app: str
    summary: str
    is_group: bool = False


_TASKS: Final = "gcos.cli.tasks:task_commands"
_OWN: Final[dict[str, _Own]] = {
    "plan": _Own(_TASKS, "Show where and when a task would run, and at what cost."),
    "submit": _Own(_TASKS, "Hand a task in."),
    "queue": _Own(_TASKS, "List tasks."),
    "status": _Own(_TASKS, "Show all that is known of a task."),
    "explain": _Own("gcos.cli.explain:explain_commands", "Tell why a task is where it is."),
    "results": _Own("gcos.cli.explain:explain_commands", "Fetch what a task left behind."),
    "logs": _Own(_TASKS, "Print the output of a task."),
    "wait": _Own(_TASKS, "Wait until tasks have ended."),
    "cancel": _Own(_TASKS, "End tasks."),
    "top": _Own("gcos.cli.top:top_commands", "Watch sites and tasks, live."),
    "ledger": _Own("gcos.cli.ledger:ledger_commands", "Show what was spent and saved."),
    "sites": _Own("gcos.cli.sites:sites_commands", "Look at the sites of the cluster.", True),
    "cache": _Own("gcos.cli.cache:cache_commands", "Look at caches; add and pull artifacts.", True),
    "carbon": _Own("gcos.cli.sites:carbon_commands", "Look at carbon intensity and price.", True),
    "schema": _Own(
        "gcos.cli.schema:schema_commands",
        "Print the JSON Schema of task documents, and of what commands write.",
    ),
}

#: Lines in `gcos --help` for commands of other packages, which are not loaded for it.
_SUMMARIES: Final = {
    "agent": "Run the agent of a site.",
    "broker": "Run a broker, which introduces agents to each other.",
    "predictor": "Run a predictor of run times.",
    "up": "Start a cluster on this machine.",
    "down": "Stop the cluster of this machine.",
    "data": "Bring in tables of carbon, price, network and work.",
    "evaluate": "Compare policies on a scenario.",
    "report": "Write a page of evaluations, with plots.",
    "train": "Train the learned parts, and judge them.",
}


class LazyGroup(typer.core.TyperGroup):
    """A group that knows its commands by name and loads the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:  # typer keeps the class of contexts private
        """Return the names of all commands."""
        del ctx
        # Filled here, as the suggestions for a misspelt command come from `self.commands`.
        if not self.commands:
            installed = {point.name: _installed_summary(point) for point in _entry_points()}
            summaries = {name: own.summary for name, own in _OWN.items()}
            for name, summary in {**installed, **summaries}.items():
                self.commands[name] = typer.core.TyperCommand(name, help=summary)
        own = [name for name in _OWN if name in self.commands]
        return [*own, *sorted(set(self.commands) - set(own))]

    def resolve_command(
        self, ctx: Any, args: list[str]
    ) -> tuple[str | None, LoadedCommand | None, list[str]]:
        """Return the command that `args` name, loaded."""
        if args[0] in _OWN:
            return args[0], _loaded_own(args[0]), args[1:]
        self.list_commands(ctx)
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else _loaded_entry_point(name), rest


app = typer.Typer(
    cls=LazyGroup,
    invoke_without_command=True,
    epilog=EXIT_CODES_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def gcos(
    context: typer.Context,
    agent: AgentOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Place LLM jobs where and when they cost the least carbon and money.

    Example:
      gcos up
      gcos plan job.yaml
      gcos submit job.yaml --wait
    """
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit
    invocation = context.find_object(Invocation)
    assert invocation is not None, "main() hands it in"
    options = Options(agent, token_file=token_file, format=output, is_quiet=quiet)
    context.obj = invocation.with_options(options)


def main(
    arguments: Sequence[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    run: Callable[[Coroutine[Any, Any, int]], int] | None = None,
) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: Words after `gcos`; those of the process by default.
        environ: Environment; that of the process by default.
        run: Runs a command's coroutine; on an event loop of its own by default.
    """
    environ = os.environ if environ is None else environ
    invocation = Invocation(environ) if run is None else Invocation(environ, run)
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = wants_json(words)
    _let_help_be_plain(environ)
    try:
        group = typer.main.get_command(app)
        code = group.main(words, prog_name="gcos", standalone_mode=False, obj=invocation)
    except typer.TyperException as exc:
        return _usage_code(exc, as_json=as_json)
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except Exception as exc:  # the last resort: a line for people, never a traceback
        if environ.get(TRACEBACK_VARIABLE):
            raise
        problems = [problem_of(error) for error in leaves(exc)]
        for problem in problems:
            tell(problem, as_json=as_json)
        return max(exit_code(problem.code) for problem in problems)
    return code if isinstance(code, int) else ExitCode.OK


def _let_help_be_plain(environ: Mapping[str, str]) -> None:
    """Keep escape codes out of the help where NO_COLOR is set or nobody looks at a terminal.

    Left alone, rich keeps bold and dim under NO_COLOR, and variables of build services make it
    write codes into pipes.
    """
    is_plain = bool(environ.get("NO_COLOR")) or not sys.stdout.isatty()
    typer.rich_utils.COLOR_SYSTEM = None if is_plain else "auto"


def _usage_code(exc: typer.TyperException, *, as_json: bool) -> int:
    context = getattr(exc, "ctx", None)
    command = context.command_path if context is not None else "gcos"
    message = " ".join(exc.format_message().split())
    # Some groups answer a call without arguments with their help, printed by now.
    if message:
        hint = f"see: {command} --help"
        parameter = getattr(getattr(exc, "param", None), "name", None)
        field = getattr(exc, "option_name", None) or parameter or ""
        if (wrong := _WRONG_CHOICE.fullmatch(message)) is not None:
            field, value = wrong["option"], wrong["value"]
            choices = re.findall(r"'([^']*)'", wrong["choices"])
            message = f"{field}: there is no {value[:60]!r}; it may be {', '.join(choices)}"
            near = difflib.get_close_matches(value.lower(), choices, n=1, cutoff=0.5)
            hint = f"did you mean {field} {near[0]}? {hint}" if near else hint
        # What the parser of values puts before its own sentence tells people nothing.
        message = message.replace(": Value error, ", ": ")
        problem = Problem("INVALID_ARGUMENT", USAGE, message=message, hint=hint, field=field)
        tell(problem, as_json=as_json)
    return ExitCode.REFUSED


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    """Return the entry points of other packages' commands, each name once."""
    found = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    return list({point.name: point for point in reversed(list(found))}.values())


def _installed_summary(point: importlib.metadata.EntryPoint) -> str:
    return _SUMMARIES.get(point.name, f"Command of the package {point.module.partition('.')[0]}.")


def _loaded_own(name: str) -> LoadedCommand:
    own = _OWN[name]
    module, _, attribute = own.app.partition(":")
    application = getattr(importlib.import_module(module), attribute)
    if own.is_group:
        return _command(name, application)
    return cast(LoadedCommand, typer.main.get_group(application).commands[name])


def _loaded_entry_point(name: str) -> LoadedCommand:
    point = next(point for point in _entry_points() if point.name == name)
    try:
        return _command(name, point.load())
    except Exception as exc:  # whatever its package does, it must become a message
        raise GcosError(
            f"the command {name} cannot be loaded from {point.value}: {exc}",
            hint="other commands are not affected; is its package installed with its extras?",
        ) from exc


def _command(name: str, loaded: object) -> LoadedCommand:
    """Return the command that a typer application or a plain function stands for."""
    parent = typer.Typer()
    if isinstance(loaded, typer.Typer):
        parent.add_typer(loaded, name=name)
    else:
        parent.command(name)(cast(Callable[..., Any], loaded))
    return cast(LoadedCommand, typer.main.get_group(parent).commands[name])


if __name__ == "__main__":
    sys.exit(main())
