"""Tunes policies on training weeks, each with the same budget: what is compared is tuned alike.

A policy gets what is shipped, five changes of one parameter, and one more setting that puts
together the best change of each parameter that helped. All of them meet the same windows, two days
each after a day of warm-up, of 2021 and 2022 under training seeds; what counts is J of the measured
window against that of `joint` there, and against that of the shipped setting, window by window. The
changes are written down below before anything is run. What gains more than two standard errors is
run again with `--confirm`, on twelve other windows of these years, and is shipped if it gains there
too. No validation or test week is looked at.

Run as `python -m testbed.tuning WORLD`, a directory of tables as `gcos data import` makes it;
`--help` says more. A setting of `genetic` or `milp` takes ten seconds a window, others less
than one.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from policies.baselines import genetic, milp
from policies.baselines.genetic import GeneticDispatcher
from policies.baselines.milp import MilpDispatcher
from policies.catalogue import POLICIES, Policy
from testbed.evaluate import TRAIN_SEED
from testbed.fast.run import FastWorld, fast_policy, run_fast
from testbed.instances import draw
from testbed.planner import planner
from testbed.scenarios import load_scenario
from testbed.sim.instance import Instance
from testbed.sim.result import Totals
from testbed.sim.simulation import Simulation
from testbed.statistics import percent
from testbed.world import load_world

#: A parameter and the value that it is given.
Change = tuple[str, float]

WINDOW_DAYS: Final = (
    *((2021, month, day) for month, day in ((1, 18), (9, 13))),
    *((2022, month, day) for month, day in ((4, 25), (11, 7))),
)
#: Other windows of the same years.
CONFIRM_DAYS: Final = (
    *((2021, month, day) for month, day in ((2, 8), (3, 22), (5, 3), (6, 14), (7, 26), (10, 18))),
    *((2022, month, day) for month, day in ((1, 24), (3, 7), (5, 30), (7, 11), (8, 22), (10, 3))),
)
#: The first seed of the other windows, counted as those of the budget, which begin at 1.
_CONFIRM_SEED: Final = 100
WARMUP_H: Final = 24
MEASURE_H: Final = 48
BASELINE: Final = "joint"

_LATE_MAX: Final = tuple(("late_max", value) for value in (0.003, 0.01, 0.1, 0.2, 0.4))
CHANGES: Final[dict[str, tuple[Change, ...]]] = {
    "carbon-greedy": _LATE_MAX,
    "cost-greedy": _LATE_MAX,
    "locality": _LATE_MAX,
    "joint-lookahead": (
        ("defer_saving", 0.02),
        ("defer_saving", 0.15),
        ("defer_saving", 0.4),
        ("defer_late", 0.003),
        ("defer_late", 0.03),
    ),
    "rule": (
        ("reauction_usd", 0.1),
        ("reauction_usd", 1.0),
        ("regret_ratio", 0.5),
        ("regret_ratio", 2.0),
        ("credit_s", 72 * 3600.0),
    ),
    "plan": (
        ("caution", 0.0),
        ("caution", 0.6),
        ("fill", 1.0),
        ("fill", 2.0),
        ("payback_h", 48.0),
    ),
    "genetic": (
        ("overcommit_usd", 0.0125),
        ("overcommit_usd", 0.2),
        ("batch_s", 300.0),
        ("mutation_ratio", 0.03),
        ("generation_count", 80),
    ),
    "milp": (
        ("overcommit_usd", 0.05),
        ("overcommit_usd", 0.8),
        ("batch_s", 300.0),
        ("slot_count", 32),
        ("gap_ratio", 1e-4),
    ),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A setting of a policy over all windows.

    Attributes:
        policy: Its name.
        changes: What differs from what is shipped.
        ratios: J over that of `joint`, window by window.
    """

    policy: str
    changes: tuple[Change, ...]
    ratios: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean ratio."""
        return fmean(self.ratios)

    def row(self, shipped: "Outcome") -> str:
        """Return the outcome as a row of a table, beside what is shipped."""
        told = ", ".join(f"{name} {value:g}" for name, value in self.changes) or "as shipped"
        joint = [ratio - 1 for ratio in self.ratios]
        pairs = zip(self.ratios, shipped.ratios, strict=True)
        own = [ratio / other - 1 for ratio, other in pairs]
        beside = percent(own) if self.changes else "-"
        return f"| `{self.policy}` | {told} | {percent(joint)} | {beside} |"


def windows(
    directory: Path, *, measure_h: int = MEASURE_H, confirm: bool = False
) -> tuple[Instance, ...]:
    """Return the training windows of a world: those of the budget, or the other ones."""
    world = load_world(directory)
    days, first_seed = (CONFIRM_DAYS, _CONFIRM_SEED) if confirm else (WINDOW_DAYS, 1)
    scenario = replace(load_scenario("default"), warmup_h=WARMUP_H, measure_h=measure_h)
    return tuple(
        draw(
            scenario,
            world,
            week_start_s=datetime(*day, tzinfo=UTC).timestamp(),
            seed=TRAIN_SEED + first_seed + i,
        )
        for i, day in enumerate(days)
    )


class Tuning:
    """Runs settings over the same windows."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self._worlds = [FastWorld(instance) for instance in instances]
        self._baseline_usd = [self._joint_usd(world, BASELINE, ()) for world in self._worlds]

    def outcome(self, policy: str, changes: tuple[Change, ...]) -> Outcome:
        """Return what a setting comes to."""
        each = (self._joint_usd(world, policy, changes) for world in self._worlds)
        pairs = zip(each, self._baseline_usd, strict=True)
        return Outcome(policy, changes, tuple(usd / base_usd for usd, base_usd in pairs))

    def outcomes(self, policy: str) -> Iterable[Outcome]:
        """Return the outcomes of a policy's budget, as they come."""
        shipped = self.outcome(policy, ())
        yield shipped
        single = []
        for change in CHANGES[policy]:
            single.append(self.outcome(policy, (change,)))
            yield single[-1]
        best: dict[str, Outcome] = {}
        for found in single:
            ((name, _),) = found.changes
            if found.mean < min(shipped.mean, best.get(name, shipped).mean):
                best[name] = found
        if len(best) > 1:  # one alone has been run
            yield self.outcome(policy, tuple(found.changes[0] for found in best.values()))

    def _joint_usd(self, world: FastWorld, policy: str, changes: tuple[Change, ...]) -> float:
        scope, price = world.instance.scope, world.instance.carbon_price_usd_per_kg
        return _totals(world, policy, dict(changes)).charge.joint_usd(scope, price)


def _totals(world: FastWorld, policy: str, values: dict[str, Any]) -> Totals:
    """Return the measured window of a world under a policy with some parameters changed."""
    shipped = POLICIES[policy]
    if shipped.dispatcher is None:
        return run_fast(world, fast_policy(policy).with_constants(values)).measured
    simulation = Simulation(world.instance, _dispatching(shipped, values), planner=planner())
    simulation.run()
    return simulation.books.totals(simulation.books.measured)


def _dispatching(policy: Policy, values: dict[str, Any]) -> Policy:
    """Return a policy whose dispatcher has other parameters."""
    shipped = genetic.DEFAULT_HORIZON if policy.name == "genetic" else milp.DEFAULT_HORIZON
    own = {key: value for key, value in values.items() if hasattr(shipped, key)}
    rest = {key: value for key, value in values.items() if key not in own}
    horizon = replace(shipped, **own)
    if policy.name == "milp":
        return replace(policy, dispatcher=lambda _draws: MilpDispatcher(horizon, **rest))
    breeding = replace(genetic.DEFAULT_BREEDING, **rest)
    return replace(policy, dispatcher=lambda draws: GeneticDispatcher(draws, horizon, breeding))


def main(arguments: Sequence[str]) -> int:
    """Tune, and print a row for each setting as it ends."""
    parser = argparse.ArgumentParser(prog="python -m testbed.tuning", description=__doc__)
    parser.add_argument("world", type=Path, help="directory of tables (gcos data import)")
    parser.add_argument("policies", nargs="*", help=f"of {', '.join(CHANGES)}; none: all")
    parser.add_argument("--confirm", action="store_true", help="meet the twelve other windows")
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.policies if name not in CHANGES]
    if unknown:
        parser.error(f"{unknown[0]} has nothing to tune: choose among {', '.join(CHANGES)}")
    tuning = Tuning(windows(chosen.world, confirm=chosen.confirm))
    sys.stdout.write("| policy | setting | J against `joint` | against as shipped |\n")
    sys.stdout.write("|---|---|--:|--:|\n")
    for policy in chosen.policies or CHANGES:
        shipped = None
        for found in tuning.outcomes(policy):
            shipped = shipped or found
            sys.stdout.write(f"{found.row(shipped)}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
