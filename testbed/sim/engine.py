"""A heap of events: `(time_s, priority, sequence, action)`. The sequence number settles ties.

The shape is simpy's `core.py` without processes: an event is a call. Nothing here knows what is
simulated; time moves only from one event to the next.
"""

import heapq
import math
from collections.abc import Callable

Action = Callable[[], None]

#: Of events at one instant, those of the world (a transfer ends, a job exits) come first, then
#: beats (the hour's signals), then what people do: a decision sees all that has happened by then.
WORLD = 0
BEAT = 1
DECISION = 2


class Engine:
    """Runs actions in order of time, then priority, then the order in which they were asked for."""

    __slots__ = ("_heap", "_sequence", "event_count", "now_s")

    def __init__(self, start_s: float) -> None:
        self.now_s = start_s
        self.event_count = 0
        self._heap: list[tuple[float, int, int, Action]] = []
        self._sequence = 0

    def at(self, time_s: float, action: Action, priority: int = WORLD) -> None:
        """Do `action` at `time_s`; an instant that has passed is now."""
        time_s = max(time_s, self.now_s)
        self._sequence += 1
        heapq.heappush(self._heap, (time_s, priority, self._sequence, action))

    def soon(self, action: Action, priority: int = WORLD) -> None:
        """Do `action` at this instant, after what is being done."""
        self._sequence += 1
        heapq.heappush(self._heap, (self.now_s, priority, self._sequence, action))

    def step(self) -> bool:
        """Do the next action; tell whether there was one."""
        if not self._heap:
            return False
        self.now_s, _, _, action = heapq.heappop(self._heap)
        self.event_count += 1
        action()
        return True

    def run(self, until_s: float = math.inf) -> None:
        """Run until nothing is left, or up to and with `until_s`."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until_s:
            self.now_s, _, _, action = pop(heap)
            self.event_count += 1
            action()
