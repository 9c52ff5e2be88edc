"""Submits a task and waits for its end, without asyncio.

gcos up
python examples/python/submit_and_wait_sync.py
"""

from pathlib import Path

import gcos

DOCUMENT = Path(__file__).parents[1] / "custom.yaml"

with gcos.SyncClient.connect() as client:
    # The same request id gets the same task, so this script may be repeated safely.
    submission = client.submit(DOCUMENT.read_bytes(), request_id="python-example")
    print("taken:", submission.task.spec.name, "at", submission.task.origin)
    task = client.wait(submission.task.task_id)
    print("ended:", task.state.value, "because of", task.reason.value)
    if task.report is not None:
        print(f"carbon: {task.report.charge.carbon_gco2:.4g} g at {task.report.site_id}")
    for piece in client.log(task.task_id):
        print("output:", piece.decode(errors="replace").strip())
