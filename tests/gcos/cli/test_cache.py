"""`gcos cache` against the real operator service, store and sources; only the rest is fake."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from gcos.artifacts import ArtifactKind
from gcos.cli.main import main
from gcos.cli.output import Output
from gcos.client import Client
from gcos.contract_net import ArtifactNeed
from gcos.ids import RunId, SiteId
from gcos.rpc.channels import Channels
from gcos.store import MemoryStore
from gcos.system import SystemClock
from site_agent.artifact_store import ArtifactStore
from site_agent.cache_marks import MARKS_NAME, CacheMarks
from site_agent.config import AgentConfig, SourcesConfig
from site_agent.copy_log import CopyLog
from site_agent.operator_servicer import OperatorServicer
from site_agent.transfer import ArtifactPlane
from testbed.fake_registries import FakeUpstream, Fault, serving_upstream
from testbed.fakes import FAKE_TOKEN, FakeAgent


def _drop(*_: object) -> Any:
    """What the agent logs would land between what the commands print."""
    raise structlog.DropEvent


SILENT: Any = structlog.wrap_logger(None, processors=[_drop])
BODY = bytes(range(256)) * 8000
VERBS = (
    *("PullArtifact", "PinArtifact", "VerifyArtifacts", "PruneCache", "RemoveArtifact"),
    *("ListCache", "AddArtifact", "ReadCopyLog"),
)


class CacheAgent(FakeAgent):
    """A fake agent with a real cache."""

    operator: OperatorServicer


def delegated(verb: str) -> Callable[..., Awaitable[Any]]:
    async def call(self: CacheAgent, request: Any, context: Any) -> Any:
        return await getattr(self.operator, verb)(request, context)

    return call


for each in VERBS:
    setattr(CacheAgent, each, delegated(each))


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@dataclass
class Cluster:
    """One site with a real cache."""

    path: Path
    store: ArtifactStore
    agent: CacheAgent
    environ: dict[str, str]
    capture: pytest.CaptureFixture[str]
    copy_log: CopyLog
    beat_count: int = 0
    plane: ArtifactPlane | None = None

    def restart(self) -> None:
        """Serve as a new process would, over the same store."""
        assert self.plane is not None
        self.agent.operator = self.operator(self.plane)

    async def gcos(self, *words: str) -> Ran:
        code = await run_main(words, self.environ)
        captured = self.capture.readouterr()
        return Ran(code, captured.out, captured.err)

    async def beat_now(self) -> None:
        self.beat_count += 1

    def operator(self, plane: ArtifactPlane) -> OperatorServicer:
        config = AgentConfig(
            site="de",
            data_dir=self.path,
            token_file=self.path / "token",
            artifact_roots=(self.path / "shared",),
            sources=SourcesConfig(hosts=("http://127.0.0.1",), networks=("127.0.0.1/32",)),
        )

        async def holders_of(need: ArtifactNeed) -> ArtifactNeed:
            return need

        runner: Any = SimpleNamespace(
            holders_of=holders_of,
            config=config,
            clock=SystemClock(),
            log=SILENT,
            beat_now=self.beat_now,
            participant=SimpleNamespace(
                cache=plane.cache, site=SimpleNamespace(site_id=SiteId("de"))
            ),
        )
        marks = CacheMarks(config.data_dir / MARKS_NAME)
        return OperatorServicer(runner, plane, self.copy_log, marks, self.path / "uploads")


async def run_main(words: Sequence[str], environ: dict[str, str]) -> int:
    loop = asyncio.get_running_loop()

    def on_this_loop(body: Coroutine[Any, Any, int]) -> int:
        return asyncio.run_coroutine_threadsafe(body, loop).result()

    return await asyncio.to_thread(main, words, environ=environ, run=on_this_loop)


@pytest.fixture
async def cluster(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> AsyncIterator[Cluster]:
    (tmp_path / "shared").mkdir()
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(FAKE_TOKEN)
    store = ArtifactStore.open(
        tmp_path / "cache",
        site_id=SiteId("de"),
        model_capacity_bytes=10_000_000,
        data_capacity_bytes=10_000_000,
        allowed_roots=[tmp_path / "shared"],
    )
    agent = CacheAgent()
    copy_log = CopyLog(MemoryStore(), SystemClock(), SILENT)
    async with (
        Channels(FAKE_TOKEN) as channels,
        ArtifactPlane(store, channels, SystemClock(), SILENT, notes=copy_log) as plane,
        agent.serving(),
    ):
        environ = {
            "GCOS_HOME": str(tmp_path / "home"),
            "GCOS_AGENT": agent.address,
            "GCOS_TOKEN_FILE": str(token),
        }
        cluster = Cluster(tmp_path, store, agent, environ, capfd, copy_log)
        cluster.plane = plane
        cluster.restart()
        yield cluster


@pytest.fixture
def upstream() -> Any:
    with serving_upstream() as server:
        yield server


Pull = Callable[..., Awaitable[str]]


@pytest.fixture
def pull(cluster: Cluster, upstream: FakeUpstream) -> Pull:
    async def run(name: str, body: bytes = BODY) -> str:
        url = upstream.put(f"/{name}", body + name.encode())
        ran = await cluster.gcos("cache", "pull", url, "--as", name, "--kind", "data")
        assert ran.code == 0, ran.err
        return ran.out.strip()

    return run


async def test_a_pull_prints_the_id_and_the_listing_its_source(
    cluster: Cluster, upstream: FakeUpstream, pull: Pull
) -> None:
    artifact_id = await pull("text")
    listed = await cluster.gcos("cache", "ls", "-o", "json")
    (cache,) = json.loads(listed.out)["items"]
    assert cache["marks"][0]["reference"] == f"{upstream.url}/text"
    assert cache["entries"][0]["artifact"]["artifact_id"] == artifact_id
    table = (await cluster.gcos("cache", "ls")).out
    assert "whole" in table
    assert f"{upstream.url}/text" in table
    assert cluster.beat_count == 1, "the broker hears of it at once"
    again = await cluster.gcos(
        "cache", "pull", f"{upstream.url}/text", "--as", "text", "--kind", "data"
    )
    assert "was there before: text" in again.err


async def test_a_pull_tells_how_far_it_is(
    cluster: Cluster, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause after an interruption lasts until the client has heard of what came before."""
    heard = threading.Event()
    puller = cluster.agent.operator._puller
    monkeypatch.setattr(puller, "_pause", lambda _: heard.wait(timeout=60.0))
    url = upstream.put("/text", BODY)
    upstream.fail("/text", Fault(cut_after_bytes=700_000))
    async with Client.connect(environ=cluster.environ) as client:
        async for each in client.pull_artifact(url, name="text", kind=ArtifactKind.DATA):
            if 0 < each.received_bytes < len(BODY):
                heard.set()
            last = each
    assert heard.is_set()
    assert last.artifact is not None
    assert last.received_bytes == last.size_bytes == len(BODY)


async def test_a_pull_tells_once_what_interrupted_it(
    cluster: Cluster, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause lasts until the client has said why, so that it cannot miss it."""
    said: list[str] = []
    heard = [threading.Event(), threading.Event()]
    say = Output.say

    def listened(out: Output, text: str) -> None:
        say(out, text)
        said.append(text)
        for each in heard:
            each.set()

    waiting = iter([*heard, threading.Event()])
    monkeypatch.setattr(Output, "say", listened)
    monkeypatch.setattr(
        cluster.agent.operator._puller, "_pause", lambda _: next(waiting).wait(timeout=60.0)
    )
    url = upstream.put("/text", BODY)
    upstream.fail("/text", Fault(503), Fault(503))
    ran = await cluster.gcos("cache", "pull", url, "--as", "text", "--kind", "data")
    assert ran.code == 0
    assert ran.err.count("interrupted, to be tried again: ") == 1
    assert "HTTP status 503" in said[0]


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("https://evil.example/x", ["reads nothing from", "[sources]"]),
        ("gopher", ["is no reference"]),
        ("file:///etc/passwd", ["not under a directory"]),
        ("s3://bucket/x", ["below no root"]),
    ],
)
async def test_a_refused_reference_says_why_and_what_to_do(
    cluster: Cluster, reference: str, words: list[str]
) -> None:
    ran = await cluster.gcos("cache", "pull", reference, "--kind", "data")
    assert ran.code == 2
    assert all(word in ran.err for word in words)


async def test_the_log_tells_what_came_what_went_and_why(cluster: Cluster, pull: Pull) -> None:
    assert "nothing was decided yet" in (await cluster.gcos("cache", "log")).err
    await pull("a", bytes(6_000_000))
    await pull("b", bytes(6_000_000))
    await cluster.gcos("cache", "rm", "b")
    (log,) = json.loads((await cluster.gcos("cache", "log", "-o", "json")).out)["items"]
    assert [(each["kind"], each["name"]) for each in log["events"]] == [
        ("pulled", "a"),
        ("evicted", "a"),
        ("pulled", "b"),
        ("removed", "b"),
    ]
    assert log["events"][1]["why"].startswith("makes room for b: of 1 that could go, value ranked")
    table = (await cluster.gcos("cache", "log", "-n", "1")).out
    assert "removed by the operator" in table
    assert "evicted" not in table
    ran = await cluster.gcos("cache", "log", "--task", "de-0000000000000")
    assert "nothing was decided yet" in ran.err


async def test_the_listing_tells_why_a_copy_is_here(cluster: Cluster, pull: Pull) -> None:
    await pull("a")
    (cache,) = json.loads((await cluster.gcos("cache", "ls", "-o", "json")).out)["items"]
    assert cache["marks"][0]["why"] == "pulled"


@pytest.mark.parametrize("count", ["-1", "0", "1001"])
async def test_a_log_has_limits(cluster: Cluster, count: str) -> None:
    ran = await cluster.gcos("cache", "log", "-n", count)
    assert ran.code == 2
    assert "from 1 to 1000" in ran.err


async def test_a_pin_survives_a_restart_and_keeps_from_eviction(
    cluster: Cluster, pull: Pull
) -> None:
    artifact_id = await pull("a", bytes(6_000_000))
    assert (await cluster.gcos("cache", "pin", "a")).err == "pinned a\n"
    assert "was pinned before: a" in (await cluster.gcos("cache", "pin", "a")).err
    cluster.store.cache.unpin(artifact_id, RunId("operator"))  # as a new process begins
    cluster.restart()
    assert "pinned" in (await cluster.gcos("cache", "ls")).out
    refused = await cluster.gcos("cache", "rm", "a")
    assert refused.code == 2
    assert "it is pinned" in refused.err
    assert "gcos cache unpin a" in refused.err
    with pytest.raises(AssertionError, match="CACHE_FULL"):
        await pull("b", bytes(6_000_000))
    await cluster.gcos("cache", "unpin", "a")
    await pull("b", bytes(6_000_000))
    assert not cluster.store.cache.has(artifact_id)


async def test_rm_refuses_what_is_used_or_in_custody_and_says_how(
    cluster: Cluster, pull: Pull
) -> None:
    artifact_id = await pull("a")
    cluster.store.cache.pin(artifact_id, RunId("de-1.1.1"))
    assert "1 run needs it" in (await cluster.gcos("cache", "rm", "a", "--dry-run")).err
    cluster.store.cache.unpin(artifact_id, RunId("de-1.1.1"))
    cluster.store.cache.open_reader(artifact_id)
    assert "reads it now" in (await cluster.gcos("cache", "rm", "a")).err
    cluster.store.cache.close_reader(artifact_id)
    place = cluster.path / "shared" / "own"
    place.mkdir()
    (place / "x").write_bytes(b"own")
    await cluster.gcos("cache", "add", "own", str(place), "--kind", "data")
    refused = await cluster.gcos("cache", "rm", "own")
    assert "custodian" in refused.err
    assert "--give-up-custody" in refused.err
    assert (await cluster.gcos("cache", "rm", "own", "--give-up-custody")).code == 0
    dry = await cluster.gcos("cache", "rm", "a", "--dry-run")
    assert "would remove a" in dry.err
    assert cluster.store.cache.has(artifact_id)
    gone = await cluster.gcos("cache", "rm", artifact_id)
    assert (gone.code, gone.out.strip()) == (0, artifact_id)
    cluster.store.check_invariants()
    assert (await cluster.gcos("cache", "rm", "a")).code == 2


async def test_prune_removes_what_was_used_longest_ago(cluster: Cluster, pull: Pull) -> None:
    first, second, third = [await pull(name, bytes(2_000_000)) for name in "abc"]
    await cluster.gcos("cache", "pin", "a")
    words = ("cache", "prune", "--to-gb", "0.005", "--dry-run")
    dry = await cluster.gcos(*words)
    assert "would go" in dry.out
    assert "stays: it is pinned" in dry.out
    assert all(cluster.store.cache.has(each) for each in (first, second, third))
    ran = await cluster.gcos("cache", "prune", "--to-gb", "0.005")
    assert "freed 2 MB; 4 MB held" in ran.err
    assert not cluster.store.cache.has(second)
    assert (await cluster.gcos("cache", "prune", "--unused-for", "1h", "-q")).out == ""
    over = await cluster.gcos("cache", "prune", "--to-gb", "0")
    assert "the rest stays" in over.err
    assert cluster.store.cache.has(first)
    cluster.store.check_invariants()


@pytest.mark.parametrize("size", ["inf", "nan", "1e300", "1e10"])
async def test_prune_refuses_what_is_no_size(cluster: Cluster, size: str) -> None:
    ran = await cluster.gcos("cache", "prune", "--to-gb", size, "--dry-run")
    assert ran.code == 2
    assert "--to-gb" in ran.err


async def test_prune_must_be_told_how_much(cluster: Cluster) -> None:
    ran = await cluster.gcos("cache", "prune")
    assert ran.code == 2
    assert "--to-gb 0 removes all that may go" in ran.err


async def test_verify_reads_every_byte_and_names_what_is_damaged(
    cluster: Cluster, upstream: FakeUpstream, pull: Pull
) -> None:
    artifact_id = await pull("a")
    await pull("b")
    assert "2 artifacts verified" in (await cluster.gcos("cache", "verify")).err
    file = cluster.store.path_of(artifact_id) / "a"  # type: ignore[arg-type]
    file.chmod(0o600)
    with file.open("r+b") as opened:
        opened.write(b"!")
    ran = await cluster.gcos("cache", "verify", "a")
    assert ran.code == 4
    assert "damaged" in ran.out
    hints = []
    upstream.put("/a", b"?" * (len(BODY) + 1))
    for more in ((), ("--repair",)):
        told = await cluster.gcos("cache", "verify", "a", "-o", "json", *more)
        assert told.code == 4
        hints.append(json.loads(told.err.splitlines()[-1])["hint"])
    assert "gcos cache verify --repair" in hints[0]
    assert "gcos cache pull" in hints[1]
    (entry,) = json.loads(told.out)
    assert "is not what a was pulled from any more" in entry["repair_problem"]
    (cache,) = json.loads((await cluster.gcos("cache", "ls", "-o", "json")).out)["items"]
    assert [each["is_damaged"] for each in cache["entries"]] == [True, False]
    assert [mark["reference"] for mark in cache["marks"]] == [
        f"{upstream.url}/{name}" for name in sorted("ab", key=cache_ids(cache).__getitem__)
    ]
    assert "damaged" in (await cluster.gcos("cache", "ls")).out
    assert "pinned a" in (await cluster.gcos("cache", "pin", "a")).err
    assert "damaged, pinned" in (await cluster.gcos("cache", "ls")).out
    upstream.put("/a", BODY + b"a")
    mended = await cluster.gcos("cache", "verify", "a", "--repair")
    assert mended.code == 0
    assert "mended 1 MB" in mended.err
    assert "damaged" not in (await cluster.gcos("cache", "ls")).out
    log = (await cluster.gcos("cache", "log")).out
    assert "mended" in log
    assert (await cluster.gcos("cache", "verify", "none")).code == 2


def cache_ids(cache: dict[str, Any]) -> dict[str, str]:
    artifacts = [entry["artifact"] for entry in cache["entries"]]
    return {each["name"]: each["artifact_id"] for each in artifacts}


async def test_a_name_of_two_contents_must_be_told_apart(cluster: Cluster, pull: Pull) -> None:
    first = await pull("a")
    second = await pull("a", b"other")
    ran = await cluster.gcos("cache", "pin", "a")
    assert ran.code == 2
    assert "2 artifacts are called 'a'" in ran.err
    assert (await cluster.gcos("cache", "pin", f"a@{second}")).out.strip() == second
    assert (await cluster.gcos("cache", "rm", f"a@{first}")).code == 0


@pytest.mark.parametrize("verb", ["ls", "add", "pull", "pin", "unpin", "verify", "prune", "rm"])
def test_every_verb_has_an_example_in_its_help(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", verb, "--help"], environ={}) == 0
    assert f"gcos cache {verb}" in capsys.readouterr().out
