"""Run times as an origin hears them: of a predictor, else of its last snapshot, else the prior.

Each answer says which it is. Snapshots are pulled before they are needed, once a minute at most; a
predictor that has learned nothing since sends none.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from gcos.durations import PoolSpeed, Prediction, WorkFeatures
from gcos.errors import GcosError, UnavailableError
from gcos.logs import Log
from gcos.run_time_snapshot import RunTimeSnapshot, snapshot_predictions

#: Protocol seconds between two snapshots, and between two attempts before the first.
SNAPSHOT_REFRESH_S = 60.0
SNAPSHOT_RETRY_S = 5.0


class Predictors(Protocol):
    """The predictors that an agent knows; see `site_agent.peers.Peers`."""

    async def predict(
        self, features: WorkFeatures, pools: Sequence[PoolSpeed]
    ) -> tuple[Prediction, ...]:
        """Return the run time of one task on each pool type."""

    async def snapshot(self, known_version: str) -> RunTimeSnapshot | None:
        """Return what a predictor knows; None if that is `known_version`."""


class RunTimes:
    """Predictions that never fail."""

    def __init__(self, predictors: Predictors, log: Log) -> None:
        self._predictors = predictors
        self._log = log
        self.snapshot = RunTimeSnapshot("", ())

    async def predict(
        self, features: WorkFeatures, pools: Sequence[PoolSpeed]
    ) -> tuple[Prediction, ...]:
        """Return the run time on each pool type, in order."""
        try:
            return await self._predictors.predict(features, pools)
        except UnavailableError:
            return snapshot_predictions(self.snapshot, features, pools)

    async def pull(self) -> bool:
        """Pull a snapshot, if there is a newer one; tell whether a predictor answered."""
        try:
            pulled = await self._predictors.snapshot(self.snapshot.version)
        except UnavailableError:
            return False
        except GcosError as exc:
            self._log.warning("run_times_refused", error=str(exc))
            return False
        if pulled is not None:
            self.snapshot = pulled
            self._log.info(
                "run_times_pulled", version=pulled.version, context_count=len(pulled.contexts)
            )
        return True

    async def pull_forever(self) -> None:
        """Pull again and again."""
        while True:
            await self.pull()
            is_known = bool(self.snapshot.version)
            await asyncio.sleep(SNAPSHOT_REFRESH_S if is_known else SNAPSHOT_RETRY_S)
