"""The directory of a local cluster: what lies there, who uses it, and what `down` takes away.

    DIRECTORY/              mode 0700
      cluster.json          how clients find the cluster; there while it runs
      state.json            its processes and its world time
      token                 the secret of the cluster, mode 0600
      artifacts/            `gcos cache add` takes from here
      published/            tasks may have outputs copied here (`as: uri`)
      broker.toml  broker.log
      predictor.toml  predictor.log  predictor/
      wan.json  wan.log     links and relays of `gcos testbed up`
      sites/SITE/           agent.toml, agent.log, data/: journal, caches, outputs
      sites/SITE/data/secrets/NAME

What the user puts there, artifacts and secrets, and what tasks have published is never removed.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from gcos.errors import WrongStateError
from gcos.home import CLUSTER_FILE
from gcos.locks import LOCK_NAME, lock_directory
from gcos.system import SystemClock, sleep_blocking
from site_agent.run_shell import SECRETS_NAME
from testbed.local_processes import LocalProcess

STATE_NAME: Final = "state.json"
TOKEN_NAME: Final = "token"  # noqa: S105 - the name of a file
ARTIFACTS_NAME: Final = "artifacts"
PUBLISHED_NAME: Final = "published"
SITES_NAME: Final = "sites"
_OWN_NAMES: Final = (
    *("broker.toml", "broker.log", "predictor.toml", "predictor.log", "predictor"),
    *("wan.json", "wan.log"),
    *(SITES_NAME, TOKEN_NAME, STATE_NAME),
)
_USER_NAMES: Final = (ARTIFACTS_NAME, PUBLISHED_NAME)
_KNOWN_NAMES: Final = frozenset((*_OWN_NAMES, *_USER_NAMES, CLUSTER_FILE, LOCK_NAME))

#: The name of an agent's process is this and its site.
AGENT: Final = "agent "
#: The process that emulates links, which answers no health checks.
WAN: Final = "wan"

#: Protocol seconds for the kernel to release the lock of a process that has ended.
_RELEASE_S: Final = 5.0
_LOOK_S: Final = 0.02

Tell = Callable[[str], None]


def claim(directory: Path) -> None:
    """Make `directory` ours alone.

    Raises:
        WrongStateError: It holds something else than a cluster, or is another user's.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        if status.st_uid != os.getuid():
            raise WrongStateError(f"{directory} belongs to another user", hint="choose --dir")
        # Only then may its mode be changed: somebody may have given --dir /srv.
        strange = sorted(
            entry.name for entry in directory.iterdir() if entry.name not in _KNOWN_NAMES
        )
        if strange and not (directory / STATE_NAME).exists():
            raise WrongStateError(
                f"{directory} holds other things ({', '.join(strange[:3])})",
                hint="choose an empty or new directory with --dir",
            )
        directory.chmod(0o700)
    except OSError as exc:
        raise WrongStateError(
            f"{directory} cannot be used: {exc.strerror}", hint="choose another with --dir"
        ) from exc


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def data_directories(directory: Path) -> dict[str, Path]:
    """Return the directories that processes lock, by name of the process."""
    places = {"predictor": directory / "predictor"}
    for site in sorted((directory / SITES_NAME).glob("*")):
        places[f"{AGENT}{site.name}"] = site / "data"
    return {name: place for name, place in places.items() if place.is_dir()}


def strangers_in(directory: Path, own: Sequence[LocalProcess]) -> dict[str, str]:
    """Return the pids that hold data directories and are not `own`, by name of the process."""
    clock = SystemClock()
    until_s = clock.protocol_s() + _RELEASE_S
    found = {}
    for name, place in data_directories(directory).items():
        while (holder := _holder(place)) is not None:
            known = [process for process in own if str(process.pid) == holder]
            if any(process.is_alive for process in known):
                break
            # The kernel releases the lock a moment after its process has ended.
            if not known or clock.protocol_s() > until_s:
                found[name] = holder
                break
            sleep_blocking(_LOOK_S)
    return found


def _holder(place: Path) -> str | None:
    """Return the pid that the holder of the lock of `place` wrote down; None: nobody holds it."""
    try:
        with lock_directory(place):
            return None
    except WrongStateError:
        return (place / LOCK_NAME).read_text(encoding="ascii").strip() or "(starting)"


def refuse_strangers(directory: Path, found: Mapping[str, str]) -> None:
    """Refuse to touch what processes use that are not the cluster's own.

    Args:
        directory: The cluster's.
        found: What `strangers_in` returned.

    Raises:
        WrongStateError: There are any.
    """
    if found:
        places = data_directories(directory)
        raise WrongStateError(
            ", ".join(
                f"{name} was started by hand: process {pid} uses {places[name]}"
                for name, pid in found.items()
            ),
            hint=f"end it first, with: kill {' '.join(found.values())}",
        )


def remove_own(directory: Path, tell: Tell) -> None:
    """Remove what the cluster made, and tell what stays and where."""
    secrets = _secret_stores(directory)
    for name in _OWN_NAMES:
        _remove_around(directory / name, secrets)
    (directory / LOCK_NAME).unlink(missing_ok=True)
    for empty in (*(directory / name for name in _USER_NAMES), directory):
        with contextlib.suppress(OSError):
            empty.rmdir()
    tell(f"removed journals, caches and outputs of {directory}")
    for store in secrets:
        names = ", ".join(sorted(entry.name for entry in store.iterdir()))
        tell(f"left secrets for the next up: {names} in {store}")
    if directory.exists():
        for entry in sorted(directory.iterdir()):
            if entry.name != SITES_NAME:
                tell(f"left {entry}")


def _secret_stores(directory: Path) -> list[Path]:
    """Return the directories of sites that hold secrets, which only their operator can replace."""
    stores = sorted((directory / SITES_NAME).glob(f"*/data/{SECRETS_NAME}"))
    return [store for store in stores if store.is_dir() and any(store.iterdir())]


def _remove_around(path: Path, spared: Sequence[Path]) -> None:
    """Remove `path` with all in it, except what is `spared` and the way to it."""
    if path in spared:
        return
    if any(each.is_relative_to(path) for each in spared):
        for entry in path.iterdir():
            _remove_around(entry, spared)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
