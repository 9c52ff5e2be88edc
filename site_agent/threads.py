"""Blocking work in threads, safe under cancellation."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from gcos.errors import WrongStateError

_ResultT = TypeVar("_ResultT")


async def in_thread(
    call: Callable[[], _ResultT],
    *,
    stop: threading.Event | None = None,
    executor: Executor | None = None,
) -> _ResultT:
    """Return what `call` returns in a thread of `executor`, or of the loop's own.

    A thread cannot be cancelled. So on cancellation this sets `stop`, for a call that looks at it,
    and waits for the call to end before it lets the cancellation go on: no thread ever writes to a
    file that was closed or removed meanwhile.
    """
    future = asyncio.get_running_loop().run_in_executor(executor, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if stop is not None:
            stop.set()
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # looked at, so that asyncio does not report it as lost
        raise


async def interruptible(call: Callable[[Callable[[], None]], _ResultT]) -> _ResultT:
    """Run a long call in a thread; it is handed a checkpoint, which raises on cancellation."""
    stop = threading.Event()

    def checkpoint() -> None:
        if stop.is_set():
            raise WrongStateError("stopped")

    return await in_thread(functools.partial(call, checkpoint), stop=stop)
