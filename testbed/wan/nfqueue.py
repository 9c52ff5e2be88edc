"""Delays packets between kernel and sockets through NFQUEUE, over raw netlink: Linux, NET_ADMIN.

Only the head of each packet comes to us (`COPY_META`): its payload stays in the kernel until our
verdict, which is all that we send. Messages are nfnetlink's (linux/netfilter/nfnetlink_queue.h).

Run as `python -m testbed.wan.nfqueue QUEUE:DELAY_S[:JITTER_S[:LOSS]]...`; it prints `ready`, delays
until SIGTERM, and prints how late it was as JSON.
"""

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from random import Random
from typing import Final

from gcos.system import SystemClock
from testbed.lateness import Lateness, Lead, total
from testbed.timekeeping import keep_time, run_fine

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM: Final = 3 << 8
_MSG_PACKET: Final = _SUBSYSTEM | 0
_MSG_VERDICT: Final = _SUBSYSTEM | 1
_MSG_CONFIG: Final = _SUBSYSTEM | 2
_NLMSG_ERROR: Final = 2
_NLM_F_REQUEST: Final = 1
_NLM_F_ACK: Final = 4
_ATTR_PACKET_HDR: Final = 1
_ATTR_VERDICT_HDR: Final = 2
_ATTR_TIMESTAMP: Final = 4
_CFG_CMD: Final = 1
_CFG_PARAMS: Final = 2
_CFG_QUEUE_MAXLEN: Final = 3
_CFG_MASK: Final = 4
_CFG_FLAGS: Final = 5
#: The kernel hands over what TCP sent at once as one packet, and does not cut it up for us.
_FLAG_GSO: Final = 4
_CMD_BIND: Final = 1
_COPY_META: Final = 1
NF_DROP: Final = 0
NF_ACCEPT: Final = 1

_HEADER: Final = struct.Struct("=IHHII")
_FAMILY: Final = struct.Struct(">BBH")
#: Python's module socket does not know them (asm-generic/socket.h).
_SO_RCVBUFFORCE: Final = 33
_SO_TIMESTAMPNS: Final = 35
_BUFFER_BYTES: Final = 16 << 20
_QUEUE_PACKETS: Final = 65_535
_READ_BYTES: Final = 1 << 20
#: So many verdicts take one call to the kernel.
_VERDICTS: Final = 64


@dataclass(frozen=True, slots=True)
class QueueDelay:
    """What happens to the packets of a queue.

    Attributes:
        queue: Its number.
        delay_s: How long each is held.
        jitter_s: Half the width of the uniform spread around it; order is kept.
        loss_ratio: Share of packets that are dropped.
        is_cut: All are dropped.
    """

    queue: int
    delay_s: float
    jitter_s: float = 0.0
    loss_ratio: float = 0.0
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class QueuedPacket:
    """A packet that waits for our verdict.

    Attributes:
        queue: Its queue.
        packet_id: The kernel's name for it in that queue.
        arrived_s: When it arrived by the kernel's stamp, wall seconds; None: it has none.
    """

    queue: int
    packet_id: int
    arrived_s: float | None = None


def config_message(queue: int, kind: int, payload: bytes, *, wants_ack: bool) -> bytes:
    """Return a message that configures a queue."""
    return _configured(queue, _attribute(kind, payload), wants_ack=wants_ack)


def _configured(queue: int, attributes: bytes, *, wants_ack: bool) -> bytes:
    flags = _NLM_F_REQUEST | (_NLM_F_ACK if wants_ack else 0)
    return _message(_MSG_CONFIG, flags, queue, attributes)


def bind_messages(queue: int) -> tuple[bytes, ...]:
    """Return the messages that bind a queue, ask for heads alone and whole sends, and make room."""
    flag = struct.pack(">I", _FLAG_GSO)
    whole = _attribute(_CFG_FLAGS, flag) + _attribute(_CFG_MASK, flag)
    return (
        config_message(queue, _CFG_CMD, struct.pack(">BBH", _CMD_BIND, 0, 2), wants_ack=True),
        config_message(queue, _CFG_PARAMS, struct.pack(">IB", 0, _COPY_META), wants_ack=True),
        config_message(queue, _CFG_QUEUE_MAXLEN, struct.pack(">I", _QUEUE_PACKETS), wants_ack=True),
        _configured(queue, whole, wants_ack=True),
    )


def verdict_message(packet: QueuedPacket, verdict: int) -> bytes:
    """Return the message that lets a packet pass, or drops it."""
    payload = struct.pack(">II", verdict, packet.packet_id)
    return _message(
        _MSG_VERDICT, _NLM_F_REQUEST, packet.queue, _attribute(_ATTR_VERDICT_HDR, payload)
    )


def packets_of(data: bytes) -> Iterator[QueuedPacket]:
    """Yield the packets that a datagram from the kernel tells of.

    Raises:
        OSError: It tells of an error.
    """
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            return  # cut off
        if kind == _NLMSG_ERROR:
            (code,) = struct.unpack_from("=i", data, at + _HEADER.size)
            if code:
                raise OSError(-code, os.strerror(-code))
        elif kind == _MSG_PACKET:
            _, _, queue = _FAMILY.unpack_from(data, at + _HEADER.size)
            begin = at + _HEADER.size + _FAMILY.size
            yield _packet_of(queue, dict(_attributes(data[begin : at + length])))
        at += -(-length // 4) * 4


def _packet_of(queue: int, attributes: dict[int, bytes]) -> QueuedPacket:
    (packet_id,) = struct.unpack_from(">I", attributes[_ATTR_PACKET_HDR])
    stamp = attributes.get(_ATTR_TIMESTAMP)
    if stamp is None:
        return QueuedPacket(queue, packet_id)
    seconds, microseconds = struct.unpack(">QQ", stamp)
    return QueuedPacket(queue, packet_id, seconds + microseconds / 1e6)


class Holding:
    """Packets that are held, by when they are due. Pure but for the random numbers handed in.

    Attributes:
        lateness: By queue, how late packets were let go.
    """

    def __init__(self, delays: Sequence[QueueDelay], random: Random) -> None:
        self.lateness = {delay.queue: Lateness() for delay in delays}
        self._delays = {delay.queue: delay for delay in delays}
        self._random = random
        self._due: list[tuple[float, int, QueuedPacket]] = []
        self._last_s: dict[int, float] = {}
        self._count = 0
        self._lead = Lead()

    @property
    def queues(self) -> tuple[int, ...]:
        """Numbers of the queues."""
        return tuple(self._delays)

    def change(self, delay: QueueDelay) -> None:
        """Do otherwise with what comes into a queue from now on."""
        assert delay.queue in self._delays, "queues are bound at the start"
        self._delays[delay.queue] = delay

    def take(self, packet: QueuedPacket, now_s: float, *, wall_s: float) -> bool:
        """Hold a packet from when it arrived; return False where it is lost.

        Args:
            packet: As the kernel told of it.
            now_s: When it was read, by the clock that it is held by.
            wall_s: The same instant by the clock that the kernel stamps with.
        """
        delay = self._delays[packet.queue]
        if delay.is_cut:
            return False
        if delay.loss_ratio and self._random.random() < delay.loss_ratio:
            return False
        held_s = delay.delay_s
        if delay.jitter_s:
            held_s = max(0.0, held_s + self._random.uniform(-delay.jitter_s, delay.jitter_s))
        if packet.arrived_s is not None:
            # It waited for us so long; a wall clock that was set meanwhile says it comes later.
            held_s -= max(0.0, wall_s - packet.arrived_s)
        # Packets that overtake each other would be taken for loss.
        due_s = max(now_s + held_s, self._last_s.get(packet.queue, 0.0))
        self._last_s[packet.queue] = due_s
        self._count += 1
        heappush(self._due, (due_s, self._count, packet))
        return True

    def due(self, now_s: float) -> list[QueuedPacket]:
        """Return what is due, in order; as much of it is early as late."""
        found = []
        until_s = now_s + self._lead.lead_s
        while self._due and self._due[0][0] <= until_s:
            due_s, _, packet = heappop(self._due)
            self.lateness[packet.queue].add(now_s - due_s)
            self._lead.learn(now_s - due_s)
            found.append(packet)
        return found

    def next_s(self) -> float | None:
        """Return when to look again; None: nothing is held."""
        return self._due[0][0] - self._lead.lead_s if self._due else None


def serve(delays: Sequence[QueueDelay], *, seed: int = 0) -> Lateness:
    """Delay packets until SIGTERM or Ctrl-C and return how late they were let go.

    Raises:
        OSError: No NET_ADMIN, or the kernel has no NFQUEUE, or a queue is taken.
    """
    return run_fine(_serve(delays, seed))


async def _serve(delays: Sequence[QueueDelay], seed: int) -> Lateness:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    keep_time()
    holding = Holding(delays, Random(seed))
    with queue_socket() as link, delaying(link, holding):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await stopping.wait()
    return total(holding.lateness.values())


def queue_socket() -> socket.socket:
    """Return a netlink socket for queues of the network namespace that this thread is in.

    While it is open the kernel stamps what arrives at the machine with the time.

    Raises:
        OSError: The kernel has no netfilter.
    """
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    try:
        # More than the system's limit, which takes NET_ADMIN of the machine.
        link.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    except PermissionError:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    link.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    link.bind((0, 0))
    return link


@contextlib.contextmanager
def delaying(link: socket.socket, holding: Holding) -> Iterator[None]:
    """Delay what comes into the queues of `holding`, on the running loop, while the block lasts.

    Raises:
        OSError: No NET_ADMIN, or the kernel has no NFQUEUE, or a queue is taken.
    """
    loop = asyncio.get_running_loop()
    early = _bound(link, holding.queues)
    link.setblocking(False)
    pump = _Pump(link, holding, loop)
    for packet in early:
        pump.take(packet)
    loop.add_reader(link, pump.readable)
    try:
        yield
    finally:
        loop.remove_reader(link)
        pump.stop()


def _bound(link: socket.socket, queues: Sequence[int]) -> list[QueuedPacket]:
    """Bind the queues, and return packets that came while that was acknowledged."""
    early: list[QueuedPacket] = []
    for queue in queues:
        for message in bind_messages(queue):
            link.send(message)
            is_acknowledged = False
            while not is_acknowledged:
                data = link.recv(_READ_BYTES)
                early += packets_of(data)
                _, kind, _, _, _ = _HEADER.unpack_from(data)
                is_acknowledged = kind == _NLMSG_ERROR
    return early


class _Pump:
    """Reads packets, and lets them go when they are due."""

    def __init__(
        self, link: socket.socket, holding: Holding, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._link = link
        self._holding = holding
        self._loop = loop
        self._clock = SystemClock()
        self._timer: asyncio.TimerHandle | None = None

    def readable(self) -> None:
        for _ in range(64):
            try:
                data = self._link.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except OSError as exc:
                if exc.errno == errno.ENOBUFS:  # it dropped some, as a full link does
                    continue
                raise
            for packet in packets_of(data):
                self.take(packet)
        self._release()

    def take(self, packet: QueuedPacket) -> None:
        now_s, wall_s = self._loop.time(), self._clock.wall_s()
        if not self._holding.take(packet, now_s, wall_s=wall_s):
            self._link.send(verdict_message(packet, NF_DROP))

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _release(self) -> None:
        due = self._holding.due(self._loop.time())
        for begin in range(0, len(due), _VERDICTS):
            some = due[begin : begin + _VERDICTS]
            self._link.send(b"".join(verdict_message(packet, NF_ACCEPT) for packet in some))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        next_s = self._holding.next_s()
        if next_s is not None:
            self._timer = self._loop.call_at(next_s, self._release)


def _message(kind: int, flags: int, queue: int, attributes: bytes) -> bytes:
    body = _FAMILY.pack(0, 0, queue) + attributes
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body


def _attribute(kind: int, payload: bytes) -> bytes:
    padding = bytes(-len(payload) % 4)
    return struct.pack("=HH", 4 + len(payload), kind) + payload + padding


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += -(-length // 4) * 4


def parsed(text: str) -> QueueDelay:
    """Return what `QUEUE:DELAY_S[:JITTER_S[:LOSS]]` says.

    Raises:
        ValueError: It is none.
    """
    queue, delay_s, *rest = text.split(":")
    jitter_s, loss_ratio = (*map(float, rest), 0.0, 0.0)[:2]
    return QueueDelay(int(queue), float(delay_s), jitter_s=jitter_s, loss_ratio=loss_ratio)


if __name__ == "__main__":
    late = serve([parsed(each) for each in sys.argv[1:]])
    sys.stdout.write(json.dumps(asdict(late)) + "\n")
