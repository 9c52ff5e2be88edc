"""The columns rank as a plain loop over sites and pools would."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.directory import Entry
from broker.pool_table import DELAY_USD_PER_GPU_H, EGRESS_USD_PER_GB, PoolTable
from broker.registry import Promise, RegisteredSite
from gcos.artifacts import ArtifactKind
from gcos.ids import ArtifactId, SiteId
from gcos.known_sites import NominationQuery
from gcos.sites import Pool, PoolDigest, Site, SiteDigest
from gcos.tasks import ANY_GPU, GpuRequest, Placement

NAMES = st.sampled_from(["a", "b", "c", "d", "e", "f"])
ZONES = st.sampled_from(["north", "south"])
TYPES = ["A100", "H100"]
# Few distinct values, so that ties and exact fits occur.
RATIOS = st.sampled_from([0.5, 1.0, 2.0])


@st.composite
def registered_sites(draw: st.DrawFn) -> list[RegisteredSite]:
    sites = []
    for name in draw(st.lists(NAMES, unique=True)):
        types = draw(st.lists(st.sampled_from(TYPES), unique=True))
        pools = tuple(
            Pool(each, draw(st.integers(0, 4)), draw(RATIOS), draw(RATIOS), 0.0, 0.0)
            for each in types
        )
        loads = tuple(
            PoolDigest(p.type, p.gpu_count, draw(st.integers(0, p.gpu_count)), draw(RATIOS) * 7e3)
            for p in pools
            if draw(st.booleans())
        )
        carbon = draw(st.none() | st.sampled_from([0.0, 250.0, 500.0]))
        digest = SiteDigest(loads, carbon, draw(RATIOS) / 10, draw(st.booleans()), 0, 0)
        pue = 1.0 + draw(RATIOS)
        site = Site(SiteId(name), "i", f"{name}:1", draw(ZONES), pue, pools, 0, 0)
        registered = RegisteredSite(site, digest, 0.0)
        registered.hear(site, digest, 0.0)
        for pool in pools:
            if draw(st.booleans()):
                registered.promise(Promise(pool.type, draw(RATIOS), 3600.0, 9.0))
        sites.append(registered)
    return sites


def names() -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(NAMES | ZONES, max_size=2).map(tuple)


QUERIES = st.builds(
    NominationQuery,
    st.builds(GpuRequest, st.sampled_from([*TYPES, ANY_GPU, "TPU"]), st.integers(1, 5)),
    st.just(()),
    st.sampled_from([0.0, 1800.0, 7200.0]),
    st.sampled_from([0.0, 0.2]),
    allow=names(),
    deny=names(),
)
ENTRIES = st.lists(
    st.builds(
        lambda digit, gigabytes, holders: Entry(
            ArtifactId("sha256:" + digit * 64),
            ArtifactKind.DATA,
            gigabytes * 10**9,
            dict.fromkeys(map(SiteId, holders), "x"),
        ),
        st.sampled_from("01"),
        st.integers(1, 3),
        st.sets(NAMES, min_size=1),
    ),
    max_size=2,
)


def plain_joint_usd(
    registered: RegisteredSite, pool: Pool, query: NominationQuery, entries: list[Entry]
) -> float:
    site, digest, count = registered.site, registered.digest, query.gpu.gpu_count
    carbon_kg = (digest.carbon_gco2_per_kwh or 0.0) / 1000
    usd_per_kwh = digest.price_usd_per_kwh + query.carbon_price_usd_per_kg * carbon_kg
    joint = query.run_s / 3600 / pool.speed_ratio * count * pool.active_kw * site.pue * usd_per_kwh
    if registered.free_count(pool.type, pool.gpu_count) < count:
        wait_h = registered.committed_gpu_s(pool.type) / pool.gpu_count / 3600
        joint += wait_h * count * DELAY_USD_PER_GPU_H
    missing = sum(entry.size_bytes for entry in entries if site.site_id not in entry.names)
    return joint + missing / 1e9 * EGRESS_USD_PER_GB


def may_run(registered: RegisteredSite, pool: Pool, query: NominationQuery) -> bool:
    site = registered.site
    return (
        Placement(allow=query.allow, deny=query.deny).admits(site.site_id, site.zone)
        and not registered.digest.is_draining
        and query.gpu.type in {ANY_GPU, pool.type}
        and pool.gpu_count >= query.gpu.gpu_count
    )


@settings(max_examples=300, deadline=None)
@given(registered_sites(), QUERIES, ENTRIES, st.integers(1, 4))
def test_columns_agree_with_a_plain_loop(
    sites: list[RegisteredSite], query: NominationQuery, entries: list[Entry], limit_count: int
) -> None:
    expected = {
        each.site.site_id: min(costs)
        for each in sites
        if (
            costs := [
                plain_joint_usd(each, pool, query, entries)
                for pool in each.site.pools
                if may_run(each, pool, query)
            ]
        )
    }
    found, refused = PoolTable(sites).best(query, entries, limit_count)
    assert refused == sorted(
        each.site.site_id for each in sites if each.site.site_id not in expected
    )
    cheapest = sorted(expected.values())[:limit_count]
    assert [candidate.joint_usd for candidate in found] == pytest.approx(cheapest)
    for candidate in found:
        assert candidate.joint_usd == pytest.approx(expected[candidate.site_id])
    ranks = [(candidate.joint_usd, candidate.site_id) for candidate in found]
    assert ranks == sorted(ranks)
