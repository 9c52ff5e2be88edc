"""Who is there: sites with leases, and what was promised in their name. Pure soft state.

A site registers again with each beat. One that misses `MISSED_BEAT_COUNT_MAX` beats lapses; until
then its name belongs to its incarnation, and another one is refused (DESIGN section 4, 11).

A nomination is a promise not yet reported: until the winner's next digest, the broker would send
every task to the same idle site. So each nominee is charged a share of the task, halved from rank
to rank and summing to one task, until the site reports an award more, or `PROMISE_S` has passed.

Times are protocol seconds, except GPU seconds of work, which are world time as in `PoolDigest`.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from gcos.artifacts import checked_name
from gcos.errors import ExhaustedError, InvalidRequestError, WrongStateError
from gcos.ids import SiteId, is_artifact_id, is_site_id
from gcos.sites import PoolDigest, Site, SiteDigest

BEAT_S: Final = 2.0
MISSED_BEAT_COUNT_MAX: Final = 3
LEASE_S: Final = BEAT_S * MISSED_BEAT_COUNT_MAX
PROMISE_S: Final = 2 * BEAT_S
"""An award reaches the broker with the second beat at the latest."""

SITE_COUNT_MAX: Final = 10_000
POOL_COUNT_MAX: Final = 64
HOLDING_COUNT_MAX: Final = 50_000
DEMAND_COUNT_MAX: Final = 64
PROMISE_COUNT_MAX: Final = 10_000
TEXT_CHARS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class SiteJoined:
    """A site registered that was not there."""

    site_id: SiteId
    address: str


@dataclass(frozen=True, slots=True)
class SiteLapsed:
    """A site was not heard for a whole lease."""

    site_id: SiteId


@dataclass(frozen=True, slots=True)
class Promise:
    """A share of a task that a site may have won.

    Attributes:
        pool_type: Pool that it would run in.
        gpu_count: Share of its GPUs; a fraction.
        gpu_s: Share of its GPU seconds, world time.
        expires_s: Protocol instant at which it is forgotten.
    """

    pool_type: str
    gpu_count: float
    gpu_s: float
    expires_s: float


@dataclass(slots=True)
class PoolPromises:
    """Sum of the promises of one pool."""

    count: int = 0
    gpu_count: float = 0.0
    gpu_s: float = 0.0

    def add(self, promise: Promise) -> None:
        """Count a promise."""
        self.count += 1
        self.gpu_count += promise.gpu_count
        self.gpu_s += promise.gpu_s

    def remove(self, promise: Promise) -> None:
        """Forget a promise; an empty pool is exactly zero, so that rounding does not add up."""
        self.count -= 1
        self.gpu_count = self.gpu_count - promise.gpu_count if self.count else 0.0
        self.gpu_s = self.gpu_s - promise.gpu_s if self.count else 0.0


@dataclass(slots=True)
class RegisteredSite:
    """A site with a lease.

    Attributes:
        site: What it is.
        digest: How busy it was when last heard.
        heard_s: Protocol instant of its last beat.
        loads: Its digest by pool type.
        promises: Oldest first; `promised` sums them by pool type.
        promised: Sums of `promises`.
    """

    site: Site
    digest: SiteDigest
    heard_s: float
    loads: dict[str, PoolDigest] = field(default_factory=dict)
    promises: deque[Promise] = field(default_factory=deque)
    promised: dict[str, PoolPromises] = field(default_factory=dict)

    def hear(self, site: Site, digest: SiteDigest, now_s: float) -> None:
        """Take a beat: as many of the oldest promises are kept as the site has more awards."""
        more = digest.awarded_count - self.digest.awarded_count
        # A count that falls tells of a restart, after which no promise means anything.
        self._forget(len(self.promises) if more < 0 else min(more, len(self.promises)))
        self.site = site
        self.digest = digest
        self.heard_s = now_s
        self.loads = {load.type: load for load in digest.pools}

    def promise(self, promise: Promise) -> None:
        """Count a promise; the oldest gives way where there are too many."""
        self._forget(max(0, len(self.promises) + 1 - PROMISE_COUNT_MAX))
        self.promises.append(promise)
        self.promised.setdefault(promise.pool_type, PoolPromises()).add(promise)

    def forget_expired(self, now_s: float) -> int:
        """Forget promises whose time has passed and return how many."""
        count = 0
        while self.promises and self.promises[0].expires_s <= now_s:
            self._forget(1)
            count += 1
        return count

    def free_count(self, pool_type: str, gpu_count: int) -> float:
        """Return the GPUs of a pool that are free and not promised; may be negative.

        A pool that the digest does not speak of counts as idle, with its `gpu_count`.
        """
        load = self.loads.get(pool_type)
        free = gpu_count if load is None else load.free_count
        promised = self.promised.get(pool_type)
        return free if promised is None else free - promised.gpu_count

    def committed_gpu_s(self, pool_type: str) -> float:
        """Return the GPU seconds of work ahead in a pool, promises included."""
        load = self.loads.get(pool_type)
        committed = 0.0 if load is None else load.committed_gpu_s
        promised = self.promised.get(pool_type)
        return committed if promised is None else committed + promised.gpu_s

    def _forget(self, count: int) -> None:
        for _ in range(count):
            promise = self.promises.popleft()
            self.promised[promise.pool_type].remove(promise)


class Registry:
    """The sites that hold a lease. Leases lapse in `tick`, which callers call before they ask.

    Args:
        lease_s: How long a site stays without a beat, protocol seconds.
    """

    def __init__(self, lease_s: float = LEASE_S) -> None:
        self._lease_s = lease_s
        #: In the order in which they were last heard, so that lapsed ones come first.
        self._sites: dict[SiteId, RegisteredSite] = {}

    def __len__(self) -> int:
        return len(self._sites)

    def __iter__(self) -> Iterator[RegisteredSite]:
        """Iterate over the sites; in no order that means anything."""
        return iter(self._sites.values())

    def get(self, site_id: SiteId) -> RegisteredSite | None:
        """Return a site; None where it holds no lease."""
        return self._sites.get(site_id)

    def tick(self, now_s: float) -> list[SiteLapsed]:
        """Drop the sites whose lease ended before `now_s` and return them."""
        lapsed = []
        for site_id, registered in self._sites.items():
            if registered.heard_s + self._lease_s >= now_s:
                break
            lapsed.append(SiteLapsed(site_id))
        for event in lapsed:
            del self._sites[event.site_id]
        return lapsed

    def drop(self, site_id: SiteId) -> None:
        """Forget a site that has said goodbye."""
        self._sites.pop(site_id, None)

    def register(self, site: Site, digest: SiteDigest, *, now_s: float) -> list[SiteJoined]:
        """Take a site's registration or beat.

        Raises:
            InvalidRequestError: The site or its digest makes no sense.
            WrongStateError: Another incarnation of the site holds the lease.
            ExhaustedError: There are too many sites.
        """
        check_site(site)
        check_digest(site, digest)
        registered = self._sites.get(site.site_id)
        if registered is None:
            if len(self._sites) >= SITE_COUNT_MAX:
                raise ExhaustedError(f"more than {SITE_COUNT_MAX} sites")
            registered = RegisteredSite(site, digest, now_s)
            registered.hear(site, digest, now_s)
            self._sites[site.site_id] = registered
            return [SiteJoined(site.site_id, site.address)]
        if registered.site.incarnation != site.incarnation:
            raise WrongStateError(
                f"site {site.site_id} is registered by another live agent at "
                f"{registered.site.address}",
                hint="stop that agent, or give this one another site id; the name is free "
                f"{self._lease_s:g} s after the last beat",
            )
        registered.hear(site, digest, now_s)
        self._sites[site.site_id] = self._sites.pop(site.site_id)  # now the last heard
        return []

    def check_invariants(self) -> None:
        """Assert what always holds; for tests and simulation."""
        heard = [registered.heard_s for registered in self._sites.values()]
        assert heard == sorted(heard), "sites are in the order of their beats"
        assert len(self._sites) <= SITE_COUNT_MAX
        for site_id, registered in self._sites.items():
            assert registered.site.site_id == site_id
            assert len(registered.promises) <= PROMISE_COUNT_MAX
            expiries = [promise.expires_s for promise in registered.promises]
            assert expiries == sorted(expiries), "promises are oldest first"
            for pool_type, total in registered.promised.items():
                own = [p for p in registered.promises if p.pool_type == pool_type]
                assert total.count == len(own)
                assert abs(total.gpu_count - sum(p.gpu_count for p in own)) < 1e-6 * (1 + len(own))
                assert own or (total.gpu_count, total.gpu_s) == (0.0, 0.0)


def check_site(site: Site) -> None:
    """Let a site pass that makes sense.

    Raises:
        InvalidRequestError: It does not; the message names the field.
    """
    _require(is_site_id(site.site_id), "site.site_id", "use a lower-case letter, then at most 23")
    for name in ("incarnation", "address", "zone"):
        is_text = 0 < len(getattr(site, name)) <= TEXT_CHARS_MAX
        _require(is_text, f"site.{name}", f"use 1 to {TEXT_CHARS_MAX} characters")
    _require(site.pue >= 1.0, "site.pue", "facility energy is at least IT energy: 1 or more")
    _require(site.model_cache_bytes >= 0, "site.model_cache_bytes", "use 0 or more")
    _require(site.data_cache_bytes >= 0, "site.data_cache_bytes", "use 0 or more")
    types = [pool.type for pool in site.pools]
    is_distinct = len(set(types)) == len(types) <= POOL_COUNT_MAX
    _require(is_distinct, "site.pools", f"use at most {POOL_COUNT_MAX} pools of distinct types")
    for pool in site.pools:
        is_named = 0 < len(pool.type) <= TEXT_CHARS_MAX
        _require(is_named, "site.pools.type", f"use 1 to {TEXT_CHARS_MAX} characters")
        _require(pool.gpu_count >= 0, "site.pools.gpu_count", "use 0 or more")
        _require(pool.speed_ratio > 0, "site.pools.speed_ratio", "use more than 0")
        _require(pool.active_kw >= 0, "site.pools.active_kw", "use 0 or more")
        _require(pool.idle_kw >= 0, "site.pools.idle_kw", "use 0 or more")


def check_digest(site: Site, digest: SiteDigest) -> None:
    """Let a digest pass that fits its site.

    Raises:
        InvalidRequestError: It does not; the message names the field.
    """
    types = {pool.type for pool in site.pools}
    for load in digest.pools:
        _require(load.type in types, "digest.pools.type", "name a pool of the site")
        _require(load.committed_gpu_s >= 0, "digest.pools.committed_gpu_s", "use 0 or more")
    _require(digest.awarded_count >= 0, "digest.awarded_count", "use 0 or more")
    is_brief = len(digest.demand) <= DEMAND_COUNT_MAX
    _require(is_brief, "digest.demand", f"tell of at most {DEMAND_COUNT_MAX}")
    for told in digest.demand:
        is_id = is_artifact_id(told.artifact_id)
        _require(is_id, "digest.demand.artifact_id", "use sha256: and 64 hex digits")
        _require(told.use_count >= 0, "digest.demand.use_count", "use 0 or more")
    is_short = len(digest.holdings) <= HOLDING_COUNT_MAX
    _require(is_short, "digest.holdings", f"tell of at most {HOLDING_COUNT_MAX}")
    for artifact in digest.holdings:
        is_id = is_artifact_id(artifact.artifact_id)
        _require(is_id, "digest.holdings.artifact_id", "use sha256: and 64 hex digits")
        checked_name(artifact.name, field="digest.holdings.name")
        _require(artifact.size_bytes > 0, "digest.holdings.size_bytes", "use more than 0")


def rank_shares(count: int) -> Iterable[float]:
    """Return the share of a task promised at each of `count` ranks: halving, with sum 1."""
    shares = [0.5**rank for rank in range(count)]
    total = sum(shares)
    return [share / total for share in shares]


def _require(is_met: bool, name: str, hint: str) -> None:
    if not is_met:
        raise InvalidRequestError(f"{name} makes no sense", field=name, hint=hint)
