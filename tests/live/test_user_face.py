"""What users see, on real processes: plans without side effects, and explanations."""

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gcos.artifacts import ArtifactKind
from gcos.client import Client
from gcos.ids import SiteId
from testbed.workloads.make import make

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def artifacts(live: Any) -> Path:
    place = live.directory / "artifacts"
    make(place, seed=7)
    return place


async def added(client: Client, artifacts: Path, directory: Path) -> None:
    """Add a model and a data set, and wait until the decision log on disk has them."""
    for site, kind, name in (
        ("on", ArtifactKind.MODEL, "tiny-lm-1500k"),
        ("de", ArtifactKind.DATA, "field-notes"),
    ):
        folder = "models" if kind is ArtifactKind.MODEL else "data"
        told = await client.add_artifact(name, kind, artifacts / folder / name, SiteId(site))
        async with asyncio.timeout(60):
            while told.artifact.artifact_id not in str(durable(directory)):
                await asyncio.sleep(0.05)


def durable(directory: Path) -> dict[str, object]:
    """Everything that the sites keep: rows of the journals, and files of the caches."""
    kept: dict[str, object] = {}
    for journal in sorted(directory.glob("sites/*/data/journal.db")):
        with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as connection:
            kept[str(journal)] = list(connection.iterdump())
    for path in sorted(directory.glob("sites/*/data/*/**/*")):
        if path.is_file():
            kept[str(path)] = path.stat().st_size
    return kept


async def test_a_plan_changes_no_journal_and_no_cache(
    live: Any, client: Client, artifacts: Path
) -> None:
    await added(client, artifacts, live.directory)
    document = json.dumps(
        {
            "apiVersion": "gcos/v1",
            "kind": "Task",
            "model": "tiny-lm-1500k",
            "data": "field-notes",
            "work": {"kind": "evaluation", "tokens": 1000},
            "run": "true",
            "deadline": "12h",
            "max_cost_usd": 0.001,
        }
    )
    before = durable(live.directory)
    for _ in range(3):
        plan = await client.plan(document)
        assert plan.bids or plan.refusals
    assert durable(live.directory) == before


async def test_an_explanation_survives_a_restart(live: Any, client: Client) -> None:
    document = json.dumps({"apiVersion": "gcos/v1", "kind": "Task", "run": "true"})
    task_id = (await client.submit(document)).task.task_id
    await client.wait(task_id, timeout_s=60)
    before = await client.explain(task_id)
    live.kill("cal")
    live.restart("cal")
    await client.wait(task_id, timeout_s=60)
    after = await client.explain(task_id)
    assert after.events == before.events
    assert len(after.events) == 5
