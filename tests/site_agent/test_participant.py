import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from gcos.accounting import Charge, CostScope, LatePenalty
from gcos.artifacts import Artifact, ArtifactKind
from gcos.contract_net import (
    Announcement,
    ArtifactNeed,
    Award,
    AwardAnswer,
    Bid,
    ClusterSignals,
    Fetch,
    Holder,
    Refusal,
    Report,
    Terms,
)
from gcos.durations import Prediction, PredictionSource, RunTime
from gcos.ids import ArtifactId, Fence, RunId, SiteId, TaskId, run_id
from gcos.log_tails import LogTail
from gcos.signals import HOUR_S, Provenance, Signal, SiteSignals, StepSeries
from gcos.sites import Link, Pool, Site
from gcos.tasks import GpuRequest, Reason, RunState, Work
from policies.baselines.joint import JointBidder, LookaheadBidder
from policies.features import FEATURES, cluster_of, reference_usd
from policies.interface import Choice, Option, SiteView
from policies.maccs.task_bidder import TAU, ResidualBidder
from site_agent import participant as participant_module
from site_agent.dual_cache import DualCache
from site_agent.effects import (
    NOTHING,
    Adopt,
    ExtendLease,
    ForgetRun,
    Now,
    Publish,
    Ready,
    Reap,
    RenewSoon,
    SaveRun,
    SendReport,
    Stage,
    StartRun,
    StopRun,
    StopStaging,
)
from site_agent.held_run import HeldRun
from site_agent.lease import LeaseTerms
from site_agent.participant import ORPHAN_S, REAUCTION_COUNT_MAX, Exit, Participant

WORLD_S = 1_700_000_000.0 - 1_700_000_000.0 % HOUR_S
LEASE = LeaseTerms()
ORIGIN = "oslo:1"
PROVENANCE = Provenance("test", "FR", None, None, 0.0, is_estimated=False)
SIGNALS = SiteSignals(
    carbon=Signal(StepSeries.constant(100.0), PROVENANCE, "gCO2/kWh"),
    price=Signal(StepSeries.constant(0.1), PROVENANCE, "USD/kWh"),
)
SITE = Site(
    site_id=SiteId("paris"),
    incarnation="i",
    address="paris:1",
    zone="FR",
    pue=1.5,
    pools=(
        Pool("T4", gpu_count=1, speed_ratio=0.2, active_kw=0.1, idle_kw=0, usd_per_gpu_h=0.5),
        Pool("H100", gpu_count=4, speed_ratio=1, active_kw=1.0, idle_kw=0, usd_per_gpu_h=3.0),
    ),
    model_cache_bytes=10,
    data_cache_bytes=10,
)
TERMS = Terms(
    carbon_price_usd_per_kg=0.2,
    network_kwh_per_gb=0.0065,
    scope=CostScope.OPERATOR,
    late_penalty=LatePenalty(1.0, 1.0, 4.0),
)
PREDICTION = Prediction(
    pool_type="H100", run_time=RunTime((600.0,) * 19), source=PredictionSource.PRIOR
)
EXIT_ZERO = Exit(
    started_s=WORLD_S + 10,
    ended_s=WORLD_S + 3610,
    exit_code=0,
    reason=Reason.EXITED_ZERO,
    message="",
    log_tail="done\n",
)


def at(protocol_s: float) -> Now:
    return Now(protocol_s, WORLD_S + protocol_s)


def artifact(letter: str, size_bytes: int = 4, kind: ArtifactKind = ArtifactKind.MODEL) -> Artifact:
    return Artifact(
        artifact_id=ArtifactId("sha256:" + letter * 64),
        kind=kind,
        name=letter,
        size_bytes=size_bytes,
    )


WARSAW = Holder(SiteId("warsaw"), "PL", "warsaw:1", 800.0)
A, B, C = artifact("a"), artifact("b"), artifact("c")


def need_of(thing: Artifact, *holders: Holder) -> ArtifactNeed:
    return ArtifactNeed(
        artifact_id=thing.artifact_id,
        kind=thing.kind,
        name=thing.name,
        size_bytes=thing.size_bytes,
        holders=holders or (WARSAW,),
    )


def announcement_of(*things: Artifact, gpu_count: int = 1, **changes: object) -> Announcement:
    announcement = Announcement(
        task_id=TaskId("oslo-1"),
        fence=Fence(1, 1),
        origin=SiteId("oslo"),
        gpu=GpuRequest("any", gpu_count),
        work=Work(),
        needs=tuple(need_of(thing) for thing in things),
        predictions=(PREDICTION,),
        terms=TERMS,
    )
    return replace(announcement, **changes)


def award_of(
    *things: Artifact, task: str = "oslo-1", attempt: int = 1, gpu_count: int = 1, **changes: object
) -> Award:
    fence = Fence(1, attempt)
    award = Award(
        run_id=run_id(TaskId(task), fence),
        task_id=TaskId(task),
        fence=fence,
        origin=SiteId("oslo"),
        origin_address=ORIGIN,
        command=("true",),
        env={},
        gpu=GpuRequest("any", gpu_count),
        pool_type="H100",
        needs=tuple(need_of(thing) for thing in things),
        predictions=(PREDICTION,),
        terms=TERMS,
        lease_s=LEASE.lease_s,
        project="default",
    )
    return replace(award, **changes)


def link(_source: str, _target: str) -> Link:
    return Link(rtt_s=0.0, bytes_per_s=0.04, egress_usd_per_gb=1e8)  # a 4-byte model: 100 s, 0.4 $


def new_participant(*held: Artifact) -> Participant:
    cache = DualCache(SITE.model_cache_bytes, SITE.data_cache_bytes)
    for index, thing in enumerate(held):
        cache.reserve(thing, now_s=float(index))
        cache.insert(thing.artifact_id)
    return Participant(site=SITE, cache=cache, bidder=JointBidder(), links=link, signals=SIGNALS)


@dataclass
class Bench:
    """A participant and the books that its writes make."""

    participant: Participant = field(default_factory=new_participant)
    runs: dict[RunId, HeldRun] = field(default_factory=dict)

    def take(self, ready: Ready) -> Ready:
        for write in ready.writes:
            if isinstance(write, SaveRun):
                self.runs[write.run.run_id] = write.run
            elif isinstance(write, ForgetRun):
                del self.runs[write.run_id]
        self.participant.check_invariants()
        return ready

    def award(self, award: Award, *, s: float = 0) -> AwardAnswer:
        answer, self.last = self.participant.award(award, now=at(s))
        self.take(self.last)
        return answer

    def renewed(self, *runs: RunId, s: float = 2, sent_s: float | None = None) -> Ready:
        sent = s if sent_s is None else sent_s
        return self.take(self.participant.renewed(runs, sent_s=sent, now=at(s)))

    def staged(self, run: RunId, *, s: float = 1) -> Ready:
        return self.take(self.participant.staged(run, now=at(s)))

    def exited(self, run: RunId, exit_: Exit = EXIT_ZERO, *, s: float = 3700) -> Ready:
        return self.take(self.participant.exited(run, exit_, now=at(s)))

    def tick(self, s: float) -> Ready:
        return self.take(self.participant.tick(now=at(s)))

    def restart(self, *held: Artifact, s: float = 100) -> Ready:
        self.participant = new_participant(*held)
        return self.take(self.participant.restore(dict(self.runs), now=at(s)))

    def state(self, run: RunId) -> RunState:
        return self.participant.runs[run].state


def running(award: Award | None = None) -> tuple[Bench, RunId]:
    """Return a bench with one run that was started at second 2."""
    bench = Bench()
    taken = award or award_of()
    bench.award(taken)
    bench.staged(taken.run_id)
    bench.renewed(taken.run_id)
    assert bench.state(taken.run_id) is RunState.RUNNING
    return bench, taken.run_id


def effects_of(ready: Ready, kind: type) -> list:
    return [effect for effect in ready.effects if isinstance(effect, kind)]


def report_in(ready: Ready) -> Report:
    (effect,) = effects_of(ready, SendReport)
    assert effect.address == ORIGIN
    return effect.report


# ------------------------------------------------------------------------ bidding


def bid(participant: Participant, announcement: Announcement, *, s: float = 0) -> Bid:
    answer = participant.bid(announcement, now=at(s))
    assert isinstance(answer, Bid), answer
    return answer


def refusal(participant: Participant, announcement: Announcement) -> Refusal:
    answer = participant.bid(announcement, now=at(0))
    assert isinstance(answer, Refusal), answer
    return answer


def test_a_bid_changes_nothing() -> None:
    bench, _ = running(award_of(gpu_count=4))
    bench.award(award_of(B, task="oslo-2"))
    before = copy.deepcopy(bench.participant)
    bid(bench.participant, announcement_of(A, gpu_count=3, deadline_s=WORLD_S + 1e5))
    after = bench.participant
    for name in ("runs", "schedules", "fences", "lease_until_s", "heard_s", "awarded_count"):
        assert getattr(after, name) == getattr(before, name)
    assert after.cache.entries() == before.cache.entries()
    assert after.cache.usages() == before.cache.usages()


def test_a_bid_counts_what_must_be_fetched_first() -> None:
    offer = bid(new_participant(), announcement_of(A))
    assert [fetch.name for fetch in offer.fetches] == ["a"]
    assert offer.start_s == pytest.approx(WORLD_S + 100.0)
    assert offer.charge.transfer_usd == pytest.approx(0.4)
    held = bid(new_participant(A), announcement_of(A))
    assert (held.fetches, held.start_s, held.charge.transfer_usd) == ((), WORLD_S, 0.0)
    assert offer.offer_usd > held.offer_usd


def test_what_is_on_its_way_for_another_run_is_waited_for_but_not_paid_again() -> None:
    participant = new_participant()
    participant.cache.reserve(A, now_s=0.0)
    offer = bid(participant, announcement_of(A))
    assert (offer.fetches, offer.charge.transfer_bytes) == ((), 0)
    assert offer.start_s == pytest.approx(WORLD_S + 100.0)


def test_a_bid_counts_on_no_gpu_that_is_promised() -> None:
    bench, _ = running(award_of(gpu_count=4))
    offer = bid(bench.participant, announcement_of(), s=2)
    assert offer.start_s == pytest.approx(WORLD_S + 602)


def test_a_bid_says_what_it_would_evict() -> None:
    offer = bid(new_participant(B, C), announcement_of(A))
    assert offer.evictions == (B.artifact_id,), "the least recently used"


def test_a_bid_never_evicts_what_its_own_task_needs() -> None:
    offer = bid(new_participant(B, C), announcement_of(A, B))
    assert [fetch.name for fetch in offer.fetches] == ["a"]
    assert offer.evictions == (C.artifact_id,)


def test_a_bid_makes_room_for_all_that_is_missing_together() -> None:
    d = artifact("d")
    offer = bid(new_participant(C, d), announcement_of(A, B))
    assert offer.evictions == (C.artifact_id, d.artifact_id)
    answer = refusal(new_participant(), announcement_of(A, B, C))
    assert answer.reason is Reason.CACHE_FULL


def pinned() -> Participant:
    participant = new_participant(B, C)
    for thing in (B, C):
        participant.cache.pin(thing.artifact_id, RunId("other"))
    return participant


def draining() -> Participant:
    participant = new_participant()
    participant.drain(now=at(0))
    return participant


@pytest.mark.parametrize(
    ("participant", "announcement", "reason"),
    [
        (draining(), announcement_of(), Reason.SITE_DRAINING),
        (new_participant(), announcement_of(gpu=GpuRequest("B200", 1)), Reason.GPU_TYPE_UNKNOWN),
        (new_participant(), announcement_of(gpu_count=5), Reason.GPU_COUNT_TOO_HIGH),
        (new_participant(), announcement_of(gpu=GpuRequest("T4", 2)), Reason.GPU_COUNT_TOO_HIGH),
        (new_participant(), announcement_of(artifact("e", 11)), Reason.ARTIFACT_TOO_LARGE),
        (new_participant(), announcement_of(predictions=()), Reason.NO_BID),
        (pinned(), announcement_of(A), Reason.CACHE_FULL),
        (
            new_participant(),
            announcement_of(needs=(need_of(A, replace(WARSAW, site_id=SITE.site_id)),)),
            Reason.ARTIFACT_UNREACHABLE,
        ),
    ],
)
def test_a_site_that_cannot_run_the_task_says_why(
    participant: Participant, announcement: Announcement, reason: Reason
) -> None:
    answer = refusal(participant, announcement)
    assert (answer.site_id, answer.reason) == ("paris", reason)


def test_a_request_too_large_for_its_type_is_told_what_the_type_has() -> None:
    answer = refusal(new_participant(), announcement_of(gpu=GpuRequest("T4", 2)))
    assert answer.message == "largest pool has 1, not 2"


def test_a_site_with_all_the_runs_it_takes_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participant_module, "RUN_COUNT_MAX", 1)
    bench, _ = running()
    assert refusal(bench.participant, announcement_of()).reason is Reason.QUEUE_FULL
    answer = bench.award(award_of(task="oslo-2"))
    assert answer == AwardAnswer(False, Reason.QUEUE_FULL, "1 runs are accepted")


def test_the_cheapest_pool_that_is_predicted_for_is_offered() -> None:
    slower = replace(PREDICTION, pool_type="T4", run_time=PREDICTION.run_time.scaled(5))
    offer = bid(new_participant(), announcement_of(predictions=(PREDICTION, slower)))
    assert offer.pool_type == "T4", "a fifth of the speed at a tenth of the power"


def test_a_task_held_for_its_earliest_start_needs_no_lease_yet() -> None:
    early = announcement_of(earliest_start_s=WORLD_S + 1000)
    assert bid(new_participant(), early).is_deferred
    assert not bid(new_participant(), early, s=1000).is_deferred
    assert not bid(new_participant(), announcement_of(A, earliest_start_s=WORLD_S + 99)).is_deferred


def test_a_greener_start_is_offered_where_it_pays() -> None:
    participant = new_participant()
    falling = StepSeries(WORLD_S, HOUR_S, np.array([500.0, 100.0]))
    participant.signals = replace(SIGNALS, carbon=replace(SIGNALS.carbon, series=falling))
    participant.bidder = LookaheadBidder()
    in_time = announcement_of(deadline_s=WORLD_S + 3 * HOUR_S)
    offer = bid(participant, in_time)
    assert (offer.is_deferred, offer.start_s) == (True, WORLD_S + HOUR_S)
    assert not bid(participant, announcement_of()).is_deferred, "without a deadline it starts now"
    participant.bidder = JointBidder()
    assert not bid(participant, in_time).is_deferred, "who asks for no later start sees none"


class Watching:
    """Takes the last option at a score of 0.25, and keeps what it was shown."""

    actor = "watching/1"
    may_start_later = False
    needs_features = False

    def __init__(self) -> None:
        self.views: list[SiteView] = []

    def choose(self, options: Sequence[Option], view: SiteView) -> Choice:
        self.views.append(view)
        return Choice(len(options) - 1, 0.25)


def test_a_bidder_sees_its_site_and_its_score_travels() -> None:
    bench, _ = running(award_of(gpu_count=4))
    bench.award(award_of(task="oslo-2", gpu_count=2))
    bench.participant.bidder = bidder = Watching()
    offer = bid(bench.participant, announcement_of(), s=102)
    assert (offer.score_ratio, offer.actor) == (0.25, "watching/1")
    (view,) = bidder.views
    assert (view.site_id, view.task_id, view.is_origin) == (SITE.site_id, "oslo-1", False)
    assert (view.awarded_count, view.now_s) == (2, WORLD_S + 102)
    # 4 GPUs for 500 s more and 2 for 600 s, over the site's 5 GPUs.
    assert view.backlog_s == pytest.approx((4 * 500 + 2 * 600) / 5)
    bid(bench.participant, announcement_of(origin=SITE.site_id))
    assert bidder.views[-1].is_origin


CLUSTER = ClusterSignals(price_usd_per_kwh=0.1, carbon_gco2_per_kwh=300.0)


def learned(rows: np.ndarray) -> np.ndarray:
    """Return an f that looks at the price against the site's own day alone, and likes it high."""
    return np.array([1.0 + row[list(FEATURES).index("price_own_ratio")] for row in rows])


def test_a_learned_bid_is_ranked_by_more_than_its_offer() -> None:
    bench = Bench()
    plain = bid(bench.participant, announcement_of(cluster=CLUSTER))
    bench.participant.bidder = ResidualBidder(learned, scale=0.5, version="task/0")
    told = announcement_of(cluster=CLUSTER)
    offer = bid(bench.participant, told)
    assert offer.offer_usd == plain.offer_usd, "the ledger knows the exact marginal cost alone"
    assert offer.charge == plain.charge
    unit_usd = TAU * reference_usd(told, CLUSTER)
    assert offer.residual_usd < 0, "it is ranked as if it were cheaper"
    assert offer.score_ratio == pytest.approx((offer.offer_usd + offer.residual_usd) / unit_usd)
    assert (plain.residual_usd, plain.score_ratio) == (0.0, 0.0)


def test_a_learned_bidder_that_is_told_of_no_cluster_offers_as_joint_does() -> None:
    bench = Bench()
    plain = bid(bench.participant, announcement_of())
    bench.participant.bidder = ResidualBidder(learned, scale=1.0, version="task/0")
    offer = bid(bench.participant, announcement_of())
    assert replace(offer, actor=plain.actor) == plain


def test_a_learned_bidder_without_a_carbon_signal_adds_nothing() -> None:
    participant = new_participant()
    participant.signals = replace(participant.signals, carbon=None)
    participant.bidder = ResidualBidder(learned, scale=1.0, version="task/0")
    told = announcement_of(cluster=CLUSTER)
    offer = bid(participant, told)
    assert offer.residual_usd == 0.0
    assert offer.score_ratio == offer.offer_usd / (TAU * reference_usd(told, CLUSTER))


def test_a_digest_tells_what_the_site_expects_of_the_next_day() -> None:
    bench = Bench()
    digest = bench.participant.digest(now=at(0))
    assert digest.day_price_usd_per_kwh is not None
    cluster = cluster_of([digest.day_price_usd_per_kwh], [digest.day_carbon_gco2_per_kwh])
    assert cluster is not None
    assert cluster.price_usd_per_kwh > 0
    bench.participant.signals = replace(bench.participant.signals, carbon=None)
    assert bench.participant.digest(now=at(0)).day_carbon_gco2_per_kwh is None


def test_without_a_carbon_signal_the_bid_says_so() -> None:
    participant = new_participant()
    participant.signals = replace(SIGNALS, carbon=None)
    offer = bid(participant, announcement_of(A))
    assert not offer.is_carbon_known
    assert offer.charge.carbon_gco2 == 0.0


# ------------------------------------------------------------------------ awards


def test_an_accepted_award_is_written_then_staged_and_renewed() -> None:
    bench = Bench()
    award = award_of(A)
    assert bench.award(award) == AwardAnswer(True)
    assert bench.last.effects == (Stage(award.run_id), RenewSoon(ORIGIN))
    assert bench.runs[award.run_id].state is RunState.LEASED


def test_an_award_that_comes_twice_is_accepted_once() -> None:
    bench, run = running()
    assert bench.award(award_of(), s=5) == AwardAnswer(True)
    assert bench.last == Ready()
    assert bench.participant.awarded_count == 1
    assert bench.state(run) is RunState.RUNNING


def test_an_award_with_a_stale_fence_is_declined() -> None:
    bench = Bench()
    bench.award(award_of(attempt=3))
    for attempt in (1, 2):
        answer = bench.award(award_of(attempt=attempt))
        assert (answer.is_accepted, answer.reason) == (False, Reason.STALE_FENCE)
    assert bench.award(award_of(attempt=4)).is_accepted


@pytest.mark.parametrize(
    ("award", "reason"),
    [
        (award_of(pool_type="B200"), Reason.GPU_TYPE_UNKNOWN),
        (award_of(gpu_count=5), Reason.GPU_TYPE_UNKNOWN),
        (award_of(predictions=()), Reason.NO_CANDIDATE),
    ],
)
def test_an_award_that_cannot_be_honoured_is_declined_without_a_trace(
    award: Award, reason: Reason
) -> None:
    bench = Bench()
    assert bench.award(award).reason is reason
    assert bench.last == NOTHING
    assert bench.participant.runs == {}


# ------------------------------------------------------------------------ starting


def test_a_run_whose_lease_is_not_confirmed_never_starts() -> None:
    bench = Bench()
    award = award_of()
    bench.award(award)
    assert effects_of(bench.staged(award.run_id), StartRun) == []
    for s in (10, 100, 250):
        assert bench.tick(s).effects == ()
    (start,) = effects_of(bench.renewed(award.run_id, s=260), StartRun)
    assert start.lease_until_s == LEASE.holder_until_s(260)


def test_an_answer_that_comes_after_its_lease_confirms_nothing() -> None:
    """The holder counts from the sending: the origin may have moved on since it answered."""
    bench = Bench()
    award = award_of()
    bench.award(award)
    bench.staged(award.run_id)
    assert bench.renewed(award.run_id, sent_s=2, s=2 + LEASE.lease_s).effects == ()
    assert bench.state(award.run_id) is RunState.STAGING


def test_a_confirmed_run_starts_when_its_artifacts_are_here() -> None:
    bench = Bench()
    award = award_of(A)
    bench.award(award)
    bench.renewed(award.run_id)
    assert bench.participant.missing(award.run_id) == award.needs
    bench.take(bench.participant.staging(award.run_id, now=at(3)))
    bring(bench, A, award.run_id)
    ready = bench.staged(award.run_id, s=4)
    assert effects_of(ready, StartRun) == [StartRun(award.run_id, (0,), LEASE.holder_until_s(2))]
    assert bench.runs[award.run_id].state is RunState.RUNNING, "written before it is started"


def bring(bench: Bench, thing: Artifact, run: RunId) -> None:
    """Fetch an artifact for a run, as the artifact plane does."""
    cache = bench.participant.cache
    cache.reserve(thing, now_s=WORLD_S)
    cache.pin(thing.artifact_id, run)
    cache.insert(thing.artifact_id)
    fetch = Fetch(thing.artifact_id, thing.name, thing.size_bytes, WARSAW, 1.0, 0.5, 7.0)
    charge = Charge(transfer_usd=0.5, network_gco2=7.0, transfer_bytes=thing.size_bytes)
    bench.take(bench.participant.fetched(run, (fetch,), charge, ()))


def test_runs_share_a_pool_on_distinct_devices_and_wait_for_room() -> None:
    bench = Bench()
    awards = [award_of(task=f"oslo-{i}", gpu_count=2) for i in range(3)]
    for award in awards:
        bench.award(award)
        bench.staged(award.run_id)
    starts = effects_of(bench.renewed(*(award.run_id for award in awards)), StartRun)
    assert [start.devices for start in starts] == [(0, 1), (2, 3)]
    ready = bench.exited(awards[0].run_id, replace(EXIT_ZERO, reason=Reason.EXIT_CODE), s=20)
    assert report_in(ready).state is RunState.FAILED
    (third,) = effects_of(bench.tick(21), StartRun)
    assert (third.run_id, third.devices) == (awards[2].run_id, (0, 1))


def test_a_run_waits_for_its_earliest_start() -> None:
    bench = Bench()
    award = award_of(earliest_start_s=WORLD_S + 50)
    bench.award(award)
    bench.staged(award.run_id)
    assert effects_of(bench.renewed(award.run_id, s=40), StartRun) == []
    assert len(effects_of(bench.tick(50), StartRun)) == 1


def test_a_run_that_stages_long_holds_no_other_up() -> None:
    bench = Bench()
    slow = award_of(A, gpu_count=4, task="oslo-1", deadline_s=WORLD_S)
    quick = award_of(gpu_count=4, task="oslo-2")
    bench.award(slow)
    bench.award(quick)
    bench.staged(quick.run_id)
    bench.renewed(slow.run_id, quick.run_id)
    assert bench.state(quick.run_id) is RunState.STAGING, "a 100 s fetch is expected soon"
    bench.renewed(slow.run_id, quick.run_id, s=101)
    assert bench.state(quick.run_id) is RunState.RUNNING


def test_an_artifact_that_came_for_another_run_is_kept_for_this_one() -> None:
    """I5: what a run counts on is not evicted when the run it was fetched for ends."""
    bench = Bench()
    first, second = award_of(A, task="oslo-1"), award_of(A, task="oslo-2")
    bench.award(first)
    bench.award(second)
    bring(bench, A, first.run_id)
    assert bench.participant.missing(second.run_id) == ()
    bench.take(bench.participant.revoked(first.run_id, now=at(1)))
    assert bench.participant.cache.evictions_for(ArtifactKind.MODEL, 10) is None


def test_an_artifact_under_way_at_the_award_is_kept_for_the_run_too() -> None:
    bench = Bench()
    bench.participant.cache.reserve(A, now_s=0.0)
    award = award_of(A)
    bench.award(award)
    bench.participant.cache.insert(A.artifact_id)
    assert bench.participant.cache.is_pinned(A.artifact_id, award.run_id)


def test_a_run_that_counted_on_a_fetch_that_failed_stages_again() -> None:
    bench = Bench()
    award = award_of(A)
    bench.award(award)
    bench.renewed(award.run_id)
    assert bench.staged(award.run_id).effects == (Stage(award.run_id),)
    assert bench.state(award.run_id) is RunState.LEASED


def test_a_run_does_not_start_on_a_copy_that_was_found_damaged() -> None:
    bench = Bench()
    award = award_of(A)
    bench.award(award)
    bring(bench, A, award.run_id)
    bench.staged(award.run_id)
    cache = bench.participant.cache
    cache.set_damaged(A.artifact_id, True)
    ready = bench.renewed(award.run_id)
    assert effects_of(ready, Stage) == [Stage(award.run_id)]
    assert not effects_of(ready, StartRun)
    assert not effects_of(bench.renewed(award.run_id), Stage), "it is being mended"
    cache.set_damaged(A.artifact_id, False)
    assert effects_of(bench.staged(award.run_id), StartRun)


def test_a_damaged_copy_is_fetched_into_the_room_that_it_has() -> None:
    bench = Bench()
    bring(bench, A, RunId("oslo-9.1.1"))
    bench.participant.cache.set_damaged(A.artifact_id, True)
    offer = bid(bench.participant, announcement_of(A))
    assert [fetch.artifact_id for fetch in offer.fetches] == [A.artifact_id]
    assert offer.evictions == ()


def test_staging_that_fails_fails_the_run_and_frees_what_it_held() -> None:
    bench = Bench()
    award = award_of(A, B)
    bench.award(award)
    bring(bench, A, award.run_id)
    ready = bench.take(bench.participant.staging_failed(award.run_id, "b: gone", now=at(5)))
    report = report_in(ready)
    assert (report.state, report.reason) == (RunState.FAILED, Reason.STAGING_FAILED)
    assert report.charge == Charge(transfer_usd=0.5, network_gco2=7.0, transfer_bytes=4)
    assert effects_of(ready, StopStaging) == [StopStaging(award.run_id)]
    assert bench.participant.cache.evictions_for(ArtifactKind.MODEL, 10) == (A.artifact_id,)


# ------------------------------------------------------------------------ leases


def test_a_renewal_lists_all_unfinished_runs_by_origin() -> None:
    bench, run = running()
    bench.award(award_of(A, task="rome-1", origin_address="rome:1"))
    ended = award_of(task="oslo-3")
    bench.award(ended)
    bench.take(bench.participant.revoked(ended.run_id, now=at(3)))
    renewals = bench.participant.renewals()
    assert sorted(renewals) == [ORIGIN, "rome:1"]
    (progress,) = renewals[ORIGIN].runs
    assert (progress.run_id, progress.state) == (run, RunState.RUNNING)
    assert progress.started_s == WORLD_S + 2
    (waiting,) = renewals["rome:1"].runs
    assert (waiting.fetched_bytes, waiting.fetch_bytes, waiting.started_s) == (0, 4, None)


def tails_sent(bench: Bench, tails: dict[RunId, LogTail]) -> dict[RunId, LogTail | None]:
    runs = bench.participant.renewals(tails)[ORIGIN].runs
    return {progress.run_id: progress.tail for progress in runs}


def test_a_tail_goes_with_each_renewal_until_it_is_answered() -> None:
    bench, run = running()
    tail, longer = LogTail(0, 4, "one\n"), LogTail(0, 8, "one\ntwo\n")
    assert tails_sent(bench, {}) == {run: None}
    assert bench.participant.writers(ORIGIN) == [run]
    for _ in range(2):
        assert tails_sent(bench, {run: tail}) == {run: tail}
    bench.participant.tails_heard({run: 4}, of=[run])
    assert tails_sent(bench, {run: tail}) == {run: None}, "nothing is new"
    assert tails_sent(bench, {run: longer}) == {run: longer}
    bench.participant.tails_heard({}, of=[run])
    assert tails_sent(bench, {run: tail}) == {run: tail}, "its origin has lost it"


def test_a_run_that_has_ended_has_no_tail_any_more() -> None:
    bench, run = running()
    bench.participant.tails_heard({run: 4}, of=[run])
    bench.exited(run)
    assert bench.participant.writers(ORIGIN) == [run], "it publishes"
    bench.take(bench.participant.published(run, EXIT_ZERO, now=at(3701)))
    bench.participant.tails_heard({run: 8}, of=[run])
    assert (bench.participant.writers(ORIGIN), bench.participant.told_bytes) == ([], {})


def test_the_tails_of_one_renewal_are_bounded_and_all_have_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(participant_module, "RENEWAL_TAIL_BYTES_MAX", 10)
    bench = Bench()
    awards = [award_of(task=f"oslo-{number}") for number in range(4)]
    for award in awards:
        bench.award(award)
    end_bytes, turns = 0, []
    for _ in range(4):
        end_bytes += 4  # all of them go on writing
        tails = {award.run_id: LogTail(end_bytes - 4, end_bytes, "abc\n") for award in awards}
        sent = {run for run, tail in tails_sent(bench, tails).items() if tail is not None}
        turns += sorted(sent)
        bench.participant.tails_heard(
            dict.fromkeys(sent, end_bytes)
            | {
                run: bench.participant.told_bytes[run]
                for run in bench.participant.told_bytes
                if run not in sent
            },
            of=[award.run_id for award in awards],
        )
        assert len(sent) == 2
    assert sorted(turns) == sorted([award.run_id for award in awards] * 2)


def test_a_running_run_s_lease_is_extended_and_never_shortened() -> None:
    bench, run = running()
    assert bench.renewed(run, s=12).effects == (ExtendLease(run, LEASE.holder_until_s(12)),)
    assert bench.renewed(run, sent_s=11, s=13).effects == (), "an older answer, overtaken"


def test_a_run_never_started_is_given_back_when_its_origin_falls_silent() -> None:
    bench = Bench()
    award = award_of()
    bench.award(award)
    bench.staged(award.run_id)
    assert bench.tick(ORPHAN_S).effects == ()
    report = report_in(bench.tick(ORPHAN_S + 1))
    assert (report.state, report.reason) == (RunState.LEASE_RETURNED, Reason.SITE_LOST)
    assert report.charge == Charge()


def test_a_revoked_run_is_stopped_and_reported_when_it_has_ended() -> None:
    bench, run = running()
    assert bench.take(bench.participant.revoked(run, now=at(5))).effects == (StopRun(run),)
    assert bench.take(bench.participant.revoked(run, now=at(6))).effects == (StopRun(run),)
    stopped = replace(EXIT_ZERO, exit_code=None, reason=Reason.CANCELLED_BY_USER)
    report = report_in(bench.exited(run, stopped))
    assert (report.state, report.reason) == (RunState.REVOKED, Reason.STALE_FENCE)


def test_a_cancelled_run_that_has_not_started_ends_at_once() -> None:
    bench = Bench()
    award = award_of(A)
    bench.award(award)
    ready = bench.take(bench.participant.revoked(award.run_id, now=at(1), is_cancelled=True))
    report = report_in(ready)
    assert (report.state, report.reason) == (RunState.CANCELLED, Reason.CANCELLED_BY_USER)
    assert effects_of(ready, StopStaging) == [StopStaging(award.run_id)]
    assert bench.participant.missing(award.run_id) == ()
    assert bench.staged(award.run_id) == NOTHING


def test_a_job_that_ends_well_while_being_stopped_has_succeeded() -> None:
    bench, run = running()
    bench.take(bench.participant.revoked(run, now=at(5)))
    assert bench.exited(run).effects == (Publish(run),)


def test_a_run_that_has_ended_cannot_be_stopped() -> None:
    """Whether its success counts is for the origin to say: it may have no newer attempt."""
    bench, run = running()
    bench.exited(run)
    assert bench.take(bench.participant.revoked(run, now=at(3701))) == NOTHING
    assert bench.take(bench.participant.stop_all(now=at(3702))) == NOTHING
    published = bench.take(bench.participant.published(run, EXIT_ZERO, now=at(3703)))
    assert report_in(published).state is RunState.SUCCEEDED


# ------------------------------------------------------------------------ ending


def test_a_success_is_published_before_it_is_reported_and_charged_by_its_hour() -> None:
    """1 GPU x 1 kW x PUE 1.5 for the hour that it executed."""
    bench, run = running()
    ready = bench.exited(run)
    assert (ready.effects, bench.state(run)) == ((Publish(run),), RunState.COMMITTING)
    report = report_in(bench.take(bench.participant.published(run, EXIT_ZERO, now=at(3800))))
    assert (report.state, report.exit_code, report.log_tail) == (RunState.SUCCEEDED, 0, "done\n")
    assert report.run_s == 3600.0
    assert report.charge.energy_usd == pytest.approx(1.5 * 0.1)
    assert report.charge.compute_gco2 == pytest.approx(150.0)
    assert report.charge.gpu_usd == pytest.approx(3.0)
    assert bench.participant.schedules["H100"].planned == {}


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        (Reason.EXIT_CODE, RunState.FAILED),
        (Reason.SITE_LOST, RunState.LEASE_EXPIRED),
        (Reason.EXECUTOR_FAILED, RunState.FAILED),
    ],
)
def test_the_work_of_an_attempt_that_failed_is_charged(reason: Reason, state: RunState) -> None:
    bench, run = running()
    report = report_in(bench.exited(run, replace(EXIT_ZERO, reason=reason, exit_code=1)))
    assert (report.state, report.reason) == (state, reason)
    assert report.charge.energy_kwh == pytest.approx(1.5)


def test_a_run_that_the_executor_never_started_has_used_nothing() -> None:
    """The agent may have died for hours between writing the start and making it."""
    bench, run = running()
    lost = replace(EXIT_ZERO, started_s=None, exit_code=None, reason=Reason.EXECUTOR_FAILED)
    report = report_in(bench.exited(run, lost))
    assert (report.charge, report.run_s) == (Charge(), 0.0)


def test_a_success_whose_outputs_are_lost_is_a_failure() -> None:
    bench, run = running()
    bench.exited(run)
    lost = replace(EXIT_ZERO, exit_code=None, reason=Reason.EXECUTOR_FAILED)
    report = report_in(bench.take(bench.participant.published(run, lost, now=at(3800))))
    assert (report.state, report.reason) == (RunState.FAILED, Reason.EXECUTOR_FAILED)


def test_an_answered_report_is_forgotten_and_the_executor_s_traces_removed() -> None:
    bench, run = running()
    bench.exited(run, replace(EXIT_ZERO, reason=Reason.EXIT_CODE))
    ready = bench.take(bench.participant.report_answered(run))
    assert ready == Ready((ForgetRun(run),), (Reap(run),))
    assert (bench.participant.runs, bench.participant.fences, bench.runs) == ({}, {}, {})
    assert bench.participant.report_answered(run) == NOTHING


def test_an_answer_to_an_earlier_report_does_not_end_a_run_that_was_awarded_again() -> None:
    bench, run = running()
    assert bench.participant.report_answered(run) == NOTHING
    assert bench.state(run) is RunState.RUNNING


def test_an_exit_of_a_run_that_is_over_is_only_cleaned_up() -> None:
    bench, run = running()
    bench.exited(run, replace(EXIT_ZERO, reason=Reason.EXIT_CODE))
    assert bench.exited(run) == Ready((), (Reap(run),))
    assert bench.exited(RunId("oslo-9.1.1")) == Ready((), (Reap(RunId("oslo-9.1.1")),))


# ------------------------------------------------------------------------ draining


def test_a_draining_site_returns_what_has_not_started_and_lets_the_rest_run() -> None:
    bench, run = running(award_of(gpu_count=4))
    waiting = award_of(task="oslo-2")
    bench.award(waiting)
    bench.staged(waiting.run_id)
    report = report_in(bench.take(bench.participant.drain(now=at(9))))
    assert report.run_id == waiting.run_id
    assert (report.state, report.reason) == (RunState.LEASE_RETURNED, Reason.SITE_DRAINING)
    assert bench.state(run) is RunState.RUNNING
    answer = bench.award(award_of(task="oslo-3"))
    assert (answer.is_accepted, answer.reason) == (False, Reason.SITE_DRAINING)


def test_what_still_runs_at_the_end_of_the_grace_is_stopped_and_given_back() -> None:
    bench, run = running()
    bench.take(bench.participant.drain(now=at(9)))
    assert bench.take(bench.participant.stop_all(now=at(60))).effects == (StopRun(run),)
    stopped = replace(EXIT_ZERO, exit_code=None, reason=Reason.CANCELLED_BY_USER)
    report = report_in(bench.exited(run, stopped))
    assert (report.state, report.reason) == (RunState.REVOKED, Reason.SITE_DRAINING)


def test_a_run_stopped_by_a_drain_is_given_back_even_if_its_exit_is_seen_after_a_restart() -> None:
    bench, run = running()
    bench.take(bench.participant.drain(now=at(9)))
    bench.take(bench.participant.stop_all(now=at(60)))
    bench.restart()
    stopped = replace(EXIT_ZERO, exit_code=None, reason=Reason.CANCELLED_BY_USER)
    report = report_in(bench.exited(run, stopped))
    assert (report.state, report.reason) == (RunState.REVOKED, Reason.SITE_DRAINING)


# ------------------------------------------------------------------------ restarts


def test_after_a_restart_what_had_been_staged_is_looked_for_again() -> None:
    bench = Bench()
    award = award_of(A)
    bench.award(award)
    bring(bench, A, award.run_id)
    bench.staged(award.run_id)
    assert bench.restart().effects == (Stage(award.run_id), RenewSoon(ORIGIN))
    assert effects_of(bench.renewed(award.run_id, s=250), StartRun) == [], "the copy is gone"
    assert bench.participant.missing(award.run_id) == award.needs
    bring(bench, A, award.run_id)
    assert len(effects_of(bench.staged(award.run_id, s=252), StartRun)) == 1


def test_after_a_restart_a_running_run_is_adopted_and_keeps_its_devices() -> None:
    bench, run = running(award_of(gpu_count=2))
    ready = bench.restart()
    assert ready == Ready((), (Adopt(run), RenewSoon(ORIGIN)))
    assert bench.participant.schedules["H100"].free_devices() == (2, 3)
    assert bench.renewed(run, s=101).effects == (ExtendLease(run, LEASE.holder_until_s(101)),)


def test_after_a_restart_outputs_are_published_and_reports_sent_again() -> None:
    bench, run = running()
    bench.exited(run)
    assert effects_of(bench.restart(), Publish) == [Publish(run)]
    bench.take(bench.participant.published(run, EXIT_ZERO, now=at(101)))
    report = report_in(bench.restart())
    assert (report.run_id, report.state) == (run, RunState.SUCCEEDED)
    assert bench.participant.renewals() == {}


def test_after_a_restart_an_older_award_is_still_declined() -> None:
    bench = Bench()
    bench.award(award_of(attempt=3))
    bench.restart()
    assert bench.award(award_of(attempt=2)).reason is Reason.STALE_FENCE


def test_a_run_kept_over_a_restart_is_not_yet_an_orphan() -> None:
    bench = Bench()
    bench.award(award_of())
    bench.restart(s=10_000)
    assert bench.tick(10_000 + ORPHAN_S - 1).effects == ()


# ------------------------------------------------------------------------ what the broker is told


def test_the_digest_counts_gpus_that_are_promised_as_taken() -> None:
    bench, _ = running(award_of(gpu_count=2))
    bench.award(award_of(A, task="oslo-2", gpu_count=1))
    digest = bench.participant.digest(now=at(2))
    assert [(pool.type, pool.free_count) for pool in digest.pools] == [("T4", 1), ("H100", 1)]
    assert digest.pools[1].committed_gpu_s == pytest.approx(3 * 600.0)
    assert (digest.run_count, digest.awarded_count, digest.is_draining) == (2, 2, False)
    assert (digest.carbon_gco2_per_kwh, digest.price_usd_per_kwh) == (100.0, 0.1)


def test_a_task_without_deadline_is_the_least_urgent() -> None:
    bench = Bench()
    bench.award(award_of())
    (planned,) = bench.participant.schedules["H100"].planned.values()
    assert planned.latest_start_s == math.inf


# ------------------------------------------------------------------------ priority


def test_a_higher_priority_stops_a_lower_one_only_where_the_site_allows_it() -> None:
    for may_preempt in (False, True):
        count = SITE.pools[1].gpu_count
        bench, low = running(award_of(gpu_count=count))
        bench.participant.may_preempt = may_preempt
        urgent = award_of(task="oslo-2", gpu_count=count, priority=1)
        bench.award(urgent)
        bench.staged(urgent.run_id)
        stopped = effects_of(bench.renewed(low, urgent.run_id), StopRun)
        assert [effect.run_id for effect in stopped] == ([low] if may_preempt else [])
        assert not effects_of(bench.tick(3), StopRun), "it is told once"
        if may_preempt:
            gone = replace(EXIT_ZERO, exit_code=None, reason=Reason.CANCELLED_BY_USER)
            report = report_in(bench.exited(low, gone))
            assert (report.state, report.reason) == (RunState.PREEMPTED, Reason.PREEMPTED)


def test_equal_priorities_never_stop_each_other() -> None:
    count = SITE.pools[1].gpu_count
    bench, low = running(award_of(gpu_count=count, priority=1))
    bench.participant.may_preempt = True
    other = award_of(task="oslo-2", gpu_count=count, priority=1)
    bench.award(other)
    bench.staged(other.run_id)
    assert not effects_of(bench.renewed(low, other.run_id), StopRun)


def test_a_site_says_that_it_lacks_a_secret_or_an_executor_of_images() -> None:
    participant = new_participant()
    assert refusal(participant, announcement_of(secrets=("A", "B"))).reason is Reason.SECRET_MISSING
    assert refusal(participant, announcement_of(image="x")).reason is Reason.IMAGE_UNSUPPORTED
    participant.secret_names = frozenset({"A", "B", "C"})
    participant.runs_images = True
    assert bid(participant, announcement_of(secrets=("A", "B"), image="x"))


# ------------------------------------------------------------------------ streaming to scratch


def streaming(*held: Artifact) -> Participant:
    participant = new_participant(*held)
    participant.streams_to_scratch = True
    return participant


LARGE = artifact("d", size_bytes=11)


def test_what_no_cache_holds_is_offered_where_it_can_be_streamed() -> None:
    assert refusal(new_participant(), announcement_of(LARGE)).reason is Reason.ARTIFACT_TOO_LARGE
    offer = bid(streaming(A), announcement_of(LARGE))
    assert [fetch.name for fetch in offer.fetches] == ["d"]
    assert offer.charge.transfer_bytes == 11
    assert offer.evictions == (), "nothing makes room for what goes to scratch"


def test_where_everything_is_in_use_the_newcomer_is_offered_as_streamed() -> None:
    """Two models of 4 bytes are pinned in a cache of 10."""
    bench = Bench(new_participant(A, B))
    for task, held in (("oslo-2", A), ("oslo-3", B)):
        bench.award(award_of(held, task=task))
    assert refusal(bench.participant, announcement_of(C)).reason is Reason.CACHE_FULL
    bench.participant.streams_to_scratch = True
    offer = bid(bench.participant, announcement_of(C))
    assert [fetch.name for fetch in offer.fetches] == ["c"]
    assert offer.evictions == ()


def test_what_lies_in_scratch_is_missed_by_other_runs_only() -> None:
    bench = Bench(streaming())
    runs = [award_of(LARGE, task=f"oslo-{i}") for i in (1, 2)]
    for award in runs:
        bench.award(award)
    first, second = (award.run_id for award in runs)
    bench.participant.streamed(first, LARGE.artifact_id)
    assert bench.participant.missing(first) == ()
    assert [need.name for need in bench.participant.missing(second)] == ["d"]
    bench.staged(first)
    assert effects_of(bench.renewed(first), StartRun)
    assert bench.staged(second).effects == (Stage(second),)
    assert not bench.participant.cache.has(LARGE.artifact_id)


def test_what_lies_in_scratch_no_longer_counts_as_bytes_to_come() -> None:
    bench = Bench(streaming())
    award = award_of(LARGE)
    bench.award(award)
    progress = bench.participant.renewals()[ORIGIN].runs[0]
    assert progress.fetch_bytes == 11
    bench.participant.streamed(award.run_id, LARGE.artifact_id)
    assert bench.participant.renewals()[ORIGIN].runs[0].fetch_bytes == 0


def test_scratch_goes_with_its_run() -> None:
    bench = Bench(streaming())
    award = award_of(LARGE)
    bench.award(award)
    bench.participant.streamed(award.run_id, LARGE.artifact_id)
    bench.take(bench.participant.drain(now=at(1)))
    assert bench.participant.scratch == {}


# ------------------------------------------------------------------------ giving back


def giving_back(*, gives_back_late: bool = True) -> Bench:
    participant = new_participant()
    participant.gives_back_late = gives_back_late
    return Bench(participant)


def queued(bench: Bench, task: str, *, deadline: float, s: float = 0, attempt: int = 1) -> RunId:
    """Accept a run of four GPUs and 600 s that is staged and waits for the pool."""
    award = award_of(task=task, attempt=attempt, gpu_count=4, deadline_s=WORLD_S + deadline)
    assert bench.award(award, s=s).is_accepted
    bench.staged(award.run_id, s=s)
    return award.run_id


def behind_one_that_overruns(bench: Bench, deadline: float, *, attempt: int = 1) -> RunId:
    """A run that waits for another one, of whose 600 s it knew; that one takes longer."""
    first = queued(bench, "oslo-1", deadline=1e6)
    bench.renewed(first)
    return queued(bench, "oslo-2", deadline=deadline, s=3, attempt=attempt)


def give_back(bench: Bench, s: float) -> list[Report]:
    ready = bench.take(bench.participant.give_back_late(now=at(s)))
    return [effect.report for effect in effects_of(ready, SendReport)]


def test_a_run_that_has_come_to_be_late_is_given_back() -> None:
    bench = giving_back()
    late = behind_one_that_overruns(bench, deadline=1300)
    assert give_back(bench, 300) == [], "600 s and 600 s end in time"
    (report,) = give_back(bench, 800)
    assert (report.run_id, report.state) == (late, RunState.LEASE_RETURNED)
    assert report.reason is Reason.PREDICTED_LATE
    assert report.charge == Charge()
    assert give_back(bench, 801) == [], "once"


def test_a_run_is_given_back_while_its_median_end_is_still_in_time() -> None:
    """What counts is how far its expected penalty has grown."""
    bench = giving_back()
    bench.renewed(queued(bench, "oslo-1", deadline=1e6))
    spread = replace(PREDICTION, run_time=RunTime.lognormal(600.0, 0.3))
    award = award_of(
        task="oslo-2",
        gpu_count=4,
        deadline_s=WORLD_S + 1700,
        predictions=(spread,),
        terms=replace(TERMS, late_penalty=LatePenalty(10.0, 1.0, 4.0)),
    )
    assert bench.award(award, s=3).is_accepted
    bench.staged(award.run_id, s=3)
    assert give_back(bench, 610) == [], "late with a few per cent, as was offered"
    # At 1000 s the one before it is thought to take 10 s more: the median end is 1610 s.
    (report,) = give_back(bench, 1000)
    assert report.run_id == award.run_id


def test_a_run_that_was_late_from_the_beginning_stays() -> None:
    bench = giving_back()
    behind_one_that_overruns(bench, deadline=1000)
    assert give_back(bench, 800) == []


def test_who_has_had_its_turns_stays() -> None:
    """A fourth attempt follows three that were given back."""
    for attempt, count in ((REAUCTION_COUNT_MAX, 1), (REAUCTION_COUNT_MAX + 1, 0)):
        bench = giving_back()
        behind_one_that_overruns(bench, deadline=1300, attempt=attempt)
        assert len(give_back(bench, 800)) == count


def test_only_who_says_so_gives_back() -> None:
    bench = giving_back(gives_back_late=False)
    behind_one_that_overruns(bench, deadline=1300)
    assert give_back(bench, 800) == []


def test_the_last_of_the_queue_goes_first_and_may_save_those_before_it() -> None:
    bench = giving_back()
    behind_one_that_overruns(bench, deadline=1500)
    last = queued(bench, "oslo-3", deadline=1900, s=4)
    # At 800 s the first is thought to take 8 s more: 1408 is in time, 2008 is not.
    assert [report.run_id for report in give_back(bench, 800)] == [last]


def test_a_run_without_deadline_or_without_its_artifacts_is_not_given_back() -> None:
    bench = giving_back()
    first = queued(bench, "oslo-1", deadline=1e6)
    bench.renewed(first)
    bench.award(award_of(task="oslo-2", gpu_count=4), s=3)
    bench.staged(award_of(task="oslo-2").run_id, s=3)
    bench.award(award_of(A, task="oslo-3", gpu_count=4, deadline_s=WORLD_S + 2000), s=3)
    assert give_back(bench, 5000) == []
