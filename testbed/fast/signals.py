"""Integrals over signals: the arithmetic of `gcos.signals.StepSeries`, over rows of arrays."""

from gcos.signals import HOUR_S
from testbed.fast.compiled import compiled
from testbed.fast.layout import Floats, Records


@compiled
def step_at(series: Records, kind: int, site: int, t_s: float) -> int:
    """Return the index of the step that holds at `t_s`."""
    known = series[kind, site]
    raw = (t_s - known.start_s) / HOUR_S
    if raw <= 0:
        return 0
    return known.count - 1 if raw >= known.count else int(raw)


@compiled
def value_at(series: Records, values: Floats, kind: int, site: int, t_s: float) -> float:
    """Return the value at `t_s`."""
    return values[kind, site, step_at(series, kind, site, t_s) - series[kind, site].base]


@compiled
def integral(
    series: Records,
    values: Floats,
    running: Floats,
    kind: int,
    site: int,
    t0_s: float,
    t1_s: float,
) -> float:
    """Return the integral over [t0_s, t1_s], unit of the value times seconds."""
    known = series[kind, site]
    first, last = step_at(series, kind, site, t0_s), step_at(series, kind, site, t1_s)
    i, j = first - known.base, last - known.base
    if first == last:
        return values[kind, site, i] * (t1_s - t0_s)
    return (
        values[kind, site, j] * ((t1_s - known.start_s) - last * HOUR_S)
        - values[kind, site, i] * ((t0_s - known.start_s) - first * HOUR_S)
        + (running[kind, site, j] - running[kind, site, i])
    )


@compiled
def mean(
    series: Records,
    values: Floats,
    running: Floats,
    kind: int,
    site: int,
    t0_s: float,
    t1_s: float,
) -> float:
    """Return the mean over [t0_s, t1_s]; the value at t0_s where both are equal."""
    if t1_s == t0_s:
        return value_at(series, values, kind, site, t0_s)
    return integral(series, values, running, kind, site, t0_s, t1_s) / (t1_s - t0_s)


@compiled
def flat_mean(value: float, t0_s: float, t1_s: float) -> float:
    """Return the mean of what is `value` at all times, rounded as `mean` rounds."""
    if t1_s == t0_s:
        return value
    return value * (t1_s - t0_s) / (t1_s - t0_s)
