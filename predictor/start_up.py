"""How long runs take before they work, learned across all kinds and models. Pure.

No single run tells its start-up from its work: whoever takes ten times its roofline may be slow, or
late to begin. Runs of different sizes tell: where times lie closer together than rooflines do, what
they share is a start-up. Each model has one vote, its newest run, with

    ln t = ln(S + roofline) + b + e,    b ~ N(0, s^2) of all models,    e ~ N(0, s^2) of each

s^2 is half the prior's variance each, so that a site where all is slower by the same factor is just
that: `b` explains it. ln S has a wide prior (Laplace) around `START_UP_S`. `b` is integrated out in
closed form, and S on a grid; told is exp of the mean of ln S.
"""

import math

import numpy as np
from numpy.typing import NDArray

from gcos.run_time_prior import PRIOR_SIGMA, START_UP_S

Floats = NDArray[np.float64]

#: Scale of the prior of ln S: half of all start-ups are within a factor of 4 of the assumed one,
#: one in twenty is 400 times as long or as short (assumed: warm processes to cold containers).
PRIOR_SCALE = 2.0
#: Start-ups that are thought of: a second to four hours.
LONGEST_S = 14_400.0
#: Newest votes used.
VOTE_COUNT_MAX = 64
#: Farthest that a vote is off: what lies beyond says something of that model, not of the next.
VOTE_MAX = 3 * PRIOR_SIGMA

_LN_S: Floats = np.linspace(0.0, math.log(LONGEST_S), 49)
_S: Floats = np.exp(_LN_S)[:, None]
_LN_PRIOR: Floats = -np.abs(_LN_S - math.log(START_UP_S)) / PRIOR_SCALE
_VARIANCE = PRIOR_SIGMA**2 / 2


def start_up_s(residuals: Floats, ln_references: Floats) -> float:
    """Return the seconds that runs take before they work, at speed ratio 1.

    Args:
        residuals: ln t minus ln of the roofline by model, in the order of their ends, (n,).
        ln_references: ln of that roofline, (n,).
    """
    newest = slice(-VOTE_COUNT_MAX, None)
    errors = _errors(residuals[newest], ln_references[newest], _S)
    # However odd, a short run speaks against a start-up that is longer.
    np.minimum(errors, VOTE_MAX, out=errors)
    # Of a covariance s^2 (I + 1 1'): its inverse is (I - 1 1' / (1 + n)) / s^2.
    squares = (errors * errors).sum(axis=1) - errors.sum(axis=1) ** 2 / (1 + errors.shape[1])
    ln_posterior = _LN_PRIOR - squares / (2 * _VARIANCE)
    posterior = np.exp(ln_posterior - ln_posterior.max())
    return math.exp(float(posterior @ _LN_S / posterior.sum()))


def votes(residuals: Floats, ln_references: Floats, seconds: float) -> Floats:
    """Return residuals as counted from a start-up of `seconds` and the roofline together."""
    return _errors(residuals, ln_references, seconds).clip(-VOTE_MAX, VOTE_MAX)


def _errors(residuals: Floats, ln_references: Floats, seconds: float | Floats) -> Floats:
    """Return ln t minus ln(`seconds` + roofline)."""
    errors: Floats = residuals - np.log1p(seconds * np.exp(-ln_references))
    return errors
