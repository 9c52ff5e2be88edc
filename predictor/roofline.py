"""Fits the coefficients of `gcos.roofline` to measured runs. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SWEEP_COUNT = 2000


def fitted_coefficients(
    terms: Sequence[Sequence[float]],
    seconds: Sequence[float],
    weights: Sequence[float] | None = None,
) -> Floats:
    """Return a coefficient of at least 0 for each term, of least squared relative error.

    Non-negative least squares (Lawson and Hanson 1974, ch. 23), solved by coordinate descent
    (Franc et al. 2005, algorithm 1), which needs no library.

    Args:
        terms: Terms by run.
        seconds: How long each run took.
        weights: How often each run counts; None: all once.
    """
    counts = np.ones(len(terms)) if weights is None else np.asarray(weights)
    relative = np.array(terms) / np.asarray(seconds)[:, None]
    matrix = (relative * counts[:, None]).T @ relative
    target = counts @ relative
    scale = np.where(np.diag(matrix) > 0, np.diag(matrix), 1.0)
    coefficients = np.zeros(len(target))
    for _ in range(SWEEP_COUNT):
        for place in range(len(coefficients)):
            slope = matrix[place] @ coefficients - target[place]
            coefficients[place] = max(coefficients[place] - slope / scale[place], 0.0)
    return coefficients
