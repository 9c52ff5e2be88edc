"""One simulated run: the live cores of agents and broker, driven by a heap of events.

Each site has an `Origin` and a `Participant`, as an agent has; one `Matchmaker` introduces them.
They exchange the same records as live agents. What the simulator replaces is the world: the clock,
signals and their forecasts, the network, disks that hold bytes without holding them, and an
executor that ends each run after its true time.

Simplifications, each against the live system:

- A message takes `rtt / 2` of its link, or nothing where `is_instant` is set (the default: an
  auction takes milliseconds and a task hours; the fast core does the same).
- Leases are confirmed as live, but do not expire: a site that leaves is noticed `LEASE_S` and the
  margin later, as if its renewals had stopped coming. Protocol time and world time are one.
- A transfer, once begun, runs to its end, even if the run that wanted it or its target is gone.
- A site that leaves takes its GPUs and caches with it. Its agent goes on as the origin of its
  tasks, and upstream copies beside it stay reachable.

What goes wrong by chance (`testbed.sim.instance.Faults`) the cores learn as from a live shell. A
message that is lost never comes; awards, reports and renewals are sent again, as they are live, and
a bid that does not come in its window is none. A site that crashes leaves, and comes back with its
caches. A corrupt copy is refused as a whole and fetched again; live agents fetch the bad chunks
alone. What the disk has no room for is streamed to scratch. The broker is asked directly.
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TextIO

from broker.matching import HOLDER_COUNT_MAX, NOMINEE_COUNT, NOMINEE_COUNT_MAX, Matchmaker
from gcos.accounting import Charge, LatePenalty, transfer_charge
from gcos.artifacts import Artifact
from gcos.contract_net import (
    Announcement,
    ArtifactNeed,
    Award,
    AwardAnswer,
    Bid,
    ClusterSignals,
    Fetch,
    Hold,
    Holder,
    Refusal,
    Rejection,
    Report,
    Terms,
    Verdict,
)
from gcos.durations import Prediction
from gcos.errors import CacheFullError, InvalidRequestError
from gcos.ids import ArtifactId, RunId, SiteId, TaskId
from gcos.known_sites import Nomination, NominationQuery
from gcos.seeds import stream
from gcos.signals import HOUR_S
from gcos.sites import Link, Pool, Site
from gcos.tasks import (
    GpuRequest,
    Reason,
    Retry,
    RetryCause,
    RunState,
    TaskSpec,
    TaskState,
    Work,
    WorkKind,
)
from policies.catalogue import Policy
from policies.evictors import DEFAULT as DEFAULT_EVICTION
from policies.evictors import Belady, evictor_named
from policies.features import cluster_of, outlook
from policies.maccs.copy_plan import UNLEARNED, Learned, plan_copies
from site_agent import effects as fx
from site_agent.auction import Auction
from site_agent.copy_planning import Planner
from site_agent.demand_log import LOG_COUNT_MAX, DemandLog
from site_agent.effects import Now, Ready
from site_agent.held_run import HeldRun
from site_agent.lease import LEASE_S, LeaseTerms
from site_agent.migration import Migration, Pull
from site_agent.origin import AWARD_RETRY_S, Origin, OriginSettings
from site_agent.outlook import SiteOutlook
from site_agent.participant import DEMAND_COUNT_MAX, Exit, Participant
from site_agent.sourcing import cheapest_fetch
from testbed.sim.batches import Asked, Batches
from testbed.sim.books import Books, Tell
from testbed.sim.cache_modes import CacheMode, cache_of
from testbed.sim.engine import BEAT, DECISION, Engine
from testbed.sim.forecast import Forecaster
from testbed.sim.foresight import CopyPlans, pools_of, predictions_of
from testbed.sim.instance import Churn, ChurnKind, Instance, SimTask
from testbed.sim.mishaps import Mishaps
from testbed.sim.network import Network
from testbed.sim.next_use import NextUse

#: Leases that never end within a run; what ends them is `Simulation._leave`.
_FOR_EVER_S = 1e9
#: After so long a site's silence is certain to its tasks' origins (`site_agent.lease`).
_NOTICED_S = LeaseTerms(LEASE_S).origin_until_s(0.0)
#: Pause before a renewal or a report that was not answered is sent again.
_REPEAT_S = LeaseTerms(LEASE_S).renewal_s
#: How long bids are waited for where messages may be lost, as agents do by default.
_BID_WINDOW_S = 2.0
_RETRY = Retry(limit_count=1_000, on=tuple(RetryCause))


@dataclass(slots=True)
class _Execution:
    """A run that executes."""

    task: SimTask
    started_s: float


@dataclass(slots=True)
class _Arrival:
    """A transfer under way to a site."""

    artifact: Artifact
    fetch: Fetch
    begun_s: float
    #: Whom it is brought for; None: a copy ahead of need.
    run_id: RunId | None
    evicted: tuple[ArtifactId, ...] = ()
    #: False: to scratch, for its run alone.
    is_stored: bool = True
    #: Site whose cached copy is read; None: an upstream's.
    read_from: "_Place | None" = None

    @property
    def source(self) -> SiteId:
        return self.fetch.source.site_id


@dataclass(slots=True, eq=False)
class _Place:
    """A site in the simulation: its two cores and what its machine holds."""

    site: Site
    origin: Origin
    participant: Participant
    migration: Migration
    outlook: SiteOutlook
    is_here: bool = True
    #: Until then nobody knows that it left, and it cannot come back.
    noticed_s: float = -math.inf
    executions: dict[RunId, _Execution] = field(default_factory=dict)
    #: Runs that bring artifacts: what stands here goes on.
    staging: set[RunId] = field(default_factory=set)
    #: Runs that wait for an artifact that another one brings.
    waiting: dict[ArtifactId, list[RunId]] = field(default_factory=dict)
    #: What each staging run did not find.
    waited: dict[RunId, set[ArtifactId]] = field(default_factory=dict)
    #: Origins to which a renewal is about to go.
    renewing: set[str] = field(default_factory=set)

    @property
    def pool(self) -> Pool:
        return self.site.pools[0]


@dataclass(frozen=True, slots=True)
class OpenAuction:
    """An auction with all its answers, which waits for somebody to settle it.

    Attributes:
        announcement: What was announced.
        auction: What it brought.
        settle: Awards by the auction that it is given; to be called once, with this one or with
            the same offers under other scores.
    """

    announcement: Announcement
    auction: Auction
    settle: Callable[[Auction], None]


class Simulation:
    """One run of one policy in one world.

    Args:
        instance: The world.
        policy: Who bids how.
        mode: Which caches there are.
        eviction: Name in `policies.evictors` of what goes first when a cache is full; `belady`
            knows the tasks that are to come.
        log: Where the lines of `log.jsonl` go; None: nowhere.
        arbiter: Is handed each auction that brought an offer, and sees to it that it is settled
            before the engine's next event; None: origins settle theirs at once, by the scores.
        tell: Told of every charge as it is booked.
        is_instant: Messages take no time.
        planner: Makes the plan of copies; compiled it takes a hundredth of the time.
        checks: Assert the cores' invariants after every event; slow.

    Raises:
        InvalidRequestError: The policy ranks offers by what no origin knows, and there is no
            arbiter.
    """

    def __init__(
        self,
        instance: Instance,
        policy: Policy,
        *,
        mode: CacheMode = CacheMode.DUAL,
        eviction: str = DEFAULT_EVICTION,
        log: TextIO | None = None,
        arbiter: Callable[[OpenAuction], None] | None = None,
        tell: Tell | None = None,
        is_instant: bool = True,
        planner: Planner = plan_copies,
        learned: Learned = UNLEARNED,
        checks: bool = False,
    ) -> None:
        if policy.is_central and arbiter is None:
            raise InvalidRequestError(
                f"{policy.name} ranks the offers of all sites together, and here origins compare"
                " them one by one",
                field="policy",
                hint="use the compiled core: --core fast",
            )
        self.instance = instance
        self.policy = policy
        self.mode = mode
        self.engine = Engine(instance.start_s)
        self._evictor = (
            partial(Belady, NextUse(instance, lambda: self.engine.now_s).at_s)
            if eviction == Belady.name
            else evictor_named(eviction)
        )
        self.books = Books(instance, log, tell)
        self.auction_count = 0
        self.reauction_count = 0
        # Few sites are all asked, so that no rule depends on the broker's choice; many are not, as
        # the price of an auction must not grow with the number of sites.
        is_small = len(instance.sites) <= NOMINEE_COUNT_MAX
        self._nominee_count = len(instance.sites) if is_small else NOMINEE_COUNT
        self._is_instant = is_instant
        foresight = policy.foresight
        self._plans = (
            None if foresight is None else CopyPlans(instance, foresight, planner, learned)
        )
        self._checks = checks
        self._arbiter = arbiter
        self._mishaps = Mishaps(instance)
        self._network = Network(self.engine, shares_bandwidth=instance.shares_bandwidth)
        self._broker = Matchmaker(lease_s=math.inf)
        self._forecaster = Forecaster(instance)
        zones = {site.site_id: site.zone for site in instance.sites}
        self._links = {(zones[a], zones[b]): link for (a, b), link in instance.links.items()}
        self._artifacts = {each.artifact.artifact_id: each.artifact for each in instance.upstreams}
        self._homes = {each.artifact.artifact_id: each.home for each in instance.upstreams}
        self._pools = pools_of(instance)
        self._terms = Terms(
            carbon_price_usd_per_kg=instance.carbon_price_usd_per_kg,
            network_kwh_per_gb=instance.network_kwh_per_gb,
            scope=instance.scope,
            late_penalty=LatePenalty(0.0, 0.0, 0.0),
        )
        self._tasks: dict[TaskId, SimTask] = {}
        self._left_count = len(instance.tasks)
        #: Sites that are to come or to come back.
        self._joining_count = sum(churn.kind is ChurnKind.JOIN for churn in instance.churn)
        #: Sites that crashed, and when they come back unless they have left meanwhile.
        self._crashed: dict[SiteId, float] = {}
        self.places = {site.site_id: self._place(site) for site in instance.sites}
        #: Sites that changed since the broker last heard of them.
        self._changed = dict.fromkeys(self.places)
        #: What others are told of a site, made once an hour.
        self._holders: dict[SiteId, Holder] = {}
        self._holders_hour = -1.0
        #: What all sites expect of their signals, as of the last beat.
        self._cluster: ClusterSignals | None = None
        self._batches = self._collector()
        #: Sites with a stored, complete copy of each artifact.
        self._stored: dict[ArtifactId, dict[SiteId, None]] = {key: {} for key in self._artifacts}

    # ---------------------------------------------------------------- the run

    def run(self) -> None:
        """Run until every task has ended."""
        self.begin()
        self.engine.run()
        self.end()

    def begin(self) -> None:
        """Enter what is to happen; whoever steps the engine himself calls this first."""
        self._begin_churn()
        for at_s, site_id in self._mishaps.crashes():
            self.engine.at(at_s, partial(self._crash, site_id), BEAT)
        self._beat()
        self._arrive(0)

    def end(self) -> None:
        """Close the books, once nothing is left to happen."""
        assert self._left_count == 0, "a task was lost (I1)"
        self.books.close()

    def _collector(self) -> Batches | None:
        """Return what collects tasks for the policy's dispatcher, if it has one."""
        if self.policy.dispatcher is None:
            return None
        draws = stream(self.instance.seed, "dispatcher")
        sites = {site_id: place.participant for site_id, place in self.places.items()}
        return Batches(self.engine, self.policy.dispatcher(draws), sites)

    def _place(self, site: Site) -> _Place:
        instance = self.instance
        cache = cache_of(site, self.mode, self._evictor)
        for upstream in instance.upstreams:
            if upstream.home == site.site_id:
                cache.settle(upstream.artifact)
        participant = Participant(
            site=site,
            cache=cache,
            bidder=self.policy.bidder(),
            links=self._link,
            signals=self._forecaster.signals(site.site_id, instance.start_s),
            streams_to_scratch=True,
            gives_back_late=self.policy.gives_back_late,
        )
        origin = Origin(
            settings=OriginSettings(
                site_id=site.site_id,
                address=site.site_id,
                lease=LeaseTerms(_FOR_EVER_S),
                carbon_price_usd_per_kg=instance.carbon_price_usd_per_kg,
                network_kwh_per_gb=instance.network_kwh_per_gb,
                scope=instance.scope,
            ),
            at_origin=lambda _task, _report: Charge(),
            lateness=lambda spec, _predictions: self._tasks[TaskId(spec.name)].late_penalty,
        )
        outlook = SiteOutlook(
            participant,
            DemandLog(instance.start_s),
            carbon_price_usd_per_kg=instance.carbon_price_usd_per_kg,
            scope=instance.scope,
            began_s=instance.start_s,
        )
        migration = Migration(cache, self.policy.migrator())
        return _Place(site, origin, participant, migration, outlook)

    def _beat(self) -> None:
        """Give every site the hour's signals, and whoever waits a look at them."""
        now_s = self.engine.now_s
        for place in self.places.values():
            place.participant.signals = self._forecaster.signals(place.site.site_id, now_s)
            self._changed[place.site.site_id] = None
            self._tick_participant(place)
            self._tick_origin(place)
        self._cluster = self._cluster_at(now_s)
        self._share_demand()
        if self._left_count:
            self.engine.at(now_s + HOUR_S, self._beat, BEAT)

    def _cluster_at(self, now_s: float) -> ClusterSignals | None:
        """Return the means over all sites; those that are away count, too."""
        prices, carbons = [], []
        for place in self.places.values():
            signals = place.participant.signals
            assert signals.carbon is not None, "a simulated site knows its carbon"
            prices.append(outlook(signals.price.series, now_s).mean)
            carbons.append(outlook(signals.carbon.series, now_s).mean)
        return cluster_of(prices, carbons)

    def _share_demand(self) -> None:
        """Tell every site what is used elsewhere, as digests do, and let its migrator look."""
        total: Counter[ArtifactId] = Counter()
        tops = {}
        for site_id, place in self.places.items():
            tops[site_id] = dict(place.participant.cache.demand.top(DEMAND_COUNT_MAX))
            total.update(tops[site_id])
        for site_id, place in self.places.items():
            own = tops[site_id]
            elsewhere = {key: count - own.get(key, 0.0) for key, count in total.items()}
            place.participant.cache.demand.hear(elsewhere)
            if place.is_here:
                for pull in place.migration.beat(now_s=self.engine.now_s):
                    self._pull(place, pull)
        if self._plans is not None:
            self._plan_copies(self._plans)

    def _plan_copies(self, plans: CopyPlans) -> None:
        """Let every site pull what the plan gives to it.

        All would compute the same from the same outlooks, so it is computed once.
        """
        now_s = self.engine.now_s
        outlooks = [
            place.outlook.at(now_s, now_s=now_s, submission_count_max=LOG_COUNT_MAX)
            for place in self.places.values()
        ]
        for copy in plans.copies(outlooks, now_s=now_s):
            place = self.places[copy.site_id]
            fetch = self._fetch(place, self._artifacts[copy.need.artifact_id])
            for pull in place.migration.planned(
                copy.need, fetch, copy.price_usd, copy.why, now_s=now_s
            ):
                self._pull(place, pull)

    # ---------------------------------------------------------------- tasks

    def _arrive(self, index: int) -> None:
        """Submit the task of that index, once its time has come, and look to the next."""
        tasks = self.instance.tasks
        if index >= len(tasks):
            return
        task = tasks[index]

        def submit() -> None:
            self._submit(task)
            self._arrive(index + 1)

        self.engine.at(task.arrival_s, submit, DECISION)

    def _submit(self, task: SimTask) -> None:
        key = TaskId(task.task_id)
        self._tasks[key] = task
        spec = TaskSpec(
            name=task.task_id,
            command=("simulated",),
            work=Work(WorkKind.CUSTOM),
            gpu=GpuRequest(gpu_count=task.gpu_count),
            deadline_s=task.deadline_s,
            retry=_RETRY,
        )
        place = self.places[task.origin]
        needs = tuple(self._need(each) for each in (task.model, task.data))
        if self._plans is not None:
            place.outlook.log.note(self._plans.submission(task), needs)
        _, ready = place.origin.submit(key, spec, needs, (), now=self._now())
        self._apply(place, ready)

    def _ended(self, place: _Place, task_id: TaskId) -> None:
        """Forget a task that has ended: a long run takes no more memory than a short one."""
        assert place.origin.tasks[task_id].state is TaskState.SUCCEEDED, "a task has failed"
        place.origin.forget(task_id)
        del self._tasks[task_id]
        self._left_count -= 1

    # ---------------------------------------------------------------- negotiating

    def _negotiate(self, place: _Place, task_id: TaskId) -> None:
        if self._batches is not None:
            self._batches.join(task_id, partial(self._ask_at_once, place, task_id))
            return
        nomination, announcement = self._announced(place, task_id)
        answers: list[Bid | Refusal] = []
        silent = {nominee.site_id: None for nominee in nomination.nominees}
        is_closed = False

        def close() -> None:
            nonlocal is_closed
            if is_closed:
                return
            is_closed = True
            answers.extend(
                Refusal(site_id, Reason.NO_SITE_REACHABLE, "did not bid") for site_id in silent
            )
            self._close_auction(place, announcement, nomination, answers)

        def answer(bidder: _Place) -> None:
            bid = bidder.participant.bid(announcement, now=self._now())
            bidder.migration.offered(announcement, bid)
            self._send(bidder.site.site_id, place.site.site_id, partial(collect, bid))

        def collect(bid: Bid | Refusal) -> None:
            if is_closed:
                return
            answers.append(bid)
            del silent[bid.site_id]
            if not silent:
                close()

        if not nomination.nominees:
            close()
        elif self._mishaps.disturb_messages:
            self.engine.at(self.engine.now_s + _BID_WINDOW_S, close, DECISION)
        for nominee in nomination.nominees:
            bidder = self.places[nominee.site_id]
            self._send(place.site.site_id, nominee.site_id, partial(answer, bidder))

    def _announced(self, place: _Place, task_id: TaskId) -> tuple[Nomination, Announcement]:
        """Return who is to be asked about a task, and what."""
        self.auction_count += 1
        origin = place.origin
        task = origin.tasks[task_id]
        truth = self._tasks[task_id]
        self._tell_broker()
        nomination = self._broker.nominate(
            NominationQuery(
                gpu=task.spec.gpu,
                artifact_ids=tuple(need.artifact_id for need in task.needs),
                run_s=truth.predicted_work_s,
                carbon_price_usd_per_kg=self.instance.carbon_price_usd_per_kg,
                scope=self.instance.scope,
                limit_count=self._nominee_count,
            ),
            now_s=self.engine.now_s,
        )
        announcement = origin.announcement(
            task_id,
            task.spec,
            fence=task.fence.next_attempt(),
            needs=tuple(self._need(need.artifact_id) for need in task.needs),
            predictions=self._predictions(truth),
            cluster=self._cluster,
        )
        return nomination, announcement

    def _predictions(self, task: SimTask) -> tuple[Prediction, ...]:
        """Return what a predictor says of a task."""
        return predictions_of(task, self._pools)

    def _close_auction(
        self,
        place: _Place,
        announcement: Announcement,
        nomination: Nomination,
        answers: Sequence[Bid | Refusal],
    ) -> None:
        auction = Auction(
            predictions=announcement.predictions,
            needs=announcement.needs,
            bids=tuple(each for each in answers if isinstance(each, Bid)),
            refusals=(
                *nomination.refusals,
                *(each for each in answers if isinstance(each, Refusal)),
            ),
            # Whoever is to come yet may take what nobody here can.
            is_complete=self._joining_count == 0,
        )

        def settle(auction: Auction) -> None:
            task_id = announcement.task_id
            self._apply(place, place.origin.close_auction(task_id, auction, now=self._now()))

        if self._arbiter is None or not auction.bids:
            settle(auction)
        else:
            self._arbiter(OpenAuction(announcement, auction, settle))

    def _ask_at_once(self, place: _Place, task_id: TaskId) -> Asked:
        """Return what sites offer for a task of a batch; a dispatcher hears them without delay."""
        nomination, announcement = self._announced(place, task_id)
        answers: list[Bid | Refusal] = []
        for nominee in nomination.nominees:
            bidder = self.places[nominee.site_id]
            answers.append(bidder.participant.bid(announcement, now=self._now()))
            bidder.migration.offered(announcement, answers[-1])
        refusals = [each for each in answers if isinstance(each, Refusal)]
        return Asked(
            announcement,
            bids=tuple(each for each in answers if isinstance(each, Bid)),
            close=lambda bids: self._close_auction(
                place, announcement, nomination, (*bids, *refusals)
            ),
        )

    def _need(self, artifact_id: ArtifactId) -> ArtifactNeed:
        """Return an artifact with everyone who has all of it now."""
        artifact = self._artifacts[artifact_id]
        stored = (each for each in self._stored[artifact_id] if self.places[each].is_here)
        found = dict.fromkeys((self._homes[artifact_id], *stored))
        holders = [self._holder(site_id) for site_id in sorted(found)]
        if len(holders) > HOLDER_COUNT_MAX:
            # As the broker does: what each bidder looks at must not grow with the number of sites.
            holders = heapq.nsmallest(
                HOLDER_COUNT_MAX,
                holders,
                key=lambda holder: (holder.carbon_gco2_per_kwh or 0.0, holder.site_id),
            )
        return ArtifactNeed(
            artifact_id,
            kind=artifact.kind,
            name=artifact.name,
            size_bytes=artifact.size_bytes,
            holders=tuple(holders),
        )

    def _holder(self, site_id: SiteId) -> Holder:
        hour = self.engine.now_s // HOUR_S
        if hour != self._holders_hour:
            self._holders_hour = hour
            self._holders.clear()
        holder = self._holders.get(site_id)
        if holder is None:
            carbon = self.instance.carbon[site_id].at(self.engine.now_s)
            holder = Holder(site_id, self.places[site_id].site.zone, site_id, carbon)
            self._holders[site_id] = holder
        return holder

    def _tell_broker(self) -> None:
        for site_id in sorted(self._changed):
            place = self.places[site_id]
            if place.is_here:
                del self._changed[site_id]
                digest = place.participant.digest(now=self._now())
                self._broker.register(place.site, digest, now_s=self.engine.now_s)

    # ---------------------------------------------------------------- effects

    def _apply(self, place: _Place, ready: Ready) -> None:
        """Do what a core asks; nothing needs to be written, since nothing here forgets."""
        for write in ready.writes:
            if isinstance(write, fx.SaveTask):
                self._look_ahead(place, write.task.task_id)
        for effect in (*ready.at_once, *ready.effects):
            self._begin(place, effect)
        self._changed[place.site.site_id] = None
        if self._checks:
            place.origin.check_invariants()
            place.participant.check_invariants()

    def _look_ahead(self, place: _Place, task_id: TaskId) -> None:
        """Let time pass for a task that waits, and forget one that has ended."""
        task = place.origin.tasks.get(task_id)
        if task is None:
            return
        is_lost = task.state.is_terminal and task.state is not TaskState.SUCCEEDED
        assert not is_lost, f"{task_id} ends {task.state.value}: {task.message}"
        if task.state is TaskState.WAITING and task.wake_s is not None:
            self.engine.at(task.wake_s, partial(self._tick_origin, place), DECISION)
        elif task.state is TaskState.QUEUED and task_id not in place.origin.negotiating:
            due_s = place.origin.pause_until_s.get(task_id, 0.0)
            self.engine.at(due_s, partial(self._tick_origin, place), DECISION)

    def _begin(self, place: _Place, effect: fx.Effect) -> None:
        match effect:
            case fx.Negotiate(task):
                self.engine.soon(partial(self._negotiate, place, task), DECISION)
            case fx.SendAward(to, award):
                self._send_award(place, to, award)
            case fx.Stage(run):
                place.staging.add(run)
                self.engine.soon(partial(self._stage, place, run))
            case fx.StopStaging(run):
                place.staging.discard(run)
            case fx.StartRun(run):
                self._start(place, run)
            case fx.StopRun(run):
                self.engine.soon(partial(self._kill, place, run, Reason.CANCELLED_BY_USER))
            case fx.Publish(run):
                self.engine.soon(partial(self._publish, place, run))
            case fx.SendReport(address, report):
                self.reauction_count += report.reason is Reason.PREDICTED_LATE
                self._send_report(place, SiteId(address), report)
            case fx.RenewSoon(address):
                if address not in place.renewing:
                    place.renewing.add(address)
                    self.engine.soon(partial(self._renew, place, address))
            case fx.SendRevoke() | fx.Adopt():
                raise AssertionError("nobody cancels and nothing restarts here")
            case fx.SendHold(to, hold):
                self._send(place.site.site_id, to, partial(self._hold, to, hold))
            case fx.SendRejections(rejections):
                for to, rejection in rejections:
                    self._send(place.site.site_id, to, partial(self._reject, to, rejection))
            case fx.ExtendLease() | fx.Reap() | fx.Observe():
                pass

    def _send(self, source: SiteId, target: SiteId, action: Callable[[], None]) -> None:
        """Deliver a message, unless it is lost."""
        if source == target or (self._is_instant and not self._mishaps.disturb_messages):
            self.engine.soon(action)
        elif not self._mishaps.is_lost():
            link_s = 0.0 if self._is_instant else self.instance.links[source, target].rtt_s / 2
            self.engine.at(self.engine.now_s + link_s + self._mishaps.delay_s(), action)

    def _send_award(self, place: _Place, to: SiteId, award: Award) -> None:
        winner = self.places[to]

        def deliver() -> None:
            winner.migration.won(award.task_id)
            answer, ready = winner.participant.award(award, now=self._now())
            self._apply(winner, ready)
            self._send(to, place.site.site_id, partial(answered, answer))
            # An award that comes again may find its run ended, with only its report to be answered.
            planned = winner.participant.schedules[award.pool_type].planned.get(award.run_id)
            if planned is not None and planned.ready_s > self.engine.now_s:
                self.engine.at(planned.ready_s, partial(self._tick_participant, winner))

        def answered(answer: AwardAnswer) -> None:
            ready = place.origin.award_answered(award.run_id, answer, now=self._now())
            self._apply(place, ready)

        self._send(place.site.site_id, to, deliver)
        if self._mishaps.disturb_messages:
            # By then the origin sends it again if it was not answered.
            due_s = self.engine.now_s + AWARD_RETRY_S
            self.engine.at(due_s, partial(self._tick_origin, place), DECISION)

    def _hold(self, to: SiteId, hold: Hold) -> None:
        self.places[to].participant.hold(hold, now=self._now())

    def _reject(self, to: SiteId, rejection: Rejection) -> None:
        loser = self.places[to]
        loser.participant.let_go(rejection.task_id)
        now_s = self.engine.now_s
        for pull in loser.migration.rejected(rejection, now_s=now_s):
            self._pull(loser, pull)

    def _renew(self, place: _Place, address: str) -> None:
        """Confirm the leases of one origin's runs, as live renewals do."""
        place.renewing.discard(address)
        renewal = place.participant.renewals().get(address)
        if renewal is None:
            return
        sent_s = self.engine.now_s
        origin = self.places[SiteId(address)]
        is_confirmed = False

        def deliver() -> None:
            answer, ready = origin.origin.renew(renewal, now=self._now())
            self._apply(origin, ready)
            kept = tuple(
                RunId(run)
                for run, verdict in answer.verdicts.items()
                if verdict is Verdict.CONTINUE
            )
            self._send(origin.site.site_id, place.site.site_id, partial(confirmed, kept))

        def confirmed(kept: tuple[RunId, ...]) -> None:
            nonlocal is_confirmed
            is_confirmed = True
            if not place.is_here:
                return
            ready = place.participant.renewed(kept, sent_s=sent_s, now=self._now())
            self._apply(place, ready)

        def repeat() -> None:
            if not is_confirmed:
                self._begin(place, fx.RenewSoon(address))

        self._send(place.site.site_id, origin.site.site_id, deliver)
        if self._mishaps.disturb_messages:
            self.engine.at(sent_s + _REPEAT_S, repeat)

    def _send_report(self, place: _Place, to: SiteId, report: Report) -> None:
        origin = self.places[to]

        def deliver() -> None:
            answer, ready = origin.origin.report(report, now=self._now())
            self._apply(origin, ready)
            # A repeated report may come when its task has ended and is forgotten.
            is_known = report.task_id in origin.origin.tasks
            may_repeat = self._mishaps.disturb_messages and not is_known
            assert answer.is_accepted or may_repeat, "a report of the only attempt does not count"
            if report.state is RunState.SUCCEEDED and is_known:
                self._ended(origin, report.task_id)
            self._send(to, place.site.site_id, answered)

        def answered() -> None:
            self._apply(place, place.participant.report_answered(report.run_id))

        def repeat() -> None:
            if report.run_id in place.participant.runs:
                self._send_report(place, to, report)

        self._send(place.site.site_id, to, deliver)
        if self._mishaps.disturb_messages:
            self.engine.at(self.engine.now_s + _REPEAT_S, repeat)

    # ---------------------------------------------------------------- staging

    def _stage(self, place: _Place, run_id: RunId) -> None:
        """Bring one artifact after the other."""
        if run_id not in place.staging or not place.is_here:
            return
        participant = place.participant
        missing = participant.missing(run_id)
        if not missing:
            place.staging.discard(run_id)
            self._count_hits(place, participant.runs[run_id])
            self._apply(place, participant.staged(run_id, now=self._now()))
            self._tick_participant(place)
            return
        artifact = self._artifacts[missing[0].artifact_id]
        place.waited.setdefault(run_id, set()).add(artifact.artifact_id)
        self._apply(place, participant.staging(run_id, now=self._now()))
        if participant.cache.is_reserved(artifact.artifact_id):
            place.waiting.setdefault(artifact.artifact_id, []).append(run_id)
            return
        self._transfer(place, artifact, run_id)

    def _count_hits(self, place: _Place, run: HeldRun) -> None:
        """Count what the run found when it was accepted, and what it had to wait for."""
        waited = place.waited.pop(run.run_id, set())
        task = self._tasks[run.award.task_id]
        for need in run.award.needs:
            self.books.lookup(task, need.kind, is_hit=need.artifact_id not in waited)

    def _forget_copy(self, place: _Place, artifact_id: ArtifactId) -> None:
        del self._stored[artifact_id][place.site.site_id]
        artifact = self._artifacts[artifact_id]
        self.books.evict(place.site.site_id, artifact, now_s=self.engine.now_s)

    def _pull(self, place: _Place, pull: Pull) -> None:
        """Bring a copy that no run waits for."""
        artifact = self._artifacts[pull.need.artifact_id]
        if place.participant.cache.is_reserved(artifact.artifact_id):
            place.migration.ended(artifact.artifact_id)
        else:
            self._transfer(place, artifact, None)

    def _transfer(self, place: _Place, artifact: Artifact, run_id: RunId | None) -> None:
        """Bring an artifact from the cheapest source, to the cache or, for a run, to scratch."""
        cache = place.participant.cache
        arrival = _Arrival(artifact, self._fetch(place, artifact), self.engine.now_s, run_id)
        try:
            if self._mishaps.is_disk_full():
                raise CacheFullError("the disk has no room")
            arrival.evicted = cache.reserve(artifact, now_s=self.engine.now_s)
        except CacheFullError:
            if run_id is None:
                place.migration.ended(artifact.artifact_id)
                return
            arrival.is_stored = False
        for victim in arrival.evicted:
            self._forget_copy(place, victim)
        if arrival.is_stored and run_id is not None:
            cache.pin(artifact.artifact_id, run_id)
        self._move(place, arrival)

    def _fetch(self, place: _Place, artifact: Artifact) -> Fetch:
        """Return the cheapest way to bring an artifact to a place."""
        carbon = place.participant.signals.carbon
        found = cheapest_fetch(
            self._need(artifact.artifact_id),
            here=place.site.site_id,
            zone=place.site.zone,
            links=self._link,
            terms=self._terms,
            carbon_here=None if carbon is None else carbon.series,
            byte_ratio=1.0,
            now_s=self.engine.now_s,
        )
        assert found is not None, "an artifact has its home, and it is elsewhere"
        return found[0]

    def _move(self, place: _Place, arrival: _Arrival) -> None:
        """Set the bytes of a transfer going."""
        artifact, source, here = arrival.artifact, arrival.source, place.site.site_id
        if source != self._homes[artifact.artifact_id]:
            arrival.read_from = self.places[source]
            arrival.read_from.participant.cache.open_reader(artifact.artifact_id)
        self._network.start(
            source,
            here,
            self.instance.links[source, here],
            artifact.size_bytes,
            partial(self._arrived, place, arrival),
        )

    def _arrived(self, place: _Place, arrival: _Arrival) -> None:
        """Take what has come, or refuse it and have it brought again."""
        if arrival.read_from is not None:
            arrival.read_from.participant.cache.close_reader(arrival.artifact.artifact_id)
            arrival.read_from = None
        is_corrupt = self._mishaps.is_corrupt()
        charge = self._charge_transfer(
            place, arrival, is_stored=arrival.is_stored and not is_corrupt
        )
        if is_corrupt:
            if arrival.run_id is not None:
                place.participant.wasted(arrival.run_id, charge)
            arrival.fetch = self._fetch(place, arrival.artifact)
            arrival.begun_s = self.engine.now_s
            self._move(place, arrival)
            return
        self._take(place, arrival, charge)

    def _charge_transfer(self, place: _Place, arrival: _Arrival, *, is_stored: bool) -> Charge:
        """Enter a transfer that has ended, and return what it cost."""
        artifact, source, here = arrival.artifact, arrival.source, place.site.site_id
        run_id, now_s = arrival.run_id, self.engine.now_s
        self.books.transfer(
            artifact,
            source,
            here,
            start_s=arrival.begun_s,
            end_s=now_s,
            task_id=None if run_id is None else run_id.split(".", 1)[0],
            is_stored=is_stored,
        )
        return transfer_charge(
            artifact.size_bytes,
            egress_usd_per_gb=self.instance.links[source, here].egress_usd_per_gb,
            network_kwh_per_gb=self.instance.network_kwh_per_gb,
            carbon_src=self.instance.carbon[source],
            carbon_dst=self.instance.carbon[here],
            start_s=arrival.begun_s,
            end_s=now_s,
        )

    def _take(self, place: _Place, arrival: _Arrival, charge: Charge) -> None:
        """Let runs go on that waited for an artifact."""
        artifact, run_id = arrival.artifact, arrival.run_id
        participant, here = place.participant, place.site.site_id
        if arrival.is_stored:
            participant.cache.insert(artifact.artifact_id)
            self._stored[artifact.artifact_id][here] = None
            self._changed[here] = None
        if run_id is None:
            terms = self._terms
            price_usd = charge.joint_usd(terms.scope, terms.carbon_price_usd_per_kg)
            participant.cache.price(artifact.artifact_id, price_usd)
            place.migration.ended(artifact.artifact_id)
        else:
            run = participant.runs.get(run_id)
            if not arrival.is_stored and run is not None and run.report is None:
                participant.streamed(run_id, artifact.artifact_id)
            ready = participant.fetched(run_id, (arrival.fetch,), charge, arrival.evicted)
            self._apply(place, ready)
            self._stage(place, run_id)
        for waiter in place.waiting.pop(artifact.artifact_id, []) if arrival.is_stored else []:
            self._stage(place, waiter)

    # ---------------------------------------------------------------- executing

    def _start(self, place: _Place, run_id: RunId) -> None:
        run = place.participant.runs[run_id]
        task = self._tasks[run.award.task_id]
        place.executions[run_id] = _Execution(task, self.engine.now_s)
        if self._checks:
            self._check_start(place, run)
        end_s = self.engine.now_s + task.work_s / place.pool.speed_ratio
        self.engine.at(end_s, partial(self._exit, place, run_id))

    def _check_start(self, place: _Place, run: HeldRun) -> None:
        scratch = place.participant.scratch.get(run.run_id, ())
        for need in run.award.needs:
            is_here = place.participant.cache.has(need.artifact_id)
            assert is_here or need.artifact_id in scratch, "I5: a run lacks its artifact"
        busy = sum(each.task.gpu_count for each in place.executions.values())
        assert busy <= place.pool.gpu_count, "more GPUs in use than there are"
        ids = [
            each.task.task_id
            for where in self.places.values()
            for each in where.executions.values()
        ]
        assert len(ids) == len(set(ids)), "I3: two runs of a task execute"

    def _exit(self, place: _Place, run_id: RunId) -> None:
        execution = place.executions.pop(run_id, None)
        if execution is None:
            return  # it was killed
        now_s = self.engine.now_s
        self.books.run(
            execution.task, place.site, place.pool, start_s=execution.started_s, end_s=now_s
        )
        exit_ = _exit_of(execution, now_s, Reason.EXITED_ZERO)
        self._apply(place, place.participant.exited(run_id, exit_, now=self._now()))

    def _publish(self, place: _Place, run_id: RunId) -> None:
        now_s = self.engine.now_s
        started_s = place.participant.runs[run_id].started_s
        exit_ = Exit(started_s, now_s, 0, Reason.EXITED_ZERO, "", "")
        self._apply(place, place.participant.published(run_id, exit_, now=self._now()))
        self._tick_participant(place)

    def _kill(self, place: _Place, run_id: RunId, reason: Reason) -> None:
        execution = place.executions.pop(run_id, None)
        if execution is None:
            return
        now_s = self.engine.now_s
        self.books.abort(
            execution.task, place.site, place.pool, start_s=execution.started_s, end_s=now_s
        )
        exit_ = _exit_of(execution, now_s, reason)
        self._apply(place, place.participant.exited(run_id, exit_, now=self._now()))

    # ---------------------------------------------------------------- time

    def _tick_origin(self, place: _Place) -> None:
        self._apply(place, place.origin.tick(now=self._now()))

    def _tick_participant(self, place: _Place) -> None:
        if not place.is_here:
            return
        now = self._now()
        for schedule in place.participant.schedules.values():
            schedule.lapse(now.world_s)
        ready = place.participant.start_what_fits(now=now)
        self._apply(place, ready + place.participant.give_back_late(now=now))

    # ---------------------------------------------------------------- sites that go and come

    def _begin_churn(self) -> None:
        first: dict[SiteId, Churn] = {}
        for churn in self.instance.churn:
            first.setdefault(churn.site_id, churn)
            act = self._leave if churn.kind is ChurnKind.LEAVE else self._join
            self.engine.at(churn.at_s, partial(act, churn), BEAT)
        for site_id, churn in first.items():
            if churn.kind is ChurnKind.JOIN:  # it comes for the first time
                place = self.places[site_id]
                place.is_here = False
                place.participant.is_draining = True

    def _crash(self, site_id: SiteId) -> None:
        """Let a site that is there lose its machines for a while."""
        place = self.places[site_id]
        if not place.is_here:
            return
        now_s = self.engine.now_s
        self._leave(Churn(now_s, ChurnKind.LEAVE, site_id))
        back_s = max(now_s + self.instance.faults.restart_s, place.noticed_s)
        self._joining_count += 1
        self._crashed[site_id] = back_s

        def restart() -> None:
            if self._crashed.get(site_id) == back_s:
                self._join(Churn(back_s, ChurnKind.JOIN, site_id, keeps_caches=True))
            else:
                self._joining_count -= 1  # it has left for good, or until it is told to come back

        self.engine.at(back_s, restart, BEAT)

    def _leave(self, churn: Churn) -> None:
        """Kill what runs, and let origins notice when they would."""
        self._crashed.pop(churn.site_id, None)
        place = self.places[churn.site_id]
        place.is_here = False
        place.participant.is_draining = True
        self._broker.drop(churn.site_id)
        left_s = self.engine.now_s
        killed = dict(place.executions)
        place.executions.clear()
        for execution in killed.values():
            self.books.abort(
                execution.task, place.site, place.pool, start_s=execution.started_s, end_s=left_s
            )

        def noticed() -> None:
            now = self._now()
            for run_id, execution in killed.items():
                exit_ = _exit_of(execution, left_s, Reason.SITE_LOST)
                self._apply(place, place.participant.exited(run_id, exit_, now=now))
            self._apply(place, place.participant.drain(now=now))

        place.noticed_s = left_s + _NOTICED_S
        self.engine.at(place.noticed_s, noticed, BEAT)

    def _join(self, churn: Churn) -> None:
        place = self.places[churn.site_id]
        if self.engine.now_s < place.noticed_s:
            self.engine.at(place.noticed_s, partial(self._join, churn), BEAT)
            return
        self._joining_count -= 1
        self._crashed.pop(churn.site_id, None)
        place.is_here = True
        self._changed[churn.site_id] = None
        place.participant.is_draining = False
        if not churn.keeps_caches:
            lost = [key for key, sites in self._stored.items() if churn.site_id in sites]
            for artifact_id in lost:
                place.participant.cache.drop(artifact_id)
                self._forget_copy(place, artifact_id)
        self._tick_participant(place)

    # ---------------------------------------------------------------- small things

    def _now(self) -> Now:
        now_s = self.engine.now_s
        return Now(protocol_s=now_s, world_s=now_s)

    def _link(self, source_zone: str, target_zone: str) -> Link:
        return self._links[source_zone, target_zone]


def _exit_of(execution: _Execution, now_s: float, reason: Reason) -> Exit:
    return Exit(
        started_s=execution.started_s,
        ended_s=now_s,
        exit_code=0 if reason is Reason.EXITED_ZERO else None,
        reason=reason,
        message="",
        log_tail="",
    )
