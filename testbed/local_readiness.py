"""What is asked of the processes of a local cluster: do they serve, what have they yet to do."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gcos.client import Client
from gcos.errors import GcosError, UnavailableError
from gcos.rpc.channels import CALL_TIMEOUT_S, Channels
from gcos.system import SystemClock
from gcos.v1 import broker_pb2, broker_pb2_grpc
from testbed.local_directory import WAN, Tell
from testbed.local_processes import LocalProcess, log_tail

#: Protocol seconds for all processes to serve: they need two each alone, and share the cores.
READY_S: Final = 60.0
#: Protocol seconds for all agents to say what they have yet to do.
_ASK_S: Final = 2 * CALL_TIMEOUT_S
_ASK_PAUSE_S: Final = 0.1
_TAIL_LINES: Final = 12


async def await_ready(
    processes: Sequence[LocalProcess],
    broker: LocalProcess,
    site_ids: Sequence[str],
    token: str,
    tell: Tell,
) -> None:
    """Return once every process serves and the broker lists every site.

    Raises:
        UnavailableError: One ended, or time ran out.
    """
    clock = SystemClock()
    began_s = clock.protocol_s()
    pending = list(processes)
    missing = set(site_ids)
    try:
        async with asyncio.timeout(READY_S), Channels(token) as channels:
            while pending or missing:
                for process in list(pending):
                    _check_alive(process, tell)
                    if await _is_serving(channels, process):
                        pending.remove(process)
                        elapsed_s = clock.protocol_s() - began_s
                        tell(f"{process.name:<12} {process.address:<16} serves ({elapsed_s:.1f} s)")
                if broker not in pending:
                    missing = set(site_ids) - await _registered(channels, broker.address)
                await asyncio.sleep(_ASK_PAUSE_S)
    except TimeoutError as exc:
        if pending:
            raise _failure(pending[0], f"did not serve within {READY_S:.0f} s", tell) from exc
        raise UnavailableError(
            f"the broker has not heard of {', '.join(sorted(missing))} within {READY_S:.0f} s",
            hint=f"see {broker.log} and the logs of the agents",
        ) from exc


def _check_alive(process: LocalProcess, tell: Tell) -> None:
    if not process.is_alive:
        raise _failure(process, "ended before it served", tell)


def _failure(process: LocalProcess, what: str, tell: Tell) -> UnavailableError:
    tell(f"the last lines of {process.log}:")
    for line in log_tail(process, line_count=_TAIL_LINES) or ["(nothing)"]:
        tell(f"    {line}")
    return UnavailableError(f"{process.name} {what}", hint=f"its output is in {process.log}")


async def _is_serving(channels: Channels, process: LocalProcess) -> bool:
    address = process.address
    host, _, port = address.rpartition(":")
    try:
        # Asked first, since a channel that was refused waits before it dials again.
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    if process.name == WAN:
        return True
    stub = health_pb2_grpc.HealthStub(channels.get(address))
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_TIMEOUT_S)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _registered(channels: Channels, address: str) -> set[str]:
    stub: broker_pb2_grpc.BrokerServiceAsyncStub = broker_pb2_grpc.BrokerServiceStub(
        channels.get(address)
    )
    try:
        answer = await stub.Sites(broker_pb2.SitesRequest(), timeout=CALL_TIMEOUT_S)
    except grpc.aio.AioRpcError:
        return set()
    return {known.site.site_id for known in answer.sites}


async def count_unfinished(agents: Sequence[LocalProcess], token_file: Path, tell: Tell) -> int:
    """Return how many tasks have not ended; `tell` gets a line for each agent without an answer."""
    counts: list[int] = []

    async def ask(agent: LocalProcess) -> None:
        try:
            async with (
                asyncio.timeout(_ASK_S),
                Client.connect(agent.address, token_file, environ={}) as client,
            ):
                # Each its own: a task is known at its origin, and counts once.
                tasks = await client.tasks(only_active=True, everywhere=False)
                counts.append(len(tasks.items))
        except (GcosError, TimeoutError):
            tell(f"{agent.name} does not answer: its unfinished tasks, if any, are not counted")

    async with asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(ask(agent))
    return sum(counts)
