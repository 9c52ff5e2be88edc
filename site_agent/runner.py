"""The agent's one shell: writes what the cores wrote, does what they asked, tells them what came.

Everything that changes a core goes through `apply`: the core has changed, its writes become
durable, then whoever asked is answered and its effects begin, each in a task of the agent's own
group. A store that fails stops the agent: what it cannot write it must not promise.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from gcos.clock import Clock
from gcos.contract_net import (
    Announcement,
    ArtifactNeed,
    Bid,
    ClusterSignals,
    Fetch,
    Refusal,
    Rejection,
    Renewal,
    RenewalAnswer,
    Report,
    Verdict,
)
from gcos.durations import PoolSpeed, Prediction, WorkFeatures
from gcos.errors import (
    GcosError,
    RequestIdTakenError,
    UnavailableError,
    UnknownSiteError,
)
from gcos.ids import Fence, RunId, SiteId, TaskId, origin_of, task_id
from gcos.known_sites import KnownSite
from gcos.ledger import LedgerEntry
from gcos.logs import Log
from gcos.next_steps import next_step
from gcos.signals import StepSeries
from gcos.sites import SiteDigest
from gcos.store import Store
from gcos.system import unique_text
from gcos.tables import zones
from gcos.task_record import Task
from gcos.tasks import Reason, RunState, TaskSpec
from policies.features import cluster_of
from site_agent import effects as fx
from site_agent.actors import Actors
from site_agent.auction import Auction
from site_agent.config import AgentConfig
from site_agent.copies import Copies, CopyPorts
from site_agent.effects import NOTHING, Now, Ready
from site_agent.feasibility import impossibility, unknown_placement
from site_agent.journal import rows_of
from site_agent.lease import LeaseTerms
from site_agent.negotiation import Ground, Negotiation, Steps
from site_agent.origin import Origin
from site_agent.outputs import is_allowed, roots_as_told
from site_agent.participant import Participant
from site_agent.peers import Peers, award_message
from site_agent.planning import Planning
from site_agent.run_shell import RunShell
from site_agent.run_times import RunTimes
from site_agent.sent_workdirs import SentWorkdirs
from site_agent.signals.source import SignalSource
from site_agent.sourcing import Links, cheapest_fetch

TICK_S = 0.1
TICK_TASK_COUNT = 50
"""Tasks that an origin announces or gives away in one step, of those that are due: one commit takes
only so much, and thousands are due at once after a restart."""
SIGNALS_REFRESH_S = 900.0
"""World seconds between two readings of the signals."""
SIGNALS_BEHIND_H = 31 * 24
"""How far back runs and yardsticks can be charged."""
SIGNALS_AHEAD_H = 7 * 24
REPORT_PATIENCE_S = 2.0
"""Protocol seconds that a draining agent waits for its last reports to be answered."""
SITES_REFRESH_S = 5.0
PROGRESS_S = 2.0
"""Protocol seconds between two looks at whether bytes have arrived for runs that are staged."""
WORKDIRS_S = 10.0
"""Protocol seconds between two looks at sent working directories that could not be removed yet."""
FORGET_S = 600.0
"""Protocol seconds after which a site that no broker lists is forgotten."""


class Runner:
    """One agent at work."""

    def __init__(
        self,
        *,
        config: AgentConfig,
        clock: Clock,
        store: Store,
        origin: Origin,
        participant: Participant,
        peers: Peers,
        runs: RunShell,
        copies: Copies,
        planning: Planning,
        actors: Actors,
        signal_source: SignalSource,
        links: Links,
        group: asyncio.TaskGroup,
        log: Log,
        record_award: Callable[[Task, Task, Auction, float], None] | None = None,
    ) -> None:
        #: Takes a task before and after an auction, what that brought, and the world instant.
        self._record_award = record_award
        self.config = config
        self.clock = clock
        self.store = store
        self.origin = origin
        self.participant = participant
        self.peers = peers
        self.runs = runs
        self.links = links
        self.run_times = RunTimes(peers, log)
        self.log = log
        self.ledger: dict[RunId, LedgerEntry] = {}
        self.known: dict[SiteId, KnownSite] = {}
        #: Sites in the last answer of a broker; the others that are known have been silent since.
        self.listed: frozenset[SiteId] = frozenset()
        self.cluster: ClusterSignals | None = None
        self._heard_s: dict[SiteId, float] = {}
        self.is_known_fresh = False
        #: Set when the store has failed or the site is taken: the agent must stop.
        self.failed = asyncio.Event()
        #: Why a broker would not have this site; None where it does.
        self.refusal: GcosError | None = None
        self._is_registered = False
        self._signal_source = signal_source
        self._group = group
        self._changed = asyncio.Event()
        self._renew_now = asyncio.Event()
        self._staging: dict[RunId, asyncio.Task[None]] = {}
        self._effects: set[asyncio.Task[None]] = set()
        self._is_ending = False
        #: The last that had something to write.
        self._last_write: asyncio.Task[None] | None = None
        self._is_write_lost = False
        #: Negotiations under way.
        self._steps: dict[TaskId, Steps] = {}
        self._negotiation = Negotiation(self)
        self.workdirs = SentWorkdirs()
        self.copies = copies
        self.planning = planning
        self.actors = actors
        self.copy_ports = CopyPorts(
            holders_of=self._negotiation.holders_of,
            enter=lambda entry: self.apply(Ready((fx.AddEntry(entry),))),
            spawn=self._spawn,
        )
        self._output_roots = roots_as_told(config.output_roots)

    def now(self) -> Now:
        """Return this instant on both time axes."""
        return Now(self.clock.protocol_s(), self.clock.world_s())

    # ---------------------------------------------------------------- writes and effects

    def apply(self, ready: Ready) -> Awaitable[None]:
        """Make the writes durable, then begin the effects, whoever stops waiting for it.

        In the order of the calls; what writes nothing follows the writes that were asked for before
        it. What may begin at once goes first: its message is on its way before rows are made.

        It has begun before what it returns is awaited. The core has changed already: were this
        cancelled with its caller (a peer that hangs up in the middle of a call), what the core
        asked for would never happen.

        Raises:
            UnavailableError: The journal cannot be written, or could not be; the agent stops.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._begin_all(ready.at_once)
        before = self._last_write
        is_settled = before is None or (before.done() and not self._is_write_lost)
        if is_settled and not ready.writes and not ready.effects:
            done.set_result(None)
            return done
        task = self._group.create_task(self._carry_out(ready, done, after=before))
        if ready.writes:
            self._last_write = task
        return done

    def written(self) -> Awaitable[None]:
        """Return once all is durable that was asked to be written before."""
        return self.apply(NOTHING)

    async def _carry_out(
        self, ready: Ready, done: asyncio.Future[None], *, after: asyncio.Task[None] | None
    ) -> None:
        try:
            if ready.writes:
                await self.store.commit(rows_of(ready.writes))
            elif after is not None and not after.done():
                await asyncio.wait({after})
            if self._is_write_lost:  # the cores are ahead of the disk for good
                raise UnavailableError("what led to this could not be written")
        except GcosError as exc:
            self.log.error("journal_failed", error=str(exc))
            self._is_write_lost = True
            self.failed.set()
            if not done.done():
                hint = "see the log of the agent"
                done.set_exception(UnavailableError("the journal cannot be written", hint=hint))
            return
        except asyncio.CancelledError:
            done.cancel()
            raise
        self._note(ready.writes)
        # Each in a step of the loop of its own, those that others wait for first: the answer to the
        # call that brought this about, then the effects, then the log and whoever watches.
        if not done.done():
            done.set_result(None)
        await asyncio.sleep(0)
        self._begin_all(ready.effects)
        if ready.writes:
            asyncio.get_running_loop().call_soon(self._tell, ready.writes)

    def _note(self, writes: Iterable[fx.Write]) -> None:
        """Take note of what is durable now."""
        for write in writes:
            if isinstance(write, fx.AddEntry):
                self.ledger[write.entry.run_id] = write.entry
            elif isinstance(write, fx.SaveTask) and self._ended_workdir(write.task):
                self._spawn("DropWorkdirs", self.drop_workdirs)

    def _ended_workdir(self, task: Task) -> bool:
        """Tell whether the task needed a sent working directory and does not any more."""
        return task.state.is_terminal and self.workdirs.ended(task)

    def _tell(self, writes: Iterable[fx.Write]) -> None:
        """Tell the log and whoever watches what is durable now."""
        for write in writes:
            if isinstance(write, fx.Note):
                self.log.info(
                    write.event.kind,
                    task_id=write.task_id,
                    site_id=write.event.site_id,
                    attempt=write.event.attempt,
                    message=write.event.message,
                )
        self._tell_watchers()

    def _begin_all(self, effects: Iterable[fx.Effect]) -> None:
        """Begin effects in order, unless the agent ends."""
        if not (self.failed.is_set() or self._is_ending):
            for effect in effects:
                self._begin(effect)

    def _begin(self, effect: fx.Effect) -> None:
        if isinstance(effect, fx.RenewSoon):
            self._renew_now.set()
            return
        task = self._spawn(type(effect).__name__, partial(self._perform, effect))
        if isinstance(effect, fx.Stage):
            self._staging[effect.run_id] = task

    def _spawn(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Begin what `cancel_effects` ends."""
        task = self._group.create_task(self._guarded(name, work), name=name)
        self._effects.add(task)
        task.add_done_callback(self._effects.discard)
        return task

    def cancel_effects(self) -> None:
        """Stop what waits for peers or runs, and begin no more, so that the agent can end.

        Runs go on under their supervisors; the next agent over this directory adopts them.
        """
        self._is_ending = True
        for task in list(self._effects):
            task.cancel()

    async def _guarded(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Let one failed effect end alone: the cores' timers repeat what matters."""
        try:
            await work()
        except GcosError as exc:
            self.log.warning("effect_failed", effect=name, reason=exc.reason, error=str(exc))
        except Exception:
            self.log.exception("effect_crashed", effect=name)

    async def _perform(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Negotiate(task):
                await self._negotiate(task)
            case fx.SendAward():
                await self._send_award(effect)
            case fx.SendRejections(rejections):
                for site_id, rejection in rejections:
                    if site_id == self.participant.site.site_id:
                        self.rejected([rejection])
                    else:
                        await self.peers.reject(self.address_of(site_id), [rejection])
            case fx.SendHold(to, hold):
                if to == self.participant.site.site_id:
                    self.participant.hold(hold, now=self.now())
                else:
                    await self.peers.hold(self.address_of(to), hold)
            case fx.SendRevoke():
                await self._send_revoke(effect)
            case fx.Observe(observation):
                await self.peers.observe(observation)
            case fx.Stage(run_id):
                await self._stage(run_id)
            case fx.StopStaging(run_id):
                self._stop_staging(run_id)
            case fx.StartRun():
                await self._start(effect)
            case fx.Adopt(run_id):
                await self._watch(run_id)
            case fx.ExtendLease(run_id, until_s):
                await self.runs.extend(run_id, until_s)
            case fx.StopRun(run_id):
                await self.runs.cancel(run_id)
            case fx.Publish(run_id):
                await self._publish(run_id)
            case fx.SendReport(address, report):
                await self._send_report(address, report)
            case fx.Reap(run_id):
                await self.runs.reap(run_id)

    def address_of(self, site_id: SiteId) -> str:
        """Return where a site is reached.

        Raises:
            UnknownSiteError: It was never heard of.
        """
        if site_id == self.participant.site.site_id:
            return self.participant.site.address
        known = self.known.get(site_id)
        if known is None:
            raise UnknownSiteError(f"site {site_id} is not known here", hint="see: gcos sites ls")
        return known.site.address

    # ---------------------------------------------------------------- watching

    def _tell_watchers(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self, *, timeout_s: float) -> None:
        """Return when something was written, or after `timeout_s`."""
        event = self._changed
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return

    # ---------------------------------------------------------------- the client's verbs

    async def submit(self, spec: TaskSpec) -> tuple[Task, bool]:
        """Take a task; return it and whether the request id was known.

        Raises:
            RequestIdTakenError: The request id belongs to a task of another document.
            GcosError: The task names an artifact or GPU type that no site has, or breaks a limit.
        """
        new_id = task_id(self.participant.site.site_id, unique_text())
        needs: tuple[ArtifactNeed, ...] = ()
        lacking: tuple[Fetch, ...] = ()
        if spec.request_id is None or spec.request_id not in self.origin.requests:
            needs = await self.examined(spec)
            lacking = self.lacking_here(spec, needs)
        # The same request may have come twice at once: the core answers both with one task, and
        # neither before it is durable.
        task, ready = self.origin.submit(new_id, spec, needs, lacking, now=self.now())
        await self.apply(ready)
        is_repeat = task.task_id != new_id
        digests = {task.spec.document_digest, spec.document_digest} - {None}
        if is_repeat and len(digests) > 1:
            raise RequestIdTakenError(
                f"request id {spec.request_id!r} belongs to task {task.task_id}, which was made of"
                " another document",
                field="request_id",
                hint="use another --request-id, or remove it; the earlier task:"
                f" gcos status {task.task_id}",
            )
        return task, is_repeat

    async def examined(self, spec: TaskSpec) -> tuple[ArtifactNeed, ...]:
        """Return the artifacts of a spec that some site can run, now or later.

        Raises:
            GcosError: No known site can ever run it; the error has the field at fault.
        """
        needs = await self.resolve(spec)
        if not self.is_known_fresh or self._problem(spec) is not None:
            await self.refresh_sites()  # a site may just have come, or got what it lacked
        problem = self._problem(spec)
        if problem is None:
            return needs
        if self.is_known_fresh:
            raise problem
        raise UnavailableError(
            f"{problem.message}, but not every site may be known yet",
            field=problem.field,
            hint="try again in a few seconds",
        )

    def _problem(self, spec: TaskSpec) -> GcosError | None:
        """Return why nobody who is known can ever run the task, or what its placement mistypes."""
        sites = self.sites()
        unknown = unknown_placement(spec, sites, zones()) if self.is_known_fresh else None
        return unknown or impossibility(spec, sites)

    async def holders_of(self, need: ArtifactNeed) -> ArtifactNeed:
        """Return a need with its holders as of now."""
        return await self._negotiation.holders_of(need)

    async def resolve(self, spec: TaskSpec) -> tuple[ArtifactNeed, ...]:
        """Return the artifacts that a spec names, with their holders.

        Raises:
            ArtifactNotFoundError: No site holds one.
            InvalidRequestError: A name stands for more than one content.
        """
        fields = ([("model", spec.model)] if spec.model is not None else []) + [
            (f"data[{i}]", reference) for i, reference in enumerate(spec.data)
        ]
        if spec.workdir is not None:
            fields.append(("workdir", spec.workdir))
        return await self._negotiation.resolve(fields)

    def lacking_here(self, spec: TaskSpec, needs: tuple[ArtifactNeed, ...]) -> tuple[Fetch, ...]:
        """Return the transfers that running here at once would need: the yardstick of savings."""
        fetches = []
        for need in needs:
            if self.participant.cache.has(need.artifact_id):
                continue
            found = cheapest_fetch(
                need,
                here=self.participant.site.site_id,
                zone=self.participant.site.zone,
                links=self.links,
                terms=self.origin.terms_of(spec, ()),
                carbon_here=self.carbon,
                byte_ratio=self.config.world.byte_ratio,
                now_s=self.now().world_s,
                wait_usd_per_h=self.participant.wait_usd_per_h,
            )
            if found is not None:
                fetches.append(found[0])
        return tuple(fetches)

    @property
    def carbon(self) -> StepSeries | None:
        """Carbon intensity here; None where missing or stale."""
        signal = self.participant.signals.carbon
        return None if signal is None else signal.series

    async def drop_workdirs(self) -> None:
        """Remove the sent working directories that no task needs any more."""
        unfinished = (self.origin.tasks[task_id] for task_id in self.origin.active)
        due = self.workdirs.due(unfinished, now_s=self.clock.protocol_s())
        if due:
            for artifact_id, is_removed in (await self.runs.drop_workdirs(due)).items():
                self.workdirs.gone(artifact_id)
                if is_removed:
                    name = due[artifact_id]
                    self.log.info("workdir_removed", artifact=name, artifact_id=artifact_id)

    async def workdirs_forever(self) -> None:
        """Remove what could not be removed at once: it was read, or might have been named again."""
        for task in self.origin.tasks.values():
            if task.state.is_terminal:
                self.workdirs.ended(task)  # the agent may have died before it removed it
        while True:
            await self._guarded("DropWorkdirs", self.drop_workdirs)
            await asyncio.sleep(WORKDIRS_S)

    async def cancel(self, task_id: TaskId) -> tuple[Task, bool]:
        """End a task; return it and whether this ended it."""
        task, is_cancelled, ready = self.origin.cancel(task_id, now=self.now())
        await self.apply(ready)
        return task, is_cancelled

    async def plan(self, spec: TaskSpec) -> tuple[Auction, Ground]:
        """Announce a task that does not exist, and change nothing.

        Every site that is known has a bid or a refusal in it. The ground serves `plan_again`.

        Raises:
            GcosError: As for a submission.
        """
        await self.refresh_sites()  # people look for every site, the dead ones first of all
        needs = await self.examined(spec)
        ground = await self._negotiation.prepare(self._unborn, spec, needs, Fence())
        auction = await self.plan_again(spec, ground)
        return self._negotiation.unasked(spec, auction), ground.among(auction)

    async def plan_again(self, spec: TaskSpec, ground: Ground) -> Auction:
        """Announce a planned task with another deadline or other limits, and change nothing."""
        return await self._negotiation.announce(self._unborn, spec, ground, Fence())

    @property
    def _unborn(self) -> TaskId:
        """The id of the task that a plan announces."""
        return task_id(self.participant.site.site_id, "0" * 13)

    # ---------------------------------------------------------------- origin's effects

    async def _negotiate(self, task_id: TaskId) -> None:
        task = self.origin.tasks[task_id]
        steps = Steps(self.clock.protocol_s(), awards={})
        self._steps[task_id] = steps
        try:
            fence = task.fence.next_attempt()
            ground = await self._negotiation.prepare(task_id, task.spec, task.needs, fence)
            steps.announced_s = self.clock.protocol_s()
            auction = await self._negotiation.announce(
                task_id,
                task.spec,
                ground,
                fence,
                meanwhile=partial(self._foresee, task_id, ground, steps),
            )
        except Exception:
            self.log.exception("negotiation_crashed", task_id=task_id)
            auction = Auction((), task.needs, (), (), is_complete=False)
        if auction.predictions:
            self._remember(task, auction.needs or task.needs, auction.predictions)
        steps.closed_s = self.clock.protocol_s()
        ready = self.origin.close_auction(task_id, auction, now=self.now())
        if self._record_award is not None and ready.writes:
            after = self.origin.tasks[task_id]
            self._record_award(task, after, auction, self.clock.world_s())
        await self.apply(ready)
        if task_id not in self.origin.award_until_s:
            self._steps.pop(task_id, None)  # nothing was awarded

    def _foresee(self, task_id: TaskId, ground: Ground, steps: Steps) -> None:
        """Make the messages of all awards that may follow while bids are awaited."""
        awards = self.origin.possible_awards(task_id, ground.nomination.needs, ground.predictions)
        steps.awards = {(award.run_id, award.pool_type): award_message(award) for award in awards}

    def _remember(
        self, task: Task, needs: Sequence[ArtifactNeed], predictions: Sequence[Prediction]
    ) -> None:
        if task.spec.placement.allow or task.spec.placement.deny:
            return  # it goes where it is told to, and so will its like
        terms = self.origin.terms_of(task.spec, predictions)
        self.planning.submitted(task, needs, predictions, terms)

    def recall(self, tasks: Iterable[Task]) -> None:
        """Remember what was submitted here before the agent started, as the journal knows it."""
        for task in sorted(tasks, key=lambda task: (task.submitted_s, task.task_id)):
            if task.predictions:
                self._remember(task, task.needs, task.predictions)

    async def predict(self, features: WorkFeatures) -> tuple[Prediction, ...]:
        """Return the run time on every pool type that is known."""
        speeds: dict[str, float] = {}
        for site in self.sites():
            for pool in site.site.pools:
                speeds.setdefault(pool.type, pool.speed_ratio)
        pools = [PoolSpeed(type=kind, speed_ratio=speeds[kind]) for kind in sorted(speeds)]
        return await self.run_times.predict(features, pools)

    async def _send_award(self, effect: fx.SendAward) -> None:
        sent_s = self.clock.protocol_s()
        steps = self._steps.pop(effect.award.task_id, None)  # an award sent again has none
        if effect.to == self.participant.site.site_id:
            answer, ready = self.participant.award(effect.award, now=self.now())
            await self.apply(ready)
        else:
            award = effect.award
            made = {} if steps is None else steps.awards
            message = made.get((award.run_id, award.pool_type)) or award_message(award)
            answer = await self.peers.award(self.address_of(effect.to), message)
        now = self.now()
        ready = self.origin.award_answered(effect.award.run_id, answer, now=now)
        if steps is not None and answer.is_accepted:
            self.log.info(
                "award_accepted",
                task_id=effect.award.task_id,
                site_id=effect.to,
                **steps.durations_s(sent_s=sent_s, answered_s=now.protocol_s),
            )
        await self.apply(ready)

    async def _send_revoke(self, effect: fx.SendRevoke) -> None:
        own = self.participant.site
        if effect.to == own.site_id:
            await self.revoke([effect.run_id])
        else:
            await self.peers.revoke(self.address_of(effect.to), own.site_id, [effect.run_id])

    async def revoke(self, run_ids: list[RunId]) -> None:
        """Stop runs at this site because their tasks were cancelled."""
        for run_id in run_ids:
            await self.apply(self.participant.revoked(run_id, now=self.now(), is_cancelled=True))

    # ---------------------------------------------------------------- participant's effects

    async def _stage(self, run_id: RunId) -> None:
        """Bring what the run lacks, one artifact after the other."""
        run = self.participant.runs.get(run_id)
        if run is None:
            return
        for need in self.participant.missing(run_id):
            await self.apply(self.participant.staging(run_id, now=self.now()))
            try:
                done = await self.runs.bring(run.award, need, self._negotiation.holders_of)
            except (GcosError, OSError) as exc:
                message = f"{need.name}: {exc}"
                await self.apply(self.participant.staging_failed(run_id, message, now=self.now()))
                return
            if done is not None:
                await self.apply(self.participant.fetched(run_id, *done))
        await self.apply(self.participant.staged(run_id, now=self.now()))

    def _stop_staging(self, run_id: RunId) -> None:
        task = self._staging.pop(run_id, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def _start(self, effect: fx.StartRun) -> None:
        self._staging.pop(effect.run_id, None)
        run = self.participant.runs[effect.run_id]
        try:
            await self.runs.start(run, effect.devices, effect.lease_until_s)
        except (GcosError, OSError) as exc:
            await self._broken(effect.run_id, exc)
            return
        await self._watch(effect.run_id)

    async def _watch(self, run_id: RunId) -> None:
        """Wait for the end of a run that the executor knows."""
        try:
            exit_ = await self.runs.wait(run_id)
        except (GcosError, OSError) as exc:
            await self._broken(run_id, exc)
            return
        await self.apply(self.participant.exited(run_id, exit_, now=self.now()))

    async def _broken(self, run_id: RunId, exc: Exception) -> None:
        """End a run that cannot be started, watched or published: the disk is full or broken."""
        self.log.error("run_broken", run_id=run_id, error=str(exc))
        with contextlib.suppress(GcosError, OSError):
            await self.runs.cancel(run_id)
        run = self.participant.runs.get(run_id)
        exit_ = self.runs.failed_start(str(exc), now_s=self.now().world_s)
        if run is not None and run.state is RunState.COMMITTING:
            await self.apply(self.participant.published(run_id, exit_, now=self.now()))
        else:
            await self.apply(self.participant.exited(run_id, exit_, now=self.now()))

    async def _publish(self, run_id: RunId) -> None:
        run = self.participant.runs.get(run_id)
        if run is None:
            return
        try:
            exit_ = await self.runs.publish(run)
        except (GcosError, OSError) as exc:
            await self._broken(run_id, exc)
            return
        if exit_.outputs:
            await self.beat_now()  # who waits for the task may name them in the next one
        await self.apply(self.participant.published(run_id, exit_, now=self.now()))

    async def _send_report(self, address: str, report: Report) -> None:
        """Send until answered: a report is the only proof of what was done.

        As often as a lease is renewed, since a run that has ended is renewed no more: an origin
        that was away must hear of it before it gives the task to another site.
        """
        pause_s = 0.1
        while True:
            try:
                if address == self.participant.site.address:
                    answer, ready = self.origin.report(report, now=self.now())
                    await self.apply(ready)
                else:
                    answer = await self.peers.report(
                        self._origin_now(report.run_id, address), report
                    )
                break
            except GcosError as exc:
                if not isinstance(exc, UnavailableError):
                    self.log.warning("report_refused", run_id=report.run_id, error=str(exc))
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, self._renewal_pause_s())
        self.log.info(
            "run_reported",
            run_id=report.run_id,
            state=report.state.value,
            is_accepted=answer.is_accepted,
        )
        await self.apply(self.participant.report_answered(report.run_id))

    def _origin_now(self, run_id: RunId, address: str) -> str:
        """Return where a run's origin is now: it may have come back under another address."""
        known = self.known.get(origin_of(TaskId(run_id)))
        return address if known is None else known.site.address

    # ---------------------------------------------------------------- loops

    async def tick_forever(self) -> None:
        """Let the cores see time pass."""
        while True:
            await asyncio.sleep(TICK_S)
            now = self.now()
            await self.apply(self.origin.tick(now=now, limit_count=TICK_TASK_COUNT))
            await self.apply(self.participant.tick(now=now))
            await self.apply(self.participant.give_back_late(now=now))

    async def renew_forever(self) -> None:
        """Renew the leases of held runs, at a third of a lease and when something changed."""
        while True:
            try:
                async with asyncio.timeout(self._renewal_pause_s()):
                    await self._renew_now.wait()
            except TimeoutError:
                pass
            self._renew_now.clear()
            async with asyncio.TaskGroup() as group:
                for address in self.participant.origin_addresses():
                    group.create_task(self._guarded("Renew", partial(self._renew, address)))
            await asyncio.sleep(TICK_S / 5)  # several changes make one renewal

    def _renewal_pause_s(self) -> float:
        """Return a third of the shortest lease held here."""
        leases = [run.award.lease_s for run in self.participant.runs.values()]
        return LeaseTerms(min([self.config.lease_s, *leases])).renewal_s

    async def _renew(self, address: str) -> None:
        is_own = address == self.participant.site.address
        # What lies on this disk need not be told to this origin.
        tails = {} if is_own else await self.runs.tails(self.participant.writers(address))
        renewal = self.participant.renewals(tails).get(address)
        if renewal is None:
            return
        sent_s = self.clock.protocol_s()
        if is_own:
            answer = await self.renew(renewal)
        else:
            target = self._origin_now(renewal.runs[0].run_id, address)
            answer = await self.peers.renew(target, renewal)
        self.participant.tails_heard(
            answer.tail_end_bytes, of=[progress.run_id for progress in renewal.runs]
        )
        kept = tuple(
            RunId(run_id)
            for run_id, verdict in answer.verdicts.items()
            if verdict is Verdict.CONTINUE
        )
        ready = self.participant.renewed(kept, sent_s=sent_s, now=self.now())
        for run_id, verdict in answer.verdicts.items():
            if verdict is Verdict.REVOKED:
                ready += self.participant.revoked(RunId(run_id), now=self.now())
        await self.apply(ready)

    async def renew(self, renewal: Renewal) -> RenewalAnswer:
        """Renew the leases of a holder's runs; who watches their tasks sees how far they are."""
        answer, ready = self.origin.renew(renewal, now=self.now())
        await self.apply(ready)
        self._tell_watchers()  # progress alone is not written
        return answer

    async def progress_forever(self) -> None:
        """Renew early while bytes arrive, so that a task shows what it has fetched."""
        told: dict[RunId, int] = {}
        while True:
            await asyncio.sleep(PROGRESS_S)
            moved = dict(self.participant.moved_bytes)
            if any(told.get(run_id) != count for run_id, count in moved.items()):
                self._renew_now.set()
            told = moved

    async def beat_forever(self, address: str) -> None:
        """Register with one broker again and again."""
        pause_s = 0.0
        while True:
            await asyncio.sleep(pause_s)
            pause_s = self.config.beat_s
            await self._register(address)

    async def beat_now(self) -> None:
        """Tell every broker what is new here rather than wait for the next beat."""
        for address in self.peers.broker_addresses:
            await self._register(address)

    async def _register(self, address: str) -> None:
        self.participant.secret_names = self.runs.secret_names()
        try:
            await self.peers.register(address, self.participant.site, self.digest())
        except UnavailableError:
            return  # the next beat comes soon
        except GcosError as exc:
            self.log.error("registration_refused", broker=address, error=str(exc))
            if not self._is_registered:
                # Another agent is this site; two would both answer for its tasks.
                self.refusal = exc
                self.failed.set()
            return
        self._is_registered = True

    def bid(self, announcement: Announcement) -> Bid | Refusal:
        """Answer an announcement; a secret that was put here a moment ago counts."""
        if announcement.secrets:
            self.participant.secret_names = self.runs.secret_names()
        for uri in announcement.output_uris:
            if not is_allowed(uri, roots=self.config.output_roots):
                return Refusal(
                    self.participant.site.site_id,
                    Reason.OUTPUT_REFUSED,
                    f"{uri} is under no root that this site allows",
                    hint=next_step(Reason.OUTPUT_REFUSED),
                )
        answer = self.participant.bid(announcement, now=self.now())
        self.copies.offered(announcement, answer)
        return answer

    def rejected(self, rejections: Sequence[Rejection]) -> None:
        """Hear what tasks went for that this site bid for."""
        self.copies.rejected(rejections, self.copy_ports)

    async def look_forever(self) -> None:
        """Let the migrator look around now and then."""
        await self.copies.look_forever(self.copy_ports)

    async def plan_forever(self) -> None:
        """Plan copies together with the other sites, once an hour of world time."""
        await self.planning.plan_forever(
            self.sites, lambda copies: self.copies.planned(copies, self.copy_ports)
        )

    def digest(self) -> SiteDigest:
        """Return how this site is now."""
        return replace(
            self.participant.digest(now=self.now()),
            runs_images=self.participant.runs_images,
            secret_names=tuple(sorted(self.participant.secret_names)),
            output_roots=self._output_roots,
        )

    async def sites_forever(self) -> None:
        """Keep what is known of other sites."""
        while True:
            await self.refresh_sites()
            is_alone = self.known.keys() <= {self.participant.site.site_id}
            await asyncio.sleep(0.2 if is_alone else SITES_REFRESH_S)

    async def refresh_sites(self) -> None:
        """Ask a broker who is there; keep the last answer where none replies."""
        self.participant.secret_names = self.runs.secret_names()
        try:
            listing = await self.peers.sites()
        except UnavailableError:
            self.is_known_fresh = False
            return
        self.is_known_fresh = listing.is_settled
        self.listed = frozenset(known.site.site_id for known in listing.sites)
        now_s = self.clock.protocol_s()
        for known in listing.sites:
            self.known[known.site.site_id] = known
            self._heard_s[known.site.site_id] = now_s - known.age_s
        for site_id in [s for s, heard_s in self._heard_s.items() if now_s - heard_s > FORGET_S]:
            del self._heard_s[site_id], self.known[site_id]
        self.copies.hear(self.known.values())
        digests = [known.digest for known in self.known.values()]
        self.cluster = cluster_of(
            [digest.day_price_usd_per_kwh for digest in digests],
            [digest.day_carbon_gco2_per_kwh for digest in digests],
        )

    def sites(self) -> list[KnownSite]:
        """Return every site that is known, this one as it is now, sorted by id."""
        own = KnownSite(site=self.participant.site, digest=self.digest(), age_s=0.0)
        now_s = self.clock.protocol_s()
        others = {
            site_id: replace(known, age_s=now_s - self._heard_s.get(site_id, now_s - known.age_s))
            for site_id, known in self.known.items()
        }
        return [site for _, site in sorted({**others, own.site.site_id: own}.items())]

    async def signals_forever(self) -> None:
        """Keep price and carbon ahead of world time."""
        while True:
            await asyncio.sleep(SIGNALS_REFRESH_S / self.clock.scale.speed)
            await self.refresh_signals()

    async def refresh_signals(self) -> None:
        """Read the signals around now; keep the last ones where the source fails."""
        now_s = self.clock.world_s()
        try:
            self.participant.signals = await self._signal_source.signals(
                self.participant.site.zone,
                now_s - SIGNALS_BEHIND_H * 3600,
                now_s + SIGNALS_AHEAD_H * 3600,
            )
        except GcosError as exc:
            self.log.error("signals_failed", error=str(exc))

    async def drain(self) -> None:
        """Take no new work, return what has not started, let the rest end or stop it."""
        await self.apply(self.participant.drain(now=self.now()))
        if not await self._emptied(self.config.drain_s, only_live=True):
            await self.apply(self.participant.stop_all(now=self.now()))
            await self._emptied(self.config.run_grace_s + 5.0, only_live=True)
        # Reports are in the journal; an origin that is away hears them from the next agent here.
        if not await self._emptied(REPORT_PATIENCE_S, only_live=False):
            self.log.warning("drain_incomplete", runs=len(self.participant.runs))

    async def _emptied(self, timeout_s: float, *, only_live: bool) -> bool:
        """Wait until no run is left, or none that goes on; False: the time was not enough."""
        try:
            async with asyncio.timeout(timeout_s):
                while any(
                    run.report is None or not only_live for run in self.participant.runs.values()
                ):
                    await self.changed(timeout_s=timeout_s)
        except TimeoutError:
            return False
        return True
