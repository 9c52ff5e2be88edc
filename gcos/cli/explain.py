"""`gcos explain|results`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from gcos.cli import cache_tables, explain_tables, refusal_table, task_tables
from gcos.cli.completion import complete_task_ids
from gcos.cli.invocation import ExitCode
from gcos.cli.output import Output
from gcos.cli.plan_table import scale_notes
from gcos.cli.quantities import counted, size
from gcos.cli.session import Session, command
from gcos.client import Client
from gcos.client_records import Explanation, SiteCopyLog
from gcos.errors import GcosError
from gcos.ids import TaskId
from gcos.task_events import TaskEvent

#: Announcements whose offers are shown without --all.
SHOWN: Final = 3

explain_commands = typer.Typer()

TaskArgument = Annotated[
    str, typer.Argument(metavar="ID", help="Task id.", autocompletion=complete_task_ids)
]


@command(explain_commands, "explain")
async def explain(
    session: Session,
    task_id: TaskArgument,
    everything: Annotated[
        bool,
        typer.Option("--all", help=f"Offers of every announcement, not of the last {SHOWN} only."),
    ] = False,
) -> int:
    """Tell why a task is where it is: every offer, refusal, award, transfer and end.

    Exit codes:
      0  told
      2  there is no such task
      3  the cluster cannot be reached

    Example:
      gcos explain on-9hp9fx0akwqca
      gcos explain on-9hp9fx0akwqca --all
    """
    async with session.connect() as client:
        told = await client.explain(TaskId(task_id))
        is_read = session.out.is_record or session.out.is_names
        logs = () if is_read else await _copy_logs(client, told.task.task_id)
        now_s = await client.world_now_s()
    if session.out.is_record:
        session.out.record(told)
    elif session.out.is_names:
        session.out.line(told.task.task_id)
    else:
        show(told, session.out, now_s=now_s, shown=None if everything else SHOWN)
        show_copies(logs, session.out, now_s=now_s)
    return ExitCode.OK


async def _copy_logs(client: Client, task_id: TaskId) -> tuple[SiteCopyLog, ...]:
    """Return what sites decided about copies because of a task, as far as they answer."""
    try:
        return (await client.copy_log(task_id=task_id)).items
    except GcosError:
        return ()  # the task itself was told; what a site that is away decided, it tells later


def show_copies(logs: Sequence[SiteCopyLog], out: Output, *, now_s: float) -> None:
    """Write what sites decided about copies because of a task, where they decided anything."""
    if any(log.events for log in logs):
        out.line("")
        out.line("copies, because of this task:")
        out.table(cache_tables.decisions(logs, now_s=now_s))


def show(told: Explanation, out: Output, *, now_s: float, shown: int | None = SHOWN) -> None:
    """Write an explanation for people.

    Args:
        told: What happened.
        out: Where to.
        now_s: World instant.
        shown: Announcements whose offers are shown, the latest ones; None: all of them.
    """
    out.prose([explain_tables.verdict(told.task, now_s=now_s)])
    if (step := refusal_table.step_after(told.task)) is not None:
        out.prose([f"next: {step}"])
    out.line("")
    out.table(explain_tables.events(told, now_s=now_s))
    silent = task_tables.heard_tail(told.task, now_s=now_s)
    if heard := silent or explain_tables.lost_tail(told, now_s=now_s):
        out.line("")
        out.lines(heard)
    auctions = explain_tables.auctions(told)
    first = 0 if shown is None else max(0, len(auctions) - shown)
    if first:
        out.line("")
        earlier = counted(first, "earlier announcement")
        out.prose([f"offers of {earlier}: gcos explain {told.task.task_id} --all"])
    for number, auction in enumerate(auctions[first:], first + 1):
        out.line("")
        out.line(explain_tables.heading(auction, number=number, count=len(auctions), now_s=now_s))
        _show_auction(auction, out)
    _show_copies_before(told, out, now_s=now_s)
    moved = explain_tables.moved(told)
    if moved is not None:
        out.line("")
        out.table(moved)
    notes = scale_notes(told.scales)
    if notes:
        out.line("")
        out.prose(notes)


def _show_copies_before(told: Explanation, out: Output, *, now_s: float) -> None:
    """Write what had been decided about copies of a task's artifacts where it was offered for."""
    table = explain_tables.copies(told, now_s=now_s)
    if table is not None or told.unreachable:
        out.line("")
        out.line("copies of what it needs, before these offers:")
    if table is not None:
        out.table(table)
    out.prose(
        f"site {each.site_id} did not tell what it had decided about them: {each.message}"
        for each in told.unreachable
    )


def _show_auction(auction: TaskEvent, out: Output) -> None:
    if auction.bids:
        out.table(explain_tables.offers(auction))
        if (note := explain_tables.without_learning(auction)) is not None:
            out.prose([note])
    if not auction.bids and not auction.refusals:
        out.line("no site answered")
    if auction.bids and auction.refusals:
        out.line("")
    if auction.refusals:
        out.table(refusal_table.refusals(auction.refusals))
        out.prose(refusal_table.next_steps(auction.refusals))


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
