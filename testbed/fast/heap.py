"""The heap of events: `(time, priority, sequence)` as in `testbed.sim.engine`, over an array."""

from testbed.fast.compiled import compiled
from testbed.fast.layout import Records

#: The priority stands above so many bits of the sequence number.
_PRIORITY_SHIFT = 56


@compiled
def push(
    g: Records, heap: Records, time_s: float, priority: int, kind: int, a: int, b: int
) -> None:
    """Enter an event; an instant that has passed is now."""
    top = g[0]
    time_s = max(time_s, top.now_s)
    top.sequence += 1
    key = (priority << _PRIORITY_SHIFT) | top.sequence
    at = top.heap_count
    top.heap_count = at + 1
    while at > 0:
        parent = (at - 1) >> 1
        other = heap[parent]
        if other.time_s < time_s or (other.time_s == time_s and other.key < key):
            break
        heap[at] = other
        at = parent
    event = heap[at]
    event.time_s = time_s
    event.key = key
    event.kind = kind
    event.a = a
    event.b = b


@compiled
def pop(g: Records, heap: Records) -> tuple[float, int, int, int]:
    """Remove the first event; return its instant, kind and both arguments."""
    top = g[0]
    first = heap[0]
    time_s, kind, a, b = first.time_s, first.kind, first.a, first.b
    count = top.heap_count - 1
    top.heap_count = count
    if count > 0:
        last = heap[count]
        at = 0
        while True:
            child = 2 * at + 1
            if child >= count:
                break
            below = heap[child]
            if child + 1 < count:
                other = heap[child + 1]
                if other.time_s < below.time_s or (
                    other.time_s == below.time_s and other.key < below.key
                ):
                    child += 1
                    below = other
            if last.time_s < below.time_s or (last.time_s == below.time_s and last.key < below.key):
                break
            heap[at] = below
            at = child
        heap[at] = last
    return time_s, kind, a, b
