"""The workload generator: the tasks of a scenario under a seed. Pure.

`testbed/scenarios/README.md` tells every rule with its source. Tasks are drawn by position: task k
of a seed has the same variates in every scenario, and a higher load only appends tasks. What a
parameter changes is how variates become values.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gcos.accounting import S_PER_H, LatePenalty
from gcos.errors import InvalidRequestError
from gcos.ids import SiteId
from gcos.seeds import stream
from testbed.catalogue import DrawnCatalogue
from testbed.scenarios.records import Scenario, SitePlan, Workload, gpus_for
from testbed.scenarios.time_zones import offsets_h, zone_time
from testbed.sim.instance import SimTask

#: Most tasks of one instance; a year of the default scenario has about 300,000.
TASK_COUNT_MAX: Final = 5_000_000

#: `workload.origin`: share of tasks submitted beside their data, and the concentration of the rest.
AT_DATA_SHARE: Final = 0.5
DIRICHLET_CONCENTRATION: Final = 4.0

#: `workload.arrivals`: mean, amplitude and peak hour of the rate over the local day.
DAY_MEAN: Final = 0.55
DAY_AMPLITUDE: Final = 0.45
DAY_PEAK_H: Final = 14.0

#: `workload.deadline`: multiple of the predicted run time at median speed.
RUN_TIME_ALLOWANCE_RATIO: Final = 1.3

#: The rate is constant over a quarter of an hour, as local time differs from UTC by quarters.
_STEPS_PER_H: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class Arrivals:
    """When tasks come, by origin.

    Attributes:
        edges_s: (n + 1,) instants between which rates are constant.
        cumulative: (sites, n + 1) share of a site's arrivals before each edge, from 0 to 1.
    """

    edges_s: NDArray[np.float64]
    cumulative: NDArray[np.float64]

    def at(self, site: NDArray[np.intp], uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return an instant for each (site, uniform variate), by inversion."""
        arrival_s = np.empty(len(uniform))
        for index, cumulative in enumerate(self.cumulative):
            chosen = site == index
            arrival_s[chosen] = np.interp(uniform[chosen], cumulative, self.edges_s)
        return arrival_s

    def share_after(self, t_s: float) -> NDArray[np.float64]:
        """Return the share of each site's arrivals that come after `t_s`, (sites,)."""
        return np.array([1.0 - np.interp(t_s, self.edges_s, row) for row in self.cumulative])


@dataclass(frozen=True, slots=True, eq=False)
class Origins:
    """Where tasks are submitted.

    Attributes:
        log_weights: (sites,) logarithms of the Dirichlet draw.
        data_home: (data sets,) index of the site beside which each data set lies.
    """

    log_weights: NDArray[np.float64]
    data_home: NDArray[np.intp]

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """P(origin | data set), (data sets, sites)."""
        drawn = (1 - AT_DATA_SHARE) * np.exp(self.log_weights)
        table = np.tile(drawn, (len(self.data_home), 1))
        table[np.arange(len(self.data_home)), self.data_home] += AT_DATA_SHARE
        return table


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """Everything from which the tasks of a seed are made.

    Attributes:
        scenario: What to draw.
        seed: Seed of everything.
        start_s: World instant of the begin.
        catalogue: What tasks ask for.
        origins: Where they are submitted.
        arrivals: When they come.
    """

    scenario: Scenario
    seed: int
    start_s: float
    catalogue: DrawnCatalogue
    origins: Origins
    arrivals: Arrivals


@dataclass(frozen=True, slots=True, eq=False)
class Variates:
    """Draws of `count` tasks from streams of their own; prefixes do not depend on the count."""

    seed: int
    count: int

    def uniform(self, name: str) -> NDArray[np.float64]:
        """Return variates in [0, 1), (count,)."""
        return stream(self.seed, "workload", "task", name).random(self.count)

    def normal(self, name: str) -> NDArray[np.float64]:
        """Return standard normal variates, (count,)."""
        return stream(self.seed, "workload", "task", name).standard_normal(self.count)

    def gumbel(self, name: str, sites: Sequence[SitePlan]) -> NDArray[np.float64]:
        """Return standard Gumbel variates, (count, sites), from a stream for each site."""
        columns = [
            stream(self.seed, "workload", "task", name, site.id).gumbel(size=self.count)
            for site in sites
        ]
        return np.stack(columns, axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class TaskArrays:
    """Tasks as parallel arrays (n,).

    `class_index`, `model`, `data` and `site` are positions in the scenario's classes, the
    catalogue and the scenario's sites; work is in hours at speed 1.
    """

    class_index: NDArray[np.intp]
    model: NDArray[np.intp]
    data: NDArray[np.intp]
    gpu_count: NDArray[np.int64]
    predicted_h: NDArray[np.float64]
    work_h: NDArray[np.float64]
    site: NDArray[np.intp]
    arrival_s: NDArray[np.float64]
    deadline_s: NDArray[np.float64]


def recipe(scenario: Scenario, catalogue: DrawnCatalogue, *, start_s: float, seed: int) -> Recipe:
    """Return what the tasks of a seed are made from."""
    return Recipe(
        scenario,
        seed=seed,
        start_s=start_s,
        catalogue=catalogue,
        origins=draw_origins(scenario, catalogue, seed),
        arrivals=arrivals_by_site(scenario, start_s),
    )


def draw_origins(scenario: Scenario, catalogue: DrawnCatalogue, seed: int) -> Origins:
    """Return where tasks are submitted: beside their data, or by a Dirichlet draw over sites.

    A Dirichlet variate is a vector of Gamma variates over their sum; each site has its own stream.
    """
    gamma = np.array(
        [
            stream(seed, "workload", "origin", site.id).gamma(DIRICHLET_CONCENTRATION)
            for site in scenario.site
        ]
    )
    position = {SiteId(site.id): index for index, site in enumerate(scenario.site)}
    home = np.array([position[each.home] for each in catalogue.data_sets], dtype=np.intp)
    return Origins(np.log(gamma / gamma.sum()), data_home=home)


def arrivals_by_site(scenario: Scenario, start_s: float) -> Arrivals:
    """Return when tasks come: a rate of 0.55 + 0.45 cos(2 pi (h - 14) / 24) at local hour h."""
    hours = scenario.warmup_h + scenario.measure_h
    steps = np.arange(hours * _STEPS_PER_H + 1)
    edges_s = start_s + steps * (S_PER_H / _STEPS_PER_H)
    first = round(start_s / S_PER_H)
    middle_h = (edges_s[:-1] / S_PER_H + 0.5 / _STEPS_PER_H) % 24
    rows = []
    for site in scenario.site:
        zone = zone_time(site.zone, site.timezone)
        ahead_h = np.repeat(offsets_h(zone, range(first, first + hours)), _STEPS_PER_H)
        angle = 2 * np.pi * (middle_h + ahead_h - DAY_PEAK_H) / 24
        total = np.concatenate(([0.0], np.cumsum(DAY_MEAN + DAY_AMPLITUDE * np.cos(angle))))
        rows.append(total / total[-1])
    return Arrivals(np.asarray(edges_s, dtype=np.float64), cumulative=np.array(rows))


def mean_task_count(source: Recipe) -> float:
    """Return the expected number of tasks, warm-up included.

    The rate is such that, given the catalogue that was drawn, the expected predicted GPU hours at
    speed 1 of arrivals in the measured window are load x sum(gpus x speed) x measure_h.
    """
    scenario = source.scenario
    work = scenario.workload
    capacity = sum(site.gpus * scenario.hardware[site.hardware].speed for site in scenario.site)
    measured_from_s = source.start_s + scenario.warmup_h * S_PER_H
    in_window = source.origins.probabilities @ source.arrivals.share_after(measured_from_s)
    gpu_h_per_task = 0.0
    for name, each in work.classes.items():
        if each.share > 0:
            pairs = source.catalogue.pair_probabilities(each.data_gb_max)
            gpus = np.array(
                [
                    _mean_gpu_count(size_gb, scenario.class_gpu_minima[name])
                    for size_gb in scenario.catalogue.model_gb
                ]
            )
            mean_h = clipped_lognormal_mean(each.median_h, each.sigma, work.work_clip_h)
            gpu_h_per_task += each.share * mean_h * float(in_window @ pairs @ gpus)
    return work.load * capacity * scenario.measure_h / gpu_h_per_task


def draw_task_count(source: Recipe) -> int:
    """Return the number of tasks: a Poisson variate that grows with its mean.

    Raises:
        InvalidRequestError: There would be more than `TASK_COUNT_MAX`.
    """
    mean = mean_task_count(source)
    if mean > TASK_COUNT_MAX:
        raise InvalidRequestError(
            f"about {mean:.0f} tasks are more than {TASK_COUNT_MAX}",
            field="workload.load",
            hint="lower load or measure_h",
        )
    # Arrivals of a unit Poisson process before `mean`: the same process for every load.
    enough = int(mean + 12 * math.sqrt(mean)) + 60
    gaps = stream(source.seed, "workload", "count").exponential(size=enough)
    return int(np.searchsorted(np.cumsum(gaps), mean))


def draw_tasks(source: Recipe) -> tuple[SimTask, ...]:
    """Return the tasks of a seed, sorted by arrival."""
    return as_tasks(draw_arrays(source, draw_task_count(source)), source)


def draw_arrays(source: Recipe, count: int) -> TaskArrays:
    """Return the first `count` tasks of a seed, in no order of time."""
    work = source.scenario.workload
    draws = Variates(source.seed, count)
    edges = np.cumsum([each.share for each in work.classes.values()])
    # The last edge may be a rounding below 1; a class without a share is never hit.
    class_index = np.searchsorted(edges / edges[-1], draws.uniform("class"), side="right")
    predicted_h = predicted_work_h(source.scenario, class_index, draws)
    data, model = draw_pairs(source, class_index, draws)
    scores = origin_scores(source, draws)
    site = draw_sites(source, data, scores, draws)
    arrival_s = source.arrivals.at(site, draws.uniform("arrival"))
    return TaskArrays(
        class_index=class_index,
        model=model,
        data=data,
        gpu_count=draw_gpu_counts(source.scenario, class_index, model, draws),
        predicted_h=predicted_h,
        work_h=predicted_h * np.exp(work.runtime_sigma * draws.normal("noise")),
        site=present_sites(source, site, arrival_s, scores),
        arrival_s=arrival_s,
        deadline_s=draw_deadlines_s(source.scenario, class_index, arrival_s, predicted_h, draws),
    )


def predicted_work_h(
    scenario: Scenario, class_index: NDArray[np.intp], draws: Variates
) -> NDArray[np.float64]:
    """Return predicted hours at speed 1: lognormal by class, clipped."""
    classes = list(scenario.workload.classes.values())
    median_h = np.array([each.median_h for each in classes])[class_index]
    sigma = np.array([each.sigma for each in classes])[class_index]
    work_h = median_h * np.exp(sigma * draws.normal("work"))
    return np.asarray(np.clip(work_h, *scenario.workload.work_clip_h))


def draw_pairs(
    source: Recipe, class_index: NDArray[np.intp], draws: Variates
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return positions of data set and model, by the popularity of pairs within each class."""
    uniform = draws.uniform("pair")
    flat = np.zeros(len(uniform), dtype=np.intp)
    for index, each in enumerate(source.scenario.workload.classes.values()):
        chosen = class_index == index
        if chosen.any():
            cumulative = np.cumsum(source.catalogue.pair_probabilities(each.data_gb_max).ravel())
            flat[chosen] = np.searchsorted(
                cumulative / cumulative[-1], uniform[chosen], side="right"
            )
    data, model = np.divmod(flat, len(source.catalogue.models))
    return data, model


def origin_scores(source: Recipe, draws: Variates) -> NDArray[np.float64]:
    """Return (n, sites) scores: the site of the highest one is drawn by its weight (Gumbel max)."""
    return source.origins.log_weights + draws.gumbel("origin", source.scenario.site)


def draw_sites(
    source: Recipe, data: NDArray[np.intp], scores: NDArray[np.float64], draws: Variates
) -> NDArray[np.intp]:
    """Return origins: half at the home of the data set, half by the highest score."""
    is_at_data = draws.uniform("origin") < AT_DATA_SHARE
    return np.where(is_at_data, source.origins.data_home[data], np.argmax(scores, axis=1))


def draw_gpu_counts(
    scenario: Scenario,
    class_index: NDArray[np.intp],
    model: NDArray[np.intp],
    draws: Variates,
) -> NDArray[np.int64]:
    """Return GPUs: what the model's size asks for, at least a minimum drawn by class."""
    needed = np.array([gpus_for(size_gb) for size_gb in scenario.catalogue.model_gb])[model]
    uniform = draws.uniform("gpus")
    least = np.ones(len(model), dtype=np.int64)
    for index, minima in enumerate(scenario.class_gpu_minima.values()):
        drawn = np.array(minima)[(uniform * len(minima)).astype(np.intp)]
        least = np.where(class_index == index, drawn, least)
    return np.asarray(np.maximum(needed, least), dtype=np.int64)


def draw_deadlines_s(
    scenario: Scenario,
    class_index: NDArray[np.intp],
    arrival_s: NDArray[np.float64],
    predicted_h: NDArray[np.float64],
    draws: Variates,
) -> NDArray[np.float64]:
    """Return arrival + 1.3 x predicted work / median speed of the sites + slack."""
    work = scenario.workload
    slack = np.array([each.slack_h for each in work.classes.values()])[class_index]
    slack_h = slack[:, 0] + (slack[:, 1] - slack[:, 0]) * draws.uniform("slack")
    speeds = [scenario.hardware[site.hardware].speed for site in scenario.site]
    run_h = RUN_TIME_ALLOWANCE_RATIO * predicted_h / float(np.median(speeds))
    return np.asarray(arrival_s + (run_h + slack_h * work.slack_factor) * S_PER_H)


def present_sites(
    source: Recipe,
    site: NDArray[np.intp],
    arrival_s: NDArray[np.float64],
    scores: NDArray[np.float64],
) -> NDArray[np.intp]:
    """Return where tasks are submitted, once those whose origin has left went elsewhere.

    Args:
        source: What the tasks are made from.
        site: (n,) origin of each task.
        arrival_s: (n,) its arrival.
        scores: (n, sites) the highest one is the origin among the sites that are there.
    """
    is_away = np.zeros(scores.shape, dtype=bool)
    for index, from_s, until_s in _absences(source.scenario, source.start_s):
        is_away[:, index] |= (from_s <= arrival_s) & (arrival_s < until_s)
    other = np.argmax(np.where(is_away, -np.inf, scores), axis=1)
    return np.where(is_away[np.arange(len(site)), site], other, site)


def as_tasks(arrays: TaskArrays, source: Recipe) -> tuple[SimTask, ...]:
    """Return records, sorted by arrival and numbered in that order."""
    scenario, catalogue = source.scenario, source.catalogue
    names = list(scenario.workload.classes)
    rule = scenario.workload.penalty_usd
    told_h, told_sigma = told_work(scenario.workload, arrays.predicted_h)
    tasks = []
    for number, k in enumerate(np.argsort(arrays.arrival_s, kind="stable").tolist()):
        predicted_h = float(arrays.predicted_h[k])
        gpu_count = int(arrays.gpu_count[k])
        tasks.append(
            SimTask(
                task_id=f"t{number + 1:07d}",
                arrival_s=float(arrays.arrival_s[k]),
                origin=SiteId(scenario.site[int(arrays.site[k])].id),
                model=catalogue.models[int(arrays.model[k])].artifact.artifact_id,
                data=catalogue.data_sets[int(arrays.data[k])].artifact.artifact_id,
                gpu_count=gpu_count,
                predicted_work_s=float(told_h[k]) * S_PER_H,
                work_s=float(arrays.work_h[k]) * S_PER_H,
                sigma=told_sigma,
                deadline_s=float(arrays.deadline_s[k]),
                late_penalty=LatePenalty(
                    fixed_usd=rule.fixed_usd(gpu_count * predicted_h),
                    per_h_usd=rule.per_h_usd(gpu_count * predicted_h),
                    cap_h=scenario.late_cap_h,
                ),
                job_class=names[int(arrays.class_index[k])],
            )
        )
    return tuple(tasks)


def told_work(
    work: Workload, predicted_h: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Return what policies are told: medians in hours at speed 1, (n,), and sigma.

    True work, deadlines and penalties are drawn from `predicted_h` whatever is told.
    """
    if work.prediction == "distribution":
        return predicted_h, work.runtime_sigma
    if work.prediction == "none" and len(predicted_h):
        return np.full_like(predicted_h, np.median(predicted_h)), 0.0
    return predicted_h, 0.0


def clipped_lognormal_mean(median: float, sigma: float, clip: tuple[float, float]) -> float:
    """Return E[min(max(X, a), b)] of a lognormal X.

    a P(X < a) + E[X; a <= X <= b] + b P(X > b), with the partial expectation of a lognormal
    (Crow and Shimizu, Lognormal Distributions, 1988, chapter 1).
    """
    low, high = clip
    if sigma == 0:
        return min(max(median, low), high)
    mu = math.log(median)
    below, above = ((math.log(edge) - mu) / sigma for edge in clip)
    cdf = NormalDist().cdf
    inside = math.exp(mu + sigma * sigma / 2) * (cdf(above - sigma) - cdf(below - sigma))
    return low * cdf(below) + inside + high * cdf(-above)


def _mean_gpu_count(model_gb: float, minima: Sequence[int]) -> float:
    return sum(max(gpus_for(model_gb), least) for least in minima) / len(minima)


def _absences(scenario: Scenario, start_s: float) -> Iterator[tuple[int, float, float]]:
    """Yield position, begin and end of each time in which a site of the begin is away."""
    position = {site.id: index for index, site in enumerate(scenario.site)}
    left_s: dict[str, float] = {}
    for event in scenario.events:
        at_s = start_s + event.at_h * S_PER_H
        if event.leave in position:
            left_s[event.leave] = at_s
        elif event.join in position:
            yield position[event.join], left_s.pop(event.join), at_s
    for site_id, from_s in left_s.items():
        yield position[site_id], from_s, math.inf
