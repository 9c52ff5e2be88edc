"""How often artifacts are used here and elsewhere, with the old forgotten. Pure.

A use counts exp(-age / DEMAND_S): at a steady rate r a site remembers 72 h x r uses. All counts
decay alike, so they compare without regard to the instant; they are kept at the last instant that
was heard of. What is not cached is counted too: that is what migration looks for.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Final

from gcos.ids import ArtifactId

#: Time constant of forgetting, world seconds (72 h: DESIGN section 7 C).
DEMAND_S: Final = 72 * 3600.0
#: Artifacts remembered; the least used go first.
ARTIFACT_COUNT_MAX: Final = 10_000


class Demand:
    """Decayed uses of artifacts at one site, and what is heard of the others'."""

    def __init__(self) -> None:
        self._now_s = -math.inf
        self._uses: dict[ArtifactId, tuple[float, float]] = {}
        self._elsewhere: Mapping[ArtifactId, float] = {}

    def note(self, artifact_id: ArtifactId, *, now_s: float) -> None:
        """Count a use."""
        self._now_s = max(self._now_s, now_s)
        self._uses[artifact_id] = (self.here(artifact_id) + 1.0, self._now_s)
        if len(self._uses) > ARTIFACT_COUNT_MAX:
            kept = sorted(self._uses, key=self.here)[ARTIFACT_COUNT_MAX // 10 :]
            self._uses = {key: self._uses[key] for key in self._uses if key in set(kept)}

    def here(self, artifact_id: ArtifactId) -> float:
        """Return the decayed uses at this site."""
        count, at_s = self._uses.get(artifact_id, (0.0, self._now_s))
        return count * math.exp((at_s - self._now_s) / DEMAND_S) if count else 0.0

    def elsewhere(self, artifact_id: ArtifactId) -> float:
        """Return the decayed uses at all other sites, as last heard."""
        return self._elsewhere.get(artifact_id, 0.0)

    def hear(self, elsewhere: Mapping[ArtifactId, float]) -> None:
        """Take what other sites told of theirs, summed."""
        self._elsewhere = elsewhere

    def top(self, count: int) -> Iterator[tuple[ArtifactId, float]]:
        """Yield the most used artifacts here with their decayed uses, most used first."""
        ranked = sorted(self._uses, key=lambda key: (-self.here(key), key))
        for artifact_id in ranked[:count]:
            yield artifact_id, self.here(artifact_id)

    def heard(self) -> Iterator[ArtifactId]:
        """Yield what is used elsewhere, sorted."""
        yield from sorted(self._elsewhere)
