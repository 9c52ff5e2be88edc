"""Which caches a site has: what is compared to show what each of the two is worth. Pure."""

from collections.abc import Callable
from enum import Enum

from gcos.sites import Site
from policies.interface import Evictor
from site_agent.dual_cache import DualCache


class CacheMode(Enum):
    """Which caches there are.

    A mode changes capacities alone: what does not fit is streamed to scratch and paid each time.
    """

    DUAL = "dual"
    """One for models, one for data sets."""

    COUPLED = "coupled"
    """One for both, as large as the two together: either kind may drive out the other."""

    NO_MODEL = "no-model"
    """None for models: each task brings its model anew."""

    NO_DATA = "no-data"
    """None for data sets."""

    NONE = "none"
    """None at all."""


def capacities_bytes(site: Site, mode: CacheMode) -> tuple[int, int]:
    """Return the capacities for models and for data sets."""
    has_models = mode not in (CacheMode.NO_MODEL, CacheMode.NONE)
    has_data = mode not in (CacheMode.NO_DATA, CacheMode.NONE)
    return site.model_cache_bytes * has_models, site.data_cache_bytes * has_data


def cache_of(site: Site, mode: CacheMode, evictor: Callable[[], Evictor]) -> DualCache:
    """Return the empty cache of a site."""
    models, data = capacities_bytes(site, mode)
    if mode is CacheMode.COUPLED:
        return DualCache.shared(models + data, evictor)
    return DualCache(models, data, evictor)
