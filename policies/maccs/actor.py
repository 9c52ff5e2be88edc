"""Loads a trained actor and asks it: ONNX Runtime, one thread, inline.

A file that cannot be used is no error: the rule decides alone, and whoever loads is told why
(`Fallback`). ONNX Runtime is imported with the first file, so that who needs no actor does not wait
for it; torch is never imported here.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gcos.errors import InvalidRequestError
from policies.catalogue import CENTRAL
from policies.maccs.fallback import Fallback, FallbackReason

if TYPE_CHECKING:
    import onnxruntime

    from policies.maccs.actor_card import ActorCard

Rows: TypeAlias = NDArray[Any]
"""Features of candidates, (n, width)."""

#: Where the shipped actors lie, one file a part.
SHIPPED: Final = Path(__file__).parent / "actors"
#: A larger file is none of ours.
FILE_BYTES_MAX: Final = 16 << 20
INPUT: Final = "features"
OUTPUT: Final = "outputs"
#: Rows up to which the memory of a call is bound once: a tenth off a call of 20 rows.
BOUND_ROWS_MAX: Final = 64
_NUMBERS: Final[Mapping[str, type[np.floating[Any]]]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}


class ActorError(Exception):
    """An actor answered with an error, or with what is no number."""


@dataclass(frozen=True, slots=True)
class Actor:
    """A trained actor.

    Attributes:
        card: What its file says of it.
        version: Part and digest of the file, such as `artifact/3f2a9c01b7d4`.
        run: Computes the outputs of rows.
    """

    card: "ActorCard"
    version: str
    run: Callable[[Rows], Rows]

    def __call__(self, rows: Rows) -> Rows:
        """Return one number for each row, (n,).

        Args:
            rows: (n, width); n may be 0.

        Raises:
            ActorError: The runtime failed, or the answer is not finite.
        """
        if len(rows) == 0:
            return np.zeros(0)
        try:
            told = self.run(rows)
        except Exception as exc:  # the runtime's errors share no base class but this one
            raise ActorError(f"{self.version} failed: {exc}") from exc
        # Sums of squares are finite where all are, and cost a third of asking each.
        if not math.isfinite(told.dot(told)):
            raise ActorError(f"{self.version} answered with what is no number")
        return told


def actor_path(part: str, directory: Path | None = None) -> Path:
    """Return where the file of a part lies; without a directory: the shipped one."""
    return (SHIPPED if directory is None else directory) / f"{part}.onnx"


def own_or_shipped_path(part: str, directory: Path | None) -> Path:
    """Return the file of a part in a directory, or the shipped one where none lies there.

    For simulations, where what is on trial stands beside what ships.
    """
    path = actor_path(part, directory)
    return path if path.exists() else actor_path(part)


def load_actor(path: Path, part: str, features: Mapping[str, str]) -> Actor | Fallback:
    """Return the actor in a file, or why the rule must decide alone.

    Args:
        path: The ONNX file.
        part: The part it is wanted for.
        features: Inputs as they are computed here, in their order: unit by name.
    """
    found = _loaded(path, part, features)
    if isinstance(found, Fallback):
        return replace(found, message=f"{path}: {found.message}")
    return found


def required(found: Actor | Fallback) -> Actor:
    """Return an actor that was looked for, where nobody may fall back to the rule.

    An evaluation's result that silently were the rule's would be of another policy than it says.

    Raises:
        InvalidRequestError: There is none; the message says why.
    """
    if isinstance(found, Fallback):
        raise InvalidRequestError(found.message, field="policy", hint="train it: gcos train --help")
    return found


def _loaded(path: Path, part: str, features: Mapping[str, str]) -> Actor | Fallback:
    from policies.maccs.actor_card import CARD_KEY, decoded, mismatch  # noqa: PLC0415  as below

    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            return Fallback(FallbackReason.CORRUPT, "it is too large for an actor")
        document = path.read_bytes()
    except FileNotFoundError:
        return Fallback(FallbackReason.MISSING, "there is no such file")
    except OSError as exc:
        return Fallback(FallbackReason.MISSING, f"it cannot be read: {exc.strerror}")
    try:
        session = _session(document)
    except Exception as exc:  # as above
        return Fallback(FallbackReason.CORRUPT, f"it is no model that runs: {exc}")
    card = decoded(session.get_modelmeta().custom_metadata_map.get(CARD_KEY))
    if isinstance(card, Fallback):
        return card
    problem = mismatch(card, part, features)
    if problem is not None:
        return problem
    run = _runner(session, len(features))
    if isinstance(run, Fallback):
        return run
    actor = Actor(card, f"{part}/{hashlib.sha256(document).hexdigest()[:12]}", run)
    rows = np.stack((np.zeros(len(features)), np.ones(len(features))))
    try:
        # Also the first run, in which the runtime allocates: no decision waits for that.
        together = actor(rows)
        alone = np.concatenate([actor(row[np.newaxis]) for row in rows])
    except ActorError as exc:
        return Fallback(FallbackReason.CORRUPT, str(exc))
    if together.shape != (2,) or alone.shape != (2,):
        return Fallback(FallbackReason.CORRUPT, "it does not answer each row with one number")
    # A site asks about its own rows, whatever other sites have: only the ablation may see all.
    if part != CENTRAL and not np.allclose(together, alone, rtol=1e-4, atol=1e-6):
        return Fallback(FallbackReason.VERSION, "it answers a row by the rows beside it")
    return actor


def _session(document: bytes) -> "onnxruntime.InferenceSession":
    import onnxruntime  # noqa: PLC0415  takes 0.2 s, and only who asks an actor needs it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what is wrong is told by the error
    return onnxruntime.InferenceSession(document, options, providers=["CPUExecutionProvider"])


def _runner(
    session: "onnxruntime.InferenceSession", width: int
) -> Callable[[Rows], Rows] | Fallback:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    is_one_each = len(inputs) == len(outputs) == 1
    if not is_one_each or not {inputs[0].type, outputs[0].type} <= _NUMBERS.keys():
        return Fallback(FallbackReason.CORRUPT, "it has not one input and one output of numbers")
    shape = inputs[0].shape
    if len(shape) != 2 or isinstance(shape[0], int) or shape[1] != width:
        return Fallback(
            FallbackReason.CORRUPT, f"its input is {shape}, not any number of rows of {width}"
        )
    return _Runner(session, inputs[0], outputs[0], width)


class _Runner:
    """Runs a session: on few rows in memory that is bound to it once, on more in new memory."""

    def __init__(
        self,
        session: "onnxruntime.InferenceSession",
        input_: "onnxruntime.NodeArg",
        output: "onnxruntime.NodeArg",
        width: int,
    ) -> None:
        self._session = session
        self._input = input_.name
        self._output = output.name
        self._number = _NUMBERS[input_.type]
        is_column = len(output.shape) == 2 and output.shape[1] == 1
        self._bound_rows_max = BOUND_ROWS_MAX if is_column else 0
        self._rows = np.zeros((self._bound_rows_max, width), dtype=self._number)
        self._told = np.zeros((self._bound_rows_max, 1), dtype=_NUMBERS[output.type])
        self._bindings: dict[int, tuple[onnxruntime.IOBinding, Rows, Rows]] = {}
        # Agents ask inline, so nobody waits; whoever does otherwise must not share the memory.
        self._lock = Lock()

    def __call__(self, rows: Rows) -> Rows:
        """Return the outputs of rows, (n,)."""
        count = len(rows)
        if count > self._bound_rows_max:
            feed = {self._input: np.ascontiguousarray(rows, dtype=self._number)}
            (told,) = self._session.run([self._output], feed)
            return np.asarray(told).reshape(-1)
        with self._lock:
            bound = self._bindings.get(count)
            if bound is None:
                bound = self._bindings[count] = self._bound(count)
            binding, inputs, outputs = bound
            inputs[:] = rows
            self._session.run_with_iobinding(binding)
            return outputs.copy()

    def _bound(self, count: int) -> "tuple[onnxruntime.IOBinding, Rows, Rows]":
        """Return the binding for a number of rows, the rows and the outputs, (count,)."""
        binding = self._session.io_binding()
        rows, told = self._rows[:count], self._told[:count]
        binding.bind_input(self._input, "cpu", 0, rows.dtype.type, rows.shape, rows.ctypes.data)
        binding.bind_output(self._output, "cpu", 0, told.dtype.type, told.shape, told.ctypes.data)
        return binding, rows, told[:, 0]
