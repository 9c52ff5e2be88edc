"""How a made artifact is published, and how a complete one is known from a torn or foreign one."""

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: Raised whenever the same seed starts to give other bytes, so that old artifacts are made anew.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """What determines the bytes of an artifact."""

    name: str
    seed: int


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def published(directory: Path) -> Iterator[Path]:
    """Give a staging directory that takes the place of `directory` if the body succeeds."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        yield staging
        staging.chmod(0o755)  # mkdtemp makes it private; an artifact is for every reader
        if directory.exists():
            shutil.rmtree(directory)
        staging.replace(directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_record(
    staging: Path, recipe: Recipe, *, record_name: str, facts: Mapping[str, object]
) -> None:
    """Write the recipe, `facts` and the digest of each file in `staging` as JSON, keys sorted."""
    digests = {path.name: sha256_of(path) for path in sorted(staging.iterdir())}
    record = {
        **facts,
        "files_sha256": digests,
        "format": FORMAT,
        "name": recipe.name,
        "seed": recipe.seed,
    }
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    (staging / record_name).write_text(text, encoding="ascii")


def is_complete(directory: Path, recipe: Recipe, *, record_name: str) -> bool:
    """Tell whether `directory` holds the recipe's artifact, every file matching its digest."""
    try:
        record = json.loads((directory / record_name).read_text(encoding="ascii"))
        if (record["format"], record["name"], record["seed"]) != (
            FORMAT,
            recipe.name,
            recipe.seed,
        ):
            return False
        digests = record["files_sha256"].items()
        return all(sha256_of(directory / name) == digest for name, digest in digests)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
