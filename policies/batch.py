"""A batch of tasks as arrays: what dispatchers minimise. Pure.

Each task takes one *way*: an offer (a site) and a start, the earliest by the site's plan or a few
slots later. With x_w = 1 for the ways taken, y_f = 1 for the fetches that they need and o_it the
GPUs by which site i is overcommitted in slot t,

    min  sum_w c_w x_w + sum_f F_f y_f + overcommit sum_it max(0, o_it)
    o_it = sum_w u_wit x_w - free_it

    c_w = offer less its fetches + E[penalty at this start] - E[penalty at the earliest]

which is the time-indexed formulation of single-machine scheduling (Sousa and Wolsey, Mathematical
Programming 54, 1992) over several machines, with fetches opened as in facility location. Energy
is priced at the earliest start: within the few hours of a delay it changes little.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gcos.durations import MIDPOINT_LEVELS
from gcos.ids import ArtifactId, SiteId
from policies.interface import BatchTask, FreeGpus, Offer

Floats = NDArray[np.float64]

#: Batches are dispatched so often (DESIGN section 7).
BATCH_S: Final = 900.0
#: Time is told in slots as long.
SLOT_S: Final = 900.0
#: Starts that are considered, slots after the earliest.
_DELAYS: Final = (0, 1, 2, 4, 8)

_SLICES: Final = np.full(len(MIDPOINT_LEVELS), 1 / len(MIDPOINT_LEVELS))


@dataclass(frozen=True, slots=True)
class Horizon:
    """What of a batch's future counts.

    Attributes:
        batch_s: Seconds from batch to batch.
        slot_count: Slots that are looked ahead.
        overcommit_usd: $ for each GPU and slot beyond what is free: what one waits for is a GPU
            of somebody.
    """

    batch_s: float = BATCH_S
    slot_count: int = 16
    overcommit_usd: float = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The ways of a batch; n tasks, w ways, f fetches, c cells (a site in a slot).

    Attributes:
        task: (w,) index of the task of each way, ascending.
        offer: (w,) index of its offer.
        usd: (w,) c_w.
        used: (w, c) GPUs that it takes.
        free: (c,) GPUs that are free.
        fetches: (w, f) 1 where it needs a fetch.
        fetch_usd: (f,).
        first: (n + 1,): ways of task j are first[j] to first[j + 1].
        overcommit_usd: As in `Horizon`.
    """

    task: NDArray[np.int64]
    offer: NDArray[np.int64]
    usd: Floats
    used: Floats
    free: Floats
    fetches: Floats
    fetch_usd: Floats
    first: NDArray[np.int64]
    overcommit_usd: float

    def joint_usd(self, ways: NDArray[np.int64]) -> Floats:
        """Return the objective of plans, (p,), each a way for every task, (p, n)."""
        over = np.maximum(self.used[ways].sum(axis=1) - self.free, 0.0).sum(axis=1)
        fetched = self.fetches[ways].max(axis=1) @ self.fetch_usd
        return np.asarray(self.usd[ways].sum(axis=1) + fetched + self.overcommit_usd * over)

    def alone(self) -> NDArray[np.int64]:
        """Return the way of each task that is the cheapest by itself, (n,): what `joint` does."""
        usd = self.usd + self.fetches @ self.fetch_usd
        bounds = zip(self.first[:-1], self.first[1:], strict=True)
        return np.array([low + int(np.argmin(usd[low:high])) for low, high in bounds])


def batch_of(
    tasks: Sequence[BatchTask],
    free: Mapping[SiteId, FreeGpus],
    horizon: Horizon,
    *,
    now_s: float,
) -> Batch:
    """Return the ways of a batch; sites are those of `free`."""
    site = {site_id: i for i, site_id in enumerate(free)}
    fetch: dict[tuple[SiteId, ArtifactId], int] = {}
    fetch_usd: list[float] = []
    for task in tasks:
        for offer in task.offers:
            for artifact_id, usd in offer.fetch_usd.items():
                if (offer.site_id, artifact_id) not in fetch:
                    fetch[offer.site_id, artifact_id] = len(fetch_usd)
                    fetch_usd.append(usd)
    ways = [
        (j, k, delay)
        for j, task in enumerate(tasks)
        for k in range(len(task.offers))
        for delay in _DELAYS
    ]
    used = np.zeros((len(ways), len(site), horizon.slot_count))
    fetches = np.zeros((len(ways), len(fetch_usd)))
    for w, (j, k, delay) in enumerate(ways):
        offer = tasks[j].offers[k]
        low, high = _slots(offer, delay, now_s, horizon.slot_count)
        used[w, site[offer.site_id], low:high] = tasks[j].gpu_count
        for artifact_id in offer.fetch_usd:
            fetches[w, fetch[offer.site_id, artifact_id]] = 1.0
    counts = np.array([len(task.offers) * len(_DELAYS) for task in tasks])
    return Batch(
        task=np.array([j for j, _, _ in ways]),
        offer=np.array([k for _, k, _ in ways]),
        usd=np.concatenate([_usd(task, offer) for task in tasks for offer in task.offers]),
        used=used.reshape(len(ways), -1),
        free=np.concatenate([_free(each, now_s, horizon.slot_count) for each in free.values()]),
        fetches=fetches,
        fetch_usd=np.array(fetch_usd),
        first=np.concatenate(([0], np.cumsum(counts))),
        overcommit_usd=horizon.overcommit_usd,
    )


def _usd(task: BatchTask, offer: Offer) -> Floats:
    """Return c of an offer at each delay."""
    usd = np.full(len(_DELAYS), offer.offer_usd - math.fsum(offer.fetch_usd.values()))
    if task.deadline_s is None:
        return usd
    starts = offer.start_s + SLOT_S * np.array(_DELAYS)
    durations = offer.run_time.quantiles_at(MIDPOINT_LEVELS)
    late_s = starts[:, np.newaxis] + durations - task.deadline_s
    penalties = task.late_penalty.expected_usd(late_s, _SLICES)
    return np.asarray(usd + penalties - penalties[0])


def _slots(offer: Offer, delay: int, now_s: float, slot_count: int) -> tuple[int, int]:
    """Return the slots [low, high) that a run takes, to the nearest slot and at least one."""
    low = math.floor((offer.start_s - now_s) / SLOT_S) + delay
    length = max(1, round(offer.run_time.p50_s / SLOT_S))
    return min(low, slot_count), min(low + length, slot_count)


def _free(free: FreeGpus, now_s: float, slot_count: int) -> Floats:
    """Return the mean number of free GPUs in each slot, (slot_count,)."""
    edges = now_s + SLOT_S * np.arange(slot_count + 1)
    times = np.array(free.times_s)
    counts = np.array(free.counts, dtype=np.float64)
    # The integral of the step function up to each edge.
    until = np.concatenate(([0.0], np.cumsum(counts[:-1] * np.diff(times))))
    step = np.maximum(np.searchsorted(times, edges, side="right") - 1, 0)
    integral = until[step] + counts[step] * (edges - times[step])
    return np.asarray(np.diff(integral) / SLOT_S)
