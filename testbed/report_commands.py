"""`gcos report`: writes a page of evaluations. Imports of weight wait for the command."""

from pathlib import Path
from typing import Annotated

import typer

from gcos.cli.invocation import Invocation, QuietOption


def report(
    context: typer.Context,
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE|DIR...", help="What evaluate wrote: with -o json, or in --out."
        ),
    ],
    to: Annotated[Path, typer.Option(help="The page that is written.")] = Path("report.html"),
    subject: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help="Whose savings and losses; else the lowest mean J."),
    ] = None,
    placements: Annotated[
        list[Path] | None,
        typer.Option(help="Exported runs (evaluate --export) to draw over time."),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Write one HTML page of evaluations, which loads nothing.

    The evaluation with the most runs is in the middle; those of the same runs with one
    other parameter become sweeps and the front of cost and carbon; all others are listed.

    Exit codes:
      0  the page is written
      2  a file is no evaluation, or no such policy is in it

    Example:
      gcos evaluate --policies joint,rule,locality --data world --out runs
      gcos evaluate --policies joint,rule --data world --out runs
      --sweep carbon_price_usd_per_kg=0,0.05,0.2,0.5,1,3
      gcos report runs --to report.html
    """
    from gcos.cli.output import Output, has_color  # noqa: PLC0415
    from gcos.errors import InvalidRequestError  # noqa: PLC0415
    from testbed.report.sources import read_placements, read_sources  # noqa: PLC0415

    invocation = context.find_object(Invocation)
    assert invocation is not None, "main() hands it in"
    out = Output(
        is_quiet=quiet or invocation.options.is_quiet, has_color=has_color(invocation.environ)
    )
    found = read_sources(sources)
    known = sorted({each.policy for found_ in found.evaluations for each in found_.policies})
    if subject is not None and subject not in known:
        raise InvalidRequestError(
            f"{subject} is in none of the evaluations",
            field="subject",
            hint=f"one of {', '.join(known)}",
        )
    drawn = [each for path in placements or () for each in read_placements(path)]
    try:
        from testbed.report.page import report_page  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise InvalidRequestError(
            f"plots need {exc.name}, which is not installed",
            field="report",
            hint="pip install 'gcos[research]'",
        ) from exc
    page = report_page(found, drawn, subject=subject)
    try:
        to.write_text(page, encoding="utf-8")
    except OSError as exc:
        raise InvalidRequestError(f"{to} cannot be written: {exc.strerror}", field="to") from exc
    out.say(f"wrote {to}, {len(page.encode()) / 1e3:.0f} kB")
