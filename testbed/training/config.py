"""What `gcos train` is told: a TOML file as frozen records. Pure."""

import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from gcos.errors import InvalidRequestError
from policies.maccs.actor_card import RESIDUAL_SCALES
from policies.maccs.gate import WEEK_COUNT_MIN
from testbed.evaluate import SEED_COUNT_MAX, TRAIN_SEED

RUN_COUNT_MAX: Final = SEED_COUNT_MAX


def _refuse(field_name: str, problem: str, hint: str = "") -> InvalidRequestError:
    return InvalidRequestError(f"{field_name} {problem}", field=field_name, hint=hint)


def _check_range(name: str, low: float, high: float, *, least: float) -> None:
    if not (math.isfinite(high) and least <= low <= high):
        raise _refuse(name, f"is [{low:g}, {high:g}], no range from {least:g} up")


def day_of(text: str, *, name: str) -> date:
    """Return the day that `text` names.

    Raises:
        InvalidRequestError: It names none.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise _refuse(name, f"is {text!r}, no day", hint="write it like 2021-01-04") from None


@dataclass(frozen=True, slots=True)
class Spread:
    """Table `spread`: what the settings of training runs are drawn from.

    Factors are drawn evenly in their logarithm, the rest evenly. A setting that never varied in
    training would be unknown ground to what was learned.

    Attributes:
        cache_factor: Of both capacities.
        load: Load of the cluster.
        egress_factor: Of egress prices.
        carbon_price_factor: Of the price of carbon.
        network_energy_factor: Of the energy that a byte takes on its way.
        zipf: Skew of demand.
        site_count: Sites, drawn from those of `scenario` and of `more_sites`.
        more_sites: Scenario that has further sites.
        plain_ratio: Share of runs that take the scenario as it is.
    """

    cache_factor: tuple[float, float] = (0.1, 1.5)
    load: tuple[float, float] = (0.3, 0.85)
    egress_factor: tuple[float, float] = (0.1, 3.0)
    carbon_price_factor: tuple[float, float] = (1.0, 1.0)
    network_energy_factor: tuple[float, float] = (1.0, 1.0)
    zipf: tuple[float, float] = (0.5, 1.4)
    site_count: tuple[int, int] = (5, 14)
    more_sites: str = "sites-14"
    plain_ratio: float = 0.25

    def __post_init__(self) -> None:
        for name in (
            "cache_factor",
            "egress_factor",
            "carbon_price_factor",
            "network_energy_factor",
        ):
            _check_range(f"spread.{name}", *getattr(self, name), least=1e-3)
        for name in ("load", "zipf"):
            _check_range(f"spread.{name}", *getattr(self, name), least=0.0)
        _check_range("spread.site_count", *self.site_count, least=1)
        if not 0 <= self.plain_ratio <= 1:
            raise _refuse("spread.plain_ratio", f"is {self.plain_ratio:g}, not 0 to 1")


@dataclass(frozen=True, slots=True)
class GateRuns:
    """Table `gate`: the runs that decide whether what was learned is used.

    Attributes:
        first_day: Mondays from here on ...
        last_day: ... to here; none of them a training week.
        run_count: Paired runs of the scenario that training is for.
        families: Scenarios none of which may get worse by more than 1 %.
        family_run_count: Paired runs of each.
        scales: Weights that are tried.
    """

    first_day: str = "2023-01-09"
    last_day: str = "2023-12-31"
    run_count: int = WEEK_COUNT_MIN
    families: tuple[str, ...] = ()
    family_run_count: int = 12
    scales: tuple[float, ...] = (0.5, 1.0)

    def __post_init__(self) -> None:
        for name in ("run_count", "family_run_count"):
            count = getattr(self, name)
            if not 1 <= count <= RUN_COUNT_MAX:
                raise _refuse(f"gate.{name}", f"is {count}, not 1 to {RUN_COUNT_MAX}")
        wrong = [scale for scale in self.scales if scale not in RESIDUAL_SCALES or scale == 0]
        if wrong or not self.scales or len(set(self.scales)) < len(self.scales):
            raise _refuse("gate.scales", f"is {list(self.scales)}", hint="0.5, 1.0 or both, once")


@dataclass(frozen=True, slots=True)
class ArtifactTraining:
    """Table `artifact`: how the artifact actor is trained.

    Attributes:
        label_every_h: Hours between two beats of a run that are learned from.
        held_out_ratio: Share of the runs that are left out of the fit and judge it.
        epoch_count: Times that the fit sees all of it.
        batch_count: Rows of a step.
        learning_rate: Of Adam at its begin; it falls to 0 as half a cosine.
        weight_decay: Of Adam (decoupled).
    """

    label_every_h: int = 6
    held_out_ratio: float = 0.2
    epoch_count: int = 30
    batch_count: int = 1024
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("label_every_h", "epoch_count", "batch_count"):
            if getattr(self, name) < 1:
                raise _refuse(f"artifact.{name}", f"is {getattr(self, name)}, below 1")
        if not 0 < self.held_out_ratio < 1:
            raise _refuse("artifact.held_out_ratio", f"is {self.held_out_ratio:g}, not within 0..1")
        if not (0 < self.learning_rate < 1 and 0 <= self.weight_decay < 1):
            raise _refuse("artifact.learning_rate", "and weight_decay lie below 1, and not below 0")


@dataclass(frozen=True, slots=True)
class TaskTraining:
    """Table `task`: how the task actor is trained.

    Attributes:
        round_count: Rounds of exploring and learning.
        run_count: Runs of a round, of as many worlds.
        try_every: Rounds between two trials on worlds that are held out.
        held_out_ratio: Share of the worlds that are held out; the best trial on them is kept.
        hidden: Units of the two hidden layers.
        temperature: Of the softmax over scores that choices are drawn from.
        epoch_count: Times that a round's decisions are seen.
        batch_count: Decisions of a step.
        learning_rate: Of Adam.
        clip_ratio: How far the probability of a choice may move in a round.
        winsor_ratio: Share of costs at each end that is drawn in to the next one.
        stay_weight: Weight of the mean square of f: without evidence it stays 0.
    """

    round_count: int = 8
    run_count: int = 8
    try_every: int = 4
    held_out_ratio: float = 0.25
    hidden: tuple[int, int] = (32, 16)
    temperature: float = 0.25
    epoch_count: int = 2
    batch_count: int = 4096
    learning_rate: float = 3e-4
    clip_ratio: float = 0.2
    winsor_ratio: float = 0.01
    stay_weight: float = 0.01

    def __post_init__(self) -> None:
        for name in ("round_count", "run_count", "try_every", "epoch_count", "batch_count"):
            if getattr(self, name) < 1:
                raise _refuse(f"task.{name}", f"is {getattr(self, name)}, below 1")
        if not all(1 <= units <= 256 for units in self.hidden):
            raise _refuse("task.hidden", f"is {list(self.hidden)}, not 1 to 256 each")
        for name in ("held_out_ratio", "clip_ratio", "learning_rate"):
            if not 0 < getattr(self, name) < 1:
                raise _refuse(f"task.{name}", f"is {getattr(self, name):g}, not within 0..1")
        if not 0 <= self.winsor_ratio < 0.5:
            raise _refuse("task.winsor_ratio", f"is {self.winsor_ratio:g}, not 0 to 0.5")
        if not (self.temperature > 0 and self.stay_weight >= 0):
            raise _refuse("task.temperature", "lies above 0, and stay_weight not below it")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What is trained, on what.

    Attributes:
        part: Which actor: a name of `testbed.training.parts`.
        scenario: What it is for; settings are drawn around it.
        data: Directory of the world; None: the shipped tables.
        first_day: Training weeks: Mondays from here on ...
        last_day: ... to here.
        first_seed: Workload seeds count up from here: those of training, which nobody publishes.
        run_count: Training runs.
        random_seed: Of everything drawn that is no workload.
        spread: What settings are drawn from.
        gate: The runs that decide.
        artifact: How the artifact actor is trained.
        task: How the task actor is trained.
    """

    part: str
    scenario: str = "default"
    data: Path | None = None
    first_day: str = "2021-01-04"
    last_day: str = "2022-12-25"
    first_seed: int = TRAIN_SEED + 1
    run_count: int = 48
    random_seed: int = 1
    spread: Spread = field(default_factory=Spread)
    gate: GateRuns = field(default_factory=GateRuns)
    artifact: ArtifactTraining = field(default_factory=ArtifactTraining)
    task: TaskTraining = field(default_factory=TaskTraining)

    def __post_init__(self) -> None:
        if not 1 <= self.run_count <= RUN_COUNT_MAX:
            raise _refuse("run_count", f"is {self.run_count}, not 1 to {RUN_COUNT_MAX}")
        if self.first_seed <= TRAIN_SEED:
            raise _refuse(
                "first_seed",
                f"is {self.first_seed}: seeds up to {TRAIN_SEED} are those of evaluations",
                hint=f"take {TRAIN_SEED + 1} or more",
            )
        first, last = (day_of(getattr(self, n), name=n) for n in ("first_day", "last_day"))
        gate = [day_of(getattr(self.gate, n), name=f"gate.{n}") for n in ("first_day", "last_day")]
        if last < first or gate[1] < gate[0]:
            raise _refuse("last_day", "lies before first_day")
        # The week of the last Monday, and the day of warm-up before the first one.
        reach = timedelta(days=8)
        if not (gate[1] + reach <= first or last + reach <= gate[0]):
            raise _refuse(
                "gate.first_day",
                "to gate.last_day overlaps the training weeks, warm-up included",
                hint="what was trained on a week says nothing about it",
            )


def start_s(day: date) -> float:
    """Return the begin of a UTC day, seconds since the epoch."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
