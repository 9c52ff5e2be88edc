"""The transformer as an ONNX graph (opset 17): decoder only, pre-norm, with a key-value cache.

Inputs, with the names that exporters of Hugging Face models use:
    input_ids: (batch, sequence) int64.
    attention_mask: (batch, total) int64; total is past + sequence, 0 marks padding on the left.
    position_ids: (batch, sequence) int64.
    past_key_values.N.key, past_key_values.N.value: (batch, heads, past, head width) float32.

Outputs:
    logits: (batch, sequence, vocabulary) float32.
    present.N.key, present.N.value: (batch, heads, total, head width) float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper

from testbed.workloads.weights import HEAD_WIDTH, VOCABULARY, Shape

_OPSET = 17
#: The oldest file format that carries opset 17, named so that every `onnx` writes the same bytes.
_IR_VERSION = 8
#: Added to the score of a key that must not be seen; finite, so that a row of nothing but padding
#: gives no NaN.
_BLOCKED = -1e9


@dataclass(slots=True)
class _Graph:
    """Nodes and constants in the order in which they were added."""

    nodes: list[NodeProto] = field(default_factory=list)
    initializers: dict[str, TensorProto] = field(default_factory=dict)

    def add(
        self, operator: str, *inputs: str, output: str = "", **attributes: float | list[int]
    ) -> str:
        """Append a node with one output and return the output's name."""
        output = output or f"{operator.lower()}.{len(self.nodes)}"
        node = helper.make_node(operator, list(inputs), [output])
        node.attribute.extend(helper.make_attribute(*item) for item in sorted(attributes.items()))
        self.nodes.append(node)
        return output

    def split(self, tensor: str, parts: int) -> list[str]:
        """Split the last axis into equal parts."""
        outputs = [f"split.{len(self.nodes)}.{part}" for part in range(parts)]
        self.nodes.append(helper.make_node("Split", [tensor], outputs, axis=-1))
        return outputs

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """Add an initializer, once."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(value, name)
        return name

    def integers(self, *values: int) -> str:
        """Return a constant int64 vector."""
        name = "integers." + "_".join(map(str, values))
        return self.constant(name, np.array(values, dtype=np.int64))

    def integer(self, value: int) -> str:
        """Return a constant int64 scalar."""
        return self.constant(f"integer.{value}", np.array(value, dtype=np.int64))


def build(shape: Shape, weights: Mapping[str, npt.NDArray[np.float32]]) -> ModelProto:
    """Return the checked model."""
    graph = _Graph()
    for name, value in weights.items():
        graph.constant(name, value)
    tokens = graph.add("Gather", "token_embedding", "input_ids")
    positions = graph.add("Gather", "position_embedding", "position_ids")
    hidden = graph.add("Add", tokens, positions)
    score_bias = _score_bias(graph)
    for layer in range(shape.layers):
        hidden = graph.add("Add", hidden, _attention(graph, shape, layer, hidden, score_bias))
        hidden = graph.add("Add", hidden, _mlp(graph, layer, hidden))
    normed = _norm(graph, "final", hidden)
    graph.add("Add", graph.add("MatMul", normed, "head"), "head_bias", output="logits")
    inputs, outputs = _interface(shape)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes, shape.name, inputs, outputs, list(graph.initializers.values())
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="gcos",
    )
    checker.check_model(model)
    return model


def _interface(shape: Shape) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    """Return the declared inputs and outputs."""

    def info(name: str, element: int, *axes: int | str) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, element, list(axes))

    integer, real = int(TensorProto.INT64), int(TensorProto.FLOAT)
    inputs = [
        info("input_ids", integer, "batch", "sequence"),
        info("attention_mask", integer, "batch", "total"),
        info("position_ids", integer, "batch", "sequence"),
    ]
    outputs = [info("logits", real, "batch", "sequence", VOCABULARY)]
    for layer in range(shape.layers):
        for part in ("key", "value"):
            past, present = f"past_key_values.{layer}.{part}", f"present.{layer}.{part}"
            inputs.append(info(past, real, "batch", shape.heads, "past", HEAD_WIDTH))
            outputs.append(info(present, real, "batch", shape.heads, "total", HEAD_WIDTH))
    return inputs, outputs


def _score_bias(graph: _Graph) -> str:
    """Add 0 where a query may see a key and a huge negative where not, (batch, 1, seq, total)."""

    def length(tensor: str) -> str:
        return graph.add("Gather", graph.add("Shape", tensor), graph.integer(1))

    total = length("attention_mask")
    past = graph.add("Sub", total, length("input_ids"))
    keys = graph.add("Range", graph.integer(0), total, graph.integer(1))
    queries = graph.add("Range", past, total, graph.integer(1))
    queries = graph.add("Unsqueeze", queries, graph.integers(1))
    future = graph.add("Greater", keys, queries)
    padding = graph.add("Equal", "attention_mask", graph.integer(0))
    padding = graph.add("Unsqueeze", padding, graph.integers(1, 2))
    blocked = graph.add("Or", future, padding)
    low = graph.constant("blocked", np.array(_BLOCKED, dtype=np.float32))
    zero = graph.constant("seen", np.array(0.0, dtype=np.float32))
    return graph.add("Where", blocked, low, zero)


def _norm(graph: _Graph, prefix: str, hidden: str) -> str:
    scale, shift = f"{prefix}.norm.scale", f"{prefix}.norm.shift"
    return graph.add("LayerNormalization", hidden, scale, shift, axis=-1, epsilon=1e-5)


def _attention(graph: _Graph, shape: Shape, layer: int, hidden: str, score_bias: str) -> str:
    """Add scaled dot-product attention: Vaswani et al. 2017, equation 1."""
    prefix = f"layer.{layer}.attention"
    mixed = graph.add("MatMul", _norm(graph, prefix, hidden), f"{prefix}.query_key_value")
    by_head = [
        graph.add(
            "Transpose",
            graph.add("Reshape", part, graph.integers(0, 0, shape.heads, HEAD_WIDTH)),
            perm=[0, 2, 1, 3],
        )
        for part in graph.split(mixed, 3)
    ]
    keys, values = (
        graph.add(
            "Concat",
            f"past_key_values.{layer}.{name}",
            part,
            axis=2,
            output=f"present.{layer}.{name}",
        )
        for name, part in zip(("key", "value"), by_head[1:], strict=True)
    )
    scale = graph.constant("score_scale", np.array(HEAD_WIDTH**-0.5, dtype=np.float32))
    queries = graph.add("Mul", by_head[0], scale)
    scores = graph.add("MatMul", queries, graph.add("Transpose", keys, perm=[0, 1, 3, 2]))
    attention = graph.add("Softmax", graph.add("Add", scores, score_bias), axis=-1)
    context = graph.add("Transpose", graph.add("MatMul", attention, values), perm=[0, 2, 1, 3])
    merged = graph.add("Reshape", context, graph.integers(0, 0, shape.width))
    return graph.add("MatMul", merged, f"{prefix}.output")


def _mlp(graph: _Graph, layer: int, hidden: str) -> str:
    prefix = f"layer.{layer}.mlp"
    up = graph.add("MatMul", _norm(graph, prefix, hidden), f"{prefix}.up")
    active = graph.add("Relu", graph.add("Add", up, f"{prefix}.up_bias"))
    down = graph.add("MatMul", active, f"{prefix}.down")
    return graph.add("Add", down, f"{prefix}.down_bias")
