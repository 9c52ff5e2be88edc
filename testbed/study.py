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
from testbed.precision import Precision, largest_error_percent
from testbed.provenance import code_version, command, origin_of
from testbed.run_store import RunRecord, store_evaluation
from testbed.scenarios import load_scenario
from testbed.scenarios.records import Scenario
from testbed.sim.result import Simulate


@dataclass(frozen=True, slots=True)
class _Case:
    """What one evaluation compares, and in which weeks.

    Attributes:
        scenario: Name or file of the base.
        changes: What is changed of it.
        plan: It, changed.
        weeks_s: Weeks that runs meet in turn.
        refused: Weeks that are left out, and why.
        policies: Their names.
        cache_modes: Caches that are compared.
        baseline: Summary to compare with.
    """

    scenario: str
    changes: tuple[str, ...]
    plan: Scenario
    weeks_s: tuple[float, ...]
    refused: tuple[str, ...]
    policies: tuple[str, ...]
    cache_modes: tuple[str, ...]
    baseline: str


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
        (found,) = self.find_each(
            scenario,
            variants=[changes],
            policies=policies,
            cache_modes=cache_modes,
            baseline=baseline,
        )
        return found

    def find_each(
        self,
        scenario: str,
        *,
        variants: Sequence[Sequence[str]],
        policies: Sequence[str],
        cache_modes: Sequence[str],
        baseline: str,
        precision: Precision | None = None,
    ) -> list[Evaluation]:
        """Return the evaluation of each variant of a scenario.

        With a precision, each has as many runs as the one that needs most: a report compares the
        values of a sweep on the same weeks and seeds.

        Args:
            scenario: Its name, or a file.
            variants: Changes of each variant.
            policies: Their names.
            cache_modes: Caches that are compared.
            baseline: Summary to compare with.
            precision: How well differences shall be known; None: make `seed_count` runs.

        Raises:
            GcosError: Something of it is refused, or a run failed.
        """
        cases = [self._case(scenario, each, policies, cache_modes, baseline) for each in variants]
        if precision is None:
            return [self._kept(self._evaluated(case, self.seed_count)) for case in cases]
        for case in cases:
            precision.check_weeks(case.weeks_s)
        count = self.seed_count
        found = [self._evaluated(case, count) for case in cases]
        error = largest_error_percent(found)
        while (more := precision.next_count(count, error)) > count:
            self.output.say(f"{precision.told(count, error)}; on to {more}")
            found = [
                self._evaluated(case, more, made=before.runs)
                for case, before in zip(cases, found, strict=True)
            ]
            count, error = more, largest_error_percent(found)
        note = precision.told(count, error)
        return [self._kept(replace(each, notes=(*each.notes, note))) for each in found]

    def _case(
        self,
        scenario: str,
        changes: Sequence[str],
        policies: Sequence[str],
        cache_modes: Sequence[str],
        baseline: str,
    ) -> _Case:
        changes = real_changes(scenario, changes)
        plan = load_scenario(scenario, changes)
        weeks_s, refused = weeks_of(
            plan, self.data, weeks=self.weeks, first=self.first, last=self.last
        )
        return _Case(
            scenario,
            changes=changes,
            plan=plan,
            weeks_s=weeks_s,
            refused=refused,
            policies=tuple(policies),
            cache_modes=tuple(cache_modes),
            baseline=baseline,
        )

    def _evaluated(
        self, case: _Case, seed_count: int, *, made: Sequence[RunRecord] = ()
    ) -> Evaluation:
        """Return the evaluation of a case, with `seed_count` runs of each policy.

        Args:
            case: What is compared.
            seed_count: Runs of each policy.
            made: Runs that its evaluation with fewer seeds came to.
        """
        orders = run_orders(
            case.plan,
            data=self.data,
            policies=case.policies,
            pairs=pairs(case.weeks_s, seed_count),
            cache_modes=case.cache_modes,
            code=self.code,
            replay_log=self.replay,
            out=self.out_directory,
            export=self.export,
        )
        used_s = dict.fromkeys(order.pair.week_start_s for order in orders)
        repeat = command(
            {
                "scenario": case.scenario,
                "policies": ",".join(case.policies),
                "baseline": case.baseline,
                "cache-mode": ",".join(case.cache_modes),
                "data": self.data,
                "replay": self.replay,
                "seeds": seed_count,
                "weeks": ",".join(day(week) for week in used_s),
                **self.options,
            },
            case.changes,
        )
        return run_evaluation(
            orders,
            self.simulate,
            made=made,
            job_count=self.job_count,
            baseline=case.baseline,
            refused=case.refused,
            out=self.output,
            origin=origin_of(
                case.plan,
                base=case.scenario,
                changes=case.changes,
                repeat=repeat,
                version=code_version(),
            ),
        )

    def _kept(self, found: Evaluation) -> Evaluation:
        self.keep(f"{found.scenario}-{found.cache_mode}", [found.origin.command], found)
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
