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
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from random import Random
from typing import Final

from testbed.lateness import Lateness

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
_CFG_CMD: Final = 1
_CFG_PARAMS: Final = 2
_CFG_QUEUE_MAXLEN: Final = 3
_CMD_BIND: Final = 1
_COPY_META: Final = 1
NF_DROP: Final = 0
NF_ACCEPT: Final = 1

_HEADER: Final = struct.Struct("=IHHII")
_FAMILY: Final = struct.Struct(">BBH")
_BUFFER_BYTES: Final = 16 << 20
_QUEUE_PACKETS: Final = 65_535
#: As in `testbed.relay`: timers are set early, so that as many packets come early as late.
_LEAD_S: Final = 0.0005
_LEAD_STEP_S: Final = 0.00005
_LEAD_S_MAX: Final = 0.002
_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class QueueDelay:
    """What happens to the packets of a queue.

    Attributes:
        queue: Its number.
        delay_s: How long each is held.
        jitter_s: Half the width of the uniform spread around it; order is kept.
        loss_ratio: Share of packets that are dropped.
    """

    queue: int
    delay_s: float
    jitter_s: float = 0.0
    loss_ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class QueuedPacket:
    """A packet that waits for our verdict.

    Attributes:
        queue: Its queue.
        packet_id: The kernel's name for it in that queue.
    """

    queue: int
    packet_id: int


def config_message(queue: int, kind: int, payload: bytes, *, wants_ack: bool) -> bytes:
    """Return a message that configures a queue."""
    flags = _NLM_F_REQUEST | (_NLM_F_ACK if wants_ack else 0)
    return _message(_MSG_CONFIG, flags, queue, _attribute(kind, payload))


def bind_messages(queue: int) -> tuple[bytes, ...]:
    """Return the messages that bind a queue, ask for heads alone, and make room."""
    return (
        config_message(queue, _CFG_CMD, struct.pack(">BBH", _CMD_BIND, 0, 2), wants_ack=True),
        config_message(queue, _CFG_PARAMS, struct.pack(">IB", 0, _COPY_META), wants_ack=True),
        config_message(queue, _CFG_QUEUE_MAXLEN, struct.pack(">I", _QUEUE_PACKETS), wants_ack=True),
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
            for attribute, value in _attributes(data[begin : at + length]):
                if attribute == _ATTR_PACKET_HDR:
                    yield QueuedPacket(queue, *struct.unpack_from(">I", value))
        at += -(-length // 4) * 4


class Holding:
    """Packets that are held, by when they are due. Pure but for the random numbers handed in."""

    def __init__(self, delays: Sequence[QueueDelay], random: Random) -> None:
        self.lateness = Lateness()
        self._delays = {delay.queue: delay for delay in delays}
        self._random = random
        self._due: list[tuple[float, int, QueuedPacket]] = []
        self._last_s: dict[int, float] = {}
        self._count = 0
        self._lead_s = _LEAD_S

    def take(self, packet: QueuedPacket, now_s: float) -> bool:
        """Hold a packet; return False where it is lost."""
        delay = self._delays[packet.queue]
        if delay.loss_ratio and self._random.random() < delay.loss_ratio:
            return False
        held_s = delay.delay_s
        if delay.jitter_s:
            held_s = max(0.0, held_s + self._random.uniform(-delay.jitter_s, delay.jitter_s))
        # Packets that overtake each other would be taken for loss.
        due_s = max(now_s + held_s, self._last_s.get(packet.queue, 0.0))
        self._last_s[packet.queue] = due_s
        self._count += 1
        heappush(self._due, (due_s, self._count, packet))
        return True

    def due(self, now_s: float) -> list[QueuedPacket]:
        """Return what is due, in order; as much of it is early as late."""
        found = []
        while self._due and self._due[0][0] <= now_s + self._lead_s:
            due_s, _, packet = heappop(self._due)
            self.lateness.add(max(0.0, now_s - due_s))
            step_s = _LEAD_STEP_S if now_s > due_s else -_LEAD_STEP_S
            self._lead_s = min(max(self._lead_s + step_s, 0.0), _LEAD_S_MAX)
            found.append(packet)
        return found

    def next_s(self) -> float | None:
        """Return when to look again; None: nothing is held."""
        return self._due[0][0] - self._lead_s if self._due else None


def serve(delays: Sequence[QueueDelay], *, seed: int = 0) -> Lateness:
    """Delay packets until SIGTERM or Ctrl-C and return how late they were let go.

    Raises:
        OSError: No NET_ADMIN, or the kernel has no NFQUEUE, or a queue is taken.
    """
    return asyncio.run(_serve(delays, seed))


async def _serve(delays: Sequence[QueueDelay], seed: int) -> Lateness:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    holding = Holding(delays, Random(seed))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        link.bind((0, 0))
        early = _bound(link, delays)
        link.setblocking(False)
        pump = _Pump(link, holding, loop)
        for packet in early:
            pump.take(packet)
        loop.add_reader(link, pump.readable)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await stopping.wait()
        loop.remove_reader(link)
        pump.stop()
    return holding.lateness


def _bound(link: socket.socket, delays: Sequence[QueueDelay]) -> list[QueuedPacket]:
    """Bind the queues, and return packets that came while that was acknowledged."""
    early: list[QueuedPacket] = []
    for delay in delays:
        for message in bind_messages(delay.queue):
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
        self._timer: asyncio.TimerHandle | None = None
        self._unsent: deque[bytes] = deque()

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
        if not self._holding.take(packet, self._loop.time()):
            self._link.send(verdict_message(packet, NF_DROP))

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _release(self) -> None:
        for packet in self._holding.due(self._loop.time()):
            self._link.send(verdict_message(packet, NF_ACCEPT))
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
    return QueueDelay(int(queue), float(delay_s), *map(float, rest))


if __name__ == "__main__":
    late = serve([parsed(each) for each in sys.argv[1:]])
    sys.stdout.write(json.dumps(asdict(late)) + "\n")
