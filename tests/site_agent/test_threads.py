import asyncio
import threading
from collections.abc import Callable

import pytest

from site_agent.threads import in_thread, interruptible


async def test_what_the_call_returns_or_raises_comes_back() -> None:
    assert await in_thread(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_wait_ends_only_when_the_thread_has(fails: bool) -> None:
    begun, may_end, has_ended = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        may_end.wait(10.0)
        has_ended.set()
        if fails:
            raise OSError("nobody hears this")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(in_thread(call))
        await in_thread(begun.wait)
        for _ in range(3):  # however often it is cancelled
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        may_end.set()
        await asyncio.wait([task])
        assert has_ended.is_set()
        assert task.cancelled()


async def test_a_long_call_is_told_to_stop() -> None:
    begun = threading.Event()
    count = 0

    def call(checkpoint: Callable[[], None]) -> None:
        nonlocal count
        begun.set()
        while True:
            checkpoint()
            count += 1

    async with asyncio.TaskGroup() as group:
        task = group.create_task(interruptible(call))
        await in_thread(begun.wait)
        task.cancel()
    assert task.cancelled()
