"""`gcos predictor ...`: the commands of this package. Imports of weight wait for the command."""

from pathlib import Path
from typing import Annotated

import typer

from predictor.backtest.commands import backtest

predictor_commands = typer.Typer(help="Run a predictor, which tells how long runs will take.")


@predictor_commands.callback()
def predictor() -> None:
    """Run a predictor, which tells how long runs will take."""


@predictor_commands.command()
def run(
    address: Annotated[
        str | None, typer.Option(help="host:port to serve at (default: 127.0.0.1:7701)")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Directory of this predictor's observations")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File (mode 0600) with the token of the cluster")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration file, TOML")] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error (default: info)")
    ] = None,
) -> None:
    """Run a predictor until SIGTERM or Ctrl-C.

    Example:
      gcos predictor run --data-dir predictor --token-file token
    """
    import asyncio  # noqa: PLC0415  `gcos --help` must not wait for grpc
    import os  # noqa: PLC0415

    from gcos import logs  # noqa: PLC0415
    from gcos.config import load  # noqa: PLC0415
    from gcos.process import run_until_signalled  # noqa: PLC0415
    from predictor.wiring import PredictorConfig, serve  # noqa: PLC0415

    async def main(stopping: asyncio.Event) -> None:
        options = {
            "address": address,
            "data_dir": data_dir,
            "token_file": token_file,
            "log_level": log_level,
        }
        settings = load(PredictorConfig, config, environ=os.environ, overrides=options)
        logs.configure("predictor", settings.log_level)
        await serve(settings, stopping, log=logs.get_logger())

    raise typer.Exit(run_until_signalled(main, process="predictor"))


predictor_commands.command()(backtest)
