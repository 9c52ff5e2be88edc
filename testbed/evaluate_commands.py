"""`gcos evaluate`: compares policies on a scenario. Imports of weight wait for the command."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcos.cli.invocation import ExitCode, Format, Invocation, OutputOption, QuietOption

if TYPE_CHECKING:
    from datetime import date

    from gcos.cli.output import Output
    from testbed.evaluate import RunOrder
    from testbed.evaluation import Evaluation, Origin
    from testbed.live.checks import LiveOptions
    from testbed.run_store import RunRecord
    from testbed.scenarios import Scenario
    from testbed.sim.result import Simulate

DEFAULT_POLICIES = "joint,rule,maccs"


def evaluate(
    context: typer.Context,
    policies: Annotated[
        str | None,
        typer.Option(
            help="Policies, separated by commas (joint,rule,maccs); the first one is the baseline."
        ),
    ] = None,
    scenario: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Shipped scenario, or a file of that form.")
    ] = "default",
    data: Annotated[
        Path | None,
        typer.Option(help="Directory of tables (gcos data import); else shipped typical days."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each policy; seed i meets week i.")] = 24,
    precision: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            help="Go on from --seeds to more runs until differences in J have this standard error.",
        ),
    ] = None,
    seeds_max: Annotated[
        int | None, typer.Option(help="Runs of each policy at which --precision ends (96).")
    ] = None,
    weeks: Annotated[
        str | None,
        typer.Option(help="Mondays such as 2024-01-01, or 2024-W01; separated by commas."),
    ] = None,
    first_day: Annotated[
        str | None,
        typer.Option("--from", metavar="YYYY-MM-DD", help="Mondays from here on (2023-01-02)."),
    ] = None,
    last_day: Annotated[
        str | None, typer.Option("--until", metavar="YYYY-MM-DD", help="Last Monday (2023-12-31).")
    ] = None,
    cache_mode: Annotated[
        str,
        typer.Option(
            help="dual, coupled, no-model, no-data, none; several, with commas, are compared."
        ),
    ] = "dual",
    eviction: Annotated[
        str,
        typer.Option(
            help="What goes first in a full cache: value, lru, lfu, gdsf, or belady, which knows "
            "the future; several, with commas, are compared."
        ),
    ] = "value",
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="Compare with this one of the policies; POLICY/CACHES where these differ.",
        ),
    ] = None,
    replay: Annotated[
        str | None, typer.Option(metavar="LOG", help="Take the tasks from this job log of --data.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the scenario."),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="KEY=V1,V2,...", help="Evaluate once for each value of one key."),
    ] = None,
    core: Annotated[
        str,
        typer.Option(
            help="Simulator: fast (compiled; extra research), full, or auto: fast where it can."
        ),
    ] = "auto",
    on: Annotated[
        str,
        typer.Option(
            metavar="sim|live|testbed",
            help="Simulate, or run real agents on this machine, without or with distances.",
        ),
    ] = "sim",
    speed: Annotated[
        float | None, typer.Option(help="World seconds per wall second of --on live|testbed (60).")
    ] = None,
    byte_ratio: Annotated[
        float | None,
        typer.Option(help="World bytes that a stored byte stands for there (100000)."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes that simulate at the same time.")] = 1,
    out_directory: Annotated[
        Path | None, typer.Option("--out", help="Keep finished runs here, and go on with them.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write each run as files that anyone can recheck.")
    ] = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Compare policies on the same weeks and seeds of a scenario.

    A run is a calendar week with a day of warm-up, drawn under a seed. Repeat an
    interrupted call with the same --out, and it goes on where it was. Runs are
    simulated, or made by real agents, for which they must be short. With
    --precision there are as many as it takes to know the differences that well.

    Exit codes:
      0  all runs ended
      2  a scenario, a policy, a week or data are refused
      4  a run failed
      130  interrupted; with --out, the same call goes on

    Example:
      gcos evaluate --policies joint,locality,random --seeds 4
      gcos evaluate --scenario cache-tenth --policies joint,joint+reauction
      --data world --jobs 8 --out runs -o json
      gcos evaluate --policies joint,rule --sweep carbon_price_usd_per_kg=0,0.2,1 --out runs
      gcos evaluate --policies maccs,rule --seeds 12 --precision 0.5
      gcos evaluate --scenario paper --data world --seeds 4
      gcos evaluate --policies rule --cache-mode dual,coupled,no-model,no-data,none
      gcos evaluate --policies joint --eviction value,lru,belady --scenario cache-tenth
      gcos evaluate --on testbed --scenario examples/short-jobs.toml --seeds 1
    """
    from gcos.cli.output import Output, has_color  # noqa: PLC0415
    from testbed import cores  # noqa: PLC0415
    from testbed.paper import (  # noqa: PLC0415
        OURS,
        PAPER,
        paper_table,
        refuse_with_paper,
        show_paper,
    )
    from testbed.precision import precision_of  # noqa: PLC0415
    from testbed.run_store import code_digest, writable_directory  # noqa: PLC0415
    from testbed.study import Study, sweep_changes  # noqa: PLC0415

    invocation = context.find_object(Invocation)
    assert invocation is not None, "main() hands it in"
    out = Output(
        format=output or invocation.options.format or Format.TABLE,
        is_quiet=quiet or invocation.options.is_quiet,
        has_color=has_color(invocation.environ),
    )
    names = names_in(DEFAULT_POLICIES if policies is None else policies)
    modes = _caches(names_in(cache_mode), names_in(eviction))
    live = _live_options(
        on,
        speed,
        byte_ratio,
        policies=names,
        core=core,
        job_count=jobs,
        has_export=export is not None,
        is_paper=scenario == PAPER,
        modes=modes,
        has_precision=precision is not None,
    )
    if scenario == PAPER:
        refuse_with_paper(
            cache_mode=",".join(modes),
            baseline=baseline,
            sweep=sweep,
            has_precision=precision is not None,
        )
    wanted = precision_of(
        precision, seeds_max, seed_count=seeds, compared_count=len(names) * len(modes)
    )
    if live is None:
        cores.check_policies(core, names)
    study = Study(
        simulate=cores.simulator(core) if live is None else _live(live, out),
        code=code_digest(cores.ENTRANCES[core]) if live is None else _live_code(live),
        options=_given(on=on, speed=speed, byte_ratio=byte_ratio),
        data=data,
        weeks=weeks,
        first=first_day,
        last=last_day,
        seed_count=seeds,
        replay=replay,
        job_count=jobs,
        out_directory=None
        if out_directory is None
        else writable_directory(out_directory, option="out"),
        export=None if export is None else writable_directory(export, option="export"),
        output=out,
    )
    try:
        if core != "full" and live is None:
            compile_ahead(out)
        if scenario == PAPER:
            ours = OURS if policies is None else names
            paper = paper_table(study, ours=ours, changes=changes or ())
            study.keep(PAPER, [each.origin.command for each in paper.evaluations], paper)
            show_paper(paper, out)
            return
        found = study.find_each(
            scenario,
            variants=[
                [*(changes or ()), *([each] if each else ())] for each in sweep_changes(sweep)
            ],
            policies=names,
            cache_modes=modes,
            baseline=_baseline(baseline, names, modes),
            precision=wanted,
        )
    except KeyboardInterrupt:
        kept = "no run is kept without --out"
        if out_directory is not None:
            kept = f"runs that ended are in {out_directory}; the same call goes on with them"
        out.say(f"interrupted; {kept}")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if sweep is None:
        show(found[0], out)
    else:
        show_sweep(found, out)


def _live_options(
    on: str,
    speed: float | None,
    byte_ratio: float | None,
    *,
    policies: Sequence[str],
    core: str,
    job_count: int,
    has_export: bool,
    is_paper: bool,
    modes: Sequence[str],
    has_precision: bool,
) -> "LiveOptions | None":
    """Return how to run agents; None: simulate.

    Raises:
        InvalidRequestError: There is no such place, or an option does not go with it.
    """
    from gcos.errors import InvalidRequestError  # noqa: PLC0415

    places = ("sim", "live", "testbed")
    if on not in places:
        raise InvalidRequestError(
            f"{on!r} is no place to run", field="on", hint=f"one of {', '.join(places)}"
        )
    if on == "sim":
        for name, value in (("speed", speed), ("byte_ratio", byte_ratio)):
            if value is not None:
                raise InvalidRequestError(
                    f"--{name.replace('_', '-')} is of agents, and a simulation has none",
                    field=name,
                    hint="add --on live or --on testbed, or leave it out",
                )
        return None
    from testbed.live.checks import BYTE_RATIO, SPEED, LiveOptions  # noqa: PLC0415
    from testbed.live.simulate import refuse_with_live  # noqa: PLC0415

    refuse_with_live(
        policies=policies,
        core=core,
        job_count=job_count,
        has_export=has_export,
        is_paper=is_paper,
        modes=modes,
        has_precision=has_precision,
    )
    return LiveOptions(
        has_links=on == "testbed",
        speed=SPEED if speed is None else speed,
        byte_ratio=BYTE_RATIO if byte_ratio is None else byte_ratio,
    )


def _live(options: "LiveOptions", out: "Output") -> "Simulate":
    """Return what runs agents in place of a simulator."""
    from testbed.live.simulate import LiveSimulate  # noqa: PLC0415

    return LiveSimulate(options, out.say)


def _live_code(options: "LiveOptions") -> str:
    from testbed.run_store import code_digest  # noqa: PLC0415

    entrances = ("testbed.live.simulate", "site_agent.wiring", "broker.wiring", "predictor.wiring")
    digest = " ".join(code_digest(each) for each in entrances)
    return f"{digest} {options.name} {options.speed:g} {options.byte_ratio:g}"


def _given(
    *, on: str, speed: float | None, byte_ratio: float | None
) -> dict[str, str | float | None]:
    """Return the options of a live run, as they are repeated."""
    if on == "sim":
        return {}
    return {"on": on, "speed": speed, "byte-ratio": byte_ratio}


def run_evaluation(
    orders: "Sequence[RunOrder]",
    simulate: "Simulate",
    *,
    made: "Sequence[RunRecord]" = (),
    job_count: int,
    baseline: str,
    refused: Sequence[str],
    out: "Output",
    origin: "Origin | None" = None,
) -> "Evaluation":
    """Make all runs, with a bar on stderr where there is a terminal, and return what they say.

    Those of the first orders may be `made` already.
    """
    import sys  # noqa: PLC0415

    from rich import progress  # noqa: PLC0415

    from testbed.evaluate import make_runs  # noqa: PLC0415
    from testbed.evaluation import NOWHERE, evaluation  # noqa: PLC0415

    console = out.console(sys.stderr)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    is_off = out.is_quiet or not console.is_terminal
    with progress.Progress(*columns, console=console, disable=is_off, transient=True) as bar:
        runs = bar.add_task("runs", total=len(orders), completed=len(made))

        def tell(record: "RunRecord") -> None:
            bar.update(runs, advance=1, description=f"{record.policy}, seed {record.seed}")

        rest = orders[len(made) :]
        records = [*made, *make_runs(rest, simulate, job_count=job_count, tell=tell)]
    data = orders[0].data
    return evaluation(
        records,
        baseline=baseline,
        data="" if data is None else str(data),
        notes=_told(refused),
        origin=origin or NOWHERE,
    )


def show(found: "Evaluation", out: "Output") -> None:
    """Write an evaluation in the form that was asked for."""
    from testbed import evaluate_table  # noqa: PLC0415

    if out.is_record:
        out.record(found)
    elif out.is_names:
        ranked = sorted(found.policies, key=lambda each: each.joint_usd.mean)
        out.lines(each.policy for each in ranked)
    else:
        out.prose(evaluate_table.heading(found))
        out.line("")
        out.table(evaluate_table.table(found))
        out.line("")
        out.prose(evaluate_table.notes(found))


def show_sweep(found: "Sequence[Evaluation]", out: "Output") -> None:
    """Write the evaluations of a sweep in the form that was asked for."""
    from testbed.evaluation import SWEEP_SCHEMA, Evaluations  # noqa: PLC0415

    if out.is_record:
        out.record(Evaluations(SWEEP_SCHEMA, tuple(found)))
        return
    for each in found:
        show(each, out)
        if not out.is_names:
            out.line("")


def _told(refused: Sequence[str]) -> list[str]:
    """Return a note of weeks that were left out."""
    if not refused:
        return []
    more = f", and {len(refused) - 1} more" if len(refused) > 1 else ""
    return [f"left out: {refused[0]}{more}"]


def names_in(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    return tuple(part for each in text.split(",") if (part := each.strip()))


def _caches(modes: Sequence[str], evictions: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all caches that are compared: each mode with each eviction.

    Raises:
        InvalidRequestError: There is no such mode or eviction, or one is there twice.
    """
    from gcos.errors import InvalidRequestError  # noqa: PLC0415
    from testbed.sim.cache_modes import caches_named  # noqa: PLC0415

    if not evictions:
        raise InvalidRequestError("no eviction is named", field="eviction", hint="such as value")
    if len(set(evictions)) < len(evictions):
        raise InvalidRequestError("name each eviction once", field="eviction")
    return tuple(
        str(caches_named(mode if "+" in mode else f"{mode}+{each}"))
        for mode in modes
        for each in (evictions[:1] if "+" in mode else evictions)
    )


def _baseline(name: str | None, policies: Sequence[str], modes: Sequence[str]) -> str:
    """Return the summary to compare with: the first one unless another is named.

    Raises:
        InvalidRequestError: It is none of the policies, or a cache mode is there twice.
    """
    from gcos.errors import InvalidRequestError  # noqa: PLC0415
    from testbed.evaluation import summary_name  # noqa: PLC0415

    if not policies:
        raise InvalidRequestError("no policy is named", field="policies", hint="such as joint")
    if not modes or len(set(modes)) < len(modes):
        raise InvalidRequestError("name each cache mode once", field="cache_mode")
    known = [summary_name(policy, mode, modes) for mode in modes for policy in policies]
    if name is None:
        return known[0]
    wanted = summary_name(name, modes[0], modes) if name in policies else name
    if wanted not in known:
        raise InvalidRequestError(
            f"{name} is not among the policies", field="baseline", hint="add it to --policies"
        )
    return wanted


def weeks_of(
    scenario: "Scenario",
    data: Path | None,
    *,
    weeks: str | None,
    first: str | None,
    last: str | None,
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Return the weeks to run, and which ones of the span are refused."""
    from gcos.errors import InvalidRequestError  # noqa: PLC0415
    from testbed.evaluate import FIRST_DAY, LAST_DAY, available_weeks_s, monday_s  # noqa: PLC0415
    from testbed.world import load_world  # noqa: PLC0415

    if weeks is not None:
        if first is not None or last is not None:
            raise InvalidRequestError(
                "--weeks stands alone", field="weeks", hint="drop it, or drop --from and --until"
            )
        return tuple(dict.fromkeys(monday_s(each) for each in names_in(weeks))), ()
    return available_weeks_s(
        scenario,
        load_world(data),
        FIRST_DAY if first is None else _day(first, "from"),
        LAST_DAY if last is None else _day(last, "until"),
    )


def _day(text: str, option: str) -> "date":
    """Return the day that `text` names.

    Raises:
        InvalidRequestError: It names none.
    """
    from datetime import date  # noqa: PLC0415

    from gcos.errors import InvalidRequestError  # noqa: PLC0415

    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidRequestError(
            f"{text!r} is no day", field=option, hint="write it like 2023-07-03"
        ) from None


def compile_ahead(out: "Output") -> None:
    """Compile the fast core before processes start, each of which would do it for itself."""
    from testbed import cores  # noqa: PLC0415

    if not cores.has_fast():
        return
    from testbed.fast import run as fast  # noqa: PLC0415

    if not fast.is_compiled():
        out.say("compiling the fast core, once for this version: a minute or so")
        fast.compile_ahead()
