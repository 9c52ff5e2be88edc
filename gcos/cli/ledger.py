"""`gcos ledger`."""

import typer

from gcos.cli import ledger_table
from gcos.cli.invocation import ExitCode
from gcos.cli.plan_table import scale_notes
from gcos.cli.session import Session, command
from gcos.cli.tasks import warn_of

ledger_commands = typer.Typer()


@command(ledger_commands, "ledger")
async def ledger(session: Session) -> int:
    """Show what every attempt cost, and what was saved against running at the origin at once.

    Example:
      gcos ledger
    """
    async with session.connect() as client:
        found = await client.ledger()
        now_s = await client.world_now_s()
    warn_of(session, found.unreachable, "its entries are missing here")
    if session.is_json:
        session.out.json(found)
    elif session.out.is_quiet:
        session.out.lines(entry.run_id for entry in found.entries)
    elif found.entries:
        session.out.table(ledger_table.entries(found.entries, now_s=now_s))
        session.out.line("")
        session.out.lines(ledger_table.totals(found.entries) + scale_notes(found.scales))
    else:
        session.out.say("the ledger is empty: no attempt has ended")
    return ExitCode.OK
