"""The cache as the Hugging Face hub's tools read it: a second set of names for the same inodes.

    <hub>/models--org--name/blobs/<etag or sha256>      hard links to the store's files
                            snapshots/<revision>/<path> relative links to blobs
                            refs/main                   the newest revision
    <placements>/<hex digest>.json                      what was placed for an artifact

`huggingface_hub` scans `<hub>` and nothing beside it. Whatever is placed is written down before the
first link is made, so that a process that dies in between leaves nothing that a later one cannot
remove; a snapshot itself comes and goes by one rename. Layout as in `huggingface_hub` 2.4:
`scan_cache_dir`, `snapshot_download(local_files_only=True)`, `try_to_load_from_cache`.

Everything here is blocking and derived: it can be removed and made again from the store's records.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from gcos import codec
from gcos.artifacts import ArtifactKind
from gcos.errors import GcosError
from site_agent.durable_files import write_durably, write_new
from site_agent.stored_artifact import StoredArtifact, hex_of

_REPO_KIND = {ArtifactKind.MODEL: "models", ArtifactKind.DATA: "datasets"}
_REPO_ID_MAX = 96
_REVISION_HEX = 40
#: What the hub's client keeps of a repository beside content; gone with its last revision.
_CLIENT_NOTES = (".no_exist", "trees")
_LINKS_FULL = frozenset({errno.EMLINK})


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a snapshot.

    Attributes:
        path: As in the manifest.
        blob: Name of its content below `blobs/`.
    """

    path: str
    blob: str


@dataclass(frozen=True, slots=True)
class HubView:
    """One artifact under one of its names.

    Attributes:
        repo: Directory of the repository, such as `models--org--name`.
        revision: 40 hex digits.
        files: Its files.
    """

    repo: str
    revision: str
    files: tuple[HubFile, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Everything that is placed for one artifact."""

    views: tuple[HubView, ...]


def repo_id_of(name: str) -> str:
    """Return the hub's repository id for an artifact's name: the name itself wherever it is one.

    The hub refuses `--`, `..`, names that end with `.`, `-` or `.git`, and more than 96 characters.
    Such a name is rewritten, and the digest of the original keeps two of them apart.
    """
    is_repo_id = (
        len(name) <= _REPO_ID_MAX
        and "--" not in name
        and ".." not in name
        and not name.endswith(".git")
        and all(part[-1] not in ".-" for part in name.split("/"))
    )
    if is_repo_id:
        return name
    suffix = "-" + hashlib.sha256(name.encode()).hexdigest()[:12]
    plain = re.sub(r"[-.]{2,}", "-", name.replace(".git", "-git"))
    parts = [part.strip(".-") for part in plain[: _REPO_ID_MAX - len(suffix)].split("/")]
    return "/".join(part for part in parts if part) + suffix


def repo_directory(kind: ArtifactKind, name: str) -> str:
    """Return the directory of the repository that shows an artifact of this name."""
    return "--".join([_REPO_KIND[kind], *repo_id_of(name).split("/")])


def revision_of(record: StoredArtifact) -> str:
    """Return the hub's revision where it is known, else the head of the content id."""
    if record.hub_origin is not None:
        return record.hub_origin.revision
    return _own_revision(record)


class HubLayout:
    """The hub's names of what a store holds. One thread at a time.

    Args:
        hub: Root that the hub's tools are given as `HF_HUB_CACHE` or `cache_dir`.
        placements: Directory of what was placed; the store's own.
        scratch: Directory on the same file system whose content a restart removes.
    """

    def __init__(self, hub: Path, *, placements: Path, scratch: Path) -> None:
        self.hub = hub
        self._placements = placements
        self._scratch = scratch
        self._scratch_count = 0
        #: Of each artifact by its hex digest, the one placed last at the end.
        self._placed: dict[str, Placement] = {}

    def open(self) -> None:
        """Make the directories and read what an earlier process placed."""
        for directory in (self.hub, self._placements):
            directory.mkdir(mode=0o700, exist_ok=True)
        for path in sorted(self._placements.iterdir()):
            try:
                self._placed[path.stem] = codec.decode(Placement, path.read_bytes())
            except GcosError:
                # Half written: the rename that would have made it valid never came, and the links
                # are made after that rename.
                path.unlink()

    @property
    def shown(self) -> frozenset[str]:
        """Hex digests of the artifacts that something is placed for."""
        return frozenset(self._placed)

    def place(self, record: StoredArtifact, files: Path) -> None:
        """Show an artifact under all its names; does nothing where all is in its place.

        Args:
            record: What it is.
            files: Directory with its files.

        Raises:
            OSError: The disk is full, or a file of the artifact is gone; what was placed is
                written down and can be removed or completed.
        """
        key = hex_of(record.manifest.artifact_id)
        placement = Placement(tuple(self._view(key, record, name) for name in record.names))
        old = self._placed.pop(key, Placement(()))
        self._placed[key] = placement
        stale = tuple(view for view in old.views if view not in placement.views)
        if stale:
            # Both stay written down until the old one is gone.
            self._write(key, Placement((*placement.views, *stale)))
            for view in stale:
                self._take_away(view)
        if old != placement:
            self._write(key, placement)
        try:
            for view in placement.views:
                self._put(view, files)
        except OSError:
            for path in self._scratch.glob("hub-*"):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            raise

    def remove(self, key: str) -> None:
        """Take away what was placed for an artifact; does nothing where nothing was."""
        placement = self._placed.pop(key, None)
        if placement is None:
            return
        for view in placement.views:
            self._take_away(view)
        (self._placements / f"{key}.json").unlink(missing_ok=True)

    # ---- inside -----------------------------------------------------------------------------

    def _write(self, key: str, placement: Placement) -> None:
        write_durably(self._placements / f"{key}.json", codec.encode(placement))

    def _view(self, key: str, record: StoredArtifact, name: str) -> HubView:
        manifest, origin = record.manifest, record.hub_origin
        blobs = origin.etags if origin is not None else [entry.sha256 for entry in manifest.files]
        repo = repo_directory(manifest.kind, name)
        revision = revision_of(record)
        if self._owner(repo, revision) not in (None, key):
            # Another selection of the same commit's files is shown there.
            revision = _own_revision(record)
        pairs = zip(manifest.files, blobs, strict=True)
        files = tuple(HubFile(entry.path, blob=blob) for entry, blob in pairs)
        return HubView(repo, revision=revision, files=files)

    def _owner(self, repo: str, revision: str) -> str | None:
        for key, placement in self._placed.items():
            if any((view.repo, view.revision) == (repo, revision) for view in placement.views):
                return key
        return None

    def _put(self, view: HubView, files: Path) -> None:
        repo = self.hub / view.repo
        if not repo.exists():
            # The hub's scan warns of a repository without snapshots: all directories or none.
            skeleton = self._new_scratch()
            for name in ("blobs", "refs", "snapshots"):
                (skeleton / name).mkdir(parents=True)
            skeleton.rename(repo)
        for name in ("blobs", "refs", "snapshots"):
            (repo / name).mkdir(exist_ok=True)
        for blob, path in {file.blob: file.path for file in view.files}.items():
            self._link(files / path, repo / "blobs" / blob)
        snapshot = repo / "snapshots" / view.revision
        wanted = {file.path: _target(file) for file in view.files}
        if _links(snapshot) != wanted:
            made = self._new_scratch()
            made.mkdir()
            for path, target in wanted.items():
                (made / path).parent.mkdir(parents=True, exist_ok=True)
                (made / path).symlink_to(target)
            self._discard(snapshot)
            made.rename(snapshot)
        self._point(repo, view.revision)

    def _link(self, file: Path, blob: Path) -> None:
        """Let a blob be the file's inode."""
        with contextlib.suppress(FileNotFoundError):
            if blob.samefile(file):
                return
        temporary = self._new_scratch()
        try:
            os.link(file, temporary, follow_symlinks=False)
        except OSError as exc:
            if exc.errno not in _LINKS_FULL or blob.exists():
                raise
            # An inode takes 65,000 names on ext4. A snapshot needs one: borrow it.
            blob.symlink_to(os.path.relpath(file, blob.parent))
            return
        temporary.replace(blob)

    def _take_away(self, view: HubView) -> None:
        repo = self.hub / view.repo
        if not repo.exists():
            return
        rest = [other for other in self._views() if other.repo == view.repo and other != view]
        if not any(other.revision == view.revision for other in rest):
            if rest:
                self._point(repo, rest[-1].revision)
            else:
                self._unpoint(repo, view.revision)
            self._discard(repo / "snapshots" / view.revision)
        kept = {file.blob for other in rest for file in other.files}
        for blob in {file.blob: None for file in view.files}:
            if blob not in kept:
                (repo / "blobs" / blob).unlink(missing_ok=True)
        if not rest:
            self._close(repo)

    def _views(self) -> list[HubView]:
        return [view for placement in self._placed.values() for view in placement.views]

    def _point(self, repo: Path, revision: str) -> None:
        reference = repo / "refs" / "main"
        with contextlib.suppress(FileNotFoundError):
            if reference.read_text() == revision:
                return
        temporary = self._new_scratch()
        write_new(temporary, revision.encode(), is_durable=False)
        temporary.replace(reference)

    def _unpoint(self, repo: Path, revision: str) -> None:
        reference = repo / "refs" / "main"
        with contextlib.suppress(FileNotFoundError):
            if reference.read_text() == revision:
                reference.unlink()

    def _close(self, repo: Path) -> None:
        """Remove a repository that shows nothing any more, unless somebody else put something in.

        One rename first, since a scan would warn of a repository without its directories.
        """
        snapshots = repo / "snapshots"
        others = [*snapshots.iterdir()] if snapshots.exists() else []
        blobs = repo / "blobs"
        others += [*blobs.iterdir()] if blobs.exists() else []
        known = {"blobs", "refs", "snapshots", *_CLIENT_NOTES}
        if not others and {path.name for path in repo.iterdir()} <= known:
            self._discard(repo)

    def _discard(self, directory: Path) -> None:
        """Remove a tree that appears to others as gone at once."""
        if not directory.exists():
            return
        gone = self._new_scratch()
        try:
            directory.rename(gone)
        except OSError:
            # A full disk may lack room for one more name; a tree can go without one.
            gone = directory
        shutil.rmtree(gone)

    def _new_scratch(self) -> Path:
        self._scratch_count += 1
        return self._scratch / f"hub-{self._scratch_count}"


def _own_revision(record: StoredArtifact) -> str:
    return hex_of(record.manifest.artifact_id)[:_REVISION_HEX]


def _target(file: HubFile) -> str:
    return "../" * (2 + file.path.count("/")) + f"blobs/{file.blob}"


def _links(snapshot: Path) -> dict[str, str] | None:
    """Return path and target of every link below a snapshot; None where it holds anything else."""
    found: dict[str, str] = {}
    if not snapshot.is_dir():
        return None
    for where, directories, names in os.walk(snapshot):
        for name in [*directories, *names]:
            path = Path(where) / name
            if path.is_symlink():
                found[path.relative_to(snapshot).as_posix()] = str(path.readlink())
            elif not path.is_dir():
                return None
    return found
