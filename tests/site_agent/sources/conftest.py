"""Upstreams on loopback, and a store that pulls from them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gcos.artifacts import ArtifactKind
from gcos.ids import SiteId
from gcos.logs import get_logger
from gcos.system import SystemClock
from site_agent.artifact_store import ArtifactStore
from site_agent.cache_marks import CacheMarks
from site_agent.sources.opening import SourceSettings, settings_of
from site_agent.sources.pull import Pull, Pulled, Puller
from testbed.fake_registries import FakeUpstream, serving_upstream

CAPACITY_BYTES = 4_000_000


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with serving_upstream() as server:
        yield server


@pytest.fixture
def cdn() -> Iterator[FakeUpstream]:
    with serving_upstream() as server:
        yield server


@dataclass
class Site:
    """A store and what pulls into it; pauses are noted, not made."""

    path: Path
    environ: dict[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ("http://127.0.0.1",)
    networks: tuple[str, ...] = ("127.0.0.1/32",)
    roots: tuple[str, ...] = ()
    capacity_bytes: int = CAPACITY_BYTES
    pauses_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = self.opened()

    def opened(self) -> ArtifactStore:
        return ArtifactStore.open(
            self.path / "cache",
            site_id=SiteId("de"),
            model_capacity_bytes=self.capacity_bytes,
            data_capacity_bytes=self.capacity_bytes,
            allowed_roots=[self.path / "shared"],
        )

    def settings(self) -> SourceSettings:
        return settings_of(
            self.hosts, self.networks, self.roots, [self.path / "shared"], self.environ
        )

    def puller(self, pause: Callable[[float], None] | None = None) -> Puller:
        self.marks = CacheMarks(self.path / "marks.json")
        return Puller(
            self.store,
            self.marks,
            self.settings(),
            self.path / "pulls",
            SystemClock(),
            get_logger(),
            pause=pause or self.pauses_s.append,
        )

    async def pull(
        self, reference: str, name: str = "", kind: ArtifactKind | None = None
    ) -> Pulled:
        puller = self.puller()
        order = puller.prepared(reference, name, kind)
        self.last: Pull = order.pull
        try:
            return await puller.pull(order)
        finally:
            self.check_clean()

    def check_clean(self) -> None:
        """Nothing is left of any pull, whatever became of it."""
        assert list((self.path / "pulls").iterdir()) == []
        assert list((self.path / "cache" / "partial").iterdir()) == []
        self.store.check_invariants()
        assert all(usage.reserved_bytes == 0 for usage in self.store.cache.usages())

    def files(self, pulled: Pulled) -> Mapping[str, bytes]:
        self.store.verify(pulled.artifact.artifact_id)
        place = self.store.path_of(pulled.artifact.artifact_id)
        return {
            path.relative_to(place).as_posix(): path.read_bytes()
            for path in sorted(place.rglob("*"))
            if path.is_file()
        }


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "shared").mkdir()
    return Site(tmp_path)
