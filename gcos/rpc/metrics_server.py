"""Serves metrics over HTTP, for Prometheus: on a thread of its own, read on the event loop.

The state of an agent changes on its event loop alone, so each scrape is read there; a loop that
does not come to it in time fails the scrape, which is worth knowing.
"""

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Final

from gcos.errors import WrongStateError
from gcos.rpc.security import require_loopback

if TYPE_CHECKING:
    from prometheus_client.core import Metric

FIELD: Final = "metrics_address"
#: Protocol seconds that reading all metrics may take; Prometheus waits 10 s by default.
READ_S: Final = 5.0


@contextlib.asynccontextmanager
async def serving_metrics(
    address: str, families: "Callable[[], Iterable[Metric]]"
) -> AsyncIterator[str]:
    """Serve until the block ends; yields the address, with the real port.

    Args:
        address: `host:port` on loopback; port 0 takes a free one.
        families: Reads all metrics; called on the event loop.

    Raises:
        InvalidRequestError: The address is not on this machine.
        WrongStateError: It is taken, or cannot be bound.
    """
    import prometheus_client  # noqa: PLC0415  only with metrics on

    require_loopback(address, field=FIELD)
    host, _, port = address.rpartition(":")
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=registry)
    prometheus_client.PlatformCollector(registry=registry)
    registry.register(_OnLoop(asyncio.get_running_loop(), families))
    try:
        server, thread = await asyncio.to_thread(
            prometheus_client.start_http_server, int(port), host.strip("[]"), registry
        )
    except OSError as exc:
        is_taken = exc.errno == errno.EADDRINUSE
        raise WrongStateError(
            f"{FIELD}: {address} is taken"
            if is_taken
            else f"{FIELD}: {address} cannot be bound: {exc.strerror}",
            hint="another process listens there; stop it or choose another port"
            if is_taken
            else "choose another address",
        ) from exc
    try:
        yield f"{host}:{server.server_port}"
    finally:
        await asyncio.to_thread(server.shutdown)
        await asyncio.to_thread(thread.join)
        server.server_close()


class _OnLoop:
    """A collector whose metrics are read on an event loop, for a registry that is not."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, families: "Callable[[], Iterable[Metric]]"
    ) -> None:
        self._loop = loop
        self._families = families

    def describe(self) -> "Iterable[Metric]":
        """Return nothing: else the registry would read all metrics to learn their names."""
        return []

    def collect(self) -> "Iterable[Metric]":
        """Return all metrics."""

        async def read() -> "list[Metric]":
            return list(self._families())

        return asyncio.run_coroutine_threadsafe(read(), self._loop).result(READ_S)
