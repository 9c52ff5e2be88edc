"""Good multipliers for the Lagrangian dual: prices of GPU hours and shares of fetches. Pure.

Whatever this search finds is a valid bound, since `testbed.bound.pricing` values it exactly; how
good it is, is all that depends on it. The minimum over the ways to run a task is smoothed to

    -tau_j ln sum_{i, t} exp(-usd_jit / tau_j)          (Nesterov, Math. Programming 103, 2005)

whose gradient is that of a mixture of ways, and multipliers climb it by Adam (Kingma and Ba, 2015)
in steps of a size of their own, since tasks differ a thousandfold in price. Only starts that some
prices made the cheapest are in the mixture; all are looked at again every `_REPRICE_COUNT` steps,
as columns are generated in a linear programme.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from testbed.bound.pricing import Fetches, Multipliers, Starts, dual_value
from testbed.bound.problem import Floats, Ints, Problem

#: Steps; measured on the default scenario, more of them gain less than 0.2 %.
STEP_COUNT: Final = 800
#: Starts remembered for each task and site.
_START_COUNT: Final = 6
_REPRICE_COUNT: Final = 50
#: Temperature of ways over what a task costs, at the first step and at the last; falls
#: geometrically, as the steps do.
_TEMPERATURES: Final = (0.2, 0.01)
_FETCH_TEMPERATURE: Final = 0.02
#: Steps over the scale of each multiplier.
_STEPS: Final = (0.08, 0.0008)
_MOMENTUM: Final = 0.9
_SPREAD: Final = 0.99
_SPREAD_MIN: Final = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Ascent:
    """What a search for multipliers came to.

    Attributes:
        bound_usd: The best value of the dual: no schedule has a lower J.
        multipliers: Where it is.
        starts: The cheapest start of each task at each site there.
    """

    bound_usd: float
    multipliers: Multipliers
    starts: Starts


def ascend(problem: Problem, fetches: Fetches, *, step_count: int = STEP_COUNT) -> Ascent:
    """Return the best multipliers that so many steps find; the same at each call."""
    gpu = _Climber(np.zeros_like(problem.rate), scale=np.full((1, 1), problem.rate.mean()))
    best = _valued(problem, fetches, Multipliers(gpu.value, np.zeros(fetches.is_shared.shape)))
    usd = np.maximum(best.starts.usd.min(axis=1), 1e-6)
    share = _Climber(_first_shares(problem, fetches, usd), scale=usd[:, np.newaxis, np.newaxis])
    ways = _Ways(problem, fetches, usd)
    ways.add(best.starts)
    for step in range(step_count):
        left = step / max(1, step_count - 1)
        temperature = _TEMPERATURES[0] * (_TEMPERATURES[1] / _TEMPERATURES[0]) ** left
        size = _STEPS[0] * (_STEPS[1] / _STEPS[0]) ** left
        used, at_site = ways.mixture(gpu.value, share.value, temperature)
        fetched = fetches.chosen(fetches.gathered(share.value), _FETCH_TEMPERATURE)
        gpu.climb((used - problem.gpu_h) / np.maximum(problem.gpu_h, 1.0), size)
        slope = at_site[:, np.newaxis, :] - fetched[problem.needs]
        share.climb(np.where(fetches.is_shared, slope, 0.0), size)
        if (step + 1) % _REPRICE_COUNT == 0 or step + 1 == step_count:
            found = _valued(problem, fetches, Multipliers(gpu.value.copy(), share.value.copy()))
            ways.add(found.starts)
            if found.bound_usd > best.bound_usd:
                best = found
    return best


def _valued(problem: Problem, fetches: Fetches, multipliers: Multipliers) -> Ascent:
    bound_usd, starts = dual_value(problem, fetches, multipliers)
    return Ascent(bound_usd, multipliers, starts)


def _first_shares(problem: Problem, fetches: Fetches, usd: Floats) -> Floats:
    """Return shares of each fetch in proportion to what its tasks cost, (n, 2, s)."""
    every = np.bincount(
        problem.needs.ravel(), np.repeat(usd, problem.needs.shape[1]), len(problem.home)
    )
    part = usd[:, np.newaxis] / every[problem.needs]
    whole = problem.fetch_usd[problem.needs]
    return np.where(fetches.is_shared, part[:, :, np.newaxis] * whole, 0.0)


class _Climber:
    """Multipliers that climb by Adam and stay at 0 or above."""

    def __init__(self, value: Floats, *, scale: Floats) -> None:
        self.value = value
        self._scale = scale
        self._slope = np.zeros_like(value)
        self._spread = np.zeros_like(value)
        self._count = 0

    def climb(self, slope: Floats, size: float) -> None:
        self._count += 1
        self._slope += (1.0 - _MOMENTUM) * (slope - self._slope)
        self._spread += (1.0 - _SPREAD) * (slope * slope - self._spread)
        mean = self._slope / (1.0 - _MOMENTUM**self._count)
        spread = np.sqrt(self._spread / (1.0 - _SPREAD**self._count)) + _SPREAD_MIN
        self.value = np.maximum(self.value + size * self._scale * mean / spread, 0.0)


class _Ways:
    """The remembered starts of each task at each site, (n, s, k), and their smoothed minimum."""

    def __init__(self, problem: Problem, fetches: Fetches, usd: Floats) -> None:
        self._problem = problem
        self._fetches = fetches
        self._usd = usd[:, np.newaxis, np.newaxis]
        self._run_h = (problem.work_h[:, np.newaxis] / problem.speed)[:, :, np.newaxis]
        self._added = 0
        self._start_h = np.zeros((*self._run_h.shape[:2], 0))

    def add(self, starts: Starts) -> None:
        """Remember starts in place of the oldest."""
        if self._start_h.shape[2] < _START_COUNT:
            self._start_h = np.concatenate((self._start_h, starts.start_h[:, :, None]), axis=2)
        else:
            self._start_h[:, :, self._added % _START_COUNT] = starts.start_h
        self._added += 1
        problem, hours = self._problem, self._problem.rate.shape[1]
        end_h = self._start_h + self._run_h
        late_h = end_h - problem.due_h[:, None, None]
        by_hour = np.minimum(late_h, problem.late_cap_h[:, None, None])
        usd = problem.late_usd[:, None, None] + problem.late_usd_per_h[:, None, None] * by_hour
        self._late_usd = np.where(late_h > 0, usd, 0.0)
        offset = (np.arange(len(problem.speed)) * (hours + 2))[np.newaxis, :, np.newaxis]
        self._first, self._first_part = _split(self._start_h, hours, offset)
        self._last, self._last_part = _split(end_h, hours, offset)

    def mixture(
        self, gpu_usd: Floats, share_usd: Floats, temperature: float
    ) -> tuple[Floats, Floats]:
        """Return GPU hours used, (s, h), and how far each task runs at each site, (n, s)."""
        problem = self._problem
        after = problem.rate[:, -1:]
        rate = np.concatenate((problem.rate + gpu_usd, after, after), axis=1)
        until = np.cumsum(rate, axis=1) - rate
        value, integral = rate.ravel(), until.ravel()
        usd = integral[self._last] + self._last_part * value[self._last]
        usd -= integral[self._first] + self._first_part * value[self._first]
        usd *= problem.gpus[:, np.newaxis, np.newaxis]
        usd += self._late_usd
        usd += (share_usd + self._fetches.alone_usd).sum(axis=1)[:, :, np.newaxis]
        weight = np.exp((usd.min(axis=(1, 2), keepdims=True) - usd) / (temperature * self._usd))
        weight /= weight.sum(axis=(1, 2), keepdims=True)
        return self._used(weight), weight.sum(axis=2)

    def _used(self, weight: Floats) -> Floats:
        """Return the GPU hours, (s, h), of runs that happen with these weights."""
        sites, hours = self._problem.rate.shape
        gpus = weight * self._problem.gpus[:, np.newaxis, np.newaxis]
        change = np.zeros(sites * (hours + 2) + 1)
        for sign, at, part in (
            (1.0, self._first, self._first_part),
            (-1.0, self._last, self._last_part),
        ):
            part_gpus = (sign * gpus * part).ravel()
            whole = (sign * gpus).ravel()
            change += np.bincount(at.ravel(), whole - part_gpus, len(change))
            change += np.bincount(at.ravel() + 1, part_gpus, len(change))
        return np.cumsum(change[:-1].reshape(sites, hours + 2), axis=1)[:, :hours]


def _split(instants: Floats, hours: int, offset: Ints) -> tuple[Ints, Floats]:
    """Return where the hour of each instant is in a flat table, and the part of it that is over."""
    hour = np.minimum(instants.astype(np.int64), hours)
    return hour + offset, instants - hour
