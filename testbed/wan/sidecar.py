"""The sidecar of a place in a container testbed, beside the place's process.

    python -m testbed.wan.sidecar FILE ADDRESS PROCESS   carry links, until SIGTERM
    python -m testbed.wan.sidecar health PROCESS         exit code 0 where PROCESS serves
    python -m testbed.wan.sidecar order FILE JSON        give the sidecar an order, print its answer
    python -m testbed.wan.sidecar measure FILE SRC DST TARGET FLOW_S     measure a link, print it
    python -m testbed.wan.sidecar carrier       what could carry links here, and after a space why

FILE holds a `WanConfig`, ADDRESS is the place's own on the private network, PROCESS where its
process serves.
"""

import asyncio
import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gcos import codec
from gcos.process import run_until_signalled
from gcos.rpc.security import read_token
from testbed.local_directory import write_whole
from testbed.relay import Lane, Relay, echoing
from testbed.timekeeping import fine_loop, keep_time
from testbed.wan.containers import PROBE_PORT
from testbed.wan.control import ask, asked_reading, measure_to
from testbed.wan.emulator import Emulator
from testbed.wan.kernel_links import GATE_PORT
from testbed.wan.namespaces import best_inside
from testbed.wan.records import Carrier, Order, WanConfig

#: The gate adds nothing: the link was carried by the sidecar that dialled.
_GATE_BYTES_PER_S: Final = 1e12
_HEALTH_S: Final = 5.0


async def carry(path: Path, address: str, process: str, stopping: asyncio.Event) -> None:
    """Carry links, hand in what comes, and answer probes until `stopping` is set."""
    keep_time()
    async with contextlib.AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(Emulator(_decided(path)))
        if emulator.config.carrier is Carrier.RELAY:
            there, back = (Lane(_GATE_BYTES_PER_S, 0.0) for _ in range(2))
            gate = Relay(process, there=there, back=back, address=f"{address}:{GATE_PORT}")
            await stack.enter_async_context(gate)
        await stack.enter_async_context(echoing(address, PROBE_PORT))
        await stopping.wait()


def _decided(path: Path) -> Path:
    """Have the file say what carries links, where that was left to us."""
    config = codec.decode(WanConfig, path.read_bytes())
    if config.carrier is None:
        carrier, reason = best_inside("")
        sys.stderr.write(f"links: {carrier.value}, since {reason}\n")
        write_whole(path, codec.encode(replace(config, carrier=carrier)))
    return path


def is_healthy(process: str) -> bool:
    """Tell whether a process serves."""
    with grpc.insecure_channel(process) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def order(path: Path, document: str) -> bytes:
    """Give the sidecar an order, which needs no token of its caller, and return its answer."""
    config, token = _told(path)
    asked = codec.decode(Order, document.encode())
    return codec.encode(await ask(config.address, replace(asked, token=token)))


async def measured(path: Path, src: str, dst: str, target: str, flow_s: float) -> bytes:
    """Measure a link to the probe of another sidecar and return the reading."""
    keep_time()
    config, token = _told(path)
    asked = asked_reading(config, config.changes, src, dst)
    return codec.encode(await measure_to(target, config, token, asked, flow_s=flow_s))


def _told(path: Path) -> tuple[WanConfig, str]:
    config = codec.decode(WanConfig, path.read_bytes())
    return config, read_token(Path(config.token_file))


def main(arguments: list[str]) -> int:
    """Do what the arguments ask for and return the exit code."""
    match arguments:
        case ["health", process]:
            return 0 if is_healthy(process) else 1
        case ["carrier"]:
            carrier, reason = best_inside("", interface="lo")
            sys.stdout.write(f"{carrier.value} {reason}\n")
            return 0
        case ["order", path, document]:
            sys.stdout.buffer.write(asyncio.run(order(Path(path), document)) + b"\n")
            return 0
        case ["measure", path, src, dst, target, flow_s]:
            found = asyncio.run(measured(Path(path), src, dst, target, float(flow_s)))
            sys.stdout.buffer.write(found + b"\n")
            return 0
        case [path, address, process]:
            return run_until_signalled(
                lambda stopping: carry(Path(path), address, process, stopping),
                process="wan",
                loop_factory=fine_loop,
            )
    sys.stderr.write(__doc__ or "")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
