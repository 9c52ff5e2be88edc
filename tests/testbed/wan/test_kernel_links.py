"""Command lines and netlink messages, pure; and the kernel itself where it lets us."""

import struct
import subprocess
import sys
from random import Random

import pytest

from gcos.errors import InvalidRequestError, UnavailableError
from gcos.system import SystemClock
from site_agent.supervisor import process_stat
from testbed.lateness import LEAD_S_MAX, Lead, total
from testbed.wan import namespaces
from testbed.wan.kernel_links import (
    KernelLink,
    netem_commands,
    netem_probe,
    queue_commands,
    rate_commands,
    removal_commands,
)
from testbed.wan.nfqueue import (
    Holding,
    QueueDelay,
    QueuedPacket,
    bind_messages,
    packets_of,
    parsed,
    verdict_message,
)
from testbed.wan.self_test import self_test

LINKS = (
    KernelLink("10.0.0.2", number=1, delay_s=0.04, bytes_per_s=12_500_000),
    KernelLink(
        "10.0.0.3", number=11, delay_s=0.1, bytes_per_s=125e6, jitter_s=0.002, loss_ratio=0.001
    ),
)


def lines(commands):
    return [" ".join(command) for command in commands]


def test_the_rate_is_shaped_by_a_class_and_a_filter_for_each_peer():
    found = lines(rate_commands("eth0", LINKS))
    assert found[0] == "tc qdisc add dev eth0 root handle 1: htb"
    # 100 Mbit/s of payload is 104.6 on the wire.
    assert found[1] == (
        "tc class add dev eth0 parent 1: classid 1:1 htb rate 104558011bit "
        "burst 131072b cburst 131072b"
    )
    assert found[2] == (
        "tc filter add dev eth0 parent 1: protocol ip u32 match ip dst 10.0.0.2/32 flowid 1:1"
    )
    assert "classid 1:b htb rate 1045580110bit burst 250000b" in found[3]
    assert len(found) == 5


def test_netem_follows_each_class_with_room_for_what_is_in_flight():
    found = lines(netem_commands("eth0", LINKS))
    assert found[:5] == lines(rate_commands("eth0", LINKS))
    assert found[5] == (
        "tc qdisc add dev eth0 parent 1:1 handle 101: netem limit 1000 delay 40000us"
    )
    assert found[6] == (
        "tc qdisc add dev eth0 parent 1:b handle 10b: netem limit 17610 "
        "delay 100000us 2000us loss 0.1000%"
    )


def test_queues_take_what_comes_from_a_peer_and_are_taken_away_again():
    found = lines(queue_commands("eth0", LINKS))
    assert found == [
        "iptables -w -t mangle -N GCOS_WAN",
        "iptables -w -t mangle -I PREROUTING -i eth0 -j GCOS_WAN",
        "iptables -w -t mangle -A GCOS_WAN -s 10.0.0.2 -j NFQUEUE --queue-num 1 --queue-bypass",
        "iptables -w -t mangle -A GCOS_WAN -s 10.0.0.3 -j NFQUEUE --queue-num 11 --queue-bypass",
    ]
    removed = lines(removal_commands("eth0"))
    assert removed[0] == "tc qdisc del dev eth0 root"
    assert removed[1] == found[1].replace("-I", "-D")
    assert lines(netem_probe("eth0"))[1] == removed[0]


# ---- netlink ----------------------------------------------------------------------------------


def packet_message(queue: int, packet_id: int, stamp: bytes = b"") -> bytes:
    """Return what the kernel sends for a packet: another attribute first, then its header."""
    attributes = struct.pack("=HHI", 8, 5, 7) + struct.pack("=HH", 11, 1)
    attributes += struct.pack(">IHB", packet_id, 0x0800, 0) + b"\0" + stamp
    body = struct.pack(">BBH", 2, 0, queue) + attributes
    return struct.pack("=IHHII", 16 + len(body), 3 << 8, 0, 0, 0) + body


def error_message(code: int) -> bytes:
    return struct.pack("=IHHIIi", 36, 2, 0, 0, 0, -code) + bytes(16)


def test_messages_are_those_of_nfnetlink():
    bind, params, room, whole = bind_messages(5)
    assert bind == bytes.fromhex("1c000000020305000000000000000000000000050800010001000002")
    assert struct.unpack_from("=IHH", params) == (32, 0x0302, 5)
    assert params[20:] == bytes.fromhex("090002000000000001000000")
    assert room[20:] == bytes.fromhex("080003000000ffff")
    assert whole[20:] == bytes.fromhex("08000500000000040800040000000004")
    verdict = verdict_message(QueuedPacket(5, 77), 1)
    assert struct.unpack_from("=IHH", verdict) == (32, 0x0301, 1)
    assert verdict[16:] == bytes.fromhex("000000050c000200000000010000004d")


def test_packets_are_read_from_datagrams_and_errors_are_raised():
    data = packet_message(3, 41) + error_message(0) + packet_message(4, 42)
    assert list(packets_of(data)) == [QueuedPacket(3, 41), QueuedPacket(4, 42)]
    assert list(packets_of(data[:-5])) == [QueuedPacket(3, 41)]
    assert list(packets_of(b"")) == []
    stamp = struct.pack("=HH", 20, 4) + struct.pack(">QQ", 1_800_000_000, 250_000)
    assert list(packets_of(packet_message(3, 41, stamp))) == [
        QueuedPacket(3, 41, arrived_s=1_800_000_000.25)
    ]
    with pytest.raises(PermissionError):
        list(packets_of(error_message(1)))


def test_packets_are_held_for_their_delay_and_keep_their_order():
    holding = Holding([QueueDelay(1, 0.04), QueueDelay(2, 0.01, jitter_s=0.005)], Random(1))
    for number in range(100):
        assert holding.take(QueuedPacket(2, number), 1.0 + number * 0.001, wall_s=0.0)
    assert holding.take(QueuedPacket(1, 1), 1.0, wall_s=0.0)
    assert holding.due(1.0) == []
    assert 1.004 < holding.next_s() < 1.016
    first = holding.due(1.05)
    assert QueuedPacket(1, 1) in first
    rest = holding.due(2.0)
    ids = [packet.packet_id for packet in (*first, *rest) if packet.queue == 2]
    assert ids == list(range(100))
    assert holding.next_s() is None
    assert sum(total(holding.lateness.values()).counts) == 101
    assert total(holding.lateness.values()).worst_s > 0.5


def test_packets_are_held_from_when_they_arrived_and_late_by_that():
    holding = Holding([QueueDelay(1, 0.04), QueueDelay(2, 0.04), QueueDelay(3, 0.04)], Random(1))
    holding.take(QueuedPacket(1, 7, arrived_s=900.0), 5.0, wall_s=900.03)
    assert holding.next_s() == pytest.approx(5.01, abs=LEAD_S_MAX)
    assert holding.due(5.012) == [QueuedPacket(1, 7, arrived_s=900.0)]
    assert holding.lateness[1].worst_s == pytest.approx(0.002)
    # Read when it was due long ago: it passes at once, and counts as late.
    holding.take(QueuedPacket(2, 8, arrived_s=900.0), 5.0, wall_s=901.0)
    assert len(holding.due(5.0)) == 1
    assert holding.lateness[2].worst_s == pytest.approx(0.96)
    # The wall clock was set back between stamp and reading.
    holding.take(QueuedPacket(3, 9, arrived_s=900.0), 5.0, wall_s=800.0)
    assert holding.next_s() == pytest.approx(5.04, abs=LEAD_S_MAX)


def test_the_lead_follows_the_median_of_how_late_deliveries_are():
    lead = Lead()
    random = Random(1)
    for _ in range(1000):
        lead.learn(random.choice([0.0002, 0.0004, 0.05]) - lead.lead_s)
    assert 0.0003 < lead.lead_s < 0.0005
    for _ in range(1000):
        lead.learn(1.0)
    assert lead.lead_s == LEAD_S_MAX
    for _ in range(1000):
        lead.learn(-1.0)
    assert lead.lead_s == 0.0


def test_lost_packets_are_not_held():
    holding = Holding([parsed("1:0.04:0:0.25")], Random(1))
    lost = sum(not holding.take(QueuedPacket(1, number), 0.0, wall_s=0.0) for number in range(4000))
    assert 900 < lost < 1100
    with pytest.raises(ValueError, match="not enough values"):
        parsed("1")


# ---- the kernel -------------------------------------------------------------------------------


def namespace_names() -> list[str]:
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return [line.split()[0] for line in done.stdout.splitlines() if line.strip()]


def require_namespaces(*tools: str) -> None:
    reason = namespaces.why_not(*tools)
    if reason:
        pytest.skip(f"no network namespaces here: {reason}")


@pytest.mark.live
def test_the_kernel_delays_and_shapes_a_link_and_nothing_is_left_behind():
    require_namespaces("tc", "iptables")
    before = namespace_names()
    clock = SystemClock()
    began_s = clock.protocol_s()
    found = self_test("nfqueue", rtt_s=0.04, bytes_per_s=4e6)
    # Never faster than asked for; how much slower depends on this machine's load.
    assert found.rtt_s >= 0.04 - 0.004
    assert found.bytes_per_s > 0
    assert clock.protocol_s() - began_s >= 1.9, "8 MB at 4 MB/s, but for a burst"
    assert found.timing.deliveries > 1000
    assert namespace_names() == before


@pytest.mark.live
def test_namespaces_are_gone_after_a_failure():
    require_namespaces()
    before = namespace_names()

    def interrupted() -> None:
        with namespaces.two_namespaces() as (near, far):
            assert {near.name, far.name} <= set(namespace_names())
            assert far.peer == near.address
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert namespace_names() == before
    with pytest.raises(UnavailableError, match="no-such-tool"):
        namespaces.run(["no-such-tool"])


@pytest.mark.live
def test_what_ran_in_a_namespace_has_ended_when_it_is_removed():
    require_namespaces()
    # It takes a moment to give back what it holds.
    script = (
        "import signal; held = bytearray(200_000_000); print('here', flush=True); signal.pause()"
    )
    with namespaces.two_namespaces() as (near, _):
        command = ["ip", "netns", "exec", near.name, sys.executable, "-c", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout.readline() == "here\n"
            assert namespaces.remove(near.name.removesuffix("-a")) == 2
            stat = process_stat(child.pid)
            assert stat is None or not stat.is_executing
    assert near.name not in namespace_names()


@pytest.mark.live
def test_netem_is_used_where_the_kernel_has_it_and_refused_where_not():
    require_namespaces("tc", "iptables")
    with namespaces.two_namespaces() as (near, _):
        has = namespaces.has_netem(near)
    if has:
        assert self_test("netem", rtt_s=0.04, bytes_per_s=4e6).rtt_s >= 0.036
    else:
        with pytest.raises(UnavailableError, match="no netem"):
            self_test("netem", rtt_s=0.04, bytes_per_s=4e6)


def test_a_backend_that_is_none_is_refused():
    with pytest.raises(InvalidRequestError, match="'pigeon' is no backend"):
        self_test("pigeon", rtt_s=0.04, bytes_per_s=4e6)
