"""`gcos evaluate --scenario paper`: what stands beside a paper's 92.6 % of cost, 90.3 % of carbon.

A percentage says nothing without what it is a percentage of. Here ours with both caches meets the
worst of four placements with no cache at all, on the default scenario and on the two with one clean
zone, where carbon can fall furthest. Beside each figure stand the absolute values, and the best
heuristic with the same caches as ours: what is left between the two is what placing adds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from gcos.accounting import CostScope
from gcos.cli.output import Output, Table
from gcos.cli.plan_table import SCOPES
from gcos.cli.quantities import counted, significant
from gcos.errors import InvalidRequestError
from testbed.evaluation import Evaluation, carbon_kg, cost_usd, cost_without_penalty_usd
from testbed.run_store import RunRecord
from testbed.sim.cache_modes import CacheMode
from testbed.statistics import Estimate, compare

PAPER: Final = "paper"
SCHEMA: Final = "gcos/paper/v1"
#: Ours, unless others are named.
OURS: Final = ("maccs",)
#: Placements that know neither prices nor caches (DESIGN section 7: "worst baseline").
BASELINES: Final = ("random", "round-robin", "local", "least-loaded")
HEURISTICS: Final = ("locality", "cost-greedy", "carbon-greedy")
SCENARIOS: Final = ("default", "clean-zone", "clean-zone-synthetic")


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of the paper.

    Attributes:
        name: What is saved.
        unit: Of its absolute value.
        stated_percent: The saving that the paper states.
        value: It, in one run.
    """

    name: str
    unit: str
    stated_percent: float
    value: Callable[[RunRecord], float]


FIGURES: Final = (
    Figure("cost", "$", 92.6, cost_usd),
    Figure("cost without penalties", "$", 92.6, cost_without_penalty_usd),
    Figure("carbon", "kg", 90.3, carbon_kg),
)


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One of ours beside one figure of the paper; values are means over runs of the measured week.

    Attributes:
        scenario: Where.
        figure: `cost`, `cost without penalties` or `carbon`.
        unit: Of the absolute values.
        cost_scope: What counts as cost.
        policy: Ours.
        value: Of ours, with both caches.
        baseline: The worst placement without caches.
        baseline_value: Its value.
        saving_percent: Of ours against it, paired; None where it has no percentage.
        heuristic: The best heuristic with both caches.
        heuristic_value: Its value.
        heuristic_saving_percent: Of it against the same baseline.
        stated_percent: What the paper states.
        sentence: All of it in words.
        carbon_price_usd_per_kg: What a kg counts in that scenario: ours weighs it, the worst
            placement does not know of it; None in documents from before it was told.
        network_kwh_per_gb: Energy of moving a GB there.
    """

    scenario: str
    figure: str
    unit: str
    cost_scope: CostScope
    policy: str
    value: float
    baseline: str
    baseline_value: float
    saving_percent: Estimate | None
    heuristic: str
    heuristic_value: float
    heuristic_saving_percent: Estimate | None
    stated_percent: float
    sentence: str
    carbon_price_usd_per_kg: float | None = None
    network_kwh_per_gb: float | None = None


@dataclass(frozen=True, slots=True)
class PaperTable:
    """All rows, and the evaluations that they come from."""

    schema: str
    rows: tuple[PaperRow, ...]
    evaluations: tuple[Evaluation, ...]


class Finds(Protocol):
    """Makes evaluations: a study."""

    def find(
        self,
        scenario: str,
        *,
        changes: Sequence[str] = (),
        policies: Sequence[str],
        cache_modes: Sequence[str],
        baseline: str,
    ) -> Evaluation:
        """Return the evaluation of one scenario."""


def refuse_with_paper(
    *, cache_mode: str, baseline: str | None, sweep: str | None, has_precision: bool
) -> None:
    """Let options pass that leave the composite as it is.

    Raises:
        InvalidRequestError: One would change what is compared.
    """
    given = {
        "cache_mode": cache_mode != CacheMode.DUAL.value,
        "baseline": baseline is not None,
        "sweep": sweep is not None,
    }
    for field, is_given in given.items():
        if is_given:
            raise InvalidRequestError(
                f"scenario {PAPER} settles --{field.replace('_', '-')} by itself",
                field=field,
                hint="leave it out",
            )
    if has_precision:
        raise InvalidRequestError(
            f"scenario {PAPER} compares evaluations with each other, run by run, and --precision "
            "would give each another number of runs",
            field="precision",
            hint="leave it out, and choose the number with --seeds",
        )


def paper_table(study: Finds, *, ours: Sequence[str], changes: Sequence[str]) -> PaperTable:
    """Return ours beside the paper's figures on each of `SCENARIOS`.

    Args:
        study: Makes the evaluations.
        ours: Policies to be shown; those that are heuristics are shown once.
        changes: Keys of the scenarios with other values.
    """
    placed = tuple(dict.fromkeys((*ours, *HEURISTICS)))
    rows: list[PaperRow] = []
    every: list[Evaluation] = []
    for scenario in SCENARIOS:
        bare = study.find(
            scenario,
            changes=changes,
            policies=BASELINES,
            cache_modes=(CacheMode.NONE.value,),
            baseline=BASELINES[0],
        )
        full = study.find(
            scenario,
            changes=changes,
            policies=placed,
            cache_modes=(CacheMode.DUAL.value,),
            baseline=placed[0],
        )
        every += [bare, full]
        rows += [row(bare, full, policy, figure) for figure in FIGURES for policy in ours]
    return PaperTable(SCHEMA, tuple(rows), tuple(every))


def row(bare: Evaluation, full: Evaluation, policy: str, figure: Figure) -> PaperRow:
    """Return one row: `policy` of `full` against the worst of `bare`."""

    def values(found: Evaluation, name: str) -> list[float]:
        return [figure.value(run) for run in found.runs if run.policy == name]

    def mean(found: Evaluation, name: str) -> float:
        each = values(found, name)
        return sum(each) / len(each)

    def saving(name: str) -> Estimate | None:
        weeks = [run.week_start_s for run in full.runs if run.policy == name]
        other = values(bare, worst)
        # 100 (other - own) / other: minus the relative difference.
        relative = compare(values(full, name), other, weeks).relative_percent
        return None if relative is None else relative.negated()

    worst = max((each.policy for each in bare.policies), key=lambda name: mean(bare, name))
    known = [each.policy for each in full.policies if each.policy in HEURISTICS]
    heuristic = min(known, key=lambda name: mean(full, name))
    made = PaperRow(
        scenario=full.scenario,
        figure=figure.name,
        unit=figure.unit,
        cost_scope=full.cost_scope,
        policy=policy,
        value=mean(full, policy),
        baseline=worst,
        baseline_value=mean(bare, worst),
        saving_percent=saving(policy),
        heuristic=heuristic,
        heuristic_value=mean(full, heuristic),
        heuristic_saving_percent=saving(heuristic),
        stated_percent=figure.stated_percent,
        sentence="",
        carbon_price_usd_per_kg=full.carbon_price_usd_per_kg,
        network_kwh_per_gb=full.network_kwh_per_gb,
    )
    return _told(made, full)


def _told(found: PaperRow, full: Evaluation) -> PaperRow:
    """Return the row with its sentence."""
    scope = f" in scope {found.cost_scope.value}"
    if found.figure == "cost":
        scope += f" ({SCOPES[found.cost_scope]})"
    elif found.unit != "$":
        scope = ""
    sentence = (
        f"{found.scenario} (carbon at {found.carbon_price_usd_per_kg:g} $/kg, moving a GB takes "
        f"{found.network_kwh_per_gb:g} kWh): {found.figure} of {found.policy} with both caches is "
        f"{saving_text(found.saving_percent)} below that of {found.baseline} without any cache, "
        f"the worst of {', '.join(BASELINES)}{scope}; {significant(found.value)} against "
        f"{significant(found.baseline_value)} {found.unit} in the measured window, "
        f"{counted(len(full.seeds), 'paired run')}; the paper states {found.stated_percent} %. "
        f"{found.heuristic} with the same caches: {significant(found.heuristic_value)} "
        f"{found.unit}, {saving_text(found.heuristic_saving_percent)} below the same baseline."
    )
    return replace(found, sentence=sentence)


def saving_text(found: Estimate | None) -> str:
    """Return a saving with its spread, such as `92.1 % (95 % interval 91.8 to 92.4)`."""
    if found is None:
        return "by no percentage"
    if found.interval is not None:
        low, high = found.interval.low, found.interval.high
        return f"{found.mean:.1f} % (95 % interval {low:.1f} to {high:.1f})"
    if found.count > 1:
        return f"{found.mean:.1f} % (standard deviation {found.std:.1f} over runs of one week)"
    return f"{found.mean:.1f} % (one run: no spread)"


def show_paper(found: PaperTable, out: Output) -> None:
    """Write the table in the form that was asked for."""
    if out.is_record:
        out.record(found)
        return
    if out.is_names:
        out.lines(each.policy for each in found.rows)
        return
    out.table(table(found))
    out.line("")
    out.prose(each.sentence for each in found.rows)
    notes = dict.fromkeys(note for each in found.evaluations for note in each.notes)
    out.prose(["Tasks are synthetic: no public trace names model, data set and run time.", *notes])


def table(found: PaperTable) -> Table:
    """Return a row for each scenario and figure."""
    return Table(
        (
            "SCENARIO",
            "FIGURE",
            "OURS",
            ">VALUE",
            "NO CACHES",
            ">VALUE THERE",
            ">SAVING %",
            ">PAPER %",
            "HEURISTIC",
            ">ITS VALUE",
            ">SAVING % OF IT",
        ),
        tuple(
            (
                each.scenario,
                f"{each.figure} {each.unit}",
                each.policy,
                significant(each.value),
                each.baseline,
                significant(each.baseline_value),
                _percent(each.saving_percent),
                f"{each.stated_percent}",
                each.heuristic,
                significant(each.heuristic_value),
                _percent(each.heuristic_saving_percent),
            )
            for each in found.rows
        ),
    )


def _percent(found: Estimate | None) -> str:
    if found is None:
        return "-"
    if found.interval is None:
        return f"{found.mean:.1f}"
    return f"{found.mean:.1f} [{found.interval.low:.1f}, {found.interval.high:.1f}]"
