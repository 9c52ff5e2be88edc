"""Agents that plan together over real calls: what is brought, who is missing, who lies."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import structlog
from structlog.testing import LogCapture

from gcos.accounting import CostScope, LatePenalty
from gcos.artifacts import Artifact, ArtifactKind
from gcos.clock import WorldScale
from gcos.contract_net import ArtifactNeed, Holder
from gcos.durations import Prediction, PredictionSource, RunTime
from gcos.errors import InvalidRequestError
from gcos.ids import SiteId, TaskId
from gcos.known_sites import KnownSite
from gcos.ledger import LedgerEntry
from gcos.logs import get_logger
from gcos.outlook import Outlook
from gcos.rpc.channels import Channels
from gcos.rpc.server import serving
from gcos.rpc.wire import from_proto, to_proto
from gcos.signals import Provenance, Signal, SiteSignals, StepSeries
from gcos.sites import Link, Pool, Site, SiteDigest
from gcos.store import MemoryStore
from gcos.system import SystemClock
from gcos.v1 import site_pb2, site_pb2_grpc
from policies.baselines.joint import JointBidder
from policies.maccs.actor import INPUT, OUTPUT, Actor, actor_path, load_actor
from policies.maccs.actor_file import model_bytes, read_model
from policies.maccs.artifact_features import CLAMP, FEATURE_COUNT, FEATURES, RATIO_MAX
from policies.maccs.artifact_features import PART as ARTIFACT
from policies.maccs.copy_plan import Learned
from policies.maccs.network import HIDDEN, forward, graph_of, no_weights, weights_in
from policies.migrators import NoMigrator
from site_agent.actors import Actors
from site_agent.artifact_store import ArtifactStore
from site_agent.config import AgentConfig
from site_agent.copies import COPIES_PROJECT, Copies, CopyPorts
from site_agent.copy_log import CopyLog
from site_agent.copy_planning import PlannedCopy, Tariff
from site_agent.custody import CustodyShell
from site_agent.demand_log import DemandLog, submission_of
from site_agent.migration import Migration
from site_agent.outlook import RATE_H, SiteOutlook
from site_agent.participant import Participant
from site_agent.peers import OUTLOOK_BYTES_MAX, Peers
from site_agent.plan_files import PlanRecords
from site_agent.plan_record import is_same, made_again
from site_agent.planning import CELL_COUNT, Planning, cell_of
from site_agent.serving import ArtifactServicer
from site_agent.site_servicer import SiteServicer
from site_agent.transfer import ArtifactPlane
from tests.policies.maccs.cards import card_of

HOUR_S = 3600.0
BEAT_S = 500_000 * HOUR_S
TOKEN = "t" * 43
SITE_SERVICE = "gcos.v1.SiteService"
PROVENANCE = Provenance("test", "DE", None, None, 0.0, is_estimated=False)


@dataclass
class Clock:
    now_s: float = BEAT_S + 1.0
    scale: WorldScale = field(default_factory=WorldScale)

    def protocol_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s

    def world_s(self) -> float:
        return self.now_s


def link(_source_zone: str, _target_zone: str) -> Link:
    return Link(0.01, 1e9, 0.05)


class Agent:
    """One agent as far as planning copies concerns it, at an address of its own."""

    def __init__(
        self, site: Site, plane: ArtifactPlane, channels: Channels, *, price: float
    ) -> None:
        self.clock, self.site, self.plane = Clock(), site, plane
        self.lines = LogCapture()
        log = structlog.wrap_logger(None, processors=[self.lines])
        self.participant = Participant(
            site=site,
            cache=plane.cache,
            bidder=JointBidder(),
            links=link,
            signals=SiteSignals(
                carbon=Signal(StepSeries.constant(100.0), PROVENANCE, "gCO2/kWh"),
                price=Signal(StepSeries.constant(price), PROVENANCE, "USD/kWh"),
            ),
        )
        self.log = DemandLog(BEAT_S - 168 * HOUR_S)
        peers = Peers(channels, brokers=(), predictors=())
        self.planning = Planning(
            clock=self.clock,
            outlook=SiteOutlook(
                self.participant,
                self.log,
                carbon_price_usd_per_kg=0.5,
                scope=CostScope.OPERATOR,
                began_s=BEAT_S,
            ),
            peers=peers,
            tariff=Tariff(0.5, 0.0065, link),
            log=log,
        )
        self.copies = Copies(
            config=AgentConfig(site.site_id, Path("unused"), Path("unused")),
            clock=self.clock,
            migration=Migration(plane.cache, NoMigrator()),
            participant=self.participant,
            plane=plane,
            custody=CustodyShell(
                here=Holder(site.site_id, site.zone, site.address),
                journal=MemoryStore(),
                plane=plane,
                peers=cast(Any, peers),
                log=log,
            ),
            links=link,
            log=log,
        )
        self.entries: list[LedgerEntry] = []
        self.book: list[KnownSite] = []

    def sites(self) -> list[KnownSite]:
        """Return who is known here."""
        return self.book

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return what was logged under a name."""
        return [dict(line) for line in self.lines.entries if line["event"] == name]

    async def bring(self, copies: Sequence[PlannedCopy]) -> None:
        """Carry out copies, and wait for them."""
        async with asyncio.TaskGroup() as group:

            async def as_is(need: ArtifactNeed) -> ArtifactNeed:
                return need

            async def enter(entry: LedgerEntry) -> None:
                self.entries.append(entry)

            def spawn(_name: str, work: Callable[[], Awaitable[None]]) -> object:
                return group.create_task(cast(Any, work()))

            self.copies.planned(copies, CopyPorts(as_is, enter, spawn))


def known(agent: Agent, *, address: str = "", is_draining: bool = False) -> KnownSite:
    digest = SiteDigest((), None, 0.1, is_draining, 0, 0)
    site = replace(agent.site, address=address or agent.site.address)
    return KnownSite(site, digest, age_s=0.0)


@pytest.fixture
async def trio(tmp_path: Path) -> AsyncIterator[tuple[Agent, Agent, Agent]]:
    """Agents of `de`, where power is dear, `on`, where it is cheap, and `in`, dearer still."""
    async with AsyncExitStack() as stack:
        channels = await stack.enter_async_context(Channels(TOKEN))
        agents = []
        for name, price in (("de", 0.5), ("on", 0.02), ("in", 0.9)):
            store = ArtifactStore.open(
                tmp_path / name,
                site_id=SiteId(name),
                model_capacity_bytes=5000,
                data_capacity_bytes=5000,
                allowed_roots=[tmp_path],
            )
            quiet = structlog.wrap_logger(None, processors=[LogCapture()])
            plane = await stack.enter_async_context(
                ArtifactPlane(store, channels, SystemClock(), quiet)
            )
            host = SimpleNamespace()
            running = await stack.enter_async_context(
                serving(
                    "127.0.0.1:0",
                    register=(
                        lambda server, host=host: site_pb2_grpc.add_SiteServiceServicer_to_server(
                            SiteServicer(cast(Any, host)), server
                        ),
                        ArtifactServicer(store).add_to,
                    ),
                    service_names=(SITE_SERVICE,),
                    token=TOKEN,
                    log=quiet,
                    grace_s=0.0,
                )
            )
            pool = Pool("H100", 64, speed_ratio=1, active_kw=1, idle_kw=0, usd_per_gpu_h=2.0)
            site = Site(
                SiteId(name),
                incarnation="i",
                address=running.address,
                zone=name.upper(),
                pue=1.0,
                pools=(pool,),
                model_cache_bytes=5000,
                data_cache_bytes=5000,
            )
            agent = Agent(site, plane, channels, price=price)
            host.planning, host.sites = agent.planning, agent.sites
            agents.append(agent)
        for agent in agents:
            agent.book = [known(each) for each in agents]
        yield agents[0], agents[1], agents[2]


def has_demand(agent: Agent, tmp_path: Path) -> Artifact:
    """Give an agent a model that 40 tasks of the last week needed."""
    source = tmp_path / f"source-{agent.site.site_id}"
    source.mkdir()
    (source / "weights").write_bytes(b"x" * 1000)
    model = agent.plane.store.import_directory(source, "tiny", ArtifactKind.MODEL, None, now_s=0.0)[
        0
    ]
    need = ArtifactNeed(model.artifact_id, model.kind, model.name, model.size_bytes)
    for number in range(40):
        run_time = RunTime.lognormal(2 * HOUR_S, 0.3)
        submission = submission_of(
            TaskId(f"{agent.site.site_id}-{number:013d}"),
            arrival_s=BEAT_S - (1 + 4 * number) * HOUR_S,
            gpu_count=2,
            needs=(need,),
            predictions=(
                Prediction("H100", run_time, source=PredictionSource.PREDICTOR, is_cold=False),
            ),
            penalty=LatePenalty(0.0, 0.0, 0.0),
            deadline_s=None,
        )
        agent.log.note(submission, (need,))
    return model


Trio = tuple[Agent, Agent, Agent]


async def test_a_copy_is_brought_because_of_the_plan(trio: Trio, tmp_path: Path) -> None:
    """`on` has never seen the model nor a task that needs it: it knows both from `de` alone."""
    de, on, other = trio
    model = has_demand(de, tmp_path)
    plans = [await agent.planning.plan(BEAT_S, agent.sites()) for agent in trio]
    assert [len(plan) for plan in plans] == [0, 1, 0], "the plan gives the copy to `on` alone"
    on.plane.notes = told = CopyLog(MemoryStore(), on.clock, structlog.get_logger())
    await on.bring(plans[1])
    assert on.plane.cache.has(model.artifact_id)
    (entry,) = on.entries
    assert (entry.project, entry.model) == (COPIES_PROJECT, "tiny")
    (decision,) = on.copies.migration.decisions
    assert decision.is_granted
    assert "the plan expects it to save" in decision.why
    assert on.events("copy_decided")[0]["why"] == decision.why
    assert [(each.kind, each.why, each.site_id) for each in told.latest(9)] == [
        ("copy_decided", decision.why, None),
        ("copy_arrived", decision.why, "de"),
    ]
    assert not other.plane.cache.has(model.artifact_id)
    for agent in trio:
        agent.clock.now_s += HOUR_S
    assert await on.planning.plan(BEAT_S + HOUR_S, on.sites()) == (), "it is there now"


async def test_all_agents_compute_the_same_plan_from_one_exchange(
    trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    de, on, other = trio
    has_demand(de, tmp_path)
    calls: list[str] = []
    real = Peers.exchange_outlook

    async def counted(self: Peers, address: str, own: Outlook) -> Outlook:
        calls.append(own.site_id)
        return await real(self, address, own)

    monkeypatch.setattr(Peers, "exchange_outlook", counted)
    for agent in trio:
        await agent.planning.plan(BEAT_S, agent.sites())
    assert calls == ["de", "de", "on"], "who was asked has heard already"
    planned = [agent.events("copies_planned")[0] for agent in trio]
    assert [(line["sites"], line["copies"]) for line in planned] == [(3, 1)] * 3
    assert on is not other


async def test_a_silent_peer_is_left_out_and_the_others_plan(trio: Trio, tmp_path: Path) -> None:
    de, on, other = trio
    model = has_demand(de, tmp_path)
    dead = known(other, address="127.0.0.1:9")
    book = [known(de), known(on), dead]
    assert len(await on.planning.plan(BEAT_S, book)) == 1
    assert [line["peer"] for line in on.events("outlook_missing")] == ["in"]
    assert on.events("copies_planned")[0]["sites"] == 2
    alone = [known(on), dead, known(de, address="127.0.0.1:9")]
    on.clock.now_s += HOUR_S
    assert await on.planning.plan(BEAT_S + HOUR_S, alone) == ()
    assert not on.plane.cache.has(model.artifact_id)


async def test_agents_join_and_leave_between_beats(trio: Trio, tmp_path: Path) -> None:
    de, on, other = trio
    has_demand(de, tmp_path)
    assert await de.planning.plan(BEAT_S, [known(de)]) == ()
    for agent in trio:
        agent.clock.now_s += HOUR_S
        agent.book = [known(de), known(on)]
    assert len(await on.planning.plan(BEAT_S + HOUR_S, on.sites())) == 1, "it has joined"
    for agent in trio:
        agent.clock.now_s += HOUR_S
        agent.book = [known(de, is_draining=True), known(on), known(other)]
    assert await on.planning.plan(BEAT_S + 2 * HOUR_S, on.sites()) == (), "whose tasks they were"
    assert on.events("copies_planned")[1]["sites"] == 2


@pytest.mark.parametrize(
    ("lie", "field"),
    [
        (lambda told: replace(told, rate_usd_per_kwh=(-1e300,) * RATE_H), "rate_usd_per_kwh"),
        (lambda told: replace(told, rate_usd_per_kwh=(float("nan"),) * RATE_H), "rate_usd_per_kwh"),
        (lambda told: replace(told, submission_count=10**12), "submission_count"),
        (
            lambda told: replace(
                told, artifacts=(replace(told.artifacts[0], size_bytes=-(10**9)),)
            ),
            "artifacts.size_bytes",
        ),
        (lambda told: replace(told, at_s=BEAT_S + 5 * HOUR_S, submissions=()), "outlook.at_s"),
        (lambda told: replace(told, at_s=BEAT_S + 0.5, submissions=()), "outlook.at_s"),
    ],
)
async def test_who_lies_is_refused_by_name_and_changes_nothing(
    trio: Trio, tmp_path: Path, lie: Callable[[Outlook], Outlook], field: str
) -> None:
    de, on, other = trio
    has_demand(de, tmp_path)
    outlook = other.planning.exchanged(de.planning.exchanged(empty(on), de.sites()), [])
    told = replace(de.planning.exchanged(outlook, []), site_id=SiteId("in"))
    async with Channels(TOKEN) as channels:
        with pytest.raises(InvalidRequestError) as caught:
            await Peers(channels, brokers=(), predictors=()).exchange_outlook(
                on.site.address, lie(told)
            )
    assert field in (caught.value.field or "")
    on.book = [known(de), known(on)]
    assert len(await on.planning.plan(BEAT_S, on.sites())) == 1
    assert on.events("copies_planned")[0]["sites"] == 2


def empty(agent: Agent) -> Outlook:
    return SiteOutlook(
        agent.participant,
        DemandLog(BEAT_S),
        carbon_price_usd_per_kg=0.5,
        scope=CostScope.OPERATOR,
        began_s=BEAT_S,
    ).at(BEAT_S, now_s=BEAT_S, submission_count_max=0)


async def test_who_is_not_known_is_answered_and_not_believed(trio: Trio) -> None:
    de, on, _ = trio
    stranger = replace(empty(de), site_id=SiteId("who"))
    answer = on.planning.exchanged(stranger, on.sites())
    assert answer.site_id == "on"
    on.book = [known(on)]
    await on.planning.plan(BEAT_S, on.sites())
    assert on.events("copies_planned")[0]["sites"] == 1


async def test_an_answer_in_another_name_is_left_out(trio: Trio) -> None:
    de, on, other = trio
    book = [known(on), known(other, address=de.site.address)]
    await on.planning.plan(BEAT_S, book)
    (missing,) = on.events("outlook_missing")
    assert "answers as de" in missing["error"]
    assert on.events("copies_planned")[0]["sites"] == 1


async def test_a_request_above_the_bound_is_refused(trio: Trio) -> None:
    de, on, _ = trio
    message = to_proto(empty(de), site_pb2.Outlook)
    message.zone = "x" * (OUTLOOK_BYTES_MAX + 1)
    servicer = SiteServicer(cast(Any, SimpleNamespace(planning=on.planning, sites=on.sites)))
    with pytest.raises(InvalidRequestError, match="takes at most"):
        await servicer.ExchangeOutlook(
            site_pb2.ExchangeOutlookRequest(outlook=message), cast(Any, None)
        )


async def test_an_outlook_is_the_same_for_all_who_ask_within_a_beat(trio: Trio) -> None:
    de, on, other = trio
    first = on.planning.exchanged(empty(de), on.sites())
    on.participant.is_draining = True
    assert on.planning.exchanged(empty(other), on.sites()) == first
    assert from_proto(to_proto(first, site_pb2.Outlook), Outlook) == first


async def test_beats_fall_on_whole_hours_of_world_time(
    trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    de, on, _ = trio
    has_demand(de, tmp_path)
    for agent in trio:
        agent.clock = agent.planning._clock = Clock(BEAT_S - 30 * 60, WorldScale(speed=60.0))
    pauses: list[float] = []

    async def pass_time(pause_s: float) -> None:
        pauses.append(pause_s)
        for agent in trio:
            agent.clock.now_s += pause_s * 60.0

    brought: list[Sequence[PlannedCopy]] = []

    def begin(copies: Sequence[PlannedCopy]) -> None:
        brought.append(copies)
        if len(brought) == 2:
            raise asyncio.CancelledError

    monkeypatch.setattr("site_agent.planning.asyncio.sleep", pass_time)
    with pytest.raises(asyncio.CancelledError):
        await on.planning.plan_forever(on.sites, begin)
    assert pauses == [30.0, 60.0], "half an hour and an hour, sixty times as fast"
    assert [len(copies) for copies in brought] == [1, 1], "not brought, so wished for again"


def gives_actors(agent: Agent, directory: Path, *, told: float, scale: float) -> Actors:
    """Give an agent an actor that expects every copy to save `told` times its price."""
    flat = no_weights()._replace(
        shift=np.zeros(FEATURE_COUNT),
        scale=np.ones(FEATURE_COUNT),
        w1=np.zeros((FEATURE_COUNT, HIDDEN)),
        b1=np.zeros(HIDDEN),
        w2=np.zeros((HIDDEN, HIDDEN)),
        b2=np.zeros(HIDDEN),
        w3=np.zeros((HIDDEN, 1)),
        b3=np.array([told]),
        clamp=CLAMP,
        output_max=RATIO_MAX,
    )
    card = card_of(ARTIFACT, FEATURES, output_max=RATIO_MAX, residual_scale=scale)
    graph = graph_of(flat, name=ARTIFACT, input_name=INPUT, output_name=OUTPUT)
    directory.mkdir(exist_ok=True)
    actor_path(ARTIFACT, directory).write_bytes(model_bytes(graph, card))
    log = structlog.wrap_logger(None, processors=[agent.lines])
    # Of a kilobyte's price there is no multiple that says anything.
    agent.planning._tariff = Tariff(0.5, 0.0065, link, byte_ratio=1e6)
    actors = agent.planning._actors = Actors((ARTIFACT,), directory, log)
    actors.load()
    return actors


async def test_what_was_learned_decides_and_is_told_beside_the_plan(
    trio: Trio, tmp_path: Path
) -> None:
    de, on, _ = trio
    has_demand(de, tmp_path)
    actors = gives_actors(on, tmp_path / "actors", told=0.0, scale=1.0)
    assert await on.planning.plan(BEAT_S, on.sites()) == (), "it expects nothing of any copy"
    (status,) = actors.statuses()
    assert (status.residual_ratio, status.fallback_reason) == (1.0, "")
    assert status.call_count == 1, "all candidates in one call"
    (missed,) = on.events("copy_not_learned")
    assert (missed["site"], missed["artifact"]) == ("on", "tiny")


async def test_learned_copy_tells_what_it_would_be_without(trio: Trio, tmp_path: Path) -> None:
    de, on, _ = trio
    has_demand(de, tmp_path)
    gives_actors(on, tmp_path / "actors", told=15.0, scale=1.0)
    (copy,) = await on.planning.plan(BEAT_S, on.sites())
    assert copy.plain_usd != copy.score_usd
    assert f"({copy.plain_usd:.4g} $ without what was learned)" in copy.why
    assert copy.without_learning == "brought, too"


async def test_a_site_keeps_what_it_would_have_done_without_what_was_learned(
    trio: Trio, tmp_path: Path
) -> None:
    de, on, _ = trio
    has_demand(de, tmp_path)
    (copy,) = await on.planning.plan(BEAT_S, on.sites())
    assert copy.without_learning == "", "nothing was learned"
    on.plane.notes = notes = CopyLog(MemoryStore(), on.clock, get_logger())
    await on.bring([replace(copy, plain_usd=-1.0, is_plain=False)])
    assert [(each.kind, each.without_learning) for each in notes.latest(9)] == [
        ("copy_decided", "not brought"),
        ("copy_arrived", "not brought"),
    ]


async def test_actor_at_scale_0_is_asked_and_changes_nothing(trio: Trio, tmp_path: Path) -> None:
    de, on, other = trio
    has_demand(de, tmp_path)
    actors = gives_actors(on, tmp_path / "actors", told=0.0, scale=0.0)
    (copy,) = await on.planning.plan(BEAT_S, on.sites())
    assert copy.plain_usd == copy.score_usd
    assert actors.statuses()[0].call_count > 0
    assert "learned" not in copy.why
    assert await other.planning.plan(BEAT_S, other.sites()) == ()


async def test_actor_that_fails_is_given_up_and_the_rule_plans(trio: Trio, tmp_path: Path) -> None:
    de, on, _ = trio
    has_demand(de, tmp_path)
    actors = gives_actors(on, tmp_path / "actors", told=0.0, scale=1.0)

    def fail(_rows: object) -> Any:
        raise RuntimeError("out of memory")

    found = actors.actor(ARTIFACT)
    assert found is not None
    actors._places[ARTIFACT].found = replace(found, run=fail)
    assert len(await on.planning.plan(BEAT_S, on.sites())) == 1
    (status,) = actors.statuses()
    assert (status.fallback_reason, status.residual_ratio) == ("actor-runtime", 0.0)
    (line,) = on.events("actor_fallback")
    assert "out of memory" in line["message"]


async def test_recorded_plans_are_made_again_alike_by_file_and_arrays(
    trio: Trio, tmp_path: Path
) -> None:
    de, on, other = trio
    has_demand(de, tmp_path)
    records = PlanRecords(tmp_path / "plans", count_max=2)
    for agent in trio:
        gives_actors(agent, tmp_path / "actors", told=6.0, scale=0.5)
    on.planning._keep = records.keep
    for _ in range(3):
        await on.planning.plan(on.clock.now_s // HOUR_S * HOUR_S, on.sites())
        for agent in trio:
            agent.clock.now_s += HOUR_S
    kept = list(records.read())
    assert [record.at_s for record in kept] == [BEAT_S + HOUR_S, BEAT_S + 2 * HOUR_S]
    model, card = read_model(actor_path(ARTIFACT, tmp_path / "actors"))
    weights = weights_in(model.graph)
    file = load_actor(actor_path(ARTIFACT, tmp_path / "actors"), ARTIFACT, FEATURES)
    assert isinstance(file, Actor)
    for record in kept:
        assert record.actor == file.version
        assert len(record.copies) == 1
        for run in (file, partial(forward, weights)):
            again = made_again(record, link, Learned(run, card.residual_scale, is_asked=True))
            assert again == record.copies
            assert is_same(record, again)
        assert not is_same(record, ())
    assert other.events("copies_planned") == []


def test_many_sites_plan_in_cells_that_all_see_alike() -> None:
    ids = [SiteId(f"s{number:03d}") for number in range(100)]
    cells = {cell_of(ids, each) for each in ids}
    assert sorted(len(cell) for cell in cells) == [4, 32, 32, 32]
    assert max(len(cell) for cell in cells) == CELL_COUNT
    assert sorted(site for cell in cells for site in cell) == ids
    assert SiteId("new") in cell_of(ids, SiteId("new"))
