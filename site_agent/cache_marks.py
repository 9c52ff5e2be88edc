"""What an operator and the sources have to say about artifacts: pins, and where they came from.

One small file beside the cache, replaced by a rename. It outlives the artifacts themselves, so that
a pin holds again when its artifact comes back; marks without a pin go with their artifact.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from gcos import codec
from gcos.artifacts import CacheMark
from gcos.ids import ArtifactId, RunId
from site_agent.durable_files import disk_errors, sync_directory, write_durably

MARKS_NAME = "cache-marks.json"
"""The file, in the agent's data directory."""

OPERATOR = RunId("operator")
"""Pins in the name of the operator; no run has this id, since those begin with a task's."""


@dataclass(frozen=True, slots=True)
class _Marks:
    """All of them, as they are written down."""

    marks: tuple[CacheMark, ...]


class CacheMarks:
    """The marks of one site. One thread at a time.

    Args:
        path: The file; read now. Blocking.

    Raises:
        GcosError: It is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marks: dict[ArtifactId, CacheMark] = {}
        if path.exists():
            known = codec.decode(_Marks, path.read_bytes())
            self._marks = {mark.artifact_id: mark for mark in known.marks}

    def of(self, artifact_id: ArtifactId) -> CacheMark:
        """Return what is said of an artifact."""
        return self._marks.get(artifact_id, CacheMark(artifact_id))

    def pinned(self) -> tuple[ArtifactId, ...]:
        """Return what the operator keeps, here or not."""
        return tuple(sorted(mark.artifact_id for mark in self._marks.values() if mark.is_pinned))

    def pulled(self, reference: str, revision: str) -> tuple[ArtifactId, ...]:
        """Return what this state of an upstream became."""
        return tuple(
            mark.artifact_id
            for mark in self._marks.values()
            if (mark.reference, mark.revision) == (reference, revision)
        )

    def set_pin(self, artifact_id: ArtifactId, is_pinned: bool) -> None:
        """Note a pin, or that it is gone; `save` makes it durable."""
        self._marks[artifact_id] = replace(self.of(artifact_id), is_pinned=is_pinned)

    def set_source(self, artifact_id: ArtifactId, reference: str, revision: str) -> None:
        """Note where an artifact was pulled from; `save` makes it durable."""
        mark = replace(self.of(artifact_id), reference=reference, revision=revision)
        self._marks[artifact_id] = mark

    def snapshot(self, held: Collection[ArtifactId]) -> bytes:
        """Return the marks to write; those of artifacts that are gone are forgotten.

        Args:
            held: Artifacts that are here.
        """
        kept = {
            artifact_id: mark
            for artifact_id, mark in sorted(self._marks.items())
            if mark.is_pinned or (mark.reference and artifact_id in held)
        }
        self._marks = kept
        return codec.encode(_Marks(tuple(kept.values())))

    def save(self, snapshot: bytes) -> None:
        """Write a snapshot. Blocking.

        Raises:
            CacheFullError: The disk is full.
        """
        with disk_errors(self._path):
            write_durably(self._path, snapshot)
            sync_directory(self._path.parent)
