"""Planning copies together, live, once an hour of world time.

Sites exchange outlooks, and each begins the copies that the common plan gives to itself. The plan
is computed at every site from the same outlooks (`site_agent.copy_planning`): nobody coordinates.
A peer that does not answer, or answers nonsense, is not in this site's plan; that its own plan may
differ then costs at most a copy that two bring or nobody does.

Many sites are cut into cells of `CELL_COUNT` by the order of their ids; each cell plans for itself,
which bounds the calls and the plan of every site.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from gcos.clock import Clock
from gcos.contract_net import ArtifactNeed, Terms
from gcos.durations import Prediction
from gcos.errors import GcosError, InvalidRequestError, PeerUnreachableError
from gcos.ids import SiteId
from gcos.known_sites import KnownSite
from gcos.logs import Log
from gcos.outlook import Outlook
from gcos.rpc.wire import to_proto
from gcos.signals import HOUR_S
from gcos.task_record import Task
from gcos.v1 import site_pb2
from policies.maccs.actor import ActorError
from policies.maccs.artifact_features import PART as ARTIFACT
from policies.maccs.copy_plan import UNLEARNED, Learned, plan_copies
from site_agent.actors import Actors
from site_agent.copy_planning import PlannedCopy, Planner, Tariff, planned_copies, remembered
from site_agent.demand_log import submission_of
from site_agent.outlook import SUBMISSION_COUNT_MAX, SiteOutlook, refuse_nonsense
from site_agent.peers import OUTLOOK_BYTES_MAX, Peers
from site_agent.plan_record import PlanRecord, record_of

#: Sites that plan together.
CELL_COUNT: Final = 32


def cell_of(site_ids: Iterable[SiteId], here: SiteId) -> frozenset[SiteId]:
    """Return the sites that plan together with `here`, itself included."""
    ordered = sorted({*site_ids, here})
    first = ordered.index(here) // CELL_COUNT * CELL_COUNT
    return frozenset(ordered[first : first + CELL_COUNT])


@dataclass(slots=True)
class _Beat:
    """The outlooks for one hour: this site's and those of its peers so far."""

    own: Outlook
    heard: dict[SiteId, Outlook] = field(default_factory=dict)


class Planning:
    """One agent's part in the common plan.

    Args:
        clock: The agent's.
        outlook: Makes what it tells.
        peers: Who is asked.
        tariff: What moving bytes costs.
        log: Where it is told who is missing.
        planner: The plan.
        actors: Trained ones; None: nothing is corrected.
        keep: Takes the record of each plan, in a thread; None: none is kept.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        outlook: SiteOutlook,
        peers: Peers,
        tariff: Tariff,
        log: Log,
        planner: Planner = plan_copies,
        actors: Actors | None = None,
        keep: Callable[[PlanRecord], None] | None = None,
    ) -> None:
        self._clock = clock
        self._outlook = outlook
        self._peers = peers
        self._tariff = tariff
        self._log = log
        self._planner = planner
        self._actors = actors
        self._keep = keep
        #: By the beat's instant: those of about now.
        self._beats: dict[float, _Beat] = {}

    def submitted(
        self,
        task: Task,
        needs: Sequence[ArtifactNeed],
        predictions: Sequence[Prediction],
        terms: Terms,
    ) -> None:
        """Remember what was submitted here."""
        submission = submission_of(
            task.task_id,
            arrival_s=task.submitted_s,
            gpu_count=task.spec.gpu.gpu_count,
            needs=needs,
            predictions=predictions,
            penalty=terms.late_penalty,
            deadline_s=task.spec.deadline_s,
        )
        self._outlook.log.note(submission, needs)

    # ---------------------------------------------------------------- the exchange

    def _beat(self, at_s: float) -> "_Beat":
        """Return the outlooks of a beat: this site's is one and the same, whoever asks for it.

        Raises:
            InvalidRequestError: It is no beat of about now.
        """
        now_s = self._clock.world_s()
        if at_s % HOUR_S != 0 or abs(now_s - at_s) > HOUR_S:
            raise InvalidRequestError(
                f"takes the hour of about {now_s:.0f}, not {at_s:.0f}",
                field="outlook.at_s",
                hint="let the agents' clocks and world scales agree",
            )
        self._beats = {
            past_s: beat for past_s, beat in self._beats.items() if abs(now_s - past_s) <= HOUR_S
        }
        if at_s not in self._beats:
            self._beats[at_s] = _Beat(self._fitting(at_s, now_s))
        return self._beats[at_s]

    def _fitting(self, at_s: float, now_s: float) -> Outlook:
        """Return the outlook with as many submissions as a message takes."""
        count = SUBMISSION_COUNT_MAX
        outlook = self._outlook.at(at_s, now_s=now_s, submission_count_max=count)
        while count > 0 and _size_bytes(outlook) > OUTLOOK_BYTES_MAX:
            count //= 2
            outlook = self._outlook.at(at_s, now_s=now_s, submission_count_max=count)
        return outlook

    def exchanged(self, theirs: Outlook, sites: Iterable[KnownSite]) -> Outlook:
        """Hear a peer's outlook and return this site's for the same beat.

        Args:
            theirs: What it tells.
            sites: Who is known; what others tell is answered and not kept.

        Raises:
            InvalidRequestError: It is nonsense, or of no beat of about now.
        """
        refuse_nonsense(theirs)
        beat = self._beat(theirs.at_s)
        if theirs.site_id != beat.own.site_id and theirs.site_id in self._cell(sites):
            beat.heard[theirs.site_id] = theirs
        return beat.own

    def _cell(self, sites: Iterable[KnownSite]) -> frozenset[SiteId]:
        known = [each.site.site_id for each in sites if not each.digest.is_draining]
        return cell_of(known, self._outlook.site_id)

    async def _ask(self, peer: KnownSite, beat: "_Beat") -> None:
        site_id, own = peer.site.site_id, beat.own
        try:
            theirs = await self._peers.exchange_outlook(peer.site.address, own)
            refuse_nonsense(theirs)
            if theirs.site_id != site_id or theirs.at_s != own.at_s:
                raise PeerUnreachableError(
                    f"answers as {theirs.site_id} for the beat at {theirs.at_s:.0f}"
                )
        except GcosError as exc:
            self._log.warning("outlook_missing", peer=site_id, error=str(exc))
            return
        beat.heard[site_id] = theirs

    async def plan(self, at_s: float, sites: Sequence[KnownSite]) -> tuple[PlannedCopy, ...]:
        """Return the copies that the plan for the beat at `at_s` gives to this site.

        Args:
            at_s: World instant, on a whole hour.
            sites: Who is known.
        """
        beat = self._beat(at_s)
        here = beat.own.site_id
        cell = self._cell(sites)
        async with asyncio.TaskGroup() as group:
            for peer in sites:
                site_id = peer.site.site_id
                if site_id in cell and site_id not in beat.heard and site_id != here:
                    group.create_task(self._ask(peer, beat))
        outlooks = (beat.own, *beat.heard.values())
        copies = await self._corrected(outlooks)
        self._log.info(
            "copies_planned", sites=len(outlooks), known=len(cell), copies=len(copies), at_s=at_s
        )
        return tuple(copy for copy in copies if copy.site_id == here)

    async def _corrected(self, outlooks: tuple[Outlook, ...]) -> tuple[PlannedCopy, ...]:
        """Return the plan as far as it was learned; as the rule has it where the actor fails."""
        learned = UNLEARNED if self._actors is None else self._actors.correction()
        try:
            copies = await asyncio.to_thread(self._planned, outlooks, learned)
        except ActorError as exc:
            assert self._actors is not None, "somebody was asked"
            self._actors.failed(ARTIFACT, str(exc))
            learned = UNLEARNED
            copies = await asyncio.to_thread(self._planned, outlooks, learned)
        if learned.is_asked and learned.scale > 0:
            plain = await asyncio.to_thread(self._planned, outlooks, UNLEARNED)
            copies = self._compared(copies, plain)
        if self._keep is not None:
            actor = None if self._actors is None else self._actors.actor(ARTIFACT)
            record = record_of(
                self._outlook.site_id,
                outlooks,
                self._tariff,
                copies,
                actor="" if actor is None else actor.version,
                residual_scale=learned.scale,
            )
            try:
                await asyncio.to_thread(self._keep, record)
            except OSError as exc:  # a plan is not given up for its record
                self._log.warning("plan_not_recorded", error=str(exc))
        return copies

    def _compared(
        self, copies: Sequence[PlannedCopy], plain: Sequence[PlannedCopy]
    ) -> tuple[PlannedCopy, ...]:
        """Return the copies with whether the plan brings them without what was learned, too."""
        alone = {(each.site_id, each.need.artifact_id) for each in plain}
        chosen = {(each.site_id, each.need.artifact_id) for each in copies}
        for each in plain:
            if (each.site_id, each.need.artifact_id) not in chosen:
                self._log.info(
                    "copy_not_learned",
                    site=each.site_id,
                    artifact=each.need.name,
                    artifact_id=each.need.artifact_id,
                    score_usd=each.score_usd,
                )
        return tuple(
            replace(each, is_plain=(each.site_id, each.need.artifact_id) in alone)
            for each in copies
        )

    def _planned(self, outlooks: Sequence[Outlook], learned: Learned) -> tuple[PlannedCopy, ...]:
        return planned_copies(
            outlooks,
            remembered(outlooks),
            self._tariff,
            planner=self._planner,
            learned=learned,
        )

    async def plan_forever(
        self,
        sites: Callable[[], Sequence[KnownSite]],
        begin: Callable[[Sequence[PlannedCopy]], None],
    ) -> None:
        """Plan at every whole hour of world time, and let begin what falls to this site.

        Args:
            sites: Returns who is known.
            begin: Begins copies.
        """
        while True:
            now_s = self._clock.world_s()
            beat_s = (math.floor(now_s / HOUR_S) + 1) * HOUR_S
            await asyncio.sleep((beat_s - now_s) / self._clock.scale.speed)
            # Where world time runs fast, hours pass while the last plan is made.
            at_s = max(beat_s, math.floor(self._clock.world_s() / HOUR_S) * HOUR_S)
            try:
                begin(await self.plan(at_s, sites()))
            except GcosError as exc:
                self._log.error("plan_failed", error=str(exc))  # the next hour tries again


def _size_bytes(outlook: Outlook) -> int:
    return to_proto(outlook, site_pb2.Outlook).ByteSize()
