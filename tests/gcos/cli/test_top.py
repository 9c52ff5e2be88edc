"""The live view: what it reads, and how it fills a terminal."""

import asyncio
import io
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from gcos.cli import top_view
from gcos.cli.output import Output
from gcos.cli.task_progress import FetchRates
from gcos.cli.top import ENDED_COUNT_MAX, SLOW_REFRESHES, Reader, _live, picture
from gcos.cli.top_view import Snapshot
from gcos.client import Client
from gcos.client_records import Gathered, Scales, SiteListing, Unreachable
from gcos.errors import SiteDrainingError
from gcos.known_sites import KnownSite
from gcos.tasks import TaskState
from testbed import samples
from testbed.fakes import FAKE_TOKEN, FakeAgent
from testbed.samples import CAL, NOW_S


@pytest.fixture
async def agent() -> AsyncIterator[FakeAgent]:
    fake = FakeAgent(entries=(samples.cache_entry(),))
    async with fake.serving():
        yield fake


@pytest.fixture
async def client(agent: FakeAgent, tmp_path: Path) -> AsyncIterator[Client]:
    token_file = tmp_path / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(FAKE_TOKEN)
    async with Client.connect(agent.address, token_file, environ={}) as connected:
        yield connected


def snapshot(active_count: int, ended_count: int) -> Snapshot:
    agent = FakeAgent(address="127.0.0.1:7")
    tasks = [samples.task_named(str(number)) for number in range(active_count + ended_count)]
    return Snapshot(
        now_s=NOW_S,
        sites=SiteListing((KnownSite(agent.site, agent.digest, 1.0),), is_fresh=True),
        caches=Gathered(()),
        active=Gathered(tuple(samples.running(task) for task in tasks[:active_count])),
        ended=tuple(samples.ended(task) for task in tasks[active_count:]),
        scales=Scales(),
    )


def drawn(shown: Snapshot, *, width: int, height: int, trouble: str = "") -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width, height=height, no_color=True)
    console.print(picture(shown, FetchRates(), Output(), console, trouble))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("height", [12, 24, 50])
@pytest.mark.parametrize("counts", [(0, 0), (3, 2), (100, 100), (0, 100), (100, 0)])
def test_the_picture_fits_the_terminal(width: int, height: int, counts: tuple[int, int]) -> None:
    lines = drawn(snapshot(*counts), width=width, height=height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_tasks_under_way_come_before_those_that_have_ended() -> None:
    lines = drawn(snapshot(100, 100), width=120, height=30)
    assert sum("RUNNING" in line for line in lines) > 10
    assert not any("SUCCEEDED" in line for line in lines)
    assert "more tasks under way: gcos queue" in lines[-1]
    lines = drawn(snapshot(2, 100), width=120, height=30)
    assert sum("RUNNING" in line for line in lines) == 2
    assert sum("SUCCEEDED" in line for line in lines) > 10


def test_a_picture_that_is_out_of_date_says_so() -> None:
    lines = drawn(snapshot(1, 1), width=80, height=24, trouble="nobody answers")
    assert "warning: out of date: nobody answers" in lines


def test_a_long_message_leaves_the_column_to_the_others() -> None:
    shown = snapshot(0, 2)
    wordy = replace(shown.ended[0], message="nearest offer: on, " * 20)
    lines = drawn(replace(shown, ended=(wordy, shown.ended[1])), width=160, height=30)
    assert any("nearest offer: on, " in line and line.endswith("…") for line in lines)
    assert any("exit code 0" in line for line in lines)


def test_missing_answers_are_told() -> None:
    silent = (Unreachable(CAL, address="127.0.0.1:1", message="no answer"),)
    shown = snapshot(1, 0)
    shown = replace(
        shown,
        sites=replace(shown.sites, is_fresh=False),
        active=replace(shown.active, unreachable=silent),
        caches=replace(shown.caches, unreachable=silent),
    )
    assert top_view.warnings(shown) == [
        "no broker answers: sites are as last heard",
        "site cal does not answer",
    ]


async def test_what_has_ended_is_noticed_when_it_leaves_the_tasks_under_way(
    agent: FakeAgent, client: Client
) -> None:
    await agent.put(task := samples.running(samples.task_named("1")))
    reader = Reader(client, Scales())
    first = await reader.read()
    assert (len(first.active.items), len(first.ended)) == (1, 0)
    await agent.put(samples.ended(task))
    second = await reader.read()
    assert [each.state for each in second.ended] == [TaskState.SUCCEEDED]
    assert second.active.items == ()


async def test_what_came_and_went_between_two_readings_is_found_in_the_end(
    agent: FakeAgent, client: Client
) -> None:
    reader = Reader(client, Scales())
    await reader.read()
    await agent.put(samples.ended(samples.task_named("1")))
    readings = [len((await reader.read()).ended) for _ in range(SLOW_REFRESHES)]
    assert readings == [0] * (SLOW_REFRESHES - 1) + [1]


async def test_the_last_ends_come_first_and_only_so_many(agent: FakeAgent, client: Client) -> None:
    for number in range(ENDED_COUNT_MAX + 5):
        task = samples.ended(samples.task_named(str(number)))
        agent.tasks[task.task_id] = replace(task, ended_s=NOW_S + number)
    ended = (await Reader(client, Scales()).read()).ended
    assert len(ended) == ENDED_COUNT_MAX
    assert ended[0].ended_s == NOW_S + ENDED_COUNT_MAX + 4


class Screen(io.StringIO):
    """A terminal that says when something was drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = asyncio.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.drawn.set()
        return super().write(text)


async def test_the_view_goes_on_while_nobody_answers_and_leaves_the_terminal_as_it_was(
    agent: FakeAgent, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    reader = Reader(client, Scales())
    shown = await reader.read()
    agent.refusal = SiteDrainingError("draining")
    async with asyncio.TaskGroup() as group:
        viewing = group.create_task(_live(reader, shown, Output(), 0.0))
        while "out of date" not in screen.getvalue():
            screen.drawn.clear()
            await screen.drawn.wait()
        agent.refusal = None
        viewing.cancel()
    assert "\x1b[?1049h" in screen.getvalue()  # the other screen is entered ...
    assert "\x1b[?1049l" in screen.getvalue()  # ... and left
