"""One call of `gcos train`: from a configuration to an actor's file, its gate and its card."""

import dataclasses
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numba
import numpy as np
import onnx
import torch
from torch.utils.tensorboard import SummaryWriter

from gcos import codec
from gcos.errors import InvalidRequestError
from policies.maccs.actor import actor_path
from policies.maccs.actor_card import ActorCard, GateResult
from policies.maccs.actor_file import model_bytes, set_gate
from testbed.provenance import code_version
from testbed.run_store import writable_directory
from testbed.scenarios import load_scenario
from testbed.training.config import TrainConfig
from testbed.training.gate_runs import GateStep
from testbed.training.model_card import markdown
from testbed.training.parts import Job, Part, Trained, part_named
from testbed.training.settings import settings_of

#: In the directory of a training: the configuration that it belongs to.
CONFIG: Final = "config.json"
LOGS: Final = "tensorboard"
DEVICES: Final = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a directory was trained with: the configuration, and the data's name, "" for none."""

    config: TrainConfig
    data: str


@dataclass(frozen=True, slots=True)
class Training:
    """One call.

    Attributes:
        config: What is trained.
        directory: Where all of it is kept.
        is_resumed: It goes on with what is in the directory.
        job_count: Worker processes.
        device: `cpu` or `cuda`.
        tell: Shows a line of progress.
    """

    config: TrainConfig
    directory: Path
    is_resumed: bool
    job_count: int
    device: str
    tell: Callable[[str], None] = field(repr=False)

    @property
    def part(self) -> Part:
        """What is trained."""
        return part_named(self.config.part)

    def train(self) -> ActorCard:
        """Train, or go on with it, and write the actor's file, which is not judged yet.

        Raises:
            GcosError: The directory belongs to another training, or a run failed.
        """
        self._claim()
        settings = settings_of(self.config)
        self.tell(f"{self.config.part}: {len(settings)} runs, seeds from {self.config.first_seed}")
        with SummaryWriter(str(self.directory / LOGS)) as writer:
            trained = self.part.train(
                Job(
                    config=self.config,
                    settings=settings,
                    directory=writable_directory(self.directory / "work", option="out"),
                    job_count=self.job_count,
                    device=self.device,
                    tell=self.tell,
                    record=writer.add_scalar,
                )
            )
        card = card_of(self.config, trained)
        path = actor_path(self.config.part, self.directory)
        path.write_bytes(model_bytes(trained.graph, card))
        self._write(card)
        return card

    def judge(self) -> GateResult:
        """Ask the gate, and write what it says into the actor's file and its card.

        Raises:
            GcosError: There is no actor in the directory, or a run failed.
        """
        path = actor_path(self.config.part, self.directory)
        if not path.exists():
            raise InvalidRequestError(
                f"{path} does not exist", field="out", hint="train it first: without --only-gate"
            )
        self._check_same()
        step = GateStep(self.config, self.part, self.directory, self.job_count, self.tell)
        result = step.judged()
        self._write(set_gate(path, result))
        return result

    def _claim(self) -> None:
        """Take the directory for this configuration.

        Raises:
            InvalidRequestError: It is another one's, or holds this one and nobody said to resume.
        """
        path = writable_directory(self.directory, option="out") / CONFIG
        if path.exists():
            if not self.is_resumed:
                raise InvalidRequestError(
                    f"{self.directory} holds a training",
                    field="out",
                    hint="go on with it: --resume; or name another directory",
                )
            self._check_same()
        path.write_bytes(self._told())

    def _told(self) -> bytes:
        """Return what is kept of the configuration; data may have moved, but not changed names."""
        data = self.config.data
        name = "" if data is None else data.resolve().name
        return codec.encode(_Claim(dataclasses.replace(self.config, data=None), name))

    def _check_same(self) -> None:
        """Refuse a directory that another configuration was trained in, or on other data.

        Raises:
            InvalidRequestError: It was.
        """
        path = self.directory / CONFIG
        if not path.exists() or path.read_bytes() != self._told():
            raise InvalidRequestError(
                f"{self.directory} holds a training with another configuration, or other data",
                field="out",
                hint="name another --out, or the file and --data that it was trained with",
            )

    def _write(self, card: ActorCard) -> None:
        path = actor_path(self.config.part, self.directory).with_suffix(".md")
        path.write_text(markdown(card), encoding="utf-8")


def card_of(config: TrainConfig, trained: Trained) -> ActorCard:
    """Return the card of what was trained: at scale 0, until the gate has been asked."""
    plain = dataclasses.asdict(config.spread)
    return ActorCard(
        part=config.part,
        features=trained.features,
        clamp=trained.clamp,
        output=trained.output,
        output_max=trained.output_max,
        made_by=code_version(),
        trained_with={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "numba": numba.__version__,
            "onnx": onnx.__version__,
        },
        data="the shipped typical days" if config.data is None else config.data.name,
        weeks=f"Mondays from {config.first_day} to {config.last_day}",
        first_seed=config.first_seed,
        run_count=config.run_count,
        settings={
            "scenario": config.scenario,
            "random_seed": str(config.random_seed),
            **{f"spread.{name}": str(value) for name, value in plain.items()},
            **trained.settings,
        },
        fit=trained.fit,
    )


def check_names(config: TrainConfig) -> None:
    """Refuse what names nothing, before hours are spent on the rest.

    Raises:
        InvalidRequestError: There is no such part.
        NotFoundError: There is no such scenario.
    """
    part_named(config.part)
    for name in (config.scenario, config.spread.more_sites, *config.gate.families):
        load_scenario(name)


def device_named(name: str) -> str:
    """Return `cpu` or `cuda`; `auto` takes CUDA where there is one.

    Raises:
        InvalidRequestError: There is no such device, or no CUDA here.
    """
    if name not in DEVICES:
        raise InvalidRequestError(
            f"no device {name!r}", field="device", hint=f"one of {', '.join(DEVICES)}"
        )
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise InvalidRequestError("torch finds no CUDA here", field="device", hint="--device cpu")
    return "cuda" if has_cuda and name != "cpu" else "cpu"
