"""Questions over one long call: answered each for itself, and none is waited for in vain."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import grpc.aio
import pytest
import structlog

from gcos.errors import GcosError, PeerUnreachableError, QueueFullError
from gcos.rpc import lines
from gcos.rpc.channels import Channels
from gcos.rpc.interception import Context
from gcos.rpc.lines import Answering, Lines
from gcos.rpc.server import Running, serving
from gcos.v1 import site_pb2, site_pb2_grpc

TOKEN = "a-token-for-tests-only"
WAIT_S = 20.0


def announcing(task_id: str) -> site_pb2.NegotiateRequest:
    announced = site_pb2.Announcement(task_id=task_id)
    return site_pb2.NegotiateRequest(announce=site_pb2.AnnounceRequest(announcements=[announced]))


@dataclass
class Peer(site_pb2_grpc.SiteServiceServicer):
    """Refuses each task with its id, at once but for `slow`, which waits for `is_due`.

    `wrong` is an error, `wrong later` one that is not known at once.
    """

    is_due: asyncio.Event = field(default_factory=asyncio.Event)
    line_count: int = 0
    has_slow: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.answering = Answering(self.answer)

    async def Negotiate(  # type: ignore[override]
        self, requests: AsyncIterator[site_pb2.NegotiateRequest], context: Context
    ) -> None:
        del requests
        self.line_count += 1
        await self.answering.serve(context)

    def answer(
        self, request: site_pb2.NegotiateRequest
    ) -> site_pb2.NegotiateResponse | Awaitable[site_pb2.NegotiateResponse]:
        task_id = request.announce.announcements[0].task_id
        if task_id in ("slow", "wrong later"):
            return self.later(task_id)
        return self.now(task_id)

    async def later(self, task_id: str) -> site_pb2.NegotiateResponse:
        if task_id == "slow":
            self.has_slow.set()
            await self.is_due.wait()
        return self.now(task_id)

    def now(self, task_id: str) -> site_pb2.NegotiateResponse:
        if task_id.startswith("wrong"):
            raise QueueFullError("is full", hint="wait", field="announce")
        answer = site_pb2.AnnounceAnswer()
        answer.refusal.message = task_id
        return site_pb2.NegotiateResponse(announce=site_pb2.AnnounceResponse(answers=[answer]))


class Twice(Peer):
    """Sends each answer twice."""

    async def Negotiate(  # type: ignore[override]
        self, requests: AsyncIterator[site_pb2.NegotiateRequest], context: Context
    ) -> None:
        async for request in requests:
            answer = self.now(request.announce.announcements[0].task_id)
            answer.call_id = request.call_id
            for _ in range(2):
                await context.write(answer)


@asynccontextmanager
async def served(peer: Peer) -> AsyncIterator[Running]:
    async with serving(
        "127.0.0.1:0",
        register=(lambda server: site_pb2_grpc.add_SiteServiceServicer_to_server(peer, server),),
        service_names=("gcos.v1.SiteService",),
        token=TOKEN,
        log=structlog.get_logger(),
    ) as running:
        yield running
        peer.answering.hang_up()


@asynccontextmanager
async def asking() -> AsyncIterator[Lines]:
    async with Channels(TOKEN) as channels, asyncio.TaskGroup() as group:
        kept = Lines(group, lambda at: site_pb2_grpc.SiteServiceStub(channels.get(at)).Negotiate())
        try:
            yield kept
        finally:
            kept.close()


async def told(kept: Lines, address: str, task_id: str) -> str:
    answer = await kept.ask(address, announcing(task_id), timeout_s=WAIT_S)
    return answer.announce.answers[0].refusal.message


async def test_questions_share_one_call_and_a_slow_one_holds_up_none() -> None:
    peer = Peer()
    async with served(peer) as running, asking() as kept, asyncio.TaskGroup() as group:
        slow = group.create_task(told(kept, running.address, "slow"))
        await peer.has_slow.wait()
        assert [await told(kept, running.address, each) for each in "abc"] == ["a", "b", "c"]
        assert not slow.done()
        peer.is_due.set()
        assert await slow == "slow"
        assert peer.line_count == 1


@pytest.mark.parametrize("wrong", ["wrong", "wrong later"])
async def test_an_error_is_told_as_a_call_of_its_own_would_tell_it(wrong: str) -> None:
    async with served(Peer()) as running, asking() as kept:
        with pytest.raises(QueueFullError) as caught:
            await told(kept, running.address, wrong)
        assert (caught.value.field, caught.value.hint) == ("announce", "wait")
        assert await told(kept, running.address, "a") == "a", "the line goes on"


async def test_an_answer_that_is_late_is_dropped_and_the_line_goes_on() -> None:
    peer = Peer()
    async with served(peer) as running, asking() as kept:
        with pytest.raises(PeerUnreachableError):
            await kept.ask(running.address, announcing("slow"), timeout_s=0.0)
        await told(kept, running.address, "a")
        peer.is_due.set()
        assert await told(kept, running.address, "b") == "b"


async def test_an_answer_that_nobody_asked_for_keeps_none_from_being_heard() -> None:
    async with served(Twice()) as running, asking() as kept:
        assert [await told(kept, running.address, each) for each in "abc"] == ["a", "b", "c"]


async def test_a_peer_that_stops_ends_its_lines_and_is_asked_anew_when_it_is_back() -> None:
    peer = Peer()
    async with asking() as kept:
        async with served(peer) as running, asyncio.TaskGroup() as group:
            lost = group.create_task(problem_of(kept, running.address, "slow"))
            await peer.has_slow.wait()
            peer.answering.hang_up()
            assert isinstance(await lost, PeerUnreachableError)
        assert isinstance(await problem_of(kept, running.address, "a"), PeerUnreachableError)
        again = Peer()
        async with served(again) as other:
            assert await told(kept, other.address, "a") == "a"


async def test_a_line_that_ended_at_rest_is_opened_anew_by_the_next_question() -> None:
    peer = Peer()
    async with served(peer) as running, asking() as kept:
        await told(kept, running.address, "a")
        peer.answering.hang_up()
        peer.answering = Answering(peer.answer)
        async with asyncio.timeout(WAIT_S):
            while kept._lines[running.address].is_open:
                await asyncio.sleep(0.01)
        assert await told(kept, running.address, "b") == "b"
        assert peer.line_count == 2


async def problem_of(kept: Lines, address: str, task_id: str) -> GcosError | None:
    try:
        await told(kept, address, task_id)
    except GcosError as exc:
        return exc
    return None


async def test_the_line_that_rested_longest_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines, "LINE_COUNT_MAX", 1)
    first, second = Peer(), Peer()
    async with served(first) as one, served(second) as two, asking() as kept:
        for address in (one.address, two.address, two.address, one.address):
            await told(kept, address, "a")
    assert (first.line_count, second.line_count) == (2, 1)


async def test_whoever_waits_hears_when_the_asker_hangs_up() -> None:
    peer = Peer()
    async with served(peer) as running, asyncio.TaskGroup() as group:
        async with asking() as kept:
            lost = group.create_task(problem_of(kept, running.address, "slow"))
            await peer.has_slow.wait()
        assert isinstance(await lost, PeerUnreachableError)


class Broken:
    """A call that ends, and fails to send, while a question is sent."""

    def __init__(self) -> None:
        self._is_over = asyncio.Event()

    async def read(self) -> object:
        await self._is_over.wait()
        return grpc.aio.EOF

    async def write(self, request: site_pb2.NegotiateRequest) -> None:
        self._is_over.set()
        for _ in range(3):  # who listens is told first
            await asyncio.sleep(0)
        raise asyncio.InvalidStateError

    def done(self) -> bool:
        return self._is_over.is_set()

    def cancel(self) -> None:
        pass


async def test_a_question_that_could_not_be_sent_leaves_no_error_behind() -> None:
    lost: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: lost.append(context))
    async with asyncio.TaskGroup() as group:
        kept = Lines(group, lambda _: cast(Any, Broken()))
        assert isinstance(await problem_of(kept, "127.0.0.1:1", "a"), PeerUnreachableError)
    gc.collect()
    assert lost == []


async def test_nobody_is_asked_over_lines_that_are_closed() -> None:
    async with served(Peer()) as running, asking() as kept:
        kept.close()
        assert isinstance(await problem_of(kept, running.address, "a"), PeerUnreachableError)
