"""ONNX graphs of networks on rows of features: any number of rows in, (n, 1) out, 64-bit. Pure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Floats = NDArray[np.float64]


def row_graph(
    nodes: "Sequence[onnx.NodeProto]",
    arrays: Mapping[str, Floats],
    *,
    name: str,
    width: int,
    input_name: str,
    output_name: str,
) -> "onnx.GraphProto":
    """Return a graph.

    Args:
        nodes: Its operators, in order.
        arrays: What they take beside the rows, by name.
        name: Of the graph.
        width: Features of a row.
        input_name: Of the rows, (n, width).
        output_name: Of what comes out, (n, 1).
    """
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415  not needed to run one

    double = TensorProto.DOUBLE
    return helper.make_graph(
        list(nodes),
        name,
        [helper.make_tensor_value_info(input_name, double, ["candidates", width])],
        [helper.make_tensor_value_info(output_name, double, ["candidates", 1])],
        [numpy_helper.from_array(array, key) for key, array in arrays.items()],
    )


def arrays_in(graph: "onnx.GraphProto") -> dict[str, Floats]:
    """Return the arrays of a graph by name."""
    from onnx import numpy_helper  # noqa: PLC0415

    return {each.name: numpy_helper.to_array(each).astype(np.float64) for each in graph.initializer}
