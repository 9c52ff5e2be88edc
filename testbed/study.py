"""What all evaluations of one call of `gcos evaluate` share, and how one of them is made."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gcos import codec
from gcos.cli.output import Output
from gcos.errors import InvalidRequestError
from testbed.evaluate import day, pairs, run_orders
from testbed.evaluate_commands import names_in, run_evaluation, weeks_of
from testbed.evaluation import Evaluation
from testbed.provenance import code_version, command, origin_of
from testbed.run_store import store_evaluation
from testbed.scenarios import load_scenario
from testbed.sim.result import Simulate


@dataclass(frozen=True, slots=True)
class Study:
    """Weeks, seeds and places of one call.

    Attributes:
        simulate: Makes a run.
        code: Digest of all that it executes (`testbed.run_store.code_digest`).
        data: Directory of the world; None: the shipped tables.
        weeks: Mondays or ISO weeks, separated by commas; None: those of `first` to `last`.
        first: First day; None: the first one of validation.
        last: Last day; None: the last one of validation.
        seed_count: Runs of each policy.
        replay: Name of the job log that replaces the drawn tasks; None: draw them.
        job_count: Processes.
        out_directory: Where runs and evaluations are kept; None: nowhere.
        export: Where runs are exported; None: nowhere.
        output: Where progress is shown.
        options: Further options of the call that its repetition needs, by name.
    """

    simulate: Simulate
    code: str
    data: Path | None
    weeks: str | None
    first: str | None
    last: str | None
    seed_count: int
    replay: str | None
    job_count: int
    out_directory: Path | None
    export: Path | None
    output: Output
    options: Mapping[str, str | float | None] = field(default_factory=dict)

    def find(
        self,
        scenario: str,
        *,
        changes: Sequence[str] = (),
        policies: Sequence[str],
        cache_modes: Sequence[str],
        baseline: str,
    ) -> Evaluation:
        """Return the evaluation of one scenario, whose runs are made where they are not kept.

        Raises:
            GcosError: Something of it is refused, or a run failed.
        """
        changes = real_changes(scenario, changes)
        plan = load_scenario(scenario, changes)
        weeks_s, refused = weeks_of(
            plan, self.data, weeks=self.weeks, first=self.first, last=self.last
        )
        orders = run_orders(
            plan,
            data=self.data,
            policies=policies,
            pairs=pairs(weeks_s, self.seed_count),
            cache_modes=cache_modes,
            code=self.code,
            replay_log=self.replay,
            out=self.out_directory,
            export=self.export,
        )
        caches = ",".join(cache_modes)
        used_s = sorted({order.pair.week_start_s for order in orders})
        repeat = command(
            {
                "scenario": scenario,
                "policies": ",".join(policies),
                "baseline": baseline,
                "cache-mode": caches,
                "data": self.data,
                "replay": self.replay,
                "seeds": self.seed_count,
                "weeks": ",".join(day(week) for week in used_s),
                **self.options,
            },
            changes,
        )
        origin = origin_of(
            plan, base=scenario, changes=changes, repeat=repeat, version=code_version()
        )
        found = run_evaluation(
            orders,
            self.simulate,
            job_count=self.job_count,
            baseline=baseline,
            refused=refused,
            out=self.output,
            origin=origin,
        )
        self.keep(f"{plan.name}-{caches}", [repeat], found)
        return found

    def keep(self, name: str, commands: Sequence[str], found: object) -> None:
        """Write what was found beside its runs, if these are kept: once for the same commands."""
        if self.out_directory is not None:
            digest = hashlib.sha256("\0".join([self.code, *commands]).encode()).hexdigest()
            file = f"{name.replace('/', '-')}-{digest[:12]}"
            store_evaluation(self.out_directory, file, codec.encode(found))


def real_changes(scenario: str, changes: Sequence[str]) -> tuple[str, ...]:
    """Return the changes that change something, so that equal scenarios share name and runs."""
    kept: list[str] = []
    for change in changes:
        before, after = load_scenario(scenario, kept), load_scenario(scenario, [*kept, change])
        if replace(after, name=before.name) != before:
            kept.append(change)
    return tuple(kept)


def sweep_changes(sweep: str | None) -> tuple[str, ...]:
    """Return `KEY=V` for each value of `KEY=V1,V2,...`; one empty change where there is no sweep.

    Raises:
        InvalidRequestError: It names no key, or fewer than two values.
    """
    if sweep is None:
        return ("",)
    key, _, values = sweep.partition("=")
    each = dict.fromkeys(names_in(values))
    if not key.strip() or len(each) < 2:
        raise InvalidRequestError(
            f"{sweep!r} is no sweep",
            field="sweep",
            hint="write it like carbon_price_usd_per_kg=0,0.2,1",
        )
    return tuple(f"{key.strip()}={value}" for value in each)
