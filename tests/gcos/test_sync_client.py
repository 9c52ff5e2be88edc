"""The client without `await`: mirrored to the last parameter, and at work against a fake agent.

Calls are made from a thread and run on the loop of the test, where the fake serves: two loops in
one process trip over each other in grpc.aio (LIMITS, traps). Clients with a loop of their own run
in the examples, each in a process.
"""

import asyncio
import collections.abc
import concurrent.futures
import contextlib
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import pytest

import gcos
from gcos.client import Client
from gcos.errors import PeerUnreachableError, UnknownTaskError, WrongStateError
from gcos.ids import TaskId
from gcos.sync_client import SyncClient, _loop_in_thread, _on
from gcos.tasks import TaskState
from testbed import samples
from testbed.fakes import FAKE_TOKEN, FakeAgent
from testbed.samples import DE

T = TypeVar("T")
DOCUMENT = b"apiVersion: gcos/v1\nkind: Task\nrun: echo hello\n"
METHODS = sorted(
    name
    for name, member in vars(Client).items()
    if not name.startswith("_") and inspect.isfunction(member)
)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(FAKE_TOKEN)
    return path


@pytest.fixture
async def agent() -> AsyncIterator[FakeAgent]:
    fake = FakeAgent(plan=samples.plan_of_two())
    async with fake.serving():
        yield fake


def public(cls: type) -> set[str]:
    return {name for name in vars(cls) if not name.startswith("_")}


def test_it_has_exactly_the_members_of_the_client() -> None:
    assert public(SyncClient) == public(Client)
    assert len(METHODS) > 10


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_that_of_the_client_in_all_but_its_await(name: str) -> None:
    there, here = getattr(Client, name), getattr(SyncClient, name)
    theirs, ours = inspect.signature(there), inspect.signature(here)
    assert list(ours.parameters.values()) == list(theirs.parameters.values())
    assert (here.__name__, here.__doc__) == (name, there.__doc__)
    if inspect.isasyncgenfunction(there):
        (item, _) = get_args(theirs.return_annotation)
        assert get_origin(ours.return_annotation) is collections.abc.Generator
        assert get_args(ours.return_annotation) == (item, None, None)
        assert inspect.isgeneratorfunction(inspect.unwrap(here, stop=lambda f: f is here))
    else:
        assert ours.return_annotation == theirs.return_annotation


def test_connect_takes_what_the_clients_takes_and_a_loop() -> None:
    ours = dict(inspect.signature(SyncClient.connect).parameters)
    assert ours.pop("loop").default is None
    assert ours == dict(inspect.signature(Client.connect).parameters)


def test_both_clients_are_exported() -> None:
    assert (gcos.Client, gcos.SyncClient) == (Client, SyncClient)
    assert {"Client", "SyncClient"} < set(gcos.__all__)


async def in_thread(agent: FakeAgent, token_file: Path, use: Callable[[SyncClient], T]) -> T:
    loop = asyncio.get_running_loop()

    def connected() -> T:
        with SyncClient.connect(agent.address, token_file, environ={}, loop=loop) as client:
            return use(client)

    return await asyncio.to_thread(connected)


async def test_a_task_is_submitted_and_waited_for(agent: FakeAgent, token_file: Path) -> None:
    def use(client: SyncClient) -> list[TaskState]:
        assert client.site_id == DE
        task = client.submit(DOCUMENT, request_id="night").task
        assert client.task(task.task_id) == task
        states = [client.cancel(task.task_id).task.state, client.wait(task.task_id).state]
        return states + [each.state for each in client.tasks().items]

    assert await in_thread(agent, token_file, use) == [TaskState.CANCELLED] * 3


async def test_streams_are_generators(agent: FakeAgent, token_file: Path) -> None:
    await agent.put(task := samples.ended(samples.task_named("1")))
    agent.log = (b"one", b"two")

    def use(client: SyncClient) -> tuple[list[bytes], list[TaskState]]:
        watched = [each.state for each in client.watch(task.task_id)]
        return list(client.log(task.task_id)), watched

    assert await in_thread(agent, token_file, use) == ([b"one", b"two"], [TaskState.SUCCEEDED])


async def test_a_stream_that_is_left_early_is_closed(agent: FakeAgent, token_file: Path) -> None:
    await agent.put(task := samples.task_named("1"))

    def use(client: SyncClient) -> Any:
        with contextlib.closing(client.watch(task.task_id)) as changes:
            assert next(changes) == task
        left_open = client.watch(task.task_id)
        next(left_open)
        return left_open

    left_open = await in_thread(agent, token_file, use)
    await asyncio.to_thread(left_open.close)  # after its client: nothing to call any more


async def test_errors_are_those_of_the_client(agent: FakeAgent, token_file: Path) -> None:
    def use(client: SyncClient) -> None:
        with pytest.raises(UnknownTaskError):
            client.task(TaskId("de-x"))
        with pytest.raises(UnknownTaskError):
            list(client.watch(TaskId("de-x")))

    await in_thread(agent, token_file, use)


async def test_nobody_at_the_address_is_an_error_of_connect(token_file: Path) -> None:
    with pytest.raises(PeerUnreachableError):
        await in_thread(FakeAgent(address="127.0.0.1:1"), token_file, lambda client: None)


async def test_a_closed_client_says_so(agent: FakeAgent, token_file: Path) -> None:
    client = await in_thread(agent, token_file, lambda client: client)
    with pytest.raises(WrongStateError, match="client is closed"):
        client.sites()


def test_the_loop_of_its_own_ends_with_its_block() -> None:
    with _loop_in_thread() as loop:
        assert asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "ran"), loop).result() == "ran"
        names = [thread.name for thread in threading.enumerate()]
        assert "gcos-client" in names
    assert loop.is_closed()
    assert "gcos-client" not in [thread.name for thread in threading.enumerate()]


async def test_the_loop_of_its_own_may_be_opened_where_one_runs_already() -> None:
    """Notebooks do that."""
    with _loop_in_thread() as loop:
        assert loop is not asyncio.get_running_loop()
    assert loop.is_closed()


async def test_an_interrupted_call_is_taken_back() -> None:
    """Whatever interrupts the caller, such as Ctrl-C, must not leave the call running."""
    begun, cancelled = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def endless() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    result = concurrent.futures.Future.result

    def interrupted(future: Any, timeout: float | None = None) -> Any:
        result(asyncio.run_coroutine_threadsafe(begun.wait(), loop))
        raise KeyboardInterrupt

    def call() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(concurrent.futures.Future, "result", interrupted)
            with pytest.raises(KeyboardInterrupt):
                _on(loop, endless())

    await asyncio.to_thread(call)
    await cancelled.wait()
