"""The copy plan of simulated sites, and what is predicted of their tasks.

All sites would compute the same plan from the same outlooks, so it is computed once a beat.
"""

from bisect import bisect_left
from collections.abc import Collection, Mapping

import numpy as np

from gcos.contract_net import ArtifactNeed
from gcos.durations import Prediction, PredictionSource, RunTime
from gcos.ids import TaskId
from gcos.outlook import Outlook, Submission
from gcos.signals import HOUR_S
from gcos.sites import Pool
from policies.catalogue import Foresight
from policies.maccs.copy_plan import HORIZON_H, MEMORY_H, UNLEARNED, Learned
from site_agent.copy_planning import (
    Expected,
    PlannedCopy,
    Planner,
    Tariff,
    planned_copies,
    remembered,
)
from site_agent.demand_log import LOG_COUNT_MAX, submission_of
from testbed.sim.instance import Instance, SimTask


def pools_of(instance: Instance) -> dict[str, Pool]:
    """Return one pool of each type."""
    return {site.pools[0].type: site.pools[0] for site in instance.sites}


def predictions_of(task: SimTask, pools: Mapping[str, Pool]) -> tuple[Prediction, ...]:
    """Return what the predictor says: the median it was drawn from and its stated spread."""
    return tuple(
        Prediction(
            pool_type=pool.type,
            run_time=RunTime.lognormal(task.predicted_work_s / pool.speed_ratio, task.sigma),
            source=PredictionSource.PREDICTOR,
            is_cold=False,
        )
        for pool in pools.values()
    )


class CopyPlans:
    """Plans the copies of one run.

    Args:
        instance: The world.
        foresight: What the plans are made from.
        planner: The plan, compiled or not.
        learned: Corrects what it expects.
    """

    def __init__(
        self,
        instance: Instance,
        foresight: Foresight,
        planner: Planner,
        learned: Learned = UNLEARNED,
    ) -> None:
        self._instance = instance
        self._foresight = foresight
        self._planner = planner
        self._learned = learned
        zones = {site.site_id: site.zone for site in instance.sites}
        links = {(zones[a], zones[b]): link for (a, b), link in instance.links.items()}
        self._tariff = Tariff(
            carbon_price_usd_per_kg=instance.carbon_price_usd_per_kg,
            network_kwh_per_gb=instance.network_kwh_per_gb,
            links=lambda source_zone, target_zone: links[source_zone, target_zone],
        )
        self._pools = pools_of(instance)
        self._artifacts = {each.artifact.artifact_id: each.artifact for each in instance.upstreams}
        self._submissions: dict[str, Submission] = {}

    def submission(self, task: SimTask) -> Submission:
        """Return what the submission of a task tells."""
        known = self._submissions.get(task.task_id)
        if known is None:
            artifacts = [self._artifacts[each] for each in (task.model, task.data)]
            known = self._submissions[task.task_id] = submission_of(
                TaskId(task.task_id),
                arrival_s=task.arrival_s,
                gpu_count=task.gpu_count,
                needs=[
                    ArtifactNeed(each.artifact_id, each.kind, each.name, each.size_bytes)
                    for each in artifacts
                ],
                predictions=predictions_of(task, self._pools),
                penalty=task.late_penalty,
                deadline_s=task.deadline_s,
            )
        return known

    def copies(self, outlooks: Collection[Outlook], *, now_s: float) -> tuple[PlannedCopy, ...]:
        """Return the copies to begin at a beat, best first.

        Args:
            outlooks: Of all sites, for this beat.
            now_s: World instant of the beat.
        """
        if self._foresight is Foresight.REMEMBERED:
            expected = remembered(outlooks, count_max=LOG_COUNT_MAX * len(outlooks))
        else:
            expected = self._coming(now_s)
        return planned_copies(
            outlooks, expected, self._tariff, planner=self._planner, learned=self._learned
        )

    def _coming(self, now_s: float) -> Expected:
        """Return the true tasks of the plan's horizon."""
        tasks = self._instance.tasks
        first, last = (
            bisect_left(tasks, at_s, key=lambda task: task.arrival_s)
            for at_s in (now_s, now_s + HORIZON_H * HOUR_S)
        )
        coming = tasks[first:last]
        return Expected(
            tasks=tuple(self.submission(task) for task in coming),
            start_h=np.array([(task.arrival_s - now_s) / HOUR_S for task in coming]),
            weight=1.0,
            age_h=np.zeros(len(coming)),
            memory_h=MEMORY_H,
        )
