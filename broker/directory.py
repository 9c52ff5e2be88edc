"""Who holds what: from artifacts, by content or name, to the sites that serve them. Pure.

Follows the holdings that sites report with each beat; a site that lapses holds nothing.
"""

import difflib
from dataclasses import dataclass, field
from typing import Final

from gcos.artifacts import Artifact, ArtifactKind, Reference
from gcos.ids import ArtifactId, SiteId

NEAREST_COUNT_MAX: Final = 3
#: `difflib` takes about 10 µs a name, and nobody else is served meanwhile.
NEAREST_NAME_COUNT_MAX: Final = 500


@dataclass(slots=True)
class Entry:
    """One content.

    Attributes:
        artifact_id: Its id.
        kind: Model or data set, as whoever told of it first says; the id covers it.
        size_bytes: Likewise.
        names: What each holder calls it; never empty.
    """

    artifact_id: ArtifactId
    kind: ArtifactKind
    size_bytes: int
    names: dict[SiteId, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name that sorts first, so that every caller sees the same."""
        return min(self.names.values())


@dataclass(frozen=True, slots=True)
class Finding:
    """What a reference means: one content, several, or none but some that are near.

    Attributes:
        entry: The one content; None otherwise.
        ambiguous_ids: Sorted ids, where the name means several contents.
        nearest: Names like it, where it means none.
    """

    entry: Entry | None = None
    ambiguous_ids: tuple[ArtifactId, ...] = ()
    nearest: tuple[str, ...] = ()


class Directory:
    """Artifacts by id and name, with the sites that hold them."""

    def __init__(self) -> None:
        self._entries: dict[ArtifactId, Entry] = {}
        #: How many holders use a name for a content.
        self._ids_by_name: dict[str, dict[ArtifactId, int]] = {}
        self._holdings: dict[SiteId, tuple[Artifact, ...]] = {}
        self._held: dict[SiteId, dict[ArtifactId, str]] = {}

    def update(self, site_id: SiteId, holdings: tuple[Artifact, ...]) -> None:
        """Take what a site holds now; the cost is that of the difference and of one comparison."""
        if self._holdings.get(site_id) == holdings:
            return
        before = self._held.get(site_id, {})
        after = {artifact.artifact_id: artifact.name for artifact in holdings}
        for artifact_id, name in before.items():
            if after.get(artifact_id) != name:
                self._remove(site_id, artifact_id, name)
        for artifact in holdings:
            if before.get(artifact.artifact_id) != after[artifact.artifact_id]:
                self._add(site_id, artifact, after[artifact.artifact_id])
        self._holdings[site_id] = holdings
        self._held[site_id] = after

    def drop(self, site_id: SiteId) -> None:
        """Forget a site."""
        for artifact_id, name in self._held.pop(site_id, {}).items():
            self._remove(site_id, artifact_id, name)
        self._holdings.pop(site_id, None)

    def get(self, artifact_id: ArtifactId) -> Entry | None:
        """Return a content; None where nobody holds it."""
        return self._entries.get(artifact_id)

    def site_ids(self) -> list[SiteId]:
        """Return the sites that told what they hold."""
        return sorted(self._held)

    def find(self, reference: Reference) -> Finding:
        """Return what a reference means. An id decides alone; a name may mean several contents."""
        if reference.artifact_id is not None:
            entry = self._entries.get(reference.artifact_id)
            if entry is not None:
                return Finding(entry)
            known = self._ids_by_name.get(reference.name)
            return Finding(nearest=self._nearest(reference.name) if known is None else ())
        ids = self._ids_by_name.get(reference.name)
        if ids is None:
            return Finding(nearest=self._nearest(reference.name))
        if len(ids) == 1:
            return Finding(self._entries[next(iter(ids))])
        return Finding(ambiguous_ids=tuple(sorted(ids)))

    def _nearest(self, name: str) -> tuple[str, ...]:
        """Return up to three names like `name`: those that contain it, then similar ones."""
        lowered = name.lower()
        known = sorted(self._ids_by_name)
        containing = [other for other in known if lowered in other.lower()]
        likeliest = sorted(known, key=lambda other: other[0].lower() != lowered[0])
        by_lowered = {other.lower(): other for other in likeliest[:NEAREST_NAME_COUNT_MAX]}
        similar = difflib.get_close_matches(lowered, by_lowered, NEAREST_COUNT_MAX)
        found = dict.fromkeys([*containing, *(by_lowered[other] for other in similar)])
        return tuple(found)[:NEAREST_COUNT_MAX]

    def _add(self, site_id: SiteId, artifact: Artifact, name: str) -> None:
        entry = self._entries.get(artifact.artifact_id)
        if entry is None:
            entry = Entry(artifact.artifact_id, artifact.kind, artifact.size_bytes)
            self._entries[artifact.artifact_id] = entry
        if site_id in entry.names:
            return  # told twice in one digest
        entry.names[site_id] = name
        ids = self._ids_by_name.setdefault(name, {})
        ids[artifact.artifact_id] = ids.get(artifact.artifact_id, 0) + 1

    def _remove(self, site_id: SiteId, artifact_id: ArtifactId, name: str) -> None:
        entry = self._entries[artifact_id]
        del entry.names[site_id]
        if not entry.names:
            del self._entries[artifact_id]
        ids = self._ids_by_name[name]
        ids[artifact_id] -= 1
        if not ids[artifact_id]:
            del ids[artifact_id]
        if not ids:
            del self._ids_by_name[name]

    def check_invariants(self) -> None:
        """Assert what always holds; for tests and simulation."""
        held = {(a, s): n for s, own in self._held.items() for a, n in own.items()}
        assert held == {(a, s): n for a, e in self._entries.items() for s, n in e.names.items()}
        counts: dict[str, dict[ArtifactId, int]] = {}
        for (artifact_id, _), name in held.items():
            ids = counts.setdefault(name, {})
            ids[artifact_id] = ids.get(artifact_id, 0) + 1
        assert counts == self._ids_by_name
        assert all(entry.names for entry in self._entries.values())
