"""When artifacts are used next: what a clairvoyant eviction knows."""

import math
from bisect import bisect_right
from collections.abc import Callable

from gcos.ids import ArtifactId
from testbed.sim.instance import Instance


class NextUse:
    """The true trace of one run, by artifact.

    A use is the arrival of a task that names the artifact, wherever it arrives. Runs that have
    arrived and not ended hold what they need by pins, not by their place in this order.

    Args:
        instance: Whose tasks.
        now_s: Returns the world instant.
    """

    def __init__(self, instance: Instance, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._uses_s: dict[str, list[float]] = {}
        for task in sorted(instance.tasks, key=lambda task: task.arrival_s):
            for artifact_id in (task.model, task.data):
                self._uses_s.setdefault(artifact_id, []).append(task.arrival_s)

    def at_s(self, artifact_id: ArtifactId) -> float:
        """Return the instant of the next use after now; infinite where there is none."""
        uses_s = self._uses_s.get(artifact_id, [])
        place = bisect_right(uses_s, self._now_s())
        return uses_s[place] if place < len(uses_s) else math.inf
