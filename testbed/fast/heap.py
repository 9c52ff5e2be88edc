"""Events by `(time, priority, sequence)`, as in `testbed.sim.engine`: a heap, and what is due now.

Most events are entered for the instant that it is. They need no heap: of each priority they come in
the order in which they were entered.
"""

from testbed.fast.compiled import compiled
from testbed.fast.layout import PRIORITY_COUNT, SOON_COUNT, State

#: The priority stands above so many bits of the sequence number.
_PRIORITY_SHIFT = 56


@compiled
def push(s: State, time_s: float, priority: int, kind: int, a: int, b: int) -> None:
    """Enter an event; an instant that has passed is now."""
    top, heap = s.g[0], s.heap
    top.sequence += 1
    key = (priority << _PRIORITY_SHIFT) | top.sequence
    if time_s <= top.now_s:
        time_s = top.now_s
        if top.soon_end[priority] < SOON_COUNT:  # the heap takes what is more
            event = s.soon[priority, top.soon_end[priority]]
            top.soon_end[priority] += 1
            event.key = key
            event.kind = kind
            event.a = a
            event.b = b
            return
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
def has_events(s: State) -> bool:
    """Tell whether any event is left."""
    top = s.g[0]
    count = top.heap_count
    for priority in range(PRIORITY_COUNT):
        count += top.soon_end[priority]
    return bool(count > 0)


@compiled
def pop(s: State) -> tuple[float, int, int, int]:
    """Remove the first event; return its instant, kind and both arguments."""
    top = s.g[0]
    for priority in range(PRIORITY_COUNT):
        if top.soon_end[priority] > 0:
            event = s.soon[priority, top.soon_first[priority]]
            first = s.heap[0]
            if top.heap_count > 0 and first.time_s <= top.now_s and first.key < event.key:
                break
            top.soon_first[priority] += 1
            if top.soon_first[priority] == top.soon_end[priority]:
                top.soon_first[priority] = 0
                top.soon_end[priority] = 0
            return top.now_s, event.kind, event.a, event.b
    return _pop_heap(s)


@compiled
def _pop_heap(s: State) -> tuple[float, int, int, int]:
    top, heap = s.g[0], s.heap
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
