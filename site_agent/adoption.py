"""Whole stores of other programs, served from where they lie."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gcos.artifacts import Artifact
from site_agent.adopted_files import AdoptedFiles
from site_agent.artifact_store import ArtifactStore
from site_agent.foreign_stores import Skipped, SkipReason, survey
from site_agent.source_directory import no_checkpoint


@dataclass(frozen=True, slots=True)
class Adopted:
    """What became of a foreign store.

    Attributes:
        artifacts: What is found and served here now.
        skipped: What is not, and why; `foreign_stores.counts` counts the reasons.
    """

    artifacts: tuple[Artifact, ...]
    skipped: tuple[Skipped, ...]


def store_named(name: str, environment: Mapping[str, str], home: Path) -> Path:
    """Return where a store lies.

    Args:
        name: A path, or `huggingface` or `ollama`: where these keep theirs by default.
        environment: May say otherwise, in `HF_HUB_CACHE`, `HF_HOME` and `OLLAMA_MODELS`.
        home: Of the user.
    """
    if name == "huggingface":
        below = environment.get("HF_HOME") or home / ".cache" / "huggingface"
        return Path(environment.get("HF_HUB_CACHE") or Path(below) / "hub")
    if name == "ollama":
        return Path(environment.get("OLLAMA_MODELS") or home / ".ollama" / "models")
    return Path(name).expanduser()


def adopt(
    store: ArtifactStore,
    path: Path,
    *,
    now_s: float,
    checkpoint: Callable[[], None] = no_checkpoint,
) -> Adopted:
    """Serve what lies in a Hugging Face cache or an Ollama store, without copying it.

    Nothing there is changed, evicted or counted. Blocking, for use where no loop runs; where one
    does, survey, `AdoptedFiles.record_of` and `link` go to a thread, and `settle` to the loop.

    Args:
        store: Of this site.
        path: `HF_HOME`, `HF_HUB_CACHE` or `OLLAMA_MODELS`.
        now_s: World instant.
        checkpoint: Called while files are hashed; may raise to stop.

    Raises:
        InvalidRequestError: `path` is no store.
        CacheFullError: The disk is full.
    """
    found = survey(path)
    files = AdoptedFiles(store.areas)
    artifacts: list[Artifact] = []
    skipped = list(found.skipped)
    for candidate in found.candidates:
        record = files.record_of(candidate, now_s=now_s, checkpoint=checkpoint)
        if isinstance(record, Skipped):
            skipped.append(record)
            continue
        if store.is_known(record.manifest.artifact_id):
            skipped.append(Skipped(candidate.where, SkipReason.ALREADY_HERE))
            continue
        failed = files.link(candidate, record)
        if failed is None:
            artifacts.append(store.settle(record))
        else:
            skipped.append(failed)
    return Adopted(tuple(artifacts), tuple(skipped))
