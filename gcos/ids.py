"""Names of things. Every id is text on the wire; `NewType` keeps them apart in code.

A task id is `<origin site>-<13 characters>`, so that any agent knows from the id alone whom to ask.
A run id is `<task id>.<epoch>.<attempt>`: one attempt of one task under one fence.
"""

import re
from dataclasses import dataclass
from typing import NewType

SiteId = NewType("SiteId", str)
TaskId = NewType("TaskId", str)
RunId = NewType("RunId", str)
AwardId = NewType("AwardId", str)
TransferId = NewType("TransferId", str)
ArtifactId = NewType("ArtifactId", str)
"""`sha256:` and the hex digest of the artifact's manifest: the same content has the same id."""

SITE_ID = re.compile(r"[a-z][a-z0-9]{0,23}")
"""Short, lower case and free of `-` and `.`, which separate the parts of longer ids."""

ARTIFACT_ID = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class Fence:
    """Which attempt of a task speaks. Compared lexicographically: a lower fence is always stale."""

    #: Raised when another site adopts the tasks of a lost origin.
    origin_epoch: int = 1
    #: Counts awards of the task, those that a crash made void included, from 1.
    attempt: int = 0

    def next_attempt(self) -> "Fence":
        """Return the fence of the following attempt."""
        return Fence(self.origin_epoch, self.attempt + 1)


def task_id(origin: SiteId, unique: str) -> TaskId:
    """Return the id of a task that `origin` owns; `unique` is 13 characters of base 32."""
    return TaskId(f"{origin}-{unique}")


def origin_of(task: TaskId) -> SiteId:
    """Return the site that issued `task`; the whole text where it carries no site."""
    return SiteId(task.split("-", 1)[0])


def run_id(task: TaskId, fence: Fence) -> RunId:
    """Return the id of the attempt `fence` of `task`."""
    return RunId(f"{task}.{fence.origin_epoch}.{fence.attempt}")


def task_of(run: RunId) -> TaskId | None:
    """Return the task of an attempt; None where `run` is none of a task, such as a copy's."""
    task, *fence = run.rsplit(".", 2)
    return TaskId(task) if len(fence) == 2 else None


def is_site_id(text: str) -> bool:
    """Tell whether `text` may name a site."""
    return SITE_ID.fullmatch(text) is not None


def is_artifact_id(text: str) -> bool:
    """Tell whether `text` is a well-formed artifact id, safe to become part of a file name."""
    return ARTIFACT_ID.fullmatch(text) is not None
