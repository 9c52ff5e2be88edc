"""`gcos up` and `gcos down`: a cluster of real processes on this machine.

Imports of weight wait for the command.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gcos.home import LocalCluster

_Directory = Annotated[
    Path | None,
    typer.Option("--dir", help="Directory of the cluster ($GCOS_HOME, else ~/.local/share/gcos)."),
]


def up(
    sites: Annotated[
        str | None,
        typer.Option(help="Sites of the shipped table, separated by commas (on,de,cal,in)."),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(help="World seconds per wall second: 60 makes a minute of a second (60)."),
    ] = None,
    byte_ratio: Annotated[
        float | None,
        typer.Option(help="World bytes that each stored byte stands for (1)."),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(help="GPUs of each site (as in the shipped table).")
    ] = None,
    world_start: Annotated[
        str | None,
        typer.Option(help="World time of the start, such as 2026-06-01T00:00Z (now)."),
    ] = None,
    directory: _Directory = None,
) -> None:
    """Start a broker, a predictor and an agent for each site on this machine.

    They go on when the terminal is closed; `gcos down` ends them. In a cluster
    that lost some of them, it brings back those, as they were. After
    `gcos down --keep` it goes on with the tasks and options of before.

    Exit codes:
      0  all of them serve
      2  a cluster runs already, perhaps with other options, or they are wrong
      3  one of them did not come up; nothing that was started is left running

    Example:
      gcos up
      gcos up --sites on,de --speed 60
    """
    from testbed import local_cluster  # noqa: PLC0415
    from testbed.interruption import interruptible  # noqa: PLC0415

    where = place(directory)
    try:
        wishes = local_cluster.Wishes(
            site_ids=None if sites is None else _names(sites),
            speed=speed,
            byte_ratio=byte_ratio,
            gpu_count=gpus,
        )
        cluster = None
        # Closing the terminal half-way is an interruption too: nothing must be left half started.
        with interruptible():
            # A world that runs cannot be given another start.
            if world_start is None:
                cluster = local_cluster.revive(where, wishes, tell=_tell)
            if cluster is None:
                options = wishes.options(
                    where,
                    local_cluster.read_state(where),
                    world_start_s=None if world_start is None else _instant_s(world_start),
                )
                cluster = local_cluster.up(options, tell=_tell)
    except KeyboardInterrupt:
        _tell("interrupted; what was started has ended")
        raise typer.Exit(130) from None
    typer.echo(_advice(cluster, directory))


def down(
    directory: _Directory = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave journals, caches and outputs for the next `up`.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove journals even of tasks that have not ended.")
    ] = False,
) -> None:
    """Stop the cluster on this machine and, without --keep, remove what it stored.

    Journals, caches, outputs and the ledger go; your artifacts/, secrets of sites
    and copies in published/ stay. While tasks have not ended, it refuses unless
    told --keep, which lets the next `gcos up` go on with them, or --force, which
    loses them.

    Exit codes:
      0  the cluster is down, or there was none
      2  tasks have not ended, or a process started by hand uses the data
      130  interrupted: running jobs were not waited for, and the cluster is down

    Example:
      gcos down --keep && gcos up
      gcos down
    """
    from testbed import local_cluster  # noqa: PLC0415
    from testbed.wan import cluster  # noqa: PLC0415

    where = place(directory)
    if not (keep or force):
        _refuse_unfinished(local_cluster.unfinished_count(where, tell=_tell))
    was_there = cluster.down(where, keep=keep, tell=_tell)
    # Nothing to stop is what was wanted: scripts call `down` twice.
    _tell("the cluster is down" if was_there else f"no cluster is in {where}: nothing to stop")


def _refuse_unfinished(count: int) -> None:
    """Refuse to remove journals of tasks that have not ended.

    Raises:
        WrongStateError: There are any.
    """
    from gcos.errors import WrongStateError  # noqa: PLC0415

    if count:
        tasks = "1 task has" if count == 1 else f"{count} tasks have"
        raise WrongStateError(
            f"{tasks} not ended and would be lost with the journals; the cluster goes on",
            hint="keep them for the next gcos up with: gcos down --keep; "
            "or remove them with: gcos down --force",
        )


def _names(sites: str) -> tuple[str, ...]:
    return tuple(part for site in sites.split(",") if (part := site.strip()))


def place(directory: Path | None) -> Path:
    """Return the directory of the cluster: as told, else this user's."""
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
        f"  gcos down --keep{'' if directory is None else f' --dir {directory}'}",
    ]
    return "\n".join(lines)


def _tell(line: str) -> None:
    typer.echo(line, err=True)
