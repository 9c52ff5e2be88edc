"""Why a task does not run here, or did not end well, with the next step for each reason. Pure."""

from collections.abc import Iterable, Sequence
from typing import Final

from gcos.cli.output import Table
from gcos.contract_net import Refusal
from gcos.next_steps import next_step
from gcos.task_record import Task
from gcos.tasks import Reason, TaskState

#: What a person can do about a task that failed. Where it was refused everywhere, what they can do
#: about the refusals: `gcos.next_steps`.
_AFTER_FAILURE: Final = {
    Reason.EXIT_CODE: "read what it wrote: gcos logs {}",
    Reason.START_FAILED: "check `run`: the site must find the program and may execute it",
    Reason.STAGING_FAILED: "see who holds its artifacts: gcos cache ls; then submit it again",
    Reason.EXECUTOR_FAILED: "submit it again; the log of the site's agent tells more",
    Reason.SITE_LOST: "see who answers: gcos sites ls; then submit it again",
    Reason.RETRIES_SPENT: "see how each attempt ended: gcos explain {}",
    Reason.OUTPUT_MISSING: "let the run write all its `outputs` below $GCOS_OUTPUT_DIR",
    Reason.OUTPUT_REFUSED: (
        "name another place under `outputs`, or ask the operator of the site to allow this one"
        " (output_roots in the configuration of its agent); then submit it again"
    ),
    Reason.NO_CANDIDATE: "see who refuses it and why: gcos explain {}",
}


def refusals(refused: Sequence[Refusal]) -> Table:
    """Return a row for each site that does not offer."""
    return Table(
        ("SITE", "REFUSED", "WHY"),
        tuple((each.site_id, each.reason.value, each.message) for each in refused),
    )


def next_steps(refused: Iterable[Refusal]) -> list[str]:
    """Return the next step for each reason among the refusals, each once."""
    lines = (
        f"next step, {each.reason.value}: {each.hint or next_step(each.reason)}" for each in refused
    )
    return list(dict.fromkeys(lines))


def step_after(task: Task) -> str | None:
    """Return what may be done about a task that failed or was rejected; None: nothing is wrong."""
    if task.state not in {TaskState.FAILED, TaskState.REJECTED}:
        return None
    known = _AFTER_FAILURE.get(task.reason)
    return next_step(task.reason) if known is None else known.format(task.task_id)
