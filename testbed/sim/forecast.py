"""What sites know of the coming hours: the truth up to now, and a noisy forecast after it.

    forecast(h + k, issued in h) = truth(h + k) (1 + e_k),   e_0 = 0
    e_k = rho e_{k-1} + sqrt(1 - rho^2) sigma N(0, 1)        (`testbed.sim.instance.ForecastNoise`)

Each issue has noise of its own, from a stream named by seed, signal, site and hour: the same for
every policy.
"""

import numpy as np
from numpy.typing import NDArray

from gcos.ids import SiteId
from gcos.seeds import stream
from gcos.signals import (
    CARBON_UNIT,
    HOUR_S,
    PRICE_UNIT,
    EmissionFactor,
    Provenance,
    Signal,
    SignalKind,
    SiteSignals,
    StepSeries,
)
from testbed.sim.instance import Instance

#: Hours ahead that are forecast; the last of them holds past the end. Longer than any task waits
#: and runs, and short enough that a year's issues cost no more memory than a week's.
HORIZON_H = 240


class Forecaster:
    """Issues the signals that each site sees in an hour."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._zones = {site.site_id: site.zone for site in instance.sites}
        self._spread = _ar1(HORIZON_H, instance.forecast.rho, instance.forecast.sigma)

    def signals(self, site_id: SiteId, now_s: float) -> SiteSignals:
        """Return what `site_id` knows at `now_s`."""
        zone = self._zones[site_id]
        carbon = self._issued("carbon", site_id, self._instance.carbon[site_id], now_s)
        price = self._issued("price", site_id, self._instance.price[site_id], now_s)
        source = f"simulated forecast, sigma {self._instance.forecast.sigma:g}"
        kind, factor = SignalKind.AVERAGE, EmissionFactor.LIFECYCLE
        return SiteSignals(
            carbon=Signal(
                carbon,
                Provenance(source, zone, kind, factor, now_s, is_estimated=True),
                CARBON_UNIT,
            ),
            price=Signal(
                price, Provenance(source, zone, None, None, now_s, is_estimated=True), PRICE_UNIT
            ),
        )

    def _issued(self, name: str, site_id: SiteId, truth: StepSeries, now_s: float) -> StepSeries:
        hour = int((now_s - truth.start_s) // HOUR_S)
        ahead = min(len(truth.values) - hour - 1, HORIZON_H)
        if self._instance.forecast.sigma == 0 or ahead <= 0:
            return truth
        draws = stream(self._instance.seed, "forecast", name, site_id, hour)
        errors = self._spread[:ahead, :ahead] @ draws.standard_normal(ahead)
        values = truth.values[: hour + 1 + ahead].copy()  # what is further away nobody is told
        values[hour + 1 :] *= 1.0 + errors
        return StepSeries(truth.start_s, truth.step_s, values)


def _ar1(length: int, rho: float, sigma: float) -> NDArray[np.float64]:
    """Return the matrix, (n, n), that turns n standard normal draws into n AR(1) errors."""
    steps = np.arange(length)
    lag = steps[:, np.newaxis] - steps
    weights = np.where(lag >= 0, rho ** np.maximum(lag, 0), 0.0)
    return np.asarray(np.sqrt(1.0 - rho**2) * sigma * weights)
