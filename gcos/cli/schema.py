"""`gcos schema`."""

from typing import Annotated

import typer

from gcos.cli.completion import complete_outputs
from gcos.cli.invocation import ExitCode, Format
from gcos.cli.output import Output
from gcos.errors import InvalidRequestError
from gcos.schema import task_schema

schema_commands = typer.Typer()


@schema_commands.command()
def schema(
    context: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND",
            help="What it writes with -o json, instead of task documents; `errors`: each line of "
            "stderr.",
            autocompletion=complete_outputs,
        ),
    ] = None,
    output: Annotated[
        Format | None, typer.Option("--output", "-o", help="json or yaml (json).")
    ] = None,
) -> None:
    """Print the JSON Schema (2020-12) of task documents, or of what a command writes.

    Needs no cluster. Editors complete and check a document whose first line is
    `# yaml-language-server: $schema=task.schema.json`.

    Example:
      gcos schema > task.schema.json
      gcos schema plan
      gcos schema cache ls
      gcos schema errors
    """
    wanted = output or context.obj.options.format or Format.JSON
    if wanted not in {Format.JSON, Format.YAML}:
        raise InvalidRequestError(
            f"a schema has no form {wanted.value}", field="output", hint="use -o json or -o yaml"
        )
    if command:
        # The records of all commands take long to import; documents need none of them.
        from gcos.cli.output_schema import output_schema  # noqa: PLC0415

        found = output_schema(" ".join(command))
    else:
        found = task_schema()
    Output(format=wanted).record(found)
    raise typer.Exit(ExitCode.OK)
