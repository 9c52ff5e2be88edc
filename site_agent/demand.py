"""How often artifacts are used here and elsewhere, with the old forgotten. Pure.

A use counts exp(-age / DEMAND_S): at a steady rate r a site remembers 72 h x r uses. All counts
decay alike, so they compare without regard to the instant; they are kept at the last instant that
was heard of. What is not cached is counted too: that is what migration looks for.

For evictions a *rate* is kept beside that count, the mean of estimates at several time constants:

    rate = mean over tau of  (sum over uses of exp(-age / tau)) / tau,    tau = 1, 8, 64, 512 h

A burst counts much for hours, steady use for weeks, as the power-law forgetting of reference
streams asks for (cf. LRFU, Lee et al., IEEE ToC 2001, which has one such constant).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Final

from gcos.ids import ArtifactId
from policies.evictors import DEMAND_H

#: Time constant of forgetting, world seconds (72 h: DESIGN section 7 C).
DEMAND_S: Final = DEMAND_H * 3600.0
#: Time constants of the rate, world hours.
RATE_H: Final = (1.0, 8.0, 64.0, 512.0)
#: Artifacts remembered; the least used go first.
ARTIFACT_COUNT_MAX: Final = 10_000


class Demand:
    """Decayed uses of artifacts at one site, and what is heard of the others'."""

    def __init__(self) -> None:
        self._now_s = -math.inf
        self._uses: dict[ArtifactId, tuple[float, float]] = {}
        #: Decayed uses by time constant of the rate, at the instant that `_uses` names.
        self._paces: dict[ArtifactId, tuple[float, ...]] = {}
        self._elsewhere: Mapping[ArtifactId, float] = {}

    def note(self, artifact_id: ArtifactId, *, now_s: float) -> None:
        """Count a use."""
        self._now_s = max(self._now_s, now_s)
        self._paces[artifact_id] = tuple(count + 1.0 for count in self._paces_of(artifact_id))
        self._uses[artifact_id] = (self.here(artifact_id) + 1.0, self._now_s)
        if len(self._uses) > ARTIFACT_COUNT_MAX:
            kept = sorted(self._uses, key=self.here)[ARTIFACT_COUNT_MAX // 10 :]
            self._uses = {key: self._uses[key] for key in self._uses if key in set(kept)}
            self._paces = {key: self._paces[key] for key in self._uses}

    def here(self, artifact_id: ArtifactId) -> float:
        """Return the decayed uses at this site."""
        count, at_s = self._uses.get(artifact_id, (0.0, self._now_s))
        return count * math.exp((at_s - self._now_s) / DEMAND_S) if count else 0.0

    def rate_per_h(self, artifact_id: ArtifactId) -> float:
        """Return the uses an hour at this site, the mean of estimates over `RATE_H`."""
        if artifact_id not in self._uses:
            return 0.0
        counts = self._paces_of(artifact_id)
        return sum(count / tau_h for count, tau_h in zip(counts, RATE_H, strict=True)) / len(RATE_H)

    def _paces_of(self, artifact_id: ArtifactId) -> tuple[float, ...]:
        """Return the decayed uses by time constant, as of the last instant heard of."""
        if artifact_id not in self._uses:
            return (0.0,) * len(RATE_H)
        age_h = (self._now_s - self._uses[artifact_id][1]) / 3600.0
        counts = self._paces[artifact_id]
        return tuple(c * math.exp(-age_h / tau_h) for c, tau_h in zip(counts, RATE_H, strict=True))

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
