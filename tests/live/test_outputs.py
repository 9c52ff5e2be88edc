"""What runs leave behind, what they start with, and what they may know, on real processes."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gcos.artifacts import SENT_WORKDIR_PREFIX
from gcos.client import Client
from gcos.errors import InvalidRequestError, NoCandidateError, WrongStateError
from gcos.ids import SiteId
from gcos.tasks import Reason, TaskState

pytestmark = pytest.mark.live


def document(run: str, **more: Any) -> str:
    return json.dumps({"apiVersion": "gcos/v1", "kind": "Task", "run": run, **more})


async def settled(client: Client) -> None:
    """Wait until the broker can tell that a site is missing rather than late."""
    async with asyncio.timeout(60):
        while not (await client.sites()).is_fresh:
            await asyncio.sleep(0.1)


async def test_a_tuned_model_is_evaluated_at_another_site(client: Client, tmp_path: Path) -> None:
    tune = document(
        "mkdir -p $GCOS_OUTPUT_DIR/tuned && echo weights > $GCOS_OUTPUT_DIR/tuned/model.bin"
        " && echo loss=1 > $GCOS_OUTPUT_DIR/metrics.txt",
        outputs=[{"path": "tuned", "as": "model", "name": "tuned-here"}, {"path": "metrics.txt"}],
        placement={"allow": ["on"]},
    )
    tuned = await client.wait((await client.submit(tune)).task.task_id, timeout_s=60)
    assert tuned.state is TaskState.SUCCEEDED
    (artifact,) = tuned.report.outputs
    assert (artifact.name, artifact.custodian) == ("tuned-here", "on")
    evaluate = document(
        "cp $GCOS_MODEL_DIR/model.bin $GCOS_OUTPUT_DIR/seen",
        model="tuned-here",
        placement={"allow": ["de"]},
    )
    task_id = (await client.submit(evaluate)).task.task_id
    evaluated = await client.wait(task_id, timeout_s=60)
    assert evaluated.report.site_id == "de"
    assert [fetch.name for fetch in evaluated.report.fetches] == ["tuned-here"]
    results = await client.results(task_id, tmp_path / "results")
    assert results.sizes == {"seen": 8}
    assert (tmp_path / "results" / "seen").read_text() == "weights\n"
    with pytest.raises(WrongStateError, match="exists already"):
        await client.results(task_id, tmp_path / "results")


async def test_a_declared_output_that_is_missing_fails_the_task(client: Client) -> None:
    spec = document("true", outputs=[{"path": "nowhere"}])
    ended = await client.wait((await client.submit(spec)).task.task_id, timeout_s=60)
    assert (ended.state, ended.reason) == (TaskState.FAILED, Reason.OUTPUT_MISSING)
    with pytest.raises(WrongStateError, match="only a success leaves results"):
        await client.results(ended.task_id, Path("unused"))


async def sent_names(client: Client) -> list[str]:
    """Return what the origin holds of directories that were sent for one task."""
    (cache,) = (await client.cache(SiteId("cal"))).items
    names = [entry.artifact.name for entry in cache.entries]
    return [name for name in names if name.startswith(SENT_WORKDIR_PREFIX)]


async def test_a_working_directory_travels_with_the_task(client: Client, tmp_path: Path) -> None:
    (tmp_path / "code" / "inner").mkdir(parents=True)
    (tmp_path / "code" / "inner" / "main.sh").write_text("echo from the workdir\n")
    (tmp_path / "code" / "empty").touch()
    spec = document(
        "sh inner/main.sh && test -e empty && touch new",
        workdir="./code",
        placement={"allow": ["on"]},
    )
    submission = await client.submit(spec, directory=tmp_path)
    ended = await client.wait(submission.task.task_id, timeout_s=60)
    assert ended.state is TaskState.SUCCEEDED, ended.message
    assert "from the workdir" in ended.report.log_tail
    async with asyncio.timeout(30):
        while await sent_names(client):
            await asyncio.sleep(0.1)
    await settled(client)
    with pytest.raises(NoCandidateError, match="none-such"):
        await client.submit(
            document("true", workdir="./code", resources={"gpu": {"type": "none-such"}}),
            directory=tmp_path,
        )
    assert await sent_names(client) == [], "of a refused task it goes at once"
    (tmp_path / "code" / "link").symlink_to("/etc/passwd")
    with pytest.raises(InvalidRequestError, match="link or special file"):
        await client.submit(spec, directory=tmp_path)


async def test_secrets_come_from_the_site_that_executes(live: Any, client: Client) -> None:
    spec = document("test ${#TOKEN_OF_HUB} = 21", secrets=["TOKEN_OF_HUB"])
    await settled(client)
    with pytest.raises(NoCandidateError, match="no site has a secret TOKEN_OF_HUB"):
        await client.submit(spec)
    store = live.directory / "sites" / "de" / "data" / "secrets"
    store.mkdir(exist_ok=True)
    (store / "TOKEN_OF_HUB").touch(mode=0o600)
    (store / "TOKEN_OF_HUB").write_text("never-written-anywhere\n"[1:])
    await live.until_secret(client, SiteId("de"), "TOKEN_OF_HUB")
    ended = await client.wait((await client.submit(spec)).task.task_id, timeout_s=60)
    assert (ended.state, ended.report.site_id) == (TaskState.SUCCEEDED, "de")
    journals = [path.read_bytes() for path in live.directory.glob("sites/*/data/journal.db*")]
    assert not any(b"written-anywhere" in journal for journal in journals)


async def test_an_image_is_refused_where_no_executor_runs_images(client: Client) -> None:
    spec = document("true", image="docker.io/library/python:3.12")
    await settled(client)
    before = await client.tasks()
    with pytest.raises(NoCandidateError, match="image: the executor of no site runs"):
        await client.submit(spec)
    assert await client.tasks() == before


async def test_explain_tells_offers_award_and_end(client: Client) -> None:
    spec = document("true", placement={"deny": ["cal"]})
    task_id = (await client.submit(spec)).task.task_id
    await client.wait(task_id, timeout_s=60)
    told = await client.explain(task_id)
    kinds = [event.kind for event in told.events]
    assert kinds == [
        *("task_submitted", "auction_closed", "task_awarded", "run_started", "run_ended"),
    ]
    auction = told.events[1]
    assert {bid.site_id for bid in auction.bids} == {"on", "de"}
    assert [(refusal.site_id, refusal.reason) for refusal in auction.refusals] == [
        ("cal", Reason.PLACEMENT_EXCLUDES)
    ]
    assert told.events[-1].report.exit_code == 0


async def test_a_broken_directory_ends_the_run_and_frees_its_gpus(
    live: Any, client: Client
) -> None:
    data = live.directory / "sites" / "de" / "data"
    spec = document("true", placement={"allow": ["de"]}, retry={"limit": 1})
    for name in ("work", "outputs"):
        (data / name).rename(data / f"{name}.away")
        (data / name).touch()
        ended = await client.wait((await client.submit(spec)).task.task_id, timeout_s=60)
        assert (ended.state, ended.reason) == (TaskState.FAILED, Reason.RETRIES_SPENT)
        (data / name).unlink()
        (data / f"{name}.away").rename(data / name)
    ended = await client.wait((await client.submit(spec)).task.task_id, timeout_s=60)
    assert ended.state is TaskState.SUCCEEDED


async def test_an_output_is_copied_to_a_place_that_the_operator_allows(
    live: Any, client: Client
) -> None:
    place = live.directory / "published" / "deep"
    for word, target, state in (
        ("first", place / "metrics.txt", TaskState.SUCCEEDED),
        ("second", place / "metrics.txt", TaskState.FAILED),
    ):
        spec = document(
            f"echo {word} > $GCOS_OUTPUT_DIR/metrics.txt",
            outputs=[{"path": "metrics.txt", "as": "uri", "uri": f"file://{target}"}],
        )
        ended = await client.wait((await client.submit(spec)).task.task_id, timeout_s=60)
        assert ended.state is state, ended.message
    assert (place / "metrics.txt").read_text() == "first\n"
    taken = ended
    assert taken.reason is Reason.OUTPUT_REFUSED
    assert "name another place" in taken.message
    await settled(client)
    spec = document(
        "true",
        outputs=[{"path": "a", "as": "uri", "uri": f"file://{live.directory / 'elsewhere'}"}],
    )
    with pytest.raises(NoCandidateError, match=r"outputs\[0\]\.uri: no site allows"):
        await client.submit(spec)
    assert not (live.directory / "elsewhere").exists()
