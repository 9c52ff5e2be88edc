"""`gcos testbed experiment` and `self-test`. Imports of weight wait for the command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcos.cli.invocation import OutputOption, QuietOption
from testbed.live.commands import parity
from testbed.wan.commands import BYTE_RATIO, SPEED, DirectoryOption, output_of, testbed_commands

if TYPE_CHECKING:
    from gcos.cli.output import Output
    from testbed.wan.experiment import Experiment

__all__ = ["testbed_commands"]

testbed_commands.command()(parity)


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
    from testbed.interruption import interruptible  # noqa: PLC0415
    from testbed.timekeeping import keep_time  # noqa: PLC0415
    from testbed.wan import self_test as tests  # noqa: PLC0415
    from testbed.wan.reports import show_self_tests  # noqa: PLC0415

    keep_time()
    out = output_of(context, output, quiet)
    found = []
    refusals = []
    for name in filter(None, (each.strip() for each in backend.split(","))):
        try:
            with out.progress(f"measuring {name}"), interruptible():
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
def negotiate(
    context: typer.Context,
    origin: Annotated[str, typer.Argument(help="Site that owns the tasks.")],
    winner: Annotated[str, typer.Argument(help="The only site that may run them.")],
    count: Annotated[int, typer.Option(help="How many negotiations.", min=1)] = 11,
    directory: DirectoryOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Measure what a negotiation between two sites costs, beside its one-way delays.

    Links and fdatasync are measured in each round. Between processes only (--backend relay).

    Example:
      gcos testbed negotiate de sg
    """
    import asyncio  # noqa: PLC0415

    from testbed.commands import place  # noqa: PLC0415
    from testbed.wan.cluster import open_testbed  # noqa: PLC0415
    from testbed.wan.negotiation import negotiate as measure  # noqa: PLC0415
    from testbed.wan.reports import show_negotiations  # noqa: PLC0415

    bed = open_testbed(place(directory))
    for site in (origin, winner):
        bed.process(site)
    found = asyncio.run(measure(bed, origin, winner, count=count))
    out = output_of(context, output, quiet)
    show_negotiations(found, out)


@testbed_commands.command()
def artifact(
    context: typer.Context,
    holder: Annotated[str, typer.Argument(help="Site that has the artifact.")],
    taker: Annotated[str, typer.Argument(help="Site that fetches it.")],
    size_mb: Annotated[
        float, typer.Option(help="Stored size, MB; long links need some seconds.", min=0.1)
    ] = 64.0,
    count: Annotated[int, typer.Option(help="How many artifacts.", min=1)] = 3,
    directory: DirectoryOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Measure how fast artifacts come over a link, beside what the link carries.

    They are fetched, verified and published. Between processes only (--backend relay).

    Example:
      gcos testbed artifact de sg --size-mb 128
    """
    import asyncio  # noqa: PLC0415

    from testbed.commands import place  # noqa: PLC0415
    from testbed.wan.artifact_flow import artifact_flow  # noqa: PLC0415
    from testbed.wan.cluster import open_testbed  # noqa: PLC0415
    from testbed.wan.reports import show_artifact_flow  # noqa: PLC0415

    bed = open_testbed(place(directory))
    for site in (holder, taker):
        bed.process(site)
    size_bytes = round(size_mb * 1e6)
    out = output_of(context, output, quiet)
    with out.progress(f"{count} artifacts of {size_mb:g} MB"):
        found = asyncio.run(artifact_flow(bed, holder, taker, size_bytes=size_bytes, count=count))
    show_artifact_flow(found, out)


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
    backend: Annotated[
        str, typer.Option(help="auto, relay, netns or docker, as of gcos testbed up.")
    ] = "auto",
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
      0  every acknowledged job ended in one terminal state, and every recorded bid and
         award came out alike when it was made again
      1  some did not
      2  an option cannot be
      130  interrupted; nothing is left running

    Example:
      gcos testbed experiment --policies joint,rule --jobs 200 --report report.md
    """
    from testbed.interruption import interruptible  # noqa: PLC0415
    from testbed.wan.reports import experiment_markdown, show_experiment  # noqa: PLC0415

    out = output_of(context, output, quiet)
    try:
        with interruptible():
            found = _experiment(
                *(scenario, policies, jobs, part, kill_site, gap_s, backend, network, out)
            )
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
    backend: str,
    network: Path | None,
    out: "Output",
) -> "Experiment":
    from tempfile import TemporaryDirectory  # noqa: PLC0415

    from gcos.errors import InvalidRequestError  # noqa: PLC0415
    from testbed.live.checks import check_policy  # noqa: PLC0415
    from testbed.local_state import ClusterOptions  # noqa: PLC0415
    from testbed.scenarios import load_scenario  # noqa: PLC0415
    from testbed.wan import backends, beds, matrix  # noqa: PLC0415
    from testbed.wan.containers import IMAGE  # noqa: PLC0415
    from testbed.wan.docker_cluster import ContainerOptions  # noqa: PLC0415
    from testbed.wan.experiment import Experiment, Mishaps, run_policy  # noqa: PLC0415
    from testbed.wan.place_files import PlaceSettings  # noqa: PLC0415
    from testbed.world import load_world  # noqa: PLC0415

    names = tuple(name for each in policies.split(",") if (name := each.strip()))
    for name in names:
        check_policy(name, field="policies")
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
    links = matrix.links(zones, load_world(network), speed=SPEED, byte_ratio=BYTE_RATIO)
    mishaps = Mishaps((parted[0], parted[1]), killed)
    wish = backends.wished(backend, backends.AUTO)
    runs = []
    for name in names:
        with TemporaryDirectory(prefix="gcos-wan-") as scratch:
            where = Path(scratch) / "bed"
            bed: beds.Bed
            if wish.backend is backends.Backend.DOCKER:
                settings = PlaceSettings(name, SPEED, BYTE_RATIO, gpu_count=2)
                bed = beds.ContainerBed(ContainerOptions(where, IMAGE, settings), zones, links)
            else:
                options = ClusterOptions(
                    where,
                    site_ids=sites,
                    speed=SPEED,
                    byte_ratio=BYTE_RATIO,
                    gpu_count=2,
                    agent_settings={"policy": name, "record_decisions": True},
                )
                choice = backends.chosen(wish)
                out.say(f"{name}: {choice.reason}")
                bed = beds.ProcessBed(options, links, choice.carrier)
            runs.append(
                run_policy(bed, name, jobs=jobs, mishaps=mishaps, tell=out.say, gap_s=gap_s)
            )
    return Experiment(scenario, jobs, mishaps, tuple(runs))
