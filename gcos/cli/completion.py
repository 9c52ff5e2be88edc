"""What the shell offers when a task or a site is to be named."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from gcos.client import Client
from gcos.errors import GcosError

#: A shell that hangs is worse than one that offers nothing.
_TIMEOUT_S: Final = 2.0


def complete_task_ids(incomplete: str) -> list[tuple[str, str]]:
    """Return ids that begin with `incomplete`, with the name and state of the task."""

    async def ask(client: Client) -> list[tuple[str, str]]:
        tasks = (await client.tasks()).items
        return [(task.task_id, f"{task.spec.name}, {task.state.value}") for task in tasks]

    return _beginning(incomplete, _asked(ask))


def complete_sites(incomplete: str) -> list[tuple[str, str]]:
    """Return sites that begin with `incomplete`, with their electricity zone."""

    async def ask(client: Client) -> list[tuple[str, str]]:
        sites = (await client.sites()).sites
        return [(known.site.site_id, known.site.zone) for known in sites]

    return _beginning(incomplete, _asked(ask))


def complete_outputs(incomplete: str) -> list[str]:
    """Return words that may follow `gcos schema`: first ones of commands with records."""
    # Few completions need the records of all commands.
    from gcos.cli.output_schema import RECORDS  # noqa: PLC0415

    words = dict.fromkeys(word for command in RECORDS for word in command.split())
    return [word for word in words if word.startswith(incomplete)]


def _say_nothing(_text: str) -> None:
    """Keep warnings out of the command line that is being written."""


def _beginning(incomplete: str, found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [each for each in found if each[0].startswith(incomplete)]


def _asked(
    ask: Callable[[Client], Awaitable[list[tuple[str, str]]]],
) -> list[tuple[str, str]]:
    async def run() -> list[tuple[str, str]]:
        connecting = Client.connect(environ=os.environ, tell=_say_nothing)
        async with asyncio.timeout(_TIMEOUT_S), connecting as client:
            return await ask(client)

    try:
        return asyncio.run(run())
    except (GcosError, TimeoutError):  # nothing to offer; an error would land in the command line
        return []
