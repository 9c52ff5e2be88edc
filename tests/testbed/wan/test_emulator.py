"""The emulator in this process, over loopback; figures depend on the load, so only signs count."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gcos import codec
from gcos.errors import InvalidRequestError, UnavailableError
from gcos.rpc.security import write_token
from gcos.system import SystemClock
from testbed.relay import echoing, read_link
from testbed.wan.cluster import cut, healed, slowed
from testbed.wan.control import LinkReading, ask, asked_reading, change, measure
from testbed.wan.emulator import Emulator
from testbed.wan.records import LinkChange, Order, RelayPlan, WanConfig, WanLink


def direction(src: str, dst: str) -> WanLink:
    return WanLink(
        src, dst, "DE", "SG", rtt_s=0.02, asked_bytes_per_s=4e6, bytes_per_s=4e6, is_measured=True
    )


@pytest.fixture
async def target():
    async with echoing() as address:
        yield address


@pytest.fixture
def path(tmp_path: Path, target: str) -> Path:
    write_token(tmp_path / "token")
    config = WanConfig(
        address="127.0.0.1:0",
        token_file=str(tmp_path / "token"),
        links=(direction("de", "sg"), direction("sg", "de")),
        relays=(RelayPlan("de", "sg", address="127.0.0.1:0", target=target),),
    )
    path = tmp_path / "wan.json"
    path.write_bytes(codec.encode(config))
    return path


def token_of(path: Path) -> str:
    return path.with_name("token").read_text().strip()


async def test_links_are_measured_as_asked_for_and_changed_while_they_carry(path: Path):
    token = token_of(path)
    async with Emulator(path) as emulator:
        config = emulator.config
        asked = asked_reading(config, (), "de", "sg")
        clock = SystemClock()
        began_s = clock.protocol_s()
        reading = await measure(config, token, asked, flow_s=0.4)
        assert clock.protocol_s() - began_s >= 0.4
        assert reading.rtt_s >= 0.02 - 0.004
        assert reading.bytes_per_s > 0
        answer = await change(config, token, slowed("de", "sg", 3.0))
        asked = asked_reading(config, answer.changes, "de", "sg")
        assert asked.asked_rtt_s == pytest.approx(0.06)
        reading = await measure(config, token, asked, flow_s=0.0)
        assert reading.rtt_s >= 0.06 - 0.004
        assert reading.bytes_per_s is None
        answer = await ask(config.address, Order(token))
        assert sum(sum(lane.counts) for lane in answer.lanes) > 80
        answer = await change(config, token, healed(answer.changes, ("sg", "de")))
        assert answer.changes == ()


async def test_a_way_leads_to_its_target_and_a_partition_holds_it(path: Path):
    token = token_of(path)
    async with Emulator(path) as emulator:
        config = emulator.config
        relay = emulator.links.addresses["de", "sg"]
        assert (await read_link(relay, flow_bytes=0)).rtt_s >= 0.016
        answer = await change(config, token, cut("de", "sg"))
        assert len(answer.changes) == 2
        asked = asked_reading(config, answer.changes, "de", "sg")
        assert (await measure(config, token, asked)).is_cut
        async with asyncio.TaskGroup() as group:
            held = group.create_task(read_link(relay, flow_bytes=0))
            await ask(config.address, Order(token))
            assert not held.done()
            await change(config, token, healed(answer.changes))


async def test_what_was_done_to_links_outlives_the_process(path: Path):
    async with Emulator(path) as emulator:
        await change(emulator.config, token_of(path), cut("de", "sg"))
    async with Emulator(path) as emulator:
        answer = await ask(emulator.config.address, Order(token_of(path)))
        assert all(each.is_cut for each in answer.changes)
        assert len(answer.changes) == 2


async def test_orders_without_the_token_or_without_sense_are_refused(path: Path):
    token = token_of(path)
    async with Emulator(path) as emulator:
        address = emulator.config.address
        with pytest.raises(InvalidRequestError, match="token is wrong"):
            await ask(address, Order("guessed"))
        with pytest.raises(InvalidRequestError, match="no link from 'de' to 'mars'"):
            await ask(address, Order(token, changes=(LinkChange("de", "mars"),)))
        with pytest.raises(InvalidRequestError, match="no link from 'mars'"):
            await ask(address, Order(token, probe=("mars", "de"), target="127.0.0.1:1"))
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"{}\n")
        assert b"no order" in await reader.read()
        writer.close()
    with pytest.raises(UnavailableError, match="does not answer"):
        await ask(address, Order(token))


def test_a_reading_is_true_within_a_millisecond_and_five_percent():
    asked = LinkReading("de", "sg", asked_rtt_s=0.08, asked_bytes_per_s=1e6)
    assert asked.is_true
    assert replace(asked, rtt_s=0.0809, bytes_per_s=0.951e6).is_true
    assert not replace(asked, rtt_s=0.0811).is_true
    assert not replace(asked, bytes_per_s=0.949e6).is_true
