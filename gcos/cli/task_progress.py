"""How far tasks have come, for those who watch them. Pure."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gcos.cli.output import Table
from gcos.cli.quantities import (
    NOTHING,
    bar,
    duration,
    in_one_unit,
    interval,
    relative,
    size,
    span,
)
from gcos.durations import RunTime, prediction_for
from gcos.ids import TaskId
from gcos.task_record import Task
from gcos.tasks import TaskState

#: Changes of a task over which its rate of fetching is taken.
_CHANGES_MAX: Final = 5
BAR_WIDTH: Final = 6
#: A start that was expected so short a while ago is expected now, world seconds.
DUE_S: Final = 60.0
NAME_CHARS: Final = 32
#: Width of a terminal from which on there is room for names.
WIDE_COLUMNS: Final = 100


@dataclass(slots=True)
class FetchRates:
    """How fast tasks fetch, from the byte counts that were seen.

    Per second of the wall: bytes travel on a real network, however the world's time is scaled.
    """

    _seen: dict[TaskId, deque[tuple[float, int]]] = field(default_factory=dict)

    def observe(self, task: Task, *, protocol_s: float) -> None:
        """Note how much `task` has fetched at the instant `protocol_s`."""
        if task.state is not TaskState.STAGING:
            self._seen.pop(task.task_id, None)
            return
        seen = self._seen.setdefault(task.task_id, deque(maxlen=_CHANGES_MAX))
        if seen and seen[-1][1] > task.fetched_bytes:  # another attempt began from nothing
            seen.clear()
        if not seen or seen[-1][1] != task.fetched_bytes:
            seen.append((protocol_s, task.fetched_bytes))

    def bytes_per_s(self, task_id: TaskId) -> float | None:
        """Return bytes per second over the last few changes; None before the second one."""
        seen = self._seen.get(task_id)
        if not seen or seen[-1][0] <= seen[0][0]:
            return None
        (first_s, first_bytes), (last_s, last_bytes) = seen[0], seen[-1]
        return (last_bytes - first_bytes) / (last_s - first_s)


@dataclass(frozen=True, slots=True)
class RunForecast:
    """A run against its prediction, world seconds.

    Attributes:
        elapsed_s: How long it has run.
        predicted: How long it was predicted to run.
        remaining: How long it will still run, given that it has run so long.
    """

    elapsed_s: float
    predicted: RunTime
    remaining: RunTime

    @property
    def done_ratio(self) -> float:
        """Share of the run that has passed, if what remains takes its median."""
        return self.elapsed_s / (self.elapsed_s + self.remaining.p50_s)


def run_time_of(task: Task) -> RunTime | None:
    """Return the predicted run time on the pool that the task was awarded to; None before."""
    if task.bid is None:
        return None
    prediction = prediction_for(task.predictions, task.bid.pool_type)
    return None if prediction is None else prediction.run_time


def forecast(task: Task, *, now_s: float) -> RunForecast | None:
    """Return how the run of a running task stands; None where it does not run."""
    predicted = run_time_of(task)
    if predicted is None or task.started_s is None or task.state is not TaskState.RUNNING:
        return None
    elapsed_s = max(0.0, now_s - task.started_s)
    return RunForecast(elapsed_s, predicted, remaining=predicted.remaining_after(elapsed_s))


def watched(
    tasks: Sequence[Task],
    *,
    now_s: float,
    width: int,
    rates_bytes_per_s: Mapping[TaskId, float | None],
) -> Table:
    """Return a row for each task with its stage and how far it has come.

    Args:
        tasks: The tasks.
        now_s: World instant.
        width: Columns of the terminal; on a narrow one names are left out.
        rates_bytes_per_s: How fast each fetches, by its id.
    """
    has_names = width >= WIDE_COLUMNS
    rows = []
    for task in tasks:
        rate = rates_bytes_per_s.get(task.task_id)
        rows.append(
            (
                task.task_id,
                *([shortened(task.spec.name)] if has_names else []),
                task.state.value,
                task.site_id or NOTHING,
                progress(task, now_s=now_s, rate_bytes_per_s=rate),
            )
        )
    names = ("NAME",) if has_names else ()
    return Table(("ID", *names, "STATE", "SITE", "PROGRESS"), tuple(rows))


def shortened(text: str, chars: int = NAME_CHARS) -> str:
    """Return a text of at most `chars` characters, which leaves room for what stands beside it."""
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def progress(task: Task, *, now_s: float, rate_bytes_per_s: float | None = None) -> str:
    """Return how far a task has come in its stage: a bar where that is a share, and words."""
    if task.state is TaskState.STAGING and task.fetch_bytes:
        ratio = task.fetched_bytes / task.fetch_bytes
        return f"{bar(ratio, BAR_WIDTH)} {_fetching(task, rate_bytes_per_s)}"
    if (run := forecast(task, now_s=now_s)) is not None:
        return f"{bar(run.done_ratio, BAR_WIDTH)} {_running(run)}"
    if task.state is TaskState.RUNNING and task.started_s is not None:
        return f"for {duration(max(0.0, now_s - task.started_s))}"
    if task.state.is_terminal:
        return task.message
    start_s = start_of(task)
    if start_s is None or start_s <= now_s:
        return f"{task.reason.value}, for {duration(max(0.0, now_s - task.submitted_s))}"
    return f"{task.reason.value}, starts {relative(start_s, now_s)}"


def start_of(task: Task) -> float | None:
    """Return the world instant at which a task started, or is expected to; None where unknown.

    What waits starts at the instant that it waits for; what was awarded, when its offer says; what
    is still negotiated has no offer yet.
    """
    if task.report is not None:  # what began to start and never ran has no start in its report
        return task.report.started_s
    if task.state.is_terminal or task.started_s is not None:
        return task.started_s
    if task.state is TaskState.QUEUED:
        return None
    return task.wake_s if task.bid is None else task.bid.start_s


def end_of(task: Task, *, now_s: float) -> tuple[float, float] | None:
    """Return the world instants, p50 and p90, at which a task is expected to end; None: unknown."""
    if (run := forecast(task, now_s=now_s)) is not None:
        return now_s + run.remaining.p50_s, now_s + run.remaining.p90_s
    if task.bid is None or task.state.is_terminal or task.state is TaskState.QUEUED:
        return None
    late_s = overdue_s(task, now_s=now_s)
    return task.bid.p50_finish_s + late_s, task.bid.p90_finish_s + late_s


def overdue_s(task: Task, *, now_s: float) -> float:
    """Return by how much a task that has not started is behind the start of its offer, seconds."""
    start_s = None if task.started_s is not None else start_of(task)
    late_s = 0.0 if start_s is None or task.state.is_terminal else now_s - start_s
    return late_s if late_s >= DUE_S else 0.0


def overrun(task: Task, *, now_s: float) -> str:
    """Return how a run that is longer than predicted compares; empty for any other task.

    Of what lies beyond its prediction little is known: the expected end moves on with the clock.
    """
    run = forecast(task, now_s=now_s)
    if run is None or run.elapsed_s <= run.predicted.p90_s:
        return ""
    predicted = interval(run.predicted.p50_s, run.predicted.p90_s)
    return f"it has run for {duration(run.elapsed_s)}, predicted were {predicted} (p50-p90)"


def change(task: Task) -> str:
    """Return in one line where a task stands, for a reader without a terminal."""
    words = f"{task.task_id}  {task.state.value}  {task.reason.value}"
    if task.site_id is not None:
        words += f"  at {task.site_id}"
    if task.state is TaskState.STAGING and task.fetch_bytes:
        words += f"  {size(task.fetched_bytes)} of {size(task.fetch_bytes)}"
    predicted = run_time_of(task)
    if task.state is TaskState.RUNNING and predicted is not None:
        words += f"  predicted {interval(predicted.p50_s, predicted.p90_s)} (p50-p90)"
    return words


def _fetching(task: Task, rate_bytes_per_s: float | None) -> str:
    words = f"{size(task.fetched_bytes)} of {size(task.fetch_bytes)}"
    return words if not rate_bytes_per_s else f"{words}, {size(rate_bytes_per_s)}/s"


def _running(run: RunForecast) -> str:
    """Return elapsed, predicted and remaining time, all in one unit: they are to be compared."""
    (elapsed, *ends), unit = in_one_unit(
        run.elapsed_s,
        *(run.predicted.p50_s, run.predicted.p90_s),
        *(run.remaining.p50_s, run.remaining.p90_s),
        like_s=max(run.elapsed_s, run.predicted.p90_s),
    )
    is_over = run.elapsed_s > run.predicted.p90_s
    if is_over and ends[0] == "0":  # far over: each in the unit that suits it
        predicted = interval(run.predicted.p50_s, run.predicted.p90_s)
        left = interval(run.remaining.p50_s, run.remaining.p90_s)
        return f"{duration(run.elapsed_s)} of {predicted} (over), {left} left"
    return (
        f"{elapsed} of {span(ends[0], ends[1])} {unit}{' (over)' if is_over else ''}, "
        f"{span(ends[2], ends[3])} left"
    )
