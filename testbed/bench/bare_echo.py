"""The least server that could be an agent's: bare grpc.aio, and answers that are ready.

The limit beside which `testbed.bench.agent_calls` puts the real one: the same calls with the same
messages, no token, no log, no limits, nothing decided and nothing written. Run as
`python -m testbed.bench.bare_echo HOST:PORT`; ends on SIGTERM.
"""

import asyncio
import sys

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gcos.rpc.memory import pin_malloc_thresholds
from gcos.v1 import site_pb2, site_pb2_grpc

_ACCEPTED = site_pb2.AwardResponse(is_accepted=True)
_HEARD = site_pb2.RejectResponse()


class _Echo(site_pb2_grpc.SiteServiceServicer):
    async def Award(  # noqa: N802  the name comes from the .proto file
        self, _request: site_pb2.AwardRequest, _context: object
    ) -> site_pb2.AwardResponse:
        return _ACCEPTED

    async def Reject(  # noqa: N802  the name comes from the .proto file
        self, _request: site_pb2.RejectRequest, _context: object
    ) -> site_pb2.RejectResponse:
        return _HEARD


async def serve(address: str) -> None:
    """Serve at `address` for ever."""
    pin_malloc_thresholds()  # as every process of ours does at its start
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    echo = _Echo()  # type: ignore[abstract]  # the calls it lacks are not made
    site_pb2_grpc.add_SiteServiceServicer_to_server(echo, server)
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    await server.start()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
