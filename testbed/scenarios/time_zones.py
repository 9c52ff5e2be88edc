"""Local time of electricity zones, which people's days follow. Facts: IANA names by zone."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from gcos.errors import InvalidRequestError
from gcos.signals import HOUR_S

#: The time zone of the usual data-center town of each electricity zone (IANA time zone database).
TIME_ZONES: Final = {
    "AT": "Europe/Vienna",
    "AU-NSW": "Australia/Sydney",
    "BE": "Europe/Brussels",
    "BR-CS": "America/Sao_Paulo",
    "CA-ON": "America/Toronto",
    "CH": "Europe/Zurich",
    "CL-SEN": "America/Santiago",
    "DE": "Europe/Berlin",
    "ES": "Europe/Madrid",
    "FR": "Europe/Paris",
    "GB": "Europe/London",
    "IN-WE": "Asia/Kolkata",
    "JP-TK": "Asia/Tokyo",
    "NL": "Europe/Amsterdam",
    "PT": "Europe/Lisbon",
    "SE": "Europe/Stockholm",
    "SG": "Asia/Singapore",
    "US-CAL-CISO": "America/Los_Angeles",
    "US-MIDA-PJM": "America/New_York",
    "US-MIDW-MISO": "America/Chicago",
    "US-NE-ISNE": "America/New_York",
    "US-NW-BPAT": "America/Los_Angeles",
    "US-SE-SOCO": "America/New_York",
    "US-SW-AZPS": "America/Phoenix",
    "US-SW-EPE": "America/Denver",
    "US-TEX-ERCO": "America/Chicago",
    "ZA": "Africa/Johannesburg",
}


def zone_time(zone: str, name: str = "") -> ZoneInfo:
    """Return the local time of an electricity zone, or the one of the IANA name given instead.

    Raises:
        InvalidRequestError: The zone is not in the table and no name is given, or the name is none.
    """
    wanted = name or TIME_ZONES.get(zone, "")
    if not wanted:
        raise InvalidRequestError(
            f"the local time of zone {zone!r} is not known",
            field="site.timezone",
            hint='give the site a time zone, such as timezone = "Europe/Rome"',
        )
    try:
        return ZoneInfo(wanted)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise InvalidRequestError(
            f"{wanted!r} is no time zone that this machine knows",
            field="site.timezone",
            hint="use an IANA name such as Europe/Rome; without any, install the package tzdata",
        ) from exc


def offsets_h(zone: ZoneInfo, hours: Sequence[int]) -> NDArray[np.float64]:
    """Return how far local time is ahead of UTC, hours, at each whole UTC hour since the epoch."""
    found = []
    for hour in hours:
        offset = datetime.fromtimestamp(hour * HOUR_S, UTC).astimezone(zone).utcoffset()
        assert offset is not None, "an aware time has an offset"
        found.append(offset.total_seconds() / HOUR_S)
    return np.array(found)
