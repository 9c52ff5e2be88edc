"""Stores of other programs on this machine, read as artifacts: nothing in them is ever changed.

Two layouts are known. The Hugging Face hub's cache (`HF_HUB_CACHE`, or `hub` below `HF_HOME`):

    models--org--name/refs/main, snapshots/<revision>/<path> -> ../../blobs/<etag>
    blobs/<prefix>/<hash>                   payloads that several repositories share

and Ollama's (`OLLAMA_MODELS`):

    manifests/<host>/<namespace>/<model>/<tag>      JSON with the digests of its layers
    blobs/sha256-<hex>

A store belongs to its user and may hold anything: links may leave it, downloads may be half done.
What is not certainly whole is left out, with a reason that can be counted. An Ollama model becomes
an artifact that mirrors the store's own layout, so that its directory serves as `OLLAMA_MODELS`.
"""

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any, Final

from gcos.artifacts import ARTIFACT_NAME, FILE_COUNT_MAX, ArtifactKind
from gcos.errors import InvalidRequestError

NOTE_BYTES_MAX: Final = 16_000_000
"""A longer manifest, index or tree listing is taken for damage; a listing has 200 bytes a file."""

_REPO_KINDS: Final = {"models": ArtifactKind.MODEL, "datasets": ArtifactKind.DATA}
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_LFS_ETAG: Final = re.compile(r"[0-9a-f]{64}")
_ETAG: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_OLLAMA_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_TREE_VERSION: Final = 1


class SkipReason(Enum):
    """Why something in a foreign store is not adopted."""

    INCOMPLETE = "INCOMPLETE"
    BROKEN_LINK = "BROKEN_LINK"
    OUTSIDE_LINK = "OUTSIDE_LINK"
    OTHER_REVISION = "OTHER_REVISION"
    UNUSABLE_NAME = "UNUSABLE_NAME"
    UNREADABLE = "UNREADABLE"
    UNSUPPORTED = "UNSUPPORTED"
    CHANGED = "CHANGED"
    ALREADY_HERE = "ALREADY_HERE"


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that is not adopted.

    Attributes:
        where: Its path below the store.
        reason: Why.
    """

    where: str
    reason: SkipReason


@dataclass(frozen=True, slots=True)
class ForeignFile:
    """One file of a candidate.

    Attributes:
        path: Inside the artifact.
        source: The plain file that has its bytes.
        size_bytes: Length.
        sha256: Hex digest where the store names it; None: it must be hashed.
        etag: What the hub calls the content; empty elsewhere.
    """

    path: str
    source: Path
    size_bytes: int
    sha256: str | None
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that is whole, as far as names and sizes tell.

    Attributes:
        where: Its path below the store.
        name: What people will call it.
        kind: Model or data set.
        files: Sorted by path.
        revision: The hub's commit; empty elsewhere.
    """

    where: str
    name: str
    kind: ArtifactKind
    files: tuple[ForeignFile, ...]
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a foreign store holds."""

    candidates: tuple[Candidate, ...]
    skipped: tuple[Skipped, ...]


class _SkippedError(Exception):
    """Something cannot be adopted."""

    def __init__(self, reason: SkipReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def survey(path: Path) -> Survey:
    """Return what a store of either layout holds; reads names, sizes and small notes. Blocking.

    Args:
        path: A hub cache, the `HF_HOME` above one, or an Ollama store.

    Raises:
        InvalidRequestError: It is neither.
    """
    if (path / "manifests").is_dir() and (path / "blobs").is_dir():
        return _survey_ollama(path.resolve())
    for root in (path, path / "hub"):
        if root.is_dir() and any("--" in child.name for child in root.iterdir()):
            return _survey_hub(root.resolve())
    raise InvalidRequestError(
        f"{path} is neither a Hugging Face cache nor an Ollama store",
        field="path",
        hint="give HF_HOME, HF_HUB_CACHE or OLLAMA_MODELS",
    )


def counts(skipped: tuple[Skipped, ...]) -> Mapping[SkipReason, int]:
    """Return how often each reason was given."""
    return Counter(each.reason for each in skipped)


# ---- Hugging Face -----------------------------------------------------------------------------


def _survey_hub(root: Path) -> Survey:
    candidates: list[Candidate] = []
    skipped: list[Skipped] = []
    for repo in sorted(root.iterdir()):
        if "--" not in repo.name or not repo.is_dir():
            continue  # locks, tags and the shared payloads
        try:
            kind, name = _repository(repo)
            chosen, others = _revisions(repo)
            skipped += [
                Skipped(f"{repo.name}/snapshots/{other}", SkipReason.OTHER_REVISION)
                for other in others
            ]
            files = _snapshot(root, repo, chosen)
        except _SkippedError as exc:
            skipped.append(Skipped(repo.name, exc.reason))
        except OSError:
            skipped.append(Skipped(repo.name, SkipReason.UNREADABLE))
        else:
            candidates.append(Candidate(repo.name, name, kind, files, revision=chosen))
    return Survey(tuple(candidates), tuple(skipped))


def _repository(repo: Path) -> tuple[ArtifactKind, str]:
    prefix, _, rest = repo.name.partition("--")
    kind = _REPO_KINDS.get(prefix)
    if kind is None:
        raise _SkippedError(SkipReason.UNSUPPORTED)
    name = rest.replace("--", "/")
    if not ARTIFACT_NAME.fullmatch(name):
        raise _SkippedError(SkipReason.UNUSABLE_NAME)
    return kind, name


def _revisions(repo: Path) -> tuple[str, list[str]]:
    """Return the revision that a plain name means, and the others.

    Two artifacts of one name would leave it to chance which one a task gets.
    """
    snapshots = repo / "snapshots"
    found = {path.name: path for path in snapshots.iterdir()} if snapshots.is_dir() else {}
    usable = [name for name in sorted(found) if _COMMIT.fullmatch(name)]
    if not usable:
        raise _SkippedError(SkipReason.INCOMPLETE)
    reference = repo / "refs" / "main"
    main = _note(reference).decode(errors="replace").strip() if reference.is_file() else ""
    if main in usable:
        chosen = main
    else:
        chosen = max(usable, key=lambda name: (found[name].stat().st_mtime_ns, name))
    return chosen, [name for name in usable if name != chosen]


def _snapshot(root: Path, repo: Path, revision: str) -> tuple[ForeignFile, ...]:
    snapshot = repo / "snapshots" / revision
    files = sorted(_files(root, repo, snapshot), key=lambda file: file.path)
    if not any(file.size_bytes for file in files):
        raise _SkippedError(SkipReason.INCOMPLETE)
    sizes_bytes = {file.path: file.size_bytes for file in files}
    listing = repo / "trees" / f"{revision}.json"
    if listing.is_file():
        if not _tree(listing).items() <= sizes_bytes.items():
            raise _SkippedError(SkipReason.INCOMPLETE)
    elif any(path.name.endswith(".incomplete") for path in (repo / "blobs").iterdir()):
        # Nothing tells whether what is still coming belongs to this snapshot.
        raise _SkippedError(SkipReason.INCOMPLETE)
    for file in files:
        if file.path.endswith(".index.json") and not _shards(file) <= sizes_bytes.keys():
            raise _SkippedError(SkipReason.INCOMPLETE)
    return tuple(files)


def _files(root: Path, repo: Path, snapshot: Path) -> Iterator[ForeignFile]:
    count = 0
    for where, directories, names in os.walk(snapshot, followlinks=False):
        if any((Path(where) / name).is_symlink() for name in directories):
            raise _SkippedError(SkipReason.OUTSIDE_LINK)
        for name in names:
            count += 1
            if count > FILE_COUNT_MAX:
                raise _SkippedError(SkipReason.UNSUPPORTED)
            path = Path(where) / name
            source, etag = _content(root, repo, path)
            yield ForeignFile(
                path.relative_to(snapshot).as_posix(),
                source=source,
                size_bytes=source.stat().st_size,
                sha256=etag if _LFS_ETAG.fullmatch(etag) else None,
                etag=etag if _ETAG.fullmatch(etag) else "",
            )


def _content(root: Path, repo: Path, path: Path) -> tuple[Path, str]:
    """Return the plain file behind a path of a snapshot, and the name of its blob."""
    etag = Path(path.readlink()).name if path.is_symlink() else ""
    try:
        source = path.resolve(strict=True)
    except (OSError, RuntimeError) as exc:
        raise _SkippedError(SkipReason.BROKEN_LINK) from exc
    # Payloads lie in the repository or in the store that repositories share. A link to anywhere
    # else, such as somebody's key, would publish that.
    is_inside = source.is_relative_to(repo) or source.is_relative_to(root / "blobs")
    if not is_inside:
        raise _SkippedError(SkipReason.OUTSIDE_LINK)
    if not stat.S_ISREG(source.lstat().st_mode) or source.name.endswith(".incomplete"):
        raise _SkippedError(SkipReason.INCOMPLETE)
    return source, etag


def _tree(listing: Path) -> dict[str, int]:
    """Return path and size of each file that a commit has, as the hub's client noted them."""
    document = _document(listing)
    try:
        if document["format_version"] != _TREE_VERSION:
            return {}
        return {str(path): int(note["size"]) for path, note in document["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise _SkippedError(SkipReason.UNREADABLE) from exc


def _shards(file: ForeignFile) -> set[str]:
    """Return the files that an index of weights speaks of."""
    weights = _document(file.source).get("weight_map", {})
    if not isinstance(weights, dict):
        return set()
    directory = PurePosixPath(file.path).parent
    return {(directory / str(shard)).as_posix() for shard in weights.values()}


# ---- Ollama -------------------------------------------------------------------------------------


def _survey_ollama(root: Path) -> Survey:
    candidates: list[Candidate] = []
    skipped: list[Skipped] = []
    for where, directories, names in os.walk(root / "manifests", followlinks=False):
        directories.sort()
        for name in sorted(names):
            path = Path(where) / name
            place = path.relative_to(root).as_posix()
            try:
                candidates.append(_ollama_model(root, path, place))
            except _SkippedError as exc:
                skipped.append(Skipped(place, exc.reason))
            except OSError:
                skipped.append(Skipped(place, SkipReason.UNREADABLE))
    return Survey(tuple(candidates), tuple(skipped))


def ollama_name(namespace: str, model: str, tag: str) -> str:
    """Return what an Ollama model is called here: `ollama/model-tag`, or its namespace's.

    Ollama's own library is the namespace `library`, which its users never write.
    """
    return f"{'ollama' if namespace == 'library' else namespace}/{model}-{tag}"


def _ollama_model(root: Path, manifest: Path, place: str) -> Candidate:
    parts = place.split("/")
    if len(parts) != 5 or manifest.is_symlink():
        raise _SkippedError(SkipReason.UNSUPPORTED)
    name = ollama_name(*parts[2:])
    if not ARTIFACT_NAME.fullmatch(name):
        raise _SkippedError(SkipReason.UNUSABLE_NAME)
    document = _document(manifest)
    files = {place: ForeignFile(place, manifest, manifest.stat().st_size, sha256=None)}
    try:
        for layer in [document["config"], *document["layers"]]:
            file = _ollama_blob(root, str(layer["digest"]), int(layer["size"]))
            files[file.path] = file
    except (KeyError, TypeError, ValueError) as exc:
        raise _SkippedError(SkipReason.UNREADABLE) from exc
    ordered = tuple(files[path] for path in sorted(files))
    return Candidate(place, name, ArtifactKind.MODEL, ordered)


def _ollama_blob(root: Path, digest: str, size_bytes: int) -> ForeignFile:
    # Checked before it becomes a path (as Ollama learnt from CVE-2024-37032).
    match = _OLLAMA_DIGEST.fullmatch(digest)
    if match is None:
        raise _SkippedError(SkipReason.UNREADABLE)
    path = f"blobs/sha256-{match[1]}"
    source = root / path
    try:
        status = source.lstat()
    except OSError as exc:
        raise _SkippedError(SkipReason.INCOMPLETE) from exc
    if stat.S_ISLNK(status.st_mode):
        reason = SkipReason.OUTSIDE_LINK if source.exists() else SkipReason.BROKEN_LINK
        raise _SkippedError(reason)
    if not stat.S_ISREG(status.st_mode) or status.st_size != size_bytes:
        raise _SkippedError(SkipReason.INCOMPLETE)
    return ForeignFile(path, source=source, size_bytes=size_bytes, sha256=match[1])


# ---- notes --------------------------------------------------------------------------------------


def _note(path: Path) -> bytes:
    if path.stat().st_size > NOTE_BYTES_MAX:
        raise _SkippedError(SkipReason.UNREADABLE)
    return path.read_bytes()


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_note(path))
    except (ValueError, RecursionError) as exc:
        raise _SkippedError(SkipReason.UNREADABLE) from exc
    if not isinstance(document, dict):
        raise _SkippedError(SkipReason.UNREADABLE)
    return document
