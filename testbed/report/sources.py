"""What a report is made of: evaluations, and exported runs for placements over time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from gcos import codec
from gcos.accounting import CostScope
from gcos.errors import GcosError, InvalidRequestError, NotFoundError
from testbed.evaluation import SCHEMA, SWEEP_SCHEMA, Evaluation, Evaluations, RunBound
from testbed.paper import SCHEMA as PAPER_SCHEMA
from testbed.paper import PaperTable
from testbed.report.findings import name_in
from testbed.run_store import EVALUATIONS, EXPORTED_RUN, RunRecord

#: Documents of bounds below every schedule, and of what a clairvoyant search attains.
BOUND_SCHEMA: Final = "gcos/bound/v1"

#: What an exported run is made of (DESIGN section 10), and whose run it is.
_EXPORT: Final = ("scenario.json", "log.jsonl", EXPORTED_RUN)


@dataclass(frozen=True, slots=True)
class Sources:
    """All that was read.

    Attributes:
        evaluations: At least one, each once, in the order in which they were named.
        papers: Tables of `--scenario paper`.
    """

    evaluations: tuple[Evaluation, ...]
    papers: tuple[PaperTable, ...]


@dataclass(frozen=True, slots=True, eq=False)
class SitePlacements:
    """What ran at a site of an exported run, hour by hour.

    Attributes:
        site_id: Its name.
        gpu_count: Its GPUs.
        busy_count: (hours,) mean GPUs in use in each hour.
        carbon_gco2_per_kwh: (hours,).
        price_usd_per_kwh: (hours,).
    """

    site_id: str
    gpu_count: int
    busy_count: NDArray[np.float64]
    carbon_gco2_per_kwh: NDArray[np.float64]
    price_usd_per_kwh: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Placements:
    """An exported run over time.

    Attributes:
        record: Which run.
        sites: All sites, sorted by name.
        first_h: Hour of the run with which the arrays begin: the end of the warm-up.
    """

    record: RunRecord
    sites: tuple[SitePlacements, ...]
    first_h: int


def read_sources(paths: Sequence[Path]) -> Sources:
    """Return what the files and directories hold.

    Args:
        paths: Files that `gcos evaluate -o json` wrote, or directories of its `--out`.

    Raises:
        InvalidRequestError: None was named, or one is neither.
        NotFoundError: One does not exist, or holds no evaluation.
    """
    if not paths:
        raise InvalidRequestError("nothing to report", field="sources", hint="name a file or --out")
    evaluations: list[Evaluation] = []
    papers: list[PaperTable] = []
    bounds: list[_Bounds] = []
    for path in paths:
        for file in _files(path):
            for found in _read(file):
                if isinstance(found, PaperTable):
                    papers.append(found)
                    evaluations += found.evaluations
                elif isinstance(found, _Bounds):
                    bounds.append(found)
                else:
                    evaluations.append(found)
    if not evaluations:
        raise InvalidRequestError(
            "bounds alone are no evaluation", field="sources", hint="name one beside them"
        )
    once = {codec.encode(each): each for each in evaluations}
    bounded = (_with_bounds(each, bounds) for each in once.values())
    return Sources(tuple(bounded), tuple(papers))


def _with_bounds(found: Evaluation, every: "Sequence[_Bounds]") -> Evaluation:
    """Return an evaluation with what is known of the least J of its runs."""
    known = tuple(
        RunBound(
            run.week_start_s,
            run.seed,
            bound_usd=run.bound.bound_usd,
            local_search_usd=run.bound.search_usd,
        )
        for each in every
        if each.of == (found.scenario, found.cache_mode, found.cost_scope, found.data)
        and each.carbon_price_usd_per_kg == found.carbon_price_usd_per_kg
        for run in each.runs
    )
    return replace(found, bounds=(*found.bounds, *known))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted((path / EVALUATIONS).glob("*.json"))
        if not files:
            raise NotFoundError(
                f"{path} holds no finished evaluation",
                hint=f"gcos evaluate --out {path} writes one when all its runs have ended",
            )
        return files
    if not path.exists():
        raise NotFoundError(f"{path} does not exist", hint="write one with gcos evaluate -o json")
    return [path]


class _Bound(msgspec.Struct):
    bound_usd: float
    search_usd: float | None = None


class _BoundedRun(msgspec.Struct):
    week_start_s: float
    seed: int
    bound: _Bound


class _Bounds(msgspec.Struct):
    """What a report takes of a document of bounds: J of whole runs, below and attained."""

    scenario: str
    cache_mode: str
    cost_scope: CostScope
    carbon_price_usd_per_kg: float
    data: str
    runs: list[_BoundedRun]

    @property
    def of(self) -> tuple[str, str, CostScope, str]:
        """Which evaluation it belongs to, its carbon price apart."""
        return self.scenario, self.cache_mode, self.cost_scope, self.data


def _read(path: Path) -> Sequence[Evaluation | PaperTable | _Bounds]:
    try:
        document = path.read_bytes()
        schema = json.loads(document).get("schema")
    except (OSError, ValueError, AttributeError) as exc:
        raise InvalidRequestError(
            f"{path} is no evaluation: {exc}",
            field="sources",
            hint="name what gcos evaluate -o json wrote",
        ) from exc
    try:
        if schema == SCHEMA:
            return [_checked(codec.decode(Evaluation, document), path)]
        if schema == SWEEP_SCHEMA:
            found = codec.decode(Evaluations, document).evaluations
            return [_checked(each, path) for each in found]
        if schema == PAPER_SCHEMA:
            return [codec.decode(PaperTable, document)]
        if schema == BOUND_SCHEMA:
            return [codec.decode(_Bounds, document)]
    except GcosError as exc:
        raise InvalidRequestError(f"{path}: {exc.message}", field="sources", hint=exc.hint) from exc
    raise InvalidRequestError(
        f"{path} has schema {schema!r}",
        field="sources",
        hint=f"{SCHEMA}, {SWEEP_SCHEMA}, {PAPER_SCHEMA} and {BOUND_SCHEMA} can be read",
    )


def _checked(found: Evaluation, path: Path) -> Evaluation:
    """Return an evaluation whose every policy has every run.

    Raises:
        InvalidRequestError: A policy lacks a run, or there is none at all.
    """
    pairs: dict[str, list[tuple[float, int]]] = {}
    for run in found.runs:
        pairs.setdefault(name_in(found, run), []).append((run.week_start_s, run.seed))
    wanted = [sorted(each) for each in pairs.values()]
    names = {each.policy for each in found.policies}
    if not names or set(pairs) != names or any(each != wanted[0] for each in wanted):
        raise InvalidRequestError(
            f"{path}: its policies do not have the same runs",
            field="runs",
            hint="name a file as gcos evaluate -o json wrote it",
        )
    return found


def read_placements(path: Path) -> tuple[Placements, ...]:
    """Return the exported runs of a directory: one run, or one in each directory inside.

    Raises:
        NotFoundError: There is none.
        InvalidRequestError: A file of one cannot be read.
    """
    inside = sorted(each for each in path.glob("*") if each.is_dir()) if path.is_dir() else []
    places = [each for each in (path, *inside) if all((each / name).is_file() for name in _EXPORT)]
    if not places:
        raise NotFoundError(
            f"{path} holds no exported run", hint=f"gcos evaluate --export {path} writes them"
        )
    return tuple(_placements(each) for each in places)


class _Site(msgspec.Struct):
    name: str
    gpus: int
    price_usd_per_kwh: list[float]
    ci_kg_per_kwh: list[float]


class _Task(msgspec.Struct):
    id: str
    gpus: int


class _World(msgspec.Struct):
    measure_h: tuple[float, float]
    sites: list[_Site]
    tasks: list[_Task]


class _Line(msgspec.Struct):
    e: str
    task: str | None = None
    site: int = -1
    t0: float = 0.0
    t1: float = 0.0


def _placements(directory: Path) -> Placements:
    try:
        record = codec.decode(RunRecord, (directory / EXPORTED_RUN).read_bytes())
        world = msgspec.json.decode((directory / "scenario.json").read_bytes(), type=_World)
        decoder = msgspec.json.Decoder(_Line)
        with (directory / "log.jsonl").open("rb") as log:
            lines = [line for line in map(decoder.decode, log) if line.e in {"run", "abort"}]
    except (OSError, msgspec.DecodeError, GcosError) as exc:
        raise InvalidRequestError(
            f"{directory} is no exported run: {exc}",
            field="placements",
            hint="export it again with gcos evaluate --export",
        ) from exc
    first_h, last_h = (int(hour) for hour in world.measure_h)
    gpus = {task.id: task.gpus for task in world.tasks}
    busy = np.zeros((len(world.sites), last_h - first_h))
    for line in lines:
        _add(busy[line.site], gpus[str(line.task)], line.t0 - first_h, line.t1 - first_h)
    sites = tuple(
        SitePlacements(
            site.name,
            gpu_count=site.gpus,
            busy_count=busy[index],
            carbon_gco2_per_kwh=1000.0 * _hours(site.ci_kg_per_kwh, first_h, last_h),
            price_usd_per_kwh=_hours(site.price_usd_per_kwh, first_h, last_h),
        )
        for index, site in enumerate(world.sites)
    )
    return Placements(record, sites, first_h)


def _hours(values: Sequence[float], first_h: int, last_h: int) -> NDArray[np.float64]:
    """Return the values of the hours; the last one holds past the end."""
    return np.array([values[min(hour, len(values) - 1)] for hour in range(first_h, last_h)])


def _add(busy: NDArray[np.float64], gpu_count: int, start_h: float, end_h: float) -> None:
    """Add a run to the mean GPUs in use of each hour that it touches."""
    edges = np.arange(len(busy) + 1, dtype=np.float64)
    inside = np.minimum(edges[1:], end_h) - np.maximum(edges[:-1], start_h)
    busy += gpu_count * np.maximum(inside, 0.0)
