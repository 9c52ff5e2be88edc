"""The three kinds of parity between agents and the simulator. Pure, but for the simulator's clock.

- *Decisions*: every bid and award of the live run, made again from what it was made from.
- *Trajectory*: the simulator, fed with the message, transfer and run times of the live run, places
  tasks where agents did.
- *Closed loop*: what the same instance costs simulated and live. Here everything may differ: real
  predictions, messages that take time, jobs that start late. The difference is told with an
  interval from resampling the hours in which tasks arrive (`testbed.statistics`).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from gcos.accounting import G_PER_KG, Charge
from gcos.ids import SiteId
from gcos.signals import HOUR_S
from policies.catalogue import policy_named
from site_agent.decisions import Replay, replayed
from testbed.learned_bids import bidders_of
from testbed.live.books import booked
from testbed.live.records import LiveRun
from testbed.live.replay import ReplaySimulation
from testbed.sim.instance import Instance
from testbed.sim.simulation import Simulation
from testbed.statistics import Comparison, compare

TRAJECTORY_RATIO_MIN: Final = 0.99
#: Hours that make blocks of their own; in a shorter run so many tasks in order make one.
_BLOCK_COUNT_MIN: Final = 6
_TASKS_A_BLOCK: Final = 10

_Value = Callable[[Charge], float]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Where tasks ran live and in the replay.

    Attributes:
        task_count: Tasks.
        same_count: Those that ran at the same site.
        differences: One sentence for each other.
        start_error_s: Median of the absolute differences of their starts, world seconds.
    """

    task_count: int
    same_count: int
    differences: tuple[str, ...]
    start_error_s: float

    @property
    def same_ratio(self) -> float:
        """Share of the tasks that ran at the same site."""
        return self.same_count / self.task_count


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """What the same instance came to, live and simulated; comparisons are per task, live first.

    Attributes:
        live_joint_usd: J of all tasks, live.
        simulated_joint_usd: The same, simulated.
        joint_usd: Difference of J.
        cost_usd: Difference of cost, penalties included.
        carbon_kg: Difference of carbon.
    """

    live_joint_usd: float
    simulated_joint_usd: float
    joint_usd: Comparison
    cost_usd: Comparison
    carbon_kg: Comparison


@dataclass(frozen=True, slots=True)
class Parity:
    """How alike agents and the simulator are.

    Attributes:
        scenario: What was run.
        policy: Under which policy.
        on: `live` or `testbed`.
        speed: World seconds per wall second.
        decisions: Bids and awards made again.
        trajectory: The simulator with the live run's times.
        closed_loop: The simulator on its own.
        late_share: Share of deliveries over links that came late.
        is_void: Links were too late for distances to mean anything.
    """

    scenario: str
    policy: str
    on: str
    speed: float
    decisions: Replay
    trajectory: Trajectory
    closed_loop: ClosedLoop
    late_share: float
    is_void: bool

    @property
    def is_success(self) -> bool:
        """Whether decisions are all the same and 99 % of the tasks are placed alike."""
        return (
            self.decisions.bids > 0
            and not self.decisions.differences
            and self.trajectory.same_ratio >= TRAJECTORY_RATIO_MIN
        )


def parity(instance: Instance, run: LiveRun, *, policy: str, on: str, speed: float) -> Parity:
    """Compare a live run of an instance with the simulator."""
    return Parity(
        scenario=instance.name,
        policy=policy,
        on=on,
        speed=speed,
        decisions=replayed(run.decisions, bidders_of),
        trajectory=trajectory(instance, run, policy),
        closed_loop=closed_loop(instance, run, policy),
        late_share=run.late_share,
        is_void=run.is_void,
    )


def trajectory(instance: Instance, run: LiveRun, policy: str) -> Trajectory:
    """Return where the simulator places the tasks when it is fed with the times of a live run."""
    replay = ReplaySimulation(instance, run, policy_named(policy))
    replay.run()
    differences = [
        f"{task.task_id}: {replay.placed[task.task_id]} instead of {task.site_id}"
        for task in run.tasks
        if replay.placed[task.task_id] != task.site_id
    ]
    errors = [abs(replay.started_s[task.task_id] - task.started_s) for task in run.tasks]
    return Trajectory(
        task_count=len(run.tasks),
        same_count=len(run.tasks) - len(differences),
        differences=tuple(differences),
        start_error_s=float(np.median(errors)),
    )


def closed_loop(instance: Instance, run: LiveRun, policy: str) -> ClosedLoop:
    """Return how what tasks cost live differs from what they cost simulated.

    Storage and copies belong to no task and are left out on both sides.
    """
    live, simulated = _Tally(), _Tally()
    booked(instance, run, tell=live.tell)
    Simulation(instance, policy_named(policy), tell=simulated.tell).run()
    ids = [task.task_id for task in instance.tasks]
    hours = [int((task.arrival_s - instance.start_s) // HOUR_S) for task in instance.tasks]
    blocks = hours if len(set(hours)) >= _BLOCK_COUNT_MIN else _tens(len(ids))

    def compared(value: _Value) -> Comparison:
        return compare(
            [value(live.charges[each]) for each in ids],
            [value(simulated.charges[each]) for each in ids],
            blocks,
        )

    def joint_usd(charge: Charge) -> float:
        return charge.joint_usd(instance.scope, instance.carbon_price_usd_per_kg)

    return ClosedLoop(
        live_joint_usd=sum(joint_usd(live.charges[each]) for each in ids),
        simulated_joint_usd=sum(joint_usd(simulated.charges[each]) for each in ids),
        joint_usd=compared(joint_usd),
        cost_usd=compared(lambda charge: charge.cost_usd(instance.scope)),
        carbon_kg=compared(lambda charge: charge.carbon_gco2 / G_PER_KG),
    )


def _tens(count: int) -> Sequence[int]:
    return [number // _TASKS_A_BLOCK for number in range(count)]


class _Tally:
    """What each task was charged."""

    def __init__(self) -> None:
        self.charges: defaultdict[str, Charge] = defaultdict(Charge)

    def tell(self, _site_id: SiteId, task_id: str | None, charge: Charge) -> None:
        """Add a charge."""
        if task_id is not None:
            self.charges[task_id] += charge
