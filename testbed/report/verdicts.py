"""Sections that say what was run, what came of it, against what, and where the subject loses."""

from collections.abc import Sequence
from typing import Final

from gcos.cli.plan_table import SCOPES
from gcos.cli.quantities import counted, significant
from testbed.evaluate import day
from testbed.evaluation import Evaluation, PolicySummary
from testbed.paper import PaperRow, PaperTable
from testbed.report import findings, markup, plots
from testbed.report.findings import Loss
from testbed.report.fronts import Sweep
from testbed.report.markup import Cell, Number, amount, percent, spread_amount
from testbed.report.told import Told

#: From so many per cent on a loss is told as a multiple.
_TIMES_PERCENT: Final = 1000.0
_TIMES_MAX: Final = 1000.0
#: Below so many weeks a bootstrap over weeks is not to be trusted.
_FEW_WEEKS: Final = 10


def run_section(told: Told) -> str:
    """Say what was run and how to repeat it."""
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


def policies_section(told: Told) -> str:
    """Say what each policy came to."""
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


def _policy(told: Told, each: PolicySummary) -> list[Cell]:
    late = findings.spread(told.found, each.policy, findings.LATE)
    joint, carbon = each.joint_vs_baseline, each.carbon_vs_baseline
    return [
        each.policy,
        spread_amount(each.joint_usd),
        amount(each.joint_without_penalty_usd.mean),
        spread_amount(each.cost_usd),
        amount(each.cost_without_penalty_usd.mean),
        spread_amount(each.carbon_kg),
        spread_amount(late),
        amount(each.moved_gb),
        "it is the baseline" if joint is None else percent(joint.relative_percent),
        "it is the baseline" if carbon is None else percent(carbon.relative_percent),
    ]


def savings_section(told: Told) -> str:
    """Say what the subject saves against each other policy."""
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
            percent(row.percent, is_bad=row.percent is not None and row.percent.mean < 0),
            amount(row.subject_mean),
            amount(row.baseline_mean),
            row.metric.unit,
            f"{row.win_count} of {row.run_count}",
        ]
        for row in rows
    ]
    columns = ("baseline", "of", "saving", "own", "its", "unit", "runs won")
    plot = plots.savings_plot(
        "savings-plot",
        rows,
        f"Savings of {told.subject} against each baseline; {told.scope}; {told.spread}.",
    )
    return markup.figures([plot]) + markup.table("savings-table", caption, columns, cells)


def losses_section(told: Told) -> str:
    """Say where another policy is better than the subject."""
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
        f"({counted(len(runs), 'pair')} of run and policy; the worst come first, "
        f"{findings.LOST_RUN_COUNT_MAX} at most), and other evaluations in which another one has a "
        "lower mean J."
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
        caches = "" if found.cache_mode == main.cache_mode else f", caches {found.cache_mode}"
        return f"{found.scenario}{caches}"
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
    columns = (first, "other policy", "loss", "own", "its", "unit")
    return markup.table(name, caption, columns, rows)


def _loss(row: Loss) -> list[Cell]:
    own, other = amount(row.subject_value), amount(row.other_value)
    lost: Cell = "other is 0"
    if row.percent is not None:
        note = "one run" if row.std is None else f"± {significant(row.std)} {row.metric.unit}"
        text = f"{row.percent:+.1f} %"
        if row.percent >= _TIMES_PERCENT:
            # Beside next to nothing all is a multitude; the two values say more than its number.
            times = min(row.subject_value / row.other_value, _TIMES_MAX)
            text = f"{'over ' if times == _TIMES_MAX else ''}{significant(times)} times"
        lost = Number(row.percent, text, note, is_bad=True)
    return [row.other, lost, own, other, row.metric.unit]


def bounds_section(told: Told) -> str:
    """Say how far each policy is from the least J that is known."""
    rows = findings.distances(told.found)
    if all(each.over_bound is None and each.over_search is None for each in rows):
        return markup.paragraph(
            "Not computed: these evaluations hold no lower bound and no clairvoyant search, and no "
            "document of bounds was named beside them. So nothing on this page says how much is "
            "left to save."
        )
    caption = (
        "J of whole runs, warm-up and drain included, over the lower bound that no policy can pass "
        "and over what a search with knowledge of the future attains ± standard deviation over "
        "the runs for which each was computed; "
        f"{told.scope}. 1 would be perfect."
    )
    cells: list[list[Cell]] = [
        [each.policy, spread_amount(each.over_bound), spread_amount(each.over_search)]
        for each in rows
    ]
    columns = ("policy", "J / lower bound", "J / clairvoyant search")
    return markup.table("bounds-table", caption, columns, cells)


def others_section(told: Told, swept: Sequence[Sweep]) -> str:
    """Say what came of evaluations that no other section shows."""
    shown_above = [point.found for sweep in swept for point in sweep.points]
    others = [each for each in told.others if not any(each is other for other in shown_above)]
    if not others:
        return markup.paragraph("None was named that is not shown above.")
    caption = (
        f"J of {told.subject} in every other evaluation that was named, against the best other "
        "policy there: 100 (other - own) / other, mean of paired percentages with its spread, in "
        "the cost scope of the row; policies are those that met there."
    )
    columns = (
        "scenario",
        "caches",
        "cost scope",
        "runs",
        "policies",
        "own J, $",
        "best other",
        "saving of J",
    )
    shown = [each for each in others if _has_rival(each, told.subject)]
    table = markup.table(
        "others-table",
        caption,
        columns,
        [_other(told.subject, _called(each, told.found), each) for each in shown],
    )
    left_out = [_called(each, told.found) for each in others if not _has_rival(each, told.subject)]
    if not left_out:
        return table
    sentence = f"Nothing to compare {told.subject} with in {'; '.join(left_out)}."
    return (table if shown else "") + markup.paragraph(sentence)


def _has_rival(found: Evaluation, subject: str) -> bool:
    names = {each.policy for each in found.policies}
    return subject in names and len(names) > 1


def _other(subject: str, called: str, found: Evaluation) -> list[Cell]:
    means = {each.policy: each.joint_usd.mean for each in found.policies}
    cells: list[Cell] = [
        called,
        found.cache_mode,
        found.cost_scope.value,
        str(len(found.seeds)),
        str(len(means)),
    ]
    _, best = min((mean, name) for name, mean in means.items() if name != subject)
    saving = next(
        row
        for row in findings.savings(found, subject)
        if row.baseline == best and row.metric == findings.JOINT
    )
    is_bad = saving.percent is not None and saving.percent.mean < 0
    return [*cells, amount(means[subject]), best, percent(saving.percent, is_bad=is_bad)]


def paper_section(found: PaperTable) -> str:
    """Put ours beside a paper's figures."""
    caption = (
        "Ours with both caches against the worst of random, round-robin, local and least-loaded "
        "without any cache; mean of paired percentages with its spread; cost in the scope that is "
        "named with it; beside each scenario what a kg of carbon counts there. The heuristic "
        "has the same caches as ours and the same baseline."
    )
    columns = (
        "scenario",
        "of",
        "ours",
        "worst without caches",
        "saving",
        "the paper states",
        "best heuristic",
        "its saving",
    )
    cells: list[list[Cell]] = [
        [
            _scenario_of(row),
            _figure_of(row),
            _amount_of(row.value, row.policy),
            _amount_of(row.baseline_value, row.baseline),
            percent(row.saving_percent),
            Number(row.stated_percent, f"{row.stated_percent} %"),
            _amount_of(row.heuristic_value, row.heuristic),
            percent(row.heuristic_saving_percent),
        ]
        for row in found.rows
    ]
    sentences = markup.items([row.sentence for row in found.rows])
    return markup.table("paper-table", caption, columns, cells) + sentences


def _figure_of(row: PaperRow) -> str:
    scope = f" ({row.cost_scope.value})" if row.unit == "$" else ""
    return f"{row.figure}, {row.unit}{scope}"


def _amount_of(value: float, policy: str) -> Number:
    """Return a value with the policy that it is of."""
    return Number(value, significant(value), policy)


def _scenario_of(row: PaperRow) -> str:
    price = row.carbon_price_usd_per_kg
    return row.scenario if price is None else f"{row.scenario}, {price:g} $/kg"


def notes_section(told: Told) -> str:
    """Say what one must know."""
    lines = [
        "Tasks are synthetic unless a log is replayed, as no public trace names all of a task.",
        "Idle power is told apart and is in no cost; embodied carbon is in no figure.",
        "A task unfinished at the end of the week is run to its end and charged.",
    ]
    if len(told.found.weeks_start_s) < 2:
        lines.append("One week gives no interval: it says nothing of other weeks.")
    elif len(told.found.weeks_start_s) < _FEW_WEEKS:
        lines.append(
            f"Intervals of {len(told.found.weeks_start_s)} weeks are narrower than they should be: "
            "a bootstrap of few blocks understates what other weeks may bring."
        )
    return markup.items([*lines, *told.found.notes])
