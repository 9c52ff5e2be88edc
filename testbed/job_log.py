"""Tasks from a job log; what the log does not say is drawn as the generator draws it. Pure.

No public log names model, data set and execution time together, so every replay draws something;
the notes of the instance say what.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcos.accounting import BYTES_PER_GB, S_PER_H
from gcos.artifacts import ArtifactKind
from gcos.errors import InvalidRequestError
from gcos.ids import SiteId
from testbed.catalogue import DrawnCatalogue, artifact, uniform_site
from testbed.sim.instance import SimTask, Upstream
from testbed.workload import (
    Recipe,
    TaskArrays,
    Variates,
    as_tasks,
    draw_deadlines_s,
    draw_pairs,
    draw_sites,
    origin_scores,
    present_sites,
)
from testbed.world import LoggedJob, World


@dataclass(frozen=True, slots=True, eq=False)
class JobLog:
    """Tasks and what they ask for.

    Attributes:
        tasks: Sorted by arrival.
        upstreams: Every artifact with its home, sorted by id.
        notes: What a reader must know of them.
    """

    tasks: tuple[SimTask, ...]
    upstreams: tuple[Upstream, ...]
    notes: tuple[str, ...] = ()


def read_log(source: Recipe, world: World, jobs: Sequence[LoggedJob]) -> JobLog:
    """Return the jobs that the log submits in the run and that a site of the scenario can run.

    Run time in the log is taken as the true work at speed 1 (assumed); the prediction is that
    truth over the noise factor lognormal(0, `runtime_sigma`), and deadlines follow from the
    prediction. The class is that of the nearest median on a logarithmic scale.

    Raises:
        InvalidRequestError: No job is left.
    """
    kept, left_out = _runnable(source, jobs)
    if not kept:
        raise InvalidRequestError(
            "the job log has no job that falls into the run and fits a site",
            field="replay",
            hint=f"{left_out} ask for more GPUs than any site has or never ran",
        )
    extended, named = _with_named_artifacts(source, world, kept)
    arrays = _arrays(extended, kept, named)
    log = kept[0].log
    notes = [f"{len(kept)} tasks replay the log {log}; work is its run time at speed 1 (assumed)"]
    if left_out:
        notes.append(f"{left_out} jobs of {log} are left out: too many GPUs, or they never ran")
    notes += [f"{what} of {count} of them drawn" for what, count in _drawn(kept) if count]
    return JobLog(as_tasks(arrays, extended), extended.catalogue.upstreams, tuple(notes))


def _runnable(source: Recipe, jobs: Sequence[LoggedJob]) -> tuple[list[LoggedJob], int]:
    """Return the jobs of the run that a site can run, and how many it cannot."""
    scenario = source.scenario
    window_s = (scenario.warmup_h + scenario.measure_h) * S_PER_H
    most = max(site.gpus for site in scenario.site)
    inside = [job for job in jobs if job.submit_s < window_s]
    kept = [job for job in inside if job.gpus <= most and job.duration_s > 0]
    return kept, len(inside) - len(kept)


def _drawn(jobs: Sequence[LoggedJob]) -> list[tuple[str, int]]:
    return [
        ("models", sum(job.model is None for job in jobs)),
        ("data sets", sum(job.data_set is None for job in jobs)),
        ("origins", sum(job.origin_zone is None for job in jobs)),
        ("deadlines", sum(job.deadline_s is None for job in jobs)),
    ]


@dataclass(frozen=True, slots=True, eq=False)
class _Named:
    """Positions in the catalogue of the artifacts that a log names."""

    models: Mapping[str, int]
    data_sets: Mapping[str, int]


def _with_named_artifacts(
    source: Recipe, world: World, jobs: Sequence[LoggedJob]
) -> tuple[Recipe, _Named]:
    """Return the recipe with the artifacts that the log names behind those that were drawn.

    Nothing is drawn from them: their popularity is what the log says.
    """
    model_names = list(dict.fromkeys(job.model for job in jobs if job.model is not None))
    data_names = list(dict.fromkeys(job.data_set for job in jobs if job.data_set is not None))
    model_sizes = {each.name: each.size_bytes for each in world.models()}
    data_sizes = {each.name: each.size_bytes for each in world.data_sets()}
    drawn = source.catalogue
    catalogue = DrawnCatalogue(
        models=drawn.models + _upstreams(source, ArtifactKind.MODEL, model_names, model_sizes),
        data_sets=drawn.data_sets + _upstreams(source, ArtifactKind.DATA, data_names, data_sizes),
        popularity=np.pad(drawn.popularity, ((0, len(data_names)), (0, len(model_names)))),
    )
    named = _Named(
        {name: len(drawn.models) + index for index, name in enumerate(model_names)},
        data_sets={name: len(drawn.data_sets) + index for index, name in enumerate(data_names)},
    )
    return dataclasses.replace(source, catalogue=catalogue), named


def _upstreams(
    source: Recipe, kind: ArtifactKind, names: Sequence[str], sizes: Mapping[str, int]
) -> tuple[Upstream, ...]:
    """Return artifacts of the log.

    Raises:
        InvalidRequestError: The world's catalogue does not know the size of one.
    """
    sites = [SiteId(site.id) for site in source.scenario.site]
    for name in names:
        if name not in sizes:
            raise InvalidRequestError(
                f"the job log names {name!r}, whose size no catalogue states",
                field="replay",
                hint="add it to the models or data sets of the data directory",
            )
    return tuple(
        Upstream(
            artifact(kind, name, sizes[name] / BYTES_PER_GB),
            home=uniform_site(sites, source.seed, "workload", "home", name),
        )
        for name in names
    )


def _arrays(source: Recipe, jobs: Sequence[LoggedJob], named: _Named) -> TaskArrays:
    """Return the jobs as tasks: drawn ones, with what the log knows put over them."""
    scenario = source.scenario
    draws = Variates(source.seed, len(jobs))
    arrival_s = source.start_s + np.array([job.submit_s for job in jobs])
    work_h = np.array([job.duration_s for job in jobs]) / S_PER_H
    predicted_h = work_h / np.exp(scenario.workload.runtime_sigma * draws.normal("noise"))
    class_index = _nearest_class(source, predicted_h)
    data, model = draw_pairs(source, class_index, draws)
    scores = origin_scores(source, draws)
    site = _overlaid(
        draw_sites(source, data, scores, draws),
        [job.origin_zone for job in jobs],
        _sites_by_zone(source),
    )
    deadline_s = draw_deadlines_s(scenario, class_index, arrival_s, predicted_h, draws)
    logged_s = np.array([np.nan if job.deadline_s is None else job.deadline_s for job in jobs])
    return TaskArrays(
        class_index=class_index,
        model=_overlaid(model, [job.model for job in jobs], named.models),
        data=_overlaid(data, [job.data_set for job in jobs], named.data_sets),
        gpu_count=np.array([job.gpus for job in jobs], dtype=np.int64),
        predicted_h=predicted_h,
        work_h=work_h,
        site=present_sites(source, site, arrival_s, scores),
        arrival_s=arrival_s,
        deadline_s=np.where(np.isnan(logged_s), deadline_s, source.start_s + logged_s),
    )


def _nearest_class(source: Recipe, predicted_h: NDArray[np.float64]) -> NDArray[np.intp]:
    classes = source.scenario.workload.classes.values()
    medians = np.log(np.array([each.median_h for each in classes]))
    distance = np.abs(np.log(predicted_h)[:, np.newaxis] - medians)
    return np.asarray(np.argmin(distance, axis=1))


def _sites_by_zone(source: Recipe) -> dict[str, int]:
    """Return the first site of each zone."""
    found: dict[str, int] = {}
    for index, site in enumerate(source.scenario.site):
        found.setdefault(site.zone, index)
    return found


def _overlaid(
    drawn: NDArray[np.intp], names: Sequence[str | None], positions: Mapping[str, int]
) -> NDArray[np.intp]:
    """Return positions by name; what has none, or one that is not known, stays as it was drawn."""
    return np.array(
        [
            before if name is None else positions.get(name, before)
            for before, name in zip(drawn.tolist(), names, strict=True)
        ],
        dtype=np.intp,
    )
