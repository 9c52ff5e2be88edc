"""Data sets on disk: `documents.txt` to evaluate on, `prompts.jsonl` to complete, `dataset.json`.

`dataset.json` records the seed and the digests of the other two.
"""

import itertools
import json
from pathlib import Path

from gcos.seeds import stream
from testbed.workloads.grammar import Grammar, sentences
from testbed.workloads.records import Recipe, is_complete, published, write_record

#: Share of a data set's bytes that goes to prompts; the rest are documents.
_PROMPTS_SHARE = 0.2
#: A document is a paragraph of this many sentences.
_DOCUMENT_SENTENCES = 12


def sample_text(grammar: Grammar, *, seed: int, size_bytes: int) -> bytes:
    """Return at least `size_bytes` of paragraphs: the first bytes of that grammar's documents."""
    lines: list[str] = []
    written_bytes = 0
    source = sentences(grammar, stream(seed, "documents", grammar.name))
    while written_bytes < size_bytes:
        lines.append(" ".join(itertools.islice(source, _DOCUMENT_SENTENCES)))
        written_bytes += len(lines[-1]) + 1
    return ("\n".join(lines) + "\n").encode("ascii")


def write_dataset(grammar: Grammar, directory: Path, *, seed: int) -> bool:
    """Write one data set; return False where the same one is already there, complete.

    The directory appears by one rename, so a reader never sees half a data set.
    """
    recipe = Recipe(grammar.name, seed=seed)
    if is_complete(directory, recipe, record_name="dataset.json"):
        return False
    prompts_bytes = round(grammar.data_bytes * _PROMPTS_SHARE)
    documents = sample_text(grammar, seed=seed, size_bytes=grammar.data_bytes - prompts_bytes)
    with published(directory) as staging:
        (staging / "documents.txt").write_bytes(documents)
        (staging / "prompts.jsonl").write_bytes(_prompts(grammar, seed, prompts_bytes))
        write_record(staging, recipe, record_name="dataset.json", facts={})
    return True


def _prompts(grammar: Grammar, seed: int, size_bytes: int) -> bytes:
    """Return JSON lines of a whole sentence and the first words of the next one."""
    lines: list[str] = []
    written_bytes = 0
    source = sentences(grammar, stream(seed, "prompts", grammar.name))
    while written_bytes < size_bytes:
        opening = next(source).split(" ")
        prompt = f"{next(source)} {' '.join(opening[: max(1, len(opening) // 2)])}"
        prompt_id = f"{grammar.name}-{len(lines):06d}"
        lines.append(json.dumps({"id": prompt_id, "prompt": prompt}))
        written_bytes += len(lines[-1]) + 1
    return ("\n".join(lines) + "\n").encode("ascii")
