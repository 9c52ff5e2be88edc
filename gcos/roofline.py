"""Roofline of prefill and decode, with coefficients fitted to measured runs. Pure.

What one batch of generation takes, as seven terms of seconds, each with a coefficient of at least 0
that says how far reality is from it. `predictor.fit_prior` fits the coefficients.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

#: Names of the terms, in order.
TERMS = (
    "prompt_arithmetic",
    "output_arithmetic",
    "weight_reads",
    "cache_reads",
    "layer_steps",
    "sequence_steps",
    "exchange_steps",
)
#: Seconds that a layer, or a sequence, takes for an output token at a coefficient of 1.
STEP_S = 1e-5

#: Fitted to measured runs: see `gcos/tables/SOURCES.md`. In the order of `TERMS`.
COEFFICIENTS = (1.497, 0.3176, 1.262, 1.202, 6.832, 4.054, 6.522)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the roofline reads of a model.

    Attributes:
        active_count: Parameters that a token passes through.
        weight_bytes: Size of all weights that a batch reads.
        layer_count: Layers.
        cache_bytes_per_token: Attention cache of one token in all layers.
    """

    active_count: float
    weight_bytes: float
    layer_count: float
    cache_bytes_per_token: float

    @classmethod
    def guessed(
        cls, active_count: float, total_count: float, bytes_per_parameter: float
    ) -> "ServedModel":
        """Return a model of which only its size is known.

        Layers grow with the cube root of size (80 at 70 billion, as Llama 2); the cache is that of
        grouped attention with 8 heads of 128 values of 16 bits.
        """
        layer_count = 80 * (active_count / 70e9) ** (1 / 3)
        return cls(
            active_count, total_count * bytes_per_parameter, layer_count, layer_count * 4096.0
        )


@dataclass(frozen=True, slots=True)
class Hardware:
    """GPUs that run one copy of a model together.

    Attributes:
        flops_per_s: Dense 16-bit peak of one.
        bytes_per_s: Memory peak of one.
        gpu_count: How many.
    """

    flops_per_s: float
    bytes_per_s: float
    gpu_count: int


def terms_s(
    model: ServedModel,
    hardware: Hardware,
    *,
    batch_size_count: float,
    prompt_token_count: float,
    output_token_count: float,
) -> tuple[float, ...]:
    """Return the terms of one batch from its prompts to its last token.

    Prompt and output arithmetic, 2 FLOPs a parameter (Kaplan et al. 2020, section 2.1); all weights
    read once an output token; the attention cache read; a constant for each layer and output token;
    one for each sequence and output token (scheduling and sampling); one for each layer, output
    token and doubling of the GPUs, which exchange what they computed.
    """
    flops_per_s = hardware.flops_per_s * hardware.gpu_count
    bytes_per_s = hardware.bytes_per_s * hardware.gpu_count
    arithmetic_s = 2 * model.active_count * batch_size_count / flops_per_s
    cached_count = batch_size_count * (prompt_token_count + output_token_count / 2)
    return (
        arithmetic_s * prompt_token_count,
        arithmetic_s * output_token_count,
        model.weight_bytes / bytes_per_s * output_token_count,
        cached_count * model.cache_bytes_per_token / bytes_per_s * output_token_count,
        STEP_S * model.layer_count * output_token_count,
        STEP_S * batch_size_count * output_token_count,
        STEP_S * model.layer_count * output_token_count * math.log2(hardware.gpu_count),
    )


@lru_cache(maxsize=4096)
def batch_s(
    model_bytes: int,
    bytes_per_parameter: float,
    hardware: Hardware,
    *,
    batch_size_count: float,
    prompt_token_count: float,
    output_token_count: float,
) -> float:
    """Return the seconds of one batch of generation with a model of which only its size is known.

    Remembered, since tasks share models and shapes far more often than sizes.
    """
    parameter_count = model_bytes / bytes_per_parameter
    terms = terms_s(
        ServedModel.guessed(parameter_count, parameter_count, bytes_per_parameter),
        hardware,
        batch_size_count=batch_size_count,
        prompt_token_count=prompt_token_count,
        output_token_count=output_token_count,
    )
    return sum(c * term for c, term in zip(COEFFICIENTS, terms, strict=True))
