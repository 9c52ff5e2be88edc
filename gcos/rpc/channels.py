"""Channels to peers: one for each address, kept, with the token on every call."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self, cast

import grpc
import grpc.aio

from gcos.rpc.security import AUTHORIZATION_KEY, require_loopback

CALL_TIMEOUT_S: Final = 5.0
"""Of a unary call that states none: a peer that accepts and never answers must not hold us."""

MESSAGE_BYTES_MAX: Final = 4 << 20
BULK_COUNT_MAX: Final = 8
"""TCP connections to one peer for bulk transfer (LIMITS 2d: 4 to 8 fill a long link)."""

KEEPALIVE_S: Final = 20.0
_RECONNECT_S_MAX: Final = 1.0

_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", int(KEEPALIVE_S * 1000)),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # grpc waits up to two minutes by default before it dials a restarted peer again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", int(_RECONNECT_S_MAX * 1000)),
    # A proxy from the environment would see the token.
    ("grpc.enable_http_proxy", 0),
)


class Channels:
    """Keeps channels until the block ends. They connect at their first call.

    Args:
        token: Secret of the cluster.
        routes: What to dial in place of an address: the near end of a tunnel or of a relay.
    """

    def __init__(self, token: str, routes: Mapping[str, str] | None = None) -> None:
        self._routes = routes or {}
        self._metadata = ((AUTHORIZATION_KEY, f"Bearer {token}"),)
        self._channels: dict[tuple[str, int | None], grpc.aio.Channel] = {}

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close every channel; calls under way are cancelled."""
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()

    def get(self, address: str) -> grpc.aio.Channel:
        """Return the channel to the peer at `address`, `host:port`.

        Raises:
            InvalidRequestError: The address is not on this machine.
        """
        return self._kept(address, None)

    def bulk(self, address: str, index: int) -> grpc.aio.Channel:
        """Return the channel number `index`, from 0, to `address`: a TCP connection of its own.

        Raises:
            InvalidRequestError: The address is not on this machine.
        """
        assert 0 <= index < BULK_COUNT_MAX, "more bulk connections than allowed"
        return self._kept(address, index)

    def _kept(self, address: str, index: int | None) -> grpc.aio.Channel:
        channel = self._channels.get((address, index))
        if channel is None:
            dialled = self._routes.get(address, address)
            require_loopback(dialled)
            options = list(_OPTIONS)
            if index is not None:
                options.append(("grpc.use_local_subchannel_pool", 1))
            channel = _TokenChannel(grpc.aio.insecure_channel(dialled, options), self._metadata)
            self._channels[address, index] = channel
        return channel


class _TokenChannel(grpc.aio.Channel):
    """A channel that adds metadata to each call.

    Interceptors would do the same but make a task for each call; call credentials are refused by
    channels without encryption.
    """

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self._channel = channel
        self._metadata = metadata
        #: By method and serialisers, so that a stub may be made for each call.
        self._callables: dict[tuple[object, ...], _TokenCallable] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self._channel.close()

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._callable(self._channel.unary_unary, args, kwargs, CALL_TIMEOUT_S)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._callable(self._channel.stream_unary, args, kwargs, None)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._callable(self._channel.unary_stream, args, kwargs, None)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._callable(self._channel.stream_stream, args, kwargs, None)

    def _callable(
        self,
        make: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout_s: float | None,
    ) -> "_TokenCallable":
        key = (args, *sorted(kwargs.items()))
        found = self._callables.get(key)
        if found is None:
            found = _TokenCallable(make(*args, **kwargs), self._metadata, timeout_s)
            self._callables[key] = found
        return found


class _TokenCallable:
    """A method of a stub."""

    __slots__ = ("_call", "_metadata", "_timeout_s")

    def __init__(
        self, call: object, metadata: tuple[tuple[str, str], ...], timeout_s: float | None
    ) -> None:
        self._call = cast(Any, call)
        self._metadata = metadata
        self._timeout_s = timeout_s

    def __call__(
        self,
        *request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        **options: Any,
    ) -> Any:
        return self._call(
            *request,
            timeout=self._timeout_s if timeout is None else timeout,
            metadata=self._metadata if metadata is None else (*metadata, *self._metadata),
            **options,
        )
