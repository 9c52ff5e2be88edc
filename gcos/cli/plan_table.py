"""A plan as tables: who would run the task, and who would not. Pure."""

from gcos.accounting import CostScope
from gcos.cli.output import Table
from gcos.cli.quantities import (
    NOTHING,
    clock,
    gigabytes,
    in_one_unit,
    instant,
    percentage,
    relative,
    significant,
)
from gcos.client_records import Plan, Scales
from gcos.contract_net import Bid
from gcos.durations import PredictionSource

#: What each scope counts as cost, in words.
SCOPES = {
    CostScope.OPERATOR: "electricity, egress, penalty and storage; GPUs are owned",
    CostScope.WITH_GPU_HOURS: "GPU hours, electricity, egress, penalty and storage",
}


def offers(plan: Plan, *, now_s: float, has_deadline: bool) -> Table:
    """Return the offers of a plan, best first."""
    return Table(
        (
            "SITE",
            "GPU",
            ">START",
            "UTC",
            ">RUN p50/p90",
            "FETCH",
            ">COST $",
            ">CO2 g",
            ">DEADLINE ok %",
            "CHOSEN",
            "REASON",
        ),
        tuple(
            (
                bid.site_id,
                bid.pool_type,
                # What could start when it was asked for can start now.
                relative(max(bid.start_s, now_s), now_s),
                clock(bid.start_s),
                _run_time(bid),
                _fetch(bid),
                significant(bid.charge.cost_usd(plan.terms.scope)),
                significant(bid.charge.carbon_gco2) if bid.is_carbon_known else "unknown",
                percentage(1 - bid.late_probability) if has_deadline else NOTHING,
                "yes" if bid.site_id == plan.chosen_site_id else "",
                _reason(bid, plan),
            )
            for bid in plan.bids
        ),
        optional=("UTC", "GPU", ">DEADLINE ok %"),
    )


def changes(plan: Plan, *, now_s: float) -> Table:
    """Return what would change the answer."""
    return Table(
        ("WHAT WOULD CHANGE IT", "SITE", "START", ">OFFER $", ">SAVES $"),
        tuple(
            (
                change.message,
                change.site_id,
                # What could start when it was asked for can start now.
                instant(max(change.start_s, now_s), now_s),
                significant(change.offer_usd),
                significant(change.saving_usd),
            )
            for change in plan.changes
        ),
        optional=("START",),
    )


def footnotes(plan: Plan) -> list[str]:
    """Return what one must know to read the figures."""
    price = significant(plan.terms.carbon_price_usd_per_kg)
    notes = [
        f"cost ({plan.terms.scope.value}): {SCOPES[plan.terms.scope]}",
        f"carbon price: {price} $/kg; offers compare by cost + carbon price x carbon",
    ]
    sources = {each.source for each in plan.predictions}
    if PredictionSource.PRIOR in sources:
        notes.append("no predictor answers: run times are reckoned from work and GPU type alone")
    elif PredictionSource.SNAPSHOT in sources:
        notes.append("no predictor answers: run times are as it last told them")
    cold = sorted(
        {
            each.pool_type
            for each in plan.predictions
            if each.is_cold and each.source is not PredictionSource.PRIOR
        }
    )
    if cold:
        notes.append(f"run times are a guess for {', '.join(cold)}: no finished run is known there")
    return notes + scale_notes(plan.scales)


def scale_notes(scales: Scales) -> list[str]:
    """Return how a demo scales the world; nothing where it does not."""
    notes = []
    if scales.speed_ratio != 1:
        notes.append(f"scaled: world time runs {scales.speed_ratio:g} x as fast as the clock")
    if scales.byte_ratio != 1:
        notes.append(f"scaled: a stored byte stands for {scales.byte_ratio:g} bytes of the world")
    return notes


def _run_time(bid: Bid) -> str:
    p50_s, p90_s = bid.p50_finish_s - bid.start_s, bid.p90_finish_s - bid.start_s
    (p50, p90), unit = in_one_unit(p50_s, p90_s, like_s=p90_s)
    return f"{p50} / {p90} {unit}"


def _fetch(bid: Bid) -> str:
    if not bid.fetches:
        return NOTHING
    fetch_bytes = sum(fetch.size_bytes for fetch in bid.fetches)
    sources = dict.fromkeys(fetch.source.site_id for fetch in bid.fetches)
    return f"{gigabytes(fetch_bytes)} GB from {', '.join(sources)}"


def _reason(bid: Bid, plan: Plan) -> str:
    best_usd = min(each.offer_usd for each in plan.bids)
    if bid.site_id != plan.chosen_site_id:
        dearer = f"{significant(bid.offer_usd - best_usd)} $ dearer"
        is_cheapest = bid.offer_usd == best_usd
        words = ["ranked lower" if is_cheapest and bid.residual_usd else dearer]
    elif bid.offer_usd > best_usd:
        words = ["preferred" if not bid.residual_usd else "ranked first by what was learned"]
    else:
        words = [f"lowest offer, {significant(bid.offer_usd)} $"]
    if bid.is_deferred:
        words.append("a later start is greener or cheaper")
    if bid.evictions:
        words.append(f"evicts {len(bid.evictions)}")
    if not bid.is_carbon_known:
        words.append("no carbon signal")
    return "; ".join(words)
