"""Follows tasks until they end: a live table on a terminal, a line for each change elsewhere."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from rich.live import Live

from gcos.cli import task_progress
from gcos.cli.output import Output, as_rich, layout
from gcos.client import Client
from gcos.errors import UnavailableError
from gcos.ids import TaskId
from gcos.system import SystemClock
from gcos.task_record import Task

REFRESH_S: Final = 1.0


async def followed(
    client: Client, tasks: Sequence[Task], out: Output, *, timeout_s: float | None = None
) -> list[Task]:
    """Return `tasks` as they are once all have ended, or after `timeout_s` wall seconds."""
    latest = {task.task_id: task for task in tasks}
    async with _shown(client, latest, out) as tell:

        async def watch(task_id: TaskId) -> None:
            async with contextlib.aclosing(client.watch(task_id)) as changes:
                async for task in changes:
                    latest[task_id] = task
                    tell(task)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as watching:
                for task_id in latest:
                    watching.create_task(watch(task_id))
    return list(latest.values())


@contextlib.asynccontextmanager
async def _shown(
    client: Client, latest: dict[TaskId, Task], out: Output
) -> AsyncIterator[Callable[[Task], None]]:
    """Show tasks until the block ends; it calls what this yields at each change."""
    console = out.console(sys.stderr)
    if out.is_quiet or not console.is_terminal:
        yield _line_by_line(out)
        return
    rates, clock = task_progress.FetchRates(), SystemClock()
    now_s = await client.world_now_s()
    live = Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False)

    def draw() -> None:
        table = task_progress.watched(
            list(latest.values()),
            now_s=now_s,
            width=console.width,
            rates_bytes_per_s={task_id: rates.bytes_per_s(task_id) for task_id in latest},
        )
        placed = layout(table, console.width)
        live.update(as_rich(placed, overflow="fold", has_color=out.has_color), refresh=True)

    def tell(task: Task) -> None:
        rates.observe(task, protocol_s=clock.protocol_s())
        draw()

    async def tick() -> None:
        nonlocal now_s
        while True:
            await asyncio.sleep(REFRESH_S)
            # Time goes on while nobody answers; the watch itself decides when that lasts too long.
            with contextlib.suppress(UnavailableError):
                now_s = await client.world_now_s()
            draw()

    with live:
        async with asyncio.TaskGroup() as group:
            ticking = group.create_task(tick())
            yield tell
            ticking.cancel()


def _line_by_line(out: Output) -> Callable[[Task], None]:
    told: dict[TaskId, str] = {}

    def tell(task: Task) -> None:
        words = task_progress.change(task)
        if told.get(task.task_id) != words:
            told[task.task_id] = words
            out.say(words)

    return tell
