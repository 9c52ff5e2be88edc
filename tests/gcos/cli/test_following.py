"""Tasks are followed in place on a terminal, and line by line elsewhere."""

import asyncio
import io
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gcos.cli import following
from gcos.cli.following import followed
from gcos.cli.output import Output
from gcos.client import Client
from gcos.rpc.wire import to_proto
from gcos.task_record import Task
from gcos.tasks import Reason, TaskState
from gcos.v1 import tasks_pb2
from testbed import samples
from testbed.fakes import FAKE_TOKEN, FakeAgent

QUEUED = samples.task_named("1")
STAGING = replace(
    samples.running(QUEUED),
    state=TaskState.STAGING,
    reason=Reason.FETCHING,
    started_s=None,
    fetched_bytes=1_000_000_000,
    fetch_bytes=3_000_000_000,
)
RUNNING = replace(samples.running(QUEUED), predictions=(samples.PREDICTION,))
ENDED = samples.ended(QUEUED)


class Terminal(io.StringIO):
    """Text that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


class Scripted(FakeAgent):
    """An agent whose task passes through its stages while it is watched.

    It goes on to the next stage once `ticks` world times were asked for since the last.
    """

    stages: tuple[Task, ...] = (QUEUED, STAGING, RUNNING, ENDED)
    ticks = 0

    async def WatchTask(
        self, request: tasks_pb2.WatchTaskRequest, context: Any
    ) -> AsyncIterator[tasks_pb2.WatchTaskResponse]:
        for stage in self.stages:
            await self.put(stage)
            self.asked = 0
            yield tasks_pb2.WatchTaskResponse(task=to_proto(stage, tasks_pb2.Task))
            async with self._changed:
                await self._changed.wait_for(lambda: self.asked >= self.ticks)

    asked = 0

    async def ReadSignals(self, request: Any, context: Any) -> Any:
        self.asked += 1
        async with self._changed:
            self._changed.notify_all()
        return await super().ReadSignals(request, context)


@pytest.fixture
async def agent() -> AsyncIterator[Scripted]:
    fake = Scripted()
    await fake.put(QUEUED)
    async with fake.serving():
        yield fake


@pytest.fixture
async def client(agent: Scripted, tmp_path: Path) -> AsyncIterator[Client]:
    token_file = tmp_path / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(FAKE_TOKEN)
    async with Client.connect(agent.address, token_file, environ={}) as connected:
        yield connected


async def test_off_a_terminal_each_change_is_a_line(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await followed(client, [QUEUED], Output()) == [ENDED]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split()[1] for line in captured.err.splitlines()] == [
        *("QUEUED", "STAGING", "RUNNING", "SUCCEEDED"),
    ]
    assert "1 GB of 3 GB" in captured.err
    assert "predicted 60-88 min (p50-p90)" in captured.err


async def test_a_quiet_follower_says_nothing(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    await followed(client, [QUEUED], Output(is_quiet=True))
    assert capsys.readouterr() == ("", "")


async def test_on_a_terminal_the_stage_is_shown_in_place_and_goes_in_the_end(
    client: Client, agent: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(following, "REFRESH_S", 0.0)
    agent.ticks = 1
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert await followed(client, [QUEUED], Output()) == [ENDED]
    shown = terminal.getvalue()
    assert "██░░░░ 1 GB of 3 GB" in shown
    assert "1 of 60-88 min, " in shown
    assert shown.index("\x1b[?25l") < shown.rindex("\x1b[?25h")  # the cursor comes back


async def test_a_time_limit_leaves_tasks_as_they_were_last_seen(
    client: Client, agent: Scripted
) -> None:
    agent.stages = (QUEUED, RUNNING)
    agent.ticks = 1  # nobody asks for the time off a terminal: it stays at its first stage
    assert await followed(client, [QUEUED], Output(is_quiet=True), timeout_s=0.05) == [QUEUED]


async def test_a_follower_that_is_cancelled_gives_the_terminal_back(
    client: Client, agent: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(following, "REFRESH_S", 0.0)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    agent.ticks = 1_000_000
    async with asyncio.TaskGroup() as group:
        following_task = group.create_task(followed(client, [QUEUED], Output()))
        async with agent._changed:
            await agent._changed.wait_for(lambda: "QUEUED" in terminal.getvalue())
        following_task.cancel()
    shown = terminal.getvalue()
    assert shown.index("\x1b[?25l") < shown.rindex("\x1b[?25h")
