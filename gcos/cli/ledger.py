"""`gcos ledger`."""

import sys
from typing import Annotated

import typer

from gcos.cli import ledger_table
from gcos.cli.invocation import ExitCode
from gcos.cli.ledger_csv import entries_csv, groups_csv
from gcos.cli.plan_table import scale_notes
from gcos.cli.session import Session, command
from gcos.cli.spans import since_s
from gcos.cli.tasks import warn_of
from gcos.client_records import ClusterLedger
from gcos.errors import InvalidRequestError
from gcos.ledger_totals import SAVINGS_DEFINITION, LedgerKey, LedgerSummary, groups

ledger_commands = typer.Typer()


@command(ledger_commands, "ledger")
async def ledger(
    session: Session,
    by: Annotated[LedgerKey | None, typer.Option(help="Sums by this instead of attempts.")] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN|TIME",
            help="Attempts that ended in the last 24h (world time), or since 2026-11-23T14:05Z.",
        ),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values.")] = False,
) -> int:
    """Show what attempts cost and emitted, and what was saved against the origin at once.

    Example:
      gcos ledger --by project --since 7d
      gcos ledger --csv > ledger.csv
    """
    if as_csv and session.out.is_record:
        raise InvalidRequestError("--csv and -o exclude each other", field="csv", hint="drop one")
    async with session.connect() as client:
        now_s = await client.world_now_s()
        start_s = 0.0 if since is None else since_s(since, now_s=now_s, option="--since")
        found = await client.ledger(start_s)
    warn_of(session, found.unreachable, "its entries are missing here")
    sums = groups(found.entries, by)
    if as_csv:
        sys.stdout.write(entries_csv(found.entries) if by is None else groups_csv(sums, by))
        session.out.say(f"at_origin_*: the yardstick of savings, {SAVINGS_DEFINITION}")
    elif session.out.is_record and by is None:
        session.out.record(found)
    elif session.out.is_record:
        session.out.record(
            LedgerSummary(
                by=by,
                since_s=start_s,
                savings_definition=SAVINGS_DEFINITION,
                groups=sums,
                scales=found.scales,
                unreachable=found.unreachable,
            )
        )
    elif session.out.is_names:
        names = (entry.run_id for entry in found.entries)
        session.out.lines(names if by is None else dict.fromkeys(group.key for group in sums))
    elif found.entries:
        _show(session, found, by, now_s)
    else:
        within = "" if since is None else f" since {since}"
        session.out.say(f"the ledger is empty: no attempt has ended{within}")
    return ExitCode.OK


def _show(session: Session, found: ClusterLedger, by: LedgerKey | None, now_s: float) -> None:
    sums = groups(found.entries, by)
    out = session.out
    if by is None:
        out.table(ledger_table.entries(found.entries, now_s=now_s))
        out.line("")
    out.table(ledger_table.costs(sums, by))
    out.line("")
    out.table(ledger_table.carbon(sums, by))
    out.line("")
    out.prose(ledger_table.notes(sums) + scale_notes(found.scales))
