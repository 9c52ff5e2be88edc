"""What the artifact actor sees of a candidate: an artifact, and a site that may bring a copy. Pure.

DESIGN section 7 F, step 5. One module for agents, simulators and training: arrays and loops, so
that the research extra may compile it as it stands. Amounts and counts enter as log(1 + value), so
that settings of any size stay in reach; the actor's file shifts, scales and clamps them.

Two inputs differ from the ones listed there. In place of the regret credit, which a plan made from
outlooks does not know, stands the time since the artifact was last asked for; age is how far back
the demand is remembered that all of this rests on.
"""

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Name of the part: of its file, and in `policies.catalogue.Policy.learned`.
PART: Final = "artifact"
#: Each feature in its place, and its unit.
FEATURES: Final = {
    "saving_ratio": "log1p(expected saving S over price x of the copy)",
    "recency": "log1p(hours since the artifact was last asked for)",
    "task_count": "log1p(expected tasks that would come)",
    "gpu_hours": "log1p(GPU hours of these)",
    "spread_ratio": "log1p(sqrt(Q) over x)",
    "demand": "log1p(uses at all sites, decayed with 24 h)",
    "assigned": "log1p(expected tasks of the artifact that go there already)",
    "price": "log1p($)",
    "size": "log1p(GB)",
    "saving": "log1p($)",
    "is_data": "0: model, 1: data set",
    "rate_ratio": "mean rate of the next 48 h over that of all sites, less 1",
    "planned_ratio": "planned GPUs of the next 24 h over GPUs",
    "occupied_ratio": "used bytes of the cache over its size",
    "holders": "log1p(sites that hold it)",
    "memory": "log1p(hours of remembered demand)",
}
FEATURE_COUNT: Final = len(FEATURES)
#: Scaled inputs are cut off beyond this (DESIGN section 7 F).
CLAMP: Final = 6.0
#: Largest S over x that is learned, and told.
RATIO_MAX: Final = 15.0
#: What is told of a copy counts up to this multiple of what the plan expects of it. Each label is
#: what a copy saves if it alone is brought: added up over all copies of a beat, small hopes without
#: a limit buy too much.
GAIN_MAX: Final = 3.0
#: Time constant of the decayed demand, hours.
DEMAND_H: Final = 24.0
#: Hours of forecast in the level of a site.
LEVEL_H: Final = 48
#: Hours of planned load in the utilisation of a site.
PLANNED_H: Final = 24
#: Copies that cost less are as good as free: their ratio says nothing ($).
LEAST_USD: Final = 1e-6


class Surroundings(NamedTuple):
    """What features take from beyond the plan's own arrays.

    Attributes:
        age_h: (n,) hours since each task of the sample was submitted.
        rate_ratio: (i,) mean rate of the coming `LEVEL_H` hours over the mean of all sites, less 1.
        memory_h: Hours of demand that the sample rests on.
    """

    age_h: Floats
    rate_ratio: Floats
    memory_h: float


def surroundings_of(age_h: Floats, rates: Floats, memory_h: float) -> Surroundings:
    """Return the surroundings of a plan.

    Args:
        age_h: (n,) hours since each task of the sample was submitted.
        rates: (i, h) price + lambda carbon in each coming hour, $/kWh.
        memory_h: Hours of remembered demand.
    """
    level = rates[:, :LEVEL_H].mean(axis=1)
    mean = level.mean() if len(level) else 0.0
    # Prices may be below zero: of a mean that is next to nothing there is no multiple.
    ratio = level / mean - 1.0 if mean > LEAST_USD else np.zeros(len(level))
    return Surroundings(age_h, np.asarray(ratio), memory_h)


def demand_of(artifacts: Ints, age_h: Floats, artifact_count: int) -> tuple[Floats, Floats]:
    """Return decayed uses of each artifact, and hours since it was last asked for, (a,) each.

    Args:
        artifacts: (n, 2) model and data set of each task.
        age_h: (n,).
        artifact_count: Artifacts; of those nobody asked for it says infinitely long ago.
    """
    uses = np.zeros(artifact_count)
    latest_h = np.full(artifact_count, math.inf)
    for j in range(len(artifacts)):
        for k in range(2):
            a = artifacts[j, k]
            uses[a] += math.exp(-age_h[j] / DEMAND_H)
            latest_h[a] = min(latest_h[a], age_h[j])
    return uses, latest_h


def amounts_of(
    saved_usd: Floats,
    squares: Floats,
    task_count: Floats,
    gpu_h: Floats,
    assigned: Floats,
    price_usd: Floats,
    size_gb: Floats,
    kind: Ints,
    uses: Floats,
    latest_h: Floats,
    rate_ratio: Floats,
    planned_ratio: Floats,
    occupied_ratio: Floats,
    holder_count: Ints,
    memory_h: float,
) -> Floats:
    """Return what the features of all candidates are made of, (a, i, 16), as `FEATURES` has them.

    Args:
        saved_usd: (a, i) S.
        squares: (a, i) Q.
        task_count: (a, i) expected tasks that would come, weight included.
        gpu_h: (a, i) GPU hours of these, weight included.
        assigned: (a, i) expected tasks of the artifact that go there already, weight included.
        price_usd: (a, i) x.
        size_gb: (a,) size of the artifact.
        kind: (a,) 0: model, 1: data set.
        uses: (a,) decayed uses at all sites.
        latest_h: (a,) hours since it was last asked for.
        rate_ratio: (i,) level of the site's rate.
        planned_ratio: (i,) planned utilisation of the site.
        occupied_ratio: (2, i) of its caches, by kind.
        holder_count: (a,) sites that hold the artifact.
        memory_h: Hours of remembered demand.
    """
    amounts = np.empty((*saved_usd.shape, FEATURE_COUNT))
    amounts[:, :, 0] = saved_usd
    amounts[:, :, 1] = latest_h.reshape(-1, 1)
    amounts[:, :, 2] = task_count
    amounts[:, :, 3] = gpu_h
    amounts[:, :, 4] = squares
    amounts[:, :, 5] = uses.reshape(-1, 1)
    amounts[:, :, 6] = assigned
    amounts[:, :, 7] = price_usd
    amounts[:, :, 8] = size_gb.reshape(-1, 1)
    amounts[:, :, 9] = saved_usd
    amounts[:, :, 10] = kind.reshape(-1, 1)
    amounts[:, :, 11] = rate_ratio
    amounts[:, :, 12] = planned_ratio
    amounts[:, :, 13] = occupied_ratio[kind]
    amounts[:, :, 14] = holder_count.reshape(-1, 1)
    amounts[:, :, 15] = memory_h
    return amounts


def features_of(amounts: Floats) -> Floats:
    """Return the features of candidates, (n, 16), in the order of `FEATURES`.

    Args:
        amounts: (n, 16) what they are made of, prices finite; they become the features, in place.
    """
    per_usd = 1.0 / np.maximum(amounts[:, 7], LEAST_USD)
    amounts[:, 0] *= per_usd
    amounts[:, 4] = np.sqrt(amounts[:, 4]) * per_usd
    amounts[:, :10] = np.log1p(amounts[:, :10])
    amounts[:, 14:] = np.log1p(amounts[:, 14:])
    return amounts


def corrected_usd(saved_usd: float, price_usd: float, told: float, scale: float) -> float:
    """Return S with its learned correction: S + scale (min(x f, `GAIN_MAX` S) - S).

    At scale 0.5 and below the limit that is x (0.5 f + 0.5 S / x) of DESIGN section 7 F, step 5; at
    0 it is S to the last bit, and so it is for a copy that is as good as free.
    """
    if price_usd < LEAST_USD:
        return saved_usd
    return saved_usd + scale * (min(price_usd * told, GAIN_MAX * saved_usd) - saved_usd)
