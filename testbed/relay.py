"""An emulated wide-area link for TCP, in user space and without privileges: a relay.

Whoever connects to the relay is connected to its target, but each byte leaves only when the link
has sent those before it at its rate, and arrives a delay later. Each direction is a `Lane`, shared
by all connections, and by all relays that are given it. TCP ends at the relay, so congestion
control does not see the distance: what is emulated is the time of flight, the serialisation, the
handshake and a queue in front of the link. A lost packet is one that arrives a round trip late,
with all behind it, as after a fast retransmission. A lane that is cut holds what it has.

    sender ──▶ [queue of at most `queue_bytes`] ──▶ rate ──▶ delay ──▶ receiver

Run as a process of its own, `python -m testbed.relay HOST:PORT BYTES_PER_S DELAY_S`, it prints the
address that it listens at; `python -m testbed.relay check BYTES_PER_S DELAY_S` measures itself.
"""

import asyncio
import contextlib
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Final

from gcos.system import SystemClock
from testbed.lateness import Lateness, Lead
from testbed.timekeeping import run_fine

_BURST_S: Final = 0.05
_QUEUE_BYTES_MIN: Final = 1 << 20
_PING_COUNT: Final = 21
_CHECK_S: Final = 1.5
_BLOCK: Final = bytes(256 << 10)
_PIECE_BYTES: Final = 64 << 10
#: Payload of an Ethernet packet of TCP, which is what a network loses.
_SEGMENT_BYTES: Final = 1448

_now_s = SystemClock().protocol_s

#: Returns a TCP socket that is not bound yet: where it was made, in another network namespace
#: perhaps, is where it belongs.
MakeSocket = Callable[[], socket.socket]


def new_socket() -> socket.socket:
    """Return a TCP socket of this process's own network."""
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


@dataclass(frozen=True, slots=True)
class RelayReading:
    """What a relay was measured to do.

    Attributes:
        rtt_s: Median time of a byte there and back.
        bytes_per_s: Throughput of one connection, one way, over the second half of its bytes.
    """

    rtt_s: float
    bytes_per_s: float


class Lane:
    """One direction of a link; its figures may be changed while it carries.

    Attributes:
        rate_bytes_per_s: Rate.
        delay_s: Time of flight, one way.
        jitter_s: Half the width of the uniform spread around it; order is kept.
        loss_ratio: Share of packets that are lost.
        is_cut: Nothing arrives until `heal`.
        lateness: How well the relay kept time.
        lead: How much earlier than due timers are set.
    """

    def __init__(
        self,
        rate_bytes_per_s: float,
        delay_s: float,
        *,
        jitter_s: float = 0.0,
        loss_ratio: float = 0.0,
        random: Random | None = None,
    ) -> None:
        """Carry nothing yet; `random` is needed for jitter and loss."""
        assert random is not None or not (jitter_s or loss_ratio), "chance is handed in"
        self.rate_bytes_per_s = rate_bytes_per_s
        self.delay_s = delay_s
        self.jitter_s = jitter_s
        self.loss_ratio = loss_ratio
        self.is_cut = False
        self.lateness = Lateness()
        self.lead = Lead()
        self._random = random or Random(0)
        self._free_s = 0.0
        self._held: dict[_End, None] = {}
        self._waiting: dict[asyncio.Event, None] = {}

    def arrival_s(self, size_bytes: int, now_s: float) -> float:
        """Return when the last of so many bytes, handed over now, arrives."""
        self._free_s = max(self._free_s, now_s) + size_bytes / self.rate_bytes_per_s
        flight_s = self.delay_s
        if self.jitter_s:
            flight_s += self._random.uniform(-self.jitter_s, self.jitter_s)
        if self.loss_ratio:
            packets = -(-size_bytes // _SEGMENT_BYTES)
            if self._random.random() < 1 - (1 - self.loss_ratio) ** packets:
                flight_s += 2 * self.delay_s
        return self._free_s + max(flight_s, 0.0)

    def delivered(self, late_s: float) -> None:
        """Learn that a delivery came so much after its time; below 0: before it."""
        self.lateness.add(late_s)
        self.lead.learn(late_s)

    def cut(self) -> None:
        """Let nothing arrive any more."""
        self.is_cut = True

    def heal(self) -> None:
        """Let arrive what was held, as TCP sends it again, and what comes."""
        self.is_cut = False
        held, self._held = list(self._held), {}
        for end in held:
            end.arm()
        for waiting in self._waiting:
            waiting.set()

    def hold(self, end: "_End") -> None:
        """Arm `end` when the lane is healed."""
        self._held[end] = None

    async def healed(self) -> None:
        """Return once the lane is not cut."""
        while self.is_cut:
            event = asyncio.Event()
            self._waiting[event] = None
            try:
                await event.wait()
            finally:
                self._waiting.pop(event)


class Relay:
    """A link to one target, while its block lasts.

    Attributes:
        address: `host:port` to connect to.
    """

    def __init__(
        self,
        target: str,
        *,
        there: Lane,
        back: Lane,
        address: str = "127.0.0.1:0",
        make_socket: MakeSocket = new_socket,
    ) -> None:
        """Relay to `target`, `host:port`, listening at `address`; port 0 takes a free one.

        The target is dialled with what `make_socket` returns.
        """
        self.address = address
        self._make_socket = make_socket
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._lanes = there, back
        self._stack = contextlib.AsyncExitStack()
        self._group = asyncio.TaskGroup()
        self._ends: set[_End] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    @classmethod
    def symmetric(cls, target: str, *, rate_bytes_per_s: float, delay_s: float) -> "Relay":
        """Return a relay to `target` whose two lanes have this rate and one-way delay."""
        there, back = (Lane(rate_bytes_per_s, delay_s) for _ in range(2))
        return cls(target, there=there, back=back)

    async def __aenter__(self) -> "Relay":
        """Listen."""
        await self._stack.enter_async_context(self._group)
        loop = asyncio.get_running_loop()
        host, _, port = self.address.rpartition(":")
        try:
            server = await loop.create_server(self._accepted, host, int(port))
        except BaseException:
            await self._stack.aclose()
            raise
        self._stack.callback(server.close)
        bound_host, bound_port = server.sockets[0].getsockname()
        self.address = f"{bound_host}:{bound_port}"
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop listening and cut what is connected."""
        for end in tuple(self._ends):
            end.abort()
        for task in tuple(self._connecting):
            task.cancel()
        await self._stack.aclose()

    def _accepted(self) -> "_End":
        near = _End(self, self._lanes[0])
        task = self._group.create_task(self._connect(near))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return near

    async def _connect(self, near: "_End") -> None:
        """Reach the target as late as a handshake over the link would have ended."""
        for lane in self._lanes:
            await lane.healed()
        await asyncio.sleep(sum(lane.delay_s for lane in self._lanes))
        far = _End(self, self._lanes[1])
        far.peer, near.peer = near, far
        loop = asyncio.get_running_loop()
        try:
            dialled = await _dialled(self._make_socket, self._target)
        except OSError:
            near.abort()
            return
        await loop.create_connection(lambda: far, sock=dialled)
        near.resume()

    def opened(self, end: "_End") -> None:
        """Know an end that must be cut when the relay ends."""
        self._ends.add(end)

    def closed(self, end: "_End") -> None:
        """Forget an end."""
        self._ends.discard(end)


class _End(asyncio.Protocol):
    """The relay's end of one connection: what it receives, it hands to its peer, later."""

    def __init__(self, relay: Relay, lane: Lane) -> None:
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
        #: Whether the head of the flight waited for its receiver: that lateness is not ours.
        self._was_held = False

    # ---- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "TCP transports can be written to"
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport
        self._relay.opened(self)
        if self.peer is None:
            self._pause()
        else:
            self.peer.arm()

    def data_received(self, data: bytes) -> None:
        now_s = self._loop.time()
        self._append(self._lane.arrival_s(len(data), now_s), data)
        self._flight_bytes += len(data)
        if self._flight_bytes >= self._queue_bytes:
            self._pause()

    def eof_received(self) -> bool:
        self._append(self._loop.time() + self._lane.delay_s, b"")
        return True  # the other direction goes on

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.closed(self)
        if self._timer is not None and exc is not None:
            self._timer.cancel()
        if self.peer is not None:
            self._loop.call_later(self._lane.delay_s, self.peer.close_after_flight)

    def pause_writing(self) -> None:
        """Hold the flight back: the receiver takes nothing."""
        if self.peer is not None:
            self.peer._is_stalled = True

    def resume_writing(self) -> None:
        if self.peer is not None:
            self.peer._is_stalled = False
            self.peer.arm()

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

    def arm(self) -> None:
        """Set the timer for the next arrival."""
        if self._timer is not None or not self._flight or self._is_stalled:
            return
        if self.peer is None or self.peer._transport is None:
            # Some Pythons (3.11.2) read once although it was paused; nobody is there yet.
            self._was_held = True
        elif self._lane.is_cut:
            self._was_held = True
            self._lane.hold(self)
        else:
            self._timer = self._loop.call_at(
                self._flight[0][0] - self._lane.lead.lead_s, self._land
            )

    # ---- the flight

    @property
    def _queue_bytes(self) -> int:
        """Bytes of one connection in queue and flight; more are left to the sender."""
        lane = self._lane
        return max(_QUEUE_BYTES_MIN, int(lane.rate_bytes_per_s * (lane.delay_s + _BURST_S)))

    def _append(self, arrival_s: float, data: bytes) -> None:
        """Let `data` arrive, but never before what was sent before it."""
        if self._flight:
            arrival_s = max(arrival_s, self._flight[-1][0])
        self._flight.append((arrival_s, data))
        self.arm()

    def _pause(self) -> None:
        if not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def _land(self) -> None:
        """Hand over what has arrived."""
        self._timer = None
        if self._lane.is_cut:
            self.arm()
            return
        now_s = self._loop.time()
        until_s = now_s + self._lane.lead.lead_s
        receiver = None if self.peer is None else self.peer._transport
        while self._flight and self._flight[0][0] <= until_s and not self._is_stalled:
            arrival_s, data = self._flight.popleft()
            if not self._was_held:
                self._lane.delivered(now_s - arrival_s)
            self._flight_bytes -= len(data)
            if receiver is None or receiver.is_closing():
                continue
            if data:
                receiver.write(data)
            elif receiver.can_write_eof():
                with contextlib.suppress(OSError):  # it was cut before we were told
                    receiver.write_eof()
        self._was_held = self._is_stalled
        if self._flight_bytes < self._queue_bytes and self.peer is not None:
            self.resume()
        self.arm()


# ---- the relay measured ---------------------------------------------------------------------


async def check(*, rate_bytes_per_s: float, delay_s: float) -> RelayReading:
    """Measure a relay of this rate and delay against a server on loopback."""
    async with echoing() as target:
        made = Relay.symmetric(target, rate_bytes_per_s=rate_bytes_per_s, delay_s=delay_s)
        async with made as relay:
            return await read_link(relay.address, flow_bytes=int(rate_bytes_per_s * _CHECK_S))


async def read_link(
    address: str, *, flow_bytes: int, make_socket: MakeSocket = new_socket
) -> RelayReading:
    """Measure the way to a server of `echoing` at `address`, over one connection.

    Args:
        address: `host:port`.
        flow_bytes: How much is sent to measure the rate, from the server to us; 0: nothing.
        make_socket: Makes the socket to dial with.

    Raises:
        OSError: It cannot be reached, or ended.
    """
    host, _, port = address.rpartition(":")
    dialled = await _dialled(make_socket, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=dialled)
    try:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        rtts = [await _ping(reader, writer) for _ in range(_PING_COUNT)]
        flowing = await _flow(reader, writer, flow_bytes) if flow_bytes else 0.0
    except asyncio.IncompleteReadError as exc:
        raise ConnectionResetError(f"{address} ended the connection") from exc
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
    """Have `size_bytes` sent by the server; return bytes per second, see `flow_rate`."""
    writer.write(size_bytes.to_bytes(8, "big"))
    arrivals: list[tuple[float, int]] = []
    count = 0
    while count < size_bytes:
        piece = await reader.read(_PIECE_BYTES)
        if not piece:
            raise ConnectionResetError("the server ended while bytes were flowing")
        count += len(piece)
        arrivals.append((_now_s(), count))
    return flow_rate(arrivals)


def flow_rate(arrivals: Sequence[tuple[float, int]]) -> float:
    """Return bytes per second over the second half of a flow.

    By then congestion control, where it sees the link, has found its rate. A reader that was held
    up in the middle finds what came meanwhile all at once, and sees more than the link carries.

    Args:
        arrivals: Of each piece the instant, protocol seconds, and how many bytes were here then.
    """
    end_s, count = arrivals[-1]
    # Pieces that came at once must not hide the time before them: those after an instant count.
    began_s, began_count = next(each for each in arrivals if each[1] >= count // 2)
    if end_s - began_s < (began_s - arrivals[0][0]) / 4:
        began_s, began_count = arrivals[0]
    return (count - began_count) / max(end_s - began_s, 1e-9)


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
async def echoing(
    host: str = "127.0.0.1", port: int = 0, *, make_socket: MakeSocket = new_socket
) -> AsyncIterator[str]:
    """Give the address of a server that `read_link` measures against."""
    listening = make_socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        server = await asyncio.get_running_loop().create_server(_Echo, sock=listening)
    except BaseException:
        listening.close()
        raise
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        server.close()


async def _dialled(make_socket: MakeSocket, target: tuple[str, int]) -> socket.socket:
    """Return a socket that is connected to `target`."""
    dialling = make_socket()
    try:
        dialling.setblocking(False)
        await asyncio.get_running_loop().sock_connect(dialling, target)
    except BaseException:
        dialling.close()
        raise
    return dialling


async def _run(target: str, rate_bytes_per_s: float, delay_s: float) -> None:
    made = Relay.symmetric(target, rate_bytes_per_s=rate_bytes_per_s, delay_s=delay_s)
    async with made as relay:
        sys.stdout.write(f"{relay.address}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    where, rate, delay = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    if where == "check":
        found = run_fine(check(rate_bytes_per_s=rate, delay_s=delay))
        sys.stdout.write(f"{found}\n")
    else:
        with contextlib.suppress(KeyboardInterrupt):
            run_fine(_run(where, rate, delay))
