"""A store at work, in processes that die at any call to the kernel, or whose disk is full there.

Run as a program: the name of a directory to work in, then `kills`, `recovery` or `full`; prints a
JSON object with the count of the points that were tried. A process of its own, since it forks.
"""

import errno
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from gcos.artifacts import ArtifactKind
from gcos.errors import CacheFullError
from gcos.ids import SiteId
from site_agent import digest_notes
from site_agent.artifact_store import ArtifactStore

MODEL, DATA = ArtifactKind.MODEL, ArtifactKind.DATA
CAPACITY_BYTES = 500
CALLS = (
    "fsync", "rename", "replace", "link", "symlink", "write", "mkdir", "open", "unlink", "rmdir"
)  # fmt: skip
#: What a full disk refuses: whatever needs a block or an inode.
GROWING = ("fsync", "rename", "replace", "link", "symlink", "write", "mkdir", "open")
Act = Callable[[str, Callable[..., object], tuple[object, ...]], None]
NOTES = {"manifest.json", digest_notes.NOTES, "main"}


def open_store(place: Path) -> ArtifactStore:
    return ArtifactStore.open(
        place / "site",
        site_id=SiteId("iad"),
        model_capacity_bytes=CAPACITY_BYTES,
        data_capacity_bytes=CAPACITY_BYTES,
        allowed_roots=[place / "sources"],
    )


def make_sources(place: Path) -> None:
    contents = {
        "a": {"tokens": b"t" * 100, "dir/weights": b"a" * 120},
        "b": {"tokens": b"t" * 100, "weights": b"b" * 80, "same": b"b" * 80},
        "c": {"weights": b"c" * 240},
    }
    for name, files in contents.items():
        for path, content in files.items():
            (place / "sources" / name / path).parent.mkdir(parents=True, exist_ok=True)
            (place / "sources" / name / path).write_bytes(content)


def work(place: Path, store: ArtifactStore | None = None) -> None:
    """Import, share, name, evict, examine, drop."""
    store = open_store(place) if store is None else store
    sources = place / "sources"
    # A and B together leave no room for C: the one that is not used goes.
    added = [
        store.import_directory(sources / name, f"org/{name}", kind, None, now_s=now_s)[0]
        for now_s, (name, kind) in enumerate(
            [("a", MODEL), ("b", MODEL), ("b", DATA), ("c", MODEL)]
        )
    ]
    store.import_directory(sources / "c", "alias", MODEL, None, now_s=9.0)
    store.examine(added[-1].artifact_id)
    store.discard(added[2].artifact_id, store.drop(added[2].artifact_id))


def occupied_by_inode(root: Path) -> int:
    sizes = {}
    for where, _, names in os.walk(root):
        for name in names:
            path = Path(where) / name
            is_note = name.removesuffix(".new") in NOTES or path.parent.name == "placements"
            is_note = is_note or name.startswith("hub-")
            if not is_note and not path.is_symlink():
                sizes[path.stat().st_ino] = path.stat().st_size
    return sum(sizes.values())


def check(store: ArtifactStore, place: Path) -> None:
    """Assert everything that holds whenever no call is under way."""
    root = place / "site"
    store.check_invariants()
    assert store.rejected == (), store.rejected
    for area in ("partial", "trash", "damaged"):
        assert not list((root / area).iterdir()), area
    total_bytes = 0
    for kind in (MODEL, DATA):
        usage = store.cache.usage(kind)
        assert usage.reserved_bytes == 0
        assert store.stored_bytes(kind) <= usage.occupied_bytes <= CAPACITY_BYTES
        total_bytes += store.stored_bytes(kind)
    assert occupied_by_inode(root) == total_bytes, "bytes outside of the books"
    for artifact in store.cache.holdings():
        store.verify(artifact.artifact_id)


def check_hub(store: ArtifactStore) -> None:
    """Assert that the hub's tools see all complete artifacts, and nothing else."""
    shown = set()
    for repo in store.hub_root.iterdir():
        revisions = {path.name for path in (repo / "snapshots").iterdir()}
        assert (repo / "refs" / "main").read_text() in revisions
        shown |= {(repo.name, revision) for revision in revisions}
    prefix = {MODEL: "models--", DATA: "datasets--"}
    expected = set()
    for artifact in store.cache.holdings():
        repo = prefix[artifact.kind] + artifact.name.replace("/", "--")
        revision = artifact.artifact_id[7:47]
        expected.add((repo, revision))
        files = store.path_of(artifact.artifact_id)
        for entry in store.record_of(artifact.artifact_id).manifest.files:
            snapshot = store.hub_root / repo / "snapshots" / revision
            assert (snapshot / entry.path).samefile(files / entry.path)
    assert shown == expected


def hooked(
    names: tuple[str, ...], act: Callable[[str, Callable[..., object], tuple[object, ...]], None]
) -> None:
    """Call `act` before each of the named calls of `os`."""
    for name in names:
        original = getattr(os, name)

        def call(
            *args: object,
            _name: str = name,
            _original: Callable[..., object] = original,
            **more: object,
        ) -> object:
            act(_name, _original, args)
            return _original(*args, **more)

        setattr(os, name, call)


def die_at(number: int, task: Callable[[], None]) -> bool:
    """Run `task` in a child that is killed at its call `number`; False: it ended before."""
    child = os.fork()
    if child == 0:
        count = 0

        def act(name: str, original: Callable[..., object], args: tuple[object, ...]) -> None:
            nonlocal count
            count += 1
            if count == number:
                if name == "write":
                    descriptor, data = args
                    original(descriptor, bytes(data)[: len(data) // 2])  # type: ignore[call-overload, arg-type]
                os.kill(os.getpid(), signal.SIGKILL)

        hooked(CALLS, act)
        status = 1
        try:
            task()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, f"the child failed at {number}"
    return False


def survives(place: Path, *, goes_on: bool) -> None:
    """Assert what holds at the moment of death, after the next start, and after more work."""
    root = place / "site"
    if root.exists():
        assert occupied_by_inode(root) <= 2 * CAPACITY_BYTES
    store = open_store(place)
    check(store, place)
    check_hub(store)
    if goes_on:
        work(place, store)
        check(store, place)
        check_hub(store)


def kills(place: Path) -> int:
    number = 0
    while True:
        number += 1
        shutil.rmtree(place / "site", ignore_errors=True)
        if not die_at(number, lambda: work(place)):
            return number - 1
        survives(place, goes_on=number % 4 == 0)


def recovery(place: Path) -> int:
    """Die while working, and again while starting after that."""
    count = 0
    for first in range(10, 10_000, 31):
        shutil.rmtree(place / "site", ignore_errors=True)
        if not die_at(first, lambda: work(place)):
            return count
        shutil.rmtree(place / "dead", ignore_errors=True)
        (place / "site").rename(place / "dead")
        for second in range(1, 10_000, 3):
            shutil.rmtree(place / "site", ignore_errors=True)
            copy_tree(place / "dead", place / "site")
            if not die_at(second, lambda: open_store(place)):
                break
            count += 1
            survives(place, goes_on=second % 4 == 0)
    return count


def copy_tree(source: Path, target: Path) -> None:
    """Copy a tree with its hard and symbolic links."""
    first: dict[int, Path] = {}
    for where, directories, names in os.walk(source):
        there = target / Path(where).relative_to(source)
        there.mkdir(exist_ok=True)
        for name in [*names, *(each for each in directories if (Path(where) / each).is_symlink())]:
            path = Path(where) / name
            if path.is_symlink():
                (there / name).symlink_to(path.readlink())
            elif path.stat().st_ino in first:
                os.link(first[path.stat().st_ino], there / name)
            else:
                shutil.copy2(path, there / name)
                first[path.stat().st_ino] = there / name


def full(place: Path) -> int:
    """Let the disk be full from call `number` on, as calls that need room see it."""
    number = 0
    while True:
        number += 1
        shutil.rmtree(place / "site", ignore_errors=True)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if is_full_at(place, number) else 2
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert os.WIFEXITED(status)
        if os.WEXITSTATUS(status) == 2:
            return number - 1
        assert os.WEXITSTATUS(status) == 0, f"failed at {number}"


def is_full_at(place: Path, number: int) -> bool:
    store = open_store(place)
    count = 0
    is_full = True

    def act(name: str, original: Callable[..., object], args: tuple[object, ...]) -> None:
        nonlocal count
        if name == "open" and not (isinstance(args[1], int) and args[1] & os.O_CREAT):
            return
        count += 1
        if is_full and count >= number:
            if name == "write":
                descriptor, data = args
                if len(data) > 1:  # type: ignore[arg-type]
                    original(descriptor, bytes(data)[:1])  # type: ignore[call-overload]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    hooked(GROWING, act)
    try:
        work(place, store)
    except CacheFullError:
        check(store, place)
    else:
        return False
    is_full = False
    work(place, store)
    check(store, place)
    check_hub(store)
    again = open_store(place)
    check(again, place)
    check_hub(again)
    return True


def main() -> None:
    place, what = Path(sys.argv[1]), sys.argv[2]
    make_sources(place)
    task = {"kills": kills, "recovery": recovery, "full": full}[what]
    sys.stdout.write(json.dumps({"points": task(place)}))


if __name__ == "__main__":
    main()
