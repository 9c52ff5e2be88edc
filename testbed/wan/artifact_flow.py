"""How fast an artifact comes from one agent to another over a link, beside what the link carries.

In each round bytes flow over the bare lanes of the link, and then an artifact that only the holder
has is staged for a task at the taker: fetched, verified and published. Its rate is its size over
the time from the acceptance of the run until all was there.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from gcos.artifacts import ArtifactKind
from gcos.client import Client
from gcos.errors import GcosError, UnavailableError
from gcos.ids import SiteId
from gcos.system import unique_text
from testbed.local_directory import ARTIFACTS_NAME
from testbed.wan.cluster import Testbed
from testbed.wan.control import asked_reading, measure

_WAIT_S: Final = 300.0
_BLOCK_BYTES: Final = 1 << 20
FLOW_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ArtifactFlow:
    """Artifacts over one link; rates are medians over the rounds.

    Attributes:
        holder: Site that has them.
        taker: Site that fetches them.
        size_bytes: Size of each.
        asked_bytes_per_s: Rate that was asked of the emulator.
        link_bytes_per_s: What one connection carried over the bare link.
        artifact_bytes_per_s: What an artifact came at, verified and published.
        link_ratio: Of the two, round by round.
        count: Rounds.
    """

    holder: str
    taker: str
    size_bytes: int
    asked_bytes_per_s: float
    link_bytes_per_s: float
    artifact_bytes_per_s: float
    link_ratio: float
    count: int


async def artifact_flow(
    testbed: Testbed, holder: str, taker: str, *, size_bytes: int, count: int
) -> ArtifactFlow:
    """Measure `count` artifacts, one after the other.

    Raises:
        GcosError: A site does not answer, the link is cut, or a task failed.
        TimeoutError: A task did not end in time.
    """
    config = testbed.config
    asked = asked_reading(config, config.changes, taker, holder)
    token_file = Path(config.token_file)
    links, artifacts = [], []
    async with Client.connect(testbed.process(holder).address, token_file, environ={}) as client:
        for _ in range(count):
            reading = await measure(config, testbed.token, asked, flow_s=FLOW_S)
            if reading.bytes_per_s is None:
                raise UnavailableError(
                    f"nothing passes between {holder} and {taker}", hint="gcos testbed heal"
                )
            links.append(reading.bytes_per_s)
            artifacts.append(await _one(client, testbed, holder, taker, size_bytes))
    return ArtifactFlow(
        holder,
        taker,
        size_bytes=size_bytes,
        asked_bytes_per_s=asked.asked_bytes_per_s,
        link_bytes_per_s=median(links),
        artifact_bytes_per_s=median(artifacts),
        link_ratio=median(ours / limit for ours, limit in zip(artifacts, links, strict=True)),
        count=count,
    )


async def _one(client: Client, testbed: Testbed, holder: str, taker: str, size_bytes: int) -> float:
    """Return the rate at which a new artifact came, bytes a wall second."""
    name = f"flow-{unique_text().lower()}"
    place = testbed.directory / ARTIFACTS_NAME / name
    place.mkdir()
    try:
        _fill(place / "content", size_bytes)
        await client.add_artifact(name, ArtifactKind.DATA, place.absolute(), SiteId(holder))
        document = {
            "apiVersion": "gcos/v1",
            "kind": "Task",
            "name": name,
            "data": [name],
            "run": ["true"],
            "placement": {"allow": [taker]},
        }
        taken = await client.submit(json.dumps(document))
        task = await client.wait(taken.task.task_id, timeout_s=_WAIT_S)
        report = task.report
        if report is None or report.staged_s is None or not report.fetches:
            raise GcosError(f"{name} was not fetched: {task.state.value}, {task.message}")
        took_s = (report.staged_s - report.accepted_s) / testbed.state.speed
        for site, gives_up in ((taker, False), (holder, True)):
            await client.remove_artifact(name, gives_up_custody=gives_up, site=SiteId(site))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return size_bytes / max(took_s, 1e-9)


def _fill(path: Path, size_bytes: int) -> None:
    """Write random bytes, which nobody has yet."""
    with path.open("wb") as file:
        left = size_bytes
        while left:
            left -= file.write(os.urandom(min(left, _BLOCK_BYTES)))
