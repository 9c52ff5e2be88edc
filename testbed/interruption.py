"""Ctrl-C, SIGTERM and SIGHUP while something is made that must be removed again, whole."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_Handle = Callable[[int, FrameType | None], None]


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Have the first of these signals raise KeyboardInterrupt in the block, and no other one.

    So what is removed upon the first is not left half by a second, which people send who wait. The
    exception has the signal's number, with which it can be raised again.
    """

    def first(number: int, _frame: FrameType | None) -> None:
        for each in _SIGNALS:
            if signal.getsignal(each) is first:
                signal.signal(each, _ignored)
        raise KeyboardInterrupt(number)

    with _handling(first):
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold these signals back until the block, which removes what was made, is done.

    Where it ends well, the first of them is raised again then.
    """
    held: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    with _handling(hold):
        yield
    if held:
        signal.raise_signal(held[0])


def _ignored(_number: int, _frame: FrameType | None) -> None:
    """Do nothing; unlike SIG_IGN, processes that are started do not inherit it."""


@contextlib.contextmanager
def _handling(handle: _Handle) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread alone
        return
    # Who started us with nohup wants us to go on; what was not installed from Python (None) cannot
    # be put back.
    found = {each: signal.getsignal(each) for each in _SIGNALS}
    before = {each: it for each, it in found.items() if it not in {signal.SIG_IGN, None}}
    for each in before:
        signal.signal(each, handle)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
