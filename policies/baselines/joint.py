"""`joint`: every site offers its exact marginal J; the lowest offer wins (DESIGN section 7 A, E).

A start later than need be is offered only where it pays: it must save at least `DEFER_SAVING` of
the earliest start's J and be late with a probability of at most `DEFER_LATE`. At load 0.5 deferral
gave nothing and cost misses in trials, hence the price.
"""

from collections.abc import Sequence

from policies.interface import Choice, Option
from policies.offer import cheapest

DEFER_SAVING = 0.05
DEFER_LATE = 0.01


class JointBidder:
    """Chooses the option of lowest J, deferring only where that pays."""

    actor = "joint/1"

    def choose(self, options: Sequence[Option]) -> Choice:
        """Choose among `options`, which are never empty."""
        now = [option for option in options if option.is_earliest]
        best_now = now[cheapest(now)]
        worth = best_now.offer_usd - DEFER_SAVING * abs(best_now.offer_usd)
        kept = [
            option
            for option in options
            if option.is_earliest
            or (option.offer_usd <= worth and option.late_probability <= DEFER_LATE)
        ]
        return Choice(options.index(kept[cheapest(kept)]))
