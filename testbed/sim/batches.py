"""Tasks that wait to be dispatched together, and what a dispatcher makes of them.

A dispatcher takes the place of the choice between offers, and of nothing else: sites bid as they do
for `joint`, the origin awards, the winner queues, caches and sources are the same.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from gcos.accounting import G_PER_KG
from gcos.contract_net import Announcement, Bid
from gcos.durations import prediction_for
from gcos.ids import SiteId, TaskId
from policies.interface import BatchTask, Dispatcher, FreeGpus, Offer
from site_agent.participant import Participant
from testbed.sim.engine import DECISION, Engine


@dataclass(frozen=True, slots=True)
class Asked:
    """A task, what was announced of it, and how its auction is closed with offers.

    Attributes:
        announcement: What sites were asked.
        bids: Their offers.
        close: Closes the auction: the lowest score wins.
    """

    announcement: Announcement
    bids: tuple[Bid, ...]
    close: Callable[[tuple[Bid, ...]], None]


@dataclass(slots=True)
class Batches:
    """Collects tasks, and dispatches them every so often.

    Attributes:
        engine: What time it is.
        dispatcher: Chooses.
        participants: All sites.
    """

    engine: Engine
    dispatcher: Dispatcher
    participants: Mapping[SiteId, Participant]
    #: How to ask about each task that waits, in order of arrival.
    _waiting: dict[TaskId, Callable[[], Asked]] = field(default_factory=dict)

    def join(self, task_id: TaskId, ask: Callable[[], Asked]) -> None:
        """Let a task wait for the next batch; `ask` announces it then."""
        if not self._waiting:
            batch_s = self.dispatcher.batch_s
            due_s = math.ceil(self.engine.now_s / batch_s) * batch_s
            self.engine.at(due_s, self._dispatch, DECISION)
        self._waiting[task_id] = ask

    def _dispatch(self) -> None:
        every = [ask() for ask in self._waiting.values()]
        self._waiting.clear()
        offered = [asked for asked in every if asked.bids]
        if offered:
            now_s = self.engine.now_s
            batch = [self._task(asked) for asked in offered]
            chosen = self.dispatcher.assign(batch, self._free(), now_s=now_s)
            for asked, index in zip(offered, chosen, strict=True):
                asked.close(_with_first(asked.bids, index))
        for asked in every:
            if not asked.bids:
                asked.close(())

    def _task(self, asked: Asked) -> BatchTask:
        announcement = asked.announcement
        return BatchTask(
            announcement.task_id,
            gpu_count=announcement.gpu.gpu_count,
            deadline_s=announcement.deadline_s,
            late_penalty=announcement.terms.late_penalty,
            offers=tuple(_offer(announcement, bid) for bid in asked.bids),
        )

    def _free(self) -> dict[SiteId, FreeGpus]:
        free = {}
        for site_id, participant in self.participants.items():
            (schedule,) = participant.schedules.values()
            free[site_id] = FreeGpus(*schedule.profile(self.engine.now_s))
        return free


def _offer(announcement: Announcement, bid: Bid) -> Offer:
    prediction = prediction_for(announcement.predictions, bid.pool_type)
    assert prediction is not None, "a site bids for pools that were predicted for"
    price = announcement.terms.carbon_price_usd_per_kg / G_PER_KG
    return Offer(
        bid.site_id,
        offer_usd=bid.offer_usd,
        start_s=bid.start_s,
        run_time=prediction.run_time,
        fetch_usd={
            fetch.artifact_id: fetch.cost_usd + price * fetch.carbon_gco2 for fetch in bid.fetches
        },
    )


def _with_first(bids: tuple[Bid, ...], index: int) -> tuple[Bid, ...]:
    """Return the bids with the one that is to win scored best."""
    return tuple(replace(bid, score_ratio=float(i != index)) for i, bid in enumerate(bids))
