"""What can be trained, by name, and what training hands in and gets back.

A part's module imports torch, so it is imported when it is trained and not before.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from gcos.errors import InvalidRequestError
from policies.catalogue import CENTRAL
from policies.maccs.actor_card import Feature
from testbed.training.config import TrainConfig
from testbed.training.settings import Setting

if TYPE_CHECKING:
    import onnx


class Record(Protocol):
    """Takes a number that training came to, for whoever watches."""

    def __call__(self, name: str, value: float, step: int) -> None:
        """Take the value of `name` at a step."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training.

    Attributes:
        config: What it was told.
        settings: Its runs.
        directory: Where it keeps what it would need to go on; its own, or empty.
        job_count: Worker processes, each with one thread.
        device: `cpu` or `cuda`, for torch.
        tell: Shows a line of progress.
        record: Takes numbers to plot.
    """

    config: TrainConfig
    settings: Sequence[Setting]
    directory: Path
    job_count: int
    device: str
    tell: Callable[[str], None]
    record: Record


@dataclass(frozen=True, slots=True)
class Trained:
    """What training made: a graph for `policies.maccs.actor_file`, and what its card tells.

    Attributes:
        graph: The network, with any number of candidates.
        features: Inputs in their order.
        clamp: Scaled inputs are cut off beyond this.
        output: What a row's output means, with its unit.
        output_max: Outputs are cut off beyond this; None: they are not.
        fit: What training came to, by name.
        settings: What the part was told beside the common settings, by name.
    """

    graph: "onnx.GraphProto"
    features: tuple[Feature, ...]
    clamp: float
    output: str
    output_max: float | None
    fit: Mapping[str, float]
    settings: Mapping[str, str] = field(default_factory=dict)


Train = Callable[[Job], Trained]


@dataclass(frozen=True, slots=True)
class Part:
    """Something that can be trained.

    Attributes:
        name: As people type it, and as the file is called.
        summary: What it does, in one line.
        policy: The policy that the gate runs with and without it.
        module: Where its function `train` is, which takes a `Job`.
    """

    name: str
    summary: str
    policy: str
    module: str

    def train(self, job: Job) -> Trained:
        """Train it."""
        function: Train = import_module(self.module).train
        return function(job)


PARTS: Final = {
    part.name: part
    for part in (
        Part(
            "artifact",
            "corrects the saving that the copy plan expects of a copy",
            policy="maccs",
            module="testbed.training.artifact",
        ),
        Part(
            "task",
            "corrects what a task is expected to cost at a site by what others lose by it",
            policy="plan+task",
            module="testbed.training.task",
        ),
        Part(
            CENTRAL,
            "the task actor with all candidates in view at once: an ablation, which no agent runs",
            policy=CENTRAL,
            module="testbed.training.task",
        ),
    )
}


def part_named(name: str) -> Part:
    """Return the part of that name.

    Raises:
        InvalidRequestError: There is none; the hint names the nearest.
    """
    if name not in PARTS:
        near = difflib.get_close_matches(name, PARTS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(PARTS)}"
        raise InvalidRequestError(f"no part {name!r}", field="part", hint=hint)
    return PARTS[name]
