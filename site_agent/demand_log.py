"""What was submitted to a site of late: what is expected to be asked for again. Pure.

The newest `LOG_COUNT_MAX` submissions of the last `MEMORY_H` hours (policies.maccs.copy_plan).
Nothing here is durable: after a restart it is made again from the tasks in the journal.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from gcos.accounting import LatePenalty
from gcos.artifacts import ArtifactKind
from gcos.contract_net import ArtifactNeed
from gcos.durations import Prediction
from gcos.ids import TaskId
from gcos.outlook import ExpectedRun, OutlookArtifact, Submission
from gcos.signals import HOUR_S
from policies.maccs.copy_plan import MEMORY_H
from policies.offer import expected_penalty_usd

#: Submissions remembered; of more, the oldest are forgotten.
LOG_COUNT_MAX: Final = 4_096


@lru_cache(maxsize=65_536)
def spread_of(task_id: TaskId) -> int:
    """Return a number that is fixed for a task and even over tasks: 0 to 2^32 - 1."""
    return int.from_bytes(hashlib.sha256(task_id.encode()).digest()[:4], "big")


def thinned(submissions: Iterable[Submission], count_max: int) -> tuple[Submission, ...]:
    """Return at most so many, drawn evenly and everywhere alike, in order of arrival.

    The oldest are not worth less than the newest: which hours of day ask for what must stay.
    """
    kept = sorted(submissions, key=lambda each: (spread_of(each.task_id), each.task_id))
    return tuple(sorted(kept[:count_max], key=lambda each: (each.arrival_s, each.task_id)))


def submission_of(
    task_id: TaskId,
    *,
    arrival_s: float,
    gpu_count: int,
    needs: Sequence[ArtifactNeed],
    predictions: Sequence[Prediction],
    penalty: LatePenalty,
    deadline_s: float | None,
) -> Submission:
    """Return a task as it was submitted.

    Of several models or data sets the largest of each kind stands for all: it decides.

    Args:
        task_id: The task.
        arrival_s: World instant of its submission.
        gpu_count: GPUs that it asks for.
        needs: Its artifacts.
        predictions: Run time by pool type.
        penalty: What being late costs.
        deadline_s: World instant of the deadline; None: none.
    """
    model = _largest(needs, ArtifactKind.MODEL)
    data = _largest(needs, ArtifactKind.DATA)
    return Submission(
        task_id=task_id,
        arrival_s=arrival_s,
        gpu_count=gpu_count,
        model_id=None if model is None else model.artifact_id,
        data_id=None if data is None else data.artifact_id,
        fixed_penalty_usd=0.0 if deadline_s is None else penalty.fixed_usd,
        runs=tuple(
            ExpectedRun(
                prediction.pool_type,
                run_h=float(prediction.run_time.midpoints_s().mean()) / HOUR_S,
                late_usd=0.0
                if deadline_s is None
                else expected_penalty_usd(
                    prediction.run_time, penalty, start_s=arrival_s, deadline_s=deadline_s
                ),
            )
            for prediction in predictions
        ),
    )


def _largest(needs: Sequence[ArtifactNeed], kind: ArtifactKind) -> ArtifactNeed | None:
    return max(
        (need for need in needs if need.kind is kind),
        key=lambda need: (need.size_bytes, need.artifact_id),
        default=None,
    )


class DemandLog:
    """The submissions that a site remembers.

    Args:
        began_s: World instant from which on it has seen all.
    """

    def __init__(self, began_s: float) -> None:
        self._began_s = began_s
        self._log: OrderedDict[TaskId, tuple[Submission, tuple[OutlookArtifact, ...]]] = (
            OrderedDict()
        )

    def note(self, submission: Submission, needs: Iterable[ArtifactNeed]) -> None:
        """Remember a submission and what it needs; a second time changes nothing."""
        if submission.task_id in self._log:
            return
        artifacts = tuple(
            OutlookArtifact(need.artifact_id, need.kind, need.name, need.size_bytes)
            for need in needs
        )
        self._log[submission.task_id] = submission, artifacts
        self._began_s = min(self._began_s, submission.arrival_s)
        if len(self._log) > LOG_COUNT_MAX:
            _, (gone, _) = self._log.popitem(last=False)
            self._began_s = max(self._began_s, gone.arrival_s)

    def remembered_h(self, now_s: float) -> float:
        """Return how far back it knows all submissions, hours, at most `MEMORY_H`."""
        return min(MEMORY_H, max(0.0, now_s - self._began_s) / HOUR_S)

    def recent(self, now_s: float) -> tuple[Submission, ...]:
        """Return what was submitted in the `MEMORY_H` hours before; older ones are forgotten."""
        since_s = now_s - MEMORY_H * HOUR_S
        while self._log:
            oldest = next(iter(self._log))
            if self._log[oldest][0].arrival_s >= since_s:
                break
            del self._log[oldest]
        known = (submission for submission, _ in self._log.values())
        return tuple(submission for submission in known if submission.arrival_s < now_s)

    def artifacts(self) -> tuple[OutlookArtifact, ...]:
        """Return what the remembered submissions need, each artifact once."""
        known = {each.artifact_id: each for _, needed in self._log.values() for each in needed}
        return tuple(known.values())
