"""The forecasts of each hour, from `testbed.sim.forecast`, as rows of arrays."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import numpy as np

from testbed.fast.layout import CARBON, PRICE, Floats, State
from testbed.sim.forecast import HORIZON_H, Forecaster
from testbed.sim.instance import Instance

#: Hours whose forecasts are remembered, so that the policies that meet one world share the draws:
#: four weeks of eight sites take some 50 MB.
HOUR_COUNT_MAX: Final = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class _Issue:
    """What is known in an hour: by kind and site, from the step `base` on."""

    base: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]"
    count: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]"
    values: Floats
    running: Floats
    least: Floats


class Forecasts:
    """Issues forecasts into the arrays of a run."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._forecaster = Forecaster(instance)
        self._known: OrderedDict[float, _Issue] = OrderedDict()

    def issue(self, state: State, now_s: float) -> None:
        """Lay out what every site knows at `now_s`."""
        issue = self._known.get(now_s)
        if issue is None:
            issue = self._issue(now_s)
            self._known[now_s] = issue
            if len(self._known) > HOUR_COUNT_MAX:
                self._known.popitem(last=False)
        state.issued[:] = issue.values
        state.issued_sum[:] = issue.running
        state.least_issued[:] = issue.least
        state.issues["base"] = issue.base
        state.issues["count"] = issue.count

    def _issue(self, now_s: float) -> _Issue:
        sites = self._instance.sites
        shape = (2, len(sites))
        made = _Issue(
            base=np.zeros(shape, np.int64),
            count=np.zeros(shape, np.int64),
            values=np.zeros((*shape, HORIZON_H + 1)),
            running=np.zeros((*shape, HORIZON_H + 1)),
            least=np.zeros(shape),
        )
        for i, site in enumerate(sites):
            signals = self._forecaster.signals(site.site_id, now_s)
            assert signals.carbon is not None, "a simulated site knows its carbon"
            for kind, signal in ((PRICE, signals.price), (CARBON, signals.carbon)):
                series = signal.series
                # What lies past is never asked for; past the end the last value holds.
                first = min(int((now_s - series.start_s) // series.step_s), len(series.values) - 1)
                part = series.values[first : first + HORIZON_H + 1]
                made.base[kind, i] = first
                made.count[kind, i] = first + len(part)
                made.values[kind, i, : len(part)] = part
                made.least[kind, i] = min(part)
                running = np.concatenate(([0.0], np.cumsum(series.values) * series.step_s))
                made.running[kind, i, : len(part)] = running[first : first + len(part)]
        return made
