"""The directories of an `ArtifactStore`: what moves between them, and what a start finds there.

Nothing here knows the books. Blocking, except for single renames.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gcos.artifacts import Artifact
from gcos.errors import GcosError
from gcos.ids import ArtifactId
from site_agent.durable_files import disk_errors, sync_directory
from site_agent.stored_artifact import FILES, StoredArtifact, hex_of, read_record, write_record


@dataclass(frozen=True, slots=True)
class Rejected:
    """A directory that was found at the start and is not served.

    Attributes:
        directory: Its name.
        why: One sentence.
        is_kept: It was set aside in `damaged/`, since it may be a custodian's; else removed.
        artifact: What it was, where it was whole.
    """

    directory: str
    why: str
    is_kept: bool
    artifact: Artifact | None = None


class StoreAreas:
    """`artifacts`, `adopted`, `partial`, `trash` and `damaged` below one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._trash_count = 0

    def open(self) -> None:
        """Make the areas; what an earlier process was bringing or removing goes."""
        # Models and data may be confidential: nobody but the agent's user reads them.
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Names of adopted files are made anew: who owns the bytes may have removed theirs.
        for name in ("trash", "partial", "adopted"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        for name in ("trash", "partial", "adopted", "artifacts", "damaged"):
            (self.root / name).mkdir(exist_ok=True)

    def complete(self, artifact_id: ArtifactId) -> Path:
        """Return where a complete artifact lies."""
        return self.root / "artifacts" / hex_of(artifact_id)

    def adopted(self, artifact_id: ArtifactId) -> Path:
        """Return where the names of another program's files lie."""
        return self.root / "adopted" / hex_of(artifact_id)

    def partial(self, artifact_id: ArtifactId) -> Path:
        """Return where an artifact lies while it arrives."""
        return self.root / "partial" / hex_of(artifact_id)

    def publish(self, artifact_id: ArtifactId) -> None:
        """Let an artifact be complete, by one rename.

        Raises:
            CacheFullError: The disk is full.
        """
        with disk_errors(self.root):
            self.partial(artifact_id).rename(self.complete(artifact_id))

    def sync(self) -> None:
        """Make publications survive a power cut.

        Raises:
            CacheFullError: The disk is full.
        """
        with disk_errors(self.root):
            sync_directory(self.root / "artifacts")

    def to_trash(self, artifact_id: ArtifactId) -> Path:
        """Take a complete artifact out of sight, so that its name is free at once.

        Raises:
            CacheFullError: The disk is full.
        """
        return self.place_to_trash(self.complete(artifact_id))

    def place_to_trash(self, place: Path) -> Path:
        """Take a directory of this file system out of sight.

        Raises:
            CacheFullError: The disk is full.
        """
        self._trash_count += 1
        trash = self.root / "trash" / str(self._trash_count)
        with disk_errors(self.root):
            place.rename(trash)
        return trash

    def seal(self, record: StoredArtifact) -> None:
        """Make a partial copy durable whose files are all finished.

        Raises:
            CacheFullError: The disk is full.
        """
        directory = self.partial(record.manifest.artifact_id)
        with disk_errors(self.root):
            _share_equal_files(directory / FILES, record)
            write_record(directory, record)
            for where, _, _ in os.walk(directory, topdown=False):
                sync_directory(Path(where))

    def drop_partial(self, artifact_id: ArtifactId) -> None:
        """Remove what came of an artifact so far."""
        directory = self.partial(artifact_id)
        if directory.exists():
            shutil.rmtree(directory)

    def found(self) -> tuple[list[StoredArtifact], list[Rejected]]:
        """Return the artifacts that lie here; what is none of them is set aside."""
        records: list[StoredArtifact] = []
        rejected: list[Rejected] = []
        for directory in sorted((self.root / "artifacts").iterdir()):
            try:
                if not re.fullmatch(r"[0-9a-f]{64}", directory.name):
                    raise GcosError("its name is no digest")
                records.append(read_record(directory))
            except GcosError as exc:
                shutil.rmtree(self.root / "damaged" / directory.name, ignore_errors=True)
                directory.rename(self.root / "damaged" / directory.name)
                rejected.append(Rejected(directory.name, why=exc.message, is_kept=True))
        return records, rejected

    def names(self) -> set[str]:
        """Return the names of everything that lies among the complete artifacts."""
        return {path.name for path in (self.root / "artifacts").iterdir()}

    def has_all_names(self, status: os.stat_result) -> bool:
        """Tell whether every name of a file lies below the root; looks at each name there."""
        count = 0
        for where, _, names in os.walk(self.root):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    count += os.path.samestat((Path(where) / name).lstat(), status)
        return count == status.st_nlink

    def stored_bytes(self, records: Iterable[StoredArtifact]) -> int:
        """Return what complete artifacts take together, each inode counted once."""
        sizes_bytes: dict[int, int] = {}
        for record in records:
            files = self.complete(record.manifest.artifact_id) / FILES
            for entry in record.manifest.files:
                with contextlib.suppress(FileNotFoundError):
                    status = (files / entry.path).lstat()
                    sizes_bytes[status.st_ino] = status.st_size
        return sum(sizes_bytes.values())


def paths_by_content(record: StoredArtifact) -> Mapping[str, str]:
    """Return for each content of an artifact a path that has it; nothing for empty files."""
    return {entry.sha256: entry.path for entry in record.manifest.files if entry.size_bytes}


def _share_equal_files(files: Path, record: StoredArtifact) -> None:
    """Let the files of one artifact that are equal be one inode."""
    chosen = paths_by_content(record)
    for entry in record.manifest.files:
        first = files / chosen.get(entry.sha256, entry.path)
        path = files / entry.path
        if first.samefile(path):
            continue
        temporary = files.with_name("equal")
        try:
            os.link(first, temporary, follow_symlinks=False)
        except OSError as exc:
            if exc.errno != errno.EMLINK:
                raise
            continue  # an inode takes 65,000 names on ext4: this one keeps its own
        temporary.replace(path)
