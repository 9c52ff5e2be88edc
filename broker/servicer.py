"""The broker's face on the wire: decode, ask the core, encode."""

from broker.matching import Matchmaker
from broker.registry import SiteJoined
from gcos.clock import Clock
from gcos.known_sites import NominationQuery, SiteBook
from gcos.logs import Log
from gcos.rpc.interception import Context
from gcos.rpc.security import require_loopback
from gcos.rpc.wire import from_proto, to_proto
from gcos.sites import Site, SiteDigest
from gcos.v1 import broker_pb2, broker_pb2_grpc


class BrokerServicer(broker_pb2_grpc.BrokerServiceServicer):
    """`gcos.v1.BrokerService` over a matchmaker."""

    def __init__(self, matchmaker: Matchmaker, *, clock: Clock, log: Log) -> None:
        self._matchmaker = matchmaker
        self._clock = clock
        self._log = log

    def tick(self) -> None:
        """Let leases lapse, and log who came and went."""
        self._matchmaker.tick(self._clock.protocol_s())
        for event in self._matchmaker.take_events():
            if isinstance(event, SiteJoined):
                self._log.info("site_joined", site_id=event.site_id, address=event.address)
            else:
                self._log.warning("site_lapsed", site_id=event.site_id)

    async def Register(
        self, request: broker_pb2.RegisterRequest, _context: Context
    ) -> broker_pb2.RegisterResponse:
        """Register a site, or take its beat."""
        site = from_proto(request.site, Site)
        require_loopback(site.address)
        digest = from_proto(request.digest, SiteDigest)
        beat_s = self._matchmaker.register(site, digest, now_s=self._clock.protocol_s())
        self.tick()
        return broker_pb2.RegisterResponse(beat_s=beat_s)

    async def Sites(
        self, _request: broker_pb2.SitesRequest, _context: Context
    ) -> broker_pb2.SitesResponse:
        """Return the registered sites."""
        now_s = self._clock.protocol_s()
        book = SiteBook(
            sites=self._matchmaker.sites(now_s=now_s),
            is_settled=self._matchmaker.is_settled(now_s=now_s),
        )
        return to_proto(book, broker_pb2.SitesResponse)

    async def Nominate(
        self, request: broker_pb2.NominateRequest, _context: Context
    ) -> broker_pb2.NominateResponse:
        """Return the sites worth asking for bids."""
        query = from_proto(request, NominationQuery)
        nomination = self._matchmaker.nominate(query, now_s=self._clock.protocol_s())
        return to_proto(nomination, broker_pb2.NominateResponse)

    async def Resolve(
        self, request: broker_pb2.ResolveRequest, _context: Context
    ) -> broker_pb2.ResolveResponse:
        """Return what references mean."""
        resolutions = self._matchmaker.resolve(request.references, now_s=self._clock.protocol_s())
        return broker_pb2.ResolveResponse(
            resolutions=[to_proto(each, broker_pb2.Resolution) for each in resolutions]
        )
