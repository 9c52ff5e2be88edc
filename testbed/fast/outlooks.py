"""The outlooks of all sites out of a run's arrays, as `site_agent.outlook` makes them."""

from bisect import bisect_left
from typing import Final

import numpy as np

from gcos.accounting import G_PER_KG, CostScope
from gcos.artifacts import ArtifactKind
from gcos.outlook import Outlook, OutlookArtifact, OutlookCopy, OutlookPool, OutlookRoom
from gcos.signals import HOUR_S
from policies.maccs.copy_plan import GRID_H, MEMORY_H, characteristic_share
from site_agent.outlook import RATE_H, EvictionPace
from testbed.fast.handle import table_of
from testbed.fast.layout import ABSENT, CARBON, COMPLETE, PRICE, Floats, Ints, State
from testbed.fast.migration import look
from testbed.sim.foresight import CopyPlans
from testbed.sim.instance import Instance

_KINDS: Final = (ArtifactKind.MODEL, ArtifactKind.DATA)


class Outlooks:
    """Makes the outlooks of one run.

    Args:
        instance: The world.
        plans: Knows what submissions tell.
    """

    def __init__(self, instance: Instance, plans: CopyPlans) -> None:
        self._instance = instance
        self._plans = plans
        self._artifacts = tuple(
            OutlookArtifact(each.artifact_id, each.kind, each.name, each.size_bytes)
            for each in (upstream.artifact for upstream in instance.upstreams)
        )
        self._paces = [[EvictionPace(instance.start_s, 0) for _ in _KINDS] for _ in instance.sites]

    def at(self, state: State) -> list[Outlook]:
        """Return the outlooks for the beat that it is now.

        What was submitted stands in that of the first site: nobody asks where.
        """
        now_s = float(state.g[0]["now_s"])
        site_count, artifact_count = state.entries.shape
        planned = np.zeros((site_count, GRID_H))
        uses = np.zeros((site_count, artifact_count))
        can_go = np.zeros((site_count, artifact_count), np.int64)
        look(table_of(state), planned, uses, can_go)
        tasks = self._instance.tasks
        first, last = (
            bisect_left(tasks, at_s, key=lambda task: task.arrival_s)
            for at_s in (now_s - MEMORY_H * HOUR_S, now_s)
        )
        told = tuple(self._plans.submission(task) for task in tasks[first:last])
        rates = self._rates(state)
        outlooks = []
        for i, site in enumerate(self._instance.sites):
            is_here = bool(state.sites[i]["is_here"])
            (pool,) = site.pools
            is_cost = self._instance.scope is CostScope.WITH_GPU_HOURS
            shown = OutlookPool(
                type=pool.type,
                gpu_count=pool.gpu_count,
                active_kw=pool.active_kw * site.pue,
                usd_per_gpu_h=pool.usd_per_gpu_h if is_cost else 0.0,
                planned_count=tuple(planned[i].tolist()),
            )
            outlooks.append(
                Outlook(
                    site_id=site.site_id,
                    zone=site.zone,
                    address=site.site_id,
                    at_s=now_s,
                    carbon_gco2_per_kwh=float(state.issued[CARBON, i, 0]),
                    rate_usd_per_kwh=tuple(rates[i].tolist()),
                    remembered_h=min(MEMORY_H, (now_s - self._instance.start_s) / HOUR_S),
                    submission_count=len(told) if i == 0 else 0,
                    pools=(shown,) if is_here else (),
                    rooms=self._rooms(state, i, now_s),
                    copies=self._copies(state, i, uses[i], can_go[i], is_here=is_here),
                    artifacts=self._artifacts if i == 0 else (),
                    submissions=told if i == 0 else (),
                )
            )
        return outlooks

    def _rates(self, state: State) -> Floats:
        """Return price + lambda x carbon in the coming hours, (n, h)."""
        count = state.issues["count"] - state.issues["base"]
        rows = np.arange(len(self._instance.sites))[:, np.newaxis]
        hours = np.arange(RATE_H)
        price = state.issued[PRICE][rows, np.minimum(hours, count[PRICE][:, np.newaxis] - 1)]
        grams = state.issued[CARBON][rows, np.minimum(hours, count[CARBON][:, np.newaxis] - 1)]
        return np.asarray(price + self._instance.carbon_price_usd_per_kg / G_PER_KG * grams)

    def _rooms(self, state: State, i: int, now_s: float) -> tuple[OutlookRoom, ...]:
        rooms = []
        for kind, pace in zip(_KINDS, self._paces[i], strict=True):
            known = state.caches[i, 0 if state.g[0]["is_shared_cache"] else _KINDS.index(kind)]
            capacity = int(known["capacity"])
            pace.note(int(known["evicted"]), now_s=now_s)
            share = characteristic_share(float(capacity), pace.bytes_per_h())
            rooms.append(OutlookRoom(kind, capacity, capacity - int(known["used"]), share))
        return tuple(rooms)

    def _copies(
        self, state: State, i: int, uses: Floats, can_go: Ints, *, is_here: bool
    ) -> tuple[OutlookCopy, ...]:
        states = state.entries[i]["state"]
        copies = []
        for a, artifact in enumerate(self._artifacts):
            if state.artifacts[a]["home"] == i:
                copies.append(OutlookCopy(artifact.artifact_id, True, False, 0.0))
            elif is_here and states[a] != ABSENT:
                copies.append(
                    OutlookCopy(
                        artifact.artifact_id,
                        bool(states[a] == COMPLETE),
                        bool(can_go[a]),
                        float(uses[a]),
                    )
                )
        return tuple(copies)
