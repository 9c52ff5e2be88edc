"""Draws what goes wrong in a run, by the instance's `Faults` and seed. Pure but for its streams.

Each kind of fault has a stream of its own, and one that is off draws nothing: what one kind does to
a run does not move the draws of another, and a run without faults is the same to the last bit.
"""

import numpy as np

from gcos.accounting import S_PER_H
from gcos.ids import SiteId
from gcos.seeds import stream
from testbed.sim.instance import Instance


class Mishaps:
    """The faults of one run."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._faults = instance.faults
        self._losses, self._delays, self._transfers, self._disks = (
            stream(instance.seed, "faults", name)
            for name in ("losses", "delays", "transfers", "disks")
        )

    @property
    def disturb_messages(self) -> bool:
        """Messages may be lost or late, so that senders wait no longer than live ones."""
        return self._faults.message_loss_ratio > 0 or self._faults.message_delay_s > 0

    def is_lost(self) -> bool:
        """Tell whether the next message is lost."""
        return _happens(self._losses, self._faults.message_loss_ratio)

    def delay_s(self) -> float:
        """Return what the next message takes beside its link's time."""
        mean_s = self._faults.message_delay_s
        return float(self._delays.exponential(mean_s)) if mean_s > 0 else 0.0

    def is_corrupt(self) -> bool:
        """Tell whether what the next transfer brought is refused."""
        return _happens(self._transfers, self._faults.corrupt_ratio)

    def is_disk_full(self) -> bool:
        """Tell whether the next copy finds no room."""
        return _happens(self._disks, self._faults.disk_full_ratio)

    def crashes(self) -> tuple[tuple[float, SiteId], ...]:
        """Return when each site loses its machines if it is there then, world instants, sorted."""
        instance, per_h = self._instance, self._faults.crash_per_h
        if per_h == 0:
            return ()
        begin_s, end_s = instance.start_s, instance.measured_s[1]
        found: list[tuple[float, SiteId]] = []
        for site in instance.sites:
            draws = stream(instance.seed, "faults", "crashes", site.site_id)
            count = int(draws.poisson(per_h * (end_s - begin_s) / S_PER_H))
            instants_s = draws.uniform(begin_s, end_s, size=count)
            found += [(float(at_s), site.site_id) for at_s in instants_s]
        return tuple(sorted(found))


def _happens(draws: np.random.Generator, ratio: float) -> bool:
    return ratio > 0 and bool(draws.random() < ratio)
