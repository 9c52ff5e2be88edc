"""Features are told in the task's own measure, and none leaves its range."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from gcos.accounting import Charge, CostScope, LatePenalty
from gcos.artifacts import ArtifactKind
from gcos.contract_net import Announcement, ArtifactNeed, Bid, ClusterSignals
from gcos.ids import Fence, SiteId, TaskId
from gcos.signals import HOUR_S, StepSeries
from gcos.tasks import GpuRequest, Work
from policies.features import (
    CLAMP,
    FEATURES,
    UNITS,
    Outlook,
    SiteState,
    cluster_of,
    features_of,
    outlook,
    reference_usd,
)
from testbed.samples import CHARGE, FETCH, NOW_S, PREDICTION, TERMS, bid_of

BID = bid_of(SiteId("de"))
TASK = Announcement(
    task_id=TaskId("de-1"),
    fence=Fence(1, 1),
    origin=SiteId("de"),
    gpu=GpuRequest("any", 2),
    work=Work(),
    needs=(
        ArtifactNeed(FETCH.artifact_id, ArtifactKind.MODEL, "m", FETCH.size_bytes),
        ArtifactNeed(FETCH.artifact_id, ArtifactKind.DATA, "d", FETCH.size_bytes),
    ),
    predictions=(PREDICTION,),
    terms=TERMS,
    deadline_s=NOW_S + 2 * HOUR_S,
)
STATE = SiteState(
    gpu_count=16,
    pool_gpu_count=8,
    planned_gpu_s=16 * 12 * HOUR_S,
    backlog_gpu_s=16 * 6 * HOUR_S,
    queue_count=4,
    demand_here=2.0,
    demand_elsewhere=7.0,
    price=Outlook(0.06, 0.05),
    carbon=Outlook(300.0, 400.0),
)
CLUSTER = ClusterSignals(price_usd_per_kwh=0.1, carbon_gco2_per_kwh=200.0)


def seen(
    *bids: Bid,
    task: Announcement = TASK,
    state: SiteState = STATE,
    cluster: ClusterSignals = CLUSTER,
) -> NDArray[np.float32]:
    reference = reference_usd(task, cluster)
    rows = features_of(
        bids, bids[0].fetches, task, state, cluster, now_s=NOW_S, reference=reference
    )
    assert (rows.shape, rows.dtype) == ((len(bids), 24), np.float32)
    return rows


def named(bid: Bid = BID, task: Announcement = TASK, state: SiteState = STATE) -> dict[str, float]:
    (row,) = seen(bid, task=task, state=state)
    return dict(zip(FEATURES, row.tolist(), strict=True))


def test_each_feature_is_what_it_says() -> None:
    found = named()
    # 2 GPU hours at 0.1 $/kWh and 0.2 kg/kWh of 0.2 $/kg, and a dollar for being late.
    reference = 2 * (0.1 + 0.2 * 0.2) + 1.0
    assert reference_usd(TASK, CLUSTER) == pytest.approx(reference)
    expected = {
        "offer_ratio": np.log1p(1.7 / reference),
        "energy_ratio": np.log1p(0.96 / reference),
        "run_carbon_ratio": np.log1p(0.2 * 2.4 / reference),
        "egress_ratio": np.log1p(0.24 / reference),
        "network_carbon_ratio": np.log1p(0.2 * 0.06 / reference),
        "gpu_ratio": 0.0,
        "penalty_ratio": 0.0,
        "late_probability": 0.04,
        "delay_ratio": np.log1p(1 / 6),
        "slack_ratio": np.log1p(5 / 6),
        "spread_ratio": np.log1p(np.exp(0.3 * 1.2815515655) - 1),
        "fetch_ratio": np.log1p(24 / 3600),
        "gpu_share_ratio": 0.25,
        "planned_ratio": 0.5,
        "backlog_ratio": np.log1p(0.25),
        "queue_ratio": np.log1p(0.25),
        "hit_ratio": 0.5,
        "missing_ratio": 0.5,
        "demand_here": np.log1p(2),
        "demand_elsewhere": np.log1p(7),
        "price_own_ratio": np.log1p(0.2),
        "carbon_own_ratio": -np.log1p(0.25),
        "price_all_ratio": -np.log1p(0.5),
        "carbon_all_ratio": np.log1p(1.0),
    }
    assert found == pytest.approx(expected, abs=2e-3)


def test_money_has_no_scale() -> None:
    """Ten times the currency changes nothing."""
    dear = replace(
        BID,
        offer_usd=17.0,
        charge=replace(CHARGE, energy_usd=9.6, gpu_usd=160.0, transfer_usd=2.4),
    )
    terms = replace(
        TERMS, carbon_price_usd_per_kg=2.0, late_penalty=LatePenalty(10.0, 20.0, cap_h=24.0)
    )
    cluster = replace(CLUSTER, price_usd_per_kwh=1.0)
    (row,) = seen(dear, task=replace(TASK, terms=terms), cluster=cluster)
    money = [name for name in FEATURES if name.endswith(("offer_ratio", "energy_ratio"))]
    money += ["run_carbon_ratio", "egress_ratio", "network_carbon_ratio", "penalty_ratio"]
    found = dict(zip(FEATURES, row.tolist(), strict=True))
    assert {name: found[name] for name in money} == pytest.approx(
        {name: named()[name] for name in money}, rel=1e-5
    )


def test_gpu_hours_count_where_the_scope_counts_them() -> None:
    terms = replace(TERMS, scope=CostScope.WITH_GPU_HOURS)
    assert named(task=replace(TASK, terms=terms))["gpu_ratio"] > 1


def test_a_task_without_deadline_or_artifacts_has_all_the_time_and_all_it_needs() -> None:
    free = replace(TASK, deadline_s=None, needs=())
    found = named(bid=replace(BID, fetches=(), charge=Charge()), task=free)
    assert found["slack_ratio"] == CLAMP
    assert (found["hit_ratio"], found["missing_ratio"], found["fetch_ratio"]) == (1.0, 0.0, 0.0)


def test_nothing_leaves_its_range() -> None:
    wild = replace(BID, offer_usd=-1e12, start_s=NOW_S + 1e12, p50_finish_s=NOW_S + 1e12)
    state = replace(STATE, price=Outlook(-5.0, 0.0), carbon=Outlook(1e9, 0.0), demand_here=1e9)
    values = named(bid=wild, state=state).values()
    assert all(np.isfinite(value) and abs(value) <= CLAMP for value in values)


def test_an_outlook_is_the_mean_of_a_day_and_a_cluster_the_mean_of_its_sites() -> None:
    series = StepSeries(0.0, HOUR_S, np.arange(48.0))
    assert outlook(series, 12 * HOUR_S) == Outlook(12.0, pytest.approx(23.5))
    assert cluster_of([1.0, 3.0], [1.0, 3.0]) == ClusterSignals(2.0, 2.0)
    assert cluster_of([1.0, 3.0, None], [None, 5.0, None]) == ClusterSignals(2.0, 5.0)
    assert cluster_of([1.0], [None]) == ClusterSignals(1.0, 0.0)
    assert cluster_of([None], [5.0]) is None, "nothing to measure money by"


def test_starts_of_a_pool_are_seen_as_each_alone() -> None:
    later = replace(BID, start_s=NOW_S + HOUR_S, offer_usd=-0.5, late_probability=0.5)
    assert np.array_equal(seen(BID, later), np.concatenate([seen(BID), seen(later)]))


def test_every_feature_has_a_unit() -> None:
    assert list(UNITS) == list(FEATURES)
