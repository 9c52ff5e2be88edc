"""What an agent answers to clients: one real agent without processes, among peers of paper."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gcos.accounting import Charge, CostScope
from gcos.artifacts import Artifact, ArtifactKind
from gcos.cli.spans import span_s
from gcos.client_records import Plan, Submission
from gcos.clock import WorldScale
from gcos.contract_net import (
    Announcement,
    Award,
    AwardAnswer,
    ChangeKind,
    Holder,
    Refusal,
    Renewal,
    ReportAnswer,
    RunProgress,
)
from gcos.durations import Prediction, PredictionSource, RunTime
from gcos.errors import (
    ArtifactNotFoundError,
    ExhaustedError,
    GcosError,
    InvalidRequestError,
    NoCandidateError,
    NotFoundError,
    PeerUnreachableError,
    RequestIdTakenError,
    UnavailableError,
)
from gcos.ids import ArtifactId, RunId, SiteId, TaskId
from gcos.known_sites import KnownSite, Nomination, NominationQuery, Nominee, SiteBook
from gcos.log_tails import LogTail
from gcos.outlook import Outlook
from gcos.rpc.wire import from_proto
from gcos.signals import Provenance, Signal, SiteSignals, StepSeries
from gcos.sites import Link, Pool, PoolDigest, Site, SiteDigest
from gcos.store import MemoryStore, Write
from gcos.task_events import TaskEvent
from gcos.task_record import Task
from gcos.tasks import Reason, RunState, TaskSpec, TaskState
from gcos.v1 import site_pb2, tasks_pb2
from policies.baselines.joint import JointBidder, LookaheadBidder
from policies.migrators import NoMigrator
from site_agent import runner as runner_module
from site_agent.actors import Actors
from site_agent.config import AgentConfig
from site_agent.copies import Copies
from site_agent.copy_planning import Tariff
from site_agent.custody import CustodyShell
from site_agent.demand_log import DemandLog
from site_agent.dual_cache import DualCache
from site_agent.effects import Note, Observe, Ready
from site_agent.lease import LeaseTerms
from site_agent.migration import Migration
from site_agent.origin import Origin, OriginSettings
from site_agent.outlook import SiteOutlook
from site_agent.participant import Participant
from site_agent.peers import AnnounceAnswer, Draft, award_message
from site_agent.planning import Planning
from site_agent.runner import Runner
from site_agent.sent_workdirs import AWAITED_S
from site_agent.task_servicer import TaskServicer
from testbed.samples import bid_of, ended

WORLD_S = 1_795_442_700.0
PROVENANCE = Provenance("test", "DE", None, None, 0.0, is_estimated=False)
SIGNALS = SiteSignals(
    carbon=Signal(StepSeries.constant(100.0), PROVENANCE, "gCO2/kWh"),
    price=Signal(StepSeries.constant(0.1), PROVENANCE, "USD/kWh"),
)
LOG = b"0123456789"


@dataclass
class Clock:
    now_s: float = 0.0
    scale: WorldScale = field(default_factory=WorldScale)

    def protocol_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return WORLD_S + self.now_s

    def world_s(self) -> float:
        return WORLD_S + self.now_s


def site_of(name: str, zone: str, *, gpu_type: str = "H100") -> Site:
    return Site(
        site_id=SiteId(name),
        incarnation="i",
        address=f"{name}:1",
        zone=zone,
        pue=1.2,
        pools=(Pool(gpu_type, 4, speed_ratio=1, active_kw=1, idle_kw=0, usd_per_gpu_h=2.0),),
        model_cache_bytes=10**9,
        data_cache_bytes=10**9,
    )


def known(
    name: str, zone: str, *, gpu_type: str = "H100", holdings: Sequence[Artifact] = (), **more: Any
) -> KnownSite:
    digest = SiteDigest(
        pools=(PoolDigest(gpu_type, gpu_count=4, free_count=4, committed_gpu_s=0.0),),
        carbon_gco2_per_kwh=100.0,
        price_usd_per_kwh=0.1,
        is_draining=False,
        run_count=0,
        awarded_count=0,
        holdings=tuple(holdings),
        **more,
    )
    return KnownSite(site_of(name, zone, gpu_type=gpu_type), digest, age_s=0.0)


def artifact(name: str, kind: ArtifactKind, letter: str) -> Artifact:
    return Artifact(ArtifactId("sha256:" + letter * 64), kind, name, size_bytes=1000)


@dataclass
class PaperPeers:
    """Sites that refuse, or are silent; a broker that knows some of them; no predictor."""

    book: dict[str, KnownSite] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    is_settled: bool = True
    #: Sites that the broker keeps out, as by a placement.
    excluding: frozenset[str] = frozenset()
    broker_addresses: tuple[str, ...] = ()

    async def sites(self) -> SiteBook:
        return SiteBook(tuple(self.book.values()), self.is_settled)

    async def resolve(self, references: Sequence[str]) -> None:
        raise UnavailableError("nobody keeps a directory")

    async def predict(self, *_: object) -> None:
        raise UnavailableError("nobody predicts")

    async def nominate(self, query: NominationQuery) -> Nomination:
        nominees = [
            Nominee(k.site.site_id, k.site.address, k.site.zone)
            for k in self.all()
            if k.site.site_id not in self.excluding
        ]
        refusals = [
            Refusal(SiteId(name), Reason.PLACEMENT_EXCLUDES, "the placement excludes it")
            for name in sorted(self.excluding)
        ]
        return Nomination(tuple(nominees[:8]), tuple(refusals), (), self.is_settled)

    def all(self) -> list[KnownSite]:
        return [known("de", "DE"), *self.book.values()]

    async def announce(self, address: str, draft: Draft, *, timeout_s: float) -> AnnounceAnswer:
        site = address.partition(":")[0]
        if site in self.silent:
            raise PeerUnreachableError(f"{address} does not answer")
        return AnnounceAnswer(refusal=Refusal(SiteId(site), Reason.QUEUE_FULL, "is full"))

    async def award(self, *_: object) -> None:
        raise PeerUnreachableError("does not answer")

    observe = reject = report = renew = revoke = award


@dataclass
class PaperRuns:
    """Runs whose output is `LOG`."""

    names: frozenset[str] = frozenset()
    is_away: bool = False
    is_forgotten: bool = False
    #: Sent working directories that are to go.
    dropped: list[str] = field(default_factory=list)

    def secret_names(self) -> frozenset[str]:
        return self.names

    async def read_log(self, run_id: RunId, offset: int) -> tuple[bytes, bool]:
        if self.is_forgotten:
            raise NotFoundError("is not kept")
        if self.is_away:
            raise UnavailableError("the site is away")
        data = LOG[offset : offset + 4]
        return data, not data

    async def drop_workdirs(self, names: dict[ArtifactId, str]) -> dict[ArtifactId, bool]:
        self.dropped += names.values()
        return dict.fromkeys(names, True)

    async def cancel(self, run_id: RunId) -> None:
        pass


@dataclass
class Agent:
    runner: Runner
    servicer: TaskServicer
    peers: PaperPeers
    runs: PaperRuns
    clock: Clock

    async def submit(self, spec: dict[str, Any] | bytes, **more: str) -> Submission:
        document = spec if isinstance(spec, bytes) else document_of(**spec)
        request = tasks_pb2.SubmitRequest(document=document, **more)
        return from_proto(await self.servicer.Submit(request, cast(Any, None)), Submission)

    async def plan(self, **spec: Any) -> Plan:
        request = tasks_pb2.PlanRequest(document=document_of(**spec))
        return from_proto(await self.servicer.Plan(request, cast(Any, None)), Plan)

    @property
    def tasks(self) -> dict[Any, Task]:
        return self.runner.origin.tasks


def document_of(**spec: Any) -> bytes:
    text = json.dumps({"apiVersion": "gcos/v1", "kind": "Task", "run": "true", **spec}, indent=1)
    return text.encode()


@contextlib.asynccontextmanager
async def agent(*others: KnownSite, secrets: frozenset[str] = frozenset()) -> AsyncIterator[Agent]:
    """An agent of site `de` whose broker knows `others`."""
    clock, runs = Clock(), PaperRuns(secrets)
    site = site_of("de", "DE")
    peers = PaperPeers({each.site.site_id: each for each in others})
    participant = Participant(
        site=site,
        cache=DualCache(model_capacity_bytes=10**9, data_capacity_bytes=10**9),
        bidder=JointBidder(),
        links=lambda _a, _b: Link(0.01, 1e9, 0.05),
        signals=SIGNALS,
    )
    origin = Origin(
        OriginSettings(
            site_id=site.site_id,
            address=site.address,
            lease=LeaseTerms(),
            carbon_price_usd_per_kg=0.2,
            network_kwh_per_gb=0.0065,
            scope=CostScope.OPERATOR,
        ),
        at_origin=lambda _task, _report: Charge(),
    )
    config = AgentConfig("de", Path("unused"), Path("unused"))
    log = structlog.wrap_logger(None, processors=[_drop])
    async with asyncio.TaskGroup() as group:
        runner = Runner(
            config=config,
            clock=clock,
            store=MemoryStore(),
            origin=origin,
            participant=participant,
            peers=cast(Any, peers),
            runs=cast(Any, runs),
            copies=Copies(
                config=config,
                clock=clock,
                migration=Migration(participant.cache, NoMigrator()),
                participant=participant,
                plane=cast(Any, None),
                custody=CustodyShell(
                    here=Holder(site.site_id, site.zone, site.address),
                    journal=MemoryStore(),
                    plane=cast(Any, None),
                    peers=cast(Any, peers),
                    log=log,
                ),
                links=participant.links,
                log=log,
            ),
            planning=Planning(
                clock=clock,
                outlook=SiteOutlook(
                    participant,
                    DemandLog(clock.world_s()),
                    carbon_price_usd_per_kg=0.2,
                    scope=CostScope.OPERATOR,
                    began_s=clock.world_s(),
                ),
                peers=cast(Any, peers),
                tariff=Tariff(0.2, 0.0065, participant.links),
                log=log,
            ),
            actors=Actors((), None, log),
            signal_source=cast(Any, None),
            links=participant.links,
            group=group,
            log=log,
        )
        await runner.refresh_sites()
        yield Agent(runner, TaskServicer(runner, cast(Any, None)), peers, runs, clock)
        runner.cancel_effects()


def _drop(*_: object) -> Any:
    raise structlog.DropEvent


async def refused(awaited: Any) -> GcosError:
    with pytest.raises(GcosError) as caught:
        await awaited
    assert caught.value.hint, "every refusal tells the next step"
    return caught.value


# ---------------------------------------------------------------- plans


async def test_a_dead_site_stands_in_the_plan_with_code_sentence_and_next_step() -> None:
    async with agent(known("on", "CA-ON"), known("cal", "US-CAL")) as here:
        here.peers.silent.add("on")
        plan = await here.plan()
        assert {bid.site_id for bid in plan.bids} == {"de"}
        codes = {each.site_id: each.reason for each in plan.refusals}
        assert codes == {"on": Reason.NO_SITE_REACHABLE, "cal": Reason.QUEUE_FULL}
        assert all(each.message and each.hint for each in plan.refusals)
        # Its lease ends at the broker, too: it is told of all the same, for as long as it is known.
        del here.peers.book["on"]
        here.clock.now_s += 40
        plan = await here.plan()
        (dead,) = [each for each in plan.refusals if each.site_id == "on"]
        assert (dead.reason, dead.message) == (
            Reason.NO_SITE_REACHABLE,
            "does not answer; last heard 40 s ago",
        )
        assert "gcos sites ls" in dead.hint


async def test_every_known_site_stands_in_a_plan_even_those_not_asked() -> None:
    others = [known(f"s{index:02}", f"Z{index}") for index in range(12)]
    others.append(known("small", "ZZ", gpu_type="T4"))
    async with agent(*others) as here:
        plan = await here.plan(resources={"gpu": {"type": "H100"}})
        told = [bid.site_id for bid in plan.bids] + [each.site_id for each in plan.refusals]
        assert sorted(told) == sorted(["de", *(each.site.site_id for each in others)])
        codes = {each.site_id: each.reason for each in plan.refusals}
        assert codes["s11"] is Reason.NO_BID
        assert codes["small"] is Reason.GPU_TYPE_UNKNOWN
        assert all(each.hint for each in plan.refusals)


@pytest.mark.parametrize("green_h", [1, 5, 12])
async def test_who_follows_the_advised_deadline_gets_the_advertised_offer(green_h: int) -> None:
    async with agent() as here:
        hour_s = WORLD_S - WORLD_S % 3600 + 3600.0
        grams = np.where(np.arange(48) < green_h, 500.0, 20.0)
        carbon = Signal(StepSeries(hour_s, 3600.0, grams), PROVENANCE, "gCO2/kWh")
        here.runner.participant.signals = replace(SIGNALS, carbon=carbon)
        here.runner.participant.bidder = LookaheadBidder()
        spec = {"objective": {"carbon_price_usd_per_kg": 10}}
        plan = await here.plan(**spec)
        (change,) = plan.changes
        assert change.kind is ChangeKind.DEADLINE
        advised = change.message.split()[1]
        (bid,) = (await here.plan(**spec, deadline=advised)).bids
        assert (bid.site_id, bid.start_s) == (change.site_id, change.start_s)
        assert bid.offer_usd == change.offer_usd < plan.bids[0].offer_usd
        # It is the nearest one: a step less does not get it.
        length_s = span_s(advised, option="deadline")
        step_s = 300 if length_s <= 7200 else 900 if length_s <= 12 * 3600 else 3600
        (early,) = (await here.plan(**spec, deadline=f"{length_s - step_s:.0f}s")).bids
        assert early.start_s < change.start_s
        assert not here.tasks


# ---------------------------------------------------------------- request ids


async def test_the_same_document_under_the_same_request_id_gets_the_same_task() -> None:
    async with agent() as here:
        first = await here.submit({"deadline": "6h"}, request_id="night")
        here.clock.now_s += 60  # a duration counts from later, and means the same
        again = await here.submit({"deadline": "6h"}, request_id="night")
        assert (first.is_repeat, again.is_repeat) == (False, True)
        assert again.task.task_id == first.task.task_id
        commented = b"# said again\n" + b'deadline: "6h"\nrun: "true"\nkind: Task\n'
        spaced = await here.submit(commented + b"apiVersion: gcos/v1\n", request_id="night")
        assert spaced.task.task_id == first.task.task_id


async def test_another_document_under_the_same_request_id_is_refused() -> None:
    async with agent() as here:
        first = await here.submit({"request_id": "night"})
        for other in ({"name": "other"}, {"env": {"A": "1"}}, {"run": "false"}):
            error = await refused(here.submit(other, request_id="night"))
            assert isinstance(error, RequestIdTakenError)
            assert (error.code, error.reason) == ("FAILED_PRECONDITION", "REQUEST_ID_TAKEN")
            assert first.task.task_id in error.message
            assert "another --request-id" in error.hint
        located = await refused(here.submit({"name": "x", "request_id": "night"}))
        assert located.message.startswith("line 6, request_id: ")
        assert list(here.tasks) == [first.task.task_id]


async def test_other_files_in_the_working_directory_make_another_task() -> None:
    files = [artifact("workdir-a", ArtifactKind.DATA, letter) for letter in "ab"]
    async with agent(known("on", "CA-ON", holdings=files)) as here:
        named = [f"workdir-a@{each.artifact_id}" for each in files]
        spec = {"workdir": "./code"}
        first = await here.submit(spec, request_id="r", workdir=named[0])
        again = await here.submit(spec, request_id="r", workdir=named[0])
        assert again.task.task_id == first.task.task_id
        error = await refused(here.submit(spec, request_id="r", workdir=named[1]))
        assert isinstance(error, RequestIdTakenError)


async def test_two_documents_that_race_for_one_request_id_make_one_task() -> None:
    async with agent() as here:
        errors: list[GcosError] = []

        async def send(name: str) -> None:
            try:
                await here.submit({"name": name}, request_id="r")
            except GcosError as exc:
                errors.append(exc)

        async with asyncio.TaskGroup() as group:
            group.create_task(send("a"))
            group.create_task(send("b"))
        assert len(here.tasks) == 1
        assert [type(error) for error in errors] == [RequestIdTakenError]


# ---------------------------------------------------------------- what nobody can ever do


@pytest.mark.parametrize(
    ("spec", "line", "field", "words"),
    [
        ({"image": "python:3.12"}, 5, "image", "no site runs container images"),
        ({"secrets": ["HF_TOKEM"]}, 6, "secrets[0]", "did you mean HF_TOKEN?"),
        ({"secrets": ["HF_TOKEN", "OTHER"]}, 7, "secrets[1]", "secrets/OTHER"),
        ({"resources": {"gpu": {"type": "h100"}}}, 7, "resources.gpu.type", "did you mean H100?"),
        ({"resources": {"gpu": {"count": 5}}}, 7, "resources.gpu.count", "write 4 or less"),
        ({"placement": {"allow": ["onn"]}}, 7, "placement.allow[0]", "did you mean on?"),
        ({"placement": {"allow": ["ZA"]}}, 6, "placement.allow", "known: de (DE), on (CA-ON)"),
        ({"placement": {"deny": ["de", "on"]}}, 6, "placement.deny", "known: de (DE), on (CA-ON)"),
        (
            {"placement": {"deny": ["germany"]}},
            7,
            "placement.deny[0]",
            "no site or zone is called 'germany'; known: de (DE), on (CA-ON)",
        ),
        ({"placement": {"prefer": ["x9"]}}, 7, "placement.prefer[0]", "no site or zone is called"),
        (
            {"placement": {"allow": ["de"], "deny": ["DE"]}},
            9,
            "placement.deny",
            "excludes every site that placement.allow admits: de",
        ),
        (
            {"placement": {"allow": ["de"], "deny": ["de"]}},
            10,
            "placement.deny[0]",
            "placement.allow and placement.deny both name 'de'",
        ),
        (
            {"outputs": [{"path": "a", "as": "uri", "uri": "file:///elsewhere/a"}]},
            9,
            "outputs[0].uri",
            "allowed: /srv/results; ask an operator to add its directory to output_roots",
        ),
        (
            {"outputs": [{"path": "a", "as": "uri", "uri": "file:///srv/results"}]},
            9,
            "outputs[0].uri",
            "no site allows outputs to be copied to file:///srv/results",
        ),
        ({"placement": {"deny": ["onn"]}}, 7, "placement.deny[0]", "did you mean on?"),
        ({"placement": {"prefer": ["DE", "ca-on"]}}, 8, "placement.prefer[1]", "mean CA-ON?"),
        (
            {"secrets": ["HF_TOKEN"], "placement": {"allow": ["de"]}},
            6,
            "secrets[0]",
            "that placement admits has a secret",
        ),
    ],
)
async def test_what_no_site_can_ever_do_is_refused_at_once(
    spec: dict[str, Any], line: int, field: str, words: str
) -> None:
    on = known("on", "CA-ON", secret_names=("HF_TOKEN",), output_roots=("/srv/results",))
    async with agent(on) as here:
        error = await refused(here.submit(spec))
        assert error.message.startswith(f"line {line}, {field}: ")
        assert words in str(error)
        assert not here.tasks
        assert str(await refused(here.plan(**spec))) == str(error)


async def test_what_no_one_site_can_do_alone_is_refused_with_each_sites_reason() -> None:
    others = [
        known("on", "CA-ON", gpu_type="T4", runs_images=True),
        known("cal", "US-CAL", secret_names=("KEY",)),
    ]
    async with agent(*others) as here:
        spec = {"image": "x", "secrets": ["KEY"], "resources": {"gpu": {"type": "H100"}}}
        error = await refused(here.submit(spec))
        assert isinstance(error, NoCandidateError)
        for words in ("on: has T4, not H100", "cal: its executor runs no", "de: its executor"):
            assert words in error.message


async def test_a_task_that_one_site_can_run_is_taken() -> None:
    others = known("on", "CA-ON", runs_images=True, secret_names=("KEY",))
    async with agent(others, secrets=frozenset({"OWN"})) as here:
        await here.submit({"image": "python:3.12", "secrets": ["KEY"]})
        await here.submit({"secrets": ["OWN"]})
        await here.submit({"placement": {"deny": ["GB", "ZA"]}})
        assert len(here.tasks) == 3


async def test_a_site_that_is_unknown_to_an_unsettled_broker_may_be_named() -> None:
    async with agent() as here:
        here.peers.is_settled = False
        await here.submit({"placement": {"deny": ["germany"]}})
        assert len(here.tasks) == 1


async def test_a_site_bids_only_for_outputs_that_it_would_copy() -> None:
    async with agent(known("on", "CA-ON", output_roots=("/srv/results",))) as here:
        uri = "file:///srv/results/deep/a.json"
        plan = await here.plan(outputs=[{"path": "a", "as": "uri", "uri": uri}])
        (own,) = [each for each in plan.refusals if each.site_id == "de"]
        assert own.reason is Reason.OUTPUT_REFUSED
        assert uri in own.message
        assert "output_roots" in own.hint


async def test_a_site_that_the_task_excludes_is_told_as_the_tasks_own_wish() -> None:
    async with agent(known("on", "CA-ON")) as here:
        here.peers.excluding = frozenset({"on"})
        plan = await here.plan(placement={"deny": ["CA-ON"]})
        (out,) = plan.refusals
        assert (out.site_id, out.message) == ("on", "placement.deny names CA-ON")
        assert out.hint == "as the task asks; to have it run there, take it off placement.deny"


async def test_a_secret_that_a_site_got_since_it_was_last_heard_is_looked_up() -> None:
    async with agent(known("on", "CA-ON")) as here:
        here.peers.book["on"] = known("on", "CA-ON", secret_names=("KEY",))
        assert (await here.submit({"secrets": ["KEY"]})).task.state is TaskState.QUEUED


async def test_where_sites_may_be_missing_the_task_is_refused_for_now_only() -> None:
    async with agent() as here:
        here.peers.is_settled = False
        await here.runner.refresh_sites()
        error = await refused(here.submit({"image": "python:3.12"}))
        assert isinstance(error, UnavailableError)
        assert "line 5, image: " in error.message


# ---------------------------------------------------------------- artifacts


MODEL = artifact("tiny-lm", ArtifactKind.MODEL, "a")
DATA = artifact("corpus", ArtifactKind.DATA, "b")


@pytest.mark.parametrize(
    ("spec", "kind", "message", "hint"),
    [
        (
            {"model": "tiny-ml"},
            ArtifactNotFoundError,
            "line 5, model: no site holds 'tiny-ml'",
            "did you mean tiny-lm?",
        ),
        (
            {"data": ["corpus", "zzz"]},
            ArtifactNotFoundError,
            "line 7, data[1]: no site holds 'zzz'",
            "gcos cache ls",
        ),
        (
            {"model": "corpus"},
            InvalidRequestError,
            "line 5, model: wanted a model, but 'corpus' is a data set",
            "name it under data: corpus",
        ),
        (
            {"data": "tiny-lm"},
            InvalidRequestError,
            "line 5, data[0]: wanted a data set, but 'tiny-lm' is a model",
            "name it under model: tiny-lm",
        ),
        (
            {"workdir": "code"},
            ArtifactNotFoundError,
            "line 5, workdir: no site holds 'code'",
            "write ./code",
        ),
        (
            {"workdir": "./code"},
            InvalidRequestError,
            "line 5, workdir: './code' is a directory",
            "gcos submit sends it",
        ),
        (
            {"data": "corpus", "workdir": "corpus"},
            InvalidRequestError,
            "line 6, workdir: holds the same files as data[0]",
            "remove one",
        ),
        (
            {"data": "twice"},
            InvalidRequestError,
            "line 5, data[0]: 'twice' stands for 2 contents",
            f"such as twice@sha256:{'c' * 64}",
        ),
    ],
)
async def test_an_artifact_that_is_not_there_is_refused_with_line_and_name(
    spec: dict[str, Any], kind: type[GcosError], message: str, hint: str
) -> None:
    twice = [artifact("twice", ArtifactKind.DATA, letter) for letter in "cd"]
    async with agent(known("on", "CA-ON", holdings=[MODEL, DATA, *twice])) as here:
        error = await refused(here.submit(spec))
        assert type(error) is kind or isinstance(error, InvalidRequestError)
        assert error.message.startswith(message)
        assert hint in error.hint
        assert not here.tasks


async def test_a_content_that_sites_know_by_another_name_goes_by_the_one_asked_for() -> None:
    async with agent(known("on", "CA-ON", holdings=[DATA])) as here:
        spec = {"workdir": "./code"}
        taken = await here.submit(spec, workdir=f"corpus@{DATA.artifact_id}")
        assert [need.name for need in taken.task.needs] == ["corpus"]


# ---------------------------------------------------------------- working directories


SENT = artifact("workdir-code-0f0f0f0f", ArtifactKind.DATA, "e")
SENT_AS = {"workdir": f"{SENT.name}@{SENT.artifact_id}"}


def _upload(here: Agent) -> None:
    here.runner.workdirs.uploaded(SENT.artifact_id, now_s=here.clock.now_s)


async def _settled(here: Agent) -> list[str]:
    """Let the agent do what it has begun."""
    for _ in range(20):
        await asyncio.sleep(0)
    return here.runs.dropped


async def test_a_working_directory_goes_with_the_end_of_the_last_task_that_names_it() -> None:
    async with agent(known("on", "CA-ON", holdings=[SENT])) as here:
        tasks = []
        for _ in range(2):
            _upload(here)
            tasks.append((await here.submit({"workdir": "./code"}, **SENT_AS)).task)
        assert tasks[0].spec.is_workdir_sent
        await here.runner.cancel(tasks[0].task_id)
        assert await _settled(here) == []
        await here.runner.cancel(tasks[1].task_id)
        assert await _settled(here) == [SENT.name]


@pytest.mark.parametrize(
    "spec", [{"workdir": "./code", "resources": {"gpu": "nope"}}, {"workdir": "./code", "modle": 1}]
)
async def test_a_working_directory_of_a_refused_task_goes_at_once(spec: dict[str, Any]) -> None:
    async with agent(known("on", "CA-ON", holdings=[SENT])) as here:
        _upload(here)
        await refused(here.submit(spec, **SENT_AS))
        assert here.runs.dropped == [SENT.name]


async def test_a_working_directory_waits_for_the_submission_that_its_upload_announces() -> None:
    async with agent(known("on", "CA-ON", holdings=[SENT])) as here:
        _upload(here)
        task = (await here.submit({"workdir": "./code"}, **SENT_AS)).task
        _upload(here)  # the same files once more, to be named in a moment
        await here.runner.cancel(task.task_id)
        assert await _settled(here) == []
        again = (await here.submit({"workdir": "./code"}, **SENT_AS)).task
        await here.runner.cancel(again.task_id)
        assert await _settled(here) == [SENT.name]


async def test_a_repeated_submission_leaves_no_working_directory_behind() -> None:
    async with agent(known("on", "CA-ON", holdings=[SENT])) as here:
        spec, more = {"workdir": "./code"}, {**SENT_AS, "request_id": "r"}
        _upload(here)
        task = (await here.submit(spec, **more)).task
        _upload(here)
        assert (await here.submit(spec, **more)).is_repeat
        assert await _settled(here) == [], "its task goes on"
        await here.runner.cancel(task.task_id)
        assert await _settled(here) == [SENT.name]
        _upload(here)
        assert (await here.submit(spec, **more)).is_repeat
        assert await _settled(here) == [SENT.name] * 2


async def test_what_may_be_submitted_again_is_kept_for_a_while() -> None:
    async with agent() as here:
        here.peers.is_settled = False
        await here.runner.refresh_sites()
        _upload(here)
        problem = await refused(here.submit({"workdir": "./code"}, **SENT_AS))
        assert problem.code == "UNAVAILABLE"
        assert await _settled(here) == []
        here.clock.now_s += AWAITED_S
        await here.runner.drop_workdirs()
        assert here.runs.dropped == [SENT.name]


@pytest.mark.parametrize("reference", ["corpus", f"corpus@{DATA.artifact_id}"])
async def test_an_artifact_that_was_not_sent_for_a_task_stays(reference: str) -> None:
    async with agent(known("on", "CA-ON", holdings=[DATA])) as here:
        task = (await here.submit({"workdir": "./code"}, workdir=reference)).task
        named = (await here.submit({"workdir": reference})).task
        for each in (task, named):
            await here.runner.cancel(each.task_id)
        await refused(here.submit({"workdir": "./code", "modle": 1}, workdir=reference))
        assert await _settled(here) == []


async def test_an_agent_that_died_before_it_removed_one_removes_it_later() -> None:
    async with agent(known("on", "CA-ON", holdings=[SENT])) as here:
        task = (await here.submit({"workdir": "./code"}, **SENT_AS)).task
        live = here.runner.origin.tasks[task.task_id]
        here.runner.origin.tasks[task.task_id] = ended(live)
        here.runner.origin.active.clear()
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(here.runner.workdirs_forever())
            assert await _settled(here) == [SENT.name]
            looking.cancel()


# ---------------------------------------------------------------- logs


async def log_of(here: Agent, **more: Any) -> list[tuple[int, bytes, str]]:
    (task_id,) = here.tasks
    request = tasks_pb2.ReadLogRequest(task_id=task_id, **more)
    pieces = here.servicer.ReadLog(request, cast(Any, None))
    return [(piece.offset_bytes, piece.data, piece.run_id) async for piece in pieces]


@pytest.mark.parametrize(
    ("offset", "expected"),
    [(0, [(0, b"0123"), (4, b"4567"), (8, b"89")]), (7, [(7, b"789")]), (10, []), (99, [])],
)
async def test_a_log_is_read_from_the_byte_asked_for(
    offset: int, expected: list[tuple[int, bytes]]
) -> None:
    async with agent() as here:
        task = (await here.submit({"placement": {"allow": "de"}})).task
        run = _let_run(here, task)
        pieces = await log_of(here, offset_bytes=offset)
        assert pieces == [(position, data, run) for position, data in expected]
        assert await log_of(here, offset_bytes=offset, run_id=run) == pieces
        # An offset in an earlier attempt means nothing in this one.
        assert (
            b"".join(data for _, data, _ in await log_of(here, offset_bytes=7, run_id="x")) == LOG
        )


async def test_the_tail_that_came_with_the_report_is_there_when_the_site_is_not() -> None:
    async with agent() as here:
        task = (await here.submit({"placement": {"allow": "de"}})).task
        run = _let_run(here, task)
        here.runs.is_away = True
        problem = await refused(log_of(here))
        assert problem.code == "UNAVAILABLE"
        assert problem.hint.endswith(f"gcos status {task.task_id}")
        done = ended(here.runner.origin.tasks[task.task_id])
        assert done.report is not None
        report = replace(done.report, run_id=run, log_tail="the end\n")
        here.runner.origin.tasks[task.task_id] = replace(done, report=report)
        for follow in (False, True):
            assert await log_of(here, follow=follow) == [(0, b"the end\n", run)]


async def silent_pieces(here: Agent, **more: Any) -> list[tuple[int, bytes, float, str, bool]]:
    (task_id,) = here.tasks
    request = tasks_pb2.ReadLogRequest(task_id=task_id, **more)
    pieces = here.servicer.ReadLog(request, cast(Any, None))
    return [
        (each.offset_bytes, each.data, each.heard_s, each.site_id, each.is_silent)
        async for each in pieces
        if each.HasField("heard_s")
    ]


def _hear(here: Agent, run: RunId, offset: int, text: str) -> None:
    tail = LogTail(offset, offset + len(text), text)
    progress = RunProgress(run, RunState.RUNNING, Reason.EXECUTING, tail=tail)
    here.runner.origin.renew(Renewal(SiteId("de"), "i", (progress,)), now=here.runner.now())


async def test_the_tail_that_came_with_a_renewal_is_there_when_the_site_is_not() -> None:
    async with agent() as here:
        task = (await here.submit({"placement": {"allow": "de"}})).task
        run = _let_run(here, task)
        _hear(here, run, 100, "the last\n")
        here.runs.is_away = True
        assert await silent_pieces(here) == [(100, b"the last\n", WORLD_S, "de", True)]
        assert await silent_pieces(here, offset_bytes=104, run_id=run) == [
            (104, b"last\n", WORLD_S, "de", True)
        ]
        here.runs.is_forgotten = True
        assert [is_silent for *_, is_silent in await silent_pieces(here)] == [False]
        listed = await here.servicer.ListTasks(tasks_pb2.ListTasksRequest(), cast(Any, None))
        assert not listed.tasks[0].HasField("tail"), "lists stay short"
        request = tasks_pb2.GetTaskRequest(task_id=task.task_id)
        shown = await here.servicer.GetTask(request, cast(Any, None))
        assert shown.task.tail.tail.text == "the last\n"


async def test_who_follows_is_shown_the_tail_once_and_goes_on_with_the_next_attempt() -> None:
    async with agent() as here, asyncio.timeout(20):
        task = (await here.submit({"placement": {"allow": "de"}})).task
        run = _let_run(here, task)
        _hear(here, run, 2, "234\n")
        here.runs.is_away = True
        request = tasks_pb2.ReadLogRequest(task_id=task.task_id, follow=True)
        pieces = here.servicer.ReadLog(request, cast(Any, None))
        told = await anext(pieces)
        assert (told.offset_bytes, told.data, told.run_id) == (2, b"234\n", run)
        _hear(here, run, 4, "4\nnew\n")  # it cannot be reached, but it reaches its origin
        told = await anext(pieces)
        assert (told.offset_bytes, told.data, told.run_id) == (6, b"new\n", run)
        # Elsewhere it is tried again, and this attempt is read from its beginning.
        here.runner.origin.tasks[task.task_id] = replace(
            here.runner.origin.tasks[task.task_id],
            fence=here.runner.origin.tasks[task.task_id].fence.next_attempt(),
            tail=None,
        )
        here.runs.is_away = False
        told = await anext(pieces)
        assert (told.offset_bytes, told.data, told.HasField("heard_s")) == (0, b"0123", False)
        assert told.run_id != run
        await pieces.aclose()


async def test_what_lies_between_is_read_when_the_site_is_back() -> None:
    """A tail that does not follow on what was read must not hide what is between."""
    async with agent() as here, asyncio.timeout(20):
        task = (await here.submit({"placement": {"allow": "de"}})).task
        run = _let_run(here, task)
        _hear(here, run, 6, "6789")
        here.runs.is_away = True
        request = tasks_pb2.ReadLogRequest(
            task_id=task.task_id, follow=True, offset_bytes=3, run_id=run
        )
        pieces = here.servicer.ReadLog(request, cast(Any, None))
        assert (await anext(pieces)).data == b"6789"
        here.runs.is_away = False
        assert (await anext(pieces)).data == b"3456"
        await pieces.aclose()


async def test_renewals_carry_tails_to_other_origins_only() -> None:
    async with agent() as here:
        asked: list[list[RunId]] = []

        async def tails(run_ids: list[RunId]) -> dict[RunId, LogTail]:
            asked.append(run_ids)
            return {}

        here.runs.tails = tails  # type: ignore[attr-defined]
        await here.runner._renew("de:1")
        assert asked == []
        await here.runner._renew("on:1")
        assert asked == [[]]


async def test_a_report_is_repeated_as_often_as_a_lease_is_renewed() -> None:
    """An origin that comes back takes the run for lost after a lease."""
    async with agent() as here, asyncio.timeout(20):
        here.runner.config = replace(here.runner.config, lease_s=0.003)
        attempt_count = 0

        async def report(*_: object) -> ReportAnswer:
            nonlocal attempt_count
            attempt_count += 1
            if attempt_count < 20:
                raise PeerUnreachableError("does not answer")
            return ReportAnswer(is_accepted=True)

        here.peers.report = report
        told = ended((await here.submit({})).task).report
        assert told is not None
        await here.runner._send_report("on:1", told)
        assert attempt_count == 20


async def test_a_log_begins_at_no_negative_byte() -> None:
    async with agent() as here:
        await here.submit({})
        assert (await refused(log_of(here, offset_bytes=-1))).code == "INVALID_ARGUMENT"


def _let_run(here: Agent, task: Task) -> RunId:
    """Let the latest attempt of a task run here."""
    bid = here.runner.participant.bid(
        here.runner.origin.announcement(
            task.task_id, task.spec, fence=task.fence.next_attempt(), needs=(), predictions=()
        ),
        now=here.runner.now(),
    )
    assert isinstance(bid, Refusal), "nothing is predicted"
    running = replace(
        task,
        state=TaskState.RUNNING,
        fence=task.fence.next_attempt(),
        bid=replace(bid_of("de"), task_id=task.task_id),
    )
    here.runner.origin.tasks[task.task_id] = running
    return running.active_run_id


# ---------------------------------------------------------------- announcing


@pytest.mark.parametrize("is_news", [False, True])
async def test_what_is_announced_has_the_holders_that_the_broker_named(is_news: bool) -> None:
    """The message is made while the broker is asked, and anew where its answer is other."""
    model = artifact("org/tiny", ArtifactKind.MODEL, "a")
    async with agent(known("on", "CA-ON", holdings=(model,))) as here:
        drafts: list[Draft] = []
        nominate, announce = here.peers.nominate, here.peers.announce
        [need] = await here.runner.resolve(TaskSpec("t", command=("true",), model="org/tiny"))
        if is_news:
            need = replace(need, holders=(*need.holders, Holder(SiteId("cal"), "US-CAL", "cal:1")))

        async def nominated(query: NominationQuery) -> Nomination:
            return replace(await nominate(query), needs=(need,))

        async def announced(address: str, draft: Draft, *, timeout_s: float) -> AnnounceAnswer:
            drafts.append(draft)
            return await announce(address, draft, timeout_s=timeout_s)

        here.peers.nominate, here.peers.announce = nominated, announced
        await here.plan(model="org/tiny")
        (draft,) = drafts
        assert draft.announcement.needs == (need,)
        assert from_proto(draft.message.announcements[0], Announcement) == draft.announcement


async def test_what_a_broker_refuses_is_told_as_it_said_it() -> None:
    async with agent() as here:

        async def nominate(_query: NominationQuery) -> Nomination:
            raise ExhaustedError("is busy", hint="wait")

        here.peers.nominate = nominate  # type: ignore[method-assign]
        assert isinstance(await refused(here.plan()), ExhaustedError)


async def test_what_an_agent_that_ends_still_wrote_begins_nothing() -> None:
    async with agent() as here:
        heard = []

        async def observe(observation: object) -> None:
            heard.append(observation)

        here.peers.observe = observe  # type: ignore[method-assign]
        written = here.runner.apply(Ready((), (Observe(cast(Any, "a run")),)))
        here.runner.cancel_effects()
        await written
        for _ in range(5):
            await asyncio.sleep(0)
        assert heard == []


EVENT = Note(TaskId("de-1"), TaskEvent(0.0, "task_submitted", ""))


class SlowStore(MemoryStore):
    """A store whose disk waits, and may fail then."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = asyncio.Event()
        self.error: GcosError | None = None

    async def commit(self, writes: Sequence[Write]) -> None:
        await self.may_go_on.wait()
        if self.error is not None:
            raise self.error
        await super().commit(writes)


@pytest.mark.parametrize("error", [None, ExhaustedError("the disk is full", hint="make room")])
async def test_an_answer_without_a_write_follows_the_writes_before_it(
    error: GcosError | None,
) -> None:
    """A lease that is renewed may not be on disk yet: whoever hears of it executes."""
    async with agent() as here:
        store = here.runner.store = SlowStore()
        store.error = error
        written = cast("asyncio.Future[None]", here.runner.apply(Ready((EVENT,))))
        answered = cast("asyncio.Future[None]", here.runner.apply(Ready()))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not answered.done()
        store.may_go_on.set()
        if error is None:
            await answered
            assert written.done()
        else:
            for waiting in (written, answered):
                with pytest.raises(UnavailableError):
                    await waiting
            store.error = None
            for late in (Ready(), Ready((EVENT,))):
                with pytest.raises(UnavailableError):  # the cores are ahead of the disk for good
                    await here.runner.apply(late)


async def test_nobody_reads_of_an_end_that_is_not_on_disk() -> None:
    async with agent() as here:
        task = (await here.submit({})).task
        store = here.runner.store = SlowStore()
        async with asyncio.TaskGroup() as group:
            group.create_task(here.runner.cancel(task.task_id))
            await asyncio.sleep(0)
            request = tasks_pb2.GetTaskRequest(task_id=task.task_id)
            read = group.create_task(here.servicer.GetTask(request, cast(Any, None)))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not read.done()
            store.may_go_on.set()
        assert read.result().task.state == tasks_pb2.TASK_STATE_CANCELLED


async def test_what_may_begin_at_once_does_not_wait_for_the_disk() -> None:
    async with agent() as here:
        store = here.runner.store = SlowStore()
        heard = []

        async def observe(observation: object) -> None:
            heard.append(observation)

        here.peers.observe = observe  # type: ignore[method-assign]
        effects = [Observe(cast(Any, name)) for name in ("at once", "once written")]
        written = here.runner.apply(Ready((EVENT,), (effects[1],), at_once=(effects[0],)))
        for _ in range(20):
            await asyncio.sleep(0)
        assert heard == ["at once"]
        store.may_go_on.set()
        await written
        for _ in range(5):
            await asyncio.sleep(0)
        assert heard == ["at once", "once written"]


async def test_the_award_that_was_made_ahead_is_the_one_that_was_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = artifact("org/tiny", ArtifactKind.MODEL, "a")
    async with agent(known("on", "CA-ON", gpu_type="A100", holdings=(model,))) as here:
        heard: list[site_pb2.NegotiateRequest] = []

        def made(award: Award) -> site_pb2.NegotiateRequest:
            assert here.tasks[award.task_id].state is TaskState.QUEUED, "made ahead"
            return award_message(award)

        monkeypatch.setattr(runner_module, "award_message", made)

        async def announce(address: str, draft: Draft, *, timeout_s: float) -> AnnounceAnswer:
            bid = replace(bid_of("on"), task_id=draft.announcement.task_id, pool_type="A100")
            return AnnounceAnswer(bid=bid)

        async def award(address: str, message: site_pb2.NegotiateRequest) -> AwardAnswer:
            heard.append(message)
            return AwardAnswer(True)

        here.peers.announce = announce  # type: ignore[method-assign]
        here.peers.award = award  # type: ignore[method-assign]
        task = (
            await here.submit({"model": "org/tiny", "resources": {"gpu": {"type": "A100"}}})
        ).task
        for _ in range(100):
            await asyncio.sleep(0)
        (message,) = heard
        awarded = here.tasks[task.task_id]
        assert awarded.state is TaskState.LEASED
        decided = here.runner.origin._award_of(awarded, "A100")
        assert message == award_message(decided)
        assert [each.pool_type for each in decided.predictions] == ["A100"]


# ---------------------------------------------------------------- progress


async def test_progress_reaches_whoever_watches_at_once() -> None:
    """Bytes alone are no change that is written, and yet they are shown."""
    async with agent() as here:
        task = (await here.submit({})).task
        run = _let_run(here, task)
        waiting = asyncio.Event()

        async def watch() -> None:
            waiting.set()
            await here.runner.changed(timeout_s=3600)

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(watch())
            await waiting.wait()
            progress = RunProgress(
                run, RunState.RUNNING, Reason.EXECUTING, fetched_bytes=7, fetch_bytes=9
            )
            await here.runner.renew(Renewal(SiteId("de"), "i", (progress,)))
        assert here.tasks[task.task_id].fetched_bytes == 7


# ---------------------------------------------------------------- malformed documents


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
_NAMES = st.sampled_from(["de", "onn", "CA-ON", "tiny-ml", "corpus", "./code", "~nobody/x", "H200"])
_FIELDS = st.sampled_from(
    ["model", "data", "workdir", "image", "secrets", "placement", "resources", "outputs", "env"]
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(
        _FIELDS,
        _VALUES
        | _NAMES
        | st.lists(_NAMES, max_size=2)
        | st.dictionaries(st.sampled_from(["allow", "deny", "prefer", "gpu", "A"]), _NAMES),
        min_size=1,
        max_size=2,
    )
)
def test_a_malformed_document_is_refused_whole_with_its_next_step(spec: dict[str, Any]) -> None:
    async def check() -> None:
        async with agent(known("on", "CA-ON", holdings=[MODEL, DATA])) as here:
            problem: GcosError | None = None
            try:
                await here.submit(document_of(**spec), request_id="r")
            except GcosError as exc:
                problem = exc
            taken_count = 1 if problem is None else 0
            assert len(here.tasks) == len(here.runner.origin.requests) == taken_count
            assert problem is None or (problem.message and problem.hint)

    asyncio.run(check())


async def test_bytes_that_arrive_renew_early_and_no_bytes_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner_module, "PROGRESS_S", 0.0)
    async with agent() as here, asyncio.timeout(20), asyncio.TaskGroup() as group:
        looking = group.create_task(here.runner.progress_forever())
        here.runner.participant.moved_bytes[RunId("r")] = 5
        await here.runner._renew_now.wait()
        here.runner._renew_now.clear()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not here.runner._renew_now.is_set()
        looking.cancel()


# ---------------------------------------------------------------- what is expected again


async def test_tasks_of_the_journal_are_expected_again_unless_they_are_bound_to_a_place() -> None:
    async with agent(known("on", "CA-ON")) as here:
        await here.submit({"name": "free"})
        await here.submit({"name": "bound", "placement": {"allow": ["de"]}})
        await here.submit({"name": "unasked"})
        predicted = (
            Prediction(
                "H100", RunTime.lognormal(60.0, 0.1), source=PredictionSource.PRIOR, is_cold=True
            ),
        )
        tasks = [
            replace(task, predictions=() if task.spec.name == "unasked" else predicted)
            for task in here.tasks.values()
        ]
        here.runner.recall(tasks)
        beat_s = math.ceil(here.clock.world_s() / 3600) * 3600.0
        asker = replace(outlook_of(here), site_id=SiteId("on"), at_s=beat_s)
        told = here.runner.planning.exchanged(asker, here.runner.sites())
        names = [here.tasks[each.task_id].spec.name for each in told.submissions]
        assert names == ["free"]


def outlook_of(here: Agent) -> Outlook:
    return SiteOutlook(
        here.runner.participant,
        DemandLog(WORLD_S),
        carbon_price_usd_per_kg=0.2,
        scope=CostScope.OPERATOR,
        began_s=WORLD_S,
    ).at(WORLD_S, now_s=WORLD_S, submission_count_max=0)
