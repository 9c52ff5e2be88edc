"""Custody, live: carries out what `site_agent.handoff` and `site_agent.custody_choice` decide."""

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final, Protocol

from gcos import codec
from gcos.artifacts import Artifact
from gcos.contract_net import ArtifactNeed, Holder
from gcos.errors import ArtifactNotFoundError, GcosError
from gcos.ids import ArtifactId, SiteId
from gcos.known_sites import KnownSite
from gcos.logs import Log
from gcos.store import Put, Store
from site_agent.custody_choice import givings
from site_agent.handoff import Custody, CustodyAnswer, CustodyOffer, Handoffs, Step
from site_agent.transfer import ArtifactPlane

#: Table of the journal: artifact id, `Custody`.
CUSTODY: Final = "custody"


class CustodyPeers(Protocol):
    """Who carries offers to other sites."""

    async def take_custody(
        self, address: str, offer: CustodyOffer, need: ArtifactNeed
    ) -> CustodyAnswer:
        """Return what the site at `address` answers."""


class CustodyShell:
    """The custody of one agent's artifacts.

    Args:
        here: This site as a holder: who pulls a copy before it takes custody pulls it from here.
        journal: Where handoffs are kept.
        plane: Copies and their records.
        peers: Who carries offers.
        log: Every decision goes here, with its why.
    """

    def __init__(
        self, *, here: Holder, journal: Store, plane: ArtifactPlane, peers: CustodyPeers, log: Log
    ) -> None:
        self._here = here
        self._journal = journal
        self._plane = plane
        self._peers = peers
        self._log = log
        self._handoffs = Handoffs(here.site_id)
        self._sites: dict[SiteId, KnownSite] = {}
        self._stepping = asyncio.Lock()

    def hear(self, sites: Iterable[KnownSite]) -> None:
        """Learn who is there and what they hold."""
        self._sites = {known.site.site_id: known for known in sites}

    async def restore(self) -> None:
        """Take over what the journal knows; open offers go out again with the next look."""
        rows = await self._journal.load(CUSTODY)
        step = self._handoffs.restore(codec.decode(Custody, row) for row in rows.values())
        async with self._stepping:
            await self._carry_out(step)

    async def offered(self, offer: CustodyOffer, *, name: str) -> CustodyAnswer:
        """Answer an offer, once what follows from it is durable.

        Args:
            offer: What another site offers.
            name: What it is called, for the log.
        """
        async with self._stepping:
            artifact_id = offer.artifact_id
            answer, step = self._handoffs.offered(offer, has_copy=self.has_copy(artifact_id))
            for each in step.protect:  # in the books at once, so that nothing evicts it meanwhile
                self._plane.cache.set_custodian(each, self._here.site_id, is_custodian=True)
            await self._carry_out(step)
        if step.protect:
            self._log.info(
                "custody_taken", artifact=name, artifact_id=artifact_id, giver=offer.giver
            )
            self._plane.notes.note(
                "custody_taken", artifact_id, name, "offered to this site", site_id=offer.giver
            )
        return answer

    def has_copy(self, artifact_id: ArtifactId) -> bool:
        """Tell whether a complete copy of our own lies here, which can be protected."""
        entries = self._plane.cache.entries()
        return any(each.artifact.artifact_id == artifact_id for each in entries)

    async def look(self) -> None:
        """Offer what is too much, and repeat what nobody has answered."""
        offered = frozenset(
            each.artifact_id for each in self._handoffs.custodies.values() if each.offered_to
        )
        cache, here = self._plane.cache, self._here.site_id
        for giving in givings(cache, self._sites.values(), here=here, offered=offered):
            artifact = giving.artifact
            self._log.info(
                "custody_offered",
                artifact=artifact.name,
                artifact_id=artifact.artifact_id,
                taker=giving.taker.site.site_id,
                decision="hand over" if giving.has_copy else "move",
                why=giving.why,
            )
            self._plane.notes.note(
                "custody_offered",
                artifact.artifact_id,
                artifact.name,
                giving.why,
                site_id=giving.taker.site.site_id,
            )
            async with self._stepping:
                step = self._handoffs.offer(artifact.artifact_id, giving.taker.site.site_id)
                await self._carry_out(step)
        await self._send(self._handoffs.due())

    async def _send(self, offers: Sequence[tuple[SiteId, CustodyOffer]]) -> None:
        async with asyncio.TaskGroup() as group:
            for to, offer in offers:
                known = self._sites.get(to)
                artifact = self._plane.cache.find(offer.artifact_id)
                if known is not None and artifact is not None:
                    group.create_task(self._ask(known, offer, artifact))

    async def _ask(self, known: KnownSite, offer: CustodyOffer, artifact: Artifact) -> None:
        tell = partial(
            self._log.info,
            artifact=artifact.name,
            artifact_id=artifact.artifact_id,
            taker=known.site.site_id,
        )
        need = ArtifactNeed(
            artifact.artifact_id, artifact.kind, artifact.name, artifact.size_bytes, (self._here,)
        )
        try:
            answer = await self._peers.take_custody(known.site.address, offer, need)
            async with self._stepping:
                await self._carry_out(self._handoffs.answered(answer))
        except GcosError as exc:
            tell("custody_unanswered", error=str(exc))  # it goes out again
            return
        kind = "custody_moved" if answer.is_taken else "custody_refused"
        tell(kind, why=answer.message)
        self._plane.notes.note(
            kind, artifact.artifact_id, artifact.name, answer.message, site_id=known.site.site_id
        )

    async def _carry_out(self, step: Step) -> None:
        await self._write(step.writes)
        changes = [(each, self._here.site_id) for each in step.protect] + list(step.let_go)
        for artifact_id, custodian in changes:
            try:
                await self._plane.set_custodian(artifact_id, custodian)
            except ArtifactNotFoundError:
                # Its copy was never protected on disk and has gone with a restart: the offer was
                # not answered, and will be refused.
                self._log.warning("custody_without_copy", artifact_id=artifact_id)
                continue
            await self._write(self._handoffs.done(artifact_id).writes)

    async def _write(self, writes: Sequence[Custody]) -> None:
        if writes:
            rows = [Put(CUSTODY, each.artifact_id, codec.encode(each)) for each in writes]
            await self._journal.commit(rows)
