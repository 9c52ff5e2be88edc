"""The peers' face of an agent: decode, ask the cores, encode."""

from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc.aio

from gcos.contract_net import (
    Announcement,
    ArtifactNeed,
    Award,
    AwardAnswer,
    Bid,
    Hold,
    Rejection,
    Renewal,
    Report,
)
from gcos.errors import InvalidRequestError
from gcos.ids import RunId
from gcos.outlook import Outlook
from gcos.rpc.lines import Answering
from gcos.rpc.wire import from_proto, to_proto
from gcos.v1 import site_pb2, site_pb2_grpc
from site_agent.handoff import CustodyOffer
from site_agent.peers import OUTLOOK_BYTES_MAX, AnnounceAnswer
from site_agent.runner import Runner
from site_agent.task_servicer import checked_offset, run_files, run_log

Context = grpc.aio.ServicerContext[Any, Any]

ANNOUNCEMENT_COUNT_MAX = 64
ENVELOPE_BYTES = 16
"""What a request adds to the one message in it."""


class SiteServicer(site_pb2_grpc.SiteServiceServicer):
    """Participant towards origins, origin towards holders."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._answering = Answering(self._negotiated)

    def hang_up(self) -> None:
        """End the long calls of others, so that the server can stop."""
        self._answering.hang_up()

    # It writes rather than yields, since answers do not come in the order of requests.
    async def Negotiate(  # type: ignore[override]
        self, requests: AsyncIterator[site_pb2.NegotiateRequest], context: Context
    ) -> None:
        """Answer announcements and awards as they come."""
        del requests  # read from the context
        await self._answering.serve(context)

    def _negotiated(
        self, request: site_pb2.NegotiateRequest
    ) -> site_pb2.NegotiateResponse | Awaitable[site_pb2.NegotiateResponse]:
        if request.HasField("announce"):
            return site_pb2.NegotiateResponse(announce=self._announced(request.announce))
        if request.HasField("award"):
            return self._negotiated_later(*self._taken(request.award))
        raise InvalidRequestError("neither an announcement nor an award", field="announce")

    async def Announce(
        self, request: site_pb2.AnnounceRequest, context: Context
    ) -> site_pb2.AnnounceResponse:
        """Bid or refuse; changes nothing durable."""
        del context
        return self._announced(request)

    def _announced(self, request: site_pb2.AnnounceRequest) -> site_pb2.AnnounceResponse:
        if not 1 <= len(request.announcements) <= ANNOUNCEMENT_COUNT_MAX:
            raise InvalidRequestError(f"takes 1 to {ANNOUNCEMENT_COUNT_MAX}", field="announcements")
        answers = []
        for message in request.announcements:
            answer = self._runner.bid(from_proto(message, Announcement))
            record = (
                AnnounceAnswer(bid=answer)
                if isinstance(answer, Bid)
                else AnnounceAnswer(refusal=answer)
            )
            answers.append(to_proto(record, site_pb2.AnnounceAnswer))
        return site_pb2.AnnounceResponse(answers=answers)

    async def Award(
        self, request: site_pb2.AwardRequest, context: Context
    ) -> site_pb2.AwardResponse:
        """Accept or decline, durably."""
        del context
        answer, is_durable = self._taken(request)
        await is_durable
        return to_proto(answer, site_pb2.AwardResponse)

    def _taken(self, request: site_pb2.AwardRequest) -> tuple[AwardAnswer, Awaitable[None]]:
        """Return the answer to an award, and what to await before it is given."""
        award = from_proto(request.award, Award)
        self._runner.copies.won(award.task_id)
        answer, ready = self._runner.participant.award(award, now=self._runner.now())
        return answer, self._runner.apply(ready)

    @staticmethod
    async def _negotiated_later(
        answer: AwardAnswer, is_durable: Awaitable[None]
    ) -> site_pb2.NegotiateResponse:
        await is_durable
        return site_pb2.NegotiateResponse(award=to_proto(answer, site_pb2.AwardResponse))

    async def Reject(
        self, request: site_pb2.RejectRequest, context: Context
    ) -> site_pb2.RejectResponse:
        """Hear what tasks went for."""
        del context
        for rejection in request.rejections:
            self._runner.log.debug(
                "bid_rejected",
                task_id=rejection.task_id,
                winner=rejection.winner,
                winning_offer_usd=rejection.winning_offer_usd,
                offer_usd=rejection.offer_usd,
            )
        self._runner.rejected([from_proto(each, Rejection) for each in request.rejections])
        return site_pb2.RejectResponse()

    async def Hold(self, request: site_pb2.HoldRequest, context: Context) -> site_pb2.HoldResponse:
        """Keep a soft reservation."""
        del context
        self._runner.participant.hold(from_proto(request.hold, Hold), now=self._runner.now())
        return site_pb2.HoldResponse()

    async def Renew(
        self, request: site_pb2.RenewRequest, context: Context
    ) -> site_pb2.RenewResponse:
        """Renew leases and learn how far runs are."""
        del context
        answer = await self._runner.renew(from_proto(request, Renewal))
        return to_proto(answer, site_pb2.RenewResponse)

    async def Report(
        self, request: site_pb2.ReportRequest, context: Context
    ) -> site_pb2.ReportResponse:
        """Take the end of a run, durably."""
        del context
        report = from_proto(request.report, Report)
        answer, ready = self._runner.origin.report(report, now=self._runner.now())
        await self._runner.apply(ready)
        return to_proto(answer, site_pb2.ReportResponse)

    async def Revoke(
        self, request: site_pb2.RevokeRequest, context: Context
    ) -> site_pb2.RevokeResponse:
        """Stop runs of cancelled tasks."""
        del context
        runs = self._runner.participant.runs
        run_ids = [RunId(run_id) for run_id in request.run_ids]
        for run_id in run_ids:
            if run_id in runs and runs[run_id].award.origin != request.origin:
                raise InvalidRequestError(
                    f"run {run_id} belongs to another origin", field="run_ids"
                )
        await self._runner.revoke(run_ids)
        return site_pb2.RevokeResponse()

    async def TakeCustody(
        self, request: site_pb2.TakeCustodyRequest, context: Context
    ) -> site_pb2.TakeCustodyResponse:
        """Take custody of an artifact, durably, or say why not."""
        del context
        answer = await self._runner.copies.custody_offered(
            from_proto(request.offer, CustodyOffer),
            from_proto(request.need, ArtifactNeed),
            self._runner.copy_ports,
        )
        return to_proto(answer, site_pb2.TakeCustodyResponse)

    async def ExchangeOutlook(
        self, request: site_pb2.ExchangeOutlookRequest, context: Context
    ) -> site_pb2.ExchangeOutlookResponse:
        """Hear what a peer expects, and tell what this site does; changes nothing durable."""
        del context
        size_bytes = request.ByteSize()
        if size_bytes > OUTLOOK_BYTES_MAX + ENVELOPE_BYTES:
            raise InvalidRequestError(
                f"takes at most {OUTLOOK_BYTES_MAX} bytes, not {size_bytes}", field="outlook"
            )
        theirs = from_proto(request.outlook, Outlook)
        own = self._runner.planning.exchanged(theirs, self._runner.sites())
        return site_pb2.ExchangeOutlookResponse(outlook=to_proto(own, site_pb2.Outlook))

    async def ReadRunLog(
        self, request: site_pb2.ReadRunLogRequest, context: Context
    ) -> AsyncIterator[site_pb2.ReadRunLogResponse]:
        """Read the output of a run at this site."""
        del context
        reading = run_log(
            self._runner,
            RunId(request.run_id),
            offset=checked_offset(request.offset_bytes),
            follow=request.follow,
        )
        async for offset, data in reading:
            yield site_pb2.ReadRunLogResponse(data=data, offset_bytes=offset)

    async def ReadRunFiles(
        self, request: site_pb2.ReadRunFilesRequest, context: Context
    ) -> AsyncIterator[site_pb2.ReadRunFilesResponse]:
        """Read the files that a run at this site left behind."""
        async for path, size_bytes, data in run_files(self._runner, RunId(request.run_id)):
            yield site_pb2.ReadRunFilesResponse(path=path, size_bytes=size_bytes, data=data)
