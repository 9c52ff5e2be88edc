"""What runs leave behind: published under their fence, read by whoever asks, the newest kept.

    <data dir>/outputs/<task id>/<epoch>.<attempt>/...

A run's output directory is renamed to its place once the run has ended well, so what lies there is
whole and belongs to one attempt.
"""

import filecmp
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from gcos.errors import InvalidRequestError, NotFoundError
from gcos.ids import RunId
from gcos.tasks import Output

CHUNK_BYTES = 1 << 20


class Outputs:
    """The outputs of one site. Blocking: call it in a thread."""

    def __init__(self, root: Path, *, task_count_max: int) -> None:
        self._root = root
        self._task_count_max = task_count_max
        root.mkdir(parents=True, exist_ok=True)

    def place_of(self, run_id: RunId) -> Path:
        """Return where the outputs of a run lie, or will.

        Raises:
            NotFoundError: The id is none.
        """
        task, _, fence = run_id.partition(".")
        if not task or "/" in run_id or task.startswith(".") or not fence:
            raise NotFoundError(
                f"there is no run {run_id[:80]!r} here", hint="list tasks with: gcos queue --all"
            )
        return self._root / task / fence

    def publish(self, source: Path, run_id: RunId) -> Path:
        """Move a directory to its place, once: a second publication changes nothing."""
        place = self.place_of(run_id)
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.exists():
                source.rename(place)
            else:
                place.mkdir()
            _sync(place.parent)
        self._trim()
        return place

    def files(self, run_id: RunId) -> list[tuple[str, int]]:
        """Return relative paths and sizes of the regular files, sorted; links are left out.

        Raises:
            NotFoundError: Nothing of the run is kept here.
        """
        place = self.place_of(run_id)
        if not place.is_dir():
            raise NotFoundError(
                f"the outputs of run {run_id} are not kept here",
                hint="a site keeps the outputs of its newest runs only",
            )
        found: list[tuple[str, int]] = []
        for directory, _, names in os.walk(place, followlinks=False):
            for name in names:
                path = Path(directory) / name
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    found.append((path.relative_to(place).as_posix(), status.st_size))
        return sorted(found)

    def chunks(self, run_id: RunId, path: str) -> Iterator[bytes]:
        """Yield the bytes of one of `files`, 1 MiB at a time."""
        descriptor = os.open(self.place_of(run_id) / path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            while data := file.read(CHUNK_BYTES):
                yield data

    def _trim(self) -> None:
        """Keep the outputs of the newest tasks only."""
        tasks = sorted(self._root.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in tasks[: max(0, len(tasks) - self._task_count_max)]:
            shutil.rmtree(path, ignore_errors=True)


def lacking(place: Path, outputs: Sequence[Output]) -> list[str]:
    """Return the declared paths that the run did not leave behind."""
    return [output.path for output in outputs if not (place / output.path).exists()]


def as_directory(place: Path, output: Output) -> Path:
    """Return a directory that holds what an artifact is to be made of.

    An artifact is a directory; a single file gets one of its own beside the outputs.
    """
    path = place / output.path
    if path.is_dir():
        return path
    holder = place.with_name(f"{place.name}.{output.name.replace('/', '.')}")
    holder.mkdir(exist_ok=True)
    target = holder / path.name
    if not target.exists():
        os.link(path, target)
    return holder


def is_allowed(uri: str, *, roots: Sequence[Path]) -> bool:
    """Tell whether an output may be copied to a place: its directory is below one of `roots`."""
    parent = Path(uri.removeprefix("file://")).parent.resolve()
    return any(parent.is_relative_to(root.resolve()) for root in roots)


def roots_as_told(roots: Sequence[Path]) -> tuple[str, ...]:
    """Return `roots` as other sites are told of them: as written, and with links followed."""
    return tuple(sorted({str(each) for r in roots for each in (r.absolute(), r.resolve())}))


def copy_to(place: Path, output: Output, *, roots: Sequence[Path]) -> None:
    """Copy an output to the place that its URI names, whole or not at all.

    Raises:
        InvalidRequestError: The place is under none of `roots`, or is taken.
        OSError: It cannot be written.
    """
    target = Path(output.uri.removeprefix("file://"))
    parent = target.parent.resolve()
    if not is_allowed(output.uri, roots=roots):
        raise InvalidRequestError(
            f"{output.uri} is under no root that this site allows",
            field="outputs.uri",
            hint="ask its operator to add one to output_roots",
        )
    if _is_same(place / output.path, target):
        return  # published already, before a crash
    if target.exists() or target.is_symlink():
        raise InvalidRequestError(
            f"{output.uri} exists already",
            field="outputs.uri",
            hint="name another place, or move away what is there",
        )
    parent.mkdir(parents=True, exist_ok=True)
    partial = parent / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.unlink(missing_ok=True)
    source = place / output.path
    if source.is_dir():
        shutil.copytree(source, partial, symlinks=True)
    else:
        shutil.copyfile(source, partial, follow_symlinks=False)
    partial.rename(parent / target.name)
    _sync(parent)


def _is_same(source: Path, target: Path) -> bool:
    """Tell whether two files or directories hold the same."""
    if source.is_file() and target.is_file():
        return filecmp.cmp(source, target, shallow=False)
    if not (source.is_dir() and target.is_dir()):
        return False
    names = {path.relative_to(source) for path in source.rglob("*")}
    return names == {path.relative_to(target) for path in target.rglob("*")} and all(
        filecmp.cmp(source / name, target / name, shallow=False)
        for name in names
        if (source / name).is_file()
    )


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
