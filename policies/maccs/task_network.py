"""The network of the residual task actor, in numpy: what its ONNX file holds. Pure.

    h0 = clip((x - shift) x gain, +-CLAMP)
    h1 = tanh(W1 h0 + b1),  h2 = tanh(W2 h1 + b2),  f = RESIDUAL_MAX tanh(w3 h2 + b3)

A row is one candidate, so that permuting candidates permutes what comes out. In the ablation
`central` each row sees all rows, whatever their order, by the mean and the maximum of their first
layers (Zaheer et al., Deep Sets, NeurIPS 2017, eq. 4):

    h2 = tanh(W2 h1 + Wall (mean h1, max h1) + b2)

In double precision:
a decision takes microseconds either way, and training, agents and the compiled simulator then agree
to the last digits.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from policies.features import CLAMP, FEATURE_COUNT
from policies.maccs.row_graph import arrays_in, row_graph
from policies.maccs.task_bidder import RESIDUAL_MAX

if TYPE_CHECKING:
    import onnx

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TaskNetwork:
    """Weights, float64.

    Attributes:
        shift: (24,), subtracted from the features first.
        gain: (24,), then multiplied with; 0: what never varied in training is not looked at.
        weight_1: (h1, 24).
        bias_1: (h1,).
        weight_2: (h2, h1).
        bias_2: (h2,).
        weight_all: (h2, 2 h1), of the mean and then the maximum of the first layer over all rows;
            (h2, 0): a candidate is looked at by itself alone, as sites must.
        weight_3: (h2,); zeros before training, so that f is 0.
        bias_3: (1,).
    """

    shift: Floats
    gain: Floats
    weight_1: Floats
    bias_1: Floats
    weight_2: Floats
    bias_2: Floats
    weight_all: Floats
    weight_3: Floats
    bias_3: Floats

    def __post_init__(self) -> None:
        first, second = len(self.bias_1), len(self.bias_2)
        shapes = {
            "shift": (FEATURE_COUNT,),
            "gain": (FEATURE_COUNT,),
            "weight_1": (first, FEATURE_COUNT),
            "weight_2": (second, first),
            "weight_all": (second, 2 * first if self.sees_all else 0),
            "weight_3": (second,),
            "bias_3": (1,),
        }
        for name, shape in shapes.items():
            found = getattr(self, name)
            assert found.shape == shape, f"{name} is {found.shape}, not {shape}"
            assert found.dtype == np.float64, name

    @property
    def sees_all(self) -> bool:
        """Whether f of a candidate depends on the others."""
        return self.weight_all.size > 0

    def arrays(self) -> dict[str, Floats]:
        """Return the weights by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __call__(self, features: NDArray[np.float32]) -> Floats:
        """Return f of each row, (n,).

        Args:
            features: (n, 24); all candidates of one task, where it sees all.
        """
        scaled = np.clip((features - self.shift) * self.gain, -CLAMP, CLAMP)
        first = np.tanh(scaled @ self.weight_1.T + self.bias_1)
        sums = first @ self.weight_2.T + self.bias_2
        if self.sees_all:
            sums += self.weight_all @ np.concatenate((first.mean(0), first.max(0)))
        second = np.tanh(sums)
        return np.asarray(RESIDUAL_MAX * np.tanh(second @ self.weight_3 + self.bias_3[0]))


#: For who asks no network but needs one: it has no layers.
NO_NETWORK: Final = TaskNetwork(
    shift=np.zeros(FEATURE_COUNT),
    gain=np.zeros(FEATURE_COUNT),
    weight_1=np.zeros((0, FEATURE_COUNT)),
    bias_1=np.zeros(0),
    weight_2=np.zeros((0, 0)),
    bias_2=np.zeros(0),
    weight_all=np.zeros((0, 0)),
    weight_3=np.zeros(0),
    bias_3=np.zeros(1),
)


def drawn_network(
    draws: np.random.Generator,
    *,
    hidden: tuple[int, int],
    sees_all: bool = False,
    is_zero: bool = True,
) -> TaskNetwork:
    """Return a network before training: f is 0 everywhere unless `is_zero` is false.

    One that sees all candidates draws the weights of one that does not, and then those for all.

    Weights are uniform with the variance of Glorot and Bengio (AISTATS 2010, eq. 16).
    """

    def layer(rows: int, columns: int) -> Floats:
        bound = np.sqrt(6.0 / (rows + columns))
        return np.asarray(draws.uniform(-bound, bound, (rows, columns)))

    first, second = hidden
    weight_3 = layer(1, second)[0]
    return TaskNetwork(
        shift=np.zeros(FEATURE_COUNT),
        gain=np.ones(FEATURE_COUNT),
        weight_1=layer(first, FEATURE_COUNT),
        bias_1=np.zeros(first),
        weight_2=layer(second, first),
        bias_2=np.zeros(second),
        weight_all=layer(second, 2 * first) if sees_all else np.zeros((second, 0)),
        weight_3=np.zeros(second) if is_zero else weight_3,
        bias_3=np.zeros(1),
    )


def graph_of(network: TaskNetwork, *, input_name: str, output_name: str) -> "onnx.GraphProto":
    """Return the network as an ONNX graph: any number of rows in, (n, 1) out, 64-bit."""
    from onnx import helper  # noqa: PLC0415  not needed to run one

    arrays = network.arrays()
    arrays["weight_3"] = arrays["weight_3"][np.newaxis]
    weight_all = arrays.pop("weight_all")
    arrays |= {"least": np.array(-CLAMP), "most": np.array(CLAMP), "reach": np.array(RESIDUAL_MAX)}
    nodes = [
        helper.make_node("Sub", [input_name, "shift"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "gain"], ["gained"]),
        helper.make_node("Clip", ["gained", "least", "most"], ["scaled"]),
        helper.make_node("Gemm", ["scaled", "weight_1", "bias_1"], ["sum_1"], transB=1),
        helper.make_node("Tanh", ["sum_1"], ["hidden_1"]),
        helper.make_node("Gemm", ["hidden_1", "weight_2", "bias_2"], ["sum_2"], transB=1),
    ]
    if network.sees_all:
        arrays["weight_all"] = weight_all
        nodes += [
            helper.make_node("ReduceMean", ["hidden_1"], ["mean_1"], axes=[0]),
            helper.make_node("ReduceMax", ["hidden_1"], ["most_1"], axes=[0]),
            helper.make_node("Concat", ["mean_1", "most_1"], ["pooled"], axis=1),
            helper.make_node("Gemm", ["pooled", "weight_all"], ["sum_all"], transB=1),
            helper.make_node("Add", ["sum_2", "sum_all"], ["sum_both"]),
        ]
    nodes += [
        helper.make_node("Tanh", ["sum_both" if network.sees_all else "sum_2"], ["hidden_2"]),
        helper.make_node("Gemm", ["hidden_2", "weight_3", "bias_3"], ["sum_3"], transB=1),
        helper.make_node("Tanh", ["sum_3"], ["hidden_3"]),
        helper.make_node("Mul", ["hidden_3", "reach"], [output_name]),
    ]
    return row_graph(
        nodes,
        arrays,
        name="task",
        width=FEATURE_COUNT,
        input_name=input_name,
        output_name=output_name,
    )


def network_in(graph: "onnx.GraphProto") -> TaskNetwork:
    """Return the network of a graph that `graph_of` made.

    Raises:
        KeyError: It is another one.
    """
    arrays = arrays_in(graph)
    arrays.setdefault("weight_all", np.zeros((len(arrays["bias_2"]), 0)))
    layers = {name: arrays[name] for name in TaskNetwork.__slots__}
    layers["weight_3"] = layers["weight_3"][0]
    return TaskNetwork(**layers)
