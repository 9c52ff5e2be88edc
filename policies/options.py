"""Options of a site as columns, so that a bidder may weigh all of them at once. Pure.

A task that may wait has dozens of feasible starts, and one of them becomes a bid. So offers are
worked out for all starts together, and an `Option` is only made of a row when somebody looks at it.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Final, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from gcos.accounting import Charge
from policies.interface import Option

#: What bidders and features weigh, in the order of `numbers_of`: attributes of an `Offered`.
NUMBERS: Final = (
    "offer_usd",
    "charge.energy_usd",
    "charge.compute_gco2",
    "charge.transfer_usd",
    "charge.network_gco2",
    "charge.gpu_usd",
    "charge.penalty_usd",
    "late_probability",
    "start_s",
    "p50_finish_s",
)
OFFER: Final = NUMBERS.index("offer_usd")
START: Final = NUMBERS.index("start_s")
#: Columns of a table: `NUMBERS`, and what an option has beside them.
COLUMNS: Final = (
    *NUMBERS,
    "p90_finish_s",
    "p90_cost_usd",
    "p90_carbon_gco2",
    "charge.energy_kwh",
)
_numbers = attrgetter(*NUMBERS)


class Offered(Protocol):
    """What numbers are read off: a bid, or an option before it is one."""

    @property
    def pool_type(self) -> str:
        """Which pool."""

    @property
    def start_s(self) -> float:
        """World instant of the start."""

    @property
    def p50_finish_s(self) -> float:
        """World instant of the median end."""

    @property
    def late_probability(self) -> float:
        """P(end > deadline)."""

    @property
    def offer_usd(self) -> float:
        """J."""

    @property
    def charge(self) -> Charge:
        """Expected cost and carbon by item."""


class OptionTable(Sequence[Option]):
    """The options of one pool, earliest first.

    Args:
        pool_type: Which pool.
        columns: (k, 14) float64, by `COLUMNS`; not changed any more.
        transfer_bytes: What each of them would move.
    """

    __slots__ = ("_columns", "_made", "_transfer_bytes", "numbers", "pool_type")

    def __init__(
        self, pool_type: str, columns: NDArray[np.float64], *, transfer_bytes: int
    ) -> None:
        self.pool_type = pool_type
        #: (k, 10), by `NUMBERS`.
        self.numbers = columns[:, : len(NUMBERS)]
        self._columns = columns
        self._transfer_bytes = transfer_bytes
        self._made: dict[int, Option] = {}

    def __len__(self) -> int:
        return len(self._columns)

    @overload
    def __getitem__(self, index: int) -> Option: ...

    @overload
    def __getitem__(self, index: slice) -> list[Option]: ...

    def __getitem__(self, index: int | slice) -> Option | list[Option]:
        """Return an option; the same object each time."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        option = self._made.get(place)
        if option is None:
            option = self._made[place] = self._option(place)
        return option

    def _option(self, index: int) -> Option:
        (
            offer_usd,
            energy_usd,
            compute_gco2,
            transfer_usd,
            network_gco2,
            gpu_usd,
            penalty_usd,
            late_probability,
            start_s,
            p50_finish_s,
            p90_finish_s,
            p90_cost_usd,
            p90_carbon_gco2,
            energy_kwh,
        ) = self._columns[index].tolist()
        return Option(
            pool_type=self.pool_type,
            start_s=start_s,
            is_earliest=index == 0,
            offer_usd=offer_usd,
            charge=Charge(
                energy_kwh=energy_kwh,
                energy_usd=energy_usd,
                gpu_usd=gpu_usd,
                transfer_usd=transfer_usd,
                penalty_usd=penalty_usd,
                compute_gco2=compute_gco2,
                network_gco2=network_gco2,
                transfer_bytes=self._transfer_bytes,
            ),
            p50_finish_s=p50_finish_s,
            p90_finish_s=p90_finish_s,
            late_probability=late_probability,
            p90_cost_usd=p90_cost_usd,
            p90_carbon_gco2=p90_carbon_gco2,
        )


def pool_of(offered: Sequence[Offered]) -> str:
    """Return the pool of candidates of one pool."""
    return offered.pool_type if isinstance(offered, OptionTable) else offered[0].pool_type


def numbers_of(offered: Sequence[Offered]) -> NDArray[np.float64]:
    """Return what bidders and features weigh of each, (k, 10) by `NUMBERS`; not to be changed."""
    if isinstance(offered, OptionTable):
        return offered.numbers
    values: Iterable[float] = chain.from_iterable(map(_numbers, offered))
    flat = np.fromiter(values, np.float64, count=len(offered) * len(NUMBERS))
    return flat.reshape(len(offered), len(NUMBERS))


def lowest(keys: NDArray[np.float64], numbers: NDArray[np.float64]) -> int:
    """Return the index of the lowest key; of equal ones the lower offer, then the earlier start.

    Args:
        keys: (k,), of which k is at least 1.
        numbers: (k, 10), by `NUMBERS`.
    """
    if len(keys) == 1:  # mostly: the earliest start of the only pool
        return 0
    index = int(keys.argmin())
    is_lowest = keys == keys[index]
    if np.count_nonzero(is_lowest) <= 1:
        return index
    equal = np.flatnonzero(is_lowest).tolist()
    return min(equal, key=lambda i: (numbers[i, OFFER], numbers[i, START], i))
