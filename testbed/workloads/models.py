"""Models on disk: `model.onnx` and `config.json`, which says what the graph cannot."""

from pathlib import Path

from testbed.workloads import onnx_graph
from testbed.workloads.datasets import sample_text
from testbed.workloads.grammar import GRAMMARS
from testbed.workloads.records import Recipe, is_complete, published, write_record
from testbed.workloads.weights import (
    BEGIN_TOKEN,
    END_TOKEN,
    HEAD_WIDTH,
    PAD_TOKEN,
    VOCABULARY,
    Shape,
    make_weights,
)

#: Bytes of each grammar on which a model's tables are counted.
_SAMPLE_BYTES = 150_000


def sample_of_all(*, seed: int) -> bytes:
    """Return the sampled text of every grammar, one after the other."""
    return b"".join(
        sample_text(grammar, seed=seed, size_bytes=_SAMPLE_BYTES) for grammar in GRAMMARS
    )


def write_model(shape: Shape, directory: Path, *, seed: int) -> bool:
    """Write one model; return False where the same one is already there, complete.

    The directory appears by one rename, so a reader never sees half a model.
    """
    recipe = Recipe(shape.name, seed=seed)
    if is_complete(directory, recipe, record_name="config.json"):
        return False
    weights = make_weights(shape, seed=seed, text=sample_of_all(seed=seed))
    model = onnx_graph.build(shape, weights)
    with published(directory) as staging:
        (staging / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
        facts = {
            "layers": shape.layers,
            "heads": shape.heads,
            "head_width": HEAD_WIDTH,
            "width": shape.width,
            "context": shape.context,
            "vocabulary": VOCABULARY,
            "begin_token": BEGIN_TOKEN,
            "end_token": END_TOKEN,
            "pad_token": PAD_TOKEN,
            "parameters": sum(int(value.size) for value in weights.values()),
        }
        write_record(staging, recipe, record_name="config.json", facts=facts)
    return True
