"""`gcos explain|results`."""

from pathlib import Path
from typing import Annotated

import typer

from gcos.cli import explain_tables, refusal_table
from gcos.cli.completion import complete_task_ids
from gcos.cli.invocation import ExitCode
from gcos.cli.plan_table import scale_notes
from gcos.cli.quantities import counted, size
from gcos.cli.session import Session, command
from gcos.ids import TaskId

explain_commands = typer.Typer()

TaskArgument = Annotated[
    str, typer.Argument(metavar="ID", help="Task id.", autocompletion=complete_task_ids)
]


@command(explain_commands, "explain")
async def explain(session: Session, task_id: TaskArgument) -> int:
    """Tell why a task is where it is: every offer, refusal, award, transfer and end.

    Exit codes:
      0  told
      2  there is no such task
      3  the cluster cannot be reached

    Example:
      gcos explain on-9hp9fx0akwqca
    """
    async with session.connect() as client:
        told = await client.explain(TaskId(task_id))
        now_s = await client.world_now_s()
    if session.out.is_record:
        session.out.record(told)
        return ExitCode.OK
    if session.out.is_names:
        session.out.line(told.task.task_id)
        return ExitCode.OK
    session.out.prose([explain_tables.verdict(told.task, now_s=now_s)])
    if (step := refusal_table.step_after(told.task)) is not None:
        session.out.prose([f"next: {step}"])
    session.out.line("")
    session.out.table(explain_tables.events(told, now_s=now_s))
    auction = explain_tables.last_auction(told)
    if auction is not None:
        session.out.line("")
        session.out.line("the latest announcement brought:")
        if auction.bids:
            session.out.table(explain_tables.offers(auction, now_s=now_s))
        if not auction.bids and not auction.refusals:
            session.out.line("no site answered")
        if auction.bids and auction.refusals:
            session.out.line("")
        if auction.refusals:
            session.out.table(refusal_table.refusals(auction.refusals))
            session.out.prose(refusal_table.next_steps(auction.refusals))
    moved = explain_tables.moved(told)
    if moved is not None:
        session.out.line("")
        session.out.table(moved)
    notes = scale_notes(told.scales)
    if notes:
        session.out.line("")
        session.out.prose(notes)
    return ExitCode.OK


@command(explain_commands, "results")
async def results(
    session: Session,
    task_id: TaskArgument,
    to: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the files go; must not exist yet.")
    ],
) -> int:
    """Fetch what a task left behind, wherever it ran.

    Exit codes:
      0  the files are in DIR
      2  no such task, it did not succeed, or DIR exists
      3  the cluster or the site with the files cannot be reached

    Example:
      gcos results on-9hp9fx0akwqca --to ./tuned
    """
    async with session.connect() as client:
        with session.out.progress("fetching the files"):
            found = await client.results(TaskId(task_id), to)
    if session.out.is_record:
        session.out.record(found)
    else:
        session.out.lines(str(Path(found.directory) / path) for path in found.sizes)
        total = size(sum(found.sizes.values()))
        session.out.say(f"{counted(len(found.sizes), 'file')}, {total}, in {to}")
    return ExitCode.OK
