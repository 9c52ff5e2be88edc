"""The copy plan's arrays out of a run's arrays, as sites make them of each other's outlooks.

`site_agent.outlook` and `site_agent.copy_planning` in one step: what sites would tell each other
goes straight into the plan. Sites and artifacts stand in the order of their ids there, as that
code sorts them; tasks in order of arrival.
"""

from typing import Final, NamedTuple

import numpy as np

from gcos.accounting import BYTES_PER_GB, G_PER_KG, CostScope
from gcos.artifacts import ArtifactKind
from gcos.signals import HOUR_S
from policies.catalogue import Foresight
from policies.maccs.artifact_features import Surroundings, surroundings_of
from policies.maccs.copy_plan import (
    CROWDED_PENALTY,
    CROWDED_RUN,
    GRID_H,
    HORIZON_H,
    MEMORY_H,
    UNLEARNED,
    Bools,
    Caches,
    Learned,
    Sample,
    Settings,
    characteristic_share,
    run_costs_usd,
    virtual_starts,
    weight_of,
)
from site_agent.copy_planning import SAMPLE_COUNT_MIN
from site_agent.demand_log import LOG_COUNT_MAX, spread_of
from site_agent.outlook import RATE_H, EvictionPace
from testbed.fast.handle import table_of
from testbed.fast.layout import ABSENT, CARBON, COMPLETE, PRICE, Floats, Ints, State
from testbed.fast.migration import look
from testbed.planner import planner
from testbed.sim.foresight import CopyPlans
from testbed.sim.instance import Instance

_KINDS: Final = (ArtifactKind.MODEL, ArtifactKind.DATA)


class Problem(NamedTuple):
    """What is planned at a beat: the arguments of `policies.maccs.copy_plan.plan_copies`."""

    sample: Sample
    caches: Caches
    load: Floats
    gpu_count: Ints
    surroundings: Surroundings


class _Expected(NamedTuple):
    """Tasks that are expected: which, when (hours from now), how old, and uses that each is."""

    tasks: Ints
    start_h: Floats
    age_h: Floats
    memory_h: float
    weight: float


class Expectations:
    """What the tasks of a world would cost where, apart from power: the same for all runs.

    Axes: n tasks in order of arrival, i sites by id.

    Attributes:
        arrival_s: (n,).
        spread: (n,) fixed number of each task.
        gpu_count: (n,).
        artifacts: (n, 2) model and data set, in the order of artifacts' ids.
        run_h: (n, i) predicted run time; 0 where it does not fit.
        fits: (n, i) the site has so many GPUs.
        late_usd: (n, i) expected penalty of a start at arrival.
        gpu_usd: (n, i) GPU hours, where they are in the scope.
        penalty_usd: (n,) fixed late penalty.
        site_order: Sites of the instance, by id.
        artifact_order: Artifacts of the instance, by id.
        egress_usd_per_gb: (i, i) from, to.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        told = CopyPlans(instance, Foresight.REMEMBERED, planner())
        tasks = sorted(instance.tasks, key=lambda task: (task.arrival_s, task.task_id))
        submissions = [told.submission(task) for task in tasks]
        ids = [upstream.artifact.artifact_id for upstream in instance.upstreams]
        self.site_order = np.argsort([site.site_id for site in instance.sites])
        self.artifact_order = np.array(sorted(range(len(ids)), key=lambda a: ids[a]))
        place = {ids[a]: k for k, a in enumerate(self.artifact_order)}
        sites = [instance.sites[i] for i in self.site_order]
        shape = len(tasks), len(sites)
        self.arrival_s = np.array([task.arrival_s for task in tasks])
        self.spread = np.array([spread_of(task.task_id) for task in submissions], dtype=np.int64)
        self.gpu_count = np.array([float(task.gpu_count) for task in submissions])
        self.penalty_usd = np.array([task.fixed_penalty_usd for task in submissions])
        self.artifacts = np.array(
            [[place[task.model_id or ""], place[task.data_id or ""]] for task in submissions],
            dtype=np.int64,
        ).reshape(len(tasks), 2)
        self.run_h, self.late_usd, self.gpu_usd = (np.zeros(shape) for _ in range(3))
        self.fits = np.zeros(shape, dtype=np.bool_)
        runs = [{run.pool_type: run for run in task.runs} for task in submissions]
        is_cost = instance.scope is CostScope.WITH_GPU_HOURS
        for i, site in enumerate(sites):
            (pool,) = site.pools
            here = [run[pool.type] for run in runs]
            self.fits[:, i] = self.gpu_count <= pool.gpu_count
            hours = np.where(self.fits[:, i], np.array([run.run_h for run in here]), 0.0)
            self.run_h[:, i] = hours
            self.late_usd[:, i] = [run.late_usd for run in here]
            self.gpu_usd[:, i] = self.gpu_count * hours * (pool.usd_per_gpu_h if is_cost else 0.0)
        self.egress_usd_per_gb = np.array(
            [
                [
                    0.0
                    if source is target
                    else instance.links[source.site_id, target.site_id].egress_usd_per_gb
                    for target in sites
                ]
                for source in sites
            ]
        )


class Outlooks:
    """Plans the copies of one run.

    Args:
        expectations: Of the world.
        foresight: What the plans are made from.
        settings: Constants of the plan.
        learned: Corrects what it expects.
    """

    def __init__(
        self,
        expectations: Expectations,
        foresight: Foresight,
        settings: Settings,
        learned: Learned = UNLEARNED,
    ) -> None:
        self._known = expectations
        self.settings = settings
        self._foresight = foresight
        self._learned = learned
        instance = expectations.instance
        self._sites = [instance.sites[i] for i in expectations.site_order]
        artifacts = [instance.upstreams[a].artifact for a in expectations.artifact_order]
        self._size_gb = np.array([each.size_bytes / BYTES_PER_GB for each in artifacts])
        self._kind = np.array([_KINDS.index(each.kind) for each in artifacts], dtype=np.int64)
        self._paces = [[EvictionPace(instance.start_s, 0) for _ in _KINDS] for _ in self._sites]

    def copies(self, state: State) -> list[tuple[int, int]]:
        """Return the copies to begin at the beat that it is now: site and artifact, best first."""
        known = self._known
        problem = self.problem(state, self._foresight)
        if len(problem.sample.start_h) < SAMPLE_COUNT_MIN:
            return []
        copies, _ = planner()(
            problem.sample,
            problem.caches,
            problem.load,
            problem.gpu_count,
            self.settings,
            problem.surroundings,
            self._learned,
        )
        return [(int(known.site_order[i]), int(known.artifact_order[a])) for a, i in copies]

    def problem(self, state: State, foresight: Foresight) -> Problem:
        """Return what is to be planned at the beat that it is now.

        Args:
            state: The run.
            foresight: What the tasks are taken from.
        """
        known = self._known
        now_s = float(state.g[0]["now_s"])
        shape = state.entries.shape
        planned, uses = np.zeros((shape[0], GRID_H)), np.zeros(shape)
        can_go = np.zeros(shape, np.int64)
        look(table_of(state), planned, uses, can_go)
        is_here = state.sites["is_here"][known.site_order].astype(np.bool_)
        caches = self._caches(state, uses, can_go, is_here, now_s=now_s)
        rates = self._rates(state)[known.site_order]
        expected = self._expected(foresight, now_s)
        sample, age_h = self._sample(expected, rates, caches, is_here)
        gpu_count = [sum(pool.gpu_count for pool in site.pools) for site in self._sites]
        return Problem(
            sample,
            caches,
            load=np.where(is_here[:, np.newaxis], planned[known.site_order], 0.0),
            gpu_count=np.where(is_here, gpu_count, 0),
            surroundings=surroundings_of(age_h, rates, expected.memory_h),
        )

    def _expected(self, foresight: Foresight, now_s: float) -> _Expected:
        known = self._known
        is_true = foresight is Foresight.TRUE
        since_s, until_s = (
            (now_s, now_s + HORIZON_H * HOUR_S) if is_true else (now_s - MEMORY_H * HOUR_S, now_s)
        )
        first, last = np.searchsorted(known.arrival_s, (since_s, until_s), side="left")
        tasks = np.arange(first, last)
        hours = (known.arrival_s[tasks] - now_s) / HOUR_S
        if is_true:
            return _Expected(tasks, hours, np.zeros(len(tasks)), MEMORY_H, 1.0)
        count_max = LOG_COUNT_MAX * len(self._sites)
        ratio = max(1.0, len(tasks) / max(1, min(len(tasks), count_max)))
        if len(tasks) > count_max:
            kept = np.sort(np.argsort(known.spread[tasks], kind="stable")[:count_max])
            tasks, hours = tasks[kept], hours[kept]
        remembered_h = min(MEMORY_H, (now_s - known.instance.start_s) / HOUR_S)
        return _Expected(
            tasks,
            start_h=virtual_starts(hours, known.spread[tasks]),
            age_h=-hours,
            memory_h=remembered_h,
            weight=weight_of(remembered_h) * ratio,
        )

    def _sample(
        self, expected: _Expected, rates: Floats, caches: Caches, is_here: Bools
    ) -> tuple[Sample, Floats]:
        """Return the tasks that some site can serve, and their ages."""
        known = self._known
        tasks, start_h = expected.tasks, expected.start_h
        run_h = known.run_h[tasks]
        serve_usd = np.full(run_h.shape, np.inf)
        gpus = known.gpu_count[tasks]
        for i in np.flatnonzero(is_here):
            site = self._sites[i]
            active_kw = site.pools[0].active_kw * site.pue
            usd = gpus * active_kw * run_costs_usd(rates[i], start_h, run_h[:, i])
            usd = usd + known.late_usd[tasks, i] + known.gpu_usd[tasks, i]
            serve_usd[:, i] = np.where(known.fits[tasks, i], usd, np.inf)
        artifacts = known.artifacts[tasks]
        reach_usd = caches.price_usd[artifacts].sum(axis=1)
        can = np.isfinite(serve_usd + reach_usd).any(axis=1)
        serve_usd = serve_usd[can]
        penalty_usd = known.penalty_usd[tasks][can, np.newaxis]
        sample = Sample(
            start_h=start_h[can],
            gpu_count=gpus[can],
            artifacts=artifacts[can],
            run_h=np.where(is_here, run_h[can], 0.0),
            serve_usd=serve_usd,
            crowded_usd=CROWDED_RUN * serve_usd + CROWDED_PENALTY * penalty_usd,
            weight=expected.weight,
        )
        return sample, expected.age_h[can]

    def _caches(
        self, state: State, uses: Floats, can_go: Ints, is_here: Bools, *, now_s: float
    ) -> Caches:
        """Return what sites hold, (a, i), and what copies cost and save."""
        known = self._known
        order = np.ix_(known.site_order, known.artifact_order)
        states = state.entries["state"][order].T
        home = state.artifacts["home"][known.artifact_order][:, np.newaxis]
        is_home = home == known.site_order
        is_cached = (states != ABSENT) & is_here & ~is_home
        is_held = is_cached | is_home
        is_source = (is_cached & (states == COMPLETE)) | is_home
        # What is nowhere complete yet will be where it is going.
        is_source |= is_held & ~is_source.any(axis=1, keepdims=True)
        between_usd = self._between_usd(state)
        reach = np.where(is_source[:, :, np.newaxis], between_usd, np.inf)
        reach[:, range(len(self._sites)), range(len(self._sites))] = np.inf
        refetch_usd = self._size_gb[:, np.newaxis] * reach.min(axis=1)
        capacity_gb, free_gb, stay = self._rooms(state, now_s)
        return Caches(
            is_held=is_held,
            price_usd=np.where(is_held, 0.0, refetch_usd),
            between_usd=between_usd,
            size_gb=self._size_gb.copy(),
            kind=self._kind,
            free_gb=free_gb,
            capacity_gb=capacity_gb,
            is_evictable=is_cached & can_go[order].T.astype(np.bool_) & np.isfinite(refetch_usd),
            refetch_usd=np.where(np.isfinite(refetch_usd), refetch_usd, 0.0),
            uses=np.where(is_cached, uses[order].T, 0.0),
            stay=stay,
        )

    def _between_usd(self, state: State) -> Floats:
        """Return J of moving a GB from a site to another, (i, i): egress + lambda x carbon."""
        instance = self._known.instance
        grams = state.issued[CARBON, self._known.site_order, 0]
        mean_g = (grams[:, np.newaxis] + grams) / 2
        per_g = instance.carbon_price_usd_per_kg / G_PER_KG * instance.network_kwh_per_gb
        usd = self._known.egress_usd_per_gb + per_g * mean_g
        np.fill_diagonal(usd, 0.0)
        return np.asarray(usd)

    def _rates(self, state: State) -> Floats:
        """Return price + lambda x carbon in the coming hours, (n, h)."""
        instance = self._known.instance
        count = state.issues["count"] - state.issues["base"]
        rows = np.arange(len(self._sites))[:, np.newaxis]
        hours = np.arange(RATE_H)
        price = state.issued[PRICE][rows, np.minimum(hours, count[PRICE][:, np.newaxis] - 1)]
        grams = state.issued[CARBON][rows, np.minimum(hours, count[CARBON][:, np.newaxis] - 1)]
        return np.asarray(price + instance.carbon_price_usd_per_kg / G_PER_KG * grams)

    def _rooms(self, state: State, now_s: float) -> tuple[Floats, Floats, Floats]:
        """Return capacity and free room in GB and the share that new copies stay, (2, i)."""
        shape = len(_KINDS), len(self._sites)
        capacity_gb, free_gb, stay = (np.zeros(shape) for _ in range(3))
        for i, place in enumerate(self._known.site_order):
            for k, pace in enumerate(self._paces[i]):
                cache = state.caches[place, 0 if state.g[0]["is_shared_cache"] else k]
                capacity = int(cache["capacity"])
                pace.note(int(cache["evicted"]), now_s=now_s)
                capacity_gb[k, i] = capacity / BYTES_PER_GB
                free_gb[k, i] = (capacity - int(cache["used"])) / BYTES_PER_GB
                stay[k, i] = characteristic_share(float(capacity), pace.bytes_per_h())
        return capacity_gb, free_gb, stay
