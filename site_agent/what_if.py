"""What would change the answer to a plan: the nearest limit, copy or deadline that would. Pure.

A change is worth telling if it lets the task run at all, or if it lowers J of the best offer by at
least `WORTH`.
"""

import math
from collections.abc import Sequence

from gcos.accounting import G_PER_KG
from gcos.contract_net import Bid, Change, ChangeKind, Terms
from gcos.tasks import TaskSpec
from site_agent.auction import Judgement

#: Least part of the best offer that a change must save.
WORTH = 0.05
#: How much more time is tried, world seconds.
LATER_S = 24 * 3600.0


def changes(
    spec: TaskSpec,
    judged: Judgement,
    bids: Sequence[Bid],
    terms: Terms,
    *,
    later: Judgement | None = None,
) -> tuple[Change, ...]:
    """Return what would change the answer, the most helpful of each kind.

    Args:
        spec: The task.
        judged: Its offers, ranked.
        bids: All offers, those over a limit included.
        terms: How offers are compared.
        later: The offers with `LATER_S` more time, counted from now where there is no deadline.
    """
    best = judged.ranked[0] if judged.ranked else None
    within = {bid.site_id for bid in judged.ranked}
    over = [bid for bid in bids if bid.site_id not in within]
    found = [
        _raised_limit(spec, over, best),
        _copy(judged.ranked, terms),
        None if later is None else _deadline(spec, later, best),
    ]
    return tuple(change for change in found if change is not None)


def _saving_usd(offer_usd: float, best: Bid | None) -> float | None:
    """Return what an offer saves against the best one; None where it is not worth telling."""
    if best is None:
        return 0.0
    saving = best.offer_usd - offer_usd
    return saving if saving > WORTH * abs(best.offer_usd) else None


def _raised_limit(spec: TaskSpec, over: Sequence[Bid], best: Bid | None) -> Change | None:
    """The smallest raise of the limits that would let a better offer in."""
    options = []
    for bid in over:
        saving = _saving_usd(bid.offer_usd, best)
        if saving is None:
            continue
        raises = []
        if spec.max_cost_usd is not None and bid.p90_cost_usd > spec.max_cost_usd:
            raises.append(f"max_cost_usd: {_enough(bid.p90_cost_usd)}")
        if spec.max_carbon_gco2 is not None and bid.p90_carbon_gco2 > spec.max_carbon_gco2:
            raises.append(f"max_carbon_g: {_enough(bid.p90_carbon_gco2)}")
        if raises:
            message = f"{' and '.join(raises)} would admit {bid.site_id}"
            options.append((bid.offer_usd, bid, saving, message))
    if not options:
        return None
    _, bid, saving, message = min(options, key=lambda option: (option[0], option[1].site_id))
    return Change(ChangeKind.LIMIT, message, bid.site_id, bid.start_s, bid.offer_usd, saving)


def _enough(value: float) -> str:
    """Return `value` rounded up to three digits, so that a limit of that much admits it."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2) if value > 0 else 1.0
    return f"{math.ceil(value / step) * step:.3g}"


def _copy(ranked: Sequence[Bid], terms: Terms) -> Change | None:
    """The copies that would make another site the best one."""
    options = []
    for bid in ranked[1:]:
        transfers = sum(
            fetch.cost_usd + terms.carbon_price_usd_per_kg * fetch.carbon_gco2 / G_PER_KG
            for fetch in bid.fetches
        )
        offer_usd = bid.offer_usd - transfers
        saving = _saving_usd(offer_usd, ranked[0])
        if bid.fetches and saving is not None:
            options.append((offer_usd, bid, saving))
    if not options:
        return None
    offer_usd, bid, saving = min(options, key=lambda option: (option[0], option[1].site_id))
    names = " and ".join(fetch.name for fetch in bid.fetches)
    message = f"a copy of {names} at {bid.site_id} would make it the best"
    return Change(ChangeKind.COPY, message, bid.site_id, bid.start_s, offer_usd, saving)


def _deadline(spec: TaskSpec, later: Judgement, best: Bid | None) -> Change | None:
    """More time, where it lets a better offer in."""
    if not later.ranked:
        return None
    bid = later.ranked[0]
    saving = _saving_usd(bid.offer_usd, best)
    if saving is None:
        return None
    hours = LATER_S / 3600
    if spec.deadline_s is None:
        message = f"deadline: {hours:g}h would let {bid.site_id} wait for a better hour"
    else:
        message = f"a deadline {hours:g} h later would let {bid.site_id} run it at less cost"
    return Change(ChangeKind.DEADLINE, message, bid.site_id, bid.start_s, bid.offer_usd, saving)
