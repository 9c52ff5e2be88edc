"""The examples in Python run, each in a process of its own, and print what stands beside them.

After a change of an example: GCOS_WRITE_EXAMPLES=1 pytest tests/gcos/test_examples.py
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gcos.client_records import TaskHistory
from gcos.ids import TaskId
from gcos.rpc.wire import to_proto
from gcos.spec import parse_document
from gcos.task_events import TaskEvent
from gcos.v1 import tasks_pb2
from testbed import samples
from testbed.fakes import FAKE_TOKEN, FakeAgent

EXAMPLES = Path(__file__).parents[2] / "examples"
TIMEOUT_S = 60.0


class RunsAtOnce(FakeAgent):
    """An agent whose tasks run and end while they are watched."""

    async def WatchTask(
        self, request: tasks_pb2.WatchTaskRequest, context: Any
    ) -> AsyncIterator[tasks_pb2.WatchTaskResponse]:
        task = self._task(request.task_id)
        ended = task if task.state.is_terminal else samples.ended(task)
        for each in (task, samples.running(task), ended):
            yield tasks_pb2.WatchTaskResponse(task=to_proto(each, tasks_pb2.Task))
        self.tasks[TaskId(request.task_id)] = ended

    async def ReadResults(
        self, request: tasks_pb2.ReadResultsRequest, context: Any
    ) -> AsyncIterator[tasks_pb2.ReadResultsResponse]:
        yield tasks_pb2.ReadResultsResponse(path="when.txt", size_bytes=4, data=b"now\n")

    async def ExplainTask(
        self, request: tasks_pb2.ExplainTaskRequest, context: Any
    ) -> tasks_pb2.ExplainTaskResponse:
        task = self._task(request.task_id)
        events = (
            TaskEvent(task.submitted_s, "task_submitted", "taken by de"),
            TaskEvent(samples.NOW_S, "task_awarded", "to de", site_id=samples.DE, attempt=1),
        )
        history = TaskHistory(task, events, self.scales)
        return to_proto(history, tasks_pb2.ExplainTaskResponse)


@pytest.mark.parametrize(
    "path", sorted((EXAMPLES / "python").glob("*.py")), ids=lambda path: path.name
)
async def test_an_example_prints_what_stands_beside_it(path: Path, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(FAKE_TOKEN)
    agent = RunsAtOnce(
        plan=samples.plan_of_two(),
        log=(b"hello from de\n",),
        ledger=(samples.ledger_entry(TaskId("de-0000000000001")),),
    )
    async with agent.serving():
        environ = {
            **os.environ,
            "GCOS_AGENT": agent.address,
            "GCOS_TOKEN_FILE": str(token_file),
            "GCOS_HOME": str(tmp_path),
            "PYTHONWARNINGS": "error",
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(path)),
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, err.decode()
    expected = path.with_suffix(".out")
    if os.environ.get("GCOS_WRITE_EXAMPLES"):
        expected.write_bytes(out)
    assert out.decode() == expected.read_text()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_document_is_taken_and_says_how_to_submit_it(path: Path) -> None:
    document = path.read_bytes()
    parse_document(document, submitted_s=samples.NOW_S)
    comments = [line for line in document.decode().splitlines() if line.startswith("#   ")]
    assert any(f"examples/{path.name}" in line and "gcos submit" in line for line in comments)


def test_every_python_example_comes_in_both_forms() -> None:
    names = {path.stem for path in (EXAMPLES / "python").glob("*.py")}
    assert {name for name in names if not name.endswith("_sync")} == {
        name.removesuffix("_sync") for name in names if name.endswith("_sync")
    }
