"""What the cores write, as rows of the store; and back when the agent starts.

table `tasks`    task id    Task          log `events`  task id    TaskEvent
table `runs`     run id     HeldRun
table `ledger`   run id     LedgerEntry
"""

from collections.abc import Iterable, Mapping

from gcos import codec
from gcos.ids import RunId, TaskId
from gcos.ledger import LedgerEntry
from gcos.store import Append, Delete, Put, Store
from gcos.store import Write as Row
from gcos.task_events import TaskEvent
from gcos.task_record import Task
from site_agent.effects import AddEntry, ForgetRun, SaveRun, SaveTask, Write
from site_agent.held_run import HeldRun

TASKS = "tasks"
RUNS = "runs"
LEDGER = "ledger"
EVENTS = "events"


def row_of(write: Write) -> Row:
    """Return the row that a core's write becomes."""
    if isinstance(write, SaveTask):
        return Put(TASKS, write.task.task_id, codec.encode(write.task))
    if isinstance(write, SaveRun):
        return Put(RUNS, write.run.run_id, codec.encode(write.run))
    if isinstance(write, ForgetRun):
        return Delete(RUNS, write.run_id)
    if isinstance(write, AddEntry):
        return Put(LEDGER, write.entry.run_id, codec.encode(write.entry))
    return Append(EVENTS, write.task_id, codec.encode(write.event))


def rows_of(writes: Iterable[Write]) -> list[Row]:
    """Return the rows of several writes, in order."""
    return [row_of(write) for write in writes]


async def load_tasks(store: Store) -> list[Task]:
    """Return every task that the journal knows."""
    return [codec.decode(Task, data) for data in (await store.load(TASKS)).values()]


async def load_runs(store: Store) -> Mapping[RunId, HeldRun]:
    """Return every run whose report was not answered."""
    rows = await store.load(RUNS)
    return {RunId(key): codec.decode(HeldRun, data) for key, data in rows.items()}


async def load_ledger(store: Store) -> list[LedgerEntry]:
    """Return every ledger entry, by the end of the run."""
    entries = [codec.decode(LedgerEntry, data) for data in (await store.load(LEDGER)).values()]
    return sorted(entries, key=lambda entry: (entry.ended_s, entry.run_id))


async def load_events(store: Store, task_id: TaskId) -> tuple[TaskEvent, ...]:
    """Return what happened to a task, oldest first."""
    entries = await store.read_log(EVENTS, task_id)
    return tuple(codec.decode(TaskEvent, entry.value) for entry in entries)
