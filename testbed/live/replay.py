"""The simulator fed with what a live run took: its message, transfer and run times. Pure.

Submissions, bids and closings of auctions come at the instants of the live run, and a bid that came
too late comes never; awards, transfers and runs last as long as they did. Announcements carry the
predictions that they carried, and the holders that the broker had heard of, which depends on when
beats came. What is left to the cores is what they decide: who offers what, who wins, what waits,
what is fetched and evicted. Where they decide otherwise than they did live, what follows has no
recorded times: it takes those of the links, and the median of the run.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median

import numpy as np

from gcos.contract_net import Award, Bid, Holder, Refusal
from gcos.durations import Prediction
from gcos.ids import RunId, SiteId, TaskId
from gcos.sites import Link, Site
from gcos.tables import link
from gcos.tasks import Reason
from policies.catalogue import Policy
from site_agent.decisions import AwardDecision
from site_agent.origin import lateness_by_work
from testbed.live.records import LiveRun, LiveTask
from testbed.sim.engine import DECISION
from testbed.sim.instance import ForecastNoise, Instance, SimTask
from testbed.sim.simulation import Simulation, _Arrival, _Execution, _Place


@dataclass(slots=True)
class RecordedAuction:
    """When what happened in one auction of a live run.

    Attributes:
        closed_s: The origin closed it.
        predictions: What the announcement carried.
        holders: Who was said to have each artifact, by its name: what the broker had heard by then.
        silent: Sites that were asked and whose answer did not come in the bid window.
        bid_s: Sites bid, as far as they made an offer.
    """

    closed_s: float
    predictions: tuple[Prediction, ...]
    holders: Mapping[str, tuple[Holder, ...]]
    silent: Mapping[SiteId, Refusal]
    bid_s: dict[SiteId, float] = field(default_factory=dict)


def recorded_auctions(run: LiveRun) -> dict[str, list[RecordedAuction]]:
    """Return the auctions of each task of the instance, in order."""
    names = {task.live_id: task.task_id for task in run.tasks}
    found: dict[str, list[RecordedAuction]] = {}
    awards = [each.award for each in run.decisions if each.award is not None]
    for award in sorted(awards, key=_closed_s):
        if award.task_id in names:
            auction = RecordedAuction(
                award.at_s,
                award.auction.predictions,
                holders={need.name: need.holders for need in award.auction.needs},
                silent={
                    each.site_id: each
                    for each in award.auction.refusals
                    if each.reason is Reason.NO_SITE_REACHABLE
                },
            )
            found.setdefault(names[award.task_id], []).append(auction)
    for decision in run.decisions:
        bid = decision.bid
        if bid is None or bid.view.task_id not in names:
            continue
        for auction in found.get(names[bid.view.task_id], []):
            if bid.view.now_s <= auction.closed_s and bid.view.site_id not in auction.bid_s:
                auction.bid_s[bid.view.site_id] = bid.view.now_s
                break
    return found


def _closed_s(award: AwardDecision) -> float:
    return award.at_s


def as_recorded(instance: Instance, run: LiveRun) -> Instance:
    """Return the instance with the arrivals of a live run, and what agents know of links."""
    done = {task.task_id: task for task in run.tasks}
    tasks = [replace(each, arrival_s=done[each.task_id].submitted_s) for each in instance.tasks]
    zones = {site.site_id: site.zone for site in instance.sites}
    return replace(
        instance,
        tasks=tuple(sorted(tasks, key=lambda task: (task.arrival_s, task.task_id))),
        links={(a, b): _link(zones[a], zones[b]) for a, b in instance.links},
        shares_bandwidth=False,
        forecast=ForecastNoise(),
    )


def _link(source_zone: str, target_zone: str) -> Link:
    facts = link(source_zone, target_zone)
    return Link(facts.rtt_s, facts.bytes_per_s, facts.egress_usd_per_gb)


class ReplaySimulation(Simulation):
    """A simulation that takes the times of a live run.

    Attributes:
        placed: Where each task that has ended ran.
        started_s: When its command began.
    """

    def __init__(self, instance: Instance, run: LiveRun, policy: Policy) -> None:
        self.placed: dict[str, SiteId] = {}
        self.started_s: dict[str, float] = {}
        self._done = {task.task_id: task for task in run.tasks}
        self._auctions = recorded_auctions(run)
        self._held: Counter[str] = Counter()
        self._message_s = _median_message_s(run.tasks, self._auctions)
        self._delay_s = self._message_s
        waits = [task.started_s - task.staged_s for task in run.tasks]
        # Most runs start at once: what a quarter of them wait less than is the start itself.
        self._start_s = float(np.quantile(waits, 0.25)) if waits else 0.0
        super().__init__(as_recorded(instance, run), policy, is_instant=False)

    def _place(self, site: Site) -> _Place:
        place = super()._place(site)
        place.origin.lateness = lateness_by_work
        place.participant.streams_to_scratch = False
        return place

    def _predictions(self, task: SimTask) -> tuple[Prediction, ...]:
        auctions = self._auctions.get(task.task_id, [])
        number = self._held[task.task_id] - 1
        if 0 <= number < len(auctions) and auctions[number].predictions:
            return auctions[number].predictions
        return self._done[task.task_id].predictions or super()._predictions(task)

    def _negotiate(self, place: _Place, task_id: TaskId) -> None:
        number = self._held[task_id]
        self._held[task_id] += 1
        auctions = self._auctions.get(task_id, [])
        if number >= len(auctions):
            super()._negotiate(place, task_id)
            return
        recorded = auctions[number]
        nomination, announcement = self._announced(place, task_id)
        needs = tuple(
            replace(need, holders=recorded.holders.get(need.name, need.holders))
            for need in announcement.needs
        )
        announcement = replace(announcement, needs=needs)
        answers: list[Bid | Refusal] = []

        def ask(bidder: _Place) -> None:
            answers.append(bidder.participant.bid(announcement, now=self._now()))
            bidder.migration.offered(announcement, answers[-1])

        def close() -> None:
            self._close_auction(place, announcement, nomination, answers)

        now_s = self.engine.now_s
        closed_s = max(now_s, recorded.closed_s)
        for nominee in nomination.nominees:
            if nominee.site_id in recorded.silent:
                answers.append(recorded.silent[nominee.site_id])
                continue
            bid_s = recorded.bid_s.get(nominee.site_id, closed_s)
            self.engine.at(
                min(max(now_s, bid_s), closed_s), partial(ask, self.places[nominee.site_id])
            )
        self.engine.at(closed_s, close, DECISION)

    def _send_award(self, place: _Place, to: SiteId, award: Award) -> None:
        done = self._done[award.task_id]
        auctions = self._auctions.get(award.task_id, [])
        if auctions and done.site_id == to and self._held[award.task_id] == len(auctions):
            self._delay_s = max(0.0, done.accepted_s - auctions[-1].closed_s)
        super()._send_award(place, to, award)
        self._delay_s = self._message_s

    def _send(self, source: SiteId, target: SiteId, action: Callable[[], None]) -> None:
        del source, target
        self.engine.at(self.engine.now_s + self._delay_s, action)

    def _move(self, place: _Place, arrival: _Arrival) -> None:
        took_s = self._took_s(place.site.site_id, arrival)
        if took_s is None:
            super()._move(place, arrival)
            return
        if arrival.source != self._homes[arrival.artifact.artifact_id]:
            arrival.read_from = self.places[arrival.source]
            arrival.read_from.participant.cache.open_reader(arrival.artifact.artifact_id)
        self.engine.at(self.engine.now_s + took_s, partial(self._arrived, place, arrival))

    def _took_s(self, here: SiteId, arrival: _Arrival) -> float | None:
        """Return how long a transfer took live; None: there was none like it."""
        if arrival.run_id is None:
            return None
        done = self._done[arrival.run_id.split(".", 1)[0]]
        sizes = {fetch.artifact: fetch.size_bytes for fetch in done.fetches}
        size_bytes = sizes.get(arrival.artifact.name)
        if done.site_id != here or size_bytes is None:
            return None
        return (done.staged_s - done.accepted_s) * size_bytes / max(1, sum(sizes.values()))

    def _start(self, place: _Place, run_id: RunId) -> None:
        task = self._tasks[place.participant.runs[run_id].award.task_id]
        done = self._done[task.task_id]
        speeds = {site: each.pool.speed_ratio for site, each in self.places.items()}
        slower = speeds[done.site_id] / place.pool.speed_ratio
        began_s = self.engine.now_s + self._start_s
        place.executions[run_id] = _Execution(task, began_s)
        self.placed[task.task_id] = place.site.site_id
        self.started_s[task.task_id] = began_s
        end_s = began_s + (done.ended_s - done.started_s) * slower
        self.engine.at(end_s, partial(self._exit, place, run_id))


def _median_message_s(
    tasks: Sequence[LiveTask], auctions: dict[str, list[RecordedAuction]]
) -> float:
    """Return how long an award took from the decision to its acceptance, world seconds."""
    took = [
        max(0.0, task.accepted_s - auctions[task.task_id][-1].closed_s)
        for task in tasks
        if auctions.get(task.task_id)
    ]
    return median(took) if took else 0.0
