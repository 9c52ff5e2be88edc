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
    from testbed.wan.cluster import Testbed
    from testbed.wan.control import LinkReading
    from testbed.wan.experiment import Experiment
    from testbed.wan.records import Answer, LinkChange

testbed_commands = typer.Typer(
    help="Run regions on this machine, with the distances between them.", no_args_is_help=True
)

_Directory = Annotated[
    Path | None,
    typer.Option("--dir", help="Directory of the testbed ($GCOS_HOME, else ~/.local/share/gcos)."),
]
#: With these a link of 4 Gbit/s carries 30 MB/s here, which one process can do for all links.
_SPEED = 60.0
_BYTE_RATIO = 1000.0
_Place = Annotated[str, typer.Argument(help="A site, broker or predictor.")]


@testbed_commands.command()
def up(
    scenario: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Whose sites: a scenario of gcos evaluate.")
    ] = "no-clean-zones",
    backend: Annotated[
        str, typer.Option(help="relay: processes on loopback, without root.")
    ] = "relay",
    speed: Annotated[float, typer.Option(help="World seconds per wall second.")] = _SPEED,
    byte_ratio: Annotated[
        float, typer.Option(help="World bytes that each stored byte stands for.")
    ] = _BYTE_RATIO,
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
    directory: _Directory = None,
) -> None:
    """Start an agent for each site, a broker and a predictor, and the links between.

    Round-trip times are those of the table. Rates are scaled by speed and byte
    ratio, so that a transfer lasts as long as in the world. In a testbed that lost
    processes it brings those back, as they were.

    Exit codes:
      0  all of them serve
      2  a testbed runs already, or an option cannot be
      3  one of them did not come up; nothing that was started is left running

    Example:
      gcos testbed up
      gcos testbed up --scenario sites-5 --network my_links.csv --speed 600
    """
    import signal  # noqa: PLC0415

    from gcos.errors import InvalidRequestError  # noqa: PLC0415
    from testbed import local_cluster  # noqa: PLC0415
    from testbed.commands import place  # noqa: PLC0415
    from testbed.local_state import ClusterOptions, Wishes  # noqa: PLC0415
    from testbed.scenarios import load_scenario  # noqa: PLC0415
    from testbed.wan import cluster, matrix  # noqa: PLC0415
    from testbed.world import load_world  # noqa: PLC0415

    if backend != "relay":
        raise InvalidRequestError(
            f"{backend!r} is no backend", field="backend", hint="there is: relay"
        )
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    where = place(directory)
    try:
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
            running = cluster.up(options, links, tell=_tell, seed=seed)
    except KeyboardInterrupt:
        _tell("interrupted; what was started has ended")
        raise typer.Exit(130) from None
    home = "" if directory is None else f"export GCOS_HOME={where}\n  "
    typer.echo(
        f"{len(running.agents)} regions run: {', '.join(sorted(running.agents))}.\n\nTry:\n"
        f"  {home}gcos testbed links --measure\n  gcos submit examples/custom.yaml --wait\n"
        "  gcos testbed down --force"
    )


@testbed_commands.command()
def down(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave journals, caches and outputs.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove journals even of tasks that have not ended.")
    ] = False,
    directory: _Directory = None,
) -> None:
    """Stop the testbed and, without --keep, remove what it stored, as `gcos down` does.

    Example:
      gcos testbed down --force
    """
    from testbed.commands import down as down_cluster  # noqa: PLC0415

    down_cluster(directory, keep=keep, force=force)


@testbed_commands.command()
def status(
    context: typer.Context,
    directory: _Directory = None,
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
    from testbed.wan.reports import TestbedStatus, show_status, status_of  # noqa: PLC0415

    found = _opened(directory)
    answer: Answer = asyncio.run(ask(found.config.address, Order(found.token)))
    shown: TestbedStatus = status_of(found, answer)
    show_status(shown, _output(context, output, quiet))


@testbed_commands.command()
def links(
    context: typer.Context,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure each link by TCP echo and by a flow.")
    ] = False,
    flow_s: Annotated[
        float, typer.Option(help="How long bytes flow to measure a rate; 0: times only.")
    ] = 1.0,
    directory: _Directory = None,
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

    from testbed.wan.reports import show_links  # noqa: PLC0415

    found = _opened(directory)
    out = _output(context, output, quiet)
    readings = asyncio.run(_readings(found, out, flow_s if measure else None))
    show_links(readings, out)
    if measure and not all(reading.is_true for reading in readings):
        out.say("some links are not as asked for; see gcos testbed status for lateness")
        raise typer.Exit(1)


@testbed_commands.command()
def partition(src: _Place, dst: _Place, directory: _Directory = None) -> None:
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
    directory: _Directory = None,
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
    directory: _Directory = None,
) -> None:
    """Undo `partition` and `slow`, between two places or everywhere.

    Example:
      gcos testbed heal
    """
    from gcos.errors import InvalidRequestError  # noqa: PLC0415
    from testbed.wan.cluster import healed  # noqa: PLC0415

    if (src is None) != (dst is None):
        raise InvalidRequestError("one place alone has no link", hint="name two places, or none")
    found = _opened(directory)
    places = () if src is None or dst is None else (src, dst)
    undone = healed(found.config.changes, places)
    if undone:
        _change(directory, undone)
    _tell(f"{len(undone)} directions are as at the start again")


@testbed_commands.command()
def kill(
    site: Annotated[str, typer.Argument(help="A site, broker or predictor.")],
    directory: _Directory = None,
) -> None:
    """End the process of a site at once, as a power failure does.

    Example:
      gcos testbed kill de
    """
    from testbed.wan.cluster import kill as kill_process  # noqa: PLC0415

    process = kill_process(_opened(directory), site)
    _tell(f"killed {process.name} (process {process.pid}); bring it back with: gcos testbed up")


@testbed_commands.command("self-test")
def self_test(
    context: typer.Context,
    backend: Annotated[
        str, typer.Option(help="netem, nfqueue or relay; with commas, several; else all.")
    ] = "netem,nfqueue,relay",
    rtt_ms: Annotated[float, typer.Option(help="Round-trip time to ask for.", min=1.0)] = 80.0,
    mbit: Annotated[float, typer.Option(help="Rate to ask for, Mbit/s.", min=1.0)] = 200.0,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Measure what each backend makes of a link, in a place of its own.

    netem and nfqueue need root: they are measured between two network namespaces,
    which are gone afterwards. A backend that cannot be used here is told of.

    Exit codes:
      0  all that could be measured are within 1 ms and 5 %, and kept time
      1  one is not
      3  none could be measured

    Example:
      gcos testbed self-test --backend relay --rtt-ms 150
    """
    from gcos.errors import UnavailableError  # noqa: PLC0415
    from testbed.wan import self_test as tests  # noqa: PLC0415
    from testbed.wan.reports import show_self_tests  # noqa: PLC0415

    out = _output(context, output, quiet)
    found = []
    refusals = []
    for name in filter(None, (each.strip() for each in backend.split(","))):
        try:
            with out.progress(f"measuring {name}"):
                found.append(tests.self_test(name, rtt_s=rtt_ms / 1e3, bytes_per_s=mbit * 1e6 / 8))
        except UnavailableError as exc:
            refusals.append(exc)
            out.say(f"{name} cannot be used here: {exc.message}")
    if not found and refusals:
        raise refusals[0]
    show_self_tests(found, out)
    if not all(each.is_true and not each.is_void for each in found):
        raise typer.Exit(1)


@testbed_commands.command()
def experiment(
    context: typer.Context,
    scenario: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Whose sites: a scenario of gcos evaluate.")
    ] = "no-clean-zones",
    policies: Annotated[
        str, typer.Option(help="Policies, separated by commas.")
    ] = "joint,rule,random",
    jobs: Annotated[int, typer.Option(help="Jobs for each policy.", min=8)] = 200,
    part: Annotated[
        str | None, typer.Option(metavar="A,B", help="Between whom a link is cut (first two).")
    ] = None,
    kill_site: Annotated[
        str | None, typer.Option("--kill", metavar="SITE", help="Who is killed (the third).")
    ] = None,
    gap_s: Annotated[float, typer.Option(help="Wall seconds between two submissions.")] = 0.3,
    network: Annotated[
        Path | None,
        typer.Option(help="Table of links (testbed/world/README.md), or a directory with it."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the report there, as Markdown.")
    ] = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Run jobs under several policies while a link is cut and a site is killed.

    Each policy gets a testbed of its own, which is gone afterwards. What became of
    each job is counted from outside.

    Exit codes:
      0  every acknowledged job ended in one terminal state
      1  some did not
      2  an option cannot be
      130  interrupted; nothing is left running

    Example:
      gcos testbed experiment --policies joint,rule --jobs 200 --report report.md
    """
    import signal  # noqa: PLC0415

    from testbed.wan.reports import experiment_markdown, show_experiment  # noqa: PLC0415

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    out = _output(context, output, quiet)
    try:
        found = _experiment(scenario, policies, jobs, part, kill_site, gap_s, network, out)
    except KeyboardInterrupt:
        out.say("interrupted; nothing is left running")
        raise typer.Exit(130) from None
    show_experiment(found, out)
    if report is not None:
        report.write_text(experiment_markdown(found), encoding="utf-8")
    if not found.is_success:
        raise typer.Exit(1)


def _experiment(
    scenario: str,
    policies: str,
    jobs: int,
    part: str | None,
    kill_site: str | None,
    gap_s: float,
    network: Path | None,
    out: "Output",
) -> "Experiment":
    from tempfile import TemporaryDirectory  # noqa: PLC0415

    from gcos.errors import InvalidRequestError  # noqa: PLC0415
    from policies.catalogue import policy_named  # noqa: PLC0415
    from testbed.local_state import ClusterOptions  # noqa: PLC0415
    from testbed.scenarios import load_scenario  # noqa: PLC0415
    from testbed.wan import matrix  # noqa: PLC0415
    from testbed.wan.experiment import Experiment, Mishaps, run_policy  # noqa: PLC0415
    from testbed.world import load_world  # noqa: PLC0415

    names = tuple(name for each in policies.split(",") if (name := each.strip()))
    for name in names:
        policy_named(name, field="policies")
    zones = matrix.places(load_scenario(scenario))
    sites = tuple(name for name in zones if name not in {"broker", "predictor"})
    parted = tuple(part.split(",")) if part else sites[:2]
    killed = kill_site or next(site for site in reversed(sites) if site not in parted)
    if len(parted) != 2 or not {*parted, killed} <= set(zones) or killed not in sites:
        raise InvalidRequestError(
            "a link is cut between two places, and a site is killed",
            field="part",
            hint=f"places are {', '.join(zones)}",
        )
    links = matrix.links(zones, load_world(network), speed=_SPEED, byte_ratio=_BYTE_RATIO)
    mishaps = Mishaps((parted[0], parted[1]), killed)
    runs = []
    for name in names:
        with TemporaryDirectory(prefix="gcos-wan-") as scratch:
            options = ClusterOptions(
                Path(scratch) / "bed",
                site_ids=sites,
                speed=_SPEED,
                byte_ratio=_BYTE_RATIO,
                gpu_count=2,
            )
            runs.append(
                run_policy(
                    options, links, name, jobs=jobs, mishaps=mishaps, tell=out.say, gap_s=gap_s
                )
            )
    return Experiment(scenario, jobs, mishaps, tuple(runs))


def _change(directory: Path | None, changes: "Sequence[LinkChange]") -> None:
    import asyncio  # noqa: PLC0415

    from testbed.wan.control import change  # noqa: PLC0415

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


def _opened(directory: Path | None) -> "Testbed":
    from testbed.commands import place  # noqa: PLC0415
    from testbed.wan.cluster import open_testbed  # noqa: PLC0415

    return open_testbed(place(directory))


def _output(context: typer.Context, output: Format | None, is_quiet: bool) -> "Output":
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
