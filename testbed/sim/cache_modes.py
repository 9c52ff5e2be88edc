"""Which caches a site has: what is compared to show what each of the two is worth. Pure."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from gcos.errors import InvalidRequestError
from gcos.sites import Site
from policies.evictors import CLAIRVOYANT, DEFAULT, EVICTORS
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


@dataclass(frozen=True, slots=True)
class Caches:
    """The caches of a run.

    Attributes:
        mode: Which there are.
        eviction: What goes first when one is full: a name in `policies.evictors`.
    """

    mode: CacheMode = CacheMode.DUAL
    eviction: str = DEFAULT

    def __str__(self) -> str:
        """Return the name in tables: the mode, and the eviction where it is not the default."""
        return self.mode.value + (f"+{self.eviction}" if self.eviction != DEFAULT else "")

    @property
    def is_clairvoyant(self) -> bool:
        """Whether what goes first is chosen by what will be used."""
        return self.eviction in CLAIRVOYANT


def caches_named(name: str) -> Caches:
    """Return the caches of that name: a mode, or a mode and an eviction, as in `dual+lru`.

    Raises:
        InvalidRequestError: There are none; the hint names the nearest.
    """
    mode, plus, eviction = name.partition("+")
    modes = [mode.value for mode in CacheMode]
    if mode not in modes:
        raise InvalidRequestError(
            f"no cache mode {mode!r}", field="cache_mode", hint=_nearest(mode, modes)
        )
    evictions = [*EVICTORS, *sorted(CLAIRVOYANT)]
    if plus and eviction not in evictions:
        raise InvalidRequestError(
            f"no eviction {eviction!r}", field="eviction", hint=_nearest(eviction, evictions)
        )
    return Caches(CacheMode(mode), eviction or DEFAULT)


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else f"one of {', '.join(names)}"


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
