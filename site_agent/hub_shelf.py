"""What the hub's tools see of a store, kept in step with what is complete there. Blocking."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from gcos.errors import CacheFullError
from gcos.ids import ArtifactId
from site_agent.durable_files import disk_errors
from site_agent.hub_layout import HubLayout
from site_agent.store_areas import StoreAreas
from site_agent.stored_artifact import FILES, StoredArtifact, hex_of


class HubShelf:
    """A `HubLayout` that follows a store; any thread may call it.

    Args:
        areas: Where complete artifacts lie.
        record_of: Returns the record of an artifact that is complete now, else None.
    """

    def __init__(
        self, areas: StoreAreas, record_of: Callable[[ArtifactId], StoredArtifact | None]
    ) -> None:
        root = areas.root
        self._areas = areas
        self._record_of = record_of
        self._layout = HubLayout(
            root / "hub", placements=root / "placements", scratch=root / "partial"
        )
        #: Published, and not shown yet.
        self._waiting: deque[ArtifactId] = deque()
        self._lock = threading.Lock()

    @property
    def root(self) -> Path:
        """The directory that the hub's tools read."""
        return self._layout.hub

    def open(self, records: list[StoredArtifact]) -> None:
        """Show exactly these, the last one placed last."""
        self._layout.open()
        complete = {hex_of(record.manifest.artifact_id) for record in records}
        for key in sorted(self._layout.shown - complete):
            self._layout.remove(key)
        self._waiting.extend(record.manifest.artifact_id for record in records)
        with contextlib.suppress(CacheFullError):
            # A full disk is no reason not to serve what is here; what waits is tried again.
            self.show_waiting()

    def wait(self, artifact_id: ArtifactId) -> None:
        """Note what was published. Does not block."""
        self._waiting.append(artifact_id)

    def show_waiting(self) -> None:
        """Show what was published.

        Raises:
            CacheFullError: The disk is full; the rest waits on.
        """
        with contextlib.suppress(IndexError):
            while True:
                artifact_id = self._waiting.popleft()
                try:
                    self.show(artifact_id)
                except BaseException:
                    self._waiting.append(artifact_id)
                    raise

    def show(self, artifact_id: ArtifactId) -> None:
        """Let an artifact be seen exactly if it is complete.

        Raises:
            CacheFullError: The disk is full.
        """
        with self._lock, disk_errors(self.root):
            record = self._record_of(artifact_id)
            if record is not None and not self._place(record):
                record = None
            if record is None:
                self._layout.remove(hex_of(artifact_id))

    def show_as(self, record: StoredArtifact) -> None:
        """Let an artifact that is complete, and stays so meanwhile, be seen under other names.

        Raises:
            CacheFullError: The disk is full.
        """
        with self._lock, disk_errors(self.root):
            self._place(record)

    def _place(self, record: StoredArtifact) -> bool:
        files = self._areas.complete(record.manifest.artifact_id) / FILES
        try:
            self._layout.place(record, files)
        except FileNotFoundError:
            # Evicted meanwhile, or damaged: neither is to be seen.
            return False
        return True
