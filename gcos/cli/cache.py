"""`gcos cache`."""

import contextlib
from enum import Enum
from pathlib import Path
from typing import Annotated, Final

import typer

from gcos.artifacts import Artifact, ArtifactKind
from gcos.cli import cache_tables
from gcos.cli.cache_progress import bytes_progress
from gcos.cli.completion import complete_sites, complete_task_ids
from gcos.cli.invocation import ExitCode
from gcos.cli.quantities import counted, size
from gcos.cli.session import Session, command
from gcos.cli.spans import span_s
from gcos.cli.tasks import warn_of
from gcos.client_records import PullProgress, VerifiedArtifact
from gcos.copy_events import COPY_EVENT_COUNT
from gcos.errors import InvalidRequestError
from gcos.ids import SiteId, TaskId

cache_commands = typer.Typer(
    help="Look at caches; add, pull, keep and remove artifacts.\n\n"
    "Example:\n  gcos cache ls\n  gcos cache pull hf://org/name@main",
    no_args_is_help=True,
)

#: A GB as everywhere in gcos.
_GB: Final = 1_000_000_000

NameArgument = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Its name, name@sha256:... where several have it, or id."),
]
EverySiteOption = Annotated[
    str | None,
    typer.Option(
        metavar="SITE", help="This site only, instead of all.", autocompletion=complete_sites
    ),
]
SiteOption = Annotated[
    str | None,
    typer.Option(
        metavar="SITE",
        help="At this site; the site of the agent by default.",
        autocompletion=complete_sites,
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Change nothing; tell what would be removed.")
]


class KindWord(Enum):
    """How a kind of artifact is written on the command line."""

    MODEL = "model"
    DATA = "data"


@command(cache_commands, "ls")
async def list_cache(session: Session, site: EverySiteOption = None) -> int:
    """List what the model and data caches hold, and how full they are.

    Example:
      gcos cache ls --site de
    """
    async with session.connect() as client:
        found = await client.cache(_site(site))
        now_s = await client.world_now_s()
    warn_of(session, found.unreachable, "its caches are missing here")
    if session.out.is_record:
        session.out.record(found)
    elif session.out.is_names:
        ids = (entry.artifact.artifact_id for cache in found.items for entry in cache.entries)
        session.out.lines(dict.fromkeys(ids))
    else:
        if any(cache.entries or cache.arrivals for cache in found.items):
            session.out.table(cache_tables.entries(found.items, now_s=now_s))
            session.out.line("")
        else:
            session.out.say("no artifacts; see: gcos cache add --help, gcos cache pull --help")
        session.out.table(cache_tables.usages(found.items))
    return ExitCode.OK


@command(cache_commands, "log")
async def cache_log(
    session: Session,
    site: EverySiteOption = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Only what was decided because of this task.",
            autocompletion=complete_task_ids,
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("--count", "-n", help="The latest ones of each site, at most 1000.")
    ] = COPY_EVENT_COUNT,
) -> int:
    """Tell what sites decided about copies, and why: fetched, moved, evicted, handed over.

    A copy is decided for where auctions lost for want of it would have paid for it,
    or where the sites' common plan wants it; what was refused is told with the reason.

    Example:
      gcos cache log -n 20
      gcos cache log --site de --task on-9hp9fx0akwqca
    """
    async with session.connect() as client:
        found = await client.copy_log(
            _site(site), task_id=None if task is None else TaskId(task), count_max=count
        )
        now_s = await client.world_now_s()
    warn_of(session, found.unreachable, "its decisions are missing here")
    if session.out.is_record:
        session.out.record(found)
    elif session.out.is_names:
        ids = (event.artifact_id for log in found.items for event in log.events)
        session.out.lines(dict.fromkeys(ids))
    elif any(log.events for log in found.items):
        session.out.table(cache_tables.decisions(found.items, now_s=now_s))
    else:
        session.out.say("nothing was decided yet")
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
                name, ArtifactKind[kind.name], path.absolute(), _site(site)
            )
    artifact = added.artifact
    if session.out.is_record:
        session.out.record(added)
    else:
        session.out.line(artifact.artifact_id)
        what = "added" if added.is_new else "was there before:"
        session.out.say(f"{what} {artifact.name}, {size(artifact.size_bytes)}")
    return ExitCode.OK


@command(cache_commands, "pull")
async def pull_to_cache(
    session: Session,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REFERENCE",
            help="hf://ORG/NAME@REV, hf://datasets/ORG/NAME, https://..., s3://..., ollama://NAME, "
            "file:///...",
        ),
    ],
    called: Annotated[
        str, typer.Option("--as", metavar="NAME", help="What people will call it.")
    ] = "",
    kind: Annotated[
        KindWord | None, typer.Option(help="Which cache it belongs to, where nothing says it.")
    ] = None,
    site: SiteOption = None,
) -> int:
    r"""Bring a model or data set from where it is published. Ctrl-C stops it and leaves nothing.

    What is here already is not fetched again. The agent reads only hosts and roots that its
    operator allows: \[sources] of its configuration.

    Example:
      gcos cache pull hf://HuggingFaceTB/SmolLM2-135M --site de
      gcos cache pull https://example.org/text.parquet --as text --kind data
    """
    last: PullProgress | None = None
    async with session.connect() as client:
        pulling = client.pull_artifact(
            reference,
            name=called,
            kind=None if kind is None else ArtifactKind[kind.name],
            site=_site(site),
        )
        with bytes_progress(session.out, reference) as advance:
            async with contextlib.aclosing(pulling) as words:
                async for last in words:
                    advance(last.note, last.received_bytes, last.size_bytes)
    assert last is not None, "the last word holds the artifact"
    artifact = last.artifact
    assert artifact is not None, "the last word holds the artifact"
    if session.out.is_record:
        session.out.record(last)
    else:
        session.out.line(artifact.artifact_id)
        what = "pulled" if last.is_new else "was there before:"
        session.out.say(f"{what} {artifact.name}, {size(artifact.size_bytes)}")
    return ExitCode.OK


@command(cache_commands, "pin")
async def pin_in_cache(session: Session, name: NameArgument, site: SiteOption = None) -> int:
    """Keep an artifact: it is never evicted or removed until it is unpinned, over restarts too.

    Example:
      gcos cache pin org/tiny-lm --site de
    """
    return await _pin(session, name, site, is_pinned=True)


@command(cache_commands, "unpin")
async def unpin_in_cache(session: Session, name: NameArgument, site: SiteOption = None) -> int:
    """Let a pinned artifact go; it stays until its room is needed.

    Example:
      gcos cache unpin org/tiny-lm --site de
    """
    return await _pin(session, name, site, is_pinned=False)


@command(cache_commands, "verify")
async def verify_cache(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="One artifact; all of the site by default.")
    ] = "",
    repair: Annotated[
        bool, typer.Option("--repair", help="Bring what is damaged from other sites or its source.")
    ] = False,
    site: SiteOption = None,
) -> int:
    """Read every byte again and compare it with its digest.

    What is damaged counts as missing, over restarts too, until it is mended: no peer gets it, and a
    task that comes there has it mended first, from a site that holds it. --repair mends it, and so
    does to add or pull it again.

    Exit codes:
      0  everything is as it should be
      4  something is damaged

    Example:
      gcos cache verify
      gcos cache verify org/tiny-lm --site de --repair
    """
    found: list[VerifiedArtifact] = []
    async with session.connect() as client:
        with session.out.progress(f"verifying {name or 'every artifact'}: every byte is read"):
            async with contextlib.aclosing(
                client.verify_artifacts(name, site=_site(site), is_repairing=repair)
            ) as verified:
                found = [each async for each in verified]
    damaged = [each for each in found if each.bad_paths]
    mended_bytes = sum(each.repaired_bytes for each in found)
    if mended_bytes:
        session.out.say(f"mended {size(mended_bytes)}")
    for each in damaged:
        if each.repair_problem:
            session.out.say(f"{each.artifact.name} stays damaged: {each.repair_problem}")
    if session.out.is_record:
        session.out.record(found)
    elif session.out.is_names:
        session.out.lines(each.artifact.artifact_id for each in damaged)
    else:
        session.out.table(cache_tables.verified(found))
    if damaged:
        session.out.warn(
            f"{counted(len(damaged), 'artifact')} of {len(found)} damaged on disk",
            reason="DIGEST_MISMATCH",
            hint="bring it again: gcos cache pull REFERENCE, or gcos cache add DIRECTORY"
            if repair
            else "mend it from another site or its source: gcos cache verify --repair",
        )
        return ExitCode.INTERNAL
    session.out.say(f"{counted(len(found), 'artifact')} verified")
    return ExitCode.OK


@command(cache_commands, "prune")
async def prune_cache(
    session: Session,
    to_gb: Annotated[
        float | None,
        typer.Option(min=0, metavar="GB", help="Until both caches together hold no more."),
    ] = None,
    unused_for: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="What nobody has used for so long, such as 7d."),
    ] = None,
    dry_run: DryRunOption = False,
    site: SiteOption = None,
) -> int:
    """Remove what nobody uses, what was used longest ago first.

    What is pinned, in use, or in the site's custody stays.

    Example:
      gcos cache prune --to-gb 50 --dry-run
      gcos cache prune --unused-for 7d --site de
    """
    if to_gb is None and unused_for is None:
        raise InvalidRequestError(
            "nothing says how much to remove",
            field="--to-gb",
            hint="give --to-gb, --unused-for or both; --to-gb 0 removes all that may go",
        )
    # Also what is no number; a count of bytes travels as 64 bits.
    if to_gb is not None and not to_gb * _GB < 2**63:
        raise InvalidRequestError(
            f"{to_gb:g} GB is no size of a cache",
            field="--to-gb",
            hint="give a number of GB, such as 50; without --to-gb there is no limit",
        )
    unused_for_s = 0.0 if unused_for is None else span_s(unused_for, option="--unused-for")
    async with session.connect() as client:
        with session.out.progress("removing what nobody uses"):
            pruned = await client.prune_cache(
                to_bytes=None if to_gb is None else int(to_gb * _GB),
                unused_for_s=unused_for_s,
                is_dry_run=dry_run,
                site=_site(site),
            )
    if session.out.is_record:
        session.out.record(pruned)
    elif session.out.is_names:
        session.out.lines(artifact.artifact_id for artifact in pruned.removed)
    elif pruned.removed or pruned.kept:
        session.out.table(cache_tables.pruned(pruned, is_dry_run=dry_run))
    freed_bytes = sum(artifact.size_bytes for artifact in pruned.removed)
    would = "would free" if dry_run else "freed"
    session.out.say(f"{would} {size(freed_bytes)}; {size(pruned.occupied_bytes)} held after it")
    if to_gb is not None and pruned.occupied_bytes > to_gb * _GB:
        session.out.warn(
            f"{size(pruned.occupied_bytes)} is more than {size(to_gb * _GB)}: the rest stays",
            reason="CACHE_IN_USE",
            hint="see why each one stays: gcos cache prune --to-gb 0 --dry-run",
        )
    return ExitCode.OK


@command(cache_commands, "rm")
async def remove_from_cache(
    session: Session,
    name: NameArgument,
    give_up_custody: Annotated[
        bool,
        typer.Option(
            "--give-up-custody",
            help="Even where the site is its custodian: its bytes may be lost for good.",
        ),
    ] = False,
    dry_run: DryRunOption = False,
    site: SiteOption = None,
) -> int:
    """Remove an artifact, with all of its names, from one site.

    Refused, with the reason, where it is pinned, in use, or in the site's custody.

    Example:
      gcos cache rm org/tiny-lm --dry-run
      gcos cache rm org/tiny-lm --site de
    """
    async with session.connect() as client:
        removed = await client.remove_artifact(
            name, gives_up_custody=give_up_custody, is_dry_run=dry_run, site=_site(site)
        )
    if session.out.is_record:
        session.out.record(removed)
    else:
        session.out.line(removed.artifact.artifact_id)
        what = "would remove" if dry_run else "removed"
        names = ", ".join(removed.names)
        session.out.say(f"{what} {names}, {size(removed.artifact.size_bytes)}")
    return ExitCode.OK


@cache_commands.callback()
def group() -> None:
    """Keep a group a group, even with a single command."""


async def _pin(session: Session, name: str, site: str | None, *, is_pinned: bool) -> int:
    async with session.connect() as client:
        pinned = await client.pin_artifact(name, site=_site(site), is_pinned=is_pinned)
    artifact: Artifact = pinned.artifact
    if session.out.is_record:
        session.out.record(pinned)
    else:
        session.out.line(artifact.artifact_id)
        what = "pinned" if is_pinned else "let go"
        session.out.say(f"{what if pinned.is_changed else f'was {what} before:'} {artifact.name}")
    return ExitCode.OK


def _site(text: str | None) -> SiteId | None:
    return None if text is None else SiteId(text)
