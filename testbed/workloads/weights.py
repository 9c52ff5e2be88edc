"""Weights of the tiny language models: random from the seed, around a fitted table. Pure.

The models are honest transformers in shape and cost, but nobody trained them. What they know was
put in by construction, in closed form:

- The stream's first 64 channels hold a one-hot code of the current byte (the 63 commonest bytes
  have a code each, the others share one).
- Heads 0 and 1 of the first layer look at the previous position: keys are sinusoids, queries the
  same sinusoids turned back by one step. They copy the previous byte's code to channels 64-127.
- The head adds two tables, one for each code, so that the logits are those of a log-linear model
  `log P(next | current) + w (log P(next | previous) - log P(next))`, counted on sampled text.
- All other heads and all MLPs are random, write to channels 128 and up with a small gain, and
  move the logits a little. They cost what trained ones cost.

Every number from a library function (sin, log) is rounded to a coarse binary grid and random
weights are scaled uniform integers, so that a machine with another libm writes the same files.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gcos.seeds import stream

_Float = npt.NDArray[np.float32]

#: 256 bytes and three specials.
VOCABULARY = 259
BEGIN_TOKEN, END_TOKEN, PAD_TOKEN = 256, 257, 258
HEAD_WIDTH = 32

_CODES = 64
_PREVIOUS = slice(_CODES, 2 * _CODES)
_FREQUENCIES = 16
_POSITIONS = slice(2 * _CODES, 2 * _CODES + 2 * _FREQUENCIES)
#: Height of a code in the stream: its power then equals that of the 16 sinusoids.
_CODE_HEIGHT = 4.0
#: Softmax logits of a previous-token head are this times a sum of 16 cosines. The best wrong
#: position of 512 sums to 8.7 where the right one sums to 16, so each wrong one gets under e^-21.
_PREVIOUS_GAIN = 3.0
#: Weight of the previous byte's table; 0.7 gave the lowest perplexity of 0, 0.3, 0.5, 0.7 and 1
#: on the sampled text of seed 7 (11.1, 9.0, 8.6, 8.4, 8.5).
_PREVIOUS_WEIGHT = 0.7
_SMOOTHING_COUNT = 0.1
#: Logit of the specials, which the sampled text never holds.
_SPECIAL_LOGIT = -20.0
#: Root mean square, about, of what random embeddings, heads and MLPs add to a channel.
_EMBEDDING_NOISE = 0.2
_LAYER_NOISE = 0.1
#: Standard deviation of the head's weights on channels that hold no code.
_HEAD_NOISE = 0.02
#: Fitted numbers are multiples of this.
_GRID = 2.0**-10


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of one model; `width` is a multiple of `HEAD_WIDTH` and at least 160."""

    name: str
    layers: int
    width: int
    #: Most tokens of a sequence, prompt and completion together.
    context: int = 512

    @property
    def heads(self) -> int:
        """Attention heads per layer."""
        return self.width // HEAD_WIDTH


SHAPES: tuple[Shape, ...] = (
    Shape("tiny-lm-800k", layers=2, width=160),
    Shape("tiny-lm-1500k", layers=3, width=192),
    Shape("tiny-lm-3400k", layers=4, width=256),
    Shape("tiny-lm-5200k", layers=4, width=320),
)


def make_weights(shape: Shape, *, seed: int, text: bytes) -> Mapping[str, _Float]:
    """Return the weights by name; matrices are (inputs, outputs) float32, row vectors times them.

    Args:
        shape: Size of the model.
        seed: Seed of the random part.
        text: Sample on which the tables are counted.
    """
    assert shape.width >= _POSITIONS.stop, "no room for the codes and positions"
    assert shape.width % HEAD_WIDTH == 0
    rng = stream(seed, "weights", shape.name)
    codes = _byte_codes(text)
    weights: dict[str, _Float] = {
        "token_embedding": _token_embedding(shape, codes, rng),
        "position_embedding": _position_embedding(shape, rng),
    }
    for layer in range(shape.layers):
        weights |= _random_layer(shape, layer, rng)
    _aim_at_previous(shape, weights)
    weights |= _head(shape, codes, text, rng)
    return weights


def _stream_deviation(shape: Shape, codes_present: int) -> float:
    """Return the standard deviation over channels of a stream that holds so many codes."""
    noise = (shape.width - _POSITIONS.stop) * 2 * _EMBEDDING_NOISE**2
    power = codes_present * _CODE_HEIGHT**2 + _FREQUENCIES + noise
    return float((power / shape.width) ** 0.5)


def _uniform(rng: np.random.Generator, rows: int, columns: int, *, deviation: float) -> _Float:
    """Return uniform weights of that standard deviation: exact arithmetic, no libm."""
    half_range = np.float32(round(deviation * 3**0.5 / _GRID) * _GRID)
    halves = rng.random((rows, columns), dtype=np.float32) * np.float32(2) - np.float32(1)
    return halves * half_range


def _on_grid(values: npt.NDArray[np.float64]) -> _Float:
    """Round to the grid, so that a last bit of sin or log cannot reach a file."""
    return (np.round(values / _GRID) * _GRID).astype(np.float32)


def _byte_codes(text: bytes) -> npt.NDArray[np.int64]:
    """Return the code of each token, (vocabulary,): 1-63 by rank, 0 for rare bytes and specials."""
    counts = np.bincount(np.frombuffer(text, dtype=np.uint8), minlength=VOCABULARY)
    common = np.argsort(-counts, kind="stable")[: _CODES - 1]
    codes = np.zeros(VOCABULARY, dtype=np.int64)
    codes[common] = np.arange(1, _CODES)
    return codes


def _token_embedding(
    shape: Shape, codes: npt.NDArray[np.int64], rng: np.random.Generator
) -> _Float:
    embedding = _uniform(rng, VOCABULARY, shape.width, deviation=_EMBEDDING_NOISE)
    embedding[:, : _POSITIONS.stop] = 0.0
    embedding[np.arange(VOCABULARY), codes] = _CODE_HEIGHT
    return embedding


def _angles_per_step() -> npt.NDArray[np.float64]:
    """Return 16 angles in (0, pi): fractional parts of roots of primes, so no two steps agree."""
    primes = np.array([2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53])
    return np.asarray(np.pi * np.mod(np.sqrt(primes), 1.0))


def _position_embedding(shape: Shape, rng: np.random.Generator) -> _Float:
    embedding = _uniform(rng, shape.context, shape.width, deviation=_EMBEDDING_NOISE)
    embedding[:, : _POSITIONS.start] = 0.0
    angles = np.outer(np.arange(shape.context), _angles_per_step())
    embedding[:, _POSITIONS] = _on_grid(np.concatenate([np.cos(angles), np.sin(angles)], axis=1))
    return embedding


def _random_layer(shape: Shape, layer: int, rng: np.random.Generator) -> dict[str, _Float]:
    """Return one layer whose output stays off the channels of the codes."""
    width, hidden = shape.width, 4 * shape.width
    output = _uniform(rng, width, width, deviation=_LAYER_NOISE / width**0.5)
    down = _uniform(rng, hidden, width, deviation=_LAYER_NOISE / hidden**0.5)
    output[:, : _PREVIOUS.stop] = 0.0
    down[:, : _PREVIOUS.stop] = 0.0
    ones, zeros = np.ones(width, dtype=np.float32), np.zeros(width, dtype=np.float32)
    return {
        f"layer.{layer}.attention.norm.scale": ones,
        f"layer.{layer}.attention.norm.shift": zeros,
        f"layer.{layer}.attention.query_key_value": _uniform(
            rng, width, 3 * width, deviation=width**-0.5
        ),
        f"layer.{layer}.attention.output": output,
        f"layer.{layer}.mlp.norm.scale": ones,
        f"layer.{layer}.mlp.norm.shift": zeros,
        f"layer.{layer}.mlp.up": _uniform(rng, width, hidden, deviation=(2 / width) ** 0.5),
        f"layer.{layer}.mlp.up_bias": np.zeros(hidden, dtype=np.float32),
        f"layer.{layer}.mlp.down": down,
        f"layer.{layer}.mlp.down_bias": zeros,
    }


def _aim_at_previous(shape: Shape, weights: Mapping[str, _Float]) -> None:
    """Turn heads 0 and 1 of the first layer into copiers of the previous token's code."""
    deviation = _stream_deviation(shape, codes_present=1)
    angles = _angles_per_step()
    cosines, sines = np.diag(np.cos(angles)), np.diag(np.sin(angles))
    # Row vector (cos a, sin a) times this is (cos(a - step), sin(a - step)).
    turned_back = np.block([[cosines, -sines], [sines, cosines]])
    # The layer norm divides both sides by the deviation, the attention scores by sqrt(head width).
    gain = _PREVIOUS_GAIN * deviation**2 * HEAD_WIDTH**0.5
    mixing = weights["layer.0.attention.query_key_value"]
    output = weights["layer.0.attention.output"]
    queries, keys, values = np.split(mixing, 3, axis=1)
    for head in (0, 1):
        own = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
        for matrix in (queries, keys, values):
            matrix[:, own] = 0.0
        queries[_POSITIONS, own] = _on_grid(gain * turned_back)
        keys[_POSITIONS, own] = np.eye(HEAD_WIDTH, dtype=np.float32)
        values[own, own] = np.eye(HEAD_WIDTH, dtype=np.float32)
        output[own] = 0.0
        copied = slice(_PREVIOUS.start + own.start, _PREVIOUS.start + own.stop)
        output[own, copied] = _on_grid(deviation * np.eye(HEAD_WIDTH))


def _head(
    shape: Shape, codes: npt.NDArray[np.int64], text: bytes, rng: np.random.Generator
) -> dict[str, _Float]:
    """Return the final norm and the head: table by current code, table by previous code, noise."""
    tokens = np.frombuffer(text, dtype=np.uint8)
    by_current = _log_probabilities(codes[tokens[:-1]], tokens[1:])
    by_previous = _log_probabilities(codes[tokens[:-2]], tokens[2:])
    alone = _log_probabilities(np.zeros_like(tokens, dtype=np.int64), tokens)[0]
    by_previous = _PREVIOUS_WEIGHT * (by_previous - alone)
    # A table with zero column means is blind to the mean that the final norm subtracts.
    bias = by_current.mean(axis=0) + by_previous.mean(axis=0)
    tables = np.concatenate(
        [by_current - by_current.mean(axis=0), by_previous - by_previous.mean(axis=0)]
    )
    gain = _stream_deviation(shape, codes_present=2) / _CODE_HEIGHT
    matrix = _uniform(rng, shape.width, VOCABULARY, deviation=_HEAD_NOISE)
    matrix[: _PREVIOUS.stop] = _on_grid(gain * tables)
    return {
        "final.norm.scale": np.ones(shape.width, dtype=np.float32),
        "final.norm.shift": np.zeros(shape.width, dtype=np.float32),
        "head": matrix,
        "head_bias": _on_grid(bias),
    }


def _log_probabilities(
    contexts: npt.NDArray[np.int64], following: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float64]:
    """Return smoothed log frequencies of the next token, (codes, vocabulary)."""
    cells = np.bincount(contexts * VOCABULARY + following, minlength=_CODES * VOCABULARY)
    counts = cells.reshape(_CODES, VOCABULARY) + _SMOOTHING_COUNT
    table = np.asarray(np.log(counts / counts.sum(axis=1, keepdims=True)))
    table[:, BEGIN_TOKEN:] = _SPECIAL_LOGIT
    return table
