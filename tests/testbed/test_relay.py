"""The relay on loopback; how well it keeps time, `python -m testbed.relay check` measures."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from random import Random

import pytest

from gcos.system import SystemClock
from testbed.lateness import LATENESS_BOUNDS_S, Lateness
from testbed.relay import Lane, Relay, RelayReading, check, flow_rate


@pytest.fixture
async def target() -> AsyncIterator[str]:
    """A server that sends back what it received when its peer has sent all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read(-1))[::-1])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"{host}:{port}"
    server.close()


async def exchange(address: str, data: bytes) -> bytes:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    writer.write_eof()
    answer = await reader.read(-1)
    writer.close()
    return answer


async def test_bytes_arrive_whole_in_order_and_with_their_end(target: str) -> None:
    data = bytes(range(256)) * 4000
    async with Relay.symmetric(target, rate_bytes_per_s=1e9, delay_s=0.001) as relay:
        assert await exchange(relay.address, data) == data[::-1]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(exchange(relay.address, bytes([n]))) for n in range(5)]
        assert [task.result() for task in tasks] == [bytes([n]) for n in range(5)]


async def test_a_target_that_refuses_ends_the_connection() -> None:
    async with Relay.symmetric("127.0.0.1:1", rate_bytes_per_s=1e9, delay_s=0.001) as relay:
        with pytest.raises(ConnectionResetError):
            await exchange(relay.address, b"x")


async def test_the_self_test_measures_both_delay_and_rate() -> None:
    """Never faster than the link; how much slower depends on this machine's load."""
    clock = SystemClock()
    began_s = clock.protocol_s()
    reading = await check(rate_bytes_per_s=4e6, delay_s=0.02)
    took_s = clock.protocol_s() - began_s
    assert isinstance(reading, RelayReading)
    assert reading.rtt_s >= 0.04 - 0.002
    assert reading.bytes_per_s > 0
    assert took_s >= 1.5, "as long as 6 MB take at 4 MB/s"


def test_the_rate_of_a_flow_is_that_of_its_second_half() -> None:
    steady = [(n / 100, n * 1000) for n in range(1, 101)]
    assert flow_rate(steady) == pytest.approx(1e5)
    slow_start = [(n / 50, n * 1000) for n in range(1, 51)]
    after = [(1.0 + n / 100, 50_000 + n * 1000) for n in range(1, 51)]
    assert flow_rate(slow_start + after) == pytest.approx(1e5)
    held_up = [(0.1, 1000), *((1.0, n * 1000) for n in range(2, 101))]
    assert flow_rate(held_up) == pytest.approx(99_000 / 0.9)


def test_a_lane_sends_one_after_the_other_and_keeps_its_delay() -> None:
    lane = Lane(1000.0, 0.04)
    assert lane.arrival_s(100, now_s=1.0) == pytest.approx(1.0 + 0.1 + 0.04)
    assert lane.arrival_s(100, now_s=1.0) == pytest.approx(1.0 + 0.2 + 0.04)
    assert lane.arrival_s(100, now_s=5.0) == pytest.approx(5.0 + 0.1 + 0.04)


def test_jitter_spreads_arrivals_and_a_lost_packet_comes_a_round_trip_late() -> None:
    lane = Lane(1e12, 0.04, jitter_s=0.01, random=Random(1))
    flights = [lane.arrival_s(1, now_s=float(n)) - n for n in range(1000)]
    assert 0.03 <= min(flights) < 0.031
    assert 0.049 < max(flights) <= 0.05001
    lossy = Lane(1e12, 0.04, loss_ratio=0.1, random=Random(1))
    late = sum(lossy.arrival_s(1, now_s=float(n)) - n > 0.1 for n in range(10_000))
    assert 900 < late < 1100
    with pytest.raises(AssertionError, match="chance is handed in"):
        Lane(1.0, 0.0, loss_ratio=0.1)


async def test_a_cut_lane_holds_bytes_and_connections_until_it_is_healed(target: str) -> None:
    there, back = Lane(1e9, 0.001), Lane(1e9, 0.001)
    async with Relay(target, there=there, back=back) as relay, asyncio.TaskGroup() as group:
        there.cut()
        task = group.create_task(exchange(relay.address, b"abc"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.shield(task)
        assert not task.done()
        there.heal()
        assert await task == b"cba"
        # What is on its way when the way back is cut arrives when it is healed.
        back.cut()
        task = group.create_task(exchange(relay.address, b"xyz"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.shield(task)
        assert not task.done()
        back.heal()
        assert await task == b"zyx"


async def test_a_relay_ends_while_a_connection_waits_for_a_cut_lane(target: str) -> None:
    lane = Lane(1e9, 0.001)
    lane.cut()
    async with Relay(target, there=lane, back=lane) as relay:
        host, _, port = relay.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()


def test_lateness_is_counted_in_classes() -> None:
    lateness = Lateness()
    for late_s in (0.0, 0.001, 0.0011, 0.3, 9.0):
        lateness.add(late_s)
    assert lateness.counts[0] == 2
    assert lateness.counts[LATENESS_BOUNDS_S.index(0.002)] == 1
    assert lateness.counts[-1] == 1
    assert (sum(lateness.counts), lateness.worst_s) == (5, 9.0)
