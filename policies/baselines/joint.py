"""Every site offers its exact marginal J; the lowest offer wins (DESIGN section 7 A, E).

`joint` takes the earliest feasible start. `joint-lookahead` may offer a later one, greener or
cheaper, where that pays: it must save at least `DEFER_SAVING` of the earliest start's J and be late
with a probability of at most `DEFER_LATE`.
"""

from collections.abc import Sequence

from policies.interface import Choice, Option, SiteView
from policies.offer import cheapest

DEFER_SAVING = 0.05
DEFER_LATE = 0.01


class JointBidder:
    """Chooses the pool whose earliest start has the lowest J."""

    actor = "joint/1"
    may_start_later = False
    needs_features = False

    def choose(self, options: Sequence[Option], view: SiteView) -> Choice:
        """Choose among `options`, which are never empty."""
        del view
        return Choice(cheapest(options))


class LookaheadBidder:
    """Chooses the option of lowest J, deferring only where that pays."""

    actor = "joint-lookahead/1"
    may_start_later = True
    needs_features = False

    def choose(self, options: Sequence[Option], view: SiteView) -> Choice:
        """Choose among `options`, which are never empty."""
        del view
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
