"""Submits a task and waits for its end.

gcos up
python examples/python/submit_and_wait.py
"""

import asyncio
from pathlib import Path

import gcos
from gcos.errors import InvalidTaskError

DOCUMENT = Path(__file__).parents[1] / "custom.yaml"


async def main() -> None:
    """Submit the example that needs no model and no data."""
    async with gcos.Client.connect() as client:
        # The same request id gets the same task, so this script may be repeated safely.
        submission = await client.submit(DOCUMENT.read_bytes(), request_id="python-example")
        print("taken:", submission.task.spec.name, "at", submission.task.origin)
        task = await client.wait(submission.task.task_id)
        print("ended:", task.state.value, "because of", task.reason.value)
        if task.report is not None:
            print(f"carbon: {task.report.charge.carbon_gco2:.4g} g at {task.report.site_id}")
        try:
            await client.submit("apiVersion: gcos/v1\nkind: Task\nrum: true\n")
        except InvalidTaskError as exc:
            print("refused:", exc.message, "--", exc.hint)


asyncio.run(main())
