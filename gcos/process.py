"""Runs the asynchronous main of a long-lived process: signals in, exit code out."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

from gcos.errors import GcosError
from gcos.exception_groups import sole_error

EXIT_OK: Final = 0
EXIT_REFUSED: Final = 2
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def run_until_signalled(
    main: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
    *,
    process: str,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """Run `main(stopping)` to its end on an event loop of its own and return the exit code.

    The first SIGTERM or SIGINT sets the event `stopping`, upon which `main` drains and returns. A
    second one cancels `main`. A `GcosError`, alone or in a group of one, becomes one line on
    stderr, which names the setting at fault; any other error propagates.

        def run() -> None:
            async def main(stopping: asyncio.Event) -> None:
                async with serving(...) as running:
                    await stopping.wait()
                    await running.health.set_not_serving()

            raise typer.Exit(run_until_signalled(main, process="broker"))

    Args:
        main: Coroutine function of the process.
        process: What the process is, such as `broker`; begins the line on stderr.
        loop_factory: Makes the event loop; None: the one that Python makes.

    Returns:
        0: `main` returned, or was cancelled by a second signal. 2: a `GcosError`.
    """
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(_main_with_signals(main))
    except asyncio.CancelledError:
        return EXIT_OK
    except BaseException as exc:
        error = sole_error(exc)
        if not isinstance(error, GcosError):
            raise
        # What is wrong with a setting is often said without its name: "must be above 0 seconds".
        where = f"{error.field}: " if error.field and error.field not in error.message else ""
        sys.stderr.write(f"gcos {process}: {where}{' '.join(str(error).split())}\n")
        return EXIT_REFUSED
    return EXIT_OK


async def _main_with_signals(main: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None, "runs in a task"

    def on_signal() -> None:
        if stopping.is_set():
            task.cancel()
        stopping.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        await main(stopping)
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
