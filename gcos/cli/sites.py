"""`gcos sites|cache|carbon`."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from gcos.artifacts import ArtifactKind
from gcos.cli import site_tables
from gcos.cli.completion import complete_sites
from gcos.cli.invocation import ExitCode
from gcos.cli.quantities import size
from gcos.cli.session import Session, command
from gcos.cli.tasks import warn_of
from gcos.ids import SiteId

sites_commands = typer.Typer(
    help="Look at the sites of the cluster.\n\nExample:\n  gcos sites ls", no_args_is_help=True
)
cache_commands = typer.Typer(
    help="Look at caches and add artifacts.\n\n"
    "Example:\n  gcos cache ls\n  gcos cache add tiny-lm ./models/tiny-lm --kind model",
    no_args_is_help=True,
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


class KindWord(Enum):
    """How a kind of artifact is written on the command line."""

    MODEL = "model"
    DATA = "data"


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


@command(cache_commands, "ls")
async def list_cache(session: Session, site: SiteOption = None) -> int:
    """List what the model and data caches hold, and how full they are.

    Example:
      gcos cache ls --site de
    """
    async with session.connect() as client:
        found = await client.cache(None if site is None else SiteId(site))
        now_s = await client.world_now_s()
    warn_of(session, found.unreachable, "its caches are missing here")
    if session.out.is_record:
        session.out.record(found)
    elif session.out.is_names:
        ids = (entry.artifact.artifact_id for cache in found.items for entry in cache.entries)
        session.out.lines(dict.fromkeys(ids))
    else:
        if any(cache.entries for cache in found.items):
            session.out.table(site_tables.cache_entries(found.items, now_s=now_s))
            session.out.line("")
        else:
            session.out.say("no artifacts; see: gcos cache add --help")
        session.out.table(site_tables.cache_usages(found.items))
    return ExitCode.OK


@command(cache_commands, "add")
async def add_to_cache(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people will call it.")],
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Directory or file on the agent's machine.")
    ],
    kind: Annotated[KindWord, typer.Option(help="Which cache it belongs to.")],
    site: Annotated[
        str | None,
        typer.Option(
            metavar="SITE",
            help="Its custodian; the site of the agent by default.",
            autocompletion=complete_sites,
        ),
    ] = None,
) -> int:
    """Add a directory as a model or data set. The site becomes its custodian.

    Example:
      gcos cache add tiny-lm ./models/tiny-lm --kind model
    """
    async with session.connect() as client:
        with session.out.progress(f"adding {name}: every byte is hashed"):
            added = await client.add_artifact(
                name,
                ArtifactKind[kind.name],
                path.absolute(),
                None if site is None else SiteId(site),
            )
    artifact = added.artifact
    if session.out.is_record:
        session.out.record(added)
    else:
        session.out.line(artifact.artifact_id)
        what = "added" if added.is_new else "was there before:"
        session.out.say(f"{what} {artifact.name}, {size(artifact.size_bytes)}")
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
@cache_commands.callback()
@carbon_commands.callback()
def group() -> None:
    """Keep a group a group, even with a single command."""
