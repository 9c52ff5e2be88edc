"""Writes actors: an ONNX graph with its card. Needs the `onnx` package; asking one does not."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gcos.errors import InvalidRequestError
from policies.maccs.actor_card import CARD_KEY, ActorCard, GateResult, decoded, encoded
from policies.maccs.fallback import Fallback

if TYPE_CHECKING:
    import onnx

#: Operators of this version of ONNX are all that actors use.
OPSET: Final = 17
#: Version of the file format that goes with it, read by every runtime that is allowed.
IR_VERSION: Final = 8


def model_bytes(graph: "onnx.GraphProto", card: ActorCard) -> bytes:
    """Return the file of a graph with its card, checked; the same graph gives the same bytes."""
    import onnx  # noqa: PLC0415
    from onnx import helper  # noqa: PLC0415

    model = helper.make_model(
        graph,
        producer_name="gcos",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, {CARD_KEY: encoded(card)})
    onnx.checker.check_model(model, full_check=True)
    document: bytes = model.SerializeToString(deterministic=True)
    return document


def read_model(path: Path) -> "tuple[onnx.ModelProto, ActorCard]":
    """Return a file's model and card.

    Raises:
        InvalidRequestError: It is no actor of this version.
    """
    import onnx  # noqa: PLC0415
    from google.protobuf.message import DecodeError  # noqa: PLC0415

    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (OSError, DecodeError) as exc:
        raise InvalidRequestError(f"{path} is no actor: {exc}", field="actor") from exc
    props = {prop.key: prop.value for prop in model.metadata_props}
    card = decoded(props.get(CARD_KEY))
    if isinstance(card, Fallback):
        raise InvalidRequestError(f"{path} is no actor: {card.message}", field="actor")
    return model, card


def set_gate(path: Path, gate: GateResult) -> ActorCard:
    """Write into a file what the ship gate said, and the scale that follows; return its card."""
    model, card = read_model(path)
    card = replace(card, gate=gate, residual_scale=gate.residual_scale)
    path.write_bytes(model_bytes(model.graph, card))
    return card


def weights_digest(path: Path) -> str:
    """Return a digest of the graph alone: what the gate says does not change it."""
    model, _ = read_model(path)
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()
