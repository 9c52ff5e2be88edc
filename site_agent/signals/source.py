"""What every source of signals answers."""

from typing import Protocol

from gcos.signals import SiteSignals


class SignalSource(Protocol):
    """Knows the carbon intensity and the price of electricity of zones."""

    async def signals(self, zone: str, start_s: float, end_s: float) -> SiteSignals:
        """Return hourly steps that cover [start_s, end_s], seconds since the epoch (world time).

        `carbon` is None where the source knows none.

        Raises:
            NotFoundError: the source does not know `zone`.
            InvalidRequestError: the window or what the source holds for it is refused.
        """
