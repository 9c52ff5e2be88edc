"""An emulated wide-area link for TCP, in user space and without privileges: a relay.

Whoever connects to the relay is connected to its target, but each byte leaves only when the link
has sent those before it at its rate, and arrives a delay later. Each direction is one link, shared
by all connections. TCP ends at the relay, so congestion control does not see the distance: what is
emulated is the time of flight, the serialisation, the handshake and a queue in front of the link.

    sender ──▶ [queue of at most `queue_bytes`] ──▶ rate ──▶ delay ──▶ receiver

Run as a process of its own, `python -m testbed.relay HOST:PORT BYTES_PER_S DELAY_S`, it prints the
address that it listens at; `python -m testbed.relay check BYTES_PER_S DELAY_S` measures itself.
"""

import asyncio
import contextlib
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from statistics import median
from typing import Final

from gcos.system import SystemClock

#: A loop's timer fires up to a millisecond late, as epoll counts in these: set so much earlier, it
#: is right on average.
_TIMER_S: Final = 0.0005
_BURST_S: Final = 0.05
_QUEUE_BYTES_MIN: Final = 1 << 20
_PING_COUNT: Final = 21
_CHECK_S: Final = 1.5
_BLOCK: Final = bytes(256 << 10)

_now_s = SystemClock().protocol_s


@dataclass(frozen=True, slots=True)
class RelayReading:
    """What a relay was measured to do.

    Attributes:
        rtt_s: Median time of a byte there and back.
        bytes_per_s: Throughput of one connection, one way, once it flows.
    """

    rtt_s: float
    bytes_per_s: float


class Relay:
    """A link to one target, while its block lasts.

    Attributes:
        address: `host:port` to connect to.
    """

    def __init__(self, target: str, *, rate_bytes_per_s: float, delay_s: float) -> None:
        """Relay to `target`, `host:port`, each way at the rate and with the one-way delay."""
        self.address = ""
        self.delay_s = delay_s
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._lanes = _Lane(rate_bytes_per_s), _Lane(rate_bytes_per_s)
        #: Bytes of one connection in queue and flight; more are left to the sender.
        self.queue_bytes = max(_QUEUE_BYTES_MIN, int(rate_bytes_per_s * (delay_s + _BURST_S)))
        self._stack = contextlib.AsyncExitStack()
        self._group = asyncio.TaskGroup()
        self._ends: set[_End] = set()

    async def __aenter__(self) -> "Relay":
        """Listen."""
        await self._stack.enter_async_context(self._group)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._accepted, "127.0.0.1", 0)
        self._stack.callback(server.close)
        host, port = server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop listening and cut what is connected."""
        for end in tuple(self._ends):
            end.abort()
        await self._stack.aclose()

    def _accepted(self) -> "_End":
        near = _End(self, self._lanes[0])
        self._group.create_task(self._connect(near))
        return near

    async def _connect(self, near: "_End") -> None:
        """Reach the target as late as a handshake over the link would have ended."""
        await asyncio.sleep(2 * self.delay_s)
        far = _End(self, self._lanes[1])
        far.peer, near.peer = near, far
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, *self._target)
        except OSError:
            near.abort()
            return
        near.resume()

    def opened(self, end: "_End") -> None:
        """Know an end that must be cut when the relay ends."""
        self._ends.add(end)

    def closed(self, end: "_End") -> None:
        """Forget an end."""
        self._ends.discard(end)


class _Lane:
    """One direction of the link: when its last byte will have left."""

    def __init__(self, rate_bytes_per_s: float) -> None:
        self._rate_bytes_per_s = rate_bytes_per_s
        self._free_s = 0.0

    def departure_s(self, size_bytes: int, now_s: float) -> float:
        self._free_s = max(self._free_s, now_s) + size_bytes / self._rate_bytes_per_s
        return self._free_s


class _End(asyncio.Protocol):
    """The relay's end of one connection: what it receives, it hands to its peer, later."""

    def __init__(self, relay: Relay, lane: _Lane) -> None:
        self.peer: _End | None = None
        self._relay = relay
        self._lane = lane
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        #: When it arrives, and what; an empty one is the end of the stream.
        self._flight: deque[tuple[float, bytes]] = deque()
        self._flight_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_paused = False
        self._is_stalled = False

    # ---- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "TCP transports can be written to"
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport
        self._relay.opened(self)
        if self.peer is None:
            self._pause()

    def data_received(self, data: bytes) -> None:
        now_s = self._loop.time()
        arrival_s = self._lane.departure_s(len(data), now_s) + self._relay.delay_s
        self._flight.append((arrival_s, data))
        self._flight_bytes += len(data)
        if self._flight_bytes >= self._relay.queue_bytes:
            self._pause()
        self._arm()

    def eof_received(self) -> bool:
        self._flight.append((self._loop.time() + self._relay.delay_s, b""))
        self._arm()
        return True  # the other direction goes on

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.closed(self)
        if self._timer is not None and exc is not None:
            self._timer.cancel()
        if self.peer is not None:
            self._loop.call_later(self._relay.delay_s, self.peer.close_after_flight)

    def pause_writing(self) -> None:
        """Hold the flight back: the receiver takes nothing."""
        if self.peer is not None:
            self.peer._is_stalled = True

    def resume_writing(self) -> None:
        if self.peer is not None:
            self.peer._is_stalled = False
            self.peer._arm()

    # ---- called by the relay and the peer

    def resume(self) -> None:
        """Read on."""
        if self._is_paused and self._transport is not None and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Cut the connection."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()

    def close_after_flight(self) -> None:
        """Close, since the peer is gone; what this end had received cannot be delivered."""
        if self._transport is not None:
            self._transport.close()

    # ---- the flight

    def _pause(self) -> None:
        if not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def _arm(self) -> None:
        if self._timer is None and self._flight and not self._is_stalled:
            self._timer = self._loop.call_at(self._flight[0][0] - _TIMER_S, self._land)

    def _land(self) -> None:
        """Hand over what has arrived."""
        self._timer = None
        until_s = self._loop.time() + _TIMER_S
        receiver = None if self.peer is None else self.peer._transport
        while self._flight and self._flight[0][0] <= until_s and not self._is_stalled:
            _, data = self._flight.popleft()
            self._flight_bytes -= len(data)
            if receiver is None or receiver.is_closing():
                continue
            if data:
                receiver.write(data)
            elif receiver.can_write_eof():
                receiver.write_eof()
        if self._flight_bytes < self._relay.queue_bytes and self.peer is not None:
            self.resume()
        self._arm()


# ---- the relay measured ---------------------------------------------------------------------


async def check(*, rate_bytes_per_s: float, delay_s: float) -> RelayReading:
    """Measure a relay of this rate and delay against a server on loopback."""
    async with _echoing() as target:
        made = Relay(target, rate_bytes_per_s=rate_bytes_per_s, delay_s=delay_s)
        async with made as relay:
            host, _, port = relay.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                rtts = [await _ping(reader, writer) for _ in range(_PING_COUNT)]
                flowing = await _flow(reader, writer, int(rate_bytes_per_s * _CHECK_S))
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    return RelayReading(rtt_s=median(rtts[1:]), bytes_per_s=flowing)


async def _ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    began_s = _now_s()
    writer.write(b"\0" * 8)
    await reader.readexactly(8)
    return _now_s() - began_s


async def _flow(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size_bytes: int
) -> float:
    """Have `size_bytes` sent by the server; return bytes per second from the first one on."""
    writer.write(size_bytes.to_bytes(8, "big"))
    first = await reader.read(1 << 20)
    began_s, count = _now_s(), 0
    while len(first) + count < size_bytes:
        count += len(await reader.read(1 << 20))
    return count / (_now_s() - began_s)


class _Echo(asyncio.Protocol):
    """Answers 8 zero bytes with the same, and a number with so many bytes."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._asked = b""
        self._rest_bytes = 0
        self._is_full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "TCP transports can be written to"
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._asked += data
        while len(self._asked) >= 8:
            asked, self._asked = self._asked[:8], self._asked[8:]
            self._rest_bytes += int.from_bytes(asked, "big") or len(asked)
        self._send()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._send()

    def _send(self) -> None:
        assert self._transport is not None, "received before it was connected"
        while self._rest_bytes > 0 and not self._is_full:
            block = _BLOCK[: self._rest_bytes]
            self._rest_bytes -= len(block)
            self._transport.write(block)


@contextlib.asynccontextmanager
async def _echoing() -> AsyncIterator[str]:
    server = await asyncio.get_running_loop().create_server(_Echo, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        server.close()


async def _run(target: str, rate_bytes_per_s: float, delay_s: float) -> None:
    made = Relay(target, rate_bytes_per_s=rate_bytes_per_s, delay_s=delay_s)
    async with made as relay:
        sys.stdout.write(f"{relay.address}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    where, rate, delay = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    if where == "check":
        found = asyncio.run(check(rate_bytes_per_s=rate, delay_s=delay))
        sys.stdout.write(f"{found}\n")
    else:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_run(where, rate, delay))
