"""`gcos testbed ...`: regions on this machine with the distances between them.

Imports of weight wait for the command.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcos.cli.invocation import Format, Invocation, OutputOption, QuietOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gcos.cli.output import Output
    from testbed.scenarios import Scenario
    from testbed.wan.cluster import Testbed
    from testbed.wan.control import LinkReading
    from testbed.wan.docker_cluster import ContainerOptions
    from testbed.wan.records import LinkChange
    from testbed.world import World

testbed_commands = typer.Typer(
    help="Run regions on this machine, with the distances between them.", no_args_is_help=True
)

DirectoryOption = Annotated[
    Path | None,
    typer.Option("--dir", help="Directory of the testbed ($GCOS_HOME, else ~/.local/share/gcos)."),
]
#: With these a link of 4 Gbit/s carries 30 MB/s here, which one process can do for all links.
SPEED = 60.0
BYTE_RATIO = 1000.0
_Place = Annotated[str, typer.Argument(help="A site, broker or predictor.")]


@testbed_commands.command()
def up(
    scenario: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Whose sites: a scenario of gcos evaluate.")
    ] = "no-clean-zones",
    backend: Annotated[
        str,
        typer.Option(
            help="relay: processes on loopback; netns: in network namespaces (root); docker: "
            "containers; auto: netns where it can be, else relay."
        ),
    ] = "auto",
    carrier: Annotated[
        str,
        typer.Option("--links", help="netem, nfqueue or relay; auto: the best that there is."),
    ] = "auto",
    speed: Annotated[float, typer.Option(help="World seconds per wall second.")] = SPEED,
    byte_ratio: Annotated[
        float, typer.Option(help="World bytes that each stored byte stands for.")
    ] = BYTE_RATIO,
    gpus: Annotated[int, typer.Option(help="GPUs of each site.")] = 2,
    policy: Annotated[str, typer.Option(help="How sites bid, as in gcos evaluate.")] = "joint",
    network: Annotated[
        Path | None,
        typer.Option(help="Table of links (testbed/world/README.md), or a directory with it."),
    ] = None,
    broker_zone: Annotated[
        str | None, typer.Option(help="Zone of the broker (one without a site).")
    ] = None,
    predictor_zone: Annotated[
        str | None, typer.Option(help="Zone of the predictor (one without a site).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of jitter and loss.")] = 0,
    image: Annotated[
        str, typer.Option(help="Image of containers (testbed/wan/docker/build.sh builds it).")
    ] = "gcos-testbed:latest",
    directory: DirectoryOption = None,
) -> None:
    """Start an agent for each site, a broker and a predictor, and the links between.

    Round-trip times are those of the table. Rates are scaled by speed and byte
    ratio, so that a transfer lasts as long as in the world. Links are carried by
    the kernel (netem, else NFQUEUE and htb) where it lets us, else by relays; what
    is chosen, and why, is told. In a testbed that lost processes it brings those
    back, as they were.

    Exit codes:
      0  all of them serve
      2  a testbed runs already, or an option cannot be
      3  one of them did not come up; nothing that was started is left running

    Example:
      gcos testbed up
      gcos testbed up --scenario sites-5 --network my_links.csv --speed 600
    """
    from gcos.errors import WrongStateError  # noqa: PLC0415
    from testbed import local_cluster  # noqa: PLC0415
    from testbed.commands import place  # noqa: PLC0415
    from testbed.interruption import interruptible  # noqa: PLC0415
    from testbed.local_state import ClusterOptions, Wishes  # noqa: PLC0415
    from testbed.scenarios import load_scenario  # noqa: PLC0415
    from testbed.wan import backends, cluster, docker_cluster, matrix, place_files  # noqa: PLC0415
    from testbed.world import load_world  # noqa: PLC0415

    wished = backends.wished(backend, carrier)
    where = place(directory)
    if wished.backend is backends.Backend.DOCKER:
        containers = docker_cluster.ContainerOptions(
            where,
            image=image,
            settings=place_files.PlaceSettings(policy, speed, byte_ratio, gpus, seed),
            carrier=wished.carrier,
        )
        _up_in_containers(
            containers, load_scenario(scenario), load_world(network), broker_zone, predictor_zone
        )
        return
    if docker_cluster.is_there(where):
        raise WrongStateError(
            f"a testbed in containers is in {where}",
            hint="bring back what ended of it with --backend docker, or choose another --dir",
        )
    try:
        with interruptible():
            running = local_cluster.revive(where, Wishes(), tell=_tell)
            if running is None:
                zones = matrix.places(
                    load_scenario(scenario), broker_zone=broker_zone, predictor_zone=predictor_zone
                )
                links = matrix.links(zones, load_world(network), speed=speed, byte_ratio=byte_ratio)
                options = ClusterOptions(
                    where,
                    site_ids=tuple(name for name in zones if name not in {"broker", "predictor"}),
                    speed=speed,
                    byte_ratio=byte_ratio,
                    gpu_count=gpus,
                    agent_settings={"policy": policy},
                )
                chosen = backends.chosen(wished)
                _tell(chosen.reason)
                running = cluster.up(options, links, tell=_tell, seed=seed, carrier=chosen.carrier)
    except KeyboardInterrupt:
        _tell("interrupted; what was started has ended")
        raise typer.Exit(130) from None
    home = "" if directory is None else f"export GCOS_HOME={where}\n  "
    typer.echo(
        f"{len(running.agents)} regions run: {', '.join(sorted(running.agents))}.\n\nTry:\n"
        f"  {home}gcos testbed links --measure\n  gcos submit examples/custom.yaml --wait\n"
        "  gcos testbed down --force"
    )


def _up_in_containers(
    options: "ContainerOptions",
    scenario: "Scenario",
    world: "World",
    broker_zone: str | None,
    predictor_zone: str | None,
) -> None:
    from testbed.interruption import interruptible  # noqa: PLC0415
    from testbed.wan import docker_cluster, matrix  # noqa: PLC0415

    if docker_cluster.is_there(options.directory):
        names = docker_cluster.revive(options.directory)
        _tell(f"brought back {', '.join(names) or 'nothing: all of them run'}")
        return
    zones = matrix.places(scenario, broker_zone=broker_zone, predictor_zone=predictor_zone)
    settings = options.settings
    links = matrix.links(zones, world, speed=settings.speed, byte_ratio=settings.byte_ratio)
    try:
        with interruptible():
            plan = docker_cluster.up(options, zones, links, tell=_tell)
    except KeyboardInterrupt:
        _tell("interrupted; what was made is gone")
        raise typer.Exit(130) from None
    site = plan.container(plan.places[0])
    typer.echo(
        f"{len(plan.places) - 2} regions run in containers.\n\nTry:\n"
        f"  docker exec {site} gcos sites ls\n"
        f"  gcos testbed links --measure --dir {options.directory}\n"
        f"  gcos testbed down --force --dir {options.directory}"
    )


@testbed_commands.command()
def down(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave journals, caches and outputs.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove journals even of tasks that have not ended.")
    ] = False,
    directory: DirectoryOption = None,
) -> None:
    """Stop the testbed and, without --keep, remove what it stored, as `gcos down` does.

    Example:
      gcos testbed down --force
    """
    from gcos.errors import InvalidRequestError  # noqa: PLC0415
    from testbed.commands import down as down_cluster  # noqa: PLC0415
    from testbed.commands import place  # noqa: PLC0415
    from testbed.wan import docker_cluster  # noqa: PLC0415

    where = place(directory)
    if docker_cluster.is_there(where):
        if not force:
            raise InvalidRequestError(
                "containers are removed with their journals",
                field="force",
                hint="gcos testbed down --force",
            )
        docker_cluster.down(where, tell=_tell)
        _tell("containers, network and files are gone")
        return
    down_cluster(directory, keep=keep, force=force)


@testbed_commands.command()
def status(
    context: typer.Context,
    directory: DirectoryOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Show processes, what was done to links, and whether time is kept.

    The emulator counts how late it delivers. A run with more than 1 % of deliveries
    later than 10 ms is void: this machine is too busy to emulate distance.

    Example:
      gcos testbed status
    """
    import asyncio  # noqa: PLC0415

    from testbed.wan.control import ask  # noqa: PLC0415
    from testbed.wan.records import Order  # noqa: PLC0415
    from testbed.wan.reports import container_status, show_status, status_of  # noqa: PLC0415

    where = _containers(directory)
    if where is not None:
        shown = container_status(where)
    else:
        found = _opened(directory)
        shown = status_of(found, asyncio.run(ask(found.config.address, Order(found.token))))
    show_status(shown, output_of(context, output, quiet))


@testbed_commands.command()
def links(
    context: typer.Context,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure each link by TCP echo and by a flow.")
    ] = False,
    flow_s: Annotated[
        float, typer.Option(help="How long bytes flow to measure a rate; 0: times only.")
    ] = 1.0,
    directory: DirectoryOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Show the links, as asked for and as measured.

    Exit codes:
      0  all that was measured is within 1 ms and 5 % of what was asked for
      1  some is not

    Example:
      gcos testbed links
      gcos testbed links --measure -o json
    """
    import asyncio  # noqa: PLC0415

    from testbed.timekeeping import keep_time  # noqa: PLC0415
    from testbed.wan.reports import show_links  # noqa: PLC0415

    keep_time()
    out = output_of(context, output, quiet)
    flow = flow_s if measure else None
    where = _containers(directory)
    if where is not None:
        from testbed.wan import docker_cluster  # noqa: PLC0415

        readings = docker_cluster.readings(where, flow_s=flow)
    else:
        readings = asyncio.run(_readings(_opened(directory), out, flow))
    show_links(readings, out)
    if measure and not all(reading.is_true for reading in readings):
        out.say("some links are not as asked for; see gcos testbed status for lateness")
        raise typer.Exit(1)


@testbed_commands.command()
def partition(src: _Place, dst: _Place, directory: DirectoryOption = None) -> None:
    """Let nothing pass between two places, until `heal`.

    Example:
      gcos testbed partition de sg
    """
    from testbed.wan.cluster import cut  # noqa: PLC0415

    _change(directory, cut(src, dst))
    _tell(f"nothing passes between {src} and {dst}; undo it with: gcos testbed heal {src} {dst}")


@testbed_commands.command()
def slow(
    src: _Place,
    dst: _Place,
    factor: Annotated[
        float, typer.Option(help="The delay is multiplied by it, the rate divided.", min=1.0)
    ] = 4.0,
    directory: DirectoryOption = None,
) -> None:
    """Make the link between two places worse, until `heal`.

    Example:
      gcos testbed slow de sg --factor 10
    """
    from testbed.wan.cluster import slowed  # noqa: PLC0415

    _change(directory, slowed(src, dst, factor))
    _tell(f"{src} and {dst} are {factor:g} times as far apart, at 1/{factor:g} of the rate")


@testbed_commands.command()
def heal(
    src: Annotated[str | None, typer.Argument(help="A place.")] = None,
    dst: Annotated[str | None, typer.Argument(help="Another; neither: all links.")] = None,
    directory: DirectoryOption = None,
) -> None:
    """Undo `partition` and `slow`, between two places or everywhere.

    Example:
      gcos testbed heal
    """
    from gcos.errors import InvalidRequestError  # noqa: PLC0415
    from testbed.wan.cluster import healed  # noqa: PLC0415

    if (src is None) != (dst is None):
        raise InvalidRequestError("one place alone has no link", hint="name two places, or none")
    where = _containers(directory)
    if where is not None:
        from testbed.wan import docker_cluster  # noqa: PLC0415

        changes = docker_cluster.changes_of(where)
    else:
        changes = _opened(directory).config.changes
    undone = healed(changes, () if src is None or dst is None else (src, dst))
    if undone:
        _change(directory, undone)
    _tell(f"{len(undone)} directions are as at the start again")


@testbed_commands.command()
def kill(
    site: Annotated[str, typer.Argument(help="A site, broker or predictor.")],
    directory: DirectoryOption = None,
) -> None:
    """End the process of a site at once, as a power failure does.

    Example:
      gcos testbed kill de
    """
    from testbed.wan.cluster import kill as kill_process  # noqa: PLC0415

    where = _containers(directory)
    if where is not None:
        from testbed.wan import docker_cluster  # noqa: PLC0415

        name = docker_cluster.kill(where, site)
        _tell(f"killed {name}; bring it back with: gcos testbed up --backend docker")
        return
    process = kill_process(_opened(directory), site)
    _tell(f"killed {process.name} (process {process.pid}); bring it back with: gcos testbed up")


def _change(directory: Path | None, changes: "Sequence[LinkChange]") -> None:
    import asyncio  # noqa: PLC0415

    from testbed.wan.control import change  # noqa: PLC0415

    where = _containers(directory)
    if where is not None:
        from testbed.wan import docker_cluster  # noqa: PLC0415

        docker_cluster.change(where, changes)
        return
    found = _opened(directory)
    asyncio.run(change(found.config, found.token, changes))


async def _readings(
    found: "Testbed", out: "Output", flow_s: float | None
) -> "tuple[LinkReading, ...]":
    """Return each link once, one after the other, so that none disturbs another."""
    from testbed.wan.control import asked_reading, measure  # noqa: PLC0415

    readings = []
    pairs = {frozenset((relay.src, relay.dst)): relay for relay in found.config.relays}
    for number, relay in enumerate(pairs.values(), start=1):
        reading = asked_reading(found.config, found.config.changes, relay.src, relay.dst)
        if flow_s is not None:
            with out.progress(f"measuring link {number} of {len(pairs)}"):
                reading = await measure(found.config, found.token, reading, flow_s=flow_s)
        readings.append(reading)
    return tuple(readings)


def _containers(directory: Path | None) -> Path | None:
    """Return the directory of a testbed in containers; None: there is none in it."""
    from testbed.commands import place  # noqa: PLC0415
    from testbed.wan import docker_cluster  # noqa: PLC0415

    where = place(directory)
    return where if docker_cluster.is_there(where) else None


def _opened(directory: Path | None) -> "Testbed":
    from testbed.commands import place  # noqa: PLC0415
    from testbed.wan.cluster import open_testbed  # noqa: PLC0415

    return open_testbed(place(directory))


def output_of(context: typer.Context, output: Format | None, is_quiet: bool) -> "Output":
    """Return where a command writes, by its own options and those before it."""
    from gcos.cli.output import Output, has_color  # noqa: PLC0415

    invocation = context.find_object(Invocation)
    assert invocation is not None, "main() hands it in"
    return Output(
        format=output or invocation.options.format or Format.TABLE,
        is_quiet=is_quiet or invocation.options.is_quiet,
        has_color=has_color(invocation.environ),
    )


def _tell(line: str) -> None:
    typer.echo(line, err=True)
