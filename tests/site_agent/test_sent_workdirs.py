"""What is removed of a real store when the task that a directory was sent for is over."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from gcos.artifacts import Artifact, ArtifactKind
from gcos.ids import ArtifactId, RunId, SiteId
from gcos.logs import get_logger
from gcos.rpc.channels import Channels
from gcos.system import SystemClock
from site_agent.artifact_store import ArtifactStore
from site_agent.config import AgentConfig
from site_agent.run_shell import RunShell
from site_agent.sent_workdirs import AWAITED_S, Outcome, SentWorkdirs
from site_agent.transfer import ArtifactPlane

DE, ON = SiteId("de"), SiteId("on")
NAME = "workdir-code-0f0f0f0f"
GONE = ArtifactId("sha256:" + "9" * 64)


@dataclass
class Place:
    """One agent's cache on disk."""

    root: Path
    plane: ArtifactPlane
    shell: RunShell

    async def sent(self, name: str = NAME) -> Artifact:
        source = self.root / "source"
        source.mkdir(exist_ok=True)
        (source / "main.py").write_text("print('it runs')\n")
        artifact, _ = await self.plane.add(source, name, ArtifactKind.DATA)
        return artifact

    async def drop(self, artifact: Artifact) -> dict[ArtifactId, bool]:
        return await self.shell.drop_workdirs({artifact.artifact_id: NAME})

    def reopened(self) -> ArtifactStore:
        """Return the store as a restart would find it."""
        return opened(self.root)


def opened(root: Path) -> ArtifactStore:
    return ArtifactStore.open(
        root / "cache",
        site_id=DE,
        model_capacity_bytes=10_000,
        data_capacity_bytes=10_000,
        allowed_roots=[root],
    )


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    clock = SystemClock()
    async with (
        Channels("t" * 43) as channels,
        ArtifactPlane(opened(tmp_path), channels, clock, get_logger()) as plane,
    ):
        shell = RunShell(
            config=AgentConfig("de", tmp_path, tmp_path / "token"),
            clock=clock,
            executor=cast(Any, None),
            plane=plane,
            participant=cast(Any, None),
            links=cast(Any, None),
        )
        yield Place(tmp_path, plane, shell)


async def test_what_was_sent_is_removed_although_it_is_in_custody(place: Place) -> None:
    artifact = await place.sent()
    assert artifact.custodian == DE
    assert await place.drop(artifact) == {artifact.artifact_id: True}
    assert place.plane.cache.entries() == ()
    place.plane.store.check_invariants()
    assert place.reopened().cache.entries() == ()
    assert await place.drop(artifact) == {artifact.artifact_id: False}, "it is gone"


async def test_what_is_used_stays_in_custody_until_it_is_not(place: Place) -> None:
    artifact = await place.sent()
    place.plane.pin(artifact.artifact_id, RunId("de-1.1.1"))
    assert await place.drop(artifact) == {}
    (entry,) = place.plane.cache.entries()
    assert entry.artifact.custodian == DE
    place.plane.unpin(artifact.artifact_id, RunId("de-1.1.1"))
    assert await place.drop(artifact) == {artifact.artifact_id: True}


async def test_what_somebody_added_under_another_name_stays(place: Place) -> None:
    artifact = await place.sent("corpus")
    assert await place.drop(artifact) == {artifact.artifact_id: False}
    await place.sent()
    assert await place.drop(artifact) == {artifact.artifact_id: False}
    assert {entry.artifact.name for entry in place.plane.cache.entries()} == {"corpus", NAME}


async def test_what_is_in_another_site_s_custody_is_left_to_eviction(place: Place) -> None:
    artifact = await place.sent()
    await place.plane.set_custodian(artifact.artifact_id, ON)
    assert await place.drop(artifact) == {artifact.artifact_id: False}
    assert place.plane.cache.has(artifact.artifact_id)


def test_an_upload_is_awaited_for_a_while_only() -> None:
    workdirs = SentWorkdirs()
    reference = f"{NAME}@{GONE}"
    workdirs.uploaded(GONE, now_s=0.0)
    workdirs.uploaded(GONE, now_s=5.0)
    workdirs.submitted(reference, Outcome.REFUSED)
    assert workdirs.due([], now_s=6.0) == {}, "a second upload is to be named yet"
    assert workdirs.due([], now_s=5.0 + AWAITED_S) == {GONE: NAME}
    workdirs.gone(GONE)
    assert workdirs.due([], now_s=1e6) == {}
    assert workdirs.awaited_s == {}
