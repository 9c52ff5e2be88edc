"""`gcos broker ...`: the commands of this package. Imports of weight wait for the command."""

from pathlib import Path
from typing import Annotated

import typer

broker_commands = typer.Typer(help="Run a broker, which introduces agents to each other.")


@broker_commands.callback()
def broker() -> None:
    """Run a broker, which introduces agents to each other."""


@broker_commands.command()
def run(
    address: Annotated[
        str | None, typer.Option(help="host:port to serve at (default: 127.0.0.1:7700)")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File (mode 0600) with the token of the cluster")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration file, TOML")] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error (default: info)")
    ] = None,
) -> None:
    """Run a broker until SIGTERM or Ctrl-C.

    Example:
      gcos broker run --address 127.0.0.1:7700 --token-file token
    """
    import asyncio  # noqa: PLC0415  `gcos --help` must not wait for grpc
    import os  # noqa: PLC0415

    from broker.wiring import BrokerConfig, serve  # noqa: PLC0415
    from gcos import logs  # noqa: PLC0415
    from gcos.config import load  # noqa: PLC0415
    from gcos.process import run_until_signalled  # noqa: PLC0415
    from gcos.system import SystemClock  # noqa: PLC0415

    async def main(stopping: asyncio.Event) -> None:
        options = {"address": address, "token_file": token_file, "log_level": log_level}
        settings = load(BrokerConfig, config, environ=os.environ, overrides=options)
        logs.configure("broker", settings.log_level)
        await serve(settings, stopping, clock=SystemClock(), log=logs.get_logger())

    raise typer.Exit(run_until_signalled(main, process="broker"))
