"""`gcos up` and `gcos down`: a cluster of real processes on this machine.

Imports of weight wait for the command.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gcos.home import LocalCluster

SITES_DEFAULT = "on,de,cal,in"

_Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir", help="Directory of the cluster  [default: $GCOS_HOME or ~/.local/share/gcos]"
    ),
]


def up(
    sites: Annotated[
        str, typer.Option(help="Sites of the shipped table, separated by commas.")
    ] = SITES_DEFAULT,
    speed: Annotated[
        float, typer.Option(help="World seconds per wall second: 60 makes a minute of a second.")
    ] = 60.0,
    byte_ratio: Annotated[
        float, typer.Option(help="World bytes that each stored byte stands for.")
    ] = 1.0,
    gpus: Annotated[
        int | None, typer.Option(help="GPUs of each site  [default: as in the shipped table]")
    ] = None,
    world_start: Annotated[
        str | None,
        typer.Option(help="World time of the start, such as 2026-06-01T00:00Z  [default: now]"),
    ] = None,
    directory: _Directory = None,
) -> None:
    """Start a broker, a predictor and an agent for each site on this machine.

    They go on when the terminal is closed; `gcos down` ends them.

    Exit codes:
      0  all of them serve
      2  a cluster runs already, or the options are wrong
      3  one of them did not come up; nothing is left running

    Example:
      gcos up
      gcos up --sites on,de --speed 60
    """
    import signal  # noqa: PLC0415

    from testbed import local_cluster  # noqa: PLC0415

    # Closing the terminal half-way is an interruption too: nothing must be left half started.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    place = _place(directory)
    try:
        options = local_cluster.ClusterOptions(
            directory=place,
            site_ids=tuple(part for site in sites.split(",") if (part := site.strip())),
            speed=speed,
            byte_ratio=byte_ratio,
            world_start_s=None if world_start is None else _instant_s(world_start),
            gpu_count=gpus,
        )
        cluster = local_cluster.up(options, tell=_tell)
    except KeyboardInterrupt:
        _tell("interrupted; nothing runs")
        raise typer.Exit(130) from None
    typer.echo(_advice(cluster, directory))


def down(
    directory: _Directory = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave journals, caches and outputs for the next `up`.")
    ] = False,
) -> None:
    """Stop the cluster on this machine and, without --keep, remove what it stored.

    Example:
      gcos down
      gcos down --keep && gcos up
    """
    from testbed import local_cluster  # noqa: PLC0415

    place = _place(directory)
    was_there = local_cluster.down(place, keep=keep, tell=_tell)
    # Nothing to stop is what was wanted: scripts call `down` twice.
    _tell("the cluster is down" if was_there else f"no cluster is in {place}: nothing to stop")


def _place(directory: Path | None) -> Path:
    import os  # noqa: PLC0415

    from gcos.home import home_directory  # noqa: PLC0415

    return (directory or home_directory(os.environ)).expanduser().absolute()


def _instant_s(text: str) -> float:
    """Return the instant of a time stamp with its offset, world seconds since the epoch.

    Raises:
        InvalidRequestError: It is none.
    """
    from datetime import datetime  # noqa: PLC0415

    from gcos.errors import InvalidRequestError  # noqa: PLC0415

    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise InvalidRequestError(
            f"{text!r} is no time with an offset from UTC",
            field="world_start",
            hint="write it like 2026-06-01T00:00Z",
        )
    return instant.timestamp()


def _advice(cluster: "LocalCluster", directory: Path | None) -> str:
    """Return what to know and what to try next."""
    lines = [f"{len(cluster.agents)} sites run: {', '.join(sorted(cluster.agents))}."]
    if cluster.speed != 1:
        lines.append(
            f"World time runs {cluster.speed:g} times as fast as the clock on the wall: "
            f"a deadline of 1h is {3600 / cluster.speed:.3g} s from now."
        )
    if cluster.byte_ratio != 1:
        lines.append(f"Each stored byte stands for {cluster.byte_ratio:g} bytes.")
    lines += ["", "Try:"]
    if directory is not None:
        lines.append(f"  export GCOS_HOME={directory.expanduser().absolute()}")
    lines += [
        "  gcos sites ls",
        "  gcos carbon now",
        "  gcos plan examples/custom.yaml",
        "  gcos submit examples/custom.yaml --wait",
        f"  gcos down{'' if directory is None else f' --dir {directory}'}",
    ]
    return "\n".join(lines)


def _tell(line: str) -> None:
    typer.echo(line, err=True)
