"""The exact value of the Lagrangian dual, whatever its multipliers. Pure.

testbed/bound/README.md derives it. Prices of GPU hours mu and shares of fetches pi, all 0 or more:

    L(mu, pi) = sum_j min_{i,t} [ g_j int_t^{t + w_j/s_i} (v_i + mu_i) + late_j + pi_jmi + pi_jdi ]
              + sum_a min_S [ tree_a(S) - sum_{i in S} sum_j pi_jai ]  -  sum_{i,h} mu_ih G_ih

The inner minimum over the start t is found exactly: the integral is linear between the instants at
which start or end meets an hour, and the penalty is linear but for its jump at the deadline.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from testbed.bound.problem import Floats, Ints, Problem

#: Tasks priced at once: their tables stay in the processor's cache.
_BLOCK_COUNT: Final = 256
#: Of the sum of all terms' sizes; sums of 64-bit floats err by far less.
_ROUNDING_RATIO: Final = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Multipliers:
    """What capacity and fetches are priced at; no value is below 0.

    Attributes:
        gpu_usd: (s, h) $ a GPU hour.
        share_usd: (n, 2, s) $ that a task pays towards bringing its model, and its data set, to a
            site.
    """

    gpu_usd: Floats
    share_usd: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Starts:
    """The cheapest start of each task at each site.

    Attributes:
        usd: (n, s) $: run at capacity prices and lateness, without fetches.
        start_h: (n, s) hours.
    """

    usd: Floats
    start_h: Floats


class Fetches:
    """What fetches cost, and which of them tasks share.

    Attributes:
        alone_usd: (n, 2, s) $ that a task pays by itself, as no cache could hold the artifact.
        is_shared: (n, 2, s): whether one copy serves all tasks of the artifact; not so at home,
            where it is free, and where it does not fit.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        fetch_usd = problem.fetch_usd
        artifact_count, site_count = fetch_usd.shape
        is_home = problem.home[:, np.newaxis] == np.arange(site_count)
        self.is_shared: NDArray[np.bool_] = (problem.fits & ~is_home)[problem.needs]
        self.alone_usd: Floats = np.where(problem.fits | is_home, 0.0, fetch_usd)[problem.needs]
        self._ways_in = np.where(problem.fits & ~is_home, fetch_usd, 0.0)
        self._sets: Floats | None = None
        if problem.tree_usd is not None:
            bits = np.arange(1 << site_count)[:, np.newaxis] >> np.arange(site_count)
            self._sets = (bits & 1).astype(np.float64)
            self._trees = problem.size_gb[:, np.newaxis] * problem.tree_usd[problem.home]
        self._order = np.argsort(problem.needs.ravel(), kind="stable")
        self._counts = np.bincount(problem.needs.ravel(), minlength=artifact_count)

    def gathered(self, shares: Floats) -> Floats:
        """Return (a, s): the shares of all tasks of each artifact, summed."""
        rows = shares.reshape(-1, shares.shape[-1])[self._order]
        sums = np.concatenate((np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0)))
        ends = np.cumsum(self._counts)
        return np.asarray(sums[ends] - sums[ends - self._counts])

    def value_usd(self, gathered: Floats) -> float:
        """Return sum_a min_S [tree_a(S) - sum_{i in S} Pi_ai], which is 0 or less.

        Where trees are unknown each site of a set pays its cheapest way in, which no tree
        undercuts.
        """
        if self._sets is None:
            return float(np.minimum(0.0, self._ways_in - gathered).sum())
        return float((self._trees - gathered @ self._sets.T).min(axis=1).sum())

    def chosen(self, gathered: Floats, temperature: float) -> Floats:
        """Return (a, s): how far each fetch is made at the smoothed minimum.

        Args:
            gathered: (a, s) Pi.
            temperature: Of the smoothing, over the price of bringing the artifact everywhere.
        """
        if self._sets is None:
            scale = temperature * np.maximum(self._ways_in, 1e-9)
            excess = np.clip((gathered - self._ways_in) / scale, -50.0, 50.0)
            return np.asarray(1.0 / (1.0 + np.exp(-excess)))
        usd = self._trees - gathered @ self._sets.T
        scale = temperature * np.maximum(self._trees[:, -1:], 1e-9)
        weight = np.exp((usd.min(axis=1, keepdims=True) - usd) / scale)
        weight /= weight.sum(axis=1, keepdims=True)
        return np.asarray(weight @ self._sets)


def dual_value(
    problem: Problem, fetches: Fetches, multipliers: Multipliers
) -> tuple[float, Starts]:
    """Return L, $, less what rounding could have added, and the starts at its minimum.

    Multipliers below 0, and shares where there is nothing to share, are taken as 0.
    """
    gpu_usd = np.maximum(multipliers.gpu_usd, 0.0)
    shares = np.where(fetches.is_shared, np.maximum(multipliers.share_usd, 0.0), 0.0)
    starts = cheapest_starts(problem, gpu_usd)
    tasks = (starts.usd + (shares + fetches.alone_usd).sum(axis=1)).min(axis=1)
    gathered = fetches.gathered(shares)
    rent_usd = float((gpu_usd * problem.gpu_h).sum())
    fetch_usd = fetches.value_usd(gathered)
    size_usd = float(np.abs(tasks).sum() + gathered.sum()) + rent_usd + abs(fetch_usd)
    return float(tasks.sum()) + fetch_usd - rent_usd - _ROUNDING_RATIO * size_usd, starts


def cheapest_starts(problem: Problem, gpu_usd: Floats) -> Starts:
    """Return the cheapest start of each task at each site under prices of GPU hours, (s, h)."""
    task_count, site_count = len(problem.work_h), len(problem.speed)
    usd = np.empty((task_count, site_count))
    start = np.empty((task_count, site_count))
    for i in range(site_count):
        run_h = problem.work_h / problem.speed[i]
        rates = problem.rate[i] + gpu_usd[i]
        whole_hours = np.floor(run_h).astype(np.int64)
        for whole in np.unique(whole_hours):
            group = np.flatnonzero(whole_hours == whole)
            series = _Series(rates, float(problem.rate[i, -1]), int(whole))
            for at in range(0, len(group), _BLOCK_COUNT):
                tasks = group[at : at + _BLOCK_COUNT]
                usd[tasks, i], start[tasks, i] = _cheapest(problem, tasks, run_h[tasks], series)
    return Starts(usd, start)


class _Series:
    """A step function and its integral, long enough for runs of some whole hours and a part.

    Attributes:
        hours: Hours of the function, after which `afterwards` holds.
        whole: Whole hours of the runs.
        value: (hours + whole + 2,) $ a GPU hour.
        until: (hours + whole + 3,): the integral up to each whole hour.
    """

    def __init__(self, rates: Floats, afterwards: float, whole: int) -> None:
        self.hours = len(rates)
        self.whole = whole
        self.value = np.concatenate((rates, np.full(whole + 2, afterwards)))
        self.until = np.concatenate(([0.0], np.cumsum(self.value)))

    def integral(self, instants: Floats) -> Floats:
        """Return the integral from 0 to each instant, 0 or later."""
        hour = np.minimum(instants.astype(np.int64), len(self.value) - 1)
        return np.asarray(self.until[hour] + (instants - hour) * self.value[hour])


def _cheapest(
    problem: Problem, tasks: Ints, run_h: Floats, series: _Series
) -> tuple[Floats, Floats]:
    """Return least cost and start of tasks whose runs take as many whole hours, each (k,)."""
    hours, whole = series.hours, series.whole
    run = run_h[:, np.newaxis]
    part = run - whole
    arrival = problem.arrival_h[tasks][:, np.newaxis]
    in_time = problem.due_h[tasks][:, np.newaxis] - run
    cap_h = problem.late_cap_h[tasks][:, np.newaxis]
    # Starts on the hour; ends on the hour, the start in the hour before, less the whole hours; at
    # arrival, when lateness costs no more, and when the deadline is just met.
    first = whole + 1
    others = np.maximum(np.concatenate((arrival, in_time + cap_h, in_time), axis=1), arrival)
    start = np.concatenate(
        (
            np.broadcast_to(np.arange(hours + 1.0), (len(tasks), hours + 1)),
            np.arange(first, first + hours) - run,
            others,
        ),
        axis=1,
    )
    whole_usd = series.until[whole : whole + hours + 1] - series.until[: hours + 1]
    begun_usd = series.until[1 : hours + 1] - part * series.value[:hours]
    usd = np.concatenate(
        (
            whole_usd + part * series.value[whole : whole + hours + 1],
            series.until[first : first + hours] - begun_usd,
            series.integral(others + run) - series.integral(others),
        ),
        axis=1,
    )
    usd *= problem.gpus[tasks][:, np.newaxis]
    late_h = start - in_time
    is_late = late_h > 0
    # In time by its making, whatever rounding says, unless it lies before the arrival.
    is_late[:, -1] = arrival[:, 0] > in_time[:, 0]
    by_hour_usd = problem.late_usd_per_h[tasks][:, np.newaxis] * np.minimum(late_h, cap_h)
    usd += np.where(is_late, problem.late_usd[tasks][:, np.newaxis] + by_hour_usd, 0.0)
    usd[start < arrival] = np.inf
    best = np.argmin(usd, axis=1)
    rows = np.arange(len(tasks))
    return usd[rows, best], start[rows, best]
