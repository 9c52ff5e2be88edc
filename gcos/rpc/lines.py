"""Announcements and awards over one long call to each peer: a *line*.

    origin  ── NegotiateRequest(call_id, ...) ──▶  participant
            ◀── NegotiateResponse(call_id, ...) ──  in whatever order answers come

A unary call makes and ends a call at both ends for one message each way, and wakes more threads:
over a line the same question took half the time (0.13 ms instead of 0.29 ms where both ends were
busy, 0.6 instead of 1.1 ms after 40 ms of rest). What can happen to a call can happen to each
question: it is answered, with an error perhaps, or not in time, or nobody is there.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import grpc
import grpc.aio

from gcos.errors import GcosError, PeerUnreachableError
from gcos.rpc.interception import Context
from gcos.rpc.status import error_of, problem_of
from gcos.v1.site_pb2 import NegotiateRequest, NegotiateResponse

#: Lines that one process keeps to others; the one that was not used for longest is given up first.
LINE_COUNT_MAX: Final = 64
#: Questions of one line that are worked on at once; more wait in the connection.
QUESTION_COUNT_MAX: Final = 64

Stream: TypeAlias = "grpc.aio.StreamStreamCall[NegotiateRequest, NegotiateResponse]"
Open: TypeAlias = Callable[[str], Stream]
Respond: TypeAlias = Callable[[NegotiateRequest], NegotiateResponse | Awaitable[NegotiateResponse]]
"""Answers at once, or later."""


class Lines:
    """The lines of one process to its peers, each opened with its first question and kept.

    Args:
        group: Where lines are listened to, until `close`.
        open_: Opens the long call to an address.
    """

    def __init__(self, group: asyncio.TaskGroup, open_: Open) -> None:
        self._group = group
        self._open = open_
        #: The one used last is the last.
        self._lines: dict[str, _Line] = {}
        self._listening: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def ask(
        self, address: str, request: NegotiateRequest, *, timeout_s: float
    ) -> NegotiateResponse:
        """Return the answer to a request, whose `call_id` is set here.

        Raises:
            PeerUnreachableError: The peer did not answer, or not in time.
            GcosError: What the peer answered.
        """
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._line(address).ask(request)
        except (TimeoutError, _LineEndedError) as exc:
            raise PeerUnreachableError(
                f"{address} does not answer", hint="check that it runs and can be reached"
            ) from exc
        if answer.HasField("problem"):
            raise error_of(answer.problem)
        return answer

    def close(self) -> None:
        """Hang up; questions that are not answered get no answer, nor do those that follow."""
        self._is_closed = True
        for task in self._listening:
            task.cancel()

    def _line(self, address: str) -> "_Line":
        if self._is_closed:
            raise _LineEndedError  # nobody would end another line
        line = self._lines.pop(address, None)
        if line is not None and not line.is_open:
            line.hang_up()
            line = None
        if line is None:
            line = _Line(self._open(address))
            line.listening = self._group.create_task(line.listen(), name=f"line to {address}")
            self._listening.add(line.listening)
            line.listening.add_done_callback(self._listening.discard)
        self._lines[address] = line
        self._give_up_one()
        return line

    def _give_up_one(self) -> None:
        """Hang up the line that has rested longest, where there are too many."""
        if len(self._lines) <= LINE_COUNT_MAX:
            return
        *others, _ = self._lines
        resting = next((each for each in others if not self._lines[each].is_waiting), None)
        if resting is not None:
            self._lines.pop(resting).hang_up()


class _LineEndedError(Exception):
    """The peer is gone, or was never there."""


class _Line:
    """One long call, seen from who asks."""

    def __init__(self, stream: Stream) -> None:
        self.listening: asyncio.Task[None] | None = None
        self._stream = stream
        #: Answers to come; None: there will be none.
        self._waiting: dict[str, asyncio.Future[NegotiateResponse | None]] = {}
        self._count = 0
        #: Questions without an answer yet, those included that nobody waits for any more. Their
        #: ids, since a peer may answer what it was not asked, or twice.
        self._unanswered: set[str] = set()
        self._has_asked = asyncio.Event()
        # A call takes one message at a time.
        self._writing = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Neither end has hung up."""
        return not self._stream.done()

    @property
    def is_waiting(self) -> bool:
        """A question is not answered yet."""
        return bool(self._waiting)

    async def ask(self, request: NegotiateRequest) -> NegotiateResponse:
        """Return the answer.

        Raises:
            _LineEndedError: There will be none.
        """
        self._count += 1
        request.call_id = str(self._count)
        coming: asyncio.Future[NegotiateResponse | None]
        coming = asyncio.get_running_loop().create_future()
        self._waiting[request.call_id] = coming
        try:
            async with self._writing:
                self._unanswered.add(request.call_id)
                self._has_asked.set()
                await self._stream.write(request)
            answer = await coming
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as exc:
            raise _LineEndedError from exc
        finally:
            del self._waiting[request.call_id]
        if answer is None:
            raise _LineEndedError
        return answer

    async def listen(self) -> None:
        """Hand out answers until the line ends."""
        try:
            while isinstance(response := await self._next(), NegotiateResponse):
                self._unanswered.discard(response.call_id)
                waiting = self._waiting.get(response.call_id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(response)
        except grpc.aio.AioRpcError:
            pass  # whoever asks is told
        finally:
            self._stream.cancel()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_result(None)

    async def _next(self) -> object:
        """Return the next answer, or what is no answer where the line has ended.

        Reading begins while a question flies: begun right after an answer, it would delay whoever
        waits for that.
        """
        if not self._unanswered:
            self._has_asked.clear()
            await self._has_asked.wait()
        return await self._stream.read()

    def hang_up(self) -> None:
        """End the line."""
        if self.listening is not None:
            self.listening.cancel()


class Answering:
    """Answers the lines of others until it hangs up."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self._is_over = asyncio.Event()

    def hang_up(self) -> None:
        """End all lines: a server that stops would wait for them."""
        self._is_over.set()

    async def serve(self, context: Context) -> None:
        """Answer one line until either end is done with it."""
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self._read(context))
            over = group.create_task(self._is_over.wait())
            await asyncio.wait({reading, over}, return_when=asyncio.FIRST_COMPLETED)
            reading.cancel()
            over.cancel()

    async def _read(self, context: Context) -> None:
        writing = asyncio.Lock()  # a call takes one message at a time
        places = asyncio.Semaphore(QUESTION_COUNT_MAX)

        async def write(call_id: str, response: NegotiateResponse) -> None:
            response.call_id = call_id
            async with writing:
                await context.write(response)

        async def write_later(call_id: str, pending: Awaitable[NegotiateResponse]) -> None:
            try:
                try:
                    response = await pending
                except GcosError as exc:
                    response = NegotiateResponse(problem=problem_of(exc))
                await write(call_id, response)
            finally:
                places.release()

        async with asyncio.TaskGroup() as group:
            while isinstance(request := await context.read(), NegotiateRequest):
                await places.acquire()
                try:
                    answer = self._respond(request)
                except GcosError as exc:
                    answer = NegotiateResponse(problem=problem_of(exc))
                if isinstance(answer, NegotiateResponse):
                    # Here, as every other task costs a turn of the loop.
                    places.release()
                    await write(request.call_id, answer)
                else:
                    group.create_task(write_later(request.call_id, answer))
