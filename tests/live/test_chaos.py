"""Real processes, killed with SIGKILL, seen through the public face only."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gcos.client import Client
from gcos.errors import UnavailableError
from gcos.ids import TaskId
from gcos.task_events import TaskEvent
from gcos.task_record import Task
from gcos.tasks import Reason, TaskState

pytestmark = pytest.mark.live

PATIENCE_S = 60.0


def document(trace: Path, work: str, **more: Any) -> str:
    """A job that writes when it starts and when it ends, each line with its run."""
    line = f'echo "$1 $GCOS_SITE $GCOS_RUN_ID" >> {trace}'
    command = f"mark() {{ {line}; }}; mark start; {work}; mark end"
    return json.dumps(
        {"apiVersion": "gcos/v1", "kind": "Task", "name": trace.name, "run": command, **more}
    )


def hanging_once(mark: Path) -> str:
    """A command that hangs in its first run; in the next it fails if that one still executes."""
    is_gone = f"! kill -0 $(cat {mark}) 2> /dev/null"
    return f"if test -e {mark}; then {is_gone}; else echo $$ > {mark}; sleep 600; fi"


def alone(mark: Path) -> str:
    """A command that says where a run of the same job before this one still executes."""
    is_there = f"test -e {mark} && kill -0 $(cat {mark}) 2> /dev/null"
    return f"if {is_there}; then mark twice; fi; echo $$ > {mark}; sleep 1"


async def appears(path: Path) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not path.exists():
            await asyncio.sleep(0.05)


def lines_of(trace: Path) -> list[list[str]]:
    if not trace.exists():
        return []
    return [line.split() for line in trace.read_text().splitlines()]


async def until(client: Client, task_id: TaskId, is_so: Callable[[Task], bool]) -> Task:
    async with asyncio.timeout(PATIENCE_S):
        async for task in client.watch(task_id):
            if is_so(task):
                return task
    raise AssertionError("the task ended first")


async def test_a_job_whose_agent_dies_finishes_elsewhere(
    live: Any, client: Client, tmp_path: Path
) -> None:
    trace = tmp_path / "elsewhere"
    first = tmp_path / "first"
    spec = document(
        trace, f"{{ {hanging_once(first)}; }} || exit 3", placement={"allow": ["on", "de"]}
    )
    task_id = (await client.submit(spec)).task.task_id
    running = await until(client, task_id, lambda task: task.state is TaskState.RUNNING)
    await appears(first)
    live.kill(running.site_id)
    try:
        ended = await client.wait(task_id, timeout_s=PATIENCE_S)
    finally:
        live.restart(running.site_id)
    assert ended.state is TaskState.SUCCEEDED
    assert ended.report.site_id != running.site_id
    assert ended.failure_count == 1
    start, again, end = lines_of(trace)
    assert (start[0], again[0], end[0]) == ("start", "start", "end")
    assert start[2] != again[2]


async def test_a_job_whose_agent_restarts_in_time_is_adopted(
    live: Any, client: Client, tmp_path: Path
) -> None:
    trace = tmp_path / "adopted"
    task_id = (
        await client.submit(document(trace, "sleep 5", placement={"allow": ["de"]}))
    ).task.task_id
    await until(client, task_id, lambda task: task.state is TaskState.RUNNING)
    live.kill("de")
    live.restart("de")
    ended = await client.wait(task_id, timeout_s=PATIENCE_S)
    assert (ended.state, ended.reason) == (TaskState.SUCCEEDED, Reason.EXITED_ZERO)
    states = [line[0] for line in lines_of(trace)]
    assert states.count("end") == 1
    # A slow machine may let the lease run out first; then it was stopped and ran again.
    assert states == ["start", "end"] or ended.failure_count == 1


async def test_an_origin_that_dies_loses_nothing_it_acknowledged(
    live: Any, client: Client, tmp_path: Path
) -> None:
    traces = [tmp_path / f"kept{i}" for i in range(6)]
    specs = [document(trace, alone(trace.with_suffix(".pid"))) for trace in traces]
    submitted = [
        (await client.submit(spec, request_id=trace.name)).task.task_id
        for spec, trace in zip(specs, traces, strict=True)
    ]
    live.kill("cal")
    live.restart("cal")
    for task_id, spec, trace in zip(submitted, specs, traces, strict=True):
        ended = await client.wait(task_id, timeout_s=PATIENCE_S)
        assert ended.state is TaskState.SUCCEEDED
        # A slow machine may let a lease run out first: that run was stopped before the next began.
        states = [line[0] for line in lines_of(trace)]
        assert "twice" not in states
        assert states[-1] == "end"
        again = await client.submit(spec, request_id=trace.name)
        assert again.is_repeat
        assert again.task.task_id == task_id


async def test_a_job_goes_on_while_its_origin_is_dead_and_counts_afterwards(
    live: Any, client: Client, tmp_path: Path
) -> None:
    trace = tmp_path / "orphan"
    may_end = tmp_path / "may-end"
    spec = document(
        trace,
        f"until test -e {may_end}; do sleep 0.05; done",
        placement={"allow": ["de"]},
    )
    task_id = (await client.submit(spec)).task.task_id
    await until(client, task_id, lambda task: task.state is TaskState.RUNNING)
    live.kill("cal")
    may_end.touch()
    async with asyncio.timeout(PATIENCE_S):
        while "end" not in [line[0] for line in lines_of(trace)]:
            await asyncio.sleep(0.05)
    live.restart("cal")
    ended = await client.wait(task_id, timeout_s=PATIENCE_S)
    assert ended.state is TaskState.SUCCEEDED
    assert ended.fence.attempt == 1


async def test_a_followed_log_goes_on_with_the_next_attempt(
    live: Any, client: Client, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    spec = json.dumps(
        {
            "apiVersion": "gcos/v1",
            "kind": "Task",
            "run": f"echo at $GCOS_SITE; {hanging_once(first)}; echo end",
            "placement": {"allow": ["on", "de"]},
        }
    )
    task_id = (await client.submit(spec)).task.task_id
    running = await until(client, task_id, lambda task: task.state is TaskState.RUNNING)
    seen = b""
    async with asyncio.timeout(PATIENCE_S):
        async for piece in client.log(task_id, follow=True):
            seen += piece
            if seen.count(b"at ") == 1 and b"end" not in seen and not live.killed:
                await appears(first)
                live.kill(running.site_id)
                live.killed = True
    live.restart(running.site_id)
    lines = seen.decode().split("\n")
    assert lines[0] == f"at {running.site_id}"
    assert lines[-2] == "end"
    assert sum(line.startswith("at ") for line in lines) == 2


async def test_a_dead_site_s_last_words_are_told_until_it_is_tried_again(
    live: Any, client: Client, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    command = f"echo words of $GCOS_RUN_ID; {hanging_once(first)}"
    spec = {"apiVersion": "gcos/v1", "kind": "Task", "run": command, "placement": {"allow": ["de"]}}
    task_id = (await client.submit(json.dumps(spec))).task.task_id
    await until(client, task_id, lambda task: task.state is TaskState.RUNNING)
    async with asyncio.timeout(PATIENCE_S):
        while (heard := (await client.task(task_id)).tail) is None:
            await asyncio.sleep(0.1)
    run_id = heard.run_id
    words = f"words of {run_id}\n"
    await appears(first)
    assert heard.tail.text == words
    (found,) = live.directory.glob(f"sites/de/**/runs/{run_id}/supervisor.json")
    live.kill("de")
    os.kill(json.loads(found.read_text())["pid"], signal.SIGKILL)
    try:
        pieces = [piece async for piece in client.log_pieces(task_id)]
        assert [(piece.data, piece.site_id, piece.is_silent) for piece in pieces] == [
            (words.encode(), "de", True)
        ]
        async with asyncio.timeout(PATIENCE_S):
            while not (lost := [e for e in await _events(client, task_id) if e.tail is not None]):
                await asyncio.sleep(0.1)
        assert [(event.kind, event.tail.tail.text) for event in lost] == [("lease_expired", words)]
        followed = client.log_pieces(task_id, follow=True)
        told = await anext(followed)
        assert (told.data, told.is_silent) == (words.encode(), True)
    finally:
        live.restart("de")
    async with asyncio.timeout(PATIENCE_S):
        rest = [piece async for piece in followed if piece.run_id != run_id]
    assert b"".join(piece.data for piece in rest) == f"words of {rest[0].run_id}\n".encode()
    assert all(piece.heard_s is None for piece in rest)


async def _events(client: Client, task_id: TaskId) -> tuple[TaskEvent, ...]:
    return (await client.explain(task_id)).events


async def test_broker_and_predictor_may_die(live: Any, client: Client, tmp_path: Path) -> None:
    """I10: what is known goes on being used, and snapshot or prior predict."""
    for name in ("broker", "predictor"):
        process = live.process(name)
        os.kill(process.pid, signal.SIGKILL)
        os.waitpid(process.pid, 0)
    trace = tmp_path / "alone"
    task_id = (
        await client.submit(document(trace, "sleep 0.2", placement={"allow": ["de"]}))
    ).task.task_id
    ended = await client.wait(task_id, timeout_s=PATIENCE_S)
    assert ended.state is TaskState.SUCCEEDED
    assert ended.predictions[0].source.value in {"SNAPSHOT", "PRIOR"}


async def test_an_origin_that_knows_nobody_refuses_for_now_and_rejects_nothing(
    live: Any, client: Client, tmp_path: Path
) -> None:
    """The broker is dead since the test before; a restarted origin knows itself only."""
    live.kill("cal")
    live.restart("cal")
    spec = document(tmp_path / "unknown", "true", placement={"allow": ["de"]})
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await client.submit(spec)
            except UnavailableError as exc:
                if "not every site may be known" in exc.message:
                    break
            await asyncio.sleep(0.1)
