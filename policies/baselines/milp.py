"""Dispatches a batch by a mixed-integer programme, over a rolling horizon. Pure.

The objective of `policies.batch`, solved by HiGHS (Huangfu and Hall, Mathematical Programming
Computation 10, 2018) to a relative gap. Effort is limited by nodes, never by time,
so that the same batch is dispatched alike on any machine.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gcos.errors import InvalidRequestError
from gcos.ids import SiteId
from policies.batch import Batch, Horizon, batch_of
from policies.interface import BatchTask, FreeGpus

NODE_COUNT_MAX: Final = 2_000
#: Held against other values on training weeks (`testbed.tuning`).
DEFAULT_HORIZON: Final = Horizon(overcommit_usd=0.2)
DEFAULT_GAP_RATIO: Final = 1e-3


class MilpDispatcher:
    """Solves each batch as a mixed-integer programme.

    Args:
        horizon: What of the future counts.
        gap_ratio: Relative gap at which HiGHS may stop.

    Raises:
        InvalidRequestError: scipy, which brings HiGHS, is not installed.
    """

    name = "milp"

    def __init__(
        self, horizon: Horizon = DEFAULT_HORIZON, gap_ratio: float = DEFAULT_GAP_RATIO
    ) -> None:
        self.batch_s = horizon.batch_s
        self._horizon = horizon
        self._gap_ratio = gap_ratio
        try:
            import scipy.optimize  # noqa: F401, PLC0415
        except ImportError as exc:
            raise InvalidRequestError(
                "milp needs HiGHS, and scipy is not installed",
                field="policies",
                hint="pip install 'gcos[research]'",
            ) from exc

    def assign(
        self, batch: Sequence[BatchTask], free: Mapping[SiteId, FreeGpus], *, now_s: float
    ) -> Sequence[int]:
        """Return the index of the offer that each task of the batch takes."""
        ways = batch_of(batch, free, self._horizon, now_s=now_s)
        alone = ways.alone()
        solved = _solved(ways, self._gap_ratio)
        plans = np.array([alone] if solved is None else [alone, solved])
        return [int(ways.offer[way]) for way in plans[np.argmin(ways.joint_usd(plans))]]


def _solved(batch: Batch, gap_ratio: float) -> NDArray[np.int64] | None:
    """Return the best way of each task, (n,); None where no plan was found within the limit.

    Variables are x (ways), y (fetches) and o (overcommitted GPUs of each cell that may run out).
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # noqa: PLC0415
    from scipy.sparse import block_array, csr_array, eye_array  # noqa: PLC0415

    way_count, fetch_count = batch.fetches.shape
    task_count = len(batch.first) - 1
    largest = np.zeros(batch.used.shape[1])
    for low, high in zip(batch.first[:-1], batch.first[1:], strict=True):
        largest += batch.used[low:high].max(axis=0)
    cells = np.flatnonzero(largest > batch.free)
    once = csr_array((np.ones(way_count), (batch.task, np.arange(way_count))))
    needs_way, needs_fetch = np.nonzero(batch.fetches)
    rows = np.arange(len(needs_way))
    needs = csr_array((np.ones(len(rows)), (rows, needs_way)), shape=(len(rows), way_count))
    opened = csr_array((-np.ones(len(rows)), (rows, needs_fetch)), shape=(len(rows), fetch_count))
    table = block_array(
        [
            [once, csr_array((task_count, fetch_count)), csr_array((task_count, len(cells)))],
            [needs, opened, csr_array((len(rows), len(cells)))],
            [
                csr_array(batch.used[:, cells].T),
                csr_array((len(cells), fetch_count)),
                -eye_array(len(cells)),
            ],
        ],
        format="csc",
    )
    ones = np.ones(task_count)
    low = np.concatenate((ones, np.full(len(rows) + len(cells), -np.inf)))
    high = np.concatenate((ones, np.zeros(len(rows)), batch.free[cells]))
    found = milp(
        np.concatenate((batch.usd, batch.fetch_usd, np.full(len(cells), batch.overcommit_usd))),
        integrality=np.concatenate((np.ones(way_count), np.zeros(fetch_count + len(cells)))),
        bounds=Bounds(
            0.0, np.concatenate((np.ones(way_count + fetch_count), np.full(len(cells), np.inf)))
        ),
        constraints=LinearConstraint(table, low, high),
        options={"mip_rel_gap": gap_ratio, "node_limit": NODE_COUNT_MAX},
    )
    if found.x is None:
        return None
    taken = found.x[:way_count]
    bounds = zip(batch.first[:-1], batch.first[1:], strict=True)
    return np.array([first + int(np.argmax(taken[first:last])) for first, last in bounds])
