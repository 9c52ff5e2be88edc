from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.accounting import Charge, CostScope, LatePenalty
from gcos.artifacts import ArtifactKind
from gcos.contract_net import ArtifactNeed, Fetch, Holder, Terms
from gcos.ids import ArtifactId, SiteId
from gcos.signals import StepSeries
from gcos.sites import Link
from site_agent.sourcing import (
    SHARED_BYTES_MIN,
    SOURCES_AT_ONCE_MAX,
    cheapest_fetch,
    sources_together,
    total_duration_s,
)

OSLO = Holder(SiteId("oslo"), "NO", "oslo:1", 30.0)
PARIS = Holder(SiteId("paris"), "FR", "paris:1", 60.0)
WARSAW = Holder(SiteId("warsaw"), "PL", "warsaw:1", 800.0)

TERMS = Terms(
    carbon_price_usd_per_kg=0.2,
    network_kwh_per_gb=0.01,
    scope=CostScope.OPERATOR,
    late_penalty=LatePenalty(0.0, 0.0, 0.0),
)
NEED = ArtifactNeed(
    artifact_id=ArtifactId("sha256:" + "a" * 64),
    kind=ArtifactKind.MODEL,
    name="m",
    size_bytes=10_000_000_000,
    holders=(OSLO, PARIS, WARSAW),
)
EQUAL = Link(rtt_s=0.1, bytes_per_s=1e9, egress_usd_per_gb=0.02)


def fetch(
    need: ArtifactNeed = NEED,
    links: dict[str, Link] | None = None,
    *,
    terms: Terms = TERMS,
    byte_ratio: float = 1.0,
    carbon_here: float | None = 100.0,
    wait_usd_per_h: float = 0.0,
) -> tuple[Fetch, Charge] | None:
    known = links or {}
    return cheapest_fetch(
        need,
        here=SiteId("berlin"),
        zone="DE",
        links=lambda source, _: known.get(source, EQUAL),
        terms=terms,
        carbon_here=None if carbon_here is None else StepSeries.constant(carbon_here),
        byte_ratio=byte_ratio,
        now_s=0.0,
        wait_usd_per_h=wait_usd_per_h,
    )


def source_of(found: tuple[Fetch, Charge] | None) -> str:
    assert found is not None
    return found[0].source.site_id


def test_a_fetch_costs_egress_and_half_the_intensity_of_either_end() -> None:
    found = fetch(replace(NEED, holders=(PARIS,)))
    assert found is not None
    best, charge = found
    assert best.cost_usd == charge.transfer_usd == pytest.approx(0.2)
    assert best.carbon_gco2 == charge.network_gco2 == pytest.approx(10 * 0.01 * (60 + 100) / 2)
    assert best.duration_s == pytest.approx(10.1)
    assert charge.transfer_bytes == best.size_bytes == NEED.size_bytes


def test_the_cleanest_of_equally_dear_holders_is_taken() -> None:
    assert source_of(fetch()) == "oslo"


def test_money_and_carbon_are_weighed_by_the_carbon_price() -> None:
    """Warsaw is 0.1 cent cheaper and 38.5 g dirtier than Oslo: 0.77 cent at 0.2 $/kg."""
    cheaper = {"PL": replace(EQUAL, egress_usd_per_gb=0.0199)}
    assert source_of(fetch(links=cheaper)) == "oslo"
    free_carbon = replace(TERMS, carbon_price_usd_per_kg=0.0)
    assert source_of(fetch(links=cheaper, terms=free_carbon)) == "warsaw"


def test_of_equally_good_holders_the_faster_and_then_the_lower_id_is_taken() -> None:
    need = replace(NEED, holders=(replace(PARIS, carbon_gco2_per_kwh=30.0), OSLO))
    assert source_of(fetch(need)) == "oslo"
    assert source_of(fetch(need, {"FR": replace(EQUAL, bytes_per_s=2e9)})) == "paris"


def test_a_site_does_not_fetch_from_itself() -> None:
    own = replace(OSLO, site_id=SiteId("berlin"))
    assert source_of(fetch(replace(NEED, holders=(own, WARSAW)))) == "warsaw"
    assert fetch(replace(NEED, holders=(own,))) is None
    assert fetch(replace(NEED, holders=())) is None


def test_where_an_intensity_is_unknown_no_carbon_is_counted() -> None:
    unknown = replace(NEED, holders=(replace(WARSAW, carbon_gco2_per_kwh=None),))
    for found in (fetch(unknown), fetch(carbon_here=None)):
        assert found is not None
        assert found[1].network_gco2 == 0.0
        assert found[1].transfer_usd == pytest.approx(0.2)


@given(byte_ratio=st.floats(1, 1e4))
def test_scaled_bytes_take_scaled_time_and_cost_scaled_money(byte_ratio: float) -> None:
    need = replace(NEED, size_bytes=1_000_000, holders=(PARIS,))
    found = fetch(need, byte_ratio=byte_ratio)
    assert found is not None
    best, charge = found
    assert best.size_bytes == 1_000_000
    assert charge.transfer_bytes == round(1_000_000 * byte_ratio)
    assert best.duration_s == pytest.approx(0.1 + 1e-3 * byte_ratio)
    assert best.cost_usd == pytest.approx(charge.transfer_bytes * 1e-9 * 0.02)


def test_fetches_share_one_downlink() -> None:
    found = fetch()
    assert found is not None
    assert total_duration_s([found[0]] * 3) == pytest.approx(3 * found[0].duration_s)
    assert total_duration_s([]) == 0


# ---- seconds, and several holders at once ------------------------------------------------------


def together(
    need: ArtifactNeed = NEED, links: dict[str, Link] | None = None, *, wait_usd_per_h: float = 0.5
) -> list[str]:
    known = links or {}
    found = sources_together(
        need,
        here=SiteId("berlin"),
        zone="DE",
        links=lambda source, _: known.get(source, EQUAL),
        terms=TERMS,
        carbon_here=StepSeries.constant(100.0),
        byte_ratio=1.0,
        now_s=0.0,
        wait_usd_per_h=wait_usd_per_h,
    )
    return [holder.site_id for holder in found]


def test_a_slow_holder_is_taken_only_where_it_saves_more_than_the_wait_is_worth() -> None:
    """Warsaw is 10 cents cheaper and takes 1000 s instead of 10 s: 14 cents at 0.5 $/h."""
    slow = {"PL": Link(rtt_s=0.1, bytes_per_s=1e7, egress_usd_per_gb=0.01)}
    need = replace(NEED, holders=(OSLO, WARSAW))
    assert source_of(fetch(need, slow)) == "warsaw"
    assert source_of(fetch(need, slow, wait_usd_per_h=0.5)) == "oslo"
    assert source_of(fetch(need, slow, wait_usd_per_h=0.1)) == "warsaw"


def test_holders_that_cost_alike_deliver_together_the_best_first() -> None:
    need = replace(NEED, holders=(PARIS, OSLO))
    assert together(need) == ["oslo", "paris"]


def test_where_waiting_is_worth_nothing_the_cheapest_delivers_alone() -> None:
    assert together(wait_usd_per_h=0.0) == ["oslo"]


def test_a_dear_holder_joins_only_where_the_wait_it_saves_is_worth_more() -> None:
    """Both together take 5 s less, and half of the bytes cost 0.1 cent a GB more."""
    dear = {"FR": replace(EQUAL, egress_usd_per_gb=0.021)}
    need = replace(NEED, holders=(OSLO, PARIS))
    assert together(need, dear, wait_usd_per_h=0.5) == ["oslo"]
    assert together(need, dear, wait_usd_per_h=10.0) == ["oslo", "paris"]


def test_no_more_than_a_few_holders_are_asked_at_once_and_for_little_only_one() -> None:
    many = tuple(replace(OSLO, site_id=SiteId(f"oslo{number}")) for number in range(9))
    assert len(together(replace(NEED, holders=many))) == SOURCES_AT_ONCE_MAX
    assert together(replace(NEED, holders=many, size_bytes=SHARED_BYTES_MIN - 1)) == ["oslo0"]


def test_nobody_is_asked_where_nobody_has_it() -> None:
    assert together(replace(NEED, holders=())) == []
    assert together(replace(NEED, holders=(replace(OSLO, site_id=SiteId("berlin")),))) == []


@given(
    rates=st.lists(st.floats(1e6, 1e10), min_size=1, max_size=6),
    egress=st.lists(st.floats(0, 0.2), min_size=6, max_size=6),
    wait_usd_per_h=st.floats(0, 100),
)
def test_asking_several_never_scores_worse_than_the_best_alone(
    rates: list[float], egress: list[float], wait_usd_per_h: float
) -> None:
    """The reference: every holder's share by its rate, the duration by the sum of rates."""
    links = {
        f"Z{i}": Link(rtt_s=0.05, bytes_per_s=rate, egress_usd_per_gb=egress[i])
        for i, rate in enumerate(rates)
    }
    holders = tuple(
        Holder(SiteId(f"site{i}"), f"Z{i}", f"site{i}:1", 50.0) for i in range(len(rates))
    )
    chosen = [
        int(name[4:])
        for name in together(replace(NEED, holders=holders), links, wait_usd_per_h=wait_usd_per_h)
    ]

    def score(members: list[int]) -> float:
        rate = sum(rates[i] for i in members)
        usd = sum(10 * egress[i] * rates[i] / rate for i in members)
        carbon_usd = 0.2 * 10 * 0.01 * (50 + 100) / 2 / 1000
        return usd + carbon_usd + wait_usd_per_h * (0.05 + 1e10 / rate) / 3600

    assert len(set(chosen)) == len(chosen) <= SOURCES_AT_ONCE_MAX
    best_alone = min(score([i]) for i in range(len(rates)))
    assert score(chosen) <= best_alone * (1 + 1e-9)
