"""The trees as an ONNX graph: leaf of every tree, the boosted head's forecast and its usual error.

One `TreeEnsembleRegressor` holds all: each partition tree writes its leaf (counted through all
trees, exact in float32 below 2**24) to a target of its own, each boosted tree adds to one of the
last two.
Online updates never touch it. Building needs the `onnx` package; serving only ONNX Runtime.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from predictor.records import Singles, TreeFunction

#: Attributes of the ensemble: numbers or words, by name.
_Columns = dict[str, list[object]]

FEATURES = "features"
TOLD = "told"


@dataclass(frozen=True, slots=True)
class FlatTree:
    """A binary tree as arrays by node; the root is 0, -1 marks leaves.

    Attributes:
        feature: Index of the feature that a node splits on.
        threshold: A row goes left if its feature is at most this.
        left: Left child; -1 in leaves.
        right: Right child; -1 in leaves.
        value: What a leaf tells.
    """

    feature: NDArray[np.intp]
    threshold: NDArray[np.float64]
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    value: NDArray[np.float64]


def graph_of(
    partition: Sequence[FlatTree],
    head: Sequence[FlatTree],
    error: Sequence[FlatTree],
    feature_count: int,
) -> bytes:
    """Return the ONNX model whose targets are one leaf a tree, and the sums of boosted trees."""
    from onnx import TensorProto, helper  # noqa: PLC0415  not needed to serve

    columns: _Columns = {
        name: []
        for name in (
            *("nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_modes"),
            *("nodes_values", "nodes_truenodeids", "nodes_falsenodeids"),
            *("target_treeids", "target_nodeids", "target_ids", "target_weights"),
        )
    }
    of_head = [len(partition)] * len(head) + [len(partition) + 1] * len(error)
    for index, (tree, target) in enumerate(
        zip((*partition, *head, *error), (*range(len(partition)), *of_head), strict=True)
    ):
        _append(columns, tree, index, target=target)
    node = helper.make_node(
        "TreeEnsembleRegressor",
        [FEATURES],
        [TOLD],
        domain="ai.onnx.ml",
        n_targets=len(partition) + 2,
        **columns,  # type: ignore[arg-type]
    )
    graph = helper.make_graph(
        [node],
        "diptree",
        [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, [None, feature_count])],
        [helper.make_tensor_value_info(TOLD, TensorProto.FLOAT, [None, len(partition) + 2])],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 18)],
        ir_version=9,
    )
    document: bytes = model.SerializeToString()
    return document


def function_of(graph: bytes) -> TreeFunction:
    """Return the function that runs `graph`, in this thread alone."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [TOLD]

    def tell(features: Singles) -> Singles:
        (told,) = session.run(names, {FEATURES: features})
        return np.asarray(told)

    return tell


def _append(
    columns: _Columns,
    tree: FlatTree,
    index: int,
    *,
    target: int,
) -> None:
    count = len(tree.left)
    is_leaf = tree.left < 0
    columns["nodes_treeids"] += [index] * count
    columns["nodes_nodeids"] += list(range(count))
    columns["nodes_featureids"] += np.where(is_leaf, 0, tree.feature).tolist()
    columns["nodes_modes"] += np.where(is_leaf, "LEAF", "BRANCH_LEQ").tolist()
    columns["nodes_values"] += np.where(is_leaf, 0.0, tree.threshold).tolist()
    columns["nodes_truenodeids"] += np.where(is_leaf, 0, tree.left).tolist()
    columns["nodes_falsenodeids"] += np.where(is_leaf, 0, tree.right).tolist()
    leaves = np.flatnonzero(is_leaf).tolist()
    columns["target_treeids"] += [index] * len(leaves)
    columns["target_nodeids"] += leaves
    columns["target_ids"] += [target] * len(leaves)
    columns["target_weights"] += tree.value[is_leaf].tolist()
