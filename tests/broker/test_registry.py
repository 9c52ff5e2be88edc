"""Leases, incarnations and promises of the registry."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker import registry as registry_module
from broker.registry import (
    LEASE_S,
    PROMISE_S,
    Promise,
    Registry,
    SiteJoined,
    SiteLapsed,
    rank_shares,
)
from gcos.artifacts import Artifact, ArtifactKind
from gcos.errors import ExhaustedError, GcosError, InvalidRequestError, WrongStateError
from gcos.ids import ArtifactId, SiteId
from gcos.sites import Pool, PoolDigest, Site, SiteDigest

POOL = Pool("H100", gpu_count=8, speed_ratio=1.0, active_kw=1.0, idle_kw=0.2, usd_per_gpu_h=0.0)


def site(name: str = "a", **changes: object) -> Site:
    plain = Site(
        SiteId(name),
        incarnation="first",
        address=f"127.0.0.1:{7000 + ord(name[0])}",
        zone="CA-ON",
        pue=1.2,
        pools=(POOL,),
        model_cache_bytes=10**12,
        data_cache_bytes=10**12,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def digest(*, free: int = 8, awarded: int = 0, **changes: object) -> SiteDigest:
    plain = SiteDigest(
        pools=(PoolDigest("H100", gpu_count=8, free_count=free, committed_gpu_s=0.0),),
        carbon_gco2_per_kwh=100.0,
        price_usd_per_kwh=0.1,
        is_draining=False,
        run_count=0,
        awarded_count=awarded,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_a_new_site_joins_and_a_beat_says_nothing() -> None:
    registry = Registry()
    assert registry.register(site(), digest(), now_s=0.0) == [
        SiteJoined(SiteId("a"), "127.0.0.1:7097")
    ]
    assert registry.register(site(), digest(), now_s=2.0) == []


def test_a_site_lapses_after_three_missed_beats_and_not_before() -> None:
    registry = Registry()
    registry.register(site("a"), digest(), now_s=0.0)
    registry.register(site("b"), digest(), now_s=1.0)
    assert registry.tick(LEASE_S) == []
    assert registry.tick(LEASE_S + 0.5) == [SiteLapsed(SiteId("a"))]
    assert registry.get(SiteId("a")) is None
    assert len(registry) == 1


def test_a_second_live_incarnation_is_refused_until_the_first_lapses() -> None:
    registry = Registry()
    registry.register(site(), digest(), now_s=0.0)
    with pytest.raises(WrongStateError, match=r"127\.0\.0\.1:7097"):
        registry.register(site(incarnation="second"), digest(), now_s=LEASE_S)
    registry.check_invariants()
    registry.tick(LEASE_S + 0.1)
    assert registry.register(site(incarnation="second"), digest(), now_s=LEASE_S + 0.1)


def test_a_refused_incarnation_does_not_lengthen_the_lease_of_the_first() -> None:
    registry = Registry()
    registry.register(site(), digest(), now_s=0.0)
    with pytest.raises(WrongStateError):
        registry.register(site(incarnation="second"), digest(), now_s=5.0)
    assert registry.tick(LEASE_S + 0.1) == [SiteLapsed(SiteId("a"))]


def test_the_same_incarnation_may_move_to_another_address() -> None:
    registry = Registry()
    registry.register(site(), digest(), now_s=0.0)
    registry.register(site(address="127.0.0.1:1"), digest(), now_s=1.0)
    registered = registry.get(SiteId("a"))
    assert registered is not None
    assert registered.site.address == "127.0.0.1:1"


def test_more_sites_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "SITE_COUNT_MAX", 1)
    registry = Registry()
    registry.register(site("a"), digest(), now_s=0.0)
    registry.register(site("a"), digest(), now_s=1.0)
    with pytest.raises(ExhaustedError):
        registry.register(site("b"), digest(), now_s=1.0)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"site_id": "A-1"}, "site.site_id"),
        ({"incarnation": ""}, "site.incarnation"),
        ({"address": "x" * 300}, "site.address"),
        ({"zone": ""}, "site.zone"),
        ({"pue": 0.9}, "site.pue"),
        ({"pools": (POOL, POOL)}, "site.pools"),
        ({"pools": (replace(POOL, type=""),)}, "site.pools.type"),
        ({"pools": (replace(POOL, gpu_count=-1),)}, "site.pools.gpu_count"),
        ({"pools": (replace(POOL, speed_ratio=0.0),)}, "site.pools.speed_ratio"),
        ({"pools": (replace(POOL, active_kw=-1.0),)}, "site.pools.active_kw"),
        ({"pools": (replace(POOL, idle_kw=-1.0),)}, "site.pools.idle_kw"),
        ({"model_cache_bytes": -1}, "site.model_cache_bytes"),
        ({"data_cache_bytes": -1}, "site.data_cache_bytes"),
    ],
)
def test_a_site_that_makes_no_sense_is_refused_with_its_field(
    changes: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Registry().register(site(**changes), digest(), now_s=0.0)
    assert caught.value.field == field


def held(name: str = "m", artifact_id: str = "sha256:" + "0" * 64, size: int = 1) -> Artifact:
    return Artifact(ArtifactId(artifact_id), ArtifactKind.MODEL, name, size)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"pools": (PoolDigest("A100", 1, 1, 0.0),)}, "digest.pools.type"),
        ({"pools": (PoolDigest("H100", 1, 1, -1.0),)}, "digest.pools.committed_gpu_s"),
        ({"awarded_count": -1}, "digest.awarded_count"),
        ({"holdings": (held(artifact_id="../x"),)}, "digest.holdings.artifact_id"),
        ({"holdings": (held(name="../x"),)}, "digest.holdings.name"),
        ({"holdings": (held(size=0),)}, "digest.holdings.size_bytes"),
    ],
)
def test_a_digest_that_makes_no_sense_is_refused_with_its_field(
    changes: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Registry().register(site(), digest(**changes), now_s=0.0)
    assert caught.value.field == field


def promised(count: int, *, now_s: float = 0.0) -> Registry:
    registry = Registry()
    registry.register(site(), digest(), now_s=now_s)
    registered = registry.get(SiteId("a"))
    assert registered is not None
    for _ in range(count):
        registered.promise(Promise("H100", 1.0, 100.0, expires_s=now_s + PROMISE_S))
    return registry


def free(registry: Registry) -> tuple[float, float]:
    registered = registry.get(SiteId("a"))
    assert registered is not None
    return registered.free_count("H100", 8), registered.committed_gpu_s("H100")


def test_promises_count_against_free_gpus_and_as_work_ahead() -> None:
    assert free(promised(3)) == (5.0, 300.0)


def test_a_promise_ends_with_an_award_reported() -> None:
    registry = promised(3)
    registry.register(site(), digest(free=6, awarded=2), now_s=1.0)
    assert free(registry) == (5.0, 100.0)


def test_more_awards_than_promises_leave_none() -> None:
    registry = promised(3)
    registry.register(site(), digest(free=4, awarded=9), now_s=1.0)
    assert free(registry) == (4.0, 0.0)


def test_a_restart_ends_every_promise() -> None:
    registry = Registry()
    registry.register(site(), digest(awarded=7), now_s=0.0)
    registered = registry.get(SiteId("a"))
    assert registered is not None
    registered.promise(Promise("H100", 1.0, 100.0, expires_s=9.0))
    registry.register(site(), digest(awarded=0), now_s=1.0)
    assert free(registry) == (8.0, 0.0)


def test_a_promise_ends_after_a_short_time() -> None:
    registry = promised(3)
    registered = registry.get(SiteId("a"))
    assert registered is not None
    assert registered.forget_expired(PROMISE_S - 0.1) == 0
    assert registered.forget_expired(PROMISE_S) == 3
    assert free(registry) == (8.0, 0.0)


def test_promises_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "PROMISE_COUNT_MAX", 2)
    registry = promised(5)
    assert free(registry) == (6.0, 200.0)
    registry.check_invariants()


def test_a_pool_without_a_digest_counts_as_idle() -> None:
    registry = Registry()
    registry.register(site(), digest(pools=()), now_s=0.0)
    assert free(registry) == (8, 0.0)


@pytest.mark.parametrize("count", [0, 1, 2, 8])
def test_shares_halve_and_sum_to_one_task(count: int) -> None:
    shares = list(rank_shares(count))
    assert sum(shares) == pytest.approx(1.0 if count else 0.0)
    assert all(a == pytest.approx(2 * b) for a, b in itertools.pairwise(shares))


class RegistryMachine(RuleBasedStateMachine):
    """Against a reference that keeps (incarnation, instant) per name and scans it."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.now_s = 0.0
        self.reference: dict[str, tuple[str, float]] = {}

    @rule(passed_s=st.floats(0.0, LEASE_S))
    def wait(self, passed_s: float) -> None:
        self.now_s += passed_s
        lapsed = {event.site_id for event in self.registry.tick(self.now_s)}
        gone = {n for n, (_, heard) in self.reference.items() if heard + LEASE_S < self.now_s}
        assert lapsed == gone
        for name in gone:
            del self.reference[name]

    @rule(
        name=st.sampled_from("abc"),
        incarnation=st.sampled_from(["x", "y"]),
        awarded=st.integers(0, 3),
    )
    def register(self, name: str, incarnation: str, awarded: int) -> None:
        owner = self.reference.get(name, (incarnation, 0.0))[0]
        try:
            self.registry.register(
                site(name, incarnation=incarnation), digest(awarded=awarded), now_s=self.now_s
            )
        except GcosError:
            assert owner != incarnation
        else:
            assert owner == incarnation
            self.reference[name] = (incarnation, self.now_s)

    @precondition(lambda self: self.reference)
    @rule(data=st.data(), gpu_count=st.floats(0.0, 8.0))
    def promise(self, data: st.DataObject, gpu_count: float) -> None:
        name = data.draw(st.sampled_from(sorted(self.reference)))
        registered = self.registry.get(SiteId(name))
        assert registered is not None
        promise = Promise("H100", gpu_count, 10.0, expires_s=self.now_s + PROMISE_S)
        registered.promise(promise)

    @invariant()
    def holds(self) -> None:
        self.registry.check_invariants()
        assert {r.site.site_id for r in self.registry} == set(self.reference)


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
