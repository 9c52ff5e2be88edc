"""Where the cluster on this machine is written down, and how a client finds an agent and its token.

`gcos up` writes `cluster.json` into `$GCOS_HOME` (`~/.local/share/gcos` by default); every other
command reads it unless it is told otherwise.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gcos.codec import decode, encode
from gcos.errors import GcosError, InvalidRequestError
from gcos.ids import SiteId
from gcos.system import unique_text

HOME_VARIABLE: Final = "GCOS_HOME"
AGENT_VARIABLE: Final = "GCOS_AGENT"
TOKEN_FILE_VARIABLE: Final = "GCOS_TOKEN_FILE"  # noqa: S105  the name of a variable, no secret
CLUSTER_FILE: Final = "cluster.json"


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """The cluster that runs on this machine.

    Attributes:
        agents: `host:port` of each agent, by site.
        broker: `host:port` of the broker.
        predictor: `host:port` of the predictor.
        token_file: File with the token of all of them.
        speed: World seconds per wall second.
        byte_ratio: World bytes that one stored byte stands for.
        pids: Process ids, by name of the process.
    """

    agents: dict[SiteId, str]
    broker: str
    predictor: str
    token_file: str
    speed: float = 1.0
    byte_ratio: float = 1.0
    pids: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How a client reaches a cluster.

    Attributes:
        agents: Addresses, `host:port`; any of them will do, the first is preferred.
        token_file: File with the token.
    """

    agents: tuple[str, ...]
    token_file: Path


def home_directory(environ: Mapping[str, str]) -> Path:
    """Return the directory of this user's cluster; it need not exist."""
    if environ.get(HOME_VARIABLE):
        return Path(environ[HOME_VARIABLE])
    return Path(environ.get("HOME") or Path.home()) / ".local" / "share" / "gcos"


def make_home(environ: Mapping[str, str]) -> Path:
    """Return the directory of this user's cluster, made with mode 0700 if need be.

    Raises:
        InvalidRequestError: It cannot be made.
    """
    home = home_directory(environ)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
    except OSError as exc:
        raise InvalidRequestError(
            f"{home} cannot be made: {exc.strerror}", hint=f"set {HOME_VARIABLE} to a directory"
        ) from exc
    return home


def read_cluster(environ: Mapping[str, str]) -> LocalCluster | None:
    """Return the cluster that is written down, or None.

    Raises:
        InvalidRequestError: The file cannot be read or is damaged.
    """
    path = home_directory(environ) / CLUSTER_FILE
    try:
        return decode(LocalCluster, path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise InvalidRequestError(f"{path} cannot be read: {exc.strerror}") from exc
    except GcosError as exc:
        raise InvalidRequestError(
            f"{path} is damaged", hint=f"remove it and start again with: gcos up ({exc.message})"
        ) from exc


def write_cluster(cluster: LocalCluster, environ: Mapping[str, str]) -> Path:
    """Write `cluster` down and return the file, which appears whole or not at all.

    Raises:
        InvalidRequestError: The file cannot be written.
    """
    path = make_home(environ) / CLUSTER_FILE
    draft = path.with_name(f".{path.name}.{unique_text()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(encode(cluster))
        draft.replace(path)
    except OSError as exc:
        draft.unlink(missing_ok=True)
        raise InvalidRequestError(f"{path} cannot be written: {exc.strerror}") from exc
    return path


def forget_cluster(environ: Mapping[str, str]) -> None:
    """Remove what `write_cluster` wrote; nothing happens where there is nothing."""
    (home_directory(environ) / CLUSTER_FILE).unlink(missing_ok=True)


def discover(
    environ: Mapping[str, str], agent: str | None = None, token_file: Path | None = None
) -> Endpoint:
    """Return whom to call: what is given, else the environment, else the cluster of this machine.

    Where what is given belongs to the cluster of this machine, its other agents come after it: any
    of them answers for any task.

    Args:
        environ: Environment; `GCOS_AGENT` may list several addresses, separated by commas.
        agent: Address given by the user.
        token_file: File given by the user.

    Raises:
        InvalidRequestError: Nothing says where an agent or the token is.
    """
    listed = agent or environ.get(AGENT_VARIABLE, "")
    agents = tuple(address for part in listed.split(",") if (address := part.strip()))
    path = token_file or _path(environ.get(TOKEN_FILE_VARIABLE, ""))
    try:
        cluster = read_cluster(environ)
    except InvalidRequestError:
        if not (agents and path):
            raise
        cluster = None  # all that is needed was given
    if cluster is not None:
        own = tuple(cluster.agents[site] for site in sorted(cluster.agents))
        if not agents or set(agents) & set(own):
            agents = tuple(dict.fromkeys((*agents, *own)))
        path = path or Path(cluster.token_file)
    if not agents:
        raise InvalidRequestError(
            f"no cluster is known: {home_directory(environ) / CLUSTER_FILE} does not exist",
            hint=f"start one with: gcos up; or give --agent HOST:PORT or {AGENT_VARIABLE}",
        )
    if path is None:
        raise InvalidRequestError(
            "no token file is known",
            field="token_file",
            hint=f"give --token-file FILE or {TOKEN_FILE_VARIABLE}, or start a cluster: gcos up",
        )
    return Endpoint(agents, path)


def _path(text: str) -> Path | None:
    return Path(text) if text else None
