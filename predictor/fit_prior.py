"""Fits the shipped prior to measured runs: `python -m predictor.fit_prior DIR`.

DIR holds `llm_latency_splitwise.csv.gz` and `llm_energy_benchmark.csv`; what is printed stands in
`gcos.roofline.COEFFICIENTS`. Every run counts by its relative error, and both tables count alike.
"""

import csv
import gzip
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gcos.roofline import TERMS, Hardware, ServedModel, terms_s
from predictor.roofline import Floats, fitted_coefficients

#: Dense 16-bit FLOP/s and memory bytes/s (NVIDIA data sheets).
PEAKS = {
    "a100-80gb": (312e12, 2.04e12),
    "h100-80gb": (989e12, 3.35e12),
    "h100-80gb-pcap": (989e12, 3.35e12),
    "H100": (989e12, 3.35e12),
    "B200": (2250e12, 8e12),
}
#: Llama 2 70B has grouped attention (8 heads of 128), BLOOM 176B has not.
SPLITWISE_MODELS = {
    "llama2-70b": ServedModel(70e9, 140e9, 80, 80 * 4096.0),
    "bloom-176b": ServedModel(176e9, 352e9, 70, 70 * 4.0 * 14336),
}
WEIGHT_BYTES = {"fp8": 1.0, "bfloat16": 2.0, "mxfp4": 0.55}


@dataclass(frozen=True, slots=True)
class Measured:
    """One measured batch.

    Attributes:
        model: Its name.
        gpu: GPU type.
        gpu_count: GPUs of one copy.
        model_bytes: Size of the weights.
        batch_size_count: Sequences generated together.
        prompt_token_count: Tokens of a prompt.
        output_token_count: Tokens generated for it.
        seconds: What it took.
        terms: Of the roofline on that hardware.
    """

    model: str
    gpu: str
    gpu_count: int
    model_bytes: int
    batch_size_count: float
    prompt_token_count: float
    output_token_count: float
    seconds: float
    terms: tuple[float, ...]


def splitwise(directory: Path) -> list[Measured]:
    """Return the runs of the profile behind Splitwise: prompts and outputs apart.

    Its end-to-end times stop before the stated tokens where outputs are long.
    """
    runs = []
    with gzip.open(directory / "llm_latency_splitwise.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            output, gpu_count = float(row["token_size"]), int(float(row["tensor_parallel"]))
            seconds = (float(row["prompt_time"]) + float(row["token_time"]) * (output - 1)) / 1e3
            runs.append(
                _measured(
                    (row["model"], row["hardware"], gpu_count),
                    SPLITWISE_MODELS[row["model"]],
                    SPLITWISE_MODELS[row["model"]].weight_bytes,
                    (float(row["batch_size"]), float(row["prompt_size"]), output),
                    seconds,
                )
            )
    return runs


def energy_benchmark(directory: Path) -> list[Measured]:
    """Return the runs of the energy benchmark: inter-token latency times the length of an answer.

    Several copies of a model share the GPUs; a batch is that of one copy.
    """
    runs = []
    with (directory / "llm_energy_benchmark.csv").open() as file:
        for row in csv.DictReader(file):
            active, total = (
                float(row[f"{name}_params_b"]) * 1e9 for name in ("activated", "total")
            )
            batch, output = float(row["avg_batch_size"]), float(row["avg_output_len"])
            # A batch reaches more experts of a mixture than one token does.
            touched = active + (total - active) * (1 - (1 - active / total) ** batch)
            bytes_each = WEIGHT_BYTES.get(row["weight_precision"], 2.0)
            runs.append(
                _measured(
                    (row["model"], row["gpu_model"], int(float(row["num_gpus"]))),
                    ServedModel.guessed(active, touched, bytes_each),
                    total * bytes_each,
                    (batch, 0.0, output),
                    float(row["median_itl_ms"]) / 1e3 * output,
                )
            )
    return runs


def _measured(
    place: tuple[str, str, int],
    model: ServedModel,
    model_bytes: float,
    shape: tuple[float, float, float],
    seconds: float,
) -> Measured:
    name, gpu, gpu_count = place
    batch, prompt, output = shape
    terms = terms_s(
        model,
        Hardware(*PEAKS[gpu], gpu_count),
        batch_size_count=batch,
        prompt_token_count=prompt,
        output_token_count=output,
    )
    return Measured(name, gpu, gpu_count, round(model_bytes), batch, prompt, output, seconds, terms)


def coefficients_of(tables: Sequence[Sequence[Measured]]) -> Floats:
    """Return the coefficients fitted to all tables, each of which counts alike."""
    return fitted_coefficients(
        [run.terms for runs in tables for run in runs],
        [run.seconds for runs in tables for run in runs],
        [1 / len(runs) for runs in tables for _ in runs],
    )


def main(arguments: Sequence[str]) -> int:
    """Print the coefficients; return the exit code."""
    if len(arguments) != 1:
        sys.stderr.write(__doc__ or "")
        return 2
    directory = Path(arguments[0])
    found = coefficients_of((splitwise(directory), energy_benchmark(directory)))
    for name, coefficient in zip(TERMS, found.tolist(), strict=True):
        sys.stdout.write(f"{name} {coefficient:.4g}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
