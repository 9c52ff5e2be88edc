"""`gcos predictor backtest`. Imports of weight wait for the command."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcos.cli.invocation import Format

if TYPE_CHECKING:
    from gcos.cli.output import Output
    from predictor.backtest.contender import Contender
    from predictor.backtest.trace import TimeUnit, Trace

_UNITS = "ns, us, ms, s, min, h or d"


def backtest(
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE", help="Job log: CSV, also .gz, or Parquet.")
    ],
    submit: Annotated[
        str, typer.Option(help="Column: when a job was handed in, or its place in the order.")
    ],
    duration: Annotated[str, typer.Option(help="Column: how long it ran.")],
    start: Annotated[str, typer.Option(help="Column: when it started.")] = "",
    wait: Annotated[str, typer.Option(help="Column: how long it waited.")] = "",
    numeric: Annotated[
        str, typer.Option(metavar="A,B", help="Columns that are numbers to predict from.")
    ] = "",
    categorical: Annotated[
        str, typer.Option(metavar="C,D", help="Columns that are names to predict from.")
    ] = "",
    context: Annotated[
        str,
        typer.Option(
            metavar='"C; C,D; C,D,A"',
            help="Groups whose jobs tell about each other, from general to specific.",
        ),
    ] = "",
    time_unit: Annotated[
        str,
        typer.Option(
            help=f"Unit of numbers in --submit and --start: {_UNITS}. Dates need none; those"
            " without a zone are UTC."
        ),
    ] = "s",
    duration_unit: Annotated[
        str, typer.Option(help=f"Unit of numbers in --duration and --wait: {_UNITS}.")
    ] = "s",
    known_after: Annotated[
        int,
        typer.Option(
            metavar="K",
            help="--submit tells only the order; an end is known K submissions later.",
        ),
    ] = 0,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also score baselines, tuned with the same budget.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="Q.NPY",
            help="Write the 19 quantiles in seconds of each scored row, in order of submission,"
            " and beside it Q.rows.npy, their rows in the file (from 0).",
        ),
    ] = None,
    output: Annotated[
        Format, typer.Option("--output", "-o", help="How the report is written: table or json.")
    ] = Format.TABLE,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Measure the predictor on a recorded job log.

    The log is replayed in order of submission: a job is predicted from its
    keys and from the jobs that had ended by then, and from nothing else. The
    first 60 % are to learn from, the next 20 % to choose hyperparameters on,
    the last 20 % are scored once. Without --start and --wait, a job ends at
    submission + duration.

    Example:
      gcos predictor backtest jobs.csv --submit submit_time --duration run_s
        --numeric gpus --categorical user,queue
        --context "queue; queue,user; queue,user,gpus" --baselines
    """
    import os  # noqa: PLC0415  `gcos --help` must not wait for numpy

    import numpy as np  # noqa: PLC0415

    from gcos.cli.output import Output, has_color  # noqa: PLC0415
    from predictor.backtest.reading import read  # noqa: PLC0415
    from predictor.backtest.report import report_of, say_notes, show  # noqa: PLC0415
    from predictor.backtest.study import rows_to_predict, study  # noqa: PLC0415
    from predictor.backtest.trace import Columns, contexts_of, names_of, trace_of  # noqa: PLC0415

    if output not in {Format.TABLE, Format.JSON}:
        raise typer.BadParameter("a report is a table or json", param_hint="--output")
    columns = Columns(
        submit=submit,
        duration=duration,
        start=start,
        wait=wait,
        numeric=names_of(numeric),
        categorical=names_of(categorical),
        contexts=contexts_of(context),
        time_unit=_unit(time_unit, "--time-unit"),
        duration_unit=_unit(duration_unit, "--duration-unit"),
        known_after_count=known_after,
    )
    shown = Output(output, is_quiet=quiet, has_color=has_color(os.environ))
    if out is not None:
        _check_writable(out)
    job_log = trace_of(read(trace, columns.all), columns)
    contenders = contenders_of(job_log, has_baselines=baselines)
    with _progress_bar(shown, rows_to_predict(job_log, contenders)) as progress:
        results = study(job_log, contenders, progress)
    report = report_of(str(trace), job_log, results)
    if out is not None:
        np.save(out, results[0].forecasts.quantiles_s)
        np.save(out.with_suffix(".rows.npy"), job_log.file_rows[job_log.test_from :])
    say_notes(shown, report)
    if shown.is_record:
        shown.record(report)
    else:
        show(shown, report)


def contenders_of(trace: "Trace", *, has_baselines: bool) -> list["Contender"]:
    """Return who takes part: ours, then the baselines."""
    from gcos.system import SystemClock  # noqa: PLC0415
    from predictor.backtest.ours import CONFIGURATIONS, OnlineDiPTree  # noqa: PLC0415
    from predictor.backtest.replay import Replayed  # noqa: PLC0415

    watch = SystemClock().protocol_s
    contenders: list[Contender] = [
        Replayed("DiPTree", CONFIGURATIONS, OnlineDiPTree, trace=trace, stopwatch=watch)
    ]
    if has_baselines:
        from predictor.baselines.contenders import baselines_of  # noqa: PLC0415

        contenders += baselines_of(trace, watch)
    return contenders


def _unit(name: str, option: str) -> "TimeUnit":
    from predictor.backtest.trace import TimeUnit  # noqa: PLC0415

    try:
        return TimeUnit(name)
    except ValueError as exc:
        raise typer.BadParameter(f"{name!r} is not {_UNITS}", param_hint=option) from exc


def _check_writable(path: Path) -> None:
    """Refuse a place that cannot be written before hours of work, not after them."""
    if path.suffix != ".npy":
        raise typer.BadParameter(f"{path} does not end with .npy", param_hint="--out")
    if path.is_dir() or not path.parent.is_dir():
        raise typer.BadParameter(f"{path.parent} is no directory", param_hint="--out")


@contextmanager
def _progress_bar(out: "Output", row_count: int) -> "Iterator[Callable[[int], None]]":
    """Show a bar on stderr, where that is a terminal."""
    import sys  # noqa: PLC0415

    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = out.console(sys.stderr)
    if out.is_quiet or not console.is_terminal:
        yield lambda _count: None
        return
    with Progress(
        TextColumn("rows predicted"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=row_count)
        yield lambda count: bar.advance(task, count)
