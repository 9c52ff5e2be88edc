"""Checkpoints: the whole state of a fit in one file, so that it goes on as if never stopped."""

import os
from pathlib import Path
from typing import Any, Final

import torch

from gcos.errors import InvalidRequestError

#: Name of the file in a job's directory.
NAME: Final = "checkpoint.pt"


def save(directory: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in a directory; a crash leaves the old one or the new one.

    Args:
        directory: Of the job.
        state: Tensors, numbers, texts, and lists and dictionaries of them.
    """
    partial = directory / f"{NAME}.partial"
    torch.save(state, partial)
    partial.replace(directory / NAME)


def load(directory: Path) -> dict[str, Any] | None:
    """Return the state of the checkpoint in a directory; None: there is none.

    Raises:
        InvalidRequestError: It cannot be read.
    """
    path = directory / NAME
    if not path.exists():
        return None
    try:
        # Weights only: a checkpoint is data, and never code that runs when it is read.
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # torch's errors share no base class but this one
        raise InvalidRequestError(
            f"{path} is no checkpoint: {exc}", field="resume", hint="begin anew without --resume"
        ) from exc
    return state


def one_thread() -> None:
    """Let torch compute with one thread, alike every time."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    # What CUDA's matrix products need to be the same every time.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
