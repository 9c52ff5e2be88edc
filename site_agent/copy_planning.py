"""From outlooks to copies: the same plan at every site that has the same outlooks. Pure.

Each site computes the whole plan (`policies.maccs.copy_plan`) and begins what falls to itself.
There is no coordinator: the order of sites, artifacts and tasks is that of their ids, so equal
outlooks give equal plans, and a site whose outlook is missing is missing from the plan.

A site is one column of the plan: the load of its pools is summed, and a task runs on the pool that
is cheapest for it there. A task without a model or data set needs `NOTHING`, which is everywhere.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gcos.accounting import BYTES_PER_GB, G_PER_KG
from gcos.artifacts import ArtifactKind
from gcos.contract_net import ArtifactNeed, Holder
from gcos.ids import ArtifactId, SiteId
from gcos.outlook import Outlook, OutlookArtifact, OutlookPool, Submission
from gcos.signals import HOUR_S
from policies.maccs import copy_plan
from policies.maccs.artifact_features import Surroundings, surroundings_of
from policies.maccs.copy_plan import (
    CROWDED_PENALTY,
    CROWDED_RUN,
    GRID_H,
    UNLEARNED,
    Caches,
    Learned,
    Sample,
    Settings,
    plan_copies,
    run_costs_usd,
    virtual_starts,
    weight_of,
)
from site_agent.demand_log import spread_of, thinned
from site_agent.sourcing import Links

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Planner = Callable[
    [Sample, Caches, Floats, Ints, Settings, Surroundings, Learned], tuple[Ints, Floats]
]
"""`policies.maccs.copy_plan.plan_copies`, as it stands or compiled."""

#: Tasks of a plan of live agents, over all sites. So many take 0.05 s as the plan stands, at 8
#: sites and 84 artifacts; half of them lead to other copies already, since a task that stands for
#: several is a lump that fits nowhere.
SAMPLE_COUNT_MAX: Final = 3_000
#: Below so few tasks nothing is planned.
SAMPLE_COUNT_MIN: Final = 5
#: What a task needs that needs no model, or no data set: held everywhere, without bytes.
NOTHING: Final = ArtifactId("")
DEFAULTS: Final = Settings()
_KINDS: Final = (ArtifactKind.MODEL, ArtifactKind.DATA)


@dataclass(frozen=True, slots=True)
class Tariff:
    """What moving bytes costs.

    Attributes:
        carbon_price_usd_per_kg: Lambda.
        network_kwh_per_gb: Kappa.
        links: Link between two zones.
        byte_ratio: World bytes that a stored byte stands for.
    """

    carbon_price_usd_per_kg: float
    network_kwh_per_gb: float
    links: Links
    byte_ratio: float = 1.0

    def usd_per_gb(self, source: Outlook, target: Outlook) -> float:
        """Return J of moving a stored GB from one site to another: egress + lambda x carbon."""
        if source is target:
            return 0.0
        egress_usd = self.links(source.zone, target.zone).egress_usd_per_gb
        grams = (source.carbon_gco2_per_kwh + target.carbon_gco2_per_kwh) / 2
        carbon_usd = self.carbon_price_usd_per_kg / G_PER_KG * self.network_kwh_per_gb * grams
        return self.byte_ratio * (egress_usd + carbon_usd)


@dataclass(frozen=True, slots=True)
class Expected:
    """Tasks that are expected.

    Attributes:
        tasks: In order of arrival.
        start_h: When each is expected, hours from the beat, (n,).
        weight: Uses in the coming horizon that each stands for.
        age_h: How long ago each was submitted, hours, (n,).
        memory_h: Hours of remembered demand.
    """

    tasks: tuple[Submission, ...]
    start_h: Floats
    weight: float
    age_h: Floats
    memory_h: float


@dataclass(frozen=True, slots=True)
class PlannedCopy:
    """A copy that the plan gives to a site.

    Attributes:
        site_id: Who is to bring it.
        need: What, and who holds it.
        score_usd: What it is expected to save, all it costs taken off.
        plain_usd: The same without what was learned.
        price_usd: J of bringing it.
        is_plain: The plan without what was learned brings it, too.
    """

    site_id: SiteId
    need: ArtifactNeed
    score_usd: float
    plain_usd: float
    price_usd: float
    is_plain: bool = True

    @property
    def without_learning(self) -> str:
        """What the plan without what was learned does, in words; empty where nothing was."""
        if not self.is_plain:
            return "not brought"
        return "brought, too" if self.plain_usd != self.score_usd else ""

    @property
    def why(self) -> str:
        """In words."""
        learned = ""
        if self.plain_usd != self.score_usd:
            so = "" if self.is_plain else ", and then it would not be brought"
            learned = f" ({self.plain_usd:.4g} $ without what was learned{so})"
        return (
            f"the plan expects it to save {self.score_usd:.4g} ${learned} within"
            f" {copy_plan.HORIZON_H:g} h beyond the {self.price_usd:.4g} $ of bringing it"
        )


def remembered(outlooks: Collection[Outlook], *, count_max: int = SAMPLE_COUNT_MAX) -> Expected:
    """Return what the remembered submissions let expect.

    Args:
        outlooks: All for the same beat.
        count_max: Tasks at most; of more, a part is drawn that is the same everywhere.
    """
    at_s = max(outlook.at_s for outlook in outlooks)
    told = {task.task_id: task for each in outlooks for task in each.submissions}
    tasks = thinned(told.values(), count_max)
    total = sum(outlook.submission_count for outlook in outlooks)
    arrivals = np.array([(task.arrival_s - at_s) / HOUR_S for task in tasks])
    spread = np.array([spread_of(task.task_id) for task in tasks], dtype=np.int64)
    memory_h = max(outlook.remembered_h for outlook in outlooks)
    return Expected(
        tasks=tasks,
        start_h=virtual_starts(arrivals, spread),
        weight=weight_of(memory_h) * max(1.0, total / max(1, len(tasks))),
        age_h=-arrivals,
        memory_h=memory_h,
    )


def planned_copies(
    outlooks: Iterable[Outlook],
    expected: Expected,
    tariff: Tariff,
    *,
    planner: Planner = plan_copies,
    settings: Settings = DEFAULTS,
    learned: Learned = UNLEARNED,
) -> tuple[PlannedCopy, ...]:
    """Return the copies to begin now, best first.

    Args:
        outlooks: Of all sites that are in the plan, for the same beat.
        expected: The tasks; those that no site here can serve are left out.
        tariff: What moving bytes costs.
        planner: The plan.
        settings: Its constants.
        learned: Corrects what it expects.

    Raises:
        ActorError: The actor that was to be asked failed.
    """
    sites = sorted(outlooks, key=lambda outlook: outlook.site_id)
    between_usd = np.array([[tariff.usd_per_gb(a, b) for b in sites] for a in sites])
    shelf = _Shelf(sites, between_usd, expected.tasks)
    sample, age_h = _sample(sites, shelf, expected)
    if len(sample.start_h) < SAMPLE_COUNT_MIN:
        return ()
    # The plan changes what it is given; prices are told as they were.
    price_usd = shelf.caches.price_usd.copy()
    load = np.array([_load(site.pools) for site in sites])
    gpu_count = np.array([sum(pool.gpu_count for pool in site.pools) for site in sites])
    rates = np.array([site.rate_usd_per_kwh for site in sites])
    around = surroundings_of(age_h, rates, expected.memory_h)
    copies, scores = planner(
        sample, shelf.caches, load, gpu_count.astype(np.int64), settings, around, learned
    )
    return tuple(
        PlannedCopy(
            site_id=sites[i].site_id,
            need=shelf.need(int(a)),
            score_usd=float(score),
            plain_usd=float(plain),
            price_usd=float(price_usd[a, i]),
        )
        for (a, i), (score, plain) in zip(copies, scores, strict=True)
    )


def _load(pools: Sequence[OutlookPool]) -> Floats:
    total = np.zeros(GRID_H)
    for pool in pools:
        total += np.array(pool.planned_count)
    return total


class _Shelf:
    """Artifacts, sorted by id, with who holds them and what copies cost."""

    def __init__(
        self, sites: Sequence[Outlook], between_usd: Floats, tasks: Iterable[Submission]
    ) -> None:
        self._sites = sites
        self.artifacts = _artifacts(sites, tasks)
        self.index = {each.artifact_id: a for a, each in enumerate(self.artifacts)}
        shape = len(self.artifacts), len(sites)
        self._is_source = np.zeros(shape, dtype=np.bool_)
        is_held = np.zeros(shape, dtype=np.bool_)
        is_evictable = np.zeros(shape, dtype=np.bool_)
        uses = np.zeros(shape)
        for i, site in enumerate(sites):
            for copy in site.copies:
                a = self.index[copy.artifact_id]
                is_held[a, i] = True
                self._is_source[a, i] = copy.is_complete
                is_evictable[a, i] = copy.is_evictable
                uses[a, i] = copy.use_count
        # What is nowhere complete yet will be where it is going.
        is_coming = is_held & ~self._is_source.any(axis=1, keepdims=True)
        self._is_source |= is_coming
        size_gb = np.array([each.size_bytes / BYTES_PER_GB for each in self.artifacts])
        refetch_usd = self._refetch_usd(between_usd, size_gb)
        if NOTHING in self.index:
            is_held[self.index[NOTHING]] = True
        rooms = [{room.kind: room for room in site.rooms} for site in sites]
        self.caches = Caches(
            is_held=is_held,
            price_usd=np.where(is_held, 0.0, refetch_usd),
            between_usd=between_usd,
            size_gb=size_gb,
            kind=np.array([_KINDS.index(each.kind) for each in self.artifacts], dtype=np.int64),
            free_gb=np.array([[r[k].free_bytes / BYTES_PER_GB for r in rooms] for k in _KINDS]),
            capacity_gb=np.array(
                [[r[k].capacity_bytes / BYTES_PER_GB for r in rooms] for k in _KINDS]
            ),
            # Nobody in the plan has what could not be brought again.
            is_evictable=is_evictable & np.isfinite(refetch_usd),
            refetch_usd=np.where(np.isfinite(refetch_usd), refetch_usd, 0.0),
            uses=uses,
            stay=np.array([[r[k].stay_ratio for r in rooms] for k in _KINDS]),
        )

    def _refetch_usd(self, between_usd: Floats, size_gb: Floats) -> Floats:
        """Return J of bringing each artifact to each site, (a, i); inf where nobody else has it."""
        usd = np.full(self._is_source.shape, math.inf)
        for a, source in enumerate(self._is_source):
            for i in range(len(self._sites)):
                others = source.copy()
                others[i] = False
                if others.any():
                    usd[a, i] = size_gb[a] * between_usd[others, i].min()
        return usd

    def index_of(self, artifact_id: ArtifactId | None) -> int:
        """Return where an artifact stands; that of `NOTHING` for None."""
        return self.index[NOTHING if artifact_id is None else artifact_id]

    def need(self, a: int) -> ArtifactNeed:
        """Return an artifact with its holders in the plan."""
        artifact = self.artifacts[a]
        return ArtifactNeed(
            artifact.artifact_id,
            kind=artifact.kind,
            name=artifact.name,
            size_bytes=artifact.size_bytes,
            holders=tuple(
                Holder(site.site_id, site.zone, site.address, site.carbon_gco2_per_kwh)
                for site, has in zip(self._sites, self._is_source[a], strict=True)
                if has
            ),
        )


def _artifacts(sites: Sequence[Outlook], tasks: Iterable[Submission]) -> list[OutlookArtifact]:
    """Return what sites hold and tasks need, by id; where sites differ, most of them are right.

    What is told of a content differs in its name at most, unless somebody lies.
    """
    claims: dict[ArtifactId, Counter[OutlookArtifact]] = {}
    for site in sites:
        for artifact in site.artifacts:
            claims.setdefault(artifact.artifact_id, Counter())[artifact] += 1
    if any(task.model_id is None or task.data_id is None for task in tasks):
        nothing = OutlookArtifact(NOTHING, ArtifactKind.MODEL, "", 0)
        claims[NOTHING] = Counter([nothing])
    return [
        min(claims[key].items(), key=lambda item: (-item[1], item[0].size_bytes, item[0].name))[0]
        for key in sorted(claims)
    ]


def _sample(sites: Sequence[Outlook], shelf: _Shelf, expected: Expected) -> tuple[Sample, Floats]:
    """Return the tasks that some site can serve, with what each costs where, and their ages."""
    tasks = expected.tasks
    count = len(tasks)
    gpus = np.array([float(task.gpu_count) for task in tasks])
    penalty_usd = np.array([task.fixed_penalty_usd for task in tasks])
    artifacts = np.array(
        [[shelf.index_of(task.model_id), shelf.index_of(task.data_id)] for task in tasks],
        dtype=np.int64,
    ).reshape(count, 2)
    runs: dict[str, tuple[Floats, Floats]] = {}
    for j, task in enumerate(tasks):
        for run in task.runs:
            if run.pool_type not in runs:
                runs[run.pool_type] = np.full(count, math.inf), np.full(count, math.inf)
            runs[run.pool_type][0][j] = run.run_h
            runs[run.pool_type][1][j] = run.late_usd
    run_h = np.zeros((count, len(sites)))
    serve_usd = np.full((count, len(sites)), math.inf)
    for i, site in enumerate(sites):
        rate = np.array(site.rate_usd_per_kwh)
        for pool in site.pools:
            if pool.type not in runs:
                continue
            hours, late_usd = runs[pool.type]
            fits = np.isfinite(hours) & (gpus <= pool.gpu_count)
            hours = np.where(fits, hours, 0.0)
            usd = gpus * pool.active_kw * run_costs_usd(rate, expected.start_h, hours)
            usd = np.where(fits, usd + late_usd + gpus * hours * pool.usd_per_gpu_h, math.inf)
            is_better = usd < serve_usd[:, i]
            serve_usd[is_better, i] = usd[is_better]
            run_h[is_better, i] = hours[is_better]
    reach_usd = shelf.caches.price_usd[artifacts].sum(axis=1)
    can = np.isfinite(serve_usd + reach_usd).any(axis=1)
    serve_usd = serve_usd[can]
    sample = Sample(
        start_h=expected.start_h[can],
        gpu_count=gpus[can],
        artifacts=artifacts[can],
        run_h=run_h[can],
        serve_usd=serve_usd,
        crowded_usd=CROWDED_RUN * serve_usd + CROWDED_PENALTY * penalty_usd[can, np.newaxis],
        weight=expected.weight,
    )
    return sample, expected.age_h[can]
