"""Orders to the emulator of a testbed, and its links measured from outside."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from gcos import codec
from gcos.errors import GcosError, InvalidRequestError, UnavailableError
from testbed.relay import MakeSocket, RelayReading, echoing, new_socket, read_link
from testbed.wan.carried_links import made_in
from testbed.wan.matrix import between
from testbed.wan.records import Answer, Carrier, LinkChange, Order, WanConfig

_ANSWER_BYTES_MAX: Final = 4 << 20
_ORDER_S: Final = 5.0
#: A probe that gets no answer in so many round trips is over a link that is cut.
_PROBE_RTTS: Final = 60
_PROBE_S_MIN: Final = 10.0
_RAMP_RTTS: Final = 20
#: How long a probe of the rate sends.
FLOW_S: Final = 1.0

RTT_ERROR_MAX_S: Final = 0.001
RATE_ERROR_MAX: Final = 0.05


@dataclass(frozen=True, slots=True)
class LinkReading:
    """A link as asked for and as measured, from one place to another and back.

    Attributes:
        src: Place that dials.
        dst: Place that answers.
        asked_rtt_s: Round-trip time: both one-way delays.
        asked_bytes_per_s: Rate from `dst` to `src`.
        rtt_s: Median by TCP echo; None: not measured, or nothing came back.
        bytes_per_s: Throughput of one connection; None: not measured.
        is_cut: The link is cut.
        is_capped: The rate is the emulator's limit, less than the world's.
        is_measured: The figures asked for were measured between real regions.
    """

    src: str
    dst: str
    asked_rtt_s: float
    asked_bytes_per_s: float
    rtt_s: float | None = None
    bytes_per_s: float | None = None
    is_cut: bool = False
    is_capped: bool = False
    is_measured: bool = False

    @property
    def is_true(self) -> bool:
        """Whether all that was measured is within `RTT_ERROR_MAX_S` and `RATE_ERROR_MAX`."""
        rtt_is_true = self.rtt_s is None or (abs(self.rtt_s - self.asked_rtt_s) <= RTT_ERROR_MAX_S)
        rate_is_true = self.bytes_per_s is None or (
            abs(self.bytes_per_s / self.asked_bytes_per_s - 1) <= RATE_ERROR_MAX
        )
        return rtt_is_true and rate_is_true


async def ask(address: str, order: Order) -> Answer:
    """Give the emulator an order and return what it says.

    Raises:
        InvalidRequestError: It refused.
        UnavailableError: It does not answer.
    """
    async with _asked(address, order) as answer:
        return answer


async def change(config: WanConfig, token: str, changes: Sequence[LinkChange]) -> Answer:
    """Cut, heal or slow directions."""
    return await ask(config.address, Order(token, changes=tuple(changes)))


def asked_reading(
    config: WanConfig, changes: Sequence[LinkChange], src: str, dst: str
) -> LinkReading:
    """Return what is asked of the link between two places, with what was done to it."""
    there, back = between(config.links, src, dst)
    by_pair = {(each.src, each.dst): each for each in changes}
    unchanged = LinkChange(src, dst)
    on_there = by_pair.get((src, dst), unchanged)
    on_back = by_pair.get((dst, src), unchanged)
    return LinkReading(
        src,
        dst,
        asked_rtt_s=there.delay_s * on_there.factor + back.delay_s * on_back.factor,
        asked_bytes_per_s=back.bytes_per_s / on_back.factor,
        is_cut=on_there.is_cut or on_back.is_cut,
        is_capped=back.bytes_per_s < back.asked_bytes_per_s,
        is_measured=there.is_measured and back.is_measured,
    )


async def measure(
    config: WanConfig, token: str, asked: LinkReading, *, flow_s: float = FLOW_S
) -> LinkReading:
    """Return a reading of the link, by TCP echo over its lanes.

    Args:
        config: The emulator's.
        token: Secret of the cluster.
        asked: What `asked_reading` returned.
        flow_s: How long bytes flow to measure the rate; 0: the rate is not measured.
    """
    if asked.is_cut:
        return asked
    if not config.places:
        async with echoing() as target:
            return await measure_to(target, config, token, asked, flow_s=flow_s)
    ends = {place.name: place for place in config.places}
    src, dst = ends[asked.src], ends[asked.dst]
    async with echoing(dst.address, make_socket=made_in(dst.namespace)) as target:
        return await measure_to(
            target, config, token, asked, flow_s=flow_s, make_socket=made_in(src.namespace)
        )


async def measure_to(
    target: str,
    config: WanConfig,
    token: str,
    asked: LinkReading,
    *,
    flow_s: float = FLOW_S,
    make_socket: MakeSocket = new_socket,
) -> LinkReading:
    """Do the same to a server of `testbed.relay.echoing` that is there already."""
    if asked.is_cut:
        return asked
    if flow_s and config.carrier is not Carrier.RELAY:
        # TCP sees the distance, and needs round trips to find the rate.
        flow_s += _RAMP_RTTS * asked.asked_rtt_s
    flow_bytes = int(asked.asked_bytes_per_s * flow_s)
    limit_s = max(_PROBE_S_MIN, asked.asked_rtt_s * _PROBE_RTTS) + 5 * flow_s
    found: RelayReading | None = None
    order = Order(token, probe=(asked.src, asked.dst), target=target)
    async with _asked(config.address, order) as answer:
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(limit_s):
                found = await read_link(
                    answer.address, flow_bytes=flow_bytes, make_socket=make_socket
                )
    return LinkReading(
        asked.src,
        asked.dst,
        asked_rtt_s=asked.asked_rtt_s,
        asked_bytes_per_s=asked.asked_bytes_per_s,
        rtt_s=None if found is None else found.rtt_s,
        bytes_per_s=None if found is None or not flow_bytes else found.bytes_per_s,
        is_cut=found is None,
        is_capped=asked.is_capped,
        is_measured=asked.is_measured,
    )


@contextlib.asynccontextmanager
async def probing(
    config: WanConfig, token: str, src: str, dst: str, target: str
) -> AsyncIterator[str]:
    """Give an address that leads over the link from `src` to `dst` to a server at `target`.

    Raises:
        InvalidRequestError: There is no such link.
        UnavailableError: The emulator does not answer.
    """
    order = Order(token, probe=(src, dst), target=target)
    async with _asked(config.address, order) as answer:
        yield answer.address


@contextlib.asynccontextmanager
async def _asked(address: str, order: Order) -> AsyncIterator[Answer]:
    """Give the answer; what it opened is there while the block lasts."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_ORDER_S):
            reader, writer = await asyncio.open_connection(host, int(port), limit=_ANSWER_BYTES_MAX)
    except (OSError, TimeoutError) as exc:
        raise _silent(address) from exc
    try:
        try:
            async with asyncio.timeout(_ORDER_S):
                writer.write(codec.encode(order) + b"\n")
                answer = codec.decode(Answer, await reader.readline())
        except (OSError, TimeoutError, ValueError, GcosError) as exc:
            raise _silent(address) from exc
        if answer.problem:
            raise InvalidRequestError(f"the emulator of links refused: {answer.problem}")
        yield answer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _silent(address: str) -> UnavailableError:
    return UnavailableError(
        f"the emulator of links at {address} does not answer",
        hint="bring it back with: gcos testbed up",
    )
