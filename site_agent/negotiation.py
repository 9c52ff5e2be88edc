"""Holding an auction: predict, nominate, announce, gather. The origin's core judges what came.

Nothing here is durable, so a plan is an auction whose result is thrown away (I8). Broker and
predictor may be away (I10): then the sites last heard of are asked, and the prior predicts.
"""

import asyncio
import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from gcos.artifacts import ArtifactKind, parse_reference
from gcos.contract_net import (
    Announcement,
    ArtifactNeed,
    Bid,
    ClusterSignals,
    Holder,
    Refusal,
    Terms,
)
from gcos.durations import Prediction, WorkFeatures
from gcos.errors import ArtifactNotFoundError, GcosError, InvalidRequestError, UnavailableError
from gcos.exception_groups import sole_error
from gcos.ids import ArtifactId, Fence, RunId, SiteId, TaskId
from gcos.known_sites import KnownSite, Nomination, NominationQuery, Nominee, Resolution
from gcos.tasks import Reason, TaskSpec
from gcos.v1.site_pb2 import NegotiateRequest
from site_agent.auction import Auction
from site_agent.config import AgentConfig
from site_agent.effects import Now
from site_agent.feasibility import standing_refusal
from site_agent.origin import Origin
from site_agent.participant import Participant
from site_agent.peers import Draft, Peers

NOMINEE_COUNT = 8

_AnswerT = TypeVar("_AnswerT", Bid, Refusal)


class Host(Protocol):
    """What a negotiation needs of its agent."""

    config: AgentConfig
    origin: Origin
    participant: Participant
    peers: Peers
    #: Every site that is alive is known.
    is_known_fresh: bool
    #: Sites in the last answer of a broker; the others that are known have been silent since.
    listed: frozenset[SiteId]
    #: What the sites that are known expect of their signals.
    cluster: ClusterSignals | None

    def now(self) -> Now:
        """Return this instant on both time axes."""

    def sites(self) -> list[KnownSite]:
        """Return every site that is known, this one as it is now."""

    def bid(self, announcement: Announcement) -> Bid | Refusal:
        """Answer an announcement at this site."""

    async def predict(self, features: WorkFeatures) -> tuple[Prediction, ...]:
        """Return the run time on every pool type that is known."""

    async def refresh_sites(self) -> None:
        """Ask a broker who is there."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What an announcement stands on: it does not change with the task's deadline or limits.

    Attributes:
        spec: What it was prepared for.
        predictions: Run time by pool type.
        terms: By what offers are compared.
        nomination: Who is asked, and who cannot run the task.
        draft: The announcement of `spec`.
    """

    spec: TaskSpec
    predictions: tuple[Prediction, ...]
    terms: Terms
    nomination: Nomination
    draft: Draft

    def among(self, auction: Auction) -> "Ground":
        """Return the ground for asking only the sites that made an offer."""
        offering = {bid.site_id for bid in auction.bids}
        asked = tuple(n for n in self.nomination.nominees if n.site_id in offering)
        return replace(self, nomination=replace(self.nomination, nominees=asked))


@dataclass(slots=True)
class _Answers:
    """What an announcement has brought, by site.

    Attributes:
        bids: Offers.
        refusals: Of sites that do not offer.
        silent: A refusal for each site that did not answer.
    """

    bids: dict[SiteId, Bid]
    refusals: dict[SiteId, Refusal]
    silent: dict[SiteId, Refusal]


@dataclass(slots=True)
class Steps:
    """How far a negotiation is, protocol instants.

    Attributes:
        began_s: The predictor is asked.
        awards: Each award that may come of it, as a message, by attempt and type of pool, once the
            announcements are out.
        announced_s: Predictor and broker have answered; the announcements go out.
        closed_s: The bids are in.
    """

    began_s: float
    awards: Mapping[tuple[RunId, str], NegotiateRequest]
    announced_s: float = 0.0
    closed_s: float = 0.0

    def durations_s(self, *, sent_s: float, answered_s: float) -> dict[str, float]:
        """Return how long each step took, given when the award went out and was accepted."""
        return {
            "prepare_s": round(self.announced_s - self.began_s, 6),
            "announce_s": round(self.closed_s - self.announced_s, 6),
            "judge_s": round(sent_s - self.closed_s, 6),
            "award_s": round(answered_s - sent_s, 6),
        }


class Negotiation:
    """Holds auctions for one agent."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def prepare(
        self, task_id: TaskId, spec: TaskSpec, needs: tuple[ArtifactNeed, ...], fence: Fence
    ) -> Ground:
        """Return who is to be asked, and how long the run will take.

        Raises:
            GcosError: A broker refuses to answer.
        """
        host = self._host
        predictions = await host.predict(host.origin.features(spec, needs))
        terms = host.origin.terms_of(spec, predictions)
        try:
            async with asyncio.TaskGroup() as group:
                asked = group.create_task(self._nominate(spec, needs, predictions, terms))
                for _ in range(2):  # the call goes out; what follows has until the answer comes
                    await asyncio.sleep(0)
                draft = self._draft(task_id, spec, fence, needs, predictions, terms)
        except ExceptionGroup as exc:
            raise sole_error(exc) from None
        nomination = asked.result()
        if nomination.needs != needs:  # other sites hold them now
            draft = self._draft(task_id, spec, fence, nomination.needs, predictions, terms)
        return Ground(spec, predictions, terms, nomination, draft)

    async def announce(
        self,
        task_id: TaskId,
        spec: TaskSpec,
        ground: Ground,
        fence: Fence,
        *,
        meanwhile: Callable[[], None] | None = None,
    ) -> Auction:
        """Return what announcing the task on known ground brought. Changes nothing durable.

        `meanwhile` is called once the announcements are out.
        """
        nomination, draft = ground.nomination, ground.draft
        if spec is not ground.spec:  # a plan with another deadline or other limits
            draft = self._draft(
                task_id, spec, fence, nomination.needs, ground.predictions, ground.terms
            )
        came = _Answers({}, {}, {})
        async with asyncio.TaskGroup() as group:
            for nominee in nomination.nominees:
                group.create_task(self._ask(nominee, draft, came))
            await asyncio.sleep(0)  # they go out; what follows has until the bids come
            sites = self._host.sites()
            known = {each.site.site_id: each for each in sites}
            zones = {each.site.site_id: each.site.zone for each in sites}
            excluded = [
                # A broker does not know the task, and so not what would let a site in.
                (standing_refusal(spec, known[each.site_id]) or each)
                if each.reason is Reason.PLACEMENT_EXCLUDES and each.site_id in known
                else each
                for each in nomination.refusals
            ]
            if meanwhile is not None:
                meanwhile()
        heard = {*came.bids, *came.refusals, *(each.site_id for each in nomination.refusals)}
        told = heard | came.silent.keys()
        return Auction(
            predictions=ground.predictions,
            needs=nomination.needs,
            bids=_sorted(came.bids),
            refusals=(
                *excluded,
                *_sorted(came.refusals),
                *_sorted(came.silent),
                *self._absent(sites, told),
            ),
            # Without a broker that knows who is alive, a site that is missing means nothing.
            is_complete=nomination.is_settled and known.keys() <= heard,
            zones=zones,
        )

    def _draft(
        self,
        task_id: TaskId,
        spec: TaskSpec,
        fence: Fence,
        needs: tuple[ArtifactNeed, ...],
        predictions: tuple[Prediction, ...],
        terms: Terms,
    ) -> Draft:
        """Return what sites are told of a task, with the cluster as it is seen now."""
        host = self._host
        announcement = host.origin.announcement(
            task_id,
            spec,
            fence=fence,
            needs=needs,
            predictions=predictions,
            cluster=host.cluster,
            terms=terms,
        )
        return Draft.of(announcement)

    def _absent(self, sites: Sequence[KnownSite], told: Collection[SiteId]) -> list[Refusal]:
        """Return a refusal for each site that is known, not told of, and silent for a while."""
        host = self._host
        return [
            Refusal(
                known.site.site_id,
                Reason.NO_SITE_REACHABLE,
                f"does not answer; last heard {known.age_s:.0f} s ago",
            )
            for known in sites
            if known.site.site_id not in told
            and known.site.site_id not in host.listed
            and known.site.site_id != host.participant.site.site_id
        ]

    def unasked(self, spec: TaskSpec, auction: Auction) -> Auction:
        """Return the auction with a refusal for each known site that it leaves out.

        For people, who look for every site; in a journal they would outgrow the offers.
        """
        told = {bid.site_id for bid in auction.bids}
        told |= {refusal.site_id for refusal in auction.refusals}
        left_out = []
        for known in self._host.sites():
            site_id = known.site.site_id
            if site_id not in told:
                unasked = Refusal(
                    site_id,
                    Reason.NO_BID,
                    f"was not asked: {NOMINEE_COUNT} sites looked better",
                    hint="name it under placement.allow to have it asked",
                )
                left_out.append(standing_refusal(spec, known) or unasked)
        return replace(auction, refusals=(*auction.refusals, *left_out))

    async def _nominate(
        self,
        spec: TaskSpec,
        needs: tuple[ArtifactNeed, ...],
        predictions: Sequence[Prediction],
        terms: Terms,
    ) -> Nomination:
        query = NominationQuery(
            gpu=spec.gpu,
            artifact_ids=tuple(need.artifact_id for need in needs),
            run_s=min((p.run_time.p50_s for p in predictions), default=0.0),
            carbon_price_usd_per_kg=terms.carbon_price_usd_per_kg,
            scope=terms.scope,
            allow=spec.placement.allow,
            deny=spec.placement.deny,
            limit_count=NOMINEE_COUNT,
        )
        try:
            nomination = await self._host.peers.nominate(query)
        except UnavailableError:
            return self._last_nomination(spec, needs)
        found = {need.artifact_id: need for need in nomination.needs}
        kept = tuple(self._with_own_copy(found.get(n.artifact_id, n), n) for n in needs)
        return replace(nomination, needs=kept)

    def _last_nomination(self, spec: TaskSpec, needs: tuple[ArtifactNeed, ...]) -> Nomination:
        """Nominate from what was last heard: the broker is away."""
        nominees: list[Nominee] = []
        refusals: list[Refusal] = []
        for known in self._host.sites():
            site = known.site
            if spec.placement.admits(site.site_id, site.zone):
                nominees.append(Nominee(site.site_id, site.address, site.zone))
            else:
                refusals.append(
                    Refusal(site.site_id, Reason.PLACEMENT_EXCLUDES, "excluded by the placement")
                )
        nominees.sort(key=lambda nominee: nominee.site_id != self._host.participant.site.site_id)
        return Nomination(tuple(nominees[:NOMINEE_COUNT]), tuple(refusals), needs, is_settled=False)

    async def _ask(self, nominee: Nominee, draft: Draft, came: _Answers) -> None:
        """Ask one site, and keep what comes within the bid window."""
        host, site_id = self._host, nominee.site_id
        try:
            if site_id == host.participant.site.site_id:
                answer: Bid | Refusal | None = host.bid(draft.announcement)
            else:
                reply = await host.peers.announce(
                    nominee.address, draft, timeout_s=host.config.bid_window_s
                )
                answer = reply.bid or reply.refusal
        except GcosError as exc:
            came.silent[site_id] = _silence(site_id, exc.message)
            return
        if answer is None:
            came.silent[site_id] = _silence(site_id, "an empty answer")
        elif isinstance(answer, Bid):
            came.bids[site_id] = answer
        else:
            came.refusals[site_id] = answer

    # ---------------------------------------------------------------- artifacts

    async def resolve(self, fields: Sequence[tuple[str, str]]) -> tuple[ArtifactNeed, ...]:
        """Return the artifacts that `(field, reference)` pairs mean.

        Raises:
            ArtifactNotFoundError: No site holds one.
            InvalidRequestError: A name stands for more than one content.
        """
        if not fields:
            return ()
        references = [reference for _, reference in fields]
        try:
            resolutions = await self._host.peers.resolve(references)
        except UnavailableError:
            resolutions = tuple(self._resolve_here(reference) for reference in references)
        needs: dict[ArtifactId, ArtifactNeed] = {}
        fields_by_id: dict[ArtifactId, str] = {}
        for (field, reference), resolution in zip(fields, resolutions, strict=True):
            resolved = resolution
            if resolved.need is None and not resolved.ambiguous_ids:
                # A copy that was added since the last beat is not in the directory yet.
                resolved = self._resolve_here(resolution.reference, nearest=resolution.nearest)
            if resolved.need is None and not self._host.is_known_fresh:
                await self._host.refresh_sites()
            need = _checked(field, resolved, is_fresh=self._host.is_known_fresh)
            if need.artifact_id not in needs:
                # Where sites know the content by several names, it goes by the one asked for.
                asked = replace(need, name=parse_reference(reference, field=field).name)
                needs[need.artifact_id] = self._with_own_copy(need, asked)
                fields_by_id[need.artifact_id] = field
            elif field == "workdir":
                raise InvalidRequestError(
                    f"holds the same files as {fields_by_id[need.artifact_id]}",
                    field=field,
                    hint="remove one of the two; a run finds data sets under GCOS_DATA_DIR",
                )
        return tuple(needs.values())

    async def holders_of(self, need: ArtifactNeed) -> ArtifactNeed:
        """Return the need with its holders as of now; as it was where the broker is away."""
        try:
            resolutions = await self._host.peers.resolve([f"{need.name}@{need.artifact_id}"])
        except UnavailableError:
            return need
        return resolutions[0].need or need

    def _resolve_here(self, reference: str, *, nearest: tuple[str, ...] = ()) -> Resolution:
        """Resolve by what this agent holds or last heard of."""
        wanted = parse_reference(reference, field="reference")
        found: dict[str, list[tuple[KnownSite, ArtifactNeed]]] = {}
        names: set[str] = set()
        for known in self._host.sites():
            for artifact in known.digest.holdings:
                names.add(artifact.name)
                if artifact.name != wanted.name:
                    continue
                if wanted.artifact_id not in (None, artifact.artifact_id):
                    continue
                need = ArtifactNeed(
                    artifact_id=artifact.artifact_id,
                    kind=artifact.kind,
                    name=artifact.name,
                    size_bytes=artifact.size_bytes,
                )
                found.setdefault(artifact.artifact_id, []).append((known, need))
        if len(found) > 1:
            ids = tuple(need.artifact_id for holders in found.values() for _, need in holders[:1])
            return Resolution(reference, None, ambiguous_ids=ids)
        for holders in found.values():
            need = holders[0][1]
            return Resolution(
                reference,
                ArtifactNeed(
                    artifact_id=need.artifact_id,
                    kind=need.kind,
                    name=need.name,
                    size_bytes=need.size_bytes,
                    holders=tuple(_holder(known) for known, _ in holders),
                ),
            )
        near = nearest or tuple(difflib.get_close_matches(wanted.name, sorted(names), 3))
        return Resolution(reference, None, nearest=near)

    def _with_own_copy(self, need: ArtifactNeed, asked: ArtifactNeed) -> ArtifactNeed:
        """Return the need with this site among its holders where it has a copy."""
        own = self._host.participant
        has_copy = own.cache.has(need.artifact_id)
        is_listed = any(holder.site_id == own.site.site_id for holder in need.holders)
        holders = need.holders or asked.holders
        if has_copy and not is_listed:
            known = next(s for s in self._host.sites() if s.site.site_id == own.site.site_id)
            holders = (*holders, _holder(known))
        return ArtifactNeed(
            artifact_id=need.artifact_id,
            kind=need.kind,
            name=asked.name,
            size_bytes=need.size_bytes,
            holders=holders,
        )


def _silence(site_id: SiteId, why: str) -> Refusal:
    return Refusal(site_id, Reason.NO_SITE_REACHABLE, f"did not bid: {why}")


def _sorted(by_site: Mapping[SiteId, _AnswerT]) -> tuple[_AnswerT, ...]:
    """Return answers in the order of their sites, so that decisions replay alike."""
    return tuple(by_site[site_id] for site_id in sorted(by_site))


def _holder(known: KnownSite) -> Holder:
    return Holder(
        site_id=known.site.site_id,
        zone=known.site.zone,
        address=known.site.address,
        carbon_gco2_per_kwh=known.digest.carbon_gco2_per_kwh,
    )


def _checked(field: str, resolution: Resolution, *, is_fresh: bool) -> ArtifactNeed:
    """Return what the reference means.

    Args:
        field: Where it stands in the document.
        resolution: What it was resolved to.
        is_fresh: Every site that is alive is known.

    Raises:
        ArtifactNotFoundError: Nobody holds it.
        UnavailableError: Nobody who is known holds it, but not everybody may be known yet.
        InvalidRequestError: It is ambiguous or names the wrong kind of artifact.
    """
    if resolution.ambiguous_ids:
        pinned = [f"{resolution.reference}@{known}" for known in resolution.ambiguous_ids]
        raise InvalidRequestError(
            f"{resolution.reference!r} stands for {len(pinned)} contents",
            field=field,
            hint=f"pin one, such as {pinned[0]}; see: gcos cache ls",
        )
    if resolution.need is None and not is_fresh:
        raise UnavailableError(
            f"no site is known to hold {resolution.reference!r}, but not every site may be known"
            " yet",
            field=field,
            hint="try again in a few seconds",
        )
    if resolution.need is None:
        steps = [f"did you mean {' or '.join(resolution.nearest)}?"] if resolution.nearest else []
        if field == "workdir":
            steps.append(f"for a directory of your machine write ./{resolution.reference}")
        elif not steps:
            steps.append("see what is there: gcos cache ls; add it with: gcos cache add")
        raise ArtifactNotFoundError(
            f"no site holds {resolution.reference!r}", field=field, hint=" ".join(steps)
        )
    is_model = resolution.need.kind is ArtifactKind.MODEL
    if is_model is not (field == "model"):
        kind, wanted = ("model", "data set") if is_model else ("data set", "model")
        place = "model" if is_model else "data"
        raise InvalidRequestError(
            f"wanted a {wanted}, but {resolution.reference!r} is a {kind}",
            field=field,
            hint=f"name it under {place}: {resolution.reference}",
        )
    return resolution.need
