"""`gcos schema`."""

from typing import Annotated

import typer

from gcos.cli.invocation import ExitCode, Format
from gcos.cli.output import Output
from gcos.errors import InvalidRequestError
from gcos.schema import task_schema

schema_commands = typer.Typer()


@schema_commands.command()
def schema(
    context: typer.Context,
    output: Annotated[
        Format | None, typer.Option("--output", "-o", help="json or yaml (json).")
    ] = None,
) -> None:
    """Print the JSON Schema (2020-12) of task documents. Needs no cluster.

    Editors complete and check a document whose first line is
    `# yaml-language-server: $schema=task.schema.json`.

    Example:
      gcos schema > task.schema.json
    """
    wanted = output or context.obj.options.format or Format.JSON
    if wanted not in {Format.JSON, Format.YAML}:
        raise InvalidRequestError(
            f"a schema has no form {wanted.value}", field="output", hint="use -o json or -o yaml"
        )
    Output(format=wanted).record(task_schema())
    raise typer.Exit(ExitCode.OK)
