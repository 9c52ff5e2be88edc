"""A small network on rows of features, as arrays: what the compiled simulator runs. Pure.

    z = clip((x - shift) scale, -clamp, clamp)
    f = clip(tanh(tanh(z W1 + b1) W2 + b2) w3 + b3, 0, output_max)

The same arithmetic, in the same 64-bit numbers, stands in the actor's file (`graph_of`) and in
training (`testbed.training`); agents run the file. A feature that did not vary in training has
scale 0: whatever it turns out to be later changes nothing (DESIGN section 7 F, traps).
"""

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies.maccs.row_graph import arrays_in, row_graph

if TYPE_CHECKING:
    import onnx

Floats = NDArray[np.float64]

#: Units of each of the two hidden layers.
HIDDEN: Final = 16
#: Names of the arrays in a graph, in the order of `Weights`.
_NAMES: Final = ("shift", "scale", "w1", "b1", "w2", "b2", "w3", "b3", "clamp", "output_max")


class Weights(NamedTuple):
    """What training found.

    Attributes:
        shift: (f,) means of the features.
        scale: (f,) one over their standard deviations; 0 where a feature did not vary.
        w1: (f, h).
        b1: (h,).
        w2: (h, h).
        b2: (h,).
        w3: (h, 1).
        b3: (1,).
        clamp: Scaled inputs are cut off beyond this.
        output_max: Outputs are cut off beyond this, and below 0.
    """

    shift: Floats
    scale: Floats
    w1: Floats
    b1: Floats
    w2: Floats
    b2: Floats
    w3: Floats
    b3: Floats
    clamp: float
    output_max: float


def no_weights() -> Weights:
    """Return weights of no network: what compiled code is handed where nothing is learned."""
    none, square = np.zeros(0), np.zeros((0, 0))
    return Weights(none, none, square, none, square, none, square, none, 0.0, 0.0)


def forward(weights: Weights, rows: Floats) -> Floats:
    """Return the network's output for each row, (n,)."""
    count, width = rows.shape
    hidden = len(weights.b1)
    outputs = np.zeros(count)
    inputs = np.zeros(width)
    first = np.zeros(hidden)
    for n in range(count):
        for k in range(width):
            value = (rows[n, k] - weights.shift[k]) * weights.scale[k]
            inputs[k] = min(max(value, -weights.clamp), weights.clamp)
        for h in range(hidden):
            total = weights.b1[h]
            for k in range(width):
                total += inputs[k] * weights.w1[k, h]
            first[h] = math.tanh(total)
        output = weights.b3[0]
        for h in range(hidden):
            total = weights.b2[h]
            for k in range(hidden):
                total += first[k] * weights.w2[k, h]
            output += math.tanh(total) * weights.w3[h, 0]
        outputs[n] = min(max(output, 0.0), weights.output_max)
    return outputs


def graph_of(
    weights: Weights, *, name: str, input_name: str, output_name: str
) -> "onnx.GraphProto":
    """Return the network as an ONNX graph: any number of rows in, (n, 1) out, 64-bit."""
    from onnx import helper  # noqa: PLC0415  not needed to run one

    arrays = {key: np.asarray(value) for key, value in zip(_NAMES, weights, strict=True)}
    arrays |= {"least": np.array(-weights.clamp), "zero": np.array(0.0)}
    nodes = [
        helper.make_node("Sub", [input_name, "shift"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "scale"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "least", "clamp"], ["inputs"]),
        helper.make_node("Gemm", ["inputs", "w1", "b1"], ["sum1"]),
        helper.make_node("Tanh", ["sum1"], ["hidden1"]),
        helper.make_node("Gemm", ["hidden1", "w2", "b2"], ["sum2"]),
        helper.make_node("Tanh", ["sum2"], ["hidden2"]),
        helper.make_node("Gemm", ["hidden2", "w3", "b3"], ["sum3"]),
        helper.make_node("Clip", ["sum3", "zero", "output_max"], [output_name]),
    ]
    width = len(weights.shift)
    return row_graph(
        nodes, arrays, name=name, width=width, input_name=input_name, output_name=output_name
    )


def weights_in(graph: "onnx.GraphProto") -> Weights:
    """Return the arrays of a graph that `graph_of` made.

    Raises:
        KeyError: It is another one.
    """
    arrays = arrays_in(graph)
    layers = {name: arrays[name] for name in _NAMES[:-2]}
    clamp, output_max = (float(arrays[name]) for name in _NAMES[-2:])
    return Weights(**layers, clamp=clamp, output_max=output_max)
