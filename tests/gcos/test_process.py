"""What a long-lived process does with signals and errors."""

import asyncio
import os
import signal

import pytest

from gcos.errors import InvalidRequestError, WrongStateError
from gcos.process import run_until_signalled

HANG_S = 60.0
"""A test that waits longer than this has failed; none depends on how long anything takes."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_sets_the_event_and_the_process_drains(number: int) -> None:
    steps: list[str] = []

    async def main(stopping: asyncio.Event) -> None:
        os.kill(os.getpid(), number)
        async with asyncio.timeout(HANG_S):
            await stopping.wait()
        steps.append("drained")

    assert run_until_signalled(main, process="broker") == 0
    assert steps == ["drained"]


def test_the_process_runs_on_the_loop_that_is_asked_for() -> None:
    made: list[asyncio.AbstractEventLoop] = []
    ran: list[asyncio.AbstractEventLoop] = []

    def factory() -> asyncio.AbstractEventLoop:
        made.append(asyncio.new_event_loop())
        return made[-1]

    async def main(stopping: asyncio.Event) -> None:
        ran.append(asyncio.get_running_loop())

    assert run_until_signalled(main, process="wan", loop_factory=factory) == 0
    assert ran == made


def test_a_second_signal_cancels_the_drain() -> None:
    steps: list[str] = []

    async def main(stopping: asyncio.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await stopping.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("cancelled")

    assert run_until_signalled(main, process="broker") == 0
    assert steps == ["cancelled"]


def test_the_line_names_the_setting_at_fault_once(capsys: pytest.CaptureFixture[str]) -> None:
    async def refuse(message: str) -> None:
        raise InvalidRequestError(message, field="beat_s")

    for message in ("must be above 0 seconds", "beat_s is no number"):
        run_until_signalled(lambda _, m=message: refuse(m), process="agent")
    assert capsys.readouterr().err.splitlines() == [
        "gcos agent: beat_s: must be above 0 seconds",
        "gcos agent: beat_s is no number",
    ]


def test_our_errors_become_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    async def main(stopping: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(failing())

    async def failing() -> None:
        raise WrongStateError("it is\ntaken", hint="stop the other")

    assert run_until_signalled(main, process="broker") == 2
    assert capsys.readouterr().err == "gcos broker: it is taken (stop the other)\n"


def test_other_errors_propagate() -> None:
    async def main(stopping: asyncio.Event) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_until_signalled(main, process="broker")
