"""Distances to the bound as a table for people. Pure."""

from gcos.cli.output import Table
from gcos.cli.plan_table import SCOPES
from gcos.cli.quantities import NOTHING, significant
from testbed.bound.distances import Distances, PolicyDistance, RunDistance
from testbed.evaluate import day


def table(found: Distances) -> Table:
    """Return a row for each policy in each run, and one of the search."""
    rows = []
    for run in found.runs:
        if run.bound.search_usd is not None:
            rows.append(_search_row(run))
        rows += [_row(run, each) for each in run.policies]
    columns = ("WEEK", ">SEED", "POLICY", ">J $", ">BOUND $", ">J/BOUND", ">J/SEARCH")
    return Table(columns, tuple(rows))


def _search_row(run: RunDistance) -> tuple[str, ...]:
    searched_usd, bound_usd = run.bound.search_usd, run.bound.bound_usd
    assert searched_usd is not None, "it was searched"
    over = searched_usd / bound_usd if bound_usd > 0 else None
    return (*_begin(run, "clairvoyant search", searched_usd), _ratio(over), _ratio(1.0))


def _row(run: RunDistance, policy: PolicyDistance) -> tuple[str, ...]:
    begin = _begin(run, policy.policy, policy.joint_usd)
    return (*begin, _ratio(policy.over_bound), _ratio(policy.over_search))


def _ratio(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _begin(run: RunDistance, name: str, usd: float) -> tuple[str, ...]:
    bound = significant(run.bound.bound_usd)
    return day(run.week_start_s), str(run.seed), name, significant(usd), bound


def heading(found: Distances) -> list[str]:
    """Return what was bounded: scenario, prices, scope and signals."""
    return [
        (
            f"scenario {found.scenario}, caches {found.cache_mode}; carbon price "
            f"{significant(found.carbon_price_usd_per_kg)} $/kg"
        ),
        f"cost ({found.cost_scope.value}): {SCOPES[found.cost_scope]}",
        "signals: "
        + (found.data or "typical days of the shipped tables, no real week (real ones: --data)"),
    ]


def notes(found: Distances) -> list[str]:
    """Return what one must know to read the table."""
    lines = [
        (
            "J of the whole run, warm-up and drain included: of the measured window alone there is "
            "no valid bound worth the name."
        ),
        (
            "BOUND: no schedule is below, however much it knows; GPUs are fluid in it and caches "
            "never full, so the best schedule lies above."
        ),
    ]
    if any(run.bound.search_usd is not None for run in found.runs):
        lines.append(
            "Clairvoyant search: one schedule that knows run times, prices and carbon; better ones "
            "may exist."
        )
    return lines + list(found.notes)
