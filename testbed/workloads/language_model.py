"""A tiny language model at run time: its configuration, its session, its key-value cache."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from gcos.errors import ArtifactNotFoundError, DigestMismatchError, InvalidRequestError

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

#: Keys and values of the tokens seen so far: (batch, heads, tokens, head width), two per layer.
Cache = list[Floats]


def read_input(path: Path) -> bytes:
    """Return the content of an artifact's file.

    Raises:
        ArtifactNotFoundError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactNotFoundError(f"cannot read {path}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Config:
    """What a job needs of `config.json`."""

    name: str
    layers: int
    heads: int
    head_width: int
    context: int
    vocabulary: int
    begin_token: int
    pad_token: int
    model_sha256: str

    @classmethod
    def read(cls, path: Path) -> "Config":
        """Return the configuration in that file.

        Raises:
            ArtifactNotFoundError: It cannot be read.
            InvalidRequestError: It is not what `make` writes.
        """
        content = read_input(path)
        try:
            record = json.loads(content)
            return cls(
                str(record["name"]),
                layers=int(record["layers"]),
                heads=int(record["heads"]),
                head_width=int(record["head_width"]),
                context=int(record["context"]),
                vocabulary=int(record["vocabulary"]),
                begin_token=int(record["begin_token"]),
                pad_token=int(record["pad_token"]),
                model_sha256=str(record["files_sha256"]["model.onnx"]),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidRequestError(
                f"{path} is not a model's configuration: {type(error).__name__}: {error}"
            ) from error


class LanguageModel:
    """One model, loaded, on one CPU thread."""

    def __init__(self, config: Config, session: onnxruntime.InferenceSession) -> None:
        self.config = config
        self._session = session
        parts = [f"{layer}.{part}" for layer in range(config.layers) for part in ("key", "value")]
        self._past_names = [f"past_key_values.{part}" for part in parts]
        self._output_names = ["logits", *(f"present.{part}" for part in parts)]

    @classmethod
    def load(cls, directory: Path) -> "LanguageModel":
        """Load the model in `directory` after checking its digest.

        Raises:
            ArtifactNotFoundError: A file is missing.
            DigestMismatchError: `model.onnx` is not the file that `config.json` was written for.
            InvalidRequestError: A file is not what it should be.
        """
        config = Config.read(directory / "config.json")
        path = directory / "model.onnx"
        content = read_input(path)
        if hashlib.sha256(content).hexdigest() != config.model_sha256:
            raise DigestMismatchError(f"{path} does not match the digest in its config.json")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no base class but this one
            reason = str(error).partition("\n")[0]
            raise InvalidRequestError(f"cannot load {path}: {reason}") from error
        return cls(config, session)

    def empty_cache(self, *, batch: int) -> Cache:
        """Return the cache before the first token."""
        nothing = np.zeros((batch, self.config.heads, 0, self.config.head_width), dtype=np.float32)
        return [nothing for _ in self._past_names]

    def step(
        self, token_ids: Integers, *, attention_mask: Integers, position_ids: Integers, cache: Cache
    ) -> tuple[Floats, Cache]:
        """Return logits (batch, sequence, vocabulary) and the cache with these tokens appended.

        Args:
            token_ids: (batch, sequence).
            attention_mask: (batch, cached + sequence), 0 where padded on the left.
            position_ids: (batch, sequence), each below `config.context`.
            cache: What the step before returned.
        """
        inputs = {
            "input_ids": token_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            **dict(zip(self._past_names, cache, strict=True)),
        }
        logits, *present = self._session.run(self._output_names, inputs)
        return logits, present
