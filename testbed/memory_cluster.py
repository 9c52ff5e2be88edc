"""Agents in one process over a network, disks and clocks that fail: real cores, all else faked.

Every node has a *machine* (disk, clock, executor), which outlives its *agent* (origin and
participant, rebuilt from the disk alone). The network delays, drops, doubles and reorders messages.
Writes become durable some time after the core has changed, in order; effects and answers follow
them, and a crash loses what had not come that far. Runs go on while their agent is dead, until they
end or their lease does, as under a supervisor.

Invariants I1, I2, I3 and I5 of DESIGN section 4 are asserted wherever they could break.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from numpy.random import Generator

from gcos.accounting import Charge
from gcos.artifacts import Artifact
from gcos.contract_net import (
    Announcement,
    ArtifactNeed,
    Award,
    AwardAnswer,
    Bid,
    Fetch,
    Holder,
    Refusal,
    Renewal,
    RenewalAnswer,
    Report,
    ReportAnswer,
    Verdict,
)
from gcos.durations import Prediction, PredictionSource, RunTime
from gcos.errors import CacheFullError
from gcos.ids import ArtifactId, RunId, SiteId, TaskId, task_id
from gcos.seeds import stream
from gcos.task_record import Task
from gcos.tasks import Reason, RunState, TaskSpec, TaskState
from site_agent import effects as fx
from site_agent.auction import Auction
from site_agent.effects import Now, Ready
from site_agent.held_run import HeldRun
from site_agent.origin import Origin
from site_agent.participant import Exit, Participant
from testbed.memory_machine import (
    GPU_COUNT,
    LEASE,
    MODELS,
    POOL,
    Execution,
    Machine,
    new_machine,
    new_origin,
    new_participant,
)

TICK_S = 1.0
BID_WINDOW_S = 2.0
STOP_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class Faults:
    """How badly the world behaves; ratios are probabilities.

    Attributes:
        loss_ratio: A message is lost.
        duplicate_ratio: A message arrives twice.
        delay_s: A message takes up to so long; one in ten takes up to `slow_s`.
        slow_s: Longest delay.
        commit_s: A commit takes up to so long.
        crash_ratio: An agent dies at a commit: half before it is durable, half just after.
        staging_ratio: A transfer fails.
    """

    loss_ratio: float = 0.0
    duplicate_ratio: float = 0.0
    delay_s: float = 0.05
    slow_s: float = 0.05
    commit_s: float = 0.01
    crash_ratio: float = 0.0
    staging_ratio: float = 0.0


CALM = Faults()
ROUGH = Faults(
    loss_ratio=0.1,
    duplicate_ratio=0.1,
    delay_s=1.0,
    slow_s=40.0,
    commit_s=0.3,
    crash_ratio=0.01,
    staging_ratio=0.05,
)


@dataclass(slots=True, eq=False)
class Agent:
    """A live agent: what a crash loses."""

    machine: Machine
    origin: Origin
    participant: Participant
    is_alive: bool = True
    #: True instant of the last commit that was begun; later ones are not durable before it.
    commit_s: float = 0.0
    staging: dict[RunId, object] = field(default_factory=dict)
    reporting: set[RunId] = field(default_factory=set)
    is_renewing_soon: bool = False

    @property
    def site_id(self) -> SiteId:
        """Its site."""
        return self.machine.site.site_id


Reply = Callable[[object], None]


class MemoryCluster:
    """Nodes `s0`, `s1` ... and the heap of what is to happen."""

    def __init__(self, *, seed: int, site_count: int = 3, faults: Faults = CALM) -> None:
        self.t_s = 0.0
        self.faults = faults
        self.partitioned: set[frozenset[SiteId]] = set()
        self.machines: dict[SiteId, Machine] = {}
        self.agents: dict[SiteId, Agent] = {}
        #: Acknowledged tasks, and the end of which a client was told.
        self.acknowledged: set[TaskId] = set()
        self.told_end: dict[TaskId, TaskState] = {}
        #: Who was awarded each attempt: one site, over all restarts.
        self.awarded: dict[RunId, SiteId] = {}
        #: Runs whose success an origin has accepted (I2: one for each task).
        self.successes: dict[TaskId, set[RunId]] = {}
        self._random: Generator = stream(seed, "memory-cluster")
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._submit_count = 0
        for index in range(site_count):
            machine = new_machine(index, self._random)
            self.machines[machine.site.site_id] = machine
        for site_id in self.machines:
            self.start_agent(site_id)

    # ---------------------------------------------------------------- what tests do

    def advance(self, seconds: float) -> None:
        """Let true time pass and check the invariants."""
        end_s = self.t_s + seconds
        while self._heap and self._heap[0][0] <= end_s:
            self.t_s, _, action = heapq.heappop(self._heap)
            action()
        self.t_s = end_s
        self.check()

    def submit(self, origin: SiteId, spec: TaskSpec, models: tuple[Artifact, ...]) -> None:
        """Let a client submit a task to an agent, if it lives; the answer may never come."""
        agent = self.agents.get(origin)
        if agent is None:
            return
        self._submit_count += 1
        new_id = task_id(origin, f"{self._submit_count:013d}")
        task, ready = agent.origin.submit(
            new_id, spec, self._needs(models), (), now=self._now(agent)
        )

        def acknowledge() -> None:
            assert task.task_id in agent.machine.tasks, "I1: acknowledged before it was durable"
            self.acknowledged.add(task.task_id)

        self._apply(agent, ready, acknowledge)

    def cancel(self, task_id: TaskId) -> None:
        """Let a client cancel a task, if its origin lives and has heard of it."""
        agent = self.agents.get(SiteId(task_id.split("-", 1)[0]))
        if agent is None or task_id not in agent.origin.tasks:
            return
        task, _, ready = agent.origin.cancel(task_id, now=self._now(agent))

        def answer() -> None:
            self.told_end.setdefault(task_id, task.state)
            durable = agent.machine.tasks[task_id].state
            assert durable is self.told_end[task_id], "I1: told of an end that was not durable"

        self._apply(agent, ready, answer)

    def crash(self, site_id: SiteId, *, with_machine: bool = False) -> None:
        """Kill an agent, and with its machine everything that executes there."""
        agent = self.agents.pop(site_id, None)
        if agent is not None:
            agent.is_alive = False
        if with_machine:
            machine = self.machines[site_id]
            machine.executions.clear()
            machine.offset_s = float(self._random.uniform(0, 1000)) - machine.rate * self.t_s
        self._after(float(self._random.uniform(1, 90)), lambda: self.start_agent(site_id))

    def drain(self, site_id: SiteId) -> None:
        """Shut an agent down gracefully; it comes back."""
        agent = self.agents.get(site_id)
        if agent is None:
            return
        self._apply(agent, agent.participant.drain(now=self._now(agent)))

        def stop() -> None:
            if agent.is_alive:
                self._apply(agent, agent.participant.stop_all(now=self._now(agent)))
                self._after(5.0, end)

        def end() -> None:
            if agent.is_alive:
                self.crash(site_id)

        self._after(20.0, stop)

    def start_agent(self, site_id: SiteId) -> None:
        """Start an agent from what its disk holds, unless one lives."""
        if site_id in self.agents:
            return
        machine = self.machines[site_id]
        agent = Agent(
            machine=machine, origin=new_origin(machine), participant=new_participant(machine)
        )
        self.agents[site_id] = agent
        now = self._now(agent)
        # Both know what they knew before either speaks: an origin that has not read its journal
        # would tell a holder that there is no such task.
        ready = agent.participant.restore(machine.runs, now=now)
        ready += agent.origin.restore(machine.tasks.values(), now=now, charged=machine.ledger)
        self._apply(agent, ready)
        self._tick(agent)
        self._renew_forever(agent)

    def heal(self) -> None:
        """End all faults, partitions and outages."""
        self.faults = CALM
        self.partitioned.clear()
        for site_id in self.machines:
            self.start_agent(site_id)

    def settle(self, *, limit_s: float) -> None:
        """Heal, let up to `limit_s` pass until every task has ended, and assert that it has."""
        self.heal()
        end_s = self.t_s + limit_s
        self.advance(20.0)
        while self.t_s < end_s and not self._is_settled():
            self.advance(20.0)
        for machine in self.machines.values():
            for task in machine.tasks.values():
                assert task.state.is_terminal, f"{task.task_id} never ends: {task.state}"
        for agent in self.agents.values():
            assert not agent.participant.runs, "a report is never answered"

    def tasks(self) -> list[Task]:
        """Return every durable task."""
        return [task for machine in self.machines.values() for task in machine.tasks.values()]

    def check(self) -> None:
        """Assert what must hold at every instant."""
        for agent in self.agents.values():
            agent.origin.check_invariants()
            agent.participant.check_invariants()
        durable = {task.task_id: task for task in self.tasks()}
        for acknowledged in self.acknowledged:
            assert acknowledged in durable, "I1: an acknowledged task is lost"
        for told, state in self.told_end.items():
            assert durable[told].state is state, "I1: an end that a client was told of changed"
        counts: dict[TaskId, int] = {}
        for machine in self.machines.values():
            for execution in machine.executing(self.t_s):
                counts[execution.task_id] = counts.get(execution.task_id, 0) + 1
        assert all(count == 1 for count in counts.values()), "I3: two runs of a task execute"
        for task in durable.values():
            self._check_books(task)
        for agent in self.agents.values():
            for run in agent.participant.runs.values():
                if run.state is RunState.RUNNING:
                    self._check_artifacts(agent.machine, run)

    # ---------------------------------------------------------------- disks

    def _check_books(self, task: Task) -> None:
        """Assert that a success is in the ledger, and saved something at most once."""
        ledger = self.machines[task.origin].ledger
        entries = [entry for entry in ledger.values() if entry.task_id == task.task_id]
        yardsticks = [entry for entry in entries if entry.at_origin != Charge()]
        assert len(yardsticks) == (task.state is TaskState.SUCCEEDED)
        if task.state is TaskState.SUCCEEDED:
            assert task.report is not None
            assert task.report.run_id == yardsticks[0].run_id

    def _apply(self, agent: Agent, ready: Ready, then: Callable[[], None] | None = None) -> None:
        """Write, then act, then answer, in the order of the calls: as `site_agent.runner` does."""
        if ready.writes:
            self._commit(agent, ready, then)
        else:
            self._at(max(agent.commit_s, self.t_s), lambda: self._perform(agent, ready, then))
        for effect in ready.at_once:  # what an award to its own site writes follows the choice
            self._begin(agent, effect)

    def _commit(self, agent: Agent, ready: Ready, then: Callable[[], None] | None) -> None:
        is_crash = self._random.random() < self.faults.crash_ratio
        is_written = not is_crash or self._random.random() < 0.5
        delay_s = float(self._random.uniform(0, self.faults.commit_s))
        agent.commit_s = max(agent.commit_s, self.t_s + delay_s)

        def commit() -> None:
            if not agent.is_alive:
                return
            if is_written:
                self._write(agent.machine, ready.writes)
            if is_crash:
                self.crash(agent.site_id)
            else:
                self._perform(agent, ready, then)

        self._at(agent.commit_s, commit)

    def _perform(self, agent: Agent, ready: Ready, then: Callable[[], None] | None) -> None:
        if not agent.is_alive:
            return
        if then is not None:
            then()
        for effect in ready.effects:
            self._begin(agent, effect)

    @staticmethod
    def _write(machine: Machine, writes: tuple[fx.Write, ...]) -> None:
        for write in writes:
            if isinstance(write, fx.SaveTask):
                task = write.task
                known = machine.tasks.get(task.task_id)
                if known is not None:
                    assert not known.state.is_terminal or known == task, "I1: an end has changed"
                    assert known.fence <= task.fence, "a fence went back"
                machine.tasks[task.task_id] = task
            elif isinstance(write, fx.SaveRun):
                machine.runs[write.run.run_id] = write.run
            elif isinstance(write, fx.ForgetRun):
                machine.runs.pop(write.run_id, None)
            elif isinstance(write, fx.AddEntry):
                entry = write.entry
                assert machine.ledger.get(entry.run_id, entry) == entry, "an entry was replaced"
                machine.ledger[entry.run_id] = entry

    # ---------------------------------------------------------------- network

    def _call(
        self,
        agent: Agent,
        to: SiteId,
        handle: Callable[[Agent, Reply], None],
        on_reply: Reply,
    ) -> None:
        """Send a request and hand over its answer, each as often as the network likes."""

        def reply(answer: object) -> None:
            def arrive() -> None:
                if agent.is_alive:
                    on_reply(answer)

            self._send(to, agent.site_id, arrive)

        def deliver() -> None:
            server = self.agents.get(to)
            if server is not None:
                handle(server, reply)

        self._send(agent.site_id, to, deliver)

    def _send(self, source: SiteId, target: SiteId, deliver: Callable[[], None]) -> None:
        if source == target:
            deliver()
            return

        def arrive() -> None:
            if frozenset((source, target)) not in self.partitioned:
                deliver()

        fate = self._random.random()
        copies = 1
        if fate < self.faults.loss_ratio:
            copies = 0
        elif fate < self.faults.loss_ratio + self.faults.duplicate_ratio:
            copies = 2
        for _ in range(copies):
            is_slow = self._random.random() < 0.1
            limit_s = self.faults.slow_s if is_slow else self.faults.delay_s
            self._after(float(self._random.uniform(0.001, limit_s)), arrive)

    def _after(self, delay_s: float, action: Callable[[], None]) -> None:
        self._at(self.t_s + delay_s, action)

    def _at(self, t_s: float, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (t_s, self._sequence, action))

    # ---------------------------------------------------------------- timers

    def _tick(self, agent: Agent) -> None:
        if not agent.is_alive:
            return
        self._apply(agent, agent.origin.tick(now=self._now(agent)))
        self._apply(agent, agent.participant.tick(now=self._now(agent)))
        self._after(TICK_S, lambda: self._tick(agent))

    def _renew_forever(self, agent: Agent) -> None:
        if not agent.is_alive:
            return
        self._renew(agent)
        self._after(LEASE.renewal_s, lambda: self._renew_forever(agent))

    def _renew(self, agent: Agent) -> None:
        agent.is_renewing_soon = False
        if not agent.is_alive:
            return
        for address, renewal in agent.participant.renewals().items():
            sent_s = self._now(agent).protocol_s

            def handle(server: Agent, reply: Reply, renewal: Renewal = renewal) -> None:
                answer, ready = server.origin.renew(renewal, now=self._now(server))
                self._apply(server, ready, lambda: reply(answer))

            def on_reply(answer: object, sent_s: float = sent_s) -> None:
                assert isinstance(answer, RenewalAnswer)
                self._renewed(agent, answer, sent_s)

            self._call(agent, SiteId(address), handle, on_reply)

    def _renewed(self, agent: Agent, answer: RenewalAnswer, sent_s: float) -> None:
        now = self._now(agent)
        verdicts = answer.verdicts.items()
        kept = tuple(RunId(run) for run, verdict in verdicts if verdict is Verdict.CONTINUE)
        ready = agent.participant.renewed(kept, sent_s=sent_s, now=now)
        for run, verdict in verdicts:
            if verdict is Verdict.REVOKED:
                ready += agent.participant.revoked(RunId(run), now=now)
        self._apply(agent, ready)

    # ---------------------------------------------------------------- effects

    def _begin(self, agent: Agent, effect: fx.Effect) -> None:
        match effect:
            case fx.Negotiate(task):
                self._negotiate(agent, task)
            case fx.SendAward(to, award):
                self._send_award(agent, to, award)
            case fx.SendRevoke(to, run):
                self._send_revoke(agent, to, run)
            case fx.Stage(run):
                token = object()
                agent.staging[run] = token
                self._stage(agent, run, token)
            case fx.StopStaging(run):
                agent.staging.pop(run, None)
            case fx.StartRun(run, _, until_s):
                self._after(0.1, lambda: self._start(agent, run, until_s))
            case fx.Adopt(run):
                self._watch(agent, run)
            case fx.ExtendLease(run, until_s):
                self._extend(agent, run, until_s)
            case fx.StopRun(run):
                self._stop(agent, run)
            case fx.Publish(run):
                self._after(0.2, lambda: self._publish(agent, run))
            case fx.SendReport(address, report):
                agent.reporting.add(report.run_id)
                self._report(agent, SiteId(address), report, 1.0)
            case fx.Reap(run):
                agent.machine.executions.pop(run, None)
            case fx.RenewSoon():
                if not agent.is_renewing_soon:
                    agent.is_renewing_soon = True
                    self._after(0.05, lambda: self._renew(agent))
            case fx.SendHold() | fx.SendRejections() | fx.Observe():
                pass

    def _negotiate(self, agent: Agent, task_id: TaskId) -> None:
        task = agent.origin.tasks[task_id]
        models = tuple(m for m in MODELS if m.artifact_id in {n.artifact_id for n in task.needs})
        median_s = float(task.spec.command[1])
        predictions = (
            Prediction(
                pool_type=POOL,
                run_time=RunTime.lognormal(median_s, 0.3),
                source=PredictionSource.PRIOR,
            ),
        )
        announcement = agent.origin.announcement(
            task_id,
            task.spec,
            fence=task.fence.next_attempt(),
            needs=self._needs(models),
            predictions=predictions,
        )
        answers: dict[SiteId, Bid | Refusal] = {}
        is_open = True

        def close() -> None:
            nonlocal is_open
            if not is_open or not agent.is_alive:
                return
            is_open = False
            silent = [
                Refusal(site, Reason.NO_SITE_REACHABLE, "silent")
                for site in self.machines
                if site not in answers
            ]
            auction = Auction(
                predictions=predictions,
                needs=announcement.needs,
                bids=tuple(a for a in answers.values() if isinstance(a, Bid)),
                refusals=(*(a for a in answers.values() if isinstance(a, Refusal)), *silent),
                is_complete=not silent,
            )
            now = self._now(agent)
            self._apply(agent, agent.origin.close_auction(task_id, auction, now=now))

        def handle(server: Agent, reply: Reply) -> None:
            reply(self._bid(server, announcement))

        def on_reply(answer: object) -> None:
            assert isinstance(answer, Bid | Refusal)
            if is_open:
                answers[answer.site_id] = answer
                if len(answers) == len(self.machines):
                    close()

        for site_id in self.machines:
            self._call(agent, site_id, handle, on_reply)
        self._after(BID_WINDOW_S, close)

    def _bid(self, server: Agent, announcement: Announcement) -> Bid | Refusal:
        return server.participant.bid(announcement, now=self._now(server))

    def _send_award(self, agent: Agent, to: SiteId, award: Award) -> None:
        assert self.awarded.setdefault(award.run_id, to) == to, "an attempt has two holders"

        def handle(server: Agent, reply: Reply) -> None:
            answer, ready = server.participant.award(award, now=self._now(server))
            self._apply(server, ready, lambda: reply(answer))

        def on_reply(answer: object) -> None:
            assert isinstance(answer, AwardAnswer)
            ready = agent.origin.award_answered(award.run_id, answer, now=self._now(agent))
            self._apply(agent, ready)

        self._call(agent, to, handle, on_reply)

    def _send_revoke(self, agent: Agent, to: SiteId, run_id: RunId) -> None:
        def handle(server: Agent, reply: Reply) -> None:
            now = self._now(server)
            ready = server.participant.revoked(run_id, now=now, is_cancelled=True)
            self._apply(server, ready, lambda: reply(None))

        self._call(agent, to, handle, lambda _: None)

    def _report(self, agent: Agent, to: SiteId, report: Report, pause_s: float) -> None:
        if not agent.is_alive or report.run_id not in agent.reporting:
            return

        def handle(server: Agent, reply: Reply) -> None:
            answer, ready = server.origin.report(report, now=self._now(server))

            def answered() -> None:
                assert report.run_id in server.machine.ledger, "answered before it was durable"
                self._count_success(report, answer)
                reply(answer)

            self._apply(server, ready, answered)

        def on_reply(answer: object) -> None:
            del answer
            agent.reporting.discard(report.run_id)
            self._apply(agent, agent.participant.report_answered(report.run_id))

        self._call(agent, to, handle, on_reply)
        longer_s = min(2 * pause_s, 10.0)
        self._after(pause_s, lambda: self._report(agent, to, report, longer_s))

    def _count_success(self, report: Report, answer: ReportAnswer) -> None:
        task = self.machines[SiteId(report.task_id.split("-", 1)[0])].tasks[report.task_id]
        if answer.is_accepted and report.state is RunState.SUCCEEDED:
            counted = task.report is not None and task.report.run_id == report.run_id
            if counted or answer.message == "":
                runs = self.successes.setdefault(report.task_id, set())
                runs.add(report.run_id)
                assert len(runs) == 1, "I2: two runs of a task committed"
                assert report.exit_code == 0, "a success that nobody saw"
                assert task.state is TaskState.SUCCEEDED, "a success was accepted and lost"

    # ---------------------------------------------------------------- staging

    def _stage(self, agent: Agent, run_id: RunId, token: object) -> None:
        """Bring one artifact after the other; another's transfer of the same is waited for."""
        if not agent.is_alive or agent.staging.get(run_id) is not token:
            return
        now = self._now(agent)
        missing = agent.participant.missing(run_id)
        if not missing:
            agent.staging.pop(run_id, None)
            self._apply(agent, agent.participant.staged(run_id, now=now))
            return
        need = missing[0]
        self._apply(agent, agent.participant.staging(run_id, now=now))
        cache = agent.participant.cache
        if cache.is_reserved(need.artifact_id):
            self._after(1.0, lambda: self._stage(agent, run_id, token))
            return
        artifact = next(m for m in MODELS if m.artifact_id == need.artifact_id)
        try:
            evicted = cache.reserve(artifact, now_s=now.world_s)
        except CacheFullError as exc:
            self._fail_staging(agent, run_id, str(exc))
            return
        for victim in evicted:
            del agent.machine.artifacts[victim]
        cache.pin(need.artifact_id, run_id)
        duration_s = float(self._random.uniform(0.5, 5))
        self._after(
            duration_s,
            lambda: self._fetched(agent, run_id, token, artifact, evicted),
        )

    def _fetched(
        self,
        agent: Agent,
        run_id: RunId,
        token: object,
        artifact: Artifact,
        evicted: tuple[ArtifactId, ...],
    ) -> None:
        if not agent.is_alive:
            return
        is_wanted = agent.staging.get(run_id) is token
        if not is_wanted or self._random.random() < self.faults.staging_ratio:
            agent.participant.cache.release(artifact.artifact_id)
            if is_wanted:
                self._fail_staging(agent, run_id, "the transfer failed")
            return
        agent.participant.cache.insert(artifact.artifact_id)
        agent.machine.artifacts[artifact.artifact_id] = artifact
        charge = Charge(transfer_usd=0.01, transfer_bytes=artifact.size_bytes)
        fetch = Fetch(
            artifact_id=artifact.artifact_id,
            name=artifact.name,
            size_bytes=artifact.size_bytes,
            source=Holder(SiteId("s0"), "Z0", "s0"),
            duration_s=1.0,
            cost_usd=0.01,
            carbon_gco2=0.0,
        )
        self._apply(agent, agent.participant.fetched(run_id, (fetch,), charge, evicted))
        self._stage(agent, run_id, token)

    def _fail_staging(self, agent: Agent, run_id: RunId, message: str) -> None:
        agent.staging.pop(run_id, None)
        now = self._now(agent)
        self._apply(agent, agent.participant.staging_failed(run_id, message, now=now))

    # ---------------------------------------------------------------- executing

    def _start(self, agent: Agent, run_id: RunId, until_s: float) -> None:
        if not agent.is_alive:
            return
        machine = agent.machine
        run = agent.participant.runs[run_id]
        self._check_artifacts(machine, run)
        if run_id not in machine.executions:
            is_late = machine.now(self.t_s).protocol_s >= until_s
            if not is_late:
                self._check_room(machine, run)
            machine.executions[run_id] = Execution(
                run_id=run_id,
                task_id=run.award.task_id,
                gpu_count=run.award.gpu.gpu_count,
                started_s=None if is_late else self.t_s,
                ends_s=self.t_s + float(run.award.command[1]),
                exit_code=int(run.award.command[2]),
                until_protocol_s=until_s,
            )
        self._watch(agent, run_id)

    @staticmethod
    def _check_artifacts(machine: Machine, run: HeldRun) -> None:
        for need in run.award.needs:
            assert need.artifact_id in machine.artifacts, "I5: a run lacks its artifact"

    def _check_room(self, machine: Machine, run: HeldRun) -> None:
        """Assert I3, fence order and room where a run is about to execute."""
        for other in self.machines.values():
            for execution in other.executing(self.t_s):
                assert execution.task_id != run.award.task_id, "I3: two runs of a task execute"
        busy = sum(execution.gpu_count for execution in machine.executing(self.t_s))
        assert busy + run.award.gpu.gpu_count <= GPU_COUNT, "more GPUs in use than there are"

    def _extend(self, agent: Agent, run_id: RunId, until_s: float) -> None:
        execution = agent.machine.executions.get(run_id)
        if execution is not None and execution in list(agent.machine.executing(self.t_s)):
            execution.until_protocol_s = max(execution.until_protocol_s, until_s)

    def _stop(self, agent: Agent, run_id: RunId) -> None:
        execution = agent.machine.executions.get(run_id)
        if execution is not None and execution.stopped_s is None:
            execution.stopped_s = self.t_s + STOP_GRACE_S
            self._watch(agent, run_id)

    def _watch(self, agent: Agent, run_id: RunId) -> None:
        """Tell the participant of the exit, once there is one."""
        if not agent.is_alive:
            return
        machine = agent.machine
        execution = machine.executions.get(run_id)
        if execution is None:
            exit_ = self._lost_exit(agent)
        else:
            end_s = machine.end_s(execution)[0]
            if execution.started_s is not None and self.t_s < end_s:
                self._after(end_s - self.t_s, lambda: self._watch(agent, run_id))
                return
            exit_ = machine.exit_of(execution)
        known = agent.participant.runs.get(run_id)
        if known is not None and known.state is RunState.RUNNING:
            now = self._now(agent)
            self._apply(agent, agent.participant.exited(run_id, exit_, now=now))

    def _publish(self, agent: Agent, run_id: RunId) -> None:
        if not agent.is_alive:
            return
        execution = agent.machine.executions.get(run_id)
        exit_ = self._lost_exit(agent) if execution is None else agent.machine.exit_of(execution)
        self._apply(agent, agent.participant.published(run_id, exit_, now=self._now(agent)))

    def _lost_exit(self, agent: Agent) -> Exit:
        return Exit(
            started_s=None,
            ended_s=self._now(agent).world_s,
            exit_code=None,
            reason=Reason.EXECUTOR_FAILED,
            message="the executor lost the run",
            log_tail="",
        )

    # ---------------------------------------------------------------- wiring

    def _now(self, agent: Agent) -> Now:
        return agent.machine.now(self.t_s)

    def _is_settled(self) -> bool:
        return all(task.state.is_terminal for task in self.tasks()) and not any(
            agent.participant.runs for agent in self.agents.values()
        )

    def _needs(self, models: tuple[Artifact, ...]) -> tuple[ArtifactNeed, ...]:
        return tuple(
            ArtifactNeed(
                artifact_id=model.artifact_id,
                kind=model.kind,
                name=model.name,
                size_bytes=model.size_bytes,
                holders=tuple(
                    Holder(site_id, machine.site.zone, machine.site.address, 100.0)
                    for site_id, machine in self.machines.items()
                    if model.artifact_id in machine.artifacts
                ),
            )
            for model in models
        )
