from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from gcos.accounting import Charge, CostScope, LatePenalty
from gcos.artifacts import ArtifactKind
from gcos.contract_net import (
    ArtifactNeed,
    AwardAnswer,
    Bid,
    Fetch,
    Holder,
    Refusal,
    Renewal,
    Report,
    ReportAnswer,
    RunProgress,
    Verdict,
)
from gcos.durations import Outcome, Prediction, PredictionSource, RunTime
from gcos.errors import QueueFullError, UnknownTaskError
from gcos.ids import ArtifactId, Fence, RunId, SiteId, TaskId, run_id
from gcos.ledger import LedgerEntry
from gcos.log_tails import HeardTail, LogTail
from gcos.task_record import Task
from gcos.tasks import (
    Disconnect,
    GpuRequest,
    Placement,
    Reason,
    Reconcile,
    Retry,
    RetryCause,
    RunState,
    TaskSpec,
    TaskState,
)
from site_agent import origin as origin_module
from site_agent.auction import Auction, judge
from site_agent.effects import (
    AddEntry,
    Negotiate,
    Note,
    Now,
    Observe,
    Ready,
    SaveTask,
    SendAward,
    SendRejections,
    SendRevoke,
)
from site_agent.lease import LeaseTerms
from site_agent.origin import AWARD_RETRY_S, NO_BID_PAUSE_MAX_S, Origin, OriginSettings
from testbed.samples import FETCH

HERE, PARIS, WARSAW = SiteId("oslo"), SiteId("paris"), SiteId("warsaw")
LEASE = LeaseTerms()
TASK = TaskId("oslo-1")
WORLD_S = 1_700_000_000.0
SPEC = TaskSpec("t", command=("true",))
PREDICTION = Prediction(
    pool_type="H100", run_time=RunTime.lognormal(3600.0, 0.3), source=PredictionSource.PRIOR
)
MODEL = ArtifactNeed(
    artifact_id=ArtifactId("sha256:" + "a" * 64), kind=ArtifactKind.MODEL, name="m", size_bytes=9
)
AT_ORIGIN = Charge(energy_usd=5.0)


def at(protocol_s: float) -> Now:
    """Both axes run together here; the world's begins elsewhere."""
    return Now(protocol_s, WORLD_S + protocol_s)


def bid_of(site: SiteId = PARIS, offer_usd: float = 1.0, **changes: object) -> Bid:
    bid = Bid(
        site_id=site,
        task_id=TASK,
        offer_usd=offer_usd,
        score_ratio=0.0,
        actor="joint/1",
        pool_type="H100",
        start_s=WORLD_S,
        is_deferred=False,
        p50_finish_s=WORLD_S + 100,
        p90_finish_s=WORLD_S + 200,
        late_probability=0.0,
        charge=Charge(),
        p90_cost_usd=offer_usd,
        p90_carbon_gco2=100.0,
        is_carbon_known=True,
        fetches=(),
        evictions=(),
        valid_until_s=WORLD_S + 300,
    )
    return replace(bid, **changes)


def refusal_of(reason: Reason, site: SiteId = PARIS) -> Refusal:
    return Refusal(site, reason, f"{site} says {reason.value}")


def new_origin() -> Origin:
    return Origin(
        settings=OriginSettings(
            site_id=HERE,
            address="oslo:1",
            lease=LEASE,
            carbon_price_usd_per_kg=0.2,
            network_kwh_per_gb=0.0065,
            scope=CostScope.OPERATOR,
        ),
        at_origin=lambda _task, _report: AT_ORIGIN,
    )


@dataclass
class Bench:
    """An origin and the books that its writes make."""

    origin: Origin = field(default_factory=new_origin)
    tasks: dict[TaskId, Task] = field(default_factory=dict)
    ledger: dict[RunId, LedgerEntry] = field(default_factory=dict)

    def take(self, ready: Ready) -> Ready:
        for write in ready.writes:
            if isinstance(write, SaveTask):
                self.tasks[write.task.task_id] = write.task
            elif isinstance(write, AddEntry):
                assert write.entry.run_id not in self.ledger, "charged twice"
                self.ledger[write.entry.run_id] = write.entry
        self.origin.check_invariants()
        for task_id, task in self.tasks.items():
            assert self.origin.tasks[task_id].state is task.state, "a state is not on disk"
        return ready

    def submit(self, spec: TaskSpec = SPEC, *, needs: tuple[ArtifactNeed, ...] = ()) -> Ready:
        _, ready = self.origin.submit(TASK, spec, needs, (), now=at(0))
        return self.take(ready)

    def close(self, *bids: Bid, s: float = 1, **changes: object) -> Ready:
        auction = Auction((PREDICTION,), (), bids, (), is_complete=True)
        auction = replace(auction, **changes)
        return self.take(self.origin.close_auction(TASK, auction, now=at(s)))

    def answer(self, answer: AwardAnswer, *, s: float = 2) -> Ready:
        return self.take(self.origin.award_answered(self.run_id, answer, now=at(s)))

    def renew(
        self,
        state: RunState = RunState.RUNNING,
        *,
        s: float = 3,
        run: RunId | None = None,
        site: SiteId = PARIS,
        tail: LogTail | None = None,
    ) -> Verdict:
        progress = RunProgress(
            run or self.run_id, state, Reason.EXECUTING, started_s=WORLD_S, tail=tail
        )
        answer, ready = self.origin.renew(Renewal(site, "i", (progress,)), now=at(s))
        self.take(ready)
        self.tail_end_bytes, self.last = answer.tail_end_bytes, ready
        return answer.verdicts[progress.run_id]

    def report(self, report: Report, *, s: float = 100) -> ReportAnswer:
        answer, ready = self.origin.report(report, now=at(s))
        self.last = self.take(ready)
        return answer

    def tick(self, s: float) -> Ready:
        return self.take(self.origin.tick(now=at(s)))

    def restart(self, s: float) -> Ready:
        """Begin again with what was written."""
        self.origin = new_origin()
        charged = self.ledger
        return self.take(self.origin.restore(self.tasks.values(), now=at(s), charged=charged))

    @property
    def task(self) -> Task:
        return self.origin.tasks[TASK]

    @property
    def run_id(self) -> RunId:
        return self.task.active_run_id


def awarded(spec: TaskSpec = SPEC, **changes: object) -> Bench:
    bench = Bench()
    bench.submit(spec, **changes)
    bench.close(bid_of())
    return bench


def running(spec: TaskSpec = SPEC, **changes: object) -> Bench:
    bench = awarded(spec, **changes)
    bench.answer(AwardAnswer(True))
    bench.renew()
    return bench


def report_of(
    bench: Bench,
    state: RunState = RunState.SUCCEEDED,
    reason: Reason = Reason.EXITED_ZERO,
    *,
    attempt: int | None = None,
    site: SiteId = PARIS,
    **changes: object,
) -> Report:
    fence = bench.task.fence if attempt is None else Fence(1, attempt)
    report = Report(
        run_id=run_id(TASK, fence),
        task_id=TASK,
        fence=fence,
        site_id=site,
        state=state,
        reason=reason,
        message="",
        exit_code=0,
        pool_type="H100",
        accepted_s=WORLD_S,
        staged_s=WORLD_S,
        started_s=WORLD_S + 10,
        ended_s=WORLD_S + 90,
        charge=Charge(energy_usd=2.0),
        fetches=(),
        evictions=(),
        is_energy_measured=False,
        log_tail="",
    )
    return replace(report, **changes)


def effects_of(ready: Ready, kind: type) -> list:
    return [effect for effect in (*ready.at_once, *ready.effects) if isinstance(effect, kind)]


# ------------------------------------------------------------------------ submitting, cancelling


def test_a_task_is_written_before_anybody_hears_of_it() -> None:
    bench = Bench()
    ready = bench.submit()
    assert [type(write) for write in ready.writes] == [SaveTask, Note]
    assert ready.effects == (Negotiate(TASK),)


def test_the_same_request_gets_the_first_task() -> None:
    bench = Bench()
    spec = replace(SPEC, request_id="r")
    first, _ = bench.origin.submit(TASK, spec, (), (), now=at(0))
    again, ready = bench.origin.submit(TaskId("oslo-2"), spec, (), (), now=at(9))
    assert again == first
    assert ready.effects == ()
    assert ready.writes == ()
    assert list(bench.origin.tasks) == [TASK]


def test_requests_are_remembered_over_a_restart_and_after_the_end() -> None:
    bench = Bench()
    bench.submit(replace(SPEC, request_id="r"))
    bench.take(bench.origin.cancel(TASK, now=at(1))[2])
    bench.restart(2)
    again, _ = bench.origin.submit(
        TaskId("oslo-2"), replace(SPEC, request_id="r"), (), (), now=at(3)
    )
    assert again.task_id == TASK


def test_a_full_origin_refuses_and_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin_module, "ACTIVE_COUNT_MAX", 1)
    bench = Bench()
    bench.submit()
    with pytest.raises(QueueFullError):
        bench.origin.submit(TaskId("oslo-2"), SPEC, (), (), now=at(1))
    assert list(bench.origin.tasks) == [TASK]


def test_a_queued_task_is_cancelled_without_a_word_to_anybody() -> None:
    bench = Bench()
    bench.submit()
    task, is_cancelled, ready = bench.origin.cancel(TASK, now=at(1))
    assert (task.state, is_cancelled) == (TaskState.CANCELLED, True)
    assert bench.take(ready).effects == ()


@pytest.mark.parametrize("make", [awarded, running])
def test_the_holder_of_a_cancelled_task_is_told(make: object) -> None:
    bench = make()
    run = bench.run_id
    *_, ready = bench.origin.cancel(TASK, now=at(5))
    assert bench.take(ready).effects == (SendRevoke(PARIS, run),)
    assert bench.renew(run=run, s=6) is Verdict.REVOKED


def test_a_cancellation_wins_over_a_later_report_which_is_charged() -> None:
    bench = running()
    bench.take(bench.origin.cancel(TASK, now=at(5))[2])
    answer = bench.report(report_of(bench))
    assert not answer.is_accepted
    assert bench.task.state is TaskState.CANCELLED
    assert bench.ledger[bench.run_id].charge.energy_usd == 2.0


def test_a_report_wins_over_a_later_cancellation() -> None:
    bench = running()
    bench.report(report_of(bench))
    task, is_cancelled, ready = bench.origin.cancel(TASK, now=at(101))
    assert (task.state, is_cancelled) == (TaskState.SUCCEEDED, False)
    assert bench.take(ready) == Ready()


def test_nobody_cancels_a_task_that_is_not_here() -> None:
    with pytest.raises(UnknownTaskError):
        Bench().origin.cancel(TASK, now=at(0))


# ------------------------------------------------------------------------ auctions


def test_the_lowest_offer_gets_the_award_under_a_new_fence() -> None:
    bench = Bench()
    bench.submit()
    ready = bench.close(bid_of(PARIS, 2.0), bid_of(WARSAW, 1.0))
    (award,) = ready.at_once
    assert isinstance(award, SendAward)
    assert award.to == WARSAW
    assert award.award.fence == Fence(1, 1)
    assert bench.tasks[TASK].fence == Fence(1, 1)
    (losers,) = effects_of(ready, SendRejections)
    (loser,) = losers.rejections
    assert loser[0] == PARIS
    assert (loser[1].winning_offer_usd, loser[1].offer_usd) == (1.0, 2.0)


def test_losers_hear_the_lowest_offer_of_those_who_lacked_copies_had_they_been_there() -> None:
    def lacking(transfer_usd: float) -> dict[str, object]:
        return {"fetches": (FETCH,), "charge": Charge(transfer_usd=transfer_usd)}

    bids = (
        bid_of(WARSAW, 1.0),
        bid_of(PARIS, 2.0, **lacking(1.4)),
        bid_of(SiteId("fra"), 2.5, **lacking(1.0)),
        bid_of(SiteId("iad"), 3.0),
    )
    for offered, claim in ((bids, 0.6), ((bids[0], bids[3]), None)):
        bench = Bench()
        bench.submit()
        (losers,) = effects_of(bench.close(*offered), SendRejections)
        for _, rejection in losers.rejections:
            assert rejection.best_with_copies_usd == (claim and pytest.approx(claim))


def test_a_task_cancelled_while_announced_is_not_awarded() -> None:
    bench = Bench()
    bench.submit()
    bench.take(bench.origin.cancel(TASK, now=at(1))[2])
    assert bench.close(bid_of()) == Ready()


def test_a_task_is_announced_once_at_a_time() -> None:
    bench = Bench()
    bench.submit()
    assert bench.tick(5).effects == ()
    bench.close(refusals=(refusal_of(Reason.CACHE_FULL),), s=6)
    assert bench.tick(6.5).effects == ()
    assert bench.tick(7.1).effects == (Negotiate(TASK),)


def test_pauses_between_vain_announcements_double_up_to_a_limit() -> None:
    bench = Bench()
    bench.submit()
    now_s, pauses = 0.0, []
    for _ in range(8):
        bench.close(refusals=(refusal_of(Reason.QUEUE_FULL),), s=now_s)
        closed_s = now_s
        while not bench.tick(now_s).effects:
            now_s += 0.5
        pauses.append(now_s - closed_s)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, NO_BID_PAUSE_MAX_S]


@pytest.mark.parametrize(
    ("refusals", "reason"),
    [((), Reason.NO_SITE_REACHABLE), ((refusal_of(Reason.SITE_DRAINING),), Reason.NO_BID)],
)
def test_a_task_that_nobody_takes_now_stays_queued_and_says_why(
    refusals: tuple[Refusal, ...], reason: Reason
) -> None:
    bench = Bench()
    bench.submit()
    bench.close(refusals=refusals)
    assert (bench.task.state, bench.task.reason) == (TaskState.QUEUED, reason)


def test_a_task_that_no_site_can_ever_run_is_rejected() -> None:
    refusals = (
        refusal_of(Reason.GPU_TYPE_UNKNOWN),
        refusal_of(Reason.PLACEMENT_EXCLUDES, WARSAW),
    )
    bench = Bench()
    bench.submit()
    bench.close(refusals=refusals)
    assert (bench.task.state, bench.task.reason) == (TaskState.REJECTED, Reason.NO_CANDIDATE)
    assert "warsaw says" in bench.task.message


@pytest.mark.parametrize(
    "changes",
    [
        {"is_complete": False, "refusals": (refusal_of(Reason.GPU_TYPE_UNKNOWN),)},
        {"refusals": (refusal_of(Reason.GPU_TYPE_UNKNOWN), refusal_of(Reason.CACHE_FULL, WARSAW))},
        {"refusals": ()},
    ],
    ids=["a site was silent", "a site is full", "nobody was asked"],
)
def test_a_task_is_not_rejected_while_some_site_might_take_it(changes: dict) -> None:
    bench = Bench()
    bench.submit()
    bench.close(**changes)
    assert bench.task.state is TaskState.QUEUED


def test_a_hard_cost_limit_rejects_and_shows_the_nearest_offer() -> None:
    bench = Bench()
    bench.submit(replace(SPEC, max_cost_usd=0.5))
    bench.close(bid_of(PARIS, 0.75), bid_of(WARSAW, 2.0))
    assert (bench.task.state, bench.task.reason) == (TaskState.REJECTED, Reason.OVER_COST_LIMIT)
    assert "$0.75" in bench.task.message


def test_a_hard_carbon_limit_admits_no_site_above_it() -> None:
    bench = Bench()
    bench.submit(replace(SPEC, max_carbon_gco2=500.0))
    bench.close(bid_of(p90_carbon_gco2=501.0))
    assert (bench.task.state, bench.task.reason) == (TaskState.REJECTED, Reason.OVER_CARBON_LIMIT)


def test_a_carbon_limit_waits_for_a_missing_signal_rather_than_rejecting_for_good() -> None:
    bench = Bench()
    bench.submit(replace(SPEC, max_carbon_gco2=500.0))
    bench.close(bid_of(is_carbon_known=False, p90_carbon_gco2=0.0))
    assert (bench.task.state, bench.task.reason) == (TaskState.QUEUED, Reason.NO_BID)
    assert "carbon signal is missing" in bench.task.message


def auction_of(*bids: Bid, **changes) -> Auction:
    return replace(Auction((PREDICTION,), (), bids, (), is_complete=True), **changes)


def test_a_dearer_offer_within_the_limits_wins_over_a_cheaper_one_beyond_them() -> None:
    spec = replace(SPEC, max_carbon_gco2=500.0)
    judged = judge(spec, auction_of(bid_of(PARIS, 1.0, p90_carbon_gco2=501.0), bid_of(WARSAW, 9.0)))
    assert [bid.site_id for bid in judged.ranked] == [WARSAW]
    assert [refusal.site_id for refusal in judged.refusals] == [PARIS]


def test_scores_count_among_equal_actors_only() -> None:
    bids = [bid_of(PARIS, 1.0, score_ratio=0.0), bid_of(WARSAW, 2.0, score_ratio=-5.0)]
    assert judge(SPEC, auction_of(*bids)).ranked[0].site_id == WARSAW
    bids[0] = replace(bids[0], actor="maccs/2")
    assert judge(SPEC, auction_of(*bids)).ranked[0].site_id == PARIS


def test_ties_go_to_the_lower_site_id_and_to_a_preferred_site_first() -> None:
    bids = [bid_of(WARSAW), bid_of(PARIS)]
    assert judge(SPEC, auction_of(*bids)).ranked[0].site_id == PARIS
    prefers = replace(SPEC, placement=Placement(prefer=("warsaw",)))
    assert judge(prefers, auction_of(*bids)).ranked[0].site_id == WARSAW
    by_zone = replace(SPEC, placement=Placement(prefer=("PL",)))
    assert judge(by_zone, auction_of(*bids)).ranked[0].site_id == PARIS
    zoned = auction_of(*bids, zones={WARSAW: "PL", PARIS: "FR"})
    assert judge(by_zone, zoned).ranked[0].site_id == WARSAW
    dearer = [bid_of(WARSAW, 1.02), bid_of(PARIS)]
    assert judge(prefers, auction_of(*dearer)).ranked[0].site_id == PARIS


def test_the_carbon_price_is_the_task_s_or_else_the_origin_s() -> None:
    origin = new_origin()
    assert origin.terms_of(SPEC, ()).carbon_price_usd_per_kg == 0.2
    free = replace(SPEC, carbon_price_usd_per_kg=0.0)
    assert origin.terms_of(free, ()).carbon_price_usd_per_kg == 0.0


def test_the_penalty_grows_with_predicted_gpu_hours() -> None:
    spec = replace(SPEC, gpu=GpuRequest("any", 2))
    hours = 2 * PREDICTION.run_time.mean_s / 3600
    slower = replace(PREDICTION, run_time=PREDICTION.run_time.scaled(5), pool_type="A100")
    penalty = new_origin().terms_of(spec, (slower, PREDICTION)).late_penalty
    assert penalty.fixed_usd == pytest.approx(0.5 + 0.5 * hours)
    assert penalty.per_h_usd == pytest.approx(0.25 * hours)


# ------------------------------------------------------------------------ deferring


def deferred_bid(start_s: float, *, fetch_s: float = 0.0) -> Bid:
    fetch = Fetch(
        artifact_id=MODEL.artifact_id,
        name="m",
        size_bytes=9,
        source=Holder(WARSAW, "PL", "w:1"),
        duration_s=fetch_s,
        cost_usd=0.0,
        carbon_gco2=0.0,
    )
    return bid_of(is_deferred=True, start_s=WORLD_S + start_s, fetches=(fetch,))


def test_a_deferred_task_waits_without_a_lease_and_is_announced_at_its_wake() -> None:
    bench = Bench()
    bench.submit()
    ready = bench.close(deferred_bid(3600.0, fetch_s=600.0))
    assert effects_of(ready, SendAward) == []
    assert (bench.task.state, bench.task.reason) == (TaskState.WAITING, Reason.GREENER_START)
    assert bench.task.fence == Fence(1, 0)
    assert bench.task.wake_s == WORLD_S + 3000.0, "early enough to fetch what is missing"
    assert bench.tick(2999).effects == ()
    assert bench.tick(3000).effects == (Negotiate(TASK),)
    assert bench.task.state is TaskState.QUEUED
    bench.close(bid_of(), s=3001)
    assert bench.task.state is TaskState.AWARDING


def test_a_task_held_until_its_earliest_start_says_so() -> None:
    bench = Bench()
    bench.submit(replace(SPEC, earliest_start_s=WORLD_S + 3600))
    bench.close(deferred_bid(3600.0))
    assert bench.task.reason is Reason.NOT_BEFORE


def test_a_task_held_beyond_its_earliest_start_waits_for_a_greener_one() -> None:
    bench = Bench()
    bench.submit(replace(SPEC, earliest_start_s=WORLD_S + 3600))
    bench.close(deferred_bid(4 * 3600.0))
    assert bench.task.reason is Reason.GREENER_START


def test_a_waiting_task_may_be_cancelled_and_waits_on_over_a_restart() -> None:
    bench = Bench()
    bench.submit()
    bench.close(deferred_bid(3600.0))
    assert bench.restart(100).effects == ()
    *_, ready = bench.origin.cancel(TASK, now=at(101))
    assert bench.take(ready).effects == ()
    assert bench.tick(5000) == Ready()


# ------------------------------------------------------------------------ awards


def test_a_declined_award_is_announced_again_after_a_pause() -> None:
    bench = awarded()
    ready = bench.answer(AwardAnswer(False, Reason.QUEUE_FULL, "full"))
    assert ready.effects == ()
    assert (bench.task.state, bench.task.reason) == (TaskState.QUEUED, Reason.AWARD_DECLINED)
    assert bench.tick(2.5).effects == ()
    assert bench.tick(3.1).effects == (Negotiate(TASK),)
    bench.close(bid_of(WARSAW), s=4)
    assert bench.task.fence == Fence(1, 2)
    assert bench.task.failure_count == 0


def test_an_unanswered_award_is_sent_again_with_the_same_id() -> None:
    bench = awarded()
    assert bench.tick(1.5).effects == ()
    (again,) = bench.tick(1 + AWARD_RETRY_S).effects
    assert isinstance(again, SendAward)
    assert again.award.run_id == bench.run_id
    assert bench.tick(1.5 + AWARD_RETRY_S).effects == ()


def test_an_award_that_is_never_answered_is_given_up_after_a_lease_and_a_margin() -> None:
    bench = awarded()
    run = bench.run_id
    until_s = LEASE.origin_until_s(1)
    bench.tick(until_s - 0.1)
    assert bench.task.state is TaskState.AWARDING
    bench.tick(until_s)
    assert bench.task.state is TaskState.QUEUED
    assert bench.renew(run=run, s=until_s + 1) is Verdict.REVOKED
    assert (
        bench.take(bench.origin.award_answered(run, AwardAnswer(True), now=at(until_s + 2)))
        == Ready()
    )


def test_a_renewal_says_that_an_award_was_accepted() -> None:
    bench = awarded()
    assert bench.renew(RunState.STAGING) is Verdict.CONTINUE
    assert bench.task.state is TaskState.STAGING
    bench.answer(AwardAnswer(False, Reason.QUEUE_FULL), s=4)  # an older answer, overtaken
    assert bench.task.state is TaskState.STAGING


def test_an_answer_to_an_older_award_is_ignored() -> None:
    bench = awarded()
    old = bench.run_id
    bench.answer(AwardAnswer(False, Reason.QUEUE_FULL))
    bench.tick(4)
    bench.close(bid_of(WARSAW), s=5)
    bench.take(bench.origin.award_answered(old, AwardAnswer(True), now=at(6)))
    assert bench.task.state is TaskState.AWARDING
    assert bench.task.site_id == WARSAW


# ------------------------------------------------------------------------ leases


def test_a_renewal_extends_the_lease_and_shows_progress() -> None:
    bench = running()
    assert (bench.task.state, bench.task.started_s) == (TaskState.RUNNING, WORLD_S)
    for s in (30, 60, 90):
        assert bench.renew(s=s) is Verdict.CONTINUE
        bench.tick(s + 29)
    assert bench.task.state is TaskState.RUNNING


def notes_of(ready: Ready) -> list[tuple[str, float]]:
    return [(w.event.kind, w.event.at_s) for w in ready.writes if isinstance(w, Note)]


def test_staging_and_start_are_told_once_with_their_instants() -> None:
    bench = awarded()
    bench.answer(AwardAnswer(True))

    def told(
        state: RunState, *, s: float, started_s: float | None = None, fetch_bytes: int = 9
    ) -> list:
        progress = RunProgress(
            bench.run_id, state, Reason.FETCHING, started_s=started_s, fetch_bytes=fetch_bytes
        )
        _, ready = bench.origin.renew(Renewal(PARIS, "i", (progress,)), now=at(s))
        return notes_of(ready)

    assert told(RunState.STAGING, s=1, fetch_bytes=0) == [], "it lacks nothing"
    assert told(RunState.STAGING, s=2) == [("staging_began", WORLD_S + 2)]
    assert told(RunState.STAGING, s=3) == []
    started_s = WORLD_S + 4
    assert told(RunState.RUNNING, s=9, started_s=started_s) == [("run_started", started_s)]
    assert told(RunState.RUNNING, s=19, started_s=started_s) == []
    _, ready = bench.origin.report(report_of(bench), now=at(90))
    assert notes_of(ready) == [("run_ended", WORLD_S + 90)]


def test_the_start_of_a_run_that_ended_between_two_renewals_is_told_with_its_end() -> None:
    bench = awarded()
    bench.answer(AwardAnswer(True))
    _, ready = bench.origin.report(report_of(bench), now=at(90))
    assert notes_of(ready) == [("run_started", WORLD_S + 10), ("run_ended", WORLD_S + 90)]


def test_a_holder_that_has_fallen_silent_is_told_of_while_its_lease_runs() -> None:
    bench = running()
    bench.renew(s=30)
    assert bench.origin.seen(TASK, now=at(45)) == bench.task
    silent = bench.origin.seen(TASK, now=at(52))
    assert (silent.state, silent.reason) == (TaskState.RUNNING, Reason.AWAITING_HOLDER)
    assert silent.message == (
        "paris was not heard for 22 s; unless it is within 11 s the run counts as lost"
    )
    assert bench.task.reason is not Reason.AWAITING_HOLDER
    bench.renew(s=53)
    assert bench.origin.seen(TASK, now=at(54)) == bench.task


TAIL = LogTail(10, 14, "two\n")


def test_the_newest_tail_is_kept_without_a_write_and_acknowledged() -> None:
    bench = running()
    assert bench.tail_end_bytes == {}
    bench.renew(s=10, tail=TAIL)
    assert bench.last.writes == ()
    assert bench.tail_end_bytes == {bench.run_id: 14}
    assert bench.task.tail == HeardTail(bench.run_id, PARIS, WORLD_S + 10, TAIL)
    bench.renew(s=20)
    assert bench.tail_end_bytes == {bench.run_id: 14}
    assert bench.task.tail == HeardTail(bench.run_id, PARIS, WORLD_S + 20, TAIL)
    bench.renew(s=21, tail=LogTail(0, 4, "one\n"))  # was overtaken on the way
    assert bench.task.tail == HeardTail(bench.run_id, PARIS, WORLD_S + 21, TAIL)


@pytest.mark.parametrize(
    "tail", [LogTail(-1, 3, "x"), LogTail(9, 3, ""), LogTail(0, 9, "x" * 3000)]
)
def test_a_tail_that_cannot_be_is_not_kept(tail: LogTail) -> None:
    bench = running()
    assert bench.renew(s=10, tail=tail) is Verdict.CONTINUE
    assert (bench.task.tail, bench.tail_end_bytes) == (None, {})


def test_a_stranger_s_tail_is_not_kept() -> None:
    bench = running()
    bench.renew(s=10, site=WARSAW, tail=TAIL)
    assert (bench.task.tail, bench.tail_end_bytes) == (None, {})


def test_a_lost_run_s_tail_is_written_with_its_end_and_kept_until_the_next_award() -> None:
    bench = running()
    bench.renew(s=10, tail=TAIL)
    heard = bench.task.tail
    ready = bench.tick(100)
    (note,) = [write for write in ready.writes if isinstance(write, Note)]
    assert (note.event.kind, note.event.tail) == ("lease_expired", heard)
    assert bench.tasks[TASK].tail == heard
    bench.restart(101)
    assert bench.task.tail == heard
    bench.close(bid_of(WARSAW), s=102)
    assert bench.task.state is TaskState.AWARDING
    assert bench.task.tail is None


def test_a_restarted_origin_says_what_it_has_of_a_tail() -> None:
    bench = running()
    bench.renew(s=10, tail=TAIL)
    bench.restart(11)
    bench.renew(s=12)
    assert bench.tail_end_bytes == {}, "it was not written: the holder tells it again"


def test_a_run_that_reports_needs_no_tail() -> None:
    bench = running()
    bench.renew(s=10, tail=TAIL)
    bench.report(report_of(bench))
    assert bench.task.tail is None
    bench = running()
    bench.renew(s=10, tail=TAIL)
    bench.report(report_of(bench, RunState.FAILED, Reason.EXECUTOR_FAILED))
    assert (bench.task.state, bench.task.tail) == (TaskState.QUEUED, None)


def test_a_delayed_renewal_never_moves_a_task_back() -> None:
    bench = running()
    assert bench.renew(RunState.STAGING, s=5) is Verdict.CONTINUE
    assert bench.task.state is TaskState.RUNNING


@pytest.mark.parametrize(
    ("run", "site"),
    [("oslo-1.1.7", PARIS), ("oslo-9.1.1", PARIS), ("nonsense", PARIS), ("oslo-1.1.1", WARSAW)],
)
def test_a_run_that_is_not_the_task_s_is_revoked(run: str, site: SiteId) -> None:
    assert running().renew(run=RunId(run), site=site) is Verdict.REVOKED


def test_a_holder_not_heard_for_a_lease_and_a_margin_loses_the_task() -> None:
    bench = running()
    until_s = LEASE.origin_until_s(3)
    bench.tick(until_s - 0.1)
    assert bench.task.state is TaskState.RUNNING
    bench.tick(until_s)
    assert (bench.task.state, bench.task.reason) == (TaskState.QUEUED, Reason.SITE_LOST)
    assert bench.task.failure_count == 1
    assert bench.tick(until_s + 1).effects == (Negotiate(TASK),)


def test_a_success_after_its_lease_counts_while_no_newer_attempt_exists() -> None:
    bench = running()
    bench.tick(50)
    assert bench.report(report_of(bench)).is_accepted
    assert bench.task.state is TaskState.SUCCEEDED
    assert bench.close(bid_of(), s=101) == Ready()


def test_a_success_after_its_lease_counts_while_the_task_waits() -> None:
    bench = running()
    bench.tick(50)
    bench.tick(51)
    bench.close(deferred_bid(3600.0), s=52)
    assert bench.report(report_of(bench)).is_accepted
    assert bench.task.state is TaskState.SUCCEEDED


def test_a_success_under_an_older_fence_is_refused_but_charged() -> None:
    """I2: whoever was awarded last may commit, and nobody else."""
    bench = running()
    bench.tick(50)
    bench.tick(51)
    bench.close(bid_of(WARSAW), s=52)
    assert not bench.report(report_of(bench, attempt=1)).is_accepted
    assert bench.task.state is TaskState.AWARDING
    entry = bench.ledger[run_id(TASK, Fence(1, 1))]
    assert entry.charge.energy_usd == 2.0
    assert entry.at_origin == Charge(), "at its origin the task would have run once"
    assert bench.report(report_of(bench, site=WARSAW)).is_accepted
    assert bench.task.state is TaskState.SUCCEEDED


def test_a_failure_after_its_lease_changes_nothing_but_is_charged() -> None:
    bench = running()
    bench.tick(50)
    answer = bench.report(report_of(bench, RunState.LEASE_EXPIRED, Reason.SITE_LOST))
    assert not answer.is_accepted
    assert bench.task.failure_count == 1
    assert len(bench.ledger) == 1


# ------------------------------------------------------------------------ reports


def test_a_success_ends_the_task_enters_the_ledger_and_teaches_the_predictor() -> None:
    bench = running(needs=(MODEL,))
    fetch = deferred_bid(0).fetches[0]
    unknown = replace(fetch, artifact_id=ArtifactId("sha256:" + "f" * 64))
    assert bench.report(report_of(bench, fetches=(fetch, unknown))).is_accepted
    entry = bench.ledger[bench.run_id]
    assert (entry.state, entry.site_id, entry.model) == (RunState.SUCCEEDED, PARIS, "m")
    assert entry.at_origin == AT_ORIGIN
    assert entry.fetched == {"MODEL": 9}
    (observe,) = effects_of(bench.last, Observe)
    assert observe.observation.outcome is Outcome.SUCCEEDED
    assert observe.observation.elapsed_s == 80.0


def test_a_report_sent_twice_counts_and_is_charged_once() -> None:
    bench = running()
    report = report_of(bench)
    assert bench.report(report).is_accepted
    assert bench.report(report).is_accepted
    assert bench.last == Ready()


def test_a_failed_attempt_is_charged_once_however_often_it_is_reported() -> None:
    bench = running()
    failure = report_of(bench, RunState.FAILED, Reason.EXECUTOR_FAILED)
    bench.report(failure)
    # A holder that was offered the award once more has nothing to show for it.
    ghost = replace(failure, state=RunState.REVOKED, reason=Reason.STALE_FENCE, charge=Charge())
    bench.report(ghost)
    bench.restart(200)
    bench.report(ghost, s=201)
    assert bench.ledger[failure.run_id].charge.energy_usd == 2.0
    assert bench.task.failure_count == 1


def test_nobody_but_the_holder_ends_a_task() -> None:
    bench = running()
    assert not bench.report(report_of(bench, site=WARSAW)).is_accepted
    bench = running()
    wrong_run = report_of(bench, run_id=RunId("oslo-1.1.9"))
    assert not bench.report(wrong_run).is_accepted
    assert bench.task.state is TaskState.RUNNING


def test_a_report_of_an_unknown_task_is_refused() -> None:
    report = report_of(running())
    answer, ready = new_origin().report(report, now=at(0))
    assert not answer.is_accepted
    assert ready == Ready()


def test_lateness_is_charged_to_the_attempt_that_ended_the_task() -> None:
    bench = running(replace(SPEC, deadline_s=WORLD_S - 3600 + 90))
    bench.report(report_of(bench))
    terms = bench.origin.terms_of(bench.task.spec, bench.task.predictions)
    entry = bench.ledger[bench.run_id]
    assert entry.charge.penalty_usd == pytest.approx(terms.late_penalty.usd(3600.0))
    assert entry.late_s == pytest.approx(3600.0)


EVERY = tuple(RetryCause)
DEFAULT = Retry().on
LOST = RetryCause.SITE_LOST


@pytest.mark.parametrize(
    ("state", "reason", "on", "limit", "end"),
    [
        (RunState.FAILED, Reason.EXIT_CODE, DEFAULT, 2, Reason.EXIT_CODE),
        (RunState.FAILED, Reason.EXIT_CODE, EVERY, 2, None),
        (RunState.FAILED, Reason.EXIT_CODE, EVERY, 0, Reason.EXIT_CODE),
        (RunState.FAILED, Reason.STAGING_FAILED, DEFAULT, 2, None),
        (RunState.FAILED, Reason.STAGING_FAILED, DEFAULT, 0, Reason.RETRIES_SPENT),
        (RunState.FAILED, Reason.STAGING_FAILED, (LOST,), 2, Reason.STAGING_FAILED),
        (RunState.FAILED, Reason.START_FAILED, DEFAULT, 1, None),
        (RunState.FAILED, Reason.EXECUTOR_FAILED, (LOST,), 1, Reason.EXECUTOR_FAILED),
        (RunState.LEASE_EXPIRED, Reason.SITE_LOST, DEFAULT, 1, None),
        (RunState.LEASE_EXPIRED, Reason.SITE_LOST, (), 1, Reason.SITE_LOST),
        (RunState.REVOKED, Reason.STALE_FENCE, DEFAULT, 0, Reason.RETRIES_SPENT),
    ],
)
def test_a_failed_attempt_is_followed_by_another_if_its_cause_is_listed(
    state: RunState,
    reason: Reason,
    on: tuple[RetryCause, ...],
    limit: int,
    end: Reason | None,
) -> None:
    bench = running(replace(SPEC, retry=Retry(limit_count=limit, on=on)))
    assert bench.report(report_of(bench, state, reason)).is_accepted
    if end is None:
        assert (bench.task.state, bench.task.reason) == (TaskState.QUEUED, reason)
    else:
        assert (bench.task.state, bench.task.reason) == (TaskState.FAILED, end)
    assert bench.task.failure_count == 1


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (RunState.LEASE_RETURNED, Reason.SITE_DRAINING),
        (RunState.LEASE_RETURNED, Reason.SITE_LOST),
        (RunState.REVOKED, Reason.SITE_DRAINING),
        (RunState.PREEMPTED, Reason.SITE_DRAINING),
    ],
)
def test_a_run_given_back_is_requeued_free_of_charge(state: RunState, reason: Reason) -> None:
    bench = running(replace(SPEC, retry=Retry(limit_count=0)))
    bench.report(report_of(bench, state, reason))
    assert (bench.task.state, bench.task.failure_count) == (TaskState.QUEUED, 0)


def test_retries_are_counted_over_all_causes() -> None:
    bench = running(replace(SPEC, retry=Retry(limit_count=1)))
    bench.report(report_of(bench, RunState.FAILED, Reason.STAGING_FAILED))
    bench.tick(101)
    bench.close(bid_of(), s=102)
    bench.answer(AwardAnswer(True), s=103)
    bench.tick(200)
    assert (bench.task.state, bench.task.reason) == (TaskState.FAILED, Reason.RETRIES_SPENT)
    assert bench.task.report is None


# ------------------------------------------------------------------------ restarts


def test_after_a_restart_an_unanswered_award_is_sent_again_at_once() -> None:
    bench = awarded()
    run = bench.run_id
    (award,) = bench.restart(10).effects
    assert isinstance(award, SendAward)
    assert award.award.run_id == run
    bench.tick(10 + LEASE.origin_until_s(0) - 0.1)
    assert bench.task.state is TaskState.AWARDING


def test_after_a_restart_a_lease_is_taken_to_have_been_renewed_just_now() -> None:
    """Renewals are not written: the holder may have been answered a moment before."""
    bench = running()
    assert bench.restart(1000).effects == ()
    until_s = LEASE.origin_until_s(1000)
    bench.tick(until_s - 0.1)
    assert bench.task.state is TaskState.RUNNING
    assert bench.renew(s=until_s) is Verdict.CONTINUE


def test_after_a_restart_a_queued_task_is_announced() -> None:
    bench = Bench()
    bench.submit()
    bench.close()
    bench.tick(1.5)
    assert bench.restart(5).effects == (Negotiate(TASK),)
    bench.close(bid_of(), s=6)
    assert bench.task.fence == Fence(1, 1)


def test_an_award_that_may_have_gone_out_before_its_choice_was_written_is_void() -> None:
    """What is on disk is what was there before the auction closed."""
    bench = Bench()
    bench.submit()
    for attempt in (1, 2):
        before = dict(bench.tasks)
        (award,) = bench.close(bid_of(), s=attempt).at_once
        assert isinstance(award, SendAward)
        bench.tasks = before
        restarted = bench.restart(10 * attempt)
        assert restarted.effects == (Negotiate(TASK),)
        (note,) = [write for write in restarted.writes if isinstance(write, Note)]
        assert (note.event.kind, note.event.attempt) == ("attempt_voided", attempt)
        assert bench.renew(run=award.award.run_id, s=10 * attempt + 1) is Verdict.REVOKED
        assert award.award.fence == Fence(1, attempt)
        returned = report_of(bench, RunState.REVOKED, Reason.STALE_FENCE, attempt=attempt)
        assert not bench.report(returned).is_accepted
        # The next attempt is on disk as one that may be awarded before it is announced.
        assert bench.tasks[TASK].may_be_awarded
    bench.close(bid_of(), s=30)
    assert bench.task.fence == Fence(1, 3)
    assert bench.task.failure_count == 0


def test_of_many_that_are_due_after_a_restart_a_few_are_announced_at_a_time() -> None:
    """One commit takes only so many writes."""
    origin = new_origin()
    ids = [TaskId(f"oslo-{number}") for number in range(5)]
    for task_id in ids:
        origin.submit(task_id, SPEC, (), (), now=at(0))
    tasks, origin = list(origin.tasks.values()), new_origin()
    ready = origin.restore(tasks, now=at(1), limit_count=2)
    assert ready.effects == (Negotiate(ids[0]), Negotiate(ids[1]))
    assert len(ready.writes) == 4, "a void attempt is written and noted"
    _, is_cancelled, _ = origin.cancel(ids[2], now=at(1))
    assert is_cancelled
    assert origin.tick(now=at(2), limit_count=1).effects == (Negotiate(ids[3]),)
    assert origin.tick(now=at(3), limit_count=2).effects == (Negotiate(ids[4]),)
    assert origin.tick(now=at(4)) == Ready()
    assert {task.fence for task in origin.tasks.values()} == {Fence(1, 1)}
    assert not origin.voided


def test_a_task_is_announced_again_only_once_that_is_written() -> None:
    bench = Bench()
    bench.submit()
    assert bench.task.may_be_awarded
    bench.close()
    assert not bench.tasks[TASK].may_be_awarded
    assert bench.tick(3).effects == (Negotiate(TASK),)
    assert bench.tasks[TASK].may_be_awarded


def test_an_award_predicts_for_the_pool_that_won_alone() -> None:
    bench = Bench()
    bench.submit()
    predictions = (PREDICTION, replace(PREDICTION, pool_type="A100"))
    (sent,) = effects_of(bench.close(bid_of(), predictions=predictions), SendAward)
    assert sent.award.predictions == (PREDICTION,)


def test_fences_go_on_where_they_were() -> None:
    bench = running()
    bench.tick(50)
    bench.restart(60)
    bench.close(bid_of(), s=61)
    assert bench.task.fence == Fence(1, 2)


def test_what_the_predictor_reads_is_the_task_and_its_artifacts() -> None:
    features = new_origin().features(replace(SPEC, project="p"), (MODEL,))
    assert (features.model, features.model_bytes, features.project) == ("m", 9, "p")
    assert features.data == ()


# ------------------------------------------------------------------------ disconnect


def test_a_task_that_is_not_to_be_replaced_fails_when_its_holder_is_lost() -> None:
    bench = running(replace(SPEC, disconnect=Disconnect(is_replaced=False)))
    bench.tick(3 + LEASE.lease_s * 2)
    assert (bench.task.state, bench.task.reason) == (TaskState.FAILED, Reason.SITE_LOST)


def test_the_task_s_own_patience_is_its_lease() -> None:
    patient = replace(SPEC, disconnect=Disconnect(lost_after_s=10 * LEASE.lease_s))
    bench = Bench()
    bench.submit(patient)
    (sent,) = effects_of(bench.close(bid_of()), SendAward)
    assert sent.award.lease_s == 10 * LEASE.lease_s
    bench.answer(AwardAnswer(True))
    bench.renew()
    bench.tick(3 + 5 * LEASE.lease_s)
    assert bench.task.state is TaskState.RUNNING
    bench.tick(3 + 12 * LEASE.lease_s)
    assert bench.task.state is TaskState.QUEUED


def test_a_late_success_of_a_lost_attempt_counts_unless_the_new_one_is_wanted() -> None:
    for reconcile, state in (
        (Reconcile.KEEP_ORIGINAL, TaskState.SUCCEEDED),
        (Reconcile.KEEP_NEW, TaskState.QUEUED),
    ):
        bench = running(replace(SPEC, disconnect=Disconnect(reconcile=reconcile)))
        lost = bench.run_id
        bench.tick(3 + LEASE.lease_s * 2)
        bench.report(report_of(bench, run_id=lost), s=200)
        assert bench.task.state is state


def test_what_must_not_run_twice_is_not_replaced_where_it_might_still_run() -> None:
    for is_idempotent, guarantees, state in (
        (False, False, TaskState.FAILED),
        (False, True, TaskState.QUEUED),
        (True, False, TaskState.QUEUED),
    ):
        bench = Bench()
        bench.submit(replace(SPEC, is_idempotent=is_idempotent))
        bench.close(bid_of(guarantees_single_execution=guarantees))
        bench.answer(AwardAnswer(True))
        bench.renew()
        bench.tick(3 + LEASE.lease_s * 2)
        assert bench.task.state is state


# ------------------------------------------------------------------------ forgetting, lateness


def test_a_task_that_has_ended_is_forgotten_with_all_that_is_known_of_it() -> None:
    bench = running(replace(SPEC, request_id="r", retry=RETRY_ALL))
    bench.report(report_of(bench, RunState.LEASE_EXPIRED, Reason.SITE_LOST))
    bench.close(bid_of(), s=200)
    bench.answer(AwardAnswer(True), s=201)
    bench.report(report_of(bench), s=300)
    assert bench.task.fence.attempt == 2
    origin = bench.origin
    origin.forget(TASK)
    empty = new_origin()
    for name in ("tasks", "active", "requests", "charged", "lease_until_s", "award_due_s"):
        assert getattr(origin, name) == getattr(empty, name), name
    for name in ("award_until_s", "pause_until_s", "negotiating"):
        assert getattr(origin, name) == getattr(empty, name), name
    origin.check_invariants()
    with pytest.raises(UnknownTaskError):
        origin.task(TASK)


RETRY_ALL = Retry(limit_count=3, on=tuple(RetryCause))


def test_a_live_task_is_not_forgotten() -> None:
    with pytest.raises(AssertionError, match="live"):
        running().origin.forget(TASK)


def test_a_report_of_a_forgotten_task_is_refused() -> None:
    bench = running()
    report = report_of(bench)
    bench.report(report)
    bench.origin.forget(TASK)
    answer, ready = bench.origin.report(report, now=at(200))
    assert not answer.is_accepted
    assert ready.writes == ()


def test_lateness_costs_what_the_origin_is_told_it_costs() -> None:
    asked: list[tuple[str, int]] = []

    def lateness(spec: TaskSpec, predictions: Sequence[Prediction]) -> LatePenalty:
        asked.append((spec.name, len(predictions)))
        return LatePenalty(7.0, 1.0, 4.0)

    bench = Bench(replace(new_origin(), lateness=lateness))
    bench.submit(replace(SPEC, deadline_s=WORLD_S))
    announced = bench.origin.announcement(
        TASK, bench.task.spec, fence=Fence(1, 1), needs=(), predictions=(PREDICTION,)
    )
    assert announced.terms.late_penalty == LatePenalty(7.0, 1.0, 4.0)
    (award,) = effects_of(bench.close(bid_of()), SendAward)
    assert award.award.terms.late_penalty == LatePenalty(7.0, 1.0, 4.0)
    bench.answer(AwardAnswer(True))
    bench.report(report_of(bench, ended_s=WORLD_S + 3600))
    assert bench.ledger[bench.run_id].charge.penalty_usd == pytest.approx(8.0)
    assert set(asked) == {("t", 1)}
