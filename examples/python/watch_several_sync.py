"""Submits several tasks and watches all of them at once, with threads.

gcos up
python examples/python/watch_several_sync.py
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import gcos
from gcos.task_record import Task

DOCUMENT = """\
apiVersion: gcos/v1
kind: Task
name: part-{part}
run: echo part {part}
"""


def followed(client: gcos.SyncClient, part: int) -> Task:
    """Submit a task and return it once it has ended; threads share the client."""
    submission = client.submit(DOCUMENT.format(part=part))
    last = submission.task
    for last in client.watch(submission.task.task_id):
        # One write a line: `print` writes its end apart, and threads would mix their lines.
        sys.stderr.write(f"{last.spec.name} {last.state.value} {last.reason.value}\n")
    return last


with gcos.SyncClient.connect() as client, ThreadPoolExecutor() as pool:
    for task in pool.map(lambda part: followed(client, part), range(3)):
        print(task.spec.name, task.state.value)
