"""`gcos top`."""

import asyncio
import sys
from dataclasses import dataclass, field
from typing import Annotated, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from gcos.cli import top_view
from gcos.cli.invocation import ExitCode
from gcos.cli.output import Output, as_rich, layout
from gcos.cli.plan_table import scale_notes
from gcos.cli.quantities import printable
from gcos.cli.session import Session, command
from gcos.cli.task_progress import FetchRates
from gcos.cli.top_view import Snapshot
from gcos.client import Client
from gcos.client_records import Gathered, Scales, SiteCache
from gcos.clock import Clock
from gcos.errors import UnavailableError
from gcos.ids import TaskId
from gcos.system import SystemClock
from gcos.task_record import Task

#: Ended tasks and caches are read anew at least every so many refreshes: both may be long lists.
SLOW_REFRESHES: Final = 10
EVERY_S_MIN: Final = 0.2
ENDED_COUNT_MAX: Final = 100
PRINTED_ENDS: Final = 10
#: Lines that hold no row: a blank and a heading before each of three tables, and one at the foot.
_HEADINGS: Final = 7

top_commands = typer.Typer()


@command(top_commands, "top")
async def top(
    session: Session,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=EVERY_S_MIN, help="Time between refreshes.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print it once and end.")] = False,
) -> int:
    """Watch sites and tasks, live; Ctrl-C ends it. Off a terminal it prints once, as with --once.

    Example:
      gcos top --every 5
      gcos top --once
    """
    out = session.out
    is_live = sys.stdout.isatty() and not (once or out.is_record or out.is_names)
    async with session.connect() as client:
        scales = (await client.ledger(await client.world_now_s(), everywhere=False)).scales
        reader = Reader(client, scales)
        snapshot = await reader.read()
        if is_live:
            await _live(reader, snapshot, out, every)
    if out.is_record:
        out.record(snapshot)
    elif out.is_names:
        out.lines(task.task_id for task in snapshot.active.items)
    else:
        _print(snapshot, reader.rates, out)
    return ExitCode.OK


@dataclass(slots=True)
class Reader:
    """Reads the cluster again and again."""

    client: Client
    scales: Scales
    rates: FetchRates = field(default_factory=FetchRates)
    clock: Clock = field(default_factory=SystemClock)
    _caches: Gathered[SiteCache] = field(default_factory=lambda: Gathered(()))
    _ended: tuple[Task, ...] = ()
    _active_ids: frozenset[TaskId] = frozenset()
    _count: int = 0

    async def read(self) -> Snapshot:
        """Return the cluster as it now is.

        Raises:
            PeerUnreachableError: Nobody answers.
        """
        now_s = await self.client.world_now_s()
        sites = await self.client.sites()
        active = await self.client.tasks(only_active=True)
        ids = frozenset(task.task_id for task in active.items)
        if self._count % SLOW_REFRESHES == 0 or self._active_ids - ids:
            self._caches = await self.client.cache()
            every = (await self.client.tasks()).items
            ended = [task for task in every if task.state.is_terminal]
            self._ended = tuple(sorted(ended, key=lambda task: -(task.ended_s or 0.0)))
        self._count += 1
        self._active_ids = ids
        for task in active.items:
            self.rates.observe(task, protocol_s=self.clock.protocol_s())
        return Snapshot(
            now_s=now_s,
            sites=sites,
            caches=self._caches,
            active=active,
            ended=self._ended[:ENDED_COUNT_MAX],
            scales=self.scales,
        )


async def _live(reader: Reader, snapshot: Snapshot, out: Output, every_s: float) -> None:
    """Draw on the whole terminal until cancelled."""
    console = out.console(sys.stdout)
    trouble = ""
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(picture(snapshot, reader.rates, out, console, trouble), refresh=True)
            await asyncio.sleep(every_s)
            try:
                snapshot = await reader.read()
                trouble = ""
            except UnavailableError as exc:  # the picture stays, and says that it is an old one
                trouble = exc.message


def picture(
    snapshot: Snapshot, rates: FetchRates, out: Output, console: Console, trouble: str
) -> RenderableType:
    """Return what fills a terminal: sites, then tasks, then as many ends as there is room for."""
    warnings = top_view.warnings(snapshot)
    if trouble:
        warnings.insert(0, f"out of date: {trouble}")
    parts: list[RenderableType] = [_line(top_view.head(snapshot), "bold" if out.has_color else "")]
    parts += [_line(note, "") for note in scale_notes(snapshot.scales)]
    parts += [_line(f"warning: {warning}", "") for warning in warnings]
    sites = top_view.sites(snapshot)
    left = console.height - len(parts) - len(sites.rows) - _HEADINGS
    active_count = len(snapshot.active.items)
    if active_count > left:  # the last line tells how many more there are
        active_count = max(left - 1, 1)
    hidden = len(snapshot.active.items) - active_count
    ended_count = 0 if hidden else min(len(snapshot.ended), left - active_count)
    active = top_view.active(snapshot, _rates(snapshot, rates), limit=active_count)
    ended = top_view.ended(snapshot, limit=ended_count)
    for table in (sites, active, ended):
        if table.rows:
            placed = layout(table, console.width)
            parts += [Text(), as_rich(placed, overflow="ellipsis", has_color=out.has_color)]
    if hidden:
        parts.append(_line(f"{hidden} more tasks under way: gcos queue", ""))
    return Group(*parts)


def _print(snapshot: Snapshot, rates: FetchRates, out: Output) -> None:
    out.prose([top_view.head(snapshot), *scale_notes(snapshot.scales)])
    for warning in top_view.warnings(snapshot):
        out.warn(
            warning, reason="OUT_OF_DATE", hint="see who is there: gcos sites ls; start it: gcos up"
        )
    active_count = len(snapshot.active.items)
    for table in (
        top_view.sites(snapshot),
        top_view.active(snapshot, _rates(snapshot, rates), limit=active_count),
        top_view.ended(snapshot, limit=PRINTED_ENDS),
    ):
        if table.rows:
            out.line("")
            out.table(table)


def _rates(snapshot: Snapshot, rates: FetchRates) -> dict[TaskId, float | None]:
    return {task.task_id: rates.bytes_per_s(task.task_id) for task in snapshot.active.items}


def _line(text: str, style: str) -> Text:
    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")
