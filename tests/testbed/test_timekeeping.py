"""Timers of the loop that emulates links; how late they are, `gcos testbed self-test` measures."""

import asyncio
import selectors
import socket
from collections.abc import Iterator

import pytest

from testbed import timekeeping
from testbed.timekeeping import FineSelector, run_fine


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


@pytest.mark.parametrize("timeout_s", [None, 60.0, 0.0])
def test_what_is_ready_is_returned_whatever_the_time_out(
    ends: tuple[socket.socket, socket.socket], timeout_s: float | None
) -> None:
    near, far = ends
    with FineSelector() as selector:
        key = selector.register(far, selectors.EVENT_READ)
        near.send(b"1")
        assert selector.select(timeout_s) == [(key, selectors.EVENT_READ)]


def test_nothing_is_ready_after_the_time_out(ends: tuple[socket.socket, socket.socket]) -> None:
    with FineSelector() as selector:
        selector.register(ends[1], selectors.EVENT_READ)
        assert selector.select(0.0001) == []
        assert selector.select(0) == []


def test_a_time_out_is_not_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    waited_s: list[float] = []
    monkeypatch.setattr(timekeeping.select, "select", lambda *given: waited_s.append(given[3]))
    with FineSelector() as selector:
        selector.select(0.0403)
    assert waited_s == [0.0403]


def test_a_loop_runs_with_it() -> None:
    async def main() -> str:
        await asyncio.sleep(0.0001)
        async with asyncio.timeout(60.0):
            return await asyncio.to_thread(str, 7)

    assert run_fine(main()) == "7"
