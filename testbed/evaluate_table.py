"""An evaluation as a table for people, with what they must know to read it. Pure."""

from gcos.cli.output import Table
from gcos.cli.plan_table import SCOPES
from gcos.cli.quantities import NOTHING, counted, duration, percentage, significant
from testbed.evaluate import day
from testbed.evaluation import Evaluation, PolicySummary, is_clairvoyant
from testbed.statistics import Comparison, Estimate

#: Longest list of weeks that is written out.
_WEEKS_SHOWN = 4


def table(found: Evaluation) -> Table:
    """Return a row for each policy: means of the measured window."""
    versus = f"J VS {found.baseline.upper()} %"
    return Table(
        (
            "POLICY",
            ">J $",
            ">COST $",
            ">CO2 kg",
            ">ENERGY $",
            ">EGRESS $",
            ">PENALTY $",
            ">LATE %",
            ">MOVED GB",
            ">MODEL HITS %",
            ">DATA HITS %",
            ">WAIT p95",
            f">{versus}",
            ">WINS",
        ),
        tuple(_row(each, _shown(each.policy, found)) for each in found.policies),
        optional=(">DATA HITS %", ">MODEL HITS %", ">WAIT p95", ">ENERGY $", ">EGRESS $", ">WINS"),
    )


def _shown(name: str, found: Evaluation) -> str:
    """Return the name of a summary, marked where it knows the future."""
    policy, _, caches = name.partition("/")
    is_marked = is_clairvoyant(policy, caches or found.cache_mode)
    return f"{name} (clairvoyant)" if is_marked else name


def _row(policy: PolicySummary, name: str) -> tuple[str, ...]:
    versus = policy.joint_vs_baseline
    return (
        name,
        significant(policy.joint_usd.mean),
        significant(policy.cost_usd.mean),
        significant(policy.carbon_kg.mean),
        significant(policy.energy_usd),
        significant(policy.transfer_usd),
        significant(policy.penalty_usd),
        percentage(policy.late_percent / 100),
        significant(policy.moved_gb),
        _percent(policy.model_hit_percent),
        _percent(policy.data_hit_percent),
        duration(policy.wait_p95_s),
        NOTHING if versus is None else _relative(versus.relative_percent),
        NOTHING if versus is None else f"{versus.win_count}/{versus.difference.count}",
    )


def _percent(value: float | None) -> str:
    return NOTHING if value is None else percentage(value / 100)


def _relative(found: Estimate | None) -> str:
    """Return a relative difference with its interval, such as `-3.5 [-4.4, -2.6]`."""
    if found is None:
        return NOTHING
    if found.interval is None:
        return f"{found.mean:+.1f}"
    return f"{found.mean:+.1f} [{found.interval.low:+.1f}, {found.interval.high:+.1f}]"


def heading(found: Evaluation) -> list[str]:
    """Return what was compared: scenario, prices, scope, signals, weeks and seeds."""
    weeks = found.weeks_start_s
    shown = [day(week) for week in weeks]
    if len(shown) > _WEEKS_SHOWN:
        shown = [shown[0], shown[1], "...", shown[-1]]
    return [
        (
            f"scenario {found.scenario}, caches {found.cache_mode}; carbon price "
            f"{significant(found.carbon_price_usd_per_kg)} $/kg; network "
            f"{significant(found.network_kwh_per_gb)} kWh/GB"
        ),
        f"cost ({found.cost_scope.value}): {SCOPES[found.cost_scope]}",
        "signals: "
        + (found.data or "typical days of the shipped tables, no real week (real ones: --data)"),
        (
            f"{counted(len(found.seeds), 'run')} a policy: seeds {_seeds(found.seeds)}; "
            f"{counted(len(weeks), 'week')} from {', '.join(shown)} (UTC)"
        ),
    ]


def notes(found: Evaluation) -> list[str]:
    """Return what one must know to read the table."""
    lines = [
        (
            "Tasks are synthetic unless a log is replayed: no public trace names model, data set "
            "and run time together."
        ),
        "Means over runs of the measured week; J = cost + carbon price x carbon; idle power apart.",
    ]
    if any(each.joint_vs_baseline is not None for each in found.policies):
        lines.append(
            f"VS {found.baseline.upper()}: mean of paired differences of J; below zero is better; "
            "in brackets the 95 % interval, weeks resampled as blocks"
        )
        if len(found.weeks_start_s) < 2:
            lines.append("One week gives no interval: it says nothing of other weeks.")
    lines += [
        f"{each.policy} is worse than {found.baseline}: above +1 %, and the interval excludes 0"
        for each in found.policies
        if _is_worse(each.joint_vs_baseline)
    ]
    return lines + list(found.notes)


def _is_worse(versus: Comparison | None) -> bool:
    return versus is not None and versus.is_worse


def _seeds(seeds: tuple[int, ...]) -> str:
    is_range = seeds == tuple(range(seeds[0], seeds[0] + len(seeds)))
    if is_range and len(seeds) > 1:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
