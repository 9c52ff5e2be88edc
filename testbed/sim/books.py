"""What a simulated run cost: every charge entered once, with the true signals.

The books see what happened (a transfer, an eviction, a run) and charge it by `gcos.accounting`; the
cores' own reports are not asked, so that the two can be compared. What arrives in the measured
window, and transfers that start in it, are summed apart (DESIGN section 10).

Each line of the log is also hashed: the same seed gives the same `trace_hash` in any process (I9).
"""

import hashlib
import math
from array import array
from collections.abc import MutableSequence
from dataclasses import dataclass, field
from typing import TextIO

import msgspec
import numpy as np

from gcos.accounting import (
    BYTES_PER_GB,
    LATE_TOLERANCE_H,
    S_PER_H,
    Charge,
    RunTerms,
    idle_charge,
    run_charge,
    storage_charge,
    transfer_charge,
)
from gcos.artifacts import Artifact, ArtifactKind
from gcos.ids import ArtifactId, SiteId
from gcos.sites import Pool, Site
from testbed.sim.instance import Instance, SimTask
from testbed.sim.result import Lookups, Totals


@dataclass(slots=True)
class Sum:
    """A growing sum of charges: entered one by one, added up in batches with one rounding each."""

    _total: Charge = field(default_factory=Charge)
    _pending: list[Charge] = field(default_factory=list)

    def add(self, charge: Charge) -> None:
        """Enter a charge."""
        self._pending.append(charge)
        if len(self._pending) >= _BATCH_COUNT:
            self.close()

    def close(self) -> Charge:
        """Return the sum of all that was entered."""
        self._total = Charge.sum([self._total, *self._pending])
        self._pending.clear()
        return self._total


@dataclass(slots=True)
class Account:
    """What is summed over the whole run, and again over its measured window.

    Attributes:
        window_s: Its begin and end; `busy` counts runs within them.
        charges: What runs, transfers, storage and lateness cost.
        busy: What busy GPUs would draw if they idled.
        miss_count: Tasks that ended late.
        task_count: Tasks that ended.
        hit_count: Artifacts that runs found at their site, by kind.
        fetch_count: Artifacts that runs had to wait for, by kind.
        waits_s: Time from arrival to start, one of each task.
    """

    window_s: tuple[float, float]
    charges: Sum = field(default_factory=Sum)
    busy: Sum = field(default_factory=Sum)
    miss_count: int = 0
    task_count: int = 0
    hit_count: dict[ArtifactKind, int] = field(
        default_factory=lambda: dict.fromkeys(ArtifactKind, 0)
    )
    fetch_count: dict[ArtifactKind, int] = field(
        default_factory=lambda: dict.fromkeys(ArtifactKind, 0)
    )
    waits_s: MutableSequence[float] = field(default_factory=lambda: array("d"))


@dataclass(slots=True)
class _Copy:
    """A stored copy, from the first byte of its transfer."""

    size_bytes: int
    since_s: float
    is_measured: bool


#: Charges summed at once; bounds the memory of a long run.
_BATCH_COUNT = 10_000


class Books:
    """The log, the charges and the counts of one simulated run.

    Args:
        instance: The world.
        log: Where the lines of `log.jsonl` go; None: nowhere.
    """

    def __init__(self, instance: Instance, log: TextIO | None = None) -> None:
        self._instance = instance
        self._log = log
        self._hash = hashlib.sha256()
        self._encode = msgspec.json.Encoder().encode
        self._index = {site.site_id: i for i, site in enumerate(instance.sites)}
        self._links = {pair: link.egress_usd_per_gb for pair, link in instance.links.items()}
        self._copies: dict[tuple[SiteId, ArtifactId], _Copy] = {}
        #: Copies that went since the last run ended, and when: storage ends with the last of all.
        self._gone: list[tuple[_Copy, float]] = []
        self.whole = Account((instance.start_s, math.inf))
        self.measured = Account(instance.measured_s)
        self._last_end_s = instance.start_s

    # ---------------------------------------------------------------- what happened

    def transfer(
        self,
        artifact: Artifact,
        source: SiteId,
        target: SiteId,
        *,
        start_s: float,
        end_s: float,
        task_id: str | None,
        is_stored: bool,
    ) -> None:
        """Charge a transfer that has ended; a stored copy counts from its start."""
        carbon = self._instance.carbon
        charge = transfer_charge(
            artifact.size_bytes,
            egress_usd_per_gb=self._links[source, target],
            network_kwh_per_gb=self._instance.network_kwh_per_gb,
            carbon_src=carbon[source],
            carbon_dst=carbon[target],
            start_s=start_s,
            end_s=end_s,
        )
        is_measured = self._is_measured(start_s)
        self._charge(charge, is_measured=is_measured)
        if is_stored:
            copy = _Copy(artifact.size_bytes, start_s, is_measured)
            self._copies[target, artifact.artifact_id] = copy
        self._write(
            {
                "e": "transfer",
                "t0": self._h(start_s),
                "t1": self._h(end_s),
                "src": self._index[source],
                "dst": self._index[target],
                "artifact": artifact.name,
                "task": task_id,
                "stored": is_stored,
            }
        )

    def evict(self, site_id: SiteId, artifact: Artifact, *, now_s: float) -> None:
        """Let a copy go; its storage is charged as the next run ends."""
        self._gone.append((self._copies.pop((site_id, artifact.artifact_id)), now_s))
        self._write(
            {
                "e": "evict",
                "t": self._h(now_s),
                "site": self._index[site_id],
                "artifact": artifact.name,
            }
        )

    def lookup(self, task: SimTask, kind: ArtifactKind, *, is_hit: bool) -> None:
        """Count an artifact that a run found at its site, or had to wait for."""
        for account in self._accounts(is_measured=self._is_measured(task.arrival_s)):
            counts = account.hit_count if is_hit else account.fetch_count
            counts[kind] += 1

    def run(self, task: SimTask, site: Site, pool: Pool, *, start_s: float, end_s: float) -> None:
        """Charge a run that has ended well, and its lateness."""
        late_s = end_s - task.deadline_s
        penalty_usd = task.late_penalty.usd(late_s)
        charge = self._run_charge(task, site, pool, start_s, end_s)
        is_measured = self._is_measured(task.arrival_s)
        self._charge(charge + Charge(penalty_usd=penalty_usd), is_measured=is_measured)
        for account in self._accounts(is_measured=is_measured):
            account.task_count += 1
            account.miss_count += late_s > LATE_TOLERANCE_H * S_PER_H
            account.waits_s.append(start_s - task.arrival_s)
        self._end("run", task, site, start_s, end_s)

    def abort(self, task: SimTask, site: Site, pool: Pool, *, start_s: float, end_s: float) -> None:
        """Charge an attempt that failed: its work was done all the same."""
        charge = self._run_charge(task, site, pool, start_s, end_s)
        self._charge(charge, is_measured=self._is_measured(task.arrival_s))
        self._end("abort", task, site, start_s, end_s)

    def close(self) -> None:
        """Charge what still lies in the caches, up to the end of the last run."""
        for copy in (*self._copies.values(), *(copy for copy, _ in self._gone)):
            self._store(copy, until_s=max(self._last_end_s, copy.since_s))
        self._copies.clear()
        self._gone.clear()

    # ---------------------------------------------------------------- what came of it

    @property
    def trace_hash(self) -> str:
        """Digest of every line of the log so far."""
        return self._hash.hexdigest()

    @property
    def last_end_s(self) -> float:
        """World instant of the end of the last run."""
        return self._last_end_s

    def totals(self, account: Account) -> Totals:
        """Return the sums of one account."""
        waits = np.array(account.waits_s)
        has_waits = len(waits) > 0
        return Totals(
            charge=account.charges.close(),
            idle=self._idle(account),
            task_count=account.task_count,
            miss_count=account.miss_count,
            wait_mean_s=float(waits.mean()) if has_waits else 0.0,
            wait_p95_s=float(np.quantile(waits, 0.95)) if has_waits else 0.0,
            models=_lookups(account, ArtifactKind.MODEL),
            data_sets=_lookups(account, ArtifactKind.DATA),
        )

    def _idle(self, account: Account) -> Charge:
        """Return what GPUs draw while they run nothing: all of them idle, less the busy ones."""
        begin_s, end_s = account.window_s[0], min(account.window_s[1], self._last_end_s)
        idle = Sum()
        for site in self._instance.sites:
            for pool in site.pools:
                idle.add(
                    idle_charge(
                        gpu_count=pool.gpu_count,
                        idle_kw=pool.idle_kw,
                        pue=site.pue,
                        price=self._instance.price[site.site_id],
                        carbon=self._instance.carbon[site.site_id],
                        start_s=begin_s,
                        end_s=max(begin_s, end_s),
                    )
                )
        every, busy = idle.close(), account.busy.close()
        return Charge(
            energy_kwh=every.energy_kwh - busy.energy_kwh,
            energy_usd=every.energy_usd - busy.energy_usd,
            compute_gco2=every.compute_gco2 - busy.compute_gco2,
        )

    def reported(self) -> dict[str, object]:
        """Return `reported.json` of DESIGN section 10."""
        whole: dict[str, object] = dict(self._figures(self.whole))
        return {**whole, "measured": self._figures(self.measured)}

    # ---------------------------------------------------------------- inside

    @staticmethod
    def _figures(account: Account) -> dict[str, float]:
        return figures(account.charges.close(), account.miss_count)

    def _run_charge(
        self, task: SimTask, site: Site, pool: Pool, start_s: float, end_s: float
    ) -> Charge:
        for account in (self.whole, self.measured):
            begin_s, until_s = account.window_s
            busy_s = max(start_s, begin_s), min(end_s, until_s)
            if busy_s[0] < busy_s[1]:
                account.busy.add(self._idle_share(task, site, pool, *busy_s))
        terms = RunTerms(
            gpu_count=task.gpu_count,
            active_kw=pool.active_kw,
            pue=site.pue,
            gpu_usd_per_h=pool.usd_per_gpu_h,
        )
        return run_charge(
            terms,
            self._instance.price[site.site_id],
            self._instance.carbon[site.site_id],
            start_s=start_s,
            end_s=end_s,
        )

    def _idle_share(
        self, task: SimTask, site: Site, pool: Pool, start_s: float, end_s: float
    ) -> Charge:
        return idle_charge(
            gpu_count=task.gpu_count,
            idle_kw=pool.idle_kw,
            pue=site.pue,
            price=self._instance.price[site.site_id],
            carbon=self._instance.carbon[site.site_id],
            start_s=start_s,
            end_s=end_s,
        )

    def _end(self, kind: str, task: SimTask, site: Site, start_s: float, end_s: float) -> None:
        self._last_end_s = max(self._last_end_s, end_s)
        for copy, until_s in self._gone:
            self._store(copy, until_s=until_s)
        self._gone.clear()
        self._write(
            {
                "e": kind,
                "task": task.task_id,
                "site": self._index[site.site_id],
                "t0": self._h(start_s),
                "t1": self._h(end_s),
            }
        )

    def _store(self, copy: _Copy, *, until_s: float) -> None:
        charge = storage_charge(
            copy.size_bytes, self._instance.storage_usd_per_gb_h, copy.since_s, until_s
        )
        self._charge(charge, is_measured=copy.is_measured)

    def _charge(self, charge: Charge, *, is_measured: bool) -> None:
        for account in self._accounts(is_measured=is_measured):
            account.charges.add(charge)

    def _accounts(self, *, is_measured: bool) -> tuple[Account, ...]:
        return (self.whole, self.measured) if is_measured else (self.whole,)

    def _is_measured(self, at_s: float) -> bool:
        begin_s, end_s = self._instance.measured_s
        return begin_s <= at_s < end_s

    def _h(self, at_s: float) -> float:
        return (at_s - self._instance.start_s) / S_PER_H

    def _write(self, line: dict[str, object]) -> None:
        text = self._encode(line)
        self._hash.update(text)
        if self._log is not None:
            self._log.write(text.decode() + "\n")


def _lookups(account: Account, kind: ArtifactKind) -> Lookups:
    return Lookups(hit_count=account.hit_count[kind], miss_count=account.fetch_count[kind])


def figures(total: Charge, miss_count: int) -> dict[str, float]:
    """Return one account of `reported.json`, in the units of DESIGN section 10."""
    return {
        "energy_usd": total.energy_usd,
        "gpu_usd": total.gpu_usd,
        "transfer_usd": total.transfer_usd,
        "storage_usd": total.storage_usd,
        "penalty_usd": total.penalty_usd,
        "kg_run": total.compute_gco2 / 1000,
        "kg_transfer": total.network_gco2 / 1000,
        "misses": miss_count,
        "gb_moved": total.transfer_bytes / BYTES_PER_GB,
    }
