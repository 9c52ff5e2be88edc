"""The participant of the contract net: bids, accepts, stages, starts, reports. Pure.

A run at this site passes through `gcos.tasks.RUN_TRANSITIONS`:

    award ─▶ LEASED ─▶ STAGING ─▶ RUNNING ─▶ COMMITTING ─▶ SUCCEEDED | FAILED
                │          │          └──────────────────▶ REVOKED | LEASE_EXPIRED | CANCELLED
                └──────────┴─▶ LEASE_RETURNED | LEASE_EXPIRED | FAILED

Staging begins with the acceptance; execution needs a lease that the origin has *confirmed* by
answering a renewal (`gcos.contract_net`, rule 2). A run that has ended is kept with its report
until the origin has answered it, however long that takes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

from gcos.accounting import Charge, RunTerms, run_charge
from gcos.artifacts import Artifact, ArtifactKind
from gcos.contract_net import (
    Announcement,
    ArtifactNeed,
    Award,
    AwardAnswer,
    Bid,
    Fetch,
    Hold,
    Refusal,
    Renewal,
    Report,
    RunProgress,
    Terms,
)
from gcos.durations import RunTime, prediction_for
from gcos.ids import ArtifactId, Fence, RunId, TaskId
from gcos.log_tails import RENEWAL_TAIL_BYTES_MAX, LogTail
from gcos.signals import SiteSignals
from gcos.sites import ArtifactDemand, Pool, PoolDigest, Site, SiteDigest
from gcos.tasks import ANY_GPU, Reason, RunState, check_run_transition
from policies.features import DAY_S, features_of, reference_usd
from policies.interface import Bidder, Seen, SiteView
from policies.offer import PoolOffer, expected_penalty_usd, options_of
from policies.options import OptionTable
from site_agent.dual_cache import DualCache
from site_agent.effects import (
    NOTHING,
    Adopt,
    Effect,
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
    Write,
)
from site_agent.held_run import HeldRun
from site_agent.lease import LeaseTerms
from site_agent.schedule import Held, Planned, PoolSchedule, Profile, earliest_fit, earliest_fits
from site_agent.site_state import StateOfSite
from site_agent.sourcing import Links, cheapest_fetch, total_duration_s

#: Runs in any live state that a site accepts; more are declined.
RUN_COUNT_MAX = 256
#: Protocol seconds after which a run that never started is given up without word of its origin.
ORPHAN_S = 300.0
#: Artifacts of which a digest tells how often they are used here.
DEMAND_COUNT_MAX = 64
#: World seconds that an offer stands.
BID_VALID_S = 300.0
#: Attempts of a task that may be given back because it would be late where it waits.
REAUCTION_COUNT_MAX = 3
#: Growth of a waiting run's expected late penalty, $, from which it is given back.
REAUCTION_USD = 0.5

_STOP_REASONS = {
    RunState.REVOKED: Reason.STALE_FENCE,
    RunState.CANCELLED: Reason.CANCELLED_BY_USER,
    RunState.LEASE_EXPIRED: Reason.SITE_LOST,
    RunState.PREEMPTED: Reason.PREEMPTED,
}


@dataclass(frozen=True, slots=True)
class Exit:
    """How the executor saw a run end.

    Attributes:
        started_s: World instant of the start; None: it never started.
        ended_s: World instant of the end.
        exit_code: Of the command; None where it did not end by itself.
        reason: EXITED_ZERO, EXIT_CODE, START_FAILED, EXECUTOR_FAILED, SITE_LOST (the lease ran
            out) or CANCELLED_BY_USER (this site stopped it).
        message: One sentence for a person.
        log_tail: Last lines of the output.
        outputs: Artifacts that were made of its outputs.
        output_bytes: Size of all files that it left behind.
    """

    started_s: float | None
    ended_s: float
    exit_code: int | None
    reason: Reason
    message: str
    log_tail: str
    outputs: tuple[Artifact, ...] = ()
    output_bytes: int = 0


@dataclass(slots=True)
class Participant:
    """All runs that this site has accepted, and how it bids for more."""

    site: Site
    cache: DualCache
    bidder: Bidder
    links: Links
    signals: SiteSignals
    byte_ratio: float = 1.0
    #: What an hour of waiting for bytes is worth when a source is chosen, $/h.
    wait_usd_per_h: float = 0.0
    #: Its executor stops a run with its lease, agent or not (I3).
    guarantees_single_execution: bool = True
    #: Its executor takes container images.
    runs_images: bool = False
    #: What does not fit its cache is brought to scratch, for one run, and paid each time.
    streams_to_scratch: bool = False
    #: A waiting run that has come to be predicted late is given back, to be announced again.
    gives_back_late: bool = False
    #: A run may be stopped for one of higher priority.
    may_preempt: bool = False
    #: Secrets that its store has, by name.
    secret_names: frozenset[str] = frozenset()
    is_draining: bool = False
    #: Accepted runs whose report has not been answered.
    runs: dict[RunId, HeldRun] = field(default_factory=dict)
    #: Protocol instant until which a run may execute; absent until the origin has confirmed it.
    lease_until_s: dict[RunId, float] = field(default_factory=dict)
    #: Protocol instant at which the origin of a run was last heard of it.
    heard_s: dict[RunId, float] = field(default_factory=dict)
    #: Highest fence seen for each task with a live run; an older award is declined.
    fences: dict[TaskId, Fence] = field(default_factory=dict)
    schedules: dict[str, PoolSchedule] = field(default_factory=dict)
    #: Why a run was told to stop, until its exit arrives.
    stopping: dict[RunId, RunState] = field(default_factory=dict)
    #: Bytes moved so far by run, for progress.
    moved_bytes: dict[RunId, int] = field(default_factory=dict)
    #: What was brought to scratch for a run; gone with it.
    scratch: dict[RunId, tuple[ArtifactId, ...]] = field(default_factory=dict)
    #: Expected late penalty, $, that a waiting run was accepted with.
    accepted_penalty_usd: dict[RunId, float] = field(default_factory=dict)
    #: How far into the output of a run its origin has a tail, bytes; who was told of least
    #: recently comes first.
    told_bytes: dict[RunId, int] = field(default_factory=dict)
    awarded_count: int = 0

    def __post_init__(self) -> None:
        for pool in self.site.pools:
            self.schedules[pool.type] = PoolSchedule(pool.gpu_count)

    # ---------------------------------------------------------------- bidding

    def bid(self, announcement: Announcement, *, now: Now) -> Bid | Refusal:
        """Answer an announcement. Changes nothing (I8)."""
        refusal = self._refusal(announcement)
        if refusal is not None:
            return refusal
        fetched = self._fetches(announcement, now.world_s)
        if isinstance(fetched, Refusal):
            return fetched
        fetches, transfers, evictions, ready_s = fetched
        tables: list[OptionTable] = []
        profiles: dict[str, Profile] = {}
        for pool in self._pools_for(announcement.gpu.type, announcement.gpu.gpu_count):
            prediction = prediction_for(announcement.predictions, pool.type)
            if prediction is None:
                continue
            profile = self.schedules[pool.type].profile(now.world_s, but_for=announcement.task_id)
            if announcement.task_id not in self.schedules[pool.type].held:
                profiles[pool.type] = profile
            offer = _pool_offer(announcement, pool, prediction.run_time, profile)
            table = options_of(
                offer,
                announcement,
                signals=self.signals,
                pue=self.site.pue,
                ready_s=ready_s,
                transfers=transfers,
                may_start_later=self.bidder.may_start_later,
            )
            tables.append(table)
        if not tables:
            # Not for ever: the origin may not have heard of these pools yet.
            return self._refuse(Reason.NO_BID, "the announcement predicts for no pool here")
        options = tables[0] if len(tables) == 1 else list(chain.from_iterable(tables))
        seen = self._seen(tables, fetches, announcement, profiles, now.world_s)
        choice = self.bidder.choose(options, self._view(announcement, seen, now))
        best = options[choice.index]
        # Held until its earliest start, too, a task needs no lease yet.
        is_held = best.start_s > ready_s and announcement.earliest_start_s == best.start_s
        return Bid(
            site_id=self.site.site_id,
            task_id=announcement.task_id,
            offer_usd=best.offer_usd,
            score_ratio=choice.score_ratio,
            actor=self.bidder.actor,
            pool_type=best.pool_type,
            start_s=best.start_s,
            is_deferred=is_held or not best.is_earliest,
            p50_finish_s=best.p50_finish_s,
            p90_finish_s=best.p90_finish_s,
            late_probability=best.late_probability,
            charge=best.charge,
            p90_cost_usd=best.p90_cost_usd,
            p90_carbon_gco2=best.p90_carbon_gco2,
            is_carbon_known=self.signals.carbon is not None,
            fetches=fetches,
            evictions=evictions,
            valid_until_s=now.world_s + BID_VALID_S,
            guarantees_single_execution=self.guarantees_single_execution,
            residual_usd=choice.residual_usd,
        )

    def _seen(
        self,
        tables: Sequence[OptionTable],
        fetches: Sequence[Fetch],
        announcement: Announcement,
        profiles: Mapping[str, Profile],
        now_s: float,
    ) -> Seen | None:
        """Return what a learned bidder sees of its options; None for others."""
        cluster = announcement.cluster
        if not self.bidder.needs_features or cluster is None:
            return None
        reference = reference_usd(announcement, cluster)
        if self.signals.carbon is None:
            return Seen(reference, features=None)
        state = StateOfSite(
            self.schedules,
            self.cache.demand,
            self.signals,
            fetches,
            now_s=now_s,
            profiles=profiles,
        )
        rows = [
            features_of(
                table,
                fetches,
                announcement,
                state.of(table.pool_type),
                cluster,
                now_s=now_s,
                reference=reference,
            )
            for table in tables
        ]
        return Seen(reference, features=rows[0] if len(rows) == 1 else np.concatenate(rows))

    def _view(self, announcement: Announcement, seen: Seen | None, now: Now) -> SiteView:
        """Return what a bidder may know of this site beside its options."""
        now_s = now.world_s
        gpu_count = sum(pool.gpu_count for pool in self.site.pools)
        committed = sum(each.committed_gpu_s(now_s) for each in self.schedules.values())
        return SiteView(
            site_id=self.site.site_id,
            task_id=announcement.task_id,
            is_origin=announcement.origin == self.site.site_id,
            backlog_s=committed / gpu_count,
            awarded_count=self.awarded_count,
            now_s=now_s,
            seen=seen,
        )

    def _refuse(self, reason: Reason, message: str) -> Refusal:
        return Refusal(site_id=self.site.site_id, reason=reason, message=message)

    def _refusal(self, announcement: Announcement) -> Refusal | None:
        """Return why this site cannot bid at all, or None."""
        gpu = announcement.gpu
        if self.is_draining:
            return self._refuse(Reason.SITE_DRAINING, "the site takes no new work")
        if self._live_count() >= RUN_COUNT_MAX:
            return self._refuse(Reason.QUEUE_FULL, f"{RUN_COUNT_MAX} runs are accepted already")
        types = [pool.type for pool in self.site.pools]
        if gpu.type not in (ANY_GPU, *types):
            return self._refuse(Reason.GPU_TYPE_UNKNOWN, f"has {', '.join(types)}, not {gpu.type}")
        if not self._pools_for(gpu.type, gpu.gpu_count):
            largest = max(p.gpu_count for p in self.site.pools if gpu.type in (ANY_GPU, p.type))
            return self._refuse(
                Reason.GPU_COUNT_TOO_HIGH, f"largest pool has {largest}, not {gpu.gpu_count}"
            )
        if announcement.image is not None and not self.runs_images:
            return self._refuse(Reason.IMAGE_UNSUPPORTED, "its executor runs no container images")
        lacking = [name for name in announcement.secrets if name not in self.secret_names]
        if lacking:
            return self._refuse(
                Reason.SECRET_MISSING, f"its store has no secret {', '.join(lacking)} (mode 0600)"
            )
        return None

    def _pools_for(self, gpu_type: str, gpu_count: int) -> list[Pool]:
        return [
            pool
            for pool in self.site.pools
            if gpu_type in (ANY_GPU, pool.type) and pool.gpu_count >= gpu_count
        ]

    def _fetches(
        self, announcement: Announcement, now_s: float
    ) -> tuple[tuple[Fetch, ...], Charge, tuple[ArtifactId, ...], float] | Refusal:
        """Return fetches, their charge, evictions and the instant when all is here."""
        fetches: list[Fetch] = []
        transfers = Charge()
        missing_bytes: dict[ArtifactKind, int] = {}
        waiting_s = 0.0
        for need in announcement.needs:
            if self.cache.has(need.artifact_id):
                continue
            if self.cache.is_damaged(need.artifact_id) and self.cache.is_resident(need.artifact_id):
                return self._refuse(
                    Reason.ARTIFACT_UNREACHABLE,
                    f"the copy of {need.name} in another program's store is damaged",
                )
            is_too_large = need.size_bytes > self.cache.capacity_bytes(need.kind)
            if is_too_large and not self.streams_to_scratch:
                return self._refuse(
                    Reason.ARTIFACT_TOO_LARGE, f"{need.name} is larger than the cache"
                )
            found = self._cheapest(need, announcement.terms, now_s)
            if found is None:
                return self._refuse(
                    Reason.ARTIFACT_UNREACHABLE, f"no other site is known to hold {need.name}"
                )
            fetch, charge = found
            if self.cache.is_reserved(need.artifact_id):
                waiting_s += fetch.duration_s  # under way for another run, and paid there
                continue
            # A damaged copy is mended in the room that it has.
            if not is_too_large and not self.cache.is_damaged(need.artifact_id):
                missing_bytes[need.kind] = missing_bytes.get(need.kind, 0) + need.size_bytes
            fetches.append(fetch)
            transfers += charge
        evictions: list[ArtifactId] = []
        for kind, size_bytes in missing_bytes.items():
            victims = self._victims(kind, size_bytes, announcement.needs)
            if victims is None and not self.streams_to_scratch:
                return self._refuse(
                    Reason.CACHE_FULL, f"nothing evictable makes room for {size_bytes} bytes"
                )
            evictions += victims or ()
        ready_s = now_s + waiting_s + total_duration_s(fetches)
        return tuple(fetches), transfers, tuple(evictions), ready_s

    def _victims(
        self, kind: ArtifactKind, size_bytes: int, needs: Sequence[ArtifactNeed]
    ) -> list[ArtifactId] | None:
        """Return what to evict so that `size_bytes` join what the task finds here, or None."""
        kept_bytes = {need.artifact_id: need.size_bytes for need in needs}
        asked_bytes = size_bytes
        while True:
            victims = self.cache.evictions_for(kind, asked_bytes)
            if victims is None:
                return None
            # Victims come in a fixed order, so more bytes mean more of the same: ask for as much
            # more as those would free that the task needs and will have pinned by then.
            wanted_bytes = size_bytes + sum(kept_bytes.get(victim, 0) for victim in victims)
            if wanted_bytes == asked_bytes:
                return [victim for victim in victims if victim not in kept_bytes]
            asked_bytes = wanted_bytes

    def hold(self, hold: Hold, *, now: Now) -> None:
        """Keep a soft reservation for a task that waits for the start this site offered."""
        for schedule in self.schedules.values():
            schedule.let_go(hold.task_id)
        schedule_there = self.schedules.get(hold.pool_type)
        is_sane = now.world_s < hold.until_s and hold.start_s <= hold.end_s
        if schedule_there is not None and is_sane and hold.gpu_count <= schedule_there.gpu_count:
            held = Held(hold.gpu_count, hold.start_s, hold.end_s, hold.until_s)
            schedule_there.hold(hold.task_id, held)

    def let_go(self, task_id: TaskId) -> None:
        """Drop the reservation of a task that went elsewhere."""
        for schedule in self.schedules.values():
            schedule.let_go(task_id)

    # ---------------------------------------------------------------- awards

    def award(self, award: Award, *, now: Now) -> tuple[AwardAnswer, Ready]:
        """Accept or decline; a repeat gets the first answer."""
        if award.run_id in self.runs:
            return AwardAnswer(True), NOTHING
        problem = self._award_problem(award)
        if problem is not None:
            return problem, NOTHING
        run = HeldRun(
            award=award,
            state=RunState.LEASED,
            reason=Reason.FETCHING,
            accepted_s=now.world_s,
        )
        self.awarded_count += 1
        self.let_go(award.task_id)
        if self.gives_back_late:
            self.accepted_penalty_usd[run.run_id] = self._offered_penalty_usd(award, now.world_s)
        self._take(run, now=now)
        return AwardAnswer(True), Ready(
            (SaveRun(run),), (Stage(run.run_id), RenewSoon(award.origin_address))
        )

    def _offered_penalty_usd(self, award: Award, now_s: float) -> float:
        """Return the expected late penalty that an offer for the task would count now, $."""
        prediction = prediction_for(award.predictions, award.pool_type)
        assert prediction is not None, "awards without a prediction are declined"
        if award.deadline_s is None:
            return 0.0
        start_s = earliest_fit(
            self.schedules[award.pool_type].profile(now_s),
            gpu_count=award.gpu.gpu_count,
            duration_s=prediction.run_time.p50_s,
            not_before_s=max(self._staged_by_s(award, now_s), award.earliest_start_s or now_s),
        )
        return expected_penalty_usd(
            prediction.run_time,
            award.terms.late_penalty,
            start_s=start_s,
            deadline_s=award.deadline_s,
        )

    def _award_problem(self, award: Award) -> AwardAnswer | None:
        if self.is_draining:
            return AwardAnswer(False, Reason.SITE_DRAINING, "the site takes no new work")
        known = self.fences.get(award.task_id)
        if known is not None and award.fence <= known:
            return AwardAnswer(False, Reason.STALE_FENCE, "a newer attempt is known here")
        if self._live_count() >= RUN_COUNT_MAX:
            return AwardAnswer(False, Reason.QUEUE_FULL, f"{RUN_COUNT_MAX} runs are accepted")
        pools = self._pools_for(award.gpu.type, award.gpu.gpu_count)
        if award.pool_type not in [pool.type for pool in pools]:
            return AwardAnswer(False, Reason.GPU_TYPE_UNKNOWN, f"no pool {award.pool_type} here")
        if prediction_for(award.predictions, award.pool_type) is None:
            return AwardAnswer(False, Reason.NO_CANDIDATE, "the award carries no prediction")
        return None

    def restore(self, runs: Mapping[RunId, HeldRun], *, now: Now) -> Ready:
        """Take over what the journal knows; nothing starts until its lease is renewed."""
        effects: list[Effect] = []
        for known in sorted(runs.values(), key=lambda run: (run.accepted_s, run.run_id)):
            is_unstarted = known.state in (RunState.LEASED, RunState.STAGING)
            # What had been staged is looked for again before it may start.
            run = replace(known, staged_s=None) if is_unstarted else known
            self._take(run, now=now)
            if run.report is not None:
                effects.append(SendReport(run.award.origin_address, run.report))
                continue
            if is_unstarted:
                effects.append(Stage(run.run_id))
            elif run.state is RunState.COMMITTING:
                effects.append(Publish(run.run_id))
            else:
                effects.append(Adopt(run.run_id))
            effects.append(RenewSoon(run.award.origin_address))
        return Ready((), tuple(effects))

    def _take(self, run: HeldRun, *, now: Now) -> None:
        """Enter a run into books, plan and cache."""
        award = run.award
        self.heard_s[run.run_id] = now.protocol_s
        self.runs[run.run_id] = run
        self.fences[award.task_id] = max(award.fence, self.fences.get(award.task_id, Fence()))
        if run.report is not None:
            return
        self._pin(run)
        prediction = prediction_for(award.predictions, award.pool_type)
        assert prediction is not None, "awards without a prediction are declined"
        deadline_s = math.inf if award.deadline_s is None else award.deadline_s
        self.schedules[award.pool_type].add(
            Planned(
                run_id=run.run_id,
                gpu_count=award.gpu.gpu_count,
                run_time=prediction.run_time,
                latest_start_s=deadline_s - prediction.run_time.p90_s,
                accepted_s=run.accepted_s,
                priority=award.priority,
                ready_s=max(self._staged_by_s(award, now.world_s), award.earliest_start_s or 0.0),
                started_s=run.started_s,
                devices=run.devices if run.state is RunState.RUNNING else (),
            )
        )

    def _pin(self, run: HeldRun) -> None:
        """Hold on to what the run needs and the cache has, complete or on its way (I5)."""
        for need in run.award.needs:
            known = need.artifact_id
            if self.cache.is_known(known):
                self.cache.pin(known, run.run_id)

    def _staged_by_s(self, award: Award, now_s: float) -> float:
        """Return the world instant by which everything should be here."""
        ready_s = now_s
        for need in award.needs:
            if self.cache.has(need.artifact_id):
                continue
            found = self._cheapest(need, award.terms, ready_s)
            if found is not None:
                ready_s += found[0].duration_s
        return ready_s

    def _cheapest(
        self, need: ArtifactNeed, terms: Terms, now_s: float
    ) -> tuple[Fetch, Charge] | None:
        return cheapest_fetch(
            need,
            here=self.site.site_id,
            zone=self.site.zone,
            links=self.links,
            terms=terms,
            carbon_here=None if self.signals.carbon is None else self.signals.carbon.series,
            byte_ratio=self.byte_ratio,
            now_s=now_s,
            wait_usd_per_h=self.wait_usd_per_h,
        )

    # ---------------------------------------------------------------- leases

    def origin_addresses(self) -> list[str]:
        """Return where the origins of all unfinished runs are reached, each once."""
        return sorted({r.award.origin_address for r in self.runs.values() if r.report is None})

    def renewals(self, tails: Mapping[RunId, LogTail] | None = None) -> dict[str, Renewal]:
        """Return what to send to each origin's address: all its unfinished runs.

        Args:
            tails: The ends of their outputs, so far as they have been read; those that their
                origins lack are sent along.
        """
        by_origin: dict[str, list[HeldRun]] = {}
        for run in self.runs.values():
            if run.report is None:
                by_origin.setdefault(run.award.origin_address, []).append(run)
        renewals = {}
        for address, runs in sorted(by_origin.items()):
            news = self._news({run.run_id for run in runs}, tails or {})
            renewals[address] = Renewal(
                site_id=self.site.site_id,
                incarnation=self.site.incarnation,
                runs=tuple(replace(self._progress(run), tail=news.get(run.run_id)) for run in runs),
            )
        return renewals

    def writers(self, address: str) -> list[RunId]:
        """Return the runs of the origin at `address` whose output may be growing."""
        return [
            run.run_id
            for run in self.runs.values()
            if run.report is None
            and run.award.origin_address == address
            and run.state in (RunState.RUNNING, RunState.COMMITTING)
        ]

    def _news(self, runs: set[RunId], tails: Mapping[RunId, LogTail]) -> dict[RunId, LogTail]:
        """Return the tails that the origin of these runs lacks, as many as one renewal takes."""
        news: dict[RunId, LogTail] = {}
        left_bytes = RENEWAL_TAIL_BYTES_MAX
        untold = [run_id for run_id in tails if run_id not in self.told_bytes]
        for run_id in (*untold, *self.told_bytes):
            tail = tails.get(run_id)
            if tail is None or run_id not in runs:
                continue
            if tail.end_bytes <= self.told_bytes.get(run_id, 0):
                continue
            left_bytes -= len(tail.text.encode())
            if left_bytes < 0:
                break
            news[run_id] = tail
        return news

    def tails_heard(self, end_bytes: Mapping[str, int], *, of: Sequence[RunId]) -> None:
        """Take note of what the origin of the runs `of` has of their outputs.

        Args:
            end_bytes: How far its tails reach, by run id; an origin that has lost them has none.
            of: The runs of the renewal that it answered.
        """
        for run_id in of:
            before = self.told_bytes.get(run_id)
            run, heard = self.runs.get(run_id), end_bytes.get(run_id)
            if heard == before:
                continue
            self.told_bytes.pop(run_id, None)
            if heard is not None and run is not None and run.report is None:
                self.told_bytes[run_id] = heard  # the last in the order

    def renewed(self, run_ids: tuple[RunId, ...], *, sent_s: float, now: Now) -> Ready:
        """Count leases from the sending of the renewal that confirmed these runs."""
        effects: list[Effect] = []
        for run_id in run_ids:
            run = self.runs.get(run_id)
            if run is None:
                continue
            self.heard_s[run_id] = now.protocol_s
            until_s = LeaseTerms(run.award.lease_s).holder_until_s(sent_s)
            if until_s <= self.lease_until_s.get(run_id, 0.0):
                continue
            self.lease_until_s[run_id] = until_s
            if run.state is RunState.RUNNING:
                effects.append(ExtendLease(run_id, until_s))
        return Ready((), tuple(effects)) + self.start_what_fits(now=now)

    def revoked(self, run_id: RunId, *, now: Now, is_cancelled: bool = False) -> Ready:
        """Stop a run that its origin no longer wants here."""
        return self._stop(run_id, RunState.CANCELLED if is_cancelled else RunState.REVOKED, now=now)

    def tick(self, *, now: Now) -> Ready:
        """Give up what no origin has confirmed for long, and start what fits.

        A running run needs no care here: its supervisor ends it with its lease, and its exit
        arrives like any other.
        """
        ready = NOTHING
        for schedule in self.schedules.values():
            schedule.lapse(now.world_s)
        for run in list(self.runs.values()):
            is_waiting = run.report is None and run.started_s is None
            if is_waiting and now.protocol_s - self.heard_s[run.run_id] > ORPHAN_S:
                message = f"its origin was not heard for {ORPHAN_S:.0f} s"
                ready += self._finish(
                    run,
                    RunState.LEASE_RETURNED,
                    Reason.SITE_LOST,
                    message,
                    ended_s=now.world_s,
                )
        return ready + self.start_what_fits(now=now)

    def drain(self, *, now: Now) -> Ready:
        """Take no new work and return what has not started."""
        self.is_draining = True
        ready = NOTHING
        for run in list(self.runs.values()):
            if run.report is None and run.state in (RunState.LEASED, RunState.STAGING):
                ready += self._finish(
                    run,
                    RunState.LEASE_RETURNED,
                    Reason.SITE_DRAINING,
                    "returned before it started: the site shuts down",
                    ended_s=now.world_s,
                )
        return ready

    def give_back_late(self, *, now: Now) -> Ready:
        """Return waiting runs whose expected late penalty has grown since they were accepted.

        What waits behind others may do better elsewhere (DESIGN section 7 B): the auction that
        follows weighs the penalty here against a transfer there. It is the growth that counts, by
        more than `REAUCTION_USD`, not lateness itself: a run that was likely late from the
        beginning stays, as nobody had a better offer, and a long one is given back while it can
        still be saved, long before its median end passes the deadline. The last of the queue goes
        first, which may save those before it.
        """
        ready = NOTHING
        while self.gives_back_late and (run := self._late_run(now.world_s)) is not None:
            ready += self._finish(
                run,
                RunState.LEASE_RETURNED,
                Reason.PREDICTED_LATE,
                "returned before it started: it would miss its deadline here",
                ended_s=now.world_s,
            )
        return ready

    def _late_run(self, now_s: float) -> HeldRun | None:
        for schedule in self.schedules.values():
            if not any(self._may_go_back(run_id) for run_id in schedule.planned):
                continue  # planning a long queue is dear, and this is asked at every tick
            starts = schedule.expected_starts(now_s)
            for run_id, start_s in reversed(starts.items()):
                deadline_s = self.runs[run_id].award.deadline_s
                if deadline_s is None or not self._may_go_back(run_id):
                    continue
                penalty_usd = expected_penalty_usd(
                    schedule.planned[run_id].run_time,
                    self.runs[run_id].award.terms.late_penalty,
                    start_s=start_s,
                    deadline_s=deadline_s,
                )
                if penalty_usd > self.accepted_penalty_usd[run_id] + REAUCTION_USD:
                    return self.runs[run_id]
        return None

    def _may_go_back(self, run_id: RunId) -> bool:
        """Tell whether the run is one to be given back if it comes to be late."""
        run = self.runs[run_id]
        return (
            run.award.deadline_s is not None
            and _is_waiting(run)
            and run.award.fence.attempt <= REAUCTION_COUNT_MAX
            # After a restart nobody knows what it was accepted with: it stays.
            and run_id in self.accepted_penalty_usd
        )

    def stop_all(self, *, now: Now) -> Ready:
        """Stop what still runs when the grace of a drain is over."""
        ready = NOTHING
        for run in list(self.runs.values()):
            if run.report is None:
                ready += self._stop(run.run_id, RunState.REVOKED, now=now)
        return ready

    def _stop(self, run_id: RunId, state: RunState, *, now: Now) -> Ready:
        run = self.runs.get(run_id)
        if run is None or run.report is not None:
            return NOTHING
        if run.state is RunState.RUNNING:
            self.stopping.setdefault(run_id, state)
            return Ready((), (StopRun(run_id),))
        if run.state is RunState.COMMITTING:
            return NOTHING  # it has ended; whether its success counts is for the origin to say
        reason = Reason.SITE_DRAINING if self.is_draining else _STOP_REASONS[state]
        message = "stopped before it ran"
        return self._finish(run, state, reason, message, ended_s=now.world_s)

    # ---------------------------------------------------------------- staging

    def missing(self, run_id: RunId) -> tuple[ArtifactNeed, ...]:
        """Return what the run still lacks here; what is here is kept for it from now on."""
        run = self.runs.get(run_id)
        if run is None or run.report is not None:
            return ()
        self._pin(run)
        here = self.scratch.get(run_id, ())
        return tuple(
            need
            for need in run.award.needs
            if need.artifact_id not in here and not self.cache.has(need.artifact_id)
        )

    def streamed(self, run_id: RunId, artifact_id: ArtifactId) -> None:
        """Note that an artifact lies in scratch, whole and verified, for this run alone."""
        self.scratch[run_id] = (*self.scratch.get(run_id, ()), artifact_id)

    def staging(self, run_id: RunId, *, now: Now) -> Ready:
        """Note that bytes are on their way for the run."""
        run = self.runs.get(run_id)
        if run is None or run.state is not RunState.LEASED:
            return NOTHING
        del now  # a change of state alone is not worth a write: staging is repeated after a crash
        self._advance(run, RunState.STAGING, Reason.FETCHING)
        return Ready((), (RenewSoon(run.award.origin_address),))

    def fetched(
        self,
        run_id: RunId,
        fetches: tuple[Fetch, ...],
        charge: Charge,
        evictions: tuple[ArtifactId, ...],
    ) -> Ready:
        """Charge an artifact's transfer to the run that it was made for.

        Args:
            run_id: The run.
            fetches: What came, one for each source that sent some of it.
            charge: Of all of it.
            evictions: What went for it.
        """
        run = self.runs.get(run_id)
        if run is None:
            return NOTHING
        terms = run.award.terms
        price_usd = charge.joint_usd(terms.scope, terms.carbon_price_usd_per_kg)
        self.cache.price(fetches[0].artifact_id, price_usd)
        kept = replace(
            run,
            transfers=run.transfers + charge,
            fetches=run.fetches + fetches,
            evictions=run.evictions + evictions,
        )
        self.runs[run_id] = kept
        return Ready((SaveRun(kept),))

    def wasted(self, run_id: RunId, charge: Charge) -> None:
        """Charge what was moved in vain; kept with the run's next write, which follows at once."""
        run = self.runs.get(run_id)
        if run is not None and run.report is None:
            self.runs[run_id] = replace(run, transfers=run.transfers + charge)

    def staged(self, run_id: RunId, *, now: Now) -> Ready:
        """Everything is here: the run waits for GPUs."""
        run = self.runs.get(run_id)
        if run is None or run.report is not None or run.started_s is not None:
            return NOTHING
        if self.missing(run_id):
            # Another run's fetch, counted on, came to nothing, or a copy turned out to be damaged.
            return Ready((), (Stage(run_id),))
        for need in run.award.needs:
            if self.cache.has(need.artifact_id):
                self.cache.hit(need.artifact_id, run_id, now_s=now.world_s)
            else:
                self.cache.demand.note(need.artifact_id, now_s=now.world_s)
        kept = replace(
            self._advance(run, RunState.STAGING, Reason.QUEUED_AT_SITE), staged_s=now.world_s
        )
        self.runs[run_id] = kept
        planned = self.schedules[run.award.pool_type].planned[run_id]
        planned.ready_s = max(now.world_s, run.award.earliest_start_s or now.world_s)
        return self.start_what_fits(now=now) + Ready(
            (SaveRun(self.runs[run_id]),), (RenewSoon(run.award.origin_address),)
        )

    def staging_failed(self, run_id: RunId, message: str, *, now: Now) -> Ready:
        """An artifact could not be brought from any holder."""
        run = self.runs.get(run_id)
        if run is None or run.report is not None:
            return NOTHING
        return self._finish(
            run, RunState.FAILED, Reason.STAGING_FAILED, message, ended_s=now.world_s
        )

    # ---------------------------------------------------------------- running

    def start_what_fits(self, *, now: Now) -> Ready:
        """Start every run that is staged, confirmed and has room."""
        effects: list[Effect] = [Stage(run_id) for run_id in self._stage_damaged()]
        writes: list[Write] = []
        may_start = frozenset(
            run_id
            for run_id, until_s in self.lease_until_s.items()
            if now.protocol_s < until_s and _is_waiting(self.runs[run_id])
        )
        if not may_start:
            return Ready((), tuple(effects))
        for schedule in self.schedules.values():
            while (run_id := schedule.startable(now.world_s, may_start=may_start)) is not None:
                devices = schedule.start(run_id, now_s=now.world_s)
                run = self._advance(self.runs[run_id], RunState.RUNNING, Reason.EXECUTING)
                run = replace(run, started_s=now.world_s, devices=devices)
                self.runs[run_id] = run
                writes.append(SaveRun(run))
                effects.append(StartRun(run_id, devices, self.lease_until_s[run_id]))
                effects.append(RenewSoon(run.award.origin_address))
            if self.may_preempt:
                effects += self._preempt(schedule, may_start)
        return Ready(tuple(writes), tuple(effects))

    def _stage_damaged(self) -> list[RunId]:
        """Return which runs have to stage again: a copy of theirs was found damaged meanwhile."""
        if not self.cache.has_damaged:
            return []
        found = []
        for run in [each for each in self.runs.values() if _is_waiting(each)]:
            scratch = self.scratch.get(run.run_id, ())
            if any(
                self.cache.is_damaged(need.artifact_id) and need.artifact_id not in scratch
                for need in run.award.needs
            ):
                self.runs[run.run_id] = replace(run, staged_s=None)
                found.append(run.run_id)
        return found

    def _preempt(self, schedule: PoolSchedule, may_start: frozenset[RunId]) -> list[Effect]:
        """Stop runs of lower priority where the most urgent waiting one needs their GPUs."""
        victims = schedule.victims(may_start=may_start, stopping=frozenset(self.stopping))
        for run_id in victims:
            self.stopping[run_id] = RunState.PREEMPTED
        return [StopRun(run_id) for run_id in victims]

    def exited(self, run_id: RunId, exit_: Exit, *, now: Now) -> Ready:
        """The executor saw the run end."""
        run = self.runs.get(run_id)
        if run is None or run.report is not None:
            return Ready((), (Reap(run_id),))
        # What the executor never started has used nothing, whenever it was handed over.
        run = replace(run, started_s=exit_.started_s)
        self.runs[run_id] = run
        stopped = self.stopping.pop(run_id, None)
        if exit_.reason is Reason.EXITED_ZERO:
            run = self._advance(run, RunState.COMMITTING, Reason.PUBLISHING)
            return Ready((SaveRun(run),), (Publish(run_id),))
        del now
        state: RunState = RunState.FAILED
        reason: Reason = exit_.reason
        if exit_.reason is Reason.SITE_LOST:
            state = RunState.LEASE_EXPIRED
        elif exit_.reason is Reason.CANCELLED_BY_USER:
            # After a restart nobody knows why it was stopped. Where the origin had moved on, the
            # report does not count; so it is told what matters to one that had not.
            is_drained = self.is_draining or stopped is None
            state = RunState.REVOKED if stopped is None else stopped
            reason = Reason.SITE_DRAINING if is_drained else _STOP_REASONS[state]
        return self._finish(run, state, reason, exit_.message, ended_s=exit_.ended_s, exit_=exit_)

    def published(self, run_id: RunId, exit_: Exit, *, now: Now) -> Ready:
        """The outputs are in place under the run's fence."""
        run = self.runs.get(run_id)
        if run is None or run.report is not None:
            return NOTHING
        del now
        if exit_.reason is not Reason.EXITED_ZERO:
            # What it left is lost, or not what the task declares.
            return self._finish(
                run,
                RunState.FAILED,
                exit_.reason,
                exit_.message,
                ended_s=exit_.ended_s,
                exit_=exit_,
            )
        return self._finish(
            run,
            RunState.SUCCEEDED,
            Reason.EXITED_ZERO,
            exit_.message,
            ended_s=exit_.ended_s,
            exit_=exit_,
        )

    def report_answered(self, run_id: RunId) -> Ready:
        """The origin has answered the report: nothing is owed any more."""
        run = self.runs.get(run_id)
        if run is None or run.report is None:
            return NOTHING
        del self.runs[run_id]
        self.lease_until_s.pop(run_id, None)
        self.heard_s.pop(run_id, None)
        if not any(other.award.task_id == run.award.task_id for other in self.runs.values()):
            self.fences.pop(run.award.task_id, None)
        return Ready((ForgetRun(run_id),), (Reap(run_id),))

    # ---------------------------------------------------------------- views

    def digest(self, *, now: Now) -> SiteDigest:
        """Return what the broker is told."""
        now_s = now.world_s
        price = self.signals.price.series
        carbon = None if self.signals.carbon is None else self.signals.carbon.series
        return SiteDigest(
            pools=tuple(
                PoolDigest(
                    type=pool.type,
                    gpu_count=pool.gpu_count,
                    free_count=pool.gpu_count - self.schedules[pool.type].promised_count(),
                    committed_gpu_s=self.schedules[pool.type].committed_gpu_s(now_s),
                )
                for pool in self.site.pools
            ),
            carbon_gco2_per_kwh=None if carbon is None else carbon.at(now_s),
            price_usd_per_kwh=price.at(now_s),
            is_draining=self.is_draining,
            run_count=self._live_count(),
            awarded_count=self.awarded_count,
            holdings=self.cache.holdings(),
            demand=tuple(
                ArtifactDemand(artifact_id, use_count)
                for artifact_id, use_count in self.cache.demand.top(DEMAND_COUNT_MAX)
            ),
            day_price_usd_per_kwh=price.mean(now_s, now_s + DAY_S),
            day_carbon_gco2_per_kwh=(None if carbon is None else carbon.mean(now_s, now_s + DAY_S)),
        )

    def check_invariants(self) -> None:
        """Assert what must hold after every event."""
        for schedule in self.schedules.values():
            schedule.check_invariants()
        live = {run_id for run_id, run in self.runs.items() if run.report is None}
        planned = {run_id for s in self.schedules.values() for run_id in s.planned}
        assert planned == live, "plan and books differ"
        assert self.lease_until_s.keys() <= self.runs.keys(), "a lease of no run"
        self.cache.check_invariants()

    def _live_count(self) -> int:
        return sum(len(schedule.planned) for schedule in self.schedules.values())

    def _progress(self, run: HeldRun) -> RunProgress:
        scratch = self.scratch.get(run.run_id, ())
        lacking = sum(
            need.size_bytes
            for need in run.award.needs
            if need.artifact_id not in scratch and not self.cache.has(need.artifact_id)
        )
        moved = self.moved_bytes.get(run.run_id, 0)
        return RunProgress(
            run_id=run.run_id,
            state=run.state,
            reason=run.reason,
            started_s=run.started_s if run.state is not RunState.LEASED else None,
            fetched_bytes=moved,
            fetch_bytes=max(moved, sum(f.size_bytes for f in run.fetches) + lacking),
        )

    def _advance(self, run: HeldRun, state: RunState, reason: Reason) -> HeldRun:
        check_run_transition(run.state, state)
        kept = replace(run, state=state, reason=reason)
        self.runs[run.run_id] = kept
        return kept

    def _finish(
        self,
        run: HeldRun,
        state: RunState,
        reason: Reason,
        message: str,
        *,
        ended_s: float,
        exit_: Exit | None = None,
    ) -> Ready:
        """End a run: free what it held, charge it, and owe its origin a report."""
        was_running = run.started_s is not None
        check_run_transition(run.state, state)
        ended_s = max(ended_s, run.started_s or run.accepted_s)
        pool = next(pool for pool in self.site.pools if pool.type == run.award.pool_type)
        charge = run.transfers
        if run.started_s is not None:
            terms = RunTerms(
                gpu_count=run.award.gpu.gpu_count,
                active_kw=pool.active_kw,
                pue=self.site.pue,
                gpu_usd_per_h=pool.usd_per_gpu_h,
            )
            carbon = self.signals.carbon
            charge += run_charge(
                terms,
                self.signals.price.series,
                None if carbon is None else carbon.series,
                start_s=run.started_s,
                end_s=ended_s,
            )
        report = Report(
            run_id=run.run_id,
            task_id=run.award.task_id,
            fence=run.award.fence,
            site_id=self.site.site_id,
            state=state,
            reason=reason,
            message=message,
            exit_code=None if exit_ is None else exit_.exit_code,
            pool_type=run.award.pool_type,
            accepted_s=run.accepted_s,
            staged_s=run.staged_s,
            started_s=run.started_s,
            ended_s=ended_s,
            charge=charge,
            fetches=run.fetches,
            evictions=run.evictions,
            is_energy_measured=False,
            log_tail="" if exit_ is None else exit_.log_tail,
            outputs=() if exit_ is None else exit_.outputs,
            output_bytes=0 if exit_ is None else exit_.output_bytes,
        )
        kept = replace(
            run,
            state=state,
            reason=reason,
            report=report,
            is_carbon_known=self.signals.carbon is not None,
        )
        self.runs[run.run_id] = kept
        self.schedules[run.award.pool_type].remove(run.run_id)
        for need in run.award.needs:
            self.cache.unpin(need.artifact_id, run.run_id)
        self.moved_bytes.pop(run.run_id, None)
        self.scratch.pop(run.run_id, None)
        self.accepted_penalty_usd.pop(run.run_id, None)
        self.told_bytes.pop(run.run_id, None)
        self.stopping.pop(run.run_id, None)
        stop: tuple[Effect, ...] = () if was_running else (StopStaging(run.run_id),)
        return Ready((SaveRun(kept),), (*stop, SendReport(run.award.origin_address, report)))


def _is_waiting(run: HeldRun) -> bool:
    """Tell whether a run has all that it needs but GPUs."""
    return run.staged_s is not None and run.started_s is None and run.report is None


def _pool_offer(
    announcement: Announcement, pool: Pool, run_time: RunTime, profile: Profile
) -> PoolOffer:
    """Return what a pool of which so much is free can promise for the task."""

    def earliest_starts(not_before_s: Sequence[float]) -> list[float]:
        return earliest_fits(
            profile,
            gpu_count=announcement.gpu.gpu_count,
            duration_s=run_time.p50_s,
            not_before_s=not_before_s,
        )

    return PoolOffer(pool=pool, run_time=run_time, earliest_starts=earliest_starts)
