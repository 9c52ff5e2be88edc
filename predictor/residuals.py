"""What finished runs of one context say: their newest residuals, as a smoothed histogram. Pure.

A residual is ln(run time) minus ln(reference time).
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gcos.ids import RunId
from predictor.start_up import votes

Floats = NDArray[np.float64]
#: Order of observations: instant of the end, then run id.
Key = tuple[float, RunId]

#: Residuals from exp(-16) to exp(16) times the reference, in bins of 6 % each. All contexts share
#: the grid, so that they mix without rebinning; it is finer than the noise of repeated runs.
RESIDUAL_MAX = 16.0
BINS_PER_UNIT = 16
BIN_COUNT = round(2 * RESIDUAL_MAX * BINS_PER_UNIT)
EDGES: Floats = np.linspace(-RESIDUAL_MAX, RESIDUAL_MAX, BIN_COUNT + 1)

#: Spread within a context before its runs show their own, and how many runs that belief weighs
#: (assumed; one run must not look like a certainty).
SPREAD_SIGMA = 0.4
SPREAD_COUNT = 2.0


@dataclass(frozen=True, slots=True)
class Summary:
    """Residuals of one context at speed ratio 1: smoothed mass by bin, their sum, their median."""

    density: Floats
    mass: float
    median: float


@dataclass(slots=True)
class Residuals:
    """The newest residuals of one context, in order, one for each voter.

    Attributes:
        weights: (window,), weight by age, the newest last; its length bounds the residuals.
        keys: In order; voters, residuals and pool codes lie beside them.
    """

    weights: Floats
    keys: list[Key] = field(default_factory=list)
    voters: list[str] = field(default_factory=list)
    _values: Floats = field(default_factory=lambda: np.empty(4))
    _ln_references: Floats = field(default_factory=lambda: np.empty(4))
    _pool_codes: NDArray[np.intp] = field(default_factory=lambda: np.empty(4, dtype=np.intp))
    #: None after a change.
    _summary: Summary | None = None
    _generation: int = -1
    _start_up_s: float | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def add(
        self, key: Key, voter: str, residual: float, pool_code: int, ln_reference: float
    ) -> None:
        """Insert a residual at its place, unless its voter has a newer one."""
        # A run votes for itself once; only a vote for a model can replace an older one.
        if voter != key[1] and voter in self.voters:
            place = self.voters.index(voter)
            if key < self.keys[place]:
                return
            self._remove_at(place)
        place = bisect_left(self.keys, key)
        count = len(self.keys)
        if count == len(self._values):
            self._values = np.concatenate((self._values, np.empty(count)))
            self._ln_references = np.concatenate((self._ln_references, np.empty(count)))
            self._pool_codes = np.concatenate((self._pool_codes, np.empty(count, dtype=np.intp)))
        for array, value in (
            (self._values, residual),
            (self._ln_references, ln_reference),
            (self._pool_codes, pool_code),
        ):
            array[place + 1 : count + 1] = array[place:count]
            array[place] = value
        self.keys.insert(place, key)
        self.voters.insert(place, voter)
        self._summary = None
        if len(self.keys) > len(self.weights):
            self._remove_at(0)

    def remove(self, key: Key) -> None:
        """Remove the residual of a run, if it is here."""
        place = bisect_left(self.keys, key)
        if place < len(self.keys) and self.keys[place] == key:
            self._remove_at(place)

    def summary(
        self, ln_speed_ratios: Floats, generation: int, start_up_s: float | None = None
    ) -> Summary:
        """Return density, mass and median at speed ratio 1.

        Args:
            ln_speed_ratios: ln of the declared ratio, by pool code.
            generation: Another number whenever a ratio is another.
            start_up_s: Residuals are taken as `votes`, from this start-up; None: as they are.
        """
        is_same = self._generation == generation and self._start_up_s == start_up_s
        if self._summary is None or not is_same:
            residuals, ln_references = self.at_speed_one(ln_speed_ratios)
            if start_up_s is not None:
                residuals = votes(residuals, ln_references, start_up_s)
            self._summary = _summarize(residuals, self.weights[-len(residuals) :])
            self._generation, self._start_up_s = generation, start_up_s
        return self._summary

    def at_speed_one(self, ln_speed_ratios: Floats) -> tuple[Floats, Floats]:
        """Return residuals at speed ratio 1 and ln of their references, (n,) each, in order."""
        count = len(self.keys)
        residuals = self._values[:count] + ln_speed_ratios[self._pool_codes[:count]]
        return residuals, self._ln_references[:count]

    def check_invariants(self) -> None:
        """Assert order, distinct voters and the bound."""
        assert 0 < len(self.keys) == len(self.voters) <= len(self.weights)
        assert self.keys == sorted(self.keys)
        assert len(set(self.voters)) == len(self.voters)

    def _remove_at(self, place: int) -> None:
        count = len(self.keys)
        for array in (self._values, self._ln_references, self._pool_codes):
            array[place : count - 1] = array[place + 1 : count]
        del self.keys[place], self.voters[place]
        self._summary = None


def _summarize(residuals: Floats, weights: Floats) -> Summary:
    """Return the smoothed histogram of `residuals`, (n,), with `weights`, (n,), n > 0.

    The bandwidth is Silverman's robust rule, 0.9 min(sd, IQR / 1.34) n^(-1/5) (Density Estimation,
    1986, eq. 3.31), with IQR / 1.34 alone, shrunk as a variance towards `SPREAD_SIGMA`.
    """
    places = ((residuals + RESIDUAL_MAX) * BINS_PER_UNIT).astype(np.intp)
    np.maximum(places, 0, out=places)
    np.minimum(places, BIN_COUNT - 1, out=places)
    masses: Floats = np.bincount(places, weights, BIN_COUNT).astype(np.float64, copy=False)
    cumulative = masses.cumsum()
    mass = float(cumulative[-1])
    low, median, high = np.interp(_QUARTILES * mass, cumulative, EDGES[1:]).tolist()
    variance = ((high - low) / 1.34) ** 2
    sigma = math.sqrt((SPREAD_COUNT * SPREAD_SIGMA**2 + mass * variance) / (SPREAD_COUNT + mass))
    density = smoothed(masses, 0.9 * sigma * mass**-0.2, mass=mass)
    return Summary(density=density, mass=mass, median=median)


def smoothed(masses: Floats, sigma: float, *, mass: float) -> Floats:
    """Return `masses`, (BIN_COUNT,), convolved with a Gaussian; their sum `mass` is kept."""
    step = round(math.log(sigma / _KERNEL_SIGMA_MIN) / math.log(_KERNEL_SIGMA_RATIO))
    kernel = _KERNELS[min(max(step, 0), len(_KERNELS) - 1)]
    smooth: Floats = np.convolve(masses, kernel, "same")
    smooth *= mass / smooth.sum()  # what fell off the borders
    return smooth


def moved(density: Floats, by: float) -> Floats:
    """Return `density`, (BIN_COUNT,), moved up by `by`; what leaves the grid stays at its border.

    Mass is spread evenly within a bin, so that the mean moves by exactly `by`.
    """
    cumulative = np.concatenate(([0.0], np.cumsum(density)))
    at_edges = np.interp(EDGES - by, EDGES, cumulative)
    at_edges[0], at_edges[-1] = 0.0, cumulative[-1]
    masses: Floats = np.diff(at_edges)
    return masses


def median_of(density: Floats) -> float:
    """Return the median of `density`, (BIN_COUNT,)."""
    cumulative = np.cumsum(density)
    return float(np.interp(0.5 * cumulative[-1], cumulative, EDGES[1:]))


def _gaussian_kernel(sigma: float) -> Floats:
    """Return a normalised Gaussian of `sigma`, a residual, on the grid, three sigmas either way."""
    reach = math.ceil(3 * sigma * BINS_PER_UNIT)
    kernel: Floats = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (sigma * BINS_PER_UNIT)) ** 2)
    kernel /= kernel.sum()
    return kernel


_QUARTILES: Floats = np.array([0.25, 0.5, 0.75])
#: Smoothing widths are rounded to a tenth, so that the kernels are made once: 0.03 to 1.5.
_KERNEL_SIGMA_MIN = 0.03
_KERNEL_SIGMA_RATIO = 1.1
_KERNELS: tuple[Floats, ...] = tuple(
    _gaussian_kernel(_KERNEL_SIGMA_MIN * _KERNEL_SIGMA_RATIO**step) for step in range(42)
)
