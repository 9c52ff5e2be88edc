"""`gcos plan|submit|queue|status|logs|wait|cancel`."""

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer

from gcos.cli import plan_table, task_tables
from gcos.cli.invocation import ExitCode
from gcos.cli.output import Progress
from gcos.cli.session import Session, command
from gcos.client import Client
from gcos.client_records import Cancellation, Unreachable
from gcos.document import DOCUMENT_BYTES_MAX, Mapping, parse_tree
from gcos.errors import GcosError, InvalidRequestError, TooLargeError
from gcos.ids import TaskId
from gcos.task_record import Task
from gcos.tasks import TaskState

STDIN: Final = "-"

task_commands = typer.Typer()

FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="Task document, YAML or JSON; - reads stdin.")
]
TaskArgument = Annotated[str, typer.Argument(metavar="ID", help="Task id.")]
TasksArgument = Annotated[list[str], typer.Argument(metavar="ID...", help="Task ids.")]


@command(task_commands, "plan")
async def plan(session: Session, file: FileArgument) -> int:
    """Show where and when a task would run, and at what cost. Changes nothing.

    Example:
      gcos plan job.yaml
    """
    document = await asyncio.to_thread(read_document, file)
    async with session.connect() as client:
        with session.out.progress("asking the sites for offers"):
            found = await client.plan(document)
            now_s = await client.world_now_s()
    if session.is_json:
        session.out.json(found)
    elif session.out.is_quiet:
        session.out.lines([found.chosen_site_id] if found.chosen_site_id else [])
    else:
        has_deadline = _has_deadline(document)
        if found.bids:
            session.out.table(plan_table.offers(found, now_s=now_s, has_deadline=has_deadline))
        else:
            session.out.line("no site offers to run this task")
        if found.refusals:
            session.out.line("")
            session.out.table(plan_table.refusals(found))
        session.out.line("")
        session.out.lines(plan_table.footnotes(found))
    return ExitCode.OK


@command(task_commands, "submit")
async def submit(
    session: Session,
    file: FileArgument,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end; exit with 1 unless it succeeds.")
    ] = False,
    request_id: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Same id, same task: makes a repeat safe."),
    ] = None,
) -> int:
    """Hand a task in. When this returns, the task survives the death of the agent.

    Example:
      gcos submit job.yaml --wait
      gcos submit - --request-id nightly-7 < job.yaml
    """
    document = await asyncio.to_thread(read_document, file)
    code = ExitCode.OK
    async with session.connect() as client:
        submission = await client.submit(document, request_id)
        task = submission.task
        if not session.is_json:
            session.out.line(task.task_id)
        if submission.is_repeat:
            session.out.say("the request id was known: this is the earlier task")
        else:
            session.out.say(f"taken by {task.origin} ({submission.durability})")
        if wait:
            with (
                _saying_that_tasks_go_on(session),
                session.out.progress(task_tables.change(task)) as progress,
            ):
                task = await _followed(client, task.task_id, progress)
            session.out.say(f"{task.state.value}: {task.message}")
            code = _code([task])
        else:
            session.out.say(f"next: gcos status {task.task_id}")
    if session.is_json:
        session.out.json(replace(submission, task=task))
    return code


@command(task_commands, "queue")
async def queue(
    session: Session,
    everything: Annotated[bool, typer.Option("--all", help="Also tasks that have ended.")] = False,
) -> int:
    """List the tasks of all sites, newest first; those that have ended only with --all.

    Example:
      gcos queue --all -o json
    """
    async with session.connect() as client:
        found = await client.tasks(only_active=not everything)
        now_s = await client.world_now_s()
    warn_of(session, found.unreachable, "its tasks are missing here")
    if session.is_json:
        session.out.json(found)
    elif session.out.is_quiet:
        session.out.lines(task.task_id for task in found.items)
    elif found.items:
        session.out.table(task_tables.queue(found.items, now_s=now_s))
    else:
        session.out.say("no tasks" if everything else "no active tasks; see: gcos queue --all")
    return ExitCode.OK


@command(task_commands, "status")
async def status(session: Session, task_id: TaskArgument) -> int:
    """Show all that is known of a task.

    Example:
      gcos status de-4k2m9x7q1v5tz
    """
    async with session.connect() as client:
        task = await client.task(TaskId(task_id))
        now_s = await client.world_now_s()
    if session.is_json:
        session.out.json(task)
    elif session.out.is_quiet:
        session.out.line(task.task_id)
    else:
        session.out.table(task_tables.details(task, now_s=now_s))
        if tail := task_tables.log_tail(task):
            session.out.line("")
            session.out.lines(tail)
    return ExitCode.OK


@command(task_commands, "logs")
async def logs(
    session: Session,
    task_id: TaskArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the attempt has ended.")
    ] = False,
) -> int:
    """Print the output of a task's latest attempt, byte for byte.

    Example:
      gcos logs de-4k2m9x7q1v5tz -f
    """
    async with (
        session.connect() as client,
        contextlib.aclosing(client.log(TaskId(task_id), follow=follow)) as pieces,
    ):
        async for piece in pieces:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    return ExitCode.OK


@command(task_commands, "wait")
async def wait(session: Session, task_ids: TasksArgument) -> int:
    """Wait until tasks have ended; exit with 1 unless all of them succeeded.

    Example:
      gcos wait de-4k2m9x7q1v5tz && echo done
    """
    ids = [TaskId(task_id) for task_id in dict.fromkeys(task_ids)]
    ended: dict[TaskId, Task] = {}
    async with session.connect() as client:
        with (
            _saying_that_tasks_go_on(session),
            session.out.progress(f"waiting for {len(ids)} tasks") as progress,
        ):

            async def follow(task_id: TaskId) -> None:
                ended[task_id] = await _followed(client, task_id, progress)

            async with asyncio.TaskGroup() as group:
                for task_id in ids:
                    group.create_task(follow(task_id))
    tasks = [ended[task_id] for task_id in ids]
    if session.is_json:
        session.out.json(tasks)
    elif not session.out.is_quiet:
        session.out.table(task_tables.ends(tasks))
    return _code(tasks)


@command(task_commands, "cancel")
async def cancel(session: Session, task_ids: TasksArgument) -> int:
    """End tasks; those that have ended already stay as they are.

    Example:
      gcos cancel de-4k2m9x7q1v5tz
    """
    cancellations: list[Cancellation] = []
    failures: list[GcosError] = []
    async with session.connect() as client:
        for task_id in dict.fromkeys(task_ids):
            try:
                cancellations.append(await client.cancel(TaskId(task_id)))
            except GcosError as exc:  # the others are to be cancelled all the same
                failures.append(exc)
    if session.is_json:
        session.out.json(cancellations)
    elif session.out.is_quiet:
        session.out.lines(each.task.task_id for each in cancellations if each.is_cancelled)
    else:
        session.out.lines(_cancelled(each) for each in cancellations)
    if failures:
        raise ExceptionGroup("some tasks were not cancelled", failures)
    return ExitCode.OK


def read_document(file: str) -> bytes:
    """Return the bytes of a task document; `-` reads standard input.

    Raises:
        InvalidRequestError: There is no such file, or it cannot be read.
        TooLargeError: It is larger than a task document may be.
    """
    try:
        if file == STDIN:
            document = sys.stdin.buffer.read(DOCUMENT_BYTES_MAX + 1)
        else:
            with Path(file).open("rb") as stream:
                document = stream.read(DOCUMENT_BYTES_MAX + 1)
    except FileNotFoundError as exc:
        raise InvalidRequestError(
            f"there is no file {file}", hint="give the path of a task document, or - for stdin"
        ) from exc
    except IsADirectoryError as exc:
        raise InvalidRequestError(
            f"{file} is a directory", hint="give the path of a task document"
        ) from exc
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise InvalidRequestError(f"{file} cannot be read: {reason}") from exc
    if len(document) > DOCUMENT_BYTES_MAX:
        raise TooLargeError(
            f"{file} has more than {DOCUMENT_BYTES_MAX // 1024} KiB",
            hint="put data into artifacts; a task document only describes the work",
        )
    return document


def warn_of(session: Session, unreachable: tuple[Unreachable, ...], loss: str) -> None:
    """Tell on stderr which sites did not answer, and what is missing therefore."""
    for each in unreachable:
        session.out.warn(f"site {each.site_id} did not answer, {loss} ({each.message})")


@contextlib.contextmanager
def _saying_that_tasks_go_on(session: Session) -> Iterator[None]:
    try:
        yield
    except asyncio.CancelledError:  # Ctrl-C
        session.out.say("stopped waiting; the task goes on: gcos queue")
        raise


async def _followed(client: Client, task_id: TaskId, progress: Progress) -> Task:
    """Return a task once it has ended, telling each change of its state."""
    told = ""
    async with contextlib.aclosing(client.watch(task_id)) as changes:
        async for task in changes:
            words = task_tables.change(task)
            if words != told:
                told = words
                progress.tell(words)
            if task.state.is_terminal:
                return task
    raise AssertionError("a watch ends with a terminal state or an error")


def _code(tasks: list[Task]) -> ExitCode:
    is_fine = all(task.state is TaskState.SUCCEEDED for task in tasks)
    return ExitCode.OK if is_fine else ExitCode.JOB_FAILED


def _cancelled(cancellation: Cancellation) -> str:
    task = cancellation.task
    if cancellation.is_cancelled:
        return f"{task.task_id} cancelled"
    return f"{task.task_id} had ended before: {task.state.value}"


def _has_deadline(document: bytes) -> bool:
    # A plan does not repeat the task; without a deadline no chance of meeting it is shown.
    root = parse_tree(document)
    return isinstance(root, Mapping) and "deadline" in root.values
