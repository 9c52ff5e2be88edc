"""Commands that let the kernel carry a link: iptables, tc, and ip for namespaces. Pure.

A link is applied where it is *received*: delay, jitter and loss on what comes in from a peer, so
that TCP's small queues do not throttle the sender (they count bytes that wait in the sender's own
queues). The rate is applied where it is sent, by htb, one class for each peer. Where the kernel has
netem, it does all of it at the sender, with a queue long enough for the delay.

Processes of a testbed speak on loopback alone. What one dials there for another place is redirected
to that place's gate, an address of the private network, and from the gate to the loopback on which
the other serves. So TCP goes from process to process, and sees the link.
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
#: Where a place is reached on the private network.
GATE_PORT: Final = 7800
_CHAIN: Final = "GCOS_WAN"
_NAT_CHAINS: Final = {
    "OUTPUT": "GCOS_WAN_DIALLED",
    "POSTROUTING": "GCOS_WAN_SENT",
    "PREROUTING": "GCOS_WAN_GATE",
}
#: What the namespace of a place needs to be told: packets of loopback may leave by redirection, and
#: one connection may have as much under way as the longest link holds at the highest rate.
SETTINGS: Final = {
    "net.ipv4.conf.all.route_localnet": "1",
    "net.ipv4.tcp_rmem": "4096 131072 67108864",
    "net.ipv4.tcp_wmem": "4096 65536 67108864",
}


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
        is_cut: All are lost.
    """

    peer: str
    number: int
    delay_s: float
    bytes_per_s: float
    jitter_s: float = 0.0
    loss_ratio: float = 0.0
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Redirection:
    """A way that begins on loopback and ends at a gate on the private network.

    Attributes:
        dialled: What is dialled, `host:port`.
        gate: What is reached, `host:port`.
    """

    dialled: str
    gate: str


def rate_commands(interface: str, links: Sequence[KernelLink]) -> tuple[Command, ...]:
    """Return the commands that shape what is sent to each peer; what is sent elsewhere is not."""
    root = ("tc", "qdisc", "add", "dev", interface, "root", "handle", "1:", "htb")
    return (root, *(each for link in links for each in _shaped(interface, link)))


def netem_commands(interface: str, links: Sequence[KernelLink]) -> tuple[Command, ...]:
    """Return the commands that shape, delay and lose what is sent to each peer, by netem."""
    found = list(rate_commands(interface, links))
    found += (_delayed(interface, link, "add") for link in links)
    return tuple(found)


def changed_commands(interface: str, link: KernelLink, *, has_netem: bool) -> tuple[Command, ...]:
    """Return the commands that bring a direction that is shaped already to what `link` says."""
    found = [_class(interface, link, "change")]
    if has_netem:
        found.append(_delayed(interface, link, "change"))
    return tuple(found)


def redirection_commands(
    interface: str, address: str, gate: str, serving: str, ways: Sequence[Redirection]
) -> tuple[Command, ...]:
    """Return the commands that redirect what a place dials, and what arrives at its gate.

    Args:
        interface: Of the private network.
        address: The place's own there.
        gate: Where it is reached there, `host:port`.
        serving: Where its process serves on loopback, `host:port`.
        ways: What it dials.
    """
    table = ("iptables", "-w", "-t", "nat")
    found: list[Command] = [(*table, "-N", chain) for chain in _NAT_CHAINS.values()]
    found += [(*table, "-I", at, "-j", chain) for at, chain in _NAT_CHAINS.items()]
    dialling = (*table, "-A", _NAT_CHAINS["OUTPUT"])
    found += [
        (*dialling, *_to(way.dialled), "-j", "DNAT", "--to-destination", way.gate) for way in ways
    ]
    found += [
        (
            *(*table, "-A", _NAT_CHAINS["POSTROUTING"], "-o", interface),
            *("-s", "127.0.0.0/8", "-j", "SNAT", "--to-source", address),
        ),
        (
            *(*table, "-A", _NAT_CHAINS["PREROUTING"], "-i", interface, *_to(gate)),
            *("-j", "DNAT", "--to-destination", serving),
        ),
    ]
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
        *(
            ("iptables", "-w", "-t", "nat", *rest)
            for at, chain in _NAT_CHAINS.items()
            for rest in (("-D", at, "-j", chain), ("-F", chain), ("-X", chain))
        ),
    )


def netem_probe(interface: str) -> tuple[Command, Command]:
    """Return commands that add netem to an interface and take it off: does the kernel have it?"""
    return (
        ("tc", "qdisc", "add", "dev", interface, "root", "netem", "delay", "1ms"),
        ("tc", "qdisc", "del", "dev", interface, "root"),
    )


def queue_probe(interface: str) -> tuple[Command, Command]:
    """Return commands that hand packets to a queue and cease to: does the kernel have NFQUEUE?"""
    rule = ("-i", interface, "-j", "NFQUEUE", "--queue-num", "0", "--queue-bypass")
    table = ("iptables", "-w", "-t", "mangle")
    return (*table, "-A", "PREROUTING", *rule), (*table, "-D", "PREROUTING", *rule)


def _shaped(interface: str, link: KernelLink) -> tuple[Command, ...]:
    return (
        _class(interface, link, "add"),
        (
            *("tc", "filter", "add", "dev", interface, "parent", "1:", "protocol", "ip"),
            *("u32", "match", "ip", "dst", f"{link.peer}/32", "flowid", f"1:{link.number:x}"),
        ),
    )


def _class(interface: str, link: KernelLink, verb: str) -> Command:
    bits = f"{link.bytes_per_s * 8 * _FRAME_BYTES / _PACKET_BYTES:.0f}bit"
    # A bucket of 2 ms of the rate, and at least two large segments that the card would cut up.
    burst = max(131_072, int(link.bytes_per_s * 0.002))
    return (
        *("tc", "class", verb, "dev", interface, "parent", "1:"),
        *("classid", f"1:{link.number:x}"),
        *("htb", "rate", bits, "burst", f"{burst}b", "cburst", f"{burst}b"),
    )


def _delayed(interface: str, link: KernelLink, verb: str) -> Command:
    queue = max(
        _NETEM_PACKETS_MIN,
        int(2 * (link.delay_s + link.jitter_s) * link.bytes_per_s / _PACKET_BYTES),
    )
    command = [
        *("tc", "qdisc", verb, "dev", interface, "parent", f"1:{link.number:x}"),
        *("handle", f"{link.number + 0x100:x}:", "netem", "limit", str(queue)),
        *("delay", f"{link.delay_s * 1e6:.0f}us"),
    ]
    if link.jitter_s:
        command.append(f"{link.jitter_s * 1e6:.0f}us")
    loss_ratio = 1.0 if link.is_cut else link.loss_ratio
    if loss_ratio:
        command += ["loss", f"{loss_ratio:.4%}"]
    return tuple(command)


def _to(address: str) -> Command:
    host, _, port = address.rpartition(":")
    return ("-p", "tcp", "-d", host, "--dport", port)
