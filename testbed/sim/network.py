"""Transfers over links whose bandwidth is shared by concurrent flows.

A flow gets the rate of its link divided by the larger of the numbers of flows that leave its source
and arrive at its destination: equal shares at either end, the narrower one counts. With one flow
the link is free; contention only lengthens. (Fair sharing as in SimGrid's fluid models, Velho et
al., ACM TOMACS 2013, with equal in place of max-min shares: a change touches only the flows that
have an end in common with it.) The first byte takes half a round trip.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gcos.ids import SiteId
from gcos.sites import Link
from testbed.sim.engine import Engine


@dataclass(slots=True, eq=False)
class Flow:
    """One transfer under way.

    Attributes:
        source: From where.
        target: To where.
        bytes_per_s: Rate of the link alone.
        left_bytes: Bytes still to go at `updated_s`.
        on_end: Told when the last byte is there.
        rate: Bytes per second now.
        updated_s: Instant at which `left_bytes` was right.
        version: Counts changes of the rate; an end that was planned before the last is void.
    """

    source: SiteId
    target: SiteId
    bytes_per_s: float
    left_bytes: float
    on_end: Callable[[], None]
    updated_s: float
    rate: float = 0.0
    version: int = 0


class Network:
    """All flows."""

    def __init__(self, engine: Engine, *, shares_bandwidth: bool) -> None:
        self._engine = engine
        self._shares = shares_bandwidth
        self._out: dict[SiteId, dict[Flow, None]] = {}
        self._in: dict[SiteId, dict[Flow, None]] = {}

    def start(
        self,
        source: SiteId,
        target: SiteId,
        link: Link,
        size_bytes: int,
        on_end: Callable[[], None],
    ) -> None:
        """Begin to move `size_bytes` over `link`; `on_end` is called when all of them are there."""
        begin_s = self._engine.now_s + link.rtt_s / 2
        flow = Flow(source, target, link.bytes_per_s, float(size_bytes), on_end, begin_s)
        self._out.setdefault(source, {})[flow] = None
        self._in.setdefault(target, {})[flow] = None
        self._reshare(flow)

    def _end(self, flow: Flow, version: int) -> None:
        if version != flow.version:
            return  # its rate has changed since
        del self._out[flow.source][flow]
        del self._in[flow.target][flow]
        flow.version += 1
        self._reshare(flow)
        flow.on_end()

    def _reshare(self, changed: Flow) -> None:
        """Give new rates to the flows that share an end with one that came or went."""
        outgoing, incoming = self._out[changed.source], self._in[changed.target]
        for flow in (*outgoing, *(each for each in incoming if each not in outgoing)):
            self._set_rate(flow)

    def _set_rate(self, flow: Flow) -> None:
        crowd = max(len(self._out[flow.source]), len(self._in[flow.target]))
        rate = flow.bytes_per_s / crowd if self._shares else flow.bytes_per_s
        if rate == flow.rate:
            return
        now_s = self._engine.now_s
        if now_s > flow.updated_s:
            flow.left_bytes = max(0.0, flow.left_bytes - flow.rate * (now_s - flow.updated_s))
            flow.updated_s = now_s
        flow.rate = rate
        flow.version += 1
        version = flow.version
        end_s = flow.updated_s + flow.left_bytes / rate
        self._engine.at(end_s, lambda: self._end(flow, version))
