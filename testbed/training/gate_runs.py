"""Makes the paired runs that the ship gate asks for, and lets it judge (`policies.maccs.gate`).

J is that of the measured week, as in evaluations. What a policy spends in the day of warm-up before
it is no part of that: one that learned to buy early would look better than it is. So the whole runs
of the main scenario, warm-up charged, count as one more family.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gcos import codec
from policies.maccs.actor import actor_path
from policies.maccs.actor_card import FamilyResult, GateResult
from policies.maccs.actor_file import weights_digest
from policies.maccs.gate import candidates, family_problem, verdict
from testbed.evaluate import FIRST_SEED, Pair, available_weeks_s, pairs
from testbed.fast.run import FastWorld, fast_policy, run_fast
from testbed.processes import in_processes
from testbed.run_store import code_digest
from testbed.scenarios import load_scenario
from testbed.statistics import estimate
from testbed.training.config import TrainConfig, day_of
from testbed.training.parts import Part
from testbed.training.settings import Setting
from testbed.world import load_world

#: Module from which all is imported that a run of the gate executes.
_ENTRANCE: Final = "testbed.fast.run"
#: Behind the name of a scenario whose warm-up is charged, too.
WHOLE_RUNS: Final = ", whole runs"


@dataclass(frozen=True, slots=True)
class GateOrder:
    """One pair of week and seed, without what was learned and with it at each scale.

    Attributes:
        setting: What is run.
        policy: Name of the policy.
        part: What was learned.
        directory: Where its file lies.
        scales: Weights, each a run beside the one at 0.
        kept: File of the result.
    """

    setting: Setting
    policy: str
    part: str
    directory: Path
    scales: tuple[float, ...]
    kept: Path


@dataclass(frozen=True, slots=True)
class PairedRuns:
    """What one pair came to, at scale 0 and at each scale.

    Attributes:
        measured_usd: J of the measured week.
        whole_usd: J of the whole run, warm-up charged.
    """

    measured_usd: tuple[float, ...]
    whole_usd: tuple[float, ...]


def paired_runs(order: GateOrder) -> PairedRuns:
    """Return J at scale 0 and at each scale; a result that is kept is not made again."""
    if order.kept.exists():
        return codec.decode(PairedRuns, order.kept.read_bytes())
    instance = order.setting.instance()
    world = FastWorld(instance)
    measured: list[float] = []
    whole: list[float] = []
    for scale in (0.0, *order.scales):
        policy = replace(
            fast_policy(order.policy),
            actor_directory=order.directory,
            residual_scales=((order.part, scale),),
        )
        result = run_fast(world, policy)
        for totals, sums in ((result.measured, measured), (result.whole, whole)):
            sums.append(totals.charge.joint_usd(instance.scope, instance.carbon_price_usd_per_kg))
    found = PairedRuns(tuple(measured), tuple(whole))
    order.kept.parent.mkdir(parents=True, exist_ok=True)
    partial = order.kept.with_suffix(".partial")
    partial.write_bytes(codec.encode(found))
    partial.replace(order.kept)
    return found


@dataclass(frozen=True, slots=True)
class GateStep:
    """The gate of one actor.

    Attributes:
        config: What it was told.
        part: What was learned.
        directory: Where its file lies, and results are kept.
        job_count: Processes.
        tell: Shows a line of progress.
    """

    config: TrainConfig
    part: Part
    directory: Path
    job_count: int
    tell: Callable[[str], None]

    def judged(self) -> GateResult:
        """Return what the gate says of the actor in the directory.

        Raises:
            NotFoundError: The world lacks weeks of validation.
        """
        gate = self.config.gate
        name = self.config.scenario
        main, whole = self._results(name, gate.scales, gate.run_count)
        families: dict[float, Sequence[FamilyResult]] = {}
        for scale in candidates(main):
            families[scale] = [whole[scale]]
            if family_problem(families[scale]) is not None:
                continue  # it has failed: the other families need not be run
            families[scale] = [
                whole[scale],
                *(
                    self._results(family, (scale,), gate.family_run_count)[0][scale]
                    for family in gate.families
                ),
            ]
            if family_problem(families[scale]) is None:
                break
        weeks = f"Mondays from {gate.first_day} to {gate.last_day}"
        return verdict(main, families, weeks=weeks, first_seed=FIRST_SEED)

    def _results(
        self, name: str, scales: tuple[float, ...], run_count: int
    ) -> tuple[dict[float, FamilyResult], dict[float, FamilyResult]]:
        """Return the result of a scenario at each scale: of measured weeks, and of whole runs."""
        chosen = self._pairs(name, run_count)
        digest = hashlib.sha256(
            f"{weights_digest(actor_path(self.part.name, self.directory))}"
            f" {code_digest(_ENTRANCE)} {self.config.data} {name} {scales}".encode()
        ).hexdigest()[:16]
        orders = [
            GateOrder(
                Setting(load_scenario(name), self.config.data, pair.week_start_s, pair.seed),
                policy=self.part.policy,
                part=self.part.name,
                directory=self.directory,
                scales=scales,
                kept=self.directory / "gate" / digest / f"{pair.week_start_s:.0f}-{pair.seed}.json",
            )
            for pair in chosen
        ]
        found = self._made(name, orders)
        blocks = [pair.week_start_s for pair in chosen]
        results: tuple[dict[float, FamilyResult], dict[float, FamilyResult]] = ({}, {})
        for k, scale in enumerate(scales):
            sums = ([each.measured_usd for each in found], [each.whole_usd for each in found])
            names = (name, f"{name}{WHOLE_RUNS}")
            for known, usd, told in zip(results, sums, names, strict=True):
                ratios = [each[k + 1] / each[0] - 1.0 for each in usd]
                known[scale] = result_of(told, ratios, blocks)
                self.tell(f"gate: at {scale:g}: {known[scale]}")
        return results

    def _made(self, name: str, orders: Sequence[GateOrder]) -> list[PairedRuns]:
        count = 0

        def tell(_runs: PairedRuns) -> None:
            nonlocal count
            count += 1
            self.tell(f"gate: {name}: {count} of {len(orders)} weeks")

        if self.job_count > 1:
            return in_processes(paired_runs, orders, job_count=self.job_count, tell=tell)
        found = []
        for order in orders:
            found.append(paired_runs(order))
            tell(found[-1])
        return found

    def _pairs(self, name: str, run_count: int) -> tuple[Pair, ...]:
        """Return pairs whose weeks are spread over the span, each week once as far as they go."""
        gate = self.config.gate
        weeks_s, _ = available_weeks_s(
            load_scenario(name),
            _world(self.config.data),
            day_of(gate.first_day, name="gate.first_day"),
            day_of(gate.last_day, name="gate.last_day"),
        )
        step = max(1, len(weeks_s) // run_count)
        return pairs(weeks_s[::step][:run_count], run_count)


_world = functools.cache(load_world)


def result_of(scenario: str, ratios: Sequence[float], weeks_s: Sequence[float]) -> FamilyResult:
    """Return the mean of paired ratios with its interval over weeks; none with a single week."""
    found = estimate(ratios, weeks_s)
    interval = found.interval
    return FamilyResult(
        scenario,
        run_count=len(ratios),
        mean_ratio=found.mean,
        low_ratio=None if interval is None else interval.low,
        high_ratio=None if interval is None else interval.high,
    )
