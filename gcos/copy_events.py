"""What a site decided about copies of artifacts, written down when it decided: pure records."""

from dataclasses import dataclass
from typing import Final

from gcos.ids import ArtifactId, SiteId, TaskId

COPY_EVENT_COUNT: Final = 100
"""Decisions that are read unless told otherwise."""

COPY_EVENT_COUNT_MAX: Final = 1_000
"""Decisions that a site keeps, the latest ones."""


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
    """

    at_s: float
    kind: str
    artifact_id: ArtifactId
    name: str
    why: str
    task_id: TaskId | None = None
    site_id: SiteId | None = None
