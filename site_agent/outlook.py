"""The outlook of one site: what it tells the others once an hour. Pure.

What a peer tells is judged by `refuse_nonsense`: a number that cannot be (a negative size, a load
above the pool, more entries than are allowed) refuses the whole outlook, since a plan on part of it
would be another plan than the peer's own.
"""

import math
from typing import Final

from gcos.accounting import G_PER_KG, CostScope
from gcos.artifacts import ArtifactKind
from gcos.errors import InvalidRequestError
from gcos.ids import ArtifactId, SiteId
from gcos.outlook import (
    Outlook,
    OutlookArtifact,
    OutlookCopy,
    OutlookPool,
    OutlookRoom,
    Submission,
)
from gcos.signals import HOUR_S
from policies.evictors import ELSEWHERE_WEIGHT
from policies.maccs.copy_plan import GRID_H, MEMORY_H, characteristic_share
from site_agent.demand_log import LOG_COUNT_MAX, DemandLog, thinned
from site_agent.participant import Participant

#: Hours of forecast that travel: starts within two days, and runs of as long.
RATE_H: Final = 96
#: What an outlook may hold at most; that of a larger site names what counts most.
SUBMISSION_COUNT_MAX: Final = 2_000
COPY_COUNT_MAX: Final = 2_000
ARTIFACT_COUNT_MAX: Final = 4_000
POOL_COUNT_MAX: Final = 32
RUN_COUNT_MAX: Final = 32
#: No artifact, cache, penalty or rate is larger; what says so is a mistake or a lie.
BYTES_MAX: Final = 10**18
USD_MAX: Final = 1e6
GPU_COUNT_MAX: Final = 1_000_000
#: Time constant with which evictions are forgotten, hours.
EVICTION_MEMORY_H: Final = 168.0


class EvictionPace:
    """How many bytes a cache evicts an hour, of late.

    Bytes count exp(-age / 168 h); of a steady rate r that leaves r x 168 h x (1 - exp(-t / 168 h))
    after t hours.
    """

    def __init__(self, began_s: float, total_bytes: int) -> None:
        self._began_s = began_s
        self._at_s = began_s
        self._total_bytes = total_bytes
        self._decayed_bytes = 0.0

    def note(self, total_bytes: int, *, now_s: float) -> None:
        """Take note of the bytes that were ever evicted."""
        age_h = (now_s - self._at_s) / HOUR_S
        self._decayed_bytes *= math.exp(-age_h / EVICTION_MEMORY_H)
        self._decayed_bytes += total_bytes - self._total_bytes
        self._total_bytes = total_bytes
        self._at_s = now_s

    def bytes_per_h(self) -> float:
        """Return the bytes an hour, as of the last note."""
        seen_h = max(1.0, (self._at_s - self._began_s) / HOUR_S)
        return self._decayed_bytes / (
            EVICTION_MEMORY_H * (1.0 - math.exp(-seen_h / EVICTION_MEMORY_H))
        )


class SiteOutlook:
    """Makes the outlooks of one site.

    Args:
        participant: The site's pools, caches and signals.
        log: What was submitted to it.
        carbon_price_usd_per_kg: Lambda.
        scope: Whether GPU hours are cost.
        began_s: World instant of the begin.
    """

    def __init__(
        self,
        participant: Participant,
        log: DemandLog,
        *,
        carbon_price_usd_per_kg: float,
        scope: CostScope,
        began_s: float,
    ) -> None:
        self.log = log
        self._participant = participant
        self._lambda = carbon_price_usd_per_kg
        self._scope = scope
        self._paces = {
            kind: EvictionPace(began_s, participant.cache.evicted_bytes(kind))
            for kind in ArtifactKind
        }

    @property
    def site_id(self) -> SiteId:
        """Whose outlooks these are."""
        return self._participant.site.site_id

    def at(self, at_s: float, *, now_s: float, submission_count_max: int) -> Outlook:
        """Return the outlook for a beat.

        Args:
            at_s: World instant of the beat.
            now_s: World instant; a moment before or after it.
            submission_count_max: Submissions that it may hold.
        """
        participant = self._participant
        carbon = participant.signals.carbon
        recent = self.log.recent(at_s)
        told = thinned(recent, submission_count_max)
        copies, held = self._copies()
        named = {each for task in told for each in (task.model_id, task.data_id)}
        needed = [each for each in self.log.artifacts() if each.artifact_id in named]
        artifacts = {each.artifact_id: each for each in (*needed, *held)}
        return Outlook(
            site_id=participant.site.site_id,
            zone=participant.site.zone,
            address=participant.site.address,
            at_s=at_s,
            carbon_gco2_per_kwh=0.0 if carbon is None else carbon.series.at(at_s),
            rate_usd_per_kwh=self._rates(at_s),
            remembered_h=self.log.remembered_h(at_s),
            submission_count=len(recent),
            pools=() if participant.is_draining else self._pools(at_s, now_s),
            rooms=tuple(self._room(kind, at_s) for kind in ArtifactKind),
            copies=copies,
            artifacts=tuple(artifacts[key] for key in sorted(artifacts)),
            submissions=told,
        )

    def _rates(self, at_s: float) -> tuple[float, ...]:
        signals = self._participant.signals
        price = signals.price.series
        carbon = None if signals.carbon is None else signals.carbon.series
        rates = []
        for hour in range(RATE_H):
            hour_s = at_s + hour * HOUR_S
            grams = 0.0 if carbon is None else carbon.at(hour_s)
            rates.append(price.at(hour_s) + self._lambda / G_PER_KG * grams)
        return tuple(rates)

    def _pools(self, at_s: float, now_s: float) -> tuple[OutlookPool, ...]:
        site = self._participant.site
        pools = []
        for pool in site.pools:
            times, free = self._participant.schedules[pool.type].profile(now_s)
            planned = []
            step = 0
            for hour in range(GRID_H):
                middle_s = at_s + HOUR_S * (hour + 0.5)
                while step + 1 < len(times) and times[step + 1] <= middle_s:
                    step += 1
                planned.append(float(pool.gpu_count - free[step]))
            is_cost = self._scope is CostScope.WITH_GPU_HOURS
            pools.append(
                OutlookPool(
                    type=pool.type,
                    gpu_count=pool.gpu_count,
                    active_kw=pool.active_kw * site.pue,
                    usd_per_gpu_h=pool.usd_per_gpu_h if is_cost else 0.0,
                    planned_count=tuple(planned),
                )
            )
        return tuple(pools)

    def _room(self, kind: ArtifactKind, at_s: float) -> OutlookRoom:
        cache = self._participant.cache
        usage = cache.usage(kind)
        pace = self._paces[kind]
        pace.note(cache.evicted_bytes(kind), now_s=at_s)
        return OutlookRoom(
            kind=kind,
            capacity_bytes=usage.capacity_bytes,
            free_bytes=usage.capacity_bytes - usage.occupied_bytes - usage.reserved_bytes,
            stay_ratio=characteristic_share(float(usage.capacity_bytes), pace.bytes_per_h()),
        )

    def _copies(self) -> tuple[tuple[OutlookCopy, ...], list[OutlookArtifact]]:
        """Return what is held, sorted by id, and what that is; a draining site's caches go."""
        cache = self._participant.cache
        copies = [
            (resident, OutlookCopy(resident.artifact_id, True, False, 0.0))
            for resident in cache.residents()
            if not cache.is_damaged(resident.artifact_id)
        ]
        for standing in () if self._participant.is_draining else cache.standings():
            known = standing.artifact.artifact_id
            uses = cache.demand.here(known) + ELSEWHERE_WEIGHT * cache.demand.elsewhere(known)
            is_whole = standing.is_complete and not cache.is_damaged(known)
            copy = OutlookCopy(known, is_whole, standing.is_evictable, uses)
            copies.append((standing.artifact, copy))
        if len(copies) > COPY_COUNT_MAX:
            copies.sort(key=lambda each: (-each[1].use_count, each[1].artifact_id))
        told = sorted(copies[:COPY_COUNT_MAX], key=lambda each: each[1].artifact_id)
        held = [
            OutlookArtifact(artifact.artifact_id, artifact.kind, artifact.name, artifact.size_bytes)
            for artifact, _ in told
        ]
        return tuple(copy for _, copy in told), held


def refuse_nonsense(outlook: Outlook) -> None:
    """Let an outlook pass that can be; `gcos.rpc.wire` has refused what is not finite.

    Raises:
        InvalidRequestError: Something in it cannot be; `field` says what.
    """
    _refuse_long("pools", len(outlook.pools), POOL_COUNT_MAX)
    _refuse_long("copies", len(outlook.copies), COPY_COUNT_MAX)
    _refuse_long("artifacts", len(outlook.artifacts), ARTIFACT_COUNT_MAX)
    _refuse_long("submissions", len(outlook.submissions), SUBMISSION_COUNT_MAX)
    if len(outlook.rate_usd_per_kwh) != RATE_H:
        raise InvalidRequestError(f"takes {RATE_H} hours", field="rate_usd_per_kwh")
    for rate in outlook.rate_usd_per_kwh:  # prices are below zero at times
        _refuse_outside("rate_usd_per_kwh", rate, -USD_MAX, USD_MAX)
    _refuse_outside("at_s", outlook.at_s, 0.0, 1e12)
    _refuse_outside("carbon_gco2_per_kwh", outlook.carbon_gco2_per_kwh, 0.0, USD_MAX)
    _refuse_outside("remembered_h", outlook.remembered_h, 0.0, MEMORY_H)
    _refuse_outside(
        "submission_count", outlook.submission_count, len(outlook.submissions), LOG_COUNT_MAX
    )
    for pool in outlook.pools:
        _refuse_pool(pool)
    for room in outlook.rooms:
        _refuse_outside("rooms.capacity_bytes", room.capacity_bytes, 0, BYTES_MAX)
        _refuse_outside("rooms.free_bytes", room.free_bytes, 0, room.capacity_bytes)
        _refuse_outside("rooms.stay_ratio", room.stay_ratio, 0.0, 1.0)
    if {room.kind for room in outlook.rooms} != set(ArtifactKind) or len(outlook.rooms) != len(
        ArtifactKind
    ):
        raise InvalidRequestError("takes one of each kind", field="rooms")
    for artifact in outlook.artifacts:
        _refuse_outside("artifacts.size_bytes", artifact.size_bytes, 1, BYTES_MAX)
    known = {artifact.artifact_id for artifact in outlook.artifacts}
    for copy in outlook.copies:
        _refuse_outside("copies.use_count", copy.use_count, 0.0, USD_MAX)
        if copy.artifact_id not in known:
            raise InvalidRequestError("names what is not in artifacts", field="copies")
    for task in outlook.submissions:
        _refuse_submission(task, outlook, known)


def _refuse_pool(pool: OutlookPool) -> None:
    _refuse_outside("pools.gpu_count", pool.gpu_count, 1, GPU_COUNT_MAX)
    _refuse_outside("pools.active_kw", pool.active_kw, 0.0, USD_MAX)
    _refuse_outside("pools.usd_per_gpu_h", pool.usd_per_gpu_h, 0.0, USD_MAX)
    if len(pool.planned_count) != GRID_H:
        raise InvalidRequestError(f"takes {GRID_H} hours", field="pools.planned_count")
    for count in pool.planned_count:
        _refuse_outside("pools.planned_count", count, 0.0, pool.gpu_count)


def _refuse_submission(task: Submission, outlook: Outlook, known: set[ArtifactId]) -> None:
    _refuse_long("submissions.runs", len(task.runs), RUN_COUNT_MAX)
    since_s = outlook.at_s - MEMORY_H * HOUR_S
    _refuse_outside("submissions.arrival_s", task.arrival_s, since_s, outlook.at_s)
    _refuse_outside("submissions.gpu_count", task.gpu_count, 1, GPU_COUNT_MAX)
    _refuse_outside("submissions.fixed_penalty_usd", task.fixed_penalty_usd, 0.0, USD_MAX)
    for run in task.runs:
        _refuse_outside("submissions.runs.run_h", run.run_h, 0.0, USD_MAX)
        _refuse_outside("submissions.runs.late_usd", run.late_usd, 0.0, USD_MAX)
    if not {task.model_id, task.data_id} - {None} <= known:
        raise InvalidRequestError("names what is not in artifacts", field="submissions")


def _refuse_long(field: str, count: int, count_max: int) -> None:
    if count > count_max:
        raise InvalidRequestError(f"takes at most {count_max}, not {count}", field=field)


def _refuse_outside(field: str, value: float, least: float, most: float) -> None:
    # Written so that what is no number is outside.
    if not least <= value <= most:
        raise InvalidRequestError(f"must be {least:g} to {most:g}, not {value:g}", field=field)
