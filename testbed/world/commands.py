"""`gcos data ...`: brings tables of carbon, price, network and work into the one schema."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcos.cli.invocation import Format, Invocation, OutputOption, QuietOption

if TYPE_CHECKING:
    from gcos.cli.output import Output, Table
    from testbed.world.checked_rows import Span
    from testbed.world.importing import Found, ImportReport

data_commands = typer.Typer(help="Bring in tables of carbon, price, network and work.")


@data_commands.callback()
def data() -> None:
    """Bring in tables of carbon, price, network and work."""


@data_commands.command("import")
def import_(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="Directory of CSV or Parquet files, or one file.")],
    to: Annotated[Path, typer.Option(help="Directory to write.")],
    first_month: Annotated[
        str | None, typer.Option("--from", metavar="YYYY-MM", help="First month, UTC (all).")
    ] = None,
    last_month: Annotated[
        str | None, typer.Option("--until", metavar="YYYY-MM", help="Last month, itself included.")
    ] = None,
    zones: Annotated[
        str | None, typer.Option(help="Electricity zones, separated by commas (all).")
    ] = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Check tables and write them in the schema of testbed/world/README.md.

    Files are told by their columns. Each table may be absent: carbon, price,
    network, zones, models, data_sets, jobs. Times need an offset from UTC, a gap
    is an absent row, prices are US dollars. What is wrong is refused with file,
    column and row, and then nothing is written.

    Exit codes:
      0  written
      2  something is refused

    Example:
      gcos data import traces --to world --from 2023-01 --until 2023-12
      gcos data import traces --to world --zones DE,CA-ON -o json
    """
    from gcos.cli.output import Output, has_color  # noqa: PLC0415
    from testbed.world.importing import import_tables  # noqa: PLC0415

    invocation = context.find_object(Invocation)
    assert invocation is not None, "main() hands it in"
    out = Output(
        format=output or invocation.options.format or Format.TABLE,
        is_quiet=quiet or invocation.options.is_quiet,
        has_color=has_color(invocation.environ),
    )
    names = tuple(part for zone in (zones or "").split(",") if (part := zone.strip()))
    span = _span(first_month, last_month)
    with out.progress(f"reading {source}"):
        report = import_tables(source, to, zones=names, span=span)
    _show(report, out)


def _show(report: "ImportReport", out: "Output") -> None:
    if out.is_record:
        out.record(report)
        return
    if out.is_names:
        out.lines(report.files)
        return
    out.table(_table(report))
    for note in report.notes:
        out.say(f"note: {note}")
    out.say(f"written to {report.written_to}")


def _table(report: "ImportReport") -> "Table":
    from gcos.cli.output import Table  # noqa: PLC0415

    columns = ("TABLE", "ZONE", ">ROWS", "FIRST", "LAST", "GAPS", ">ESTIMATED", "CURRENCY")
    return Table(columns, tuple(_cells(found) for found in report.found))


def _cells(found: "Found") -> tuple[str, ...]:
    gaps = "-" if not found.first_utc else "none"
    if found.gap_count:
        gaps = f"{found.gap_count} ({found.missing_hours} h, longest {found.longest_gap_hours} h)"
    share = found.estimated_share
    return (
        found.table,
        found.zone or "-",
        str(found.rows),
        found.first_utc or "-",
        found.last_utc or "-",
        gaps,
        "-" if share is None else f"{share:.1%}",
        found.currency or "-",
    )


def _span(first_month: str | None, last_month: str | None) -> "Span | None":
    """Return the hours from the first month to the end of the last one.

    Raises:
        InvalidRequestError: one is no month, or the last one lies before the first.
    """
    from gcos.errors import InvalidRequestError  # noqa: PLC0415
    from gcos.signals import HOUR_S  # noqa: PLC0415
    from testbed.world.checked_rows import Span  # noqa: PLC0415

    if first_month is None and last_month is None:
        return None
    first_s, _ = _month_s(first_month or "1970-01", "from")
    _, last_s = _month_s(last_month or "2199-12", "until")
    if last_s <= first_s:
        raise InvalidRequestError(f"{last_month} lies before {first_month}", field="until")
    return Span(int(first_s / HOUR_S), int(last_s / HOUR_S))


def _month_s(text: str, option: str) -> tuple[float, float]:
    """Return begin and end of a month, seconds since the epoch."""
    from datetime import UTC, datetime  # noqa: PLC0415

    from gcos.errors import InvalidRequestError  # noqa: PLC0415

    try:
        begin = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise InvalidRequestError(
            f"{text!r} is no month", field=option, hint="write it like 2023-07"
        ) from None
    end = datetime(begin.year + begin.month // 12, begin.month % 12 + 1, 1, tzinfo=UTC)
    return begin.timestamp(), end.timestamp()
