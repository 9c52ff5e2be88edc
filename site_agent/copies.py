"""Copies ahead of need, live: carries out what `site_agent.migration` decides.

A copy is pulled in the background: it waits while any run here waits for bytes. What it cost is
entered in this site's ledger under the project `COPIES_PROJECT`, since no task caused it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from gcos.accounting import Charge, LatePenalty
from gcos.artifacts import ArtifactKind
from gcos.clock import Clock
from gcos.contract_net import Announcement, ArtifactNeed, Bid, Fetch, Refusal, Rejection, Terms
from gcos.errors import ArtifactNotFoundError, GcosError, InvalidRequestError
from gcos.ids import ArtifactId, RunId, SiteId, TaskId
from gcos.known_sites import KnownSite
from gcos.ledger import LedgerEntry
from gcos.logs import Log
from gcos.signals import HOUR_S, StepSeries
from gcos.system import unique_text
from gcos.tasks import RunState, WorkKind
from site_agent.config import AgentConfig
from site_agent.copy_planning import PlannedCopy
from site_agent.custody import CustodyShell
from site_agent.fetch_part import FetchPart
from site_agent.handoff import CustodyAnswer, CustodyOffer
from site_agent.links import Priority
from site_agent.migration import Migration, Pull
from site_agent.participant import Participant
from site_agent.sourcing import Links, charge_of_fetch, cheapest_fetch
from site_agent.transfer import ArtifactPlane

#: To whom copies ahead of need are accounted.
COPIES_PROJECT: Final = "copies"


@dataclass(frozen=True, slots=True)
class CopyPorts:
    """What pulling copies needs of its agent.

    Attributes:
        holders_of: Returns a need with its holders as of now.
        enter: Puts an entry into the ledger, durably.
        spawn: Begins work of a name, which ends with the agent.
    """

    holders_of: Callable[[ArtifactNeed], Awaitable[ArtifactNeed]]
    enter: Callable[[LedgerEntry], Awaitable[None]]
    spawn: Callable[[str, Callable[[], Awaitable[None]]], object]


class Copies:
    """The migrations of one agent."""

    def __init__(
        self,
        *,
        config: AgentConfig,
        clock: Clock,
        migration: Migration,
        participant: Participant,
        plane: ArtifactPlane,
        custody: CustodyShell,
        links: Links,
        log: Log,
    ) -> None:
        self.custody = custody
        self._config = config
        self._clock = clock
        self._participant = participant
        self._plane = plane
        self._links = links
        self._log = log
        self.migration = migration
        self._terms = Terms(
            carbon_price_usd_per_kg=config.carbon_price_usd_per_kg,
            network_kwh_per_gb=config.network_kwh_per_gb,
            scope=config.cost_scope,
            late_penalty=LatePenalty(0.0, 0.0, 0.0),
        )

    # ---------------------------------------------------------------- what it hears

    def offered(self, announcement: Announcement, answer: Bid | Refusal) -> None:
        """Remember what was offered; a plan's announcement is never settled and so forgotten."""
        self.migration.offered(announcement, answer)

    def won(self, task_id: TaskId) -> None:
        """Forget an offer that was taken."""
        self.migration.won(task_id)

    def rejected(self, rejections: Iterable[Rejection], ports: CopyPorts) -> None:
        """Learn what tasks went for, and pull what that makes worth it."""
        now_s = self._clock.world_s()
        for rejection in rejections:
            self._participant.let_go(rejection.task_id)
            self._begin(self.migration.rejected(rejection, now_s=now_s), ports)

    def hear(self, sites: Collection[KnownSite]) -> None:
        """Learn how often artifacts are used at other sites."""
        total: dict[ArtifactId, float] = {}
        for known in sites:
            if known.site.site_id != self._participant.site.site_id:
                for told in known.digest.demand:
                    total[told.artifact_id] = total.get(told.artifact_id, 0.0) + told.use_count
        self._participant.cache.demand.hear(total)
        self.custody.hear(sites)

    async def custody_offered(
        self, offer: CustodyOffer, need: ArtifactNeed, ports: CopyPorts
    ) -> CustodyAnswer:
        """Take custody of a copy that is here; pull one where the gate admits it, and say so.

        Raises:
            InvalidRequestError: The offer is no offer.
        """
        here = self._participant.site.site_id
        if offer.epoch < 1 or offer.giver == here or offer.artifact_id != need.artifact_id:
            raise InvalidRequestError(
                "takes an epoch from 1 on, another giver, and its artifact", field="offer"
            )
        answer = await self.custody.offered(offer, name=need.name)
        if answer.is_taken or self.custody.has_copy(need.artifact_id):
            return answer
        found = self._cheapest(need, self._clock.world_s())
        pulls: tuple[Pull, ...] = ()
        if found is not None:
            why = f"site {offer.giver} offers its custody"
            now_s = self._clock.world_s()
            pulls = self.migration.asked(
                need, found[0], self._joint_usd(found[1]), why, now_s=now_s
            )
            self._begin(pulls, ports)
        is_coming = bool(pulls) or need.artifact_id in self.migration.pulling
        return replace(answer, message="a copy is on its way" if is_coming else answer.message)

    def planned(self, copies: Iterable[PlannedCopy], ports: CopyPorts) -> None:
        """Bring the copies that the plan gives to this site, as far as the gate admits them."""
        now_s = self._clock.world_s()
        for copy in copies:
            found = self._cheapest(copy.need, now_s)
            if found is not None:
                pulls = self.migration.planned(
                    copy.need,
                    found[0],
                    self._joint_usd(found[1]),
                    copy.why,
                    now_s=now_s,
                    without_learning=copy.without_learning,
                )
                self._begin(pulls, ports)

    async def look_forever(self, ports: CopyPorts) -> None:
        """Let the migrator look around once an hour of world time."""
        while True:
            await asyncio.sleep(HOUR_S / self._clock.scale.speed)
            self._begin(self.migration.beat(now_s=self._clock.world_s()), ports)
            try:
                await self.custody.look()
            except GcosError as exc:
                self._log.error("custody_failed", error=str(exc))  # the next look tries again

    # ---------------------------------------------------------------- what it does

    def _begin(self, pulls: Sequence[Pull], ports: CopyPorts) -> None:
        while self.migration.untold:
            told = self.migration.untold.popleft()
            event = "copy_decided" if told.is_granted else "copy_refused"
            self._log.info(event, artifact=told.name, artifact_id=told.artifact_id, why=told.why)
            self._plane.notes.note(
                event,
                told.artifact_id,
                told.name,
                told.why,
                task_id=told.task_id,
                without_learning=told.without_learning,
            )
        for pull in pulls:
            ports.spawn("Copy", partial(self._pull, pull, ports))

    async def _pull(self, pull: Pull, ports: CopyPorts) -> None:
        known = pull.need.artifact_id
        copy_id = RunId(f"copy-{self._participant.site.site_id}-{unique_text()}")
        try:
            need = await ports.holders_of(pull.need)
            charge, source = await self._fetch(need, copy_id)
        except (GcosError, OSError) as exc:
            self._log.warning(
                "copy_failed", artifact=pull.need.name, artifact_id=known, error=str(exc)
            )
            self._plane.notes.note(
                "copy_failed", known, pull.need.name, str(exc), task_id=pull.task_id
            )
            return
        finally:
            self._plane.unpin(known, copy_id)
            self.migration.ended(known)
        if charge is None:
            return  # a run brought it meanwhile, and pays
        price_usd = self._joint_usd(charge)
        self._participant.cache.price(known, price_usd)
        self._log.info("copy_arrived", artifact=need.name, artifact_id=known, price_usd=price_usd)
        self._plane.notes.note(
            "copy_arrived",
            known,
            need.name,
            pull.why,
            task_id=pull.task_id,
            site_id=source,
            without_learning=pull.without_learning,
        )
        await ports.enter(self._entry(need, copy_id, charge))

    async def _fetch(self, need: ArtifactNeed, copy_id: RunId) -> tuple[Charge | None, SiteId]:
        """Bring it; return what that cost, None where somebody else pays, and who sent the last."""
        carbon = self._participant.signals.carbon
        carbon_here = None if carbon is None else carbon.series
        started_s = self._clock.world_s()
        found = self._cheapest(need, started_s)
        if found is None:
            raise ArtifactNotFoundError(f"no other site is known to hold {need.name}")
        charge_of = partial(self._charge_of, carbon_here=carbon_here, started_s=started_s)
        result = await self._plane.fetch(
            need,
            found[0].source,
            run_id=copy_id,
            on_progress=lambda _bytes: None,
            priority=Priority.BACKGROUND,
        )
        charge = None if result.is_shared else charge_of(result.parts)
        return charge, result.source.site_id

    def _cheapest(self, need: ArtifactNeed, now_s: float) -> tuple[Fetch, Charge] | None:
        site = self._participant.site
        carbon = self._participant.signals.carbon
        return cheapest_fetch(
            need,
            here=site.site_id,
            zone=site.zone,
            links=self._links,
            terms=self._terms,
            carbon_here=None if carbon is None else carbon.series,
            byte_ratio=self._config.world.byte_ratio,
            now_s=now_s,
        )

    def _joint_usd(self, charge: Charge) -> float:
        return charge.joint_usd(self._terms.scope, self._terms.carbon_price_usd_per_kg)

    def _charge_of(
        self, parts: Sequence[FetchPart], *, carbon_here: StepSeries | None, started_s: float
    ) -> Charge:
        zone = self._participant.site.zone
        return Charge.sum(
            charge_of_fetch(
                part.bytes_moved,
                part.source,
                self._links(part.source.zone, zone),
                terms=self._terms,
                carbon_here=carbon_here,
                byte_ratio=self._config.world.byte_ratio,
                start_s=started_s,
                end_s=self._clock.world_s(),
            )
            for part in parts
        )

    def _entry(self, need: ArtifactNeed, copy_id: RunId, charge: Charge) -> LedgerEntry:
        now_s = self._clock.world_s()
        site_id = self._participant.site.site_id
        return LedgerEntry(
            run_id=copy_id,
            task_id=TaskId(copy_id),
            name=f"copy of {need.name}",
            project=COPIES_PROJECT,
            kind=WorkKind.CUSTOM,
            model=need.name if need.kind is ArtifactKind.MODEL else "",
            data=(need.name,) if need.kind is ArtifactKind.DATA else (),
            origin=site_id,
            site_id=site_id,
            pool_type="",
            gpu_count=0,
            state=RunState.SUCCEEDED,
            submitted_s=now_s,
            started_s=None,
            ended_s=now_s,
            deadline_s=None,
            charge=charge,
            at_origin=Charge(),
            scope=self._terms.scope,
            carbon_price_usd_per_kg=self._terms.carbon_price_usd_per_kg,
            is_energy_measured=False,
            is_carbon_known=self._participant.signals.carbon is not None,
            fetched={need.kind.value: need.size_bytes},
        )
