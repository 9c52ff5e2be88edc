"""The broker's decisions: whom to ask for bids on a task, and what a reference means. Pure.

Sites are ruled out by placement, draining, GPU type and count, each with a closed reason; the rest
are ranked by the approximate J of `broker.pool_table`.
"""

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from broker.directory import Directory, Entry
from broker.pool_table import Candidate, PoolTable
from broker.registry import (
    BEAT_S,
    LEASE_S,
    PROMISE_S,
    Promise,
    RegisteredSite,
    Registry,
    SiteJoined,
    SiteLapsed,
    rank_shares,
)
from gcos.artifacts import parse_reference
from gcos.contract_net import ArtifactNeed, Holder, Refusal
from gcos.errors import InvalidRequestError
from gcos.ids import SiteId, is_artifact_id
from gcos.known_sites import KnownSite, Nomination, NominationQuery, Nominee, Resolution
from gcos.sites import Site, SiteDigest
from gcos.tasks import ANY_GPU, Placement, Reason

NOMINEE_COUNT: Final = 8
"""Sites asked where the query states no limit (DESIGN section 4)."""

NOMINEE_COUNT_MAX: Final = 64
REFUSAL_COUNT_MAX: Final = 100
HOLDER_COUNT_MAX: Final = 64
ARTIFACT_COUNT_MAX: Final = 64
REFERENCE_COUNT_MAX: Final = 256
SITES_HOLDING_COUNT_MAX: Final = 20_000
"""Holdings in one answer; about 150 bytes each, and a message holds 4 MiB."""

Event: TypeAlias = SiteJoined | SiteLapsed


class Matchmaker:
    """Registry and directory behind the broker's four calls.

    Args:
        lease_s: How long a site stays without a beat, protocol seconds.
    """

    def __init__(self, lease_s: float = LEASE_S) -> None:
        self._lease_s = lease_s
        self._registry = Registry(lease_s)
        self._directory = Directory()
        #: None after a site came, changed or went, until the next nomination.
        self._table: PoolTable | None = None
        #: Sites with a promise and when it ends, soonest first, as each lasts as long.
        self._promised: deque[tuple[float, SiteId]] = deque()
        self._events: list[Event] = []
        #: Instant of the first call; None before.
        self._began_s: float | None = None

    def take_events(self) -> list[Event]:
        """Return what happened since the last call, for the log."""
        events, self._events = self._events, []
        return events

    def tick(self, now_s: float) -> None:
        """Drop the sites whose lease has ended. Every other method does so first."""
        if self._began_s is None:
            self._began_s = now_s
        for lapsed in self._registry.tick(now_s):
            self._directory.drop(lapsed.site_id)
            self._table = None
            self._events.append(lapsed)

    def register(self, site: Site, digest: SiteDigest, *, now_s: float) -> float:
        """Take a site's registration or beat and return the protocol seconds until the next.

        Raises:
            InvalidRequestError: The site or its digest makes no sense.
            WrongStateError: Another live incarnation of the site is registered.
            ExhaustedError: There are too many sites.
        """
        self.tick(now_s)
        before = self._registry.get(site.site_id)
        is_same = before is not None and before.site == site
        self._events.extend(self._registry.register(site, digest, now_s=now_s))
        self._directory.update(site.site_id, digest.holdings)
        if not is_same:
            self._table = None
        elif self._table is not None:
            self._table.refresh(self._registered(site.site_id))
        return BEAT_S

    def drop(self, site_id: SiteId) -> None:
        """Forget a site that has said goodbye."""
        if self._registry.get(site_id) is not None:
            self._registry.drop(site_id)
            self._directory.drop(site_id)
            self._table = None

    def sites(self, *, now_s: float) -> tuple[KnownSite, ...]:
        """Return the registered sites, sorted by id.

        Their holdings are left out where they would not fit one message.
        """
        self.tick(now_s)
        registered = sorted(self._registry, key=lambda each: each.site.site_id)
        has_room = sum(len(r.digest.holdings) for r in registered) <= SITES_HOLDING_COUNT_MAX
        return tuple(
            KnownSite(
                r.site,
                digest=r.digest if has_room else replace(r.digest, holdings=()),
                age_s=max(0.0, now_s - r.heard_s),
            )
            for r in registered
        )

    def nominate(self, query: NominationQuery, *, now_s: float) -> Nomination:
        """Return the sites worth asking, best first, and promise each its share of the task.

        Raises:
            InvalidRequestError: The query makes no sense.
        """
        self.tick(now_s)
        check_query(query)
        entries = [
            entry
            for artifact_id in dict.fromkeys(query.artifact_ids)
            if (entry := self._directory.get(artifact_id)) is not None
        ]
        table = self._fresh_table(now_s)
        best, refused = table.best(query, entries, query.limit_count or NOMINEE_COUNT)
        self._promise(query, best, now_s)
        return Nomination(
            nominees=tuple(self._nominee(candidate.site_id) for candidate in best),
            refusals=tuple(
                _refusal(self._registered(site_id), query)
                for site_id in refused[:REFUSAL_COUNT_MAX]
            ),
            needs=tuple(self._need(entry) for entry in entries),
            is_settled=self.is_settled(now_s=now_s),
        )

    def is_settled(self, *, now_s: float) -> bool:
        """Tell whether whoever is alive has had the time to register since the first call."""
        return self._began_s is not None and now_s - self._began_s >= self._lease_s

    def resolve(self, references: Sequence[str], *, now_s: float) -> tuple[Resolution, ...]:
        """Return what each reference means, in order.

        Raises:
            InvalidRequestError: One is no reference, or there are too many.
        """
        self.tick(now_s)
        if len(references) > REFERENCE_COUNT_MAX:
            raise InvalidRequestError(
                f"{len(references)} references",
                field="references",
                hint=f"ask for at most {REFERENCE_COUNT_MAX} at once",
            )
        return tuple(self._resolution(text, index) for index, text in enumerate(references))

    def _resolution(self, text: str, index: int) -> Resolution:
        reference = parse_reference(text, field=f"references[{index}]")
        finding = self._directory.find(reference)
        return Resolution(
            text,
            need=None if finding.entry is None else self._need(finding.entry, reference.name),
            ambiguous_ids=finding.ambiguous_ids,
            nearest=finding.nearest,
        )

    def _fresh_table(self, now_s: float) -> PoolTable:
        """Return the table with expired promises forgotten."""
        if self._table is None:
            self._table = PoolTable(self._registry)
        while self._promised and self._promised[0][0] <= now_s:
            registered = self._registry.get(self._promised.popleft()[1])
            if registered is not None and registered.forget_expired(now_s):
                self._table.refresh(registered)
        return self._table

    def _promise(self, query: NominationQuery, best: Sequence[Candidate], now_s: float) -> None:
        assert self._table is not None, "promises follow a nomination"
        for candidate, share in zip(best, rank_shares(len(best)), strict=True):
            gpu_count = share * query.gpu.gpu_count
            promise = Promise(
                candidate.pool_type,
                gpu_count=gpu_count,
                gpu_s=gpu_count * query.run_s / candidate.speed_ratio,
                expires_s=now_s + PROMISE_S,
            )
            registered = self._registered(candidate.site_id)
            registered.promise(promise)
            self._table.refresh(registered)
            self._promised.append((promise.expires_s, candidate.site_id))

    def _nominee(self, site_id: SiteId) -> Nominee:
        site = self._registered(site_id).site
        return Nominee(site_id, address=site.address, zone=site.zone)

    def _need(self, entry: Entry, name: str | None = None) -> ArtifactNeed:
        """Return a content with its holders: the greenest where there are too many."""
        holders = [self._holder(site_id) for site_id in entry.names]
        greenest = heapq.nsmallest(HOLDER_COUNT_MAX, holders, key=_greenness)
        has_name = name in entry.names.values()
        return ArtifactNeed(
            entry.artifact_id,
            kind=entry.kind,
            name=name if has_name and name is not None else entry.name,
            size_bytes=entry.size_bytes,
            holders=tuple(sorted(greenest, key=lambda holder: holder.site_id)),
        )

    def _holder(self, site_id: SiteId) -> Holder:
        registered = self._registered(site_id)
        return Holder(
            site_id,
            zone=registered.site.zone,
            address=registered.site.address,
            carbon_gco2_per_kwh=registered.digest.carbon_gco2_per_kwh,
        )

    def _registered(self, site_id: SiteId) -> RegisteredSite:
        registered = self._registry.get(site_id)
        assert registered is not None, "only registered sites are nominees or holders"
        return registered

    def check_invariants(self) -> None:
        """Assert what always holds; for tests and simulation."""
        self._registry.check_invariants()
        self._directory.check_invariants()
        for site_id in self._directory.site_ids():
            assert self._registry.get(site_id) is not None, "a lapsed site holds nothing"
        expiries = [expires_s for expires_s, _ in self._promised]
        assert expiries == sorted(expiries), "promises end in the order in which they were made"
        if self._table is not None:
            assert set(self._table.site_ids) == {each.site.site_id for each in self._registry}


def check_query(query: NominationQuery) -> None:
    """Let a query pass that makes sense.

    Raises:
        InvalidRequestError: It does not; the message names the field.
    """
    limits: Mapping[str, bool] = {
        "gpu.gpu_count": query.gpu.gpu_count >= 1,
        "gpu.type": bool(query.gpu.type),
        "run_s": query.run_s >= 0,
        "carbon_price_usd_per_kg": query.carbon_price_usd_per_kg >= 0,
        "limit_count": 0 <= query.limit_count <= NOMINEE_COUNT_MAX,
        "artifact_ids": len(query.artifact_ids) <= ARTIFACT_COUNT_MAX
        and all(map(is_artifact_id, query.artifact_ids)),
    }
    for name, is_met in limits.items():
        if not is_met:
            raise InvalidRequestError(f"{name} makes no sense", field=name)


def _refusal(registered: RegisteredSite, query: NominationQuery) -> Refusal:
    """Return why a site that may not run the task is ruled out."""
    site = registered.site
    wanted = query.gpu
    if not Placement(allow=query.allow, deny=query.deny).admits(site.site_id, site.zone):
        message = f"the task's placement excludes {site.site_id} in {site.zone}"
        return Refusal(site.site_id, Reason.PLACEMENT_EXCLUDES, message)
    if registered.digest.is_draining:
        return Refusal(site.site_id, Reason.SITE_DRAINING, f"{site.site_id} takes no new work")
    sizes = [pool.gpu_count for pool in site.pools if wanted.type in {ANY_GPU, pool.type}]
    if not sizes:
        sort = "" if wanted.type == ANY_GPU else f"{wanted.type} "
        message = f"{site.site_id} has no {sort}GPU"
        return Refusal(site.site_id, Reason.GPU_TYPE_UNKNOWN, message)
    assert max(sizes) < wanted.gpu_count, "only sites that cannot run the task are ruled out"
    message = f"{site.site_id} has {max(sizes)} GPUs in a pool, the task needs {wanted.gpu_count}"
    return Refusal(site.site_id, Reason.GPU_COUNT_TOO_HIGH, message)


def _greenness(holder: Holder) -> tuple[bool, float, SiteId]:
    carbon = holder.carbon_gco2_per_kwh
    return carbon is None, carbon or 0.0, holder.site_id
