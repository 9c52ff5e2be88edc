"""Working directories that clients sent for one task each, and when they may go. Pure.

    PutArtifact ─▶ awaited ─▶ Submit ─▶ task taken ─▶ task ended ─┐
                      │                └▶ task refused ───────────┴▶ spent ─▶ removed
                      └─▶ (never submitted: nobody knows that it was sent for a task)

An upload makes its agent the custodian, so nothing else would ever remove it. Content is addressed
by its digest, so one directory sent for two tasks is one artifact: it stays while an unfinished
task names it, and while an upload of it waits to be named by the submission that follows.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from gcos.artifacts import SENT_WORKDIR_PREFIX, parse_reference
from gcos.ids import ArtifactId
from gcos.task_record import Task

#: Protocol seconds within which a submission follows its upload.
AWAITED_S = 600.0


class Outcome(Enum):
    """What became of a submission."""

    TAKEN = "TAKEN"
    #: No new task was made of it, now or ever.
    REFUSED = "REFUSED"
    #: It may come again.
    UNKNOWN = "UNKNOWN"


def sent(reference: str) -> tuple[ArtifactId, str] | None:
    """Return content and name of a directory sent for one task; None: it is something else.

    Raises:
        InvalidRequestError: It is no reference.
    """
    named = parse_reference(reference, field="workdir")
    if named.artifact_id is None or not named.name.startswith(SENT_WORKDIR_PREFIX):
        return None
    return named.artifact_id, named.name


@dataclass(slots=True)
class SentWorkdirs:
    """The sent working directories of one origin, so far as they are on their way out."""

    #: Protocol instants until which uploads of a content wait for their submissions.
    awaited_s: dict[ArtifactId, list[float]] = field(default_factory=dict)
    #: The name under which each one was sent whose task has ended or was refused.
    spent: dict[ArtifactId, str] = field(default_factory=dict)

    def uploaded(self, artifact_id: ArtifactId, *, now_s: float) -> None:
        """An upload has come, and may be named by a submission soon."""
        self._lapse(now_s)
        self.awaited_s.setdefault(artifact_id, []).append(now_s + AWAITED_S)

    def submitted(self, reference: str, outcome: Outcome) -> None:
        """A submission with a working directory that was sent was answered, or not.

        Args:
            reference: Of the directory, `NAME@ID`; nothing else was sent for one task.
            outcome: What became of it.
        """
        named = sent(reference)
        if named is None:
            return
        artifact_id, name = named
        awaited = self.awaited_s.get(artifact_id, [])
        if awaited and outcome is not Outcome.UNKNOWN:
            awaited.pop(0)
        if not awaited:
            self.awaited_s.pop(artifact_id, None)
        if outcome is not Outcome.TAKEN:
            self.spent[artifact_id] = name

    def ended(self, task: Task) -> bool:
        """Take note of the end of a task; return whether its working directory may go with it."""
        named = sent(task.spec.workdir) if task.spec.is_workdir_sent and task.spec.workdir else None
        if named is not None:
            self.spent[named[0]] = named[1]
        return named is not None

    def due(self, unfinished: Iterable[Task], *, now_s: float) -> dict[ArtifactId, str]:
        """Return what may be removed now, and the name of each.

        Args:
            unfinished: The tasks of this origin that have not ended; what they name comes back with
                their own ends.
            now_s: Protocol instant.
        """
        if not self.spent:
            return {}
        for task in unfinished:
            for need in task.needs:
                self.spent.pop(need.artifact_id, None)
        self._lapse(now_s)
        return {known: name for known, name in self.spent.items() if known not in self.awaited_s}

    def gone(self, artifact_id: ArtifactId) -> None:
        """It was removed, or somebody else needs it."""
        self.spent.pop(artifact_id, None)

    def _lapse(self, now_s: float) -> None:
        for known, awaited in list(self.awaited_s.items()):
            left = [until_s for until_s in awaited if until_s > now_s]
            if left:
                self.awaited_s[known] = left
            else:
                del self.awaited_s[known]
