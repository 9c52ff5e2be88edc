import asyncio
from pathlib import Path

import pytest

from gcos.errors import ExhaustedError
from gcos.ids import ArtifactId, Fence, RunId, SiteId, TaskId, run_id, task_of
from gcos.logs import get_logger
from gcos.store import MemoryStore, SqliteStore, Store
from gcos.system import SystemClock
from site_agent import copy_log as module
from site_agent.copy_log import COPIES, CopyLog

THING = ArtifactId("sha256:" + "1" * 64)
OTHER = ArtifactId("sha256:" + "2" * 64)
TASK = TaskId("de-0123456789abc")


def log_of(store: Store) -> CopyLog:
    return CopyLog(store, SystemClock(), get_logger())


async def test_decisions_survive_a_restart(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path / "journal.db") as store:
        log = log_of(store)
        log.note("copy_decided", THING, "m", "credit 3.1 $, price 1.2 $", task_id=TASK)
        log.note("copy_arrived", THING, "m", "as decided", task_id=TASK, site_id=SiteId("on"))
        log.note("evicted", OTHER, "n", "makes room for m", without_learning="kept")
        await log.save()
    async with SqliteStore.open(tmp_path / "journal.db") as store:
        again = log_of(store)
        await again.restore()
    assert again.latest(10) == log.latest(10)
    assert [each.kind for each in again.latest(10, TASK)] == ["copy_decided", "copy_arrived"]
    assert [each.kind for each in again.latest(1)] == ["evicted"]
    assert [each.kind for each in again.latest(10, artifact_ids=[OTHER])] == ["evicted"]
    assert {key: each.why for key, each in again.arrivals().items()} == {THING: "as decided"}


async def test_the_latest_decisions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COPY_EVENT_COUNT_MAX", 5)
    monkeypatch.setattr(module, "_TRIM_COUNT", 3)
    store = MemoryStore()
    log = log_of(store)
    for number in range(20):
        log.note("evicted", THING, f"n{number}", "")
        await log.save()
        assert len(await store.read_log(COPIES)) < 8
    again = log_of(store)
    await again.restore()
    assert [each.name for each in again.latest(99)] == ["n15", "n16", "n17", "n18", "n19"]


async def test_decisions_are_written_as_they_are_noted() -> None:
    store = MemoryStore()
    log = log_of(store)
    async with asyncio.TaskGroup() as group:
        saving = group.create_task(log.save_forever())
        log.note("evicted", THING, "m", "")
        while not await store.read_log(COPIES):
            await asyncio.sleep(0)
        saving.cancel()


async def test_a_journal_that_is_full_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_store: MemoryStore, _writes: object) -> None:
        raise ExhaustedError("the disk is full")

    monkeypatch.setattr(MemoryStore, "commit", refuse)
    log = log_of(MemoryStore())
    log.note("evicted", THING, "m", "")
    await log.save()
    assert len(log.latest(10)) == 1


def test_an_attempt_names_its_task_and_a_copy_names_none() -> None:
    assert task_of(run_id(TASK, Fence(2, 3))) == TASK
    assert task_of(RunId("copy-de-xyz")) is None
