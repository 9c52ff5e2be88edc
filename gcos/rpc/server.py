"""A gRPC server of ours: bound, guarded, healthy while it runs, drained when it ends."""

import contextlib
import errno
import functools
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gcos.errors import WrongStateError
from gcos.logs import Log
from gcos.rpc.call_counts import CallCounts
from gcos.rpc.call_log import CallLogInterceptor
from gcos.rpc.channels import KEEPALIVE_S, MESSAGE_BYTES_MAX
from gcos.rpc.metrics_server import serving_metrics
from gcos.rpc.security import TokenInterceptor, require_loopback
from gcos.rpc.status import StatusInterceptor
from gcos.system import SystemClock

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CALL_COUNT_MAX: Final = 1000
"""Calls in progress, streams included; more are refused with RESOURCE_EXHAUSTED at once."""

GRACE_S: Final = 5.0
"""Protocol seconds that calls in progress have to end when the server stops."""

_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    # Else a second server shares the port silently, and calls go to either (LIMITS, traps).
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", int(KEEPALIVE_S * 1000)),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Clients ping every 20 s; a default server would send them away.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


class Health:
    """What the server's health service answers, for all its services at once."""

    def __init__(self, servicer: "health.aio.HealthServicer", names: Sequence[str]) -> None:
        self._servicer = servicer
        self._names = ("", *names)

    async def set_serving(self) -> None:
        """Answer SERVING."""
        await self._set(health_pb2.HealthCheckResponse.SERVING)

    async def set_not_serving(self) -> None:
        """Answer NOT_SERVING, as a process does that drains."""
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def set_part(self, name: str, is_serving: bool) -> None:
        """Answer for a part of the process that has a name of its own."""
        status = health_pb2.HealthCheckResponse
        await self._servicer.set(name, status.SERVING if is_serving else status.NOT_SERVING)

    async def _set(self, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        for name in self._names:
            await self._servicer.set(name, status)


class _Reflection(grpc.GenericRpcHandler):
    """The reflection service, imported with its first call: people ask it, and they can wait."""

    _NAME: Final = "grpc.reflection.v1alpha.ServerReflection"

    def __init__(self, names: Sequence[str]) -> None:
        self._names = (*names, self._NAME)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return what answers a call; None: it is of another service."""
        if not handler_call_details.method.startswith(f"/{self._NAME}/"):
            return None
        return self._service.service(handler_call_details)

    @functools.cached_property
    def _service(self) -> grpc.GenericRpcHandler:
        from grpc_reflection.v1alpha import reflection, reflection_pb2  # noqa: PLC0415

        info = grpc.stream_stream_rpc_method_handler(
            reflection.aio.ReflectionServicer(self._names).ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(self._NAME, {"ServerReflectionInfo": info})


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers.

    Attributes:
        server: For what is not covered here.
        address: `host:port` it is bound to, with the real port.
        health: What it says of itself; SERVING at first.
    """

    server: grpc.aio.Server
    address: str
    health: Health


@contextlib.asynccontextmanager
async def serving(
    address: str,
    *,
    register: Sequence[Callable[[grpc.aio.Server], None]],
    service_names: Sequence[str],
    token: str,
    log: Log,
    metrics_address: str = "",
    families: Callable[[], Iterable["Metric"]] = tuple,
    call_count_max: int = CALL_COUNT_MAX,
    grace_s: float = GRACE_S,
) -> AsyncIterator[Running]:
    """Serve at `address` until the block ends; then refuse new calls and drain.

    Health and reflection are served beside what `register` adds. Health says SERVING from the
    start, so whatever must be recovered first is recovered before.

    Args:
        address: `host:port` on loopback; port 0 takes a free one.
        register: Each adds a servicer to the server it is given.
        service_names: Full names of those services, for health and reflection.
        token: What callers must show.
        log: Gets one event for each call.
        metrics_address: `host:port` on loopback for metrics; empty: none are served.
        families: Reads metrics of the process, on the event loop; those of its calls join them.
        call_count_max: Calls in progress at most.
        grace_s: Protocol seconds for calls to end when the block ends.

    Raises:
        InvalidRequestError: An address is not on this machine.
        WrongStateError: An address is taken or cannot be bound.
    """
    require_loopback(address)
    counts = CallCounts() if metrics_address else None
    server = grpc.aio.server(
        interceptors=[
            CallLogInterceptor(log, SystemClock(), counts),
            StatusInterceptor(log),
            TokenInterceptor(token),
        ],
        options=_OPTIONS,
        maximum_concurrent_rpcs=call_count_max,
    )
    for add in register:
        add(server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    server.add_generic_rpc_handlers([_Reflection((*service_names, health.SERVICE_NAME))])
    port = _bound(server, address)
    running = Running(
        server,
        address=f"{address.rpartition(':')[0]}:{port}",
        health=Health(health_servicer, service_names),
    )
    async with contextlib.AsyncExitStack() as held:
        if counts is not None:
            joined = functools.partial(_joined, families, counts)
            bound = await held.enter_async_context(serving_metrics(metrics_address, joined))
            log.info("metrics_serving", address=bound, url=f"http://{bound}/metrics")
        await server.start()
        try:
            await running.health.set_serving()
            yield running
        finally:
            await health_servicer.enter_graceful_shutdown()
            await server.stop(grace_s)


def _joined(families: Callable[[], Iterable["Metric"]], counts: CallCounts) -> Iterator["Metric"]:
    yield from families()
    yield from counts.families()


def _bound(server: grpc.aio.Server, address: str) -> int:
    try:
        # grpc tells the reason only in a log line of its own, so the socket is asked first.
        _check_bindable(address)
        return server.add_insecure_port(address)
    except (OSError, RuntimeError) as exc:
        is_taken = isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE
        raise WrongStateError(
            f"{address} is taken" if is_taken else f"{address} cannot be bound: {exc}",
            hint="another process listens there; stop it or choose another port"
            if is_taken
            else "choose another address",
        ) from exc


def _check_bindable(address: str) -> None:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    family, kind, protocol, _, place = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[
        0
    ]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(place)
