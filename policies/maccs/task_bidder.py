"""The residual task actor at one site: exact offers, corrected by what was learned. Pure.

    score(x) = -J(x) / (TAU x reference) + scale x f(x),    the highest score wins

J is the offer of `policies.offer`, the reference that of `policies.features.reference_usd`, x the
24 features of one candidate, and f a network whose weights are the same at all sites (DESIGN
section 7 G). A site scores its own options alone, so f is the same function of a candidate however
many others there are, and in whatever order they come. With f = 0 every task goes where `joint`
sends it.

On the wire a score is turned round, as the lowest wins there: `score_ratio` = -score, and
`residual_usd` = -scale x f x TAU x reference is how much dearer than J the candidate is ranked. The
offer itself, and so every charge, stays the exact marginal J.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from policies.interface import Choice, Option, SiteView
from policies.offer import cheapest
from policies.options import OFFER, lowest, numbers_of

#: An f of 1 weighs as much as a tenth of the reference.
TAU: Final = 0.1
#: |f| is below this: what was learned moves an offer by a fifth of the reference at most.
RESIDUAL_MAX: Final = 2.0

Residual: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.floating]]
"""f: features of candidates, (n, 24), to residuals, (n,)."""


class ResidualBidder:
    """Chooses the option of the highest score.

    Args:
        residual: f.
        scale: Weight that the ship gate gave to f; 0: the offers alone decide.
        version: Of the weights; offers of different ones are compared without scores.
    """

    may_start_later = False
    needs_features = True

    def __init__(self, residual: Residual, *, scale: float, version: str) -> None:
        self.actor = f"joint+{version}"
        self._residual = residual
        self._scale = scale

    def choose(self, options: Sequence[Option], view: SiteView) -> Choice:
        """Choose among `options`, which are never empty."""
        seen = view.seen
        if seen is None:
            return Choice(cheapest(options))  # the same at all sites: J decides between them
        unit_usd = TAU * seen.reference_usd
        numbers = numbers_of(options)
        scores = numbers[:, OFFER] / unit_usd
        if seen.features is None:
            index = lowest(scores, numbers)
            return Choice(index, float(scores[index]))
        residuals = self._scale * np.asarray(self._residual(seen.features), dtype=np.float64)
        scores -= residuals
        index = lowest(scores, numbers)
        # Not -0.0 where nothing was learned: it would be told so.
        residual_usd = 0.0 - float(residuals[index]) * unit_usd
        return Choice(index, float(scores[index]), residual_usd)
