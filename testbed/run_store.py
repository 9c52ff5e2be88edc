"""Keeps finished runs, so that an evaluation goes on where it was interrupted.

A run is a file named after a digest of all that decides it: the drawn instance, the policy, the
cache mode, the code. What differs in any of them is another run, and nothing stale is ever read.
"""

import ast
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

import gcos
from gcos import codec
from gcos.accounting import CostScope
from gcos.errors import GcosError, InvalidRequestError
from testbed.sim.instance import Instance
from testbed.sim.result import RunResult

#: What a run executes is this module and all of ours that it imports, directly or not.
_ENTRANCE: Final = "testbed.sim.run"
_PACKAGES: Final = frozenset({"gcos", "site_agent", "broker", "predictor", "policies", "testbed"})
_ROOT: Final = Path(gcos.__file__).parent.parent

EXPORTED_RUN: Final = "run.json"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A finished run with what it was a run of.

    Attributes:
        digest: Hex digest of everything that decides the run.
        scenario: Name of the scenario.
        week_start_s: Begin of the measured window, seconds since the epoch.
        seed: Seed of the workload.
        policy: Name of the policy.
        cache_mode: Which caches there were.
        cost_scope: What counts as cost.
        carbon_price_usd_per_kg: Lambda.
        network_kwh_per_gb: Kappa.
        notes: What a reader must know of the instance.
        result: What the run came to.
    """

    digest: str
    scenario: str
    week_start_s: float
    seed: int
    policy: str
    cache_mode: str
    cost_scope: CostScope
    carbon_price_usd_per_kg: float
    network_kwh_per_gb: float
    notes: tuple[str, ...]
    result: RunResult


def code_digest(entrance: str = _ENTRANCE) -> str:
    """Return a hex digest of the version, of all code that a run executes and of trained actors.

    Args:
        entrance: The module whose function makes runs.
    """
    files = _files_behind(entrance) | set((_ROOT / "policies").rglob("*.onnx"))
    digest = hashlib.sha256(gcos.__version__.encode())
    for path in sorted(files):
        digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _files_behind(entrance: str) -> set[Path]:
    """Return the files of a module and of all modules of ours that it imports."""
    found: dict[str, Path] = {}
    waiting = [entrance]
    while waiting:
        name = waiting.pop()
        path = _file_of(name)
        if path is None or name in found:
            continue
        found[name] = path
        waiting += _imports(ast.parse(path.read_bytes()))
    return set(found.values())


def _file_of(module: str) -> Path | None:
    """Return the file of a module of ours; None for others, and for names inside a module."""
    if module.partition(".")[0] not in _PACKAGES:
        return None
    place = _ROOT / module.replace(".", "/")
    candidates = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _imports(tree: ast.Module) -> list[str]:
    """Return the modules that a module names in its imports, late ones too.

    Packages around them are left out: theirs is no code of a run, and that of `gcos` names the
    client.
    """
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [name if _file_of(name) else node.module for name in inner]
    return names


def run_digest(instance: Instance, *, policy: str, cache_mode: str, code: str) -> str:
    """Return a hex digest of all that decides a run."""
    digest = hashlib.sha256(f"{code}\0{policy}\0{cache_mode}\0".encode())
    series = {"price": instance.price, "carbon": instance.carbon}
    for name in Instance.__dataclass_fields__:
        if name in series:
            for site_id, each in sorted(series[name].items()):
                digest.update(f"\0{name} {site_id} {each.start_s!r} {each.step_s!r}\0".encode())
                digest.update(each.values.tobytes())
        elif name == "links":
            links = [[*ends, link] for ends, link in sorted(instance.links.items())]
            digest.update(b"\0links\0" + msgspec.json.encode(links))
        else:
            value = msgspec.json.encode(getattr(instance, name))
            digest.update(b"\0" + name.encode() + b"\0" + value)
    return digest.hexdigest()


def stored_run(directory: Path, digest: str) -> RunRecord | None:
    """Return the run of that digest; None if it has not finished.

    Raises:
        GcosError: Its file cannot be read.
    """
    path = _path(directory, digest)
    try:
        document = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return codec.decode(RunRecord, document)
    except GcosError as exc:
        raise GcosError(f"{path}: {exc.message}", hint="remove the file; it is run again") from exc


def store_run(directory: Path, record: RunRecord) -> None:
    """Write a finished run, whole or not at all."""
    _write(_path(directory, record.digest), codec.encode(record))


def mark_exported(directory: Path, record: RunRecord) -> None:
    """Write which run the export in `directory` is of."""
    _write(directory / EXPORTED_RUN, codec.encode(record))


def is_exported(directory: Path, digest: str) -> bool:
    """Tell whether the export in `directory` is of the run of that digest, and complete."""
    try:
        document = (directory / EXPORTED_RUN).read_bytes()
    except FileNotFoundError:
        return False
    return codec.decode(RunRecord, document).digest == digest


def writable_directory(path: Path, *, option: str) -> Path:
    """Return `path`, which is a directory now.

    Raises:
        InvalidRequestError: It cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InvalidRequestError(
            f"{path} cannot be made a directory: {exc.strerror}", field=option
        ) from exc
    if not os.access(path, os.W_OK):
        raise InvalidRequestError(f"{path} cannot be written", field=option)
    return path


def _path(directory: Path, digest: str) -> Path:
    return directory / f"{digest[:32]}.json"


def _write(path: Path, document: bytes) -> None:
    # Beside its place and renamed: a run that is there is whole. Two processes that make the same
    # run write the same bytes.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(document + b"\n")
    temporary.replace(path)
