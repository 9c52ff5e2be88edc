"""What an announcement brought, and what the origin makes of it. Pure.

Offers are compared by score and then by J where all come from the same actor, by J alone otherwise
(`judge`); the task's hard limits hold on the p90 of a bid.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from gcos.accounting import LatePenalty
from gcos.contract_net import ArtifactNeed, Bid, Refusal
from gcos.durations import Prediction
from gcos.ids import SiteId
from gcos.next_steps import next_step
from gcos.tasks import Reason, TaskSpec

#: Offers this close to the best count as equal to it where the task prefers a site.
PREFER_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Auction:
    """What an announcement brought.

    Attributes:
        predictions: Run time by pool type.
        needs: Artifacts with their present holders.
        bids: Offers.
        refusals: Sites that did not offer, nominated or not.
        is_complete: Every site that is known was asked or named unfit; False where one was silent.
        zones: Electricity zone of each site that is known.
    """

    predictions: tuple[Prediction, ...]
    needs: tuple[ArtifactNeed, ...]
    bids: tuple[Bid, ...]
    refusals: tuple[Refusal, ...]
    is_complete: bool
    zones: Mapping[SiteId, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Offers in order, and those that do not count.

    Attributes:
        ranked: Offers within the limits, best first.
        refusals: All others, with why and the next step.
    """

    ranked: tuple[Bid, ...]
    refusals: tuple[Refusal, ...]


def late_penalty(gpu_hours: float) -> LatePenalty:
    """Return what being late costs a task of `gpu_hours` predicted GPU hours.

    0.5 + 0.5 GPU hours at once and 0.25 GPU hours for each hour late, for at most 4 hours: the
    penalty of the published default scenario (`[workload] penalty_usd`, `late_cap_h`).
    """
    return LatePenalty(fixed_usd=0.5 + 0.5 * gpu_hours, per_h_usd=0.25 * gpu_hours, cap_h=4.0)


def judge(spec: TaskSpec, auction: Auction) -> Judgement:
    """Apply the task's hard limits and rank what is left.

    Offers are compared by score and then by J where all come from the same actor, by J alone
    otherwise (DESIGN section 4, step 4). A preferred site wins among equal offers.
    """
    refused = [
        each if each.hint else replace(each, hint=next_step(each.reason))
        for each in auction.refusals
    ]
    kept: list[Bid] = []
    for bid in auction.bids:
        problem = _over_limit(spec, bid)
        if problem is None:
            kept.append(bid)
        else:
            refused.append(problem)
    is_one_actor = len({bid.actor for bid in kept}) <= 1
    ranked = sorted(
        kept,
        key=lambda bid: (bid.score_ratio if is_one_actor else 0.0, bid.offer_usd, bid.site_id),
    )
    if ranked and spec.placement.prefer:
        best = ranked[0]
        limit = best.offer_usd + PREFER_TOLERANCE * abs(best.offer_usd)
        wanted = set(spec.placement.prefer)
        preferred = [
            bid
            for bid in ranked
            if bid.offer_usd <= limit and {bid.site_id, auction.zones.get(bid.site_id)} & wanted
        ]
        if preferred:
            ranked.remove(preferred[0])
            ranked.insert(0, preferred[0])
    return Judgement(tuple(ranked), tuple(refused))


def _over_limit(spec: TaskSpec, bid: Bid) -> Refusal | None:
    if spec.max_cost_usd is not None and bid.p90_cost_usd > spec.max_cost_usd:
        return Refusal(
            site_id=bid.site_id,
            reason=Reason.OVER_COST_LIMIT,
            message=f"would cost up to ${bid.p90_cost_usd:.4g}, over ${spec.max_cost_usd:.4g}",
            hint=next_step(Reason.OVER_COST_LIMIT),
        )
    if spec.max_carbon_gco2 is not None:
        if not bid.is_carbon_known:
            return Refusal(
                site_id=bid.site_id,
                reason=Reason.STALE_SIGNAL,
                message="its carbon signal is missing or stale, so the limit cannot be kept",
                hint=next_step(Reason.STALE_SIGNAL),
            )
        if bid.p90_carbon_gco2 > spec.max_carbon_gco2:
            return Refusal(
                site_id=bid.site_id,
                reason=Reason.OVER_CARBON_LIMIT,
                message=(
                    f"would emit up to {bid.p90_carbon_gco2:.4g} g,"
                    f" over {spec.max_carbon_gco2:.4g} g"
                ),
                hint=next_step(Reason.OVER_CARBON_LIMIT),
            )
    return None


def nearest_offer(auction: Auction, over: Iterable[Reason]) -> str:
    """Return which offer is nearest to the limits, as the beginning of a sentence."""
    if not auction.bids or not set(over):
        return ""
    by_cost = Reason.OVER_COST_LIMIT in set(over)
    nearest = min(
        auction.bids,
        key=lambda bid: (bid.p90_cost_usd if by_cost else bid.p90_carbon_gco2, bid.site_id),
    )
    return (
        f"nearest offer: {nearest.site_id}, up to {nearest.p90_cost_usd:.4g} $"
        f" and {nearest.p90_carbon_gco2:.4g} g; "
    )
