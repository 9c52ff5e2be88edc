"""Custody between two agents' caches on disk, and whom a site chooses for it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from gcos.artifacts import Artifact, ArtifactKind
from gcos.contract_net import ArtifactNeed, Holder, Rejection
from gcos.errors import UnavailableError
from gcos.ids import ArtifactId, SiteId, TaskId
from gcos.known_sites import KnownSite
from gcos.logs import get_logger
from gcos.rpc.channels import Channels
from gcos.rpc.wire import from_proto, to_proto
from gcos.sites import ArtifactDemand, Site, SiteDigest
from gcos.store import MemoryStore
from gcos.system import SystemClock
from gcos.v1 import site_pb2
from site_agent.artifact_store import ArtifactStore
from site_agent.copy_log import CopyLog
from site_agent.custody import CustodyShell
from site_agent.custody_choice import givings
from site_agent.dual_cache import DualCache
from site_agent.handoff import CustodyAnswer, CustodyOffer
from site_agent.transfer import ArtifactPlane

MODEL = ArtifactKind.MODEL
DE, ON, TEX = (SiteId(name) for name in ("de", "on", "tex"))
GB = 10**9


def known(
    site_id: SiteId,
    *holdings: Artifact,
    uses: float = 0.0,
    cache_bytes: int = 100 * GB,
    is_draining: bool = False,
) -> KnownSite:
    site = Site(
        site_id,
        incarnation="i",
        address=site_id,
        zone=site_id.upper(),
        pue=1.1,
        pools=(),
        model_cache_bytes=cache_bytes,
        data_cache_bytes=cache_bytes,
    )
    demand = tuple(ArtifactDemand(each.artifact_id, uses) for each in holdings)
    digest = SiteDigest(
        (), None, 0.1, is_draining, 0, 0, holdings=holdings, demand=demand if uses else ()
    )
    return KnownSite(site, digest, age_s=0.0)


def made(number: int, size_gb: int, custodian: SiteId | None = DE) -> Artifact:
    known_id = ArtifactId(f"sha256:{number:064x}")
    return Artifact(known_id, MODEL, f"m{number}", size_gb * GB, custodian)


def cache_of(*artifacts: Artifact, capacity_gb: int = 100) -> DualCache:
    cache = DualCache(capacity_gb * GB, capacity_gb * GB)
    for each in artifacts:
        cache.reserve(each, now_s=0.0, is_custodian=each.custodian == DE)
        cache.insert(each.artifact_id)
    return cache


# ---------------------------------------------------------------- whom a site chooses


def test_up_to_half_a_cache_custody_stays() -> None:
    assert givings(cache_of(made(1, 30), made(2, 20)), [known(ON)], here=DE) == ()


def test_what_is_used_least_a_byte_goes_to_who_holds_a_copy_and_uses_it_most() -> None:
    rare, used = made(1, 40), made(2, 40)
    cache = cache_of(rare, used)
    cache.demand.note(used.artifact_id, now_s=0.0)
    sites = [known(DE, rare), known(ON, rare, uses=1.0), known(TEX, rare, uses=2.0)]
    (giving,) = givings(cache, sites, here=DE)
    assert (giving.artifact, giving.taker.site.site_id, giving.has_copy) == (rare, TEX, True)
    assert "50% of the model cache" in giving.why


def test_where_nobody_holds_a_copy_who_has_room_may_bring_one() -> None:
    full = known(ON, made(9, 90, None))
    (giving,) = givings(cache_of(made(1, 60)), [full, known(TEX)], here=DE)
    assert (giving.taker.site.site_id, giving.has_copy) == (TEX, False)


@pytest.mark.parametrize("others", [[], [known(ON, made(1, 60), is_draining=True)]])
def test_where_nobody_can_it_stays(others: list[KnownSite]) -> None:
    assert givings(cache_of(made(1, 60)), others, here=DE) == ()


def test_what_is_offered_counts_as_gone() -> None:
    thing = made(1, 60)
    offered = frozenset({thing.artifact_id})
    assert givings(cache_of(thing), [known(ON, thing)], here=DE, offered=offered) == ()


def test_what_others_are_custodians_of_does_not_count() -> None:
    thing = made(1, 60, custodian=ON)
    assert givings(cache_of(thing), [known(ON, thing)], here=DE) == ()


# ---------------------------------------------------------------- two agents


class Wire:
    """Carries offers between agents of one test; silent ones do not answer."""

    def __init__(self) -> None:
        self.agents: dict[str, CustodyShell] = {}
        self.silent: set[str] = set()

    async def take_custody(
        self, address: str, offer: CustodyOffer, need: ArtifactNeed
    ) -> CustodyAnswer:
        answer = await self.agents[address].offered(offer, name=need.name)
        if address in self.silent:
            raise UnavailableError("the answer is lost")
        return answer


class Agent:
    """One agent's cache on disk, its journal and its custody."""

    def __init__(self, store: ArtifactStore, plane: ArtifactPlane, wire: Wire) -> None:
        self.store, self.plane, self.wire = store, plane, wire
        self.journal = MemoryStore()
        self.begin()

    def begin(self) -> None:
        """Start anew with what the journal holds."""
        site = self.store.site_id
        self.custody = CustodyShell(
            here=Holder(site, site.upper(), site),
            journal=self.journal,
            plane=self.plane,
            peers=self.wire,
            log=get_logger(),
        )
        self.wire.agents[site] = self.custody

    def custodian(self, artifact: Artifact) -> SiteId | None:
        """As a restart would read it from disk."""
        return self.store.record_of(artifact.artifact_id).custodian


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Agent, Agent]]:
    wire, clock = Wire(), SystemClock()
    async with AsyncExitStack() as stack:
        channels = await stack.enter_async_context(Channels("t" * 43))
        agents = []
        for site in (DE, ON):
            store = ArtifactStore.open(
                tmp_path / site,
                site_id=site,
                model_capacity_bytes=1500,
                data_capacity_bytes=1500,
                allowed_roots=[tmp_path],
            )
            plane = ArtifactPlane(store, channels, clock, get_logger())
            agents.append(Agent(store, await stack.enter_async_context(plane), wire))
        yield agents[0], agents[1]


def content(agent: Agent, tmp_path: Path, custodian: SiteId | None) -> Artifact:
    source = tmp_path / f"source-{agent.store.site_id}"
    source.mkdir()
    (source / "weights").write_bytes(b"x" * 1000)
    return agent.store.import_directory(source, "tiny", MODEL, custodian, now_s=0.0)[0]


async def test_custody_moves_on_disk_and_the_givers_copy_may_go(
    pair: tuple[Agent, Agent], tmp_path: Path
) -> None:
    here, there = pair
    thing = content(here, tmp_path, DE)
    content(there, tmp_path, DE)
    for agent in pair:
        agent.plane.notes = CopyLog(agent.journal, SystemClock(), get_logger())
    here.custody.hear([known(ON, thing)])
    await here.custody.look()
    told = [
        [(each.kind, each.site_id) for each in cast(CopyLog, agent.plane.notes).latest(9)]
        for agent in pair
    ]
    assert told == [[("custody_offered", ON), ("custody_moved", ON)], [("custody_taken", DE)]]
    assert (here.custodian(thing), there.custodian(thing)) == (ON, ON)
    assert here.store.cache.evictions_for(MODEL, 1000) == (thing.artifact_id,)
    assert there.store.cache.evictions_for(MODEL, 1000) is None
    for agent in pair:
        agent.store.check_invariants()


async def test_an_offer_whose_answer_is_lost_is_repeated_after_a_restart(
    pair: tuple[Agent, Agent], tmp_path: Path
) -> None:
    here, there = pair
    thing = content(here, tmp_path, DE)
    content(there, tmp_path, DE)
    there.wire.silent.add(ON)
    here.custody.hear([known(ON, thing)])
    await here.custody.look()
    assert (here.custodian(thing), there.custodian(thing)) == (DE, ON), "both are protected"
    there.wire.silent.clear()
    for agent in pair:
        agent.begin()
        await agent.custody.restore()
    here.custody.hear([known(ON, thing)])
    await here.custody.look()
    assert (here.custodian(thing), there.custodian(thing)) == (ON, ON)


async def test_who_has_no_copy_refuses_and_the_giver_keeps_custody(
    pair: tuple[Agent, Agent], tmp_path: Path
) -> None:
    here, _ = pair
    thing = content(here, tmp_path, DE)
    here.custody.hear([known(ON)])
    await here.custody.look()
    assert here.custodian(thing) == DE
    assert here.store.cache.evictions_for(MODEL, 1000) is None
    here.custody.hear([replace(known(ON), digest=known(ON, is_draining=True).digest)])
    await here.custody.look()
    assert here.custodian(thing) == DE


def test_offers_answers_and_claims_to_copies_survive_the_wire() -> None:
    offer = CustodyOffer(made(1, 1).artifact_id, 3, DE)
    assert from_proto(to_proto(offer, site_pb2.CustodyOffer), CustodyOffer) == offer
    answer = CustodyAnswer(offer.artifact_id, 3, is_taken=False, message="no copy")
    assert from_proto(to_proto(answer, site_pb2.TakeCustodyResponse), CustodyAnswer) == answer
    for claim in (None, 0.0, 1.5):
        rejection = Rejection(TaskId("de-1"), ON, 1.0, 2.0, claim)
        assert from_proto(to_proto(rejection, site_pb2.Rejection), Rejection) == rejection
