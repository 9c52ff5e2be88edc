"""Evaluation: `python -m testbed.workloads.evaluate --tokens N --batch B --sequence L`.

Measures the perplexity of a model on the first N bytes of a data set's documents, in windows of L
tokens, B windows at a time, and writes `metrics.json`. Where N exceeds the documents they are
read again from the start.
"""

import json
import math
import sys
from collections.abc import Sequence

import numpy as np

from gcos.errors import InvalidRequestError
from testbed.workloads import job
from testbed.workloads.language_model import Floats, Integers, LanguageModel, read_input


def negative_log_likelihood_nats(logits: Floats, targets: Integers) -> Floats:
    """Return -log P(target) per token, (batch, sequence), from logits one axis longer."""
    shifted = logits - logits.max(axis=2, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(axis=2))
    chosen = np.take_along_axis(shifted, targets[:, :, np.newaxis], axis=2)[:, :, 0]
    return np.asarray(log_total - chosen)


def window_loss_nats(model: LanguageModel, windows: Integers) -> Floats:
    """Return the loss of each token of (batch, sequence) windows that stand on their own."""
    batch, sequence = windows.shape
    begin = np.full((batch, 1), model.config.begin_token, dtype=np.int64)
    logits, _ = model.step(
        np.concatenate([begin, windows[:, :-1]], axis=1),
        attention_mask=np.ones((batch, sequence), dtype=np.int64),
        position_ids=np.broadcast_to(np.arange(sequence), (batch, sequence)).copy(),
        cache=model.empty_cache(batch=batch),
    )
    return negative_log_likelihood_nats(logits, windows)


def write_metrics(
    model: LanguageModel,
    directories: job.Directories,
    progress: job.Progress,
    *,
    batch: int,
    sequence: int,
) -> None:
    """Score `progress.tokens_count` tokens and write `metrics.json`.

    Raises:
        GcosError: The documents cannot be read, or the output not written.
    """
    path = directories.data / "documents.txt"
    documents = np.frombuffer(read_input(path), dtype=np.uint8)
    if not documents.size:
        raise InvalidRequestError(f"{path} is empty")
    total_nats = 0.0
    done_count = 0
    while done_count < progress.tokens_count:
        left = progress.tokens_count - done_count
        # Less than a full batch is split into windows of the same length, the last one cut.
        rows = min(batch, -(-left // sequence))
        places = done_count + np.arange(rows * sequence)
        windows = documents.take(places, mode="wrap").astype(np.int64).reshape(rows, sequence)
        losses = window_loss_nats(model, windows).reshape(-1)[:left]
        total_nats += float(losses.sum(dtype=np.float64))
        done_count += losses.size
        progress.tell(done_count)
    mean_nats = total_nats / done_count
    metrics = {
        "perplexity": math.exp(mean_nats),
        "loss_nats_per_token": mean_nats,
        "loss_bits_per_token": mean_nats / math.log(2),
    }
    facts = {
        "model": model.config.name,
        "data": directories.data.name,
        "batch": batch,
        "sequence": sequence,
        **metrics,
    }
    record = {"kind": progress.kind, "tokens": done_count, **facts}
    job.publish(directories.output / "metrics.json", json.dumps(record, indent=2) + "\n")
    progress.report(facts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run the job, return the exit code."""
    options = job.parser("evaluate", sequence_default=256).parse_args(arguments)

    def work(model: LanguageModel, directories: job.Directories, progress: job.Progress) -> None:
        job.check_sequence(options.sequence, model)
        write_metrics(model, directories, progress, batch=options.batch, sequence=options.sequence)

    return job.run("evaluation", work, tokens_count=options.tokens)


if __name__ == "__main__":
    job.end_on_sigterm()
    sys.exit(main())
