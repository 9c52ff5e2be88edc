"""The relay on loopback; how well it keeps time, `python -m testbed.relay check` measures."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from testbed.relay import Relay, RelayReading, check


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
    async with Relay(target, rate_bytes_per_s=1e9, delay_s=0.001) as relay:
        assert await exchange(relay.address, data) == data[::-1]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(exchange(relay.address, bytes([n]))) for n in range(5)]
        assert [task.result() for task in tasks] == [bytes([n]) for n in range(5)]


async def test_a_target_that_refuses_ends_the_connection() -> None:
    async with Relay("127.0.0.1:1", rate_bytes_per_s=1e9, delay_s=0.001) as relay:
        with pytest.raises(ConnectionResetError):
            await exchange(relay.address, b"x")


async def test_the_self_test_measures_both_delay_and_rate() -> None:
    """Never faster than the link; how much slower depends on this machine's load."""
    reading = await check(rate_bytes_per_s=4e6, delay_s=0.02)
    assert isinstance(reading, RelayReading)
    assert reading.rtt_s >= 0.04 - 0.002
    assert 0 < reading.bytes_per_s <= 4e6 * 1.25
