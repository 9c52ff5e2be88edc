"""Run time from first principles: what is known before any run of a model has finished.

A roofline of one reference GPU, the H100 SXM (speed ratio 1 in `gcos/tables/hardware.csv`). Where
text is generated, it is `gcos.roofline`, fitted to measured runs; else a token costs arithmetic,
`FLOPS_PER_PARAMETER` x parameters over the arithmetic rate:

    seconds = tokens x epochs x arithmetic / (speed_ratio x gpu_count)

It leaves out data loading and the loss from using many GPUs: hence the wide distribution around it.
A task says how many tokens there are and how long sequences are, not which of them are prompt: see
`lengths`. The predictor learns what a model really takes as a factor on the roofline;
an agent whose predictor is away uses the prior as it is: the roofline and `START_UP_S`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gcos.durations import (
    SECONDS_MAX,
    SECONDS_MIN,
    PoolSpeed,
    Prediction,
    PredictionSource,
    RunTime,
    WorkFeatures,
)
from gcos.roofline import Hardware, batch_s
from gcos.tasks import WorkKind

#: Spread of ln(run time) around the reference: the middle 90 % span a factor of 7 either way
#: (assumed: what the roofline leaves out is of this order).
PRIOR_SIGMA = 1.2

#: Dense BF16 rate and memory rate of the H100 SXM (NVIDIA H100 data sheet).
PEAK_FLOPS_PER_S = 989e12
PEAK_BYTES_PER_S = 3.35e12

#: Fraction of the arithmetic peak that is reached: median of Llama-2-70B on two H100 in the profile
#: behind Splitwise (Patel et al., ISCA 2024; `perf_model.csv` of splitwise-sim): 0.43 to 0.49 for
#: prompts of 512 tokens or more.
ARITHMETIC_EFFICIENCY = 0.45

#: Forward pass 2, forward and backward pass 6 (Kaplan et al. 2020, section 2.1: C = 6 N a token).
FLOPS_PER_PARAMETER = {
    WorkKind.FINE_TUNE: 6.0,
    WorkKind.BATCH_INFERENCE: 2.0,
    WorkKind.EVALUATION: 2.0,
    WorkKind.CUSTOM: 2.0,
}

#: Weights are taken as 16 bits wide.
BYTES_PER_PARAMETER = 2.0
#: Where the size of the model is not stated: 7 billion parameters.
MODEL_BYTES_UNKNOWN = 14_000_000_000
#: Sequences generated together where the task does not say (assumed).
BATCH_SIZE_UNKNOWN = 16
#: Prompt and output of a sequence: a prompt has 512 tokens, but at most four fifths of the sequence
#: (assumed: an instruction with its context, and an answer as long as is asked for).
PROMPT_COUNT = 512
PROMPT_SHARE_MAX = 0.8
#: Length of a sequence where the task does not say: a prompt and the least answer to it.
SEQUENCE_UNKNOWN = 640
#: Bytes of text behind a token (about four characters of English), where only data are stated.
DATA_BYTES_PER_TOKEN = 4.0
#: Reference time of work of unknown size, whatever the number of GPUs: it is then assumed that
#: who asks for more GPUs brings more work. The median of short and batch jobs in the scenarios.
WORK_UNKNOWN_S = 1_800.0


#: What any job takes before its first token: process, framework, weights from disk (assumed). It
#: moves the prior only, and a predictor learns it from runs; what is learned of one model scales
#: with its work.
START_UP_S = 30.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How work goes on, whatever the number of tokens: in batches of equal time.

    Attributes:
        epoch_count: Passes over the tokens.
        batch_token_count: Tokens of a batch.
        batch_s: Roofline's seconds of a batch on `gpu_count` GPUs, at speed ratio 1.
        gpu_count: GPUs that `batch_s` is of.
    """

    epoch_count: float
    batch_token_count: float
    batch_s: float
    gpu_count: int


def reference_s(features: WorkFeatures) -> float:
    """Return `gpu_count` times the roofline's seconds for all the work, at speed ratio 1."""
    token_count = _token_count(features)
    if token_count == 0:
        return WORK_UNKNOWN_S * max(features.gpu_count, 1)
    pace = pace_of(features)
    batch_count = token_count * pace.epoch_count / pace.batch_token_count
    return max(batch_count * pace.batch_s * pace.gpu_count, SECONDS_MIN)


def pace_of(features: WorkFeatures) -> Pace:
    """Return the pace of a task. Where no text is generated, a batch is a token on one GPU."""
    model_bytes = features.model_bytes or MODEL_BYTES_UNKNOWN
    if features.kind is WorkKind.BATCH_INFERENCE:
        gpu_count = max(features.gpu_count, 1)
        batch_size_count = features.batch_size_count or BATCH_SIZE_UNKNOWN
        prompt_token_count, output_token_count = lengths(features.sequence_token_count)
        one_batch_s = batch_s(
            model_bytes,
            BYTES_PER_PARAMETER,
            Hardware(PEAK_FLOPS_PER_S, PEAK_BYTES_PER_S, gpu_count),
            batch_size_count=batch_size_count,
            prompt_token_count=prompt_token_count,
            output_token_count=output_token_count,
        )
        tokens_per_batch = batch_size_count * (prompt_token_count + output_token_count)
        return Pace(features.epoch_count, tokens_per_batch, one_batch_s, gpu_count)
    flops = FLOPS_PER_PARAMETER[features.kind] * model_bytes / BYTES_PER_PARAMETER
    token_s = flops / (ARITHMETIC_EFFICIENCY * PEAK_FLOPS_PER_S)
    return Pace(features.epoch_count, 1.0, token_s, 1)


def lengths(sequence_token_count: int) -> tuple[float, float]:
    """Return tokens of prompt and of output in a sequence of so many; 0: unknown."""
    count = sequence_token_count or SEQUENCE_UNKNOWN
    prompt_count = min(PROMPT_COUNT, PROMPT_SHARE_MAX * count)
    return prompt_count, count - prompt_count


def has_known_size(features: WorkFeatures) -> bool:
    """Tell whether the reference time scales with the work, rather than being a flat guess."""
    return _token_count(features) > 0


def pool_reference_s(features: WorkFeatures, speed_ratio: float) -> float:
    """Return the roofline's seconds on `gpu_count` GPUs of `speed_ratio`, within [1e-3, 1e9]."""
    seconds = reference_s(features) / (speed_ratio * max(features.gpu_count, 1))
    return min(max(seconds, SECONDS_MIN), SECONDS_MAX)


def prior_predictions(features: WorkFeatures, pools: Sequence[PoolSpeed]) -> tuple[Prediction, ...]:
    """Return the roofline as a wide lognormal, one prediction for each pool, marked PRIOR."""
    return tuple(
        Prediction(
            pool_type=pool.type,
            run_time=RunTime.lognormal(
                START_UP_S / pool.speed_ratio + pool_reference_s(features, pool.speed_ratio),
                PRIOR_SIGMA,
            ),
            source=PredictionSource.PRIOR,
        )
        for pool in pools
    )


def _token_count(features: WorkFeatures) -> int:
    if features.token_count > 0 or features.kind is WorkKind.CUSTOM:
        return features.token_count
    return math.ceil(features.data_bytes / DATA_BYTES_PER_TOKEN)
