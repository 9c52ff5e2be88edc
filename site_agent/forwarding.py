"""Any agent answers for any task: calls about another origin's task are passed on to it.

The task id names its origin. A call that was passed on is never passed on again.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc.aio

from gcos.errors import UnknownTaskError
from gcos.ids import SiteId, TaskId, is_site_id, origin_of
from gcos.rpc.channels import CALL_TIMEOUT_S, Channels
from gcos.rpc.status import translated
from gcos.v1 import tasks_pb2_grpc
from site_agent.runner import Runner

FORWARDED_KEY = "gcos-forwarded"

Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request")
Response = TypeVar("Response")


def origin_address(runner: Runner, task_id: str, context: Context) -> str | None:
    """Return the address of the task's origin; None where this agent is it.

    Raises:
        UnknownTaskError: The id names no known site, or the call was passed on already.
    """
    own = runner.participant.site.site_id
    origin = origin_of(TaskId(task_id))
    if origin == own:
        return None
    was_forwarded = FORWARDED_KEY in dict(context.invocation_metadata() or ())
    if was_forwarded or not is_site_id(origin) or origin not in runner.known:
        raise UnknownTaskError(
            f"no task {task_id[:64]} is known here", hint="list tasks with: gcos queue --all"
        )
    return runner.address_of(SiteId(origin))


def remaining_s(context: Context) -> float:
    """Return what is left of the caller's deadline, or the usual limit of a call."""
    left = context.time_remaining()
    return CALL_TIMEOUT_S if left is None else max(0.0, min(left, CALL_TIMEOUT_S))


def _translated(request: Any) -> contextlib.AbstractContextManager[None]:
    return translated(f"site {origin_of(TaskId(request.task_id))}, the task's origin,")


class Forwarder:
    """Passes calls on to origins."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    def stub(self, address: str) -> "tasks_pb2_grpc.TaskServiceAsyncStub":
        """Return the client's face of the agent at `address`."""
        return tasks_pb2_grpc.TaskServiceStub(self._channels.get(address))

    async def unary(
        self, call: Callable[..., Any], request: Request, context: Context, answer: type[Response]
    ) -> Response:
        """Pass a call on and return its answer."""
        with _translated(request):
            response = await call(
                request, timeout=remaining_s(context), metadata=((FORWARDED_KEY, "1"),)
            )
        assert isinstance(response, answer)
        return response

    async def stream(
        self, call: Callable[..., Any], request: Request, context: Context
    ) -> AsyncIterator[Any]:
        """Pass a streaming call on and yield its answers."""
        with _translated(request):
            async for response in call(
                request, timeout=context.time_remaining(), metadata=((FORWARDED_KEY, "1"),)
            ):
                yield response
