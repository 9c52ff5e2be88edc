"""Clients go on at another agent where the one in use is dead, and say so."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gcos.client import Client
from gcos.errors import InvalidRequestError, PeerUnreachableError
from gcos.home import CLUSTER_FILE, LocalCluster, discover, write_cluster
from gcos.sync_client import SyncClient
from testbed import samples
from testbed.fakes import FAKE_TOKEN, FakeAgent
from testbed.samples import CAL, DE

DOCUMENT = b"apiVersion: gcos/v1\nkind: Task\nrun: echo hello\n"
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(FAKE_TOKEN)
    return path


@pytest.fixture
async def other() -> AsyncIterator[FakeAgent]:
    fake = FakeAgent(CAL)
    async with fake.serving():
        yield fake


@contextlib.asynccontextmanager
async def after_the_death_of_the_first(
    other: FakeAgent, token_file: Path, told: list[str]
) -> AsyncIterator[tuple[Client, FakeAgent]]:
    """Connect to an agent that dies then, with `other` as the next one."""
    first = FakeAgent(DE)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(first.serving())
        agents = f"{first.address},{other.address}"
        connecting = Client.connect(agents, token_file, environ={}, tell=told.append)
        async with connecting as client:
            assert (client.site_id, told) == (DE, [])
            await stack.aclose()
            yield client, first


async def test_reads_go_on_at_the_next_agent_and_one_line_says_which(
    other: FakeAgent, token_file: Path
) -> None:
    await other.put(task := samples.task_named("1"))
    told: list[str] = []
    async with after_the_death_of_the_first(other, token_file, told) as (client, first):
        assert await client.task(task.task_id) == task
        assert (await client.cancel(task.task_id)).is_cancelled
        assert [known.site.site_id for known in (await client.sites()).sites] == [CAL]
        assert client.site_id == CAL
        assert await client.world_now_s() == samples.NOW_S
    assert told == [
        f"the agent at {first.address} does not answer; the one at {other.address} (site cal) does"
    ]


async def test_a_submission_goes_to_the_next_agent_once_and_with_its_request_id(
    other: FakeAgent, token_file: Path
) -> None:
    told: list[str] = []
    async with after_the_death_of_the_first(other, token_file, told) as (client, first):
        submission = await client.submit(DOCUMENT, "night")
    assert submission.task.origin == CAL
    assert other.documents == [(DOCUMENT, "night")]
    assert told[0].startswith(f"the agent at {first.address} does not answer")
    assert f"if {first.address} took it before, this is a second task" in told[1]


async def test_where_no_agent_is_left_that_is_one_clear_error(
    other: FakeAgent, token_file: Path
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        first = FakeAgent(DE)
        await stack.enter_async_context(first.serving())
        agents = f"{first.address},{NOWHERE}"
        async with Client.connect(agents, token_file, environ={}) as client:
            await stack.aclose()
            for ask in (client.sites, lambda: client.submit(DOCUMENT)):
                with pytest.raises(PeerUnreachableError, match="no agent answers at"):
                    await ask()


async def test_an_agent_that_answers_is_kept_where_what_lies_behind_it_is_away(
    other: FakeAgent, token_file: Path
) -> None:
    told: list[str] = []
    agent = FakeAgent(DE, refusal=PeerUnreachableError("the task's origin does not answer"))
    async with agent.serving():
        agents = f"{agent.address},{other.address}"
        async with Client.connect(agents, token_file, environ={}, tell=told.append) as client:
            with pytest.raises(PeerUnreachableError, match="the task's origin"):
                await client.task(samples.task_named("1").task_id)
            assert (client.site_id, told) == (DE, [])


async def test_without_a_reader_the_line_is_logged(
    other: FakeAgent, token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agents = f"{NOWHERE},{other.address}"
    with caplog.at_level(logging.WARNING, logger="gcos.client"):
        async with Client.connect(agents, token_file, environ={}) as client:
            assert client.site_id == CAL
    assert caplog.messages == [
        f"the agent at {NOWHERE} does not answer; the one at {other.address} (site cal) does"
    ]


async def test_a_client_without_await_goes_on_at_the_next_agent_too(
    other: FakeAgent, token_file: Path
) -> None:
    loop, told = asyncio.get_running_loop(), list[str]()

    def site_of_the_answer() -> str:
        agents = f"{NOWHERE},{other.address}"
        connecting = SyncClient.connect(agents, token_file, environ={}, tell=told.append, loop=loop)
        with connecting as client:
            return client.site_id

    assert await asyncio.to_thread(site_of_the_answer) == CAL
    assert len(told) == 1


CLUSTER = LocalCluster(
    agents={DE: "127.0.0.1:2", CAL: "127.0.0.1:3"},
    broker="127.0.0.1:4",
    predictor="127.0.0.1:5",
    token_file="/run/token",
)


def test_an_agent_of_the_local_cluster_is_followed_by_the_others(tmp_path: Path) -> None:
    environ = {"GCOS_HOME": str(tmp_path), "GCOS_TOKEN_FILE": "/e"}
    write_cluster(CLUSTER, environ)
    assert discover(environ, "127.0.0.1:2").agents == ("127.0.0.1:2", "127.0.0.1:3")
    environ["GCOS_AGENT"] = "127.0.0.1:2"
    assert discover(environ).agents == ("127.0.0.1:2", "127.0.0.1:3")
    assert discover(environ, "127.0.0.1:9").agents == ("127.0.0.1:9",)


def test_a_damaged_cluster_file_does_not_matter_where_all_was_given(tmp_path: Path) -> None:
    (tmp_path / CLUSTER_FILE).write_text("{")
    environ = {"GCOS_HOME": str(tmp_path)}
    assert discover(environ, "127.0.0.1:9", Path("/t")).agents == ("127.0.0.1:9",)
    with pytest.raises(InvalidRequestError, match="is damaged"):
        discover(environ, "127.0.0.1:9")
