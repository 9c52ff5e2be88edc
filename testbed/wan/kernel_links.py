"""Commands that let the kernel carry a link: iptables, tc, and ip for namespaces. Pure.

A link is applied where it is *received*: delay, jitter and loss on what comes in from a peer, so
that TCP's small queues do not throttle the sender (they count bytes that wait in the sender's own
queues). The rate is applied where it is sent, by htb, one class for each peer. Where the kernel has
netem, it does all of it at the sender, with a queue long enough for the delay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

Command = tuple[str, ...]

#: A packet that waits takes a place in netem's queue: room for the delay at the rate, and this.
_NETEM_PACKETS_MIN: Final = 1000
_PACKET_BYTES: Final = 1448
#: What such a payload takes on the wire, by which tc counts: TCP, IP and Ethernet around it.
_FRAME_BYTES: Final = 1514
_CHAIN: Final = "GCOS_WAN"
#: Packets that wait in the kernel for our verdict.
QUEUE_PACKETS_MAX: Final = 65_535


@dataclass(frozen=True, slots=True)
class KernelLink:
    """One direction, from the machine or container at hand to a peer.

    Attributes:
        peer: Address of the peer, IPv4.
        number: From 1; each peer of an interface has its own.
        delay_s: One-way delay.
        bytes_per_s: Rate of TCP's payload in full packets.
        jitter_s: Half the width of the uniform spread of the delay.
        loss_ratio: Share of packets that are lost.
    """

    peer: str
    number: int
    delay_s: float
    bytes_per_s: float
    jitter_s: float = 0.0
    loss_ratio: float = 0.0


def rate_commands(interface: str, links: Sequence[KernelLink]) -> tuple[Command, ...]:
    """Return the commands that shape what is sent to each peer; what is sent elsewhere is not."""
    root = ("tc", "qdisc", "add", "dev", interface, "root", "handle", "1:", "htb")
    return (root, *(each for link in links for each in _shaped(interface, link)))


def netem_commands(interface: str, links: Sequence[KernelLink]) -> tuple[Command, ...]:
    """Return the commands that shape, delay and lose what is sent to each peer, by netem."""
    found = list(rate_commands(interface, links))
    for link in links:
        queue = max(
            _NETEM_PACKETS_MIN,
            int(2 * (link.delay_s + link.jitter_s) * link.bytes_per_s / _PACKET_BYTES),
        )
        command = [
            *("tc", "qdisc", "add", "dev", interface, "parent", f"1:{link.number:x}"),
            *("handle", f"{link.number + 0x100:x}:", "netem", "limit", str(queue)),
            *("delay", f"{link.delay_s * 1e6:.0f}us"),
        ]
        if link.jitter_s:
            command.append(f"{link.jitter_s * 1e6:.0f}us")
        if link.loss_ratio:
            command += ["loss", f"{link.loss_ratio:.4%}"]
        found.append(tuple(command))
    return tuple(found)


def queue_commands(interface: str, links: Sequence[KernelLink]) -> tuple[Command, ...]:
    """Return the commands that hand what comes from each peer to its NFQUEUE, its number.

    The table mangle sees a packet at PREROUTING, before it is routed to a socket. Without our
    process the kernel lets packets pass (`--queue-bypass`).
    """
    table = ("iptables", "-w", "-t", "mangle")
    found: list[Command] = [
        (*table, "-N", _CHAIN),
        (*table, "-I", "PREROUTING", "-i", interface, "-j", _CHAIN),
    ]
    found += [
        (
            *(*table, "-A", _CHAIN, "-s", link.peer, "-j", "NFQUEUE"),
            *("--queue-num", str(link.number), "--queue-bypass"),
        )
        for link in links
    ]
    return tuple(found)


def removal_commands(interface: str) -> tuple[Command, ...]:
    """Return the commands that undo all of the above; each may fail where there is nothing."""
    table = ("iptables", "-w", "-t", "mangle")
    return (
        ("tc", "qdisc", "del", "dev", interface, "root"),
        (*table, "-D", "PREROUTING", "-i", interface, "-j", _CHAIN),
        (*table, "-F", _CHAIN),
        (*table, "-X", _CHAIN),
    )


def netem_probe(interface: str) -> tuple[Command, Command]:
    """Return commands that add netem to an interface and take it off: does the kernel have it?"""
    return (
        ("tc", "qdisc", "add", "dev", interface, "root", "netem", "delay", "1ms"),
        ("tc", "qdisc", "del", "dev", interface, "root"),
    )


def _shaped(interface: str, link: KernelLink) -> tuple[Command, ...]:
    minor = f"1:{link.number:x}"
    bits = f"{link.bytes_per_s * 8 * _FRAME_BYTES / _PACKET_BYTES:.0f}bit"
    # A bucket of 2 ms of the rate, and at least two large segments that the card would cut up.
    burst = max(131_072, int(link.bytes_per_s * 0.002))
    return (
        (
            *("tc", "class", "add", "dev", interface, "parent", "1:", "classid", minor),
            *("htb", "rate", bits, "burst", f"{burst}b", "cburst", f"{burst}b"),
        ),
        (
            *("tc", "filter", "add", "dev", interface, "parent", "1:", "protocol", "ip"),
            *("u32", "match", "ip", "dst", f"{link.peer}/32", "flowid", minor),
        ),
    )
