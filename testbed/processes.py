"""Makes independent calls, here or in processes of their own."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Final, TypeVar

from gcos.errors import GcosError, InvalidRequestError

_Made = TypeVar("_Made")
_Order = TypeVar("_Order")
_Result = TypeVar("_Result")

JOB_COUNT_MAX: Final = 256

#: What keeps numerical libraries to one thread in each process.
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def call_all(
    calls: Sequence[Callable[[], _Made]], *, job_count: int, tell: Callable[[_Made], None]
) -> list[_Made]:
    """Return what the calls return, in their order; an error or an interruption stops at once.

    Args:
        calls: Functions of modules with their arguments, so that processes find them by name.
        job_count: Processes; 1: this one.
        tell: Called with what each call returns, as it ends.

    Raises:
        GcosError: A call raised it, or a process died.
        InvalidRequestError: A number of processes out of range.
    """
    if not 1 <= job_count <= JOB_COUNT_MAX:
        raise InvalidRequestError(
            f"{job_count} jobs: 1 to {JOB_COUNT_MAX} can be",
            field="jobs",
            hint="one for each core of the machine",
        )
    if job_count > 1:
        return _in_processes(calls, job_count, tell)
    made = []
    for call in calls:
        made.append(call())
        tell(made[-1])
    return made


def _in_processes(
    calls: Sequence[Callable[[], _Made]], job_count: int, tell: Callable[[_Made], None]
) -> list[_Made]:
    others = set(multiprocessing.active_children())
    # Started afresh: a forked child would inherit threads and locks half way.
    context = multiprocessing.get_context("spawn")
    with (
        _one_thread_each(),
        ProcessPoolExecutor(job_count, context, initializer=_follow_parent) as pool,
    ):
        futures = [pool.submit(call) for call in calls]
        try:
            for future in as_completed(futures):
                tell(future.result())
        except BrokenProcessPool as exc:
            raise GcosError(
                "a process died in the middle of a run, maybe for want of memory",
                hint="try again with fewer --jobs; runs kept by --out are not made again",
            ) from exc
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            raise
        return [future.result() for future in futures]


class Workers:
    """Processes that stay, each with one thread: what it has made ready for a place, it keeps.

    Args:
        job_count: Processes; with one, everything is done in this process.
    """

    def __init__(self, job_count: int) -> None:
        self._job_count = job_count
        self._pools: list[ProcessPoolExecutor] = []

    def __enter__(self) -> "Workers":
        """Get ready; the processes start with their first order."""
        if self._job_count > 1:
            context = multiprocessing.get_context("spawn")
            self._pools = [
                ProcessPoolExecutor(1, context, initializer=_follow_parent)
                for _ in range(self._job_count)
            ]
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, once each has ended what it was at."""
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)
        self._pools = []

    def map(
        self,
        function: Callable[[_Order], _Result],
        orders: Sequence[_Order],
        *,
        places: Sequence[int],
    ) -> list[_Result]:
        """Return what the function makes of each order, in their order.

        Args:
            function: One of a module, so that processes find it by name.
            orders: What to call it with.
            places: Of each order; the same place is always served by the same process.

        Raises:
            GcosError: A process died; or what the function raised.
        """
        if not self._pools:
            return [function(order) for order in orders]
        with _one_thread_each():
            futures = [
                self._pools[place % len(self._pools)].submit(function, order)
                for order, place in zip(orders, places, strict=True)
            ]
        try:
            return [future.result() for future in futures]
        except BrokenProcessPool as exc:
            raise GcosError(
                "a process died in the middle of a run, maybe for want of memory",
                hint="try again with fewer --jobs",
            ) from exc


def _follow_parent() -> None:
    """Leave interrupts to the parent, and end with it.

    Ctrl-C reaches all processes of a terminal; the parent alone acts, and ends the others. One that
    is killed cannot: its children would wait for ever for the next order.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a child"
    parent.join()
    os._exit(1)  # not sys.exit: the run goes on in the main thread


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that start in the block compute with one thread; numpy reads this once."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
