"""Tasks as tables. Pure."""

from collections.abc import Sequence

from gcos.accounting import CostScope
from gcos.cli.output import Table
from gcos.cli.quantities import NOTHING, duration, instant, relative, significant, size
from gcos.cli.task_progress import DUE_S, end_of, overdue_s, overrun, start_of
from gcos.log_tails import HeardTail
from gcos.task_record import Task
from gcos.tasks import Reason, TaskState

_LOG_LINES = 10


def queue(tasks: Sequence[Task], *, now_s: float) -> Table:
    """Return one row for each task."""
    return Table(
        ("ID", "NAME", "STATE", "REASON", "SITE", "SUBMITTED", "WAIT/RUN", "STARTS", "DEADLINE"),
        tuple(
            (
                task.task_id,
                task.spec.name,
                task.state.value,
                task.reason.value,
                task.site_id or NOTHING,
                instant(task.submitted_s, now_s),
                _elapsed(task, now_s),
                _starts(task, now_s),
                instant(task.spec.deadline_s, now_s),
            )
            for task in tasks
        ),
        optional=("SUBMITTED", "DEADLINE", "REASON", "NAME"),
    )


def ends(tasks: Sequence[Task]) -> Table:
    """Return how tasks ended."""
    return Table(
        ("ID", "STATE", "REASON", "SITE", ">EXIT", "MESSAGE"),
        tuple(
            (
                task.task_id,
                task.state.value,
                task.reason.value,
                task.site_id or NOTHING,
                NOTHING
                if task.report is None or task.report.exit_code is None
                else str(task.report.exit_code),
                task.message,
            )
            for task in tasks
        ),
    )


def details(task: Task, *, now_s: float) -> Table:
    """Return all that is known of a task, a row for each fact that there is."""
    spec = task.spec
    rows = [
        ("task", task.task_id),
        ("name", spec.name),
        ("state", task.state.value),
        ("reason", task.reason.value),
        ("message", task.message),
        ("origin", task.origin),
        ("site", task.site_id or NOTHING),
        ("work", spec.work.kind.value.lower().replace("_", "-")),
        ("model", spec.model or ""),
        ("data", ", ".join(spec.data)),
        ("GPUs", f"{spec.gpu.gpu_count} x {spec.gpu.type}"),
        ("project", spec.project),
        ("submitted", instant(task.submitted_s, now_s)),
        ("announced again", _optional_instant(task.wake_s, now_s)),
        ("expected start", _expected_start(task, now_s)),
        ("started", _optional_instant(start_of(task), now_s) if _has_started(task) else ""),
        ("expected end", _expected_end(task, now_s)),
        ("overrun", overrun(task, now_s=now_s)),
        ("ended", _optional_instant(task.ended_s, now_s)),
        ("deadline", _optional_instant(spec.deadline_s, now_s)),
        ("attempt", f"{task.fence.attempt}, {task.failure_count} failed or lost"),
        *_offer(task),
        *_outcome(task),
    ]
    return Table(("FACT", "VALUE"), tuple(row for row in rows if row[1]))


def log_tail(task: Task) -> list[str]:
    """Return the last lines of the output that came with the report."""
    return [] if task.report is None else last_lines(task.report.log_tail)


def last_lines(text: str) -> list[str]:
    """Return as many lines of an output as are shown beside other things."""
    return text.splitlines()[-_LOG_LINES:]


def heard_tail(task: Task, *, now_s: float) -> list[str]:
    """Return what a site last told of its run, and when, where it has fallen silent since."""
    heard = task.tail
    is_silent = task.reason is Reason.AWAITING_HOLDER or task.state in (
        TaskState.QUEUED,
        TaskState.WAITING,
        TaskState.FAILED,
    )
    if heard is None or not is_silent:
        return []
    return [heading_of(heard, now_s=now_s), *last_lines(heard.tail.text)]


def heading_of(heard: HeardTail, *, now_s: float) -> str:
    """Return what stands above the last lines that were heard of a run."""
    return f"last heard at {instant(heard.heard_s, now_s)} from {heard.site_id}, which is silent:"


def _offer(task: Task) -> list[tuple[str, str]]:
    bid = task.bid
    if bid is None or task.state.is_terminal:
        return []
    fetched = f"{size(task.fetched_bytes)} of {size(task.fetch_bytes)}" if task.fetch_bytes else ""
    return [
        ("offer of", f"{bid.site_id}, {bid.pool_type}, by {bid.actor}"),
        ("fetched", fetched),
    ]


def _outcome(task: Task) -> list[tuple[str, str]]:
    report = task.report
    if report is None:
        return []
    charge = report.charge
    how = "measured" if report.is_energy_measured else "modelled from the power of the pool"
    operator_usd = significant(charge.cost_usd(CostScope.OPERATOR))
    return [
        ("ran on", report.pool_type),
        ("run time", duration(report.run_s) if report.started_s is not None else ""),
        ("exit code", NOTHING if report.exit_code is None else str(report.exit_code)),
        ("cost", f"{operator_usd} $ as operator; GPU hours {significant(charge.gpu_usd)} $ apart"),
        ("carbon", f"{significant(charge.carbon_gco2)} g"),
        ("energy", f"{significant(charge.energy_kwh)} kWh, {how}"),
        ("moved", size(charge.transfer_bytes)),
    ]


def _elapsed(task: Task, now_s: float) -> str:
    if task.report is not None and task.report.started_s is not None:
        return f"run {duration(task.report.run_s)}"
    end_s = now_s if task.ended_s is None else task.ended_s
    if task.started_s is not None and task.report is None:
        return f"run {duration(max(0.0, end_s - task.started_s))}"
    return f"wait {duration(max(0.0, end_s - task.submitted_s))}"


def _starts(task: Task, now_s: float) -> str:
    """Return when a task that has not started is expected to, or was."""
    start_s = start_of(task)
    if start_s is None or task.state.is_terminal or task.started_s is not None:
        return NOTHING
    if 0 <= now_s - start_s < DUE_S:
        return "now"
    is_due = start_s < now_s
    return f"{'due ' if is_due else ''}{relative(start_s, now_s)}"


def _has_started(task: Task) -> bool:
    if task.report is not None:
        return task.report.started_s is not None
    return task.started_s is not None


def _expected_start(task: Task, now_s: float) -> str:
    if _has_started(task):
        return ""
    overdue = " (overdue)" if overdue_s(task, now_s=now_s) else ""
    return f"{_optional_instant(start_of(task), now_s)}{overdue}"


def _expected_end(task: Task, now_s: float) -> str:
    ends = end_of(task, now_s=now_s)
    if ends is None:
        return ""
    words = f"{instant(ends[0], now_s)} (p50); {instant(ends[1], now_s)} (p90)"
    return f"{words}, if it starts now" if overdue_s(task, now_s=now_s) else words


def _optional_instant(time_s: float | None, now_s: float) -> str:
    return "" if time_s is None else instant(time_s, now_s)
