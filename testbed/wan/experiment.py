"""An experiment on a testbed: jobs under several policies, while a link is cut and a site dies.

For each policy a testbed of its own comes up, jobs are submitted at all sites in turn, a link
between two sites is cut after a quarter of them and a third site is killed after half; both are as
before after three quarters. What became of each acknowledged job is counted from outside, by asking
the site that owns it until all have ended.
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import mean
from typing import Final

from gcos.client import Client
from gcos.errors import GcosError
from gcos.ids import SiteId, TaskId
from gcos.system import SystemClock
from gcos.tasks import TaskState
from site_agent.decisions import replayed
from testbed.interruption import uninterrupted
from testbed.learned_bids import bidders_of
from testbed.wan import cluster
from testbed.wan.beds import Bed
from testbed.wan.records import Verdict, timing_of

#: Wall seconds between two submissions.
GAP_S: Final = 0.3
#: Wall seconds in which some job must end, else those that are left are counted as not ended.
END_S: Final = 300.0
_LOOK_S: Final = 0.5
_JOB: Final = ("sleep", "0.2")

Tell = Callable[[str], None]
_now_s = SystemClock().protocol_s


@dataclass(frozen=True, slots=True)
class Mishaps:
    """What happens to a testbed while jobs come.

    Attributes:
        parted: Two places between which nothing passes for a while.
        killed: Site whose agent is killed, and brought back.
    """

    parted: tuple[str, str]
    killed: str


@dataclass(frozen=True, slots=True)
class PolicyRun:
    """What became of the jobs under one policy.

    Attributes:
        policy: How sites bid.
        submitted: Jobs that were handed to some site.
        acknowledged: Those that it said it had taken.
        unacknowledged: Submissions that were refused or got no answer, and went to the next site.
        states: Acknowledged jobs by terminal state.
        unended: Acknowledged jobs that had not ended, or that their site did not know, by the end.
        changed: Jobs whose terminal state was seen to change: never, if the system is right.
        sites: Jobs by the site that ran them.
        cost_usd: What the ledger says they cost.
        carbon_gco2: What it says they emitted.
        mean_wait_s: World seconds from submission to start.
        wall_s: How long the run took.
        timing: Whether links kept their time.
        decision_count: Bids and awards that agents recorded.
        changed_decisions: Those that came out otherwise when they were made again.
    """

    policy: str
    submitted: int
    acknowledged: int
    unacknowledged: int
    states: dict[str, int]
    unended: int
    changed: int
    sites: dict[str, int]
    cost_usd: float
    carbon_gco2: float
    mean_wait_s: float
    wall_s: float
    timing: Verdict
    decision_count: int = 0
    changed_decisions: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether every acknowledged job ended in one terminal state."""
        return (
            not self.unended
            and not self.changed
            and sum(self.states.values()) == (self.acknowledged)
        )


@dataclass(frozen=True, slots=True)
class Experiment:
    """The runs of an experiment.

    Attributes:
        scenario: Whose sites.
        jobs: How many each policy was given.
        mishaps: What happened to the testbed.
        runs: One for each policy.
    """

    scenario: str
    jobs: int
    mishaps: Mishaps
    runs: tuple[PolicyRun, ...]

    @property
    def is_success(self) -> bool:
        """Whether every run is whole, and every decision comes out alike again."""
        return bool(self.runs) and all(
            run.is_whole and not run.changed_decisions for run in self.runs
        )


def run_policy(
    bed: Bed,
    policy: str,
    *,
    jobs: int,
    mishaps: Mishaps,
    tell: Tell,
    gap_s: float = GAP_S,
) -> PolicyRun:
    """Run the jobs under one policy in a testbed of its own, which is gone when this returns.

    Args:
        bed: The testbed, which is not up yet; its sites bid by the policy.
        policy: How sites bid.
        jobs: How many jobs.
        mishaps: What happens meanwhile.
        tell: Gets a line for each step.
        gap_s: Wall seconds between two submissions.

    Raises:
        GcosError: The testbed did not come up.
    """
    try:
        bed.up()
        run = asyncio.run(_drive(bed, policy, jobs, mishaps, tell, gap_s))
        replay = replayed(bed.decisions(), bidders_of)
        return replace(run, decision_count=replay.total, changed_decisions=replay.differences)
    finally:
        with uninterrupted():
            bed.down()


async def _drive(
    bed: Bed, policy: str, jobs: int, mishaps: Mishaps, tell: Tell, gap_s: float
) -> PolicyRun:
    began_s = _now_s()
    owners: dict[TaskId, SiteId] = {}
    failures = 0
    async with bed.agents() as agents, contextlib.AsyncExitStack() as stack:
        # One connection to each, which finds a revived agent again: in containers another is
        # another command in the sidecar, and so takes what agents need.
        clients = {
            site: await stack.enter_async_context(
                Client.connect(agents[site], bed.token_file, environ={})
            )
            for site in sorted(agents)
        }
        tell(f"{policy}: {len(clients)} regions run")
        sites = tuple(clients)
        for number in range(jobs):
            if number == jobs // 4:
                await bed.change(cluster.cut(*mishaps.parted))
                tell(f"{policy}: nothing passes between {' and '.join(mishaps.parted)}")
            if number == jobs // 2:
                await bed.kill(mishaps.killed)
                tell(f"{policy}: {mishaps.killed} is killed")
            if number == 3 * jobs // 4:
                await bed.heal()
                await bed.revive()
                tell(f"{policy}: the link is healed and {mishaps.killed} is back")
            due_s = began_s + number * gap_s
            await asyncio.sleep(max(0.0, due_s - _now_s()))
            document = json.dumps(
                {
                    "apiVersion": "gcos/v1",
                    "kind": "Task",
                    "name": f"job {number}",
                    "run": list(_JOB),
                }
            )
            for attempt in range(len(sites)):
                site = sites[(number + attempt) % len(sites)]
                try:
                    taken = await clients[site].submit(document, f"{policy}-{number}-{attempt}")
                except GcosError:
                    failures += 1
                    continue
                owners[taken.task.task_id] = site
                break
        tell(f"{policy}: {len(owners)} jobs are taken; waiting for their ends")
        return await _count(bed, clients, policy, jobs, failures, owners, began_s)


async def _count(
    bed: Bed,
    clients: Mapping[SiteId, Client],
    policy: str,
    jobs: int,
    failures: int,
    owners: dict[TaskId, SiteId],
    began_s: float,
) -> PolicyRun:
    """Ask the owners until all jobs have ended, and once more, so that changes are seen."""
    ended: dict[TaskId, TaskState] = {}
    changed: set[TaskId] = set()
    ran_at: Counter[str] = Counter()
    waits: dict[TaskId, float] = {}
    until_s = _now_s() + END_S
    is_last = False
    while True:
        for site in sorted(set(owners.values())):
            with contextlib.suppress(GcosError):
                for task in (await clients[site].tasks(everywhere=False)).items:
                    if task.task_id not in owners:
                        continue
                    if task.task_id in ended and task.state is not ended[task.task_id]:
                        changed.add(task.task_id)
                    if task.state.is_terminal and task.task_id not in ended:
                        ended[task.task_id] = task.state
                        until_s = _now_s() + END_S
                        ran_at[task.site_id or "-"] += 1
                        if task.started_s is not None:
                            waits[task.task_id] = task.started_s - task.submitted_s
        if is_last or _now_s() > until_s:
            break
        is_last = len(ended) == len(owners)
        await asyncio.sleep(_LOOK_S)
    # Each for itself: agents in containers are at addresses that only they reach.
    ledgers = [await client.ledger(everywhere=False) for client in clients.values()]
    entries = [entry for ledger in ledgers for entry in ledger.entries if entry.task_id in owners]
    answers = await bed.answers()
    return PolicyRun(
        policy=policy,
        submitted=jobs,
        acknowledged=len(owners),
        unacknowledged=failures,
        states=dict(Counter(state.value for state in ended.values())),
        unended=len(owners) - len(ended),
        changed=len(changed),
        sites=dict(sorted(ran_at.items())),
        cost_usd=sum(entry.charge.cost_usd(entry.scope) for entry in entries),
        carbon_gco2=sum(entry.charge.carbon_gco2 for entry in entries),
        mean_wait_s=mean(waits.values()) if waits else 0.0,
        wall_s=_now_s() - began_s,
        timing=timing_of(answers),
    )
