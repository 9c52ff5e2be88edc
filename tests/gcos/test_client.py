"""The client against fake agents that talk real gRPC on loopback."""

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

import gcos
from gcos.artifacts import ArtifactKind, checked_name
from gcos.client import BACKOFF_S_MAX, OUTAGE_S_MAX, Client
from gcos.client_records import (
    AddedArtifact,
    Cancellation,
    Plan,
    SiteCache,
    SiteLedger,
    SiteListing,
    SiteSignalsReading,
    Submission,
)
from gcos.clock import WorldScale
from gcos.errors import (
    GcosError,
    InvalidRequestError,
    InvalidTaskError,
    PeerUnreachableError,
    QueueFullError,
    SiteDrainingError,
    UnauthenticatedError,
    UnknownSiteError,
    UnknownTaskError,
)
from gcos.home import (
    LocalCluster,
    discover,
    forget_cluster,
    home_directory,
    read_cluster,
    write_cluster,
)
from gcos.ids import SiteId, TaskId
from gcos.rpc.wire import check_pair
from gcos.tasks import TaskState
from gcos.v1 import operator_pb2, tasks_pb2
from testbed import samples
from testbed.fakes import FAKE_TOKEN, FakeAgent
from testbed.samples import CAL, DE

DOCUMENT = b"apiVersion: gcos/v1\nkind: Task\nrun: echo hello\n"
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(FAKE_TOKEN)
    return path


@pytest.fixture
async def agent() -> AsyncIterator[FakeAgent]:
    fake = FakeAgent()
    async with fake.serving():
        yield fake


@pytest.fixture
async def client(agent: FakeAgent, token_file: Path) -> AsyncIterator[Client]:
    async with Client.connect(agent.address, token_file, environ={}) as connected:
        yield connected


@dataclass
class StoppedClock:
    """A clock that moves when it is told to."""

    now_s: float = 0.0
    scale: WorldScale = field(default_factory=WorldScale)

    def protocol_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s

    def world_s(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Submission, tasks_pb2.SubmitResponse),
        (Plan, tasks_pb2.PlanResponse),
        (Cancellation, tasks_pb2.CancelTaskResponse),
        (SiteLedger, tasks_pb2.ListLedgerResponse),
        (SiteListing, operator_pb2.ListSitesResponse),
        (SiteCache, operator_pb2.ListCacheResponse),
        (AddedArtifact, operator_pb2.AddArtifactResponse),
        (SiteSignalsReading, operator_pb2.ReadSignalsResponse),
    ],
)
def test_records_mirror_their_messages(record: type, message: type) -> None:
    check_pair(record, message)


def test_the_package_hands_out_the_client() -> None:
    assert gcos.Client is Client
    with pytest.raises(AttributeError, match="no attribute 'Server'"):
        _ = gcos.Server


async def test_a_submission_comes_back_as_a_task(client: Client, agent: FakeAgent) -> None:
    submission = await client.submit(DOCUMENT.decode(), request_id="night")
    assert submission == Submission(
        next(iter(agent.tasks.values())), durability="local", is_repeat=False
    )
    assert agent.documents == [(DOCUMENT, "night")]


async def test_a_repeated_submission_gets_the_earlier_task(client: Client) -> None:
    first = await client.submit(DOCUMENT, "night")
    again = await client.submit(DOCUMENT, "night")
    assert again == replace(first, is_repeat=True)


async def test_a_wrong_document_is_refused_with_its_field(client: Client) -> None:
    with pytest.raises(InvalidTaskError, match="did you mean run") as caught:
        await client.submit(DOCUMENT + b"rum: x\n")
    assert caught.value.field == "rum"


async def test_a_submission_without_answer_says_that_it_may_have_been_taken(
    client: Client, agent: FakeAgent
) -> None:
    agent.refusal = PeerUnreachableError("gone")
    with pytest.raises(PeerUnreachableError, match="may have been taken"):
        await client.submit(DOCUMENT)


async def test_a_draining_agent_says_so(client: Client, agent: FakeAgent) -> None:
    agent.refusal = SiteDrainingError("de is draining", hint="use another agent")
    with pytest.raises(SiteDrainingError, match="use another agent"):
        await client.submit(DOCUMENT)


async def test_a_plan_arrives_whole(client: Client, agent: FakeAgent) -> None:
    agent.plan = samples.plan_of_two()
    assert await client.plan(DOCUMENT) == agent.plan


async def test_an_unknown_task_is_not_found(client: Client) -> None:
    for ask in (client.task, client.cancel, client.wait):
        with pytest.raises(UnknownTaskError, match="no task de-x"):
            await ask(TaskId("de-x"))


async def test_a_cancelled_task_is_cancelled_once(client: Client, agent: FakeAgent) -> None:
    await agent.put(task := samples.task_named("1"))
    assert (await client.cancel(task.task_id)).is_cancelled
    again = await client.cancel(task.task_id)
    assert not again.is_cancelled
    assert again.task == await client.task(task.task_id)


async def test_the_log_arrives_byte_for_byte(client: Client, agent: FakeAgent) -> None:
    await agent.put(task := samples.task_named("1"))
    agent.log = (b"\xff\x00one\n", b"two")
    assert [piece async for piece in client.log(task.task_id)] == [b"\xff\x00one\n", b"two"]


@dataclass
class BreakingAgent(FakeAgent):
    """Serves `output` from the byte asked for, and breaks off after each piece of three bytes.

    Attributes:
        output: Output by attempt, the latest last.
        asked: What was asked for: attempt and byte.
    """

    output: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)

    async def ReadLog(
        self, request: tasks_pb2.ReadLogRequest, context: object
    ) -> AsyncIterator[tasks_pb2.ReadLogResponse]:
        self.asked.append((request.run_id, request.offset_bytes))
        run_id = list(self.output)[-1]
        offset = request.offset_bytes if request.run_id in {"", run_id} else 0
        data = self.output[run_id][offset : offset + 3]
        if data:
            yield tasks_pb2.ReadLogResponse(data=data, offset_bytes=offset, run_id=run_id)
            raise SiteDrainingError("the agent stops")


async def no_pause(_seconds: float) -> None:
    return None


async def test_a_log_that_breaks_off_goes_on_where_it_stopped(token_file: Path) -> None:
    agent = BreakingAgent(output={"r.1": b"01234567"})
    await agent.put(task := samples.task_named("1"))
    async with (
        agent.serving(),
        Client.connect(agent.address, token_file, environ={}, pause=no_pause) as client,
    ):
        pieces = [piece async for piece in client.log(task.task_id, follow=True)]
        assert pieces == [b"012", b"345", b"67"]
        assert agent.asked == [("", 0), ("r.1", 3), ("r.1", 6), ("r.1", 8)]
        tail = [piece async for piece in client.log(task.task_id, follow=True, offset_bytes=7)]
        assert tail == [b"7"]


async def test_a_log_goes_on_with_the_beginning_of_the_next_attempt(token_file: Path) -> None:
    agent = BreakingAgent(output={"r.1": b"old"})
    await agent.put(task := samples.task_named("1"))
    async with (
        agent.serving(),
        Client.connect(agent.address, token_file, environ={}, pause=no_pause) as client,
    ):
        pieces = []
        async with contextlib.aclosing(client.log(task.task_id, follow=True)) as reading:
            async for piece in reading:
                pieces.append(piece)
                agent.output.setdefault("r.2", b"new")
        assert pieces == [b"old", b"new"]


async def test_a_log_that_is_not_followed_fails_where_no_agent_answers(
    agent: FakeAgent, client: Client
) -> None:
    await agent.put(task := samples.task_named("1"))
    agent.refusal = SiteDrainingError("it stops")
    with pytest.raises(SiteDrainingError):
        _ = [piece async for piece in client.log(task.task_id)]


@pytest.mark.parametrize("verb", ["plan", "submit"])
async def test_a_working_directory_that_cannot_be_sent_is_refused_by_plan_and_submit_alike(
    agent: FakeAgent, client: Client, tmp_path: Path, verb: str
) -> None:
    agent.plan = samples.plan_of_two()
    call = client.plan if verb == "plan" else client.submit
    code = tmp_path / "code"
    document = DOCUMENT + b"workdir: ./code\n"

    async def refused(words: str) -> None:
        with pytest.raises(InvalidRequestError, match=words) as caught:
            await call(document, directory=tmp_path)
        assert caught.value.message.startswith("line 4, workdir: ")
        assert caught.value.hint

    await refused("is no directory")
    code.mkdir()
    await refused("holds no bytes")
    (code / "a").write_text("a")
    (code / "link").symlink_to("/etc/passwd")
    await refused("link is a link")
    with pytest.raises(InvalidRequestError, match="home of nobody"):
        await call(DOCUMENT + b"workdir: ~nobody-at-all/code\n")
    assert not agent.documents


async def test_nothing_is_sent_for_a_document_that_is_wrong(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "main.py").write_text("print()")

    async def put(*_: object) -> AddedArtifact:
        raise AssertionError("sent all the same")

    monkeypatch.setattr(client, "put_artifact", put)
    with pytest.raises(InvalidTaskError, match="line 5, modle: unknown key"):
        await client.submit(DOCUMENT + b"workdir: .\nmodle: x\n", directory=tmp_path)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"name: nightly tune/7\n", r"workdir-nightly-tune-7-[0-9a-f]{8}"),
        (b"", r"workdir-code-[0-9a-f]{8}"),
        ("name: '日本'\n".encode(), r"workdir-[0-9a-f]{8}"),
    ],
)
async def test_a_working_directory_is_named_after_its_task_and_content(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes, name: str
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "main.py").write_text("print()")
    sent: list[str] = []

    async def put(name: str, kind: ArtifactKind, path: Path) -> AddedArtifact:
        sent.append(checked_name(name, field="name"))
        return AddedArtifact(samples.cache_entry().artifact, is_new=True)

    monkeypatch.setattr(client, "put_artifact", put)
    with contextlib.suppress(GcosError):  # the fake agent takes no uploads
        await client.submit(DOCUMENT + head + b"workdir: ./code\n", directory=tmp_path)
    assert re.fullmatch(name, sent[0])


async def test_an_artifact_is_added_where_it_is_asked_for(agent: FakeAgent, client: Client) -> None:
    other = FakeAgent(CAL)
    async with other.serving():
        agent.peers = (other,)
        here = await client.add_artifact("tiny", ArtifactKind.DATA, Path("/d"))
        there = await client.add_artifact("tiny", ArtifactKind.MODEL, Path("/m"), CAL)
    assert (here.artifact.kind, here.artifact.custodian) == (ArtifactKind.DATA, DE)
    assert (there.artifact.kind, there.artifact.custodian) == (ArtifactKind.MODEL, CAL)
    assert (agent.added, other.added) == ([Path("/d")], [Path("/m")])


async def test_an_unknown_site_is_told_with_the_nearest(client: Client) -> None:
    with pytest.raises(UnknownSiteError, match="known sites: de"):
        await client.cache(SiteId("mars"))
    with pytest.raises(UnknownSiteError, match="did you mean de"):
        await client.signals(SiteId("des"))


async def test_tasks_of_all_sites_are_gathered_newest_first(
    client: Client, agent: FakeAgent
) -> None:
    other = FakeAgent(CAL)
    old, young = samples.task_named("1"), samples.task_named("2", origin=CAL)
    young = replace(young, submitted_s=young.submitted_s + 1)
    await agent.put(old)
    await agent.put(samples.ended(samples.task_named("3")))
    await other.put(young)
    async with other.serving():
        agent.peers = (other,)
        found = await client.tasks(only_active=True)
        own = await client.tasks(everywhere=False)
    assert (found.items, found.unreachable) == ((young, old), ())
    assert [task.origin for task in own.items] == [DE, DE]


async def test_a_site_without_answer_is_reported_and_the_others_are_shown(
    client: Client, agent: FakeAgent
) -> None:
    dead = FakeAgent(CAL, address=NOWHERE)
    foreign = FakeAgent(SiteId("on"))
    async with foreign.serving("another-token-0123456"):
        agent.peers = (dead, foreign)
        found = await client.cache()
    assert [cache.site_id for cache in found.items] == [DE]
    assert [each.site_id for each in found.unreachable] == [CAL, "on"]
    assert found.unreachable[0].address == NOWHERE
    assert "token" in found.unreachable[1].message


async def test_where_no_site_answers_there_is_nothing_to_show(
    client: Client, agent: FakeAgent
) -> None:
    agent.refusal = SiteDrainingError("draining")
    with pytest.raises(PeerUnreachableError, match="no site answers"):
        await client.tasks()


async def test_another_error_of_a_site_is_an_error(client: Client, agent: FakeAgent) -> None:
    agent.refusal = QueueFullError("full")
    with pytest.raises(QueueFullError):
        await client.ledger()


async def test_ledger_entries_come_oldest_first_and_since_an_instant(
    client: Client, agent: FakeAgent
) -> None:
    old, young = (samples.ledger_entry(TaskId(f"de-{i}")) for i in range(2))
    young = replace(young, ended_s=old.ended_s + 60)
    agent.ledger = (young, old)
    assert (await client.ledger()).entries == (old, young)
    assert (await client.ledger(old.ended_s + 1)).entries == (young,)


async def test_signals_cover_the_hours_asked_for(client: Client) -> None:
    (reading,) = (await client.signals(horizon_h=5)).items
    assert reading.carbon is not None
    assert len(reading.carbon.values) == len(reading.price.values) == 5
    assert await client.world_now_s() == samples.NOW_S


async def test_a_broker_that_is_away_makes_the_list_of_sites_stale(
    client: Client, agent: FakeAgent
) -> None:
    agent.is_broker_away = True
    listing = await client.sites()
    assert not listing.is_fresh
    assert [known.site for known in listing.sites] == [agent.site]


async def test_a_watch_yields_each_change_until_the_end(client: Client, agent: FakeAgent) -> None:
    task = samples.task_named("1")
    changes = [task, samples.running(task), samples.ended(task)]
    await agent.put(changes.pop(0))
    seen = []
    async with contextlib.aclosing(client.watch(task.task_id)) as watched:
        async for each in watched:
            seen.append(each.state)
            if changes:
                await agent.put(changes.pop(0))
    assert seen == [TaskState.QUEUED, TaskState.RUNNING, TaskState.SUCCEEDED]


async def test_a_watch_survives_the_restart_of_the_agent(token_file: Path) -> None:
    agent, task = FakeAgent(), samples.task_named("1")
    await agent.put(task)
    pauses: list[float] = []
    async with contextlib.AsyncExitStack() as later, contextlib.AsyncExitStack() as first:
        await first.enter_async_context(agent.serving())

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                await agent.put(samples.ended(task))
                await later.enter_async_context(agent.serving())

        connecting = Client.connect(agent.address, token_file, environ={}, pause=pause)
        client = await later.enter_async_context(connecting)
        seen = []
        async for each in client.watch(task.task_id):
            seen.append(each.state)
            await first.aclose()
    assert seen == [TaskState.QUEUED, TaskState.SUCCEEDED]
    assert pauses[:3] == [0.1, 0.2, 0.4]
    assert max(pauses) <= BACKOFF_S_MAX


async def test_a_watch_goes_on_at_another_agent(token_file: Path) -> None:
    task = samples.task_named("1")
    agent, other = FakeAgent(), FakeAgent(CAL)
    await agent.put(task)
    await other.put(samples.ended(task))

    async def pause(_seconds: float) -> None:
        pass

    async with contextlib.AsyncExitStack() as first, other.serving():
        await first.enter_async_context(agent.serving())
        agents = f"{agent.address},{other.address}"
        async with Client.connect(agents, token_file, environ={}, pause=pause) as client:
            async for _ in client.watch(task.task_id):
                await first.aclose()
    assert other.watch_count == 1


async def test_a_watch_gives_up_after_an_outage_and_not_before(token_file: Path) -> None:
    clock, agent, task = StoppedClock(), FakeAgent(), samples.task_named("1")
    await agent.put(task)

    async def pause(_seconds: float) -> None:
        clock.now_s += 100.0

    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(agent.serving())
        connecting = Client.connect(agent.address, token_file, environ={}, clock=clock, pause=pause)
        async with connecting as client:
            watched = client.watch(task.task_id)
            await anext(watched)
            await stack.aclose()
            with pytest.raises(PeerUnreachableError):
                await anext(watched)
    assert OUTAGE_S_MAX < clock.now_s <= OUTAGE_S_MAX + 200


async def test_a_wait_ends_at_its_own_limit(agent: FakeAgent, token_file: Path) -> None:
    clock, task = StoppedClock(), samples.task_named("1")
    await agent.put(task)

    async def pause(_seconds: float) -> None:
        clock.now_s += 1.0

    connecting = Client.connect(agent.address, token_file, environ={}, clock=clock, pause=pause)
    async with connecting as client:
        with pytest.raises(TimeoutError, match=r"not ended within 0\.05 s"):
            await client.wait(task.task_id, timeout_s=0.05)


async def test_a_wait_returns_the_ended_task(client: Client, agent: FakeAgent) -> None:
    await agent.put(task := samples.ended(samples.task_named("1"), exit_code=3))
    assert await client.wait(task.task_id) == task


async def test_the_first_agent_that_answers_is_used(agent: FakeAgent, token_file: Path) -> None:
    agents = f" {NOWHERE}, {agent.address}"
    async with Client.connect(agents, token_file, environ={}) as client:
        assert client.site_id == DE


async def test_no_agent_that_answers_is_one_clear_error(token_file: Path) -> None:
    with pytest.raises(PeerUnreachableError, match=f"no agent answers at {NOWHERE}.*gcos up"):
        async with Client.connect(NOWHERE, token_file, environ={}):
            pass


async def test_a_wrong_token_is_told_at_once(agent: FakeAgent, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.touch(mode=0o600)
    path.write_text("another-token-0123456")
    with pytest.raises(UnauthenticatedError, match="--token-file"):
        async with Client.connect(agent.address, path, environ={}):
            pass


CLUSTER = LocalCluster(
    agents={DE: "127.0.0.1:2", CAL: "127.0.0.1:3"},
    broker="127.0.0.1:4",
    predictor="127.0.0.1:5",
    token_file="/run/token",
    speed=60.0,
    byte_ratio=1000.0,
    pids={"broker": 17},
)


def test_a_cluster_is_written_down_for_its_owner_only(tmp_path: Path) -> None:
    environ = {"GCOS_HOME": str(tmp_path / "a" / "gcos")}
    assert read_cluster(environ) is None
    path = write_cluster(CLUSTER, environ)
    assert read_cluster(environ) == CLUSTER
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [each.name for each in path.parent.iterdir()] == ["cluster.json"]
    forget_cluster(environ)
    forget_cluster(environ)
    assert read_cluster(environ) is None


def test_the_home_is_in_the_users_directory_by_default() -> None:
    assert home_directory({"HOME": "/home/ann"}) == Path("/home/ann/.local/share/gcos")


def test_a_damaged_cluster_file_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text("{")
    with pytest.raises(InvalidRequestError, match=r"cluster\.json is damaged"):
        read_cluster({"GCOS_HOME": str(tmp_path)})


def test_an_option_beats_the_environment_and_that_the_local_cluster(tmp_path: Path) -> None:
    environ = {"GCOS_HOME": str(tmp_path)}
    write_cluster(CLUSTER, environ)
    found = discover(environ)
    assert (found.agents, found.token_file) == (("127.0.0.1:3", "127.0.0.1:2"), Path("/run/token"))
    environ |= {"GCOS_AGENT": "127.0.0.1:8,127.0.0.1:9", "GCOS_TOKEN_FILE": "/e"}
    found = discover(environ)
    assert (found.agents, found.token_file) == (("127.0.0.1:8", "127.0.0.1:9"), Path("/e"))
    found = discover(environ, "127.0.0.1:7", Path("/o"))
    assert (found.agents, found.token_file) == (("127.0.0.1:7",), Path("/o"))


def test_an_agent_alone_takes_the_token_of_the_local_cluster(tmp_path: Path) -> None:
    environ = {"GCOS_HOME": str(tmp_path)}
    with pytest.raises(InvalidRequestError, match="no token file is known"):
        discover(environ, "127.0.0.1:7")
    write_cluster(CLUSTER, environ)
    assert discover(environ, "127.0.0.1:7").token_file == Path("/run/token")


def test_without_any_cluster_the_next_step_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="start one with: gcos up"):
        discover({"GCOS_HOME": str(tmp_path)})
