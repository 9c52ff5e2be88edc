"""What would change the answer to a plan: the nearest limit, copy or deadline that would. Pure.

A change is worth telling if it lets the task run at all, if another site, copy or start would lower
J of the best offer by at least `WORTH`, or if the deadline would probably be met.
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
#: A deadline that is missed with less than this probability counts as met.
LATE_PROBABILITY_MAX = 0.1
#: Starts closer together than this are the same to a person, world seconds.
SAME_START_S = 600.0
#: Announcements that looking for the nearest deadline may take.
PROBE_COUNT_MAX = 12
#: No deadline further from the given one is tried, world seconds.
LATER_S_MAX = 30 * 86400.0
#: Deadlines that are tried: up to how long from now, and in steps of what, world seconds.
_STEPS = ((2 * 3600.0, 300.0), (12 * 3600.0, 900.0), (math.inf, 3600.0))


def changes(
    spec: TaskSpec,
    judged: Judgement,
    bids: Sequence[Bid],
    terms: Terms,
    *,
    deadline: Change | None = None,
) -> tuple[Change, ...]:
    """Return what would change the answer, the most helpful of each kind.

    Args:
        spec: The task.
        judged: Its offers, ranked.
        bids: All offers, those over a limit included.
        terms: How offers are compared.
        deadline: The nearest deadline that would, by `DeadlineSearch`.
    """
    best = judged.ranked[0] if judged.ranked else None
    within = {bid.site_id for bid in judged.ranked}
    over = [bid for bid in bids if bid.site_id not in within]
    found = [
        _raised_limit(spec, over, best),
        _copy(judged.ranked, terms),
        deadline,
    ]
    return tuple(change for change in found if change is not None)


class DeadlineSearch:
    """Finds the nearest deadline that would change the answer, by halving.

    The caller announces the task with the deadline `probe_s`, hands the offers to `answered`, and
    goes on until `probe_s` is None. More time only adds starts to choose from, so what helps at
    one deadline helps at a later one, too. What is found was offered for that very deadline.
    """

    def __init__(self, spec: TaskSpec, judged: Judgement, *, now_s: float) -> None:
        self._now_s = now_s
        self._best = judged.ranked[0] if judged.ranked else None
        given_s = 0.0 if spec.deadline_s is None else spec.deadline_s - now_s
        most_s = given_s + LATER_S
        if self._best is not None:
            most_s = max(most_s, self._best.p90_finish_s - now_s)
        most_s = min(most_s, given_s + LATER_S_MAX)
        #: Lengths from now that may be told, ascending; what helps lies in [low, high].
        self._lengths_s = _lengths_s(given_s, most_s)
        self._low, self._high = 0, len(self._lengths_s) - 1
        self._found: tuple[float, Bid] | None = None
        self._probe_count = 0

    @property
    def probe_s(self) -> float | None:
        """The deadline to announce next, a world instant; None: the search is over."""
        if self._probe_count >= PROBE_COUNT_MAX or self._low > self._high:
            return None
        return self._now_s + self._lengths_s[self._probed]

    def answered(self, judged: Judgement) -> None:
        """Take the offers for `probe_s`, ranked."""
        bid = judged.ranked[0] if judged.ranked else None
        probed = self._probed
        self._probe_count += 1
        if bid is not None and self._is_better(bid):
            self._found = (self._lengths_s[probed], bid)
            self._high = probed - 1
        elif self._found is None:
            self._low = self._high + 1  # not even the most time helps
        else:
            self._low = probed + 1

    @property
    def found(self) -> Change | None:
        """The change to tell; None where no deadline helps."""
        if self._found is None:
            return None
        length_s, bid = self._found
        message = f"deadline: {_written(length_s)} {self._effect(bid)}"
        saving_usd = 0.0 if self._best is None else self._best.offer_usd - bid.offer_usd
        return Change(
            ChangeKind.DEADLINE, message, bid.site_id, bid.start_s, bid.offer_usd, saving_usd
        )

    @property
    def _probed(self) -> int:
        # The most time first: mostly it does not help, and nothing else need be asked.
        return self._high if self._found is None else (self._low + self._high) // 2

    def _is_better(self, bid: Bid) -> bool:
        if self._is_met_at_last(bid) or self._best is None:
            return True
        is_same = (bid.site_id, bid.pool_type) == (self._best.site_id, self._best.pool_type)
        is_elsewhere = not is_same or abs(bid.start_s - self._best.start_s) >= SAME_START_S
        return is_elsewhere and _saving_usd(bid.offer_usd, self._best) is not None

    def _is_met_at_last(self, bid: Bid) -> bool:
        before = 0.0 if self._best is None else self._best.late_probability
        return before >= LATE_PROBABILITY_MAX > bid.late_probability

    def _effect(self, bid: Bid) -> str:
        if self._best is None:
            return f"would let {bid.site_id} run it within the limits"
        if self._is_met_at_last(bid):
            return f"would be met at {bid.site_id} with {100 * (1 - bid.late_probability):.0f} %"
        if bid.is_deferred:
            return f"would let {bid.site_id} wait for a better hour"
        return f"would let {bid.site_id} run it at less cost"


def _lengths_s(least_s: float, most_s: float) -> list[float]:
    """Return lengths in sensible steps: more than `least_s`, up to the first from `most_s` on."""
    lengths: list[float] = []
    length_s = 0.0
    for until_s, step_s in _STEPS:
        while length_s < min(until_s, most_s):
            length_s += step_s
            if length_s > least_s:
                lengths.append(length_s)
    return lengths


def _written(length_s: float) -> str:
    """Return a length as documents write it, such as `14h` or `95m`."""
    return f"{length_s / 3600:g}h" if length_s % 3600 == 0 else f"{length_s / 60:g}m"


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
        raises: list[str] = []
        ratios: list[float] = []
        if spec.max_cost_usd is not None and bid.p90_cost_usd > spec.max_cost_usd:
            raises.append(f"max_cost_usd: {_enough(bid.p90_cost_usd)}")
            ratios.append(_ratio(bid.p90_cost_usd, spec.max_cost_usd))
        if spec.max_carbon_gco2 is not None and bid.p90_carbon_gco2 > spec.max_carbon_gco2:
            raises.append(f"max_carbon_g: {_enough(bid.p90_carbon_gco2)}")
            ratios.append(_ratio(bid.p90_carbon_gco2, spec.max_carbon_gco2))
        if raises:
            message = f"{' and '.join(raises)} would admit {bid.site_id}"
            options.append((max(ratios), bid, saving, message))
    if not options:
        return None
    _, bid, saving, message = min(
        options, key=lambda option: (option[0], option[1].offer_usd, option[1].site_id)
    )
    return Change(ChangeKind.LIMIT, message, bid.site_id, bid.start_s, bid.offer_usd, saving)


def _ratio(needed: float, limit: float) -> float:
    return needed / limit if limit > 0 else math.inf


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
