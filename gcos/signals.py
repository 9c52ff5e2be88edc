"""Prices and carbon intensity as step functions of time, and where they come from. Pure.

Units everywhere: carbon gCO2/kWh, price $/kWh, time float seconds since the epoch (UTC). Providers
publish hourly values that hold for their hour, so a step function is the signal itself and not an
approximation of it; integrals over it are exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gcos.errors import InvalidRequestError

HOUR_S: Final = 3600.0
MONTHS: Final = 12
HOURS_A_DAY: Final = 24

#: Longest window that is spread into hours: eleven years, 770 kB a signal.
WINDOW_HOURS_MAX: Final = 11 * 366 * HOURS_A_DAY

CARBON_UNIT: Final = "gCO2/kWh"
PRICE_UNIT: Final = "USD/kWh"


@dataclass(frozen=True, slots=True, eq=False)
class StepSeries:
    """A step function of time.

    Value i holds on [start_s + i * step_s, start_s + (i + 1) * step_s). The first value also holds
    before the start and the last one past the end (DESIGN section 10).

    Attributes:
        start_s: Begin of the first step, seconds since the epoch.
        step_s: Length of a step, seconds, above 0.
        values: (n,) float64, n >= 1, finite, read-only; negative values are legal prices.

    Raises:
        InvalidRequestError: empty, not one-dimensional, NaN or infinite values; a bad step.
    """

    start_s: float
    step_s: float
    values: NDArray[np.float64]
    #: (n + 1,): entry i is the integral over the first i steps.
    _prefix: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not (np.isfinite(self.start_s) and np.isfinite(self.step_s) and self.step_s > 0):
            raise InvalidRequestError("start must be finite and step above 0 s", field="step_s")
        values = np.array(self.values, dtype=np.float64)  # a copy: the caller keeps its own
        if values.ndim != 1 or values.size == 0:
            raise InvalidRequestError("a series needs at least one value", field="values")
        finite = np.isfinite(values)
        if not finite.all():
            raise InvalidRequestError(
                f"value {int(np.argmin(finite))} of the series is NaN or infinite", field="values"
            )
        values.setflags(write=False)
        prefix = np.concatenate(([0.0], np.cumsum(values) * self.step_s))
        prefix.setflags(write=False)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "_prefix", prefix)

    @classmethod
    def constant(cls, value: float) -> "StepSeries":
        """Return the series that is `value` at all times."""
        return cls(0.0, HOUR_S, np.array([value], dtype=np.float64))

    @property
    def end_s(self) -> float:
        """End of the last step, seconds since the epoch."""
        return self.start_s + self.step_s * len(self.values)

    def at(self, t_s: float) -> float:
        """Return the value at `t_s`."""
        return float(self.values[self._step(t_s)])

    def antiderivative(self, t_s: ArrayLike) -> NDArray[np.float64]:
        """Return the exact integral from `start_s` to each `t_s`, unit of the value times seconds.

        Negative before the start where values are positive. Same shape as `t_s`. Differences of
        it lose digits far from the start: `integrals` does not.
        """
        t = np.asarray(t_s, dtype=np.float64)
        step = self.steps(np.asarray((t - self.start_s) / self.step_s))
        inside_s = (t - self.start_s) - step * self.step_s
        return np.asarray(self._prefix[step] + self.values[step] * inside_s, dtype=np.float64)

    def shares_steps(self, other: "StepSeries") -> bool:
        """Tell whether both step at the same instants."""
        return (
            self.start_s == other.start_s
            and self.step_s == other.step_s
            and len(self.values) == len(other.values)
        )

    def gather(
        self,
        steps: NDArray[np.int64],
        *,
        values: NDArray[np.float64],
        prefix: NDArray[np.float64],
    ) -> None:
        """Write the values of `steps` and the integrals before them into two arrays like it."""
        # Clipped, which changes no step, as numpy would otherwise fill a copy first.
        self.values.take(steps, out=values, mode="clip")
        self._prefix.take(steps, out=prefix, mode="clip")

    def integral(self, t0_s: float, t1_s: float) -> float:
        """Return the exact integral over [t0_s, t1_s], unit of the value times seconds.

        Swapping the bounds changes the sign. Error is a few ulp of the larger of the result and
        the sum over the series, however far the interval lies from the start. The scalar twin of
        `run_integrals`: 0.6 µs a call against 20 µs of array overhead.
        """
        first, last = self._step(t0_s), self._step(t1_s)
        if first == last:
            return float(self.values[first]) * (t1_s - t0_s)
        return (
            float(self.values[last]) * ((t1_s - self.start_s) - last * self.step_s)
            - float(self.values[first]) * ((t0_s - self.start_s) - first * self.step_s)
            + float(self._prefix[last] - self._prefix[first])
        )

    def mean(self, t0_s: float, t1_s: float) -> float:
        """Return the mean over [t0_s, t1_s]; the value at t0_s where both are equal."""
        if t1_s == t0_s:
            return self.at(t0_s)
        return self.integral(t0_s, t1_s) / (t1_s - t0_s)

    def _step(self, t_s: float) -> int:
        """Return the index of the step that holds at `t_s`."""
        raw = (t_s - self.start_s) / self.step_s
        if raw <= 0:
            return 0
        return len(self.values) - 1 if raw >= len(self.values) else int(raw)

    def steps(self, after: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the index of the step that holds so many steps `after` the start.

        It is left in `after`, too, as whole numbers.
        """
        # Clipped as floats: an infinite time is then the first or the last step, not a bad cast.
        np.maximum(after, 0.0, out=after)
        np.minimum(after, len(self.values) - 1.0, out=after)
        np.floor(after, out=after)
        return after.astype(np.int64)


def run_integrals(
    several: Sequence[StepSeries],
    starts_s: NDArray[np.float64],
    durations_s: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return exact integrals over [start, start + duration], (n, k, q), value times seconds.

    Bit by bit those of `StepSeries.integral`. Few calls of numpy on one array of all bounds: an
    agent that has rested pays for each call, not for what it computes.

    Args:
        several: (n,) series, at least one, that share their steps.
        starts_s: (k,).
        durations_s: (q,).
    """
    steps_of = several[0]
    # Bounds of all windows, (k, 1 + q): the starts first.
    bounds = np.empty((len(starts_s), 1 + len(durations_s)))
    bounds[:, 0] = starts_s
    np.add(starts_s[:, np.newaxis], durations_s, out=bounds[:, 1:])
    inside_s = bounds - steps_of.start_s
    begins_s = inside_s / steps_of.step_s
    steps = steps_of.steps(begins_s)
    begins_s *= steps_of.step_s
    inside_s -= begins_s
    values, prefix = np.empty((2, len(several), *bounds.shape))
    for series, of_values, of_prefix in zip(several, values, prefix, strict=True):
        series.gather(steps, values=of_values, prefix=of_prefix)
    # Part of the last step minus part of the first plus the whole steps from first to last. Inside
    # one step that would subtract two large products, so it is taken directly.
    parts = values * inside_s
    across = parts[..., 1:] - parts[..., :1]
    across += prefix[..., 1:] - prefix[..., :1]
    within = values[..., :1] * (bounds[:, 1:] - bounds[:, :1])
    np.copyto(across, within, where=steps[:, 1:] == steps[:, :1])
    return across


def hour_window(start_s: float, end_s: float) -> tuple[int, int]:
    """Return the UTC hours [first, last) since the epoch that cover [start_s, end_s]; at least one.

    Raises:
        InvalidRequestError: the window is not finite, ends before it starts, or is longer than
            `WINDOW_HOURS_MAX`.
    """
    if not (np.isfinite(start_s) and np.isfinite(end_s) and start_s <= end_s):
        raise InvalidRequestError("a window must be finite and end after it starts")
    first = int(np.floor(start_s / HOUR_S))
    last = max(int(np.ceil(end_s / HOUR_S)), first + 1)
    if last - first > WINDOW_HOURS_MAX:
        raise InvalidRequestError(
            f"a window of {last - first} h is above the limit of {WINDOW_HOURS_MAX} h"
        )
    return first, last


class SignalKind(Enum):
    """What an intensity describes; the two kinds are never mixed in one comparison."""

    AVERAGE = "average"
    MARGINAL = "marginal"


class EmissionFactor(Enum):
    """What an intensity counts per kWh of each fuel."""

    LIFECYCLE = "lifecycle"
    DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a signal comes from.

    Attributes:
        source: Provider or file, and what was done to it, in words.
        zone: Electricity zone, such as `DE`.
        kind: Average or marginal; None for a price.
        factor: Lifecycle or direct; None for a price.
        issued_s: When the source issued it, seconds since the epoch; 0 where it does not say.
        is_estimated: Some value is a model's estimate, a typical day or interpolated.
    """

    source: str
    zone: str
    kind: SignalKind | None
    factor: EmissionFactor | None
    issued_s: float
    is_estimated: bool


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal of one zone.

    Attributes:
        series: Values over time.
        provenance: Where they come from.
        unit: `gCO2/kWh` or `USD/kWh`.
    """

    series: StepSeries
    provenance: Provenance
    unit: str


@dataclass(frozen=True, slots=True)
class SiteSignals:
    """What a site knows of its electricity.

    Attributes:
        carbon: Carbon intensity, gCO2/kWh; None: missing or stale, and the site then decides by
            cost alone and says STALE_SIGNAL.
        price: Price, $/kWh.
    """

    carbon: Signal | None
    price: Signal


@dataclass(frozen=True, slots=True, eq=False)
class DayProfile:
    """The typical day of a signal in each month.

    Attributes:
        zone: Electricity zone.
        mean: (12, 24) float64 by month (January first) and hour of the day in UTC.
        std: (12, 24) float64, standard deviation over the days behind each mean.
    """

    zone: str
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name, table in (("mean", self.mean), ("std", self.std)):
            if table.shape != (MONTHS, HOURS_A_DAY) or not np.isfinite(table).all():
                raise InvalidRequestError("a profile is 12 x 24 finite values", field=name)

    def series(self, start_s: float, end_s: float) -> StepSeries:
        """Return hourly means that cover [start_s, end_s]: each hour takes its UTC month and hour.

        Raises:
            InvalidRequestError: see `hour_window`.
        """
        first, last = hour_window(start_s, end_s)
        hours = np.arange(first, last, dtype=np.int64)
        # Months since January 1970, so that the remainder is the month of the year.
        months = hours.astype("datetime64[h]").astype("datetime64[M]").astype(np.int64) % MONTHS
        return StepSeries(first * HOUR_S, HOUR_S, self.mean[months, hours % HOURS_A_DAY])
