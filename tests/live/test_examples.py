"""Every example document ends well on real processes, and leaves what it says."""

import json
from pathlib import Path
from typing import Any

import pytest

from gcos.artifacts import ArtifactKind
from gcos.client import Client
from gcos.ids import SiteId
from gcos.task_record import Task
from gcos.tasks import TaskState
from testbed.workloads.make import make

pytestmark = pytest.mark.live

EXAMPLES = Path(__file__).parents[2] / "examples"
#: They need something first, so tests of their own run them.
PREPARED = {"evaluate-tuned", "evaluation", "fine-tune", "outputs", "outputs-uri", "secrets"}
ALONE = sorted(path.stem for path in EXAMPLES.glob("*.yaml") if path.stem not in PREPARED)


@pytest.fixture(scope="module")
def artifacts(live: Any) -> Path:
    place = live.directory / "artifacts"
    make(place, seed=7)
    return place


@pytest.fixture(autouse=True)
async def added(client: Client, artifacts: Path) -> None:
    for site, kind, name in (
        ("on", ArtifactKind.MODEL, "models/tiny-lm-1500k"),
        ("de", ArtifactKind.DATA, "data/field-notes"),
    ):
        await client.add_artifact(Path(name).name, kind, artifacts / name, SiteId(site))


async def ended(client: Client, name: str, *, replace: tuple[str, str] = ("", "")) -> Task:
    document = (EXAMPLES / f"{name}.yaml").read_text().replace(*replace)
    submission = await client.submit(document, directory=EXAMPLES)
    task = await client.wait(submission.task.task_id, timeout_s=120)
    assert task.state is TaskState.SUCCEEDED, f"{task.message}: {task.report}"
    return task


@pytest.mark.parametrize("name", ALONE)
async def test_an_example_ends_well(client: Client, name: str) -> None:
    await ended(client, name)


async def test_a_tuned_model_is_better_and_travels(client: Client, tmp_path: Path) -> None:
    tuned = await ended(client, "fine-tune")
    assert [output.name for output in tuned.report.outputs] == ["notes-tuned"]
    perplexities = {}
    for name in ("evaluation", "evaluate-tuned"):
        task = await ended(client, name)
        await client.results(task.task_id, tmp_path / name)
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        perplexities[name] = metrics["perplexity"]
    assert task.report.site_id != tuned.report.site_id
    assert "notes-tuned" in [fetch.name for fetch in task.report.fetches]
    assert perplexities["evaluate-tuned"] < perplexities["evaluation"]


async def test_outputs_are_kept_as_files_and_as_a_data_set(client: Client, tmp_path: Path) -> None:
    task = await ended(client, "outputs")
    (made,) = task.report.outputs
    assert (made.name, made.kind) == ("notes-completions", ArtifactKind.DATA)
    results = await client.results(task.task_id, tmp_path / "completions")
    assert sorted(results.sizes) == ["completions.jsonl", "report.json"]


async def test_an_output_is_copied_to_a_place_of_the_users_own(live: Any, client: Client) -> None:
    place = live.directory / "published"
    await ended(client, "outputs-uri", replace=("/path/to/published", str(place)))
    assert (place / "notes" / "when.txt").read_text()


async def test_a_secret_is_found_where_it_lies(live: Any, client: Client) -> None:
    store = live.directory / "sites" / "de" / "data" / "secrets"
    store.mkdir(exist_ok=True)
    (store / "HUB_TOKEN").touch(mode=0o600)
    (store / "HUB_TOKEN").write_text("12345\n")
    await live.until_secret(client, SiteId("de"), "HUB_TOKEN")
    task = await ended(client, "secrets")
    assert task.report.log_tail == "got a token of 5 characters at de\n"
