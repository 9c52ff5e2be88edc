"""Submits several tasks and watches all of them at once.

gcos up
python examples/python/watch_several.py
"""

import asyncio
import contextlib
import sys

import gcos
from gcos.task_record import Task

DOCUMENT = """\
apiVersion: gcos/v1
kind: Task
name: part-{part}
run: echo part {part}
"""


async def main() -> None:
    """Tell of changes on stderr, and of the ends on stdout."""
    ended: dict[int, Task] = {}
    async with gcos.Client.connect() as client:

        async def follow(part: int) -> None:
            submission = await client.submit(DOCUMENT.format(part=part))
            # A watch that may be left early is closed at once by `aclosing`.
            async with contextlib.aclosing(client.watch(submission.task.task_id)) as changes:
                async for task in changes:
                    print(task.spec.name, task.state.value, task.reason.value, file=sys.stderr)
                    ended[part] = task

        async with asyncio.TaskGroup() as group:
            for part in range(3):
                group.create_task(follow(part))
    for part in sorted(ended):
        print(ended[part].spec.name, ended[part].state.value)


asyncio.run(main())
