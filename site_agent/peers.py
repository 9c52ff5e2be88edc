"""Calls of an agent to others: broker, predictor, peers. Records in, records out.

Brokers and predictors are tried in the order of their addresses, beginning with the one that
answered last; an agent goes on without either (I10).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeVar

from gcos import codec
from gcos.contract_net import (
    Announcement,
    ArtifactNeed,
    Award,
    AwardAnswer,
    Bid,
    Hold,
    Refusal,
    Rejection,
    Renewal,
    RenewalAnswer,
    Report,
    ReportAnswer,
)
from gcos.durations import Observation, PoolSpeed, Prediction, WorkFeatures
from gcos.errors import InvalidRequestError, PeerUnreachableError, UnavailableError
from gcos.ids import RunId, SiteId
from gcos.known_sites import Nomination, NominationQuery, Resolution, SiteBook
from gcos.outlook import Outlook
from gcos.rpc.channels import CALL_TIMEOUT_S, Channels
from gcos.rpc.lines import Lines
from gcos.rpc.status import translated
from gcos.rpc.wire import from_proto, to_proto
from gcos.run_time_snapshot import RunTimeSnapshot
from gcos.sites import Site, SiteDigest
from gcos.v1 import (
    broker_pb2,
    broker_pb2_grpc,
    common_pb2,
    predictor_pb2,
    predictor_pb2_grpc,
    site_pb2,
    site_pb2_grpc,
)
from site_agent.handoff import CustodyAnswer, CustodyOffer

Answer = TypeVar("Answer")

#: An outlook as a message.
OUTLOOK_BYTES_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Draft:
    """An announcement and its message, made once for all who are asked."""

    announcement: Announcement
    message: site_pb2.AnnounceRequest

    @classmethod
    def of(cls, announcement: Announcement) -> Self:
        """Return the draft of an announcement."""
        message = to_proto(announcement, site_pb2.Announcement)
        return cls(announcement, site_pb2.AnnounceRequest(announcements=[message]))


@dataclass(frozen=True, slots=True)
class AnnounceAnswer:
    """A bid or a refusal."""

    bid: Bid | None = None
    refusal: Refusal | None = None


class Fallback:
    """Addresses of one service, tried in order from the one that answered last."""

    def __init__(self, addresses: Sequence[str], what: str) -> None:
        self._addresses = tuple(addresses)
        self._what = what
        self._first = 0
        #: Whether one answered when it was last asked; None: nobody has asked.
        self.is_answering: bool | None = None

    async def call(self, ask: Callable[[str], Awaitable[Answer]]) -> Answer:
        """Return the first answer of `ask(address)`.

        Raises:
            PeerUnreachableError: None answered.
        """
        count = len(self._addresses)
        for step in range(count):
            index = (self._first + step) % count
            try:
                answer = await ask(self._addresses[index])
            except UnavailableError:
                continue
            self._first = index
            self.is_answering = True
            return answer
        if count:
            self.is_answering = False
        raise PeerUnreachableError(f"no {self._what} answers")


class Peers:
    """Everyone an agent talks to.

    Args:
        channels: To all of them.
        brokers: Their addresses.
        predictors: Their addresses.
        group: Where lines to other agents are listened to, until `hang_up`; None: who asks here
            neither announces nor awards.
    """

    def __init__(
        self,
        channels: Channels,
        *,
        brokers: Sequence[str],
        predictors: Sequence[str],
        group: asyncio.TaskGroup | None = None,
    ) -> None:
        self._channels = channels
        self._lines = (
            None if group is None else Lines(group, lambda address: self._site(address).Negotiate())
        )
        self._brokers = Fallback(brokers, "broker")
        self._broker_addresses = tuple(brokers)
        self._predictors = Fallback(predictors, "predictor")
        self._predictor_addresses = tuple(predictors)

    def answering(self) -> dict[str, bool | None]:
        """Return whether each service answered when it was last asked; None: nobody has asked."""
        return {
            "broker": self._brokers.is_answering,
            "predictor": self._predictors.is_answering,
        }

    def hang_up(self) -> None:
        """End the lines to other agents, so that this one can end."""
        if self._lines is not None:
            self._lines.close()

    # ---------------------------------------------------------------- broker

    @property
    def broker_addresses(self) -> tuple[str, ...]:
        """All brokers: an agent registers with each."""
        return self._broker_addresses

    async def register(self, address: str, site: Site, digest: SiteDigest) -> float:
        """Register with one broker and return the seconds until the next beat."""
        request = broker_pb2.RegisterRequest(
            site=to_proto(site, common_pb2.Site),
            digest=to_proto(digest, common_pb2.SiteDigest),
        )
        with translated("the broker"):
            answer = await self._broker(address).Register(request, timeout=CALL_TIMEOUT_S)
        return float(answer.beat_s)

    async def sites(self) -> SiteBook:
        """Return the sites that a broker knows."""

        async def ask(address: str) -> SiteBook:
            with translated("the broker"):
                answer = await self._broker(address).Sites(
                    broker_pb2.SitesRequest(), timeout=CALL_TIMEOUT_S
                )
            return from_proto(answer, SiteBook)

        return await self._brokers.call(ask)

    async def nominate(self, query: NominationQuery) -> Nomination:
        """Return the sites worth asking."""

        async def ask(address: str) -> Nomination:
            with translated("the broker"):
                answer = await self._broker(address).Nominate(
                    to_proto(query, broker_pb2.NominateRequest), timeout=CALL_TIMEOUT_S
                )
            return from_proto(answer, Nomination)

        return await self._brokers.call(ask)

    async def resolve(self, references: Sequence[str]) -> tuple[Resolution, ...]:
        """Return what references mean, in order."""

        async def ask(address: str) -> tuple[Resolution, ...]:
            with translated("the broker"):
                answer = await self._broker(address).Resolve(
                    broker_pb2.ResolveRequest(references=references), timeout=CALL_TIMEOUT_S
                )
            return tuple(from_proto(item, Resolution) for item in answer.resolutions)

        return await self._brokers.call(ask)

    def _broker(self, address: str) -> "broker_pb2_grpc.BrokerServiceAsyncStub":
        return broker_pb2_grpc.BrokerServiceStub(self._channels.get(address))

    # ---------------------------------------------------------------- predictor

    async def predict(
        self, features: WorkFeatures, pools: Sequence[PoolSpeed]
    ) -> tuple[Prediction, ...]:
        """Return the run time of one task on each pool type."""
        request = predictor_pb2.PredictRequest(
            works=[to_proto(features, predictor_pb2.WorkFeatures)],
            pools=[to_proto(pool, predictor_pb2.PoolSpeed) for pool in pools],
        )

        async def ask(address: str) -> tuple[Prediction, ...]:
            with translated("the predictor"):
                answer = await self._predictor(address).Predict(request, timeout=CALL_TIMEOUT_S)
            return tuple(from_proto(p, Prediction) for p in answer.works[0].predictions)

        return await self._predictors.call(ask)

    async def snapshot(self, known_version: str) -> RunTimeSnapshot | None:
        """Return what a predictor knows; None if that is `known_version`.

        Raises:
            GcosError: None answered, or with something else.
        """
        request = predictor_pb2.SnapshotRequest(known_version=known_version)

        async def ask(address: str) -> bytes:
            with translated("the predictor"):
                answer = await self._predictor(address).Snapshot(request, timeout=CALL_TIMEOUT_S)
            return bytes(answer.document)

        document = await self._predictors.call(ask)
        return codec.decode(RunTimeSnapshot, document) if document else None

    async def observe(self, observation: Observation) -> None:
        """Tell every predictor how a run ended: whichever is asked next must know it.

        Raises:
            PeerUnreachableError: None answered.
        """
        request = predictor_pb2.ObserveRequest(
            observations=[to_proto(observation, predictor_pb2.Observation)]
        )
        heard_count = 0
        for address in self._predictor_addresses:
            with contextlib.suppress(UnavailableError), translated("the predictor"):
                await self._predictor(address).Observe(request, timeout=CALL_TIMEOUT_S)
                heard_count += 1
        if heard_count == 0:
            raise PeerUnreachableError("no predictor answers")

    def _predictor(self, address: str) -> "predictor_pb2_grpc.PredictorServiceAsyncStub":
        return predictor_pb2_grpc.PredictorServiceStub(self._channels.get(address))

    # ---------------------------------------------------------------- peers

    async def announce(self, address: str, draft: Draft, *, timeout_s: float) -> AnnounceAnswer:
        """Ask one site for a bid."""
        asked = site_pb2.NegotiateRequest(announce=draft.message)
        answer = await self._asked(address, asked, timeout_s)
        if not answer.announce.answers:
            raise PeerUnreachableError(f"{address} gave an empty answer")
        return from_proto(answer.announce.answers[0], AnnounceAnswer)

    async def award(self, address: str, message: site_pb2.NegotiateRequest) -> AwardAnswer:
        """Award a task, as `award_message` puts it."""
        answer = await self._asked(address, message, CALL_TIMEOUT_S)
        return from_proto(answer.award, AwardAnswer)

    async def _asked(
        self, address: str, request: site_pb2.NegotiateRequest, timeout_s: float
    ) -> site_pb2.NegotiateResponse:
        assert self._lines is not None, "whoever negotiates has a group"
        return await self._lines.ask(address, request, timeout_s=timeout_s)

    async def hold(self, address: str, hold: Hold) -> None:
        """Tell a site that a task waits for the start it offered; may be lost."""
        request = site_pb2.HoldRequest(hold=to_proto(hold, site_pb2.Hold))
        with translated(address):
            await self._site(address).Hold(request, timeout=CALL_TIMEOUT_S)

    async def reject(self, address: str, rejections: Sequence[Rejection]) -> None:
        """Tell a loser what tasks went for."""
        request = site_pb2.RejectRequest(
            rejections=[to_proto(rejection, site_pb2.Rejection) for rejection in rejections]
        )
        with translated(address):
            await self._site(address).Reject(request, timeout=CALL_TIMEOUT_S)

    async def renew(self, address: str, renewal: Renewal) -> RenewalAnswer:
        """Renew the leases of an origin's runs."""
        with translated(address):
            answer = await self._site(address).Renew(
                to_proto(renewal, site_pb2.RenewRequest), timeout=CALL_TIMEOUT_S
            )
        return from_proto(answer, RenewalAnswer)

    async def report(self, address: str, report: Report) -> ReportAnswer:
        """Report the end of a run."""
        request = site_pb2.ReportRequest(report=to_proto(report, common_pb2.Report))
        with translated(address):
            answer = await self._site(address).Report(request, timeout=CALL_TIMEOUT_S)
        return from_proto(answer, ReportAnswer)

    async def revoke(self, address: str, origin: SiteId, run_ids: Sequence[RunId]) -> None:
        """Stop runs at once."""
        request = site_pb2.RevokeRequest(origin=origin, run_ids=run_ids)
        with translated(address):
            await self._site(address).Revoke(request, timeout=CALL_TIMEOUT_S)

    async def take_custody(
        self, address: str, offer: CustodyOffer, need: ArtifactNeed
    ) -> CustodyAnswer:
        """Offer custody of an artifact."""
        request = site_pb2.TakeCustodyRequest(
            offer=to_proto(offer, site_pb2.CustodyOffer),
            need=to_proto(need, common_pb2.ArtifactNeed),
        )
        with translated(address):
            answer = await self._site(address).TakeCustody(request, timeout=CALL_TIMEOUT_S)
        return from_proto(answer, CustodyAnswer)

    async def exchange_outlook(self, address: str, own: Outlook) -> Outlook:
        """Tell a site this one's outlook and return its own."""
        request = site_pb2.ExchangeOutlookRequest(outlook=to_proto(own, site_pb2.Outlook))
        with translated(address):
            answer = await self._site(address).ExchangeOutlook(request, timeout=CALL_TIMEOUT_S)
        if answer.outlook.ByteSize() > OUTLOOK_BYTES_MAX:
            raise InvalidRequestError(f"takes at most {OUTLOOK_BYTES_MAX} bytes", field="outlook")
        return from_proto(answer.outlook, Outlook)

    def _site(self, address: str) -> "site_pb2_grpc.SiteServiceAsyncStub":
        return site_pb2_grpc.SiteServiceStub(self._channels.get(address))


def award_message(award: Award) -> site_pb2.NegotiateRequest:
    """Return an award as it is sent."""
    request = site_pb2.AwardRequest(award=to_proto(award, site_pb2.Award))
    return site_pb2.NegotiateRequest(award=request)
