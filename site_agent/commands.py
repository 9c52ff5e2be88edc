"""`gcos agent ...`: the commands of this package. Imports of weight wait for the command."""

from pathlib import Path
from typing import Annotated

import typer

agent_commands = typer.Typer(no_args_is_help=True, help="Run the agent of one site.")


@agent_commands.callback()
def agent() -> None:
    """Run the agent of one site."""


@agent_commands.command()
def run(
    site: Annotated[
        str | None, typer.Option(help="Site id; one of the shipped table needs nothing else.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration file, TOML.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Journal, caches and runs.")] = None,
    address: Annotated[
        str | None, typer.Option(help="host:port to serve at (default: a free port of loopback)")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File (mode 0600) with the token of the cluster.")
    ] = None,
    broker: Annotated[
        list[str] | None, typer.Option(help="host:port of a broker; may be repeated.")
    ] = None,
    predictor: Annotated[
        list[str] | None, typer.Option(help="host:port of a predictor; may be repeated.")
    ] = None,
    artifact_root: Annotated[
        list[Path] | None, typer.Option(help="Directory from which artifacts may be added.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error (default: info)")
    ] = None,
) -> None:
    """Serve as one site until SIGTERM or Ctrl-C, then drain.

    Example: gcos agent run --site on --data-dir ./on --token-file ./token
    --broker 127.0.0.1:7700 --predictor 127.0.0.1:7701
    """
    options: dict[str, object] = {
        "site": site,
        "data_dir": data_dir,
        "address": address,
        "token_file": token_file,
        "brokers": broker or None,
        "predictors": predictor or None,
        "artifact_roots": artifact_root or None,
        "log_level": log_level,
    }
    from site_agent.process import serve  # noqa: PLC0415  `gcos --help` must not wait for grpc

    raise typer.Exit(serve(config, options))
