"""What a site remembers and tells, and what it refuses to believe."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.accounting import CostScope, LatePenalty
from gcos.artifacts import Artifact, ArtifactKind
from gcos.contract_net import ArtifactNeed
from gcos.durations import Prediction, PredictionSource, RunTime
from gcos.errors import InvalidRequestError
from gcos.ids import ArtifactId, RunId, SiteId, TaskId
from gcos.outlook import Outlook, OutlookArtifact, OutlookCopy, Submission
from gcos.rpc.wire import from_proto, to_proto
from gcos.signals import Provenance, Signal, SiteSignals, StepSeries
from gcos.sites import Link, Pool, Site
from gcos.v1 import site_pb2
from policies.baselines.joint import JointBidder
from policies.maccs.copy_plan import GRID_H, MEMORY_H
from site_agent import demand_log
from site_agent.demand_log import DemandLog, spread_of, submission_of, thinned
from site_agent.dual_cache import DualCache
from site_agent.outlook import (
    RATE_H,
    SUBMISSION_COUNT_MAX,
    EvictionPace,
    SiteOutlook,
    refuse_nonsense,
)
from site_agent.participant import Participant
from site_agent.schedule import Planned

HOUR_S = 3600.0
BEAT_S = 500_000 * HOUR_S
MODEL = ArtifactNeed(ArtifactId("sha256:m"), ArtifactKind.MODEL, "llama", 40 * 10**9)
SMALL = ArtifactNeed(ArtifactId("sha256:s"), ArtifactKind.DATA, "few", 10**9)
DATA = ArtifactNeed(ArtifactId("sha256:d"), ArtifactKind.DATA, "many", 20 * 10**9)
PROVENANCE = Provenance("test", "DE", None, None, 0.0, is_estimated=False)


def submission(number: int, *, age_h: float = 1.0, deadline_h: float | None = None) -> Submission:
    arrival_s = BEAT_S - age_h * HOUR_S
    return submission_of(
        TaskId(f"de-{number:05d}"),
        arrival_s=arrival_s,
        gpu_count=2,
        needs=(SMALL, MODEL, DATA),
        predictions=(
            Prediction(
                "H100",
                RunTime.lognormal(2 * HOUR_S, 0.5),
                source=PredictionSource.PREDICTOR,
                is_cold=False,
            ),
        ),
        penalty=LatePenalty(10.0, 1.0, 24.0),
        deadline_s=None if deadline_h is None else arrival_s + deadline_h * HOUR_S,
    )


def participant(*, price: StepSeries | None = None) -> Participant:
    site = Site(
        SiteId("de"),
        incarnation="i",
        address="de:1",
        zone="DE",
        pue=1.5,
        pools=(Pool("H100", 8, speed_ratio=1, active_kw=0.5, idle_kw=0, usd_per_gpu_h=2.0),),
        model_cache_bytes=100 * 10**9,
        data_cache_bytes=100 * 10**9,
    )
    return Participant(
        site=site,
        cache=DualCache(site.model_cache_bytes, site.data_cache_bytes),
        bidder=JointBidder(),
        links=lambda _a, _b: Link(0.01, 1e9, 0.05),
        signals=SiteSignals(
            carbon=Signal(StepSeries.constant(400.0), PROVENANCE, "gCO2/kWh"),
            price=Signal(price or StepSeries.constant(0.1), PROVENANCE, "USD/kWh"),
        ),
    )


def site_outlook(
    owner: Participant | None = None,
    *submissions: Submission,
    scope: CostScope = CostScope.OPERATOR,
) -> SiteOutlook:
    log = DemandLog(BEAT_S - 100 * HOUR_S)
    for each in submissions:
        log.note(each, (SMALL, MODEL, DATA))
    return SiteOutlook(
        owner or participant(),
        log,
        carbon_price_usd_per_kg=0.5,
        scope=scope,
        began_s=BEAT_S - 100 * HOUR_S,
    )


def told(*submissions: Submission, owner: Participant | None = None) -> Outlook:
    return site_outlook(owner, *submissions).at(BEAT_S, now_s=BEAT_S, submission_count_max=512)


# ---------------------------------------------------------------- the demand log


def test_the_largest_data_set_stands_for_all() -> None:
    known = submission(1)
    assert (known.model_id, known.data_id) == (MODEL.artifact_id, DATA.artifact_id)


def test_a_run_is_told_by_its_mean_and_what_lateness_it_expects() -> None:
    calm, tight = submission(1, deadline_h=1000.0), submission(2, deadline_h=2.0)
    (run,) = calm.runs
    # The mean of a lognormal of median 2 h and sigma 0.5, in 20 slices of equal mass.
    assert run.run_h == pytest.approx(2 * math.exp(0.125), rel=0.02)
    assert run.late_usd == 0.0
    assert tight.runs[0].late_usd > 0.45 * 10.0  # late in every second case
    assert submission(3).fixed_penalty_usd == 0.0
    assert tight.fixed_penalty_usd == 10.0


def test_what_is_older_than_the_memory_is_forgotten() -> None:
    log = DemandLog(BEAT_S)
    for age_h in (MEMORY_H + 1, MEMORY_H - 1, 0.5):
        log.note(submission(round(age_h), age_h=age_h), (MODEL, DATA))
    assert [each.task_id for each in log.recent(BEAT_S)] == ["de-00167", "de-00000"]
    assert log.remembered_h(BEAT_S) == MEMORY_H


def test_a_task_that_is_announced_again_counts_once() -> None:
    log = DemandLog(BEAT_S)
    for _ in range(2):
        log.note(submission(1), (MODEL, DATA))
    assert len(log.recent(BEAT_S)) == 1


def test_of_too_many_the_oldest_go_and_the_memory_is_shorter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demand_log, "LOG_COUNT_MAX", 3)
    log = DemandLog(BEAT_S - 20 * HOUR_S)
    for age_h in (9, 7, 5, 3):
        log.note(submission(age_h, age_h=age_h), (MODEL, DATA))
    assert len(log.recent(BEAT_S)) == 3
    assert log.remembered_h(BEAT_S) == 9.0


@given(st.permutations(range(40)), st.integers(0, 40))
def test_what_is_drawn_does_not_depend_on_the_order(order: list[int], count: int) -> None:
    tasks = [submission(number, age_h=1 + number) for number in range(40)]
    drawn = thinned([tasks[number] for number in order], count)
    assert drawn == thinned(tasks, count)
    assert len(drawn) == count
    assert list(drawn) == sorted(drawn, key=lambda each: each.arrival_s)


def test_spreads_are_even() -> None:
    ids = [TaskId(f"de-{number}") for number in range(1000)]
    assert 430 < sum(spread_of(each) % 2 for each in ids) < 570


# ---------------------------------------------------------------- the outlook


def test_rates_are_price_and_carbon_hour_by_hour() -> None:
    step = StepSeries(BEAT_S, HOUR_S, [0.1 + 0.01 * hour for hour in range(RATE_H)])
    outlook = told(owner=participant(price=step))
    assert len(outlook.rate_usd_per_kwh) == RATE_H
    assert outlook.rate_usd_per_kwh[0] == pytest.approx(0.1 + 0.5 * 0.4)
    assert outlook.rate_usd_per_kwh[5] == pytest.approx(0.15 + 0.5 * 0.4)


def test_of_the_queue_hourly_totals_travel() -> None:
    owner = participant()
    schedule = owner.schedules["H100"]
    for number, gpus in enumerate((3, 2)):
        run = Planned(
            RunId(f"de-{number}.1"),
            gpu_count=gpus,
            run_time=RunTime.lognormal((number + 1) * 2 * HOUR_S, 0.0),
            latest_start_s=BEAT_S,
            accepted_s=BEAT_S,
            ready_s=BEAT_S,
        )
        schedule.add(run)
        schedule.start(run.run_id, now_s=BEAT_S)
    (pool,) = told(owner=owner).pools
    assert len(pool.planned_count) == GRID_H
    assert pool.planned_count[:5] == (5.0, 5.0, 2.0, 2.0, 0.0)
    assert pool.active_kw == pytest.approx(0.75)
    assert pool.usd_per_gpu_h == 0.0
    with_gpus = site_outlook(owner, scope=CostScope.WITH_GPU_HOURS)
    assert with_gpus.at(BEAT_S, now_s=BEAT_S, submission_count_max=9).pools[0].usd_per_gpu_h == 2.0


def test_copies_are_told_with_what_protects_them() -> None:
    owner = participant()
    for need in (MODEL, DATA, SMALL):
        artifact = Artifact(need.artifact_id, need.kind, need.name, need.size_bytes)
        owner.cache.reserve(artifact, now_s=BEAT_S)
    for need in (MODEL, DATA):
        owner.cache.insert(need.artifact_id)
    owner.cache.pin(MODEL.artifact_id, RunId("de-1.1"))
    owner.cache.hit(DATA.artifact_id, RunId("de-2.1"), now_s=BEAT_S)
    owner.cache.demand.hear({DATA.artifact_id: 5.0})
    outlook = told(owner=owner)
    assert outlook.copies == (
        OutlookCopy(DATA.artifact_id, True, True, pytest.approx(1.5)),
        OutlookCopy(MODEL.artifact_id, True, False, 0.0),
        OutlookCopy(SMALL.artifact_id, False, False, 0.0),
    )
    assert {room.kind: room.free_bytes for room in outlook.rooms} == {
        ArtifactKind.MODEL: 60 * 10**9,
        ArtifactKind.DATA: 79 * 10**9,
    }


def test_a_site_that_leaves_offers_neither_gpus_nor_copies() -> None:
    owner = participant()
    artifact = Artifact(MODEL.artifact_id, MODEL.kind, MODEL.name, MODEL.size_bytes)
    owner.cache.reserve(artifact, now_s=BEAT_S)
    owner.is_draining = True
    assert (told(owner=owner).pools, told(owner=owner).copies) == ((), ())


def test_steady_evictions_give_their_pace_and_old_ones_are_forgotten() -> None:
    pace = EvictionPace(0.0, 0)
    for hour in range(1, 1001):
        pace.note(hour * 100, now_s=hour * HOUR_S)
    assert pace.bytes_per_h() == pytest.approx(100.0, rel=0.01)
    pace.note(100_000, now_s=2000 * HOUR_S)
    assert pace.bytes_per_h() < 1.0


def test_a_cache_that_evicts_much_keeps_a_new_copy_a_part_of_the_horizon() -> None:
    owner = participant()
    outlook = site_outlook(owner)
    for number in range(30):
        artifact = Artifact(ArtifactId(f"sha256:{number:03d}"), ArtifactKind.MODEL, "m", 40 * 10**9)
        owner.cache.reserve(artifact, now_s=BEAT_S)
        owner.cache.insert(artifact.artifact_id)
    rooms = outlook.at(BEAT_S, now_s=BEAT_S, submission_count_max=9).rooms
    assert {room.kind: room.stay_ratio == 1.0 for room in rooms} == {
        ArtifactKind.MODEL: False,
        ArtifactKind.DATA: True,
    }


# ---------------------------------------------------------------- the wire, and lies


def full() -> Outlook:
    owner = participant()
    artifact = Artifact(MODEL.artifact_id, MODEL.kind, MODEL.name, MODEL.size_bytes)
    owner.cache.reserve(artifact, now_s=BEAT_S)
    owner.cache.insert(artifact.artifact_id)
    return told(*(submission(number, deadline_h=3.0) for number in range(5)), owner=owner)


def test_an_outlook_survives_the_wire_and_is_believed() -> None:
    outlook = full()
    assert outlook.submissions
    assert from_proto(to_proto(outlook, site_pb2.Outlook), Outlook) == outlook
    refuse_nonsense(outlook)


def test_an_outlook_of_the_largest_site_fits_a_message() -> None:
    outlook = site_outlook(
        None, *(submission(number, deadline_h=3.0) for number in range(2500))
    ).at(BEAT_S, now_s=BEAT_S, submission_count_max=SUBMISSION_COUNT_MAX)
    assert (len(outlook.submissions), outlook.submission_count) == (2000, 2500)
    assert to_proto(outlook, site_pb2.Outlook).ByteSize() < 1 << 20


def with_pool(**fields: object) -> Outlook:
    outlook = full()
    return replace(outlook, pools=(replace(outlook.pools[0], **fields),))


def with_task(**fields: object) -> Outlook:
    outlook = full()
    return replace(outlook, submissions=(replace(outlook.submissions[0], **fields),))


def with_run(**fields: object) -> Outlook:
    return with_task(runs=(replace(full().submissions[0].runs[0], **fields),))


def with_artifact(size_bytes: int) -> Outlook:
    outlook = full()
    lie = replace(outlook.artifacts[0], size_bytes=size_bytes)
    return replace(outlook, artifacts=(lie, *outlook.artifacts[1:]))


UNKNOWN = OutlookArtifact(ArtifactId("sha256:u"), ArtifactKind.MODEL, "u", 1)


@pytest.mark.parametrize(
    ("lie", "field"),
    [
        (with_artifact(-1), "artifacts.size_bytes"),
        (with_artifact(10**30), "artifacts.size_bytes"),
        (replace(full(), rate_usd_per_kwh=(0.1,)), "rate_usd_per_kwh"),
        (replace(full(), rate_usd_per_kwh=(math.nan,) * RATE_H), "rate_usd_per_kwh"),
        (replace(full(), rate_usd_per_kwh=(1e300,) * RATE_H), "rate_usd_per_kwh"),
        (replace(full(), carbon_gco2_per_kwh=-5.0), "carbon_gco2_per_kwh"),
        (replace(full(), submission_count=10**9), "submission_count"),
        (replace(full(), submission_count=1), "submission_count"),
        (replace(full(), remembered_h=math.inf), "remembered_h"),
        (replace(full(), artifacts=(UNKNOWN,) * 4001), "artifacts"),
        (replace(full(), rooms=()), "rooms"),
        (replace(full(), copies=(OutlookCopy(UNKNOWN.artifact_id, True, True, 1.0),)), "copies"),
        (replace(full(), copies=(OutlookCopy(MODEL.artifact_id, True, True, -1.0),)), "copies"),
        (with_pool(gpu_count=0), "pools.gpu_count"),
        (with_pool(planned_count=(1.0,)), "pools.planned_count"),
        (with_pool(planned_count=(-1.0,) * GRID_H), "pools.planned_count"),
        (with_pool(planned_count=(9.0,) * GRID_H), "pools.planned_count"),
        (with_task(gpu_count=-3), "submissions.gpu_count"),
        (with_task(arrival_s=BEAT_S + 1), "submissions.arrival_s"),
        (with_task(model_id=UNKNOWN.artifact_id), "submissions"),
        (with_task(fixed_penalty_usd=1e12), "submissions.fixed_penalty_usd"),
        (with_run(run_h=-1.0), "submissions.runs.run_h"),
        (with_run(late_usd=math.inf), "submissions.runs.late_usd"),
    ],
)
def test_what_cannot_be_is_refused_by_name(lie: Outlook, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        refuse_nonsense(lie)
    assert (caught.value.field or "").startswith(field)
