"""What is known of an attempt's output where its site does not give it. Pure."""

from gcos.ids import RunId
from gcos.log_tails import HeardTail, LogTail
from gcos.task_record import Task


def last_heard(task: Task, run_id: RunId) -> HeardTail | None:
    """Return the last lines of an attempt that its origin was told of; None where it has none.

    Those of a report are placed at the beginning of the output: it does not say where they lie.
    """
    report = task.report
    if report is not None and report.run_id == run_id:
        tail = LogTail(0, len(report.log_tail.encode()), report.log_tail)
        return HeardTail(run_id, report.site_id, report.ended_s, tail)
    return task.tail if task.tail is not None and task.tail.run_id == run_id else None


def since(tail: LogTail, offset: int) -> tuple[int, bytes]:
    """Return what a tail has of the output from byte `offset` on, and where that begins."""
    begin_bytes = max(tail.offset_bytes, min(offset, tail.end_bytes))
    return begin_bytes, tail.text.encode()[begin_bytes - tail.offset_bytes :]
