"""Transfers under way: the arithmetic of `testbed.sim.network`, over lists linked by index."""

from testbed.fast.compiled import compiled
from testbed.fast.heap import push
from testbed.fast.kinds import FLOW_END
from testbed.fast.layout import State
from testbed.sim.engine import WORLD


@compiled
def begin_flow(s: State, source: int, target: int, artifact: int) -> int:
    """Begin to move an artifact over the link between two sites; return the flow."""
    top = s.g[0]
    top.free_flow_count -= 1
    known = s.free_flows[top.free_flow_count]
    flow, link = s.flows[known], s.links[source, target]
    flow.source = source
    flow.target = target
    flow.artifact = artifact
    flow.begun_s = top.now_s
    flow.bytes_per_s = link.bytes_per_s
    flow.left_bytes = float(s.artifacts[artifact].size_bytes)
    flow.updated_s = top.now_s + link.rtt_s / 2
    flow.rate = 0.0
    there, here = s.sites[source], s.sites[target]
    flow.out_previous, flow.out_next = there.out_last, -1
    if there.out_last >= 0:
        s.flows[there.out_last].out_next = known
    else:
        there.out_first = known
    there.out_last = known
    there.out_count += 1
    flow.in_previous, flow.in_next = here.in_last, -1
    if here.in_last >= 0:
        s.flows[here.in_last].in_next = known
    else:
        here.in_first = known
    here.in_last = known
    here.in_count += 1
    _reshare(s, source, target)
    return known


@compiled
def end_flow(s: State, known: int) -> None:
    """Take a flow that has ended off its link; its slot is free from now on."""
    flow = s.flows[known]
    there, here = s.sites[flow.source], s.sites[flow.target]
    if flow.out_previous >= 0:
        s.flows[flow.out_previous].out_next = flow.out_next
    else:
        there.out_first = flow.out_next
    if flow.out_next >= 0:
        s.flows[flow.out_next].out_previous = flow.out_previous
    else:
        there.out_last = flow.out_previous
    there.out_count -= 1
    if flow.in_previous >= 0:
        s.flows[flow.in_previous].in_next = flow.in_next
    else:
        here.in_first = flow.in_next
    if flow.in_next >= 0:
        s.flows[flow.in_next].in_previous = flow.in_previous
    else:
        here.in_last = flow.in_previous
    here.in_count -= 1
    flow.version += 1
    top = s.g[0]
    s.free_flows[top.free_flow_count] = known
    top.free_flow_count += 1
    _reshare(s, flow.source, flow.target)


@compiled
def _reshare(s: State, source: int, target: int) -> None:
    """Give new rates to the flows that leave `source` or arrive at `target`."""
    known = s.sites[source].out_first
    while known >= 0:
        _set_rate(s, known)
        known = s.flows[known].out_next
    known = s.sites[target].in_first
    while known >= 0:
        if s.flows[known].source != source:
            _set_rate(s, known)
        known = s.flows[known].in_next


@compiled
def _set_rate(s: State, known: int) -> None:
    flow, now_s = s.flows[known], s.g[0].now_s
    crowd = max(s.sites[flow.source].out_count, s.sites[flow.target].in_count)
    rate = flow.bytes_per_s / crowd if s.g[0].shares_bandwidth else flow.bytes_per_s
    if rate == flow.rate:
        return
    if now_s > flow.updated_s:
        flow.left_bytes = max(0.0, flow.left_bytes - flow.rate * (now_s - flow.updated_s))
        flow.updated_s = now_s
    flow.rate = rate
    flow.version += 1
    end_s = flow.updated_s + flow.left_bytes / rate
    push(s, end_s, WORLD, FLOW_END, known, flow.version)
