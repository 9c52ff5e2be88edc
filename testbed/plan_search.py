"""Searches the constants of `maccs` over randomised settings of training weeks.

Constants tuned on one scenario overfit it (DESIGN section 7), so here each set of constants meets
runs that differ in everything that `gcos train` varies: week, sites, load, caches, egress, skew,
price of carbon, energy of a byte. 100 sets are drawn at random beside what is shipped, and
successive halving (Jamieson and Talwalkar, AISTATS 2016) gives the better ones more runs: all meet
6 settings, the best 25 meet 18, the best 8 meet 48, the best 3 meet 128. A set is ranked by its J
beside that of what is shipped, run by run: the mean of measured week and whole run, since the first
alone flatters what is bought during the warm-up. The best of the last round is run once more on 64
settings that no round has seen, and on training weeks of some scenarios; only that says what it is
worth.

Weeks are those of 2021 and 2022, seeds are training's, from another range than the actor's. The
actor stays as shipped: it has learned beside the shipped constants, which favours them.

Run as `python -m testbed.plan_search WORLD [--jobs N]`, an hour and a half of CPU time.
"""

import argparse
import functools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Final

from gcos.config import load
from gcos.errors import GcosError
from gcos.seeds import stream
from gcos.signals import HOUR_S
from testbed.evaluate import TRAIN_SEED
from testbed.fast.run import FastWorld, fast_policy, run_fast
from testbed.processes import call_all
from testbed.statistics import percent
from testbed.training.commands import shipped_config
from testbed.training.config import TrainConfig
from testbed.training.settings import Setting, settings_of

POLICY: Final = "maccs"
#: Sets of constants, and the settings that they have met in all.
ROUNDS: Final = ((100, 6), (25, 18), (8, 48), (3, 128))
CONFIRM_COUNT: Final = 64
#: Variants whose training weeks the best must not be worse on, and settings of each.
VARIANTS: Final = ("default", "load-high", "cache-tenth", "sites-5", "egress-dear")
VARIANT_COUNT: Final = 24
FIRST_SEED: Final = TRAIN_SEED + 200_001
RANDOM_SEED: Final = 7
#: Low and high; drawn evenly in the logarithm.
_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "reauction_usd": (0.1, 2.0),
    "regret_ratio": (0.5, 8.0),
    "credit_s": (12 * HOUR_S, 96 * HOUR_S),
    "fill": (0.9, 2.5),
    "copy_count_max": (4.0, 24.0),
    "payback_h": (48.0, 192.0),
}
_CAUTION: Final = (0.0, 0.8)
#: Share of sets without migration by regret.
_NO_REGRET_RATIO: Final = 0.25

#: Constants that differ from what is shipped.
Constants = Mapping[str, float | int | str]


@dataclass(frozen=True, slots=True)
class Spent:
    """J of one run, $.

    Attributes:
        measured_usd: Of the measured week.
        whole_usd: Of the whole run.
    """

    measured_usd: float
    whole_usd: float


def drawn_constants(index: int) -> Constants:
    """Return the set of that number; 0 is what is shipped."""
    if index == 0:
        return {}
    draws = stream(RANDOM_SEED, "constants", index)
    drawn: dict[str, float | int | str] = {
        name: math.exp(draws.uniform(math.log(low), math.log(high)))
        for name, (low, high) in _RANGES.items()
    }
    drawn["copy_count_max"] = round(float(drawn["copy_count_max"]))
    drawn["caution"] = draws.uniform(*_CAUTION)
    if draws.random() < _NO_REGRET_RATIO:
        drawn["migrator"] = "none"
    return drawn


def spent(setting: Setting, sets: Sequence[Constants]) -> list[Spent]:
    """Return J of one setting under each set of constants."""
    instance = setting.instance()
    world = FastWorld(instance)
    found = []
    for constants in sets:
        result = run_fast(world, fast_policy(POLICY).with_constants(constants))
        found.append(
            Spent(
                *(
                    totals.charge.joint_usd(instance.scope, instance.carbon_price_usd_per_kg)
                    for totals in (result.measured, result.whole)
                )
            )
        )
    return found


def settings(
    world: Path, *, count: int, first_seed: int, scenario: str = "default", plain: bool = False
) -> tuple[Setting, ...]:
    """Return settings as the artifact actor's training draws them, or a scenario on such weeks."""
    told = load(TrainConfig, shipped_config("artifact"), environ={})
    return settings_of(
        replace(
            told,
            scenario=scenario,
            data=world,
            first_seed=first_seed,
            run_count=count,
            random_seed=RANDOM_SEED,
            spread=replace(told.spread, plain_ratio=1.0) if plain else told.spread,
        )
    )


def beside(runs: Sequence[Spent], shipped: Sequence[Spent]) -> tuple[list[float], list[float]]:
    """Return J beside that of what is shipped, less one: of measured weeks and of whole runs."""
    pairs = list(zip(runs, shipped, strict=True))
    return (
        [ours.measured_usd / theirs.measured_usd - 1 for ours, theirs in pairs],
        [ours.whole_usd / theirs.whole_usd - 1 for ours, theirs in pairs],
    )


def score(runs: Sequence[Spent], shipped: Sequence[Spent]) -> float:
    """Return what sets are ranked by, the lowest best: the mean of both."""
    measured, whole = beside(runs, shipped)
    return (fmean(measured) + fmean(whole)) / 2


class Search:
    """Successive halving over sets of constants."""

    def __init__(self, world: Path, *, job_count: int) -> None:
        self._world = world
        self._job_count = job_count
        self._settings = settings(world, count=ROUNDS[-1][1], first_seed=FIRST_SEED)
        self._runs: dict[int, list[Spent]] = {}

    def best(self) -> int:
        """Return the number of the best set of the last round, that which is shipped apart."""
        met = 0
        ranked = list(range(1, ROUNDS[0][0] + 1))
        for set_count, setting_count in ROUNDS:
            ranked = ranked[:set_count]
            self._meet([0, *ranked], self._settings[met:setting_count])
            met = setting_count
            ranked.sort(key=lambda number: score(self._runs[number], self._runs[0]))
            _tell(f"\n{set_count} sets, {setting_count} settings; the best of them:\n")
            for number in ranked[:8]:
                _tell(row(number, *beside(self._runs[number], self._runs[0])))
        return ranked[0]

    def confirm(self, number: int) -> None:
        """Run a set on settings that no round has seen, and on training weeks of variants."""
        first = FIRST_SEED + ROUNDS[-1][1]
        _tell(f"\nset {number} on settings that no round has seen:\n")
        unseen = settings(self._world, count=CONFIRM_COUNT, first_seed=first)
        self._told_apart("drawn", number, unseen)
        for name in VARIANTS:
            first += CONFIRM_COUNT
            runs = settings(
                self._world, count=VARIANT_COUNT, first_seed=first, scenario=name, plain=True
            )
            self._told_apart(name, number, runs)

    def _told_apart(self, name: str, number: int, chosen: Sequence[Setting]) -> None:
        found = self._made([0, number], chosen)
        runs, shipped = ([each[k] for each in found] for k in (1, 0))
        _tell(f"| {name}, {len(chosen)} {row(number, *beside(runs, shipped))}")

    def _meet(self, numbers: Sequence[int], chosen: Sequence[Setting]) -> None:
        for each in self._made(numbers, chosen):
            for number, found in zip(numbers, each, strict=True):
                self._runs.setdefault(number, []).append(found)

    def _made(self, numbers: Sequence[int], chosen: Sequence[Setting]) -> list[list[Spent]]:
        sets = [drawn_constants(number) for number in numbers]
        calls = [functools.partial(spent, setting, sets) for setting in chosen]
        return call_all(calls, job_count=self._job_count, tell=lambda _: None)


def row(number: int, measured: Sequence[float], whole: Sequence[float]) -> str:
    """Return a set as a row of a table."""
    told = ", ".join(
        f"{name} {value if isinstance(value, str) else format(value, '.3g')}"
        for name, value in drawn_constants(number).items()
    )
    return f"| {number} | {percent(measured)} | {percent(whole)} | {told} |\n"


def _tell(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """Search, and print a table for each round."""
    parser = argparse.ArgumentParser(prog="python -m testbed.plan_search", description=__doc__)
    parser.add_argument("world", type=Path, help="directory of tables (gcos data import)")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    chosen = parser.parse_args(arguments)
    try:
        search = Search(chosen.world, job_count=chosen.jobs)
        search.confirm(search.best())
    except GcosError as exc:
        parser.error(f"{exc.message}. {exc.hint}".rstrip(" ."))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
