"""The ledger as tables: attempts, and sums with what they mean. Pure.

Amounts under different terms (cost scope, carbon price) do not compare. Where terms differ, each
row says which are its own, and nothing is added up across them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gcos.accounting import G_PER_KG, CostScope
from gcos.cli.output import Table
from gcos.cli.plan_table import SCOPES
from gcos.cli.quantities import NOTHING, duration, instant, percentage, significant
from gcos.ledger import LedgerEntry
from gcos.ledger_totals import SAVINGS_DEFINITION, LedgerGroup, LedgerKey


def entries(ledger: Sequence[LedgerEntry], *, now_s: float) -> Table:
    """Return one row for each attempt, oldest first, with its terms where they differ."""
    shown = _Terms.of(ledger)
    return Table(
        (
            *("TASK", "NAME", "SITE", "GPU", "STATE", "ENDED", ">RUN"),
            *shown.headings,
            *(">COST $", ">CO2 g", ">LATE"),
        ),
        tuple(
            (
                entry.task_id,
                entry.name,
                entry.site_id,
                f"{entry.gpu_count} x {entry.pool_type}",
                entry.state.value,
                instant(entry.ended_s, now_s),
                duration(None if entry.started_s is None else entry.ended_s - entry.started_s),
                *shown.cells(entry),
                significant(entry.charge.cost_usd(entry.scope)),
                significant(entry.charge.carbon_gco2) if entry.is_carbon_known else "unknown",
                duration(entry.late_s or None),
            )
            for entry in ledger
        ),
        optional=(">LATE", "GPU", "ENDED", "NAME"),
    )


def costs(groups: Sequence[LedgerGroup], by: LedgerKey | None) -> Table:
    """Return what each group cost, by item, $, and the price of its GPU hours apart."""
    shown = _Terms.of(groups)
    return Table(
        (
            f"{_heading(by)} ($)",
            *shown.headings,
            ">ENERGY",
            ">EGRESS",
            ">LATE",
            ">STORAGE",
            ">COST",
            ">ORIGIN",
            ">SAVED",
            ">GPU $",
        ),
        tuple(
            (
                _label(group, by),
                *shown.cells(group),
                significant(group.spent.energy_usd),
                significant(group.spent.transfer_usd),
                significant(group.spent.penalty_usd),
                significant(group.spent.storage_usd),
                significant(group.cost_usd),
                significant(group.at_origin_cost_usd),
                saved(group.cost_usd, group.at_origin_cost_usd),
                significant(group.spent.gpu_usd),
            )
            for group in groups
        ),
        optional=(">LATE", ">STORAGE"),
    )


def carbon(groups: Sequence[LedgerGroup], by: LedgerKey | None) -> Table:
    """Return the carbon of each group, by item, g, with its energy and number of runs."""
    shown = _Terms.of(groups)
    return Table(
        (
            f"{_heading(by)} (CO2 g)",
            *shown.headings,
            ">COMPUTE",
            ">NETWORK",
            ">CO2",
            ">ORIGIN",
            ">SAVED",
            ">UNKNOWN",
            ">RUNS",
            ">GPU h",
            ">kWh",
        ),
        tuple(
            (
                _label(group, by),
                *shown.cells(group),
                significant(group.spent.compute_gco2),
                significant(group.spent.network_gco2),
                significant(group.carbon_gco2),
                significant(group.at_origin_carbon_gco2),
                saved(group.carbon_gco2, group.at_origin_carbon_gco2),
                str(group.unknown_carbon_count or NOTHING),
                str(group.attempt_count),
                significant(group.gpu_h),
                significant(group.spent.energy_kwh),
            )
            for group in groups
        ),
        optional=(">kWh", ">GPU h"),
    )


def notes(groups: Sequence[LedgerGroup]) -> list[str]:
    """Return what one must know to read the sums."""
    scopes = dict.fromkeys(group.scope for group in groups)
    attempts = sum(group.attempt_count for group in groups)
    unknown = sum(group.unknown_carbon_count for group in groups)
    modelled = sum(group.modelled_energy_count for group in groups)
    lines = [f"ORIGIN, SAVED: {SAVINGS_DEFINITION}"]
    lines += [f"cost ({scope.value}): {SCOPES[scope]}" for scope in scopes]
    lines += _joint(groups)
    if CostScope.OPERATOR in scopes:
        lines.append("GPU $: the price of the GPU hours; no part of COST (operator)")
    if unknown:
        lines.append(
            f"carbon is unknown for {unknown} of {attempts} attempts (a signal was missing or "
            "stale); they are left out of CO2, spent and at the origin"
        )
    if modelled:
        lines.append(
            f"energy is modelled from the power of the pool for {modelled} of {attempts} attempts"
        )
    return lines


def saved(spent: float, at_origin: float) -> str:
    """Return the saving in per cent; negative where more was spent, `-` without a yardstick.

    Beyond a thousand per cent it tells no more than that the yardstick is nearly nothing.
    """
    if at_origin <= 0:
        return NOTHING
    ratio = 1 - spent / at_origin
    if ratio < -10:
        return "< -1000 %"
    return f"{'-' if ratio < 0 else ''}{percentage(abs(ratio))} %"


@dataclass(frozen=True, slots=True)
class _Terms:
    """The columns that tell rows under different terms apart; none where all have the same.

    Attributes:
        has_scopes: Rows differ in what counts as cost.
        has_prices: Rows differ in the carbon price.
    """

    has_scopes: bool
    has_prices: bool

    @classmethod
    def of(cls, rows: Sequence[LedgerEntry] | Sequence[LedgerGroup]) -> "_Terms":
        return cls(
            has_scopes=len({row.scope for row in rows}) > 1,
            has_prices=len({row.carbon_price_usd_per_kg for row in rows}) > 1,
        )

    @property
    def headings(self) -> tuple[str, ...]:
        return (("SCOPE",) if self.has_scopes else ()) + ((">$/kg",) if self.has_prices else ())

    def cells(self, row: LedgerEntry | LedgerGroup) -> tuple[str, ...]:
        price = significant(row.carbon_price_usd_per_kg)
        return ((row.scope.value,) if self.has_scopes else ()) + (
            (price,) if self.has_prices else ()
        )


def _joint(groups: Sequence[LedgerGroup]) -> list[str]:
    """Return J = cost + carbon price x carbon (DESIGN section 5), spent and at the origin.

    A line for each scope and carbon price: sums under different terms mean nothing together.
    """
    terms = sorted({(each.carbon_price_usd_per_kg, each.scope.value) for each in groups})
    has_scopes = len({scope for _, scope in terms}) > 1
    lines = []
    for price, scope in terms:
        alike = [
            each
            for each in groups
            if (each.carbon_price_usd_per_kg, each.scope.value) == (price, scope)
        ]
        spent = sum(each.cost_usd + price * each.carbon_gco2 / G_PER_KG for each in alike)
        home = sum(
            each.at_origin_cost_usd + price * each.at_origin_carbon_gco2 / G_PER_KG
            for each in alike
        )
        lines.append(
            f"carbon price: {significant(price)} $/kg{f', scope {scope}' if has_scopes else ''}; "
            f"cost + carbon price x carbon: {significant(spent)} $, {significant(home)} $ at the "
            f"origin, saved {saved(spent, home)}"
        )
    return lines


def _heading(by: LedgerKey | None) -> str:
    return "SUM" if by is None else by.value.upper()


def _label(group: LedgerGroup, by: LedgerKey | None) -> str:
    return "all" if by is None else group.key or NOTHING
