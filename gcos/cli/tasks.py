"""`gcos plan|submit|queue|status|logs|wait|cancel`."""

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer

from gcos.cli import plan_table, refusal_table, task_tables
from gcos.cli.completion import complete_task_ids
from gcos.cli.explain import show
from gcos.cli.following import followed
from gcos.cli.invocation import ExitCode, Format
from gcos.cli.log_lines import LineReader
from gcos.cli.quantities import clock, counted, duration
from gcos.cli.session import Session, command
from gcos.cli.spans import span_s
from gcos.client import Client
from gcos.client_records import (
    Cancellation,
    ExplainedSubmission,
    Explanation,
    LogPiece,
    Unreachable,
)
from gcos.document import DOCUMENT_BYTES_MAX, Mapping, clipped, parse_tree
from gcos.errors import GcosError, InvalidRequestError, NotEndedError, TooLargeError
from gcos.ids import RunId, TaskId
from gcos.task_record import Task
from gcos.tasks import TaskState

STDIN: Final = "-"
#: Protocol seconds that `submit --explain` waits for the first offers.
DECISION_S: Final = 15.0

task_commands = typer.Typer()

FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="Task document, YAML or JSON; - reads stdin.")
]
TaskArgument = Annotated[
    str, typer.Argument(metavar="ID", help="Task id.", autocompletion=complete_task_ids)
]
TasksArgument = Annotated[
    list[str], typer.Argument(metavar="ID...", help="Task ids.", autocompletion=complete_task_ids)
]


@command(task_commands, "plan")
async def plan(session: Session, file: FileArgument) -> int:
    """Show where and when a task would run, and at what cost. Changes nothing.

    Exit codes:
      0  there is a plan, even one without any offer
      2  the document is wrong
      3  the cluster cannot be reached

    Example:
      gcos plan job.yaml
    """
    document = await asyncio.to_thread(read_document, file)
    directory = None if file == STDIN else Path(file).parent
    async with session.connect() as client:
        with session.out.progress("asking the sites for offers"):
            found = await client.plan(document, directory=directory)
            now_s = await client.world_now_s()
    if session.out.is_record:
        session.out.record(found)
    elif session.out.is_names:
        session.out.lines([found.chosen_site_id] if found.chosen_site_id else [])
    else:
        has_deadline = _has_deadline(document)
        if found.bids:
            session.out.table(plan_table.offers(found, now_s=now_s, has_deadline=has_deadline))
        else:
            session.out.line("no site offers to run this task")
        if found.refusals:
            session.out.line("")
            session.out.table(refusal_table.refusals(found.refusals))
            session.out.prose(refusal_table.next_steps(found.refusals))
        if found.changes:
            session.out.line("")
            session.out.table(plan_table.changes(found, now_s=now_s))
        session.out.line("")
        session.out.prose(plan_table.footnotes(found))
    return ExitCode.OK


@command(task_commands, "submit")
async def submit(
    session: Session,
    file: FileArgument,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end; exit with 1 unless it succeeds.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Tell who offered what, once it is decided who runs it."),
    ] = False,
    request_id: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Same id, same task: makes a repeat safe."),
    ] = None,
) -> int:
    """Hand a task in. When this returns, the task survives the death of the agent.

    Exit codes:
      0  it was taken, and with --wait it succeeded
      1  with --wait: it failed, was cancelled or rejected
      2  the document is wrong, or the queue is full
      3  the cluster cannot be reached

    Example:
      gcos submit job.yaml --wait
      gcos submit job.yaml --explain
      gcos submit - --request-id nightly-7 < job.yaml
    """
    document = await asyncio.to_thread(read_document, file)
    code = ExitCode.OK
    async with session.connect() as client:
        directory = None if file == STDIN else Path(file).parent
        submission = await client.submit(document, request_id, directory=directory)
        task = submission.task
        if not session.out.is_record:
            session.out.line(task.task_id)
        if submission.is_repeat:
            session.out.say("the request id was known: this is the earlier task")
        else:
            session.out.say(f"taken by {task.origin} ({submission.durability})")
        if wait:
            with _saying_that_tasks_go_on(session):
                (task,) = await followed(client, [task], session.out)
            session.out.say(f"{task.state.value}: {task.message}")
            _say_next_steps(session, [task])
            code = _code([task])
        elif not explain:
            session.out.say(f"next: gcos status {task.task_id}")
        submission = replace(submission, task=task)
        if explain:
            with session.out.progress("waiting for the offers"):
                told = await _decided(client, task)
            submission = replace(submission, task=told.task)
            now_s = await client.world_now_s()
    if explain and session.out.is_record:
        session.out.record(ExplainedSubmission(submission, told))
    elif session.out.is_record:
        session.out.record(submission)
    elif explain and not session.out.is_names:
        show(told, session.out, now_s=now_s)
    return code


async def _decided(client: Client, task: Task) -> Explanation:
    """Return the explanation once an announcement was answered, or as it is after a while."""
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(DECISION_S),
            contextlib.aclosing(client.watch(task.task_id)) as changes,
        ):
            async for seen in changes:
                if seen.auction_count:
                    break
    return await client.explain(task.task_id)


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
    if session.out.is_record:
        session.out.record(found)
    elif session.out.is_names:
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
    if session.out.is_record:
        session.out.record(task)
    elif session.out.is_names:
        session.out.line(task.task_id)
    else:
        session.out.table(task_tables.details(task, now_s=now_s))
        if tail := task_tables.log_tail(task) or task_tables.heard_tail(task, now_s=now_s):
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

    Where its site does not answer, print the last lines that were heard from it, and say so on
    stderr. With -f, go on when it is back, or at the site of the next attempt.

    With -o json each line is an object: run_id, offset_bytes, text, and where it was heard before
    the site fell silent: heard_s, site_id.

    Example:
      gcos logs de-4k2m9x7q1v5tz -f
      gcos logs de-4k2m9x7q1v5tz -o json
    """
    out = session.out
    if out.format in {Format.YAML, Format.NAME} or out.is_quiet:
        option = "-q" if out.is_quiet else f"-o {out.format.value}"
        raise InvalidRequestError(
            f"{option} makes no sense here: a log is the bytes of a job",
            field="quiet" if out.is_quiet else "output",
            hint="leave it out, or take -o json for lines with their places; ids: gcos queue -q",
        )
    reader = LineReader()
    async with (
        session.connect() as client,
        contextlib.aclosing(client.log_pieces(TaskId(task_id), follow=follow)) as pieces,
    ):
        warned: RunId | None = None
        async for piece in pieces:
            if piece.heard_s is not None and piece.run_id != warned:
                _warn_of_hearsay(session, piece, piece.heard_s, follow=follow)
            warned = None if piece.heard_s is None else piece.run_id
            if out.is_record:
                out.records(reader.take(piece))
            else:
                sys.stdout.buffer.write(piece.data)
                sys.stdout.buffer.flush()
        out.records(reader.end())
    return ExitCode.OK


@command(task_commands, "wait")
async def wait(
    session: Session,
    task_ids: TasksArgument,
    time_limit: Annotated[
        str | None,
        typer.Option(
            "--timeout",
            metavar="SPAN",
            help="Wait no longer than this on the wall: 90s, 10m, 2h.",
        ),
    ] = None,
) -> int:
    """Wait until tasks have ended, and show how far they have come.

    Exit codes:
      0    all of them succeeded
      1    one failed, was cancelled or rejected
      2    one of them is unknown
      3    the cluster cannot be reached
      124  one has not ended within --timeout; it goes on

    Example:
      gcos wait de-4k2m9x7q1v5tz && echo done
      gcos wait $(gcos queue -q) --timeout 10m
    """
    timeout_s = None if time_limit is None else span_s(time_limit, option="--timeout")
    async with session.connect() as client:
        begun = [await client.task(TaskId(task_id)) for task_id in dict.fromkeys(task_ids)]
        with _saying_that_tasks_go_on(session):
            tasks = await followed(client, begun, session.out, timeout_s=timeout_s)
    if session.out.is_record:
        session.out.record(tasks)
    elif session.out.is_names:
        session.out.lines(task.task_id for task in tasks)
    else:
        session.out.table(task_tables.ends(tasks))
        _say_next_steps(session, tasks)
    going_on = sum(not task.state.is_terminal for task in tasks)
    if going_on:
        raise NotEndedError(
            f"{going_on} of {counted(len(tasks), 'task')} not ended within {duration(timeout_s)}",
            hint="they go on: see gcos queue, or wait again",
        )
    return _code(tasks)


@command(task_commands, "cancel")
async def cancel(session: Session, task_ids: TasksArgument) -> int:
    """End tasks; those that have ended already stay as they are.

    Exit codes:
      0  none of them goes on
      2  one of them is unknown; the others were cancelled
      3  the cluster cannot be reached

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
    if session.out.is_record:
        session.out.record(cancellations)
    elif session.out.is_names:
        session.out.lines(each.task.task_id for each in cancellations)
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
        raise InvalidRequestError(
            f"{clipped(file)} cannot be read: {reason}", hint="give the path of a task document"
        ) from exc
    if len(document) > DOCUMENT_BYTES_MAX:
        raise TooLargeError(
            f"{file} has more than {DOCUMENT_BYTES_MAX // 1024} KiB",
            hint="put data into artifacts; a task document only describes the work",
        )
    return document


def warn_of(session: Session, unreachable: tuple[Unreachable, ...], loss: str) -> None:
    """Tell on stderr which sites did not answer, and what is missing therefore."""
    for each in unreachable:
        session.out.warn(
            f"site {each.site_id} did not answer, {loss} ({each.message})",
            reason="SITE_UNREACHABLE",
            hint="see who answers: gcos sites ls",
        )


def _warn_of_hearsay(session: Session, piece: LogPiece, heard_s: float, *, follow: bool) -> None:
    """Tell that what follows is what a site had told before."""
    is_silent = piece.is_silent
    why = "which is silent" if is_silent else "which does not keep the output"
    step = f"all of it, if the site comes back: gcos logs {piece.run_id.partition('.')[0]}"
    if not is_silent:
        step = f"how it ended: gcos explain {piece.run_id.partition('.')[0]}"
    elif follow:
        step = "it goes on when the site is back, or where the next attempt runs"
    session.out.warn(
        f"last heard at {clock(heard_s)} from {piece.site_id}, {why}; its last lines:",
        reason="SITE_SILENT" if is_silent else "OUTPUT_NOT_KEPT",
        hint=step,
    )


@contextlib.contextmanager
def _saying_that_tasks_go_on(session: Session) -> Iterator[None]:
    try:
        yield
    except asyncio.CancelledError:  # Ctrl-C
        session.out.say("stopped waiting; the task goes on: gcos queue")
        raise


def _say_next_steps(session: Session, tasks: Sequence[Task]) -> None:
    """Tell what may be done about each task that has ended in another way than was wished."""
    for task in tasks:
        if (step := refusal_table.step_after(task)) is not None:
            session.out.say(f"next: {step}")


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
