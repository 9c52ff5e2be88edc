"""`gcos bound`: how far policies are from the best that anybody could do."""

from pathlib import Path
from typing import Annotated

import typer

from gcos.cli.invocation import ExitCode, Format, Invocation, OutputOption, QuietOption


def bound(
    context: typer.Context,
    policies: Annotated[str, typer.Option(help="Policies, separated by commas.")] = "joint,rule",
    scenario: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Shipped scenario, or a file of that form.")
    ] = "default",
    data: Annotated[
        Path | None,
        typer.Option(help="Directory of tables (gcos data import); else shipped typical days."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs; seed i meets week i.")] = 5,
    weeks: Annotated[
        str | None,
        typer.Option(help="Mondays such as 2023-01-02, or 2023-W01; separated by commas."),
    ] = None,
    cache_mode: Annotated[
        str, typer.Option(help="dual, coupled, no-model, no-data or none.")
    ] = "dual",
    search: Annotated[
        bool, typer.Option("--search/--no-search", help="Search a clairvoyant schedule, too.")
    ] = True,
    core: Annotated[
        str,
        typer.Option(
            help="Simulator: fast (compiled; extra research), full, or auto: fast where it can."
        ),
    ] = "auto",
    jobs: Annotated[int, typer.Option(help="Processes that work at the same time.")] = 1,
    out_directory: Annotated[
        Path | None, typer.Option("--out", help="Keep what is done here, and go on with it.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write each run as files that anyone can recheck.")
    ] = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Compare policies with a lower bound on J and with a clairvoyant search.

    The bound holds for every schedule, whatever it knows; testbed/bound/README.md
    derives it. Runs kept by `gcos evaluate --out` are used, and the other way round.

    Exit codes:
      0  all is done
      2  a scenario, a policy, a week or data are refused
      4  a run failed
      130  interrupted; with --out, the same call goes on

    Example:
      gcos bound --policies joint,rule --seeds 5 --data world --jobs 2 --out runs
      gcos bound --no-search --seeds 1 -o json
    """
    from gcos.cli.output import Output, has_color  # noqa: PLC0415
    from testbed import cores  # noqa: PLC0415
    from testbed.bound import table  # noqa: PLC0415
    from testbed.bound.distances import distances  # noqa: PLC0415
    from testbed.evaluate import pairs, run_orders  # noqa: PLC0415
    from testbed.evaluate_commands import compile_ahead, names_in, weeks_of  # noqa: PLC0415
    from testbed.run_store import code_digest, writable_directory  # noqa: PLC0415
    from testbed.scenarios import load_scenario  # noqa: PLC0415

    invocation = context.find_object(Invocation)
    assert invocation is not None, "main() hands it in"
    out = Output(
        format=output or invocation.options.format or Format.TABLE,
        is_quiet=quiet or invocation.options.is_quiet,
        has_color=has_color(invocation.environ),
    )
    simulate = cores.simulator(core)
    cores.check_policies(core, names_in(policies))
    plan = load_scenario(scenario)
    weeks_s, refused = weeks_of(plan, data, weeks=weeks, first=None, last=None)
    orders = run_orders(
        plan,
        data=data,
        policies=names_in(policies),
        pairs=pairs(weeks_s, seeds),
        cache_modes=(cache_mode,),
        code=code_digest(cores.ENTRANCES[core]),
        out=None if out_directory is None else writable_directory(out_directory, option="out"),
        export=None if export is None else writable_directory(export, option="export"),
    )
    for reason in refused[:1]:
        out.say(f"left out: {reason}")
    try:
        if core != "full":
            compile_ahead(out)
        found = distances(
            orders,
            simulate,
            code=code_digest("testbed.bound.distances"),
            has_search=search,
            job_count=jobs,
            tell=out.say,
        )
    except KeyboardInterrupt:
        kept = "nothing is kept without --out"
        if out_directory is not None:
            kept = f"what is done is in {out_directory}; the same call goes on with it"
        out.say(f"interrupted; {kept}")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if out.is_record:
        out.record(found)
        return
    if out.is_names:
        out.lines(str(run.bound.bound_usd) for run in found.runs)
        return
    out.prose(table.heading(found))
    out.line("")
    out.table(table.table(found))
    out.line("")
    out.prose(table.notes(found))
