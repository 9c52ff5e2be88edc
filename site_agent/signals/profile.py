"""Signals from the typical days that are shipped with GCOS."""

import asyncio

from gcos import tables
from gcos.signals import (
    CARBON_UNIT,
    PRICE_UNIT,
    EmissionFactor,
    Provenance,
    Signal,
    SignalKind,
    SiteSignals,
)


class ProfileSource:
    """Answers with the typical day of each month: no network, and no real day."""

    async def signals(self, zone: str, start_s: float, end_s: float) -> SiteSignals:
        """Return typical days over [start_s, end_s]; always marked estimated.

        Raises:
            NotFoundError: `zone` is not in the embedded tables.
            InvalidRequestError: a bad window.
        """
        # The first call of a process parses the tables, 20 ms.
        return await asyncio.to_thread(_typical_days, zone, start_s, end_s)


def _typical_days(zone: str, start_s: float, end_s: float) -> SiteSignals:
    return SiteSignals(
        carbon=typical_carbon(zone, start_s, end_s), price=typical_price(zone, start_s, end_s)
    )


def typical_carbon(zone: str, start_s: float, end_s: float) -> Signal:
    """Return typical days of lifecycle carbon intensity; reads the tables.

    Raises:
        NotFoundError: `zone` is not in the embedded tables.
    """
    return Signal(
        tables.carbon_profile(zone).series(start_s, end_s),
        Provenance(
            source="typical days 2021-2024, Electricity Maps (ODbL)",
            zone=zone,
            kind=SignalKind.AVERAGE,
            factor=EmissionFactor.LIFECYCLE,
            issued_s=0.0,
            is_estimated=True,
        ),
        CARBON_UNIT,
    )


def typical_price(zone: str, start_s: float, end_s: float) -> Signal:
    """Return typical days of the wholesale price; reads the tables.

    Raises:
        NotFoundError: `zone` is not in the embedded tables.
    """
    spikes = tables.price_spikes(zone)
    return Signal(
        tables.price_profile(zone).series(start_s, end_s),
        Provenance(
            source=(
                f"typical days 2021-2024, {spikes.spike_hours} h above "
                f"{spikes.threshold_usd_per_kwh:.2f} USD/kWh left out"
            ),
            zone=zone,
            kind=None,
            factor=None,
            issued_s=0.0,
            is_estimated=True,
        ),
        PRICE_UNIT,
    )
