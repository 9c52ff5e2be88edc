"""An agent says of each actor whether it is used, and why not."""

import asyncio
from pathlib import Path
from typing import Any

import structlog
from structlog.testing import LogCapture

from policies.maccs.actor import SHIPPED, actor_path
from policies.maccs.copy_plan import UNLEARNED
from site_agent.actors import ARTIFACT, Actors


def made(directory: Path | None) -> tuple[Actors, LogCapture]:
    lines = LogCapture()
    return Actors((ARTIFACT,), directory, structlog.wrap_logger(None, processors=[lines])), lines


async def watched(actors: Actors) -> dict[str, bool]:
    """Return what the health service is told, once everything is loaded."""
    health: dict[str, bool] = {}
    told = asyncio.Event()

    async def set_health(name: str, is_serving: bool) -> None:
        health[name] = is_serving
        told.set()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(actors.watch(set_health))
        await told.wait()
        task.cancel()
    return health


async def test_shipped_actor_is_used() -> None:
    actors, lines = made(None)
    assert actors.statuses() == ()
    assert actors.correction() is UNLEARNED, "nobody waits for a file"
    assert await watched(actors) == {"gcos.actor.artifact": True}
    (status,) = actors.statuses()
    assert status.version.startswith("artifact/")
    assert status.fallback_reason == ""
    assert [line["event"] for line in lines.entries] == ["actor_loaded"]
    assert actors.correction().is_asked


async def test_missing_actor_is_told_by_health_log_and_status(tmp_path: Path) -> None:
    actors, lines = made(tmp_path)
    assert await watched(actors) == {"gcos.actor.artifact": False}
    (status,) = actors.statuses()
    assert (status.fallback_reason, status.version) == ("actor-missing", "")
    (line,) = lines.entries
    assert (line["event"], line["reason"]) == ("actor_fallback", "actor-missing")
    assert str(tmp_path) in line["message"]
    assert actors.correction() is UNLEARNED


async def test_corrupt_actor_is_told(tmp_path: Path) -> None:
    whole = actor_path(ARTIFACT, SHIPPED).read_bytes()
    actor_path(ARTIFACT, tmp_path).write_bytes(whole[: len(whole) // 2])
    actors, _ = made(tmp_path)
    assert await watched(actors) == {"gcos.actor.artifact": False}
    assert actors.statuses()[0].fallback_reason == "actor-corrupt"


async def test_policy_without_actors_has_none_to_tell_of() -> None:
    lines = LogCapture()
    log: Any = structlog.wrap_logger(None, processors=[lines])
    actors = Actors((), None, log)
    actors.load()
    assert actors.statuses() == ()
    assert actors.actor(ARTIFACT) is None
