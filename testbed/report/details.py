"""Sections that say how it came about: fronts, items, caches, placements, sensitivity."""

from collections.abc import Sequence
from typing import Final

from gcos.cli.quantities import significant
from testbed.evaluate import day
from testbed.report import findings, markup, plots
from testbed.report.findings import Saving
from testbed.report.fronts import CARBON_PRICE, SWEPT, Sweep, front
from testbed.report.markup import Cell, Number, amount, length, percent, spread_amount
from testbed.report.sources import Placements
from testbed.report.told import Told

#: Values that a sweep is proposed with.
_VALUES: Final = {
    CARBON_PRICE: "0,0.05,0.2,0.5,1,3",
    "network_kwh_per_gb": "0.0065,0.06",
    "workload.runtime_sigma": "0,0.3,0.9",
    "signals.forecast_error": "0,0.08,0.3",
    "workload.load": "0.3,0.5,0.85",
}


def front_section(told: Told, swept: Sequence[Sweep]) -> str:
    """Show cost against carbon over carbon prices."""
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


def parts_section(told: Told) -> str:
    """Show what cost and carbon are made of."""
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


def caches_section(told: Told) -> str:
    """Show cache hits, lateness and waiting."""
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
            caption="Cache hits, a share of the policy's own lookups, so against no baseline and "
            f"in no cost scope; means over {told.sample}; lines: standard deviation over runs.",
        ),
        plots.rate_plot(
            "wait-plot",
            found,
            [
                ("mean", lambda policy: findings.spread(found, policy, findings.WAIT_MEAN_H)),
                ("p95", lambda policy: findings.spread(found, policy, findings.WAIT_P95_H)),
            ],
            unit="hours from arrival to start",
            caption=f"Waiting, means over {told.sample}; lines: standard deviation over runs.",
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


def placements_section(told: Told, placements: Sequence[Placements]) -> str:
    """Show where and when tasks ran."""
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


def sensitivity_section(told: Told, swept: Sequence[Sweep]) -> str:
    """Show how J depends on what was assumed."""
    parts = []
    shown = {sweep.parameter for sweep in swept}
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
    missing = {key: values for key, values in _VALUES.items() if key not in shown}
    if missing:
        command = told.found.origin.command or "gcos evaluate ..."
        names = ", ".join(SWEPT[key][0] for key in missing)
        parts.append(markup.paragraph(f"Not computed: {names}. To have them, run:"))
        lines = [f"{command} --sweep {key}={values} --out DIR" for key, values in missing.items()]
        parts.append(markup.code("\n".join(lines)))
    return "".join(parts)


def _sweep(told: Told, index: int, sweep: Sweep) -> str:
    words, unit = SWEPT[sweep.parameter]
    caption = (
        f"J, $, over {words} ({unit}; {sweep.parameter}): means over {told.sample} ± standard "
        f"deviation over runs; {told.scope}."
    )
    if sweep.parameter == CARBON_PRICE:
        caption += " J is told at the carbon price of its column."
    values = [significant(point.value) for point in sweep.points]
    cells: list[list[Cell]] = [
        [policy, *(spread_amount(each) for each in sweep.joint_usd(policy))]
        for policy in sweep.policies
    ]
    made = markup.table(f"sweep-table-{index}", caption, ("policy", *values), cells)
    if told.subject not in sweep.policies or len(sweep.policies) < 2:
        return made
    against = (
        f"Saving of J of {told.subject} against the policy of the row over {words}: "
        f"100 (other - own) / other, mean over {told.sample}, {told.spread}; {told.scope}."
    )
    saved = [findings.savings(point.found, told.subject) for point in sweep.points]
    rows: list[list[Cell]] = [
        [policy, *(_saving(each, policy) for each in saved)]
        for policy in sweep.policies
        if policy != told.subject
    ]
    columns = ("baseline", *values)
    return made + markup.table(f"sweep-savings-{index}", against, columns, rows)


def _saving(rows: Sequence[Saving], baseline: str) -> Cell:
    row = next(r for r in rows if (r.baseline, r.metric) == (baseline, findings.JOINT))
    return percent(row.percent, is_bad=row.percent is not None and row.percent.mean < 0)
