"""A fitted structure as it travels from the worker process and lies in the store."""

import io
import json
import zipfile
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcos import codec
from gcos.errors import GcosError
from predictor.diptree import DiPTree
from predictor.leaf_graph import function_of
from predictor.records import Hyperparameters, Lessons, Partition

_LESSON = "lesson_"
_PARTITION = "partition_"


@dataclass(frozen=True, slots=True)
class Fit:
    """What fitting gives; with the log of observations it makes the state.

    Attributes:
        hyper: What it was fitted with.
        partition: Bins and nodes.
        graph: ONNX model that finds leaves; empty without trees.
        lessons: Experts and levels, as judged on rows that the judged trees had not seen.
        until_s: End of the newest row that was fitted on.
    """

    hyper: Hyperparameters
    partition: Partition
    graph: bytes
    lessons: Lessons
    until_s: float

    def tree(self) -> DiPTree:
        """Return a tree of this structure that knows no runs yet."""
        trees = function_of(self.graph) if self.graph else None
        tree = DiPTree(self.hyper, self.partition, trees)
        tree.take(self.lessons)
        return tree

    def encoded(self) -> bytes:
        """Return it as bytes: a numpy archive without pickles."""
        arrays: dict[str, object] = {
            "hyper": np.frombuffer(codec.encode(self.hyper), dtype=np.uint8),
            "graph": np.frombuffer(self.graph, dtype=np.uint8),
            "until_s": np.array(self.until_s),
        }
        arrays |= {
            _PARTITION + name: _array(value) for name, value in asdict(self.partition).items()
        }
        arrays |= {_LESSON + name: value for name, value in self.lessons.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def decoded(cls, document: bytes) -> "Fit":
        """Return what `encoded` wrote.

        Raises:
            GcosError: It was written by another version, or is damaged.
        """
        try:
            with np.load(io.BytesIO(document), allow_pickle=False) as arrays:
                return cls(
                    hyper=codec.decode(Hyperparameters, arrays["hyper"].tobytes()),
                    partition=Partition(
                        **{
                            field.name: _value(arrays[_PARTITION + field.name])
                            for field in fields(Partition)
                        }
                    ),
                    graph=arrays["graph"].tobytes(),
                    lessons={
                        name.removeprefix(_LESSON): arrays[name]
                        for name in arrays.files
                        if name.startswith(_LESSON)
                    },
                    until_s=float(arrays["until_s"]),
                )
        except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile) as exc:
            raise GcosError(f"a stored fit cannot be read: {exc}") from exc


def _array(value: Any) -> Any:
    """Return names as JSON, since an archive holds arrays alone."""
    return (
        np.frombuffer(json.dumps(value).encode(), np.uint8) if isinstance(value, tuple) else value
    )


def _value(array: NDArray[Any]) -> Any:
    if array.dtype == np.uint8:
        return tuple(tuple(names) for names in json.loads(array.tobytes()))
    return int(array) if array.ndim == 0 else array
