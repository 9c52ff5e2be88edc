"""Writes the page: what was run, what came of it, against what, and where the subject loses."""

from collections.abc import Sequence
from dataclasses import dataclass

from gcos.cli.plan_table import SCOPES
from gcos.cli.quantities import counted, significant
from testbed.evaluate import day
from testbed.evaluation import Evaluation, PolicySummary
from testbed.paper import PaperTable
from testbed.report import findings, markup, plots
from testbed.report.findings import Loss
from testbed.report.fronts import CARBON_PRICE, SWEPT, Sweep, front, sweeps
from testbed.report.markup import Cell, Number, amount, length, percent, spread_amount
from testbed.report.sources import Placements, Sources


@dataclass(frozen=True, slots=True)
class _Report:
    """What all sections speak of.

    Attributes:
        found: The evaluation in the middle of the page.
        others: All others.
        subject: Whose savings and losses are shown.
    """

    found: Evaluation
    others: tuple[Evaluation, ...]
    subject: str

    @property
    def scope(self) -> str:
        """The cost scope in words."""
        return f"cost scope {self.found.cost_scope.value}: {SCOPES[self.found.cost_scope]}"

    @property
    def sample(self) -> str:
        """Runs and weeks in words."""
        runs, weeks = len(self.found.seeds), len(self.found.weeks_start_s)
        return f"{counted(runs, 'paired run')} in {counted(weeks, 'week')}"

    @property
    def spread(self) -> str:
        """What stands behind a mean of paired differences."""
        if len(self.found.weeks_start_s) > 1:
            return "95 % interval, weeks resampled as blocks"
        if len(self.found.seeds) > 1:
            return "± standard deviation over runs; one week gives no interval"
        return "one run: no spread is known"


def report_page(
    sources: Sources, placements: Sequence[Placements], *, subject: str | None = None
) -> str:
    """Return the page.

    Args:
        sources: Evaluations; the one with the most runs is in the middle, of equals the one with
            the fewest changes of its scenario, then the first.
        placements: Exported runs.
        subject: Policy whose savings and losses are shown; None: the one of the lowest mean J.
    """
    found = max(
        sources.evaluations,
        key=lambda each: (len(each.runs), -each.scenario.count("+")),
    )
    others = tuple(each for each in sources.evaluations if each is not found)
    told = _Report(found, others, subject or findings.best_policy(found))
    swept = sweeps(found, others)
    made = [
        ("run", "What was run", _run(told)),
        ("policies", "What each policy came to", _policies(told)),
        ("savings", f"What {told.subject} saves against each policy", _savings(told)),
        ("losses", f"Where {told.subject} loses", _losses(told)),
        ("bounds", "Distance to the least that is known", _bounds(told)),
        ("front", "Cost against carbon over carbon prices", _front(told, swept)),
        ("parts", "What cost and carbon are made of", _parts(told)),
        ("caches", "Cache hits, lateness and waiting", _caches(told)),
        ("placements", "Where and when tasks ran", _placements(told, placements)),
        ("sensitivity", "How much it depends on what was assumed", _sensitivity(told, swept)),
        ("others", "Other evaluations", _others(told, swept)),
        *[("paper", "Beside a paper's figures", _paper(each)) for each in sources.papers[:1]],
        ("notes", "What one must know", _notes(told)),
    ]
    body = "".join(markup.section(name, title, text) for name, title, text in made)
    count = len(found.policies)
    title = (
        f"{found.origin.base or found.scenario}, {count} {'policies' if count > 1 else 'policy'}"
    )
    return markup.page(f"GCOS report: {title}", [(name, text) for name, text, _ in made], body)


def _run(told: _Report) -> str:
    found = told.found
    weeks = ", ".join(day(week) for week in found.weeks_start_s)
    rows = [
        ("scenario", found.scenario),
        ("caches", found.cache_mode),
        ("cost", f"{found.cost_scope.value}: {SCOPES[found.cost_scope]}"),
        ("carbon price", f"{significant(found.carbon_price_usd_per_kg)} $/kg"),
        ("network energy", f"{significant(found.network_kwh_per_gb)} kWh/GB (kappa)"),
        ("signals", found.data or "typical days of the shipped tables, no real week"),
        ("weeks", f"{weeks} (UTC)"),
        ("seeds", ", ".join(map(str, found.seeds))),
        ("runs", f"{len(found.seeds)} of each policy; all policies meet the same runs"),
        ("code", found.origin.version or "not recorded"),
    ]
    if not found.origin.command:
        return markup.definitions(rows) + markup.paragraph("The command was not recorded.")
    return (
        markup.definitions(rows)
        + markup.paragraph("To repeat it:")
        + markup.code(found.origin.command)
    )


def _policies(told: _Report) -> str:
    found = told.found
    caption = (
        f"Means of the measured window over {told.sample} ± standard deviation over runs; "
        f"{told.scope}. "
        f"J = cost + {significant(found.carbon_price_usd_per_kg)} $/kg x carbon. Last columns: "
        f"difference of J and of carbon against {found.baseline}, mean of paired percentages, "
        f"{told.spread}; below zero is better."
    )
    columns = (
        "policy",
        "J, $",
        "J without penalty, $",
        "cost, $",
        "cost without penalty, $",
        "carbon, kg",
        "late, % of tasks",
        "moved, GB",
        f"J against {found.baseline}",
        f"carbon against {found.baseline}",
    )
    rows = [_policy(told, each) for each in found.policies]
    return markup.table("policies-table", caption, columns, rows)


def _policy(told: _Report, each: PolicySummary) -> list[Cell]:
    late = findings.spread(told.found, each.policy, findings.LATE)
    joint, carbon = each.joint_vs_baseline, each.carbon_vs_baseline
    return [
        each.policy,
        spread_amount(each.joint_usd),
        spread_amount(each.joint_without_penalty_usd),
        spread_amount(each.cost_usd),
        spread_amount(each.cost_without_penalty_usd),
        spread_amount(each.carbon_kg),
        spread_amount(late),
        amount(each.moved_gb),
        "it is the baseline" if joint is None else percent(joint.relative_percent),
        "it is the baseline" if carbon is None else percent(carbon.relative_percent),
    ]


def _savings(told: _Report) -> str:
    rows = findings.savings(told.found, told.subject)
    if not rows:
        return markup.paragraph("There is no other policy to compare with.")
    caption = (
        f"Savings of {told.subject} against the policy of the row, in the same runs with the same "
        f"caches ({told.found.cache_mode}): 100 (other - own) / other, mean over {told.sample}, "
        f"{told.spread}; {told.scope}. Below zero {told.subject} loses."
    )
    cells: list[list[Cell]] = [
        [
            row.baseline,
            row.metric.name,
            amount(row.subject_mean),
            amount(row.baseline_mean),
            row.metric.unit,
            percent(row.percent, is_bad=row.percent is not None and row.percent.mean < 0),
            f"{row.win_count} of {row.run_count}",
        ]
        for row in rows
    ]
    columns = ("baseline", "of", "own", "its", "unit", "saving", "runs won")
    plot = plots.savings_plot(
        "savings-plot",
        rows,
        f"Savings of {told.subject} against each baseline; {told.scope}; {told.spread}.",
    )
    return markup.figures([plot]) + markup.table("savings-table", caption, columns, cells)


def _losses(told: _Report) -> str:
    means = findings.mean_losses(told.found, told.subject)
    runs = findings.lost_runs(told.found, told.subject, day)
    elsewhere = [
        loss
        for found in told.others
        if any(each.policy == told.subject for each in found.policies)
        for loss in findings.mean_losses(found, told.subject, _called(found, told.found))
        if loss.metric == findings.JOINT
    ]
    shown = runs[: findings.LOST_RUN_COUNT_MAX]
    text = (
        f"The program finds these rows in the data: every metric and policy in which the mean of "
        f"{told.subject} is not the best, the runs in which another one has a lower J "
        f"({counted(len(runs), 'pair')} of run and policy; the worst {len(shown)} are shown), and "
        "other evaluations in which another one has a lower mean J."
    )
    in_means = (
        f"Means over {told.sample} in which another policy is better than {told.subject}; loss "
        "against it in per cent of its value ± standard deviation of the paired differences over "
        "runs; "
        f"{told.scope}."
    )
    in_runs = (
        f"Single runs in which another policy has a lower J than {told.subject}; loss against "
        f"it in per cent of its J, one run each, so without spread; {told.scope}."
    )
    in_others = (
        f"Other evaluations in which another policy has a lower mean J than {told.subject}; loss "
        "against it in per cent of its J ± standard deviation of the paired differences over runs; "
        "each in its own cost scope."
    )
    in_mean = [[row.metric.name, *_loss(row)] for row in means]
    return (
        markup.paragraph(text)
        + _loss_table("losses-table", in_means, "of", in_mean)
        + _loss_table("lost-runs-table", in_runs, "run", [[r.where, *_loss(r)] for r in shown])
        + _loss_table(
            "lost-elsewhere-table",
            in_others,
            "evaluation",
            [[r.where, *_loss(r)] for r in elsewhere],
        )
    )


def _called(found: Evaluation, main: Evaluation) -> str:
    """Return what tells an evaluation from the one in the middle of the page."""
    if found.origin.base != main.origin.base or found.cache_mode != main.cache_mode:
        return f"{found.scenario}, caches {found.cache_mode}"
    known = main.origin.parameters
    changed = [
        f"{key} = {value:g}"
        for key, value in found.origin.parameters.items()
        if known.get(key) != value
    ]
    return ", ".join(changed) or found.scenario


def _loss_table(name: str, caption: str, first: str, rows: Sequence[Sequence[Cell]]) -> str:
    if not rows:
        return markup.paragraph(f"{caption.partition(';')[0]}: none.")
    columns = (first, "other policy", "own", "its", "unit", "loss")
    return markup.table(name, caption, columns, rows)


def _loss(row: Loss) -> list[Cell]:
    own, other = amount(row.subject_value), amount(row.other_value)
    lost: Cell = "other is 0"
    if row.percent is not None:
        note = "one run" if row.std is None else f"± {significant(row.std)} {row.metric.unit}"
        lost = Number(row.percent, f"{row.percent:+.1f} %", note, is_bad=True)
    return [row.other, own, other, row.metric.unit, lost]


def _bounds(told: _Report) -> str:
    rows = findings.distances(told.found)
    if all(each.over_bound is None and each.over_search is None for each in rows):
        return markup.paragraph(
            "Not computed: these evaluations hold no lower bound and no clairvoyant search. "
            "Without them nothing on this page says how much is left to save."
        )
    caption = (
        "J over the lower bound that no policy can pass, and over what a search with knowledge of "
        f"the future attains ± standard deviation over the runs for which each was computed; "
        f"{told.scope}. 1 would be perfect."
    )
    cells: list[list[Cell]] = [
        [each.policy, spread_amount(each.over_bound), spread_amount(each.over_search)]
        for each in rows
    ]
    columns = ("policy", "J / lower bound", "J / clairvoyant search")
    return markup.table("bounds-table", caption, columns, cells)


def _front(told: _Report, swept: Sequence[Sweep]) -> str:
    sweep = next((each for each in swept if each.parameter == CARBON_PRICE), None)
    if sweep is None:
        return markup.paragraph(
            f"Not computed: name evaluations of the same runs at other carbon prices, such as of "
            f"gcos evaluate --sweep {CARBON_PRICE}=0,0.05,0.2,0.5,1,3."
        )
    found = front(sweep)
    founds = {point.value: point.found for point in sweep.points}
    volume = (
        "Share of the box from nothing to the highest cost and carbon of all points "
        f"({significant(found.reference[0])} $, {significant(found.reference[1])} kg) that the "
        "points of a policy leave behind; more is better; of means, so without spread, and against "
        "no baseline; "
    )
    points = (
        f"Means over {told.sample} at each carbon price at which policies decided; {told.scope}; "
        "late in per cent of all tasks ± standard deviation over runs, no baseline. Late penalties "
        "are part of cost and are not raised with the carbon price: at high prices being late may "
        "pay."
    )
    plot = plots.front_plot(
        "front-plot",
        found,
        f"Cost over carbon at {len(sweep.points)} carbon prices; filled points are on the front "
        f"of all policies; {told.scope}.",
    )
    volumes: list[list[Cell]] = [
        [policy, Number(value, f"{value:.1f} %")]
        for policy, value in sorted(found.hypervolume_percent.items(), key=lambda each: -each[1])
    ]
    cells: list[list[Cell]] = [
        [
            each.policy,
            amount(each.carbon_price_usd_per_kg),
            amount(each.cost_usd),
            amount(each.carbon_kg),
            spread_amount(
                findings.spread(founds[each.carbon_price_usd_per_kg], each.policy, findings.LATE)
            ),
            "yes" if each.is_on_front else "no",
        ]
        for each in found.points
    ]
    columns = ("policy", "carbon price, $/kg", "cost, $", "carbon, kg", "late, %", "on the front")
    return (
        markup.figures([plot])
        + markup.table("volume-table", volume + told.scope, ("policy", "hypervolume"), volumes)
        + markup.table("front-table", points, columns, cells)
    )


def _parts(told: _Report) -> str:
    policies = told.found.policies
    names = [each.policy for each in policies]
    counts_gpus = told.found.cost_scope.value != "operator"
    cost_parts = [
        ("electricity", [each.energy_usd for each in policies]),
        ("egress", [each.transfer_usd for each in policies]),
        ("penalties", [each.penalty_usd for each in policies]),
        ("storage", [each.storage_usd for each in policies]),
    ]
    if counts_gpus:
        cost_parts.append(("GPU hours", [each.gpu_usd for each in policies]))
    carbon_parts = [
        ("compute", [each.compute_kg for each in policies]),
        ("network", [each.network_kg for each in policies]),
    ]
    drawn = [
        plots.stack_plot(
            "cost-plot",
            names,
            cost_parts,
            unit="$",
            caption=f"Cost by item, means over {told.sample}; {told.scope}.",
        ),
        plots.stack_plot(
            "carbon-plot",
            names,
            carbon_parts,
            unit="kg",
            caption=f"Carbon by item, means over {told.sample}.",
        ),
    ]
    caption = (
        f"Means over {told.sample}. Idle power is in no cost and in no carbon. GPU hours are "
        f"{'part of' if counts_gpus else 'no part of'} cost here ({told.scope})."
    )
    columns = (
        "policy",
        "electricity, $",
        "egress, $",
        "penalties, $",
        "storage, $",
        "GPU hours, $",
        "compute, kg",
        "network, kg",
        "electricity, kWh",
        "idle, kWh",
        "idle, $",
        "idle, kg",
    )
    cells: list[list[Cell]] = [
        [
            each.policy,
            amount(each.energy_usd),
            amount(each.transfer_usd),
            amount(each.penalty_usd),
            amount(each.storage_usd),
            amount(each.gpu_usd),
            amount(each.compute_kg),
            amount(each.network_kg),
            amount(each.energy_kwh),
            amount(each.idle_kwh),
            amount(each.idle_usd),
            amount(each.idle_kg),
        ]
        for each in policies
    ]
    return markup.figures(drawn) + markup.table("parts-table", caption, columns, cells)


def _caches(told: _Report) -> str:
    found = told.found
    drawn = [
        plots.rate_plot(
            "hits-plot",
            found,
            [
                ("models", lambda policy: findings.spread(found, policy, findings.MODEL_HITS)),
                ("data sets", lambda policy: findings.spread(found, policy, findings.DATA_HITS)),
            ],
            unit="% of lookups that found the artifact",
            caption=f"Cache hits, means over {told.sample}; bars: standard deviation over runs.",
        ),
        plots.rate_plot(
            "wait-plot",
            found,
            [
                ("mean", lambda policy: findings.spread(found, policy, findings.WAIT_MEAN_H)),
                ("p95", lambda policy: findings.spread(found, policy, findings.WAIT_P95_H)),
            ],
            unit="hours from arrival to start",
            caption=f"Waiting, means over {told.sample}; bars: standard deviation over runs.",
        ),
    ]
    caption = (
        f"Means over {told.sample} ± standard deviation over runs. Hits in per cent of all "
        "lookups, lateness in per cent of all tasks: shares of the policy's own, against no "
        "baseline and in no cost scope."
    )
    columns = ("policy", "model hits, %", "data hits, %", "late, %", "wait, mean", "wait, p95")
    cells: list[list[Cell]] = [
        [
            each.policy,
            spread_amount(findings.spread(found, each.policy, findings.MODEL_HITS)),
            spread_amount(findings.spread(found, each.policy, findings.DATA_HITS)),
            spread_amount(findings.spread(found, each.policy, findings.LATE)),
            length(each.wait_mean_s),
            length(each.wait_p95_s),
        ]
        for each in found.policies
    ]
    return markup.figures(drawn) + markup.table("caches-table", caption, columns, cells)


def _placements(told: _Report, placements: Sequence[Placements]) -> str:
    del told
    if not placements:
        return markup.paragraph(
            "Not computed: name exported runs with --placements; gcos evaluate --export DIR "
            "writes them."
        )
    drawn = [
        plots.placements_plot(
            f"placements-plot-{index}",
            each,
            f"{each.record.policy} ({each.record.scenario}, caches {each.record.cache_mode}), "
            f"week of {day(each.record.week_start_s)}, seed {each.record.seed}: GPUs in use at "
            "each site, in per cent of its own, over its curves of carbon and price. One run.",
        )
        for index, each in enumerate(placements)
    ]
    return markup.figures(drawn)


def _sensitivity(told: _Report, swept: Sequence[Sweep]) -> str:
    parts = []
    if swept:
        drawn = [
            plots.sweep_plot(
                f"sweep-plot-{index}",
                sweep,
                f"J over {SWEPT[sweep.parameter][0]}, means over {told.sample} with "
                f"{told.spread}; {told.scope}.",
            )
            for index, sweep in enumerate(swept)
        ]
        parts.append(markup.figures(drawn))
        parts += [_sweep(told, index, sweep) for index, sweep in enumerate(swept)]
    missing = [
        f"{words} ({key})"
        for key, (words, _) in SWEPT.items()
        if key not in {sweep.parameter for sweep in swept}
    ]
    if missing:
        parts.append(
            markup.paragraph(
                f"Not computed: {', '.join(missing)}. gcos evaluate --sweep KEY=V1,V2,... with "
                "the same weeks, seeds and policies makes one."
            )
        )
    return "".join(parts)


def _sweep(told: _Report, index: int, sweep: Sweep) -> str:
    words, unit = SWEPT[sweep.parameter]
    caption = (
        f"J, $, over {words} ({unit}; {sweep.parameter}): means over {told.sample} ± standard "
        f"deviation over runs; {told.scope}. J is told at the carbon price of its column."
    )
    columns = ("policy", *(significant(point.value) for point in sweep.points))
    cells: list[list[Cell]] = [
        [policy, *(spread_amount(each) for each in sweep.joint_usd(policy))]
        for policy in sweep.policies
    ]
    return markup.table(f"sweep-table-{index}", caption, columns, cells)


def _others(told: _Report, swept: Sequence[Sweep]) -> str:
    shown_above = [point.found for sweep in swept for point in sweep.points]
    others = [each for each in told.others if not any(each is other for other in shown_above)]
    if not others:
        return markup.paragraph("None was named that is not shown above.")
    caption = (
        f"J of {told.subject} in every other evaluation that was named, against the best other "
        "policy there: 100 (other - own) / other, mean of paired percentages with its spread, in "
        "the cost scope of the row."
    )
    columns = ("scenario", "caches", "cost scope", "runs", "own J, $", "best other", "saving of J")
    return markup.table(
        "others-table",
        caption,
        columns,
        [_other(told.subject, _called(each, told.found), each) for each in others],
    )


def _other(subject: str, called: str, found: Evaluation) -> list[Cell]:
    means = {each.policy: each.joint_usd.mean for each in found.policies}
    cells: list[Cell] = [
        called,
        found.cache_mode,
        found.cost_scope.value,
        str(len(found.seeds)),
    ]
    rivals = sorted((mean, name) for name, mean in means.items() if name != subject)
    if subject not in means or not rivals:
        return [*cells, None, None, None]
    best = rivals[0][1]
    saving = next(
        row
        for row in findings.savings(found, subject)
        if row.baseline == best and row.metric == findings.JOINT
    )
    is_bad = saving.percent is not None and saving.percent.mean < 0
    return [*cells, amount(means[subject]), best, percent(saving.percent, is_bad=is_bad)]


def _paper(found: PaperTable) -> str:
    caption = (
        "Ours with both caches against the worst of random, round-robin, local and least-loaded "
        "without any cache; mean of paired percentages with its spread; cost scope of the row "
        "where it is cost. The heuristic has the same caches as ours and the same baseline."
    )
    columns = (
        "scenario",
        "of",
        "scope",
        "ours",
        "own",
        "without caches",
        "its",
        "saving",
        "the paper states",
        "heuristic",
        "its",
        "its saving",
    )
    cells: list[list[Cell]] = [
        [
            row.scenario,
            f"{row.figure}, {row.unit}",
            row.cost_scope.value if row.figure == "cost" else "-",
            row.policy,
            amount(row.value),
            row.baseline,
            amount(row.baseline_value),
            percent(row.saving_percent),
            Number(row.stated_percent, f"{row.stated_percent} %"),
            row.heuristic,
            amount(row.heuristic_value),
            percent(row.heuristic_saving_percent),
        ]
        for row in found.rows
    ]
    sentences = markup.items([row.sentence for row in found.rows])
    return markup.table("paper-table", caption, columns, cells) + sentences


def _notes(told: _Report) -> str:
    lines = [
        "Tasks are synthetic unless a log is replayed, as no public trace names all of a task.",
        "Idle power is told apart and is in no cost; embodied carbon is in no figure.",
        "A task unfinished at the end of the week is run to its end and charged.",
    ]
    if len(told.found.weeks_start_s) < 2:
        lines.append("One week gives no interval: it says nothing of other weeks.")
    return markup.items([*lines, *told.found.notes])
