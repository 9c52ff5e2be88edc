"""How far places on the globe are apart, and how long light in fibre takes. Pure."""

import math
from typing import Final

#: Light in fibre covers about 200 km in a millisecond.
FIBRE_KM_PER_MS: Final = 200.0
EARTH_RADIUS_KM: Final = 6371.0


def great_circle_km(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return the distance of two (latitude, longitude) points in degrees (haversine formula)."""
    lat_a, lon_a, lat_b, lon_b = (math.radians(x) for x in (*a, *b))
    half = math.sin((lat_b - lat_a) / 2) ** 2
    half += math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(half))
