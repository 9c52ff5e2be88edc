"""The trained actors of one agent: loaded once it serves, asked inline, and never waited for.

Until a file is loaded, and where it cannot be used, the rule decides alone. Which of that is the
case, and why, is told by the log, by the health service (`gcos.actor.PART`) and by `statuses`.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gcos.actor_status import ActorStatus
from gcos.logs import Log
from policies.features import UNITS
from policies.maccs.actor import Actor, Rows, actor_path, load_actor
from policies.maccs.artifact_features import FEATURES as ARTIFACT_FEATURES
from policies.maccs.artifact_features import PART as ARTIFACT
from policies.maccs.copy_plan import UNLEARNED, Learned
from policies.maccs.fallback import Fallback, FallbackReason
from policies.maccs.task_actor import PART as TASK

#: Inputs of each part's actor as they are computed here: unit by name.
FEATURES: Final[Mapping[str, Mapping[str, str]]] = {ARTIFACT: ARTIFACT_FEATURES, TASK: UNITS}
#: Before the name of a part, in the health service.
HEALTH_PREFIX: Final = "gcos.actor."


@dataclass(slots=True)
class _Place:
    """An actor or why there is none; neither until it was looked for."""

    found: Actor | Fallback | None = None
    call_count: int = 0


class Actors:
    """The actors of one agent.

    Args:
        parts: Those that its policy has.
        directory: Where their files lie; None: the shipped ones.
        log: Where it is told what was loaded.
    """

    def __init__(self, parts: Sequence[str], directory: Path | None, log: Log) -> None:
        self._directory = directory
        self._log = log
        self._places = {part: _Place() for part in parts}
        self._changed = asyncio.Event()
        #: How often the rule came to decide alone, by part and reason.
        self.fallback_counts: Counter[tuple[str, FallbackReason]] = Counter()

    def load(self) -> None:
        """Load what is not loaded yet; takes a fraction of a second, so not in the event loop."""
        for part, place in self._places.items():
            if place.found is None:
                path = actor_path(part, self._directory)
                place.found = load_actor(path, part, FEATURES[part])

    def actor(self, part: str) -> Actor | None:
        """Return the actor of a part; None: the rule decides alone."""
        place = self._places.get(part)
        return place.found if place is not None and isinstance(place.found, Actor) else None

    def correction(self) -> Learned:
        """Return what corrects the copy plan; nothing where the rule decides alone."""
        actor = self.actor(ARTIFACT)
        if actor is None:
            return UNLEARNED
        place = self._places[ARTIFACT]

        def counted(rows: Rows) -> Rows:
            place.call_count += 1
            return actor(rows)

        return Learned(counted, actor.card.residual_scale, is_asked=True)

    def count(self, part: str) -> None:
        """Count a call of an actor that somebody else asks."""
        self._places[part].call_count += 1

    def failed(self, part: str, message: str) -> None:
        """Let the rule decide alone from now on: the actor answered with an error."""
        self._places[part].found = Fallback(FallbackReason.RUNTIME, message)
        self._tell(part)
        self._changed.set()

    def statuses(self) -> tuple[ActorStatus, ...]:
        """Return how each actor is, by part; none of one that is still to be loaded."""
        return tuple(
            _status(part, place.found, place.call_count)
            for part, place in sorted(self._places.items())
            if place.found is not None
        )

    async def watch(self, set_health: Callable[[str, bool], Awaitable[None]]) -> None:
        """Load all in the background, and say for ever whether they are used.

        Args:
            set_health: Sets whether a name serves, in the health service.
        """
        await asyncio.to_thread(self.load)
        for part in self._places:
            self._tell(part)
        while True:
            self._changed.clear()
            for status in self.statuses():
                await set_health(f"{HEALTH_PREFIX}{status.part}", not status.fallback_reason)
            await self._changed.wait()

    def _tell(self, part: str) -> None:
        found = self._places[part].found
        if isinstance(found, Actor):
            scale = found.card.residual_scale
            self._log.info("actor_loaded", part=part, version=found.version, scale=scale)
        elif found is not None:
            self.fallback_counts[part, found.reason] += 1
            self._log.error(
                "actor_fallback", part=part, reason=found.reason.value, message=found.message
            )


def _status(part: str, found: Actor | Fallback, call_count: int) -> ActorStatus:
    if isinstance(found, Actor):
        return ActorStatus(part, found.version, found.card.residual_scale, call_count, "", "")
    return ActorStatus(part, "", 0.0, call_count, found.reason.value, found.message)
