"""Batch inference: `python -m testbed.workloads.generate --tokens N --batch B [--sequence L]`.

Completes the prompts of a data set until N new tokens are there, B prompts at a time, and writes
`completions.jsonl`. Each batch is one prefill and then one decode step per token, over a
key-value cache, as a serving engine does. A completion does not end early: tokens asked for are
tokens generated, so that a run's length follows from its arguments.
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gcos.errors import InvalidRequestError
from gcos.seeds import stream
from testbed.workloads import job
from testbed.workloads.language_model import Floats, Integers, LanguageModel, read_input


@dataclass(frozen=True, slots=True)
class Prompt:
    """One line of `prompts.jsonl`."""

    prompt_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen: greedily at temperature 0, else by seeded sampling."""

    temperature: float
    seed: int


def read_prompts(path: Path) -> list[Prompt]:
    """Return the prompts in that file.

    Raises:
        ArtifactNotFoundError: It cannot be read.
        InvalidRequestError: A line is no prompt, or there is none.
    """
    prompts = []
    for number, line in enumerate(read_input(path).splitlines(), start=1):
        try:
            record = json.loads(line)
            prompts.append(Prompt(str(record["id"]), text=str(record["prompt"])))
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidRequestError(f"{path}, line {number}: not a prompt") from error
    if not prompts:
        raise InvalidRequestError(f"{path} holds no prompt")
    return prompts


def generate(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    new_counts: Sequence[int],
    sequence: int,
    choices: Sequence[np.random.Generator],
    temperature: float,
) -> list[bytes]:
    """Return a completion for each prompt, all in one batch.

    Args:
        model: The model.
        prompts: One per row; each keeps its last `sequence // 2` bytes at most.
        new_counts: Tokens to generate per row.
        sequence: Most tokens of a row, the prompt included; at most the model's context.
        choices: A stream of randomness per row, so that a row does not depend on its batch.
        temperature: 0 for greedy.
    """
    token_ids, attention_mask = _padded(model, prompts, sequence=sequence)
    assert token_ids.shape[1] + max(new_counts) <= sequence, "the batch outgrows its sequence"
    position_ids = np.maximum(np.cumsum(attention_mask, axis=1) - 1, 0)
    one = np.ones((len(prompts), 1), dtype=np.int64)
    cache = model.empty_cache(batch=len(prompts))
    chosen = np.zeros((len(prompts), max(new_counts)), dtype=np.int64)
    for index in range(max(new_counts)):
        logits, cache = model.step(
            token_ids, attention_mask=attention_mask, position_ids=position_ids, cache=cache
        )
        # The specials stand past the bytes and are never generated.
        chosen[:, index] = _choose(logits[:, -1, :256], choices, temperature)
        token_ids = chosen[:, index : index + 1]
        attention_mask = np.concatenate([attention_mask, one], axis=1)
        position_ids = position_ids[:, -1:] + 1
    rows = zip(chosen, new_counts, strict=True)
    return [bytes(row[:count].astype(np.uint8)) for row, count in rows]


def _padded(
    model: LanguageModel, prompts: Sequence[Prompt], *, sequence: int
) -> tuple[Integers, Integers]:
    """Return token ids and attention mask, (batch, longest prompt + 1), padded on the left."""
    rows = [prompt_bytes(prompt, sequence=sequence) for prompt in prompts]
    width = 1 + max(map(len, rows))
    token_ids = np.full((len(rows), width), model.config.pad_token, dtype=np.int64)
    attention_mask = np.zeros((len(rows), width), dtype=np.int64)
    for index, row in enumerate(rows):
        token_ids[index, width - len(row) :] = np.frombuffer(row, dtype=np.uint8)
        token_ids[index, width - len(row) - 1] = model.config.begin_token
        attention_mask[index, width - len(row) - 1 :] = 1
    return token_ids, attention_mask


def prompt_bytes(prompt: Prompt, *, sequence: int) -> bytes:
    """Return the bytes of a prompt that fit: the last `sequence // 2 - 1`, as one more begins."""
    return prompt.text.encode()[-(sequence // 2 - 1) :]


def _choose(logits: Floats, choices: Sequence[np.random.Generator], temperature: float) -> Integers:
    """Return a token per row; sampling is an argmax over Gumbel noise (Gumbel 1954)."""
    if temperature == 0:
        return np.asarray(np.argmax(logits, axis=1))
    noise = np.stack([choice.gumbel(size=logits.shape[1]) for choice in choices])
    return np.asarray(np.argmax(logits / temperature + noise, axis=1))


def write_completions(
    model: LanguageModel,
    directories: job.Directories,
    progress: job.Progress,
    *,
    batch: int,
    sequence: int,
    sampling: Sampling,
) -> None:
    """Generate `progress.tokens_count` tokens and write `completions.jsonl`.

    Raises:
        GcosError: The prompts cannot be read, or the output not written.
    """
    prompts = read_prompts(directories.data / "prompts.jsonl")
    lines: list[str] = []
    done_count = 0
    while done_count < progress.tokens_count:
        left = progress.tokens_count - done_count
        first = len(lines)
        taken = [prompts[(first + row) % len(prompts)] for row in range(min(batch, left))]
        longest = max(len(prompt_bytes(prompt, sequence=sequence)) for prompt in taken)
        steps = min(sequence - longest - 1, -(-left // len(taken)))
        new_counts = [max(0, min(steps, left - row * steps)) for row in range(len(taken))]
        rows = sum(count > 0 for count in new_counts)
        completions = generate(
            model,
            taken[:rows],
            new_counts=new_counts[:rows],
            sequence=sequence,
            choices=[stream(sampling.seed, "completion", first + row) for row in range(rows)],
            temperature=sampling.temperature,
        )
        for prompt, completion in zip(taken, completions, strict=False):
            # Latin-1 gives one character a token, whatever bytes the model dreams up.
            text = completion.decode("latin-1")
            lines.append(json.dumps({"id": prompt.prompt_id, "completion": text}))
        done_count += sum(new_counts)
        progress.tell(done_count)
    job.publish(directories.output / "completions.jsonl", "".join(f"{line}\n" for line in lines))
    progress.report(
        {
            "model": model.config.name,
            "data": directories.data.name,
            "batch": batch,
            "sequence": sequence,
            "completions": len(lines),
        }
    )


def non_negative(text: str) -> float:
    """Return the number in `text`, finite and at least 0, for argparse.

    Raises:
        ValueError: It is none.
    """
    if not 0 <= (value := float(text)) < math.inf:
        raise ValueError
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run the job, return the exit code."""
    parser = job.parser("generate", sequence_default=256)
    parser.add_argument("--temperature", type=non_negative, default=0.8, help="0 is greedy (0.8)")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(arguments)
    sampling = Sampling(options.temperature, seed=options.seed)

    def work(model: LanguageModel, directories: job.Directories, progress: job.Progress) -> None:
        job.check_sequence(options.sequence, model)
        write_completions(
            model,
            directories,
            progress,
            batch=options.batch,
            sequence=options.sequence,
            sampling=sampling,
        )

    return job.run("batch-inference", work, tokens_count=options.tokens)


if __name__ == "__main__":
    job.end_on_sigterm()
    sys.exit(main())
