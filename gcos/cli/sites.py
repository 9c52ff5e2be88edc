"""`gcos sites|carbon`."""

from typing import Annotated

import typer

from gcos.cli import site_tables
from gcos.cli.completion import complete_sites
from gcos.cli.invocation import ExitCode
from gcos.cli.session import Session, command
from gcos.cli.tasks import warn_of
from gcos.ids import SiteId

sites_commands = typer.Typer(
    help="Look at the sites of the cluster.\n\nExample:\n  gcos sites ls", no_args_is_help=True
)
carbon_commands = typer.Typer(
    help="Look at carbon intensity and price.\n\nExample:\n  gcos carbon now",
    no_args_is_help=True,
)

SiteOption = Annotated[
    str | None,
    typer.Option(
        metavar="SITE", help="This site only, instead of all.", autocompletion=complete_sites
    ),
]


@command(sites_commands, "ls")
async def list_sites(session: Session) -> int:
    """List the sites: GPUs, carbon, price and load.

    Example:
      gcos sites ls
    """
    async with session.connect() as client:
        listing = await client.sites()
    if not listing.is_fresh:
        session.out.warn(
            "no broker answers; this is what the agent heard last",
            reason="BROKER_UNREACHABLE",
            hint="start it again with: gcos up",
        )
    if session.out.is_record:
        session.out.record(listing)
    elif session.out.is_names:
        session.out.lines(known.site.site_id for known in listing.sites)
    else:
        session.out.table(site_tables.sites(listing))
    return ExitCode.OK


@command(carbon_commands, "now")
async def carbon_now(session: Session, site: SiteOption = None) -> int:
    """Show carbon intensity and price now, and when they are lowest in the next 24 hours.

    Example:
      gcos carbon now --site de
    """
    async with session.connect() as client:
        found = await client.signals(None if site is None else SiteId(site))
    warn_of(session, found.unreachable, "its signals are missing here")
    if session.out.is_record:
        session.out.record(found)
    elif session.out.is_names:
        session.out.lines(reading.site_id for reading in found.items)
    else:
        session.out.table(site_tables.signals(found.items))
    return ExitCode.OK


@sites_commands.callback()
@carbon_commands.callback()
def group() -> None:
    """Keep a group a group, even with a single command."""
