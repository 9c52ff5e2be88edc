"""How well a process keeps time that emulates or measures a link: its priority and its timers."""

import asyncio
import contextlib
import os
import select
import selectors
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

_NICENESS: Final = -10

_Result = TypeVar("_Result")
_Ready = list[tuple[selectors.SelectorKey, int]]


def keep_time() -> None:
    """Have this process go before others, as far as it may.

    Real-time priority halves how late a loaded machine is. Processes started by it do not have it.
    """
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


class FineSelector(selectors.DefaultSelector):
    """The system's selector, with time-outs in microseconds.

    Linux's epoll takes whole milliseconds, to which Python rounds up: a timer would fire up to one
    late, and the same timer always by the same part of it. Its descriptor is itself readable when
    something is ready, and select(2) waits for it in microseconds.
    """

    def select(self, timeout: float | None = None) -> _Ready:
        """Return what is ready, at the latest after `timeout` seconds; None: wait for it."""
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        select.select([self], [], [], timeout)
        return super().select(0)


def fine_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop whose timers are as fine as `FineSelector`."""
    return asyncio.SelectorEventLoop(FineSelector())


def run_fine(main: Coroutine[Any, Any, _Result]) -> _Result:
    """Run `main` as `asyncio.run` does, on a loop of `fine_loop`, and return its result."""
    with asyncio.Runner(loop_factory=fine_loop) as runner:
        return runner.run(main)
