"""What was decided about copies and why, durable: read by `gcos cache ls`, `log` and `explain`.

Decisions are noted in memory at once and written to a log of the journal right after. Nothing is
decided by them, so nobody waits for the disk: what was noted in the last moment before a crash may
be missing.
"""

import asyncio
from collections import deque
from collections.abc import Collection
from typing import Final, Protocol

from gcos import codec
from gcos.clock import Clock
from gcos.copy_events import ARRIVALS, COPY_EVENT_COUNT_MAX, CopyEvent
from gcos.errors import GcosError
from gcos.ids import ArtifactId, SiteId, TaskId
from gcos.logs import Log
from gcos.store import Append, Store

COPIES: Final = "copies"
"""Log of the journal: artifact id, `CopyEvent`."""

#: A log is trimmed when so many rows have been added to it.
_TRIM_COUNT: Final = 200


class CopyNotes(Protocol):
    """Takes note of what is decided about copies."""

    def note(
        self,
        kind: str,
        artifact_id: ArtifactId,
        name: str,
        why: str,
        *,
        task_id: TaskId | None = None,
        site_id: SiteId | None = None,
        without_learning: str = "",
    ) -> None:
        """Take note of a decision as of now; the fields are those of `CopyEvent`."""


class Unnoted:
    """Where nobody will ask."""

    def note(
        self,
        kind: str,
        artifact_id: ArtifactId,
        name: str,
        why: str,
        *,
        task_id: TaskId | None = None,
        site_id: SiteId | None = None,
        without_learning: str = "",
    ) -> None:
        """Forget it."""


class CopyLog:
    """The decisions of one site.

    Args:
        journal: Where they are kept.
        clock: World time.
        log: Where it is told that they could not be written.
    """

    def __init__(self, journal: Store, clock: Clock, log: Log) -> None:
        self._journal = journal
        self._clock = clock
        self._log = log
        #: The latest ones, oldest first.
        self._events: deque[CopyEvent] = deque(maxlen=COPY_EVENT_COUNT_MAX)
        self._unsaved: deque[CopyEvent] = deque(maxlen=COPY_EVENT_COUNT_MAX)
        self._has_unsaved = asyncio.Event()
        self._added_count = 0

    def note(
        self,
        kind: str,
        artifact_id: ArtifactId,
        name: str,
        why: str,
        *,
        task_id: TaskId | None = None,
        site_id: SiteId | None = None,
        without_learning: str = "",
    ) -> None:
        """Take note of a decision as of now; the fields are those of `CopyEvent`."""
        event = CopyEvent(
            self._clock.world_s(),
            kind=kind,
            artifact_id=artifact_id,
            name=name,
            why=why,
            task_id=task_id,
            site_id=site_id,
            without_learning=without_learning,
        )
        self._events.append(event)
        self._unsaved.append(event)
        self._has_unsaved.set()

    def latest(
        self,
        count_max: int,
        task_id: TaskId | None = None,
        artifact_ids: Collection[ArtifactId] = (),
    ) -> tuple[CopyEvent, ...]:
        """Return the latest decisions, oldest first.

        Args:
            count_max: At most so many.
            task_id: Only those because of this task; None: all.
            artifact_ids: Only those about these artifacts; empty: about all.
        """
        assert count_max > 0, "nothing was asked for"
        found = [
            each
            for each in self._events
            if (task_id is None or each.task_id == task_id)
            and (not artifact_ids or each.artifact_id in artifact_ids)
        ]
        return tuple(found[-count_max:])

    def arrivals(self) -> dict[ArtifactId, CopyEvent]:
        """Return how each artifact came here last, where that is still known."""
        return {each.artifact_id: each for each in self._events if each.kind in ARRIVALS}

    async def restore(self) -> None:
        """Take over what the journal knows; before anything is noted."""
        rows = await self._journal.read_log(COPIES)
        self._events.extend(codec.decode(CopyEvent, row.value) for row in rows)
        self._added_count = len(rows)

    async def save(self) -> None:
        """Write what is not written yet."""
        batch = tuple(self._unsaved)
        self._unsaved.clear()
        self._has_unsaved.clear()
        if not batch:
            return
        rows = [Append(COPIES, each.artifact_id, codec.encode(each)) for each in batch]
        try:
            await self._journal.commit(rows)
            self._added_count += len(rows)
            if self._added_count >= COPY_EVENT_COUNT_MAX + _TRIM_COUNT:
                await self._journal.trim_log(COPIES, keep=COPY_EVENT_COUNT_MAX)
                self._added_count = COPY_EVENT_COUNT_MAX
        except GcosError as exc:
            self._log.warning("copy_log_unwritten", count=len(rows), error=str(exc))

    async def save_forever(self) -> None:
        """Write decisions as they are noted."""
        while True:
            await self._has_unsaved.wait()
            await self.save()
