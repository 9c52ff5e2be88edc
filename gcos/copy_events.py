"""What a site decided about copies of artifacts, written down when it decided: pure records."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from gcos.ids import ArtifactId, SiteId, TaskId

COPY_EVENT_COUNT: Final = 100
"""Decisions that are read unless told otherwise."""

COPY_EVENT_COUNT_MAX: Final = 1_000
"""Decisions that a site keeps, the latest ones."""

ARRIVALS: Final = frozenset({"fetched", "added", "pulled", "copy_arrived"})
"""Kinds of what brought a copy."""

_STANDING: Final = ARRIVALS | {"copy_decided", "copy_failed", "evicted", "removed"}


@dataclass(frozen=True, slots=True)
class CopyEvent:
    """One decision about one copy, or what came of it.

    Attributes:
        at_s: World instant.
        kind: Stable name: `fetched` for a task, `added` or `pulled` by somebody, `mended` where it
            was damaged, `copy_decided`, `copy_refused`, `copy_arrived` and `copy_failed` of a
            migration, `evicted`, `removed` by the operator, `custody_offered`, `custody_taken`,
            `custody_moved`, `custody_refused`.
        artifact_id: Which artifact.
        name: What people call it.
        why: For a person.
        task_id: The task because of which; None: none alone.
        site_id: The other site: whence it came, or who takes its custody; None: none.
        without_learning: What would have been decided without what was learned, in words; empty
            where nothing learned had a part in it.
    """

    at_s: float
    kind: str
    artifact_id: ArtifactId
    name: str
    why: str
    task_id: TaskId | None = None
    site_id: SiteId | None = None
    without_learning: str = ""


def standing(
    events: Iterable[CopyEvent], artifact_ids: Collection[ArtifactId], *, until_s: float
) -> tuple[CopyEvent, ...]:
    """Return why each artifact was at a site or not: what last brought it, or took it away.

    Args:
        events: Of one site, oldest first.
        artifact_ids: Which artifacts.
        until_s: World instant; what was decided later is left out.

    Returns:
        One event at most for each artifact, oldest first.
    """
    latest: dict[ArtifactId, CopyEvent] = {}
    for event in events:
        is_early = event.at_s <= until_s and event.artifact_id in artifact_ids
        if is_early and event.kind in _STANDING:
            latest.pop(event.artifact_id, None)
            latest[event.artifact_id] = event
    return tuple(latest.values())
