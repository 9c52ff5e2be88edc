"""Every pool of every registered site in columns, so that ranking a thousand costs microseconds.

The approximate J of a task at a pool, from digests alone (the sites' own bids are exact):

    J ~ run_h g k e (price + lambda c)            energy and carbon at their present values
      + run_h g q                                 GPU hours, in scope "with-gpu-hours"
      + wait_h g DELAY_USD_PER_GPU_H              work ahead in the pool over its GPUs
      + missing GB EGRESS_USD_PER_GB              artifacts not held

after DESIGN section 5, with run_h = run_s / 3600 / speed, and wait_h = 0 where enough GPUs are free
and unpromised. An unknown carbon intensity counts as nothing, as it does in bids. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from broker.directory import Entry
from broker.registry import RegisteredSite
from gcos.accounting import BYTES_PER_GB, G_PER_KG, S_PER_H, CostScope
from gcos.ids import SiteId
from gcos.known_sites import NominationQuery
from gcos.tasks import ANY_GPU

DELAY_USD_PER_GPU_H: Final = 0.10
"""About what a GPU hour costs in electricity: waiting as long as it runs doubles a site's price."""

EGRESS_USD_PER_GB: Final = 0.05
"""Middle of the list prices between cloud regions, $0.02 to $0.09."""

_Floats = NDArray[np.float64]
_Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A site that may run the task, by its cheapest pool.

    Attributes:
        site_id: The site.
        pool_type: The pool.
        speed_ratio: The pool's speed.
        joint_usd: Approximate J there, $.
    """

    site_id: SiteId
    pool_type: str
    speed_ratio: float
    joint_usd: float


class PoolTable:
    """A row for each pool, sorted by site id and pool type: built anew when a site comes or goes.

    All columns are (row_count,).
    """

    def __init__(self, sites: Iterable[RegisteredSite]) -> None:
        ordered = sorted(sites, key=lambda registered: registered.site.site_id)
        self.site_ids = tuple(registered.site.site_id for registered in ordered)
        rows = [
            (index, registered, pool)
            for index, registered in enumerate(ordered)
            for pool in sorted(registered.site.pools, key=lambda pool: pool.type)
        ]
        count = len(rows)
        self._site_index = np.array([index for index, _, _ in rows], dtype=np.intp)
        self._types = [pool.type for _, _, pool in rows]
        self._gpu_count = np.array([pool.gpu_count for _, _, pool in rows], dtype=np.float64)
        self._speed = np.array([pool.speed_ratio for _, _, pool in rows], dtype=np.float64)
        #: Power of one GPU at the meter per unit of speed, kW: k e / speed.
        self._kw = np.array(
            [pool.active_kw * r.site.pue / pool.speed_ratio for _, r, pool in rows],
            dtype=np.float64,
        )
        #: Price of the work of one GPU hour at speed 1, $: q / speed.
        self._usd_per_gpu_h = np.array(
            [pool.usd_per_gpu_h / pool.speed_ratio for _, _, pool in rows], dtype=np.float64
        )
        self._price_usd_per_kwh: _Floats = np.zeros(count)
        self._carbon_kg_per_kwh: _Floats = np.zeros(count)
        self._free_count: _Floats = np.zeros(count)
        self._committed_gpu_s: _Floats = np.zeros(count)
        self._is_open: _Bools = np.zeros(count, dtype=np.bool_)
        self._rows: dict[SiteId, range] = {}
        self._rows_by_name: dict[str, list[int]] = {}
        self._rows_by_type: dict[str, list[int]] = {}
        for row, (_, registered, pool) in enumerate(rows):
            site = registered.site
            first = self._rows.get(site.site_id, range(row, row)).start
            self._rows[site.site_id] = range(first, row + 1)
            for name in dict.fromkeys((site.site_id, site.zone)):
                self._rows_by_name.setdefault(name, []).append(row)
            self._rows_by_type.setdefault(pool.type, []).append(row)
        self._pools_per_site_max = max((len(rows) for rows in self._rows.values()), default=0)
        for registered in ordered:
            self.refresh(registered)

    def refresh(self, registered: RegisteredSite) -> None:
        """Take over a site's digest and promises."""
        digest = registered.digest
        carbon_kg_per_kwh = (digest.carbon_gco2_per_kwh or 0.0) / G_PER_KG
        for row in self._rows.get(registered.site.site_id, ()):
            pool_type = self._types[row]
            self._price_usd_per_kwh[row] = digest.price_usd_per_kwh
            self._carbon_kg_per_kwh[row] = carbon_kg_per_kwh
            self._free_count[row] = registered.free_count(pool_type, int(self._gpu_count[row]))
            self._committed_gpu_s[row] = registered.committed_gpu_s(pool_type)
            self._is_open[row] = not digest.is_draining

    def best(
        self, query: NominationQuery, entries: Iterable[Entry], limit_count: int
    ) -> tuple[list[Candidate], list[SiteId]]:
        """Return up to `limit_count` sites by J, ties to the lower id, and the sites ruled out."""
        may_run = self._may_run(query)
        admitted = np.zeros(len(self.site_ids), dtype=np.bool_)
        admitted[self._site_index[may_run]] = True
        refused = [self.site_ids[index] for index in np.flatnonzero(~admitted)]
        joint_usd = np.where(may_run, self._joint_usd(query, entries), np.inf)
        # Only the cheapest rows are sorted: enough for `limit_count` sites though the cheapest
        # sites fill all their rows, and every row that ties with the last.
        enough = min(limit_count * self._pools_per_site_max, len(joint_usd))
        if not enough:
            return [], refused
        bound = np.partition(joint_usd, enough - 1)[enough - 1]
        rows = np.flatnonzero(may_run & (joint_usd <= bound))
        found: dict[SiteId, Candidate] = {}
        for row in rows[np.argsort(joint_usd[rows], kind="stable")]:
            site_id = self.site_ids[self._site_index[row]]
            if site_id not in found:
                if len(found) == limit_count:
                    break
                found[site_id] = Candidate(
                    site_id,
                    pool_type=self._types[row],
                    speed_ratio=float(self._speed[row]),
                    joint_usd=float(joint_usd[row]),
                )
        return list(found.values()), refused

    def _may_run(self, query: NominationQuery) -> _Bools:
        """Return which rows may run the task: placement, draining, type and count."""
        may_run: _Bools = self._is_open & (self._gpu_count >= query.gpu.gpu_count)
        if query.allow:
            may_run &= self._mask(row for name in query.allow for row in self._named(name))
        if query.deny:
            may_run &= ~self._mask(row for name in query.deny for row in self._named(name))
        if query.gpu.type != ANY_GPU:
            may_run &= self._mask(self._rows_by_type.get(query.gpu.type, ()))
        return may_run

    def _joint_usd(self, query: NominationQuery, entries: Iterable[Entry]) -> _Floats:
        """Return J of the module's docstring for each row, $."""
        gpu_count = query.gpu.gpu_count
        usd_per_kwh = (
            self._price_usd_per_kwh + query.carbon_price_usd_per_kg * self._carbon_kg_per_kwh
        )
        usd_per_gpu_h = usd_per_kwh * self._kw
        if query.scope is CostScope.WITH_GPU_HOURS:
            usd_per_gpu_h = usd_per_gpu_h + self._usd_per_gpu_h
        joint_usd: _Floats = usd_per_gpu_h * (gpu_count * query.run_s / S_PER_H)
        waits = self._free_count < gpu_count
        if waits.any():
            # Rows without GPUs wait too, but are ruled out anyway.
            wait_h = self._committed_gpu_s / np.maximum(self._gpu_count, 1.0) / S_PER_H
            joint_usd += np.where(waits, wait_h * (gpu_count * DELAY_USD_PER_GPU_H), 0.0)
        for entry in entries:
            is_missing = ~self._mask(
                row for name in entry.names for row in self._rows.get(name, ())
            )
            joint_usd += is_missing * (entry.size_bytes / BYTES_PER_GB * EGRESS_USD_PER_GB)
        return joint_usd

    def _mask(self, rows: Iterable[int]) -> _Bools:
        mask: _Bools = np.zeros(len(self._types), dtype=np.bool_)
        mask[list(rows)] = True
        return mask

    def _named(self, name: str) -> Iterable[int]:
        return self._rows_by_name.get(name, ())
