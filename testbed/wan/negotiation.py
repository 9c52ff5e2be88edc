"""What one negotiation costs over a link, beside the sum of its one-way delays.

Tasks are submitted at one site and may run at another alone. From outside, a negotiation lasts from
the acknowledgement of a task to the state LEASED. Its limit is written out in ARCHITECTURE.md: two
delays to the predictor and to the broker each, four to the other site, and two fdatasync.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import NamedTemporaryFile
from typing import Final

from gcos.client import Client
from gcos.ids import TaskId
from gcos.system import SystemClock
from testbed.wan.cluster import Testbed
from testbed.wan.control import asked_reading
from testbed.wan.records import BROKER, PREDICTOR

_SYNC_COUNT: Final = 31
_SYNC_BYTES: Final = bytes(4096)
_WAIT_S: Final = 60.0

_now_s = SystemClock().protocol_s


@dataclass(frozen=True, slots=True)
class NegotiationReading:
    """Negotiations between two sites.

    Attributes:
        origin: Site that owns the tasks.
        winner: The only site that may run them.
        rtt_s: Round-trip time between the two.
        limit_s: Sum of the one-way delays and two fdatasync at the median.
        p50_s: Median of what they took.
        fdatasync_s: Median of one, measured in the same run.
        count: How many there were.
    """

    origin: str
    winner: str
    rtt_s: float
    limit_s: float
    p50_s: float
    fdatasync_s: float
    count: int


async def negotiate(
    testbed: Testbed, origin: str, winner: str, *, count: int
) -> NegotiationReading:
    """Measure `count` negotiations, one after the other.

    Raises:
        GcosError: A site does not answer.
        TimeoutError: A task did not get a lease in time.
    """
    config = testbed.config

    def rtt_s(place: str) -> float:
        return asked_reading(config, config.changes, origin, place).asked_rtt_s

    took = []
    sync_s = fdatasync_s(testbed.directory)
    address = testbed.process(origin).address
    async with Client.connect(address, Path(config.token_file), environ={}) as client:
        for number in range(count):
            document = {
                "apiVersion": "gcos/v1",
                "kind": "Task",
                "name": f"negotiation {number}",
                "run": ["true"],
                "placement": {"allow": [winner]},
            }
            taken = await client.submit(json.dumps(document))
            began_s = _now_s()
            await _leased(client, taken.task.task_id)
            took.append(_now_s() - began_s)
            await client.wait(taken.task.task_id, timeout_s=_WAIT_S)
    return NegotiationReading(
        origin,
        winner,
        rtt_s=rtt_s(winner),
        limit_s=rtt_s(PREDICTOR) + rtt_s(BROKER) + 2 * rtt_s(winner) + 2 * sync_s,
        p50_s=median(took),
        fdatasync_s=sync_s,
        count=count,
    )


async def _leased(client: Client, task_id: TaskId) -> None:
    async for task in client.watch(task_id, timeout_s=_WAIT_S):
        if task.state.is_leased or task.state.is_terminal:
            return
    raise TimeoutError(f"{task_id} got no lease within {_WAIT_S:.0f} s")


def fdatasync_s(directory: Path) -> float:
    """Return the median time of writing 4 KiB and fdatasync in a directory."""
    times: list[float] = []
    with NamedTemporaryFile(dir=directory) as file:
        for _ in range(_SYNC_COUNT):
            began_s = _now_s()
            os.write(file.fileno(), _SYNC_BYTES)
            os.fdatasync(file.fileno())
            times.append(_now_s() - began_s)
    return median(times)
