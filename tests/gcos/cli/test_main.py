"""Whole command lines against fake agents.

The command line runs in a thread, its coroutine on the loop of the test: two loops in one process
trip over each other in grpc.aio (LIMITS, traps).
"""

import asyncio
import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gcos.artifacts import ArtifactKind
from gcos.cli.main import main
from gcos.cli.top_view import Snapshot
from gcos.client_records import Plan, Scales, Submission
from gcos.contract_net import ArtifactNeed
from gcos.document import DOCUMENT_BYTES_MAX
from gcos.errors import (
    ArtifactNotFoundError,
    GcosError,
    InvalidRequestError,
    NoBidError,
    NoCandidateError,
    QueueFullError,
    SiteDrainingError,
    UnauthenticatedError,
)
from gcos.ids import ArtifactId, RunId, SiteId
from gcos.ledger_totals import LedgerSummary
from gcos.log_tails import HeardTail, LogTail
from gcos.next_steps import next_step
from gcos.rpc.wire import to_proto
from gcos.schema import task_schema
from gcos.task_events import TaskEvent
from gcos.task_record import Task
from gcos.tasks import Reason, TaskState
from gcos.v1 import operator_pb2, tasks_pb2
from testbed import samples
from testbed.fakes import FAKE_TOKEN, FakeAgent
from testbed.samples import CAL, DE

DOCUMENT = "apiVersion: gcos/v1\nkind: Task\nname: hello\ndeadline: 6h\nrun: echo hello\n"


@dataclass(frozen=True)
class Ran:
    """What a command line left behind."""

    code: int
    out: str
    err: str


Gcos = Callable[..., Awaitable[Ran]]


@pytest.fixture
async def agent() -> AsyncIterator[FakeAgent]:
    fake = FakeAgent(plan=samples.plan_of_two(), entries=(samples.cache_entry(),))
    async with fake.serving():
        yield fake


@pytest.fixture
def environ(tmp_path: Path, agent: FakeAgent) -> dict[str, str]:
    token_file = tmp_path / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(FAKE_TOKEN)
    return {
        "GCOS_HOME": str(tmp_path / "home"),
        "GCOS_AGENT": agent.address,
        "GCOS_TOKEN_FILE": str(token_file),
    }


@pytest.fixture
def job(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(DOCUMENT)
    return str(path)


@pytest.fixture
def gcos(environ: dict[str, str], capfd: pytest.CaptureFixture[str]) -> Gcos:
    async def run(*arguments: str) -> Ran:
        code = await run_main(arguments, environ)
        captured = capfd.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


async def run_main(arguments: Sequence[str], environ: dict[str, str]) -> int:
    loop = asyncio.get_running_loop()

    def on_this_loop(body: Coroutine[Any, Any, int]) -> int:
        return asyncio.run_coroutine_threadsafe(body, loop).result()

    return await asyncio.to_thread(main, arguments, environ=environ, run=on_this_loop)


def columns(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


async def test_a_plan_is_a_table_with_its_refusals_and_footnotes(gcos: Gcos, job: str) -> None:
    ran = await gcos("plan", job)
    lines = ran.out.splitlines()
    assert (ran.code, ran.err) == (0, "")
    assert columns(lines[0]) == [
        *["SITE", "GPU", "START", "UTC", "RUN p50/p90", "FETCH", "COST $", "CO2 g"],
        *["DEADLINE ok %"],
        *["CHOSEN", "REASON"],
    ]
    assert columns(lines[1])[-3:] == ["96", "yes", "lowest offer, 1.70 $"]
    assert columns(lines[5]) == ["in", "GPU_TYPE_UNKNOWN", "no H100 here"]
    assert "carbon price: 0.200 $/kg" in ran.out
    assert "scaled" not in ran.out
    assert "\x1b" not in ran.out


async def test_a_plan_of_a_scaled_world_says_so(gcos: Gcos, agent: FakeAgent, job: str) -> None:
    agent.plan = replace(samples.plan_of_two(), scales=Scales(60.0, 1.0))
    assert "world time runs 60 x as fast" in (await gcos("plan", job)).out


async def test_a_plan_without_offers_says_so(gcos: Gcos, agent: FakeAgent, job: str) -> None:
    agent.plan = replace(samples.plan_of_two(), bids=(), chosen_site_id=None)
    ran = await gcos("plan", job)
    assert ran.out.startswith("no site offers to run this task\n")
    assert (await gcos("plan", job, "-q")).out == ""


async def test_json_is_the_record_on_stdout_alone(gcos: Gcos, job: str) -> None:
    ran = await gcos("plan", job, "-o", "json")
    assert ran.err == ""
    document = json.loads(ran.out)
    assert list(document) == list(Plan.__dataclass_fields__)
    assert document["bids"][0]["site_id"] == "de"
    assert document["refusals"][0]["reason"] == "GPU_TYPE_UNKNOWN"


async def test_shared_options_may_stand_before_or_after_the_command(gcos: Gcos, job: str) -> None:
    after = await gcos("plan", job, "-o", "json")
    assert await gcos("-o", "json", "plan", job) == after
    assert (await gcos("-q", "plan", job)).out == "de\n"


async def test_an_option_names_agent_and_token(
    gcos: Gcos, environ: dict[str, str], agent: FakeAgent
) -> None:
    token_file = environ.pop("GCOS_TOKEN_FILE")
    del environ["GCOS_AGENT"]
    ran = await gcos("queue")
    assert (ran.code, ran.out) == (2, "")
    assert "hint: start one with: gcos up" in ran.err
    ran = await gcos("queue", "--agent", agent.address, "--token-file", token_file)
    assert (ran.code, ran.err) == (0, "no active tasks; see: gcos queue --all\n")


async def test_submit_prints_the_id_and_talks_on_stderr(
    gcos: Gcos, agent: FakeAgent, job: str
) -> None:
    ran = await gcos("submit", job, "--request-id", "night")
    (task_id,) = agent.tasks
    assert (ran.code, ran.out) == (0, f"{task_id}\n")
    assert ran.err.splitlines() == ["taken by de (local)", f"next: gcos status {task_id}"]
    assert agent.documents == [(DOCUMENT.encode(), "night")]
    again = await gcos("submit", job, "--request-id", "night", "-q")
    assert again == Ran(0, f"{task_id}\n", "")


class DecidesAtOnce(FakeAgent):
    """An agent whose tasks run when they are watched."""

    async def WatchTask(self, request, context):  # type: ignore[no-untyped-def]
        await self.put(samples.running(self.tasks[request.task_id]))
        async for response in super().WatchTask(request, context):
            yield response


async def test_submit_explains_the_decision(
    job: str, environ: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    fake = DecidesAtOnce(events=auctions(1))
    async with fake.serving():
        there = environ | {"GCOS_AGENT": fake.address}
        assert await run_main(["submit", job, "--explain"], there) == 0
        out = capfd.readouterr().out.splitlines()
        assert out[0] == next(iter(fake.tasks))
        assert " is RUNNING (EXECUTING) at site de" in out[1]
        assert any(line.startswith("the announcement, 11-23 14:05Z") for line in out)
        assert any(line.startswith("de ") and line.endswith("chosen") for line in out)
        assert await run_main(["submit", job, "--explain", "-o", "json"], there) == 0
        told = json.loads(capfd.readouterr().out)
        assert told["submission"]["task"]["state"] == "RUNNING"
        assert [event["kind"] for event in told["explanation"]["events"]] == ["auction_closed"]


def auctions(count: int) -> tuple[TaskEvent, ...]:
    return tuple(
        TaskEvent(
            *(samples.NOW_S - count + 1 + number, "auction_closed", "1 offers; best: de"),
            site_id=DE,
            bids=(samples.bid_of(DE),),
        )
        for number in range(count)
    )


async def test_explain_shows_the_last_announcements_and_with_all_every_one(
    gcos: Gcos, agent: FakeAgent
) -> None:
    await agent.put(task := samples.task_named("1"))
    agent.events = auctions(5)
    shown = (await gcos("explain", task.task_id)).out
    assert re.findall(r"^announcement (\d) of 5", shown, re.MULTILINE) == ["3", "4", "5"]
    assert f"offers of 2 earlier announcements: gcos explain {task.task_id} --all" in shown
    shown = (await gcos("explain", task.task_id, "--all")).out
    assert re.findall(r"^announcement (\d) of 5", shown, re.MULTILINE) == list("12345")


async def test_explain_tells_which_copies_were_moved_because_of_the_task(
    gcos: Gcos, agent: FakeAgent
) -> None:
    await agent.put(task := samples.task_named("1"))
    assert "because of this task" not in (await gcos("explain", task.task_id)).out
    event = replace(samples.copy_event(), task_id=task.task_id)
    agent.copy_events = (event, replace(event, name="of-another", task_id=None))
    shown = (await gcos("explain", task.task_id)).out
    assert "copies, because of this task:" in shown
    assert "copy decided" in shown
    assert "of-another" not in shown


async def test_explain_tells_what_brought_copies_to_the_sites_that_offered(
    environ: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    need = ArtifactNeed(samples.MODEL_ID, ArtifactKind.MODEL, "org/tiny-lm", size_bytes=1)
    task = replace(samples.task_named("1"), needs=(need,))
    event = replace(samples.copy_event(), artifact_id=need.artifact_id, task_id=None)
    early = replace(event, at_s=samples.NOW_S - 60.0, without_learning="not brought")
    late = replace(event, at_s=samples.NOW_S + 60.0, kind="evicted")
    auction = TaskEvent(
        *(samples.NOW_S, "auction_closed", "3 offers"),
        site_id=CAL,
        bids=tuple(samples.bid_of(each) for each in (CAL, DE, SiteId("on"))),
    )
    cal = FakeAgent(
        CAL, copy_events=(early, replace(early, artifact_id=ArtifactId("sha256:0")), late)
    )
    silent = FakeAgent(SiteId("on"))
    async with cal.serving(), silent.serving():
        pass  # their ports are known; that of the silent one stays closed
    fake = FakeAgent(events=(auction,), peers=(cal, silent))
    async with fake.serving(), cal.serving():
        await fake.put(task)
        there = environ | {"GCOS_AGENT": fake.address}
        assert await run_main(["explain", task.task_id, "-o", "json"], there) == 0
        told = json.loads(capfd.readouterr().out)
        events = {each["site_id"]: each["events"] for each in told["copies"]}
        assert events["de"] == []
        (decided,) = events["cal"]
        assert (decided["at_s"], decided["without_learning"]) == (early.at_s, "not brought")
        assert [each["site_id"] for each in told["unreachable"]] == ["on"]
        assert await run_main(["explain", task.task_id], there) == 0
        shown = capfd.readouterr().out
    assert "copies of what it needs, before these offers:" in shown
    assert re.search(r" cal +copy decided .* not brought$", shown, re.MULTILINE)
    assert "site on did not tell what it had decided about them: " in shown


async def test_submit_reads_stdin(
    gcos: Gcos, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(DOCUMENT.encode())))
    assert (await gcos("submit", "-")).code == 0
    assert agent.documents == [(DOCUMENT.encode(), "")]


class EndsAtOnce(FakeAgent):
    """An agent whose tasks have ended when they are watched."""

    exit_code = 0

    async def WatchTask(
        self, request: tasks_pb2.WatchTaskRequest, context: Any
    ) -> AsyncIterator[tasks_pb2.WatchTaskResponse]:
        for task in (samples.running(self._task(request.task_id)), self.end(request.task_id)):
            yield tasks_pb2.WatchTaskResponse(task=to_proto(task, tasks_pb2.Task))

    def end(self, task_id: str) -> Task:
        return samples.ended(self._task(task_id), exit_code=self.exit_code)


@pytest.mark.parametrize(("exit_code", "code"), [(0, 0), (3, 1)])
async def test_submit_and_wait_exits_as_the_job_did(
    gcos: Gcos, environ: dict[str, str], job: str, exit_code: int, code: int
) -> None:
    agent = EndsAtOnce()
    agent.exit_code = exit_code
    async with agent.serving():
        environ["GCOS_AGENT"] = agent.address
        ran = await gcos("submit", job, "--wait", "-o", "json")
    assert ran.code == code
    document = json.loads(ran.out)
    assert list(document) == list(Submission.__dataclass_fields__)
    assert document["task"]["report"]["exit_code"] == exit_code
    told = [json.loads(line) for line in ran.err.splitlines()]
    assert {each["level"] for each in told} == {"info"}
    messages = [each["message"] for each in told]
    assert any("RUNNING  EXECUTING  at de" in message for message in messages)
    assert any(message.endswith(f": exit code {exit_code}") for message in messages)
    assert (f"next: read what it wrote: gcos logs {document['task']['task_id']}" in messages) == (
        exit_code != 0
    )


async def test_the_queue_hides_what_has_ended_unless_asked(gcos: Gcos, agent: FakeAgent) -> None:
    await agent.put(samples.task_named("1"))
    await agent.put(samples.ended(samples.task_named("2")))
    ran = await gcos("queue")
    header, row = ran.out.splitlines()
    assert columns(header) == [
        *["ID", "NAME", "STATE", "REASON", "SITE", "SUBMITTED", "WAIT/RUN", "STARTS"],
        *["DEADLINE"],
    ]
    assert columns(row)[:3] == ["de-0000000000001", "job 1", "QUEUED"]
    assert (await gcos("queue", "--all", "-q")).out.split() == [
        "de-0000000000001",
        "de-0000000000002",
    ]
    listed = json.loads((await gcos("queue", "--all", "-o", "json")).out)
    assert [task["state"] for task in listed["items"]] == ["QUEUED", "SUCCEEDED"]


async def test_the_queue_names_sites_that_did_not_answer(gcos: Gcos, agent: FakeAgent) -> None:
    agent.peers = (FakeAgent(CAL, address="127.0.0.1:1"),)
    ran = await gcos("queue", "-q")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith("warning: site cal did not answer, its tasks are missing here")


async def test_a_warning_is_an_object_where_json_is_asked_for(gcos: Gcos, agent: FakeAgent) -> None:
    agent.peers = (FakeAgent(CAL, address="127.0.0.1:1"),)
    agent.is_broker_away = True
    ran = await gcos("queue", "-o", "json")
    (warning,) = [json.loads(line) for line in ran.err.splitlines()]
    assert list(warning) == ["level", "code", "reason", "message", "hint", "field"]
    assert (warning["level"], warning["reason"]) == ("warning", "SITE_UNREACHABLE")
    assert warning["message"].startswith("site cal did not answer, its tasks are missing here")
    assert warning["hint"] == "see who answers: gcos sites ls"
    (line,) = (await gcos("sites", "ls", "-ojson")).err.splitlines()
    warning = json.loads(line)
    assert warning["reason"] == "BROKER_UNREACHABLE"
    assert (await gcos("queue", "-o", "yaml")).err.startswith("warning: site cal did not answer")


async def test_where_the_first_agent_is_dead_the_next_one_answers_and_a_line_says_so(
    gcos: Gcos, agent: FakeAgent, environ: dict[str, str]
) -> None:
    await agent.put(task := samples.task_named("1"))
    environ["GCOS_AGENT"] = f"127.0.0.1:1,{agent.address}"
    ran = await gcos("status", task.task_id, "-q")
    assert (ran.code, ran.out) == (0, f"{task.task_id}\n")
    told = f"the agent at 127.0.0.1:1 does not answer; the one at {agent.address} (site de) does"
    assert ran.err == f"warning: {told}\n"
    warning = json.loads((await gcos("status", task.task_id, "-o", "json")).err)
    assert (warning["reason"], warning["message"]) == ("AGENT_UNREACHABLE", told)


class KnowsASilentSite(FakeAgent):
    """An agent that has not heard of `cal` for long."""

    async def ListSites(
        self, request: operator_pb2.ListSitesRequest, context: Any
    ) -> operator_pb2.ListSitesResponse:
        answer = await super().ListSites(request, context)
        for known in answer.sites:
            known.age_s = 45.0 if known.site.site_id == CAL else 0.0
        return answer


async def test_a_site_that_was_not_heard_for_a_lease_is_silent_in_both_views(
    gcos: Gcos, environ: dict[str, str]
) -> None:
    async with (other := FakeAgent(CAL)).serving(), (agent := KnowsASilentSite()).serving():
        agent.peers = (other,)
        environ["GCOS_AGENT"] = agent.address
        row = columns((await gcos("sites", "ls")).out.splitlines()[1])
        assert row[:6] == ["cal", "CAL", "-/8 H100", "-", "-", "-"]
        assert row[7:9] == ["silent 45 s", "45 s ago"]
        head, _, _, row, *_ = (await gcos("top")).out.splitlines()
    assert "2 sites, 1 silent   3 runs" in head
    assert columns(row)[1:] == ["CAL", "-/8 H100", *["-"] * 5, "silent 45 s", "45 s ago"]


async def test_a_plan_tells_the_next_step_for_each_refusal(gcos: Gcos, job: str) -> None:
    out = (await gcos("plan", job)).out
    assert f"next step, GPU_TYPE_UNKNOWN: {next_step(Reason.GPU_TYPE_UNKNOWN)}" in out.splitlines()


async def test_status_shows_a_task_and_the_end_of_its_output(gcos: Gcos, agent: FakeAgent) -> None:
    await agent.put(task := samples.ended(samples.task_named("1"), exit_code=3))
    ran = await gcos("status", task.task_id)
    assert ["exit code", "3"] in [columns(line) for line in ran.out.splitlines()]
    assert ran.out.endswith("\nepoch 1\nepoch 2\n")
    assert json.loads((await gcos("status", task.task_id, "-o", "json")).out)["origin"] == "de"
    assert (await gcos("status", task.task_id, "-q")).out == f"{task.task_id}\n"


async def test_text_of_a_job_cannot_drive_the_terminal(gcos: Gcos, agent: FakeAgent) -> None:
    task = replace(samples.task_named("1"), message="\x1b[2Jgone [bold]x[/bold]")
    await agent.put(task)
    shown = (await gcos("status", task.task_id)).out
    assert "\x1b" not in shown
    assert "[2Jgone [bold]x[/bold]" in shown


async def test_logs_are_the_bytes_of_the_job(
    agent: FakeAgent, environ: dict[str, str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    await agent.put(task := samples.task_named("1"))
    agent.log = (b"\xff\x00\x1b[31m", b"\n")
    assert await run_main(["logs", "-f", task.task_id], environ) == 0
    assert capfdbinary.readouterr().out == b"\xff\x00\x1b[31m\n"


async def test_logs_as_json_are_lines_with_their_places(gcos: Gcos, agent: FakeAgent) -> None:
    await agent.put(task := samples.task_named("1"))
    agent.log = (b"one\ntw", b"o\n\xff", b"end")
    ran = await gcos("logs", task.task_id, "-o", "json")
    run_id = f"{task.task_id}.1.1"
    assert [json.loads(line) for line in ran.out.splitlines()] == [
        {"run_id": run_id, "offset_bytes": at, "text": text, "heard_s": None, "site_id": None}
        for at, text in [(0, "one"), (4, "two"), (8, "\ufffdend")]
    ]


async def test_logs_of_a_silent_site_are_what_was_last_heard_and_say_so(
    gcos: Gcos, agent: FakeAgent
) -> None:
    await agent.put(task := samples.task_named("1"))
    agent.log = (b"one\ntwo\n",)
    agent.log_heard_s = 1_700_000_000.0
    words = "last heard at 11-14 22:13Z from de, which is silent"
    for more in ([], ["-f"]):
        ran = await gcos("logs", task.task_id, *more)
        assert (ran.code, ran.out) == (0, "one\ntwo\n")
        assert words in ran.err
    ran = await gcos("logs", task.task_id, "-o", "json")
    assert [json.loads(line) for line in ran.out.splitlines()] == [
        {
            "run_id": f"{task.task_id}.1.1",
            "offset_bytes": at,
            "text": text,
            "heard_s": 1_700_000_000.0,
            "site_id": "de",
        }
        for at, text in [(0, "one"), (4, "two")]
    ]
    (problem,) = [json.loads(line) for line in ran.err.splitlines()]
    assert problem["reason"] == "SITE_SILENT"
    assert words in problem["message"]


@pytest.mark.parametrize("command", ["status", "explain"])
async def test_a_silent_site_s_last_words_stand_with_the_task(
    gcos: Gcos, agent: FakeAgent, command: str
) -> None:
    task = samples.task_named("1")
    heard = HeardTail(RunId(f"{task.task_id}.1.1"), SiteId("de"), 0.0, LogTail(0, 8, "one\ntwo\n"))
    state = {"state": TaskState.RUNNING, "tail": heard}
    await agent.put(replace(task, reason=Reason.EXECUTING, **state))
    assert "last heard" not in (await gcos(command, task.task_id)).out, "it is not silent"
    await agent.put(replace(task, reason=Reason.AWAITING_HOLDER, **state))
    shown = (await gcos(command, task.task_id)).out
    assert "last heard at 01-01 00:00Z" in shown
    assert "from de, which is silent:\none\ntwo\n" in shown
    told = json.loads((await gcos("status", task.task_id, "-o", "json")).out)
    assert told["tail"]["tail"]["text"] == "one\ntwo\n"


async def test_what_a_lost_attempt_last_wrote_is_explained(gcos: Gcos, agent: FakeAgent) -> None:
    await agent.put(task := samples.task_named("1"))
    heard = HeardTail(RunId(f"{task.task_id}.1.1"), SiteId("de"), 0.0, LogTail(0, 4, "one\n"))
    event = TaskEvent(5.0, "lease_expired", "was not heard", attempt=1, tail=heard)
    agent.events = (event,)
    shown = (await gcos("explain", task.task_id)).out
    assert "attempt 1 was last heard at 01-01 00:00Z" in shown
    assert "which is silent:\none\n" in shown


@pytest.mark.parametrize("words", [("-o", "yaml"), ("-o", "name"), ("-q",)])
async def test_logs_refuse_a_form_that_they_have_not(
    gcos: Gcos, agent: FakeAgent, words: tuple[str, ...]
) -> None:
    await agent.put(task := samples.task_named("1"))
    ran = await gcos("logs", task.task_id, *words)
    assert (ran.code, ran.out) == (2, "")
    assert f"error: {' '.join(words)} makes no sense here" in ran.err
    assert "-o json" in ran.err


async def test_wait_exits_with_1_unless_all_succeeded(gcos: Gcos, agent: FakeAgent) -> None:
    good, bad = (samples.ended(samples.task_named(str(i)), exit_code=i) for i in range(2))
    await agent.put(good)
    await agent.put(bad)
    assert (await gcos("wait", good.task_id, "-q")) == Ran(0, f"{good.task_id}\n", "")
    ran = await gcos("wait", good.task_id, bad.task_id, good.task_id)
    assert ran.code == 1
    assert [columns(line)[1] for line in ran.out.splitlines()] == ["STATE", "SUCCEEDED", "FAILED"]
    listed = json.loads((await gcos("wait", good.task_id, "-o", "json")).out)
    assert [task["task_id"] for task in listed] == [good.task_id]


async def test_waiting_ends_at_once_where_a_task_is_unknown(gcos: Gcos, agent: FakeAgent) -> None:
    await agent.put(task := samples.task_named("1"))
    ran = await gcos("wait", task.task_id, "de-x")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "error: no task de-x at de [UNKNOWN_TASK]\nhint: see: gcos queue\n"


async def test_cancel_ends_what_it_can_and_reports_the_rest(gcos: Gcos, agent: FakeAgent) -> None:
    await agent.put(task := samples.task_named("1"))
    ran = await gcos("cancel", "de-x", task.task_id)
    assert (ran.code, ran.out) == (2, f"{task.task_id} cancelled\n")
    assert ran.err == "error: no task de-x at de [UNKNOWN_TASK]\nhint: see: gcos queue\n"
    ran = await gcos("cancel", task.task_id)
    assert (ran.code, ran.out) == (0, f"{task.task_id} had ended before: CANCELLED\n")
    assert (await gcos("cancel", task.task_id, "-q")).out == f"{task.task_id}\n"


async def test_sites_are_listed_and_a_stale_list_is_called_stale(
    gcos: Gcos, agent: FakeAgent
) -> None:
    agent.is_broker_away = True
    ran = await gcos("sites", "ls")
    assert columns(ran.out.splitlines()[1])[:3] == ["de", "DE", "5/8 H100"]
    assert ran.err == "warning: no broker answers; this is what the agent heard last\n"
    assert (await gcos("sites", "ls", "-q")).out == "de\n"
    assert not json.loads((await gcos("sites", "ls", "-o", "json")).out)["is_fresh"]


async def test_caches_are_listed_for_all_sites_or_one(gcos: Gcos, agent: FakeAgent) -> None:
    async with (other := FakeAgent(CAL)).serving():
        agent.peers = (other,)
        every = json.loads((await gcos("cache", "ls", "-o", "json")).out)
        one = json.loads((await gcos("cache", "ls", "--site", "cal", "-o", "json")).out)
    assert [cache["site_id"] for cache in every["items"]] == ["cal", "de"]
    assert [cache["site_id"] for cache in one["items"]] == ["cal"]
    ran = await gcos("cache", "ls", "--site", "de")
    assert "org/tiny-lm" in ran.out
    assert columns(ran.out.splitlines()[-2]) == ["de", "model", "1.5 GB", "0 B", "2 GB", "75"]
    assert (await gcos("cache", "ls", "--site", "de", "-q")).out == f"{samples.MODEL_ID}\n"


async def test_an_unknown_site_is_refused(gcos: Gcos) -> None:
    ran = await gcos("cache", "ls", "--site", "mars")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "error: there is no site 'mars' [UNKNOWN_SITE]\nhint: known sites: de\n"


async def test_cache_add_sends_an_absolute_path(gcos: Gcos, agent: FakeAgent) -> None:
    ran = await gcos("cache", "add", "tiny", "models/tiny", "--kind", "model")
    assert (ran.code, ran.out) == (0, "sha256:" + "0" * 64 + "\n")
    assert ran.err.endswith("added tiny, 1.5 GB\n")
    assert agent.added == [Path.cwd() / "models" / "tiny"]
    ran = await gcos("cache", "add", "tiny", "x", "--kind", "data", "-o", "json")
    assert json.loads(ran.out)["artifact"]["kind"] == "DATA"


async def test_cache_add_needs_a_kind_that_there_is(gcos: Gcos, agent: FakeAgent) -> None:
    assert (await gcos("cache", "add", "tiny", "x")).code == 2
    ran = await gcos("cache", "add", "tiny", "x", "--kind", "movie")
    assert ran.code == 2
    assert ran.err.startswith("error: --kind: there is no 'movie'; it may be model, data [USAGE]")
    assert agent.added == []


async def test_carbon_now_tells_the_greenest_hour(gcos: Gcos) -> None:
    ran = await gcos("carbon", "now")
    assert columns(ran.out.splitlines()[1]) == [
        *["de", "DE", "230", "200 at 11-23 17:00Z, in 2.9 h", "0.0800"],
        *["0.0500 at 11-23 17:00Z, in 2.9 h", "average lifecycle estimated from fake table"],
    ]
    assert (await gcos("carbon", "now", "--site", "de", "-q")).out == "de\n"
    assert json.loads((await gcos("carbon", "now", "-o", "json")).out)["items"][0]["zone"] == "DE"


async def test_the_ledger_has_totals(gcos: Gcos, agent: FakeAgent) -> None:
    ran = await gcos("ledger")
    assert ran == Ran(0, "", "the ledger is empty: no attempt has ended\n")
    entry = samples.ledger_entry(samples.task_named("1").task_id)
    agent.ledger = (entry,)
    agent.scales = Scales(60.0, 1.0)
    ran = await gcos("ledger")
    assert "50 %" in ran.out
    assert "ORIGIN, SAVED: against running at the origin at once" in ran.out
    assert ran.out.splitlines()[-1] == "scaled: world time runs 60 x as fast as the clock"
    assert (await gcos("ledger", "-q")).out == f"{entry.run_id}\n"
    assert json.loads((await gcos("ledger", "-o", "json")).out)["entries"][0]["name"] == "tune"


async def test_the_ledger_is_summed_by_a_key(gcos: Gcos, agent: FakeAgent) -> None:
    entry = samples.ledger_entry(samples.task_named("1").task_id)
    agent.ledger = (entry, replace(entry, site_id=DE))
    ran = await gcos("ledger", "--by", "site")
    assert [columns(line)[0] for line in ran.out.splitlines()[:3]] == ["SITE ($)", "cal", "de"]
    assert (await gcos("ledger", "--by", "site", "-o", "name")).out == "cal\nde\n"
    summary = json.loads((await gcos("ledger", "--by", "site", "-o", "json")).out)
    assert list(summary) == list(LedgerSummary.__dataclass_fields__)
    assert [group["key"] for group in summary["groups"]] == ["cal", "de"]
    assert "no queueing and no penalty" in summary["savings_definition"]


async def test_the_ledger_may_begin_late(gcos: Gcos, agent: FakeAgent) -> None:
    agent.ledger = (samples.ledger_entry(samples.task_named("1").task_id),)  # 30 min ago
    assert (await gcos("ledger", "--since", "1h", "-q")).out != ""
    ran = await gcos("ledger", "--since", "10m")
    assert ran == Ran(0, "", "the ledger is empty: no attempt has ended since 10m\n")
    assert (await gcos("ledger", "--since", "2026-11-23T14:05:00Z", "-q")).out == ""
    ran = await gcos("ledger", "--since", "tea", "-o", "json")
    assert json.loads(ran.err)["field"] == "--since"


async def test_the_ledger_is_csv_on_request(gcos: Gcos, agent: FakeAgent) -> None:
    agent.ledger = (samples.ledger_entry(samples.task_named("1").task_id),)
    ran = await gcos("ledger", "--csv")
    (row,) = csv.DictReader(io.StringIO(ran.out))
    assert float(row["carbon_gco2"]) == 2460.0
    assert "at_origin_*: the yardstick of savings, against running at the origin" in ran.err
    assert (await gcos("ledger", "--csv", "-q")).err == ""
    (row,) = csv.DictReader(io.StringIO((await gcos("ledger", "--csv", "--by", "kind")).out))
    assert row["kind"] == "fine-tune"
    assert (await gcos("ledger", "--csv", "-o", "json")).code == 2


async def test_yaml_is_the_record_too(gcos: Gcos) -> None:
    ran = await gcos("sites", "ls", "-o", "yaml")
    as_json = json.loads((await gcos("sites", "ls", "-o", "json")).out)
    assert YAML(typ="safe", pure=True).load(ran.out) == as_json


async def test_names_are_ids_and_nothing_else(gcos: Gcos, agent: FakeAgent, job: str) -> None:
    await agent.put(task := samples.ended(samples.task_named("1")))
    for words, names in [
        (("queue", "--all"), task.task_id),
        (("status", task.task_id), task.task_id),
        (("wait", task.task_id), task.task_id),
        (("sites", "ls"), "de"),
        (("cache", "ls"), samples.MODEL_ID),
        (("carbon", "now"), "de"),
        (("plan", job), "de"),
    ]:
        assert (await gcos(*words, "-o", "name")).out == f"{names}\n"


async def test_a_wait_ends_at_its_time_limit_and_the_task_goes_on(
    gcos: Gcos, agent: FakeAgent
) -> None:
    await agent.put(going_on := samples.running(samples.task_named("1")))
    await agent.put(done := samples.ended(samples.task_named("2")))
    ran = await gcos("wait", going_on.task_id, done.task_id, "--timeout", "0.01s")
    assert ran.code == 124
    assert [columns(line)[1] for line in ran.out.splitlines()] == ["STATE", "RUNNING", "SUCCEEDED"]
    assert "error: 1 of 2 tasks not ended within" in ran.err
    assert ran.err.endswith("[NOT_ENDED]\nhint: they go on: see gcos queue, or wait again\n")
    ran = await gcos("wait", done.task_id, "--timeout", "10 minutes")
    assert (ran.code, ran.out) == (2, "")


async def test_top_prints_once_off_a_terminal(gcos: Gcos, agent: FakeAgent) -> None:
    await agent.put(running := samples.running(samples.task_named("1")))
    await agent.put(samples.ended(samples.task_named("2")))
    ran = await gcos("top")
    head, *rest = ran.out.splitlines()
    assert head == "11-23 14:05Z   1 site   3 runs   1 task under way"
    assert columns(rest[2])[:3] == ["de", "DE", "5/8 H100"]
    assert "75 of 2 GB" in rest[2]
    assert columns(rest[5])[:4] == [running.task_id, "job 1", "RUNNING", "de"]
    assert columns(rest[8])[2:5] == ["SUCCEEDED", "de", "50 s"]
    assert await gcos("top", "--once") == ran
    assert (await gcos("top", "-q")).out == f"{running.task_id}\n"
    snapshot = json.loads((await gcos("top", "-o", "json")).out)
    assert list(snapshot) == list(Snapshot.__dataclass_fields__)


async def test_an_error_is_an_object_where_json_is_asked_for(
    gcos: Gcos, agent: FakeAgent, tmp_path: Path
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(DOCUMENT + "rum: x\n")
    ran = await gcos("submit", str(path), "-o", "json")
    assert (ran.code, ran.out) == (2, "")
    assert json.loads(ran.err) == {
        "level": "error",
        "code": "INVALID_ARGUMENT",
        "reason": "INVALID_TASK",
        "message": "line 6, rum: unknown key",
        "hint": "did you mean run?",
        "field": "rum",
    }
    ran = await gcos("cancel", "de-x", "de-y", "--output", "json")
    reasons = [json.loads(line)["reason"] for line in ran.err.splitlines()]
    assert reasons == ["UNKNOWN_TASK", "UNKNOWN_TASK"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [(["plan", "-o", "json"], "file"), (["queue", "--fast", "-ojson"], "--fast")],
)
def test_wrong_usage_is_an_object_too(
    arguments: list[str], field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments, environ={}) == 2
    error = json.loads(capsys.readouterr().err)
    assert (error["reason"], error["field"]) == ("USAGE", field)
    assert error["hint"].startswith("see: gcos ")


def test_the_schema_needs_no_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"], environ={}) == 0
    assert json.loads(capsys.readouterr().out) == task_schema()
    assert main(["-o", "yaml", "schema"], environ={}) == 0
    assert YAML(typ="safe", pure=True).load(capsys.readouterr().out) == task_schema()
    assert main(["schema", "-o", "name"], environ={}) == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequestError("bad", hint="mend it"), 2),
        (ArtifactNotFoundError("bad", hint="mend it"), 2),
        (NoCandidateError("bad", hint="mend it"), 2),
        (QueueFullError("bad", hint="mend it"), 2),
        (SiteDrainingError("bad", hint="mend it"), 3),
        (UnauthenticatedError("bad", hint="mend it"), 3),
        (NoBidError("bad", hint="mend it"), 4),
    ],
)
async def test_an_error_is_a_line_a_hint_and_an_exit_code(
    gcos: Gcos, agent: FakeAgent, job: str, error: GcosError, code: int
) -> None:
    agent.refusal = error
    told = f"error: bad [{error.reason}]\nhint: mend it\n"
    assert await gcos("plan", job) == Ran(code, "", told)


async def test_a_wrong_document_is_told_with_line_and_field(gcos: Gcos, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(DOCUMENT + "rum: x\n")
    ran = await gcos("submit", str(path))
    told = "error: line 6, rum: unknown key [INVALID_TASK]\nhint: did you mean run?\n"
    assert ran == Ran(2, "", told)


async def test_a_file_that_cannot_be_sent_is_refused_before_anything_is_sent(
    gcos: Gcos, environ: dict[str, str], tmp_path: Path
) -> None:
    environ["GCOS_AGENT"] = "127.0.0.1:1"  # nobody is there: calling would exit with 3
    large = tmp_path / "large"
    large.write_bytes(b"#" * (DOCUMENT_BYTES_MAX + 1))
    for file, words in [
        (str(tmp_path / "none.yaml"), "there is no file"),
        (str(tmp_path), "is a directory"),
        (str(tmp_path / "token" / "x"), "cannot be read: Not a directory"),
        ("a\0b", "cannot be read"),
        (str(large), "has more than 256 KiB"),
    ]:
        for name in ("plan", "submit"):
            ran = await gcos(name, file)
            assert (ran.code, ran.out) == (2, "")
            assert words in ran.err


async def test_a_cluster_that_is_away_exits_with_3(
    gcos: Gcos, environ: dict[str, str], job: str
) -> None:
    environ["GCOS_AGENT"] = "127.0.0.1:1"
    ran = await gcos("submit", job)
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith("error: no agent answers at 127.0.0.1:1 [PEER_UNREACHABLE]\nhint: ")


async def test_a_wrong_token_exits_with_3(
    gcos: Gcos, environ: dict[str, str], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.touch(mode=0o600)
    other.write_text("another-token-0123456")
    ran = await gcos("--token-file", str(other), "sites", "ls")
    assert (ran.code, ran.out) == (3, "")
    assert "hint: give the token file of this cluster" in ran.err


async def test_a_fault_of_ours_is_a_line_too(
    gcos: Gcos, environ: dict[str, str], agent: FakeAgent, job: str
) -> None:
    agent.plan = None  # the fake asserts that there is one, so the agent answers INTERNAL
    ran = await gcos("plan", job)
    told = "error: internal error [INTERNAL]\nhint: see the log of the peer\n"
    assert ran == Ran(4, "", told)


async def test_a_reader_that_has_left_is_no_error(
    agent: FakeAgent, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert await run_main(["sites", "ls"], environ) == 141


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plna"], "Did you mean 'plan'?"),
        (["plan"], "Missing argument 'FILE'"),
        (["plan", "--fast", "x"], "No such option: --fast"),
        (["queue", "-o", "xml"], "--output: there is no 'xml'; it may be table, json, yaml, name"),
        (["sites", "rm"], "No such command 'rm'"),
    ],
)
def test_wrong_usage_is_one_line_and_a_hint(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments, environ={}) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert re.fullmatch(r"hint: (did you mean .*\? )?see: gcos .*", captured.err.splitlines()[-1])


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (
            ["ledger", "--by", "foo"],
            "--by: there is no 'foo'; it may be project, site, model, kind, task",
            "see: gcos ledger --help",
        ),
        (
            ["ledger", "--by", "sites"],
            "--by: there is no 'sites'; it may be project, site, model, kind, task",
            "did you mean --by site? see: gcos ledger --help",
        ),
        (
            ["queue", "-o", "jsno"],
            "--output: there is no 'jsno'; it may be table, json, yaml, name",
            "did you mean --output json? see: gcos queue --help",
        ),
    ],
)
def test_a_wrong_choice_is_told_with_its_option_and_the_nearest_value(
    arguments: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments, environ={}) == 2
    assert capsys.readouterr().err == f"error: {message} [USAGE]\nhint: {hint}\n"


class Terminal(io.StringIO):
    """Text that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


EVERY_COMMAND = [
    *("plan", "submit", "queue", "status", "explain", "results", "logs", "wait", "cancel", "top"),
    *("ledger", "sites", "sites ls", "cache", "cache ls", "cache add", "carbon", "carbon now"),
    *("schema", "agent", "agent run", "broker", "broker run", "predictor", "predictor run"),
    *("up", "down", ""),
]


@pytest.mark.parametrize("name", EVERY_COMMAND)
def test_no_help_has_escape_codes_off_a_terminal_or_without_color(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*name.split(), "--help"]
    assert main(words, environ={}) == 0
    captured = capsys.readouterr()
    assert "Usage" in captured.out
    assert "\x1b" not in captured.out + captured.err
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    assert main(words, environ={"NO_COLOR": "1"}) == 0
    assert "Usage" in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()
    assert main(words, environ={}) == 0
    assert "\x1b[" in terminal.getvalue()


@pytest.mark.parametrize(
    "words", [["plna"], ["plan"], ["queue", "-o", "x"], ["plan", "no.yaml"], ["queue"], ["sites"]]
)
def test_no_error_has_escape_codes(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    monkeypatch.setattr(sys, "stderr", err := Terminal())
    assert main(words, environ={"NO_COLOR": "1", "GCOS_HOME": "/nowhere"}) == 2
    assert "\x1b" not in out.getvalue() + err.getvalue()


CLIENT_COMMANDS = [
    *("plan", "submit", "queue", "status", "logs", "wait", "cancel", "top", "ledger"),
]


@pytest.mark.parametrize(
    "name",
    [
        *(*CLIENT_COMMANDS, "explain", "results", "sites ls", "cache ls", "cache add"),
        *(
            "sites",
            "cache",
            "carbon",
            "carbon now",
            "schema",
            "up",
            "down",
            "agent run",
            "broker run",
            "predictor run",
        ),
    ],
)
def test_every_command_has_an_example_in_its_help(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*name.split(), "--help"], environ={}) == 0
    lines = capsys.readouterr().out.partition("Example:")[2].splitlines()
    assert any(line.strip().startswith(f"gcos {name}") for line in lines)


def test_the_help_names_all_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], environ={}) == 0
    out = capsys.readouterr().out
    for name in [*CLIENT_COMMANDS, "sites", "cache", "carbon", "agent", "broker", "up", "down"]:
        assert f" {name} " in out
    assert "Exit codes: 0 done; 1 a job that was waited for failed" in out
    assert "\x1b" not in out


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"], environ={}) == 0
    assert capsys.readouterr().out == "0.1.0\n"


def test_the_help_imports_nothing_that_talks_to_a_cluster() -> None:
    code = (
        "import sys; from gcos.cli.main import main; main(['--help'])\n"
        "heavy = {'grpc', 'numpy', 'msgspec', 'site_agent', 'broker', 'testbed'}\n"
        "sys.exit(str(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "[]\n"


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs a distribution with three commands, one of which cannot be imported."""
    (tmp_path / "plugged.py").write_text(
        "import typer\n"
        "group = typer.Typer()\n"
        "@group.callback()\n"
        "def top() -> None: ...\n"
        "@group.command()\n"
        "def leaf(count: int) -> None:\n"
        "    raise typer.Exit(count)\n"
        "def plain(word: str = 'x') -> None:\n"
        "    print(word)\n"
    )
    information = tmp_path / "plugged-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1\n")
    (information / "entry_points.txt").write_text(
        "[gcos.commands]\ngrouped = plugged:group\nplain = plugged:plain\n"
        "broken = no_such_package:app\nqueue = no_such_package:app\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plugins")
def test_other_packages_bring_groups_and_functions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grouped", "leaf", "7"], environ={}) == 7
    assert main(["plain", "--word", "hi"], environ={}) == 0
    assert capsys.readouterr().out == "hi\n"


@pytest.mark.usefixtures("plugins")
def test_a_broken_command_breaks_itself_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"], environ={}) == 0
    assert "Command of the package no_such_package." in capsys.readouterr().out
    assert main(["broken"], environ={}) == 4
    err = capsys.readouterr().err
    assert err.startswith("error: the command broken cannot be loaded from no_such_package:app: No")
    assert "Traceback" not in err


@pytest.mark.usefixtures("plugins")
def test_a_command_of_ours_cannot_be_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", "--help"], environ={}) == 0
    assert "List the tasks of all sites" in capsys.readouterr().out
