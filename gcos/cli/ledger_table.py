"""The ledger as a table with its totals. Pure."""

from collections.abc import Sequence

from gcos.cli.output import Table
from gcos.cli.quantities import duration, instant, percentage, significant
from gcos.ledger import LedgerEntry, savings


def entries(ledger: Sequence[LedgerEntry], *, now_s: float) -> Table:
    """Return one row for each attempt, oldest first."""
    return Table(
        ("TASK", "NAME", "SITE", "GPU", "STATE", "ENDED", ">RUN", ">COST $", ">CO2 g", ">LATE"),
        tuple(
            (
                entry.task_id,
                entry.name,
                entry.site_id,
                f"{entry.gpu_count} x {entry.pool_type}",
                entry.state.value,
                instant(entry.ended_s, now_s),
                duration(None if entry.started_s is None else entry.ended_s - entry.started_s),
                significant(entry.charge.cost_usd(entry.scope)),
                significant(entry.charge.carbon_gco2) if entry.is_carbon_known else "unknown",
                duration(entry.late_s or None),
            )
            for entry in ledger
        ),
    )


def totals(ledger: Sequence[LedgerEntry]) -> list[str]:
    """Return what was spent and what running at the origin at once would have cost.

    One line of cost for each scope that occurs, as they are not comparable.
    """
    lines = []
    for scope in sorted({entry.scope for entry in ledger}, key=lambda scope: scope.value):
        total = savings(entry for entry in ledger if entry.scope is scope)
        spent_usd, home_usd = total.spent.cost_usd(scope), total.at_origin.cost_usd(scope)
        lines.append(
            f"cost ({scope.value}): {significant(spent_usd)} $, "
            f"{significant(home_usd)} $ at the origin at once{_saved(spent_usd, home_usd)}"
        )
    total = savings(ledger)
    spent_g, home_g = total.spent.carbon_gco2, total.at_origin.carbon_gco2
    lines.append(
        f"carbon: {significant(spent_g)} g, "
        f"{significant(home_g)} g at the origin at once{_saved(spent_g, home_g)}"
    )
    lines.append(f"attempts: {total.entry_count}; failed ones count as spent")
    return lines


def _saved(spent: float, at_origin: float) -> str:
    if at_origin <= 0:
        return ""
    ratio = 1 - spent / at_origin
    return f", {percentage(abs(ratio))} % {'less' if ratio >= 0 else 'more'}"
