"""A predictor dies: plans go on with what it knew, and say so."""

import asyncio
import os
import signal
from typing import Any

from gcos.client import Client
from gcos.durations import PredictionSource
from gcos.tasks import TaskState

PATIENCE_S = 60.0
SPEC = b"""{"apiVersion": "gcos/v1", "kind": "Task", "run": "true",
 "placement": {"allow": ["cal"]}, "work": {"kind": "custom"}}"""


async def test_a_plan_without_a_predictor_uses_the_snapshot_of_the_last(
    live: Any, client: Client
) -> None:
    task_id = (await client.submit(SPEC)).task.task_id
    assert (await client.wait(task_id, timeout_s=PATIENCE_S)).state is TaskState.SUCCEEDED
    async with asyncio.timeout(PATIENCE_S):
        while (await client.plan(SPEC)).predictions[0].is_cold:  # the predictor has not heard yet
            await asyncio.sleep(0.1)
    # An agent pulls at its start, and from then on once a minute.
    live.kill("cal")
    live.restart("cal")
    log = live.directory / "sites" / "cal" / "agent.again.log"
    async with asyncio.timeout(PATIENCE_S):
        while "run_times_pulled" not in log.read_text():
            await asyncio.sleep(0.1)
    predictor = live.process("predictor")
    os.kill(predictor.pid, signal.SIGKILL)
    os.waitpid(predictor.pid, 0)
    async with asyncio.timeout(PATIENCE_S):
        predictions = (await client.plan(SPEC)).predictions
    sources = {p.pool_type: p.source for p in predictions}
    assert PredictionSource.SNAPSHOT in sources.values()
    assert PredictionSource.PREDICTOR not in sources.values()
