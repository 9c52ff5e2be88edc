"""What client commands share: a session, and the decorator that makes one a command of typer."""

import contextlib
import functools
import inspect
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import typer

from gcos.cli.invocation import (
    AgentOption,
    ExitCode,
    Format,
    Invocation,
    Options,
    OutputOption,
    QuietOption,
    TokenFileOption,
)
from gcos.cli.output import Output, has_color
from gcos.client import Client

#: Takes a session and the command's own parameters, which only typer knows; returns the exit code.
BodyT = TypeVar("BodyT", bound=Callable[..., Coroutine[Any, Any, int]])


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a client command.

    Attributes:
        invocation: Its surroundings; its options are those of the command already.
        out: Where words go.
    """

    invocation: Invocation
    out: Output

    def connect(self) -> contextlib.AbstractAsyncContextManager[Client]:
        """Return a connection to the cluster that the options and the environment name."""
        options = self.invocation.options
        return Client.connect(
            options.agent,
            options.token_file,
            environ=self.invocation.environ,
            tell=lambda text: self.out.warn(
                text, reason="AGENT_UNREACHABLE", hint="see who answers: gcos sites ls"
            ),
        )


def command(app: typer.Typer, name: str) -> Callable[[BodyT], BodyT]:
    """Register an `async` function as the command `name` of `app`.

    The function takes a `Session` and then its own parameters, and returns the exit code. Its
    docstring is the help. The shared options are added to its own.
    """

    def register(body: BodyT) -> BodyT:
        @functools.wraps(body)
        def face(
            context: typer.Context,
            *,
            agent: AgentOption,
            token_file: TokenFileOption,
            output: OutputOption,
            quiet: QuietOption,
            **own: Any,
        ) -> int:
            invocation = context.find_object(Invocation)
            assert invocation is not None, "main() hands it in"
            given = Options(agent, token_file=token_file, format=output, is_quiet=quiet)
            options = given.over(invocation.options)
            out = Output(
                format=options.format or Format.TABLE,
                is_quiet=options.is_quiet,
                has_color=has_color(invocation.environ),
            )
            session = Session(invocation.with_options(options), out)
            try:
                code = invocation.run(body(session, **own))
                sys.stdout.flush()
            except BrokenPipeError:
                # Whoever read the output, such as `head`, has left; nothing is flushed at exit.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return ExitCode.PIPE_CLOSED
            return code

        _, *own = inspect.signature(body).parameters.values()
        parameters = [_CONTEXT, *own, *_SHARED]
        face.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        face.__annotations__ = {each.name: each.annotation for each in parameters}
        app.command(name)(face)
        return body

    return register


_CONTEXT: Final = inspect.Parameter(
    "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
)
_SHARED: Final = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, default, annotation in (
        ("agent", None, AgentOption),
        ("token_file", None, TokenFileOption),
        ("output", None, OutputOption),
        ("quiet", False, QuietOption),
    )
)
