"""Which copies of artifacts to bring where, once an hour, from remembered demand. Pure.

DESIGN section 7 F. What was asked for in the last `MEMORY_H` hours is taken to be asked for again
in the coming `HORIZON_H` hours, at the same hour of day. Where would it be served, at what cost,
and what would one more copy save?

    R_ji  = int_{v_j}^{v_j + T_ji} (energy + lambda carbon) dt + E[late penalty] (+ GPU hours)
    c_j   = min_i R_ji + x_im + x_id  (+ 0.3 R_ji + 0.5 p0 where site i has no room)
    S_ai  = w sum_{j of a} max(0, c_j - R_ji - o, (c_j - R_ji) x / (x + o))     over j that fit at i
    Q_ai  = w^2 times the sum of squares
    score = B/T S (1 - exp(-tau_i / B)) - x                              where it fits as it is
    score = S (1 - exp(-tau_i / B)) - z sqrt(Q) - x - sum_victims (1 - exp(-f_v)) x_v      elsewhere

with T the horizon and B = `PAYBACK_H`. Where an actor is asked, S <- S + r (min(x f, 3 S) - S)
before that: its f expects S / x from what it saw in training (`artifact_features`), and the ship
gate gave it the weight r. And

with v_j the virtual start, x the price of the copy and o that of the task's other missing artifact,
tau_i the characteristic time of the cache (Che, Tung and Wang, IEEE JSAC 20(7), 2002) and f_v the
expected uses of a victim. Copies are taken by the best positive score, one after the other; each
changes c, the planned load and the prices before the next is looked for.

Everything here is arrays and loops, so that the research extra may compile it as it stands. Hours
count from the beat; GB, $ and GPUs. Axes: n tasks of the sample, a artifacts, i sites, h hours.
"""

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies.maccs.artifact_features import (
    FEATURE_COUNT,
    PLANNED_H,
    Surroundings,
    amounts_of,
    corrected_usd,
    demand_of,
    features_of,
)
from policies.maccs.network import Weights, no_weights

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: Demand remembered, hours (W).
MEMORY_H: Final = 168.0
#: Hours within which a copy should have paid for itself (T).
HORIZON_H: Final = 48.0
#: Hours of planned load: starts within the horizon, and runs that reach a day past it.
GRID_H: Final = 72
#: Hours for which the saving of the horizon is taken to go on where a copy fits without pushing
#: others out: it stays, and what is asked for today is mostly asked for tomorrow.
PAYBACK_H: Final = 96.0
#: Standard deviations of the saving that a copy must exceed if it pushes others out (z).
CAUTION: Final = 0.3
#: Share of a site's GPUs that planned load may fill (phi). Above 1: what has no room in its own
#: hour waits for a later one, which costs less than a run elsewhere.
FILL: Final = 1.5
#: Copies begun in one beat, over all sites.
COPY_COUNT_MAX: Final = 12
#: What a start without room costs beyond R, as shares of R and of the fixed late penalty.
CROWDED_RUN: Final = 0.3
CROWDED_PENALTY: Final = 0.5


class Settings(NamedTuple):
    """Constants of the plan.

    The defaults are tuned (README.md); DESIGN section 7 F has phi = 0.9 and B = 48 h.

    Attributes:
        caution: z.
        fill: phi.
        copy_count_max: Copies a beat.
        payback_h: B, of copies that fit.
    """

    caution: float = CAUTION
    fill: float = FILL
    copy_count_max: int = COPY_COUNT_MAX
    payback_h: float = PAYBACK_H


class Sample(NamedTuple):
    """Tasks that are expected again, in order of arrival.

    Attributes:
        start_h: (n,) virtual start, hours from the beat, within [0, HORIZON_H).
        gpu_count: (n,) GPUs.
        artifacts: (n, 2) model and data set, as indices.
        run_h: (n, i) predicted run time.
        serve_usd: (n, i) R: J of running there with everything in place, lateness included.
        crowded_usd: (n, i) what it costs beyond that where there is no room.
        weight: w, uses in the coming horizon that one remembered task stands for.
    """

    start_h: Floats
    gpu_count: Ints
    artifacts: Ints
    run_h: Floats
    serve_usd: Floats
    crowded_usd: Floats
    weight: float


class Caches(NamedTuple):
    """What sites hold, and what copies cost and save.

    Attributes:
        is_held: (a, i) it is cached there, under way there, or at home there.
        price_usd: (a, i) x: J of bringing a copy from the cheapest source; 0 where held.
        between_usd: (i, i) J of moving one GB from a site to another: a new copy is a new source.
        size_gb: (a,).
        kind: (a,) 0: model, 1: data set; each kind has a cache of its own.
        free_gb: (2, i) room left of each cache.
        capacity_gb: (2, i).
        is_evictable: (a, i) a copy that may go: cached, complete, unpinned.
        refetch_usd: (a, i) J of bringing the copy again.
        uses: (a, i) expected uses of the copy: decayed own ones and a tenth of those elsewhere.
        stay: (2, i) 1 - exp(-tau / PAYBACK): share of that time that a new copy will stay.
    """

    is_held: Bools
    price_usd: Floats
    between_usd: Floats
    size_gb: Floats
    kind: Ints
    free_gb: Floats
    capacity_gb: Floats
    is_evictable: Bools
    refetch_usd: Floats
    uses: Floats
    stay: Floats


class Learned(NamedTuple):
    """What corrects the savings that the plan expects.

    Attributes:
        actor: Returns f of each row of features, (n, 16) to (n,); weights where the plan is
            compiled, which then has its own arithmetic for it (`estimates`).
        scale: r, its weight beside the plan's own expectation.
        is_asked: The actor is asked, be it for nothing, as at scale 0.
    """

    actor: Callable[[Floats], Floats] | Weights
    scale: float
    is_asked: bool


#: Nothing is corrected.
UNLEARNED: Final = Learned(no_weights(), 0.0, False)


class Appraisal(NamedTuple):
    """What a copy of each artifact would save at each site: filled in as it is asked for.

    Attributes:
        saved_usd: (a, i) S, without what was learned.
        squares: (a, i) Q.
        task_count: (a, i) expected tasks that would come, weight included.
        gpu_h: (a, i) GPU hours of these.
    """

    saved_usd: Floats
    squares: Floats
    task_count: Floats
    gpu_h: Floats


def virtual_starts(arrival_h: Floats, spread: Ints) -> Floats:
    """Return when remembered tasks are expected again, (n,), hours from the beat.

    Whole days later, so that the hour of day stays, and spread over the days of the horizon.

    Args:
        arrival_h: (n,) arrival, hours from the beat: below 0.
        spread: (n,) any fixed number of each task, such as a hash of its id.
    """
    days = np.ceil(-arrival_h / 24.0)
    # An arrival at this very hour of an earlier day falls on the beat itself, not before it.
    return np.asarray(arrival_h + 24.0 * (days + spread % int(HORIZON_H / 24.0)))


def weight_of(remembered_h: float) -> float:
    """Return w: tasks in the horizon for each one remembered in the last `remembered_h` hours."""
    return min(2.0, HORIZON_H / max(1.0, min(MEMORY_H, remembered_h)))


def run_costs_usd(rate_usd_per_kwh: Floats, start_h: Floats, run_h: Floats) -> Floats:
    """Return the integral of a site's hourly rate over each run, (n,), $/kW.

    Args:
        rate_usd_per_kwh: (h,) price + lambda carbon in each coming hour; the last one holds.
        start_h: (n,) begins, hours from the beat.
        run_h: (n,) lengths.
    """
    count = len(rate_usd_per_kwh)
    edges = np.arange(count + 1, dtype=np.float64)
    prefix = np.concatenate((np.zeros(1), np.cumsum(rate_usd_per_kwh)))
    ends = start_h + run_h
    beyond = np.maximum(ends - count, 0.0) - np.maximum(start_h - count, 0.0)
    inside = np.interp(ends, edges, prefix) - np.interp(start_h, edges, prefix)
    return np.asarray(inside + beyond * rate_usd_per_kwh[-1])


def characteristic_share(cache_gb: float, evicted_gb_per_h: float) -> float:
    """Return 1 - exp(-tau / PAYBACK): for how much of that time a new copy stays.

    tau = cache size / rate of eviction (Che et al., 2002); without evictions it stays.
    """
    if evicted_gb_per_h <= 0.0:
        return 1.0
    return 1.0 - math.exp(-cache_gb / evicted_gb_per_h / PAYBACK_H)


def has_room(load: Floats, start_h: float, run_h: float, gpus: float, limit: float) -> bool:
    """Tell whether `gpus` more stay within `limit` in all hours of a run.

    Args:
        load: (h,) planned GPUs of the site.
        start_h: Begin of the run.
        run_h: Its length; what reaches past the grid is not looked at.
        gpus: GPUs of the run, times its weight. What stands for more than a whole site is as large
            as the site: a small one that is idle has room, too.
        limit: GPUs that may be planned.
    """
    first = int(start_h)
    last = min(len(load), math.ceil(start_h + run_h))
    needed = min(gpus, limit)
    for hour in range(first, last):  # noqa: SIM110 - compiled as it stands
        if load[hour] + needed > limit:
            return False
    return True


def add_load(load: Floats, start_h: float, run_h: float, gpus: float) -> None:
    """Add a run to the planned GPUs of its site, (h,), hour by hour; `gpus` may be negative."""
    first = int(start_h)
    last = min(len(load), math.ceil(start_h + run_h))
    for hour in range(first, last):
        load[hour] += gpus


def assign(sample: Sample, caches: Caches, load: Floats, limit_gpus: Floats) -> tuple[Ints, Floats]:
    """Return where each task would go, (n,), and what it would cost there, (n,) $.

    In order of arrival, each to the site that is cheapest for it, copies included; `load`, (i, h),
    grows with them.

    Args:
        sample: The tasks.
        caches: The copies.
        load: Planned GPUs: what is committed already.
        limit_gpus: (i,) GPUs that may be planned.
    """
    count, site_count = sample.serve_usd.shape
    site_of = np.zeros(count, dtype=np.int64)
    cost_usd = np.zeros(count)
    for j in range(count):
        model, data = sample.artifacts[j, 0], sample.artifacts[j, 1]
        gpus = sample.weight * sample.gpu_count[j]
        best_usd = math.inf
        for i in range(site_count):
            usd = sample.serve_usd[j, i] + caches.price_usd[model, i] + caches.price_usd[data, i]
            if usd >= best_usd:
                continue
            if not has_room(load[i], sample.start_h[j], sample.run_h[j, i], gpus, limit_gpus[i]):
                usd += sample.crowded_usd[j, i]
            if usd < best_usd:
                best_usd = usd
                site_of[j] = i
        cost_usd[j] = best_usd
        add_load(load[site_of[j]], sample.start_h[j], sample.run_h[j, site_of[j]], gpus)
    return site_of, cost_usd


def saving_of(
    sample: Sample,
    caches: Caches,
    load: Floats,
    limit_gpus: Floats,
    cost_usd: Floats,
    tasks: Ints,
    artifact: int,
    site: int,
) -> tuple[float, float, float, float]:
    """Return S, Q, and number and GPU hours of the tasks that a copy of `artifact` would draw.

    Each task of the sample counts for what it stands for.

    Args:
        sample: The tasks.
        caches: The copies.
        load: (i, h) planned GPUs.
        limit_gpus: (i,) GPUs that may be planned.
        cost_usd: (n,) what each task costs as planned.
        tasks: Indices of the tasks of this artifact.
        artifact: Which.
        site: Where it is not held.
    """
    price_usd = caches.price_usd[artifact, site]
    total = 0.0
    squares = 0.0
    drawn = 0
    gpu_h = 0.0
    for j in tasks:
        saved_usd = cost_usd[j] - sample.serve_usd[j, site]
        if saved_usd <= 0.0:
            continue
        model, data = sample.artifacts[j, 0], sample.artifacts[j, 1]
        other_usd = caches.price_usd[data if model == artifact else model, site]
        share = price_usd / (price_usd + other_usd) if other_usd > 0.0 else 1.0
        worth_usd = max(saved_usd - other_usd, saved_usd * share)
        gpus = sample.weight * sample.gpu_count[j]
        if not has_room(
            load[site], sample.start_h[j], sample.run_h[j, site], gpus, limit_gpus[site]
        ):
            continue
        total += worth_usd
        squares += worth_usd * worth_usd
        drawn += 1
        gpu_h += gpus * sample.run_h[j, site]
    weight = sample.weight
    return weight * total, weight * weight * squares, weight * drawn, gpu_h


def eviction_loss_usd(caches: Caches, artifact: int, site: int) -> float:
    """Return the expected loss by what a copy would push out, $; inf where it finds no room.

    Victims are the cheapest by uses times price of bringing them again.
    """
    kind = caches.kind[artifact]
    short_gb = caches.size_gb[artifact] - caches.free_gb[kind, site]
    if caches.size_gb[artifact] > caches.capacity_gb[kind, site]:
        return math.inf
    lost_usd = 0.0
    if short_gb <= 0.0:
        return lost_usd
    worth = caches.uses[:, site] * caches.refetch_usd[:, site]
    for victim in np.argsort(worth, kind="mergesort"):  # ties by index, compiled or not
        if short_gb <= 0.0:
            break
        if caches.is_evictable[victim, site] and caches.kind[victim] == kind:
            short_gb -= caches.size_gb[victim]
            chance = 1.0 - math.exp(-caches.uses[victim, site])
            lost_usd += chance * caches.refetch_usd[victim, site]
    return lost_usd if short_gb <= 0.0 else math.inf


def take_room(caches: Caches, artifact: int, site: int) -> None:
    """Book a copy into its cache, in place: it is held from now on, and its victims are not."""
    kind = caches.kind[artifact]
    caches.free_gb[kind, site] -= caches.size_gb[artifact]
    worth = caches.uses[:, site] * caches.refetch_usd[:, site]
    for victim in np.argsort(worth, kind="mergesort"):  # ties by index, compiled or not
        if caches.free_gb[kind, site] >= 0.0:
            break
        if caches.is_evictable[victim, site] and caches.kind[victim] == kind:
            caches.free_gb[kind, site] += caches.size_gb[victim]
            caches.is_evictable[victim, site] = False
            caches.is_held[victim, site] = False
            caches.price_usd[victim, site] = caches.refetch_usd[victim, site]
    caches.is_held[artifact, site] = True
    caches.price_usd[artifact, site] = 0.0
    for i in range(caches.price_usd.shape[1]):
        if not caches.is_held[artifact, i]:
            caches.price_usd[artifact, i] = min(
                caches.price_usd[artifact, i],
                caches.size_gb[artifact] * caches.between_usd[site, i],
            )


def move_tasks(
    sample: Sample,
    caches: Caches,
    load: Floats,
    limit_gpus: Floats,
    site_of: Ints,
    cost_usd: Floats,
    tasks: Ints,
    site: int,
) -> None:
    """Let tasks go to `site` that a new copy there makes cheaper; cost, place and load change."""
    for j in tasks:
        model, data = sample.artifacts[j, 0], sample.artifacts[j, 1]
        usd = (
            sample.serve_usd[j, site] + caches.price_usd[model, site] + caches.price_usd[data, site]
        )
        if usd >= cost_usd[j]:
            continue
        gpus = sample.weight * sample.gpu_count[j]
        if site_of[j] != site:
            if not has_room(
                load[site], sample.start_h[j], sample.run_h[j, site], gpus, limit_gpus[site]
            ):
                continue
            add_load(load[site_of[j]], sample.start_h[j], sample.run_h[j, site_of[j]], -gpus)
            add_load(load[site], sample.start_h[j], sample.run_h[j, site], gpus)
            site_of[j] = site
        cost_usd[j] = usd


def index_tasks(artifacts: Ints, artifact_count: int) -> tuple[Ints, Ints]:
    """Return the tasks of each artifact as (order, first): `order[first[a]:first[a + 1]]`."""
    counts = np.zeros(artifact_count + 1, dtype=np.int64)
    for j in range(len(artifacts)):
        for k in range(2):
            counts[artifacts[j, k] + 1] += 1
    first = np.cumsum(counts)
    order = np.zeros(2 * len(artifacts), dtype=np.int64)
    filled = first[:-1].copy()
    for j in range(len(artifacts)):
        for k in range(2):
            order[filled[artifacts[j, k]]] = j
            filled[artifacts[j, k]] += 1
    return order, first


def estimates(actor: Any, rows: Floats) -> Floats:
    """Return f of each row, (n,): what the actor's runtime says.

    Where the plan is compiled, `network.forward` stands here and is handed the weights.
    """
    return np.asarray(actor(rows))


def appraise(
    sample: Sample,
    caches: Caches,
    load: Floats,
    limit_gpus: Floats,
    cost_usd: Floats,
    order: Ints,
    first: Ints,
    is_stale: Bools,
    found: Appraisal,
) -> None:
    """Find what copies would save where `is_stale`, in place; nothing where no price is known.

    Args:
        sample: The tasks.
        caches: The copies.
        load: (i, h) planned GPUs.
        limit_gpus: (i,) GPUs that may be planned.
        cost_usd: (n,) what each task costs as planned.
        order: Tasks by artifact ...
        first: ... and where each artifact's begin.
        is_stale: (a, i) what to look at.
        found: What is filled in.
    """
    artifact_count, site_count = caches.price_usd.shape
    for a in range(artifact_count):
        tasks = order[first[a] : first[a + 1]]
        for i in range(site_count):
            if not is_stale[a, i]:
                continue
            found.task_count[a, i] = 0.0
            price_usd = caches.price_usd[a, i]
            if caches.is_held[a, i] or len(tasks) == 0 or not math.isfinite(price_usd):
                continue
            saved_usd, squares, task_count, gpu_h = saving_of(
                sample, caches, load, limit_gpus, cost_usd, tasks, a, i
            )
            found.saved_usd[a, i] = saved_usd
            found.squares[a, i] = squares
            found.task_count[a, i] = task_count
            found.gpu_h[a, i] = gpu_h


def empty_appraisal(artifact_count: int, site_count: int) -> Appraisal:
    """Return an appraisal in which nothing is filled in."""
    shape = artifact_count, site_count
    return Appraisal(
        saved_usd=np.zeros(shape),
        squares=np.zeros(shape),
        task_count=np.zeros(shape),
        gpu_h=np.zeros(shape),
    )


def amounts_at(
    sample: Sample,
    caches: Caches,
    load: Floats,
    gpu_count: Ints,
    site_of: Ints,
    surroundings: Surroundings,
    uses: Floats,
    latest_h: Floats,
    found: Appraisal,
) -> Floats:
    """Return what features are made of at this state of the plan, (a, i, 16).

    Args:
        sample: The tasks.
        caches: The copies.
        load: (i, h) planned GPUs.
        gpu_count: (i,).
        site_of: (n,) where each task goes as planned.
        surroundings: For features.
        uses: (a,) decayed uses.
        latest_h: (a,) hours since the artifact was last asked for.
        found: What copies would save.
    """
    artifact_count, site_count = caches.price_usd.shape
    planned_ratio = np.zeros(site_count)
    occupied_ratio = np.ones((2, site_count))
    for i in range(site_count):
        if gpu_count[i] > 0:
            planned_ratio[i] = load[i, :PLANNED_H].sum() / (PLANNED_H * gpu_count[i])
        for kind in range(2):
            capacity_gb = caches.capacity_gb[kind, i]
            if capacity_gb > 0.0:
                occupied_ratio[kind, i] = 1.0 - caches.free_gb[kind, i] / capacity_gb
    assigned = np.zeros((artifact_count, site_count))
    for j in range(len(site_of)):
        for k in range(2):
            assigned[sample.artifacts[j, k], site_of[j]] += 1.0
    return amounts_of(
        found.saved_usd,
        found.squares,
        found.task_count,
        found.gpu_h,
        sample.weight * assigned,
        caches.price_usd,
        caches.size_gb,
        caches.kind,
        uses,
        latest_h,
        surroundings.rate_ratio,
        planned_ratio,
        occupied_ratio,
        caches.is_held.sum(axis=1),
        surroundings.memory_h,
    )


def correct(
    learned: Learned,
    amounts: Floats,
    caches: Caches,
    is_stale: Bools,
    found: Appraisal,
    corrected: Floats,
) -> None:
    """Ask the actor about all that is stale, in one call, and correct its savings, (a, i)."""
    asked = np.flatnonzero(is_stale & (found.task_count > 0.0))
    told = estimates(learned.actor, features_of(amounts.reshape(-1, FEATURE_COUNT)[asked]))
    site_count = is_stale.shape[1]
    for k in range(len(asked)):
        a, i = asked[k] // site_count, asked[k] % site_count
        corrected[a, i] = corrected_usd(
            found.saved_usd[a, i], caches.price_usd[a, i], told[k], learned.scale
        )


def score_of(
    caches: Caches, settings: Settings, saved_usd: float, squares: float, artifact: int, site: int
) -> float:
    """Return what a copy is worth beyond all it costs, $, victims not counted yet.

    Room that lies idle costs nothing: what fits is brought if it pays within `PAYBACK_H`. What
    pushes others out will be pushed out itself, and has to pay within the horizon, and surely.
    """
    price_usd: float = caches.price_usd[artifact, site]
    stay: float = caches.stay[caches.kind[artifact], site]
    if caches.size_gb[artifact] > caches.free_gb[caches.kind[artifact], site]:
        return saved_usd * stay - settings.caution * math.sqrt(squares) - price_usd
    return settings.payback_h / HORIZON_H * saved_usd * stay - price_usd


def plan_copies(
    sample: Sample,
    caches: Caches,
    load: Floats,
    gpu_count: Ints,
    settings: Settings,
    surroundings: Surroundings,
    learned: Learned,
) -> tuple[Ints, Floats]:
    """Return the copies to begin now, (k, 2) artifact and site, and their scores, (k, 2) $.

    Best first; beside each score stands what it would have been without what was learned. `caches`
    and `load` are changed as the plan grows: hand in copies.

    Args:
        sample: The expected tasks.
        caches: What is held, and prices.
        load: (i, h) GPUs that are committed already, hour by hour from the beat.
        gpu_count: (i,) GPUs of each site.
        settings: Constants of the plan.
        surroundings: For the features of the actor.
        learned: Corrects what the plan expects.
    """
    limit_gpus: Floats = gpu_count.astype(np.float64) * settings.fill
    site_of, cost_usd = assign(sample, caches, load, limit_gpus)
    artifact_count, site_count = caches.price_usd.shape
    order, first = index_tasks(sample.artifacts, artifact_count)
    uses, latest_h = demand_of(sample.artifacts, surroundings.age_h, artifact_count)
    found = empty_appraisal(artifact_count, site_count)
    corrected = np.zeros((artifact_count, site_count))
    score_usd = np.full((artifact_count, site_count), -math.inf)
    plain_usd = np.full((artifact_count, site_count), -math.inf)
    is_stale = np.ones((artifact_count, site_count), dtype=np.bool_)
    copies = np.zeros((settings.copy_count_max, 2), dtype=np.int64)
    scores = np.zeros((settings.copy_count_max, 2))
    count = 0
    while count < settings.copy_count_max:
        appraise(sample, caches, load, limit_gpus, cost_usd, order, first, is_stale, found)
        if learned.is_asked:
            amounts = amounts_at(
                sample, caches, load, gpu_count, site_of, surroundings, uses, latest_h, found
            )
            correct(learned, amounts, caches, is_stale, found, corrected)
        for a in range(artifact_count):
            for i in range(site_count):
                if not is_stale[a, i]:
                    continue
                is_stale[a, i] = False
                score_usd[a, i] = -math.inf
                if found.task_count[a, i] == 0.0:
                    continue
                squares = found.squares[a, i]
                plain_usd[a, i] = score_of(caches, settings, found.saved_usd[a, i], squares, a, i)
                usd = plain_usd[a, i]
                if learned.is_asked:
                    usd = score_of(caches, settings, corrected[a, i], squares, a, i)
                if usd > 0.0:
                    lost_usd = eviction_loss_usd(caches, a, i)
                    score_usd[a, i] = usd - lost_usd
                    plain_usd[a, i] -= lost_usd
        best = int(np.argmax(score_usd))
        a, i = best // site_count, best % site_count
        if score_usd[a, i] <= 0.0:
            break
        copies[count, 0] = a
        copies[count, 1] = i
        scores[count, 0] = score_usd[a, i]
        scores[count, 1] = plain_usd[a, i]
        count += 1
        take_room(caches, a, i)
        tasks = order[first[a] : first[a + 1]]
        move_tasks(sample, caches, load, limit_gpus, site_of, cost_usd, tasks, i)
        # What these tasks need is worth something else now, and so is whatever else fits there.
        is_stale[:, i] = True
        for j in tasks:
            for k in range(2):
                is_stale[sample.artifacts[j, k], :] = True
    return copies[:count], scores[:count]
