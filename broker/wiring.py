"""The broker's process: configuration, and what is built from it."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.matching import Matchmaker
from broker.registry import BEAT_S
from broker.servicer import BrokerServicer
from gcos.clock import Clock
from gcos.errors import InvalidRequestError
from gcos.logs import Log
from gcos.rpc.metric_families import build_info, gauge
from gcos.rpc.security import read_token
from gcos.rpc.server import serving
from gcos.v1 import broker_pb2_grpc

SERVICE_NAME: Final = "gcos.v1.BrokerService"


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """Configuration of a broker.

    Attributes:
        address: `host:port` to serve at; port 0 takes a free one.
        token_file: File of mode 0600 with the token that callers must show.
        metrics_address: `host:port` on loopback to serve metrics for Prometheus at; port 0 takes a
            free one; empty: none are served.
        log_level: debug, info, warning or error.
    """

    address: str = "127.0.0.1:7700"
    metrics_address: str = ""
    token_file: Path | None = None
    log_level: str = "info"


async def serve(config: BrokerConfig, stopping: asyncio.Event, *, clock: Clock, log: Log) -> None:
    """Serve until `stopping` is set, then drain.

    Raises:
        InvalidRequestError: The token file is missing or wrong, or the address is not on loopback.
        WrongStateError: The address is taken.
    """
    if config.token_file is None:
        raise InvalidRequestError(
            "no token file is given",
            field="token_file",
            hint="give --token-file, GCOS_TOKEN_FILE or token_file in the configuration",
        )
    token = read_token(config.token_file)
    matchmaker = Matchmaker()
    servicer = BrokerServicer(matchmaker, clock=clock, log=log)
    async with serving(
        config.address,
        register=[
            lambda server: broker_pb2_grpc.add_BrokerServiceServicer_to_server(servicer, server)
        ],
        service_names=[SERVICE_NAME],
        token=token,
        log=log,
        metrics_address=config.metrics_address,
        families=lambda: [
            build_info(),
            gauge(
                "gcos_known_sites",
                "Sites whose registration has not lapsed.",
                (),
                [((), len(matchmaker.sites(now_s=clock.protocol_s())))],
            ),
        ],
    ) as running:
        log.info("broker_serving", address=running.address)
        await _tick_until(stopping, servicer)
        log.info("broker_stopping")


async def _tick_until(stopping: asyncio.Event, servicer: BrokerServicer) -> None:
    """Let leases lapse on time even where nobody calls."""
    while not stopping.is_set():
        servicer.tick()
        try:
            async with asyncio.timeout(BEAT_S):
                await stopping.wait()
        except TimeoutError:
            continue
